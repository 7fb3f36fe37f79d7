//! The part of a client's connection that is talk: from the greeting to an agreement, over any stream.
//! What is said is `nbd-rs`'s business; here are the bytes' comings and goings.

use std::io;
use std::sync::Arc;

use nbd_rs::{Close, ExportInfo, Negotiated, Outcome, ServerConfig, ServerHandshake};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at once. What is beyond the handshake is handed on, so this is all that has to be copied.
const READ_BYTES: usize = 4096;

/// A handshake that led to transmission.
#[derive(Debug)]
pub(super) struct Agreed {
    /// What was agreed.
    pub(super) negotiated: Negotiated,
    /// What the client sent beyond it already.
    pub(super) leftover: Vec<u8>,
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
    /// The client and the server do not agree about TLS.
    #[error("it did not start TLS, or started it where there is none")]
    NoTls,
    /// The client does not speak the protocol.
    #[error("it broke the protocol: {0}")]
    Misbehaved(nbd_rs::ClientMisbehaved),
}

/// Talks until there is an agreement or none. All that the server has to say was written when this
/// returns. Deadlines are the caller's.
///
/// # Errors
/// See [`NoAgreement`]; the connection is to be closed.
pub(super) async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exports: Arc<[ExportInfo]>,
) -> Result<Agreed, NoAgreement> {
    let mut handshake = ServerHandshake::new(exports, ServerConfig::default());
    let mut input = Vec::with_capacity(READ_BYTES);
    loop {
        send(stream, &mut handshake).await?;
        let fed = handshake.feed(&input);
        input.drain(..fed.consumed);
        if let Some(outcome) = fed.outcome {
            send(stream, &mut handshake).await?;
            return match outcome {
                Outcome::Transmission(negotiated) => Ok(Agreed { negotiated, leftover: input }),
                // Nobody can start what the default policy does not offer.
                Outcome::StartTls => Err(NoAgreement::NoTls),
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nbd_rs::{BlockSizes, ClientHandshake, ClientOutcome, Context, Features, Headers, Remote, Wanted};

    fn exports() -> Arc<[ExportInfo]> {
        let info = ExportInfo::new("v", 1 << 20, BlockSizes::default(), Features::default()).unwrap();
        vec![info].into()
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
                let (agreed, remote) =
                    tokio::join!(negotiate(&mut ours, exports()), client(theirs, "v", b""));
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
            let agreed = negotiate(&mut ours, exports()).await.unwrap();
            assert_eq!(agreed.leftover, b"request");
        });
    }

    #[test]
    fn no_agreement_says_why() {
        block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(4096);
            let (refused, remote) = tokio::join!(negotiate(&mut ours, exports()), client(theirs, "w", b""));
            assert!(remote.is_none());
            assert!(matches!(refused, Err(NoAgreement::Left | NoAgreement::Io(_))), "{refused:?}");

            let (mut ours, mut theirs) = tokio::io::duplex(4096);
            theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let refused = negotiate(&mut ours, exports()).await;
            assert!(matches!(refused, Err(NoAgreement::Misbehaved(_))), "{refused:?}");

            let (mut ours, theirs) = tokio::io::duplex(4096);
            drop(theirs);
            assert!(matches!(negotiate(&mut ours, exports()).await, Err(NoAgreement::Io(_))));
        });
    }
}
