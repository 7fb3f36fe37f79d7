//! What the tests share: a directory of their own, a generator, loop devices, and every implementation of
//! `MemberIo` made ready.

#![allow(dead_code, reason = "each test file uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use uraid_blockio::*;

/// A directory that goes when the test ends.
pub(crate) struct Dir(PathBuf);

impl Dir {
    /// Below cargo's own directory for tests, which lies on a disk where O_DIRECT means something.
    pub(crate) fn new(what: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{what}-{}-{number}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn sparse(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.file(name);
        create_sparse(&path, bytes).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool that a test cannot do without.
pub(crate) fn tool(name: &str, args: &[&str]) -> String {
    let output = Command::new(name).args(args).output();
    let output = output.unwrap_or_else(|err| panic!("this test needs `{name}`: {err}; install it"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test needs `{name} {}` to work (as root, with loop devices and mounts): {stderr}",
        args.join(" ")
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A loop device over a file.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    pub(crate) fn new(file: &Path, sector: u32) -> Self {
        let file = file.to_str().unwrap();
        Self(tool("losetup", &["--show", "-f", "--sector-size", &sector.to_string(), file]))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// A small generator (a linear congruential one with Knuth's constants), so that a seed is a whole test.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % below
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.below(256) as u8).collect()
    }
}

/// One implementation over some members of equal size.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) io: Box<dyn MemberIo>,
    pub(crate) pool: BufPool,
    // Dropped after `io`.
    _loops: Vec<Loop>,
}

pub(crate) const MEMBERS: usize = 2;

fn pool() -> BufPool {
    BufPool::new(16 << 20, ArenaOptions::default()).unwrap()
}

fn files(dir: &Dir, name: &'static str, size: u64, direct: Direct, engine: EnginePreference) -> Case {
    let paths: Vec<_> = (0..MEMBERS).map(|n| dir.sparse(&format!("{name}-{n}"), size)).collect();
    case_over(name, &paths, direct, engine, Vec::new())
}

fn loops(dir: &Dir, name: &'static str, size: u64, sector: u32) -> Case {
    let loops: Vec<_> =
        (0..MEMBERS).map(|n| Loop::new(&dir.sparse(&format!("{name}-{n}"), size), sector)).collect();
    let paths: Vec<_> = loops.iter().map(|l| PathBuf::from(&l.0)).collect();
    case_over(name, &paths, Direct::Require, EnginePreference::Uring, loops)
}

fn case_over(
    name: &'static str,
    paths: &[PathBuf],
    direct: Direct,
    engine: EnginePreference,
    loops: Vec<Loop>,
) -> Case {
    let pool = pool();
    let mut set = MemberSet::new();
    if name.contains("registered") {
        set.register(pool.arena()).unwrap();
    }
    for path in paths {
        let member = Member::open(path, OpenOptions { direct, engine, ..Default::default() }).unwrap();
        let at = set.attach(member).unwrap();
        println!("{name}: {:?}", set.backend(at).unwrap());
    }
    Case { name, io: Box::new(set), pool, _loops: loops }
}

/// Every implementation, over members of `size` zero bytes.
pub(crate) fn every_implementation(dir: &Dir, size: u64) -> Vec<Case> {
    use EnginePreference::{Auto, Sync, Uring};
    let mem =
        |name, members: MemMembers| Case { name, io: Box::new(members), pool: pool(), _loops: Vec::new() };
    vec![
        files(dir, "sync-buffered", size, Direct::Off, Sync),
        files(dir, "sync-direct", size, Direct::Require, Sync),
        files(dir, "uring-buffered", size, Direct::Off, Uring),
        files(dir, "uring-direct", size, Direct::Require, Uring),
        files(dir, "uring-direct-registered", size, Direct::Require, Uring),
        files(dir, "auto-buffered", size, Direct::Off, Auto),
        files(dir, "auto", size, Direct::Auto, Auto),
        loops(dir, "loop-512-registered", size, 512),
        loops(dir, "loop-4096", size, 4096),
        mem("mem", MemMembers::new(&[size; MEMBERS])),
        mem("mem-shuffled", MemMembers::shuffled(&[size; MEMBERS], 0x5eed_0002)),
    ]
}

/// Runs everything in flight to its end.
pub(crate) fn finish(io: &mut dyn MemberIo) -> Vec<IoDone> {
    let mut done = Vec::new();
    io.kick();
    while io.in_flight() > 0 {
        if io.reap(&mut done) == 0 {
            io.wait(None);
        }
    }
    done
}

/// Runs one operation to its end.
pub(crate) fn run(io: &mut dyn MemberIo, member: usize, offset: u64, op: IoOp) -> Result<(), IoError> {
    assert_eq!(io.in_flight(), 0);
    io.submit(Io { token: 7, member, op, offset });
    let done = finish(io);
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].token, done[0].member), (7, member));
    done[0].result
}
