//! A generic netlink socket: one request, its replies and its acknowledgement.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, send, socket,
};

use super::wire::{Acknowledgement, Attributes, Builder, Messages};
use crate::sys;
use crate::wait::readable_until;
use crate::{AttachError, Capability};

/// The kernel runs a command before `send` returns, and its answers lie in the socket then. This is only
/// for answers that never come.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// No answer of the kernel is longer: a list of all devices that can exist is a tenth of it.
const DATAGRAM_MAX: usize = 64 << 20;

/// Numbers of the family of families (linux/genetlink.h).
mod ctrl {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const VERSION: u8 = 2;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const ATTR_ID: u16 = 1;
    pub(super) const ATTR_NAME: u16 = 2;
    pub(super) const ATTR_GROUPS: u16 = 7;
    pub(super) const GROUP_NAME: u16 = 1;
    pub(super) const GROUP_ID: u16 = 2;
}

/// A family as the kernel has registered it; numbers differ from boot to boot.
#[derive(Clone, Debug)]
pub(super) struct Family {
    pub(super) id: u16,
    /// Number of its multicast group of the name that was asked for.
    pub(super) group: Option<u32>,
}

/// One message of a reply: its command, and its attributes as bytes.
pub(super) struct Reply {
    pub(super) command: u8,
    attributes: Vec<u8>,
}

impl Reply {
    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes(&self.attributes)
    }
}

/// What came in, or why nothing did.
pub(super) enum Received {
    /// A datagram of the kernel's.
    Datagram(Vec<u8>),
    /// Nothing is there.
    Nothing,
    /// The kernel had more to say than the socket could hold; some of it is lost.
    Overrun,
}

#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub(super) fn open() -> Result<Self, AttachError> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkGeneric,
        )
        .map_err(|error| AttachError::io("open a netlink socket", error))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))
            .map_err(|error| AttachError::io("bind a netlink socket", error))?;
        Self::from_fd(fd)
    }

    /// Goes on with a socket that another process opened.
    pub(super) fn from_fd(fd: OwnedFd) -> Result<Self, AttachError> {
        // Texts with errors, and errors without the request: both are there since 4.12 and only a comfort.
        let comfort = [(sys::NETLINK_EXT_ACK, 1), (sys::NETLINK_CAP_ACK, 1)];
        for (option, value) in comfort {
            match sys::set_netlink_option(fd.as_fd(), option, value) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOPROTOOPT as i32) => {}
                Err(error) => return Err(AttachError::io("use the netlink socket", error)),
            }
        }
        // A predecessor's answers may still be on their way; its numbers were others than these.
        Ok(Socket { fd, sequence: std::process::id().rotate_left(16) })
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub(super) fn join(&self, group: u32) -> Result<(), AttachError> {
        sys::set_netlink_option(self.fd.as_fd(), sys::NETLINK_ADD_MEMBERSHIP, group).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EPERM) => AttachError::NotPermitted {
                    what: "listen to events of nbd devices",
                    capability: Capability::SysAdmin,
                },
                _ => AttachError::io("listen to events of nbd devices", error),
            }
        })
    }

    /// The family `name`, with the number of its group `group`.
    pub(super) fn family(&mut self, name: &str, group: &str) -> Result<Option<Family>, AttachError> {
        let what = "ask for the netlink family of nbd";
        let request = |sequence| {
            let builder = Builder::new(ctrl::FAMILY, ctrl::GET_FAMILY, ctrl::VERSION, sequence);
            builder.text(ctrl::ATTR_NAME, name).finish()
        };
        let (replies, ended) = self.transact(what, ctrl::FAMILY, request)?;
        match Errno::from_raw(ended.errno) {
            _ if ended.errno == 0 => {}
            Errno::ENOENT => return Ok(None),
            errno => return Err(AttachError::io(what, errno)),
        }
        let attributes = replies.first().map(Reply::attributes);
        let found = attributes.and_then(|attributes| {
            let mut groups = attributes.nest(ctrl::ATTR_GROUPS).map(|(_, one)| Attributes(one));
            let group = groups.find(|one| one.text(ctrl::GROUP_NAME) == Some(group.as_bytes()));
            let group = group.and_then(|one| one.u32(ctrl::GROUP_ID));
            Some(Family { id: attributes.u16(ctrl::ATTR_ID)?, group })
        });
        let lost = || AttachError::NoAnswer { what: what.to_owned(), why: "the answer names no family" };
        found.ok_or_else(lost).map(Some)
    }

    /// Sends one request and reads what answers it, up to the acknowledgement.
    pub(super) fn transact(
        &mut self,
        what: &str,
        family: u16,
        request: impl FnOnce(u32) -> Vec<u8>,
    ) -> Result<(Vec<Reply>, Acknowledgement), AttachError> {
        while !matches!(self.receive()?, Received::Nothing) {}
        // Events have number zero.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.send(what, &request(self.sequence))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut replies = Vec::new();
        let lost = |why| Err(AttachError::NoAnswer { what: what.to_owned(), why });
        loop {
            match self.receive()? {
                Received::Datagram(datagram) => {
                    for message in Messages(&datagram).filter(|message| message.sequence == self.sequence) {
                        if let Some(acknowledgement) = message.acknowledgement() {
                            return Ok((replies, acknowledgement));
                        }
                        if let Some((command, attributes)) = message.generic()
                            && message.kind == family
                        {
                            replies.push(Reply { command, attributes: attributes.0.to_vec() });
                        }
                    }
                }
                Received::Overrun => return lost("the answer did not fit the socket"),
                Received::Nothing if Instant::now() >= deadline => return lost("the kernel does not answer"),
                Received::Nothing => {
                    readable_until(self.fd.as_fd(), deadline)
                        .map_err(|error| AttachError::io("wait for the kernel", error))?;
                }
            }
        }
    }

    fn send(&self, what: &str, request: &[u8]) -> Result<(), AttachError> {
        loop {
            match send(self.fd.as_raw_fd(), request, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                // Only ever before the kernel took the message.
                Err(Errno::EINTR) => {}
                Err(error) => return Err(AttachError::io(what, error)),
            }
        }
    }

    /// The next datagram, without waiting. What another process sent is dropped.
    pub(super) fn receive(&self) -> Result<Received, AttachError> {
        loop {
            let mut small = [0];
            let peeked = self.receive_into(&mut small, MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC);
            let len = match peeked {
                Ok((len, _)) => len.min(DATAGRAM_MAX),
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
                Err(error) => return Err(AttachError::io("read from the netlink socket", error)),
            };
            let mut datagram = vec![0; len.max(1)];
            match self.receive_into(&mut datagram, MsgFlags::empty()) {
                Ok((len, 0)) => {
                    datagram.truncate(len);
                    return Ok(Received::Datagram(datagram));
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::ENOBUFS) => return Ok(Received::Overrun),
                Err(error) => return Err(AttachError::io("read from the netlink socket", error)),
            }
        }
    }

    /// Length of the datagram and the port of its sender, which is zero for the kernel.
    fn receive_into(&self, bytes: &mut [u8], flags: MsgFlags) -> Result<(usize, u32), Errno> {
        let mut into = [IoSliceMut::new(bytes)];
        loop {
            let flags = flags | MsgFlags::MSG_DONTWAIT;
            match recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut into, None, flags) {
                Ok(got) => return Ok((got.bytes, got.address.map_or(u32::MAX, |address| address.pid()))),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
