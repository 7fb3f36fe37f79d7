//! Powers of x modulo the Castagnoli polynomial, and the constants made of them: what moves a remainder
//! over bytes that follow.
//!
//! A carry-less multiplication of two reflected 64-bit values adds their bit numbers, and the product's
//! highest bit number is 126, not 127. Read as a reflected 128-bit value, the result is therefore the
//! product *times x*, which is why the constants are divided by x beforehand.

use super::poly::{POLY, times_x};

/// `x^0`.
pub(super) const ONE: u32 = 1 << 31;

/// `a / x`. P ends in 1, so adding it makes any polynomial divisible by x.
pub(super) const fn over_x(a: u32) -> u32 {
    if a & ONE == 0 { a << 1 } else { ((a ^ POLY) << 1) | 1 }
}

/// `a b`.
pub(super) const fn mul(a: u32, b: u32) -> u32 {
    let (mut product, mut shifted, mut bit) = (0, b, ONE);
    while bit != 0 {
        if a & bit != 0 {
            product ^= shifted;
        }
        shifted = times_x(shifted);
        bit >>= 1;
    }
    product
}

/// `x^n`, or `x^n` modulo P to be exact.
pub(super) const fn x_pow(n: u32) -> u32 {
    let (mut power, mut square, mut left) = (ONE, times_x(ONE), n);
    while left != 0 {
        if left & 1 == 1 {
            power = mul(power, square);
        }
        square = mul(square, square);
        left >>= 1;
    }
    power
}

/// The constant that moves a state over this many bytes.
///
/// Let `c` be a state and `k` the constant, both in the lower halves of 64-bit registers. The lower half
/// of their carry-less product, read as a reflected 64-bit value, is `c k x`. It is fed to the `crc32`
/// instruction, or added to the last 64 bits of something that is fed to it in the end, and this
/// multiplies it with `x^32`. The outcome `c k x^33` is to be `c x^b` for b bits, so `k` is `x^(b - 33)`. There
/// are five bytes at least.
pub(super) const fn move_over(bytes: usize) -> u32 {
    x_pow(8 * bytes as u32 - 33)
}

/// The constants that move the halves of a 128-bit lane over this many bytes: `x^(64 + b) / x` and
/// `x^b / x` for b bits, each in the upper half of a 64-bit value.
pub(super) const fn lane_keys(bytes: usize) -> [u64; 2] {
    let bits = 8 * bytes as u32;
    [(over_x(x_pow(bits + 64)) as u64) << 32, (over_x(x_pow(bits)) as u64) << 32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_agree_with_repeated_multiplication() {
        let mut power = ONE;
        for n in 0..2_000 {
            assert_eq!(x_pow(n), power, "x^{n}");
            assert_eq!(over_x(times_x(power)), power, "x^{n} x / x");
            assert_eq!(mul(power, x_pow(100)), x_pow(n + 100), "x^{n} x^100");
            power = times_x(power);
        }
    }

    #[test]
    fn the_polynomial_is_zero() {
        let powers = [32, 28, 27, 26, 25, 23, 22, 20, 19, 18, 14, 13, 11, 10, 9, 8, 6, 0];
        assert_eq!(powers.into_iter().fold(0, |sum, n| sum ^ x_pow(n)), 0);
    }
}
