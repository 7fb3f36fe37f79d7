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

/// A linear system to solve for each byte: with `Sp` and `Sq` the syndromes of `data`, `p` and `q`
/// (absent ones count as zero), row `k` yields `rows[k][0] * Sp + rows[k][1] * Sq`.
#[derive(Clone, Copy)]
pub(crate) struct Solve<'a> {
    pub(crate) data: Sources<'a>,
    pub(crate) p: Option<&'a [u8]>,
    pub(crate) q: Option<&'a [u8]>,
    pub(crate) rows: [[u8; 2]; 2],
}

/// One implementation.
///
/// # Safety
/// Common to all functions: the CPU has the features of `kernel`, and every slice (sources that are
/// `Some`, destinations, parities) has the same length, which is `len` where there is such an argument.
pub(crate) struct Routines {
    pub(crate) kernel: Kernel,
    /// `dst = sum(srcs) + extra`, plus the old `dst` when `accumulate`.
    pub(crate) xor: unsafe fn(srcs: Sources<'_>, extra: Src<'_>, dst: &mut [u8], accumulate: bool),
    /// Whether `sum(srcs)` is zero in all its `len` bytes.
    pub(crate) xor_val: unsafe fn(srcs: Sources<'_>, len: usize) -> bool,
    /// P and Q of `data`; the one that is `None` is not wanted.
    pub(crate) pq: unsafe fn(data: Sources<'_>, p: Dst<'_>, q: Dst<'_>, len: usize),
    /// Which of the given P and Q differ from those of `data`.
    pub(crate) pq_val: unsafe fn(data: Sources<'_>, p: Src<'_>, q: Src<'_>, len: usize) -> Mismatch,
    /// `p += old + new`, `q += coefficient * (old + new)`.
    pub(crate) pq_update: unsafe fn(old: &[u8], new: &[u8], coefficient: u8, p: Dst<'_>, q: Dst<'_>),
    /// Row 0 of the system to `out0`, row 1 to `out1`.
    pub(crate) solve: unsafe fn(solve: Solve<'_>, out0: &mut [u8], out1: Dst<'_>),
}
