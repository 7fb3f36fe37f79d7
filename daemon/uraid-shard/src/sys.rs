//! Socket transfers to and from arena memory.
//!
//! Memory that a device or an engine may touch is never behind a reference (see [`IoBuf`]), so the safe
//! wrappers for `recvmsg` and `sendmsg`, which take slices, cannot be used for it. The two calls here take
//! [`IoBuf`]s and ordinary slices side by side. Everything is non-blocking and raises no SIGPIPE.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use uraid_blockio::{IoBuf, OutOfBounds};

/// The most spans that one [`Gather`] takes. Well below IOV_MAX (1024); a batch of 128 reads fills it.
pub(crate) const SPANS_MAX: usize = 256;

const NO_SPAN: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

/// Receives into `first` (from byte `at` of it on, if there is one) and what is left over into `second`.
/// Says how many bytes came; 0 is the end of the stream, [`io::ErrorKind::WouldBlock`] means none yet.
pub(crate) fn receive(
    fd: BorrowedFd<'_>,
    first: Option<(&IoBuf, usize)>,
    second: &mut [u8],
) -> io::Result<usize> {
    let mut spans = [NO_SPAN; 2];
    if let Some((buf, at)) = first {
        let len = buf.len().saturating_sub(at);
        spans[0] =
            libc::iovec { iov_base: buf.as_ptr().wrapping_add(at.min(buf.len())).cast(), iov_len: len };
    }
    spans[1] = libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: second.len() };
    let mut message = message_of(spans.as_mut_ptr(), spans.len());
    // SAFETY: the message names two ranges: the rest of `first`, which lies in a mapping that the view
    // keeps alive and to which no reference exists, and `second`, which is borrowed exclusively.
    let n = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Spans of memory to be sent in one call.
pub(crate) struct Gather<'a> {
    spans: [libc::iovec; SPANS_MAX],
    used: usize,
    bytes: usize,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Gather<'a> {
    pub(crate) fn new() -> Self {
        Self { spans: [NO_SPAN; SPANS_MAX], used: 0, bytes: 0, borrowed: PhantomData }
    }

    /// Bytes gathered.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends a slice; false if there is no room for another span.
    pub(crate) fn push(&mut self, bytes: &'a [u8]) -> bool {
        self.push_span(bytes.as_ptr().cast_mut(), bytes.len())
    }

    /// Appends a buffer from byte `at` to `end`; `Ok(false)` if there is no room for another span.
    pub(crate) fn push_buf(&mut self, buf: &'a IoBuf, at: usize, end: usize) -> Result<bool, OutOfBounds> {
        let len = end.checked_sub(at).filter(|_| end <= buf.len());
        let len = len.ok_or(OutOfBounds { at, len: end.saturating_sub(at), of: buf.len() })?;
        Ok(self.push_span(buf.as_ptr().wrapping_add(at), len))
    }

    fn push_span(&mut self, base: *mut u8, len: usize) -> bool {
        let Some(span) = self.spans.get_mut(self.used) else { return false };
        *span = libc::iovec { iov_base: base.cast(), iov_len: len };
        self.used += 1;
        self.bytes = self.bytes.saturating_add(len);
        true
    }

    /// Sends what was gathered; says how many bytes went.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        let message = message_of(self.spans.as_mut_ptr(), self.used);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: every span is a slice or an arena view that is borrowed for `'a`, which `self` carries;
        // the kernel only reads them.
        let n = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

fn message_of(spans: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: a message header is integers and pointers, for which zero says "none".
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = spans;
    // The field's type differs between C libraries; the count is at most SPANS_MAX.
    message.msg_iovlen = count as _;
    message
}

/// The groups beside its own that the process at the other end of a unix socket was in when it connected.
/// The kernel has kept them; the process may have changed or ended since.
///
/// # Errors
/// The kernel is older than 4.13, or it is no unix socket.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // As many as a process can be in.
    const GROUPS_MAX: usize = 65_536;
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `bytes` bytes to the buffer, which is that long, and how many it
        // would have written to `bytes`.
        let failed = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if failed == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}
