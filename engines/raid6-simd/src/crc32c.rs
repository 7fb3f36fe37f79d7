//! CRC-32C of a block, alone or while the block is copied: the digest of iSCSI, of md's journal and
//! partial parity log, and of data-streaming accelerators.
//!
//! # What is computed
//!
//! A string of bytes is read as a polynomial over GF(2): the first byte holds the highest powers of x,
//! and within a byte bit 0 does (the *reflected* order). The CRC is the remainder of
//! `M(x) x^32 + I(x) x^(8n)` modulo the Castagnoli polynomial
//!
//! ```text
//! P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18
//!   + x^14 + x^13 + x^11 + x^10 + x^9 + x^8 + x^6 + 1
//! ```
//!
//! for a message M of n bytes, with I all ones (leading zeroes would otherwise go unnoticed) and with
//! the remainder inverted (so would trailing ones). RFC 3720, section 12.1, defines it for iSCSI and its
//! appendix B.4 has examples.
//!
//! The functions here take and return the *finished* value and do both inversions inside. The CRC of
//! nothing is 0, and a message may come in parts: `crc32c(crc32c(0, a), b)` is the CRC of `a` followed
//! by `b`. Inside, *state* is the value without the inversion: the remainder so far.
//!
//! # How it becomes fast
//!
//! The remainder is linear. If M is A followed by B, and B has b bits, then
//! `M = A x^b + B`, so the remainders of A and B can be computed apart and in parallel, and that of A
//! moved over B by multiplying it with the constant `x^b mod P`. All the fast ways are
//! choices of A and B:
//!
//! * `portable` cuts 16 bytes into single ones and has a table of the remainder of each byte moved by
//!   0 to 15 bytes;
//! * `sse42` cuts a block into three streams, because the CPU's `crc32` instruction can start every
//!   cycle but takes three, and merges the three remainders with carry-less multiplications;
//! * `avx512_vpclmul` does not divide until the end: it moves 256 bytes over the next 256 with
//!   carry-less multiplications and adds them up, which keeps the remainder (though not the bytes). The
//!   `crc32` instruction, otherwise idle, meanwhile works on four streams between those bytes.
//!
//! The ideas are those of two white papers of Intel: "Fast CRC Computation for iSCSI Polynomial Using
//! CRC32 Instruction" for the streams and "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
//! Instruction" for folding. Tables and constants are derived from P when the crate is compiled.
//!
//! # What it promises, and what it leaves to others
//!
//! Any length and alignment; nothing outside the slices is read or written; a copy reads each byte of
//! the source from memory once. Whether a CPU can run an implementation is decided here; which one runs
//! is the caller's choice.

mod naive;
mod poly;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx512_vpclmul;
#[cfg(target_arch = "x86_64")]
mod power;
#[cfg(target_arch = "x86_64")]
mod sse42;

#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
use self::{avx512_vpclmul::Avx512Vpclmul, sse42::Sse42};
use std::fmt;

use crate::Kernel;

/// One implementation. A `&'static Routines` is handed out only where its CPU features were found, so
/// whoever holds one may call it.
///
/// # Safety
/// Common to both functions: the CPU has the features that the implementation needs.
pub(crate) struct Routines {
    /// The name for operators and tests.
    pub(crate) name: &'static str,
    /// The CRC of a message that begins with one whose CRC is `crc` (0 for an empty one) and goes on
    /// with `bytes`.
    pub(crate) crc32c: unsafe fn(crc: u32, bytes: &[u8]) -> u32,
    /// Copies `src` to `dst` and returns the CRC as the other function does. Both have one length; were
    /// one shorter, only so many bytes would be copied and counted.
    pub(crate) copy_crc32c: unsafe fn(crc: u32, src: &[u8], dst: &mut [u8]) -> u32,
}

impl fmt::Debug for Routines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The implementations that this CPU can run, the slowest first.
pub(crate) fn available() -> impl Iterator<Item = &'static Routines> {
    let everywhere = [&naive::ROUTINES, &portable::ROUTINES].into_iter();
    #[cfg(target_arch = "x86_64")]
    let everywhere = everywhere
        .chain(Sse42::detect().map(Sse42::routines))
        .chain(Avx512Vpclmul::detect().map(Avx512Vpclmul::routines));
    everywhere
}

/// The fastest implementation that this CPU can run.
pub(crate) fn best() -> &'static Routines {
    available().last().unwrap_or(&portable::ROUTINES)
}

/// The implementation of this name, if there is one and this CPU can run it.
pub(crate) fn by_name(name: &str) -> Option<&'static Routines> {
    available().find(|routines| routines.name == name)
}

/// The implementation that goes with a kernel.
pub(crate) fn beside(kernel: Kernel) -> &'static Routines {
    let name = match kernel {
        Kernel::Naive => naive::NAME,
        Kernel::Portable => portable::NAME,
        Kernel::Sse2 | Kernel::Ssse3 | Kernel::Avx2 | Kernel::Avx2Gfni => "sse42",
        Kernel::Avx512 | Kernel::Avx512Gfni => return best(),
    };
    by_name(name).unwrap_or(&portable::ROUTINES)
}

/// The implementation for this turn of a cycle through all that the CPU can run.
#[cold]
pub(crate) fn turn(turn: usize) -> &'static Routines {
    let all = available().count().max(1);
    available().nth(turn % all).unwrap_or(&portable::ROUTINES)
}
