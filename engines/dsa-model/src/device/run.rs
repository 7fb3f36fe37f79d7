//! Executing entries and writing their records.

use std::sync::Arc;

use engine_dsa::wire::{Descriptor, Opcode, status};

use super::{ClientId, Device, Entry, Event, Late};
use crate::batch::BatchRun;
use crate::check;
use crate::faults::{Decision, Fault};
use crate::inject::{Injection, planned_page_fault};
use crate::memory::Memory;
use crate::record::{self, Record};
use crate::view::View;

impl Device {
    /// Executes the entry at `index`, or one member of it if it is a batch.
    pub(super) fn run(&mut self, index: usize) {
        let mut entry = self.queue.remove(index);
        let Some(memory) = self.memory_of(entry.client) else { return };
        if self.upset(&entry) {
            return;
        }
        if self.advance(&mut entry, &memory) {
            return;
        }
        // The batch goes on; it keeps its place.
        let index = index.min(self.queue.len());
        self.queue.insert(index, entry);
    }

    /// The address space of a client that is still there.
    fn memory_of(&mut self, client: ClientId) -> Option<Arc<dyn Memory>> {
        let memory = Arc::clone(&self.clients.get(&client)?.memory);
        if memory.is_gone() {
            self.counters.vanished += 1;
            return None;
        }
        Some(memory)
    }

    /// Does what the plan has for the whole device at this entry; whether the entry is thereby done with.
    fn upset(&mut self, entry: &Entry) -> bool {
        if entry.batch.is_some() {
            return false;
        }
        let found = entry.decision.find(|fault| {
            matches!(fault, Fault::Halt { .. } | Fault::Disable { .. } | Fault::Reset { .. })
                .then_some(*fault)
        });
        match found {
            Some(Fault::Halt { complete, recover }) => {
                self.queue.insert(0, entry.clone());
                self.halt(complete, Some(recover));
            }
            Some(Fault::Disable { recover }) => {
                self.counters.vanished += 1;
                self.disable();
                self.recover_at = Some(self.later(recover));
            }
            Some(Fault::Reset { straggler }) => {
                self.counters.vanished += u64::from(straggler.is_none());
                self.reset();
                if let Some(ticks) = straggler {
                    let event = Event::Straggler(Box::new(entry.clone()));
                    self.late.push(Late { due: self.later(ticks), client: entry.client, event });
                }
            }
            _ => return false,
        }
        true
    }

    /// Does one unit of work of an entry; whether it is done with.
    pub(super) fn advance(&mut self, entry: &mut Entry, memory: &Arc<dyn Memory>) -> bool {
        let d = entry.descriptor;
        if let Err(error) = record::check_address(&d) {
            self.error = Some(error);
            self.counters.record_faults += 1;
            return true;
        }
        if entry.decision.has(Fault::Lost { executed: false }) {
            self.counters.lost_records += 1;
            return true;
        }
        let planned_status = entry.decision.find(|f| matches!(f, Fault::Status { .. }).then_some(()));
        if d.opcode() == Opcode::Batch as u8 && planned_status.is_none() {
            return self.advance_batch(entry, memory);
        }
        let record = self.execute(&d, &mut entry.decision, &**memory);
        self.complete(entry, record, &**memory);
        true
    }

    fn execute(&mut self, d: &Descriptor, decision: &mut Decision, memory: &dyn Memory) -> Record {
        self.counters.executed += 1;
        Injection {
            executor: &mut self.executor,
            personality: &self.config.personality,
            memory,
            counters: &mut self.counters,
        }
        .run(d, decision)
    }

    fn advance_batch(&mut self, entry: &mut Entry, memory: &Arc<dyn Memory>) -> bool {
        let d = entry.descriptor;
        let Some(batch) = &mut entry.batch else {
            match check::check(&d, &self.config.personality) {
                Ok(op) => {
                    let mut view = View::new(&**memory);
                    let planned = planned_page_fault(&d, op, &mut entry.decision);
                    view.stop = planned.map(|planned| planned.stop());
                    self.counters.page_faults += u64::from(planned.is_some());
                    entry.batch = Some(BatchRun::open(&d, &mut view));
                    return false;
                }
                Err(record) => {
                    self.counters.executed += 1;
                    self.complete(entry, record, &**memory);
                    return true;
                }
            }
        };
        let shuffled = self.rng.chance(self.config.faults.reorder);
        let Some((index, member)) = batch.next(shuffled.then_some(&mut self.rng)) else {
            let record = batch.record();
            self.counters.executed += 1;
            self.complete(entry, record, &**memory);
            return true;
        };
        let plan = &self.config.faults;
        let mut decision = plan.decide(entry.number, index as u64 + 1, &member, &mut self.used);
        let succeeded = self.member(&member, &mut decision, &**memory);
        if let Some(batch) = &mut entry.batch {
            batch.ended(succeeded);
        }
        false
    }

    /// Executes a member and writes its record; whether it succeeded, as a fence sees it.
    fn member(&mut self, d: &Descriptor, decision: &mut Decision, memory: &dyn Memory) -> bool {
        if let Err(error) = record::check_address(d) {
            self.error = Some(error);
            self.counters.record_faults += 1;
            return false;
        }
        if decision.has(Fault::Lost { executed: false }) {
            self.counters.lost_records += 1;
            return true;
        }
        let record = if d.opcode() == Opcode::Batch as u8 {
            Record::new(status::BAD_OPCODE)
        } else {
            self.execute(d, decision, memory)
        };
        let written = if decision.has(Fault::Lost { executed: true }) {
            self.counters.lost_records += 1;
            true
        } else {
            let record = self.poisoned(record, decision);
            !record::is_due(d, &record) || self.publish(d, &record, memory)
        };
        record.succeeded() && written
    }

    fn poisoned(&self, mut record: Record, decision: &mut Decision) -> Record {
        if self.config.poison {
            record.poison(&mut decision.rng);
        }
        record
    }

    /// Ends a top-level descriptor: its record is written now, later, twice or never.
    fn complete(&mut self, entry: &mut Entry, record: Record, memory: &dyn Memory) {
        let d = entry.descriptor;
        if !record::is_due(&d, &record) {
            return;
        }
        let record = self.poisoned(record, &mut entry.decision);
        let decision = &entry.decision;
        if decision.has(Fault::Lost { executed: true }) {
            self.counters.lost_records += 1;
            return;
        }
        let again = decision.find(|fault| if let Fault::Duplicate(t) = fault { Some(*t) } else { None });
        let delay = decision.find(|fault| if let Fault::DelayRecord(t) = fault { Some(*t) } else { None });
        let straggle = straggles(decision);
        match delay.filter(|ticks| *ticks > 0) {
            Some(ticks) => {
                self.counters.delayed += 1;
                let event = Event::Record { descriptor: d, record, straggle };
                self.late.push(Late { due: self.later(ticks), client: entry.client, event });
            }
            None => {
                self.publish(&d, &record, memory);
            }
        }
        if let Some(ticks) = again {
            let event = Event::Duplicate { descriptor: d, record };
            let due = self.later(ticks.saturating_add(delay.unwrap_or(0)));
            self.late.push(Late { due, client: entry.client, event });
        }
    }

    /// Writes a record; whether that was possible.
    pub(super) fn publish(&mut self, d: &Descriptor, record: &Record, memory: &dyn Memory) -> bool {
        match record::write(d, record, memory) {
            Ok(()) => {
                self.counters.records += 1;
                true
            }
            Err(error) => {
                self.error = Some(error);
                self.counters.record_faults += 1;
                false
            }
        }
    }

    /// Something late happens.
    pub(super) fn happen(&mut self, late: Late) {
        let Some(memory) = self.memory_of(late.client) else { return };
        match late.event {
            Event::Record { descriptor, record, .. } => {
                self.publish(&descriptor, &record, &*memory);
            }
            Event::Duplicate { descriptor, record } => {
                self.counters.duplicated += u64::from(self.publish(&descriptor, &record, &*memory));
            }
            Event::Straggler(mut entry) => {
                self.counters.stragglers += 1;
                // A batch ends after its members and its record: as many steps as it has members, and two.
                while !self.advance(&mut entry, &memory) {}
            }
        }
    }
}

/// By how many ticks an entry outlives the beginning of a close.
pub(super) fn straggles(decision: &Decision) -> Option<u32> {
    decision.find(|fault| if let Fault::StraggleOnClose(ticks) = fault { Some(*ticks) } else { None })
}
