//! Which CPU features the implementations look at, and which of them are here.
//!
//! For people who ask why an implementation was not taken. What decides is each implementation's own
//! detection; a test holds the two together.

use crate::Kernel;

/// A CPU feature that an implementation needs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Feature {
    /// Its name, as in `target_feature`; `/proc/cpuinfo` has `_` for the dot of `sse4.2`.
    pub name: &'static str,
    /// Whether the CPU has it and the operating system lets it be used.
    pub present: bool,
}

/// All features that some implementation looks at. On other architectures than x86-64 none is present.
pub fn cpu_features() -> Vec<Feature> {
    macro_rules! look {
        ($($name:tt),*) => {
            vec![$(Feature {
                name: $name,
                #[cfg(target_arch = "x86_64")]
                present: std::arch::is_x86_feature_detected!($name),
                #[cfg(not(target_arch = "x86_64"))]
                present: false,
            }),*]
        };
    }
    look!("sse2", "ssse3", "sse4.2", "pclmulqdq", "avx2", "avx512f", "avx512bw", "gfni", "vpclmulqdq")
}

impl Kernel {
    /// The names of the CPU features that it needs.
    pub fn features(self) -> &'static [&'static str] {
        match self {
            Kernel::Naive | Kernel::Portable => &[],
            Kernel::Sse2 => &["sse2"],
            Kernel::Ssse3 => &["ssse3"],
            Kernel::Avx2 => &["avx2"],
            Kernel::Avx2Gfni => &["avx2", "gfni"],
            Kernel::Avx512 => &["avx512f", "avx512bw"],
            Kernel::Avx512Gfni => &["avx512f", "avx512bw", "gfni"],
        }
    }

    /// The names of the CPU features that it needs and that are not here; none if it can run.
    pub fn lacks(self) -> Vec<&'static str> {
        let here = cpu_features();
        let lacking = |name: &&str| !here.iter().any(|feature| feature.name == *name && feature.present);
        self.features().iter().copied().filter(lacking).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_available_exactly_if_it_lacks_nothing() {
        for kernel in Kernel::ALL {
            assert_eq!(kernel.is_available(), kernel.lacks().is_empty(), "{kernel}");
        }
    }

    #[test]
    fn what_a_kernel_needs_is_looked_at() {
        let looked_at = cpu_features();
        for kernel in Kernel::ALL {
            for name in kernel.features() {
                assert!(looked_at.iter().any(|feature| feature.name == *name), "{kernel}: {name}");
            }
            let portable = matches!(kernel, Kernel::Naive | Kernel::Portable);
            assert_eq!(kernel.features().is_empty(), portable, "{kernel}");
        }
    }
}
