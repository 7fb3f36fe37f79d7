//! The points of engine and backend together: chains that cross between the backend and the CPU.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::arena::{Arena, PAGE};
use super::bench::wait_or_step;
use super::oracle::Naive;
use super::{Subject, Tried, Trouble};
use crate::engine::ChainDone;
use crate::op::{Change, Lost, Op, OpKind, Product, Seed, Verdict, XorMode};
use crate::{Chain, ChainError, Clock, Done, Engine, EngineConfig, Nanos, NodeId, Region, Submit, Tx};

/// Chains in flight at once, each over memory of its own.
const CHAINS: usize = 6;
/// Blocks of one chain.
const BLOCKS: usize = 10;
/// Bytes of a block, at most.
const BLOCK_MAX: usize = 5000;
/// A chain that waits for no other.
const NOTHING: [Tx; 0] = [];

/// An engine with the backend beside the CPU, and chains over the arena.
struct Ring<'s> {
    subject: &'s mut dyn Subject,
    arena: &'s mut Arena,
}

/// The blocks of chain `at`.
fn blocks(arena: &Arena, at: usize, len: usize, phase: usize) -> Result<Vec<Region>, String> {
    let stride = (BLOCK_MAX + PAGE).next_multiple_of(PAGE);
    (0..BLOCKS).map(|i| arena.at(PAGE + (at * BLOCKS + i) * stride + phase, len)).collect()
}

/// Pushes one random operation over `blocks` after `deps`.
fn push_random(
    arena: &mut Arena,
    chain: &mut Chain,
    blocks: &[Region],
    deps: &[NodeId],
) -> Result<NodeId, ChainError> {
    let mut blocks = blocks.to_vec();
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, arena.rng.below(i + 1));
    }
    let [dst, second, crc, a, b, c, ..] = blocks[..] else { return Err(ChainError::Full) };
    let crc = crc.part(0, 4).unwrap_or(crc);
    let srcs = [a, b, c];
    let data = [Some(a), None, Some(b), Some(c)];
    let (byte, seed) = (arena.rng.byte(), Seed::Value(arena.rng.next() as u32));
    let (p, q) = (Some(dst), Some(second));
    let mode = [XorMode::Overwrite, XorMode::Accumulate][arena.rng.below(2)];
    // What device and CPU both take comes up most.
    let op = match OpKind::ALL.get(arena.rng.below(OpKind::COUNT + 8)) {
        Some(OpKind::Notify) => Op::Notify,
        Some(OpKind::Fill) => Op::Fill { dst, byte },
        Some(OpKind::Xor) => Op::Xor { srcs: &srcs, dst, mode },
        Some(OpKind::XorVal) => Op::XorVal { srcs: &srcs },
        Some(OpKind::Pq) => Op::Pq { data: &data, p, q },
        Some(OpKind::PqVal) => Op::PqVal { data: &data, p, q },
        Some(OpKind::PqUpdate) => {
            let change = Change { exponent: byte % 255, old: Some(a), new: Some(b) };
            return chain.push(Op::PqUpdate { changes: &[change], p, q }, deps);
        }
        Some(OpKind::Recover) => {
            let data = [p, Some(a), q];
            let lost = Lost { data: [Some(0), Some(2)], p: false, q: false };
            return chain.push(Op::Recover { data: &data, p: Some(b), q: Some(c), lost }, deps);
        }
        Some(OpKind::GfMulAdd) => {
            return chain
                .push(Op::GfMulAdd { products: &[Product { coefficient: byte, src: a }], dst }, deps);
        }
        Some(OpKind::Compare) => Op::Compare { a, b },
        Some(OpKind::Dualcast) => Op::Dualcast { src: a, dst: [dst, second] },
        Some(OpKind::Crc32c) => Op::Crc32c { src: a, seed, crc },
        Some(OpKind::CopyCrc32c) => Op::CopyCrc32c { src: a, dst, seed, crc },
        Some(OpKind::Copy) | None => Op::Copy { src: a, dst },
    };
    chain.push(op, deps)
}

/// A chain with dependencies over the blocks of chain `at`, and what its checks are to find.
fn random_chain(arena: &mut Arena, mut chain: Chain, at: usize) -> Result<(Chain, Verdict), String> {
    let len = [64, 4096, BLOCK_MAX][arena.rng.below(3)];
    let phase = [0, 0, 64, 13][arena.rng.below(4)];
    let blocks = blocks(arena, at, len, phase)?;
    let mut nodes: Vec<NodeId> = Vec::new();
    let bad = |error: ChainError| format!("the suite built a bad chain: {error}");
    // The chain that gave the API its reason: an xor, a copy of its result, an xor of that.
    if let ([a, b, c, d, ..], true) = (&blocks[..], arena.rng.below(2) == 0) {
        let xor =
            chain.push(Op::Xor { srcs: &[*a, *b], dst: *c, mode: XorMode::Accumulate }, &[]).map_err(bad)?;
        let copy = chain.push(Op::Copy { src: *c, dst: *d }, &[xor]).map_err(bad)?;
        let last = Op::Xor { srcs: &[*a, *d], dst: *c, mode: XorMode::Accumulate };
        nodes.extend([xor, copy, chain.push(last, &[copy]).map_err(bad)?]);
    }
    for _ in 0..1 + arena.rng.below(12) {
        let deps: Vec<NodeId> = nodes.iter().copied().filter(|_| arena.rng.below(4) == 0).collect();
        nodes.push(push_random(arena, &mut chain, &blocks, &deps).map_err(bad)?);
    }
    let verdict = chain.ops().fold(Verdict::default(), |sum, op| sum.or(arena.expect(&op)));
    Ok((chain, verdict))
}

/// What a clock of the suite moves on by in a turn. With the times of [`config`] a device that does nothing
/// is given up after some twenty turns, and looked at again soon.
const TURN: Duration = Duration::from_millis(5);

/// Times in which a hanging device is noticed, given up and looked at again within some hundred turns.
fn config() -> EngineConfig {
    EngineConfig { probe_after: TURN * 4, probe_max: TURN * 16, ..EngineConfig::default() }
}

/// A clock that moves when it is told to.
#[derive(Clone, Default)]
struct Turns(Arc<AtomicU64>);

impl Turns {
    fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Clock for Turns {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Ring<'_> {
    fn engine(&mut self) -> Engine {
        self.arena.scramble();
        Engine::new(Box::new(Naive)).with_backend(self.subject.backend())
    }

    /// One turn of whoever uses an engine.
    fn turn(&mut self, engine: &mut Engine, done: &mut Vec<ChainDone>) {
        self.subject.step();
        engine.issue_pending_all();
        engine.poll(done);
    }

    fn still_patient(&self, began: Instant, engine: &Engine, what: &str) -> Result<(), String> {
        let patience = self.subject.patience();
        if began.elapsed() <= patience {
            return Ok(());
        }
        Err(format!("waited {patience:?} for {what}; {} chains are in flight", engine.in_flight()))
    }

    /// Random chains over memory of their own, and what they are to find.
    fn chains(&mut self, engine: &mut Engine) -> Result<Vec<(Chain, Verdict)>, String> {
        (0..CHAINS).map(|at| random_chain(self.arena, engine.chain(), at)).collect()
    }

    /// Runs as many chains at once as there is memory for, and checks how they ended. `between` happens at
    /// every turn.
    fn round(
        &mut self,
        engine: &mut Engine,
        mut between: impl FnMut(&mut dyn Subject, usize),
    ) -> Result<(), String> {
        self.arena.scramble();
        let chains = self.chains(engine)?;
        let wanted: Vec<Verdict> = chains.iter().map(|(_, verdict)| *verdict).collect();
        for ((chain, _), tag) in chains.into_iter().zip(0u64..) {
            engine.submit(chain, tag);
        }
        let mut done = Vec::new();
        let (began, mut turns) = (Instant::now(), 0);
        while done.len() < CHAINS {
            between(self.subject, turns);
            self.turn(engine, &mut done);
            turns += 1;
            self.still_patient(began, engine, "chains to end")?;
        }
        for (verdict, tag) in wanted.into_iter().zip(0u64..) {
            let results: Vec<_> =
                done.iter().filter(|done| done.tag == tag).map(|done| done.result).collect();
            if results != [Ok(verdict)] {
                return Err(format!("chain {tag} ended with {results:?}, not once with {verdict:?}"));
            }
        }
        self.arena.check_all().map_err(|what| format!("after the chains, {what}"))
    }

    /// Drops the engine while the device moves, and looks that nothing writes after that.
    fn drop_engine(&mut self, engine: Engine) -> Result<(), String> {
        let began = Instant::now();
        let dropping = std::thread::spawn(move || drop(engine));
        while !dropping.is_finished() {
            wait_or_step(self.subject, began);
            if began.elapsed() > self.subject.patience() {
                return Err("the engine's drop does not return".to_owned());
            }
        }
        dropping.join().map_err(|_| "dropping the engine panicked".to_owned())?;
        self.arena.scramble();
        for _ in 0..64 {
            self.subject.step();
        }
        self.arena.check_all().map_err(|what| format!("written after the engine was dropped: {what}"))
    }
}

pub(super) fn dependency_release(subject: &mut dyn Subject, arena: &mut Arena) -> Tried {
    let mut ring = Ring { subject, arena };
    let mut engine = ring.engine();
    for round in 0..40 {
        ring.round(&mut engine, |_, _| {}).map_err(|what| format!("in round {round}: {what}"))?;
    }
    ring.drop_engine(engine)?;
    Ok(None)
}

/// What a callback saw.
#[derive(Default)]
struct Seen {
    /// Something of the engine but `poll` is being called.
    elsewhere: AtomicBool,
    calls: AtomicUsize,
    wrong: Mutex<Option<String>>,
}

impl Seen {
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    /// What one chain's callback is to be.
    fn callback(self: &Arc<Self>, verdict: Verdict) -> Done {
        let (seen, poller, calls) = (Arc::clone(self), std::thread::current().id(), AtomicUsize::new(0));
        Done::Callback(Arc::new(move |done: ChainDone| {
            seen.calls.fetch_add(1, Ordering::Relaxed);
            if calls.fetch_add(1, Ordering::Relaxed) > 0 {
                seen.wrong("a callback ran twice".to_owned());
            }
            if seen.elsewhere.load(Ordering::Relaxed) {
                seen.wrong("a callback ran outside of poll".to_owned());
            }
            if std::thread::current().id() != poller {
                seen.wrong("a callback ran on another thread than the one that polls".to_owned());
            }
            if done.result != Ok(verdict) {
                seen.wrong(format!("a callback was told {:?}, not {verdict:?}", done.result));
            }
        }))
    }

    /// Calls something that is not `poll`.
    fn outside_poll<R>(&self, call: impl FnOnce() -> R) -> R {
        self.elsewhere.store(true, Ordering::Relaxed);
        let returned = call();
        self.elsewhere.store(false, Ordering::Relaxed);
        returned
    }
}

pub(super) fn callback_once(subject: &mut dyn Subject, arena: &mut Arena) -> Tried {
    let mut ring = Ring { subject, arena };
    let mut engine = ring.engine();
    let seen = Arc::new(Seen::default());
    let mut wanted = 0;
    for _ in 0..10 {
        ring.arena.scramble();
        for (chain, verdict) in ring.chains(&mut engine)? {
            let done = seen.callback(verdict);
            seen.outside_poll(|| engine.submit_tx(chain, Submit { after: NOTHING, done }).ack());
            wanted += 1;
        }
        let began = Instant::now();
        while seen.calls.load(Ordering::Relaxed) < wanted {
            ring.subject.step();
            seen.outside_poll(|| engine.issue_pending_all());
            engine.poll(&mut Vec::new());
            ring.still_patient(began, &engine, "callbacks")?;
        }
        for _ in 0..16 {
            ring.turn(&mut engine, &mut Vec::new());
        }
        ring.arena.check_all()?;
    }
    if let Some(wrong) = seen.wrong.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(wrong);
    }
    let calls = seen.calls.load(Ordering::Relaxed);
    if calls == wanted { Ok(None) } else { Err(format!("{calls} callbacks ran for {wanted} chains")) }
}

pub(super) fn cancel(subject: &mut dyn Subject, arena: &mut Arena) -> Tried {
    let mut ring = Ring { subject, arena };
    let mut engine = ring.engine();
    // Nobody waits for a chain whose handle was dropped, but what it writes it writes.
    for _ in 0..5 {
        ring.arena.scramble();
        for (chain, _) in ring.chains(&mut engine)? {
            drop(engine.submit_tx(chain, Submit::default()));
        }
        let began = Instant::now();
        while engine.in_flight() > 0 {
            ring.turn(&mut engine, &mut Vec::new());
            ring.still_patient(began, &engine, "chains without handles to end")?;
        }
        ring.arena.check_all().map_err(|what| format!("of a chain whose handle was dropped, {what}"))?;
    }
    ring.drop_engine(engine)?;
    // The engine goes, early or late, and with it everything that could write.
    for turns in [0, 1, 7] {
        let mut engine = ring.engine();
        let mut handles = Vec::new();
        for (chain, _) in ring.chains(&mut engine)? {
            handles.push(engine.submit_tx(chain, Submit::default()));
        }
        engine.issue_pending_all();
        for _ in 0..turns {
            ring.turn(&mut engine, &mut Vec::new());
        }
        ring.drop_engine(engine)?;
        if handles.iter().any(|tx| !tx.is_done()) {
            return Err("a handle still waits for an engine that is gone".to_owned());
        }
    }
    Ok(None)
}

pub(super) fn retry(subject: &mut dyn Subject, arena: &mut Arena) -> Tried {
    let mut ring = Ring { subject, arena };
    let mut troubles = vec![Trouble::Fail, Trouble::Stall, Trouble::Gone];
    // What can be made is seen on a backend of its own.
    drop(ring.subject.backend());
    troubles.retain(|trouble| ring.subject.inject(*trouble));
    ring.subject.inject(Trouble::Heal);
    if troubles.is_empty() {
        return Ok(Some("the subject can make no trouble"));
    }
    troubles.push(Trouble::Heal);
    let clock = Turns::default();
    let mut engine = ring.engine().with_config(config()).with_clock(Box::new(clock.clone()));
    for (round, trouble) in troubles.iter().copied().cycle().take(24).enumerate() {
        let say = |what: String| format!("in round {round}, {trouble:?}: {what}");
        let round = ring.round(&mut engine, |subject, turns| {
            clock.pass(TURN);
            if turns == 2 {
                subject.inject(trouble);
            } else if turns == 200 {
                subject.inject(Trouble::Heal);
            }
        });
        round.map_err(say)?;
    }
    // In the end it is back, and gets work.
    ring.subject.inject(Trouble::Heal);
    let began = Instant::now();
    let served = |engine: &Engine| engine.stats().backends.first().map_or(0, |backend| backend.completed);
    let before = served(&engine);
    while served(&engine) == before {
        ring.round(&mut engine, |_, _| clock.pass(TURN))?;
        ring.still_patient(began, &engine, "the backend to be given work again")?;
    }
    let quarantines = engine.stats().backends.first().map_or(0, |backend| backend.quarantines);
    ring.drop_engine(engine)?;
    if quarantines == 0 {
        Err("in all the trouble the backend was never set aside".to_owned())
    } else {
        Ok(None)
    }
}
