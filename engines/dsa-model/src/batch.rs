//! Lists of descriptors: fences, abandoned members and the batch's own record.
//!
//! [`BatchRun`] reads the list once, then hands out members one by one; the device executes them and tells
//! how they ended. Members between two fences may go in any order. A fence whose predecessors did not all
//! succeed abandons itself and all behind it; without a fence everything is executed. A list that runs into
//! a missing page ends after the members before it.

use engine_dsa::wire::{DESCRIPTOR_BYTES, Descriptor, at, flag, record_at, status};

use crate::check::address;
use crate::memory::MemFault;
use crate::record::Record;
use crate::rng::SplitMix64;
use crate::view::View;

/// A batch under way.
#[derive(Clone, Debug)]
pub(crate) struct BatchRun {
    members: Vec<Descriptor>,
    /// Where the list ended early.
    list_fault: Option<MemFault>,
    /// Members that may go now, in the order they will.
    ready: Vec<usize>,
    /// The first member that was not made ready yet.
    next: usize,
    /// A member did not succeed.
    failed: bool,
    /// The fence that found so.
    abandoned: Option<usize>,
}

impl BatchRun {
    /// Reads the list of a batch that passed its checks, so its count is bounded.
    pub(crate) fn open(batch: &Descriptor, view: &mut View<'_>) -> Self {
        let list = address(batch, at::SOURCE);
        let mut run = Self {
            members: Vec::new(),
            list_fault: None,
            ready: Vec::new(),
            next: 0,
            failed: false,
            abandoned: None,
        };
        for i in 0..u64::from(batch.size()) {
            let mut member = Descriptor::default();
            match view.read(list.wrapping_add(i * DESCRIPTOR_BYTES as u64), &mut member.0) {
                Ok(()) => run.members.push(member),
                Err(fault) => {
                    run.list_fault = Some(fault);
                    break;
                }
            }
        }
        run
    }

    /// The next member to execute: its index and itself. `None` when the batch is done. With `rng`, members
    /// between fences go in random order.
    pub(crate) fn next(&mut self, rng: Option<&mut SplitMix64>) -> Option<(usize, Descriptor)> {
        if self.ready.is_empty() {
            self.make_ready(rng);
        }
        let index = self.ready.pop()?;
        Some((index, *self.members.get(index)?))
    }

    fn make_ready(&mut self, rng: Option<&mut SplitMix64>) {
        let first = self.next;
        let fenced = |member: Option<&Descriptor>| member.is_some_and(|m| m.flags() & flag::FENCE != 0);
        if self.abandoned.is_some() {
            return;
        }
        if fenced(self.members.get(first)) && self.failed {
            self.abandoned = Some(first);
            return;
        }
        let behind = self.members.iter().enumerate().skip(first + 1);
        self.next = behind.clone().find(|(_, m)| fenced(Some(*m))).map_or(self.members.len(), |(i, _)| i);
        self.ready = (first..self.next).rev().collect();
        if let Some(rng) = rng {
            rng.shuffle(&mut self.ready);
        }
    }

    /// The last member handed out has ended; `succeeded` with status 1 and, if one was due, its record
    /// written.
    pub(crate) fn ended(&mut self, succeeded: bool) {
        self.failed |= !succeeded;
    }

    /// The batch's record, once [`next`](Self::next) gave `None`.
    pub(crate) fn record(&self) -> Record {
        if let Some(index) = self.abandoned {
            return Record::new(status::BATCH_FAILED).with_result(1).with_completed(index as u32);
        }
        let completed = self.members.len() as u32;
        match self.list_fault {
            Some(fault) => Record::new(status::BATCH_PAGE_FAULT)
                .with_completed(completed)
                .with(record_at::FAULT_ADDRESS, fault.addr.to_le_bytes()),
            None if self.failed => Record::new(status::BATCH_FAILED).with_result(1).with_completed(completed),
            None => Record::new(status::SUCCESS).with_completed(completed),
        }
    }
}
