//! Every operation on stripes of every kind: random ones, every number of blocks, every short length,
//! every alignment.

use raid6_simd::{Kernels, Product, Selection, Stores, XorMode};

use crate::common::*;
use crate::guarded::Guarded;
use crate::oracle;
use crate::plan::Plan;

const SEED: u64 = 0x5eed_0001;

#[test]
fn random_stripes() {
    let variants = variants();
    each_case(SEED, 120, |rng, what| {
        let (count, len) = (1 + rng.below(20), rng.len());
        let data = random_data(rng, count, len);
        let mut plan = Plan::new(rng, slices(&data), len);
        variants.iter().for_each(|kernels| plan.run(kernels, what));
    });
}

#[test]
fn long_blocks() {
    let variants = variants();
    each_case(SEED ^ 1, 8, |rng, what| {
        let (count, len) = (1 + rng.below(9), rng.below(70_001));
        let data = random_data(rng, count, len);
        let mut plan = Plan::new(rng, slices(&data), len);
        variants.iter().for_each(|kernels| plan.run(kernels, what));
    });
}

#[test]
fn every_number_of_blocks() {
    let variants = variants();
    let mut rng = Rng(SEED ^ 2);
    for count in 1..=255 {
        let len = rng.below(150);
        let data = random_data(&mut rng, count, len);
        let mut plan = Plan::new(&mut rng, slices(&data), len);
        variants.iter().for_each(|kernels| plan.run(kernels, "every number of blocks"));
    }
}

/// All lengths up to one column of eight registers of 64 bytes and some, then those next to a whole
/// number of such columns, and next to a page. Every length is tried with few blocks and with many.
#[test]
fn every_length_around_registers_and_columns() {
    let variants = variants();
    let mut rng = Rng(SEED ^ 3);
    let columns = (2..=9).flat_map(|k| [512 * k - 1, 512 * k, 512 * k + 1]);
    for len in (0..=600).chain(columns) {
        for most in [5, 12] {
            let count = 1 + rng.below(most);
            let data = random_data(&mut rng, count, len);
            let mut plan = Plan::new(&mut rng, slices(&data), len);
            variants.iter().for_each(|kernels| plan.run(kernels, "every length"));
        }
    }
}

#[test]
fn every_alignment_of_every_block() {
    let variants = variants();
    let mut rng = Rng(SEED ^ 4);
    for offset in 0..64 {
        let len = 700 + offset;
        let data: Vec<_> =
            (0..5).map(|i| Some(Guarded::new(&rng.bytes(len), Some((offset * (i + 1)) % 64)))).collect();
        // Both alike (which streaming needs), and each with the first.
        for other in [offset, (offset * 7 + 3) % 64, 0] {
            let places = [Some(offset), Some(other)];
            let mut plan = Plan::at(&mut rng, slices(&data), len, places);
            variants.iter().for_each(|kernels| plan.run(kernels, &format!("at {offset} and {other}")));
        }
    }
}

/// Blocks of all 256 byte values, each with every coefficient.
#[test]
fn every_product() {
    let values: Vec<u8> = (0..=255).collect();
    let block = Guarded::new(&values, None);
    let mut out = Guarded::new(&[0; 256], None);
    for kernels in available() {
        for c in 0..=255 {
            let what = format!("{kernels:?}: {c} times every byte");
            out.fill(&[0; 256]);
            kernels.gf_mul_add(&[Product { coefficient: c, block: block.bytes() }], out.bytes_mut()).unwrap();
            let products: Vec<_> = values.iter().map(|byte| oracle::mul(c, *byte)).collect();
            out.assert_is(&products, &what);
        }
        for exponent in 0..255 {
            let what = format!("{kernels:?}: every byte with exponent {exponent}");
            let mut data = vec![None; exponent + 1];
            data[exponent] = Some(block.bytes());
            out.fill(&[0x55; 256]);
            kernels.gen_pq(&data, None, Some(out.bytes_mut())).unwrap();
            out.assert_is(&oracle::parities(&data, 256).1, &what);
        }
    }
}

#[test]
fn nothing_but_gaps_is_all_zeroes() {
    for kernels in variants() {
        for (count, len) in [(1, 0), (1, 1), (2, 64), (3, 100), (9, 513), (255, 1000)] {
            let gaps = vec![None; count];
            let garbage = vec![0x77; len];
            let (mut p, mut q) = (Guarded::new(&garbage, None), Guarded::new(&garbage, Some(0)));
            let what = format!("{kernels:?}: {count} gaps of {len} bytes");
            kernels.gen_pq(&gaps, Some(p.bytes_mut()), Some(q.bytes_mut())).unwrap();
            p.assert_is(&vec![0; len], &what);
            q.assert_is(&vec![0; len], &what);
            assert_eq!(kernels.xor_val(&gaps), Ok(true), "{what}");
            p.fill(&garbage);
            kernels.xor(&gaps, p.bytes_mut(), XorMode::Accumulate).unwrap();
            p.assert_is(&garbage, &what);
        }
    }
}

/// Each call takes another implementation: run as often as there are, all have run everything, whatever
/// number of calls the operations add up to.
#[test]
fn cycling_gives_the_same_bytes() {
    let rounds = available().len() + 1;
    for stores in [Stores::Cached, Stores::Streaming] {
        let kernels = Kernels::select(Selection::Cycle).unwrap().with_stores(stores);
        each_case(SEED ^ 5, 10, |rng, what| {
            let (count, len) = (1 + rng.below(12), rng.len());
            let data = random_data(rng, count, len);
            let mut plan = Plan::new(rng, slices(&data), len);
            for round in 0..rounds {
                plan.run(&kernels, &format!("{what}, round {round}"));
                // One more call, so that the next round begins at another implementation.
                (0..round % 2 + 1).for_each(|_| _ = kernels.xor_val(&slices(&data)));
            }
        });
    }
}
