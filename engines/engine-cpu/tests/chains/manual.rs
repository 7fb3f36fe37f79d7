//! A backend that does what the test says, when it says so.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::world::World;

/// What a [`Manual`] backend holds and was told, shared with the test.
pub(crate) struct State {
    pub(crate) caps: Caps,
    pub(crate) limits: Limits,
    pub(crate) fences: Caps,
    pub(crate) batch: usize,
    pub(crate) room: usize,
    /// Operations in hand, in the order in which they came.
    pub(crate) held: Vec<(OpToken, Chain)>,
    ended: Vec<Completion>,
    /// The number of operations of each call, and which of them were fenced.
    pub(crate) calls: Vec<Vec<bool>>,
    pub(crate) aborts: usize,
    /// Answers to [`Backend::revive`]; then it works.
    pub(crate) revivals: VecDeque<Revival>,
    pub(crate) asked: usize,
    pub(crate) dropped: bool,
}

/// The test's side of a [`Manual`] backend.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Mutex<State>>);

impl Desk {
    /// One that takes copies, one at a time.
    pub(crate) fn new() -> Self {
        Desk(Arc::new(Mutex::new(State {
            caps: Caps::NONE.with(OpKind::Copy),
            limits: Limits::NONE,
            fences: Caps::NONE,
            batch: 1,
            room: usize::MAX,
            held: Vec::new(),
            ended: Vec::new(),
            calls: Vec::new(),
            aborts: 0,
            revivals: VecDeque::new(),
            asked: 0,
            dropped: false,
        })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn backend(&self) -> Box<dyn Backend> {
        Box::new(Manual(self.clone()))
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::new(Box::new(CpuBackend::auto())).with_backend(self.backend())
    }

    /// A copy of what the state is asked for: two guards in one expression would wait for each other.
    pub(crate) fn get<T>(&self, ask: impl FnOnce(&State) -> T) -> T {
        ask(&self.state())
    }

    pub(crate) fn aborts(&self) -> usize {
        self.get(|state| state.aborts)
    }

    pub(crate) fn asked(&self) -> usize {
        self.get(|state| state.asked)
    }

    pub(crate) fn dropped(&self) -> bool {
        self.get(|state| state.dropped)
    }

    pub(crate) fn calls(&self) -> Vec<Vec<bool>> {
        self.get(|state| state.calls.clone())
    }

    pub(crate) fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Executes the operation at `index`, which does not end by that.
    pub(crate) fn run(&self, index: usize) -> Result<Verdict, Fault> {
        CpuBackend::auto().execute(&self.state().held[index].1.op(0).unwrap())
    }

    /// Ends the operation at `index` so, without doing anything.
    pub(crate) fn end(&self, index: usize, result: Result<Verdict, Fault>) {
        let mut state = self.state();
        let (token, _) = state.held.remove(index);
        state.ended.push(Completion { token, result });
    }

    /// Executes the operation at `index` and ends it well.
    pub(crate) fn complete(&self, index: usize) {
        let result = self.run(index);
        self.end(index, result);
    }

    /// Says that the operation at `index` ended well, without having done anything.
    pub(crate) fn lie(&self, index: usize) {
        self.end(index, Ok(Verdict::default()));
    }

    /// Ends the operation at `index` badly, without having done anything.
    pub(crate) fn fail(&self, index: usize, fault: Fault) {
        self.end(index, Err(fault));
    }
}

struct Manual(Desk);

impl Backend for Manual {
    fn name(&self) -> &str {
        "manual"
    }

    fn caps(&self) -> Caps {
        self.0.state().caps
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        self.0.state().limits
    }

    fn fences(&self) -> Caps {
        self.0.state().fences
    }

    fn batch(&self) -> usize {
        self.0.state().batch
    }

    fn room(&self) -> usize {
        let state = self.0.state();
        state.room.saturating_sub(state.held.len())
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let room = self.room();
        let mut state = self.0.state();
        let taken = ops.len().min(room);
        state.calls.push(ops.iter().map(|op| op.fence).collect());
        for op in &ops[..taken] {
            let mut chain = Chain::new();
            chain.push(*op.op, &[]).unwrap();
            state.held.push((op.token, chain));
        }
        taken
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.0.state().ended);
    }

    fn abort(&mut self) {
        self.0.state().aborts += 1;
    }

    fn revive(&mut self, _now: Nanos) -> Revival {
        let mut state = self.0.state();
        state.asked += 1;
        state.revivals.pop_front().unwrap_or(Revival::Ready)
    }
}

impl Drop for Manual {
    fn drop(&mut self) {
        self.0.state().dropped = true;
    }
}

/// A clock that shows what the test sets, and goes on by a nanosecond each time that it is read.
#[derive(Clone)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(crate) fn new() -> Self {
        Hand(Arc::new(AtomicU64::new(0)))
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    pub(crate) fn boxed(&self) -> Box<dyn Clock> {
        Box::new(self.clone())
    }

    /// How often it was read, if it never passed.
    pub(crate) fn reads(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clock for Hand {
    fn now(&self) -> Nanos {
        Nanos(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Copies block 0 of `world` to block `i`.
pub(crate) fn copy(world: &World, i: usize) -> Op<'static> {
    Op::Copy { src: world.region(0, 64), dst: world.region(i * 64, 64) }
}

/// A chain of copies of block 0, each to one of these blocks.
pub(crate) fn copies(world: &World, blocks: &[usize]) -> Chain {
    let mut chain = Chain::new();
    for i in blocks {
        chain.push(copy(world, *i), &[]).unwrap();
    }
    chain
}

/// Whether block `i` has the bytes of block 0.
pub(crate) fn is_copied(world: &World, i: usize) -> bool {
    let bytes = world.snapshot();
    bytes[..64] == bytes[i * 64..][..64]
}

/// What has ended since the last call.
pub(crate) fn poll(engine: &mut Engine) -> Vec<ChainDone> {
    let mut done = Vec::new();
    engine.poll(&mut done);
    done
}

pub(crate) fn alerts(engine: &mut Engine) -> Vec<Alert> {
    let mut alerts = Vec::new();
    engine.take_alerts(&mut alerts);
    alerts
}
