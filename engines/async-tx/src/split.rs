//! How an operation that is too large for a backend is cut into steps, each of which it takes.

use crate::OpKind;
use crate::backend::{Caps, Limits};
use crate::chain::Chain;
use crate::check::CheckedOp;
use crate::op::{Change, Op, Product, Seed, XorMode};
use crate::region::Region;
use crate::route::{Question, Reason};

/// How an operation is cut: each step takes at most `sources` sources and `len` bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cut {
    sources: usize,
    len: usize,
    source_steps: usize,
    steps: usize,
}

impl Cut {
    /// The number of steps, which run one after the other.
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// How a backend with these capabilities and limits takes the operation of `question`, or whether
    /// kind, sources or alignment are in the way.
    ///
    /// A P+Q with too many sources begins as such and goes on as an update of P and Q, so that the limits
    /// of both hold for every step.
    pub(crate) fn plan(
        question: &Question,
        caps: Caps,
        limits: impl Fn(OpKind) -> Limits,
    ) -> Result<Cut, Reason> {
        let Question { kind, len, sources, .. } = *question;
        if !caps.has(kind) {
            return Err(Reason::NoCapability);
        }
        let Limits { mut sources_max, mut len_max, align, .. } = limits(kind);
        // The question's alignment is a power of two, and so a multiple of powers of two alone.
        let aligned = |align: usize| question.align.is_multiple_of(align.max(1));
        let (mut source_steps, mut update_align) = (1, 1);
        if sources > sources_max {
            if kind == OpKind::Pq && caps.has(OpKind::PqUpdate) {
                let update = limits(OpKind::PqUpdate);
                sources_max = sources_max.min(update.sources_max);
                len_max = len_max.min(update.len_max);
                update_align = update.align;
            } else if !matches!(kind, OpKind::Xor | OpKind::PqUpdate | OpKind::GfMulAdd) {
                sources_max = 0;
            }
            if sources_max == 0 {
                return Err(Reason::TooManySources);
            }
            source_steps = sources.div_ceil(sources_max);
        }
        if !aligned(align) || !aligned(update_align) {
            return Err(Reason::Misaligned);
        }
        let align = align.max(update_align).max(1);
        let len_step = len.min(len_max - len_max % align);
        if len_step == 0 {
            return Err(Reason::NoCapability);
        }
        let steps = source_steps.checked_mul(len.div_ceil(len_step)).ok_or(Reason::NoCapability)?;
        Ok(Cut { sources: sources_max.min(sources).max(1), len: len_step, source_steps, steps })
    }
}

/// Room for the lists of a step.
#[derive(Default, Debug)]
pub(crate) struct Lists {
    srcs: Vec<Region>,
    data: Vec<Option<Region>>,
    changes: Vec<Change>,
    products: Vec<Product>,
}

/// Step `step` of `op`. The first steps take the sources of the first bytes one group after the other,
/// the later groups accumulating, then come the next bytes.
pub(crate) fn step_of<'a>(op: CheckedOp<'a>, cut: &Cut, step: usize, lists: &'a mut Lists) -> CheckedOp<'a> {
    if cut.steps == 1 {
        return op;
    }
    let (row, group) = (step / cut.source_steps, step % cut.source_steps);
    let offset = row * cut.len;
    let len = cut.len.min(op.len().saturating_sub(offset));
    // Every region has the length of the operation, so the part is always there.
    let part = |region: Region| region.part(offset, len).unwrap_or(region);
    let Lists { srcs: src_room, data: data_room, changes: change_room, products: product_room } = lists;
    src_room.clear();
    data_room.clear();
    if let Op::Xor { srcs, .. } | Op::XorVal { srcs } = *op {
        src_room.extend(srcs.iter().skip(group * cut.sources).take(cut.sources).map(|src| part(*src)));
    }
    // Only P+Q is cut by sources, and then its first step takes the first of them.
    if let Op::Pq { data, .. } | Op::PqVal { data, .. } | Op::Recover { data, .. } = *op {
        data_room.extend(data.iter().take(cut.sources).map(|block| block.map(part)));
    }
    change_room.clear();
    product_room.clear();
    if let (Op::Pq { data, .. }, 1..) = (*op, group) {
        let blocks = data.iter().enumerate().skip(group * cut.sources).take(cut.sources);
        change_room.extend(blocks.filter_map(|(exponent, block)| {
            let (exponent, new) = (u8::try_from(exponent).ok()?, Some(part((*block)?)));
            Some(Change { exponent, old: None, new })
        }));
        // A group of zeroes changes nothing, but a step has to do something: no change of any block.
        if let (true, Some(block)) = (change_room.is_empty(), data.iter().flatten().next()) {
            let same = Some(part(*block));
            change_room.push(Change { exponent: 0, old: same, new: same });
        }
    }
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
        Op::Pq { p, q, .. } if group > 0 && !changes.is_empty() => {
            Op::PqUpdate { changes, p: p.map(part), q: q.map(part) }
        }
        // Where all data are zeroes, every group computes the first one again.
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

/// Steps of several operations at once, which live until they are cleared.
#[derive(Default, Debug)]
pub(crate) struct Steps {
    lists: Lists,
    steps: Chain,
}

impl Steps {
    /// Forgets all steps.
    pub(crate) fn clear(&mut self) {
        self.steps.clear();
    }

    /// Adds step `step` of `op`; returns its number, or `None` if there are 2^32 operands.
    pub(crate) fn push(&mut self, op: CheckedOp<'_>, cut: &Cut, step: usize) -> Option<usize> {
        let step = step_of(op, cut, step, &mut self.lists);
        Some(self.steps.push_checked(step, &[]).ok()?.index())
    }

    /// The step of this number.
    pub(crate) fn get(&self, index: usize) -> Option<CheckedOp<'_>> {
        self.steps.op(index)
    }
}
