//! CRC-32C through the public interface, with every kernel. The implementations themselves are compared
//! with each other, with published values and between guard pages, by the tests beside them.

use raid6_simd::{Error, Kernels, Selection};

use crate::common::*;

/// From the definition, a bit at a time.
fn expected(crc: u32, bytes: &[u8]) -> u32 {
    let step = |state: u32, _| (state >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(state & 1));
    !bytes.iter().fold(!crc, |state, byte| (0..8).fold(state ^ u32::from(*byte), step))
}

#[test]
fn every_kernel_gives_the_crc_of_the_definition_and_copies() {
    let cycle = Kernels::select(Selection::Cycle).unwrap();
    for kernels in variants().into_iter().chain([cycle]) {
        let mut rng = Rng(0x5eed_0009);
        for case in 0..cases(25) {
            let len = rng.len();
            let bytes = rng.bytes(len);
            let (before, at) = (rng.next() as u32, rng.below(len + 1));
            let crc = expected(before, &bytes);
            let what = format!("{kernels:?}, case {case}, {len} bytes");
            assert_eq!(kernels.crc32c(before, &bytes), crc, "{what}");
            let parts = kernels.crc32c(kernels.crc32c(before, &bytes[..at]), &bytes[at..]);
            assert_eq!(parts, crc, "{what}, in parts at {at}");
            let mut copy = vec![0xee; len];
            assert_eq!(kernels.copy_crc32c(before, &bytes, &mut copy), Ok(crc), "{what}, copied");
            assert_eq!(copy, bytes, "{what}");
        }
    }
}

#[test]
fn a_copy_between_lengths_that_differ_is_refused_and_writes_nothing() {
    for kernels in variants() {
        let mut copy = [0xee; 8];
        for len in [0, 7, 9] {
            let refused = kernels.copy_crc32c(0, &vec![1; len], &mut copy);
            assert_eq!(refused, Err(Error::Length { expected: len, found: 8 }));
        }
        assert_eq!(copy, [0xee; 8]);
    }
}
