//! The pool that all blocks lie in, and shared libraries.

use std::ffi::{CStr, CString, c_void};
use std::io::Error;

use crate::Result;

/// What blocks are aligned to.
pub(crate) const PAGE: usize = 4096;
const HUGE_PAGE: usize = 2 << 20;

/// The part of a list of all stripes that belongs to one stripe. That of the next stripe is asked for
/// meanwhile: whoever calls in earnest has just made the list, so nobody should pay for one that comes
/// from memory, and the lists of contenders are of different lengths.
pub(crate) fn part<T>(list: &[T], stripe: usize, count: usize) -> &[T] {
    ahead(list, stripe, count);
    &list[stripe * count..][..count]
}

/// As [`part`].
pub(crate) fn part_mut<T>(list: &mut [T], stripe: usize, count: usize) -> &mut [T] {
    ahead(list, stripe, count);
    &mut list[stripe * count..][..count]
}

/// A list of this many bytes stays in the first-level cache, where nobody has to ask for it.
const STAYS: usize = 8 << 10;

/// Asks for the part that comes after the one of `stripe`.
fn ahead<T>(list: &[T], stripe: usize, count: usize) {
    #[cfg(target_arch = "x86_64")]
    if size_of_val(list) > STAYS
        && let Some(next) = list.get((stripe + 1) * count..)
    {
        let bytes = size_of_val(&next[..count.min(next.len())]);
        for line in (0..bytes).step_by(64) {
            let at = next.as_ptr().cast::<i8>().wrapping_add(line);
            // SAFETY: a prefetch is a hint that reads nothing.
            unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (list, stripe, count);
}

/// Private memory, written once so that no page fault is timed, in huge pages if the system gives any.
pub(crate) struct Pool {
    map: *mut c_void,
    map_len: usize,
    base: *mut u8,
    len: usize,
}

impl Pool {
    /// Memory of at least this many bytes, filled with bytes that look random.
    pub(crate) fn new(len: usize) -> Result<Self> {
        let len = len.next_multiple_of(HUGE_PAGE);
        let map_len = len + HUGE_PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping, whose address is checked below.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if map == libc::MAP_FAILED {
            return Err(format!("no pool of {map_len} bytes: {}", Error::last_os_error()));
        }
        let base = map.cast::<u8>();
        let pool = Pool { map, map_len, base: base.wrapping_add(base.align_offset(HUGE_PAGE)), len };
        // SAFETY: advice about a mapping of our own. A system without huge pages refuses, which is fine.
        unsafe { libc::madvise(pool.base.cast(), len, libc::MADV_HUGEPAGE) };
        pool.fill();
        Ok(pool)
    }

    /// The first byte, on a huge page's boundary.
    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes every word (xorshift, which is fast enough for a GiB).
    pub(crate) fn fill(&self) {
        let mut word = 0x9e37_79b9_7f4a_7c15_u64;
        for offset in (0..self.len).step_by(8) {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            // SAFETY: `len` is a multiple of 8, so the word is inside the mapping, and `base` is aligned.
            unsafe { self.base.add(offset).cast::<u64>().write(word) };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; every cell borrows the pool, so none is left.
        unsafe { libc::munmap(self.map, self.map_len) };
    }
}

/// A shared library, which stays loaded.
#[derive(Clone, Copy)]
pub(crate) struct Library {
    handle: *mut c_void,
}

impl Library {
    /// Loads a library by path, or by name where the system knows it.
    pub(crate) fn open(path: &str) -> Result<Self> {
        let name = CString::new(path).map_err(|_| format!("{path:?} is not a path"))?;
        // SAFETY: `name` is a C string. Whoever names a library on the command line trusts its constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: dlopen failed, so dlerror gives its message, a C string that lives until the next call.
            let message = unsafe { CStr::from_ptr(libc::dlerror()) };
            return Err(format!("{path} cannot be loaded: {}", message.to_string_lossy()));
        }
        Ok(Library { handle })
    }

    /// A function of the library, as the function pointer type `F`; `None` if there is none of this name.
    ///
    /// # Safety
    /// `F` is the type of a pointer to the function of this name.
    pub(crate) unsafe fn function<F: Copy>(self, name: &str) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let address = self.address(name)?;
        // SAFETY: the caller says that the address is that of an `F`, and the sizes are equal.
        Some(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }

    /// The file that a function came from.
    pub(crate) fn file_of(self, name: &str) -> Option<String> {
        let address = self.address(name)?;
        // SAFETY: all zeroes is a value of this struct of pointers.
        let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is written by the call.
        let known = unsafe { libc::dladdr(address, &mut info) } != 0 && !info.dli_fname.is_null();
        // SAFETY: dladdr gave a C string that lives as long as the library.
        known.then(|| unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned())
    }

    fn address(self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).ok()?;
        // SAFETY: a handle that dlopen gave, and a C string.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}
