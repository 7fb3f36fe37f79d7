//! Byte by byte from the definitions: slow, obvious, and what every other implementation is tested
//! against.
//!
//! `P = sum(D_i)`, `Q = sum(2^i * D_i)`, where sums are xors and products those of [`crate::gf`].

use crate::table::{Routines, Solve, Sources};
use crate::{Kernel, Mismatch, gf};

pub(crate) static ROUTINES: Routines =
    Routines { kernel: Kernel::Naive, xor, xor_val, pq, pq_val, pq_update, solve };

/// Byte `at` of P.
fn p_byte(data: Sources<'_>, at: usize) -> u8 {
    data.iter().flatten().fold(0, |sum, block| sum ^ block[at])
}

/// Byte `at` of Q.
fn q_byte(data: Sources<'_>, at: usize) -> u8 {
    let term = |(i, block): (usize, &Option<&[u8]>)| block.map_or(0, |block| gf::mul(gf::exp(i), block[at]));
    data.iter().enumerate().map(term).fold(0, |sum, term| sum ^ term)
}

fn xor(srcs: Sources<'_>, extra: Option<&[u8]>, dst: &mut [u8], accumulate: bool) {
    for (at, dst) in dst.iter_mut().enumerate() {
        let old = if accumulate { *dst } else { 0 };
        *dst = old ^ p_byte(srcs, at) ^ extra.map_or(0, |extra| extra[at]);
    }
}

fn xor_val(srcs: Sources<'_>, len: usize) -> bool {
    (0..len).all(|at| p_byte(srcs, at) == 0)
}

fn pq(data: Sources<'_>, p: Option<&mut [u8]>, q: Option<&mut [u8]>, _len: usize) {
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

fn pq_update(old: &[u8], new: &[u8], coefficient: u8, p: Option<&mut [u8]>, q: Option<&mut [u8]>) {
    if let Some(p) = p {
        p.iter_mut().enumerate().for_each(|(at, p)| *p ^= old[at] ^ new[at]);
    }
    if let Some(q) = q {
        q.iter_mut().enumerate().for_each(|(at, q)| *q ^= gf::mul(coefficient, old[at] ^ new[at]));
    }
}

fn solve(system: Solve<'_>, out0: &mut [u8], out1: Option<&mut [u8]>) {
    let row = |[a, b]: [u8; 2], at: usize| {
        let sp = p_byte(system.data, at) ^ system.p.map_or(0, |p| p[at]);
        let sq = q_byte(system.data, at) ^ system.q.map_or(0, |q| q[at]);
        gf::mul(a, sp) ^ gf::mul(b, sq)
    };
    out0.iter_mut().enumerate().for_each(|(at, out)| *out = row(system.rows[0], at));
    if let Some(out1) = out1 {
        out1.iter_mut().enumerate().for_each(|(at, out)| *out = row(system.rows[1], at));
    }
}
