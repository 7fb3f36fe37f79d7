//! Every operation once, over any [`Vector`].
//!
//! A block is walked in columns of `DEPTH` registers; a column takes in all blocks before the next one
//! starts. P is the sum of the data, and Q is evaluated by Horner's rule from the highest exponent down:
//!
//! ```text
//! for each column:
//!     p = q = 0
//!     for d in data, highest exponent first:
//!         q = 2 * q + d
//!         p = p + d
//!     (load whatever else the operation reads)
//!     store the results
//! ```
//!
//! Nothing of a column is stored before all of it was loaded: blocks usually start at the same offset of
//! a page, and a load that follows a store to the same offset of another page waits for it in vain.
//!
//! The bytes that do not fill a register are handled by partial loads and stores of one last column.

use crate::Mismatch;
use crate::table::{Solve, Sources};
use crate::vector::{Term, Vector};

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

/// # Safety
/// As [`Pass::column`]: `len` bytes if `PART`, else a register, at `src`.
#[inline(always)]
unsafe fn load<V: Vector, const PART: bool>(src: *const u8, len: usize) -> V {
    // SAFETY: the caller's promise is the one of these functions.
    unsafe { if PART { V::load_part(src, len) } else { V::load(src) } }
}

/// # Safety
/// As [`load`], for writing.
#[inline(always)]
unsafe fn store<V: Vector, const PART: bool>(value: V, dst: *mut u8, len: usize) {
    // SAFETY: the caller's promise is the one of these functions.
    unsafe { if PART { value.store_part(dst, len) } else { value.store(dst) } }
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

/// Stores `DEPTH` registers at byte `at` of `block`, unless it is `None`.
///
/// # Safety
/// As [`Pass::column`].
#[inline(always)]
unsafe fn put<V: Vector, const DEPTH: usize, const PART: bool>(
    values: &[V; DEPTH],
    block: Option<*mut u8>,
    at: usize,
    len: usize,
) {
    if let Some(block) = block {
        for (i, value) in values.iter().enumerate() {
            // SAFETY: register `i` of the column lies inside the block.
            unsafe { store::<V, PART>(*value, block.add(at + i * V::BYTES), len) };
        }
    }
}

/// The sum of a column of all sources.
///
/// # Safety
/// As [`Pass::column`].
#[inline(always)]
unsafe fn sum<V: Vector, const DEPTH: usize, const PART: bool>(
    srcs: Sources<'_>,
    at: usize,
    len: usize,
) -> [V; DEPTH] {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut sum = [V::zero(); DEPTH];
        for block in srcs.iter().flatten() {
            add::<V, DEPTH, PART>(&mut sum, block.as_ptr(), at, len);
        }
        sum
    }
}

/// P and Q of a column of the data.
///
/// # Safety
/// As [`Pass::column`].
#[inline(always)]
unsafe fn syndromes<V: Vector, const DEPTH: usize, const PART: bool>(
    data: Sources<'_>,
    at: usize,
    len: usize,
) -> ([V; DEPTH], [V; DEPTH]) {
    // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
    unsafe {
        let mut p = [V::zero(); DEPTH];
        let mut q = [V::zero(); DEPTH];
        for block in data.iter().rev() {
            let Some(block) = block else {
                for q in &mut q {
                    *q = q.mul2();
                }
                continue;
            };
            for i in 0..DEPTH {
                let d = load::<V, PART>(block.as_ptr().add(at + i * V::BYTES), len);
                p[i] = p[i].xor(d);
                q[i] = q[i].mul2().xor(d);
            }
        }
        (p, q)
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

pub(crate) struct Xor<'a> {
    pub(crate) srcs: Sources<'a>,
    pub(crate) extra: Option<&'a [u8]>,
    pub(crate) dst: *mut u8,
    pub(crate) accumulate: bool,
}

impl<V: Vector> Pass<V> for Xor<'_> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `dst` has the length of the blocks.
        unsafe {
            let mut s = sum::<V, DEPTH, PART>(self.srcs, at, len);
            if let Some(extra) = self.extra {
                add::<V, DEPTH, PART>(&mut s, extra.as_ptr(), at, len);
            }
            if self.accumulate {
                add::<V, DEPTH, PART>(&mut s, self.dst, at, len);
            }
            put::<V, DEPTH, PART>(&s, Some(self.dst), at, len);
        }
        true
    }
}

pub(crate) struct XorVal<'a> {
    pub(crate) srcs: Sources<'a>,
    pub(crate) zero: bool,
}

impl<V: Vector> Pass<V> for XorVal<'_> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller.
        self.zero = unsafe { !any_set(&sum::<V, DEPTH, PART>(self.srcs, at, len)) };
        self.zero
    }
}

pub(crate) struct Pq<'a> {
    pub(crate) data: Sources<'a>,
    pub(crate) p: Option<*mut u8>,
    pub(crate) q: Option<*mut u8>,
}

impl<V: Vector> Pass<V> for Pq<'_> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let (p, q) = syndromes::<V, DEPTH, PART>(self.data, at, len);
            put::<V, DEPTH, PART>(&p, self.p, at, len);
            put::<V, DEPTH, PART>(&q, self.q, at, len);
        }
        true
    }
}

pub(crate) struct PqVal<'a> {
    pub(crate) data: Sources<'a>,
    pub(crate) p: Option<&'a [u8]>,
    pub(crate) q: Option<&'a [u8]>,
    pub(crate) found: Mismatch,
}

impl<V: Vector> Pass<V> for PqVal<'_> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let (mut p, mut q) = syndromes::<V, DEPTH, PART>(self.data, at, len);
            if let Some(good) = self.p {
                add::<V, DEPTH, PART>(&mut p, good.as_ptr(), at, len);
                self.found.p |= any_set(&p);
            }
            if let Some(good) = self.q {
                add::<V, DEPTH, PART>(&mut q, good.as_ptr(), at, len);
                self.found.q |= any_set(&q);
            }
        }
        // A parity that is absent or already known bad leaves nothing to find out.
        (self.p.is_some() && !self.found.p) || (self.q.is_some() && !self.found.q)
    }
}

pub(crate) struct PqUpdate<'a, V: Vector> {
    pub(crate) old: &'a [u8],
    pub(crate) new: &'a [u8],
    pub(crate) coefficient: Term<V>,
    pub(crate) p: Option<*mut u8>,
    pub(crate) q: Option<*mut u8>,
}

impl<V: Vector> Pass<V> for PqUpdate<'_, V> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let mut delta = [V::zero(); DEPTH];
            add::<V, DEPTH, PART>(&mut delta, self.old.as_ptr(), at, len);
            add::<V, DEPTH, PART>(&mut delta, self.new.as_ptr(), at, len);
            let mut q = [V::zero(); DEPTH];
            if let Some(block) = self.q {
                for (q, d) in q.iter_mut().zip(&delta) {
                    *q = self.coefficient.add_to(*q, *d);
                }
                add::<V, DEPTH, PART>(&mut q, block, at, len);
            }
            let mut p = delta;
            if let Some(block) = self.p {
                add::<V, DEPTH, PART>(&mut p, block, at, len);
            }
            put::<V, DEPTH, PART>(&p, self.p, at, len);
            put::<V, DEPTH, PART>(&q, self.q, at, len);
        }
        true
    }
}

pub(crate) struct Solver<'a, V: Vector> {
    pub(crate) system: Solve<'a>,
    pub(crate) rows: [[Term<V>; 2]; 2],
    pub(crate) out0: *mut u8,
    pub(crate) out1: Option<*mut u8>,
}

impl<V: Vector> Pass<V> for Solver<'_, V> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; parities and outputs have the length of the blocks.
        unsafe {
            let (mut p, mut q) = syndromes::<V, DEPTH, PART>(self.system.data, at, len);
            if let Some(good) = self.system.p {
                add::<V, DEPTH, PART>(&mut p, good.as_ptr(), at, len);
            }
            if let Some(good) = self.system.q {
                add::<V, DEPTH, PART>(&mut q, good.as_ptr(), at, len);
            }
            let mut outs = [[V::zero(); DEPTH]; 2];
            for (out, row) in outs.iter_mut().zip(&self.rows) {
                for i in 0..DEPTH {
                    out[i] = row[0].add_to(row[1].add_to(out[i], q[i]), p[i]);
                }
            }
            put::<V, DEPTH, PART>(&outs[0], Some(self.out0), at, len);
            put::<V, DEPTH, PART>(&outs[1], self.out1, at, len);
        }
        true
    }
}

/// The table row of one ISA: each routine is a function with the ISA's target features, into which the
/// generic code above is inlined. `wide` is the depth for 12 or more blocks: with page-aligned blocks
/// that many streams share a few cache sets, and a longer column uses each line before it is thrown out.
macro_rules! routines {
    ($(#[$features:meta])* kernel: $kernel:expr, vector: $V:ty, depth: $DEPTH:literal, wide: $WIDE:literal) => {
        pub(crate) static ROUTINES: $crate::table::Routines = $crate::table::Routines {
            kernel: $kernel, xor, xor_val, pq, pq_val, pq_update, solve,
        };

        use $crate::generic::{Pq, PqUpdate, PqVal, Solver, Xor, XorVal, walk};
        use $crate::table::{Solve, Sources};
        use $crate::vector::Term;

        $(#[$features])*
        unsafe fn xor(srcs: Sources<'_>, extra: Option<&[u8]>, dst: &mut [u8], accumulate: bool) {
            let mut pass = Xor { srcs, extra, dst: dst.as_mut_ptr(), accumulate };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe { walk::<$V, $DEPTH>(&mut pass, dst.len()) }
        }

        $(#[$features])*
        unsafe fn xor_val(srcs: Sources<'_>, len: usize) -> bool {
            let mut pass = XorVal { srcs, zero: true };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe { walk::<$V, $DEPTH>(&mut pass, len) };
            pass.zero
        }

        $(#[$features])*
        unsafe fn pq(data: Sources<'_>, p: Option<&mut [u8]>, q: Option<&mut [u8]>, len: usize) {
            let mut pass = Pq { data, p: p.map(|p| p.as_mut_ptr()), q: q.map(|q| q.as_mut_ptr()) };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                if data.len() < 12 {
                    walk::<$V, $DEPTH>(&mut pass, len);
                } else {
                    walk::<$V, $WIDE>(&mut pass, len);
                }
            }
        }

        $(#[$features])*
        unsafe fn pq_val(
            data: Sources<'_>, p: Option<&[u8]>, q: Option<&[u8]>, len: usize,
        ) -> $crate::Mismatch {
            let mut pass = PqVal { data, p, q, found: $crate::Mismatch::default() };
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe { walk::<$V, $DEPTH>(&mut pass, len) };
            pass.found
        }

        $(#[$features])*
        unsafe fn pq_update(
            old: &[u8], new: &[u8], coefficient: u8, p: Option<&mut [u8]>, q: Option<&mut [u8]>,
        ) {
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                let mut pass = PqUpdate::<$V> {
                    old,
                    new,
                    coefficient: Term::new(coefficient),
                    p: p.map(|p| p.as_mut_ptr()),
                    q: q.map(|q| q.as_mut_ptr()),
                };
                walk::<$V, $DEPTH>(&mut pass, old.len());
            }
        }

        $(#[$features])*
        unsafe fn solve(system: Solve<'_>, out0: &mut [u8], out1: Option<&mut [u8]>) {
            let [[a, b], [c, d]] = system.rows;
            let len = out0.len();
            // SAFETY: `Routines`: the CPU has the features and all slices have the same length.
            unsafe {
                let mut pass = Solver::<$V> {
                    system,
                    rows: [[Term::new(a), Term::new(b)], [Term::new(c), Term::new(d)]],
                    out0: out0.as_mut_ptr(),
                    out1: out1.map(|out| out.as_mut_ptr()),
                };
                walk::<$V, $DEPTH>(&mut pass, len);
            }
        }
    };
}
pub(crate) use routines;
