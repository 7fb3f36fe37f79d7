//! Letting go of clients so that another process can go on with them, and neither they nor the kernel
//! notice more than a pause.
//!
//! 1. **Pause.** Every connection stops at the boundary of a request. What was read beyond it, be it half a
//!    payload, is kept as it came. A payload that nobody wants is read to its end.
//! 2. **Settle.** Requests that were begun are done and answered, but for those that would take long (zeroes
//!    may be of all of the array): the array gives these back, and they go along as they came. What a client
//!    does not take of its answers within [`ANSWERS_TAKEN`] is kept, too.
//! 3. **Stop.** The array stops as ever: marked clean and flushed. Members are closed.
//! 4. **Tell.** Only then is the reply called, with everything that a successor needs. A hand-over that does
//!    not come that far calls nobody: the reply is dropped and every connection is closed.
//!
//! So whoever is told knows that no request is under way anywhere, and that all that was answered is where
//! the answer says.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nbd_rs::Session;
use uraid_core::Tick;

use crate::clients::Client;
use crate::shard::{NewConnection, Reply, ShardExit};
use crate::terms::Terms;

/// Nanoseconds for which clients may take answers before the rest is kept for the successor to send.
const ANSWERS_TAKEN: u64 = 1_000_000_000;
/// Nanoseconds for a client to end a request that nobody wants; it is disconnected then.
const UNWANTED_RECEIVED: u64 = 2_000_000_000;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConnectionKind {
    /// A client.
    #[default]
    Client,
    /// A client behind a proxy of this process, which ends with it: it is closed, not handed over.
    Proxied,
    /// The kernel's nbd driver. When it has shut a connection down it sends what was not answered again,
    /// elsewhere. So what was not begun by then must not be begun any more: the late copy of a write would
    /// undo what came after it.
    Kernel,
}

/// What a process leaves to the next one.
#[derive(Debug)]
pub struct HandedOver {
    /// The array is marked clean on all its members.
    pub clean: bool,
    /// Events of the superblocks that say so.
    pub events: u64,
    /// The connections, each as [`ShardHandle::connect`](crate::ShardHandle::connect) takes it.
    pub connections: Vec<NewConnection>,
}

/// A hand-over under way.
pub(crate) struct HandOver {
    reply: Reply<HandedOver>,
    began: Tick,
    /// Since when no request is under way.
    settled: Option<Tick>,
    /// The array was told to stop.
    stopping: bool,
    wake_at: Option<Tick>,
}

/// What is to be done next about a hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Wait for what is under way, at most until [`HandOver::wake_at`].
    Wait,
    /// Disconnect those who do not come to the end of a request that nobody wants.
    DropSlow,
    /// Stop the array.
    Stop,
}

impl HandOver {
    pub(crate) fn new(reply: Reply<HandedOver>, now: Tick) -> Self {
        Self { reply, began: now, settled: None, stopping: false, wake_at: None }
    }

    /// Looks how far it is: whether all connections have `settled`, with no request in the array, and all
    /// answers were `sent`.
    pub(crate) fn look(&mut self, now: Tick, settled: bool, sent: bool) -> Next {
        self.wake_at = None;
        if self.stopping {
            return Next::Wait;
        }
        let limit = match settled {
            true => self.settled.get_or_insert(now).0.saturating_add(ANSWERS_TAKEN),
            false => self.began.0.saturating_add(UNWANTED_RECEIVED),
        };
        if now.0 < limit && !sent {
            self.wake_at = Some(Tick(limit));
            return Next::Wait;
        }
        self.stopping = settled;
        if settled { Next::Stop } else { Next::DropSlow }
    }

    /// When it is to be looked at again, if nothing happens before.
    pub(crate) fn wake_at(&self) -> Option<Tick> {
        self.wake_at
    }

    /// Tells how it ended, if it ended well.
    pub(crate) fn tell(self, exit: &ShardExit, events: u64, clients: impl Iterator<Item = Client>) {
        let ShardExit::Stopped { clean } = *exit else { return };
        (self.reply)(HandedOver { clean, events, connections: clients.filter_map(hand_over).collect() });
    }
}

fn hand_over(client: Client) -> Option<NewConnection> {
    let Client { connection, peer, kind, terms, .. } = client;
    if kind == ConnectionKind::Proxied {
        return None;
    }
    let (socket, session, leftover, unsent) = connection.hand_over()?;
    Some(NewConnection { socket, session, leftover, peer, kind, unsent, terms })
}

impl NewConnection {
    /// A client that comes from its handshake. `leftover` is what was received beyond it.
    pub fn client(socket: OwnedFd, session: Session, leftover: Vec<u8>, peer: String) -> Self {
        let kind = ConnectionKind::Client;
        NewConnection { socket, session, leftover, peer, kind, unsent: Vec::new(), terms: Terms::default() }
    }

    /// One end of a socket pair whose other end is for the kernel, which shakes no hands: the session is
    /// one of [`Negotiated::default`](nbd_rs::Negotiated).
    pub fn kernel(socket: OwnedFd, session: Session, peer: String) -> Self {
        let kind = ConnectionKind::Kernel;
        let (leftover, unsent) = (Vec::new(), Vec::new());
        NewConnection { socket, session, leftover, peer, kind, unsent, terms: Terms::default() }
    }
}

/// What [`ShardHandle::hand_over`](crate::ShardHandle::hand_over) was told.
pub(crate) struct HandOverOrder {
    pub(crate) deadline: Duration,
    pub(crate) reply: Reply<HandedOver>,
}
