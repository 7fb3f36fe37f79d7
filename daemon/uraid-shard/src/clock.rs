//! Time, passed in and never fetched: the array is told what time it is by whoever runs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use uraid_core::Tick;

/// Says what time it is. Time never goes back.
pub trait Clock {
    /// Nanoseconds since a moment that the clock chose.
    fn now(&self) -> Tick;
}

/// The machine's monotonic clock, zero when it was made.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock {
    start: Instant,
}

impl MonotonicClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for MonotonicClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Tick {
        Tick(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// A clock that stands still until it is moved, for simulations. Clones are the same clock.
#[derive(Clone, Debug, Default)]
pub struct ManualClock {
    nanoseconds: Arc<AtomicU64>,
}

impl ManualClock {
    /// Moves the clock on by so many nanoseconds.
    pub fn advance(&self, nanoseconds: u64) {
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Moves the clock on to `to`, unless it is there already.
    pub fn advance_to(&self, to: Tick) {
        self.nanoseconds.fetch_max(to.0, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Tick {
        Tick(self.nanoseconds.load(Ordering::Relaxed))
    }
}
