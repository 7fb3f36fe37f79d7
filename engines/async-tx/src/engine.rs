//! The engine: takes chains, routes each operation, and reports how each chain ended.
//!
//! A chain of which every operation runs on the CPU is executed in order inside [`Engine::submit`], with
//! no queue and without a look at the clock. Any other chain becomes a `Flight`: its nodes are handed out
//! as what they wait for ends, and [`Engine::poll`] moves it on.
//!
//! This file has what callers use; how chains begin and end is in `launch`, how nodes are handed out in
//! `dispatch`, batches are in `pending`, what comes back in `complete`, and backends that fail in
//! `quarantine`.

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::alert::Alert;
use crate::backend::{Backend, Caps, Completion, Inline};
use crate::clock::{Clock, Monotonic, Nanos};
use crate::config::EngineConfig;
use crate::edges::Sweep;
use crate::flight::Flight;
use crate::op::{OpKind, Verdict};
use crate::pending::InHand;
use crate::route::Reason;
use crate::slab::{Key, Slab};
use crate::slot::Slot;
use crate::split::Steps;
use crate::stats::{CpuKind, EngineStats};
use crate::thresholds::Thresholds;
use crate::tx::{Dependency, Desk, Done, OnDone, Report, Submit, Tx};
use crate::{Chain, EngineError, WaitError};

/// So many turns of waiting are taken before others get the processor.
const SPIN_TURNS: u32 = 1000;

/// How a chain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChainDone {
    /// The tag that it was submitted with; 0 for a callback.
    pub tag: u64,
    /// What its checks found. On an error its destinations hold anything.
    pub result: Result<Verdict, EngineError>,
}

/// Runs chains on a list of backends, with the CPU behind them all.
///
/// One thread uses it at a time; it may be moved between threads. Dropping it drops the backends, which
/// return only when nothing reads or writes the regions of unfinished chains any more.
pub struct Engine {
    pub(crate) cpu: Box<dyn Inline>,
    pub(crate) clock: Box<dyn Clock>,
    pub(crate) config: EngineConfig,
    pub(crate) slots: Vec<Slot>,
    /// The kinds that some backend takes, if it is well.
    pub(crate) offered: Caps,
    /// For each other kind, why it is not among them.
    pub(crate) not_offered: [Reason; OpKind::COUNT],
    pub(crate) flights: Slab<Flight>,
    /// Flights whose dependencies have ended.
    pub(crate) starting: VecDeque<Key>,
    /// Nodes that can start or go on, or that may join a batch behind a fence.
    pub(crate) ready: VecDeque<(Key, usize)>,
    pub(crate) hands: Slab<InHand>,
    pub(crate) last_batch: u64,
    pub(crate) alerts: VecDeque<Alert>,
    pub(crate) steps: Steps,
    pub(crate) completions: Vec<Completion>,
    pub(crate) cpu_kinds: [CpuKind; OpKind::COUNT],
    pub(crate) stray: u64,
    /// Completions of operations that were in hand.
    pub(crate) progress: u64,
    pub(crate) sweep: Sweep,
    /// Why each operation of the chain at hand runs on the CPU.
    pub(crate) reasons: Vec<Reason>,
    /// What a chain that is being submitted comes after.
    pub(crate) befores: Vec<Key>,
    pub(crate) desk: Desk,
    pub(crate) done: Vec<ChainDone>,
    pub(crate) callbacks: VecDeque<(Arc<dyn OnDone>, ChainDone)>,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) spare: Vec<Chain>,
    pub(crate) chains: u64,
    pub(crate) chains_failed: u64,
}

impl Engine {
    /// An engine that runs everything on `cpu`.
    pub fn new(cpu: Box<dyn Inline>) -> Self {
        Engine {
            cpu,
            clock: Box::new(Monotonic::new()),
            config: EngineConfig::default(),
            slots: Vec::new(),
            offered: Caps::NONE,
            not_offered: [Reason::NoBackend; OpKind::COUNT],
            flights: Slab::default(),
            starting: VecDeque::new(),
            ready: VecDeque::new(),
            hands: Slab::default(),
            last_batch: 0,
            alerts: VecDeque::new(),
            steps: Steps::default(),
            completions: Vec::new(),
            cpu_kinds: [CpuKind::default(); OpKind::COUNT],
            stray: 0,
            progress: 0,
            sweep: Sweep::default(),
            reasons: Vec::new(),
            befores: Vec::new(),
            desk: Desk::default(),
            done: Vec::new(),
            callbacks: VecDeque::new(),
            wakers: Vec::new(),
            spare: Vec::new(),
            chains: 0,
            chains_failed: 0,
        }
    }

    /// Adds a backend, which gets what it says to be worth its overhead ([`crate::Limits::len_min`]).
    #[must_use]
    pub fn with_backend(self, backend: Box<dyn Backend>) -> Self {
        self.with_routed_backend(backend, Thresholds::default())
    }

    /// Adds a backend with thresholds of its own. Which one gets an operation is said by
    /// [`crate::route()`].
    #[must_use]
    pub fn with_routed_backend(mut self, backend: Box<dyn Backend>, thresholds: Thresholds) -> Self {
        self.add_backend(backend, thresholds);
        self
    }

    /// Sets times and rates.
    #[must_use]
    pub fn with_config(mut self, config: EngineConfig) -> Self {
        self.config = config;
        self
    }

    /// Sets the clock, before anything was submitted; [`Monotonic`] is the default.
    #[must_use]
    pub fn with_clock(mut self, clock: Box<dyn Clock>) -> Self {
        self.clock = clock;
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
        self.has_news() || self.flights.len() != 0
    }

    fn has_news(&self) -> bool {
        !(self.done.is_empty() && self.callbacks.is_empty() && self.wakers.is_empty())
    }

    /// The time of the engine's clock, which deadlines are compared with.
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// The handle's descriptors: those that can be used again, and all. A descriptor can when its chain
    /// has ended and was acknowledged.
    pub fn descriptors(&self) -> (usize, usize) {
        self.desk.counts()
    }

    /// Appends what happened to backends since the last call. Not more than the last 256 alerts are kept.
    pub fn take_alerts(&mut self, alerts: &mut Vec<Alert>) {
        alerts.extend(self.alerts.drain(..));
    }

    /// Starts a chain; its end is reported by [`Engine::poll`] under `tag`, which the engine does not
    /// look at. It is acknowledged: nothing can be made to wait for it. The chain may have ended before
    /// this returns.
    ///
    /// What goes to a backend may be gathered first ([`Backend::batch`]): after the last chain for now,
    /// call [`Engine::issue_pending_all`].
    pub fn submit(&mut self, chain: Chain, tag: u64) {
        if self.runs_inline(&chain) {
            let result = self.run_inline(chain);
            self.done.push(ChainDone { tag, result });
        } else {
            self.launch(chain, Report { tx: None, done: Done::Tag(tag) });
        }
    }

    /// Starts a chain when those that it comes after have ended, and gives a handle of it. Chains that
    /// are ordered by this may touch common bytes.
    pub fn submit_tx<I>(&mut self, chain: Chain, submit: Submit<I>) -> Tx
    where
        I: IntoIterator<Item: Borrow<Tx>>,
    {
        // The caller's iterator may panic: nothing is begun before it has ended.
        let mut befores = std::mem::take(&mut self.befores);
        befores.clear();
        let mut error = None;
        for dependency in submit.after {
            match Dependency::of(&dependency, &self.desk) {
                Dependency::Over => {}
                Dependency::Failed(failed) => error = error.or(Some(failed)),
                Dependency::Flight(before) => befores.push(before),
            }
        }
        let (mut tx, index) = self.desk.open();
        let report = Report { tx: Some(index), done: submit.done };
        if befores.is_empty() && error.is_none() && self.runs_inline(&chain) {
            self.befores = befores;
            let result = self.run_inline(chain);
            self.report(report, result);
            return tx;
        }
        let (flight, _) = self.flights.insert();
        let mut waits_for = 0;
        for before in &befores {
            if let Some(before) = self.flights.get_mut(*before) {
                before.followers.push(flight);
                waits_for += 1;
            }
        }
        self.befores = befores;
        tx.set_flight(flight);
        if let Some(flying) = self.flights.get_mut(flight) {
            flying.board(chain, report);
            (flying.waits_for, flying.error) = (waits_for, error);
        }
        if waits_for == 0 {
            self.starting.push_back(flight);
            self.dispatch();
        }
        tx
    }

    /// Ends a sequence of chains whose length its maker does not know: `done` happens when `after` has
    /// ended, with its error if it failed.
    pub fn trigger_callback(&mut self, after: Tx, done: Done) -> Tx {
        let chain = self.chain();
        self.submit_tx(chain, Submit { after: [after], done })
    }

    /// Issues what is gathered for the backends, and what that releases. To be called when no more will
    /// be submitted for now, and whenever there is nothing else to do: [`Engine::poll`] issues only full
    /// batches.
    pub fn issue_pending_all(&mut self) {
        while self.slots.iter().any(|slot| !slot.pending.is_empty()) {
            for slot in 0..self.slots.len() {
                self.issue(slot);
            }
            self.dispatch();
        }
    }

    /// Moves unfinished chains on, appends those that ended to `done`, wakes tasks and calls callbacks.
    /// Does not block.
    ///
    /// Operations that this releases may be gathered for a backend, and stay so until there are as many as
    /// [`Backend::batch`] says: a loop that waits for a chain by polling alone may wait for ever. It calls
    /// [`Engine::issue_pending_all`] each time round, or is an [`Engine::wait`].
    pub fn poll(&mut self, done: &mut Vec<ChainDone>) {
        if !self.slots.is_empty() {
            self.advance();
        }
        done.append(&mut self.done);
        self.wake();
        // The engine's state is whole, whatever a callback does.
        while let Some((callback, done)) = self.callbacks.pop_front() {
            callback.done(done);
        }
    }

    /// Waits for the end of a chain until the clock shows `deadline`, moving everything on meanwhile: what
    /// is pending is issued, and so is what the chain depends on. Callbacks and tags are left to
    /// [`Engine::poll`].
    pub fn wait(&mut self, tx: &Tx, deadline: Nanos) -> Result<Verdict, WaitError> {
        if !tx.is_of(&self.desk) {
            return Err(WaitError::Foreign);
        }
        let mut turns = 0;
        loop {
            if let Some(waited) = tx.waited() {
                return waited;
            }
            self.issue_pending_all();
            self.advance();
            self.issue_pending_all();
            self.wake();
            if let Some(waited) = tx.waited() {
                return waited;
            }
            if self.clock.now() >= deadline {
                return Err(WaitError::Deadline);
            }
            self.relax(&mut turns);
        }
    }

    /// Runs a chain to its end on the calling thread, waiting for backends where they take part. The
    /// result, in memory and in the verdict, is that of [`Engine::submit`].
    ///
    /// Errors: as any chain; and [`EngineError::Stuck`], which leaves the chain in flight.
    pub fn run(&mut self, chain: Chain) -> Result<Verdict, EngineError> {
        if self.runs_inline(&chain) {
            return self.run_inline(chain);
        }
        let tx = self.submit_tx(chain, Submit::default());
        let (mut turns, mut seen) = (0, self.progress);
        let mut patience = self.clock.now().after(self.config.run_patience);
        loop {
            match self.wait(&tx, Nanos::default()) {
                Ok(verdict) => return Ok(verdict),
                Err(WaitError::Chain(error)) => return Err(error),
                Err(WaitError::Deadline | WaitError::Foreign) => {}
            }
            let now = self.clock.now();
            if seen != self.progress {
                (seen, patience) = (self.progress, now.after(self.config.run_patience));
            } else if now >= patience {
                return Err(EngineError::Stuck);
            }
            self.relax(&mut turns);
        }
    }

    /// Lets some time pass.
    fn relax(&mut self, turns: &mut u32) {
        *turns = turns.saturating_add(1);
        if *turns > SPIN_TURNS {
            std::thread::yield_now();
        }
        match self.slots.iter_mut().find(|slot| slot.in_hand > 0).and_then(|slot| slot.backend.as_mut()) {
            Some(backend) => backend.relax(),
            None => std::hint::spin_loop(),
        }
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// Counters since the engine was made.
    pub fn stats(&self) -> EngineStats {
        let cpu_kinds = self.cpu_kinds;
        EngineStats {
            cpu: self.cpu.name().to_owned(),
            cpu_ops: cpu_kinds.iter().map(CpuKind::ops).sum(),
            cpu_retries: cpu_kinds.iter().map(|kind| kind.retries).sum(),
            cpu_kinds,
            stray_completions: self.stray,
            chains: self.chains,
            chains_failed: self.chains_failed,
            backends: self.slots.iter().map(Slot::report).collect(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Handles may say that the engine is gone only when nothing touches memory any more.
        self.slots.clear();
        self.wakers.extend(self.desk.close());
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_can_move_to_another_thread() {
        fn is_send<T: Send>() {}
        is_send::<Engine>();
        is_send::<Tx>();
    }
}
