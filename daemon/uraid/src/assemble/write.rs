//! The configuration by which a service starts an array.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use md_format::SECTOR;
use uraid_config::{Config, DeviceName, RUN_DIR, VolumeName};

use super::arrays::Array;
use crate::human::{self, shell_word};

/// Writes `NAME.toml` into `directory`, whole or not at all, and never over another file.
///
/// # Errors
/// It is there already, a path cannot be written in TOML, or the file could not be made.
pub(super) fn configuration(
    directory: &Path,
    array: &Array,
    device: Option<DeviceName>,
) -> Result<PathBuf, String> {
    let file = directory.join(format!("{}.toml", array.name));
    let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", file.display());
    let text = text(array, device).map_err(|why| failed(&why))?;
    // What would not be read is not written.
    Config::parse(&text, directory).map_err(|problems| match problems.first() {
        Some(problem) => failed(&problem.message),
        None => failed(&"it would not be a configuration"),
    })?;
    fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    put(directory, &file, &text).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists if Config::load(&file).is_ok() => {
            failed(&"it exists already, and is for other members; nothing was changed")
        }
        ErrorKind::AlreadyExists => failed(&format!(
            "it exists already, and cannot be used as it is (`uraid check-config {}` says why); nothing was changed",
            shell_word(&file.display().to_string())
        )),
        _ => failed(&error),
    })?;
    Ok(file)
}

/// Makes the file under another name and gives it its own when it is durable; a link never replaces a file.
fn put(directory: &Path, file: &Path, text: &str) -> std::io::Result<()> {
    let fresh = directory.join(format!(".assemble.{}", std::process::id()));
    let made = File::options().write(true).create_new(true).mode(0o644).open(&fresh);
    let linked = made.and_then(|mut made| {
        made.write_all(text.as_bytes())?;
        made.sync_all()?;
        fs::hard_link(&fresh, file)
    });
    let removed = fs::remove_file(&fresh);
    linked.and(removed)?;
    File::open(directory)?.sync_all()
}

fn text(array: &Array, device: Option<DeviceName>) -> Result<String, String> {
    let superblock = &array.superblock;
    let mut text = format!(
        "# Written by `uraid assemble`: {} of {} members, {}. Every key: uraid.toml(5).\n",
        superblock.level(),
        superblock.raid_disks(),
        human::bytes(superblock.array_sectors().saturating_mul(SECTOR)),
    );
    let full = superblock.name();
    let by_own_name = array.name.matches(&full);
    // Writing to a String cannot fail.
    let named: Option<VolumeName> = superblock.short_name().parse().ok();
    if let Some(name) = named {
        let _ = writeln!(text, "name = \"{name}\"");
    }
    let _ = writeln!(text, "uuid = \"{}\"\nmembers = [", superblock.set_uuid());
    for path in members(array) {
        let _ = writeln!(text, "    {},", quoted(path)?);
    }
    text.push_str("]\n");
    if !by_own_name {
        // Commands look for the sockets by the name of the volume.
        let name = &array.name;
        let _ = writeln!(
            text,
            "listen = [\"unix:{RUN_DIR}/{name}.sock\"]\ncontrol = \"{RUN_DIR}/{name}.control\""
        );
    }
    if let Some(device) = device {
        let _ = writeln!(text, "device = \"{device}\"");
    }
    Ok(text)
}

/// The members by the names that last, in the order of their roles. A device that was not taken is none.
fn members(array: &Array) -> Vec<&Path> {
    let super::Verdict::Startable(assembly) = &array.verdict else { return Vec::new() };
    let taken = assembly.members.iter().filter_map(|member| array.candidates.get(member.found));
    taken.map(|candidate| candidate.stable.as_path()).collect()
}

/// A path as a string of TOML, of which the strings of JSON are a part once no control character is left.
fn quoted(path: &Path) -> Result<String, String> {
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    let text =
        text.ok_or_else(|| format!("{path:?} cannot be written into a configuration; give it another name"))?;
    serde_json::to_string(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_never_replaced_and_nothing_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tank.toml");
        put(directory.path(), &file, "one").unwrap();
        assert_eq!(put(directory.path(), &file, "two").unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).unwrap(), "one");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn odd_paths_are_quoted_or_refused() {
        let path = Path::new("/dev/a \"b\" \\c");
        let text = format!("members = [{}]", quoted(path).unwrap());
        assert_eq!(Config::parse(&text, Path::new("/")).unwrap().members, [path]);
        assert!(quoted(Path::new("/dev/a\nb")).is_err() && quoted(Path::new("/dev/\u{7f}")).is_err());
    }
}
