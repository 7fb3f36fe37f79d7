//! Opening a queue in the best way that there is.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Portal, SocketPortal, WritePortal};
use crate::discover::{Mode, Queue};

/// Why a queue cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such node.
    #[error("{0} does not exist: the queue was disabled, or its device removed")]
    Missing(PathBuf),
    /// It belongs to somebody else.
    #[error("{0} may not be opened: give uraid's user read and write access to it (see docs/dsa.md)")]
    Permission(PathBuf),
    /// A dedicated queue has one user at a time.
    #[error("{0} is in use by another process, and dedicated to it")]
    Busy(PathBuf),
    /// Neither a character device nor a socket.
    #[error("{0} is neither a device nor a socket")]
    NotADevice(PathBuf),
    /// The system says no in another way.
    #[error("{path} cannot be opened: {}", std::io::Error::from_raw_os_error(*.errno))]
    System {
        /// The node.
        path: PathBuf,
        /// The error number.
        errno: i32,
    },
}

impl OpenError {
    /// By error number.
    pub(super) fn new(node: &Path, errno: i32) -> OpenError {
        let path = node.to_path_buf();
        match errno {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => OpenError::Missing(path),
            libc::EACCES | libc::EPERM => OpenError::Permission(path),
            libc::EBUSY => OpenError::Busy(path),
            errno => OpenError::System { path, errno },
        }
    }

    fn from_io(node: &Path, error: &std::io::Error) -> OpenError {
        OpenError::new(node, error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// Opens a queue: its portal is mapped if processor and system allow it, else its node written to; and a
/// socket in its node's place is connected to. Whether the queue works, only a NOOP tells.
pub fn open(queue: &Queue) -> Result<Box<dyn Portal>, OpenError> {
    // The instruction must be that of the mode, so without a mode there is none.
    open_node(&queue.node, queue.mode.unwrap_or(Mode::Shared), queue.mode.is_some())
}

/// Opens the queue behind a node. Without `mapped`, its portal is not mapped even if it could be.
pub fn open_node(node: &Path, mode: Mode, mapped: bool) -> Result<Box<dyn Portal>, OpenError> {
    let kind = fs::metadata(node).map_err(|error| OpenError::from_io(node, &error))?.file_type();
    if kind.is_socket() {
        return Ok(Box::new(SocketPortal::connect(node)?));
    }
    let file = device(node)?;
    if mapped { map(file, mode) } else { Ok(Box::new(WritePortal::new(file))) }
}

/// Opens a character device for reading and writing.
pub(super) fn device(node: &Path) -> Result<File, OpenError> {
    let failed = |error: std::io::Error| OpenError::from_io(node, &error);
    // Not blocking: should the node be something else, such as a pipe without a reader, it is refused
    // below rather than waited for.
    let options = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(node);
    let file = options.map_err(failed)?;
    if !file.metadata().map_err(failed)?.file_type().is_char_device() {
        return Err(OpenError::NotADevice(node.to_path_buf()));
    }
    Ok(file)
}

#[cfg(target_arch = "x86_64")]
fn map(file: File, mode: Mode) -> Result<Box<dyn Portal>, OpenError> {
    use super::cpu::Cpu;
    use super::mapped::{Enqcmd, MappedPortal, Movdir64b};

    let cpu = Cpu::detect();
    let refused = match mode {
        // SAFETY: the processor was asked, and the node is that of a queue of this mode.
        Mode::Shared if cpu.enqcmd => match unsafe { MappedPortal::map(file, Enqcmd) } {
            Ok(portal) => return Ok(Box::new(portal)),
            Err(refused) => refused,
        },
        // SAFETY: as above.
        Mode::Dedicated if cpu.movdir64b => match unsafe { MappedPortal::map(file, Movdir64b) } {
            Ok(portal) => return Ok(Box::new(portal)),
            Err(refused) => refused,
        },
        _ => return Ok(Box::new(WritePortal::new(file))),
    };
    let (file, errno) = refused;
    tracing::debug!(%errno, "the portal cannot be mapped; descriptors are written to the node");
    Ok(Box::new(WritePortal::new(file)))
}

#[cfg(not(target_arch = "x86_64"))]
fn map(file: File, _mode: Mode) -> Result<Box<dyn Portal>, OpenError> {
    Ok(Box::new(WritePortal::new(file)))
}
