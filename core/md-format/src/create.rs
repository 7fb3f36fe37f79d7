//! New superblocks: for the members of a new array, and for a spare that joins one.
//!
//! Offsets are chosen as mdadm chooses them, so that a member looks the same whoever made it.

use crate::features::Features;
use crate::level::{Layout, Level};
use crate::location::Minor;
use crate::superblock::{DevRole, Superblock};
use crate::uuid::Uuid;
use crate::wire::{self, HEAD_BYTES, Head, SECTOR};
use thiserror::Error;

/// What array to make. Lengths are in sectors.
#[derive(Clone, Debug)]
pub struct CreateParams<'a> {
    /// The level.
    pub level: Level,
    /// The layout; [`Layout::default_for`] unless the operator wants another.
    pub layout: Layout,
    /// Chunk: a power of two from 4 KiB to 16 MiB.
    pub chunk_sectors: u32,
    /// The name: at most 32 bytes, no `/`, no control characters.
    pub name: &'a str,
    /// Size of each member device, in the order of the roles.
    pub members: &'a [u64],
    /// Sectors to use of each member; all that fits on the smallest if `None`.
    pub size_sectors: Option<u64>,
    /// Identity of the array; random.
    pub set_uuid: Uuid,
    /// Identity of each member; random, as many as there are members.
    pub device_uuids: &'a [Uuid],
    /// Seconds since 1970.
    pub now: u64,
    /// Whether parity is known to be good already (all members zero, or the operator says so); otherwise
    /// the array starts with a resync.
    pub clean: bool,
}

/// Why an array cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Too few or too many members.
    #[error("{level} needs {min} to {max} members, {got} were named")]
    MemberCount {
        /// The level.
        level: Level,
        /// The fewest.
        min: u16,
        /// The most.
        max: u16,
        /// Members named.
        got: usize,
    },
    /// The layout does not belong to the level.
    #[error("layout {layout} does not exist on {level}")]
    Layout {
        /// The level.
        level: Level,
        /// The layout.
        layout: Layout,
    },
    /// The chunk is not a power of two from 4 KiB to 16 MiB.
    #[error("a chunk of {bytes} bytes is not possible: take a power of two from 4 KiB to 16 MiB")]
    Chunk {
        /// Bytes of the chunk.
        bytes: u64,
    },
    /// The name cannot be stored.
    #[error("the name {name:?} is not possible: take 1 to 32 bytes without '/' and control characters")]
    Name {
        /// The name.
        name: String,
    },
    /// A member is too small.
    #[error("member {index} is too small: it has {device_sectors} sectors and needs {needed}")]
    MemberTooSmall {
        /// Index among the members.
        index: usize,
        /// Its sectors.
        device_sectors: u64,
        /// Sectors needed.
        needed: u64,
    },
    /// Less than a chunk of each member would be used.
    #[error("a size of {size_sectors} sectors a member is less than the chunk of {chunk_sectors}")]
    Size {
        /// Sectors asked for.
        size_sectors: u64,
        /// Sectors of a chunk.
        chunk_sectors: u32,
    },
    /// The array would be larger than 64-bit byte addresses reach.
    #[error("the array would be too large")]
    TooLarge,
    /// Not as many device UUIDs as members, or one twice.
    #[error("there must be one device UUID a member, and no two alike")]
    DeviceUuids,
}

/// Why a device cannot become a spare of an array.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SpareError {
    /// The device is too small.
    #[error("the device is too small: it has {device_sectors} sectors and needs {needed}")]
    TooSmall {
        /// Its sectors.
        device_sectors: u64,
        /// Sectors needed.
        needed: u64,
    },
    /// The role table cannot hold the number, or another member has it.
    #[error("member number {0} is taken or beyond the end of the role table")]
    DevNumber(u32),
}

/// Entries of a role table that fills whole sectors and has room for `members` members.
pub(crate) fn table_entries(members: u32) -> u32 {
    let bytes = (HEAD_BYTES as u64 + u64::from(members) * 2).next_multiple_of(SECTOR);
    let entries = (bytes - HEAD_BYTES as u64) / 2;
    u32::try_from(entries).unwrap_or(u32::MAX).min(u32::from(wire::MAX_DEVICES))
}

/// Sectors of a superblock with a role table of this length.
pub(crate) fn table_sectors(entries: u32) -> u64 {
    (HEAD_BYTES as u64 + u64::from(entries) * 2).div_ceil(SECTOR)
}

/// Makes the superblocks of a new array, version 1.2, one a member in the order of the roles: member
/// number and role are the index.
///
/// # Errors
/// What was asked for is impossible.
pub fn plan_create(params: &CreateParams<'_>) -> Result<Vec<Superblock>, CreateError> {
    let _ = (params, Features::NONE, Minor::V2, DevRole::Spare, Head([0; HEAD_BYTES]));
    Err(CreateError::TooLarge)
}

/// Makes the superblock of a device that joins `array` as a spare: the array-wide fields and the data
/// offset are the array's, `dev_number` is a free one ([`free_dev_number`]).
///
/// # Errors
/// The device is too small, or the number is not free.
pub fn spare_superblock(
    array: &Superblock,
    device_sectors: u64,
    device_uuid: Uuid,
    dev_number: u32,
    now: u64,
) -> Result<Superblock, SpareError> {
    let _ = (array, device_sectors, device_uuid, now);
    Err(SpareError::DevNumber(dev_number))
}

/// The number that md gives to a device that joins: the first at or above the number of roles that is
/// not in `taken` and has no entry in the role table.
pub fn free_dev_number(array: &Superblock, taken: &[u32]) -> Option<u32> {
    (u32::from(array.raid_disks())..u32::from(wire::MAX_DEVICES))
        .find(|&number| !taken.contains(&number) && array.role_of(number) == DevRole::Spare)
}
