//! Answers on the control socket. What the answers are is the business of a [`ControlHandler`]; here are
//! the limits: length of a line, number of connections, time to wait for one.
//!
//! Who may connect is decided by the mode of the socket (owner and group); whoever may, may do all.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::protocol::{Answer, ControlError, ErrorCode, Reply, Request};

/// Requests are short; longer lines are a mistake or worse.
const REQUEST_BYTES_MAX: u64 = 64 << 10;
/// Connections at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// How long a connection may be silent before a request, or not take its reply. Clients ask as soon as they are connected; short,
/// because idle ones keep an operator waiting when there are [`CONNECTIONS_MAX`] of them.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How long requests may take to be finished at the end.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Whoever knows the array.
pub trait ControlHandler: Send + Sync + 'static {
    /// Does what is asked. Several requests may be asked at once; each is finished even if its client
    /// went away.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Answer, ControlError>> + Send;
}

/// Serves connections until `stop` resolves, then lets the requests that are being handled finish (so
/// that `stop` itself is answered) for a minute at most.
///
/// Must be called within a tokio runtime, of whichever kind. Errors of one connection end that one.
///
/// # Errors
/// The listener cannot be used.
pub async fn serve<H: ControlHandler>(
    listener: std::os::unix::net::UnixListener,
    handler: Arc<H>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    let (closing, closed) = tokio::sync::watch::channel(false);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, handler.clone(), closed.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: go on when others have closed theirs.
                    tracing::warn!("control socket: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    closing.send_replace(true);
    let finish = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(SILENCE_MAX, finish).await;
    Ok(())
}

async fn converse<H: ControlHandler>(
    stream: UnixStream,
    handler: Arc<H>,
    mut closed: tokio::sync::watch::Receiver<bool>,
) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let line = tokio::select! {
            line = tokio::time::timeout(IDLE_MAX, read_line(&mut reader)) => line,
            _ = closed.wait_for(|closed| *closed) => return,
        };
        let Ok(Ok(Some(line))) = line else { return };
        let (reply, fatal) = match line {
            Line::TooLong => {
                let text = format!("a request has at most {REQUEST_BYTES_MAX} bytes");
                (Err(ControlError::new(ErrorCode::BadRequest, text)), true)
            }
            Line::Whole(line) => (answer(&line, &handler).await, false),
        };
        let Ok(mut reply) = serde_json::to_vec(&Reply::from(reply)) else { return };
        reply.push(b'\n');
        let sent = tokio::time::timeout(IDLE_MAX, writer.write_all(&reply)).await;
        if fatal || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

async fn answer<H: ControlHandler>(line: &[u8], handler: &Arc<H>) -> Result<Answer, ControlError> {
    let request = Request::from_line(line)?;
    handler.handle(request).await
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
}

/// The next line, or none at the end. A last line without its end counts as cut off.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Line>> {
    let mut line = Vec::new();
    reader.take(REQUEST_BYTES_MAX).read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        Some(b'\n') => Some(Line::Whole(line)),
        Some(_) if line.len() as u64 == REQUEST_BYTES_MAX => Some(Line::TooLong),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::client::{Client, ClientError};
    use super::super::socket::listen;
    use super::*;
    use std::path::PathBuf;
    use tokio::sync::Notify;

    /// Says what it was asked; `stop` resolves the server's stop before it answers, as the daemon does;
    /// a member "/hang" is not answered before that.
    struct Echo {
        stop: Arc<Notify>,
        stopped: Notify,
    }

    impl ControlHandler for Echo {
        async fn handle(&self, request: Request) -> Result<Answer, ControlError> {
            match &request {
                Request::Fail { member } if member.ends_with("hang") => {
                    self.stopped.notified().await;
                }
                Request::Fail { .. } => return Err(ControlError::new(ErrorCode::NotFound, "no such member")),
                Request::Stop { .. } => {
                    self.stop.notify_one();
                    self.stopped.notify_waiters();
                    tokio::task::yield_now().await;
                }
                _ => {}
            }
            Ok(Answer::Message(format!("{request:?}")))
        }
    }

    /// Runs `test` beside a server on a current-thread runtime, as the daemon does, and stops it.
    fn with_server<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let (listener, _file) = listen(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let stop = Arc::new(Notify::new());
            let handler = Arc::new(Echo { stop: stop.clone(), stopped: Notify::new() });
            let server = tokio::spawn(async move { serve(listener, handler, stop.notified()).await });
            test(path.clone()).await;
            let client = Client::new(path);
            assert_eq!(
                client.ask(&Request::Stop { force: false }).await.unwrap(),
                Answer::Message("Stop { force: false }".into())
            );
            server.await.unwrap().unwrap();
        });
    }

    async fn raw(path: &std::path::Path, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        // The server may close before it read all of an overlong line.
        let _ = stream.write_all(bytes).await;
        let mut reply = Vec::new();
        let mut reader = BufReader::new(stream);
        let _ = reader.read_until(b'\n', &mut reply).await;
        String::from_utf8(reply).unwrap()
    }

    #[test]
    fn questions_get_their_answers_and_stop_is_answered_too() {
        with_server(|path| async move {
            let client = Client::new(path.clone());
            assert_eq!(client.ask(&Request::Status).await.unwrap(), Answer::Message("Status".into()));
            let error = client.ask(&Request::Fail { member: "/m".into() }).await.unwrap_err();
            assert!(matches!(error, ClientError::Refused(error) if error.code == ErrorCode::NotFound));
        });
    }

    #[test]
    fn one_connection_may_ask_several_times() {
        with_server(|path| async move {
            let stream = UnixStream::connect(&path).await.unwrap();
            let mut stream = BufReader::new(stream);
            for _ in 0..3 {
                stream.write_all(Request::Status.to_line().unwrap().as_bytes()).await.unwrap();
                let mut reply = String::new();
                stream.read_line(&mut reply).await.unwrap();
                assert_eq!(reply, "{\"version\":1,\"ok\":{\"message\":\"Status\"}}\n");
            }
        });
    }

    #[test]
    fn garbage_gets_an_error_and_harms_no_one() {
        with_server(|path| async move {
            assert!(raw(&path, b"\xff\x00garbage\n").await.contains("bad_request"));
            assert!(
                raw(&path, b"{\"version\":9,\"command\":\"status\"}\n").await.contains("unsupported_version")
            );
            assert!(raw(&path, &vec![b'['; 1 << 17]).await.contains("bad_request"));
            let deep = [vec![b'['; 50_000], vec![b'\n']].concat();
            assert!(raw(&path, &deep).await.contains("bad_request"));
            // Cut off in the middle.
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"version\":1").await.unwrap();
            drop(stream);
        });
    }

    #[test]
    fn a_hanging_request_does_not_hold_up_others_or_its_client() {
        with_server(|path| async move {
            let client = Client::new(path.clone()).with_patience(Duration::from_millis(20));
            let error = client.ask(&Request::Fail { member: "/hang".into() }).await.unwrap_err();
            assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
            assert!(client.with_patience(Duration::from_secs(10)).ask(&Request::Status).await.is_ok());
        });
    }

    #[test]
    fn idle_connections_keep_nobody_out() {
        with_server(|path| async move {
            let mut idle = Vec::new();
            for _ in 0..2 * CONNECTIONS_MAX {
                idle.push(UnixStream::connect(&path).await.unwrap());
            }
            // Half a request is silence too.
            idle[0].write_all(b"{").await.unwrap();
            // Nothing else is to be done, so that this clock runs ahead to the next time-out.
            tokio::time::pause();
            assert!(Client::new(path).with_patience(10 * IDLE_MAX).ask(&Request::Status).await.is_ok());
            tokio::time::resume();
            for mut stream in idle {
                let mut rest = Vec::new();
                // Unread bytes make the end a reset.
                let _ = stream.read_to_end(&mut rest).await;
                assert!(rest.is_empty());
            }
        });
    }

    #[test]
    fn no_daemon_is_said_as_such() {
        let client = Client::new("/nonexistent/x.control".into());
        let text = client.status().unwrap_err().to_string();
        assert!(text.starts_with("no daemon answers at /nonexistent/x.control"), "{text}");
    }
}
