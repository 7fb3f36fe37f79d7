//! Times this crate beside other libraries, memcpy and loops that only move the bytes: all in one process
//! and interleaved, so that what disturbs one disturbs all. What it prints is meant to be read as ratios.
//!
//! ```text
//! cargo bench -p raid6-simd --bench peers -- --ops pq --sets hot,l3
//! ```
//!
//! Started without `--bench` (which `cargo bench` adds), or with `--test`, it only checks every contender
//! and times nothing. `--help` lists the options.
//!
//! # Work
//! A cell is an operation, a set, a number of data blocks `n` and a block length. Its stripes lie one after
//! the other in one pool, and so do the blocks of a stripe, all on page boundaries, as in a stripe cache
//! made of pages. The set is what a call finds in the caches: `hot` works on one stripe over and over
//! (another one in each round), `l3` cycles over the stripes of 8 MiB, and `dram` over those of 1 GiB.
//! Every contender is first compared with a byte-by-byte reference; one that is wrong is an error. In each
//! round every contender runs for some hundred microseconds, in an order that changes from round to round.
//! A figure is the median over rounds of GB/s of data (`n` blocks a call; the one block for `update`); a
//! ratio is the median of the ratios of single rounds.
//!
//! # Contenders
//! - This crate: what [`raid6_simd::Kernels::auto`] takes, and more by `--kernel`. In `dram` the results of
//!   all these go past the caches, as the documentation of [`raid6_simd::Stores`] says they should.
//! - ISA-L: `libisal.so.2` if the system has it, and libraries with the same functions by `--isal`.
//! - Any peer, by `--peer NAME=PATH:PREFIX`: a shared library that exports some of these functions, each
//!   name after the prefix and an underscore. Blocks begin on page boundaries, and `bytes` is a multiple of
//!   4096.
//!
//!   ```c
//!   void gen(int disks, size_t bytes, void **ptrs);   // ptrs: data 0 to disks-3, P, Q; writes P and Q
//!   void rec2(int disks, size_t bytes, int a, int b, void **ptrs);       // writes data a < b; likewise
//!   void xor(int srcs, size_t bytes, void **ptrs);                // writes ptrs[srcs]
//!   void update(int disks, int index, size_t bytes, void *old_data, void *new_data, void *p, void *q);
//!   ```
//!
//!   The pointers may be changed during the call but are to be restored.
//! - memcpy of as many blocks as the operation writes (GB/s of bytes copied), for a feel of the machine.
//! - The limit: loops that read and write the same blocks with nothing but xor between. The best of all
//!   variants (registers at a time, number of sources known to the compiler or not, non-temporal stores)
//!   counts.

#[path = "peers/cell.rs"]
mod cell;
#[path = "peers/contenders.rs"]
mod contenders;
#[path = "peers/isal.rs"]
mod isal;
#[path = "peers/limits.rs"]
mod limits;
#[path = "peers/memory.rs"]
mod memory;
#[path = "peers/options.rs"]
mod options;
#[path = "peers/ours.rs"]
mod ours;
#[path = "peers/report.rs"]
mod report;
#[path = "peers/simple.rs"]
mod simple;
#[path = "peers/timing.rs"]
mod timing;
#[path = "peers/verify.rs"]
mod verify;

use std::process::ExitCode;

use cell::{Cell, Op};
use contenders::Field;
use memory::Pool;
use options::{Mode, Options};
use report::Report;

/// What stops the bench: a sentence for its user.
pub(crate) type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("peers: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.mode == Mode::Help {
        println!("{}", options::HELP);
        return Ok(());
    }
    let field = Field::open(&options)?;
    for line in field.description() {
        println!("{line}");
    }
    println!("{}", report::LEGEND);
    verify::all(&field, &options)?;
    if options.mode == Mode::Check {
        println!("every contender gives the right bytes; nothing was timed (that needs --bench)");
        return Ok(());
    }
    let mut room = 0;
    for (n, len) in options.sizes() {
        for &set in &options.sets {
            let ops = options.ops.iter();
            room = ops.map(|&op| cell::room(op, n, len, set)).fold(room, usize::max);
        }
    }
    let pool = Pool::new(room)?;
    let mut report = Report::default();
    for &set in &options.sets {
        for &op in &options.ops {
            for (n, len) in options.sizes() {
                let cell = Cell::new(op, n, len, set, &pool)?;
                prepare(&cell)?;
                let mut contenders = field.bind(&cell);
                let figures = timing::measure(&mut contenders, &cell, &options)?;
                report.add(&cell, &contenders, figures);
            }
            report.print_table(op, set);
        }
    }
    report.print_summary();
    options.json.as_deref().map_or(Ok(()), |path| report.write_json(path))
}

/// Gives the stripes right parity where the operation expects it.
fn prepare(cell: &Cell<'_>) -> Result<()> {
    let fill = match cell.op {
        Op::Check => Op::Pq,
        Op::XorCheck => Op::Xor,
        Op::Pq | Op::Xor | Op::Rec2 | Op::Update => return Ok(()),
    };
    let kernels = raid6_simd::Kernels::auto();
    let filled = cell.with_op(fill);
    let mut work = ours::bind("preparation".to_owned(), contenders::Role::Other, &kernels, &filled);
    let done = cell.stripes().all(|stripe| (work.run)(stripe, 1));
    if done { Ok(()) } else { Err(format!("no parity could be computed for {cell}")) }
}
