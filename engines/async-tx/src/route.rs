//! Where an operation runs and in how many steps: pure functions of the operation and of what the
//! backends say about themselves.

use crate::backend::{Caps, Limits};
use crate::op::{CheckedOp, Op, XorMode};
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
    let aligned = op.each_region(|r, _| (r.as_ptr() as usize | r.len()).is_multiple_of(align));
    if !aligned || len < limits.len_min || (op.is_in_place() && !limits.keeps_on_fault) {
        return None;
    }
    let per_step = if sources <= limits.sources_max {
        sources.max(1)
    } else if kind == OpKind::Xor && limits.sources_max > 0 {
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
    let Scratch { srcs: src_room, data: data_room } = scratch;
    src_room.clear();
    data_room.clear();
    if let Op::Xor { srcs, .. } | Op::XorVal { srcs } = *op {
        src_room.extend(srcs.iter().skip(group * cut.sources).take(cut.sources).map(|src| part(*src)));
    }
    if let Op::Pq { data, .. } | Op::PqVal { data, .. } | Op::Recover { data, .. } = *op {
        data_room.extend(data.iter().map(|block| block.map(part)));
    }
    let (srcs, data) = (&src_room[..], &data_room[..]);
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
        Op::PqUpdate { old, new, exponent, p, q } => {
            let (p, q) = (p.map(part), q.map(part));
            Op::PqUpdate { old: part(old), new: part(new), exponent, p, q }
        }
        Op::Recover { p, q, lost, .. } => Op::Recover { data, p: p.map(part), q: q.map(part), lost },
    })
}
