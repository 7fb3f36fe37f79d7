//! Waiting with a deadline, which everything here does that waits at all.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::AttachError;

/// How long it takes to look again at what cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until the descriptor can be read or the deadline has passed. An interruption counts as neither.
pub(crate) fn readable_until(fd: BorrowedFd<'_>, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last turn does not spin.
        let millis = left.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Looks at a condition of the kernel's or udev's again and again, for those that nothing tells of.
pub(crate) fn poll_until<T>(
    what: impl FnOnce() -> String,
    within: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T, AttachError> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = condition() {
            return Ok(found);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AttachError::TooLate { what: what(), after: within });
        }
        std::thread::sleep(left.min(LOOK_AGAIN));
    }
}
