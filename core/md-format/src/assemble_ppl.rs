//! What the partial parity logs of an array say at its start.
//!
//! The logs are looked at only if the array is dirty: after a clean stop everything that they speak of is on the
//! members, and nobody empties them then. Of each member the newest log counts, entry by entry; what does not
//! check out is doubtful. A log is written before anything that it speaks of, so half of one means that nothing
//! of it was begun; but damage looks the same, and so parity is compared everywhere if it can be.

use crate::assemble_types::{AssembleError, Found, Warning};
use crate::ppl::{PPL_HEADER_BYTES, PplArea, PplError, PplHeader, PplRows, newest_log};
use crate::superblock::{DevRole, Superblock};

/// The partial parity logs with which an array starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArrayPpl {
    /// The most partial parity of one log of any member, in bytes; a multiple of 4096.
    pub log_space: u32,
    /// What has to be done before anything relies on parity. Empty if the array is clean.
    pub replay: Vec<PplReplay>,
    /// Logs and entries that do not check out.
    pub doubtful: u32,
    /// Every member's log is one of this array, if perhaps a half-written one: whatever else is in doubt, it
    /// was written with its log.
    pub sound: bool,
    /// Parity of all stripes matched, before the writes that the logs speak of. (A resync that was broken off
    /// is not finished by them.)
    pub all_synced: bool,
}

/// One entry of a log: parity of these blocks is to be the XOR of the written data and the partial parity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PplReplay {
    /// The device whose log it is, as index in the list handed to [`crate::assemble`].
    pub found: usize,
    /// The role that the entry names as that of parity.
    pub parity_role: u32,
    /// The blocks.
    pub rows: PplRows,
    /// First byte of the partial parity on that device; `None` if all data lanes were written.
    pub pp_offset: Option<u64>,
}

impl ArrayPpl {
    /// Whether all parity can be relied on after the replay, on a whole array.
    pub fn cleans(&self) -> bool {
        !self.replay.is_empty() && self.doubtful == 0 && self.all_synced
    }
}

/// Reads the logs of the members that hold data, given as index among `found` and superblock. `None` if the
/// array has none.
///
/// # Errors
/// A member has no log, or one that cannot be.
pub(crate) fn array_ppl<'a>(
    found: &[Found],
    taken: impl Iterator<Item = (usize, &'a Superblock)>,
    newest: &Superblock,
) -> Result<Option<ArrayPpl>, AssembleError> {
    let mut log_space = None;
    let mut logs = ArrayPpl {
        log_space: 0,
        replay: Vec::new(),
        doubtful: 0,
        sound: true,
        all_synced: newest.resync_offset() == 0,
    };
    for (index, superblock) in taken {
        if superblock.has_ppl() != newest.has_ppl() {
            return Err(refused(found, index, "is missing, where other members have one"));
        }
        if let Some(why) = superblock.ppl_fault() {
            return Err(refused(found, index, why));
        }
        let Some(area) = superblock.ppl_area() else { continue };
        log_space = log_space.min(Some(area.log_space)).or(Some(area.log_space));
        if !newest.is_clean() && matches!(superblock.role(), DevRole::Active(_)) {
            logs.read(found, index, superblock, area);
        }
    }
    let Some(log_space) = log_space else { return Ok(None) };
    Ok(Some(ArrayPpl { log_space, ..logs }))
}

fn refused(found: &[Found], index: usize, why: &str) -> AssembleError {
    let label = found.get(index).map_or_else(String::new, |one| one.label.clone());
    AssembleError::Ppl { label, why: why.to_owned() }
}

impl ArrayPpl {
    fn read(&mut self, found: &[Found], index: usize, superblock: &Superblock, area: PplArea) {
        let bytes = match found.get(index).and_then(|one| one.areas.ppl.as_ref()) {
            Some(Ok(bytes)) => bytes.get(..area.bytes as usize).unwrap_or(bytes),
            _ => &[],
        };
        match newest_log(bytes, superblock.set_uuid()) {
            Ok((at, header)) => self.read_log(bytes, at, &header, index, superblock, area),
            Err(error) => {
                self.doubtful += 1;
                self.sound &= matches!(error, PplError::Checksum | PplError::Count(_));
            }
        }
    }

    fn read_log(
        &mut self,
        bytes: &[u8],
        at: usize,
        header: &PplHeader,
        index: usize,
        superblock: &Superblock,
        area: PplArea,
    ) {
        let chunk = u64::from(superblock.chunk_sectors());
        let rows = superblock.size_sectors().checked_div(chunk).unwrap_or(0);
        let data_lanes = superblock.raid_disks().saturating_sub(superblock.level().parity());
        let mut from = at.saturating_add(PPL_HEADER_BYTES);
        for entry in &header.entries {
            let parity = from..from.saturating_add(entry.pp_bytes as usize);
            let pp_offset = (entry.pp_bytes > 0).then_some(area.offset.saturating_add(from as u64));
            from = parity.end;
            let good = bytes.get(parity).is_some_and(|parity| entry.matches(parity));
            match entry.rows(chunk * 512, data_lanes, rows).filter(|_| good) {
                Some(rows) => self.replay.push(PplReplay {
                    found: index,
                    parity_role: entry.parity_role,
                    rows,
                    pp_offset,
                }),
                None => self.doubtful += 1,
            }
        }
    }
}

/// What a person should be told.
pub(crate) fn ppl_warning(ppl: &ArrayPpl, dirty: bool, degraded: bool) -> Option<Warning> {
    dirty.then_some(Warning::PplReplay {
        entries: ppl.replay.len(),
        doubtful: ppl.doubtful,
        degraded,
        resync: !degraded && !ppl.cleans(),
    })
}
