//! Moves bytes between a client's TLS stream and the shard, in both directions, in one task.
//!
//! Memory is bounded by one buffer a direction, rustls's own of one record, and the sockets': a side that
//! does not take its bytes stops the other one, as TCP would. The ends pass through: a client's
//! `close_notify` ends what the shard reads, and when the shard closes, the client gets all answers and a
//! `close_notify`. A client that vanishes without one takes its connection with it; what it asked for
//! completely is carried out, as ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::Duty;

/// Bytes in flight in one direction: a few TLS records, so that a system call moves several.
const BUFFER: usize = 64 << 10;
/// Room on the way to the shard, as for clients on unix sockets: the longest request that is usual fits.
const PAIR_BUFFER: usize = 4 << 20;
/// How long a client may take the last answers, and hang up, when the shard has closed.
const LINGER: Duration = Duration::from_secs(10);

/// Two ends of a connection within this process: the proxy's and the shard's. Both do not block.
///
/// # Errors
/// No file descriptor is left.
pub(in crate::serve) fn pair() -> io::Result<(std::os::unix::net::UnixStream, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, shards) = socketpair(AddressFamily::Unix, SockType::Stream, None, flags)?;
    // It works with less room, too.
    if setsockopt(&ours, sockopt::SndBufForce, &PAIR_BUFFER).is_err() {
        let _ = setsockopt(&ours, sockopt::SndBuf, &PAIR_BUFFER);
    }
    Ok((ours.into(), shards))
}

/// Pumps until both directions have ended, one broke, or the shard has closed and the client does not
/// hang up. The duty is done when the client has all answers and the shard's end, as far as its socket
/// takes them.
pub(in crate::serve) async fn pump<S: AsyncRead + AsyncWrite + Unpin>(
    client: S,
    ours: std::os::unix::net::UnixStream,
    duty: Duty,
) -> io::Result<()> {
    let mut client = Client { stream: client, duty: Some(duty) };
    let closed = Arc::new(Notify::new());
    let ear = ours.try_clone()?;
    let mut shard = Shard { stream: UnixStream::from_std(ours)?, closed: Arc::clone(&closed) };
    let pumping = copy_bidirectional_with_sizes(&mut client, &mut shard, BUFFER, BUFFER);
    let lingering = async {
        // A client that takes nothing keeps the pump from reading, and so from seeing the shard's end.
        while tokio::time::timeout(LINGER, closed.notified()).await.is_err() && !is_hung_up(ear.as_fd()) {}
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        pumped = pumping => pumped.map(|_| ()),
        () = lingering => Err(io::Error::new(io::ErrorKind::TimedOut, "the client did not hang up")),
    }
}

/// Whether the other end is closed, whatever there is still to be read.
fn is_hung_up(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// The stream to the client, which knows when everything was said.
struct Client<S> {
    stream: S,
    duty: Option<Duty>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        self.duty = None;
        Poll::Ready(Ok(()))
    }
}

/// The stream to the shard, which tells when the shard has closed it. The shard never closes one
/// direction only.
struct Shard {
    stream: UnixStream,
    closed: Arc<Notify>,
}

impl AsyncRead for Shard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.closed.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Shard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::testing::Files;
    use super::super::{accept, load};
    use super::*;

    type Remote = tokio_rustls::client::TlsStream<tokio::io::DuplexStream>;

    /// Runs `client` against `shard`, which has a thread of its own and sees plain bytes; says how the pump
    /// ended.
    fn through_the_pump<C: Future<Output = ()>>(
        client: impl FnOnce(Remote) -> C,
        shard: impl FnOnce(std::os::unix::net::UnixStream) + Send + 'static,
    ) -> io::Result<()> {
        let files = Files::new();
        let certificates = load(&files.tls(false), false).unwrap().unwrap();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true).build().unwrap();
        let (ours, shards) = pair().unwrap();
        let shards = std::os::unix::net::UnixStream::from(shards);
        shards.set_nonblocking(false).unwrap();
        let shard = std::thread::spawn(move || shard(shards));
        let pumped = runtime.block_on(async {
            let (near, far) = tokio::io::duplex(1 << 14);
            let (secured, stream) = tokio::join!(accept(near, &certificates), files.connect(far, None));
            let (duty, told) = duty();
            let pumping = async {
                let pumped = pump(secured.unwrap(), ours, duty).await;
                assert!(told.is_closed(), "the duty of a task that has ended");
                pumped
            };
            let (pumped, ()) = tokio::join!(pumping, client(stream.unwrap()));
            pumped
        });
        shard.join().unwrap();
        pumped
    }

    /// A duty, and what says whether it was done.
    fn duty() -> (Duty, tokio::sync::watch::Sender<()>) {
        let told = tokio::sync::watch::Sender::new(());
        (Duty(told.subscribe()), told)
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn bytes_and_ends_pass_through_in_both_directions() {
        const LEN: usize = 3_000_000;
        let client = |mut stream: Remote| async move {
            stream.write_all(&pattern(LEN)).await.unwrap();
            // close_notify: there will be no more requests; the answers are still wanted.
            stream.shutdown().await.unwrap();
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).await.unwrap();
            assert!(answers == pattern(LEN), "and a close_notify, without which this had failed");
        };
        let shard = |mut stream: std::os::unix::net::UnixStream| {
            let mut requests = Vec::new();
            stream.read_to_end(&mut requests).unwrap();
            assert!(requests == pattern(LEN));
            stream.write_all(&requests).unwrap();
        };
        through_the_pump(client, shard).unwrap();
    }

    #[test]
    fn a_client_that_vanishes_ends_what_the_shard_reads() {
        let client = |mut stream: Remote| async move {
            stream.write_all(b"all of it").await.unwrap();
            stream.flush().await.unwrap();
        };
        let shard = |mut stream: std::os::unix::net::UnixStream| {
            let mut requests = Vec::new();
            stream.read_to_end(&mut requests).unwrap();
            assert_eq!(requests, b"all of it", "nothing that came is lost");
        };
        let ended = through_the_pump(client, shard).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_client_that_does_not_hang_up_is_left_after_a_while() {
        let client = |mut stream: Remote| async move {
            let mut answers = Vec::new();
            stream.read_to_end(&mut answers).await.unwrap();
            assert_eq!(answers, b"bye");
            // Longer than anybody waits: the clock is the test's and jumps.
            tokio::time::sleep(2 * LINGER).await;
        };
        let shard = |mut stream: std::os::unix::net::UnixStream| stream.write_all(b"bye").unwrap();
        let ended = through_the_pump(client, shard).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    /// It keeps the pump from reading, and so from seeing that the shard has closed.
    #[test]
    fn a_client_that_takes_nothing_is_left_when_the_shard_has_closed() {
        let (say, said) = std::sync::mpsc::channel();
        let client = |stream: Remote| async move {
            // In real time, for the shard's thread does not know the test's clock.
            tokio::task::spawn_blocking(move || said.recv().unwrap()).await.unwrap();
            tokio::time::sleep(5 * LINGER).await;
            drop(stream);
        };
        let shard = move |stream: std::os::unix::net::UnixStream| {
            stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            while (&stream).write(&[0; 1 << 16]).is_ok() {}
            drop(stream);
            say.send(()).unwrap();
        };
        let ended = through_the_pump(client, shard).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_duty_is_done_when_the_client_was_told_everything() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(async {
            let (ours, shards) = pair().unwrap();
            let shards = std::os::unix::net::UnixStream::from(shards);
            // One byte at a time fits.
            let (near, mut far) = tokio::io::duplex(1);
            let (duty, told) = duty();
            let pumping = tokio::spawn(pump(near, ours, duty));
            (&shards).write_all(b"answer").unwrap();
            drop(shards);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert!(!told.is_closed(), "the client has not taken the answer");
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");
            told.closed().await;
            assert!(!pumping.is_finished(), "the client has not hung up");
            drop(far);
            pumping.await.unwrap().unwrap();
        });
    }

    /// What a client does not take stays with the shard, but for a bounded part.
    #[test]
    fn a_client_that_does_not_read_stops_the_shard() {
        let (say, said) = std::sync::mpsc::channel();
        let client = |mut stream: Remote| async move {
            // In real time, for the shard's thread does not know the test's clock.
            let stopped = tokio::task::spawn_blocking(move || said.recv().unwrap()).await.unwrap();
            assert!(stopped < 64 << 20, "{stopped} bytes were taken from the shard");
            let mut answers = vec![0; stopped];
            stream.read_exact(&mut answers).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "and the shard's end");
        };
        let shard = move |stream: std::os::unix::net::UnixStream| {
            stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut sent = 0;
            while let Ok(n) = (&stream).write(&[0; 1 << 16]) {
                sent += n;
                assert!(sent < 128 << 20);
            }
            say.send(sent).unwrap();
            let mut rest = Vec::new();
            let _ = (&stream).read_to_end(&mut rest);
        };
        through_the_pump(client, shard).unwrap();
    }
}
