//! What an opened member can do: found out by trying, because file systems, loop devices and kernels
//! differ in ways that no single question answers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::statfs;

use crate::member::{Direct, Kind};
use crate::sys::{self, AlignedBuf};

/// The alignments that disks ask of O_DIRECT requests, and so the only ones tried.
const ALIGNMENTS: [u32; 2] = [512, 4096];

/// How a member takes its I/O.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DirectChoice {
    pub(crate) direct: bool,
    /// What requests must be multiples of: 1 without O_DIRECT.
    pub(crate) align: u32,
    /// Why it is not direct; empty if it is.
    pub(crate) why: String,
}

impl DirectChoice {
    fn off(why: impl Into<String>) -> Self {
        Self { direct: false, align: 1, why: why.into() }
    }
}

/// Whether a file lies in memory (tmpfs, ramfs): I/O to it never waits, and O_DIRECT saves no copy.
pub(crate) fn in_memory(file: &File) -> bool {
    const RAMFS_MAGIC: statfs::FsType = statfs::FsType(0x8584_58f6); // linux/magic.h
    statfs::fstatfs(file).is_ok_and(|fs| {
        let kind = fs.filesystem_type();
        kind == statfs::TMPFS_MAGIC || kind == RAMFS_MAGIC
    })
}

/// Whether a write with RWF_DSYNC is durable when it ends. Block devices see to it, and so do the file systems of
/// disks that are known here. Others may drop the flag without a word: FUSE does (of Linux 6.18), on files that their
/// server has opened for direct I/O. Not to be known costs a flush behind each such write.
pub(crate) fn durable_writes(file: &File, kind: Kind) -> bool {
    const F2FS_MAGIC: statfs::FsType = statfs::FsType(0xf2f5_2010); // linux/magic.h
    let known = [statfs::EXT4_SUPER_MAGIC, statfs::XFS_SUPER_MAGIC, statfs::BTRFS_SUPER_MAGIC, F2FS_MAGIC];
    let on_known = || statfs::fstatfs(file).is_ok_and(|fs| known.contains(&fs.filesystem_type()));
    kind == Kind::Block || in_memory(file) || on_known()
}

/// Turns O_DIRECT on where it is wanted and works. The answer's `why` is an error if `want` is
/// [`Direct::Require`].
pub(crate) fn choose_direct(file: &File, size: u64, want: Direct, in_memory: bool) -> DirectChoice {
    if want == Direct::Off {
        return DirectChoice::off("direct I/O is turned off");
    }
    if want == Direct::Auto && in_memory {
        return DirectChoice::off("it lies in memory, where direct I/O saves nothing");
    }
    if let Err(err) = set_direct(file, true) {
        return DirectChoice::off(format!("its file system refuses O_DIRECT ({err})"));
    }
    let why = match smallest_alignment(file.as_fd(), size) {
        Ok(Some(align)) if size.is_multiple_of(u64::from(align)) => {
            return DirectChoice { direct: true, align, why: String::new() };
        }
        Ok(Some(align)) => format!("its size of {size} bytes is not a multiple of {align}"),
        Ok(None) => "no alignment up to 4096 satisfies O_DIRECT".to_owned(),
        Err(err) => format!("a first direct read failed ({err})"),
    };
    match set_direct(file, false) {
        Ok(()) => DirectChoice::off(why),
        Err(err) => DirectChoice::off(format!("{why}, and O_DIRECT cannot be turned off ({err})")),
    }
}

fn set_direct(file: &File, on: bool) -> io::Result<()> {
    let mut flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    flags.set(OFlag::O_DIRECT, on);
    fcntl(file, FcntlArg::F_SETFL(flags))?;
    Ok(())
}

/// The smallest alignment with which a direct read works, of offset, length and address alike. Tried and
/// not asked (`statx` has STATX_DIOALIGN since 6.1), since trying works on every kernel.
fn smallest_alignment(fd: BorrowedFd<'_>, size: u64) -> io::Result<Option<u32>> {
    for align in ALIGNMENTS {
        let bytes = align as usize;
        // An address and an offset that are multiples of `align` and of nothing bigger, where there is room.
        let offset = if size >= 2 * u64::from(align) { u64::from(align) } else { 0 };
        let buf = AlignedBuf::new(2 * bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the buffer has `2 * bytes` bytes of its own, of which the second half is read into.
        match unsafe { sys::pread(fd, buf.as_ptr().wrapping_add(bytes), bytes, offset, 0) } {
            Ok(_) => return Ok(Some(align)),
            Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {}
            // A bad block at the start is no reason to give up O_DIRECT, nor is an interruption.
            Err(err) if err.raw_os_error() == Some(libc::EIO) => return Ok(Some(4096)),
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

/// Whether the kernel can start a read of the file without blocking. Where it cannot, io_uring hands
/// every operation to a worker thread, which costs twenty times the operation itself.
pub(crate) fn takes_nowait(fd: BorrowedFd<'_>) -> bool {
    let Some(buf) = AlignedBuf::new(4096) else { return false };
    // SAFETY: the buffer has 4096 bytes of its own.
    match unsafe { sys::pread(fd, buf.as_ptr(), 4096, 0, libc::RWF_NOWAIT) } {
        Ok(_) => true,
        // It would have to wait, which is what we want to be told.
        Err(err) => matches!(err.raw_os_error(), Some(libc::EAGAIN | libc::EIO)),
    }
}
