//! Keeping a backend busy with operations, and the time that takes.

use super::{PATIENCE, ROUND_TRIPS, ROUNDS, Sample, median, per_op};
use crate::backend::{Backend, Completion, Inline, OpToken, ReadyOp};
use crate::clock::{Clock, Nanos};
use crate::op::{Op, Verdict};
use crate::{CheckedOp, Fault};

/// The first of the tokens given out here. Those of an engine are smaller until it has used one entry of its
/// table 2^31 times; each calibration begins again with the same.
const TOKENS: u64 = 1 << 63;
/// The most operations of one call to the backend.
const BATCH: usize = 16;

/// Why measuring ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The budget is spent; nothing is in the backend's hands.
    OutOfTime,
    /// The backend is well but declined an operation; nothing is in its hands.
    Declined,
    /// An operation failed, or found what is not there.
    Failed(Fault),
    /// Nothing came for too long.
    TimedOut,
}

/// A backend at work.
pub(super) struct Bench<'a> {
    backend: &'a mut dyn Backend,
    cpu: &'a mut dyn Inline,
    clock: &'a dyn Clock,
    deadline: Nanos,
    /// Tokens and slots of what the backend has.
    in_hand: Vec<(OpToken, usize)>,
    done: Vec<Completion>,
    serial: u64,
    /// An operation of the present measurement was declined.
    declined: bool,
}

impl<'a> Bench<'a> {
    pub(super) fn new(
        backend: &'a mut dyn Backend,
        cpu: &'a mut dyn Inline,
        clock: &'a dyn Clock,
        deadline: Nanos,
    ) -> Self {
        let (in_hand, done) = (Vec::new(), Vec::new());
        Bench { backend, cpu, clock, deadline, in_hand, done, serial: TOKENS, declined: false }
    }

    /// Whether the backend takes it.
    pub(super) fn accepts(&self, op: &Op<'_>) -> bool {
        self.backend.accepts(op)
    }

    /// Measures `ops`, which do not touch what another one writes. `None` if the CPU cannot run them.
    pub(super) fn sample(&mut self, len: usize, ops: &[CheckedOp<'_>]) -> Result<Option<Sample>, Stop> {
        let depth = ops.len().min(self.backend.room()).max(1);
        let Some(ops) = ops.get(..depth) else { return Ok(None) };
        let (mut cpu, mut round_trip, mut pipelined) = ([0; ROUNDS], [0; ROUNDS], [0; ROUNDS]);
        for round in 0..=ROUNDS {
            if self.clock.now() >= self.deadline {
                return Err(Stop::OutOfTime);
            }
            let start = self.clock.now();
            for op in ops {
                if self.cpu.execute(op).is_err() {
                    return Ok(None);
                }
            }
            let on_cpu = per_op(self.clock, start, depth);
            let one_by_one = self.time(ops, 1, ROUND_TRIPS)?;
            let at_once = self.time(ops, depth, 2 * depth)?;
            // The first round warms up.
            if let Some(at) = round.checked_sub(1) {
                (cpu[at], round_trip[at], pipelined[at]) = (on_cpu, one_by_one, at_once);
            }
        }
        let [cpu, round_trip, pipelined] = [&mut cpu, &mut round_trip, &mut pipelined].map(|t| median(t));
        Ok(Some(Sample { len, cpu, round_trip, pipelined }))
    }

    /// Nanoseconds per operation of `count` operations, at most `depth` of them at a time.
    fn time(&mut self, ops: &[CheckedOp<'_>], depth: usize, count: usize) -> Result<u64, Stop> {
        let start = self.clock.now();
        let mut free: Vec<usize> = (0..depth.min(ops.len())).collect();
        let (mut left, mut idle_since) = (count, None);
        self.declined = false;
        while left > 0 || !self.in_hand.is_empty() {
            let submitted = self.submit(ops, &mut free, left);
            left -= submitted;
            let ended = self.reap(&mut free)?;
            if self.declined {
                left = 0;
            }
            if submitted + ended > 0 {
                idle_since = None;
                continue;
            }
            let now = self.clock.now();
            let since = *idle_since.get_or_insert(now);
            if now >= since.after(PATIENCE) || now >= self.deadline.after(PATIENCE) {
                return Err(Stop::TimedOut);
            }
            self.backend.relax();
        }
        if self.declined { Err(Stop::Declined) } else { Ok(per_op(self.clock, start, count)) }
    }

    /// Hands over at most `left` operations, on free slots; returns how many were taken.
    fn submit(&mut self, ops: &[CheckedOp<'_>], free: &mut Vec<usize>, left: usize) -> usize {
        let mut submitted = 0;
        while submitted < left {
            let mut batch = [ReadyOp { token: OpToken(0), op: CheckedOp(Op::Notify), fence: false }; BATCH];
            let mut count = 0;
            let slots = free.iter().rev().take(left - submitted);
            for ((ready, slot), serial) in batch.iter_mut().zip(slots).zip(self.serial..) {
                let Some(op) = ops.get(*slot) else { break };
                *ready = ReadyOp { token: OpToken(serial), op: *op, fence: false };
                count += 1;
            }
            if count == 0 {
                break;
            }
            let taken = self.backend.submit(&batch[..count]).min(count);
            for ready in &batch[..taken] {
                self.in_hand.extend(free.pop().map(|slot| (ready.token, slot)));
            }
            self.serial += count as u64;
            submitted += taken;
            if taken < count {
                break;
            }
        }
        submitted
    }

    /// Takes in what ended; returns how many that were. What was not in hand counts for nothing.
    fn reap(&mut self, free: &mut Vec<usize>) -> Result<usize, Stop> {
        self.backend.reap(&mut self.done);
        let mut ended = 0;
        let mut result = Ok(());
        for Completion { token, result: found } in self.done.drain(..) {
            let Some(at) = self.in_hand.iter().position(|(in_hand, _)| *in_hand == token) else { continue };
            free.push(self.in_hand.swap_remove(at).1);
            ended += 1;
            match found {
                Ok(verdict) if verdict == Verdict::default() => {}
                Ok(_) => result = result.and(Err(Stop::Failed(Fault::Mismatch))),
                Err(Fault::Declined) => self.declined = true,
                Err(fault) => result = result.and(Err(Stop::Failed(fault))),
            }
        }
        result.map(|()| ended)
    }

    /// Tells the backend to give up; returns whether it has given back all within [`PATIENCE`].
    pub(super) fn give_up(&mut self) -> bool {
        self.backend.abort();
        let until = self.clock.now().after(PATIENCE);
        loop {
            // How it ended does not matter any more.
            let _ = self.reap(&mut Vec::new());
            if self.in_hand.is_empty() {
                return true;
            }
            if self.clock.now() >= until {
                return false;
            }
            self.backend.relax();
        }
    }
}
