//! The memory that a calibration works on, and the operations on it.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use super::SIZES;
use crate::op::{Change, Lost, Op, OpKind, Product, Seed, XorMode};
use crate::region::Region;

/// The most operations at a time.
const SLOTS: usize = 32;
/// The most bytes of destinations.
const DST_BYTES: usize = 8 << 20;
/// Destinations of an operation.
const DSTS: usize = 2;
/// The most sources of an operation.
const SOURCES: usize = 4;
/// Blocks that are only read: the sources, P and Q.
const SHARED: usize = SOURCES + 2;
/// Bytes between the CRCs of two operations, each in a cache line of its own.
const CRC_STRIDE: usize = 64;
/// Bytes of a CRC.
const CRC: usize = 4;
/// More than any backend asks for, and what lets the kernel use huge pages.
const ALIGN: usize = 2 << 20;

const SHARED_BYTES: usize = SHARED * SIZES[SIZES.len() - 1];
const BYTES: usize = SHARED_BYTES + DST_BYTES + SLOTS * CRC_STRIDE;

/// Blocks to read, then blocks to write, then CRCs. All bytes are zero at first, so that every check finds
/// what it looks for and has to go through all of them.
#[derive(Debug)]
pub(super) struct Arena {
    base: NonNull<u8>,
    layout: Layout,
}

impl Arena {
    /// Allocates and touches it; `None` if there is no memory.
    pub(super) fn new() -> Option<Self> {
        let layout = Layout::from_size_align(BYTES, ALIGN).ok()?;
        // SAFETY: the layout has a size that is not zero.
        let base = NonNull::new(unsafe { alloc(layout) })?;
        // Otherwise the compiler may ask for zeroed memory in place of zeroing it, which has no pages yet.
        let base = std::hint::black_box(base);
        // SAFETY: `alloc` gave so many bytes.
        unsafe { base.as_ptr().write_bytes(0, BYTES) };
        Some(Arena { base, layout })
    }

    fn region(&self, offset: usize, len: usize) -> Option<Region> {
        if offset.checked_add(len)? > BYTES {
            return None;
        }
        // SAFETY: inside of the allocation, which is initialised. It is freed only after all operations on
        // it ended, and leaked if they do not; nobody else knows of it.
        Some(unsafe { Region::new(self.base.as_ptr().add(offset), len) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// What one operation writes to.
#[derive(Debug)]
struct Slot {
    dst: [Region; DSTS],
    crc: Region,
    /// The data blocks of a recovery: the first destination, and the sources but the first.
    lost: Vec<Option<Region>>,
}

/// Operands of one length, with lists of as many sources as are wanted.
#[derive(Debug)]
pub(super) struct Operands {
    srcs: Vec<Region>,
    data: Vec<Option<Region>>,
    changes: Vec<Change>,
    products: Vec<Product>,
    /// Two blocks to compare, or P and Q to check.
    parity: [Region; 2],
    slots: Vec<Slot>,
}

impl Operands {
    /// Blocks of `len` bytes, which is one of [`SIZES`], and at most `sources_max` sources.
    pub(super) fn new(arena: &Arena, len: usize, sources_max: usize) -> Option<Self> {
        let shared = |i: usize| arena.region(i * len, len);
        let srcs: Vec<Region> = (0..SOURCES.min(sources_max)).map_while(shared).collect();
        let data: Vec<Option<Region>> = srcs.iter().copied().map(Some).collect();
        let change =
            |(exponent, new): (u8, &Region)| Change { exponent, old: srcs.first().copied(), new: Some(*new) };
        let changes = (0..).zip(&srcs).map(change).collect();
        let products =
            (2..).zip(&srcs).map(|(coefficient, src)| Product { coefficient, src: *src }).collect();
        let slot = |i: usize| {
            let dst = |j: usize| arena.region(SHARED_BYTES + (i * DSTS + j) * len, len);
            let dst = [dst(0)?, dst(1)?];
            let crc = arena.region(SHARED_BYTES + DST_BYTES + i * CRC_STRIDE, CRC)?;
            let mut lost = data.clone();
            if let Some(first) = lost.first_mut() {
                *first = Some(dst[0]);
            }
            Some(Slot { dst, crc, lost })
        };
        let slots = (0..SLOTS.min(DST_BYTES / (DSTS * len))).map_while(slot).collect();
        let parity = [shared(SOURCES)?, shared(SOURCES + 1)?];
        Some(Operands { srcs, data, changes, products, parity, slots })
    }

    /// The number of operations that write to different bytes.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// An operation of this kind on a slot.
    pub(super) fn op(&self, kind: OpKind, slot: usize) -> Option<Op<'_>> {
        let Operands { srcs, data, changes, products, parity: [a, b], .. } = self;
        let Slot { dst: [dst, dst2], crc, lost } = self.slots.get(slot)?;
        let (src, dst, crc, seed) = (*a, *dst, *crc, Seed::Value(0));
        let (p, q) = (Some(dst), Some(*dst2));
        Some(match kind {
            OpKind::Notify => return None,
            OpKind::Copy => Op::Copy { src, dst },
            OpKind::Fill => Op::Fill { dst, byte: 0 },
            OpKind::Xor => Op::Xor { srcs, dst, mode: XorMode::Overwrite },
            OpKind::XorVal => Op::XorVal { srcs },
            OpKind::Pq => Op::Pq { data, p, q },
            OpKind::PqVal => Op::PqVal { data, p: Some(*a), q: Some(*b) },
            OpKind::PqUpdate => Op::PqUpdate { changes, p, q },
            OpKind::Recover => {
                let lost_first = Lost { data: [Some(0), None], p: false, q: false };
                Op::Recover { data: lost, p: Some(*a), q: None, lost: lost_first }
            }
            OpKind::GfMulAdd => Op::GfMulAdd { products, dst },
            OpKind::Compare => Op::Compare { a: *a, b: *b },
            OpKind::Dualcast => Op::Dualcast { src, dst: [dst, *dst2] },
            OpKind::Crc32c => Op::Crc32c { src, seed, crc },
            OpKind::CopyCrc32c => Op::CopyCrc32c { src, dst, seed, crc },
        })
    }
}
