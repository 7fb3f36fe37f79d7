//! `uraid status`, `fail`, `add` and `stop` against a control socket with a stand-in for the daemon.

use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use uraid::control::engines::{
    AlertStatus, BackendOperation, BackendStatus, CpuOperation, EnginesStatus, ReasonCount, UnusedQueue,
};
use uraid::control::latency::OperationStatus;
use uraid::control::protocol::{
    Answer, ArrayState, BitmapStatus, ControlError, Counters, DeviceStatus, ErrorCode, MemberState,
    MemberStatus, MemoryStatus, RecentStatus, Request, Status, SyncKind, SyncStatus, mkfs_hint,
    mkfs_xfs_hint,
};
use uraid::control::server::{ControlHandler, serve};
use uraid::control::socket::listen;

use crate::support::Bench;

/// A degraded array that is being rebuilt.
pub(crate) fn example_status() -> Status {
    let member = |path: Option<&str>, role, state| MemberStatus {
        path: path.map(PathBuf::from),
        role,
        state,
        events: path.map(|_| 42),
        errors: 0,
        corrected_sectors: 0,
        bad_bytes: 0,
        io: path.map(|_| "uring".to_owned()),
        direct: path.map(|_| true),
        operations: path.map(|_| operations(&["read", "write", "flush", "write_meta"])).unwrap_or_default(),
    };
    Status {
        name: "data".to_owned(),
        uuid: "00112233:44556677:8899aabb:ccddeeff".to_owned(),
        level: 5,
        layout: "left-symmetric".to_owned(),
        chunk_bytes: 65536,
        size_bytes: 1 << 30,
        state: ArrayState::Rebuilding,
        read_only: false,
        dirty: true,
        degraded: 1,
        raid_disks: 3,
        members: vec![
            member(Some("/m/a"), Some(0), MemberState::InSync),
            member(Some("/m/d"), Some(1), MemberState::Rebuilding),
            member(Some("/m/c"), Some(2), MemberState::InSync),
            member(Some("/m/b"), None, MemberState::Failed),
        ],
        sync: Some(SyncStatus::new(SyncKind::Rebuild, 1 << 28, 1 << 29, 1 << 26)),
        bitmap: Some(BitmapStatus { dirty_regions: 1, regions: 16, region_bytes: 64 << 20 }),
        counters: Counters::default(),
        device: Some(DeviceStatus {
            path: "/dev/nbd0".into(),
            links: vec!["/dev/uraid/data".into()],
            mkfs_xfs_hint: mkfs_xfs_hint(65536, 2),
        }),
        operations: operations(&["read", "write", "write_zeroes", "flush"]),
        latency_bounds_us: BOUNDS_US.to_vec(),
        memory: MemoryStatus { request_bytes: 128 << 20, ..MemoryStatus::default() },
        uptime_seconds: 60,
        recent: Some(RecentStatus { milliseconds: 5000, operations: operations(&["read"]) }),
        exports: vec!["nbd+unix:///data?socket=/run/uraid/data.sock".to_owned()],
        kernels: [("pq".to_owned(), "avx2".to_owned())].into(),
        engines: Some(example_engines()),
        mkfs_hint: mkfs_hint(65536, 2),
    }
}

const BOUNDS_US: [u64; 3] = [4, 8, 16];

/// Ten operations of each kind.
fn operations(words: &[&str]) -> Vec<OperationStatus> {
    let one = |word: &&str| OperationStatus::new(word, 40_960, 100, vec![5, 4, 0, 1], &BOUNDS_US);
    words.iter().map(one).collect()
}

/// A work queue that failed once and is out of use.
fn example_engines() -> EnginesStatus {
    EnginesStatus {
        dsa: "auto".to_owned(),
        cpu: "avx2".to_owned(),
        operations: vec![CpuOperation {
            operation: "copy".to_owned(),
            count: 3,
            retries: 1,
            reasons: vec![ReasonCount { reason: "too_short".to_owned(), count: 2 }],
        }],
        backends: vec![BackendStatus {
            name: "dsa wq0.0".to_owned(),
            health: "quarantined".to_owned(),
            last_fault: Some("copy: the device is gone".to_owned()),
            quarantines: 1,
            operations: vec![BackendOperation {
                operation: "copy".to_owned(),
                ..BackendOperation::default()
            }],
            ..BackendStatus::default()
        }],
        unused: vec![UnusedQueue { name: "wq0.1".to_owned(), reason: "it is disabled".to_owned() }],
        alerts: vec![AlertStatus {
            at: 0,
            backend: "dsa wq0.0".to_owned(),
            kind: "quarantined".to_owned(),
            message: "dsa wq0.0: copy: the device is gone".to_owned(),
        }],
        ..EnginesStatus::default()
    }
}

/// Answers like a daemon with that array and remembers what it was asked.
struct StandIn {
    asked: Mutex<Vec<Request>>,
    stop: Arc<Notify>,
}

impl ControlHandler for StandIn {
    async fn handle(&self, request: Request) -> Result<Answer, ControlError> {
        self.asked.lock().unwrap().push(request.clone());
        match request {
            Request::Status => Ok(Answer::Status(Box::new(example_status()))),
            Request::Fail { member } if member.ends_with("z") => {
                Err(ControlError::new(ErrorCode::NotFound, "/m/z is not a member; `uraid status` shows them"))
            }
            Request::Stop { .. } => {
                self.stop.notify_one();
                Ok(Answer::Message("stopped, clean".to_owned()))
            }
            _ => Ok(Answer::Message("done".to_owned())),
        }
    }
}

/// Runs `test` with the path of a control socket while a stand-in answers on it; gives what was asked.
fn with_daemon(bench: &Bench, test: impl FnOnce(&str)) -> Vec<Request> {
    let path = bench.path("x.control");
    let (listener, _file) = listen(&path).unwrap();
    let stop = Arc::new(Notify::new());
    let daemon = Arc::new(StandIn { asked: Mutex::default(), stop: stop.clone() });
    std::thread::scope(|scope| {
        let server = scope.spawn(|| run(serve(listener, daemon.clone(), stop.notified())));
        test(path.to_str().unwrap());
        bench.uraid(&["stop", "--control", path.to_str().unwrap()]).ok();
        server.join().unwrap();
    });
    let asked = daemon.asked.lock().unwrap();
    asked.clone()
}

fn run(server: impl Future<Output = std::io::Result<()>>) {
    // The listener wants to be made within the runtime, so the future is only polled here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(server).unwrap();
}

#[test]
fn commands_reach_the_daemon_and_say_what_it_said() {
    let bench = Bench::new();
    let directory = bench.path("").canonicalize().unwrap();
    let asked = with_daemon(&bench, |control| {
        let text = bench.uraid(&["status", "--control", control]).ok();
        assert!(text.starts_with("data : rebuilding raid5 a[0] d[1](R) c[2] b[-](F)\n"), "{text}");
        assert!(text.contains("rebuild = 50.0%") && text.contains("finish=4s"), "{text}");
        assert!(text.contains("set aside now (copy: the device is gone)"), "{text}");
        let engines = bench.uraid(&["engines", "--control", control]).ok();
        assert!(engines.starts_with("data : dsa = \"auto\"") && engines.contains("too_short 2"), "{engines}");
        let engines = bench.uraid(&["engines", "--json", "--control", control]).ok();
        let engines: serde_json::Value = serde_json::from_str(&engines).unwrap();
        assert_eq!((&engines["version"], &engines["name"]), (&1.into(), &"data".into()));
        assert_eq!(engines["engines"]["backends"][0]["quarantines"], 1);
        let json: serde_json::Value =
            serde_json::from_str(&bench.uraid(&["status", "--json", "--control", control]).ok()).unwrap();
        assert_eq!((&json["version"], &json["state"]), (&1.into(), &"rebuilding".into()));
        assert_eq!(bench.uraid(&["fail", "--control", control, "/m/a"]).ok(), "done\n");
        assert_eq!(bench.uraid(&["add", "--control", control, "--force", "m/e"]).ok(), "done\n");
        let refused = bench.uraid(&["fail", "--control", control, "/m/z"]);
        assert_eq!(refused.code, 1);
        assert_eq!(refused.stderr, "uraid: /m/z is not a member; `uraid status` shows them\n");
    });
    let expected = [
        Request::Status,
        Request::Status,
        Request::Status,
        Request::Status,
        Request::Fail { member: "/m/a".into() },
        Request::Add { member: directory.join("m/e"), force: true },
        Request::Fail { member: "/m/z".into() },
        Request::Stop { force: false },
    ];
    assert_eq!(asked, expected);
}

#[test]
fn a_daemon_that_is_gone_is_told_from_one_that_never_was() {
    let bench = Bench::new();
    let path = bench.path("x.control");
    // Bound, listening, and closed without an answer.
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| drop(listener.accept().unwrap()));
        let run = bench.uraid(&["status", "--control", path.to_str().unwrap()]);
        assert_eq!(run.code, 1);
        assert!(
            run.stderr.contains("closed the connection") || run.stderr.contains("Broken pipe"),
            "{run:?}"
        );
    });
}
