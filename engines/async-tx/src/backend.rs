//! What the engine asks of those who compute.

use crate::op::{CheckedOp, OpKind, Verdict};
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

    /// Whether `kind` is among them.
    pub const fn has(self, kind: OpKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

/// What a backend can take of one kind of operation. What is more is split where it can be; what cannot
/// be split runs on the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Limits {
    /// The most sources in one operation. An xor with more is continued by accumulating.
    pub sources_max: usize,
    /// Bytes from which on the backend is worth its overhead; shorter operations run on the CPU.
    pub len_min: usize,
    /// The most bytes in one operation; longer ones are cut.
    pub len_max: usize,
    /// Every address and length must be a multiple of this many bytes; others run on the CPU.
    pub align: usize,
    /// A failed operation has left its destinations as they were. Without this, operations that work in
    /// place ([`crate::Op::is_in_place`]) run on the CPU, for they could not be retried.
    pub keeps_on_fault: bool,
}

impl Limits {
    /// No limit.
    pub const NONE: Limits =
        Limits { sources_max: SOURCES_MAX, len_min: 0, len_max: usize::MAX, align: 1, keeps_on_fault: true };
}

/// Names an operation between its submission and its completion.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpToken(pub u64);

/// An operation whose dependencies have all ended.
#[derive(Clone, Copy, Debug)]
pub struct ReadyOp<'a> {
    /// Comes back in the [`Completion`].
    pub token: OpToken,
    /// What to do. The lists live only during the call; the regions live until the completion.
    pub op: CheckedOp<'a>,
}

/// The end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// Which one.
    pub token: OpToken,
    /// What it found, or why it failed.
    pub result: Result<Verdict, Fault>,
}

/// Computes asynchronously. A backend may complete operations in any order.
///
/// - Every operation taken is completed exactly once.
/// - Once an operation is completed, failed or not, nothing reads or writes its regions any more.
/// - Dropping the backend returns only when nothing it was given can be read or written any more.
/// - Errors are values: no call panics, and none blocks.
pub trait Backend: Send {
    /// A short name for logs and counters.
    fn name(&self) -> &str;

    /// What it takes.
    fn caps(&self) -> Caps;

    /// How much of it.
    fn limits(&self, kind: OpKind) -> Limits;

    /// Takes the first operations of `ops`, which may run at once; returns how many were taken. Fewer
    /// means that the queue is full, and the rest run on the CPU.
    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize;

    /// Appends what has ended since the last call.
    fn reap(&mut self, done: &mut Vec<Completion>);
}

/// Computes at once, on the calling thread, every operation of any size: what all else falls back to.
pub trait Inline: Send {
    /// A short name for logs and counters.
    fn name(&self) -> &str;

    /// Runs the operation to its end.
    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault>;
}
