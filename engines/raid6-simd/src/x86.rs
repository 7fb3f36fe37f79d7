//! What x86-64 ISAs of one register width differ in: how they multiply. Everything else that a
//! [`Vector`](crate::vector::Vector) does is written once a width, over this trait.

use crate::gf;

/// Multiplication in GF(2^8) of every byte of a register `R`.
///
/// # Safety
/// Common to all functions: the CPU has the ISA's features. As for `Vector`, every implementation is
/// `#[inline(always)]`.
pub(crate) trait Multiply<R>: Copy {
    /// A coefficient in the form in which the ISA multiplies by it.
    type Coefficient: Copy;

    /// `2 * x`.
    unsafe fn mul2(x: R) -> R;
    /// `4 * q + 2 * b + a`.
    unsafe fn horner2(q: R, b: R, a: R) -> R;
    /// Prepares a coefficient.
    unsafe fn coefficient(c: u8) -> Self::Coefficient;
    /// `c * x`.
    unsafe fn mul(x: R, c: Self::Coefficient) -> R;
}

/// Multiplication by each coefficient as a bit matrix, for GFNI.
pub(crate) static MATRICES: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut c = 0;
    while c < 256 {
        matrices[c] = gf::affine_matrix(c as u8);
        c += 1;
    }
    matrices
};

/// What one byte, in which only the top bit counts, adds to its product with {02}, but inverted: zero if
/// the bit is set and [`gf::POLY`] if not. A byte shuffle with this in all lanes of the table computes it,
/// because it yields zero where the index has the top bit set. The sum with the doubled byte is
/// then the product plus [`gf::POLY`].
pub(crate) const SHUFFLE_TWO: u8 = gf::POLY;
/// What two inverted steps of Horner's rule leave over: `2 * POLY + POLY`.
pub(crate) const SHUFFLE_FOUR_LEFT: u8 = gf::mul2(gf::POLY) ^ gf::POLY;
