//! Members and the roles they play: failing one, adding one, and when too many are gone.

use super::Array;
use super::bad_blocks::BadLog;
use super::intent::Intent;
use crate::geometry::Geometry;
use crate::{MemberId, NewMember, Notice, Role};
use md_format::{BadBlocks, DevRole, MemberState, SpareError, Superblock};
use std::collections::BTreeSet;
use thiserror::Error;

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Its data are good.
    InSync,
    /// Its data are good below [`Member::rebuilt`] and where the pass under way has been.
    Rebuilding,
    /// It waits for a role.
    Spare,
    /// It is not used any more, and its superblock is never written again: its old event count is what
    /// tells the next assembly.
    Failed,
}

/// One member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) role: Option<Role>,
    pub(super) state: State,
    pub(super) superblock: Superblock,
    /// Where its data begin, in bytes from the start of the device.
    pub(super) data_bytes: u64,
    /// Stripes from the start that are good; all of them once in sync.
    pub(super) rebuilt: u64,
    /// As much of [`Self::rebuilt`] as was flushed, and so may stand in its superblock.
    pub(super) rebuilt_durable: u64,
    /// It is back after a time away, and lacks only what was written in these regions of the write-intent
    /// bitmap; `None` if it has to be rebuilt in full.
    pub(super) missed: Option<BTreeSet<u64>>,
    /// The role that it had before it was away, and can have again by the bitmap.
    pub(super) returning: Option<Role>,
    /// Its superblock says that it is rebuilt in part only.
    pub(super) partial_on_disk: bool,
    /// A rebuild of it met a stripe that could not be recovered.
    pub(super) stuck: bool,
    /// What is bad of it.
    pub(super) bad: BadLog,
    /// I/O errors seen.
    pub(super) errors: u64,
}

/// Why a member can't be failed by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FailRefused {
    /// There is no such member, or it failed before.
    #[error("it is not an active member of this array")]
    Unknown,
    /// The array could not go on without it.
    #[error("the array cannot do without it: another member is missing or still rebuilding already")]
    Needed,
}

/// Why a device can't be added.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum AddRefused {
    /// The array takes no writes, for example because too many members are gone.
    #[error("the array is read-only or has lost more members than parity covers")]
    ReadOnly,
    /// The index is in use.
    #[error("it is a member already")]
    Known,
    /// All numbers of the superblock's role table are taken.
    #[error("the array has no free member number")]
    Full,
    /// The superblock can't be made for this device.
    #[error("{0}")]
    Spare(#[from] SpareError),
}

impl Member {
    pub(super) fn assembled(id: MemberId, found: &md_format::Member, geometry: &Geometry) -> Self {
        let (state, rebuilt) = match found.state {
            MemberState::InSync => (State::InSync, geometry.stripes()),
            MemberState::Rebuilding { recovery_offset } => {
                (State::Rebuilding, geometry.stripes_below(recovery_offset))
            }
            MemberState::Spare => (State::Spare, 0),
        };
        Member {
            id,
            role: found.role.map(Role),
            state,
            superblock: found.superblock.clone(),
            data_bytes: found.superblock.data_offset().saturating_mul(512),
            rebuilt,
            rebuilt_durable: rebuilt,
            missed: None,
            returning: None,
            partial_on_disk: state == State::Rebuilding,
            stuck: false,
            bad: BadLog::new(&found.superblock, found.bad_blocks.clone(), found.bad_block_log.clone()),
            errors: 0,
        }
    }
}

impl Array {
    /// Whether a member takes part: it is in sync or being rebuilt.
    pub(super) fn is_live(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|m| matches!(m.state, State::InSync | State::Rebuilding))
    }

    /// The members that take part.
    pub(super) fn live_members(&self) -> Vec<MemberId> {
        self.members.keys().copied().filter(|&id| self.is_live(id)).collect()
    }

    /// Recomputes whether the array is degraded, and whether it is broken.
    pub(super) fn count_roles(&mut self) {
        let missing = self.roles_not_in_sync();
        self.degraded = missing > 0;
        if missing > usize::from(self.geometry.parity()) && !self.broken {
            self.broken = true;
            self.notice(Notice::ArrayBroken);
        }
    }

    /// Whether parity is left beyond what the missing members need.
    pub(super) fn parity_to_spare(&self) -> bool {
        self.roles_not_in_sync() < usize::from(self.geometry.parity())
    }

    fn roles_not_in_sync(&self) -> usize {
        let in_sync = |id: &MemberId| self.members.get(id).is_some_and(|m| m.state == State::InSync);
        self.roles.iter().filter(|id| !id.as_ref().is_some_and(in_sync)).count()
    }

    /// Whether the operator may fail this member: the array must survive it.
    ///
    /// # Errors
    /// Says why not.
    pub fn check_fail(&self, id: MemberId) -> Result<(), FailRefused> {
        let member =
            self.members.get(&id).filter(|m| m.state != State::Failed).ok_or(FailRefused::Unknown)?;
        let more = usize::from(member.state == State::InSync);
        if self.roles_not_in_sync() + more > usize::from(self.geometry.parity()) && more == 1 {
            return Err(FailRefused::Needed);
        }
        Ok(())
    }

    /// Takes a member out. The others get a superblock that says so before any write that it missed is
    /// answered; once more members are gone than parity covers nothing is written any more, so that the
    /// metadata keep saying who was last complete.
    pub(super) fn fail_member(&mut self, id: MemberId, why: &str) {
        let Some(member) = self.members.get_mut(&id).filter(|m| m.state != State::Failed) else { return };
        member.state = State::Failed;
        let number = member.superblock.dev_number();
        let role = member.role;
        self.meta.set_role(number, DevRole::Faulty);
        if let Some(role) = role {
            if let Some(entry) = self.roles.get_mut(usize::from(role.0)) {
                *entry = None;
            }
            let geometry = &self.geometry;
            self.cache.forget_bad(|stripe| geometry.pattern(stripe).lanes[usize::from(role.0)]);
            self.notice(Notice::MemberFailed { member: id, role, why: why.into() });
        }
        self.count_roles();
        self.sync_member_failed(id);
        if self.broken {
            self.cache.unblock();
            self.answer_parked();
            return;
        }
        self.want_update(false);
        self.meta.failure();
    }

    /// Whether a device can be added.
    ///
    /// # Errors
    /// Says why not.
    pub fn check_add(&self, new: &NewMember) -> Result<(), AddRefused> {
        self.spare_for(new).map(|_| ())
    }

    /// Whether a device can be added and then lacks only what was written since it was a member.
    pub fn would_return(&self, new: &NewMember) -> bool {
        self.check_add(new).is_ok() && self.returns(new).is_some()
    }

    /// The superblock of a device as a spare, and the role that it can have back.
    fn spare_for(&self, new: &NewMember) -> Result<(Option<Role>, Superblock), AddRefused> {
        if self.broken || self.config.read_only || self.stopping {
            return Err(AddRefused::ReadOnly);
        }
        if self.members.contains_key(&new.member) {
            return Err(AddRefused::Known);
        }
        if let Some((role, superblock)) = self.returns(new) {
            return Ok((Some(role), superblock));
        }
        let taken: Vec<u32> = self
            .members
            .values()
            .filter(|m| m.state != State::Failed)
            .map(|m| m.superblock.dev_number())
            .collect();
        let newest = self.meta.newest();
        let number = md_format::free_dev_number(newest, &taken).ok_or(AddRefused::Full)?;
        let uuid = md_format::Uuid(new.device_uuid);
        let seconds = self.unix_seconds();
        Ok((None, md_format::spare_superblock(newest, new.device_sectors, uuid, number, seconds)?))
    }

    /// Adds a device as a spare; a role that is free is given to it at once.
    pub(super) fn add_member(&mut self, new: &NewMember) {
        // The runner asked `check_add`; what was refused there is not taken here either.
        let Ok((returning, superblock)) = self.spare_for(new) else { return };
        self.meta.set_role(superblock.dev_number(), DevRole::Spare);
        let data_bytes = superblock.data_offset().saturating_mul(512);
        let bad = BadLog::new(&superblock, BadBlocks::default(), Vec::new());
        let member = Member {
            id: new.member,
            role: None,
            state: State::Spare,
            superblock,
            data_bytes,
            rebuilt: 0,
            rebuilt_durable: 0,
            missed: None,
            returning,
            partial_on_disk: false,
            stuck: false,
            bad,
            errors: 0,
        };
        self.log_joined(new.member, &member.superblock);
        self.members.insert(new.member, member);
        self.want_update(false);
    }

    /// Whether a role is free and a spare could take it.
    pub(super) fn spare_wanted(&self) -> bool {
        let may = self.degraded && !(self.broken || self.config.read_only || self.stopping);
        may && self.roles.contains(&None) && self.members.values().any(|m| m.state == State::Spare)
    }

    /// Gives free roles to spares. The superblocks say so, with a recovery offset of 0, before the rebuild
    /// writes the first block. It waits for the pass and the update under way: the same update must not
    /// call one member whole and another a target, since a crash could leave either half of it alone.
    pub(super) fn use_spares(&mut self) {
        if !self.spare_wanted() {
            return;
        }
        self.break_off_sync();
        let spare = |m: &&Member| m.state == State::Spare;
        let wiped = self.members.values().filter(spare).all(|m| self.log_wiped(m.id));
        if self.sync.is_some() || self.meta.updating() || !wiped {
            return;
        }
        for index in 0..self.roles.len() {
            if self.roles[index].is_some() {
                continue;
            }
            let role = Role(index as u16);
            let Some(id) = self.spare_for_role(role) else { continue };
            if let Some(intent) = &mut self.intent {
                intent.rewrite();
            }
            let set = self.intent.as_ref().map(Intent::set_regions);
            let Some(spare) = self.members.get_mut(&id) else { continue };
            spare.missed = set.filter(|_| spare.returning.take() == Some(role));
            spare.role = Some(role);
            spare.state = State::Rebuilding;
            (spare.rebuilt, spare.rebuilt_durable) = (0, 0);
            let number = spare.superblock.dev_number();
            self.roles[index] = Some(id);
            self.meta.set_role(number, DevRole::Active(role.0));
            // Another who had this role is blank from now on: once nobody is missing, bits go that it needed.
            let others = self.members.values_mut().filter(|m| m.returning == Some(role));
            others.for_each(|m| m.returning = None);
            self.want_update(false);
        }
    }

    /// A rebuilt member is complete.
    pub(super) fn member_in_sync(&mut self, id: MemberId) {
        let stripes = self.geometry.stripes();
        let Some(member) = self.members.get_mut(&id).filter(|m| m.state == State::Rebuilding) else { return };
        member.state = State::InSync;
        member.rebuilt = stripes;
        member.missed = None;
        if let Some(role) = member.role {
            self.notice(Notice::MemberInSync { member: id, role });
        }
        self.count_roles();
    }
}
