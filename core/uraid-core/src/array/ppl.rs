//! The partial parity log (PPL): what a stripe's parity has to be is on the parity's member before the stripe is
//! written, so that a crash in the middle of the write costs nothing but the blocks that were being written.
//!
//! | before | must be durable |
//! |---|---|
//! | data or parity of a stripe is written | the log of it, on the member that holds its parity |
//! | that member's next log is written | everything that the one before speaks of, by a flush of whoever was written to; and superblocks that name whoever failed |
//! | data of a stripe is written whose parity has lost its member | superblocks that name that member |
//! | superblocks say clean after a replay | the parity that was replayed |
//! | the logs that were replayed are wiped | superblocks that say clean, if they are going to |
//! | the first log | empty logs on all members, and parity that is known to match everywhere, by a flush of all |
//! | a spare gets a role | its log area is wiped |
//!
//! A replay takes a dirty array for clean if there was something to replay. So as long as parity is not known
//! to match everywhere (a resync is due) nothing is logged and the areas hold no log at all, not even an empty one:
//! a crash then ends in a full resync, whoever starts the array. A replay can be repeated: it changes
//! parity only, to the same as the first time, and the logs are wiped after the superblocks say that they are not
//! needed any more. Wiping goes header first, on all members, then the rest, then empty headers: in between no
//! member can show an older log that was hidden behind the newest, nor a good one while another is in doubt.
//!
//! `ppl_replay` holds the replay, `ppl_log` the logs of the writes.

use super::ppl_log::Log;
use super::ppl_replay::Replay;
use super::{Array, Io, IoFor, StartError};
use crate::geometry::Geometry;
use crate::{Action, IoFault, MemberId, SlotId};
use md_format::{Assembly, PPL_HEADER_BYTES, PplArea, PplHeader, Superblock, Uuid};
use std::collections::BTreeMap;

/// Where the logs of an array stand.
#[derive(Clone, Debug)]
pub(super) struct Ppl {
    pub(super) phase: Phase,
    /// What the logs speak of matches everywhere, and so does the rest: there may be logs.
    matches: bool,
    /// A member was missing at the start.
    degraded: bool,
    pub(super) areas: BTreeMap<MemberId, Area>,
    /// The members whose areas are being prepared.
    job: Option<Job>,
    pub(super) replay: Replay,
    /// Passes whose parity has no member.
    pub(super) without_log: Vec<SlotId>,
    pub(super) array: Uuid,
    /// Counts the logs of all members since the start.
    pub(super) generation: u64,
}

/// What is being done about the logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Parity is made to fit what the logs say.
    Replaying,
    /// It is made durable.
    Flushing {
        /// Members that flush.
        outstanding: u32,
    },
    /// The superblocks are told that parity matches.
    Marking,
    /// The areas are wiped, or get empty logs.
    Preparing,
    /// Parity is not known to match everywhere: writes go on without a log.
    Unlogged,
    /// It is now; writes that have no log come to their end.
    Draining,
    /// They are made durable.
    Settling {
        /// Members that flush.
        outstanding: u32,
    },
    /// Every write has its log.
    Logging,
}

/// The log area of one member.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) place: PplArea,
    state: AreaState,
    /// Where the next log goes, if there is room for it.
    pub(super) next: u64,
    pub(super) log: Log,
}

/// What an area holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum AreaState {
    /// Anything.
    Stale,
    /// Zeroes.
    Wiped,
    /// Logs of this run, or an empty one.
    Ready,
}

/// Some areas are being prepared, all of them step by step.
#[derive(Clone, Debug)]
struct Job {
    step: JobStep,
    members: Vec<MemberId>,
    outstanding: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JobStep {
    Unhead,
    Wipe,
    Head,
}

/// What a member I/O about the logs is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LogIo {
    /// A write to an area that is prepared.
    Prepare,
    /// A flush after the replay, or before the first log.
    Settle,
    /// A read or the write of a stripe's replay.
    Replay(SlotId),
    /// A log.
    Log,
    /// An empty log, before the area is used from its start again.
    Wrap,
    /// A flush before the next log of this member.
    Flush(MemberId),
}

impl Area {
    fn new(superblock: &Superblock) -> Option<Self> {
        let place = superblock.ppl_area()?;
        // Behind the empty log: half of the first one leaves that as the newest.
        Some(Area { place, state: AreaState::Stale, next: PPL_HEADER_BYTES as u64, log: Log::default() })
    }
}

impl Ppl {
    /// The logs of an assembled array; `None` if it has none, or nothing may be written.
    pub(super) fn new(
        assembly: &Assembly,
        ids: &[MemberId],
        geometry: &Geometry,
        read_only: bool,
    ) -> Result<Option<Self>, StartError> {
        let Some(logs) = &assembly.ppl else { return Ok(None) };
        let replays = assembly.dirty && (assembly.degraded > 0 || !logs.replay.is_empty());
        if read_only {
            return if replays && assembly.degraded > 0 { Err(StartError::LogNotReplayed) } else { Ok(None) };
        }
        let members = assembly.members.iter().zip(ids);
        let areas = members.filter_map(|(member, &id)| Some((id, Area::new(&member.superblock)?))).collect();
        Ok(Some(Ppl {
            phase: if replays { Phase::Replaying } else { Phase::Preparing },
            matches: !assembly.dirty,
            degraded: assembly.degraded > 0,
            areas,
            job: None,
            replay: Replay::new(logs, assembly, ids, geometry),
            without_log: Vec::new(),
            array: assembly.superblock.set_uuid(),
            generation: 0,
        }))
    }

    /// The largest strip of which every write has room in one log.
    pub(super) fn strip_limit(assembly: &Assembly) -> Option<u32> {
        assembly.ppl.as_ref().map(|logs| logs.log_space)
    }

    /// The start is not over: nothing may be written yet.
    fn starting(&self) -> bool {
        use Phase::{Flushing, Marking, Preparing, Replaying};
        matches!(self.phase, Replaying | Flushing { .. } | Marking | Preparing)
    }
}

impl Array {
    /// Puts what the logs say to the front of all work.
    pub(super) fn start_logs(&mut self) {
        if self.ppl.as_ref().is_some_and(|ppl| ppl.phase == Phase::Replaying) {
            self.queue_replay();
        }
    }

    /// Whether superblocks are to wait for the replay.
    pub(super) fn log_starting(&self) -> bool {
        self.ppl.as_ref().is_some_and(Ppl::starting) && !self.broken
    }

    /// Whether passes that write may begin.
    pub(super) fn log_open(&self) -> bool {
        self.ppl.as_ref().is_none_or(|ppl| matches!(ppl.phase, Phase::Unlogged | Phase::Logging))
    }

    /// Whether a member that joined can be given a role: its area does not hold anything old.
    pub(super) fn log_wiped(&self, member: MemberId) -> bool {
        let Some(ppl) = &self.ppl else { return true };
        let least = if ppl.matches { AreaState::Ready } else { AreaState::Wiped };
        !ppl.starting() && ppl.areas.get(&member).is_some_and(|area| area.state >= least)
    }

    /// A member joined.
    pub(super) fn log_joined(&mut self, member: MemberId, superblock: &Superblock) {
        if let Some(ppl) = &mut self.ppl
            && let Some(area) = Area::new(superblock)
        {
            ppl.areas.insert(member, area);
        }
    }

    /// Does the next thing about the logs.
    pub(super) fn advance_logs(&mut self) {
        let Some(ppl) = &self.ppl else { return };
        let stripes = self.geometry.stripes();
        match ppl.phase {
            Phase::Replaying if ppl.replay.is_over() && !self.broken => self.settle(true),
            Phase::Marking if !self.meta.updating() => self.enter(Phase::Preparing),
            Phase::Unlogged if self.meta.matches_durably(stripes) && !self.broken => {
                self.enter(Phase::Draining)
            }
            _ => {}
        }
        let writes =
            || self.cache.slots().any(|(_, slot)| slot.pass.as_ref().is_some_and(|pass| pass.writes()));
        if self.ppl.as_ref().is_some_and(|ppl| ppl.phase == Phase::Draining) && !writes() {
            self.settle(false);
        }
        self.prepare_areas();
        self.pump_logs();
    }

    fn enter(&mut self, phase: Phase) {
        if let Some(ppl) = &mut self.ppl {
            ppl.phase = phase;
        }
        if self.log_open() {
            self.cache.unblock();
        }
    }

    /// Flushes everybody, after the replay or before the first log.
    fn settle(&mut self, replayed: bool) {
        let live = self.live_members();
        let outstanding = live.len() as u32;
        self.enter(if replayed { Phase::Flushing { outstanding } } else { Phase::Settling { outstanding } });
        for member in live {
            let what = IoFor::Ppl(LogIo::Settle);
            let io = self.start_io(Io { member, offset: 0, len: 0, write: false, what });
            self.actions.push_back(Action::Flush { io, member });
        }
    }

    fn settled(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "a flush failed: what it was told to keep may be lost");
        }
        let Some(ppl) = &mut self.ppl else { return };
        match &mut ppl.phase {
            Phase::Flushing { outstanding } | Phase::Settling { outstanding } if *outstanding > 1 => {
                *outstanding -= 1;
            }
            Phase::Flushing { .. } => self.replayed(),
            Phase::Settling { .. } => {
                ppl.matches = true;
                self.enter(Phase::Preparing);
            }
            _ => {}
        }
    }

    /// Parity is as the logs say, durably. It matches everywhere if nothing was in doubt. With a member missing from
    /// the start it is the only word on what that member held, and there is nothing to compare it with. (One that
    /// failed since makes nothing surer: a doubt remains, and the array dirty.)
    fn replayed(&mut self) {
        let Some(ppl) = &mut self.ppl else { return };
        if !ppl.degraded && !ppl.replay.cleans() {
            self.enter(Phase::Preparing);
            return;
        }
        ppl.matches = true;
        self.meta.all_matches(self.geometry.stripes());
        self.enter(Phase::Marking);
        self.want_update(false);
    }

    /// Brings areas to the state that they are to have, and ends the start when they have it.
    fn prepare_areas(&mut self) {
        let Some(ppl) = &self.ppl else { return };
        let may = matches!(ppl.phase, Phase::Preparing | Phase::Unlogged | Phase::Logging);
        if ppl.job.is_some() || !may || self.broken {
            return;
        }
        let failed = |id: &MemberId| self.members.get(id).is_none_or(|m| m.state == super::State::Failed);
        let in_state = |state| -> Vec<MemberId> {
            let areas = ppl.areas.iter().filter(|(id, area)| area.state == state && !failed(id));
            areas.map(|(&id, _)| id).collect()
        };
        let (stale, wiped) = (in_state(AreaState::Stale), in_state(AreaState::Wiped));
        if !stale.is_empty() {
            self.start_job(JobStep::Unhead, stale);
        } else if ppl.matches && !wiped.is_empty() {
            self.start_job(JobStep::Head, wiped);
        } else if ppl.phase == Phase::Preparing {
            self.enter(if ppl.matches { Phase::Logging } else { Phase::Unlogged });
        }
    }

    fn start_job(&mut self, step: JobStep, members: Vec<MemberId>) {
        let Some(ppl) = &mut self.ppl else { return };
        let mut writes = Vec::new();
        for &member in &members {
            let Some(place) = ppl.areas.get(&member).map(|area| area.place) else { continue };
            let (from, bytes) = match step {
                JobStep::Unhead => (0, vec![0; PPL_HEADER_BYTES]),
                JobStep::Wipe => (PPL_HEADER_BYTES, vec![0; place.bytes as usize - PPL_HEADER_BYTES]),
                JobStep::Head => (0, PplHeader::empty().encode(ppl.array)),
            };
            writes.push((member, place.offset + from as u64, bytes));
        }
        ppl.job = Some(Job { step, members, outstanding: writes.len() as u32 });
        for (member, offset, bytes) in writes {
            let what = IoFor::Ppl(LogIo::Prepare);
            let io = self.start_io(Io { member, offset, len: bytes.len() as u32, write: true, what });
            self.actions.push_back(Action::WriteMeta { io, member, offset, bytes });
        }
    }

    fn prepared(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "its partial parity log could not be written");
        }
        let Some(ppl) = &mut self.ppl else { return };
        let Some(job) = &mut ppl.job else { return };
        job.outstanding -= 1;
        if job.outstanding > 0 {
            return;
        }
        let Some(Job { step, members, .. }) = ppl.job.take() else { return };
        let state = match step {
            JobStep::Unhead => None,
            JobStep::Wipe => Some(AreaState::Wiped),
            JobStep::Head => Some(AreaState::Ready),
        };
        let Some(state) = state else {
            let alive = |id: &MemberId| self.members.get(id).is_some_and(|m| m.state != super::State::Failed);
            let members: Vec<_> = members.into_iter().filter(alive).collect();
            if !members.is_empty() {
                self.start_job(JobStep::Wipe, members);
            }
            return;
        };
        for member in members {
            if let Some(area) = ppl.areas.get_mut(&member) {
                area.state = state;
            }
        }
    }

    /// A member I/O about the logs ended.
    pub(super) fn log_io_done(&mut self, io: Io, what: LogIo, result: Result<(), IoFault>) {
        match what {
            LogIo::Prepare => self.prepared(io.member, result),
            LogIo::Settle => self.settled(io.member, result),
            LogIo::Replay(slot) => self.replay_io_done(slot, io, result),
            LogIo::Log => self.log_written(io.member, result),
            LogIo::Wrap => self.log_wrapped(io.member, result),
            LogIo::Flush(log) => self.log_flushed(log, io.member, result),
        }
    }
}
