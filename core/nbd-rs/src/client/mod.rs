//! The client's half of the handshake. In transmission a client sends [`crate::Request::header`]s and takes
//! replies apart with [`crate::reply::decode`].

mod handshake;

pub use handshake::{ClientFed, ClientHandshake, HandshakeError, Remote, Wanted};
