//! Byte by byte from the definitions: slow, obvious, and what every other implementation is tested
//! against.
//!
//! `P = sum(D_i)`, `Q = sum(2^i * D_i)`, where sums are xors and products those of [`crate::gf`].

use crate::table::{Delta, Located, Product, Routines, Second, Solve, Sources};
use crate::{Kernel, Mismatch, gf};

pub(crate) static ROUTINES: Routines =
    Routines { kernel: Kernel::Naive, xor, xor_val, pq, pq_val, pq_update, mul_add, solve, locate };

/// Byte `at` of P.
fn p_byte(data: Sources<'_>, at: usize) -> u8 {
    data.iter().flatten().fold(0, |sum, block| sum ^ block[at])
}

/// Byte `at` of Q.
fn q_byte(data: Sources<'_>, at: usize) -> u8 {
    let term = |(i, block): (usize, &Option<&[u8]>)| block.map_or(0, |block| gf::mul(gf::exp(i), block[at]));
    data.iter().enumerate().map(term).fold(0, |sum, term| sum ^ term)
}

fn xor(srcs: Sources<'_>, extra: Option<&[u8]>, dst: &mut [u8], accumulate: bool, _stream: bool) {
    for (at, dst) in dst.iter_mut().enumerate() {
        let old = if accumulate { *dst } else { 0 };
        *dst = old ^ p_byte(srcs, at) ^ extra.map_or(0, |extra| extra[at]);
    }
}

fn xor_val(srcs: Sources<'_>, len: usize) -> bool {
    (0..len).all(|at| p_byte(srcs, at) == 0)
}

fn pq(data: Sources<'_>, p: Option<&mut [u8]>, q: Option<&mut [u8]>, _len: usize, _stream: bool) {
    if let Some(p) = p {
        p.iter_mut().enumerate().for_each(|(at, p)| *p = p_byte(data, at));
    }
    if let Some(q) = q {
        q.iter_mut().enumerate().for_each(|(at, q)| *q = q_byte(data, at));
    }
}

fn pq_val(data: Sources<'_>, p: Option<&[u8]>, q: Option<&[u8]>, len: usize) -> Mismatch {
    Mismatch {
        p: p.is_some_and(|p| (0..len).any(|at| p[at] != p_byte(data, at))),
        q: q.is_some_and(|q| (0..len).any(|at| q[at] != q_byte(data, at))),
    }
}

fn pq_update(deltas: &[Delta<'_>], mut p: Option<&mut [u8]>, mut q: Option<&mut [u8]>, len: usize) {
    for Delta { exponent, old, new } in deltas {
        for at in 0..len {
            let delta = old.map_or(0, |old| old[at]) ^ new.map_or(0, |new| new[at]);
            if let Some(p) = p.as_deref_mut() {
                p[at] ^= delta;
            }
            if let Some(q) = q.as_deref_mut() {
                q[at] ^= gf::mul(gf::exp(usize::from(*exponent)), delta);
            }
        }
    }
}

fn mul_add(terms: &[Product<'_>], dst: &mut [u8]) {
    for Product { coefficient, block } in terms {
        dst.iter_mut().zip(*block).for_each(|(dst, byte)| *dst ^= gf::mul(*coefficient, *byte));
    }
}

fn solve(system: Solve<'_>, out0: &mut [u8], mut out1: Option<&mut [u8]>, _stream: bool) {
    let [a, b] = system.first;
    for (at, out0) in out0.iter_mut().enumerate() {
        let sp = p_byte(system.data, at) ^ system.p.map_or(0, |p| p[at]);
        let sq = q_byte(system.data, at) ^ system.q.map_or(0, |q| q[at]);
        *out0 = gf::mul(a, sp) ^ gf::mul(b, sq);
        if let Some(out1) = out1.as_deref_mut() {
            out1[at] = match system.second {
                Second::FromP => sp ^ *out0,
                Second::FromQ(c) => sq ^ gf::mul(c, sp),
            };
        }
    }
}

/// The block whose bytes, were they others, would make the first wrong byte right, if that also goes for
/// all the other bytes.
fn locate(data: Sources<'_>, p: &[u8], q: &[u8]) -> Located {
    let syndromes = |at: usize| (p_byte(data, at) ^ p[at], q_byte(data, at) ^ q[at]);
    let explains = |found: Located, (sp, sq): (u8, u8)| match found {
        Located::P => sq == 0,
        Located::Q => sp == 0,
        Located::Data(z) => sq == gf::mul(gf::exp(usize::from(z)), sp),
        Located::Nothing | Located::Several => false,
    };
    let Some(first) = (0..p.len()).find(|at| syndromes(*at) != (0, 0)) else { return Located::Nothing };
    let there = (0..data.len()).filter(|z| data[*z].is_some()).map(|z| Located::Data(z as u8));
    [Located::P, Located::Q]
        .into_iter()
        .chain(there)
        .find(|found| explains(*found, syndromes(first)))
        .filter(|found| (first..p.len()).all(|at| explains(*found, syndromes(at))))
        .unwrap_or(Located::Several)
}
