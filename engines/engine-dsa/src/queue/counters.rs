//! What a queue counted, for operators and tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows; read from any thread.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, count: u64) {
        // Only one thread adds; a plain store is cheaper than an atomic addition and as good.
        self.0.store(self.get().wrapping_add(count), Ordering::Relaxed);
    }
}

/// Counters of a backend, over all lives of its queue.
#[derive(Default, Debug)]
pub struct Counters {
    /// Descriptors that the portal accepted, batches and resumed ones included, members not.
    pub descriptors: Counter,
    /// Batches.
    pub batches: Counter,
    /// Members of batches.
    pub members: Counter,
    /// Members with a fence.
    pub fences: Counter,
    /// Operations that ended well.
    pub completed: Counter,
    /// Operations that ended well after the queue was given up.
    pub late: Counter,
    /// Page faults.
    pub page_faults: Counter,
    /// Operations submitted again for the rest after a page fault.
    pub resumed: Counter,
    /// Operations left to the CPU though nothing is wrong with the device.
    pub declined: Counter,
    /// Operations not started, because one before their fence failed.
    pub abandoned: Counter,
    /// Operations that the device or the end of the queue failed.
    pub failed: Counter,
    /// Of these, those that had no record when the queue was closed.
    pub aborted: Counter,
    /// Kinds of operation that a queue turned out not to take.
    pub kinds_refused: Counter,
    /// Submissions that found the queue full.
    pub full: Counter,
    /// Times that the backend was told to give up.
    pub aborts: Counter,
    /// Times that it worked again afterwards.
    pub revivals: Counter,
    /// Attempts at that which failed.
    pub revivals_failed: Counter,
}
