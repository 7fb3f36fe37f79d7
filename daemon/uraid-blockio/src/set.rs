//! The members of one array on real storage: [`MemberIo`] over files and block devices.
//!
//! One ring serves all members that profit from one; the others are served by `pread` and `pwrite` in
//! `submit`. Which is which is decided when a member is attached, from what it could do when it was
//! opened, and kept for status ([`MemberSet::backend`]):
//!
//! * direct, and the kernel can start its I/O without blocking: the ring;
//! * everything else (memory file systems, zram, buffered files): inline. io_uring would pass each
//!   operation to a worker thread, at twenty times the cost of the operation;
//! * except that flushes and durable writes of buffered files on a disk go to the ring, because they wait
//!   for the disk, and those of several members shall wait together.
//!
//! If io_uring is missing or refused, or fails later, everything is served inline.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::entry::entry_for;
use crate::io::{Io, IoDone, IoError, MemberIo};
use crate::ring::Ring;
use crate::slab::Slab;
use crate::transfer::{Limits, Next, Transfer};
use crate::{Arena, Engine, EnginePreference, Member};

/// Why a member was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// io_uring was asked for and there is none.
    #[error("{} shall use io_uring, which cannot be had: {why}; choose the engine `auto` or `sync`", path.display())]
    NoRing {
        /// The member.
        path: std::path::PathBuf,
        /// Why there is no ring.
        why: String,
    },
}

/// Who serves a member, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendChoice {
    /// Who moves its bytes.
    pub engine: Engine,
    /// Whether the page cache is bypassed.
    pub direct: bool,
    /// What offsets, lengths and addresses of requests should be multiples of to go without a bounce
    /// buffer; 1 if anything does.
    pub align: u32,
    /// Why this engine and this way, in words for an operator.
    pub why: String,
}

/// One member in its place.
struct Slot {
    member: Option<Member>,
    backend: BackendChoice,
    /// Flushes and durable writes go to the ring although the rest does not.
    durable_by_ring: bool,
    file_slot: Option<u32>,
    /// Transfers that the ring has.
    in_ring: usize,
    detached: bool,
}

/// The members of one array. Members are named by the index at which they were attached; an index is not
/// used again.
///
/// A set may be made on one thread and used on another; from the first [`submit`](MemberIo::submit) on it
/// stays on its thread. Dropping it waits for what is in flight.
pub struct MemberSet {
    // Dropped first: while the ring lives, the kernel may touch what the transfers own.
    ring: Option<Ring>,
    /// Why there is no ring, or no more submitting to it.
    ring_refused: Option<String>,
    transfers: Slab<Transfer>,
    /// Keys of transfers that the ring had no room for.
    backlog: VecDeque<u32>,
    slots: Vec<Slot>,
    done: Vec<IoDone>,
}

impl Default for MemberSet {
    fn default() -> Self {
        Self::new()
    }
}

impl MemberSet {
    /// An empty set, with a ring if the kernel grants one.
    pub fn new() -> Self {
        match Ring::new() {
            Ok(ring) => Self::with(Some(ring), None),
            Err(err) => Self::with(None, Some(refusal(&err))),
        }
    }

    /// An empty set that never uses io_uring.
    pub fn without_ring() -> Self {
        Self::with(None, Some("io_uring is turned off".to_owned()))
    }

    fn with(ring: Option<Ring>, ring_refused: Option<String>) -> Self {
        Self {
            ring,
            ring_refused,
            transfers: Slab::new(),
            backlog: VecDeque::new(),
            slots: Vec::new(),
            done: Vec::new(),
        }
    }

    /// Why io_uring is not used, if it is not.
    pub fn ring_refused(&self) -> Option<&str> {
        self.ring_refused.as_deref()
    }

    /// Registers memory with the ring, which saves the kernel from looking it up at each operation. It
    /// pins the memory. Worth it for the pool that most I/O uses; everything works without.
    ///
    /// # Errors
    /// What the kernel said, [`io::ErrorKind::Unsupported`] without a ring. The set works as before.
    pub fn register(&mut self, arena: &Arc<Arena>) -> io::Result<()> {
        match &mut self.ring {
            Some(ring) if self.ring_refused.is_none() => ring.add_arena(arena),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Takes a member in and says by which index it is named from now on. Allowed at any time.
    ///
    /// # Errors
    /// [`AttachError`] if the member was opened for io_uring and there is none.
    pub fn attach(&mut self, member: Member) -> Result<usize, AttachError> {
        let backend = self.choose(&member)?;
        let durable_by_ring = backend.engine == Engine::Sync
            && member.engine == EnginePreference::Auto
            && self.ring_refused.is_none()
            && !member.is_direct()
            && !member.in_memory();
        let file_slot = match &mut self.ring {
            Some(ring) if durable_by_ring || backend.engine == Engine::Uring => {
                ring.add_file(member.file.as_raw_fd())
            }
            _ => None,
        };
        let member = Some(member);
        self.slots.push(Slot { member, backend, durable_by_ring, file_slot, in_ring: 0, detached: false });
        Ok(self.slots.len() - 1)
    }

    /// Lets a member go: operations on it that are in flight end as they will, later ones fail with
    /// [`IoFault::Gone`](crate::IoFault::Gone), and it is closed when none is left. An index that names
    /// nothing is no error.
    pub fn detach(&mut self, member: usize) {
        if let Some(slot) = self.slots.get_mut(member) {
            slot.detached = true;
        }
        self.close_if_unused(member);
    }

    /// The member of this index, until it is detached.
    pub fn member(&self, member: usize) -> Option<&Member> {
        self.slots.get(member).filter(|slot| !slot.detached)?.member.as_ref()
    }

    /// Who serves the member of this index, and why.
    pub fn backend(&self, member: usize) -> Option<&BackendChoice> {
        self.slots.get(member).map(|slot| &slot.backend)
    }

    fn choose(&self, member: &Member) -> Result<BackendChoice, AttachError> {
        let (engine, why) = match (member.engine, &self.ring_refused) {
            (EnginePreference::Sync, _) => (Engine::Sync, "asked for".to_owned()),
            (EnginePreference::Uring, None) => (Engine::Uring, "asked for".to_owned()),
            (EnginePreference::Uring, Some(why)) => {
                return Err(AttachError::NoRing { path: member.path().to_owned(), why: why.clone() });
            }
            (EnginePreference::Auto, _) if !member.is_direct() => {
                (Engine::Sync, format!("buffered: {}", member.direct.why))
            }
            (EnginePreference::Auto, _) if !member.nowait => {
                (Engine::Sync, "its driver cannot start I/O without blocking".to_owned())
            }
            (EnginePreference::Auto, Some(why)) => (Engine::Sync, why.clone()),
            (EnginePreference::Auto, None) => {
                (Engine::Uring, "direct, and its driver starts I/O without blocking".to_owned())
            }
        };
        Ok(BackendChoice { engine, direct: member.direct.direct, align: member.direct.align, why })
    }

    fn close_if_unused(&mut self, member: usize) {
        let Some(slot) = self.slots.get_mut(member) else { return };
        if !slot.detached || slot.in_ring > 0 {
            return;
        }
        if let (Some(file_slot), Some(ring)) = (slot.file_slot.take(), &mut self.ring) {
            ring.remove_file(file_slot);
        }
        slot.member = None;
    }

    /// Does a transfer here and now.
    fn run_inline(&mut self, mut transfer: Transfer) {
        let member = self.slots.get(transfer.member).and_then(|slot| slot.member.as_ref());
        let result = match member {
            Some(member) => {
                let ended = transfer.run_inline(member.file.as_fd());
                member.confirm(transfer.makes_durable(), ended)
            }
            None => Err(IoError::of_errno(libc::ENXIO)),
        };
        self.done.push(transfer.ends(result));
    }

    /// A write of parts of blocks: the blocks must not change between reading and writing them, so writes
    /// in flight that touch them are waited for. Rare: superblocks of members with 4096-byte blocks.
    fn run_read_first(&mut self, transfer: Transfer) {
        while self.transfers.iter().any(|other| other.writes_into(&transfer)) {
            self.push_backlog();
            if !self.ring_wait(None) {
                return self.done.push(transfer.ends(Err(IoError::of_errno(libc::EIO))));
            }
            self.take_answers();
        }
        self.run_inline(transfer);
    }

    /// Gives a transfer to the ring.
    fn run_in_ring(&mut self, transfer: Transfer) {
        if let Some(slot) = self.slots.get_mut(transfer.member) {
            slot.in_ring += 1;
        }
        let key = self.transfers.insert(transfer);
        self.backlog.push_back(key);
        self.push_backlog();
    }

    /// Moves the backlog into the submission queue as far as there is room.
    fn push_backlog(&mut self) {
        while let (Some(&key), Some(ring)) = (self.backlog.front(), &mut self.ring) {
            let Some(transfer) = self.transfers.get_mut(key) else {
                self.backlog.pop_front();
                continue;
            };
            let Some(slot) = self.slots.get(transfer.member) else { return };
            let Some(member) = &slot.member else { return };
            let entry = entry_for(transfer, member, slot.file_slot, ring);
            // SAFETY: the transfer owns the memory that the entry names. It stays in `transfers` until its
            // key is reaped or given back by `retire`, and the member stays open until then (`in_ring`).
            match unsafe { ring.push(entry, key) } {
                Ok(true) => self.backlog.pop_front(),
                Ok(false) => return,
                Err(err) => return self.give_up_ring(&err),
            };
        }
    }

    fn ring_kick(&mut self) {
        if let Some(ring) = &mut self.ring
            && self.ring_refused.is_none()
            && let Err(err) = ring.kick()
        {
            self.give_up_ring(&err);
        }
    }

    /// Sleeps until the ring has an answer. False if it will never have one.
    fn ring_wait(&mut self, timeout: Option<Duration>) -> bool {
        let Some(ring) = &mut self.ring else { return false };
        if self.ring_refused.is_some() {
            // What the kernel took before the ring failed can only be waited for.
            return ring.drain();
        }
        if let Err(err) = ring.wait(timeout) {
            self.give_up_ring(&err);
        }
        true
    }

    /// The ring takes no more: what it never took is done inline, as is everything from now on.
    fn give_up_ring(&mut self, err: &io::Error) {
        let why = refusal(err);
        for slot in &mut self.slots {
            slot.durable_by_ring = false;
            if slot.backend.engine == Engine::Uring {
                slot.backend.engine = Engine::Sync;
                slot.backend.why.clone_from(&why);
            }
        }
        self.ring_refused = Some(why);
        self.finish_inline();
    }

    /// Does what the ring never took, and will not take, here and now.
    fn finish_inline(&mut self) {
        let never_taken = self.ring.as_mut().map(Ring::retire).unwrap_or_default();
        let backlog = std::mem::take(&mut self.backlog);
        for key in never_taken.into_iter().chain(backlog) {
            if let Some(transfer) = self.transfers.remove(key) {
                let member = transfer.member;
                self.run_inline(transfer);
                if let Some(slot) = self.slots.get_mut(member) {
                    slot.in_ring = slot.in_ring.saturating_sub(1);
                }
                self.close_if_unused(member);
            }
        }
    }

    /// Takes what the ring has answered.
    fn take_answers(&mut self) {
        let Some(ring) = &mut self.ring else { return };
        let (mut again, mut detached) = (Vec::new(), Vec::new());
        ring.reap(|key, result| {
            let Some(transfer) = self.transfers.get_mut(key) else { return };
            let member = transfer.member;
            match transfer.answer(result) {
                Next::Again => again.push(key),
                Next::Done(result) => {
                    let Some(slot) = self.slots.get_mut(member) else { return };
                    let result = match &slot.member {
                        Some(member) => member.confirm(transfer.makes_durable(), result),
                        None => result,
                    };
                    self.done.push(transfer.ends(result));
                    self.transfers.remove(key);
                    slot.in_ring = slot.in_ring.saturating_sub(1);
                    if slot.detached {
                        detached.push(member);
                    }
                }
            }
        });
        for member in detached {
            self.close_if_unused(member);
        }
        if !again.is_empty() {
            self.backlog.extend(again);
            self.continue_backlog();
        }
    }

    /// Sends the rest of short transfers on their way at once: nobody else would kick for them.
    fn continue_backlog(&mut self) {
        if self.ring_refused.is_some() {
            return self.finish_inline();
        }
        self.push_backlog();
        self.ring_kick();
    }
}

fn refusal(err: &io::Error) -> String {
    match err.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".to_owned(),
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here (sysctl kernel.io_uring_disabled, or a seccomp filter)".to_owned()
        }
        Some(libc::EEXIST) => "the ring was used from a second thread".to_owned(),
        _ => format!("io_uring failed: {err}"),
    }
}

impl MemberIo for MemberSet {
    fn submit(&mut self, io: Io) {
        let Some(slot) = self.slots.get(io.member) else {
            let result = Err(IoError::of_errno(libc::ENXIO));
            return self.done.push(IoDone { token: io.token, member: io.member, result });
        };
        let (Some(member), false) = (&slot.member, slot.detached) else {
            let result = Err(IoError::of_errno(libc::ENXIO));
            return self.done.push(IoDone { token: io.token, member: io.member, result });
        };
        let limits = Limits {
            size: member.size(),
            align: slot.backend.align,
            read_only: member.is_read_only(),
            durable_writes: member.durable_writes,
        };
        let transfer = match Transfer::new(io, limits) {
            Ok(transfer) => transfer,
            Err(done) => return self.done.push(done),
        };
        // The question costs less than half a microsecond, and keeps a write from growing a file that was cut
        // short: nothing else would tell its hole from zeroes that were written.
        if transfer.writes()
            && let Err(error) = member.check_whole()
        {
            return self.done.push(transfer.ends(Err(error)));
        }
        let durable = transfer.makes_durable();
        let by_ring = slot.backend.engine == Engine::Uring || (slot.durable_by_ring && durable);
        if transfer.needs_read_first() {
            self.run_read_first(transfer);
        } else if by_ring {
            self.run_in_ring(transfer);
        } else {
            self.run_inline(transfer);
        }
    }

    fn kick(&mut self) {
        self.push_backlog();
        self.ring_kick();
    }

    fn reap(&mut self, done: &mut Vec<IoDone>) -> usize {
        self.take_answers();
        let count = self.done.len();
        done.append(&mut self.done);
        count
    }

    fn in_flight(&self) -> usize {
        self.transfers.len() + self.done.len()
    }

    fn ended(&self) -> usize {
        self.done.len()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(Ring::fd)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> bool {
        self.push_backlog();
        if self.done.is_empty() && self.transfers.len() > 0 {
            self.ring_wait(timeout);
            self.take_answers();
        } else {
            self.ring_kick();
        }
        !self.done.is_empty()
    }
}

impl Drop for MemberSet {
    fn drop(&mut self) {
        while self.transfers.len() > 0 {
            self.kick();
            if !self.ring.as_mut().is_some_and(Ring::drain) {
                break;
            }
            self.take_answers();
        }
        if self.transfers.len() > 0 {
            // The kernel may still be using this memory and will not say when it has done. Losing it is
            // the only safe thing left.
            std::mem::forget(std::mem::replace(&mut self.transfers, Slab::new()));
        }
        // A ring lets its registered files go some time after it was closed. The claims on the members
        // shall be gone when this returns, so that the next one to want them can have them.
        for member in 0..self.slots.len() {
            self.detach(member);
        }
    }
}
