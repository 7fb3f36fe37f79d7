//! Makes a case that fails smaller, as long as it fails.

use crate::attempt;
use crate::case::Case;
use crate::node::Node;

/// Attempts, at most.
const BUDGET: usize = 3000;

/// The smallest case found that fails, and how.
pub(crate) fn shrink(mut case: Case, mut what: String) -> (Case, String) {
    // Each panic inside an attempt would print itself.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut budget = BUDGET;
    'again: while budget > 0 {
        for smaller in candidates(&case) {
            budget = budget.saturating_sub(1);
            if let Err(failed) = attempt(&smaller) {
                (case, what) = (smaller, failed);
                continue 'again;
            }
            if budget == 0 {
                break;
            }
        }
        break;
    }
    std::panic::set_hook(hook);
    (case, what)
}

/// All cases that are one step smaller, large steps first.
fn candidates(case: &Case) -> Vec<Case> {
    let mut smaller = Vec::new();
    let mut with = |change: &dyn Fn(&mut Case)| {
        let mut changed = case.clone();
        change(&mut changed);
        smaller.push(changed);
    };
    for i in 0..case.groups.len() {
        with(&|case| drop(case.groups.remove(i)));
    }
    if case.devices.len() > 1 {
        for i in 0..case.devices.len() {
            with(&|case| drop(case.devices.remove(i)));
        }
    }
    for (i, group) in case.groups.iter().enumerate() {
        for (j, chain) in group.chains.iter().enumerate() {
            if group.chains.len() > 1 {
                with(&|case| drop(case.groups[i].chains.remove(j)));
            }
            for k in 0..chain.len() {
                with(&|case| remove(&mut case.groups[i].chains[j], k));
            }
            if chain.iter().any(|node| !node.deps.is_empty()) {
                with(&|case| case.groups[i].chains[j].iter_mut().for_each(|node| node.deps.clear()));
            }
        }
    }
    for (i, device) in case.devices.iter().enumerate() {
        let plan = &device.config.faults;
        for j in 0..plan.rules.len() {
            with(&|case| case.devices[i].config.faults = case.devices[i].config.faults.clone().without(j));
        }
        if plan.reorder > 0 {
            with(&|case| case.devices[i].config.faults.reorder = 0);
        }
        if plan.op_cap_after_reset.is_some() {
            with(&|case| case.devices[i].config.faults.op_cap_after_reset = None);
        }
        if device.unplugged.is_some() {
            with(&|case| case.devices[i].unplugged = None);
        }
        if device.config.poison {
            with(&|case| case.devices[i].config.poison = false);
        }
    }
    if case.dropped.is_some() {
        with(&|case| case.dropped = None);
    }
    if case.batch > 1 {
        with(&|case| case.batch = 1);
    }
    smaller
}

/// Takes a node out; those that depended on it depend on what it did.
fn remove(nodes: &mut Vec<Node>, index: usize) {
    let removed = nodes.remove(index);
    for node in nodes.iter_mut().skip(index) {
        if node.deps.contains(&index) {
            node.deps.extend(&removed.deps);
        }
        node.deps.retain(|dep| *dep != index);
        node.deps.iter_mut().filter(|dep| **dep > index).for_each(|dep| *dep -= 1);
    }
}
