//! From the words of a configuration to the numbers of a shard.

use std::time::Duration;

use uraid_config::{Config, IoEngine};
use uraid_shard::{ConnectionLimits, Tuning};

/// What the shard is to use.
pub(super) fn tuning(config: &Config) -> Tuning {
    Tuning {
        cache_bytes: as_usize(config.cache.stripes.bytes()),
        pool_bytes: as_usize(config.cache.requests.bytes()),
        lock_memory: config.cache.lock_memory,
        spin: config.spin,
        connection: connection(config),
        connections: as_usize(config.limits.connections.into()),
        stall: config.limits.stall,
        io_uring: config.io.engine != IoEngine::Sync,
        safe_mode_ms: as_ms(config.safe_mode_delay),
        sync_window: config.sync.stripes_in_flight,
        self_check: false,
    }
}

/// What one connection may have in flight.
pub(super) fn connection(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        requests: config.limits.requests_per_connection,
        bytes: config.limits.bytes_per_connection.bytes(),
    }
}

fn as_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_both_sides_are_the_same() {
        assert_eq!(tuning(&Config::with_members(vec!["/m".into()])), Tuning::default());
    }
}
