//! Where clients come in: accepts, leads each through the handshake within its time, and hands the socket
//! to the shard. Nothing here outlives the handshake of a client.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use nbd_rs::{ExportInfo, Session};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uraid_shard::{NewConnection, ShardHandle};

use super::handshake::negotiate;
use super::listen::Listener;

/// Clients in the handshake at once at one address; further ones wait. Each address has its own, so that
/// silent strangers on a network address keep nobody out of the unix socket.
const HANDSHAKES_MAX: usize = 32;
/// A pause when the system has no file descriptor left, for example.
const PAUSE: Duration = Duration::from_millis(100);

/// What every client gets.
#[derive(Clone)]
pub(super) struct Door {
    shard: ShardHandle,
    /// The one export.
    exports: Arc<[ExportInfo]>,
    deadline: Duration,
}

impl Door {
    /// A door to `shard`; a handshake may take as long as `deadline`.
    pub(super) fn new(shard: ShardHandle, export: ExportInfo, deadline: Duration) -> Self {
        Door { shard, exports: vec![export].into(), deadline }
    }

    /// Lets clients in until it is dropped; handshakes that are under way are broken off then, and the
    /// address is given up.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub(super) async fn keep(self, listener: Listener) -> io::Result<()> {
        match listener {
            Listener::Unix(listener, _file) => {
                self.accept(UnixListener::from_std(listener)?).await;
            }
            Listener::Tcp(listener) => {
                self.accept(TcpListener::from_std(listener)?).await;
            }
        }
        Ok(())
    }

    async fn accept<L: Accept>(&self, listener: L) {
        let mut handshakes = JoinSet::new();
        let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            while handshakes.try_join_next().is_some() {}
            match listener.next().await {
                Ok(stream) => {
                    // It is never closed, so there is always a permit in the end.
                    let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
                    let door = self.clone();
                    handshakes.spawn(async move {
                        door.lead_in(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a client: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn lead_in<S: Socket>(&self, mut stream: S) {
        let peer = stream.peer();
        let negotiated = negotiate(&mut stream, Arc::clone(&self.exports));
        let agreed = match tokio::time::timeout(self.deadline, negotiated).await {
            Ok(Ok(agreed)) => agreed,
            Ok(Err(error)) => {
                tracing::debug!(peer, "no client: {error}");
                return;
            }
            Err(_) => {
                tracing::info!(peer, "closed: the handshake took more than {:?}", self.deadline);
                return;
            }
        };
        let Some(export) = self.exports.get(agreed.negotiated.export) else { return };
        let session = Session::new(export, &agreed.negotiated);
        match stream.into_fd() {
            Ok(socket) => {
                let leftover = agreed.leftover;
                if self.shard.connect(NewConnection::client(socket, session, leftover, peer)).is_err() {
                    tracing::debug!("a client came when the volume had stopped");
                }
            }
            Err(error) => tracing::warn!(peer, "the connection cannot be handed over: {error}"),
        }
    }
}

/// A listener of either kind.
trait Accept {
    type Stream: Socket;
    /// The next client.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// A client's stream of either kind.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whom to name in the log.
    fn peer(&self) -> String;
    /// The bare socket, no longer watched by the runtime.
    fn into_fd(self) -> io::Result<OwnedFd>;
}

impl Socket for UnixStream {
    fn peer(&self) -> String {
        match self.peer_cred().ok().and_then(|credentials| credentials.pid()) {
            Some(pid) => format!("pid {pid}"),
            None => "unix socket".to_owned(),
        }
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}

impl Socket for TcpStream {
    fn peer(&self) -> String {
        self.peer_addr().map_or("tcp".to_owned(), |address| address.to_string())
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}
