//! From the words of a configuration to the numbers of a shard.

use std::time::Duration;

use uraid_config::{Config, IoEngine};
use uraid_shard::{ConnectionLimits, Tuning};

/// What the shard is to use.
pub(super) fn tuning(config: &Config) -> Tuning {
    let usual = Tuning::default();
    Tuning {
        cache_bytes: as_usize(config.cache.stripes.bytes()),
        pool_bytes: as_usize(config.cache.requests.bytes()),
        spin: config.spin,
        connection: ConnectionLimits {
            requests: config.limits.requests_per_connection,
            ..ConnectionLimits::default()
        },
        connections: as_usize(config.limits.connections.into()),
        io_uring: config.io.engine != IoEngine::Sync,
        safe_mode_ms: as_ms(config.safe_mode_delay),
        ..usual
    }
}

/// Says which settings of the configuration this version does not act on.
pub(super) fn warn_of_unused(config: &Config) {
    let usual = uraid_config::Sync::default();
    if config.sync.speed_max.is_some() {
        tracing::warn!("[sync] speed_max is not acted on in this version: only clients slow a resync down");
    }
    if config.sync.checkpoint != usual.checkpoint {
        tracing::warn!("[sync] checkpoint_s is not acted on in this version: it is 60 seconds");
    }
}

fn as_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
