//! Every operation once, over any [`Vector`].
//!
//! A block is walked in columns of `DEPTH` registers; a column takes in all blocks before the next one
//! starts. P is the sum of the data, and Q is evaluated by Horner's rule from the highest exponent down,
//! two blocks a step:
//!
//! ```text
//! for each column:
//!     p = q = 0
//!     for (b, a) in data, highest exponents first:
//!         q = 4 * q + 2 * b + a
//!         p = p + b + a
//!     (load whatever else the operation reads)
//!     store the results
//! ```
//!
//! Nothing of a column is stored before all of it was loaded: blocks usually start at the same offset of
//! a page, and a load that follows a store to the same offset of another page waits for it in vain.
//!
//! The bytes that do not fill a register are handled by partial loads and stores of one last column.
//! Which depth is best, and why, is in [`crate::algorithm`].

mod blocks;
mod passes;
mod routines;

pub(crate) use blocks::{Blocks, Dense, Full, Packed};
pub(crate) use passes::{Locate, MulAdd, Pq, PqUpdate, PqUpdates, PqVal, Solver, Xor, XorVal};
pub(crate) use routines::routines;

use crate::table::Sources;
use crate::vector::Vector;

/// Whether so many blocks of this length, and their parities, about fit a first-level cache of 32 KiB. Then
/// the length of a column matters less than the instructions around it.
#[inline(always)]
pub(crate) fn is_short(blocks: usize, len: usize) -> bool {
    blocks <= 8 && len <= 4096
}

/// One operation as seen by [`walk`].
pub(crate) trait Pass<V: Vector> {
    /// Handles `DEPTH` registers at byte `at` of every block, or, if `PART`, only `len` bytes (then
    /// `DEPTH` is 1). Returns whether to go on.
    ///
    /// # Safety
    /// The CPU has `V`'s features, and the bytes named lie inside every block of the operation.
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool;
}

/// Runs `pass` over blocks of `len` bytes.
///
/// # Safety
/// The CPU has `V`'s features, and every block of `pass` has `len` bytes.
#[inline(always)]
pub(crate) unsafe fn walk<V: Vector, const DEPTH: usize>(pass: &mut impl Pass<V>, len: usize) {
    let mut at = 0;
    // SAFETY: each call stays below `len`, the length of every block.
    unsafe {
        while len - at >= DEPTH * V::BYTES {
            if !pass.column::<DEPTH, false>(at, V::BYTES) {
                return;
            }
            at += DEPTH * V::BYTES;
        }
        while len - at >= V::BYTES {
            if !pass.column::<1, false>(at, V::BYTES) {
                return;
            }
            at += V::BYTES;
        }
        if at < len {
            pass.column::<1, true>(at, len - at);
        }
    }
}

/// Whether blocks that start here can be written with [`Vector::stream`].
pub(crate) fn can_stream<V: Vector>(dst: *const u8) -> bool {
    V::STREAMS && dst.addr().is_multiple_of(V::BYTES)
}

/// Asks memory for the first two lines of every block. The CPU's own prefetchers begin anew in each page
/// and see what is wanted only after its first lines were waited for.
///
/// # Safety
/// The CPU has `V`'s features.
#[inline(always)]
pub(crate) unsafe fn ask_for<V: Vector>(blocks: Sources<'_>) {
    for block in blocks.iter().flatten() {
        for line in block.chunks(64).take(2) {
            // SAFETY: passed on to the caller.
            unsafe { V::prefetch(line.as_ptr()) };
        }
    }
}

/// # Safety
/// As [`Pass::column`]: `len` bytes if `PART`, else a register, at `src`.
#[inline(always)]
unsafe fn load<V: Vector, const PART: bool>(src: *const u8, len: usize) -> V {
    // SAFETY: the caller's promise is the one of these functions.
    unsafe { if PART { V::load_part(src, len) } else { V::load(src) } }
}

/// `DEPTH` registers at byte `at` of `block`.
///
/// # Safety
/// As [`Pass::column`].
#[inline(always)]
unsafe fn get<V: Vector, const DEPTH: usize, const PART: bool>(
    block: *const u8,
    at: usize,
    len: usize,
) -> [V; DEPTH] {
    // SAFETY: register `i` of the column lies inside the block.
    std::array::from_fn(|i| unsafe { load::<V, PART>(block.add(at + i * V::BYTES), len) })
}

/// Adds `DEPTH` registers at byte `at` of `block` to `sum`.
///
/// # Safety
/// As [`Pass::column`].
#[inline(always)]
unsafe fn add<V: Vector, const DEPTH: usize, const PART: bool>(
    sum: &mut [V; DEPTH],
    block: *const u8,
    at: usize,
    len: usize,
) {
    for (i, sum) in sum.iter_mut().enumerate() {
        // SAFETY: register `i` of the column lies inside the block.
        *sum = unsafe { sum.xor(load::<V, PART>(block.add(at + i * V::BYTES), len)) };
    }
}

/// Stores `DEPTH` registers at byte `at` of `block`, unless it is `None`; past the caches if `STREAM`,
/// which asks for a block that [`can_stream`] and a fence afterwards.
///
/// # Safety
/// As [`Pass::column`].
#[inline(always)]
unsafe fn put<V: Vector, const DEPTH: usize, const PART: bool, const STREAM: bool>(
    values: &[V; DEPTH],
    block: Option<*mut u8>,
    at: usize,
    len: usize,
) {
    if let Some(block) = block {
        for (i, value) in values.iter().enumerate() {
            // SAFETY: register `i` of the column lies inside the block; columns start at multiples of
            // the register's size, so that alignment is the block's.
            unsafe {
                let dst = block.add(at + i * V::BYTES);
                match (PART, STREAM) {
                    (true, _) => value.store_part(dst, len),
                    (false, true) => value.stream(dst),
                    (false, false) => value.store(dst),
                }
            }
        }
    }
}

/// Whether any bit of a column is set.
///
/// # Safety
/// As [`Vector`].
#[inline(always)]
unsafe fn any_set<V: Vector, const DEPTH: usize>(column: &[V; DEPTH]) -> bool {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut all = V::zero();
        for v in column {
            all = all.or(*v);
        }
        !all.is_zero()
    }
}
