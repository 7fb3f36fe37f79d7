//! Tests of the crate from outside: against superblocks that md wrote, against mdadm, and against damage.
//!
//! The modules are marked as tests so that their helpers may panic, as the tests themselves may.

#[cfg(test)]
mod areas;
#[cfg(test)]
mod bad_blocks;
#[cfg(test)]
mod bitmap;
#[cfg(test)]
mod common;
#[cfg(test)]
mod corruption;
#[cfg(test)]
mod create;
#[cfg(test)]
mod document;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod mdadm;
#[cfg(test)]
mod other;
#[cfg(test)]
mod ppl;
#[cfg(test)]
mod verdicts;
