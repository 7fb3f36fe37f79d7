//! The chain engine's backend over Intel DSA work queues.
//!
//! DSA copies, fills, compares and sums CRC-32C; it has **no opcode for XOR or P+Q** (versions 1.0 and
//! 2.0), so parity stays on the CPU and a chain crosses from one to the other.

pub mod backend;
pub mod caps;
pub mod descriptor;
pub mod dif;
pub mod discover;
pub mod open;
pub mod portal;
pub mod queue;
pub mod record;
pub mod records;
pub mod wait;
pub mod wire;
