//! What the engine asks of those who compute.

use crate::check::CheckedOp;
use crate::clock::Nanos;
use crate::op::{Op, OpKind, Verdict};
use crate::{Fault, SOURCES_MAX};

/// The kinds of operation that a backend takes. Capability is per operation: a copy engine takes copies
/// and fills, and the xors between them run elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caps(u16);

impl Caps {
    /// None.
    pub const NONE: Caps = Caps(0);
    /// Every kind.
    pub const ALL: Caps = Caps(u16::MAX);

    /// These and `kind`.
    pub const fn with(self, kind: OpKind) -> Caps {
        Caps(self.0 | 1 << kind as u8)
    }

    /// These without `kind`.
    pub const fn without(self, kind: OpKind) -> Caps {
        Caps(self.0 & !(1 << kind as u8))
    }

    /// Those that are in both.
    pub const fn and(self, other: Caps) -> Caps {
        Caps(self.0 & other.0)
    }

    /// Those that are in either.
    pub const fn or(self, other: Caps) -> Caps {
        Caps(self.0 | other.0)
    }

    /// Whether all of `other` are among them.
    pub const fn covers(self, other: Caps) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether some are in both.
    pub const fn intersects(self, other: Caps) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether `kind` is among them.
    pub const fn has(self, kind: OpKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

/// What a backend can take of one kind of operation. What is more is split where it can be; what cannot
/// be split runs on the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// The most sources in one operation. [`Op::Xor`], [`Op::Pq`], [`Op::PqUpdate`] and [`Op::GfMulAdd`]
    /// with more are continued by accumulating, P+Q if the backend takes [`Op::PqUpdate`], too.
    pub sources_max: usize,
    /// Bytes from which on the backend is worth its overhead; shorter operations run on the CPU.
    pub len_min: usize,
    /// The most bytes in one operation; longer ones are cut.
    pub len_max: usize,
    /// Every block's address and length must be a multiple of this many bytes, a power of two; others
    /// run on the CPU.
    pub align: usize,
    /// An operation that completes with any [`Fault`] has left its destinations as they were: also one that
    /// was declined, abandoned or given up, whose completion therefore has to know that nothing of it was
    /// done. Without this, operations that work in place ([`crate::Op::is_in_place`]) run on the CPU, for
    /// they could not be retried.
    pub keeps_on_fault: bool,
}

impl Limits {
    /// No limit, and a failed operation leaves its destinations as they were: for backends of which that
    /// is true.
    pub const NONE: Limits =
        Limits { sources_max: SOURCES_MAX, len_min: 0, len_max: usize::MAX, align: 1, keeps_on_fault: true };
}

/// Names an operation between its submission and its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpToken(pub u64);

/// An operation that can start.
#[derive(Clone, Copy, Debug)]
pub struct ReadyOp<'a> {
    /// Comes back in the [`Completion`].
    pub token: OpToken,
    /// What to do. The lists live only during the call; the regions live until the completion.
    pub op: CheckedOp<'a>,
    /// It starts only after all earlier operations of the same call to [`Backend::submit`] ended, and if
    /// one of them fails it is not started but completed with [`Fault::Abandoned`]. Set only between
    /// kinds that [`Backend::fences`] names.
    pub fence: bool,
}

/// The end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Which one.
    pub token: OpToken,
    /// What it found, or why it failed.
    pub result: Result<Verdict, Fault>,
}

/// What has come of [`Backend::revive`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revival {
    /// Not known yet; ask again.
    Pending,
    /// It works again. Capabilities and limits may have changed.
    Ready,
    /// It does not work; try again later.
    Failed,
}

/// Computes asynchronously. A backend may complete operations in any order.
///
/// - Every operation taken is completed exactly once.
/// - Once an operation is completed, failed or not, nothing reads or writes its regions any more.
/// - Dropping the backend returns only when nothing it was given can be read or written any more.
/// - Errors are values: no call panics, and none blocks for longer than a bounded submission takes.
///
/// [`crate::conformance`] tests all of this.
pub trait Backend: Send {
    /// A short name for logs and counters.
    fn name(&self) -> &str;

    /// What it takes.
    fn caps(&self) -> Caps;

    /// How much of it.
    fn limits(&self, kind: OpKind) -> Limits;

    /// Whether it takes this operation, whose kind and sizes it takes: for conditions that
    /// [`Limits`] does not express. What it does not take runs on the CPU.
    fn accepts(&self, op: &Op<'_>) -> bool {
        let _ = op;
        true
    }

    /// The kinds between which [`ReadyOp::fence`] may be used.
    fn fences(&self) -> Caps {
        Caps::NONE
    }

    /// How many operations make a submission worth its price: so many are gathered before they are
    /// issued, unless [`crate::Engine::issue_pending_all`] says that no more will come.
    fn batch(&self) -> usize {
        1
    }

    /// How many more operations it has room for now.
    fn room(&self) -> usize {
        usize::MAX
    }

    /// Takes the first operations of `ops`, which may run at once; returns how many were taken. Fewer
    /// means that the queue is full, and the rest run on the CPU.
    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize;

    /// Appends what has ended since the last call.
    fn reap(&mut self, done: &mut Vec<Completion>);

    /// Begins to give up all that it has in hand: an operation took too long, or failed in a way that
    /// puts the rest in doubt. Each is completed as soon as nothing can read or write its regions any
    /// more, with its result or with [`Fault::Aborted`]. Returns at once, and may be repeated; it gets
    /// no operation before it was revived.
    fn abort(&mut self);

    /// Tries to work again after a fault; called from time to time, until it says how it ended, while
    /// nothing is in its hands. It proves itself with an operation of its own before it says
    /// [`Revival::Ready`].
    fn revive(&mut self, now: Nanos) -> Revival;

    /// Waits, with little power where the hardware can, until something may have ended, for about as long
    /// as a few microseconds. A hint: it may return at once.
    fn relax(&mut self) {
        std::hint::spin_loop();
    }
}

/// Computes at once, on the calling thread, every operation of any size: what all else falls back to.
pub trait Inline: Send {
    /// A short name for logs and counters.
    fn name(&self) -> &str;

    /// Runs the operation to its end.
    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault>;
}
