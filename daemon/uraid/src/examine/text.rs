//! A superblock as text, line by line under mdadm's headings.

use std::fmt::Write as _;
use std::path::Path;

use md_format::{Areas, Description, DevRole, Features, Layout, Level, Reshape, SECTOR, Superblock};
use uraid_config::Size;

use super::beside::Beside;
use crate::human;

/// Ranges of bad blocks that are shown; JSON has all of them.
const BAD_BLOCKS_SHOWN: usize = 20;

/// The lines about one member.
pub(super) fn member(path: &Path, superblock: &Superblock, areas: &Areas) -> String {
    let mut text = format!("{}:\n", path.display());
    let beside = Beside::of(superblock, areas);
    let description = superblock.describe_with(beside.sound_bitmap());
    for (heading, value) in lines(&description, &beside) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{heading:>16} : {value}");
    }
    text
}

type Lines = Vec<(&'static str, String)>;

fn lines(d: &Description, beside: &Beside) -> Lines {
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
    ];
    if let Some(sectors) = d.reshape.and_then(|reshape| reshape.new_data_offset) {
        lines.push(("New Offset", format!("{sectors} sectors")));
    }
    lines.push(("Super Offset", format!("{} sectors", d.super_offset)));
    if let Some(sectors) = d.recovery_offset {
        lines.push(("Recovery Offset", format!("{sectors} sectors")));
    }
    if let Some((before, after)) = d.unused {
        lines.push(("Unused Space", format!("before={before} sectors, after={after} sectors")));
    }
    lines.push(("State", if d.clean { "clean" } else { "active" }.to_owned()));
    if let Some(sectors) = d.resync_offset {
        lines.push(("Resync Offset", format!("{sectors} sectors")));
    }
    lines.push(("Device UUID", d.device_uuid.to_string()));
    lines.extend(bitmap(d, beside));
    lines.extend(ppl(d, beside));
    lines.extend(d.reshape.iter().flat_map(|reshape| reshaping(d, reshape)));
    lines.push(("Update Time", human::utc(d.utime)));
    let flags = [(d.write_mostly, "write-mostly"), (d.failfast, "failfast")];
    let flags: Vec<&str> = flags.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    if !flags.is_empty() {
        lines.push(("Flags", flags.join(" ")));
    }
    lines.extend(bad_blocks(d, beside));
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
    lines.push(("Device Role", role(d)));
    lines.push((
        "Array State",
        format!("{} ('A' == active, '.' == missing, 'R' == replacing)", d.array_state),
    ));
    lines
}

/// The write-intent bitmap, as `mdadm --examine-bitmap` tells of it.
fn bitmap(d: &Description, beside: &Beside) -> Lines {
    let Some(offset) = d.bitmap_offset else { return Lines::new() };
    let mut lines = vec![("Internal Bitmap", format!("{offset} sectors from superblock"))];
    match &beside.bitmap {
        Some(Ok(bitmap)) => {
            let (regions, dirty) = (bitmap.regions(), bitmap.set_regions().count() as u64);
            let percent = dirty as f64 * 100.0 / regions.max(1) as f64;
            let chunk = short_size(bitmap.chunk_bytes());
            lines.push(("Bitmap", format!("{regions} bits of {chunk}, {dirty} dirty ({percent:.1}%)")));
            let stale = if bitmap.is_stale() { ", out of date" } else { "" };
            let (events, cleared) = (bitmap.events(), bitmap.events_cleared());
            lines.push(("Bitmap Events", format!("{events} (cleared at {cleared}){stale}")));
        }
        Some(Err(error)) => lines.push(("Bitmap", format!("it {error}"))),
        None => {}
    }
    lines
}

/// The partial parity log and the newest thing in it.
fn ppl(d: &Description, beside: &Beside) -> Lines {
    let Some((offset, sectors)) = d.ppl else { return Lines::new() };
    let mut lines = vec![("PPL", format!("{sectors} sectors at offset {offset} sectors from superblock"))];
    let newest = match &beside.ppl {
        Some(Ok(log)) if log.entries.is_empty() => "empty".to_owned(),
        Some(Ok(log)) => format!("generation {}, {} entries", log.generation, log.entries.len()),
        Some(Err(error)) => format!("it {error}"),
        None => return lines,
    };
    lines.push(("PPL Log", newest));
    lines
}

/// The log of bad blocks, and what `mdadm --examine-badblocks` lists.
fn bad_blocks(d: &Description, beside: &Beside) -> Lines {
    let Some(log) = d.bad_block_log else { return Lines::new() };
    let entries = u64::from(log.sectors) * SECTOR / 8;
    let mut heading = format!("{entries} entries available at offset {} sectors", log.offset);
    let mut lines = Lines::new();
    match &beside.bad_blocks {
        Some(Ok(bad)) if !bad.is_empty() => {
            heading.push_str(" - bad blocks present.");
            let shown = bad.ranges().take(BAD_BLOCKS_SHOWN);
            lines.extend(shown.map(|(start, len)| ("Bad Block", format!("{start} for {len} sectors"))));
            let count = bad.ranges().count();
            if count > BAD_BLOCKS_SHOWN {
                lines.push(("Bad Block", format!("and {} more", count - BAD_BLOCKS_SHOWN)));
            }
        }
        Some(Err(error)) => heading.push_str(&format!(" - {error}")),
        _ => {}
    }
    lines.insert(0, ("Bad Block Log", heading));
    lines
}

/// How far a reshape has come, and what it changes.
fn reshaping(d: &Description, reshape: &Reshape) -> Lines {
    let position = format!("{} ({})", reshape.position / 2, size(reshape.position));
    let mut lines = vec![("Reshape pos'n", position)];
    if reshape.old_disks != u32::from(d.raid_disks) {
        let delta = i64::from(d.raid_disks) - i64::from(reshape.old_disks);
        lines.push(("Delta Devices", format!("{delta} ({}->{})", reshape.old_disks, d.raid_disks)));
    }
    if reshape.new_level != d.level.number() {
        lines.push(("New Level", format!("raid{}", reshape.new_level)));
    }
    if reshape.new_layout != d.layout.number() {
        let name = Level::from_number(reshape.new_level)
            .and_then(|level| Layout::from_number(level, reshape.new_layout))
            .map_or(reshape.new_layout.to_string(), |layout| layout.name().to_owned());
        lines.push(("New Layout", name));
    }
    if reshape.new_chunk_sectors != d.chunk_sectors {
        lines.push(("New Chunksize", short_size(u64::from(reshape.new_chunk_sectors) * SECTOR)));
    }
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

fn role(d: &Description) -> String {
    match d.role {
        DevRole::Active(role) if d.features.contains(Features::REPLACEMENT) => {
            format!("Replacement device {role}")
        }
        DevRole::Active(role) => format!("Active device {role}"),
        DevRole::Spare => "spare".to_owned(),
        DevRole::Journal => "Journal".to_owned(),
        DevRole::Faulty => "faulty".to_owned(),
    }
}
