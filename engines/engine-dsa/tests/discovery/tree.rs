//! A tree of attributes in a temporary directory. The nodes are plain files: only their permissions are
//! looked at.

use std::fs;
use std::path::PathBuf;

use engine_dsa::discover::{Paths, Queue, Snapshot, scan};
use tempfile::TempDir;

/// A 1.0 device's operations with BATCH hidden, as current kernels print them.
pub(super) const OPS_1: &str = "00000000,00000000,00000000,00000000,00000000,00000000,00000001,003f03fd";
/// A 2.0 device's operations.
pub(super) const OPS_2: &str = "00000000,00000000,00000000,00000000,00000000,00000000,0000007b,00bf07ff";

pub(super) struct Tree {
    pub(super) root: TempDir,
    pub(super) paths: Paths,
}

impl Tree {
    pub(super) fn empty() -> Tree {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let paths = Paths { sysfs: at("sysfs"), dev: at("dev"), nodes: at("nodes") };
        for directory in [&paths.sysfs, &paths.dev, &paths.nodes] {
            fs::create_dir(directory).unwrap();
        }
        Tree { root, paths }
    }

    /// The usual one: `dsa0` (1.0, node 0) with a dedicated and a shared queue, `dsa2` (2.0, node 1) with a
    /// shared one, `dsa4` which is disabled, and `iax1`.
    pub(super) fn usual() -> Tree {
        let tree = Tree::empty();
        tree.device(0, "0x100", OPS_1, 0);
        tree.queue("wq0.0", "dedicated", "uraid-d0", 64);
        tree.queue("wq0.1", "shared", "uraid-s0", 32);
        tree.device(2, "0x200", OPS_2, 1);
        tree.queue("wq2.5", "shared", "uraid-s2", 128);
        tree.device(4, "0x100", OPS_1, 1);
        tree.queue("wq4.0", "dedicated", "uraid-d4", 16);
        tree.set("dsa4/state", "disabled");
        tree.set("dsa4/wq4.0/state", "disabled");
        // An analytics device has the same attributes, and queues of the same names.
        tree.device(1, "0x100", OPS_1, 0);
        tree.queue("wq1.0", "dedicated", "uraid-iax", 16);
        fs::rename(tree.at("dsa1"), tree.at("iax1")).unwrap();
        tree.set_node(0, "10 21\n");
        tree.set_node(1, "21 10\n");
        tree
    }

    fn at(&self, path: &str) -> PathBuf {
        self.paths.sysfs.join(path)
    }

    pub(super) fn device(&self, number: u32, version: &str, ops: &str, node: i32) {
        let device = format!("dsa{number}");
        let node = node.to_string();
        for (name, value) in [
            ("version", version),
            ("gen_cap", "0x40915f0107"),
            ("op_cap", ops),
            ("state", "enabled"),
            ("errors", "0000000000000000\n0000000000000000\n0000000000000000\n0000000000000000"),
            ("cmd_status", "0x0"),
            ("cdev_major", "511"),
            ("numa_node", &node),
            ("pasid_enabled", "1"),
            ("configurable", "1"),
            ("max_transfer_size", "2147483648"),
            ("max_batch_size", "1024"),
            ("max_work_queues", "8"),
            ("max_work_queues_size", "128"),
            ("max_engines", "4"),
            ("max_groups", "4"),
            ("max_read_buffers", "96"),
            ("read_buffer_limit", "0"),
            ("clients", "0"),
            (&format!("engine{number}.0/group_id"), "0"),
            (&format!("engine{number}.1/group_id"), "-1"),
            (&format!("group{number}.0/traffic_class_a"), "1"),
            (&format!("group{number}.0/traffic_class_b"), "0"),
        ] {
            self.set(&format!("{device}/{name}"), value);
        }
    }

    pub(super) fn queue(&self, name: &str, mode: &str, label: &str, size: u32) {
        let device = name.strip_prefix("wq").unwrap().split('.').next().unwrap().to_owned();
        for (attribute, value) in [
            ("state", "enabled"),
            ("mode", mode),
            ("type", "user"),
            ("name", label),
            ("driver_name", "user"),
            ("size", &size.to_string()),
            ("threshold", if mode == "shared" { "28" } else { "0" }),
            ("priority", "10"),
            ("group_id", "0"),
            ("cdev_minor", "3"),
            ("max_transfer_size", "2097152"),
            ("max_batch_size", "32"),
            ("block_on_fault", "0"),
            ("ats_disable", "0"),
            ("prs_disable", "0"),
            ("occupancy", "0"),
            ("clients", "0"),
        ] {
            self.set(&format!("dsa{device}/{name}/{attribute}"), value);
        }
        fs::write(self.paths.dev.join(name), "").unwrap();
    }

    /// Writes an attribute, with the newline that the driver ends each with.
    pub(super) fn set(&self, path: &str, value: &str) {
        self.set_bytes(path, format!("{value}\n").as_bytes());
    }

    pub(super) fn set_bytes(&self, path: &str, value: &[u8]) {
        let file = self.at(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, value).unwrap();
    }

    /// Takes an attribute, a queue or a device away.
    pub(super) fn remove(&self, path: &str) {
        let file = self.at(path);
        if file.is_dir() { fs::remove_dir_all(file) } else { fs::remove_file(file) }.unwrap();
    }

    fn set_node(&self, node: u32, distances: &str) {
        let directory = self.paths.nodes.join(format!("node{node}"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("distance"), distances).unwrap();
    }

    pub(super) fn scan(&self) -> Snapshot {
        scan(&self.paths)
    }
}

pub(super) fn find<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Queue {
    match snapshot.queues().find(|queue| queue.name == name) {
        Some(queue) => queue,
        None => panic!("there is no queue {name}: {snapshot:#?}"),
    }
}
