//! The client's half: [`ClientHandshake`] leads to the transmission, [`ClientSession`] carries it.

mod handshake;
mod session;

pub use handshake::{
    ClientFed, ClientHandshake, ClientOutcome, Goal, HandshakeError, Listed, Remote, RemoteContext, WantTls,
    Wanted,
};
pub use session::{ClientSession, Event, SessionFed};
