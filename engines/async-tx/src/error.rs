//! Errors, by who is to blame: the operation, the chain, the backend, the engine.

use thiserror::Error;

/// An operation that no backend could run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpError {
    /// An operand has no bytes.
    #[error("an operand is empty")]
    Empty,
    /// Operands of different lengths.
    #[error("operands of different lengths: {expected} and {found} bytes")]
    Length {
        /// The first operand's length in bytes.
        expected: usize,
        /// The length that differs, in bytes.
        found: usize,
    },
    /// A destination shares bytes with another operand.
    #[error("a destination overlaps another operand")]
    Overlap,
    /// Not 1 to 255 sources.
    #[error("{count} sources; an operation takes 1 to 255")]
    SourceCount {
        /// How many there are.
        count: usize,
    },
    /// Neither P nor Q is given, or one is lost and has no place to go.
    #[error("a parity that is needed was not given")]
    NoParity,
    /// An exponent of 255, or one without a data block.
    #[error("exponent {exponent} names no data block")]
    Exponent {
        /// The exponent.
        exponent: u8,
    },
    /// A change without old and new bytes.
    #[error("the change of exponent {exponent} has neither old nor new data")]
    Unchanged {
        /// The exponent.
        exponent: u8,
    },
    /// Nothing is lost, a block is lost twice, or the good parities cannot tell what is lost.
    #[error("what is lost cannot be recovered from the parities given")]
    Unrecoverable,
}

/// Why a node could not be added to a chain; the chain is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The operation is not valid.
    #[error(transparent)]
    Op(#[from] OpError),
    /// A dependency is not an earlier node of this chain.
    #[error("a dependency names node {index}, but the chain has only {nodes} nodes")]
    UnknownDependency {
        /// The index it names.
        index: usize,
        /// How many nodes there are.
        nodes: usize,
    },
    /// The chain has 2^32 operands or nodes.
    #[error("the chain is full")]
    Full,
}

/// Why a backend did not complete an operation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// The backend does not do this, though it may have said so.
    #[error("the operation is not supported")]
    Unsupported,
    /// The device reported this status.
    #[error("the device reported status {0:#04x}")]
    Device(u8),
    /// The device is gone.
    #[error("the device is gone")]
    Gone,
    /// The backend is healthy but did not do this one to its end: a page was missing, or its device turned
    /// out not to take such operands. The destinations hold anything, unless the limits say that they are
    /// kept ([`crate::Limits::keeps_on_fault`]). Like [`Fault::Abandoned`], and unlike
    /// every other fault, this is no reason to quarantine the backend: the operation runs on the CPU, after
    /// its predecessors ended, and the backend goes on. What a backend declines for good leaves its
    /// [`caps`](crate::Backend::caps) at once.
    #[error("the backend did not do this operation")]
    Declined,
    /// It was not started, because an operation before its fence failed.
    #[error("an operation before its fence failed")]
    Abandoned,
    /// It was given up, because it or another one took too long or the device failed.
    #[error("the operation was given up")]
    Aborted,
    /// It did not complete in time.
    #[error("the operation did not complete in time")]
    TimedOut,
    /// The result was not that of the CPU, which a cross-check showed.
    #[error("the result differed from that of the CPU")]
    Mismatch,
}

/// Why a chain failed. Its destinations hold anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The CPU, which every other backend falls back to, could not run a node.
    #[error("node {node} of the chain failed on the CPU: {fault}")]
    Cpu {
        /// Index of the node.
        node: usize,
        /// Why.
        fault: Fault,
    },
    /// A chain that it was to run after failed, so it was not started.
    #[error("a chain that it depends on failed")]
    Dependency,
    /// It was to run after a chain of another engine, so it was not started.
    #[error("it depends on a chain of another engine")]
    Foreign,
    /// The engine was dropped before the chain ended. Nothing touches its memory any more.
    #[error("the engine was dropped before the chain ended")]
    Dropped,
    /// From [`crate::Engine::run`] only: a backend neither ended nor gave back an operation for longer than
    /// [`crate::EngineConfig::run_patience`]. **The chain is still in flight**: its memory must be kept until
    /// [`crate::Engine::in_flight`] is zero or the engine was dropped.
    #[error("a backend does not give back the memory of the chain, which is still in flight")]
    Stuck,
}

/// Why waiting for a chain ended without a verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The deadline came first. The chain is still in flight and can be waited for again.
    #[error("the chain did not end before the deadline and is still in flight")]
    Deadline,
    /// The handle is that of another engine's chain.
    #[error("the chain is one of another engine")]
    Foreign,
    /// The chain ended, and failed.
    #[error(transparent)]
    Chain(#[from] EngineError),
}
