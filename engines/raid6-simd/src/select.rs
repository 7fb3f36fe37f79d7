//! How implementations are picked, and the value that holds the choice.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::measure::{self, MeasureError, Shape, Work, WorkingSet};
use crate::table::Routines;
use crate::{Kernel, SelectError, Stores, crc32c, portable};

/// What [`Selection::Measured`] computes P and Q of: one stripe each, which stays in the cache.
const MEASURED_SHAPES: [Shape; 2] =
    [Shape { data_blocks: 8, block_len: 4 << 10 }, Shape { data_blocks: 8, block_len: 64 << 10 }];
/// How long it takes for each of them.
const MEASURED_BUDGET: Duration = Duration::from_millis(4);
/// A preferred implementation wins if it has this share of the best rate: what is less apart than that
/// may well come out the other way round the next time.
const TIE: f64 = 0.97;

/// How implementations are picked. Parsed from `auto`, `measured`, `cycle` or the name of a [`Kernel`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Selection {
    /// The preferred one of those that this CPU can run: the last of [`Kernel::ALL`].
    #[default]
    Auto,
    /// The one that is fastest at P and Q of 8 data blocks, of 4 KiB and of 64 KiB (the geometric mean of
    /// the two) that are in the cache; among those within 3 % of it, the preferred one. Takes about 10
    /// milliseconds and, for as long, 640 KiB of memory. [`Kernel::Naive`] does not take part. If nothing
    /// can be measured the choice is that of [`Selection::Auto`]; [`Kernels::why`] tells.
    Measured,
    /// Always this one.
    Only(Kernel),
    /// Each call takes the next one that this CPU can run, so that tests of code built on this crate
    /// exercise all of them.
    Cycle,
}

impl FromStr for Selection {
    type Err = SelectError;

    fn from_str(name: &str) -> Result<Self, SelectError> {
        match name {
            "auto" => Ok(Selection::Auto),
            "measured" => Ok(Selection::Measured),
            "cycle" => Ok(Selection::Cycle),
            _ => Kernel::ALL
                .into_iter()
                .find(|kernel| kernel.name() == name)
                .map(Selection::Only)
                .ok_or_else(|| SelectError::Unknown { name: name.to_owned() }),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selection::Auto => f.write_str("auto"),
            Selection::Measured => f.write_str("measured"),
            Selection::Only(kernel) => kernel.fmt(f),
            Selection::Cycle => f.write_str("cycle"),
        }
    }
}

/// Why it is these kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Why {
    /// The preferred ones of those that this CPU can run.
    Preferred,
    /// The fastest of those that this CPU can run, or within 3 % of it and preferred.
    Fastest,
    /// As [`Why::Preferred`], because measuring failed.
    NotMeasured(MeasureError),
    /// Asked for by name.
    Named,
    /// All were asked for, in turn.
    Cycle,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Preferred => f.write_str("preferred among those that this CPU can run"),
            Why::Fastest => {
                f.write_str("the fastest in a short measurement, or preferred and within 3 % of it")
            }
            Why::NotMeasured(error) => write!(f, "preferred, for nothing could be measured: {error}"),
            Why::Named => f.write_str("asked for by name"),
            Why::Cycle => f.write_str("each call takes the next of those that this CPU can run"),
        }
    }
}

/// The selected kernels: every operation of this crate is a method of it.
///
/// Selecting looks at the CPU once; a value then proves that the CPU can run what it will call. It can be
/// shared between threads.
#[derive(Debug)]
pub struct Kernels {
    pick: Pick,
    crc: &'static crc32c::Routines,
    why: Why,
    stores: Stores,
}

/// What takes turns in a cycle on its own. Were the turns common to all operations, a caller that makes
/// its calls in a fixed pattern would have the same implementation for the same operation every time.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    Xor,
    XorVal,
    GenP,
    GenPq,
    PqVal,
    PqUpdate,
    MulAdd,
    Locate,
    RecoverByP,
    RecoverFromP,
    RecoverFromQ,
    Crc,
    CopyCrc,
}

impl Turn {
    const COUNT: usize = Turn::CopyCrc as usize + 1;
}

enum Pick {
    Fixed(&'static Routines),
    Cycle { available: Vec<&'static Routines>, turns: [AtomicUsize; Turn::COUNT] },
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pick::Fixed(routines) => write!(f, "{}", routines.kernel),
            Pick::Cycle { available, .. } => write!(f, "cycle of {}", available.len()),
        }
    }
}

impl Default for Kernels {
    fn default() -> Self {
        Kernels::auto()
    }
}

impl Kernels {
    fn new(pick: Pick, why: Why) -> Self {
        let crc = match &pick {
            Pick::Fixed(routines) => crc32c::beside(routines.kernel),
            Pick::Cycle { .. } => crc32c::best(),
        };
        Kernels { pick, crc, why, stores: Stores::default() }
    }

    /// The same kernels with their results stored in this way.
    #[must_use]
    pub fn with_stores(self, stores: Stores) -> Self {
        Kernels { stores, ..self }
    }

    /// Whether results go past the caches.
    #[inline]
    pub(crate) fn streams(&self) -> bool {
        self.stores == Stores::Streaming
    }

    /// The preferred kernels of those that this CPU can run.
    pub fn auto() -> Self {
        Kernels::preferred(Why::Preferred)
    }

    fn preferred(why: Why) -> Self {
        let best = Kernel::ALL.into_iter().rev().find_map(Kernel::routines);
        Kernels::new(Pick::Fixed(best.unwrap_or(&portable::ROUTINES)), why)
    }

    /// Selects kernels; fails if the one asked for cannot run here.
    pub fn select(selection: Selection) -> Result<Self, SelectError> {
        match selection {
            Selection::Auto => Ok(Kernels::auto()),
            Selection::Measured => Ok(match measured() {
                Ok(routines) => Kernels::new(Pick::Fixed(routines), Why::Fastest),
                Err(error) => Kernels::preferred(Why::NotMeasured(error)),
            }),
            Selection::Only(kernel) => kernel
                .routines()
                .map(|routines| Kernels::new(Pick::Fixed(routines), Why::Named))
                .ok_or(SelectError::Missing { kernel }),
            Selection::Cycle => {
                let available = Kernel::ALL.into_iter().filter_map(Kernel::routines).collect();
                let turns = [const { AtomicUsize::new(0) }; Turn::COUNT];
                Ok(Kernels::new(Pick::Cycle { available, turns }, Why::Cycle))
            }
        }
    }

    /// Why it is these.
    pub fn why(&self) -> Why {
        self.why
    }

    /// The kernel that every call uses, or `None` if they cycle.
    pub fn kernel(&self) -> Option<Kernel> {
        match &self.pick {
            Pick::Fixed(routines) => Some(routines.kernel),
            Pick::Cycle { .. } => None,
        }
    }

    /// The implementation of CRC-32C that every call uses, or `None` if they cycle. Each kernel has one
    /// that fits it: `sse42` beside the SSE and AVX2 kernels and the best there is beside those of
    /// AVX-512, if the CPU can run it, else `portable`.
    pub fn crc32c_name(&self) -> Option<&'static str> {
        match &self.pick {
            Pick::Fixed(_) => Some(self.crc.name),
            Pick::Cycle { .. } => None,
        }
    }

    /// The implementation of CRC-32C for the next call of this operation.
    #[inline]
    pub(crate) fn crc(&self, turn: Turn) -> &'static crc32c::Routines {
        match &self.pick {
            Pick::Fixed(_) => self.crc,
            Pick::Cycle { turns, .. } => crc32c::turn(turns[turn as usize].fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// The implementation for the next call of this operation.
    #[inline]
    pub(crate) fn routines(&self, turn: Turn) -> &'static Routines {
        match &self.pick {
            Pick::Fixed(routines) => routines,
            Pick::Cycle { available, turns } => next_turn(available, &turns[turn as usize]),
        }
    }
}

/// The implementation whose turn it is.
#[cold]
fn next_turn(available: &[&'static Routines], next: &AtomicUsize) -> &'static Routines {
    let turn = next.fetch_add(1, Ordering::Relaxed) % available.len().max(1);
    available.get(turn).copied().unwrap_or(&portable::ROUTINES)
}

/// Measures all that this CPU can run, as [`Selection::Measured`] says.
fn measured() -> Result<&'static Routines, MeasureError> {
    let candidates = Kernel::ALL.into_iter().filter(|kernel| *kernel != Kernel::Naive);
    let routines: Vec<_> = candidates.filter_map(Kernel::routines).collect();
    let contestants: Vec<_> =
        routines.iter().map(|routines| Kernels::new(Pick::Fixed(routines), Why::Named)).collect();
    let mut scores = vec![1.0; contestants.len()];
    for shape in MEASURED_SHAPES {
        let mut set = WorkingSet::new(shape, 0)?;
        let rates = measure::rates(&contestants, Work::GenPq, &mut set, MEASURED_BUDGET)?;
        for (score, rate) in scores.iter_mut().zip(rates) {
            *score *= (rate.best as f64).powf(1.0 / MEASURED_SHAPES.len() as f64);
        }
    }
    Ok(winner(&scores).and_then(|i| routines.get(i).copied()).unwrap_or(&portable::ROUTINES))
}

/// The index of the preferred, which is the last, of those scores that are as good as the best.
fn winner(scores: &[f64]) -> Option<usize> {
    let best = scores.iter().copied().fold(0.0, f64::max);
    scores.iter().rposition(|score| *score >= best * TIE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, LostData, Parity, Product, XorMode};

    #[test]
    fn every_selection_parses_from_what_it_displays_as() {
        let named = Kernel::ALL.into_iter().map(Selection::Only);
        for selection in [Selection::Auto, Selection::Measured, Selection::Cycle].into_iter().chain(named) {
            assert_eq!(selection.to_string().parse(), Ok(selection));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_names_that_exist() {
        let error = "avx9".parse::<Selection>().unwrap_err().to_string();
        for kernel in Kernel::ALL {
            assert!(error.contains(kernel.name()), "{error}");
        }
        assert!("".parse::<Selection>().is_err());
    }

    #[test]
    fn cycling_takes_turns_over_all_that_are_available_for_each_operation() {
        let kernels = Kernels::select(Selection::Cycle).unwrap();
        let available: Vec<_> = Kernel::ALL.into_iter().filter(|k| k.is_available()).collect();
        for round in 0..3 {
            for kernel in &available {
                for turn in [Turn::Xor, Turn::GenPq, Turn::RecoverFromQ] {
                    assert_eq!(kernels.routines(turn).kernel, *kernel, "round {round}");
                }
            }
        }
    }

    /// A call that took two turns, or one of another operation, would leave implementations out for good.
    #[test]
    fn every_operation_takes_one_turn_of_its_own() {
        use Turn::*;
        let kernels = Kernels::select(Selection::Cycle).unwrap();
        let (data, change) = ([Some(&[1u8; 9][..]), None], Change { exponent: 0, old: None, new: None });
        let term = Product { coefficient: 3, block: &[1; 9] };
        let (mut p, mut q, mut x) = ([0u8; 9], [0u8; 9], [0u8; 9]);
        let mut expected = [0; Turn::COUNT];
        let mut taken = |turn: Turn| {
            expected[turn as usize] += 1;
            let Pick::Cycle { turns, .. } = &kernels.pick else { unreachable!("it was asked to cycle") };
            assert_eq!(turns.each_ref().map(|turn| turn.load(Ordering::Relaxed)), expected);
        };
        kernels.xor(&data, &mut p, XorMode::Overwrite).unwrap();
        taken(Xor);
        kernels.xor_val(&data).unwrap();
        taken(XorVal);
        kernels.gen_pq(&data, Some(&mut p), Some(&mut q)).unwrap();
        taken(GenPq);
        kernels.gen_pq(&data, Some(&mut p), None).unwrap();
        taken(GenP);
        kernels.pq_val(&data, Some(&p), Some(&q)).unwrap();
        taken(PqVal);
        kernels.pq_update(&[change], Some(&mut p), Some(&mut q)).unwrap();
        taken(PqUpdate);
        kernels.gf_mul_add(&[term], &mut p).unwrap();
        taken(MulAdd);
        kernels.locate(&data, &p, &q).unwrap();
        taken(Locate);
        for (p, q, turn) in [
            (Parity::Good(&p), Parity::Absent, RecoverByP),
            (Parity::Absent, Parity::Good(&q), RecoverFromP),
            (Parity::Good(&p), Parity::Lost(&mut [0; 9]), RecoverFromQ),
        ] {
            kernels.recover(&data, &mut [LostData { exponent: 1, out: &mut x }], p, q).unwrap();
            taken(turn);
        }
        kernels.recover(&data, &mut [], Parity::Lost(&mut p), Parity::Lost(&mut q)).unwrap();
        taken(GenPq);
        kernels.crc32c(0, &x);
        taken(Crc);
        kernels.copy_crc32c(0, &x, &mut p).unwrap();
        taken(CopyCrc);
    }

    #[test]
    fn auto_is_the_last_available_of_the_table() {
        let best = Kernel::ALL.into_iter().rfind(|k| k.is_available());
        assert_eq!(Kernels::auto().kernel(), best);
    }

    #[test]
    fn the_preferred_wins_unless_another_is_clearly_faster() {
        for (scores, index) in [
            (&[5.0, 80.0, 90.0][..], Some(2)),
            (&[5.0, 90.0, 80.0], Some(1)),
            (&[5.0, 90.0, 88.0], Some(2)),
            (&[90.0, 90.0, 87.0], Some(1)),
            (&[7.0], Some(0)),
            (&[], None),
        ] {
            assert_eq!(winner(scores), index, "{scores:?}");
        }
    }

    #[test]
    fn a_measurement_takes_one_that_runs_but_not_the_naive_one() {
        let kernels = Kernels::select(Selection::Measured).unwrap();
        assert!(matches!(kernels.why(), Why::Fastest), "{}", kernels.why());
        let kernel = kernels.kernel().unwrap();
        assert!(kernel.is_available() && kernel != Kernel::Naive, "{kernel}");
    }

    #[test]
    fn kernels_know_why_they_were_taken() {
        assert_eq!(Kernels::auto().why(), Why::Preferred);
        assert_eq!(Kernels::select(Selection::Only(Kernel::Portable)).unwrap().why(), Why::Named);
        assert_eq!(Kernels::select(Selection::Cycle).unwrap().why(), Why::Cycle);
        let error = MeasureError::Memory { bytes: 655_360 };
        assert!(Why::NotMeasured(error).to_string().contains("no 655360 bytes"));
    }
}
