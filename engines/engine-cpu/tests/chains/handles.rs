//! Handles, chains that wait for chains, and the ways to learn that one ended.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::manual::{Desk, Hand, copies, copy, is_copied, poll};
use crate::world::{Rng, World};

const GOOD: Result<Verdict, EngineError> =
    Ok(Verdict { p_bad: false, q_bad: false, xor_nonzero: false, differs: false });

fn world() -> World {
    World::random(&mut Rng(7))
}

fn cpu() -> Engine {
    Engine::new(Box::new(CpuBackend::auto()))
}

/// Remembers what it was told.
#[derive(Default)]
struct Told(Mutex<Vec<ChainDone>>);

impl OnDone for Told {
    fn done(&self, done: ChainDone) {
        self.0.lock().unwrap().push(done);
    }
}

impl Told {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[test]
fn a_chain_waits_for_the_chains_it_comes_after() {
    let world = world();
    let desk = Desk::new();
    let mut engine = desk.engine();
    let first = engine.submit_tx(copies(&world, &[1]), Submit::default());
    let second = engine.submit_tx(copies(&world, &[2]), Submit::default());
    let mut chain = Chain::new();
    // It reads what the others write: ordered chains may touch common bytes.
    chain.push(Op::Copy { src: world.region(64, 64), dst: world.region(256, 64) }, &[]).unwrap();
    let third = engine.submit_tx(chain, Submit { after: [first, second], done: Done::Tag(3) });
    assert_eq!((desk.held(), engine.in_flight()), (2, 3));
    desk.complete(0);
    assert_eq!((poll(&mut engine), desk.held()), (vec![], 1), "it waits for the other one");
    desk.complete(0);
    assert_eq!((poll(&mut engine), desk.held(), third.is_done()), (vec![], 1, false));
    desk.complete(0);
    assert_eq!(poll(&mut engine), [ChainDone { tag: 3, result: GOOD }]);
    assert_eq!((third.is_done(), third.outcome(), is_copied(&world, 4)), (true, Some(GOOD), true));
    drop(engine);
}

#[test]
fn several_chains_can_wait_for_one() {
    let world = world();
    let desk = Desk::new();
    let mut engine = desk.engine();
    let first = engine.submit_tx(copies(&world, &[1]), Submit::default());
    let others =
        [2, 3].map(|i| engine.submit_tx(copies(&world, &[i]), Submit { after: [&first], done: Done::None }));
    assert_eq!(desk.held(), 1);
    desk.complete(0);
    poll(&mut engine);
    assert_eq!((first.is_done(), desk.held()), (true, 2));
    // One that has ended may still be named.
    let late = engine.submit_tx(copies(&world, &[4]), Submit { after: [first], done: Done::None });
    assert_eq!(desk.held(), 3);
    (0..3).for_each(|_| desk.complete(0));
    poll(&mut engine);
    assert!(others.iter().chain([&late]).all(|tx| tx.outcome() == Some(GOOD)));
    drop(engine);
}

#[test]
fn a_chain_behind_one_that_failed_is_not_started() {
    struct Broken(CpuBackend);
    impl Inline for Broken {
        fn name(&self) -> &str {
            "broken"
        }
        fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
            if op.kind() == OpKind::Fill { Err(Fault::Gone) } else { self.0.execute(op) }
        }
    }
    let world = world();
    let mut engine = Engine::new(Box::new(Broken(CpuBackend::auto())));
    let mut fill = Chain::new();
    fill.push(Op::Fill { dst: world.region(64, 64), byte: 1 }, &[]).unwrap();
    let failed = engine.submit_tx(fill, Submit::default());
    assert!(matches!(failed.outcome(), Some(Err(EngineError::Cpu { node: 0, fault: Fault::Gone }))));
    let next = engine.submit_tx(copies(&world, &[5]), Submit { after: [failed], done: Done::Tag(1) });
    assert_eq!(next.outcome(), Some(Err(EngineError::Dependency)));
    let last = engine.trigger_callback(next, Done::Tag(2));
    assert_eq!(last.outcome(), Some(Err(EngineError::Dependency)));
    let tags: Vec<_> = poll(&mut engine).iter().map(|done| (done.tag, done.result.is_err())).collect();
    assert_eq!((tags, is_copied(&world, 5), engine.in_flight()), (vec![(1, true), (2, true)], false, 0));
    drop(engine);
}

#[test]
fn a_handle_of_another_engine_is_refused() {
    let world = world();
    let (mut one, mut other) = (cpu(), cpu());
    let foreign = other.submit_tx(copies(&world, &[1]), Submit::default());
    assert_eq!(one.wait(&foreign, Nanos::NEVER), Err(WaitError::Foreign));
    let tx = one.submit_tx(copies(&world, &[2]), Submit { after: [foreign], done: Done::None });
    assert_eq!(tx.outcome(), Some(Err(EngineError::Foreign)));
    assert!(!is_copied(&world, 2), "it was not started");
    drop((one, other));
}

#[test]
fn a_descriptor_is_used_again_when_complete_and_acknowledged() {
    let world = world();
    let desk = Desk::new();
    let mut engine = desk.engine();
    // Acknowledged first, by dropping, and complete later.
    drop(engine.submit_tx(copies(&world, &[1]), Submit::default()));
    assert_eq!(engine.descriptors(), (0, 1));
    desk.complete(0);
    poll(&mut engine);
    assert_eq!(engine.descriptors(), (1, 1));
    // Complete first, and acknowledged later.
    let tx = engine.submit_tx(copies(&world, &[1]), Submit::default());
    desk.complete(0);
    poll(&mut engine);
    assert_eq!((tx.is_done(), engine.descriptors()), (true, (0, 1)));
    tx.ack();
    assert_eq!(engine.descriptors(), (1, 1));
    // Consumed as a dependency.
    let tx = engine.submit_tx(copies(&world, &[1]), Submit::default());
    let next = engine.submit_tx(copies(&world, &[2]), Submit { after: [tx], done: Done::None });
    assert_eq!(engine.descriptors(), (0, 2));
    desk.complete(0);
    poll(&mut engine);
    assert_eq!(engine.descriptors(), (1, 2), "the first is complete, and was acknowledged by the second");
    next.ack();
    desk.complete(0);
    poll(&mut engine);
    assert_eq!(engine.descriptors(), (2, 2));
    // Whatever is submitted without a handle has none.
    engine.submit(copies(&world, &[1]), 0);
    assert_eq!(engine.descriptors(), (2, 2));
    drop(engine);
}

#[test]
fn a_callback_runs_in_poll_and_never_in_submit() {
    let world = world();
    let told = Arc::new(Told::default());
    let mut engine = cpu();
    for round in 1..=3 {
        // One callback serves for many chains.
        let done = Done::Callback(Arc::<Told>::clone(&told));
        let tx = engine.submit_tx(copies(&world, &[1]), Submit { after: [] as [Tx; 0], done });
        assert!(tx.is_done(), "it ran on the CPU, at once");
        assert_eq!(engine.wait(&tx, Nanos::default()), Ok(Verdict::default()));
        assert_eq!((told.count(), engine.wants_poll()), (round - 1, true));
        assert_eq!(poll(&mut engine), [], "a callback is instead of a report");
        assert_eq!((told.count(), engine.wants_poll()), (round, false));
        assert_eq!(poll(&mut engine), []);
        assert_eq!(told.count(), round, "once");
    }
    drop(engine);
}

#[test]
fn the_end_of_a_sequence_of_unknown_length_is_called_back() {
    let world = world();
    let desk = Desk::new();
    let mut engine = desk.engine();
    let told = Arc::new(Told::default());
    let mut last = engine.submit_tx(copies(&world, &[1]), Submit::default());
    for i in 2..5 {
        last = engine.submit_tx(copies(&world, &[i]), Submit { after: [last], done: Done::None });
    }
    let end = engine.trigger_callback(last, Done::Callback(Arc::<Told>::clone(&told)));
    for _ in 1..5 {
        assert_eq!((told.count(), end.is_done(), desk.held()), (0, false, 1));
        desk.complete(0);
        poll(&mut engine);
    }
    assert_eq!((told.count(), end.is_done(), engine.in_flight()), (1, true, 0));
    assert!((1..5).all(|i| is_copied(&world, i)));
    drop(engine);
}

/// Counts how often it was woken.
#[derive(Default)]
struct Alarm(AtomicUsize);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_handle_is_a_future_that_poll_wakes() {
    let world = world();
    let desk = Desk::new();
    let mut engine = desk.engine();
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut context = Context::from_waker(&waker);
    let tx = engine.submit_tx(copies(&world, &[1]), Submit::default());
    let mut waits = pin!(tx);
    assert_eq!(waits.as_mut().poll(&mut context), Poll::Pending);
    desk.complete(0);
    assert_eq!(alarm.0.load(Ordering::Relaxed), 0);
    poll(&mut engine);
    assert_eq!(alarm.0.load(Ordering::Relaxed), 1);
    assert_eq!(waits.as_mut().poll(&mut context), Poll::Ready(GOOD));
    // One whose engine is dropped ends, too.
    let mut orphan = engine.submit_tx(copies(&world, &[1]), Submit::default());
    assert_eq!(pin!(&mut orphan).poll(&mut context), Poll::Pending);
    drop(engine);
    assert!(desk.dropped());
    assert_eq!(alarm.0.load(Ordering::Relaxed), 2);
    assert_eq!(orphan.outcome(), Some(Err(EngineError::Dropped)));
}

#[test]
fn waiting_issues_what_is_pending_drives_dependencies_and_ends_at_the_deadline() {
    let world = world();
    let desk = Desk::new();
    desk.state().batch = 100;
    let hand = Hand::new();
    let mut engine = desk.engine().with_clock(hand.boxed());
    let first = engine.submit_tx(copies(&world, &[1, 2]), Submit::default());
    let second = engine.submit_tx(copies(&world, &[3]), Submit { after: [&first], done: Done::None });
    poll(&mut engine);
    assert_eq!((desk.held(), engine.stats().backends[0].pending), (0, 2), "two do not fill a batch");
    assert_eq!(engine.wait(&second, Nanos(1000)), Err(WaitError::Deadline));
    let now = hand.reads();
    assert!((1000..2000).contains(&now), "the clock showed {now}");
    assert_eq!((desk.held(), desk.calls().len()), (2, 1), "issued in one call");
    (0..2).for_each(|_| desk.complete(0));
    // A deadline in the past still moves on what there is: the first chain ends, the second is issued.
    assert_eq!(engine.wait(&second, Nanos::default()), Err(WaitError::Deadline));
    assert_eq!((first.is_done(), desk.held()), (true, 1));
    desk.complete(0);
    assert_eq!(engine.wait(&second, Nanos::NEVER), Ok(Verdict::default()));
    drop(engine);
}

#[test]
fn running_gives_up_on_a_backend_that_gives_nothing_back() {
    let world = world();
    let desk = Desk::new();
    let hand = Hand::new();
    let run_patience = Duration::from_micros(5);
    let config = EngineConfig { run_patience, ..EngineConfig::default() };
    let mut engine = desk.engine().with_clock(hand.boxed()).with_config(config);
    assert_eq!(engine.run(copies(&world, &[1])), Err(EngineError::Stuck));
    assert!(hand.reads() < 10_000, "{} ns", hand.reads());
    assert_eq!((engine.in_flight(), desk.held()), (1, 1), "it is still in flight");
    desk.complete(0);
    assert_eq!(poll(&mut engine), [], "nobody asked for a report");
    assert_eq!(engine.in_flight(), 0);
    drop(engine);
}

#[test]
fn a_chain_on_the_cpu_never_reads_the_clock() {
    let world = world();
    let hand = Hand::new();
    let desk = Desk::new();
    let mut engine = desk.engine().with_clock(hand.boxed());
    let mut chain = Chain::new();
    chain.push(Op::Fill { dst: world.region(0, 64), byte: 1 }, &[]).unwrap();
    engine.submit(chain.clone(), 1);
    assert_eq!(poll(&mut engine).len(), 1);
    assert_eq!(engine.run(chain), Ok(Verdict::default()));
    assert_eq!(hand.reads(), 0);
    let mut chain = Chain::new();
    chain.push(copy(&world, 1), &[]).unwrap();
    engine.submit(chain, 2);
    assert!(hand.reads() > 0, "what has a deadline needs it");
    drop(engine);
}

#[test]
fn a_task_that_owns_handles_may_die_with_a_waker() {
    /// A waker that owns a handle of the same engine.
    struct Owner(Mutex<Option<Tx>>);
    impl Wake for Owner {
        fn wake(self: Arc<Self>) {
            drop(self.0.lock().unwrap().take());
        }
    }
    let world = world();
    let desk = Desk::new();
    let mut engine = desk.engine();
    let mut tx = engine.submit_tx(copies(&world, &[1]), Submit::default());
    for i in 2..4 {
        let other = engine.submit_tx(copies(&world, &[i]), Submit::default());
        let waker = Waker::from(Arc::new(Owner(Mutex::new(Some(other)))));
        // The second waker takes the place of the first, which was the last to own its handle.
        assert_eq!(pin!(&mut tx).poll(&mut Context::from_waker(&waker)), Poll::Pending);
    }
    tx.ack();
    (0..3).for_each(|_| desk.complete(0));
    poll(&mut engine);
    assert_eq!(engine.descriptors(), (3, 3));
    drop(engine);
}

#[test]
fn a_panic_in_the_callers_iterator_leaves_nothing_behind() {
    let world = World::random(&mut Rng(1));
    let desk = Desk::new();
    let mut engine = desk.engine();
    let first = engine.submit_tx(copies(&world, &[1]), Submit::default());
    let before = engine.descriptors();
    let mut after = Some(first);
    let panics = std::iter::from_fn(|| match after.take() {
        None => panic!("on purpose"),
        some => some,
    });
    let submit = Submit { after: panics, done: Done::Tag(2) };
    let chain = copies(&world, &[2]);
    let submitted =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.submit_tx(chain, submit).ack()));
    assert!(submitted.is_err());
    assert_eq!((engine.in_flight(), engine.descriptors()), (1, before), "the first chain, and nothing more");
    desk.complete(0);
    assert_eq!((poll(&mut engine), engine.in_flight()), (vec![], 0));
    assert_eq!(engine.descriptors(), (1, 1));
    assert!(!is_copied(&world, 2));
    // The engine goes on.
    assert_eq!(
        stays_good(&world, &desk, &mut engine),
        [ChainDone { tag: 3, result: Ok(Verdict::default()) }]
    );
    drop(engine);
}

/// What comes of a chain that waits for another.
fn stays_good(world: &World, desk: &Desk, engine: &mut Engine) -> Vec<ChainDone> {
    let first = engine.submit_tx(copies(world, &[3]), Submit::default());
    engine.submit_tx(copies(world, &[4]), Submit { after: [first], done: Done::Tag(3) }).ack();
    desk.complete(0);
    poll(engine);
    desk.complete(0);
    poll(engine)
}
