//! What a queue and its device have in common, and how it is let go.
//!
//! A portal may take long to close, or never: a device that hangs, a model that was stopped. Who drops a queue
//! waits for that only while the memory of others is at stake, that is while operations are in hand. What is
//! left then is the queue's own, and a thread waits for it; if there is no thread to be had it is leaked, for
//! a pool may never be given back while the device might write to it.

use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Queue;
use crate::portal::Portal;
use crate::records::Pool;

/// After so long, a portal that does not close is worth an error in the log.
const CLOSE_WARNING: Duration = Duration::from_secs(5);
/// So often the processor is given away before a wait sleeps.
const YIELDS: u32 = 1000;
/// How long a wait sleeps at a time while operations are in hand.
const SLEEP: Duration = Duration::from_millis(1);
/// How long the thread sleeps at a time, at most.
const LONG_SLEEP: Duration = Duration::from_millis(50);

/// Links of this process that were let go and are not closed. Each holds a node, locked memory and maybe a
/// thread, which are the process's, hence one count for all.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// How many queues that were let go are not closed yet, or never will be.
pub(crate) fn lingering() -> usize {
    LINGERING.load(Ordering::Relaxed)
}

/// A queue's portal and pool. The fields are dropped in this order: what keeps the pool known to the device,
/// if that had to be told, before the pool.
pub(super) struct Link {
    pub(super) portal: Box<dyn Portal>,
    pub(super) _watch: Option<Box<dyn Send>>,
    pub(super) pool: Pool,
}

impl Link {
    /// Has a thread drop the link when its portal is closed.
    fn let_go(self) {
        self.let_go_by(|wait| thread::Builder::new().name("dsa-leave".into()).spawn(wait).map(drop));
    }

    /// The same with a way to start a thread.
    fn let_go_by(self, spawn: impl FnOnce(Box<dyn FnOnce() + Send>) -> io::Result<()>) {
        // If no thread takes it, dropping the closure does not drop the link.
        let link = ManuallyDrop::new(self);
        LINGERING.fetch_add(1, Ordering::Relaxed);
        let spawned = spawn(Box::new(move || {
            ManuallyDrop::into_inner(link).wait();
            LINGERING.fetch_sub(1, Ordering::Relaxed);
        }));
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to wait for the end of a DSA queue with; its memory is lost");
        }
    }

    /// Waits until the portal is closed.
    fn wait(mut self) {
        let (begun, mut sleep, mut warned) = (Instant::now(), SLEEP, false);
        loop {
            // Again each time: for want of a thread, the portal may not have begun.
            self.portal.begin_close();
            if self.portal.is_closed() {
                return;
            }
            if !warned && begun.elapsed() > CLOSE_WARNING {
                warned = true;
                tracing::error!("a DSA queue without work does not close; its node and records stay in use");
            }
            thread::sleep(sleep);
            sleep = sleep.saturating_mul(2).min(LONG_SLEEP);
        }
    }
}

impl Queue {
    /// Waits until no operation is in hand any more; whether the portal is closed then. What ended is not
    /// told to anybody.
    fn finish(&mut self) -> bool {
        let (begun, mut turns, mut warned) = (Instant::now(), 0, false);
        let mut done = Vec::new();
        loop {
            self.begin_close();
            self.harvest(&mut done);
            done.clear();
            let closed = self.is_closed();
            if closed || self.in_hand() == 0 {
                return closed;
            }
            // Going on would let the device write into memory that is somebody else's by then.
            if !warned && begun.elapsed() > CLOSE_WARNING {
                warned = true;
                tracing::error!("a DSA queue does not close; waiting, for its device may still write");
            }
            if turns < YIELDS {
                turns += 1;
                thread::yield_now();
            } else {
                thread::sleep(SLEEP);
            }
        }
    }
}

impl Drop for Queue {
    /// Returns when the device touches none of the operations' memory any more; does not wait for the
    /// portal if nothing is in hand.
    fn drop(&mut self) {
        let closed = self.finish();
        // SAFETY: taken once, and the queue is not used any more.
        let link = unsafe { ManuallyDrop::take(&mut self.link) };
        if closed {
            drop(link);
        } else {
            link.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::portal::PortalError;
    use crate::records::PoolSize;
    use crate::wire::Descriptor;

    /// Begins to close when it was told to often enough.
    struct Slow {
        told: Arc<AtomicUsize>,
        needs: usize,
        dropped: Arc<AtomicBool>,
    }

    impl Portal for Slow {
        fn method(&self) -> &'static str {
            "slow"
        }

        fn submit(&mut self, _descriptors: &[Descriptor]) -> Result<usize, PortalError> {
            Err(PortalError::Gone)
        }

        fn begin_close(&mut self) {
            self.told.fetch_add(1, Ordering::Relaxed);
        }

        fn is_closed(&mut self) -> bool {
            self.told.load(Ordering::Relaxed) >= self.needs
        }
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            self.dropped.store(true, Ordering::Release);
        }
    }

    fn link(needs: usize) -> (Link, Arc<AtomicBool>) {
        let dropped = Arc::<AtomicBool>::default();
        let portal = Box::new(Slow { told: Arc::default(), needs, dropped: Arc::clone(&dropped) });
        let pool = Pool::new(PoolSize { slots: 1, batches: 1, list: 1 }).unwrap();
        (Link { portal, _watch: None, pool }, dropped)
    }

    #[test]
    fn a_link_is_leaked_rather_than_dropped_too_early() {
        let (link, dropped) = link(1);
        link.let_go_by(|_| Err(io::ErrorKind::WouldBlock.into()));
        assert!(!dropped.load(Ordering::Acquire));
    }

    #[test]
    fn a_thread_tells_it_to_close_until_it_does() {
        let (link, dropped) = link(4);
        let mut thread = None;
        link.let_go_by(|wait| {
            thread = Some(thread::spawn(wait));
            Ok(())
        });
        thread.unwrap().join().unwrap();
        assert!(dropped.load(Ordering::Acquire));
    }
}
