//! A chain that runs on the CPU allocates nothing once its memory has grown.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use async_tx::{ChainDone, Change, Engine, Lost, Op, Region, XorMode};
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

/// A read-modify-write, a full stripe, a check and a recovery.
fn round(
    engine: &mut Engine,
    blocks: &[Region; 8],
    done: &mut Vec<ChainDone>,
) -> Result<(), Box<dyn std::error::Error>> {
    let [a, b, c, d, p, q, old, x] = *blocks;
    let data = [Some(a), Some(b), None, Some(c), Some(d)];
    let (p, q) = (Some(p), Some(q));
    let mut chain = engine.chain();
    let update = chain
        .push(Op::PqUpdate { changes: &[Change { exponent: 0, old: Some(old), new: Some(a) }], p, q }, &[])?;
    chain.push(Op::Copy { src: a, dst: old }, &[update])?;
    chain.push_next(Op::Pq { data: &data, p, q })?;
    chain.push_next(Op::PqVal { data: &data, p, q })?;
    let data = [Some(a), Some(x), Some(b)];
    chain.push_next(Op::Recover { data: &data, p, q, lost: Lost::new(&[1], false, false)? })?;
    chain.push_next(Op::Xor { srcs: &[a, b, c], dst: x, mode: XorMode::Accumulate })?;
    engine.submit(chain, 1);
    engine.poll(done);
    assert!(done.drain(..).all(|done| done.result.is_ok_and(|v| !v.p_bad && !v.q_bad)));
    let mut chain = engine.chain();
    chain.push(Op::Fill { dst: x, byte: 0 }, &[])?;
    engine.run(chain)?;
    Ok(())
}

#[test]
fn running_on_the_cpu_allocates_nothing_in_steady_state() {
    let mut memory = vec![0x5au8; 8 * 4096];
    let base = memory.as_mut_ptr();
    // SAFETY: eight blocks of `memory`, which outlives the engine and is not touched otherwise.
    let blocks: [Region; 8] = std::array::from_fn(|i| unsafe { Region::new(base.add(i * 4096), 4096) });
    let mut engine = Engine::new(Box::new(CpuBackend::auto()));
    let mut done = Vec::new();
    for _ in 0..3 {
        round(&mut engine, &blocks, &mut done).unwrap();
    }
    let before = ALLOCATIONS.get();
    for _ in 0..100 {
        round(&mut engine, &blocks, &mut done).unwrap();
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    drop(engine);
    drop(memory);
}
