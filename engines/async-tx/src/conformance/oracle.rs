//! The operations by their definitions, a byte at a time: what results are compared with.
//!
//! Slow and obvious on purpose, and of no help from the kernels that it judges.

use crate::backend::Inline;
use crate::check::CheckedOp;
use crate::op::{Access, Change, Lost, Op, Seed, Verdict, XorMode};
use crate::{Fault, Region};

/// `a * b` in GF(2^8) with the polynomial 0x11d.
fn mul(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        if b & 1 == 1 {
            product ^= a;
        }
        a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1d };
        b >>= 1;
    }
    product
}

/// The coefficient of the data block with this exponent in Q.
fn coefficient(exponent: usize) -> u8 {
    (0..exponent).fold(1, |power, _| mul(power, 2))
}

/// CRC-32C (polynomial 0x1edc6f41, reflected, inverted before and after) of the bytes after those whose CRC
/// is `seed`.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!seed, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
            },
        )
    })
}

/// Bytes and the address that they stand for.
pub(super) struct Bytes<'a> {
    /// Address of the first.
    pub(super) base: usize,
    /// What is, or should be, there.
    pub(super) bytes: &'a mut [u8],
}

impl Bytes<'_> {
    fn range(&self, region: Region) -> std::ops::Range<usize> {
        let start = (region.as_ptr() as usize).wrapping_sub(self.base).min(self.bytes.len());
        start..start.saturating_add(region.len()).min(self.bytes.len())
    }

    /// The bytes of a region; none of what does not lie here.
    pub(super) fn of(&self, region: Region) -> &[u8] {
        self.bytes.get(self.range(region)).unwrap_or(&[])
    }

    fn copied(&self, region: Region) -> Vec<u8> {
        self.of(region).to_vec()
    }

    /// Sets the bytes of a region.
    pub(super) fn set(&mut self, region: Region, from: &[u8]) {
        let range = self.range(region);
        for (to, from) in self.bytes.get_mut(range).unwrap_or_default().iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// Runs an operation to its end.
    pub(super) fn apply(&mut self, op: &Op<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        match *op {
            Op::Notify => {}
            Op::Copy { src, dst } => self.set(dst, &self.copied(src)),
            Op::Fill { dst, byte } => self.set(dst, &vec![byte; dst.len()]),
            Op::Xor { srcs, dst, mode } => {
                let sum = self.sum(srcs, dst.len());
                let old = self.copied(dst);
                self.set(dst, &if mode == XorMode::Accumulate { plus(&old, &sum) } else { sum });
            }
            Op::XorVal { srcs } => verdict.xor_nonzero = self.sum(srcs, op.len()).iter().any(|sum| *sum != 0),
            Op::Pq { data, p, q } => {
                let (sum_p, sum_q) = self.parities(data, Lost::default(), op.len());
                self.set_some(p, &sum_p);
                self.set_some(q, &sum_q);
            }
            Op::PqVal { data, p, q } => {
                let (sum_p, sum_q) = self.parities(data, Lost::default(), op.len());
                verdict.p_bad = p.is_some_and(|p| self.of(p) != sum_p);
                verdict.q_bad = q.is_some_and(|q| self.of(q) != sum_q);
            }
            Op::PqUpdate { changes, p, q } => changes.iter().for_each(|change| self.update(change, p, q)),
            Op::GfMulAdd { products, dst } => {
                for product in products {
                    let part = times(product.coefficient, self.of(product.src));
                    self.set(dst, &plus(&self.copied(dst), &part));
                }
            }
            Op::Compare { a, b } => verdict.differs = self.of(a) != self.of(b),
            Op::Dualcast { src, dst } => dst.into_iter().for_each(|dst| self.set(dst, &self.copied(src))),
            Op::Crc32c { src, seed, crc } => self.set_crc(src, seed, crc),
            Op::CopyCrc32c { src, dst, seed, crc } => {
                self.set_crc(src, seed, crc);
                self.set(dst, &self.copied(src));
            }
            Op::Recover { data, p, q, lost } => self.recover(data, p, q, lost),
        }
        verdict
    }

    fn set_some(&mut self, region: Option<Region>, from: &[u8]) {
        if let Some(region) = region {
            self.set(region, from);
        }
    }

    fn set_crc(&mut self, src: Region, seed: Seed, crc: Region) {
        let seed = match seed {
            Seed::Value(value) => value,
            Seed::From(region) => {
                self.of(region).iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
            }
        };
        let sum = crc32c(seed, self.of(src));
        self.set(crc, &sum.to_le_bytes());
    }

    fn sum(&self, srcs: &[Region], len: usize) -> Vec<u8> {
        srcs.iter().fold(vec![0; len], |sum, src| plus(&sum, self.of(*src)))
    }

    /// P and Q of the blocks that are not lost.
    fn parities(&self, data: &[Option<Region>], lost: Lost, len: usize) -> (Vec<u8>, Vec<u8>) {
        let there = data.iter().enumerate().filter(|(exponent, _)| !lost.has(*exponent));
        let zero = || vec![0; len];
        there.filter_map(|(exponent, block)| Some((exponent, (*block)?))).fold(
            (zero(), zero()),
            |(p, q), (exponent, block)| {
                let bytes = self.of(block);
                (plus(&p, bytes), plus(&q, &times(coefficient(exponent), bytes)))
            },
        )
    }

    fn update(&mut self, change: &Change, p: Option<Region>, q: Option<Region>) {
        let block = |block: Option<Region>| block.map(|block| self.copied(block)).unwrap_or_default();
        let delta = match (block(change.old), block(change.new)) {
            (old, new) if old.is_empty() => new,
            (old, new) if new.is_empty() => old,
            (old, new) => plus(&old, &new),
        };
        if let Some(p) = p {
            self.set(p, &plus(&self.copied(p), &delta));
        }
        if let Some(q) = q {
            let part = times(coefficient(usize::from(change.exponent)), &delta);
            self.set(q, &plus(&self.copied(q), &part));
        }
    }

    /// Finds the lost blocks: those with which the parities that are there come out.
    fn recover(&mut self, data: &[Option<Region>], p: Option<Region>, q: Option<Region>, lost: Lost) {
        let len = data.iter().flatten().chain(&p).chain(&q).map(|block| block.len()).next().unwrap_or(0);
        let (sum_p, sum_q) = self.parities(data, lost, len);
        // What the lost blocks have to add to P and Q.
        let lacks_p = p.filter(|_| !lost.p).map(|p| plus(&sum_p, self.of(p)));
        let lacks_q =
            q.filter(|_| !lost.q).map(|q| plus(&sum_q, self.of(q))).unwrap_or_else(|| sum_q.clone());
        let exponents: Vec<usize> = lost.exponents().map(usize::from).collect();
        let found = match (&exponents[..], lacks_p) {
            // One block alone is recovered from P if that is good, whatever Q says.
            ([_], Some(lacks_p)) => vec![lacks_p],
            ([x], None) => {
                let solve = inverse(|byte| mul(coefficient(*x), byte));
                vec![lacks_q.iter().map(|lacks| solve[usize::from(*lacks)]).collect()]
            }
            ([x, y], Some(lacks_p)) => {
                // The second is what P lacks beside the first, so that Q tells the first.
                let (g_x, g_y) = (coefficient(*x), coefficient(*y));
                let solve = inverse(|byte| mul(g_x, byte) ^ mul(g_y, byte));
                let rest = plus(&lacks_q, &times(g_y, &lacks_p));
                let first: Vec<u8> = rest.iter().map(|rest| solve[usize::from(*rest)]).collect();
                vec![first.clone(), plus(&lacks_p, &first)]
            }
            _ => Vec::new(),
        };
        for (exponent, bytes) in exponents.iter().zip(&found) {
            self.set_some(data.get(*exponent).copied().flatten(), bytes);
        }
        let (sum_p, sum_q) = self.parities(data, Lost::default(), len);
        self.set_some(p.filter(|_| lost.p), &sum_p);
        self.set_some(q.filter(|_| lost.q), &sum_q);
    }
}

/// Which byte `f` makes each byte of, by trying all.
fn inverse(f: impl Fn(u8) -> u8) -> [u8; 256] {
    let mut table = [0; 256];
    (0..=255).for_each(|byte| table[usize::from(f(byte))] = byte);
    table
}

fn plus(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(a, b)| a ^ b).collect()
}

fn times(coefficient: u8, bytes: &[u8]) -> Vec<u8> {
    let table: Vec<u8> = (0..=255).map(|byte| mul(coefficient, byte)).collect();
    bytes.iter().map(|byte| table[usize::from(*byte)]).collect()
}

/// The definitions as a CPU: what an engine in this suite, or in a test, falls back to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Naive;

impl Inline for Naive {
    fn name(&self) -> &str {
        "naive"
    }

    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        let mut operands = Vec::new();
        op.each_region(|region, access| {
            operands.push((region, access));
            true
        });
        let start = operands.iter().map(|(region, _)| region.as_ptr() as usize).min().unwrap_or(0);
        let ends = operands.iter().map(|(region, _)| (region.as_ptr() as usize).saturating_add(region.len()));
        let mut bytes = vec![0; ends.max().unwrap_or(start).saturating_sub(start)];
        let mut copy = Bytes { base: start, bytes: &mut bytes };
        for (region, _) in &operands {
            // SAFETY: an operand of an operation in hand; nothing of it is borrowed for writing.
            copy.set(*region, unsafe { region.bytes() });
        }
        let verdict = copy.apply(op);
        for (region, access) in &operands {
            if *access == Access::Write {
                // SAFETY: a destination of an operation in hand, which shares no byte with other operands.
                unsafe { region.bytes_mut() }.copy_from_slice(copy.of(*region));
            }
        }
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_and_the_crc_are_those_of_the_books() {
        assert_eq!((mul(0x80, 2), mul(0x8e, 2), coefficient(8), coefficient(255)), (0x1d, 1, 0x1d, 1));
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(crc32c(0, b"1234"), b"56789"), 0xe306_9283);
    }
}
