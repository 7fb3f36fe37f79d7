//! From which length on an operation is offloaded: what was calibrated, and what an operator says.
//!
//! A backend has a default of its own ([`Limits::len_min`]). A calibration ([`crate::calibrate`]) replaces
//! it per kind, and a [`Policy`] per kind replaces both.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::OpKind;
use crate::backend::Limits;

/// For each kind of operation the number of bytes from which on a backend is worth its overhead.
///
/// The [`Default`] says nothing of any kind, so that [`Limits::len_min`] holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Thresholds {
    len_min: [Option<usize>; OpKind::COUNT],
}

impl Thresholds {
    /// The length that says that a kind is never offloaded.
    pub const OFF: usize = usize::MAX;

    /// Nothing is offloaded.
    pub const NEVER: Thresholds = Thresholds::all(Thresholds::OFF);

    /// Everything of at least `len_min` bytes is offloaded.
    pub const fn all(len_min: usize) -> Self {
        Thresholds { len_min: [Some(len_min); OpKind::COUNT] }
    }

    /// These, with `kind` offloaded from `len_min` bytes on ([`Thresholds::OFF`]: never).
    #[must_use]
    pub const fn with(mut self, kind: OpKind, len_min: usize) -> Self {
        self.len_min[kind as usize] = Some(len_min);
        self
    }

    /// What these say about `kind`, in bytes; `None` leaves it to the backend's default.
    pub const fn get(&self, kind: OpKind) -> Option<usize> {
        self.len_min[kind as usize]
    }

    /// The bytes from which on `kind` is offloaded to a backend with these limits.
    pub fn len_min(&self, kind: OpKind, limits: &Limits) -> usize {
        self.get(kind).unwrap_or(limits.len_min)
    }
}

/// What an operator says about the offload of one kind of operation.
///
/// Its text is `auto`, `never`, or a number of bytes, which may end in `KiB` or `MiB`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// As calibrated, or by the backend's default if nothing was.
    #[default]
    Auto,
    /// Never: the CPU runs it.
    Never,
    /// From so many bytes on, whatever a calibration found.
    From(usize),
}

impl Policy {
    /// What holds for a kind of which a calibration says `calibrated`; `None` is the backend's default.
    pub const fn apply(self, calibrated: Option<usize>) -> Option<usize> {
        match self {
            Policy::Auto => calibrated,
            Policy::Never => Some(Thresholds::OFF),
            Policy::From(len_min) => Some(len_min),
        }
    }
}

const UNITS: [(&str, usize); 2] = [("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Policy::Auto => f.write_str("auto"),
            Policy::Never => f.write_str("never"),
            Policy::From(len) => {
                match UNITS.into_iter().find(|(_, bytes)| len > 0 && len.is_multiple_of(*bytes)) {
                    Some((unit, bytes)) => write!(f, "{}{unit}", len / bytes),
                    None => write!(f, "{len}"),
                }
            }
        }
    }
}

/// A text that is no [`Policy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a threshold is \"auto\", \"never\" or a size such as \"64KiB\"")]
pub struct PolicyError;

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "auto" => return Ok(Policy::Auto),
            "never" => return Ok(Policy::Never),
            _ => {}
        }
        let unit = UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)));
        let (digits, bytes) = unit.unwrap_or((text, 1));
        // A number in Rust may start with a sign.
        if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(PolicyError);
        }
        let count: usize = digits.parse().map_err(|_| PolicyError)?;
        count.checked_mul(bytes).map(Policy::From).ok_or(PolicyError)
    }
}

/// A [`Policy`] for every kind; [`Policy::Auto`] by default.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Policies {
    by_kind: [Policy; OpKind::COUNT],
}

impl Policies {
    /// The same for every kind.
    pub const fn all(policy: Policy) -> Self {
        Policies { by_kind: [policy; OpKind::COUNT] }
    }

    /// These, with another for `kind`.
    #[must_use]
    pub const fn with(mut self, kind: OpKind, policy: Policy) -> Self {
        self.by_kind[kind as usize] = policy;
        self
    }

    /// That of `kind`.
    pub const fn get(&self, kind: OpKind) -> Policy {
        self.by_kind[kind as usize]
    }

    /// The thresholds that hold where a calibration found `calibrated`.
    pub fn apply(&self, calibrated: &Thresholds) -> Thresholds {
        let mut thresholds = *calibrated;
        for (len_min, policy) in thresholds.len_min.iter_mut().zip(self.by_kind) {
            *len_min = policy.apply(*len_min);
        }
        thresholds
    }
}
