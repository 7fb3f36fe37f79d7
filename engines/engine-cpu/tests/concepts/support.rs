//! Memory in blocks, a backend that does what the test says when it says so, and a clock set by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_tx::*;
use engine_cpu::CpuBackend;

/// Bytes of a block.
pub(crate) const LEN: usize = 256;

/// Blocks with bytes that look random.
pub(crate) struct Blocks(*mut u8, usize);

impl Blocks {
    pub(crate) fn new(count: usize) -> Blocks {
        let mut state = 7u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        let bytes: Box<[u8]> = (0..count * LEN).map(|_| byte()).collect();
        Blocks(Box::into_raw(bytes).cast(), count)
    }

    /// Block `i`.
    pub(crate) fn at(&self, i: usize) -> Region {
        self.part(i, 0, LEN)
    }

    /// `len` bytes of block `i` from `offset` on.
    pub(crate) fn part(&self, i: usize, offset: usize, len: usize) -> Region {
        assert!(i < self.1 && offset + len <= LEN);
        // SAFETY: inside the box, which tests drop last and touch only where nothing in flight does.
        unsafe { Region::new(self.0.add(i * LEN + offset), len) }
    }

    /// The bytes of block `i`.
    pub(crate) fn bytes(&self, i: usize) -> Vec<u8> {
        // SAFETY: as in `part`.
        unsafe { self.at(i).bytes() }.to_vec()
    }

    /// Sets the bytes of block `i`.
    pub(crate) fn set(&self, i: usize, bytes: &[u8]) {
        // SAFETY: as in `part`.
        unsafe { self.at(i).bytes_mut() }.copy_from_slice(bytes);
    }

    /// All bytes.
    pub(crate) fn all(&self) -> Vec<u8> {
        (0..self.1).flat_map(|i| self.bytes(i)).collect()
    }

    /// The byte-wise sum of blocks.
    pub(crate) fn sum(&self, blocks: &[usize]) -> Vec<u8> {
        blocks
            .iter()
            .fold(vec![0; LEN], |sum, i| sum.iter().zip(self.bytes(*i)).map(|(a, b)| a ^ b).collect())
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.0, self.1 * LEN);
        // SAFETY: made by `Box::into_raw` with this length.
        drop(unsafe { Box::from_raw(bytes) });
    }
}

/// `a` times `b` in GF(2^8) with the polynomial 0x11d.
pub(crate) fn mul(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= if b >> bit & 1 == 1 { a } else { 0 };
        a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1d };
    }
    product
}

/// 2 to the power of `exponent`.
pub(crate) fn power(exponent: usize) -> u8 {
    (0..exponent).fold(1, |power, _| mul(power, 2))
}

/// Q of these data blocks, by exponent.
pub(crate) fn q_of(blocks: &Blocks, data: &[usize]) -> Vec<u8> {
    let byte =
        |at: usize| data.iter().enumerate().fold(0, |q, (x, i)| q ^ mul(power(x), blocks.bytes(*i)[at]));
    (0..LEN).map(byte).collect()
}

/// What a [`Desk`]'s backend is like, holds and was told.
pub(crate) struct State {
    pub(crate) name: &'static str,
    pub(crate) caps: Caps,
    pub(crate) fences: Caps,
    pub(crate) limits: Limits,
    pub(crate) batch: usize,
    pub(crate) room: usize,
    /// Operations in hand, in the order in which they came.
    pub(crate) held: Vec<(OpToken, Chain)>,
    pub(crate) ended: Vec<Completion>,
    /// For each call, for each operation, whether it had a fence.
    pub(crate) calls: Vec<Vec<bool>>,
    pub(crate) aborts: usize,
    pub(crate) dropped: bool,
}

/// The test's side of a backend that does what the test says.
#[derive(Clone)]
pub(crate) struct Desk(Arc<Mutex<State>>);

impl Desk {
    /// One that takes these kinds, one at a time, without limits.
    pub(crate) fn of(kinds: &[OpKind]) -> Desk {
        Desk(Arc::new(Mutex::new(State {
            name: "desk",
            caps: kinds.iter().copied().fold(Caps::NONE, Caps::with),
            fences: Caps::NONE,
            limits: Limits::NONE,
            batch: 1,
            room: usize::MAX,
            held: Vec::new(),
            ended: Vec::new(),
            calls: Vec::new(),
            aborts: 0,
            dropped: false,
        })))
    }

    /// One that takes copies.
    pub(crate) fn of_copies() -> Desk {
        Desk::of(&[OpKind::Copy])
    }

    pub(crate) fn with(self, change: impl FnOnce(&mut State)) -> Desk {
        change(&mut self.state());
        self
    }

    /// An assertion that fails while it looks at this must not hide behind the poison that it leaves.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn backend(&self) -> Box<dyn Backend> {
        Box::new(Told(self.clone()))
    }

    /// An engine of the CPU and this one.
    pub(crate) fn engine(&self) -> Engine {
        cpu().with_backend(self.backend())
    }

    pub(crate) fn held(&self) -> usize {
        self.state().held.len()
    }

    /// How many operations each call brought.
    pub(crate) fn calls(&self) -> Vec<usize> {
        self.state().calls.iter().map(Vec::len).collect()
    }

    /// Executes the operation at `index` and ends it well.
    pub(crate) fn complete(&self, index: usize) {
        let (token, chain) = self.state().held.remove(index);
        let result = CpuBackend::auto().execute(&chain.op(0).unwrap());
        self.state().ended.push(Completion { token, result });
    }

    /// Ends everything in hand well.
    pub(crate) fn complete_all(&self) {
        (0..self.held()).for_each(|_| self.complete(0));
    }

    /// Ends the operation at `index` badly, without having done anything.
    pub(crate) fn fail(&self, index: usize, fault: Fault) {
        let (token, _) = self.state().held.remove(index);
        self.state().ended.push(Completion { token, result: Err(fault) });
    }
}

struct Told(Desk);

impl Backend for Told {
    fn name(&self) -> &str {
        self.0.state().name
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
        let taken = ops.len().min(self.room());
        let mut state = self.0.state();
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
        Revival::Ready
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.state().dropped = true;
    }
}

/// A clock that stands until it is moved.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(crate) fn pass(&self, time: Duration) {
        self.0.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }
}

/// An engine of the CPU alone.
pub(crate) fn cpu() -> Engine {
    Engine::new(Box::new(CpuBackend::auto()))
}

/// Runs one operation on the CPU.
pub(crate) fn run(op: Op<'_>) -> Verdict {
    cpu().run(chain(&[op])).unwrap()
}

/// A chain of these operations, of which none was said to depend on another.
pub(crate) fn chain(ops: &[Op<'_>]) -> Chain {
    let mut chain = Chain::new();
    for op in ops {
        chain.push(*op, &[]).unwrap();
    }
    chain
}

/// What ended since the last call, by its tag.
pub(crate) fn poll(engine: &mut Engine) -> Vec<u64> {
    let mut done = Vec::new();
    engine.poll(&mut done);
    done.iter().for_each(|done| assert!(done.result.is_ok(), "{done:?}"));
    done.iter().map(|done| done.tag).collect()
}

/// Counts how often it is called.
#[derive(Default)]
pub(crate) struct Calls(Mutex<Vec<ChainDone>>);

impl OnDone for Calls {
    fn done(&self, done: ChainDone) {
        self.0.lock().unwrap().push(done);
    }
}

impl Calls {
    /// A callback, and where its calls show.
    pub(crate) fn new() -> (Arc<Calls>, Done) {
        let calls = Arc::new(Calls::default());
        (Arc::clone(&calls), Done::Callback(calls))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
