//! AVX-512 with GFNI: 64 bytes a register, any coefficient by one `vgf2p8affineqb`, partial registers by
//! masked loads and stores, which do not touch the bytes that are masked out.
//!
//! `vgf2p8mulb` would not do: its field has the polynomial 0x11b. The affine instruction multiplies by
//! any bit matrix, so by any constant of any field of 256 elements.

use std::arch::x86_64::*;

use crate::Kernel;
use crate::generic::routines;
use crate::gf;
use crate::table::Routines;
use crate::vector::Vector;

/// Proof that the CPU has AVX-512F, AVX-512BW and GFNI: [`Avx512Gfni::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Gfni(());

impl Avx512Gfni {
    /// `Some` if this CPU, and the operating system, support the three.
    pub(crate) fn detect() -> Option<Self> {
        let found = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("gfni");
        found.then_some(Avx512Gfni(()))
    }

    /// The implementation, which the token allows to be called.
    pub(crate) fn routines(self) -> &'static Routines {
        &ROUTINES
    }
}

/// Multiplication by each coefficient as a bit matrix.
static MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut c = 0;
    while c < 256 {
        matrices[c] = gf::affine_matrix(c as u8);
        c += 1;
    }
    matrices
};

/// Multiplication by {02}, the step of Horner's rule.
const TIMES_TWO: i64 = gf::affine_matrix(2) as i64;
/// Multiplication by {04}: two steps at once.
const TIMES_FOUR: i64 = gf::affine_matrix(4) as i64;

#[derive(Clone, Copy)]
struct Zmm(__m512i);

impl Vector for Zmm {
    const BYTES: usize = 64;
    const STREAMS: bool = true;
    type Coefficient = __m512i;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has AVX-512F.
        Zmm(unsafe { _mm512_setzero_si512() })
    }

    #[inline(always)]
    unsafe fn load(src: *const u8) -> Self {
        // SAFETY: the CPU has AVX-512F and 64 bytes are readable; the load needs no alignment.
        Zmm(unsafe { _mm512_loadu_si512(src.cast()) })
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
    unsafe fn fence() {
        // SAFETY: every x86-64 CPU has SSE.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the CPU has AVX-512F.
        Zmm(unsafe { _mm512_xor_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn xor3(self, a: Self, b: Self) -> Self {
        // SAFETY: the CPU has AVX-512F. The truth table 0x96 is that of a sum of three bits.
        Zmm(unsafe { _mm512_ternarylogic_epi64::<0x96>(self.0, a.0, b.0) })
    }

    #[inline(always)]
    unsafe fn or(self, other: Self) -> Self {
        // SAFETY: the CPU has AVX-512F.
        Zmm(unsafe { _mm512_or_si512(self.0, other.0) })
    }

    #[inline(always)]
    unsafe fn is_zero(self) -> bool {
        // SAFETY: the CPU has AVX-512F.
        unsafe { _mm512_test_epi64_mask(self.0, self.0) == 0 }
    }

    #[inline(always)]
    unsafe fn mul2(self) -> Self {
        // SAFETY: the CPU has AVX-512F and GFNI.
        Zmm(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0, _mm512_set1_epi64(TIMES_TWO)) })
    }

    /// Two products that do not wait for each other and one sum of three.
    #[inline(always)]
    unsafe fn horner2(self, b: Self, a: Self) -> Self {
        // SAFETY: the CPU has AVX-512F and GFNI.
        unsafe {
            let four = _mm512_set1_epi64(TIMES_FOUR);
            Zmm(_mm512_gf2p8affine_epi64_epi8::<0>(self.0, four)).xor3(b.mul2(), a)
        }
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> __m512i {
        // SAFETY: the CPU has AVX-512F.
        unsafe { _mm512_set1_epi64(MATRICES[usize::from(c)] as i64) }
    }

    #[inline(always)]
    unsafe fn mul(self, c: __m512i) -> Self {
        // SAFETY: the CPU has AVX-512F and GFNI.
        Zmm(unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(self.0, c) })
    }

    #[inline(always)]
    unsafe fn load_part(src: *const u8, len: usize) -> Self {
        // SAFETY: the CPU has AVX-512BW; the mask names the `len < 64` bytes that are readable, and the
        // others are neither read nor can they fault.
        Zmm(unsafe { _mm512_maskz_loadu_epi8((1u64 << len) - 1, src.cast()) })
    }

    #[inline(always)]
    unsafe fn store_part(self, dst: *mut u8, len: usize) {
        // SAFETY: the CPU has AVX-512BW; the mask names the `len < 64` bytes that are writable, and the
        // others are neither written nor can they fault.
        unsafe { _mm512_mask_storeu_epi8(dst.cast(), (1u64 << len) - 1, self.0) }
    }
}

routines! {
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    kernel: Kernel::Avx512Gfni, vector: Zmm,
    pq: 2 / 8, xor: 4 / 8, update: 1, dense: [2, 3, 4, 5, 6, 7, 8]
}
