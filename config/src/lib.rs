//! What an operator may write: the TOML file of one volume, and the small values that the command
//! line shares with it (sizes, addresses, names).
//!
//! Promises: a [`Config`] that exists is valid as far as the text alone can tell; a file that is not
//! yields **all** its problems at once, each with line, column, the offending text and what to do.
//! Keys that are not known are problems, never ignored.
//!
//! Leaves to others: whether members exist, what they hold, and whether an address can be bound.
#![forbid(unsafe_code)]

mod access;
mod address;
mod attach;
mod engines;
mod keys;
mod limits;
mod name;
mod observe;
mod problem;
mod reader;
mod schema;
mod size;
mod suggest;
mod tls;

pub use access::{Access, Account, AccountError};
pub use address::{Address, AddressError};
pub use attach::{Attach, DeviceName, DeviceNameError};
pub use engines::{Dsa, Engines, Offload, QueueName, QueueNameError, Threshold};
pub use keys::{Key, documented_keys};
pub use limits::Limits;
pub use name::{ArrayUuid, NameError, UuidError, VolumeName};
pub use observe::{EventKind, EventKindError, Events, Metrics};
pub use problem::{ConfigError, Problem, Problems};
pub use schema::{Assemble, Cache, Config, Direct, Io, IoEngine, Kernel, Sync};
pub use size::{Size, SizeError};
pub use tls::{Tls, TlsAt, TlsMode};

/// The directory of sockets when nothing else is said; created by the service unit.
pub const RUN_DIR: &str = "/run/uraid";

/// The example configuration: every key, documented line by line, at its default.
pub const EXAMPLE: &str = include_str!("../example.toml");
