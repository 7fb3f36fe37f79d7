//! Where an operation runs and in how many steps: pure functions of the operation and of what the
//! backends say about themselves.

use crate::backend::{Backend, Caps, Limits};
use crate::check::CheckedOp;
use crate::op::{Change, Op, Product, Seed, XorMode};
use crate::thresholds::Thresholds;
use crate::{OpKind, Region};

/// Where an operation ran.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// On the CPU.
    Cpu,
    /// On the backend of this index.
    Backend(usize),
}

/// What routing asks of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// Its kind.
    pub kind: OpKind,
    /// Bytes of every block.
    pub len: usize,
    /// As [`Op::sources`].
    pub sources: usize,
    /// The largest power of two that divides all blocks' addresses and lengths.
    pub align: usize,
    /// As [`Op::is_in_place`].
    pub in_place: bool,
    /// Where the operation that it follows ran or runs, if it follows one.
    pub parent: Option<Place>,
}

impl Question {
    /// That of `op`, behind an operation that ran at `parent`.
    pub fn of(op: &Op<'_>, parent: Option<Place>) -> Self {
        let (mut bits, mut len) = (0, 0);
        op.each_block(|block, _| {
            bits |= block.as_ptr() as usize | block.len();
            len = block.len();
            true
        });
        let align = 1 << bits.trailing_zeros().min(usize::BITS - 1);
        let (kind, sources, in_place) = (op.kind(), op.sources(), op.is_in_place());
        Question { kind, len, sources, align, in_place, parent }
    }
}

/// What a backend says about itself and what is known about its worth: asked once, when it is added and
/// when it was revived, so that routing calls no backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Profile {
    /// The kinds that it takes.
    pub caps: Caps,
    /// How much of each, by `kind as usize`.
    pub limits: [Limits; OpKind::COUNT],
    /// From which length on it is worth its overhead.
    pub thresholds: Thresholds,
}

impl Profile {
    /// Asks `backend`.
    pub fn of(backend: &dyn Backend, thresholds: Thresholds) -> Self {
        Profile { caps: backend.caps(), limits: OpKind::ALL.map(|kind| backend.limits(kind)), thresholds }
    }

    /// The limits of `kind`.
    pub const fn limits(&self, kind: OpKind) -> &Limits {
        &self.limits[kind as usize]
    }
}

/// Whether a backend gets operations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Health {
    /// It does.
    #[default]
    Good,
    /// Not now: it failed, or did not answer in time.
    Quarantined,
    /// Never again: it finishes what it has and is then dropped. To routing it is not there.
    Leaving,
}

/// A backend as routing sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    /// What it takes.
    pub profile: &'a Profile,
    /// How many more operations it has room for.
    pub room: usize,
    /// Whether it gets any.
    pub health: Health,
    /// It is on the NUMA node of the thread and the memory, as far as that is known.
    pub near: bool,
}

/// Why an operation runs on the CPU. The order is that of the checks: a later reason says that some
/// backend came closer to taking the operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Reason {
    /// There is no backend but the CPU.
    NoBackend,
    /// No backend takes the kind; none is ever given an [`Op::Notify`].
    NoCapability,
    /// The offload of the kind is switched off: by the operator, or because it never pays.
    Masked,
    /// It has more sources than the backend takes, and cannot be continued by accumulating.
    TooManySources,
    /// A block's address or length is not a multiple of what the backend asks for.
    Misaligned,
    /// It works in place, and the backend does not keep destinations on a fault.
    CannotRetry,
    /// It is shorter than what is worth the overhead there.
    TooShort,
    /// The backend is quarantined.
    Quarantined,
    /// The backend has no room.
    QueueFull,
    /// The backend does not take this very operation ([`Backend::accepts`]).
    Refused,
}

impl Reason {
    /// The number of reasons; `reason as usize` is below it.
    pub const COUNT: usize = Reason::ALL.len();

    /// All reasons, in the order of their numbers.
    pub const ALL: [Reason; 10] = [
        Reason::NoBackend,
        Reason::NoCapability,
        Reason::Masked,
        Reason::TooManySources,
        Reason::Misaligned,
        Reason::CannotRetry,
        Reason::TooShort,
        Reason::Quarantined,
        Reason::QueueFull,
        Reason::Refused,
    ];

    /// Its name in counters and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Reason::NoBackend => "no_backend",
            Reason::NoCapability => "no_capability",
            Reason::Masked => "masked",
            Reason::TooManySources => "too_many_sources",
            Reason::Misaligned => "misaligned",
            Reason::CannotRetry => "cannot_retry",
            Reason::TooShort => "too_short",
            Reason::Quarantined => "quarantined",
            Reason::QueueFull => "queue_full",
            Reason::Refused => "refused",
        }
    }
}

/// Where an operation is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// On the CPU, for this reason.
    Cpu(Reason),
    /// On a backend.
    Backend {
        /// Its index among the candidates.
        index: usize,
        /// In how many steps.
        cut: Cut,
    },
}

/// A backend on another NUMA node is worth it only from so many times the threshold on.
pub const FAR_FACTOR: usize = 2;

/// To follow an operation that ran elsewhere is worth it only from so many times the threshold on: its
/// completion has to be seen first, and after the CPU the bytes lie in its caches. Far and elsewhere, both
/// factors count.
pub const SWITCH_FACTOR: usize = 2;

/// Where the operation of `question` is to run, `candidates` being the backends in the order of
/// preference. `accepts` tells, by index, what [`Backend::accepts`] says; it is called only for
/// candidates that otherwise qualify.
///
/// - A candidate qualifies if it takes the kind, the sources (cut if need be), the alignment and the
///   in-place form, if the operation is as long as its threshold times [`FAR_FACTOR`] and
///   [`SWITCH_FACTOR`] where they apply, if it is well, has room, and accepts.
/// - The backend on which the parent ran is taken if it qualifies.
/// - Else near ones come before far ones, then the one with more room, then the earlier one.
/// - If none qualifies, the reason is that of the candidate that came closest.
pub fn route<'a>(
    question: &Question,
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    mut accepts: impl FnMut(usize) -> bool,
) -> Choice {
    let mut best: Option<(Rank, usize, Cut)> = None;
    let mut closest = Reason::NoBackend;
    for (index, candidate) in candidates.into_iter().enumerate() {
        if candidate.health == Health::Leaving {
            continue;
        }
        let stays = question.parent == Some(Place::Backend(index));
        let cut = match qualify(question, &candidate, stays) {
            Ok(cut) => cut,
            Err(reason) => {
                closest = closest.max(reason);
                continue;
            }
        };
        let rank = Rank { stays, near: candidate.near, room: candidate.room };
        if best.is_some_and(|(best, ..)| rank <= best) {
            continue;
        }
        if accepts(index) {
            best = Some((rank, index, cut));
        } else {
            closest = Reason::Refused;
        }
    }
    match best {
        Some((_, index, cut)) => Choice::Backend { index, cut },
        None => Choice::Cpu(closest),
    }
}

/// What makes a qualifying candidate better than another, the first field first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    stays: bool,
    near: bool,
    room: usize,
}

/// How the candidate would run it, or the first check that it fails.
fn qualify(question: &Question, candidate: &Candidate<'_>, stays: bool) -> Result<Cut, Reason> {
    let Candidate { profile, room, health, near } = *candidate;
    let kind = question.kind;
    if kind == OpKind::Notify || !profile.caps.has(kind) {
        return Err(Reason::NoCapability);
    }
    let limits = profile.limits(kind);
    let mut len_min = profile.thresholds.len_min(kind, limits);
    if len_min == Thresholds::OFF {
        return Err(Reason::Masked);
    }
    let cut = Cut::plan(question, profile.caps, |kind| *profile.limits(kind))?;
    if question.in_place && !limits.keeps_on_fault {
        return Err(Reason::CannotRetry);
    }
    if !near {
        len_min = len_min.saturating_mul(FAR_FACTOR);
    }
    if question.parent.is_some() && !stays {
        len_min = len_min.saturating_mul(SWITCH_FACTOR);
    }
    if question.len < len_min {
        return Err(Reason::TooShort);
    }
    if health != Health::Good {
        return Err(Reason::Quarantined);
    }
    if room == 0 { Err(Reason::QueueFull) } else { Ok(cut) }
}

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
        let Limits { mut sources_max, mut len_max, mut align, .. } = limits(kind);
        // The question's alignment is a power of two, and so a multiple of powers of two alone.
        let aligned = |align: usize| question.align.is_multiple_of(align.max(1));
        let mut source_steps = 1;
        if sources > sources_max {
            if kind == OpKind::Pq && caps.has(OpKind::PqUpdate) {
                let update = limits(OpKind::PqUpdate);
                sources_max = sources_max.min(update.sources_max);
                len_max = len_max.min(update.len_max);
                if !aligned(update.align) {
                    return Err(Reason::Misaligned);
                }
                align = align.max(update.align);
            } else if !matches!(kind, OpKind::Xor | OpKind::PqUpdate | OpKind::GfMulAdd) {
                sources_max = 0;
            }
            if sources_max == 0 {
                return Err(Reason::TooManySources);
            }
            source_steps = sources.div_ceil(sources_max);
        }
        if !aligned(align) {
            return Err(Reason::Misaligned);
        }
        let align = align.max(1);
        let len_step = len.min(len_max - len_max % align);
        if len_step == 0 {
            return Err(Reason::NoCapability);
        }
        let steps = source_steps.checked_mul(len.div_ceil(len_step)).ok_or(Reason::NoCapability)?;
        Ok(Cut { sources: sources_max.min(sources).max(1), len: len_step, source_steps, steps })
    }
}

/// How a backend with these capabilities and limits runs `op`, or `None` if it cannot.
pub(crate) fn fit(op: &Op<'_>, caps: Caps, limits: impl Fn(OpKind) -> Limits) -> Option<Cut> {
    let question = Question::of(op, None);
    let own = limits(question.kind);
    if question.kind == OpKind::Notify
        || question.len < own.len_min
        || (question.in_place && !own.keeps_on_fault)
    {
        return None;
    }
    Cut::plan(&question, caps, limits).ok()
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
