//! The write-intent bitmap: a superblock of 256 bytes, and behind it a bit a region (md-bitmap.h,
//! `bitmap_super_t`, version 4). A region is a run of member sectors, counted from the data offset, so one bit
//! speaks of the same rows on all members. A bit is on the members before anything in its region is written,
//! and stays until all of it is.
//!
//! Bytes are kept as they were read, as those of the member's superblock are: what is not known here is written
//! back unchanged. [`Bitmap::page`] cuts them into the pieces in which they are written.

use crate::areas::AreaKind;
use crate::superblock::Superblock;
use crate::uuid::Uuid;
use crate::wire::SECTOR;
use thiserror::Error;

/// Bytes of the superblock; the bits follow it at once.
const HEAD: usize = 256;
/// "bitm".
const MAGIC: u32 = 0x6d74_6962;
/// Little-endian words, one host; 3 has words of the writer's order, 5 belongs to a cluster, 6 is lockless.
const VERSION: u32 = 4;
/// The state bits that say that the bits cannot be believed: not written while the array was, or not in full.
const STATE_STALE: u32 = 2;
const STATE_WRITE_ERROR: u32 = 4;
/// The unit in which a bitmap is written.
const PAGE: usize = 4096;
/// Seconds that mdadm lets pass before a bit is cleared.
const DAEMON_SLEEP: u32 = 5;
/// The smallest region that mdadm takes unless told otherwise, in bytes.
const DEFAULT_CHUNK: u64 = 64 << 20;
/// The smallest region there can be when an array is made.
const LEAST_CHUNK: u64 = 4096;
/// The most room that mdadm gives to the bits of a new array.
const MOST_ROOM: u64 = 128 << 10;

/// Where fields begin.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 4;
    pub(super) const UUID: usize = 8;
    pub(super) const EVENTS: usize = 24;
    pub(super) const EVENTS_CLEARED: usize = 32;
    pub(super) const SYNC_SIZE: usize = 40;
    pub(super) const STATE: usize = 48;
    pub(super) const CHUNK: usize = 52;
    pub(super) const DAEMON_SLEEP: usize = 56;
    pub(super) const WRITE_BEHIND: usize = 60;
    pub(super) const RESERVED: usize = 64;
}

/// Why bytes are not a usable bitmap.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BitmapError {
    /// It could not be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The bytes end before the bitmap does.
    #[error("is cut short: {got} bytes of {need}")]
    Truncated {
        /// Bytes there are.
        got: usize,
        /// Bytes it has.
        need: u64,
    },
    /// The magic number is missing.
    #[error("is damaged: its magic number is missing")]
    NoMagic,
    /// Another version. 5 belongs to a cluster, 6 is lockless.
    #[error("has {}, which is not supported", version_name(*.0))]
    Version(u32),
    /// It belongs to another array.
    #[error("belongs to another array ({0})")]
    Foreign(Uuid),
    /// The size of a region is impossible.
    #[error("is damaged: a region of {0} bytes is impossible")]
    Chunk(u32),
    /// The interval at which bits are cleared is impossible.
    #[error("is damaged: bits cleared every {0} seconds are impossible")]
    DaemonSleep(u32),
}

impl BitmapError {
    /// What to do about it, in a sentence.
    ///
    /// A lockless bitmap alone knows where parity was never made, so it is not to be taken away. The others were
    /// tried with mdadm 4.2 and Linux 6.1.
    pub fn advice(&self) -> &'static str {
        match self {
            BitmapError::Unreadable(_) => "Name the other members, too, or use Linux md for this array",
            BitmapError::Version(5) => "Only the nodes of its cluster may use this array",
            BitmapError::Version(6) => {
                "Use it with Linux 6.18 or later, and do not take the bitmap away: it alone knows which parity was \
                 never made"
            }
            BitmapError::Version(_) => "Use Linux md for this array",
            BitmapError::Truncated { .. }
            | BitmapError::NoMagic
            | BitmapError::Foreign(_)
            | BitmapError::Chunk(_)
            | BitmapError::DaemonSleep(_) => {
                "Let mdadm take the bitmap away: `mdadm --assemble --update=no-bitmap`, then `mdadm --stop`"
            }
        }
    }
}

fn version_name(version: u32) -> String {
    match version {
        3 => "words in the order of the machine that made it (version 3)".to_owned(),
        5 => "the version of a cluster (5)".to_owned(),
        6 => "the lockless version (6)".to_owned(),
        _ => format!("version {version}"),
    }
}

/// Why a new array cannot have a bitmap.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum NewBitmapError {
    /// The superblock names no place for one, or there is no room.
    #[error("there is no room for a bitmap in front of the data")]
    NoRoom,
    /// The size asked for is not a power of two from 4 KiB on.
    #[error("a region of {0} bytes is not possible: take a power of two of at least 4 KiB")]
    Chunk(u64),
    /// With regions that small the bits do not fit.
    #[error("regions of {chunk} bytes are too small for the room there is; the smallest is {least}")]
    TooSmall {
        /// Bytes asked for.
        chunk: u64,
        /// The smallest that fits.
        least: u64,
    },
}

/// A write-intent bitmap: of one member, or what all members are to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    /// Superblock, bits, and what follows up to the end of the last page (or of the room for it).
    bytes: Vec<u8>,
    bits: u64,
}

/// The size of a region of a new bitmap and the bytes of all of it, whole pages or all of the room, where a
/// member uses `size` sectors and there is room for `room` bytes. See [`Bitmap::create`].
pub(crate) fn planned_bytes(size: u64, room: u64, chunk: Option<u64>) -> Result<(u64, u64), NewBitmapError> {
    let (size, room) = (size.saturating_mul(SECTOR), room.min(MOST_ROOM));
    let fits = |chunk: u64| size / chunk < room.saturating_sub(HEAD as u64) * 8;
    let sizes = (LEAST_CHUNK.trailing_zeros()..31).map(|shift| 1_u64 << shift);
    let least = sizes.clone().find(|&chunk| fits(chunk)).ok_or(NewBitmapError::NoRoom)?;
    let chunk = match chunk {
        None => least.max(DEFAULT_CHUNK),
        Some(chunk) if sizes.clone().all(|size| size != chunk) => return Err(NewBitmapError::Chunk(chunk)),
        Some(chunk) if chunk < least => return Err(NewBitmapError::TooSmall { chunk, least }),
        Some(chunk) => chunk,
    };
    let bytes = HEAD as u64 + size.div_ceil(chunk).div_ceil(8);
    Ok((chunk, bytes.next_multiple_of(PAGE as u64).min(room)))
}

impl Bitmap {
    /// Takes the bitmap of a member from the bytes of its area ([`crate::Area`]).
    ///
    /// # Errors
    /// The bytes are not a bitmap of this array that can be honoured.
    pub fn parse(bytes: &[u8], superblock: &Superblock) -> Result<Self, BitmapError> {
        let short = |need| BitmapError::Truncated { got: bytes.len(), need };
        if bytes.len() < HEAD {
            return Err(short(HEAD as u64));
        }
        let head = Bitmap { bytes: bytes.to_vec(), bits: 0 };
        if head.u32(at::MAGIC) != MAGIC {
            return Err(BitmapError::NoMagic);
        }
        if head.u32(at::VERSION) != VERSION {
            return Err(BitmapError::Version(head.u32(at::VERSION)));
        }
        if head.uuid() != superblock.set_uuid() {
            return Err(BitmapError::Foreign(head.uuid()));
        }
        let chunk = head.u32(at::CHUNK);
        if !chunk.is_power_of_two() || u64::from(chunk) < SECTOR {
            return Err(BitmapError::Chunk(chunk));
        }
        let sleep = head.daemon_sleep();
        if sleep == 0 || sleep > u32::MAX / 1000 {
            return Err(BitmapError::DaemonSleep(sleep));
        }
        let bits = superblock.size_sectors().div_ceil(u64::from(chunk) / SECTOR);
        let need = (HEAD as u64).saturating_add(bits.div_ceil(8));
        if (bytes.len() as u64) < need {
            return Err(short(need));
        }
        // `need` is no more than the length of a slice.
        let end = (need as usize).next_multiple_of(PAGE).min(bytes.len());
        Ok(Bitmap { bytes: bytes.get(..end).unwrap_or_default().to_vec(), bits })
    }

    /// The bitmap of a new array: every bit is set, as mdadm has it, since nothing is known of any region.
    /// `chunk_bytes` is the size of a region; left out it is what mdadm takes: 64 MiB, or the smallest power of
    /// two with which the bits fit if that is more (super1.c, `add_internal_bitmap1`).
    ///
    /// # Errors
    /// There is no room, or not for regions as small as that.
    pub fn create(superblock: &Superblock, chunk_bytes: Option<u64>) -> Result<Self, NewBitmapError> {
        let area = superblock.area(AreaKind::Bitmap).ok_or(NewBitmapError::NoRoom)?;
        let size = superblock.size_sectors();
        let (chunk, bytes) = planned_bytes(size, area.bytes as u64, chunk_bytes)?;
        let bits = size.saturating_mul(SECTOR).div_ceil(chunk);
        let end = area.bytes.min(bytes as usize);
        let mut bitmap = Bitmap { bytes: vec![0xff; end], bits };
        if let Some(head) = bitmap.bytes.get_mut(..HEAD) {
            head.fill(0);
        }
        bitmap.put(at::MAGIC, &MAGIC.to_le_bytes());
        bitmap.put(at::VERSION, &VERSION.to_le_bytes());
        bitmap.put(at::UUID, &superblock.set_uuid().0);
        bitmap.put(at::EVENTS, &superblock.events().to_le_bytes());
        bitmap.put(at::SYNC_SIZE, &superblock.size_sectors().to_le_bytes());
        // The size is below 2^31.
        bitmap.put(at::CHUNK, &(chunk as u32).to_le_bytes());
        bitmap.put(at::DAEMON_SLEEP, &DAEMON_SLEEP.to_le_bytes());
        Ok(bitmap)
    }

    /// The array that it belongs to.
    pub fn uuid(&self) -> Uuid {
        let mut uuid = [0; 16];
        if let Some(bytes) = self.bytes.get(at::UUID..at::UUID + 16) {
            uuid.copy_from_slice(bytes);
        }
        Uuid(uuid)
    }

    /// The array's count of events when it was last written. It is written before the superblocks, so it is
    /// not lower than theirs unless the array went on without it.
    pub fn events(&self) -> u64 {
        self.u64(at::EVENTS)
    }

    /// Sets the count of events.
    pub fn set_events(&mut self, events: u64) {
        self.put(at::EVENTS, &events.to_le_bytes());
    }

    /// The array's count of events when a bit was last cleared. A member that was away since before then
    /// missed writes of which no bit tells.
    pub fn events_cleared(&self) -> u64 {
        self.u64(at::EVENTS_CLEARED)
    }

    /// Sets the count of events at which bits are cleared.
    pub fn set_events_cleared(&mut self, events: u64) {
        self.put(at::EVENTS_CLEARED, &events.to_le_bytes());
    }

    /// Member sectors that it covers, as it says itself.
    pub fn sync_sectors(&self) -> u64 {
        self.u64(at::SYNC_SIZE)
    }

    /// Bytes of a region: a power of two, at least 512.
    pub fn chunk_bytes(&self) -> u64 {
        u64::from(self.u32(at::CHUNK))
    }

    /// Seconds for which a region is left alone before its bit is cleared; at least 1.
    pub fn daemon_sleep(&self) -> u32 {
        self.u32(at::DAEMON_SLEEP)
    }

    /// Writes that a mirror may have under way on members that are written behind; nothing to parity.
    pub fn write_behind(&self) -> u32 {
        self.u32(at::WRITE_BEHIND)
    }

    /// Sectors set aside for it, if it says so.
    pub fn sectors_reserved(&self) -> u32 {
        self.u32(at::RESERVED)
    }

    /// Whether it says of itself that its bits cannot be believed.
    pub fn is_stale(&self) -> bool {
        self.u32(at::STATE) & (STATE_STALE | STATE_WRITE_ERROR) != 0
    }

    /// The `state` field as it is.
    pub fn state(&self) -> u32 {
        self.u32(at::STATE)
    }

    /// It can be believed again: its bits are what they have to be, and `sync_size` is that of `superblock`.
    pub fn renew(&mut self, superblock: &Superblock) {
        let state = self.u32(at::STATE) & !(STATE_STALE | STATE_WRITE_ERROR);
        self.put(at::STATE, &state.to_le_bytes());
        self.put(at::SYNC_SIZE, &superblock.size_sectors().to_le_bytes());
    }

    /// Regions, and so bits.
    pub fn regions(&self) -> u64 {
        self.bits
    }

    /// Whether a region's bit is set; false beyond the last one.
    pub fn is_set(&self, region: u64) -> bool {
        region < self.bits && self.byte_of(region).is_some_and(|byte| byte >> (region % 8) & 1 == 1)
    }

    /// Sets or clears the bit of a region; nothing happens beyond the last one.
    pub fn put_bit(&mut self, region: u64, set: bool) {
        let at = HEAD + usize::try_from(region / 8).unwrap_or(usize::MAX - HEAD);
        if let Some(byte) = self.bytes.get_mut(at).filter(|_| region < self.bits) {
            let bit = 1 << (region % 8);
            *byte = if set { *byte | bit } else { *byte & !bit };
        }
    }

    /// The first region at or after `from` whose bit is set.
    pub fn next_set(&self, from: u64) -> Option<u64> {
        let mut region = from;
        while region < self.bits {
            let rest = self.byte_of(region)? >> (region % 8);
            if rest != 0 {
                return Some(region + u64::from(rest.trailing_zeros())).filter(|&found| found < self.bits);
            }
            region = (region / 8 + 1) * 8;
        }
        None
    }

    /// The regions whose bits are set, ascending.
    pub fn set_regions(&self) -> impl Iterator<Item = u64> + '_ {
        std::iter::successors(self.next_set(0), |&region| self.next_set(region + 1))
    }

    /// Sets every bit.
    pub fn set_all(&mut self) {
        (0..self.bits).for_each(|region| self.put_bit(region, true));
    }

    /// Sets every bit that is set in `other`, which has the same regions.
    pub fn merge(&mut self, other: &Bitmap) {
        other.set_regions().for_each(|region| self.put_bit(region, true));
    }

    /// Pages that it is written in.
    pub fn pages(&self) -> usize {
        self.bytes.len().div_ceil(PAGE)
    }

    /// The page that holds the bit of a region. The superblock is in page 0.
    pub fn page_of(&self, region: u64) -> usize {
        usize::try_from(region / 8).unwrap_or(usize::MAX - HEAD).saturating_add(HEAD) / PAGE
    }

    /// A page: bytes from the start of the bitmap's area, and what is to be written there; whole sectors, 4 KiB
    /// unless there is less room at the end.
    pub fn page(&self, page: usize) -> (u64, &[u8]) {
        let from = page.saturating_mul(PAGE).min(self.bytes.len());
        let to = from.saturating_add(PAGE).min(self.bytes.len());
        (from as u64, self.bytes.get(from..to).unwrap_or_default())
    }

    fn byte_of(&self, region: u64) -> Option<u8> {
        self.bytes.get(usize::try_from(region / 8).ok()?.checked_add(HEAD)?).copied()
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        if let Some(to) = self.bytes.get_mut(at..at + value.len()) {
            to.copy_from_slice(value);
        }
    }

    fn u32(&self, at: usize) -> u32 {
        let word = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    }

    fn u64(&self, at: usize) -> u64 {
        let word = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    }
}
