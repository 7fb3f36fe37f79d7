//! A directory with an array in it, and the daemon that serves it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::client::Client;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory with member files, gone at the end.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) members: Vec<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// An array named "vol" of this level and this many members of 16 MiB, all zero and clean.
    pub(crate) fn new(level: u32, members: usize) -> World {
        let directory = tempfile::tempdir().unwrap();
        let members: Vec<PathBuf> = (0..members).map(|i| directory.path().join(format!("m{i}"))).collect();
        let world = World { directory, members };
        let level = level.to_string();
        let args = ["create", "--level", &level, "--chunk", "16K", "--name", "vol", "--size", "16M"];
        let members = world.members.iter().map(|path| path.to_str().unwrap());
        let run = world.uraid(&args.into_iter().chain(members).collect::<Vec<_>>());
        assert_eq!(run.code, 0, "{run:?}");
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A file of this many bytes, all zero.
    pub(crate) fn blank(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.path(name);
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("nbd.sock")
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.path("control.sock")
    }

    /// Runs a command to its end.
    pub(crate) fn uraid(&self, args: &[&str]) -> Run {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command to the daemon of this world.
    pub(crate) fn ctl(&self, verb: &str, args: &[&str]) -> Run {
        let control = self.control();
        self.uraid(&[&[verb, "--control", control.to_str().unwrap()], args].concat())
    }

    pub(crate) fn status(&self) -> Value {
        let run = self.ctl("status", &["--json"]);
        assert_eq!(run.code, 0, "{run:?}");
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// Asks for the status until it is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(begin.elapsed() < PATIENCE, "not {what} in time: {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What a member's superblock says, as JSON.
    pub(crate) fn examine(&self, member: &Path) -> Value {
        let run = self.uraid(&["examine", "--json", member.to_str().unwrap()]);
        let document: Value = serde_json::from_str(&run.stdout).unwrap();
        document["members"][0]["superblock"].clone()
    }

    pub(crate) fn assert_all_clean(&self) {
        for member in &self.members {
            assert_eq!(self.examine(member)["state"], "clean", "{}", member.display());
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uraid"));
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        command.args(args).current_dir(self.directory.path()).env("PATH", path).env("NO_COLOR", "1");
        command
    }

    /// Arguments of `serve` with the usual sockets.
    pub(crate) fn serve_args(&self, options: &[&str], members: &[PathBuf]) -> Vec<String> {
        let socket = format!("unix:{}", self.socket().display());
        let control = self.control();
        let fixed = ["serve", "--listen", &socket, "--control", control.to_str().unwrap()];
        let members = members.iter().map(|path| path.to_str().unwrap());
        fixed.into_iter().chain(options.iter().copied()).chain(members).map(str::to_owned).collect()
    }

    /// Serves all members.
    pub(crate) fn serve(&self) -> Daemon {
        self.serve_with(&[], &self.members)
    }

    /// Serves these members and waits for the line that says so.
    pub(crate) fn serve_with(&self, options: &[&str], members: &[PathBuf]) -> Daemon {
        let args = self.serve_args(options, members);
        self.start(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[])
    }

    /// Starts a daemon and waits for its line.
    pub(crate) fn start(&self, args: &[&str], environment: &[(&str, &str)]) -> Daemon {
        self.begin(args, environment).serving()
    }

    /// Starts a daemon.
    pub(crate) fn begin(&self, args: &[&str], environment: &[(&str, &str)]) -> Daemon {
        let log = self.path("log");
        let mut command = self.command(args);
        command.envs(environment.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Daemon { child, log, line: String::new() }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket(), "vol")
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    /// What it said when it was ready.
    pub(crate) line: String,
}

impl Daemon {
    /// Waits for its line.
    pub(crate) fn serving(mut self) -> Daemon {
        BufReader::new(self.child.stdout.take().unwrap()).read_line(&mut self.line).unwrap();
        assert!(self.line.starts_with("serving "), "{:?}: {}", self.line, self.log());
        self
    }

    /// Waits until the log says so.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let begin = Instant::now();
        while !self.log().contains(text) {
            assert!(begin.elapsed() < PATIENCE, "no {text:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits for its end; the exit code, or none if a signal ended it.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.log());
            }
            assert!(begin.elapsed() < PATIENCE, "still running: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM and a good end.
    pub(crate) fn terminate(self) {
        self.signal(Signal::SIGTERM);
        let (code, log) = self.wait();
        assert_eq!(code, Some(0), "{log}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SplitMix64: numbers that look random and are the same in every run.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }
}
