//! Lists of regions as lists of slices, without allocating.

use async_tx::{Change, Product, Region, SOURCES_MAX};

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

/// Calls `body` with `changes` as slices.
///
/// # Safety
/// As [`with_blocks`], for the old and new blocks.
pub(crate) unsafe fn with_changes<R>(
    changes: &[Change],
    body: impl FnOnce(&[raid6_simd::Change<'_>]) -> R,
) -> R {
    let slices = |change: &Change| {
        // SAFETY: passed on to the caller.
        let (old, new) = unsafe { (optional(change.old), optional(change.new)) };
        raid6_simd::Change { exponent: change.exponent, old, new }
    };
    let none = raid6_simd::Change { exponent: 0, old: None, new: None };
    match changes {
        [one] => body(&[slices(one)]),
        few if few.len() <= 16 => body(fill(&mut [none; 16], few, slices)),
        many => body(fill(&mut [none; SOURCES_MAX], many, slices)),
    }
}

/// Calls `body` with `products` as slices.
///
/// # Safety
/// As [`with_blocks`].
pub(crate) unsafe fn with_products<R>(
    products: &[Product],
    body: impl FnOnce(&[raid6_simd::Product<'_>]) -> R,
) -> R {
    let slices = |product: &Product| {
        // SAFETY: passed on to the caller.
        raid6_simd::Product { coefficient: product.coefficient, block: unsafe { product.src.bytes() } }
    };
    let none = raid6_simd::Product { coefficient: 0, block: &[] };
    match products {
        few if few.len() <= 16 => body(fill(&mut [none; 16], few, slices)),
        many => body(fill(&mut [none; SOURCES_MAX], many, slices)),
    }
}

/// The first entries of `list`, set to what becomes of `items`.
fn fill<'a, T, S>(list: &'a mut [S], items: &[T], mut make: impl FnMut(&T) -> S) -> &'a [S] {
    let count = items.len().min(list.len());
    for (entry, item) in list.iter_mut().zip(items) {
        *entry = make(item);
    }
    list.get(..count).unwrap_or(&[])
}

/// A block that may be absent, as a slice.
///
/// # Safety
/// As [`Region::bytes`].
pub(crate) unsafe fn optional<'a>(block: Option<Region>) -> Option<&'a [u8]> {
    // SAFETY: passed on to the caller.
    block.map(|block| unsafe { block.bytes() })
}
