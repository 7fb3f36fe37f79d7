//! TLS, beside the shard (docs/adr/0008-tls-beside-the-shard.md).
//!
//! ```text
//!   client ══TLS══ [ its socket | rustls | one end of a socketpair ]──plain──[ the other end: shard ]
//!                    a task on threads of its own, 64 KiB a direction          a connection as any other
//! ```
//!
//! `files` makes what rustls needs out of the files of `[tls]`, `verify` turns away clients whose
//! certificate has no name that is allowed, `proxy` moves the bytes. Here are the threads: encryption is
//! work, and neither operators nor other clients' handshakes wait for it.

mod files;
mod proxy;
#[cfg(test)]
pub(super) mod testing;
mod verify;

use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub(super) use self::files::{Certificates, load};
pub(super) use self::proxy::{pair, pump};

/// Threads that encrypt, at most: together they do more than one array reads or writes.
const THREADS_MAX: usize = 4;

/// The threads on which TLS is spoken. They are started when the first client wants TLS.
#[derive(Debug)]
pub(super) struct TlsThreads {
    runtime: Mutex<Option<Runtime>>,
    /// A receiver is with every task, so that it is known when the last one has done its duty.
    tasks: watch::Sender<()>,
}

/// Kept by a task while there is something that it still has to tell its client.
#[derive(Debug)]
pub(super) struct Duty(#[expect(dead_code, reason = "that it is there is what it says")] watch::Receiver<()>);

impl TlsThreads {
    /// No threads yet.
    pub(super) fn new() -> Self {
        TlsThreads { runtime: Mutex::new(None), tasks: watch::Sender::new(()) }
    }

    /// Runs a task there, which gets its duty.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: impl FnOnce(Duty) -> F,
    ) -> io::Result<()> {
        // It is a place for a value that is whole at all times.
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = match &mut *runtime {
            Some(runtime) => runtime,
            none => none.insert(start()?),
        };
        runtime.spawn(task(Duty(self.tasks.subscribe())));
        Ok(())
    }

    /// Waits until every client was told everything, or for so long. That they hang up is not waited for.
    pub(super) async fn finish(&self, within: Duration) {
        if tokio::time::timeout(within, self.tasks.closed()).await.is_err() {
            tracing::debug!("TLS clients did not take their last answers");
        }
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

fn start() -> io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    Builder::new_multi_thread().worker_threads(threads).thread_name("uraid tls").enable_all().build()
}

/// The TLS handshake of the server, with a client whose next byte is its first of TLS.
///
/// # Errors
/// The connection broke, or the two do not agree; the client was told why.
pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    certificates: &Certificates,
) -> io::Result<TlsStream<S>> {
    TlsAcceptor::from(certificates.server()).accept(stream).await
}

/// How a connection is secured and with whom, for the log: `TLSv1_3, client vm1.example.org`.
pub(super) fn describe<S>(stream: &TlsStream<S>) -> String {
    let (_, session) = stream.get_ref();
    let version = session.protocol_version().and_then(|version| version.as_str()).unwrap_or("TLS");
    let certificate = session.peer_certificates().and_then(<[_]>::first);
    match certificate.and_then(|certificate| verify::name(certificate)) {
        Some(name) => format!("{version}, client {name}"),
        None => version.to_owned(),
    }
}
