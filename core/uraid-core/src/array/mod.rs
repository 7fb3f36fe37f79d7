//! The array: one owner of all state, told one event at a time, that answers with actions.
//!
//! A client request is cut into parts, one a strip. Reads of healthy blocks go straight to their member;
//! everything else queues at its **stripe**, in order of arrival, and is done in **passes**: one pass at a
//! time has a stripe, so nothing that computes or recovers ever sees a half-written column. A pass plans
//! ([`crate::decide`], `plan`), loads, computes, stores, and starts over when something failed on the way.
//! `docs/stripe-states.md` draws it.
//!
//! | file | what it holds |
//! |---|---|
//! | `requests` | client requests: cutting, direct reads, answers, flush |
//! | `cache` | the stripe cache: slots, queues, who waits for a slot |
//! | `pass` | one pass over a stripe |
//! | `bad_blocks` | the bad-block logs: what is not read, what could not be written |
//! | `members` | members, roles, failing and adding them |
//! | `meta` | superblock updates: when, in which order, and what waits for them |
//! | `intent` | the write-intent bitmap |
//! | `returning` | members that were away and come back |
//! | `sync` | resync and rebuild |
//! | `ppl`, `ppl_replay`, `ppl_log` | partial parity logs: their areas, what they say at the start, the logs of writes |
//! | `check` | the invariants |

mod bad_blocks;
mod cache;
mod check;
mod intent;
mod members;
mod meta;
mod pass;
mod ppl;
mod ppl_log;
mod ppl_replay;
mod redundancy;
mod requests;
mod returning;
mod status;
mod sync;

use crate::geometry::{Geometry, GeometryError};
use crate::slab::Slab;
use crate::{Action, ComputeId, Event, IoId, MemberId, Role, SlotId, Tick};
use cache::Cache;
use intent::Intent;
pub use members::{AddRefused, FailRefused};
use members::{Member, State};
use meta::Meta;
use ppl::{LogIo, Ppl};
pub use redundancy::Redundancy;
use requests::{Flushes, Request, Waiting};
pub use status::{ArrayState, BitmapReport, MemberReport, MemberStanding, Status, SyncReport};
use std::collections::{BTreeMap, VecDeque};
pub use sync::ScrubRefused;
use sync::Sync;
use thiserror::Error;

/// How an array is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayConfig {
    /// Slots of the stripe cache, at least 4. Each takes [`Array::slot_strips`] strips of memory.
    pub slots: u32,
    /// Refuse writes and leave the members as they are.
    pub read_only: bool,
    /// Milliseconds without a write after which the array is marked clean (md's `safe_mode_delay`).
    pub safe_mode_ms: u64,
    /// Seconds since 1970 at tick zero; superblocks carry the time of their update.
    pub unix_seconds_at_zero: u64,
    /// Stripes of a resync or rebuild in flight while no client is served.
    pub sync_window: u32,
}

impl Default for ArrayConfig {
    fn default() -> Self {
        ArrayConfig {
            slots: 64,
            read_only: false,
            safe_mode_ms: 200,
            unix_seconds_at_zero: 0,
            sync_window: 8,
        }
    }
}

/// Why an array can't be started from an assembly.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum StartError {
    /// The superblock describes a geometry that can't be.
    #[error("impossible geometry: {0}")]
    Geometry(#[from] GeometryError),
    /// The event count is so high that it might run over: it was not reached by updates.
    #[error("the superblocks count {0} events, which no array reaches: they are damaged or made up")]
    Events(u64),
    /// A member is missing, and what parity says of it is in doubt until the log is replayed.
    #[error(
        "the partial parity log has to be replayed before the missing member can be read, which a read-only start does not do: start the array for writing once"
    )]
    LogNotReplayed,
    /// The assembly and the list of members do not fit together.
    #[error("{members} members were assembled, but {ids} were attached")]
    Members {
        /// Members of the assembly.
        members: usize,
        /// Members attached.
        ids: usize,
    },
}

/// What a member I/O in flight is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum IoFor {
    /// A read straight into a request's memory.
    Direct { part: crate::plan::Part, stripe: u64 },
    /// A read of a pass.
    Load { slot: SlotId, transfer: crate::plan::Transfer },
    /// A write of a pass.
    Store { slot: SlotId, transfer: crate::plan::Transfer },
    /// A flush that clients wait for.
    Flush,
    /// A flush before a superblock update.
    MetaFlush,
    /// A superblock.
    MetaWrite,
    /// A flush before bits of the write-intent bitmap are cleared.
    IntentFlush,
    /// A page of the write-intent bitmap.
    IntentWrite,
    /// Something about partial parity logs.
    Ppl(LogIo),
}

/// A member I/O in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Io {
    member: MemberId,
    /// Bytes from the start of the device, and how many; empty for a flush.
    offset: u64,
    len: u32,
    write: bool,
    what: IoFor,
}

/// A RAID array as a state machine; see the module documentation.
///
/// The whole state is `Clone`: a copy taken at any event goes on independently of the original.
#[derive(Clone, Debug)]
pub struct Array {
    geometry: Geometry,
    config: ArrayConfig,
    now: Tick,
    members: BTreeMap<MemberId, Member>,
    /// The member that plays each role.
    roles: Vec<Option<MemberId>>,
    /// A role is without a member in sync: reads have to look closer.
    degraded: bool,
    /// More members are gone than parity covers; never unset.
    broken: bool,
    stopping: bool,
    stopped: bool,
    /// No request came since the runner said that none is at hand: nothing is held back.
    quiet: bool,
    cache: Cache,
    requests: BTreeMap<crate::ReqId, Request>,
    /// Requests of which parts wait to be issued: zeroes, and writes that overlap them.
    throttled: VecDeque<Waiting>,
    /// Requests to be given back when nothing of any of them is under way, in order of arrival.
    recalled: Vec<crate::ReqId>,
    /// Requests that came.
    arrivals: u64,
    /// Parts of requests for zeroes that are under way.
    zero_parts: u32,
    /// Write requests that were not answered yet.
    writes_open: u32,
    ios: Slab<Io>,
    computes: Slab<SlotId>,
    flushes: Flushes,
    meta: Meta,
    intent: Option<Intent>,
    sync: Option<Sync>,
    /// The partial parity logs, if the array has them and may be written.
    ppl: Option<Ppl>,
    /// A scrub was asked for and has not begun; whether it repairs.
    scrub_wanted: Option<bool>,
    /// Reads and writes of clients happened at this time.
    last_client: Tick,
    last_write: Tick,
    corrected: u64,
    actions: VecDeque<Action>,
}

impl Array {
    /// An array over assembled members; `ids[i]` is the runner's index of `assembly.members[i]`.
    ///
    /// A degraded array gets a superblock update at once, so that a member that was left out is at least
    /// two events behind and can't slip back in (docs/on-disk-format.md).
    ///
    /// # Errors
    /// The superblock's geometry is impossible, or `ids` has another length.
    pub fn start(
        assembly: &md_format::Assembly,
        ids: &[MemberId],
        config: ArrayConfig,
    ) -> Result<Self, StartError> {
        let sb = &assembly.superblock;
        let geometry = Geometry::new(
            sb.level(),
            sb.layout(),
            sb.raid_disks(),
            u64::from(sb.chunk_sectors()) * 512,
            sb.size_sectors().saturating_mul(512),
        )?;
        let geometry = match Ppl::strip_limit(assembly) {
            Some(bytes) => geometry.with_strip_limit(bytes),
            None => geometry,
        };
        if ids.len() != assembly.members.len() {
            return Err(StartError::Members { members: assembly.members.len(), ids: ids.len() });
        }
        if sb.events() > u64::MAX >> 1 {
            return Err(StartError::Events(sb.events()));
        }
        let config =
            ArrayConfig { slots: config.slots.max(4), sync_window: config.sync_window.max(1), ..config };
        let mut roles = vec![None; usize::from(geometry.members())];
        let mut members = BTreeMap::new();
        for (found, &id) in assembly.members.iter().zip(ids) {
            let member = Member::assembled(id, found, &geometry);
            if let Some(role) = member.role
                && let Some(entry) = roles.get_mut(usize::from(role.0))
            {
                *entry = Some(id);
            }
            members.insert(id, member);
        }
        let intent = Intent::new(assembly, &geometry);
        let meta = Meta::new(sb, assembly, &geometry, intent.as_ref());
        let cache = Cache::new(config.slots, geometry.members());
        let ppl = Ppl::new(assembly, ids, &geometry, config.read_only)?;
        let mut array = Array {
            geometry,
            config,
            now: Tick::default(),
            members,
            roles,
            degraded: false,
            broken: false,
            stopping: false,
            stopped: false,
            quiet: false,
            cache,
            requests: BTreeMap::new(),
            throttled: VecDeque::new(),
            recalled: Vec::new(),
            arrivals: 0,
            zero_parts: 0,
            writes_open: 0,
            ios: Slab::default(),
            computes: Slab::default(),
            flushes: Flushes::default(),
            meta,
            intent,
            sync: None,
            ppl,
            scrub_wanted: None,
            last_client: Tick::default(),
            last_write: Tick::default(),
            corrected: 0,
            actions: VecDeque::new(),
        };
        array.count_roles();
        array.note_returning();
        if array.degraded && !config.read_only {
            array.meta.seal();
            array.want_update(false);
        }
        array.start_logs();
        Ok(array)
    }

    /// Strips of memory that each slot of the stripe cache takes: one a member and, where the array has a partial
    /// parity log, one more for what is logged, under the role after the last.
    pub fn slot_strips(&self) -> u16 {
        self.geometry.members() + u16::from(self.ppl.is_some())
    }

    /// The array's shape.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Tells the array what happened. It never blocks and never fails: what can't be done is answered with
    /// an error, what makes no sense (an answer to a question never asked) is ignored.
    pub fn handle(&mut self, now: Tick, event: Event) {
        self.now = self.now.max(now);
        if self.stopped && !matches!(event, Event::Request { .. }) {
            return;
        }
        match event {
            Event::Request { id, kind, offset, len } => self.request(id, kind, offset, len),
            Event::Idle => {
                self.quiet = true;
                self.cache.release_held();
            }
            Event::IoDone { io, result } => self.io_done(io, result),
            Event::ComputeDone { id, result } => {
                if let Some(slot) = self.computes.remove(id.0) {
                    self.computed(slot, result);
                }
            }
            Event::Timer => {}
            Event::FailMember(member) => self.fail_member(member, "declared failed by the operator"),
            Event::AddMember(new) => self.add_member(&new),
            Event::Scrub { repair } => self.want_scrub(repair),
            Event::Recall => self.recall(),
            Event::Stop => self.stop(),
        }
    }

    /// The next thing to do, until there is nothing more to do about what was told.
    pub fn poll(&mut self) -> Option<Action> {
        if self.actions.is_empty() {
            self.advance();
        }
        self.actions.pop_front()
    }

    /// When the array wants to hear [`Event::Timer`], unless something else happens before.
    pub fn wake_at(&self) -> Option<Tick> {
        self.clean_at().into_iter().chain(self.intent_wake_at()).min()
    }

    /// Starts whatever can start.
    fn advance(&mut self) {
        self.issue_throttled();
        while let Some(slot) = self.cache.next_ready() {
            self.start_pass(slot);
        }
        self.advance_logs();
        self.start_flush();
        self.use_spares();
        self.pump_sync();
        while let Some(slot) = self.cache.next_ready() {
            self.start_pass(slot);
        }
        self.maybe_clean();
        self.start_update();
        self.pump_intent();
        self.pump_logs();
        self.maybe_stopped();
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.cut_zeroes();
        self.cache.release_held();
        self.break_off_sync();
    }

    /// Says [`Action::Stopped`] once nothing is left: requests are answered, passes done, and the clean
    /// mark is on the members.
    fn maybe_stopped(&mut self) {
        let busy = !self.requests.is_empty()
            || self.ios.len() > 0
            || self.computes.len() > 0
            || self.sync.is_some()
            || self.log_starting()
            || self.meta.updating()
            || self.intent.as_ref().is_some_and(Intent::busy)
            || self.cache.busy();
        if !self.stopping || self.stopped || busy || !self.actions.is_empty() {
            return;
        }
        if self.intent_final_clear() {
            return;
        }
        if self.meta.final_mark_wanted() && !self.broken && !self.config.read_only {
            self.meta.final_mark();
            self.want_update(true);
            self.start_update();
            // An update that flushes nothing waits for the bitmap alone, and nobody else would write that now.
            self.pump_intent();
            return;
        }
        self.stopped = true;
        let left_dirty = self.config.read_only && self.resync_due();
        self.actions.push_back(Action::Stopped { clean: !self.broken && !left_dirty });
    }

    fn io_done(&mut self, io: IoId, result: Result<(), crate::IoFault>) {
        let Some(done) = self.ios.remove(io.0) else { return };
        match done.what {
            IoFor::Direct { part, stripe } => self.direct_read_done(done, part, stripe, result),
            IoFor::Load { slot, transfer } => self.loaded(slot, done.member, transfer, result),
            IoFor::Store { slot, transfer } => self.stored(slot, done, transfer, result),
            IoFor::Flush => self.flushed(done.member, result),
            IoFor::Ppl(what) => self.log_io_done(done, what, result),
            IoFor::MetaFlush | IoFor::MetaWrite => self.update_step_done(done.member, result),
            IoFor::IntentFlush => self.intent_flushed(done.member, result),
            IoFor::IntentWrite => self.intent_written(done.member, result),
        }
    }

    fn start_io(&mut self, io: Io) -> IoId {
        IoId(self.ios.insert(io))
    }

    fn start_compute(&mut self, slot: SlotId, plan: Vec<crate::Step>) {
        let id = ComputeId(self.computes.insert(slot));
        self.actions.push_back(Action::Compute { id, plan });
    }

    /// Where a role's strip of a stripe begins on its member, in bytes from the start of the device.
    fn device_offset(&self, member: MemberId, stripe: u64) -> u64 {
        let data = self.members.get(&member).map_or(0, |m| m.data_bytes);
        data + self.geometry.member_offset(stripe)
    }

    /// The member that holds good content of a role at a stripe.
    fn in_sync_at(&self, role: Role, stripe: u64) -> Option<MemberId> {
        let id = (*self.roles.get(usize::from(role.0))?)?;
        let member = self.members.get(&id)?;
        let ok = match member.state {
            State::InSync => true,
            State::Rebuilding => {
                stripe < member.rebuilt || self.rebuilt_ahead(id, stripe) || self.never_missed(member, stripe)
            }
            State::Spare | State::Failed => false,
        };
        ok.then_some(id)
    }
}
