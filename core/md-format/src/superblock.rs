//! A checked superblock: typed access to its fields, the updates an array makes, and its bytes.
//!
//! The bytes as read are the only copy of the state: accessors decode them and setters change them, so
//! whatever this crate does not know (creation time, write-mostly flags, the logical block size of newer
//! kernels) is written back as it was. [`Superblock::parse`] is the only way in from a disk, and
//! [`crate::plan_create`] and [`crate::spare_superblock`] the only way to a new one, so a value of
//! this type has passed every check of the kernel.

use crate::features::Features;
use crate::level::{Layout, Level};
use crate::location::{Location, Minor};
use crate::uuid::Uuid;
use crate::wire::{self, Head};

/// What the role table says about one member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DevRole {
    /// It plays this role, 0 to n-1.
    Active(u16),
    /// It failed and is still attached, or its entry has a number that md does not use.
    Faulty,
    /// It is a spare, or there is no such member.
    Spare,
    /// It is the journal.
    Journal,
}

impl DevRole {
    pub(crate) fn from_number(number: u16) -> Self {
        match number {
            wire::ROLE_SPARE => DevRole::Spare,
            wire::ROLE_JOURNAL => DevRole::Journal,
            role if role < wire::ROLE_LIMIT => DevRole::Active(role),
            _ => DevRole::Faulty,
        }
    }

    pub(crate) fn number(self) -> u16 {
        match self {
            DevRole::Active(role) => role,
            DevRole::Faulty => wire::ROLE_FAULTY,
            DevRole::Spare => wire::ROLE_SPARE,
            DevRole::Journal => wire::ROLE_JOURNAL,
        }
    }
}

/// Where a member's bad-block log is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BadBlockLog {
    /// Sectors from the superblock; negative for version 1.0.
    pub offset: i32,
    /// Sectors of the log.
    pub sectors: u16,
    /// Entries count in units of `512 << shift` bytes.
    pub shift: u8,
}

/// A member number that the role table cannot hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the role table has no room for member number {dev_number}")]
pub struct RoleTableFull {
    /// The number.
    pub dev_number: u32,
}

/// A superblock that has passed every check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub(crate) head: Head,
    /// Role numbers by member number.
    pub(crate) roles: Vec<u16>,
    /// What follows the role table up to a whole sector; kept as it was.
    pub(crate) tail: Vec<u8>,
    pub(crate) minor: Minor,
    pub(crate) level: Level,
    pub(crate) layout: Layout,
}

/// Seconds are the low 40 bits of a time field.
pub(crate) const SECONDS: u64 = (1 << 40) - 1;

impl Superblock {
    /// The identity of the array.
    pub fn set_uuid(&self) -> Uuid {
        Uuid(self.head.bytes(wire::SET_UUID))
    }

    /// The array's name as stored, often `host:name`. Bytes that are not UTF-8 and control characters, which would
    /// tell a terminal what to do, are replaced.
    pub fn name(&self) -> String {
        let bytes = self.head.bytes(wire::SET_NAME);
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).replace(char::is_control, "\u{fffd}")
    }

    /// The array's name without the host in front of it.
    pub fn short_name(&self) -> String {
        let name = self.name();
        name.split_once(':').map_or(name.clone(), |(_, short)| short.to_owned())
    }

    /// When the array was created, in seconds since 1970.
    pub fn ctime(&self) -> u64 {
        self.head.u64(wire::CTIME) & SECONDS
    }

    /// When the superblock was last written, in seconds since 1970.
    pub fn utime(&self) -> u64 {
        self.head.u64(wire::UTIME) & SECONDS
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The layout; valid for the level.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Sectors used of each member; the same on all of them, at least one chunk.
    pub fn size_sectors(&self) -> u64 {
        self.head.u64(wire::SIZE)
    }

    /// Sectors of a chunk: a power of two, at least 8.
    pub fn chunk_sectors(&self) -> u32 {
        self.head.u32(wire::CHUNK)
    }

    /// Roles of the array (n): within [`Level::min_members`] and [`Level::max_members`].
    pub fn raid_disks(&self) -> u16 {
        // The check on load bounds the field by `max_members`, so the low half is the value.
        self.head.u32(wire::RAID_DISKS) as u16
    }

    /// Sectors of the array: the whole chunks of each member, times the data members.
    pub fn array_sectors(&self) -> u64 {
        let chunk = u64::from(self.chunk_sectors());
        let data_members = u64::from(self.raid_disks().saturating_sub(self.level.parity()));
        (self.size_sectors() / chunk * chunk).saturating_mul(data_members)
    }

    /// The feature bits.
    pub fn features(&self) -> Features {
        Features::from_bits(self.head.u32(wire::FEATURES))
    }

    /// First data sector of this member; other members may have another one.
    pub fn data_offset(&self) -> u64 {
        self.head.u64(wire::DATA_OFFSET)
    }

    /// Sectors of this member that data may use, at least [`Self::size_sectors`] on a role holder.
    pub fn data_size(&self) -> u64 {
        self.head.u64(wire::DATA_SIZE)
    }

    /// First sector of the superblock.
    pub fn super_offset(&self) -> u64 {
        self.head.u64(wire::SUPER_OFFSET)
    }

    /// The metadata version.
    pub fn minor(&self) -> Minor {
        self.minor
    }

    /// Where this superblock was found and is to be written.
    pub fn location(&self) -> Location {
        Location { minor: self.minor, sector: self.super_offset() }
    }

    /// The member is being rebuilt: sectors from its data offset that are valid. `None`: all are, as
    /// far as the role says that it holds data.
    pub fn recovery_offset(&self) -> Option<u64> {
        let counts = self.features().contains(Features::RECOVERY_OFFSET);
        counts.then(|| self.head.u64(wire::RECOVERY_OFFSET))
    }

    /// This member's index in the role table; it stays the same while its role changes.
    pub fn dev_number(&self) -> u32 {
        self.head.u32(wire::DEV_NUMBER)
    }

    /// The identity of this member.
    pub fn device_uuid(&self) -> Uuid {
        Uuid(self.head.bytes(wire::DEVICE_UUID))
    }

    /// The update counter.
    pub fn events(&self) -> u64 {
        self.head.u64(wire::EVENTS)
    }

    /// Member sectors below which parity is valid; [`crate::CLEAN`] if all of it is.
    pub fn resync_offset(&self) -> u64 {
        self.head.u64(wire::RESYNC_OFFSET)
    }

    /// Whether all parity is valid.
    pub fn is_clean(&self) -> bool {
        self.resync_offset() == wire::CLEAN
    }

    /// Sectors that were repaired by rewriting them after a read error.
    pub fn corrected_reads(&self) -> u32 {
        self.head.u32(wire::CORRECTED_READS)
    }

    /// Where the bad-block log is, if there is one. It may be empty; see [`Features::BAD_BLOCKS`].
    pub fn bad_block_log(&self) -> Option<BadBlockLog> {
        let log = BadBlockLog {
            offset: self.head.i32(wire::BBLOG_OFFSET),
            sectors: self.head.u16(wire::BBLOG_SIZE),
            shift: self.head.bytes(wire::BBLOG_SHIFT)[0],
        };
        (log.offset != 0 && log.sectors != 0).then_some(log)
    }

    /// The array's logical block size in bytes (a power of two, 512 to 4096), which Linux 6.19 and later
    /// record and older ones refuse. `None` if it is not recorded. Never changed here.
    pub fn logical_block_size(&self) -> Option<u32> {
        Some(self.head.u32(wire::LOGICAL_BLOCK_SIZE)).filter(|&bytes| bytes != 0)
    }

    /// The checksum of the superblock as it is now.
    pub fn checksum(&self) -> u32 {
        wire::checksum(&self.head, &self.roles)
    }

    /// What the role table says about this member; a spare if the table does not reach that far.
    pub fn role(&self) -> DevRole {
        self.role_of(self.dev_number())
    }

    /// What the role table says about a member; a spare if the table does not reach that far.
    pub fn role_of(&self, dev_number: u32) -> DevRole {
        let at = usize::try_from(dev_number).unwrap_or(usize::MAX);
        self.roles.get(at).map_or(DevRole::Spare, |&number| DevRole::from_number(number))
    }

    /// The role table by member number.
    pub fn dev_roles(&self) -> impl Iterator<Item = (u32, DevRole)> + '_ {
        (0..).zip(self.roles.iter().map(|&number| DevRole::from_number(number)))
    }

    /// Entries of the role table; member numbers below it can be recorded.
    pub fn max_dev(&self) -> u32 {
        self.head.u32(wire::MAX_DEV)
    }

    /// Sets the update counter.
    pub fn set_events(&mut self, events: u64) {
        self.head.put(wire::EVENTS, events.to_le_bytes());
    }

    /// Sets the member sector below which parity is valid: [`crate::CLEAN`] when all of it is, 0 while
    /// writes are in flight.
    pub fn set_resync_offset(&mut self, sectors: u64) {
        self.head.put(wire::RESYNC_OFFSET, sectors.to_le_bytes());
    }

    /// Sets the time of the last update, in seconds since 1970.
    pub fn set_utime(&mut self, seconds: u64) {
        self.head.put(wire::UTIME, (seconds & SECONDS).to_le_bytes());
    }

    /// Says what a member is. The table grows where the space before the data allows it.
    ///
    /// # Errors
    /// The table cannot hold the number.
    pub fn set_role(&mut self, dev_number: u32, role: DevRole) -> Result<(), RoleTableFull> {
        self.reserve_role(dev_number)?;
        let at = usize::try_from(dev_number).map_err(|_| RoleTableFull { dev_number })?;
        let entry = self.roles.get_mut(at).ok_or(RoleTableFull { dev_number })?;
        *entry = role.number();
        Ok(())
    }

    /// Says how far this member is rebuilt, in sectors from its data offset; `None` when it is in sync
    /// (or has no role). The feature bit follows.
    pub fn set_recovery_offset(&mut self, sectors: Option<u64>) {
        let features = self.features().without(Features::RECOVERY_OFFSET);
        let features = if sectors.is_some() { features | Features::RECOVERY_OFFSET } else { features };
        self.head.put(wire::FEATURES, features.bits().to_le_bytes());
        self.head.put(wire::RECOVERY_OFFSET, sectors.unwrap_or(0).to_le_bytes());
    }

    /// Says that this member, which is being rebuilt, has everything but what the bitmap tells.
    pub fn set_recovery_by_bitmap(&mut self, by_bitmap: bool) {
        let features = self.features().without(Features::RECOVERY_BITMAP);
        let features = if by_bitmap { features | Features::RECOVERY_BITMAP } else { features };
        self.head.put(wire::FEATURES, features.bits().to_le_bytes());
    }

    /// Says whether the bad-block log counts: it is not empty.
    pub fn set_bad_blocks(&mut self, any: bool) {
        let features = self.features().without(Features::BAD_BLOCKS);
        let features = if any { features | Features::BAD_BLOCKS } else { features };
        self.head.put(wire::FEATURES, features.bits().to_le_bytes());
    }

    /// Counts sectors that were repaired by rewriting; stays at the largest value.
    pub fn add_corrected_reads(&mut self, sectors: u32) {
        let sum = self.corrected_reads().saturating_add(sectors);
        self.head.put(wire::CORRECTED_READS, sum.to_le_bytes());
    }

    /// Takes the array-wide state from `newest`: events, update time, resync offset, role table, and whether
    /// there is a write-intent bitmap and where. What belongs to this member alone stays (its number and UUID, offsets, recovery, counters).
    pub fn catch_up(&mut self, newest: &Superblock) {
        self.set_events(newest.events());
        self.set_utime(newest.utime());
        self.set_resync_offset(newest.resync_offset());
        let bitmap = newest.features().intersection(Features::BITMAP);
        let features = self.features().without(Features::BITMAP) | bitmap;
        self.head.put(wire::FEATURES, features.bits().to_le_bytes());
        if !bitmap.is_empty() {
            self.head.put(wire::BITMAP_OFFSET, newest.head.bytes(wire::BITMAP_OFFSET));
        }
        for at in 0..self.max_dev().max(newest.max_dev()) {
            // A table that cannot grow keeps its length; what lies beyond it reads as a spare.
            let _ = self.set_role(at, newest.role_of(at));
        }
    }

    /// The bytes to write at [`Self::super_offset`]: whole sectors of 512 bytes, at most
    /// [`crate::READ_BYTES`], checksum included. Unchanged superblocks give the bytes that were read.
    pub fn encode(&self) -> Vec<u8> {
        let mut head = self.head;
        head.put(wire::CHECKSUM, self.checksum().to_le_bytes());
        let mut bytes = head.0.to_vec();
        bytes.extend(self.roles.iter().flat_map(|role| role.to_le_bytes()));
        bytes.extend(&self.tail);
        bytes
    }

    /// Makes the role table long enough for `dev_number`. It grows by whole sectors, and not into the
    /// data, the bad-block log or the bitmap (which are never nearer than 8 sectors).
    fn reserve_role(&mut self, dev_number: u32) -> Result<(), RoleTableFull> {
        if dev_number < self.max_dev() {
            return Ok(());
        }
        if dev_number >= u32::from(wire::MAX_DEVICES) {
            return Err(RoleTableFull { dev_number });
        }
        let max_dev = crate::create::table_entries(dev_number.saturating_add(1));
        let end = self.super_offset().saturating_add(crate::create::table_sectors(max_dev));
        if self.minor != Minor::V0 && end > self.data_offset() {
            return Err(RoleTableFull { dev_number });
        }
        self.roles.resize(max_dev as usize, wire::ROLE_SPARE);
        self.tail.clear();
        self.head.put(wire::MAX_DEV, max_dev.to_le_bytes());
        Ok(())
    }
}
