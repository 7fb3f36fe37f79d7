//! Seeded randomness, memory between guard pages, and the list of implementations.

use raid6_simd::{Kernel, Kernels, Selection};

/// SplitMix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// Lengths from 0 to 70000, most of them short, and many next to a multiple of a register.
    pub(crate) fn len(&mut self) -> usize {
        match self.below(8) {
            0 => self.below(70_001),
            1..=3 => (self.below(33) * 64 + self.below(3)).saturating_sub(1),
            _ => self.below(1200),
        }
    }
}

/// How often to repeat what is sampled.
pub(crate) fn cases(default: usize) -> usize {
    let scale =
        std::env::var("RAID6_SIMD_CASES").map_or(1, |n| n.parse().expect("RAID6_SIMD_CASES: a number"));
    default * scale
}

/// Every implementation that this CPU can run.
pub(crate) fn available() -> Vec<Kernels> {
    let (can, cannot): (Vec<_>, Vec<_>) = Kernel::ALL.into_iter().partition(|kernel| kernel.is_available());
    if !cannot.is_empty() {
        println!("this CPU cannot run {cannot:?}: not tested");
    }
    can.into_iter().map(|kernel| Kernels::select(Selection::Only(kernel)).unwrap()).collect()
}

pub(crate) fn naive() -> Kernels {
    Kernels::select(Selection::Only(Kernel::Naive)).unwrap()
}

const PAGE: usize = 4096;
const CANARY: u8 = 0xc5;

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
        block.room().fill(CANARY);
        block.bytes_mut().copy_from_slice(bytes);
        block
    }

    /// With a random place: at the end in half of the cases.
    pub(crate) fn random(rng: &mut Rng, bytes: &[u8]) -> Self {
        let offset = if rng.chance(2) { None } else { Some(rng.below(64)) };
        Guarded::new(bytes, offset)
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
        if let Some(at) = (0..self.len).find(|at| self.bytes()[*at] != bytes[*at]) {
            panic!("{what}: byte {at} of {} is {:#x}, not {:#x}", self.len, self.bytes()[at], bytes[at]);
        }
        let (before, len) = (self.start - PAGE, self.len);
        let room = self.room();
        let strays = room[..before].iter().chain(&room[before + len..]).filter(|b| **b != CANARY).count();
        assert_eq!(strays, 0, "{what}: {strays} bytes written around the block");
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; no borrow of it outlives `self`.
        unsafe { libc::munmap(self.map.cast(), self.map_len) };
    }
}

/// Data blocks, `None` for about one in six, in random places.
pub(crate) fn random_data(rng: &mut Rng, count: usize, len: usize) -> Vec<Option<Guarded>> {
    let block = |rng: &mut Rng| {
        let bytes = rng.bytes(len);
        Guarded::random(rng, &bytes)
    };
    (0..count).map(|_| (!rng.chance(6)).then(|| block(rng))).collect()
}

/// The blocks as the kernels take them.
pub(crate) fn slices(data: &[Option<Guarded>]) -> Vec<Option<&[u8]>> {
    data.iter().map(|block| block.as_ref().map(Guarded::bytes)).collect()
}

/// P and Q by the naive implementation.
pub(crate) fn naive_pq(data: &[Option<&[u8]>], len: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut p, mut q) = (vec![0; len], vec![0; len]);
    naive().gen_pq(data, Some(&mut p), Some(&mut q)).unwrap();
    (p, q)
}

/// A number of sources: mostly few, sometimes up to 255.
pub(crate) fn random_count(rng: &mut Rng, len: usize) -> usize {
    if len < 1000 && rng.chance(12) { 1 + rng.below(255) } else { 1 + rng.below(20) }
}
