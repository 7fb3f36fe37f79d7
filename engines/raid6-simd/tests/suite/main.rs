//! One suite over every implementation and operation, against the naive one, whose own word is checked
//! against P and Q from an independent program and against brute force.
//!
//! Random cases come from a fixed seed. `RAID6_SIMD_CASES=N` multiplies their number by `N`.

#[cfg(test)]
mod common;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod refusals;
