//! From a discovered queue to a backend: a tree of attributes on disk, and a model in another process behind
//! a socket in the place of the node. That process is this very program, told so by a variable.

#![cfg(test)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use async_tx::{Backend, Caps, Completion, Fault, Nanos, Op, OpKind, OpToken, ReadyOp, Region, Revival};
use dsa_model::device::{DeviceConfig, State};
use dsa_model::memory::Ranges;
use dsa_model::model::Model;
use dsa_model::personality::Personality;
use dsa_model::server::Listener;
use dsa_model::sysfs::{self, DeviceEntry, QueueEntry};
use engine_dsa::backend::Options;
use engine_dsa::discover::{self, Paths};
use engine_dsa::open::{OpenError, open};
use tempfile::TempDir;

/// Names the socket that this process is to serve as a device.
const SERVE: &str = "URAID_TEST_SERVES_DSA";

fn device() -> DeviceConfig {
    DeviceConfig::shared(Personality::v2(), 32, 24)
}

/// The device's process: serves until its input ends, and does what that says.
#[test]
fn serves_a_model_if_told_to() {
    let Some(path) = std::env::var_os(SERVE) else { return };
    let model = Model::new(device(), Ranges::new());
    let _thread = model.run(Duration::from_micros(50)).unwrap();
    let listener = Listener::bind(Path::new(&path)).unwrap();
    listener.serve(&model).unwrap();
    println!("\nready");
    for line in std::io::stdin().lines() {
        match line.unwrap().as_str() {
            "halt" => model.with(|device| device.halt(false, None)),
            "reset" => model.with(|device| device.reset()),
            other => panic!("{other:?} is no command"),
        }
        println!("\nready");
    }
}

/// A device with one shared queue, `wq0.0`.
struct Machine {
    _dir: TempDir,
    paths: Paths,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Machine {
    fn new(name: &str) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            sysfs: dir.path().join("sysfs"),
            dev: dir.path().join("dev"),
            nodes: dir.path().join("nodes"),
        };
        std::fs::create_dir_all(&paths.dev).unwrap();
        let queues = vec![QueueEntry { name: name.to_owned(), config: device() }];
        sysfs::write(&paths.sysfs, &DeviceEntry { number: 0, numa_node: -1, queues }).unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["serves_a_model_if_told_to", "--exact", "--nocapture"])
            .env(SERVE, paths.dev.join("wq0.0"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut machine = Machine { _dir: dir, paths, process, input, output };
        machine.await_ready();
        machine
    }

    fn await_ready(&mut self) {
        let mut line = String::new();
        while line.trim_end() != "ready" {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the model's process has ended");
        }
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        self.await_ready();
    }

    fn queue(&self) -> discover::Queue {
        let snapshot = discover::scan(&self.paths);
        snapshot.queues().find(|queue| queue.name == "wq0.0").unwrap().clone()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn options() -> Options {
    Options { patience: Duration::from_secs(20), ..Options::default() }
}

/// Copies a block through the backend.
fn copies(backend: &mut dyn Backend) -> Result<(), Fault> {
    let src: Vec<u8> = (0..20_000u32).map(|i| (i / 7) as u8).collect();
    let mut dst = vec![0u8; src.len()];
    let mut done: Vec<Completion> = Vec::new();
    // SAFETY: both vectors live until the operation has ended, and are not touched before.
    let op = unsafe {
        let src = Region::new(src.as_ptr().cast_mut(), src.len());
        Op::Copy { src, dst: Region::new(dst.as_mut_ptr(), dst.len()) }
    };
    assert_eq!(backend.submit(&[ReadyOp { token: OpToken(4), op: op.check().unwrap(), fence: false }]), 1);
    let begun = Instant::now();
    while done.is_empty() {
        backend.relax();
        backend.reap(&mut done);
        assert!(begun.elapsed() < Duration::from_secs(20), "the copy does not complete");
    }
    done[0].result.map(|_| assert!(dst == src))
}

/// Asks until the revival has ended.
fn revive(backend: &mut dyn Backend) -> Revival {
    let begun = Instant::now();
    loop {
        let now = Nanos(u64::try_from(begun.elapsed().as_nanos()).unwrap());
        match backend.revive(now) {
            Revival::Pending => std::thread::yield_now(),
            ended => return ended,
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the revival does not end");
    }
}

#[test]
fn a_queue_that_is_found_is_opened_proved_and_used() {
    let machine = Machine::new("uraid0");
    let mut backend = open(&machine.paths, &machine.queue(), options()).unwrap();
    assert_eq!((backend.name(), backend.queue().method()), ("dsa wq0.0", "socket"));
    assert!(backend.caps().has(OpKind::Copy) && backend.fences().has(OpKind::Copy));
    assert_eq!(backend.queue().credits(), 24);
    assert_eq!(copies(&mut backend), Ok(()));
}

#[test]
fn a_queue_is_revived_with_the_attributes_of_then() {
    let machine = Machine::new("uraid0");
    let mut backend = open(&machine.paths, &machine.queue(), options()).unwrap();
    sysfs::write_state(&machine.paths.sysfs, 0, 0, State::Disabled).unwrap();
    backend.abort();
    assert_eq!(revive(&mut backend), Revival::Failed, "it is disabled");
    assert_eq!((backend.room(), backend.counters().revivals_failed.get()), (0, 1));
    sysfs::write_state(&machine.paths.sysfs, 0, 0, State::Enabled).unwrap();
    sysfs::write_operations(&machine.paths.sysfs, 0, 0, &Personality::v1_restricted()).unwrap();
    assert_eq!(revive(&mut backend), Revival::Ready);
    assert_eq!(backend.fences(), Caps::NONE, "BATCH is not among the operations any more");
    assert_eq!(copies(&mut backend), Ok(()));
    // The whole device goes.
    std::fs::remove_dir_all(&machine.paths.sysfs).unwrap();
    backend.abort();
    assert_eq!(revive(&mut backend), Revival::Failed);
}

/// Why a queue is not opened.
fn refused(machine: &Machine, queue: &discover::Queue) -> OpenError {
    let short = Options { patience: Duration::from_millis(5), ..Options::default() };
    match open(&machine.paths, queue, short) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    }
}

#[test]
fn what_speaks_against_a_queue_is_said() {
    let machine = Machine::new("other0");
    let queue = machine.queue();
    let error = refused(&machine, &queue).to_string();
    assert!(error.contains("wq0.0") && error.contains("uraid"), "{error}");
    let gone = discover::Queue { name: "wq7.7".to_owned(), ..queue };
    assert!(refused(&machine, &gone).to_string().contains("wq7.7"));
    let machine = Machine::new("uraid0");
    let queue = machine.queue();
    std::fs::remove_file(machine.paths.dev.join("wq0.0")).unwrap();
    assert!(matches!(refused(&machine, &queue), OpenError::Unusable { .. }));
}

#[test]
fn a_queue_that_is_silent_or_takes_nothing_is_not_used() {
    let mut machine = Machine::new("uraid0");
    let queue = machine.queue();
    // Halted: a shared queue says retry for ever.
    machine.tell("halt");
    assert!(matches!(refused(&machine, &queue), OpenError::Silent { .. }));
    machine.tell("reset");
    let mut backend = open(&machine.paths, &queue, options()).unwrap();
    assert_eq!(copies(&mut backend), Ok(()));
}
