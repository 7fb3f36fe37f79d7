//! What clients did lately: two earlier looks at their operations are kept, so that whoever asks gets the
//! rates of the last seconds, and not of the daemon's life.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use uraid_shard::{ClientOps, ShardStatus};

use super::picture::client_operations;
use crate::control::protocol::RecentStatus;

/// The least time between two looks that are kept. Rates are of one to two such times.
const APART: Duration = Duration::from_secs(5);

/// Operations as they were, and when.
#[derive(Clone, Debug)]
struct Look {
    uptime: Duration,
    operations: ClientOps,
}

/// Earlier looks.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Looks>);

#[derive(Debug, Default)]
struct Looks {
    older: Option<Look>,
    newer: Option<Look>,
}

impl Recent {
    /// What was done since the older one of the looks that are kept; keeps this one if it is time.
    pub(super) fn of(&self, shard: &ShardStatus) -> Option<RecentStatus> {
        // Figures are sound whatever happened to who held them.
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Look { uptime: shard.uptime, operations: shard.client_ops };
        let recent = looks.older.as_ref().or(looks.newer.as_ref()).and_then(|then| since(then, &now));
        if looks.newer.as_ref().is_none_or(|newer| now.uptime.saturating_sub(newer.uptime) >= APART) {
            looks.older = looks.newer.replace(now);
        }
        recent
    }
}

fn since(then: &Look, now: &Look) -> Option<RecentStatus> {
    let time = now.uptime.checked_sub(then.uptime).filter(|time| *time >= Duration::from_millis(100))?;
    let (before, operations) = (client_operations(&then.operations), client_operations(&now.operations));
    let bounds = super::picture::bounds_us();
    let since = operations.iter().zip(&before).map(|(now, then)| now.since(then, &bounds));
    Some(RecentStatus {
        milliseconds: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        operations: since.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(seconds: u64, reads: u64) -> Look {
        let mut operations = ClientOps::default();
        (0..reads).for_each(|_| operations[0].latency.record(10_000));
        operations[0].bytes = reads * 4096;
        Look { uptime: Duration::from_secs(seconds), operations }
    }

    #[test]
    fn what_was_done_between_two_looks() {
        let recent = since(&look(10, 100), &look(15, 300)).unwrap();
        assert_eq!((recent.milliseconds, recent.operations[0].count), (5000, 200));
        assert_eq!(recent.operations[0].bytes, 200 * 4096);
        assert_eq!(recent.operations[1].count, 0);
        assert_eq!(since(&look(10, 0), &look(10, 0)), None, "no time, no rate");
        assert_eq!(since(&look(10, 0), &look(9, 0)), None);
    }
}
