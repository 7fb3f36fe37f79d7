//! The DSA backend passes the conformance suite over a model in another process, through its socket, and
//! comes back when that process is killed.

#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_tx::Backend;
use async_tx::conformance::{self, Point, Subject, Trouble};
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::discover::Mode;
use engine_dsa::open::{OpenError, Opened, Opener};
use engine_dsa::portal::SocketPortal;
use engine_dsa::queue::Setup;

use dsa_model::personality::Personality;

/// A model in a process of its own; killed when dropped.
struct Process(Child);

impl Process {
    fn start(socket: &Path, queue: &str) -> Process {
        let mut child = Command::new(env!("CARGO_BIN_EXE_uraid-dsa-model"))
            .args(["--version", "2.0", "--queue", queue, "--listen"])
            .arg(socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the model starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "the model listens");
        Process(child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL, as the tests of a device that goes away want it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Backends over a process that listens at a socket.
struct Remote {
    directory: PathBuf,
    queue: &'static str,
    setup: Setup,
    process: Option<Process>,
}

impl Remote {
    fn new(name: &str, queue: &'static str, mode: Mode, size: u32, threshold: Option<u32>) -> Remote {
        let directory = std::env::temp_dir().join(format!("uraid-conformance-{name}-{}", std::process::id()));
        // Nothing is there, unless a process of the same number was killed in this test.
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("a directory");
        let Personality { gen_cap, max_transfer, max_batch, .. } = Personality::v2();
        let mut operations = OpSet::default();
        (0..=u8::MAX).filter(|number| Personality::v2().supports(*number)).for_each(|n| operations.insert(n));
        let setup = Setup {
            operations,
            gen_cap: GenCap(gen_cap),
            max_transfer: u64::from(max_transfer),
            max_batch,
            credits: Setup::credits(mode, size, threshold),
        };
        Remote { directory, queue, setup, process: None }
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("wq")
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.process = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Subject for Remote {
    fn backend(&mut self) -> Box<dyn Backend> {
        self.process = None;
        self.process = Some(Process::start(&self.socket(), self.queue));
        let (socket, setup) = (self.socket(), self.setup);
        let opener: Opener = Arc::new(move || -> Result<Opened, OpenError> {
            Ok(Opened { portal: Box::new(SocketPortal::connect(&socket)?), setup, watch: None })
        });
        let options =
            Options { len_min: 0, threaded: false, patience: Duration::from_secs(1), ..Options::default() };
        Box::new(DsaBackend::open("dsa model", opener, options).expect("the model's queue opens"))
    }

    /// The process cannot be told to fail at will, but it can be killed and started again.
    fn inject(&mut self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Fail | Trouble::Stall => false,
            Trouble::Gone => {
                self.process = None;
                true
            }
            Trouble::Heal => {
                if self.process.is_none() {
                    self.process = Some(Process::start(&self.socket(), self.queue));
                }
                true
            }
        }
    }
}

/// What takes a device that fails and hangs at will.
const NOT_HERE: [Point; 4] =
    [Point::AbandonedBehindFence, Point::FaultIsAValue, Point::LateAfterAbort, Point::DropWhileStalled];

fn passes(mut remote: Remote) {
    let report = conformance::run(&mut remote);
    assert!(report.passed(), "{report}");
    assert_eq!(report.not_tried().collect::<Vec<_>>(), NOT_HERE, "{report}");
}

#[test]
fn a_dedicated_queue_of_another_process_passes_every_point() {
    passes(Remote::new("dedicated", "dedicated:16", Mode::Dedicated, 16, None));
}

#[test]
fn a_shared_queue_of_another_process_passes_every_point() {
    passes(Remote::new("shared", "shared:16:12", Mode::Shared, 16, Some(12)));
}
