//! Every array under `tests/golden`, which Linux md made, through the real core: the verdict, every byte of
//! the content (whole and without each set of members that the manifest names), parity, and what is refused.
//!
//! No array is passed over: one with a feature that is not honoured must be refused by its name. Whoever makes
//! a feature work takes its line out of [`REFUSED`], and then its arrays are checked like all others.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod images;
mod manifest;
mod parity;
#[path = "../world/mod.rs"]
mod world;

use images::{Image, judge, roles, sha256, start, taken, unpack};
use manifest::{Case, Check};
use md_format::{AssembleError, Features, Layout, Level};
use uraid_core::*;
use world::World;

/// Features whose arrays are refused, and why it will stay so or what is to come.
const REFUSED: [(Features, &str); 2] = [
    (Features::JOURNAL, "a journal holds writes that only md replays"),
    (Features::RESHAPE, "half of the array has another geometry"),
];

/// The feature for which an array is refused.
fn refused(images: &[Image]) -> Option<Features> {
    let superblocks: Vec<_> = images.iter().filter_map(|image| image.found(0).superblock.ok()).collect();
    let has = |feature| superblocks.iter().any(|sb| sb.features().contains(feature));
    REFUSED.into_iter().map(|(feature, _)| feature).find(|&feature| has(feature))
}

fn geometry(case: &Case) -> Geometry {
    let level = Level::from_number(case.level).expect("a level with parity");
    let layout = Layout::from_number(level, case.layout).expect("a layout of the level");
    Geometry::new(level, layout, case.raid_disks, case.chunk_bytes, case.dev_sectors * 512).expect("possible")
}

/// The images without the members of some roles.
fn without(images: &[Image], missing: &[u16]) -> Vec<Image> {
    images.iter().filter(|image| image.role.is_none_or(|role| !missing.contains(&role))).cloned().collect()
}

/// All bytes of the array, as a client reads them.
fn read_all(world: &mut World) -> Vec<u8> {
    let bytes = world.geometry().array_bytes();
    // What the sectors hold is not known here; the caller compares.
    world.fuzzy = (0..bytes / 512).collect();
    world.reads.clear();
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(512 * 1024);
        world.ask(RequestKind::Read, at, vec![0x55; len as usize]);
        at += len;
    }
    world.quiesce();
    let read: Vec<u8> = world.reads.values().flatten().copied().collect();
    assert_eq!(read.len() as u64, bytes);
    read
}

/// Everything about one array.
fn check(case: &Case) {
    let name = &case.name;
    let images = unpack(case);
    raw_content(case, &images);
    for check in &case.checks {
        check_images(case, &images, check);
    }
    if let Some(feature) = refused(&images) {
        let error = judge(&images, false).map(|_| "an assembly").expect_err("a refusal");
        let AssembleError::Unsupported { features, .. } = &error else { panic!("{name}: {error}") };
        assert!(features.features().contains(feature), "{name}: {error}");
        let forced = judge(&images, true).map(|_| "an assembly");
        assert!(matches!(forced, Err(AssembleError::Unsupported { .. })), "{name}: {forced:?}");
        return;
    }
    for check in &case.checks {
        check_served(case, &images, check);
    }
    losses(case, &images);
    recovered(case, &images);
}

/// The data of a whole array, picked from the images by the geometry alone: what a client must read, without
/// the core's machinery. Of refused arrays this is all that is known of their content.
fn raw_content(case: &Case, images: &[Image]) {
    let journal = images.iter().filter_map(|image| image.found(0).superblock.ok());
    let elsewhere = Features::JOURNAL | Features::RESHAPE;
    if journal.into_iter().any(|sb| !sb.features().intersection(elsewhere).is_empty()) {
        // Part of the content is in the journal, or laid out for another number of members.
        return;
    }
    let (g, roles) = (geometry(case), roles(images, case.raid_disks));
    assert_eq!(g.array_bytes(), case.array_bytes, "{}", case.name);
    let mut content = Vec::new();
    while (content.len() as u64) < g.array_bytes() {
        let piece = g.piece(content.len() as u64, g.array_bytes());
        let role = g.pattern(piece.stripe).roles[usize::from(piece.lane)];
        let Some(bytes) = roles[usize::from(role.0)] else { return };
        let at = (g.member_offset(piece.stripe) + u64::from(piece.offset)) as usize;
        content.extend(&bytes[at..at + piece.len as usize]);
    }
    // Bad blocks hold anything.
    let bad_blocks = images
        .iter()
        .any(|image| image.found(0).superblock.is_ok_and(|sb| sb.features().contains(Features::BAD_BLOCKS)));
    assert_eq!(sha256(&content) == case.content_sha256, !bad_blocks, "{}: raw content", case.name);
}

/// What can be seen on the images, whether or not the array is refused.
fn check_images(case: &Case, images: &[Image], check: &Check) {
    let name = &case.name;
    match check {
        Check::Parity { bad_sectors, bad_pages, replay } if *replay != Some(true) => {
            let bad_blocks = images.iter().any(|image| {
                image.found(0).superblock.is_ok_and(|sb| sb.features().contains(Features::BAD_BLOCKS))
            });
            if bad_blocks {
                // Those blocks are not what parity was made of; parity is compared once they are recovered.
                return;
            }
            let bad = parity::compare(&geometry(case), &roles(images, case.raid_disks));
            assert_eq!(bad.len() as u64 * 8, *bad_sectors, "{name}: {bad:?}");
            if let Some(bad_pages) = bad_pages {
                assert_eq!(&bad, bad_pages, "{name}");
            }
        }
        Check::Bitmap { set } => {
            for (file, wanted) in set {
                let image = images.iter().find(|image| image.label == *file).expect("the manifest names it");
                assert_eq!(&bits(image).1, wanted, "{name}: {file}");
            }
        }
        Check::BitmapCovers => {
            let bad = parity::compare(&geometry(case), &roles(images, case.raid_disks));
            for image in images {
                let (chunk, set) = bits(image);
                let covered = |block: u64| set.contains(&(block * 4096 / chunk));
                assert!(!bad.is_empty() && bad.iter().all(|&(block, _)| covered(block)), "{name}: {bad:?}");
            }
        }
        Check::Parity { .. } | Check::Content { .. } | Check::State { .. } => {}
    }
}

/// The bytes that one bit of a member's bitmap covers, and the bits that are set.
fn bits(image: &Image) -> (u64, Vec<u64>) {
    let bitmap = image.found(0).areas.bitmap.expect("there is a bitmap").expect("it is inside the image");
    let number = |at: usize, len: usize| {
        bitmap[at..at + len].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
    };
    assert_eq!((number(0, 4), number(4, 4)), (0x6d74_6962, 4), "not a bitmap of version 4");
    let (sectors, chunk) = (number(40, 8), number(52, 4));
    let count = (sectors * 512).div_ceil(chunk);
    let set = |bit: &u64| bitmap[256 + (*bit / 8) as usize] >> (bit % 8) & 1 == 1;
    let set: Vec<u64> = (0..count).filter(set).collect();
    let superblock = image.found(0).superblock.expect("sound");
    let parsed = md_format::Bitmap::parse(&bitmap, &superblock).expect("sound");
    assert_eq!((parsed.chunk_bytes(), parsed.set_regions().collect()), (chunk, set.clone()));
    (chunk, set)
}

/// What a client and an operator see of an array that is served.
fn check_served(case: &Case, images: &[Image], check: &Check) {
    let name = &case.name;
    match check {
        Check::State { want } => {
            let assembly = judge(images, false).unwrap_or_else(|e| panic!("{name}: {e}"));
            let got = (assembly.dirty, assembly.degraded, assembly.superblock.events());
            assert_eq!(got, (want.dirty, want.degraded, want.events), "{name}");
            let offset = want.resync_offset.unwrap_or(assembly.resync_offset);
            assert_eq!(assembly.resync_offset, offset, "{name}");
        }
        Check::Content { sha256: wanted, missing } => content(case, images, missing, wanted),
        Check::Parity { bad_pages, replay: None, .. } => scrubbed(case, images, bad_pages.as_deref()),
        Check::Parity { .. } | Check::Bitmap { .. } | Check::BitmapCovers => {}
    }
}

/// What the kernel refuses for what is missing is refused: any member of an array that was not stopped cleanly
/// and has no log of what was being written, and one more than parity covers of any.
fn losses(case: &Case, images: &[Image]) {
    let name = &case.name;
    let judged = |missing: &[u16]| judge(&without(images, missing), false).map(|_| "it starts");
    let roles: Vec<u16> = (0..case.raid_disks).collect();
    let parity = if case.level == 6 { 2 } else { 1 };
    for role in &roles {
        let refused = judged(&[*role]);
        if case.dirty && !has_ppl(images) {
            assert!(
                matches!(refused, Err(AssembleError::DirtyDegraded { .. })),
                "{name} without {role}: {refused:?}"
            );
        }
    }
    for missing in roles.windows(parity + 1) {
        let refused = judged(missing);
        let few = matches!(refused, Err(AssembleError::TooFewMembers { .. }));
        assert!(few, "{name} without {missing:?}: {refused:?}");
    }
}

/// The content without some members. What the kernel refuses to start is refused, and only force starts it.
fn content(case: &Case, images: &[Image], missing: &[u16], wanted: &str) {
    let name = &case.name;
    let images = without(images, missing);
    let lost = || (0..case.raid_disks).filter(|role| images.iter().all(|image| image.role != Some(*role)));
    let dirty_degraded = case.dirty && !missing.is_empty() && !has_ppl(&images);
    if dirty_degraded {
        let refused = judge(&images, false);
        assert!(matches!(refused, Err(AssembleError::DirtyDegraded { .. })), "{name} without {missing:?}");
    }
    let assembly =
        judge(&images, dirty_degraded).unwrap_or_else(|e| panic!("{name} without {missing:?}: {e}"));
    assert!(lost().all(|role| assembly.missing_roles.contains(&role)), "{name} without {missing:?}");
    let mut world = start(&images, &assembly);
    let content = read_all(&mut world);
    assert_eq!(sha256(&content), wanted, "{name} without {missing:?}");
}

fn has_ppl(images: &[Image]) -> bool {
    let log = Features::PPL | Features::MULTIPLE_PPLS;
    let mut superblocks = images.iter().filter_map(|image| image.found(0).superblock.ok());
    superblocks.any(|sb| !sb.features().intersection(log).is_empty())
}

/// Bytes that the bad-block logs tell of.
fn bad_bytes(world: &World) -> u64 {
    world.array.status().members.iter().map(|member| member.bad_bytes).sum()
}

/// A scrub finds exactly the stripes that do not match, and changes nothing but known bad blocks, which it recovers
/// and writes.
fn scrubbed(case: &Case, images: &[Image], bad: Option<&[(u64, Option<u16>)]>) {
    let name = &case.name;
    let assembly = judge(images, false).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut world = start(images, &assembly);
    world.quiesce();
    if world.array.check_scrub().is_err() {
        assert!(world.array.status().missing > 0, "{name}: a whole array can be scrubbed");
        return;
    }
    let strip = u64::from(world.geometry().strip_bytes()) / 4096;
    let mut stripes: Vec<u64> = bad.unwrap_or_default().iter().map(|(block, _)| block / strip).collect();
    stripes.dedup();
    let before: Vec<Vec<u8>> = world.disks.iter().map(|disk| disk.view.clone()).collect();
    let any_bad = bad_bytes(&world) > 0;
    world.notices.clear();
    world.tell(Event::Scrub { repair: false });
    world.quiesce();
    let found = world.notices.iter().find_map(|notice| match notice {
        Notice::SyncFinished { kind: SyncKind::Scrub, mismatches, complete: true, skipped: 0, .. } => {
            Some(*mismatches)
        }
        _ => None,
    });
    assert_eq!(found, Some(stripes.len() as u64), "{name}: {:?}", world.notices);
    let after = world.disks.iter().map(|disk| &disk.view);
    assert_eq!(after.ne(&before), any_bad, "{name}: a scrub without repair wrote something");
    assert_eq!(bad_bytes(&world), 0, "{name}");
}

/// After a start, blank members in the place of lost ones and a stop: parity matches everywhere, the content
/// is what it was, and the array is clean and whole.
fn recovered(case: &Case, images: &[Image]) {
    let name = &case.name;
    let damaged = case.checks.iter().any(|check| matches!(check, Check::Parity { bad_pages: Some(_), .. }));
    let assembly = judge(images, false).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut world = start(images, &assembly);
    world.quiesce();
    while world.array.status().missing > 0 {
        let before = world.array.status().missing;
        add_blank(&mut world, name);
        world.quiesce();
        assert!(world.array.status().missing < before, "{name}: {:?}", world.array.status());
    }
    assert_eq!(sha256(&read_all(&mut world)), case.content_sha256, "{name}: after recovery");
    if bad_bytes(&world) > 0 {
        world.tell(Event::Scrub { repair: false });
        world.quiesce();
    }
    world.pass_time(1000);
    world.tell(Event::Stop);
    world.quiesce();
    assert_eq!(world.stopped, Some(true), "{name}");
    let left = taken(&world);
    let bad = parity::compare(&geometry(case), &roles(&left, case.raid_disks));
    assert_eq!(bad.is_empty(), !damaged, "{name}: {bad:?}");
    assert!(roles(&left, case.raid_disks).iter().all(Option::is_some), "{name}: a role is empty");
    let again = judge(&left, false).unwrap_or_else(|e| panic!("{name} after a stop: {e}"));
    assert_eq!((again.dirty, again.degraded), (false, 0), "{name} after a stop");
    assert!(again.superblock.events() >= case.events, "{name} after a stop");
}

/// Adds a member that holds nothing of use, as large as the others.
fn add_blank(world: &mut World, name: &str) {
    let bytes = world.disks.iter().map(|disk| disk.view.len()).max().expect("members");
    world.disks.push(world::Disk::of_image(vec![0x77; bytes], 0));
    let at = world.disks.len() - 1;
    let device_uuid = [100 + at as u8; 16];
    let new =
        NewMember { member: MemberId(at as u16), device_sectors: bytes as u64 / 512, device_uuid, old: None };
    world.array.check_add(&new).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    world.tell(Event::AddMember(new));
}

fn check_all(pass: impl Fn(&Case) -> bool) {
    let cases: Vec<Case> = manifest::cases().into_iter().filter(|case| pass(case)).collect();
    assert!(!cases.is_empty());
    cases.iter().for_each(check);
}

/// The arrays with which every layout is tried, 4 KiB chunks and nothing else in them.
fn plain(case: &Case) -> bool {
    case.name.ends_with("_c4k")
}

#[test]
fn every_layout_of_raid4_and_raid5() {
    check_all(|case| plain(case) && case.level != 6);
}

#[test]
fn every_layout_of_raid6() {
    check_all(|case| plain(case) && case.level == 6);
}

#[test]
fn raid5_in_every_state() {
    check_all(|case| !plain(case) && case.level == 5);
}

#[test]
fn raid6_in_every_state() {
    check_all(|case| !plain(case) && case.level == 6);
}

#[test]
fn no_array_is_passed_over() {
    let cases = manifest::cases();
    assert_eq!(cases.len(), 56);
    assert!(cases.iter().all(|case| [4, 5, 6].contains(&case.level) && (plain(case) || case.level != 4)));
    let mut dirs: Vec<String> = std::fs::read_dir(manifest::home())
        .expect("tests/golden")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let mut names: Vec<String> = cases.into_iter().map(|case| case.name).collect();
    dirs.sort();
    names.sort();
    assert_eq!(dirs, names);
}
