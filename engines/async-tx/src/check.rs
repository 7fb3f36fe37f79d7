//! What makes an operation valid.

use std::ops::Deref;

use crate::op::{Access, Change, Lost, Op, SOURCES_MAX, Seed};
use crate::{OpError, Region};

impl<'a> Op<'a> {
    /// Checks all that [`Op`] asks of the operands.
    #[inline]
    pub fn check(self) -> Result<CheckedOp<'a>, OpError> {
        self.validate()?;
        Ok(CheckedOp(self))
    }

    /// As [`Op::check`], without moving it.
    #[inline]
    pub(crate) fn validate(&self) -> Result<(), OpError> {
        if self.is_plainly_valid() { Ok(()) } else { self.check_everything() }
    }

    /// Whether it is valid, or false if that takes a closer look. Every chain on the hot path pays for
    /// this: one pass over the operands, without a branch for each.
    #[inline]
    fn is_plainly_valid(&self) -> bool {
        match *self {
            Op::Notify => true,
            Op::Fill { dst, .. } => !dst.is_empty(),
            Op::Copy { src, dst } => Bounds::of(dst).allow(src),
            Op::Compare { a, b } => !a.is_empty() && a.len() == b.len(),
            Op::Dualcast { src, dst: [d, e] } => {
                let bounds = Bounds::of_two(d, e);
                bounds.allow(src) && Bounds::of(d).allow(e)
            }
            Op::Xor { srcs, dst, .. } => counts(srcs) && Bounds::of(dst).allow_all(srcs.iter().copied()),
            Op::XorVal { srcs: srcs @ [first, ..] } => {
                !first.is_empty() && counts(srcs) && srcs.iter().all(|src| src.len() == first.len())
            }
            Op::Pq { data, p, q } => {
                let Some(bounds) = Bounds::of_parities(p, q) else { return false };
                let allow = |block: Option<Region>| block.is_none_or(|block| bounds.allow(block));
                counts(data) && data.iter().fold(true, |good, block| good & allow(*block))
            }
            Op::PqUpdate { changes, p, q } => {
                let Some(bounds) = Bounds::of_parities(p, q) else { return false };
                let allow = |block: Option<Region>| block.is_none_or(|block| bounds.allow(block));
                counts(changes)
                    && changes.iter().fold(true, |good, change| {
                        good & allow(change.old) & allow(change.new) & check_change(change).is_ok()
                    })
            }
            Op::GfMulAdd { products, dst } => {
                counts(products) && Bounds::of(dst).allow_all(products.iter().map(|product| product.src))
            }
            _ => false,
        }
    }

    /// As [`Op::check`], for operations of every kind, with the first error found.
    #[cold]
    fn check_everything(&self) -> Result<(), OpError> {
        match *self {
            Op::Notify | Op::Copy { .. } | Op::Fill { .. } | Op::Compare { .. } | Op::Dualcast { .. } => {}
            Op::Xor { srcs, .. } | Op::XorVal { srcs } => check_count(srcs.len())?,
            Op::Pq { data, p, q } | Op::PqVal { data, p, q } => {
                check_count(data.len())?;
                check_parity(p, q)?;
            }
            Op::PqUpdate { changes, p, q } => {
                check_count(changes.len())?;
                check_parity(p, q)?;
                changes.iter().try_for_each(check_change)?;
            }
            Op::GfMulAdd { products, .. } => check_count(products.len())?,
            Op::Crc32c { seed, crc, .. } | Op::CopyCrc32c { seed, crc, .. } => check_crc(seed, crc)?,
            Op::Recover { data, p, q, lost } => check_recover(data, p, q, lost)?,
        }
        self.check_lengths()?;
        self.check_overlap()
    }

    fn check_lengths(&self) -> Result<(), OpError> {
        let expected = self.len();
        let mut wrong = None;
        self.each_block(|region, _| {
            if region.is_empty() {
                wrong = Some(OpError::Empty);
            } else if region.len() != expected {
                wrong = Some(OpError::Length { expected, found: region.len() });
            }
            wrong.is_none()
        });
        wrong.map_or(Ok(()), Err)
    }

    /// A destination overlaps exactly one operand that is an access of the same operation: itself.
    fn check_overlap(&self) -> Result<(), OpError> {
        let sound = self.each_region(|dst, access| {
            if access == Access::Read {
                return true;
            }
            let mut shared = 0;
            self.each_region(|other, _| {
                shared += usize::from(dst.overlaps(other));
                shared <= 1
            })
        });
        if sound { Ok(()) } else { Err(OpError::Overlap) }
    }
}

/// Whether there are as many as an operation takes.
#[inline]
fn counts<T>(list: &[T]) -> bool {
    (1..=SOURCES_MAX).contains(&list.len())
}

/// One or two destinations of the same length, and what they allow the other operands to be.
#[derive(Clone, Copy)]
struct Bounds {
    len: usize,
    /// A block of this length shares a byte with the first destination if it begins less than `reach`
    /// bytes after this address; memory that exists does not wrap around.
    first: usize,
    /// The same for the second.
    second: usize,
    reach: usize,
}

impl Bounds {
    #[inline]
    fn of(dst: Region) -> Self {
        Bounds::of_two(dst, dst)
    }

    #[inline]
    fn of_two(first: Region, second: Region) -> Self {
        // No block is as long as this, so that nothing is allowed beside an empty destination.
        let len = if first.is_empty() { usize::MAX } else { first.len() };
        let from = |dst: Region| (dst.as_ptr() as usize).wrapping_sub(len - 1);
        Bounds { len, first: from(first), second: from(second), reach: len.wrapping_mul(2).wrapping_sub(1) }
    }

    /// Those of one or two parities that are valid by themselves.
    #[inline]
    fn of_parities(p: Option<Region>, q: Option<Region>) -> Option<Self> {
        match (p, q) {
            (Some(p), Some(q)) => Bounds::of(p).allow(q).then(|| Bounds::of_two(p, q)),
            (Some(dst), None) | (None, Some(dst)) => (!dst.is_empty()).then(|| Bounds::of(dst)),
            (None, None) => None,
        }
    }

    /// Whether a block has the length of the destinations, which is not zero, and shares no byte with
    /// them.
    #[inline]
    fn allow(&self, block: Region) -> bool {
        let at = block.as_ptr() as usize;
        (block.len() == self.len)
            & (at.wrapping_sub(self.first) >= self.reach)
            & (at.wrapping_sub(self.second) >= self.reach)
    }

    #[inline]
    fn allow_all(&self, blocks: impl Iterator<Item = Region>) -> bool {
        blocks.fold(true, |good, block| good & self.allow(block))
    }
}

fn check_count(count: usize) -> Result<(), OpError> {
    if (1..=SOURCES_MAX).contains(&count) { Ok(()) } else { Err(OpError::SourceCount { count }) }
}

fn check_change(change: &Change) -> Result<(), OpError> {
    let Change { exponent, old, new } = *change;
    if usize::from(exponent) >= SOURCES_MAX {
        return Err(OpError::Exponent { exponent });
    }
    if old.is_none() && new.is_none() { Err(OpError::Unchanged { exponent }) } else { Ok(()) }
}

/// Bytes of a CRC in memory.
const CRC_BYTES: usize = 4;

fn check_crc(seed: Seed, crc: Region) -> Result<(), OpError> {
    let lengths = match seed {
        Seed::Value(_) => [crc.len(), CRC_BYTES],
        Seed::From(seed) => [crc.len(), seed.len()],
    };
    match lengths.into_iter().find(|len| *len != CRC_BYTES) {
        Some(found) => Err(OpError::Length { expected: CRC_BYTES, found }),
        None => Ok(()),
    }
}

fn check_parity(p: Option<Region>, q: Option<Region>) -> Result<(), OpError> {
    if p.is_some() || q.is_some() { Ok(()) } else { Err(OpError::NoParity) }
}

fn check_recover(
    data: &[Option<Region>],
    p: Option<Region>,
    q: Option<Region>,
    lost: Lost,
) -> Result<(), OpError> {
    check_count(data.len())?;
    for exponent in lost.exponents() {
        if !data.get(usize::from(exponent)).is_some_and(Option::is_some) {
            return Err(OpError::Exponent { exponent });
        }
    }
    if (lost.p && p.is_none()) || (lost.q && q.is_none()) {
        return Err(OpError::NoParity);
    }
    let (p_good, q_good) = (p.is_some() && !lost.p, q.is_some() && !lost.q);
    let solvable = match lost.data {
        [None, None] => lost.p || lost.q,
        [Some(x), Some(y)] => x != y && p_good && q_good,
        [Some(_), None] | [None, Some(_)] => p_good || q_good,
    };
    if solvable { Ok(()) } else { Err(OpError::Unrecoverable) }
}

/// An operation that passed [`Op::check`]: lengths agree, nothing is empty, and no destination shares a
/// byte with another operand, so that a backend may make slices of the regions.
///
/// With one exception, which the engine makes: the later steps of a CRC that was cut have the word of the CRC
/// as their [`Seed::From`], too. It is read before anything is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckedOp<'a>(pub(crate) Op<'a>);

impl<'a> Deref for CheckedOp<'a> {
    type Target = Op<'a>;

    fn deref(&self) -> &Op<'a> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Product, XorMode};

    fn below(seed: &mut u64, end: usize) -> usize {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % end
    }

    #[test]
    fn the_quick_check_says_what_the_slow_one_says() {
        let mut memory = vec![0u8; 64];
        let base = memory.as_mut_ptr();
        let (mut seed, mut valid) = (0xc4ec, 0);
        for case in 0..200_000 {
            let len = below(&mut seed, 6);
            let mut region = || {
                let len = if below(&mut seed, 30) == 0 { below(&mut seed, 6) } else { len };
                let offset = below(&mut seed, 58);
                // SAFETY: inside `memory`, which nothing in this test touches.
                unsafe { Region::new(base.add(offset), len) }
            };
            let all: [Region; 6] = std::array::from_fn(|_| region());
            let [a, b, c, ..] = all;
            let mut some = |region: Region| (below(&mut seed, 4) != 0).then_some(region);
            let data = [some(all[3]), some(all[4]), some(all[5])];
            let (p, q, old, new) = (some(a), some(b), some(c), some(all[3]));
            let n = below(&mut seed, 4);
            let changes = [Change { exponent: 250 + below(&mut seed, 6) as u8, old, new }; 2];
            let products = [Product { coefficient: 1, src: b }, Product { coefficient: 2, src: c }];
            let op = match below(&mut seed, 10) {
                0 => Op::Copy { src: a, dst: b },
                1 => Op::Fill { dst: a, byte: 0 },
                2 => Op::Xor { srcs: &all[3..3 + n], dst: a, mode: XorMode::Accumulate },
                3 => Op::XorVal { srcs: &all[..n] },
                4 => Op::Pq { data: &data[..n], p, q },
                5 => Op::PqUpdate { changes: &changes[..n.min(2)], p, q },
                6 => Op::GfMulAdd { products: &products[..n.min(2)], dst: a },
                7 => Op::Compare { a, b },
                8 => Op::Dualcast { src: a, dst: [b, c] },
                _ => Op::Notify,
            };
            let slow = op.check_everything();
            assert_eq!(op.is_plainly_valid(), slow.is_ok(), "case {case}, seed 0xc4ec: {op:?}: {slow:?}");
            valid += usize::from(slow.is_ok());
        }
        assert!(valid > 20_000, "only {valid} valid");
        let many = vec![Region::NOWHERE; 256];
        assert!(!Op::XorVal { srcs: &many }.is_plainly_valid());
    }
}
