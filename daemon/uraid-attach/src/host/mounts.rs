//! /proc/self/mountinfo and /proc/swaps (proc(5)), as far as they tell who uses a block device.

use super::parse_number;

/// A line of mountinfo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountLine {
    /// Major and minor number of the file system's device; a made-up one for file systems over several.
    pub device: (u64, u64),
    /// Where it is mounted.
    pub point: String,
    /// What was mounted: a path, for those file systems that lie on a device.
    pub source: String,
}

/// The mounts of a mountinfo. Lines that are not understood are passed over.
pub fn mounts(text: &str) -> impl Iterator<Item = MountLine> + '_ {
    text.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ');
        let device = parse_number(fields.nth(2)?)?;
        let point = unescape(fields.nth(1)?);
        Some(MountLine { device, point, source: unescape(after.split(' ').nth(1)?) })
    })
}

/// The paths of a list of swaps.
pub fn swaps(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).map(unescape)
}

/// Blanks and backslashes in paths are shown as `\040`.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(octal);
        bytes.push(octal.unwrap_or(first));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_optional_fields_and_without() {
        let text = "36 35 43:0 / /mnt/a\\040b rw,noatime shared:1 master:2 - ext4 /dev/nbd0 rw\n\
                    37 35 0:45 /sub /data rw - btrfs /dev/nbd1 rw\n\
                    nonsense\n1 2 x:y / / rw - a b c\n38 35 43:1 / /q rw - ext4\n";
        let found: Vec<_> = mounts(text).collect();
        let line = |device, point: &str, source: &str| MountLine {
            device,
            point: point.to_owned(),
            source: source.to_owned(),
        };
        let expected = [line((43, 0), "/mnt/a b", "/dev/nbd0"), line((0, 45), "/data", "/dev/nbd1")];
        assert_eq!(found, expected);
    }

    #[test]
    fn swaps_are_read_without_their_heading() {
        let text = "Filename\t\tType\t\tSize\n/dev/nbd0p2   partition\t1024\t0\t-2\n/sw\\040ap file 1 0 -3\n";
        assert_eq!(swaps(text).collect::<Vec<_>>(), ["/dev/nbd0p2", "/sw ap"]);
    }

    #[test]
    fn what_looks_like_an_escape_and_is_none_stays() {
        assert_eq!(unescape("a\\134b\\04\\9zz\\777\\"), "a\\b\\04\\9zz\\777\\");
    }
}
