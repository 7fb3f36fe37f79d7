//! What is near, what changes, and a short look at health.

use engine_dsa::discover::{Changes, Distances, State, health};

use super::tree::{OPS_1, Tree, find};

fn order(tree: &Tree, node: Option<u32>) -> Vec<String> {
    let distances = Distances::read(&tree.paths.nodes, node);
    tree.scan().usable(&distances).into_iter().map(|queue| queue.name.clone()).collect()
}

#[test]
fn the_nearest_come_first() {
    let tree = Tree::usual();
    assert_eq!(order(&tree, Some(0)), ["wq0.0", "wq0.1", "wq2.5"]);
    assert_eq!(order(&tree, Some(1)), ["wq2.5", "wq0.0", "wq0.1"]);
    // Of no node all are equally near: dedicated ones, then large ones.
    assert_eq!(order(&tree, None), ["wq0.0", "wq2.5", "wq0.1"]);
    // Of a node that the system does not describe, all others are equally far.
    assert_eq!(order(&tree, Some(7)), ["wq0.0", "wq2.5", "wq0.1"]);
}

#[test]
fn distances_are_told_or_guessed() {
    let tree = Tree::usual();
    let distances = Distances::read(&tree.paths.nodes, Some(0));
    assert_eq!([Some(0), Some(1), Some(2), None].map(|node| distances.to(node)), [10, 21, 20, 10]);
    let guessed = Distances::read(&tree.root.path().join("nowhere"), Some(1));
    assert_eq!([Some(0), Some(1), None].map(|node| guessed.to(node)), [20, 10, 10]);
    // A device that belongs to no node is near everywhere.
    tree.set("dsa2/numa_node", "-1");
    assert_eq!(find(&tree.scan(), "wq2.5").numa_node, None);
    assert_eq!(order(&tree, Some(0)), ["wq0.0", "wq2.5", "wq0.1"]);
}

#[test]
fn queues_come_go_and_change() {
    let tree = Tree::usual();
    let before = tree.scan();
    tree.set("dsa0/wq0.0/occupancy", "17");
    tree.set("dsa0/wq0.0/clients", "2");
    assert!(before.changes(&tree.scan()).is_empty(), "how full a queue is, is no change");

    tree.device(6, "0x100", OPS_1, 0);
    tree.queue("wq6.3", "shared", "uraid-s6", 8);
    tree.remove("dsa2");
    tree.set("dsa0/wq0.1/state", "disabled");
    let after = tree.scan();
    let changes = before.changes(&after);
    assert_eq!(changes.added, [find(&after, "wq6.3").clone()]);
    assert_eq!(changes.removed, ["wq2.5"]);
    assert_eq!(changes.changed, [find(&after, "wq0.1").clone()]);
    assert!(!changes.changed[0].usable());

    let back = after.changes(&before);
    assert_eq!((back.added.len(), back.removed.as_slice()), (1, ["wq6.3".to_owned()].as_slice()));
    assert_eq!(before.changes(&before), Changes::default());
}

#[test]
fn health_is_read_anew() {
    let tree = Tree::usual();
    let snapshot = tree.scan();
    let queue = find(&snapshot, "wq0.0");
    assert!(health(&tree.paths, queue).is_up());
    tree.set("dsa0/state", "halted");
    let now = health(&tree.paths, queue);
    assert_eq!((now.device, now.queue, now.is_up()), (Some(State::Halted), Some(State::Enabled), false));
    tree.set("dsa0/state", "enabled");
    tree.set("dsa0/wq0.0/state", "disabled");
    assert!(!health(&tree.paths, queue).is_up());
    tree.remove("dsa0/wq0.0");
    assert_eq!(health(&tree.paths, queue).queue, None);
    tree.remove("dsa0");
    assert_eq!(health(&tree.paths, queue).device, None);
}
