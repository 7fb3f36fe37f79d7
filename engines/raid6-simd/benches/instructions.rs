//! Counts the instructions of every operation of every implementation. A count says less than a time, but
//! it is the same on a busy machine as on an idle one, and a change of one percent shows.
//!
//! ```text
//! cargo bench -p raid6-simd --bench instructions                       # all, beside the baseline
//! cargo bench -p raid6-simd --bench instructions -- --check pq/        # status 1 if some case grew by > 3 %
//! cargo bench -p raid6-simd --bench instructions -- --save             # what is counted becomes the baseline
//! cargo bench -p raid6-simd --bench instructions -- --by both avx2/    # both ways of counting side by side
//! ```
//!
//! Started without `--bench` (which `cargo bench` adds) it makes every call once, checks the results and
//! counts nothing. `--help` lists the options.
//!
//! # What is counted
//! One call of the public API on blocks of 4 KiB, with the choice of the operation and the making of its
//! arguments (some tens of instructions); results are stored into the caches. The baseline,
//! `instructions/baseline.json`, holds for the compiler that it names: another one may give other counts,
//! which is why nothing runs this in CI.
//!
//! # How
//! The bench runs itself as a child, which makes every call once to warm up and once more through one
//! function that is not inlined. Its instructions are counted in one of two ways, and those of the same
//! function without a call are subtracted.
//!
//! - By callgrind, which collects only inside that function and writes a file at every return from it.
//! - By single steps: the parent traces the child and counts its stops between two signals around the
//!   function. Valgrind's CPU has neither AVX-512 nor GFNI, so the implementations that need them are
//!   counted in this way; without valgrind all are. It takes a few microseconds an instruction.
//!
//! On what both can count they agree to the instruction, but for a few where libc takes another `memcpy` on
//! Valgrind's CPU (`--by both`). A library for callgrind benches would bring a runner to be installed
//! apart, in the same version, and know the first way only; the two need about as much code as its glue.

#[path = "instructions/baseline.rs"]
mod baseline;
#[path = "instructions/callgrind.rs"]
mod callgrind;
#[path = "instructions/cases.rs"]
mod cases;
#[path = "instructions/child.rs"]
mod child;
#[path = "instructions/options.rs"]
mod options;
#[path = "kernels/pool.rs"]
mod pool;
#[path = "instructions/report.rs"]
mod report;
#[path = "instructions/step.rs"]
mod step;
#[path = "kernels/work.rs"]
mod work;

use std::collections::BTreeSet;
use std::process::ExitCode;

use baseline::Baseline;
use cases::Case;
use options::{By, Mode, Options};
use raid6_simd::Kernel;
use report::Counts;

/// What stops the bench: a sentence for its user.
pub(crate) type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(message) => {
            eprintln!("instructions: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1).peekable();
    if let Some(kind) = args.peek().and_then(|arg| child::Kind::from_arg(arg)) {
        return child::run(kind, &args.skip(1).collect::<Vec<_>>()).map(|()| ExitCode::SUCCESS);
    }
    let options = Options::parse(args)?;
    match options.mode {
        Mode::Help => println!("{}", options::HELP),
        Mode::Once => {
            let cases = Case::all(&options.words);
            child::once(&cases)?;
            println!("{} calls gave what they should; nothing was counted (that needs --bench)", cases.len());
        }
        Mode::Count => return count(&options),
    }
    Ok(ExitCode::SUCCESS)
}

fn count(options: &Options) -> Result<ExitCode> {
    let cases = Case::all(&options.words);
    if cases.is_empty() {
        return Err("no case's name has all of these words; names are like pq/avx2/8x4KiB".to_owned());
    }
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !kernel.is_available()) {
        println!("{kernel} is not counted: it needs {}, which this CPU is not", kernel.needs());
    }
    let counts = count_cases(&cases, options.by)?;
    let mut baseline = Baseline::read(&options.baseline)?;
    baseline.compare_compiler();
    let grown = report::print(&cases, &counts, &baseline);
    if options.save {
        baseline.update(&counts);
        baseline.write(&options.baseline)?;
        println!("\nsaved as the baseline: {}", options.baseline.display());
    } else if options.check && !grown.is_empty() {
        println!("\nmore than {} % above the baseline: {}", report::GROWTH_MAX, grown.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts in the ways asked for. A way that is not there is left out with a remark, if another is.
fn count_cases(cases: &[Case], by: By) -> Result<Counts> {
    let mut counts = Counts::default();
    if by != By::Steps {
        match callgrind::count(cases) {
            Ok(found) => {
                counts.callgrind = found;
                remark_on_callgrind(cases, &counts);
            }
            Err(error) if by == By::Callgrind => return Err(error),
            Err(error) => println!("without callgrind: {error}"),
        }
    }
    if by != By::Callgrind {
        let missing = |case: &&Case| by == By::Both || counts.of(case).is_none();
        let to_step: Vec<_> = cases.iter().filter(missing).copied().collect();
        match step::count(&to_step) {
            Ok(found) => counts.steps = found,
            Err(error) => println!("without single steps: {error}"),
        }
    }
    if counts.callgrind.is_empty() && counts.steps.is_empty() {
        return Err("nothing could be counted".to_owned());
    }
    Ok(counts)
}

/// Names the implementations that callgrind's CPU cannot run.
fn remark_on_callgrind(cases: &[Case], counts: &Counts) {
    let not = cases.iter().filter(|case| !counts.callgrind.contains_key(&case.id()));
    let names: BTreeSet<_> = not.map(|case| case.kernel.name()).collect();
    if !names.is_empty() {
        let names: Vec<_> = names.into_iter().collect();
        println!("not under callgrind, whose CPU lacks what they need: {}", names.join(", "));
    }
}
