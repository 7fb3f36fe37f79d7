//! One pass over a stripe: plan, load, compute, store, and again from the start when something failed.
//!
//! ```text
//!            +--------- a read failed: its blocks count as lost ---------+
//!            v                                                           |
//!  work -> plan --loads--> Loading --all there--> plan --steps--> Computing --stores--> Storing -> done
//!            ^                                                      |                     |
//!            +------- the engine failed: the slot holds nothing ----+                     |
//!            +------- resync found a mismatch: write parity anew ------------------------+
//! ```
//!
//! Whoever waits for the pass is told at its end, so a write is done when data **and** parity are on the
//! members. A crash between any two stores leaves a column whose parity does not match; the members say
//! "dirty" since before the first store, so it is resynced, and nobody was told that the write was done.

use super::cache::Work;
use super::members::State;
use super::ppl_replay::Piece;
use super::{Array, Io, IoFor};
use crate::blocks::{Blocks, Lanes};
use crate::plan::{self, LaneState, Part, Plan, Transfer, View};
use crate::{
    Action, ComputeFault, IoFault, MemberId, Notice, Place, RequestError, SlotId, Step, SyncKind, Verdict,
};

/// How often a pass is computed anew after an engine fault before its requests fail.
const COMPUTE_TRIES: u8 = 3;

/// Why a member is failed that refused a store.
fn store_fault(fault: IoFault) -> &'static str {
    match fault {
        IoFault::NoSpace => "a write failed: no space is left for the member",
        IoFault::Gone => "a write failed: the device is gone",
        IoFault::Io => "a write failed",
    }
}

/// What of a lane was refused.
fn of_lane(refused: &[(u16, MemberId, Blocks)], lane: u16) -> Blocks {
    refused.iter().filter(|(l, ..)| *l == lane).fold(Blocks::NONE, |all, (.., blocks)| all.or(*blocks))
}

/// What a pass does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Write,
    Read,
    Sync(SyncKind),
    Replay(Piece),
}

impl Kind {
    /// Whether parity is compared with the data.
    fn compares(self) -> bool {
        matches!(self, Kind::Sync(SyncKind::Resync | SyncKind::Scrub))
    }
}

/// A pass under way.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    pub(super) kind: Kind,
    /// The pieces of requests that it serves.
    pub(super) parts: Vec<Part>,
    /// Blocks that were loaded straight into the memory of a read request, by lane.
    got: Vec<Blocks>,
    /// Member I/O and compute plans under way.
    pub(super) outstanding: u32,
    /// The rest of the plan while its steps run.
    pub(super) plan: Plan,
    /// What is being stored, by lane.
    pub(super) stored: Vec<(u16, Blocks)>,
    /// Single blocks that were refused, by lane.
    refused: Vec<(u16, MemberId, Blocks)>,
    /// What the check of a resync said.
    verdict: Option<Verdict>,
    /// The resync writes parity that did not match.
    correcting: bool,
    pub(super) compute_faults: u8,
    pub(super) failed: bool,
    /// Stores were begun.
    pub(super) storing: bool,
    /// It is not held back any more.
    pub(super) begun: bool,
    /// The member whose log speaks of it, or is to.
    pub(super) logged: Option<MemberId>,
}

impl Pass {
    pub(super) fn new(kind: Kind, parts: Vec<Part>, lanes: usize) -> Self {
        Pass {
            kind,
            parts,
            got: vec![Blocks::NONE; lanes],
            outstanding: 0,
            plan: Plan::default(),
            stored: Vec::new(),
            refused: Vec::new(),
            verdict: None,
            correcting: false,
            compute_faults: 0,
            failed: false,
            storing: false,
            begun: false,
            logged: None,
        }
    }

    /// Whether it writes for clients.
    pub(super) fn writes(&self) -> bool {
        self.kind == Kind::Write
    }

    /// Columns that cannot be served.
    pub(super) fn fail_columns(&mut self, columns: Blocks) {
        self.plan.failed = self.plan.failed.or(columns);
    }
}

impl Array {
    /// Starts a pass over the work at the front of a stripe's queue.
    pub(super) fn start_pass(&mut self, id: SlotId) {
        let slot = self.cache.slot_mut(id);
        let lanes = slot.lanes.len();
        let pass = match slot.queue.pop_front() {
            None => {
                self.cache.finish(id, self.geometry.data());
                return;
            }
            Some(Work::Replay(piece)) => return self.start_replay(id, piece),
            Some(Work::Sync) => match self.sync_kind() {
                Some(kind) => {
                    if kind == SyncKind::Scrub {
                        // What the members hold is in question, not what was read from them some time ago.
                        self.cache.slot_mut(id).lanes.iter_mut().for_each(|l| l.cached = Blocks::NONE);
                    }
                    Pass::new(Kind::Sync(kind), Vec::new(), lanes)
                }
                None => return self.pass_done(id),
            },
            Some(Work::Read(part)) => {
                let mut parts = vec![part];
                while let Some(&Work::Read(part)) = slot.queue.front() {
                    slot.queue.pop_front();
                    parts.push(part);
                }
                Pass::new(Kind::Read, parts, lanes)
            }
            Some(Work::Write(part)) => {
                let mut parts = vec![part];
                while let Some(&Work::Write(part)) = slot.queue.front() {
                    slot.queue.pop_front();
                    parts.push(part);
                }
                let stripe = slot.stripe;
                if !self.broken && !(self.intent_allows(stripe) & self.may_write() & self.log_open()) {
                    self.requeue(id, parts);
                    self.cache.block(id);
                    self.want_dirty();
                    return;
                }
                Pass::new(Kind::Write, self.loggable(id, parts), lanes)
            }
        };
        self.cache.slot_mut(id).pass = Some(pass);
        self.mark_known_bad(id);
        self.step_pass(id);
    }

    /// Puts the parts of a write pass that has done nothing yet back where they came from.
    fn requeue(&mut self, id: SlotId, parts: Vec<Part>) {
        let slot = self.cache.slot_mut(id);
        slot.pass = None;
        parts.into_iter().rev().for_each(|part| slot.queue.push_front(Work::Write(part)));
    }

    /// The stripe's lanes with what the members' state says about them.
    fn lane_states(&self, id: SlotId) -> Vec<LaneState> {
        let slot = self.cache.slot(id);
        let roles = &self.geometry.pattern(slot.stripe).roles;
        let gone = |lane: usize| self.in_sync_at(roles[lane], slot.stripe).is_none();
        slot.lanes.iter().enumerate().map(|(lane, s)| LaneState { gone: gone(lane), ..*s }).collect()
    }

    /// Plans the pass from what is known now and does the first thing on the plan.
    fn step_pass(&mut self, id: SlotId) {
        let lanes = self.lane_states(id);
        let slot = self.cache.slot(id);
        let Some(pass) = &slot.pass else { return };
        let stripe = slot.stripe;
        let view = View {
            geometry: &self.geometry,
            pattern: self.geometry.pattern(stripe),
            slot: id,
            lanes: &lanes,
            trusted: self.parity_trusted(stripe),
            log: self.logs(stripe),
        };
        let mut failed = pass.failed;
        let plan = match pass.kind {
            Kind::Write if self.broken => {
                failed = true;
                Plan::default()
            }
            Kind::Write => plan::plan_writes(&view, &pass.parts),
            Kind::Read => plan::plan_reads(&view, &pass.parts, &pass.got),
            Kind::Sync(SyncKind::Resync | SyncKind::Scrub) => plan::plan_resync(&view, pass.verdict),
            Kind::Sync(SyncKind::Rebuild) => {
                let targets: Lanes = self.rebuild_lanes(stripe).collect();
                plan::plan_rebuild(&view, &targets)
            }
            // It has a plan of its own.
            Kind::Replay(_) => return,
        };
        if pass.kind == Kind::Write && !slot.urgent && !self.quiet && !plan.loads.is_empty() {
            let parts = pass.parts.clone();
            self.requeue(id, parts);
            self.cache.hold(id);
            return;
        }
        // From here on the pass is under way and is not held back any more.
        self.cache.slot_mut(id).urgent = true;
        let mut begins = false;
        if let Some(pass) = &mut self.cache.slot_mut(id).pass {
            pass.failed = failed;
            begins = pass.kind == Kind::Write && !std::mem::replace(&mut pass.begun, true);
        }
        if begins {
            self.intent_begin(stripe);
        }
        if plan.loads.is_empty() { self.compute(id, plan) } else { self.load(id, plan.loads) }
    }

    fn load(&mut self, id: SlotId, loads: Vec<Transfer>) {
        let stripe = self.cache.slot(id).stripe;
        let mut started = 0;
        for transfer in loads {
            let role = self.geometry.pattern(stripe).roles[usize::from(transfer.lane)];
            let Some(member) = self.in_sync_at(role, stripe) else { continue };
            let offset = self.device_offset(member, stripe) + u64::from(transfer.run.offset());
            let (what, mem) = (IoFor::Load { slot: id, transfer }, transfer.mem);
            let io = self.start_io(Io { member, offset, len: mem.len, write: false, what });
            self.actions.push_back(Action::Read { io, member, offset, mem });
            started += 1;
        }
        if let Some(pass) = &mut self.cache.slot_mut(id).pass {
            pass.outstanding += started;
        }
    }

    /// A read of a pass ended. A run that failed is read again block by block, so that only what really
    /// is unreadable counts as lost.
    pub(super) fn loaded(
        &mut self,
        id: SlotId,
        member: MemberId,
        transfer: Transfer,
        result: Result<(), IoFault>,
    ) {
        let Transfer { lane, run, mem } = transfer;
        let bad = match result {
            Ok(()) => Blocks::NONE,
            Err(fault) => self.read_failed(member, fault, run.blocks()),
        };
        if run.count > 1 && !bad.is_empty() {
            self.load(id, transfer.blocks().collect());
        }
        let slot = self.cache.slot_mut(id);
        let Some(pass) = &mut slot.pass else { return };
        let state = &mut slot.lanes[usize::from(lane)];
        match (result, mem.place) {
            (Ok(()), Place::Slot(..)) => state.cached = state.cached.or(run.blocks()),
            (Ok(()), _) => pass.got[usize::from(lane)] = pass.got[usize::from(lane)].or(run.blocks()),
            (Err(_), _) if run.count == 1 => state.bad = state.bad.or(bad),
            (Err(_), _) => {}
        }
        pass.outstanding -= 1;
        if pass.outstanding == 0 {
            self.step_pass(id);
        }
    }

    fn compute(&mut self, id: SlotId, mut plan: Plan) {
        let steps: Vec<Step> = std::mem::take(&mut plan.steps);
        let Some(pass) = &mut self.cache.slot_mut(id).pass else { return };
        pass.plan = plan;
        if steps.is_empty() {
            self.steps_done(id);
            return;
        }
        pass.outstanding = 1;
        self.start_compute(id, steps);
    }

    pub(super) fn computed(&mut self, id: SlotId, result: Result<Verdict, ComputeFault>) {
        if let Some(Pass { kind: Kind::Replay(piece), .. }) = self.cache.slot(id).pass {
            return self.replay_computed(id, piece, result.map(drop));
        }
        let repairs = self.sync_repairs();
        let slot = self.cache.slot_mut(id);
        let Some(pass) = &mut slot.pass else { return };
        pass.outstanding = 0;
        let Ok(verdict) = result else {
            // The steps may have changed any of their destinations: the slot is worth nothing.
            pass.compute_faults += 1;
            pass.plan = Plan::default();
            pass.got.fill(Blocks::NONE);
            slot.lanes.iter_mut().for_each(|l| l.cached = Blocks::NONE);
            let again = pass.compute_faults < COMPUTE_TRIES;
            pass.failed |= !again;
            self.notice(Notice::ComputeFailed);
            return if again { self.step_pass(id) } else { self.pass_done(id) };
        };
        if pass.kind.compares() && pass.verdict.is_none() {
            pass.verdict = Some(verdict);
            let doubtful = verdict.p_bad || verdict.q_bad;
            if doubtful && pass.kind == Kind::Sync(SyncKind::Scrub) && !repairs {
                // What cannot be read was recovered from one parity, and the other contradicts. An error that
                // shows must not become content that may be wrong: only a repair is asked to decide.
                pass.plan.stores.clear();
                pass.plan.repaired.clear();
            }
        }
        self.steps_done(id);
    }

    /// The steps of the plan have run, or there were none: takes down what the slot holds now.
    fn steps_done(&mut self, id: SlotId) {
        let slot = self.cache.slot_mut(id);
        let Some(pass) = &slot.pass else { return };
        for &(lane, blocks) in &pass.plan.cached {
            let state = &mut slot.lanes[usize::from(lane)];
            state.cached = state.cached.or(blocks);
        }
        for &(lane, blocks) in &pass.plan.stale {
            let state = &mut slot.lanes[usize::from(lane)];
            state.cached = state.cached.minus(blocks);
        }
        self.log_then_store(id);
    }

    pub(super) fn store(&mut self, id: SlotId) {
        let slot = self.cache.slot_mut(id);
        let stripe = slot.stripe;
        let Some(pass) = &mut slot.pass else { return };
        let mut stores = std::mem::take(&mut pass.plan.stores);
        if self.config.read_only {
            // What failed to read was recovered for the reader, but stays as it is on the member.
            stores.clear();
            pass.plan.repaired.clear();
        }
        pass.storing = true;
        let write = pass.kind == Kind::Write;
        let mut started = 0;
        let mut stored = Vec::with_capacity(stores.len());
        for transfer in stores {
            if self.broken && write {
                break;
            }
            if self.start_store(id, stripe, transfer) {
                stored.push((transfer.lane, transfer.run.blocks()));
                started += 1;
            }
        }
        if let Some(pass) = &mut self.cache.slot_mut(id).pass {
            pass.outstanding = started;
            pass.stored = stored;
        }
        if started == 0 {
            self.all_stored(id);
        }
    }

    /// Begins a store; false if there is no member for it.
    fn start_store(&mut self, id: SlotId, stripe: u64, transfer: Transfer) -> bool {
        let Transfer { lane, run, mem } = transfer;
        let role = self.geometry.pattern(stripe).roles[usize::from(lane)];
        // A rebuild writes to members that are not in sync at this stripe yet.
        let Some(member) = self.roles[usize::from(role.0)].filter(|&m| self.takes_stores(m)) else {
            return false;
        };
        let offset = self.device_offset(member, stripe) + u64::from(run.offset());
        let what = IoFor::Store { slot: id, transfer };
        let io = self.start_io(Io { member, offset, len: mem.len, write: true, what });
        self.actions.push_back(Action::Write { io, member, offset, mem });
        true
    }

    fn takes_stores(&self, member: MemberId) -> bool {
        self.members.get(&member).is_some_and(|m| matches!(m.state, State::InSync | State::Rebuilding))
    }

    /// A store ended. A run that the medium refused is stored again block by block, so that only what really
    /// cannot be written counts as bad; how to go on with that is settled when all stores have ended.
    pub(super) fn stored(&mut self, id: SlotId, io: Io, transfer: Transfer, result: Result<(), IoFault>) {
        let member = io.member;
        let mut again = 0;
        match result {
            Ok(()) => self.store_taken(member, io.offset, io.len),
            Err(fault) => {
                if let Some(known) = self.members.get_mut(&member) {
                    known.errors += 1;
                }
                if fault != IoFault::Io || !self.bears_refusal(member) {
                    self.fail_member(member, store_fault(fault));
                } else if transfer.run.count > 1 && self.takes_stores(member) {
                    let stripe = self.cache.slot(id).stripe;
                    let single: Vec<Transfer> = transfer.blocks().collect();
                    again = single.into_iter().filter(|&t| self.start_store(id, stripe, t)).count() as u32;
                } else if let Some(pass) = &mut self.cache.slot_mut(id).pass {
                    pass.refused.push((transfer.lane, member, transfer.run.blocks()));
                }
            }
        }
        let Some(pass) = &mut self.cache.slot_mut(id).pass else { return };
        pass.outstanding = pass.outstanding + again - 1;
        if pass.outstanding == 0 {
            self.all_stored(id);
        }
    }

    fn all_stored(&mut self, id: SlotId) {
        self.log_stored(id);
        let all = Blocks::range(0, self.geometry.strip_blocks());
        let slot = self.cache.slot_mut(id);
        let stripe = slot.stripe;
        let Some(pass) = &mut slot.pass else { return };
        let mut repaired = std::mem::take(&mut pass.plan.repaired);
        let refused = std::mem::take(&mut pass.refused);
        for (lane, blocks) in std::mem::take(&mut pass.stored) {
            let state = &mut slot.lanes[usize::from(lane)];
            let good = blocks.minus(of_lane(&refused, lane));
            (state.bad, state.logged) = (state.bad.minus(good), state.logged.minus(good));
        }
        for (lane, blocks) in &mut repaired {
            *blocks = blocks.minus(of_lane(&refused, *lane));
        }
        let mismatch = pass.kind.compares()
            && pass.plan.failed != all
            && pass.verdict.is_some_and(|v| v.p_bad || v.q_bad);
        let found = mismatch && !std::mem::replace(&mut pass.correcting, mismatch);
        if !refused.is_empty() {
            self.settle_refused(id, refused);
        }
        self.note_repairs(stripe, &repaired);
        if found {
            self.count_mismatch();
        }
        if found && self.sync_repairs() {
            self.intent_note(stripe);
            self.step_pass(id);
        } else {
            self.pass_done(id);
        }
    }

    fn note_repairs(&mut self, stripe: u64, repaired: &[(u16, Blocks)]) {
        for &(lane, blocks) in repaired {
            let role = self.geometry.pattern(stripe).roles[usize::from(lane)];
            let Some(member) = self.in_sync_at(role, stripe) else { continue };
            for run in blocks.runs() {
                let offset = self.device_offset(member, stripe) + u64::from(run.offset());
                self.corrected += u64::from(run.count);
                if let Some(m) = self.members.get_mut(&member) {
                    m.superblock.add_corrected_reads(run.bytes() / 512);
                }
                self.notice(Notice::ReadErrorCorrected { member, offset, len: run.bytes() });
            }
        }
    }

    /// Tells everybody who waits for the pass how it ended, and gives the stripe to the next.
    fn pass_done(&mut self, id: SlotId) {
        let slot = self.cache.slot_mut(id);
        let stripe = slot.stripe;
        let pass = slot.pass.take();
        if pass.as_ref().is_some_and(|p| p.kind == Kind::Write && p.begun) {
            self.intent_end(stripe);
        }
        let slot = self.cache.slot_mut(id);
        if self.broken && pass.as_ref().is_some_and(|p| p.kind == Kind::Write) {
            // What was refused must not be read back from the cache.
            slot.lanes.iter_mut().for_each(|l| l.cached = Blocks::NONE);
        }
        let mut lost = match &pass {
            Some(pass) if pass.failed => Blocks(u64::MAX),
            Some(pass) => pass.plan.failed,
            None => Blocks::NONE,
        };
        if let Some(Pass { kind: Kind::Sync(kind), failed: false, .. }) = pass
            && !lost.is_empty()
            && self.goes_on_without(id, kind, lost)
        {
            lost = Blocks::NONE;
        }
        if let Some(pass) = pass.as_ref().filter(|p| !lost.is_empty() || !p.plan.lost.is_empty()) {
            self.note_unrecovered(stripe, id, lost, pass);
        }
        self.cache.finish(id, self.geometry.data());
        let Some(pass) = pass else {
            self.sync_stripe_done(stripe, false);
            return;
        };
        for part in &pass.parts {
            let refused = pass.kind == Kind::Write && self.broken;
            let result = match part.first_in(lost.or(pass.plan.lost_of(part.lane))) {
                _ if refused => Err(RequestError::Io),
                None => Ok(()),
                Some(at) if pass.kind == Kind::Read => Err(RequestError::Unreadable { at }),
                Some(_) => Err(RequestError::Io),
            };
            self.part_done(part.req, result);
        }
        if let Kind::Sync(_) = pass.kind {
            self.sync_stripe_done(stripe, lost.is_empty());
        }
    }

    /// Says which blocks could not be read where nothing could take their place. Members that are gone
    /// altogether were spoken of when they went.
    fn note_unrecovered(&mut self, stripe: u64, id: SlotId, lost: Blocks, pass: &Pass) {
        for lane in 0..self.geometry.data() {
            let of_lane = pass.plan.lost.iter().filter(|l| l.0 == lane).fold(lost, |all, l| all.or(l.1));
            let bad = self.cache.slot(id).lanes[usize::from(lane)].bad.and(of_lane);
            let role = self.geometry.pattern(stripe).roles[usize::from(lane)];
            let Some(member) = self.in_sync_at(role, stripe) else { continue };
            for run in bad.runs() {
                let offset = self.device_offset(member, stripe) + u64::from(run.offset());
                self.notice(Notice::ReadErrorUnrecovered { member, offset, len: run.bytes() });
            }
        }
    }
}
