//! Registered ranges of this process, accessed as hardware would: by raw address, behind the compiler's
//! back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine_dsa::wire::RECORD_BYTES;

use super::{MemFault, Memory, PageState, Pages, by_page};

/// A registered range.
#[derive(Clone, Copy, Debug)]
struct Range {
    start: *mut u8,
    len: usize,
}

// SAFETY: `register` promises that the range may be accessed from any thread until it is unregistered.
unsafe impl Send for Range {}

#[derive(Default, Debug)]
struct Inner {
    /// By start address. Ranges may overlap in time of registration, not in space.
    ranges: BTreeMap<u64, Range>,
    pages: Pages,
}

impl Inner {
    /// Where the byte at `addr` is, and how many follow it in the same range.
    fn find(&self, addr: u64) -> Option<(*mut u8, usize)> {
        let (start, range) = self.ranges.range(..=addr).next_back()?;
        let offset = usize::try_from(addr - start).ok()?;
        let left = range.len.checked_sub(offset).filter(|left| *left > 0)?;
        Some((range.start.wrapping_add(offset), left))
    }

    /// Calls `each(pointer, offset, length)` for the pieces of an access, up to the first byte that is not
    /// registered or whose page does not admit it.
    fn access(
        &mut self,
        addr: u64,
        len: usize,
        write: bool,
        mut each: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), MemFault> {
        let mut stopped = None;
        let walked = by_page(addr, len, write, |at, offset, n| {
            if !self.pages.admits(at, write) {
                return false;
            }
            let mut done = 0;
            while done < n {
                let Some((pointer, left)) = self.find(at + done as u64) else {
                    stopped = Some(offset + done);
                    return false;
                };
                let part = left.min(n - done);
                each(pointer, offset + done, part);
                done += part;
            }
            true
        });
        match (walked, stopped) {
            (Err(_), Some(completed)) => {
                Err(MemFault { completed, addr: addr.saturating_add(completed as u64), write })
            }
            (walked, _) => walked,
        }
    }
}

/// Registered ranges of this process. Clones share them. Whatever is not registered faults, so a descriptor
/// that names freed memory shows as a fault if its owner has unregistered it.
#[derive(Clone, Default, Debug)]
pub struct Ranges(Arc<Mutex<Inner>>);

impl Ranges {
    /// An address space with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets the device access `len` bytes at `start`, under their own address.
    ///
    /// # Safety
    /// Until [`unregister`](Self::unregister) returned, the range is valid for reads and writes from any
    /// thread, through this very pointer. While a descriptor that names bytes of it is outstanding, nobody
    /// else writes those bytes, nor reads those that it writes; a completion record's bytes may be read, its
    /// status byte atomically and the others after it was seen. The range overlaps no other registered one.
    pub unsafe fn register(&self, start: *mut u8, len: usize) {
        self.with(|inner| inner.ranges.insert(start.expose_provenance() as u64, Range { start, len }));
    }

    /// Takes the range at `start` back. When this returns, the device is in no access to it and will be in
    /// none.
    pub fn unregister(&self, start: *mut u8) {
        self.with(|inner| inner.ranges.remove(&(start.addr() as u64)));
    }

    /// Sets the state of the page at `addr`.
    pub fn set_page(&self, addr: u64, state: PageState) {
        self.with(|inner| inner.pages.set(addr, state));
    }

    /// Brings the page at `addr` in as an access of the CPU would; whether it can be accessed now.
    pub fn touch(&self, addr: u64, write: bool) -> bool {
        self.with(|inner| inner.pages.touch(addr, write))
    }
}

impl Memory for Ranges {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), MemFault> {
        let len = into.len();
        self.with(|inner| {
            inner.access(addr, len, false, |pointer, offset, n| {
                if let Some(part) = into.get_mut(offset..offset + n) {
                    // SAFETY: `find` gave `n` bytes inside a registered range, valid and unwritten by others
                    // by the promise of `register`; `part` is ours alone and has `n` bytes.
                    unsafe { pointer.copy_to_nonoverlapping(part.as_mut_ptr(), n) };
                }
            })
        })
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), MemFault> {
        self.with(|inner| {
            inner.access(addr, from.len(), true, |pointer, offset, n| {
                if let Some(part) = from.get(offset..offset + n) {
                    // SAFETY: as in `read`; by the promise of `register` nobody accesses these bytes now.
                    unsafe { pointer.copy_from_nonoverlapping(part.as_ptr(), n) };
                }
            })
        })
    }

    fn publish(&self, addr: u64, record: &[u8; RECORD_BYTES]) -> Result<(), MemFault> {
        // Bytes are stored one by one and atomically: a duplicated record may be written while its owner
        // still reads the first one, which must not be a data race.
        let store = |pointer: *mut u8, byte: u8, order: Ordering| {
            // SAFETY: `access` gave a pointer into a registered range; `AtomicU8` has no alignment to keep.
            unsafe { AtomicU8::from_ptr(pointer) }.store(byte, order);
        };
        self.with(|inner| {
            let mut status = None;
            inner.access(addr, RECORD_BYTES, true, |pointer, offset, n| {
                for i in 0..n {
                    let byte = record.get(offset + i).copied().unwrap_or(0);
                    match offset + i {
                        0 => status = Some(pointer),
                        _ => store(pointer.wrapping_add(i), byte, Ordering::Relaxed),
                    }
                }
            })?;
            if let (Some(pointer), Some(byte)) = (status, record.first()) {
                store(pointer, *byte, Ordering::Release);
            }
            Ok(())
        })
    }

    fn page_in(&self, addr: u64, write: bool) -> bool {
        self.with(|inner| inner.find(addr).is_some() && inner.pages.touch(addr, write))
    }
}
