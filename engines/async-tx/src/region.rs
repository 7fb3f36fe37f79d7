//! Memory that operations name: a pointer and a length, with the promise that makes them usable.

use std::ptr::NonNull;

/// A run of bytes that operations may read and write. A value is as good as the promise given to
/// [`Region::new`]; it is `Copy` because a promise can be cited more than once.
///
/// It lies in memory as a reference to a slice does, so that lists of regions are lists of slices without
/// being copied ([`Region::list_bytes`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Region(NonNull<[u8]>);

// That a pointer and a reference to the same type have the same layout is a rule of the language. That
// `Some` of one is the pointer itself, and `None` a null address, is a rule for sized types only; for
// slices, this has the compiler at hand say so.
const _: () = {
    assert!(size_of::<Region>() == size_of::<Option<&[u8]>>());
    assert!(align_of::<Region>() == align_of::<Option<&[u8]>>());
    // SAFETY: the same sizes; a value is only looked at for being there, and the one that is there is a
    // pointer to no bytes, which is a good reference.
    unsafe {
        assert!(std::mem::transmute::<Option<Region>, Option<&[u8]>>(None).is_none());
        let some = std::mem::transmute::<Option<Region>, Option<&[u8]>>(Some(Region::NOWHERE));
        assert!(matches!(some, Some(bytes) if bytes.is_empty()));
        let plain = std::mem::transmute::<Region, Option<&[u8]>>(Region::NOWHERE);
        assert!(matches!(plain, Some(bytes) if bytes.is_empty()));
    }
};

// SAFETY: a region is an address and a promise about the bytes there that binds all threads alike; it
// gives access to nothing by itself.
unsafe impl Send for Region {}

impl Region {
    /// No bytes, nowhere: what no operation takes.
    pub(crate) const NOWHERE: Region = Region(NonNull::slice_from_raw_parts(NonNull::dangling(), 0));

    /// The region, unless it has no bytes.
    #[inline]
    pub(crate) fn somewhere(self) -> Option<Region> {
        (!self.is_empty()).then_some(self)
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
        Region(NonNull::slice_from_raw_parts(unsafe { NonNull::new_unchecked(ptr) }, len))
    }

    /// Address of the first byte.
    pub const fn as_ptr(self) -> *mut u8 {
        self.0.as_ptr().cast()
    }

    /// Length in bytes.
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes; operations refuse such a region.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// `len` bytes at `offset` of this region, or `None` if they are not inside it.
    pub fn part(self, offset: usize, len: usize) -> Option<Self> {
        if offset.checked_add(len)? > self.len() {
            return None;
        }
        // SAFETY: `offset` is at most the length of memory that `new`'s caller promised is allocated.
        let ptr = unsafe { self.0.cast::<u8>().add(offset) };
        Some(Region(NonNull::slice_from_raw_parts(ptr, len)))
    }

    /// Whether the two share a byte.
    pub fn overlaps(self, other: Region) -> bool {
        let (a, b) = (self.as_ptr() as usize, other.as_ptr() as usize);
        a < b.saturating_add(other.len()) && b < a.saturating_add(self.len())
    }

    /// The bytes, for a backend that executes an operation naming the region as a source.
    ///
    /// # Safety
    /// The operation is in the backend's hands, and no destination that overlaps is borrowed or written
    /// while the slice lives.
    pub const unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: readable and initialised by the promise of `new`; unwritten by the caller's promise.
        unsafe { self.0.as_ref() }
    }

    /// The bytes, for a backend that executes an operation naming the region as a destination.
    ///
    /// # Safety
    /// The operation is in the backend's hands, and nothing that overlaps is borrowed or accessed while
    /// the slice lives.
    pub const unsafe fn bytes_mut<'a>(self) -> &'a mut [u8] {
        // SAFETY: writable and initialised by the promise of `new`; unaliased by the caller's promise.
        unsafe { &mut *self.0.as_ptr() }
    }

    /// The bytes of each region of a list.
    ///
    /// # Safety
    /// As [`Region::bytes`], for each.
    pub const unsafe fn list_bytes(regions: &[Region]) -> &[Option<&[u8]>] {
        // SAFETY: the same layout, see above; each is a good reference by the caller's promise.
        unsafe { std::slice::from_raw_parts(regions.as_ptr().cast(), regions.len()) }
    }

    /// The bytes of each region of a list in which some are missing.
    ///
    /// # Safety
    /// As [`Region::bytes`], for each that is there.
    pub const unsafe fn blocks_bytes(blocks: &[Option<Region>]) -> &[Option<&[u8]>] {
        // SAFETY: the same layout, see above; each is a good reference by the caller's promise.
        unsafe { std::slice::from_raw_parts(blocks.as_ptr().cast(), blocks.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_regions_is_a_list_of_slices() {
        let memory: Vec<u8> = (0..200).collect();
        let at = |offset: usize, len: usize| {
            let bytes = &memory[offset..offset + len];
            // SAFETY: bytes of `memory`, which is only read, here and below.
            unsafe { Region::new(bytes.as_ptr().cast_mut(), len) }
        };
        let regions = [at(3, 10), at(100, 1), at(0, 200), at(7, 0)];
        let blocks = [None, Some(regions[0]), None, Some(regions[2]), Some(regions[3])];
        // SAFETY: bytes of `memory`, which nobody writes.
        let (all, some) = unsafe { (Region::list_bytes(&regions), Region::blocks_bytes(&blocks)) };
        assert_eq!(all, [Some(&memory[3..13]), Some(&memory[100..101]), Some(&memory[..]), Some(&[][..])]);
        assert_eq!(some, [None, Some(&memory[3..13]), None, Some(&memory[..]), Some(&[][..])]);
    }
}
