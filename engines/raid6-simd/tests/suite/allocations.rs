//! No operation allocates, whichever implementation runs it and whether it succeeds: an allocator that
//! counts, for each thread apart, is the one of the whole suite.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use raid6_simd::{Change, Kernels, LostData, Parity, Product, Selection, Stores, XorMode};

use crate::common::variants;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody who reads it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: passed on to the caller.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `call` allocates.
fn allocations<T>(call: impl FnOnce() -> T) -> usize {
    let before = ALLOCATIONS.get();
    std::hint::black_box(call());
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| vec![1u8; 100]), 1);
    assert_eq!(allocations(|| 1), 0);
}

#[test]
fn no_operation_allocates() {
    let cycle = |stores| Kernels::select(Selection::Cycle).unwrap().with_stores(stores);
    let fixed = variants();
    // As many calls as it takes for every implementation to have its turn at everything.
    let rounds = fixed.len() + 1;
    for kernels in fixed.into_iter().chain([cycle(Stores::Cached), cycle(Stores::Streaming)]) {
        for round in 0..if kernels.kernel().is_some() { 1 } else { rounds } {
            for len in [0, 1, 1000, 5000] {
                for (name, count) in each_operation(&kernels, len) {
                    assert_eq!(count, 0, "{kernels:?}, round {round}, {len} bytes: {name} allocated");
                }
            }
        }
    }
}

/// What each operation allocates on blocks of this length.
fn each_operation(k: &Kernels, len: usize) -> Vec<(&'static str, usize)> {
    let blocks = [3u8, 5, 7, 11, 13, 17, 19].map(|byte| vec![byte; len]);
    let data = blocks.each_ref().map(|block| Some(&block[..]));
    let gaps = [data[0], None, data[2]];
    let (mut p, mut q, mut x, mut y) = (vec![0; len], vec![0; len], vec![0; len], vec![0; len]);
    k.gen_pq(&gaps, Some(&mut p), Some(&mut q)).unwrap();
    let (good_p, good_q) = (p.clone(), q.clone());
    let change = Change { exponent: 1, old: data[0], new: data[1] };
    let products = [9, 8].map(|coefficient| Product { coefficient, block: &blocks[0] });
    let mut found = Vec::with_capacity(16);
    let mut note = |name, count| found.push((name, count));

    note("xor", allocations(|| k.xor(&data, &mut p, XorMode::Overwrite)));
    note("xor to what is there", allocations(|| k.xor(&gaps, &mut p, XorMode::Accumulate)));
    note("xor_val", allocations(|| k.xor_val(&data)));
    note("gen_pq", allocations(|| k.gen_pq(&data, Some(&mut p), Some(&mut q))));
    note("gen_pq, gaps", allocations(|| k.gen_pq(&gaps, Some(&mut p), Some(&mut q))));
    note("gen_pq, Q alone", allocations(|| k.gen_pq(&gaps, None, Some(&mut q))));
    note("pq_val", allocations(|| k.pq_val(&gaps, Some(&good_p), Some(&good_q))));
    note("pq_update", allocations(|| k.pq_update(&[change], Some(&mut p), Some(&mut q))));
    note("pq_update of two", allocations(|| k.pq_update(&[change; 2], Some(&mut p), Some(&mut q))));
    note("gf_mul_add", allocations(|| k.gf_mul_add(&products, &mut p)));
    note("a refusal", allocations(|| k.gen_pq(&data, None, None)));
    note("locate", allocations(|| k.locate(&gaps, &good_p, &good_q)));
    note("locate, wrong", allocations(|| k.locate(&gaps, &good_q, &good_p)));
    note("crc32c", allocations(|| k.crc32c(7, &blocks[0])));
    note("copy_crc32c", allocations(|| k.copy_crc32c(7, &blocks[0], &mut x)));
    let two = |x, y| [LostData { exponent: 0, out: x }, LostData { exponent: 2, out: y }];
    let (parity_p, parity_q) = (Parity::Good(&good_p), Parity::Good(&good_q));
    note(
        "recover two",
        allocations(|| k.recover(&[None; 3], &mut two(&mut x[..], &mut y[..]), parity_p, parity_q)),
    );
    let one = |x| [LostData { exponent: 2, out: x }];
    let left = [data[0], None, None];
    note(
        "recover one and Q",
        allocations(|| k.recover(&left, &mut one(&mut x[..]), Parity::Good(&good_p), Parity::Lost(&mut q))),
    );
    found
}
