//! What each operation does with a column.

use super::{Blocks, Pass, add, any_set, get, put};
use crate::Mismatch;
use crate::gf;
use crate::table::{Delta, Located, Product, Sources};
use crate::vector::{Term, Vector};

pub(crate) struct Xor<'a, B, const STREAM: bool> {
    pub(crate) srcs: B,
    pub(crate) extra: Option<&'a [u8]>,
    pub(crate) dst: *mut u8,
    pub(crate) accumulate: bool,
}

impl<V: Vector, B: Blocks, const STREAM: bool> Pass<V> for Xor<'_, B, STREAM> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `dst` and `extra` have the length of the blocks.
        unsafe {
            let mut s = self.srcs.sum::<V, DEPTH, PART>(at, len);
            if let Some(extra) = self.extra {
                add::<V, DEPTH, PART>(&mut s, extra.as_ptr(), at, len);
            }
            if self.accumulate {
                add::<V, DEPTH, PART>(&mut s, self.dst, at, len);
            }
            put::<V, DEPTH, PART, STREAM>(&s, Some(self.dst), at, len);
        }
        true
    }
}

pub(crate) struct XorVal<B> {
    pub(crate) srcs: B,
    pub(crate) zero: bool,
}

impl<V: Vector, B: Blocks> Pass<V> for XorVal<B> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller.
        self.zero = unsafe { !any_set(&self.srcs.sum::<V, DEPTH, PART>(at, len)) };
        self.zero
    }
}

pub(crate) struct Pq<B, const STREAM: bool> {
    pub(crate) data: B,
    pub(crate) p: Option<*mut u8>,
    pub(crate) q: Option<*mut u8>,
}

impl<V: Vector, B: Blocks, const STREAM: bool> Pass<V> for Pq<B, STREAM> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let (p, q) = self.data.syndromes::<V, DEPTH, PART>(at, len);
            put::<V, DEPTH, PART, STREAM>(&p, self.p, at, len);
            put::<V, DEPTH, PART, STREAM>(&q, self.q, at, len);
        }
        true
    }
}

pub(crate) struct PqVal<'a, B> {
    pub(crate) data: B,
    pub(crate) p: Option<&'a [u8]>,
    pub(crate) q: Option<&'a [u8]>,
    pub(crate) found: Mismatch,
}

impl<V: Vector, B: Blocks> Pass<V> for PqVal<'_, B> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let (mut p, mut q) = self.data.syndromes::<V, DEPTH, PART>(at, len);
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

/// The update for one changed block, whose coefficient stays in registers.
pub(crate) struct PqUpdate<V: Vector> {
    pub(crate) old: *const u8,
    pub(crate) new: *const u8,
    pub(crate) coefficient: V::Coefficient,
    pub(crate) p: *mut u8,
    pub(crate) q: *mut u8,
}

impl<V: Vector> Pass<V> for PqUpdate<V> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let mut delta = get::<V, DEPTH, PART>(self.old, at, len);
            add::<V, DEPTH, PART>(&mut delta, self.new, at, len);
            let mut q = get::<V, DEPTH, PART>(self.q, at, len);
            let mut p = get::<V, DEPTH, PART>(self.p, at, len);
            for i in 0..DEPTH {
                p[i] = p[i].xor(delta[i]);
                q[i] = q[i].xor(delta[i].mul(self.coefficient));
            }
            put::<V, DEPTH, PART, false>(&p, Some(self.p), at, len);
            put::<V, DEPTH, PART, false>(&q, Some(self.q), at, len);
        }
        true
    }
}

/// The update for any number of changed blocks, with P or Q or both.
pub(crate) struct PqUpdates<'a> {
    pub(crate) deltas: &'a [Delta<'a>],
    pub(crate) p: Option<*mut u8>,
    pub(crate) q: Option<*mut u8>,
}

impl<V: Vector> Pass<V> for PqUpdates<'_> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p`, `q` and what is old and new have the length of the blocks.
        unsafe {
            let old = |parity: Option<*mut u8>| match parity {
                Some(block) => get::<V, DEPTH, PART>(block, at, len),
                None => [V::zero(); DEPTH],
            };
            let (mut p, mut q) = (old(self.p), old(self.q));
            for change in self.deltas {
                let mut delta = [V::zero(); DEPTH];
                for block in [change.old, change.new].into_iter().flatten() {
                    add::<V, DEPTH, PART>(&mut delta, block.as_ptr(), at, len);
                }
                let coefficient = Term::<V>::new(gf::exp(usize::from(change.exponent)));
                for i in 0..DEPTH {
                    p[i] = p[i].xor(delta[i]);
                    q[i] = coefficient.add_to(q[i], delta[i]);
                }
            }
            put::<V, DEPTH, PART, false>(&p, self.p, at, len);
            put::<V, DEPTH, PART, false>(&q, self.q, at, len);
        }
        true
    }
}

/// `dst += sum(c * block)`.
pub(crate) struct MulAdd<'a> {
    pub(crate) terms: &'a [Product<'a>],
    pub(crate) dst: *mut u8,
}

impl<V: Vector> Pass<V> for MulAdd<'_> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `dst` has the length of the blocks.
        unsafe {
            let mut sum = get::<V, DEPTH, PART>(self.dst, at, len);
            for term in self.terms {
                let coefficient = Term::<V>::new(term.coefficient);
                let block = get::<V, DEPTH, PART>(term.block.as_ptr(), at, len);
                for i in 0..DEPTH {
                    sum[i] = coefficient.add_to(sum[i], block[i]);
                }
            }
            put::<V, DEPTH, PART, false>(&sum, Some(self.dst), at, len);
        }
        true
    }
}

/// A system of one or two rows; see [`crate::table::Solve`]. Its second row starts from `Sq` if
/// `FROM_Q`, else from `Sp`.
pub(crate) struct Solver<'a, B, V: Vector, const FROM_Q: bool, const STREAM: bool> {
    pub(crate) data: B,
    pub(crate) p: Option<&'a [u8]>,
    pub(crate) q: Option<&'a [u8]>,
    pub(crate) first: [V::Coefficient; 2],
    pub(crate) second: V::Coefficient,
    pub(crate) out0: *mut u8,
    pub(crate) out1: Option<*mut u8>,
}

impl<V: Vector, B: Blocks, const FROM_Q: bool, const STREAM: bool> Pass<V>
    for Solver<'_, B, V, FROM_Q, STREAM>
{
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; parities and outputs have the length of the blocks.
        unsafe {
            let (mut p, mut q) = self.data.syndromes::<V, DEPTH, PART>(at, len);
            if let Some(good) = self.p {
                add::<V, DEPTH, PART>(&mut p, good.as_ptr(), at, len);
            }
            if let Some(good) = self.q {
                add::<V, DEPTH, PART>(&mut q, good.as_ptr(), at, len);
            }
            let [a, b] = self.first;
            let (mut out0, mut out1) = (p, q);
            for i in 0..DEPTH {
                // Multiplying by zero or one as well costs less than to ask whether it is.
                out0[i] = p[i].mul(a).xor(q[i].mul(b));
                out1[i] = if FROM_Q { q[i].xor(p[i].mul(self.second)) } else { p[i].xor(out0[i]) };
            }
            put::<V, DEPTH, PART, STREAM>(&out0, Some(self.out0), at, len);
            put::<V, DEPTH, PART, STREAM>(&out1, self.out1, at, len);
        }
        true
    }
}

/// Finds the one block whose bytes are wrong. With `e` the error in data block `z`, the syndromes are
/// `Sp = e` and `Sq = 2^z e`; an error in P shows in `Sp` alone, and one in Q in `Sq` alone.
pub(crate) struct Locate<'a, B, V: Vector> {
    pub(crate) data: B,
    pub(crate) p: &'a [u8],
    pub(crate) q: &'a [u8],
    /// The blocks by exponent: one that is not there cannot be the wrong one.
    pub(crate) blocks: Sources<'a>,
    pub(crate) found: Located,
    /// `2^z` once `found` is data block `z`.
    pub(crate) coefficient: Option<Term<V>>,
}

impl<V: Vector, B: Blocks> Locate<'_, B, V> {
    /// What the first byte that is wrong says, given its syndromes.
    fn first(&mut self, sp: u8, sq: u8) {
        self.found = match (gf::log(sp), gf::log(sq)) {
            (None, None) => return,
            (Some(_), None) => Located::P,
            (None, Some(_)) => Located::Q,
            (Some(sp), Some(sq)) => {
                let exponent = (usize::from(sq) + 255 - usize::from(sp)) % 255;
                match self.blocks.get(exponent) {
                    Some(Some(_)) => Located::Data(exponent as u8),
                    _ => Located::Several,
                }
            }
        };
    }
}

impl<V: Vector, B: Blocks> Pass<V> for Locate<'_, B, V> {
    #[inline(always)]
    unsafe fn column<const DEPTH: usize, const PART: bool>(&mut self, at: usize, len: usize) -> bool {
        // SAFETY: passed on to the caller; `p` and `q` have the length of the blocks.
        unsafe {
            let (mut p, mut q) = self.data.syndromes::<V, DEPTH, PART>(at, len);
            add::<V, DEPTH, PART>(&mut p, self.p.as_ptr(), at, len);
            add::<V, DEPTH, PART>(&mut q, self.q.as_ptr(), at, len);
            if self.found == Located::Nothing {
                if !any_set(&p) && !any_set(&q) {
                    return true;
                }
                for i in 0..DEPTH {
                    // A register has at most 64 bytes; the rest of the arrays stays zero.
                    let (mut sp, mut sq) = ([0u8; 64], [0u8; 64]);
                    p[i].store(sp.as_mut_ptr());
                    q[i].store(sq.as_mut_ptr());
                    for (sp, sq) in sp.into_iter().zip(sq) {
                        if self.found == Located::Nothing {
                            self.first(sp, sq);
                        }
                    }
                }
                if let Located::Data(exponent) = self.found {
                    self.coefficient = Some(Term::new(gf::exp(usize::from(exponent))));
                }
            }
            let contradicted = match (self.found, self.coefficient) {
                (Located::P, _) => any_set(&q),
                (Located::Q, _) => any_set(&p),
                (Located::Data(_), Some(coefficient)) => {
                    for i in 0..DEPTH {
                        q[i] = coefficient.add_to(q[i], p[i]);
                    }
                    any_set(&q)
                }
                _ => true,
            };
            if contradicted {
                self.found = Located::Several;
            }
            !contradicted
        }
    }
}
