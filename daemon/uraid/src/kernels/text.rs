//! The report for people.

use std::fmt::Write as _;

use raid6_simd::measure::Work;

use super::report::{Cache, CacheKind, Cpu, KernelChoice, KernelReport, KernelsReport, Set, Table};
use crate::human;

/// How wide the names of kernels are.
const NAME_WIDTH: usize = 12;

/// All of it.
pub(super) fn kernels(report: &KernelsReport) -> String {
    let mut lines = cpu_lines(&report.cpu);
    lines.push(String::new());
    lines.push("Kernels, the preferred one last:".to_owned());
    lines.extend(report.kernels.iter().map(kernel_line));
    lines.push(String::new());
    lines.extend(report.choices.iter().map(choice_line));
    let mut text = lines.join("\n") + "\n\n";
    if let Some(first) = report.measurements.first() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "GB/s: 10^9 bytes of data a second on one thread, the best of many short turns.\n\
             Stripes of {} data blocks of {}, P and Q; an update is of one block.\n\
             Sizes below are of all blocks together.",
            first.data_blocks,
            human::bytes(first.block_bytes as u64)
        );
        if !report.optimised {
            text += "This is a debug build: in a release build the rates are several times higher.\n";
        }
    }
    for table in &report.measurements {
        text.push('\n');
        text.push_str(&table_text(table, &report.cpu.caches));
    }
    text
}

fn cpu_lines(cpu: &Cpu) -> Vec<String> {
    let names = |present: bool| {
        let chosen = cpu.features.iter().filter(|feature| feature.present == present);
        let names: Vec<_> = chosen.map(|feature| feature.name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" ") }
    };
    let caches: Vec<_> = cpu.caches.iter().map(cache_text).collect();
    vec![
        format!("CPU      {} ({})", cpu.model.as_deref().unwrap_or("of an unknown model"), cpu.architecture),
        format!("has      {}", names(true)),
        format!("has not  {}", names(false)),
        format!("caches   {}", if caches.is_empty() { "unknown".to_owned() } else { caches.join(", ") }),
    ]
}

/// `L3 32.0 MiB (of 2 CPUs)`
fn cache_text(cache: &Cache) -> String {
    let letter = match cache.kind {
        CacheKind::Data => "d",
        CacheKind::Instruction => "i",
        CacheKind::Unified => "",
    };
    let mut text = format!("L{}{letter} {}", cache.level, human::bytes(cache.bytes));
    if cache.shared_by > 1 {
        let _ = write!(text, " (shared by {} CPUs)", cache.shared_by);
    }
    text
}

fn kernel_line(kernel: &KernelReport) -> String {
    let needs = kernel.needs.join(", ");
    let note = match (kernel.name, kernel.available) {
        ("naive", _) => "runs here; for tests, not measured".to_owned(),
        (_, false) if kernel.lacks.is_empty() => "not in this build".to_owned(),
        (_, false) => format!("cannot run here: it lacks {}", kernel.lacks.join(", ")),
        (_, true) if needs.is_empty() => "runs here".to_owned(),
        (_, true) => format!("runs here; needs {needs}"),
    };
    format!("  {:NAME_WIDTH$} {note}", kernel.name)
}

/// `kernel = "auto" takes avx2 (and sse42 for CRC-32C): preferred among those that this CPU can run`
fn choice_line(choice: &KernelChoice) -> String {
    let taken = choice.kernel.unwrap_or("all in turn");
    let crc = choice.crc32c.map_or(String::new(), |crc| format!(" (and {crc} for CRC-32C)"));
    format!("kernel = {:?} takes {taken}{crc}: {}", choice.selection, choice.message)
}

fn table_text(table: &Table, caches: &[Cache]) -> String {
    let bytes = table.working_set_bytes.unwrap_or(0);
    let mut data_caches = caches.iter().filter(|cache| cache.kind != CacheKind::Instruction);
    let place = match data_caches.find(|cache| cache.bytes >= bytes) {
        Some(cache) => format!("{}, which fits {}", human::bytes(bytes), cache_text(cache)),
        None if caches.is_empty() => human::bytes(bytes),
        None => format!("{}, more than any cache holds", human::bytes(bytes)),
    };
    let name = match table.set {
        Set::Hot => "hot",
        Set::L3 => "L3",
        Set::Memory => "memory",
    };
    if let Some(reason) = &table.skipped {
        return format!("{name}: not measured: {reason}\n");
    }
    let mut text = format!("{name}: {place}\n  {:NAME_WIDTH$}", "GB/s");
    for work in Work::ALL {
        let _ = write!(text, " {:>10}", heading(work));
    }
    text.push('\n');
    let first_work = Work::ALL.first().map_or("", |work| work.name());
    for row in table.rates.iter().filter(|rate| rate.work == first_work) {
        let _ = write!(text, "  {:NAME_WIDTH$}", row.kernel);
        for work in Work::ALL {
            let cell = table.rates.iter().find(|cell| cell.kernel == row.kernel && cell.work == work.name());
            let rate = cell.map_or(0.0, |cell| cell.bytes_per_second as f64 / 1e9);
            let _ = write!(text, " {rate:>10.1}");
        }
        text.push('\n');
    }
    text
}

fn heading(work: Work) -> &'static str {
    match work {
        Work::GenPq => "P+Q",
        Work::Xor => "P alone",
        Work::CheckPq => "check P+Q",
        Work::RecoverTwo => "2 lost",
        Work::Update => "update",
        _ => work.name(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{FeatureReport, RateReport};
    use super::*;

    fn cache(level: u32, bytes: u64) -> Cache {
        let kind = if level == 1 { CacheKind::Data } else { CacheKind::Unified };
        Cache { level, kind, bytes, shared_by: level }
    }

    fn table(set: Set, bytes: Option<u64>, skipped: Option<&str>) -> Table {
        let rates = Work::ALL.iter().map(|work| RateReport {
            kernel: "avx2",
            work: work.name(),
            bytes_per_second: 12_340_000_000,
            median_bytes_per_second: 11_000_000_000,
        });
        let rates = if skipped.is_none() { rates.collect() } else { Vec::new() };
        let skipped = skipped.map(str::to_owned);
        Table { set, working_set_bytes: bytes, data_blocks: 8, block_bytes: 16384, skipped, rates }
    }

    #[test]
    fn it_reads_well() {
        let report = KernelsReport {
            version: 1,
            cpu: Cpu {
                architecture: "x86_64",
                model: Some("A CPU".to_owned()),
                features: vec![
                    FeatureReport { name: "avx2", present: true },
                    FeatureReport { name: "gfni", present: false },
                ],
                caches: vec![cache(1, 32 << 10), cache(2, 1 << 20)],
            },
            kernels: vec![
                KernelReport { name: "naive", available: true, needs: &[], lacks: vec![] },
                KernelReport { name: "portable", available: true, needs: &[], lacks: vec![] },
                KernelReport { name: "avx2", available: true, needs: &["avx2"], lacks: vec![] },
                KernelReport {
                    name: "avx2_gfni",
                    available: false,
                    needs: &["avx2", "gfni"],
                    lacks: vec!["gfni"],
                },
            ],
            choices: vec![KernelChoice {
                selection: "auto".to_owned(),
                kernel: Some("avx2"),
                crc32c: Some("sse42"),
                why: "preferred",
                message: "preferred among those that this CPU can run".to_owned(),
            }],
            optimised: false,
            measurements: vec![
                table(Set::Hot, Some(160 << 10), None),
                table(Set::L3, None, Some("the system tells of no L3")),
                table(Set::Memory, Some(64 << 20), None),
            ],
        };
        let expected = "\
CPU      A CPU (x86_64)
has      avx2
has not  gfni
caches   L1d 32.0 KiB, L2 1.0 MiB (shared by 2 CPUs)

Kernels, the preferred one last:
  naive        runs here; for tests, not measured
  portable     runs here
  avx2         runs here; needs avx2
  avx2_gfni    cannot run here: it lacks gfni

kernel = \"auto\" takes avx2 (and sse42 for CRC-32C): preferred among those that this CPU can run

GB/s: 10^9 bytes of data a second on one thread, the best of many short turns.
Stripes of 8 data blocks of 16.0 KiB, P and Q; an update is of one block.
Sizes below are of all blocks together.
This is a debug build: in a release build the rates are several times higher.

hot: 160.0 KiB, which fits L2 1.0 MiB (shared by 2 CPUs)
  GB/s                P+Q    P alone  check P+Q     2 lost     update
  avx2               12.3       12.3       12.3       12.3       12.3

L3: not measured: the system tells of no L3

memory: 64.0 MiB, more than any cache holds
  GB/s                P+Q    P alone  check P+Q     2 lost     update
  avx2               12.3       12.3       12.3       12.3       12.3
";
        assert_eq!(kernels(&report), expected);
    }
}
