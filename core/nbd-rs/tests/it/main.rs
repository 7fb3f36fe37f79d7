//! The crate from outside, in one binary: what goes in and out at the wire.

#[cfg(test)]
mod client;
#[cfg(test)]
mod common;
#[cfg(test)]
mod extended;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod loopback;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod transmission;
