//! Where clients come in: accepts, leads each through the handshake within its time, and hands the socket
//! to the shard. A client that wants TLS goes on with its handshake on the threads of [`super::tls`], and
//! stays there; of any other nothing is left here after the handshake.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use nbd_rs::{ExportInfo, ServerHandshake, Session};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uraid_config::Address;
use uraid_shard::{ConnectionKind, NewConnection, ShardHandle, Terms, peer_groups};

use super::handshake::{Agreed, NoAgreement, Talk, negotiate};
use super::listen::Listener;
use super::live::{Live, Settings};
use super::lobby::{Lobby, Place};
use super::peers::{Credentials, Peer, Peers};
use super::tls::{self, Certificates, Duty, TlsThreads};

/// A pause when the system has no file descriptor left, for example.
const PAUSE: Duration = Duration::from_millis(100);

/// What every client gets.
#[derive(Clone)]
pub(super) struct Door {
    shard: ShardHandle,
    /// The one export.
    exports: Arc<[ExportInfo]>,
    live: Live,
    peers: Peers,
    tls: Arc<TlsThreads>,
    /// True when no further client is let in.
    closing: watch::Receiver<bool>,
}

impl Door {
    /// A door to `shard` that lets in by the settings of the moment. `peers` knows who is in already.
    pub(super) fn new(
        shard: ShardHandle,
        export: ExportInfo,
        live: Live,
        peers: Peers,
        tls: Arc<TlsThreads>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Door { shard, exports: vec![export].into(), live, peers, tls, closing }
    }

    /// Lets clients in at an address until `closing` says true, and leads those that came to the end of their
    /// handshake. If it is dropped, handshakes that are under way are broken off. Then the address is given up.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub(super) async fn keep(self, address: Address, listener: Listener) -> io::Result<()> {
        let address = Arc::new(address);
        match listener {
            Listener::Unix(listener, _file) => {
                self.accept::<UnixStream>(address, Listen::from_std(listener)?).await;
            }
            Listener::Tcp(listener) => {
                self.accept::<TcpStream>(address, Listen::from_std(listener)?).await;
            }
        }
        Ok(())
    }

    async fn accept<S: Socket>(&self, address: Arc<Address>, listener: S::Listener) {
        let mut handshakes = JoinSet::new();
        let lobby = Lobby::new(address.to_string());
        let mut closing = self.closing.clone();
        loop {
            while handshakes.try_join_next().is_some() {}
            let next = tokio::select! {
                next = listener.next() => next,
                // An error means that nobody can say so any more.
                _ = closing.wait_for(|closing| *closing) => break,
            };
            match next {
                Ok(stream) => {
                    let settings = self.live.now();
                    let stream: S = stream;
                    let Some((peer, name)) = stream.let_in(&settings) else { continue };
                    let place = lobby.enter(peer, settings.handshakes);
                    let deadline = Instant::now() + settings.handshake;
                    let guest = Guest {
                        door: self.clone(),
                        address: Arc::clone(&address),
                        settings,
                        peer,
                        name,
                        place,
                        deadline,
                    };
                    handshakes.spawn(guest.lead_in(stream));
                }
                Err(error) => {
                    tracing::warn!("cannot accept a client: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
            // A crowd at the door is not to keep those within from being answered.
            tokio::task::yield_now().await;
        }
        drop(listener);
        while handshakes.join_next().await.is_some() {}
    }
}

/// A client in its handshake.
struct Guest {
    door: Door,
    address: Arc<Address>,
    settings: Arc<Settings>,
    peer: Peer,
    /// Whom to name in the log.
    name: String,
    place: Place,
    deadline: Instant,
}

/// Why a handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Dismissed {
    #[error("the handshake took too long")]
    Late,
    #[error("others came, and it had to make room")]
    Crowded,
    #[error("{0}")]
    NoAgreement(#[from] NoAgreement),
    #[error("no TLS: {0}")]
    NoTls(io::Error),
}

impl Guest {
    async fn lead_in<S: Socket>(self, mut stream: S) {
        let offer = self.settings.offer(&self.address);
        let mut handshake = ServerHandshake::new(Arc::clone(&self.door.exports), offer);
        match self.talk(&mut stream, &mut handshake).await {
            Ok(Talk::Agreed(agreed)) => match stream.into_fd() {
                Ok(socket) => self.hand_over(socket, agreed, ConnectionKind::Client),
                Err(error) => {
                    tracing::warn!(peer = self.name, "the connection cannot be handed over: {error}")
                }
            },
            Ok(Talk::StartTls) => self.secure(stream, handshake),
            Err(why) => self.dismiss(&why),
        }
    }

    /// The talk, as far as time and others allow.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        handshake: &mut ServerHandshake,
    ) -> Result<Talk, Dismissed> {
        let talk = negotiate(stream, handshake, || self.place.spoke());
        Ok(self.in_time(talk).await??)
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Dismissed> {
        tokio::select! {
            done = work => Ok(done),
            () = tokio::time::sleep_until(self.deadline) => Err(Dismissed::Late),
            () = self.place.lost() => Err(Dismissed::Crowded),
        }
    }

    fn dismiss(&self, why: &Dismissed) {
        let peer = &self.name;
        match why {
            Dismissed::Late => {
                tracing::info!(peer, "closed: the handshake took more than {:?}", self.settings.handshake);
            }
            Dismissed::NoTls(_) => tracing::info!(peer, "closed: {why}"),
            _ => tracing::debug!(peer, "no client: {why}"),
        }
    }

    /// Goes on with the handshake on the threads for TLS.
    fn secure<S: Socket>(self, stream: S, mut handshake: ServerHandshake) {
        // It is offered only with certificates.
        let Some(certificates) = self.settings.certificates.clone() else { return };
        let threads = Arc::clone(&self.door.tls);
        let name = self.name.clone();
        let task = move |socket: OwnedFd, duty: Duty| async move {
            match S::from_fd(socket) {
                Ok(stream) => self.go_on_secured(stream, &certificates, &mut handshake, duty).await,
                Err(error) => tracing::warn!(peer = self.name, "no TLS: {error}"),
            }
        };
        let spawned = stream.into_fd().and_then(|socket| threads.spawn(|duty| task(socket, duty)));
        if let Err(error) = spawned {
            tracing::warn!(peer = name, "no TLS: {error}");
        }
    }

    async fn go_on_secured<S: Socket>(
        mut self,
        stream: S,
        certificates: &Certificates,
        handshake: &mut ServerHandshake,
        duty: Duty,
    ) {
        let secured = self.in_time(tls::accept(stream, certificates)).await;
        let mut stream = match secured.and_then(|accepted| accepted.map_err(Dismissed::NoTls)) {
            Ok(stream) => stream,
            Err(why) => return self.dismiss(&why),
        };
        self.name = format!("{}, {}", self.name, tls::describe(&stream));
        handshake.tls_started();
        let agreed = match self.talk(&mut stream, handshake).await {
            Ok(Talk::Agreed(agreed)) => agreed,
            // Within TLS it is not offered.
            Ok(Talk::StartTls) => return,
            Err(why) => return self.dismiss(&why),
        };
        let peer = self.name.clone();
        match tls::pair() {
            Ok((ours, shards)) => {
                self.hand_over(shards, agreed, ConnectionKind::Proxied);
                if let Err(error) = tls::pump(stream, ours, duty).await {
                    tracing::debug!(peer, "the TLS connection broke: {error}");
                }
            }
            Err(error) => tracing::warn!(peer, "the connection cannot be handed over: {error}"),
        }
    }

    fn hand_over(self, socket: OwnedFd, agreed: Agreed, kind: ConnectionKind) {
        let Guest { door, settings, peer, name, .. } = self;
        let Some(export) = door.exports.get(agreed.negotiated.export) else { return };
        let Some(admission) = door.peers.admit(peer, settings.per_peer) else {
            let most = settings.per_peer;
            tracing::warn!(peer = name, "refused: it has {most} connections (`connections_per_peer`)");
            return;
        };
        let session = Session::new(export, &agreed.negotiated);
        let mut connection = NewConnection::client(socket, session, agreed.leftover, name);
        connection.kind = kind;
        connection.terms = Terms {
            limits: Some(settings.connection),
            idle: settings.idle,
            lease: Some(Box::new(admission)),
        };
        if door.shard.connect(connection).is_err() {
            tracing::debug!("a client came when the volume had stopped");
        }
    }
}

/// A listener of either kind.
trait Listen: Sized {
    type Std;
    type Stream;
    fn from_std(listener: Self::Std) -> io::Result<Self>;
    /// The next client.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for UnixListener {
    type Std = StdUnixListener;
    type Stream = UnixStream;

    fn from_std(listener: StdUnixListener) -> io::Result<Self> {
        UnixListener::from_std(listener)
    }

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listen for TcpListener {
    type Std = StdTcpListener;
    type Stream = TcpStream;

    fn from_std(listener: StdTcpListener) -> io::Result<Self> {
        TcpListener::from_std(listener)
    }

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// A client's stream of either kind.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    type Listener: Listen<Stream = Self> + Send + Sync;
    /// Who it is, and whom to name in the log; nothing if it may not come in, which was logged.
    fn let_in(&self, settings: &Settings) -> Option<(Peer, String)>;
    /// The bare socket, no longer watched by the runtime.
    fn into_fd(self) -> io::Result<OwnedFd>;
    /// A socket, watched by the runtime of this thread from now on.
    fn from_fd(socket: OwnedFd) -> io::Result<Self>;
}

impl Socket for UnixStream {
    type Listener = UnixListener;

    fn let_in(&self, settings: &Settings) -> Option<(Peer, String)> {
        let (peer, credentials, name) = match self.peer_cred() {
            Ok(found) => {
                let groups = peer_groups(self.as_fd()).unwrap_or_default();
                let (uid, gid) = (found.uid(), found.gid());
                let name = match found.pid() {
                    Some(pid) => format!("pid {pid}, uid {uid}"),
                    None => format!("uid {uid}"),
                };
                (Peer::User(uid), Some(Credentials { uid, gid, groups }), name)
            }
            Err(_) => (Peer::Unknown, None, "unix socket".to_owned()),
        };
        if settings.allowed.lets_in(credentials.as_ref()) {
            return Some((peer, name));
        }
        tracing::warn!(peer = name, "refused: it is not among `allow_users` and `allow_groups`");
        None
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }

    fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        UnixStream::from_std(socket.into())
    }
}

impl Socket for TcpStream {
    type Listener = TcpListener;

    fn let_in(&self, _: &Settings) -> Option<(Peer, String)> {
        // A handshake is many small messages, and a client that is gone without a word is to be noticed. The
        // shard does the same for sockets that it is given.
        let _ = self.set_nodelay(true);
        let _ = setsockopt(self, sockopt::KeepAlive, &true);
        let address = self.peer_addr().ok();
        let peer = address.map_or(Peer::Unknown, |address: SocketAddr| Peer::of_ip(address.ip()));
        Some((peer, address.map_or("tcp".to_owned(), |address| address.to_string())))
    }

    fn into_fd(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }

    fn from_fd(socket: OwnedFd) -> io::Result<Self> {
        TcpStream::from_std(socket.into())
    }
}
