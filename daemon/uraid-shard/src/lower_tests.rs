use super::*;
use async_tx::{Engine, OpKind};
use engine_cpu::CpuBackend;
use uraid_blockio::{Arena, ArenaOptions, IoBuf};
use uraid_core::{Role, SlotId};

const LEN: u32 = 1024;
/// Blocks of memory: four data blocks, P, Q and six more, all in slot 0 as roles 0 to 11; then zeroes.
const BLOCKS: u16 = 12;

struct Bench {
    memory: IoBuf,
    engine: Engine,
    lowering: Lowering,
}

fn block(role: u16) -> Mem {
    part(role, 0, LEN)
}

fn part(role: u16, offset: u32, len: u32) -> Mem {
    Mem { place: Place::Slot(SlotId(0), Role(role)), offset, len }
}

fn zeroes(len: u32) -> Mem {
    Mem { place: Place::Zero, offset: 0, len }
}

fn data() -> Vec<Option<Mem>> {
    (0..4).map(|role| Some(block(role))).collect()
}

/// Where a name is in the memory.
fn place_of(mem: Mem) -> Result<(usize, usize), BadMem> {
    let role = match mem.place {
        Place::Slot(_, Role(role)) if role < BLOCKS => role,
        Place::Zero => BLOCKS,
        _ => return Err(BadMem(mem)),
    };
    Ok((usize::from(role) * LEN as usize + mem.offset as usize, mem.len as usize))
}

impl Bench {
    fn new() -> Self {
        let arena = Arena::new(1 << 20, ArenaOptions::default()).unwrap();
        let memory = arena.view(0, (usize::from(BLOCKS) + 1) * LEN as usize).unwrap();
        let bytes: Vec<u8> =
            (0..usize::from(BLOCKS) * LEN as usize).map(|i| (i * i + i / 251) as u8).collect();
        memory.copy_in(0, &bytes).unwrap();
        let engine = Engine::new(Box::new(CpuBackend::auto()));
        Bench { memory, engine, lowering: Lowering::default() }
    }

    fn bytes(&self, role: u16) -> Vec<u8> {
        self.memory.view(usize::from(role) * LEN as usize, LEN as usize).unwrap().to_vec()
    }

    fn region(memory: &IoBuf, mem: Mem) -> Result<Region, BadMem> {
        let (at, len) = place_of(mem)?;
        let view = memory.view(at, len).map_err(|_| BadMem(mem))?;
        // SAFETY: the arena outlives the chain, which runs to its end in `run` on this thread.
        Ok(unsafe { Region::new(view.as_ptr(), view.len()) })
    }

    /// The kinds of the operations that a plan becomes.
    fn kinds(&mut self, plan: &[Step]) -> Vec<OpKind> {
        let mut chain = self.engine.chain();
        self.lowering.lower(plan, &mut chain, |mem| Self::region(&self.memory, mem)).unwrap();
        chain.ops().map(|op| op.kind()).collect()
    }

    fn run(&mut self, plan: &[Step]) -> Result<Verdict, LowerError> {
        let mut chain = self.engine.chain();
        self.lowering.lower(plan, &mut chain, |mem| Self::region(&self.memory, mem))?;
        Ok(verdict(self.engine.run(chain).unwrap()))
    }
}

fn check() -> Step {
    Step::CheckParity { data: data(), p: Some(block(4)), q: Some(block(5)) }
}

fn generate() -> Step {
    Step::GenParity { data: data(), p: Some(block(4)), q: Some(block(5)) }
}

fn update(old: Mem, new: Mem, exponent: u8) -> Step {
    let here = |role| Some(part(role, old.offset, old.len));
    Step::UpdateParity { old, new, exponent, p: here(4), q: here(5) }
}

#[test]
fn parity_is_made_checked_updated_and_used() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(&[generate(), check()]), Ok(Verdict::default()));
    let new = bench.bytes(6);
    assert_eq!(bench.run(&[update(block(2), block(6), 2), check()]), Ok(Verdict::default()));
    assert_eq!(bench.bytes(2), new);
    let before: Vec<_> = (0..6).map(|role| bench.bytes(role)).collect();
    bench.memory.view(LEN as usize, 2 * LEN as usize).unwrap().fill(0xee);
    assert_eq!(bench.run(&[check()]), Ok(Verdict { p_bad: true, q_bad: true }));
    let recover = Step::Recover {
        data: data(),
        p: Some(block(4)),
        q: Some(block(5)),
        lost: LostBlocks { data: vec![1, 2], p: false, q: false },
    };
    assert_eq!(bench.run(&[recover, check()]), Ok(Verdict::default()));
    assert_eq!((0..6).map(|role| bench.bytes(role)).collect::<Vec<_>>(), before);
}

#[test]
fn an_update_without_parity_still_moves_the_data() {
    let mut bench = Bench::new();
    let update = Step::UpdateParity { old: block(0), new: block(6), exponent: 0, p: None, q: None };
    bench.run(&[update]).unwrap();
    assert_eq!(bench.bytes(0), bench.bytes(6));
}

#[test]
fn zeroes_are_filled_and_are_no_block_to_parity() {
    use OpKind::{Fill, Pq, PqUpdate};
    let mut bench = Bench::new();
    assert_eq!(bench.kinds(&[Step::Copy { src: zeroes(LEN), dst: block(0) }]), [Fill]);
    assert_eq!(bench.kinds(&[update(block(1), zeroes(LEN), 1)]), [PqUpdate, Fill]);
    let mut some = data();
    some[2] = Some(zeroes(LEN));
    let (p, q) = (Some(block(4)), Some(block(5)));
    assert_eq!(bench.kinds(&[Step::GenParity { data: some, p, q }]), [Pq]);
    let none = vec![Some(zeroes(LEN)), None];
    assert_eq!(bench.kinds(&[Step::GenParity { data: none.clone(), p, q }]), [Fill, Fill]);
    assert_eq!(bench.kinds(&[Step::GenParity { data: none, p: None, q }]), [Fill]);
}

#[test]
fn updates_of_the_same_parity_are_one_operation() {
    use OpKind::{Copy, Fill, Pq, PqUpdate};
    let mut bench = Bench::new();
    let three =
        [update(block(0), block(6), 0), update(block(1), zeroes(LEN), 1), update(block(2), block(7), 2)];
    assert_eq!(bench.kinds(&three), [PqUpdate, Copy, Fill, Copy]);
    // Of other bytes of the parity, of the same data again, of data that one before moved into, of data
    // that come after another step: each is an update of its own.
    let half = update(part(1, 0, 512), part(6, 0, 512), 1);
    assert_eq!(bench.kinds(&[update(block(0), block(6), 0), half]), [PqUpdate, Copy, PqUpdate, Copy]);
    let twice = [update(block(0), block(6), 0), update(block(0), block(7), 0)];
    assert_eq!(bench.kinds(&twice), [PqUpdate, Copy, PqUpdate, Copy]);
    let moved = [update(block(0), block(6), 0), update(block(1), block(0), 1)];
    assert_eq!(bench.kinds(&moved), [PqUpdate, Copy, PqUpdate, Copy]);
    let between = [update(block(0), block(6), 0), generate(), update(block(1), block(7), 1)];
    assert_eq!(bench.kinds(&between), [PqUpdate, Copy, Pq, PqUpdate, Copy]);
    let [first, second] = [0, 1].map(|i: u16| Step::UpdateParity {
        old: block(i),
        new: block(6),
        exponent: i as u8,
        p: (i == 0).then(|| block(4)),
        q: Some(block(5)),
    });
    assert_eq!(bench.kinds(&[first, second]), [PqUpdate, Copy, PqUpdate, Copy]);
}

#[test]
fn plans_need_no_new_memory() {
    let mut bench = Bench::new();
    let plan = [update(block(0), block(6), 0), update(block(1), zeroes(LEN), 1), generate(), check()];
    let lists = |bench: &Bench| {
        let Lowering { blocks, changes, moves, .. } = &bench.lowering;
        let places = (blocks.as_ptr(), changes.as_ptr(), moves.as_ptr());
        (places, blocks.capacity(), changes.capacity(), moves.capacity())
    };
    bench.run(&plan).unwrap();
    let before = lists(&bench);
    for _ in 0..100 {
        bench.run(&plan).unwrap();
        assert_eq!(lists(&bench), before, "a list was allocated anew");
    }
}

#[test]
fn impossible_plans_are_refused() {
    let mut bench = Bench::new();
    let nowhere = Step::Copy { src: block(0), dst: block(99) };
    assert_eq!(bench.run(&[nowhere]), Err(LowerError::Mem(BadMem(block(99)))));
    let into_itself = Step::Copy { src: block(0), dst: block(0) };
    assert!(matches!(bench.run(&[into_itself]), Err(LowerError::Chain(_))));
    let three = LostBlocks { data: vec![0, 1, 2], p: false, q: false };
    let too_many = Step::Recover { data: data(), p: Some(block(4)), q: Some(block(5)), lost: three };
    assert!(matches!(bench.run(&[too_many]), Err(LowerError::Chain(_))));
    for uneven in [
        Step::Copy { src: zeroes(512), dst: block(0) },
        update(block(0), zeroes(512), 0),
        update(block(0), part(6, 0, 512), 0),
    ] {
        assert!(matches!(bench.run(&[uneven]), Err(LowerError::Chain(_))));
    }
    // A plan that failed leaves nothing behind for the next one.
    assert_eq!(bench.kinds(&[check()]), [OpKind::PqVal]);
}

#[test]
fn the_zeroes_are_never_written() {
    let (p, q) = (Some(block(4)), Some(block(5)));
    let zero = Some(zeroes(LEN));
    let lost = |data, p, q| LostBlocks { data, p, q };
    let mut blocks = data();
    blocks[1] = zero;
    for step in [
        Step::Copy { src: block(0), dst: zeroes(LEN) },
        Step::GenParity { data: data(), p: zero, q },
        Step::GenParity { data: data(), p, q: zero },
        Step::UpdateParity { old: zeroes(LEN), new: block(0), exponent: 0, p, q },
        Step::UpdateParity { old: block(1), new: block(0), exponent: 0, p: zero, q },
        Step::Recover { data: blocks, p, q, lost: lost(vec![1], false, false) },
        Step::Recover { data: data(), p: zero, q, lost: lost(vec![], true, false) },
        Step::Recover { data: data(), p, q: zero, lost: lost(vec![], false, true) },
    ] {
        let refused = Bench::new().run(std::slice::from_ref(&step));
        assert_eq!(refused, Err(LowerError::Mem(BadMem(zeroes(LEN)))), "{step:?}");
    }
}

/// The steps one by one on plain bytes, as the core means them.
mod naive {
    use super::*;

    pub(super) fn get(memory: &[u8], mem: Mem) -> Vec<u8> {
        let (at, len) = place_of(mem).unwrap();
        memory[at..at + len].to_vec()
    }

    pub(super) fn put(memory: &mut [u8], mem: Mem, bytes: &[u8]) {
        let (at, len) = place_of(mem).unwrap();
        memory[at..at + len].copy_from_slice(bytes);
    }

    /// Times {02} to the power of `exponent`, polynomial 0x11d, bit by bit.
    fn weighted(byte: u8, exponent: u8) -> u8 {
        (0..exponent).fold(byte, |b, _| (b << 1) ^ if b & 0x80 == 0 { 0 } else { 0x1d })
    }

    fn add(sum: &mut [u8], block: &[u8], exponent: u8) {
        sum.iter_mut().zip(block).for_each(|(s, b)| *s ^= weighted(*b, exponent));
    }

    pub(super) fn step(memory: &mut [u8], step: &Step) {
        match step {
            Step::Copy { src, dst } => put(memory, *dst, &get(memory, *src)),
            Step::GenParity { data, p, q } => {
                for (parity, is_q) in [(p, false), (q, true)] {
                    let Some(parity) = parity else { continue };
                    let mut sum = vec![0; parity.len as usize];
                    for (i, block) in data.iter().enumerate() {
                        let Some(block) = block else { continue };
                        add(&mut sum, &get(memory, *block), if is_q { i as u8 } else { 0 });
                    }
                    put(memory, *parity, &sum);
                }
            }
            Step::UpdateParity { old, new, exponent, p, q } => {
                let (was, is) = (get(memory, *old), get(memory, *new));
                for (parity, exponent) in [(p, 0), (q, *exponent)] {
                    let Some(parity) = parity else { continue };
                    let mut sum = get(memory, *parity);
                    add(&mut sum, &was, exponent);
                    add(&mut sum, &is, exponent);
                    put(memory, *parity, &sum);
                }
                put(memory, *old, &is);
            }
            Step::CheckParity { .. } | Step::Recover { .. } => unreachable!("not made here"),
        }
    }
}

/// Random plans, most of them updates that touch each other, give what the steps give one by one.
#[test]
fn random_plans_give_what_their_steps_give() {
    let seed = 0x006c_6f77_6572_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut below = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut merged = 0;
    for _ in 0..3000 {
        let mut bench = Bench::new();
        let mut model = bench.memory.to_vec();
        let plan: Vec<Step> = (0..1 + below(6))
            .map(|_| {
                let (offset, len) = [(0, LEN), (0, 512), (512, 512)][below(3) as usize];
                // Data and others, so that an update may read what another one wrote.
                let new = match below(5) {
                    0 => zeroes(len),
                    1 => part(below(4) as u16, [0, 512][below(2) as usize] * u32::from(len == 512), len),
                    _ => part(6 + below(6) as u16, offset, len),
                };
                let exponent = below(4) as u8;
                let old = part(exponent.into(), offset, len);
                let keep = |role, odds| (odds > 0).then(|| part(role, offset, len));
                let (p, q) = (keep(4, below(24)), keep(5, below(24)));
                match below(8) {
                    _ if new.place == old.place => Step::Copy { src: block(6), dst: block(7) },
                    0 => Step::GenParity { data: data(), p: Some(block(4)), q: Some(block(5)) },
                    1 => Step::Copy { src: new, dst: old },
                    _ => Step::UpdateParity { old, new, exponent, p, q },
                }
            })
            .collect();
        plan.iter().for_each(|step| naive::step(&mut model, step));
        let updates = plan
            .iter()
            .filter(|step| matches!(step, Step::UpdateParity { p, q, .. } if p.is_some() || q.is_some()));
        let kinds = bench.kinds(&plan);
        merged += updates.count() - kinds.iter().filter(|kind| **kind == OpKind::PqUpdate).count();
        bench.run(&plan).unwrap();
        assert!(bench.memory.to_vec() == model, "{plan:?}");
    }
    assert!(merged > 500, "only {merged} updates joined others: too few to prove anything");
}
