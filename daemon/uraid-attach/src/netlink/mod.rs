//! The kernel's netlink family `nbd` (linux/nbd-netlink.h, version 1): attach, change, detach, ask.

mod events;
mod socket;
mod wire;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

pub use events::{Event, Events};

use self::socket::{Family, Reply, Socket};
use self::wire::{Acknowledgement, Attributes, Builder, push_attribute};
use crate::params::{Connect, DeviceChoice, Reconfigure};
use crate::{AttachError, Capability, Host};

const NAME: &str = "nbd";
const GROUP: &str = "nbd_mc_group";
const VERSION: u8 = 1;

/// Commands (u8).
mod cmd {
    pub(super) const CONNECT: u8 = 1;
    pub(super) const DISCONNECT: u8 = 2;
    pub(super) const RECONFIGURE: u8 = 3;
    pub(super) const LINK_DEAD: u8 = 4;
    pub(super) const STATUS: u8 = 5;
}

/// Attributes of the commands.
mod attr {
    /// u32.
    pub(super) const INDEX: u16 = 1;
    /// u64.
    pub(super) const SIZE_BYTES: u16 = 2;
    /// u64.
    pub(super) const BLOCK_SIZE_BYTES: u16 = 3;
    /// u64, seconds.
    pub(super) const TIMEOUT: u16 = 4;
    /// u64, transmission flags of NBD.
    pub(super) const SERVER_FLAGS: u16 = 5;
    /// u64, see `ClientFlags`.
    pub(super) const CLIENT_FLAGS: u16 = 6;
    /// Nest of `SOCK_ITEM`.
    pub(super) const SOCKETS: u16 = 7;
    /// u64, seconds.
    pub(super) const DEAD_CONN_TIMEOUT: u16 = 8;
    /// Nest of `DEVICE_ITEM`.
    pub(super) const DEVICE_LIST: u16 = 9;
    /// Text; since Linux 5.14, passed over by older ones.
    pub(super) const BACKEND_IDENTIFIER: u16 = 10;
    /// Nest of `SOCK_FD`.
    pub(super) const SOCK_ITEM: u16 = 1;
    /// u32, a descriptor of the calling process.
    pub(super) const SOCK_FD: u16 = 1;
    /// Nest of `DEVICE_INDEX` and `DEVICE_CONNECTED`.
    pub(super) const DEVICE_ITEM: u16 = 1;
    /// u32.
    pub(super) const DEVICE_INDEX: u16 = 1;
    /// u8.
    pub(super) const DEVICE_CONNECTED: u16 = 2;
}

/// What the kernel says of one of its devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// N of /dev/nbdN.
    pub index: u32,
    /// Whether it is attached, or was and somebody still has it open, or is open unattached: in all these
    /// cases [`Netlink::connect`] to it is refused. Whether it is attached says
    /// [`Host::attached`](crate::Host::attached).
    pub in_use: bool,
}

/// The socket through which devices are attached, changed and detached.
///
/// Keep it as long as what was attached through it, also over a restart ([`Netlink::into_fd`] and
/// [`Netlink::from_fd`], through the service manager's fd store): kernels to come may detach a device when
/// the socket that attached it is closed. Present ones (6.1, 6.12) do not mind.
///
/// Every call blocks, some of them until the data path has answered requests: `connect` has the kernel read
/// the partition table, `reconfigure` with a size and `disconnect` wait for requests in flight. Make the
/// calls on a thread of their own, and serve the other ends of the sockets before `connect`.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    family: Family,
}

impl Netlink {
    /// Opens a socket and finds the family. Attaching nothing, this takes no privilege.
    ///
    /// # Errors
    /// [`AttachError::ModuleMissing`], or the socket could not be made.
    pub fn open() -> Result<Self, AttachError> {
        Self::over(Socket::open()?)
    }

    /// Goes on with the socket of another process.
    ///
    /// # Errors
    /// [`AttachError::ModuleMissing`], or it is no netlink socket.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, AttachError> {
        Self::over(Socket::from_fd(fd)?)
    }

    /// Gives the socket away, for a process to come.
    pub fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }

    fn over(mut socket: Socket) -> Result<Self, AttachError> {
        let family = socket.family(NAME, GROUP)?.ok_or(AttachError::ModuleMissing)?;
        Ok(Netlink { socket, family })
    }

    /// Attaches the sockets, whose other ends are served by now, to a device; returns its number. The
    /// kernel keeps the sockets: the caller's descriptors can be closed.
    ///
    /// The kernel reads the partition table when the device is first opened, with udev usually at once.
    ///
    /// # Errors
    /// [`AttachError::Parameter`] for what no kernel takes (see [`Connect`]), [`AttachError::InUse`],
    /// [`AttachError::NotPermitted`], and what else the kernel refuses.
    pub fn connect(&mut self, wanted: &Connect, sockets: &[BorrowedFd<'_>]) -> Result<u32, AttachError> {
        wanted.check(sockets.len())?;
        let what = match wanted.device {
            DeviceChoice::Auto => "attach a free nbd device".to_owned(),
            DeviceChoice::Index(index) => format!("attach nbd{index}"),
        };
        let replies = self.command(&what, cmd::CONNECT, wanted.device.index(), |message| {
            let message = message
                .u64(attr::SIZE_BYTES, wanted.size)
                .u64(attr::BLOCK_SIZE_BYTES, u64::from(wanted.block_size))
                .u64(attr::TIMEOUT, wanted.timeout.as_secs())
                .u64(attr::DEAD_CONN_TIMEOUT, wanted.dead_conn_timeout.as_secs())
                .u64(attr::SERVER_FLAGS, u64::from(wanted.kernel_flags()))
                .u64(attr::CLIENT_FLAGS, wanted.client_flags.bits());
            with_backend(message, wanted.backend.as_deref()).nest(attr::SOCKETS, &socket_list(sockets))
        })?;
        let mut indices = replies.iter().filter(|reply| reply.command == cmd::CONNECT);
        let index = indices.find_map(|reply| reply.attributes().u32(attr::INDEX));
        index.or(wanted.device.index()).ok_or(AttachError::NoAnswer {
            what,
            why: "it succeeded and the kernel does not say on which device",
        })
    }

    /// Whether a device that is shown as attached with this backend was detached although somebody has it open.
    /// It is shown as long as he has, takes no sockets any more, and all that he asks of it fails.
    ///
    /// # Errors
    /// As [`Netlink::reconfigure`].
    pub fn is_cut_off(&mut self, index: u32, backend: &str) -> Result<bool, AttachError> {
        // A change of nothing. Of all that is wrong with a change, nothing but this can be wrong with that one.
        let change = Reconfigure { backend: Some(backend.to_owned()), ..Reconfigure::default() };
        match self.reconfigure(index, &change, &[]) {
            Ok(()) => Ok(false),
            Err(AttachError::NotAttached { .. } | AttachError::Refused { errno: Errno::EINVAL, .. }) => {
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Changes an attached device: new sockets in the place of dead ones, a size, timeouts.
    ///
    /// New sockets take the places of dead ones only; those for which there is no place are dropped
    /// **while success is reported**. [`replace_sockets`](crate::replace_sockets) goes about it safely.
    /// With a size, newer kernels answer only when the requests in flight are answered.
    ///
    /// # Errors
    /// [`AttachError::NotAttached`]; [`AttachError::Refused`] if the backend is not the one that it was attached
    /// with; otherwise as [`Netlink::connect`].
    pub fn reconfigure(
        &mut self,
        index: u32,
        change: &Reconfigure,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), AttachError> {
        change.check(sockets.len())?;
        let what = format!("change nbd{index}");
        self.command(&what, cmd::RECONFIGURE, Some(index), |message| {
            let message = message
                .u64_if(attr::SIZE_BYTES, change.size)
                .u64_if(attr::TIMEOUT, change.timeout.map(|timeout| timeout.as_secs()))
                .u64_if(attr::DEAD_CONN_TIMEOUT, change.dead_conn_timeout.map(|timeout| timeout.as_secs()))
                .u64_if(attr::CLIENT_FLAGS, change.client_flags.map(|flags| flags.bits()));
            let message = with_backend(message, change.backend.as_deref());
            if sockets.is_empty() { message } else { message.nest(attr::SOCKETS, &socket_list(sockets)) }
        })
        .map(drop)
        .map_err(|error| match error {
            // The kernel has one number for all that it does not like.
            AttachError::Refused { errno: Errno::EINVAL, .. } if Host::here().attached(index).is_none() => {
                AttachError::NotAttached { index }
            }
            other => other,
        })
    }

    /// Detaches a device. The kernel sends `DISC` on every socket, waits until the requests in flight are
    /// answered or given up, and lets go of the sockets. A device that is not attached is no error.
    ///
    /// **The kernel does not ask whether it is used**: a mounted file system loses its disk. Ask
    /// [`Host::holders`](crate::Host::holders) first. While somebody has it open, its number stays taken. Its
    /// partitions are shown until [`Host::forget_partitions`](crate::Host::forget_partitions).
    ///
    /// # Errors
    /// There is no such device, or this process may not.
    pub fn disconnect(&mut self, index: u32) -> Result<(), AttachError> {
        let what = format!("detach nbd{index}");
        self.command(&what, cmd::DISCONNECT, Some(index), |message| message).map(drop)
    }

    /// What the kernel says of all its devices.
    ///
    /// # Errors
    /// The kernel did not answer.
    pub fn status(&mut self) -> Result<Vec<Status>, AttachError> {
        self.ask_status(None)
    }

    /// What the kernel says of one device; nothing if it does not exist, which [`Netlink::connect`] mends.
    ///
    /// # Errors
    /// The kernel did not answer.
    pub fn status_of(&mut self, index: u32) -> Result<Option<Status>, AttachError> {
        Ok(self.ask_status(Some(index))?.into_iter().find(|status| status.index == index))
    }

    fn ask_status(&mut self, index: Option<u32>) -> Result<Vec<Status>, AttachError> {
        let replies = self.command("ask for nbd devices", cmd::STATUS, index, |message| message)?;
        let lists = replies.iter().filter(|reply| reply.command == cmd::STATUS);
        Ok(lists.flat_map(|reply| status_list(&reply.attributes())).collect())
    }

    fn command(
        &mut self,
        what: &str,
        command: u8,
        index: Option<u32>,
        fill: impl FnOnce(Builder) -> Builder,
    ) -> Result<Vec<Reply>, AttachError> {
        let family = self.family.id;
        let (replies, ended) = self.socket.transact(what, family, |sequence| {
            let message = Builder::new(family, command, VERSION, sequence);
            let message = match index {
                Some(index) => message.u32(attr::INDEX, index),
                None => message,
            };
            fill(message).finish()
        })?;
        if ended.errno == 0 { Ok(replies) } else { Err(refusal(what, command, index, ended)) }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn with_backend(message: Builder, backend: Option<&str>) -> Builder {
    match backend {
        Some(backend) => message.text(attr::BACKEND_IDENTIFIER, backend),
        None => message,
    }
}

fn socket_list(sockets: &[BorrowedFd<'_>]) -> Vec<u8> {
    let mut list = Vec::new();
    for socket in sockets {
        let mut item = Vec::new();
        // A descriptor is never negative.
        push_attribute(&mut item, attr::SOCK_FD, &socket.as_raw_fd().to_ne_bytes());
        push_attribute(&mut list, attr::SOCK_ITEM, &item);
    }
    list
}

fn status_list(attributes: &Attributes<'_>) -> Vec<Status> {
    let items = attributes.nest(attr::DEVICE_LIST).filter(|(number, _)| *number == attr::DEVICE_ITEM);
    items
        .filter_map(|(_, item)| {
            let item = Attributes(item);
            let in_use = item.u8(attr::DEVICE_CONNECTED)? != 0;
            Some(Status { index: item.u32(attr::DEVICE_INDEX)?, in_use })
        })
        .collect()
}

/// The kernel writes its reasons into its log and leaves us a number; these are the reasons by command.
fn refusal(what: &str, command: u8, index: Option<u32>, ended: Acknowledgement) -> AttachError {
    let errno = Errno::from_raw(ended.errno);
    let hint = match (command, errno, index) {
        (_, Errno::EPERM, _) => {
            let what = "attach, change or detach nbd devices";
            return AttachError::NotPermitted { what, capability: Capability::SysAdmin };
        }
        (cmd::CONNECT, Errno::EBUSY, Some(index)) => return AttachError::InUse { index },
        (cmd::CONNECT, Errno::EINVAL, _) => {
            "; it takes TCP and unix stream sockets only, and numbers as far as its minor numbers reach; its log \
             says more"
        }
        (cmd::RECONFIGURE, Errno::EINVAL, _) => {
            "; it was attached in the name of another backend, or by ioctl; its log says which"
        }
        (cmd::DISCONNECT, Errno::EINVAL, _) => "; there is no such device",
        (_, Errno::EOPNOTSUPP, _) => "; this kernel is too old for it",
        _ => "",
    };
    AttachError::Refused { what: what.to_owned(), errno, text: ended.text, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_devices_is_read_whole_and_odd_items_are_passed_over() {
        let mut list = Vec::new();
        for (index, connected) in [(0u32, Some(1u8)), (1, None), (77, Some(0))] {
            let mut item = Vec::new();
            push_attribute(&mut item, attr::DEVICE_INDEX, &index.to_ne_bytes());
            if let Some(connected) = connected {
                push_attribute(&mut item, attr::DEVICE_CONNECTED, &[connected]);
            }
            push_attribute(&mut list, attr::DEVICE_ITEM, &item);
        }
        push_attribute(&mut list, 9, &[1, 2, 3]);
        let mut attributes = Vec::new();
        push_attribute(&mut attributes, attr::DEVICE_LIST, &list);
        let expected = [Status { index: 0, in_use: true }, Status { index: 77, in_use: false }];
        assert_eq!(status_list(&Attributes(&attributes)), expected);
        assert!(status_list(&Attributes(&[])).is_empty());
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let told = |command, index, errno: Errno| {
            let ended = Acknowledgement { errno: errno as i32, text: None };
            refusal("attach nbd3", command, index, ended).to_string()
        };
        assert_eq!(
            told(cmd::CONNECT, Some(3), Errno::EBUSY),
            "nbd3 is in use: another server is attached to it, or a process has it open"
        );
        assert!(told(cmd::CONNECT, None, Errno::EPERM).contains("CAP_SYS_ADMIN"));
        assert!(told(cmd::RECONFIGURE, Some(3), Errno::EINVAL).contains("backend"));
        let ended = Acknowledgement { errno: Errno::EIO as i32, text: Some("sorry".to_owned()) };
        let told = refusal("attach nbd3", cmd::CONNECT, Some(3), ended).to_string();
        assert_eq!(told, "the kernel refuses to attach nbd3: I/O error (sorry)");
    }
}
