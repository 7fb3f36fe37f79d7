//! The system calls that need raw memory or bare numbers: netlink options and the ioctls of nbd devices.
//!
//! Thin wrappers that turn `errno` into [`io::Error`]; decisions are made elsewhere.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Join a multicast group (linux/netlink.h).
pub(crate) const NETLINK_ADD_MEMBERSHIP: libc::c_int = 1;
/// Errors without the body of the request that they answer.
pub(crate) const NETLINK_CAP_ACK: libc::c_int = 10;
/// Errors with a text.
pub(crate) const NETLINK_EXT_ACK: libc::c_int = 11;

/// Sets an option of a netlink socket.
pub(crate) fn set_netlink_option(fd: BorrowedFd<'_>, option: libc::c_int, value: u32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which lives until the call returns.
    let rc = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), len)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What an nbd device is told by ioctl (linux/nbd.h). All of them take a number or nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum NbdIoctl {
    /// A socket, by its descriptor.
    SetSock = 0xab00,
    /// The block size in bytes.
    SetBlockSize = 0xab01,
    /// Serve, and return when it is detached.
    DoIt = 0xab03,
    /// Let go of the sockets at once.
    ClearSock = 0xab04,
    /// The size in blocks.
    SetSizeBlocks = 0xab07,
    /// Send `DISC` on the sockets.
    Disconnect = 0xab08,
    /// Seconds for an answer.
    SetTimeout = 0xab09,
    /// The transmission flags.
    SetFlags = 0xab0a,
}

/// Tells an nbd device something. `argument` is ignored by those that take none.
pub(crate) fn nbd_ioctl(device: BorrowedFd<'_>, what: NbdIoctl, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: of a block device of the nbd driver, these requests take their argument as a number and touch
    // no memory of this process. Other drivers answer that they do not know them.
    let rc = unsafe { libc::ioctl(device.as_raw_fd(), what as libc::Ioctl, argument) };
    if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
