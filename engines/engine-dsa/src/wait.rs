//! Waiting for a completion record, with an end.
//!
//! Where the processor has it, UMONITOR and UMWAIT let it rest lightly (state C0.1, by reports about a
//! quarter of a microsecond to wake up from) until the record's line is written to; elsewhere pauses are
//! spun, then the processor is given away. A shard with other work polls its records instead.
//!
//! UMWAIT has been assembled, not run: there was no processor at hand that has it. The loop around it, and
//! the deadline, are tested.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::yield_now;
use std::time::{Duration, Instant};

use crate::portal::cpu::Cpu;

/// Pauses before the processor is given away.
const SPINS: u32 = 256;
/// Pauses between two looks at the clock.
const SPINS_A_LOOK: u32 = 16;
/// The longest rest at a time, in ticks of the time stamp counter: the system's own limit by default.
const REST: u64 = 100_000;

/// How many ticks to rest for, with `left` to the deadline: one a nanosecond, for the counters of the
/// processors that have WAITPKG are faster than that, so that the rest ends before the deadline.
fn ticks(left: Duration) -> u64 {
    u64::try_from(left.as_nanos()).unwrap_or(REST).min(REST)
}

/// How this processor waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    monitor: bool,
}

impl Default for Waiter {
    fn default() -> Self {
        Waiter::detect()
    }
}

impl Waiter {
    /// The best that the processor has.
    pub fn detect() -> Waiter {
        Waiter { monitor: Cpu::detect().waitpkg }
    }

    /// Spins and yields, whatever the processor has.
    pub fn portable() -> Waiter {
        Waiter { monitor: false }
    }

    /// `umwait` or `pause`.
    pub fn method(&self) -> &'static str {
        if self.monitor { "umwait" } else { "pause" }
    }

    /// Waits until `status` is not zero any more, or the deadline has passed; says whether it is not zero.
    /// What the device wrote before the status can be read then. The deadline is overrun by what the
    /// scheduler takes.
    pub fn pause_until(&self, status: &AtomicU8, deadline: Instant) -> bool {
        let mut rounds: u32 = 0;
        loop {
            if status.load(Ordering::Acquire) != 0 {
                return true;
            }
            // On a processor that rests, each time: the rounds are not counted there.
            if rounds.is_multiple_of(SPINS_A_LOOK) {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    // It may have been written while the clock was read.
                    return status.load(Ordering::Acquire) != 0;
                }
                if self.monitor {
                    rest(status, ticks(left));
                    continue;
                }
            }
            if rounds < SPINS {
                spin_loop();
                rounds += 1;
            } else {
                // At a multiple of SPINS_A_LOOK: from here on the clock is looked at every time.
                yield_now();
            }
        }
    }
}

/// Waits once with the default method: see [`Waiter::pause_until`].
pub fn pause_until(status: &AtomicU8, deadline: Instant) -> bool {
    Waiter::detect().pause_until(status, deadline)
}

/// Rests until the line of `status` is written to, or something else happens, or `ticks` are over. Only on
/// a processor with WAITPKG.
#[cfg(target_arch = "x86_64")]
fn rest(status: &AtomicU8, ticks: u64) {
    // SAFETY: the caller has asked the processor for WAITPKG. UMONITOR reads the byte's line, which is
    // borrowed; neither instruction writes memory, and the flags count as clobbered. Memory does, too, so
    // the status is read again afterwards.
    unsafe {
        std::arch::asm!("umonitor {0}", in(reg) status.as_ptr(), options(nostack));
        // What was written before the monitor was armed would not end the rest.
        if status.load(Ordering::Acquire) != 0 {
            return;
        }
        let until = std::arch::x86_64::_rdtsc().saturating_add(ticks);
        // State 1 is C0.1, which wakes up faster.
        std::arch::asm!(
            "umwait ecx",
            in("ecx") 1_u32,
            in("eax") until as u32,
            in("edx") (until >> 32) as u32,
            options(nostack),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn rest(_status: &AtomicU8, _ticks: u64) {
    spin_loop();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_written_record_ends_the_wait_before_any_deadline() {
        let past = Instant::now();
        assert!(pause_until(&AtomicU8::new(1), past));
        assert!(!pause_until(&AtomicU8::new(0), past));
        assert!(!Waiter::portable().pause_until(&AtomicU8::new(0), past));
    }

    #[test]
    fn the_deadline_ends_the_wait_for_a_lost_record() {
        for waiter in [Waiter::detect(), Waiter::portable()] {
            let deadline = Instant::now() + Duration::from_millis(5);
            assert!(!waiter.pause_until(&AtomicU8::new(0), deadline));
            assert!(Instant::now() >= deadline);
        }
    }

    /// The opcode bytes that the processor's manual gives stand in the function's code, in their order.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_assembler_knows_the_instructions() {
        let function: fn(&AtomicU8, u64) = rest;
        // SAFETY: code is readable where it was compiled to run, and this test's binary is larger than
        // what follows the function.
        let code = unsafe { (function as *const u8).cast::<[u8; 128]>().read() };
        let find = |opcode: &[u8]| code.windows(opcode.len()).position(|window| window == opcode);
        let (umonitor, umwait) = (find(&[0xf3, 0x0f, 0xae]), find(&[0xf2, 0x0f, 0xae, 0xf1]));
        assert!(umonitor.is_some() && umonitor < umwait, "{code:02x?}");
    }

    #[test]
    fn a_rest_ends_before_the_deadline_and_within_the_systems_limit() {
        assert_eq!(ticks(Duration::from_micros(2)), 2_000);
        assert_eq!(ticks(Duration::from_nanos(1)), 1);
        assert_eq!(ticks(Duration::from_secs(1)), REST);
        assert_eq!(ticks(Duration::MAX), REST);
    }

    #[test]
    fn another_thread_ends_the_wait() {
        for waiter in [Waiter::detect(), Waiter::portable()] {
            let status = Arc::new(AtomicU8::new(0));
            let device = Arc::clone(&status);
            let writer = std::thread::spawn(move || device.store(0x83, Ordering::Release));
            assert!(waiter.pause_until(&status, Instant::now() + Duration::from_secs(30)));
            writer.join().unwrap();
        }
    }
}
