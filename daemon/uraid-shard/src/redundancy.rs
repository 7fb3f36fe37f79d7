//! The metadata context that tells clients where the array survives less than it should.

use nbd_rs::{ApiMisuse, Context, ExportInfo, Extent};
use uraid_core::{Array, Redundancy};

/// The context's name.
pub const REDUNDANCY_CONTEXT: &str = "x-uraid:redundancy";

/// Status bits of [`REDUNDANCY_CONTEXT`]; a range without any is as safe as the level promises.
pub mod redundancy_flag {
    /// A member is missing here: it failed, or its replacement was not rebuilt here yet.
    pub const REDUCED: u64 = 1 << 0;
    /// Parity is not known to match the data here: a resync is due or under way and was not here.
    pub const UNMATCHED: u64 = 1 << 1;
    /// The loss of one more member, or a block that can't be read, loses data here.
    pub const NONE: u64 = 1 << 2;
}

/// The export with the context that a shard serves besides `base:allocation`. No other context may be added
/// before it.
///
/// # Errors
/// As [`ExportInfo::with_context`].
pub fn with_redundancy_context(export: ExportInfo) -> Result<ExportInfo, ApiMisuse> {
    export.with_context(REDUNDANCY_CONTEXT)
}

/// What a context says about the array from `offset` on. All of the array is allocated, so `base:allocation`
/// has nothing to say.
pub(crate) fn extents(array: &Array, context: Context, offset: u64, len: u64) -> Vec<Extent> {
    if context == Context::BASE_ALLOCATION {
        return Vec::new();
    }
    let parity = array.geometry().parity();
    let extent = |(len, state)| Extent { len, status: status(state, parity) };
    array.redundancy(offset, len).into_iter().map(extent).collect()
}

fn status(state: Redundancy, parity: u16) -> u64 {
    use redundancy_flag::{NONE, REDUCED, UNMATCHED};
    let bits = [
        (state.missing > 0, REDUCED),
        (state.unmatched, UNMATCHED),
        (state.unmatched || state.missing >= parity, NONE),
    ];
    bits.into_iter().filter(|(on, _)| *on).fold(0, |all, (_, bit)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_say_what_is_left() {
        let of = |missing, unmatched, parity| status(Redundancy { missing, unmatched }, parity);
        assert_eq!((of(0, false, 1), of(0, false, 2)), (0, 0));
        assert_eq!((of(1, false, 2), of(1, false, 1), of(2, false, 2)), (1, 5, 5));
        assert_eq!((of(0, true, 1), of(0, true, 2), of(1, true, 2)), (6, 6, 7));
    }
}
