//! Makes listening unix sockets: only those whom their permissions name may connect, what a dead daemon left
//! is replaced, what a live one listens on is not touched.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{O_NOFOLLOW, O_PATH};

/// Who may connect to a control socket: owner and group.
const MODE: u32 = 0o660;

/// A listening unix socket whose file goes away with it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    stays: Stays,
    /// Open as a mere path, so that the file system cannot give the inode number to a successor.
    inode: File,
}

/// A hand on a [`SocketFile`] that somebody else has.
#[derive(Clone, Debug, Default)]
pub struct Stays(Arc<AtomicBool>);

impl Stays {
    /// Leaves the file where it is when the [`SocketFile`] is dropped: another process listens on its socket.
    pub fn stay(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon listens there.
    #[error("{}: a daemon is already listening there; stop it first, or use another path", .0.display())]
    Live(PathBuf),
    /// Something else has this name.
    #[error("{}: it exists and is not a socket; use another path", .0.display())]
    NotASocket(PathBuf),
    /// The socket could not be made.
    #[error("{}: cannot make the socket: {source}", path.display())]
    Io {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// Listens at `path`, non-blocking, mode 0660. Directories are not made. The returned [`SocketFile`]
/// removes the file when dropped and is to be kept as long as the listener.
///
/// # Errors
/// See [`BindError`].
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    listen_as(path, MODE, None)
}

/// The same with these permission bits, for this group.
///
/// # Errors
/// See [`BindError`].
pub fn listen_as(
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(UnixListener, SocketFile), BindError> {
    let io = |source| BindError::Io { path: path.into(), source };
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(io)?;
    let file = SocketFile::of(path).map_err(io)?;
    // Whoever connects between bind and chmod passed the umask, which lets in no one new unless it is 0.
    if group.is_some() {
        lchown(path, None, group).map_err(io)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    Ok((listener, file))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { path: path.into(), source };
    let metadata = match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.into()));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io(error)),
        Ok(_) => Err(BindError::Live(path.into())),
    }
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let inode = OpenOptions::new().read(true).custom_flags(O_PATH | O_NOFOLLOW).open(path)?;
        Ok(SocketFile { path: path.into(), inode, stays: Stays::default() })
    }

    /// The file of a socket that another process made and left. None if there is no socket there any more.
    pub fn adopt(path: &Path) -> Option<Self> {
        let file = Self::of(path).ok()?;
        file.inode.metadata().is_ok_and(|metadata| metadata.file_type().is_socket()).then_some(file)
    }

    /// To decide later that the file stays.
    pub fn stays(&self) -> Stays {
        self.stays.clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    /// Removes the file unless another one has taken its name.
    fn drop(&mut self) {
        if self.stays.0.load(Ordering::Relaxed) {
            return;
        }
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.inode.metadata().map(identity).ok();
        if ours.is_some() && self.path.symlink_metadata().map(identity).ok() == ours {
            // A file that stays behind is replaced by the next daemon.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_socket_is_refused_and_a_dead_one_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, file) = listen(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o660);
        assert!(matches!(listen(&path), Err(BindError::Live(_))));
        drop(listener);
        // The file of a daemon that was killed stays behind.
        std::mem::forget(file);
        assert!(path.exists());
        let (listener, file) = listen(&path).unwrap();
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notes");
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(listen(&path), Err(BindError::NotASocket(_))));
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert!(matches!(listen(&directory.path().join("no/s")), Err(BindError::Io { .. })));
    }

    #[test]
    fn a_file_that_is_left_can_be_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (listener, file) = listen(&path).unwrap();
        file.stays().stay();
        drop(file);
        let adopted = SocketFile::adopt(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop((adopted, listener));
        assert!(!path.exists());
        assert!(SocketFile::adopt(&path).is_none());
        std::fs::write(&path, "").unwrap();
        assert!(SocketFile::adopt(&path).is_none());
    }

    #[test]
    fn a_successor_keeps_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (first, first_file) = listen(&path).unwrap();
        drop(first);
        let second = listen(&path).unwrap();
        drop(first_file);
        assert!(UnixStream::connect(&path).is_ok());
        drop(second);
    }
}
