//! Descriptors and completion records: against the vectors, against what a device may write, and resumed.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod common;
mod dif;
mod records;
mod refusals;
mod resume;
mod vectors;
