//! What the processor can do, by CPUID: leaf 7, subleaf 0, register ECX.

/// Instructions that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cpu {
    /// UMONITOR, UMWAIT, TPAUSE.
    pub(crate) waitpkg: bool,
    /// MOVDIR64B.
    pub(crate) movdir64b: bool,
    /// ENQCMD. The system has to enable it, too, which it has once a shared queue could be opened.
    pub(crate) enqcmd: bool,
}

impl Cpu {
    /// Asks the processor.
    pub(crate) fn detect() -> Cpu {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{__cpuid, __cpuid_count};
            if __cpuid(0).eax >= 7 {
                return Cpu::from_ecx(__cpuid_count(7, 0).ecx);
            }
        }
        Cpu::default()
    }

    #[cfg_attr(not(any(test, target_arch = "x86_64")), expect(dead_code, reason = "x86-64 alone has it"))]
    fn from_ecx(ecx: u32) -> Cpu {
        let bit = |n: u32| ecx >> n & 1 == 1;
        Cpu { waitpkg: bit(5), movdir64b: bit(28), enqcmd: bit(29) }
    }
}

#[cfg(test)]
mod tests {
    use super::Cpu;

    #[test]
    fn bits_are_told_apart() {
        assert_eq!(Cpu::from_ecx(1 << 5), Cpu { waitpkg: true, ..Cpu::default() });
        assert_eq!(Cpu::from_ecx(1 << 28), Cpu { movdir64b: true, ..Cpu::default() });
        assert_eq!(Cpu::from_ecx(1 << 29), Cpu { enqcmd: true, ..Cpu::default() });
        assert_eq!(Cpu::from_ecx(!(1 << 5 | 1 << 28 | 1 << 29)), Cpu::default());
    }
}
