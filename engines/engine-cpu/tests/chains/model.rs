//! The oracle: each operation interpreted byte by byte on a plain vector, lost bytes found by trying all
//! values against the definitions of P and Q.

use async_tx::{Chain, Change, Lost, Op, Region, Seed, Verdict, XorMode};
use raid6_simd::gf;

use crate::world::World;

/// What a chain does to these bytes, in the order of the pushes.
pub(crate) fn interpret(world: &World, chain: &Chain, bytes: &mut [u8]) -> Verdict {
    let mut verdict = Verdict::default();
    for op in chain.ops() {
        let crc = crc_of(world, bytes, &op);
        for at in 0..op.len() {
            let found = Column { world, bytes, at }.apply(&op);
            verdict = verdict.or(found);
        }
        if let Some((region, crc)) = crc {
            let at = world.offset(region);
            bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    verdict
}

/// The CRC that the operation leaves, and where.
fn crc_of(world: &World, bytes: &[u8], op: &Op<'_>) -> Option<(Region, u32)> {
    let (Op::Crc32c { src, seed, crc } | Op::CopyCrc32c { src, seed, crc, .. }) = *op else { return None };
    let of = |region: Region| &bytes[world.offset(region)..][..region.len()];
    let seed = match seed {
        Seed::Value(value) => value,
        Seed::From(region) => u32::from_le_bytes(of(region).try_into().unwrap()),
    };
    Some((crc, crc32c(seed, of(src))))
}

/// CRC-32C (RFC 3720) of `bytes` behind others whose CRC is `seed`, bit by bit.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    let bit = |rest: u32| (rest >> 1) ^ if rest & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(!seed, |rest, byte| (0..8).fold(rest ^ u32::from(*byte), |rest, _| bit(rest)))
}

#[test]
fn the_crc_of_the_model_is_that_of_the_book() {
    assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
}

/// Byte `at` of every block.
struct Column<'a> {
    world: &'a World,
    bytes: &'a mut [u8],
    at: usize,
}

impl Column<'_> {
    fn get(&self, region: Region) -> u8 {
        self.bytes[self.world.offset(region) + self.at]
    }

    fn set(&mut self, region: Option<Region>, byte: u8) {
        if let Some(region) = region {
            self.bytes[self.world.offset(region) + self.at] = byte;
        }
    }

    fn sum(&self, srcs: &[Region]) -> u8 {
        srcs.iter().fold(0, |sum, src| sum ^ self.get(*src))
    }

    /// P and Q of the blocks that are not lost.
    fn p_q(&self, data: &[Option<Region>], lost: Lost) -> (u8, u8) {
        let (mut p, mut q) = (0, 0);
        for (i, block) in data.iter().enumerate().filter(|(i, _)| !lost.has(*i)) {
            let byte = block.map_or(0, |block| self.get(block));
            p ^= byte;
            q ^= gf::mul(gf::exp(i), byte);
        }
        (p, q)
    }

    fn apply(&mut self, op: &Op<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        match *op {
            Op::Notify => {}
            Op::Copy { src, dst } => self.set(Some(dst), self.get(src)),
            Op::Fill { dst, byte } => self.set(Some(dst), byte),
            Op::Xor { srcs, dst, mode } => {
                let old = if mode == XorMode::Accumulate { self.get(dst) } else { 0 };
                self.set(Some(dst), old ^ self.sum(srcs));
            }
            Op::XorVal { srcs } => verdict.xor_nonzero = self.sum(srcs) != 0,
            Op::Pq { data, p, q } => {
                let parity = self.p_q(data, Lost::default());
                self.set(p, parity.0);
                self.set(q, parity.1);
            }
            Op::PqVal { data, p, q } => {
                let parity = self.p_q(data, Lost::default());
                verdict.p_bad = p.is_some_and(|p| self.get(p) != parity.0);
                verdict.q_bad = q.is_some_and(|q| self.get(q) != parity.1);
            }
            Op::PqUpdate { changes, p, q } => {
                for Change { exponent, old, new } in changes {
                    let delta = old.map_or(0, |old| self.get(old)) ^ new.map_or(0, |new| self.get(new));
                    self.set(p, p.map_or(0, |p| self.get(p)) ^ delta);
                    let q_delta = gf::mul(gf::exp(usize::from(*exponent)), delta);
                    self.set(q, q.map_or(0, |q| self.get(q)) ^ q_delta);
                }
            }
            Op::Recover { data, p, q, lost } => self.recover(data, p, q, lost),
            Op::GfMulAdd { products, dst } => {
                let sum = products.iter().fold(0, |sum, p| sum ^ gf::mul(p.coefficient, self.get(p.src)));
                self.set(Some(dst), self.get(dst) ^ sum);
            }
            Op::Compare { a, b } => verdict.differs = self.get(a) != self.get(b),
            Op::Dualcast { src, dst } => {
                dst.map(|dst| self.set(Some(dst), self.get(src))).into_iter().collect()
            }
            Op::Crc32c { .. } => {}
            Op::CopyCrc32c { src, dst, .. } => self.set(Some(dst), self.get(src)),
        }
        verdict
    }

    fn recover(&mut self, data: &[Option<Region>], p: Option<Region>, q: Option<Region>, lost: Lost) {
        let good_p = p.filter(|_| !lost.p).map(|p| self.get(p));
        let good_q = q.filter(|_| !lost.q).map(|q| self.get(q));
        let left = self.p_q(data, lost);
        let lost_data: Vec<usize> = lost.exponents().map(usize::from).collect();
        // One block alone is recovered from P if that is good, whatever Q says.
        let q_counts = lost_data.len() == 2 || good_p.is_none();
        let fits = |guess: &[u8]| {
            let (mut p, mut q) = left;
            for (exponent, byte) in lost_data.iter().zip(guess) {
                p ^= byte;
                q ^= gf::mul(gf::exp(*exponent), *byte);
            }
            (good_p.is_none_or(|good| good == p) && (!q_counts || good_q.is_none_or(|good| good == q)))
                .then_some((p, q))
        };
        let every = || 0..=255u8;
        let guesses: Vec<Vec<u8>> = match lost_data.len() {
            0 => vec![vec![]],
            1 => every().map(|x| vec![x]).collect(),
            // P leaves one candidate for the second byte; see `fits` for the rest.
            _ => every().map(|x| vec![x, left.0 ^ x ^ good_p.unwrap_or(0)]).collect(),
        };
        let solutions: Vec<_> = if lost_data.is_empty() {
            vec![(vec![], left)]
        } else {
            guesses.into_iter().filter_map(|guess| fits(&guess).map(|pq| (guess, pq))).collect()
        };
        let [(bytes, parity)] = &solutions[..] else { panic!("{} solutions", solutions.len()) };
        for (exponent, byte) in lost_data.iter().zip(bytes) {
            self.set(data[*exponent], *byte);
        }
        self.set(p.filter(|_| lost.p), parity.0);
        self.set(q.filter(|_| lost.q), parity.1);
    }
}
