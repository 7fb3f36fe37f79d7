//! The uraid command: one binary that makes arrays, shows them, serves them and talks to the daemon
//! that serves.
//!
//! Where things are: [`cli`] has the words of the command line, [`create`] makes arrays after [`probe`]
//! found nothing of value, [`assemble`] finds those that are there, [`examine`] shows superblocks, [`control`] is the conversation between the
//! commands and a running daemon, [`status`] shows what the daemon says, [`serve`] is the daemon,
//! [`kernels`] shows and times the parity kernels, [`engines`] the work queues of devices, [`generate`] makes
//! manual pages and completions, [`udev`] answers the rules of the package.
//!
//! Promises: commands never ask questions, exit with 0, 1 (it failed) or 2 (it was asked wrongly), and
//! write to a device only after every check on every device passed.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod assembly;
mod backing;
pub mod check_config;
mod claims;
pub mod cli;
pub mod commands;
pub mod control;
pub mod create;
pub mod device;
pub mod engines;
pub mod events;
pub mod examine;
pub mod failure;
pub mod generate;
mod holders;
pub mod human;
pub mod journal;
pub mod kernels;
pub mod metrics;
pub mod out;
pub mod probe;
pub mod scan;
pub mod serve;
pub mod service_stop;
pub mod status;
pub mod udev;
pub mod watch;

pub use failure::Failure;
