//! What can go wrong, and what the operator can do about it.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use crate::Capability;

/// Why a device could not be attached, changed or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The kernel does not know the generic netlink family `nbd`.
    #[error(
        "the kernel has no nbd driver: `modprobe nbd` loads it, /etc/modules-load.d/ makes that last; in a \
         container, or in a network namespace of its own, it cannot be reached"
    )]
    ModuleMissing,
    /// The process may not do this.
    #[error("not permitted to {what}: it takes {capability} in the host's user namespace")]
    NotPermitted {
        /// What was tried.
        what: &'static str,
        /// What it takes.
        capability: Capability,
    },
    /// The device of this number serves something else, or somebody has it open.
    #[error("nbd{index} is in use: another server is attached to it, or a process has it open")]
    InUse {
        /// N of /dev/nbdN.
        index: u32,
    },
    /// The device of this number is not attached, so there is nothing to change.
    #[error("nbd{index} is not attached to anything")]
    NotAttached {
        /// N of /dev/nbdN.
        index: u32,
    },
    /// What was asked for cannot work; the kernel was not bothered with it.
    #[error("cannot attach: {0}")]
    Parameter(String),
    /// The kernel refused.
    #[error("the kernel refuses to {what}: {}{}{hint}", errno.desc(), said(text.as_deref()))]
    Refused {
        /// What was tried, on which device.
        what: String,
        /// The kernel's number for the reason.
        errno: Errno,
        /// The kernel's words for the reason, where it has any.
        text: Option<String>,
        /// What the number usually means here; begins with a separator, or is empty.
        hint: &'static str,
    },
    /// The kernel's answer was lost or makes no sense. Whether the command took effect is not known:
    /// [`Netlink::status_of`](crate::Netlink::status_of) and [`Host::attached`](crate::Host::attached) tell.
    #[error("cannot tell how `{what}` ended: {why}")]
    NoAnswer {
        /// What was tried.
        what: String,
        /// What is wrong with the answer.
        why: &'static str,
    },
    /// A deadline passed.
    #[error("waited {:.1} s for {what}", after.as_secs_f64())]
    TooLate {
        /// What did not happen.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn said(text: Option<&str>) -> String {
    text.map(|text| format!(" ({text})")).unwrap_or_default()
}

impl AttachError {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        AttachError::Io { what: what.into(), source: source.into() }
    }
}
