//! Devices that the kernel makes of others: arrays, mappings, caches.

use std::fs;

use super::{Held, View, number_of, text, with, word};

impl View {
    /// Adds a device that lies over another, by its name in sysfs.
    pub(super) fn stacked(&self, name: &str, deep: usize, held: &mut Held) {
        let node = fs::canonicalize(self.path(&format!("sys/block/{name}"))).unwrap_or_default();
        let above = number_of(&node).map(|number| self.one(number, deep)).unwrap_or_default();
        let said = |file: &str| text(&node.join(file));
        let (what, end) = if let Some(state) = said("md/array_state") {
            (array(name, &state), Some(format!("mdadm --stop /dev/{name}")))
        } else if let Some(title) = said("dm/name") {
            mapping(&title, &said("dm/uuid").unwrap_or_default())
        } else if node.join("bcache").is_dir() {
            (format!("used by {name}"), Some(format!("echo 1 > /sys/block/{name}/bcache/stop")))
        } else {
            (format!("used by {name}"), None)
        };
        held.add(with(what, &above), above.release.into_iter().chain(end));
    }
}

/// Arrays that md gathers members for and has not started hold them just as well.
fn array(name: &str, state: &str) -> String {
    let state = match state {
        "inactive" | "clear" => " (not started)",
        _ => "",
    };
    format!("a member of the kernel's array {name}{state}")
}

/// What a mapping is, by the prefix that its maker gives its UUID, and the command that ends it.
fn mapping(title: &str, uuid: &str) -> (String, Option<String>) {
    match uuid.split_once('-').map_or("", |(maker, _)| maker) {
        "LVM" => {
            let (group, volume) = logical_volume(title);
            let end = format!("vgchange --activate n {}", word(&group));
            (format!("used by the logical volume {group}/{volume}"), Some(end))
        }
        "CRYPT" => (
            format!("used by the encrypted volume {title}"),
            Some(format!("cryptsetup close {}", word(title))),
        ),
        "mpath" => (format!("a path of /dev/mapper/{title}, which can be the member in its place"), None),
        _ => (
            format!("used by the device-mapper device {title}"),
            Some(format!("dmsetup remove {}", word(title))),
        ),
    }
}

/// `my--group-volume` is the volume `volume` of the group `my-group`: LVM doubles hyphens of names.
fn logical_volume(title: &str) -> (String, String) {
    let marked = title.replace("--", "\0");
    let (group, volume) = marked.split_once('-').unwrap_or((&marked, ""));
    (group.replace('\0', "-"), volume.replace('\0', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyphens_of_logical_volumes_are_told_apart() {
        for (title, group, volume) in
            [("vg-root", "vg", "root"), ("my--vg-a--b", "my-vg", "a-b"), ("odd", "odd", "")]
        {
            assert_eq!(logical_volume(title), (group.to_owned(), volume.to_owned()));
        }
    }
}
