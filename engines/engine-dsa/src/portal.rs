//! Where descriptors go in.
//!
//! One trait, and one implementation a way in: [`WritePortal`] (write(2) on the device's node, the normal
//! way for an unprivileged process), `MappedPortal` (ENQCMD and MOVDIR64B on the mapped portal, on
//! x86-64), and [`SocketPortal`] (a device model in another process). [`open()`] picks one.
//!
//! A portal owns the file and nothing of what the descriptors point to: buffers and records have to
//! outlive [`Portal::is_closed`], or their own completion.

use thiserror::Error;

use crate::wire::Descriptor;

mod closing;
pub(crate) mod cpu;
#[cfg(target_arch = "x86_64")]
mod mapped;
mod open;
mod socket;
mod write;

#[cfg(target_arch = "x86_64")]
pub use mapped::{Enqcmd, Instruction, MappedPortal, Movdir64b};
pub use open::{OpenError, open, open_node};
pub use socket::SocketPortal;
pub use write::WritePortal;

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
    /// The queue is gone: closed, unplugged, or its process has died. What was submitted, be it by this
    /// very call, may still be under way until [`Portal::is_closed`].
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

/// The most descriptors that one call of the system carries: a page full.
const MAX_AT_ONCE: usize = 64;

/// What an errno of a submission means.
fn refusal(errno: i32) -> PortalError {
    match errno {
        libc::EAGAIN | libc::EINTR => PortalError::Retry,
        libc::ENODEV | libc::ENXIO | libc::EIO | libc::EBADF | libc::EPIPE | libc::ECONNRESET => {
            PortalError::Gone
        }
        other => PortalError::Refused(other),
    }
}

/// The descriptors as the bytes that a system call takes, [`MAX_AT_ONCE`] at most.
fn bytes_of(descriptors: &[Descriptor]) -> &[u8] {
    let some = descriptors.get(..MAX_AT_ONCE).unwrap_or(descriptors);
    // SAFETY: a descriptor is 64 plain bytes without padding, of which a slice is contiguous; the bytes
    // are borrowed as long as the descriptors.
    unsafe { std::slice::from_raw_parts(some.as_ptr().cast(), size_of_val(some)) }
}

/// Makes stores that the processor may delay or combine (parity kernels write around the cache) visible
/// before the device is told of them.
fn store_fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: sfence is of SSE, which every x86-64 processor has, and touches no memory of ours.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}
