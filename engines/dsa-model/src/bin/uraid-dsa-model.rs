//! The device model as a process: queues behind sockets, and a tree that discovery finds them in.
//!
//! It prints `ready` once everything listens, and ends with SIGTERM or SIGINT, removing its sockets.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use dsa_model::device::{DeviceConfig, Mode, State};
use dsa_model::faults::{Fault, FaultPlan, When};
use dsa_model::model::{DeviceThread, Model};
use dsa_model::personality::Personality;
use dsa_model::server::Listener;
use dsa_model::sysfs::{self, DeviceEntry, QueueEntry};
use nix::sys::signal::{SigSet, Signal};

/// How often the tree is made to show what the queues are doing.
const WATCH: Duration = Duration::from_millis(5);

/// A model of an Intel DSA device, for tests of programs that use one.
#[derive(Parser, Debug)]
#[command(name = "uraid-dsa-model", disable_version_flag = true, max_term_width = 100)]
struct Arguments {
    /// Where a queue listens; the first path is queue 0's, the second queue 1's, …
    #[arg(long, value_name = "PATH")]
    listen: Vec<PathBuf>,
    /// Directory in which every queue listens as wqD.Q, as in /dev/dsa. Created if it is not there.
    #[arg(long, value_name = "DIR")]
    dev: Option<PathBuf>,
    /// Directory to write attributes into, as in /sys/bus/dsa/devices. Created if it is not there.
    #[arg(long, value_name = "DIR")]
    sysfs: Option<PathBuf>,
    /// A queue: shared:SIZE:THRESHOLD or dedicated:SIZE; may be repeated. Without, shared:64:60.
    #[arg(long, value_name = "QUEUE")]
    queue: Vec<QueueSpec>,
    /// Number of the device: 0 is dsa0.
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// Version of the device: 1.0 or 2.0.
    #[arg(long = "version", value_name = "1.0|2.0", default_value = "1.0")]
    device_version: Version,
    /// Let a device of version 1.0 take batches, as on a kernel that does not restrict it.
    #[arg(long)]
    allow_batch: bool,
    /// Let queues block on page faults.
    #[arg(long)]
    block_on_fault: bool,
    /// Largest transfer of a queue, in bytes.
    #[arg(long, default_value_t = 2 << 20)]
    max_transfer: u32,
    /// Largest batch of a queue, in descriptors.
    #[arg(long, default_value_t = 32)]
    max_batch: u32,
    /// Memory node of the device, -1 for none.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    numa_node: i32,
    /// The administrator's name for the queues.
    #[arg(long, default_value = "uraid-model")]
    name: String,
    /// Seed of what goes wrong, or off. With `corrupt:` before the seed one result in fifty is wrong, too,
    /// without anything showing it.
    #[arg(long, value_name = "[corrupt:]SEED|off", default_value = "off")]
    faults: Faults,
    /// Make everything random in completion records that means nothing; --faults does so, too.
    #[arg(long)]
    poison: bool,
    /// Microseconds that a tick of the fault plan takes while nothing happens.
    #[arg(long, default_value_t = 100)]
    tick_us: u64,
}

#[derive(Clone, Copy, Debug)]
struct QueueSpec {
    mode: Mode,
    size: usize,
    threshold: usize,
}

impl FromStr for QueueSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<usize>().ok().filter(|n| (1..=4096).contains(n));
        let parts: Vec<&str> = text.split(':').collect();
        let spec = match parts.as_slice() {
            ["dedicated", size] => {
                number(size).map(|size| QueueSpec { mode: Mode::Dedicated, size, threshold: size })
            }
            ["shared", size, threshold] => {
                number(size).zip(number(threshold)).and_then(|(size, threshold)| {
                    (threshold <= size).then_some(QueueSpec { mode: Mode::Shared, size, threshold })
                })
            }
            _ => None,
        };
        spec.ok_or_else(|| {
            "write shared:SIZE:THRESHOLD with a threshold up to the size, or dedicated:SIZE; sizes are 1 to 4096"
                .into()
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.0" => Ok(Version::One),
            "2.0" => Ok(Version::Two),
            _ => Err("there are 1.0 and 2.0".into()),
        }
    }
}

/// One in fifty, in 65536ths.
const CORRUPT: u32 = 65536 / 50;

#[derive(Clone, Copy, Debug)]
struct Faults {
    seed: Option<u64>,
    corrupt: bool,
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Faults { seed: None, corrupt: false });
        }
        let (corrupt, seed) = text.strip_prefix("corrupt:").map_or((false, text), |seed| (true, seed));
        let seed = seed.parse().map_err(|error| format!("{error}; or write off"))?;
        Ok(Faults { seed: Some(seed), corrupt })
    }
}

impl Arguments {
    fn config(&self, index: usize, spec: QueueSpec) -> DeviceConfig {
        let mut personality = match self.device_version {
            Version::One if self.allow_batch => Personality::v1(),
            Version::One => Personality::v1_restricted(),
            Version::Two => Personality::v2(),
        };
        personality.block_on_fault = self.block_on_fault;
        personality.max_transfer = self.max_transfer;
        personality.max_batch = self.max_batch;
        let faults = match self.faults.seed.map(|seed| seed.wrapping_add(index as u64)) {
            Some(seed) if self.faults.corrupt => {
                FaultPlan::random(seed).with(When::chance(CORRUPT), Fault::Corrupt)
            }
            Some(seed) => FaultPlan::random(seed),
            None => FaultPlan::none(),
        };
        DeviceConfig {
            personality,
            mode: spec.mode,
            size: spec.size,
            threshold: spec.threshold,
            poison: self.poison || self.faults.seed.is_some(),
            faults,
        }
    }

    /// The queues, and where each listens.
    fn queues(&self) -> Result<Vec<(DeviceConfig, Vec<PathBuf>)>, String> {
        let default = QueueSpec { mode: Mode::Shared, size: 64, threshold: 60 };
        let count = self.queue.len().max(self.listen.len()).max(1);
        (0..count)
            .map(|index| {
                let spec = self.queue.get(index).copied().unwrap_or(default);
                let name = format!("wq{}.{index}", self.device);
                let mut paths: Vec<PathBuf> = self.listen.get(index).cloned().into_iter().collect();
                paths.extend(self.dev.as_ref().map(|dev| dev.join(name)));
                if paths.is_empty() {
                    return Err(format!("queue {index} listens nowhere: give it a --listen, or all a --dev"));
                }
                Ok((self.config(index, spec), paths))
            })
            .collect()
    }
}

/// A queue that is served.
struct Served {
    model: Model,
    _thread: DeviceThread,
    _listeners: Vec<Listener>,
}

fn serve(arguments: &Arguments, config: DeviceConfig, paths: &[PathBuf]) -> Result<Served, String> {
    // Clients bring their own memory; the device itself has none.
    let model = Model::new(config, dsa_model::memory::Mapped::new());
    let tick = Duration::from_micros(arguments.tick_us.max(1));
    let thread = model.run(tick).map_err(|error| format!("cannot start a thread: {error}"))?;
    let mut listeners = Vec::new();
    for path in paths {
        let listener = Listener::bind(path).map_err(|error| error.to_string())?;
        listener.serve(&model).map_err(|error| error.to_string())?;
        listeners.push(listener);
    }
    Ok(Served { model, _thread: thread, _listeners: listeners })
}

/// Keeps the tree true: states, and operations after a reset. Ends when the tree cannot be written.
fn watch(root: PathBuf, device: u32, models: Vec<Model>) {
    let look = |model: &Model| model.with(|device| (device.state(), device.personality().clone()));
    let mut shown: Vec<(State, Personality)> = models.iter().map(look).collect();
    loop {
        let now: Vec<(State, Personality)> = models.iter().map(look).collect();
        if now != shown {
            // All queues together, for they share the state of the device.
            let states: Vec<State> = now.iter().map(|(state, _)| *state).collect();
            let written = now
                .iter()
                .zip(&shown)
                .enumerate()
                .filter(|(_, (now, shown))| now.1 != shown.1)
                .try_for_each(|(index, (now, _))| sysfs::write_operations(&root, device, index, &now.1))
                .and_then(|()| sysfs::write_states(&root, device, &states));
            if let Err(error) = written {
                eprintln!("uraid-dsa-model: {} cannot be written any more: {error}", root.display());
                return;
            }
            shown = now;
        }
        std::thread::sleep(WATCH);
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Before any thread is started, so that all of them leave these signals to this one.
    signals.thread_block().map_err(|errno| format!("cannot block signals: {errno}"))?;
    let queues = arguments.queues()?;
    if let Some(dev) = &arguments.dev {
        std::fs::create_dir_all(dev).map_err(|error| format!("cannot create {}: {error}", dev.display()))?;
    }
    let served: Vec<Served> = queues
        .iter()
        .map(|(config, paths)| serve(arguments, config.clone(), paths))
        .collect::<Result<_, _>>()?;
    if let Some(root) = &arguments.sysfs {
        let entries = queues
            .iter()
            .map(|(config, _)| QueueEntry { name: arguments.name.clone(), config: config.clone() })
            .collect();
        let entry = DeviceEntry { number: arguments.device, numa_node: arguments.numa_node, queues: entries };
        sysfs::write(root, &entry)
            .map_err(|error| format!("cannot write attributes into {}: {error}", root.display()))?;
        let (root, device) = (root.clone(), arguments.device);
        let models = served.iter().map(|served| served.model.clone()).collect();
        std::thread::Builder::new()
            .name("dsa-watch".into())
            .spawn(move || watch(root, device, models))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "ready")
        .and_then(|()| out.flush())
        .map_err(|error| format!("cannot say ready: {error}"))?;
    signals.wait().map_err(|errno| format!("cannot wait for a signal: {errno}"))?;
    if let Some(root) = &arguments.sysfs {
        for index in 0..served.len() {
            // The tree may be gone by now; the sockets say it as well.
            let _ = sysfs::write_state(root, arguments.device, index, State::Disabled);
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("uraid-dsa-model: {error}");
            ExitCode::FAILURE
        }
    }
}
