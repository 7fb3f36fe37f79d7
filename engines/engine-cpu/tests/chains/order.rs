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
