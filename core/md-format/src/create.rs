//! New superblocks: for the members of a new array, and for a spare that joins one.
//!
//! Offsets are chosen as mdadm chooses them, so that a member looks the same whoever made it.

use crate::bitmap::{self, NewBitmapError};
use crate::error::SuperblockError;
use crate::features::Features;
use crate::level::{Layout, Level};
use crate::location::{Location, MIN_DEVICE_SECTORS, Minor, candidates};
use crate::superblock::{DevRole, SECONDS, Superblock};
use crate::uuid::Uuid;
use crate::wire::{self, HEAD_BYTES, Head, SECTOR};
use std::ops::RangeInclusive;
use thiserror::Error;

/// Chunks of a new array, in sectors: 4 KiB to 16 MiB.
const CHUNKS: RangeInclusive<u32> = 8..=32_768;

/// Bytes of the name field.
const NAME_BYTES: usize = 32;

/// Sectors of a GiB.
const GIB: u64 = 1 << 21;

/// Sectors of the partial parity log of a new array.
const PPL_SECTORS: u64 = 2048;

/// Sectors of a new bad-block log.
const LOG_SECTORS: u64 = 8;

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
    /// Where the superblocks lie; [`Minor::V2`] unless the operator wants another place.
    pub minor: Minor,
    /// Whether it gets a write-intent bitmap.
    pub bitmap: IntentBitmap,
    /// Whether it gets a partial parity log; RAID 5 without a bitmap can have one.
    pub ppl: bool,
}

/// Which write-intent bitmap a new array gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IntentBitmap {
    /// None.
    #[default]
    None,
    /// One on every member, in front of the data.
    Internal {
        /// Bytes of a region; what mdadm would take if `None`.
        chunk_bytes: Option<u64>,
    },
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
    /// It cannot have the bitmap that was asked for.
    #[error("{0}")]
    Bitmap(#[from] NewBitmapError),
    /// It cannot have the partial parity log that was asked for.
    #[error("a partial parity log is for RAID 5 of at most 64 members without a bitmap")]
    Ppl,
    /// The array would be larger than 64-bit byte addresses reach.
    #[error("the array would be too large")]
    TooLarge,
    /// Not as many device UUIDs as members, or one twice.
    #[error("there must be one device UUID a member, and no two alike")]
    DeviceUuids,
    /// The superblocks would not pass the checks that they have to pass when they are read.
    #[error("this array is not possible: {0}")]
    Impossible(SuperblockError),
}

/// Why a device cannot become a spare of an array.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
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
    /// The superblock would not pass the checks that it has to pass when it is read.
    #[error("the device cannot join: {0}")]
    Impossible(SuperblockError),
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

/// Makes the superblocks of a new array, one a member in the order of the roles: member number and role are the
/// index. The array starts at event 1, clean or waiting for a resync from 0.
///
/// # Errors
/// What was asked for is impossible.
pub fn plan_create(params: &CreateParams<'_>) -> Result<Vec<Superblock>, CreateError> {
    check_params(params)?;
    let smallest = params.members.iter().copied().min().unwrap_or(0);
    let data_offset = match params.minor {
        Minor::V0 => 0,
        Minor::V1 | Minor::V2 => data_offset(smallest, params.chunk_sectors, room_beside(params, smallest)),
    };
    let size = used_sectors(params, smallest, data_offset)?;
    let (head, beside) = array_head(params, data_offset, size)?;
    let members = params.members.iter().zip(params.device_uuids).enumerate();
    members.map(|(index, (&sectors, uuid))| member(params, head, beside, index, sectors, *uuid)).collect()
}

/// A member of a new array that has more room than the array uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnusedRoom {
    /// Index among the members.
    pub index: usize,
    /// Sectors that are left over.
    pub unused_sectors: u64,
}

/// The members of a planned array that leave more than a hundredth of their room unused, because the
/// smallest member (or the size that was asked for) sets the size of all. Worth a note to the operator.
pub fn unused_room(planned: &[Superblock]) -> Vec<UnusedRoom> {
    let rooms = planned.iter().enumerate().map(|(index, superblock)| {
        let unused_sectors = superblock.data_size().saturating_sub(superblock.size_sectors());
        (UnusedRoom { index, unused_sectors }, superblock.size_sectors() / 100)
    });
    rooms.filter(|(room, little)| room.unused_sectors > *little).map(|(room, _)| room).collect()
}

fn check_params(params: &CreateParams<'_>) -> Result<(), CreateError> {
    let level = params.level;
    let (min, max) = (fewest_members(level), level.max_members());
    let got = params.members.len();
    if !(usize::from(min)..=usize::from(max)).contains(&got) {
        return Err(CreateError::MemberCount { level, min, max, got });
    }
    if !params.layout.valid_for(level) {
        return Err(CreateError::Layout { level, layout: params.layout });
    }
    if !params.chunk_sectors.is_power_of_two() || !CHUNKS.contains(&params.chunk_sectors) {
        return Err(CreateError::Chunk { bytes: u64::from(params.chunk_sectors) * SECTOR });
    }
    let name_ok = (1..=NAME_BYTES).contains(&params.name.len())
        && !params.name.chars().any(|c| c == '/' || c.is_control());
    if !name_ok {
        return Err(CreateError::Name { name: params.name.to_owned() });
    }
    if params.ppl && (params.level != Level::Raid5 || got > 64 || params.bitmap != IntentBitmap::None) {
        return Err(CreateError::Ppl);
    }
    let distinct: std::collections::BTreeSet<_> = params.device_uuids.iter().collect();
    if distinct.len() != got || params.device_uuids.len() != got {
        return Err(CreateError::DeviceUuids);
    }
    Ok(())
}

/// The fewest members of a new array. md starts RAID 4 and 5 with two, which is a slow mirror.
fn fewest_members(level: Level) -> u16 {
    level.min_members().max(3)
}

/// Sectors left for a bitmap on a device (or an array) of this size, as mdadm leaves them.
fn bitmap_room(sectors: u64) -> u64 {
    match sectors {
        0..128 => 0,
        _ if sectors - 128 >= 200 * GIB => 256,
        _ if sectors - 8 > 8 * GIB => 128,
        _ => 8,
    }
}

/// The data offset that mdadm chooses: superblock, room for a bitmap or a log, and headroom for a later reshape
/// that shrinks with the device but not below four chunks, rounded up to a MiB. mdadm looks at the first
/// member; the smallest is taken here so that the order of the members does not matter.
fn data_offset(device_sectors: u64, chunk_sectors: u32, room: u64) -> u64 {
    let chunk_kib = u64::from(chunk_sectors) / 2;
    let mut headroom: u64 = 262_144;
    while headroom * 1024 > device_sectors && headroom / 2 >= chunk_kib * 4 {
        headroom /= 2;
    }
    (24 + room + headroom).next_multiple_of(2048)
}

/// Sectors that are kept beside the superblock for a bitmap or a log, by the size of a device or of the array.
fn room_beside(params: &CreateParams<'_>, sectors: u64) -> u64 {
    if params.ppl { PPL_SECTORS } else { bitmap_room(sectors) }
}

/// Sectors of a device that data can have.
fn data_room(params: &CreateParams<'_>, device_sectors: u64, data_offset: u64) -> u64 {
    let end = match params.minor {
        Minor::V1 | Minor::V2 => device_sectors,
        Minor::V0 => match location(params.minor, device_sectors) {
            // In front of the superblock are the bad-block log and what lies beside it.
            Some(at) => at.sector.saturating_sub(LOG_SECTORS + room_beside(params, device_sectors)),
            None => 0,
        },
    };
    end.saturating_sub(data_offset)
}

fn location(minor: Minor, device_sectors: u64) -> Option<Location> {
    candidates(device_sectors).into_iter().find(|at| at.minor == minor)
}

/// What is used of each member, in whole chunks, having checked that every member has it.
fn used_sectors(params: &CreateParams<'_>, smallest: u64, data_offset: u64) -> Result<u64, CreateError> {
    let chunk = u64::from(params.chunk_sectors);
    let wanted = params.size_sectors.unwrap_or_else(|| data_room(params, smallest, data_offset).max(chunk));
    let size = wanted / chunk * chunk;
    if size == 0 {
        return Err(CreateError::Size { size_sectors: wanted, chunk_sectors: params.chunk_sectors });
    }
    // Behind the start of a superblock at the end lie 16 to 23 sectors.
    let behind = if params.minor == Minor::V0 { LOG_SECTORS + room_beside(params, size) + 23 } else { 0 };
    let needed = data_offset.checked_add(size).and_then(|sum| sum.checked_add(behind));
    let needed = needed.ok_or(CreateError::TooLarge)?;
    let short = |&(_, &sectors): &(usize, &u64)| data_room(params, sectors, data_offset) < size;
    match params.members.iter().enumerate().find(short) {
        Some((index, &device_sectors)) => Err(CreateError::MemberTooSmall { index, device_sectors, needed }),
        None => Ok(size),
    }
}

/// The fields that all members have in common, and the sectors of what lies beside the superblock.
fn array_head(params: &CreateParams<'_>, data_offset: u64, size: u64) -> Result<(Head, u64), CreateError> {
    let members = params.members.len() as u32;
    let mut head = Head([0; HEAD_BYTES]);
    head.put(wire::MAGIC, wire::MAGIC_VALUE.to_le_bytes());
    head.put(wire::MAJOR, 1_u32.to_le_bytes());
    head.put(wire::SET_UUID, params.set_uuid.0);
    let mut name = [0; NAME_BYTES];
    name.iter_mut().zip(params.name.bytes()).for_each(|(to, from)| *to = from);
    head.put(wire::SET_NAME, name);
    head.put(wire::CTIME, (params.now & SECONDS).to_le_bytes());
    head.put(wire::UTIME, (params.now & SECONDS).to_le_bytes());
    head.put(wire::LEVEL, params.level.number().to_le_bytes());
    head.put(wire::LAYOUT, params.layout.number().to_le_bytes());
    head.put(wire::SIZE, size.to_le_bytes());
    head.put(wire::CHUNK, params.chunk_sectors.to_le_bytes());
    head.put(wire::RAID_DISKS, members.to_le_bytes());
    head.put(wire::DATA_OFFSET, data_offset.to_le_bytes());
    head.put(wire::BBLOG_SIZE, (LOG_SECTORS as u16).to_le_bytes());
    let room = bitmap_room(size);
    let beside = match params.bitmap {
        IntentBitmap::None if params.ppl => PPL_SECTORS,
        IntentBitmap::None => room,
        IntentBitmap::Internal { chunk_bytes } => {
            bitmap::planned_bytes(size, room * SECTOR, chunk_bytes)?.1 / SECTOR
        }
    };
    // Seen from the superblock: behind it and far before the data, or in front of it and behind the data. At most
    // 2048 sectors and the log, so the narrowest field holds it.
    let (first, log) = match params.minor {
        Minor::V0 => (-((beside + LOG_SECTORS) as i32), -(LOG_SECTORS as i32)),
        Minor::V1 | Minor::V2 => (8, 8 + beside as i32),
    };
    head.put(wire::BBLOG_OFFSET, log.to_le_bytes());
    if params.ppl {
        head.put(wire::FEATURES, Features::MULTIPLE_PPLS.bits().to_le_bytes());
        head.put(wire::PPL_OFFSET, (first as i16).to_le_bytes());
        head.put(wire::PPL_SIZE, (PPL_SECTORS as u16).to_le_bytes());
    } else if params.bitmap != IntentBitmap::None {
        head.put(wire::FEATURES, Features::BITMAP.bits().to_le_bytes());
        head.put(wire::BITMAP_OFFSET, first.to_le_bytes());
    }
    head.put(wire::EVENTS, 1_u64.to_le_bytes());
    let resync_offset = if params.clean { wire::CLEAN } else { 0 };
    head.put(wire::RESYNC_OFFSET, resync_offset.to_le_bytes());
    head.put(wire::MAX_DEV, table_entries(members).to_le_bytes());
    Ok((head, beside))
}

/// The superblock of one member of a new array.
fn member(
    params: &CreateParams<'_>,
    mut head: Head,
    beside: u64,
    index: usize,
    device_sectors: u64,
    device_uuid: Uuid,
) -> Result<Superblock, CreateError> {
    let no_room = CreateError::Impossible(SuperblockError::NoRoom { device_sectors });
    let at = location(params.minor, device_sectors).ok_or(no_room)?;
    let end = match params.minor {
        Minor::V0 => at.sector.saturating_sub(LOG_SECTORS + beside),
        Minor::V1 | Minor::V2 => device_sectors,
    };
    let data_size = end.saturating_sub(head.u64(wire::DATA_OFFSET));
    head.put(wire::SUPER_OFFSET, at.sector.to_le_bytes());
    head.put(wire::DATA_SIZE, data_size.to_le_bytes());
    head.put(wire::DEV_NUMBER, (index as u32).to_le_bytes());
    head.put(wire::DEVICE_UUID, device_uuid.0);
    let entries = head.u32(wire::MAX_DEV) as usize;
    // The count of members is bounded by the role table, so an index is a role.
    let roles = (0..entries).map(|at| if at < params.members.len() { at as u16 } else { wire::ROLE_SPARE });
    finish(head, roles.collect(), at, device_sectors).map_err(CreateError::Impossible)
}

/// Seals a new superblock and lets it pass the checks that a superblock from a disk has to pass.
fn finish(
    mut head: Head,
    roles: Vec<u16>,
    at: Location,
    sectors: u64,
) -> Result<Superblock, SuperblockError> {
    let checksum = wire::checksum(&head, &roles);
    head.put(wire::CHECKSUM, checksum.to_le_bytes());
    let mut bytes = head.0.to_vec();
    bytes.extend(roles.iter().flat_map(|role| role.to_le_bytes()));
    bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
    Superblock::parse(&bytes, at, sectors)
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
    if array.role_of(dev_number) != DevRole::Spare {
        return Err(SpareError::DevNumber(dev_number));
    }
    let (at, data_size) = spare_areas(array, device_sectors)?;
    let mut spare = array.clone();
    spare.set_recovery_offset(None);
    spare.set_role(dev_number, DevRole::Spare).map_err(|_| SpareError::DevNumber(dev_number))?;
    spare.set_utime(now);
    let own = Features::BAD_BLOCKS | Features::REPLACEMENT | Features::RECOVERY_BITMAP;
    let mut head = spare.head;
    head.put(wire::FEATURES, spare.features().without(own).bits().to_le_bytes());
    head.put(wire::SUPER_OFFSET, at.sector.to_le_bytes());
    head.put(wire::DATA_SIZE, data_size.to_le_bytes());
    head.put(wire::DEV_NUMBER, dev_number.to_le_bytes());
    head.put(wire::DEVICE_UUID, device_uuid.0);
    head.put(wire::DEVFLAGS, [0]);
    head.put(wire::CORRECTED_READS, [0; 4]);
    finish(head, spare.roles, at, device_sectors).map_err(SpareError::Impossible)
}

/// Where the superblock of a spare goes and how many sectors it has for data.
fn spare_areas(array: &Superblock, device_sectors: u64) -> Result<(Location, u64), SpareError> {
    let size = array.size_sectors();
    let too_small = |needed| SpareError::TooSmall { device_sectors, needed };
    let at_end = array.minor() == Minor::V0;
    // A superblock at the end lies on a multiple of 8 sectors and leaves 16 to 23 behind its start; in
    // front of it are the bad-block log (8) and, where there is room, space for a bitmap.
    let reserve = if at_end { 8 + 23 } else { 0 };
    let needed = array.data_offset().saturating_add(size).saturating_add(reserve).max(MIN_DEVICE_SECTORS);
    if device_sectors < needed {
        return Err(too_small(needed));
    }
    let Some(at) = candidates(device_sectors).into_iter().find(|at| at.minor == array.minor()) else {
        return Err(too_small(needed));
    };
    let data_size = if at_end {
        let room = at.sector.saturating_sub(8).saturating_sub(array.data_offset());
        room.saturating_sub(bitmap_room(device_sectors)).max(size.min(room))
    } else {
        device_sectors.saturating_sub(array.data_offset())
    };
    Ok((at, data_size))
}

/// The number that md gives to a device that joins: the first at or above the number of roles that is
/// not in `taken` and has no entry in the role table.
pub fn free_dev_number(array: &Superblock, taken: &[u32]) -> Option<u32> {
    (u32::from(array.raid_disks())..u32::from(wire::MAX_DEVICES))
        .find(|&number| !taken.contains(&number) && array.role_of(number) == DevRole::Spare)
}
