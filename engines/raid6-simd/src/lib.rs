//! RAID-6 parity kernels: xor, P+Q, update, check, recovery and location of a bad block, with the byte
//! results of Linux md; CRC-32C beside them.
//!
//! For data blocks `D_0 .. D_(n-1)` of one length, byte by byte,
//!
//! ```text
//! P = D_0 + D_1 + ... + D_(n-1)
//! Q = 2^0 D_0 + 2^1 D_1 + ... + 2^(n-1) D_(n-1)
//! ```
//!
//! in the field GF(2^8) of [`gf`], where addition is xor. Any two of the `n + 2` blocks can be recovered
//! from the others, for `n` up to 255.
//!
//! ```
//! use raid6_simd::{Kernels, LostData, Parity};
//!
//! let kernels = Kernels::auto();
//! let data = [[1u8; 100], [2; 100], [3; 100]];
//! let (mut p, mut q) = ([0; 100], [0; 100]);
//! kernels.gen_pq(&data.each_ref().map(|d| Some(&d[..])), Some(&mut p), Some(&mut q))?;
//!
//! // Blocks 0 and 2 are lost.
//! let left = [None, Some(&data[1][..]), None];
//! let (mut d0, mut d2) = ([0; 100], [0; 100]);
//! let mut lost = [LostData { exponent: 0, out: &mut d0 }, LostData { exponent: 2, out: &mut d2 }];
//! kernels.recover(&left, &mut lost, Parity::Good(&p), Parity::Good(&q))?;
//! assert_eq!((d0, d2), (data[0], data[2]));
//! # Ok::<(), raid6_simd::Error>(())
//! ```
//!
//! What it promises: nothing outside the slices is read or written; every implementation gives the same
//! bytes; a call that returns an error has written nothing; no call allocates or panics.
//!
//! # In place, and aliasing
//!
//! | | |
//! |---|---|
//! | sources | may be the same slice, or overlap, in any way |
//! | a destination | shares no byte with any other argument; that it is a `&mut` slice sees to it |
//! | `dst += sum(srcs)` | in place: [`XorMode::Accumulate`], [`Kernels::gf_mul_add`] |
//! | P and Q of changed data | in place: [`Kernels::pq_update`] |
//! | P and Q in parts | [`Kernels::pq_update`] with `old` absent, on parities that start as zeroes |
//!
//! What it leaves to others: which block has which exponent (a matter of the array's layout), threads,
//! and where memory comes from.
//!
//! # Implementations
//!
//! | name | for | registers |
//! |---|---|---|
//! | `naive` | tests | bytes |
//! | `portable` | any CPU | two `u64` |
//! | `sse2` | x86-64 | 16 bytes |
//! | `ssse3` | x86-64 with SSSE3 | 16 bytes |
//! | `avx2` | x86-64 with AVX2 | 32 bytes |
//! | `avx2_gfni` | x86-64 with AVX2 and GFNI | 32 bytes |
//! | `avx512` | x86-64 with AVX-512F and AVX-512BW | 64 bytes |
//! | `avx512_gfni` | x86-64 with AVX-512F, AVX-512BW and GFNI | 64 bytes |
//!
//! [`Kernels::auto`] takes the last one of the table that the CPU can run; [`Selection`] picks by name or
//! cycles through all. The algorithms are written once over a small vector trait, and each ISA's file
//! says what its registers can do.

#[doc = include_str!("../algorithm.md")]
pub mod algorithm {}

mod crc32c;
mod error;
mod features;
mod generic;
pub mod gf;
mod kernel;
pub mod measure;
mod naive;
mod ops;
mod portable;
mod recover;
mod select;
mod table;
mod vector;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_gfni;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_gfni;
#[cfg(target_arch = "x86_64")]
mod sse;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use error::{Error, SelectError};
pub use features::{Feature, cpu_features};
pub use kernel::Kernel;
pub use ops::{Change, Located, Mismatch, Product, SOURCES_MAX, Stores, XorMode};
pub use recover::{LostData, Parity};
pub use select::{Kernels, Selection, Why};
