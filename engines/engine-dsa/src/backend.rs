//! A work queue as a backend of the chain engine.
//!
//! Copies, fills, compares, dualcasts and CRCs go to the device, whatever else there is does not: the
//! capabilities are those that the queue's own bitmap of opcodes says, never those of a version. What a
//! [queue](crate::queue) promises about faults is promised here, too; what is added is the way back: a queue
//! that failed is closed, opened again with fresh capabilities, and has to pass a probe, before it gets work.
//! There is never more than one open queue: the old one is known to be closed before the new one is opened.

mod revive;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_tx::{Backend, Caps, Completion, Limits, Nanos, Op, OpKind, ReadyOp, Revival, SOURCES_MAX};

pub use crate::open::{OpenError, Opened, Opener};
use crate::queue::{Counters, ProbeState, Queue, Usage};
use crate::wait::Waiter;
use revive::Stage;

/// The bits of an address in which the two destinations of a dualcast must agree.
const DUALCAST_BITS: usize = 0xfff;

/// With so many queues of this process that do not close, no further one is opened.
const LINGERING_MAX: usize = 8;

/// How a backend uses its queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How the queue is used.
    pub usage: Usage,
    /// How many operations make a submission worth its price.
    pub batch: usize,
    /// Bytes from which on an operation is worth its overhead.
    pub len_min: usize,
    /// How long a queue may take to be closed, to open, and to pass its probe: each before an attempt to
    /// revive it counts as failed.
    pub patience: Duration,
    /// How long [`Backend::relax`] rests, at most. Only the record of one of the operations in hand is
    /// watched meanwhile: that another one was written is seen afterwards.
    pub rest: Duration,
    /// Whether a queue is opened again on a thread of its own, because that may block. Without, it is
    /// opened inside [`Backend::revive`].
    pub threaded: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            usage: Usage::default(),
            batch: 8,
            len_min: 8192,
            patience: Duration::from_millis(100),
            rest: Duration::from_micros(2),
            threaded: true,
        }
    }
}

/// The backend over one work queue.
pub struct DsaBackend {
    name: String,
    queue: Queue,
    opener: Opener,
    options: Options,
    stage: Stage,
    waiter: Waiter,
    counters: Arc<Counters>,
}

impl DsaBackend {
    /// Opens a queue with `opener`, without probing it. Errors: those of the opener, or no memory.
    pub fn open(name: &str, opener: Opener, options: Options) -> Result<DsaBackend, OpenError> {
        // Who looks for queues again and again would otherwise pile up those that hang.
        let count = crate::queue::lingering();
        if count >= LINGERING_MAX {
            return Err(OpenError::Lingering { count });
        }
        let counters = Arc::new(Counters::default());
        let queue = new_queue(opener()?, options, &counters)?;
        let (name, waiter) = (name.to_owned(), Waiter::detect());
        Ok(DsaBackend { name, queue, opener, options, stage: Stage::Idle, waiter, counters })
    }

    /// Waits until the probe of the queue has ended. For a backend that was just opened. Errors: it failed,
    /// or took longer than [`Options::patience`].
    pub fn prove(&mut self) -> Result<(), OpenError> {
        let deadline = Instant::now() + self.options.patience;
        self.queue.begin_probe();
        loop {
            match self.queue.poll_probe() {
                ProbeState::Passed => return Ok(()),
                ProbeState::Failed(status) => return Err(OpenError::Broken { status }),
                _ if Instant::now() >= deadline => {
                    return Err(OpenError::Silent { patience: self.options.patience });
                }
                _ => std::thread::yield_now(),
            }
        }
    }

    /// The queue, as it is now.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Its counters, over all lives of the queue; they can be read while the engine has the backend.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

/// A queue over what was opened.
fn new_queue(opened: Opened, options: Options, counters: &Arc<Counters>) -> Result<Queue, OpenError> {
    let Opened { portal, setup, watch } = opened;
    Queue::new(portal, setup, options.usage, Arc::clone(counters), watch)
        .map_err(|errno| OpenError::Memory { errno: errno as i32 })
}

impl Backend for DsaBackend {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        self.queue.caps()
    }

    /// Any alignment, one operation's own sources, and what queue and device transfer at a time. A fault
    /// leaves anything in the destinations, so nothing works in place.
    fn limits(&self, _kind: OpKind) -> Limits {
        let most = self.queue.setup().max_transfer.min(u64::from(u32::MAX));
        Limits {
            sources_max: SOURCES_MAX,
            len_min: self.options.len_min,
            len_max: usize::try_from(most).unwrap_or(usize::MAX),
            align: 1,
            keeps_on_fault: false,
        }
    }

    /// Kinds that the queue turned out to refuse are not taken, nor dualcasts to addresses whose low 12
    /// bits differ.
    fn accepts(&self, op: &Op<'_>) -> bool {
        let fits = match *op {
            Op::Dualcast { dst: [one, other], .. } => {
                (one.as_ptr() as usize ^ other.as_ptr() as usize) & DUALCAST_BITS == 0
            }
            _ => true,
        };
        fits && self.queue.caps().has(op.kind())
    }

    fn fences(&self) -> Caps {
        self.queue.fences()
    }

    fn batch(&self) -> usize {
        self.options.batch
    }

    fn room(&self) -> usize {
        self.queue.room()
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        self.queue.submit(ops)
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        self.queue.harvest(done);
    }

    fn abort(&mut self) {
        if !self.queue.is_closing() {
            self.counters.aborts.add(1);
            tracing::warn!(queue = %self.name, in_hand = self.queue.in_hand(), "giving up a DSA queue");
        }
        self.queue.begin_close();
    }

    fn revive(&mut self, now: Nanos) -> Revival {
        let revival = self.step(now);
        match revival {
            Revival::Ready => self.counters.revivals.add(1),
            Revival::Failed => self.counters.revivals_failed.add(1),
            Revival::Pending => {}
        }
        revival
    }

    fn relax(&mut self) {
        if self.options.rest.is_zero() {
            std::hint::spin_loop();
        } else {
            self.queue.rest_until(&self.waiter, Instant::now() + self.options.rest);
        }
    }
}
