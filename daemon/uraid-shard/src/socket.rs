//! Socket options for the transmission phase.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, setsockopt, sockopt};

/// Buffer space of a unix socket in bytes. The default of 208 KiB is less than one large request, so that
/// client and server would take turns instead of working at the same time.
const UNIX_BUFFER: usize = 4 << 20;

/// Sets what makes a socket fast: room on unix sockets, no delay on TCP, where a dead peer is noticed too.
///
/// # Errors
/// What the kernel said to the first option that it refused; the socket works all the same.
pub(crate) fn tune(socket: &OwnedFd) -> nix::Result<()> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    match address.family() {
        Some(AddressFamily::Unix) => {
            // Beyond net.core.wmem_max only with CAP_NET_ADMIN, else as far as that goes.
            if setsockopt(socket, sockopt::SndBufForce, &UNIX_BUFFER).is_err() {
                setsockopt(socket, sockopt::SndBuf, &UNIX_BUFFER)?;
            }
            if setsockopt(socket, sockopt::RcvBufForce, &UNIX_BUFFER).is_err() {
                setsockopt(socket, sockopt::RcvBuf, &UNIX_BUFFER)?;
            }
        }
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            setsockopt(socket, sockopt::TcpNoDelay, &true)?;
            setsockopt(socket, sockopt::KeepAlive, &true)?;
        }
        _ => {}
    }
    Ok(())
}

/// Whether the other end was shut down or closed, or the socket is broken: nobody waits for answers, and
/// whoever asked may have asked somebody else by now. What was sent before is readable all the same.
pub(crate) fn peer_is_gone(socket: BorrowedFd<'_>) -> bool {
    let gone = PollFlags::from_bits_retain(libc::POLLRDHUP) | PollFlags::POLLHUP | PollFlags::POLLERR;
    let mut fds = [PollFd::new(socket, gone)];
    loop {
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::Error::EINTR) => {}
            // A socket that cannot be asked is not one to be believed.
            Err(_) => return true,
        }
    }
}
