//! A member that was away and comes back: with a write-intent bitmap only what was written meanwhile is copied.
//!
//! Its data are the array's as of the count of events in its superblock, but for the regions with a bit: a bit
//! is set before its region is written, and none is cleared while a member is missing. The bits go back far
//! enough if none was cleared at a higher count of events than it has (docs/on-disk-format.md, "Write-intent bitmap").

use super::Array;
use super::members::{Member, State};
use crate::{MemberId, NewMember, Role};
use md_format::{DevRole, Features, Superblock};

impl Array {
    /// The role that a device had and can have again by the bitmap, and the superblock with which it does;
    /// `None` if it has to be rebuilt in full.
    pub(super) fn returns(&self, new: &NewMember) -> Option<(Role, Superblock)> {
        let intent = self.intent.as_ref()?;
        let old = new.old.as_deref()?;
        let newest = self.meta.newest();
        let DevRole::Active(role) = old.role() else { return None };
        let free = self.roles.get(usize::from(role)).is_some_and(Option::is_none);
        // What its bad-block log says is not at hand here: then all of it is rebuilt.
        let whole = old.recovery_offset().is_none() && !old.features().contains(Features::BAD_BLOCKS);
        let covered = (intent.events_cleared()..=self.meta.events()).contains(&old.events());
        if !(free && whole && covered && describe_the_same(old, newest) && self.knows_us(old)) {
            return None;
        }
        let number = old.dev_number();
        let taken = |m: &super::Member| m.state != State::Failed && m.superblock.dev_number() == number;
        if matches!(newest.role_of(number), DevRole::Active(_)) || self.members.values().any(taken) {
            return None;
        }
        let mut superblock = old.clone();
        superblock.catch_up(newest);
        superblock.set_role(number, DevRole::Spare).ok()?;
        // What it says of its areas is new to it: it passes the checks that it will have to pass when it is read.
        let checked = Superblock::parse(&superblock.encode(), superblock.location(), new.device_sectors);
        Some((Role(role), checked.ok()?))
    }

    /// The members that assembly found on their way back.
    pub(super) fn note_returning(&mut self) {
        let Some(intent) = &self.intent else { return };
        for member in self.members.values_mut().filter(|m| m.state == State::Rebuilding) {
            if member.superblock.features().contains(Features::RECOVERY_BITMAP) {
                member.missed = Some(intent.set_regions());
            }
        }
    }

    /// Whether only what it missed is written to a member: it is being filled so, or is a spare that gets back the role
    /// that it had. It waits for that until superblocks say that it is here.
    pub(super) fn is_returning(&self, member: &Member) -> bool {
        let gets = |role: Role| {
            let free = self.roles.get(usize::from(role.0)).is_some_and(Option::is_none);
            free && self.spare_for_role(role) == Some(member.id)
        };
        match member.state {
            State::Rebuilding => member.missed.is_some(),
            State::Spare => member.returning.is_some_and(gets),
            State::InSync | State::Failed => false,
        }
    }

    /// Whether a device knows everybody who is here now. If it calls one of us failed, or knows another in the
    /// same place, it may have been written without us.
    fn knows_us(&self, old: &Superblock) -> bool {
        self.members.values().filter(|m| self.is_live(m.id)).all(|m| {
            m.role.is_some_and(|role| old.role_of(m.superblock.dev_number()) == DevRole::Active(role.0))
        })
    }

    /// The spare that gets a free role: the one that had it, else one that had none that is free.
    pub(super) fn spare_for_role(&self, role: Role) -> Option<MemberId> {
        let spares = || self.members.values().filter(|m| m.state == State::Spare);
        let had_it = spares().find(|m| m.returning == Some(role));
        let had_a_free_one = |had: Role| self.roles.get(usize::from(had.0)).is_some_and(Option::is_none);
        had_it.or_else(|| spares().find(|m| !m.returning.is_some_and(had_a_free_one))).map(|m| m.id)
    }
}

fn describe_the_same(old: &Superblock, newest: &Superblock) -> bool {
    let shape = |sb: &Superblock| {
        let sizes = (sb.size_sectors(), sb.chunk_sectors(), sb.raid_disks());
        (sb.set_uuid(), sb.ctime(), sb.level(), sb.layout(), sizes)
    };
    shape(old) == shape(newest)
}
