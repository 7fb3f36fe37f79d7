//! A superblock as plain values for people and programs that look at one member.

use crate::features::Features;
use crate::level::{Layout, Level};
use crate::location::Minor;
use crate::superblock::{BadBlockLog, DevRole, Superblock};
use crate::uuid::Uuid;

/// Everything that a look at one member tells. Lengths and offsets are in sectors, times in seconds
/// since 1970.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The metadata version.
    pub version: Minor,
    /// The identity of the array.
    pub set_uuid: Uuid,
    /// The array's name as stored.
    pub name: String,
    /// The level.
    pub level: Level,
    /// The layout.
    pub layout: Layout,
    /// Roles of the array.
    pub raid_disks: u16,
    /// Chunk.
    pub chunk_sectors: u32,
    /// Used of each member.
    pub size_sectors: u64,
    /// Size of the array.
    pub array_sectors: u64,
    /// When the array was made.
    pub ctime: u64,
    /// When the superblock was last written.
    pub utime: u64,
    /// The update counter.
    pub events: u64,
    /// Whether parity is known to be good.
    pub clean: bool,
    /// Member sectors below which parity is valid; `None` if all of it is.
    pub resync_offset: Option<u64>,
    /// The feature bits.
    pub features: Features,
    /// First data sector.
    pub data_offset: u64,
    /// Sectors that data may use.
    pub data_size: u64,
    /// First sector of the superblock.
    pub super_offset: u64,
    /// Identity of this member.
    pub device_uuid: Uuid,
    /// Its number in the role table.
    pub dev_number: u32,
    /// What it is.
    pub role: DevRole,
    /// Valid below this many sectors, if it is being rebuilt.
    pub recovery_offset: Option<u64>,
    /// Sectors repaired after read errors.
    pub corrected_reads: u32,
    /// Where the bad-block log is.
    pub bad_block_log: Option<BadBlockLog>,
    /// Logical block size of the array in bytes, if recorded.
    pub logical_block_size: Option<u32>,
    /// The checksum.
    pub checksum: u32,
    /// One character a role, as mdadm prints it: `A` has a member, `.` has none, `R` has two (one is
    /// replacing the other).
    pub array_state: String,
}

impl Superblock {
    /// Everything this superblock tells.
    pub fn describe(&self) -> Description {
        Description {
            version: self.minor(),
            set_uuid: self.set_uuid(),
            name: self.name(),
            level: self.level(),
            layout: self.layout(),
            raid_disks: self.raid_disks(),
            chunk_sectors: self.chunk_sectors(),
            size_sectors: self.size_sectors(),
            array_sectors: self.array_sectors(),
            ctime: self.ctime(),
            utime: self.utime(),
            events: self.events(),
            clean: self.is_clean(),
            resync_offset: Some(self.resync_offset()).filter(|_| !self.is_clean()),
            features: self.features(),
            data_offset: self.data_offset(),
            data_size: self.data_size(),
            super_offset: self.super_offset(),
            device_uuid: self.device_uuid(),
            dev_number: self.dev_number(),
            role: self.role(),
            recovery_offset: self.recovery_offset(),
            corrected_reads: self.corrected_reads(),
            bad_block_log: self.bad_block_log(),
            logical_block_size: self.logical_block_size(),
            checksum: self.checksum(),
            array_state: self.array_state(),
        }
    }

    fn array_state(&self) -> String {
        (0..self.raid_disks())
            .map(|role| match self.dev_roles().filter(|&(_, r)| r == DevRole::Active(role)).count() {
                0 => '.',
                1 => 'A',
                _ => 'R',
            })
            .collect()
    }
}
