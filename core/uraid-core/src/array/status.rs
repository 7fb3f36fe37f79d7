//! What an operator may ask about the array.

use super::Array;
use super::intent::Intent;
use super::members::State;
use crate::{MemberId, Role, SyncKind};

/// The state of the whole array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArrayState {
    /// Nothing is being written and the members say so.
    Clean,
    /// Writes are going on.
    Active,
    /// More members are gone than parity covers; writes are refused.
    Broken,
}

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberStanding {
    /// Its data are good.
    InSync,
    /// It is being filled.
    Rebuilding,
    /// It waits for a role.
    Spare,
    /// It failed and is not used any more.
    Failed,
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberReport {
    /// The runner's index.
    pub member: MemberId,
    /// Its role, or the one that it had when it failed.
    pub role: Option<Role>,
    /// Where it stands.
    pub standing: MemberStanding,
    /// Its number in the superblock's role table.
    pub dev_number: u32,
    /// Events in its superblock as last written.
    pub events: u64,
    /// I/O errors seen since the start.
    pub errors: u64,
    /// Stripes that are rebuilt.
    pub rebuilt_stripes: u64,
    /// It was away, and only what it missed is rebuilt, or will be once its role is given to it.
    pub returning: bool,
    /// Bytes of its data that its bad-block log tells of.
    pub bad_bytes: u64,
}

/// The background pass under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncReport {
    /// What it does.
    pub kind: SyncKind,
    /// Stripes done.
    pub done_stripes: u64,
    /// Stripes in all.
    pub total_stripes: u64,
    /// Stripes whose parity did not match.
    pub mismatches: u64,
}

/// The write-intent bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitmapReport {
    /// Regions whose bit is set.
    pub set_regions: u64,
    /// Regions in all.
    pub regions: u64,
    /// Bytes of a region on each member.
    pub region_bytes: u64,
}

/// A picture of the array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Of the whole.
    pub state: ArrayState,
    /// Roles without a member in sync.
    pub missing: u16,
    /// Parity is not known to match everywhere: a resync is due or under way.
    pub resync_due: bool,
    /// Events of the last superblock update.
    pub events: u64,
    /// Members by index.
    pub members: Vec<MemberReport>,
    /// The background pass, if one is under way.
    pub sync: Option<SyncReport>,
    /// The write-intent bitmap, if the array has one.
    pub bitmap: Option<BitmapReport>,
    /// Blocks that were recovered and rewritten after a read error.
    pub corrected_blocks: u64,
    /// Requests that were not answered yet.
    pub requests_open: usize,
    /// Stripes that wait for a cache slot.
    pub slot_waiters: usize,
}

impl Array {
    /// A picture of the array now.
    pub fn status(&self) -> Status {
        let in_sync = self.members.values().filter(|m| m.state == State::InSync).count() as u16;
        Status {
            state: match (self.broken, self.meta.active()) {
                (true, _) => ArrayState::Broken,
                (false, true) => ArrayState::Active,
                (false, false) => ArrayState::Clean,
            },
            missing: self.geometry.members().saturating_sub(in_sync),
            resync_due: self.resync_due(),
            events: self.meta.events(),
            members: self
                .members
                .values()
                .map(|m| MemberReport {
                    member: m.id,
                    role: m.role,
                    standing: match m.state {
                        State::InSync => MemberStanding::InSync,
                        State::Rebuilding => MemberStanding::Rebuilding,
                        State::Spare => MemberStanding::Spare,
                        State::Failed => MemberStanding::Failed,
                    },
                    dev_number: m.superblock.dev_number(),
                    events: m.superblock.events(),
                    errors: m.errors,
                    rebuilt_stripes: m.rebuilt,
                    returning: self.is_returning(m),
                    bad_bytes: self.bad_bytes(m),
                })
                .collect(),
            sync: self.sync.as_ref().map(|s| SyncReport {
                kind: s.kind,
                done_stripes: s.cursor,
                total_stripes: self.geometry.stripes(),
                mismatches: s.mismatches,
            }),
            bitmap: self.intent.as_ref().map(Intent::report),
            corrected_blocks: self.corrected,
            requests_open: self.requests.len(),
            slot_waiters: self.cache.waiting(),
        }
    }
}
