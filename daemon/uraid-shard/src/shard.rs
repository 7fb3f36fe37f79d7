//! A shard: one array and its clients on one thread, and the handle by which the rest of the daemon talks
//! to it.
//!
//! The handle may be used from any thread and never blocks: an answer comes by a callback that is run on
//! the shard's thread and must not block either (sending on a channel is what it is for).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use md_format::Superblock;
use nbd_rs::Session;
use nix::sys::eventfd::{EfdFlags, EventFd};
use thiserror::Error;
use uraid_blockio::{Arena, ArenaOptions, AttachError, BufPool, Member, MemberSet};
use uraid_core::{AddRefused, Array, ArrayConfig, FailRefused, Geometry, MemberId, Role, ScrubRefused};

use crate::clock::MonotonicClock;
use crate::config::{POOL_BYTES_MIN, ShardConfig, SpawnError};
use crate::handover::{ConnectionKind, HandOverOrder, HandedOver};
use crate::memory::{Memory, MemoryConfig};
use crate::offload::EngineChange;
use crate::runner::Runner;
use crate::service::{Inbox, Service};
use crate::share::reserve_bytes;
use crate::status::ShardStatus;
use crate::terms::Terms;

/// A client's socket after the handshake, the kernel's, or one that a process before this one let go of.
#[derive(Debug)]
pub struct NewConnection {
    /// The socket, unix or TCP. Everything that the handshake has to say was sent.
    pub socket: OwnedFd,
    /// What was agreed: [`Session::new`].
    pub session: Session,
    /// What was received beyond the end of the handshake, or beyond the last request that was done.
    pub leftover: Vec<u8>,
    /// Whom to name in the log.
    pub peer: String,
    /// Who is at the other end.
    pub kind: ConnectionKind,
    /// Answers that are to be sent before all others.
    pub unsent: Vec<u8>,
    /// What holds for it.
    pub terms: Terms,
}

/// How an operator names a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemberName {
    /// By its index in the status.
    Id(MemberId),
    /// By the role that it plays.
    Role(Role),
    /// By the path at which it was opened.
    Path(PathBuf),
}

/// Why a member is not failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FailError {
    /// The array has no such member.
    #[error("the array has no such member")]
    Unknown,
    /// The array refuses.
    #[error(transparent)]
    Refused(#[from] FailRefused),
}

/// Why a member is not added.
#[derive(Debug, Error)]
pub enum AddError {
    /// It could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The array refuses.
    #[error(transparent)]
    Refused(#[from] AddRefused),
    /// There were 65,536 members already.
    #[error("this volume has had too many members since it was started; restart it to add more")]
    TooMany,
    /// The array is stopping.
    #[error("the volume is being stopped")]
    Stopping,
}

/// How a shard ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShardExit {
    /// It was stopped; `clean` says whether the array is marked clean on all its members.
    Stopped {
        /// Marked clean.
        clean: bool,
    },
    /// It did not come to an end in the time that it was given. The array is not marked clean.
    TimedOut,
    /// The core broke its word, so nothing more was written. The array is not marked clean.
    Fatal(String),
    /// The thread panicked: a defect of this program. The array is not marked clean.
    Panicked,
}

/// The shard has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the volume is not running any more")]
pub struct ShardGone;

/// Whom to tell.
pub(crate) type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// What a shard can be told.
pub(crate) enum Command {
    Connect(NewConnection),
    Status(Reply<ShardStatus>),
    Fail(MemberName, Reply<Result<MemberId, FailError>>),
    /// Whether it repairs.
    Scrub(bool, Reply<Result<(), ScrubRefused>>),
    Add(Member, [u8; 16], Option<Box<Superblock>>, Reply<Result<MemberId, AddError>>),
    Engine(EngineChange),
    HandOver(HandOverOrder),
    Stop(Duration),
}

/// A handle on a running shard; clones are handles on the same one. Dropping all of them stops it as
/// [`stop`](Self::stop) does.
#[derive(Clone)]
pub struct ShardHandle {
    commands: Sender<Command>,
    bell: Arc<Bell>,
    geometry: Arc<Geometry>,
}

/// Wakes the shard.
struct Bell(Arc<EventFd>);

/// Rung once more when the last handle is gone, so that the shard sees it. The channel has to be closed
/// before, hence the order of the fields of [`ShardHandle`].
impl Drop for Bell {
    fn drop(&mut self) {
        let _ = self.0.write(1);
    }
}

/// One array and its clients on a thread of their own; [`Shard::spawn`] starts it.
#[derive(Debug)]
pub struct Shard;

impl Shard {
    /// Starts the array on a thread of its own. `on_exit` is called on that thread when it has ended,
    /// however that came about.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing was written to the members.
    pub fn spawn(
        config: ShardConfig,
        on_exit: impl FnOnce(ShardExit) + Send + 'static,
    ) -> Result<ShardHandle, SpawnError> {
        let ShardConfig { name, assembly, members, read_only, engine, tuning, listener } = config;
        if members.len() != assembly.members.len() {
            let (assembled, opened) = (assembly.members.len(), members.len());
            return Err(SpawnError::Members { assembled, opened });
        }
        let mut set = if tuning.io_uring { MemberSet::new() } else { MemberSet::without_ring() };
        let mut paths = Vec::new();
        let mut ids = Vec::new();
        for member in members {
            paths.push(member.path().to_owned());
            // At most 255 roles and as many spares are assembled, so an index fits.
            ids.push(MemberId(set.attach(member)? as u16));
        }
        let slots = slots_of(&assembly.superblock, tuning.cache_bytes);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let array_config = ArrayConfig {
            slots,
            read_only,
            safe_mode_ms: tuning.safe_mode_ms,
            unix_seconds_at_zero: now.map_or(0, |since| since.as_secs()),
            sync_window: tuning.sync_window,
        };
        let clock = MonotonicClock::new();
        let array = Array::start(&assembly, &ids, array_config)?;
        let geometry = Arc::new(array.geometry().clone());
        let memory_config = MemoryConfig {
            slots,
            pool_bytes: tuning.pool_bytes.max(POOL_BYTES_MIN),
            lock: tuning.lock_memory,
            prefault: true,
        };
        let memory = Memory::new(&geometry, array.slot_strips(), memory_config)?;
        let options = ArenaOptions { lock: tuning.lock_memory, prefault: true };
        let reserve = BufPool::new(reserve_bytes(tuning.connections, tuning.pool_bytes), options)?;
        register(&mut set, [memory.slot_arena(), memory.pool().arena(), reserve.arena()], &name);
        let runner = Runner::new(array, set, engine, memory, clock).with_self_check(tuning.self_check);

        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let listen = EventFd::from_flags(flags).map_err(|err| SpawnError::Thread(err.into()))?;
        let bell = Arc::new(listen);
        let (commands, receiver) = channel();
        let inbox = Inbox { commands: receiver, bell: Arc::clone(&bell) };
        let thread_name: String = format!("uraid {name}").chars().take(15).collect();
        let service = Service::new(name, runner, reserve, slots, tuning, paths, inbox);
        let service = service.with_listener(listener);
        std::thread::Builder::new()
            .name(thread_name)
            .spawn(move || {
                let mut guard = ExitGuard { on_exit: Some(on_exit), exit: ShardExit::Panicked };
                guard.exit = service.run();
            })
            .map_err(SpawnError::Thread)?;
        Ok(ShardHandle { commands, bell: Arc::new(Bell(bell)), geometry })
    }
}

/// As many slots as fit the cache, and at least enough that a queue of small writes finds each its own.
fn slots_of(superblock: &md_format::Superblock, cache_bytes: usize) -> u32 {
    const SLOTS_MIN: usize = 16;
    const SLOTS_MAX: usize = 65_536;
    let strip = (superblock.chunk_sectors() as usize).saturating_mul(512).min(uraid_core::MAX_STRIP as usize);
    let strips = usize::from(superblock.raid_disks()) + usize::from(superblock.has_ppl());
    let slot = strip.saturating_mul(strips).max(1);
    (cache_bytes / slot).clamp(SLOTS_MIN, SLOTS_MAX) as u32
}

/// Registered memory is cheaper for a ring; without a ring, or when the kernel refuses to pin that much,
/// everything works all the same.
fn register(set: &mut MemberSet, arenas: [&Arc<Arena>; 3], volume: &str) {
    for arena in arenas {
        if let Err(err) = set.register(arena) {
            tracing::debug!(volume, "memory is not registered with io_uring: {err}");
        }
    }
}

/// Says how the thread ended, also when it unwinds.
struct ExitGuard<F: FnOnce(ShardExit)> {
    on_exit: Option<F>,
    exit: ShardExit,
}

impl<F: FnOnce(ShardExit)> Drop for ExitGuard<F> {
    fn drop(&mut self) {
        if let Some(on_exit) = self.on_exit.take() {
            on_exit(std::mem::replace(&mut self.exit, ShardExit::Panicked));
        }
    }
}

impl ShardHandle {
    /// The array's shape: its size is that of the export.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Hands over a client after its handshake.
    ///
    /// # Errors
    /// [`ShardGone`]; the connection is closed.
    pub fn connect(&self, connection: NewConnection) -> Result<(), ShardGone> {
        self.tell(Command::Connect(connection))
    }

    /// Asks for a picture of the shard.
    ///
    /// # Errors
    /// [`ShardGone`]; `reply` is dropped, now or later.
    pub fn status(&self, reply: impl FnOnce(ShardStatus) + Send + 'static) -> Result<(), ShardGone> {
        self.tell(Command::Status(Box::new(reply)))
    }

    /// Declares a member failed. Refused if the array could not go on without it.
    ///
    /// # Errors
    /// [`ShardGone`]; `reply` is dropped, now or later.
    pub fn fail(
        &self,
        member: MemberName,
        reply: impl FnOnce(Result<MemberId, FailError>) + Send + 'static,
    ) -> Result<(), ShardGone> {
        self.tell(Command::Fail(member, Box::new(reply)))
    }

    /// Compares parity with the data on all stripes, and rewrites what does not match if `repair`; a notice
    /// tells the end.
    ///
    /// # Errors
    /// [`ShardGone`]; `reply` is dropped, now or later.
    pub fn scrub(
        &self,
        repair: bool,
        reply: impl FnOnce(Result<(), ScrubRefused>) + Send + 'static,
    ) -> Result<(), ShardGone> {
        self.tell(Command::Scrub(repair, Box::new(reply)))
    }

    /// Adds an opened device of which everything may be overwritten. If the array misses a member, its
    /// rebuild begins; else the device is a spare. `device_uuid` is its new identity. With `old`, the superblock
    /// that it had as a member of this array, it is taken back with what it holds where that can be done.
    ///
    /// # Errors
    /// [`ShardGone`]; `reply` is dropped, now or later.
    pub fn add(
        &self,
        member: Member,
        device_uuid: [u8; 16],
        old: Option<Box<Superblock>>,
        reply: impl FnOnce(Result<MemberId, AddError>) + Send + 'static,
    ) -> Result<(), ShardGone> {
        self.tell(Command::Add(member, device_uuid, old, Box::new(reply)))
    }

    /// Changes who computes, as found by [`Offload::look`](crate::Offload::look). It never fails: what a
    /// backend cannot do any more is done by the CPU.
    ///
    /// # Errors
    /// [`ShardGone`]; the new backends are dropped.
    pub fn change_engine(&self, change: EngineChange) -> Result<(), ShardGone> {
        self.tell(Command::Engine(change))
    }

    /// Stops the shard: requests in flight are finished and answered, later ones get `ESHUTDOWN`, the array
    /// is marked clean and the members are closed. `on_exit` of [`Shard::spawn`] tells when and how; after
    /// `deadline` at the latest, unless a member's own system call does not return.
    ///
    /// # Errors
    /// [`ShardGone`].
    pub fn stop(&self, deadline: Duration) -> Result<(), ShardGone> {
        self.tell(Command::Stop(deadline))
    }

    /// Stops the shard as [`stop`](Self::stop) does, but leaves the clients to a successor: none is told
    /// anything, and each finds its requests done or still to be done. `reply` is called when the members
    /// are closed, before `on_exit`; it is dropped if the shard did not come that far within `deadline`, and
    /// then the connections are closed.
    ///
    /// # Errors
    /// [`ShardGone`]; `reply` is dropped.
    pub fn hand_over(
        &self,
        deadline: Duration,
        reply: impl FnOnce(HandedOver) + Send + 'static,
    ) -> Result<(), ShardGone> {
        self.tell(Command::HandOver(HandOverOrder { deadline, reply: Box::new(reply) }))
    }

    fn tell(&self, command: Command) -> Result<(), ShardGone> {
        self.commands.send(command).map_err(|_| ShardGone)?;
        // It can only fail because it is rung already 2^64 times.
        let _ = self.bell.0.write(1);
        Ok(())
    }
}
