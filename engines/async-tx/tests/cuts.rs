//! What the steps of an operation add up to that is too large for a backend.

use std::sync::{Arc, Mutex, PoisonError};

use async_tx::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Computes naively, at once, whatever is inside its limits, and says if anything is not.
#[derive(Clone)]
struct Small {
    caps: Caps,
    limits: Limits,
    update: Limits,
    kinds: Arc<Mutex<Vec<OpKind>>>,
    done: Vec<Completion>,
}

impl Default for Small {
    fn default() -> Self {
        let (limits, kinds) = (Limits::NONE, Arc::default());
        Small { caps: Caps::ALL, limits, update: limits, kinds, done: Vec::new() }
    }
}

/// 2^n times x in GF(2^8) with the polynomial 0x11d.
fn times_power(x: u8, n: u8) -> u8 {
    (0..n).fold(x, |x, _| (x << 1) ^ if x & 0x80 == 0 { 0 } else { 0x1d })
}

fn times(x: u8, y: u8) -> u8 {
    (0..8).filter(|bit| y >> bit & 1 == 1).fold(0, |sum, bit| sum ^ times_power(x, bit))
}

fn add(dst: Region, of: impl Fn(usize) -> u8) {
    // SAFETY: the operation is in this backend's hands, and this is the only slice at the time.
    unsafe { dst.bytes_mut() }.iter_mut().enumerate().for_each(|(i, byte)| *byte ^= of(i));
}

fn byte(src: Region, i: usize) -> u8 {
    // SAFETY: the operation is in this backend's hands, and a checked operation's sources share no byte
    // with its destinations.
    let bytes = unsafe { src.bytes() };
    bytes[i]
}

fn clear(dst: Region) {
    // SAFETY: the operation is in this backend's hands, and this is the only slice at the time.
    unsafe { dst.bytes_mut() }.fill(0);
}

fn compute(op: &Op<'_>) -> Result<Verdict, Fault> {
    match *op {
        Op::Notify => {}
        Op::Copy { src, dst } => {
            clear(dst);
            add(dst, |i| byte(src, i));
        }
        Op::Xor { srcs, dst, mode } => {
            if mode == XorMode::Overwrite {
                clear(dst);
            }
            srcs.iter().for_each(|src| add(dst, |i| byte(*src, i)));
        }
        Op::Pq { data, p, q } => {
            p.into_iter().chain(q).for_each(clear);
            for (exponent, block) in data.iter().enumerate() {
                let Some(block) = *block else { continue };
                p.into_iter().for_each(|p| add(p, |i| byte(block, i)));
                q.into_iter().for_each(|q| add(q, |i| times_power(byte(block, i), exponent as u8)));
            }
        }
        Op::PqUpdate { changes, p, q } => {
            for Change { exponent, old, new } in changes {
                for block in old.iter().chain(new) {
                    p.into_iter().for_each(|p| add(p, |i| byte(*block, i)));
                    q.into_iter().for_each(|q| add(q, |i| times_power(byte(*block, i), *exponent)));
                }
            }
        }
        Op::GfMulAdd { products, dst } => {
            products
                .iter()
                .for_each(|product| add(dst, |i| times(byte(product.src, i), product.coefficient)));
        }
        _ => return Err(Fault::Unsupported),
    }
    Ok(Verdict::default())
}

impl Inline for Small {
    fn name(&self) -> &str {
        "cpu"
    }

    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        compute(op)
    }
}

impl Backend for Small {
    fn name(&self) -> &str {
        "small"
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn limits(&self, kind: OpKind) -> Limits {
        if kind == OpKind::PqUpdate { self.update } else { self.limits }
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        for ReadyOp { token, op, .. } in ops {
            let limits = self.limits(op.kind());
            assert!(self.caps.has(op.kind()), "{:?}", op.kind());
            assert!(op.check().is_ok(), "a step is a valid operation: {:?}", op.check());
            assert!(op.sources() <= limits.sources_max && op.len() <= limits.len_max, "{op:?}");
            assert!(op.each_block(|block, _| (block.as_ptr() as usize | block.len()).is_multiple_of(limits.align)));
            self.kinds.lock().unwrap_or_else(PoisonError::into_inner).push(op.kind());
            self.done.push(Completion { token: *token, result: compute(op) });
        }
        ops.len()
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn abort(&mut self) {}

    fn revive(&mut self, _: Nanos) -> Revival {
        Revival::Ready
    }
}

const BLOCK: usize = 256;
const BLOCKS: usize = 24;

/// Blocks of random bytes, the last three of which are destinations.
struct Memory(Vec<[u64; BLOCK / 8]>);

impl Memory {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed | 1);
        Memory(
            (0..BLOCKS)
                .map(|_| {
                    std::array::from_fn(|_| {
                        random.below(2);
                        random.0
                    })
                })
                .collect(),
        )
    }

    fn regions(&mut self) -> Vec<Region> {
        let base = self.0.as_mut_ptr().cast::<u8>();
        // SAFETY: the blocks lie in the vector one after the other, which outlives the chains below and is
        // not looked at while they run.
        (0..BLOCKS).map(|i| unsafe { Region::new(base.add(i * BLOCK), BLOCK) }).collect()
    }
}

/// The operations of the tests below, of `sources` sources. `zeroes` tells which data blocks are `None`.
fn with_op<T>(
    kind: OpKind,
    sources: usize,
    zeroes: fn(usize) -> bool,
    blocks: &[Region],
    then: impl FnOnce(Op<'_>) -> T,
) -> T {
    let srcs = &blocks[..sources];
    let (p, q) = (blocks[BLOCKS - 1], blocks[BLOCKS - 2]);
    match kind {
        OpKind::Copy => then(Op::Copy { src: srcs[0], dst: p }),
        OpKind::Xor => then(Op::Xor { srcs, dst: p, mode: XorMode::Overwrite }),
        OpKind::Pq => {
            let data = srcs.iter().enumerate().map(|(i, src)| (!zeroes(i)).then_some(*src));
            then(Op::Pq { data: &data.collect::<Vec<_>>(), p: Some(p), q: Some(q) })
        }
        OpKind::PqUpdate => {
            let changes =
                (0..).zip(srcs).map(|(exponent, new)| Change { exponent, old: None, new: Some(*new) });
            then(Op::PqUpdate { changes: &changes.collect::<Vec<_>>(), p: Some(p), q: Some(q) })
        }
        _ => {
            let products = (3..).zip(srcs).map(|(coefficient, src)| Product { coefficient, src: *src });
            then(Op::GfMulAdd { products: &products.collect::<Vec<_>>(), dst: p })
        }
    }
}

/// Runs it on `small`, which must take it, and compares with the CPU. Returns the kinds of the steps.
#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn steps(small: &Small, kind: OpKind, sources: usize, zeroes: fn(usize) -> bool) -> Vec<OpKind> {
    let run = |engine: &mut Engine| {
        let mut memory = Memory::new(0x5eed);
        let blocks = memory.regions();
        let mut chain = engine.chain();
        with_op(kind, sources, zeroes, &blocks, |op| chain.push(op, &[]).map(|_| ())).unwrap();
        assert_eq!(engine.run(chain), Ok(Verdict::default()));
        memory.0
    };
    small.kinds.lock().unwrap().clear();
    let mut engine = Engine::new(Box::new(Small::default())).with_backend(Box::new(small.clone()));
    let mixed = run(&mut engine);
    assert_eq!(mixed, run(&mut Engine::new(Box::new(Small::default()))), "{kind:?} of {sources}");
    assert_eq!(engine.stats().cpu_ops, 0, "the backend takes it");
    std::mem::take(&mut *small.kinds.lock().unwrap())
}

fn small(sources_max: usize, len_max: usize) -> Small {
    let limits = Limits { sources_max, len_max, align: 8, ..Limits::NONE };
    Small { limits, update: limits, ..Small::default() }
}

const NO_ZEROES: fn(usize) -> bool = |_| false;

/// The original loops where a device takes fewer sources, with the destination as a source again.
#[test]
fn an_xor_on_a_device_of_two_sources_is_continued() {
    assert_eq!(steps(&small(2, 256), OpKind::Xor, 2, NO_ZEROES).len(), 1);
    assert_eq!(steps(&small(2, 256), OpKind::Xor, 7, NO_ZEROES), [OpKind::Xor; 4]);
    assert_eq!(steps(&small(2, 100), OpKind::Xor, 7, NO_ZEROES).len(), 12, "and cut to 96, 96 and 64 bytes");
    assert_eq!(steps(&small(1, 256), OpKind::GfMulAdd, 5, NO_ZEROES), [OpKind::GfMulAdd; 5]);
    assert_eq!(steps(&small(3, 256), OpKind::PqUpdate, 7, NO_ZEROES), [OpKind::PqUpdate; 3]);
    assert_eq!(steps(&small(1, 64), OpKind::Copy, 1, NO_ZEROES), [OpKind::Copy; 4]);
}

/// The original continues P+Q where the device can, and else gives up sources to carry P and Q along. Here
/// a device that can has [`OpKind::PqUpdate`], and what another cannot take whole runs on the CPU.
#[test]
fn pq_with_too_many_sources_is_continued_by_updates() {
    use OpKind::{Pq, PqUpdate};
    assert_eq!(steps(&small(4, 256), Pq, 4, NO_ZEROES), [Pq]);
    assert_eq!(steps(&small(4, 256), Pq, 10, NO_ZEROES), [Pq, PqUpdate, PqUpdate]);
    assert_eq!(steps(&small(4, 128), Pq, 10, NO_ZEROES), [Pq, PqUpdate, PqUpdate, Pq, PqUpdate, PqUpdate]);
    let narrow = Small { update: Limits { sources_max: 1, len_max: 64, ..Limits::NONE }, ..small(2, 256) };
    assert_eq!(steps(&narrow, Pq, 3, NO_ZEROES).len(), 12, "the limits of both hold");
    let cannot = Small { caps: Caps::NONE.with(Pq), ..small(4, 256) };
    let question = Question { kind: Pq, len: 256, sources: 5, align: 256, in_place: false, parent: None };
    let profile = Profile::of(&cannot, Thresholds::all(0));
    let candidate = Candidate { profile: &profile, room: 1, health: Health::Good, near: true };
    assert_eq!(route(&question, [candidate], |_| true), Choice::Cpu(Reason::TooManySources));
}

#[test]
fn blocks_of_zeroes_count_as_sources_wherever_they_are() {
    let zeroes: [fn(usize) -> bool; 6] =
        [|i| i == 1, |i| i < 4, |i| i >= 4, |i| i != 9, |i| i != 2, |_| true];
    for zeroes in zeroes {
        let kinds = steps(&small(3, 256), OpKind::Pq, 10, zeroes);
        assert_eq!((kinds.len(), kinds[0]), (4, OpKind::Pq));
    }
}

#[test]
fn random_cuts_give_the_bytes_of_the_cpu() {
    let seed = 0x0c07;
    println!("seed {seed:#x}");
    let mut random = Random(seed);
    let mut cut = 0;
    for _ in 0..400 {
        let limits = |random: &mut Random| Limits {
            sources_max: 1 + random.below(6),
            len_max: random.one_of(&[8, 40, 100, 128, 256, 4096]),
            align: random.one_of(&[1, 8]),
            ..Limits::NONE
        };
        let small = Small { limits: limits(&mut random), update: limits(&mut random), ..Small::default() };
        let kind =
            random.one_of(&[OpKind::Copy, OpKind::Xor, OpKind::Pq, OpKind::PqUpdate, OpKind::GfMulAdd]);
        let zeroes = random.one_of::<fn(usize) -> bool>(&[NO_ZEROES, |i| i % 3 == 0, |i| i % 5 < 4]);
        let sources = if kind == OpKind::Copy { 1 } else { 1 + random.below(20) };
        cut += usize::from(steps(&small, kind, sources, zeroes).len() > 1);
    }
    assert!(cut > 200, "{cut}");
}

#[test]
fn a_profile_is_what_the_backend_says() {
    let small = Small { caps: Caps::NONE.with(OpKind::Xor), ..Small::default() };
    let found = Profile::of(&small, Thresholds::all(3));
    assert_eq!((found.caps, found.thresholds), (small.caps, Thresholds::all(3)));
    assert!(OpKind::ALL.into_iter().all(|kind| *found.limits(kind) == small.limits(kind)));
}
