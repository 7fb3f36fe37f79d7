//! Submission by write(2) on the queue's node: the way in that needs no privilege (Linux 6.9.1, 6.8.10 and
//! 6.1.91 have it first).
//!
//! The driver takes whole descriptors of 64 bytes, several a call, and stops at the first it refuses. On a
//! dedicated queue it, too, loses silently what there is no room for.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd;

use super::closing::Closing;
use super::{OpenError, Portal, PortalError, bytes_of, open, refusal, store_fence};
use crate::wire::{DESCRIPTOR_BYTES, Descriptor};

/// How often a call that a signal interrupted is repeated.
const INTERRUPTIONS: usize = 16;

/// A queue's node, written to.
#[derive(Debug)]
pub struct WritePortal {
    node: Option<File>,
    closing: Closing<File>,
}

impl WritePortal {
    /// Opens the node, a character device.
    pub fn open(node: &Path) -> Result<WritePortal, OpenError> {
        Ok(WritePortal::new(open::device(node)?))
    }

    /// On a file that is open for reading and writing.
    pub fn new(node: File) -> WritePortal {
        WritePortal { node: Some(node), closing: Closing::new() }
    }
}

impl Portal for WritePortal {
    fn method(&self) -> &'static str {
        "write"
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        let node = self.node.as_ref().ok_or(PortalError::Gone)?;
        store_fence();
        submit_by(descriptors, |bytes| unistd::write(node, bytes))
    }

    fn begin_close(&mut self) {
        self.closing.begin(self.node.take());
    }

    fn is_closed(&mut self) -> bool {
        self.closing.is_done()
    }
}

impl Drop for WritePortal {
    fn drop(&mut self) {
        self.begin_close();
    }
}

/// One call of `write`, and what its result means.
fn submit_by(
    descriptors: &[Descriptor],
    mut write: impl FnMut(&[u8]) -> nix::Result<usize>,
) -> Result<usize, PortalError> {
    let bytes = bytes_of(descriptors);
    if bytes.is_empty() {
        return Ok(0);
    }
    for _ in 0..INTERRUPTIONS {
        return match write(bytes) {
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(refusal(errno as i32)),
            // No whole descriptor, and no reason given.
            Ok(written) if written < DESCRIPTOR_BYTES => Err(PortalError::Retry),
            Ok(written) => Ok(written.min(bytes.len()) / DESCRIPTOR_BYTES),
        };
    }
    Err(PortalError::Retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_write_are_understood() {
        let five = [Descriptor::noop(); 5];
        let by = |result: nix::Result<usize>| submit_by(&five, |_| result);
        assert_eq!(by(Ok(320)), Ok(5));
        assert_eq!(by(Ok(128)), Ok(2));
        assert_eq!(by(Ok(130)), Ok(2));
        assert_eq!(by(Ok(63)), Err(PortalError::Retry));
        assert_eq!(by(Ok(0)), Err(PortalError::Retry));
        assert_eq!(by(Ok(usize::MAX)), Ok(5));
        assert_eq!(by(Err(Errno::EAGAIN)), Err(PortalError::Retry));
        assert_eq!(by(Err(Errno::EINTR)), Err(PortalError::Retry));
        for errno in [Errno::EINVAL, Errno::EPERM, Errno::EFAULT, Errno::ENOSPC] {
            assert_eq!(by(Err(errno)), Err(PortalError::Refused(errno as i32)));
        }
        for errno in [Errno::ENODEV, Errno::ENXIO, Errno::EIO, Errno::EBADF, Errno::EPIPE] {
            assert_eq!(by(Err(errno)), Err(PortalError::Gone));
        }
    }

    #[test]
    fn an_interrupted_call_is_repeated() {
        let mut calls = 0;
        let result = submit_by(&[Descriptor::noop(); 2], |bytes| {
            calls += 1;
            assert_eq!(bytes.len(), 128);
            if calls < 4 { Err(Errno::EINTR) } else { Ok(128) }
        });
        assert_eq!((result, calls), (Ok(2), 4));
    }

    #[test]
    fn a_call_carries_64_descriptors_and_never_none() {
        let many = [Descriptor::noop(); 70];
        assert_eq!(submit_by(&many, |bytes| Ok(bytes.len())), Ok(64));
        assert_eq!(submit_by(&[], |_| Err(Errno::EINVAL)), Ok(0));
    }
}
