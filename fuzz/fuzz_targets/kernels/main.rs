//! Every operation of `raid6-simd` on every implementation that this CPU can run, against naive.
//!
//! The input is read as a case: an operation, blocks with their contents, places and gaps, what shares
//! memory with what, what is wrong or lost. A case runs once an implementation; results, written bytes and
//! refusals must be those of naive, nothing may be written beside the destinations, and what was lost
//! must come back. AddressSanitizer sees accesses outside the blocks, which are allocations of their own.

#![no_main]

mod memory;
mod operation;
mod sources;

use libfuzzer_sys::fuzz_target;
use raid6_simd::{Kernel, Kernels, Selection};

use operation::Case;

fuzz_target!(|data: &[u8]| {
    // An input that ends too early is no case.
    if let Ok(case) = Case::decode(data) {
        check(&case);
    }
});

fn check(case: &Case) {
    let naive = case.run(&select(Selection::Only(Kernel::Naive)));
    let others = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()).map(Selection::Only);
    for selection in others.chain([Selection::Cycle]) {
        let outcome = case.run(&select(selection).with_stores(case.stores));
        assert_eq!(outcome.verdict, naive.verdict, "{selection}");
        for (block, (bytes, expected)) in outcome.written.iter().zip(&naive.written).enumerate() {
            let differs = bytes.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{selection}: first wrong byte of destination {block}");
        }
    }
}

fn select(selection: Selection) -> Kernels {
    Kernels::select(selection).expect("this CPU can run it")
}
