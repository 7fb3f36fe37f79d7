//! The server's half of the handshake. The transmission needs no machine of its own: a transport reads a
//! header, asks [`crate::validate`], and answers with the methods of [`crate::Session`].

mod handshake;
mod option;

pub use handshake::{Close, Fed, Outcome, ServerConfig, ServerHandshake, TlsPolicy};
