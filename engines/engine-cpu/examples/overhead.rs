//! What the chain engine costs over calling the kernels: nanoseconds for each operation of a chain that is
//! built, submitted and reaped (or run), less those of the same kernel calls without an engine.
//!
//! Both are measured in turns, a few hundred microseconds each, so that whatever else the machine does
//! hits both; the difference is the median of the differences of neighbours.

use std::hint::black_box;
use std::time::Instant;

use async_tx::{ChainDone, Change, Engine, Op, Region, XorMode};
use engine_cpu::CpuBackend;
use raid6_simd::{Kernels, XorMode as Mode};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Rounds of each kind that are measured.
const ROUNDS: usize = 401;
/// Operations in a round, about.
const OPS: usize = 256;
/// Blocks that an operation has for itself.
const BLOCKS: usize = 10;

/// The kinds of operation that are measured.
#[derive(Clone, Copy)]
enum Case {
    Notify,
    Copy,
    Xor,
    Pq,
    PqUpdate,
    /// The four before in turn.
    Mixed,
}

/// The operands of one operation, for the engine and for the kernels.
struct Operands<'a> {
    srcs: &'a [Region],
    data: &'a [Option<Region>],
    changes: &'a [Change],
    p: Region,
    q: Region,
}

impl Case {
    const ALL: [(&'static str, Case); 6] = [
        ("notify", Case::Notify),
        ("copy", Case::Copy),
        ("xor 5", Case::Xor),
        ("pq 8+2", Case::Pq),
        ("pq_update", Case::PqUpdate),
        ("mixed", Case::Mixed),
    ];

    /// The kinds of the operations of a chain, in turn.
    fn kinds(self) -> &'static [Case] {
        match self {
            Case::Notify => &[Case::Notify],
            Case::Copy => &[Case::Copy],
            Case::Xor => &[Case::Xor],
            Case::Pq => &[Case::Pq],
            Case::PqUpdate => &[Case::PqUpdate],
            Case::Mixed => &[Case::Copy, Case::Xor, Case::Pq, Case::PqUpdate],
        }
    }

    fn op<'a>(self, with: &Operands<'a>) -> Op<'a> {
        let (p, q) = (Some(with.p), Some(with.q));
        match self {
            Case::Notify | Case::Mixed => Op::Notify,
            Case::Copy => Op::Copy { src: with.srcs[0], dst: with.p },
            Case::Xor => Op::Xor { srcs: &with.srcs[..5], dst: with.p, mode: XorMode::Overwrite },
            Case::Pq => Op::Pq { data: with.data, p, q },
            Case::PqUpdate => Op::PqUpdate { changes: with.changes, p, q },
        }
    }
}

/// The operands of one operation as slices.
struct Direct<'a> {
    data: [Option<&'a [u8]>; 8],
    p: &'a mut [u8],
    q: &'a mut [u8],
}

impl Direct<'_> {
    fn call(&mut self, case: Case, kernels: &Kernels) -> Outcome<()> {
        let [old, new, ..] = self.data;
        match case {
            Case::Notify | Case::Mixed => {}
            Case::Copy => self.p.copy_from_slice(black_box(old.unwrap_or(&[]))),
            Case::Xor => kernels.xor(black_box(&self.data[..5]), self.p, Mode::Overwrite)?,
            Case::Pq => kernels.gen_pq(black_box(&self.data), Some(self.p), Some(self.q))?,
            Case::PqUpdate => {
                let change = raid6_simd::Change { exponent: 3, old, new };
                kernels.pq_update(black_box(&[change]), Some(self.p), Some(self.q))?;
            }
        }
        Ok(())
    }
}

/// Nanoseconds an operation of `work`, which does `ops`.
fn time(ops: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_nanos() as f64 / ops as f64)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Kernel time, and what `run` and `submit` add to it, for chains of `count` operations on `len` bytes.
fn measure(case: Case, count: usize, len: usize) -> Outcome<[f64; 3]> {
    let kernels = Kernels::auto();
    let mut engine = Engine::new(Box::new(CpuBackend::auto()));
    // One set of blocks for all operations, so that the caches play no part.
    let mut memory = vec![0x5au8; (BLOCKS + 1) * len + 4096];
    let base = memory.as_mut_ptr().wrapping_add(memory.as_ptr().align_offset(4096));
    // SAFETY: blocks of `memory`, which outlives every chain and is not touched otherwise.
    let blocks: [Region; BLOCKS] = std::array::from_fn(|i| unsafe { Region::new(base.add(i * len), len) });
    let data: Vec<_> = blocks[..8].iter().map(|block| Some(*block)).collect();
    let changes = [Change { exponent: 3, old: Some(blocks[0]), new: Some(blocks[1]) }];
    let operands =
        Operands { srcs: &blocks[..8], data: &data, changes: &changes, p: blocks[8], q: blocks[9] };
    let kinds = case.kinds();
    let ops: Vec<_> = kinds.iter().map(|kind| kind.op(&operands)).collect();
    let chains = OPS.div_ceil(count);
    let mut done: Vec<ChainDone> = Vec::new();
    let mut kernel_times = Vec::new();
    let (mut run_costs, mut submit_costs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // SAFETY: the same blocks; no chain is in flight.
        let (sources, p, q) = unsafe {
            (std::array::from_fn(|i| Some(blocks[i].bytes())), blocks[8].bytes_mut(), blocks[9].bytes_mut())
        };
        let mut direct = Direct { data: sources, p, q };
        let kernel = time(chains * count, || {
            let mut turns = kinds.iter().cycle().take(chains * count);
            turns.try_for_each(|kind| black_box(&mut direct).call(*kind, &kernels))
        })?;
        let run = time(chains * count, || {
            let mut turns = ops.iter().cycle();
            for _ in 0..chains {
                let mut chain = engine.chain();
                turns.by_ref().take(count).try_for_each(|op| chain.push(*black_box(op), &[]).map(|_| ()))?;
                engine.run(chain)?;
            }
            Ok(())
        })?;
        let submit = time(chains * count, || {
            let mut turns = ops.iter().cycle();
            for _ in 0..chains {
                let mut chain = engine.chain();
                turns.by_ref().take(count).try_for_each(|op| chain.push(*black_box(op), &[]).map(|_| ()))?;
                engine.submit(chain, 0);
                engine.poll(&mut done);
                done.clear();
            }
            Ok(())
        })?;
        // The first rounds grow tables and warm caches.
        if round > ROUNDS / 10 {
            kernel_times.push(kernel);
            run_costs.push(run - kernel);
            submit_costs.push(submit - kernel);
        }
    }
    Ok([median(kernel_times), median(run_costs), median(submit_costs)])
}

/// What to measure: one of the operations or all, and the bytes of a block.
fn asked() -> Result<(Option<String>, usize), String> {
    let mut args = std::env::args().skip(1);
    let only = args.next();
    let names = Case::ALL.map(|(name, _)| name).join("|");
    let usage = format!("usage: overhead [{names}] [BYTES], the bytes of a block, at least 1");
    if only.as_ref().is_some_and(|only| Case::ALL.iter().all(|(name, _)| name != only)) {
        return Err(usage);
    }
    let len = args.next().map_or(Ok(4096), |len| len.parse()).ok().filter(|len| (1..=1 << 26).contains(len));
    Ok((only, len.filter(|_| args.next().is_none()).ok_or(usage)?))
}

fn main() -> Outcome<()> {
    let (only, len) = match asked() {
        Ok(asked) => asked,
        Err(usage) => {
            eprintln!("{usage}");
            std::process::exit(2);
        }
    };
    println!(
        "blocks of {len} bytes; nanoseconds an operation: of the kernel alone, and what is added to that when a"
    );
    println!(
        "chain of so many is built and run (`Engine::run`), or submitted and its end taken (`submit`, `poll`)"
    );
    println!("{:<10} {:>5} {:>10} {:>10} {:>10}", "operation", "chain", "kernel", "run +", "submit +");
    for (name, case) in Case::ALL.into_iter().filter(|(name, _)| only.as_ref().is_none_or(|o| o == name)) {
        for count in [1, 4, 16, 64] {
            let [kernel, run, submit] = measure(case, count, len)?;
            println!("{name:<10} {count:>5} {kernel:>10.1} {run:>10.1} {submit:>10.1}");
        }
    }
    Ok(())
}
