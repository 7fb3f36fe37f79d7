//! The lines of the live view. Rates and latencies are of the time between two looks; at the first look, of
//! the time since the daemon started.

use std::time::Duration;

use super::Look;
use crate::control::latency::OperationStatus;
use crate::control::protocol::{ArrayState, MemberState, MemberStatus, Status};
use crate::{engines, human, status};

/// How a line, or the first part of it, is to be seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tone {
    /// As it is.
    Plain,
    /// The head of something.
    Head,
    /// As it should be.
    Good,
    /// Something is going on.
    Notable,
    /// Something is wrong.
    Bad,
}

/// A line of the view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) tone: Tone,
    pub(super) text: String,
}

fn line(tone: Tone, text: impl Into<String>) -> Line {
    Line { tone, text: text.into() }
}

/// The view as text.
pub(super) fn text(before: Option<&Look>, now: &Look) -> String {
    let lines = lines(before, now).into_iter().map(|line| line.text.trim_end().to_owned() + "\n");
    lines.collect()
}

/// All lines of the view.
pub(super) fn lines(before: Option<&Look>, now: &Look) -> Vec<Line> {
    let status = &now.status;
    let span = Span::between(before, now);
    let mut lines = vec![head(status)];
    lines.extend(status.sync.as_ref().map(|sync| line(Tone::Notable, status::progress(sync))));
    if status.state == ArrayState::Broken {
        lines.push(line(Tone::Bad, status::BROKEN));
    }
    lines.extend(status::missing_roles(status).map(|text| line(Tone::Bad, text)));
    lines.push(line(Tone::Plain, ""));
    lines.push(clients_head(status, &span));
    let operations = status.operations.iter().map(|one| {
        let before = span.before.and_then(|look| find(&look.status.operations, &one.operation));
        operation(&one.operation.replace('_', " "), &span.of(one, before, status), &span)
    });
    lines.extend(operations);
    lines.push(line(Tone::Plain, ""));
    lines.push(members_head(status));
    let width = path_width(status);
    lines.extend(status.members.iter().map(|one| member(one, status, &span, width)));
    let engines: Vec<_> = status.engines.iter().flat_map(engines::summary).collect();
    if !engines.is_empty() {
        lines.push(line(Tone::Plain, ""));
        lines.extend(engines.into_iter().map(|text| line(Tone::Plain, text)));
    }
    lines
}

/// The time that rates are of.
struct Span<'a> {
    before: Option<&'a Look>,
    time: Duration,
}

impl<'a> Span<'a> {
    fn between(before: Option<&'a Look>, now: &Look) -> Self {
        // A daemon that runs for less time than it did was started anew.
        let before = before.filter(|look| look.status.uptime_seconds <= now.status.uptime_seconds);
        let time = match before {
            Some(before) => now.at.saturating_duration_since(before.at),
            None => Duration::from_secs(now.status.uptime_seconds),
        };
        Span { before, time: time.max(Duration::from_millis(1)) }
    }

    fn of(
        &self,
        now: &OperationStatus,
        before: Option<&OperationStatus>,
        status: &Status,
    ) -> OperationStatus {
        before.map_or_else(|| now.clone(), |before| now.since(before, &status.latency_bounds_us))
    }

    fn rate(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64()
    }

    fn bytes(&self, bytes: u64) -> String {
        // A float becomes the nearest number that there is.
        format!("{}/s", human::bytes(self.rate(bytes) as u64))
    }

    fn words(&self) -> String {
        match self.before {
            Some(_) => format!("the last {:.1} s", self.time.as_secs_f64()),
            None => "since the start".to_owned(),
        }
    }
}

fn find<'a>(operations: &'a [OperationStatus], word: &str) -> Option<&'a OperationStatus> {
    operations.iter().find(|one| one.operation == word)
}

fn head(status: &Status) -> Line {
    let tone = match status.state {
        ArrayState::Clean | ArrayState::Active => Tone::Good,
        ArrayState::Degraded | ArrayState::Broken | ArrayState::Unknown => Tone::Bad,
        ArrayState::Resyncing | ArrayState::Rebuilding | ArrayState::Stopping => Tone::Notable,
    };
    let read_only = if status.read_only { ", read-only" } else { "" };
    let up = human::duration(status.uptime_seconds);
    let text = format!(
        "{}: {}{read_only}, raid{}, {} [{}/{}] [{}], up {up}",
        status.name,
        status.state.word(),
        status.level,
        human::bytes(status.size_bytes),
        status.raid_disks,
        status.raid_disks.saturating_sub(status.degraded),
        status::role_map(status),
    );
    line(tone, text)
}

fn clients_head(status: &Status, span: &Span<'_>) -> Line {
    let memory = &status.memory;
    let name = format!("{} clients", status.counters.connections);
    line(
        Tone::Head,
        format!(
            "{name:<14}{:>12}{:>16}{:>10}{:>10}   {}; {} in flight, {} of {} memory",
            "requests/s",
            "bytes/s",
            "p50",
            "p99",
            span.words(),
            memory.requests_in_flight,
            human::bytes(memory.request_bytes_used),
            human::bytes(memory.request_bytes),
        ),
    )
}

fn operation(name: &str, since: &OperationStatus, span: &Span<'_>) -> Line {
    let bytes = if name == "flush" { String::new() } else { span.bytes(since.bytes) };
    line(
        Tone::Plain,
        format!(
            "  {name:<12}{:>12}{bytes:>16}{:>10}{:>10}",
            per_second(span.rate(since.count)),
            human::latency(since.p50_us),
            human::latency(since.p99_us),
        ),
    )
}

/// Columns of the longest path, within bounds.
fn path_width(status: &Status) -> usize {
    let widths = status.members.iter().map(|one| name_of(one).chars().count());
    widths.max().unwrap_or(0).clamp(8, 40)
}

fn name_of(member: &MemberStatus) -> String {
    member.path.as_ref().map_or("(none)".to_owned(), |path| path.display().to_string())
}

fn members_head(status: &Status) -> Line {
    let width = path_width(status);
    line(
        Tone::Head,
        format!(
            "{:<width$}{:>6} {:<11}{:>9}{:>15}{:>9}{:>15}{:>10}{:>10}{:>10}{:>8}",
            "members",
            "role",
            "state",
            "reads/s",
            "",
            "writes/s",
            "",
            "read p99",
            "write p99",
            "flush p99",
            "errors",
            width = width + 2,
        ),
    )
}

fn member(member: &MemberStatus, status: &Status, span: &Span<'_>, width: usize) -> Line {
    let before = span.before.and_then(|look| {
        let same = |one: &&MemberStatus| one.path == member.path && one.state != MemberState::Failed;
        look.status.members.iter().find(same)
    });
    let of = |word| {
        let now = find(&member.operations, word)?;
        let before = before.and_then(|before| find(&before.operations, word));
        Some(span.of(now, before, status))
    };
    let (read, write, flush) = (of("read"), of("write"), of("flush"));
    let ops = |one: &Option<OperationStatus>| {
        one.as_ref().map_or_else(String::new, |one| per_second(span.rate(one.count)))
    };
    let bytes =
        |one: &Option<OperationStatus>| one.as_ref().map_or_else(String::new, |one| span.bytes(one.bytes));
    let p99 = |one: &Option<OperationStatus>| human::latency(one.as_ref().and_then(|one| one.p99_us));
    let tone = match member.state {
        MemberState::Failed | MemberState::Missing | MemberState::Unknown => Tone::Bad,
        MemberState::Rebuilding => Tone::Notable,
        MemberState::InSync | MemberState::Spare if member.errors > 0 => Tone::Notable,
        MemberState::InSync | MemberState::Spare => Tone::Plain,
    };
    let role = member.role.map_or("-".to_owned(), |role| role.to_string());
    let text = format!(
        "  {:<width$}{role:>6} {:<11}{:>9}{:>15}{:>9}{:>15}{:>10}{:>10}{:>10}{:>8}",
        name_of(member),
        member.state.word().replace('_', " "),
        ops(&read),
        bytes(&read),
        ops(&write),
        bytes(&write),
        p99(&read),
        p99(&write),
        p99(&flush),
        member.errors,
    );
    line(tone, text)
}

/// A number of things a second: exact when it is small, short when it is not.
fn per_second(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        r if r < 9.95 => format!("{r:.1}"),
        r if r < 99_999.5 => format!("{r:.0}"),
        r => format!("{:.0}k", r / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::control::protocol::{SyncKind, SyncStatus};

    const BOUNDS: [u64; 3] = [100, 200, 400];

    fn look(at: Instant, uptime: u64, reads: u64, name: &str) -> Look {
        let mut status = status::tests::rebuilding();
        status.name = name.into();
        status.uptime_seconds = uptime;
        status.latency_bounds_us = BOUNDS.to_vec();
        let read = |n: u64| OperationStatus::new("read", n * 4096, n * 90, vec![n, 0, 0, 0], &BOUNDS);
        status.operations = vec![read(reads), OperationStatus::new("flush", 0, 0, vec![0; 4], &BOUNDS)];
        for member in status.members.iter_mut().filter(|member| member.path.is_some()) {
            member.operations = vec![read(reads / 2)];
        }
        Look { at, status }
    }

    fn shown(before: Option<&Look>, now: &Look, start: &str) -> String {
        let text = text(before, now);
        let found = text.lines().find(|line| line.trim_start().starts_with(start));
        found
            .unwrap_or_else(|| panic!("no line {start} in\n{text}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let start = Instant::now();
        let first = look(start, 10, 1000, "t");
        let second = look(start + Duration::from_secs(2), 12, 5000, "t");
        assert_eq!(shown(None, &first, "read"), "read 100 400.0 KiB/s 50 µs 99 µs");
        assert_eq!(shown(Some(&first), &second, "read"), "read 2000 7.8 MiB/s 50 µs 99 µs");
        assert_eq!(shown(Some(&first), &second, "flush"), "flush 0 - -");
        assert!(shown(Some(&first), &second, "1 clients").contains("the last 2.0 s"));
        assert_eq!(shown(Some(&first), &second, "/d/a"), "/d/a 0 in sync 1000 3.9 MiB/s 99 µs - - 0");
        // Started anew: what was before is of another life.
        let third = look(start + Duration::from_secs(4), 1, 50, "t");
        assert_eq!(shown(Some(&second), &third, "read"), "read 50 200.0 KiB/s 50 µs 99 µs");
    }

    #[test]
    fn trouble_is_seen() {
        let now = look(Instant::now(), 10, 0, "tank");
        let lines = lines(None, &now);
        let tone = |start: &str| {
            let found = lines.iter().find(|line| line.text.trim_start().starts_with(start));
            found.unwrap_or_else(|| panic!("no line {start} in {lines:#?}")).tone
        };
        assert_eq!(tone("tank: rebuilding, raid6, 2.0 GiB [4/2] [U__U], up 10s"), Tone::Notable);
        assert_eq!(tone("[==>"), Tone::Notable);
        assert_eq!(tone("role 2 has no member"), Tone::Bad);
        assert_eq!((tone("/d/b"), tone("(none)"), tone("/d/e")), (Tone::Bad, Tone::Bad, Tone::Notable));
        let mut whole = now.clone();
        whole.status.sync = Some(SyncStatus::new(SyncKind::Resync, 1, 2, 0));
        assert!(text(None, &whole).contains("finish=unknown"));
    }

    #[test]
    fn rates_are_short() {
        for (rate, text) in
            [(0.0, "0"), (0.26, "0.3"), (9.9, "9.9"), (10.4, "10"), (12_345.6, "12346"), (2e6, "2000k")]
        {
            assert_eq!(per_second(rate), text);
        }
    }
}
