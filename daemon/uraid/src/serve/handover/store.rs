//! The service manager's fd store (sd_notify(3), `FDSTORE=1`): it keeps descriptors while a service restarts.
//!
//! A manager that keeps none (no store is configured, or it is full) does not say so; the descriptors are
//! closed then, which is what a stop without a hand-over would have done.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use sd_notify::NotifyState;

/// How long the manager may take to come to what it was told, in milliseconds. It does nothing else while it
/// reads its units anew, which may take ten seconds and more.
const PATIENCE_MS: u16 = 40_000;

/// Whether there is a manager.
pub(crate) fn is_there() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Gives it a descriptor to keep. It is kept also when its other end hangs up: what becomes of it is the next
/// process's business.
pub(super) fn keep(name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
    let state = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    sd_notify::notify_with_fds(&state, &[fd])
}

/// Has it close what it keeps under this name.
pub(super) fn remove(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

/// Waits until the manager has come to all that it was told: what it gets from a process that has ended may
/// not be attributed to the service any more.
pub(super) fn barrier() -> io::Result<()> {
    let (ours, theirs) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let mut fds = [PollFd::new(ours.as_fd(), PollFlags::POLLHUP)];
    match poll(&mut fds, PollTimeout::from(PATIENCE_MS))? {
        0 => {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the service manager does not come to its messages"))
        }
        _ => Ok(()),
    }
}
