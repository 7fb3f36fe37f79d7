//! Lists of regions as lists of slices, without allocating.

use async_tx::{Region, SOURCES_MAX};

/// Calls `body` with `blocks` as slices.
///
/// Most arrays have few members, and clearing the full list would cost more than a 4 KiB xor; hence the
/// small one.
///
/// # Safety
/// As [`Region::bytes`] for every block, until `body` returns.
pub(crate) unsafe fn with_blocks<R>(
    blocks: impl ExactSizeIterator<Item = Option<Region>>,
    body: impl FnOnce(&[Option<&[u8]>]) -> R,
) -> R {
    // SAFETY: passed on to the caller.
    unsafe {
        if blocks.len() <= 16 {
            with_list::<16, R>(blocks, body)
        } else {
            with_list::<SOURCES_MAX, R>(blocks, body)
        }
    }
}

/// As [`with_blocks`], for at most `N` blocks.
///
/// # Safety
/// As [`with_blocks`].
unsafe fn with_list<const N: usize, R>(
    blocks: impl ExactSizeIterator<Item = Option<Region>>,
    body: impl FnOnce(&[Option<&[u8]>]) -> R,
) -> R {
    let mut list = [None; N];
    let count = blocks.len().min(N);
    for (entry, block) in list.iter_mut().zip(blocks) {
        // SAFETY: passed on to the caller.
        *entry = unsafe { optional(block) };
    }
    body(list.get(..count).unwrap_or(&[]))
}

/// A block that may be absent, as a slice.
///
/// # Safety
/// As [`Region::bytes`].
pub(crate) unsafe fn optional<'a>(block: Option<Region>) -> Option<&'a [u8]> {
    // SAFETY: passed on to the caller.
    block.map(|block| unsafe { block.bytes() })
}
