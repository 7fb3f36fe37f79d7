//! What a backend is worth: how long it and the CPU take for operations of a few lengths, measured when
//! the backend is added.
//!
//! For each kind that the backend takes and for 4, 16, 64 and 256 KiB, as far as its limits go, there are
//! three times per operation, each the median of a few rounds: on the CPU, on the backend one at a time
//! with a wait for each, and on the backend with its queue kept filled.
//!
//! **The rule.** The threshold of a kind is the smallest length measured from which on, at every length
//! measured, an operation costs less time on the backend with a filled queue than on the CPU; if there is
//! none, the kind is never offloaded. The time with a filled queue counts all that the thread spends on
//! submitting and reaping, and waiting besides, so it is never less than what the offload costs the CPU.
//! Below the shortest length nothing is known, and nothing offloaded.
//!
//! What it promises: it ends soon after its budget ([`PATIENCE`] says how soon), and memory that the
//! backend may still write is never freed. What it leaves to others: applying an operator's
//! [`crate::Policies`], and to quarantine a backend that failed here.

mod arena;
mod bench;

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

use self::arena::{Arena, Operands};
use self::bench::{Bench, Stop};
use crate::backend::{Backend, Inline};
use crate::clock::{Clock, Nanos};
use crate::op::{Op, OpKind};
use crate::route::{Profile, Question};
use crate::thresholds::Thresholds;
use crate::{CheckedOp, Cut, Fault};

/// The lengths that are measured, in bytes.
pub const SIZES: [usize; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];

/// How long nothing may come from a backend that has work, and how long it may take to give back what it
/// has when it is told to. A calibration ends at the latest twice this after its budget.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Rounds whose median counts; one more comes before, to warm up.
const ROUNDS: usize = 5;
/// Operations of a round that are waited for one by one.
const ROUND_TRIPS: usize = 4;

/// Nanoseconds per operation of one kind and length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sample {
    /// Bytes of each block.
    pub len: usize,
    /// On the CPU.
    pub cpu: u64,
    /// On the backend, from submission to completion, with nothing else in its queue.
    pub round_trip: u64,
    /// On the backend with its queue kept filled.
    pub pipelined: u64,
}

impl Sample {
    /// Whether the offload costs less.
    pub const fn pays(&self) -> bool {
        self.pipelined < self.cpu
    }
}

/// What was measured of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The kind.
    pub kind: OpKind,
    /// By length, ascending.
    pub samples: Vec<Sample>,
    /// No length is missing, for want of time or because the backend declined it. Of an incomplete row
    /// there is no threshold.
    pub complete: bool,
}

/// How a calibration ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// All was measured.
    Complete,
    /// The budget was spent before all was measured. For the rest the backend's defaults hold.
    OutOfTime,
    /// There was no memory to measure with; nothing was measured, and the backend's defaults hold.
    NoMemory,
    /// An operation failed. The backend was told to give up and holds nothing; it has to be revived.
    Failed {
        /// Of this kind.
        kind: OpKind,
        /// In this way.
        fault: Fault,
    },
    /// Nothing came from the backend for [`PATIENCE`]. It was told to give up and holds nothing; it has
    /// to be revived.
    TimedOut {
        /// An operation of this kind was waited for.
        kind: OpKind,
    },
    /// As [`Outcome::Failed`] or [`Outcome::TimedOut`], but the backend has not given back all that it
    /// has. The memory is lost to the process, for the device may write it at any time. What still comes
    /// has a token that is nobody's in an [`crate::Engine`], but that a second calibration of the same backend
    /// would give out again: it must not be calibrated or used before it was revived.
    Stuck {
        /// An operation of this kind was the first in trouble.
        kind: OpKind,
    },
}

impl Outcome {
    /// Whether the backend works, as far as was seen.
    pub const fn is_good(self) -> bool {
        matches!(self, Outcome::Complete | Outcome::OutOfTime | Outcome::NoMemory)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Complete => f.write_str("complete"),
            Outcome::OutOfTime => f.write_str("incomplete: the time for it was spent"),
            Outcome::NoMemory => f.write_str("not done: there was no memory for it"),
            Outcome::Failed { kind, fault } => write!(f, "a {} failed: {fault}", kind.word()),
            Outcome::TimedOut { kind } => write!(f, "a {} did not end in time", kind.word()),
            Outcome::Stuck { kind } => {
                write!(f, "a {} was not given back; its memory is lost until a restart", kind.word())
            }
        }
    }
}

/// What a calibration found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Calibration {
    /// What was measured, in the order of the kinds. Kinds that the backend does not take, or not with
    /// any of the operands used here, have no row.
    pub rows: Vec<Row>,
    /// By the rule. Nothing is said of kinds without a complete row. [`Thresholds::NEVER`] if the backend
    /// failed.
    pub thresholds: Thresholds,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Measures `backend`, which has nothing in hand, against `cpu` for about as long as `budget`.
///
/// The time is that of `clock`, and so are the results: the same costs by that clock give the same
/// thresholds. The memory, about 10 MiB, is allocated and touched here.
pub fn calibrate(
    backend: &mut dyn Backend,
    cpu: &mut dyn Inline,
    clock: &dyn Clock,
    budget: Duration,
) -> Calibration {
    let start = clock.now();
    let mut run = Run { profile: Profile::of(backend, Thresholds::default()), rows: Vec::new() };
    let outcome = match Arena::new() {
        None => Outcome::NoMemory,
        Some(arena) => {
            // It is freed only where it is certain that the backend has nothing in hand: not after a panic.
            let arena = ManuallyDrop::new(arena);
            let mut bench = Bench::new(backend, cpu, clock, start.after(budget));
            let outcome = match run.all(&arena, &mut bench) {
                Ok(()) => Outcome::Complete,
                Err((_, Stop::OutOfTime | Stop::Declined)) => Outcome::OutOfTime,
                Err((kind, stop)) if bench.give_up() => match stop {
                    Stop::Failed(fault) => Outcome::Failed { kind, fault },
                    Stop::OutOfTime | Stop::Declined | Stop::TimedOut => Outcome::TimedOut { kind },
                },
                // The device may write the memory for as long as the process lives.
                Err((kind, _)) => Outcome::Stuck { kind },
            };
            if !matches!(outcome, Outcome::Stuck { .. }) {
                drop(ManuallyDrop::into_inner(arena));
            }
            outcome
        }
    };
    let thresholds = if outcome.is_good() { thresholds(&run.rows) } else { Thresholds::NEVER };
    Calibration { rows: run.rows, thresholds, outcome, took: clock.now().since(start) }
}

/// By the rule, of the complete rows.
fn thresholds(rows: &[Row]) -> Thresholds {
    rows.iter()
        .filter(|row| row.complete)
        .fold(Thresholds::default(), |thresholds, row| thresholds.with(row.kind, crossover(&row.samples)))
}

/// The smallest length from which on every sample pays.
fn crossover(samples: &[Sample]) -> usize {
    let paying = samples.iter().rev().take_while(|sample| sample.pays());
    paying.last().map_or(Thresholds::OFF, |sample| sample.len)
}

/// A calibration under way.
struct Run {
    profile: Profile,
    rows: Vec<Row>,
}

impl Run {
    fn all(&mut self, arena: &Arena, bench: &mut Bench<'_>) -> Result<(), (OpKind, Stop)> {
        for kind in OpKind::ALL {
            if kind == OpKind::Notify || !self.profile.caps.has(kind) {
                continue;
            }
            match self.row(kind, arena, bench) {
                Ok(()) | Err(Stop::Declined) => {}
                Err(stop) => return Err((kind, stop)),
            }
        }
        Ok(())
    }

    fn row(&mut self, kind: OpKind, arena: &Arena, bench: &mut Bench<'_>) -> Result<(), Stop> {
        let mut row = Row { kind, samples: Vec::new(), complete: false };
        let limits = self.profile.limits(kind);
        let mut result = Ok(());
        for len in SIZES {
            let Some(operands) = Operands::new(arena, len, limits.sources_max) else { continue };
            let ops = self.ops(kind, &operands, bench);
            if ops.is_empty() {
                continue;
            }
            match bench.sample(len, &ops) {
                Ok(Some(sample)) => row.samples.push(sample),
                Ok(None) => {}
                Err(stop) => {
                    result = Err(stop);
                    break;
                }
            }
        }
        row.complete = result.is_ok();
        if !row.samples.is_empty() {
            self.rows.push(row);
        }
        result
    }

    /// One operation per slot, or none if the backend does not take them whole.
    fn ops<'a>(&self, kind: OpKind, operands: &'a Operands, bench: &Bench<'_>) -> Vec<CheckedOp<'a>> {
        let taken = |op: &Op<'_>| {
            let question = Question::of(op, None);
            let cut = Cut::plan(&question, self.profile.caps, |kind| *self.profile.limits(kind));
            let retriable = !question.in_place || self.profile.limits(kind).keeps_on_fault;
            retriable && cut.is_ok_and(|cut| cut.steps() == 1) && bench.accepts(op)
        };
        let ops = (0..operands.slots()).map_while(|slot| operands.op(kind, slot)?.check().ok());
        ops.take_while(|op| taken(op)).collect()
    }
}

/// The middle of them; of an even number the earlier of the two.
fn median(times: &mut [u64]) -> u64 {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Nanoseconds per operation since `start`.
fn per_op(clock: &dyn Clock, start: Nanos, count: usize) -> u64 {
    let nanos = clock.now().since(start).as_nanos() / count.max(1) as u128;
    u64::try_from(nanos).unwrap_or(u64::MAX)
}
