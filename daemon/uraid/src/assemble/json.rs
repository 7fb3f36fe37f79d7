//! What was found as JSON, version 1; docs/json.md describes every field.

use md_format::SECTOR;
use serde::Serialize;

use super::arrays::{Array, Verdict};
use super::{Findings, text};
use crate::cli::AssembleArgs;
use crate::failure::Failure;

/// What `uraid assemble --json` prints.
#[derive(Serialize, Debug)]
pub struct AssembleDocument {
    /// Version of this format.
    pub version: u32,
    /// One entry an array.
    pub arrays: Vec<ArrayReport>,
    /// What else a person should know.
    pub notes: Vec<String>,
}

/// One array.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct ArrayReport {
    pub name: String,
    pub array_name: String,
    pub array_uuid: String,
    pub level: i32,
    pub layout: &'static str,
    pub raid_disks: u16,
    pub chunk_bytes: u64,
    pub array_bytes: u64,
    pub metadata: String,
    pub local: Option<bool>,
    pub verdict: &'static str,
    pub sentence: String,
    pub next: Option<String>,
    pub degraded: Option<u16>,
    pub dirty: Option<bool>,
    pub configuration: Option<String>,
    pub written: bool,
    pub mdadm_conf: Option<String>,
    pub members: Vec<MemberReport>,
    pub notes: Vec<String>,
}

/// One device, or a role without one.
#[derive(Serialize, Debug)]
pub struct MemberReport {
    pub path: Option<String>,
    pub device: Option<String>,
    pub role: Option<u16>,
    pub state: String,
    pub events: Option<u64>,
    pub member_uuid: Option<String>,
    pub held: Option<String>,
    pub reason: Option<String>,
}

pub(super) fn document(findings: &Findings, args: &AssembleArgs) -> Result<String, Failure> {
    let arrays = findings.arrays.iter().map(|one| array(one, args)).collect();
    let document = AssembleDocument { version: 1, arrays, notes: findings.notes.clone() };
    serde_json::to_string_pretty(&document).map_err(Failure::operating)
}

fn array(array: &Array, args: &AssembleArgs) -> ArrayReport {
    let superblock = &array.superblock;
    let assembly = match &array.verdict {
        Verdict::Startable(assembly) => Some(assembly),
        _ => None,
    };
    ArrayReport {
        name: array.name.to_string(),
        array_name: superblock.name(),
        array_uuid: superblock.set_uuid().to_string(),
        level: superblock.level().number(),
        layout: superblock.layout().name(),
        raid_disks: superblock.raid_disks(),
        chunk_bytes: u64::from(superblock.chunk_sectors()) * SECTOR,
        array_bytes: superblock.array_sectors().saturating_mul(SECTOR),
        metadata: superblock.minor().to_string(),
        local: array.local,
        verdict: match &array.verdict {
            Verdict::Startable(_) => "startable",
            Verdict::InUse(_) => "in_use",
            Verdict::Ignored(_) => "ignored",
            Verdict::Refused(_) => "refused",
        },
        sentence: array.sentence(),
        next: text::next(array, args),
        degraded: assembly.map(|assembly| assembly.degraded),
        dirty: assembly.map(|assembly| assembly.dirty),
        configuration: array.configuration.as_ref().map(|file| file.display().to_string()),
        written: array.written,
        mdadm_conf: array.line.clone(),
        members: text::rows(array).into_iter().map(|row| member(array, row)).collect(),
        notes: text::notes(array),
    }
}

fn member(array: &Array, row: text::Row) -> MemberReport {
    let candidate = row.candidate.and_then(|at| array.candidates.get(at));
    let superblock = candidate.and_then(|one| one.found.superblock.as_ref().ok());
    let rejected = match &array.verdict {
        Verdict::Startable(assembly) => assembly.rejected.iter().find(|one| Some(one.found) == row.candidate),
        _ => None,
    };
    let unusable = candidate.and_then(|one| one.found.superblock.as_ref().err()).map(ToString::to_string);
    MemberReport {
        path: candidate.map(|one| one.stable.display().to_string()),
        device: candidate.map(|one| one.path.display().to_string()),
        role: row.role.strip_prefix("role ").and_then(|role| role.parse().ok()),
        state: row.state.replace(' ', "_"),
        events: superblock.map(|superblock| superblock.events()),
        member_uuid: superblock.map(|superblock| superblock.device_uuid().to_string()),
        held: candidate.and_then(|one| one.held.clone()),
        reason: rejected.map(|one| one.reason.to_string()).or(unusable),
    }
}
