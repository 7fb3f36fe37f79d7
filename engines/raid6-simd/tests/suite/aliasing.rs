//! Blocks that are read may be the same memory or overlap. What is written cannot share memory with
//! anything else, for it is borrowed mutably: that would not compile. The in-place forms are
//! `XorMode::Accumulate`, `pq_update` and `gf_mul_add`, which every test here runs as well.

use raid6_simd::{Change, Located, LostData, Mismatch, Parity};

use crate::common::*;
use crate::guarded::Guarded;
use crate::oracle;
use crate::plan::Plan;

const SEED: u64 = 0x5eed_0004;

#[test]
fn sources_that_overlap() {
    let variants = variants();
    each_case(SEED, 40, |rng, what| {
        let (count, len) = (1 + rng.below(12), rng.len());
        let slack = 1 + rng.below(200);
        let bytes = rng.bytes(len + slack);
        let buffer = Guarded::random(rng, &bytes);
        let slice = |rng: &mut Rng| {
            // Neighbours by one byte, the very same slice, and ends at the guard pages are frequent.
            let start = [0, 0, 1, slack, rng.below(slack + 1)][rng.below(5)];
            (!rng.chance(8)).then(|| &buffer.bytes()[start..start + len])
        };
        let data: Vec<_> = (0..count).map(|_| slice(rng)).collect();
        let mut plan = Plan::new(rng, data, len);
        variants.iter().for_each(|kernels| plan.run(kernels, what));
    });
}

#[test]
fn one_block_in_the_place_of_all() {
    let variants = variants();
    let mut rng = Rng(SEED ^ 1);
    for count in (1..=12).chain([254, 255]) {
        let len = rng.below(300);
        let bytes = rng.bytes(len);
        let block = Guarded::random(&mut rng, &bytes);
        let mut plan = Plan::new(&mut rng, vec![Some(block.bytes()); count], len);
        variants.iter().for_each(|kernels| plan.run(kernels, "one block"));
    }
}

#[test]
fn an_update_from_a_block_to_itself_changes_nothing() {
    let kernels = available();
    each_case(SEED ^ 2, 20, |rng, what| {
        let len = rng.len();
        let [block, p, q] = [rng.bytes(len), rng.bytes(len), rng.bytes(len)];
        let block = Guarded::random(rng, &block);
        let same = Some(block.bytes());
        let exponent = rng.below(255) as u8;
        let changes = vec![Change { exponent, old: same, new: same }; 1 + rng.below(3)];
        let (mut p_out, mut q_out) = (Guarded::random(rng, &p), Guarded::random(rng, &q));
        for kernels in &kernels {
            kernels.pq_update(&changes, Some(p_out.bytes_mut()), Some(q_out.bytes_mut())).unwrap();
            p_out.assert_is(&p, &format!("{what}, {kernels:?}, P"));
            q_out.assert_is(&q, &format!("{what}, {kernels:?}, Q"));
        }
    });
}

/// With one data block, P, Q and the data are all the same bytes, and may be the same memory.
#[test]
fn parities_that_are_the_data() {
    for kernels in variants() {
        let mut rng = Rng(SEED ^ 3);
        for len in [0, 1, 63, 64, 65, 1000] {
            let bytes = rng.bytes(len);
            let block = Guarded::random(&mut rng, &bytes);
            let b = block.bytes();
            let what = format!("{kernels:?}, {len} bytes");
            assert_eq!(kernels.pq_val(&[Some(b)], Some(b), Some(b)), Ok(Mismatch::default()), "{what}");
            assert_eq!(kernels.locate(&[Some(b)], b, b), Ok(Located::Nothing), "{what}");
            assert_eq!(kernels.xor_val(&[Some(b), Some(b)]), Ok(true), "{what}");

            // Two lost of three, the third and both parities being one block.
            let (x, y) = {
                // Dx + Dy = B + P = 0, so Dx = Dy; (2^0 + 2^1) Dx = 4 B + Q = 5 B.
                let inverse = (1..=255).find(|c| oracle::mul(*c, 3) == 1).unwrap();
                let c = oracle::mul(5, inverse);
                let bytes: Vec<_> = b.iter().map(|byte| oracle::mul(c, *byte)).collect();
                (bytes.clone(), bytes)
            };
            let garbage = rng.bytes(len);
            let (mut out_x, mut out_y) =
                (Guarded::random(&mut rng, &garbage), Guarded::random(&mut rng, &garbage));
            let mut lost = [
                LostData { exponent: 0, out: out_x.bytes_mut() },
                LostData { exponent: 1, out: out_y.bytes_mut() },
            ];
            kernels.recover(&[None, None, Some(b)], &mut lost, Parity::Good(b), Parity::Good(b)).unwrap();
            out_x.assert_is(&x, &what);
            out_y.assert_is(&y, &what);
        }
    }
}
