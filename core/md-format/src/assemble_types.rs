//! The words of an assembly: what was found, what came of it, and why not.

use crate::areas::Areas;
use crate::assemble_bitmap::ArrayBitmap;
use crate::assemble_ppl::ArrayPpl;
use crate::bad_blocks::BadBlocks;
use crate::bitmap::BitmapError;
use crate::error::SuperblockError;
use crate::level::Level;
use crate::superblock::Superblock;
use crate::unsupported::Unsupported;
use crate::uuid::Uuid;
use std::fmt;
use thiserror::Error;

/// One device that was named for the assembly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// What to call it in messages, usually its path.
    pub label: String,
    /// Its size in sectors.
    pub device_sectors: u64,
    /// Its superblock, or why there is none ([`SuperblockError::Unreadable`] for an I/O error).
    pub superblock: Result<Superblock, SuperblockError>,
    /// Two values that are equal for two paths of the same device, such as the device and inode numbers
    /// of a file. `None` if nothing is known.
    pub identity: Option<(u64, u64)>,
    /// What it keeps beside its superblock ([`Superblock::areas`]), as it was read.
    pub areas: Areas,
}

/// How to assemble.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AssembleOptions {
    /// Start a dirty and degraded array. Stripes that were being written when the array stopped may then
    /// give wrong data for the missing members.
    pub force: bool,
    /// Only this array is wanted; without it, the one that most of the devices belong to.
    pub array: Option<Uuid>,
}

/// An array that can be started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assembly {
    /// The newest superblock, for the array-wide fields. Its role table names the accepted members and
    /// nobody else. It is marked clean where [`AssembleOptions::force`] started it and no redundancy is left.
    pub superblock: Superblock,
    /// The members taken: role holders in the order of their roles, then spares by member number.
    pub members: Vec<Member>,
    /// Roles that no accepted member plays, ascending.
    pub missing_roles: Vec<u16>,
    /// The devices not taken, in the order in which they were named.
    pub rejected: Vec<Rejected>,
    /// Whether parity must be resynced from [`Self::resync_offset`].
    pub dirty: bool,
    /// Member sectors below which parity is valid; [`crate::CLEAN`] if all of it is.
    pub resync_offset: u64,
    /// Missing and rebuilding members together; at most the level's parity.
    pub degraded: u16,
    /// The write-intent bitmap, if the array has one.
    pub bitmap: Option<ArrayBitmap>,
    /// What the partial parity logs say, if the array has them.
    pub ppl: Option<ArrayPpl>,
    /// What a person should be told although the array starts.
    pub warnings: Vec<Warning>,
}

/// A member that was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Index in the list handed to [`crate::assemble`].
    pub found: usize,
    /// Its number in the role table.
    pub dev_number: u32,
    /// Its role; `None` for a spare.
    pub role: Option<u16>,
    /// Its state.
    pub state: MemberState,
    /// The sectors that hold nothing that counts, from the start of the device; those outside of the data, too.
    pub bad_blocks: BadBlocks,
    /// The bytes of the log that says so; none if its superblock does not announce one.
    pub bad_block_log: Vec<u8>,
    /// Its superblock, brought up to the newest one ([`Superblock::catch_up`]): the image from which its
    /// next update is made.
    pub superblock: Superblock,
}

/// What a member's data are worth.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemberState {
    /// All of it is valid.
    InSync,
    /// Valid below `recovery_offset` sectors from its data offset.
    Rebuilding {
        /// Sectors.
        recovery_offset: u64,
    },
    /// It holds nothing.
    Spare,
}

/// A device that was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Index in the list handed to [`crate::assemble`].
    pub found: usize,
    /// What it is called.
    pub label: String,
    /// Why it was not taken.
    pub reason: Reason,
}

/// `label: reason`.
impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.reason)
    }
}

/// Why a device was not taken.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Reason {
    /// It has no usable superblock; [`SuperblockError::fault`] says of which kind the trouble is.
    #[error("{0}")]
    Superblock(SuperblockError),
    /// What its bad-block log says is not known, so nothing of it can be trusted.
    #[error("its bad-block log cannot be used: {0}")]
    BadBlocks(String),
    /// The same device was named before under another name.
    #[error("is the same device as {other}")]
    SameDevice {
        /// The name under which it was taken.
        other: String,
    },
    /// It belongs to another array.
    #[error("belongs to another array ({name}, {uuid})")]
    Foreign {
        /// Name of that array.
        name: String,
        /// Identity of that array.
        uuid: Uuid,
    },
    /// It claims to belong to the array but describes another one.
    #[error("says that the array's {field} is {says}, the newest member says {newest}")]
    Geometry {
        /// Which field.
        field: &'static str,
        /// What this device says.
        says: String,
        /// What the newest member says.
        newest: String,
    },
    /// Its data area is smaller than what the array uses of each member.
    #[error("is too small: {data_size} sectors for data, the array uses {size_sectors} of each member")]
    TooSmall {
        /// Sectors there are.
        data_size: u64,
        /// Sectors needed.
        size_sectors: u64,
    },
    /// The array went on without it.
    #[error("is stale: last updated at event {events}, the array is at {newest}; add it again to rebuild it")]
    Stale {
        /// Its update counter.
        events: u64,
        /// The array's.
        newest: u64,
    },
    /// The newest member says that this one failed or was removed.
    #[error(
        "was failed or removed while the array was running, so it may be out of date; add it again to rebuild it"
    )]
    Evicted,
    /// It was replacing another member and was not done; that one is used.
    #[error(
        "is a replacement for role {role} that was not finished; the member that it was to replace is used. Let Linux md finish before the array is written here, or add it again"
    )]
    Replacement {
        /// The role that it was to take over.
        role: u16,
    },
    /// It says that the newest member failed: both were written without the other.
    #[error("says that the newest member ({newest}) failed, so the two went separate ways")]
    SeparateWays {
        /// The newest member.
        newest: String,
    },
    /// Another device claims the same place and is newer, or was named first.
    #[error("claims the same {what} as {other}, which is taken instead")]
    Duplicate {
        /// What both claim: "role 2", "member number 3" or "device UUID".
        what: String,
        /// The one taken.
        other: String,
    },
    /// Its member number or role is outside what the array has.
    #[error("has {what}, which the array does not have")]
    OutOfRange {
        /// Which number it has.
        what: String,
    },
}

/// Why parity is not known to match everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum Unsynced {
    /// Parity was never made: nobody has updated the superblocks since the array was created.
    #[error("the array is new and its parity was not made yet")]
    New,
    /// Writes were in flight when the array stopped, or its resync had not got anywhere.
    #[error("the array was not stopped cleanly")]
    Unclean,
    /// A resync was broken off.
    #[error("the array was not fully resynced (up to member sector {sector} only)")]
    Partly {
        /// Member sectors below which parity is valid.
        sector: u64,
    },
}

impl Unsynced {
    /// What a superblock tells about it that is not clean, or was not before force. A new array has at most
    /// one event, and every update counts up. One that was first started in the second in which mdadm made it
    /// looks like a new one after a crash: good enough for a message, not for a decision.
    pub(crate) fn of(superblock: &Superblock) -> Self {
        match superblock.resync_offset() {
            0 if superblock.events() <= 1 && superblock.utime() == superblock.ctime() => Unsynced::New,
            0 => Unsynced::Unclean,
            sector => Unsynced::Partly { sector },
        }
    }
}

/// What a person should be told about an array that starts.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Warning {
    /// Members are missing.
    Degraded {
        /// Their roles.
        missing_roles: Vec<u16>,
        /// How many more members may be lost.
        spare_parity: u16,
    },
    /// A member is not filled yet.
    Rebuilding {
        /// The device.
        label: String,
        /// Its role.
        role: u16,
    },
    /// Parity does not match everywhere; it will be resynced.
    Dirty {
        /// Why it does not.
        why: Unsynced,
        /// Member sectors below which parity is valid.
        resync_offset: u64,
        /// Of an array with a write-intent bitmap: regions in which it may not match, and regions in all. These
        /// are resynced then, and nothing else.
        regions: Option<(u64, u64)>,
    },
    /// The bad-block log of a member names parts of its data: they count as lost until they are written.
    BadBlocks {
        /// The device.
        label: String,
        /// Sectors of 512 bytes.
        sectors: u64,
    },
    /// Force starts a dirty and degraded array.
    Forced {
        /// Why it was dirty.
        why: Unsynced,
        /// Roles that are missing or being rebuilt.
        roles: Vec<u16>,
    },
    /// No copy of the write-intent bitmap is as new as the superblocks: someone went on without it.
    BitmapOutdated {
        /// The array is dirty, so that all of it has to be resynced.
        dirty: bool,
    },
    /// A member's copy of the write-intent bitmap cannot be used and will be written anew.
    BitmapCopy {
        /// The device.
        label: String,
        /// Why.
        why: BitmapError,
    },
    /// Writes were under way when the array stopped, and the partial parity logs say what parity has to be.
    PplReplay {
        /// Entries that are replayed.
        entries: usize,
        /// Logs and entries that do not check out.
        doubtful: u32,
        /// A member is missing or not rebuilt.
        degraded: bool,
        /// All parity is made anew all the same.
        resync: bool,
    },
    /// A device was not taken.
    Rejected(Rejected),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Degraded { missing_roles, spare_parity } => {
                let left = match spare_parity {
                    0 => "no further member may fail".to_owned(),
                    1 => "one more member may fail".to_owned(),
                    n => format!("{n} more members may fail"),
                };
                write!(f, "the array is degraded: no member for {}; {left}", roles_text(missing_roles))
            }
            Warning::Rebuilding { label, role } => {
                write!(f, "{label} (role {role}) is not rebuilt yet; the rebuild goes on")
            }
            Warning::Dirty { why, regions: Some((0, _)), .. } => {
                write!(f, "{why}, and its write-intent bitmap names no region to resync")
            }
            Warning::Dirty { why, regions: Some((dirty, all)), .. } => write!(
                f,
                "{why}: parity of {dirty} of {all} regions, which its write-intent bitmap names, will be resynced"
            ),
            Warning::Dirty { why, resync_offset, regions: None } => {
                write!(f, "{why}: parity from member sector {resync_offset} on will be resynced")
            }
            Warning::BadBlocks { label, sectors } => write!(
                f,
                "{label}: its bad-block log names {sectors} sectors of its data; they count as lost until they are written"
            ),
            Warning::Forced { why, roles } => write!(
                f,
                "FORCED: {why}, and {} missing or not rebuilt; {} may now be reconstructed WRONG: check the file system",
                roles_are_text(roles),
                match why {
                    Unsynced::Unclean => "what was being written",
                    Unsynced::New | Unsynced::Partly { .. } => "what parity was not made for",
                }
            ),
            Warning::BitmapOutdated { dirty } => {
                let then = if *dirty { ", so the whole array is resynced" } else { "" };
                write!(f, "the write-intent bitmap is out of date: the array was run without it{then}")
            }
            Warning::BitmapCopy { label, why } => {
                write!(f, "{label}: its copy of the write-intent bitmap {why}; it is written anew")
            }
            Warning::PplReplay { entries, doubtful, degraded, resync } => {
                let doubts = match doubtful {
                    0 => String::new(),
                    n => format!(", {n} of its parts are half-written or damaged"),
                };
                let then = match (degraded, resync) {
                    (true, _) => {
                        "; starting a dirty degraded array with it: what was being written to the missing member \
                         may be wrong"
                    }
                    (false, true) => "; all parity is made anew",
                    (false, false) => "; no resync is needed",
                };
                write!(
                    f,
                    "not stopped cleanly: {entries} entries of the partial parity log are replayed{doubts}{then}"
                )
            }
            Warning::Rejected(rejected) => write!(f, "not used: {rejected}"),
        }
    }
}

/// Why no array can be started.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum AssembleError {
    /// No device has a superblock of the wanted array.
    #[error("no member of {} found{}", wanted_text(*.wanted), rejected_text(.rejected))]
    NoMembers {
        /// The array that was asked for, if one was.
        wanted: Option<Uuid>,
        /// Why each device was not taken.
        rejected: Vec<Rejected>,
    },
    /// The devices belong to several arrays and none of them has the majority.
    #[error("the devices belong to {} arrays and none has most of them; name the members of one only:{}", .arrays.len(), arrays_text(.arrays))]
    SeveralArrays {
        /// Each array: its identity, its name, and the devices.
        arrays: Vec<(Uuid, String, Vec<String>)>,
    },
    /// Devices that were updated equally often call each other failed: each side ran without the other,
    /// and nothing says which one to keep.
    #[error(
        "{} and {} call each other failed and are equally new: each side ran without the other. Name the devices of the side to keep only",
        .one_side.join(", "), .other_side.join(", ")
    )]
    SeparateWays {
        /// Devices of one side.
        one_side: Vec<String>,
        /// Devices of the other side.
        other_side: Vec<String>,
    },
    /// The array has a feature that cannot be honoured.
    #[error("{label} has a feature that is not supported: {features}. {}", .features.advice())]
    Unsupported {
        /// The device that has it.
        label: String,
        /// The feature.
        features: Unsupported,
    },
    /// The write-intent bitmap cannot be used on any member.
    #[error("{label}: the write-intent bitmap {why}. {}", .why.advice())]
    Bitmap {
        /// The device that has it.
        label: String,
        /// Why.
        why: BitmapError,
    },
    /// The partial parity log of a member cannot be used.
    #[error("{label}: the partial parity log {why}; use Linux md for this array")]
    Ppl {
        /// The device.
        label: String,
        /// Why.
        why: String,
    },
    /// More members are missing than parity covers.
    #[error(
        "too few members: {level} of {raid_disks} can do without {} and {} missing or not rebuilt{}",
        .level.parity(), roles_are_text(.roles), rejected_text(.rejected)
    )]
    TooFewMembers {
        /// The level.
        level: Level,
        /// Roles of the array.
        raid_disks: u16,
        /// Roles that are missing or not rebuilt.
        roles: Vec<u16>,
        /// Why each device was not taken.
        rejected: Vec<Rejected>,
    },
    /// The array is dirty and degraded: parity cannot be trusted where it is needed.
    #[error(
        "{why} and {} missing or not rebuilt: what parity says about lost data may be wrong. Find the missing member, or start with force and check the file system{}",
        roles_are_text(.roles), rejected_text(.rejected)
    )]
    DirtyDegraded {
        /// Why it is dirty.
        why: Unsynced,
        /// Roles that are missing or not rebuilt.
        roles: Vec<u16>,
        /// Why each device was not taken.
        rejected: Vec<Rejected>,
    },
}

fn wanted_text(wanted: Option<Uuid>) -> String {
    wanted.map_or("an array".to_owned(), |uuid| format!("array {uuid}"))
}

fn roles_text(roles: &[u16]) -> String {
    let list: Vec<String> = roles.iter().map(u16::to_string).collect();
    format!("{} {}", if roles.len() == 1 { "role" } else { "roles" }, list.join(", "))
}

fn roles_are_text(roles: &[u16]) -> String {
    format!("{} {}", roles_text(roles), if roles.len() == 1 { "is" } else { "are" })
}

fn rejected_text(rejected: &[Rejected]) -> String {
    rejected.iter().map(|one| format!("\n  {one}")).collect()
}

fn arrays_text(arrays: &[(Uuid, String, Vec<String>)]) -> String {
    arrays.iter().map(|(uuid, name, labels)| format!("\n  {name} ({uuid}): {}", labels.join(", "))).collect()
}
