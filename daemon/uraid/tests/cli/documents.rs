//! docs/json.md against what is printed: no field undocumented, no documented field gone.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::status::example_status;
use crate::support::Bench;

const DOCUMENT: &str = include_str!("../../../../docs/json.md");

/// The fields in the first column of the tables of one chapter, as `path.to.field`.
fn documented(chapter: &str) -> BTreeSet<String> {
    let start = DOCUMENT.find(&format!("\n## {chapter}\n")).unwrap_or(DOCUMENT.len());
    let text = DOCUMENT.get(start + 1..).unwrap_or_default();
    let text = text.get(..text.find("\n#").unwrap_or(text.len())).unwrap_or_default();
    let field = |line: &str| line.strip_prefix("| `")?.split_once('`').map(|(field, _)| field.to_owned());
    text.lines().filter_map(field).collect()
}

/// All fields of a value; `[]` stands for the entries of a list, `*` for the keys of a map of words.
fn fields(prefix: &str, value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if prefix == "kernels" => out.extend(map.keys().map(|_| "kernels.*".to_owned())),
        Value::Object(map) => {
            for (key, value) in map {
                let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                fields(&path, value, out);
                out.insert(path);
            }
        }
        Value::Array(list) => list.iter().for_each(|item| fields(&format!("{prefix}[]"), item, out)),
        _ => {}
    }
}

#[test]
fn status_is_documented() {
    let json: Value = serde_json::from_str(&uraid::status::to_json(&example_status()).unwrap()).unwrap();
    let mut printed = BTreeSet::new();
    fields("", &json, &mut printed);
    assert_eq!(printed, documented("`uraid status --json`"));
}

#[test]
fn examine_is_documented() {
    let bench = Bench::new();
    bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]).ok();
    let run = bench.uraid(&["examine", "--json", "a", "none"]);
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let mut printed = BTreeSet::new();
    fields("", &json, &mut printed);
    assert_eq!(printed, documented("`uraid examine --json`"));
}

#[test]
fn kernels_are_documented() {
    let run = Bench::new().uraid(&["kernels", "--json", "--quick"]);
    let json: Value = serde_json::from_str(&run.ok()).unwrap();
    let mut printed = BTreeSet::new();
    fields("", &json, &mut printed);
    // What has entries depends on the machine: without a word of the system about caches there are none.
    let caches = |path: &&String| path.starts_with("cpu.caches[].");
    let documented = documented("`uraid kernels --json`");
    if json["cpu"]["caches"].as_array().is_some_and(Vec::is_empty) {
        printed.extend(documented.iter().filter(caches).cloned());
    }
    assert_eq!(printed, documented);
}

/// The model of a device serves no queue here, so what is said of one that works comes from the tests from
/// end to end; a tree in which one is described is enough for the rest.
#[test]
fn engines_are_documented() {
    let bench = Bench::new();
    let queue = bench.path("sysfs/dsa0/wq0.0");
    std::fs::create_dir_all(&queue).unwrap();
    std::fs::write(bench.path("sysfs/dsa0/version"), "0x100\n").unwrap();
    // Queues are listed beside their device, too, as the driver does.
    std::os::unix::fs::symlink("dsa0/wq0.0", bench.path("sysfs/wq0.0")).unwrap();
    let run = bench.uraid_with(&["engines", "--json", "--quick"], &[("URAID_DSA_SYSFS_PATH", "sysfs")]);
    let json: Value = serde_json::from_str(&run.ok()).unwrap();
    let mut printed = BTreeSet::new();
    fields("", &json, &mut printed);
    assert!(printed.contains("devices[].queues[].obstacles"), "{json:#}");
    let mut documented = documented("`uraid engines --json`");
    documented.retain(|path| !path.starts_with("devices[].queues[].offload[]."));
    assert_eq!(printed, documented);
}

#[test]
fn the_words_of_the_protocol_are_documented() {
    for word in [
        "clean",
        "active",
        "resyncing",
        "rebuilding",
        "degraded",
        "broken",
        "stopping",
        "in_sync",
        "spare",
        "failed",
        "missing",
        "bad_request",
        "unsupported_version",
        "not_found",
        "refused",
        "absent",
        "damaged",
        "unsupported",
        "too_small",
        "unreadable",
        "journal",
        "hot",
        "l3",
        "memory",
        "gen_pq",
        "xor",
        "check_pq",
        "recover_two",
        "update",
        "preferred",
        "fastest",
        "not_measured",
        "named",
        "cycle",
        "data",
        "instruction",
        "unified",
        "good",
        "quarantined",
        "leaving",
        "mismatch",
        "giving_up_late",
        "revived",
        "removed",
        "dedicated",
        "shared",
        "socket",
    ] {
        assert!(DOCUMENT.contains(&format!("`{word}`")), "docs/json.md does not say `{word}`");
    }
}
