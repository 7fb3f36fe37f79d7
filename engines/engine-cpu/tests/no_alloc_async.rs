//! Chains that go to a backend allocate nothing either, once the engine's tables have grown: with
//! handles, dependencies, callbacks, batches, fences, cut operations and retries.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_tx::*;
use engine_cpu::CpuBackend;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

// SAFETY: every call is passed on unchanged; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs what it takes at once and completes it at the next reap, the last one first. Every tenth
/// operation is declined.
struct Trivial {
    cpu: CpuBackend,
    held: Vec<Completion>,
    count: usize,
}

impl Backend for Trivial {
    fn name(&self) -> &str {
        "trivial"
    }

    fn caps(&self) -> Caps {
        Caps::ALL
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        Limits { sources_max: 3, len_max: 3000, ..Limits::NONE }
    }

    fn fences(&self) -> Caps {
        Caps::NONE.with(OpKind::Copy).with(OpKind::Fill)
    }

    fn batch(&self) -> usize {
        4
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let mut failed = false;
        for ReadyOp { token, op, fence } in ops {
            self.count += 1;
            let result = match () {
                () if *fence && failed => Err(Fault::Abandoned),
                () if self.count.is_multiple_of(10) => Err(Fault::Declined),
                () => self.cpu.execute(op),
            };
            failed |= result.is_err();
            self.held.push(Completion { token: *token, result });
        }
        ops.len()
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.held.reverse();
        done.append(&mut self.held);
    }

    fn abort(&mut self) {}

    fn revive(&mut self, _now: Nanos) -> Revival {
        Revival::Ready
    }
}

struct Count(AtomicU64);

impl OnDone for Count {
    fn done(&self, done: ChainDone) {
        self.0.fetch_add(u64::from(done.result.is_ok()), Ordering::Relaxed);
    }
}

fn round(
    engine: &mut Engine,
    blocks: &[Region; 8],
    count: &Arc<Count>,
    done: &mut Vec<ChainDone>,
) -> Result<(), Box<dyn std::error::Error>> {
    let [a, b, c, d, e, f, p, q] = *blocks;
    let small = |region: Region| region.part(0, 2048).ok_or("a part");
    let mut first = engine.chain();
    first.push(Op::Copy { src: small(a)?, dst: small(b)? }, &[])?;
    first.push(Op::Copy { src: small(b)?, dst: small(c)? }, &[])?;
    first.push(Op::Fill { dst: small(b)?, byte: 1 }, &[])?;
    first.push_last(Op::Notify)?;
    let first = engine.submit_tx(first, Submit::default());
    let mut second = engine.chain();
    second.push(Op::Xor { srcs: &[a, b, c, d, e], dst: f, mode: XorMode::Overwrite }, &[])?;
    second.push(Op::Pq { data: &[Some(a), Some(b), None, Some(c), Some(d)], p: Some(p), q: Some(q) }, &[])?;
    second.push_next(Op::PqVal {
        data: &[Some(a), Some(b), None, Some(c), Some(d)],
        p: Some(p),
        q: Some(q),
    })?;
    let second = engine.submit_tx(second, Submit { after: [first], done: Done::Tag(1) });
    let count: Arc<dyn OnDone> = Arc::<Count>::clone(count);
    let last = engine.trigger_callback(second, Done::Callback(count));
    let verdict = engine.wait(&last, Nanos::NEVER)?;
    assert_eq!(verdict, Verdict::default());
    let mut third = engine.chain();
    third.push(Op::Xor { srcs: &[a, b, c, d], dst: e, mode: XorMode::Accumulate }, &[])?;
    engine.run(third)?;
    engine.poll(done);
    assert!(done.drain(..).all(|done| done.tag == 1 && done.result == Ok(Verdict::default())));
    Ok(())
}

#[test]
fn chains_on_a_backend_allocate_nothing_in_steady_state() {
    let mut memory = vec![0x5au8; 8 * 4096];
    let base = memory.as_mut_ptr();
    // SAFETY: eight blocks of `memory`, which outlives the engine and is not touched otherwise.
    let blocks: [Region; 8] = std::array::from_fn(|i| unsafe { Region::new(base.add(i * 4096), 4096) });
    let backend = Trivial { cpu: CpuBackend::auto(), held: Vec::new(), count: 0 };
    let config = EngineConfig { cross_check: 8, ..EngineConfig::default() };
    let mut engine =
        Engine::new(Box::new(CpuBackend::auto())).with_backend(Box::new(backend)).with_config(config);
    let count = Arc::new(Count(AtomicU64::new(0)));
    let mut done = Vec::new();
    for _ in 0..20 {
        round(&mut engine, &blocks, &count, &mut done).unwrap();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        round(&mut engine, &blocks, &count, &mut done).unwrap();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!((count.0.load(Ordering::Relaxed), engine.in_flight()), (120, 0));
    let stats = engine.stats();
    let trivial = &stats.backends[0];
    assert!(trivial.fences > 50 && trivial.declined > 50 && trivial.cross_checks > 20, "{trivial:#?}");
    assert!(stats.cpu_retries > 50 && trivial.quarantines == 0, "{stats:?}");
    drop(engine);
    drop(memory);
}
