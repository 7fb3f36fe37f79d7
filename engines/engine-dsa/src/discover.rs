//! Which devices and queues there are, what they can do, and whether they are ours to use.
//!
//! Reads the driver's attributes in sysfs (`Documentation/ABI/stable/sysfs-driver-dma-idxd` of Linux) and
//! nothing else: no node is opened, because opening a dedicated queue takes it. Whatever is missing or
//! makes no sense becomes `None` and a note; nothing here fails as a whole, nor reads without bound. The
//! roots can be others ([`Paths`]), so that a fake tree serves as well. Analytics devices (`iax`) are not
//! looked at.
//!
//! Whether a queue works, only opening it and a NOOP tell.

use std::env;
use std::fmt;
use std::path::PathBuf;

use crate::caps::{DsaCaps, GenCap, OpSet};

mod attributes;
mod order;
mod scan;
mod verdict;

pub use order::{Changes, Distances};
pub use scan::{Health, health, scan};
pub use verdict::Obstacle;

/// A queue's `name` must begin with this for uraid to use it, so that no other user's queue is taken.
pub const PREFIX: &str = "uraid";
/// Variable that replaces [`Paths::sysfs`].
pub const SYSFS_VARIABLE: &str = "URAID_DSA_SYSFS_PATH";
/// Variable that replaces [`Paths::dev`].
pub const DEV_VARIABLE: &str = "URAID_DSA_DEV_PATH";

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// Directory of the devices' attributes.
    pub sysfs: PathBuf,
    /// Directory of the queues' nodes.
    pub dev: PathBuf,
    /// Directory of the memory nodes, for the distances between them.
    pub nodes: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Paths {
            sysfs: "/sys/bus/dsa/devices".into(),
            dev: "/dev/dsa".into(),
            nodes: "/sys/devices/system/node".into(),
        }
    }
}

impl Paths {
    /// The default, but for what the environment replaces: [`SYSFS_VARIABLE`] and [`DEV_VARIABLE`].
    pub fn from_env() -> Paths {
        let mut paths = Paths::default();
        let value = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(sysfs) = value(SYSFS_VARIABLE) {
            paths.sysfs = sysfs;
        }
        if let Some(dev) = value(DEV_VARIABLE) {
            paths.dev = dev;
        }
        paths
    }
}

/// State of a device or of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// Works.
    Enabled,
    /// Not started by the administrator, or stopped.
    Disabled,
    /// Stopped by the device itself, for an error.
    Halted,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Enabled => "enabled",
            State::Disabled => "disabled",
            State::Halted => "halted",
        })
    }
}

/// How a queue is used.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// By one process, which counts what it has submitted: beyond [`Queue::size`], work is lost silently.
    Dedicated,
    /// By several; a full queue says so.
    Shared,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Dedicated => "dedicated",
            Mode::Shared => "shared",
        })
    }
}

/// Whom a queue is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Nobody yet.
    None,
    /// The kernel.
    Kernel,
    /// Processes.
    User,
}

/// A device.
#[derive(Clone, PartialEq, Debug)]
pub struct Device {
    /// `dsa0`.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// 0x100, 0x200, 0x300. Never a reason to think that an operation is there: see [`crate::caps`].
    pub version: Option<u32>,
    /// General capabilities.
    pub gen_cap: Option<GenCap>,
    /// Operations.
    pub op_cap: Option<OpSet>,
    /// Capability words of version 3.0.
    pub dsacaps: Option<DsaCaps>,
    /// Whether it works.
    pub state: Option<State>,
    /// Software errors, as the driver prints the words of their register.
    pub errors: Option<String>,
    /// Result of the last administrative command, as the driver prints it.
    pub cmd_status: Option<String>,
    /// Major number of the queues' nodes.
    pub cdev_major: Option<u32>,
    /// Memory node; `None` also for a device that is equally near to all.
    pub numa_node: Option<u32>,
    /// Whether processes' addresses can be used.
    pub pasid_enabled: Option<bool>,
    /// Whether its configuration can be changed.
    pub configurable: Option<bool>,
    /// Largest transfer, in bytes.
    pub max_transfer_size: Option<u64>,
    /// Largest batch, in descriptors.
    pub max_batch_size: Option<u32>,
    /// Queues it can have.
    pub max_work_queues: Option<u32>,
    /// Entries of all queues together.
    pub max_work_queues_size: Option<u32>,
    /// Engines.
    pub max_engines: Option<u32>,
    /// Groups.
    pub max_groups: Option<u32>,
    /// Read buffers.
    pub max_read_buffers: Option<u32>,
    /// Read buffers that groups may use beyond those reserved for them.
    pub read_buffer_limit: Option<u32>,
    /// Entries of the event log.
    pub event_log_size: Option<u32>,
    /// Users of the device.
    pub clients: Option<u32>,
    /// Engines with the groups they work for.
    pub engines: Vec<Engine>,
    /// Groups of queues and engines.
    pub groups: Vec<Group>,
    /// Its queues, by number.
    pub queues: Vec<Queue>,
    /// What was missing or made no sense.
    pub notes: Vec<String>,
}

/// An engine of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Engine {
    /// Its number.
    pub number: u32,
    /// The group it works for.
    pub group_id: Option<u32>,
}

/// A group of queues and engines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its number.
    pub number: u32,
    /// First traffic class.
    pub traffic_class_a: Option<u32>,
    /// Second traffic class.
    pub traffic_class_b: Option<u32>,
    /// Read buffers it may use.
    pub read_buffers_allowed: Option<u32>,
    /// Read buffers that are its own.
    pub read_buffers_reserved: Option<u32>,
    /// Limit of work in progress.
    pub desc_progress_limit: Option<u32>,
    /// Limit of batches in progress.
    pub batch_progress_limit: Option<u32>,
}

/// A queue, with what of its device matters to whoever uses it.
#[derive(Clone, PartialEq, Debug)]
pub struct Queue {
    /// `wq2.5`: queue 5 of device 2.
    pub name: String,
    /// Number of the device.
    pub device: u32,
    /// Number of the queue in its device.
    pub number: u32,
    /// Its node.
    pub node: PathBuf,
    /// The name that the administrator gave it.
    pub label: Option<String>,
    /// Version of the device.
    pub version: Option<u32>,
    /// State of the device.
    pub device_state: Option<State>,
    /// Its own state.
    pub state: Option<State>,
    /// Dedicated or shared.
    pub mode: Option<Mode>,
    /// Whom it is for.
    pub kind: Option<Kind>,
    /// The driver it is bound to.
    pub driver_name: Option<String>,
    /// Entries.
    pub size: Option<u32>,
    /// Entries that unprivileged users of a shared queue may fill.
    pub threshold: Option<u32>,
    /// Relative weight, 1 to 15.
    pub priority: Option<u32>,
    /// Its group.
    pub group_id: Option<u32>,
    /// Minor number of its node.
    pub cdev_minor: Option<u32>,
    /// Largest transfer, in bytes: the smaller of queue and device. Zero only if neither is known.
    pub max_transfer: u64,
    /// Largest batch, in descriptors: the smaller of queue and device. Below 2 there are no batches, and
    /// so it is where [`ops`](Self::ops) lacks BATCH.
    pub max_batch: u32,
    /// Whether descriptors may wait for the system to page in.
    pub block_on_fault: Option<bool>,
    /// Address translation by the device is off.
    pub ats_disable: Option<bool>,
    /// Page requests by the device are off.
    pub prs_disable: Option<bool>,
    /// Operations of both the device and the queue.
    pub ops: OpSet,
    /// Whether it can compute parity, see [`DsaCaps::xor`]: never, yet.
    pub xor: bool,
    /// General capabilities of the device.
    pub gen_cap: Option<GenCap>,
    /// Whether the device can use addresses of processes.
    pub pasid_enabled: Option<bool>,
    /// Memory node of the device.
    pub numa_node: Option<u32>,
    /// How often the kernel offers a descriptor to a full shared queue.
    pub enqcmds_retries: Option<u32>,
    /// Entries in use when it was looked at.
    pub occupancy: Option<u32>,
    /// Users when it was looked at.
    pub clients: Option<u32>,
    /// What was missing or made no sense.
    pub notes: Vec<String>,
    /// Why it cannot be used; empty if it can.
    pub obstacles: Vec<Obstacle>,
}

impl Queue {
    /// Whether nothing speaks against opening it.
    pub fn usable(&self) -> bool {
        self.obstacles.is_empty()
    }
}

/// All devices at one moment.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Snapshot {
    /// By number.
    pub devices: Vec<Device>,
    /// What was wrong with the tree as a whole.
    pub notes: Vec<String>,
}

impl Snapshot {
    /// All queues, by device and number.
    pub fn queues(&self) -> impl Iterator<Item = &Queue> {
        self.devices.iter().flat_map(|device| &device.queues)
    }
}
