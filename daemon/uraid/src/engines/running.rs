//! What a daemon said about its engines, for people.

use crate::control::engines::{BackendOperation, BackendStatus, CpuOperation, EnginesStatus};
use crate::human;

/// Alerts that are shown.
const ALERTS_SHOWN: usize = 10;

/// All of it, for `uraid engines NAME`.
pub(super) fn engines(name: &str, engines: &EnginesStatus) -> String {
    let check = match engines.cross_check {
        0 => "no cross-checks".to_owned(),
        1 => "each operation cross-checked".to_owned(),
        every => format!("one operation in {every} cross-checked"),
    };
    let mut lines = vec![
        format!("{name} : dsa = {:?}, {check}, given up after {} ms", engines.dsa, engines.timeout_ms),
        format!("  {} compute plans, {} failed", engines.chains, engines.chains_failed),
        format!("  CPU ({}), by operation:", engines.cpu),
    ];
    if engines.operations.is_empty() {
        lines.push("    nothing yet".to_owned());
    }
    lines.extend(engines.operations.iter().map(cpu_line));
    lines.extend(engines.backends.iter().flat_map(backend_lines));
    lines
        .extend(engines.unused.iter().map(|queue| format!("  {} is not used: {}", queue.name, queue.reason)));
    if engines.stray_completions > 0 {
        lines.push(format!("  {} completions that nobody waited for", engines.stray_completions));
    }
    let skipped = engines.alerts.len().saturating_sub(ALERTS_SHOWN);
    if !engines.alerts.is_empty() {
        let note =
            if skipped > 0 { format!(" (the last of {})", engines.alerts.len()) } else { String::new() };
        lines.push(format!("  what happened{note}:"));
    }
    let shown = engines.alerts.iter().skip(skipped);
    lines.extend(shown.map(|alert| format!("    {} {}", human::utc(alert.at), alert.message)));
    lines.join("\n") + "\n"
}

/// A few lines for `uraid status`: nothing where no work queue is in use, else how they do.
pub(crate) fn summary(engines: &EnginesStatus) -> Vec<String> {
    let used = engines.backends.iter().filter(|backend| backend.health != "leaving");
    used.map(|backend| {
        let bytes: u64 = backend.operations.iter().map(|operation| operation.bytes).sum();
        let mut line = format!(
            "      engine  {}: {} operations, {}",
            backend.name,
            backend.completed,
            human::bytes(bytes)
        );
        if backend.quarantines > 0 {
            line += &format!(
                ", set aside {} times, back {} times, {} operations done again on the CPU",
                backend.quarantines, backend.revived, backend.failed
            );
        }
        if backend.health == "quarantined" {
            let why = backend.last_fault.as_deref().unwrap_or("it failed");
            line += &format!("; set aside now ({why}): the CPU does its work until it works again");
        }
        line
    })
    .collect()
}

/// `    copy         120, done again 3, too_short 117`
fn cpu_line(operation: &CpuOperation) -> String {
    let mut parts = vec![format!("    {:12} {}", operation.operation, operation.count)];
    if operation.retries > 0 {
        parts.push(format!("done again {}", operation.retries));
    }
    parts.extend(operation.reasons.iter().map(|reason| format!("{} {}", reason.reason, reason.count)));
    parts.join(", ")
}

fn backend_lines(backend: &BackendStatus) -> Vec<String> {
    let by = backend.method.as_ref().map_or(String::new(), |method| format!(", by {method}"));
    let fault = match (&backend.last_fault, backend.health.as_str()) {
        (Some(fault), "quarantined") => format!(", for {fault}"),
        (Some(fault), _) => format!(", the last fault was {fault}"),
        (None, _) => String::new(),
    };
    let mut lines = vec![format!("  {} ({}{by}{fault}):", backend.name, backend.health)];
    lines.extend(backend.operations.iter().map(operation_line));
    let counts = [
        ("in hand", backend.in_hand),
        ("waiting for company", backend.pending),
        ("no room", backend.queue_full),
        ("handed over", backend.batches),
        ("behind a fence", backend.fences),
        ("too late", backend.timeouts),
        ("given up", backend.aborted),
        ("abandoned", backend.abandoned),
        ("declined", backend.declined),
        ("set aside", backend.quarantines),
        ("back", backend.revived),
        ("cross-checks", backend.cross_checks),
        ("mismatches", backend.mismatches),
    ];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    let counts: Vec<String> = counts.map(|(word, count)| format!("{word} {count}")).collect();
    if !counts.is_empty() {
        lines.push(format!("    {}", counts.join(", ")));
    }
    lines
}

/// `    copy         from 64.0 KiB on: 120 taken, 119 done, 1 failed, 7.5 MiB`
fn operation_line(operation: &BackendOperation) -> String {
    let BackendOperation { submitted, completed, failed, .. } = operation;
    let from =
        operation.from_bytes.map_or("never".to_owned(), |bytes| format!("from {} on", human::bytes(bytes)));
    let bytes = human::bytes(operation.bytes);
    let name = &operation.operation;
    format!("    {name:12} {from}: {submitted} taken, {completed} done, {failed} failed, {bytes}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::engines::{AlertStatus, ReasonCount, UnusedQueue};

    fn busy() -> EnginesStatus {
        EnginesStatus {
            dsa: "auto".to_owned(),
            cpu: "avx2".to_owned(),
            cross_check: 10,
            timeout_ms: 100,
            chains: 200,
            operations: vec![CpuOperation {
                operation: "copy".to_owned(),
                count: 120,
                retries: 3,
                reasons: vec![ReasonCount { reason: "too_short".to_owned(), count: 117 }],
            }],
            backends: vec![BackendStatus {
                name: "dsa wq0.0".to_owned(),
                health: "quarantined".to_owned(),
                last_fault: Some("copy: the device is gone".to_owned()),
                method: Some("write".to_owned()),
                submitted: 50,
                completed: 47,
                failed: 3,
                batches: 20,
                quarantines: 2,
                revived: 1,
                operations: vec![BackendOperation {
                    operation: "copy".to_owned(),
                    from_bytes: Some(65536),
                    submitted: 50,
                    completed: 47,
                    failed: 3,
                    bytes: 50 << 16,
                }],
                ..BackendStatus::default()
            }],
            unused: vec![UnusedQueue { name: "wq0.1".to_owned(), reason: "it is disabled".to_owned() }],
            alerts: vec![AlertStatus {
                at: 0,
                backend: "dsa wq0.0".to_owned(),
                kind: "quarantined".to_owned(),
                message: "dsa wq0.0: copy: the device is gone".to_owned(),
            }],
            ..EnginesStatus::default()
        }
    }

    #[test]
    fn it_reads_well() {
        let expected = "\
data : dsa = \"auto\", one operation in 10 cross-checked, given up after 100 ms
  200 compute plans, 0 failed
  CPU (avx2), by operation:
    copy         120, done again 3, too_short 117
  dsa wq0.0 (quarantined, by write, for copy: the device is gone):
    copy         from 64.0 KiB on: 50 taken, 47 done, 3 failed, 3.1 MiB
    handed over 20, set aside 2, back 1
  wq0.1 is not used: it is disabled
  what happened:
    1970-01-01 00:00:00 UTC dsa wq0.0: copy: the device is gone
";
        assert_eq!(engines("data", &busy()), expected);
    }

    #[test]
    fn the_status_says_how_work_queues_do() {
        let mut said = busy();
        let expected = "      engine  dsa wq0.0: 47 operations, 3.1 MiB, set aside 2 times, back 1 times, \
                        3 operations done again on the CPU; set aside now (copy: the device is gone): the CPU \
                        does its work until it works again";
        assert_eq!(summary(&said), [expected]);
        said.backends.clear();
        assert!(summary(&said).is_empty());
    }
}
