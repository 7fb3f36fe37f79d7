//! What happened in a device, counted.

/// Counters since the device was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Submissions accepted, those lost by a full dedicated queue among them.
    pub accepted: u64,
    /// Descriptors that a full, disabled or halted dedicated queue took and dropped.
    pub lost: u64,
    /// Submissions that were told to retry.
    pub retried: u64,
    /// Calls refused by the plan.
    pub refused: u64,
    /// Calls cut short by the plan.
    pub shortened: u64,
    /// Descriptors executed, members of batches among them.
    pub executed: u64,
    /// Records written.
    pub records: u64,
    /// Records that could not be written.
    pub record_faults: u64,
    /// Outstanding descriptors that a close, halt, disable or reset dropped.
    pub vanished: u64,
    /// Planned page faults that happened.
    pub page_faults: u64,
    /// Planned moves from the end, whether or not their buffers allowed it.
    pub backward: u64,
    /// Planned statuses.
    pub statuses: u64,
    /// Records that were never written, as planned.
    pub lost_records: u64,
    /// Records written late, or still to be.
    pub delayed: u64,
    /// Descriptors stalled.
    pub stalled: u64,
    /// Records rewritten.
    pub duplicated: u64,
    /// Executions whose writes were scattered.
    pub scattered: u64,
    /// Bits flipped.
    pub corrupted: u64,
    /// Entries that went before an older one.
    pub reordered: u64,
    /// Halts.
    pub halts: u64,
    /// Disables.
    pub disables: u64,
    /// Resets.
    pub resets: u64,
    /// Descriptors executed after a close began or a reset.
    pub stragglers: u64,
}
