//! New sockets for a device whose old ones are dead or not to be trusted, in the one order that works.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use crate::{AttachError, Event, Events, Netlink, Reconfigure, SocketPair, socket_pairs};

/// How long no socket has to have died before the kernel is asked although fewer died than were shut
/// down: some may have been dead before anybody listened.
const QUIET: Duration = Duration::from_millis(200);

/// How long more is tried for the other sockets once the kernel has taken one: requests wait in it meanwhile.
const GRACE: Duration = Duration::from_secs(1);

/// Which device, and how long to try.
#[derive(Clone, Debug)]
pub struct Replace {
    /// N of /dev/nbdN.
    pub index: u32,
    /// The name with which it was attached.
    pub backend: Option<String>,
    /// How many sockets it is to have: as many as it was attached with.
    pub sockets: usize,
    /// How long to wait until the kernel has taken the first; the others have a second more.
    pub within: Duration,
}

/// Replaces the sockets of an attached device. Returns the ends to serve, at least one.
///
/// The kernel puts a new socket in the place of a dead one and throws away those for which there is no
/// place, reporting success. So, in this order:
///
/// 1. `old`, the ends of the server's side as far as they are still there, are shut down. From here on no
///    request on them reaches the server, and no answer the kernel.
/// 2. `fence` is called. It returns when whoever served `old`, in this process or in one that has died, has
///    dropped the requests that were not started, and those that were started **have ended**: the kernel
///    sends them again, and a late write would overwrite what came after it.
/// 3. It is waited until the kernel has noticed: one [`Event::LinkDead`] each on `events`, which therefore
///    was subscribed before; or until nothing dies any more.
/// 4. `RECONFIGURE` with new sockets.
/// 5. The kernel's ends are closed here. What the kernel threw away shows as closed from the other end;
///    then more places have to become free, and it goes on with 3 for those that are missing.
///
/// New requests come on the new sockets at once, and wait there until they are served. Those that were in
/// flight come again when their timers fire ([`Connect::timeout`]), not sooner.
///
/// # Errors
/// What `fence` returns, before the kernel was asked for anything; [`AttachError::TooLate`] if the kernel took
/// none within the time; otherwise as [`Netlink::reconfigure`]. If it took fewer than asked for, the call
/// succeeds with these.
///
/// [`Connect::timeout`]: crate::Connect::timeout
pub fn replace_sockets(
    netlink: &mut Netlink,
    events: &mut Events,
    wanted: &Replace,
    old: &[BorrowedFd<'_>],
    fence: impl FnOnce() -> Result<(), AttachError>,
) -> Result<Vec<OwnedFd>, AttachError> {
    while events.next()?.is_some() {}
    for socket in old {
        match shutdown(socket.as_raw_fd(), Shutdown::Both) {
            Ok(()) | Err(Errno::ENOTCONN) => {}
            Err(error) => return Err(AttachError::io("shut down an old socket", error)),
        }
    }
    fence()?;
    // The fence has its own deadline, or none: a member's write may take as long as it takes.
    let mut deadline = Instant::now() + wanted.within;
    let mut taken = Vec::new();
    let mut expected = old.len();
    loop {
        wait_for_deaths(events, wanted.index, expected, deadline)?;
        let missing = wanted.sockets.max(1).saturating_sub(taken.len());
        taken.extend(offer(netlink, wanted, missing)?);
        if taken.len() >= wanted.sockets.max(1) {
            return Ok(taken);
        }
        if Instant::now() >= deadline {
            break;
        }
        if !taken.is_empty() {
            deadline = deadline.min(Instant::now() + GRACE);
        }
        expected = 1;
    }
    if taken.is_empty() {
        let what =
            format!("the kernel to give up a socket of nbd{}, so that a new one has a place", wanted.index);
        return Err(AttachError::TooLate { what, after: wanted.within });
    }
    Ok(taken)
}

/// Waits until so many sockets died, or none did for a while.
fn wait_for_deaths(
    events: &mut Events,
    index: u32,
    expected: usize,
    deadline: Instant,
) -> Result<(), AttachError> {
    let mut died = 0;
    while died < expected {
        match events.next_until(deadline.min(Instant::now() + QUIET))? {
            Some(Event::LinkDead(dead)) if dead == index => died += 1,
            Some(Event::LinkDead(_)) => {}
            Some(Event::Overrun) | None => break,
        }
    }
    Ok(())
}

/// Offers new sockets to the kernel; returns the servers' ends of those that it kept.
fn offer(netlink: &mut Netlink, wanted: &Replace, count: usize) -> Result<Vec<OwnedFd>, AttachError> {
    let pairs = socket_pairs(count)?;
    let kernel: Vec<_> = pairs.iter().map(|pair| pair.kernel.as_fd()).collect();
    let change = Reconfigure { backend: wanted.backend.clone(), ..Reconfigure::default() };
    netlink.reconfigure(wanted.index, &change, &kernel)?;
    let servers: Vec<_> = pairs.into_iter().map(|SocketPair { server, .. }| server).collect();
    let mut kept = Vec::new();
    for server in servers {
        if !hung_up(server.as_fd())? {
            kept.push(server);
        }
    }
    Ok(kept)
}

/// Whether nobody holds the other end. The kernel lets go of what it does not take before its answer to
/// `RECONFIGURE`, so there is nothing to wait for.
fn hung_up(socket: BorrowedFd<'_>) -> Result<bool, AttachError> {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(AttachError::io("look at a new socket", error)),
        }
    }
    let [fd] = fds;
    Ok(fd.revents().is_some_and(|revents| revents.intersects(PollFlags::POLLHUP | PollFlags::POLLERR)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_whose_other_end_is_closed_is_told_from_one_that_is_held() {
        let pairs = socket_pairs(2).unwrap();
        let [held, dropped] = <[SocketPair; 2]>::try_from(pairs).unwrap();
        drop(dropped.kernel);
        assert!(!hung_up(held.server.as_fd()).unwrap());
        assert!(hung_up(dropped.server.as_fd()).unwrap());
        // What lies in it to be read does not change that.
        nix::unistd::write(&held.kernel, b"request").unwrap();
        assert!(!hung_up(held.server.as_fd()).unwrap());
    }
}
