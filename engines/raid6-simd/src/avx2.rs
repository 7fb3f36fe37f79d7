//! AVX2: 32 bytes a register, {02} by a masked addition, other coefficients by two nibble shuffles.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::Kernel;
use crate::generic::routines;
use crate::gf;
use crate::table::Routines;
use crate::vector::Vector;
use crate::x86::Multiply;

/// Proof that the CPU has AVX2: [`Avx2::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `Some` if this CPU, and the operating system, support AVX2.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    /// The implementation, which the token allows to be called.
    pub(crate) fn routines(self) -> &'static Routines {
        &ROUTINES
    }
}

/// 32 bytes that are multiplied as `M` says. Whatever `M` needs, AVX2 is there.
#[derive(Clone, Copy)]
pub(crate) struct Ymm<M>(__m256i, PhantomData<M>);

impl<M> Ymm<M> {
    #[inline(always)]
    fn of(bytes: __m256i) -> Self {
        Ymm(bytes, PhantomData)
    }
}

impl<M: Multiply<__m256i>> Vector for Ymm<M> {
    const BYTES: usize = 32;
    const STREAMS: bool = true;
    type Coefficient = M::Coefficient;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX2.
        Ymm::of(unsafe { _mm256_setzero_si256() })
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the CPU has AVX2 and 32 bytes are readable; the load needs no alignment.
        Ymm::of(unsafe { _mm256_loadu_si256(src.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the CPU has AVX2 and 32 bytes are writable; the store needs no alignment.
        unsafe { _mm256_storeu_si256(dst.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8) {
        // SAFETY: the CPU has AVX2, and 32 bytes are writable at an address that is a multiple of 32.
        unsafe { _mm256_stream_si256(dst.cast(), self.0) }
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
        // SAFETY: the CPU has AVX2.
        Ymm::of(unsafe { _mm256_xor_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the CPU has AVX2.
        Ymm::of(unsafe { _mm256_or_si256(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_testz_si256(self.0, self.0) == 1 }
    }

    #[inline(always)]
    unsafe fn mul2(self) -> Self {
        // SAFETY: the CPU has AVX2 and what `M` needs.
        Ymm::of(unsafe { M::mul2(self.0) })
    }

    #[inline(always)]
    unsafe fn horner2(self, b: Self, a: Self) -> Self {
        // SAFETY: the CPU has AVX2 and what `M` needs.
        Ymm::of(unsafe { M::horner2(self.0, b.0, a.0) })
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> M::Coefficient {
        // SAFETY: the CPU has AVX2 and what `M` needs.
        unsafe { M::coefficient(c) }
    }

    #[inline(always)]
    unsafe fn mul(self, c: M::Coefficient) -> Self {
        // SAFETY: the CPU has AVX2 and what `M` needs.
        Ymm::of(unsafe { M::mul(self.0, c) })
    }
}

/// Multiplication with nothing but AVX2.
#[derive(Clone, Copy)]
struct ByShuffle;

/// The products of a coefficient with the low and with the high nibbles.
#[derive(Clone, Copy)]
struct Nibbles {
    low: __m256i,
    high: __m256i,
}

impl Multiply<__m256i> for ByShuffle {
    type Coefficient = Nibbles;

    #[inline(always)]
    unsafe fn mul2(x: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2. A byte with its high bit set compares below zero and selects the
        // reduction.
        unsafe {
            let high = _mm256_cmpgt_epi8(_mm256_setzero_si256(), x);
            let reduce = _mm256_and_si256(high, _mm256_set1_epi8(gf::POLY as i8));
            _mm256_xor_si256(_mm256_add_epi8(x, x), reduce)
        }
    }

    #[inline(always)]
    unsafe fn horner2(q: __m256i, b: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let q = _mm256_xor_si256(Self::mul2(q), b);
            _mm256_xor_si256(Self::mul2(q), a)
        }
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> Nibbles {
        let table = gf::NIBBLES[usize::from(c)].as_ptr();
        // SAFETY: the CPU has AVX2, and the table holds twice 16 bytes.
        unsafe {
            Nibbles {
                low: _mm256_broadcastsi128_si256(_mm_loadu_si128(table.cast())),
                high: _mm256_broadcastsi128_si256(_mm_loadu_si128(table.add(16).cast())),
            }
        }
    }

    #[inline(always)]
    unsafe fn mul(x: __m256i, c: Nibbles) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let mask = _mm256_set1_epi8(0x0f);
            let low = _mm256_and_si256(x, mask);
            let high = _mm256_and_si256(_mm256_srli_epi64::<4>(x), mask);
            _mm256_xor_si256(_mm256_shuffle_epi8(c.low, low), _mm256_shuffle_epi8(c.high, high))
        }
    }
}

routines! {
    #[target_feature(enable = "avx2")]
    kernel: Kernel::Avx2, vector: Ymm<ByShuffle>, pq: 3 / 6, xor: 8 / 12, update: 2, dense: [2, 3, 4, 5]
}
