//! Where descriptors go in.

use thiserror::Error;

use crate::wire::Descriptor;

/// Why a portal took nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum PortalError {
    /// A shared queue is full, above its threshold, or disabled: the bounded retries are used up.
    #[error("the queue is full")]
    Retry,
    /// The system refused the first descriptor with this errno (write(2) only).
    #[error("the system refused the descriptor: {}", std::io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// The queue is gone: closed, unplugged, or its process has died.
    #[error("the queue is gone")]
    Gone,
}

/// An open queue, as far as submission goes. What becomes of a descriptor is seen in memory: in its
/// completion record.
///
/// Nothing here panics, and nothing blocks but the bounded retries of a full queue.
pub trait Portal: Send {
    /// How it submits, in a word: `write`, `enqcmd`, `movdir64b`, `model`, `socket`.
    fn method(&self) -> &'static str;

    /// Submits descriptors in their order and says how many were accepted, at least one. Everything
    /// written before the call is visible to the device before it sees a descriptor.
    ///
    /// A dedicated queue accepts silently what it has no room for and loses it: the caller counts.
    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError>;

    /// Begins to take back all that was submitted. Returns at once; may be repeated.
    fn begin_close(&mut self);

    /// Whether, after [`begin_close`](Self::begin_close), the device is known to read and write nothing
    /// any more of what was submitted here.
    fn is_closed(&mut self) -> bool;
}
