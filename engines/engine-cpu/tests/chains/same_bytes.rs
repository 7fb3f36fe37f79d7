//! Whoever computes, and whether the caller waits or polls, the bytes and the verdict are the model's.

use std::time::Duration;

use async_tx::*;
use engine_cpu::CpuBackend;
use raid6_simd::{Kernel, Kernels, Selection};

use crate::late::{Habits, Late, Ticking};
use crate::model::interpret;
use crate::world::{Rng, World, cases};

const SEED: u64 = 0xc4a1_0001;

fn cpu(selection: Selection) -> Engine {
    Engine::new(Box::new(CpuBackend::new(Kernels::select(selection).unwrap())))
}

fn late(rng: &mut Rng, habits: Habits) -> Engine {
    cpu(Selection::Auto).with_backend(Box::new(Late::new(habits, Rng(rng.next()))))
}

/// Random chains, each by `run` and by `submit` and `poll`, on engines that `make` gives.
fn compare(default_cases: usize, make: impl FnMut(&mut Rng) -> Engine) -> Vec<EngineStats> {
    compare_chains(default_cases, World::random_chain, make)
}

/// The same with chains of another making.
fn compare_chains(
    default_cases: usize,
    chain_of: impl Fn(&World, &mut Rng) -> Chain,
    mut make: impl FnMut(&mut Rng) -> Engine,
) -> Vec<EngineStats> {
    let mut stats = Vec::new();
    let mut rng = Rng(SEED);
    for case in 0..cases(default_cases) {
        let what = format!("case {case}, seed {:#x}", rng.0);
        let world = World::random(&mut rng);
        let chain = chain_of(&world, &mut rng);
        let before = world.snapshot();
        let mut expected = before.clone();
        let verdict = interpret(&world, &chain, &mut expected);

        let mut engine = make(&mut rng);
        assert_eq!(engine.run(chain.clone()), Ok(verdict), "{what}: run, {chain:?}");
        assert!(world.snapshot() == expected, "{what}: bytes after run differ, {chain:?}");

        world.restore(&before);
        engine.submit(chain.clone(), 42);
        let mut done = Vec::new();
        while done.is_empty() {
            if rng.chance(3) {
                engine.issue_pending_all();
            }
            engine.poll(&mut done);
        }
        assert_eq!(done, [ChainDone { tag: 42, result: Ok(verdict) }], "{what}: poll, {chain:?}");
        assert!(world.snapshot() == expected, "{what}: bytes after poll differ, {chain:?}");
        assert_eq!((engine.in_flight(), engine.wants_poll()), (0, false), "{what}");
        stats.push(engine.stats());
        drop(engine);
    }
    stats
}

#[test]
fn on_the_cpu_with_every_kernel() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_available()) {
        compare(100, |_| cpu(Selection::Only(kernel)));
    }
}

#[test]
fn on_the_cpu_with_kernels_taking_turns() {
    compare(300, |_| cpu(Selection::Cycle));
}

#[test]
fn on_the_cpu_as_one_backend_among_others() {
    let stats = compare(200, |_| cpu(Selection::Auto).with_backend(Box::new(CpuBackend::auto())));
    assert!(stats.iter().all(|s| s.cpu_retries == 0 && s.stray_completions == 0));
}

#[test]
fn on_a_backend_that_is_late_and_out_of_order() {
    let stats = compare(400, |rng| {
        let queue = 1 + rng.below(9);
        late(rng, Habits { queue, ..Habits::GOOD })
    });
    assert!(stats.iter().any(|s| s.backends[0].queue_full > 0), "no queue was ever full");
    for stats in stats {
        let late = &stats.backends[0];
        assert_eq!((late.submitted, late.failed, late.quarantined), (late.completed, 0, false));
    }
}

#[test]
fn on_a_backend_that_only_copies_and_fills() {
    let caps = Caps::NONE.with(OpKind::Copy).with(OpKind::Fill);
    let stats = compare(200, |rng| late(rng, Habits { caps, ..Habits::GOOD }));
    assert!(stats.iter().any(|s| s.backends[0].completed > 0 && s.cpu_ops > 0), "no chain crossed over");
}

#[test]
fn on_a_backend_whose_limits_make_operations_be_cut() {
    let stats = compare(400, |rng| {
        let align = [1, 1, 64][rng.below(3)];
        let limits = Limits {
            sources_max: 1 + rng.below(4),
            len_min: rng.below(100),
            len_max: align * (1 + rng.below(200 / align)),
            align,
            keeps_on_fault: rng.chance(2),
        };
        late(rng, Habits { limits, ..Habits::GOOD })
    });
    assert!(stats.iter().any(|s| s.backends[0].submitted > 50), "nothing was cut");
}

#[test]
fn on_a_backend_that_fails() {
    let stats = compare(500, |rng| {
        let limits = Limits {
            sources_max: [255, 2][rng.below(2)],
            len_max: [usize::MAX, 90][rng.below(2)],
            keeps_on_fault: rng.chance(2),
            ..Limits::NONE
        };
        let fails_one_in = 1 + rng.below(8);
        late(rng, Habits { limits, fails_one_in, ..Habits::GOOD })
    });
    let failed: Vec<_> = stats.iter().filter(|s| s.backends[0].failed > 0).collect();
    assert!(failed.len() > 100, "only {} engines saw a fault", failed.len());
    assert!(failed.iter().all(|s| s.backends[0].quarantined && s.cpu_retries > 0));
}

#[test]
fn on_a_backend_that_declines() {
    let stats = compare(300, |rng| {
        let limits = Limits { sources_max: 3, keeps_on_fault: rng.chance(2), ..Limits::NONE };
        let (batch, fences) = (1 + rng.below(4), [Caps::ALL, Caps::NONE][rng.below(2)]);
        late(rng, Habits { limits, batch, fences, declines_one_in: 3, ..Habits::GOOD })
    });
    assert!(stats.iter().all(|s| !s.backends[0].quarantined && s.backends[0].quarantines == 0));
    assert!(stats.iter().any(|s| s.backends[0].declined > 3));
}

#[test]
fn on_a_backend_that_fences_its_batches() {
    let mut rng = Rng(SEED);
    let fences = (0..5).map(|_| rng.below(1 << 14)).map(|kinds| {
        OpKind::ALL.into_iter().filter(|k| kinds >> *k as usize & 1 == 1).fold(Caps::NONE, Caps::with)
    });
    let fences: Vec<_> = fences.chain([Caps::ALL]).collect();
    let stats = compare(600, |rng| {
        let fences = fences[rng.below(fences.len())];
        let (batch, queue) = (2 + rng.below(10), 1 + rng.below(12));
        let fails_one_in = [0, 10][rng.below(2)];
        let limits = Limits { keeps_on_fault: rng.chance(2), ..Limits::NONE };
        late(rng, Habits { fences, batch, queue, fails_one_in, limits, ..Habits::GOOD })
    });
    let sum = |counter: fn(&BackendStats) -> u64| stats.iter().map(|s| counter(&s.backends[0])).sum::<u64>();
    assert!(sum(|s| s.fences) > 500 && sum(|s| s.abandoned) > 20, "{} fences", sum(|s| s.fences));
    let (ops, calls) = (sum(|s| s.submitted), sum(|s| s.batches));
    assert!(ops > calls + calls / 4, "{ops} operations in {calls} calls");
}

#[test]
fn on_a_backend_that_hangs_and_comes_back() {
    let stats = compare(400, |rng| {
        let limits = Limits {
            sources_max: [255, 2][rng.below(2)],
            len_max: [usize::MAX, 90][rng.below(2)],
            keeps_on_fault: rng.chance(2),
            ..Limits::NONE
        };
        let (batch, fences) = (1 + rng.below(4), [Caps::ALL, Caps::NONE][rng.below(2)]);
        let (stalls_one_in, revives) = (1 + rng.below(9), rng.chance(2));
        let habits = Habits { limits, batch, fences, stalls_one_in, revives, ..Habits::GOOD };
        let probe_after = Duration::from_millis(1 + rng.below(30) as u64);
        let config = EngineConfig { probe_after, ..EngineConfig::default() };
        late(rng, habits).with_clock(Ticking::boxed(10_000_000)).with_config(config)
    });
    let sum = |counter: fn(&BackendStats) -> u64| stats.iter().map(|s| counter(&s.backends[0])).sum::<u64>();
    assert!(sum(|s| s.timeouts) > 100 && sum(|s| s.aborted) > 100, "{} timeouts", sum(|s| s.timeouts));
    assert!(sum(|s| s.revived) > 20, "{} revivals", sum(|s| s.revived));
}

#[test]
fn on_a_backend_that_fences_and_loses_completions() {
    let stats = compare_chains(400, World::random_overwrites, |rng| {
        let (batch, queue) = (8 + rng.below(4), 12);
        let habits = Habits { fences: Caps::ALL, batch, queue, loses_one_in: 8, ..Habits::GOOD };
        late(rng, habits).with_clock(Ticking::boxed(10_000_000))
    });
    let sum = |counter: fn(&BackendStats) -> u64| stats.iter().map(|s| counter(&s.backends[0])).sum::<u64>();
    assert!(sum(|s| s.fences) > 500 && sum(|s| s.aborted) > 100, "{} aborted", sum(|s| s.aborted));
    assert!(sum(|s| s.abandoned) > 100, "{} void", sum(|s| s.abandoned));
}

#[test]
fn on_a_backend_that_lies_and_is_checked() {
    let in_place = [OpKind::PqUpdate, OpKind::GfMulAdd];
    let caps = in_place.into_iter().fold(Caps::ALL, Caps::without);
    let stats = compare(400, |rng| {
        // Without keeping destinations it gets nothing in place, and all else can be checked.
        let limits = Limits {
            sources_max: [254, 3][rng.below(2)],
            len_max: [usize::MAX, 90][rng.below(2)],
            keeps_on_fault: false,
            ..Limits::NONE
        };
        let (batch, fences) = (1 + rng.below(4), [Caps::ALL, Caps::NONE][rng.below(2)]);
        let (lies_one_in, revives) = (1 + rng.below(9), rng.chance(2));
        let habits = Habits { caps, limits, batch, fences, lies_one_in, revives, ..Habits::GOOD };
        let config = EngineConfig { cross_check: 1, ..EngineConfig::default() };
        late(rng, habits).with_config(config)
    });
    let sum = |counter: fn(&BackendStats) -> u64| stats.iter().map(|s| counter(&s.backends[0])).sum::<u64>();
    let (checks, mismatches) = (sum(|s| s.cross_checks), sum(|s| s.mismatches));
    assert!(checks > 500 && mismatches > 200, "{checks} checks, {mismatches} mismatches");
}

#[test]
fn on_a_backend_that_reports_too_much() {
    let stats = compare(200, |rng| late(rng, Habits { babbles: true, ..Habits::GOOD }));
    assert!(stats.iter().any(|s| s.stray_completions > 0));
}

#[test]
fn on_several_backends_of_which_some_fail() {
    compare(300, |rng| {
        let copies = Caps::NONE.with(OpKind::Copy).with(OpKind::Xor).with(OpKind::Pq);
        let first = Habits { caps: copies, fails_one_in: 5, ..Habits::GOOD };
        let second = Habits { queue: 3, fails_one_in: 20, babbles: true, ..Habits::GOOD };
        late(rng, first).with_backend(Box::new(Late::new(second, Rng(rng.next()))))
    });
}

#[test]
fn with_many_chains_in_flight() {
    let mut rng = Rng(SEED);
    for case in 0..cases(30) {
        let what = format!("case {case}, seed {:#x}", rng.0);
        let habits = Habits { queue: 12, fails_one_in: [0, 60][rng.below(2)], ..Habits::GOOD };
        let mut engine = late(&mut rng, habits);
        let mut worlds = Vec::new();
        let mut done = Vec::new();
        for tag in 0..12 {
            let world = World::random(&mut rng);
            let chain = world.random_chain(&mut rng);
            let mut expected = world.snapshot();
            let verdict = interpret(&world, &chain, &mut expected);
            if tag % 5 == 4 {
                // A caller may wait for one chain while others are in flight.
                assert_eq!(engine.run(chain), Ok(verdict), "{what}: tag {tag}");
                done.push(ChainDone { tag, result: Ok(verdict) });
            } else {
                engine.submit(chain, tag);
            }
            worlds.push((world, expected, verdict));
        }
        while engine.wants_poll() {
            engine.poll(&mut done);
        }
        done.sort_by_key(|done| done.tag);
        assert_eq!(done.len(), worlds.len(), "{what}");
        for (tag, (done, (world, expected, verdict))) in done.iter().zip(&worlds).enumerate() {
            assert_eq!(*done, ChainDone { tag: tag as u64, result: Ok(*verdict) }, "{what}");
            assert!(world.snapshot() == *expected, "{what}: bytes of tag {tag} differ");
        }
        drop(engine);
    }
}

/// A backend that does everything that one may do, good and bad. It lies only if it is checked, which in
/// turn leaves it nothing to fence.
fn unruly(rng: &mut Rng, checked: bool) -> Box<dyn Backend> {
    let in_place = [OpKind::PqUpdate, OpKind::GfMulAdd];
    let habits = Habits {
        // What is wrong in place cannot be seen by a check.
        caps: in_place.into_iter().fold(Caps::ALL, Caps::without),
        limits: Limits {
            sources_max: [254, 3][rng.below(2)],
            len_max: [usize::MAX, 90][rng.below(2)],
            len_min: rng.below(200),
            keeps_on_fault: false,
            ..Limits::NONE
        },
        queue: 1 + rng.below(20),
        batch: 1 + rng.below(6),
        fences: [Caps::ALL, Caps::NONE][rng.below(2)],
        fails_one_in: [0, 30][rng.below(2)],
        declines_one_in: [0, 9][rng.below(2)],
        stalls_one_in: [0, 30][rng.below(2)],
        loses_one_in: [0, 30][rng.below(2)],
        lies_one_in: if checked { 20 } else { 0 },
        babbles: rng.chance(2),
        revives: rng.chance(2),
    };
    Box::new(Late::new(habits, Rng(rng.next())))
}

#[test]
fn chains_that_are_ordered_share_memory_on_unruly_backends() {
    let mut rng = Rng(SEED);
    let mut stats = Vec::new();
    for case in 0..cases(60) {
        let what = format!("case {case}, seed {:#x}", rng.0);
        let world = World::random(&mut rng);
        let mut expected = world.snapshot();
        let probe_after = Duration::from_millis(1 + rng.below(30) as u64);
        let checked = rng.chance(2);
        let cross_check = u32::from(checked);
        let config = EngineConfig { probe_after, cross_check, ..EngineConfig::default() };
        let mut engine = cpu(Selection::Auto).with_backend(unruly(&mut rng, checked));
        engine = engine
            .with_backend(unruly(&mut rng, checked))
            .with_clock(Ticking::boxed(3_000_000))
            .with_config(config);
        let mut last: Option<Tx> = None;
        let (mut verdicts, mut done) = (Vec::new(), Vec::new());
        for tag in 0..10 {
            let chain = world.random_chain(&mut rng);
            verdicts.push(interpret(&world, &chain, &mut expected));
            // Each waits for the one before it, which has ended or not.
            let submit = Submit { after: last.take(), done: Done::Tag(tag) };
            last = Some(engine.submit_tx(chain, submit));
            if rng.chance(3) {
                engine.poll(&mut done);
            }
        }
        let last = last.unwrap();
        while !last.is_done() {
            let deadline = Nanos(engine.now().0 + 100_000_000);
            if let Ok(verdict) = engine.wait(&last, deadline) {
                assert_eq!(verdict, verdicts[9], "{what}");
            }
        }
        engine.poll(&mut done);
        let found: Vec<_> = done.iter().map(|done| (done.tag, done.result)).collect();
        let in_order: Vec<_> = verdicts.iter().enumerate().map(|(tag, v)| (tag as u64, Ok(*v))).collect();
        assert_eq!(found, in_order, "{what}");
        assert!(world.snapshot() == expected, "{what}: other bytes");
        drop(last);
        assert_eq!(engine.descriptors().0, engine.descriptors().1, "{what}: all are free");
        stats.push(engine.stats());
        drop(engine);
    }
    let sum =
        |counter: fn(&BackendStats) -> u64| stats.iter().flat_map(|s| &s.backends).map(counter).sum::<u64>();
    let seen = [sum(|s| s.fences), sum(|s| s.timeouts), sum(|s| s.mismatches), sum(|s| s.revived)];
    assert!(seen.into_iter().all(|count| count > 10), "{seen:?}");
}
