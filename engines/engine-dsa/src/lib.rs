//! The chain engine's backend over Intel DSA work queues.
//!
//! DSA copies, fills, compares and sums CRC-32C; it has **no opcode for XOR or P+Q** (versions 1.0 and
//! 2.0), so parity stays on the CPU and a chain crosses from one to the other.

pub mod caps;
pub mod descriptor;
pub mod discover;
pub mod portal;
pub mod record;
pub mod wait;
pub mod wire;
