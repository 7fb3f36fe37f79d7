//! `uraid udev`: what the udev rules of the package have to know and cannot find out by themselves. It prints
//! properties as `KEY=value`, one a line, for IMPORT{program}.
//!
//! It runs for every event of a device, while events behind it wait, so it looks at few things, waits for
//! nothing but a daemon that may be busy, and that for a second; and it never opens the device.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uraid_config::{ArrayUuid, Config, VolumeName};

use crate::claims;
use crate::cli::{UdevArgs, UdevQuestion, control_socket_of};
use crate::control::client::Client;
use crate::failure::Failure;
use crate::out;

/// How the kernel's attribute `backend` begins for a device of ours.
const BACKEND: &str = "uraid:";
/// Where the configurations of services are.
pub(crate) const CONFIGS: &str = "/etc/uraid";
/// How long the daemon may take to tell the array's UUID. Without it the device lacks one link.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers one question.
///
/// # Errors
/// The device is not one of ours: the rule's IMPORT does not match then.
pub fn run(args: &UdevArgs) -> Result<(), Failure> {
    match &args.question {
        UdevQuestion::Volume { backend } => {
            let name = volume_of(backend)
                .ok_or_else(|| Failure::operating(format!("`{backend}` is not a volume of uraid")))?;
            let status = Client::new(control_socket_of(&name)).with_patience(PATIENCE).status();
            out::print(&volume_properties(&name, status.ok().map(|status| status.uuid).as_deref()))
        }
        UdevQuestion::Member { node } => {
            let links = std::env::var("DEVLINKS").unwrap_or_default();
            let names: Vec<&Path> =
                std::iter::once(node.as_path()).chain(links.split_whitespace().map(Path::new)).collect();
            // What udev read in the superblock, which is md's: the UUID of the array.
            let uuid = std::env::var("ID_FS_UUID").ok();
            let array = uuid.as_deref().and_then(|uuid| uuid.parse().ok());
            let configured = configuration_with(Path::new(CONFIGS), &names, array)
                .and_then(|file| file.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            let noted = || claims::noted(uuid.as_deref()?).map(|name| name.as_str().to_owned());
            let name = configured.or_else(noted).ok_or_else(|| {
                Failure::operating(format!("no volume of this machine has {}", node.display()))
            })?;
            out::print(&member_properties(&name))
        }
    }
}

/// The volume behind a device with this attribute; none if it is somebody else's, or its name could not be
/// that of a file.
fn volume_of(backend: &str) -> Option<VolumeName> {
    backend.trim_end().strip_prefix(BACKEND)?.parse().ok()
}

fn volume_properties(name: &VolumeName, uuid: Option<&str>) -> String {
    let mut text = format!("URAID_NAME={}\n", name.as_str());
    // As mdadm writes it, with colons, which a link's name may have.
    if let Some(uuid) =
        uuid.filter(|uuid| uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'-'))
    {
        text += &format!("URAID_UUID={uuid}\n");
    }
    text
}

fn member_properties(volume: &str) -> String {
    format!("URAID_MEMBER_OF={volume}\n")
}

/// The first configuration in `directory` that is for this array, or has a member of one of these names, or one
/// that is the same device under another name. One with problems is passed over: whoever serves it is told about
/// them.
pub(crate) fn configuration_with(
    directory: &Path,
    names: &[&Path],
    array: Option<ArrayUuid>,
) -> Option<PathBuf> {
    let entries = fs::read_dir(directory).ok()?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension() == Some(OsStr::new("toml")));
    files.sort();
    let number = names.first().and_then(|node| device_number(node));
    let same = |member: &PathBuf| {
        names.contains(&member.as_path()) || (number.is_some() && device_number(member) == number)
    };
    let meant = |config: Config| match (config.uuid, array) {
        (Some(wanted), Some(array)) => wanted == array,
        _ => config.members.iter().any(same),
    };
    files.into_iter().find(|file| Config::load(file).is_ok_and(meant))
}

/// The number of a block device; none for anything else. Nothing is opened.
fn device_number(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    metadata.file_type().is_block_device().then(|| metadata.rdev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backend_of_ours_with_a_harmless_name_is_a_volume() {
        assert_eq!(volume_of("uraid:tank\n").unwrap().as_str(), "tank");
        for foreign in ["", "tank", "uraid:", "uraid:../x", "uraid:a b", "qemu:tank", "uraid:a/b"] {
            assert_eq!(volume_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn properties_are_lines_and_nothing_odd_gets_into_them() {
        let name = "tank".parse().unwrap();
        assert_eq!(volume_properties(&name, None), "URAID_NAME=tank\n");
        assert_eq!(volume_properties(&name, Some("0a:1b")), "URAID_NAME=tank\nURAID_UUID=0a:1b\n");
        assert_eq!(volume_properties(&name, Some("0a\nX=1")), "URAID_NAME=tank\n");
    }

    #[test]
    fn a_member_is_found_by_each_of_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("broken.toml", "members = [");
        write("tank.toml", "members = ['/dev/disk/by-id/one', '/dev/null-such']\n");
        write("note.txt", "members = ['/dev/other']\n");
        let find = |names: &[&str]| {
            let names: Vec<&Path> = names.iter().map(Path::new).collect();
            configuration_with(directory.path(), &names, None)
        };
        assert_eq!(find(&["/dev/sdx1", "/dev/disk/by-id/one"]), Some(directory.path().join("tank.toml")));
        assert_eq!(find(&["/dev/sdx1"]), None);
        assert_eq!(find(&["/dev/other"]), None);
        assert_eq!(member_properties("tank"), "URAID_MEMBER_OF=tank\n");
    }

    #[test]
    fn a_member_is_found_by_its_array_whatever_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let (array, other) = (ArrayUuid([0x11; 16]), ArrayUuid([0x22; 16]));
        let text = format!("uuid = '{array}'\nmembers = ['/dev/one']\n");
        fs::write(directory.path().join("tank.toml"), text).unwrap();
        let find = |name: &str, array| configuration_with(directory.path(), &[Path::new(name)], Some(array));
        assert!(find("/dev/new", array).is_some());
        // Another array at the place of a member is not this one's.
        assert_eq!(find("/dev/one", other), None);
    }
}
