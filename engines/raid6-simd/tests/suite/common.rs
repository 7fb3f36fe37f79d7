//! Seeded randomness and the list of implementations.

use raid6_simd::{Kernel, Kernels, Selection, Stores};

use crate::guarded::Guarded;

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
        let mut bytes = vec![0; len.next_multiple_of(8)];
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// One to 255.
    pub(crate) fn nonzero(&mut self) -> u8 {
        1 + self.below(255) as u8
    }

    /// Short lengths, many of them next to a multiple of a register.
    pub(crate) fn len(&mut self) -> usize {
        if self.chance(2) {
            (self.below(33) * 64 + self.below(3)).saturating_sub(1)
        } else {
            self.below(1200)
        }
    }

    /// A byte position in a block that is not empty; the first and the last ones often.
    pub(crate) fn place(&mut self, len: usize) -> usize {
        match self.below(4) {
            0 => 0,
            1 => len - 1,
            _ => self.below(len),
        }
    }
}

/// How often to repeat what is sampled.
pub(crate) fn cases(default: usize) -> usize {
    let scale =
        std::env::var("RAID6_SIMD_CASES").map_or(1, |n| n.parse().expect("RAID6_SIMD_CASES: a number"));
    default * scale
}

/// Runs `test` over random cases; what it is told names the case.
pub(crate) fn each_case(seed: u64, default: usize, mut test: impl FnMut(&mut Rng, &str)) {
    let mut rng = Rng(seed);
    for case in 0..cases(default) {
        let what = format!("case {case}, seed {:#x}", rng.0);
        test(&mut rng, &what);
    }
}

/// Every implementation that this CPU can run.
pub(crate) fn available() -> Vec<Kernels> {
    let (can, cannot): (Vec<_>, Vec<_>) = Kernel::ALL.into_iter().partition(|kernel| kernel.is_available());
    if !cannot.is_empty() {
        println!("this CPU cannot run {cannot:?}: not tested");
    }
    can.into_iter().map(|kernel| Kernels::select(Selection::Only(kernel)).unwrap()).collect()
}

/// Every implementation that this CPU can run, with each way to store.
pub(crate) fn variants() -> Vec<Kernels> {
    let streaming = available().into_iter().map(|kernels| kernels.with_stores(Stores::Streaming));
    available().into_iter().chain(streaming).collect()
}

/// Data blocks in random places; about one in six is `None` in half of the cases, and none in the others
/// (which some implementations handle apart).
pub(crate) fn random_data(rng: &mut Rng, count: usize, len: usize) -> Vec<Option<Guarded>> {
    let gaps = rng.chance(2);
    let block = |rng: &mut Rng| {
        let bytes = rng.bytes(len);
        Guarded::random(rng, &bytes)
    };
    (0..count).map(|_| (!gaps || !rng.chance(6)).then(|| block(rng))).collect()
}

/// The blocks as the kernels take them.
pub(crate) fn slices(data: &[Option<Guarded>]) -> Vec<Option<&[u8]>> {
    data.iter().map(|block| block.as_ref().map(Guarded::bytes)).collect()
}

/// `a ^= b`.
pub(crate) fn add(a: &mut [u8], b: &[u8]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
}
