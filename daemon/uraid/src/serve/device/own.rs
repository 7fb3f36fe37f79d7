//! Members that lie on the volume's own device: each write would wait for itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// How many devices may lie over one another before it is taken for a circle.
const DEEP_MAX: usize = 64;

/// Fails if a member is the device of this backend, lies on it, or is a file in a file system on it.
///
/// # Errors
/// Which member it is.
pub(crate) fn refuse_members_on_own_device<'a>(
    members: impl IntoIterator<Item = &'a Path>,
    backend: &str,
) -> Result<(), String> {
    for path in members {
        if lies_on(Path::new("/sys"), path, backend) {
            return Err(format!(
                "{}: it lies on the volume's own device ({backend}), so that every write would wait for itself",
                path.display()
            ));
        }
    }
    Ok(())
}

fn lies_on(sys: &Path, path: &Path, backend: &str) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return false };
    let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let node = sys.join(format!("dev/block/{}:{}", major(number), minor(number)));
    let (mut todo, mut seen) = (vec![node], BTreeSet::new());
    while let Some(node) = todo.pop() {
        let Ok(directory) = fs::canonicalize(&node) else { continue };
        if seen.len() >= DEEP_MAX || !seen.insert(directory.clone()) {
            continue;
        }
        if fs::read_to_string(directory.join("backend")).is_ok_and(|told| told.trim() == backend) {
            return true;
        }
        todo.extend(below(sys, &directory));
    }
    false
}

/// What lies below a device in sysfs: the disk of a partition, what a mapping or array is made of, what a loop
/// device is backed by.
fn below(sys: &Path, directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory.join("slaves")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    if directory.join("partition").exists() {
        found.extend(directory.parent().map(Path::to_owned));
    }
    if let Ok(file) = fs::read_to_string(directory.join("loop/backing_file"))
        && let Ok(metadata) = fs::metadata(file.trim_end_matches('\n'))
    {
        let number = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
        found.push(sys.join(format!("dev/block/{}:{}", major(number), minor(number))));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A file lies on the file system of a temporary directory, for which a device is made up in sysfs.
    #[test]
    fn whatever_lies_over_the_device_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let sys = directory.path().join("sys");
        let member = directory.path().join("member");
        fs::write(&member, b"").unwrap();
        let number = fs::metadata(&member).unwrap().dev();
        for part in ["block/nbd3/nbd3p1", "block/dm-0/slaves", "dev/block"] {
            fs::create_dir_all(sys.join(part)).unwrap();
        }
        fs::write(sys.join("block/nbd3/backend"), "uraid:tank\n").unwrap();
        fs::write(sys.join("block/nbd3/nbd3p1/partition"), "1").unwrap();
        symlink(sys.join("block/nbd3/nbd3p1"), sys.join("block/dm-0/slaves/nbd3p1")).unwrap();
        let node = sys.join(format!("dev/block/{}:{}", major(number), minor(number)));
        assert!(!lies_on(&sys, &member, "uraid:tank"));
        for device in ["block/nbd3", "block/nbd3/nbd3p1", "block/dm-0"] {
            let _ = fs::remove_file(&node);
            symlink(sys.join(device), &node).unwrap();
            assert!(lies_on(&sys, &member, "uraid:tank"), "{device}");
            assert!(!lies_on(&sys, &member, "uraid:other"), "{device}");
        }
        assert!(!lies_on(&sys, &directory.path().join("none"), "uraid:tank"));
    }
}
