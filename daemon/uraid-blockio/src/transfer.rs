//! One operation on its way: what is left to move, where, and what the kernel's answer means.
//!
//! Shared by both engines, so that short transfers, end of file, retries and bounce buffers are decided
//! in one place. A member that wants aligned requests gets them:
//!
//! ```text
//!   blocks    |--------|--------|--------|
//!   request        [===============)             offset, len: anything
//!   moved     [--------------------------)       base, span: multiples of the alignment
//! ```
//!
//! A read moves the wider range into a bounce buffer and copies the wanted part out. A write whose range
//! is not aligned must first read what it would overwrite ([`Transfer::needs_read_first`]); one whose
//! memory alone is not aligned is only copied.

use std::os::fd::BorrowedFd;

use crate::io::{Io, IoDone, IoError, IoOp};
use crate::sys::{self, AlignedBuf};
use crate::{IoBuf, racy};

/// The most bytes moved by one call; the kernel moves at most 2 GiB less a page.
const CALL_BYTES_MAX: usize = 1 << 30;
/// How often one call is repeated after EAGAIN before that counts as an error.
const RETRIES_MAX: u32 = 64;

/// What of a member a transfer must respect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the member.
    pub(crate) size: u64,
    /// What offsets, lengths and addresses must be multiples of; a power of two, 1 for anything.
    pub(crate) align: u32,
    pub(crate) read_only: bool,
    /// RWF_DSYNC is enough for a write to be durable; otherwise a flush follows.
    pub(crate) durable_writes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
    /// A write that ends when it is durable.
    WriteDurable,
    Flush,
}

/// Who keeps the caller's bytes alive.
#[derive(Debug)]
enum Payload {
    Buf(IoBuf),
    Bytes(Vec<u8>),
    None,
}

impl Payload {
    /// The first byte. Never written through if this is `Bytes`: those are only ever written out.
    fn as_ptr(&self) -> *mut u8 {
        match self {
            Self::Buf(buf) => buf.as_ptr(),
            Self::Bytes(bytes) => bytes.as_ptr().cast_mut(),
            Self::None => std::ptr::null_mut(),
        }
    }
}

/// An operation on its way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) token: u64,
    pub(crate) member: usize,
    pub(crate) kind: Kind,
    payload: Payload,
    /// The range asked for.
    offset: u64,
    len: usize,
    /// The range moved, and how much of it has been.
    base: u64,
    span: usize,
    moved: usize,
    bounce: Option<AlignedBuf>,
    retries: u32,
    /// A flush is to follow.
    flush_after: bool,
}

/// The next call to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) ptr: *mut u8,
    pub(crate) len: usize,
    pub(crate) offset: u64,
}

/// What to do after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Make the call that [`Transfer::call`] now says.
    Again,
    /// It has ended.
    Done(Result<(), IoError>),
}

impl Transfer {
    /// Checks an operation against its member and lays out how it will move.
    ///
    /// # Errors
    /// How the operation ends if there is nothing to do: it is empty, or it cannot be done.
    pub(crate) fn new(io: Io, limits: Limits) -> Result<Self, IoDone> {
        let Io { token, member, op, offset } = io;
        let ends = |result| IoDone { token, member, result };
        let (kind, len, payload) = match op {
            IoOp::Read(buf) => (Kind::Read, buf.len(), Payload::Buf(buf)),
            IoOp::Write(buf) => (Kind::Write, buf.len(), Payload::Buf(buf)),
            IoOp::WriteMeta(bytes) => (Kind::WriteDurable, bytes.len(), Payload::Bytes(bytes)),
            IoOp::Flush => (Kind::Flush, 0, Payload::None),
        };
        let mut transfer = Self {
            token,
            member,
            kind,
            payload,
            offset,
            len,
            base: offset,
            span: len,
            moved: 0,
            bounce: None,
            retries: 0,
            flush_after: kind == Kind::WriteDurable && !limits.durable_writes,
        };
        if kind == Kind::Flush {
            return Ok(transfer);
        }
        let within = offset.checked_add(len as u64).is_some_and(|end| end <= limits.size);
        if !within {
            return Err(ends(Err(IoError::of_errno(libc::EINVAL))));
        }
        if limits.read_only && kind != Kind::Read {
            return Err(ends(Err(IoError::of_errno(libc::EROFS))));
        }
        if len == 0 {
            return Err(ends(Ok(())));
        }
        transfer.align_to(limits.align).map_err(|errno| ends(Err(IoError::of_errno(errno))))?;
        Ok(transfer)
    }

    /// Widens the range and takes a bounce buffer, if `align` asks for it.
    fn align_to(&mut self, align: u32) -> Result<(), i32> {
        let mask = u64::from(align) - 1;
        let address = self.payload.as_ptr() as usize as u64;
        if (self.offset | self.len as u64 | address) & mask == 0 {
            return Ok(());
        }
        self.base = self.offset & !mask;
        // The member's size is a multiple of the alignment, so the widened range is within it too.
        let end = (self.offset + self.len as u64 + mask) & !mask;
        self.span = usize::try_from(end - self.base).map_err(|_| libc::ENOMEM)?;
        let bounce = AlignedBuf::new(self.span).ok_or(libc::ENOMEM)?;
        if self.kind != Kind::Read && !self.widened() {
            self.copy_into(&bounce);
        }
        self.bounce = Some(bounce);
        Ok(())
    }

    fn widened(&self) -> bool {
        self.span != self.len
    }

    /// Whether this is a write of parts of blocks: [`read_modify_write`](Self::read_modify_write) does it.
    pub(crate) fn needs_read_first(&self) -> bool {
        self.widened() && self.writes()
    }

    /// Whether it changes the member.
    pub(crate) fn writes(&self) -> bool {
        matches!(self.kind, Kind::Write | Kind::WriteDurable)
    }

    /// Whether it promises that something is durable.
    pub(crate) fn makes_durable(&self) -> bool {
        matches!(self.kind, Kind::WriteDurable | Kind::Flush)
    }

    /// Whether this is a write that touches a byte in the range that `other` moves.
    pub(crate) fn writes_into(&self, other: &Self) -> bool {
        let end = |t: &Self| t.base.saturating_add(t.span as u64);
        self.writes() && self.member == other.member && self.base < end(other) && other.base < end(self)
    }

    /// The caller's memory, if the transfer goes straight to it.
    pub(crate) fn direct_buf(&self) -> Option<&IoBuf> {
        match (&self.bounce, &self.payload) {
            (None, Payload::Buf(buf)) => Some(buf),
            _ => None,
        }
    }

    /// What is left to move, in one call. The memory is kept alive by this value, and stays in place when
    /// it is moved.
    pub(crate) fn call(&self) -> Call {
        let start = self.bounce.as_ref().map_or(self.payload.as_ptr(), AlignedBuf::as_ptr);
        Call {
            ptr: start.wrapping_add(self.moved),
            len: (self.span - self.moved).min(CALL_BYTES_MAX),
            offset: self.base + self.moved as u64,
        }
    }

    /// Takes the answer to a call: the bytes moved, or a negative `errno` as io_uring gives it.
    pub(crate) fn answer(&mut self, result: i32) -> Next {
        if result < 0 {
            return self.refused(-result);
        }
        if self.kind == Kind::Flush {
            return Next::Done(Ok(()));
        }
        let asked = self.call().len;
        self.moved += (result as usize).min(asked);
        if self.moved == self.span {
            if std::mem::take(&mut self.flush_after) {
                self.kind = Kind::Flush;
                return Next::Again;
            }
            self.copy_out();
            return Next::Done(Ok(()));
        }
        if result == 0 {
            // The end of the file; a write of something never moves nothing without saying why.
            let read = self.kind == Kind::Read;
            return Next::Done(Err(if read { IoError::CUT_SHORT } else { IoError::of_errno(libc::EIO) }));
        }
        Next::Again
    }

    fn refused(&mut self, errno: i32) -> Next {
        self.retries += 1;
        match errno {
            libc::EINTR => Next::Again,
            libc::EAGAIN if self.retries <= RETRIES_MAX => Next::Again,
            _ => Next::Done(Err(IoError::of_errno(errno))),
        }
    }

    pub(crate) fn ends(&self, result: Result<(), IoError>) -> IoDone {
        IoDone { token: self.token, member: self.member, result }
    }

    /// Makes all its calls in the caller.
    pub(crate) fn run_inline(&mut self, fd: BorrowedFd<'_>) -> Result<(), IoError> {
        if self.needs_read_first() {
            return self.read_modify_write(fd);
        }
        loop {
            let result = self.call_inline(fd);
            if let Next::Done(result) = self.answer(result) {
                return result;
            }
        }
    }

    fn call_inline(&self, fd: BorrowedFd<'_>) -> i32 {
        let Call { ptr, len, offset } = self.call();
        let result = match self.kind {
            // SAFETY: `call` gives memory that this value keeps alive and, being arena memory, a bounce
            // buffer or bytes that are only read, no reference forbids the access.
            Kind::Read => unsafe { sys::pread(fd, ptr, len, offset, 0) },
            // SAFETY: as above.
            Kind::Write => unsafe { sys::pwrite(fd, ptr, len, offset, 0) },
            // SAFETY: as above.
            Kind::WriteDurable => unsafe { sys::pwrite(fd, ptr, len, offset, libc::RWF_DSYNC) },
            Kind::Flush => sys::fdatasync(fd).map(|()| 0),
        };
        match result {
            // `len` is at most `CALL_BYTES_MAX`.
            Ok(moved) => moved as i32,
            Err(err) => -err.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// Reads the blocks that the write covers only in part, lays the caller's bytes over them, and writes
    /// all. Nothing else may write those blocks meanwhile: see [`writes_into`](Self::writes_into).
    pub(crate) fn read_modify_write(&mut self, fd: BorrowedFd<'_>) -> Result<(), IoError> {
        let kind = std::mem::replace(&mut self.kind, Kind::Read);
        let read = self.fill_bounce(fd);
        self.kind = kind;
        read?;
        self.moved = 0;
        if let Some(bounce) = self.bounce.take() {
            self.copy_into(&bounce);
            self.bounce = Some(bounce);
        }
        loop {
            let result = self.call_inline(fd);
            if let Next::Done(result) = self.answer(result) {
                return result;
            }
        }
    }

    fn fill_bounce(&mut self, fd: BorrowedFd<'_>) -> Result<(), IoError> {
        while self.moved < self.span {
            let result = self.call_inline(fd);
            match result {
                0 => return Err(IoError::CUT_SHORT),
                1.. => self.moved += result as usize,
                _ => match self.refused(-result) {
                    Next::Again => {}
                    Next::Done(result) => return result,
                },
            }
        }
        Ok(())
    }

    /// The caller's bytes into their place in the bounce buffer.
    fn copy_into(&self, bounce: &AlignedBuf) {
        let lead = (self.offset - self.base) as usize;
        debug_assert!(lead + self.len <= bounce.len());
        // SAFETY: the payload has `len` bytes, and the bounce buffer `span`, which covers the payload's
        // range; the two are different allocations.
        unsafe {
            racy::copy_from_shared(self.payload.as_ptr(), bounce.as_ptr().wrapping_add(lead), self.len)
        };
    }

    /// After a read through a bounce buffer: the wanted part into the caller's memory.
    fn copy_out(&self) {
        if self.kind != Kind::Read {
            return;
        }
        if let (Some(bounce), Payload::Buf(buf)) = (&self.bounce, &self.payload) {
            let lead = (self.offset - self.base) as usize;
            // SAFETY: as in `copy_into`; the payload is arena memory, which may be written.
            unsafe { racy::copy_to_shared(bounce.as_ptr().wrapping_add(lead), buf.as_ptr(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaOptions};

    const LIMITS: Limits = Limits { size: 1 << 20, align: 512, read_only: false, durable_writes: true };

    fn read(at: u64, len: usize, memory_at: usize) -> Transfer {
        let arena = Arena::new(1, ArenaOptions::default()).unwrap();
        let op = IoOp::Read(arena.view(memory_at, len).unwrap());
        Transfer::new(Io { token: 1, member: 0, op, offset: at }, LIMITS).unwrap()
    }

    #[test]
    fn a_short_transfer_goes_on_where_it_stopped() {
        let mut transfer = read(4096, 4096, 0);
        let first = transfer.call();
        assert_eq!((first.offset, first.len), (4096, 4096));
        assert_eq!(transfer.answer(1024), Next::Again);
        let second = transfer.call();
        assert_eq!((second.offset, second.len), (5120, 3072));
        assert_eq!(second.ptr as usize - first.ptr as usize, 1024);
        assert_eq!(transfer.answer(3072), Next::Done(Ok(())));
    }

    #[test]
    fn a_durable_write_is_flushed_where_the_flag_alone_is_not_enough() {
        let write = |durable_writes| {
            let io = Io { token: 1, member: 0, op: IoOp::WriteMeta(vec![7; 1000]), offset: 512 };
            Transfer::new(io, Limits { durable_writes, ..LIMITS }).unwrap()
        };
        assert_eq!(write(true).answer(1024), Next::Done(Ok(())));
        let mut transfer = write(false);
        assert_eq!(transfer.answer(512), Next::Again);
        assert_eq!((transfer.kind, transfer.answer(512)), (Kind::WriteDurable, Next::Again));
        assert!(transfer.kind == Kind::Flush && transfer.makes_durable() && !transfer.needs_read_first());
        assert_eq!(transfer.answer(-libc::EINTR), Next::Again);
        assert_eq!(transfer.answer(0), Next::Done(Ok(())));
        let mut failed = write(false);
        assert_eq!(failed.answer(1024), Next::Again);
        assert_eq!(failed.answer(-libc::EIO), Next::Done(Err(IoError::of_errno(libc::EIO))));
    }

    #[test]
    fn the_end_of_the_file_is_an_error() {
        let mut transfer = read(0, 4096, 0);
        assert_eq!(transfer.answer(512), Next::Again);
        assert_eq!(transfer.answer(0), Next::Done(Err(IoError::CUT_SHORT)));
    }

    #[test]
    fn an_interruption_is_repeated_and_a_shortage_not_for_ever() {
        let mut transfer = read(0, 4096, 0);
        for _ in 0..RETRIES_MAX {
            assert_eq!(transfer.answer(-libc::EINTR), Next::Again);
        }
        let mut transfer = read(0, 4096, 0);
        for _ in 0..RETRIES_MAX {
            assert_eq!(transfer.answer(-libc::EAGAIN), Next::Again);
        }
        assert_eq!(transfer.answer(-libc::EAGAIN), Next::Done(Err(IoError::of_errno(libc::EAGAIN))));
    }

    #[test]
    fn what_is_not_aligned_is_widened_to_what_is() {
        for (at, len, memory_at, base, span) in [
            (512, 512, 0, 512, 512),
            (512, 512, 8, 512, 512),
            (513, 1, 0, 512, 512),
            (511, 2, 0, 0, 1024),
            ((1 << 20) - 1, 1, 0, (1 << 20) - 512, 512),
        ] {
            let call = read(at, len, memory_at).call();
            assert_eq!((call.offset, call.len), (base, span), "{len} at {at}");
            assert_eq!(call.ptr as usize % 512, 0);
        }
    }

    #[test]
    fn a_write_in_flight_is_seen_by_whoever_must_read_its_blocks_first() {
        let write = |member, offset, len| {
            let io = Io { token: 1, member, op: IoOp::WriteMeta(vec![0; len]), offset };
            Transfer::new(io, LIMITS).unwrap()
        };
        // Moves bytes 512 to 1536.
        let partial = write(0, 1000, 100);
        assert!(partial.needs_read_first());
        assert!(write(0, 0, 513).writes_into(&partial));
        assert!(write(0, 1500, 1).writes_into(&partial));
        assert!(!write(0, 0, 512).writes_into(&partial));
        assert!(!write(0, 1536, 512).writes_into(&partial));
        assert!(!write(1, 1024, 512).writes_into(&partial));
        assert!(!read(1024, 512, 0).writes_into(&partial));
    }
}
