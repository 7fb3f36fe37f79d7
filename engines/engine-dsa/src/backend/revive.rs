//! The way back after a fault: close, open, probe.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use async_tx::{Nanos, Revival};

use super::{DsaBackend, OpenError, Opened, new_queue};
use crate::queue::ProbeState;

/// How far a revival is.
pub(super) enum Stage {
    /// None is under way.
    Idle,
    /// The old queue is closing, until then.
    Closing(Nanos),
    /// A thread opens the new one, until then. A thread that takes longer is asked again the next time, for
    /// there must not be two.
    Opening(Nanos, Receiver<Result<Opened, OpenError>>),
    /// The new one is probed, until then.
    Probing(Nanos),
}

impl DsaBackend {
    /// Moves the revival on.
    pub(super) fn step(&mut self, now: Nanos) -> Revival {
        let until = now.after(self.options.patience);
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => {
                self.queue.begin_close();
                self.close(now, until)
            }
            Stage::Closing(deadline) => self.close(now, deadline),
            Stage::Opening(deadline, opening) => match opening.try_recv() {
                Ok(opened) => self.opened(now, opened),
                // It will be asked for again: the deadline is over, the thread is not.
                Err(TryRecvError::Empty) => {
                    let over = now >= deadline;
                    self.stage = Stage::Opening(if over { until } else { deadline }, opening);
                    if over { Revival::Failed } else { Revival::Pending }
                }
                Err(TryRecvError::Disconnected) => Revival::Failed,
            },
            Stage::Probing(deadline) => self.probe(now, deadline),
        }
    }

    /// Waits for the end of the old queue, then opens the new one.
    fn close(&mut self, now: Nanos, deadline: Nanos) -> Revival {
        if !self.queue.is_closed() {
            if now >= deadline {
                tracing::warn!(queue = %self.name, "a DSA queue does not close; it stays out of use");
                return Revival::Failed;
            }
            self.stage = Stage::Closing(deadline);
            return Revival::Pending;
        }
        if !self.options.threaded {
            let opened = (self.opener)();
            return self.opened(now, opened);
        }
        let (sender, opening) = channel();
        let opener = Arc::clone(&self.opener);
        let thread = std::thread::Builder::new().name("dsa-open".into());
        // Nobody waits for the thread: what it opened for nobody is closed with the message.
        let spawned = thread.spawn(move || drop(sender.send(opener())));
        if let Err(error) = spawned {
            tracing::warn!(queue = %self.name, %error, "no thread to open a DSA queue with");
            return Revival::Failed;
        }
        self.stage = Stage::Opening(now.after(self.options.patience), opening);
        Revival::Pending
    }

    /// Replaces the old queue, which is closed, and begins to probe.
    fn opened(&mut self, now: Nanos, opened: Result<Opened, OpenError>) -> Revival {
        match opened.and_then(|opened| new_queue(opened, self.options, &self.counters)) {
            Ok(queue) => self.queue = queue,
            Err(error) => {
                tracing::info!(queue = %self.name, %error, "a DSA queue does not come back yet");
                return Revival::Failed;
            }
        }
        self.queue.begin_probe();
        self.probe(now, now.after(self.options.patience))
    }

    /// Asks the probe.
    fn probe(&mut self, now: Nanos, deadline: Nanos) -> Revival {
        match self.queue.poll_probe() {
            ProbeState::Passed => {
                tracing::info!(queue = %self.name, method = self.queue.method(), "a DSA queue works again");
                Revival::Ready
            }
            ProbeState::Failed(status) => {
                tracing::info!(queue = %self.name, status, "a DSA queue fails its probe");
                self.queue.begin_close();
                Revival::Failed
            }
            _ if now >= deadline => {
                tracing::info!(queue = %self.name, "a DSA queue does not answer its probe");
                self.queue.begin_close();
                Revival::Failed
            }
            _ => {
                self.stage = Stage::Probing(deadline);
                Revival::Pending
            }
        }
    }
}
