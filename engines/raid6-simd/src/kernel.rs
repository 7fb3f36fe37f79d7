//! Which implementations exist, and which of them this CPU can run.

use std::fmt;

use crate::table::Routines;
#[cfg(target_arch = "x86_64")]
use crate::{
    avx2::Avx2,
    avx2_gfni::Avx2Gfni,
    avx512::Avx512,
    avx512_gfni::Avx512Gfni,
    sse::{Sse2, Ssse3},
};
use crate::{naive, portable};

/// An implementation, by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kernel {
    /// Byte by byte from the definition; for tests.
    Naive,
    /// In integer registers, on any CPU.
    Portable,
    /// SSE2, which every x86-64 CPU has.
    Sse2,
    /// SSSE3 on x86-64.
    Ssse3,
    /// AVX2 on x86-64.
    Avx2,
    /// AVX2 and GFNI on x86-64.
    Avx2Gfni,
    /// AVX-512F and AVX-512BW on x86-64.
    Avx512,
    /// AVX-512F, AVX-512BW and GFNI on x86-64.
    Avx512Gfni,
}

impl Kernel {
    /// All implementations, the slowest first.
    pub const ALL: [Kernel; 8] = [
        Kernel::Naive,
        Kernel::Portable,
        Kernel::Sse2,
        Kernel::Ssse3,
        Kernel::Avx2,
        Kernel::Avx2Gfni,
        Kernel::Avx512,
        Kernel::Avx512Gfni,
    ];

    /// The name by which [`crate::Selection`] knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Naive => "naive",
            Kernel::Portable => "portable",
            Kernel::Sse2 => "sse2",
            Kernel::Ssse3 => "ssse3",
            Kernel::Avx2 => "avx2",
            Kernel::Avx2Gfni => "avx2_gfni",
            Kernel::Avx512 => "avx512",
            Kernel::Avx512Gfni => "avx512_gfni",
        }
    }

    /// What it needs of the CPU, in words.
    pub const fn needs(self) -> &'static str {
        match self {
            Kernel::Naive | Kernel::Portable => "nothing",
            Kernel::Sse2 => "x86-64",
            Kernel::Ssse3 => "x86-64 with SSSE3",
            Kernel::Avx2 => "x86-64 with AVX2",
            Kernel::Avx2Gfni => "x86-64 with AVX2 and GFNI",
            Kernel::Avx512 => "x86-64 with AVX-512F and AVX-512BW",
            Kernel::Avx512Gfni => "x86-64 with AVX-512F, AVX-512BW and GFNI",
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        self.routines().is_some()
    }

    /// Its functions, if this CPU can run them.
    pub(crate) fn routines(self) -> Option<&'static Routines> {
        match self {
            Kernel::Naive => Some(&naive::ROUTINES),
            Kernel::Portable => Some(&portable::ROUTINES),
            #[cfg(target_arch = "x86_64")]
            Kernel::Sse2 => Sse2::detect().map(Sse2::routines),
            #[cfg(target_arch = "x86_64")]
            Kernel::Ssse3 => Ssse3::detect().map(Ssse3::routines),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => Avx2::detect().map(Avx2::routines),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2Gfni => Avx2Gfni::detect().map(Avx2Gfni::routines),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => Avx512::detect().map(Avx512::routines),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Gfni => Avx512Gfni::detect().map(Avx512Gfni::routines),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Sse2
            | Kernel::Ssse3
            | Kernel::Avx2
            | Kernel::Avx2Gfni
            | Kernel::Avx512
            | Kernel::Avx512Gfni => None,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
