//! `[limits]`: what clients may use up.

use std::time::Duration;

use crate::reader::{Reader, Section};
use crate::schema::MEMORY_MAX;
use crate::size::Size;

/// `[limits]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Client connections at once.
    pub connections: u32,
    /// Client connections of one peer at once; 0 for no limit of its own.
    pub connections_per_peer: u32,
    /// Requests in flight on one connection.
    pub requests_per_connection: u32,
    /// Payload bytes in memory for one connection; one request is always let in.
    pub bytes_per_connection: Size,
    /// Clients in the handshake at once, at each address.
    pub handshakes: u32,
    /// How long a client may take to finish the handshake, that of TLS included.
    pub handshake: Duration,
    /// How long a client may be silent after the handshake; zero for ever.
    pub idle: Duration,
    /// How long a client may sit on memory that others wait for.
    pub stall: Duration,
}

const BYTES_PER_CONNECTION_DEFAULT: Size = Size::from_mib(128);
const BYTES_PER_CONNECTION_MIN: Size = Size::from_mib(1);
const CONNECTIONS_DEFAULT: u32 = 128;
const REQUESTS_PER_CONNECTION_DEFAULT: u32 = 256;
const HANDSHAKES_DEFAULT: u32 = 128;
const HANDSHAKE_S_DEFAULT: u32 = 10;
const STALL_S_DEFAULT: u32 = 30;
/// A week.
const IDLE_S_MAX: u32 = 604_800;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: CONNECTIONS_DEFAULT,
            connections_per_peer: 0,
            requests_per_connection: REQUESTS_PER_CONNECTION_DEFAULT,
            bytes_per_connection: BYTES_PER_CONNECTION_DEFAULT,
            handshakes: HANDSHAKES_DEFAULT,
            handshake: Duration::from_secs(HANDSHAKE_S_DEFAULT.into()),
            idle: Duration::ZERO,
            stall: Duration::from_secs(STALL_S_DEFAULT.into()),
        }
    }
}

pub(crate) fn read(reader: &mut Reader<'_>, limits: Section<'_>) -> Limits {
    let bytes = reader.size(limits, "bytes_per_connection", BYTES_PER_CONNECTION_MIN..=MEMORY_MAX, 1);
    let mut number = |key, default, range, unit: &str| reader.number(limits, key, default, range, unit);
    let many = 65_536;
    Limits {
        connections: number("connections", CONNECTIONS_DEFAULT, 1..=many, "connections"),
        connections_per_peer: number("connections_per_peer", 0, 0..=many, "connections"),
        requests_per_connection: number(
            "requests_per_connection",
            REQUESTS_PER_CONNECTION_DEFAULT,
            1..=many,
            "requests",
        ),
        bytes_per_connection: bytes.unwrap_or(BYTES_PER_CONNECTION_DEFAULT),
        handshakes: number("handshakes", HANDSHAKES_DEFAULT, 1..=many, "clients"),
        handshake: seconds(number("handshake_s", HANDSHAKE_S_DEFAULT, 1..=3600, "seconds")),
        idle: seconds(number("idle_s", 0, 0..=IDLE_S_MAX, "seconds")),
        stall: seconds(number("stall_s", STALL_S_DEFAULT, 1..=3600, "seconds")),
    }
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}
