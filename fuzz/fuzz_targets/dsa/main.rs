//! Descriptors and completion records of Intel DSA, of which either side may be anything.
//!
//! The input is one of three cases: descriptors and memory for the model, which executes them without a
//! panic and writes nothing outside the memory it was given; a descriptor and a record for the driver's
//! [`resume`](engine_dsa::wire::Descriptor::resume), whose rest names no byte that the whole did not; or
//! operations for the driver's queue with whatever a device writes into their records, which ends each of
//! them once and submits nothing outside their regions.

#![no_main]

mod model;
mod queue;
mod records;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // An input that ends too early is no case.
    let _ = run(&mut Unstructured::new(data));
});

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=2)? {
        0 => model::run(u),
        1 => records::run(u),
        _ => queue::run(u),
    }
}
