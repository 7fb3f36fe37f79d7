//! What an operator should hear of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::{Fault, OpKind};

/// Something happened to a backend. No chain failed because of it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Alert {
    /// It gets no more operations until it has proved that it works.
    Quarantined {
        /// Its name.
        backend: Arc<str>,
        /// What it was to do.
        kind: OpKind,
        /// What it did instead.
        fault: Fault,
    },
    /// Its result was not that of the CPU, which then took its place. [`Alert::Quarantined`] follows.
    Mismatch {
        /// Its name.
        backend: Arc<str>,
        /// What it computed.
        kind: OpKind,
    },
    /// It was told to give up its operations long ago, and still has some. Their chains do not end, and
    /// their memory is not used again, until it does.
    GivingUpLate {
        /// Its name.
        backend: Arc<str>,
        /// How many operations it still has.
        held: usize,
        /// How long ago it was told so.
        after: Duration,
    },
    /// It works again.
    Revived {
        /// Its name.
        backend: Arc<str>,
        /// How long it was quarantined.
        after: Duration,
    },
    /// It had given back everything, and was dropped, as asked by [`crate::Engine::remove_backend`].
    Removed {
        /// Its name.
        backend: Arc<str>,
    },
}

impl Alert {
    /// The backend that it is about.
    pub fn backend(&self) -> &str {
        match self {
            Alert::Quarantined { backend, .. }
            | Alert::Mismatch { backend, .. }
            | Alert::GivingUpLate { backend, .. }
            | Alert::Revived { backend, .. }
            | Alert::Removed { backend } => backend,
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alert::Quarantined { backend, kind, fault } => {
                let kind = kind.word();
                write!(f, "{backend}: {kind}: {fault}; the backend is set aside, and the CPU does its work")
            }
            Alert::Mismatch { backend, kind } => {
                let kind = kind.word();
                write!(f, "{backend}: {kind}: the result was wrong; it was replaced by that of the CPU")
            }
            Alert::GivingUpLate { backend, held, after } => {
                let after = after.as_secs_f64();
                write!(
                    f,
                    "{backend}: {held} operations were given up {after:.1} s ago but may still write memory; "
                )?;
                f.write_str("the requests that wait for them do not end: reset the device or restart")
            }
            Alert::Revived { backend, after } => {
                write!(f, "{backend}: works again, after {:.1} s", after.as_secs_f64())
            }
            Alert::Removed { backend } => write!(f, "{backend}: removed"),
        }
    }
}
