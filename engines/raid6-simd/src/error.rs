//! What a caller can get wrong. Nothing here depends on the bytes of the blocks.

use std::fmt;

use crate::Kernel;

/// Why an operation was refused. No byte was written when one of these comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// Not 1 to 255 sources were given.
    SourceCount {
        /// How many were given.
        count: usize,
    },
    /// A block is not as long as the others.
    Length {
        /// The length of the first block looked at, in bytes.
        expected: usize,
        /// The length that differs, in bytes.
        found: usize,
    },
    /// Neither P nor Q was given.
    NoParity,
    /// A block's exponent is not below the number of data blocks.
    Exponent {
        /// The exponent.
        exponent: u8,
        /// The number of data blocks.
        blocks: usize,
    },
    /// A block is listed as lost and also given as a source, or listed as lost twice.
    LostTwice {
        /// Its exponent.
        exponent: u8,
    },
    /// Nothing is listed as lost.
    NothingLost,
    /// More is lost than the parity at hand can tell.
    Unrecoverable {
        /// How many data blocks are lost.
        data: usize,
        /// Whether P is at hand.
        p: bool,
        /// Whether Q is at hand.
        q: bool,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |good: &bool| if *good { "good" } else { "missing" };
        match self {
            Error::SourceCount { count } => write!(f, "{count} source blocks; RAID-6 takes 1 to 255"),
            Error::Length { expected, found } => {
                write!(f, "blocks of different lengths: {expected} and {found} bytes")
            }
            Error::NoParity => write!(f, "neither P nor Q was given"),
            Error::Exponent { exponent, blocks } => {
                write!(f, "exponent {exponent} is outside the {blocks} data blocks")
            }
            Error::LostTwice { exponent } => {
                write!(f, "data block {exponent} is lost, yet it is named a second time")
            }
            Error::NothingLost => write!(f, "nothing to recover: no block is listed as lost"),
            Error::Unrecoverable { data, p, q } => {
                write!(f, "{data} data blocks lost with P {} and Q {}: not recoverable", word(p), word(q))
            }
        }
    }
}

impl std::error::Error for Error {}

/// Why no kernels could be selected.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SelectError {
    /// No kernel has this name.
    Unknown {
        /// The name given.
        name: String,
    },
    /// This CPU, or this build, lacks what the kernel needs.
    Missing {
        /// The kernel asked for.
        kernel: Kernel,
    },
}

impl fmt::Display for SelectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SelectError::Unknown { name } => {
                write!(f, "no parity kernel is called {name:?}; use auto, measured, cycle")?;
                Kernel::ALL.iter().try_for_each(|kernel| write!(f, ", {kernel}"))
            }
            SelectError::Missing { kernel } => {
                let (needs, lacks) = (kernel.needs(), kernel.lacks().join(", "));
                write!(f, "this CPU cannot run the parity kernel {kernel}, which needs {needs}")?;
                let lacks = if lacks.is_empty() { String::new() } else { format!(" (it lacks {lacks})") };
                write!(f, "{lacks}; use auto")
            }
        }
    }
}

impl std::error::Error for SelectError {}
