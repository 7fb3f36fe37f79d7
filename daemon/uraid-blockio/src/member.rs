//! Opening a member: a regular file, a loop device or another block device.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::{fstat, major, minor};

use crate::{IoError, fence, probe, sys};

/// How to open a [`Member`]. The default: for reading and writing, exclusively, engine and O_DIRECT chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Claim the member, so that no second daemon, mount or array can have it: O_EXCL for a block device,
    /// an open-file-description lock over the whole file otherwise (shared if `read_only`).
    pub exclusive: bool,
    /// Whether to bypass the page cache.
    pub direct: Direct,
    /// Who moves the bytes.
    pub engine: EnginePreference,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { read_only: false, exclusive: true, direct: Direct::Auto, engine: EnginePreference::Auto }
    }
}

/// Whether to bypass the page cache (O_DIRECT).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Direct {
    /// Where it works and saves a copy, which it does not in a memory file system.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always; a member that cannot is not opened.
    Require,
}

/// Who shall move the bytes of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EnginePreference {
    /// io_uring for direct members that it serves without worker threads, the caller otherwise.
    #[default]
    Auto,
    /// io_uring; a set without a ring does not take the member.
    Uring,
    /// `pread` and `pwrite` in the caller, for everything.
    Sync,
}

/// Who moves the bytes of a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// io_uring: operations end later.
    Uring,
    /// `pread` and `pwrite` in the caller: operations end in `submit`.
    Sync,
}

/// What a member is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A block device, loop devices included.
    Block,
}

/// What makes two members the same thing under two names. A loop device and the file behind it have two:
/// [`loop_file`](crate::loop_file) tells them to be one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Identity {
    /// A file, by its file system and inode (`st_dev`, `st_ino`).
    File {
        /// `st_dev`.
        device: u64,
        /// `st_ino`.
        inode: u64,
    },
    /// A block device, by its number (`st_rdev`).
    Block {
        /// `st_rdev`.
        device: u64,
    },
}

/// Why a member could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at this path, or it may not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Which path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Someone else has it.
    #[error("{} is in use by another process, mount or array; stop that first", path.display())]
    Busy {
        /// Which path.
        path: PathBuf,
    },
    /// It is a directory, a terminal or something else that stores no blocks.
    #[error("{} is neither a regular file nor a block device", path.display())]
    NotStorage {
        /// Which path.
        path: PathBuf,
    },
    /// O_DIRECT was required and cannot be had.
    #[error("{} cannot be opened for direct I/O: {why}; allow buffered I/O for it", path.display())]
    NotDirect {
        /// Which path.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Its size or lock could not be asked for.
    #[error("cannot find out the {what} of {}: {source}", path.display())]
    Ask {
        /// Which path.
        path: PathBuf,
        /// What was asked.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A new file could not be made.
    #[error("cannot create {} with {bytes} bytes: {source}", path.display())]
    Create {
        /// Which path.
        path: PathBuf,
        /// How long it should be.
        bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An opened member. Dropping it gives up the claim on it.
#[derive(Debug)]
pub struct Member {
    pub(crate) file: File,
    path: PathBuf,
    kind: Kind,
    identity: Identity,
    size: u64,
    logical_block: u32,
    rotational: Option<bool>,
    read_only: bool,
    in_memory: bool,
    /// RWF_DSYNC does what it says.
    pub(crate) durable_writes: bool,
    pub(crate) engine: EnginePreference,
    pub(crate) nowait: bool,
    pub(crate) direct: probe::DirectChoice,
}

impl Member {
    /// Opens the member at `path` and finds out what it can do.
    ///
    /// # Errors
    /// [`OpenError`], naming the path.
    pub fn open(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let (file, kind, identity) = open_storage(path, options)?;
        if options.exclusive && kind == Kind::File {
            lock_file(&file, path, options.read_only)?;
        }
        if !options.read_only && !fence::hold(&file).map_err(|source| ask(path, "lock", source))? {
            return Err(OpenError::Busy { path: path.to_owned() });
        }
        let size = size_of(&file, kind).map_err(|source| ask(path, "size", source))?;
        let in_memory = kind == Kind::File && probe::in_memory(&file);
        let direct = probe::choose_direct(&file, size, options.direct, in_memory);
        if options.direct == Direct::Require && !direct.direct {
            return Err(OpenError::NotDirect { path: path.to_owned(), why: direct.why });
        }
        let logical_block = match kind {
            Kind::Block => sys::logical_block_size(file.as_fd())
                .map_err(|source| ask(path, "logical block size", source))?,
            Kind::File => direct.align.max(512),
        };
        Ok(Self {
            durable_writes: probe::durable_writes(&file, kind),
            nowait: size > 0 && probe::takes_nowait(file.as_fd()),
            rotational: rotational(identity),
            path: path.to_owned(),
            read_only: options.read_only,
            engine: options.engine,
            file,
            kind,
            identity,
            size,
            logical_block,
            in_memory,
            direct,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes when it was opened. Nothing beyond is read or written, even if it grows.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The smallest unit it reads and writes by itself, in bytes: the logical block of a block device, the
    /// alignment of O_DIRECT for a file, and at least 512.
    pub fn logical_block(&self) -> u32 {
        self.logical_block
    }

    /// File or block device.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to compare to find the same member under two names.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Whether it, or the disk that its file lies on, rotates; `None` if that is not known.
    pub fn rotational(&self) -> Option<bool> {
        self.rotational
    }

    /// Whether it bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.direct
    }

    /// Whether it refuses writes.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Fails if this is a file that is shorter now than when it was opened. What was cut off is lost, and a
    /// write beyond the new end would put a hole of zeroes in its place that reads like data; nothing of
    /// such a file may be believed any more. A block device says by itself when it ends early.
    pub(crate) fn check_whole(&self) -> Result<(), IoError> {
        if self.kind != Kind::File {
            return Ok(());
        }
        let stat = fstat(&self.file).map_err(|err| IoError::of_errno(err as i32))?;
        let whole = u64::try_from(stat.st_size).is_ok_and(|bytes| bytes >= self.size);
        if whole { Ok(()) } else { Err(IoError::CUT_SHORT) }
    }

    /// How an operation ended, given how the kernel says it did. What is to be durable must be in a file
    /// that is still whole, and a failure may have its cause in one that is not.
    pub(crate) fn confirm(&self, durable: bool, result: Result<(), IoError>) -> Result<(), IoError> {
        match result {
            Ok(()) if !durable => Ok(()),
            result => self.check_whole().and(result),
        }
    }

    /// Whether making its data durable costs nothing, because there is no disk behind it.
    pub(crate) fn in_memory(&self) -> bool {
        self.in_memory
    }
}

/// Makes a new sparse file of `bytes` bytes, readable and writable by its owner alone.
///
/// # Errors
/// [`OpenError::Create`] if the path exists or cannot be made that long; a file that was made is removed.
pub fn create_sparse(path: impl AsRef<Path>, bytes: u64) -> Result<(), OpenError> {
    let path = path.as_ref();
    let failed = |source| OpenError::Create { path: path.to_owned(), bytes, source };
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(failed)?;
    file.set_len(bytes).and_then(|()| file.sync_all()).map_err(|err| {
        // The file was made by us a moment ago and holds nothing.
        let _ = std::fs::remove_file(path);
        failed(err)
    })
}

fn ask(path: &Path, what: &'static str, source: io::Error) -> OpenError {
    OpenError::Ask { path: path.to_owned(), what, source }
}

/// Opens a file or block device, claiming a block device if that is wanted.
fn open_storage(path: &Path, options: OpenOptions) -> Result<(File, Kind, Identity), OpenError> {
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::EBUSY) => OpenError::Busy { path: path.to_owned() },
        _ => OpenError::Open { path: path.to_owned(), source },
    };
    // Looked at before opening, because opening a tape or a pipe may block or have effects.
    let kind = kind_of(&std::fs::metadata(path).map_err(failed)?);
    let Some(kind) = kind else { return Err(OpenError::NotStorage { path: path.to_owned() }) };
    let claim = if options.exclusive && kind == Kind::Block { libc::O_EXCL } else { 0 };
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(!options.read_only)
        .custom_flags(claim | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    // Looked at again, because the path may have changed its meaning in between.
    let stat = file.metadata().map_err(failed)?;
    if kind_of(&stat) != Some(kind) {
        return Err(OpenError::NotStorage { path: path.to_owned() });
    }
    let identity = match kind {
        Kind::File => Identity::File { device: stat.dev(), inode: stat.ino() },
        Kind::Block => Identity::Block { device: stat.rdev() },
    };
    Ok((file, kind, identity))
}

fn kind_of(stat: &std::fs::Metadata) -> Option<Kind> {
    let kind = stat.file_type();
    if kind.is_file() {
        Some(Kind::File)
    } else if kind.is_block_device() {
        Some(Kind::Block)
    } else {
        None
    }
}

/// Locks a whole file. The lock belongs to the open file, so a second open by this process fails as well,
/// and it goes when the file is closed.
fn lock_file(file: &File, path: &Path, shared: bool) -> Result<(), OpenError> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(()),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Err(OpenError::Busy { path: path.to_owned() }),
        Err(err) => Err(ask(path, "lock", err.into())),
    }
}

fn size_of(file: &File, kind: Kind) -> io::Result<u64> {
    match kind {
        Kind::File => Ok(file.metadata()?.len()),
        Kind::Block => sys::block_device_size(file.as_fd()),
    }
}

/// Asks sysfs; a partition has no queue of its own, its disk is one level up.
fn rotational(identity: Identity) -> Option<bool> {
    let device = match identity {
        Identity::File { device, .. } | Identity::Block { device } => device,
    };
    let dir = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let read = |file: &str| std::fs::read_to_string(format!("{dir}/{file}")).ok();
    let answer = read("queue/rotational").or_else(|| read("../queue/rotational"))?;
    Some(answer.trim() != "0")
}
