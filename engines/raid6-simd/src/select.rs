//! How implementations are picked, and the value that holds the choice.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::table::Routines;
use crate::{Kernel, SelectError, Stores, portable};

/// How implementations are picked. Parsed from `auto`, `cycle` or the name of a [`Kernel`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Selection {
    /// The fastest that this CPU can run.
    #[default]
    Auto,
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
            Selection::Only(kernel) => kernel.fmt(f),
            Selection::Cycle => f.write_str("cycle"),
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
    stores: Stores,
}

enum Pick {
    Fixed(&'static Routines),
    Cycle { available: Vec<&'static Routines>, next: AtomicUsize },
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
    fn new(pick: Pick) -> Self {
        Kernels { pick, stores: Stores::default() }
    }

    /// The same kernels with their results stored in this way.
    #[must_use]
    pub fn with_stores(self, stores: Stores) -> Self {
        Kernels { stores, ..self }
    }

    /// Whether results go past the caches.
    pub(crate) fn streams(&self) -> bool {
        self.stores == Stores::Streaming
    }

    /// The fastest kernels that this CPU can run.
    pub fn auto() -> Self {
        let best = Kernel::ALL.into_iter().rev().find_map(Kernel::routines);
        Kernels::new(Pick::Fixed(best.unwrap_or(&portable::ROUTINES)))
    }

    /// Selects kernels; fails if the one asked for cannot run here.
    pub fn select(selection: Selection) -> Result<Self, SelectError> {
        match selection {
            Selection::Auto => Ok(Kernels::auto()),
            Selection::Only(kernel) => kernel
                .routines()
                .map(|routines| Kernels::new(Pick::Fixed(routines)))
                .ok_or(SelectError::Missing { kernel }),
            Selection::Cycle => {
                let available = Kernel::ALL.into_iter().filter_map(Kernel::routines).collect();
                Ok(Kernels::new(Pick::Cycle { available, next: AtomicUsize::new(0) }))
            }
        }
    }

    /// The kernel that every call uses, or `None` if they cycle.
    pub fn kernel(&self) -> Option<Kernel> {
        match &self.pick {
            Pick::Fixed(routines) => Some(routines.kernel),
            Pick::Cycle { .. } => None,
        }
    }

    /// The implementation for the next call.
    pub(crate) fn routines(&self) -> &'static Routines {
        match &self.pick {
            Pick::Fixed(routines) => routines,
            Pick::Cycle { available, next } => {
                let turn = next.fetch_add(1, Ordering::Relaxed) % available.len().max(1);
                available.get(turn).copied().unwrap_or(&portable::ROUTINES)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_selection_parses_from_what_it_displays_as() {
        let named = Kernel::ALL.into_iter().map(Selection::Only);
        for selection in [Selection::Auto, Selection::Cycle].into_iter().chain(named) {
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
    fn cycling_takes_turns_over_all_that_are_available() {
        let kernels = Kernels::select(Selection::Cycle).unwrap();
        let available: Vec<_> = Kernel::ALL.into_iter().filter(|k| k.is_available()).collect();
        for round in 0..3 {
            for kernel in &available {
                assert_eq!(kernels.routines().kernel, *kernel, "round {round}");
            }
        }
    }

    #[test]
    fn auto_is_the_last_available_of_the_table() {
        let best = Kernel::ALL.into_iter().rfind(|k| k.is_available());
        assert_eq!(Kernels::auto().kernel(), best);
    }
}
