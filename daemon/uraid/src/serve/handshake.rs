//! The part of a client's connection that is talk: from the greeting to an agreement, over any stream.
//! What is said is `nbd-rs`'s business; here are the bytes' comings and goings.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use nbd_rs::{Close, Negotiated, Outcome, ServerHandshake};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Bytes read at once. What is beyond the handshake is handed on, so this is all that has to be copied.
const READ_BYTES: usize = 4096;
/// Bytes in the clear that a client may have sent behind `STARTTLS` and that are thrown away.
const CLEAR_MAX: usize = 64 << 10;

/// A handshake that led to transmission.
#[derive(Debug)]
pub(super) struct Agreed {
    /// What was agreed.
    pub(super) negotiated: Negotiated,
    /// What the client sent beyond it already.
    pub(super) leftover: Vec<u8>,
}

/// What came of a talk.
#[derive(Debug)]
pub(super) enum Talk {
    /// Transmission begins.
    Agreed(Agreed),
    /// The client's next byte is the first one of its TLS handshake. Nothing of what it said before counts
    /// any more.
    StartTls,
}

/// Why there is no transmission.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAgreement {
    /// The client hung up, or the connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The client went away after looking around.
    #[error("it left")]
    Left,
    /// The client asked for an export that there is not, in the one way that has no answer.
    #[error("it asked for an export that does not exist")]
    UnknownExport,
    /// The client wants no TLS where it is required, in the one way that has no answer.
    #[error("it did not start TLS, which is required")]
    NoTls,
    /// The client does not speak the protocol.
    #[error("it broke the protocol: {0}")]
    Misbehaved(nbd_rs::ClientMisbehaved),
}

/// Talks until there is an agreement or none, or until TLS is to be started; `heard` is called when the
/// client has said something. All that the server has to say was written when this returns. Deadlines are
/// the caller's.
///
/// # Errors
/// See [`NoAgreement`]; the connection is to be closed.
pub(super) async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    handshake: &mut ServerHandshake,
    heard: impl Fn(),
) -> Result<Talk, NoAgreement> {
    let mut input = Vec::with_capacity(READ_BYTES);
    loop {
        send(stream, handshake).await?;
        let fed = handshake.feed(&input);
        input.drain(..fed.consumed);
        if let Some(outcome) = fed.outcome {
            if outcome == Outcome::StartTls {
                // No client begins before it has the answer, so what is there now is not TLS: somebody else
                // may have put it there for us to take as said under TLS.
                discard(stream).await?;
            }
            send(stream, handshake).await?;
            return match outcome {
                Outcome::Transmission(negotiated) => Ok(Talk::Agreed(Agreed { negotiated, leftover: input })),
                Outcome::StartTls => Ok(Talk::StartTls),
                Outcome::Close(Close::Aborted) => Err(NoAgreement::Left),
                Outcome::Close(Close::TlsRequired) => Err(NoAgreement::NoTls),
                Outcome::Close(Close::UnknownExport) => Err(NoAgreement::UnknownExport),
                Outcome::Close(Close::Misbehaved(what)) => Err(NoAgreement::Misbehaved(what)),
            };
        }
        if fed.consumed == 0 && handshake.output().is_empty() {
            // All there was is taken: input is only left over while there is something to send.
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            heard();
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, handshake: &mut ServerHandshake) -> io::Result<()> {
    while !handshake.output().is_empty() {
        let sent = stream.write(handshake.output()).await?;
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        handshake.output_sent(sent);
    }
    // A stream of TLS keeps what its socket does not take.
    stream.flush().await
}

/// Throws away what has arrived and was not read.
async fn discard<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut scrap = [0; READ_BYTES];
    let mut bytes = 0;
    while bytes < CLEAR_MAX {
        let mut buf = ReadBuf::new(&mut scrap);
        // The turn after one that found nothing would wait, and that is not what this is for.
        let read = poll_fn(|cx| match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
            Poll::Ready(read) => Poll::Ready(read.map(|()| true)),
            Poll::Pending => Poll::Ready(Ok(false)),
        });
        let found = read.await?;
        match buf.filled().len() {
            _ if !found => return Ok(()),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes += n,
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the client goes on in the clear after STARTTLS"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_rs::{
        BlockSizes, ClientHandshake, ClientOutcome, Context, ExportInfo, Features, Headers, Remote,
        ServerConfig, TlsPolicy, Wanted,
    };

    fn server(tls: TlsPolicy) -> ServerHandshake {
        let info = ExportInfo::new("v", 1 << 20, BlockSizes::default(), Features::default()).unwrap();
        ServerHandshake::new(vec![info].into(), ServerConfig { list: true, tls })
    }

    async fn talk(stream: &mut tokio::io::DuplexStream) -> Result<Agreed, NoAgreement> {
        match negotiate(stream, &mut server(TlsPolicy::Refused), || ()).await? {
            Talk::Agreed(agreed) => Ok(agreed),
            Talk::StartTls => panic!("TLS was not offered"),
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// A client over a pipe of `capacity` bytes that sends `extra` right behind its last option.
    async fn client(mut stream: tokio::io::DuplexStream, export: &str, extra: &[u8]) -> Option<Remote> {
        let wanted = Wanted {
            export: export.to_owned(),
            headers: Headers::Extended,
            contexts: vec![Context::BASE_ALLOCATION_NAME.to_owned()],
            ..Wanted::default()
        };
        let mut handshake = ClientHandshake::new(wanted).unwrap();
        let mut input = [0; 64];
        loop {
            let n = stream.read(&mut input).await.unwrap();
            if n == 0 {
                return None;
            }
            let Ok(fed) = handshake.feed(&input[..n]) else { return None };
            let output = handshake.output().to_vec();
            handshake.output_sent(output.len());
            stream.write_all(&output).await.unwrap();
            if let Some(ClientOutcome::Transmission(remote)) = fed.outcome {
                stream.write_all(extra).await.unwrap();
                return Some(remote);
            }
        }
    }

    #[test]
    fn an_agreement_comes_through_pipes_of_any_width() {
        for capacity in [1, 7, 4096] {
            block_on(async {
                let (ours, theirs) = tokio::io::duplex(capacity);
                let mut ours = ours;
                let (agreed, remote) = tokio::join!(talk(&mut ours), client(theirs, "v", b""));
                let remote = remote.unwrap();
                assert_eq!((remote.size, remote.headers), (1 << 20, Headers::Extended));
                let agreed = agreed.unwrap();
                assert_eq!(agreed.negotiated.headers, Headers::Extended);
                assert!(!agreed.negotiated.contexts.is_empty());
            });
        }
    }

    #[test]
    fn what_comes_behind_the_handshake_is_handed_on() {
        block_on(async {
            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            // Flags, EXPORT_NAME of the default export, and the start of a request, in one piece.
            let mut bytes = 3_u32.to_be_bytes().to_vec();
            bytes.extend(nbd_rs::wire::OPTION_MAGIC.to_be_bytes());
            bytes.extend(nbd_rs::wire::opt::EXPORT_NAME.to_be_bytes());
            bytes.extend(0_u32.to_be_bytes());
            bytes.extend(b"request");
            theirs.write_all(&bytes).await.unwrap();
            let agreed = talk(&mut ours).await.unwrap();
            assert_eq!(agreed.leftover, b"request");
        });
    }

    #[test]
    fn no_agreement_says_why() {
        block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(4096);
            let (refused, remote) = tokio::join!(talk(&mut ours), client(theirs, "w", b""));
            assert!(remote.is_none());
            assert!(matches!(refused, Err(NoAgreement::Left | NoAgreement::Io(_))), "{refused:?}");

            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let refused = talk(&mut ours).await;
            assert!(matches!(refused, Err(NoAgreement::Misbehaved(_))), "{refused:?}");

            let (mut ours, theirs) = tokio::io::duplex(4096);
            drop(theirs);
            assert!(matches!(talk(&mut ours).await, Err(NoAgreement::Io(_))));
        });
    }

    /// What is in the clear behind STARTTLS, be it read already or not, is not taken for TLS.
    #[test]
    fn what_is_behind_starttls_in_the_clear_is_thrown_away() {
        for injected in [0, 10, 4000, 20_000] {
            block_on(async {
                let (mut ours, mut theirs) = tokio::io::duplex(1 << 16);
                let mut bytes = 3_u32.to_be_bytes().to_vec();
                bytes.extend(nbd_rs::wire::OPTION_MAGIC.to_be_bytes());
                bytes.extend(nbd_rs::wire::opt::STARTTLS.to_be_bytes());
                bytes.extend(0_u32.to_be_bytes());
                bytes.extend(vec![0x55; injected]);
                theirs.write_all(&bytes).await.unwrap();
                let heard = std::cell::Cell::new(0);
                let mut handshake = server(TlsPolicy::Required);
                let talk = negotiate(&mut ours, &mut handshake, || heard.set(heard.get() + 1)).await;
                assert!(matches!(talk, Ok(Talk::StartTls)), "{talk:?}");
                assert!(heard.get() >= 1);
                // The greeting, and an acknowledgement without data.
                let mut said = vec![0; 18 + 20];
                theirs.read_exact(&mut said).await.unwrap();
                assert_eq!(said[18 + 12..], [0, 0, 0, 1, 0, 0, 0, 0]);
                theirs.write_all(b"TLS").await.unwrap();
                let mut next = [0; 3];
                ours.read_exact(&mut next).await.unwrap();
                assert_eq!(&next, b"TLS");
            });
        }
    }

    #[test]
    fn a_flood_in_the_clear_is_an_end() {
        block_on(async {
            let (mut ours, mut theirs) = tokio::io::duplex(1 << 20);
            let mut bytes = 3_u32.to_be_bytes().to_vec();
            bytes.extend(nbd_rs::wire::OPTION_MAGIC.to_be_bytes());
            bytes.extend(nbd_rs::wire::opt::STARTTLS.to_be_bytes());
            bytes.extend(vec![0; 4 + 100_000]);
            theirs.write_all(&bytes).await.unwrap();
            let talk = negotiate(&mut ours, &mut server(TlsPolicy::Offered), || ()).await;
            assert!(matches!(talk, Err(NoAgreement::Io(_))), "{talk:?}");
        });
    }
}
