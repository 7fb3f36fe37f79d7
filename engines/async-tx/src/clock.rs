//! Time, as the engine needs it: to give up what never completes, and to look again at what failed.

use std::time::{Duration, Instant};

/// Nanoseconds of a clock that never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A time that never comes.
    pub const NEVER: Nanos = Nanos(u64::MAX);

    /// This time and so much more, at most [`Nanos::NEVER`].
    pub fn after(self, duration: Duration) -> Nanos {
        Nanos(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How much time has passed since `earlier`; none if that is later.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A clock. It is read only while something is in the hands of a backend or quarantined.
pub trait Clock: Send {
    /// The time.
    fn now(&self) -> Nanos;
}

/// The system's monotonic clock, counted from its making.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic(Instant);

impl Monotonic {
    /// A clock that stands at zero now.
    pub fn new() -> Self {
        Monotonic(Instant::now())
    }
}

impl Default for Monotonic {
    fn default() -> Self {
        Monotonic::new()
    }
}

impl Clock for Monotonic {
    fn now(&self) -> Nanos {
        Nanos::default().after(self.0.elapsed())
    }
}
