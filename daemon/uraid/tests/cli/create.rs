//! `uraid create` as a person or script runs it: what it makes, what it refuses, and that a refusal
//! changes nothing. mdadm, mkfs and sfdisk are the judges.

use uraid::device::{Access, Device};

use crate::support::{Bench, mdadm_field};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const MIB: u64 = 1 << 20;

#[test]
fn new_files_become_a_clean_array_that_mdadm_understands() {
    for (level, members, layout) in [
        ("4", 3, None),
        ("5", 3, None),
        ("5", 4, Some("right-asymmetric")),
        ("6", 4, None),
        ("6", 6, Some("ddf-N-continue")),
    ] {
        let bench = Bench::new();
        let names: Vec<String> = (0..members).map(|i| format!("m{i}")).collect();
        let mut args = vec!["create", "--level", level, "--chunk", "64K", "--name", "vol", "--size", "64M"];
        args.extend(layout.iter().flat_map(|layout| ["--layout", layout]));
        args.extend(names.iter().map(String::as_str));
        let out = bench.uraid(&args).ok();
        assert!(out.contains("parity: matches already"), "{out}");
        for (role, name) in names.iter().enumerate() {
            assert_eq!(bench.len(name), 64 * MIB);
            assert!(bench.allocated(name) < MIB, "{name} is not sparse");
            let mdadm = bench.mdadm_examine(name);
            assert_eq!(mdadm_field(&mdadm, "Raid Level"), format!("raid{level}"));
            assert_eq!(mdadm_field(&mdadm, "Device Role"), format!("Active device {role}"));
            assert_eq!(mdadm_field(&mdadm, "State"), "clean");
            assert_eq!(
                mdadm_field(&mdadm, "Array State").split(' ').next(),
                Some("A".repeat(members).as_str())
            );
            assert!(mdadm_field(&mdadm, "Checksum").ends_with("- correct"), "{mdadm}");
            assert!(is_local(&mdadm, "vol"), "{mdadm}");
        }
    }
}

#[test]
fn zero_files_are_clean_too_and_need_no_force() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.sparse(name, 32 * MIB);
    }
    let out = bench.uraid(&["create", "--level", "5", "--name", "v", "a", "b", "c"]).ok();
    assert!(out.contains("parity: matches already"), "{out}");
    assert_eq!(mdadm_field(&bench.mdadm_examine("a"), "State"), "clean");
}

/// What a daemon that was killed left in flight would land on what is created.
#[test]
fn the_last_writes_of_an_earlier_process_are_waited_for() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.sparse(name, 32 * MIB);
    }
    // As an operation in flight has it.
    let late = fs::File::open(bench.path("b")).unwrap();
    late.try_lock_shared().unwrap();
    let mut create = Command::new(env!("CARGO_BIN_EXE_uraid"))
        .args(["create", "--level", "5", "--name", "v"])
        .args(["a", "b", "c"].map(|name| bench.path(name)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(create.stderr.take().unwrap()).lines().map(Result::unwrap);
    let waits = said.find(|line| line.contains("waiting for the last writes"));
    assert!(waits.is_some(), "it did not wait");
    assert!(fs::read(bench.path("a")).unwrap().iter().all(|byte| *byte == 0), "it did not wait with writing");
    drop(late);
    let rest: Vec<String> = said.collect();
    assert!(create.wait().unwrap().success(), "{rest:?}");
}

#[test]
fn everything_of_value_is_refused_and_nothing_changes() {
    let bench = Bench::new();
    bench.sparse("ext4", 8 * MIB);
    bench.tool("mkfs.ext4", &["-q", "-F", "ext4"]);
    bench.sparse("dos", 8 * MIB);
    bench.tool_with_input("sfdisk", &["-q", "dos"], "label: dos\n,4M,L\n");
    bench.sparse("gpt", 8 * MIB);
    bench.tool_with_input("sfdisk", &["-q", "gpt"], "label: gpt\n,4M,L\n");
    bench.sparse("swap", 8 * MIB);
    bench.tool("mkswap", &["-q", "swap"]);
    bench.file("luks", &[b"LUKS\xba\xbe\x00\x01".as_slice(), &[0; 8192]].concat(), 8 * MIB);
    bench.file("letter", b"Dear Sir or Madam", 8 * MIB);
    bench.file("late", &[vec![0; 6 << 20], vec![1]].concat(), 8 * MIB);
    bench
        .uraid(&[
            "create",
            "--level",
            "5",
            "--name",
            "old",
            "--homehost",
            "none",
            "--size",
            "8M",
            "array",
            "array1",
            "array2",
        ])
        .ok();
    for (holder, word) in [
        ("ext4", "a file system (ext4)"),
        ("dos", "a partition table (dos)"),
        ("gpt", "a partition table (gpt)"),
        ("swap", "(swap)"),
        ("luks", "an encrypted volume (crypto_LUKS)"),
        ("letter", "the first byte that is not zero is at 0"),
        ("late", "the first byte that is not zero is at 6291456"),
        ("array", "(linux_raid_member) \"old\""),
    ] {
        bench.sparse("empty", 8 * MIB);
        let before = bench.snapshot();
        let args = ["create", "--level", "5", "--name", "v", "--size", "8M", "empty", holder, "new"];
        let run = bench.uraid(&args);
        assert_eq!(run.code, 1, "{holder}: {run:?}");
        assert!(run.stderr.contains(word), "{holder}: {}", run.stderr);
        assert!(
            run.stderr.contains("nothing was changed") && run.stderr.contains("--force"),
            "{}",
            run.stderr
        );
        assert_eq!(bench.snapshot(), before, "{holder}: something was changed");
        // Nor does saying that parity is right make it the operator's wish to lose data.
        assert_eq!(bench.uraid(&[&args[..1], &["--assume-clean"], &args[1..]].concat()).code, 1);
        assert_eq!(bench.snapshot(), before);
    }
}

#[test]
fn all_that_is_of_value_is_named_at_once() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.file(name, b"text", 32 * MIB);
    }
    let run = bench.uraid(&["create", "--level", "5", "--name", "v", "a", "b", "c"]);
    assert!(["  a: data", "  b: data", "  c: data"].iter().all(|line| run.stderr.contains(line)), "{run:?}");
}

#[test]
fn force_takes_the_members_and_removes_what_they_were() {
    let bench = Bench::new();
    bench.sparse("ext4", 64 * MIB);
    bench.tool("mkfs.ext4", &["-q", "-F", "ext4"]);
    bench.sparse("gpt", 64 * MIB);
    bench.tool_with_input("sfdisk", &["-q", "gpt"], "label: gpt\n,16M,L\n");
    bench.file("letter", b"Dear Sir or Madam", 64 * MIB);
    let out =
        bench.uraid(&["create", "--force", "--level", "5", "--name", "v", "ext4", "gpt", "letter"]).ok();
    assert!(out.contains("a resync runs when the array is served"), "{out}");
    for name in ["ext4", "gpt", "letter"] {
        let found = bench.tool("wipefs", &["--no-act", "--noheadings", "--output", "TYPE", name]);
        assert_eq!(found.trim(), "linux_raid_member", "{name}");
        assert_eq!(mdadm_field(&bench.mdadm_examine(name), "State"), "active", "a resync is due");
    }
}

#[test]
fn force_removes_superblocks_of_other_versions() {
    for metadata in ["0.90", "1.0", "1.1", "1.2"] {
        let bench = Bench::new();
        let superblock = bench.md_superblock(metadata, 64 * MIB);
        for name in ["a", "b", "c"] {
            bench.file_from(name, &superblock, 64 * MIB);
        }
        assert_eq!(
            bench.uraid(&["create", "--level", "5", "--name", "new", "a", "b", "c"]).code,
            1,
            "{metadata}"
        );
        bench.uraid(&["create", "--force", "--level", "5", "--name", "new", "a", "b", "c"]).ok();
        let mdadm = bench.mdadm_examine("b");
        assert_eq!(mdadm_field(&mdadm, "Version"), "1.2", "{metadata}");
        assert!(is_local(&mdadm, "new"), "{metadata}: {mdadm}");
        let found = bench.tool("wipefs", &["--no-act", "--noheadings", "--output", "OFFSET", "b"]);
        assert_eq!(found.trim(), "0x1000", "{metadata}");
    }
}

#[test]
fn assume_clean_is_done_with_a_warning() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.file(name, b"text", 32 * MIB);
    }
    let out = bench
        .uraid(&["create", "--force", "--assume-clean", "--level", "5", "--name", "v", "a", "b", "c"])
        .ok();
    assert!(out.contains("assumed to match") && out.contains("will lose data"), "{out}");
    assert_eq!(mdadm_field(&bench.mdadm_examine("a"), "State"), "clean");
}

#[test]
fn members_that_cannot_be_are_refused_without_a_trace() {
    let bench = Bench::new();
    bench.sparse("a", 32 * MIB);
    bench.sparse("small", 64 << 10);
    bench.sparse("empty", 0);
    fs::create_dir(bench.path("dir")).unwrap();
    std::os::unix::fs::symlink(bench.path("a"), bench.path("link")).unwrap();
    std::os::unix::fs::symlink(bench.path("nowhere"), bench.path("dangling")).unwrap();
    let before = bench.snapshot();
    for (members, word) in [
        (["a", "a", "new"], "named twice"),
        (["a", "link", "new"], "it is the same device as a"),
        (["a", "small", "new"], "small is too small"),
        (["a", "empty", "new"], "empty is too small"),
        (["a", "dir", "new"], "dir: it is a directory"),
        (["a", "dangling", "new"], "dangling: cannot open it"),
        (["a", "/dev/null", "new"], "/dev/null: it is neither file nor block device"),
        (["a", "/dev/uraid-no-such-disk", "new"], "there is no such device"),
        (["a", "missing/b", "new"], "does not exist"),
    ] {
        let args = [&["create", "--level", "5", "--name", "v", "--size", "32M"], &members[..]].concat();
        let run = bench.uraid(&args);
        assert_eq!(run.code, 1, "{members:?}: {run:?}");
        assert!(run.stderr.contains(word), "{members:?}: {}", run.stderr);
        assert_eq!(bench.snapshot(), before, "{members:?}");
    }
    let run = bench.uraid(&["create", "--level", "5", "--name", "v", "a", "new1", "new2"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("new1: it does not exist; give --size"), "{run:?}");
    assert!(run.stderr.contains("new2: it does not exist; give --size"), "{run:?}");
    assert_eq!(bench.snapshot(), before);
}

#[test]
fn impossible_arrays_are_usage_errors() {
    let bench = Bench::new();
    for (args, word) in [
        (["--level", "6", "--chunk", "64K", "a", "b", "c"].as_slice(), "raid6 needs 4"),
        (&["--level", "5", "--chunk", "64K", "a", "b"], "raid5 needs 3"),
        (&["--level", "5", "--chunk", "48K", "a", "b", "c"], "chunk"),
        (&["--level", "5", "--chunk", "1K", "a", "b", "c"], "chunk"),
        (&["--level", "5", "--chunk", "4097", "a", "b", "c"], "chunk"),
        (&["--level", "5", "--layout", "ddf-N-restart", "a", "b", "c"], "it has: left-asymmetric"),
        (&["--level", "5", "--layout", "zigzag", "a", "b", "c"], "no layout \"zigzag\""),
    ] {
        let run = bench.uraid(&[&["create", "--name", "v", "--size", "32M"], args].concat());
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
        assert!(bench.snapshot().is_empty(), "{args:?}");
    }
}

#[test]
fn a_locked_member_is_left_alone_even_with_force() {
    let bench = Bench::new();
    for name in ["a", "b", "c"] {
        bench.sparse(name, 32 * MIB);
    }
    let held = Device::claim(&bench.path("b"), Access::Write).unwrap();
    let before = bench.snapshot();
    let run = bench.uraid(&["create", "--force", "--level", "5", "--name", "v", "a", "b", "c"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("b: it is in use"), "{run:?}");
    assert_eq!(bench.snapshot(), before);
    drop(held);
}

#[test]
fn without_its_tool_nothing_is_written() {
    let bench = Bench::new();
    bench.sparse("a", 32 * MIB);
    let before = bench.snapshot();
    bench.fake_tool("wipefs", "echo no such option >&2; exit 1");
    let run = bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.contains("`wipefs --no-act` failed") && run.stderr.contains("no such option"),
        "{run:?}"
    );
    assert_eq!(bench.snapshot(), before);
}

/// A limit on the size of files stands in for a disk that is full or breaks: the old signature is wiped
/// already when the first superblock cannot be written any more.
#[test]
fn a_write_that_fails_leaves_everything_as_it_was() {
    let bench = Bench::new();
    let superblock = bench.md_superblock("1.1", 32 * MIB);
    for name in ["a", "b", "c"] {
        bench.file_from(name, &superblock, 32 * MIB);
    }
    let before = bench.snapshot();
    for members in ["a b c", "new a b"] {
        let args = format!("create --force --level 5 --name v --size 32M {members}");
        let run = bench.uraid_with_file_limit(8192, &args);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains("File too large"), "{run:?}");
        assert!(run.stderr.contains("put back as they were"), "{run:?}");
        assert_eq!(bench.snapshot(), before, "{members}");
    }
}

/// Whether mdadm takes an array of this name for one of this machine's, or its host's name leaves no room.
fn is_local(mdadm: &str, name: &str) -> bool {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let shown = mdadm_field(mdadm, "Name");
    let (host, plain) = (host.trim(), shown.split(' ').next() == Some(name));
    shown == format!("{host}:{name}  (local to host {host})") || (plain && host.len() + name.len() > 30)
}

#[test]
fn the_host_stands_before_the_name_where_both_have_room() {
    for (options, full) in [
        (["--homehost", "here", "--name", "tank"], "here:tank"),
        (["--homehost", "none", "--name", "tank"], "tank"),
        (["--homehost", "<none>", "--name", "tank"], "tank"),
        (["--homehost", "here", "--name", "there:tank"], "there:tank"),
        // 31 bytes fit, 32 do not.
        (["--homehost", "a-host-with-a-long-name-it-is", "--name", "x"], "a-host-with-a-long-name-it-is:x"),
        (["--homehost", "a-host-with-a-long-name-it-is", "--name", "xy"], "xy"),
    ] {
        let bench = Bench::new();
        let sized = ["create", "--level", "5", "--size", "32M", "a", "b", "c"];
        bench.uraid(&[&sized[..], &options[..]].concat()).ok();
        let mdadm = bench.mdadm_examine("a");
        assert_eq!(mdadm_field(&mdadm, "Name").split(' ').next(), Some(full), "{mdadm}");
    }
    let bench = Bench::new();
    let create = |host| {
        let fixed =
            ["create", "--level", "5", "--size", "32M", "--name", "tank", "a", "b", "c", "--homehost"];
        bench.uraid(&[&fixed[..], &[host]].concat())
    };
    let refused = create("here:there");
    assert!(refused.code == 2 && refused.stderr.contains("neither `/` nor `:`"), "{refused:?}");
    create("<system>").ok();
    assert!(is_local(&bench.mdadm_examine("a"), "tank"));
}

#[test]
fn superblocks_lie_where_they_are_wanted() {
    for (metadata, offset) in [("1.0", 65_520), ("1.1", 0), ("1.2", 8)] {
        let bench = Bench::new();
        let args = ["create", "--level", "6", "--name", "v", "--size", "32M", "--metadata", metadata];
        bench.uraid(&[&args[..], &["a", "b", "c", "d"]].concat()).ok();
        let mdadm = bench.mdadm_examine("d");
        assert_eq!(mdadm_field(&mdadm, "Version"), metadata, "{mdadm}");
        assert_eq!(mdadm_field(&mdadm, "Super Offset"), format!("{offset} sectors"), "{mdadm}");
        assert!(mdadm_field(&mdadm, "Checksum").ends_with("- correct"), "{mdadm}");
    }
}

#[test]
fn words_about_the_bitmap_that_contradict_each_other_are_refused() {
    for options in [
        &["--bitmap", "none", "--consistency-policy", "bitmap"][..],
        &["--bitmap", "internal", "--consistency-policy", "ppl"],
        &["--bitmap", "internal", "--consistency-policy", "resync"],
        &["--bitmap", "none", "--bitmap-chunk", "64M"],
        &["--bitmap", "internal", "--bitmap-chunk", "5000"],
    ] {
        let bench = Bench::new();
        let args = ["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"];
        let run = bench.uraid(&[&args[..], options].concat());
        assert_eq!(run.code, 2, "{options:?}: {run:?}");
        assert!(!bench.path("a").exists(), "{options:?}");
    }
}
