//! Pairs of connected sockets: one end for the kernel, one for the server.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, SndBuf, SndBufForce};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, setsockopt, socketpair};

use crate::AttachError;

/// Bytes of a socket's buffer, in each direction. The default of 208 KiB is less than one request of the
/// size that [`Host::tune`](crate::Host::tune) allows.
pub const SOCKET_BUFFER: usize = 4 << 20;

/// Two ends of one connection.
#[derive(Debug)]
pub struct SocketPair {
    /// For [`Netlink::connect`](crate::Netlink::connect); to be closed when the kernel has it, so that
    /// [`SocketPair::server`] sees the end when the kernel lets go of it.
    pub kernel: OwnedFd,
    /// To serve. It blocks; whoever wants it otherwise sets that.
    pub server: OwnedFd,
}

/// Makes pairs of unix stream sockets, closed on exec, with buffers of [`SOCKET_BUFFER`] bytes, or as large
/// as this process may have them: [`buffer_of`] tells.
///
/// # Errors
/// The process has no more descriptors.
pub fn socket_pairs(count: usize) -> Result<Vec<SocketPair>, AttachError> {
    let pair = |_| {
        let (kernel, server) =
            socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|error| AttachError::io("make a pair of sockets", error))?;
        for end in [&kernel, &server] {
            enlarge(end).map_err(|error| AttachError::io("enlarge a socket's buffers", error))?;
        }
        Ok(SocketPair { kernel, server })
    };
    (0..count).map(pair).collect()
}

/// What the kernel allows for unsent bytes of this end; twice what was asked for, since its bookkeeping is
/// in it.
///
/// # Errors
/// It is no socket.
pub fn buffer_of(socket: &OwnedFd) -> io::Result<usize> {
    Ok(getsockopt(socket, SndBuf)?)
}

fn enlarge(socket: &OwnedFd) -> Result<(), Errno> {
    match setsockopt(socket, SndBufForce, &SOCKET_BUFFER) {
        // Without CAP_NET_ADMIN: as much as net.core.wmem_max allows.
        Err(Errno::EPERM) => setsockopt(socket, SndBuf, &SOCKET_BUFFER)?,
        other => other?,
    }
    match setsockopt(socket, RcvBufForce, &SOCKET_BUFFER) {
        Err(Errno::EPERM) => setsockopt(socket, RcvBuf, &SOCKET_BUFFER),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capability;

    #[test]
    fn pairs_are_connected_and_have_room() {
        let pairs = socket_pairs(3).unwrap();
        assert_eq!(pairs.len(), 3);
        for pair in &pairs {
            assert_eq!(nix::unistd::write(&pair.server, b"x").unwrap(), 1);
            let mut byte = [0];
            assert_eq!(nix::unistd::read(&pair.kernel, &mut byte).unwrap(), 1);
            let room = buffer_of(&pair.kernel).unwrap();
            if Capability::NetAdmin.is_effective() {
                assert!(room >= SOCKET_BUFFER, "{room}");
            } else {
                assert!(room >= 4096, "{room}");
            }
        }
    }
}
