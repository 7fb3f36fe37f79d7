//! Who may take how much of the memory for payloads.
//!
//! A client decides how long its memory stays taken: it may send half a write, or ask for data and never
//! take them. So that this harms nobody else, three rules hold:
//!
//! - **Share.** A connection may hold a third of what it leaves free: one alone gets a quarter of the pool,
//!   several get less each. `n` of them that never give anything back leave at least (3/4)^n of the pool.
//!   One request is let in if it leaves as much free as it takes.
//! - **Line.** Connections that hold nothing and find no room stand in a [`Line`]. The first of them has
//!   the pool to itself for a moment, so that large requests find room between many small ones; then the
//!   pool is open again, for what it waits for may never come.
//! - **Reserve.** A connection that holds nothing always gets memory for a request of [`SMALL`] bytes, from
//!   a pool of its own that is good for nothing else. There is enough for [`reserve_bytes`].
//!
//! Clients that hold memory, do not move and keep others waiting are disconnected; that is the shard's part.

use std::collections::VecDeque;

use uraid_blockio::{BufPool, PoolBuf};
use uraid_core::Tick;

use crate::clients::ClientKey;

/// The longest request, in bytes, that the reserve serves.
pub(crate) const SMALL: usize = 64 << 10;
/// Nanoseconds for which the first in line has the pool to itself: much more than honest requests that are
/// in flight take to end.
const EXCLUSIVE: u64 = 250_000_000;
/// Nanoseconds after which it has it to itself again.
const PERIOD: u64 = 2_000_000_000;

/// The bytes of a pool that a buffer of `len` bytes takes: pools give powers of two from 4 KiB on.
pub(crate) fn footprint(len: usize) -> u64 {
    len.max(4096).checked_next_power_of_two().unwrap_or(len) as u64
}

/// Bytes of reserve for so many connections: [`SMALL`] each, but at most a quarter of the pool.
pub(crate) fn reserve_bytes(connections: usize, pool_bytes: usize) -> usize {
    connections.saturating_mul(SMALL).clamp(SMALL, SMALL.max(pool_bytes / 4))
}

/// Where a connection stands in line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Nobody else has the pool to itself.
    Open,
    /// It is the first in line.
    First,
    /// Someone else has the pool to itself.
    Closed,
}

/// What a connection may take memory from, right now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grants<'a> {
    pub(crate) pool: &'a BufPool,
    pub(crate) reserve: &'a BufPool,
    pub(crate) turn: Turn,
}

impl Grants<'_> {
    /// A buffer of `len` bytes for a connection that holds `held` bytes (see [`footprint`]), if it may
    /// have one now.
    pub(crate) fn take(&self, held: u64, len: usize) -> Option<PoolBuf> {
        let buf = if self.may_take(held, len) { self.pool.try_alloc(len) } else { None };
        buf.or_else(|| (held == 0 && len <= SMALL).then(|| self.reserve.try_alloc(len)).flatten())
    }

    fn may_take(&self, held: u64, len: usize) -> bool {
        let capacity = self.pool.capacity() as u64;
        let free = capacity.saturating_sub(self.pool.in_use() as u64);
        let more = footprint(len);
        // More than half of the pool is nobody's share; such a request takes its turn when there is room.
        let exceeds_any_share = more > capacity / 2;
        match self.turn {
            Turn::Closed => false,
            Turn::First if held == 0 && exceeds_any_share => true,
            _ if held == 0 => more <= free.saturating_sub(more),
            _ => held.saturating_add(more) <= free.saturating_sub(more) / 3,
        }
    }
}

/// Connections that hold no memory and wait for some, in order.
#[derive(Debug, Default)]
pub(crate) struct Line {
    keys: VecDeque<ClientKey>,
    /// Since when the first one is the first.
    since: Tick,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Where `key` stands.
    pub(crate) fn turn(&self, key: ClientKey, now: Tick) -> Turn {
        match self.keys.front() {
            Some(first) if *first == key => Turn::First,
            Some(_) if now.0.saturating_sub(self.since.0) % PERIOD < EXCLUSIVE => Turn::Closed,
            _ => Turn::Open,
        }
    }

    /// Who waits is in line, once, and who does not is not. Says whether someone left, so that those
    /// behind may have their turn.
    pub(crate) fn set(&mut self, key: ClientKey, waits: bool, now: Tick) -> bool {
        let at = self.keys.iter().position(|other| *other == key);
        match (at, waits) {
            (None, true) => {
                if self.keys.is_empty() {
                    self.since = now;
                }
                self.keys.push_back(key);
                false
            }
            (Some(at), false) => {
                self.keys.remove(at);
                if at == 0 {
                    self.since = now;
                }
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_blockio::ArenaOptions;

    const MIB: usize = 1 << 20;

    fn pool(bytes: usize) -> BufPool {
        BufPool::new(bytes, ArenaOptions::default()).unwrap()
    }

    fn key(place: usize) -> ClientKey {
        ClientKey::new(place, 1)
    }

    /// What each of `n` connections gets that take turns at taking `len` bytes until none gets more, and
    /// the pool that is left.
    fn grab(pool: &BufPool, reserve: &BufPool, n: usize, len: usize) -> Vec<Vec<PoolBuf>> {
        let grants = Grants { pool, reserve, turn: Turn::Open };
        let mut held: Vec<Vec<PoolBuf>> = (0..n).map(|_| Vec::new()).collect();
        loop {
            let mut any = false;
            for mine in &mut held {
                let bytes = mine.iter().map(|buf| footprint(buf.len())).sum();
                if let Some(buf) = grants.take(bytes, len) {
                    mine.push(buf);
                    any = true;
                }
            }
            if !any {
                return held;
            }
        }
    }

    #[test]
    fn shares_follow_the_number_of_those_who_take() {
        for (n, share) in [(1, 32), (2, 25), (4, 18), (13, 8)] {
            let (pool, reserve) = (pool(128 * MIB), pool(2 * MIB));
            let held = grab(&pool, &reserve, n, MIB);
            assert!(held.iter().all(|mine| mine.len().abs_diff(share) <= 1), "{n}");
            assert!(pool.capacity() - pool.in_use() >= 3 * (share - 1) * MIB, "{n}");
        }
    }

    #[test]
    fn those_who_come_first_and_keep_what_they_get_leave_something() {
        let (pool, reserve) = (pool(128 * MIB), pool(2 * MIB));
        let mut kept = Vec::new();
        let mut least = pool.capacity();
        for n in 1..=12 {
            kept.push(grab(&pool, &reserve, 1, MIB));
            least = least / 4 * 3;
            let free = pool.capacity() - pool.in_use();
            assert!(free >= least, "{n}: {free} of {least}");
            assert!(Grants { pool: &pool, reserve: &reserve, turn: Turn::Open }.take(0, MIB).is_some());
        }
    }

    #[test]
    fn who_holds_nothing_always_gets_a_small_request() {
        let (pool, reserve) = (pool(2 * MIB), pool(reserve_bytes(20, 64 * MIB)));
        let _whole = pool.try_alloc(2 * MIB).unwrap();
        for turn in [Turn::Open, Turn::First, Turn::Closed] {
            let grants = Grants { pool: &pool, reserve: &reserve, turn };
            let held: Vec<_> = (0..20).map(|_| grants.take(0, SMALL).unwrap()).collect();
            assert!(grants.take(4096, 4096).is_none());
            assert!(grants.take(0, SMALL + 1).is_none());
            drop(held);
        }
    }

    #[test]
    fn the_longest_request_gets_in_when_its_turn_comes() {
        let (pool, reserve) = (pool(64 * MIB), pool(2 * MIB));
        let grants = |turn| Grants { pool: &pool, reserve: &reserve, turn };
        assert!(grants(Turn::Open).take(0, 64 * MIB).is_none());
        assert!(grants(Turn::First).take(1, 64 * MIB).is_none());
        assert!(grants(Turn::First).take(0, 64 * MIB).is_some());
        assert!(grants(Turn::Open).take(0, 32 * MIB).is_some());
    }

    #[test]
    fn the_line_closes_the_pool_for_a_moment_only() {
        let mut line = Line::default();
        assert_eq!(line.turn(key(0), Tick(0)), Turn::Open);
        assert!(!line.set(key(1), true, Tick(5)));
        assert!(!line.set(key(2), true, Tick(6)));
        assert!(!line.set(key(2), true, Tick(7)));
        assert_eq!(line.turn(key(1), Tick(9)), Turn::First);
        assert_eq!(line.turn(key(2), Tick(9)), Turn::Closed);
        assert_eq!(line.turn(key(3), Tick(5 + EXCLUSIVE)), Turn::Open);
        assert_eq!(line.turn(key(1), Tick(5 + EXCLUSIVE)), Turn::First);
        assert_eq!(line.turn(key(3), Tick(5 + PERIOD)), Turn::Closed);
        assert!(line.set(key(1), false, Tick(EXCLUSIVE)));
        assert_eq!(line.turn(key(3), Tick(EXCLUSIVE + 5)), Turn::Closed);
        assert_eq!(line.turn(key(2), Tick(EXCLUSIVE + 5)), Turn::First);
        assert!(line.set(key(2), false, Tick(EXCLUSIVE + 6)));
        assert!(!line.set(key(2), false, Tick(EXCLUSIVE + 6)));
        assert!(line.is_empty());
    }
}
