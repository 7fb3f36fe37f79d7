//! What the kernel tells about devices unasked.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use super::socket::{Received, Socket};
use super::wire::Messages;
use super::{GROUP, NAME, attr, cmd};
use crate::AttachError;
use crate::wait::readable_until;

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// One socket of the device of this number is dead: its other end was closed, or a request on it was
    /// not answered in time. There is one such event for each socket, and none for a device that is being
    /// detached.
    LinkDead(u32),
    /// More happened than was listened to; any socket of any device may be dead.
    Overrun,
}

/// A subscription to the events of all nbd devices of the host.
///
/// Poll [`Events::as_fd`] for reading, then take events with [`Events::next`] until there are none.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    family: u16,
    /// Taken out of a datagram and not yet handed out.
    pending: std::collections::VecDeque<Event>,
}

impl Events {
    /// Subscribes. What happened before is not told. Takes no privilege.
    ///
    /// # Errors
    /// [`AttachError::ModuleMissing`], or the kernel does not let this process listen.
    pub fn subscribe() -> Result<Self, AttachError> {
        let mut socket = Socket::open()?;
        let family = socket.family(NAME, GROUP)?.ok_or(AttachError::ModuleMissing)?;
        let group = family.group.ok_or(AttachError::NoAnswer {
            what: "listen to events of nbd devices".to_owned(),
            why: "the kernel's nbd has no group of them",
        })?;
        socket.join(group)?;
        Ok(Events { socket, family: family.id, pending: std::collections::VecDeque::new() })
    }

    /// The next event, without waiting.
    ///
    /// # Errors
    /// The socket could not be read.
    #[expect(clippy::should_implement_trait, reason = "that there is none now does not end it")]
    pub fn next(&mut self) -> Result<Option<Event>, AttachError> {
        while self.pending.is_empty() {
            match self.socket.receive()? {
                Received::Nothing => break,
                Received::Overrun => self.pending.push_back(Event::Overrun),
                Received::Datagram(datagram) => {
                    let family = self.family;
                    let messages = Messages(&datagram).filter(|message| message.kind == family);
                    self.pending.extend(messages.filter_map(|message| {
                        let (command, attributes) = message.generic()?;
                        let index = attributes.u32(attr::INDEX)?;
                        (command == cmd::LINK_DEAD).then_some(Event::LinkDead(index))
                    }));
                }
            }
        }
        Ok(self.pending.pop_front())
    }

    /// The next event; none if there is none until the deadline.
    ///
    /// # Errors
    /// The socket could not be read.
    pub fn next_until(&mut self, deadline: Instant) -> Result<Option<Event>, AttachError> {
        loop {
            if let Some(event) = self.next()? {
                return Ok(Some(event));
            }
            let readable = readable_until(self.socket.as_fd(), deadline)
                .map_err(|error| AttachError::io("wait for events of nbd devices", error))?;
            if !readable {
                return Ok(None);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
