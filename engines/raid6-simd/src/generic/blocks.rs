//! The blocks that an operation sums up, in two forms: any list with gaps, and a few without gaps.

use std::mem::MaybeUninit;

use super::{add, get, load};
use crate::table::Sources;
use crate::vector::Vector;
use crate::{SOURCES_MAX, gf};

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

/// Any number of blocks that are all there: no question of gaps in the loop over them.
#[derive(Clone, Copy)]
pub(crate) struct Full<'a>(Sources<'a>);

impl<'a> Full<'a> {
    /// `None` if a block is absent.
    #[inline(always)]
    pub(crate) fn new(data: Sources<'a>) -> Option<Self> {
        data.iter().fold(true, |full, block| full & block.is_some()).then_some(Full(data))
    }

    #[inline(always)]
    fn pointer(block: &Option<&[u8]>) -> *const u8 {
        // SAFETY: `new` found every block.
        unsafe { block.unwrap_unchecked().as_ptr() }
    }
}

impl Blocks for Full<'_> {
    #[inline(always)]
    unsafe fn sum<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> [V; DEPTH] {
        // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
        unsafe {
            let (pairs, odd) = self.0.split_at(self.0.len() & !1);
            let mut sum = match odd.first() {
                Some(block) => get::<V, DEPTH, PART>(Self::pointer(block), at, len),
                None => [V::zero(); DEPTH],
            };
            for pair in pairs.chunks_exact(2) {
                let (a, b) = (Self::pointer(&pair[0]), Self::pointer(&pair[1]));
                for (i, sum) in sum.iter_mut().enumerate() {
                    let at = at + i * V::BYTES;
                    *sum = sum.xor3(load::<V, PART>(a.add(at), len), load::<V, PART>(b.add(at), len));
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
        // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
        unsafe {
            let (pairs, top) = self.0.split_at(self.0.len() & !1);
            let mut p = match top.first() {
                Some(block) => get::<V, DEPTH, PART>(Self::pointer(block), at, len),
                None => [V::zero(); DEPTH],
            };
            let mut q = p;
            for pair in pairs.rchunks_exact(2) {
                let (b, a) = (Self::pointer(&pair[1]), Self::pointer(&pair[0]));
                for i in 0..DEPTH {
                    let at = at + i * V::BYTES;
                    let b = load::<V, PART>(b.add(at), len);
                    let a = load::<V, PART>(a.add(at), len);
                    p[i] = p[i].xor3(b, a);
                    q[i] = q[i].horner2(b, a);
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

/// Any blocks with any gaps as pointers without gaps, from the highest exponent down, in runs of
/// neighbours. To make it takes as long as it saves on blocks in the cache. From memory, where a column
/// is one register, it lets the CPU see further ahead, and there are more loads under way.
pub(crate) struct Packed {
    /// The first `count` are there.
    pointers: [MaybeUninit<*const u8>; SOURCES_MAX],
    count: usize,
    /// The first `run_count` are there.
    runs: [MaybeUninit<Run>; RUNS_MAX],
    run_count: usize,
}

/// With every other block absent there are this many runs.
const RUNS_MAX: usize = SOURCES_MAX.div_ceil(2);

/// Blocks with neighbouring exponents, and the gap that follows.
#[derive(Clone, Copy)]
struct Run {
    /// How many blocks.
    count: u8,
    /// `2^g` if `g` blocks are absent between this run and the next, or exponent 0.
    gap: u8,
}

impl Packed {
    /// No blocks. It is filled in place, because to move it would copy all of it.
    pub(crate) const EMPTY: Packed = Packed {
        pointers: [const { MaybeUninit::uninit() }; SOURCES_MAX],
        count: 0,
        runs: [const { MaybeUninit::uninit() }; RUNS_MAX],
        run_count: 0,
    };

    #[inline(always)]
    pub(crate) fn fill(&mut self, data: Sources<'_>) -> &Self {
        let (mut count, mut run_count, mut run_start) = (0, 0, 0);
        let mut absent = 0;
        for block in data.iter().rev() {
            let Some(block) = block else {
                absent += 1;
                continue;
            };
            if absent > 0 && count > 0 {
                self.runs[run_count].write(Run { count: (count - run_start) as u8, gap: gf::exp(absent) });
                run_count += 1;
                run_start = count;
            }
            absent = 0;
            self.pointers[count].write(block.as_ptr());
            count += 1;
        }
        if count > 0 {
            self.runs[run_count].write(Run { count: (count - run_start) as u8, gap: gf::exp(absent) });
            run_count += 1;
        }
        (self.count, self.run_count) = (count, run_count);
        self
    }

    #[inline(always)]
    fn pointers(&self) -> &[*const u8] {
        // SAFETY: the first `count` pointers were written.
        unsafe { self.pointers[..self.count].assume_init_ref() }
    }

    #[inline(always)]
    fn runs(&self) -> &[Run] {
        // SAFETY: the first `run_count` runs were written.
        unsafe { self.runs[..self.run_count].assume_init_ref() }
    }
}

impl Blocks for &Packed {
    #[inline(always)]
    unsafe fn sum<V: Vector, const DEPTH: usize, const PART: bool>(
        self,
        at: usize,
        len: usize,
    ) -> [V; DEPTH] {
        // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
        unsafe {
            let mut pairs = self.pointers().chunks_exact(2);
            let mut sum = match pairs.remainder() {
                [block] => get::<V, DEPTH, PART>(*block, at, len),
                _ => [V::zero(); DEPTH],
            };
            for pair in &mut pairs {
                for (i, sum) in sum.iter_mut().enumerate() {
                    let at = at + i * V::BYTES;
                    let a = load::<V, PART>(pair[0].add(at), len);
                    *sum = sum.xor3(a, load::<V, PART>(pair[1].add(at), len));
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
        // SAFETY: passed on to the caller; register `i` of the column lies inside every block.
        unsafe {
            let (mut p, mut q) = ([V::zero(); DEPTH], [V::zero(); DEPTH]);
            let mut next = self.pointers().as_ptr();
            for run in self.runs() {
                let mut left = run.count;
                if left % 2 == 1 {
                    for i in 0..DEPTH {
                        let d = load::<V, PART>((*next).add(at + i * V::BYTES), len);
                        p[i] = p[i].xor(d);
                        q[i] = q[i].mul2().xor(d);
                    }
                    next = next.add(1);
                    left -= 1;
                }
                while left > 0 {
                    let (b, a) = (*next, *next.add(1));
                    for i in 0..DEPTH {
                        let at = at + i * V::BYTES;
                        let b = load::<V, PART>(b.add(at), len);
                        let a = load::<V, PART>(a.add(at), len);
                        p[i] = p[i].xor3(b, a);
                        q[i] = q[i].horner2(b, a);
                    }
                    next = next.add(2);
                    left -= 2;
                }
                if run.gap != 1 {
                    let gap = V::coefficient(run.gap);
                    for q in &mut q {
                        *q = q.mul(gap);
                    }
                }
            }
            (p, q)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runs that the blocks are packed into, with the exponents of the gaps.
    fn runs(present: &[bool]) -> Vec<(u8, u8)> {
        let block = [0u8; 1];
        let data: Vec<_> = present.iter().map(|there| there.then_some(&block[..])).collect();
        let mut packed = Packed::EMPTY;
        packed.fill(&data);
        assert_eq!(packed.pointers().len(), present.iter().filter(|there| **there).count());
        packed.runs().iter().map(|run| (run.count, run.gap)).collect()
    }

    #[test]
    fn blocks_are_packed_into_runs_from_the_highest_exponent_down() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[false; 5]), []);
        assert_eq!(runs(&[true; 5]), [(5, 1)]);
        assert_eq!(runs(&[true, false, false]), [(1, 1)]);
        assert_eq!(runs(&[false, false, true]), [(1, 4)]);
        assert_eq!(runs(&[true, true, false, true, false, false, true]), [(1, 4), (1, 2), (2, 1)]);
        assert_eq!(runs(&[true; SOURCES_MAX]), [(255, 1)]);
        let every_other: Vec<_> = (0..SOURCES_MAX).map(|i| i % 2 == 0).collect();
        assert_eq!(runs(&every_other).len(), RUNS_MAX);
    }
}
