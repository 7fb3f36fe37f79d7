//! From bytes to a [`Superblock`]: the kernel's checks, in the kernel's order.
//!
//! [`RawSuperblock`] is what the disk says; [`RawSuperblock::check`] is the only way to a
//! [`Superblock`]. On top of what the kernel checks when it loads a member come the checks it makes when
//! it starts the array, as far as one member shows them.

use crate::error::{Fault, SuperblockError};
use crate::features::Features;
use crate::level::{Layout, Level};
use crate::location::{Location, MIN_DEVICE_SECTORS, Minor, candidates};
use crate::other::{self, OtherMetadata};
use crate::superblock::Superblock;
use crate::wire::{self, HEAD_BYTES, Head, READ_BYTES, SECTOR};

/// A superblock as the disk has it: it carries the magic number and a version 1 layout, and nothing
/// else about it is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawSuperblock {
    head: Head,
    roles: Vec<u16>,
    tail: Vec<u8>,
}

impl Superblock {
    /// Reads the superblock from `bytes`, which were read at `at` on a device of `device_sectors`;
    /// [`crate::READ_BYTES`] of them are always enough.
    ///
    /// # Errors
    /// The first check that failed. [`Fault::Absent`] means that there is no superblock here.
    pub fn parse(bytes: &[u8], at: Location, device_sectors: u64) -> Result<Self, SuperblockError> {
        if device_sectors < MIN_DEVICE_SECTORS {
            return Err(SuperblockError::NoRoom { device_sectors });
        }
        RawSuperblock::read(bytes)?.check(at, device_sectors)
    }

    /// Looks at a whole device for its superblock: at each place where one of version 1.x may be, and where there
    /// is none, or metadata of version 0.90 that were made since it was last written, for other metadata. `read` is
    /// given the first byte and the number of bytes, and may give fewer where the device ends.
    ///
    /// # Errors
    /// There is none that can be used; the most telling reason.
    pub fn find<E: ToString>(
        device_sectors: u64,
        mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
    ) -> Result<Superblock, SuperblockError> {
        let places = candidates(device_sectors);
        if places.is_empty() {
            return Err(SuperblockError::NoRoom { device_sectors });
        }
        let mut read = |sector: u64, bytes| {
            let offset = sector.saturating_mul(SECTOR);
            read(offset, bytes).map_err(|error| SuperblockError::Unreadable(error.to_string()))
        };
        let at = |place: Location| Superblock::parse(&read(place.sector, READ_BYTES)?, place, device_sectors);
        let best = Superblock::choose(places.into_iter().map(at));
        let others = other::places(device_sectors).into_iter();
        let mut others = others
            .filter_map(|(at, bytes)| OtherMetadata::recognise(&read(at, bytes).ok()?, at, device_sectors));
        match best {
            Ok(superblock) => {
                // A leftover of the conversion to 1.0 is as old as the array is. What is younger than the array but
                // older than its last update is most likely in its data: an array that is kept in this one.
                let last = superblock.ctime().max(superblock.utime());
                let newer = |one: &OtherMetadata| match one {
                    OtherMetadata::V090 { ctime, .. } => u64::from(*ctime) > last,
                    OtherMetadata::Imsm | OtherMetadata::Ddf => false,
                };
                others.find(newer).map_or(Ok(superblock), |one| Err(SuperblockError::Other(one)))
            }
            Err(error) if error.fault() == Fault::Absent => {
                Err(others.next().map_or(error, SuperblockError::Other))
            }
            Err(error) => Err(error),
        }
    }

    /// Chooses among what the candidate locations of one device gave: the sound superblock that was
    /// created last (an older one is a leftover), else the most telling error.
    ///
    /// # Errors
    /// No location has a sound superblock.
    pub fn choose(
        found: impl IntoIterator<Item = Result<Superblock, SuperblockError>>,
    ) -> Result<Superblock, SuperblockError> {
        let mut best: Result<Superblock, _> = Err(SuperblockError::NoMagic);
        for result in found {
            let better = match (&best, &result) {
                (Ok(old), Ok(new)) => new.ctime() > old.ctime(),
                (Ok(_), Err(_)) => false,
                (Err(_), Ok(_)) => true,
                (Err(old), Err(new)) => old.fault() == Fault::Absent && new.fault() != Fault::Absent,
            };
            if better {
                best = result;
            }
        }
        best
    }
}

impl RawSuperblock {
    /// Takes the superblock from the start of `bytes`.
    ///
    /// # Errors
    /// There is none, it has another version, or its length is impossible.
    pub fn read(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let truncated = |need| SuperblockError::Truncated { got: bytes.len(), need };
        if bytes.first_chunk::<4>().is_none_or(|magic| u32::from_le_bytes(*magic) != wire::MAGIC_VALUE) {
            return Err(SuperblockError::NoMagic);
        }
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(truncated(HEAD_BYTES))?;
        let head = Head(*head);
        if head.u32(wire::MAJOR) != 1 {
            return Err(SuperblockError::Version(head.u32(wire::MAJOR)));
        }
        let max_dev = head.u32(wire::MAX_DEV);
        if max_dev > u32::from(wire::MAX_DEVICES) {
            return Err(SuperblockError::TableTooLong(max_dev));
        }
        let table = max_dev as usize * 2;
        let body = (HEAD_BYTES + table).next_multiple_of(SECTOR as usize) - HEAD_BYTES;
        let (roles, tail) =
            rest.get(..body).ok_or(truncated(HEAD_BYTES + body))?.split_at_checked(table).unwrap_or_default();
        let roles = roles.as_chunks::<2>().0.iter().map(|role| u16::from_le_bytes(*role)).collect();
        Ok(RawSuperblock { head, roles, tail: tail.to_vec() })
    }

    /// Makes every check that one member allows.
    ///
    /// # Errors
    /// The first check that failed.
    pub fn check(self, at: Location, device_sectors: u64) -> Result<Superblock, SuperblockError> {
        self.check_identity(at)?;
        self.check_areas(at)?;
        self.check_device(at, device_sectors)?;
        let (level, layout) = self.check_geometry()?;
        let RawSuperblock { mut head, roles, tail } = self;
        // The checksum is made anew when the superblock is encoded; two superblocks that differ in
        // nothing else are the same.
        head.put(wire::CHECKSUM, [0; 4]);
        let superblock = Superblock { head, roles, tail, minor: at.minor, level, layout };
        superblock.check_areas_apart()?;
        Ok(superblock)
    }

    fn features(&self) -> Features {
        Features::from_bits(self.head.u32(wire::FEATURES))
    }

    /// It is where it belongs, whole, and of a version that is understood.
    fn check_identity(&self, at: Location) -> Result<(), SuperblockError> {
        let head = &self.head;
        let says = head.u64(wire::SUPER_OFFSET);
        if says != at.sector {
            return Err(SuperblockError::Misplaced { found: at.sector, says });
        }
        let unknown = self.features().unknown();
        if !unknown.is_empty() {
            return Err(SuperblockError::UnknownFeatures(unknown.bits()));
        }
        let (stored, computed) = (head.u32(wire::CHECKSUM), wire::checksum(head, &self.roles));
        if stored != computed {
            return Err(SuperblockError::Checksum { stored, computed });
        }
        Ok(())
    }

    /// The areas inside the member do not overlap, and what must be zero is.
    fn check_areas(&self, at: Location) -> Result<(), SuperblockError> {
        let head = &self.head;
        let data_size = head.u64(wire::DATA_SIZE);
        if data_size < 10 {
            return Err(SuperblockError::DataSize(data_size));
        }
        let block = head.u32(wire::LOGICAL_BLOCK_SIZE);
        let block_ok = block == 0 || block.is_power_of_two() && (512..=4096).contains(&block);
        if head.u32(wire::PAD0) != 0 || head.bytes(wire::PAD3) != [0; 28] || !block_ok {
            return Err(SuperblockError::Padding);
        }
        self.check_overlap(at)?;
        if self.features().contains(Features::BAD_BLOCKS) {
            let (sectors, offset) = (head.u16(wire::BBLOG_SIZE), head.i32(wire::BBLOG_OFFSET));
            if sectors > 8 || offset == 0 || head.bytes(wire::BBLOG_SHIFT)[0] >= 64 {
                return Err(SuperblockError::BadBlockLog { sectors, offset });
            }
        }
        if self.features().contains(Features::RAID0_LAYOUT) && head.i32(wire::LEVEL) != 0 {
            return Err(SuperblockError::Raid0Feature);
        }
        Ok(())
    }

    /// With the superblock in front, data begin behind it; with the superblock at the end, the used part
    /// of the data ends before it.
    fn check_overlap(&self, at: Location) -> Result<(), SuperblockError> {
        let data_offset = self.head.u64(wire::DATA_OFFSET);
        let data_size = self.head.u64(wire::DATA_SIZE);
        let moved = data_offset.checked_add_signed(i64::from(self.head.i32(wire::NEW_OFFSET)));
        let first = match moved {
            Some(moved) if self.features().contains(Features::NEW_OFFSET) => data_offset.min(moved),
            None if self.features().contains(Features::NEW_OFFSET) => 0,
            _ => data_offset,
        };
        let bytes = (HEAD_BYTES + self.roles.len() * 2) as u64;
        let fine = match at.minor {
            Minor::V1 | Minor::V2 => first >= at.sector.saturating_add(bytes.div_ceil(SECTOR)),
            Minor::V0 => {
                let used = self.head.u64(wire::SIZE).min(data_size);
                data_offset.checked_add(used).is_some_and(|end| end <= at.sector)
            }
        };
        if fine {
            Ok(())
        } else {
            Err(SuperblockError::Overlap { data_offset, data_size, super_offset: at.sector })
        }
    }

    /// The data area is on the device.
    fn check_device(&self, at: Location, device_sectors: u64) -> Result<(), SuperblockError> {
        let data_size = self.head.u64(wire::DATA_SIZE);
        let (needed, there) = match at.minor {
            Minor::V0 => (Some(data_size), at.sector),
            Minor::V1 | Minor::V2 => {
                (self.head.u64(wire::DATA_OFFSET).checked_add(data_size), device_sectors)
            }
        };
        match needed {
            Some(needed) if needed <= there => Ok(()),
            _ => Err(SuperblockError::DeviceTooSmall {
                device_sectors,
                needed: needed.unwrap_or(u64::MAX),
                minor: at.minor,
            }),
        }
    }

    /// The array is one that can exist.
    fn check_geometry(&self) -> Result<(Level, Layout), SuperblockError> {
        let head = &self.head;
        let number = head.i32(wire::LEVEL);
        let level = Level::from_number(number).ok_or(SuperblockError::Level(number))?;
        let layout_number = head.u32(wire::LAYOUT);
        let layout = Layout::from_number(level, layout_number)
            .ok_or(SuperblockError::Layout { level: number, layout: layout_number })?;
        let chunk_sectors = head.u32(wire::CHUNK);
        if !chunk_sectors.is_power_of_two() || chunk_sectors < 8 {
            return Err(SuperblockError::Chunk(chunk_sectors));
        }
        let raid_disks = head.u32(wire::RAID_DISKS);
        if !(u32::from(level.min_members())..=u32::from(level.max_members())).contains(&raid_disks) {
            return Err(SuperblockError::RaidDisks { level: number, raid_disks });
        }
        let size = head.u64(wire::SIZE);
        // Byte addresses of the array are 64-bit too, so that nothing computed from the size overflows.
        let addressable = size.checked_mul(SECTOR).and_then(|bytes| bytes.checked_mul(u64::from(raid_disks)));
        if size < u64::from(chunk_sectors) || addressable.is_none() {
            return Err(SuperblockError::Size { size, chunk_sectors });
        }
        Ok((level, layout))
    }
}
