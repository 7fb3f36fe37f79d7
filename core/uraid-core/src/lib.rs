//! RAID 4/5/6 array state machine: events in, actions out.
#![forbid(unsafe_code)]

mod array;
pub mod blocks;
pub mod decide;
mod geometry;
mod plan;
mod seam;
mod slab;

pub use array::{
    AddRefused, Array, ArrayConfig, ArrayState, BitmapReport, FailRefused, MemberReport, MemberStanding,
    Redundancy, ScrubRefused, StartError, Status, SyncReport,
};
pub use geometry::{BLOCK, Geometry, GeometryError, MAX_MEMBERS, MAX_STRIP, Piece, RowPattern};

pub use seam::*;

/// A device that the operator adds; see [`Event::AddMember`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMember {
    /// The index under which the runner attached it.
    pub member: MemberId,
    /// Its size in sectors of 512 bytes.
    pub device_sectors: u64,
    /// A fresh identity for its superblock.
    pub device_uuid: [u8; 16],
    /// Its superblock, if it was a member of this array and may be taken back with what it holds: then only
    /// what was written since is copied, as far as a write-intent bitmap tells. `None` for a blank device.
    pub old: Option<Box<md_format::Superblock>>,
}
