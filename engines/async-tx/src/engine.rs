//! The engine: takes chains, routes each operation, and reports how each chain ended.
//!
//! A chain of which every operation runs on the CPU is executed in order inside [`Engine::submit`], with
//! no queue. Any other chain becomes a [`Flight`]: its nodes are handed out as their dependencies end, and
//! [`Engine::poll`] moves it on.

use std::collections::VecDeque;

use crate::backend::{Backend, Completion, Inline, OpToken, ReadyOp};
use crate::check::CheckedOp;
use crate::flight::Flight;
use crate::op::{Op, Verdict};
use crate::route::{Cut, Scratch, fit, step_of};
use crate::stats::{BackendStats, EngineStats};
use crate::{Chain, EngineError, Fault};

/// The most empty chains kept for reuse.
const SPARE_MAX: usize = 64;
/// The most operations handed to a backend in one call.
const BATCH: usize = 16;

/// How a chain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainDone {
    /// The tag that it was submitted with.
    pub tag: u64,
    /// What its checks found. On an error its destinations hold anything.
    pub result: Result<Verdict, EngineError>,
}

/// A backend and what the engine knows about it.
struct Slot {
    backend: Box<dyn Backend>,
    stats: BackendStats,
}

/// A step in the hands of a backend.
#[derive(Clone, Copy)]
struct InHand {
    backend: usize,
    serial: u64,
    node: usize,
}

/// An entry of the table of steps in hand. The generation tells a late or doubled completion of an
/// earlier step from that of the present one.
#[derive(Default)]
struct Entry {
    generation: u32,
    step: Option<InHand>,
}

/// Runs chains on a list of backends, with the CPU behind them all.
///
/// One thread uses it at a time; it may be moved between threads. Dropping it drops the backends, which
/// return only when nothing reads or writes the regions of unfinished chains any more.
pub struct Engine {
    cpu: Box<dyn Inline>,
    slots: Vec<Slot>,
    flights: Vec<Flight>,
    /// Nodes (with their flight's serial) that can start, or go on with the next step.
    ready: VecDeque<(u64, usize)>,
    table: Vec<Entry>,
    free: Vec<usize>,
    /// Ended chains with their serial, in the order in which they ended.
    done: Vec<(u64, ChainDone)>,
    completions: Vec<Completion>,
    spare: Vec<Chain>,
    scratch: Scratch,
    serial: u64,
    cpu_ops: u64,
    cpu_retries: u64,
    stray: u64,
}

impl Engine {
    /// An engine that runs everything on `cpu`.
    pub fn new(cpu: Box<dyn Inline>) -> Self {
        Engine {
            cpu,
            slots: Vec::new(),
            flights: Vec::new(),
            ready: VecDeque::new(),
            table: Vec::new(),
            free: Vec::new(),
            done: Vec::new(),
            completions: Vec::new(),
            spare: Vec::new(),
            scratch: Scratch::default(),
            serial: 0,
            cpu_ops: 0,
            cpu_retries: 0,
            stray: 0,
        }
    }

    /// Adds a backend. An operation goes to the first one, in the order added, that can take it.
    #[must_use]
    pub fn with_backend(mut self, backend: Box<dyn Backend>) -> Self {
        let stats = BackendStats { name: backend.name().to_owned(), ..BackendStats::default() };
        self.slots.push(Slot { backend, stats });
        self
    }

    /// An empty chain, with the memory of one that ended.
    pub fn chain(&mut self) -> Chain {
        self.spare.pop().unwrap_or_default()
    }

    /// The number of chains that have not ended. While it is not zero, [`Engine::poll`] has to be called.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether [`Engine::poll`] has ended chains to report or unfinished ones to move on.
    pub fn wants_poll(&self) -> bool {
        !self.done.is_empty() || !self.flights.is_empty()
    }

    /// Starts a chain; its end is reported by [`Engine::poll`] under `tag`, which the engine does not
    /// look at. The chain may have ended before this returns.
    pub fn submit(&mut self, chain: Chain, tag: u64) {
        self.start(chain, tag);
    }

    /// Moves unfinished chains on and appends those that ended to `done`. Does not block.
    pub fn poll(&mut self, done: &mut Vec<ChainDone>) {
        self.advance();
        done.extend(self.done.drain(..).map(|(_, done)| done));
    }

    /// Runs a chain to its end on the calling thread, waiting for backends where they take part. The
    /// result, in memory and in the verdict, is that of [`Engine::submit`].
    pub fn run(&mut self, chain: Chain) -> Result<Verdict, EngineError> {
        if self.runs_inline(&chain) {
            let result = self.run_inline(&chain);
            self.recycle(chain);
            return result;
        }
        let serial = self.start(chain, 0);
        let mut turns = 0u32;
        loop {
            if let Some(at) = self.done.iter().position(|(ended, _)| *ended == serial) {
                return self.done.remove(at).1.result;
            }
            self.advance();
            turns = turns.saturating_add(1);
            if turns < 1000 {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Counters since the engine was made.
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            cpu: self.cpu.name().to_owned(),
            cpu_ops: self.cpu_ops,
            cpu_retries: self.cpu_retries,
            stray_completions: self.stray,
            backends: self.slots.iter().map(|slot| slot.stats.clone()).collect(),
        }
    }

    fn start(&mut self, chain: Chain, tag: u64) -> u64 {
        self.serial += 1;
        let serial = self.serial;
        if self.runs_inline(&chain) {
            let result = self.run_inline(&chain);
            self.recycle(chain);
            self.done.push((serial, ChainDone { tag, result }));
        } else {
            let flight = Flight::new(serial, tag, chain);
            self.ready.extend(flight.roots().map(|node| (serial, node)));
            self.flights.push(flight);
            self.dispatch();
        }
        serial
    }

    fn recycle(&mut self, mut chain: Chain) {
        if self.spare.len() < SPARE_MAX {
            chain.clear();
            self.spare.push(chain);
        }
    }

    /// Whether no operation of the chain has a backend that takes it.
    fn runs_inline(&self, chain: &Chain) -> bool {
        self.slots.is_empty() || chain.ops().all(|op| self.route(&op).is_none())
    }

    fn run_inline(&mut self, chain: &Chain) -> Result<Verdict, EngineError> {
        let mut verdict = Verdict::default();
        for (node, op) in chain.ops().enumerate() {
            let found = execute(&mut *self.cpu, &op).map_err(|fault| EngineError::Cpu { node, fault })?;
            verdict = verdict.or(found);
        }
        self.cpu_ops += chain.len() as u64;
        Ok(verdict)
    }

    /// The first healthy backend that can take `op`, and how the operation is cut for it.
    fn route(&self, op: &Op<'_>) -> Option<(usize, Cut)> {
        self.slots.iter().enumerate().filter(|(_, slot)| !slot.stats.quarantined).find_map(|(i, slot)| {
            let cut = fit(op, slot.backend.caps(), |kind| slot.backend.limits(kind))?;
            Some((i, cut))
        })
    }

    /// Takes in completions and hands out what they released, until nothing more is at hand.
    fn advance(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        for backend in 0..self.slots.len() {
            let mut completions = std::mem::take(&mut self.completions);
            self.slots[backend].backend.reap(&mut completions);
            for completion in completions.drain(..) {
                self.complete(backend, completion);
            }
            self.completions = completions;
        }
        self.dispatch();
    }

    fn complete(&mut self, backend: usize, completion: Completion) {
        let Some(step) = self.take_in_hand(backend, completion.token) else {
            self.stray += 1;
            return;
        };
        let Some(at) = self.flight(step.serial) else { return };
        self.flights[at].outstanding -= 1;
        match completion.result {
            Ok(verdict) => {
                self.slots[backend].stats.completed += 1;
                self.step_ended(at, step.node, verdict);
            }
            Err(_) => {
                let stats = &mut self.slots[backend].stats;
                stats.failed += 1;
                stats.quarantined = true;
                self.finish_on_cpu(at, step.node);
            }
        }
        self.close_if_over(step.serial);
    }

    /// A step on a backend ended well: the next one follows, or the node has ended.
    fn step_ended(&mut self, at: usize, node: usize, verdict: Verdict) {
        let flight = &mut self.flights[at];
        let serial = flight.serial;
        let run = &mut flight.runs[node];
        run.step += 1;
        let more = run.route.is_some_and(|(_, cut)| run.step < cut.steps());
        if more {
            flight.verdict = flight.verdict.or(verdict);
            self.ready.push_back((serial, node));
        } else {
            flight.end(node, verdict, |released| self.ready.push_back((serial, released)));
        }
    }

    /// Starts every node that is ready, on the CPU or on a backend.
    fn dispatch(&mut self) {
        let mut batch = [(0, 0); BATCH];
        while let Some((serial, node)) = self.ready.pop_front() {
            let Some(at) = self.flight(serial) else { continue };
            if self.flights[at].error.is_some() {
                continue;
            }
            let Some((backend, cut)) = self.route_node(at, node) else {
                self.finish_on_cpu(at, node);
                self.close_if_over(serial);
                continue;
            };
            batch[0] = (serial, node);
            let mut count = 1;
            // Whole operations for the same backend go along; a step of a cut one needs the scratch.
            while cut.steps() == 1 && count < BATCH {
                let Some(&(serial, node)) = self.ready.front() else { break };
                let Some(at) = self.flight(serial) else { break };
                let joins = self.route_node(at, node).is_some_and(|(b, c)| b == backend && c.steps() == 1);
                if !joins || self.flights[at].error.is_some() {
                    break;
                }
                self.ready.pop_front();
                batch[count] = (serial, node);
                count += 1;
            }
            self.hand_over(backend, &batch[..count]);
        }
    }

    /// Where the next step of a node runs: where it began if that is healthy, else as routed.
    fn route_node(&mut self, at: usize, node: usize) -> Option<(usize, Cut)> {
        let flight = &self.flights[at];
        let run = flight.runs[node];
        if run.step > 0 {
            return run.route.filter(|(backend, _)| !self.slots[*backend].stats.quarantined);
        }
        let route = self.route(&*flight.chain.op(node)?);
        self.flights[at].runs[node].route = route;
        route
    }

    /// Submits the next step of each node to a backend; what it does not take runs on the CPU.
    fn hand_over(&mut self, backend: usize, nodes: &[(u64, usize)]) {
        let mut ops = [ReadyOp { token: OpToken(0), op: CheckedOp(Op::Notify), fence: false }; BATCH];
        let mut tokens = [OpToken(0); BATCH];
        for ((serial, node), token) in nodes.iter().zip(&mut tokens) {
            *token = self.put_in_hand(InHand { backend, serial: *serial, node: *node });
        }
        let Engine { flights, slots, scratch, .. } = self;
        let mut scratch = Some(scratch);
        for (i, (serial, node)) in nodes.iter().enumerate() {
            let Some(flight) = flights.iter().find(|flight| flight.serial == *serial) else { continue };
            let (Some(op), Some(run)) = (flight.chain.op(*node), flight.runs.get(*node)) else { continue };
            let op = match (run.route, scratch.take()) {
                (Some((_, cut)), Some(room)) if cut.steps() > 1 => step_of(op, &cut, run.step, room),
                (_, room) => {
                    scratch = room;
                    op
                }
            };
            ops[i] = ReadyOp { token: tokens[i], op, fence: false };
        }
        let slot = &mut slots[backend];
        let taken = slot.backend.submit(&ops[..nodes.len()]).min(nodes.len());
        slot.stats.submitted += taken as u64;
        slot.stats.queue_full += (nodes.len() - taken) as u64;
        for (i, (serial, node)) in nodes.iter().enumerate() {
            if i >= taken {
                self.take_in_hand(backend, tokens[i]);
            }
            let Some(at) = self.flight(*serial) else { continue };
            if i < taken {
                self.flights[at].outstanding += 1;
            } else {
                self.finish_on_cpu(at, *node);
                self.close_if_over(*serial);
            }
        }
    }

    /// Runs on the CPU what is left of a node: all of it, unless it works in place, where the steps that
    /// ended are done and the one that failed has changed nothing (`Limits::keeps_on_fault`).
    fn finish_on_cpu(&mut self, at: usize, node: usize) {
        let flight = &mut self.flights[at];
        let (Some(op), Some(run)) = (flight.chain.op(node), flight.runs.get(node)) else { return };
        self.cpu_ops += 1;
        self.cpu_retries += u64::from(run.route.is_some());
        let mut result = Ok(Verdict::default());
        match run.route {
            Some((_, cut)) if op.is_in_place() => {
                for step in run.step..cut.steps() {
                    let step = step_of(op, &cut, step, &mut self.scratch);
                    result = result.and_then(|sum| Ok(execute(&mut *self.cpu, &step)?.or(sum)));
                }
            }
            _ => result = execute(&mut *self.cpu, &op),
        }
        let serial = flight.serial;
        match result {
            Ok(verdict) => flight.end(node, verdict, |released| self.ready.push_back((serial, released))),
            Err(fault) => flight.error = Some(EngineError::Cpu { node, fault }),
        }
    }

    fn close_if_over(&mut self, serial: u64) {
        let Some(at) = self.flight(serial) else { return };
        if self.flights[at].is_over() {
            let Flight { tag, chain, verdict, error, .. } = self.flights.swap_remove(at);
            let result = error.map_or(Ok(verdict), Err);
            self.done.push((serial, ChainDone { tag, result }));
            self.recycle(chain);
        }
    }

    fn flight(&self, serial: u64) -> Option<usize> {
        self.flights.iter().position(|flight| flight.serial == serial)
    }

    fn put_in_hand(&mut self, step: InHand) -> OpToken {
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(Entry::default());
            self.table.len() - 1
        });
        let entry = &mut self.table[index];
        entry.step = Some(step);
        OpToken(u64::from(entry.generation) << 32 | index as u64)
    }

    /// Removes the step that `token` names, if it is in the hands of this backend.
    fn take_in_hand(&mut self, backend: usize, token: OpToken) -> Option<InHand> {
        let index = (token.0 & u64::from(u32::MAX)) as usize;
        let entry = self.table.get_mut(index)?;
        if u64::from(entry.generation) != token.0 >> 32 {
            return None;
        }
        let step = entry.step.take_if(|step| step.backend == backend)?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        Some(step)
    }
}

/// A node without bytes needs nobody.
fn execute(cpu: &mut dyn Inline, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
    if matches!(**op, Op::Notify) { Ok(Verdict::default()) } else { cpu.execute(op) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Engine>();
    }
}
