//! What the algorithms ask of a vector register. Each ISA's file implements it once.

/// A register full of bytes, each an element of GF(2^8).
///
/// All functions must be inlined into a function that has the ISA's target features enabled: hence
/// `#[inline(always)]` on every implementation.
///
/// # Safety
/// Common to all functions: the CPU has the ISA's features. Loads and stores take unaligned pointers to
/// at least as many bytes as they say.
pub(crate) trait Vector: Copy {
    /// Bytes in a register; at most 64.
    const BYTES: usize;
    /// Whether [`Vector::stream`] goes past the caches.
    const STREAMS: bool = false;
    /// A coefficient in the form in which the ISA multiplies by it.
    type Coefficient: Copy;

    /// All bytes zero.
    unsafe fn zero() -> Self;
    /// `BYTES` bytes from `src`.
    unsafe fn load(src: *const u8) -> Self;
    /// `BYTES` bytes to `dst`.
    unsafe fn store(self, dst: *mut u8);
    /// Sum, which in this field is also the difference.
    unsafe fn xor(self, other: Self) -> Self;
    /// The sum of three.
    #[inline(always)]
    unsafe fn xor3(self, a: Self, b: Self) -> Self {
        // SAFETY: passed on to the caller.
        unsafe { self.xor(a).xor(b) }
    }
    /// Bitwise or, to gather differences.
    unsafe fn or(self, other: Self) -> Self;
    /// Whether all bytes are zero.
    unsafe fn is_zero(self) -> bool;
    /// Every byte times {02}.
    unsafe fn mul2(self) -> Self;
    /// Two steps of Horner's rule: `4 * self + 2 * b + a`.
    #[inline(always)]
    unsafe fn horner2(self, b: Self, a: Self) -> Self {
        // SAFETY: passed on to the caller.
        unsafe { self.mul2().xor(b).mul2().xor(a) }
    }
    /// Prepares a coefficient.
    unsafe fn coefficient(c: u8) -> Self::Coefficient;
    /// Every byte times `c`.
    unsafe fn mul(self, c: Self::Coefficient) -> Self;

    /// `BYTES` bytes to `dst`, which is aligned to `BYTES`, without bringing its line into the cache if
    /// the ISA can. [`Vector::fence`] must follow before the function returns that is to have written.
    #[inline(always)]
    unsafe fn stream(self, dst: *mut u8) {
        // SAFETY: passed on to the caller.
        unsafe { self.store(dst) }
    }

    /// Asks for the line at `src`, which need not be readable.
    #[inline(always)]
    unsafe fn prefetch(_src: *const u8) {}

    /// Orders the streamed stores of this thread before all of its later ones.
    #[inline(always)]
    unsafe fn fence() {}

    /// The first `len < BYTES` bytes from `src`, the rest zero; reads nothing beyond them.
    #[inline(always)]
    unsafe fn load_part(src: *const u8, len: usize) -> Self {
        let mut buffer = [0u8; 64];
        // SAFETY: the caller gives `len < BYTES <= 64` readable bytes, and the buffer holds a register.
        unsafe {
            std::ptr::copy_nonoverlapping(src, buffer.as_mut_ptr(), len);
            Self::load(buffer.as_ptr())
        }
    }

    /// The first `len < BYTES` bytes to `dst`; writes nothing beyond them.
    #[inline(always)]
    unsafe fn store_part(self, dst: *mut u8, len: usize) {
        let mut buffer = [0u8; 64];
        // SAFETY: the buffer holds a register, and the caller gives `len < BYTES <= 64` writable bytes.
        unsafe {
            self.store(buffer.as_mut_ptr());
            std::ptr::copy_nonoverlapping(buffer.as_ptr(), dst, len);
        }
    }
}

/// Multiplication by a coefficient that is skipped where it is zero or one. The branch is the same for
/// a whole call, so it costs next to nothing beside the shuffles it saves.
#[derive(Clone, Copy)]
pub(crate) struct Term<V: Vector> {
    c: u8,
    prepared: V::Coefficient,
}

impl<V: Vector> Term<V> {
    /// # Safety
    /// As for [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn new(c: u8) -> Self {
        // SAFETY: passed on to the caller.
        Term { c, prepared: unsafe { V::coefficient(c) } }
    }

    /// `sum + c * x`.
    ///
    /// # Safety
    /// As for [`Vector`].
    #[inline(always)]
    pub(crate) unsafe fn add_to(self, sum: V, x: V) -> V {
        // SAFETY: passed on to the caller.
        unsafe {
            match self.c {
                0 => sum,
                1 => sum.xor(x),
                _ => sum.xor(x.mul(self.prepared)),
            }
        }
    }
}
