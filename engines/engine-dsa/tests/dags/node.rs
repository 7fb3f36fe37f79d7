//! Nodes of chains as plain data: places in a zone of memory instead of pointers, so that the same chain
//! can be built over two memories, printed, and made smaller.

use async_tx::{Chain, Change, Lost, NodeId, Op, Product, Region, Seed, XorMode};
use dsa_model::rng::SplitMix64;

/// Strips of a zone.
pub(crate) const STRIPS: usize = 8;
/// Bytes from one strip to the next: such that two of them agree in the low 12 bits.
pub(crate) const STRIDE: usize = 4096;
/// Bytes of a strip that are used; the others never change.
pub(crate) const USED: usize = 1024;
/// Bytes of a zone.
pub(crate) const ZONE: usize = STRIPS * STRIDE;

/// Bytes in a strip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    strip: usize,
    offset: usize,
    len: usize,
}

/// Memory of a zone.
#[derive(Clone, Copy)]
pub(crate) struct Zone(pub(crate) *mut u8);

impl Zone {
    fn region(self, place: Place) -> Region {
        assert!(place.strip < STRIPS && place.offset + place.len <= USED);
        // SAFETY: inside a zone of `Arena`, which is dropped after the engine; the runner touches a zone
        // only while no chain over it is in flight.
        unsafe { Region::new(self.0.add(place.strip * STRIDE + place.offset), place.len) }
    }
}

/// What a CRC starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum From {
    Value(u32),
    Memory(Place),
}

/// An operation over places.
#[derive(Clone, Debug)]
pub(crate) enum What {
    Notify,
    Copy(Place, Place),
    Fill(Place, u8),
    Xor(Vec<Place>, Place, bool),
    XorVal(Vec<Place>),
    Pq(Vec<Place>, Option<Place>, Option<Place>),
    PqVal(Vec<Place>, Place, Place),
    PqUpdate(Place, Place, Place, Place),
    GfMulAdd(Place, u8, Place),
    Compare(Place, Place),
    Dualcast(Place, [Place; 2]),
    Crc(Place, From, Place),
    CopyCrc(Place, Place, From, Place),
    /// Data with the lost block first, and P.
    Recover(Vec<Place>, Place),
}

/// A node and the nodes before it that it depends on.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) what: What,
    pub(crate) deps: Vec<usize>,
}

/// Random places for the operands of one operation: each strip is given to one destination, or to sources.
/// Destinations are to be taken first.
struct Places<'a> {
    rng: &'a mut SplitMix64,
    strips: Vec<usize>,
    len: usize,
}

impl<'a> Places<'a> {
    fn new(rng: &'a mut SplitMix64) -> Self {
        let mut strips: Vec<usize> = (0..STRIPS).collect();
        rng.shuffle(&mut strips);
        let most = if rng.below(4) == 0 { USED as u64 } else { 300 };
        let len = 1 + rng.below(most) as usize;
        Places { rng, strips, len }
    }

    fn in_strip(&mut self, strip: usize, len: usize) -> Place {
        Place { strip, offset: self.rng.below((USED - len) as u64 + 1) as usize, len }
    }

    fn dst(&mut self) -> Place {
        let strip = self.strips.pop().unwrap();
        self.in_strip(strip, self.len)
    }

    fn word(&mut self) -> Place {
        let strip = self.strips.pop().unwrap();
        self.in_strip(strip, 4)
    }

    /// One of the strips that are left, which others may have, too.
    fn src(&mut self) -> Place {
        let strip = self.strips[self.rng.below(self.strips.len() as u64) as usize];
        self.in_strip(strip, self.len)
    }

    fn srcs(&mut self) -> Vec<Place> {
        (0..=self.rng.below(3)).map(|_| self.src()).collect()
    }

    fn seed(&mut self) -> From {
        if self.rng.below(2) == 0 {
            return From::Value(self.rng.next() as u32);
        }
        let strip = self.strips[self.rng.below(self.strips.len() as u64) as usize];
        From::Memory(self.in_strip(strip, 4))
    }
}

/// Appends a random operation, or one and its check.
pub(crate) fn push_random(rng: &mut SplitMix64, nodes: &mut Vec<Node>) {
    let mut deps: Vec<usize> = (0..nodes.len()).filter(|_| rng.below(6) == 0).collect();
    deps.truncate(3);
    let kind = rng.below(24);
    let spoiled = rng.below(3) == 0;
    let mut places = Places::new(rng);
    let what = match kind {
        0 => What::Notify,
        1..=5 => {
            let dst = places.dst();
            What::Copy(places.src(), dst)
        }
        6..=8 => What::Fill(places.dst(), places.rng.next() as u8),
        9 => {
            let dst = places.dst();
            What::Xor(places.srcs(), dst, places.rng.below(2) == 0)
        }
        10 => What::XorVal(places.srcs()),
        11 => {
            let (p, q) = (places.dst(), places.dst());
            let which = places.rng.below(3);
            What::Pq(places.srcs(), (which != 1).then_some(p), (which != 2).then_some(q))
        }
        12 => {
            let (p, q) = (places.dst(), places.dst());
            What::PqVal(places.srcs(), p, q)
        }
        13 => {
            let (p, q) = (places.dst(), places.dst());
            What::PqUpdate(places.src(), places.src(), p, q)
        }
        14 => {
            let dst = places.dst();
            What::GfMulAdd(places.src(), places.rng.next() as u8, dst)
        }
        15 | 16 => {
            let dst = places.dst();
            let src = places.src();
            if places.rng.below(4) > 0 {
                // A comparison that has a chance to find them equal.
                nodes.push(Node { what: What::Copy(src, dst), deps: Vec::new() });
                if spoiled {
                    let byte = Place { offset: dst.offset + dst.len / 2, len: 1, ..dst };
                    nodes.push(Node { what: What::Fill(byte, places.rng.next() as u8), deps: Vec::new() });
                }
            }
            What::Compare(src, dst)
        }
        17 | 18 => {
            let (first, mut second) = (places.dst(), places.dst());
            if !spoiled {
                second.offset = first.offset;
            }
            What::Dualcast(places.src(), [first, second])
        }
        19 | 20 => {
            let word = places.word();
            What::Crc(places.src(), places.seed(), word)
        }
        21 | 22 => {
            let (dst, word) = (places.dst(), places.word());
            What::CopyCrc(places.src(), dst, places.seed(), word)
        }
        _ => {
            let lost = places.dst();
            let mut data = vec![lost];
            data.extend(places.srcs());
            What::Recover(data, places.src())
        }
    };
    nodes.push(Node { what, deps });
}

/// Builds a chain over a zone.
pub(crate) fn build(nodes: &[Node], zone: Zone, mut chain: Chain) -> Chain {
    let mut ids: Vec<NodeId> = Vec::new();
    let at = |place: &Place| zone.region(*place);
    let seed = |from: &From| match from {
        From::Value(value) => Seed::Value(*value),
        From::Memory(place) => Seed::From(zone.region(*place)),
    };
    for node in nodes {
        let deps: Vec<NodeId> = node.deps.iter().map(|dep| ids[*dep]).collect();
        let all = |places: &[Place]| places.iter().map(at).collect::<Vec<_>>();
        let some = |places: &[Place]| places.iter().map(|place| Some(at(place))).collect::<Vec<_>>();
        let pushed = match &node.what {
            What::Notify => chain.push(Op::Notify, &deps),
            What::Copy(src, dst) => chain.push(Op::Copy { src: at(src), dst: at(dst) }, &deps),
            What::Fill(dst, byte) => chain.push(Op::Fill { dst: at(dst), byte: *byte }, &deps),
            What::Xor(srcs, dst, accumulate) => {
                let mode = if *accumulate { XorMode::Accumulate } else { XorMode::Overwrite };
                chain.push(Op::Xor { srcs: &all(srcs), dst: at(dst), mode }, &deps)
            }
            What::XorVal(srcs) => chain.push(Op::XorVal { srcs: &all(srcs) }, &deps),
            What::Pq(data, p, q) => {
                let (p, q) = (p.as_ref().map(at), q.as_ref().map(at));
                chain.push(Op::Pq { data: &some(data), p, q }, &deps)
            }
            What::PqVal(data, p, q) => {
                chain.push(Op::PqVal { data: &some(data), p: Some(at(p)), q: Some(at(q)) }, &deps)
            }
            What::PqUpdate(old, new, p, q) => {
                let change = Change { exponent: 3, old: Some(at(old)), new: Some(at(new)) };
                chain.push(Op::PqUpdate { changes: &[change], p: Some(at(p)), q: Some(at(q)) }, &deps)
            }
            What::GfMulAdd(src, coefficient, dst) => {
                let product = Product { coefficient: *coefficient, src: at(src) };
                chain.push(Op::GfMulAdd { products: &[product], dst: at(dst) }, &deps)
            }
            What::Compare(a, b) => chain.push(Op::Compare { a: at(a), b: at(b) }, &deps),
            What::Dualcast(src, [d, e]) => {
                chain.push(Op::Dualcast { src: at(src), dst: [at(d), at(e)] }, &deps)
            }
            What::Crc(src, from, crc) => {
                chain.push(Op::Crc32c { src: at(src), seed: seed(from), crc: at(crc) }, &deps)
            }
            What::CopyCrc(src, dst, from, crc) => {
                let op = Op::CopyCrc32c { src: at(src), dst: at(dst), seed: seed(from), crc: at(crc) };
                chain.push(op, &deps)
            }
            What::Recover(data, p) => {
                let lost = Lost::new(&[0], false, false).unwrap();
                chain.push(Op::Recover { data: &some(data), p: Some(at(p)), q: None, lost }, &deps)
            }
        };
        ids.push(pushed.unwrap_or_else(|error| panic!("{node:?}: {error}")));
    }
    chain
}
