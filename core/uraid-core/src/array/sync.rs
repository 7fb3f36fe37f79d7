//! The background pass: resync (parity is made to match the data), rebuild (a member is filled) and scrub
//! (parity is compared with the data).
//!
//! A scrub changes no superblock, so a crash or a stop in the middle of it leaves the array as it was, but
//! for what was repaired: parity that did not match before.
//!
//! It walks the stripes in order with a few under way at a time, each a pass of its own that queues at
//! its stripe like any other work. What is finished out of order is kept until the cursor reaches it.

use super::cache::Work;
use super::members::{Member, State};
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
    /// The first stripe that it was to look at.
    started: u64,
    /// The next stripe to begin.
    next: u64,
    /// All stripes below are done.
    pub(super) cursor: u64,
    /// Stripes that were begun and are not done; those that could not be done stay. What is between the
    /// cursor and the next stripe and not among them is done, or needed nothing.
    begun: BTreeSet<u64>,
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

impl Sync {
    /// Whether the pass is through with a stripe at or beyond where it began.
    fn is_done(&self, stripe: u64) -> bool {
        self.started <= stripe && stripe < self.next && !self.begun.contains(&stripe)
    }
}

impl Array {
    /// Whether parity matches the data at a stripe, as far as is known.
    pub(super) fn parity_trusted(&self, stripe: u64) -> bool {
        let needed = self.intent.as_ref().is_some_and(|i| i.touches(i.needed(), stripe));
        stripe < self.meta.resynced && !needed
            || self.sync.as_ref().is_some_and(|s| s.kind == SyncKind::Resync && s.is_done(stripe))
    }

    /// The stripes from the start in which parity is known to match.
    pub(super) fn matched_below(&self) -> u64 {
        let needed = self.intent.as_ref().and_then(|i| i.next_in(i.needed(), 0));
        needed.map_or(self.meta.resynced, |stripe| stripe.min(self.meta.resynced))
    }

    /// Whether parity is not known to match everywhere.
    pub(super) fn resync_due(&self) -> bool {
        self.matched_below() < self.geometry.stripes()
    }

    /// Whether a member that is back after a time away has everything in a stripe.
    pub(super) fn never_missed(&self, member: &Member, stripe: u64) -> bool {
        match (&self.intent, &member.missed) {
            (Some(intent), Some(missed)) => !intent.touches(missed, stripe),
            _ => false,
        }
    }

    /// Whether the rebuild under way has been at a stripe beyond its cursor, for this member.
    pub(super) fn rebuilt_ahead(&self, member: MemberId, stripe: u64) -> bool {
        self.sync
            .as_ref()
            .is_some_and(|s| s.kind == SyncKind::Rebuild && s.targets.contains(&member) && s.is_done(stripe))
    }

    /// The stripes at which the pass under way may make a difference.
    pub(super) fn sync_breaks(&self) -> impl Iterator<Item = u64> {
        let begun = |s: &Sync| s.begun.iter().flat_map(|&stripe| [stripe, stripe + 1]).collect::<Vec<_>>();
        self.sync.iter().flat_map(move |s| begun(s).into_iter().chain([s.cursor, s.next]))
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
        while let Some(sync) = &self.sync {
            if sync.abort || sync.in_flight >= window || sync.next >= stripes {
                break;
            }
            let stripe = self.next_due(sync).min(stripes);
            let Some(sync) = &mut self.sync else { break };
            sync.next = stripe;
            if stripe < stripes {
                sync.next += 1;
                sync.in_flight += 1;
                sync.begun.insert(stripe);
                self.cache.push(stripe, Work::Sync, true);
            }
        }
        self.note_progress();
        self.end_sync_if_done();
    }

    /// The next stripe that the pass has something to do at; others are as they have to be.
    fn next_due(&self, sync: &Sync) -> u64 {
        let Some(intent) = &self.intent else { return sync.next };
        let none = self.geometry.stripes();
        match sync.kind {
            SyncKind::Scrub => sync.next,
            SyncKind::Resync => intent.next_in(intent.needed(), sync.next).unwrap_or(none),
            SyncKind::Rebuild => {
                let targets = sync.targets.iter().filter_map(|id| self.members.get(id));
                let due = targets.map(|member| match &member.missed {
                    Some(missed) => intent.next_in(missed, sync.next).unwrap_or(none),
                    None => sync.next,
                });
                due.min().unwrap_or(sync.next)
            }
        }
    }

    /// A rebuild goes first: redundancy before tidiness. It waits until the superblocks name its targets.
    /// A resync needs more parity than the missing members use up, and so does a scrub, which comes last.
    fn begin_sync(&mut self) {
        if self.broken || self.stopping || self.config.read_only || self.spare_wanted() || self.log_starting()
        {
            return;
        }
        let rebuilding = || self.members.values().filter(|m| m.state == State::Rebuilding && !m.stuck);
        let from = rebuilding().map(|m| m.rebuilt).min();
        let (stripes, matched) = (self.geometry.stripes(), self.matched_below());
        let (kind, start) = match from {
            Some(_) if self.meta.updating() => return,
            Some(from) => (SyncKind::Rebuild, from),
            None if self.parity_to_spare() && matched < stripes && !self.meta.resync_stuck => {
                (SyncKind::Resync, matched)
            }
            None if self.parity_to_spare() && matched >= stripes && self.scrub_wanted.is_some() => {
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
            started: start,
            next: start,
            cursor: start,
            begun: BTreeSet::new(),
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
        if self.sync.is_some() || self.scrub_wanted.is_some() || rebuild_due || self.resync_due() {
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
            // The hole can't be recorded in a log of bad blocks: the pass ends here, and what it would have
            // gone on to rebuild stays marked as not rebuilt.
            if !sync.abort {
                self.mark_stuck();
            }
            self.break_off_sync();
            return;
        }
        sync.begun.remove(&stripe);
        self.note_progress();
    }

    /// Moves the cursor to the first stripe that is not done, and takes down what that means.
    fn note_progress(&mut self) {
        let Some(sync) = &mut self.sync else { return };
        let cursor = sync.begun.first().copied().unwrap_or(sync.next);
        if cursor <= sync.cursor || (sync.kind == SyncKind::Rebuild && sync.targets.is_empty()) {
            return;
        }
        sync.cursor = cursor;
        let kind = sync.kind;
        let (since, at) = sync.checkpoint;
        let part = (self.geometry.stripes() / CHECKPOINT_PART).max(1);
        let due = cursor - since >= part || (cursor > since && at.plus_ms(CHECKPOINT_MS) <= self.now);
        if due {
            sync.checkpoint = (cursor, self.now);
        }
        match kind {
            SyncKind::Scrub => return,
            SyncKind::Resync => {
                self.meta.resynced = self.meta.resynced.max(cursor);
                self.intent_resynced(cursor);
            }
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
