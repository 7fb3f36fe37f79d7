//! Counters for operators and tests.

use crate::OpKind;
use crate::route::{Health, Reason};

/// What an [`crate::Engine`] counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EngineStats {
    /// The CPU backend's name.
    pub cpu: String,
    /// Operations that ran on the CPU, notifications included.
    pub cpu_ops: u64,
    /// Those of them that a backend was to run but failed, gave back or did not take.
    pub cpu_retries: u64,
    /// The same per kind, by `kind as usize`.
    pub cpu_kinds: [CpuKind; OpKind::COUNT],
    /// Completions that named no operation in the hands of the backend that reported them.
    pub stray_completions: u64,
    /// Chains that ended.
    pub chains: u64,
    /// Those of them that failed.
    pub chains_failed: u64,
    /// The other backends, in the order in which they were added.
    pub backends: Vec<BackendStats>,
}

impl EngineStats {
    /// The operations that ran on the CPU because of `reason`, of all kinds.
    pub fn on_cpu_for(&self, reason: Reason) -> u64 {
        self.cpu_kinds.iter().map(|kind| kind.reasons[reason as usize]).sum()
    }
}

/// The operations of one kind on the CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuKind {
    /// Those that were routed there, by `reason as usize`.
    pub reasons: [u64; Reason::COUNT],
    /// Those that a backend was to run but failed, gave back or did not take.
    pub retries: u64,
}

impl CpuKind {
    /// How many there were.
    pub fn ops(&self) -> u64 {
        self.reasons.iter().sum::<u64>() + self.retries
    }
}

/// What is known of one backend. An operation that is cut counts once a step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BackendStats {
    /// Its name.
    pub name: String,
    /// Whether it gets operations.
    pub health: Health,
    /// It failed, and gets nothing until it has proved that it works.
    pub quarantined: bool,
    /// Operations that it took.
    pub submitted: u64,
    /// Those that ended well.
    pub completed: u64,
    /// Those that did not, for whatever reason.
    pub failed: u64,
    /// Operations in its hands now.
    pub in_hand: u64,
    /// Operations that wait to be issued in a batch now.
    pub pending: u64,
    /// Operations of each kind, by `kind as usize`.
    pub kinds: [KindStats; OpKind::COUNT],
    /// Operations that it had no room for when they were issued.
    pub queue_full: u64,
    /// Calls that issued operations.
    pub batches: u64,
    /// Operations that were issued behind a fence.
    pub fences: u64,
    /// Operations that did not complete in time.
    pub timeouts: u64,
    /// Operations that came back as given up.
    pub aborted: u64,
    /// Operations that were not started because one before their fence failed, or whose result was void: for
    /// that reason, or because the backend computed wrongly meanwhile.
    pub abandoned: u64,
    /// Operations that it did not do, though healthy.
    pub declined: u64,
    /// How often it was quarantined.
    pub quarantines: u64,
    /// How often it proved that it works again.
    pub revived: u64,
    /// Results compared with those of the CPU.
    pub cross_checks: u64,
    /// Those that differed.
    pub mismatches: u64,
}

/// The operations of one kind on one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KindStats {
    /// Operations that it took.
    pub submitted: u64,
    /// Those that ended well.
    pub completed: u64,
    /// Those that did not.
    pub failed: u64,
    /// Bytes of one block of each operation that it took.
    pub bytes: u64,
}
