//! The words of member I/O: what can be asked ([`Io`]), how it ended ([`IoDone`]), and who does it
//! ([`MemberIo`]).

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::IoBuf;

/// One operation on one member. It owns its memory until it has ended.
#[derive(Clone, Debug)]
pub struct Io {
    /// The caller's name for it; comes back in [`IoDone`] and means nothing here.
    pub token: u64,
    /// Which member, by the index at which it was attached.
    pub member: usize,
    /// What to do.
    pub op: IoOp,
    /// First byte on the member; not used by [`IoOp::Flush`].
    pub offset: u64,
}

/// What an [`Io`] does. Any offset and length are served; aligned ones are faster.
#[derive(Clone, Debug)]
pub enum IoOp {
    /// Fill the buffer from the member. If it fails, the buffer holds anything.
    Read(IoBuf),
    /// Write the buffer to the member. The buffer must not change until the operation has ended.
    Write(IoBuf),
    /// Write these bytes, and end only when they are durable.
    WriteMeta(Vec<u8>),
    /// Make every write that ended before this was submitted durable.
    Flush,
}

/// How an [`Io`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoDone {
    /// The caller's name for it.
    pub token: u64,
    /// Which member.
    pub member: usize,
    /// `Ok` only if every byte was moved.
    pub result: Result<(), IoError>,
}

/// Why an operation failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{fault}: {}", std::io::Error::from_raw_os_error(*errno))]
pub struct IoError {
    /// What it means to the array.
    pub fault: IoFault,
    /// What the kernel said (an `errno` value). [`libc::ENODATA`] with [`IoFault::Gone`] if the member ends
    /// earlier than when it was opened, [`libc::EINVAL`] if the range is not within the member, [`libc::EROFS`] for a write to a
    /// member opened read only, [`libc::ENXIO`] if there is no such member.
    pub errno: i32,
}

/// What a failure means to the array.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoFault {
    /// The medium or the transport said no (EIO and all that is not told apart).
    Io,
    /// The member has no room to store the data (a sparse file on a full file system).
    NoSpace,
    /// The device is gone, or a part of it: a file that was cut short.
    Gone,
}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "I/O error",
            Self::NoSpace => "no room to store the data",
            Self::Gone => "device is gone",
        })
    }
}

impl IoError {
    /// The member ends earlier than when it was opened. Not what [`of_errno`](Self::of_errno) makes of the
    /// number, because the kernel uses that for a bad block of a disk (`BLK_STS_MEDIUM`).
    pub(crate) const CUT_SHORT: Self = Self { fault: IoFault::Gone, errno: libc::ENODATA };

    /// Sorts an `errno` value.
    pub fn of_errno(errno: i32) -> Self {
        let fault = match errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => IoFault::NoSpace,
            libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM | libc::ESTALE | libc::ESHUTDOWN => IoFault::Gone,
            _ => IoFault::Io,
        };
        Self { fault, errno }
    }
}

/// Whoever moves bytes between memory and members.
///
/// An implementation may be sent to the thread that will use it before the first operation; from then on
/// it stays on that thread.
///
/// Operations in flight have no order among each other, on one member or on several: a caller that needs
/// one waits for the first before submitting the second. Each ends in exactly one [`IoDone`].
pub trait MemberIo: Send {
    /// Takes an operation. It may have ended when this returns (look with [`reap`](Self::reap)), or be
    /// queued until [`kick`](Self::kick).
    fn submit(&mut self, io: Io);

    /// Hands everything queued to the kernel, in one system call.
    fn kick(&mut self);

    /// Appends the operations that have ended to `done`, without blocking, and says how many they were.
    fn reap(&mut self, done: &mut Vec<IoDone>) -> usize;

    /// Operations submitted and not reaped.
    fn in_flight(&self) -> usize;

    /// Those of them that are known to have ended: of an operation that ended in `submit` it tells so at
    /// once, without reaping.
    fn ended(&self) -> usize;

    /// What becomes readable when an operation ends that had not ended in `submit`; the same descriptor
    /// every time, not to be read from. `None` if there is none, because operations end in `submit` or
    /// only [`wait`](Self::wait) makes them end. Before sleeping on it: `kick`, then
    /// [`reap`](Self::reap) until it yields nothing, which also quiets it. It may wake its sleeper for
    /// nothing now and then.
    fn wait_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Kicks, then sleeps until an operation can be reaped or `timeout` has passed (`None`: no limit).
    /// Says whether one can be reaped. It may wake early and say false, for example on a signal, and
    /// returns false at once if nothing is in flight.
    fn wait(&mut self, timeout: Option<Duration>) -> bool;
}
