//! Backends that fail: deadlines, quarantine, probing, and removal at run time.
//!
//! A backend that fails an operation or keeps it for too long gets nothing more and is told to give up
//! what it has. Each operation stays in its hands, and its memory out of use, until it comes back; then
//! it counts if it ended well, and runs on the CPU if not. Of a backend that computed wrongly nothing counts
//! any more. When all have come back, the backend is asked from time to time whether it works again.

use std::sync::Arc;
use std::time::Duration;

use crate::Fault;
use crate::alert::Alert;
use crate::backend::{Backend, Caps, Revival};
use crate::clock::Nanos;
use crate::engine::Engine;
use crate::flight::Berth;
use crate::op::OpKind;
use crate::route::Health;
use crate::slot::Slot;
use crate::stats::BackendStats;
use crate::thresholds::Thresholds;

/// The most alerts that are kept for a caller that does not take them.
const ALERTS_MAX: usize = 256;
/// How soon a backend that cannot tell yet whether it works is worth being asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1);

impl Engine {
    /// Adds a backend, also while chains are in flight.
    pub fn add_backend(&mut self, backend: Box<dyn Backend>, thresholds: Thresholds) {
        let mut slot = Slot::new(backend, thresholds, true);
        self.last_batch += 1;
        (slot.batch, slot.added) = (self.last_batch, self.last_batch);
        // One that comes and goes takes its old place, and goes on with its counters.
        let old = self.slots.iter_mut().find(|old| old.backend.is_none() && old.name == slot.name);
        match old {
            Some(old) => {
                slot.epoch = old.epoch.wrapping_add(1);
                slot.stats = std::mem::take(&mut old.stats);
                *old = slot;
            }
            None => self.slots.push(slot),
        }
        self.look_at_offers();
    }

    /// Takes a backend out of use: it gets nothing more, gives up what it has, and is dropped when it
    /// has given back everything, in [`Engine::poll`] (see [`Alert::Removed`]). Does not block. Returns
    /// whether there is one of this name.
    pub fn remove_backend(&mut self, name: &str) -> bool {
        let named =
            |slot: &Slot| slot.backend.is_some() && slot.health != Health::Leaving && *slot.name == *name;
        let Some(index) = self.slots.iter().position(named) else { return false };
        self.set_aside(index, Health::Leaving);
        self.look_after();
        self.dispatch();
        true
    }

    /// Says whether a backend is on the NUMA node of the thread and its memory, as it is taken to be until
    /// this says otherwise. Of several of this name the one that was added last is meant, and none that is
    /// leaving. Returns whether there is one.
    pub fn set_near(&mut self, name: &str, near: bool) -> bool {
        let named = |slot: &&mut Slot| {
            slot.backend.is_some() && slot.health != Health::Leaving && *slot.name == *name
        };
        let slot = self.slots.iter_mut().filter(named).max_by_key(|slot| slot.added);
        slot.map(|slot| slot.near = near).is_some()
    }

    /// When [`Engine::poll`] has to be called at the latest although nobody submits anything and no
    /// backend completes anything: the next deadline or the next look at a quarantined backend. `None`:
    /// never.
    ///
    /// It does not speak of what is gathered and not issued: that has no deadline, and waits for
    /// [`Engine::issue_pending_all`].
    pub fn wake_at(&self) -> Option<Nanos> {
        self.slots.iter().filter_map(Slot::wake_at).min()
    }

    /// Gives alerts to [`Engine::take_alerts`].
    pub(crate) fn alert(&mut self, alert: Alert) {
        if self.alerts.len() == ALERTS_MAX {
            self.alerts.pop_front();
        }
        self.alerts.push_back(alert);
    }

    /// Asks a backend again what it takes. If that is something else, what is pending for it was routed on
    /// wrong terms.
    pub(crate) fn look_again(&mut self, index: usize) {
        if self.slots.get_mut(index).is_some_and(Slot::look_again) {
            self.look_at_offers();
            self.empty_list(index);
        }
    }

    /// A cross-check found a wrong result.
    pub(crate) fn mismatch(&mut self, berth: Berth, kind: OpKind) {
        let Some(slot) = self.slots.get(berth.slot).filter(|slot| slot.epoch == berth.epoch) else { return };
        let backend = Arc::clone(&slot.name);
        self.alert(Alert::Mismatch { backend, kind });
        self.quarantine(berth.slot, Some(kind), Fault::Mismatch);
        self.distrust(berth.slot);
    }

    /// Voids all that a backend has in hand, which runs on the CPU when it came back, however it ended. What
    /// works in place cannot be repeated and is believed, but nothing behind its fence is.
    fn distrust(&mut self, index: usize) {
        let Engine { hands, flights, .. } = self;
        for hand in hands.values_mut().filter(|hand| hand.slot == index) {
            let Some(flight) = flights.get_mut(hand.flight) else { continue };
            let op = flight.chain.as_ref().and_then(|chain| chain.op(hand.node));
            let in_place = op.is_none_or(|op| op.is_in_place());
            if let Some(run) = flight.runs.get_mut(hand.node) {
                run.tainted |= !in_place;
            }
            flight.taint_successors(hand.node);
        }
    }

    /// Gives a backend nothing more until it has proved that it works.
    pub(crate) fn quarantine(&mut self, index: usize, kind: Option<OpKind>, fault: Fault) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.is_good()) else { return };
        slot.stats.quarantines += 1;
        let backend = Arc::clone(&slot.name);
        let kind = kind.unwrap_or(OpKind::Notify);
        self.set_aside(index, Health::Quarantined);
        self.alert(Alert::Quarantined { backend, kind, fault });
    }

    /// Tells a backend to give up what it has; what it was to get goes elsewhere.
    fn set_aside(&mut self, index: usize, health: Health) {
        let now = self.clock.now();
        let (first, longest) = (self.config.probe_after, self.config.probe_max);
        let Some(slot) = self.slots.get_mut(index) else { return };
        let probing = &mut slot.probing;
        if slot.health == Health::Good {
            // One that fails again soon after it was revived is trusted less each time.
            probing.pause = match probing.revived {
                Some(revived) if now.since(revived) < longest => doubled(probing.pause, longest).max(first),
                _ => first,
            };
            (probing.since, probing.next) = (now, now.after(probing.pause));
            (probing.asked, probing.told) = (false, false);
        }
        slot.health = health;
        if let Some(backend) = slot.backend.as_mut() {
            backend.abort();
        }
        self.look_at_offers();
        self.empty_list(index);
    }

    /// Gives what is pending for a backend to the CPU.
    fn empty_list(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let mut list = std::mem::take(&mut slot.pending);
        self.last_batch += 1;
        slot.batch = self.last_batch;
        slot.pending_kinds = Caps::NONE;
        self.take_back(&list);
        list.clear();
        if let Some(slot) = self.slots.get_mut(index) {
            slot.pending = list;
        }
    }

    /// Looks for missed deadlines, and at those that are not well. Reads the clock only if there is
    /// something in hand or somebody is not well.
    pub(crate) fn look_after(&mut self) {
        let concerns = |slot: &Slot| slot.backend.is_some() && (slot.in_hand > 0 || !slot.is_good());
        if !self.slots.iter().any(concerns) {
            return;
        }
        let now = self.clock.now();
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index).filter(|slot| concerns(slot)) else { continue };
            match slot.health {
                Health::Good if now >= slot.check_at => self.expire(index, now),
                Health::Good => {}
                Health::Quarantined | Health::Leaving if slot.in_hand > 0 => self.urge(index, now),
                Health::Quarantined => self.probe(index, now),
                Health::Leaving => self.drop_backend(index),
            }
        }
    }

    /// Quarantines a backend if it has had an operation for too long. Deadlines are looked at one by one
    /// only when the earliest that there was has passed: about once a timeout.
    fn expire(&mut self, index: usize, now: Nanos) {
        let (mut late, mut kind, mut next) = (0, None, Nanos::NEVER);
        for hand in self.hands.values_mut().filter(|hand| hand.slot == index) {
            if hand.deadline <= now {
                late += 1;
                kind = kind.or(hand.kind);
            } else {
                next = next.min(hand.deadline);
            }
        }
        if let Some(slot) = self.slots.get_mut(index) {
            slot.check_at = next;
            slot.stats.timeouts += late;
        }
        if late > 0 {
            self.quarantine(index, kind, Fault::TimedOut);
        }
    }

    /// Tells a backend again to give up what it still has.
    fn urge(&mut self, index: usize, now: Nanos) {
        let longest = self.config.probe_max;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(backend) = slot.backend.as_mut().filter(|_| now >= slot.probing.next) else { return };
        backend.abort();
        slot.probing.wait(now, longest);
        let (backend, held, after) = (Arc::clone(&slot.name), slot.in_hand, now.since(slot.probing.since));
        if !std::mem::replace(&mut slot.probing.told, true) {
            self.alert(Alert::GivingUpLate { backend, held, after });
        }
    }

    /// Asks a backend with empty hands whether it works again.
    fn probe(&mut self, index: usize, now: Nanos) {
        let longest = self.config.probe_max;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let probing = &mut slot.probing;
        let Some(backend) = slot.backend.as_mut().filter(|_| probing.asked || now >= probing.next) else {
            return;
        };
        match backend.revive(now) {
            Revival::Pending => (probing.asked, probing.next) = (true, now.after(ASK_AGAIN)),
            Revival::Failed => {
                probing.asked = false;
                probing.wait(now, longest);
            }
            Revival::Ready => {
                (probing.asked, probing.revived) = (false, Some(now));
                let (backend, after) = (Arc::clone(&slot.name), now.since(probing.since));
                slot.health = Health::Good;
                slot.terms = slot.terms.wrapping_add(1);
                slot.stats.revived += 1;
                self.look_again(index);
                self.look_at_offers();
                self.alert(Alert::Revived { backend, after });
            }
        }
    }

    /// Drops a backend that has nothing in its hands.
    fn drop_backend(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.backend = None;
        let backend = Arc::clone(&slot.name);
        self.alert(Alert::Removed { backend });
        self.look_at_offers();
    }
}

impl crate::slot::Probing {
    /// Puts off the next look.
    fn wait(&mut self, now: Nanos, longest: Duration) {
        self.pause = doubled(self.pause, longest);
        self.next = now.after(self.pause);
    }
}

/// Twice the pause, but not more than the longest.
fn doubled(pause: Duration, longest: Duration) -> Duration {
    pause.saturating_mul(2).min(longest)
}

impl Slot {
    fn wake_at(&self) -> Option<Nanos> {
        self.backend.as_ref()?;
        match self.health {
            Health::Good => (self.in_hand > 0).then_some(self.check_at),
            Health::Quarantined | Health::Leaving => Some(self.probing.next),
        }
    }

    /// Its counters.
    pub(crate) fn report(&self) -> BackendStats {
        let sum = |counter: fn(&crate::KindStats) -> u64| self.stats.kinds.iter().map(counter).sum();
        let health = if self.backend.is_some() { self.health } else { Health::Leaving };
        BackendStats {
            name: (*self.name).to_owned(),
            health,
            quarantined: health == Health::Quarantined,
            submitted: sum(|kind| kind.submitted),
            completed: sum(|kind| kind.completed),
            failed: sum(|kind| kind.failed),
            in_hand: self.in_hand as u64,
            pending: self.pending.len() as u64,
            ..self.stats.clone()
        }
    }
}
