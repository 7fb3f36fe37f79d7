//! The connections of a shard: who is there, who may have something to say, who can be told something.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use uraid_core::Tick;

use crate::conn::{Connection, ConnectionError, Received};
use crate::handover::ConnectionKind;
use crate::terms::Terms;

/// Names a connection; a name of the past finds nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ClientKey {
    place: usize,
    generation: u64,
}

#[cfg(test)]
impl ClientKey {
    pub(crate) fn new(place: usize, generation: u64) -> Self {
        Self { place, generation }
    }
}

/// A connection and what the loop knows about it.
#[derive(Debug)]
pub(crate) struct Client {
    generation: u64,
    pub(crate) connection: Connection,
    pub(crate) peer: String,
    pub(crate) kind: ConnectionKind,
    pub(crate) terms: Terms,
    /// There may be something to read, or something that waited may go on.
    ready: bool,
    /// Until then it is looked at in every turn.
    hot_until: Tick,
    /// Something was added to its answers.
    dirty: bool,
    /// Its socket takes answers again.
    writable: bool,
}

impl Client {
    /// Something was added to its answers. More requests are likely to come soon, so it is looked at in
    /// every turn until then.
    pub(crate) fn was_answered(&mut self, hot_until: Tick) {
        self.dirty = true;
        self.hot_until = hot_until;
    }

    /// Takes note of an attempt to receive.
    pub(crate) fn received(&mut self, result: &Result<Received, ConnectionError>) {
        self.ready = matches!(result, Ok(Received::More));
        // Answers that the connection gave by itself.
        self.dirty |= self.connection.has_output();
    }

    /// Sends what there is to send; says how many bytes went.
    pub(crate) fn send(&mut self, now: Tick) -> Result<usize, ConnectionError> {
        self.dirty = false;
        self.writable = false;
        let blocked = self.connection.is_blocked();
        let sent = self.connection.send(now);
        // What it did not read for want of room for answers is in its own buffer, perhaps, so that no
        // socket would say that there is more.
        self.ready |= blocked;
        sent
    }

    fn idle_at(&self) -> Option<Tick> {
        self.terms.idle_at(&self.connection)
    }

    fn is_active(&self, now: Tick) -> bool {
        self.ready || (now < self.hot_until && self.connection.wants_read())
    }

    fn is_sendable(&self) -> bool {
        self.connection.has_output() && (self.writable || (self.dirty && !self.connection.wants_write()))
    }

    fn interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, self.connection.wants_read());
        flags.set(PollFlags::POLLOUT, self.connection.wants_write());
        flags
    }
}

/// The connections by their keys.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    places: Vec<Option<Client>>,
    generation: u64,
    count: usize,
}

impl Clients {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn insert(
        &mut self,
        connection: Connection,
        peer: String,
        kind: ConnectionKind,
        terms: Terms,
    ) {
        self.generation += 1;
        self.count += 1;
        let client = Client {
            generation: self.generation,
            // A predecessor may have left answers to be sent.
            dirty: connection.has_output(),
            connection,
            peer,
            kind,
            terms,
            ready: true,
            hot_until: Tick::default(),
            writable: false,
        };
        match self.places.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(client),
            None => self.places.push(Some(client)),
        }
    }

    pub(crate) fn get_mut(&mut self, key: ClientKey) -> Option<&mut Client> {
        let client = self.places.get_mut(key.place)?.as_mut()?;
        (client.generation == key.generation).then_some(client)
    }

    pub(crate) fn remove(&mut self, key: ClientKey) -> Option<Client> {
        let place = self.places.get_mut(key.place)?;
        let client = place.take_if(|client| client.generation == key.generation)?;
        self.count -= 1;
        Some(client)
    }

    /// The first one of which `wanted` is true.
    pub(crate) fn find(&self, wanted: impl Fn(&Connection) -> bool) -> Option<ClientKey> {
        self.next(&mut 0, |client| wanted(&client.connection))
    }

    /// One that has been silent for too long.
    pub(crate) fn find_idle(&self, now: Tick) -> Option<ClientKey> {
        self.next(&mut 0, |client| client.idle_at().is_some_and(|at| at <= now))
    }

    /// When the first one will have been, if nothing happens before.
    pub(crate) fn idle_at(&self) -> Option<Tick> {
        self.places.iter().flatten().filter_map(Client::idle_at).min()
    }

    /// From place `at` on, the next one that may have something to say.
    pub(crate) fn next_active(&self, at: &mut usize, now: Tick) -> Option<ClientKey> {
        self.next(at, |client| client.is_active(now))
    }

    /// From place `at` on, the next one that can be sent something.
    pub(crate) fn next_sendable(&self, at: &mut usize) -> Option<ClientKey> {
        self.next(at, Client::is_sendable)
    }

    fn next(&self, at: &mut usize, wanted: impl Fn(&Client) -> bool) -> Option<ClientKey> {
        while let Some(place) = self.places.get(*at) {
            let found = *at;
            *at += 1;
            if let Some(client) = place.as_ref().filter(|client| wanted(client)) {
                return Some(ClientKey { place: found, generation: client.generation });
            }
        }
        None
    }

    /// Lets those that did not read for want of room try again.
    pub(crate) fn wake_blocked(&mut self) {
        for client in self.places.iter_mut().flatten() {
            client.ready |= client.connection.is_blocked();
        }
    }

    /// Takes all of them away.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Client> + use<> {
        self.count = 0;
        std::mem::take(&mut self.places).into_iter().flatten()
    }

    pub(crate) fn pause_all(&mut self) {
        self.places.iter_mut().flatten().for_each(|client| client.connection.pause());
    }

    pub(crate) fn drain_all(&mut self) {
        self.places.iter_mut().flatten().for_each(|client| client.connection.drain());
    }

    /// Whether `wanted` is true of all.
    pub(crate) fn all(&self, wanted: impl Fn(&Connection) -> bool) -> bool {
        self.places.iter().flatten().all(|client| wanted(&client.connection))
    }

    /// Closes those that have said and been told everything.
    pub(crate) fn close_ended(&mut self) {
        for place in &mut self.places {
            if let Some(client) = place.take_if(|client| client.connection.has_ended()) {
                self.count -= 1;
                tracing::debug!(peer = client.peer, "closed");
            }
        }
    }

    /// Asks the kernel which sockets can be read or written, and marks them. Says whether `bell` rang.
    pub(crate) fn poll(
        &mut self,
        bell: &EventFd,
        members: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        fds.extend(members.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let others = fds.len();
        let mut places = Vec::with_capacity(self.count);
        for (place, client) in self.places.iter().enumerate() {
            let Some(client) = client else { continue };
            let interest = client.interest();
            // A socket of no interest would still report a hang-up, again and again.
            if !interest.is_empty() {
                places.push(place);
                fds.push(PollFd::new(client.connection.fd(), interest));
            }
        }
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(false),
            Err(err) => return Err(err.into()),
        }
        let events = |fd: &PollFd<'_>| fd.revents().unwrap_or(PollFlags::empty());
        let rung = fds.first().is_some_and(|fd| !events(fd).is_empty());
        let ready: Vec<_> = places.into_iter().zip(fds.iter().skip(others).map(events)).collect();
        drop(fds);
        let over = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        for (place, events) in ready {
            let Some(client) = self.places.get_mut(place).and_then(Option::as_mut) else { continue };
            client.ready |= events.intersects(PollFlags::POLLIN | over);
            client.writable |= events.intersects(PollFlags::POLLOUT | over);
        }
        Ok(rung)
    }
}
