//! Random DAGs on random devices that misbehave at random: memory and verdicts have to be those of the CPU
//! alone, nothing is written after its chain ended, every credit comes back, nobody waits for ever.
//!
//! `URAID_DAGS` says how many DAGs (100,000 by default, some ten seconds). A case that fails is made smaller and printed with
//! its seed; `URAID_DAGS_SEED` runs that one again. Everything is made from the seed: the chains, the
//! devices and their faults, when the caller polls and issues; time is that of a clock which moves, and lets
//! the devices move, each time that it is read.

#![cfg(test)]

#[path = "../device/mod.rs"]
mod device;

mod case;
mod coverage;
mod node;
mod run;
mod shrink;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use case::Case;
use coverage::Coverage;

/// From so many DAGs on each path has to be taken at least once.
const COVERED_FROM: u64 = 5_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

/// Runs a case; what went wrong, a panic included.
pub(crate) fn attempt(case: &Case) -> Result<Coverage, String> {
    catch_unwind(AssertUnwindSafe(|| run::run(case))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

fn fail(seed: u64, what: &str) -> ! {
    let (smallest, what) = shrink::shrink(Case::random(seed), what.to_owned());
    panic!("{what}\nURAID_DAGS_SEED={seed} gives it again. Made smaller:\n{smallest:#?}");
}

#[test]
fn random_dags_on_devices_that_misbehave_give_what_the_cpu_gives() {
    if let Some(seed) = variable("URAID_DAGS_SEED") {
        return match attempt(&Case::random(seed)) {
            Ok(coverage) => println!("seed {seed} passes:\n{coverage}"),
            Err(what) => fail(seed, &what),
        };
    }
    let wanted = variable("URAID_DAGS").unwrap_or(100_000);
    let (dags, next) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Option<(u64, String)>> = Mutex::new(None);
    let total = Mutex::new(Coverage::default());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while dags.load(Ordering::Relaxed) < wanted && failed.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let case = Case::random(seed);
                    dags.fetch_add(case.dags() as u64, Ordering::Relaxed);
                    match attempt(&case) {
                        Ok(coverage) => total.lock().unwrap().add(&coverage),
                        Err(what) => *failed.lock().unwrap() = Some((seed, what)),
                    }
                }
            });
        }
    });
    if let Some((seed, what)) = failed.into_inner().unwrap() {
        fail(seed, &what);
    }
    let (dags, total) = (dags.into_inner(), total.into_inner().unwrap());
    println!("{dags} DAGs in {:.1} s:\n{total}", begun.elapsed().as_secs_f64());
    if dags >= COVERED_FROM {
        let missing = total.missing();
        assert!(missing.is_empty(), "never taken in {dags} DAGs: {missing:?}\n{total}");
    }
}
