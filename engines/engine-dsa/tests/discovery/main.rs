//! Discovery in fake trees, as the driver would show them: two devices, a disabled one, an analytics device,
//! and garbage.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod changes;
mod devices;
mod garbage;
mod tree;
mod verdicts;
