//! The configuration that is shipped for operators, against what discovery looks for and what a device has.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use engine_dsa::discover::PREFIX;
use serde_json::Value;

const CONFIGURATION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd/dsa/accel-config.json"));
const RULES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd/dsa/60-uraid-dsa.rules"));
const UNIT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../systemd/dsa/uraid-dsa.conf"));

fn queues() -> Vec<Value> {
    let all: Value = serde_json::from_str(CONFIGURATION).unwrap();
    all[0]["groups"][0]["grouped_workqueues"].as_array().unwrap().clone()
}

#[test]
fn its_queues_are_ones_that_discovery_takes() {
    let queues = queues();
    let text = |queue: &Value, key: &str| queue[key].as_str().unwrap().to_owned();
    let modes: Vec<_> = queues.iter().map(|queue| text(queue, "mode")).collect();
    assert_eq!(modes, ["dedicated", "shared"]);
    for queue in &queues {
        assert!(text(queue, "name").starts_with(PREFIX));
        assert_eq!((text(queue, "type"), text(queue, "driver_name")), ("user".into(), "user".into()));
        assert_eq!(queue["block_on_fault"], 0);
        // The kernel takes powers of two.
        for key in ["max_batch_size", "max_transfer_size"] {
            assert!(queue[key].as_u64().unwrap().is_power_of_two(), "{key}");
        }
    }
}

#[test]
fn its_numbers_fit_into_a_first_device() {
    let number = |queue: &Value, key: &str| queue[key].as_u64().unwrap();
    let queues = queues();
    let entries: u64 = queues.iter().map(|queue| number(queue, "size")).sum();
    assert!(entries <= 128, "such a device has 128 entries for all its queues");
    for queue in &queues {
        assert!((1..=15).contains(&number(queue, "priority")));
        let (size, threshold) = (number(queue, "size"), number(queue, "threshold"));
        // A shared queue keeps room for privileged users; a dedicated one has no threshold.
        let right = if queue["mode"] == "shared" { 1..size } else { 0..1 };
        assert!(right.contains(&threshold), "{queue}");
    }
}

#[test]
fn the_rule_names_uraids_queues_and_no_others() {
    let rule = RULES.lines().find(|line| !line.starts_with('#')).unwrap();
    for part in [
        "SUBSYSTEM==\"dsa\"",
        "KERNEL==\"dsa/wq*\"",
        &format!("ATTRS{{name}}==\"{PREFIX}*\""),
        "ATTRS{type}==\"user\"",
        "GROUP=\"uraid\"",
        "MODE=\"0660\"",
    ] {
        assert!(rule.contains(part), "{part} is not in {rule}");
    }
}

#[test]
fn the_unit_is_not_cut_off_from_the_members() {
    // One such line forbids all other devices to a unit that had no restrictions.
    assert!(!UNIT.lines().any(|line| line.starts_with("DeviceAllow")));
    assert!(UNIT.contains("#DeviceAllow=char-dsa rw") && UNIT.contains("\nLimitMEMLOCK="));
}
