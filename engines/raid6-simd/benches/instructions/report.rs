//! The counts, and the table of them.

use std::collections::BTreeMap;

use crate::baseline::Baseline;
use crate::cases::Case;

/// What a case may be above the baseline, in percent.
pub(crate) const GROWTH_MAX: f64 = 3.0;

/// Instructions by the names of cases.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) callgrind: BTreeMap<String, u64>,
    pub(crate) steps: BTreeMap<String, u64>,
}

impl Counts {
    /// The count of a case: callgrind's where there are two.
    pub(crate) fn of(&self, case: &Case) -> Option<u64> {
        let id = case.id();
        self.callgrind.get(&id).or_else(|| self.steps.get(&id)).copied()
    }

    /// One count a case.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&String, u64)> {
        let only_steps = self.steps.iter().filter(|(id, _)| !self.callgrind.contains_key(*id));
        self.callgrind.iter().chain(only_steps).map(|(id, count)| (id, *count))
    }

    /// Who counted it; with both, by how much the steps are more.
    fn way(&self, id: &str) -> String {
        match (self.callgrind.get(id), self.steps.get(id)) {
            (Some(callgrind), Some(steps)) => {
                format!("both {:+}", steps.cast_signed() - callgrind.cast_signed())
            }
            (Some(_), None) => "callgrind".to_owned(),
            _ => "steps".to_owned(),
        }
    }
}

/// Prints a line a case, and returns the names of those that grew by more than [`GROWTH_MAX`] percent.
pub(crate) fn print(cases: &[Case], counts: &Counts, baseline: &Baseline) -> Vec<String> {
    println!(
        "\n{:<38} {:>9} {:>9} {:>9} {:>8}  counted by",
        "case", "a call", "a byte", "baseline", "change"
    );
    let mut grown = Vec::new();
    let mut operation = None;
    for case in cases {
        if operation.is_some_and(|operation| operation != case.operation) {
            println!();
        }
        operation = Some(case.operation);
        let id = case.id();
        let Some(count) = counts.of(case) else {
            println!("{id:<38} {:>9}", "-");
            continue;
        };
        let a_byte = count as f64 / case.operation.data_bytes(case.shape) as f64;
        let before = baseline.of(&id);
        let change = before.map(|before| (count as f64 / before.max(1) as f64 - 1.0) * 100.0);
        let before = before.map_or("-".to_owned(), |before| before.to_string());
        let percent = change.map_or("new".to_owned(), |change| format!("{change:+.1} %"));
        println!("{id:<38} {count:>9} {a_byte:>9.4} {before:>9} {percent:>8}  {}", counts.way(&id));
        if change.is_some_and(|change| change > GROWTH_MAX) {
            grown.push(id);
        }
    }
    grown
}
