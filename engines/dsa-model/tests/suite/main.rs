//! The model against its vectors, its plan, random input, and a client in another process.

#![expect(clippy::expect_used, reason = "a test says what went wrong by panicking")]

mod common;
mod faults;
mod oracle;
mod portal;
mod queue;
mod random;
mod server;
mod vectors;
