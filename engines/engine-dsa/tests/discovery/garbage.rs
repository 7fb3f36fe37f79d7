//! Nothing in the tree, however odd, is a panic, a hang, or a queue that is used.

use std::fs;
use std::os::unix::fs::symlink;

use engine_dsa::discover::Snapshot;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::tree::{Tree, find};

const OF_DEVICE: [&str; 10] = [
    "version",
    "gen_cap",
    "op_cap",
    "dsacaps",
    "state",
    "numa_node",
    "pasid_enabled",
    "max_transfer_size",
    "max_batch_size",
    "cdev_major",
];
const OF_QUEUE: [&str; 10] = [
    "state",
    "mode",
    "type",
    "size",
    "threshold",
    "max_transfer_size",
    "max_batch_size",
    "op_config",
    "block_on_fault",
    "group_id",
];
const GARBAGE: [&[u8]; 8] = [
    b"",
    b"\0\0\0\0",
    b"\xff\xfe\x00garbage\x1b[31m",
    b"-1 -1 -1",
    b"99999999999999999999999999999999",
    b"0x",
    b"+7",
    b"enabled enabled",
];

fn notes(snapshot: &Snapshot) -> String {
    let devices = snapshot.devices.iter().flat_map(|device| &device.notes);
    let queues = snapshot.queues().flat_map(|queue| &queue.notes);
    devices.chain(queues).cloned().collect::<Vec<_>>().join("\n")
}

#[test]
fn garbage_becomes_nothing_with_a_note() {
    let tree = Tree::usual();
    for (directory, attributes) in [("dsa0", OF_DEVICE), ("dsa0/wq0.0", OF_QUEUE)] {
        for attribute in attributes {
            let path = format!("{directory}/{attribute}");
            let before = fs::read(tree.paths.sysfs.join(&path)).ok();
            for garbage in GARBAGE {
                tree.set_bytes(&path, garbage);
                let snapshot = tree.scan();
                assert_eq!(snapshot.queues().count(), 4);
                let notes = notes(&snapshot);
                let text = String::from_utf8_lossy(garbage);
                assert!(notes.contains(&format!("attribute {attribute} ")), "{attribute} {text:?}: {notes}");
                assert!(notes.chars().all(|c| c == '\n' || !c.is_control()), "{notes:?}");
                assert!(find(&snapshot, "wq2.5").usable(), "other devices do not suffer");
            }
            match before {
                Some(bytes) => tree.set_bytes(&path, &bytes),
                None => tree.remove(&path),
            }
        }
    }
    assert_eq!(notes(&tree.scan()), "");
}

#[test]
fn missing_attributes_become_nothing() {
    let required = ["version", "gen_cap", "op_cap", "state", "max_transfer_size", "mode", "type", "size"];
    let tree = Tree::usual();
    for (directory, attributes) in [("dsa0", OF_DEVICE), ("dsa0/wq0.0", OF_QUEUE)] {
        for attribute in attributes {
            let path = format!("{directory}/{attribute}");
            let Ok(before) = fs::read(tree.paths.sysfs.join(&path)) else { continue };
            tree.remove(&path);
            let snapshot = tree.scan();
            // What came with later kernels, or has a stand-in at the device, is not missed.
            let missed = required.contains(&attribute) && path != "dsa0/wq0.0/max_transfer_size";
            assert_eq!(
                notes(&snapshot).contains(&format!("attribute {attribute} is missing")),
                missed,
                "{path}"
            );
            tree.set_bytes(&path, &before);
        }
    }
    let tree = Tree::usual();
    tree.remove("dsa0/gen_cap");
    let snapshot = tree.scan();
    let queue = find(&snapshot, "wq0.0");
    assert_eq!(queue.gen_cap, None);
    assert!(queue.usable(), "without its capabilities, nothing special is asked of it");
}

#[test]
fn odd_names_are_not_devices() {
    let tree = Tree::usual();
    for name in [
        "dsa",
        "dsa-1",
        "dsa+1",
        "dsa00",
        "dsa!wq0.0",
        "dsa1x",
        "dsa4294967296",
        "wq0.9",
        "\u{e9}",
        "dsa0/wq0.01",
        "dsa0/wq0.",
    ] {
        fs::create_dir_all(tree.paths.sysfs.join(name)).unwrap();
    }
    // Without attributes, a queue beside its device is none that could be used.
    let snapshot = tree.scan();
    assert_eq!(snapshot.devices.len(), 3);
    let names: Vec<_> = snapshot.queues().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["wq0.0", "wq0.1", "wq0.9", "wq2.5", "wq4.0"]);
    let empty = find(&snapshot, "wq0.9");
    assert!(!empty.usable());
    assert!(empty.obstacles.len() >= 5, "{:?}", empty.obstacles);
}

#[test]
fn reads_are_bounded_and_do_not_wait() {
    let tree = Tree::usual();
    let attribute = |name: &str| tree.paths.sysfs.join("dsa0").join(name);
    let replace = |name: &str| {
        let path = attribute(name);
        fs::remove_file(&path).unwrap();
        path
    };
    // Without end, without a writer, without a target, in a circle, and not a file at all.
    symlink("/dev/zero", replace("version")).unwrap();
    mkfifo(&replace("gen_cap"), Mode::S_IRWXU).unwrap();
    symlink("nothing", replace("clients")).unwrap();
    symlink("op_cap", replace("op_cap")).unwrap();
    fs::create_dir(replace("state")).unwrap();
    tree.set_bytes("dsa0/errors", &[b'7'; 100_000]);
    tree.set_bytes("dsa0/wq0.0/name", &[b'u'; 100_000]);
    let snapshot = tree.scan();
    let device = &snapshot.devices[0];
    assert_eq!((device.version, device.gen_cap, device.op_cap, device.state), (None, None, None, None));
    assert_eq!(device.errors.as_deref().map(str::len), Some(4096));
    let queue = find(&snapshot, "wq0.0");
    assert_eq!(queue.label.as_deref().map(str::len), Some(64));
    assert!(!queue.usable());
    // A device that is a file, and one that links to itself.
    fs::write(tree.paths.sysfs.join("dsa8"), "").unwrap();
    symlink("dsa9", tree.paths.sysfs.join("dsa9")).unwrap();
    assert_eq!(tree.scan().devices.len(), 5);
}
