//! The run loop of one array: what the core asks for is done, and what came of it is told to the core.
//!
//! ```text
//!   submit ──Event──> ┌───────┐ ──Read, Write, Flush, WriteMeta──> MemberIo ──IoDone──┐
//!   stop, fail, add ─>│ Array │ ──Compute──> lower ──> Engine ──ComputeDone───────────┤
//!                     └───────┘ ──Complete──> finished()                              │
//!                         ^───────────────────────────────────────────────────────────┘
//! ```
//!
//! A [`Runner`] has no thread, no socket and no clock of its own: the shard drives it with files, a
//! simulator with memory. It never blocks. It promises that the memory behind a name stays in place until
//! the core has done with the name, and that when the core breaks its word (memory that does not exist, an
//! impossible operation, an answer to nobody) nothing more is written: that is [`Fatal`], after which
//! every call says so again.

use std::collections::VecDeque;

use async_tx::{Alert, ChainDone, Engine, EngineStats, Nanos};
use thiserror::Error;
use uraid_blockio::{BufPool, Io, IoDone, IoError, IoOp, MemberIo, PoolBuf};
use uraid_core::{
    Action, Array, ComputeFault, ComputeId, Event, IoFault, IoId, Mem, MemberId, Notice, ReqId, RequestError,
    RequestKind, Step, Tick,
};

use crate::clock::Clock;
use crate::latency::{MemberOp, MemberOps, Stopwatch};
use crate::lower::{LowerError, Lowering, verdict};
use crate::memory::{BadMem, Memory};
use crate::offload::{EngineChange, NewBackend};
use crate::requests::{InFlight, Requests};

/// A request for the array.
#[derive(Debug)]
pub struct NewRequest<T> {
    /// What is asked.
    pub kind: RequestKind,
    /// First byte of the array.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// For a write the complete payload, for a read where it goes; `len` bytes. Nothing for the others.
    pub payload: Option<PoolBuf>,
    /// Comes back in [`Finished`].
    pub tag: T,
}

/// A request that the array has done with.
#[derive(Debug)]
pub struct Finished<T> {
    /// What was asked.
    pub kind: RequestKind,
    /// Bytes.
    pub len: u64,
    /// The payload, of a read filled unless there is an error.
    pub payload: Option<PoolBuf>,
    /// The tag of the request.
    pub tag: T,
    /// When it was submitted.
    pub since: Tick,
    /// How it ended.
    pub result: Result<(), RequestError>,
}

/// The core broke its word; the array must not be written any more.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Fatal {
    /// It named memory that does not exist.
    #[error(transparent)]
    Mem(#[from] BadMem),
    /// It planned a computation that is none.
    #[error(transparent)]
    Plan(#[from] LowerError),
    /// It answered a request that it was not asked.
    #[error("the array core answered a request that was never made: {0:?}")]
    Answer(ReqId),
    /// Its own check found something.
    #[error("the array core's self-check failed: {0}")]
    SelfCheck(String),
}

/// What [`Runner::step`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// Nothing was to be done.
    Idle,
    /// All that could be done was done.
    Done,
    /// There is more to do at once; the budget is spent.
    More,
}

/// What member I/O and engine did since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IoCounters {
    /// Reads from members.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes to members, without metadata.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// Flushes of members.
    pub flushes: u64,
    /// Metadata writes.
    pub meta_writes: u64,
    /// Operations on members that failed.
    pub errors: u64,
    /// Compute plans.
    pub chains: u64,
    /// Compute plans that failed.
    pub chain_errors: u64,
}

/// The last error of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemberError {
    /// How many there were.
    pub count: u64,
    /// The last of them.
    pub last: IoError,
}

/// The runner's clock, for the engine: both count nanoseconds from the same moment.
struct EngineClock<C>(C);

impl<C: Clock + Send> async_tx::Clock for EngineClock<C> {
    fn now(&self) -> Nanos {
        Nanos(self.0.now().0)
    }
}

/// One array with its members, its memory and its engine.
pub struct Runner<M, C, T> {
    array: Array,
    // Engine and members are dropped before the memory that they may still be using, that of requests
    // included: both wait for what they have in flight, devices that do not answer too. Fields are dropped
    // in the order in which they stand here, however the runner ends.
    engine: Engine,
    members: M,
    clock: C,
    requests: Requests<T>,
    memory: Memory,
    finished: VecDeque<Finished<T>>,
    notices: Vec<Notice>,
    errors: Vec<Option<MemberError>>,
    watch: Stopwatch,
    /// The time, as long as nothing was done since it was read that takes any.
    just_now: Option<Tick>,
    io_done: Vec<IoDone>,
    chains_done: Vec<ChainDone>,
    lowering: Lowering,
    owes_idle: bool,
    stopped: Option<bool>,
    fatal: Option<Fatal>,
    self_check: bool,
    counters: IoCounters,
}

impl<M: MemberIo, C: Clock + Clone + Send + 'static, T> Runner<M, C, T> {
    /// Joins an array with those who work for it. `memory` is made for the array's geometry and as many
    /// slots as the array was started with. The engine, which was given nothing yet, goes by `clock` from
    /// here on.
    pub fn new(array: Array, members: M, engine: Engine, memory: Memory, clock: C) -> Self {
        Self {
            array,
            engine: engine.with_clock(Box::new(EngineClock(clock.clone()))),
            members,
            clock,
            requests: Requests::new(),
            memory,
            finished: VecDeque::new(),
            notices: Vec::new(),
            errors: Vec::new(),
            watch: Stopwatch::default(),
            just_now: None,
            io_done: Vec::new(),
            chains_done: Vec::new(),
            lowering: Lowering::default(),
            owes_idle: false,
            stopped: None,
            fatal: None,
            self_check: false,
            counters: IoCounters::default(),
        }
    }

    /// Checks all invariants of the core in every [`step`](Self::step); slow, for tests.
    #[must_use]
    pub fn with_self_check(mut self, on: bool) -> Self {
        self.self_check = on;
        self
    }

    /// Hands a request to the array. It is answered by [`next_finished`](Self::next_finished), after some
    /// [`step`](Self::step).
    pub fn submit(&mut self, request: NewRequest<T>) {
        let NewRequest { kind, offset, len, payload, tag } = request;
        let needs_payload = matches!(kind, RequestKind::Read | RequestKind::Write { .. });
        let has = payload.as_ref().map_or(0, |buf| buf.len() as u64);
        let now = self.clock.now();
        let request = InFlight { kind, len, payload, tag, since: now };
        if needs_payload && has != len {
            return self.finish(request, Err(RequestError::Invalid));
        }
        let id = self.requests.insert(request);
        self.owes_idle = true;
        self.array.handle(now, Event::Request { id, kind, offset, len });
    }

    /// Whether the array may be holding back writes: requests came, or something was done about them, since
    /// [`idle`](Self::idle) was last called.
    pub fn owes_idle(&self) -> bool {
        self.owes_idle
    }

    /// Says that no further request is at hand: the array stops waiting for neighbours of small writes. It
    /// holds them back only while it works, so this comes after a [`step`](Self::step) that left nothing
    /// to be done, and another step follows it.
    pub fn idle(&mut self) {
        self.owes_idle = false;
        self.tell(Event::Idle);
    }

    /// Declares a member failed. Ask [`array`](Self::array) first whether that is wise.
    pub fn fail_member(&mut self, member: MemberId) {
        self.tell(Event::FailMember(member));
    }

    /// Adds a blank member that was attached to the members before. Ask [`array`](Self::array) first.
    pub fn add_member(&mut self, new: uraid_core::NewMember) {
        self.tell(Event::AddMember(new));
    }

    /// Asks for a scrub, repairing or not. Ask [`array`](Self::array) first.
    pub fn scrub(&mut self, repair: bool) {
        self.tell(Event::Scrub { repair });
    }

    /// Asks the array to give back what would take long, unanswered: see [`Event::Recall`].
    pub fn recall(&mut self) {
        self.tell(Event::Recall);
    }

    /// Asks the array to stop; [`stopped`](Self::stopped) says when it has.
    pub fn stop(&mut self) {
        self.tell(Event::Stop);
    }

    /// Whether the array has stopped, and whether it is marked clean.
    pub fn stopped(&self) -> Option<bool> {
        self.stopped
    }

    /// Does what there is to do, at most about `budget` actions of it, without blocking. Call it again at
    /// once after [`Progress::More`], else when a member has answered, a request came, or it is
    /// [`wake_at`](Self::wake_at).
    ///
    /// # Errors
    /// [`Fatal`]: nothing more is done, now and later.
    pub fn step(&mut self, budget: u32) -> Result<Progress, Fatal> {
        if let Some(fatal) = &self.fatal {
            return Err(fatal.clone());
        }
        let progress = self.work(budget).and_then(|progress| self.checked(progress));
        match &progress {
            Err(fatal) => self.fatal = Some(fatal.clone()),
            Ok(Progress::Idle) => {}
            // The array has looked at its queues, and may have decided to hold something back.
            Ok(Progress::Done | Progress::More) => self.owes_idle |= self.requests.len() > 0,
        }
        progress
    }

    fn work(&mut self, budget: u32) -> Result<Progress, Fatal> {
        let now = self.clock.now();
        let mut busy = false;
        if self.array.wake_at().is_some_and(|at| at <= now) {
            self.array.handle(now, Event::Timer);
        }
        busy |= self.take_answers(now);
        let mut left = budget.max(1);
        loop {
            while left > 0
                && let Some(action) = self.array.poll()
            {
                left -= 1;
                busy = true;
                self.perform(action)?;
            }
            // Nothing more is handed out before answers come, so nothing is gained by gathering.
            self.members.kick();
            self.engine.issue_pending_all();
            let answered = self.take_answers(now);
            if left == 0 {
                return Ok(Progress::More);
            }
            if !answered {
                return Ok(if busy { Progress::Done } else { Progress::Idle });
            }
            busy = true;
        }
    }

    fn checked(&self, progress: Progress) -> Result<Progress, Fatal> {
        if self.self_check {
            self.array.self_check().map_err(Fatal::SelfCheck)?;
        }
        Ok(progress)
    }

    /// The next request that the array has done with.
    pub fn next_finished(&mut self) -> Option<Finished<T>> {
        self.finished.pop_front()
    }

    /// What happened since this was last called.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// What happened to the engine's backends since this was last called is added to `alerts`.
    pub fn take_alerts(&mut self, alerts: &mut Vec<Alert>) {
        self.engine.take_alerts(alerts);
    }

    /// Takes backends of the engine out of use, and adds some.
    pub fn change_engine(&mut self, change: EngineChange) {
        for name in &change.remove {
            self.engine.remove_backend(name);
        }
        for NewBackend { backend, thresholds, near } in change.add {
            let name = backend.name().to_owned();
            self.engine.add_backend(backend, thresholds);
            self.engine.set_near(&name, near);
        }
    }

    /// When [`step`](Self::step) has to be called at the latest, if nothing else happens before: for the
    /// array, or for a backend that has missed a deadline or may work again.
    pub fn wake_at(&self) -> Option<Tick> {
        let engine = self.engine.wake_at().map(|at| Tick(at.0));
        self.array.wake_at().into_iter().chain(engine).min()
    }

    /// Whether a chain is in flight, so that [`step`](Self::step) has to be called without waiting.
    pub fn computing(&self) -> bool {
        self.engine.wants_poll()
    }

    /// Chains that have not ended: while there are some, a device may read and write the array's memory,
    /// and dropping the runner waits for it.
    pub fn chains_in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    /// The time that the array goes by.
    pub fn now(&self) -> Tick {
        self.clock.now()
    }

    /// The array.
    pub fn array(&self) -> &Array {
        &self.array
    }

    /// The members.
    pub fn members(&self) -> &M {
        &self.members
    }

    /// The members, to attach and detach some or to sleep until one answers.
    pub fn members_mut(&mut self) -> &mut M {
        &mut self.members
    }

    /// Where payloads come from.
    pub fn pool(&self) -> &BufPool {
        self.memory.pool()
    }

    /// Requests that the array has.
    pub fn in_flight(&self) -> usize {
        self.requests.len()
    }

    /// The errors of a member.
    pub fn errors_of(&self, member: MemberId) -> Option<MemberError> {
        self.errors.get(usize::from(member.0)).copied().flatten()
    }

    /// What a member did, and how long it took.
    pub fn member_ops(&self, member: MemberId) -> MemberOps {
        self.watch.of(usize::from(member.0))
    }

    /// What member I/O and engine did.
    pub fn counters(&self) -> IoCounters {
        self.counters
    }

    /// What the engine's backends did.
    pub fn engine_stats(&self) -> EngineStats {
        self.engine.stats()
    }

    fn tell(&mut self, event: Event) {
        let now = self.clock.now();
        self.array.handle(now, event);
    }

    fn finish(&mut self, request: InFlight<T>, result: Result<(), RequestError>) {
        let InFlight { kind, len, payload, tag, since } = request;
        self.finished.push_back(Finished { kind, len, payload, tag, since, result });
    }

    fn perform(&mut self, action: Action) -> Result<(), Fatal> {
        match action {
            Action::Read { io, member, offset, mem } => {
                self.counters.reads += 1;
                self.counters.read_bytes += u64::from(mem.len);
                let buf = self.memory.target(mem, |id| self.requests.payload(id))?;
                self.submit_io(io, member, offset, (MemberOp::Read, mem.len), IoOp::Read(buf));
            }
            Action::Write { io, member, offset, mem } => {
                self.counters.writes += 1;
                self.counters.write_bytes += u64::from(mem.len);
                let buf = self.memory.view(mem, |id| self.requests.payload(id))?;
                self.submit_io(io, member, offset, (MemberOp::Write, mem.len), IoOp::Write(buf));
            }
            Action::Flush { io, member } => {
                self.counters.flushes += 1;
                self.submit_io(io, member, 0, (MemberOp::Flush, 0), IoOp::Flush);
            }
            Action::WriteMeta { io, member, offset, bytes } => {
                self.counters.meta_writes += 1;
                // Metadata are some kilobytes.
                let what = (MemberOp::WriteMeta, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                self.submit_io(io, member, offset, what, IoOp::WriteMeta(bytes));
            }
            Action::WriteLog { io, member, offset, array, mut header, parities } => {
                self.counters.meta_writes += 1;
                let mut bytes = self.log_bytes(&parities)?;
                md_format::seal_log(&mut header, array, &mut bytes);
                let what = (MemberOp::WriteMeta, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                self.submit_io(io, member, offset, what, IoOp::WriteMeta(bytes));
            }
            Action::Compute { id, plan } => self.compute(id, &plan)?,
            Action::Complete { req, result } => {
                let request = self.requests.remove(req).ok_or(Fatal::Answer(req))?;
                self.finish(request, result);
            }
            Action::Notice(notice) => self.notices.push(notice),
            Action::Stopped { clean } => self.stopped = Some(clean),
        }
        Ok(())
    }

    /// A log without its header: room for it, and the partial parities.
    fn log_bytes(&self, parities: &[Mem]) -> Result<Vec<u8>, Fatal> {
        let mut bytes = vec![0; md_format::PPL_HEADER_BYTES];
        for &parity in parities {
            let view = self.memory.view(parity, |id| self.requests.payload(id))?;
            let at = bytes.len();
            bytes.resize(at.saturating_add(view.len()), 0);
            let to = bytes.get_mut(at..).unwrap_or_default();
            view.copy_out(0, to).map_err(|_| BadMem(parity))?;
        }
        Ok(bytes)
    }

    fn submit_io(&mut self, io: IoId, member: MemberId, offset: u64, what: (MemberOp, u32), op: IoOp) {
        let since = self.just_now.unwrap_or_else(|| self.clock.now());
        let member = usize::from(member.0);
        let token = self.watch.start(io, member, what.0, what.1, since);
        let before = self.members.ended();
        self.members.submit(Io { token, member, op, offset });
        // What waits to be handed over takes no time. What was done here and now does, and its end would be
        // seen only when all that comes with it is done.
        let ended = self.members.ended() > before;
        let now = if ended { self.clock.now() } else { since };
        if ended {
            self.watch.ended(token, now);
        }
        self.just_now = Some(now);
    }

    fn compute(&mut self, id: ComputeId, plan: &[Step]) -> Result<(), Fatal> {
        self.counters.chains += 1;
        self.just_now = None;
        let mut chain = self.engine.chain();
        let region = |mem: Mem| self.memory.region(mem, |id| self.requests.payload(id));
        self.lowering.lower(plan, &mut chain, region)?;
        self.engine.submit(chain, id.0);
        Ok(())
    }

    /// Tells the array what members and engine have ended; says whether there was anything.
    fn take_answers(&mut self, now: Tick) -> bool {
        self.just_now = None;
        let mut io_done = std::mem::take(&mut self.io_done);
        self.members.reap(&mut io_done);
        let mut any = !io_done.is_empty();
        let mut seen = None;
        for done in io_done.drain(..) {
            let at = || *seen.get_or_insert_with(|| self.clock.now());
            // Nobody waits for the end of an operation that was never begun, or that has ended before.
            let Some(io) = self.watch.end(done.token, at) else { continue };
            let result = done.result.map_err(|err| self.count_error(done.member, err));
            self.array.handle(now, Event::IoDone { io, result });
        }
        self.io_done = io_done;
        if self.engine.wants_poll() || self.engine.wake_at().is_some_and(|at| at <= Nanos(now.0)) {
            let mut chains = std::mem::take(&mut self.chains_done);
            self.engine.poll(&mut chains);
            any |= !chains.is_empty();
            for ChainDone { tag, result } in chains.drain(..) {
                self.counters.chain_errors += u64::from(result.is_err());
                let result = result.map(verdict).map_err(|_| ComputeFault);
                self.array.handle(now, Event::ComputeDone { id: ComputeId(tag), result });
            }
            self.chains_done = chains;
        }
        any
    }

    fn count_error(&mut self, member: usize, err: IoError) -> IoFault {
        self.counters.errors += 1;
        if self.errors.len() <= member {
            self.errors.resize(member + 1, None);
        }
        if let Some(entry) = self.errors.get_mut(member) {
            *entry = Some(MemberError { count: entry.map_or(1, |e| e.count + 1), last: err });
        }
        match err.fault {
            uraid_blockio::IoFault::Io => IoFault::Io,
            uraid_blockio::IoFault::NoSpace => IoFault::NoSpace,
            uraid_blockio::IoFault::Gone => IoFault::Gone,
        }
    }
}
