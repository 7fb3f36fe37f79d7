//! Every operation but recovery: random sources, lengths and places, against naive.

use raid6_simd::{Change, Kernels, Mismatch, XorMode, gf};

use crate::common::*;

const SEED: u64 = 0x5eed_0001;

/// Runs `test` over random cases, for every implementation.
fn each_case(default: usize, mut test: impl FnMut(&Kernels, &mut Rng, &str)) {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for case in 0..cases(default) {
            let before = rng.0;
            test(&kernels, &mut rng, &format!("{kernels:?}, case {case}, seed {before:#x}"));
        }
    }
}

#[test]
fn xor_overwrites_or_accumulates_the_sum() {
    each_case(250, |kernels, rng, what| {
        let len = rng.len();
        let count = random_count(rng, len);
        let srcs = random_data(rng, count, len);
        let old = rng.bytes(len);
        let mode = if rng.chance(2) { XorMode::Accumulate } else { XorMode::Overwrite };
        let mut expected = if mode == XorMode::Accumulate { old.clone() } else { vec![0; len] };
        for src in srcs.iter().flatten() {
            expected.iter_mut().zip(src.bytes()).for_each(|(sum, byte)| *sum ^= byte);
        }
        let mut dst = Guarded::random(rng, &old);
        kernels.xor(&slices(&srcs), dst.bytes_mut(), mode).unwrap();
        dst.assert_is(&expected, what);
    });
}

#[test]
fn xor_val_finds_any_single_bit() {
    each_case(150, |kernels, rng, what| {
        let len = rng.len();
        let count = random_count(rng, len).min(254);
        let mut srcs = random_data(rng, count, len);
        let mut sum = vec![0; len];
        kernels.xor(&slices(&srcs), &mut sum, XorMode::Overwrite).unwrap();
        srcs.push(Some(Guarded::random(rng, &sum)));
        assert!(kernels.xor_val(&slices(&srcs)).unwrap(), "{what}: nothing is wrong");
        if let (Some(at), Some(Some(last))) = (random_place(rng, len), srcs.last_mut()) {
            last.bytes_mut()[at] ^= 1 << rng.below(8);
            assert!(!kernels.xor_val(&slices(&srcs)).unwrap(), "{what}: byte {at} of {len} is wrong");
        }
    });
}

/// A byte position; the first and the last ones often.
fn random_place(rng: &mut Rng, len: usize) -> Option<usize> {
    let last = len.checked_sub(1)?;
    Some(match rng.below(4) {
        0 => 0,
        1 => last,
        _ => rng.below(len),
    })
}

#[test]
fn p_and_q_are_the_naive_ones_together_and_alone() {
    each_case(250, |kernels, rng, what| {
        let len = rng.len();
        let count = random_count(rng, len);
        let data = random_data(rng, count, len);
        let data = slices(&data);
        let (p, q) = naive_pq(&data, len);
        let fresh = |rng: &mut Rng| {
            let garbage = rng.bytes(len);
            Guarded::random(rng, &garbage)
        };
        let (mut p1, mut q1) = (fresh(rng), fresh(rng));
        kernels.gen_pq(&data, Some(p1.bytes_mut()), Some(q1.bytes_mut())).unwrap();
        p1.assert_is(&p, what);
        q1.assert_is(&q, what);
        let (mut p2, mut q2) = (fresh(rng), fresh(rng));
        kernels.gen_pq(&data, Some(p2.bytes_mut()), None).unwrap();
        kernels.gen_pq(&data, None, Some(q2.bytes_mut())).unwrap();
        p2.assert_is(&p, what);
        q2.assert_is(&q, what);
    });
}

#[test]
fn every_alignment_of_every_block_gives_the_same_parity() {
    for kernels in available() {
        let mut rng = Rng(SEED);
        for offset in 0..64 {
            let len = 1000 + offset;
            let data: Vec<_> =
                (0..5).map(|i| Some(Guarded::new(&rng.bytes(len), Some((offset * (i + 1)) % 64)))).collect();
            let (p, q) = naive_pq(&slices(&data), len);
            let mut p1 = Guarded::new(&vec![0; len], Some(offset));
            let mut q1 = Guarded::new(&vec![0; len], Some(63 - offset));
            kernels.gen_pq(&slices(&data), Some(p1.bytes_mut()), Some(q1.bytes_mut())).unwrap();
            p1.assert_is(&p, &format!("{kernels:?} offset {offset}"));
            q1.assert_is(&q, &format!("{kernels:?} offset {offset}"));
        }
    }
}

#[test]
fn an_update_equals_computing_p_and_q_anew() {
    each_case(200, |kernels, rng, what| {
        let len = rng.len();
        let count = random_count(rng, len);
        let mut data = random_data(rng, count, len);
        let (p, q) = naive_pq(&slices(&data), len);
        let exponent = rng.below(count);
        let old_bytes = data[exponent].as_ref().map_or(vec![0; len], |old| old.bytes().to_vec());
        let old = Guarded::random(rng, &old_bytes);
        let new_bytes = rng.bytes(len);
        let new = Guarded::random(rng, &new_bytes);
        let (mut p1, mut q1) = (Guarded::random(rng, &p), Guarded::random(rng, &q));
        let (with_p, with_q) = [(true, true), (true, false), (false, true)][rng.below(3)];
        let (p_dst, q_dst) = (with_p.then(|| p1.bytes_mut()), with_q.then(|| q1.bytes_mut()));
        let change = Change { exponent: exponent as u8, old: Some(old.bytes()), new: Some(new.bytes()) };
        kernels.pq_update(&[change], p_dst, q_dst).unwrap();
        data[exponent] = Some(new);
        let (p_new, q_new) = naive_pq(&slices(&data), len);
        p1.assert_is(if with_p { &p_new } else { &p }, what);
        q1.assert_is(if with_q { &q_new } else { &q }, what);
    });
}

#[test]
fn a_check_tells_p_from_q_whatever_bit_is_wrong() {
    each_case(200, |kernels, rng, what| {
        let len = rng.len();
        let count = random_count(rng, len);
        let data = random_data(rng, count, len);
        let data = slices(&data);
        let (p, q) = naive_pq(&data, len);
        let (mut p, mut q) = (Guarded::random(rng, &p), Guarded::random(rng, &q));
        let check =
            |p: &Guarded, q: &Guarded| kernels.pq_val(&data, Some(p.bytes()), Some(q.bytes())).unwrap();
        assert_eq!(check(&p, &q), Mismatch::default(), "{what}: nothing is wrong");
        let Some(at) = random_place(rng, len) else { return };
        p.bytes_mut()[at] ^= 1 << rng.below(8);
        assert_eq!(check(&p, &q), Mismatch { p: true, q: false }, "{what}: P wrong at {at}");
        assert_eq!(kernels.pq_val(&data, None, Some(q.bytes())).unwrap(), Mismatch::default(), "{what}");
        let at_q = rng.below(len);
        q.bytes_mut()[at_q] ^= 1 << rng.below(8);
        assert_eq!(check(&p, &q), Mismatch { p: true, q: true }, "{what}: both wrong at {at}, {at_q}");
        let only_p = kernels.pq_val(&data, Some(p.bytes()), None).unwrap();
        assert_eq!(only_p, Mismatch { p: true, q: false }, "{what}");
    });
}

#[test]
fn naive_is_the_definition() {
    let mut rng = Rng(SEED);
    let data: Vec<_> = (0..255).map(|_| rng.bytes(3)).collect();
    let blocks: Vec<_> = data.iter().map(|block| Some(&block[..])).collect();
    let (p, q) = naive_pq(&blocks, 3);
    for at in 0..3 {
        let (mut sum, mut horner) = (0, 0);
        for block in data.iter().rev() {
            sum ^= block[at];
            horner = gf::mul2(horner) ^ block[at];
        }
        assert_eq!((p[at], q[at]), (sum, horner));
    }
}
