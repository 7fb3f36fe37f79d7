//! Writes a tree of attributes as the driver shows them in sysfs, so that discovery finds the model.
//!
//! Names and formats are those of `Documentation/ABI/stable/sysfs-driver-dma-idxd` and of what the driver
//! prints: hexadecimal registers with `0x`, capability bitmaps as groups of 32 bits with commas, everything
//! else decimal or a word. Each file is replaced as a whole, so a reader never sees half of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::device::{DeviceConfig, Mode, State};
use crate::personality::Personality;

/// Entries of all queues of a device.
const ENTRIES: u32 = 128;
/// Queues, engines and groups a device has.
const QUEUES: u32 = 8;
const ENGINES: u32 = 4;
const GROUPS: u32 = 4;

/// A device as sysfs shows it.
#[derive(Clone, Debug)]
pub struct DeviceEntry {
    /// `0` for `dsa0`.
    pub number: u32,
    /// Memory node, -1 for none.
    pub numa_node: i32,
    /// Its queues, by number.
    pub queues: Vec<QueueEntry>,
}

/// A queue as sysfs shows it.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    /// The administrator's name for it.
    pub name: String,
    /// What it is; devices of one entry should have one personality.
    pub config: DeviceConfig,
}

/// A capability bitmap as the kernel prints one: eight groups of eight digits, the highest bits first.
pub fn bitmap(words: [u64; 4]) -> String {
    let groups: Vec<String> = words
        .iter()
        .rev()
        .flat_map(|word| [word >> 32, word & 0xffff_ffff])
        .map(|g| format!("{g:08x}"))
        .collect();
    groups.join(",")
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Enabled => "enabled",
        State::Disabled => "disabled",
        State::Halted => "halted",
    }
}

/// Writes one attribute.
fn attribute(directory: &Path, name: &str, value: impl std::fmt::Display) -> io::Result<()> {
    let hidden = directory.join(format!(".{name}"));
    fs::write(&hidden, format!("{value}\n"))?;
    fs::rename(&hidden, directory.join(name))
}

/// Writes attributes by name.
fn attributes(directory: &Path, values: &[(&str, &dyn std::fmt::Display)]) -> io::Result<()> {
    values.iter().try_for_each(|(name, value)| attribute(directory, name, value))
}

/// A part of a device: its directory inside the device's, and a link to it beside the device.
fn part(root: &Path, device: u32, name: &str) -> io::Result<PathBuf> {
    let inside = PathBuf::from(format!("dsa{device}")).join(name);
    fs::create_dir_all(root.join(&inside))?;
    match std::os::unix::fs::symlink(&inside, root.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(root.join(inside)),
    }
}

/// Writes the tree of one device below `root`, which stands for `/sys/bus/dsa/devices`. What is there of an
/// earlier run is written over.
pub fn write(root: &Path, device: &DeviceEntry) -> io::Result<()> {
    let directory = root.join(format!("dsa{}", device.number));
    fs::create_dir_all(&directory)?;
    let default = Personality::v1();
    let p = device.queues.first().map_or(&default, |queue| &queue.config.personality);
    let transfer = 1u64 << (p.gen_cap >> 16 & 0x1f);
    let batch = 1u64 << (p.gen_cap >> 21 & 0xf);
    attributes(
        &directory,
        &[
            ("version", &format_args!("{:#x}", p.version)),
            ("gen_cap", &format_args!("{:#x}", p.gen_cap)),
            ("op_cap", &bitmap(p.visible_op_cap())),
            ("errors", &[format_args!("{:#018x}", 0).to_string().as_str(); 4].join(" ")),
            ("cmd_status", &"0x0"),
            ("cdev_major", &511),
            ("numa_node", &device.numa_node),
            ("pasid_enabled", &1),
            ("configurable", &1),
            ("max_transfer_size", &transfer),
            ("max_batch_size", &batch),
            ("max_work_queues", &QUEUES),
            ("max_work_queues_size", &ENTRIES),
            ("max_engines", &ENGINES),
            ("max_groups", &GROUPS),
            ("max_read_buffers", &96),
            ("read_buffer_limit", &0),
            ("clients", &0),
            ("state", &"enabled"),
        ],
    )?;
    for n in 0..ENGINES {
        let engine = part(root, device.number, &format!("engine{}.{n}", device.number))?;
        attribute(&engine, "group_id", 0)?;
    }
    let group = part(root, device.number, &format!("group{}.0", device.number))?;
    attributes(
        &group,
        &[
            ("traffic_class_a", &1),
            ("traffic_class_b", &1),
            ("read_buffers_allowed", &96),
            ("read_buffers_reserved", &0),
            ("desc_progress_limit", &0),
            ("batch_progress_limit", &0),
        ],
    )?;
    device.queues.iter().enumerate().try_for_each(|(n, queue)| write_queue(root, device.number, n, queue))
}

fn write_queue(root: &Path, device: u32, number: usize, queue: &QueueEntry) -> io::Result<()> {
    let directory = part(root, device, &format!("wq{device}.{number}"))?;
    let (config, p) = (&queue.config, &queue.config.personality);
    let (mode, threshold) = match config.mode {
        Mode::Dedicated => ("dedicated", 0),
        Mode::Shared => ("shared", config.threshold),
    };
    attributes(
        &directory,
        &[
            ("mode", &mode),
            ("type", &"user"),
            ("name", &queue.name),
            ("driver_name", &"user"),
            ("size", &config.size),
            ("threshold", &threshold),
            ("priority", &10),
            ("group_id", &0),
            ("cdev_minor", &number),
            ("max_transfer_size", &p.max_transfer),
            ("max_batch_size", &p.max_batch),
            ("block_on_fault", &u8::from(p.block_on_fault)),
            ("ats_disable", &0),
            ("prs_disable", &0),
            ("op_config", &bitmap(p.visible_op_cap())),
            ("occupancy", &0),
            ("enqcmds_retries", &32),
            ("clients", &0),
            ("state", &"enabled"),
        ],
    )
}

/// Shows what a device's queues are doing, by number: if one of them says that the device is halted, it is,
/// and that queue is disabled.
pub fn write_states(root: &Path, device: u32, queues: &[State]) -> io::Result<()> {
    let halted = queues.contains(&State::Halted);
    let of_device = if halted { State::Halted } else { State::Enabled };
    let directory = root.join(format!("dsa{device}"));
    attribute(&directory, "state", state_word(of_device))?;
    queues.iter().enumerate().try_for_each(|(number, state)| {
        let shown = if *state == State::Halted { State::Disabled } else { *state };
        attribute(&directory.join(format!("wq{device}.{number}")), "state", state_word(shown))
    })
}

/// Shows what the queue of a device is doing, as if it were the only one: see [`write_states`].
pub fn write_state(root: &Path, device: u32, queue: usize, state: State) -> io::Result<()> {
    let directory = root.join(format!("dsa{device}"));
    let (of_device, of_queue) = match state {
        State::Enabled | State::Disabled => (State::Enabled, state),
        State::Halted => (State::Halted, State::Disabled),
    };
    attribute(&directory, "state", state_word(of_device))?;
    attribute(&directory.join(format!("wq{device}.{queue}")), "state", state_word(of_queue))
}

/// Shows the operations that a device has now.
pub fn write_operations(root: &Path, device: u32, queue: usize, p: &Personality) -> io::Result<()> {
    let directory = root.join(format!("dsa{device}"));
    let shown = bitmap(p.visible_op_cap());
    attribute(&directory, "op_cap", &shown)?;
    attribute(&directory.join(format!("wq{device}.{queue}")), "op_config", &shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_halted_if_one_of_its_queues_says_so() {
        let root = std::env::temp_dir().join(format!("dsa-model-states-{}", std::process::id()));
        let queue =
            QueueEntry { name: "uraid".into(), config: DeviceConfig::dedicated(Personality::v1(), 8) };
        write(&root, &DeviceEntry { number: 0, numa_node: -1, queues: vec![queue.clone(), queue] }).unwrap();
        let read = |name: &str| fs::read_to_string(root.join("dsa0").join(name).join("state")).unwrap();
        for (states, shown) in [
            ([State::Halted, State::Enabled], ["halted\n", "disabled\n", "enabled\n"]),
            ([State::Enabled, State::Halted], ["halted\n", "enabled\n", "disabled\n"]),
            ([State::Disabled, State::Enabled], ["enabled\n", "disabled\n", "enabled\n"]),
        ] {
            write_states(&root, 0, &states).unwrap();
            assert_eq!(["", "wq0.0", "wq0.1"].map(read), shown);
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn bitmaps_are_printed_as_the_kernel_does() {
        let zeros = "00000000,".repeat(6);
        assert_eq!(bitmap(Personality::v1().visible_op_cap()), format!("{zeros}00000001,003f03ff"));
        assert_eq!(
            bitmap(Personality::v1_restricted().visible_op_cap()),
            format!("{zeros}00000001,003f03fd")
        );
    }
}
