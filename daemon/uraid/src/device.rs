//! Files and block devices as candidates for membership: opening, size, identity, and the claim that
//! keeps others away while something is decided about them.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::backing::{self, Backing};
use crate::holders;

/// How many loop devices may lie over one another before it is taken for a circle.
const LOOPS_DEEP_MAX: usize = 8;

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
    node: (u64, u64),
    identity: (u64, u64),
    /// What lies behind it, if it is a loop device; open for the locks on it.
    behind: Vec<File>,
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
    /// for writing it must not be a swap file or back a loop device. What lies behind a loop device is
    /// claimed with it, as far as it is the same bytes. The claim is not shared within the
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
        let mut device = Self::open(path, &options)?;
        match device.kind {
            DeviceKind::File => device.lock_file(access)?,
            DeviceKind::Block => {
                if access == Access::Write && is_set_read_only(device.node.0) {
                    let why = "it is set read-only; `blockdev --setrw` may change that";
                    return Err(DeviceError::Open(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, why)));
                }
                device.behind = claim_behind(device.node, access)?;
                // A loop device does not claim the device that backs it.
                let over = if access == Access::Write { loops_of(device.node) } else { Vec::new() };
                if let Some(name) = over.first() {
                    return Err(DeviceError::InUse(holders::of_loop(name)));
                }
            }
        }
        Ok(device)
    }

    /// Waits until everything that an earlier process wrote to it as a member has ended: one that was killed
    /// leaves operations behind that the kernel still carries out. To be called with the claim, and before
    /// anything that was written is believed.
    ///
    /// # Errors
    /// It did not come in time.
    pub fn wait_for_writers(&self, within: Duration) -> Result<(), DeviceError> {
        let path = self.path.display();
        let waiting = || tracing::info!("{path}: waiting for the last writes of an earlier process to end");
        match uraid_blockio::wait_for_writers(&self.file, within, waiting).map_err(DeviceError::Open)? {
            true => Ok(()),
            false => Err(DeviceError::InUse(format!(
                "writes of a process that had it before have not ended after {} seconds, or another program \
                 holds a lock on it (flock)",
                within.as_secs()
            ))),
        }
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
        let node = node_of(&metadata);
        let kind = DeviceKind::File;
        let device =
            Device { path: path.into(), file, kind, bytes, node, identity: node, behind: Vec::new() };
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
            Some(libc::EBUSY) => DeviceError::InUse(holders::of_device(metadata.rdev())),
            _ => DeviceError::Open(error),
        })?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(DeviceError::Open)?;
        let node = node_of(&metadata);
        Ok(Device { path: path.into(), file, kind, bytes, node, identity: resolve(node), behind: Vec::new() })
    }

    fn lock_file(&self, access: Access) -> Result<(), DeviceError> {
        if !lock(&self.file, &(0..0), access).map_err(DeviceError::Open)? {
            return Err(DeviceError::InUse(holders::of_lock(self.node)));
        }
        let user = if access == Access::Write { kernel_user(self.node) } else { None };
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

    /// The file or device by itself: a loop device is another one than the file behind it.
    pub fn node(&self) -> (u64, u64) {
        self.node
    }

    /// Equal for two paths that lead to the same bytes: a loop device that begins where its file does is
    /// the same as the file.
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

/// What [`Device::identity`] would be; none if the path leads nowhere.
pub fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| resolve(node_of(&metadata)))
}

/// What [`Device::node`] would be.
pub(crate) fn node_of(metadata: &Metadata) -> (u64, u64) {
    if metadata.file_type().is_block_device() {
        // No file system has this inode number, so a device never equals a file.
        (metadata.rdev(), u64::MAX)
    } else {
        (metadata.dev(), metadata.ino())
    }
}

/// Block devices by their number, as long as something lies behind them.
fn behind(node: (u64, u64)) -> impl Iterator<Item = Backing> {
    let of = |node: (u64, u64)| if node.1 == u64::MAX { backing::of(node.0) } else { None };
    std::iter::successors(of(node), move |found| of(found.node)).take(LOOPS_DEEP_MAX)
}

fn resolve(node: (u64, u64)) -> (u64, u64) {
    behind(node).take_while(|found| found.range.start == 0).last().map_or(node, |found| found.node)
}

/// Claims what lies behind a loop device. A path that leads elsewhere by now, or nowhere, is passed over:
/// then nobody else comes by that path either.
fn claim_behind(node: (u64, u64), access: Access) -> Result<Vec<File>, DeviceError> {
    let mut held = Vec::new();
    for found in behind(node) {
        let shown = found.path.display();
        if access == Access::Write {
            let loops = backing::loops_over(found.node, &found.range);
            if let Some(other) = loops.iter().find(|name| **name != found.name) {
                return Err(DeviceError::InUse(format!(
                    "{shown}, which lies behind it, is {}",
                    holders::of_loop(other)
                )));
            }
        }
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        let is_block = found.node.1 == u64::MAX;
        if is_block && found.range.start == 0 {
            options.custom_flags(libc::O_EXCL);
        }
        let file = match options.open(&found.path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let by = holders::of_device(found.node.0);
                return Err(DeviceError::InUse(format!("{shown}, which lies behind it, is in use: {by}")));
            }
            Err(error) => {
                tracing::warn!("{shown} lies behind /dev/{} and cannot be claimed: {error}", found.name);
                continue;
            }
        };
        if node_of(&file.metadata().map_err(DeviceError::Open)?) != found.node {
            continue;
        }
        if !is_block && !lock(&file, &found.range, access).map_err(DeviceError::Open)? {
            let by = holders::of_lock(found.node);
            return Err(DeviceError::InUse(format!("{shown}, which lies behind it, is in use: {by}")));
        }
        held.push(file);
    }
    Ok(held)
}

/// Locks a range of a file, an empty one meaning all of it. False if somebody else has locked it.
fn lock(file: &File, range: &Range<u64>, access: Access) -> io::Result<bool> {
    let lock_type = match access {
        Access::Read => libc::F_RDLCK,
        Access::Write => libc::F_WRLCK,
    };
    let offset = |bytes: u64| libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let lock = libc::flock {
        l_type: lock_type as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset(range.start)?,
        l_len: offset(range.end.saturating_sub(range.start))?,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock)) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_block(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

/// Whether the kernel refuses writes to the block device of this number, which it does not say when the
/// device is opened for writing.
fn is_set_read_only(device: u64) -> bool {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let told = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/ro"));
    told.is_ok_and(|told| told.trim() == "1")
}

/// What in the kernel uses this file: a loop device or swap, in words.
pub(crate) fn kernel_user(node: (u64, u64)) -> Option<String> {
    if let Some(name) = loops_of(node).first() {
        return Some(holders::of_loop(name));
    }
    // /proc/swaps escapes blanks in paths as octal; such a swap file is missed here and nowhere else.
    let swaps = std::fs::read_to_string("/proc/swaps").ok()?;
    let paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let mut paths = paths.filter(|path| std::fs::metadata(path).is_ok_and(|swap| node_of(&swap) == node));
    paths.next().map(holders::swap_sentence)
}

/// The loop devices that all or a part of this file or device backs.
fn loops_of(node: (u64, u64)) -> Vec<String> {
    backing::loops_over(node, &(0..u64::MAX))
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
