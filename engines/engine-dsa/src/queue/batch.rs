//! Batches: which of their members ran, and how each ended.
//!
//! A member whose record is written has ended as that says. What became of a member without a record is told
//! by the batch's own record, and by that alone: it was not run, or its record is yet to come. So that a
//! batch whose own record is lost is noticed, the last member is held back until that record is there.
//!
//! A member behind a fence is looked at when all before the fence are over. If one of those failed, it should
//! not have been run; if its record says that it was, it may have read what was not there yet, and counts as
//! not run.

use async_tx::{Completion, Fault};

use super::conclude::Conclusion;
use super::{Entry, Queue};
use crate::record::{Class, Outcome, RecordView};
use crate::records::Line;

/// A member of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) slot: u16,
    /// It has a fence.
    pub(super) fence: bool,
    /// The queue has nothing more to say about it as a member.
    pub(super) reported: bool,
    /// As a member it ended with anything but success.
    pub(super) failed: bool,
}

/// What is known of the members before a member, and of those before its fence.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Gate {
    /// There is a fence.
    behind_fence: bool,
    /// Some before the fence are not over.
    shut: bool,
    /// Some before the fence failed.
    failed: bool,
    any_pending: bool,
    any_failed: bool,
}

impl Gate {
    /// The next member comes.
    pub(super) fn arrive(&mut self, member: &Member) {
        if member.fence {
            (self.behind_fence, self.shut, self.failed) = (true, self.any_pending, self.any_failed);
        }
    }

    /// It was looked at.
    pub(super) fn pass(&mut self, member: &Member) {
        self.any_pending |= !member.reported;
        self.any_failed |= member.reported && member.failed;
    }

    /// Whether this record of the member at hand says that it was run, which it should not have been.
    pub(super) fn is_contradicted_by(&self, record: &RecordView) -> bool {
        self.failed && matches!(record.outcome(), Outcome::Success | Outcome::PageFault { .. })
    }
}

/// How a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// All members were run.
    All,
    /// A member failed, and members from this one on were not run if a fence is between.
    Failed(usize),
    /// The list could not be read from this member on.
    List(usize),
    /// The device did not take the batch.
    Refused,
}

impl End {
    /// Whether the member at `index` was not run. A device that says so of one behind no fence contradicts
    /// itself; that member's record is waited for.
    fn skipped(self, index: usize, behind_fence: bool) -> bool {
        match self {
            End::All => false,
            End::Failed(run) => index >= run && behind_fence,
            End::List(run) => index >= run,
            End::Refused => true,
        }
    }
}

/// A batch in hand, or room for one.
#[derive(Debug)]
pub(super) struct Batch {
    members: Vec<Member>,
    unreported: usize,
    end: Option<End>,
}

impl Batch {
    /// Room for a batch of `list` members.
    pub(super) fn with_room(list: usize) -> Batch {
        Batch { members: Vec::with_capacity(list), unreported: 0, end: None }
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Takes the members out, to be given back with [`begin`](Self::begin) or [`give_back`](Self::give_back).
    pub(super) fn take_members(&mut self) -> Vec<Member> {
        std::mem::take(&mut self.members)
    }

    /// The room of a batch that is over.
    pub(super) fn give_back(&mut self, mut members: Vec<Member>) {
        members.clear();
        *self = Batch { members, unreported: 0, end: None };
    }

    /// These members are handed over.
    pub(super) fn begin(&mut self, members: Vec<Member>) {
        let unreported = members.len();
        *self = Batch { members, unreported, end: None };
    }

    /// Whether it still occupies an entry of the hardware's queue.
    pub(super) fn holds_credit(&self) -> bool {
        self.end.is_none()
    }
}

impl Queue {
    /// Looks at a batch; whether nothing of it is left.
    pub(super) fn look_batch(&mut self, index: u16, done: &mut Vec<Completion>) -> bool {
        let record = self.link.pool.load(Line::Batch(index));
        let Some(batch) = self.batches.get_mut(usize::from(index)) else { return true };
        let mut members = batch.take_members();
        let mut unreported = batch.unreported;
        let mut end = batch.end;
        if end.is_none() && record.outcome() != Outcome::Pending {
            end = self.end_of(&record, members.len());
            // The entry is free, whatever its members do.
            self.credits += usize::from(end.is_some());
        }
        let mut gate = Gate::default();
        for (at, member) in members.iter_mut().enumerate() {
            gate.arrive(member);
            // Whoever waits for a fenced member takes all before it to be over.
            let waits = member.reported || gate.shut || (end.is_none() && unreported == 1);
            if !waits && let Some(failed) = self.look_member(member.slot, at, &gate, end, done) {
                (member.reported, member.failed) = (true, failed);
                unreported -= 1;
            }
            gate.pass(member);
        }
        let over = end.is_some() && unreported == 0;
        if let Some(batch) = self.batches.get_mut(usize::from(index)) {
            if over {
                batch.give_back(members);
                self.free_batches.push_back(index);
            } else {
                *batch = Batch { members, unreported, end };
            }
        }
        over
    }

    /// Looks at a member; whether it failed, if the batch is done with it.
    fn look_member(
        &mut self,
        slot: u16,
        at: usize,
        gate: &Gate,
        end: Option<End>,
        done: &mut Vec<Completion>,
    ) -> Option<bool> {
        let record = self.link.pool.load(Line::Slot(slot));
        if record.outcome() == Outcome::Pending {
            let skipped = end.is_some_and(|end| end.skipped(at, gate.behind_fence));
            if skipped {
                let fault = if gate.behind_fence { Fault::Abandoned } else { Fault::Declined };
                self.report(slot, Err(fault), done);
            }
            return skipped.then_some(true);
        }
        if gate.is_contradicted_by(&record) {
            self.report(slot, Err(Fault::Abandoned), done);
            return Some(true);
        }
        // What is to be resumed needs a credit of its own, and an end of those that wait for it.
        if end.is_none() && matches!(record.outcome(), Outcome::PageFault { .. }) {
            return None;
        }
        let result = match self.conclude(slot, &record) {
            Conclusion::Pending => return None,
            Conclusion::Over(result) => result,
            Conclusion::Resume(_) if self.credits == 0 => Err(Fault::Declined),
            Conclusion::Resume(rest) => match self.resubmit(slot, &rest) {
                Ok(()) => {
                    self.credits -= 1;
                    self.active.push(Entry::Alone(slot));
                    return Some(true);
                }
                Err(fault) => Err(fault),
            },
        };
        self.report(slot, result, done);
        Some(result.is_err())
    }

    /// What the record of a batch of `count` members says; `None` if that makes no sense or the device has
    /// failed: then the queue breaks down, and what is in hand ends when it is closed.
    fn end_of(&mut self, record: &RecordView, count: usize) -> Option<End> {
        let run = |completed: u32| usize::try_from(completed).unwrap_or(usize::MAX).min(count);
        match record.outcome() {
            Outcome::Success => Some(End::All),
            Outcome::BatchFailed { completed } => Some(End::Failed(run(completed))),
            Outcome::BatchPageFault { completed, .. } => Some(End::List(run(completed))),
            Outcome::Failed {
                code,
                class: Class::Config | Class::Programming | Class::Split | Class::Cpu,
            } => {
                tracing::warn!("a DSA queue refused a batch with status {code:#04x}; going on without");
                self.batching = false;
                Some(End::Refused)
            }
            _ => {
                self.break_down(Fault::Device(record.status()));
                None
            }
        }
    }
}
