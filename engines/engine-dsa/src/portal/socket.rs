//! Submission to a device model in another process, over a Unix socket of type SOCK_SEQPACKET.
//!
//! A packet is one to 64 descriptors, as a write(2) on the real node would carry. To each, the model answers
//! with a packet of four bytes, an i32, little-endian: what that write(2) would have returned, an errno being
//! negative. The model reads and writes this process's memory; so that a system with Yama lets
//! it, it is named as the one that may trace us. A process has one such place (`PR_SET_PTRACER`), so that of
//! models in several processes only the one that was connected to last is let in there.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send,
    shutdown, socket, sockopt,
};
use tracing::debug;

use super::{OpenError, Portal, PortalError, bytes_of, refusal, store_fence};
use crate::wire::{DESCRIPTOR_BYTES, Descriptor};

/// How long an answer may take. A model that needs longer counts as gone.
const ANSWER: Duration = Duration::from_millis(200);
/// The most stale answers that are thrown away at a time.
const STALE: usize = 64;

/// A connection to a device model.
#[derive(Debug)]
pub struct SocketPortal {
    socket: OwnedFd,
    answer_within: Duration,
    /// Nothing is submitted any more: it is closing, or it did not keep to the protocol.
    dead: bool,
    closing: bool,
    /// The other side has let go of the socket, so it is done with our memory.
    ended: bool,
}

impl SocketPortal {
    /// Connects to the model that listens at `node`.
    pub fn connect(node: &Path) -> Result<SocketPortal, OpenError> {
        let failed = |errno: Errno| OpenError::new(node, errno as i32);
        let address = UnixAddr::new(node).map_err(failed)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(failed)?;
        // Not blocking: a model whose backlog is full is as good as none.
        connect(socket.as_raw_fd(), &address).map_err(failed)?;
        Ok(SocketPortal::new(socket))
    }

    /// On a connected socket that does not block.
    fn new(socket: OwnedFd) -> SocketPortal {
        if let Ok(peer) = getsockopt(&socket, sockopt::PeerCredentials) {
            allow_memory_access(peer.pid());
        }
        SocketPortal { socket, answer_within: ANSWER, dead: false, closing: false, ended: false }
    }

    /// Sends one packet and takes the answer.
    fn exchange(&self, packet: &[u8], deadline: Instant) -> nix::Result<i32> {
        loop {
            match send(self.socket.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait_for(PollFlags::POLLOUT, deadline)?,
                Err(errno) => return Err(errno),
            }
        }
        let mut answer = [0; size_of::<i32>() + 1];
        loop {
            match recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT) {
                Ok(4) => return Ok(i32::from_le_bytes([answer[0], answer[1], answer[2], answer[3]])),
                // The end, or an answer of a length that no answer has.
                Ok(0) => return Err(Errno::EPIPE),
                Ok(_) => return Err(Errno::EPROTO),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait_for(PollFlags::POLLIN, deadline)?,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Waits for the socket, no longer than to the deadline.
    fn wait_for(&self, what: PollFlags, deadline: Instant) -> nix::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::ETIMEDOUT);
        }
        // Rounded up, so that the last millisecond is not spent spinning.
        let millis = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), what)], PollTimeout::from(millis)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Looks whether the other side has let go, throwing stale answers away.
    fn look_for_end(&mut self) {
        let mut byte = [0; 8];
        for _ in 0..STALE {
            match recv(self.socket.as_raw_fd(), &mut byte, MsgFlags::MSG_DONTWAIT) {
                // Nothing was received: the end, or an empty packet, which poll tells apart.
                Ok(0) if self.hung_up() => self.ended = true,
                Err(Errno::ECONNRESET | Errno::EPIPE | Errno::ENOTCONN) => self.ended = true,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => {}
            }
            return;
        }
    }

    fn hung_up(&self) -> bool {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut sockets, PollTimeout::ZERO).is_ok()
            && sockets[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
    }
}

impl Portal for SocketPortal {
    fn method(&self) -> &'static str {
        "socket"
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        if self.dead {
            return Err(PortalError::Gone);
        }
        let packet = bytes_of(descriptors);
        if packet.is_empty() {
            return Ok(0);
        }
        store_fence();
        let result = match self.exchange(packet, Instant::now() + self.answer_within) {
            Ok(answer) => verdict(answer, packet.len()),
            Err(errno) => {
                debug!(%errno, "the device model does not answer");
                Err(PortalError::Gone)
            }
        };
        self.dead = result == Err(PortalError::Gone);
        result
    }

    fn begin_close(&mut self) {
        self.dead = true;
        if !self.closing {
            self.closing = true;
            // Only our direction: the end of the other one is what tells that the model has let go. An
            // error means that there is no connection any more, which is seen there, too.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        }
    }

    fn is_closed(&mut self) -> bool {
        if self.closing && !self.ended {
            self.look_for_end();
        }
        self.closing && self.ended
    }
}

/// What an answer means: bytes taken, or a negative errno.
fn verdict(answer: i32, sent: usize) -> Result<usize, PortalError> {
    match usize::try_from(answer) {
        // More than was sent: this is no model of ours.
        Ok(bytes) if bytes > sent => Err(PortalError::Gone),
        Ok(bytes) if bytes < DESCRIPTOR_BYTES => Err(PortalError::Retry),
        Ok(bytes) => Ok(bytes / DESCRIPTOR_BYTES),
        Err(_) => Err(refusal(answer.checked_neg().unwrap_or(libc::EIO))),
    }
}

/// Lets the process `pid` read and write this one's memory where Yama asks for it; elsewhere there is
/// nothing to allow, so errors do not matter.
fn allow_memory_access(pid: libc::pid_t) {
    let Ok(pid) = libc::c_ulong::try_from(pid) else { return };
    if pid == 0 {
        // A process that this one's namespace does not show.
        return;
    }
    // SAFETY: the call takes numbers only, and changes nothing but who may trace this process.
    if unsafe { libc::prctl(libc::PR_SET_PTRACER, pid, 0, 0, 0) } != 0 {
        debug!(error = %io::Error::last_os_error(), "no need, or no way, to name a tracer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood() {
        assert_eq!(verdict(320, 320), Ok(5));
        assert_eq!(verdict(128, 320), Ok(2));
        assert_eq!(verdict(63, 320), Err(PortalError::Retry));
        assert_eq!(verdict(384, 320), Err(PortalError::Gone));
        assert_eq!(verdict(-libc::EAGAIN, 64), Err(PortalError::Retry));
        assert_eq!(verdict(-libc::EINVAL, 64), Err(PortalError::Refused(libc::EINVAL)));
        assert_eq!(verdict(-libc::ENODEV, 64), Err(PortalError::Gone));
        assert_eq!(verdict(i32::MIN, 64), Err(PortalError::Gone));
    }
}
