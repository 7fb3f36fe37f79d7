//! The ring: io_uring with what makes it cheap for one thread, and nothing about members.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1) let completions be posted only when this thread asks, which
//! is worth a factor of 1.3 to 2.3 at depth 32; on an older kernel a plain ring does. The ring is made
//! disabled and enabled by the first submission, so that the thread which submits, and not the one which
//! made it, becomes its only user.
//!
//! What it promises: keys come back exactly once, with the kernel's answer. What it leaves to its caller:
//! keeping the memory behind a pushed entry alive until its key has come back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{Arena, IoBuf};

/// Entries of the submission queue: what one `kick` can hand over at most.
const SQ_ENTRIES: u32 = 256;
/// Entries of the completion queue; should it overflow, the kernel keeps the rest.
const CQ_ENTRIES: u32 = 4096;
/// Slots for registered files; members beyond use plain descriptors.
const FILE_SLOTS: u32 = 256;
/// Slots for registered memory.
const BUFFER_SLOTS: u32 = 64;
/// The most that one slot of registered memory can hold (`io_sqe_buffer_register`).
const BUFFER_BYTES_MAX: usize = 1 << 30;
/// How often a `reap` that finds nothing reads the event descriptor.
const QUIET_EVERY: u32 = 64;
/// `IORING_ENTER_GETEVENTS` (linux/io_uring.h).
const ENTER_GETEVENTS: u32 = 1;

pub(crate) struct Ring {
    uring: IoUring,
    /// Written by the kernel when there is something to reap. The ring's own descriptor will not do: with
    /// DEFER_TASKRUN it wakes nobody until the answers are posted, which waits for this thread to ask.
    event: EventFd,
    /// Calls of `reap` in a row that found nothing.
    empty_reaps: u32,
    enabled: bool,
    /// Keys in the submission queue, in order; the kernel takes them from the front.
    queued: VecDeque<u32>,
    /// Entries that the kernel has taken and not answered.
    in_kernel: usize,
    files: Option<Vec<bool>>,
    buffers: Option<Vec<Registered>>,
}

/// A registered piece of an arena, held so that it stays mapped.
struct Registered {
    arena: Arc<Arena>,
    offset: usize,
    len: usize,
}

impl Ring {
    pub(crate) fn new() -> io::Result<Self> {
        let uring = IoUring::builder()
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(CQ_ENTRIES)
            .build(SQ_ENTRIES)
            .or_else(|err| match err.raw_os_error() {
                Some(libc::EINVAL) => IoUring::builder()
                    .dontfork()
                    .setup_r_disabled()
                    .setup_cqsize(CQ_ENTRIES)
                    .build(SQ_ENTRIES),
                _ => Err(err),
            })?;
        // Without EXT_ARG (5.11) a wait cannot end by time; without NODROP (5.5) answers could be lost.
        if !uring.params().is_feature_ext_arg() || !uring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        uring.submitter().register_eventfd(event.as_fd().as_raw_fd())?;
        let files = uring.submitter().register_files_sparse(FILE_SLOTS).ok();
        let buffers = uring.submitter().register_buffers_sparse(BUFFER_SLOTS).ok();
        Ok(Self {
            files: files.map(|()| vec![false; FILE_SLOTS as usize]),
            buffers: buffers.map(|()| Vec::new()),
            uring,
            event,
            empty_reaps: 0,
            enabled: false,
            queued: VecDeque::new(),
            in_kernel: 0,
        })
    }

    /// Becomes readable when there is something to reap, and stays so until [`reap`](Self::reap) has found
    /// nothing.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Registers a file; `None` if there is no slot for it.
    pub(crate) fn add_file(&mut self, fd: RawFd) -> Option<u32> {
        let slots = self.files.as_mut()?;
        let slot = slots.iter().position(|used| !used)?;
        let number = u32::try_from(slot).ok()?;
        self.uring.submitter().register_files_update(number, &[fd]).ok()?;
        *slots.get_mut(slot)? = true;
        Some(number)
    }

    pub(crate) fn remove_file(&mut self, slot: u32) {
        // If the kernel refuses, the slot stays taken, and the file open until the ring goes.
        if self.uring.submitter().register_files_update(slot, &[-1]).is_ok()
            && let Some(used) = self.files.as_mut().and_then(|files| files.get_mut(slot as usize))
        {
            *used = false;
        }
    }

    /// Registers an arena, which pins its pages.
    pub(crate) fn add_arena(&mut self, arena: &Arc<Arena>) -> io::Result<()> {
        let Some(buffers) = self.buffers.as_mut() else { return Err(io::ErrorKind::Unsupported.into()) };
        if buffers.iter().any(|piece| Arc::ptr_eq(&piece.arena, arena)) {
            return Ok(());
        }
        let pieces: Vec<Registered> = (0..arena.len())
            .step_by(BUFFER_BYTES_MAX)
            .map(|offset| {
                let len = (arena.len() - offset).min(BUFFER_BYTES_MAX);
                Registered { arena: Arc::clone(arena), offset, len }
            })
            .collect();
        let iovecs: Vec<libc::iovec> = pieces
            .iter()
            .map(|piece| libc::iovec {
                iov_base: arena.as_ptr().wrapping_add(piece.offset).cast(),
                iov_len: piece.len,
            })
            .collect();
        if buffers.len() + pieces.len() > BUFFER_SLOTS as usize {
            return Err(io::Error::other("every slot for registered memory is taken"));
        }
        let first = u32::try_from(buffers.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the pieces name mapped memory of an arena that `buffers` keeps as long as the ring lives;
        // fields drop in order, the ring first.
        unsafe { self.uring.submitter().register_buffers_update(first, &iovecs, None) }?;
        buffers.extend(pieces);
        Ok(())
    }

    /// The slot of registered memory that `buf` lies in wholly.
    pub(crate) fn slot_of(&self, buf: &IoBuf) -> Option<u16> {
        let holds = |piece: &Registered| {
            Arc::ptr_eq(&piece.arena, buf.arena())
                && buf.offset() >= piece.offset
                && buf.offset() + buf.len() <= piece.offset + piece.len
        };
        u16::try_from(self.buffers.as_ref()?.iter().position(holds)?).ok()
    }

    /// Puts an entry into the submission queue, handing over what is in it if it is full. False if the
    /// kernel takes nothing at the moment.
    ///
    /// # Errors
    /// As [`kick`](Self::kick).
    ///
    /// # Safety
    /// What the entry points to stays valid until its key has been reaped or [`retire`](Self::retire) has
    /// given it back.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry, key: u32) -> io::Result<bool> {
        let entry = entry.user_data(u64::from(key));
        if self.uring.submission().is_full() {
            self.kick()?;
        }
        // SAFETY: the caller's promise.
        let pushed = unsafe { self.uring.submission().push(&entry) }.is_ok();
        if pushed {
            self.queued.push_back(key);
        }
        Ok(pushed)
    }

    /// Hands the submission queue over.
    ///
    /// # Errors
    /// Only what will not pass by itself: the ring is of no more use for submitting.
    pub(crate) fn kick(&mut self) -> io::Result<()> {
        if self.queued.is_empty() {
            return Ok(());
        }
        self.enter(|ring| ring.submitter().submit())
    }

    /// Hands the submission queue over and sleeps until there is an answer or the time has passed.
    ///
    /// # Errors
    /// As [`kick`](Self::kick).
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match timeout {
            None => self.enter(|ring| ring.submitter().submit_and_wait(1)),
            Some(timeout) => {
                let time = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&time);
                self.enter(|ring| ring.submitter().submit_with_args(1, &args))
            }
        }
    }

    /// Calls the kernel, and accounts for what it took whatever it says.
    fn enter(&mut self, call: impl FnOnce(&IoUring) -> io::Result<usize>) -> io::Result<()> {
        if !self.enabled {
            self.uring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        let result = call(&self.uring);
        let left = self.uring.submission().len();
        while self.queued.len() > left {
            self.queued.pop_front();
            self.in_kernel += 1;
        }
        match result {
            Ok(_) => Ok(()),
            Err(err) => match err.raw_os_error() {
                // Interrupted, out of time, out of memory for now, or too many answers unread: all of
                // them pass when the caller comes again.
                Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY) => Ok(()),
                _ => Err(err),
            },
        }
    }

    /// Gives every answer that is there to `each`, with its key.
    pub(crate) fn reap(&mut self, mut each: impl FnMut(u32, i32)) {
        if self.take(&mut each) > 0 {
            self.empty_reaps = 0;
            return;
        }
        // Quieting costs a call, so it waits until there is nothing left, when the caller may be about to
        // sleep; it is repeated now and then because the kernel may signal after its answer was taken.
        if self.empty_reaps.is_multiple_of(QUIET_EVERY) {
            // Nothing to read is as good as reading it.
            let _ = self.event.read();
            // What came before the quieting will not be signalled again.
            self.take(&mut each);
        }
        self.empty_reaps = self.empty_reaps.wrapping_add(1);
    }

    fn take(&mut self, each: &mut impl FnMut(u32, i32)) -> usize {
        self.run_deferred();
        let mut answers = 0;
        for entry in self.uring.completion() {
            let entry: cqueue::Entry = entry;
            answers += 1;
            // Keys are 32 bits wide; see `push`.
            each(entry.user_data() as u32, entry.result());
        }
        self.in_kernel -= answers.min(self.in_kernel);
        answers
    }

    /// Has the kernel post what it has put off, if there is any; costs no call otherwise.
    fn run_deferred(&mut self) {
        let queue = self.uring.submission();
        if queue.taskrun() || queue.cq_overflow() {
            drop(queue);
            // A refusal leaves the answers where they are, for the next time.
            let _ = self.get_events(0);
        }
    }

    /// Enters the kernel to collect answers, submitting nothing.
    fn get_events(&self, want: u32) -> io::Result<usize> {
        // SAFETY: no argument structure is passed, and nothing is submitted.
        unsafe { self.uring.submitter().enter::<libc::sigset_t>(0, want, ENTER_GETEVENTS, None) }
    }

    /// After a kick has failed for good: the keys that the kernel never took. From now on the ring may
    /// only be reaped and [drained](Self::drain).
    pub(crate) fn retire(&mut self) -> VecDeque<u32> {
        std::mem::take(&mut self.queued)
    }

    /// Sleeps until the kernel has answered something, submitting nothing. False if it cannot.
    pub(crate) fn drain(&mut self) -> bool {
        self.in_kernel == 0
            || match self.get_events(1) {
                Ok(_) => true,
                Err(err) => matches!(err.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)),
            }
    }
}
