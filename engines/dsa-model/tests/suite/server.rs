//! The model as a process, this test being its client: the contract of write(2), data moved between the two,
//! and the tree of attributes.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use dsa_model::device::{DeviceConfig, State};
use dsa_model::faults::{Fault, FaultPlan};
use dsa_model::memory::{Memory, Process};
use dsa_model::personality::Personality;
use dsa_model::sysfs::{self, DeviceEntry, QueueEntry};
use engine_dsa::wire::{Descriptor, at, flag, status};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, connect, recv, send, shutdown, socket,
};
use nix::unistd::Pid;

use crate::common::*;

/// A directory of this test's own.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("uraid-dsa-model-{name}-{}", std::process::id()));
        // Nothing is there, unless a process of the same number was killed in this test.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir(&path).expect("a directory");
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running model.
struct Server(Child);

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_uraid-dsa-model"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the model starts");
        // Where Yama restricts it, only descendants may be accessed: the model is one of ours, and wants the
        // opposite.
        // SAFETY: the call takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, u64::from(child.id()), 0, 0, 0) };
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn terminate(mut self) -> bool {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM).expect("it runs");
        self.0.wait().expect("our child").success()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn open(path: &Path) -> OwnedFd {
    let fd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect(fd.as_raw_fd(), &UnixAddr::new(path).expect("a path")).expect("the model listens");
    fd
}

fn answer(socket: &OwnedFd) -> i32 {
    let mut reply = [0; 4];
    assert_eq!(recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty()), Ok(4));
    i32::from_le_bytes(reply)
}

fn write(socket: &OwnedFd, bytes: &[u8]) -> i32 {
    assert_eq!(send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL), Ok(bytes.len()));
    answer(socket)
}

fn bytes(descriptors: &[Descriptor]) -> Vec<u8> {
    descriptors.iter().flat_map(|d| d.0).collect()
}

/// Completion records and data of this process, accessed atomically where the model may write.
#[repr(align(4096))]
struct Shared([AtomicU8; 0x8000]);

impl Shared {
    fn new() -> Box<Self> {
        Box::new(Self([const { AtomicU8::new(0) }; 0x8000]))
    }

    fn address(&self, offset: usize) -> u64 {
        self.0[offset].as_ptr() as u64
    }

    fn get(&self, offset: usize, len: usize) -> Vec<u8> {
        self.0[offset..offset + len].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    fn set(&self, offset: usize, bytes: &[u8]) {
        for (slot, byte) in self.0[offset..].iter().zip(bytes) {
            slot.store(*byte, Ordering::Relaxed);
        }
    }

    fn wait(&self, offset: usize) -> u8 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.0[offset].load(Ordering::Acquire) {
                0 => assert!(Instant::now() < deadline, "no record at {offset:#x}"),
                status => return status,
            }
            std::thread::yield_now();
        }
    }
}

fn noop(record: u64) -> Descriptor {
    descriptor(0, 0, 0, 0, record)
}

#[test]
fn the_contract_of_write() {
    let directory = Directory::new("contract");
    let path = directory.join("wq");
    let server = Server::start(&["--listen", &path.to_string_lossy(), "--queue", "shared:64:60"]);
    let (wq, memory) = (open(&path), Shared::new());
    let record = |slot: usize| memory.address(slot * 32);
    let batch = descriptor(1, memory.address(0x1000), 0, 2, record(9));
    let misaligned = |crav: bool| {
        let mut d = noop(record(0) + 8);
        d.set_operation(0, if crav { d.flags() } else { 0 });
        d
    };

    assert_eq!(write(&wq, &noop(record(0)).0), 64, "W1");
    assert_eq!(memory.wait(0), status::SUCCESS);
    assert_eq!(write(&wq, &noop(record(1)).0[..63]), 0, "W2");
    let mut tail = bytes(&[noop(record(1)), noop(record(2))]);
    tail.extend([1, 2]);
    assert_eq!(write(&wq, &tail), 128, "W3");
    assert_eq!([memory.wait(32), memory.wait(64)], [status::SUCCESS; 2]);
    assert_eq!(write(&wq, &bytes(&[noop(record(3)), batch, noop(record(4))])), 64, "W4");
    assert_eq!(write(&wq, &bytes(&[batch, noop(record(4))])), -libc::EINVAL, "W4, retried");
    assert_eq!(write(&wq, &bytes(&[misaligned(true), noop(record(4))])), -libc::EINVAL, "W5");
    assert_eq!(write(&wq, &bytes(&[misaligned(false), noop(record(4))])), -libc::EINVAL, "W6");

    memory.set(0x1000, &pattern_bytes(0x1000));
    let silent = descriptor(3, memory.address(0x1000), memory.address(0x2000), 0x1000, 0);
    assert_eq!(write(&wq, &silent.0), 64, "W7");
    let mut foreign = descriptor(3, memory.address(0x1000), memory.address(0x4000), 0x1000, record(5));
    foreign.set_field(at::PASID, 0xffff_1234u32.to_le_bytes());
    assert_eq!(write(&wq, &foreign.0), 64, "W11");
    assert_eq!(memory.wait(5 * 32), status::SUCCESS, "W11: PASID and privilege are the kernel's");
    assert_eq!(memory.get(0x2000, 0x1000), pattern_bytes(0x1000));
    assert_eq!(memory.get(0x4000, 0x1000), pattern_bytes(0x1000));
    assert_eq!(memory.get(4 * 32, 32), [0; 32], "what was not accepted was not executed");
    assert!(server.terminate());
    assert!(!path.exists());
}

/// A packet is submitted under one lock, so the engine takes nothing out of the queue in the middle of it.
#[test]
fn a_full_shared_queue_says_so() {
    let directory = Directory::new("full");
    let path = directory.join("wq");
    let _server = Server::start(&["--listen", &path.to_string_lossy(), "--queue", "shared:3:2"]);
    let (wq, memory) = (open(&path), Shared::new());
    let five: Vec<Descriptor> = (0..5).map(|slot| noop(memory.address(slot * 32))).collect();
    assert_eq!(write(&wq, &bytes(&five)), 128, "W8");
    assert_eq!([memory.wait(0), memory.wait(32)], [status::SUCCESS; 2]);
    assert_eq!(memory.get(64, 96), [0; 96]);
}

#[test]
fn a_dedicated_queue_refuses_a_second_client_and_a_shared_one_does_not() {
    let directory = Directory::new("busy");
    let (one, many) = (directory.join("one"), directory.join("many"));
    let (one_text, many_text) = (one.to_string_lossy(), many.to_string_lossy());
    let _server = Server::start(&[
        "--listen",
        &one_text,
        "--listen",
        &many_text,
        "--queue",
        "dedicated:8",
        "--queue",
        "shared:8:8",
    ]);
    let memory = Shared::new();
    let first = open(&one);
    assert_eq!(write(&first, &noop(memory.address(0)).0), 64);
    let second = open(&one);
    assert_eq!(answer(&second), -libc::EBUSY, "W15");
    drop(second);
    let (a, b) = (open(&many), open(&many));
    assert_eq!(write(&a, &noop(memory.address(32)).0), 64);
    assert_eq!(write(&b, &noop(memory.address(64)).0), 64);
    assert_eq!([memory.wait(0), memory.wait(32), memory.wait(64)], [status::SUCCESS; 3]);
    // The end of the connection tells that the model has let go; then the queue is free.
    shutdown(first.as_raw_fd(), Shutdown::Write).expect("connected");
    assert_eq!(recv(first.as_raw_fd(), &mut [0; 4], MsgFlags::empty()), Ok(0));
    let again = open(&one);
    assert_eq!(write(&again, &noop(memory.address(96)).0), 64);
    assert_eq!(memory.wait(96), status::SUCCESS);
}

/// Tells [`the_client`] where to connect.
const CLIENT: &str = "URAID_DSA_MODEL_TEST_CLIENT";

/// No test: the client that the next one starts as a process, and kills.
#[test]
fn the_client() {
    let Some(path) = std::env::var_os(CLIENT) else { return };
    let (wq, memory) = (open(Path::new(&path)), Shared::new());
    assert_eq!(write(&wq, &noop(memory.address(0)).0), 64);
    assert_eq!(memory.wait(0), status::SUCCESS);
    println!("connected");
    loop {
        let d = descriptor(3, memory.address(0x1000), memory.address(0x4000), 0x3000, memory.address(32));
        write(&wq, &d.0);
    }
}

#[test]
fn a_client_that_is_killed_at_work_leaves_its_dedicated_queue() {
    let directory = Directory::new("client");
    let path = directory.join("wq");
    let _server = Server::start(&["--listen", &path.to_string_lossy(), "--queue", "dedicated:64"]);
    let mut client = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "server::the_client", "--nocapture"])
        .env(CLIENT, &path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test starts");
    let lines = BufReader::new(client.stdout.take().expect("a pipe")).lines();
    let connected = lines.map_while(Result::ok).any(|line| line.contains("connected"));
    assert!(connected);
    let refused = open(&path);
    assert_eq!(answer(&refused), -libc::EBUSY);
    client.kill().expect("it runs");
    client.wait().expect("our child");
    let deadline = Instant::now() + Duration::from_secs(20);
    let memory = Shared::new();
    // The connection is kept, or its end would take the descriptor back.
    let _wq = loop {
        assert!(Instant::now() < deadline, "the queue stays with a dead client");
        // The refusal may come before the send, which then is not taken.
        let next = open(&path);
        let sent = send(next.as_raw_fd(), &noop(memory.address(0)).0, MsgFlags::MSG_NOSIGNAL);
        if sent == Ok(64) && answer(&next) == 64 {
            break next;
        }
    };
    assert_eq!(memory.wait(0), status::SUCCESS);
}

#[test]
fn faults_between_processes_tell_how_far_it_came_and_where() {
    let directory = Directory::new("fault");
    let path = directory.join("wq");
    let _server = Server::start(&["--listen", &path.to_string_lossy(), "--queue", "dedicated:8"]);
    let (wq, memory) = (open(&path), Shared::new());
    // Four pages, of which the third is then unmapped.
    // SAFETY: a fresh anonymous mapping, and the page taken out of it is accessed by nobody.
    let mapping = unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            0x4000,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(start, libc::MAP_FAILED);
        start.cast::<u8>().write_bytes(0x5a, 0x4000);
        assert_eq!(libc::munmap(start.cast::<u8>().add(0x2000).cast(), 0x1000), 0);
        start as u64
    };
    let copy = |from: u64, to: u64, slot: usize| {
        memory.set(slot * 32, &[0; 32]);
        let d = descriptor(3, from, to, 0x3000, memory.address(slot * 32));
        assert_eq!(write(&wq, &d.0), 64);
        memory.wait(slot * 32);
        memory.get(slot * 32, 32)
    };
    let cr = copy(mapping + 0x800, memory.address(0x1000), 0);
    assert_eq!((cr[0], u32_at(&cr, 4), u64_at(&cr, 8)), (status::PAGE_FAULT, 0x1800, mapping + 0x2000));
    assert_eq!(memory.get(0x1000, 0x1800), vec![0x5a; 0x1800]);
    assert_eq!(memory.get(0x2800, 8), [0; 8]);
    let cr = copy(memory.address(0x4000), mapping + 0x800, 1);
    assert_eq!((cr[0], u32_at(&cr, 4), u64_at(&cr, 8)), (0x83, 0x1800, mapping + 0x2000));
    let cr = copy(0, memory.address(0x1000), 2);
    assert_eq!((cr[0], u32_at(&cr, 4), u64_at(&cr, 8)), (status::PAGE_FAULT, 0, 0));
    // SAFETY: the rest of the mapping, which nothing refers to any more.
    assert_eq!(unsafe { libc::munmap(mapping as *mut _, 0x4000) }, 0);
}

#[test]
fn a_version_2_device_takes_batches() {
    let directory = Directory::new("batch");
    let path = directory.join("wq");
    let _server = Server::start(&["--listen", &path.to_string_lossy(), "--version", "2.0"]);
    let (wq, memory) = (open(&path), Shared::new());
    memory.set(0x2000, &pattern_bytes(64));
    let first = descriptor(3, memory.address(0x2000), memory.address(0x3000), 64, memory.address(32));
    let mut second = descriptor(3, memory.address(0x3000), memory.address(0x4000), 64, memory.address(64));
    second.set_operation(3, second.flags() | flag::FENCE);
    memory.set(0x1000, &bytes(&[first, second]));
    assert_eq!(write(&wq, &descriptor(1, memory.address(0x1000), 0, 2, memory.address(0)).0), 64);
    assert_eq!(memory.wait(0), status::SUCCESS);
    assert_eq!(memory.get(0x4000, 64), pattern_bytes(64));
}

#[test]
fn a_model_that_was_killed_is_replaced_at_the_same_path_and_one_that_lives_is_not() {
    let directory = Directory::new("killed");
    let path = directory.join("wq");
    let text = path.to_string_lossy();
    let server = Server::start(&["--listen", &text]);
    let wq = open(&path);
    let refused = Command::new(env!("CARGO_BIN_EXE_uraid-dsa-model")).args(["--listen", &text]).output();
    let refused = refused.expect("the model starts");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another process listens"));
    drop(server);
    assert!(path.exists(), "killed, it leaves its socket");
    // The end; of a connection that the model had not yet taken, a reset.
    let end = recv(wq.as_raw_fd(), &mut [0; 4], MsgFlags::empty());
    assert!(matches!(end, Ok(0) | Err(nix::errno::Errno::ECONNRESET)), "{end:?}");
    let _server = Server::start(&["--listen", &text]);
    let (wq, memory) = (open(&path), Shared::new());
    assert_eq!(write(&wq, &noop(memory.address(0)).0), 64);
    assert_eq!(memory.wait(0), status::SUCCESS);
}

#[test]
fn the_tree_is_what_the_driver_shows() {
    let directory = Directory::new("tree");
    let (dev, sysfs) = (directory.join("dev"), directory.join("devices"));
    let server = Server::start(&[
        "--dev",
        &dev.to_string_lossy(),
        "--sysfs",
        &sysfs.to_string_lossy(),
        "--device",
        "3",
        "--queue",
        "shared:64:60",
        "--queue",
        "dedicated:16",
        "--numa-node",
        "1",
    ]);
    let read =
        |name: &str| std::fs::read_to_string(sysfs.join(name)).unwrap_or_else(|e| format!("{name}: {e}"));
    let zeros = "00000000,".repeat(6);
    for (name, expected) in [
        ("dsa3/version", "0x100"),
        ("dsa3/gen_cap", "0x40915f0107"),
        ("dsa3/op_cap", &format!("{zeros}00000001,003f03fd")),
        ("dsa3/state", "enabled"),
        ("dsa3/numa_node", "1"),
        ("dsa3/max_transfer_size", "2147483648"),
        ("dsa3/max_batch_size", "1024"),
        ("dsa3/wq3.0/mode", "shared"),
        ("dsa3/wq3.0/threshold", "60"),
        ("wq3.0/size", "64"),
        ("dsa3/wq3.1/mode", "dedicated"),
        ("dsa3/wq3.1/size", "16"),
        ("dsa3/wq3.1/type", "user"),
        ("dsa3/wq3.1/name", "uraid-model"),
        ("dsa3/wq3.1/driver_name", "user"),
        ("dsa3/wq3.1/max_transfer_size", "2097152"),
        ("dsa3/wq3.1/max_batch_size", "32"),
        ("dsa3/wq3.1/state", "enabled"),
        ("engine3.0/group_id", "0"),
    ] {
        assert_eq!(read(name), format!("{expected}\n"), "{name}");
    }
    let memory = Shared::new();
    for (slot, queue) in ["wq3.0", "wq3.1"].into_iter().enumerate() {
        assert_eq!(write(&open(&dev.join(queue)), &noop(memory.address(slot * 32)).0), 64);
        // Closing may take a descriptor back that has not begun, so it is not waited for.
    }
    assert!(server.terminate());
    assert_eq!(read("dsa3/wq3.0/state"), "disabled\n");
    assert!(!dev.join("wq3.0").exists());
}

/// The seed of a plan with one rule, of this kind and not too rare.
fn seed_of(kind: impl Fn(&Fault) -> bool) -> String {
    let fits = |seed: &u64| {
        let plan = FaultPlan::random(*seed);
        plan.rules.len() == 1 && plan.rules.iter().all(|rule| kind(&rule.fault) && rule.when.chance > 1000)
    };
    (0..1_000_000).find(fits).expect("there are many").to_string()
}

#[test]
fn faults_by_seed_reach_the_client() {
    let directory = Directory::new("seed");
    let path = directory.join("wq");
    let seed = seed_of(|fault| matches!(fault, Fault::Status { .. }));
    let _server = Server::start(&["--listen", &path.to_string_lossy(), "--faults", &seed]);
    let (wq, memory) = (open(&path), Shared::new());
    let mut statuses = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        memory.set(0, &[0]);
        assert_eq!(write(&wq, &noop(memory.address(0)).0), 64);
        statuses.insert(memory.wait(0));
    }
    assert!(statuses.contains(&status::SUCCESS) && statuses.len() == 2, "{statuses:x?}");
}

#[test]
fn a_queue_that_takes_nothing_now_says_try_again() {
    let directory = Directory::new("again");
    let path = directory.join("wq");
    let seed = seed_of(|fault| matches!(fault, Fault::Retry(1..100)));
    let _server = Server::start(&["--listen", &path.to_string_lossy(), "--faults", &seed]);
    let (wq, memory) = (open(&path), Shared::new());
    let mut answers = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        memory.set(0, &[0]);
        let answer = write(&wq, &noop(memory.address(0)).0);
        if answer == 64 {
            assert_eq!(memory.wait(0), status::SUCCESS);
        }
        answers.insert(answer);
    }
    assert_eq!(answers.into_iter().collect::<Vec<_>>(), [-libc::EAGAIN, 64], "W8");
}

#[test]
fn a_halt_shows_in_the_tree() {
    let directory = Directory::new("halt");
    let config = DeviceConfig::shared(Personality::v1(), 8, 8);
    let queue = QueueEntry { name: "uraid".into(), config };
    sysfs::write(&directory.0, &DeviceEntry { number: 0, numa_node: -1, queues: vec![queue] })
        .expect("a tree");
    for (state, device, queue) in [
        (State::Halted, "halted\n", "disabled\n"),
        (State::Disabled, "enabled\n", "disabled\n"),
        (State::Enabled, "enabled\n", "enabled\n"),
    ] {
        sysfs::write_state(&directory.0, 0, 0, state).expect("written");
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("an attribute");
        assert_eq!((&*read("dsa0/state"), &*read("wq0.0/state")), (device, queue));
    }
}

#[test]
fn the_memory_of_a_dead_process_is_gone_and_ones_own_is_refused() {
    let child =
        Command::new(env!("CARGO_BIN_EXE_uraid-dsa-model")).arg("--help").stdout(Stdio::null()).spawn();
    let mut child = child.expect("it starts");
    let memory = Process::of(child.id() as i32).expect("another process");
    child.wait().expect("our child");
    let fault = memory.read(0x1000, &mut [0; 8]).expect_err("it is dead");
    assert_eq!((fault.completed, fault.addr, memory.is_gone()), (0, 0x1000, true));
    assert!(Process::of(std::process::id() as i32).is_err());
}

#[test]
fn what_cannot_be_done_is_said() {
    let directory = Directory::new("said");
    let file = directory.join("file");
    std::fs::write(&file, "").expect("a file");
    let file = file.to_string_lossy();
    for (arguments, expected) in [
        (vec!["--listen", &*file], "is no socket"),
        (vec!["--listen", "/nonexistent/wq"], "cannot listen at /nonexistent/wq"),
        (vec![], "listens nowhere"),
        (vec!["--listen", "x", "--queue", "shared:4"], "shared:SIZE:THRESHOLD"),
        (vec!["--listen", "x", "--queue", "shared:4:5"], "threshold up to the size"),
        (vec!["--listen", "x", "--faults", "many"], "or write off"),
        (vec!["--listen", "x", "--version", "3.0"], "there are 1.0 and 2.0"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_uraid-dsa-model")).args(&arguments).output();
        let output = output.expect("the model starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(expected), "{arguments:?}: {error}");
    }
}
