//! Loop devices and what lies behind them: the same bytes under two names.
//!
//! What lies behind is told apart by what it is (file system and inode, or device number), so that hard
//! links, bind mounts and other spellings of a path make no difference.

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use md_format::SECTOR;
use nix::sys::stat::{major, minor};
use uraid_blockio::{Identity, loop_file};

use crate::device::node_of;

/// What lies behind a loop device, or behind a partition of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Backing {
    /// Which loop device: `loop0`.
    pub(crate) name: String,
    /// The file or device behind it, as [`node_of`] has it.
    pub(crate) node: (u64, u64),
    /// Its path, as the kernel knows it.
    pub(crate) path: PathBuf,
    /// Which of its bytes.
    pub(crate) range: Range<u64>,
}

/// What lies behind the block device of this number; none if it is no loop device.
pub(crate) fn of(device: u64) -> Option<Backing> {
    let node = fs::canonicalize(format!("/sys/dev/block/{}:{}", major(device), minor(device))).ok()?;
    if !node.join("partition").exists() {
        return of_loop(&node);
    }
    let whole = of_loop(node.parent()?)?;
    let start = whole.range.start.saturating_add(sectors(&node, "start")?);
    let end = start.saturating_add(sectors(&node, "size")?);
    Some(Backing { range: start..end, ..whole })
}

/// The loop devices through which these bytes can be reached.
pub(crate) fn loops_over(node: (u64, u64), range: &Range<u64>) -> Vec<String> {
    let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let all = disks.filter_map(|disk| of_loop(&disk.path()));
    let over = all
        .filter(|found| found.node == node && found.range.start < range.end && range.start < found.range.end);
    over.map(|found| found.name).collect()
}

/// `disk` is a directory of sysfs.
fn of_loop(disk: &Path) -> Option<Backing> {
    // It exists only while something lies behind the device.
    let path = fs::read_to_string(disk.join("loop/backing_file")).ok()?;
    let path = PathBuf::from(path.trim_end_matches('\n'));
    let name = disk.file_name()?.to_string_lossy().into_owned();
    // Whoever may not open the device is left with the path, which is right nearly always.
    let told = File::open(Path::new("/dev").join(&name)).and_then(|device| loop_file(device.as_fd()));
    let node = match told {
        Ok(Identity::File { device, inode }) => (device, inode),
        Ok(Identity::Block { device }) => (device, u64::MAX),
        Err(_) => node_of(&fs::metadata(&path).ok()?),
    };
    let offset = fs::read_to_string(disk.join("loop/offset")).ok()?.trim().parse().ok()?;
    let range = offset..u64::saturating_add(offset, sectors(disk, "size")?);
    Some(Backing { name, node, path, range })
}

/// A number of sectors that sysfs has, in bytes.
fn sectors(directory: &Path, file: &str) -> Option<u64> {
    let number: u64 = fs::read_to_string(directory.join(file)).ok()?.trim().parse().ok()?;
    Some(number.saturating_mul(SECTOR))
}
