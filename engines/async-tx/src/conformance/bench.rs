//! A backend under test: what it has in hand, and that it completes each operation once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::arena::{Arena, destinations};
use super::cases::{Case, many};
use super::{Subject, Trouble};
use crate::backend::{Backend, Completion, OpToken, ReadyOp, Revival};
use crate::clock::{Clock, Monotonic};
use crate::op::{OpKind, Verdict};
use crate::{Fault, Region};

/// Turns without anything in hand after which late writes and doubled completions would have shown.
const QUIET_TURNS: usize = 64;
/// Arguments of one call to `submit`, at most.
pub(super) const CALL_MAX: usize = 64;

/// How long a drop is left alone before the device moves: one that does not wait is to leave the device with
/// work that shows.
const HEAD_START: Duration = Duration::from_millis(20);

/// One turn of waiting for a drop that began then.
pub(super) fn wait_or_step(subject: &mut dyn Subject, began: Instant) {
    if began.elapsed() < HEAD_START {
        std::thread::yield_now();
    } else {
        subject.step();
    }
}

/// An operation in the hands of the backend.
struct InHand {
    verdict: Verdict,
    destinations: Vec<Region>,
    name: String,
}

/// The end of an operation, with what was known of it.
pub(super) struct Ended {
    /// Position in the list of cases of its call to [`Bench::submit`].
    pub(super) index: usize,
    pub(super) result: Result<Verdict, Fault>,
    pub(super) verdict: Verdict,
    pub(super) destinations: Vec<Region>,
    pub(super) name: String,
}

impl Ended {
    /// Checks that it ended well: verdict and destinations.
    pub(super) fn check(&self, arena: &mut Arena) -> Result<(), String> {
        let found = self.result.map_err(|fault| format!("{}: {fault}", self.name))?;
        if found != self.verdict {
            return Err(format!("{}: the verdict is {found:?}, not {:?}", self.name, self.verdict));
        }
        for dst in &self.destinations {
            arena.check(*dst).map_err(|what| format!("{}: of the destination, {what}", self.name))?;
        }
        Ok(())
    }
}

/// A backend, its subject, and the memory.
pub(super) struct Bench<'s> {
    pub(super) subject: &'s mut dyn Subject,
    pub(super) arena: &'s mut Arena,
    backend: Option<Box<dyn Backend>>,
    hand: BTreeMap<u64, (usize, InHand)>,
    next: u64,
    clock: Monotonic,
}

impl<'s> Bench<'s> {
    /// A fresh backend over fresh memory.
    pub(super) fn new(subject: &'s mut dyn Subject, arena: &'s mut Arena) -> Self {
        arena.scramble();
        let backend = Some(subject.backend());
        // Tokens that a backend which makes something of them would trip over.
        let next = arena.rng.next() >> 1;
        Bench { subject, arena, backend, hand: BTreeMap::new(), next, clock: Monotonic::new() }
    }

    /// The backend.
    pub(super) fn backend(&mut self) -> Result<&mut dyn Backend, String> {
        match &mut self.backend {
            Some(backend) => Ok(&mut **backend),
            None => Err("the suite has dropped the backend".to_owned()),
        }
    }

    /// Gives the backend up.
    pub(super) fn take_backend(&mut self) -> Result<Box<dyn Backend>, String> {
        self.hand.clear();
        self.backend.take().ok_or_else(|| "the suite has dropped the backend".to_owned())
    }

    /// Up to `count` cases of these kinds that share no memory, none shorter than `len` bytes.
    pub(super) fn crowd(&mut self, kinds: &[OpKind], len: usize, count: usize) -> Result<Vec<Case>, String> {
        match &self.backend {
            Some(backend) => many(self.arena, &**backend, kinds, len, count),
            None => Ok(Vec::new()),
        }
    }

    /// Takes what is in hand for completed: the caller has seen to it.
    pub(super) fn forget_hand(&mut self) {
        self.hand.clear();
    }

    /// How many operations it has in hand.
    pub(super) fn in_hand(&self) -> usize {
        self.hand.len()
    }

    /// Submits cases in one call, those after the first with a fence if `fenced`; returns how many were
    /// taken. What the cases do is expected from then on, in their order.
    pub(super) fn submit(&mut self, cases: &[Case], fenced: bool) -> Result<usize, String> {
        let mut ops = Vec::new();
        for (i, case) in (0u64..).zip(cases.iter().take(CALL_MAX)) {
            let token = OpToken(self.next.wrapping_add(i));
            ops.push(ReadyOp { token, op: case.op(), fence: fenced && i > 0 });
        }
        self.next = self.next.wrapping_add(ops.len() as u64);
        // What is expected has to be known before: the operations may run inside the call.
        let room = self.backend()?.room();
        let taken = self.backend()?.submit(&ops);
        if taken > ops.len() {
            return Err(format!("submit took {taken} of {} operations", ops.len()));
        }
        // What stands behind a fence has to fit one batch, of which room says nothing.
        if self.subject.room_is_exact() && !fenced {
            room_was_true(room, ops.len(), taken)?;
        }
        for (index, (op, case)) in ops.iter().zip(cases).enumerate().take(taken) {
            let verdict = self.arena.expect(&op.op);
            let destinations = destinations(&op.op);
            let in_hand = InHand { verdict, destinations, name: case.name.clone() };
            self.hand.insert(op.token.0, (index, in_hand));
        }
        Ok(taken)
    }

    /// Lets the device move, and takes in what has ended.
    pub(super) fn turn(&mut self) -> Result<Vec<Ended>, String> {
        self.subject.step();
        self.reap()
    }

    /// Takes in what has ended.
    pub(super) fn reap(&mut self) -> Result<Vec<Ended>, String> {
        let mut done = Vec::new();
        self.backend()?.reap(&mut done);
        done.into_iter()
            .map(|Completion { token, result }| {
                let (index, op) = self.hand.remove(&token.0).ok_or_else(|| {
                    format!(
                        "{token:?} completed, which is not in hand: it was never taken, or completed before"
                    )
                })?;
                let InHand { verdict, destinations, name } = op;
                Ok(Ended { index, result, verdict, destinations, name })
            })
            .collect()
    }

    /// Turns until nothing is in hand.
    pub(super) fn finish(&mut self) -> Result<Vec<Ended>, String> {
        let mut ended = Vec::new();
        let began = Instant::now();
        while !self.hand.is_empty() {
            // Now and then several end before they are asked for.
            for _ in 0..self.arena.rng.below(8) {
                self.subject.step();
            }
            ended.extend(self.turn()?);
            self.backend()?.relax();
            self.still_patient(began, "the operations in hand to complete")?;
        }
        Ok(ended)
    }

    /// As [`finish`](Self::finish), and every operation must have ended well.
    pub(super) fn finish_well(&mut self) -> Result<(), String> {
        let ended = self.finish()?;
        ended.iter().try_for_each(|ended| ended.check(self.arena))
    }

    /// Submits cases and turns until all have been taken and have ended well.
    pub(super) fn run(&mut self, mut cases: &[Case]) -> Result<(), String> {
        let began = Instant::now();
        while !cases.is_empty() {
            let taken = self.submit(cases, false)?;
            cases = cases.get(taken..).unwrap_or(&[]);
            self.finish_well()?;
            self.still_patient(began, "operations to be taken, with nothing in hand")?;
        }
        Ok(())
    }

    /// With nothing in hand: turns for a while in which nothing may complete.
    pub(super) fn stay_quiet(&mut self) -> Result<(), String> {
        for _ in 0..QUIET_TURNS {
            if let Some(ended) = self.turn()?.first() {
                return Err(format!("{} completed with nothing in hand", ended.name));
            }
        }
        Ok(())
    }

    /// Whether there is time left to wait.
    pub(super) fn still_patient(&self, began: Instant, what: &str) -> Result<(), String> {
        let patience = self.subject.patience();
        if began.elapsed() <= patience {
            return Ok(());
        }
        Err(format!("waited {patience:?} for {what}; {} are in hand", self.hand.len()))
    }

    /// Takes back what is in hand, and makes the backend work again.
    pub(super) fn give_up_and_revive(&mut self) -> Result<Vec<Ended>, String> {
        self.backend()?.abort();
        self.subject.inject(Trouble::Heal);
        let ended = self.finish()?;
        self.revive()?;
        Ok(ended)
    }

    /// Makes the backend work again, with nothing in hand.
    pub(super) fn revive(&mut self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let now = self.clock.now();
            if self.backend()?.revive(now) == Revival::Ready {
                return Ok(());
            }
            self.turn()?;
            self.still_patient(began, "revive to say that it works again")?;
        }
    }

    /// A fresh backend in the place of one that was dropped.
    pub(super) fn renew(&mut self) {
        self.hand.clear();
        self.backend = Some(self.subject.backend());
    }

    /// Drops the backend while the device moves; an error if that does not come to an end. What hangs goes
    /// on after a while, for a drop may have to wait for that.
    pub(super) fn drop_backend(&mut self) -> Result<(), String> {
        let backend = self.take_backend()?;
        let began = Instant::now();
        let dropping = std::thread::spawn(move || drop(backend));
        let mut healed = false;
        while !dropping.is_finished() {
            wait_or_step(self.subject, began);
            if !healed && began.elapsed() > 3 * HEAD_START {
                self.subject.inject(Trouble::Heal);
                healed = true;
            }
            self.still_patient(began, "the drop of the backend")?;
        }
        dropping.join().map_err(|_| "dropping the backend panicked".to_owned())
    }

    /// Puts new bytes everywhere, lets the device move, and looks whether anything writes.
    pub(super) fn nothing_writes(&mut self, when: &str) -> Result<(), String> {
        self.arena.scramble();
        for _ in 0..QUIET_TURNS {
            self.subject.step();
        }
        self.arena.check_all().map_err(|what| format!("written {when}: {what}"))
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        self.subject.inject(Trouble::Heal);
        if self.backend.is_some() {
            // A point that failed is reported already; that this fails, too, would tell nothing more.
            let _ = self.drop_backend();
        }
    }
}

fn room_was_true(room: usize, offered: usize, taken: usize) -> Result<(), String> {
    if taken == offered.min(room) {
        return Ok(());
    }
    Err(format!("room said {room}, but of {offered} operations {taken} were taken"))
}
