//! As much of HTTP/1.1 as Prometheus and curl need: `GET /metrics`, one request a connection. Everything
//! is bounded: connections at once, bytes of a request, and the time for all of it.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uraid_config::Address;

use crate::control::socket::{SocketFile, listen};
use crate::failure::Failure;

/// Connections at once; further ones wait.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of the longest request. Those of Prometheus have some 300.
const REQUEST_BYTES_MAX: usize = 8192;
/// The time for a request and its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pause when the system has no file descriptor left, for example.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Endpoint {
    listener: Listener,
    address: Address,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

impl Endpoint {
    /// Binds an address that only this machine can reach.
    ///
    /// # Errors
    /// Others can reach it, or it cannot be bound.
    pub fn bind(address: &Address) -> Result<Self, Failure> {
        let failed = |error: &dyn Display| Failure::operating(format!("cannot listen on {address}: {error}"));
        if !address.is_local() {
            return Err(Failure::Usage(format!(
                "{address} can be reached by other machines; metrics cannot"
            )));
        }
        match address {
            Address::Unix(path) => {
                let (listener, file) = listen(path).map_err(Failure::operating)?;
                Ok(Endpoint { listener: Listener::Unix(listener, file), address: address.clone() })
            }
            Address::Tcp(tcp) => {
                let listener = TcpListener::bind(tcp).map_err(|error| failed(&error))?;
                listener.set_nonblocking(true).map_err(|error| failed(&error))?;
                let address = Address::Tcp(listener.local_addr().map_err(|error| failed(&error))?);
                Ok(Endpoint { listener: Listener::Tcp(listener), address })
            }
        }
    }

    /// Where it is; port 0 became a number.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Answers until it is dropped. `page` makes the text anew for each request, or says why there is none.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve<F, P>(endpoint: Endpoint, page: F) -> io::Result<()>
where
    F: Fn() -> P + Clone + Send + 'static,
    P: Future<Output = Result<String, String>> + Send,
{
    let listener = match endpoint.listener {
        Listener::Unix(listener, file) => Door::Unix(tokio::net::UnixListener::from_std(listener)?, file),
        Listener::Tcp(listener) => Door::Tcp(tokio::net::TcpListener::from_std(listener)?),
    };
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        // It is never closed, so there is always a permit in the end.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return Ok(()) };
        match listener.next().await {
            Ok(stream) => {
                let page = page.clone();
                conversations.spawn(async move {
                    let _ = tokio::time::timeout(PATIENCE, converse(stream, page)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("metrics: cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A listener within the runtime.
enum Door {
    /// With its file, which goes away with it.
    Unix(tokio::net::UnixListener, #[expect(dead_code, reason = "kept for its drop")] SocketFile),
    Tcp(tokio::net::TcpListener),
}

/// A stream of either kind.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Door {
    async fn next(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Door::Unix(listener, _) => Box::new(listener.accept().await?.0),
            Door::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn converse<F, P>(mut stream: Box<dyn Stream>, page: F) -> io::Result<()>
where
    F: Fn() -> P,
    P: Future<Output = Result<String, String>>,
{
    let answer = match receive(&mut stream).await? {
        Some(Request::Page { with_body }) => match page().await {
            Ok(text) => Answer { with_body, ..Answer::new("200 OK", text) },
            Err(why) => Answer::new("503 Service Unavailable", why + "\n"),
        },
        Some(Request::Bad(answer)) => answer,
        None => return Ok(()),
    };
    stream.write_all(answer.bytes().as_bytes()).await?;
    stream.shutdown().await?;
    // Closing with unread bytes would be a reset, which could overtake the answer.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// What is asked.
enum Request {
    /// The metrics, or only what would be said of them.
    Page { with_body: bool },
    /// Something else.
    Bad(Answer),
}

/// Reads up to the end of a request's head; none if the client went away before.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(Some(understand(head.get(..end).unwrap_or_default())));
        }
        if head.len() >= REQUEST_BYTES_MAX {
            let text = format!("a request has at most {REQUEST_BYTES_MAX} bytes\n");
            return Ok(Some(Request::Bad(Answer::new("431 Request Header Fields Too Large", text))));
        }
        if (&mut *stream).take((REQUEST_BYTES_MAX - head.len()) as u64).read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
}

fn understand(head: &[u8]) -> Request {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let bad = |status, text: &str| Request::Bad(Answer::new(status, text.to_owned()));
    let (Some(method), Some(target), Some("HTTP/1.1" | "HTTP/1.0"), None) =
        (method, target, version, words.next())
    else {
        return bad("400 Bad Request", "this is HTTP/1.1\n");
    };
    if target.split('?').next() != Some("/metrics") {
        return bad("404 Not Found", "there is only /metrics\n");
    }
    match method {
        "GET" => Request::Page { with_body: true },
        "HEAD" => Request::Page { with_body: false },
        _ => {
            let answer = Answer::new("405 Method Not Allowed", "GET or HEAD\n".to_owned());
            Request::Bad(Answer { allow: true, ..answer })
        }
    }
}

/// What is answered.
struct Answer {
    status: &'static str,
    body: String,
    with_body: bool,
    allow: bool,
}

impl Answer {
    fn new(status: &'static str, body: String) -> Self {
        Answer { status, body, with_body: true, allow: false }
    }

    fn bytes(&self) -> String {
        format!(
            "HTTP/1.1 {}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: {}\r\n{}Connection: close\r\n\r\n{}",
            self.status,
            self.body.len(),
            if self.allow { "Allow: GET, HEAD\r\n" } else { "" },
            if self.with_body { self.body.as_str() } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks with these bytes, then closes its side.
    async fn ask(path: &std::path::Path, bytes: &[u8]) -> String {
        let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
        // The server may answer, and close, before it was told everything.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    fn with_server<T: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> T) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        let endpoint = Endpoint::bind(&Address::Unix(path.clone())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = tokio::spawn(serve(endpoint, || async { Ok("x 1\n".to_owned()) }));
            test(path.clone()).await;
            server.abort();
            let _ = server.await;
        });
        assert!(!path.exists(), "the socket's file is gone");
    }

    #[test]
    fn only_the_metrics_are_served() {
        with_server(|path| async move {
            let got = ask(&path, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\nx 1\n"), "{got}");
            assert!(got.contains("\r\nContent-Length: 4\r\n") && got.contains("version=0.0.4"), "{got}");
            let got = ask(&path, b"HEAD /metrics?a=b HTTP/1.0\r\n\r\n").await;
            assert!(got.contains("200 OK") && got.ends_with("\r\n\r\n"), "{got}");
            for (request, status) in [
                (&b"GET / HTTP/1.1\r\n\r\n"[..], "404 "),
                (b"POST /metrics HTTP/1.1\r\n\r\n", "405 "),
                (b"hello\r\n\r\n", "400 "),
                (b"GET /metrics HTTP/2.0\r\n\r\n", "400 "),
                (b"GET  /metrics HTTP/1.1\r\n\r\n", "400 "),
                (b"\xff\x00 \r\n\r\n", "400 "),
                (&[b'a'; 20_000], "431 "),
            ] {
                let got = ask(&path, request).await;
                assert!(got.starts_with(&format!("HTTP/1.1 {status}")), "{got}");
            }
            assert_eq!(ask(&path, b"GET /metrics HTTP/1.1\r\n").await, "", "half a request");
        });
    }

    #[test]
    fn those_who_are_silent_keep_nobody_out_for_long() {
        with_server(|path| async move {
            let mut idle = Vec::new();
            for _ in 0..2 * CONNECTIONS_MAX {
                idle.push(tokio::net::UnixStream::connect(&path).await.unwrap());
            }
            // Nothing else is to be done, so that this clock runs ahead to the next time-out.
            tokio::time::pause();
            assert!(ask(&path, b"GET /metrics HTTP/1.1\r\n\r\n").await.contains("200 OK"));
            tokio::time::resume();
            drop(idle);
        });
    }

    #[test]
    fn addresses_of_others_are_refused() {
        let error = Endpoint::bind(&"tcp:0.0.0.0:0".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("other machines"), "{error}");
        let endpoint = Endpoint::bind(&"tcp:127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(matches!(endpoint.address(), Address::Tcp(address) if address.port() != 0));
        assert!(Endpoint::bind(endpoint.address()).is_err(), "it is taken");
    }
}
