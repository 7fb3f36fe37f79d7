//! Runs a case on a mixed engine and on the CPU alone, and compares.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_tx::{
    Alert, Backend, Caps, Chain, ChainDone, Clock, Completion, Done, Engine, EngineConfig, Limits, Nanos, Op,
    OpKind, ReadyOp, Revival, Submit, Thresholds, Tx, Verdict, WaitError,
};
use dsa_model::memory::Ranges;
use dsa_model::rng::SplitMix64;
use engine_cpu::CpuBackend;
use engine_dsa::backend::{DsaBackend, Options};

use crate::case::{Case, TINY};
use crate::coverage::Coverage;
use crate::device::{Registered, Stepped, setup_of};
use crate::node::{STRIDE, STRIPS, USED, ZONE, Zone, build};

/// Zones of memory.
const ZONES: usize = 2;
/// Time that passes each time that the clock is read.
const TICK: u64 = 1_000;
/// When an operation is given up.
const TIMEOUT: Duration = Duration::from_micros(400);
/// No case lasts longer.
const LIMIT: Nanos = Nanos(200_000_000);
/// By so much a wait may miss its deadline: some looks at the clock.
const SLACK: Duration = Duration::from_micros(50);
/// Turns after which an operator resets the devices, while chains are in flight and after that.
const OPERATOR: [u64; 2] = [4_000, 300];

/// Memory that is reached through one raw pointer only.
struct Arena(*mut [u64]);

impl Arena {
    fn new() -> Arena {
        // A page aligned by hand: words are aligned to 8, and the rest is the first zone's offset.
        Arena(Box::into_raw(vec![0u64; (ZONES * ZONE + 4096) / 8].into_boxed_slice()))
    }

    fn base(&self) -> *mut u8 {
        let start: *mut u8 = self.0.cast();
        start.wrapping_add(start.align_offset(4096))
    }

    fn zone(&self, zone: usize) -> Zone {
        Zone(self.base().wrapping_add(zone * ZONE))
    }

    /// All bytes of a zone; nothing over it is in flight.
    fn bytes(&self, zone: usize) -> &[u8] {
        // SAFETY: inside the box; the caller says that nobody writes.
        unsafe { std::slice::from_raw_parts(self.zone(zone).0, ZONE) }
    }

    /// New bytes where operands can be; nothing over the zone is in flight.
    fn scribble(&self, zone: usize, mut rng: SplitMix64) {
        for strip in 0..STRIPS {
            for word in 0..USED / 8 {
                let at = self.zone(zone).0.wrapping_add(strip * STRIDE + word * 8);
                // SAFETY: inside the box; the caller says that nobody accesses it.
                unsafe { at.cast::<[u8; 8]>().write(rng.next().to_le_bytes()) };
            }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: made by `new`; whoever has pointers into it was dropped before.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Time that moves, and lets the devices move, when somebody looks.
#[derive(Clone)]
struct Ticking {
    now: Arc<AtomicU64>,
    devices: Arc<Vec<Stepped>>,
}

fn step_all(devices: &[Stepped]) {
    for device in devices {
        device.step();
    }
}

impl Clock for Ticking {
    fn now(&self) -> Nanos {
        step_all(&self.devices);
        Nanos(self.now.fetch_add(TICK, Ordering::Relaxed) + TICK)
    }
}

impl Ticking {
    fn peek(&self) -> Nanos {
        Nanos(self.now.load(Ordering::Relaxed))
    }
}

/// A backend that can be looked at while the engine has it.
#[derive(Clone)]
struct Watched {
    name: String,
    inner: Arc<Mutex<DsaBackend>>,
    /// Steps of cut operations.
    steps: Arc<AtomicU64>,
}

impl Watched {
    fn with<T>(&self, f: impl FnOnce(&mut DsaBackend) -> T) -> T {
        f(&mut self.inner.lock().unwrap())
    }
}

impl Backend for Watched {
    fn name(&self) -> &str {
        &self.name
    }
    fn caps(&self) -> Caps {
        self.with(|inner| inner.caps())
    }
    fn limits(&self, kind: OpKind) -> Limits {
        self.with(|inner| inner.limits(kind))
    }
    fn accepts(&self, op: &Op<'_>) -> bool {
        self.with(|inner| inner.accepts(op))
    }
    fn fences(&self) -> Caps {
        self.with(|inner| inner.fences())
    }
    fn batch(&self) -> usize {
        self.with(|inner| inner.batch())
    }
    fn room(&self) -> usize {
        self.with(|inner| inner.room())
    }
    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let taken = self.with(|inner| inner.submit(ops));
        let cut = ops[..taken].iter().filter(|op| TINY.contains(&(op.op.len() as u32))).count();
        self.steps.fetch_add(cut as u64, Ordering::Relaxed);
        taken
    }
    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.with(|inner| inner.reap(done));
    }
    fn abort(&mut self) {
        self.with(|inner| inner.abort());
    }
    fn revive(&mut self, now: Nanos) -> Revival {
        self.with(|inner| inner.revive(now))
    }
}

/// A group under way.
struct Flying {
    expected: Vec<Verdict>,
    /// Tags of its chains that have not ended; the low bits are the chain's number.
    left: usize,
    last: Option<Tx>,
}

struct Run<'a> {
    case: &'a Case,
    rng: SplitMix64,
    clock: Ticking,
    mixed: Arena,
    reference: Arena,
    engine: Engine,
    cpu: Engine,
    backends: Vec<Watched>,
    queues: [VecDeque<usize>; ZONES],
    flying: [Option<Flying>; ZONES],
    done: Vec<ChainDone>,
    alerts: Vec<Alert>,
    coverage: Coverage,
    turn: u64,
    healing: bool,
    scribbles: u64,
}

pub(crate) fn run(case: &Case) -> Result<Coverage, String> {
    let mixed = Arena::new();
    let memory = Ranges::new();
    // Declared before the engine, so dropped after it.
    let _registered = Registered::new(&memory, mixed.base(), ZONES * ZONE);
    let devices: Vec<Stepped> =
        case.devices.iter().map(|device| Stepped::new(device.config.clone(), &memory)).collect();
    let clock = Ticking { now: Arc::default(), devices: Arc::new(devices) };
    let options = Options {
        batch: case.batch,
        len_min: 0,
        patience: Duration::from_micros(300),
        rest: Duration::ZERO,
        threaded: false,
        ..Options::default()
    };
    let config = EngineConfig {
        op_timeout: TIMEOUT,
        cross_check: case.cross_check,
        probe_after: Duration::from_micros(50),
        probe_max: Duration::from_micros(400),
        ..EngineConfig::default()
    };
    let mut engine =
        Engine::new(Box::new(CpuBackend::auto())).with_config(config).with_clock(Box::new(clock.clone()));
    let mut backends = Vec::new();
    for (i, device) in clock.devices.iter().enumerate() {
        let name = format!("dsa {i}");
        let inner = DsaBackend::open(&name, device.opener(), options).map_err(|error| error.to_string())?;
        let watched = Watched { name, inner: Arc::new(Mutex::new(inner)), steps: Arc::default() };
        engine = engine.with_routed_backend(Box::new(watched.clone()), Thresholds::all(1));
        backends.push(watched);
    }
    let mut queues: [VecDeque<usize>; ZONES] = Default::default();
    for (i, group) in case.groups.iter().enumerate() {
        queues[group.zone].push_back(i);
    }
    let mut run = Run {
        case,
        rng: SplitMix64::new(case.seed ^ 0x0ca11e4),
        clock,
        mixed,
        reference: Arena::new(),
        engine,
        cpu: Engine::new(Box::new(CpuBackend::auto())),
        backends,
        queues,
        flying: Default::default(),
        done: Vec::new(),
        alerts: Vec::new(),
        coverage: Coverage::default(),
        turn: 0,
        healing: false,
        scribbles: 0,
    };
    let result = run.all();
    let Run { engine, backends, mixed, clock, coverage, .. } = run;
    // The engine first, and the backends with it, then the memory.
    drop((engine, backends));
    drop((clock, mixed));
    result.map(|()| coverage)
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), String> {
        (0..ZONES).for_each(|zone| self.scribble(zone));
        while self.queues.iter().any(|queue| !queue.is_empty()) || self.flying.iter().any(Option::is_some) {
            for zone in 0..ZONES {
                if self.flying[zone].is_none() && self.rng.below(3) > 0 {
                    self.launch(zone)?;
                }
            }
            if self.case.dropped == Some(self.turn) {
                return self.drop_all();
            }
            self.a_turn()?;
        }
        self.heal()?;
        self.nothing_happens()?;
        self.count();
        Ok(())
    }

    /// Drops the engine and its backends with all that is in flight; from then on nothing is written.
    fn drop_all(&mut self) -> Result<(), String> {
        self.count();
        self.coverage.count("engine: dropped", 1);
        self.coverage.count("engine: dropped in flight", u64::from(self.engine.in_flight() > 0));
        self.engine = Engine::new(Box::new(CpuBackend::auto()));
        self.backends.clear();
        (0..ZONES).for_each(|zone| self.scribble(zone));
        (0..200).for_each(|_| step_all(&self.clock.devices));
        (0..ZONES).try_for_each(|zone| self.compare(zone, "after the engine was dropped"))
    }

    /// Puts new bytes into a zone of both memories.
    fn scribble(&mut self, zone: usize) {
        self.scribbles += 1;
        let rng = SplitMix64::new(self.case.seed.rotate_left(20) ^ self.scribbles);
        self.mixed.scribble(zone, rng.clone());
        self.reference.scribble(zone, rng);
    }

    /// Starts the next group of a zone, after the CPU alone has run it.
    fn launch(&mut self, zone: usize) -> Result<(), String> {
        let Some(index) = self.queues[zone].pop_front() else { return Ok(()) };
        let group = &self.case.groups[index];
        let mut flying = Flying { expected: Vec::new(), left: group.chains.len(), last: None };
        for (number, nodes) in group.chains.iter().enumerate() {
            let chain = build(nodes, self.reference.zone(zone), Chain::new());
            let verdict = self.cpu.run(chain).map_err(|error| format!("the CPU alone: {error}"))?;
            flying.expected.push(verdict);
            let chain = build(nodes, self.mixed.zone(zone), self.engine.chain());
            let done = Done::Tag((zone as u64) << 32 | number as u64);
            let tx = match &flying.last {
                Some(before) => self.engine.submit_tx(chain, Submit { after: [before], done }),
                None => self.engine.submit_tx(chain, Submit { after: [], done } as Submit),
            };
            flying.last = Some(tx);
        }
        self.flying[zone] = Some(flying);
        Ok(())
    }

    /// What a caller does: polls, now and then issues or waits for a while.
    fn a_turn(&mut self) -> Result<(), String> {
        self.turn += 1;
        self.trouble();
        let issue = self.rng.below(3) == 0;
        if issue {
            self.engine.issue_pending_all();
        }
        if self.rng.below(8) == 0 {
            self.wait_for_some()?;
        }
        self.engine.poll(&mut self.done);
        for done in std::mem::take(&mut self.done) {
            self.ended(done)?;
        }
        self.engine.take_alerts(&mut self.alerts);
        let lies = self.case.cross_check == 1;
        if self.alerts.iter().any(|alert| matches!(alert, Alert::Mismatch { .. })) && !lies {
            return Err("a cross-check found a wrong result of a device that does not lie".to_owned());
        }
        self.alerts.clear();
        if self.clock.peek() > LIMIT {
            return Err(format!("it takes longer than {LIMIT:?}: {:?}", self.engine.stats()));
        }
        if self.turn > 1_000_000 {
            return Err("it takes too many turns".to_owned());
        }
        Ok(())
    }

    /// Takes devices away and brings them back; resets what an operator would.
    fn trouble(&mut self) {
        for (case, device) in self.case.devices.iter().zip(self.clock.devices.iter()) {
            if case.unplugged == Some(self.turn) {
                self.coverage.model(&device.model().with(|device| device.counters()));
                self.coverage.count("fault: unplugged", 1);
                device.unplug();
            } else if case.unplugged.is_some_and(|at| at + 300 == self.turn) {
                device.heal();
            }
            if self.turn.is_multiple_of(OPERATOR[usize::from(self.healing)]) {
                device.model().with(|device| device.reset());
            }
        }
    }

    /// Waits for a chain until some deadline.
    fn wait_for_some(&mut self) -> Result<(), String> {
        let zone = self.rng.below(ZONES as u64) as usize;
        let Some(tx) = self.flying[zone].as_ref().and_then(|flying| flying.last.as_ref()) else {
            return Ok(());
        };
        let begun = self.clock.peek();
        let deadline = begun.after(Duration::from_nanos(self.rng.below(100) * TICK));
        let waited = self.engine.wait(tx, deadline);
        let late = self.clock.peek().since(deadline);
        if late > SLACK {
            return Err(format!("a wait from {begun:?} until {deadline:?} was {late:?} late"));
        }
        match waited {
            Ok(_) | Err(WaitError::Deadline) => Ok(()),
            Err(error) => Err(format!("waiting: {error}")),
        }
    }

    /// A chain has ended; with the last one of a group its zone has to be that of the CPU alone.
    fn ended(&mut self, done: ChainDone) -> Result<(), String> {
        let (zone, number) = ((done.tag >> 32) as usize, done.tag as u32 as usize);
        let Some(flying) = &mut self.flying[zone] else { return Err(format!("{done:?} ended twice")) };
        let verdict = done.result.map_err(|error| format!("the engine failed: {error}"))?;
        if verdict != flying.expected[number] {
            return Err(format!("chain {number} found {verdict:?}, not {:?}", flying.expected[number]));
        }
        flying.left -= 1;
        if flying.left == 0 {
            self.flying[zone] = None;
            self.compare(zone, "when its chains had ended")?;
            // Whoever writes late, writes into this.
            self.scribble(zone);
        }
        Ok(())
    }

    fn compare(&self, zone: usize, when: &str) -> Result<(), String> {
        let (mixed, reference) = (self.mixed.bytes(zone), self.reference.bytes(zone));
        if mixed == reference {
            return Ok(());
        }
        let at = mixed.iter().zip(reference).position(|(a, b)| a != b).unwrap_or(0);
        let count = mixed.iter().zip(reference).filter(|(a, b)| a != b).count();
        let (strip, offset) = (at / STRIDE, at % STRIDE);
        Err(format!("zone {zone} differs {when}: {count} bytes, the first in strip {strip} at {offset}"))
    }

    /// Until every device is well again and every credit is back.
    fn heal(&mut self) -> Result<(), String> {
        let begun = self.turn;
        self.healing = true;
        loop {
            let stats = self.engine.stats();
            if stats.backends.iter().all(|backend| !backend.quarantined) {
                break;
            }
            self.a_turn()?;
            if self.turn - begun > 100_000 {
                return Err(format!("a device does not come back: {stats:?}"));
            }
        }
        if self.engine.in_flight() != 0 {
            return Err("chains are in flight after all have ended".to_owned());
        }
        for (backend, device) in self.backends.iter().zip(self.clock.devices.iter()) {
            let expected = device.model().with(|device| setup_of(device.config())).credits;
            let (idle, credits, hand) = backend.with(|inner| {
                let queue = inner.queue();
                (queue.is_idle(), queue.credits(), queue.in_hand())
            });
            if !idle || credits != expected || hand != 0 {
                return Err(format!("{}: {credits} of {expected} credits, {hand} in hand", backend.name));
            }
        }
        Ok(())
    }

    /// Lets the devices do whatever they still would.
    fn nothing_happens(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            step_all(&self.clock.devices);
        }
        (0..ZONES).try_for_each(|zone| self.compare(zone, "long after its last chain had ended"))?;
        let stats = self.engine.stats();
        if stats.stray_completions > 0 || stats.chains_failed > 0 {
            return Err(format!("stray completions or failed chains: {stats:?}"));
        }
        Ok(())
    }

    fn count(&mut self) {
        self.coverage.engine(&self.engine.stats());
        for (backend, device) in self.backends.iter().zip(self.clock.devices.iter()) {
            self.coverage.driver(&backend.with(|inner| inner.counters()));
            self.coverage.model(&device.model().with(|device| device.counters()));
            self.coverage.count("engine: step of a cut operation", backend.steps.load(Ordering::Relaxed));
        }
    }
}
