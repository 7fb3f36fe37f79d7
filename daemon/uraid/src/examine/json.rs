//! A superblock as JSON, version 1; docs/json.md describes every field. Fields are only ever added
//! within a version.

use md_format::{Description, DevRole, SECTOR, Superblock};
use serde::Serialize;

use super::{Examined, fault_word};
use crate::failure::Failure;

/// What `uraid examine --json` prints.
#[derive(Serialize, Debug)]
pub struct ExamineDocument {
    /// Version of this format.
    pub version: u32,
    /// One entry a member, in the order in which they were named.
    pub members: Vec<MemberReport>,
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
}

pub(super) fn document(examined: &[Examined<'_>]) -> Result<String, Failure> {
    let members = examined.iter().map(report).collect();
    serde_json::to_string_pretty(&ExamineDocument { version: 1, members }).map_err(Failure::operating)
}

fn report(examined: &Examined<'_>) -> MemberReport {
    let (superblock, error) = match &examined.superblock {
        Ok(superblock) => (Some(superblock_report(superblock)), None),
        Err(error) => (None, Some(ErrorReport { kind: fault_word(error), message: error.to_string() })),
    };
    MemberReport {
        path: examined.path.display().to_string(),
        device_bytes: examined.device_bytes,
        superblock,
        error,
    }
}

fn superblock_report(superblock: &Superblock) -> SuperblockReport {
    let d: Description = superblock.describe();
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    let (role, role_state) = match d.role {
        DevRole::Active(role) => (Some(role), "active"),
        DevRole::Spare => (None, "spare"),
        DevRole::Faulty => (None, "failed"),
        DevRole::Journal => (None, "journal"),
    };
    SuperblockReport {
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
