//! How often each fault happened and each path was taken.

use std::collections::BTreeMap;
use std::fmt;

use async_tx::EngineStats;
use dsa_model::counters::Counters as ModelCounters;
use engine_dsa::queue::Counters;

/// Counts by name.
#[derive(Default)]
pub(crate) struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    pub(crate) fn count(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    pub(crate) fn add(&mut self, other: &Coverage) {
        other.0.iter().for_each(|(name, count)| self.count(name, *count));
    }

    /// What never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect()
    }

    pub(crate) fn model(&mut self, model: &ModelCounters) {
        for (name, count) in [
            ("fault: retry", model.retried),
            ("fault: refused call", model.refused),
            ("fault: shortened call", model.shortened),
            ("fault: vanished", model.vanished),
            ("fault: page fault", model.page_faults),
            ("fault: backward move", model.backward),
            ("fault: status", model.statuses),
            ("fault: lost record", model.lost_records),
            ("fault: delayed record", model.delayed),
            ("fault: stalled", model.stalled),
            ("fault: scattered writes", model.scattered),
            ("fault: corrupted data", model.corrupted),
            ("fault: reordered", model.reordered),
            ("fault: halt", model.halts),
            ("fault: disable", model.disables),
            ("fault: reset", model.resets),
            ("fault: straggler", model.stragglers),
        ] {
            self.count(name, count);
        }
    }

    pub(crate) fn driver(&mut self, driver: &Counters) {
        for (name, counter) in [
            ("driver: batch", &driver.batches),
            ("driver: member", &driver.members),
            ("driver: fence", &driver.fences),
            ("driver: completed", &driver.completed),
            ("driver: late but completed", &driver.late),
            ("driver: page fault", &driver.page_faults),
            ("driver: resumed", &driver.resumed),
            ("driver: declined", &driver.declined),
            ("driver: abandoned", &driver.abandoned),
            ("driver: failed", &driver.failed),
            ("driver: aborted operation", &driver.aborted),
            ("driver: kind refused", &driver.kinds_refused),
            ("driver: full", &driver.full),
            ("driver: abort", &driver.aborts),
            ("driver: revival", &driver.revivals),
            ("driver: revival failed", &driver.revivals_failed),
        ] {
            self.count(name, counter.get());
        }
    }

    pub(crate) fn engine(&mut self, stats: &EngineStats) {
        self.count("engine: operation on the CPU", stats.cpu_ops);
        self.count("engine: retry on the CPU", stats.cpu_retries);
        for backend in &stats.backends {
            self.count("engine: timeout", backend.timeouts);
            self.count("engine: cross-check", backend.cross_checks);
            self.count("engine: mismatch", backend.mismatches);
            self.count("engine: queue full", backend.queue_full);
            self.count("engine: quarantine", backend.quarantines);
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, count)| writeln!(f, "{count:>12}  {name}"))
    }
}
