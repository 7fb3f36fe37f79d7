//! Copies to and from memory that others may touch at the same time.
//!
//! Arena memory is reached by raw pointers from the kernel and from compute engines, so a plain `memcpy`
//! of it would be undefined behaviour if a caller got its own ordering wrong. Here the arena's side is
//! touched only by an instruction the compiler cannot see into (x86-64) or by relaxed atomic bytes
//! (elsewhere): a race then yields a mixture of old and new bytes, and nothing worse. That is why the
//! functions built on these can be safe.

/// Copies `len` bytes from private memory to shared memory.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy_to_shared(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both ranges.
    unsafe { copy(src, dst, len) }
}

/// Copies `len` bytes from shared memory to private memory.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes, and they do not overlap.
pub(crate) unsafe fn copy_from_shared(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both ranges.
    unsafe { copy(src, dst, len) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller vouches for both ranges; the ABI keeps the direction flag clear, and `rep movsb`
    // touches nothing but the two ranges and the three registers named.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rsi") src => _,
            inout("rdi") dst => _,
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy(src: *const u8, dst: *mut u8, len: usize) {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
    for at in 0..len {
        // SAFETY: the caller vouches for both ranges; a byte is always aligned for an `AtomicU8`, and the
        // source is only loaded, which is allowed through a pointer to memory that is only readable.
        unsafe {
            let byte = (*src.add(at).cast::<AtomicU8>()).load(Relaxed);
            (*dst.add(at).cast::<AtomicU8>()).store(byte, Relaxed);
        }
    }
}

/// Sets `len` bytes of shared memory to `byte`.
///
/// # Safety
/// `dst` is writable for `len` bytes.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn fill_shared(dst: *mut u8, byte: u8, len: usize) {
    // SAFETY: the caller vouches for the range; as in `copy`.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") dst => _,
            in("al") byte,
            options(nostack, preserves_flags)
        );
    }
}

/// Sets `len` bytes of shared memory to `byte`.
///
/// # Safety
/// `dst` is writable for `len` bytes.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn fill_shared(dst: *mut u8, byte: u8, len: usize) {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
    for at in 0..len {
        // SAFETY: the caller vouches for the range; a byte is always aligned for an `AtomicU8`.
        unsafe { (*dst.add(at).cast::<AtomicU8>()).store(byte, Relaxed) };
    }
}
