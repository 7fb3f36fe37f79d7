//! How chains begin and end: at once on the CPU, or as a flight.

use crate::backend::{Caps, Inline};
use crate::check::CheckedOp;
use crate::engine::{ChainDone, Engine};
use crate::op::{Op, OpKind, Verdict};
use crate::route::{Choice, Place};
use crate::slab::Key;
use crate::tx::{Done, Outcome, Report};
use crate::{Chain, EngineError, Fault};

/// The most empty chains kept for reuse.
const SPARE_MAX: usize = 64;

impl Engine {
    /// Makes a flight of a chain that waits for no other, and starts it.
    pub(crate) fn launch(&mut self, chain: Chain, report: Report) {
        let (key, flight) = self.flights.insert();
        flight.board(chain, report);
        self.take_off(key);
        self.dispatch();
    }

    /// Starts a flight that waits for no other any more.
    pub(crate) fn start(&mut self, key: Key) {
        let Some(flight) = self.flights.get_mut(key) else { return };
        if flight.error.is_some() {
            return self.close_if_over(key);
        }
        let Some(chain) = flight.chain.take() else { return };
        if self.runs_inline(&chain) {
            let computes = chain.kinds().without(OpKind::Notify) != Caps::NONE;
            let outcome = self.run_inline(chain);
            if let Some(flight) = self.flights.get_mut(key).filter(|_| computes) {
                flight.place = Some(Place::Cpu);
            }
            self.close(key, outcome);
        } else {
            if let Some(flight) = self.flights.get_mut(key) {
                flight.chain = Some(chain);
            }
            self.take_off(key);
        }
    }

    fn take_off(&mut self, key: Key) {
        let Engine { flights, sweep, ready, .. } = self;
        if let Some(flight) = flights.get_mut(key) {
            flight.take_off(sweep, |node| ready.push_back((key, node)));
        }
    }

    /// Whether no operation of the chain has a backend that takes it. Notes why.
    pub(crate) fn runs_inline(&mut self, chain: &Chain) -> bool {
        if !chain.kinds().intersects(self.offered) {
            self.reasons.clear();
            return true;
        }
        let mut reasons = std::mem::take(&mut self.reasons);
        reasons.clear();
        let inline = chain.ops().all(|op| match self.choose(&op, None) {
            Choice::Cpu(reason) => {
                reasons.push(reason);
                true
            }
            Choice::Backend { .. } => false,
        });
        self.reasons = reasons;
        inline
    }

    /// Runs a chain of which [`Engine::runs_inline`] just said that it does.
    pub(crate) fn run_inline(&mut self, chain: Chain) -> Outcome {
        let mut verdict = Verdict::default();
        let Engine { cpu, cpu_kinds, reasons, not_offered, .. } = self;
        let ran = chain.try_each(|node, kind, op| {
            let kind = kind as usize;
            let reason = reasons.get(node).copied().unwrap_or(not_offered[kind]);
            cpu_kinds[kind].reasons[reason as usize] += 1;
            verdict = verdict.or(execute(&mut **cpu, op).map_err(|fault| EngineError::Cpu { node, fault })?);
            Ok(())
        });
        self.recycle(chain);
        self.count(ran.is_err());
        ran.map(|()| verdict)
    }

    fn recycle(&mut self, mut chain: Chain) {
        if self.spare.len() < SPARE_MAX {
            chain.clear();
            self.spare.push(chain);
        }
    }

    fn count(&mut self, failed: bool) {
        self.chains += 1;
        self.chains_failed += u64::from(failed);
    }

    /// Closes a flight of which nothing is left.
    pub(crate) fn close_if_over(&mut self, key: Key) {
        let Some(flight) = self.flights.get_mut(key) else { return };
        if !flight.is_over() {
            return;
        }
        let outcome = flight.error.map_or(Ok(flight.verdict), Err);
        if let Some(chain) = flight.chain.take() {
            self.recycle(chain);
        }
        self.count(outcome.is_err());
        self.close(key, outcome);
    }

    /// Forgets a flight that ended so, tells who wants to know, and starts those that waited for it last.
    fn close(&mut self, key: Key, outcome: Outcome) {
        let Some(flight) = self.flights.remove(key) else { return };
        let report = std::mem::take(&mut flight.report);
        let place = flight.place;
        let mut followers = std::mem::take(&mut flight.followers);
        for follower in followers.drain(..) {
            let Some(flight) = self.flights.get_mut(follower) else { continue };
            flight.waits_for = flight.waits_for.saturating_sub(1);
            flight.place = place.or(flight.place);
            if outcome.is_err() {
                flight.error = flight.error.or(Some(EngineError::Dependency));
            }
            if flight.waits_for == 0 {
                self.starting.push_back(follower);
            }
        }
        if let Some(flight) = self.flights.removed(key) {
            flight.followers = followers;
        }
        self.report(report, outcome);
    }

    pub(crate) fn report(&mut self, report: Report, outcome: Outcome) {
        if let Some(index) = report.tx {
            self.wakers.extend(self.desk.end(index, outcome));
        }
        match report.done {
            Done::None => {}
            Done::Tag(tag) => self.done.push(ChainDone { tag, result: outcome }),
            Done::Callback(callback) => {
                self.callbacks.push_back((callback, ChainDone { tag: 0, result: outcome }));
            }
        }
    }
}

/// A node without bytes needs nobody.
#[inline]
pub(crate) fn execute(cpu: &mut dyn Inline, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
    if matches!(**op, Op::Notify) { Ok(Verdict::default()) } else { cpu.execute(op) }
}
