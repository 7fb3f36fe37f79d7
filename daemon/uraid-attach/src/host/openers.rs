//! Which processes have a device open, by their descriptors in /proc.

use std::fs;
use std::io;
use std::path::Path;

use super::{block_number, names_in, read_trimmed};

/// A block device by its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// As in sysfs: `nbd0`, `nbd0p1`.
    pub name: String,
    /// Major and minor number.
    pub number: Option<(u64, u64)>,
}

impl Part {
    /// Whether a path is this device, by its name or by what it leads to.
    pub fn is_at(&self, path: &str) -> bool {
        let named = path.strip_prefix("/dev/") == Some(&self.name);
        named || (self.number.is_some() && block_number(Path::new(path)) == self.number)
    }
}

/// Processes by number and name that have one of these open, and whether all processes could be looked at.
/// `proc` is where that file system is mounted; the process numbered `but` is passed over.
pub fn openers(proc: &Path, parts: &[Part], but: u32) -> (Vec<(u32, String)>, bool) {
    let names = names_in(proc).unwrap_or_default();
    let mut all_seen = !names.is_empty();
    let mut found = Vec::new();
    for pid in names.iter().filter_map(|name| name.parse::<u32>().ok()).filter(|pid| *pid != but) {
        let process = proc.join(pid.to_string());
        match has_open(&process, parts) {
            Ok(true) => {
                let name = read_trimmed(&process.join("comm")).unwrap_or_else(|_| "?".to_owned());
                found.push((pid, name));
            }
            Ok(false) => {}
            Err(_) => all_seen = false,
        }
    }
    found.sort_unstable();
    (found, all_seen)
}

fn has_open(process: &Path, parts: &[Part]) -> io::Result<bool> {
    let descriptors = process.join("fd");
    // A process that has ended in the meantime has nothing open.
    for name in names_in(&descriptors)? {
        let Ok(link) = fs::read_link(descriptors.join(name)) else { continue };
        let Some(path) = link.to_str() else { continue };
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        // Only what is a device by its place is looked at: looking at a file may wait for its file system,
        // and that may be ours.
        if path.starts_with("/dev/") && parts.iter().any(|part| part.is_at(path)) {
            return Ok(true);
        }
    }
    Ok(false)
}
