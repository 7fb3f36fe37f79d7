//! From operations to descriptors in the portal.

use async_tx::{Completion, Fault, OpToken, ReadyOp};

use super::slot::{Slot, translate};
use super::{Entry, PATIENCE, Queue};
use crate::portal::PortalError;
use crate::records::Line;
use crate::wire::{Descriptor, Opcode};

/// What a call to [`Queue::submit`] has prepared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Staged {
    /// For one descriptor of the call to the portal.
    Entry(Entry),
    /// For none: the device does not do this one.
    Declined(OpToken),
}

impl Queue {
    /// Takes the first operations of `ops`; says how many. Operations go in batches where there are some,
    /// and all descriptors of the call to the portal together.
    ///
    /// A fence holds within a batch only, so a fenced operation is taken only if all earlier ones of the
    /// call are in its batch, or if there are none.
    pub fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        if self.closing {
            return 0;
        }
        self.staged.clear();
        self.staging.clear();
        let mut rest = ops;
        while !rest.is_empty() && self.credits > 0 && !self.free.is_empty() {
            let first = rest.len() == ops.len();
            let count = self.stage(rest, first);
            if count == 0 {
                break;
            }
            rest = rest.get(count..).unwrap_or(&[]);
        }
        let sent = self.send();
        self.settle(sent)
    }

    /// Prepares a descriptor for some of `ops`; says for how many, none if the next one has to wait.
    fn stage(&mut self, ops: &[ReadyOp<'_>], first: bool) -> usize {
        let Some(op) = ops.first() else { return 0 };
        if op.fence && !first {
            return 0;
        }
        if self.batching && ops.len() > 1 && !self.free_batches.is_empty() {
            let count = self.stage_batch(ops, first);
            if count > 0 {
                return count;
            }
        }
        match self.place(op) {
            Some((slot, descriptor)) => {
                self.staging.push(descriptor);
                self.staged.push(Staged::Entry(Entry::Alone(slot)));
                self.credits -= 1;
            }
            None => self.staged.push(Staged::Declined(op.token)),
        }
        1
    }

    /// Prepares a batch of the first of `ops`; says of how many, none if fewer than two fit.
    fn stage_batch(&mut self, ops: &[ReadyOp<'_>], first: bool) -> usize {
        let Some(index) = self.free_batches.pop_front() else { return 0 };
        let Some(batch) = self.batches.get_mut(usize::from(index)) else { return 0 };
        let mut members = batch.take_members();
        for op in ops.iter().take(self.link.pool.size().list) {
            let fence = op.fence && !members.is_empty();
            if fence && !first {
                break;
            }
            let Some((slot, mut descriptor)) = self.place(op) else { break };
            if fence {
                match descriptor.with_fence() {
                    Ok(fenced) => descriptor = fenced,
                    Err(_) => {
                        self.unplace(slot);
                        break;
                    }
                }
            }
            self.link.pool.write_list(index, members.len(), &descriptor);
            members.push(super::batch::Member { slot, fence, reported: false, failed: false });
        }
        let built = match u32::try_from(members.len()) {
            Ok(count) => Descriptor::batch(self.link.pool.list_address(index), count)
                .and_then(|descriptor| descriptor.with_record(self.link.pool.address(Line::Batch(index)))),
            Err(_) => return 0,
        };
        let count = members.len();
        let Ok(descriptor) = built else {
            for member in members.drain(..).rev() {
                self.unplace(member.slot);
            }
            self.return_batch(index, members);
            return 0;
        };
        self.link.pool.arm(Line::Batch(index));
        if let Some(batch) = self.batches.get_mut(usize::from(index)) {
            batch.begin(members);
        }
        self.staging.push(descriptor);
        self.staged.push(Staged::Entry(Entry::Batch(index)));
        self.credits -= 1;
        count
    }

    fn return_batch(&mut self, index: u16, members: Vec<super::batch::Member>) {
        if let Some(batch) = self.batches.get_mut(usize::from(index)) {
            batch.give_back(members);
        }
        self.free_batches.push_front(index);
    }

    /// Gives an operation a slot and builds its descriptor; `None` if there is no slot, or if the device
    /// does not do it.
    fn place(&mut self, op: &ReadyOp<'_>) -> Option<(u16, Descriptor)> {
        if !self.caps().has(op.op.kind()) || op.op.len() as u64 > self.setup.max_transfer {
            return None;
        }
        let slot = *self.free.front()?;
        let (work, mut descriptor) = translate(op)?;
        descriptor = descriptor.with_record(self.link.pool.address(Line::Slot(slot))).ok()?;
        if self.cache_control {
            descriptor = descriptor.with_cache_control();
        }
        self.free.pop_front();
        *self.slots.get_mut(usize::from(slot))? = Slot { work: Some(work), descriptor, resumed: 0 };
        self.link.pool.arm(Line::Slot(slot));
        Some((slot, descriptor))
    }

    fn unplace(&mut self, slot: u16) {
        if let Some(entry) = self.slots.get_mut(usize::from(slot)) {
            *entry = Slot::default();
        }
        // No device was told of its line, so it need not rest.
        self.free.push_front(slot);
    }

    /// Hands the prepared descriptors to the portal; says how many it accepted. A queue that is gone may
    /// have accepted any: all count, and end when it is closed.
    fn send(&mut self) -> usize {
        let mut sent = 0;
        while let Some(rest) = self.staging.get(sent..).filter(|rest| !rest.is_empty()) {
            match self.link.portal.submit(rest) {
                Ok(0) | Err(PortalError::Retry) => {
                    self.counters.full.add(1);
                    self.full_in_a_row += 1;
                    // An idle queue that stays full was disabled, and says so in no other way.
                    if sent == 0 && self.active.is_empty() && self.full_in_a_row > PATIENCE {
                        self.break_down(Fault::Gone);
                        sent = self.staging.len();
                    }
                    return sent;
                }
                Ok(count) => {
                    let count = count.min(rest.len());
                    self.full_in_a_row = 0;
                    self.counters.descriptors.add(count as u64);
                    sent += count;
                }
                Err(PortalError::Refused(libc::EINVAL))
                    if rest.first().is_some_and(|d| d.opcode() == Opcode::Batch as u8) =>
                {
                    // The system does not let this process send batches to this device.
                    tracing::warn!("a DSA queue refuses batches; going on without");
                    self.batching = false;
                    return sent;
                }
                Err(error) => {
                    tracing::warn!(%error, "a DSA queue takes nothing any more");
                    self.break_down(Fault::Gone);
                    return self.staging.len();
                }
            }
        }
        sent
    }

    /// Sorts the staged operations by what the portal accepted; says how many operations were taken.
    fn settle(&mut self, sent: usize) -> usize {
        let (mut taken, mut seen) = (0, 0);
        let mut staged = std::mem::take(&mut self.staged);
        let mut left = staged.drain(..);
        for item in left.by_ref() {
            match item {
                Staged::Declined(token) => {
                    self.counters.declined.add(1);
                    self.early.push(Completion { token, result: Err(Fault::Declined) });
                    taken += 1;
                }
                Staged::Entry(entry) if seen < sent => {
                    seen += 1;
                    self.active.push(entry);
                    taken += self.started(entry);
                }
                Staged::Entry(entry) => {
                    self.take_back(entry);
                    break;
                }
            }
        }
        for item in left {
            if let Staged::Entry(entry) = item {
                self.take_back(entry);
            }
        }
        self.staged = staged;
        taken
    }

    /// Counts what an accepted entry holds; says how many operations these are.
    fn started(&self, entry: Entry) -> usize {
        let Entry::Batch(index) = entry else { return 1 };
        let Some(batch) = self.batches.get(usize::from(index)) else { return 0 };
        self.counters.batches.add(1);
        self.counters.members.add(batch.members().len() as u64);
        self.counters.fences.add(batch.members().iter().filter(|member| member.fence).count() as u64);
        batch.members().len()
    }

    /// Undoes an entry that the portal did not accept.
    fn take_back(&mut self, entry: Entry) {
        self.credits += 1;
        match entry {
            Entry::Alone(slot) => self.unplace(slot),
            Entry::Batch(index) => {
                let Some(batch) = self.batches.get_mut(usize::from(index)) else { return };
                let mut members = batch.take_members();
                for member in members.drain(..).rev() {
                    self.unplace(member.slot);
                }
                self.return_batch(index, members);
            }
        }
    }

    /// Submits the rest of an operation after a page fault, under the credit that it has.
    pub(super) fn resubmit(&mut self, slot: u16, rest: &Descriptor) -> Result<(), Fault> {
        self.link.pool.arm(Line::Slot(slot));
        match self.link.portal.submit(std::slice::from_ref(rest)) {
            Ok(0) | Err(PortalError::Retry) => Err(Fault::Declined),
            Ok(_) => {
                self.counters.descriptors.add(1);
                self.counters.resumed.add(1);
                if let Some(entry) = self.slots.get_mut(usize::from(slot)) {
                    entry.descriptor = *rest;
                    entry.resumed = entry.resumed.saturating_add(1);
                }
                Ok(())
            }
            // It may be under way all the same, so it stays in hand until the queue is closed.
            Err(_) => {
                self.break_down(Fault::Gone);
                Ok(())
            }
        }
    }
}
