//! Measuring: how fast the implementations are on this machine, on blocks of a given shape in a working
//! set of a given size.
//!
//! ```
//! use std::time::Duration;
//! use raid6_simd::measure::{Shape, Work, WorkingSet, rates};
//! use raid6_simd::{Kernel, Kernels, Selection};
//!
//! let contestants = [Kernels::auto(), Kernels::select(Selection::Only(Kernel::Portable))?];
//! let mut hot = WorkingSet::new(Shape { data_blocks: 8, block_len: 4096 }, 0)?;
//! let rates = rates(&contestants, Work::GenPq, &mut hot, Duration::from_millis(1))?;
//! println!("{} times portable", rates[0].best as f64 / rates[1].best as f64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A working set is a run of stripes in one piece of memory, and calls walk over it in a circle: with
//! one stripe it stays in the cache that the stripe fits, with as many as are larger than the last-level
//! cache every block comes from memory. The size of the set is the first thing to say about any number
//! measured on it.
//!
//! Contestants take short turns over one and the same set, many rounds of them, and the best turn of
//! each counts: what takes the CPU away, or slows it down, for longer than a turn then hits all of them
//! or is left out, and does not decide who is faster.
//!
//! What it promises: no panic, whatever the clock does; every contestant has eight turns however long
//! they take, and beyond that the budget is kept. What it leaves to others: pinning the thread, and an
//! idle machine.

mod walk;

use std::fmt;
use std::time::{Duration, Instant};

use self::walk::Walk;
use crate::{Error, Kernels, SOURCES_MAX};

/// Blocks begin at multiples of this in memory, as they do in a cache of pages.
const ALIGNMENT: usize = 4096;
/// How long a turn takes at most: long against the clock's resolution and the change of contestants,
/// short against a time slice of the operating system.
const TURN: Duration = Duration::from_micros(100);
/// As many rounds are to fit the budget; turns get shorter for it.
const ROUNDS_WANTED: u32 = 16;
/// Fewer rounds are not played, even if something else takes the CPU for all of the budget.
const ROUNDS_MIN: usize = 8;
/// More rounds are not played however large the budget is, so that a clock that stops meanwhile ends it.
const ROUNDS_MAX: usize = 10_000;
/// More calls are not made in a turn, for the same reason.
const CALLS_MAX: u32 = 1 << 16;
/// If so many calls take no time at all, the clock stands still.
const CALLS_NOTICED: u32 = 1 << 12;

/// An operation to measure. Rates are of data bytes: those of all data blocks of a stripe, lost ones
/// included, and for [`Work::Update`] those of the one block that changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Work {
    /// [`Kernels::gen_pq`] with P and Q wanted.
    GenPq,
    /// [`Kernels::xor`] of the data blocks, which is P alone.
    Xor,
    /// [`Kernels::pq_val`] of P and Q that are right, so that all is read.
    CheckPq,
    /// [`Kernels::recover`] of two data blocks, from the others, P and Q.
    RecoverTwo,
    /// [`Kernels::pq_update`] of P and Q for one block that changed.
    Update,
}

impl Work {
    /// All that can be measured.
    pub const ALL: [Work; 5] = [Work::GenPq, Work::Xor, Work::CheckPq, Work::RecoverTwo, Work::Update];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Work::GenPq => "gen_pq",
            Work::Xor => "xor",
            Work::CheckPq => "check_pq",
            Work::RecoverTwo => "recover_two",
            Work::Update => "update",
        }
    }

    /// Blocks that a call touches.
    fn blocks(self, shape: Shape) -> usize {
        match self {
            Work::GenPq | Work::CheckPq | Work::RecoverTwo => shape.blocks(),
            Work::Xor => shape.data_blocks.saturating_add(1),
            // Old data, new data, P and Q.
            Work::Update => 4,
        }
    }

    /// Data bytes that a call counts for.
    fn data_bytes(self, shape: Shape) -> usize {
        match self {
            Work::Update => shape.block_len,
            _ => shape.data_blocks.saturating_mul(shape.block_len),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a stripe is: so many data blocks, and P and Q.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    /// 2 to 255.
    pub data_blocks: usize,
    /// In bytes, at least 1.
    pub block_len: usize,
}

impl Shape {
    fn blocks(self) -> usize {
        self.data_blocks.saturating_add(2)
    }

    /// The bytes of a stripe, P and Q included.
    pub fn stripe_bytes(self) -> usize {
        self.blocks().saturating_mul(self.block_len)
    }
}

/// Why nothing was measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MeasureError {
    /// A stripe has 2 to 255 data blocks of at least one byte.
    Shape(Shape),
    /// There is not so much memory.
    Memory {
        /// The bytes asked for.
        bytes: usize,
    },
    /// The clock does not advance.
    Clock,
    /// Parity that was just computed is not the parity of its data: the machine, or this crate, is broken.
    Wrong,
    /// The operation was refused, which no shape is a reason for.
    Refused(Error),
}

impl fmt::Display for MeasureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MeasureError::Shape(Shape { data_blocks, block_len }) => write!(
                f,
                "nothing can be measured on stripes of {data_blocks} data blocks of {block_len} bytes; it \
                 takes 2 to {SOURCES_MAX} of at least one byte"
            ),
            MeasureError::Memory { bytes } => write!(f, "there are no {bytes} bytes of memory to measure in"),
            MeasureError::Clock => f.write_str("the clock does not advance"),
            MeasureError::Wrong => f.write_str("parity that was just computed was then found wrong"),
            MeasureError::Refused(error) => write!(f, "an operation was refused: {error}"),
        }
    }
}

impl std::error::Error for MeasureError {}

impl From<Error> for MeasureError {
    fn from(error: Error) -> Self {
        MeasureError::Refused(error)
    }
}

/// The memory that is computed over.
pub struct WorkingSet {
    shape: Shape,
    memory: Vec<u8>,
    /// Where in `memory` the first aligned byte is.
    start: usize,
    /// The bytes from there on that are in use: whole stripes.
    bytes: usize,
}

impl fmt::Debug for WorkingSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkingSet").field("shape", &self.shape).field("bytes", &self.bytes).finish()
    }
}

impl WorkingSet {
    /// As many stripes of this shape as fit `bytes`, and at least one. The memory is touched, so it is
    /// there. It begins at a multiple of 4096.
    ///
    /// Errors: [`MeasureError::Shape`] and [`MeasureError::Memory`].
    pub fn new(shape: Shape, bytes: usize) -> Result<Self, MeasureError> {
        if !(2..=SOURCES_MAX).contains(&shape.data_blocks) || shape.block_len == 0 {
            return Err(MeasureError::Shape(shape));
        }
        let stripe = shape.stripe_bytes();
        let bytes = (bytes / stripe).max(1).saturating_mul(stripe);
        let allocated = bytes.saturating_add(ALIGNMENT);
        let mut memory = Vec::new();
        memory.try_reserve_exact(allocated).map_err(|_| MeasureError::Memory { bytes })?;
        // Not zero: pages of zeroes could all be one and the same.
        memory.resize(allocated, 0x5a);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(WorkingSet { shape, memory, start, bytes })
    }

    /// The bytes that are computed over, P and Q included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The shape of its stripes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// All of it, cut into what a call of `work` touches.
    fn walk(&mut self, work: Work) -> Result<Walk<'_>, MeasureError> {
        let end = self.start.saturating_add(self.bytes);
        Walk::new(self.memory.get_mut(self.start..end).unwrap_or_default(), self.shape, work)
    }
}

/// How fast a contestant was.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    /// Data bytes a second in the best turn.
    pub best: u64,
    /// In the middle one.
    pub median: u64,
    /// How many turns there were.
    pub turns: usize,
}

/// The rates of `work` over the set, one for each contestant and in their order. They take turns for as
/// long as `budget`, and eight at least. What the blocks hold is changed.
///
/// Errors: [`MeasureError::Clock`], [`MeasureError::Wrong`], and [`MeasureError::Memory`] for the lists of
/// blocks, which may be longer than the set where blocks are tiny.
pub fn rates(
    contestants: &[Kernels],
    work: Work,
    set: &mut WorkingSet,
    budget: Duration,
) -> Result<Vec<Rate>, MeasureError> {
    let data_bytes = work.data_bytes(set.shape);
    if work == Work::CheckPq {
        let mut generate = set.walk(Work::GenPq)?;
        let stripes = u32::try_from(generate.len()).unwrap_or(u32::MAX);
        generate.run(&Kernels::auto(), stripes)?;
    }
    let mut walk = set.walk(work)?;
    let start = Instant::now();
    let wanted = u32::try_from(contestants.len()).unwrap_or(u32::MAX).saturating_mul(ROUNDS_WANTED);
    let turn = budget.checked_div(wanted).unwrap_or(TURN).min(TURN);
    let mut entries = Vec::with_capacity(contestants.len());
    for kernels in contestants {
        let calls = calls_of(turn, |calls| time(kernels, &mut walk, calls))?;
        entries.push(Entry { kernels, calls, rates: Vec::new() });
    }
    for round in 1..=ROUNDS_MAX {
        for entry in &mut entries {
            let elapsed = time(entry.kernels, &mut walk, entry.calls)?;
            entry.rates.extend(bytes_per_second(data_bytes, entry.calls, elapsed));
        }
        if round >= ROUNDS_MIN {
            if entries.iter().any(|entry| entry.rates.is_empty()) {
                return Err(MeasureError::Clock);
            }
            if start.elapsed() >= budget {
                break;
            }
        }
    }
    entries.into_iter().map(|entry| summary(entry.rates).ok_or(MeasureError::Clock)).collect()
}

/// A contestant, the calls that fill its turn, and its rates so far.
struct Entry<'a> {
    kernels: &'a Kernels,
    calls: u32,
    rates: Vec<u64>,
}

/// How many calls take as long as `turn`, found by doubling them. The shorter of two tries counts: one
/// that was interrupted would leave turns too short for the clock, and the contestant slow.
fn calls_of(
    turn: Duration,
    mut time: impl FnMut(u32) -> Result<Duration, MeasureError>,
) -> Result<u32, MeasureError> {
    let mut calls = 1;
    while calls < CALLS_MAX {
        let first = time(calls)?;
        if first >= turn && time(calls)? >= turn {
            break;
        }
        if first.is_zero() && calls >= CALLS_NOTICED {
            return Err(MeasureError::Clock);
        }
        calls *= 2;
    }
    Ok(calls)
}

fn time(kernels: &Kernels, walk: &mut Walk<'_>, calls: u32) -> Result<Duration, MeasureError> {
    let start = Instant::now();
    walk.run(kernels, calls)?;
    Ok(start.elapsed())
}

/// None if no time has passed, as the clock has it.
fn bytes_per_second(data_bytes: usize, calls: u32, elapsed: Duration) -> Option<u64> {
    let bytes = (data_bytes as u128).saturating_mul(calls.into()).saturating_mul(1_000_000_000);
    bytes.checked_div(elapsed.as_nanos()).map(|rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

/// None of no turns.
fn summary(mut rates: Vec<u64>) -> Option<Rate> {
    rates.sort_unstable();
    Some(Rate { best: *rates.last()?, median: *rates.get(rates.len() / 2)?, turns: rates.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, Selection};

    const SMALL: Shape = Shape { data_blocks: 4, block_len: 512 };

    fn all() -> Vec<Kernels> {
        let available = Kernel::ALL.into_iter().filter(|kernel| kernel.is_available());
        available.map(|kernel| Kernels::select(Selection::Only(kernel)).unwrap()).collect()
    }

    #[test]
    fn a_clock_that_stands_still_is_an_error_and_not_a_long_wait() {
        let mut made = 0u64;
        let frozen = calls_of(TURN, |calls| {
            made += u64::from(calls);
            Ok(Duration::ZERO)
        });
        assert_eq!(frozen, Err(MeasureError::Clock));
        assert!(made < 10_000, "{made} calls");
    }

    #[test]
    fn every_implementation_has_a_rate_for_every_work() {
        let contestants = all();
        for bytes in [0, 100_000] {
            let mut set = WorkingSet::new(SMALL, bytes).unwrap();
            for work in Work::ALL {
                let rates = rates(&contestants, work, &mut set, Duration::from_millis(2)).unwrap();
                assert_eq!(rates.len(), contestants.len());
                assert!(rates.iter().all(|rate| rate.best >= rate.median && rate.median > 0), "{rates:?}");
            }
        }
    }

    #[test]
    fn without_a_budget_each_has_its_turns() {
        let mut set = WorkingSet::new(SMALL, 0).unwrap();
        for rate in rates(&all(), Work::GenPq, &mut set, Duration::ZERO).unwrap() {
            assert_eq!(rate.turns, ROUNDS_MIN);
        }
        assert_eq!(rates(&[], Work::GenPq, &mut set, Duration::from_secs(1)).unwrap(), []);
    }

    #[test]
    fn a_set_is_of_whole_stripes_and_at_least_one() {
        for (bytes, expected) in [(0, 3072), (3071, 3072), (3072, 3072), (7000, 6144)] {
            assert_eq!(WorkingSet::new(SMALL, bytes).unwrap().bytes(), expected, "{bytes}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (data_blocks, block_len) in [(0, 1), (1, 4096), (256, 4096), (8, 0)] {
            let shape = Shape { data_blocks, block_len };
            assert_eq!(WorkingSet::new(shape, 0).unwrap_err(), MeasureError::Shape(shape));
        }
        for (block_len, bytes) in
            [(usize::MAX, 0), (usize::MAX / 4, 1), (4096, usize::MAX), (4096, usize::MAX / 2)]
        {
            let refused = WorkingSet::new(Shape { data_blocks: 2, block_len }, bytes).unwrap_err();
            assert!(matches!(refused, MeasureError::Memory { .. }), "{refused:?}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_gives_no_rate() {
        assert_eq!(bytes_per_second(4096, 7, Duration::ZERO), None);
        assert_eq!(summary(Vec::new()), None);
        assert_eq!(bytes_per_second(4096, 2, Duration::from_micros(4)), Some(2_048_000_000));
        assert_eq!(bytes_per_second(usize::MAX, u32::MAX, Duration::from_nanos(1)), Some(u64::MAX));
    }
}
