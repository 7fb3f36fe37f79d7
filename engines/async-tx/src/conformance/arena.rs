//! The memory that operations of the suite touch, and what should be in it.

use super::oracle::Bytes;
use crate::op::{Access, Op, Verdict};
use crate::{Chain, Region};

/// Bytes of an arena.
pub(super) const ARENA_BYTES: usize = 2 << 20;
/// Bytes of a page, the alignment of an arena.
pub(super) const PAGE: usize = 4096;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A number below `end`, or zero.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Memory, and beside it a copy of what should be in it. It is reached through raw pointers only, so that
/// regions of it stay good.
pub(super) struct Arena {
    start: *mut u8,
    expected: Vec<u8>,
    pub(super) rng: Rng,
}

impl Arena {
    pub(super) fn new(seed: u64) -> Self {
        // An arena is never freed: a backend that breaks its promises may write to it at any time.
        let room = Box::leak(vec![0u8; ARENA_BYTES + PAGE].into_boxed_slice());
        let aligned = room.as_ptr().align_offset(PAGE).min(PAGE);
        // SAFETY: at most `PAGE` bytes into an allocation that is that much longer than the arena.
        let start = unsafe { room.as_mut_ptr().add(aligned) };
        let mut arena = Arena { start, expected: vec![0; ARENA_BYTES], rng: Rng(seed) };
        arena.scramble();
        arena
    }

    /// All of it.
    pub(super) fn whole(&self) -> Region {
        // SAFETY: the arena is never freed; the suite keeps the rules for operations over it.
        unsafe { Region::new(self.start, ARENA_BYTES) }
    }

    /// `len` bytes at `offset`.
    pub(super) fn at(&self, offset: usize, len: usize) -> Result<Region, String> {
        self.whole().part(offset, len).ok_or_else(|| format!("the suite has no {len} bytes at {offset}"))
    }

    fn set(&mut self, region: Region, bytes: &[u8]) {
        // SAFETY: inside the arena, which nothing borrows; `bytes` is not in it. A backend that keeps its
        // promises does not touch it, and what one that does not writes shows in a comparison.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.as_ptr(), bytes.len().min(region.len()))
        };
        Bytes { base: self.start as usize, bytes: &mut self.expected }.set(region, bytes);
    }

    /// Puts new bytes everywhere. Nothing is in flight, or should not be.
    pub(super) fn scramble(&mut self) {
        self.scribble(self.whole());
    }

    /// Puts new bytes into a region that no operation in flight names.
    pub(super) fn scribble(&mut self, region: Region) {
        let bytes: Vec<u8> = (0..region.len().div_ceil(8))
            .flat_map(|_| self.rng.next().to_le_bytes())
            .take(region.len())
            .collect();
        self.set(region, &bytes);
    }

    /// Copies `from` to `to`, both of one length, in memory and in what should be there.
    pub(super) fn copy(&mut self, from: Region, to: Region) {
        let bytes = self.wanted(from);
        self.set(to, &bytes);
    }

    /// Changes one byte of a region.
    pub(super) fn spoil(&mut self, region: Region) {
        let at = self.rng.below(region.len());
        let mut bytes = self.wanted(region);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = byte.wrapping_add(1 + self.rng.byte() % 255);
        }
        self.set(region, &bytes);
    }

    fn wanted(&mut self, region: Region) -> Vec<u8> {
        Bytes { base: self.start as usize, bytes: &mut self.expected }.of(region).to_vec()
    }

    /// What an operation makes of what should be there.
    pub(super) fn expect(&mut self, op: &Op<'_>) -> Verdict {
        Bytes { base: self.start as usize, bytes: &mut self.expected }.apply(op)
    }

    /// Runs an operation in memory, as part of the preparation for another one.
    pub(super) fn prepare(&mut self, chain: &Chain) {
        for op in chain.ops() {
            self.expect(&op);
            op.each_region(|region, access| {
                if access == Access::Write {
                    let bytes = self.wanted(region);
                    self.set(region, &bytes);
                }
                true
            });
        }
    }

    /// What should be in the arena now.
    pub(super) fn expected(&self) -> Vec<u8> {
        self.expected.clone()
    }

    /// Goes back to what should have been in a region earlier, without touching memory.
    pub(super) fn expect_again(&mut self, earlier: &[u8], region: Region) {
        let offset = (region.as_ptr() as usize).wrapping_sub(self.start as usize);
        let then = earlier.get(offset..offset.saturating_add(region.len())).unwrap_or(&[]);
        Bytes { base: self.start as usize, bytes: &mut self.expected }.set(region, then);
    }

    /// Takes what is in a region for what should be there.
    pub(super) fn accept(&mut self, region: Region) {
        let bytes = self.snapshot(region);
        self.set(region, &bytes);
    }

    fn snapshot(&self, region: Region) -> Vec<u8> {
        let mut bytes = vec![0; region.len()];
        // SAFETY: inside the arena, and what was just allocated is not.
        unsafe { std::ptr::copy_nonoverlapping(region.as_ptr(), bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }

    /// Whether a region holds what it should; says where it does not.
    pub(super) fn check(&mut self, region: Region) -> Result<(), String> {
        let (found, wanted) = (self.snapshot(region), self.wanted(region));
        if found == wanted {
            return Ok(());
        }
        let at = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted).unwrap_or(0);
        let offset = (region.as_ptr() as usize).wrapping_sub(self.start as usize).wrapping_add(at);
        let byte = |bytes: &[u8]| bytes.get(at).copied().unwrap_or(0);
        Err(format!(
            "byte {at} (at {offset:#x} of the arena) is {:#04x}, not {:#04x}",
            byte(&found),
            byte(&wanted)
        ))
    }

    /// Whether all of the arena holds what it should.
    pub(super) fn check_all(&mut self) -> Result<(), String> {
        self.check(self.whole())
    }
}

/// The destinations of an operation.
pub(super) fn destinations(op: &Op<'_>) -> Vec<Region> {
    let mut found = Vec::new();
    op.each_region(|region, access| {
        if access == Access::Write {
            found.push(region);
        }
        true
    });
    found
}
