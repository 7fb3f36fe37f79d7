//! mdadm reads what this crate writes and says the same about it.

use crate::common::{DEVICE, array};
use md_format::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

/// The lines `Field : value` of `mdadm --examine` for a member on which `superblock` was written, and what else.
fn examine(name: &str, superblock: &Superblock, beside: &[(u64, Vec<u8>)]) -> BTreeMap<String, String> {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.img"));
    let file = File::create(&path).expect("a temporary file");
    file.set_len((superblock.data_offset() + superblock.data_size()) * SECTOR).expect("a sparse file");
    file.write_all_at(&superblock.encode(), superblock.super_offset() * SECTOR).expect("written");
    beside.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).expect("written"));
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
    check_beside(name, superblock, None);
}

/// The same of a member with a bitmap.
fn check_beside(name: &str, superblock: &Superblock, bitmap: Option<&Bitmap>) {
    let pages = |bitmap: &Bitmap| {
        let area = superblock.areas()[0].sector * SECTOR;
        (0..bitmap.pages())
            .map(|page| bitmap.page(page))
            .map(move |(at, page)| (area + at, page.to_vec()))
            .collect()
    };
    let said = examine(name, superblock, &bitmap.map_or(Vec::new(), pages));
    let ours = superblock.describe_with(bitmap);
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
    let log = ours.bad_block_log.map_or(0, |log| log.offset);
    assert!(field("Bad Block Log").starts_with(&format!("512 entries available at offset {log} ")), "{name}");
    let (before, after) = ours.unused.expect("no reshape");
    assert_eq!(field("Unused Space"), format!("before={before} sectors, after={after} sectors"), "{name}");
    if let Some(offset) = ours.bitmap_offset {
        assert_eq!(field("Internal Bitmap"), format!("{offset} sectors from superblock"), "{name}");
    }
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
                    minor: Minor::V2,
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

#[test]
fn mdadm_agrees_about_bitmaps_of_any_length() {
    for chunk_bytes in [None, Some(128 << 10), Some(4 << 10)] {
        // 40 GB of sparse file: small regions make a bitmap of many pages.
        for sectors in [DEVICE, 80_000_000] {
            let uuids: Vec<Uuid> = (1..=3).map(|n| Uuid([n * 3; 16])).collect();
            let params = CreateParams {
                level: Level::Raid5,
                layout: Layout::default_for(Level::Raid5),
                chunk_sectors: 1024,
                name: "v",
                members: &[sectors; 3],
                size_sectors: None,
                set_uuid: Uuid(*b"0123456789abcdef"),
                device_uuids: &uuids,
                now: 1_795_000_000,
                clean: true,
                bitmap: IntentBitmap::Internal { chunk_bytes },
                minor: md_format::Minor::V2,
                ppl: false,
            };
            let Ok(made) = plan_create(&params) else {
                assert_eq!((sectors, chunk_bytes), (80_000_000, Some(4 << 10)), "it is refused");
                continue;
            };
            let bitmap = Bitmap::create(&made[0], chunk_bytes).expect("there is room");
            check_beside(&format!("bitmap-{sectors}-{chunk_bytes:?}"), &made[0], Some(&bitmap));
        }
    }
}

#[test]
fn mdadm_agrees_about_role_tables_of_any_length() {
    for (level, members) in
        [(Level::Raid6, 255), (Level::Raid5, 128), (Level::Raid5, 129), (Level::Raid5, 384)]
    {
        let uuids: Vec<Uuid> = (1..=members).map(|n: u128| Uuid(n.to_be_bytes())).collect();
        let params = CreateParams {
            level,
            layout: Layout::default_for(level),
            chunk_sectors: 128,
            name: "v",
            members: &vec![DEVICE; members as usize],
            size_sectors: None,
            set_uuid: Uuid(*b"0123456789abcdef"),
            device_uuids: &uuids,
            now: 1_795_000_000,
            clean: true,
            bitmap: IntentBitmap::None,
            minor: md_format::Minor::V2,
            ppl: false,
        };
        let made = plan_create(&params).expect("possible");
        for member in [0, members as usize - 1] {
            check(&format!("table-{members}-{member}"), &made[member]);
        }
    }
}
