//! Each thing that speaks against a queue, alone, and in words.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use engine_dsa::discover::{Kind, Obstacle, State};
use nix::unistd::geteuid;

use super::tree::{Tree, find};

/// What speaks against `wq0.0` while an attribute is set so. The tree is left as it was.
fn against(tree: &Tree, path: &str, value: &str) -> Vec<Obstacle> {
    let before = fs::read(tree.paths.sysfs.join(path)).ok();
    tree.set(path, value);
    let obstacles = find(&tree.scan(), "wq0.0").obstacles.clone();
    match before {
        Some(bytes) => tree.set_bytes(path, &bytes),
        None => tree.remove(path),
    }
    obstacles
}

#[test]
fn one_obstacle_at_a_time() {
    let tree = Tree::usual();
    let against = |path, value| against(&tree, path, value);
    let device = |state| Obstacle::Device { device: 0, state };
    let queue = |state| Obstacle::Queue { device: 0, queue: "wq0.0".into(), state };
    assert_eq!(against("dsa0/wq0.0/priority", "10"), []);
    assert_eq!(against("dsa0/state", "disabled"), [device(Some(State::Disabled))]);
    assert_eq!(against("dsa0/state", "halted"), [Obstacle::Halted(0)]);
    assert_eq!(against("dsa0/state", "melted"), [device(None)]);
    assert_eq!(against("dsa0/wq0.0/state", "disabled"), [queue(Some(State::Disabled))]);
    assert_eq!(against("dsa0/wq0.0/type", "kernel"), [Obstacle::Kind(Some(Kind::Kernel))]);
    assert_eq!(against("dsa0/wq0.0/type", "none"), [Obstacle::Kind(Some(Kind::None))]);
    assert_eq!(against("dsa0/wq0.0/name", "dpdk_q0"), [Obstacle::Label("dpdk_q0".into())]);
    assert_eq!(against("dsa0/wq0.0/name", ""), [Obstacle::Label(String::new())]);
    assert_eq!(against("dsa0/wq0.0/mode", "sharded"), [Obstacle::Mode]);
    assert_eq!(against("dsa0/wq0.0/size", "0"), [Obstacle::Size]);
    assert_eq!(against("dsa0/wq0.0/max_transfer_size", "0"), [Obstacle::Transfer]);
    assert_eq!(against("dsa0/op_cap", "00000001,003f03f5"), [Obstacle::NoCopy]);
    assert_eq!(against("dsa0/wq0.0/op_config", "0"), [Obstacle::NoCopy]);
    assert_eq!(against("dsa0/pasid_enabled", "0"), [Obstacle::NoPasid(0)]);
}

#[test]
fn the_words_say_what_to_do() {
    let tree = Tree::usual();
    let against = |path, value| against(&tree, path, value);
    let words =
        |path, value| against(path, value).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    assert_eq!(
        words("dsa0/state", "disabled"),
        "its device dsa0 is disabled: accel-config enable-device dsa0"
    );
    assert!(words("dsa0/state", "halted").contains("kernel log"));
    assert_eq!(
        words("dsa0/wq0.0/state", "disabled"),
        "the queue is disabled: accel-config enable-wq dsa0/wq0.0"
    );
    assert_eq!(words("dsa0/wq0.0/type", "kernel"), "the queue's type is kernel, not user");
    assert!(words("dsa0/wq0.0/name", "spdk").contains("\"uraid\""));
    assert!(words("dsa0/op_cap", "1").contains("MEMMOVE"));
    assert!(words("dsa0/pasid_enabled", "0").contains("intel_iommu=on,sm_on"));
}

#[test]
fn all_obstacles_are_told_at_once() {
    let tree = Tree::usual();
    let snapshot = tree.scan();
    let queue = find(&snapshot, "wq4.0");
    assert!(!queue.usable());
    assert_eq!(queue.obstacles.len(), 2, "device and queue are disabled: {:?}", queue.obstacles);
}

#[test]
fn a_node_that_is_missing_or_closed() {
    let tree = Tree::usual();
    let node = tree.paths.dev.join("wq0.0");
    fs::remove_file(&node).unwrap();
    assert_eq!(find(&tree.scan(), "wq0.0").obstacles, [Obstacle::Missing(node.clone())]);
    // A dangling link is no node.
    std::os::unix::fs::symlink("nothing", &node).unwrap();
    assert_eq!(find(&tree.scan(), "wq0.0").obstacles, [Obstacle::Missing(node.clone())]);
    fs::remove_file(&node).unwrap();
    fs::write(&node, "").unwrap();
    fs::set_permissions(&node, Permissions::from_mode(0o400)).unwrap();
    let obstacles = find(&tree.scan(), "wq0.0").obstacles.clone();
    if geteuid().is_root() {
        // Permissions do not bind root.
        assert_eq!(obstacles, []);
    } else {
        assert_eq!(obstacles, [Obstacle::Refused { path: node, errno: libc::EACCES }]);
        assert!(obstacles[0].to_string().contains("udev"));
    }
}
