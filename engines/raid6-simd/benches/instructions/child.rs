//! The child: makes the calls whose instructions are counted. It does not know the counts.

use raid6_simd::{Kernels, Selection};

use crate::Result;
use crate::cases::Case;
use crate::pool::Pool;
use crate::work::Stripe;

/// The name of the function in which callgrind collects.
pub(crate) const MEASURED: &str = "raid6_simd_measured_call";

/// The signal by which the child tells its tracer that a call begins or has ended.
pub(crate) const MARK: libc::c_int = libc::SIGUSR1;

/// Who counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Callgrind, which knows the function by its name.
    Callgrind,
    /// A tracer, which takes the marks.
    Traced,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Callgrind, Kind::Traced];

    /// The first argument of a child.
    pub(crate) fn arg(self) -> &'static str {
        match self {
            Kind::Callgrind => "--child-of-callgrind",
            Kind::Traced => "--child-of-tracer",
        }
    }

    pub(crate) fn from_arg(arg: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.arg() == arg)
    }
}

/// Makes the calls with these names that the CPU (which may be Valgrind's) can run, after an empty one, and
/// prints the names.
pub(crate) fn run(kind: Kind, ids: &[String]) -> Result<()> {
    let mut pool = Pool::new(0);
    marked(kind, None, &Kernels::auto());
    for case in Case::all(&[]) {
        let id = case.id();
        if ids.contains(&id) {
            make(&case, &mut pool, |stripe, kernels| {
                stripe.call(kernels) && marked(kind, Some(stripe), kernels)
            })?;
            println!("{id}");
        }
    }
    Ok(())
}

/// Makes every call once.
pub(crate) fn once(cases: &[Case]) -> Result<()> {
    let mut pool = Pool::new(0);
    cases.iter().try_for_each(|case| make(case, &mut pool, |stripe, kernels| stripe.call(kernels)))
}

/// Makes the stripe of a case, and with it `calls`, which says whether they gave what they should.
fn make(case: &Case, pool: &mut Pool, calls: impl FnOnce(&mut Stripe<'_>, &Kernels) -> bool) -> Result<()> {
    let kernels = Kernels::select(Selection::Only(case.kernel)).map_err(|error| error.to_string())?;
    let bytes = case.operation.stripe_bytes(case.shape);
    if pool.bytes().len() < bytes {
        *pool = Pool::new(bytes);
    }
    let memory = pool.bytes().get_mut(..bytes).unwrap_or_default();
    let mut stripes = Stripe::cut_all(case.operation, case.shape, memory);
    let right = stripes.first_mut().is_some_and(|stripe| calls(stripe, &kernels));
    if right { Ok(()) } else { Err(format!("{} gave a wrong result", case.id())) }
}

/// What is measured, between marks. Not inlined, so that the way from mark to mark is one and the same for
/// the empty call and all others.
#[inline(never)]
fn marked(kind: Kind, stripe: Option<&mut Stripe<'_>>, kernels: &Kernels) -> bool {
    mark(kind);
    let right = raid6_simd_measured_call(stripe, kernels);
    mark(kind);
    right
}

fn mark(kind: Kind) {
    if kind == Kind::Traced {
        // SAFETY: a signal to this thread, which the tracer takes so that it is never delivered.
        unsafe { libc::raise(MARK) };
    }
}

/// What is counted, or nothing, to be subtracted.
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
#[inline(never)]
fn raid6_simd_measured_call(stripe: Option<&mut Stripe<'_>>, kernels: &Kernels) -> bool {
    stripe.is_none_or(|stripe| stripe.call(kernels))
}
