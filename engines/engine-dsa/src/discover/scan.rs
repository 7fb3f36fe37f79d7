//! Reading the tree.

use std::fs;
use std::path::Path;

use nix::unistd::{AccessFlags, eaccess};

use super::attributes::{Attributes, plain_decimal, read};
use super::verdict::{Access, obstacles};
use super::{Device, Engine, Group, Kind, Mode, Paths, Queue, Snapshot, State};
use crate::caps::{DsaCaps, GenCap, OpSet};
use crate::wire::Opcode;

/// The most entries of a directory that are looked at.
const ENTRIES_MAX: usize = 4096;
/// The most characters of a queue's name that are kept; the driver allows fewer.
const LABEL_MAX: usize = 64;

/// Reads all devices and queues.
pub fn scan(paths: &Paths) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let names = match names(&paths.sysfs) {
        Ok(names) => names,
        Err(note) => {
            snapshot.notes.push(note);
            return snapshot;
        }
    };
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| index(name, "dsa")).collect();
    numbers.sort_unstable();
    snapshot.devices = numbers.into_iter().map(|number| device(paths, number, &names)).collect();
    snapshot
}

/// Whether a queue's device and the queue itself work, by two short reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Health {
    /// State of the device, `None` if it is gone.
    pub device: Option<State>,
    /// State of the queue, `None` if it is gone.
    pub queue: Option<State>,
}

impl Health {
    /// Whether both are enabled.
    pub fn is_up(&self) -> bool {
        self.device == Some(State::Enabled) && self.queue == Some(State::Enabled)
    }
}

/// Looks after the state of a queue again.
pub fn health(paths: &Paths, queue: &Queue) -> Health {
    let device = paths.sysfs.join(format!("dsa{}", queue.device));
    let state = |directory: &Path| read(&directory.join("state")).ok().and_then(|text| state(&text));
    let nested = device.join(&queue.name);
    let queue = if nested.is_dir() { nested } else { paths.sysfs.join(&queue.name) };
    Health { device: state(&device), queue: state(&queue) }
}

/// The names in a directory.
fn names(directory: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(directory).map_err(|error| {
        let hint = "is the idxd driver loaded, and DSA enabled in the firmware?";
        format!("{} cannot be read: {error}; {hint}", directory.display())
    })?;
    let names = entries.take(ENTRIES_MAX).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

/// The number of a name such as `dsa12`.
fn index(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    // One way to write a number, so that no two names mean the same device.
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// The numbers of the parts of a device (`wq`, `engine`, `group`) among these names.
fn parts(names: &[String], kind: &str, device: u32) -> Vec<u32> {
    let prefix = format!("{kind}{device}.");
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| index(name, &prefix)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn state(text: &str) -> Option<State> {
    match text {
        "enabled" => Some(State::Enabled),
        "disabled" => Some(State::Disabled),
        "halted" => Some(State::Halted),
        _ => None,
    }
}

fn device(paths: &Paths, number: u32, flat: &[String]) -> Device {
    let name = format!("dsa{number}");
    let directory = paths.sysfs.join(&name);
    let mut at = Attributes::of(directory.clone());
    // Parts are inside the device's directory, and linked beside it.
    let mut all = flat.to_vec();
    match names(&directory) {
        Ok(inside) => all.extend(inside),
        Err(note) => at.notes.push(note),
    }
    let mut device = attributes_of_device(&mut at, name, number);
    let directory_of = |part: String| {
        let inside = directory.join(&part);
        if inside.is_dir() { inside } else { paths.sysfs.join(&part) }
    };
    for part in parts(&all, "engine", number) {
        let mut at = Attributes::of(directory_of(format!("engine{number}.{part}")));
        device
            .engines
            .push(Engine { number: part, group_id: at.parsed("group_id", false, number_or_none).flatten() });
    }
    for part in parts(&all, "group", number) {
        device.groups.push(group(Attributes::of(directory_of(format!("group{number}.{part}"))), part));
    }
    for part in parts(&all, "wq", number) {
        let at = Attributes::of(directory_of(format!("wq{number}.{part}")));
        let queue = queue(paths, &device, at, part);
        device.queues.push(queue);
    }
    device.notes = at.notes;
    device
}

fn attributes_of_device(at: &mut Attributes, name: String, number: u32) -> Device {
    // -1 means that no node is nearer than another.
    let numa_node = at.parsed("numa_node", false, number_or_none);
    Device {
        name,
        number,
        version: at.hex("version", true),
        gen_cap: at.parsed("gen_cap", true, |text| GenCap::parse(text).ok()),
        op_cap: at.parsed("op_cap", true, |text| OpSet::parse(text).ok()),
        dsacaps: at.parsed("dsacaps", false, |text| DsaCaps::parse(text).ok()),
        state: at.parsed("state", true, state),
        errors: at.text("errors", false),
        cmd_status: at.text("cmd_status", false),
        cdev_major: at.decimal("cdev_major", false),
        numa_node: numa_node.flatten(),
        pasid_enabled: at.flag("pasid_enabled", false),
        configurable: at.flag("configurable", false),
        max_transfer_size: at.decimal("max_transfer_size", true),
        max_batch_size: at.decimal("max_batch_size", false),
        max_work_queues: at.decimal("max_work_queues", false),
        max_work_queues_size: at.decimal("max_work_queues_size", false),
        max_engines: at.decimal("max_engines", false),
        max_groups: at.decimal("max_groups", false),
        max_read_buffers: at.decimal("max_read_buffers", false),
        read_buffer_limit: at.decimal("read_buffer_limit", false),
        event_log_size: at.decimal("event_log_size", false),
        clients: at.decimal("clients", false),
        engines: Vec::new(),
        groups: Vec::new(),
        queues: Vec::new(),
        notes: Vec::new(),
    }
}

/// A number; -1 stands for none.
fn number_or_none(text: &str) -> Option<Option<u32>> {
    if text == "-1" { Some(None) } else { u32::try_from(plain_decimal(text)?).ok().map(Some) }
}

fn group(mut at: Attributes, number: u32) -> Group {
    Group {
        number,
        traffic_class_a: at.decimal("traffic_class_a", false),
        traffic_class_b: at.decimal("traffic_class_b", false),
        read_buffers_allowed: at.decimal("read_buffers_allowed", false),
        read_buffers_reserved: at.decimal("read_buffers_reserved", false),
        desc_progress_limit: at.decimal("desc_progress_limit", false),
        batch_progress_limit: at.decimal("batch_progress_limit", false),
    }
}

fn queue(paths: &Paths, device: &Device, mut at: Attributes, number: u32) -> Queue {
    let name = format!("wq{}.{number}", device.number);
    let node = paths.dev.join(&name);
    let op_config = at.parsed("op_config", false, |text| OpSet::parse(text).ok());
    let ops = match (device.op_cap, op_config) {
        (Some(cap), Some(config)) => cap.and(&config),
        (known, other) => known.or(other).unwrap_or_default(),
    };
    let transfer = smaller(at.decimal("max_transfer_size", false), device.max_transfer_size);
    let batch = smaller(at.decimal("max_batch_size", false), device.max_batch_size);
    let mut queue = Queue {
        device: device.number,
        number,
        label: at.text("name", true).map(|text| text.chars().take(LABEL_MAX).collect()),
        version: device.version,
        device_state: device.state,
        state: at.parsed("state", true, state),
        mode: at.parsed("mode", true, mode),
        kind: at.parsed("type", true, kind),
        driver_name: at.text("driver_name", false),
        size: at.decimal("size", true),
        threshold: at.decimal("threshold", false),
        priority: at.decimal("priority", false),
        group_id: at.parsed("group_id", false, number_or_none).flatten(),
        cdev_minor: at.decimal("cdev_minor", false),
        max_transfer: transfer.unwrap_or(0),
        max_batch: if ops.contains(Opcode::Batch) { batch.unwrap_or(0) } else { 0 },
        block_on_fault: at.flag("block_on_fault", false),
        ats_disable: at.flag("ats_disable", false),
        prs_disable: at.flag("prs_disable", false),
        ops,
        xor: device.dsacaps.is_some_and(|caps| caps.xor()),
        gen_cap: device.gen_cap,
        pasid_enabled: device.pasid_enabled,
        numa_node: device.numa_node,
        enqcmds_retries: at.decimal("enqcmds_retries", false),
        occupancy: at.decimal("occupancy", false),
        clients: at.decimal("clients", false),
        notes: Vec::new(),
        obstacles: Vec::new(),
        name,
        node,
    };
    queue.notes = at.notes;
    queue.obstacles = obstacles(&queue, access(&queue.node));
    queue
}

/// Whether the node is there and this process may read and write it. Nothing is opened: that would take a
/// dedicated queue.
fn access(node: &Path) -> Access {
    if fs::metadata(node).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Access::Missing;
    }
    match eaccess(node, AccessFlags::R_OK | AccessFlags::W_OK) {
        Ok(()) => Access::Allowed,
        Err(errno) => Access::Refused(errno as i32),
    }
}

fn mode(text: &str) -> Option<Mode> {
    match text {
        "dedicated" => Some(Mode::Dedicated),
        "shared" => Some(Mode::Shared),
        _ => None,
    }
}

fn kind(text: &str) -> Option<Kind> {
    match text {
        "none" => Some(Kind::None),
        "kernel" => Some(Kind::Kernel),
        "user" => Some(Kind::User),
        _ => None,
    }
}

/// The smaller of what is known.
fn smaller<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
