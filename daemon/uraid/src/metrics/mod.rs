//! What monitoring is told: the state of the array, its counters and its latencies, in the text format of
//! Prometheus, over HTTP on a socket that only this machine can reach.
//!
//! `families` is the table of all metrics, `page` writes them down, `http` answers. The figures are those
//! of `uraid status` and of the events, and nothing is counted twice. docs/metrics.md lists the metrics; a
//! test holds it, and the dashboard of Grafana, against the table.

mod families;
mod http;
mod page;

use std::time::SystemTime;

use crate::control::protocol::Status;
use crate::events::EventCounters;

pub use self::http::{Endpoint, serve};

/// What the metrics are made of.
#[derive(Debug)]
pub struct Source<'a> {
    /// The state of the array.
    pub status: &'a Status,
    /// What was told.
    pub events: &'a EventCounters,
    /// When the daemon started.
    pub started: SystemTime,
}

/// All metrics as text, version 0.0.4 of the format
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
pub fn text(source: &Source<'_>) -> String {
    page::write(source, families::FAMILIES)
}

/// The names of all metrics, and what each is.
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    families::FAMILIES.iter().map(|family| (family.name, family.kind.word()))
}
