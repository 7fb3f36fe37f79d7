//! Which implementations exist, and which of them this CPU can run.

use std::fmt;

use crate::table::Routines;
#[cfg(target_arch = "x86_64")]
use crate::{avx2::Avx2, avx512_gfni::Avx512Gfni};
use crate::{naive, portable};

/// An implementation, by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Kernel {
    /// Byte by byte from the definition; for tests.
    Naive,
    /// Eight bytes at a time, on any CPU.
    Portable,
    /// AVX2 on x86-64.
    Avx2,
    /// AVX-512F, AVX-512BW and GFNI on x86-64.
    Avx512Gfni,
}

impl Kernel {
    /// All implementations, the slowest first.
    pub const ALL: [Kernel; 4] = [Kernel::Naive, Kernel::Portable, Kernel::Avx2, Kernel::Avx512Gfni];

    /// The name by which [`Selection`] knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Naive => "naive",
            Kernel::Portable => "portable",
            Kernel::Avx2 => "avx2",
            Kernel::Avx512Gfni => "avx512_gfni",
        }
    }

    /// What it needs of the CPU, in words.
    pub const fn needs(self) -> &'static str {
        match self {
            Kernel::Naive | Kernel::Portable => "needs nothing",
            Kernel::Avx2 => "needs x86-64 with AVX2",
            Kernel::Avx512Gfni => "needs x86-64 with AVX-512F, AVX-512BW and GFNI",
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
            Kernel::Avx2 => Avx2::detect().map(Avx2::routines),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512Gfni => Avx512Gfni::detect().map(Avx512Gfni::routines),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Avx2 | Kernel::Avx512Gfni => None,
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
