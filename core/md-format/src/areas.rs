//! What a member keeps beside its superblock, where it is, and that it lies where nothing else does.
//!
//! The places are fields of the superblock (md_p.h: `bitmap_offset`, `ppl.offset`, `bblog_offset`), in sectors
//! from its start, signed because a superblock of version 1.0 has them in front of it. What is there is another
//! module's concern; whoever reads devices reads [`Area::bytes`] at [`Area::sector`] and hands them on.

use crate::error::SuperblockError;
use crate::features::Features;
use crate::location::Minor;
use crate::superblock::{BadBlockLog, Superblock};
use crate::wire::{self, SECTOR};

/// The most bytes of a bitmap that are read. A bitmap made by mdadm has at most 128 KiB; one that does not fit
/// into this is refused when it is parsed.
const BITMAP_BYTES: u64 = 1 << 20;

/// What an area holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AreaKind {
    /// The write-intent bitmap, its superblock first.
    Bitmap,
    /// The log of bad blocks.
    BadBlocks,
    /// The partial parity log.
    Ppl,
}

impl std::fmt::Display for AreaKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            AreaKind::Bitmap => "write-intent bitmap",
            AreaKind::BadBlocks => "bad-block log",
            AreaKind::Ppl => "partial parity log",
        })
    }
}

/// A run of sectors beside the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Area {
    /// What it holds.
    pub kind: AreaKind,
    /// Its first sector, from the start of the device.
    pub sector: u64,
    /// Bytes to read there, whole sectors. Of a bitmap, whose length only its own superblock tells, as much as
    /// there is room for up to the next thing on the member, but no more than 1 MiB.
    pub bytes: usize,
}

impl Area {
    fn meets(&self, other: &Area) -> bool {
        let end = |area: &Area| area.sector.saturating_add(area.bytes as u64 / SECTOR);
        self.sector < end(other) && other.sector < end(self)
    }
}

/// The areas of one member as they were read. `None`: it has no such area, or nobody read it; an error says
/// why it could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Areas {
    /// The write-intent bitmap.
    pub bitmap: Option<Result<Vec<u8>, String>>,
    /// The log of bad blocks.
    pub bad_blocks: Option<Result<Vec<u8>, String>>,
    /// The partial parity log.
    pub ppl: Option<Result<Vec<u8>, String>>,
}

impl Areas {
    /// Reads every area of a member: `read` is given the first byte and the number of bytes, and may give
    /// fewer where the device ends.
    pub fn read<E: ToString>(
        superblock: &Superblock,
        mut read: impl FnMut(u64, usize) -> Result<Vec<u8>, E>,
    ) -> Self {
        let mut areas = Areas::default();
        for area in superblock.areas() {
            let bytes = read(area.sector.saturating_mul(SECTOR), area.bytes).map_err(|e| e.to_string());
            *areas.slot(area.kind) = Some(bytes);
        }
        areas
    }

    fn slot(&mut self, kind: AreaKind) -> &mut Option<Result<Vec<u8>, String>> {
        match kind {
            AreaKind::Bitmap => &mut self.bitmap,
            AreaKind::BadBlocks => &mut self.bad_blocks,
            AreaKind::Ppl => &mut self.ppl,
        }
    }
}

impl Superblock {
    /// What this member keeps beside its superblock, as its feature bits say. No area meets the superblock or
    /// the data; that was checked when the superblock was.
    pub fn areas(&self) -> Vec<Area> {
        let features = self.features();
        let ppl = features.contains(Features::PPL) || features.contains(Features::MULTIPLE_PPLS);
        let kinds = [
            (features.contains(Features::BITMAP), AreaKind::Bitmap),
            (features.contains(Features::BAD_BLOCKS), AreaKind::BadBlocks),
            (ppl, AreaKind::Ppl),
        ];
        let wanted = kinds.into_iter().filter(|(there, _)| *there);
        wanted.filter_map(|(_, kind)| self.area(kind)).collect()
    }

    /// Where bad blocks of this member can be logged, whether or not any are yet; `None` if it has no log, or one
    /// where something else lies or that md would not read.
    pub fn bad_block_area(&self) -> Option<(Area, BadBlockLog)> {
        let log = self.bad_block_log().filter(|log| log.sectors <= 8 && log.shift < 64)?;
        let area = self.area(AreaKind::BadBlocks)?;
        let others = self.areas().into_iter().filter(|other| other.kind != AreaKind::BadBlocks);
        (!others.into_iter().any(|other| other.meets(&area))).then_some((area, log))
    }

    /// Where an area of this kind is, whether or not the feature bits say that it counts; `None` if the place
    /// is impossible or there is none.
    pub(crate) fn area(&self, kind: AreaKind) -> Option<Area> {
        let (offset, sectors) = self.area_field(kind);
        let sector = self.super_offset().checked_add_signed(offset)?;
        let room = self.area_end(sector, kind)?.checked_sub(sector)?;
        let sectors = match sectors {
            Some(sectors) => Some(sectors).filter(|&s| s > 0 && s <= room)?,
            None => Some(room.min(BITMAP_BYTES / SECTOR)).filter(|&room| room > 0)?,
        };
        let bytes = usize::try_from(sectors * SECTOR).ok()?;
        (offset != 0).then_some(Area { kind, sector, bytes })
    }

    /// Sectors from the superblock, and how many if the superblock says so.
    fn area_field(&self, kind: AreaKind) -> (i64, Option<u64>) {
        match kind {
            AreaKind::Bitmap => (i64::from(self.head.i32(wire::BITMAP_OFFSET)), None),
            AreaKind::BadBlocks => {
                (i64::from(self.head.i32(wire::BBLOG_OFFSET)), Some(self.head.u16(wire::BBLOG_SIZE).into()))
            }
            AreaKind::Ppl => {
                (i64::from(self.head.i16(wire::PPL_OFFSET)), Some(self.head.u16(wire::PPL_SIZE).into()))
            }
        }
    }

    /// Where an area that begins at `sector` has to end: at the next thing on the member. `None` if it begins
    /// inside the superblock or the data.
    fn area_end(&self, sector: u64, kind: AreaKind) -> Option<u64> {
        let first = self.super_offset();
        let table = crate::create::table_sectors(self.max_dev());
        let (start, end) = match self.minor() {
            Minor::V0 => (self.data_offset().checked_add(self.size_sectors().min(self.data_size()))?, first),
            Minor::V1 | Minor::V2 => (first.checked_add(table)?, self.first_data_sector()),
        };
        // A bitmap has no length here: what is behind it bounds it.
        let (log, _) = self.area_field(AreaKind::BadBlocks);
        let log =
            first.checked_add_signed(log).filter(|&at| kind == AreaKind::Bitmap && log != 0 && at > sector);
        (start <= sector && sector < end).then(|| end.min(log.unwrap_or(end)))
    }

    /// The first data sector, now or after a reshape.
    fn first_data_sector(&self) -> u64 {
        let offset = self.data_offset();
        let moved = offset.checked_add_signed(i64::from(self.head.i32(wire::NEW_OFFSET)));
        match moved {
            Some(moved) if self.features().contains(Features::NEW_OFFSET) => offset.min(moved),
            _ => offset,
        }
    }

    /// Every area that the feature bits speak of has a place, and no two are in the same.
    pub(crate) fn check_areas_apart(&self) -> Result<(), SuperblockError> {
        let features = self.features();
        let ppl = features.contains(Features::PPL) || features.contains(Features::MULTIPLE_PPLS);
        let spoken_of = [
            (features.contains(Features::BITMAP), AreaKind::Bitmap),
            (features.contains(Features::BAD_BLOCKS), AreaKind::BadBlocks),
            (ppl, AreaKind::Ppl),
        ];
        let mut taken: Vec<Area> = Vec::new();
        for (_, kind) in spoken_of.into_iter().filter(|(there, _)| *there) {
            let offset = self.area_field(kind).0;
            let area = self.area(kind).ok_or(SuperblockError::Area { kind, offset })?;
            if taken.iter().any(|other| other.meets(&area)) {
                return Err(SuperblockError::Area { kind, offset });
            }
            taken.push(area);
        }
        Ok(())
    }
}
