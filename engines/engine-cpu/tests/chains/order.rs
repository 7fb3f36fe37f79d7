//! Dependencies that no memory shows: a node starts when what it depends on has ended, and not before.

use std::sync::{Arc, Mutex};

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::world::{Rng, World};

/// What a [`Manual`] backend holds, shared with the test.
#[derive(Default)]
struct Desk {
    held: Vec<OpToken>,
    ended: Vec<OpToken>,
}

/// A backend that takes copies, without doing them, and ends them when the test says so.
struct Manual(Arc<Mutex<Desk>>);

impl Backend for Manual {
    fn name(&self) -> &str {
        "manual"
    }

    fn caps(&self) -> Caps {
        Caps::NONE.with(OpKind::Copy)
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        Limits::NONE
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        self.0.lock().unwrap().held.extend(ops.iter().map(|op| op.token));
        ops.len()
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let ended = std::mem::take(&mut self.0.lock().unwrap().ended);
        done.extend(ended.into_iter().map(|token| Completion { token, result: Ok(Verdict::default()) }));
    }

    fn abort(&mut self) {}

    fn revive(&mut self, _now: Nanos) -> Revival {
        Revival::Failed
    }
}

#[test]
fn a_node_waits_for_all_that_it_depends_on() {
    let world = World::random(&mut Rng(1));
    let copy = |i: usize| Op::Copy { src: world.region(0, 64), dst: world.region(i * 64, 64) };
    let desk = Arc::new(Mutex::new(Desk::default()));
    let backend = Box::new(Manual(Arc::clone(&desk)));
    let mut engine = Engine::new(Box::new(CpuBackend::auto())).with_backend(backend);

    let mut chain = engine.chain();
    let first = chain.push(copy(1), &[]).unwrap();
    let second = chain.push(copy(2), &[]).unwrap();
    let both = chain.push(Op::Notify, &[first, second]).unwrap();
    chain.push(copy(3), &[both]).unwrap();
    engine.submit(chain, 9);

    let mut done = Vec::new();
    let held = |engine: &mut Engine, done: &mut Vec<ChainDone>| {
        engine.poll(done);
        desk.lock().unwrap().held.len()
    };
    let end_last = || {
        let mut desk = desk.lock().unwrap();
        let token = desk.held.pop().unwrap();
        desk.ended.push(token);
    };
    assert_eq!(held(&mut engine, &mut done), 2, "the two roots");
    end_last();
    assert_eq!(held(&mut engine, &mut done), 1, "one root is left, and the third copy waits for it");
    end_last();
    assert_eq!(held(&mut engine, &mut done), 1, "the third copy, released by the notification");
    assert_eq!((done.len(), engine.in_flight()), (0, 1));
    end_last();
    assert_eq!(held(&mut engine, &mut done), 0);
    assert_eq!(done, [ChainDone { tag: 9, result: Ok(Verdict::default()) }]);
}
