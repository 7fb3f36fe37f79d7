//! The background pass: resync (parity is made to match the data), rebuild (a member is filled) and scrub
//! (parity is compared with the data).
//!
//! A scrub changes no superblock, so a crash or a stop in the middle of it leaves the array as it was, but
//! for what was repaired: parity that did not match before.
//!
//! It walks the stripes in order with a few under way at a time, each a pass of its own that queues at
//! its stripe like any other work. What is finished out of order is kept until the cursor reaches it.

use super::cache::Work;
use super::members::State;
use super::{Array, Tick};
use crate::{MemberId, Notice, SyncKind};
use std::collections::BTreeSet;

/// A client was here this many milliseconds ago or less: the pass keeps one stripe under way.
const YIELD_MS: u64 = 20;
/// Progress is put into the superblocks after this part of the array, as md does,
const CHECKPOINT_PART: u64 = 16;
/// or after this many milliseconds.
const CHECKPOINT_MS: u64 = 60_000;

/// A background pass under way.
#[derive(Clone, Debug)]
pub(super) struct Sync {
    pub(super) kind: SyncKind,
    /// The next stripe to begin.
    next: u64,
    /// All stripes below are done.
    pub(super) cursor: u64,
    /// Stripes beyond the cursor that are done.
    ahead: BTreeSet<u64>,
    in_flight: u32,
    /// Members that a rebuild fills.
    targets: BTreeSet<MemberId>,
    pub(super) mismatches: u64,
    /// Stripes that a scrub could not compare.
    skipped: u64,
    /// Parity that does not match is rewritten.
    pub(super) repair: bool,
    /// No new stripes are begun.
    abort: bool,
    checkpoint: (u64, Tick),
}

/// Why a scrub is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubRefused {
    /// The array is served without ever writing to a member, which repairing what cannot be read would do.
    ReadOnly,
    /// No parity is left to compare: members are missing, or the array is stopping.
    NoParity,
    /// Another pass is under way or due.
    Busy,
}

impl Array {
    /// Whether parity matches the data at a stripe, as far as is known.
    pub(super) fn parity_trusted(&self, stripe: u64) -> bool {
        stripe < self.meta.resynced
            || self.sync.as_ref().is_some_and(|s| s.kind == SyncKind::Resync && s.ahead.contains(&stripe))
    }

    /// Whether the rebuild under way has been at a stripe beyond its cursor, for this member.
    pub(super) fn rebuilt_ahead(&self, member: MemberId, stripe: u64) -> bool {
        self.sync.as_ref().is_some_and(|s| {
            s.kind == SyncKind::Rebuild && s.targets.contains(&member) && s.ahead.contains(&stripe)
        })
    }

    /// The stripes beyond its cursor that the pass under way has done.
    pub(super) fn done_ahead(&self) -> impl Iterator<Item = u64> {
        self.sync.iter().flat_map(|s| s.ahead.iter().copied())
    }

    pub(super) fn sync_kind(&self) -> Option<SyncKind> {
        self.sync.as_ref().map(|s| s.kind)
    }

    /// The lanes of a stripe that the rebuild under way fills.
    pub(super) fn rebuild_lanes(&self, stripe: u64) -> impl Iterator<Item = u16> {
        let pattern = self.geometry.pattern(stripe);
        let targets = self.sync.iter().flat_map(|s| s.targets.iter());
        let roles = targets.filter_map(move |id| {
            let member = self.members.get(id).filter(|m| m.state == State::Rebuilding)?;
            member.role.filter(|&role| self.in_sync_at(role, stripe).is_none())
        });
        roles.map(|role| pattern.lanes[usize::from(role.0)])
    }

    /// Begins more stripes, and the pass itself if one is due.
    pub(super) fn pump_sync(&mut self) {
        if self.sync.is_none() {
            self.begin_sync();
        }
        let busy = self.now.0.saturating_sub(self.last_client.0) < YIELD_MS * 1_000_000;
        let serving = busy && !self.requests.is_empty();
        let window = if serving { 1 } else { self.config.sync_window.min(self.config.slots / 2) };
        let stripes = self.geometry.stripes();
        while let Some(sync) = &mut self.sync {
            if sync.abort || sync.in_flight >= window || sync.next >= stripes {
                break;
            }
            let stripe = sync.next;
            sync.next += 1;
            sync.in_flight += 1;
            self.cache.push(stripe, Work::Sync, true);
        }
        self.end_sync_if_done();
    }

    /// A rebuild goes first: redundancy before tidiness. It waits until the superblocks name its targets.
    /// A resync needs more parity than the missing members use up, and so does a scrub, which comes last.
    fn begin_sync(&mut self) {
        if self.broken || self.stopping || self.config.read_only || self.spare_wanted() {
            return;
        }
        let rebuilding = || self.members.values().filter(|m| m.state == State::Rebuilding && !m.stuck);
        let from = rebuilding().map(|m| m.rebuilt).min();
        let stripes = self.geometry.stripes();
        let (kind, start) = match from {
            Some(_) if self.meta.updating() => return,
            Some(from) => (SyncKind::Rebuild, from),
            None if self.parity_to_spare() && self.meta.resynced < stripes && !self.meta.resync_stuck => {
                (SyncKind::Resync, self.meta.resynced)
            }
            None if self.parity_to_spare()
                && self.meta.resynced >= stripes
                && self.scrub_wanted.is_some() =>
            {
                (SyncKind::Scrub, 0)
            }
            None => return,
        };
        let targets =
            if kind == SyncKind::Rebuild { rebuilding().map(|m| m.id).collect() } else { BTreeSet::new() };
        let repair = match kind {
            SyncKind::Scrub => self.scrub_wanted.take().unwrap_or(false),
            SyncKind::Resync | SyncKind::Rebuild => true,
        };
        self.sync = Some(Sync {
            kind,
            next: start,
            cursor: start,
            ahead: BTreeSet::new(),
            in_flight: 0,
            targets,
            mismatches: 0,
            skipped: 0,
            repair,
            abort: false,
            checkpoint: (start, self.now),
        });
        self.notice(Notice::SyncStarted { kind });
    }

    /// Whether a scrub can be asked for now.
    ///
    /// # Errors
    /// Why it would not begin, or not soon.
    pub fn check_scrub(&self) -> Result<(), ScrubRefused> {
        if self.config.read_only {
            return Err(ScrubRefused::ReadOnly);
        }
        if self.broken || self.stopping || !self.parity_to_spare() {
            return Err(ScrubRefused::NoParity);
        }
        let rebuild_due =
            self.spare_wanted() || self.members.values().any(|m| m.state == State::Rebuilding && !m.stuck);
        let resync_due = self.meta.resynced < self.geometry.stripes();
        if self.sync.is_some() || self.scrub_wanted.is_some() || rebuild_due || resync_due {
            return Err(ScrubRefused::Busy);
        }
        Ok(())
    }

    /// Begins a scrub, now or after what is more urgent.
    pub(super) fn want_scrub(&mut self, repair: bool) {
        self.scrub_wanted = Some(repair);
    }

    /// Whether the pass under way rewrites parity that does not match.
    pub(super) fn sync_repairs(&self) -> bool {
        self.sync.as_ref().is_some_and(|s| s.repair)
    }

    pub(super) fn count_mismatch(&mut self) {
        if let Some(sync) = &mut self.sync {
            sync.mismatches += 1;
        }
    }

    /// A stripe of the pass is done, or could not be.
    pub(super) fn sync_stripe_done(&mut self, stripe: u64, ok: bool) {
        let Some(sync) = &mut self.sync else { return };
        sync.in_flight -= 1;
        if !ok && sync.kind == SyncKind::Scrub {
            // What cannot be read has been told; the other stripes are compared all the same.
            sync.skipped += 1;
        } else if !ok {
            // Without a log of bad blocks the hole can't be recorded: the pass ends here, and what it
            // would have gone on to rebuild stays marked as not rebuilt.
            if !sync.abort {
                self.mark_stuck();
            }
            self.break_off_sync();
            return;
        }
        if sync.abort && sync.kind == SyncKind::Rebuild && sync.targets.is_empty() {
            return;
        }
        sync.ahead.insert(stripe);
        while sync.ahead.remove(&sync.cursor) {
            sync.cursor += 1;
        }
        let (cursor, kind) = (sync.cursor, sync.kind);
        let (since, at) = sync.checkpoint;
        let part = (self.geometry.stripes() / CHECKPOINT_PART).max(1);
        let due = cursor - since >= part || (cursor > since && at.plus_ms(CHECKPOINT_MS) <= self.now);
        if due {
            sync.checkpoint = (cursor, self.now);
        }
        match kind {
            SyncKind::Scrub => return,
            SyncKind::Resync => self.meta.resynced = self.meta.resynced.max(cursor),
            SyncKind::Rebuild => {
                for id in &sync.targets {
                    if let Some(member) = self.members.get_mut(id) {
                        member.rebuilt = member.rebuilt.max(cursor);
                    }
                }
            }
        }
        if due && cursor < self.geometry.stripes() {
            self.want_update(true);
        }
    }

    fn mark_stuck(&mut self) {
        let Some(sync) = &self.sync else { return };
        match sync.kind {
            SyncKind::Scrub => {}
            SyncKind::Resync => self.meta.resync_stuck = true,
            SyncKind::Rebuild => {
                for id in &sync.targets {
                    if let Some(member) = self.members.get_mut(id) {
                        member.stuck = true;
                    }
                }
            }
        }
    }

    /// Begins no more stripes; those under way end as usual.
    pub(super) fn break_off_sync(&mut self) {
        if let Some(sync) = &mut self.sync {
            sync.abort = true;
        }
    }

    /// A member of the array failed: a resync goes on only while parity is left to compare, a rebuild
    /// without it.
    pub(super) fn sync_member_failed(&mut self, id: MemberId) {
        let (broken, spare) = (self.broken, self.parity_to_spare());
        if let Some(sync) = &mut self.sync {
            sync.targets.remove(&id);
            sync.abort |= match sync.kind {
                SyncKind::Resync | SyncKind::Scrub => broken || !spare,
                SyncKind::Rebuild => broken || sync.targets.is_empty(),
            };
        }
    }

    fn end_sync_if_done(&mut self) {
        let stripes = self.geometry.stripes();
        let Some(sync) = &self.sync else { return };
        if sync.in_flight > 0 || (!sync.abort && sync.cursor < stripes) {
            return;
        }
        let complete = sync.cursor >= stripes && (sync.kind != SyncKind::Rebuild || !sync.targets.is_empty());
        let Some(sync) = self.sync.take() else { return };
        if complete {
            sync.targets.iter().for_each(|&id| self.member_in_sync(id));
        }
        if sync.kind != SyncKind::Scrub {
            self.want_update(true);
        }
        let Sync { kind, mismatches, skipped, repair: repaired, .. } = sync;
        self.notice(Notice::SyncFinished { kind, mismatches, repaired, skipped, complete });
    }
}
