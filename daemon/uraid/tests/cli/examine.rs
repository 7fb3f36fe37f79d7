//! `uraid examine` beside `mdadm --examine`, and on what is no member.

use crate::support::{Alone, Bench, mdadm_field};
use serde_json::Value;
use std::collections::BTreeMap;
use uraid::device::{Access, Device};

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

/// Arrays of `tests/golden` that between them have everything that a superblock can say, and members of each.
const KERNEL_MADE: [(&str, &[u8]); 17] = [
    ("r4_n4_c4k", &[0]),
    ("r5_n3_ls_c64k_default", &[2]),
    ("r5_n3_ls_c64k_meta10", &[0, 1, 2]),
    ("r5_n3_ls_c64k_meta11_bitmap", &[0, 2]),
    ("r5_n4_ls_c512k_bitmap", &[3]),
    ("r5_n4_ls_c64k_badblocks", &[0, 1, 2, 3]),
    ("r5_n4_ls_c64k_degraded1_bitmap", &[0, 1]),
    ("r5_n4_ls_c64k_dirty_nobitmap", &[0]),
    ("r5_n4_ls_c64k_crash_ppl", &[0, 3]),
    ("r5_n4_ls_c64k_journal_wt_clean", &[0, 4]),
    ("r5_n4_ls_c64k_midrebuild", &[0, 4]),
    ("r5_n4_ls_c64k_midreplace", &[1, 4]),
    ("r5_n4to5_ls_c64k_midreshape", &[0, 4]),
    ("r6_n4_ls_c64k_spare", &[4]),
    ("r6_n5_ls_c64k_midresync", &[0]),
    ("r6_n5_parity_first_6_c4k", &[1]),
    ("r6_n6_ls_c32k_degraded2_bitmap", &[0, 1, 4]),
];

#[test]
fn it_says_all_that_mdadm_says_of_what_the_kernel_made() {
    let bench = Bench::new();
    for (array, members) in KERNEL_MADE {
        for member in members {
            let name = bench.golden(array, *member);
            let mdadm = lines(&bench.mdadm_examine(&name));
            let ours = lines(&bench.uraid(&["examine", &name]).ok());
            for (heading, theirs) in &mdadm {
                let our =
                    ours.get(heading).unwrap_or_else(|| panic!("{name}: no {heading:?}, mdadm: {theirs}"));
                assert_eq!(comparable(heading, our), comparable(heading, theirs), "{name}: {heading}");
            }
        }
    }
}

/// The lines `Heading : value`; of several with the same heading the first.
fn lines(text: &str) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (heading, value) in text.lines().filter_map(|line| line.split_once(" : ")) {
        lines.entry(heading.trim().to_owned()).or_insert_with(|| value.trim().to_owned());
    }
    lines
}

/// A value without what is only another way to write it: sizes for people, the month's name.
fn comparable(heading: &str, value: &str) -> String {
    let words: Vec<&str> = value.split_whitespace().collect();
    let first = |count: usize| words[..count.min(words.len())].join(" ");
    match heading {
        "Name" | "Feature Map" | "Reshape pos'n" => first(1),
        "Avail Dev Size" | "Used Dev Size" | "Array Size" => first(2),
        // Theirs: `Sun Nov 22 16:51:49 2026`, ours: `2026-11-22 16:51:49 UTC`.
        "Creation Time" | "Update Time" if words.len() == 5 => {
            let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
            let month = months.find(words[1]).expect("a month") / 3 + 1;
            format!("{}-{month:02}-{:0>2} {} UTC", words[4], words[2], words[3])
        }
        _ => value.to_owned(),
    }
}

#[test]
fn what_lies_beside_the_superblock_is_shown() {
    let bench = Bench::new();
    let show = |array: &str, member: u8| bench.uraid(&["examine", &bench.golden(array, member)]).ok();
    let bad = show("r5_n4_ls_c64k_badblocks", 1);
    assert!(bad.contains("Bad Block : 2048 for 8 sectors\n"), "{bad}");
    assert!(bad.contains("Bad Block : 2200 for 64 sectors\n"), "{bad}");
    let bitmap = show("r5_n4_ls_c64k_dirty_bitmap", 0);
    assert_eq!(mdadm_field(&bitmap, "Bitmap"), "32 bits of 64K, 3 dirty (9.4%)");
    assert!(mdadm_field(&bitmap, "Bitmap Events").starts_with("19 (cleared at "), "{bitmap}");
    let log = show("r5_n4_ls_c64k_crash_ppl", 0);
    assert!(mdadm_field(&log, "PPL Log").contains("entries"), "{log}");
    let document = json(
        &bench
            .uraid(&["examine", "--json", "r5_n4_ls_c64k_badblocks-1", "r5_n4_ls_c64k_dirty_bitmap-0"])
            .ok(),
    );
    let range = &document["members"][0]["superblock"]["bad_block_log"]["ranges"][1];
    assert_eq!((range["offset_bytes"].as_u64(), range["bytes"].as_u64()), (Some(2200 * 512), Some(64 * 512)));
    let bitmap = &document["members"][1]["superblock"]["bitmap"];
    assert_eq!((bitmap["regions"].as_u64(), bitmap["dirty_regions"].as_u64()), (Some(32), Some(3)));
}

#[test]
fn one_sentence_says_whether_the_array_can_be_started() {
    let bench = Bench::new();
    let verdict = |array: &str, members: &[u8]| {
        let names: Vec<String> = members.iter().map(|member| bench.golden(array, *member)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let run = bench.uraid(&[&["examine", "--json"], &names[..]].concat());
        let document = json(&run.stdout);
        let arrays = document["arrays"].as_array().unwrap();
        assert_eq!(arrays.len(), 1, "{array}");
        let text = bench.uraid(&[&["examine"], &names[..]].concat()).stdout;
        assert!(text.contains(arrays[0]["verdict"].as_str().unwrap()), "{text}");
        assert!(text.contains(&format!("Next: {}", arrays[0]["next"].as_str().unwrap())), "{text}");
        let whole = format!("{} | {} | {}", arrays[0]["verdict"], arrays[0]["problems"], arrays[0]["next"]);
        (arrays[0]["startable"].as_bool().unwrap(), whole)
    };
    for (array, members, startable, words) in [
        (
            "r4_n4_c4k",
            &[0, 1, 2, 3][..],
            true,
            &["every role has its member, and it is marked clean", "uraid serve r4_n4_c4k-0 r4"][..],
        ),
        ("r4_n4_c4k", &[0, 1, 3], true, &["can be started, degraded", "no member for role 2"]),
        ("r4_n4_c4k", &[0], false, &["3 of its 4 roles have no member", "find the others"]),
        (
            "r5_n4_ls_c64k_dirty_nobitmap",
            &[0, 1, 2, 3],
            true,
            &["parity will be resynced.", "from member sector 0"],
        ),
        (
            "r5_n4_ls_c64k_dirty_bitmap",
            &[0, 1, 2, 3],
            true,
            &["parity will be resynced where its bitmap says so.", "parity of 3 of 32 regions"],
        ),
        (
            "r5_n4_ls_c64k_crash_ppl",
            &[0, 1, 2, 3],
            true,
            &[
                "every role has its member; its partial parity log makes parity match again.",
                "no resync is needed",
            ],
        ),
        (
            "r5_n4_ls_c64k_badblocks",
            &[0, 1, 2, 3],
            true,
            &["marked clean, but there are bad blocks", "names 72 sectors of its data", "names 16 sectors"],
        ),
        ("r5_n4_ls_c64k_dirty_nobitmap", &[0, 1, 2], false, &["not stopped cleanly", "serve --force"]),
        ("r6_n5_ls_c64k_degraded1", &[0, 1, 2, 3, 4], true, &["degraded", "is stale"]),
        (
            "r5_n4_ls_c64k_midreplace",
            &[0, 1, 2, 3, 4],
            true,
            &["every role has its member", "a replacement for role 1"],
        ),
        ("r5_n4_ls_c64k_journal_wt_clean", &[0, 1, 2, 3, 4], false, &["journal", "--remove JOURNAL"]),
        ("r5_n4to5_ls_c64k_midreshape", &[0, 1, 2, 3, 4], false, &["reshape", "mdadm --wait"]),
    ] {
        let (can, text) = verdict(array, members);
        assert_eq!(can, startable, "{array} {members:?}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{array} {members:?}: {text}");
    }
}

/// As `uraid serve` would refuse it, and as it would say what it leaves out.
#[test]
fn what_is_in_use_cannot_be_started_and_what_is_no_member_is_told() {
    let _alone = Alone::new();
    let bench = Bench::new();
    bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]).ok();
    let examine = |members: &[&str]| {
        let document = json(&bench.uraid(&[&["examine", "--json"], members].concat()).stdout);
        document["arrays"][0].clone()
    };
    let held = Device::claim(&bench.path("b"), Access::Write).unwrap();
    let array = examine(&["a", "b", "c"]);
    assert_eq!((array["startable"].as_bool(), array["degraded"].as_u64()), (Some(false), None), "{array}");
    assert!(array["in_use"].as_str().unwrap().starts_with("b is locked by "), "{array}");
    assert!(array["verdict"].as_str().unwrap().contains("is in use and cannot be started"), "{array}");
    drop(held);
    bench.sparse("blank", 1 << 20);
    let array = examine(&["a", "blank", "c"]);
    assert_eq!((array["startable"].as_bool(), array["in_use"].as_str()), (Some(true), None), "{array}");
    assert!(array["problems"].to_string().contains("not used: blank: no md superblock found"), "{array}");
    assert_eq!(array["next"], "uraid serve a c");
}
