//! Operations with more sources or bytes than a backend takes, one kind after the other.

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::late::{Habits, Late};
use crate::model::interpret;
use crate::world::{Rng, World};

/// Bytes of every block: three steps of 48, the last one short.
const LEN: usize = 112;

/// One operation of each kind with `n` sources.
fn chain_of(world: &World, kind: OpKind, n: usize) -> Chain {
    let block = |i: usize| world.region(i * 128, LEN);
    let (dst, second, word) = (block(100), block(101), world.region(102 * 128, 4));
    let srcs: Vec<_> = (0..n).map(block).collect();
    // Blocks of zeroes at the start, in the middle and at the end.
    let data: Vec<_> = (0..n).map(|i| (i % 4 != 3 && i != 0).then(|| block(i))).collect();
    let changes: Vec<_> = (0..n)
        .map(|i| Change {
            exponent: 254 - i as u8,
            old: (i % 3 != 0).then(|| block(i)),
            new: Some(block(i + 20)),
        })
        .collect();
    let products: Vec<_> = (0..n).map(|i| Product { coefficient: 3 * i as u8, src: block(i) }).collect();
    let (p, q) = (Some(dst), Some(second));
    let overwrite = XorMode::Overwrite;
    let mut chain = Chain::new();
    let seed = Seed::From(world.region(90 * 128, 4));
    let mut lost = data.clone();
    lost[0] = Some(block(103));
    match kind {
        OpKind::Notify => chain.push(Op::Notify, &[]),
        OpKind::Copy => chain.push(Op::Copy { src: srcs[0], dst }, &[]),
        OpKind::Fill => chain.push(Op::Fill { dst, byte: 0x77 }, &[]),
        OpKind::Xor => {
            chain.push(Op::Xor { srcs: &srcs, dst, mode: overwrite }, &[]).unwrap();
            chain.push(Op::Xor { srcs: &srcs, dst: second, mode: XorMode::Accumulate }, &[])
        }
        OpKind::XorVal => chain.push(Op::XorVal { srcs: &srcs }, &[]),
        OpKind::Pq => {
            chain.push(Op::Pq { data: &data, p, q }, &[]).unwrap();
            chain
                .push(Op::Pq { data: &vec![None; n], p: Some(block(104)), q: Some(block(105)) }, &[])
                .unwrap();
            chain.push(Op::Pq { data: &data, p: None, q: Some(block(106)) }, &[]).unwrap();
            chain.push(Op::Pq { data: &data, p: Some(block(107)), q: None }, &[])
        }
        OpKind::PqVal => chain.push(Op::PqVal { data: &data, p, q }, &[]),
        OpKind::PqUpdate => chain.push(Op::PqUpdate { changes: &changes, p, q }, &[]),
        OpKind::Recover => {
            let q = Some(block(108));
            let lost_blocks = Lost { data: [Some(0), None], p: false, q: false };
            chain.push(Op::Recover { data: &lost, p: None, q, lost: lost_blocks }, &[])
        }
        OpKind::GfMulAdd => chain.push(Op::GfMulAdd { products: &products, dst }, &[]),
        OpKind::Compare => chain.push(Op::Compare { a: srcs[0], b: dst }, &[]),
        OpKind::Dualcast => chain.push(Op::Dualcast { src: srcs[0], dst: [dst, second] }, &[]),
        OpKind::Crc32c => chain.push(Op::Crc32c { src: srcs[0], seed, crc: word }, &[]),
        OpKind::CopyCrc32c => chain.push(Op::CopyCrc32c { src: srcs[0], dst, seed, crc: word }, &[]),
    }
    .unwrap();
    chain
}

/// Whether the backend can go on with more sources than it takes.
fn continues(kind: OpKind) -> bool {
    matches!(kind, OpKind::Xor | OpKind::Pq | OpKind::PqUpdate | OpKind::GfMulAdd)
}

fn has_list(kind: OpKind) -> bool {
    continues(kind) || matches!(kind, OpKind::XorVal | OpKind::PqVal | OpKind::Recover)
}

#[test]
fn every_kind_with_at_most_two_and_three_sources() {
    let mut rng = Rng(0xc07);
    for kind in OpKind::ALL.into_iter().filter(|kind| *kind != OpKind::Notify) {
        for (sources_max, n) in [2, 3].into_iter().flat_map(|max| (1..10).map(move |n| (max, n))) {
            let what = format!("{} of {n} sources, at most {sources_max}", kind.word());
            let world = World::random(&mut rng);
            let chain = chain_of(&world, kind, n);
            let mut expected = world.snapshot();
            let verdict = interpret(&world, &chain, &mut expected);
            let limits = Limits { sources_max, len_max: 50, align: 16, ..Limits::NONE };
            let habits = Habits { limits, queue: 9, ..Habits::GOOD };
            let base = world.region(0, 1).as_ptr() as usize;
            assert!(base.is_multiple_of(16), "the allocator aligns to 16 bytes");
            let backend = Box::new(Late::new(habits, Rng(rng.next())));
            let mut engine = Engine::new(Box::new(CpuBackend::auto())).with_backend(backend);
            let nodes = chain.len() as u64;
            assert_eq!(engine.run(chain), Ok(verdict), "{what}");
            assert!(world.snapshot() == expected, "{what}: other bytes");
            let stats = engine.stats();
            let steps: u64 = stats.backends[0].submitted;
            let groups = if has_list(kind) { n.div_ceil(sources_max) as u64 } else { 1 };
            if groups > 1 && !continues(kind) {
                assert_eq!((steps, stats.on_cpu_for(Reason::TooManySources)), (0, nodes), "{what}");
            } else {
                // 48 is the most that is aligned and not more than 50.
                assert_eq!((steps, stats.cpu_ops), (nodes * groups * 3, 0), "{what}");
            }
            drop(engine);
        }
    }
}

#[test]
fn a_pq_with_too_many_sources_needs_updates_to_go_on() {
    let mut rng = Rng(0xc08);
    let world = World::random(&mut rng);
    let caps = Caps::ALL.without(OpKind::PqUpdate);
    let habits = Habits { caps, limits: Limits { sources_max: 3, ..Limits::NONE }, ..Habits::GOOD };
    let backend = Box::new(Late::new(habits, Rng(1)));
    let mut engine = Engine::new(Box::new(CpuBackend::auto())).with_backend(backend);
    let chain = chain_of(&world, OpKind::Pq, 5);
    let mut expected = world.snapshot();
    interpret(&world, &chain, &mut expected);
    assert_eq!(engine.run(chain), Ok(Verdict::default()));
    assert!(world.snapshot() == expected);
    assert_eq!((engine.stats().backends[0].submitted, engine.stats().cpu_ops), (0, 4));
    drop(engine);
}
