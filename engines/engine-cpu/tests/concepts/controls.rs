//! Rows 16 to 27: what is said with each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_tx::*;

use crate::support::{Blocks, Calls, Desk, LEN, chain, cpu, poll, q_of, run};

#[test]
fn c16_overwriting_takes_the_destination_for_zero() {
    let blocks = Blocks::new(3);
    run(Op::Xor { srcs: &[blocks.at(0), blocks.at(1)], dst: blocks.at(2), mode: XorMode::Overwrite });
    assert_eq!(blocks.bytes(2), blocks.sum(&[0, 1]));
}

#[test]
fn c17_accumulating_includes_the_destination_once() {
    let blocks = Blocks::new(3);
    let with_old = blocks.sum(&[0, 1, 2]);
    let srcs = [blocks.at(0), blocks.at(1)];
    run(Op::Xor { srcs: &srcs, dst: blocks.at(2), mode: XorMode::Accumulate });
    assert_eq!(blocks.bytes(2), with_old);
    // To list it, too, is refused: it would cancel itself.
    let listed =
        Op::Xor { srcs: &[blocks.at(2), blocks.at(0)], dst: blocks.at(2), mode: XorMode::Accumulate };
    assert_eq!(listed.check().map(|_| ()), Err(OpError::Overlap));
}

#[test]
fn c18_dropping_the_handle_says_that_nothing_will_depend_on_it() {
    let (blocks, desk) = (Blocks::new(2), Desk::of_copies());
    let mut engine = desk.engine();
    let copy = chain(&[Op::Copy { src: blocks.at(0), dst: blocks.at(1) }]);
    drop(engine.submit_tx(copy, Submit::default()));
    assert_eq!((desk.held(), engine.descriptors()), (1, (0, 1)), "it goes on, and is not recycled yet");
    desk.complete(0);
    poll(&mut engine);
    assert_eq!((engine.descriptors(), blocks.bytes(1) == blocks.bytes(0)), ((1, 1), true));
}

/// A copy of the first block to the second, and from there to the third.
fn relay(blocks: &Blocks) -> Chain {
    let copy = |i| Op::Copy { src: blocks.at(i), dst: blocks.at(i + 1) };
    chain(&[copy(0), copy(1)])
}

#[test]
fn c19_a_fence_orders_what_goes_to_the_device_together() {
    let copies = Caps::NONE.with(OpKind::Copy);
    for fences in [copies, Caps::NONE] {
        let blocks = Blocks::new(3);
        let desk = Desk::of_copies().with(|state| (state.fences, state.batch) = (fences, 8));
        let mut engine = desk.engine();
        engine.submit(relay(&blocks), 1);
        engine.issue_pending_all();
        if fences == copies {
            assert_eq!(
                desk.state().calls,
                [[false, true]],
                "one call, in which the second waits for the first"
            );
            desk.complete_all();
        } else {
            assert_eq!(desk.calls(), [1], "the second goes when the first has ended");
            desk.complete(0);
            poll(&mut engine);
            engine.issue_pending_all();
            desk.complete(0);
        }
        assert_eq!(poll(&mut engine), [1]);
        assert_eq!(blocks.bytes(2), blocks.bytes(0));
    }
}

#[test]
fn c20_an_update_adds_a_syndrome_to_p_and_q() {
    let blocks = Blocks::new(7);
    let data = |new: usize| [Some(blocks.at(0)), Some(blocks.at(new)), Some(blocks.at(2))];
    let (p, q) = (Some(blocks.at(4)), Some(blocks.at(5)));
    run(Op::Pq { data: &data(1), p, q });
    let change = Change { exponent: 1, old: Some(blocks.at(1)), new: Some(blocks.at(3)) };
    run(Op::PqUpdate { changes: &[change], p, q });
    assert_eq!((blocks.bytes(4), blocks.bytes(5)), (blocks.sum(&[0, 3, 2]), q_of(&blocks, &[0, 3, 2])));
}

#[test]
fn c21_a_chain_starts_when_those_that_it_comes_after_have_ended() {
    let (blocks, desk) = (Blocks::new(6), Desk::of_copies());
    let mut engine = desk.engine();
    let copy = |i| chain(&[Op::Copy { src: blocks.at(0), dst: blocks.at(i) }]);
    // More than one to one: two parents of one, and two children of that.
    let parents = [1, 2].map(|i| engine.submit_tx(copy(i), Submit::default()));
    let joined = engine.submit_tx(copy(3), Submit { after: parents, done: Done::None });
    for i in [4, 5] {
        engine.submit_tx(copy(i), Submit { after: [&joined], done: Done::Tag(i as u64) }).ack();
    }
    assert_eq!(desk.held(), 2);
    desk.complete_all();
    poll(&mut engine);
    assert_eq!(desk.held(), 1);
    desk.complete_all();
    poll(&mut engine);
    assert_eq!((desk.held(), joined.is_done()), (2, true));
    desk.complete_all();
    assert_eq!(poll(&mut engine), [4, 5]);
}

#[test]
fn c22_a_callback_runs_once_also_for_what_the_cpu_did() {
    let blocks = Blocks::new(3);
    let desk = Desk::of_copies();
    for (mut engine, on_device) in [(cpu(), false), (desk.engine(), true)] {
        let (calls, done) = Calls::new();
        let copy = chain(&[Op::Copy { src: blocks.at(0), dst: blocks.at(1) }]);
        engine.submit_tx(copy, Submit { after: [] as [Tx; 0], done }).ack();
        assert_eq!((desk.held() > 0, calls.count()), (on_device, 0));
        desk.complete_all();
        (0..3).for_each(|_| drop(poll(&mut engine)));
        assert_eq!(calls.count(), 1);
    }
}

#[test]
fn c23_a_callback_runs_at_the_end_of_poll_and_never_inside_submit() {
    let blocks = Blocks::new(2);
    let mut engine = cpu();
    let (submitting, thread) = (Arc::new(AtomicBool::new(false)), std::thread::current().id());
    let (seen, inside) = (Arc::new(AtomicBool::new(false)), Arc::clone(&submitting));
    let called = Arc::clone(&seen);
    // What it gets is how the chain ended: no engine to submit with. That none can be smuggled in is a
    // test of `OnDone`'s documentation that must not compile.
    let done = Done::Callback(Arc::new(move |done: ChainDone| {
        assert!(!inside.load(Ordering::Relaxed) && std::thread::current().id() == thread);
        assert!(done.result.is_ok());
        called.store(true, Ordering::Relaxed);
    }));
    submitting.store(true, Ordering::Relaxed);
    let copy = chain(&[Op::Copy { src: blocks.at(0), dst: blocks.at(1) }]);
    let tx = engine.submit_tx(copy, Submit { after: [] as [Tx; 0], done });
    let deadline = engine.now();
    engine.wait(&tx, deadline).unwrap();
    engine.issue_pending_all();
    submitting.store(false, Ordering::Relaxed);
    assert!(!seen.load(Ordering::Relaxed), "neither submitting, nor waiting, nor issuing calls it");
    poll(&mut engine);
    assert!(seen.load(Ordering::Relaxed));
}

#[test]
fn c24_a_chain_owns_the_lists_of_its_operations() {
    let blocks = Blocks::new(4);
    let mut engine = cpu();
    let mut xor = engine.chain();
    {
        let mut srcs = vec![blocks.at(0), blocks.at(1)];
        xor.push(Op::Xor { srcs: &srcs, dst: blocks.at(2), mode: XorMode::Overwrite }, &[]).unwrap();
        // The caller's memory is its own again, as scribble memory is not until the operation ended.
        srcs.fill(blocks.at(3));
    }
    engine.run(xor).unwrap();
    assert_eq!(blocks.bytes(2), blocks.sum(&[0, 1]));
}

#[test]
fn c25_an_ended_chain_gives_its_memory_to_the_next() {
    let blocks = Blocks::new(3);
    let mut engine = cpu();
    for round in 0..3u8 {
        let mut chain = engine.chain();
        assert!(chain.is_empty(), "round {round}");
        chain.push(Op::Fill { dst: blocks.at(0), byte: round }, &[]).unwrap();
        engine.run(chain).unwrap();
        assert_eq!(blocks.bytes(0), [round; LEN]);
    }
}

#[test]
fn c26_flags_of_descriptors_are_fields_of_operations() {
    let blocks = Blocks::new(4);
    // PREP_PQ_DISABLE_P and _Q: what is left out. PREP_CONTINUE: an update. CTRL_REUSE: the same operation
    // pushed again. PREP_FENCE: see c19. PREP_INTERRUPT: a notification.
    let (q, data) = (Some(blocks.at(3)), [Some(blocks.at(0)), Some(blocks.at(1))]);
    let reused = Op::Pq { data: &data[..1], p: None, q };
    let go_on = Change { exponent: 1, old: None, new: data[1] };
    for _ in 0..2 {
        let before = blocks.bytes(2);
        let continued = Op::PqUpdate { changes: &[go_on], p: None, q };
        cpu().run(chain(&[reused, continued, Op::Notify])).unwrap();
        assert_eq!((blocks.bytes(3), blocks.bytes(2)), (q_of(&blocks, &[0, 1]), before));
    }
}

#[test]
fn c27_being_a_dependency_acknowledges() {
    let (blocks, desk) = (Blocks::new(3), Desk::of_copies());
    let mut engine = desk.engine();
    let copy = |i| chain(&[Op::Copy { src: blocks.at(0), dst: blocks.at(i) }]);
    let first = engine.submit_tx(copy(1), Submit::default());
    // There is no flag for it: the handle is moved into the call, and cannot be used after that.
    let second = engine.submit_tx(copy(2), Submit { after: [first], done: Done::None });
    desk.complete_all();
    poll(&mut engine);
    assert_eq!(engine.descriptors(), (1, 2), "the first can be used again");
    desk.complete_all();
    poll(&mut engine);
    assert!(second.is_done());
}
