//! Bad blocks: what a member's bad-block log says is not read, what could not be written is recorded there.
//!
//! A known bad block counts as lost: reads are recovered from the other members, and a write to it that was good
//! clears it. A bad sector makes all of its block bad.
//!
//! | | |
//! |---|---|
//! | recorded | the medium refused a block ([`IoFault::Io`]) and the log has room, or a rebuild met a column that nobody can recover. Whoever wrote is answered when the log is durable |
//! | failed instead | it has no log, or no room; it refused [`IN_A_ROW`] stores and took none; the log itself could not be written; more members than parity covers refused the same column, which is no matter of the medium |
//! | not recorded | a block that could not be read and not recovered either: it may be readable again, and an entry would keep everybody from trying |
//!
//! In memory a block is good as soon as it was written. In the log it is once that write was flushed: forgotten
//! before, a power cut could bring back what was there. An update that does both begins at once, and whoever wrote
//! the block is answered after it. What an update says in a log is written before its
//! superblocks, so that a superblock announces no log that was never written. After a crash between the two the log
//! says more than the superblock does, or the same; nobody was told that the write was done. A log in which entries
//! move from sector to sector is written in steps ([`BadBlocks::encode_over`]): cut off at any of them it says all
//! that it said and still has to say.

use super::Array;
use super::meta::MetaBytes;
use super::pass::Kind;
use crate::blocks::Blocks;
use crate::{MemberId, Notice, SlotId, SyncKind};
use md_format::{BadBlockLog, BadBlocks, Superblock};
use std::collections::VecDeque;

/// Stores that a member may refuse without taking one in between, until it is failed.
const IN_A_ROW: u32 = 8;

/// Entries up to which refused writes are recorded: what one sector of the log holds. A member that refuses more than
/// that is worn out. A rebuild may fill the log.
const WRITE_ENTRIES: usize = 64;

/// The bad blocks of one member. Sectors count from the start of the device.
#[derive(Clone, Default, Debug)]
pub(super) struct BadLog {
    /// First byte and shape of the log, if the member has one.
    place: Option<(u64, BadBlockLog)>,
    /// What is bad.
    known: BadBlocks,
    /// What the log has to say at least: what is bad, and what was written since but not flushed.
    kept: BadBlocks,
    /// What the log says, empty if it does not count.
    written: BadBlocks,
    /// The bytes of the log that say so; none if they are not known and do not count.
    image: Vec<u8>,
    /// Stores refused since one was taken.
    refused: u32,
}

impl BadLog {
    /// What a member's log says, and its bytes.
    pub(super) fn new(superblock: &Superblock, found: BadBlocks, image: Vec<u8>) -> Self {
        let place = superblock.bad_block_area().map(|(area, log)| (area.sector.saturating_mul(512), log));
        BadLog { place, known: found.clone(), kept: found.clone(), written: found, image, refused: 0 }
    }

    /// Takes sectors down as bad; false if there is no room for them.
    fn record(&mut self, start: u64, sectors: u64, most: usize) -> bool {
        let Some((_, log)) = self.place else { return false };
        let mut kept = self.kept.clone();
        kept.insert(start, sectors);
        if kept != self.kept && kept.entries(log.shift) > log.room().min(most) {
            return false;
        }
        self.kept = kept;
        self.known.insert(start, sectors);
        true
    }

    /// What the log may forget once all that was written is flushed.
    pub(super) fn good_again(&self) -> BadBlocks {
        let mut good = self.kept.clone();
        good.remove_all(&self.known);
        good
    }

    /// All that was written when [`Self::good_again`] was taken is flushed.
    pub(super) fn flushed(&mut self, good: &BadBlocks) {
        let mut kept = self.kept.clone();
        kept.remove_all(good);
        // What went bad since stays.
        kept.insert_all(&self.known);
        // A range in two needs an entry more. Without room for it the log keeps what it says: were it not written at
        // all, it would lack what was recorded meanwhile.
        if self.place.is_none_or(|(_, log)| kept.entries(log.shift) <= log.room()) {
            self.kept = kept;
        }
    }

    /// The log to write, if it changed: its first byte, and its bytes in steps. It counts as written.
    pub(super) fn take_changed(&mut self) -> Option<(u64, Vec<Vec<u8>>)> {
        let (offset, log) = self.place?;
        if self.kept == self.written {
            return None;
        }
        // What was read may need more room than it had: then it stays as it is, and says at least as much.
        let steps = self.kept.encode_over(log, &self.image).ok()?;
        self.written = self.kept.clone();
        if let Some(last) = steps.last() {
            self.image.clone_from(last);
        }
        Some((offset, steps))
    }

    /// Whether the superblock is to say that the log counts.
    pub(super) fn counts(&self) -> bool {
        !self.written.is_empty()
    }
}

impl Array {
    /// The sectors of a run of bytes of a member.
    fn sectors(offset: u64, len: u32) -> (u64, u64) {
        (offset / 512, u64::from(len / 512))
    }

    /// Whether any of these bytes of a member is known to be bad.
    pub(super) fn known_bad(&self, member: MemberId, offset: u64, len: u32) -> bool {
        let (start, sectors) = Self::sectors(offset, len);
        self.members.get(&member).is_some_and(|m| m.bad.known.overlaps(start, sectors))
    }

    /// The blocks of a member's strip that are known to be bad.
    pub(super) fn bad_in_strip(&self, member: MemberId, stripe: u64) -> Blocks {
        let Some(known) = self.members.get(&member).map(|m| &m.bad.known).filter(|k| !k.is_empty()) else {
            return Blocks::NONE;
        };
        let (start, sectors) = Self::sectors(self.device_offset(member, stripe), self.geometry.strip_bytes());
        known.within(start, sectors).fold(Blocks::NONE, |all, (first, count)| {
            // Inside a strip, hence small.
            all.or(Blocks::touched((first - start) as u32 * 512, count as u32 * 512))
        })
    }

    /// Tells a stripe which of its blocks are known to be bad.
    pub(super) fn mark_known_bad(&mut self, id: SlotId) {
        if self.members.values().all(|m| m.bad.known.is_empty()) {
            return;
        }
        let stripe = self.cache.slot(id).stripe;
        let roles = self.geometry.pattern(stripe).roles.iter();
        let bad: Vec<Blocks> = roles
            .map(|role| self.in_sync_at(*role, stripe).map_or(Blocks::NONE, |m| self.bad_in_strip(m, stripe)))
            .collect();
        for (state, bad) in self.cache.slot_mut(id).lanes.iter_mut().zip(bad) {
            state.logged = bad;
            state.bad = state.bad.or(bad);
        }
    }

    /// A store to a member was taken: its blocks are good, and so is the member.
    pub(super) fn store_taken(&mut self, id: MemberId, offset: u64, len: u32) {
        let (start, sectors) = Self::sectors(offset, len);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.bad.refused = 0;
        if !member.bad.known.overlaps(start, sectors) {
            return;
        }
        let cleared: Vec<_> = member.bad.known.within(start, sectors).collect();
        member.bad.known.remove(start, sectors);
        for (first, count) in cleared {
            let (offset, len) = (first * 512, count * 512);
            self.notice(Notice::BadBlocksCleared { member: id, offset, len });
        }
        // Until the log says so, a crash takes the block for bad, and recovers it from a column that may be half
        // written: whoever wrote it was not promised that.
        self.want_update(true);
        self.meta.must_be_recorded();
    }

    /// A store was refused by the medium: whether to go on with the member, and record what it refuses.
    pub(super) fn bears_refusal(&mut self, id: MemberId) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return false };
        member.bad.refused += 1;
        member.bad.place.is_some() && member.bad.refused <= IN_A_ROW
    }

    /// All stores of a pass ended, and members refused single blocks: these are recorded, or the members failed.
    /// Columns of which more is lost now than parity recovers are failed in the plan.
    pub(super) fn settle_refused(&mut self, id: SlotId, mut refused: Vec<(u16, MemberId, Blocks)>) {
        refused.retain(|(_, member, _)| self.is_live(*member));
        let parity = usize::from(self.geometry.parity());
        let all = refused.iter().fold(Blocks::NONE, |all, (.., blocks)| all.or(*blocks));
        let lanes_at = |block: u32| refused.iter().filter(|(.., blocks)| blocks.has(block)).count();
        if (0..u64::BITS).any(|block| lanes_at(block) > parity) {
            for (_, member, _) in refused {
                self.fail_member(member, "it refused a write together with more members than parity covers");
            }
            return;
        }
        for (lane, member, blocks) in refused {
            if self.record_bad(id, lane, member, blocks, WRITE_ENTRIES) {
                continue;
            }
            self.fail_member(member, "a write failed, and its bad-block log has no room to record it");
        }
        let lost = self.lost_columns(id, false).and(all);
        let slot = self.cache.slot_mut(id);
        if let Some(pass) = slot.pass.as_mut().filter(|p| p.kind == Kind::Write) {
            pass.fail_columns(lost);
            // What was refused must not be read back from the cache.
            slot.lanes.iter_mut().for_each(|l| l.cached = l.cached.minus(lost));
        }
    }

    /// Columns that a rebuild could not recover are recorded as bad on the members that it fills; false if
    /// that is not possible on one of them.
    pub(super) fn record_unrecovered(&mut self, id: SlotId, columns: Blocks) -> bool {
        let stripe = self.cache.slot(id).stripe;
        let lanes: Vec<u16> = self.rebuild_lanes(stripe).collect();
        lanes.into_iter().all(|lane| {
            let role = self.geometry.pattern(stripe).roles[usize::from(lane)];
            let member = self.roles.get(usize::from(role.0)).copied().flatten();
            member.is_none_or(|member| self.record_bad(id, lane, member, columns, usize::MAX))
        })
    }

    /// Records blocks of a lane as bad and asks for the update that says so, on which answers wait.
    pub(super) fn record_bad(
        &mut self,
        id: SlotId,
        lane: u16,
        member: MemberId,
        blocks: Blocks,
        most: usize,
    ) -> bool {
        let base = self.device_offset(member, self.cache.slot(id).stripe);
        let mut news = Vec::new();
        for run in blocks.runs() {
            let (offset, len) = (base + u64::from(run.offset()), run.bytes());
            let (start, sectors) = Self::sectors(offset, len);
            let Some(known) = self.members.get_mut(&member).map(|m| &mut m.bad) else { return false };
            // What its log keeps saying until a flush is over may have been good for a moment, and so told.
            let before = known.known.clone();
            if !known.record(start, sectors, most) {
                return false;
            }
            if before != known.known {
                news.push(Notice::BadBlocksRecorded { member, offset, len: u64::from(len) });
            }
        }
        let state = &mut self.cache.slot_mut(id).lanes[usize::from(lane)];
        state.bad = state.bad.or(blocks);
        state.logged = state.logged.or(blocks);
        if !news.is_empty() {
            news.into_iter().for_each(|notice| self.notice(notice));
            self.want_update(false);
            self.meta.must_be_recorded();
        }
        true
    }

    /// The columns of a stripe of which more blocks are lost than parity recovers; of the bad ones all count, or
    /// only those that are in a log.
    pub(super) fn lost_columns(&self, id: SlotId, logged: bool) -> Blocks {
        let slot = self.cache.slot(id);
        let roles = &self.geometry.pattern(slot.stripe).roles;
        let all = Blocks::range(0, self.geometry.strip_blocks());
        let lost =
            slot.lanes.iter().zip(roles).map(|(lane, role)| match self.in_sync_at(*role, slot.stripe) {
                Some(_) if logged => lane.logged,
                Some(_) => lane.bad,
                None => all,
            });
        let lost: Vec<Blocks> = lost.collect();
        let many =
            |block: &u32| lost.iter().filter(|l| l.has(*block)).count() > usize::from(self.geometry.parity());
        (0..self.geometry.strip_blocks()).filter(many).fold(Blocks::NONE, |a, b| a.or(Blocks::range(b, 1)))
    }

    /// The most blocks of one column of a stripe that are bad where their member is there.
    pub(super) fn bad_in_a_column(&self, stripe: u64) -> u16 {
        let roles = self.geometry.pattern(stripe).roles.iter();
        let members = roles.filter_map(|role| self.in_sync_at(*role, stripe));
        let bad: Vec<Blocks> =
            members.map(|m| self.bad_in_strip(m, stripe)).filter(|b| !b.is_empty()).collect();
        let deep = |block: u32| bad.iter().filter(|b| b.has(block)).count() as u16;
        if bad.len() < 2 { bad.len() as u16 } else { (0..u64::BITS).map(deep).max().unwrap_or(0) }
    }

    /// The stripes at which what is bad may change: in between, all of a strip is, or none.
    pub(super) fn bad_breaks(&self) -> impl Iterator<Item = u64> {
        let size = self.geometry.rows() * self.geometry.chunk_bytes() / 512;
        self.members.values().flat_map(move |m| {
            let first = m.data_bytes / 512;
            let ranges = m.bad.known.within(first, size);
            ranges.flat_map(move |(start, count)| {
                let stripe = |sector: u64| (sector - first) * 512 / u64::from(self.geometry.strip_bytes());
                let (from, to) = (stripe(start), stripe(start + count - 1));
                [from, from + 1, to, to + 1]
            })
        })
    }

    /// Bytes of a member's data that are bad.
    pub(super) fn bad_bytes(&self, member: &super::members::Member) -> u64 {
        let size = self.geometry.rows() * self.geometry.chunk_bytes() / 512;
        let ranges = member.bad.known.within(member.data_bytes / 512, size);
        ranges.map(|(_, sectors)| sectors * 512).sum()
    }

    /// The logs that changed, in steps of which each is durable before the next.
    pub(super) fn changed_logs(&mut self) -> VecDeque<Vec<MetaBytes>> {
        let live = |m: &&mut super::members::Member| m.state != super::members::State::Failed;
        let mut waves = VecDeque::new();
        for member in self.members.values_mut().filter(live) {
            let Some((offset, steps)) = member.bad.take_changed() else { continue };
            waves.resize_with(waves.len().max(steps.len()), Vec::new);
            waves.iter_mut().zip(steps).for_each(|(wave, bytes)| wave.push((member.id, offset, bytes)));
        }
        waves
    }

    /// A sync pass ended over a stripe of which not all could be done: whether it counts as done all the same.
    pub(super) fn goes_on_without(&mut self, id: SlotId, kind: SyncKind, columns: Blocks) -> bool {
        match kind {
            SyncKind::Scrub => false,
            // Nothing is left to compare where more is bad than parity recovers.
            SyncKind::Resync => columns.minus(self.lost_columns(id, true)).is_empty(),
            SyncKind::Rebuild => self.record_unrecovered(id, columns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The log is full when the middle of a range turns out good, and while that is flushed the end of another goes bad.
    #[test]
    fn what_is_recorded_is_written_although_the_log_is_full() {
        let shape = BadBlockLog { offset: 8, sectors: 1, shift: 0 };
        let mut log = BadLog { place: Some((0, shape)), ..BadLog::default() };
        assert!((0..64).all(|n| log.record(n * 100, 30, usize::MAX)));
        assert!(!log.record(7000, 8, usize::MAX), "65 entries");
        assert!(log.take_changed().is_some());
        log.known.remove(510, 8);
        let good = log.good_again();
        assert!(log.record(630, 8, usize::MAX), "an entry grows");
        log.flushed(&good);
        let (_, steps) = log.take_changed().expect("the log is written");
        let says = BadBlocks::parse(shape, steps.last().expect("a step")).expect("sound");
        assert!(says.overlaps(637, 1) && says.overlaps(510, 8), "{says:?}");
        // There is room again: then it goes.
        log.known.remove(0, 30);
        let good = log.good_again();
        log.flushed(&good);
        let (_, steps) = log.take_changed().expect("the log is written");
        let says = BadBlocks::parse(shape, steps.last().expect("a step")).expect("sound");
        assert_eq!(says, log.known);
        assert!(!says.overlaps(510, 8) && says.overlaps(518, 1));
    }
}
