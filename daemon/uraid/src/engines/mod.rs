//! `uraid engines`: the work queues of devices. Of this machine: which there are, what they can do, why one
//! cannot be used, and from what size on each pays beside the CPU. Of a running array: what its engines did.
//!
//! `report` is the answer about the machine and its JSON, `text` the same for people, `running` what a
//! daemon said, for people. To see whether a queue works, and how fast, it is opened; a dedicated one that
//! somebody has is said to be in use. Nothing but this process's own memory is touched.

mod report;
mod running;
mod text;

use std::time::Duration;

use engine_dsa::backend::Options;
use engine_dsa::discover::{Device, Paths, Queue, Snapshot, scan};
use raid6_simd::{Kernel, Kernels, Selection};
use serde::Serialize;
use uraid_shard::{decided, measure, paths};

use self::report::{CpuReport, DeviceReport, EnginesReport, OpenReport, QueueReport};
use crate::cli::EnginesArgs;
use crate::commands;
use crate::control::engines::EnginesStatus;
use crate::control::protocol::VERSION;
use crate::failure::Failure;
use crate::out;

pub(crate) use self::running::summary;

/// How long a queue is measured.
const BUDGET: Duration = Duration::from_millis(500);
/// The same with `--quick`.
const BUDGET_QUICK: Duration = Duration::from_millis(60);

/// Looks, measures and prints; or asks a daemon.
///
/// # Errors
/// There is no daemon to ask, or it does not know about engines. That this machine has no device is none.
pub fn run(args: &EnginesArgs) -> Result<(), Failure> {
    if args.name.is_some() || args.target.control.is_some() {
        return run_of_daemon(args);
    }
    let report = look(&paths(None, None), if args.quick { BUDGET_QUICK } else { BUDGET })?;
    if args.json { print_json(&report) } else { out::print(&text::engines(&report)) }
}

/// What `uraid engines NAME --json` prints.
#[derive(Serialize, Debug)]
struct RunningDocument<'a> {
    version: u32,
    name: &'a str,
    engines: &'a EnginesStatus,
}

fn run_of_daemon(args: &EnginesArgs) -> Result<(), Failure> {
    if args.quick {
        return Err(Failure::Usage(
            "--quick is for this machine; of a running array nothing is measured".to_owned(),
        ));
    }
    let status = commands::client(&args.target, args.name.as_ref())?.status()?;
    let Some(engines) = &status.engines else {
        return Err(Failure::operating(
            "this daemon is of an older version, which says nothing about engines",
        ));
    };
    if args.json {
        return print_json(&RunningDocument { version: VERSION, name: &status.name, engines });
    }
    out::print(&running::engines(&status.name, engines))
}

fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).map_err(Failure::operating)?;
    out::print(&(text + "\n"))
}

fn look(paths: &Paths, budget: Duration) -> Result<EnginesReport, Failure> {
    let kernels = Kernels::select(Selection::Auto).map_err(Failure::operating)?;
    let Snapshot { devices, notes } = scan(paths);
    Ok(EnginesReport {
        version: 1,
        cpu: CpuReport {
            kernel: kernels.kernel().map(Kernel::name),
            crc32c: kernels.crc32c_name(),
            message: kernels.why().to_string(),
        },
        sysfs: paths.sysfs.display().to_string(),
        dev: paths.dev.display().to_string(),
        optimised: !cfg!(debug_assertions),
        notes,
        devices: devices.iter().map(|device| device_report(paths, device, budget)).collect(),
    })
}

fn device_report(paths: &Paths, device: &Device, budget: Duration) -> DeviceReport {
    let queues = device.queues.iter().map(|queue| {
        let opened = queue.usable().then(|| open(paths, queue, budget));
        QueueReport::new(queue, opened)
    });
    DeviceReport::new(device, queues.collect())
}

/// Opens, proves and measures a queue, and closes it again.
fn open(paths: &Paths, queue: &Queue, budget: Duration) -> Result<OpenReport, String> {
    let opened = engine_dsa::open::open(paths, queue, Options::default());
    let mut backend = opened.map_err(|error| error.to_string())?;
    let found = measure(&mut backend, budget)?;
    Ok(OpenReport::new(backend.queue().method(), &found, &decided(&found)))
}
