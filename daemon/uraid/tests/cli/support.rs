//! A directory to work in, the tools, and the uraid binary.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A directory of its own, gone at the end.
pub(crate) struct Bench {
    directory: tempfile::TempDir,
    tools: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Its output, if it succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed: {}", self.stderr);
        self.stdout
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Bench { directory: tempfile::tempdir().unwrap(), tools: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file that starts with `content` and has `len` bytes.
    pub(crate) fn file(&self, name: &str, content: &[u8], len: u64) {
        let file = fs::File::create(self.path(name)).unwrap();
        file.write_all_at(content, 0).unwrap();
        file.set_len(len).unwrap();
    }

    pub(crate) fn sparse(&self, name: &str, len: u64) {
        self.file(name, &[], len);
    }

    /// A file that holds `pieces` (offset, bytes).
    pub(crate) fn file_from(&self, name: &str, pieces: &[(u64, Vec<u8>)], len: u64) {
        self.sparse(name, len);
        let file = fs::OpenOptions::new().write(true).open(self.path(name)).unwrap();
        for (offset, bytes) in pieces {
            file.write_all_at(bytes, *offset).unwrap();
        }
    }

    pub(crate) fn len(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).unwrap().len()
    }

    /// Bytes that a file takes up.
    pub(crate) fn allocated(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).unwrap().blocks() * 512
    }

    /// All files with size and content, to see whether something changed.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, (u64, u64)> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let sum = if metadata.is_file() { checksum(&fs::read(&path).unwrap()) } else { 0 };
            files.insert(path, (metadata.len(), sum));
        }
        files
    }

    /// Runs uraid in the directory, as a script does: no terminal, nothing to read.
    pub(crate) fn uraid(&self, args: &[&str]) -> Run {
        self.uraid_with(args, &[])
    }

    /// The same with these variables, whose values are paths in the directory.
    pub(crate) fn uraid_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Run {
        let path = format!("{}:{}", self.tools.path().display(), search_path());
        let mut command = Command::new(env!("CARGO_BIN_EXE_uraid"));
        command.args(args).current_dir(self.directory.path()).env("PATH", path).stdin(Stdio::null());
        command.envs(variables.iter().map(|(name, value)| (name, self.path(value))));
        run(command)
    }

    /// Runs uraid where files cannot be written at or beyond `bytes`; existing ones may be longer.
    pub(crate) fn uraid_with_file_limit(&self, bytes: u64, args: &str) -> Run {
        let binary = env!("CARGO_BIN_EXE_uraid");
        // POSIX counts in blocks of 512 bytes. The ignored signal becomes an error of write.
        let script = format!("trap '' XFSZ; ulimit -f {}; exec '{binary}' {args}", bytes / 512);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).current_dir(self.directory.path()).stdin(Stdio::null());
        run(command)
    }

    /// Puts a script in front of the real tool, for uraid only.
    pub(crate) fn fake_tool(&self, name: &str, script: &str) {
        let path = self.tools.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn tool(&self, name: &str, args: &[&str]) -> String {
        self.tool_with_input(name, args, "")
    }

    /// Runs a tool, which must be there and succeed.
    pub(crate) fn tool_with_input(&self, name: &str, args: &[&str], input: &str) -> String {
        let mut command = Command::new(name);
        command.args(args).current_dir(self.directory.path()).env("PATH", search_path()).env("LC_ALL", "C");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match spawn(&mut command) {
            Ok(child) => child,
            Err(error) => panic!("this test needs `{name}` (Debian: {}): {error}", package_of(name)),
        };
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {args:?} failed: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What mdadm says of a member; times are in UTC.
    pub(crate) fn mdadm_examine(&self, name: &str) -> String {
        self.tool("env", &["TZ=UTC", "mdadm", "--examine", name])
    }

    /// Unpacks a member of an array of `tests/golden` and returns its name here.
    pub(crate) fn golden(&self, array: &str, member: u8) -> String {
        let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(array);
        let packed = packed.join(format!("d{member}.zst")).display().to_string();
        let name = format!("{array}-{member}");
        self.tool("zstd", &["-q", "-d", "-f", "--long=27", &packed, "-o", &name]);
        name
    }

    /// What a superblock of another version looks like to wipefs and to us: the fields that are
    /// checked, at the place where that version has it.
    pub(crate) fn md_superblock(&self, metadata: &str, bytes: u64) -> Vec<(u64, Vec<u8>)> {
        let sectors = bytes / 512;
        if metadata == "0.90" {
            // 64 KiB aligned, in the last 64 to 128 KiB; only magic, version and checksum are looked at.
            let mut block = vec![0; 4096];
            put(&mut block, 0, 0xa92b_4efc);
            put(&mut block, 4, 0);
            put(&mut block, 8, 90);
            let sum = block.as_chunks::<4>().0.iter().map(|w| u64::from(u32::from_le_bytes(*w))).sum::<u64>();
            put(&mut block, 152, (sum as u32).wrapping_add((sum >> 32) as u32));
            return vec![((bytes & !0xffff) - 0x1_0000, block)];
        }
        let start = match metadata {
            "1.0" => (sectors - 16) & !7,
            "1.1" => 0,
            _ => 8,
        };
        let (data_offset, data_size) =
            if metadata == "1.0" { (0, start - 8) } else { (2048, sectors - 2048) };
        let mut block = vec![0; 512];
        for (at, value) in [
            (0, 0xa92b_4efc),
            (4, 1),
            (16, 0x1234_5678),
            (64, 1_700_000_000),
            (72, 5),
            (76, 2),
            (88, 128),
            (92, 3),
            (220, 128),
        ] {
            put(&mut block, at, value);
        }
        block[32..35].copy_from_slice(b"old");
        for (at, value) in
            [(80, data_size / 128 * 128), (128, data_offset), (136, data_size), (144, start), (208, u64::MAX)]
        {
            block[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        let sum = block.as_chunks::<4>().0.iter().map(|w| u64::from(u32::from_le_bytes(*w))).sum::<u64>();
        put(&mut block, 216, (sum as u32).wrapping_add((sum >> 32) as u32));
        vec![(start * 512, block)]
    }
}

fn put(block: &mut [u8], at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// A value under one of mdadm's headings.
pub(crate) fn mdadm_field(text: &str, heading: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(heading)?.trim_start().strip_prefix(": "));
    match line {
        Some(value) => value.trim().to_owned(),
        None => panic!("no {heading:?} in:\n{text}"),
    }
}

/// Held by whoever must not see a process of another test begin.
static SPAWNING: Mutex<()> = Mutex::new(());

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, no other test starts a process. Between its fork and its exec a new process has every
/// file of ours open, locks included, so that a member that was let go of is still locked for a moment.
pub(crate) struct Alone(#[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Alone {
    pub(crate) fn new() -> Self {
        let guard = SPAWNING.lock().unwrap_or_else(PoisonError::into_inner);
        ALONE.set(true);
        Alone(guard)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        ALONE.set(false);
    }
}

/// Returns when the process runs its own program.
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let _alone = (!ALONE.get()).then(|| SPAWNING.lock().unwrap_or_else(PoisonError::into_inner));
    command.spawn()
}

fn run(mut command: Command) -> Run {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = spawn(&mut command).unwrap().wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The tools of an administrator are not in everybody's PATH.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn package_of(tool: &str) -> &'static str {
    match tool {
        "mkfs.ext4" => "e2fsprogs",
        "sfdisk" => "fdisk",
        "mdadm" => "mdadm",
        _ => "util-linux",
    }
}

/// FNV-1a over words; enough to see a change.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: &[u8]| {
        word.iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte))
            .wrapping_add(sum.rotate_left(5))
            .wrapping_mul(0x100_0000_01b3)
    };
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, step)
}
