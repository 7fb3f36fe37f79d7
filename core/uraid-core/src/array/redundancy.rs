//! Where in the array fewer failures are survived than its level promises.
//!
//! The state of a stripe depends on cursors (how far a resync or a rebuild has come) and on the few stripes
//! that a pass finished ahead of its cursor, so it is told as extents without looking at every stripe. Rows
//! are what lies together in the array: where a row has several bands, the worst of them counts.

use super::Array;
use super::members::State;
use std::collections::BTreeSet;
use std::ops::Range;

/// What is less than whole about a range.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Redundancy {
    /// Members whose blocks are missing here: failed, not rebuilt yet, or bad.
    pub missing: u16,
    /// Parity is not known to match the data here: a resync has not been here.
    pub unmatched: bool,
}

impl Redundancy {
    fn worst(self, other: Redundancy) -> Redundancy {
        Redundancy { missing: self.missing.max(other.missing), unmatched: self.unmatched || other.unmatched }
    }
}

impl Array {
    /// The redundancy of the array from byte `offset` on, as extents in order: bytes, and their state.
    /// Neighbours differ; together they are `len` bytes, or what there is of the array.
    pub fn redundancy(&self, offset: u64, len: u64) -> Vec<(u64, Redundancy)> {
        let row_bytes = self.geometry.chunk_bytes() * u64::from(self.geometry.data());
        let end = offset.saturating_add(len).min(self.geometry.array_bytes());
        if offset >= end {
            return Vec::new();
        }
        let bands = self.geometry.bands();
        let breaks = self.stripe_breaks(&(offset / row_bytes * bands..end.div_ceil(row_bytes) * bands));
        let row_breaks: BTreeSet<u64> =
            breaks.iter().flat_map(|stripe| [stripe / bands, stripe.div_ceil(bands)]).collect();
        let mut extents: Vec<(u64, Redundancy)> = Vec::new();
        let mut at = offset;
        while at < end {
            let row = at / row_bytes;
            let next = row_breaks.range(row + 1..).next().copied().unwrap_or(self.geometry.rows());
            let to = next.saturating_mul(row_bytes).clamp(at + 1, end);
            let stripes = breaks.range(row * bands + 1..(row + 1) * bands).copied();
            let state = stripes
                .fold(self.redundancy_at(row * bands), |all, stripe| all.worst(self.redundancy_at(stripe)));
            match extents.last_mut() {
                Some((bytes, last)) if *last == state => *bytes += to - at,
                _ => extents.push((to - at, state)),
            }
            at = to;
        }
        extents
    }

    fn redundancy_at(&self, stripe: u64) -> Redundancy {
        let roles = self.geometry.pattern(stripe).roles.iter();
        let missing = roles.filter(|role| self.in_sync_at(**role, stripe).is_none()).count();
        // There are at most 255 roles.
        let missing = missing as u16 + self.bad_in_a_column(stripe);
        Redundancy { missing, unmatched: !self.parity_trusted(stripe) }
    }

    /// The stripes of a range, which is not empty, at which the state may change; others, too. There may be hundreds
    /// of thousands of regions, so only those of the range are looked at.
    fn stripe_breaks(&self, stripes: &Range<u64>) -> BTreeSet<u64> {
        let rebuilding = self.members.values().filter(|m| m.state == State::Rebuilding);
        let mut breaks: BTreeSet<u64> = rebuilding.map(|m| m.rebuilt).collect();
        breaks.insert(self.meta.resynced);
        breaks.extend(self.sync_breaks());
        if let Some(intent) = &self.intent {
            breaks.extend(intent.breaks(intent.needed(), stripes));
            let missed = self.members.values().filter_map(|m| m.missed.as_ref());
            breaks.extend(missed.flat_map(|set| intent.breaks(set, stripes)));
        }
        breaks.extend(self.bad_breaks());
        breaks
    }
}

/// Stripes of an array up to which [`Array::check_redundancy`] looks at each of them.
const CHECKED_STRIPES: u64 = 4096;

impl Array {
    /// The extents are those of a walk over every stripe. For small arrays, as tests have.
    pub(super) fn check_redundancy(&self) -> Result<(), String> {
        let geometry = &self.geometry;
        if geometry.stripes() > CHECKED_STRIPES {
            return Ok(());
        }
        let row_bytes = geometry.chunk_bytes() * u64::from(geometry.data());
        let mut slow: Vec<(u64, Redundancy)> = Vec::new();
        for row in 0..geometry.rows() {
            let stripes = row * geometry.bands()..(row + 1) * geometry.bands();
            let state = stripes.map(|s| self.redundancy_at(s)).fold(Redundancy::default(), Redundancy::worst);
            match slow.last_mut() {
                Some((bytes, last)) if *last == state => *bytes += row_bytes,
                _ => slow.push((row_bytes, state)),
            }
        }
        let fast = self.redundancy(0, geometry.array_bytes());
        if fast == slow { Ok(()) } else { Err(format!("redundancy is {slow:?} and told as {fast:?}")) }
    }
}
