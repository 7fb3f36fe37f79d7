//! The system calls that need raw memory: netlink options.
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
