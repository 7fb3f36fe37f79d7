//! Which queue is near, and what has changed between two looks.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::Path;

use super::attributes::read;
use super::{Mode, Queue, Snapshot};

/// Distance of a node to itself, by the convention of the firmware tables.
const LOCAL: u32 = 10;
/// Distance to another node that the system does not tell.
const REMOTE: u32 = 20;
/// The most nodes there can be.
const NODES_MAX: usize = 1024;

/// Distances from one memory node to the others, as the system tells them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Distances {
    node: Option<u32>,
    to: Vec<u32>,
}

impl Distances {
    /// From `node`, read below `nodes` (see [`super::Paths::nodes`]). What cannot be read is guessed: the
    /// node itself is near, any other is far. Without a node, everything is equally near.
    pub fn read(nodes: &Path, node: Option<u32>) -> Distances {
        let text = node.and_then(|node| read(&nodes.join(format!("node{node}/distance"))).ok());
        let to = text.unwrap_or_default();
        let to = to.split_whitespace().take(NODES_MAX).map_while(|word| word.parse().ok()).collect();
        Distances { node, to }
    }

    /// To a queue's node. What is equally near to all nodes is local.
    pub fn to(&self, node: Option<u32>) -> u32 {
        let (Some(from), Some(node)) = (self.node, node) else { return LOCAL };
        let told = usize::try_from(node).ok().and_then(|index| self.to.get(index)).copied();
        told.unwrap_or(if node == from { LOCAL } else { REMOTE })
    }
}

/// What is different in a later look.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Changes {
    /// Queues that were not there.
    pub added: Vec<Queue>,
    /// Names of queues that are gone.
    pub removed: Vec<String>,
    /// Queues that are set up in another way, or are usable now or no more: as they are now.
    pub changed: Vec<Queue>,
}

impl Changes {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Snapshot {
    /// The usable queues, the nearest first; among those equally near dedicated ones, then larger ones,
    /// then by device and number.
    pub fn usable(&self, distances: &Distances) -> Vec<&Queue> {
        let mut queues: Vec<&Queue> = self.queues().filter(|queue| queue.usable()).collect();
        // The sort is stable, and the queues come by device and number.
        queues.sort_by_key(|queue| {
            let shared = queue.mode != Some(Mode::Dedicated);
            (distances.to(queue.numa_node), shared, Reverse(queue.size))
        });
        queues
    }

    /// What is different in `later`. How full a queue was, and how many use it, does not count.
    pub fn changes(&self, later: &Snapshot) -> Changes {
        let before: BTreeMap<&str, &Queue> =
            self.queues().map(|queue| (queue.name.as_str(), queue)).collect();
        let mut changes = Changes::default();
        let mut seen: Vec<&str> = Vec::new();
        for queue in later.queues() {
            seen.push(&queue.name);
            match before.get(queue.name.as_str()) {
                None => changes.added.push(queue.clone()),
                Some(earlier) if set_up(earlier) != set_up(queue) => changes.changed.push(queue.clone()),
                Some(_) => {}
            }
        }
        let gone = before.keys().filter(|name| !seen.contains(name));
        changes.removed = gone.map(|name| (*name).to_owned()).collect();
        changes
    }
}

/// The queue without what changes from moment to moment.
fn set_up(queue: &Queue) -> Queue {
    Queue { occupancy: None, clients: None, notes: Vec::new(), ..queue.clone() }
}
