//! P and Q computed by an independent program, byte by byte (`tests/data/pq-vectors.json`, whose own
//! header says how the data blocks are made).

use crate::common::*;

#[test]
fn p_and_q_are_those_of_an_independent_program() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../data/pq-vectors.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() > 100, "only {} cases", cases.len());
    for kernels in available() {
        for case in cases {
            let number = |key: &str| case[key].as_u64().unwrap();
            let len = number("length") as usize;
            let block = |i| Rng(number("seed").wrapping_add(i * 0x0100_0000_01b3)).bytes(len);
            let data: Vec<_> = (0..number("data_blocks")).map(block).collect();
            let blocks: Vec<_> = data.iter().map(|block| Some(&block[..])).collect();
            let (mut p, mut q) = (vec![0; len], vec![0; len]);
            kernels.gen_pq(&blocks, Some(&mut p), Some(&mut q)).unwrap();
            for (parity, name) in [(&p, "p"), (&q, "q")] {
                let what = format!("{kernels:?}: {name} of {} blocks of {len} bytes", data.len());
                let digest = case[format!("{name}_sha256")].as_str().unwrap();
                assert_eq!(hex(&sha256(parity)), digest, "{what}");
                if let Some(bytes) = case[name].as_str() {
                    assert_eq!(hex(parity), bytes, "{what}");
                }
            }
        }
    }
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

/// SHA-256 as in FIPS 180-4, with its constants from their definition.
fn sha256(message: &[u8]) -> [u8; 32] {
    let primes = primes(64);
    let k: Vec<u32> = primes.iter().map(|p| root_fraction(*p, 3)).collect();
    let mut state: Vec<u32> = primes[..8].iter().map(|p| root_fraction(*p, 2)).collect();
    let mut padded = message.to_vec();
    padded.push(0x80);
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((message.len() as u64 * 8).to_be_bytes());
    for chunk in padded.chunks_exact(64) {
        let mut w: Vec<u32> =
            chunk.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect();
        for t in 16..64 {
            let s0 = w[t - 15].rotate_right(7) ^ w[t - 15].rotate_right(18) ^ (w[t - 15] >> 3);
            let s1 = w[t - 2].rotate_right(17) ^ w[t - 2].rotate_right(19) ^ (w[t - 2] >> 10);
            w.push(w[t - 16].wrapping_add(s0).wrapping_add(w[t - 7]).wrapping_add(s1));
        }
        let mut v = state.clone();
        for t in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let choice = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(choice).wrapping_add(k[t]).wrapping_add(w[t]);
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

#[test]
fn the_digest_is_sha_256() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(hex(&sha256(b"abc")), abc);
}
