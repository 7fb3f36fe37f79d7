//! `uraid status`: what the daemon says, as JSON or in the shape of /proc/mdstat.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;
use uraid_config::Size;

use crate::control::protocol::{
    ArrayState, BitmapStatus, DeviceStatus, MemberState, MemberStatus, RecentStatus, Status, SyncKind,
    SyncStatus, VERSION,
};
use crate::failure::Failure;
use crate::{engines, human, out};

/// What there is to say of a broken array.
pub(crate) const BROKEN: &str = "      more members are gone than parity covers: writes are refused";

/// What `uraid status --json` prints.
#[derive(Serialize, Debug)]
struct StatusDocument<'a> {
    version: u32,
    #[serde(flatten)]
    status: &'a Status,
}

/// Prints the status.
///
/// # Errors
/// It cannot be said in JSON (a path that is not UTF-8).
pub fn print(status: &Status, json: bool) -> Result<(), Failure> {
    if json {
        out::print(&(to_json(status).map_err(Failure::operating)? + "\n"))
    } else {
        out::print(&to_text(status))
    }
}

/// The status as JSON, version 1 of docs/json.md.
///
/// # Errors
/// A path that is not UTF-8.
pub fn to_json(status: &Status) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&StatusDocument { version: VERSION, status })
}

/// The status for people.
pub fn to_text(status: &Status) -> String {
    let mut lines = vec![
        head(status),
        format!(
            "      {} KiB ({}), {} layout, {} chunk [{}/{}] [{}]",
            status.size_bytes / 1024,
            human::bytes(status.size_bytes),
            status.layout,
            Size::from_bytes(status.chunk_bytes).to_string().trim_end_matches("iB"),
            status.raid_disks,
            status.raid_disks.saturating_sub(status.degraded),
            role_map(status),
        ),
    ];
    lines.extend(status.sync.as_ref().map(progress));
    lines.extend(status.bitmap.map(bitmap));
    if status.state == ArrayState::Broken {
        lines.push(BROKEN.to_owned());
    }
    lines.extend(missing_roles(status));
    lines.extend(left_to_lose(status));
    lines.extend(status.members.iter().filter_map(trouble));
    lines.extend(status.engines.iter().flat_map(engines::summary));
    lines.extend(status.device.iter().map(device));
    lines.extend(status.exports.iter().map(|uri| format!("      export  {uri}")));
    lines.push(counters(status));
    lines.extend(status.recent.as_ref().map(recent));
    lines.push(format!("      uuid    {}", status.uuid));
    lines.extend(hints(status));
    lines.join("\n") + "\n"
}

/// `bitmap  3 of 160 regions dirty, 64M each`
fn bitmap(bitmap: BitmapStatus) -> String {
    let BitmapStatus { dirty_regions, regions, region_bytes } = bitmap;
    let each = Size::from_bytes(region_bytes).to_string();
    format!("      bitmap  {dirty_regions} of {regions} regions dirty, {} each", each.trim_end_matches("iB"))
}

/// `device  /dev/nbd0, /dev/uraid/data`
fn device(device: &DeviceStatus) -> String {
    let names = std::iter::once(&device.path).chain(&device.links);
    let names: Vec<String> = names.map(|path| path.display().to_string()).collect();
    format!("      device  {}", names.join(", "))
}

/// How to make a file system, with the name under which its device is found again.
fn hints(status: &Status) -> Vec<String> {
    let Some(device) = &status.device else { return vec![format!("      hint    {}", status.mkfs_hint)] };
    let name = device.links.first().unwrap_or(&device.path).display().to_string();
    let hint = |text: &str| format!("      hint    {}", text.replace("DEVICE", &name));
    vec![hint(&status.mkfs_hint), hint(&device.mkfs_xfs_hint)]
}

/// `data : active raid6 sda1[0] sdb1[1](F)`
fn head(status: &Status) -> String {
    let mut head = format!("{} : {} raid{}", status.name, status.state.word(), status.level);
    if status.read_only {
        head.push_str(" (read-only)");
    }
    for member in &status.members {
        let Some(path) = &member.path else { continue };
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let role = member.role.map_or("-".to_owned(), |role| role.to_string());
        let mark = match member.state {
            MemberState::Failed => "(F)",
            MemberState::Spare => "(S)",
            MemberState::Rebuilding => "(R)",
            _ => "",
        };
        // Writing to a String cannot fail.
        let _ = write!(head, " {name}[{role}]{mark}");
    }
    head
}

/// One character a role: `U` is up, `_` is not.
pub(crate) fn role_map(status: &Status) -> String {
    let up = |role: u32| {
        status.members.iter().any(|member| member.role == Some(role) && member.state == MemberState::InSync)
    };
    (0..status.raid_disks).map(|role| if up(role) { 'U' } else { '_' }).collect()
}

/// A bar, a percentage, and what is left.
pub(crate) fn progress(sync: &SyncStatus) -> String {
    const CELLS: u64 = 20;
    let done = sync.done_bytes.min(sync.total_bytes);
    let share = |parts: u128| match u128::from(sync.total_bytes) {
        0 => parts,
        total => u128::from(done) * parts / total,
    };
    let filled = usize::try_from(share(CELLS.into())).unwrap_or(0);
    let bar = format!("{}>{}", "=".repeat(filled), ".".repeat((CELLS as usize).saturating_sub(filled)));
    let per_mille = share(1000);
    let word = match sync.kind {
        SyncKind::Resync => "resync",
        SyncKind::Rebuild => "rebuild",
        SyncKind::Scrub => "scrub",
        SyncKind::Unknown => "sync",
    };
    let finish = sync.eta_seconds.map_or("unknown".to_owned(), human::duration);
    format!(
        "      [{bar}]  {word} = {}.{}% ({}/{}) finish={finish} speed={}/s",
        per_mille / 10,
        per_mille % 10,
        human::bytes(done),
        human::bytes(sync.total_bytes),
        human::bytes(sync.speed_bytes_per_second),
    )
}

/// A line about each role without a member: what is wanted of the operator, unless a spare is there. A
/// device that was just added is one for the moment that the array takes to start its rebuild.
pub(crate) fn missing_roles(status: &Status) -> impl Iterator<Item = String> {
    let in_state = |state| status.members.iter().filter(move |member| member.state == state);
    let mut spares =
        in_state(MemberState::Spare).filter(|_| !status.read_only).filter_map(|m| m.path.as_ref());
    let when = if status.sync.is_some() { "follows" } else { "is about to start" };
    in_state(MemberState::Missing).map(move |member| {
        let role = member.role.map_or("?".to_owned(), |role| role.to_string());
        match spares.next() {
            Some(spare) => {
                format!("      role {role} has no member; its rebuild onto {} {when}", spare.display())
            }
            None if status.read_only => format!("      role {role} has no member"),
            None => format!("      role {role} has no member; add one with `uraid add`"),
        }
    })
}

/// How many more members an array that has lost some can do without.
fn left_to_lose(status: &Status) -> Option<String> {
    let parity: u32 = if status.level == 6 { 2 } else { 1 };
    match parity.checked_sub(status.degraded).filter(|_| status.degraded > 0)? {
        0 => Some("      no further member may fail: data would be lost".to_owned()),
        _ => Some("      one more member may fail".to_owned()),
    }
}

/// A line about a member that an operator has to know about.
fn trouble(member: &MemberStatus) -> Option<String> {
    let path = member.path.as_deref().map(Path::display);
    let errors = match member.errors {
        0 => String::new(),
        1 => ", 1 error".to_owned(),
        n => format!(", {n} errors"),
    };
    let bad = match member.bad_bytes {
        0 => String::new(),
        bytes => format!(", {} of bad blocks", human::bytes(bytes)),
    };
    match (member.state, path) {
        (MemberState::Failed, Some(path)) => Some(format!("      {path} failed{errors}")),
        (_, Some(path)) if member.errors > 0 || member.bad_bytes > 0 => {
            Some(format!("      {path} is in use{errors}{bad}"))
        }
        _ => None,
    }
}

/// What clients did lately: `12.0 MiB/s read (3072/s, 120 µs, 99 % within 1.2 ms)`.
fn recent(recent: &RecentStatus) -> String {
    let ms = recent.milliseconds.max(1);
    let per_second = |count: u64| u128::from(count) * 1000 / u128::from(ms);
    let rate = |bytes: u64| human::bytes(u64::try_from(per_second(bytes)).unwrap_or(u64::MAX));
    let shown = recent.operations.iter().filter(|one| one.count > 0).map(|one| {
        let (count, verb) = (per_second(one.count), one.operation.replace('_', " "));
        let what = match one.operation.as_str() {
            "flush" => format!("{count} flushes/s ("),
            _ => format!("{verb} {}/s ({count}/s, ", rate(one.bytes)),
        };
        format!("{what}{}, 99 % within {})", human::latency(one.p50_us), human::latency(one.p99_us))
    });
    let shown: Vec<String> = shown.collect();
    let what = if shown.is_empty() { "idle".to_owned() } else { shown.join(", ") };
    format!("      lately  {what}")
}

fn counters(status: &Status) -> String {
    let c = &status.counters;
    let mut line = format!(
        "      clients {} connected, {} read in {} requests, {} written in {} requests, {} flushes",
        c.connections,
        human::bytes(c.read_bytes),
        c.reads,
        human::bytes(c.written_bytes),
        c.writes,
        c.flushes
    );
    for (count, what) in [
        (c.requests_failed, "requests failed"),
        (c.read_errors_corrected, "read errors corrected"),
        (c.read_errors_unrecovered, "read errors not recovered"),
        (c.resync_mismatches, "stripes with wrong parity corrected"),
        (c.compute_failures, "computations retried"),
    ] {
        if count > 0 {
            let _ = write!(line, ", {count} {what}");
        }
    }
    line
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::control::latency::OperationStatus;
    use crate::control::protocol::{Counters, MemoryStatus, mkfs_hint};

    fn member(path: &str, role: Option<u32>, state: MemberState) -> MemberStatus {
        let present = state != MemberState::Missing;
        MemberStatus {
            path: present.then(|| path.into()),
            role,
            state,
            events: present.then_some(7),
            errors: u64::from(state == MemberState::Failed) * 2,
            corrected_sectors: 0,
            bad_bytes: 0,
            io: present.then(|| "uring".into()),
            direct: present.then_some(true),
            operations: Vec::new(),
        }
    }

    const BOUNDS_US: [u64; 2] = [100, 2000];

    /// Two seconds with some reads and flushes.
    fn recently() -> RecentStatus {
        let operation = |word: &str, bytes, buckets: [u64; 3]| {
            OperationStatus::new(word, bytes, 0, buckets.to_vec(), &BOUNDS_US)
        };
        let operations = vec![
            operation("read", 8 << 20, [2000, 100, 0]),
            operation("write", 0, [0; 3]),
            operation("flush", 0, [0, 4, 0]),
        ];
        RecentStatus { milliseconds: 2000, operations }
    }

    pub(crate) fn rebuilding() -> Status {
        Status {
            name: "data".into(),
            uuid: "00112233:44556677:8899aabb:ccddeeff".into(),
            level: 6,
            layout: "left-symmetric".into(),
            chunk_bytes: 65536,
            size_bytes: 2 << 30,
            state: ArrayState::Rebuilding,
            read_only: false,
            dirty: true,
            degraded: 2,
            raid_disks: 4,
            members: vec![
                member("/d/a", Some(0), MemberState::InSync),
                member("/d/e", Some(1), MemberState::Rebuilding),
                member("", Some(2), MemberState::Missing),
                member("/d/d", Some(3), MemberState::InSync),
                member("/d/b", None, MemberState::Failed),
            ],
            sync: Some(SyncStatus::new(SyncKind::Rebuild, 128 << 20, 1 << 30, 64 << 20)),
            bitmap: Some(BitmapStatus { dirty_regions: 3, regions: 160, region_bytes: 64 << 20 }),
            counters: Counters { connections: 1, reads: 3, read_bytes: 12288, ..Counters::default() },
            device: None,
            operations: Vec::new(),
            latency_bounds_us: Vec::new(),
            memory: MemoryStatus::default(),
            uptime_seconds: 7500,
            recent: Some(recently()),
            exports: vec!["nbd+unix:///data?socket=/run/uraid/data.sock".into()],
            kernels: [("pq".to_owned(), "avx2".to_owned())].into(),
            engines: None,
            mkfs_hint: mkfs_hint(65536, 2),
        }
    }

    #[test]
    fn people_see_the_shape_of_mdstat() {
        let expected = "\
data : rebuilding raid6 a[0] e[1](R) d[3] b[-](F)
      2097152 KiB (2.0 GiB), left-symmetric layout, 64K chunk [4/2] [U__U]
      [==>..................]  rebuild = 12.5% (128.0 MiB/1.0 GiB) finish=14s speed=64.0 MiB/s
      bitmap  3 of 160 regions dirty, 64M each
      role 2 has no member; add one with `uraid add`
      no further member may fail: data would be lost
      /d/b failed, 2 errors
      export  nbd+unix:///data?socket=/run/uraid/data.sock
      clients 1 connected, 12.0 KiB read in 3 requests, 0 bytes written in 0 requests, 0 flushes
      lately  read 4.0 MiB/s (1050/s, 52 µs, 99 % within 1.6 ms), 2 flushes/s (1.1 ms, 99 % within 2.0 ms)
      uuid    00112233:44556677:8899aabb:ccddeeff
      hint    mkfs.ext4 -b 4096 -E stride=16,stripe_width=32 DEVICE
";
        assert_eq!(to_text(&rebuilding()), expected);
    }

    #[test]
    fn a_spare_for_a_missing_role_is_about_to_be_rebuilt() {
        let mut status = rebuilding();
        let lines = |status: &Status| {
            to_text(status).lines().filter(|line| line.contains("no member")).collect::<Vec<_>>().join("\n")
        };
        status.members.push(member("/d/f", None, MemberState::Spare));
        assert_eq!(lines(&status), "      role 2 has no member; its rebuild onto /d/f follows");
        status.sync = None;
        status.members[1] = member("", Some(1), MemberState::Missing);
        let expected = "      role 1 has no member; its rebuild onto /d/f is about to start\n      \
                        role 2 has no member; add one with `uraid add`";
        assert_eq!(lines(&status), expected);
        status.read_only = true;
        assert!(!lines(&status).contains("rebuild") && !lines(&status).contains("add"));
    }

    #[test]
    fn progress_is_shown_at_both_ends_and_without_a_total() {
        for (done, total, shown) in [
            (0, 100, "[>....................]  resync = 0.0%"),
            (100, 100, "[====================>]  resync = 100.0%"),
            (200, 100, "[====================>]  resync = 100.0%"),
            (0, 0, "[====================>]  resync = 100.0%"),
            (u64::MAX, u64::MAX, "[====================>]  resync = 100.0%"),
        ] {
            let line = progress(&SyncStatus::new(SyncKind::Resync, done, total, 0));
            assert!(line.contains(shown) && line.contains("finish=unknown"), "{line}");
        }
    }

    #[test]
    fn json_carries_its_version_and_reads_back() {
        let status = rebuilding();
        let json = to_json(&status).unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value["state"], "rebuilding");
        assert_eq!(value["members"][2]["state"], "missing");
        assert_eq!(value["sync"]["eta_seconds"], 14);
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
