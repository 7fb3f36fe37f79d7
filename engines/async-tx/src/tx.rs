//! Handles of chains: how a caller learns that one ended, and makes others wait for it.
//!
//! A handle names a descriptor in a table that the engine and its handles share. The descriptor is used
//! again when the chain has ended **and** was acknowledged. Owning the handle is what is not yet
//! acknowledged: a [`Tx`] that is dropped, passed on as a dependency or given to [`Tx::ack`] is. None of
//! this allocates once the table has grown.

use std::borrow::Borrow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::engine::ChainDone;
use crate::op::Verdict;
use crate::slab::Key;
use crate::{EngineError, WaitError};

/// How a chain ended.
pub(crate) type Outcome = Result<Verdict, EngineError>;

/// Is told how a chain ended: [`Done::Callback`].
///
/// It is called at the end of [`crate::Engine::poll`], on the thread that polls, also for a chain that
/// ended at once in [`crate::Engine::submit_tx`]. It gets no engine, and has none within reach: an engine
/// is no [`Sync`], so that nothing that is may hold one. To go on with more work, tell the owner of the
/// engine, by a channel for example.
///
/// ```compile_fail,E0277
/// use std::cell::RefCell;
/// use async_tx::{Chain, ChainDone, Engine, OnDone};
///
/// struct Resubmit(RefCell<Engine>);
///
/// impl OnDone for Resubmit { // error: `RefCell<Engine>` cannot be shared between threads safely
///     fn done(&self, _done: ChainDone) {
///         self.0.borrow_mut().submit(Chain::new(), 0);
///     }
/// }
/// ```
///
/// What does compile is a `Mutex` around the engine. Whoever polls holds the lock then, and a callback
/// that asks for it waits for itself.
pub trait OnDone: Send + Sync {
    /// The chain ended so. Its tag is zero: who wants to tell chains apart uses one `OnDone` for each.
    fn done(&self, done: ChainDone);
}

impl<F: Fn(ChainDone) + Send + Sync> OnDone for F {
    fn done(&self, done: ChainDone) {
        self(done);
    }
}

/// What is to happen when a chain has ended, beside its [`Tx`].
#[derive(Clone, Default)]
pub enum Done {
    /// Nothing.
    #[default]
    None,
    /// [`crate::Engine::poll`] reports it under this tag.
    Tag(u64),
    /// This is called. One may serve for any number of chains, so that it is allocated once.
    Callback(Arc<dyn OnDone>),
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::None => f.write_str("None"),
            Done::Tag(tag) => write!(f, "Tag({tag})"),
            Done::Callback(_) => f.write_str("Callback"),
        }
    }
}

/// How a chain is submitted by [`crate::Engine::submit_tx`].
///
/// ```
/// # use async_tx::{Done, Submit, Tx};
/// # fn example(a: Tx, b: Tx, shared: &Tx) {
/// let first = Submit::default();
/// let reported = Submit::then(Done::Tag(6));
/// let after_two = Submit { after: [a, b], done: Done::Tag(7) };
/// let also_after = Submit { after: [shared], done: Done::None };
/// # }
/// ```
#[derive(Debug)]
pub struct Submit<I = [Tx; 0]> {
    /// The chains that it waits for: anything that gives [`Tx`], which are consumed, or `&Tx`, which are
    /// not, so that several chains can wait for one. If one of them fails, so does this
    /// ([`EngineError::Dependency`]).
    pub after: I,
    /// What is to happen when it has ended.
    pub done: Done,
}

impl Submit {
    /// Waits for nothing, and tells so when the chain has ended.
    pub fn then(done: Done) -> Self {
        Submit { after: [], done }
    }
}

impl Default for Submit {
    /// Waits for nothing, tells nobody.
    fn default() -> Self {
        Submit { after: [], done: Done::None }
    }
}

/// Where to report the end of a chain.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The descriptor, if there is a handle.
    pub(crate) tx: Option<u32>,
    pub(crate) done: Done,
}

/// What a handle and the engine share about one chain.
#[derive(Debug, Default)]
struct Descriptor {
    /// The handle exists: the chain was not acknowledged.
    held: bool,
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

/// The table of descriptors.
#[derive(Debug, Default)]
struct Table {
    descriptors: Vec<Descriptor>,
    free: Vec<u32>,
}

/// The table, shared by the engine and its handles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk(Arc<Mutex<Table>>);

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the lock is held; if it did, the table would still be whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle of a chain that has not ended, and the number of its descriptor.
    pub(crate) fn open(&self) -> (Tx, u32) {
        let mut table = self.lock();
        let index = table.free.pop().unwrap_or_else(|| {
            table.descriptors.push(Descriptor::default());
            // Memory ends long before the numbers do.
            (table.descriptors.len() - 1) as u32
        });
        if let Some(descriptor) = table.descriptors.get_mut(index as usize) {
            *descriptor = Descriptor { held: true, outcome: None, waker: None };
        }
        drop(table);
        (Tx { desk: self.clone(), index, flight: None }, index)
    }

    /// The chain of this descriptor ended. Returns who is to be woken.
    pub(crate) fn end(&self, index: u32, outcome: Outcome) -> Option<Waker> {
        let mut table = self.lock();
        let descriptor = table.descriptors.get_mut(index as usize)?;
        if descriptor.outcome.is_some() {
            return None;
        }
        descriptor.outcome = Some(outcome);
        let waker = descriptor.waker.take();
        if !descriptor.held {
            table.free.push(index);
        }
        waker
    }

    /// The engine is gone: no chain will end any more. Returns who is to be woken.
    pub(crate) fn close(&self) -> Vec<Waker> {
        let count = self.lock().descriptors.len();
        // Descriptors that are free have an outcome.
        (0..count).filter_map(|index| self.end(index as u32, Err(EngineError::Dropped))).collect()
    }

    /// Descriptors that are free, and all.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let table = self.lock();
        (table.free.len(), table.descriptors.len())
    }

    fn acknowledge(&self, index: u32) {
        let mut table = self.lock();
        let Some(descriptor) = table.descriptors.get_mut(index as usize) else { return };
        descriptor.held = false;
        let waker = descriptor.waker.take();
        if descriptor.outcome.is_some() {
            table.free.push(index);
        }
        drop(table);
        // A waker may own a task that owns other handles, whose end takes the lock, too.
        drop(waker);
    }
}

/// The handle of a chain that was submitted with [`crate::Engine::submit_tx`].
///
/// It can be asked, waited for ([`crate::Engine::wait`]), awaited, and made a dependency of later chains.
/// Dropping it, consuming it as a dependency or [`Tx::ack`] says that none of this will be done: the
/// chain runs on, and what the engine keeps about it is used again when it has ended.
///
/// There is no second one of a chain, and none can be used after it was acknowledged:
///
/// ```compile_fail,E0382
/// use async_tx::{Chain, Done, Engine, Submit};
///
/// fn twice(engine: &mut Engine, first: Chain, second: Chain) {
///     let tx = engine.submit_tx(first, Submit::default());
///     let _last = engine.submit_tx(second, Submit { after: [tx], done: Done::None });
///     tx.ack(); // error: use of moved value
/// }
/// ```
///
/// As a future it gives what [`crate::Engine::wait`] gives. Somebody else has to poll the engine for it
/// to come about; that wakes the task.
#[must_use = "dropping it says that nobody will wait for the chain; use `Engine::submit` for that"]
pub struct Tx {
    desk: Desk,
    index: u32,
    /// Where the chain is, unless it ended at once.
    flight: Option<Key>,
}

impl Tx {
    /// Whether the chain has ended.
    pub fn is_done(&self) -> bool {
        self.outcome().is_some()
    }

    /// How the chain ended; `None` if it has not.
    pub fn outcome(&self) -> Option<Result<Verdict, EngineError>> {
        self.desk.lock().descriptors.get(self.index as usize)?.outcome
    }

    /// Says that nobody will ask or wait for it any more. Dropping it says the same.
    pub fn ack(self) {}

    pub(crate) fn set_flight(&mut self, flight: Key) {
        self.flight = Some(flight);
    }

    pub(crate) fn flight(&self) -> Option<Key> {
        self.flight
    }

    /// Whether it is of the engine with this table.
    pub(crate) fn is_of(&self, desk: &Desk) -> bool {
        Arc::ptr_eq(&self.desk.0, &desk.0)
    }

    /// What waiting for it gives, if the chain has ended.
    pub(crate) fn waited(&self) -> Option<Result<Verdict, WaitError>> {
        self.outcome().map(|outcome| outcome.map_err(WaitError::Chain))
    }
}

impl Drop for Tx {
    fn drop(&mut self) {
        self.desk.acknowledge(self.index);
    }
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("index", &self.index).field("outcome", &self.outcome()).finish()
    }
}

impl Future for Tx {
    type Output = Result<Verdict, EngineError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let waker = context.waker().clone();
        let mut table = self.desk.lock();
        let Some(descriptor) = table.descriptors.get_mut(self.index as usize) else { return Poll::Pending };
        if let Some(outcome) = descriptor.outcome {
            return Poll::Ready(outcome);
        }
        let old = descriptor.waker.replace(waker);
        drop(table);
        // As in `acknowledge`.
        drop(old);
        Poll::Pending
    }
}

/// What a chain waits for, as [`crate::Engine::submit_tx`] sees it.
pub(crate) enum Dependency {
    /// It has ended well.
    Over,
    /// It is under way.
    Flight(Key),
    /// It failed, or cannot be waited for.
    Failed(EngineError),
}

impl Dependency {
    pub(crate) fn of(tx: &impl Borrow<Tx>, desk: &Desk) -> Self {
        let tx = tx.borrow();
        if !tx.is_of(desk) {
            return Dependency::Failed(EngineError::Foreign);
        }
        match (tx.outcome(), tx.flight()) {
            (Some(Ok(_)), _) => Dependency::Over,
            (None, Some(flight)) => Dependency::Flight(flight),
            _ => Dependency::Failed(EngineError::Dependency),
        }
    }
}
