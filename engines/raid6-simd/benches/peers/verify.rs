//! Compares every contender with a byte-by-byte reference before anything is timed.

use raid6_simd::gf;

use crate::Result;
use crate::cell::{Cell, LOST, Op, Set};
use crate::contenders::Field;
use crate::memory::{PAGE, Pool};
use crate::options::Options;

/// Long enough for the loops to go round, and more than one page.
const LEN: usize = 2 * PAGE;

/// Every operation with every number of data blocks that the options name.
pub(crate) fn all(field: &Field, options: &Options) -> Result<()> {
    let blocks = options.ns().iter().max().unwrap_or(&0) + 2;
    let pool = Pool::new(blocks * LEN)?;
    let streaming = options.sets.contains(&Set::Dram);
    let sets = if streaming { &[Set::Hot, Set::Dram][..] } else { &[Set::Hot] };
    for &op in &options.ops {
        for &n in options.ns() {
            // One stripe is enough: the sets differ in what this crate's stores do and in nothing else.
            for set in sets {
                pool.fill();
                one(field, Cell::single(op, n, LEN, *set, &pool)?)?;
            }
        }
    }
    Ok(())
}

/// Every contender that claims to do the operation, each from the same bytes.
fn one(field: &Field, cell: Cell<'_>) -> Result<()> {
    let mut before = read(&cell);
    if matches!(cell.op, Op::Check | Op::XorCheck) {
        before = reference(cell.with_op(if cell.op == Op::Check { Op::Pq } else { Op::Xor }), before);
        return checks(field, &cell, &before);
    }
    if cell.op == Op::Rec2 {
        let right = reference(cell.with_op(Op::Pq), before.clone());
        before.clone_from(&right);
        LOST.iter().for_each(|&lost| before[lost].fill(0x55));
        return writes(field, &cell, &before, &right);
    }
    let right = reference(cell, before.clone());
    writes(field, &cell, &before, &right)
}

/// Each contender turns the blocks of `before` into those of `after`.
fn writes(field: &Field, cell: &Cell<'_>, before: &[Vec<u8>], after: &[Vec<u8>]) -> Result<()> {
    for index in 0..field.bind(cell).len() {
        write(cell, before);
        let mut contenders = field.bind(cell);
        let contender = &mut contenders[index];
        let (name, role) = (contender.name.clone(), contender.role);
        let well = (contender.run)(0, 1);
        drop(contenders);
        let wrong = read(cell).iter().zip(after).position(|(found, right)| found != right);
        match wrong.filter(|_| role.computes()) {
            Some(block) => return Err(format!("{name} is wrong in block {block} at {cell}")),
            None if !well => return Err(format!("{name} failed at {cell}")),
            None => {}
        }
    }
    Ok(())
}

/// Each contender finds the blocks right, and then one byte of the last block or the one before wrong.
fn checks(field: &Field, cell: &Cell<'_>, right: &[Vec<u8>]) -> Result<()> {
    write(cell, right);
    for mut contender in field.bind(cell) {
        if !(contender.run)(0, 1) {
            return Err(format!("{} finds right parity wrong at {cell}", contender.name));
        }
    }
    for block in [cell.blocks() - 1, cell.n] {
        let mut wrong = right.to_vec();
        wrong[block][LEN - 1] ^= 1;
        write(cell, &wrong);
        for mut contender in field.bind(cell) {
            if contender.role.computes() && (contender.run)(0, 1) {
                return Err(format!("{} finds wrong parity right at {cell}", contender.name));
            }
        }
    }
    Ok(())
}

/// The blocks of the first stripe as the operation leaves them, from its definition.
fn reference(cell: Cell<'_>, mut blocks: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let n = cell.n;
    for i in 0..cell.len {
        match cell.op {
            Op::Xor => blocks[n][i] = blocks[..n].iter().fold(0, |sum, block| sum ^ block[i]),
            Op::Update => {
                let change = blocks[0][i] ^ blocks[1][i];
                blocks[2][i] ^= change;
                blocks[3][i] ^= gf::mul(gf::exp(cell.changed()), change);
            }
            Op::Pq | Op::Check | Op::XorCheck | Op::Rec2 => {
                let column = blocks[..n].iter().enumerate().map(|(x, block)| (x, block[i]));
                let (p, q) = column.fold((0, 0), |(p, q), (x, d)| (p ^ d, q ^ gf::mul(gf::exp(x), d)));
                (blocks[n][i], blocks[n + 1][i]) = (p, q);
            }
        }
    }
    blocks
}

fn read(cell: &Cell<'_>) -> Vec<Vec<u8>> {
    // SAFETY: the block is inside the pool, and no contender is bound.
    let read = |block| unsafe { std::slice::from_raw_parts(cell.block(0, block), cell.len) }.to_vec();
    (0..cell.blocks()).map(read).collect()
}

fn write(cell: &Cell<'_>, blocks: &[Vec<u8>]) {
    for (index, block) in blocks.iter().enumerate() {
        // SAFETY: the block is inside the pool and `cell.len` long, as `read` made it; no contender is bound.
        unsafe { cell.block(0, index).copy_from_nonoverlapping(block.as_ptr(), cell.len) };
    }
}
