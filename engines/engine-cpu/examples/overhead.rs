//! What the chain engine costs over calling the kernels: nanoseconds for the update of P and Q of one
//! block, directly, and as a chain that is built, run and reaped. The best of several rounds.

use std::time::Instant;

use async_tx::{Engine, Op, Region};
use engine_cpu::CpuBackend;
use raid6_simd::{Change, Kernels};

const CALLS: u32 = 200_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Nanoseconds a call of `work`.
fn time(mut work: impl FnMut() -> Outcome<()>) -> Outcome<f64> {
    let mut best = f64::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..CALLS {
            work()?;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    Ok(best)
}

fn main() -> Outcome<()> {
    let kernels = Kernels::auto();
    let mut engine = Engine::new(Box::new(CpuBackend::auto()));
    println!("{:>6} {:>10} {:>10} {:>10}", "bytes", "kernel ns", "run ns", "submit ns");
    for len in [64, 4096, 65536] {
        let mut memory = vec![0x5au8; 4 * len];
        let direct = {
            let (data, parity) = memory.split_at_mut(2 * len);
            let ((old, new), (p, q)) = (data.split_at(len), parity.split_at_mut(len));
            let change = Change { exponent: 3, old: Some(old), new: Some(new) };
            time(|| Ok(kernels.pq_update(&[change], Some(&mut *p), Some(&mut *q))?))?
        };
        let base = memory.as_mut_ptr();
        // SAFETY: four blocks of `memory`, which outlives every chain and is not touched otherwise.
        let [old, new, p, q] = [0, 1, 2, 3].map(|i| unsafe { Region::new(base.add(i * len), len) });
        let changes = [async_tx::Change { exponent: 3, old: Some(old), new: Some(new) }];
        let op = Op::PqUpdate { changes: &changes, p: Some(p), q: Some(q) };
        let run = time(|| {
            let mut chain = engine.chain();
            chain.push(op, &[])?;
            engine.run(chain)?;
            Ok(())
        })?;
        let mut done = Vec::new();
        let submit = time(|| {
            let mut chain = engine.chain();
            chain.push(op, &[])?;
            engine.submit(chain, 0);
            engine.poll(&mut done);
            done.clear();
            Ok(())
        })?;
        println!("{len:>6} {direct:>10.1} {run:>10.1} {submit:>10.1}");
    }
    Ok(())
}
