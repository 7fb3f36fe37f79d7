//! A queue with its engine, stepped one unit of work at a time.
//!
//! [`Device::submit`] puts a descriptor in, [`Device::step`] executes one ready descriptor, or one member of
//! a batch, and lets one tick pass. Nothing happens by itself, and everything random comes from the fault
//! plan's seed: the same calls give the same bytes. Threads, portals and sockets are built on top.
//!
//! Address spaces belong to clients, as a PASID does: [`Device::open`] binds one.

mod call;
mod close;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use engine_dsa::wire::{Descriptor, Opcode, at};
use thiserror::Error;

use crate::batch::BatchRun;
use crate::counters::Counters;
use crate::execute::Executor;
use crate::faults::{Decision, Fault, FaultPlan, UNTIL_RELEASED};
use crate::memory::Memory;
use crate::personality::Personality;
use crate::record::{Record, SoftwareError};
use crate::rng::SplitMix64;

pub use call::CallError;

/// How a queue is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// One client, no feedback: what does not fit is lost silently.
    Dedicated,
    /// Many clients; what does not fit is told to retry.
    Shared,
}

/// What a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceConfig {
    /// Its claims.
    pub personality: Personality,
    /// How its queue is shared.
    pub mode: Mode,
    /// Entries of the queue.
    pub size: usize,
    /// Entries up to which a shared queue accepts.
    pub threshold: usize,
    /// Bytes of records that mean nothing are random instead of zero.
    pub poison: bool,
    /// What goes wrong.
    pub faults: FaultPlan,
}

impl DeviceConfig {
    /// A dedicated queue of `size` entries that does nothing wrong.
    pub fn dedicated(personality: Personality, size: usize) -> Self {
        let (mode, faults) = (Mode::Dedicated, FaultPlan::none());
        Self { personality, mode, size, threshold: size, poison: false, faults }
    }

    /// A shared queue of `size` entries that accepts up to `threshold` and does nothing wrong.
    pub fn shared(personality: Personality, size: usize, threshold: usize) -> Self {
        Self { mode: Mode::Shared, threshold, ..Self::dedicated(personality, size) }
    }

    /// The same with faults, and with poison, as they go together.
    #[must_use]
    pub fn with_faults(self, faults: FaultPlan) -> Self {
        Self { faults, poison: true, ..self }
    }
}

/// What became of a submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Submit {
    /// It is in the queue, or lost by a dedicated one.
    Accepted,
    /// Try again.
    Retry,
}

/// The queue has no such client, or the client is closing, or the device is unplugged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the queue is gone")]
pub struct Gone;

/// A dedicated queue has a client already (EBUSY).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the dedicated queue has a client already")]
pub struct Busy;

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is nothing to do.
    Idle,
    /// Something waits for later ticks, or until it is released.
    Waiting,
    /// One descriptor was executed, or its late consequence happened.
    Ran,
}

/// Names a client of a device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClientId(u64);

/// What a queue is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Accepts and executes.
    Enabled,
    /// Accepts nothing.
    Disabled,
    /// Accepts nothing, until a reset.
    Halted,
}

struct Client {
    memory: Arc<dyn Memory>,
    closing: bool,
}

/// A descriptor in the queue.
#[derive(Clone, Debug)]
struct Entry {
    client: ClientId,
    number: u64,
    descriptor: Descriptor,
    not_before: u64,
    decision: Decision,
    batch: Option<BatchRun>,
}

/// Something that happens at a later tick.
#[derive(Clone, Debug)]
struct Late {
    due: u64,
    client: ClientId,
    event: Event,
}

#[derive(Clone, Debug)]
enum Event {
    /// A record is written late. With `straggle`, it survives a close by as many ticks.
    Record { descriptor: Descriptor, record: Record, straggle: Option<u32> },
    /// A record is written again.
    Duplicate { descriptor: Descriptor, record: Record },
    /// A descriptor is executed although its client closes or the device was reset.
    Straggler(Box<Entry>),
}

/// The faults of the submission that comes next, kept while it is told to retry.
#[derive(Clone, Debug)]
struct Upcoming {
    decision: Decision,
    retries: u32,
    refuse: Option<i32>,
    short: Option<u32>,
}

/// A device with one queue and one engine.
pub struct Device {
    config: DeviceConfig,
    memory: Arc<dyn Memory>,
    executor: Executor,
    clients: BTreeMap<ClientId, Client>,
    next_client: u64,
    next_number: u64,
    queue: Vec<Entry>,
    late: Vec<Late>,
    upcoming: Option<Upcoming>,
    used: Vec<u32>,
    state: State,
    recover_at: Option<u64>,
    unplugged: bool,
    tick: u64,
    rng: SplitMix64,
    counters: Counters,
    error: Option<SoftwareError>,
}

impl Device {
    /// A device. `memory` is the address space of the clients that bring none.
    pub fn new(config: DeviceConfig, memory: impl Memory + 'static) -> Self {
        Self {
            rng: SplitMix64::new(config.faults.seed ^ 0x0de1_ce00),
            config,
            memory: Arc::new(memory),
            executor: Executor::new(),
            clients: BTreeMap::new(),
            next_client: 0,
            next_number: 0,
            queue: Vec::new(),
            late: Vec::new(),
            upcoming: None,
            used: Vec::new(),
            state: State::Enabled,
            recover_at: None,
            unplugged: false,
            tick: 0,
            counters: Counters::default(),
            error: None,
        }
    }

    /// Binds a client with the device's own address space.
    pub fn open(&mut self) -> Result<ClientId, Busy> {
        self.open_with(Arc::clone(&self.memory))
    }

    /// Binds a client with an address space of its own.
    pub fn open_with(&mut self, memory: Arc<dyn Memory>) -> Result<ClientId, Busy> {
        self.forget_closed();
        if self.config.mode == Mode::Dedicated && !self.clients.is_empty() {
            return Err(Busy);
        }
        let id = ClientId(self.next_client);
        self.next_client += 1;
        self.clients.insert(id, Client { memory, closing: false });
        Ok(id)
    }

    /// What the device claims to be now.
    pub fn personality(&self) -> &Personality {
        &self.config.personality
    }

    /// What it was made from; its personality may have changed since by a reset.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What the queue is doing.
    pub fn state(&self) -> State {
        self.state
    }

    /// The last error that no record could tell.
    pub fn software_error(&self) -> Option<SoftwareError> {
        self.error
    }

    /// Entries in the queue.
    pub fn occupancy(&self) -> usize {
        self.queue.len()
    }

    /// Ticks that passed.
    pub fn tick(&self) -> u64 {
        self.tick
    }

    /// Submits one descriptor as the portal's store does.
    pub fn submit(&mut self, client: ClientId, descriptor: &Descriptor) -> Result<Submit, Gone> {
        let bound = self.clients.get(&client).is_some_and(|client| !client.closing);
        if !bound || self.unplugged {
            return Err(Gone);
        }
        let shared = self.config.mode == Mode::Shared;
        if shared && (self.state != State::Enabled || self.planned_retry(descriptor) || self.is_full()) {
            self.counters.retried += 1;
            return Ok(Submit::Retry);
        }
        self.counters.accepted += 1;
        if self.state != State::Enabled || self.is_full() {
            self.counters.lost += 1;
            return Ok(Submit::Accepted);
        }
        let decision = self.upcoming(descriptor).decision.clone();
        self.upcoming = None;
        let mut descriptor = *descriptor;
        if shared {
            // The address space is the client's, whatever the descriptor says; privilege is dropped.
            descriptor.set_field(at::PASID, ((client.0 as u32).wrapping_add(1) & 0xf_ffff).to_le_bytes());
        }
        let stall = decision.stall();
        self.counters.stalled += u64::from(stall > 0);
        self.queue.push(Entry {
            client,
            number: self.next_number,
            descriptor,
            not_before: self.later(stall),
            decision,
            batch: None,
        });
        self.next_number += 1;
        Ok(Submit::Accepted)
    }

    fn is_full(&self) -> bool {
        let bound = match self.config.mode {
            Mode::Dedicated => self.config.size,
            Mode::Shared => self.config.threshold.min(self.config.size),
        };
        self.queue.len() >= bound
    }

    /// The faults of the next submission, drawn when it is first tried.
    fn upcoming(&mut self, d: &Descriptor) -> &mut Upcoming {
        let (plan, number, used) = (&self.config.faults, self.next_number, &mut self.used);
        self.upcoming.get_or_insert_with(|| {
            let decision = plan.decide(number, 0, d, used);
            Upcoming {
                retries: decision
                    .find(|f| if let Fault::Retry(n) = f { Some(*n) } else { None })
                    .unwrap_or(0),
                refuse: decision.find(|f| if let Fault::Refuse(errno) = f { Some(*errno) } else { None }),
                short: decision.find(|f| if let Fault::Short(n) = f { Some((*n).max(1)) } else { None }),
                decision,
            }
        })
    }

    /// Whether the plan says retry this time.
    fn planned_retry(&mut self, d: &Descriptor) -> bool {
        let upcoming = self.upcoming(d);
        let retry = upcoming.retries > 0;
        if upcoming.retries != u32::MAX {
            upcoming.retries = upcoming.retries.saturating_sub(1);
        }
        retry
    }

    /// The tick `ticks` from now.
    fn later(&self, ticks: u32) -> u64 {
        if ticks == UNTIL_RELEASED { u64::MAX } else { self.tick + u64::from(ticks) }
    }

    /// Lets go the oldest that waits until released; whether there was one.
    pub fn release(&mut self) -> bool {
        let tick = self.tick;
        if let Some(entry) = self.queue.iter_mut().find(|entry| entry.not_before == u64::MAX) {
            entry.not_before = tick;
            return true;
        }
        self.late.iter_mut().find(|late| late.due == u64::MAX).map(|late| late.due = tick).is_some()
    }

    /// Lets a tick pass and does one thing that is due.
    pub fn step(&mut self) -> Step {
        self.tick += 1;
        if self.recover_at.is_some_and(|at| at <= self.tick) {
            match self.state {
                State::Disabled => self.enable(),
                _ => self.reset(),
            }
        }
        if let Some(index) = self.late.iter().position(|late| late.due <= self.tick) {
            let late = self.late.remove(index);
            self.happen(late);
            return Step::Ran;
        }
        if self.state == State::Enabled
            && let Some(index) = self.pick()
        {
            self.run(index);
            return Step::Ran;
        }
        let waiting = !self.queue.is_empty() || !self.late.is_empty() || self.recover_at.is_some();
        if waiting { Step::Waiting } else { Step::Idle }
    }

    /// Steps until nothing is left that will happen by itself, or `steps` are over; whether it came to rest.
    pub fn run_to_rest(&mut self, steps: usize) -> bool {
        (0..steps).any(|_| match self.step() {
            Step::Idle => true,
            Step::Ran => false,
            Step::Waiting => self.is_held(),
        })
    }

    /// Whether all that waits, waits until it is released.
    fn is_held(&self) -> bool {
        self.recover_at.is_none()
            && self.late.iter().all(|late| late.due == u64::MAX)
            && (self.state != State::Enabled || self.queue.iter().all(|entry| entry.not_before == u64::MAX))
    }

    /// The entry that goes next: the oldest that is ready, or a random one.
    fn pick(&mut self) -> Option<usize> {
        let oldest = (0..self.queue.len()).find(|index| self.is_ready(*index))?;
        if !self.rng.chance(self.config.faults.reorder) {
            return Some(oldest);
        }
        let ready: Vec<usize> = (oldest..self.queue.len()).filter(|index| self.is_ready(*index)).collect();
        let picked = ready.get(self.rng.below(ready.len() as u64) as usize).copied()?;
        self.counters.reordered += u64::from(picked != oldest);
        Some(picked)
    }

    /// A drain is ready when nothing older of its client is outstanding; anything else when its time came.
    fn is_ready(&self, index: usize) -> bool {
        let Some(entry) = self.queue.get(index) else { return false };
        let same = |client: ClientId| self.config.mode == Mode::Dedicated || client == entry.client;
        let waits = |late: &Late| same(late.client) && !matches!(late.event, Event::Duplicate { .. });
        let drain = entry.descriptor.opcode() == Opcode::Drain as u8;
        let blocked = drain
            && (self.queue.iter().any(|other| other.number < entry.number && same(other.client))
                || self.late.iter().any(waits));
        entry.not_before <= self.tick && !blocked
    }
}
