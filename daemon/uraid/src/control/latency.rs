//! What the daemon says about how long things take. A part of [`Status`](super::protocol::Status).

use serde::{Deserialize, Serialize};

/// The operations of one kind, of clients or of a member, since the daemon started.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(default)]
pub struct OperationStatus {
    /// The kind.
    pub operation: String,
    /// How many there were, those that failed included.
    pub count: u64,
    /// Bytes that they were about.
    pub bytes: u64,
    /// How long all of them took together, in microseconds.
    pub total_us: u64,
    /// Half of them took no longer than this; none if there were none.
    pub p50_us: Option<u64>,
    /// 99 of 100 took no longer than this.
    pub p99_us: Option<u64>,
    /// How many took longer than the bound before and no longer than the bound of this place in
    /// [`latency_bounds_us`](super::protocol::Status::latency_bounds_us); the last one has no bound.
    pub buckets: Vec<u64>,
}

impl OperationStatus {
    /// With the quantiles that follow from the buckets.
    pub fn new(operation: &str, bytes: u64, total_us: u64, buckets: Vec<u64>, bounds_us: &[u64]) -> Self {
        OperationStatus {
            operation: operation.to_owned(),
            count: buckets.iter().sum(),
            bytes,
            total_us,
            p50_us: quantile(&buckets, bounds_us, 50),
            p99_us: quantile(&buckets, bounds_us, 99),
            buckets,
        }
    }

    /// What was done since `before`, an earlier look at the same operations; all of it if the daemon was
    /// started anew in between.
    #[must_use]
    pub fn since(&self, before: &Self, bounds_us: &[u64]) -> Self {
        if self.count < before.count || self.buckets.len() != before.buckets.len() {
            return self.clone();
        }
        let buckets = self.buckets.iter().zip(&before.buckets).map(|(now, then)| now.saturating_sub(*then));
        Self::new(
            &self.operation,
            self.bytes.saturating_sub(before.bytes),
            self.total_us.saturating_sub(before.total_us),
            buckets.collect(),
            bounds_us,
        )
    }
}

/// The time within which `percent` of what the buckets count was done, as far as the bounds tell: within a
/// bucket the times are taken to be spread evenly, as Prometheus does it. What is beyond the last bound
/// counts as that bound. None if nothing was counted.
pub fn quantile(buckets: &[u64], bounds_us: &[u64], percent: u64) -> Option<u64> {
    let count: u64 = buckets.iter().sum();
    if count == 0 {
        return None;
    }
    let rank = u128::from(count) * u128::from(percent);
    let mut below = 0_u128;
    let mut from = 0_u64;
    for (index, inside) in buckets.iter().copied().enumerate() {
        let Some(to) = bounds_us.get(index).copied() else { break };
        let inside = u128::from(inside) * 100;
        if inside > 0 && below + inside >= rank {
            let into = u128::from(to.saturating_sub(from)) * (rank - below) / inside;
            return Some(from.saturating_add(u64::try_from(into).unwrap_or(u64::MAX)));
        }
        below += inside;
        from = to;
    }
    bounds_us.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [u64; 4] = [10, 20, 40, 80];

    #[test]
    fn quantiles_lie_where_the_counts_say() {
        assert_eq!(quantile(&[0; 5], &BOUNDS, 50), None);
        // All within the first bucket: spread evenly.
        assert_eq!(quantile(&[100, 0, 0, 0, 0], &BOUNDS, 50), Some(5));
        assert_eq!(quantile(&[0, 0, 100, 0, 0], &BOUNDS, 99), Some(39));
        assert_eq!(quantile(&[50, 0, 50, 0, 0], &BOUNDS, 50), Some(10));
        assert_eq!(quantile(&[98, 0, 0, 2, 0], &BOUNDS, 99), Some(60));
        // Beyond the last bound nothing is known but that.
        assert_eq!(quantile(&[0, 0, 0, 0, 7], &BOUNDS, 50), Some(80));
        assert_eq!(quantile(&[u64::MAX / 2, 0, 0, u64::MAX / 2, 0], &BOUNDS, 99), Some(79));
        assert_eq!(quantile(&[1], &[], 50), None);
    }

    /// Against the slow way: every time written down, each bucket spread evenly.
    #[test]
    fn quantiles_agree_with_a_list_of_all_times() {
        for (a, b, c) in [(1, 0, 0), (3, 5, 2), (100, 1, 1), (0, 7, 90)] {
            let buckets = [a, b, c, 0, 0];
            let spread =
                |from: f64, to: f64, n: u64| (1..=n).map(move |i| from + (to - from) * i as f64 / n as f64);
            let mut all: Vec<f64> = spread(0.0, 10.0, a).chain(spread(10.0, 20.0, b)).collect();
            all.extend(spread(20.0, 40.0, c));
            for percent in [50, 99] {
                let rank = (all.len() as f64 * percent as f64 / 100.0).ceil() as usize;
                let found = quantile(&buckets, &BOUNDS, percent).unwrap() as f64;
                let exact = all[rank - 1];
                assert!(found <= exact && exact - found <= 10.0, "{buckets:?} {percent}: {found} {exact}");
            }
        }
    }

    #[test]
    fn what_was_done_since_a_look_has_its_own_quantiles() {
        let before = OperationStatus::new("read", 4096, 10, vec![100, 0, 0, 0, 0], &BOUNDS);
        let now = OperationStatus::new("read", 8192, 110, vec![100, 0, 0, 2, 0], &BOUNDS);
        let since = now.since(&before, &BOUNDS);
        assert_eq!((since.count, since.bytes, since.total_us, since.p50_us), (2, 4096, 100, Some(60)));
        assert_eq!(before.since(&now, &BOUNDS), before, "a daemon that was started anew");
    }
}
