//! Memory between guard pages.

use crate::common::Rng;

const PAGE: usize = 4096;
const CANARY: u8 = 0xc5;
const CANARIES: [u8; PAGE] = [CANARY; PAGE];

/// A block between two pages that cannot be accessed, touching one of them or up to 63 bytes off; the
/// room around it is filled with a known byte.
pub(crate) struct Guarded {
    map: *mut u8,
    map_len: usize,
    start: usize,
    len: usize,
}

impl Guarded {
    /// A block with these bytes that ends at the guard page, or starts `offset` bytes after one.
    pub(crate) fn new(bytes: &[u8], offset: Option<usize>) -> Self {
        let len = bytes.len();
        let room = (len + 64).next_multiple_of(PAGE);
        let map_len = room + 2 * PAGE;
        // SAFETY: a fresh anonymous mapping; the result is checked.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            let done = libc::mprotect(map.add(PAGE), room, libc::PROT_READ | libc::PROT_WRITE);
            assert_eq!(done, 0, "mprotect: {}", std::io::Error::last_os_error());
            map.cast::<u8>()
        };
        let start = PAGE + offset.unwrap_or(room - len);
        let mut block = Guarded { map, map_len, start, len };
        block.fill(bytes);
        block
    }

    /// With a random place: at the end in half of the cases, and often at the beginning.
    pub(crate) fn random(rng: &mut Rng, bytes: &[u8]) -> Self {
        Guarded::new(bytes, random_offset(rng))
    }

    /// Writes these bytes, and the known byte around them.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        self.room().fill(CANARY);
        self.bytes_mut().copy_from_slice(bytes);
    }

    fn room(&mut self) -> &mut [u8] {
        // SAFETY: the pages between the guards are mapped for reading and writing while `self` lives.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(PAGE), self.map_len - 2 * PAGE) }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start..start + len` lies between the guards.
        unsafe { std::slice::from_raw_parts(self.map.add(self.start), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.add(self.start), self.len) }
    }

    /// Asserts that the block has these bytes and that nothing around it was written.
    pub(crate) fn assert_is(&mut self, bytes: &[u8], what: &str) {
        assert_eq!(self.len, bytes.len(), "{what}");
        if self.bytes() != bytes {
            let at = self.bytes().iter().zip(bytes).position(|(is, ought)| is != ought).unwrap_or_default();
            panic!("{what}: byte {at} of {} is {:#x}, not {:#x}", self.len, self.bytes()[at], bytes[at]);
        }
        let (before, len) = (self.start - PAGE, self.len);
        let room = self.room();
        let clean = |around: &[u8]| around.chunks(PAGE).all(|chunk| chunk == &CANARIES[..chunk.len()]);
        assert!(clean(&room[..before]), "{what}: something before the block of {len} bytes was written");
        assert!(
            clean(&room[before + len..]),
            "{what}: something behind the block of {len} bytes was written"
        );
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no borrow of it outlives `self`.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}

/// Where a block may lie; see [`Guarded::new`].
pub(crate) fn random_offset(rng: &mut Rng) -> Option<usize> {
    match rng.below(8) {
        0..4 => None,
        4 => Some(0),
        5 => Some(32),
        _ => Some(rng.below(64)),
    }
}
