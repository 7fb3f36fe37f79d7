//! Times the implementations over blocks that stay in the cache: GB/s of data, the best of several
//! rounds. A look at the order of magnitude, not a benchmark against others.

use std::time::Instant;

use raid6_simd::{Change, Kernel, Kernels, LostData, Parity, Selection};

/// GB/s of `bytes` moved by each call of `work`.
fn rate(
    bytes: usize,
    mut work: impl FnMut() -> Result<(), raid6_simd::Error>,
) -> Result<f64, raid6_simd::Error> {
    let calls = (32 << 20) / bytes + 1;
    let mut best = 0f64;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..calls {
            work()?;
        }
        best = best.max((bytes * calls) as f64 / start.elapsed().as_nanos() as f64);
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:<12} {:>3} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "kernel", "n", "bytes", "P+Q", "P", "check", "2 data", "update"
    );
    for kernel in Kernel::ALL.into_iter().filter(|k| k.is_available() && *k != Kernel::Naive) {
        let kernels = Kernels::select(Selection::Only(kernel))?;
        for (n, len) in [(4, 4096), (8, 4096), (16, 4096), (4, 65536), (8, 65536), (16, 65536)] {
            // One allocation, each block on a page of its own, as in a stripe cache.
            let mut memory = vec![0x5au8; (n + 5) * len + 4096];
            let offset = memory.as_ptr().align_offset(4096);
            let (parity, data) = memory[offset..].split_at_mut(4 * len);
            let data: Vec<_> = data.chunks_exact(len).take(n).map(Some).collect();
            let mut parity = parity.chunks_exact_mut(len);
            let (Some(p), Some(q), Some(x), Some(y)) =
                (parity.next(), parity.next(), parity.next(), parity.next())
            else {
                return Err("four blocks".into());
            };
            let p_only = rate(n * len, || kernels.gen_pq(&data, Some(&mut *p), None))?;
            let pq = rate(n * len, || kernels.gen_pq(&data, Some(&mut *p), Some(&mut *q)))?;
            let check = rate(n * len, || kernels.pq_val(&data, Some(p), Some(q)).map(|_| ()))?;
            let mut left = data.clone();
            (left[0], left[1]) = (None, None);
            let two = rate(n * len, || {
                let mut lost =
                    [LostData { exponent: 0, out: &mut *x }, LostData { exponent: 1, out: &mut *y }];
                kernels.recover(&left, &mut lost, Parity::Good(p), Parity::Good(q))
            })?;
            let update = rate(len, || {
                let change = Change { exponent: 3, old: Some(x), new: Some(y) };
                kernels.pq_update(&[change], Some(&mut *p), Some(&mut *q))
            })?;
            println!(
                "{:<12} {n:>3} {len:>6} {pq:>8.1} {p_only:>8.1} {check:>8.1} {two:>8.1} {update:>8.1}",
                kernel.name()
            );
        }
    }
    Ok(())
}
