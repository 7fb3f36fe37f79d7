//! What the system says about the CPU, its caches and free memory. Whatever it does not say is left
//! out: none of it is needed.

use std::fs;
use std::path::{Path, PathBuf};

use super::report::{Cache, CacheKind};

const CPUS: &str = "/sys/devices/system/cpu";
const CGROUPS: &str = "/sys/fs/cgroup";

/// The CPU's name for itself.
pub(super) fn cpu_model() -> Option<String> {
    value_of(&fs::read_to_string("/proc/cpuinfo").ok()?, "model name").map(str::to_owned)
}

/// The caches of the first CPU that this process may run on, the nearest first.
pub(super) fn caches() -> Vec<Cache> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cpu = value_of(&status, "Cpus_allowed_list").and_then(|list| ranges(list).next());
    let directory = Path::new(CPUS).join(format!("cpu{}", cpu.map_or(0, |(first, _)| first))).join("cache");
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut caches: Vec<Cache> = entries.filter_map(|entry| cache(&entry.path())).collect();
    caches.sort_by_key(|cache| (cache.level, cache.kind != CacheKind::Data));
    caches
}

/// How many bytes can be allocated without anything else having to give way: what the system calls
/// available, or less if a control group of this process has less left.
pub(super) fn free_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    let available = meminfo.as_deref().and_then(|text| value_of(text, "MemAvailable")).and_then(kibibytes);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let groups = own.map(|own| Path::new(CGROUPS).join(own)).unwrap_or_else(|| PathBuf::from(CGROUPS));
    let groups = groups.ancestors().take_while(|group| group.starts_with(CGROUPS));
    groups.filter_map(left_in_group).chain(available).min()
}

/// What a control group may still use; None if it is not limited.
fn left_in_group(group: &Path) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

fn cache(directory: &Path) -> Option<Cache> {
    let word = |file: &str| fs::read_to_string(directory.join(file)).map(|text| text.trim().to_owned()).ok();
    Some(Cache {
        level: word("level")?.parse().ok()?,
        kind: match word("type")?.as_str() {
            "Data" => CacheKind::Data,
            "Instruction" => CacheKind::Instruction,
            _ => CacheKind::Unified,
        },
        bytes: size(&word("size")?)?,
        shared_by: word("shared_cpu_list").map_or(1, |list| count(&list)),
    })
}

/// The value of the first line `key : value`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(found, _)| found.trim() == key).map(|(_, value)| value.trim())
}

/// `32768K`, as the kernel writes the sizes of caches; none of nothing.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.strip_suffix('K') {
        Some(number) => (number, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |number| (number, 1 << 20)),
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

/// `21553 kB`
fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The ranges of a list as `0-3,8`, first and last.
fn ranges(list: &str) -> impl Iterator<Item = (u32, u32)> {
    list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    })
}

/// How many CPUs a list has.
fn count(list: &str) -> u32 {
    let sizes = ranges(list).map(|(first, last)| last.saturating_sub(first).saturating_add(1));
    sizes.fold(0, u32::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_keys() {
        let text =
            "processor\t: 0\nmodel\t\t: 17\nmodel name\t: AMD EPYC: a name\nmodel name\t: other\nflags\n";
        assert_eq!(value_of(text, "model name"), Some("AMD EPYC: a name"));
        assert_eq!(value_of(text, "cache size"), None);
        assert_eq!(value_of("", "model name"), None);
    }

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        for (text, bytes) in [
            ("32K", Some(32 << 10)),
            ("32768K", Some(32 << 20)),
            ("2M", Some(2 << 20)),
            ("512", Some(512)),
            ("0K", None),
            ("K", None),
            ("", None),
            ("99999999999999999999K", None),
            ("18446744073709551615K", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
        assert_eq!(kibibytes("21553 kB"), Some(21553 << 10));
        assert_eq!(kibibytes("21553"), None);
    }

    #[test]
    fn lists_of_cpus_are_counted() {
        for (list, cpus) in
            [("0", 1), ("0-1", 2), ("0-3,8,10-11", 7), ("", 0), ("x-y", 0), ("0-4294967295", u32::MAX)]
        {
            assert_eq!(count(list), cpus, "{list}");
        }
    }
}
