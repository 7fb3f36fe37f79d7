//! The devices that may be members, and the names by which they are found again after a boot.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use md_format::Found;

use super::patterns;
use crate::device::{Device, DeviceError, DeviceKind};
use crate::{holders, scan};

/// What mdadm takes when there is no DEVICE line. `containers` are arrays of formats that are not ours.
const DEFAULT: &str = "partitions";
/// Directories of links that do not change from boot to boot, the best first.
const STABLE: [&str; 3] = ["/dev/disk/by-id", "/dev/disk/by-partuuid", "/dev/disk/by-path"];
/// Links of the first of them by the beginning of their names, the best first: what a person can read on the disk,
/// then what only the disk knows of itself.
const READABLE: [&str; 7] = ["ata-", "nvme-", "scsi-", "virtio-", "usb-", "mmc-", "dm-name-"];
const NUMBERS: [&str; 4] = ["nvme-eui.", "nvme-uuid.", "scsi-3", "wwn-"];

/// A device that was looked at.
#[derive(Debug)]
pub(super) struct Candidate {
    /// By which it was opened.
    pub(super) path: PathBuf,
    /// By which it will be found after a boot, as far as there is such a name.
    pub(super) stable: PathBuf,
    pub(super) found: Found,
    /// Who has it, if anybody is seen.
    pub(super) held: Option<String>,
}

/// The devices of these words of DEVICE lines, each once; those that cannot be opened are passed over.
///
/// # Errors
/// None of several devices may be read.
pub(super) fn scan(words: &[String]) -> Result<Vec<Candidate>, String> {
    let mut paths: Vec<PathBuf> = Vec::new();
    let default = [DEFAULT.to_owned()];
    for word in if words.is_empty() { &default[..] } else { words } {
        let more = match word.as_str() {
            "partitions" => block_devices(Path::new("/proc/partitions")),
            "containers" => Vec::new(),
            pattern => patterns::paths(pattern),
        };
        paths.extend(more.into_iter().filter(|path| !paths.contains(path)).collect::<Vec<_>>());
    }
    let names = StableNames::here();
    let (mut candidates, mut denied): (Vec<Candidate>, usize) = (Vec::new(), 0);
    for path in paths {
        match Device::open_to_read(&path) {
            Ok(device) if candidates.iter().any(|other| other.found.identity == Some(device.identity())) => {}
            Ok(device) => candidates.push(candidate(&device, &names)),
            Err(DeviceError::Open(error)) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                denied += 1
            }
            Err(_) => {}
        }
    }
    if candidates.is_empty() && denied > 0 {
        return Err(format!(
            "none of the devices that were found may be read ({denied} were tried); this takes root"
        ));
    }
    // A path of a multipath device, a half of a mirror: whoever lies over it shows the same superblock.
    let uuid =
        |one: &Candidate| one.found.superblock.as_ref().ok().map(|sb| (sb.set_uuid(), sb.device_uuid()));
    let free: Vec<_> = candidates.iter().filter(|one| one.held.is_none()).filter_map(uuid).collect();
    candidates.retain(|one| one.held.is_none() || uuid(one).is_none_or(|uuid| !free.contains(&uuid)));
    Ok(candidates)
}

/// The devices at these paths; one that cannot be opened has that as the reason why it is not used.
pub(super) fn named(paths: &[PathBuf]) -> Vec<Candidate> {
    let names = StableNames::here();
    let look = |path: &PathBuf| match Device::open_to_read(path) {
        Ok(device) => candidate(&device, &names),
        Err(error) => Candidate {
            path: path.clone(),
            stable: path.clone(),
            found: scan::not_found(path, &error),
            held: None,
        },
    };
    paths.iter().map(look).collect()
}

fn candidate(device: &Device, names: &StableNames) -> Candidate {
    let found = scan::found(device);
    // Nothing is asked about devices that are no members: that would look at every process for each of them.
    let held = if found.superblock.is_ok() { holders::seen(device) } else { None };
    let stable = match device.kind() {
        DeviceKind::Block => names.of(device.path(), device.node().0),
        DeviceKind::File => device.path().to_owned(),
    };
    Candidate { path: device.path().to_owned(), stable, found, held }
}

/// The block devices that the kernel has, in its order, but for those that are in memory.
fn block_devices(partitions: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(partitions).unwrap_or_default();
    let names = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let (blocks, name) = (fields.next()?, fields.next()?);
        (blocks != "0").then_some(name)
    });
    let disks = names.filter(|name| !name.starts_with("ram") && !name.starts_with("zram"));
    // A slash in a kernel's name is shown as an exclamation mark.
    disks.map(|name| Path::new("/dev").join(name.replace('!', "/"))).collect()
}

/// Links of /dev by the number of the device that they lead to.
struct StableNames(BTreeMap<u64, PathBuf>);

impl StableNames {
    fn here() -> Self {
        let mut names = BTreeMap::new();
        for directory in STABLE {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let mut links: Vec<String> =
                entries.filter_map(|link| link.file_name().into_string().ok()).collect();
            links.sort_by_key(|name| (rank(name), name.len(), name.clone()));
            for link in links {
                let path = Path::new(directory).join(link);
                if let Some(number) = block_number(&path) {
                    names.entry(number).or_insert(path);
                }
            }
        }
        StableNames(names)
    }

    /// The best name of a device that was named so.
    fn of(&self, path: &Path, number: u64) -> PathBuf {
        let chosen =
            STABLE.iter().any(|directory| path.starts_with(directory)) || path.starts_with("/dev/mapper");
        if chosen { path.to_owned() } else { self.0.get(&number).cloned().unwrap_or_else(|| path.to_owned()) }
    }
}

fn rank(name: &str) -> usize {
    match NUMBERS.iter().position(|start| name.starts_with(start)) {
        Some(at) => READABLE.len() + at,
        None => READABLE.iter().position(|start| name.starts_with(start)).unwrap_or(usize::MAX),
    }
}

fn block_number(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    metadata.file_type().is_block_device().then(|| metadata.rdev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_can_read_come_first() {
        let mut names =
            ["wwn-0x5000", "nvme-eui.0025", "md-uuid-x", "scsi-35000", "nvme-Disk_S1", "ata-Disk_S2"];
        names.sort_by_key(|name| (rank(name), name.len()));
        assert_eq!(
            names,
            ["ata-Disk_S2", "nvme-Disk_S1", "nvme-eui.0025", "scsi-35000", "wwn-0x5000", "md-uuid-x"]
        );
    }

    #[test]
    fn the_kernels_list_of_devices_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("partitions");
        let text = "major minor  #blocks  name\n\n   8        0  1024 sda\n   8        1  1024 sda1\n   1  0  64 ram0\n 104 0 9 cciss!c0d0\n  11 0 0 sr0\n";
        fs::write(&file, text).unwrap();
        let paths: Vec<_> = block_devices(&file).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/dev/sda", "/dev/sda1", "/dev/cciss/c0d0"]);
        assert!(block_devices(Path::new("/nonexistent")).is_empty());
    }
}
