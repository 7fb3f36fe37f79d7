//! Letting go of a queue without waiting for it.
//!
//! Dropping a backend waits until its device has let go, which is the promise that keeps memory safe, and
//! may take as long as the device does. Where the device has nothing in hand there is nothing to keep safe:
//! every operation that it was given has ended, and what has ended is touched no more. Then another thread
//! may wait, and the volume goes on, or stops.

use async_tx::{Backend, Caps, Completion, Limits, Nanos, Op, OpKind, ReadyOp, Revival};

/// A backend that is dropped on another thread when it has nothing in hand.
pub(super) struct Parting {
    /// None only while it is dropped.
    backend: Option<Box<dyn Backend>>,
    in_hand: usize,
    name: String,
}

impl Parting {
    pub(super) fn new(backend: Box<dyn Backend>) -> Self {
        let name = backend.name().to_owned();
        Parting { backend: Some(backend), in_hand: 0, name }
    }
}

impl Backend for Parting {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        self.backend.as_ref().map_or(Caps::NONE, |backend| backend.caps())
    }

    fn limits(&self, kind: OpKind) -> Limits {
        self.backend.as_ref().map_or(Limits::NONE, |backend| backend.limits(kind))
    }

    fn accepts(&self, op: &Op<'_>) -> bool {
        self.backend.as_ref().is_some_and(|backend| backend.accepts(op))
    }

    fn fences(&self) -> Caps {
        self.backend.as_ref().map_or(Caps::NONE, |backend| backend.fences())
    }

    fn batch(&self) -> usize {
        self.backend.as_ref().map_or(1, |backend| backend.batch())
    }

    fn room(&self) -> usize {
        self.backend.as_ref().map_or(0, |backend| backend.room())
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let taken = self.backend.as_mut().map_or(0, |backend| backend.submit(ops));
        self.in_hand = self.in_hand.saturating_add(taken);
        taken
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let before = done.len();
        if let Some(backend) = self.backend.as_mut() {
            backend.reap(done);
        }
        // Each operation is completed exactly once: that is what every backend promises.
        self.in_hand = self.in_hand.saturating_sub(done.len().saturating_sub(before));
    }

    fn abort(&mut self) {
        if let Some(backend) = self.backend.as_mut() {
            backend.abort();
        }
    }

    fn revive(&mut self, now: Nanos) -> Revival {
        self.backend.as_mut().map_or(Revival::Failed, |backend| backend.revive(now))
    }

    fn relax(&mut self) {
        if let Some(backend) = self.backend.as_mut() {
            backend.relax();
        }
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        let Some(backend) = self.backend.take().filter(|_| self.in_hand == 0) else { return };
        let thread = std::thread::Builder::new().name("uraid parting".to_owned());
        // Without a thread the closure is dropped here, and the backend with it.
        if let Err(error) = thread.spawn(move || drop(backend)) {
            tracing::debug!("no thread to let go of {} with: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

    use async_tx::{OpToken, Region, Verdict};

    use super::*;

    /// Its drop waits until it is told that it may return.
    struct Slow {
        may_go: Receiver<()>,
        gone: Sender<()>,
        done: Vec<Completion>,
    }

    impl Backend for Slow {
        fn name(&self) -> &str {
            "slow"
        }

        fn caps(&self) -> Caps {
            Caps::ALL
        }

        fn limits(&self, _kind: OpKind) -> Limits {
            Limits::NONE
        }

        fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
            let end = |op: &ReadyOp<'_>| Completion { token: op.token, result: Ok(Verdict::default()) };
            self.done.extend(ops.iter().map(end));
            ops.len()
        }

        fn reap(&mut self, done: &mut Vec<Completion>) {
            done.append(&mut self.done);
        }

        fn abort(&mut self) {}

        fn revive(&mut self, _now: Nanos) -> Revival {
            Revival::Ready
        }
    }

    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.may_go.recv();
            let _ = self.gone.send(());
        }
    }

    fn slow() -> (Parting, Sender<()>, Receiver<()>) {
        let (let_go, may_go) = channel();
        let (gone, seen) = channel();
        (Parting::new(Box::new(Slow { may_go, gone, done: Vec::new() })), let_go, seen)
    }

    /// Fills one byte that lives as long as the program.
    fn submit(parting: &mut Parting) {
        let byte: &'static mut u8 = Box::leak(Box::new(0));
        // SAFETY: one byte that nobody else knows of.
        let dst = unsafe { Region::new(byte, 1) };
        let op = Op::Fill { dst, byte: 1 }.check().unwrap();
        assert_eq!(parting.submit(&[ReadyOp { token: OpToken(1), op, fence: false }]), 1);
    }

    #[test]
    fn nobody_waits_for_a_backend_with_empty_hands() {
        let (mut parting, let_go, gone) = slow();
        submit(&mut parting);
        parting.reap(&mut Vec::new());
        drop(parting);
        assert!(gone.try_recv().is_err(), "it was not told that it may go");
        let_go.send(()).unwrap();
        gone.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn a_backend_with_work_in_hand_is_waited_for() {
        let (mut parting, let_go, gone) = slow();
        submit(&mut parting);
        std::thread::scope(|scope| {
            let (dropped, is_dropped) = channel();
            scope.spawn(move || {
                drop(parting);
                dropped.send(()).unwrap();
            });
            assert!(is_dropped.recv_timeout(Duration::from_millis(50)).is_err(), "nobody waited");
            let_go.send(()).unwrap();
            is_dropped.recv_timeout(Duration::from_secs(60)).unwrap();
        });
        gone.try_recv().unwrap();
    }
}
