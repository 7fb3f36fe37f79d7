//! What there is, is found, with all its attributes.

use engine_dsa::caps::GenCap;
use engine_dsa::discover::{Kind, Mode, Paths, State};
use engine_dsa::wire::Opcode;

use super::tree::{Tree, find};

#[test]
fn devices_and_queues_with_their_attributes() {
    let tree = Tree::usual();
    let snapshot = tree.scan();
    assert!(snapshot.notes.is_empty());
    let names: Vec<_> = snapshot.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["dsa0", "dsa2", "dsa4"], "analytics devices are not ours");
    let names: Vec<_> = snapshot.queues().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["wq0.0", "wq0.1", "wq2.5", "wq4.0"]);

    let device = &snapshot.devices[0];
    assert_eq!(device.notes, [""; 0]);
    assert_eq!(
        (device.version, device.state, device.numa_node),
        (Some(0x100), Some(State::Enabled), Some(0))
    );
    assert_eq!(device.gen_cap, Some(GenCap(0x40_915f_0107)));
    assert_eq!((device.pasid_enabled, device.configurable), (Some(true), Some(true)));
    assert_eq!((device.cdev_major, device.cmd_status.as_deref()), (Some(511), Some("0x0")));
    assert_eq!((device.max_transfer_size, device.max_batch_size), (Some(1 << 31), Some(1024)));
    assert_eq!((device.max_work_queues, device.max_work_queues_size), (Some(8), Some(128)));
    assert_eq!(
        (device.max_engines, device.max_groups, device.max_read_buffers),
        (Some(4), Some(4), Some(96))
    );
    assert_eq!((device.read_buffer_limit, device.clients, device.event_log_size), (Some(0), Some(0), None));
    assert_eq!(device.errors.as_deref().map(str::len), Some(67));
    let engines: Vec<_> = device.engines.iter().map(|engine| (engine.number, engine.group_id)).collect();
    assert_eq!(engines, [(0, Some(0)), (1, None)]);
    assert_eq!((device.groups[0].traffic_class_a, device.groups[0].traffic_class_b), (Some(1), Some(0)));

    let queue = find(&snapshot, "wq0.1");
    assert_eq!(queue.notes, [""; 0]);
    assert!(queue.usable());
    assert_eq!(queue.node, tree.paths.dev.join("wq0.1"));
    assert_eq!((queue.device, queue.number, queue.version), (0, 1, Some(0x100)));
    assert_eq!(
        (queue.mode, queue.kind, queue.state),
        (Some(Mode::Shared), Some(Kind::User), Some(State::Enabled))
    );
    assert_eq!((queue.label.as_deref(), queue.driver_name.as_deref()), (Some("uraid-s0"), Some("user")));
    assert_eq!((queue.size, queue.threshold, queue.priority), (Some(32), Some(28), Some(10)));
    assert_eq!((queue.group_id, queue.cdev_minor, queue.occupancy), (Some(0), Some(3), Some(0)));
    assert_eq!(
        (queue.block_on_fault, queue.ats_disable, queue.prs_disable),
        (Some(false), Some(false), Some(false))
    );
    assert_eq!(queue.max_transfer, 2 << 20);
    assert_eq!(queue.max_batch, 0, "the driver hides BATCH on this device");
    assert!(queue.ops.contains(Opcode::Memmove) && !queue.ops.contains(Opcode::Batch));
    assert_eq!(find(&snapshot, "wq2.5").max_batch, 32);
    assert!(snapshot.queues().all(|queue| !queue.xor), "nothing computes parity");
}

#[test]
fn a_queue_does_what_both_it_and_its_device_do() {
    let tree = Tree::usual();
    // Copies and fills.
    tree.set("dsa2/wq2.5/op_config", "00000000,00000018");
    let only: Vec<u8> = find(&tree.scan(), "wq2.5").ops.numbers().collect();
    assert_eq!(only, [3, 4]);
    tree.remove("dsa2/op_cap");
    let only: Vec<u8> = find(&tree.scan(), "wq2.5").ops.numbers().collect();
    assert_eq!(only, [3, 4]);
    tree.set("dsa0/max_transfer_size", "4096");
    assert_eq!(find(&tree.scan(), "wq0.0").max_transfer, 4096);
}

#[test]
fn queues_may_be_linked_beside_their_device_only() {
    let tree = Tree::usual();
    let inside = tree.paths.sysfs.join("dsa0/wq0.1");
    let apart = tree.root.path().join("elsewhere");
    std::fs::rename(inside, &apart).unwrap();
    std::os::unix::fs::symlink(&apart, tree.paths.sysfs.join("wq0.1")).unwrap();
    let snapshot = tree.scan();
    assert!(find(&snapshot, "wq0.1").usable());
    assert!(engine_dsa::discover::health(&tree.paths, find(&snapshot, "wq0.1")).is_up());
    // A link to what is inside as well is the same queue.
    std::os::unix::fs::symlink(tree.paths.sysfs.join("dsa0/wq0.0"), tree.paths.sysfs.join("wq0.0")).unwrap();
    assert_eq!(tree.scan().queues().count(), 4);
}

#[test]
fn third_version_words_do_not_make_a_queue_compute_parity() {
    let tree = Tree::usual();
    tree.set("dsa2/version", "0x300");
    tree.set("dsa2/dsacaps", "ffffffffffffffff,ffffffffffffffff,ffffffffffffffff");
    let snapshot = tree.scan();
    assert_eq!(snapshot.devices[1].version, Some(0x300));
    assert_eq!(snapshot.devices[1].dsacaps.map(|caps| caps.words), Some([u64::MAX; 3]));
    assert!(!find(&snapshot, "wq2.5").xor);
}

#[test]
fn no_driver_is_no_error_but_a_note() {
    let tree = Tree::empty();
    assert_eq!(tree.scan().devices.len(), 0);
    assert!(tree.scan().notes.is_empty());
    let nowhere = Paths { sysfs: tree.root.path().join("nowhere"), ..tree.paths.clone() };
    let snapshot = engine_dsa::discover::scan(&nowhere);
    assert!(snapshot.devices.is_empty());
    assert!(snapshot.notes[0].contains("idxd"), "{:?}", snapshot.notes);
}

#[test]
fn default_paths() {
    let paths = Paths::default();
    assert_eq!(paths.sysfs.to_str(), Some("/sys/bus/dsa/devices"));
    assert_eq!(paths.dev.to_str(), Some("/dev/dsa"));
    // This process's environment is not set up for a fake tree.
    if std::env::var_os(engine_dsa::discover::SYSFS_VARIABLE).is_none() {
        assert_eq!(Paths::from_env().sysfs, paths.sysfs);
    }
}
