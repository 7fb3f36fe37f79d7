//! Memory nodes: how far they are from each other, and on which one this process is.

use std::fs;
use std::path::Path;

use async_tx::Distances;

/// The most nodes that are looked at.
const NODES_MAX: u32 = 64;

/// The distances that the system tells, below `/sys/devices/system/node` or what stands for it.
pub(super) fn distances(nodes: &Path) -> Distances {
    let row = |node: u32| {
        let text = fs::read_to_string(nodes.join(format!("node{node}/distance"))).unwrap_or_default();
        text.split_whitespace().map_while(|word| word.parse().ok()).collect::<Vec<u32>>()
    };
    let mut rows: Vec<Vec<u32>> = (0..NODES_MAX).map(row).collect();
    while rows.last().is_some_and(Vec::is_empty) {
        rows.pop();
    }
    Distances::new(rows)
}

/// The node of all CPUs that this process may run on. None if there are several, or only one in all: then
/// no device is nearer than another.
pub(super) fn own(nodes: &Path) -> Option<u32> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    node_of(nodes, allowed)
}

fn node_of(nodes: &Path, allowed: &str) -> Option<u32> {
    let cpus = |node: u32| fs::read_to_string(nodes.join(format!("node{node}/cpulist"))).ok();
    let all: Vec<(u32, String)> = (0..NODES_MAX).filter_map(|node| Some((node, cpus(node)?))).collect();
    let within = |list: &str| {
        let mut allowed = ranges(allowed).peekable();
        allowed.peek().is_some()
            && allowed.all(|(first, last)| ranges(list).any(|(from, to)| from <= first && last <= to))
    };
    let mut owners = all.iter().filter(|(_, list)| within(list));
    owners.next().filter(|_| all.len() > 1).map(|(node, _)| *node)
}

/// The ranges of a list as `0-3,8`, first and last.
fn ranges(list: &str) -> impl Iterator<Item = (u32, u32)> {
    list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_on_one_node_of_several_is_near_to_that() {
        let directory = tempfile::tempdir().unwrap();
        let node = |number: u32, cpus: &str, distance: &str| {
            let node = directory.path().join(format!("node{number}"));
            fs::create_dir(&node).unwrap();
            fs::write(node.join("cpulist"), cpus).unwrap();
            fs::write(node.join("distance"), distance).unwrap();
        };
        assert_eq!(own(directory.path()), None);
        node(0, "0-3,8-11\n", "10 21\n");
        assert_eq!(node_of(directory.path(), "\t1-2\n"), None);
        node(1, "4-7,12-15\n", "21 10\n");
        for (allowed, expected) in
            [("1-2", Some(0)), ("4-7,12", Some(1)), ("3-4", None), ("0-15", None), ("", None), ("99", None)]
        {
            assert_eq!(node_of(directory.path(), allowed), expected, "{allowed}");
        }
        let distances = distances(directory.path());
        assert_eq!(distances.between(Some(0), Some(1)), 21);
        assert_eq!(distances.between(Some(1), Some(1)), 10);
    }
}
