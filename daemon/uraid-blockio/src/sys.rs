//! The system calls that need raw memory: mappings, transfers and block device questions.
//!
//! Everything here is a thin wrapper that turns `errno` into [`io::Error`]; decisions are made elsewhere.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use nix::{ioctl_read, ioctl_read_bad};

use crate::Identity;

ioctl_read!(
    /// Size of a block device in bytes (`BLKGETSIZE64`, linux/fs.h; the type in the number is `size_t`).
    blkgetsize64,
    0x12,
    114,
    libc::size_t
);
ioctl_read_bad!(
    /// Logical block size of a block device in bytes (`BLKSSZGET`, linux/fs.h).
    blksszget,
    libc::BLKSSZGET,
    libc::c_int
);

/// `struct loop_info64` (linux/loop.h).
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdev: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

ioctl_read_bad!(
    /// What a loop device reads and writes (`LOOP_GET_STATUS64`, linux/loop.h).
    loop_get_status64,
    0x4c05,
    LoopInfo
);

/// What lies behind a loop device: found by what it is and not by a path, which may be gone, or be another
/// one in another mount namespace. To be asked of loop devices only.
///
/// # Errors
/// `ENXIO` if nothing lies behind it, `ENOTTY` if it is no loop device.
pub fn loop_file(device: BorrowedFd<'_>) -> io::Result<Identity> {
    let mut info = LoopInfo {
        device: 0,
        inode: 0,
        rdev: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
    // SAFETY: the kernel writes one `struct loop_info64`, which this is.
    unsafe { loop_get_status64(device.as_raw_fd(), &raw mut info) }?;
    // The kernel's form of a device number (`huge_encode_dev`): minor bits 0-7, 12 bits major, the rest.
    let number =
        |n: u64| libc::makedev(((n >> 8) & 0xfff) as u32, ((n & 0xff) | ((n >> 12) & 0xf_ff00)) as u32);
    Ok(match info.rdev {
        0 => Identity::File { device: number(info.device), inode: info.inode },
        rdev => Identity::Block { device: number(rdev) },
    })
}

/// Maps `len` bytes of private anonymous memory at a multiple of `align`, a power of two that is a
/// multiple of the page size. `len` is a multiple of `align`.
pub(crate) fn map_aligned(len: usize, align: usize) -> io::Result<NonNull<u8>> {
    let total = len.checked_add(align).ok_or(io::ErrorKind::OutOfMemory)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
    let raw = unsafe { libc::mmap(std::ptr::null_mut(), total, prot, flags, -1, 0) };
    if raw == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = raw as usize;
    let head = start.next_multiple_of(align) - start;
    let base = raw.cast::<u8>().wrapping_add(head);
    // SAFETY: the mapping of `total` bytes was just made and nothing points into it; what is cut off are
    // the `head` bytes before `base` and the `align - head` bytes behind `base + len`.
    unsafe {
        if head > 0 {
            libc::munmap(raw, head);
        }
        if head < align {
            libc::munmap(base.wrapping_add(len).cast(), align - head);
        }
    }
    NonNull::new(base).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Unmaps what [`map_aligned`] mapped.
///
/// # Safety
/// The range came from [`map_aligned`] with this length and nothing will touch it any more.
pub(crate) unsafe fn unmap(base: NonNull<u8>, len: usize) {
    // SAFETY: the caller's promise.
    unsafe { libc::munmap(base.as_ptr().cast(), len) };
}

/// Keeps the range out of child processes. Refusal does no harm, so it is not reported.
pub(crate) fn no_fork(base: NonNull<u8>, len: usize) {
    // SAFETY: this advice changes what a forked child sees, not the memory of this process.
    unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_DONTFORK) };
}

/// Makes every page of a writable mapping present.
pub(crate) fn prefault(base: NonNull<u8>, len: usize) {
    // SAFETY: populating keeps the contents.
    let rc = unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_POPULATE_WRITE) };
    if rc == 0 {
        return;
    }
    // Kernels before 5.14 do not know the advice. A new mapping is zero, so writing a zero keeps it.
    for at in (0..len).step_by(4096) {
        // SAFETY: within the mapping, which is new: the arena is not yet shared with anyone.
        unsafe { base.as_ptr().add(at).write_volatile(0) };
    }
}

/// Locks the range into memory.
pub(crate) fn lock(base: NonNull<u8>, len: usize) -> io::Result<()> {
    // SAFETY: locking changes neither the contents nor the mapping.
    let rc = unsafe { libc::mlock(base.as_ptr().cast(), len) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One `preadv2` of one range. `flags` are `RWF_*`.
///
/// # Safety
/// `ptr` is valid for `len` bytes that no reference covers.
pub(crate) unsafe fn pread(
    fd: BorrowedFd<'_>,
    ptr: *mut u8,
    len: usize,
    at: u64,
    flags: i32,
) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: ptr.cast(), iov_len: len };
    let at = libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let n = if flags == 0 {
        // SAFETY: the caller vouches for the memory.
        unsafe { libc::pread(fd.as_raw_fd(), ptr.cast(), len, at) }
    } else {
        // SAFETY: `iov` is one valid entry, and the caller vouches for the memory behind it.
        unsafe { libc::preadv2(fd.as_raw_fd(), &raw const iov, 1, at, flags) }
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// One `pwritev2` of one range. `flags` are `RWF_*`.
///
/// # Safety
/// `ptr` is readable for `len` bytes.
pub(crate) unsafe fn pwrite(
    fd: BorrowedFd<'_>,
    ptr: *const u8,
    len: usize,
    at: u64,
    flags: i32,
) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: ptr.cast_mut().cast(), iov_len: len };
    let at = libc::off_t::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let n = if flags == 0 {
        // SAFETY: the caller vouches for the memory.
        unsafe { libc::pwrite(fd.as_raw_fd(), ptr.cast(), len, at) }
    } else {
        // SAFETY: `iov` is one valid entry, and the caller vouches for the memory behind it.
        unsafe { libc::pwritev2(fd.as_raw_fd(), &raw const iov, 1, at, flags) }
    };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Makes the data of a file durable.
pub(crate) fn fdatasync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(nix::unistd::fdatasync(fd)?)
}

/// Size of a block device in bytes.
pub(crate) fn block_device_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut size: libc::size_t = 0;
    // SAFETY: the request writes one `u64`; `size_t` is 64 bits wide wherever this crate's offsets are.
    unsafe { blkgetsize64(fd.as_raw_fd(), &raw mut size) }?;
    Ok(size as u64)
}

/// Logical block size of a block device in bytes.
pub(crate) fn logical_block_size(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the request writes one `int`.
    unsafe { blksszget(fd.as_raw_fd(), &raw mut size) }?;
    u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Declares that this process moves the data of a block device (`PR_SET_IO_FLUSHER`, Linux 5.6,
/// `prctl(2)`). Threads made later inherit it, so it is to be called before there are any.
///
/// To free memory, the kernel may have to write dirty pages to the very volume that this process serves. If
/// one of its own allocations then waited for those pages to be written, it would wait for itself. With this
/// declaration the kernel does not start I/O on behalf of its allocations, and does not throttle what it
/// writes as if it were the one who dirties the pages.
///
/// # Errors
/// `EPERM` without `CAP_SYS_RESOURCE`, `EINVAL` where the kernel does not know it.
pub fn set_io_flusher() -> io::Result<()> {
    // linux/prctl.h; not in `libc` for Linux.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    let (on, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: the option takes no pointer and changes only how the kernel allocates for this thread and
    // those it makes; the kernel wants the unused arguments to be zero.
    let rc = unsafe { libc::prctl(PR_SET_IO_FLUSHER, on, none, none, none) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Heap memory aligned to 4096, for requests that a member cannot take as they are.
#[derive(Debug)]
pub(crate) struct AlignedBuf {
    base: NonNull<u8>,
    layout: std::alloc::Layout,
}

// SAFETY: the memory belongs to the value alone.
unsafe impl Send for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes, or `None` if they are not to be had.
    pub(crate) fn new(len: usize) -> Option<Self> {
        let layout = std::alloc::Layout::from_size_align(len.max(1), 4096).ok()?;
        // SAFETY: the layout has a size above zero.
        let base = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) })?;
        Some(Self { base, layout })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_declaration_or_says_why_not() {
        const PR_GET_IO_FLUSHER: libc::c_int = 58;
        // On a thread of its own: the declaration stays with the thread that made it.
        let (declared, seen) = std::thread::spawn(|| {
            let none: libc::c_ulong = 0;
            let declared = set_io_flusher();
            // SAFETY: the option takes no pointer and changes nothing.
            (declared, unsafe { libc::prctl(PR_GET_IO_FLUSHER, none, none, none, none) })
        })
        .join()
        .unwrap();
        match declared {
            Ok(()) => assert_eq!(seen, 1),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL)), "{error}");
            }
        }
    }
}
