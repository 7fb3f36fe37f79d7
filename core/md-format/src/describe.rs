//! A superblock as plain values for people and programs that look at one member.

use crate::areas::AreaKind;
use crate::bitmap::Bitmap;
use crate::features::Features;
use crate::level::{Layout, Level};
use crate::location::Minor;
use crate::superblock::{BadBlockLog, DevRole, Superblock};
use crate::uuid::Uuid;
use crate::wire::{self, SECTOR};

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
    /// Where the write-intent bitmap is, in sectors from the superblock, if there is one.
    pub bitmap_offset: Option<i64>,
    /// Where the partial parity log is, in sectors from the superblock, and its sectors, if there is one.
    pub ppl: Option<(i64, u64)>,
    /// Sectors in front of the data and behind them that nothing uses, as mdadm counts them; not known during a
    /// reshape that moves the data.
    pub unused: Option<(u64, u64)>,
    /// The reshape under way.
    pub reshape: Option<Reshape>,
    /// Reads go to other members where there is a choice.
    pub write_mostly: bool,
    /// I/O of this member is not retried.
    pub failfast: bool,
    /// Logical block size of the array in bytes, if recorded.
    pub logical_block_size: Option<u32>,
    /// The checksum.
    pub checksum: u32,
    /// One character a role, as mdadm prints it: `A` has a member, `.` has none, `R` has two (one is
    /// replacing the other).
    pub array_state: String,
}

/// What a reshape makes of the array: half of it has the old geometry, half the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reshape {
    /// Array sectors that it has passed; where it runs from the end, those that it has not.
    pub position: u64,
    /// It runs from the end.
    pub backwards: bool,
    /// Roles before it; [`Description::raid_disks`] are those after it.
    pub old_disks: u32,
    /// The number of the new level.
    pub new_level: i32,
    /// The number of the new layout.
    pub new_layout: u32,
    /// The new chunk.
    pub new_chunk_sectors: u32,
    /// The first data sector after it, if it moves the data of this member.
    pub new_data_offset: Option<u64>,
}

/// The bits of `devflags`.
const WRITE_MOSTLY: u8 = 1;
const FAILFAST: u8 = 2;

/// Sectors from the superblock that mdadm leaves to the kernel for the superblock itself.
const KERNEL_ROOM: u64 = 72;

impl Superblock {
    /// Everything this superblock tells.
    pub fn describe(&self) -> Description {
        self.describe_with(None)
    }

    /// The same, with the member's bitmap, which alone knows how long it is.
    pub fn describe_with(&self, bitmap: Option<&Bitmap>) -> Description {
        let area = |kind| self.areas().into_iter().find(|area| area.kind == kind);
        let from_superblock = |sector: u64| (sector as i64).wrapping_sub(self.super_offset() as i64);
        let [flags] = self.head.bytes(wire::DEVFLAGS);
        Description {
            bitmap_offset: area(AreaKind::Bitmap).map(|area| from_superblock(area.sector)),
            ppl: area(AreaKind::Ppl).map(|area| (from_superblock(area.sector), area.bytes as u64 / SECTOR)),
            unused: self.unused(bitmap),
            reshape: self.reshape(),
            write_mostly: flags & WRITE_MOSTLY != 0,
            failfast: flags & FAILFAST != 0,
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

    /// What a reshape makes of the array, if one is under way.
    pub fn reshape(&self) -> Option<Reshape> {
        if !self.features().contains(Features::RESHAPE) {
            return None;
        }
        let delta = i64::from(self.head.i32(wire::DELTA_DISKS));
        let old = i64::from(self.raid_disks()).saturating_sub(delta);
        let moved = self.data_offset().checked_add_signed(i64::from(self.head.i32(wire::NEW_OFFSET)));
        let moves = self.features().contains(Features::NEW_OFFSET);
        Some(Reshape {
            position: self.head.u64(wire::RESHAPE_POSITION),
            backwards: delta < 0 || self.features().contains(Features::RESHAPE_BACKWARDS),
            old_disks: u32::try_from(old).unwrap_or(0),
            new_level: self.head.i32(wire::NEW_LEVEL),
            new_layout: self.head.u32(wire::NEW_LAYOUT),
            new_chunk_sectors: self.head.u32(wire::NEW_CHUNK),
            new_data_offset: moved.filter(|_| moves),
        })
    }

    /// Sectors that nothing uses in front of the data and behind them.
    fn unused(&self, bitmap: Option<&Bitmap>) -> Option<(u64, u64)> {
        if self.features().contains(Features::NEW_OFFSET) {
            return None;
        }
        // A journal's log takes all of its data area.
        let size = if self.role() == DevRole::Journal { self.data_size() } else { self.size_sectors() };
        let data = self.data_offset()..self.data_offset().saturating_add(size);
        let areas = self.areas().into_iter().map(|area| match area.kind {
            // The room for a bitmap is more than it takes.
            AreaKind::Bitmap => {
                let bytes = bitmap.map_or(0, |bitmap| 256 + bitmap.regions().div_ceil(8));
                area.sector..area.sector.saturating_add(bytes.next_multiple_of(4096) / SECTOR)
            }
            AreaKind::BadBlocks | AreaKind::Ppl => area.sector..area.sector + area.bytes as u64 / SECTOR,
        });
        // The log of bad blocks has its place also while it is empty.
        let log = self.bad_block_log().and_then(|log| {
            let at = self.super_offset().checked_add_signed(i64::from(log.offset))?;
            Some(at..at.saturating_add(u64::from(log.sectors)))
        });
        let beside: Vec<_> = areas.chain(log).collect();
        if self.minor() == Minor::V0 {
            let end = beside.iter().map(|area| area.start).chain([self.super_offset()]).min()?;
            return Some((data.start, end.saturating_sub(data.end)));
        }
        let first = self.super_offset().saturating_add(KERNEL_ROOM);
        let used = beside.iter().map(|area| area.end).chain([first]).max()?;
        Some((data.start.saturating_sub(used), self.data_size().saturating_sub(size)))
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
