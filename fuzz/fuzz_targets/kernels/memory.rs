//! Blocks of memory at chosen alignments, with nothing usable around them.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};

use libfuzzer_sys::arbitrary::{Result, Unstructured};

const ALIGN: usize = 64;
const CANARY: u8 = 0xc5;

/// Where a block lies in its allocation.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Bytes between a multiple of 64 and the block.
    before: usize,
    /// Bytes between the block and the end of the allocation. With none, AddressSanitizer sees any access
    /// beyond the block; with some, the canaries also see stores that it does not instrument (the
    /// streaming ones are inline assembly).
    after: usize,
}

impl Place {
    pub fn decode(u: &mut Unstructured<'_>) -> Result<Self> {
        let before = if u.ratio(1, 3)? { 0 } else { u.int_in_range(0..=ALIGN - 1)? };
        Ok(Place { before, after: if u.ratio(1, 3)? { ALIGN } else { 0 } })
    }
}

/// A block in an allocation of its own.
#[derive(Debug)]
pub struct Block {
    base: *mut u8,
    layout: Layout,
    place: Place,
    len: usize,
}

impl Block {
    /// A block of `len` bytes, each as `byte` of its index says.
    pub fn new(place: Place, len: usize, byte: impl Fn(usize) -> u8) -> Self {
        // An allocation cannot be empty; the one byte is then a canary.
        let size = (place.before + len + place.after).max(1);
        let layout = Layout::from_size_align(size, ALIGN).expect("a small size");
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: the allocation has `size` bytes.
        unsafe { base.write_bytes(CANARY, size) };
        let mut block = Block { base, layout, place, len };
        block.bytes_mut().iter_mut().enumerate().for_each(|(at, b)| *b = byte(at));
        block
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `before + len` bytes were allocated and are initialised.
        unsafe { std::slice::from_raw_parts(self.base.add(self.place.before), self.len) }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(self.place.before), self.len) }
    }

    /// The bytes; panics if anything around them was written.
    pub fn finish(self) -> Vec<u8> {
        // SAFETY: the whole allocation is initialised.
        let all = unsafe { std::slice::from_raw_parts(self.base, self.layout.size()) };
        let (before, rest) = all.split_at(self.place.before);
        let (block, after) = rest.split_at(self.len);
        let strays = before.iter().chain(after).filter(|byte| **byte != CANARY).count();
        assert_eq!(strays, 0, "bytes were written around a block of {} bytes at {:?}", self.len, self.place);
        block.to_vec()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout.
        unsafe { dealloc(self.base, self.layout) }
    }
}
