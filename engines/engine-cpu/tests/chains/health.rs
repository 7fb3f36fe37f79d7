//! Deadlines, quarantine, probing, and backends that come and go.

use std::time::Duration;

use async_tx::*;

use crate::manual::{Desk, Hand, alerts, copies, copy, is_copied, poll};
use crate::world::{Rng, World};

const MS: Duration = Duration::from_millis(1);

fn setup() -> (World, Desk, Hand, Engine) {
    let (desk, hand) = (Desk::new(), Hand::new());
    let config = EngineConfig { probe_max: 4000 * MS, ..EngineConfig::default() };
    let engine = desk.engine().with_clock(hand.boxed()).with_config(config);
    (World::random(&mut Rng(5)), desk, hand, engine)
}

fn health(engine: &Engine) -> Health {
    engine.stats().backends[0].health
}

#[test]
fn a_late_operation_quarantines_and_runs_on_the_cpu_only_when_it_came_back() {
    let (world, desk, hand, mut engine) = setup();
    engine.submit(copies(&world, &[1, 2]), 1);
    assert!(engine.wake_at().is_some_and(|at| at <= Nanos(101_000_000)));
    hand.pass(99 * MS);
    poll(&mut engine);
    assert_eq!((desk.aborts(), health(&engine)), (0, Health::Good));
    hand.pass(2 * MS);
    poll(&mut engine);
    assert_eq!((desk.aborts(), health(&engine)), (1, Health::Quarantined));
    let [Alert::Quarantined { backend, kind: OpKind::Copy, fault: Fault::TimedOut }] =
        &alerts(&mut engine)[..]
    else {
        panic!("one alert");
    };
    assert_eq!(&**backend, "manual");
    assert_eq!(engine.stats().backends[0].timeouts, 2);
    // The memory is not touched while the backend may still write it.
    assert_eq!((engine.in_flight(), is_copied(&world, 1), is_copied(&world, 2)), (1, false, false));
    // A good result counts, however late, and what was given up runs on the CPU.
    desk.complete(0);
    assert_eq!((poll(&mut engine), is_copied(&world, 2)), (vec![], false));
    desk.fail(0, Fault::Aborted);
    assert_eq!((poll(&mut engine).len(), is_copied(&world, 2)), (1, true));
    let stats = engine.stats();
    assert_eq!((stats.cpu_retries, stats.backends[0].completed, stats.backends[0].aborted), (1, 1, 1));
    // Chains go on, on the CPU.
    assert_eq!(engine.run(copies(&world, &[3])), Ok(Verdict::default()));
    assert_eq!((desk.held(), engine.stats().on_cpu_for(Reason::Quarantined)), (0, 1));
    drop(engine);
}

#[test]
fn long_operations_have_more_time() {
    let (desk, hand) = (Desk::new(), Hand::new());
    let world = World::random(&mut Rng(5));
    let config = EngineConfig { bytes_per_second_min: 6400, ..EngineConfig::default() };
    let mut engine = desk.engine().with_clock(hand.boxed()).with_config(config);
    engine.submit(copies(&world, &[1]), 1);
    hand.pass(109 * MS);
    poll(&mut engine);
    assert_eq!(health(&engine), Health::Good, "64 bytes take 10 ms at this rate");
    hand.pass(2 * MS);
    poll(&mut engine);
    assert_eq!(health(&engine), Health::Quarantined);
    drop(engine);
}

#[test]
fn a_fault_quarantines_and_what_was_pending_goes_elsewhere() {
    let (world, desk, _hand, mut engine) = setup();
    desk.state().batch = 2;
    engine.submit(copies(&world, &[1, 2, 3]), 1);
    assert_eq!(desk.held(), 2);
    desk.fail(0, Fault::Device(0x13));
    assert_eq!(poll(&mut engine), []);
    assert!(is_copied(&world, 1) && is_copied(&world, 3) && !is_copied(&world, 2));
    desk.complete(0);
    assert_eq!(poll(&mut engine).len(), 1);
    assert!(is_copied(&world, 2));
    assert_eq!((desk.calls().len(), desk.aborts()), (1, 1));
    drop(engine);
}

#[test]
fn a_quarantined_backend_is_probed_with_longer_and_longer_pauses() {
    let (world, desk, hand, mut engine) = setup();
    desk.state().revivals.extend([Revival::Failed, Revival::Failed, Revival::Failed, Revival::Pending]);
    engine.submit(copies(&world, &[1]), 1);
    desk.fail(0, Fault::Gone);
    poll(&mut engine);
    let asked = |engine: &mut Engine, pause: u32| {
        hand.pass(pause * MS);
        poll(engine);
        desk.asked()
    };
    assert_eq!([asked(&mut engine, 998), asked(&mut engine, 3)], [0, 1], "after a second");
    assert_eq!([asked(&mut engine, 1998), asked(&mut engine, 3)], [1, 2], "after two");
    assert_eq!([asked(&mut engine, 3998), asked(&mut engine, 3)], [2, 3], "after four");
    assert_eq!([asked(&mut engine, 3998), asked(&mut engine, 3)], [3, 4], "which is the longest");
    assert!(engine.wake_at().is_some());
    desk.state().caps = Caps::NONE.with(OpKind::Fill);
    assert_eq!(asked(&mut engine, 0), 5, "it could not tell, and is asked again");
    assert_eq!((health(&engine), engine.wake_at()), (Health::Good, None));
    let [Alert::Quarantined { .. }, Alert::Revived { after, .. }] = alerts(&mut engine)[..] else {
        panic!("two alerts");
    };
    assert!(after > Duration::from_secs(10));
    // It is in use again, for what it takes now.
    let mut chain = copies(&world, &[1]);
    chain.push(Op::Fill { dst: world.region(640, 64), byte: 0 }, &[]).unwrap();
    engine.submit(chain, 2);
    assert_eq!((desk.held(), engine.stats().backends[0].revived), (1, 1));
    drop(engine);
}

#[test]
fn one_that_fails_again_soon_is_left_alone_for_longer() {
    let (world, desk, hand, mut engine) = setup();
    for (round, pause) in [1000, 2000, 4000, 4000].into_iter().enumerate() {
        engine.submit(copies(&world, &[1]), 1);
        desk.fail(0, Fault::Gone);
        poll(&mut engine);
        hand.pass((pause - 1) * MS);
        poll(&mut engine);
        assert_eq!(desk.asked(), round);
        hand.pass(2 * MS);
        poll(&mut engine);
        assert_eq!((desk.asked(), health(&engine)), (round + 1, Health::Good));
    }
    // After a time without faults it is trusted as before.
    hand.pass(4001 * MS);
    engine.submit(copies(&world, &[1]), 1);
    desk.fail(0, Fault::Gone);
    poll(&mut engine);
    hand.pass(1001 * MS);
    poll(&mut engine);
    assert_eq!(health(&engine), Health::Good);
    drop(engine);
}

#[test]
fn one_that_gives_nothing_back_is_told_again_and_reported_once() {
    let (world, desk, hand, mut engine) = setup();
    engine.submit(copies(&world, &[1]), 1);
    for _ in 0..5 {
        hand.pass(5000 * MS);
        poll(&mut engine);
    }
    assert!(desk.aborts() > 2);
    let alerts = alerts(&mut engine);
    let [Alert::Quarantined { .. }, late @ Alert::GivingUpLate { held: 1, .. }] = &alerts[..] else {
        panic!("{alerts:?}");
    };
    assert!(late.to_string().contains("manual: 1 operations were given up"), "{late}");
    assert_eq!((desk.asked(), engine.in_flight()), (0, 1), "with full hands it is not asked");
    drop(engine);
}

#[test]
fn a_backend_can_be_removed_and_comes_back() {
    let (world, desk, _hand, mut engine) = setup();
    desk.state().batch = 2;
    engine.submit(copies(&world, &[1, 2, 3]), 1);
    assert!(!engine.remove_backend("nobody"));
    assert!(engine.remove_backend("manual"));
    assert!(!engine.remove_backend("manual"), "it is leaving already");
    assert_eq!((desk.aborts(), desk.dropped()), (1, false), "it has operations in hand");
    assert!(is_copied(&world, 3), "what was pending runs elsewhere");
    desk.complete(0);
    desk.fail(0, Fault::Aborted);
    assert_eq!(poll(&mut engine).len(), 1);
    assert!(is_copied(&world, 1) && is_copied(&world, 2));
    poll(&mut engine);
    assert!(desk.dropped());
    assert!(matches!(&alerts(&mut engine)[..], [Alert::Removed { .. }]));
    assert_eq!(engine.run(copies(&world, &[4])), Ok(Verdict::default()));
    assert_eq!(engine.stats().on_cpu_for(Reason::NoBackend), 1);
    // One of the same name takes its place, and goes on with its counters.
    let again = Desk::new();
    engine.add_backend(again.backend(), Thresholds::default());
    engine.submit(copies(&world, &[5]), 2);
    assert_eq!(again.held(), 1);
    again.complete(0);
    assert_eq!(poll(&mut engine).len(), 1);
    let stats = engine.stats();
    assert_eq!((stats.backends.len(), stats.backends[0].submitted), (1, 3));
    // One with nothing in hand goes at once.
    assert!(engine.remove_backend("manual") && again.dropped());
    drop(engine);
}

/// A copy of 512 bytes from `from` to `to`, for a backend that takes 128 at a time.
fn long_copy(world: &World, desk: &Desk, from: usize, to: usize) -> Chain {
    desk.state().limits.len_max = 128;
    let mut chain = Chain::new();
    chain.push(Op::Copy { src: world.region(from, 512), dst: world.region(to, 512) }, &[]).unwrap();
    chain
}

#[test]
fn a_cut_operation_does_not_go_on_where_it_began_after_a_revival() {
    let (world, desk) = (World::random(&mut Rng(5)), Desk::new());
    let chain = long_copy(&world, &desk, 0, 4096);
    let hand = Hand::new();
    let config = EngineConfig { probe_after: MS, ..EngineConfig::default() };
    let mut engine = desk.engine().with_clock(hand.boxed()).with_config(config);
    engine.submit(chain, 1);
    hand.pass(200 * MS);
    poll(&mut engine);
    assert_eq!(health(&engine), Health::Quarantined);
    // Its first step ends well after all, and what takes no copy of so many bytes is revived in the same turn.
    desk.complete(0);
    desk.state().limits.len_max = 64;
    desk.state().caps = Caps::NONE.with(OpKind::Fill);
    hand.pass(200 * MS);
    let done = poll(&mut engine);
    assert_eq!((health(&engine), desk.held()), (Health::Good, 0), "it gets no copy");
    assert_eq!((done.len(), engine.stats().cpu_retries), (1, 1));
    let bytes = world.snapshot();
    assert!(bytes[..512] == bytes[4096..4608]);
    drop(engine);
}

#[test]
fn a_cut_operation_and_what_is_pending_go_elsewhere_when_the_backend_says_something_else() {
    let (world, desk, _hand, mut engine) = setup();
    let mut chain = long_copy(&world, &desk, 0, 4096);
    chain.push(Op::Fill { dst: world.region(8192, 64), byte: 1 }, &[]).unwrap();
    desk.state().caps = Caps::NONE.with(OpKind::Copy).with(OpKind::Fill);
    engine.remove_backend("manual");
    engine.add_backend(desk.backend(), Thresholds::default());
    engine.submit(chain, 1);
    desk.state().batch = 2;
    engine.submit(copies(&world, &[100]), 2);
    assert_eq!((desk.held(), engine.stats().backends[0].pending), (2, 1));
    // It declines the fill, and has found out that it can do nothing else.
    desk.complete(0);
    desk.fail(0, Fault::Declined);
    desk.state().caps = Caps::NONE.with(OpKind::Fill);
    assert_eq!(poll(&mut engine).len(), 2);
    assert_eq!((desk.held(), desk.calls().len(), health(&engine)), (0, 2, Health::Good));
    let bytes = world.snapshot();
    assert!(bytes[..512] == bytes[4096..4608] && bytes[..64] == bytes[6400..6464]);
    assert_eq!(bytes[8192..8256], [1; 64]);
    drop(engine);
}

#[test]
fn a_wrong_result_is_reported_also_if_the_backend_was_revived_meanwhile() {
    let (world, desk) = (World::random(&mut Rng(5)), Desk::new());
    let hand = Hand::new();
    let config = EngineConfig { probe_after: MS, cross_check: 2, ..EngineConfig::default() };
    let mut engine = desk.engine().with_clock(hand.boxed()).with_config(config);
    desk.state().batch = 2;
    desk.state().fences = Caps::NONE.with(OpKind::Copy);
    let mut chain = copies(&world, &[1]);
    chain.push(Op::Copy { src: world.region(64, 64), dst: world.region(128, 64) }, &[]).unwrap();
    engine.submit(chain, 1);
    assert_eq!(desk.calls(), [[false, true]]);
    hand.pass(200 * MS);
    poll(&mut engine);
    // The second, which is to be checked, is looked at when the first has ended, and that is after the revival.
    desk.lie(1);
    desk.complete(0);
    hand.pass(200 * MS);
    assert_eq!((poll(&mut engine).len(), is_copied(&world, 2)), (1, true));
    let alerts = alerts(&mut engine);
    let kinds = |alert: &Alert| matches!(alert, Alert::Mismatch { .. } | Alert::Revived { .. });
    assert_eq!(alerts.iter().filter(|alert| kinds(alert)).count(), 2, "{alerts:?}");
    assert_eq!(health(&engine), Health::Quarantined, "again");
    drop(engine);
}

#[test]
fn nothing_that_a_liar_still_has_is_believed() {
    let (world, desk) = (World::random(&mut Rng(5)), Desk::new());
    let config = EngineConfig { cross_check: 4, ..EngineConfig::default() };
    desk.state().caps = Caps::ALL;
    let chain = long_copy(&world, &desk, 0, 4096);
    let mut engine = desk.engine().with_config(config);
    engine.submit(chain, 1);
    engine.submit(copies(&world, &[20]), 2);
    // What works in place cannot be repeated: it is believed.
    let sum =
        Op::Xor { srcs: &[world.region(0, 64)], dst: world.region(1408, 64), mode: XorMode::Accumulate };
    let mut chain = Chain::new();
    chain.push(sum, &[]).unwrap();
    engine.submit(chain, 3);
    desk.lie(0);
    assert_eq!((poll(&mut engine), desk.held()), (vec![], 3), "the first step of the long copy is believed");
    let before = world.snapshot();
    // The fourth is checked, and found to be wrong.
    engine.submit(copies(&world, &[30]), 4);
    desk.lie(3);
    let done = poll(&mut engine);
    assert_eq!((done.len(), done[0].tag), (1, 4));
    assert_eq!((health(&engine), is_copied(&world, 30)), (Health::Quarantined, true));
    (0..desk.held()).for_each(|_| desk.lie(0));
    let mut tags: Vec<_> = poll(&mut engine).iter().map(|done| done.tag).collect();
    tags.sort_unstable();
    assert_eq!((tags, is_copied(&world, 20)), (vec![1, 2, 3], true));
    let bytes = world.snapshot();
    assert!(bytes[..512] == bytes[4096..4608], "all steps of the long copy are repeated");
    assert!(bytes[1408..1472] == before[1408..1472]);
    let stats = engine.stats();
    assert_eq!((stats.cpu_retries, stats.backends[0].mismatches), (3, 1));
    drop(engine);
}

#[test]
fn nothing_behind_a_fence_of_a_liar_is_believed() {
    for early in [false, true] {
        let (world, desk) = (World::random(&mut Rng(5)), Desk::new());
        let config = EngineConfig { cross_check: 4, ..EngineConfig::default() };
        desk.state().caps = Caps::ALL;
        desk.state().fences = Caps::ALL;
        desk.state().batch = 3;
        let mut engine = desk.engine().with_config(config);
        let block = |i: usize| world.region(i * 64, 64);
        let mut chain = Chain::new();
        let sum = Op::Xor { srcs: &[block(0)], dst: block(3), mode: XorMode::Accumulate };
        let sum = chain.push(sum, &[]).unwrap();
        chain.push(copy(&world, 1), &[sum]).unwrap();
        chain.push(Op::Copy { src: block(1), dst: block(2) }, &[]).unwrap();
        engine.submit(chain, 1);
        assert_eq!(desk.calls(), [[false, true, true]]);
        if early {
            (0..2).for_each(|_| desk.lie(1));
            assert_eq!(poll(&mut engine), []);
        }
        engine.submit(copies(&world, &[30]), 2);
        engine.issue_pending_all();
        desk.lie(desk.held() - 1);
        poll(&mut engine);
        assert_eq!(health(&engine), Health::Quarantined);
        desk.complete(0);
        (0..desk.held()).for_each(|_| desk.lie(0));
        assert_eq!(poll(&mut engine).len(), 1, "early: {early}");
        assert!(is_copied(&world, 1) && is_copied(&world, 2), "early: {early}");
        drop(engine);
    }
}

#[test]
fn the_one_that_was_added_last_is_near_or_far_and_none_that_is_leaving() {
    let (world, desk, _hand, mut engine) = setup();
    engine.submit(copies(&world, &[1]), 1);
    assert!(engine.remove_backend("manual"));
    assert!(!engine.set_near("manual", false), "it is leaving, and has an operation in hand");
    let second = Desk::new();
    engine.add_backend(second.backend(), Thresholds::all(64));
    assert!(engine.set_near("manual", false));
    engine.submit(copies(&world, &[2]), 2);
    assert_eq!((second.held(), is_copied(&world, 2)), (0, true), "64 bytes are too few for one that is far");
    // The third is in the place of the first, and is the last nevertheless.
    desk.complete(0);
    poll(&mut engine);
    let third = Desk::new();
    engine.add_backend(third.backend(), Thresholds::all(64));
    assert!(engine.set_near("manual", true));
    engine.submit(copies(&world, &[3]), 3);
    assert_eq!((second.held(), third.held()), (0, 1));
    assert!(engine.set_near("manual", false));
    engine.submit(copies(&world, &[4]), 4);
    assert_eq!((second.held(), third.held()), (0, 1));
    let fourth = Desk::new();
    engine.add_backend(fourth.backend(), Thresholds::all(64));
    assert!(engine.set_near("manual", false));
    engine.submit(copies(&world, &[5]), 5);
    assert_eq!((second.held(), third.held(), fourth.held()), (0, 1, 0));
    third.complete(0);
    assert_eq!(poll(&mut engine).len(), 3);
    drop(engine);
}

#[test]
fn while_a_backend_is_quarantined_the_reason_is_the_one_that_holds() {
    let (world, desk) = (World::random(&mut Rng(5)), Desk::new());
    let limits = Limits { len_min: 4096, align: 16, ..Limits::NONE };
    desk.state().limits = limits;
    let mut engine = desk.engine();
    let run = |engine: &mut Engine, at: usize, len: usize| {
        let mut chain = engine.chain();
        chain.push(Op::Copy { src: world.region(at, len), dst: world.region(8192, len) }, &[]).unwrap();
        engine.submit(chain, 1);
        let stats = engine.stats();
        [Reason::TooShort, Reason::Misaligned, Reason::Quarantined].map(|reason| stats.on_cpu_for(reason))
    };
    run(&mut engine, 0, 4096);
    desk.fail(0, Fault::Gone);
    poll(&mut engine);
    assert_eq!(health(&engine), Health::Quarantined);
    assert_eq!(run(&mut engine, 0, 16), [1, 0, 0]);
    assert_eq!(run(&mut engine, 1, 4096), [1, 1, 0]);
    assert_eq!(run(&mut engine, 0, 4096), [1, 1, 1]);
    assert_eq!(desk.calls().len(), 1);
    drop(engine);
}

#[test]
fn an_alert_is_a_sentence() {
    let (world, desk, _hand, mut engine) = setup();
    engine.submit(copies(&world, &[1]), 1);
    desk.fail(0, Fault::Device(0x13));
    poll(&mut engine);
    let alert = alerts(&mut engine).remove(0);
    let text =
        "manual: copy: the device reported status 0x13; the backend is set aside, and the CPU does its work";
    assert_eq!((alert.to_string().as_str(), alert.backend()), (text, "manual"));
    drop(engine);
}
