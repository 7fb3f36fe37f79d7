//! Lists of regions as lists of slices, without allocating.

use std::mem::MaybeUninit;

use async_tx::{Change, Product, Region, SOURCES_MAX};

/// Calls `body` with `blocks` as slices; with the first 255, should there be more.
///
/// # Safety
/// As [`Region::bytes`] for every block, until `body` returns.
#[inline]
pub(crate) unsafe fn with_blocks<R>(
    blocks: impl ExactSizeIterator<Item = Option<Region>>,
    body: impl FnOnce(&[Option<&[u8]>]) -> R,
) -> R {
    // SAFETY: passed on to the caller.
    with_list(blocks.map(|block| unsafe { optional(block) }), body)
}

/// Calls `body` with `changes` as slices.
///
/// # Safety
/// As [`with_blocks`], for the old and new blocks.
#[inline]
pub(crate) unsafe fn with_changes<R>(
    changes: &[Change],
    body: impl FnOnce(&[raid6_simd::Change<'_>]) -> R,
) -> R {
    let slices = |change: &Change| {
        // SAFETY: passed on to the caller.
        let (old, new) = unsafe { (optional(change.old), optional(change.new)) };
        raid6_simd::Change { exponent: change.exponent, old, new }
    };
    match changes {
        [one] => body(&[slices(one)]),
        _ => with_list(changes.iter().map(slices), body),
    }
}

/// Calls `body` with `products` as slices.
///
/// # Safety
/// As [`with_blocks`].
#[inline]
pub(crate) unsafe fn with_products<R>(
    products: &[Product],
    body: impl FnOnce(&[raid6_simd::Product<'_>]) -> R,
) -> R {
    let slices = |product: &Product| {
        // SAFETY: passed on to the caller.
        raid6_simd::Product { coefficient: product.coefficient, block: unsafe { product.src.bytes() } }
    };
    with_list(products.iter().map(slices), body)
}

/// The number of blocks of most arrays, at most.
const FEW: usize = 16;

/// Calls `body` with the items in a list; with the first 255, should there be more.
///
/// Few items get a small list: it is next to what the caller has on the stack, and so in the cache.
#[inline]
fn with_list<S: Copy, R>(items: impl ExactSizeIterator<Item = S>, body: impl FnOnce(&[S]) -> R) -> R {
    if items.len() <= FEW { with_room::<FEW, S, R>(items, body) } else { with_many(items, body) }
}

/// Keeps the large list out of the frames of those who have few.
#[inline(never)]
fn with_many<S: Copy, R>(items: impl Iterator<Item = S>, body: impl FnOnce(&[S]) -> R) -> R {
    with_room::<SOURCES_MAX, S, R>(items, body)
}

/// Calls `body` with the first `N` items. The list is not cleared first: that would cost more than a
/// 4 KiB xor.
#[inline(always)]
fn with_room<const N: usize, S: Copy, R>(items: impl Iterator<Item = S>, body: impl FnOnce(&[S]) -> R) -> R {
    let mut list = [const { MaybeUninit::<S>::uninit() }; N];
    let mut count = 0;
    for (entry, item) in list.iter_mut().zip(items) {
        entry.write(item);
        count += 1;
    }
    // SAFETY: the loop has written the first `count` entries.
    body(unsafe { std::slice::from_raw_parts(list.as_ptr().cast(), count) })
}

/// A block that may be absent, as a slice.
///
/// # Safety
/// As [`Region::bytes`].
#[inline]
pub(crate) unsafe fn optional<'a>(block: Option<Region>) -> Option<&'a [u8]> {
    // SAFETY: passed on to the caller.
    block.map(|block| unsafe { block.bytes() })
}
