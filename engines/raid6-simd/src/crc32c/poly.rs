//! The Castagnoli polynomial.
//!
//! A remainder is a `u32` in reflected order: bit `i` is the coefficient of `x^(31-i)`. Wider values
//! follow the same rule, so that a `u64` with a remainder in its upper half is that remainder.

/// The polynomial without its `x^32`.
pub(super) const POLY: u32 = 0x82f6_3b78;

/// `a x`.
pub(super) const fn times_x(a: u32) -> u32 {
    (a >> 1) ^ if a & 1 == 1 { POLY } else { 0 }
}
