//! Memory for chains, and random chains over it.

use async_tx::{Chain, Change, Lost, NodeId, Op, Region, XorMode};

/// SplitMix64.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

pub(crate) fn cases(default: usize) -> usize {
    default * std::env::var("ASYNC_TX_CASES").map_or(1, |n| n.parse().expect("ASYNC_TX_CASES: a number"))
}

/// Bytes of a strip.
const STRIP: usize = 700;
/// Strips of a world.
const STRIPS: usize = 24;

/// Memory that is reached through one raw pointer only, so that regions of it stay good.
pub(crate) struct World {
    memory: *mut [u8],
}

impl World {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let bytes: Box<[u8]> = (0..STRIP * STRIPS).map(|_| rng.next() as u8).collect();
        World { memory: Box::into_raw(bytes) }
    }

    fn base(&self) -> *mut u8 {
        self.memory.cast()
    }

    /// A copy of all bytes; no chain is in flight.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        // SAFETY: the box lives as long as `self`, and no chain over it is in flight.
        unsafe { std::slice::from_raw_parts(self.base(), self.memory.len()) }.to_vec()
    }

    /// Puts all bytes back; no chain is in flight.
    pub(crate) fn restore(&self, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.memory.len());
        // SAFETY: as for `snapshot`, and the lengths are equal.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base(), bytes.len()) };
    }

    /// Where a region of this world starts.
    pub(crate) fn offset(&self, region: Region) -> usize {
        region.as_ptr() as usize - self.base() as usize
    }

    /// `len` bytes at `offset`.
    pub(crate) fn region(&self, offset: usize, len: usize) -> Region {
        assert!(offset + len <= self.memory.len());
        // SAFETY: inside the box, which the tests drop after the engine; they touch it between chains only.
        unsafe { Region::new(self.base().add(offset), len) }
    }

    /// `len` bytes somewhere in a strip.
    fn in_strip(&self, rng: &mut Rng, strip: usize, len: usize) -> Region {
        self.region(strip * STRIP + rng.below(STRIP - len + 1), len)
    }

    /// A chain of random operations with random dependencies, in which checks have a chance to succeed.
    pub(crate) fn random_chain(&self, rng: &mut Rng) -> Chain {
        let mut chain = Chain::new();
        let mut nodes: Vec<NodeId> = Vec::new();
        let count = 1 + rng.below(14);
        while chain.len() < count {
            let deps: Vec<_> = nodes.iter().copied().filter(|_| rng.chance(6)).collect();
            nodes.push(self.push_random(rng, &mut chain, &deps));
        }
        chain
    }

    /// Makes one byte of a good parity wrong, sometimes.
    fn spoil(&self, rng: &mut Rng, chain: &mut Chain, parity: Region) {
        if rng.chance(2) {
            let dst = parity.part(rng.below(parity.len()), 1).unwrap();
            chain.push(Op::Fill { dst, byte: rng.next() as u8 }, &[]).unwrap();
        }
    }

    fn push_random(&self, rng: &mut Rng, chain: &mut Chain, deps: &[NodeId]) -> NodeId {
        let len = if rng.chance(2) { 1 + rng.below(STRIP) } else { 64 * (1 + rng.below(STRIP / 64)) };
        let mut strips: Vec<_> = (0..STRIPS).collect();
        for i in (1..STRIPS).rev() {
            strips.swap(i, rng.below(i + 1));
        }
        // Destinations come from strips of their own, sources from all others.
        let mut own = || strips.pop().unwrap();
        let (d, e) = (own(), own());
        let (dst, second) = (self.in_strip(rng, d, len), self.in_strip(rng, e, len));
        let source = |rng: &mut Rng| {
            let strip = strips[rng.below(strips.len())];
            self.in_strip(rng, strip, len)
        };
        let wanted = [(true, true), (true, false), (false, true)][rng.below(3)];
        let (p, q) = (wanted.0.then_some(dst), wanted.1.then_some(second));
        let n_max = if rng.chance(8) { 40 } else { 7 };
        let n = 1 + rng.below(n_max);
        let mut srcs: Vec<_> = (0..n).map(|_| source(rng)).collect();
        let mut data: Vec<_> = (0..n).map(|_| (!rng.chance(5)).then(|| source(rng))).collect();
        match rng.below(9) {
            0 => chain.push(Op::Notify, deps),
            1 => chain.push(Op::Copy { src: source(rng), dst }, deps),
            2 => chain.push(Op::Fill { dst, byte: rng.next() as u8 }, deps),
            3 => {
                let mode = if rng.chance(2) { XorMode::Accumulate } else { XorMode::Overwrite };
                chain.push(Op::Xor { srcs: &srcs, dst, mode }, deps)
            }
            4 => {
                if rng.chance(2) {
                    chain.push(Op::Xor { srcs: &srcs, dst, mode: XorMode::Overwrite }, deps).unwrap();
                    srcs.push(dst);
                    self.spoil(rng, chain, dst);
                }
                chain.push(Op::XorVal { srcs: &srcs }, deps)
            }
            5 => chain.push(Op::Pq { data: &data, p, q }, deps),
            6 => {
                if rng.chance(2) {
                    chain.push(Op::Pq { data: &data, p, q }, deps).unwrap();
                    self.spoil(rng, chain, p.or(q).unwrap_or(dst));
                }
                chain.push(Op::PqVal { data: &data, p, q }, deps)
            }
            7 => {
                let (old, new, exponent) = (source(rng), source(rng), rng.below(255) as u8);
                let change = Change { exponent, old: Some(old), new: Some(new) };
                chain.push(Op::PqUpdate { changes: &[change], p, q }, deps)
            }
            _ => {
                let x = rng.below(n);
                let y = (x + 1 + rng.below(n.max(2) - 1)) % n;
                let (p, q, lost) = match rng.below(7) {
                    0 => (Some(source(rng)), None, Lost::new(&[x as u8], false, false)),
                    1 => (None, Some(source(rng)), Lost::new(&[x as u8], false, false)),
                    2 => (Some(second), Some(source(rng)), Lost::new(&[x as u8], true, false)),
                    3 => (Some(source(rng)), Some(second), Lost::new(&[x as u8], false, true)),
                    4 if x != y => {
                        data[y] = Some(second);
                        (Some(source(rng)), Some(source(rng)), Lost::new(&[x as u8, y as u8], false, false))
                    }
                    5 => (Some(dst), Some(second), Lost::new(&[], true, true)),
                    _ => (Some(source(rng)), Some(second), Lost::new(&[], false, true)),
                };
                let lost = lost.unwrap();
                if lost.has(x) {
                    data[x] = Some(dst);
                }
                chain.push(Op::Recover { data: &data, p, q, lost }, deps)
            }
        }
        .unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`; the tests drop worlds last.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}
