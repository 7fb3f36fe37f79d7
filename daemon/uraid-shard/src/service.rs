//! The shard's loop: sockets, array and commands, on one thread.
//!
//! One turn receives what there is from every connection that may have something, hands it to the array,
//! does what the array asks for, and sends what came of it. When nothing is at hand the array is told so;
//! then the loop looks again and again for a short while, for a thread that slept takes longer to wake
//! than a small request takes; then it sleeps in `poll`. Nothing else blocks, but the inline I/O of
//! members that are memory or page cache.
//!
//! Requests are carried out in the order in which they arrive. Large ones are carried out one by one, so
//! that a payload is written or sent while it is still in the CPU's caches; small ones together, so that
//! the array sees neighbours and answers share a system call.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use async_tx::Alert;
use md_format::Superblock;
use nbd_rs::Request;
use nix::sys::eventfd::EventFd;
use uraid_blockio::{BufPool, Member, MemberIo, MemberSet};
use uraid_core::{
    MemberId, MemberReport, MemberStanding, NewMember, Notice, RequestError, RequestKind, Role, ScrubRefused,
    Status, Tick,
};

use crate::clients::{ClientKey, Clients};
use crate::clock::MonotonicClock;
use crate::config::Tuning;
use crate::conn::{Connection, ConnectionError, Pending, Received, Work};
use crate::handover::{ConnectionKind, HandOver, HandOverOrder, Next};
use crate::latency::{ClientOp, ClientOps};
use crate::news::{Herald, Listener, News};
use crate::redundancy;
use crate::runner::{Fatal, Finished, NewRequest, Progress, Runner};
use crate::shard::{AddError, Command, FailError, MemberName, NewConnection, ShardExit};
use crate::share::{Grants, Line};
use crate::socket;
use crate::status::{AlertLog, ClientCounters, MemberInfo, NoticeLog, ShardStatus, SpeedMeter, member_of};

/// Actions of the array in one turn; what is left is done in the next, after a look at the sockets.
const ACTIONS: u32 = 64;
/// Receives from one connection in one turn.
const RECEIVES: u32 = 16;
/// Bytes of requests from one connection after which it is the next one's turn. About a millisecond of work.
const RECEIVE_BYTES: u64 = 4 << 20;
/// Bytes of payload that are handed over before the array is made to work on them.
const LARGE: u64 = 256 << 10;
/// Nanoseconds of work after which sockets that were quiet are looked at.
const LOOK_AFTER: u64 = 200_000;
/// Nanoseconds between two rounds of what needs to be done now and then.
const SAMPLE_EVERY: u64 = 500_000_000;
/// Nanoseconds between two looks at who waits for memory, and for whom.
const WAITERS_EVERY: u64 = 100_000_000;
/// Nanoseconds without a byte that a client is given when another one cannot go on without what it holds,
/// or when the array has stopped and it is the last one.
const GRACE: u64 = 2_000_000_000;
/// Nanoseconds without anything to do after which the thread dozes although an engine computes: a device
/// that hangs is not worth a processor. What it has to do is seen up to a doze later then.
const DOZE_AFTER: u64 = 2_000_000;
/// Nanoseconds that clients are listened to after the array has stopped and the last thing was heard, so that
/// what they had sent by then is answered and not lost; at most [`GRACE`] in all.
const LAST_WORDS: u64 = 50_000_000;
/// How long a doze is.
const DOZE: Duration = Duration::from_millis(1);
/// The time given to a stop that nobody set a deadline for.
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// Whose request it is.
type Tag = (ClientKey, Request);

/// Where commands come in.
pub(crate) struct Inbox {
    pub(crate) commands: Receiver<Command>,
    /// Rung after each of them.
    pub(crate) bell: Arc<EventFd>,
}

pub(crate) struct Service {
    name: String,
    runner: Runner<MemberSet, MonotonicClock, Tag>,
    /// Memory for those who hold nothing; see [`crate::share`].
    reserve: BufPool,
    slots: u32,
    tuning: Tuning,
    paths: Vec<PathBuf>,
    inbox: Inbox,
    clients: Clients,
    /// Clients that hold no memory and wait for some.
    line: Line,
    /// Scratch for what a connection received.
    work: Vec<Work>,
    counters: ClientCounters,
    client_ops: ClientOps,
    notices: NoticeLog,
    alerts: AlertLog,
    /// Scratch for what the engine tells.
    new_alerts: Vec<Alert>,
    herald: Herald,
    /// Members that are being filled, as far as it was told.
    filling: Vec<MemberId>,
    speed: SpeedMeter,
    last_busy: Tick,
    last_look: Tick,
    last_sample: Tick,
    last_wait_check: Tick,
    /// Until when to look again instead of sleeping.
    spin_until: Tick,
    stopping: Option<Tick>,
    /// When a stop begins nothing more of what takes long, so that it comes to a good end in its time.
    cut_short: Option<Tick>,
    /// When the array was first seen to have stopped, and when something was last heard or told since.
    stopped: Option<LastWords>,
    hand_over: Option<HandOver>,
}

impl Service {
    pub(crate) fn new(
        name: String,
        runner: Runner<MemberSet, MonotonicClock, Tag>,
        reserve: BufPool,
        slots: u32,
        tuning: Tuning,
        paths: Vec<PathBuf>,
        inbox: Inbox,
    ) -> Self {
        Self {
            herald: Herald::new(None),
            filling: filling(&runner.array().status()).map(|report| report.member).collect(),
            name,
            runner,
            reserve,
            slots,
            tuning,
            paths,
            inbox,
            clients: Clients::default(),
            line: Line::default(),
            work: Vec::new(),
            counters: ClientCounters::default(),
            client_ops: ClientOps::default(),
            notices: NoticeLog::default(),
            alerts: AlertLog::default(),
            new_alerts: Vec::new(),
            speed: SpeedMeter::default(),
            last_busy: Tick::default(),
            last_look: Tick::default(),
            last_sample: Tick::default(),
            last_wait_check: Tick::default(),
            spin_until: Tick::default(),
            stopping: None,
            cut_short: None,
            stopped: None,
            hand_over: None,
        }
    }

    /// Tells its news to `listener`, if there is one, instead of the log.
    pub(crate) fn with_listener(mut self, listener: Option<Listener>) -> Self {
        self.herald = Herald::new(listener);
        self
    }

    /// Serves until it is told to stop, or cannot go on.
    pub(crate) fn run(mut self) -> ShardExit {
        let exit = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(exit)) => break exit,
                Err(fatal) => {
                    tracing::error!(volume = self.name, "the volume is stopped at once: {fatal}");
                    break ShardExit::Fatal(fatal.to_string());
                }
            }
        };
        let clients = self.clients.take_all();
        let hand_over = self.hand_over.take();
        let events = self.runner.array().status().events;
        // Whoever is told of a hand-over may take the members.
        self.leave();
        if let Some(hand_over) = hand_over {
            hand_over.tell(&exit, events, clients);
        }
        exit
    }

    /// Lets go of everything. What a device has in hand may never come back, and nobody is to wait for
    /// that: the memory that it may still write, and all that stands on it, is then never freed.
    fn leave(self) {
        if self.runner.chains_in_flight() > 0 {
            let why =
                "a device has not given back the volume's memory, which is kept until this process ends";
            tracing::error!(volume = self.name, "{why}");
            std::mem::forget(self.runner);
        }
    }

    fn turn(&mut self) -> Result<Option<ShardExit>, Fatal> {
        let now = self.runner.now();
        self.take_commands(now);
        let input = self.receive_all(now)?;
        let mut progress = self.runner.step(ACTIONS)?;
        if !input.more && self.runner.owes_idle() {
            self.runner.idle();
            if self.runner.step(ACTIONS)? == Progress::More {
                progress = Progress::More;
            }
        }
        let delivered = self.deliver(now);
        self.take_notices(now);
        self.take_alerts();
        self.clients.close_ended();
        self.look_after(now);
        let handed = self.go_on_handing_over(now);
        self.mind_last_words(now, input.any || delivered);
        if let Some(exit) = self.exit(now) {
            return Ok(Some(exit));
        }
        if input.any || delivered {
            self.spin_until = self.after_spin(self.runner.now());
        }
        let busy = input.any || input.more || delivered || handed || progress != Progress::Idle;
        if busy || self.runner.owes_idle() {
            self.last_busy = now;
            if now.0.saturating_sub(self.last_look.0) > LOOK_AFTER {
                self.look(now, Some(Duration::ZERO));
            }
        } else if self.runner.computing() {
            if now.0.saturating_sub(self.last_busy.0) > DOZE_AFTER {
                self.look(now, Some(DOZE));
            }
        } else if self.runner.now() >= self.spin_until {
            self.sleep(now);
        }
        Ok(None)
    }

    /// The end of a spin that begins at `now`.
    fn after_spin(&self, now: Tick) -> Tick {
        let spin = u64::try_from(self.tuning.spin.as_nanos()).unwrap_or(u64::MAX);
        Tick(now.0.saturating_add(spin))
    }

    /// What needs to be done now and then.
    fn look_after(&mut self, now: Tick) {
        if self.cut_short.take_if(|at| *at <= now).is_some() && self.runner.stopped().is_none() {
            self.runner.recall();
        }
        if now.0.saturating_sub(self.last_sample.0) >= SAMPLE_EVERY {
            self.last_sample = now;
            self.speed.sample(now, self.runner.array().status().sync);
            while let Some(key) = self.clients.find_idle(now) {
                self.give_up(key, &ConnectionError::Idle, now);
            }
        }
        if now.0.saturating_sub(self.last_wait_check.0) >= WAITERS_EVERY {
            self.last_wait_check = now;
            if self.memory_is_short() {
                self.drop_stalled(now);
                // The pool may be open again for those who are not the first in line.
                self.clients.wake_blocked();
            }
        }
    }

    /// Whether a client was refused memory.
    fn memory_is_short(&self) -> bool {
        !self.line.is_empty() || self.clients.find(Connection::lacks_memory).is_some()
    }

    /// Keeps in mind since when the array has stopped, and since when nobody said anything.
    fn mind_last_words(&mut self, now: Tick, spoken: bool) {
        match &mut self.stopped {
            Some(words) if spoken => words.last = now,
            Some(_) => {}
            None if self.runner.stopped().is_some() => {
                self.stopped = Some(LastWords { since: now, last: now });
            }
            None => {}
        }
    }

    /// Whether it is over: the array has stopped and every answer was taken, or time is up.
    fn exit(&self, now: Tick) -> Option<ShardExit> {
        let deadline = self.stopping?;
        let late = now >= deadline;
        match self.runner.stopped() {
            Some(clean)
                if late || self.hand_over.is_some() || (self.all_told(now) && self.all_heard(now)) =>
            {
                Some(ShardExit::Stopped { clean })
            }
            None if late => Some(ShardExit::TimedOut),
            _ => None,
        }
    }

    /// Whether every client was told everything, but for those that do not listen.
    fn all_told(&self, now: Tick) -> bool {
        self.clients.all(|connection| connection.is_quiet() || connection.is_deaf(now, GRACE))
    }

    /// Whether no client has something to say that it began to say before it could know of the stop.
    fn all_heard(&self, now: Tick) -> bool {
        let passed = |then: Tick, nanoseconds: u64| now.0.saturating_sub(then.0) >= nanoseconds;
        self.clients.len() == 0
            || self.stopped.is_some_and(|words| passed(words.last, LAST_WORDS) || passed(words.since, GRACE))
    }

    /// Does the next thing about a hand-over, if there is one (see [`crate::handover`]). Says whether that
    /// was anything, so that there may be more to do at once.
    fn go_on_handing_over(&mut self, now: Tick) -> bool {
        let settled = self.runner.in_flight() == 0 && self.clients.all(Connection::is_settled);
        let sent = settled && self.clients.all(Connection::is_quiet);
        let Some(hand_over) = &mut self.hand_over else { return false };
        match hand_over.look(now, settled, sent) {
            Next::Wait => false,
            Next::DropSlow => {
                let slow = |one: &Connection| one.has_nothing_in_flight() && !one.is_settled();
                let before = self.clients.len();
                while let Some(key) = self.clients.find(slow) {
                    self.give_up(key, &ConnectionError::Stalled, now);
                }
                self.clients.len() < before
            }
            Next::Stop => {
                self.runner.stop();
                true
            }
        }
    }

    fn receive_all(&mut self, now: Tick) -> Result<Input, Fatal> {
        let mut input = Input::default();
        let mut at = 0;
        while let Some(key) = self.clients.next_active(&mut at, now) {
            self.receive_from(key, now, &mut input)?;
        }
        Ok(input)
    }

    fn receive_from(&mut self, key: ClientKey, now: Tick, input: &mut Input) -> Result<(), Fatal> {
        let mut bytes = 0;
        for _ in 0..RECEIVES {
            let turn = self.line.turn(key, now);
            let grants = Grants { pool: self.runner.pool(), reserve: &self.reserve, turn };
            let Some(client) = self.clients.get_mut(key) else { return Ok(()) };
            let mut work = std::mem::take(&mut self.work);
            let received = client.connection.receive(now, grants, &mut work);
            let any = !work.is_empty() || matches!(received, Ok(Received::More));
            client.received(&received);
            // Looked at after the bytes were taken and before anything is begun: as long as the kernel had
            // not shut it down by now, it has not sent the same elsewhere.
            let late = client.kind == ConnectionKind::Kernel
                && !work.is_empty()
                && socket::peer_is_gone(client.connection.fd());
            if late {
                work.clear();
                self.work = work;
                self.give_up(key, &ConnectionError::Replaced, now);
                return Ok(());
            }
            let (starves, ending) = (client.connection.starves(), client.connection.is_ending());
            self.line_up(key, starves, now);
            if ending {
                // Half a payload was thrown away, perhaps, which makes room.
                self.clients.wake_blocked();
            }
            input.any |= any;
            if let Err(err) = &received {
                self.give_up(key, err, now);
            }
            let fed = self.feed(key, &mut work, now);
            self.work = work;
            bytes += fed?;
            match received {
                Ok(Received::More) if bytes >= RECEIVE_BYTES => break,
                Ok(Received::More) => {}
                Ok(Received::Drained | Received::Blocked) | Err(_) => return Ok(()),
            }
        }
        input.more = true;
        Ok(())
    }

    fn line_up(&mut self, key: ClientKey, starves: bool, now: Tick) {
        if self.line.set(key, starves, now) {
            // The next one in line may have waited for its turn only.
            self.clients.wake_blocked();
        }
    }

    /// Hands requests to the array, and makes it work when that is much. Says how many bytes they are.
    fn feed(&mut self, key: ClientKey, work: &mut Vec<Work>, now: Tick) -> Result<u64, Fatal> {
        let (mut bytes, mut all) = (0, 0);
        for Work { request, range, payload } in work.drain(..) {
            let Some(kind) = kind_of(&request) else {
                self.tell_status(key, &request);
                continue;
            };
            let (offset, len) = range;
            let payload_bytes = payload.as_ref().map_or(0, |buf| buf.len() as u64);
            bytes += payload_bytes;
            all += payload_bytes;
            self.runner.submit(NewRequest { kind, offset, len, payload, tag: (key, request) });
            if bytes >= LARGE {
                bytes = 0;
                self.runner.step(ACTIONS)?;
                self.deliver(now);
            }
        }
        Ok(all)
    }

    /// Answers a block status from what the array is now.
    fn tell_status(&mut self, key: ClientKey, request: &Request) {
        let hot_until = self.after_spin(self.runner.now());
        let array = self.runner.array();
        let Some(client) = self.clients.get_mut(key) else { return };
        let extents_of = |context| redundancy::extents(array, context, request.offset, request.len);
        client.connection.complete_status(request, extents_of);
        client.was_answered(hot_until);
    }

    /// Passes on what the array has done with, and sends it. Says whether there was anything.
    fn deliver(&mut self, now: Tick) -> bool {
        let mut any = false;
        let done_at = self.runner.now();
        let hot_until = self.after_spin(done_at);
        while let Some(mut finished) = self.runner.next_finished() {
            any = true;
            if finished.result == Err(RequestError::Recalled) && self.hand_over.is_none() {
                // There is no successor, and this is the answer.
                finished.result = Err(RequestError::Shutdown);
            }
            self.count(&finished, done_at);
            let Finished { payload, tag: (key, request), result, .. } = finished;
            // A client that is gone left its memory with the array; it is free from here on.
            if let Some(client) = self.clients.get_mut(key) {
                client.connection.complete(&request, payload, result, &self.name);
                client.was_answered(hot_until);
            }
        }
        let mut at = 0;
        while let Some(key) = self.clients.next_sendable(&mut at) {
            let Some(client) = self.clients.get_mut(key) else { continue };
            match client.send(now) {
                Ok(sent) => any |= sent > 0,
                Err(err) => self.give_up(key, &err, now),
            }
        }
        if any {
            self.clients.wake_blocked();
        }
        any
    }

    fn count(&mut self, finished: &Finished<Tag>, done_at: Tick) {
        if finished.result == Err(RequestError::Recalled) {
            // It was not answered; whoever answers it counts it.
            return;
        }
        if let Some(stats) = self.client_ops.get_mut(ClientOp::of(finished.kind) as usize) {
            stats.record(done_at.0.saturating_sub(finished.since.0), finished.len);
        }
        let (counters, len) = (&mut self.counters, finished.len);
        match (finished.kind, finished.result) {
            (_, Err(_)) => counters.errors += 1,
            (RequestKind::Read, _) => {
                counters.reads += 1;
                counters.read_bytes += len;
            }
            (RequestKind::Write { .. }, _) => {
                counters.writes += 1;
                counters.write_bytes += len;
            }
            (RequestKind::WriteZeroes { .. }, _) => {
                counters.zeroes += 1;
                counters.zero_bytes += len;
            }
            (RequestKind::Flush, _) => counters.flushes += 1,
        }
    }

    fn give_up(&mut self, key: ClientKey, err: &ConnectionError, now: Tick) {
        if let Some(client) = self.clients.remove(key) {
            self.counters.broken_connections += 1;
            tracing::info!(volume = self.name, peer = client.peer, "disconnected: {err}");
        }
        self.line_up(key, false, now);
        self.clients.wake_blocked();
    }

    fn take_alerts(&mut self) {
        self.runner.take_alerts(&mut self.new_alerts);
        for alert in self.new_alerts.drain(..) {
            let record = self.alerts.add(alert);
            self.herald.tell(&self.name, News::Alert(record));
        }
    }

    fn take_notices(&mut self, now: Tick) {
        for notice in self.runner.take_notices() {
            let member = member_of(&notice);
            let path = member.and_then(|id| self.paths.get(usize::from(id.0)));
            let record = self.notices.add(notice.clone(), path.map(PathBuf::as_path));
            let array = self.runner.array().status();
            let promoted = self.promoted(&array);
            self.herald.tell(&self.name, News::Notice { record, missing: array.missing, promoted });
            match notice {
                // It is used no more; letting it go lets its device be looked at, and added again.
                Notice::MemberFailed { member, .. } => {
                    self.runner.members_mut().detach(usize::from(member.0));
                }
                Notice::SyncStarted { .. } => {
                    let sync = self.runner.array().status().sync;
                    self.speed.restart(now, sync);
                }
                _ => {}
            }
        }
    }

    /// The spares that were given a role since this was last called.
    fn promoted(&mut self, array: &Status) -> Vec<(PathBuf, Role)> {
        let mut promoted = Vec::new();
        for report in filling(array).filter(|report| !self.filling.contains(&report.member)) {
            let path = self.paths.get(usize::from(report.member.0)).cloned();
            promoted.extend(path.zip(report.role));
        }
        self.filling = filling(array).map(|report| report.member).collect();
        promoted
    }

    fn take_commands(&mut self, now: Tick) {
        loop {
            match self.inbox.commands.try_recv() {
                Ok(command) => self.obey(command, now),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.stop(now, STOP_DEADLINE),
            }
        }
    }

    fn obey(&mut self, command: Command, now: Tick) {
        match command {
            Command::Connect(connection) => self.connect(connection, now),
            Command::Status(reply) => reply(self.status(now)),
            Command::Fail(name, reply) => reply(self.fail(&name)),
            Command::Scrub(repair, reply) => reply(self.scrub(repair)),
            Command::Add(member, device_uuid, old, reply) => reply(self.add(member, device_uuid, old)),
            Command::Engine(change) => self.runner.change_engine(change),
            Command::HandOver(HandOverOrder { deadline, reply }) => {
                if self.stopping.is_some() {
                    return;
                }
                tracing::info!(volume = self.name, "handing over");
                self.stopping = Some(deadline_from(now, deadline));
                self.clients.pause_all();
                self.runner.recall();
                self.hand_over = Some(HandOver::new(reply, now));
            }
            Command::Stop(deadline) => self.stop(now, deadline),
        }
    }

    fn connect(&mut self, new: NewConnection, now: Tick) {
        let NewConnection { socket, session, leftover, peer, kind, unsent, terms } = new;
        let full = self.clients.len() >= self.tuning.connections && kind != ConnectionKind::Kernel;
        let leaving = self.stopping.is_some() && self.hand_over.is_none();
        if leaving || full {
            let most = self.tuning.connections;
            let why = match self.stopping {
                Some(_) => "the volume is being stopped".to_owned(),
                None => format!("{most} clients are connected, which is the limit"),
            };
            self.herald.tell(&self.name, News::Refused { peer, why });
            return;
        }
        if let Err(err) = socket::tune(&socket) {
            tracing::debug!(volume = self.name, peer, "socket options: {err}");
        }
        tracing::info!(volume = self.name, peer, "connected");
        self.counters.connections += 1;
        let pending = Pending { leftover: &leftover, unsent: &unsent };
        let limits = terms.limits.unwrap_or(self.tuning.connection);
        let mut connection = Connection::new(socket, session, pending, limits, now);
        if self.hand_over.is_some() {
            // It came from its handshake too late, and goes along.
            connection.pause();
        }
        self.clients.insert(connection, peer, kind, terms);
    }

    fn fail(&mut self, name: &MemberName) -> Result<MemberId, FailError> {
        let member = self.find(name).ok_or(FailError::Unknown)?;
        self.runner.array().check_fail(member)?;
        self.runner.fail_member(member);
        Ok(member)
    }

    fn scrub(&mut self, repair: bool) -> Result<(), ScrubRefused> {
        self.runner.array().check_scrub()?;
        self.runner.scrub(repair);
        Ok(())
    }

    /// The member of this name; of several that had the same path, the latest.
    fn find(&self, name: &MemberName) -> Option<MemberId> {
        let members = self.runner.array().status().members;
        let found = members.iter().rev().find(|report| match name {
            MemberName::Id(id) => report.member == *id,
            MemberName::Role(role) => report.role == Some(*role),
            MemberName::Path(path) => self.paths.get(usize::from(report.member.0)) == Some(path),
        });
        found.map(|report| report.member)
    }

    fn add(
        &mut self,
        member: Member,
        device_uuid: [u8; 16],
        old: Option<Box<Superblock>>,
    ) -> Result<MemberId, AddError> {
        if self.stopping.is_some() {
            return Err(AddError::Stopping);
        }
        // The set counts its members up, and so does the list of their paths.
        let id = MemberId(u16::try_from(self.paths.len()).map_err(|_| AddError::TooMany)?);
        let device_sectors = member.size() / 512;
        let path = member.path().to_owned();
        let new = NewMember { member: id, device_sectors, device_uuid, old };
        self.runner.array().check_add(&new)?;
        self.runner.members_mut().attach(member)?;
        self.paths.push(path.clone());
        self.runner.add_member(new);
        self.herald.tell(&self.name, News::Added(path));
        Ok(id)
    }

    fn stop(&mut self, now: Tick, deadline: Duration) {
        let deadline = deadline_from(now, deadline);
        if let Some(earlier) = &mut self.stopping {
            *earlier = deadline.min(*earlier);
            return;
        }
        tracing::info!(volume = self.name, "stopping");
        self.stopping = Some(deadline);
        self.cut_short = Some(Tick(now.0.midpoint(deadline.0)));
        self.clients.drain_all();
        self.runner.stop();
    }

    fn status(&self, now: Tick) -> ShardStatus {
        let array = self.runner.array().status();
        let geometry = self.runner.array().geometry().clone();
        let members = array.members.iter().map(|report| {
            let index = usize::from(report.member.0);
            MemberInfo {
                report: report.clone(),
                path: self.paths.get(index).cloned().unwrap_or_default(),
                backend: self.runner.members().backend(index).cloned(),
                errors: self.runner.errors_of(report.member),
                ops: self.runner.member_ops(report.member),
            }
        });
        ShardStatus {
            name: self.name.clone(),
            members: members.collect(),
            sync: array.sync.map(|sync| self.speed.info(now, sync, geometry.strip_bytes())),
            array,
            geometry,
            clients: self.counters,
            client_ops: self.client_ops,
            io: self.runner.counters(),
            engine: self.runner.engine_stats(),
            alerts: self.alerts.all(),
            ring_refused: self.runner.members().ring_refused().map(str::to_owned),
            connections: self.clients.len(),
            requests_in_flight: self.runner.in_flight(),
            pool_in_use: self.runner.pool().in_use() + self.reserve.in_use(),
            pool_bytes: self.runner.pool().capacity() + self.reserve.capacity(),
            cache_slots: self.slots,
            slot_strips: self.runner.array().slot_strips(),
            uptime: Duration::from_nanos(now.0),
            stopping: self.stopping.is_some(),
            notices: self.notices.all(),
            totals: self.notices.totals(),
        }
    }

    /// Sleeps until something can be done.
    fn sleep(&mut self, now: Tick) {
        let waits = self.memory_is_short() || self.runner.stopped().is_some();
        let check = waits.then(|| Tick(now.0.saturating_add(LAST_WORDS.min(WAITERS_EVERY))));
        // Not before the next sample, which is when it is acted upon.
        let sample = self.last_sample.0.saturating_add(SAMPLE_EVERY);
        let idle = self.clients.idle_at().map(|at| Tick(at.0.max(sample)));
        let handing_over = self.hand_over.as_ref().and_then(HandOver::wake_at);
        let wake = [self.runner.wake_at(), self.stopping, self.cut_short, check, idle, handing_over];
        let wake = wake.into_iter().flatten().min();
        let now = self.runner.now();
        let timeout = wake.map(|at| Duration::from_nanos(at.0.saturating_sub(now.0)));
        self.look(now, timeout);
    }

    /// Clients that keep memory from others without moving are disconnected: soon if another one cannot go
    /// on at all, late if it only goes slower. One that is stalled itself counts as nobody to wait.
    fn drop_stalled(&mut self, now: Tick) {
        let stall = u64::try_from(self.tuning.stall.as_nanos()).unwrap_or(u64::MAX);
        let grace = GRACE.min(stall);
        let lively = |one: &Connection| one.lacks_memory() && !one.is_stalled(now, grace, stall);
        let silence = match self.clients.find(lively) {
            Some(_) if !self.line.is_empty() => grace,
            Some(_) => stall,
            None => return,
        };
        while let Some(key) = self.clients.find(|one| one.is_stalled(now, silence, stall)) {
            self.give_up(key, &ConnectionError::Stalled, now);
        }
    }

    /// Asks the kernel what can be done, waiting for it if `timeout` is not zero.
    fn look(&mut self, now: Tick, timeout: Option<Duration>) {
        self.last_look = now;
        let members = self.runner.members();
        let member_fd = if members.in_flight() > 0 { members.wait_fd() } else { None };
        match self.clients.poll(&self.inbox.bell, member_fd, timeout) {
            Ok(true) => {
                // Rung or not, the inbox is looked at in every turn; this only silences the bell.
                let _ = self.inbox.bell.read();
            }
            Ok(false) => {}
            Err(err) => tracing::debug!(volume = self.name, "poll: {err}"),
        }
    }
}

/// The members that are being filled.
fn filling(array: &Status) -> impl Iterator<Item = &MemberReport> {
    array.members.iter().filter(|report| report.standing == MemberStanding::Rebuilding)
}

/// The time that is so far away.
fn deadline_from(now: Tick, time: Duration) -> Tick {
    Tick(now.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
}

/// The time between the end of the array and that of the service.
#[derive(Clone, Copy)]
struct LastWords {
    since: Tick,
    last: Tick,
}

/// What a look at all connections found.
#[derive(Clone, Copy, Default)]
struct Input {
    /// Something was received.
    any: bool,
    /// There is probably more.
    more: bool,
}

/// The array's word for a request; `None` for those that are answered without it: a block status here, the
/// others by the connection itself.
fn kind_of(request: &Request) -> Option<RequestKind> {
    use nbd_rs::Command;
    match request.command {
        Command::Read => Some(RequestKind::Read),
        Command::Write => Some(RequestKind::Write { fua: request.fua }),
        Command::WriteZeroes => Some(RequestKind::WriteZeroes { fua: request.fua }),
        Command::Flush => Some(RequestKind::Flush),
        Command::Trim | Command::Cache | Command::BlockStatus | Command::Resize => None,
    }
}
