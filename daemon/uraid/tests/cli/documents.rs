//! docs/json.md against what is printed: no field undocumented, no documented field gone.

use std::collections::BTreeSet;

use serde_json::Value;

use uraid::events::EventCounters;
use uraid::metrics;

use crate::status::example_status;
use crate::support::Bench;

const DOCUMENT: &str = include_str!("../../../../docs/json.md");
const METRICS_DOCUMENT: &str = include_str!("../../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../../docs/grafana-uraid.json");

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

/// The metrics of an array at work.
fn example_metrics() -> String {
    let (status, events) = (example_status(), EventCounters::default());
    let started = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_364_150);
    metrics::text(&metrics::Source { status: &status, events: &events, started })
}

#[test]
fn metrics_are_documented() {
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `uraid_")?.split(" | ");
        let name = format!("uraid_{}", cells.next()?.trim_end_matches('`'));
        Some((name, cells.next()?.to_owned()))
    };
    let documented: BTreeSet<_> = METRICS_DOCUMENT.lines().filter_map(row).collect();
    let known: BTreeSet<_> =
        metrics::names().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    assert_eq!(known, documented);
}

/// What is written is what the table says: each metric once, with its kind before its samples.
#[test]
fn metrics_of_an_array_at_work_are_all_written() {
    let text = example_metrics();
    let mut of_type = Vec::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            of_type.push((name.to_owned(), kind.to_owned()));
        } else if !line.starts_with('#') {
            let (name, kind) = of_type.last().unwrap();
            let sample = line.split('{').next().unwrap();
            let suffix =
                sample.strip_prefix(name.as_str()).unwrap_or_else(|| panic!("{line} is under {name}"));
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
            assert!(line.contains("{array=\"data\""), "{line}");
        }
    }
    let known: Vec<_> = metrics::names().map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    assert_eq!(of_type, known);
    for line in [
        "uraid_array_state{array=\"data\",state=\"rebuilding\"} 1",
        "uraid_array_state{array=\"data\",state=\"clean\"} 0",
        "uraid_member_state{array=\"data\",member=\"/m/b\",state=\"failed\"} 1",
        "uraid_member_role{array=\"data\",member=\"/m/d\"} 1",
        "uraid_client_operation_duration_seconds_bucket{array=\"data\",op=\"read\",le=\"0.000008\"} 9",
        "uraid_client_operation_duration_seconds_bucket{array=\"data\",op=\"read\",le=\"+Inf\"} 10",
        "uraid_client_operation_duration_seconds_sum{array=\"data\",op=\"read\"} 0.0001",
        "uraid_sync_remaining_seconds{array=\"data\",kind=\"rebuild\"} 4",
        "uraid_engine_state{array=\"data\",engine=\"dsa wq0.0\",state=\"quarantined\"} 1",
        "uraid_start_time_seconds{array=\"data\"} 1795364150",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }
}

/// Every metric that the dashboard names exists.
#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let known: BTreeSet<String> = metrics::names()
        .flat_map(|(name, kind)| match kind {
            "histogram" => vec![format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count")],
            _ => vec![name.to_owned()],
        })
        .collect();
    let mut named = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let words =
                target["expr"].as_str().unwrap().split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            named.extend(words.filter(|word| word.starts_with("uraid_")).map(str::to_owned));
        }
    }
    assert!(named.len() > 20, "{named:?}");
    assert!(named.is_subset(&known), "{:?}", named.difference(&known));
    let text = dashboard.to_string();
    assert!(text.contains("label_values(uraid_array_state, array)") && dashboard["title"] == "uraid");
}

#[test]
fn examine_is_documented() {
    let bench = Bench::new();
    bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]).ok();
    // Between them these have everything that may be there.
    let beside = ["r5_n4to5_ls_c64k_midreshape", "r5_n4_ls_c64k_dirty_bitmap", "r5_n4_ls_c64k_dirty_ppl"];
    let mut members: Vec<String> = beside.iter().map(|array| bench.golden(array, 0)).collect();
    members.push(bench.golden("r5_n4_ls_c64k_badblocks", 1));
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let run = bench.uraid(&[&["examine", "--json", "a", "none"], &members[..]].concat());
    let json: Value = serde_json::from_str(&run.stdout).unwrap();
    let mut printed = BTreeSet::new();
    fields("", &json, &mut printed);
    assert_eq!(printed, documented("`uraid examine --json`"));
}

#[test]
fn assemble_is_documented() {
    let bench = Bench::new();
    bench.uraid(&["create", "--level", "5", "--name", "v", "--size", "32M", "a", "b", "c"]).ok();
    let run = bench.uraid(&["assemble", "--json", "--directory", "none", "v", "a", "b", "c"]);
    let json: Value = serde_json::from_str(&run.ok()).unwrap();
    let mut printed = BTreeSet::new();
    fields("", &json, &mut printed);
    assert_eq!(printed, documented("`uraid assemble --json`"));
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
        "write_zeroes",
        "write_meta",
    ] {
        assert!(DOCUMENT.contains(&format!("`{word}`")), "docs/json.md does not say `{word}`");
    }
}
