//! The memory that a queue and its device share: completion records, descriptor lists, and the bytes of a
//! probe.
//!
//! One record has a line of 64 bytes of its own, so that the device's writes to one do not disturb who polls
//! another. The pool is mapped, populated and, where the limits allow, locked at once: a record whose page
//! is missing may be lost for good. It is kept out of children (`MADV_DONTFORK`), whose making would turn
//! its pages into copies on write.
//!
//! What it promises: every access is inside the mapping, whatever index it is asked for. What it leaves to
//! the [queue](crate::queue): no line is used again, and the pool is not dropped, while the device may still
//! write to it.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap_anonymous, munmap};

use crate::record::RecordView;
use crate::wire::{DESCRIPTOR_BYTES, Descriptor, status};

/// Bytes of a record's line; the record is in the first 32.
pub const LINE: usize = 64;
/// Bytes of each of the two buffers of a probe.
pub const PROBE_BYTES: usize = 512;
/// The grain of the mapping.
const PAGE: usize = 4096;

/// How many of what a pool has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolSize {
    /// Records of operations.
    pub slots: usize,
    /// Batches, each with a record and a list.
    pub batches: usize,
    /// Descriptors in a list.
    pub list: usize,
}

/// Which record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// That of an operation, below [`PoolSize::slots`].
    Slot(u16),
    /// That of a batch, below [`PoolSize::batches`].
    Batch(u16),
    /// That of the probe.
    Probe,
}

/// A mapping with records, lists and probe buffers.
#[derive(Debug)]
pub struct Pool {
    base: NonNull<u8>,
    len: usize,
    size: PoolSize,
    locked: bool,
}

// SAFETY: the mapping belongs to the pool and is valid on every thread; `&Pool` gives atomic and volatile
// accesses, of which those that write take the exclusive reference.
unsafe impl Send for Pool {}

impl Pool {
    /// Maps a pool of this size, at least one of each. Errors: that of mmap(2); a lock that is refused is
    /// only noted ([`Pool::is_locked`]).
    pub fn new(size: PoolSize) -> Result<Pool, Errno> {
        let size =
            PoolSize { slots: size.slots.max(1), batches: size.batches.max(1), list: size.list.max(1) };
        let lines = size.slots.saturating_add(size.batches).saturating_add(1);
        let lists = size.batches.saturating_mul(size.list).saturating_mul(DESCRIPTOR_BYTES);
        let bytes = lines.saturating_mul(LINE).saturating_add(2 * PROBE_BYTES).saturating_add(lists);
        let len = bytes.checked_next_multiple_of(PAGE).and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_POPULATE;
        // SAFETY: a new anonymous mapping, wherever the system puts it.
        let base = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        // SAFETY: the mapping just made; locking and keeping it from children change none of its bytes.
        let locked = unsafe {
            if madvise(base, len.get(), MmapAdvise::MADV_DONTFORK).is_err() {
                tracing::debug!("the completion records could not be kept out of children");
            }
            mlock(base, len.get()).is_ok()
        };
        Ok(Pool { base: base.cast(), len: len.get(), size, locked })
    }

    /// How many of what there is.
    pub fn size(&self) -> PoolSize {
        self.size
    }

    /// Whether its pages are locked.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Where the mapping is, and its bytes: for devices that must be told.
    pub fn span(&self) -> (*mut u8, usize) {
        (self.base.as_ptr(), self.len)
    }

    /// The offset of a line; one that does not exist is the last one of its kind.
    fn line_offset(&self, line: Line) -> usize {
        let index = match line {
            Line::Slot(slot) => usize::from(slot).min(self.size.slots - 1),
            Line::Batch(batch) => self.size.slots + usize::from(batch).min(self.size.batches - 1),
            Line::Probe => self.size.slots + self.size.batches,
        };
        index * LINE
    }

    fn probe_offset(&self, buffer: usize) -> usize {
        self.line_offset(Line::Probe) + LINE + buffer.min(1) * PROBE_BYTES
    }

    fn list_offset(&self, batch: u16, member: usize) -> usize {
        let lists = self.line_offset(Line::Probe) + LINE + 2 * PROBE_BYTES;
        let batch = usize::from(batch).min(self.size.batches - 1);
        lists + (batch * self.size.list + member.min(self.size.list - 1)) * DESCRIPTOR_BYTES
    }

    fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: the offsets above are those of parts that `new` made room for.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    /// The address of a record, aligned to 64.
    pub fn address(&self, line: Line) -> u64 {
        self.at(self.line_offset(line)).expose_provenance() as u64
    }

    /// Clears the status of a record, before its descriptor is submitted.
    pub fn arm(&mut self, line: Line) {
        self.status(line).store(status::NONE, Ordering::Release);
    }

    /// The status byte of a record, to wait for.
    pub fn status(&self, line: Line) -> &AtomicU8 {
        // SAFETY: inside the mapping, which lives as long as the pool that is borrowed; the byte is only
        // ever accessed atomically.
        unsafe { AtomicU8::from_ptr(self.at(self.line_offset(line))) }
    }

    /// What a record says by now.
    pub fn load(&self, line: Line) -> RecordView {
        // SAFETY: 64 bytes inside the mapping, aligned to 64; this process writes only through `&mut self`,
        // and the queue arms a line only when the device has written it or was never told of it.
        unsafe { RecordView::load(self.at(self.line_offset(line))) }
    }

    /// The address of a batch's list, aligned to 64.
    pub fn list_address(&self, batch: u16) -> u64 {
        self.at(self.list_offset(batch, 0)).expose_provenance() as u64
    }

    /// Writes a descriptor into a list.
    pub fn write_list(&mut self, batch: u16, member: usize, descriptor: &Descriptor) {
        // SAFETY: 64 bytes inside the mapping, aligned to 64; the device reads no list that was not
        // submitted. Volatile, because the reader is not of this program.
        unsafe { self.at(self.list_offset(batch, member)).cast::<Descriptor>().write_volatile(*descriptor) };
    }

    /// The address of one of the two buffers of a probe.
    pub fn probe_address(&self, buffer: usize) -> u64 {
        self.at(self.probe_offset(buffer)).expose_provenance() as u64
    }

    /// Fills a buffer of the probe.
    pub fn write_probe(&mut self, buffer: usize, bytes: &[u8; PROBE_BYTES]) {
        // SAFETY: the buffer's bytes inside the mapping; any alignment will do for bytes.
        unsafe { self.at(self.probe_offset(buffer)).cast::<[u8; PROBE_BYTES]>().write_volatile(*bytes) };
    }

    /// What a buffer of the probe holds.
    pub fn read_probe(&self, buffer: usize) -> [u8; PROBE_BYTES] {
        // SAFETY: the buffer's bytes inside the mapping; any alignment will do for bytes.
        unsafe { self.at(self.probe_offset(buffer)).cast::<[u8; PROBE_BYTES]>().read_volatile() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the mapping is the pool's own, and nobody has a reference into it; the queue has seen the
        // device's end before it drops the pool.
        let unmapped = unsafe { munmap(self.base.cast(), self.len) };
        if let Err(error) = unmapped {
            tracing::error!("the completion records could not be unmapped: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;

    #[test]
    fn lines_lists_and_probes_are_apart_and_aligned() {
        let pool = Pool::new(PoolSize { slots: 5, batches: 3, list: 7 }).unwrap();
        let (start, len) = pool.span();
        let end = start.expose_provenance() as u64 + len as u64;
        let mut spans = Vec::new();
        spans.extend((0..5).map(|i| (pool.address(Line::Slot(i)), LINE as u64)));
        spans.extend((0..3).map(|i| (pool.address(Line::Batch(i)), LINE as u64)));
        spans.push((pool.address(Line::Probe), LINE as u64));
        spans.extend((0..3).map(|i| (pool.list_address(i), 7 * 64)));
        assert!(spans.iter().all(|(at, _)| at.is_multiple_of(64)));
        spans.extend((0..2).map(|i| (pool.probe_address(i), PROBE_BYTES as u64)));
        spans.sort_unstable();
        assert!(spans.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{spans:x?}");
        assert!(spans.first().unwrap().0 >= start as u64);
        assert!(spans.last().map(|(at, len)| at + len).unwrap() <= end);
    }

    #[test]
    fn an_index_that_does_not_exist_stays_inside() {
        let mut pool = Pool::new(PoolSize { slots: 0, batches: 0, list: 0 }).unwrap();
        assert_eq!(pool.size(), PoolSize { slots: 1, batches: 1, list: 1 });
        assert_eq!(pool.address(Line::Slot(9)), pool.address(Line::Slot(0)));
        assert_eq!(pool.address(Line::Batch(u16::MAX)), pool.address(Line::Batch(0)));
        pool.write_list(7, 99, &Descriptor::default());
        assert_eq!(pool.list_address(7), pool.list_address(0));
    }

    #[test]
    fn a_record_is_pending_until_it_was_written() {
        let mut pool = Pool::new(PoolSize { slots: 2, batches: 1, list: 2 }).unwrap();
        assert_eq!(pool.load(Line::Slot(1)).outcome(), Outcome::Pending);
        let record = pool.at(pool.line_offset(Line::Slot(1)));
        // SAFETY: a line of this pool, which nobody else accesses.
        unsafe {
            record.add(4).write_volatile(9);
            record.write_volatile(1);
        }
        assert_eq!(pool.load(Line::Slot(1)).outcome(), Outcome::Success);
        assert_eq!(pool.load(Line::Slot(1)).bytes()[4], 9);
        assert_eq!(pool.load(Line::Slot(0)).outcome(), Outcome::Pending);
        pool.arm(Line::Slot(1));
        assert_eq!(pool.load(Line::Slot(1)).outcome(), Outcome::Pending);
    }

    #[test]
    fn a_pool_too_large_is_refused() {
        assert!(Pool::new(PoolSize { slots: usize::MAX, batches: 1, list: 1 }).is_err());
    }
}
