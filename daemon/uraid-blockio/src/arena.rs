//! Arenas: the memory that member I/O, sockets and compute engines share, and views of it.
//!
//! An [`Arena`] is one anonymous mapping that stays in place until the last view of it is gone. An
//! [`IoBuf`] is such a view. No reference (`&` or `&mut`) to arena memory is ever made here, because a
//! device or another engine may be writing it; whoever turns [`IoBuf::as_ptr`] into a reference promises
//! that nothing is in flight there. That promise is the array core's to keep: it names every buffer that
//! an operation uses and gives it to one operation at a time.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::pool::GiveBack;
use crate::{racy, sys};

/// The alignment of an arena and the unit of its length: 2 MiB, the huge page of x86-64 and aarch64.
pub(crate) const ARENA_ALIGN: usize = 2 << 20;

/// How an [`Arena`] is made. The default is neither locked nor pre-faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArenaOptions {
    /// Lock the memory (`mlock`), so that serving I/O never waits for swap.
    pub lock: bool,
    /// Touch every page now, so that no request pays for a page fault.
    pub prefault: bool,
}

/// Why an [`Arena`] could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel gave no memory.
    #[error("cannot map {bytes} bytes of buffer memory: {source}; make the cache smaller")]
    Map {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The memory could not be locked.
    #[error("cannot lock {bytes} bytes of buffer memory: {source}; raise LimitMEMLOCK= (ulimit -l)")]
    Lock {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A range outside its buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{len} bytes at {at} are outside a buffer of {of} bytes")]
pub struct OutOfBounds {
    /// First byte.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    /// The length of the buffer.
    pub of: usize,
}

/// One mapping of anonymous memory, 2 MiB-aligned and a multiple of 2 MiB long. It is not inherited by
/// child processes: a fork in the middle of an O_DIRECT read would otherwise leave the data in the child.
#[derive(Debug)]
pub struct Arena {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an arena is an address range that it owns until dropped; it gives out raw pointers only, and
// its own accesses go through `racy`, which tolerates other threads.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps at least `bytes` bytes, rounded up to a multiple of 2 MiB (and at least that). The memory is
    /// zero at first.
    ///
    /// # Errors
    /// [`ArenaError`] if the kernel refuses the memory or the lock.
    pub fn new(bytes: usize, options: ArenaOptions) -> Result<Arc<Self>, ArenaError> {
        let too_much = || ArenaError::Map { bytes, source: std::io::ErrorKind::OutOfMemory.into() };
        let len = bytes.max(1).checked_next_multiple_of(ARENA_ALIGN).ok_or_else(too_much)?;
        let base = sys::map_aligned(len, ARENA_ALIGN).map_err(|source| ArenaError::Map { bytes, source })?;
        // From here on dropping the arena unmaps it.
        let arena = Self { base, len };
        sys::no_fork(base, len);
        if options.prefault {
            sys::prefault(base, len);
        }
        if options.lock {
            sys::lock(base, len).map_err(|source| ArenaError::Lock { bytes: len, source })?;
        }
        Ok(Arc::new(arena))
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true; an arena has at least 2 MiB.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of its first byte, valid while the arena lives. See [`IoBuf::as_ptr`] for what one may
    /// do with it.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// A view of `len` bytes at `offset`. Views may overlap: an arena keeps no account of them (a
    /// [`BufPool`](crate::BufPool) does).
    ///
    /// # Errors
    /// [`OutOfBounds`] if the arena has no such range.
    pub fn view(self: &Arc<Self>, offset: usize, len: usize) -> Result<IoBuf, OutOfBounds> {
        check(offset, len, self.len)?;
        let hold = Arc::new(Hold { arena: Arc::clone(self), give_back: None });
        Ok(IoBuf { hold, offset, len })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and belongs to this arena alone; every view holds the
        // arena, so none is left.
        unsafe { sys::unmap(self.base, self.len) };
    }
}

/// What a view keeps alive: the mapping and, for a pool's block, the block's absence from the pool.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) arena: Arc<Arena>,
    pub(crate) give_back: Option<GiveBack>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(give_back) = &self.give_back {
            give_back.run();
        }
    }
}

/// A view of arena memory: it keeps the memory mapped and, for a block of a pool, out of the pool.
///
/// Clones and sub-views see the same bytes. The copying methods are safe at any time; while another
/// thread, a device or an engine writes the same bytes they may see or leave a mixture of old and new.
#[derive(Clone, Debug)]
pub struct IoBuf {
    hold: Arc<Hold>,
    offset: usize,
    len: usize,
}

impl IoBuf {
    pub(crate) fn of_hold(hold: Arc<Hold>, offset: usize, len: usize) -> Self {
        Self { hold, offset, len }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.hold.arena
    }

    /// Its first byte's offset in the arena.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The address of its first byte: valid for [`len`](Self::len) bytes while any clone of this view
    /// lives. Reading, writing, or making a reference through it is the caller's promise that nothing
    /// which is in flight forbids that.
    pub fn as_ptr(&self) -> *mut u8 {
        // `offset` is within the arena, which every constructor checked.
        self.hold.arena.as_ptr().wrapping_add(self.offset)
    }

    /// A view of `len` bytes at `at` of this one.
    ///
    /// # Errors
    /// [`OutOfBounds`] if this view has no such range.
    pub fn view(&self, at: usize, len: usize) -> Result<Self, OutOfBounds> {
        check(at, len, self.len)?;
        Ok(Self { hold: Arc::clone(&self.hold), offset: self.offset + at, len })
    }

    /// Copies `src` to `at`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if it does not fit; nothing is copied then.
    pub fn copy_in(&self, at: usize, src: &[u8]) -> Result<(), OutOfBounds> {
        check(at, src.len(), self.len)?;
        // SAFETY: the range was checked against this view, which lies in a living mapping; a slice never
        // overlaps it because no reference to arena memory exists.
        unsafe { racy::copy_to_shared(src.as_ptr(), self.as_ptr().wrapping_add(at), src.len()) };
        Ok(())
    }

    /// Copies the bytes from `at` on into `dst`.
    ///
    /// # Errors
    /// [`OutOfBounds`] if there are not so many; nothing is copied then.
    pub fn copy_out(&self, at: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        check(at, dst.len(), self.len)?;
        // SAFETY: as in `copy_in`.
        unsafe { racy::copy_from_shared(self.as_ptr().wrapping_add(at), dst.as_mut_ptr(), dst.len()) };
        Ok(())
    }

    /// Sets every byte to `byte`.
    pub fn fill(&self, byte: u8) {
        // SAFETY: the view lies in a living mapping.
        unsafe { racy::fill_shared(self.as_ptr(), byte, self.len) };
    }

    /// Its bytes in a vector of their own.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        // SAFETY: the vector was made with the length of this view, which lies in a living mapping.
        unsafe { racy::copy_from_shared(self.as_ptr(), bytes.as_mut_ptr(), self.len) };
        bytes
    }
}

/// Whether `len` bytes at `at` lie within `of` bytes.
fn check(at: usize, len: usize, of: usize) -> Result<(), OutOfBounds> {
    match at.checked_add(len) {
        Some(end) if end <= of => Ok(()),
        _ => Err(OutOfBounds { at, len, of }),
    }
}
