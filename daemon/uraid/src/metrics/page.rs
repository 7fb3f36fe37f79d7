//! The text format: families, their samples, and how names and values are written.

use std::fmt::{Display, Write as _};

use super::Source;
use crate::control::latency::OperationStatus;

/// What a metric is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// It only grows, until the daemon is started anew.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were within each of some bounds.
    Histogram,
}

impl Kind {
    /// The word of the format.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric with its samples.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
    /// The labels beside `array`.
    pub(super) labels: &'static [&'static str],
    /// Writes the samples of a source.
    pub(super) samples: fn(&Source<'_>, &mut Samples<'_>),
}

/// Takes the samples of one family.
pub(super) struct Samples<'p> {
    page: &'p mut String,
    family: &'p Family,
    array: &'p str,
}

/// All families that have samples.
pub(super) fn write(source: &Source<'_>, families: &[Family]) -> String {
    let mut page = String::new();
    for family in families {
        let before = page.len();
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(page, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(page, "# TYPE {} {}", family.name, family.kind.word());
        let without_samples = page.len();
        (family.samples)(source, &mut Samples { page: &mut page, family, array: &source.status.name });
        if page.len() == without_samples {
            page.truncate(before);
        }
    }
    page
}

impl Samples<'_> {
    /// A sample with the values of the family's labels, in their order.
    pub(super) fn add(&mut self, labels: &[&str], value: impl Display) {
        self.line("", labels, None, value);
    }

    /// 1 for the one of `words` that is the case, 0 for the others.
    pub(super) fn one_of(&mut self, labels: &[&str], words: &[&str], case: &str) {
        for word in words {
            let labels = [labels, &[*word]].concat();
            self.add(&labels, u8::from(*word == case));
        }
    }

    /// A histogram of latencies.
    pub(super) fn histogram(&mut self, labels: &[&str], operation: &OperationStatus, bounds_us: &[u64]) {
        let mut within = 0_u64;
        for (index, count) in operation.buckets.iter().enumerate() {
            within = within.saturating_add(*count);
            let bound = bounds_us.get(index).map_or("+Inf".to_owned(), |us| seconds(*us));
            self.line("_bucket", labels, Some(&bound), within);
        }
        self.line("_sum", labels, None, seconds(operation.total_us));
        self.line("_count", labels, None, within);
    }

    fn line(&mut self, suffix: &str, labels: &[&str], le: Option<&str>, value: impl Display) {
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        let _ = write!(self.page, "{}{suffix}{{array=\"{}\"", self.family.name, escaped(self.array));
        let names = self.family.labels.iter().copied().chain(["le"]);
        for (name, value) in names.zip(labels.iter().copied().chain(le)) {
            let _ = write!(self.page, ",{name}=\"{}\"", escaped(value));
        }
        let _ = writeln!(self.page, "}} {value}");
    }
}

/// Microseconds as seconds, exactly and without more digits than it takes: `0.000004`, `16.777216`.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_and_sums_are_exact() {
        for (us, text) in [(0, "0"), (4, "0.000004"), (1_500_000, "1.5"), (16_777_216, "16.777216")] {
            assert_eq!(seconds(us), text);
        }
        assert_eq!(seconds(u64::MAX), "18446744073709.551615");
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
