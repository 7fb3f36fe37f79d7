//! The memory a device sees: address spaces that can fault.
//!
//! A device reads and writes through [`Memory`] only. Three address spaces are here: [`Ranges`] (registered
//! ranges of this process, each page present, absent or read-only), [`Mapped`] (vectors at invented
//! addresses, for vectors and fuzzing) and [`Process`] (another process, through the kernel). An access
//! never panics and never reads past what was registered: it ends in a [`MemFault`] that says how far it
//! came. Whether a fault becomes a status code is left to `execute`.

mod mapped;
mod process;
mod ranges;

pub use mapped::Mapped;
pub use process::{Process, ProcessError};
pub use ranges::Ranges;

use engine_dsa::wire::RECORD_BYTES;

/// Bytes of a page, the grain of presence.
pub const PAGE: u64 = 4096;

/// An access that ended early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemFault {
    /// Bytes done before the fault, less than the length asked for. They are in place.
    pub completed: usize,
    /// The first byte that could not be accessed.
    pub addr: u64,
    /// Whether it was a write.
    pub write: bool,
}

/// Whether a page can be accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageState {
    /// Can be read and written.
    Present,
    /// Faults until it is touched.
    Absent,
    /// Faults this many times, then is present; for drivers whose touch the model cannot see.
    AbsentTimes(u32),
    /// Faults for good: no touch brings it in.
    Missing,
    /// A write faults until it is touched for writing, as a page shared after fork(2) does.
    ReadOnly,
}

/// An address space.
///
/// A handle, shared between the device and whoever prepares the memory; accesses are as atomic as those of
/// a device, which is to say only [`publish`](Self::publish) orders anything.
pub trait Memory: Send + Sync {
    /// Reads `into.len()` bytes at `addr`.
    fn read(&self, addr: u64, into: &mut [u8]) -> Result<(), MemFault>;

    /// Writes `from` at `addr`.
    fn write(&self, addr: u64, from: &[u8]) -> Result<(), MemFault>;

    /// Writes a completion record: bytes 1 to 31, then the status byte, such that whoever reads the status
    /// with acquire order also sees the rest and all that was written before.
    fn publish(&self, addr: u64, record: &[u8; RECORD_BYTES]) -> Result<(), MemFault>;

    /// Asks the system for the page at `addr` (block on fault); whether it is there now.
    fn page_in(&self, _addr: u64, _write: bool) -> bool {
        false
    }

    /// Whether the owner of this memory has died. All accesses fault from then on.
    fn is_gone(&self) -> bool {
        false
    }
}

/// States of pages that are not simply present, by page number.
#[derive(Default, Debug)]
pub(crate) struct Pages(std::collections::HashMap<u64, PageState>);

impl Pages {
    /// Sets the state of the page at `addr`.
    pub(crate) fn set(&mut self, addr: u64, state: PageState) {
        match state {
            PageState::Present => self.0.remove(&(addr / PAGE)),
            state => self.0.insert(addr / PAGE, state),
        };
    }

    /// Brings the page at `addr` in, as an access of the CPU would; whether it can be accessed now.
    pub(crate) fn touch(&mut self, addr: u64, write: bool) -> bool {
        match self.0.get(&(addr / PAGE)) {
            None => true,
            Some(PageState::Missing) => false,
            Some(PageState::ReadOnly) if !write => true,
            Some(_) => {
                self.0.remove(&(addr / PAGE));
                true
            }
        }
    }

    /// Whether the page at `addr` lets this access through. Counts the faults of
    /// [`PageState::AbsentTimes`].
    pub(crate) fn admits(&mut self, addr: u64, write: bool) -> bool {
        match self.0.get_mut(&(addr / PAGE)) {
            None | Some(PageState::Present) => true,
            Some(PageState::ReadOnly) => !write,
            Some(PageState::Absent | PageState::Missing) => false,
            Some(PageState::AbsentTimes(left)) => {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.0.remove(&(addr / PAGE));
                }
                false
            }
        }
    }
}

/// Walks an access page by page: `piece(address, offset, length)` does one piece and says whether it could.
/// Pieces end at page boundaries and at the end of the address space.
pub(crate) fn by_page(
    addr: u64,
    len: usize,
    write: bool,
    mut piece: impl FnMut(u64, usize, usize) -> bool,
) -> Result<(), MemFault> {
    let mut done = 0usize;
    while done < len {
        let Some(at) = addr.checked_add(done as u64) else {
            return Err(MemFault { completed: done, addr: u64::MAX, write });
        };
        let in_page = (PAGE - at % PAGE) as usize;
        let n = in_page.min(len - done);
        if !piece(at, done, n) {
            return Err(MemFault { completed: done, addr: at, write });
        }
        done += n;
    }
    Ok(())
}
