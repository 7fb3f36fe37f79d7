//! The conversation between the commands and a running daemon: one JSON object a line over a unix
//! socket, a request, then its reply.
//!
//! [`protocol`] has the words ([`engines`] those about who computes), [`client`] asks, [`server`] answers with whatever a
//! [`server::ControlHandler`] says, [`socket`] makes the socket (and serves for the export's too).

pub mod client;
pub mod engines;
pub mod latency;
pub mod protocol;
pub mod server;
pub mod socket;
