//! Rows 28 to 41: chains, completion, recycling.

use std::time::Duration;

use async_tx::*;

use crate::support::{Blocks, Calls, Desk, Hand, chain, cpu, poll};

fn copy(blocks: &Blocks, from: usize, to: usize) -> Op<'static> {
    Op::Copy { src: blocks.at(from), dst: blocks.at(to) }
}

fn alerts(engine: &mut Engine) -> Vec<Alert> {
    let mut alerts = Vec::new();
    engine.take_alerts(&mut alerts);
    alerts
}

#[test]
fn c28_a_node_goes_at_once_or_behind_a_fence_or_when_the_others_have_ended() {
    let blocks = Blocks::new(8);
    let copies = Caps::NONE.with(OpKind::Copy);
    let desk = Desk::of_copies().with(|state| (state.fences, state.batch) = (copies, 3));
    let mut engine = desk.engine();
    let mut chain = engine.chain();
    // Direct: nothing to wait for. The same channel: behind a fence. Another channel: after the CPU.
    let direct = chain.push(copy(&blocks, 0, 1), &[]).unwrap();
    let same = chain.push(copy(&blocks, 1, 2), &[direct]).unwrap();
    let fill = chain.push(Op::Fill { dst: blocks.at(4), byte: 7 }, &[same]).unwrap();
    // A DAG: two wait for one, one for two.
    chain.push(copy(&blocks, 4, 5), &[fill]).unwrap();
    chain.push(copy(&blocks, 4, 6), &[fill, direct]).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    assert_eq!(desk.state().calls, [[false, true]]);
    desk.complete_all();
    poll(&mut engine);
    engine.issue_pending_all();
    assert_eq!(desk.state().calls.last(), Some(&vec![false, false]), "the fill has run, and released both");
    desk.complete_all();
    assert_eq!(poll(&mut engine), [1]);
    assert_eq!((blocks.bytes(2), blocks.bytes(6)), (blocks.bytes(0), blocks.bytes(4)));
}

#[test]
fn c29_a_chain_switches_channels_as_often_as_it_has_to() {
    let (blocks, desk) = (Blocks::new(4), Desk::of_copies());
    let mut engine = desk.engine();
    let sum = blocks.sum(&[0, 1]);
    let srcs = [blocks.at(0)];
    let first = Op::Xor { srcs: &srcs, dst: blocks.at(1), mode: XorMode::Accumulate };
    let last = Op::Xor { srcs: &srcs, dst: blocks.at(2), mode: XorMode::Accumulate };
    let before = blocks.bytes(1);
    engine.submit(chain(&[first, copy(&blocks, 1, 2), last]), 1);
    assert_eq!(desk.held(), 1, "the xor ran on the CPU, and the copy waits for nobody any more");
    assert_eq!(blocks.bytes(1), sum);
    desk.complete(0);
    assert_eq!(poll(&mut engine), [1]);
    assert_eq!(blocks.bytes(2), before, "to add twice is to take away");
    let stats = engine.stats();
    assert_eq!((stats.cpu_ops, stats.backends[0].completed), (2, 1));
}

#[test]
fn c30_what_takes_too_long_is_given_up_and_run_on_the_cpu() {
    let (blocks, desk, clock) = (Blocks::new(2), Desk::of_copies(), Hand::default());
    let mut engine = desk.engine().with_clock(Box::new(clock.clone()));
    engine.submit(chain(&[copy(&blocks, 0, 1)]), 1);
    clock.pass(Duration::from_secs(5));
    assert_eq!((poll(&mut engine), desk.state().aborts), (vec![], 1));
    assert_ne!(blocks.bytes(1), blocks.bytes(0), "not before the device has let go of it");
    desk.fail(0, Fault::Aborted);
    assert_eq!(poll(&mut engine), [1], "no error, and no panic");
    assert_eq!(blocks.bytes(1), blocks.bytes(0));
    let [Alert::Quarantined { fault: Fault::TimedOut, .. }] = alerts(&mut engine)[..] else {
        panic!("no alert of the quarantine")
    };
    assert_eq!(engine.stats().backends[0].timeouts, 1);
}

#[test]
fn c31_a_completion_releases_its_children_in_their_order() {
    let (blocks, desk) = (Blocks::new(6), Desk::of_copies());
    let mut engine = desk.engine();
    let mut chain = engine.chain();
    let parent = chain.push(copy(&blocks, 0, 1), &[]).unwrap();
    for i in 2..6 {
        chain.push(copy(&blocks, 1, i), &[parent]).unwrap();
    }
    engine.submit(chain, 1);
    assert_eq!(desk.held(), 1);
    desk.complete(0);
    poll(&mut engine);
    let state = desk.state();
    let destinations: Vec<_> = state.held.iter().map(|(_, held)| *held.op(0).unwrap()).collect();
    assert_eq!(destinations, [2, 3, 4, 5].map(|i| copy(&blocks, 1, i)));
    drop(state);
    desk.complete_all();
    assert_eq!(poll(&mut engine), [1]);
}

#[test]
fn c32_an_engine_has_one_owner_and_needs_no_lock() {
    let (blocks, desk) = (Blocks::new(2), Desk::of_copies());
    let mut engine = desk.engine();
    engine.submit(chain(&[copy(&blocks, 0, 1)]), 1);
    // It can go to another thread with all that is in flight; it cannot be in two.
    let thread = std::thread::spawn(move || {
        desk.complete(0);
        poll(&mut engine)
    });
    assert_eq!(thread.join().unwrap(), [1]);
    assert_eq!(blocks.bytes(1), blocks.bytes(0));
}

#[test]
fn c33_a_descriptor_is_recycled_when_complete_and_acknowledged() {
    let blocks = Blocks::new(3);
    for way in ["dropped", "acknowledged", "consumed"] {
        for complete_first in [true, false] {
            let desk = Desk::of_copies();
            let mut engine = desk.engine();
            let tx = engine.submit_tx(chain(&[copy(&blocks, 0, 1)]), Submit::default());
            let complete = |engine: &mut Engine| {
                desk.complete_all();
                poll(engine);
            };
            if complete_first {
                complete(&mut engine);
                assert_eq!(engine.descriptors(), (0, 1), "complete, and not acknowledged");
            }
            match way {
                "dropped" => drop(tx),
                "acknowledged" => tx.ack(),
                _ => engine.trigger_callback(tx, Done::None).ack(),
            }
            if !complete_first {
                assert_eq!(engine.descriptors().0, 0, "acknowledged, and not complete");
                complete(&mut engine);
            }
            let (free, all) = engine.descriptors();
            assert_eq!(free, all, "{way}, complete first: {complete_first}");
        }
    }
}

#[test]
fn c34_operations_are_issued_when_they_are_enough_or_when_the_caller_says_so() {
    let blocks = Blocks::new(16);
    let desk = Desk::of_copies().with(|state| state.batch = 8);
    let mut engine = desk.engine();
    for i in 1..8 {
        engine.submit(chain(&[copy(&blocks, 0, i)]), i as u64);
        poll(&mut engine);
    }
    assert_eq!((desk.held(), engine.stats().backends[0].pending), (0, 7), "polling does not issue seven");
    engine.submit(chain(&[copy(&blocks, 0, 8)]), 8);
    assert_eq!(desk.calls(), [8], "eight are enough");
    engine.submit(chain(&[copy(&blocks, 0, 9)]), 9);
    poll(&mut engine);
    assert_eq!(desk.calls(), [8]);
    engine.issue_pending_all();
    assert_eq!(desk.calls(), [8, 1]);
    desk.complete_all();
    assert_eq!(poll(&mut engine), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn c35_issue_pending_all_is_for_every_backend() {
    let blocks = Blocks::new(3);
    let batch = |kind, name| Desk::of(&[kind]).with(|state| (state.batch, state.name) = (8, name));
    let (copies, fills) = (batch(OpKind::Copy, "copies"), batch(OpKind::Fill, "fills"));
    let mut engine = cpu().with_backend(copies.backend()).with_backend(fills.backend());
    engine.submit(chain(&[copy(&blocks, 0, 1), Op::Fill { dst: blocks.at(2), byte: 0 }]), 1);
    assert_eq!((copies.held(), fills.held()), (0, 0));
    engine.issue_pending_all();
    assert_eq!((copies.held(), fills.held()), (1, 1));
    // To wait issues what is pending, too.
    copies.complete_all();
    fills.complete_all();
    poll(&mut engine);
    let tx = engine.submit_tx(chain(&[copy(&blocks, 0, 1)]), Submit::default());
    let now = engine.now();
    assert_eq!((engine.wait(&tx, now), copies.held()), (Err(WaitError::Deadline), 1));
    copies.complete_all();
    assert_eq!(engine.wait(&tx, now), Ok(Verdict::default()));
}

#[test]
fn c36_what_ended_at_once_is_reported_like_the_rest() {
    let blocks = Blocks::new(2);
    let mut engine = cpu();
    let (calls, done) = Calls::new();
    let tx = engine.submit_tx(chain(&[copy(&blocks, 0, 1)]), Submit::default());
    let tx = engine.submit_tx(chain(&[]), Submit { after: [tx], done: Done::Tag(5) });
    engine.trigger_callback(tx, done).ack();
    assert_eq!((engine.in_flight(), engine.wants_poll()), (0, true));
    assert_eq!((poll(&mut engine), calls.count(), engine.wants_poll()), (vec![5], 1, false));
}

#[test]
fn c37_an_operation_stays_on_the_channel_of_its_parent() {
    let blocks = Blocks::new(4);
    let named = |name| Desk::of_copies().with(|state| (state.name, state.room) = (name, 4));
    let (first, second) = (named("first"), named("second"));
    let mut engine = cpu().with_backend(first.backend()).with_backend(second.backend());
    engine.submit(chain(&[copy(&blocks, 0, 1), copy(&blocks, 1, 2)]), 1);
    assert_eq!((first.held(), second.held()), (1, 0));
    // Something else makes the second look better: it has more room now.
    engine.submit(chain(&[copy(&blocks, 0, 3)]), 2);
    assert_eq!((first.held(), second.held()), (1, 1));
    second.complete(0);
    first.state().room = 2;
    first.complete(0);
    poll(&mut engine);
    assert_eq!((first.held(), second.held()), (1, 0), "the child is where its parent was");
    first.complete(0);
    poll(&mut engine);
    assert_eq!(blocks.bytes(2), blocks.bytes(0));
}

#[test]
fn c38_a_full_queue_means_the_cpu_and_no_retry_in_a_loop() {
    let blocks = Blocks::new(4);
    let desk = Desk::of_copies().with(|state| state.room = 1);
    let mut engine = desk.engine();
    engine.submit(chain(&[copy(&blocks, 0, 1), copy(&blocks, 0, 2), copy(&blocks, 0, 3)]), 1);
    assert_eq!((desk.held(), desk.state().calls.len()), (1, 1));
    assert_eq!((blocks.bytes(2), blocks.bytes(3)), (blocks.bytes(0), blocks.bytes(0)));
    assert_eq!(engine.stats().on_cpu_for(Reason::QueueFull), 2);
    desk.complete(0);
    assert_eq!(poll(&mut engine), [1]);
}

#[test]
fn c39_memory_is_in_use_until_its_chain_ended_or_the_engine_is_gone() {
    let (blocks, desk) = (Blocks::new(2), Desk::of_copies());
    let mut engine = desk.engine();
    let tx = engine.submit_tx(chain(&[copy(&blocks, 0, 1)]), Submit::default());
    poll(&mut engine);
    assert_eq!((engine.in_flight(), tx.is_done()), (1, false));
    drop(engine);
    assert!(desk.state().dropped, "the backend's drop returns only when nothing is read or written any more");
    assert_eq!(tx.outcome(), Some(Err(EngineError::Dropped)));
}

#[test]
fn c40_completions_come_in_any_order_and_those_of_the_past_are_strays() {
    let (blocks, desk) = (Blocks::new(4), Desk::of_copies());
    let mut engine = desk.engine();
    for i in 1..4 {
        engine.submit(chain(&[copy(&blocks, 0, i)]), i as u64);
    }
    desk.complete(2);
    assert_eq!(poll(&mut engine), [3], "the last is no high-water mark for the first");
    let again = {
        desk.complete(0);
        desk.state().ended[0]
    };
    assert_eq!(poll(&mut engine), [1]);
    // The same token once more names nothing, though its place may be taken again.
    desk.state().ended.push(again);
    engine.submit(chain(&[copy(&blocks, 0, 1)]), 4);
    assert_eq!((poll(&mut engine), engine.stats().stray_completions), (vec![], 1));
    desk.complete_all();
    let mut last = poll(&mut engine);
    last.sort_unstable();
    assert_eq!(last, [2, 4]);
}

#[test]
fn c41_errors_are_values_and_the_chain_does_not_see_them() {
    let (blocks, desk) = (Blocks::new(2), Desk::of_copies());
    let mut engine = desk.engine();
    engine.submit(chain(&[copy(&blocks, 0, 1)]), 1);
    desk.fail(0, Fault::Device(0x1f));
    assert_eq!((poll(&mut engine), blocks.bytes(1) == blocks.bytes(0)), (vec![1], true));
    let [Alert::Quarantined { kind: OpKind::Copy, fault: Fault::Device(0x1f), .. }] = alerts(&mut engine)[..]
    else {
        panic!("no alert with the status")
    };
    assert_eq!(engine.stats().cpu_retries, 1);
}
