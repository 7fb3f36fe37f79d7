//! What can be chosen about an engine.

use std::time::Duration;

/// Times and rates of an [`crate::Engine`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineConfig {
    /// How long a backend may have an operation before it is quarantined; 100 ms by default.
    pub op_timeout: Duration,
    /// Adds the time that an operation's bytes take at this rate to `op_timeout`; 100 MB a second by
    /// default, 0 for nothing.
    pub bytes_per_second_min: u64,
    /// Every so manieth operation of a backend is compared with what the CPU computes before anything that
    /// waits for it starts; 0, the default, for none. Operations that work in place cannot be compared,
    /// nor can an [`crate::Op::Xor`] of 255 sources.
    pub cross_check: u32,
    /// How long a backend is left alone after it was quarantined; 1 s by default. Each time that it does
    /// not revive, or fails again before it was well for `probe_max`, the next pause is twice as long.
    pub probe_after: Duration,
    /// The longest such pause; 60 s by default.
    pub probe_max: Duration,
    /// How long [`crate::Engine::run`] waits without anything coming back from a backend; 30 s by default.
    pub run_patience: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            op_timeout: Duration::from_millis(100),
            bytes_per_second_min: 100_000_000,
            cross_check: 0,
            probe_after: Duration::from_secs(1),
            probe_max: Duration::from_secs(60),
            run_patience: Duration::from_secs(30),
        }
    }
}

impl EngineConfig {
    /// How long a backend may have an operation on blocks of `len` bytes.
    pub(crate) fn timeout(&self, len: usize) -> Duration {
        // A length never has more than 64 bits.
        let nanos = (len as u64).saturating_mul(1_000_000_000).checked_div(self.bytes_per_second_min);
        self.op_timeout.saturating_add(Duration::from_nanos(nanos.unwrap_or(0)))
    }
}
