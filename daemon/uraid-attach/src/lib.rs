//! Linux NBD devices: what makes a `/dev/nbdN` of a socket, keeps it attached and lets it go.
//!
//! For: the daemon's thread that attaches. Everything here blocks, some of it until the data path has
//! answered requests, so none of it may run on a thread that the data path needs. What can be waited for is
//! a descriptor to poll.
//!
//! | | |
//! |---|---|
//! | [`Netlink`] | attach, change, detach, ask: the kernel's netlink family `nbd` |
//! | [`Events`] | which device lost a socket |
//! | [`socket_pairs`] | connections to the kernel |
//! | [`replace_sockets`] | new sockets after a crash, in the one order that works |
//! | [`ioctl`] | the older way in, for hosts without netlink in reach |
//! | [`Host`] | sysfs, /proc and /dev: what is attached, queue limits, who holds a device |
//! | [`Capability`], [`Host::module_loaded`] | whether it can work at all |
//!
//! Facts of kernels 6.1 and 6.12 that this crate works around stand where it does so. Left to others: the
//! protocol on the sockets, what to do when a device is held, links in /dev (udev's).

mod capability;
mod error;
mod host;
pub mod ioctl;
mod netlink;
mod params;
mod replace;
mod sockets;
mod sys;
mod wait;

pub use capability::Capability;
pub use error::AttachError;
pub use host::{
    Attached, DeviceState, Holders, Host, Mount, MountLine, Opener, Part, QueueLimits, QueueState, Refusal,
    Settled, Tuned, mounts, openers, swaps,
};
pub use netlink::{Event, Events, Netlink, Status};
pub use params::{ClientFlags, Connect, DeviceChoice, Reconfigure, block_size_for};
pub use replace::{Replace, replace_sockets};
pub use sockets::{SOCKET_BUFFER, SocketPair, buffer_of, socket_pairs};
