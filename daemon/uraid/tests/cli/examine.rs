//! `uraid examine` beside `mdadm --examine`, and on what is no member.

use crate::support::{Bench, mdadm_field};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// All arrays that are compared: level, chunk, layout, members.
const ARRAYS: [(&str, &str, Option<&str>, usize); 6] = [
    ("4", "4K", None, 4),
    ("5", "64K", None, 3),
    ("5", "512K", Some("parity-first"), 5),
    ("6", "64K", None, 4),
    ("6", "128K", Some("right-symmetric"), 6),
    ("6", "64K", Some("left-symmetric-6"), 5),
];

#[test]
fn it_agrees_with_mdadm() {
    for (level, chunk, layout, members) in ARRAYS {
        let bench = Bench::new();
        let names: Vec<String> = (0..members).map(|i| format!("m{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut args = vec!["create", "--level", level, "--chunk", chunk, "--name", "vol", "--size", "100M"];
        args.extend(layout.iter().flat_map(|layout| ["--layout", layout]));
        bench.uraid(&[&args[..], &names].concat()).ok();
        let document = json(&bench.uraid(&[&["examine", "--json"], &names[..]].concat()).ok());
        assert_eq!(document["version"], 1);
        for (member, name) in document["members"].as_array().unwrap().iter().zip(&names) {
            let mdadm = bench.mdadm_examine(name);
            compare_json(&member["superblock"], &mdadm);
            assert_eq!(member["path"], *name);
            assert_eq!(member["device_bytes"], 100 << 20);
            compare_text(&bench.uraid(&["examine", name]).ok(), &mdadm);
        }
    }
}

fn compare_json(ours: &Value, mdadm: &str) {
    let field = |heading| mdadm_field(mdadm, heading);
    let sectors = |heading| {
        let text = field(heading);
        text.split(' ').next().unwrap().parse::<u64>().unwrap() * 512
    };
    assert_eq!(field("Version"), ours["metadata"]);
    assert_eq!(field("Array UUID"), ours["array_uuid"]);
    assert_eq!(field("Device UUID"), ours["member_uuid"]);
    assert_eq!(field("Raid Level"), format!("raid{}", ours["level"]));
    assert_eq!(field("Raid Devices"), ours["raid_disks"].to_string());
    assert_eq!(sectors("Array Size") * 2, ours["array_bytes"]);
    assert_eq!(sectors("Data Offset"), ours["data_offset_bytes"]);
    assert_eq!(sectors("Super Offset"), ours["superblock_offset_bytes"]);
    assert_eq!(sectors("Avail Dev Size"), ours["available_member_bytes"]);
    assert_eq!(field("State"), ours["state"]);
    assert_eq!(field("Events"), ours["events"].to_string());
    assert_eq!(field("Chunk Size"), format!("{}K", ours["chunk_bytes"].as_u64().unwrap() / 1024));
    assert_eq!(field("Device Role"), format!("Active device {}", ours["role"]));
    assert_eq!(field("Array State").split(' ').next(), ours["array_state"].as_str());
    assert!(field("Checksum").starts_with(ours["checksum"].as_str().unwrap().trim_start_matches('0')));
    if ours["level"] != 4 {
        assert_eq!(field("Layout"), ours["layout"]);
    }
}

/// The headings whose whole value is the same.
fn compare_text(ours: &str, mdadm: &str) {
    let same = [
        "Magic",
        "Version",
        "Feature Map",
        "Array UUID",
        "Raid Level",
        "Raid Devices",
        "Data Offset",
        "Super Offset",
        "State",
        "Device UUID",
        "Events",
        "Chunk Size",
        "Device Role",
        "Array State",
        "Checksum",
    ];
    for heading in same {
        assert_eq!(mdadm_field(ours, heading), mdadm_field(mdadm, heading), "{heading}");
    }
    if !mdadm_field(mdadm, "Raid Level").ends_with('4') {
        assert_eq!(mdadm_field(ours, "Layout"), mdadm_field(mdadm, "Layout"));
    }
    let size = |text: &str| mdadm_field(text, "Array Size").split(' ').next().map(str::to_owned);
    assert_eq!(size(ours), size(mdadm));
}

#[test]
fn each_bad_member_is_told_and_the_good_ones_are_shown() {
    let bench = Bench::new();
    bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]).ok();
    bench.sparse("blank", 1 << 20);
    bench.sparse("tiny", 512);
    let mut damaged = std::fs::read(bench.path("b")).unwrap();
    damaged[4096 + 200] ^= 1;
    bench.file("damaged", &damaged[..1 << 20], 32 << 20);
    bench.file("cut", &damaged[..1 << 20], 1 << 20);
    let whole = std::fs::read(bench.path("c")).unwrap();
    bench.file("short", &whole[..1 << 20], 2 << 20);
    let run = bench.uraid(&[
        "examine",
        "--json",
        "a",
        "blank",
        "tiny",
        "damaged",
        "short",
        "none",
        "/dev/null",
        "c",
    ]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("6 of 8 members have no usable superblock"), "{}", run.stderr);
    let document = json(&run.stdout);
    let kinds: Vec<&str> = document["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["error"]["kind"].as_str().unwrap_or("-"))
        .collect();
    let expected = ["-", "absent", "absent", "damaged", "too_small", "unreadable", "unreadable", "-"];
    assert_eq!(kinds, expected, "{document}");
    let text = bench.uraid(&["examine", "blank", "a", "none"]);
    assert_eq!(text.code, 1);
    assert!(text.stdout.starts_with("a:\n"), "{}", text.stdout);
    assert!(text.stderr.contains("uraid: blank: no md superblock found"), "{}", text.stderr);
    assert!(text.stderr.contains("uraid: none: cannot be read: No such file"), "{}", text.stderr);
}

#[test]
fn a_look_changes_nothing() {
    let bench = Bench::new();
    bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]).ok();
    let before = bench.snapshot();
    bench.uraid(&["examine", "a", "b", "c"]).ok();
    assert_eq!(bench.snapshot(), before, "examine must not write");
}
