//! Which arrays are uraid's in this boot: a note for udev.
//!
//! Whoever closes a block device makes udev look at it, and mdadm's rule hands what looks like a member of
//! an array to the kernel's md. The package's rule leaves those alone that a configuration names; but an
//! array that was made a moment ago has no configuration yet, and a member that was added stands in none.
//! So `uraid create` and the daemon leave a note here before they let go of a member. It is a file whose
//! name is the array's UUID and whose content its name; it is gone with the next boot.

use std::fs;
use std::path::Path;

use md_format::Uuid;
use uraid_config::{RUN_DIR, VolumeName};

/// Below [`RUN_DIR`].
const NOTES: &str = "arrays";

/// Notes that the array is ours. Without [`RUN_DIR`], which the package makes, there is no rule that would
/// read it; and a note that cannot be written only means that mdadm is as quick as it is without the package.
pub(crate) fn note(uuid: Uuid, name: &str) {
    let _ = note_in(Path::new(RUN_DIR), uuid, name);
}

/// The name of the array if it was noted. `uuid` as udev knows it, grouped in any way.
pub(crate) fn noted(uuid: &str) -> Option<VolumeName> {
    noted_in(Path::new(RUN_DIR), uuid)
}

fn note_in(run: &Path, uuid: Uuid, name: &str) -> std::io::Result<()> {
    if !run.is_dir() {
        return Ok(());
    }
    let notes = run.join(NOTES);
    fs::create_dir_all(&notes)?;
    fs::write(notes.join(file_name(uuid)), name)
}

fn noted_in(run: &Path, uuid: &str) -> Option<VolumeName> {
    let uuid: Uuid = uuid.parse().ok()?;
    fs::read_to_string(run.join(NOTES).join(file_name(uuid))).ok()?.parse().ok()
}

/// 32 digits, nothing else: a path can be made of it.
fn file_name(uuid: Uuid) -> String {
    uuid.to_string().replace(':', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_by_the_uuid_however_it_is_written() {
        let run = tempfile::tempdir().unwrap();
        let uuid: Uuid = "00112233:44556677:8899aabb:ccddeeff".parse().unwrap();
        assert_eq!(noted_in(run.path(), "00112233-4455-6677-8899-aabbccddeeff"), None);
        note_in(run.path(), uuid, "tank").unwrap();
        for text in ["00112233-4455-6677-8899-aabbccddeeff", "00112233:44556677:8899aabb:ccddeeff"] {
            assert_eq!(noted_in(run.path(), text).unwrap().as_str(), "tank");
        }
        for foreign in ["", "../arrays", "00112233-4455-6677-8899-aabbccddeefe"] {
            assert_eq!(noted_in(run.path(), foreign), None, "{foreign}");
        }
    }

    #[test]
    fn without_the_directory_nothing_is_made() {
        let run = tempfile::tempdir().unwrap();
        let missing = run.path().join("uraid");
        note_in(&missing, Uuid([7; 16]), "tank").unwrap();
        assert!(!missing.exists());
    }
}
