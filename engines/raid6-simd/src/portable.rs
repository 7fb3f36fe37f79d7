//! The implementation for any CPU: two `u64` at a time, without a branch and without a multiplication.
//! Where a pair of integer registers has the like in a vector unit, the compiler may use that.

use crate::Kernel;
use crate::generic::routines;
use crate::gf;
use crate::vector::Vector;

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(crate) struct Words([u64; 2]);

/// A byte in every byte of a word.
const fn in_every_byte(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// A coefficient `c` as what bit `i` of a nibble adds to the product: `4 * 2` bytes, see [`Words::mul`].
/// With `l = c * 2^i` and `h = c * 2^(4+i)`, the first byte of a pair has the low nibble of `l` and the
/// high one of `h`, and the second the other two nibbles, swapped.
static NIBBLE_BITS: [[[u8; 2]; 4]; 256] = {
    let mut tables = [[[0; 2]; 4]; 256];
    let mut c = 0;
    while c < 256 {
        let mut i = 0;
        while i < 4 {
            let (l, h) = (gf::mul(c as u8, 1 << i), gf::mul(c as u8, 16 << i));
            tables[c][i] = [l & 0x0f | h & 0xf0, l >> 4 | h << 4];
            i += 1;
        }
        c += 1;
    }
    tables
};

impl Vector for Words {
    const BYTES: usize = 16;
    type Coefficient = [[u64; 2]; 4];

    #[inline(always)]
    unsafe fn zero() -> Self {
        Words([0; 2])
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the caller gives 16 readable bytes; the read needs no alignment.
        Words(unsafe { src.cast::<[u64; 2]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the caller gives 16 writable bytes; the write needs no alignment.
        unsafe { dst.cast::<[u64; 2]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        Words([self.0[0] ^ other.0[0], self.0[1] ^ other.0[1]])
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        Words([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        self.0[0] | self.0[1] == 0
    }

    #[inline(always)]
    unsafe fn mul2(self) -> Self {
        Words(self.0.map(|x| {
            let high = x & in_every_byte(0x80);
            // 0x7f in each byte that overflows; the polynomial's low byte needs no more.
            let overflows = high - (high >> 7);
            ((x ^ high) << 1) ^ (overflows & in_every_byte(gf::POLY))
        }))
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> [[u64; 2]; 4] {
        NIBBLE_BITS[usize::from(c)].map(|pair| pair.map(in_every_byte))
    }

    /// Takes the bits of the low and the high nibbles together: bit `i` of each nibble is spread over its
    /// nibble and selects from a nibble of what it adds to the product's nibble in the same place
    /// (`here`) and of what it adds to the other nibble of the byte (`there`).
    #[inline(always)]
    unsafe fn mul(self, c: [[u64; 2]; 4]) -> Self {
        Words(self.0.map(|x| {
            let (mut here, mut there) = (0, 0);
            for (i, [same, other]) in c.into_iter().enumerate() {
                let bits = (x >> i) & in_every_byte(0x11);
                // 15 times each bit; what leaves the word at the top is as if it had never been.
                let nibbles = (bits << 4).wrapping_sub(bits);
                here ^= nibbles & same;
                there ^= nibbles & other;
            }
            let low = in_every_byte(0x0f);
            here ^ ((there >> 4) & low) ^ ((there & low) << 4)
        }))
    }
}

routines! { kernel: Kernel::Portable, vector: Words, pq: 4 / 4, xor: 4 / 8, update: 2, dense: [2, 3, 4, 5] }
