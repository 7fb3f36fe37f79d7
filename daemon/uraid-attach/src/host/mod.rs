//! What the kernel and udev show of nbd devices as files: /sys, /proc and /dev.

mod holders;
mod mounts;
mod openers;
mod queue;
mod udev;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::sys::stat;

use crate::AttachError;
use crate::wait::poll_until;

pub use holders::{Holders, Mount, Opener};
pub use mounts::{MountLine, mounts, swaps};
pub use openers::{Part, openers};
pub use queue::{QueueLimits, QueueState, Refusal, Tuned};
pub use udev::Settled;

/// The file systems in which the kernel shows its devices: this host's, or a copy below some directory.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// An attached device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The process that attached it, which may be gone. Of devices attached by ioctl: the one that waits.
    pub pid: u32,
    /// The name that it was attached with; none before Linux 5.14, or if there was none.
    pub backend: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// One device of the kernel's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceState {
    /// N of /dev/nbdN.
    pub index: u32,
    /// What it is attached to. None: it is free, unless somebody has it open, which
    /// [`Netlink::status`](crate::Netlink::status) knows.
    pub attached: Option<Attached>,
}

impl Default for Host {
    fn default() -> Self {
        Self::here()
    }
}

impl Host {
    /// This host.
    pub fn here() -> Self {
        Host { root: PathBuf::from("/") }
    }

    /// A copy of parts of /sys, /proc, /dev and /run below a directory, for tests.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Host { root: root.into() }
    }

    /// Whether the kernel has its nbd driver, loaded or built in. Nothing is loaded by asking.
    pub fn module_loaded(&self) -> bool {
        self.sys("module/nbd").is_dir() || self.sys("class/block/nbd0").exists()
    }

    /// All devices, by number.
    ///
    /// # Errors
    /// sysfs cannot be read. Without the driver there are none.
    pub fn devices(&self) -> Result<Vec<DeviceState>, AttachError> {
        let mut devices: Vec<_> = self
            .block_names()?
            .iter()
            .filter_map(|name| name.strip_prefix("nbd")?.parse().ok())
            .map(|index| DeviceState { index, attached: self.attached(index) })
            .collect();
        devices.sort_by_key(|device| device.index);
        Ok(devices)
    }

    /// What a device is attached to, if it is.
    pub fn attached(&self, index: u32) -> Option<Attached> {
        let pid = self.device_text(index, "pid")?.parse().ok()?;
        let sectors: u64 = self.device_text(index, "size")?.parse().ok()?;
        Some(Attached {
            pid,
            backend: self.device_text(index, "backend").filter(|backend| !backend.is_empty()),
            // The unit of sysfs, whatever the block size is.
            size: sectors.saturating_mul(512),
            read_only: self.device_text(index, "ro").is_some_and(|told| told == "1"),
        })
    }

    /// Whether a device is attached to nothing, for certain: what cannot be read, for want of file
    /// descriptors for example, is no sign of that.
    pub fn is_detached(&self, index: u32) -> bool {
        read_trimmed(&self.sys(&format!("block/nbd{index}/pid"))).is_err_and(|error| is_absent(&error))
    }

    /// Whether a device is, for certain, not attached with this backend: detached, or attached to something
    /// else meanwhile. Only for kernels that show backends, which those before Linux 5.14 do not.
    pub fn is_not_of(&self, index: u32, backend: &str) -> bool {
        match read_trimmed(&self.sys(&format!("block/nbd{index}/backend"))) {
            Ok(shown) => shown != backend,
            Err(error) => is_absent(&error),
        }
    }

    /// The devices that are shown as attached with this backend. There may be more than one:
    /// [`Netlink::is_cut_off`](crate::Netlink::is_cut_off) tells those that are on their way out.
    ///
    /// # Errors
    /// sysfs cannot be read.
    pub fn find_backend(&self, backend: &str) -> Result<Vec<u32>, AttachError> {
        let of_backend = |device: &DeviceState| {
            let attached = device.attached.as_ref();
            attached.and_then(|attached| attached.backend.as_deref()) == Some(backend)
        };
        Ok(self.devices()?.into_iter().filter(of_backend).map(|device| device.index).collect())
    }

    /// Where the device's node is.
    pub fn node(&self, index: u32) -> PathBuf {
        self.root.join(format!("dev/nbd{index}"))
    }

    /// Waits until the node is there and is that device; devtmpfs makes it at once, udev gives it its
    /// owner.
    ///
    /// # Errors
    /// [`AttachError::TooLate`].
    pub fn wait_for_node(&self, index: u32, within: Duration) -> Result<PathBuf, AttachError> {
        let node = self.node(index);
        let what = || format!("{} to appear; is /dev a devtmpfs, or udev running?", node.display());
        poll_until(what, within, || {
            let number = self.device_number(&format!("nbd{index}"))?;
            (block_number(&node)? == number).then_some(())
        })?;
        Ok(node)
    }

    /// Waits until a device is free: detached, and closed by everybody. Until then its number cannot be
    /// attached again.
    ///
    /// # Errors
    /// [`AttachError::TooLate`].
    pub fn wait_until_detached(&self, index: u32, within: Duration) -> Result<(), AttachError> {
        let what = || format!("nbd{index} to be let go of by everybody who has it open");
        poll_until(what, within, || self.is_detached(index).then_some(()))
    }

    /// Has the kernel forget the partitions of a device that was detached: it shows them until somebody
    /// opens the device, which this does. With udev running, udev does it too.
    ///
    /// # Errors
    /// The device cannot be opened.
    pub fn forget_partitions(&self, index: u32) -> Result<(), AttachError> {
        let node = self.node(index);
        match fs::File::open(&node) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(()),
            // Kernels that refuse to open what is not attached have forgotten them already.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            Err(error) => Err(AttachError::io(format!("open {}", node.display()), error)),
        }
    }

    fn sys(&self, path: &str) -> PathBuf {
        self.root.join("sys").join(path)
    }

    fn proc(&self, path: &str) -> PathBuf {
        self.root.join("proc").join(path)
    }

    /// A file of the device in sysfs, without the blanks at its end.
    fn device_text(&self, index: u32, file: &str) -> Option<String> {
        read_trimmed(&self.sys(&format!("block/nbd{index}/{file}"))).ok()
    }

    fn block_names(&self) -> Result<Vec<String>, AttachError> {
        match names_in(&self.sys("block")) {
            Ok(names) => Ok(names),
            Err(error) => Err(AttachError::io("list the block devices in sysfs", error)),
        }
    }

    /// Major and minor number of a block device, partitions included, by its name.
    fn device_number(&self, name: &str) -> Option<(u64, u64)> {
        parse_number(&read_trimmed(&self.sys(&format!("class/block/{name}/dev"))).ok()?)
    }
}

/// Whether it says that a file of sysfs is not there, or went while it was read.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

/// `43:0` as numbers.
fn parse_number(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device that a path leads to.
fn block_number(path: &Path) -> Option<(u64, u64)> {
    let found = stat::stat(path).ok()?;
    let is_block = found.st_mode & libc::S_IFMT == libc::S_IFBLK;
    is_block.then(|| (stat::major(found.st_rdev), stat::minor(found.st_rdev)))
}

fn read_trimmed(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// Names of the entries of a directory, sorted; none if there is no such directory.
fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}
