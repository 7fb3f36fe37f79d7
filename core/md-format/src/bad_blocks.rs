//! The bad-block log: the ranges of a member that hold nothing that counts.
//!
//! Next to its superblock a member may keep a log of at most 512 entries (md: `bblog_offset`, `bblog_size`,
//! `bblog_shift`), each 64 bits, little-endian: the first sector shifted left by 10, and in the low 10 bits how
//! many. Both count in units of `512 << bblog_shift` bytes, from the start of the **device**, not of the data. The
//! log ends with its last sector or at the first entry of all ones. Only the feature bit says whether it counts.
//! It is a set: order, overlaps and neighbours mean nothing. md merges neighbours and makes no entry longer than
//! 512 units, and so does [`BadBlocks::encode`].
//!
//! A log is not written at once: a power cut leaves any of its sectors old and any new, so an entry that moves from
//! one sector to another may be in neither. [`BadBlocks::encode_over`] moves none before it is where it goes.

use crate::bad_block_slots::Slots;
use crate::superblock::BadBlockLog;
use crate::wire::SECTOR;
use std::collections::BTreeMap;
use std::ops::Range;
use thiserror::Error;

/// The most entries that md keeps of one member.
const MAX_ENTRIES: usize = 512;

/// The most units of an entry that md writes.
const MAX_UNITS: u64 = 512;

/// What the end of the log looks like.
pub(crate) const END: u64 = u64::MAX;

/// Bytes of an entry.
pub(crate) const ENTRY: usize = 8;

/// An entry, of no more than [`MAX_UNITS`] units.
pub(crate) fn entry_bytes(units: &Range<u64>) -> [u8; ENTRY] {
    (units.start << 10 | (units.end - units.start)).to_le_bytes()
}

/// Why bytes are not a bad-block log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadBlocksError {
    /// Fewer bytes than the superblock says.
    #[error("{got} bytes of {need} could be read")]
    Truncated {
        /// Bytes there are.
        got: usize,
        /// Bytes of the log.
        need: usize,
    },
    /// An entry that no device reaches.
    #[error("entry {index} ({value:#018x}) lies beyond 64 bits of sectors")]
    Entry {
        /// Which.
        index: usize,
        /// As it stands in the log.
        value: u64,
    },
    /// More bad ranges than md can keep.
    #[error("it lists {0} ranges, md keeps 512 at most")]
    TooMany(usize),
}

/// More ranges than the log has entries for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{entries} entries are needed, the bad-block log has {room}")]
pub struct BadBlocksFull {
    /// Entries needed.
    pub entries: usize,
    /// Entries of the log.
    pub room: usize,
}

impl BadBlockLog {
    /// Bytes of the log.
    pub fn bytes(self) -> usize {
        usize::from(self.sectors) * SECTOR as usize
    }

    /// Entries that fit.
    pub fn room(self) -> usize {
        (self.bytes() / ENTRY).min(MAX_ENTRIES)
    }
}

/// A set of bad sectors, counted from the start of the device.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct BadBlocks {
    /// First sector to the sector behind the last; ranges neither overlap nor touch.
    ranges: BTreeMap<u64, u64>,
}

impl BadBlocks {
    /// Reads a log. Entries of no length are passed over, as Linux 6.1 does.
    ///
    /// # Errors
    /// Where the kernel would refuse the member, and where sector numbers do not fit into 64 bits.
    pub fn parse(log: BadBlockLog, bytes: &[u8]) -> Result<Self, BadBlocksError> {
        let need = log.bytes();
        let bytes = bytes.get(..need).ok_or(BadBlocksError::Truncated { got: bytes.len(), need })?;
        let mut bad = BadBlocks::default();
        let values = bytes.as_chunks::<ENTRY>().0.iter().map(|entry| u64::from_le_bytes(*entry));
        for (index, value) in values.take_while(|&value| value != END).enumerate() {
            let beyond = BadBlocksError::Entry { index, value };
            let sectors = |units: u64| {
                units
                    .checked_mul(1_u64.checked_shl(u32::from(log.shift)).unwrap_or(0))
                    .filter(|&s| s >= units)
            };
            let (start, len) = (sectors(value >> 10), sectors(value & 0x3ff));
            let (start, len) = (start.ok_or(beyond)?, len.ok_or(beyond)?);
            start.checked_add(len).ok_or(beyond)?;
            bad.insert(start, len);
        }
        match bad.entries(log.shift) {
            many if many > MAX_ENTRIES => Err(BadBlocksError::TooMany(many)),
            _ => Ok(bad),
        }
    }

    /// The bytes of the log as md writes them: sorted, filled up with ones. Ranges are rounded out to units.
    ///
    /// # Errors
    /// There is no room for that many ranges.
    pub fn encode(&self, log: BadBlockLog) -> Result<Vec<u8>, BadBlocksFull> {
        let (entries, room) = (self.entries(log.shift), log.room());
        if entries > room {
            return Err(BadBlocksFull { entries, room });
        }
        let mut bytes = Vec::with_capacity(log.bytes());
        self.units(log.shift).for_each(|units| bytes.extend(entry_bytes(&units)));
        bytes.resize(log.bytes(), 0xff);
        Ok(bytes)
    }

    /// The log of this set, written over `old` in steps: images of all of it, to be written one after the other, each
    /// durable before the next. However the steps are cut off, and whichever sectors of one are still old then, the log
    /// lists all that both the old and the new one list, and nothing that neither does. Usually it is one step, and
    /// none if nothing changes. A log of one sector is as [`Self::encode`] makes it, a longer one neither sorted nor
    /// short: entries stay where they are, and what would be a gap lists something once more.
    ///
    /// In a log without a slot to spare, of whose ranges one is listed in several entries, there may be no such order;
    /// then it is written at once. An `old` of another length is one of which nothing is needed.
    ///
    /// # Errors
    /// As of [`Self::encode`].
    pub fn encode_over(&self, log: BadBlockLog, old: &[u8]) -> Result<Vec<Vec<u8>>, BadBlocksFull> {
        let new = self.encode(log)?;
        let sectors = || old.chunks(SECTOR as usize).zip(new.chunks(SECTOR as usize));
        let differ = sectors().filter(|(old, new)| old != new).count();
        if old.len() != new.len() || differ <= 1 {
            return Ok(if old == new { Vec::new() } else { vec![new] });
        }
        let entries: Vec<Range<u64>> = self.units(log.shift).collect();
        let mut slots = Slots::read(log, old, &entries);
        // What a crash left behind the end must not show when the end moves.
        let mut steps = vec![slots.bytes()];
        if entries.len() * ENTRY <= SECTOR as usize {
            let mut all_in_the_first = slots.bytes();
            all_in_the_first.splice(..SECTOR as usize, new.iter().take(SECTOR as usize).copied());
            steps.extend([all_in_the_first, new]);
        } else {
            while let Some(step) = slots.next_step() {
                steps.push(step.unwrap_or_else(|| new.clone()));
            }
        }
        steps.dedup();
        if steps.first().is_some_and(|first| first == old) {
            steps.remove(0);
        }
        Ok(steps)
    }

    /// Entries of a log that holds this set.
    pub fn entries(&self, shift: u8) -> usize {
        self.units(shift).count()
    }

    /// The entries of a log, in its units.
    fn units(&self, shift: u8) -> impl Iterator<Item = Range<u64>> {
        let shift = u32::from(shift.min(63));
        let round = (1_u64 << shift) - 1;
        let mut done = 0;
        let whole = self.ranges.iter().filter_map(move |(&start, &end)| {
            // Two ranges may share a unit.
            let start = (start >> shift).max(done);
            let end = end.saturating_add(round) >> shift;
            done = end.max(done);
            (start < end).then_some(start..end)
        });
        whole.flat_map(|units| {
            let starts = (units.start..units.end).step_by(MAX_UNITS as usize);
            starts.map(move |start| start..units.end.min(start + MAX_UNITS))
        })
    }

    /// Adds sectors.
    pub fn insert(&mut self, start: u64, sectors: u64) {
        if sectors == 0 {
            return;
        }
        let (mut first, mut last) = (start, start.saturating_add(sectors));
        // Whatever overlaps or touches becomes a part of it.
        while let Some((&from, &to)) = self.ranges.range(..=last).next_back().filter(|(_, to)| **to >= first)
        {
            self.ranges.remove(&from);
            (first, last) = (first.min(from), last.max(to));
        }
        self.ranges.insert(first, last);
    }

    /// Takes sectors away.
    pub fn remove(&mut self, start: u64, sectors: u64) {
        let end = start.saturating_add(sectors);
        if sectors == 0 {
            return;
        }
        while let Some((&from, &to)) = self.ranges.range(..end).next_back().filter(|(_, to)| **to > start) {
            self.ranges.remove(&from);
            if to > end {
                self.ranges.insert(end, to);
            }
            if from < start {
                self.ranges.insert(from, start);
            }
        }
    }

    /// Adds all of another set.
    pub fn insert_all(&mut self, other: &BadBlocks) {
        other.ranges().for_each(|(start, sectors)| self.insert(start, sectors));
    }

    /// Takes all of another set away.
    pub fn remove_all(&mut self, other: &BadBlocks) {
        other.ranges().for_each(|(start, sectors)| self.remove(start, sectors));
    }

    /// Whether any of these sectors is bad.
    pub fn overlaps(&self, start: u64, sectors: u64) -> bool {
        self.within(start, sectors).next().is_some()
    }

    /// The bad ranges among these sectors, clipped to them: first sector and how many, ascending.
    pub fn within(&self, start: u64, sectors: u64) -> impl Iterator<Item = (u64, u64)> {
        let end = start.saturating_add(sectors);
        let before = self.ranges.range(..start).next_back();
        let inside = self.ranges.range(start..end.max(start));
        before.into_iter().chain(inside).filter_map(move |(&from, &to)| {
            let (from, to) = (from.max(start), to.min(end));
            (from < to).then(|| (from, to - from))
        })
    }

    /// All ranges, ascending: first sector and how many.
    pub fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(&start, &end)| (start, end - start))
    }

    /// Whether nothing is bad.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bad sectors.
    pub fn sectors(&self) -> u64 {
        self.ranges().fold(0, |all, (_, sectors)| all.saturating_add(sectors))
    }
}
