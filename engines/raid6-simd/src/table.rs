//! The table's row: one implementation as a set of functions with one signature each.
//!
//! The functions trust their arguments; [`crate::Kernels`] checks them. A `&'static Routines` is handed
//! out only by a function that has found the CPU features it needs, so whoever holds one may call it.

use crate::{Kernel, Mismatch};

/// Source blocks by exponent; `None` is a block of zeroes.
pub(crate) type Sources<'a> = &'a [Option<&'a [u8]>];
/// A block to read that may be absent.
pub(crate) type Src<'a> = Option<&'a [u8]>;
/// A block to write that may be absent.
pub(crate) type Dst<'a> = Option<&'a mut [u8]>;
pub(crate) use crate::ops::{Change as Delta, Located, Product};

/// A linear system to solve for each byte, with `Sp` and `Sq` the syndromes of `data`, `p` and `q` (absent
/// ones count as zero).
#[derive(Clone, Copy)]
pub(crate) struct Solve<'a> {
    pub(crate) data: Sources<'a>,
    pub(crate) p: Option<&'a [u8]>,
    pub(crate) q: Option<&'a [u8]>,
    /// `out0 = first[0] * Sp + first[1] * Sq`.
    pub(crate) first: [u8; 2],
    pub(crate) second: Second,
}

/// The second row of a [`Solve`].
#[derive(Clone, Copy)]
pub(crate) enum Second {
    /// `out1 = Sp + out0`.
    FromP,
    /// `out1 = Sq + c * Sp`.
    FromQ(u8),
}

/// One implementation.
///
/// # Safety
/// Common to all functions: the CPU has the features of `kernel`, and every slice (sources that are
/// `Some`, destinations, parities) has the same length, which is `len` where there is such an argument.
pub(crate) struct Routines {
    pub(crate) kernel: Kernel,
    /// `dst = sum(srcs) + extra`, plus the old `dst` when `accumulate`; past the caches if `stream`.
    pub(crate) xor:
        unsafe fn(srcs: Sources<'_>, extra: Src<'_>, dst: &mut [u8], accumulate: bool, stream: bool),
    /// Whether `sum(srcs)` is zero in all its `len` bytes.
    pub(crate) xor_val: unsafe fn(srcs: Sources<'_>, len: usize) -> bool,
    /// P and Q of `data`; the one that is `None` is not wanted. Past the caches if `stream`.
    pub(crate) pq: unsafe fn(data: Sources<'_>, p: Dst<'_>, q: Dst<'_>, len: usize, stream: bool),
    /// Which of the given P and Q differ from those of `data`.
    pub(crate) pq_val: unsafe fn(data: Sources<'_>, p: Src<'_>, q: Src<'_>, len: usize) -> Mismatch,
    /// `p += sum(old + new)`, `q += sum(2^exponent * (old + new))`.
    pub(crate) pq_update: unsafe fn(deltas: &[Delta<'_>], p: Dst<'_>, q: Dst<'_>, len: usize),
    /// `dst += sum(coefficient * block)`.
    pub(crate) mul_add: unsafe fn(terms: &[Product<'_>], dst: &mut [u8]),
    /// The outputs of the system. Past the caches if `stream`.
    pub(crate) solve: unsafe fn(solve: Solve<'_>, out0: &mut [u8], out1: Dst<'_>, stream: bool),
    /// Which one block is wrong.
    pub(crate) locate: unsafe fn(data: Sources<'_>, p: &[u8], q: &[u8]) -> Located,
}
