//! AVX-512 with GFNI: 64 bytes a register, any coefficient by one `vgf2p8affineqb`, partial registers by
//! masked loads and stores, which do not touch the bytes that are masked out.
//!
//! `vgf2p8mulb` would not do: its field has the polynomial 0x11b. The affine instruction multiplies by
//! any bit matrix, so by any constant of any field of 256 elements.

use std::arch::x86_64::*;

use crate::Kernel;
use crate::avx512::{Zmm, sum3};
use crate::generic::routines;
use crate::table::Routines;
use crate::x86::{MATRICES, Multiply};

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

/// Multiplication by bit matrices.
#[derive(Clone, Copy)]
struct ByMatrix;

impl Multiply<__m512i> for ByMatrix {
    type Coefficient = __m512i;

    #[inline(always)]
    unsafe fn mul2(x: __m512i) -> __m512i {
        const TWO: i64 = MATRICES[2] as i64;
        // SAFETY: the CPU has AVX-512F and GFNI.
        unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(x, _mm512_set1_epi64(TWO)) }
    }

    /// Two products that do not wait for each other and one sum of three.
    #[inline(always)]
    unsafe fn horner2(q: __m512i, b: __m512i, a: __m512i) -> __m512i {
        const FOUR: i64 = MATRICES[4] as i64;
        // SAFETY: the CPU has AVX-512F and GFNI.
        unsafe {
            let four = _mm512_gf2p8affine_epi64_epi8::<0>(q, _mm512_set1_epi64(FOUR));
            sum3(four, Self::mul2(b), a)
        }
    }

    #[inline(always)]
    unsafe fn coefficient(c: u8) -> __m512i {
        // SAFETY: the CPU has AVX-512F.
        unsafe { _mm512_set1_epi64(MATRICES[usize::from(c)] as i64) }
    }

    #[inline(always)]
    unsafe fn mul(x: __m512i, c: __m512i) -> __m512i {
        // SAFETY: the CPU has AVX-512F and GFNI.
        unsafe { _mm512_gf2p8affine_epi64_epi8::<0>(x, c) }
    }
}

routines! {
    #[target_feature(enable = "avx512f,avx512bw,gfni")]
    kernel: Kernel::Avx512Gfni, vector: Zmm<ByMatrix>,
    pq: 2 / 8, xor: 4 / 8, update: 1, dense: [2, 3, 4, 5, 6, 7, 8]
}
