//! Superblock updates: one at a time, on all members, in an order that a crash can't turn into a lie.
//!
//! | before | must be on the members |
//! |---|---|
//! | the first write after a clean time | every superblock says dirty (`resync_offset` 0) |
//! | a write is answered that a failed member missed | the others say that it failed, and are two events ahead of it: one behind is what other tools take for current |
//! | a superblock says clean, or how far a resync or rebuild came | everything written before, by a flush of every member |
//! | a superblock says that a member failed | those of members rebuilt since say so, or they would count as missing, too |
//! | others give a spare a role | its own says that nothing of it is rebuilt |
//! | a superblock announces a bad-block log | the log |
//! | a sector of a bad-block log is written over | what moves from it to another sector of the log, in that one |
//! | a bad-block log forgets a block that was written | that write, by a flush |
//! | the first update after a start | every member is brought to the newest event count, without raising it |
//! | the first write of a degraded array | one update more, so that a member left out is two events behind |
//!
//! A crash in the middle of an update leaves some members one event behind, which assembly takes as
//! equal (docs/on-disk-format.md); that is safe since updates never overlap. A member that was one behind
//! at the start would be two behind after a crash in the next update, and be taken for stale: hence the
//! levelling. Numbers in a
//! superblock that promise something about data (`*_durable`) are taken before the flush, never after.

use super::intent::Intent;
use super::members::{Member, State};
use super::{Array, Io, IoFor};
use crate::geometry::Geometry;
use crate::{Action, IoFault, MemberId, Tick};
use md_format::{Assembly, BadBlocks, CLEAN, DevRole, Superblock};
use std::collections::VecDeque;

/// Metadata state.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    /// The array-wide fields and the role table as the next update will write them.
    template: Superblock,
    events: u64,
    /// Updates asked for; every change to what superblocks say raises it.
    wanted: u64,
    /// The last of them that is on the members.
    done: u64,
    /// The update that says which member failed last.
    failed: u64,
    /// That update is to be followed by another, which answers wait for, too.
    confirm: bool,
    /// The next update must be preceded by a flush of all members.
    flush: bool,
    update: Option<Update>,
    /// Members may still be one event apart, as assembly found them.
    uneven: bool,
    /// The update that puts members left out at the start two events behind is not done.
    sealing: bool,
    /// Writes are going on or may: superblocks are to say dirty.
    active: bool,
    /// Every superblock is known to say dirty.
    marked: bool,
    /// Stripes from the start of which parity is known to match; all of them if no resync is due.
    pub(super) resynced: u64,
    resynced_durable: u64,
    /// The resync met a stripe that it could not read.
    pub(super) resync_stuck: bool,
    final_done: bool,
}

/// An update under way.
#[derive(Clone, Debug)]
struct Update {
    generation: u64,
    active: bool,
    /// It only levels the event counts.
    levelling: bool,
    flushing: bool,
    outstanding: u32,
    /// The round of the write-intent bitmap that what follows waits for.
    round: Option<u64>,
    /// What is to be written, in this order: superblocks after the bad-block logs, and those of just rebuilt
    /// members and new targets before the others.
    waves: VecDeque<Vec<MetaBytes>>,
    /// What may be said once the flush is over.
    resynced: u64,
    rebuilt: Vec<(MemberId, u64)>,
    /// Bad blocks that were written before the flush, which the logs may forget after it.
    good_again: Vec<(MemberId, BadBlocks)>,
}

/// Metadata to write: of which member, from which byte of the device.
pub(super) type MetaBytes = (MemberId, u64, Vec<u8>);

impl Meta {
    pub(super) fn new(
        sb: &Superblock,
        assembly: &Assembly,
        geometry: &Geometry,
        intent: Option<&Intent>,
    ) -> Self {
        // With a bitmap its bits alone say where parity may not match (docs/on-disk-format.md).
        let (resynced, matched) = match intent {
            Some(intent) => (geometry.stripes(), intent.next_in(intent.needed(), 0)),
            None if assembly.dirty => (geometry.stripes_below(assembly.resync_offset), None),
            None => (geometry.stripes(), None),
        };
        Meta {
            template: sb.clone(),
            events: sb.events(),
            wanted: 0,
            done: 0,
            failed: 0,
            confirm: false,
            flush: false,
            update: None,
            uneven: true,
            sealing: false,
            active: false,
            marked: false,
            resynced,
            resynced_durable: matched.unwrap_or(resynced),
            resync_stuck: false,
            final_done: false,
        }
    }

    /// The first update seals a degraded start: nothing is written before it is done.
    pub(super) fn seal(&mut self) {
        self.sealing = true;
    }

    /// Nobody waits for the write-intent bitmap any more: nothing is written.
    pub(super) fn bitmap_given_up(&mut self) {
        if self.update.as_ref().is_some_and(|update| update.round.is_some()) {
            self.update = None;
        }
    }

    /// Parity of all stripes matches, durably, and nothing was written since: the next superblocks may say so.
    pub(super) fn all_matches(&mut self, stripes: u64) {
        (self.resynced, self.resynced_durable) = (stripes, stripes);
    }

    /// Whether parity of all stripes is known to match even after a crash, but for what is being written.
    pub(super) fn matches_durably(&self, stripes: u64) -> bool {
        self.resynced_durable >= stripes
    }

    /// Events of the last update that was begun.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The array-wide fields of the next superblock.
    pub(super) fn newest(&self) -> &Superblock {
        &self.template
    }

    /// Whether an update is under way or asked for.
    pub(super) fn updating(&self) -> bool {
        self.update.is_some() || self.wanted > self.done
    }

    /// Whether superblocks say, or are to say, dirty because of writes.
    pub(super) fn active(&self) -> bool {
        self.active
    }

    pub(super) fn set_role(&mut self, number: u32, role: DevRole) {
        // A member has its number from this very table, so the number fits.
        let _ = self.template.set_role(number, role);
    }

    /// The update that was asked for last says that a member failed.
    pub(super) fn failure(&mut self) {
        self.failed = self.wanted;
        self.confirm = true;
    }

    /// The update that was asked for last records what answers wait for.
    pub(super) fn must_be_recorded(&mut self) {
        self.failed = self.wanted;
    }

    /// Whether the superblocks say of every failed member that it failed.
    pub(super) fn failure_recorded(&self) -> bool {
        self.done >= self.failed
    }

    pub(super) fn final_mark_wanted(&self) -> bool {
        !self.final_done
    }

    pub(super) fn final_mark(&mut self) {
        self.final_done = true;
        self.active = false;
    }
}

impl Array {
    pub(super) fn unix_seconds(&self) -> u64 {
        self.config.unix_seconds_at_zero.saturating_add(self.now.0 / 1_000_000_000)
    }

    /// Whether stripes may be written: every superblock says dirty and goes on saying so.
    pub(super) fn may_write(&self) -> bool {
        self.meta.active && self.meta.marked
    }

    /// Asks for the superblocks to say dirty. The update that seals a degraded start comes first, alone.
    pub(super) fn want_dirty(&mut self) {
        if !self.meta.active && !self.meta.sealing && !self.log_starting() {
            self.meta.active = true;
            self.want_update(false);
        }
    }

    /// Asks for an update; `flush` if it says something about data that were written.
    pub(super) fn want_update(&mut self, flush: bool) {
        if self.config.read_only {
            return;
        }
        self.meta.wanted += 1;
        self.meta.flush |= flush;
    }

    /// When the array is to be marked clean if no more writes come.
    pub(super) fn clean_at(&self) -> Option<Tick> {
        let idle = self.meta.active && self.writes_open == 0 && !self.broken && !self.stopping;
        idle.then(|| self.last_write.plus_ms(self.config.safe_mode_ms))
    }

    /// Marks the array clean after a while without writes.
    pub(super) fn maybe_clean(&mut self) {
        if self.clean_at().is_some_and(|at| at <= self.now) {
            self.meta.active = false;
            self.want_update(true);
        }
    }

    /// Starts the next update if one is wanted and none is under way.
    pub(super) fn start_update(&mut self) {
        let meta = &mut self.meta;
        if meta.update.is_some() || meta.wanted == meta.done || self.broken {
            if self.broken && meta.update.is_none() {
                meta.done = meta.wanted;
            }
            return;
        }
        if !meta.active {
            meta.marked = false;
        }
        let levelling = meta.uneven;
        let flushing = !levelling && std::mem::take(&mut meta.flush);
        meta.update = Some(Update {
            generation: meta.wanted,
            active: meta.active,
            levelling,
            flushing,
            outstanding: 0,
            round: None,
            waves: VecDeque::new(),
            resynced: 0,
            rebuilt: Vec::new(),
            good_again: Vec::new(),
        });
        if flushing {
            self.flush_for_update();
        } else {
            self.write_superblocks();
        }
    }

    /// The first half of an update: what its superblocks will promise about data is taken down, then all
    /// members are flushed.
    fn flush_for_update(&mut self) {
        let matched = self.matched_below();
        if let Some(update) = &mut self.meta.update {
            update.flushing = true;
            update.resynced = matched;
            update.rebuilt = self.members.values().map(|m| (m.id, m.rebuilt)).collect();
            update.good_again = self.members.values().map(|m| (m.id, m.bad.good_again())).collect();
        }
        let live = self.live_members();
        self.set_outstanding(live.len() as u32);
        for member in live {
            let io = self.start_io(Io { member, offset: 0, len: 0, write: false, what: IoFor::MetaFlush });
            self.actions.push_back(Action::Flush { io, member });
        }
    }

    fn set_outstanding(&mut self, count: u32) {
        if let Some(update) = &mut self.meta.update {
            update.outstanding = count;
        }
    }

    /// The second half of an update. What it says is taken now, but for the promises about data, which
    /// were taken before the flush.
    fn write_superblocks(&mut self) {
        let seconds = self.unix_seconds();
        let stripes = self.geometry.stripes();
        let whole_unsaid = |m: &Member| m.state == State::InSync && m.rebuilt_durable < stripes;
        if self.members.values().any(whole_unsaid) {
            // The array counts on a member of which the superblock would say that it is rebuilt in part.
            self.flush_for_update();
            return;
        }
        let mut waves = self.changed_logs();
        let meta = &mut self.meta;
        let Some(update) = &mut meta.update else { return };
        update.flushing = false;
        let levelling = update.levelling;
        // A flush that was asked for since is not part of this update: what it is for comes with the next.
        if !meta.flush {
            update.generation = meta.wanted;
        }
        // Idle since this update began: the writes of that time are not covered by its flush, so clean it
        // may not say. The next update, with a flush of its own, will.
        update.active |= meta.active;
        if !meta.active {
            meta.marked = false;
        }
        if !levelling {
            meta.events += 1;
            meta.template.set_events(meta.events);
            meta.template.set_utime(seconds);
            meta.template.set_resync_offset(match (update.active, meta.resynced_durable) {
                (true, _) => 0,
                (false, done) if done >= stripes => CLEAN,
                (false, done) => self.geometry.sectors_covered(done),
            });
        }
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for member in self.members.values_mut().filter(|m| m.state != State::Failed) {
            let sb = &mut member.superblock;
            sb.catch_up(&meta.template);
            sb.set_bad_blocks(member.bad.counts());
            let partial = member.role.is_some() && member.rebuilt_durable < stripes;
            sb.set_recovery_offset(partial.then(|| self.geometry.sectors_covered(member.rebuilt_durable)));
            sb.set_recovery_by_bitmap(partial && member.missed.is_some());
            // A spare says that it is filled from 0 before others call it a member.
            let turned = std::mem::replace(&mut member.partial_on_disk, partial) != partial;
            let writes = if turned { &mut first } else { &mut rest };
            writes.push((member.id, sb.super_offset().saturating_mul(512), sb.encode()));
        }
        waves.extend([first, rest]);
        update.waves = waves;
        let round = self.intent_announce(self.meta.events);
        match (&mut self.meta.update, round) {
            (Some(update), Some(round)) => update.round = Some(round),
            _ => self.write_next(),
        }
    }

    /// A round of the write-intent bitmap is over: superblocks that say no more events than it may follow.
    pub(super) fn bitmap_says_events(&mut self, round: u64) {
        let Some(update) = &mut self.meta.update else { return };
        if update.round.is_some_and(|wanted| wanted <= round) {
            update.round = None;
            self.write_next();
        }
    }

    /// Writes the logs or superblocks that are next in the update, or ends it if there are none.
    fn write_next(&mut self) {
        loop {
            let Some(update) = &mut self.meta.update else { return };
            let Some(mut writes) = update.waves.pop_front().filter(|_| !self.broken) else {
                return self.update_done();
            };
            writes.retain(|(id, ..)| self.members.get(id).is_some_and(|m| m.state != State::Failed));
            if !writes.is_empty() {
                return self.write_some(writes);
            }
        }
    }

    fn write_some(&mut self, writes: Vec<MetaBytes>) {
        self.set_outstanding(writes.len() as u32);
        for (member, offset, bytes) in writes {
            let what = IoFor::MetaWrite;
            let io = self.start_io(Io { member, offset, len: bytes.len() as u32, write: true, what });
            self.actions.push_back(Action::WriteMeta { io, member, offset, bytes });
        }
    }

    /// A flush or a superblock write of an update ended. A member that can't do it is failed, which asks
    /// for another update.
    pub(super) fn update_step_done(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "its metadata could not be written");
        }
        let Some(update) = &mut self.meta.update else { return };
        update.outstanding -= 1;
        if update.outstanding > 0 {
            return;
        }
        if !update.flushing {
            self.write_next();
            return;
        }
        self.meta.resynced_durable = update.resynced;
        for (id, rebuilt) in std::mem::take(&mut update.rebuilt) {
            if let Some(member) = self.members.get_mut(&id) {
                member.rebuilt_durable = rebuilt;
            }
        }
        for (id, good) in std::mem::take(&mut update.good_again) {
            if let Some(member) = self.members.get_mut(&id) {
                member.bad.flushed(&good);
            }
        }
        if self.broken {
            self.meta.update = None;
        } else {
            self.write_superblocks();
        }
    }

    fn update_done(&mut self) {
        let Some(update) = self.meta.update.take() else { return };
        if update.levelling {
            self.meta.uneven = false;
            self.start_update();
            return;
        }
        if !self.broken {
            self.meta.done = update.generation;
        }
        if self.meta.confirm && self.meta.failure_recorded() && !self.broken {
            self.meta.confirm = false;
            self.want_update(false);
            self.meta.failed = self.meta.wanted;
        }
        if std::mem::take(&mut self.meta.sealing) {
            self.cache.unblock();
        }
        if update.active && self.meta.active {
            self.meta.marked = true;
            self.cache.unblock();
        }
        self.answer_parked();
        self.start_update();
    }
}
