//! What `uraid serve` makes of members that are missing, stale, foreign, doubled, damaged or in use,
//! before it serves anything.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use md_format::{MemberState, SECTOR};
use uraid::Failure;
use uraid::assembly::{Volume, open, open_within};
use uraid::device::Device;
use uraid::scan;
use uraid_config::Config;

use crate::support::{Alone, Bench};

const LEN: u64 = 8 << 20;

/// A bench with a clean raid6 of "m0" to "m4" named "vol".
fn raid6() -> Bench {
    let bench = Bench::new();
    let args = ["create", "--level", "6", "--name", "vol", "--homehost", "none", "--size", "8M"];
    bench.uraid(&[&args[..], &["m0", "m1", "m2", "m3", "m4"]].concat()).ok();
    bench
}

fn config(bench: &Bench, members: &[&str]) -> Config {
    Config::with_members(members.iter().map(|name| bench.path(name)).collect::<Vec<PathBuf>>())
}

fn assemble(bench: &Bench, members: &[&str]) -> Result<Volume, Failure> {
    open(&config(bench, members))
}

/// The text of the refusal; also what `uraid serve` prints before it exits with 1, having changed nothing.
fn refusal(bench: &Bench, members: &[&str]) -> String {
    let before = bench.snapshot();
    let run = bench.uraid(&[&["serve", "--listen", "unix:/nonexistent/s"], members].concat());
    assert_eq!(run.code, 1, "{run:?}");
    assert_eq!(bench.snapshot(), before, "a refusal must not write");
    run.stderr
}

/// Changes the superblock of a member as if the array had gone on.
fn rewrite(bench: &Bench, name: &str, change: impl Fn(&mut md_format::Superblock)) {
    use std::os::unix::fs::FileExt;
    let path = bench.path(name);
    let mut superblock = scan::superblock(&Device::open_to_read(&path).unwrap()).unwrap();
    change(&mut superblock);
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&superblock.encode(), superblock.super_offset() * SECTOR).unwrap();
}

#[test]
fn members_are_told_by_their_superblocks_in_whatever_order() {
    let _alone = Alone::new();
    let bench = raid6();
    let volume = assemble(&bench, &["m3", "m0", "m4", "m2", "m1"]).unwrap();
    let found: Vec<usize> = volume.assembly.members.iter().map(|member| member.found).collect();
    assert_eq!(found, [1, 4, 3, 0, 2]);
    assert!(volume.assembly.members.iter().all(|member| member.state == MemberState::InSync));
    assert!(!volume.assembly.dirty && volume.assembly.degraded == 0 && volume.assembly.warnings.is_empty());
    assert_eq!(volume.device(1).map(|device| device.path().to_owned()), Some(bench.path("m0")));
}

#[test]
fn up_to_two_may_be_missing_whatever_the_reason() {
    let _alone = Alone::new();
    let bench = raid6();
    bench.file("m1", &[7; 8192], LEN);
    let volume = assemble(&bench, &["m0", "m1", "m2", "m3", "gone"]).unwrap();
    assert_eq!((volume.assembly.missing_roles.as_slice(), volume.assembly.degraded), ([1, 4].as_slice(), 2));
    assert!(volume.device(1).is_none() && volume.device(4).is_none());
    drop(volume);
    let text = refusal(&bench, &["m0", "m1", "m2", "gone"]);
    assert!(text.contains("too few members"), "{text}");
    assert!(text.contains("m1: no md superblock found") && text.contains("gone: cannot be read"), "{text}");
}

/// At boot disks appear one after the other; what failed before is not waited for.
#[test]
fn a_device_that_is_late_is_waited_for_if_the_array_had_it() {
    let _alone = Alone::new();
    let bench = raid6();
    let devices = tempfile::tempdir_in("/dev/shm").unwrap();
    let link = devices.path().join("m1");
    let mut config = config(&bench, &["m0", "m1", "m2", "m3", "m4"]);
    config.members[1] = link.clone();
    let open = |patience| {
        let begun = Instant::now();
        let volume = open_within(&config, Duration::from_millis(patience)).unwrap();
        (volume.assembly.missing_roles.clone(), begun.elapsed() >= Duration::from_millis(300))
    };
    assert_eq!(open(300), (vec![1], true));
    let (target, late) = (bench.path("m1"), link.clone());
    let appears = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        std::os::unix::fs::symlink(target, late).unwrap();
    });
    assert_eq!(open(60_000), (vec![], true));
    appears.join().unwrap();
    fs::remove_file(&link).unwrap();
    for name in ["m0", "m2", "m3", "m4"] {
        rewrite(&bench, name, |superblock| superblock.set_role(1, md_format::DevRole::Spare).unwrap());
    }
    assert_eq!(open(60_000).0, [1]);
}

#[test]
fn damaged_and_cut_off_members_are_left_out_with_the_reason() {
    let _alone = Alone::new();
    let bench = raid6();
    let mut bytes = fs::read(bench.path("m1")).unwrap();
    bytes[4096 + 77] ^= 4;
    bench.file("m1", &bytes[..1 << 20], LEN);
    let bytes = fs::read(bench.path("m2")).unwrap();
    bench.file("m2", &bytes[..1 << 20], 2 << 20);
    let volume = assemble(&bench, &["m0", "m1", "m2", "m3", "m4"]).unwrap();
    let reasons: Vec<String> = volume.assembly.rejected.iter().map(ToString::to_string).collect();
    assert!(reasons[0].contains("checksum") && reasons[1].contains("too small"), "{reasons:?}");
}

#[test]
fn foreign_stale_and_doubled_members_are_left_out_with_the_reason() {
    let _alone = Alone::new();
    let bench = raid6();
    bench.uraid(&["create", "--level", "5", "--name", "other", "--size", "8M", "x", "y", "z"]).ok();
    for name in ["m0", "m1", "m2", "m3"] {
        rewrite(&bench, name, |superblock| superblock.set_events(superblock.events() + 7));
    }
    fs::copy(bench.path("m0"), bench.path("copy")).unwrap();
    std::os::unix::fs::symlink(bench.path("m1"), bench.path("link")).unwrap();
    let volume = assemble(&bench, &["m0", "m1", "m2", "m3", "m4", "x", "copy", "link"]).unwrap();
    assert_eq!(volume.assembly.missing_roles, [4]);
    let reasons: Vec<String> = volume.assembly.rejected.iter().map(ToString::to_string).collect();
    for (reason, word) in
        reasons.iter().zip(["is stale", "another array", "the same", "is the same device as"])
    {
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn dirty_and_degraded_needs_force() {
    let _alone = Alone::new();
    let bench = raid6();
    for name in ["m0", "m1", "m2", "m3", "m4"] {
        rewrite(&bench, name, |superblock| superblock.set_resync_offset(0));
    }
    assert!(assemble(&bench, &["m0", "m1", "m2", "m3", "m4"]).unwrap().assembly.dirty);
    let text = refusal(&bench, &["m0", "m1", "m2", "m3"]);
    assert!(text.contains("is new and its parity was not made yet and role 4 is missing"), "{text}");
    for name in ["m0", "m1", "m2", "m3", "m4"] {
        rewrite(&bench, name, |superblock| superblock.set_events(superblock.events() + 3));
    }
    let text = refusal(&bench, &["m0", "m1", "m2", "m3"]);
    assert!(text.contains("was not stopped cleanly and role 4 is missing"), "{text}");
    let mut forced = config(&bench, &["m0", "m1", "m2", "m3"]);
    forced.assemble.force = true;
    // Q is left to compare with: it will be resynced. With two members missing nothing is.
    assert!(open(&forced).unwrap().assembly.dirty);
    let mut forced = config(&bench, &["m0", "m1", "m2"]);
    forced.assemble.force = true;
    assert!(!open(&forced).unwrap().assembly.dirty);
}

#[test]
fn a_member_in_use_stops_everything() {
    let _alone = Alone::new();
    let bench = raid6();
    let held = assemble(&bench, &["m3"]);
    assert!(held.is_err());
    let first = assemble(&bench, &["m0", "m1", "m2", "m3", "m4"]).unwrap();
    let text = refusal(&bench, &["m0", "m1", "m2", "m3", "m4"]);
    assert!(text.contains("m0: it is in use") && text.contains("may be running elsewhere"), "{text}");
    drop(first);
    // Readers may look at the same array together.
    let mut reading = config(&bench, &["m0", "m1", "m2", "m3", "m4"]);
    reading.read_only = true;
    let readers = (open(&reading).unwrap(), open(&reading).unwrap());
    assert!(assemble(&bench, &["m0", "m1", "m2", "m3", "m4"]).is_err());
    drop(readers);
    assert!(assemble(&bench, &["m0", "m1", "m2", "m3", "m4"]).is_ok());
}

#[test]
fn the_name_is_checked_if_one_is_given() {
    let _alone = Alone::new();
    let bench = raid6();
    let mut named = config(&bench, &["m0", "m1", "m2", "m3", "m4"]);
    named.name = Some("vol".parse().unwrap());
    assert!(open(&named).is_ok());
    named.name = Some("home".parse().unwrap());
    let text = open(&named).unwrap_err().to_string();
    assert_eq!(text, "these are members of the array \"vol\", not of \"home\"");
}

#[test]
fn what_is_no_device_is_refused() {
    let _alone = Alone::new();
    let bench = raid6();
    fs::create_dir(bench.path("dir")).unwrap();
    assert!(refusal(&bench, &["m0", "m1", "m2", "m3", "dir"]).contains("dir: it is a directory"));
}

/// A service takes what its configuration lists, so that is what `uraid assemble` has to speak of.
#[test]
fn assemble_tells_of_members_that_the_configuration_lacks() {
    let bench = raid6();
    std::fs::create_dir(bench.path("etc")).unwrap();
    let assemble = |more: &[&str]| bench.uraid(&[&["assemble", "--directory", "etc"], more].concat());
    let text = assemble(&["a vol", "m0"]);
    assert_eq!(text.code, 2, "{text:?}");
    let text = assemble(&["--device", "none", "tank", "m0", "m1", "m2", "m3", "m4"]).ok();
    let next = "Next: uraid assemble --write --device none --directory etc tank m0 m1 m2 m3 m4\n";
    assert!(text.contains(next), "{text}");
    let text = assemble(&["--write", "tank", "m0", "m1", "m2", "m3"]).ok();
    assert!(text.contains("Note: etc/tank.toml lists the members that are here"), "{text}");
    assert!(text.contains("Next: uraid serve etc/tank.toml\n"), "{text}");
    let text = assemble(&["tank", "m0", "m1", "m2", "m3", "m4"]).ok();
    let m4 = bench.path("m4").display().to_string();
    assert!(
        text.contains(&format!("; but etc/tank.toml does not list {m4}, and its service would")),
        "{text}"
    );
    assert!(
        text.contains(&format!("Next: write {m4} into `members` of etc/tank.toml, then uraid")),
        "{text}"
    );
    bench.file("etc/tank.toml", b"members = [", 11);
    let refused = assemble(&["--write", "tank", "m0", "m1", "m2", "m3", "m4"]);
    assert!(refused.code == 1 && refused.stderr.contains("uraid check-config etc/tank.toml"), "{refused:?}");
}
