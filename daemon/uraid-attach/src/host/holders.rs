//! Who uses a device. The kernel detaches a mounted one without a word, so somebody has to ask.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::libc;

use super::mounts::{mounts, swaps};
use super::openers::{Part, openers};
use super::{Host, block_number, names_in, read_trimmed};
use crate::wait::poll_until;

/// More processes than these are counted, not named.
const NAMED_MAX: usize = 6;

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mount {
    /// `nbd0`, or the partition.
    pub device: String,
    /// Where.
    pub point: String,
}

/// A process that has the device open.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opener {
    /// Its number.
    pub pid: u32,
    /// Its name, of up to 15 bytes.
    pub name: String,
}

/// Everybody who uses a device or one of its partitions. Shown as a sentence: `mounted on /mnt; open by fio
/// (pid 12)`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Holders {
    /// File systems, as this process and process 1 see them.
    pub mounts: Vec<Mount>,
    /// Devices that are swapped to, by name.
    pub swaps: Vec<String>,
    /// Devices over it: `dm-0 (vg-root)`, `md0`, `loop3`.
    pub stacked: Vec<String>,
    /// Processes other than this one.
    pub openers: Vec<Opener>,
    /// Whether the kernel refuses to open it exclusively: then one of the above holds it, or something that
    /// is not seen from here, such as a mount in another namespace. None if that could not be tried.
    pub claimed: Option<bool>,
    /// Whether the descriptors of all processes could be looked at.
    pub all_seen: bool,
}

impl Holders {
    /// Whether nobody is known to use it.
    pub fn is_free(&self) -> bool {
        !self.is_used_by_kernel() && self.openers.is_empty()
    }

    /// Whether a mount, swap or another device would lose its data: more than somebody who looks at it.
    pub fn is_used_by_kernel(&self) -> bool {
        let known = !self.mounts.is_empty() || !self.swaps.is_empty() || !self.stacked.is_empty();
        known || self.claimed == Some(true)
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        for mount in &self.mounts {
            said.push(if mount.device.contains('p') {
                format!("{} mounted on {}", mount.device, mount.point)
            } else {
                format!("mounted on {}", mount.point)
            });
        }
        if !self.swaps.is_empty() {
            said.push(format!("swapped to ({})", self.swaps.join(", ")));
        }
        if !self.stacked.is_empty() {
            said.push(format!("used by {}", self.stacked.join(", ")));
        }
        if !self.openers.is_empty() {
            let named = self.openers.iter().take(NAMED_MAX);
            let mut named: Vec<_> = named.map(|one| format!("{} (pid {})", one.name, one.pid)).collect();
            if let Some(more @ 1..) = self.openers.len().checked_sub(NAMED_MAX) {
                named.push(format!("{more} more"));
            }
            said.push(format!("open by {}", named.join(", ")));
        }
        if said.is_empty() && self.claimed == Some(true) {
            said.push(
                "held by something that cannot be seen from here, such as a mount in another namespace"
                    .to_owned(),
            );
        }
        if said.is_empty() {
            said.push("not used by anybody".to_owned());
        }
        f.write_str(&said.join("; "))
    }
}

impl Host {
    /// Who uses a device. It is a snapshot: between this and what is done about it somebody else may come.
    ///
    /// Opening the device, which is the last question, waits while it is not served and its partitions have
    /// not been read; and it detaches a device with
    /// [`ClientFlags::disconnect_on_close`](crate::ClientFlags::disconnect_on_close).
    pub fn holders(&self, index: u32) -> Holders {
        let parts = self.parts(index);
        let (found, all_seen) = openers(&self.proc(""), &parts, std::process::id());
        Holders {
            mounts: self.mounts_of(&parts),
            swaps: self.swaps_of(&parts),
            stacked: self.stacked_on(index, &parts),
            openers: found.into_iter().map(|(pid, name)| Opener { pid, name }).collect(),
            claimed: if self.attached(index).is_some() { self.is_claimed(index) } else { None },
            all_seen,
        }
    }

    /// Asks until nobody uses the device, or the time is up; returns the last answer. Programs that look at
    /// a device, such as udev's after a file system was unmounted, are gone after a moment.
    pub fn wait_until_free(&self, index: u32, within: Duration) -> Holders {
        let mut last = Holders::default();
        let _ = poll_until(String::new, within, || {
            last = self.holders(index);
            last.is_free().then_some(())
        });
        last
    }

    /// The device and its partitions.
    fn parts(&self, index: u32) -> Vec<Part> {
        let whole = format!("nbd{index}");
        let inside = names_in(&self.sys(&format!("block/{whole}"))).unwrap_or_default();
        let partition = format!("{whole}p");
        let mut names = vec![whole];
        names.extend(inside.into_iter().filter(|name| name.starts_with(&partition)));
        names.into_iter().map(|name| Part { number: self.device_number(&name), name }).collect()
    }

    fn mounts_of(&self, parts: &[Part]) -> Vec<Mount> {
        let mut found = Vec::new();
        // A service has a mount namespace of its own; that of process 1 is the administrator's.
        for whose in ["self", "1"] {
            let Ok(text) = fs::read(self.proc(&format!("{whose}/mountinfo"))) else { continue };
            for line in mounts(&String::from_utf8_lossy(&text)) {
                let on = |part: &&Part| part.number == Some(line.device) || part.is_at(&line.source);
                if let Some(part) = parts.iter().find(on) {
                    found.push(Mount { device: part.name.clone(), point: line.point });
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn swaps_of(&self, parts: &[Part]) -> Vec<String> {
        let text = read_trimmed(&self.proc("swaps")).unwrap_or_default();
        let on = |path: String| parts.iter().find(|part| part.is_at(&path)).map(|part| part.name.clone());
        swaps(&text).filter_map(on).collect()
    }

    fn stacked_on(&self, index: u32, parts: &[Part]) -> Vec<String> {
        let mut found = Vec::new();
        for part in parts {
            let place = if part.name == format!("nbd{index}") {
                format!("block/{}/holders", part.name)
            } else {
                format!("block/nbd{index}/{}/holders", part.name)
            };
            for name in names_in(&self.sys(&place)).unwrap_or_default() {
                found.push(match read_trimmed(&self.sys(&format!("block/{name}/dm/name"))) {
                    Ok(title) => format!("{name} ({title})"),
                    Err(_) => name,
                });
            }
        }
        for name in self.block_names().unwrap_or_default().into_iter().filter(|name| name.starts_with("loop"))
        {
            let behind = read_trimmed(&self.sys(&format!("block/{name}/loop/backing_file")));
            if behind.is_ok_and(|path| parts.iter().any(|part| part.is_at(&path))) {
                found.push(name);
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The last word. What this process itself has open does not count, unless exclusively.
    fn is_claimed(&self, index: u32) -> Option<bool> {
        let node = self.node(index);
        if block_number(&node) != Some(self.device_number(&format!("nbd{index}"))?) {
            return None;
        }
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_NONBLOCK).open(&node) {
            Ok(_) => Some(false),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Some(true),
            Err(_) => None,
        }
    }
}
