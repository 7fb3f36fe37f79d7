//! This crate as a contender: calls of the public API, as any user would make them.

use std::slice;

use raid6_simd::{Change, Kernels, LostData, Mismatch, Parity, XorMode};

use crate::cell::{Cell, LOST, Op};
use crate::contenders::{Contender, Role, Run, cycle};
use crate::memory::part;

/// The blocks of all stripes, which lie one after the other, and the lists of sources, one a stripe. These
/// are made before anything is timed, so that their making is charged to nobody.
struct Blocks<'a> {
    first: *mut u8,
    of_stripe: usize,
    len: usize,
    sources: Vec<Option<&'a [u8]>>,
    sources_of_stripe: usize,
}

impl<'a> Blocks<'a> {
    /// Sources are the first `sources_of_stripe` blocks of each stripe; those that the operation writes are
    /// blocks of zeroes.
    fn new(cell: &Cell<'a>, sources_of_stripe: usize) -> Self {
        let (of_stripe, len) = (cell.blocks(), cell.len);
        let first = cell.block(0, 0);
        let mut all = Blocks { first, of_stripe, len, sources: Vec::new(), sources_of_stripe };
        let outputs = cell.outputs();
        for stripe in cell.stripes() {
            for block in 0..sources_of_stripe {
                all.sources.push((!outputs.contains(&block)).then(|| all.shared(stripe, block)));
            }
        }
        all
    }

    fn sources(&self, stripe: usize) -> &[Option<&'a [u8]>] {
        part(&self.sources, stripe, self.sources_of_stripe)
    }

    /// Where a block begins.
    fn place(&self, stripe: usize, block: usize) -> *mut u8 {
        self.first.wrapping_add((stripe * self.of_stripe + block) * self.len)
    }

    /// A block that the operation does not write.
    fn shared(&self, stripe: usize, block: usize) -> &'a [u8] {
        // SAFETY: the block is inside the pool, which is borrowed for 'a. Contenders write the outputs of
        // their operation only, and whatever else changes blocks does so while no contender is bound.
        unsafe { slice::from_raw_parts(self.place(stripe, block), self.len) }
    }

    /// A block that the operation writes.
    ///
    /// # Safety
    /// No other reference to the block exists.
    unsafe fn exclusive(&self, stripe: usize, block: usize) -> &'a mut [u8] {
        // SAFETY: the block is inside the pool, and the caller promises the rest.
        unsafe { slice::from_raw_parts_mut(self.place(stripe, block), self.len) }
    }
}

/// The operation of `cell` with these kernels.
pub(crate) fn bind<'a>(name: String, role: Role, kernels: &'a Kernels, cell: &Cell<'a>) -> Contender<'a> {
    let run = match cell.op {
        Op::Pq => pq(kernels, *cell),
        Op::Xor => xor(kernels, *cell),
        Op::Check => check(kernels, *cell),
        Op::XorCheck => xor_check(kernels, *cell),
        Op::Rec2 => rec2(kernels, *cell),
        Op::Update => update(kernels, *cell),
    };
    Contender { name, role, bytes: cell.counted(), run }
}

fn pq<'a>(kernels: &'a Kernels, cell: Cell<'a>) -> Run<'a> {
    let blocks = Blocks::new(&cell, cell.n);
    cycle(&cell, move |stripe| {
        // SAFETY: two outputs, to which no other reference is kept.
        let (p, q) = unsafe { (blocks.exclusive(stripe, cell.n), blocks.exclusive(stripe, cell.n + 1)) };
        kernels.gen_pq(blocks.sources(stripe), Some(p), Some(q)).is_ok()
    })
}

fn xor<'a>(kernels: &'a Kernels, cell: Cell<'a>) -> Run<'a> {
    let blocks = Blocks::new(&cell, cell.n);
    cycle(&cell, move |stripe| {
        // SAFETY: the output, to which no other reference is kept.
        let dst = unsafe { blocks.exclusive(stripe, cell.n) };
        kernels.xor(blocks.sources(stripe), dst, XorMode::Overwrite).is_ok()
    })
}

fn check<'a>(kernels: &'a Kernels, cell: Cell<'a>) -> Run<'a> {
    let blocks = Blocks::new(&cell, cell.n);
    cycle(&cell, move |stripe| {
        let (p, q) = (blocks.shared(stripe, cell.n), blocks.shared(stripe, cell.n + 1));
        kernels.pq_val(blocks.sources(stripe), Some(p), Some(q)) == Ok(Mismatch::default())
    })
}

fn xor_check<'a>(kernels: &'a Kernels, cell: Cell<'a>) -> Run<'a> {
    let blocks = Blocks::new(&cell, cell.n + 1);
    cycle(&cell, move |stripe| kernels.xor_val(blocks.sources(stripe)) == Ok(true))
}

fn rec2<'a>(kernels: &'a Kernels, cell: Cell<'a>) -> Run<'a> {
    let blocks = Blocks::new(&cell, cell.n);
    let exponents = LOST.map(|block| block as u8);
    cycle(&cell, move |stripe| {
        let (p, q) = (blocks.shared(stripe, cell.n), blocks.shared(stripe, cell.n + 1));
        // SAFETY: two outputs, to which no other reference is kept.
        let [x, y] = LOST.map(|block| unsafe { blocks.exclusive(stripe, block) });
        let mut lost =
            [LostData { exponent: exponents[0], out: x }, LostData { exponent: exponents[1], out: y }];
        kernels.recover(blocks.sources(stripe), &mut lost, Parity::Good(p), Parity::Good(q)).is_ok()
    })
}

fn update<'a>(kernels: &'a Kernels, cell: Cell<'a>) -> Run<'a> {
    let blocks = Blocks::new(&cell, 0);
    let exponent = cell.changed() as u8;
    cycle(&cell, move |stripe| {
        let (old, new) = (blocks.shared(stripe, 0), blocks.shared(stripe, 1));
        // SAFETY: two outputs, to which no other reference is kept.
        let (p, q) = unsafe { (blocks.exclusive(stripe, 2), blocks.exclusive(stripe, 3)) };
        let change = Change { exponent, old: Some(old), new: Some(new) };
        kernels.pq_update(&[change], Some(p), Some(q)).is_ok()
    })
}
