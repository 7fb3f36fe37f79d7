//! AVX2 with GFNI: 32 bytes a register, any coefficient by one `vgf2p8affineqb` in its VEX encoding, as
//! CPUs have it that lack AVX-512. Why the affine instruction and not `vgf2p8mulb`: see `avx512_gfni`.

use std::arch::x86_64::*;

use crate::Kernel;
use crate::avx2::Ymm;
use crate::generic::routines;
use crate::table::Routines;
use crate::x86::{MATRICES, Multiply};

/// Proof that the CPU has AVX2 and GFNI: [`Avx2Gfni::detect`] is the only way to one.
#[derive(Clone, Copy)]
pub(crate) struct Avx2Gfni(());

impl Avx2Gfni {
    /// `Some` if this CPU, and the operating system, support both.
    pub(crate) fn detect() -> Option<Self> {
        let found =
            std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("gfni");
        found.then_some(Avx2Gfni(()))
    }

    /// The implementation, which the token allows to be called.
    pub(crate) fn routines(self) -> &'static Routines {
        &ROUTINES
    }
}

/// Multiplication by bit matrices.
#[derive(Clone, Copy)]
struct ByMatrix;

impl Multiply<__m256i> for ByMatrix {
    type Coefficient = __m256i;

    #[inline(always)]
    unsafe fn mul2(x: __m256i) -> __m256i {
        const TWO: i64 = MATRICES[2] as i64;
        // SAFETY: the CPU has AVX2 and GFNI.
        unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(x, _mm256_set1_epi64x(TWO)) }
    }

    /// Two products that do not wait for each other.
    #[inline(always)]
    unsafe fn horner2(q: __m256i, b: __m256i, a: __m256i) -> __m256i {
        const FOUR: i64 = MATRICES[4] as i64;
        // SAFETY: the CPU has AVX2 and GFNI.
        unsafe {
            let four = _mm256_gf2p8affine_epi64_epi8::<0>(q, _mm256_set1_epi64x(FOUR));
            _mm256_xor_si256(four, _mm256_xor_si256(Self::mul2(b), a))
        }
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> __m256i {
        // SAFETY: the CPU has AVX2.
        unsafe { _mm256_set1_epi64x(MATRICES[usize::from(c)] as i64) }
    }

    #[inline(always)]
    unsafe fn mul(x: __m256i, c: __m256i) -> __m256i {
        // SAFETY: the CPU has AVX2 and GFNI.
        unsafe { _mm256_gf2p8affine_epi64_epi8::<0>(x, c) }
    }
}

routines! {
    #[target_feature(enable = "avx2,gfni")]
    kernel: Kernel::Avx2Gfni, vector: Ymm<ByMatrix>, pq: 3 / 6, xor: 8 / 12, update: 3, dense: [2, 3, 4, 5]
}
