//! What an operator may know about a shard, and the notices that it keeps.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_tx::{Alert, EngineStats};
use tracing::Level;
use uraid_blockio::BackendChoice;
use uraid_core::{Geometry, MemberId, MemberReport, Notice, Status, SyncKind, Tick};

use crate::latency::{ClientOps, MemberOps};
use crate::runner::{IoCounters, MemberError};

/// Notices kept, and alerts.
const NOTICES_KEPT: usize = 100;
/// The least nanoseconds between two measurements of a background pass.
const SAMPLE: u64 = 400_000_000;
/// The weight of the latest measurement in the average.
const WEIGHT: f64 = 0.3;

/// A picture of a shard.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// The volume's name.
    pub name: String,
    /// The array, as the core sees it.
    pub array: Status,
    /// The array's shape.
    pub geometry: Geometry,
    /// The members, in the order of [`Status::members`] of `array`.
    pub members: Vec<MemberInfo>,
    /// The background pass, if one is under way.
    pub sync: Option<SyncInfo>,
    /// What clients asked for since the start.
    pub clients: ClientCounters,
    /// How long that took.
    pub client_ops: ClientOps,
    /// What members and engine did since the start.
    pub io: IoCounters,
    /// What the engine's backends did since the start.
    pub engine: EngineStats,
    /// What happened to them, the last alerts, the oldest first.
    pub alerts: Vec<AlertRecord>,
    /// Why io_uring is not used, if it is not.
    pub ring_refused: Option<String>,
    /// Connections now.
    pub connections: usize,
    /// Requests that the array has now.
    pub requests_in_flight: usize,
    /// Bytes of the payload pool that are in use.
    pub pool_in_use: usize,
    /// Bytes of the payload pool.
    pub pool_bytes: usize,
    /// Slots of the stripe cache.
    pub cache_slots: u32,
    /// Strips of each of them.
    pub slot_strips: u16,
    /// Time since the start.
    pub uptime: Duration,
    /// The array is stopping.
    pub stopping: bool,
    /// The last notices, the oldest first.
    pub notices: Vec<NoticeRecord>,
    /// What all notices said, those too that are not kept any more.
    pub totals: NoticeTotals,
}

/// One member, with what the core does not know.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    /// What the core knows.
    pub report: MemberReport,
    /// Where it was opened.
    pub path: PathBuf,
    /// Who moves its bytes, and why.
    pub backend: Option<BackendChoice>,
    /// Its errors since the start.
    pub errors: Option<MemberError>,
    /// What it did since the start, and how long that took.
    pub ops: MemberOps,
}

/// A background pass.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SyncInfo {
    /// What it does.
    pub kind: SyncKind,
    /// Stripes done.
    pub done_stripes: u64,
    /// Stripes in all.
    pub total_stripes: u64,
    /// Stripes whose parity did not match.
    pub mismatches: u64,
    /// Bytes of each member a second: a moving average, or what was done since the pass began until there
    /// is one. `None` as long as nothing was done.
    pub member_bytes_per_second: Option<u64>,
    /// Time left at that speed.
    pub left: Option<Duration>,
}

/// What clients asked for. Requests are counted when they are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClientCounters {
    /// Connections taken over.
    pub connections: u64,
    /// Connections that ended because of the client or its socket.
    pub broken_connections: u64,
    /// Reads that went well.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes that went well.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
    /// Writes of zeroes that went well.
    pub zeroes: u64,
    /// Bytes of them.
    pub zero_bytes: u64,
    /// Flushes that went well.
    pub flushes: u64,
    /// Requests that the array answered with an error.
    pub errors: u64,
}

/// A notice and when it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoticeRecord {
    /// When.
    pub at: SystemTime,
    /// What.
    pub notice: Notice,
    /// How grave it is.
    pub level: Level,
    /// The same in words.
    pub text: String,
    /// The member that it is about was at this path.
    pub path: Option<PathBuf>,
}

/// An alert of the engine and when it was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlertRecord {
    /// When.
    pub at: SystemTime,
    /// What.
    pub alert: Alert,
    /// How grave it is.
    pub level: Level,
    /// The same in words.
    pub text: String,
}

/// Keeps the last alerts.
#[derive(Debug, Default)]
pub(crate) struct AlertLog {
    kept: VecDeque<AlertRecord>,
}

impl AlertLog {
    /// Takes an alert in; gives the record of it.
    pub(crate) fn add(&mut self, alert: Alert) -> AlertRecord {
        let text = alert.to_string();
        let level = match &alert {
            Alert::GivingUpLate { .. } => Level::ERROR,
            Alert::Revived { .. } | Alert::Removed { .. } => Level::INFO,
            _ => Level::WARN,
        };
        if self.kept.len() >= NOTICES_KEPT {
            self.kept.pop_front();
        }
        let record = AlertRecord { at: SystemTime::now(), alert, level, text };
        self.kept.push_back(record.clone());
        record
    }

    pub(crate) fn all(&self) -> Vec<AlertRecord> {
        self.kept.iter().cloned().collect()
    }
}

/// What notices said since the start, those too that are not kept any more.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NoticeTotals {
    /// Bytes that could not be read, and were recovered and rewritten, by the member's index.
    pub corrected_bytes: Vec<u64>,
    /// Times that data could neither be read nor recovered.
    pub unrecovered: u64,
    /// Stripes whose parity did not match, found by passes that have ended.
    pub mismatches: u64,
}

impl NoticeTotals {
    /// Bytes of a member that were recovered and rewritten.
    pub fn corrected_of(&self, member: MemberId) -> u64 {
        self.corrected_bytes.get(usize::from(member.0)).copied().unwrap_or(0)
    }

    fn count(&mut self, notice: &Notice) {
        match notice {
            Notice::ReadErrorCorrected { member, len, .. } => {
                let index = usize::from(member.0);
                if self.corrected_bytes.len() <= index {
                    self.corrected_bytes.resize(index + 1, 0);
                }
                if let Some(bytes) = self.corrected_bytes.get_mut(index) {
                    *bytes = bytes.saturating_add(u64::from(*len));
                }
            }
            Notice::ReadErrorUnrecovered { .. } => self.unrecovered += 1,
            Notice::SyncFinished { mismatches, repaired: true, .. } => {
                self.mismatches = self.mismatches.saturating_add(*mismatches);
            }
            _ => {}
        }
    }
}

/// Keeps the last notices.
#[derive(Debug, Default)]
pub(crate) struct NoticeLog {
    kept: VecDeque<NoticeRecord>,
    totals: NoticeTotals,
}

impl NoticeLog {
    /// Takes a notice in; gives the record of it.
    pub(crate) fn add(&mut self, notice: Notice, path: Option<&Path>) -> NoticeRecord {
        let (level, text) = describe(&notice, path);
        self.totals.count(&notice);
        if self.kept.len() >= NOTICES_KEPT {
            self.kept.pop_front();
        }
        let path = path.map(Path::to_owned);
        let record = NoticeRecord { at: SystemTime::now(), notice, level, text, path };
        self.kept.push_back(record.clone());
        record
    }

    pub(crate) fn all(&self) -> Vec<NoticeRecord> {
        self.kept.iter().cloned().collect()
    }

    pub(crate) fn totals(&self) -> NoticeTotals {
        self.totals.clone()
    }
}

/// The member that a notice is about.
pub(crate) fn member_of(notice: &Notice) -> Option<MemberId> {
    match notice {
        Notice::MemberFailed { member, .. }
        | Notice::ReadErrorCorrected { member, .. }
        | Notice::ReadErrorUnrecovered { member, .. }
        | Notice::BadBlocksRecorded { member, .. }
        | Notice::BadBlocksCleared { member, .. }
        | Notice::MemberInSync { member, .. } => Some(*member),
        _ => None,
    }
}

fn describe(notice: &Notice, path: Option<&Path>) -> (Level, String) {
    let who = match (path, member_of(notice)) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(member)) => format!("member {}", member.0),
        (None, None) => String::new(),
    };
    match notice {
        Notice::MemberFailed { role, why, .. } => (
            Level::ERROR,
            format!("{who} (role {role}) failed: {why}; the array goes on without it, replace it soon"),
        ),
        Notice::ArrayBroken => (
            Level::ERROR,
            "more members are gone than parity covers: writes are refused from now on".to_owned(),
        ),
        Notice::ReadErrorCorrected { offset, len, .. } => (
            Level::WARN,
            format!("{who}: {len} bytes at {offset} could not be read; recovered and rewritten"),
        ),
        Notice::ReadErrorUnrecovered { offset, len, .. } => {
            (Level::ERROR, format!("{who}: {len} bytes at {offset} could not be read nor recovered"))
        }
        Notice::BadBlocksRecorded { offset, len, .. } => (
            Level::ERROR,
            format!(
                "{who}: {len} bytes at {offset} are bad now and stand in its bad-block log; replace it soon"
            ),
        ),
        Notice::BadBlocksCleared { offset, len, .. } => (
            Level::INFO,
            format!("{who}: {len} bytes at {offset} were bad; they are written, and good again"),
        ),
        Notice::SyncStarted { kind } => (Level::INFO, format!("{} started", name_of(*kind))),
        Notice::SyncFinished { kind, mismatches, repaired, skipped, complete: true } => {
            let mut found = match (kind, mismatches, repaired) {
                (SyncKind::Rebuild, ..) => String::new(),
                (SyncKind::Scrub, 0, _) if *skipped == 0 => ", parity of all stripes matches".to_owned(),
                (_, n, true) => format!(", parity of {n} stripes was rewritten"),
                (_, n, false) => format!(", parity of {n} stripes does not match"),
            };
            if *skipped > 0 {
                found += &format!(", {skipped} stripes could not be compared");
            }
            let scrub = *kind == SyncKind::Scrub;
            let level = if scrub && *mismatches + *skipped > 0 { Level::WARN } else { Level::INFO };
            (level, format!("{} finished{found}", name_of(*kind)))
        }
        Notice::SyncFinished { kind, complete: false, .. } => {
            (Level::WARN, format!("{} was broken off", name_of(*kind)))
        }
        Notice::MemberInSync { role, .. } => (Level::INFO, format!("{who} (role {role}) is in sync")),
        Notice::ComputeFailed => (
            Level::ERROR,
            "the engine could not run a computation; its request was retried or refused".into(),
        ),
    }
}

fn name_of(kind: SyncKind) -> &'static str {
    match kind {
        SyncKind::Resync => "resync",
        SyncKind::Rebuild => "rebuild",
        SyncKind::Scrub => "scrub",
    }
}

/// Measures the speed of a background pass.
#[derive(Debug, Default)]
pub(crate) struct SpeedMeter {
    /// Where the pass was when it was seen first.
    first: Option<Sample>,
    last: Option<Sample>,
    stripes_per_second: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    kind: SyncKind,
    at: Tick,
    done: u64,
}

impl SpeedMeter {
    /// A pass begins, and what was measured is of another one.
    pub(crate) fn restart(&mut self, now: Tick, sync: Option<uraid_core::SyncReport>) {
        *self = Self::default();
        self.sample(now, sync);
    }

    /// Takes note of where the pass is.
    pub(crate) fn sample(&mut self, now: Tick, sync: Option<uraid_core::SyncReport>) {
        let Some(sync) = sync else {
            *self = Self::default();
            return;
        };
        let sample = Sample { kind: sync.kind, at: now, done: sync.done_stripes };
        match self.last {
            Some(last) if last.kind == sync.kind && last.done <= sync.done_stripes => {
                let elapsed = now.0.saturating_sub(last.at.0);
                if elapsed < SAMPLE {
                    return;
                }
                let rate = (sync.done_stripes - last.done) as f64 * 1e9 / elapsed as f64;
                let average = self.stripes_per_second.map_or(rate, |old| old + WEIGHT * (rate - old));
                self.stripes_per_second = Some(average);
            }
            _ => *self = Self { first: Some(sample), ..Self::default() },
        }
        self.last = Some(sample);
    }

    /// Stripes a second since the pass was seen first, if it has done any.
    fn so_far(&self, now: Tick, sync: &uraid_core::SyncReport) -> Option<f64> {
        let first = self.first.filter(|first| first.kind == sync.kind)?;
        let (elapsed, done) = (now.0.checked_sub(first.at.0)?, sync.done_stripes.checked_sub(first.done)?);
        (elapsed > 0 && done > 0).then(|| done as f64 * 1e9 / elapsed as f64)
    }

    /// What to say about the pass.
    pub(crate) fn info(&self, now: Tick, sync: uraid_core::SyncReport, strip_bytes: u32) -> SyncInfo {
        let rate = self.stripes_per_second.or_else(|| self.so_far(now, &sync));
        let left = sync.total_stripes.saturating_sub(sync.done_stripes) as f64;
        SyncInfo {
            kind: sync.kind,
            done_stripes: sync.done_stripes,
            total_stripes: sync.total_stripes,
            mismatches: sync.mismatches,
            member_bytes_per_second: rate.map(|rate| (rate * f64::from(strip_bytes)) as u64),
            left: rate.and_then(|rate| Duration::try_from_secs_f64(left / rate).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};

    fn report(done: u64) -> uraid_core::SyncReport {
        uraid_core::SyncReport {
            kind: SyncKind::Rebuild,
            done_stripes: done,
            total_stripes: 1000,
            mismatches: 0,
        }
    }

    /// A meter and the clock that it is used by.
    struct Bench {
        clock: ManualClock,
        meter: SpeedMeter,
    }

    impl Bench {
        fn new() -> Self {
            Self { clock: ManualClock::default(), meter: SpeedMeter::default() }
        }

        fn after_ms(&mut self, ms: u64) -> &mut Self {
            self.clock.advance(ms * 1_000_000);
            self
        }

        fn sample(&mut self, done: u64) -> &mut Self {
            self.meter.sample(self.clock.now(), Some(report(done)));
            self
        }

        /// Stripes a second, and seconds left.
        fn says(&self, done: u64) -> Option<(u64, u64)> {
            let info = self.meter.info(self.clock.now(), report(done), 65536);
            let rate = info.member_bytes_per_second?;
            assert_eq!(rate % 65536, 0);
            Some((rate / 65536, info.left.unwrap().as_secs()))
        }
    }

    #[test]
    fn speed_and_time_left_follow_the_clock() {
        let mut bench = Bench::new();
        assert_eq!(bench.sample(0).says(0), None);
        assert_eq!(bench.after_ms(1000).sample(100).says(100), Some((100, 9)));
        // Too soon for a measurement.
        assert_eq!(bench.after_ms(1).sample(900).says(100), Some((100, 9)));
        // The average moves by 0.3 of the difference.
        assert_eq!(bench.after_ms(999).sample(400).says(400), Some((160, 3)));
        bench.meter.sample(bench.clock.now(), None);
        assert_eq!(bench.after_ms(1000).sample(0).says(0), None);
    }

    #[test]
    fn a_pass_too_short_for_an_average_has_a_speed_too() {
        let mut bench = Bench::new();
        bench.after_ms(7);
        bench.meter.restart(bench.clock.now(), Some(report(200)));
        assert_eq!(bench.says(200), None);
        assert_eq!(bench.after_ms(100).says(200), None);
        // 510 stripes in 300 ms; what was done before the pass began does not count.
        assert_eq!(bench.after_ms(200).says(710), Some((1700, 0)));
        assert_eq!(bench.after_ms(1700).says(370), Some((85, 7)));
        // Another pass of the same kind begins with nothing, wherever the last one was.
        bench.meter.restart(bench.clock.now(), Some(report(400)));
        assert_eq!(bench.says(400), None);
        assert_eq!(bench.after_ms(500).says(450), Some((100, 5)));
    }

    #[test]
    fn the_last_notices_are_kept() {
        let mut log = NoticeLog::default();
        for _ in 0..150 {
            log.add(Notice::ReadErrorCorrected { member: MemberId(2), offset: 0, len: 4096 }, None);
        }
        assert_eq!(log.totals().corrected_of(MemberId(2)), 150 * 4096, "what is not kept is counted");
        assert_eq!((log.totals().corrected_of(MemberId(3)), log.all().len()), (0, NOTICES_KEPT));
        let mut log = NoticeLog::default();
        for member in 0..150 {
            let notice = Notice::MemberInSync { member: MemberId(member), role: uraid_core::Role(0) };
            log.add(notice, Some(Path::new("/dev/x")));
        }
        let all = log.all();
        assert_eq!(all.len(), NOTICES_KEPT);
        assert_eq!(member_of(&all[0].notice), Some(MemberId(50)));
        assert!(all[99].text.contains("/dev/x"));
    }
}
