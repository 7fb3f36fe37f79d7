//! The words of the control protocol, version 1. docs/json.md describes them for others.
//!
//! A request is `{"version":1,"command":"status"}`, a reply `{"version":1,"ok":{...}}` or
//! `{"version":1,"error":{"code":...,"message":...}}`. Within a version fields and codes are only ever
//! added, and readers ignore what they do not know.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::engines::EnginesStatus;
use super::latency::OperationStatus;

/// The version that is spoken here.
pub const VERSION: u32 = 1;

/// Bytes of the longest line, its end included. A status of the largest array is far below it.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// What is asked of a daemon.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Request {
    /// The state of the array.
    Status,
    /// Declare a member failed.
    Fail {
        /// The member's absolute path as the status shows it.
        member: PathBuf,
    },
    /// Add a device.
    Add {
        /// Its absolute path.
        member: PathBuf,
        /// Take it although it holds something.
        #[serde(default)]
        force: bool,
    },
    /// Compare parity with the data.
    Scrub {
        /// Rewrite parity that does not match.
        #[serde(default)]
        repair: bool,
        /// Answer when it has ended.
        #[serde(default)]
        wait: bool,
    },
    /// Stop cleanly; answered when the array is marked clean and the export is gone. Refused while the volume's
    /// block device is used.
    Stop {
        /// Stop although it is used: whoever uses it loses his disk.
        #[serde(default, skip_serializing_if = "is_false")]
        force: bool,
    },
    /// Stop and leave clients and the block device to the next process, by way of the service manager;
    /// answered when that has all of it.
    HandOver,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A request as it travels.
#[derive(Serialize, Debug)]
struct RequestLine<'a> {
    version: u32,
    #[serde(flatten)]
    request: &'a Request,
}

/// What a daemon says.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Reply {
    /// Version of the protocol.
    pub version: u32,
    /// Whether it worked.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Whether a request worked.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It did.
    Ok(Answer),
    /// It did not.
    Error(ControlError),
}

/// What came of a request that worked.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The answer to [`Request::Status`].
    Status(Box<Status>),
    /// What was done, in words for people.
    Message(String),
}

/// Why a request did not work.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was wrong and what to do.
    pub message: String,
}

/// The kinds of [`ControlError`].
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not a request.
    BadRequest,
    /// It is a request of another version.
    UnsupportedVersion,
    /// There is no such member.
    NotFound,
    /// It would lose data, or the array is not in a state for it.
    Refused,
    /// It was tried and failed.
    Failed,
    /// The daemon is stopping.
    Stopping,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ControlError {
    /// An error with this code and text.
    pub fn new(code: ErrorCode, message: impl fmt::Display) -> Self {
        ControlError { code, message: message.to_string() }
    }
}

impl Request {
    /// The line that says this, its end included.
    ///
    /// # Errors
    /// A path that is not UTF-8 cannot be said in JSON.
    pub fn to_line(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&RequestLine { version: VERSION, request: self }).map(|line| line + "\n")
    }

    /// Reads a line.
    ///
    /// # Errors
    /// It is no request, or one of another version.
    pub fn from_line(line: &[u8]) -> Result<Self, ControlError> {
        let bad = |error: serde_json::Error| ControlError::new(ErrorCode::BadRequest, error);
        let value: serde_json::Value = serde_json::from_slice(line).map_err(bad)?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(VERSION) => {}
            Some(version) => {
                let text = format!("version {version} is not spoken here, only version {VERSION}");
                return Err(ControlError::new(ErrorCode::UnsupportedVersion, text));
            }
            None => {
                return Err(ControlError::new(ErrorCode::BadRequest, "a request has a numeric `version`"));
            }
        }
        serde_json::from_value(value).map_err(bad)
    }
}

impl From<Result<Answer, ControlError>> for Reply {
    fn from(result: Result<Answer, ControlError>) -> Self {
        let outcome = match result {
            Ok(answer) => Outcome::Ok(answer),
            Err(error) => Outcome::Error(error),
        };
        Reply { version: VERSION, outcome }
    }
}

/// The state of an array that is being served. Also what `uraid status --json` prints, with a `version`
/// beside it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Status {
    /// Name of the array, without a host.
    pub name: String,
    /// Its UUID as mdadm prints it.
    pub uuid: String,
    /// 4, 5 or 6.
    pub level: u32,
    /// Name of the layout.
    pub layout: String,
    /// Bytes of a chunk.
    pub chunk_bytes: u64,
    /// Bytes that clients see.
    pub size_bytes: u64,
    /// The one word for its state.
    pub state: ArrayState,
    /// No member is ever written to.
    pub read_only: bool,
    /// Whether the superblocks say that writes may be in flight.
    pub dirty: bool,
    /// Roles without an in-sync member.
    pub degraded: u32,
    /// Roles of the array.
    pub raid_disks: u32,
    /// One entry a role, in the order of roles, then spares and failed members.
    pub members: Vec<MemberStatus>,
    /// The resync or rebuild that is running.
    pub sync: Option<SyncStatus>,
    /// The write-intent bitmap; none if the array has none.
    #[serde(default)]
    pub bitmap: Option<BitmapStatus>,
    /// Counts since the daemon started.
    pub counters: Counters,
    /// What clients asked for since then and how long it took, one entry a kind.
    #[serde(default)]
    pub operations: Vec<OperationStatus>,
    /// The upper bounds, inclusive, of the buckets of all operations, in microseconds.
    #[serde(default)]
    pub latency_bounds_us: Vec<u64>,
    /// Memory and what waits for it.
    #[serde(default)]
    pub memory: MemoryStatus,
    /// Seconds since the daemon started.
    #[serde(default)]
    pub uptime_seconds: u64,
    /// What clients did lately; none as long as the daemon has not seen any of it.
    #[serde(default)]
    pub recent: Option<RecentStatus>,
    /// NBD URIs under which clients find the export.
    pub exports: Vec<String>,
    /// The block device of this machine that it is, if it is one.
    #[serde(default)]
    pub device: Option<DeviceStatus>,
    /// The chosen parity kernel of each operation.
    pub kernels: BTreeMap<String, String>,
    /// Who computes, and what they did; none from a daemon that does not know.
    #[serde(default)]
    pub engines: Option<EnginesStatus>,
    /// A command that makes a file system aligned to the stripes; see [`mkfs_hint`].
    pub mkfs_hint: String,
}

/// The write-intent bitmap of an array.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct BitmapStatus {
    /// Regions in which writes may be under way, or that a missing member lacks.
    pub dirty_regions: u64,
    /// Regions in all.
    pub regions: u64,
    /// Bytes of a region, of each member.
    pub region_bytes: u64,
}

/// The block device of the machine that a volume is served on.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DeviceStatus {
    /// Its node, such as `/dev/nbd0`.
    pub path: PathBuf,
    /// Links that lead to it; udev makes them.
    pub links: Vec<PathBuf>,
    /// A command that makes an XFS file system aligned to the stripes; ext4's is `mkfs_hint`.
    pub mkfs_xfs_hint: String,
}

/// The one word for the state of an array: the most important thing there is to say.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum ArrayState {
    /// All roles are in sync and the superblocks say so.
    Clean,
    /// All roles are in sync, and writes are going on or just were.
    Active,
    /// All roles have members, and parity is being made to match the data.
    Resyncing,
    /// A member is being filled.
    Rebuilding,
    /// Roles are without a member, and nothing is done about it.
    Degraded,
    /// More roles are gone than parity covers: no writes, and reads only of what is left.
    Broken,
    /// The daemon is stopping.
    Stopping,
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What [`ArrayState::judge`] judges by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateFacts {
    /// The daemon is stopping.
    pub stopping: bool,
    /// The roles that parity covers: 1, or 2 for raid6.
    pub parity: u32,
    /// Roles without a member that holds at least part of its data.
    pub lost: u32,
    /// Roles without an in-sync member.
    pub degraded: u32,
    /// What is running.
    pub sync: Option<SyncKind>,
    /// The superblocks say that writes may be in flight.
    pub dirty: bool,
}

impl ArrayState {
    /// The state that these facts add up to.
    pub fn judge(facts: StateFacts) -> Self {
        match facts {
            StateFacts { stopping: true, .. } => ArrayState::Stopping,
            StateFacts { parity, lost, .. } if lost > parity => ArrayState::Broken,
            StateFacts { sync: Some(SyncKind::Rebuild), .. } => ArrayState::Rebuilding,
            StateFacts { degraded, .. } if degraded > 0 => ArrayState::Degraded,
            StateFacts { sync: Some(SyncKind::Resync | SyncKind::Unknown), .. } => ArrayState::Resyncing,
            StateFacts { dirty: true, .. } => ArrayState::Active,
            _ => ArrayState::Clean,
        }
    }

    /// The word as it stands in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            ArrayState::Clean => "clean",
            ArrayState::Active => "active",
            ArrayState::Resyncing => "resyncing",
            ArrayState::Rebuilding => "rebuilding",
            ArrayState::Degraded => "degraded",
            ArrayState::Broken => "broken",
            ArrayState::Stopping => "stopping",
            ArrayState::Unknown => "unknown",
        }
    }
}

/// One member, or a role without one.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct MemberStatus {
    /// Absolute path; none for a missing member.
    pub path: Option<PathBuf>,
    /// Its role; none for a spare, and for a failed member whose role is taken.
    pub role: Option<u32>,
    /// How it is.
    pub state: MemberState,
    /// The events count of its superblock.
    pub events: Option<u64>,
    /// Read and write errors since the daemon started.
    pub errors: u64,
    /// Sectors that were repaired by rewriting them.
    pub corrected_sectors: u64,
    /// Bytes that its bad-block log tells of.
    #[serde(default)]
    pub bad_bytes: u64,
    /// How it is read and written: `uring` or `sync`.
    pub io: Option<String>,
    /// Whether the page cache is bypassed.
    pub direct: Option<bool>,
    /// What was asked of it since the daemon started and how long it took, one entry a kind.
    #[serde(default)]
    pub operations: Vec<OperationStatus>,
}

impl MemberState {
    /// The word as it stands in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            MemberState::InSync => "in_sync",
            MemberState::Rebuilding => "rebuilding",
            MemberState::Spare => "spare",
            MemberState::Failed => "failed",
            MemberState::Missing => "missing",
            MemberState::Unknown => "unknown",
        }
    }
}

/// How a member is.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It holds all of its data.
    InSync,
    /// It is being filled.
    Rebuilding,
    /// It waits for a role.
    Spare,
    /// It failed and is not used.
    Failed,
    /// Nobody plays this role.
    Missing,
    /// A state that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A running resync or rebuild.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct SyncStatus {
    /// Which of the two.
    pub kind: SyncKind,
    /// Bytes of each member that are done.
    pub done_bytes: u64,
    /// Bytes of each member in all.
    pub total_bytes: u64,
    /// Bytes a second of each member, lately.
    pub speed_bytes_per_second: u64,
    /// Seconds until it is done at this speed; none while the speed is not known.
    pub eta_seconds: Option<u64>,
}

impl SyncStatus {
    /// With the remaining time that follows from the other figures.
    pub fn new(kind: SyncKind, done_bytes: u64, total_bytes: u64, speed_bytes_per_second: u64) -> Self {
        let eta_seconds = total_bytes.saturating_sub(done_bytes).checked_div(speed_bytes_per_second);
        SyncStatus { kind, done_bytes, total_bytes, speed_bytes_per_second, eta_seconds }
    }
}

/// What a background pass does.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum SyncKind {
    /// Parity is made to match the data.
    Resync,
    /// A member is filled.
    Rebuild,
    /// Parity is compared with the data.
    Scrub,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// Counts since the daemon started. Those that a daemon does not know are zero.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct Counters {
    /// Client connections now open.
    pub connections: u64,
    /// Client connections ever accepted.
    pub connections_total: u64,
    /// Those of them that ended because of the client or its socket, other than by its word.
    pub connections_broken: u64,
    /// Read requests answered.
    pub reads: u64,
    /// Bytes read by clients.
    pub read_bytes: u64,
    /// Write requests answered, those that write zeroes or discard included.
    pub writes: u64,
    /// Bytes written by clients, zeroes included.
    pub written_bytes: u64,
    /// Flush requests answered.
    pub flushes: u64,
    /// Requests answered with an error.
    pub requests_failed: u64,
    /// Blocks that could not be read and were recovered and rewritten.
    pub read_errors_corrected: u64,
    /// Blocks that could not be read or recovered.
    pub read_errors_unrecovered: u64,
    /// Stripes whose parity a resync had to correct.
    pub resync_mismatches: u64,
    /// Parity computations that failed and were retried.
    pub compute_failures: u64,
}

/// What clients did in the last seconds.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct RecentStatus {
    /// How long that is.
    pub milliseconds: u64,
    /// What they did, one entry a kind.
    pub operations: Vec<OperationStatus>,
}

/// Memory and what waits for it. What a daemon does not know is zero.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct MemoryStatus {
    /// Requests of clients that are worked on.
    pub requests_in_flight: u64,
    /// Bytes for the data of requests.
    pub request_bytes: u64,
    /// How many of them are in use.
    pub request_bytes_used: u64,
    /// Bytes for stripes that are worked on.
    pub stripe_bytes: u64,
    /// How many stripes that are.
    pub stripes: u64,
    /// Stripes that wait for room.
    pub stripes_waiting: u64,
}

/// The command that makes an ext4 file system whose allocation fits the stripes: `stride` is the chunk
/// and `stripe_width` the data of a whole stripe, both in blocks of 4 KiB (mke2fs(8)).
pub fn mkfs_hint(chunk_bytes: u64, data_members: u32) -> String {
    let stride = chunk_bytes / 4096;
    let width = stride.saturating_mul(data_members.into());
    format!("mkfs.ext4 -b 4096 -E stride={stride},stripe_width={width} DEVICE")
}

/// The same for XFS (mkfs.xfs(8)): chunk and number of chunks with data.
pub fn mkfs_xfs_hint(chunk_bytes: u64, data_members: u32) -> String {
    format!("mkfs.xfs -d su={},sw={data_members} DEVICE", chunk_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_documented_lines() {
        for (request, line) in [
            (Request::Status, r#"{"version":1,"command":"status"}"#),
            (
                Request::Scrub { repair: true, wait: false },
                r#"{"version":1,"command":"scrub","repair":true,"wait":false}"#,
            ),
            (Request::Fail { member: "/m".into() }, r#"{"version":1,"command":"fail","member":"/m"}"#),
            (
                Request::Add { member: "/m".into(), force: true },
                r#"{"version":1,"command":"add","member":"/m","force":true}"#,
            ),
            (Request::Stop { force: false }, r#"{"version":1,"command":"stop"}"#),
            (Request::Stop { force: true }, r#"{"version":1,"command":"stop","force":true}"#),
            (Request::HandOver, r#"{"version":1,"command":"hand_over"}"#),
        ] {
            assert_eq!(request.to_line().unwrap(), format!("{line}\n"));
            assert_eq!(Request::from_line(line.as_bytes()), Ok(request));
        }
        let short = br#"{"command":"add","member":"/m","version":1,"later":[]}"#;
        assert_eq!(Request::from_line(short), Ok(Request::Add { member: "/m".into(), force: false }));
    }

    #[test]
    fn bad_lines_have_a_code() {
        for (line, code) in [
            ("", ErrorCode::BadRequest),
            ("hello", ErrorCode::BadRequest),
            ("[]", ErrorCode::BadRequest),
            (r#"{"command":"status"}"#, ErrorCode::BadRequest),
            (r#"{"version":2,"command":"status"}"#, ErrorCode::UnsupportedVersion),
            (r#"{"version":1,"command":"explode"}"#, ErrorCode::BadRequest),
            (r#"{"version":1,"command":"fail"}"#, ErrorCode::BadRequest),
        ] {
            assert_eq!(Request::from_line(line.as_bytes()).map_err(|e| e.code), Err(code), "{line}");
        }
    }

    #[test]
    fn replies_are_the_documented_lines() {
        let reply = Reply::from(Ok(Answer::Message("done".into())));
        assert_eq!(serde_json::to_string(&reply).unwrap(), r#"{"version":1,"ok":{"message":"done"}}"#);
        let reply = Reply::from(Err(ControlError::new(ErrorCode::NotFound, "no")));
        let line = r#"{"version":1,"error":{"code":"not_found","message":"no"}}"#;
        assert_eq!(serde_json::to_string(&reply).unwrap(), line);
        assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), reply);
        let newer = r#"{"version":1,"error":{"code":"too_warm","message":"no","hint":"cool it"}}"#;
        let Outcome::Error(error) = serde_json::from_str::<Reply>(newer).unwrap().outcome else { panic!() };
        assert_eq!(error.code, ErrorCode::Unknown);
    }

    #[test]
    fn the_most_important_fact_names_the_state() {
        let calm = StateFacts { stopping: false, parity: 2, lost: 0, degraded: 0, sync: None, dirty: false };
        for (facts, state) in [
            (calm, ArrayState::Clean),
            (StateFacts { dirty: true, ..calm }, ArrayState::Active),
            (StateFacts { dirty: true, sync: Some(SyncKind::Resync), ..calm }, ArrayState::Resyncing),
            (StateFacts { lost: 2, degraded: 2, dirty: true, ..calm }, ArrayState::Degraded),
            (
                StateFacts { lost: 1, degraded: 2, sync: Some(SyncKind::Rebuild), ..calm },
                ArrayState::Rebuilding,
            ),
            (StateFacts { lost: 1, degraded: 1, sync: Some(SyncKind::Resync), ..calm }, ArrayState::Degraded),
            (StateFacts { lost: 3, degraded: 3, ..calm }, ArrayState::Broken),
            (StateFacts { stopping: true, lost: 3, ..calm }, ArrayState::Stopping),
        ] {
            assert_eq!(ArrayState::judge(facts), state, "{facts:?}");
        }
    }

    #[test]
    fn the_eta_needs_a_speed() {
        assert_eq!(SyncStatus::new(SyncKind::Rebuild, 0, 100, 0).eta_seconds, None);
        assert_eq!(SyncStatus::new(SyncKind::Rebuild, 40, 100, 20).eta_seconds, Some(3));
        assert_eq!(SyncStatus::new(SyncKind::Rebuild, 140, 100, 20).eta_seconds, Some(0));
    }

    #[test]
    fn mkfs_is_told_the_stripe() {
        assert_eq!(mkfs_hint(65536, 4), "mkfs.ext4 -b 4096 -E stride=16,stripe_width=64 DEVICE");
        assert_eq!(mkfs_xfs_hint(65536, 4), "mkfs.xfs -d su=65536,sw=4 DEVICE");
    }
}
