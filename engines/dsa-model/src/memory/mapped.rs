//! Vectors at invented addresses.

use std::sync::{Arc, Mutex, PoisonError};

use engine_dsa::wire::RECORD_BYTES;

use super::{MemFault, Memory, PageState, Pages, by_page};

/// An address space of vectors. Clones share it. All of it is safe code, so any descriptor may be thrown at
/// it.
#[derive(Clone, Default, Debug)]
pub struct Mapped(Arc<Mutex<Inner>>);

#[derive(Default, Debug)]
struct Inner {
    /// Base address and bytes, in the order they were mapped; the first that has an address answers.
    ranges: Vec<(u64, Vec<u8>)>,
    pages: Pages,
}

impl Inner {
    fn slot(&mut self, addr: u64, len: usize) -> Option<&mut [u8]> {
        self.ranges.iter_mut().find_map(|(base, bytes)| {
            let offset = usize::try_from(addr.checked_sub(*base)?).ok()?;
            bytes.get_mut(offset..offset.checked_add(len)?)
        })
    }

    fn access(
        &mut self,
        addr: u64,
        len: usize,
        write: bool,
        mut each: impl FnMut(&mut [u8], usize),
    ) -> Result<(), MemFault> {
        by_page(addr, len, write, |at, offset, n| {
            if !self.pages.admits(at, write) {
                return false;
            }
            self.slot(at, n).map(|slot| each(slot, offset)).is_some()
        })
    }
}

impl Mapped {
    /// An address space with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `bytes` at `base`. A range should begin and end at page boundaries: an access whose page is
    /// only partly mapped faults at the page's first byte that was asked for.
    pub fn map(&self, base: u64, bytes: Vec<u8>) {
        self.with(|inner| inner.ranges.push((base, bytes)));
    }

    /// Sets the state of the page at `addr`.
    pub fn set_page(&self, addr: u64, state: PageState) {
        self.with(|inner| inner.pages.set(addr, state));
    }

    /// Brings the page at `addr` in as an access of the CPU would; whether it can be accessed now.
    pub fn touch(&self, addr: u64, write: bool) -> bool {
        self.with(|inner| inner.pages.touch(addr, write))
    }

    /// The bytes at `addr`, whatever their pages' state; `None` if they are not mapped.
    pub fn bytes(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let mut out = vec![0; len];
        let copied = self.with(|inner| {
            by_page(addr, len, false, |at, offset, n| {
                match (inner.slot(at, n), out.get_mut(offset..offset + n)) {
                    (Some(from), Some(to)) => {
                        to.copy_from_slice(from);
                        true
                    }
                    _ => false,
                }
            })
        });
        copied.ok().map(|()| out)
    }

    /// Sets the bytes at `addr`, whatever their pages' state; false if they are not all mapped.
    pub fn set_bytes(&self, addr: u64, from: &[u8]) -> bool {
        self.with(|inner| {
            by_page(addr, from.len(), true, |at, offset, n| {
                match (inner.slot(at, n), from.get(offset..offset + n)) {
                    (Some(to), Some(from)) => {
                        to.copy_from_slice(from);
                        true
                    }
                    _ => false,
                }
            })
            .is_ok()
        })
    }
}

impl Memory for Mapped {
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), MemFault> {
        let len = into.len();
        self.with(|inner| {
            inner.access(addr, len, false, |slot, offset| {
                if let Some(part) = into.get_mut(offset..offset + slot.len()) {
                    part.copy_from_slice(slot);
                }
            })
        })
    }

    fn write(&self, addr: u64, from: &[u8]) -> Result<(), MemFault> {
        self.with(|inner| {
            inner.access(addr, from.len(), true, |slot, offset| {
                if let Some(part) = from.get(offset..offset + slot.len()) {
                    slot.copy_from_slice(part);
                }
            })
        })
    }

    fn publish(&self, addr: u64, record: &[u8; RECORD_BYTES]) -> Result<(), MemFault> {
        // One lock covers the whole record, so nobody sees a status without its body.
        self.write(addr, record)
    }

    fn page_in(&self, addr: u64, write: bool) -> bool {
        self.with(|inner| inner.slot(addr, 1).is_some() && inner.pages.touch(addr, write))
    }
}
