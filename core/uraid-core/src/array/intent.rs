//! The write-intent bitmap: which regions may have been written without all of a stripe being there.
//!
//! | before | must be on every member that counts |
//! |---|---|
//! | the first data or parity of a region is written | its bit, durable; and superblocks that name whoever failed and may lack it |
//! | a superblock says so many events | a bitmap that says as many (the kernel distrusts an older one) |
//! | the first bit is cleared | `events_cleared` is the count of events now, so that a member that was away since is not believed |
//! | a bit is cleared | everything written in its region, by a flush of every member, and nobody is missing |
//! | a superblock names a new member | all of the bitmap |
//! | the first page of a copy that was not as it has to be | all its other pages: the first makes it believable |
//!
//! Pages go out in **rounds**, one at a time, to all members: two writes of the same page under way at once could
//! land in the other order. A crash in the middle of a round leaves copies that differ, of which assembly takes
//! the union. Bits are cleared when their region was left alone for a while, as md does it; until then they cost
//! nothing but a longer resync.
//!
//! While a member is missing no bit is cleared: the bits are what it missed. If it comes back
//! ([`super::returning`]) only these regions are copied.

use super::{Array, BitmapReport, Io, IoFor};
use crate::geometry::Geometry;
use crate::{Action, IoFault, MemberId, Tick};
use md_format::{AreaKind, ArrayBitmap, Assembly, Bitmap, Superblock};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

/// The bitmap and what is known of its regions.
#[derive(Clone, Debug)]
pub(super) struct Intent {
    /// What all members are to have.
    image: Bitmap,
    /// Bytes of a strip: a stripe covers as much of each member.
    strip: u64,
    /// Regions whose bit is set here and not yet known to be on all members.
    unsaved: BTreeSet<u64>,
    /// Passes under way that write, by region.
    users: BTreeMap<u64, u32>,
    /// Regions in which parity is not known to match.
    needed: BTreeSet<u64>,
    /// Regions whose bit is set and that nobody writes or needs, with the time since when.
    idle: BTreeMap<u64, Tick>,
    /// When to look for bits that can be cleared.
    look_at: Option<Tick>,
    /// Pages that differ from what is on some member.
    dirty: BTreeSet<usize>,
    /// Copies differ or were not believed, and the first page has to wait until the others are right.
    head_last: bool,
    /// They are to be written now.
    due: bool,
    /// Rounds begun.
    rounds: u64,
    round: Option<Round>,
    clear: Option<Clear>,
}

/// Pages on their way to all members.
#[derive(Clone, Debug)]
struct Round {
    outstanding: u32,
    /// Regions whose bit is on all members when it is over.
    regions: BTreeSet<u64>,
}

/// Bits on their way out, with the time since when their regions were idle.
#[derive(Clone, Debug)]
enum Clear {
    /// What was written there is being made durable.
    Flushing { outstanding: u32, regions: BTreeMap<u64, Tick> },
    /// `events_cleared` goes out with this round.
    Announcing { round: u64, regions: BTreeMap<u64, Tick> },
}

impl Intent {
    pub(super) fn new(assembly: &Assembly, geometry: &Geometry) -> Option<Self> {
        let ArrayBitmap { bitmap, differs } = assembly.bitmap.clone()?;
        let set: BTreeSet<u64> = bitmap.set_regions().collect();
        let idle = |_: &()| set.iter().map(|&region| (region, Tick::default())).collect();
        Some(Intent {
            strip: u64::from(geometry.strip_bytes()),
            unsaved: if differs { set.clone() } else { BTreeSet::new() },
            users: BTreeMap::new(),
            idle: if assembly.dirty { BTreeMap::new() } else { idle(&()) },
            needed: if assembly.dirty { set } else { BTreeSet::new() },
            look_at: None,
            dirty: if differs { (0..bitmap.pages()).collect() } else { BTreeSet::new() },
            head_last: differs && bitmap.pages() > 1,
            due: false,
            rounds: 0,
            round: None,
            clear: None,
            image: bitmap,
        })
    }

    /// The regions that a stripe touches.
    fn regions(&self, stripe: u64) -> RangeInclusive<u64> {
        let chunk = self.image.chunk_bytes();
        let first = stripe.saturating_mul(self.strip);
        first / chunk..=(first + self.strip - 1) / chunk
    }

    /// The first stripe that touches a region.
    fn first_stripe(&self, region: u64) -> u64 {
        region.saturating_mul(self.image.chunk_bytes()) / self.strip
    }

    /// The first stripe at or after `stripe` that touches a region of the set.
    pub(super) fn next_in(&self, set: &BTreeSet<u64>, stripe: u64) -> Option<u64> {
        let region = *set.range(*self.regions(stripe).start()..).next()?;
        Some(self.first_stripe(region).max(stripe))
    }

    /// Whether a stripe touches a region of the set.
    pub(super) fn touches(&self, set: &BTreeSet<u64>, stripe: u64) -> bool {
        set.range(self.regions(stripe)).next().is_some()
    }

    /// The stripes of a range, which is not empty, at which a run of regions of the set begins or ends; others, too.
    pub(super) fn breaks<'a>(
        &'a self,
        set: &'a BTreeSet<u64>,
        stripes: &Range<u64>,
    ) -> impl Iterator<Item = u64> + 'a {
        let chunk = self.image.chunk_bytes();
        let end = move |region: u64| (region + 1).saturating_mul(chunk).div_ceil(self.strip);
        let last = stripes.end.saturating_sub(1).max(stripes.start);
        let touched = *self.regions(stripes.start).start()..=*self.regions(last).end();
        set.range(touched).flat_map(move |&region| {
            let first = (region == 0 || !set.contains(&(region - 1))).then(|| self.first_stripe(region));
            let last = (!set.contains(&(region + 1))).then(|| end(region));
            first.into_iter().chain(last)
        })
    }

    /// Regions in which parity is not known to match.
    pub(super) fn needed(&self) -> &BTreeSet<u64> {
        &self.needed
    }

    /// Every region whose bit is set: what a member that was away may have missed.
    pub(super) fn set_regions(&self) -> BTreeSet<u64> {
        self.image.set_regions().collect()
    }

    /// Events at the time when a bit was last cleared.
    pub(super) fn events_cleared(&self) -> u64 {
        self.image.events_cleared()
    }

    /// What an operator may want to know.
    pub(super) fn report(&self) -> BitmapReport {
        let set = self.users.len() + self.needed.len() + self.idle.len();
        let both = self.users.keys().filter(|region| self.needed.contains(region)).count();
        BitmapReport {
            set_regions: (set - both) as u64,
            regions: self.image.regions(),
            region_bytes: self.image.chunk_bytes(),
        }
    }

    /// Every page has to be written again: somebody is there who has none of it.
    pub(super) fn rewrite(&mut self) {
        self.dirty.extend(0..self.image.pages());
    }

    /// Whether anything is on its way to the members.
    pub(super) fn busy(&self) -> bool {
        self.round.is_some() || self.clear.is_some() || self.due
    }

    /// Sets a region's bit. Whoever wants that may not come back for it, so the region counts as idle from now.
    fn set_bit(&mut self, region: u64, now: Tick) {
        if region < self.image.regions() && !self.image.is_set(region) {
            self.image.put_bit(region, true);
            self.unsaved.insert(region);
            self.idle.insert(region, now);
            self.dirty.insert(self.image.page_of(region));
        }
    }

    fn is_saved(&self, region: u64) -> bool {
        let under_way = self.round.as_ref().is_some_and(|round| round.regions.contains(&region));
        !self.unsaved.contains(&region) && !under_way
    }

    /// Of the regions of a clear, those that nobody touched since.
    fn untouched(&self, regions: &BTreeMap<u64, Tick>) -> BTreeMap<u64, Tick> {
        let same = |(region, since): &(&u64, &Tick)| self.idle.get(region) == Some(since);
        regions.iter().filter(same).map(|(&region, &since)| (region, since)).collect()
    }

    /// The first page has to be written. The round in which it will be.
    fn page_for_events(&mut self) -> u64 {
        self.dirty.insert(0);
        self.due = true;
        self.rounds + 1 + u64::from(self.head_last)
    }

    /// Takes what the next round writes: regions whose bits are on all members after it, and pages.
    fn take_round(&mut self) -> (BTreeSet<u64>, BTreeSet<usize>) {
        let (mut regions, mut pages) = (std::mem::take(&mut self.unsaved), std::mem::take(&mut self.dirty));
        if std::mem::take(&mut self.head_last) {
            pages.remove(&0);
            self.dirty.insert(0);
            self.unsaved =
                regions.iter().copied().filter(|&region| self.image.page_of(region) == 0).collect();
            regions.retain(|region| !self.unsaved.contains(region));
            self.due = true;
        }
        (regions, pages)
    }
}

impl Array {
    /// Whether a stripe may be written as far as the bitmap goes: the bits of its regions are on all members, and
    /// whoever failed and may lack them is recorded as failed. After a crash it would be a member like the others
    /// otherwise, and a kernel believes the copy of the first one. Bits that are not there are set, and blocked stripes
    /// are told when they are there.
    pub(super) fn intent_allows(&mut self, stripe: u64) -> bool {
        let (now, recorded) = (self.now, self.meta.failure_recorded());
        let Some(intent) = &mut self.intent else { return true };
        let regions = intent.regions(stripe);
        regions.clone().for_each(|region| intent.set_bit(region, now));
        intent.due |= !intent.unsaved.is_empty();
        recorded && regions.clone().all(|region| intent.is_saved(region))
    }

    /// Parity of a stripe is about to be corrected: a member that misses that will be told when it is back. Nothing
    /// waits for the bit, since before a crash parity did not match either.
    pub(super) fn intent_note(&mut self, stripe: u64) {
        let now = self.now;
        let Some(intent) = &mut self.intent else { return };
        intent.regions(stripe).for_each(|region| intent.set_bit(region, now));
        intent.due |= !intent.unsaved.is_empty();
    }

    /// A pass begins to write a stripe.
    pub(super) fn intent_begin(&mut self, stripe: u64) {
        let Some(intent) = &mut self.intent else { return };
        for region in intent.regions(stripe) {
            intent.idle.remove(&region);
            *intent.users.entry(region).or_default() += 1;
        }
    }

    /// The pass is over.
    pub(super) fn intent_end(&mut self, stripe: u64) {
        let now = self.now;
        let Some(intent) = &mut self.intent else { return };
        for region in intent.regions(stripe) {
            let left = intent.users.get_mut(&region).map_or(0, |users| {
                *users -= 1;
                *users
            });
            if left == 0 {
                intent.users.remove(&region);
                if !intent.needed.contains(&region) && intent.image.is_set(region) {
                    intent.idle.insert(region, now);
                }
            }
        }
    }

    /// The resync has made parity match below a stripe.
    pub(super) fn intent_resynced(&mut self, cursor: u64) {
        let (now, all) = (self.now, cursor >= self.geometry.stripes());
        let Some(intent) = &mut self.intent else { return };
        let bytes = cursor.saturating_mul(intent.strip);
        let chunk = intent.image.chunk_bytes();
        while let Some(&region) = intent.needed.first() {
            if !all && (region + 1).saturating_mul(chunk) > bytes {
                break;
            }
            intent.needed.pop_first();
            if !intent.users.contains_key(&region) {
                intent.idle.insert(region, now);
            }
        }
    }

    /// The superblocks are about to say so many events: the bitmap has to say so before. The number of the
    /// round to wait for, if there is a bitmap.
    pub(super) fn intent_announce(&mut self, events: u64) -> Option<u64> {
        let intent = self.intent.as_mut()?;
        intent.image.set_events(events);
        Some(intent.page_for_events())
    }

    /// Whether bits may be cleared: everybody is there.
    fn may_clear(&self) -> bool {
        !self.degraded && !self.broken && !self.config.read_only
    }

    /// When to look for bits to clear.
    pub(super) fn intent_wake_at(&self) -> Option<Tick> {
        let intent = self.intent.as_ref()?;
        let waits = self.may_clear() && !self.stopping && intent.clear.is_none() && !intent.idle.is_empty();
        waits.then(|| intent.look_at.unwrap_or(self.now))
    }

    /// Looks for bits to clear, and writes what is due.
    pub(super) fn pump_intent(&mut self) {
        self.look_for_idle();
        self.start_round();
    }

    fn look_for_idle(&mut self) {
        if self.intent_wake_at().is_none_or(|at| at > self.now) {
            return;
        }
        let now = self.now;
        let Some(intent) = &mut self.intent else { return };
        let sleep = u64::from(intent.image.daemon_sleep()) * 1000;
        let first = intent.look_at.replace(now.plus_ms(sleep)).is_none();
        let long = |since: &Tick| since.plus_ms(sleep) <= now;
        let regions: BTreeMap<u64, Tick> =
            intent.idle.iter().filter(|(_, since)| long(since)).map(|(&r, &since)| (r, since)).collect();
        if !first && !regions.is_empty() {
            self.start_clear(regions);
        }
    }

    /// Clears what can be cleared before the array stops. Whether there is something to wait for.
    pub(super) fn intent_final_clear(&mut self) -> bool {
        let may = self.may_clear();
        let Some(intent) = self.intent.as_ref().filter(|i| may && !i.idle.is_empty()) else { return false };
        let regions = intent.idle.clone();
        self.start_clear(regions);
        true
    }

    fn start_clear(&mut self, regions: BTreeMap<u64, Tick>) {
        let live = self.live_members();
        let Some(intent) = &mut self.intent else { return };
        intent.clear = Some(Clear::Flushing { outstanding: live.len() as u32, regions });
        for member in live {
            let what = IoFor::IntentFlush;
            let io = self.start_io(Io { member, offset: 0, len: 0, write: false, what });
            self.actions.push_back(Action::Flush { io, member });
        }
    }

    pub(super) fn intent_flushed(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "a flush failed: what it was told to keep may be lost");
        }
        let (may, events) = (self.may_clear(), self.meta.events());
        let Some(intent) = &mut self.intent else { return };
        let Some(Clear::Flushing { outstanding, regions }) = &mut intent.clear else { return };
        *outstanding -= 1;
        if *outstanding > 0 {
            return;
        }
        let regions = std::mem::take(regions);
        let regions = intent.untouched(&regions);
        intent.clear = None;
        if !may || regions.is_empty() {
            return;
        }
        if intent.image.events_cleared() < events {
            intent.image.set_events_cleared(events);
            intent.image.set_events(events.max(intent.image.events()));
            let round = intent.page_for_events();
            intent.clear = Some(Clear::Announcing { round, regions });
        } else {
            self.clear_bits(&regions);
        }
    }

    fn clear_bits(&mut self, regions: &BTreeMap<u64, Tick>) {
        let may = self.may_clear();
        let Some(intent) = &mut self.intent else { return };
        intent.clear = None;
        if !may {
            return;
        }
        for region in intent.untouched(regions).into_keys() {
            intent.idle.remove(&region);
            intent.image.put_bit(region, false);
            intent.dirty.insert(intent.image.page_of(region));
            intent.due = true;
        }
    }

    /// Writes the pages that differ, if something waits for that and no other round is under way.
    fn start_round(&mut self) {
        let broken = self.broken || self.config.read_only;
        let Some(intent) = &mut self.intent else { return };
        if intent.round.is_some() || !std::mem::take(&mut intent.due) {
            return;
        }
        if broken {
            // Nothing is written any more, and nobody must wait for it.
            intent.clear = None;
            self.meta.bitmap_given_up();
            self.cache.unblock();
            return;
        }
        let mut to: Vec<(MemberId, u64)> = Vec::new();
        for member in self.live_members() {
            match self.members.get(&member).and_then(|m| bitmap_bytes(&m.superblock)) {
                Some(base) => to.push((member, base)),
                None => self.fail_member(member, "it has no room for the write-intent bitmap"),
            }
        }
        let Some(intent) = &mut self.intent else { return };
        intent.rounds += 1;
        let (regions, pages) = intent.take_round();
        let pages: Vec<(u64, Vec<u8>)> = pages
            .into_iter()
            .map(|page| intent.image.page(page))
            .map(|(at, bytes)| (at, bytes.to_vec()))
            .collect();
        intent.round = Some(Round { outstanding: (to.len() * pages.len()) as u32, regions });
        for (member, base) in to {
            for (at, bytes) in pages.iter().cloned() {
                let (offset, len) = (base + at, bytes.len() as u32);
                let io = self.start_io(Io { member, offset, len, write: true, what: IoFor::IntentWrite });
                self.actions.push_back(Action::WriteMeta { io, member, offset, bytes });
            }
        }
    }

    pub(super) fn intent_written(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "its write-intent bitmap could not be written");
        }
        let Some(intent) = &mut self.intent else { return };
        let Some(round) = &mut intent.round else { return };
        round.outstanding -= 1;
        if round.outstanding > 0 {
            return;
        }
        intent.round = None;
        let done = intent.rounds;
        if let Some(Clear::Announcing { round, regions }) = &intent.clear
            && *round <= done
        {
            let regions = regions.clone();
            self.clear_bits(&regions);
        }
        self.cache.unblock();
        self.bitmap_says_events(done);
    }

    /// Every region is in one place, and what is being written has its bit.
    pub(super) fn check_intent(&self) -> Result<(), String> {
        let Some(intent) = &self.intent else { return Ok(()) };
        for region in intent.image.set_regions() {
            let idle = intent.idle.contains_key(&region);
            let held = intent.users.contains_key(&region) || intent.needed.contains(&region);
            if idle == held {
                return Err(format!("region {region} has a bit and is idle {idle} and held {held}"));
            }
        }
        let regions = intent.users.keys().chain(intent.idle.keys()).chain(&intent.needed);
        for &region in regions {
            if !intent.image.is_set(region) && region < intent.image.regions() {
                return Err(format!("region {region} has no bit"));
            }
        }
        for &region in intent.users.keys() {
            if !intent.is_saved(region) && !self.broken {
                return Err(format!("region {region} is written and its bit is not on the members"));
            }
        }
        Ok(())
    }
}

/// Where the bitmap of a member begins, in bytes from the start of the device.
fn bitmap_bytes(superblock: &Superblock) -> Option<u64> {
    let areas = superblock.areas();
    let area = areas.iter().find(|area| area.kind == AreaKind::Bitmap)?;
    Some(area.sector.saturating_mul(512))
}
