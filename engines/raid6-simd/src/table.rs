//! The table's row: one implementation as a set of functions with one signature each.
//!
//! The functions trust their arguments; [`crate::Kernels`] checks them. A `&'static Routines` is handed
//! out only by a function that has found the CPU features it needs, so whoever holds one may call it.

use crate::{Kernel, Mismatch};

/// Source blocks by exponent; `None` is a block of zeroes.
pub(crate) type Sources<'a> = &'a [Option<&'a [u8]>];

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
    pub(crate) xor: unsafe fn(srcs: Sources<'_>, extra: Option<&[u8]>, dst: &mut [u8], accumulate: bool),
    /// Whether `sum(srcs)` is zero in all its `len` bytes.
    pub(crate) xor_val: unsafe fn(srcs: Sources<'_>, len: usize) -> bool,
    /// P and Q of `data`; the one that is `None` is not wanted.
    pub(crate) pq: unsafe fn(data: Sources<'_>, p: Option<&mut [u8]>, q: Option<&mut [u8]>, len: usize),
    /// Which of the given P and Q differ from those of `data`.
    pub(crate) pq_val:
        unsafe fn(data: Sources<'_>, p: Option<&[u8]>, q: Option<&[u8]>, len: usize) -> Mismatch,
    /// `p += old + new`, `q += coefficient * (old + new)`.
    pub(crate) pq_update:
        unsafe fn(old: &[u8], new: &[u8], coefficient: u8, p: Option<&mut [u8]>, q: Option<&mut [u8]>),
    /// Row 0 of the system to `out0`, row 1 to `out1`.
    pub(crate) solve: unsafe fn(solve: Solve<'_>, out0: &mut [u8], out1: Option<&mut [u8]>),
}
