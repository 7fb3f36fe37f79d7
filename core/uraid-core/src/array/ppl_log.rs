//! The logs of writes: between computing and storing, a pass waits until what its parity has to be is on the
//! parity's member.
//!
//! ```text
//!            a pass waits                durable               all of its passes stored
//!   Idle --------------------> Writing ----------> Storing ------------------------------> Stored
//!    ^                                                                                       |
//!    +------- whoever was written to flushed ------- Flushing <------- a pass waits ---------+
//! ```
//!
//! Passes that come meanwhile share the next log. Two passes on the same stripe never do, since a stripe has one
//! pass at a time; so in one log no block is named twice.

use super::cache::Work;
use super::ppl::{LogIo, Phase};
use super::{Array, Io, IoFor, State};
use crate::blocks::Blocks;
use crate::plan::{LogEntry, Part};
use crate::{Action, IoFault, Mem, MemberId, Place, SlotId};
use md_format::{PPL_HEADER_BYTES, PPL_MAX_ENTRIES, PplEntry, PplHeader};
use std::collections::{BTreeSet, VecDeque};

/// The log of one member.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    state: LogState,
    /// Passes that need the next log.
    waiting: VecDeque<SlotId>,
}

#[derive(Clone, Debug, Default)]
enum LogState {
    /// What the last one speaks of is durable.
    #[default]
    Idle,
    /// The area is full: an empty log that is newer than all others goes to its start.
    Wrapping,
    /// It is being written for these passes.
    Writing(Vec<SlotId>),
    /// These passes store; the members are those that the others have written to.
    Storing(BTreeSet<SlotId>, BTreeSet<MemberId>),
    /// All is stored, on these members, but perhaps in a cache of theirs.
    Stored(BTreeSet<MemberId>),
    /// So many members flush.
    Flushing(u32),
}

impl Array {
    /// Whether the writes of a stripe are logged.
    pub(super) fn logs(&self, stripe: u64) -> bool {
        let logging = self.ppl.as_ref().is_some_and(|ppl| ppl.phase == Phase::Logging);
        logging && self.parity_member(stripe).is_some()
    }

    fn parity_member(&self, stripe: u64) -> Option<MemberId> {
        let p_lane = usize::from(self.geometry.p_lane());
        self.in_sync_at(*self.geometry.pattern(stripe).roles.get(p_lane)?, stripe)
    }

    /// Keeps as many of the parts of a write pass as one log can speak of, and puts the others back. In each
    /// column the written lanes have to be neighbours; and a member that may be missing after a crash is written
    /// alone, because where it is missing nothing can be said of the column, and what is written to the others
    /// would then change what parity says about it.
    pub(super) fn loggable(&mut self, id: SlotId, parts: Vec<Part>) -> Vec<Part> {
        let stripe = self.cache.slot(id).stripe;
        if !self.logs(stripe) {
            return parts;
        }
        let fragile: Vec<bool> =
            (0..self.geometry.data()).map(|lane| self.is_fragile(stripe, lane)).collect();
        let mut touched = vec![Blocks::NONE; fragile.len()];
        let mut keep = 0;
        for (at, part) in parts.iter().enumerate() {
            if let Some(blocks) = touched.get_mut(usize::from(part.lane)) {
                *blocks = blocks.or(part.blocks());
            }
            if can_log(&touched, &fragile) {
                keep = at + 1;
            }
        }
        let mut parts = parts;
        let rest = parts.split_off(keep.max(1));
        let slot = self.cache.slot_mut(id);
        rest.into_iter().rev().for_each(|part| slot.queue.push_front(Work::Write(part)));
        parts
    }

    /// Whether a crash now may leave a data lane without its member, as far as superblocks tell.
    fn is_fragile(&self, stripe: u64, lane: u16) -> bool {
        let role = self.geometry.pattern(stripe).roles.get(usize::from(lane)).copied();
        let member = role.and_then(|role| self.in_sync_at(role, stripe)).and_then(|id| self.members.get(&id));
        let whole = member.is_some_and(|m| m.state == State::InSync && !m.partial_on_disk);
        !whole || self.meta.updating()
    }

    /// Lets a pass store, if nothing has to be logged of it first.
    pub(super) fn log_then_store(&mut self, id: SlotId) {
        let logging = self.ppl.as_ref().is_some_and(|ppl| ppl.phase == Phase::Logging);
        let slot = self.cache.slot(id);
        let Some(pass) = slot.pass.as_ref().filter(|pass| logging && pass.writes()) else {
            return self.store(id);
        };
        let (stripe, any) = (slot.stripe, !pass.plan.log.is_empty());
        let member = self.parity_member(stripe).filter(|_| any);
        let Some(ppl) = &mut self.ppl else { return };
        match member.and_then(|member| ppl.areas.get_mut(&member)) {
            Some(area) => area.log.waiting.push_back(id),
            None => ppl.without_log.push(id),
        }
        if let Some(pass) = &mut self.cache.slot_mut(id).pass {
            pass.outstanding = 1;
            pass.logged = member;
        }
    }

    /// Begins logs, and the flushes before them. A pass whose parity has lost its member stores without a log once
    /// that member cannot come back: parity that missed the write would count as good again.
    pub(super) fn pump_logs(&mut self) {
        let Some(ppl) = &self.ppl else { return };
        let wanted = ppl.areas.iter().filter(|(_, area)| !area.log.waiting.is_empty());
        let wanted: Vec<MemberId> = wanted.map(|(&id, _)| id).collect();
        for member in wanted {
            if self.broken || !self.is_live(member) {
                self.go_on_without(member);
                continue;
            }
            let Some(area) = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&member)) else { continue };
            match &mut area.log.state {
                // A member that missed what the last log speaks of could come back until superblocks say that it
                // failed, and parity would not match what it has: that log has to stay the newest.
                LogState::Idle if !self.meta.failure_recorded() => {}
                LogState::Idle => self.write_log(member),
                LogState::Stored(written) => {
                    let written = std::mem::take(written);
                    self.flush_for_log(member, written);
                }
                LogState::Wrapping | LogState::Writing(_) | LogState::Storing(..) | LogState::Flushing(_) => {
                }
            }
        }
        let recorded = self.meta.failure_recorded() || self.broken;
        let without_log =
            self.ppl.as_mut().filter(|_| recorded).map(|ppl| std::mem::take(&mut ppl.without_log));
        for id in without_log.unwrap_or_default() {
            self.store_logged(id, None);
        }
    }

    /// The parity's member is gone: there is no parity that would have to be logged.
    fn go_on_without(&mut self, member: MemberId) {
        let area = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&member));
        let waiting = area.map(|area| std::mem::take(&mut area.log.waiting)).unwrap_or_default();
        self.wait_without_log(waiting.into());
    }

    fn wait_without_log(&mut self, slots: Vec<SlotId>) {
        for &id in &slots {
            if let Some(pass) = &mut self.cache.slot_mut(id).pass {
                pass.logged = None;
            }
        }
        if let Some(ppl) = &mut self.ppl {
            ppl.without_log.extend(slots);
        }
    }

    fn store_logged(&mut self, id: SlotId, logged: Option<MemberId>) {
        if let Some(pass) = &mut self.cache.slot_mut(id).pass {
            pass.outstanding = 0;
            pass.logged = logged;
        }
        self.store(id);
    }

    fn write_log(&mut self, member: MemberId) {
        let log_role = self.log_role();
        let Some(ppl) = &mut self.ppl else { return };
        let Some(area) = ppl.areas.get_mut(&member) else { return };
        ppl.generation += 1;
        let mut header = PplHeader { generation: ppl.generation, entries: Vec::new() };
        let (mut slots, mut parities) = (Vec::new(), Vec::new());
        while let Some(&id) = area.log.waiting.front() {
            let slot = self.cache.slot(id);
            let log = slot.pass.as_ref().map(|pass| &pass.plan.log[..]).unwrap_or_default();
            let entries = log.iter().map(|entry| disk_entry(&self.geometry, slot.stripe, entry));
            let mut more = header.clone();
            more.entries.extend(entries);
            let room = PPL_HEADER_BYTES as u64 + u64::from(area.place.log_space);
            let full = more.entries.len() > PPL_MAX_ENTRIES || more.log_bytes() > room;
            // A single pass always fits: its strip was made that small.
            if full && !slots.is_empty() {
                break;
            }
            header = more;
            parities.extend(log.iter().filter(|entry| !entry.whole).map(|entry| Mem {
                place: Place::Slot(id, log_role),
                offset: entry.run.offset(),
                len: entry.run.bytes(),
            }));
            slots.push(id);
            area.log.waiting.pop_front();
        }
        let bytes = header.log_bytes();
        if area.place.several && area.next + bytes > area.place.bytes {
            slots.into_iter().rev().for_each(|id| area.log.waiting.push_front(id));
            return self.wrap_log(member);
        }
        let at = if area.place.several { area.next } else { 0 };
        area.next = at + bytes;
        area.log.state = LogState::Writing(slots);
        let (offset, array) = (area.place.offset + at, ppl.array);
        let what = IoFor::Ppl(LogIo::Log);
        let io = self.start_io(Io { member, offset, len: bytes as u32, write: true, what });
        self.actions.push_back(Action::WriteLog { io, member, offset, array, header, parities });
    }

    /// Begins an area from the start again. Everything that was logged is durable, and an empty log says so before
    /// any other is written over: a crash in the middle of a longer one could otherwise leave the first log of
    /// the last round as the newest, of which the second was destroyed.
    fn wrap_log(&mut self, member: MemberId) {
        let Some(ppl) = &mut self.ppl else { return };
        let header = PplHeader { generation: ppl.generation, entries: Vec::new() };
        let bytes = header.encode(ppl.array);
        let Some(area) = ppl.areas.get_mut(&member) else { return };
        area.next = header.log_bytes();
        area.log.state = LogState::Wrapping;
        let (offset, what) = (area.place.offset, IoFor::Ppl(LogIo::Wrap));
        let io = self.start_io(Io { member, offset, len: bytes.len() as u32, write: true, what });
        self.actions.push_back(Action::WriteMeta { io, member, offset, bytes });
    }

    pub(super) fn log_wrapped(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "its partial parity log could not be written");
        }
        self.log_idle(member);
    }

    /// A log is durable: its passes may store. A member that can't be given one is failed, and then there is no
    /// parity that it would have to speak of.
    pub(super) fn log_written(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "its partial parity log could not be written");
        }
        let Some(area) = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&member)) else { return };
        let LogState::Writing(slots) = std::mem::take(&mut area.log.state) else { return };
        if result.is_err() {
            return self.wait_without_log(slots);
        }
        area.log.state = LogState::Storing(slots.iter().copied().collect(), BTreeSet::new());
        for id in slots {
            self.store_logged(id, Some(member));
        }
    }

    /// A pass has stored everything.
    pub(super) fn log_stored(&mut self, id: SlotId) {
        let slot = self.cache.slot_mut(id);
        let Some(pass) = &mut slot.pass else { return };
        let Some(member) = pass.logged.take() else { return };
        let lanes: BTreeSet<u16> = pass.stored.iter().map(|&(lane, _)| lane).collect();
        let roles = &self.geometry.pattern(slot.stripe).roles;
        let roles = lanes.iter().filter_map(|&lane| roles.get(usize::from(lane)));
        let members: Vec<MemberId> =
            roles.filter_map(|role| self.roles.get(usize::from(role.0)).copied().flatten()).collect();
        let Some(area) = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&member)) else { return };
        if let LogState::Storing(slots, written) = &mut area.log.state {
            slots.remove(&id);
            written.extend(members);
            if slots.is_empty() {
                area.log.state = LogState::Stored(std::mem::take(written));
            }
        }
    }

    fn flush_for_log(&mut self, log: MemberId, written: BTreeSet<MemberId>) {
        let live: Vec<MemberId> = written.into_iter().filter(|&id| self.is_live(id)).collect();
        let Some(area) = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&log)) else { return };
        area.log.state = LogState::Flushing(live.len() as u32);
        for &member in &live {
            let what = IoFor::Ppl(LogIo::Flush(log));
            let io = self.start_io(Io { member, offset: 0, len: 0, write: false, what });
            self.actions.push_back(Action::Flush { io, member });
        }
        if live.is_empty() {
            self.log_idle(log);
        }
    }

    fn log_idle(&mut self, log: MemberId) {
        if let Some(area) = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&log)) {
            area.log.state = LogState::Idle;
        }
        self.pump_logs();
    }

    pub(super) fn log_flushed(&mut self, log: MemberId, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "a flush failed: what it was told to keep may be lost");
        }
        let Some(area) = self.ppl.as_mut().and_then(|ppl| ppl.areas.get_mut(&log)) else { return };
        let LogState::Flushing(outstanding) = &mut area.log.state else { return };
        *outstanding -= 1;
        if *outstanding == 0 {
            self.log_idle(log);
        }
    }

    /// Every pass that a log names waits for it or stores.
    pub(super) fn check_logs(&self) -> Result<(), String> {
        for id in self.ppl.iter().flat_map(|ppl| &ppl.without_log) {
            if self.cache.slot(*id).pass.as_ref().is_none_or(|pass| pass.storing || pass.logged.is_some()) {
                return Err(format!("slot {} waits for nobody's log and does not know", id.0));
            }
        }
        for (member, area) in self.ppl.iter().flat_map(|ppl| &ppl.areas) {
            let named: Vec<SlotId> = match &area.log.state {
                LogState::Writing(slots) => slots.clone(),
                LogState::Storing(slots, _) => slots.iter().copied().collect(),
                LogState::Idle | LogState::Wrapping | LogState::Stored(_) | LogState::Flushing(_) => {
                    Vec::new()
                }
            };
            for id in named.iter().chain(&area.log.waiting) {
                let pass = self.cache.slot(*id).pass.as_ref();
                if pass.is_none_or(|pass| pass.logged != Some(*member)) {
                    return Err(format!(
                        "the log of {member:?} waits for slot {}, which does not know",
                        id.0
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Whether one log can speak of these blocks: the written lanes of each column are neighbours, and a fragile one is
/// alone.
fn can_log(touched: &[Blocks], fragile: &[bool]) -> bool {
    let (mut seen, mut ended, mut hard) = (Blocks::NONE, Blocks::NONE, Blocks::NONE);
    for (&blocks, &fragile) in touched.iter().zip(fragile) {
        let mixed = if fragile { seen } else { hard };
        if blocks.meets(ended) || blocks.meets(mixed) {
            return false;
        }
        ended = ended.or(seen.minus(blocks));
        seen = seen.or(blocks);
        hard = if fragile { hard.or(blocks) } else { hard };
    }
    true
}

fn disk_entry(geometry: &crate::Geometry, stripe: u64, entry: &LogEntry) -> PplEntry {
    let bytes = entry.run.bytes();
    let parity = geometry.pattern(stripe).roles.get(usize::from(geometry.p_lane()));
    PplEntry {
        data_sector: geometry.array_offset(stripe, entry.first_lane, entry.run.offset()) / 512,
        pp_bytes: if entry.whole { 0 } else { bytes },
        data_bytes: bytes * u32::from(entry.lanes),
        parity_role: parity.map_or(0, |role| u32::from(role.0)),
        checksum: 0,
    }
}
