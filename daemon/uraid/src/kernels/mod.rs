//! `uraid kernels`: which parity kernels there are, which of them this machine can run, which are taken
//! and why, and how fast they are.
//!
//! `host` asks the system about the CPU, its caches and free memory, `sets` decides over how much memory
//! to measure, `report` is the answer and its JSON, `text` the same for people. Nothing but this
//! process's own memory is touched, and no daemon is talked to: one that runs says in its log what it
//! took.

mod host;
mod report;
mod sets;
mod text;

use std::time::Duration;

use raid6_simd::measure::{MeasureError, Shape, Work, WorkingSet, rates};
use raid6_simd::{Kernel, Kernels, Selection, cpu_features};

use self::report::{
    Cpu, FeatureReport, KernelChoice, KernelReport, KernelsReport, RateReport, Table, why_word,
};
use self::sets::SetPlan;
use crate::cli::KernelsArgs;
use crate::failure::Failure;
use crate::out;

/// Stripes of a common width. Blocks of this length leave a stripe in the second-level cache of every
/// CPU that uraid is likely to meet.
const SHAPE: Shape = Shape { data_blocks: 8, block_len: 16 << 10 };
/// How long one operation is measured on one working set, all kernels together.
const BUDGET: Duration = Duration::from_millis(200);
/// The same with `--quick`.
const BUDGET_QUICK: Duration = Duration::from_millis(20);

/// Looks, measures and prints.
///
/// # Errors
/// The kernel of `--kernel` cannot run here, or one that runs gives wrong results.
pub fn run(args: &KernelsArgs) -> Result<(), Failure> {
    let choices = match args.kernel {
        Some(selection) => vec![choice(selection)?],
        None => vec![choice(Selection::Auto)?, choice(Selection::Measured)?],
    };
    let cpu = Cpu {
        architecture: std::env::consts::ARCH,
        model: host::cpu_model(),
        features: cpu_features().into_iter().map(FeatureReport::from).collect(),
        caches: host::caches(),
    };
    let plans = sets::plan(SHAPE.stripe_bytes() as u64, &cpu.caches, host::free_memory(), args.quick);
    let contestants = contestants()?;
    let budget = if args.quick { BUDGET_QUICK } else { BUDGET };
    let measurements =
        plans.into_iter().map(|plan| table(plan, &contestants, budget)).collect::<Result<_, _>>()?;
    let kernels = Kernel::ALL.into_iter().map(KernelReport::from).collect();
    let optimised = !cfg!(debug_assertions);
    let report = KernelsReport { version: 1, cpu, kernels, choices, optimised, measurements };
    if args.json { out::print(&(report.to_json()? + "\n")) } else { out::print(&text::kernels(&report)) }
}

/// What a word of the configuration would take.
fn choice(selection: Selection) -> Result<KernelChoice, Failure> {
    let kernels = Kernels::select(selection).map_err(Failure::operating)?;
    Ok(KernelChoice {
        selection: selection.to_string(),
        kernel: kernels.kernel().map(Kernel::name),
        crc32c: kernels.crc32c_name(),
        why: why_word(kernels.why()),
        message: kernels.why().to_string(),
    })
}

/// All that run here and are meant to be fast.
fn contestants() -> Result<Vec<Kernels>, Failure> {
    let runs = |kernel: &Kernel| *kernel != Kernel::Naive && kernel.is_available();
    let select = |kernel| Kernels::select(Selection::Only(kernel)).map_err(Failure::operating);
    Kernel::ALL.into_iter().filter(runs).map(select).collect()
}

/// Measures all operations on one working set.
fn table(plan: SetPlan, contestants: &[Kernels], budget: Duration) -> Result<Table, Failure> {
    let empty = |bytes, skipped| Table {
        set: plan.set,
        working_set_bytes: bytes,
        data_blocks: SHAPE.data_blocks,
        block_bytes: SHAPE.block_len,
        skipped,
        rates: Vec::new(),
    };
    let bytes = match plan.bytes {
        Ok(bytes) => bytes,
        Err(reason) => return Ok(empty(None, Some(reason))),
    };
    let measured = measure(bytes, contestants, budget);
    match measured {
        Ok((bytes, rates)) => Ok(Table { rates, ..empty(Some(bytes as u64), None) }),
        Err(error @ (MeasureError::Memory { .. } | MeasureError::Clock)) => {
            Ok(empty(None, Some(error.to_string())))
        }
        Err(error) => Err(Failure::operating(format!("the parity kernels cannot be relied on: {error}"))),
    }
}

/// The rates, by operation and kernel, and the bytes that they were measured on.
fn measure(
    bytes: u64,
    contestants: &[Kernels],
    budget: Duration,
) -> Result<(usize, Vec<RateReport>), MeasureError> {
    let mut set = WorkingSet::new(SHAPE, usize::try_from(bytes).unwrap_or(usize::MAX))?;
    let mut reports = Vec::new();
    for work in Work::ALL {
        let names = contestants.iter().filter_map(Kernels::kernel).map(Kernel::name);
        for (kernel, rate) in names.zip(rates(contestants, work, &mut set, budget)?) {
            reports.push(RateReport {
                kernel,
                work: work.name(),
                bytes_per_second: rate.best,
                median_bytes_per_second: rate.median,
            });
        }
    }
    Ok((set.bytes(), reports))
}
