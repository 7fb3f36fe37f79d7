//! What is gathered, when it is issued, and what is fenced.

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::manual::{Desk, copies, copy, is_copied, poll};
use crate::world::{Rng, World};

fn world() -> World {
    World::random(&mut Rng(3))
}

#[test]
fn a_full_batch_is_issued_and_the_rest_when_the_caller_says_so() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 3;
    let mut engine = desk.engine();
    for i in 1..6 {
        engine.submit(copies(&world, &[i]), i as u64);
        poll(&mut engine);
    }
    assert_eq!(desk.calls(), [[false; 3]], "three made a batch, and two wait for more");
    engine.issue_pending_all();
    assert_eq!(desk.calls(), [vec![false; 3], vec![false; 2]]);
    engine.issue_pending_all();
    assert_eq!(desk.calls().len(), 2, "nothing is left to issue");
    (0..5).for_each(|_| desk.complete(0));
    assert_eq!(poll(&mut engine).len(), 5);
    let stats = &engine.stats().backends[0];
    assert_eq!((stats.batches, stats.submitted, stats.fences), (2, 5, 0));
    drop(engine);
}

#[test]
fn what_a_poll_releases_is_issued_when_the_caller_says_so_again() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 2;
    let mut engine = desk.engine();
    let first = engine.submit_tx(copies(&world, &[1]), Submit::default());
    engine.submit_tx(copies(&world, &[2]), Submit { after: [first], done: Done::Tag(1) }).ack();
    engine.issue_pending_all();
    desk.complete(0);
    for _ in 0..100 {
        assert_eq!((poll(&mut engine), desk.held(), engine.stats().backends[0].pending), (vec![], 0, 1));
    }
    assert_eq!(engine.wake_at(), None, "what is pending has no deadline");
    engine.issue_pending_all();
    desk.complete(0);
    assert_eq!(poll(&mut engine).len(), 1);
    drop(engine);
}

#[test]
fn a_batch_is_not_larger_than_the_room() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 10;
    desk.state().room = 2;
    let mut engine = desk.engine();
    engine.submit(copies(&world, &[1, 2, 3]), 1);
    assert_eq!(desk.calls(), [[false; 2]], "no more fit, so there is nothing to wait for");
    assert!(is_copied(&world, 3), "the CPU took the third");
    assert_eq!(engine.stats().on_cpu_for(Reason::QueueFull), 1);
    (0..2).for_each(|_| desk.complete(0));
    assert_eq!(poll(&mut engine).len(), 1);
    drop(engine);
}

#[test]
fn a_node_behind_nodes_of_its_batch_joins_it_with_a_fence() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 10;
    desk.state().fences = Caps::NONE.with(OpKind::Copy);
    let mut engine = desk.engine();
    let mut chain = copies(&world, &[1, 2]);
    // Block 1 to block 3, and that to block 4; and one that waits for nothing.
    let block = |i: usize| world.region(i * 64, 64);
    chain.push(Op::Copy { src: block(1), dst: block(3) }, &[]).unwrap();
    chain.push(Op::Copy { src: block(3), dst: block(4) }, &[]).unwrap();
    chain.push(copy(&world, 5), &[]).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    assert_eq!(desk.calls(), [[false, false, false, true, true]], "one call for all");
    (0..5).for_each(|_| desk.complete(0));
    assert_eq!(poll(&mut engine).len(), 1);
    assert!([1, 2, 3, 4, 5].into_iter().all(|i| is_copied(&world, i)));
    assert_eq!(engine.stats().backends[0].fences, 2);
    drop(engine);
}

#[test]
fn a_completion_behind_a_fence_that_comes_first_waits_for_the_others() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 10;
    desk.state().fences = Caps::NONE.with(OpKind::Copy);
    let mut engine = desk.engine();
    let mut chain = copies(&world, &[1]);
    chain.push(Op::Copy { src: world.region(64, 64), dst: world.region(128, 64) }, &[]).unwrap();
    chain.push_next(Op::Fill { dst: world.region(192, 64), byte: 9 }).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    let fill = |world: &World| world.snapshot()[192] == 9 && world.snapshot()[193] == 9;
    // The device ran them in order, but tells the second first.
    let first = desk.state().held[0].1.clone();
    CpuBackend::auto().execute(&first.op(0).unwrap()).unwrap();
    desk.complete(1);
    assert_eq!((poll(&mut engine), fill(&world)), (vec![], false));
    desk.complete(0);
    assert_eq!((poll(&mut engine).len(), fill(&world)), (1, true));
    assert!(is_copied(&world, 2));
    drop(engine);
}

#[test]
fn what_was_behind_a_fence_that_failed_runs_after_what_was_before_it() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 10;
    desk.state().fences = Caps::NONE.with(OpKind::Copy);
    let mut engine = desk.engine();
    let mut chain = copies(&world, &[1]);
    chain.push(Op::Copy { src: world.region(64, 64), dst: world.region(128, 64) }, &[]).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    // The second is told to be abandoned before the first is known to have failed.
    desk.fail(1, Fault::Abandoned);
    assert_eq!((poll(&mut engine), is_copied(&world, 2)), (vec![], false));
    desk.fail(0, Fault::Declined);
    assert_eq!((poll(&mut engine).len(), is_copied(&world, 2)), (1, true));
    let stats = &engine.stats().backends[0];
    assert_eq!((stats.declined, stats.abandoned, stats.quarantined), (1, 1, false));
    drop(engine);
}

#[test]
fn what_would_spoil_the_sources_of_its_batch_is_not_fenced() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 10;
    desk.state().fences = Caps::ALL;
    let mut engine = desk.engine();
    let mut chain = copies(&world, &[1]);
    // It overwrites what the copy reads.
    chain.push(Op::Fill { dst: world.region(0, 64), byte: 9 }, &[]).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    assert_eq!(desk.calls(), [[false]], "the fill waits for the completion of the copy");
    let source = world.snapshot()[..64].to_vec();
    // The device made the copy, but the completion was lost, and the backend gives up what it has.
    desk.fail(0, Fault::Aborted);
    assert_eq!(poll(&mut engine).len(), 1);
    let bytes = world.snapshot();
    assert_eq!((&bytes[64..128], &bytes[..64]), (&source[..], &[9; 64][..]));
    drop(engine);
}

#[test]
fn what_is_void_makes_void_what_is_behind_it_however_early_it_came() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let world = world();
        let desk = Desk::new();
        desk.state().batch = 10;
        desk.state().fences = Caps::NONE.with(OpKind::Copy);
        let mut engine = desk.engine();
        let block = |i: usize| world.region(i * 64, 64);
        let mut chain = Chain::new();
        let first = chain.push(copy(&world, 5), &[]).unwrap();
        // Behind the first; and one that overwrites what this wrote, and has to do with the first by this alone.
        chain.push(Op::Copy { src: block(1), dst: block(4) }, &[first]).unwrap();
        chain.push(Op::Copy { src: block(2), dst: block(4) }, &[]).unwrap();
        engine.submit(chain, 1);
        engine.issue_pending_all();
        assert_eq!(desk.calls(), [[false, true, true]]);
        // The device ran all of them, but how the first ended was lost.
        let tokens = desk.get(|state| state.held.iter().map(|held| held.0).collect::<Vec<_>>());
        (0..3).for_each(|index| assert!(desk.run(index).is_ok()));
        let mut done = vec![];
        for node in order {
            let index = desk.get(|state| state.held.iter().position(|held| held.0 == tokens[node])).unwrap();
            desk.end(index, if node == 0 { Err(Fault::Aborted) } else { Ok(Verdict::default()) });
            engine.poll(&mut done);
        }
        assert_eq!(done, [ChainDone { tag: 1, result: Ok(Verdict::default()) }], "{order:?}");
        let bytes = world.snapshot();
        assert!(bytes[256..320] == bytes[128..192], "{order:?}: the second was repeated after the third");
        assert_eq!(engine.stats().cpu_retries, 3, "{order:?}");
        drop(engine);
    }
}
