//! AVX-512 without GFNI: 64 bytes a register, {02} by a byte shuffle and a sum of three, other
//! coefficients by two nibble shuffles, partial registers by masked loads and stores, which do not
//! touch the bytes that are masked out.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use crate::Kernel;
use crate::generic::routines;
use crate::gf;
use crate::table::Routines;
use crate::vector::Vector;
use crate::x86::{Multiply, SHUFFLE_FOUR_LEFT, SHUFFLE_TWO};

/// Proof that the CPU has AVX-512F and AVX-512BW: [`Avx512::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `Some` if this CPU, and the operating system, support both.
    pub(crate) fn detect() -> Option<Self> {
        let found =
            std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512bw");
        found.then_some(Avx512(()))
    }

    /// The implementation, which the token allows to be called.
    pub(crate) fn routines(self) -> &'static Routines {
        &ROUTINES
    }
}

/// 64 bytes that are multiplied as `M` says. Whatever `M` needs, AVX-512F and AVX-512BW are there.
#[derive(Clone, Copy)]
pub(crate) struct Zmm<M>(__m512i, PhantomData<M>);

impl<M> Zmm<M> {
    #[inline(always)]
    fn of(bytes: __m512i) -> Self {
        Zmm(bytes, PhantomData)
    }
}

/// `x + y + z`: the truth table 0x96 is that of a sum of three bits.
///
/// # Safety
/// The CPU has AVX-512F.
#[inline(always)]
pub(crate) unsafe fn sum3(x: __m512i, y: __m512i, z: __m512i) -> __m512i {
    // SAFETY: passed on to the caller.
    unsafe { _mm512_ternarylogic_epi64::<0x96>(x, y, z) }
}

impl<M: Multiply<__m512i>> Vector for Zmm<M> {
    const BYTES: usize = 64;
    const STREAMS: bool = true;
    type Coefficient = M::Coefficient;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX-512F.
        Zmm::of(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the CPU has AVX-512F and 64 bytes are readable; the load needs no alignment.
        Zmm::of(unsafe { _mm512_loadu_si512(src.cast()) })
    }

    #[inline(always)]
    unsafe fn store(self, dst: *mut u8) {
        // SAFETY: the CPU has AVX-512F and 64 bytes are writable; the store needs no alignment.
        unsafe { _mm512_storeu_si512(dst.cast(), self.0) }
    }

    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8) {
        // SAFETY: the CPU has AVX-512F, and 64 bytes are writable at an address that is a multiple of 64.
        unsafe { _mm512_stream_si512(dst.cast(), self.0) }
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
        // SAFETY: the CPU has AVX-512F.
        Zmm::of(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn xor3(self, a: Self, b: Self) -> Self {
        // SAFETY: the CPU has AVX-512F.
        Zmm::of(unsafe { sum3(self.0, a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the CPU has AVX-512F.
        Zmm::of(unsafe { _mm512_or_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: the CPU has AVX-512F.
        unsafe { _mm512_test_epi64_mask(self.0, self.0) == 0 }
    }

    #[inline(always)]
    unsafe fn mul2(self) -> Self {
        // SAFETY: the CPU has AVX-512F, AVX-512BW and what `M` needs.
        Zmm::of(unsafe { M::mul2(self.0) })
    }

    #[inline(always)]
    unsafe fn horner2(self, b: Self, a: Self) -> Self {
        // SAFETY: the CPU has AVX-512F, AVX-512BW and what `M` needs.
        Zmm::of(unsafe { M::horner2(self.0, b.0, a.0) })
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> M::Coefficient {
        // SAFETY: the CPU has AVX-512F, AVX-512BW and what `M` needs.
        unsafe { M::coefficient(c) }
    }

    #[inline(always)]
    unsafe fn mul(self, c: M::Coefficient) -> Self {
        // SAFETY: the CPU has AVX-512F, AVX-512BW and what `M` needs.
        Zmm::of(unsafe { M::mul(self.0, c) })
    }

    #[inline(always)]
    unsafe fn load_part(src: *const u8, len: usize) -> Self {
        // SAFETY: the CPU has AVX-512BW; the mask names the `len < 64` bytes that are readable, and the
        // others are neither read nor can they fault.
        Zmm::of(unsafe { _mm512_maskz_loadu_epi8((1u64 << len) - 1, src.cast()) })
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut u8, len: usize) {
        // SAFETY: the CPU has AVX-512BW; the mask names the `len < 64` bytes that are writable, and the
        // others are neither written nor can they fault.
        unsafe { _mm512_mask_storeu_epi8(dst.cast(), (1u64 << len) - 1, self.0) }
    }
}

/// Multiplication with nothing but AVX-512F and AVX-512BW.
#[derive(Clone, Copy)]
struct ByShuffle;

/// The products of a coefficient with the low and with the high nibbles.
#[derive(Clone, Copy)]
struct Nibbles {
    low: __m512i,
    high: __m512i,
}

impl ByShuffle {
    /// `2 * x + POLY + y` in three instructions; see [`SHUFFLE_TWO`].
    ///
    /// # Safety
    /// The CPU has AVX-512F and AVX-512BW.
    #[inline(always)]
    unsafe fn double_plus(x: __m512i, y: __m512i) -> __m512i {
        // SAFETY: passed on to the caller.
        unsafe {
            let reduce = _mm512_shuffle_epi8(_mm512_set1_epi8(SHUFFLE_TWO as i8), x);
            sum3(_mm512_add_epi8(x, x), reduce, y)
        }
    }
}

impl Multiply<__m512i> for ByShuffle {
    type Coefficient = Nibbles;

    #[inline(always)]
    unsafe fn mul2(x: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512F and AVX-512BW.
        unsafe { Self::double_plus(x, _mm512_set1_epi8(gf::POLY as i8)) }
    }

    /// What the two steps leave over is taken away once, from the operand that has not been waited for.
    #[inline(always)]
    unsafe fn horner2(q: __m512i, b: __m512i, a: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512F and AVX-512BW.
        unsafe {
            let a = _mm512_xor_si512(a, _mm512_set1_epi8(SHUFFLE_FOUR_LEFT as i8));
            Self::double_plus(Self::double_plus(q, b), a)
        }
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> Nibbles {
        let table = gf::NIBBLES[usize::from(c)].as_ptr();
        // SAFETY: the CPU has AVX-512F, and the table holds twice 16 bytes.
        unsafe {
            Nibbles {
                low: _mm512_broadcast_i32x4(_mm_loadu_si128(table.cast())),
                high: _mm512_broadcast_i32x4(_mm_loadu_si128(table.add(16).cast())),
            }
        }
    }

    #[inline(always)]
    unsafe fn mul(x: __m512i, c: Nibbles) -> __m512i {
        // SAFETY: the CPU has AVX-512F and AVX-512BW.
        unsafe {
            let mask = _mm512_set1_epi8(0x0f);
            let low = _mm512_and_si512(x, mask);
            let high = _mm512_and_si512(_mm512_srli_epi64::<4>(x), mask);
            _mm512_xor_si512(_mm512_shuffle_epi8(c.low, low), _mm512_shuffle_epi8(c.high, high))
        }
    }
}

routines! {
    #[target_feature(enable = "avx512f,avx512bw")]
    kernel: Kernel::Avx512, vector: Zmm<ByShuffle>,
    pq: 4 / 8, xor: 4 / 8, update: 2, dense: [2, 3, 4, 5]
}
