//! The partial parity log (PPL) of a RAID 5 member: headers, entries, and where in the area they are.
//!
//! Before a stripe is written, the member that holds its parity is given a log: a header of 4 KiB with up to
//! [`PPL_MAX_ENTRIES`] entries, and behind it their **partial parity**, which is the XOR of the data blocks that
//! the write leaves alone. After a crash in the middle of the write, parity is the XOR of that and of whatever
//! the written blocks hold. Only the newest log of each member counts. Formats: md_p.h (`struct ppl_header`,
//! `struct ppl_header_entry`); rules: raid5-ppl.c (`ppl_load_distributed`, `ppl_recover_entry`).
//!
//! Everything here comes from a disk and is believed only as far as its checksums and the shape of the array go.

use crate::areas::AreaKind;
use crate::crc32c::crc32c;
use crate::features::Features;
use crate::level::Level;
use crate::superblock::Superblock;
use crate::uuid::Uuid;
use crate::wire::SECTOR;
use thiserror::Error;

/// Bytes of a header.
pub const PPL_HEADER_BYTES: usize = 4096;
/// The most entries of a header.
pub const PPL_MAX_ENTRIES: usize = 148;
/// The unit of partial parity: md's page.
pub const PPL_BLOCK: u32 = 4096;

/// Partial parity of one log where an area holds several.
const LOG_SPACE: usize = 128 << 10;
/// Entries are for arrays of at most so many members.
const MAX_MEMBERS: u16 = 64;

const SIGNATURE: usize = 512;
const GENERATION: usize = 520;
const COUNT: usize = 528;
const CHECKSUM: usize = 532;
const ENTRIES: usize = 536;
const ENTRY_BYTES: usize = 24;

/// Why there is no log at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PplError {
    /// There are not enough bytes for a header.
    #[error("ends inside a header")]
    Truncated,
    /// It is no log, or the log of another array.
    #[error("is not that of this array (signature {found:08x}, expected {expected:08x})")]
    Signature {
        /// What is there.
        found: u32,
        /// What the array's identity gives.
        expected: u32,
    },
    /// It is a log of this array and does not match its checksum: half-written, or damaged.
    #[error("does not match its checksum: it was half-written, or is damaged")]
    Checksum,
    /// More entries than a header has room for.
    #[error("claims {0} entries, a header holds 148")]
    Count(u32),
}

/// One entry of a header, as it is on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PplEntry {
    /// The first array sector (of 512 bytes) of the data that were written.
    pub data_sector: u64,
    /// Bytes of partial parity; 0 if all data of the stripe were written.
    pub pp_bytes: u32,
    /// Bytes of data that were written, on all members together.
    pub data_bytes: u32,
    /// The role that holds the parity.
    pub parity_role: u32,
    /// Checksum of the partial parity; 0 if there is none.
    pub checksum: u32,
}

/// A header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PplHeader {
    /// Counts the logs of all members since the array was started.
    pub generation: u64,
    /// Its entries. Their partial parities follow the header in the same order.
    pub entries: Vec<PplEntry>,
}

/// What an entry says, in terms of a chunk row: blocks `offset` to `offset + strip_bytes` of the chunks of
/// `lanes` data lanes from `first_lane` on (in the order of the array's addresses) were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PplRows {
    /// The chunk row.
    pub row: u64,
    /// First byte inside the chunks; a multiple of [`PPL_BLOCK`].
    pub offset: u64,
    /// Bytes of each chunk; a multiple of [`PPL_BLOCK`].
    pub strip_bytes: u64,
    /// The first data lane that was written.
    pub first_lane: u16,
    /// How many were; neighbours.
    pub lanes: u16,
}

/// The log area of one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PplArea {
    /// Its first byte, from the start of the device.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The most partial parity of one log, in bytes; a multiple of [`PPL_BLOCK`].
    pub log_space: u32,
    /// Logs are written one behind the other; otherwise each at the start.
    pub several: bool,
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + value.len()) {
        to.copy_from_slice(value);
    }
}

fn checksum_of(bytes: &[u8]) -> u32 {
    !crc32c(!0, bytes)
}

/// What marks the logs of an array.
fn signature(array: Uuid) -> u32 {
    checksum_of(&array.0)
}

impl PplEntry {
    fn parse(bytes: &[u8], at: usize) -> Option<Self> {
        Some(PplEntry {
            data_sector: u64::from_le_bytes(bytes_at(bytes, at)?),
            pp_bytes: u32::from_le_bytes(bytes_at(bytes, at + 8)?),
            data_bytes: u32::from_le_bytes(bytes_at(bytes, at + 12)?),
            parity_role: u32::from_le_bytes(bytes_at(bytes, at + 16)?),
            checksum: u32::from_le_bytes(bytes_at(bytes, at + 20)?),
        })
    }

    /// Whether this is its partial parity. The checksum of none is 0.
    pub fn matches(&self, partial_parity: &[u8]) -> bool {
        let checksum = if partial_parity.is_empty() { 0 } else { checksum_of(partial_parity) };
        partial_parity.len() == self.pp_bytes as usize && checksum == self.checksum
    }

    /// What was written, on an array with chunks of `chunk_bytes`, `data_lanes` data chunks in a row and `rows`
    /// rows. `None` if that is not a part of one chunk row in whole blocks, which md writes always.
    pub fn rows(&self, chunk_bytes: u64, data_lanes: u16, rows: u64) -> Option<PplRows> {
        let block = u64::from(PPL_BLOCK);
        let (pp, data) = (u64::from(self.pp_bytes), u64::from(self.data_bytes));
        let lanes = if pp == 0 { u64::from(data_lanes) } else { data.checked_div(pp)? };
        let strip_bytes = data.checked_div(lanes)?;
        let start = self.data_sector.checked_mul(SECTOR)?;
        let (chunk, offset) = (start.checked_div(chunk_bytes)?, start.checked_rem(chunk_bytes)?);
        let row = chunk.checked_div(data_lanes.into())?;
        let first_lane = chunk.checked_rem(data_lanes.into())?;
        let whole = [strip_bytes, offset].iter().all(|bytes| bytes.is_multiple_of(block));
        let exact = strip_bytes * lanes == data && strip_bytes > 0 && (pp == 0 || pp == strip_bytes);
        let inside = offset + strip_bytes <= chunk_bytes && row < rows;
        // Both are at most the number of data lanes.
        let fits = first_lane + lanes <= u64::from(data_lanes);
        let (first_lane, lanes) = (first_lane as u16, u16::try_from(lanes).ok()?);
        (whole && exact && inside && fits).then_some(PplRows { row, offset, strip_bytes, first_lane, lanes })
    }
}

impl PplHeader {
    /// The header of an area in which nothing is logged.
    pub fn empty() -> Self {
        PplHeader { generation: 0, entries: Vec::new() }
    }

    /// Reads a header of this array.
    ///
    /// # Errors
    /// There is none.
    pub fn parse(bytes: &[u8], array: Uuid) -> Result<Self, PplError> {
        let header = bytes.get(..PPL_HEADER_BYTES).ok_or(PplError::Truncated)?;
        let number = |at| bytes_at(header, at).map(u32::from_le_bytes).ok_or(PplError::Truncated);
        let (found, expected) = (number(SIGNATURE)?, signature(array));
        if found != expected {
            return Err(PplError::Signature { found, expected });
        }
        let mut zeroed = header.to_vec();
        put(&mut zeroed, CHECKSUM, &[0; 4]);
        if number(CHECKSUM)? != checksum_of(&zeroed) {
            return Err(PplError::Checksum);
        }
        let count = number(COUNT)?;
        if count as usize > PPL_MAX_ENTRIES {
            return Err(PplError::Count(count));
        }
        let entries = (0..count as usize).map(|n| PplEntry::parse(header, ENTRIES + n * ENTRY_BYTES));
        Ok(PplHeader {
            generation: bytes_at(header, GENERATION).map(u64::from_le_bytes).ok_or(PplError::Truncated)?,
            entries: entries.collect::<Option<_>>().ok_or(PplError::Truncated)?,
        })
    }

    /// The bytes of the header, [`PPL_HEADER_BYTES`] of them. Entries beyond [`PPL_MAX_ENTRIES`] are not written.
    pub fn encode(&self, array: Uuid) -> Vec<u8> {
        let mut bytes = vec![0; PPL_HEADER_BYTES];
        bytes.iter_mut().take(SIGNATURE).for_each(|byte| *byte = 0xff);
        put(&mut bytes, SIGNATURE, &signature(array).to_le_bytes());
        put(&mut bytes, GENERATION, &self.generation.to_le_bytes());
        let count = self.entries.len().min(PPL_MAX_ENTRIES);
        put(&mut bytes, COUNT, &(count as u32).to_le_bytes());
        for (n, entry) in self.entries.iter().take(count).enumerate() {
            let at = ENTRIES + n * ENTRY_BYTES;
            put(&mut bytes, at, &entry.data_sector.to_le_bytes());
            put(&mut bytes, at + 8, &entry.pp_bytes.to_le_bytes());
            put(&mut bytes, at + 12, &entry.data_bytes.to_le_bytes());
            put(&mut bytes, at + 16, &entry.parity_role.to_le_bytes());
            put(&mut bytes, at + 20, &entry.checksum.to_le_bytes());
        }
        let checksum = checksum_of(&bytes);
        put(&mut bytes, CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// Bytes of the log: the header and all partial parities.
    pub fn log_bytes(&self) -> u64 {
        let parities = self.entries.iter().map(|entry| u64::from(entry.pp_bytes)).sum::<u64>();
        PPL_HEADER_BYTES as u64 + parities
    }
}

/// A log as it is written: `bytes` holds [`PPL_HEADER_BYTES`] of anything and then the partial parities of the
/// entries, in order. Puts their checksums into the entries and the header in front.
pub fn seal_log(header: &mut PplHeader, array: Uuid, bytes: &mut [u8]) {
    let mut at = PPL_HEADER_BYTES;
    for entry in &mut header.entries {
        let end = at.saturating_add(entry.pp_bytes as usize);
        entry.checksum = match bytes.get(at..end) {
            Some(parity) if !parity.is_empty() => checksum_of(parity),
            _ => 0,
        };
        at = end;
    }
    put(bytes, 0, &header.encode(array));
}

/// The newest log of an area, and the byte at which its header begins.
///
/// Logs lie one behind the other, and the area is used from the start again when it is full. So the newest is
/// the last in the row of logs whose counts do not go down.
///
/// # Errors
/// There is no log at the start of the area.
pub fn newest_log(area: &[u8], array: Uuid) -> Result<(usize, PplHeader), PplError> {
    let mut newest = (0_usize, PplHeader::parse(area, array)?);
    loop {
        let next = newest.0.saturating_add(usize::try_from(newest.1.log_bytes()).unwrap_or(usize::MAX));
        match area.get(next..).map(|rest| PplHeader::parse(rest, array)) {
            Some(Ok(header)) if header.generation >= newest.1.generation => newest = (next, header),
            _ => return Ok(newest),
        }
    }
}

impl Superblock {
    /// The partial parity log of this member; `None` if the array has none.
    pub fn ppl_area(&self) -> Option<PplArea> {
        let area = self.areas().into_iter().find(|area| area.kind == AreaKind::Ppl)?;
        let bytes = (area.bytes / PPL_BLOCK as usize) * PPL_BLOCK as usize;
        let several = bytes >= 2 * (LOG_SPACE + PPL_HEADER_BYTES);
        let room = bytes.checked_sub(PPL_HEADER_BYTES).filter(|&room| room >= PPL_BLOCK as usize)?;
        let log_space = if several { LOG_SPACE } else { room };
        // Both are below 2 GiB: the size of the area has 16 bits.
        Some(PplArea {
            offset: area.sector * SECTOR,
            bytes: bytes as u64,
            log_space: log_space as u32,
            several,
        })
    }

    /// Whether the array has a partial parity log.
    pub fn has_ppl(&self) -> bool {
        self.features().contains(Features::PPL) || self.features().contains(Features::MULTIPLE_PPLS)
    }

    /// Why the log that the feature bits speak of cannot be one, if it cannot.
    pub(crate) fn ppl_fault(&self) -> Option<&'static str> {
        let has = |feature| self.features().contains(feature);
        match () {
            () if !self.has_ppl() => None,
            () if self.level() != Level::Raid5 => Some("only RAID 5 can have one"),
            () if self.raid_disks() > MAX_MEMBERS => Some("arrays of more than 64 members cannot have one"),
            () if has(Features::PPL) && has(Features::MULTIPLE_PPLS) => Some("it is said to be of two kinds"),
            () if has(Features::BITMAP) || has(Features::JOURNAL) => {
                Some("an array with a bitmap or a journal cannot have one")
            }
            () if self.ppl_area().is_none() => Some("its place is too small"),
            () => None,
        }
    }
}
