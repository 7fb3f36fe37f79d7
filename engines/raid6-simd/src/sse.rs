//! The 16-byte registers that every x86-64 CPU has: SSE2, which can only mask and shift, and SSSE3,
//! which multiplies by two nibble shuffles.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::gf;
use crate::table::Routines;
use crate::vector::Vector;
use crate::x86::Multiply;

/// Proof that the CPU has SSE2: [`Sse2::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(crate) struct Sse2(());

impl Sse2 {
    /// `Some` if this CPU supports SSE2, which is part of x86-64.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("sse2").then_some(Sse2(()))
    }

    /// The implementation, which the token allows to be called.
    pub(crate) fn routines(self) -> &'static Routines {
        &sse2::ROUTINES
    }
}

/// Proof that the CPU has SSSE3: [`Ssse3::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(crate) struct Ssse3(());

impl Ssse3 {
    /// `Some` if this CPU supports SSSE3.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("ssse3").then_some(Ssse3(()))
    }

    /// The implementation, which the token allows to be called.
    pub(crate) fn routines(self) -> &'static Routines {
        &ssse3::ROUTINES
    }
}

/// 16 bytes that are multiplied as `M` says. Whatever `M` needs, SSE2 is there.
#[derive(Clone, Copy)]
struct Xmm<M>(__m128i, PhantomData<M>);

impl<M> Xmm<M> {
    #[inline(always)]
    fn of(bytes: __m128i) -> Self {
        Xmm(bytes, PhantomData)
    }
}

impl<M: Multiply<__m128i>> Vector for Xmm<M> {
    const BYTES: usize = 16;
    const STREAMS: bool = true;
    type Coefficient = M::Coefficient;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has SSE2.
        Xmm::of(unsafe { _mm_setzero_si128() })
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the CPU has SSE2 and 16 bytes are readable; the load needs no alignment.
        Xmm::of(unsafe { _mm_loadu_si128(src.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the CPU has SSE2 and 16 bytes are writable; the store needs no alignment.
        unsafe { _mm_storeu_si128(dst.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8) {
        // SAFETY: the CPU has SSE2, and 16 bytes are writable at an address that is a multiple of 16.
        unsafe { _mm_stream_si128(dst.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn prefetch(src: *const u8) {
        // SAFETY: every x86-64 CPU has SSE.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(src.cast()) }
    }

    #[inline(always)]
    unsafe fn fence() {
        // SAFETY: every x86-64 CPU has SSE.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the CPU has SSE2.
        Xmm::of(unsafe { _mm_xor_si128(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the CPU has SSE2.
        Xmm::of(unsafe { _mm_or_si128(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: the CPU has SSE2.
        unsafe { _mm_movemask_epi8(_mm_cmpeq_epi8(self.0, _mm_setzero_si128())) == 0xffff }
    }

    #[inline(always)]
    unsafe fn mul2(self) -> Self {
        // SAFETY: the CPU has SSE2 and what `M` needs.
        Xmm::of(unsafe { M::mul2(self.0) })
    }

    #[inline(always)]
    unsafe fn horner2(self, b: Self, a: Self) -> Self {
        // SAFETY: the CPU has SSE2 and what `M` needs.
        Xmm::of(unsafe { M::horner2(self.0, b.0, a.0) })
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> M::Coefficient {
        // SAFETY: the CPU has SSE2 and what `M` needs.
        unsafe { M::coefficient(c) }
    }

    #[inline(always)]
    unsafe fn mul(self, c: M::Coefficient) -> Self {
        // SAFETY: the CPU has SSE2 and what `M` needs.
        Xmm::of(unsafe { M::mul(self.0, c) })
    }
}

/// `2 * x`.
///
/// # Safety
/// The CPU has SSE2.
#[inline(always)]
unsafe fn mul2(x: __m128i) -> __m128i {
    // SAFETY: passed on to the caller. A byte with its high bit set compares below zero and selects the
    // reduction.
    unsafe {
        let high = _mm_cmpgt_epi8(_mm_setzero_si128(), x);
        let reduce = _mm_and_si128(high, _mm_set1_epi8(gf::POLY as i8));
        _mm_xor_si128(_mm_add_epi8(x, x), reduce)
    }
}

/// `4 * q + 2 * b + a`.
///
/// # Safety
/// The CPU has SSE2.
#[inline(always)]
unsafe fn horner2(q: __m128i, b: __m128i, a: __m128i) -> __m128i {
    // SAFETY: passed on to the caller.
    unsafe { _mm_xor_si128(mul2(_mm_xor_si128(mul2(q), b)), a) }
}

mod sse2 {
    use super::*;
    use crate::Kernel;
    use crate::generic::routines;

    /// Multiplication with nothing but SSE2: bit by bit.
    #[derive(Clone, Copy)]
    struct ByBit;

    /// The products of each coefficient with the eight powers of two.
    static BITS: [[u8; 8]; 256] = {
        let mut products = [[0; 8]; 256];
        let mut c = 0;
        while c < 256 {
            let mut bit = 0;
            while bit < 8 {
                products[c][bit] = gf::mul(c as u8, 1 << bit);
                bit += 1;
            }
            c += 1;
        }
        products
    };

    impl Multiply<__m128i> for ByBit {
        /// What each bit of a byte adds to the product, in every byte.
        type Coefficient = [__m128i; 8];

        #[inline(always)]
        unsafe fn mul2(x: __m128i) -> __m128i {
            // SAFETY: the CPU has SSE2.
            unsafe { mul2(x) }
        }

        #[inline(always)]
        unsafe fn horner2(q: __m128i, b: __m128i, a: __m128i) -> __m128i {
            // SAFETY: the CPU has SSE2.
            unsafe { horner2(q, b, a) }
        }

        #[inline(always)]
        unsafe fn coefficient(c: u8) -> [__m128i; 8] {
            // SAFETY: the CPU has SSE2.
            BITS[usize::from(c)].map(|product| unsafe { _mm_set1_epi8(product as i8) })
        }

        /// From the top bit down, each is shifted to where the comparison finds it.
        #[inline(always)]
        unsafe fn mul(x: __m128i, c: [__m128i; 8]) -> __m128i {
            // SAFETY: the CPU has SSE2.
            unsafe {
                let (mut x, mut sum) = (x, _mm_setzero_si128());
                for product in c.into_iter().rev() {
                    let set = _mm_cmpgt_epi8(_mm_setzero_si128(), x);
                    sum = _mm_xor_si128(sum, _mm_and_si128(set, product));
                    x = _mm_add_epi8(x, x);
                }
                sum
            }
        }
    }

    routines! {
        #[target_feature(enable = "sse2")]
        kernel: Kernel::Sse2, vector: Xmm<ByBit>, pq: 2 / 6, xor: 8 / 12, update: 2, dense: [2, 3, 4, 5]
    }
}

mod ssse3 {
    use super::*;
    use crate::Kernel;
    use crate::generic::routines;

    /// Multiplication with SSSE3's byte shuffle.
    #[derive(Clone, Copy)]
    struct ByShuffle;

    /// The products of a coefficient with the low and with the high nibbles.
    #[derive(Clone, Copy)]
    struct Nibbles {
        low: __m128i,
        high: __m128i,
    }

    impl Multiply<__m128i> for ByShuffle {
        type Coefficient = Nibbles;

        #[inline(always)]
        unsafe fn mul2(x: __m128i) -> __m128i {
            // SAFETY: the CPU has SSSE3, and so SSE2.
            unsafe { mul2(x) }
        }

        #[inline(always)]
        unsafe fn horner2(q: __m128i, b: __m128i, a: __m128i) -> __m128i {
            // SAFETY: the CPU has SSSE3, and so SSE2.
            unsafe { horner2(q, b, a) }
        }

        #[inline(always)]
        unsafe fn coefficient(c: u8) -> Nibbles {
            let table = gf::NIBBLES[usize::from(c)].as_ptr();
            // SAFETY: the CPU has SSE2, and the table holds twice 16 bytes.
            unsafe {
                Nibbles { low: _mm_loadu_si128(table.cast()), high: _mm_loadu_si128(table.add(16).cast()) }
            }
        }

        #[inline(always)]
        unsafe fn mul(x: __m128i, c: Nibbles) -> __m128i {
            // SAFETY: the CPU has SSSE3.
            unsafe {
                let mask = _mm_set1_epi8(0x0f);
                let low = _mm_and_si128(x, mask);
                let high = _mm_and_si128(_mm_srli_epi64::<4>(x), mask);
                _mm_xor_si128(_mm_shuffle_epi8(c.low, low), _mm_shuffle_epi8(c.high, high))
            }
        }
    }

    routines! {
        #[target_feature(enable = "ssse3")]
        kernel: Kernel::Ssse3, vector: Xmm<ByShuffle>, pq: 3 / 6, xor: 8 / 12, update: 4, dense: [2, 3, 4, 5]
    }
}
