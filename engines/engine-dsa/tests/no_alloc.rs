//! A backend allocates nothing in steady state: neither for operations that succeed, alone and in batches,
//! nor for those that fault, are declined or find the queue full.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_tx::{Backend, CheckedOp, Completion, Op, OpToken, ReadyOp, Region, Seed};
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::open::{Opened, Opener};
use engine_dsa::portal::{Portal, PortalError};
use engine_dsa::queue::Setup;
use engine_dsa::wire::{Descriptor, Opcode, at, status};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

// SAFETY: every call is passed on unchanged; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a device does next.
#[derive(Default)]
struct Mood {
    full: AtomicBool,
    /// Every so manieth operation has this status.
    status: AtomicU64,
    count: AtomicU64,
}

/// A device that does nothing but complete, inside the call.
struct Instant(Arc<Mood>);

impl Instant {
    fn complete(&self, descriptor: &Descriptor) -> u8 {
        let failing = self.0.status.load(Ordering::Relaxed);
        let turn = self.0.count.fetch_add(1, Ordering::Relaxed);
        let status = if failing != 0 && turn.is_multiple_of(3) { failing as u8 } else { status::SUCCESS };
        self.record(descriptor, status, 0);
        status
    }

    fn record(&self, descriptor: &Descriptor, status: u8, completed: u32) {
        let mut record = [0u8; 32];
        record[0] = status;
        record[4..8].copy_from_slice(&completed.to_le_bytes());
        record[8..16].copy_from_slice(&descriptor.field::<8>(at::SOURCE));
        let to = std::ptr::with_exposed_provenance_mut::<[u8; 32]>(descriptor.record() as usize);
        // SAFETY: the record of a descriptor that is being submitted, in the queue's pool.
        unsafe { to.write_volatile(record) };
    }
}

impl Portal for Instant {
    fn method(&self) -> &'static str {
        "instant"
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        if self.0.full.load(Ordering::Relaxed) {
            return Err(PortalError::Retry);
        }
        for descriptor in descriptors {
            if descriptor.opcode() != Opcode::Batch as u8 {
                self.complete(descriptor);
                continue;
            }
            let list = u64::from_le_bytes(descriptor.field(at::SOURCE)) as usize;
            let mut failed = false;
            for member in 0..descriptor.size() as usize {
                let member = std::ptr::with_exposed_provenance::<Descriptor>(list + member * 64);
                // SAFETY: the list of a batch that is being submitted.
                failed |= self.complete(&unsafe { member.read_volatile() }) != status::SUCCESS;
            }
            let status = if failed { status::BATCH_FAILED } else { status::SUCCESS };
            self.record(descriptor, status, descriptor.size());
        }
        Ok(descriptors.len())
    }

    fn begin_close(&mut self) {}

    fn is_closed(&mut self) -> bool {
        true
    }
}

#[test]
fn a_backend_allocates_nothing_in_steady_state() {
    let mood = Arc::new(Mood::default());
    for operations in ["1003f03ff", "1003f03fd"] {
        let setup = Setup {
            operations: OpSet::parse(operations).unwrap(),
            gen_cap: GenCap(0x40_915f_0107),
            max_transfer: 1 << 20,
            max_batch: 32,
            credits: 12,
        };
        let portal = Mutex::new(Some(Arc::clone(&mood)));
        let opener: Opener = Arc::new(move || {
            let mood = portal.lock().unwrap().take().unwrap();
            Ok(Opened { portal: Box::new(Instant(mood)), setup, watch: None })
        });
        let mut backend = DsaBackend::open("dsa", opener, Options::default()).unwrap();
        let mut memory = vec![0u8; 3 * 4096];
        let base = memory.as_mut_ptr();
        // SAFETY: parts of `memory`, which outlives the backend and is not touched otherwise.
        let [a, b, c] = [0, 1, 2].map(|i| unsafe { Region::new(base.add(i * 4096), 2048) });
        // SAFETY: as above; bytes of no other region.
        let crc = unsafe { Region::new(base.add(4000), 4) };
        let kinds: [CheckedOp<'_>; 5] = [
            Op::Copy { src: a, dst: b },
            Op::Fill { dst: c, byte: 1 },
            Op::Compare { a, b },
            Op::Crc32c { src: a, seed: Seed::Value(0), crc },
            Op::CopyCrc32c { src: a, dst: b, seed: Seed::Value(0), crc },
        ]
        .map(|op| op.check().unwrap());
        let ops: [ReadyOp<'_>; 16] = std::array::from_fn(|i| ReadyOp {
            token: OpToken(i as u64),
            op: kinds[i % kinds.len()],
            fence: false,
        });
        let mut done: Vec<Completion> = Vec::with_capacity(64);
        let mut before = 0;
        for round in 0..400 {
            if round == 20 {
                before = ALLOCATIONS.get();
            }
            // Success, page faults, statuses of these buffers alone, full queues.
            mood.status.store([0, 0x03, 0x16, 0x20][round % 4], Ordering::Relaxed);
            mood.full.store(round % 7 == 6, Ordering::Relaxed);
            for call in [&ops[..], &ops[..1], &ops[..5]] {
                let taken = backend.submit(call);
                assert_eq!(taken == 0, round % 7 == 6);
                let mut reaps = 0;
                while done.len() < taken {
                    backend.reap(&mut done);
                    reaps += 1;
                    assert!(reaps < 10);
                }
                assert_eq!(done.len(), taken);
                done.clear();
            }
        }
        let allocations = ALLOCATIONS.get() - before;
        assert_eq!(allocations, 0, "{operations}");
        let counters = backend.counters();
        assert!(counters.resumed.get() > 0 && counters.declined.get() > 0 && counters.full.get() > 0);
        assert_eq!(counters.batches.get() > 0, operations == "1003f03ff");
        drop(backend);
        drop(memory);
    }
}
