//! P and Q computed by an independent program, byte by byte (`tests/data/pq-vectors.json`, whose own
//! header says how the data blocks are made), through every operation.

use raid6_simd::{Change, Kernels, Located, LostData, Mismatch, Parity, Product, XorMode};

use crate::common::*;

/// A case of the file, its P and Q confirmed by the digests of the independent program.
struct Case {
    data: Vec<Vec<u8>>,
    len: usize,
    p: Vec<u8>,
    q: Vec<u8>,
}

/// All cases, with P and Q as `kernels` compute them, which must have the digests of the file.
fn read(kernels: &Kernels) -> Vec<Case> {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../data/pq-vectors.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 100, "only {} cases", cases.len());
    let constants = Constants::new();
    let read = |case: &serde_json::Value| {
        let number = |key: &str| case[key].as_u64().unwrap();
        let len = number("length") as usize;
        let block = |i| Rng(number("seed").wrapping_add(i * 0x0100_0000_01b3)).bytes(len);
        let data: Vec<_> = (0..number("data_blocks")).map(block).collect();
        let blocks: Vec<_> = data.iter().map(|block| Some(&block[..])).collect();
        let (mut p, mut q) = (vec![0xee; len], vec![0xee; len]);
        kernels.gen_pq(&blocks, Some(&mut p), Some(&mut q)).unwrap();
        for (parity, name) in [(&p, "p"), (&q, "q")] {
            let what = format!("{kernels:?}: {name} of {} blocks of {len} bytes", data.len());
            let digest = case[format!("{name}_sha256")].as_str().unwrap();
            assert_eq!(hex(&constants.sha256(parity)), digest, "{what}");
            if let Some(bytes) = case[name].as_str() {
                assert_eq!(hex(parity), bytes, "{what}");
            }
        }
        Case { data, len, p, q }
    };
    cases.iter().map(read).collect()
}

#[test]
fn p_and_q_are_those_of_an_independent_program_in_every_operation() {
    let [first, others @ ..] = &variants()[..] else { panic!("no implementation") };
    let cases = read(first);
    let mut rng = Rng(0x5eed_0006);
    for case in &cases {
        let n = case.data.len();
        let (x, y) = (rng.below(n), rng.below(n));
        for kernels in others.iter().chain([first]) {
            let what = format!("{kernels:?}: {n} blocks of {} bytes", case.len);
            generate(kernels, case, &what);
            check(kernels, case, &what);
            build_up(kernels, case, x, &what);
            recover(kernels, case, [x, y], &what);
        }
    }
}

fn generate(kernels: &Kernels, case: &Case, what: &str) {
    let data: Vec<_> = case.data.iter().map(|block| Some(&block[..])).collect();
    let (mut p, mut q) = (vec![0xee; case.len], vec![0xee; case.len]);
    kernels.gen_pq(&data, Some(&mut p), Some(&mut q)).unwrap();
    assert!(p == case.p && q == case.q, "{what}: gen_pq");
    let (mut p, mut q) = (vec![0xee; case.len], vec![0xee; case.len]);
    kernels.xor(&data, &mut p, XorMode::Overwrite).unwrap();
    kernels.gen_pq(&data, None, Some(&mut q)).unwrap();
    assert!(p == case.p && q == case.q, "{what}: one after the other");
    q.fill(0);
    let coefficients = std::iter::successors(Some(1), |c| Some(raid6_simd::gf::mul2(*c)));
    let terms: Vec<_> = case
        .data
        .iter()
        .zip(coefficients)
        .map(|(block, coefficient)| Product { coefficient, block })
        .collect();
    kernels.gf_mul_add(&terms, &mut q).unwrap();
    assert!(q == case.q, "{what}: gf_mul_add");
}

fn check(kernels: &Kernels, case: &Case, what: &str) {
    let mut data: Vec<_> = case.data.iter().map(|block| Some(&block[..])).collect();
    let found = kernels.pq_val(&data, Some(&case.p), Some(&case.q));
    assert_eq!(found, Ok(Mismatch::default()), "{what}: pq_val");
    assert_eq!(kernels.locate(&data, &case.p, &case.q), Ok(Located::Nothing), "{what}: locate");
    if case.len > 0 {
        let (mut p, at) = (case.p.clone(), case.len / 2);
        p[at] ^= 0x10;
        assert_eq!(kernels.locate(&data, &p, &case.q), Ok(Located::P), "{what}: locate P");
        let found = kernels.pq_val(&data, Some(&p), Some(&case.q));
        assert_eq!(found, Ok(Mismatch { p: true, q: false }), "{what}: pq_val of P");
        let bad = case.data.len() - 1;
        let mut block = case.data[bad].clone();
        block[at] ^= 0x80;
        data[bad] = Some(&block);
        let found = kernels.locate(&data, &case.p, &case.q);
        assert_eq!(found, Ok(Located::Data(bad as u8)), "{what}: locate D{bad}");
    }
    let mut data: Vec<_> = case.data.iter().map(|block| Some(&block[..])).collect();
    if data.len() < 255 {
        data.push(Some(&case.p));
        assert_eq!(kernels.xor_val(&data), Ok(true), "{what}: xor_val");
    }
}

/// All but one block from zeroes, then that one in place of garbage.
fn build_up(kernels: &Kernels, case: &Case, x: usize, what: &str) {
    let garbage = vec![0x5a; case.len];
    let (mut p, mut q) = (vec![0; case.len], vec![0; case.len]);
    let blocks = case.data.iter().enumerate();
    let changes: Vec<_> = blocks
        .map(|(i, block)| Change {
            exponent: i as u8,
            old: None,
            new: Some(if i == x { &garbage[..] } else { &block[..] }),
        })
        .collect();
    kernels.pq_update(&changes, Some(&mut p), Some(&mut q)).unwrap();
    let last = Change { exponent: x as u8, old: Some(&garbage), new: Some(&case.data[x]) };
    kernels.pq_update(&[last], Some(&mut p), Some(&mut q)).unwrap();
    assert!(p == case.p && q == case.q, "{what}: pq_update");
}

/// Two data blocks (or one, if both are the same), and one with each parity.
fn recover(kernels: &Kernels, case: &Case, [x, y]: [usize; 2], what: &str) {
    let without = |lost: &[usize]| -> Vec<Option<&[u8]>> {
        let blocks = case.data.iter().enumerate();
        blocks.map(|(i, block)| (!lost.contains(&i)).then_some(&block[..])).collect()
    };
    let garbage = || vec![0xee; case.len];
    let (mut dx, mut dy) = (garbage(), garbage());
    if x != y {
        let mut lost =
            [LostData { exponent: x as u8, out: &mut dx }, LostData { exponent: y as u8, out: &mut dy }];
        kernels.recover(&without(&[x, y]), &mut lost, Parity::Good(&case.p), Parity::Good(&case.q)).unwrap();
        assert!(dx == case.data[x] && dy == case.data[y], "{what}: recover D{x} and D{y}");
    }
    let (mut dx, mut out) = (garbage(), garbage());
    let mut lost = [LostData { exponent: x as u8, out: &mut dx }];
    kernels.recover(&without(&[x]), &mut lost, Parity::Lost(&mut out), Parity::Good(&case.q)).unwrap();
    assert!(dx == case.data[x] && out == case.p, "{what}: recover D{x} and P");
    let (mut dx, mut out) = (garbage(), garbage());
    let mut lost = [LostData { exponent: x as u8, out: &mut dx }];
    kernels.recover(&without(&[x]), &mut lost, Parity::Good(&case.p), Parity::Lost(&mut out)).unwrap();
    assert!(dx == case.data[x] && out == case.q, "{what}: recover D{x} and Q");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first `count` primes.
fn primes(count: usize) -> Vec<u32> {
    let is_prime = |n: &u32| (2..*n).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..).filter(is_prime).take(count).collect()
}

/// The first 32 bits of the fractional part of a root of `n`: of the integer root of `n * 2^(32 * degree)`.
fn root_fraction(n: u32, degree: u32) -> u32 {
    let target = u128::from(n) << (32 * degree);
    let (mut low, mut high) = (0u128, 1u128 << 40);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if middle.pow(degree) <= target { low = middle } else { high = middle }
    }
    low as u32
}

/// The constants of SHA-256, from their definition in FIPS 180-4.
struct Constants {
    k: Vec<u32>,
    initial: Vec<u32>,
}

impl Constants {
    fn new() -> Self {
        let primes = primes(64);
        let initial = primes[..8].iter().map(|p| root_fraction(*p, 2)).collect();
        Constants { k: primes.iter().map(|p| root_fraction(*p, 3)).collect(), initial }
    }

    /// SHA-256 as in FIPS 180-4.
    fn sha256(&self, message: &[u8]) -> [u8; 32] {
        let mut state = self.initial.clone();
        let mut padded = message.to_vec();
        padded.push(0x80);
        padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
        padded.extend((message.len() as u64 * 8).to_be_bytes());
        for chunk in padded.chunks_exact(64) {
            let mut w = [0u32; 64];
            for (w, b) in w.iter_mut().zip(chunk.chunks_exact(4)) {
                *w = u32::from_be_bytes([b[0], b[1], b[2], b[3]]);
            }
            for t in 16..64 {
                let s0 = w[t - 15].rotate_right(7) ^ w[t - 15].rotate_right(18) ^ (w[t - 15] >> 3);
                let s1 = w[t - 2].rotate_right(17) ^ w[t - 2].rotate_right(19) ^ (w[t - 2] >> 10);
                w[t] = w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1);
            }
            let mut v = state.clone();
            for (w, k) in w.iter().zip(&self.k) {
                let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
                let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
                let t1 = v[7].wrapping_add(s1).wrapping_add(choice).wrapping_add(*k).wrapping_add(*w);
                let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
                let majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
                v.rotate_right(1);
                v[4] = v[4].wrapping_add(t1);
                v[0] = t1.wrapping_add(s0).wrapping_add(majority);
            }
            state.iter_mut().zip(v).for_each(|(s, v)| *s = s.wrapping_add(v));
        }
        let mut digest = [0; 32];
        digest.chunks_exact_mut(4).zip(state).for_each(|(out, s)| out.copy_from_slice(&s.to_be_bytes()));
        digest
    }
}

#[test]
fn the_digest_is_sha_256() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex(&Constants::new().sha256(b"abc")), abc);
}
