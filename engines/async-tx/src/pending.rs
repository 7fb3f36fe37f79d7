//! Batches: what is gathered for a backend is issued in one call, when there is enough of it or when the
//! caller says so.

use crate::backend::{Caps, OpToken, ReadyOp};
use crate::check::CheckedOp;
use crate::clock::Nanos;
use crate::engine::Engine;
use crate::flight::State;
use crate::op::{Op, OpKind};
use crate::slab::Key;
use crate::slot::{Slot, Waiter};

/// The most operations issued in one call.
const BATCH_MAX: usize = 64;

/// A step in the hands of a backend.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InHand {
    pub(crate) flight: Key,
    pub(crate) node: usize,
    pub(crate) slot: usize,
    pub(crate) kind: Option<OpKind>,
    pub(crate) deadline: Nanos,
}

impl Slot {
    /// Whether the pending list is worth being issued, or can take no more.
    pub(crate) fn is_full(&self) -> bool {
        let Some(backend) = &self.backend else { return false };
        self.pending.len() >= backend.batch().clamp(1, BATCH_MAX) || self.room() == 0
    }
}

impl Engine {
    /// Issues the pending list of a backend.
    pub(crate) fn issue(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        if slot.pending.is_empty() {
            return;
        }
        let mut list = std::mem::take(&mut slot.pending);
        self.last_batch += 1;
        slot.batch = self.last_batch;
        slot.pending_kinds = Caps::NONE;
        // Small lists do not pay for clearing a large array.
        let taken = match list.len() {
            1 => self.hand_over::<1>(index, &list),
            2..=8 => self.hand_over::<8>(index, &list),
            _ => self.hand_over::<BATCH_MAX>(index, &list),
        };
        self.take_back(&list[taken..]);
        list.clear();
        if let Some(slot) = self.slots.get_mut(index) {
            slot.pending = list;
        }
    }

    /// Submits the first `N` of `list`; returns how many were taken.
    fn hand_over<const N: usize>(&mut self, index: usize, list: &[Waiter]) -> usize {
        let Engine { slots, flights, hands, steps, clock, config, .. } = self;
        let Some(slot) = slots.get_mut(index) else { return 0 };
        let Some(backend) = &mut slot.backend else { return 0 };
        let mut keys = [Key::default(); N];
        let mut cut = [None; N];
        steps.clear();
        for ((waiter, key), cut) in list.iter().zip(&mut keys).zip(&mut cut) {
            let (entry, hand) = hands.insert();
            *key = entry;
            *hand = InHand { flight: waiter.flight, node: waiter.node, slot: index, ..InHand::default() };
            let Some(flight) = flights.get(waiter.flight) else { continue };
            let op = flight.chain.as_ref().and_then(|chain| chain.op(waiter.node));
            let (Some(op), Some(run)) = (op, flight.runs.get(waiter.node)) else { continue };
            match run.began {
                Some((_, plan)) if plan.steps() > 1 => *cut = steps.push(op, &plan, run.step),
                _ => {}
            }
        }
        let mut ops = [ReadyOp { token: OpToken(0), op: CheckedOp(Op::Notify), fence: false }; N];
        let mut count = 0;
        for (((waiter, key), cut), ready) in list.iter().zip(&keys).zip(&cut).zip(&mut ops) {
            let whole = || flights.get(waiter.flight)?.chain.as_ref()?.op(waiter.node);
            let Some(op) = cut.map_or_else(whole, |step| steps.get(step)) else { break };
            *ready = ReadyOp { token: OpToken(key.to_bits()), op, fence: waiter.fence };
            count += 1;
        }
        let ops = &ops[..count];
        let taken = backend.submit(ops).min(count);
        slot.in_hand += taken;
        slot.stats.batches += u64::from(taken > 0);
        slot.stats.queue_full += (list.len() - taken) as u64;
        let now = if taken > 0 { clock.now() } else { Nanos::NEVER };
        for (ready, key) in ops[..taken].iter().zip(&keys) {
            let (kind, len) = (ready.op.kind(), ready.op.len());
            slot.stats.fences += u64::from(ready.fence);
            slot.stats.submitted += 1;
            slot.stats.kinds[kind as usize].submitted += 1;
            slot.stats.kinds[kind as usize].bytes += len as u64;
            if let Some(hand) = hands.get_mut(*key) {
                (hand.kind, hand.deadline) = (Some(kind), now.after(config.timeout(len)));
                slot.check_at = slot.check_at.min(hand.deadline);
            }
        }
        for waiter in &list[..taken] {
            if let Some(run) = flights.get_mut(waiter.flight).and_then(|f| f.runs.get_mut(waiter.node)) {
                run.state = State::InHand;
            }
        }
        for key in keys[..list.len().min(N)].iter().skip(taken) {
            hands.remove(*key);
        }
        taken
    }

    /// Gives nodes that a backend did not take to the CPU: at once, or when those before their fence have
    /// ended.
    pub(crate) fn take_back(&mut self, list: &[Waiter]) {
        for waiter in list {
            let Some(flight) = self.flights.get_mut(waiter.flight) else { continue };
            flight.outstanding = flight.outstanding.saturating_sub(1);
            let Some(run) = flight.runs.get_mut(waiter.node) else { continue };
            run.retry = true;
            run.checked = false;
            if run.waits_for > 0 {
                run.state = State::Waiting;
            } else {
                run.state = State::Ready;
                self.ready.push_back((waiter.flight, waiter.node));
            }
        }
    }
}
