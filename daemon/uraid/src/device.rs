//! Files and block devices as candidates for membership: opening, size, identity, and the claim that
//! keeps others away while something is decided about them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// What a path leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeviceKind {
    /// A regular file.
    File,
    /// A block device.
    Block,
}

/// What a claim is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading: other readers may claim a file too, writers may not.
    Read,
    /// Reading and writing.
    Write,
}

/// An open file or block device.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    file: File,
    kind: DeviceKind,
    bytes: u64,
    identity: (u64, u64),
}

/// Why a path cannot be used as a device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// It could not be opened or looked at.
    #[error("cannot open it: {0}")]
    Open(#[source] io::Error),
    /// It is neither file nor block device.
    #[error("it is {0}; a member is a regular file or a block device")]
    WrongType(&'static str),
    /// Something else holds it.
    #[error("it is in use: {0}")]
    InUse(String),
}

impl Device {
    /// Opens for reading; others may use it at the same time.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn open_to_read(path: &Path) -> Result<Self, DeviceError> {
        Self::open(path, OpenOptions::new().read(true))
    }

    /// Opens for what `access` says, and keeps other users away until dropped: a block device is opened
    /// exclusively (mounted, swapped on, part of a kernel array or mapping: refused); a file gets an
    /// open-file-description lock over its whole length, as member I/O takes it and QEMU respects it, and
    /// for writing it must not be a swap file or back a loop device. The claim is not shared within the
    /// process either: whoever opens the device beside it must do so without claiming.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn claim(path: &Path, access: Access) -> Result<Self, DeviceError> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        if is_block(path) {
            options.custom_flags(libc::O_EXCL);
        }
        let device = Self::open(path, &options)?;
        if device.kind == DeviceKind::File {
            device.lock_file(access)?;
        }
        Ok(device)
    }

    /// Makes a new sparse file of `bytes` zeroes, claimed; fails if the path exists.
    ///
    /// # Errors
    /// The file could not be made; nothing is left of it.
    pub fn create_sparse(path: &Path, bytes: u64) -> Result<Self, DeviceError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(DeviceError::Open)?;
        let sized = file.set_len(bytes).and_then(|()| file.metadata());
        let metadata = match sized {
            Ok(metadata) => metadata,
            Err(error) => {
                // It is ours: create_new made it a moment ago.
                let _ = std::fs::remove_file(path);
                return Err(DeviceError::Open(error));
            }
        };
        let identity = identity(&metadata);
        let device = Device { path: path.into(), file, kind: DeviceKind::File, bytes, identity };
        match device.lock_file(Access::Write) {
            Ok(()) => Ok(device),
            Err(error) => {
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }

    fn open(path: &Path, options: &OpenOptions) -> Result<Self, DeviceError> {
        // Looked at before it is opened: opening a FIFO waits, opening some devices acts.
        let metadata = std::fs::metadata(path).map_err(DeviceError::Open)?;
        let file_type = metadata.file_type();
        let kind = if file_type.is_file() {
            DeviceKind::File
        } else if file_type.is_block_device() {
            DeviceKind::Block
        } else if file_type.is_dir() {
            return Err(DeviceError::WrongType("a directory"));
        } else {
            return Err(DeviceError::WrongType("neither file nor block device"));
        };
        let mut file = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => {
                DeviceError::InUse("mounted, used as swap, or part of another array or mapping".to_owned())
            }
            _ => DeviceError::Open(error),
        })?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(DeviceError::Open)?;
        Ok(Device { path: path.into(), file, kind, bytes, identity: identity(&metadata) })
    }

    fn lock_file(&self, access: Access) -> Result<(), DeviceError> {
        let lock_type = match access {
            Access::Read => libc::F_RDLCK,
            Access::Write => libc::F_WRLCK,
        };
        let lock = libc::flock {
            l_type: lock_type as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let holder = "another process, perhaps a running uraid, holds a lock on it";
                return Err(DeviceError::InUse(holder.to_owned()));
            }
            Err(error) => return Err(DeviceError::Open(error.into())),
        }
        let user = if access == Access::Write { kernel_user(&self.path) } else { None };
        match user {
            Some(user) => Err(DeviceError::InUse(user)),
            None => Ok(()),
        }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What it is.
    pub fn kind(&self) -> DeviceKind {
        self.kind
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its size in whole sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.bytes / md_format::SECTOR
    }

    /// Equal for two paths that lead to the same file or device, and only for them.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Reads `len` bytes at `offset`, or up to the end of the device.
    ///
    /// # Errors
    /// The device could not be read.
    pub fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let room = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(room)];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

/// What [`Device::identity`] would be, without opening anything; none if the path leads nowhere.
pub fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().as_ref().map(identity)
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        // No file system has this inode number, so a device never equals a file.
        (metadata.rdev(), u64::MAX)
    } else {
        (metadata.dev(), metadata.ino())
    }
}

fn is_block(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// What in the kernel uses this file: a loop device or swap, in words.
fn kernel_user(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        if backing.is_ok_and(|backing| Path::new(backing.trim_end_matches('\n')) == path) {
            return Some(format!("it backs /dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    let mut swaps = String::new();
    // /proc/swaps escapes blanks in paths as octal; such a swap file is missed here and nowhere else.
    File::open("/proc/swaps").and_then(|mut file| file.read_to_string(&mut swaps)).ok()?;
    let is_swap =
        swaps.lines().any(|line| line.split_whitespace().next().is_some_and(|p| Path::new(p) == path));
    is_swap.then(|| "the kernel swaps to it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_keeps_a_second_one_away_until_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        let first = Device::create_sparse(&path, 1 << 20).unwrap();
        assert_eq!((first.bytes(), first.sectors(), first.kind()), (1 << 20, 2048, DeviceKind::File));
        assert!(matches!(Device::claim(&path, Access::Write), Err(DeviceError::InUse(_))));
        assert!(matches!(Device::claim(&path, Access::Read), Err(DeviceError::InUse(_))));
        assert!(Device::open_to_read(&path).is_ok());
        drop(first);
        let readers =
            [Device::claim(&path, Access::Read).unwrap(), Device::claim(&path, Access::Read).unwrap()];
        assert!(matches!(Device::claim(&path, Access::Write), Err(DeviceError::InUse(_))));
        drop(readers);
        assert!(Device::claim(&path, Access::Write).is_ok());
    }

    #[test]
    fn what_cannot_be_a_member_is_refused_without_opening_it() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            Device::claim(directory.path(), Access::Write),
            Err(DeviceError::WrongType("a directory"))
        ));
        assert!(matches!(
            Device::claim(Path::new("/dev/null"), Access::Write),
            Err(DeviceError::WrongType(_))
        ));
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(Device::open_to_read(&fifo), Err(DeviceError::WrongType(_))));
        assert!(matches!(
            Device::claim(&directory.path().join("none"), Access::Write),
            Err(DeviceError::Open(_))
        ));
    }

    #[test]
    fn two_names_of_one_file_have_one_identity() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&a, [0; 512]).unwrap();
        std::os::unix::fs::symlink(&a, &b).unwrap();
        let identity = |path: &Path| Device::open_to_read(path).unwrap().identity();
        assert_eq!(identity(&a), identity(&b));
    }

    #[test]
    fn reads_end_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        std::fs::write(&path, [7; 700]).unwrap();
        let device = Device::open_to_read(&path).unwrap();
        assert_eq!(device.read_at(512, 4096).unwrap(), [7; 188]);
        assert!(device.read_at(4096, 4096).unwrap().is_empty());
    }
}
