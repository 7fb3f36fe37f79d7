//! Letting go of a queue without waiting for it.
//!
//! Closing a queue's file makes the driver drain or abort what is under way before close(2) returns, which
//! can take long; so it is done on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tracing::warn;

/// The way of a resource from use to gone. Dropping the resource is what may block.
#[derive(Debug)]
pub(super) struct Closing<T> {
    parked: Arc<Mutex<Option<T>>>,
    gone: Arc<AtomicBool>,
    started: bool,
    warned: bool,
}

impl<T: Send + 'static> Closing<T> {
    pub(super) fn new() -> Self {
        let (parked, gone) = (Arc::new(Mutex::new(None)), Arc::new(AtomicBool::new(false)));
        Closing { parked, gone, started: false, warned: false }
    }

    /// Has a thread drop the resource. If there is no thread to be had, the resource is kept and the next
    /// call tries again; a repeated call brings no resource.
    pub(super) fn begin(&mut self, resource: Option<T>) {
        if let Some(resource) = resource {
            *self.parked.lock().unwrap_or_else(PoisonError::into_inner) = Some(resource);
        }
        if self.started {
            return;
        }
        let (parked, gone) = (Arc::clone(&self.parked), Arc::clone(&self.gone));
        let closer = thread::Builder::new().name("dsa-close".into()).spawn(move || {
            // Taken out first, so that the lock is not held while the drop blocks.
            let resource = parked.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(resource);
            gone.store(true, Ordering::Release);
        });
        match closer {
            Ok(_) => self.started = true,
            // Said once, for the next call may come soon.
            Err(error) if !self.warned => {
                self.warned = true;
                warn!(%error, "no thread to close a DSA queue with; it will be tried again");
            }
            Err(_) => {}
        }
    }

    /// Whether the drop has returned.
    pub(super) fn is_done(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::yield_now;

    use super::*;

    /// Its drop waits, as close(2) of a busy queue does.
    struct Slow(mpsc::Receiver<()>);

    impl Drop for Slow {
        fn drop(&mut self) {
            // An error means that the test is over.
            let _ = self.0.recv();
        }
    }

    #[test]
    fn closing_returns_while_the_drop_still_waits() {
        let (release, wait) = mpsc::channel();
        let mut closing = Closing::new();
        assert!(!closing.is_done());
        closing.begin(Some(Slow(wait)));
        closing.begin(None);
        assert!(!closing.is_done());
        release.send(()).unwrap();
        while !closing.is_done() {
            yield_now();
        }
    }
}
