//! mdadm reads what this crate writes and says the same about it.

use crate::common::{DEVICE, array};
use md_format::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// The lines `Field : value` of `mdadm --examine` for a member on which `superblock` was written.
fn examine(name: &str, superblock: &Superblock) -> BTreeMap<String, String> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.img"));
    let file = File::create(&path).expect("a temporary file");
    file.set_len(DEVICE * SECTOR).expect("a sparse file");
    file.write_all_at(&superblock.encode(), superblock.super_offset() * SECTOR).expect("written");
    let run = |program: &str| Command::new(program).arg("--examine").arg(&path).env("LC_ALL", "C").output();
    let output = run("mdadm").or_else(|_| run("/usr/sbin/mdadm"));
    let output = output.unwrap_or_else(|error| {
        panic!("this test needs mdadm, which could not be run: {error}; install it (apt-get install mdadm)")
    });
    std::fs::remove_file(&path).expect("removed");
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdadm does not accept {name}: {text}{error}");
    let fields = text.lines().filter_map(|line| line.split_once(" : "));
    fields.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect()
}

fn check(name: &str, superblock: &Superblock) {
    let said = examine(name, superblock);
    let ours = superblock.describe();
    let field = |key: &str| said.get(key).map_or("", String::as_str);
    let first = |key: &str| field(key).split(' ').next().unwrap_or("").to_owned();
    assert_eq!(field("Magic"), "a92b4efc", "{name}: {said:?}");
    assert_eq!(field("Version"), ours.version.to_string(), "{name}");
    assert_eq!(field("Feature Map"), format!("{:#x}", ours.features.bits()), "{name}");
    assert_eq!(field("Array UUID"), ours.set_uuid.to_string(), "{name}");
    assert_eq!(field("Device UUID"), ours.device_uuid.to_string(), "{name}");
    assert_eq!(first("Name"), ours.name, "{name}");
    assert_eq!(field("Raid Level"), ours.level.to_string(), "{name}");
    assert_eq!(field("Raid Devices"), ours.raid_disks.to_string(), "{name}");
    if ours.level != Level::Raid4 {
        assert_eq!(field("Layout"), ours.layout.name(), "{name}");
    }
    assert_eq!(field("Chunk Size"), format!("{}K", ours.chunk_sectors / 2), "{name}");
    assert_eq!(field("Events"), ours.events.to_string(), "{name}");
    assert_eq!(field("State"), if ours.clean { "clean" } else { "active" }, "{name}");
    assert_eq!(first("Data Offset"), ours.data_offset.to_string(), "{name}");
    assert_eq!(first("Super Offset"), ours.super_offset.to_string(), "{name}");
    assert_eq!(first("Avail Dev Size"), ours.data_size.to_string(), "{name}");
    // mdadm leaves this line out when all of the data area is used.
    let used =
        if said.contains_key("Used Dev Size") { first("Used Dev Size") } else { first("Avail Dev Size") };
    assert_eq!(used, ours.size_sectors.to_string(), "{name}");
    assert_eq!(first("Array Size"), (ours.array_sectors / 2).to_string(), "{name}");
    assert_eq!(field("Checksum"), format!("{:x} - correct", ours.checksum), "{name}");
    assert_eq!(first("Array State"), ours.array_state, "{name}");
    let role = match ours.role {
        DevRole::Active(role) => format!("Active device {role}"),
        _ => "spare".to_owned(),
    };
    assert_eq!(field("Device Role"), role, "{name}");
    assert!(field("Bad Block Log").starts_with("512 entries available at offset 16"), "{name}");
    if let Some(sectors) = ours.recovery_offset {
        assert_eq!(field("Recovery Offset"), format!("{sectors} sectors"), "{name}");
    }
}

#[test]
fn mdadm_agrees_about_new_arrays_of_every_layout() {
    for level in [Level::Raid4, Level::Raid5, Level::Raid6] {
        for layout in Layout::all(level) {
            for (chunk_sectors, clean) in [(8, true), (128, false), (32_768, true)] {
                let uuids: Vec<Uuid> = (1..=5).map(|n| Uuid([n * 3; 16])).collect();
                let params = CreateParams {
                    level,
                    layout,
                    chunk_sectors,
                    name: "a-name-of-thirty-two-bytes-length",
                    members: &[DEVICE; 5],
                    size_sectors: None,
                    set_uuid: Uuid(*b"0123456789abcdef"),
                    device_uuids: &uuids,
                    now: 1_795_000_000,
                    clean,
                    bitmap: IntentBitmap::None,
                    ppl: false,
                };
                let params = CreateParams { name: params.name.get(..32).expect("ASCII"), ..params };
                let made = plan_create(&params).expect("possible");
                let name = format!("new-{level}-{layout}-{chunk_sectors}");
                check(&format!("{name}-0"), &made[0]);
                check(&format!("{name}-4"), &made[4]);
            }
        }
    }
}

#[test]
fn mdadm_agrees_about_members_that_were_updated() {
    let mut member = array(Level::Raid6, 6).remove(2);
    member.set_events(4711);
    member.set_resync_offset(0);
    member.set_utime(1_795_000_000);
    member.set_role(4, DevRole::Faulty).expect("room");
    member.set_role(6, DevRole::Active(4)).expect("room");
    check("updated-dirty", &member);
    member.set_recovery_offset(Some(12_345));
    member.set_role(5, DevRole::Spare).expect("room");
    check("updated-rebuilding", &member);
    member.set_recovery_offset(None);
    member.set_resync_offset(CLEAN);
    check("updated-clean", &member);
    let spare = spare_superblock(&member, DEVICE, Uuid([0x5a; 16]), 7, 1_795_000_001).expect("large enough");
    check("spare", &spare);
}
