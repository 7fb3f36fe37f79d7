//! Who holds a device or a file that was to be a member, and with which command it is let go of.
//!
//! The kernel only says that a device is taken. What it shows in sysfs, /proc/self/mountinfo and /proc/swaps
//! tells by whom: the kernel's md, device-mapper, a mount, swap, a loop device, or a process, which may be a
//! uraid. Devices lie over one another (an array over a disk, a volume group over the array, a mount over
//! that), so the answer is a chain, and the commands begin at its top.
//!
//! All of it is a snapshot for people: whether a device may be used is for the claim to say
//! ([`Device::claim`](crate::device::Device::claim)), never for this module.

mod processes;
mod stacked;

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use uraid_attach::{Part, mounts, swaps};

use crate::device::{Device, DeviceKind, kernel_user};
use crate::human::shell_word as word;

/// How many devices may lie over one another before it is taken for a circle.
const DEEP_MAX: usize = 8;
/// What is said when nothing can be seen.
const UNSEEN: &str = "mounted, used as swap, or part of another array or mapping, in a way that cannot be seen \
                      from here; `lsblk` and /proc/mdstat may show more";

/// The file systems in which the kernel shows who uses what: this machine's, or a copy for tests.
#[derive(Clone, Debug)]
struct View {
    root: PathBuf,
}

/// What is known of who holds a device: a predicate for each, and the commands that end that, in order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Held {
    by: Vec<String>,
    release: Vec<String>,
}

impl Held {
    fn add(&mut self, by: String, release: impl IntoIterator<Item = String>) {
        self.by.push(by);
        for command in release {
            if !self.release.contains(&command) {
                self.release.push(command);
            }
        }
    }

    /// Takes over what holds another device, of which `about` says what it has to do with this one.
    fn merge(&mut self, about: &str, other: Held) {
        if !other.by.is_empty() {
            self.add(format!("{about} {}", other.by.join(" and ")), other.release);
        }
    }

    /// `a member of the kernel's array md0; let go of it with ...`
    fn sentence(&self) -> Option<String> {
        if self.by.is_empty() {
            return None;
        }
        let by = self.by.join(", and ");
        let commands: Vec<String> = self.release.iter().map(|command| format!("`{command}`")).collect();
        Some(match commands.as_slice() {
            [] => by,
            [one] => format!("{by}; {one} lets go of it"),
            several => format!("{by}; {}, in this order, let go of it", several.join(" and then ")),
        })
    }
}

/// By whom a block device, one of its partitions or the disk that it is a partition of is held: what is to
/// follow "it is in use: ". `device` is its number (`st_rdev`).
pub(crate) fn of_device(device: u64) -> String {
    let number = (major(device), minor(device));
    View::here().device(number).sentence().unwrap_or_else(|| UNSEEN.to_owned())
}

/// Which process has a lock on a file, which is what a running uraid has on its members: what is to follow "it
/// is in use: ". `file` are its file system and inode (`st_dev`, `st_ino`).
pub(crate) fn of_lock(file: (u64, u64)) -> String {
    let (device, inode) = file;
    let held = View::here().locked((major(device), minor(device)), inode);
    held.sentence()
        .unwrap_or_else(|| "another process, perhaps a running uraid, holds a lock on it".to_owned())
}

/// By whom a device that was not claimed is held, as far as that certainly keeps others away: not by whoever just
/// looks at it.
pub(crate) fn seen(device: &Device) -> Option<String> {
    let (view, node) = (View::here(), device.node());
    let number = (major(node.0), minor(node.0));
    match device.kind() {
        DeviceKind::Block => {
            let held = view.kernel(number);
            if held.by.is_empty() { view.uraids(number) } else { held }.sentence()
        }
        DeviceKind::File => view.locked(number, node.1).sentence().or_else(|| kernel_user(node)),
    }
}

/// What lies over a loop device (`loop0`) that a file or device backs, beginning with that.
pub(crate) fn of_loop(name: &str) -> String {
    View::here().behind_loop(name).sentence().unwrap_or_else(|| format!("it backs /dev/{name}"))
}

/// The command that ends the use of a swap file or device.
pub(crate) fn swap_sentence(path: &str) -> String {
    format!("the kernel swaps to it; `swapoff {}` lets go of it", word(path))
}

impl View {
    fn here() -> Self {
        View { root: PathBuf::from("/") }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The directory of a device in sysfs.
    fn node(&self, (major, minor): (u64, u64)) -> Option<PathBuf> {
        fs::canonicalize(self.path(&format!("sys/dev/block/{major}:{minor}"))).ok()
    }

    /// Everybody who is known to hold a device, in any of its parts; if nobody is, who has it open.
    fn device(&self, number: (u64, u64)) -> Held {
        let mut held = self.kernel(number);
        if held.by.is_empty() {
            self.opened(&self.part(number), |_| true, &mut held);
        }
        held
    }

    /// The uraids that have a device open, which is exclusively.
    fn uraids(&self, number: (u64, u64)) -> Held {
        let mut held = Held::default();
        self.opened(&self.part(number), |name| name == processes::URAID, &mut held);
        held
    }

    fn part(&self, number: (u64, u64)) -> Part {
        Part { name: self.node(number).map(|node| name_of(&node)).unwrap_or_default(), number: Some(number) }
    }

    /// What the kernel uses a device, a part of it or its disk for.
    fn kernel(&self, number: (u64, u64)) -> Held {
        let mut held = self.one(number, DEEP_MAX);
        let Some(node) = self.node(number) else { return held };
        if node.join("partition").exists() {
            let disk = node.parent().map(Path::to_owned).unwrap_or_default();
            if let Some(whole) = number_of(&disk) {
                held.merge(
                    &format!("a partition of {}, which is", name_of(&disk)),
                    self.one(whole, DEEP_MAX),
                );
            }
        }
        for part in partitions(&node) {
            if let Some(number) = number_of(&part) {
                held.merge(&format!("the disk of {}, which is", name_of(&part)), self.one(number, DEEP_MAX));
            }
        }
        held
    }

    /// What the kernel uses exactly this device for, and what lies above that.
    fn one(&self, number: (u64, u64), deep: usize) -> Held {
        let mut held = Held::default();
        let Some(node) = self.node(number) else { return held };
        let part = Part { name: name_of(&node), number: Some(number) };
        for point in self.mount_points(&part) {
            held.add(format!("mounted on {point}"), [format!("umount {}", word(&point))]);
        }
        for path in self.swaps(&part) {
            held.add("swapped to".to_owned(), [format!("swapoff {}", word(&path))]);
        }
        let Some(deep) = deep.checked_sub(1) else { return held };
        for over in names_in(&node.join("holders")) {
            self.stacked(&over, deep, &mut held);
        }
        for name in self.loops_over(&part) {
            self.add_loop(&name, deep, &mut held);
        }
        held
    }

    fn behind_loop(&self, name: &str) -> Held {
        let mut held = Held::default();
        self.add_loop(name, DEEP_MAX, &mut held);
        held
    }

    fn add_loop(&self, name: &str, deep: usize, held: &mut Held) {
        let node = fs::canonicalize(self.path(&format!("sys/block/{name}"))).unwrap_or_default();
        let above = number_of(&node).map(|number| self.one(number, deep)).unwrap_or_default();
        let detach = format!("losetup --detach /dev/{name}");
        held.add(with(format!("what backs /dev/{name}"), &above), above.release.into_iter().chain([detach]));
    }

    fn loops_over(&self, part: &Part) -> Vec<String> {
        let loops = names_in(&self.path("sys/block")).into_iter().filter(|name| name.starts_with("loop"));
        let backed = |name: &String| {
            let file = self.path(&format!("sys/block/{name}/loop/backing_file"));
            text(&file).is_some_and(|path| part.is_at(&path))
        };
        loops.filter(backed).collect()
    }

    fn mount_points(&self, part: &Part) -> Vec<String> {
        let mut points = Vec::new();
        // A service has a mount namespace of its own; that of process 1 is the administrator's.
        for whose in ["1", "self"] {
            let Ok(text) = fs::read(self.path(&format!("proc/{whose}/mountinfo"))) else { continue };
            let text = String::from_utf8_lossy(&text).into_owned();
            let on =
                mounts(&text).filter(|line| Some(line.device) == part.number || part.is_at(&line.source));
            for point in on.map(|line| line.point) {
                if !points.contains(&point) {
                    points.push(point);
                }
            }
        }
        points
    }

    fn swaps(&self, part: &Part) -> Vec<String> {
        let text = text(&self.path("proc/swaps")).unwrap_or_default();
        swaps(&text).filter(|path| part.is_at(path)).collect()
    }
}

/// `what, which is mounted on /srv`
fn with(what: String, above: &Held) -> String {
    if above.by.is_empty() { what } else { format!("{what}, which is {}", above.by.join(" and ")) }
}

fn partitions(node: &Path) -> Vec<PathBuf> {
    let mut parts: Vec<_> = names_in(node).into_iter().map(|name| node.join(name)).collect();
    parts.retain(|part| part.join("partition").exists());
    parts
}

fn name_of(node: &Path) -> String {
    node.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Major and minor number of a device by its directory in sysfs.
fn number_of(node: &Path) -> Option<(u64, u64)> {
    let text = text(&node.join("dev"))?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// The names in a directory, sorted; none if it cannot be read.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned)).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests;
