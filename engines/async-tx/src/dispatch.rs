//! Where each node runs: hands out what is ready, to the CPU at once and to backends by way of their
//! pending lists.

use crate::crosscheck::{agrees, is_checkable};
use crate::engine::Engine;
use crate::flight::State;
use crate::launch::execute;
use crate::op::{Op, OpKind, Seed};
use crate::route::{Choice, Health, Place, Question, Reason, route};
use crate::slab::Key;
use crate::slot::Waiter;
use crate::split::Cut;
use crate::{EngineError, Fault};

/// Where a ready node goes.
enum Next {
    Cpu(Why),
    Backend(usize, Cut),
}

/// Why a node runs on the CPU.
#[derive(Clone, Copy)]
pub(crate) enum Why {
    /// It was routed there.
    Routed(Reason),
    /// A backend failed it, gave it back or did not take it.
    Retry,
}

impl Engine {
    /// Starts all that can start, and what that releases, until nothing more is at hand.
    pub(crate) fn dispatch(&mut self) {
        loop {
            if let Some((key, node)) = self.ready.pop_front() {
                self.move_on(key, node);
            } else if let Some(key) = self.starting.pop_front() {
                self.start(key);
            } else {
                return;
            }
        }
    }

    /// Where `op` is to run, behind a node that ran at `parent`.
    pub(crate) fn choose(&self, op: &Op<'_>, parent: Option<Place>) -> Choice {
        let kind = op.kind();
        if !self.offered.has(kind) {
            return Choice::Cpu(self.not_offered[kind as usize]);
        }
        let accepts = |slot: usize| {
            self.slots.get(slot).and_then(|slot| slot.backend.as_ref()).is_some_and(|b| b.accepts(op))
        };
        let question = Question::of(op, parent);
        route(&question, self.slots.iter().map(|slot| slot.candidate()), accepts)
    }

    /// Works out again for which kinds routing has to be asked, and why the others run on the CPU. A backend
    /// that is quarantined is asked about, too: what is too short for it, say, would not run there anyway.
    pub(crate) fn look_at_offers(&mut self) {
        let there = || self.slots.iter().filter(|slot| slot.backend.is_some());
        self.offered = there()
            .filter(|slot| slot.health != Health::Leaving)
            .map(|slot| slot.offered())
            .fold(crate::Caps::NONE, |all, some| all.or(some));
        self.not_offered = OpKind::ALL.map(|kind| {
            let mut present = there().filter(|slot| slot.health != Health::Leaving).peekable();
            if present.peek().is_none() {
                return Reason::NoBackend;
            }
            let reason = |slot: &crate::slot::Slot| match () {
                () if kind != OpKind::Notify && slot.profile.caps.has(kind) => Reason::Masked,
                () => Reason::NoCapability,
            };
            present.map(reason).max().unwrap_or(Reason::NoBackend)
        });
    }

    /// Does what is next for a node out of the ready queue.
    fn move_on(&mut self, key: Key, node: usize) {
        let Some(flight) = self.flights.get(key) else { return };
        let Some(run) = flight.runs.get(node) else { return };
        if flight.error.is_some() {
            return;
        }
        match run.state {
            State::Early => self.finalize(key, node),
            State::Waiting => self.join_batch(key, node),
            State::Ready => match self.next(key, node) {
                Next::Cpu(why) => self.finish_on_cpu(key, node, why),
                Next::Backend(slot, cut) => self.enlist(key, node, slot, cut, false),
            },
            State::Pending | State::InHand | State::Ended => {}
        }
    }

    /// Where a ready node goes: on, where it began, if that is well, else as routed.
    fn next(&self, key: Key, node: usize) -> Next {
        let found = self
            .flights
            .get(key)
            .and_then(|flight| Some((flight.chain.as_ref()?.op(node)?, flight.runs.get(node)?)));
        let Some((op, run)) = found else { return Next::Cpu(Why::Retry) };
        if run.retry {
            return Next::Cpu(Why::Retry);
        }
        match run.began {
            Some((berth, cut)) if run.step > 0 => match self.slots.get(berth.slot) {
                Some(slot) if slot.serves(berth) && slot.room() > 0 => Next::Backend(berth.slot, cut),
                _ => Next::Cpu(Why::Retry),
            },
            _ => match self.choose(&op, run.parent) {
                Choice::Cpu(reason) => Next::Cpu(Why::Routed(reason)),
                Choice::Backend { index, cut } => Next::Backend(index, cut),
            },
        }
    }

    /// Puts the next step of a node on the pending list of a backend, and issues the list if it is full.
    fn enlist(&mut self, key: Key, node: usize, index: usize, cut: Cut, fence: bool) {
        let Engine { flights, slots, ready, config, .. } = self;
        let (Some(flight), Some(slot)) = (flights.get_mut(key), slots.get_mut(index)) else { return };
        let Some(backend) = &slot.backend else { return };
        let Some(op) = flight.chain.as_ref().and_then(|chain| chain.op(node)) else { return };
        let (kind, checkable) = (op.kind(), is_checkable(&op));
        let Some(run) = flight.runs.get_mut(node) else { return };
        run.state = State::Pending;
        if run.step == 0 {
            run.began = Some((slot.berth(index), cut));
            slot.unchecked = slot.unchecked.saturating_add(1);
            run.checked = checkable && config.cross_check > 0 && slot.unchecked >= config.cross_check;
            if run.checked {
                slot.unchecked = 0;
            }
        }
        // What a node behind a fence reads has to be there when the device says so: a CRC is written
        // later, and what is checked is checked later.
        let shields = cut.steps() == 1
            && !run.checked
            && backend.fences().has(kind)
            && !matches!(kind, OpKind::Crc32c | OpKind::CopyCrc32c);
        flight.outstanding += 1;
        slot.pending.push(Waiter { flight: key, node, fence });
        slot.pending_kinds = slot.pending_kinds.with(kind);
        if shields {
            let batch = slot.batch;
            flight.each_successor(node, |after, run| {
                if run.batch != batch {
                    (run.batch, run.in_batch) = (batch, 0);
                }
                run.in_batch += 1;
                if run.in_batch == run.waits_for && run.state == State::Waiting && !run.retry {
                    run.parent = Some(Place::Backend(index));
                    ready.push_back((key, after));
                }
            });
        }
        if slot.is_full() {
            self.issue(index);
        }
    }

    /// Puts a node whose unfinished predecessors are all in one pending batch behind them, with a fence,
    /// if it can run there. If not, their ends release it.
    fn join_batch(&mut self, key: Key, node: usize) {
        let Some(flight) = self.flights.get(key) else { return };
        let Some(op) = flight.chain.as_ref().and_then(|chain| chain.op(node)) else { return };
        let Some(run) = flight.runs.get(node) else { return };
        let Some(Place::Backend(index)) = run.parent else { return };
        let Some(slot) = self.slots.get(index) else { return };
        // A fence waits for all before it, related or not.
        let kinds = slot.pending_kinds.with(op.kind());
        let fences = slot.backend.as_ref().is_some_and(|backend| backend.fences().covers(kinds));
        let seeded = matches!(
            *op,
            Op::Crc32c { seed: Seed::From(_), .. } | Op::CopyCrc32c { seed: Seed::From(_), .. }
        );
        // Should a backend run it before the fence after all, it could not be run again in place.
        let in_batch = run.batch == slot.batch && run.in_batch == run.waits_for && !slot.pending.is_empty();
        // Should one before it be given up although it ran, because its completion was lost, it runs again on
        // the CPU, and has to find what it reads as it was.
        let spoils = || {
            let mine = slot.pending.iter().filter(|waiter| waiter.flight == key);
            let mut before = mine.map(|waiter| flight.chain.as_ref().and_then(|chain| chain.op(waiter.node)));
            before.any(|before| before.is_none_or(|before| op.spoils(&before)))
        };
        if !fences || seeded || op.is_in_place() || !in_batch || spoils() {
            return;
        }
        match self.choose(&op, run.parent) {
            Choice::Backend { index: there, cut } if there == index && cut.steps() == 1 => {
                self.enlist(key, node, index, cut, true);
            }
            _ => {}
        }
    }

    /// Ends a node whose last step a backend completed, after a look at the result if it is its turn.
    pub(crate) fn finalize(&mut self, key: Key, node: usize) {
        let Engine { flights, slots, cpu, .. } = self;
        let Some(flight) = flights.get_mut(key) else { return };
        let Some(op) = flight.chain.as_ref().and_then(|chain| chain.op(node)) else { return };
        let Some(run) = flight.runs.get_mut(node) else { return };
        let Some((berth, _)) = run.began else { return };
        if run.checked {
            let good = agrees(&mut **cpu, &op, run.verdict);
            let kind = op.kind();
            if let Some(slot) = slots.get_mut(berth.slot) {
                slot.stats.cross_checks += 1;
                slot.stats.mismatches += u64::from(!good);
            }
            if !good {
                run.restart();
                self.mismatch(berth, kind);
                return self.finish_on_cpu(key, node, Why::Retry);
            }
        }
        let verdict = run.verdict;
        self.end_node(key, node, Some(Place::Backend(berth.slot)), verdict);
    }

    /// Runs on the CPU what is left of a node: all of it, unless it works in place, where the steps that
    /// ended are done and the one that failed has changed nothing (`Limits::keeps_on_fault`).
    pub(crate) fn finish_on_cpu(&mut self, key: Key, node: usize, why: Why) {
        let Engine { flights, cpu, steps, cpu_kinds, .. } = self;
        let Some(flight) = flights.get_mut(key) else { return };
        let Some(op) = flight.chain.as_ref().and_then(|chain| chain.op(node)) else { return };
        let Some(run) = flight.runs.get_mut(node) else { return };
        let counts = &mut cpu_kinds[op.kind() as usize];
        match why {
            Why::Routed(reason) => counts.reasons[reason as usize] += 1,
            Why::Retry => counts.retries += 1,
        }
        // Where nothing is computed, what follows stays where the one before ran.
        let place = if op.kind() == OpKind::Notify { run.parent } else { Some(Place::Cpu) };
        let result = match run.began {
            Some((_, cut)) if op.is_in_place() && run.step > 0 => {
                (run.step..cut.steps()).try_fold(run.verdict, |verdict, step| {
                    steps.clear();
                    let step = steps.push(op, &cut, step).and_then(|step| steps.get(step));
                    Ok(verdict.or(execute(&mut **cpu, &step.ok_or(Fault::Unsupported)?)?))
                })
            }
            _ => execute(&mut **cpu, &op),
        };
        match result {
            Ok(verdict) => self.end_node(key, node, place, verdict),
            Err(fault) => self.fail(key, EngineError::Cpu { node, fault }),
        }
    }

    fn end_node(&mut self, key: Key, node: usize, place: Option<Place>, verdict: crate::Verdict) {
        let Engine { flights, ready, .. } = self;
        if let Some(flight) = flights.get_mut(key) {
            flight.end(node, place, verdict, |released| ready.push_back((key, released)));
        }
        self.close_if_over(key);
    }

    /// Fails a chain: nothing more of it starts, and it ends when no backend has a part of it.
    fn fail(&mut self, key: Key, error: EngineError) {
        let Some(flight) = self.flights.get_mut(key) else { return };
        flight.error = flight.error.or(Some(error));
        for slot in &mut self.slots {
            let before = slot.pending.len();
            slot.pending.retain(|waiter| waiter.flight != key);
            flight.outstanding = flight.outstanding.saturating_sub(before - slot.pending.len());
        }
        self.close_if_over(key);
    }
}
