//! Where an operation runs and in how many steps: pure functions of the operation and of what the
//! backends say about themselves.

use crate::OpKind;
use crate::backend::{Backend, Caps, Limits};
use crate::op::Op;
use crate::split::Cut;
use crate::thresholds::Thresholds;

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
