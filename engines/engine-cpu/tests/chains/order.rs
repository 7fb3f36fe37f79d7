//! Dependencies that no memory shows: a node starts when what it depends on has ended, and not before.

use async_tx::*;

use crate::manual::{Desk, copies, copy, is_copied, poll};
use crate::world::{Rng, World};

#[test]
fn a_node_waits_for_all_that_it_depends_on() {
    let world = World::random(&mut Rng(1));
    let desk = Desk::new();
    let mut engine = desk.engine();

    let mut chain = engine.chain();
    let first = chain.push(copy(&world, 1), &[]).unwrap();
    let second = chain.push(copy(&world, 2), &[]).unwrap();
    let both = chain.push(Op::Notify, &[first, second]).unwrap();
    chain.push(copy(&world, 3), &[both]).unwrap();
    engine.submit(chain, 9);

    assert_eq!((poll(&mut engine), desk.held()), (vec![], 2), "the two roots");
    desk.complete(1);
    assert_eq!((poll(&mut engine), desk.held()), (vec![], 1), "one root is left");
    desk.complete(0);
    assert_eq!((poll(&mut engine), desk.held()), (vec![], 1), "released by the notification");
    assert_eq!(engine.in_flight(), 1);
    desk.complete(0);
    assert_eq!(poll(&mut engine), [ChainDone { tag: 9, result: Ok(Verdict::default()) }]);
    drop(engine);
}

#[test]
fn a_last_node_waits_for_every_leaf() {
    let world = World::random(&mut Rng(1));
    let mut chain = copies(&world, &[1, 2, 3]);
    let next = chain.push_next(copy(&world, 4)).unwrap();
    let last = chain.push_last(Op::Notify).unwrap();
    let indices: Vec<_> = chain.deps(last.index()).iter().map(|dep| dep.index()).collect();
    assert_eq!(indices, [0, 1, next.index()], "all but the one that another waits for");
    let after = chain.push_last(copy(&world, 5)).unwrap();
    assert_eq!(chain.deps(after.index()), [last]);
    assert_eq!(Chain::new().push_last(Op::Notify).unwrap().index(), 0);

    let desk = Desk::new();
    let mut engine = desk.engine();
    engine.submit(chain, 0);
    for left in [3, 2, 1, 1] {
        assert_eq!((desk.held(), is_copied(&world, 5)), (left, false));
        desk.complete(0);
        poll(&mut engine);
    }
    assert_eq!(desk.held(), 1, "the one behind the notification");
    desk.complete(0);
    assert_eq!(poll(&mut engine).len(), 1);
    drop(engine);
}

/// A backend for copies of 4 KiB, which it takes from twice that on after an operation that ran elsewhere.
fn for_4k() -> (World, Desk, Engine) {
    let desk = Desk::new();
    desk.state().limits.len_min = 4096;
    let engine = desk.engine();
    (World::random(&mut Rng(1)), desk, engine)
}

fn copy_4k(world: &World, to: usize) -> Op<'static> {
    Op::Copy { src: world.region(0, 4096), dst: world.region(to * 4096, 4096) }
}

/// How many of three copies stay on the backend, of which the second comes after a chain of `between`, and that
/// after the first.
fn stay(between: impl Fn(&World, &mut Chain) -> Option<NodeId>) -> usize {
    let (world, desk, mut engine) = for_4k();
    let chain = |op: Op<'_>| {
        let mut chain = Chain::new();
        chain.push(op, &[]).unwrap();
        chain
    };
    let first = engine.submit_tx(chain(copy_4k(&world, 1)), Submit::default());
    let mut middle = Chain::new();
    between(&world, &mut middle);
    let middle = engine.submit_tx(middle, Submit { after: [first], done: Done::None });
    let last = engine.submit_tx(chain(copy_4k(&world, 2)), Submit { after: [middle], done: Done::Tag(1) });
    last.ack();
    let mut done = Vec::new();
    while done.is_empty() {
        (0..desk.held()).for_each(|_| desk.complete(0));
        engine.poll(&mut done);
    }
    drop(engine);
    desk.calls().len()
}

#[test]
fn what_comes_after_a_chain_comes_from_where_that_ran() {
    assert_eq!(stay(|world, chain| chain.push(copy_4k(world, 3), &[]).ok()), 3);
    let fill = |world: &World| Op::Fill { dst: world.region(3 * 4096, 4096), byte: 1 };
    assert_eq!(stay(|world, chain| chain.push(fill(world), &[]).ok()), 1, "the fill ran on the CPU");
    // Where nothing is computed, nothing is left either.
    assert_eq!(stay(|_, _| None), 2);
    assert_eq!(stay(|_, chain| chain.push(Op::Notify, &[]).ok()), 2);
    // Also in a chain of which a part goes to the backend.
    let mixed = |world: &World, chain: &mut Chain| {
        chain.push(copy_4k(world, 3), &[]).unwrap();
        chain.push_last(Op::Notify).ok()
    };
    assert_eq!(stay(mixed), 3);
}

#[test]
fn a_notification_between_two_nodes_does_not_move_the_second() {
    let (world, desk, mut engine) = for_4k();
    let mut chain = engine.chain();
    let first = chain.push(copy_4k(&world, 1), &[]).unwrap();
    let said = chain.push(Op::Notify, &[first]).unwrap();
    chain.push(copy_4k(&world, 2), &[said]).unwrap();
    // One behind a notification that follows nothing follows nothing.
    let alone = chain.push(Op::Notify, &[]).unwrap();
    chain.push(copy_4k(&world, 3), &[alone]).unwrap();
    engine.submit(chain, 1);
    assert_eq!(desk.held(), 2);
    desk.complete(0);
    assert_eq!((poll(&mut engine), desk.held()), (vec![], 2));
    (0..2).for_each(|_| desk.complete(0));
    assert_eq!(poll(&mut engine).len(), 1);
    assert_eq!(engine.stats().on_cpu_for(Reason::TooShort), 0);
    drop(engine);
}
