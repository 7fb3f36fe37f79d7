//! Updates of P and Q: what they are for, rather than the formula.

use raid6_simd::Change;

use crate::common::*;
use crate::guarded::Guarded;
use crate::oracle;

const SEED: u64 = 0x5eed_0003;

#[test]
fn an_update_equals_computing_p_and_q_anew() {
    let kernels = available();
    each_case(SEED, 60, |rng, what| {
        let (count, len) = (1 + rng.below(40), rng.len());
        let data = random_data(rng, count, len);
        let changed = 1 + rng.below(count.min(4));
        // Distinct exponents: a block that changes twice is the next test's matter.
        let first = rng.below(count);
        let exponents: Vec<_> = (0..changed).map(|i| (first + i) % count).collect();
        let new = random_data(rng, changed, len);
        let mut after = slices(&data);
        let (p, q) = oracle::parities(&after, len);
        let mut changes = Vec::new();
        for (exponent, new) in exponents.iter().zip(slices(&new)) {
            changes.push(Change { exponent: *exponent as u8, old: after[*exponent], new });
            after[*exponent] = new;
        }
        let (p_after, q_after) = oracle::parities(&after, len);
        let (mut p_out, mut q_out) = (Guarded::random(rng, &p), Guarded::random(rng, &q));
        for kernels in &kernels {
            p_out.fill(&p);
            q_out.fill(&q);
            kernels.pq_update(&changes, Some(p_out.bytes_mut()), Some(q_out.bytes_mut())).unwrap();
            p_out.assert_is(&p_after, &format!("{what}, {kernels:?}, P"));
            q_out.assert_is(&q_after, &format!("{what}, {kernels:?}, Q"));
        }
    });
}

#[test]
fn a_block_that_changes_twice_ends_as_its_last_bytes() {
    let kernels = available();
    each_case(SEED ^ 1, 30, |rng, what| {
        let len = rng.len();
        let block = |rng: &mut Rng| {
            let bytes = rng.bytes(len);
            Guarded::random(rng, &bytes)
        };
        let blocks: [_; 4] = std::array::from_fn(|_| block(rng));
        let [first, second, third, other] = blocks.each_ref().map(|block| Some(block.bytes()));
        let (x, y) = (rng.below(5), 5 + rng.below(3));
        let mut data = vec![None; 8];
        (data[x], data[y]) = (first, other);
        let (p, q) = oracle::parities(&data, len);
        data[x] = third;
        let (p_after, q_after) = oracle::parities(&data, len);
        let exponent = x as u8;
        let changes = [
            Change { exponent, old: first, new: second },
            Change { exponent: y as u8, old: other, new: other },
            Change { exponent, old: second, new: third },
        ];
        let (mut p_out, mut q_out) = (Guarded::random(rng, &p), Guarded::random(rng, &q));
        for kernels in &kernels {
            p_out.fill(&p);
            q_out.fill(&q);
            kernels.pq_update(&changes, Some(p_out.bytes_mut()), Some(q_out.bytes_mut())).unwrap();
            p_out.assert_is(&p_after, &format!("{what}, {kernels:?}, P"));
            q_out.assert_is(&q_after, &format!("{what}, {kernels:?}, Q"));
        }
    });
}

/// P and Q in parts: of zeroes to begin with, then some blocks a call, in any order.
#[test]
fn p_and_q_can_be_computed_in_parts() {
    let kernels = available();
    each_case(SEED ^ 2, 12, |rng, what| {
        let (count, len) = (1 + rng.below(255), rng.below(300));
        let data = random_data(rng, count, len);
        let data = slices(&data);
        let (p, q) = oracle::parities(&data, len);
        let mut changes: Vec<_> = data
            .iter()
            .enumerate()
            .map(|(i, new)| Change { exponent: i as u8, old: None, new: *new })
            .collect();
        changes.rotate_left(rng.below(count));
        let part = 1 + rng.below(count);
        let zeroes = vec![0; len];
        let (mut p_out, mut q_out) = (Guarded::random(rng, &zeroes), Guarded::random(rng, &zeroes));
        for kernels in &kernels {
            p_out.fill(&zeroes);
            q_out.fill(&zeroes);
            for part in changes.chunks(part) {
                kernels.pq_update(part, Some(p_out.bytes_mut()), Some(q_out.bytes_mut())).unwrap();
            }
            p_out.assert_is(&p, &format!("{what}, {kernels:?}, P"));
            q_out.assert_is(&q, &format!("{what}, {kernels:?}, Q"));
        }
    });
}

/// Every exponent, alone (a path of its own) and beside another.
#[test]
fn every_exponent() {
    let mut rng = Rng(SEED ^ 3);
    let len = 150;
    let blocks: Vec<_> = (0..3).map(|_| rng.bytes(len)).map(|bytes| Guarded::new(&bytes, None)).collect();
    let (old, new) = (Some(blocks[0].bytes()), Some(blocks[1].bytes()));
    let garbage = [rng.bytes(len), rng.bytes(len)];
    let [mut p, mut q] = garbage.each_ref().map(|bytes| Guarded::new(bytes, None));
    for exponent in 0..255 {
        let both = [
            Change { exponent, old, new },
            Change { exponent: 254 - exponent, old: Some(blocks[2].bytes()), new: old },
        ];
        for changes in [&both[..1], &both[..]] {
            let [mut p_after, mut q_after] = garbage.clone();
            oracle::update(changes, &mut p_after, &mut q_after);
            for kernels in available() {
                p.fill(&garbage[0]);
                q.fill(&garbage[1]);
                kernels.pq_update(changes, Some(p.bytes_mut()), Some(q.bytes_mut())).unwrap();
                p.assert_is(&p_after, &format!("{kernels:?}, exponent {exponent}, P"));
                q.assert_is(&q_after, &format!("{kernels:?}, exponent {exponent}, Q"));
            }
        }
    }
}
