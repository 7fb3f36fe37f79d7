//! GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d) and the generator {02}: the field of
//! Linux md's RAID-6. All tables are computed at compile time from [`mul2`].
//!
//! Addition is xor. Every nonzero element is a power of {02}, with period 255.

/// The low byte of the polynomial 0x11d: what a product that overflowed eight bits is reduced by.
pub const POLY: u8 = 0x1d;

/// `2 * x`.
pub const fn mul2(x: u8) -> u8 {
    (x << 1) ^ (if x & 0x80 != 0 { POLY } else { 0 })
}

/// `a * b` from the definition: the sum of `a * 2^i` over the bits `i` of `b`.
pub const fn mul(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut sum) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a = mul2(a);
        b >>= 1;
    }
    sum
}

const fn exp_table() -> [u8; 255] {
    let mut table = [0; 255];
    let (mut i, mut x) = (0, 1);
    while i < 255 {
        table[i] = x;
        x = mul2(x);
        i += 1;
    }
    table
}

const fn log_table() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 255 {
        table[EXP[i] as usize] = i as u8;
        i += 1;
    }
    table
}

const EXP: [u8; 255] = exp_table();
const LOG: [u8; 256] = log_table();

/// `2^n`, for any `n`.
pub const fn exp(n: usize) -> u8 {
    EXP[n % 255]
}

/// The `n` in 0..=254 with `2^n == x`, or `None` for zero.
pub const fn log(x: u8) -> Option<u8> {
    if x == 0 { None } else { Some(LOG[x as usize]) }
}

/// The element whose product with `x` is one, or `None` for zero.
pub const fn inv(x: u8) -> Option<u8> {
    if x == 0 { None } else { Some(exp(255 - LOG[x as usize] as usize)) }
}

/// For each coefficient `c`: the products of `c` with the low nibbles 0 to 15, then with the high
/// nibbles 0x00 to 0xf0. Two 16-byte shuffles and a xor multiply a vector by `c`.
#[cfg(target_arch = "x86_64")]
pub(crate) static NIBBLES: [[u8; 32]; 256] = nibble_tables();

#[cfg(target_arch = "x86_64")]
const fn nibble_tables() -> [[u8; 32]; 256] {
    let mut tables = [[0; 32]; 256];
    let mut c = 0;
    while c < 256 {
        let mut i = 0;
        while i < 16 {
            tables[c][i] = mul(c as u8, i as u8);
            tables[c][16 + i] = mul(c as u8, (i as u8) << 4);
            i += 1;
        }
        c += 1;
    }
    tables
}

/// Multiplication by `c` as the 8x8 bit matrix that `vgf2p8affineqb` takes: byte `7 - i` holds the row
/// of output bit `i`, and bit `j` of it says whether input bit `j` counts (Intel SDM, GF2P8AFFINEQB).
#[cfg(target_arch = "x86_64")]
pub(crate) const fn affine_matrix(c: u8) -> u64 {
    let mut matrix = 0u64;
    let mut j = 0;
    while j < 8 {
        let column = mul(c, 1 << j);
        let mut i = 0;
        while i < 8 {
            if column & (1 << i) != 0 {
                matrix |= 1 << ((7 - i) * 8 + j);
            }
            i += 1;
        }
        j += 1;
    }
    matrix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_visit_every_nonzero_element_once() {
        let mut seen = [false; 256];
        for n in 0..255 {
            assert!(!std::mem::replace(&mut seen[usize::from(exp(n))], true), "2^{n} seen twice");
            assert_eq!(log(exp(n)), u8::try_from(n).ok());
            assert_eq!(exp(n), exp(n + 255));
        }
        assert!(!seen[0]);
    }

    #[test]
    fn inverses_multiply_to_one_and_zero_has_none() {
        for x in 1..=255u8 {
            assert_eq!(inv(x).map(|i| mul(i, x)), Some(1), "x = {x}");
        }
        assert_eq!((inv(0), log(0)), (None, None));
    }

    #[test]
    fn multiplication_agrees_with_logarithms_and_distributes() {
        for a in 0..=255u8 {
            assert_eq!(mul(a, 2), mul2(a));
            for b in 0..=255u8 {
                let by_logs = match (log(a), log(b)) {
                    (Some(la), Some(lb)) => exp(usize::from(la) + usize::from(lb)),
                    _ => 0,
                };
                assert_eq!(mul(a, b), by_logs);
                assert_eq!(mul(a, b ^ 0x53), mul(a, b) ^ mul(a, 0x53));
            }
        }
    }
}
