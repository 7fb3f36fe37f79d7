//! One life of an open work queue: what was submitted, what of it is over, and who may submit.
//!
//! A queue has credits, one for each entry of the hardware's queue that it may occupy; a batch takes one.
//! Operations go in through [`Queue::submit`] and come out of [`Queue::harvest`], each once. What the queue
//! promises:
//!
//! - An operation comes out when the device has written its completion record, or when the portal says that
//!   the device touches nothing any more. A record's line is not used again before either.
//! - Nothing that a device writes into a record leads to a panic, to a touch of memory outside of the
//!   operation's own regions, or to an operation reported twice.
//! - A page fault is repaired and the rest submitted again, a few times; then, and for operations whose state
//!   is not in the descriptor alone, it ends in [`Fault::Declined`]: the engine finishes on the CPU, which
//!   knows every operation, so nothing is computed here.
//! - What a configuration error tells about one kind of operation takes that kind off the queue; only errors
//!   of the device, and a queue that is gone, are faults that put the rest in doubt.
//!
//! A lost record is never noticed here, where there is no clock: the engine's deadline leads to
//! [`Queue::begin_close`]. The pool of records lives until the portal is closed, if need be longer than the
//! queue; so no pool is ever reused while it may be written. Dropping a queue blocks only while operations
//! are in hand.

mod batch;
mod conclude;
mod counters;
mod link;
mod probe;
mod slot;
mod submit;

use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Instant;

use async_tx::{Caps, Completion, Fault, OpKind};
use nix::errno::Errno;

use crate::caps::{GenCap, OpSet};
use crate::discover::Mode;
use crate::open::Watch;
use crate::portal::Portal;
use crate::records::{Line, Pool, PoolSize};
use crate::wait::Waiter;
use crate::wire::{Descriptor, Opcode};

use batch::Batch;
pub use counters::Counters;
use link::Link;
pub(crate) use link::lingering;
pub use probe::ProbeState;
use slot::Slot;
use submit::Staged;

/// Credits of a dedicated queue that are left unused, where it is large enough: entries that the device may
/// still hold when their record is seen already.
const MARGIN: usize = 4;
/// Records of operations that a queue has at least, be its credits fewer, so that it comes back to each late.
const SLOTS_MIN: usize = 64;
/// The most operations in hand at a time.
const SLOTS_MAX: usize = 256;
/// The most batches in hand at a time.
const BATCHES_MAX: usize = 32;
/// The most members of a batch.
const LIST_MAX: usize = 32;
/// How often in a row an idle queue may be full before it counts as gone.
const PATIENCE: u32 = 256;

/// What a queue and its device can do, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Setup {
    /// What the queue executes: of the device's operations those that the queue's configuration leaves.
    pub operations: OpSet,
    /// The device's general capabilities.
    pub gen_cap: GenCap,
    /// Bytes of a transfer, at most.
    pub max_transfer: u64,
    /// Members of a batch, at most.
    pub max_batch: u32,
    /// Entries that may be occupied at a time.
    pub credits: usize,
}

impl Setup {
    /// How many entries of a queue of `size` entries may be occupied: of a dedicated one all but a margin,
    /// of a shared one as many as its threshold admits (an unknown threshold counts as one less than the
    /// size), for then it is full.
    pub fn credits(mode: Mode, size: u32, threshold: Option<u32>) -> usize {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let most = match (mode, threshold.and_then(|threshold| usize::try_from(threshold).ok())) {
            (Mode::Dedicated, _) => size.saturating_sub(MARGIN.min(size / 4)),
            (Mode::Shared, Some(threshold)) if threshold > 0 => threshold.min(size),
            (Mode::Shared, _) => size.saturating_sub(1),
        };
        most.max(1)
    }
}

/// How a queue is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Destinations are allocated in the cache, where the device can: right if the CPU reads them next.
    pub cache_control: bool,
    /// Batches are used if the queue takes them.
    pub batches: bool,
    /// How often an operation is resumed after a page fault before it is declined.
    pub resumes: u8,
}

impl Default for Usage {
    fn default() -> Self {
        Usage { cache_control: true, batches: true, resumes: 4 }
    }
}

/// What occupies an entry of the hardware's queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Entry {
    Alone(u16),
    Batch(u16),
}

/// An open queue.
pub struct Queue {
    /// Taken out when the queue is dropped, for it may have to live longer.
    link: ManuallyDrop<Link>,
    setup: Setup,
    usage: Usage,
    slots: Vec<Slot>,
    /// Used in turn, so that a line rests as long as it can: what a device writes twice is then seen by
    /// nobody.
    free: VecDeque<u16>,
    batches: Vec<Batch>,
    free_batches: VecDeque<u16>,
    active: Vec<Entry>,
    credits: usize,
    /// Completions that did not need the device.
    early: Vec<Completion>,
    staged: Vec<Staged>,
    staging: Vec<Descriptor>,
    /// Kinds that the queue turned out not to take.
    refused: Caps,
    /// How many operations in a row ended declined, by the kind's place in the table.
    declined: [u8; slot::OPERATIONS.len()],
    batching: bool,
    cache_control: bool,
    closing: bool,
    /// Why the queue closes, if that is not because it was told to.
    broken: Option<Fault>,
    /// Submissions in a row that found the queue full while nothing was in hand.
    full_in_a_row: u32,
    probe: ProbeState,
    counters: Arc<Counters>,
}

impl Queue {
    /// A queue over an open portal. `watch` is told where the pool is, and what it returns is dropped
    /// before the pool. Errors: no memory for the pool; the portal is then closed.
    pub fn new(
        portal: Box<dyn Portal>,
        setup: Setup,
        usage: Usage,
        counters: Arc<Counters>,
        watch: Option<Watch>,
    ) -> Result<Queue, Errno> {
        let credits = setup.credits.clamp(1, SLOTS_MAX);
        let list = usize::try_from(setup.max_batch).unwrap_or(usize::MAX).min(LIST_MAX);
        let batching = usage.batches && setup.operations.contains(Opcode::Batch) && list >= 2;
        let slots = if batching { credits.saturating_mul(list).min(SLOTS_MAX) } else { credits };
        let slots = slots.max(SLOTS_MIN);
        let batches = if batching { credits.min(BATCHES_MAX) } else { 0 };
        let pool = Pool::new(PoolSize { slots, batches, list })?;
        if !pool.is_locked() {
            tracing::info!("completion records are not locked in memory; the limit of locked memory is low");
        }
        let watch = watch.map(|watch| {
            let (start, len) = pool.span();
            watch(start, len)
        });
        let index = |count: usize| (0..count).filter_map(|i| u16::try_from(i).ok());
        Ok(Queue {
            link: ManuallyDrop::new(Link { portal, _watch: watch, pool }),
            setup,
            usage,
            slots: vec![Slot::default(); slots],
            free: index(slots).collect(),
            batches: (0..batches).map(|_| Batch::with_room(list)).collect(),
            free_batches: index(batches).collect(),
            active: Vec::with_capacity(slots),
            credits,
            early: Vec::with_capacity(slots),
            staged: Vec::with_capacity(slots),
            staging: Vec::with_capacity(credits),
            refused: Caps::NONE,
            declined: [0; slot::OPERATIONS.len()],
            batching,
            cache_control: usage.cache_control && setup.gen_cap.cache_control(),
            closing: false,
            broken: None,
            full_in_a_row: 0,
            probe: ProbeState::Idle,
            counters,
        })
    }

    /// How the portal submits, in a word.
    pub fn method(&self) -> &'static str {
        self.link.portal.method()
    }

    /// What the queue was set up with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The kinds of operation that it takes now.
    pub fn caps(&self) -> Caps {
        let takes = |caps: Caps, (kind, opcode): (OpKind, Opcode)| {
            let has = self.setup.operations.contains(opcode) && !self.refused.has(kind);
            if has { caps.with(kind) } else { caps }
        };
        slot::OPERATIONS.into_iter().fold(Caps::NONE, takes)
    }

    /// The kinds between which a fence works: those whose whole result is in memory when the device goes on,
    /// if there are batches. A CRC is stored by this process, later.
    pub fn fences(&self) -> Caps {
        if !self.batching {
            return Caps::NONE;
        }
        let fenced = [OpKind::Copy, OpKind::Fill, OpKind::Dualcast, OpKind::Compare];
        fenced.into_iter().fold(Caps::NONE, Caps::with).and(self.caps())
    }

    /// Whether batches are used.
    pub fn is_batching(&self) -> bool {
        self.batching
    }

    /// How many operations the next call to [`Queue::submit`] takes, if the portal has room, and if no fence
    /// and none that the device does not do is among them. In a batch, many share a credit.
    pub fn room(&self) -> usize {
        if self.closing {
            return 0;
        }
        let list = if self.batching { self.link.pool.size().list } else { 1 };
        let batches = self.credits.min(self.free_batches.len());
        let most = batches.saturating_mul(list).saturating_add(self.credits - batches);
        most.min(self.free.len())
    }

    /// Entries of the hardware's queue that may be occupied yet.
    pub fn credits(&self) -> usize {
        self.credits
    }

    /// Operations in hand.
    pub fn in_hand(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether all that the queue was given is over and every credit is back.
    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.early.is_empty() && self.in_hand() == 0
    }

    /// Appends what has ended. Of a closed queue that is all: what has no record by then was aborted.
    pub fn harvest(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.early);
        if self.active.is_empty() {
            return;
        }
        // Asked first: a record that is missing after the close will never come.
        let closed = self.closing && self.link.portal.is_closed();
        let mut at = 0;
        while let Some(entry) = self.active.get(at).copied() {
            let over = match entry {
                Entry::Alone(slot) => self.look_alone(slot, done),
                Entry::Batch(batch) => self.look_batch(batch, done),
            };
            if over {
                self.active.swap_remove(at);
            } else {
                at += 1;
            }
        }
        if closed {
            self.give_up(done);
        }
    }

    /// Looks at an operation that was submitted by itself; whether its entry is free.
    fn look_alone(&mut self, slot: u16, done: &mut Vec<Completion>) -> bool {
        let record = self.link.pool.load(Line::Slot(slot));
        match self.conclude(slot, &record) {
            conclude::Conclusion::Pending => false,
            conclude::Conclusion::Over(result) => {
                self.report(slot, result, done);
                self.credits += 1;
                true
            }
            conclude::Conclusion::Resume(rest) => match self.resubmit(slot, &rest) {
                Ok(()) => false,
                Err(fault) => {
                    self.report(slot, Err(fault), done);
                    self.credits += 1;
                    true
                }
            },
        }
    }

    /// Completes what is left after the portal was closed.
    fn give_up(&mut self, done: &mut Vec<Completion>) {
        let fault = self.broken.unwrap_or(Fault::Aborted);
        while let Some(entry) = self.active.pop() {
            self.credits += 1;
            match entry {
                Entry::Alone(slot) => self.abort_one(slot, fault, done),
                Entry::Batch(index) => {
                    let Some(batch) = self.batches.get_mut(usize::from(index)) else { continue };
                    if !batch.holds_credit() {
                        self.credits -= 1;
                    }
                    let mut members = batch.take_members();
                    let mut gate = batch::Gate::default();
                    for member in &mut members {
                        gate.arrive(member);
                        if !member.reported {
                            // It was held back, maybe with its record written.
                            member.failed = self.end_member(member.slot, &gate, fault, done);
                            member.reported = true;
                        }
                        gate.pass(member);
                    }
                    members.clear();
                    if let Some(batch) = self.batches.get_mut(usize::from(index)) {
                        batch.give_back(members);
                    }
                    self.free_batches.push_back(index);
                }
            }
        }
    }

    /// Ends a member of a batch after the portal was closed; whether it failed.
    fn end_member(
        &mut self,
        slot: u16,
        gate: &batch::Gate,
        fault: Fault,
        done: &mut Vec<Completion>,
    ) -> bool {
        let record = self.link.pool.load(Line::Slot(slot));
        if gate.is_contradicted_by(&record) {
            self.report(slot, Err(Fault::Abandoned), done);
            return true;
        }
        match self.conclude(slot, &record) {
            conclude::Conclusion::Over(result) => {
                self.report(slot, result, done);
                result.is_err()
            }
            _ => {
                self.abort_one(slot, fault, done);
                true
            }
        }
    }

    fn abort_one(&mut self, slot: u16, fault: Fault, done: &mut Vec<Completion>) {
        self.counters.aborted.add(1);
        self.report(slot, Err(fault), done);
    }

    /// Takes an operation out of the queue's hands.
    fn report(&mut self, slot: u16, result: Result<async_tx::Verdict, Fault>, done: &mut Vec<Completion>) {
        let Some(entry) = self.slots.get_mut(usize::from(slot)) else { return };
        let counter = match result {
            Ok(_) if self.closing => &self.counters.late,
            Ok(_) => &self.counters.completed,
            Err(Fault::Declined) => &self.counters.declined,
            Err(Fault::Abandoned) => &self.counters.abandoned,
            Err(_) => &self.counters.failed,
        };
        counter.add(1);
        done.push(Completion { token: entry.token(), result });
        *entry = Slot::default();
        self.free.push_back(slot);
    }

    /// Begins to take back all that is in hand; it comes out of [`Queue::harvest`] when the portal is
    /// closed. Nothing is submitted any more. May be repeated.
    pub fn begin_close(&mut self) {
        self.closing = true;
        self.link.portal.begin_close();
    }

    /// Whether, after [`Queue::begin_close`], the device touches nothing any more.
    pub fn is_closed(&mut self) -> bool {
        self.closing && self.link.portal.is_closed()
    }

    /// Whether it was told to close, or closes because it broke.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// The queue does not work any more: everything in hand ends with `fault` as soon as it is closed.
    fn break_down(&mut self, fault: Fault) {
        self.broken.get_or_insert(fault);
        self.begin_close();
    }

    /// Waits until the first of the records in hand is written, at most until the deadline. The others do
    /// not end the wait, so the deadline should be near.
    pub(crate) fn rest_until(&self, waiter: &Waiter, deadline: Instant) {
        if let Some(entry) = self.active.first() {
            let line = match entry {
                Entry::Alone(slot) => Line::Slot(*slot),
                Entry::Batch(batch) => Line::Batch(*batch),
            };
            waiter.pause_until(self.link.pool.status(line), deadline);
        }
    }
}
