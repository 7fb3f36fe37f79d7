//! Recovery: every pair of lost blocks of small arrays, sampled pairs of large ones.

use raid6_simd::{Kernels, LostData, Parity};

use crate::common::*;

const SEED: u64 = 0x5eed_0002;

/// Loses the members `a` and `b` (data by exponent, then P, then Q; may be the same) of a stripe and
/// recovers them.
fn lose(kernels: &Kernels, rng: &mut Rng, data: &[Vec<u8>], a: usize, b: usize, raid5: bool) {
    let len = data[0].len();
    let n = data.len();
    let what = format!("{kernels:?}: {n} data blocks of {len} bytes, lost {a} and {b}, raid5 {raid5}");
    let all: Vec<_> = data.iter().map(|block| Some(&block[..])).collect();
    let (p, q) = naive_pq(&all, len);
    let left: Vec<_> = (0..n).map(|i| (i != a && i != b).then(|| Guarded::random(rng, &data[i]))).collect();
    let garbage = rng.bytes(len);
    let mut outs: Vec<_> = (0..2).map(|_| Guarded::random(rng, &garbage)).collect();
    let (mut p_out, mut q_out) = (Guarded::random(rng, &garbage), Guarded::random(rng, &garbage));
    let mut exponents: Vec<_> = [a, b].into_iter().filter(|i| *i < n).collect();
    exponents.dedup();
    let mut lost: Vec<_> = outs
        .iter_mut()
        .zip(&exponents)
        .map(|(out, exponent)| LostData { exponent: *exponent as u8, out: out.bytes_mut() })
        .collect();
    let (p_lost, q_lost) = (a == n || b == n, a == n + 1 || b == n + 1);
    let p_arg = if p_lost { Parity::Lost(p_out.bytes_mut()) } else { Parity::Good(&p) };
    let q_arg = match (raid5, q_lost) {
        (true, _) => Parity::Absent,
        (false, true) => Parity::Lost(q_out.bytes_mut()),
        (false, false) => Parity::Good(&q),
    };
    kernels.recover(&slices(&left), &mut lost, p_arg, q_arg).unwrap();
    for (out, exponent) in outs.iter_mut().zip(&exponents) {
        out.assert_is(&data[*exponent], &what);
    }
    p_out.assert_is(if p_lost { &p } else { &garbage }, &what);
    q_out.assert_is(if q_lost { &q } else { &garbage }, &what);
}

fn random_stripe(rng: &mut Rng, n: usize, len: usize) -> Vec<Vec<u8>> {
    (0..n).map(|_| rng.bytes(len)).collect()
}

#[test]
fn every_pair_of_3_to_12_members_comes_back() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for members in 3..=12 {
            let n = members - 2;
            for a in 0..members {
                for b in a..members {
                    let len = 1 + rng.below(700);
                    let data = random_stripe(&mut rng, n, len);
                    // Both orders: the pair need not be given ascending.
                    lose(&kernels, &mut rng, &data, a, b, false);
                    lose(&kernels, &mut rng, &data, b, a, false);
                }
            }
        }
    }
}

#[test]
fn sampled_pairs_of_up_to_257_members_come_back() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for case in 0..cases(40) {
            let n = if case % 8 == 0 { 255 } else { 1 + rng.below(255) };
            let (a, b) = (rng.below(n + 2), rng.below(n + 2));
            let len = rng.below(300);
            let data = random_stripe(&mut rng, n, len);
            lose(&kernels, &mut rng, &data, a, b, false);
        }
    }
}

#[test]
fn long_blocks_come_back() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for _ in 0..cases(6) {
            let n = 1 + rng.below(6);
            let (a, b) = (rng.below(n + 2), rng.below(n + 2));
            let len = 4096 + rng.below(66_000);
            let data = random_stripe(&mut rng, n, len);
            lose(&kernels, &mut rng, &data, a, b, false);
        }
    }
}

#[test]
fn one_block_comes_back_without_a_q() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for n in 1..=10 {
            for a in 0..=n {
                let len = rng.below(700);
                let data = random_stripe(&mut rng, n, len);
                lose(&kernels, &mut rng, &data, a, a, true);
            }
        }
    }
}

#[test]
fn one_block_comes_back_from_q_without_a_p() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for x in 0..9 {
            let len = rng.len();
            let data = random_stripe(&mut rng, 9, len);
            let mut left: Vec<_> = data.iter().map(|block| Some(&block[..])).collect();
            let (_, q) = naive_pq(&left, len);
            left[x] = None;
            let mut out = Guarded::random(&mut rng, &vec![7; len]);
            let mut lost = [LostData { exponent: x as u8, out: out.bytes_mut() }];
            kernels.recover(&left, &mut lost, Parity::Absent, Parity::Good(&q)).unwrap();
            out.assert_is(&data[x], &format!("{kernels:?}: D{x} by Q"));
        }
    }
}

/// Blocks of zeroes between the data (`None` that is not lost) change nothing.
#[test]
fn gaps_count_as_zeroes() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        let zeroes = vec![0; 333];
        let data: Vec<_> = (0..8).map(|i| if i % 3 == 1 { zeroes.clone() } else { rng.bytes(333) }).collect();
        let all: Vec<_> = data.iter().map(|block| Some(&block[..])).collect();
        let (p, q) = naive_pq(&all, 333);
        let left: Vec<_> = (0..8).map(|i| (i % 3 != 1 && i != 2 && i != 6).then(|| &data[i][..])).collect();
        let (mut x, mut y) = (vec![1; 333], vec![1; 333]);
        let mut lost = [LostData { exponent: 2, out: &mut x }, LostData { exponent: 6, out: &mut y }];
        kernels.recover(&left, &mut lost, Parity::Good(&p), Parity::Good(&q)).unwrap();
        assert_eq!((&x, &y), (&data[2], &data[6]), "{kernels:?}");
    }
}
