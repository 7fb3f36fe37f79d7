//! The handshakes under way at one address, and which of them makes room when there are too many.
//!
//! Nobody waits to be let in: one client more than there is room for takes the place of another. That is
//! one of the peer that has the most handshakes (a stranger with a thousand connections makes room for
//! others by himself), first of all one that has not said a word, and of those the oldest. So a silent
//! crowd keeps out nobody, wherever it comes from: who has just come and says something is the last to go.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::peers::Peer;

/// At most so often it is told that handshakes made room.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The handshakes at one address. Dropping it ends all of them.
#[derive(Debug)]
pub(super) struct Lobby {
    address: String,
    guests: Arc<Mutex<Guests>>,
}

#[derive(Debug, Default)]
struct Guests {
    /// By number, which grows, so that the least is the oldest.
    by_number: HashMap<u64, Guest>,
    next: u64,
    shown_out: u64,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Guest {
    peer: Peer,
    spoke: bool,
    leave: Arc<Notify>,
}

/// One handshake's place. Dropping it gives the place up.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Mutex<Guests>>,
    number: u64,
    leave: Arc<Notify>,
}

impl Lobby {
    /// The lobby of an address, which is named in the log.
    pub(super) fn new(address: String) -> Self {
        Lobby { address, guests: Arc::default() }
    }

    /// Lets a client in; if that makes more than `most`, shows another one out.
    pub(super) fn enter(&self, peer: Peer, most: usize) -> Place {
        let mut guests = lock(&self.guests);
        let number = guests.next;
        guests.next += 1;
        let leave = Arc::new(Notify::new());
        guests.by_number.insert(number, Guest { peer, spoke: false, leave: Arc::clone(&leave) });
        // More than one if `most` has become less.
        while guests.by_number.len() > most.max(1) && guests.show_one_out(number) {}
        self.tell(&mut guests);
        Place { guests: Arc::clone(&self.guests), number, leave }
    }

    fn tell(&self, guests: &mut Guests) {
        if guests.shown_out == 0 || guests.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return;
        }
        let count = std::mem::take(&mut guests.shown_out);
        guests.told = Some(Instant::now());
        tracing::warn!(
            address = self.address,
            "{count} clients in the handshake were disconnected to make room for others (`handshakes` in [limits])"
        );
    }
}

impl Drop for Lobby {
    fn drop(&mut self) {
        for guest in lock(&self.guests).by_number.values() {
            guest.leave.notify_one();
        }
    }
}

impl Guests {
    /// Shows one out, but not the newcomer. Says whether there was one.
    fn show_one_out(&mut self, newcomer: u64) -> bool {
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for guest in self.by_number.values() {
            *counts.entry(guest.peer).or_default() += 1;
        }
        let rank = |(number, guest): &(&u64, &Guest)| {
            let count = counts.get(&guest.peer).copied().unwrap_or_default();
            (std::cmp::Reverse(count), guest.spoke, **number)
        };
        let others = self.by_number.iter().filter(|(number, _)| **number != newcomer);
        let Some(number) = others.min_by_key(rank).map(|(number, _)| *number) else { return false };
        if let Some(guest) = self.by_number.remove(&number) {
            self.shown_out += 1;
            guest.leave.notify_one();
        }
        true
    }
}

impl Place {
    /// The client has said something.
    pub(super) fn spoke(&self) {
        if let Some(guest) = lock(&self.guests).by_number.get_mut(&self.number) {
            guest.spoke = true;
        }
    }

    /// Resolves when the client has to make room.
    pub(super) async fn lost(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.guests).by_number.remove(&self.number);
    }
}

fn lock(guests: &Mutex<Guests>) -> MutexGuard<'_, Guests> {
    // A list that is whole after every statement.
    guests.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_lost(place: &Place) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(place.lost()).as_mut().poll(&mut context).is_ready()
    }

    fn lost(places: &[Place]) -> Vec<usize> {
        places.iter().enumerate().filter(|(_, place)| is_lost(place)).map(|(i, _)| i).collect()
    }

    #[test]
    fn the_oldest_silent_one_of_the_greediest_goes() {
        let lobby = Lobby::new("test".to_owned());
        let peers = [1, 2, 2, 3, 2];
        let places: Vec<Place> = peers.iter().map(|uid| lobby.enter(Peer::User(*uid), 5)).collect();
        places[1].spoke();
        let fourth = lobby.enter(Peer::User(4), 5);
        assert_eq!(lost(&places), [2], "of user 2, the older silent one");
        let fifth = lobby.enter(Peer::User(5), 5);
        assert_eq!(lost(&places), [4], "user 2 still has the most, and one of them spoke");
        let sixth = lobby.enter(Peer::User(6), 5);
        assert_eq!(lost(&places), [0], "all have one: the oldest that is silent");
        assert!(![fourth, fifth, sixth].iter().any(is_lost));
    }

    #[test]
    fn who_comes_is_let_in_even_into_a_crowd_of_its_own() {
        let lobby = Lobby::new("test".to_owned());
        let crowd: Vec<Place> = (0..1000).map(|_| lobby.enter(Peer::User(7), 32)).collect();
        assert_eq!(lost(&crowd).len(), 1000 - 32);
        let honest = lobby.enter(Peer::User(7), 32);
        honest.spoke();
        let more: Vec<Place> = (0..1000).map(|_| lobby.enter(Peer::User(7), 32)).collect();
        assert!(!is_lost(&honest), "silent ones go first");
        assert_eq!(lost(&more).len(), 1000 - 31);
        drop((crowd, honest, more));
        assert!(lock(&lobby.guests).by_number.is_empty());
    }

    #[test]
    fn the_end_of_the_lobby_is_the_end_of_its_handshakes() {
        let lobby = Lobby::new("test".to_owned());
        let place = lobby.enter(Peer::User(1), 1);
        assert!(!is_lost(&place));
        drop(lobby);
        assert!(is_lost(&place));
    }
}
