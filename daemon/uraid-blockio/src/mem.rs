//! Members that are memory, for tests: they fail where they are told to, end operations in an order drawn
//! from a seed, and keep a log of what was made durable when.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::io::{Io, IoDone, IoError, IoFault, IoOp, MemberIo};

/// The unit of a bad spot on a member, in bytes.
const SECTOR: u64 = 512;
/// The most calls of `reap` that a shuffled operation takes.
const DELAY_MAX: u64 = 8;

/// Members in memory.
///
/// In order ([`MemMembers::new`]) every operation ends in `submit`. Shuffled ([`MemMembers::shuffled`]) it
/// ends at one of the next few calls of `reap`, in any order, and only after a `kick`: memory is read or
/// written when the operation ends, so a buffer that changes too early shows up as wrong data.
#[derive(Debug)]
pub struct MemMembers {
    world: Arc<Mutex<World>>,
}

/// A hand on the members while something else uses them. Clones are the same hand.
#[derive(Clone, Debug)]
pub struct MemControl {
    world: Arc<Mutex<World>>,
}

/// Which operations a fault is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailOp {
    /// Reads.
    Read,
    /// Writes, those of metadata too.
    Write,
    /// Flushes.
    Flush,
    /// All of them.
    Any,
}

/// Something that ended well, in the order in which it did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogEntry {
    /// Bytes were written.
    Write {
        /// Which member.
        member: usize,
        /// First byte.
        offset: u64,
        /// What was written.
        bytes: Vec<u8>,
        /// Durable by itself ([`IoOp::WriteMeta`]).
        durable: bool,
    },
    /// A member was flushed.
    Flush {
        /// Which member.
        member: usize,
        /// The flush covers the entries of this member among the first `covers` of the log: those that
        /// had ended when it was submitted.
        covers: usize,
    },
}

#[derive(Debug, Default)]
struct World {
    members: Vec<MemMember>,
    queue: Vec<Waiting>,
    done: Vec<IoDone>,
    log: Vec<LogEntry>,
    record: bool,
    /// The generator's state, if operations are shuffled.
    shuffle: Option<u64>,
}

#[derive(Debug, Default)]
struct MemMember {
    bytes: Vec<u8>,
    bad_sectors: BTreeSet<u64>,
    faults: Vec<Fault>,
    gone: bool,
    held: bool,
}

#[derive(Debug)]
struct Fault {
    op: FailOp,
    /// How many more operations of this kind go well before one fails.
    after: u64,
    fault: IoFault,
}

#[derive(Debug)]
struct Waiting {
    io: Io,
    /// How many calls of `reap` it still takes.
    delay: u64,
    kicked: bool,
    /// Length of the log when it was submitted.
    log_len: usize,
}

impl MemMembers {
    /// Members of these sizes in bytes, zero-filled, whose operations end at once.
    pub fn new(sizes: &[u64]) -> Self {
        Self::with(sizes, None)
    }

    /// Members of these sizes in bytes, zero-filled, whose operations end late and out of order.
    pub fn shuffled(sizes: &[u64], seed: u64) -> Self {
        Self::with(sizes, Some(seed))
    }

    fn with(sizes: &[u64], shuffle: Option<u64>) -> Self {
        let members = sizes.iter().map(|&size| MemMember::of_size(size)).collect();
        let world = World { members, shuffle, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)) }
    }

    /// A hand on the members, to be kept when this is given away.
    pub fn control(&self) -> MemControl {
        MemControl { world: Arc::clone(&self.world) }
    }
}

impl MemControl {
    /// Adds a zero-filled member of `bytes` bytes and says its index.
    pub fn attach(&self, bytes: u64) -> usize {
        let mut world = lock(&self.world);
        world.members.push(MemMember::of_size(bytes));
        world.members.len() - 1
    }

    /// Lets the `nth` operation of this kind from now on fail (1: the next), once. It changes nothing on
    /// the member.
    pub fn fail_nth(&self, member: usize, op: FailOp, nth: u64, fault: IoFault) {
        self.on(member, |m| m.faults.push(Fault { op, after: nth.saturating_sub(1), fault }));
    }

    /// Lets reads of these bytes fail, in whole sectors of 512, until the sectors are rewritten.
    pub fn spoil(&self, member: usize, bytes: Range<u64>) {
        self.on(member, |m| {
            let end = bytes.end.min(m.bytes.len() as u64).div_ceil(SECTOR);
            m.bad_sectors.extend(bytes.start / SECTOR..end);
        });
    }

    /// Lets every operation on the member fail as gone, those in flight too, or brings it back.
    pub fn set_gone(&self, member: usize, gone: bool) {
        self.on(member, |m| m.gone = gone);
    }

    /// Keeps the operations of a member from ending, or lets them go on. Only if shuffled.
    pub fn hold(&self, member: usize, held: bool) {
        self.on(member, |m| m.held = held);
    }

    /// The contents of a member now; empty if there is no such member.
    pub fn contents(&self, member: usize) -> Vec<u8> {
        lock(&self.world).members.get(member).map(|m| m.bytes.clone()).unwrap_or_default()
    }

    /// Replaces the contents of a member, and with them its size, behind everyone's back.
    pub fn set_contents(&self, member: usize, bytes: Vec<u8>) {
        self.on(member, |m| m.bytes = bytes);
    }

    /// Starts a new log, or stops logging and forgets it. Off at first, for it keeps every byte written.
    pub fn record(&self, on: bool) {
        let mut world = lock(&self.world);
        world.record = on;
        world.log.clear();
    }

    /// What has ended well since the log was started.
    pub fn log(&self) -> Vec<LogEntry> {
        lock(&self.world).log.clone()
    }

    /// Operations that have not ended, as (token, member).
    pub fn waiting(&self) -> Vec<(u64, usize)> {
        lock(&self.world).queue.iter().map(|w| (w.io.token, w.io.member)).collect()
    }

    fn on(&self, member: usize, change: impl FnOnce(&mut MemMember)) {
        if let Some(member) = lock(&self.world).members.get_mut(member) {
            change(member);
        }
    }
}

impl MemMember {
    fn of_size(bytes: u64) -> Self {
        let len = usize::try_from(bytes).unwrap_or(usize::MAX);
        Self { bytes: vec![0; len], ..Self::default() }
    }

    /// Whether a fault was ordered for this operation; counts it.
    fn ordered_fault(&mut self, op: FailOp) -> Option<IoFault> {
        let mut hit = None;
        self.faults.retain_mut(|fault| {
            if fault.op != op && fault.op != FailOp::Any {
                return true;
            }
            if fault.after == 0 && hit.is_none() {
                hit = Some(fault.fault);
                return false;
            }
            fault.after = fault.after.saturating_sub(1);
            true
        });
        hit
    }

    fn range(&self, offset: u64, len: usize) -> Result<Range<usize>, IoError> {
        let start = usize::try_from(offset).ok().filter(|start| *start <= self.bytes.len());
        let range = start.and_then(|start| Some(start..start.checked_add(len)?));
        range.filter(|range| range.end <= self.bytes.len()).ok_or(IoError::of_errno(libc::EINVAL))
    }

    fn read(&self, offset: u64, len: usize) -> Result<&[u8], IoError> {
        let range = self.range(offset, len)?;
        let sectors = offset / SECTOR..(offset + len as u64).div_ceil(SECTOR);
        if self.bad_sectors.range(sectors).next().is_some() {
            return Err(IoError::of_errno(libc::EIO));
        }
        self.bytes.get(range).ok_or(IoError::of_errno(libc::EINVAL))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), IoError> {
        let range = self.range(offset, bytes.len())?;
        if let Some(target) = self.bytes.get_mut(range) {
            target.copy_from_slice(bytes);
        }
        // A sector written in part stays bad: its rest could not be read to be kept.
        for sector in offset.div_ceil(SECTOR)..(offset + bytes.len() as u64) / SECTOR {
            self.bad_sectors.remove(&sector);
        }
        Ok(())
    }
}

impl World {
    fn execute(&mut self, waiting: Waiting) {
        let Waiting { io: Io { token, member, op, offset }, log_len, .. } = waiting;
        let result = match self.members.get_mut(member) {
            Some(m) if !m.gone => {
                let entry = m.execute(member, op, offset, log_len);
                entry.map(|entry| self.log.extend(entry.filter(|_| self.record)))
            }
            _ => Err(IoError::of_errno(libc::ENXIO)),
        };
        self.done.push(IoDone { token, member, result });
    }

    /// Ends what is due, in an order drawn from the seed.
    fn tick(&mut self) {
        for waiting in self.queue.iter_mut().filter(|w| w.kicked) {
            waiting.delay = waiting.delay.saturating_sub(1);
        }
        while let Some(due) = self.pick_due() {
            let waiting = self.queue.swap_remove(due);
            self.execute(waiting);
        }
    }

    fn pick_due(&mut self) -> Option<usize> {
        let due: Vec<usize> = (0..self.queue.len()).filter(|&at| self.is_due(at)).collect();
        let pick = self.draw(due.len() as u64) as usize;
        due.get(pick).copied()
    }

    fn is_due(&self, at: usize) -> bool {
        self.queue.get(at).is_some_and(|w| w.kicked && w.delay == 0 && !self.is_held(w.io.member))
    }

    fn is_held(&self, member: usize) -> bool {
        self.members.get(member).is_some_and(|m| m.held)
    }

    /// A number below `below` (0 if that is 0): a linear congruential generator with Knuth's constants.
    fn draw(&mut self, below: u64) -> u64 {
        let Some(state) = &mut self.shuffle else { return 0 };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33).checked_rem(below).unwrap_or(0)
    }
}

impl MemMember {
    /// Does an operation and says what to log.
    fn execute(
        &mut self,
        member: usize,
        op: IoOp,
        offset: u64,
        log_len: usize,
    ) -> Result<Option<LogEntry>, IoError> {
        let kind = match op {
            IoOp::Read(_) => FailOp::Read,
            IoOp::Write(_) | IoOp::WriteMeta(_) => FailOp::Write,
            IoOp::Flush => FailOp::Flush,
        };
        if let Some(fault) = self.ordered_fault(kind) {
            return Err(injected(fault));
        }
        let (bytes, durable) = match op {
            IoOp::Read(buf) => {
                let bytes = self.read(offset, buf.len())?;
                buf.copy_in(0, bytes).map_err(|_| IoError::of_errno(libc::EINVAL))?;
                return Ok(None);
            }
            IoOp::Flush => return Ok(Some(LogEntry::Flush { member, covers: log_len })),
            IoOp::Write(buf) => (buf.to_vec(), false),
            IoOp::WriteMeta(bytes) => (bytes, true),
        };
        self.write(offset, &bytes)?;
        Ok(Some(LogEntry::Write { member, offset, bytes, durable }))
    }
}

/// The error of an ordered fault, with an `errno` that a kernel would give.
fn injected(fault: IoFault) -> IoError {
    let errno = match fault {
        IoFault::Io => libc::EIO,
        IoFault::NoSpace => libc::ENOSPC,
        IoFault::Gone => libc::ENODEV,
    };
    IoError { fault, errno }
}

impl MemberIo for MemMembers {
    fn submit(&mut self, io: Io) {
        let mut world = lock(&self.world);
        let delay = 1 + world.draw(DELAY_MAX);
        let waiting = Waiting { io, delay, kicked: false, log_len: world.log.len() };
        if world.shuffle.is_some() {
            world.queue.push(waiting);
        } else {
            world.execute(waiting);
        }
    }

    fn kick(&mut self) {
        lock(&self.world).queue.iter_mut().for_each(|waiting| waiting.kicked = true);
    }

    fn reap(&mut self, done: &mut Vec<IoDone>) -> usize {
        let mut world = lock(&self.world);
        world.tick();
        let count = world.done.len();
        done.append(&mut world.done);
        count
    }

    fn in_flight(&self) -> usize {
        let world = lock(&self.world);
        world.queue.len() + world.done.len()
    }

    fn ended(&self) -> usize {
        lock(&self.world).done.len()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Never sleeps: time is counted in calls. False means that everything in flight is held.
    fn wait(&mut self, _timeout: Option<Duration>) -> bool {
        self.kick();
        let mut world = lock(&self.world);
        for _ in 0..=DELAY_MAX {
            if !world.done.is_empty() {
                return true;
            }
            world.tick();
        }
        !world.done.is_empty()
    }
}

/// A test that panicked while holding the lock has failed already; the others shall see the world as it is.
fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}
