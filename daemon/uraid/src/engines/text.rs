//! The report about this machine for people.

use super::report::{DeviceReport, EnginesReport, OffloadReport, QueueReport};
use crate::human;

/// All of it.
pub(super) fn engines(report: &EnginesReport) -> String {
    let cpu = &report.cpu;
    let kernel = cpu.kernel.unwrap_or("all in turn");
    let crc = cpu.crc32c.map_or(String::new(), |crc| format!(" (and {crc} for CRC-32C)"));
    let mut lines = vec![
        format!("CPU      {kernel}{crc}: {}", cpu.message),
        "         Parity is always computed here: no DSA that there is has XOR or P+Q.".to_owned(),
        format!("DSA      {}", found(report)),
    ];
    lines.extend(report.notes.iter().map(|note| format!("         {note}")));
    if !report.optimised && report.devices.iter().any(|device| !device.queues.is_empty()) {
        lines.push(
            "         This is a debug build: what is measured is not what a release build gives.".to_owned(),
        );
    }
    for device in &report.devices {
        lines.push(String::new());
        lines.extend(device_lines(device));
    }
    lines.join("\n") + "\n"
}

/// `2 devices, 3 work queues, 1 usable`
fn found(report: &EnginesReport) -> String {
    let queues = || report.devices.iter().flat_map(|device| &device.queues);
    let usable = queues().filter(|queue| queue.usable).count();
    match (report.devices.len(), queues().count()) {
        (0, _) => format!("no device in {}", report.sysfs),
        (devices, queues) => {
            format!("{}, {}, {usable} usable", several(devices, "device"), several(queues, "work queue"))
        }
    }
}

fn several(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn device_lines(device: &DeviceReport) -> Vec<String> {
    let version =
        device.version.as_ref().map_or("of an unknown version".to_owned(), |v| format!("version {v}"));
    let mut about = vec![version, device.state.clone().unwrap_or_else(|| "in an unknown state".to_owned())];
    about.extend(device.numa_node.map(|node| format!("memory node {node}")));
    about.extend(device.max_transfer_bytes.map(|bytes| format!("transfers up to {}", human::bytes(bytes))));
    let mut lines = vec![format!("{}: {}", device.name, about.join(", "))];
    lines.extend(device.notes.iter().map(|note| format!("  note: {note}")));
    if device.queues.is_empty() {
        lines.push("  no work queue is configured: accel-config does that, see docs/dsa.md".to_owned());
    }
    lines.extend(device.queues.iter().flat_map(queue_lines));
    lines
}

fn queue_lines(queue: &QueueReport) -> Vec<String> {
    let mut about = Vec::new();
    about.extend(queue.label.iter().filter(|label| !label.is_empty()).map(|label| format!("{label:?}")));
    about.extend(queue.mode.clone());
    about.extend(
        queue
            .entries
            .map(|entries| if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }),
    );
    about.push(match queue.max_batch {
        0 | 1 => "no batches".to_owned(),
        most => format!("batches of up to {most}"),
    });
    about.push(format!("transfers up to {}", human::bytes(queue.max_transfer_bytes)));
    let mut lines = vec![format!("  {}: {}", queue.name, about.join(", "))];
    let mut detail = |text: String| lines.push(format!("    {text}"));
    if queue.operations.is_empty() {
        detail("does nothing that is known here".to_owned());
    } else {
        detail(format!("does {}", queue.operations.join(", ")));
    }
    for note in &queue.notes {
        detail(format!("note: {note}"));
    }
    if queue.usable {
        detail(format!("usable, by {}", queue.method.unwrap_or("nothing")));
        let mut words: Vec<String> = queue.offload.iter().map(offload_words).collect();
        let measured = |word: &&str| queue.offload.iter().any(|offload| offload.operation == *word);
        let measurable = queue.operations.iter().copied().filter(|word| !matches!(*word, "batch" | "dif"));
        words.extend(measurable.filter(|word| !measured(word)).map(|word| format!("{word} not measured")));
        detail(format!("pays: {}", words.join(", ")));
        match &queue.measured {
            Some(measured) if measured != "complete" => detail(format!("measuring was {measured}")),
            _ => {}
        }
    }
    for obstacle in &queue.obstacles {
        detail(format!("not usable: {obstacle}"));
    }
    lines
}

/// `copy from 64.0 KiB on`
fn offload_words(offload: &OffloadReport) -> String {
    match offload.from_bytes {
        Some(bytes) => format!("{} from {} on", offload.operation, human::bytes(bytes)),
        None => format!("{} never", offload.operation),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::CpuReport;
    use super::*;

    fn queue(name: &str, usable: bool) -> QueueReport {
        QueueReport {
            name: name.to_owned(),
            label: Some("uraid0".to_owned()),
            node: format!("/dev/dsa/{name}"),
            mode: Some("dedicated".to_owned()),
            state: Some("enabled".to_owned()),
            entries: Some(16),
            threshold: None,
            max_transfer_bytes: 2 << 20,
            max_batch: 0,
            operations: vec!["copy", "fill", "crc32c", "dif"],
            usable,
            obstacles: if usable {
                vec![]
            } else {
                vec!["it is broken: mend it".to_owned(), "twice".to_owned()]
            },
            notes: vec![],
            method: usable.then_some("write"),
            measured: usable.then(|| "complete".to_owned()),
            offload: [("copy", Some(65536)), ("fill", None)]
                .into_iter()
                .filter(|_| usable)
                .map(|(operation, from_bytes)| OffloadReport { operation, from_bytes, samples: vec![] })
                .collect(),
        }
    }

    fn report(devices: Vec<DeviceReport>, notes: Vec<String>) -> EnginesReport {
        let message = "preferred among those that this CPU can run".to_owned();
        EnginesReport {
            version: 1,
            cpu: CpuReport { kernel: Some("avx2"), crc32c: Some("sse42"), message },
            sysfs: "/sys/x".to_owned(),
            dev: "/dev/x".to_owned(),
            optimised: true,
            notes,
            devices,
        }
    }

    fn device(queues: Vec<QueueReport>) -> DeviceReport {
        DeviceReport {
            name: "dsa0".to_owned(),
            version: Some("1.0".to_owned()),
            state: Some("enabled".to_owned()),
            numa_node: Some(1),
            operations: vec!["copy", "fill"],
            max_transfer_bytes: Some(2 << 30),
            notes: vec![],
            queues,
        }
    }

    #[test]
    fn it_reads_well() {
        let text = engines(&report(vec![device(vec![queue("wq0.0", true), queue("wq0.1", false)])], vec![]));
        let expected = "\
CPU      avx2 (and sse42 for CRC-32C): preferred among those that this CPU can run
         Parity is always computed here: no DSA that there is has XOR or P+Q.
DSA      1 device, 2 work queues, 1 usable

dsa0: version 1.0, enabled, memory node 1, transfers up to 2.0 GiB
  wq0.0: \"uraid0\", dedicated, 16 entries, no batches, transfers up to 2.0 MiB
    does copy, fill, crc32c, dif
    usable, by write
    pays: copy from 64.0 KiB on, fill never, crc32c not measured
  wq0.1: \"uraid0\", dedicated, 16 entries, no batches, transfers up to 2.0 MiB
    does copy, fill, crc32c, dif
    not usable: it is broken: mend it
    not usable: twice
";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_is_said_too() {
        let text = engines(&report(vec![], vec!["/sys/x cannot be read".to_owned()]));
        assert!(text.contains("DSA      no device in /sys/x\n         /sys/x cannot be read\n"), "{text}");
        let text = engines(&report(vec![device(vec![])], vec![]));
        assert!(text.contains("1 device, 0 work queues, 0 usable"), "{text}");
        assert!(text.contains("no work queue is configured"), "{text}");
    }
}
