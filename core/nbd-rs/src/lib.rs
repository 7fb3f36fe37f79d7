//! The NBD protocol, server and client side, as state machines over byte slices.
//!
//! For: whoever moves the bytes. This crate reads no socket, starts no thread and knows no clock; it takes
//! bytes that arrived, in any pieces, and gives bytes to send. The numbers of the protocol are in [`wire`],
//! what an export is in [`ExportInfo`].
//!
//! A server runs [`ServerHandshake`] until its [`Outcome`]. In transmission it reads a header
//! ([`Headers::request_len`] bytes), takes it apart with [`RequestHeader::parse`], asks [`validate`], and
//! answers with the encoders of [`Session`]. A client runs [`ClientHandshake`] and then [`ClientSession`],
//! which holds every reply against the request that it answers.
//!
//! Promises: no input makes this crate panic, allocate what was only announced, or lose its place in the
//! stream while it says that the session goes on; text that reaches the peer is sanitised. Left to the
//! transport: deadlines, the number of connections and of requests in flight, the memory for payloads (at
//! most [`wire::limit::PAYLOAD`] a request), and TLS itself: `STARTTLS` is [`Outcome::StartTls`].
//!
//! Spoken on both sides: fixed newstyle with every option of the protocol, structured replies, extended
//! (64-bit) headers, any metadata contexts, `RESIZE` as far as its draft goes. Not spoken: oldstyle, and the
//! withdrawn `PEEK_EXPORT`.
//!
//! ```
//! use nbd_rs::{BlockSizes, ExportInfo, Features, Outcome, ServerConfig, ServerHandshake};
//! # use nbd_rs::wire::{OPTION_MAGIC, opt};
//! # let mut from_client = 3u32.to_be_bytes().to_vec();
//! # from_client.extend(OPTION_MAGIC.to_be_bytes());
//! # from_client.extend(opt::EXPORT_NAME.to_be_bytes());
//! # from_client.extend(0u32.to_be_bytes());
//! let volume = ExportInfo::new("volume", 1 << 30, BlockSizes::default(), Features::default())?;
//! let mut handshake = ServerHandshake::new(vec![volume].into(), ServerConfig::default());
//! let mut sent = Vec::new(); // stands for the socket
//! let negotiated = loop {
//!     sent.extend_from_slice(handshake.output());
//!     handshake.output_sent(handshake.output().len());
//!     let fed = handshake.feed(&from_client); // read more when this is empty
//!     from_client.drain(..fed.consumed);
//!     match fed.outcome {
//!         None => {}
//!         Some(Outcome::Transmission(negotiated)) => break negotiated,
//!         Some(Outcome::StartTls) => unreachable!("the policy offers no TLS"),
//!         Some(Outcome::Close(why)) => panic!("closed: {why:?}"),
//!     }
//! };
//! sent.extend_from_slice(handshake.output()); // the last answer, and then the transmission
//! assert_eq!(negotiated.export, 0);
//! # Ok::<(), nbd_rs::ApiMisuse>(())
//! ```
#![forbid(unsafe_code)]

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod client;
mod codec;
mod error;
mod export;
pub mod reply;
mod request;
mod server;
mod session;
mod text;
pub mod wire;

pub use client::{
    ClientFed, ClientHandshake, ClientOutcome, ClientSession, Event, Goal, HandshakeError, Listed, Remote,
    RemoteContext, SessionFed, WantTls, Wanted,
};
pub use codec::Frame;
pub use error::{ApiMisuse, ClientMisbehaved, Errno, ServerMisbehaved};
pub use export::{BlockSizes, ExportInfo, Features};
pub use reply::Extent;
pub use request::{Answer, Command, Request, RequestHeader, StatusFilter, Verdict, validate};
pub use server::{Close, Fed, Outcome, ServerConfig, ServerHandshake, TlsPolicy};
pub use session::{Context, Contexts, Headers, Negotiated, Session};
pub use text::sanitise;
