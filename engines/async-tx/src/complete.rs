//! What comes back from backends.

use crate::Fault;
use crate::backend::Completion;
use crate::dispatch::Why;
use crate::engine::Engine;
use crate::flight::State;
use crate::op::Verdict;
use crate::pending::InHand;
use crate::slab::Key;

impl Engine {
    /// Takes in completions, looks after backends that are late or were quarantined, and hands out what
    /// was released, until nothing more is at hand.
    pub(crate) fn advance(&mut self) {
        for index in 0..self.slots.len() {
            self.reap(index);
        }
        self.look_after();
        self.dispatch();
    }

    fn reap(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.in_hand > 0) else { return };
        let Some(backend) = slot.backend.as_mut() else { return };
        let mut completions = std::mem::take(&mut self.completions);
        backend.reap(&mut completions);
        for completion in completions.drain(..) {
            self.complete(index, completion);
        }
        self.completions = completions;
    }

    fn complete(&mut self, index: usize, completion: Completion) {
        let key = Key::from_bits(completion.token.0);
        let named = self.hands.get(key).copied().filter(|hand| hand.slot == index);
        let (Some(hand), Some(slot)) = (named, self.slots.get_mut(index)) else {
            self.stray += 1;
            return;
        };
        self.hands.remove(key);
        self.progress += 1;
        slot.in_hand = slot.in_hand.saturating_sub(1);
        if slot.in_hand == 0 {
            slot.check_at = crate::Nanos::NEVER;
        }
        let Some(flight) = self.flights.get_mut(hand.flight) else { return };
        flight.outstanding = flight.outstanding.saturating_sub(1);
        let Some(run) = flight.runs.get_mut(hand.node) else { return };
        let tainted = std::mem::take(&mut run.tainted);
        match completion.result {
            Ok(verdict) if !tainted => {
                self.count_end(hand, |kind| &mut kind.completed);
                self.step_ended(hand, verdict);
            }
            Ok(_) => self.step_failed(hand, Fault::Abandoned),
            Err(fault) => self.step_failed(hand, fault),
        }
        self.close_if_over(hand.flight);
    }

    fn count_end(&mut self, hand: InHand, counter: impl FnOnce(&mut crate::KindStats) -> &mut u64) {
        let Some(slot) = self.slots.get_mut(hand.slot) else { return };
        if let Some(kind) = hand.kind {
            *counter(&mut slot.stats.kinds[kind as usize]) += 1;
        }
    }

    /// A step ended well: the next one follows, or the node has ended.
    fn step_ended(&mut self, hand: InHand, verdict: Verdict) {
        let InHand { flight: key, node, .. } = hand;
        let Some(run) = self.flights.get_mut(key).and_then(|flight| flight.runs.get_mut(node)) else {
            return;
        };
        run.step += 1;
        run.verdict = run.verdict.or(verdict);
        if run.began.is_some_and(|(_, cut)| run.step < cut.steps()) {
            run.state = State::Ready;
            self.ready.push_back((key, node));
        } else if run.waits_for > 0 {
            run.state = State::Early;
        } else {
            self.finalize(key, node);
        }
    }

    /// A step failed or was given up; nothing of it is under way any more.
    fn step_failed(&mut self, hand: InHand, fault: Fault) {
        let InHand { flight: key, node, slot: index, kind, .. } = hand;
        self.count_end(hand, |kind| &mut kind.failed);
        if let Some(slot) = self.slots.get_mut(index) {
            match fault {
                Fault::Aborted => slot.stats.aborted += 1,
                Fault::Abandoned => slot.stats.abandoned += 1,
                Fault::Declined => slot.stats.declined += 1,
                _ => {}
            }
        }
        match fault {
            Fault::Abandoned => {}
            // It may have found out that it does not take everything it said.
            Fault::Declined => self.look_again(index),
            _ => self.quarantine(index, kind, fault),
        }
        let Some(flight) = self.flights.get_mut(key) else { return };
        flight.taint_successors(node);
        let failed = flight.error.is_some();
        let Some(op) = flight.chain.as_ref().and_then(|chain| chain.op(node)) else { return };
        let in_place = op.is_in_place();
        let Some(run) = flight.runs.get_mut(node) else { return };
        (run.retry, run.checked) = (true, false);
        if !in_place {
            run.restart();
        }
        if failed {
            return;
        }
        if run.waits_for > 0 {
            run.state = State::Waiting;
        } else {
            self.finish_on_cpu(key, node, Why::Retry);
        }
    }
}
