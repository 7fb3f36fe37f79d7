//! One suite over every implementation and operation.
//!
//! Three witnesses are heard: an oracle of this suite that multiplies polynomials with tables of its own,
//! the naive implementation, which is tested like all the others, and P and Q that an independent program
//! computed. Recovery is judged by the blocks that were lost, and `locate` by trying every byte.
//!
//! Blocks lie between pages that cannot be accessed, and what is written is full of garbage before.
//! Random cases come from a fixed seed, which a failure prints. `RAID6_SIMD_CASES=N` multiplies their
//! number by `N`.

#[cfg(test)]
mod aliasing;
#[cfg(test)]
mod allocations;
#[cfg(test)]
mod common;
#[cfg(test)]
mod crc32c;
#[cfg(test)]
mod differential;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod guarded;
#[cfg(test)]
mod locate;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod recovery;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod update;
