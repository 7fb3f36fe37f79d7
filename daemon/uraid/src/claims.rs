//! Which arrays are uraid's in this boot: a note for udev.
//!
//! Whoever closes a block device makes udev look at it, and mdadm's rule hands what looks like a member of
//! an array to the kernel's md. The package's rule leaves those alone that a configuration names; but an
//! array that was made a moment ago has no configuration yet, and a member that was added stands in none.
//! So `uraid create` and the daemon leave a note here before they let go of a member. It is a file whose
//! name is the array's UUID and whose content its name; it is gone with the next boot.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use md_format::Uuid;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use uraid_config::{RUN_DIR, VolumeName};

/// Below [`RUN_DIR`].
const NOTES: &str = "arrays";
/// No note is longer.
const NOTE_BYTES: u64 = 4096;

/// Notes that the array is ours. Without [`RUN_DIR`], which the package makes, there is no rule that would
/// read it; and a note that cannot be written only means that mdadm is as quick as it is without the package.
pub(crate) fn note(uuid: Uuid, name: &str) {
    let _ = note_in(Path::new(RUN_DIR), uuid, name);
}

/// The name of the array if it was noted. `uuid` as udev knows it, grouped in any way.
pub(crate) fn noted(uuid: &str) -> Option<VolumeName> {
    noted_in(Path::new(RUN_DIR), uuid)
}

/// The directory is the daemon's user's, and the superuser writes here, too: so what that user may have put
/// in the way is replaced, never followed. Whoever reads meanwhile sees the old note or the new one.
fn note_in(run: &Path, uuid: Uuid, name: &str) -> std::io::Result<()> {
    if !run.is_dir() {
        return Ok(());
    }
    let notes = run.join(NOTES);
    match fs::create_dir(&notes) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let here = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let notes = File::options().read(true).custom_flags(here.bits()).open(&notes)?;
    let (note, fresh) = (file_name(uuid), format!(".{}.{}", file_name(uuid), std::process::id()));
    let _ = unlinkat(notes.as_fd(), fresh.as_str(), UnlinkatFlags::NoRemoveDir);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let file = openat(notes.as_fd(), fresh.as_str(), flags, Mode::from_bits_truncate(0o644))?;
    File::from(file).write_all(name.as_bytes())?;
    renameat(notes.as_fd(), fresh.as_str(), notes.as_fd(), note.as_str())?;
    Ok(())
}

fn noted_in(run: &Path, uuid: &str) -> Option<VolumeName> {
    let uuid: Uuid = uuid.parse().ok()?;
    // Not what else may lie there: udev waits for this.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let note = run.join(NOTES).join(file_name(uuid));
    let note = File::options().read(true).custom_flags(flags.bits()).open(note).ok()?;
    let mut name = String::new();
    note.take(NOTE_BYTES).read_to_string(&mut name).ok()?;
    name.parse().ok()
}

/// 32 digits, nothing else: a path can be made of it.
fn file_name(uuid: Uuid) -> String {
    uuid.to_string().replace(':', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

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
    fn what_lies_in_the_way_is_not_followed() {
        let run = tempfile::tempdir().unwrap();
        let (uuid, text) = (Uuid([7; 16]), Uuid([7; 16]).to_string());
        let elsewhere = run.path().join("elsewhere");
        fs::write(&elsewhere, "precious").unwrap();
        let notes = run.path().join(NOTES);
        fs::create_dir(&notes).unwrap();
        for place in [file_name(uuid), format!(".{}.{}", file_name(uuid), std::process::id())] {
            symlink(&elsewhere, notes.join(place)).unwrap();
        }
        assert_eq!(noted_in(run.path(), &text), None);
        note_in(run.path(), uuid, "tank").unwrap();
        note_in(run.path(), uuid, "tank").unwrap();
        assert_eq!(noted_in(run.path(), &text).unwrap().as_str(), "tank");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
        assert_eq!(fs::read_dir(&notes).unwrap().count(), 1);

        fs::remove_dir_all(&notes).unwrap();
        let foreign = tempfile::tempdir().unwrap();
        symlink(foreign.path(), &notes).unwrap();
        assert!(note_in(run.path(), uuid, "tank").is_err());
        assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_the_directory_nothing_is_made() {
        let run = tempfile::tempdir().unwrap();
        let missing = run.path().join("uraid");
        note_in(&missing, Uuid([7; 16]), "tank").unwrap();
        assert!(!missing.exists());
    }
}
