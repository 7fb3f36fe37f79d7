//! Memory for chains, and random chains over it.

use async_tx::{Chain, Change, Lost, NodeId, Op, Product, Region, Seed, XorMode};

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

    /// A chain of copies and fills of which many write the same bytes, and few overwrite what others read.
    pub(crate) fn random_overwrites(&self, rng: &mut Rng) -> Chain {
        let mut chain = Chain::new();
        let mut nodes: Vec<NodeId> = Vec::new();
        let first = rng.below(STRIPS - 3);
        for _ in 0..3 + rng.below(8) {
            let deps: Vec<_> = nodes.iter().copied().filter(|_| rng.chance(6)).collect();
            let len = STRIP / 2 + rng.below(STRIP / 2);
            let to = first + rng.below(3);
            let from = if rng.chance(6) { first + (to - first + 1) % 3 } else { (first + 3) % STRIPS };
            let (src, dst) = (self.in_strip(rng, from, len), self.in_strip(rng, to, len));
            let op =
                if rng.chance(3) { Op::Fill { dst, byte: rng.next() as u8 } } else { Op::Copy { src, dst } };
            nodes.push(chain.push(op, &deps).unwrap());
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
        let mut operands = Operands::random(self, rng);
        let Operands { dst, second, .. } = operands;
        let wanted = [(true, true), (true, false), (false, true)][rng.below(3)];
        let (p, q) = (wanted.0.then_some(dst), wanted.1.then_some(second));
        let n_max = if rng.chance(8) { 40 } else { 7 };
        let n = 1 + rng.below(n_max);
        let mut source = |rng: &mut Rng| operands.source(rng);
        let mut srcs: Vec<_> = (0..n).map(|_| source(rng)).collect();
        let mut data: Vec<_> = (0..n).map(|_| (!rng.chance(5)).then(|| source(rng))).collect();
        match rng.below(14) {
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
                let count = if rng.chance(2) { 1 } else { n };
                let changes: Vec<_> = (0..count).map(|_| operands.change(rng)).collect();
                chain.push(Op::PqUpdate { changes: &changes, p, q }, deps)
            }
            8 => {
                let product = |src: &Region| Product { coefficient: rng.next() as u8, src: *src };
                let products: Vec<_> = srcs.iter().map(product).collect();
                chain.push(Op::GfMulAdd { products: &products, dst }, deps)
            }
            9 => {
                let src = source(rng);
                if rng.chance(2) {
                    chain.push(Op::Copy { src, dst }, deps).unwrap();
                    self.spoil(rng, chain, dst);
                }
                chain.push(Op::Compare { a: src, b: dst }, deps)
            }
            10 => chain.push(Op::Dualcast { src: source(rng), dst: [dst, second] }, deps),
            11 => {
                let (seed, crc) = (operands.seed(rng), operands.word(rng, second));
                chain.push(Op::Crc32c { src: operands.source(rng), seed, crc }, deps)
            }
            12 => {
                let (seed, crc) = (operands.seed(rng), operands.word(rng, second));
                chain.push(Op::CopyCrc32c { src: operands.source(rng), dst, seed, crc }, deps)
            }
            _ => {
                let recovery = Recovery::random(rng, n, &mut operands, &mut data);
                let Recovery { p, q, lost } = recovery;
                chain.push(Op::Recover { data: &data, p, q, lost }, deps)
            }
        }
        .unwrap()
    }
}

/// What a random operation works on.
struct Operands<'a> {
    world: &'a World,
    /// Two destinations, each in a strip of its own.
    dst: Region,
    second: Region,
    /// The strips of the sources.
    others: Vec<usize>,
    len: usize,
}

impl<'a> Operands<'a> {
    fn random(world: &'a World, rng: &mut Rng) -> Self {
        // The second one may have to hold the four bytes of a CRC.
        let len = if rng.chance(2) { 1 + rng.below(STRIP) } else { 64 * (1 + rng.below(STRIP / 64)) };
        let mut others: Vec<_> = (0..STRIPS).collect();
        for i in (1..STRIPS).rev() {
            others.swap(i, rng.below(i + 1));
        }
        let mut own = || others.pop().unwrap();
        let (d, e) = (own(), own());
        let (dst, second) = (world.in_strip(rng, d, len), world.in_strip(rng, e, len));
        Operands { world, dst, second, others, len }
    }

    fn source(&mut self, rng: &mut Rng) -> Region {
        let strip = self.others[rng.below(self.others.len())];
        self.world.in_strip(rng, strip, self.len)
    }

    fn change(&mut self, rng: &mut Rng) -> Change {
        let (old, new) = [(true, true), (true, false), (false, true)][rng.below(3)];
        let (old, new) = (old.then(|| self.source(rng)), new.then(|| self.source(rng)));
        Change { exponent: rng.below(255) as u8, old, new }
    }

    /// Four bytes in the strip of a destination.
    fn word(&mut self, rng: &mut Rng, near: Region) -> Region {
        let strip = self.world.offset(near) / STRIP;
        self.world.region(strip * STRIP + 4 * rng.below(8), 4)
    }

    /// A seed that is sometimes what an earlier operation left, for all words are where few fit.
    fn seed(&mut self, rng: &mut Rng) -> Seed {
        let strip = self.others[rng.below(self.others.len())];
        match rng.below(3) {
            0 => Seed::Value(0),
            1 => Seed::Value(rng.next() as u32),
            _ => Seed::From(self.world.region(strip * STRIP + 4 * rng.below(8), 4)),
        }
    }
}

/// What a random recovery recovers, and from what.
struct Recovery {
    p: Option<Region>,
    q: Option<Region>,
    lost: Lost,
}

impl Recovery {
    fn random(rng: &mut Rng, n: usize, operands: &mut Operands<'_>, data: &mut [Option<Region>]) -> Self {
        let Operands { dst, second, .. } = *operands;
        let x = rng.below(n);
        let y = (x + 1 + rng.below(n.max(2) - 1)) % n;
        let mut source = || Some(operands.source(rng));
        let (a, b) = (source(), source());
        let (p, q, lost) = match rng.below(7) {
            0 => (a, None, Lost::new(&[x as u8], false, false)),
            1 => (None, a, Lost::new(&[x as u8], false, false)),
            2 => (Some(second), a, Lost::new(&[x as u8], true, false)),
            3 => (a, Some(second), Lost::new(&[x as u8], false, true)),
            4 if x != y => {
                data[y] = Some(second);
                (a, b, Lost::new(&[x as u8, y as u8], false, false))
            }
            5 => (Some(dst), Some(second), Lost::new(&[], true, true)),
            _ => (a, Some(second), Lost::new(&[], false, true)),
        };
        let lost = lost.unwrap();
        if lost.has(x) {
            data[x] = Some(dst);
        }
        Recovery { p, q, lost }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`; the tests drop worlds last.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}
