//! Descriptors that whoever started this process left open for it (sd_listen_fds(3)): listening sockets, and
//! what an earlier process gave the service manager to keep.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first of them; those behind it follow without a gap.
const FIRST: RawFd = 3;
/// More than a service manager keeps for anybody.
const COUNT_MAX: RawFd = 65_536;

/// Whether they were taken.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the descriptors that are meant for this process, each with its name; none at any later call. They
/// are closed on exec from here on. Call it before anything else opens a file.
///
/// # Errors
/// What is said about them makes no sense; nothing is taken.
pub fn inherited() -> io::Result<Vec<(String, OwnedFd)>> {
    let told = |name: &str| std::env::var(name).ok();
    let ours = told("LISTEN_PID").and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    if !ours || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let count = told("LISTEN_FDS").and_then(|count| count.parse::<RawFd>().ok());
    let count = count.filter(|count| (0..=COUNT_MAX).contains(count));
    let count =
        count.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "LISTEN_FDS is no number"))?;
    let names = told("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.split(':').map(str::to_owned).chain(std::iter::repeat(String::new()));
    let taken = (FIRST..FIRST + count).zip(names).map(|(number, name)| {
        // SAFETY: sd_listen_fds says that this number is an open descriptor which belongs to this process,
        // and `TAKEN` that nothing has taken it before. A number that is not open is only ever closed.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
        (name, descriptor)
    });
    let taken: Vec<_> = taken.collect();
    for (_, descriptor) in &taken {
        fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok(taken)
}
