//! Interleaved rounds.

use std::time::{Duration, Instant};

use crate::Result;
use crate::cell::{Cell, Set};
use crate::contenders::Contender;
use crate::options::Options;

/// GB/s by contender and round.
pub(crate) type Figures = Vec<Vec<f64>>;

/// Where the next run begins, so that a pool is gone through from end to end whoever's turn it is.
struct Cursor {
    stripe: usize,
    step: usize,
    count: usize,
}

impl Cursor {
    fn run(&mut self, contender: &mut Contender<'_>, calls: usize) -> Result<Duration> {
        let start = Instant::now();
        let well = (contender.run)(self.stripe, calls);
        let taken = start.elapsed();
        self.stripe = (self.stripe + calls * self.step) % self.count;
        if well { Ok(taken) } else { Err(format!("{} failed while it was timed", contender.name)) }
    }
}

/// Whose turn it is in a round: everyone's once, after others than in the round before. The orders are the
/// same in every run of the bench.
struct Order {
    indices: Vec<usize>,
    word: u64,
}

impl Order {
    fn new(everyone: usize) -> Self {
        Order { indices: (0..everyone).collect(), word: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Fisher and Yates, by xorshift.
    fn shuffle(&mut self) {
        for last in (1..self.indices.len()).rev() {
            self.word ^= self.word << 13;
            self.word ^= self.word >> 7;
            self.word ^= self.word << 17;
            self.indices.swap(last, (self.word >> 32) as usize % (last + 1));
        }
    }
}

/// Runs every contender in every round.
pub(crate) fn measure(
    contenders: &mut [Contender<'_>],
    cell: &Cell<'_>,
    options: &Options,
) -> Result<Figures> {
    let share = Duration::from_micros(options.micros);
    let step = usize::from(cell.set != Set::Hot);
    let mut cursor = Cursor { stripe: 0, step, count: cell.count };
    // What is in the caches before a run should not depend on who ran before and may have stored past
    // them.
    let warm_up = match cell.set {
        Set::Hot => 2,
        Set::L3 => 2 * cell.count,
        Set::Dram => 1,
    };
    let mut calls = Vec::new();
    for contender in &mut *contenders {
        calls.push(calibrate(&mut cursor, contender, share)?);
    }
    let everyone = contenders.len();
    let mut figures = vec![Vec::new(); everyone];
    let mut order = Order::new(everyone);
    for round in 0..options.rounds {
        cursor.stripe = if cell.set == Set::Hot { round % cell.count } else { cursor.stripe };
        order.shuffle();
        for &index in &order.indices {
            cursor.run(&mut contenders[index], warm_up)?;
            let taken = cursor.run(&mut contenders[index], calls[index])?;
            let bytes = calls[index] * contenders[index].bytes;
            figures[index].push(bytes as f64 / taken.as_nanos().max(1) as f64);
        }
    }
    Ok(figures)
}

/// How many calls take so long.
fn calibrate(cursor: &mut Cursor, contender: &mut Contender<'_>, share: Duration) -> Result<usize> {
    let mut calls = 1;
    loop {
        let taken = cursor.run(contender, calls)?;
        if taken >= share / 2 {
            let wanted = calls as f64 * share.as_secs_f64() / taken.as_secs_f64();
            return Ok((wanted as usize).max(1));
        }
        calls *= 2;
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}
