//! Why bytes are not a usable superblock.

use crate::areas::AreaKind;
use crate::location::Minor;
use crate::other::OtherMetadata;
use thiserror::Error;

/// What kind of trouble a [`SuperblockError`] is, for callers that only need to know who is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// The device could not be read; nothing is known about it.
    Unreadable,
    /// There is no superblock: the device is blank or belongs to something else.
    Absent,
    /// There is a superblock, and it is damaged.
    Damaged,
    /// The superblock is sound but describes something that this crate does not handle.
    Unsupported,
    /// The superblock is sound but the device is smaller than it says.
    TooSmall,
}

/// Why bytes are not a usable superblock.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum SuperblockError {
    /// The device could not be read. Never made here: it lets a caller hand an I/O error to
    /// [`crate::assemble`] beside the superblocks it did read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The device is too small to hold a superblock.
    #[error("no superblock: the device has {device_sectors} sectors, which is too small for one")]
    NoRoom {
        /// Sectors of the device.
        device_sectors: u64,
    },
    /// The magic number is missing.
    #[error("no md superblock found")]
    NoMagic,
    /// The bytes handed in end before the superblock does.
    #[error("the superblock is cut short: {got} bytes of {need}")]
    Truncated {
        /// Bytes there are.
        got: usize,
        /// Bytes the superblock has.
        need: usize,
    },
    /// A metadata version other than 1.x.
    #[error("metadata version {0} is not supported, only 1.x is")]
    Version(u32),
    /// Metadata that are not a superblock of version 1.x at all.
    #[error("{0}")]
    Other(OtherMetadata),
    /// The role table is larger than the superblock can be.
    #[error("damaged superblock: a role table of {0} entries is impossible")]
    TableTooLong(u32),
    /// The superblock says that it is somewhere else: a copy, a wrong partition, or damage.
    #[error(
        "the superblock found at sector {found} says it belongs at sector {says}: this may be a part of a device or a copy"
    )]
    Misplaced {
        /// Where it was found.
        found: u64,
        /// Where it says it is.
        says: u64,
    },
    /// Feature bits that no known md uses.
    #[error("feature bits {0:#x} are unknown: the array needs newer software")]
    UnknownFeatures(u32),
    /// The checksum does not match.
    #[error("damaged superblock: checksum is {stored:08x}, the contents say {computed:08x}")]
    Checksum {
        /// The checksum in the superblock.
        stored: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// Fewer than ten data sectors.
    #[error("damaged superblock: a data area of {0} sectors is too small")]
    DataSize(u64),
    /// Bytes that must be zero are not, which a newer version may have written.
    #[error("reserved bytes are not zero: the superblock is damaged or was written by newer software")]
    Padding,
    /// Data and superblock would overlap.
    #[error(
        "damaged superblock: data of {data_size} sectors at sector {data_offset} overlap the superblock at {super_offset}"
    )]
    Overlap {
        /// First data sector.
        data_offset: u64,
        /// Data sectors.
        data_size: u64,
        /// First sector of the superblock.
        super_offset: u64,
    },
    /// The place of the bad-block log is impossible.
    #[error("damaged superblock: a bad-block log of {sectors} sectors at offset {offset} is impossible")]
    BadBlockLog {
        /// Sectors of the log.
        sectors: u16,
        /// Sectors from the superblock.
        offset: i32,
    },
    /// The place of something beside the superblock is impossible: outside the room for it, or taken.
    #[error("damaged superblock: a {kind} at offset {offset} is impossible")]
    Area {
        /// What should be there.
        kind: AreaKind,
        /// Sectors from the superblock.
        offset: i64,
    },
    /// The raid0 feature on a level that is not raid0.
    #[error("damaged superblock: it has a raid0 feature on another level")]
    Raid0Feature,
    /// The device ends before the data area does.
    #[error(
        "the device is too small: it has {device_sectors} sectors and the superblock (version {minor}) needs {needed}"
    )]
    DeviceTooSmall {
        /// Sectors of the device.
        device_sectors: u64,
        /// Sectors that the superblock asks for.
        needed: u64,
        /// Version of the superblock.
        minor: Minor,
    },
    /// A level without parity, or one that is unknown.
    #[error("level {} is not supported, only raid4, raid5 and raid6 are; use Linux md for it", level_name(*.0))]
    Level(i32),
    /// A layout that the level does not have.
    #[error("layout {layout} does not exist on raid{level}")]
    Layout {
        /// Number of the level.
        level: i32,
        /// Number of the layout.
        layout: u32,
    },
    /// A chunk that is not a power of two of at least 4 KiB.
    #[error("a chunk of {0} sectors is not a power of two of at least 8 sectors (4 KiB)")]
    Chunk(u32),
    /// A number of members that the level cannot have.
    #[error("raid{level} with {raid_disks} members is impossible")]
    RaidDisks {
        /// Number of the level.
        level: i32,
        /// Roles of the array.
        raid_disks: u32,
    },
    /// Less than one chunk of each member is used, or more than can be addressed.
    #[error("damaged superblock: {size} used sectors a member with a chunk of {chunk_sectors} is impossible")]
    Size {
        /// Used sectors of a member.
        size: u64,
        /// Sectors of a chunk.
        chunk_sectors: u32,
    },
}

impl SuperblockError {
    /// What kind of trouble this is.
    pub fn fault(&self) -> Fault {
        match self {
            SuperblockError::Unreadable(_) => Fault::Unreadable,
            SuperblockError::NoRoom { .. } | SuperblockError::NoMagic => Fault::Absent,
            SuperblockError::Version(_)
            | SuperblockError::Other(_)
            | SuperblockError::UnknownFeatures(_)
            | SuperblockError::Padding
            | SuperblockError::Level(_) => Fault::Unsupported,
            SuperblockError::DeviceTooSmall { .. } => Fault::TooSmall,
            SuperblockError::Truncated { .. }
            | SuperblockError::TableTooLong(_)
            | SuperblockError::Misplaced { .. }
            | SuperblockError::Checksum { .. }
            | SuperblockError::DataSize(_)
            | SuperblockError::Overlap { .. }
            | SuperblockError::BadBlockLog { .. }
            | SuperblockError::Area { .. }
            | SuperblockError::Raid0Feature
            | SuperblockError::Layout { .. }
            | SuperblockError::Chunk(_)
            | SuperblockError::RaidDisks { .. }
            | SuperblockError::Size { .. } => Fault::Damaged,
        }
    }
}

/// md's name of a level number.
pub(crate) fn level_name(number: i32) -> String {
    match number {
        -4 => "multipath".to_owned(),
        -1 => "linear".to_owned(),
        0 | 1 | 4 | 5 | 6 | 10 => format!("raid{number}"),
        _ => format!("number {number}"),
    }
}
