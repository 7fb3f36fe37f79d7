//! A superblock as JSON, version 1; docs/json.md describes every field. Fields are only ever added
//! within a version.

use md_format::{Areas, Description, DevRole, Features, Reshape, SECTOR, Superblock};
use serde::Serialize;

use super::beside::Beside;
use super::{ArrayVerdict, Examined, fault_word};
use crate::failure::Failure;

/// What `uraid examine --json` prints.
#[derive(Serialize, Debug)]
pub struct ExamineDocument {
    /// Version of this format.
    pub version: u32,
    /// One entry a member, in the order in which they were named.
    pub members: Vec<MemberReport>,
    /// The verdict over each array of which a member was named.
    pub arrays: Vec<ArrayVerdict>,
}

/// One member: `superblock` or `error` is there, never both.
#[derive(Serialize, Debug)]
pub struct MemberReport {
    /// The path as it was named.
    pub path: String,
    /// Size of the file or device, if it could be opened.
    pub device_bytes: Option<u64>,
    /// What its superblock says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superblock: Option<SuperblockReport>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// Why a member has no usable superblock.
#[derive(Serialize, Debug)]
pub struct ErrorReport {
    /// `absent`, `damaged`, `unsupported`, `too_small` or `unreadable`.
    pub kind: &'static str,
    /// The same for people.
    pub message: String,
}

/// A superblock. Offsets count from the start of the device unless their name says otherwise.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct SuperblockReport {
    pub metadata: String,
    pub array_uuid: String,
    pub array_name: String,
    pub level: i32,
    pub layout: &'static str,
    pub layout_number: u32,
    pub raid_disks: u16,
    pub chunk_bytes: u64,
    pub array_bytes: u64,
    pub used_member_bytes: u64,
    pub available_member_bytes: u64,
    pub created_at: u64,
    pub updated_at: u64,
    pub events: u64,
    pub state: &'static str,
    pub resync_offset_bytes: Option<u64>,
    pub recovery_offset_bytes: Option<u64>,
    pub feature_map: u32,
    pub features: Vec<&'static str>,
    pub superblock_offset_bytes: u64,
    pub data_offset_bytes: u64,
    pub member_uuid: String,
    pub member_number: u32,
    pub role: Option<u16>,
    pub role_state: &'static str,
    pub corrected_read_bytes: u64,
    pub logical_block_bytes: Option<u32>,
    pub checksum: String,
    pub array_state: String,
    pub unused_before_bytes: Option<u64>,
    pub unused_after_bytes: Option<u64>,
    pub flags: Vec<&'static str>,
    pub reshape: Option<ReshapeReport>,
    pub bitmap: Option<BitmapReport>,
    pub ppl: Option<PplReport>,
    pub bad_block_log: Option<BadBlocksReport>,
}

/// A reshape under way.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct ReshapeReport {
    pub position_bytes: u64,
    pub backwards: bool,
    pub old_raid_disks: u32,
    pub new_level: i32,
    pub new_layout_number: u32,
    pub new_chunk_bytes: u64,
    pub new_data_offset_bytes: Option<u64>,
}

/// A write-intent bitmap.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct BitmapReport {
    pub offset_bytes: i64,
    pub error: Option<String>,
    pub events: Option<u64>,
    pub events_cleared: Option<u64>,
    pub region_bytes: Option<u64>,
    pub regions: Option<u64>,
    pub dirty_regions: Option<u64>,
    pub stale: Option<bool>,
}

/// A partial parity log.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct PplReport {
    pub offset_bytes: i64,
    pub bytes: u64,
    pub error: Option<String>,
    pub generation: Option<u64>,
    pub entries: Option<usize>,
}

/// A log of bad blocks.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct BadBlocksReport {
    pub offset_bytes: i64,
    pub capacity: u64,
    pub error: Option<String>,
    pub ranges: Vec<BadRange>,
}

/// A run of bytes that cannot be read, from the start of the device.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct BadRange {
    pub offset_bytes: u64,
    pub bytes: u64,
}

pub(super) fn document(examined: &[Examined<'_>], arrays: Vec<ArrayVerdict>) -> Result<String, Failure> {
    let members = examined.iter().map(report).collect();
    serde_json::to_string_pretty(&ExamineDocument { version: 1, members, arrays }).map_err(Failure::operating)
}

fn report(examined: &Examined<'_>) -> MemberReport {
    let (superblock, error) = match &examined.found.superblock {
        Ok(superblock) => (Some(superblock_report(superblock, &examined.found.areas)), None),
        Err(error) => (None, Some(ErrorReport { kind: fault_word(error), message: error.to_string() })),
    };
    MemberReport {
        path: examined.path.display().to_string(),
        device_bytes: examined.device_bytes,
        superblock,
        error,
    }
}

fn bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR)
}

fn signed_bytes(sectors: i64) -> i64 {
    sectors.saturating_mul(SECTOR as i64)
}

fn bitmap_report(d: &Description, beside: &Beside) -> Option<BitmapReport> {
    let bitmap = beside.sound_bitmap();
    Some(BitmapReport {
        offset_bytes: signed_bytes(d.bitmap_offset?),
        error: beside.bitmap.as_ref().and_then(|read| read.as_ref().err().cloned()),
        events: bitmap.map(md_format::Bitmap::events),
        events_cleared: bitmap.map(md_format::Bitmap::events_cleared),
        region_bytes: bitmap.map(md_format::Bitmap::chunk_bytes),
        regions: bitmap.map(md_format::Bitmap::regions),
        dirty_regions: bitmap.map(|bitmap| bitmap.set_regions().count() as u64),
        stale: bitmap.map(md_format::Bitmap::is_stale),
    })
}

fn ppl_report(d: &Description, beside: &Beside) -> Option<PplReport> {
    let (offset, sectors) = d.ppl?;
    let log = beside.ppl.as_ref();
    Some(PplReport {
        offset_bytes: signed_bytes(offset),
        bytes: bytes(sectors),
        error: log.and_then(|log| log.as_ref().err().cloned()),
        generation: log.and_then(|log| log.as_ref().ok()).map(|log| log.generation),
        entries: log.and_then(|log| log.as_ref().ok()).map(|log| log.entries.len()),
    })
}

fn bad_blocks_report(d: &Description, beside: &Beside) -> Option<BadBlocksReport> {
    let log = d.bad_block_log?;
    let read = beside.bad_blocks.as_ref();
    let ranges = read.and_then(|read| read.as_ref().ok()).into_iter().flat_map(md_format::BadBlocks::ranges);
    Some(BadBlocksReport {
        offset_bytes: signed_bytes(log.offset.into()),
        capacity: bytes(log.sectors.into()) / 8,
        error: read.and_then(|read| read.as_ref().err().cloned()),
        ranges: ranges
            .map(|(start, len)| BadRange { offset_bytes: bytes(start), bytes: bytes(len) })
            .collect(),
    })
}

fn reshape_report(reshape: Reshape) -> ReshapeReport {
    ReshapeReport {
        position_bytes: bytes(reshape.position),
        backwards: reshape.backwards,
        old_raid_disks: reshape.old_disks,
        new_level: reshape.new_level,
        new_layout_number: reshape.new_layout,
        new_chunk_bytes: bytes(reshape.new_chunk_sectors.into()),
        new_data_offset_bytes: reshape.new_data_offset.map(bytes),
    }
}

fn superblock_report(superblock: &Superblock, areas: &Areas) -> SuperblockReport {
    let beside = Beside::of(superblock, areas);
    let d: Description = superblock.describe_with(beside.sound_bitmap());
    let flags = [(d.write_mostly, "write-mostly"), (d.failfast, "failfast")];
    let (role, role_state) = match d.role {
        DevRole::Active(role) if d.features.contains(Features::REPLACEMENT) => (Some(role), "replacement"),
        DevRole::Active(role) => (Some(role), "active"),
        DevRole::Spare => (None, "spare"),
        DevRole::Faulty => (None, "failed"),
        DevRole::Journal => (None, "journal"),
    };
    SuperblockReport {
        unused_before_bytes: d.unused.map(|(before, _)| bytes(before)),
        unused_after_bytes: d.unused.map(|(_, after)| bytes(after)),
        flags: flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect(),
        reshape: d.reshape.map(reshape_report),
        bitmap: bitmap_report(&d, &beside),
        ppl: ppl_report(&d, &beside),
        bad_block_log: bad_blocks_report(&d, &beside),
        metadata: d.version.to_string(),
        array_uuid: d.set_uuid.to_string(),
        array_name: d.name,
        level: d.level.number(),
        layout: d.layout.name(),
        layout_number: d.layout.number(),
        raid_disks: d.raid_disks,
        chunk_bytes: bytes(d.chunk_sectors.into()),
        array_bytes: bytes(d.array_sectors),
        used_member_bytes: bytes(d.size_sectors),
        available_member_bytes: bytes(d.data_size),
        created_at: d.ctime,
        updated_at: d.utime,
        events: d.events,
        state: if d.clean { "clean" } else { "active" },
        resync_offset_bytes: d.resync_offset.map(bytes),
        recovery_offset_bytes: d.recovery_offset.map(bytes),
        feature_map: d.features.bits(),
        features: d.features.names(),
        superblock_offset_bytes: bytes(d.super_offset),
        data_offset_bytes: bytes(d.data_offset),
        member_uuid: d.device_uuid.to_string(),
        member_number: d.dev_number,
        role,
        role_state,
        corrected_read_bytes: bytes(d.corrected_reads.into()),
        logical_block_bytes: d.logical_block_size,
        checksum: format!("{:08x}", d.checksum),
        array_state: d.array_state,
    }
}
