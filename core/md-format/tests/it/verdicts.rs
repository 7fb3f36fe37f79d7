//! The verdicts of the real stack (mdadm 4.2 with Linux 6.1) as a table. Where this crate is stricter on
//! purpose the row says so.

use crate::common::{DEVICE, Random, V2, altered, array, devices, found};
use md_format::*;

/// What is expected of a row.
enum Want {
    /// It starts.
    Starts {
        /// The devices taken, in the order of their roles.
        taken: &'static str,
        degraded: u16,
        dirty: bool,
        /// Devices left out, each with words of the reason.
        rejected: &'static [(&'static str, &'static str)],
        /// Words of a warning, if there must be one.
        warning: &'static str,
    },
    /// It is refused with these words.
    Refused(&'static [&'static str]),
}

struct Row {
    name: &'static str,
    found: Vec<Found>,
    force: bool,
    want: Want,
}

fn row(name: &'static str, found: Vec<Found>, force: bool, want: Want) -> Row {
    Row { name, found, force, want }
}

fn all_start(taken: &'static str) -> Want {
    Want::Starts { taken, degraded: 0, dirty: false, rejected: &[], warning: "" }
}

fn raid5() -> Vec<Superblock> {
    array(Level::Raid5, 4)
}

fn raid6() -> Vec<Superblock> {
    array(Level::Raid6, 5)
}

/// An array after an edit of each member, which gets the member's index.
fn edited(mut array: Vec<Superblock>, edit: impl Fn(usize, &mut Superblock)) -> Vec<Found> {
    array.iter_mut().enumerate().for_each(|(at, one)| edit(at, one));
    devices(&array)
}

fn without(mut found: Vec<Found>, labels: &str) -> Vec<Found> {
    found.retain(|one| !labels.split(' ').any(|label| label == one.label));
    found
}

/// The array of four with some bytes of member 1 replaced (all members if `all`).
fn with_bytes(patches: &[(usize, &[u8])], all: bool) -> Vec<Found> {
    let mut found = devices(&raid5());
    for (at, one) in found.iter_mut().enumerate().filter(|(at, _)| all || *at == 1) {
        one.superblock = altered(&raid5()[at], patches);
    }
    found
}

/// The array of four with member 1 read from bytes whose checksum is wrong.
fn bad_checksum() -> Vec<Found> {
    let mut found = devices(&raid5());
    let mut bytes = raid5()[1].encode();
    bytes[33] ^= 1;
    found[1].superblock = Superblock::parse(&bytes, V2, DEVICE);
    found
}

fn dirty(array: Vec<Superblock>) -> Vec<Found> {
    edited(array, |_, one| one.set_resync_offset(0))
}

/// As it is after creation.
fn never_started(_: usize, one: &mut Superblock) {
    one.set_events(1);
    one.set_utime(one.ctime());
    one.set_resync_offset(0);
}

fn says(one: &mut Superblock, dev_number: u32, role: DevRole) {
    one.set_role(dev_number, role).expect("the table has room");
}

fn missing_rows() -> Vec<Row> {
    let without_d2 = Want::Starts {
        taken: "d0 d1 d3",
        degraded: 1,
        dirty: false,
        rejected: &[],
        warning: "no member for role 2; no further member may fail",
    };
    let raid6_one = Want::Starts {
        taken: "d0 d1 d2 d4",
        degraded: 1,
        dirty: false,
        rejected: &[],
        warning: "no member for role 3; one more member may fail",
    };
    vec![
        row("all there", devices(&raid5()), false, all_start("d0 d1 d2 d3")),
        row("one missing, clean", without(devices(&raid5()), "d2"), false, without_d2),
        row("raid6, one missing, clean", without(devices(&raid6()), "d3"), false, raid6_one),
        row(
            "raid5, two missing",
            without(devices(&raid5()), "d0 d2"),
            false,
            Want::Refused(&["too few members", "raid5 of 4", "roles 0, 2 are missing"]),
        ),
        row(
            "raid5, two missing, force",
            without(devices(&raid5()), "d0 d2"),
            true,
            Want::Refused(&["too few members"]),
        ),
        row(
            "raid6, three missing",
            without(devices(&raid6()), "d0 d1 d2"),
            true,
            Want::Refused(&["raid6 of 5 can do without 2", "roles 0, 1, 2"]),
        ),
        row("nothing named", Vec::new(), false, Want::Refused(&["no member of an array found"])),
    ]
}

fn event_rows() -> Vec<Row> {
    let at = |member: usize, events: u64| {
        edited(raid5(), move |n, one| {
            if n == member {
                one.set_events(events);
                one.set_utime(5);
            }
        })
    };
    let evicted = |behind: u64| {
        edited(raid5(), move |n, one| match n {
            1 => one.set_events(20 - behind),
            _ => says(one, 1, DevRole::Faulty),
        })
    };
    let without_d1 = |rejected| Want::Starts {
        taken: "d0 d2 d3",
        degraded: 1,
        dirty: false,
        rejected,
        warning: "the array is degraded",
    };
    vec![
        row("one event behind", at(1, 19), false, all_start("d0 d1 d2 d3")),
        row(
            "two events behind",
            at(1, 18),
            false,
            without_d1(&[("d1", "stale: last updated at event 18, the array is at 20")]),
        ),
        row("two events behind, force", at(1, 18), true, without_d1(&[("d1", "stale")])),
        row(
            "a lone member two events ahead",
            at(1, 22),
            false,
            Want::Refused(&["roles 0, 2, 3 are missing", "d0: is stale", "d3: is stale"]),
        ),
        row(
            "one event behind, and the newest say it failed",
            evicted(1),
            false,
            without_d1(&[("d1", "failed or removed while the array was running")]),
        ),
        // The kernel takes this member. It cannot have seen what was written since it failed.
        row(
            "as many events, and the others say it failed (stricter than md)",
            evicted(0),
            false,
            without_d1(&[("d1", "failed or removed")]),
        ),
        row(
            "says that the newest member is absent",
            edited(raid5(), |n, one| match n {
                0 => one.set_events(21),
                1 => says(one, 0, DevRole::Spare),
                _ => {}
            }),
            false,
            without_d1(&[("d1", "says that the newest member (d0) failed")]),
        ),
    ]
}

fn damage_rows() -> Vec<Row> {
    let without_d1 = |rejected| Want::Starts {
        taken: "d0 d2 d3",
        degraded: 1,
        dirty: false,
        rejected,
        warning: "not used: d1",
    };
    let too_long = 1921_u32.to_le_bytes();
    let large = (DEVICE + 1).to_le_bytes();
    vec![
        row("bad checksum", bad_checksum(), false, without_d1(&[("d1", "checksum")])),
        row(
            "pad0 not zero",
            with_bytes(&[(12, &[1])], false),
            false,
            without_d1(&[("d1", "reserved bytes")]),
        ),
        row(
            "pad3 not zero",
            with_bytes(&[(255, &[1])], false),
            false,
            without_d1(&[("d1", "reserved bytes")]),
        ),
        row(
            "data size too big",
            with_bytes(&[(136, &large)], false),
            false,
            without_d1(&[("d1", "too small")]),
        ),
        row("max_dev 1921", with_bytes(&[(220, &too_long)], false), false, without_d1(&[("d1", "1921")])),
        row(
            "super_offset wrong",
            with_bytes(&[(144, &[0])], false),
            false,
            without_d1(&[("d1", "says it belongs at sector 0")]),
        ),
        row(
            "unknown feature on all",
            with_bytes(&[(9, &[32])], true),
            false,
            Want::Refused(&["no member", "d0: feature bits 0x2000 are unknown", "d3: feature"]),
        ),
        row(
            "pad3 not zero on all",
            with_bytes(&[(240, &[7])], true),
            false,
            Want::Refused(&["no member", "d2: reserved bytes"]),
        ),
        row(
            "layout 6 on all",
            with_bytes(&[(76, &[6])], true),
            false,
            Want::Refused(&["layout 6 does not exist on raid5"]),
        ),
        row(
            "chunk of 2 KiB on all",
            with_bytes(&[(88, &[4])], true),
            false,
            Want::Refused(&["a chunk of 4 sectors"]),
        ),
    ]
}

/// mdadm gives up on the whole assembly in these rows; here the odd member is left out with the reason.
fn geometry_rows() -> Vec<Row> {
    let without_d1 = |rejected| Want::Starts {
        taken: "d0 d2 d3",
        degraded: 1,
        dirty: false,
        rejected,
        warning: "not used: d1",
    };
    let foreign =
        without_d1(&[("d1", "belongs to another array (pool, 00a5a5a5:a5a5a5a5:a5a5a5a5:a5a5a5a5)")]);
    vec![
        row(
            "chunk differs",
            with_bytes(&[(88, &[0, 1])], false),
            false,
            without_d1(&[("d1", "chunk is 256 sectors, the newest member says 128 sectors")]),
        ),
        row(
            "creation time differs",
            with_bytes(&[(64, &[1])], false),
            false,
            without_d1(&[("d1", "creation time")]),
        ),
        row("size differs", with_bytes(&[(81, &[0])], false), false, without_d1(&[("d1", "size is")])),
        row("layout differs", with_bytes(&[(76, &[3])], false), false, without_d1(&[("d1", "right-sym")])),
        row(
            "number of members differs",
            with_bytes(&[(92, &[5])], false),
            false,
            without_d1(&[("d1", "number of members is 5")]),
        ),
        row(
            "role out of range",
            with_bytes(&[(258, &[9])], false),
            false,
            without_d1(&[("d1", "has role 9, which the array does not have")]),
        ),
        row(
            "member number out of range",
            with_bytes(&[(160, &[200])], false),
            false,
            without_d1(&[("d1", "member number 200")]),
        ),
        row(
            "smaller than what the array uses",
            with_bytes(&[(136, &[10, 0, 0, 0])], false),
            false,
            without_d1(&[("d1", "is too small: 10 sectors")]),
        ),
        row("another array", with_bytes(&[(16, &[0])], false), false, foreign),
    ]
}

fn duplicate_rows() -> Vec<Row> {
    let twin_role = |events: u64| {
        let mut all = raid5();
        let mut twin = altered(&all[1], &[(160, &[4]), (168, &[99])]).expect("sound");
        twin.set_events(events);
        for one in all.iter_mut().chain([&mut twin]) {
            says(one, 4, DevRole::Active(1));
        }
        let mut found = devices(&all);
        found.insert(0, self::found("twin", twin));
        found
    };
    let start =
        |taken, rejected| Want::Starts { taken, degraded: 0, dirty: false, rejected, warning: "not used" };
    let mut twice = devices(&raid5());
    twice.push(found("other-name", raid5()[2].clone()));
    twice[2].identity = Some((1, 2));
    twice[4].identity = Some((1, 2));
    let mut copy = devices(&raid5());
    let mut older = raid5()[2].clone();
    older.set_events(19);
    copy.insert(0, found("old-copy", older));
    let mut behind = raid5();
    behind[1].set_events(19);
    let mut pretender = spare_superblock(&behind[0], DEVICE, Uuid([77; 16]), 4, 5).expect("large enough");
    pretender = altered(&pretender, &[(160, &[1]), (258, &[0xff, 0xff])]).expect("sound");
    let mut pretends = devices(&behind);
    pretends.insert(0, found("pretender", pretender));
    vec![
        row(
            "a spare claims the number of a member that is one event behind",
            pretends,
            false,
            start("d0 d1 d2 d3", &[("pretender", "claims the same member number 1 as d1")]),
        ),
        row(
            "two claim one role, the newer wins",
            twin_role(19),
            false,
            start("d0 d1 d2 d3", &[("twin", "claims the same role 1 as d1")]),
        ),
        row(
            "two claim one role, as new: the first named wins",
            twin_role(20),
            false,
            start("d0 twin d2 d3", &[("d1", "claims the same role 1 as twin")]),
        ),
        row(
            "a device named twice",
            twice,
            false,
            start("d0 d1 d2 d3", &[("other-name", "is the same device as d2")]),
        ),
        row(
            "a copy of a member",
            copy,
            false,
            start("d0 d1 d2 d3", &[("old-copy", "claims the same device UUID")]),
        ),
    ]
}

fn dirty_rows() -> Vec<Row> {
    let resync = |taken| Want::Starts { taken, degraded: 0, dirty: true, rejected: &[], warning: "resynced" };
    let refused = Want::Refused(&["not stopped cleanly and role 1 is missing", "start with force"]);
    let forced = |taken| Want::Starts { taken, degraded: 1, dirty: false, rejected: &[], warning: "FORCED" };
    let forced_twice =
        |taken| Want::Starts { taken, degraded: 2, dirty: false, rejected: &[], warning: "FORCED" };
    let raid4 = || array(Level::Raid4, 4);
    vec![
        row("dirty, none missing", dirty(raid5()), false, resync("d0 d1 d2 d3")),
        row("dirty, none missing, force", dirty(raid5()), true, resync("d0 d1 d2 d3")),
        row("dirty raid5, one missing", without(dirty(raid5()), "d1"), false, refused),
        row("dirty raid5, one missing, force", without(dirty(raid5()), "d1"), true, forced("d0 d2 d3")),
        row(
            "dirty raid6, one missing",
            without(dirty(raid6()), "d4"),
            false,
            Want::Refused(&["role 4 is missing or not rebuilt"]),
        ),
        row(
            "dirty raid6, one missing, force: Q is resynced",
            without(dirty(raid6()), "d4"),
            true,
            Want::Starts { taken: "d0 d1 d2 d3", degraded: 1, dirty: true, rejected: &[], warning: "FORCED" },
        ),
        row(
            "dirty raid6, two missing, force",
            without(dirty(raid6()), "d3 d4"),
            true,
            forced_twice("d0 d1 d2"),
        ),
        row(
            "dirty raid5, two missing, force",
            without(dirty(raid5()), "d1 d2"),
            true,
            Want::Refused(&["too few members"]),
        ),
        row(
            "a resync was broken off, one missing",
            without(edited(raid5(), |_, one| one.set_resync_offset(2048)), "d1"),
            false,
            Want::Refused(&["not fully resynced (up to member sector 2048 only) and role 1 is missing"]),
        ),
        row(
            "a resync was broken off",
            edited(raid5(), |_, one| one.set_resync_offset(2048)),
            false,
            Want::Starts {
                taken: "d0 d1 d2 d3",
                degraded: 0,
                dirty: true,
                rejected: &[],
                warning: "not fully resynced (up to member sector 2048 only): parity from member sector 2048",
            },
        ),
        row(
            "never started",
            edited(raid5(), never_started),
            false,
            Want::Starts {
                taken: "d0 d1 d2 d3",
                degraded: 0,
                dirty: true,
                rejected: &[],
                warning: "is new and its parity was not made yet: parity from member sector 0 on will",
            },
        ),
        row(
            "never started, one missing",
            without(edited(raid5(), never_started), "d1"),
            false,
            Want::Refused(&["is new and its parity was not made yet and role 1 is missing"]),
        ),
        // md starts this one: only parity is missing, and it holds nothing that is not on the others.
        row(
            "dirty raid4, parity missing (stricter than md)",
            without(dirty(raid4()), "d3"),
            false,
            Want::Refused(&["role 3 is missing"]),
        ),
        row(
            "as many events, one of them dirty",
            edited(raid5(), |n, one| one.set_resync_offset(if n == 2 { 0 } else { CLEAN })),
            false,
            resync("d0 d1 d2 d3"),
        ),
        row(
            "an E-1 member is clean, the newest dirty",
            edited(raid5(), |n, one| {
                if n != 0 {
                    one.set_events(21);
                    one.set_resync_offset(0);
                }
            }),
            false,
            resync("d0 d1 d2 d3"),
        ),
    ]
}

fn rebuilding_rows() -> Vec<Row> {
    let rebuilding = |array, members: &'static [usize]| {
        edited(array, move |n, one| {
            if members.contains(&n) {
                one.set_recovery_offset(Some(256));
            }
        })
    };
    let goes_on = |taken, degraded| Want::Starts {
        taken,
        degraded,
        dirty: false,
        rejected: &[],
        warning: "(role 1) is not rebuilt yet",
    };
    let mut dirty_rebuilding = rebuilding(raid5(), &[1]);
    for one in &mut dirty_rebuilding {
        one.superblock.as_mut().expect("sound").set_resync_offset(0);
    }
    vec![
        row("raid5, one rebuilding", rebuilding(raid5(), &[1]), false, goes_on("d0 d1 d2 d3", 1)),
        row("raid6, two rebuilding", rebuilding(raid6(), &[1, 4]), false, goes_on("d0 d1 d2 d3 d4", 2)),
        row(
            "raid5, two rebuilding",
            rebuilding(raid5(), &[1, 2]),
            true,
            Want::Refused(&["roles 1, 2 are missing or not rebuilt"]),
        ),
        row(
            "raid5, one rebuilding and one missing",
            without(rebuilding(raid5(), &[1]), "d0"),
            false,
            Want::Refused(&["roles 0, 1"]),
        ),
        row(
            "dirty and rebuilding",
            dirty_rebuilding.clone(),
            false,
            Want::Refused(&["role 1 is missing or not rebuilt"]),
        ),
        row(
            "dirty and rebuilding, force",
            dirty_rebuilding,
            true,
            Want::Starts { taken: "d0 d1 d2 d3", degraded: 1, dirty: true, rejected: &[], warning: "FORCED" },
        ),
    ]
}

fn feature_rows() -> Vec<Row> {
    let bits: [(&'static str, u16, &'static [&'static str]); 7] = [
        ("bitmap", 1, &["d0: the write-intent bitmap cannot be read"]),
        ("reshape", 4, &["not supported: reshape"]),
        ("replacement", 16, &["not supported: replacement"]),
        ("reshape backwards", 32, &["not supported: reshape backwards"]),
        ("clustered", 256, &["not supported: clustered"]),
        ("journal", 512, &["not supported: journal"]),
        ("ppl of two kinds", 3072, &["partial parity log", "two kinds"]),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for (name, bit, words) in bits {
        for force in [false, true] {
            // What has a place beside the superblock has it at sector 8 from there, and 64 sectors if it says so.
            let at = if [1, 3072].contains(&bit) { 8 } else { 0 };
            let sectors = if bit == 1 { 0 } else { at * 8 };
            let bytes: [(usize, &[u8]); 2] = [(8, &bit.to_le_bytes()), (96, &[at, 0, sectors, 0])];
            rows.push(row(name, with_bytes(&bytes, true), force, Want::Refused(words)));
        }
    }
    let mut journal = devices(&raid5());
    let role = [(160, &[4_u8][..]), (264, &[0xfd, 0xff]), (136, &[10, 0, 0, 0])];
    journal.push(found("log", altered(&raid5()[0], &role).expect("sound")));
    let mut former = journal.clone();
    former[4].superblock = altered(&raid5()[0], &[role[0], role[1], role[2], (200, &[18]), (8, &[0, 2])]);
    let without_it = Want::Starts {
        taken: "d0 d1 d2 d3",
        degraded: 0,
        dirty: false,
        rejected: &[("log", "was failed or removed")],
        warning: "not used: log",
    };
    rows.push(row("a journal that was taken away", former, false, without_it));
    rows.push(row(
        "a journal without the bit",
        journal,
        false,
        Want::Refused(&["log has a feature", "journal"]),
    ));
    rows.push(row(
        "a bad-block log that was not read",
        with_bytes(&[(8, &[8])], false),
        false,
        Want::Starts {
            taken: "d0 d2 d3",
            degraded: 1,
            dirty: false,
            rejected: &[("d1", "its bad-block log cannot be used: it was not read")],
            warning: "degraded",
        },
    ));
    rows
}

/// The array of four with a fifth device that was to replace the one of role 1, which is in the others' tables.
fn replacing(events: u64) -> Vec<Found> {
    let mut members = raid5();
    members.iter_mut().for_each(|one| says(one, 5, DevRole::Active(1)));
    let mut found = devices(&members);
    let own = [(8, &[2 | 16][..]), (152, &[0, 1]), (160, &[5]), (168, &[0x55]), (200, &events.to_le_bytes())];
    found.push(self::found("new", altered(&members[1], &own).expect("sound")));
    found
}

fn replacement_rows() -> Vec<Row> {
    let left_out = |taken, degraded, warning| Want::Starts {
        taken,
        degraded,
        dirty: false,
        rejected: &[("new", "is a replacement for role 1 that was not finished")],
        warning,
    };
    vec![
        row("a replacement under way", replacing(20), false, left_out("d0 d1 d2 d3", 0, "not used: new")),
        row("a replacement one behind", replacing(19), false, left_out("d0 d1 d2 d3", 0, "not used: new")),
        // The kernel would take half of the member; here it counts as missing.
        row(
            "a replacement without what it replaces",
            without(replacing(20), "d1"),
            false,
            left_out("d0 d2 d3", 1, "no member for role 1"),
        ),
        // It alone knows the newest state, and is not going to be used.
        row(
            "a replacement that is ahead",
            replacing(21),
            true,
            Want::Refused(&["new has a feature", "replacement"]),
        ),
    ]
}

#[test]
fn the_table_of_verdicts() {
    let tables = [
        missing_rows(),
        event_rows(),
        damage_rows(),
        geometry_rows(),
        duplicate_rows(),
        dirty_rows(),
        rebuilding_rows(),
        feature_rows(),
        replacement_rows(),
    ];
    let mut random = Random(SEED);
    for row in tables.into_iter().flatten() {
        let options = AssembleOptions { force: row.force, array: None };
        let got = assemble(&row.found, options);
        match (&row.want, got) {
            (Want::Refused(words), Err(error)) => {
                let text = error.to_string();
                assert!(words.iter().all(|word| text.contains(word)), "{}: {text}", row.name);
            }
            (Want::Starts { .. }, Ok(assembly)) => {
                check_start(&row, &assembly);
                check_any_order(&row, options, &assembly, &mut random);
            }
            (_, Ok(_)) => panic!("{}: it starts", row.name),
            (_, Err(error)) => panic!("{}: {error}", row.name),
        }
    }
}

const SEED: u64 = 0x0dde_5eed;

/// The verdict does not depend on the order in which the devices are named.
fn check_any_order(row: &Row, options: AssembleOptions, first: &Assembly, random: &mut Random) {
    if row.name.contains("first named") {
        return;
    }
    let outline = |found: &[Found], assembly: &Assembly| {
        let taken: Vec<_> =
            assembly.members.iter().map(|one| (found[one.found].label.clone(), one.state)).collect();
        let mut rejected: Vec<_> = assembly.rejected.iter().map(|one| one.label.clone()).collect();
        rejected.sort_unstable();
        (taken, rejected, assembly.resync_offset)
    };
    for _ in 0..6 {
        let mut found = row.found.clone();
        random.shuffle(&mut found);
        // Of two names of one device the first counts, so these stay as they are.
        found.sort_by_key(|one| one.identity.is_some() && one.label == "other-name");
        let order: Vec<&str> = found.iter().map(|one| one.label.as_str()).collect();
        let got = assemble(&found, options);
        let got = got.unwrap_or_else(|error| panic!("{}, seed {SEED:#x}, {order:?}: {error}", row.name));
        assert_eq!(outline(&found, &got), outline(&row.found, first), "{}, {order:?}", row.name);
    }
}

fn check_start(row: &Row, assembly: &Assembly) {
    let Want::Starts { taken, degraded, dirty, rejected, warning } = &row.want else {
        panic!("called for a row that starts");
    };
    let labels: Vec<&str> = assembly.members.iter().map(|one| row.found[one.found].label.as_str()).collect();
    assert_eq!(labels.join(" "), *taken, "{}", row.name);
    assert_eq!((assembly.degraded, assembly.dirty), (*degraded, *dirty), "{}", row.name);
    assert_eq!(assembly.dirty, assembly.resync_offset != CLEAN, "{}", row.name);
    assert_eq!(assembly.rejected.len(), rejected.len(), "{}: {:?}", row.name, assembly.rejected);
    for (got, (label, words)) in assembly.rejected.iter().zip(*rejected) {
        let text = got.reason.to_string();
        assert!(got.label == *label && text.contains(words), "{}: {label}: {text}", row.name);
    }
    let warnings: Vec<String> = assembly.warnings.iter().map(Warning::to_string).collect();
    let said = warnings.iter().any(|text| text.contains(warning));
    assert!(
        warning.is_empty() == warnings.is_empty() && (warning.is_empty() || said),
        "{}: {warnings:?}",
        row.name
    );
    let present: Vec<u32> = assembly.members.iter().map(|one| one.dev_number).collect();
    for one in &assembly.members {
        let table = one.superblock.dev_roles();
        let named: Vec<u32> =
            table.filter(|(_, role)| *role != DevRole::Spare).map(|(number, _)| number).collect();
        assert!(named.iter().all(|number| present.contains(number)), "{}: only members are named", row.name);
        assert_eq!(one.superblock.role(), DevRole::Active(one.role.expect("no spares here")), "{}", row.name);
        assert_eq!(one.superblock.events(), assembly.superblock.events(), "{}", row.name);
        assert_eq!(one.superblock.resync_offset(), assembly.resync_offset, "{}", row.name);
        assert_eq!(one.superblock.utime(), assembly.superblock.utime(), "{}", row.name);
    }
}

#[test]
fn two_halves_that_call_each_other_failed_are_not_chosen_between() {
    let halves = |ahead: u64| {
        edited(array(Level::Raid6, 4), move |n, one| {
            let others = if n < 2 { [2, 3] } else { [0, 1] };
            others.into_iter().for_each(|other| says(one, other, DevRole::Faulty));
            one.set_events(if n < 2 { 20 + ahead } else { 20 });
        })
    };
    let error = assemble(&halves(0), AssembleOptions { force: true, array: None }).expect_err("a tie");
    let text = error.to_string();
    assert!(text.contains("d0, d1 and d2, d3 call each other failed"), "{text}");
    let one = assemble(&halves(0)[..2], AssembleOptions::default()).expect("one half alone");
    assert_eq!((one.degraded, one.missing_roles), (2, vec![2, 3]));
    let newer = assemble(&halves(1), AssembleOptions::default()).expect("one half is newer");
    let reasons: Vec<String> = newer.rejected.iter().map(Rejected::to_string).collect();
    assert_eq!(newer.missing_roles, [2, 3]);
    assert!(reasons.iter().all(|text| text.contains("went separate ways")), "{reasons:?}");
}

#[test]
fn two_arrays_need_a_majority_or_a_choice() {
    let mine = devices(&raid5());
    let other = with_bytes(&[(16, &[7])], true);
    let mut mixed = mine[..2].to_vec();
    mixed.extend_from_slice(&other[2..]);
    let error = assemble(&mixed, AssembleOptions::default()).expect_err("two of each");
    assert!(matches!(&error, AssembleError::SeveralArrays { arrays } if arrays.len() == 2), "{error}");
    assert!(error.to_string().contains("07a5a5a5:a5a5a5a5:a5a5a5a5:a5a5a5a5): d2, d3"), "{error}");

    let both: Vec<Found> = mine[1..].iter().chain(&other).cloned().collect();
    let majority = assemble(&both, AssembleOptions::default()).expect("four of seven");
    assert_eq!(
        majority.superblock.set_uuid(),
        Uuid([&[7][..], &[0xa5; 15]].concat().try_into().expect("16"))
    );
    let array = Some(Uuid([0xa5; 16]));
    let chosen = assemble(&both, AssembleOptions { array, force: false }).expect("degraded");
    assert_eq!((chosen.degraded, chosen.rejected.len()), (1, 4));
    let array = Some(Uuid([1; 16]));
    let error = assemble(&both, AssembleOptions { array, force: false }).expect_err("no such array");
    assert!(error.to_string().contains("no member of array 01010101:"), "{error}");
}

#[test]
fn spares_are_taken_whatever_their_events() {
    let all = raid5();
    let mut spare = spare_superblock(&all[0], DEVICE, Uuid([77; 16]), 4, 5).expect("large enough");
    spare.set_events(3);
    let mut found = devices(&all);
    found.insert(0, self::found("spare", spare));
    let assembly = assemble(&found, AssembleOptions::default()).expect("a spare does no harm");
    let last = assembly.members.last().expect("members");
    assert_eq!((last.found, last.role, last.state, last.dev_number), (0, None, MemberState::Spare, 4));
    assert_eq!(last.superblock.events(), 20);
    let alone = assemble(&found[..1], AssembleOptions::default()).expect_err("spares alone are no array");
    assert!(matches!(alone, AssembleError::TooFewMembers { .. }), "{alone}");
}

#[test]
fn a_rebuild_that_says_more_than_there_is_ends_with_the_member() {
    let mut all = raid5();
    all[3].set_recovery_offset(Some(u64::MAX));
    let assembly = assemble(&devices(&all), AssembleOptions::default()).expect("nothing is missing");
    let recovery_offset = all[3].size_sectors();
    assert_eq!(assembly.members[3].state, MemberState::Rebuilding { recovery_offset });
}

#[test]
fn unreadable_and_blank_devices_are_named() {
    let mut found = devices(&raid5());
    found[0].superblock = Err(SuperblockError::Unreadable("Input/output error (os error 5)".to_owned()));
    let assembly = assemble(&found, AssembleOptions::default()).expect("one may be missing");
    assert_eq!(assembly.rejected[0].to_string(), "d0: cannot be read: Input/output error (os error 5)");
    found[1].superblock = Err(SuperblockError::NoMagic);
    let error = assemble(&found, AssembleOptions::default()).expect_err("two are gone");
    assert!(error.to_string().contains("d1: no md superblock found"), "{error}");
}

#[test]
fn a_member_that_just_began_to_be_rebuilt_may_be_ahead_of_the_others() {
    let mut all = raid5();
    let mut joined = spare_superblock(&all[0], DEVICE, Uuid([77; 16]), 4, 5).expect("large enough");
    all[1] = {
        joined.set_role(4, DevRole::Active(1)).expect("room");
        joined.set_role(1, DevRole::Spare).expect("room");
        joined.set_recovery_offset(Some(0));
        joined.set_events(21);
        joined
    };
    for at in [0, 2, 3] {
        says(&mut all[at], 1, DevRole::Spare);
    }
    let assembly = assemble(&devices(&all), AssembleOptions::default()).expect("a torn update");
    assert_eq!((assembly.degraded, assembly.members.len(), assembly.rejected.len()), (1, 4, 0));
}
