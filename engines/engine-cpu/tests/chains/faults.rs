//! What the caller and the counters see when something fails.

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::late::{Habits, Late};
use crate::world::{Rng, World};

/// A CPU that refuses one kind of operation.
struct Broken(CpuBackend, OpKind);

impl Inline for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        if op.kind() == self.1 { Err(Fault::Gone) } else { self.0.execute(op) }
    }
}

/// Copies, a fill that nobody can do, and a copy that depends on it.
fn chain(world: &World) -> Chain {
    let block = |i: usize| world.region(i * 64, 64);
    let mut chain = Chain::new();
    for i in 0..4 {
        chain.push(Op::Copy { src: block(20), dst: block(i) }, &[]).unwrap();
    }
    let fill = chain.push(Op::Fill { dst: block(10), byte: 1 }, &[]).unwrap();
    chain.push(Op::Copy { src: block(21), dst: block(11) }, &[fill]).unwrap();
    chain
}

fn broken() -> Engine {
    Engine::new(Box::new(Broken(CpuBackend::auto(), OpKind::Fill)))
}

#[test]
fn a_chain_that_the_cpu_cannot_run_fails_with_the_node() {
    let world = World::random(&mut Rng(1));
    let error = EngineError::Cpu { node: 4, fault: Fault::Gone };
    assert_eq!(broken().run(chain(&world)), Err(error));
    let mut engine = broken();
    engine.submit(chain(&world), 7);
    let mut done = Vec::new();
    engine.poll(&mut done);
    assert_eq!(done, [ChainDone { tag: 7, result: Err(error) }]);
}

#[test]
fn a_failed_chain_ends_only_when_no_backend_holds_a_part_of_it() {
    for seed in 0..50 {
        let world = World::random(&mut Rng(seed));
        let copies = Habits { caps: Caps::NONE.with(OpKind::Copy), queue: 8, ..Habits::GOOD };
        let mut engine = broken().with_backend(Box::new(Late::new(copies, Rng(seed))));
        let mut done = Vec::new();
        engine.submit(chain(&world), 7);
        while done.is_empty() {
            engine.poll(&mut done);
        }
        assert_eq!(done[0].result, Err(EngineError::Cpu { node: 4, fault: Fault::Gone }), "seed {seed}");
        let late = &engine.stats().backends[0];
        assert_eq!((late.submitted, late.completed), (4, 4), "seed {seed}: the four roots, all reaped");
        // The engine goes on working.
        let mut good = engine.chain();
        good.push(Op::Copy { src: world.region(0, 64), dst: world.region(64, 64) }, &[]).unwrap();
        assert_eq!(engine.run(good), Ok(Verdict::default()));
        drop(engine);
    }
}

#[test]
fn a_backend_that_failed_gets_nothing_more() {
    let world = World::random(&mut Rng(1));
    let habits = Habits { fails_one_in: 1, ..Habits::GOOD };
    let mut engine =
        Engine::new(Box::new(CpuBackend::auto())).with_backend(Box::new(Late::new(habits, Rng(1))));
    for round in 0..3 {
        let mut chain = engine.chain();
        chain.push(Op::Fill { dst: world.region(0, 64), byte: round }, &[]).unwrap();
        assert_eq!(engine.run(chain), Ok(Verdict::default()));
        assert!(world.snapshot()[..64].iter().all(|byte| *byte == round), "round {round}");
    }
    let stats = engine.stats();
    assert_eq!((stats.cpu_ops, stats.cpu_retries), (3, 1));
    let late = &stats.backends[0];
    assert_eq!((late.submitted, late.failed, late.quarantined), (1, 1, true));
}

#[test]
fn an_empty_chain_ends_at_once() {
    let habits = Habits::GOOD;
    let mut engine =
        Engine::new(Box::new(CpuBackend::auto())).with_backend(Box::new(Late::new(habits, Rng(1))));
    assert_eq!(engine.run(Chain::new()), Ok(Verdict::default()));
    engine.submit(Chain::new(), 3);
    let mut done = Vec::new();
    engine.poll(&mut done);
    assert_eq!(done, [ChainDone { tag: 3, result: Ok(Verdict::default()) }]);
}
