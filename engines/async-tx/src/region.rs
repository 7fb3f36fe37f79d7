//! Memory that operations name: a pointer and a length, with the promise that makes them usable.

use std::ptr::NonNull;

/// A run of bytes that operations may read and write. A value is as good as the promise given to
/// [`Region::new`]; it is `Copy` because a promise can be cited more than once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Region {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: a region is an address and a promise about the bytes there that binds all threads alike; it
// gives access to nothing by itself.
unsafe impl Send for Region {}

impl Region {
    /// No bytes, nowhere: what no operation takes.
    pub(crate) const NOWHERE: Region = Region { ptr: NonNull::dangling(), len: 0 };

    /// The region, unless it has no bytes.
    #[inline]
    pub(crate) fn somewhere(self) -> Option<Region> {
        (self.len != 0).then_some(self)
    }

    /// Names `len` bytes at `ptr`.
    ///
    /// # Safety
    /// From the call until the last chain (or operation given to a backend directly) that names this
    /// region, a copy or a [part](Region::part) of it was reaped or dropped unsubmitted:
    /// - `ptr` is not null and the `len` bytes stay allocated, initialised and in place; they are
    ///   readable, and writable too if an operation names the region as a destination;
    /// - from the submission of a chain until it is reaped nobody else, other chains in flight
    ///   included, writes the bytes, nor reads them if the chain writes them. Chains that are ordered by
    ///   [`crate::Submit::after`], directly or through others, may.
    ///
    /// Reaped is a chain when its end was told: by [`crate::Engine::poll`], by its [`crate::Tx`], or by
    /// [`crate::Engine::run`] returning anything but [`crate::EngineError::Stuck`]; and every chain is when
    /// its engine was dropped.
    pub const unsafe fn new(ptr: *mut u8, len: usize) -> Self {
        // SAFETY: the caller promises that it is not null.
        Region { ptr: unsafe { NonNull::new_unchecked(ptr) }, len }
    }

    /// Address of the first byte.
    pub const fn as_ptr(self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether there are no bytes; operations refuse such a region.
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }

    /// `len` bytes at `offset` of this region, or `None` if they are not inside it.
    pub fn part(self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: `offset` is at most the length of memory that `new`'s caller promised is allocated.
        Some(Region { ptr: unsafe { self.ptr.add(offset) }, len })
    }

    /// Whether the two share a byte.
    pub fn overlaps(self, other: Region) -> bool {
        let (a, b) = (self.as_ptr() as usize, other.as_ptr() as usize);
        a < b.saturating_add(other.len) && b < a.saturating_add(self.len)
    }

    /// The bytes, for a backend that executes an operation naming the region as a source.
    ///
    /// # Safety
    /// The operation is in the backend's hands, and no destination that overlaps is borrowed or written
    /// while the slice lives.
    pub const unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: readable and initialised by the promise of `new`; unwritten by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, for a backend that executes an operation naming the region as a destination.
    ///
    /// # Safety
    /// The operation is in the backend's hands, and nothing that overlaps is borrowed or accessed while
    /// the slice lives.
    pub const unsafe fn bytes_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: writable and initialised by the promise of `new`; unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}
