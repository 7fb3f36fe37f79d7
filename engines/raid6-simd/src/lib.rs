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
//! # Operations
//!
//! All take any length, also zero, and any alignment; 1 to 255 source blocks, of which `None` is a block of
//! zeroes that costs no memory traffic; and (but for `naive`) read every source once. [`algorithm`] derives the formulas.
//!
//! | method | what it does |
//! |---|---|
//! | [`Kernels::xor`] | the sum of blocks, or adds it to the destination |
//! | [`Kernels::xor_val`] | whether blocks sum up to zero, as data with their P do |
//! | [`Kernels::gen_pq`] | P and Q, or one of them |
//! | [`Kernels::pq_update`] | P and Q after any number of data blocks changed, in one pass |
//! | [`Kernels::pq_val`] | whether P and Q are right, and which is not |
//! | [`Kernels::recover`] | one or two lost blocks, be they data, P or Q, in one pass |
//! | [`Kernels::locate`] | which one block is wrong, if it is one |
//! | [`Kernels::gf_mul_add`] | adds multiples of blocks to a block |
//! | [`Kernels::crc32c`], [`Kernels::copy_crc32c`] | CRC-32C of bytes, alone or while they are copied |
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
//! ```compile_fail,E0502
//! # use raid6_simd::{Kernels, XorMode};
//! let mut block = [0u8; 64];
//! // A destination that is also a source does not compile; `XorMode::Accumulate` is for that.
//! Kernels::auto().xor(&[Some(&block[..32])], &mut block[..32], XorMode::Overwrite);
//! ```
//!
//! A `Kernels` value is made once, at the start, and kept: making it looks at the CPU. **Build with
//! optimisation**: without, these kernels are a hundred times slower. To have it in development builds too,
//! put `[profile.dev.package.raid6-simd]` with `opt-level = 3` into the `Cargo.toml` of your workspace.
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
//! [`Kernels::auto`] takes the last one of the table that the CPU can run; a [`Selection`] asks for one by
//! name, for the one that is fastest when measured, or for all in turn, which is how code built on this
//! crate gets tested on every one of them. The choice is made once and a [`Kernels`] value is the proof
//! that the CPU can run it; [`Kernels::why`] says what led to it, and [`cpu_features`] what was looked at.
//! The algorithms are written once over a small vector trait, and each ISA's file says what its registers
//! can do.
//!
//! ```
//! use raid6_simd::{Kernels, SelectError, Selection};
//!
//! // A name from a configuration file, say. One that is misspelt is an error, one that this CPU lacks
//! // another.
//! let wanted: Selection = "avx512_gfni".parse()?;
//! let kernels = match Kernels::select(wanted) {
//!     Err(SelectError::Missing { kernel }) => {
//!         eprintln!("no {kernel} here: this CPU lacks {}", kernel.lacks().join(", "));
//!         Kernels::auto()
//!     }
//!     selected => selected?,
//! };
//! # drop(kernels);
//! # Ok::<(), SelectError>(())
//! ```
//!
//! CRC-32C has implementations of its own, `naive`, `portable`, `sse42` and `avx512_vpclmul`
//! ([`Kernels::crc32c_name`]).
//!
//! # Working sets beyond the caches
//!
//! Results that are read again soon belong into the caches, and that is where they go. For sources and
//! results larger than the last-level cache, [`Kernels::with_stores`] asks for streaming stores, which
//! save reading what is about to be overwritten. [`measure`] times both, and every implementation, on
//! working sets of any size.

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
