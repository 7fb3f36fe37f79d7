//! Every implementation against published values and against `naive`: lengths, alignments, parts, and
//! guard pages.

use super::{Routines, available, beside, best, by_name, turn};
use crate::Kernel;

/// The implementations, callable because the list has only what the CPU can run.
fn crc32c(routines: &Routines, crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: the routines come from `available`, which found their CPU features.
    unsafe { (routines.crc32c)(crc, bytes) }
}

fn copy_crc32c(routines: &Routines, crc: u32, src: &[u8], dst: &mut [u8]) -> u32 {
    // SAFETY: as above.
    unsafe { (routines.copy_crc32c)(crc, src, dst) }
}

fn naive() -> &'static Routines {
    by_name("naive").unwrap()
}

/// All implementations of this architecture, whether or not the CPU can run them.
const NAMES: &[&str] = &[
    "naive",
    "portable",
    #[cfg(target_arch = "x86_64")]
    "sse42",
    #[cfg(target_arch = "x86_64")]
    "avx512_vpclmul",
];

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    /// Up to 70,000, most of them short.
    fn len(&mut self) -> usize {
        match self.below(6) {
            0 if !cfg!(miri) => self.below(70_001),
            0..=2 => self.below(5_000),
            _ => self.below(700),
        }
    }
}

/// How often to repeat what is sampled.
fn cases(default: usize) -> usize {
    let scale =
        std::env::var("RAID6_SIMD_CASES").map_or(1, |n| n.parse().expect("RAID6_SIMD_CASES: a number"));
    if cfg!(miri) { default.div_ceil(50) } else { default * scale }
}

#[test]
fn published_values() {
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    // RFC 3720, B.4: a SCSI Read (10) command PDU.
    let mut read_10 = [0; 48];
    for (at, byte) in
        [(0, 0x01), (1, 0xc0), (16, 0x14), (22, 0x04), (27, 0x14), (31, 0x18), (32, 0x28), (40, 0x02)]
    {
        read_10[at] = byte;
    }
    let values: [(&[u8], u32); 7] = [
        (b"", 0),
        (b"123456789", 0xe306_9283),
        (&[0; 32], 0x8a91_36aa),
        (&[0xff; 32], 0x62a8_ab43),
        (&ascending, 0x46dd_794e),
        (&descending, 0x113f_db5c),
        (&read_10, 0xd996_3a56),
    ];
    for routines in available() {
        for (bytes, crc) in values {
            assert_eq!(crc32c(routines, 0, bytes), crc, "{}: {bytes:02x?}", routines.name);
        }
    }
}

#[test]
fn names_are_those_of_the_implementations() {
    let found: Vec<&str> = available().map(|routines| routines.name).collect();
    let missing: Vec<&&str> = NAMES.iter().filter(|name| !found.contains(name)).collect();
    println!("this CPU cannot run {missing:?}");
    assert!(found.iter().all(|name| NAMES.contains(name)));
    assert!(found.len() >= 2 && by_name("nonsense").is_none());
    assert_eq!(best().name, *found.last().unwrap());
}

/// One case: the CRC, alone and in a copy, of what is in `src`, against `naive`.
fn check(src: &[u8], dst: &mut [u8], seed: u32, split: usize, what: &str) {
    let expected = crc32c(naive(), seed, src);
    let (head, tail) = src.split_at(split);
    for routines in available() {
        let name = routines.name;
        assert_eq!(crc32c(routines, seed, src), expected, "{name}: {what}");
        let parts = crc32c(routines, crc32c(routines, seed, head), tail);
        assert_eq!(parts, expected, "{name}: {what}, in two parts, the first of {split}");
        dst.fill(!0);
        assert_eq!(copy_crc32c(routines, seed, src, dst), expected, "{name}: {what}, copying");
        assert!(src == dst, "{name}: {what}: the copy differs");
        let (dst_head, dst_tail) = dst.split_at_mut(split);
        let parts = copy_crc32c(routines, copy_crc32c(routines, seed, head, dst_head), tail, dst_tail);
        assert_eq!(parts, expected, "{name}: {what}, copying in two parts, the first of {split}");
    }
}

#[test]
fn random_lengths_alignments_and_splits() {
    const SEED: u64 = 0x3720;
    let mut rng = Rng(SEED);
    let source = rng.bytes(70_064);
    let mut out = vec![0; 70_064];
    for case in 0..cases(400) {
        let len = rng.len();
        let (from, to) = (rng.below(64), rng.below(64));
        let (seed, split) = (rng.next() as u32, rng.below(len + 1));
        let what = format!("seed {SEED:#x}, case {case}: {len} bytes, alignments {from} and {to}");
        check(&source[from..from + len], &mut out[to..to + len], seed, split, &what);
    }
}

#[test]
fn every_short_length() {
    let source = Rng(1).bytes(1_500);
    let mut out = vec![0; 1_500];
    for len in (0..1_500).step_by(if cfg!(miri) { 97 } else { 1 }) {
        check(&source[..len], &mut out[..len], len as u32, len / 3, &format!("{len} bytes"));
    }
}

#[test]
fn every_alignment() {
    const LEN: usize = if cfg!(miri) { 1_700 } else { 4_700 };
    const STEP: usize = if cfg!(miri) { 29 } else { 1 };
    let source = Rng(2).bytes(LEN + 64);
    let mut out = vec![0; LEN + 64];
    let expected: Vec<u32> = (0..64).map(|from| crc32c(naive(), 0, &source[from..from + LEN])).collect();
    for routines in available() {
        for (from, to) in
            (0..64).step_by(STEP).flat_map(|from| (0..64).step_by(STEP).map(move |to| (from, to)))
        {
            let (src, dst) = (&source[from..from + LEN], &mut out[to..to + LEN]);
            if routines.name == "naive" && from != to {
                continue;
            }
            let crc = copy_crc32c(routines, 0, src, dst);
            assert_eq!(crc, expected[from], "{}: alignments {from} and {to}", routines.name);
            assert!(src == dst, "{}: alignments {from} and {to}: the copy differs", routines.name);
            assert_eq!(crc32c(routines, 0, src), expected[from], "{}: alignment {from}", routines.name);
        }
    }
}

#[test]
fn the_shorter_slice_counts() {
    let source = Rng(3).bytes(2_000);
    for routines in available() {
        let mut out = [0; 700];
        let crc = copy_crc32c(routines, 0, &source, &mut out);
        assert_eq!(crc, crc32c(naive(), 0, &source[..700]), "{}", routines.name);
        assert_eq!(out, source[..700], "{}", routines.name);
        let mut out = [1; 700];
        copy_crc32c(routines, 0, &source[..300], &mut out);
        assert_eq!(out[..300], source[..300], "{}", routines.name);
        assert_eq!(out[300..], [1; 400], "{}", routines.name);
    }
}

#[test]
#[cfg(not(miri))]
fn nothing_outside_the_slices() {
    const SEED: u64 = 0xb4;
    let mut rng = Rng(SEED);
    let (mut source, mut out) = (guard::Pages::new(18), guard::Pages::new(18));
    for case in 0..cases(150) {
        let bytes = {
            let len = rng.len();
            rng.bytes(len)
        };
        let seed = rng.next() as u32;
        let split = rng.below(bytes.len() + 1);
        // At the front, at the back, or up to 63 bytes off either.
        let places = [0, rng.below(64)].map(|off| (rng.below(2) == 0, off));
        let what = format!("seed {SEED:#x}, case {case}: {} bytes at {places:?}", bytes.len());
        let src = source.place(bytes.len(), places[0]);
        src.copy_from_slice(&bytes);
        let place = places[case % 2];
        out.all().fill(0xc5);
        check(src, out.place(bytes.len(), place), seed, split, &what);
        let strays = out.all().len() - bytes.len();
        out.place(bytes.len(), place).fill(0xc5);
        assert!(out.all().iter().all(|byte| *byte == 0xc5), "{what}: written to the {strays} bytes around");
    }
}

/// Pages between two that cannot be accessed.
#[cfg(not(miri))]
mod guard {
    use std::io::Error;

    const PAGE: usize = 4096;

    pub(super) struct Pages {
        map: *mut u8,
        pages: usize,
    }

    impl Pages {
        pub(super) fn new(pages: usize) -> Self {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a fresh anonymous mapping; both results are checked.
            let map = unsafe {
                let map = libc::mmap(std::ptr::null_mut(), (pages + 2) * PAGE, libc::PROT_NONE, flags, -1, 0);
                assert_ne!(map, libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
                let done = libc::mprotect(map.add(PAGE), pages * PAGE, libc::PROT_READ | libc::PROT_WRITE);
                assert_eq!(done, 0, "mprotect: {}", Error::last_os_error());
                map.cast()
            };
            Pages { map, pages }
        }

        /// Everything that can be accessed.
        pub(super) fn all(&mut self) -> &mut [u8] {
            // SAFETY: the pages between the guards are readable and writable while `self` lives, which
            // is borrowed mutably.
            unsafe { std::slice::from_raw_parts_mut(self.map.add(PAGE), self.pages * PAGE) }
        }

        /// `len` bytes, `off` bytes from the front guard page or else from the back one.
        pub(super) fn place(&mut self, len: usize, (front, off): (bool, usize)) -> &mut [u8] {
            let room = self.all().len();
            let start = if front { off } else { room - len - off };
            &mut self.all()[start..start + len]
        }
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: the mapping that `new` made; no borrow of it outlives `self`.
            unsafe { libc::munmap(self.map.cast(), (self.pages + 2) * PAGE) };
        }
    }
}

#[test]
fn each_kernel_has_one_beside_it_and_a_cycle_has_all() {
    assert_eq!(beside(Kernel::Naive).name, "naive");
    assert_eq!(beside(Kernel::Portable).name, "portable");
    assert_eq!(beside(Kernel::Avx512Gfni).name, best().name);
    let count = available().count();
    for (i, routines) in available().enumerate() {
        assert_eq!(turn(i).name, routines.name);
        assert_eq!(turn(i + count).name, routines.name);
    }
}
