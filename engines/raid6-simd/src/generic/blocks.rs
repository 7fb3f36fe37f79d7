//! The blocks that an operation sums up, in two forms: any list with gaps, and a few without gaps.

use super::{add, get, load};
use crate::table::Sources;
use crate::vector::Vector;

/// Blocks by exponent, all of one length.
pub(crate) trait Blocks: Copy {
    /// The sum of a column of all blocks.
    ///
    /// # Safety
    /// As [`super::Pass::column`].
    unsafe fn sum<V: Vector, const DEPTH: usize, const PART: bool>(self, at: usize, len: usize)
    -> [V; DEPTH];

    /// P and Q of a column of all blocks.
    ///
    /// # Safety
    /// As [`super::Pass::column`].
    unsafe fn syndromes<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> ([V; DEPTH], [V; DEPTH]);
}

/// `N` blocks that are all there. The compiler unrolls the loop over them, which spares about a tenth
/// of the time where all blocks are in the first-level cache.
#[derive(Clone, Copy)]
pub(crate) struct Dense<const N: usize>([*const u8; N]);

impl<const N: usize> Dense<N> {
    /// `None` unless there are `N` blocks and no gaps.
    #[inline(always)]
    pub(crate) fn new(data: Sources<'_>) -> Option<Self> {
        let data: &[Option<&[u8]>; N] = data.try_into().ok()?;
        let mut pointers = [std::ptr::null(); N];
        for (pointer, block) in pointers.iter_mut().zip(data) {
            *pointer = block.as_ref()?.as_ptr();
        }
        Some(Dense(pointers))
    }
}

impl<const N: usize> Blocks for Dense<N> {
    #[inline(always)]
    unsafe fn sum<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> [V; DEPTH] {
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sum = get::<V, DEPTH, PART>(self.0[0], at, len);
            for block in &self.0[1..] {
                add::<V, DEPTH, PART>(&mut sum, *block, at, len);
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn syndromes<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> ([V; DEPTH], [V; DEPTH]) {
        // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
        unsafe {
            let mut p = get::<V, DEPTH, PART>(self.0[N - 1], at, len);
            let mut q = p;
            let mut left = N - 1;
            while left >= 2 {
                for i in 0..DEPTH {
                    let at = at + i * V::BYTES;
                    let b = load::<V, PART>(self.0[left - 1].add(at), len);
                    let a = load::<V, PART>(self.0[left - 2].add(at), len);
                    p[i] = p[i].xor3(b, a);
                    q[i] = q[i].horner2(b, a);
                }
                left -= 2;
            }
            if left == 1 {
                let a = get::<V, DEPTH, PART>(self.0[0], at, len);
                for i in 0..DEPTH {
                    p[i] = p[i].xor(a[i]);
                    q[i] = q[i].mul2().xor(a[i]);
                }
            }
            (p, q)
        }
    }
}

impl Blocks for Sources<'_> {
    #[inline(always)]
    unsafe fn sum<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> [V; DEPTH] {
        // SAFETY: passed on to the caller.
        unsafe {
            let (pairs, odd) = self.split_at(self.len() & !1);
            let mut sum = match odd.first().copied().flatten() {
                Some(block) => get::<V, DEPTH, PART>(block.as_ptr(), at, len),
                None => [V::zero(); DEPTH],
            };
            for pair in pairs.chunks_exact(2) {
                match (pair[0], pair[1]) {
                    (Some(a), Some(b)) => {
                        for (i, sum) in sum.iter_mut().enumerate() {
                            let at = at + i * V::BYTES;
                            let a = load::<V, PART>(a.as_ptr().add(at), len);
                            *sum = sum.xor3(a, load::<V, PART>(b.as_ptr().add(at), len));
                        }
                    }
                    (Some(one), None) | (None, Some(one)) => {
                        add::<V, DEPTH, PART>(&mut sum, one.as_ptr(), at, len);
                    }
                    (None, None) => {}
                }
            }
            sum
        }
    }

    #[inline(always)]
    unsafe fn syndromes<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> ([V; DEPTH], [V; DEPTH]) {
        let mut p: [V; DEPTH];
        let mut q: [V; DEPTH];
        // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
        unsafe {
            // The odd one out is the highest, where Horner's rule has nothing to multiply yet.
            let (pairs, top) = self.split_at(self.len() & !1);
            (p, q) = match top.first().copied().flatten() {
                Some(block) => {
                    let d = get::<V, DEPTH, PART>(block.as_ptr(), at, len);
                    (d, d)
                }
                None => ([V::zero(); DEPTH], [V::zero(); DEPTH]),
            };
            for pair in pairs.rchunks_exact(2) {
                match (pair[1], pair[0]) {
                    (Some(b), Some(a)) => {
                        for i in 0..DEPTH {
                            let at = at + i * V::BYTES;
                            let b = load::<V, PART>(b.as_ptr().add(at), len);
                            let a = load::<V, PART>(a.as_ptr().add(at), len);
                            p[i] = p[i].xor3(b, a);
                            q[i] = q[i].horner2(b, a);
                        }
                    }
                    (None, Some(a)) => {
                        for i in 0..DEPTH {
                            let a = load::<V, PART>(a.as_ptr().add(at + i * V::BYTES), len);
                            p[i] = p[i].xor(a);
                            q[i] = q[i].horner2(V::zero(), a);
                        }
                    }
                    (Some(b), None) => {
                        for i in 0..DEPTH {
                            let b = load::<V, PART>(b.as_ptr().add(at + i * V::BYTES), len);
                            p[i] = p[i].xor(b);
                            q[i] = q[i].horner2(b, V::zero());
                        }
                    }
                    (None, None) => {
                        for q in &mut q {
                            *q = q.horner2(V::zero(), V::zero());
                        }
                    }
                }
            }
        }
        (p, q)
    }
}
