//! What the daemon says about who computes: the CPU, and the work queues of devices. A part of
//! [`Status`](super::protocol::Status); `uraid engines NAME` shows nothing else. Fields are only ever added.

use serde::{Deserialize, Serialize};

/// The engines of a running array, and what they did since the daemon started.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct EnginesStatus {
    /// `auto`, `off` or `require`, as configured.
    pub dsa: String,
    /// The parity kernel of the CPU.
    pub cpu: String,
    /// Every so many operations of a device one is compared with the CPU; 0 is none.
    pub cross_check: u32,
    /// After so many milliseconds an operation is given up and done on the CPU.
    pub timeout_ms: u64,
    /// Compute plans that ended.
    pub chains: u64,
    /// Those of them that failed.
    pub chains_failed: u64,
    /// Completions that nobody waited for.
    pub stray_completions: u64,
    /// What ran on the CPU: one entry a kind of operation that did.
    pub operations: Vec<CpuOperation>,
    /// The work queues in use, or that were.
    pub backends: Vec<BackendStatus>,
    /// The work queues that were found and are not used.
    pub unused: Vec<UnusedQueue>,
    /// What happened to work queues, the oldest first; the last hundred.
    pub alerts: Vec<AlertStatus>,
}

/// The operations of one kind that ran on the CPU.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct CpuOperation {
    /// The kind.
    pub operation: String,
    /// How many there were.
    pub count: u64,
    /// Those of them that a device was to do, but failed, gave back or did not take.
    pub retries: u64,
    /// Why the others ran there.
    pub reasons: Vec<ReasonCount>,
}

/// How often a reason was that.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct ReasonCount {
    /// The reason, in a word.
    pub reason: String,
    /// How often.
    pub count: u64,
}

/// One work queue.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// `good`, `quarantined` or `leaving`.
    pub health: String,
    /// Why it was quarantined the last time.
    pub last_fault: Option<String>,
    /// How descriptors are handed to it: `write`, `enqcmd`, `movdir64b` or `socket`.
    pub method: Option<String>,
    /// Operations that it took; one that is cut counts once a piece, here and below.
    pub submitted: u64,
    /// Those that ended well.
    pub completed: u64,
    /// Those that did not, for whatever reason.
    pub failed: u64,
    /// Those in its hands now.
    pub in_hand: u64,
    /// Those that wait for company to be handed over.
    pub pending: u64,
    /// Those that it had no room for.
    pub queue_full: u64,
    /// Times that something was handed over.
    pub batches: u64,
    /// Operations handed over behind a fence.
    pub fences: u64,
    /// Those that did not end in time.
    pub timeouts: u64,
    /// Those that came back as given up.
    pub aborted: u64,
    /// Those that came back because one before their fence failed.
    pub abandoned: u64,
    /// Those that it did not do although it is well, as after page faults.
    pub declined: u64,
    /// How often it was quarantined.
    pub quarantines: u64,
    /// How often it came back from that.
    pub revived: u64,
    /// Results that were compared with the CPU's.
    pub cross_checks: u64,
    /// Those of them that differed.
    pub mismatches: u64,
    /// One entry a kind of operation that it can do.
    pub operations: Vec<BackendOperation>,
}

/// The operations of one kind on one work queue.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct BackendOperation {
    /// The kind.
    pub operation: String,
    /// From how many bytes on it goes there; none for never.
    pub from_bytes: Option<u64>,
    /// Those that it took.
    pub submitted: u64,
    /// Those that ended well.
    pub completed: u64,
    /// Those that did not.
    pub failed: u64,
    /// Bytes of those that it took.
    pub bytes: u64,
}

/// A work queue that was found and is not used.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct UnusedQueue {
    /// Its name.
    pub name: String,
    /// Why, for people.
    pub reason: String,
}

/// Something that happened to a work queue.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct AlertStatus {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The work queue.
    pub backend: String,
    /// What, in a word: `quarantined`, `mismatch`, `giving_up_late`, `revived` or `removed`.
    pub kind: String,
    /// The same for people.
    pub message: String,
}
