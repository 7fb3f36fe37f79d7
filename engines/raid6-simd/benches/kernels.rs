//! Times every implementation at every operation, with criterion: for following a change of this crate
//! over time. `peers` is for comparing with others.
//!
//! ```text
//! cargo bench -p raid6-simd --bench kernels                             # everything: about 4 minutes
//! cargo bench -p raid6-simd --bench kernels -- pq/avx512_gfni           # one group: some seconds
//! cargo bench -p raid6-simd --bench kernels -- '/8x64KiB/hot$'          # a shape: half a minute
//! cargo bench -p raid6-simd --bench kernels -- --save-baseline before pq/    # and later: --baseline before
//! ```
//!
//! The name of a case is `OPERATION/IMPLEMENTATION/SHAPE/SET`, and the filter is a regular expression over
//! it:
//!
//! | part | values |
//! |---|---|
//! | operation | `xor`, `xor_val`, `pq`, `pq_val`, `pq_update` (of one block), `recover_two`, `recover_data_p`, `mul_add`, `locate`, `crc32c`, `copy_crc32c` |
//! | implementation | all that this CPU can run; `naive` only if the filter names it |
//! | shape | 4, 8 or 16 data blocks (of a CRC, 1) of 4, 16 or 64 KiB |
//! | set | `hot`: one stripe over and over; `l3`: the stripes of 8 MiB in a circle; and, only if `RAID6_SIMD_BENCH_DRAM` is set, because they take a GiB of memory and ten minutes more, `dram`: those of 1 GiB, and `dram-streaming`: the same with results that go past the caches |
//!
//! Throughput is in bytes of data: all data blocks a call, or the one that changes. The stripes lie one
//! after the other, and so do the blocks of a stripe, all on page boundaries, as in a stripe cache made of
//! pages; the memory was written before.
//!
//! Implementations of one cell are measured one after the other, a tenth of a second each, so that what
//! slows the machine down for longer than that hits all of them. Criterion's own options change the time
//! (`--warm-up-time`, `--measurement-time`, in seconds).

#[path = "kernels/pool.rs"]
mod pool;
#[path = "kernels/work.rs"]
mod work;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use pool::Pool;
use raid6_simd::{Kernel, Kernels, Selection, Stores};
use work::{Operation, Shape, Stripe};

const DATA_BLOCKS: [usize; 3] = [4, 8, 16];
const BLOCK_LENS: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

/// What a call finds in the caches, and how it stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    Hot,
    L3,
    Dram,
    DramStreaming,
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Set::Hot => "hot",
            Set::L3 => "l3",
            Set::Dram => "dram",
            Set::DramStreaming => "dram-streaming",
        }
    }

    fn stores(self) -> Stores {
        if self == Set::DramStreaming { Stores::Streaming } else { Stores::Cached }
    }

    /// The bytes that the stripes cover; there is one at least.
    fn bytes(self, operation: Operation, shape: Shape) -> usize {
        let wanted = match self {
            Set::Hot => 0,
            Set::L3 => 8 << 20,
            Set::Dram | Set::DramStreaming => 1 << 30,
        };
        wanted.max(operation.stripe_bytes(shape))
    }

    /// Streaming is for operations that write blocks without reading them.
    fn applies(self, operation: Operation) -> bool {
        let writes = [Operation::Xor, Operation::Pq, Operation::RecoverTwo, Operation::RecoverDataP];
        self != Set::DramStreaming || writes.contains(&operation)
    }
}

/// One line of the results.
#[derive(Clone, Copy)]
struct Case {
    operation: Operation,
    kernel: Kernel,
    shape: Shape,
    set: Set,
}

/// The stripes of a case, which calls take one after the other.
struct Circle<'a> {
    stripes: Vec<Stripe<'a>>,
    next: usize,
    kernels: Kernels,
}

impl<'a> Circle<'a> {
    fn new(case: Case, pool: &'a mut Pool) -> Option<Self> {
        let Case { operation, kernel, shape, set } = case;
        let kernels = Kernels::select(Selection::Only(kernel)).ok()?.with_stores(set.stores());
        let memory = pool.bytes().get_mut(..set.bytes(operation, shape))?;
        let stripes = Stripe::cut_all(operation, shape, memory);
        Some(Circle { stripes, next: 0, kernels })
    }

    fn call(&mut self) -> bool {
        self.next = if self.next + 1 < self.stripes.len() { self.next + 1 } else { 0 };
        self.stripes[self.next].call(&self.kernels)
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .without_plots()
        .warm_up_time(Duration::from_millis(20))
        .measurement_time(Duration::from_millis(100))
        .sample_size(20)
        .nresamples(2000)
        .configure_from_args();
    let naive = std::env::args().any(|arg| arg.contains(Kernel::Naive.name()));
    let available = |kernel: &Kernel| kernel.is_available() && (*kernel != Kernel::Naive || naive);
    let kernels: Vec<_> = Kernel::ALL.into_iter().filter(available).collect();
    let mut sets = vec![Set::Hot, Set::L3];
    if std::env::var_os("RAID6_SIMD_BENCH_DRAM").is_some() {
        sets.extend([Set::Dram, Set::DramStreaming]);
    }
    let mut pools = Pools::default();
    for operation in Operation::ALL {
        let mut group = criterion.benchmark_group(operation.name());
        for &set in sets.iter().filter(|set| set.applies(operation)) {
            for &data_blocks in operation.numbers_of_data_blocks(&DATA_BLOCKS) {
                for block_len in BLOCK_LENS {
                    let shape = Shape { data_blocks, block_len };
                    group.throughput(Throughput::BytesDecimal(operation.data_bytes(shape) as u64));
                    for &kernel in &kernels {
                        run(&mut group, Case { operation, kernel, shape, set }, &mut pools);
                    }
                }
            }
        }
        group.finish();
    }
    criterion.final_summary();
}

/// The memory of the sets, made when the first case needs it that passes the filter.
#[derive(Default)]
struct Pools {
    cached: Option<Pool>,
    dram: Option<Pool>,
}

impl Pools {
    fn of(&mut self, set: Set) -> &mut Pool {
        match set {
            Set::Hot | Set::L3 => self.cached.get_or_insert_with(|| Pool::new(8 << 20)),
            Set::Dram | Set::DramStreaming => self.dram.get_or_insert_with(|| Pool::new(1 << 30)),
        }
    }
}

fn run(group: &mut BenchmarkGroup<'_, WallTime>, case: Case, pools: &mut Pools) {
    let id = format!("{}/{}/{}", case.kernel, case.shape, case.set.name());
    // Criterion calls the closure once a sample, and not at all if the filter leaves the case out.
    let mut pools = Some(pools);
    let mut circle: Option<Circle<'_>> = None;
    group.bench_function(id.as_str(), |bencher| {
        if let Some(pools) = pools.take() {
            circle = Circle::new(case, pools.of(case.set));
            let right = circle.as_mut().is_some_and(Circle::call);
            assert!(right, "{}/{id} went wrong before it was timed", case.operation.name());
        }
        if let Some(circle) = &mut circle {
            bencher.iter(|| circle.call());
        }
    });
}
