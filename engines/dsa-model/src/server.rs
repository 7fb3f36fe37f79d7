//! A queue behind a Unix socket of type SOCK_SEQPACKET, for clients in other processes.
//!
//! A packet is what a write(2) on the queue's node would carry: descriptors of 64 bytes, a shorter rest of
//! which is ignored, up to [`PACKET`] bytes, beyond which the packet is cut. To each, one packet of four
//! bytes answers, an i32, little-endian: what that write(2) would have returned, an errno being negative.
//! Data moves by process_vm_readv(2) and process_vm_writev(2) on the process that connected. When a client
//! shuts down its sending side, or dies, all it has outstanding is taken back, and its connection ends when
//! the device is known to touch its memory no more.
//!
//! A client that may not have the queue gets one packet with the errno, and the connection ends.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use engine_dsa::wire::{DESCRIPTOR_BYTES, Descriptor};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, connect, getsockopt,
    listen, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use thiserror::Error;

use crate::device::{CallError, ClientId};
use crate::memory::{Memory, Process};
use crate::model::Model;

/// Bytes of a packet that are looked at, at most.
pub const PACKET: usize = 1024 * DESCRIPTOR_BYTES;

/// How long a refused client may take to read why.
const LINGER_SECONDS: i64 = 2;
/// How often a closing client is looked after, and a system without descriptors tried again.
const LOOK: Duration = Duration::from_millis(1);

/// Why a queue is not served.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Something else is at the path.
    #[error("{0} exists and is no socket: remove it, or listen elsewhere")]
    Occupied(PathBuf),
    /// Another server listens there.
    #[error("another process listens at {0}: stop it, or listen elsewhere")]
    InUse(PathBuf),
    /// The system says no.
    #[error("cannot listen at {path}: {error}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// A socket that listens. Dropping it removes the path.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`. A socket that is there and answers nobody, left by a server that was killed, is
    /// replaced.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |errno: Errno| ServerError::Listen { path: path.into(), error: errno.into() };
        let address = UnixAddr::new(path).map_err(failed)?;
        let new = || socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None);
        if let Ok(metadata) = fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(ServerError::Occupied(path.into()));
            }
            match connect(new().map_err(failed)?.as_raw_fd(), &address) {
                Err(Errno::ECONNREFUSED) => {}
                _ => return Err(ServerError::InUse(path.into())),
            }
            fs::remove_file(path).map_err(|error| ServerError::Listen { path: path.into(), error })?;
        }
        let socket = new().map_err(failed)?;
        bind(socket.as_raw_fd(), &address).map_err(failed)?;
        let listener = Self { socket, path: path.into() };
        listen(&listener.socket, Backlog::new(64).map_err(failed)?).map_err(failed)?;
        Ok(listener)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves clients on `model`, each in a thread, from a thread of its own that ends with the process.
    pub fn serve(&self, model: &Model) -> Result<(), ServerError> {
        let socket = self.socket.try_clone().map_err(ServerError::Thread)?;
        let model = model.clone();
        std::thread::Builder::new()
            .name("dsa-accept".into())
            .spawn(move || accept_all(&socket, &model))
            .map(drop)
            .map_err(ServerError::Thread)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The socket may have been removed by somebody else; there is nothing more to do.
        let _ = fs::remove_file(&self.path);
    }
}

fn accept_all(socket: &OwnedFd, model: &Model) {
    loop {
        match accept4(socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => {
                // SAFETY: accept4 has just made this descriptor, and nothing else knows of it.
                let client = unsafe { OwnedFd::from_raw_fd(fd) };
                let model = model.clone();
                // Without a thread the client finds its connection closed.
                let _ = std::thread::Builder::new()
                    .name("dsa-client".into())
                    .spawn(move || client_thread(&client, &model));
            }
            Err(Errno::EBADF | Errno::EINVAL | Errno::ENOTSOCK) => return,
            // Most of these pass: a client that is gone already, no descriptors left.
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

fn client_thread(socket: &OwnedFd, model: &Model) {
    let (client, memory) = match admit(socket, model) {
        Ok(admitted) => admitted,
        Err(errno) => return refuse(socket, errno),
    };
    converse(socket, model, client, &memory);
    model.with(|device| device.begin_close(client));
    while !model.with(|device| device.is_closed(client)) {
        std::thread::sleep(LOOK);
    }
    model.with(|device| device.close(client));
}

/// Binds the client with the memory of its process.
fn admit(socket: &OwnedFd, model: &Model) -> Result<(ClientId, Arc<Process>), Errno> {
    let pid = getsockopt(socket, sockopt::PeerCredentials)?.pid();
    if pid <= 0 {
        // A process that this one's namespace does not show.
        return Err(Errno::EPERM);
    }
    let memory = Arc::new(Process::of(pid).map_err(|_| Errno::EPERM)?);
    let shared: Arc<dyn Memory> = Arc::<Process>::clone(&memory);
    let client = model.with(|device| device.open_with(shared)).map_err(|_| Errno::EBUSY)?;
    Ok((client, memory))
}

/// Tells why, and waits until the client has had time to see it: it may only look after it has sent.
fn refuse(socket: &OwnedFd, errno: Errno) {
    if answer(socket, -(errno as i32)) {
        let _ = setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::seconds(LINGER_SECONDS));
        let _ = recv(socket.as_raw_fd(), &mut [0; DESCRIPTOR_BYTES], MsgFlags::empty());
    }
}

/// Answers packets until the client is done. An empty packet counts as that: the socket cannot tell them
/// apart, and no write(2) of nothing needs an answer. Once the system has refused access to the client's
/// memory, there is nothing but EPERM.
fn converse(socket: &OwnedFd, model: &Model, client: ClientId, memory: &Process) {
    let mut packet = vec![0; PACKET];
    loop {
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(0) => return,
            Ok(n) => {
                let result = match memory.is_refused() {
                    true => -libc::EPERM,
                    false => write(model, client, packet.get(..n).unwrap_or_default()),
                };
                if !answer(socket, result) {
                    return;
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// What write(2) with these bytes returns.
fn write(model: &Model, client: ClientId, bytes: &[u8]) -> i32 {
    let (chunks, _) = bytes.as_chunks::<DESCRIPTOR_BYTES>();
    let descriptors: Vec<Descriptor> = chunks.iter().copied().map(Descriptor).collect();
    match model.with(|device| device.call(client, &descriptors, true)) {
        Ok(accepted) => i32::try_from(accepted * DESCRIPTOR_BYTES).unwrap_or(i32::MAX),
        Err(CallError::Retry) => -libc::EAGAIN,
        Err(CallError::Refused(errno)) => errno.checked_neg().unwrap_or(-libc::EIO),
        Err(CallError::Gone) => -libc::ENODEV,
    }
}

fn answer(socket: &OwnedFd, result: i32) -> bool {
    loop {
        match send(socket.as_raw_fd(), &result.to_le_bytes(), MsgFlags::MSG_NOSIGNAL) {
            Ok(_) => return true,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}
