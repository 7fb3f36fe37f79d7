//! Taking work back: closing clients, halting, disabling, resetting, unplugging.

use engine_dsa::wire::status;

use super::run::straggles;
use super::{ClientId, Device, Event, Late, State};
use crate::faults::UNTIL_RELEASED;
use crate::record::{self, Record};

impl Device {
    /// Begins to take back all that a client has outstanding: it is dropped, but for what the plan lets
    /// straggle. May be repeated.
    pub fn begin_close(&mut self, client: ClientId) {
        match self.clients.get_mut(&client) {
            Some(found) if !found.closing => found.closing = true,
            _ => return,
        }
        let tick = self.tick;
        let late = |ticks: u32| if ticks == UNTIL_RELEASED { u64::MAX } else { tick + u64::from(ticks) };
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.queue).into_iter().partition(|entry| entry.client == client);
        self.queue = kept;
        for entry in gone {
            match straggles(&entry.decision) {
                Some(ticks) => {
                    let event = Event::Straggler(Box::new(entry));
                    self.late.push(Late { due: late(ticks), client, event });
                }
                None => self.counters.vanished += 1,
            }
        }
        let mut vanished = 0;
        self.late.retain_mut(|event| match &event.event {
            _ if event.client != client => true,
            Event::Straggler(_) => true,
            Event::Duplicate { .. } => false,
            Event::Record { straggle: Some(ticks), .. } => {
                event.due = event.due.min(late(*ticks));
                true
            }
            Event::Record { straggle: None, .. } => {
                vanished += 1;
                false
            }
        });
        self.counters.vanished += vanished;
    }

    /// Whether a client that began to close has nothing outstanding any more. A client that is not known
    /// has nothing.
    pub fn is_closed(&self, client: ClientId) -> bool {
        self.clients
            .get(&client)
            .is_none_or(|found| found.closing && self.late.iter().all(|late| late.client != client))
    }

    /// Closes a client and drops its stragglers, too: what a close does that waits for the device.
    pub fn close(&mut self, client: ClientId) {
        self.begin_close(client);
        self.late.retain(|late| late.client != client);
        self.clients.remove(&client);
    }

    /// Forgets clients that are closed.
    pub(super) fn forget_closed(&mut self) {
        let closed: Vec<ClientId> =
            self.clients.keys().copied().filter(|client| self.is_closed(*client)).collect();
        for client in closed {
            self.clients.remove(&client);
        }
    }

    /// Drops everything outstanding.
    fn drop_all(&mut self) {
        self.counters.vanished += (self.queue.len() + self.late.len()) as u64;
        self.queue.clear();
        self.late.clear();
    }

    /// Halts the device: all that is outstanding vanishes, or (`complete`) ends with a hardware error; then
    /// nothing is accepted until a reset, which comes by itself after `recover` ticks if there are any.
    pub fn halt(&mut self, complete: bool, recover: Option<u32>) {
        self.counters.halts += 1;
        self.state = State::Halted;
        self.recover_at = recover.map(|ticks| self.later(ticks));
        if complete {
            for entry in std::mem::take(&mut self.queue) {
                let Some(client) = self.clients.get(&entry.client) else { continue };
                let memory = std::sync::Arc::clone(&client.memory);
                let mut record = Record::new(status::HARDWARE);
                if self.config.poison {
                    record.poison(&mut self.rng);
                }
                if record::check_address(&entry.descriptor).is_ok()
                    && record::is_due(&entry.descriptor, &record)
                {
                    self.publish(&entry.descriptor, &record, &*memory);
                }
            }
        }
        self.drop_all();
    }

    /// Disables the queue: all that is outstanding vanishes, nothing is accepted.
    pub fn disable(&mut self) {
        self.counters.disables += 1;
        self.state = State::Disabled;
        self.recover_at = None;
        self.drop_all();
    }

    /// Enables the queue again, with the operations the plan leaves it.
    pub fn enable(&mut self) {
        self.state = State::Enabled;
        self.recover_at = None;
        if let Some(upcoming) = &mut self.upcoming {
            upcoming.retries = 0;
        }
        if let Some(op_cap) = self.config.faults.op_cap_after_reset {
            self.config.personality.op_cap = op_cap;
        }
    }

    /// Resets the device: all that is outstanding vanishes, retries for ever end, and it is enabled. Clients
    /// stay bound, as after a reset by which the driver restores its queues.
    pub fn reset(&mut self) {
        self.counters.resets += 1;
        self.drop_all();
        self.enable();
    }

    /// Takes the device away for good: everything outstanding vanishes, every client finds it gone.
    pub fn unplug(&mut self) {
        self.unplugged = true;
        self.drop_all();
    }
}
