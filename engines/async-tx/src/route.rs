//! Where an operation runs and in how many steps: pure functions of the operation and of what the
//! backends say about themselves.

use crate::backend::{Caps, Limits};
use crate::check::CheckedOp;
use crate::op::{Change, Op, Product, Seed, XorMode};
use crate::{OpKind, Region};

/// How an operation is cut: each step takes at most `sources` sources and `len` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cut {
    sources: usize,
    len: usize,
    source_steps: usize,
    steps: usize,
}

impl Cut {
    /// The number of steps, which run one after the other.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }
}

/// How a backend with these capabilities and limits runs `op`, or `None` if it cannot.
pub(crate) fn fit(op: &Op<'_>, caps: Caps, limits: impl FnOnce(OpKind) -> Limits) -> Option<Cut> {
    let kind = op.kind();
    if kind == OpKind::Notify || !caps.has(kind) {
        return None;
    }
    let limits = limits(kind);
    let (len, sources, align) = (op.len(), op.sources(), limits.align.max(1));
    let aligned = op.each_block(|r, _| (r.as_ptr() as usize | r.len()).is_multiple_of(align));
    if !aligned || len < limits.len_min || (op.is_in_place() && !limits.keeps_on_fault) {
        return None;
    }
    let per_step = if sources <= limits.sources_max {
        sources.max(1)
    } else if matches!(kind, OpKind::Xor | OpKind::PqUpdate | OpKind::GfMulAdd) && limits.sources_max > 0 {
        limits.sources_max
    } else {
        return None;
    };
    let len_step = len.min(limits.len_max - limits.len_max % align);
    if len_step == 0 {
        return None;
    }
    let source_steps = sources.max(1).div_ceil(per_step);
    let steps = source_steps.checked_mul(len.div_ceil(len_step))?;
    Some(Cut { sources: per_step, len: len_step, source_steps, steps })
}

/// Room for the lists of a step.
#[derive(Default, Debug)]
pub(crate) struct Scratch {
    srcs: Vec<Region>,
    data: Vec<Option<Region>>,
    changes: Vec<Change>,
    products: Vec<Product>,
}

/// Step `step` of `op`. The first steps take the sources of the first bytes one group after the other,
/// the later groups accumulating, then come the next bytes.
pub(crate) fn step_of<'a>(
    op: CheckedOp<'a>,
    cut: &Cut,
    step: usize,
    scratch: &'a mut Scratch,
) -> CheckedOp<'a> {
    if cut.steps == 1 {
        return op;
    }
    let (row, group) = (step / cut.source_steps, step % cut.source_steps);
    let offset = row * cut.len;
    let len = cut.len.min(op.len().saturating_sub(offset));
    // Every region has the length of the operation, so the part is always there.
    let part = |region: Region| region.part(offset, len).unwrap_or(region);
    let Scratch { srcs: src_room, data: data_room, changes: change_room, products: product_room } = scratch;
    src_room.clear();
    data_room.clear();
    if let Op::Xor { srcs, .. } | Op::XorVal { srcs } = *op {
        src_room.extend(srcs.iter().skip(group * cut.sources).take(cut.sources).map(|src| part(*src)));
    }
    if let Op::Pq { data, .. } | Op::PqVal { data, .. } | Op::Recover { data, .. } = *op {
        data_room.extend(data.iter().map(|block| block.map(part)));
    }
    change_room.clear();
    product_room.clear();
    if let Op::PqUpdate { changes, .. } = *op {
        let group = changes.iter().skip(group * cut.sources).take(cut.sources);
        change_room.extend(group.map(|c| Change { old: c.old.map(part), new: c.new.map(part), ..*c }));
    }
    if let Op::GfMulAdd { products, .. } = *op {
        let group = products.iter().skip(group * cut.sources).take(cut.sources);
        product_room.extend(group.map(|p| Product { src: part(p.src), ..*p }));
    }
    let (srcs, data) = (&src_room[..], &data_room[..]);
    let (changes, products) = (&change_room[..], &product_room[..]);
    // A later step goes on from what the one before left.
    let seed_of = |seed: Seed, crc: Region| if offset == 0 { seed } else { Seed::From(crc) };
    // Parts of the operands of a checked operation pass the same checks: equal, nonzero lengths, and no
    // bytes shared that were not shared before.
    CheckedOp(match *op {
        Op::Notify => Op::Notify,
        Op::Copy { src, dst } => Op::Copy { src: part(src), dst: part(dst) },
        Op::Fill { dst, byte } => Op::Fill { dst: part(dst), byte },
        Op::Xor { dst, mode, .. } => {
            let mode = if group == 0 { mode } else { XorMode::Accumulate };
            Op::Xor { srcs, dst: part(dst), mode }
        }
        Op::XorVal { .. } => Op::XorVal { srcs },
        Op::Pq { p, q, .. } => Op::Pq { data, p: p.map(part), q: q.map(part) },
        Op::PqVal { p, q, .. } => Op::PqVal { data, p: p.map(part), q: q.map(part) },
        Op::PqUpdate { p, q, .. } => Op::PqUpdate { changes, p: p.map(part), q: q.map(part) },
        Op::GfMulAdd { dst, .. } => Op::GfMulAdd { products, dst: part(dst) },
        Op::Compare { a, b } => Op::Compare { a: part(a), b: part(b) },
        Op::Dualcast { src, dst } => Op::Dualcast { src: part(src), dst: dst.map(part) },
        Op::Crc32c { src, seed, crc } => Op::Crc32c { src: part(src), seed: seed_of(seed, crc), crc },
        Op::CopyCrc32c { src, dst, seed, crc } => {
            Op::CopyCrc32c { src: part(src), dst: part(dst), seed: seed_of(seed, crc), crc }
        }
        Op::Recover { p, q, lost, .. } => Op::Recover { data, p: p.map(part), q: q.map(part), lost },
    })
}
