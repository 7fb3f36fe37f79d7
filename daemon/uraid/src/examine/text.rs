//! A superblock as text, line by line under mdadm's headings.

use std::fmt::Write as _;
use std::path::Path;

use md_format::{Description, DevRole, Level, SECTOR, Superblock};
use uraid_config::Size;

use crate::human;

/// The lines about one member.
pub(super) fn member(path: &Path, superblock: &Superblock) -> String {
    let mut text = format!("{}:\n", path.display());
    for (heading, value) in lines(&superblock.describe()) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{heading:>16} : {value}");
    }
    text
}

fn lines(d: &Description) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("Magic", "a92b4efc".to_owned()),
        ("Version", d.version.to_string()),
        ("Feature Map", feature_map(d)),
        ("Array UUID", d.set_uuid.to_string()),
        ("Name", d.name.clone()),
        ("Creation Time", human::utc(d.ctime)),
        ("Raid Level", d.level.to_string()),
        ("Raid Devices", d.raid_disks.to_string()),
        ("Avail Dev Size", format!("{} sectors ({})", d.data_size, size(d.data_size))),
        ("Array Size", format!("{} KiB ({})", d.array_sectors / 2, size(d.array_sectors))),
        ("Used Dev Size", format!("{} sectors ({})", d.size_sectors, size(d.size_sectors))),
        ("Data Offset", format!("{} sectors", d.data_offset)),
        ("Super Offset", format!("{} sectors", d.super_offset)),
    ];
    if let Some(sectors) = d.recovery_offset {
        lines.push(("Recovery Offset", format!("{sectors} sectors")));
    }
    lines.push(("State", if d.clean { "clean" } else { "active" }.to_owned()));
    if let Some(sectors) = d.resync_offset {
        lines.push(("Resync Offset", format!("{sectors} sectors")));
    }
    lines.push(("Device UUID", d.device_uuid.to_string()));
    lines.push(("Update Time", human::utc(d.utime)));
    if let Some(log) = d.bad_block_log {
        lines.push(("Bad Block Log", format!("{} sectors at offset {} sectors", log.sectors, log.offset)));
    }
    if d.corrected_reads > 0 {
        lines.push(("Corrected Reads", format!("{} sectors", d.corrected_reads)));
    }
    if let Some(bytes) = d.logical_block_size {
        lines.push(("Logical Block", format!("{bytes} bytes")));
    }
    lines.push(("Checksum", format!("{:x} - correct", d.checksum)));
    lines.push(("Events", d.events.to_string()));
    if d.level != Level::Raid4 {
        lines.push(("Layout", d.layout.name().to_owned()));
    }
    lines.push(("Chunk Size", short_size(u64::from(d.chunk_sectors) * SECTOR)));
    lines.push(("Device Role", role(d.role)));
    lines.push((
        "Array State",
        format!("{} ('A' == active, '.' == missing, 'R' == replacing)", d.array_state),
    ));
    lines
}

fn feature_map(d: &Description) -> String {
    let names = d.features.names();
    if names.is_empty() {
        return "0x0".to_owned();
    }
    format!("{:#x} ({})", d.features.bits(), names.join(", "))
}

fn size(sectors: u64) -> String {
    human::bytes(sectors.saturating_mul(SECTOR))
}

/// `64K` rather than `64KiB`, as mdadm has it.
fn short_size(bytes: u64) -> String {
    Size::from_bytes(bytes).to_string().trim_end_matches("iB").to_owned()
}

fn role(role: DevRole) -> String {
    match role {
        DevRole::Active(role) => format!("Active device {role}"),
        DevRole::Spare => "spare".to_owned(),
        DevRole::Journal => "Journal".to_owned(),
        DevRole::Faulty => "faulty".to_owned(),
    }
}
