//! What every [`Backend`] has to pass: the points at which engine and backends rely on each other, each
//! with a name, run against any backend.
//!
//! A [`Subject`] makes fresh backends, lets a single-stepped device move, and makes trouble where it can.
//! [`run`] tries every [`Point`] and returns a [`Report`]; nothing here panics, so that a test decides what
//! a failure is:
//!
//! ```
//! use async_tx::conformance::{self, Subject};
//! # use async_tx::{Backend, Caps, Completion, Limits, Nanos, OpKind, ReadyOp, Revival};
//! # struct Nothing;
//! # impl Backend for Nothing {
//! #     fn name(&self) -> &str { "nothing" }
//! #     fn caps(&self) -> Caps { Caps::NONE }
//! #     fn limits(&self, _: OpKind) -> Limits { Limits::NONE }
//! #     fn room(&self) -> usize { 1 }
//! #     fn submit(&mut self, _: &[ReadyOp<'_>]) -> usize { 0 }
//! #     fn reap(&mut self, _: &mut Vec<Completion>) {}
//! #     fn abort(&mut self) {}
//! #     fn revive(&mut self, _: Nanos) -> Revival { Revival::Ready }
//! # }
//! struct Mine;
//!
//! impl Subject for Mine {
//!     fn backend(&mut self) -> Box<dyn Backend> {
//!         Box::new(Nothing)
//!     }
//! }
//!
//! let report = conformance::run(&mut Mine);
//! assert!(report.passed(), "{report}");
//! ```
//!
//! Results are compared with the definitions of the operations, computed here a byte at a time. The
//! suite's memory is of fixed seeds and is never freed: a backend that breaks its promises may write to it
//! at any time.
//!
//! What it leaves to others: how a device is driven, its own limits of time, and what becomes of whole
//! chains on several backends under faults, which are tests of the engine.

mod arena;
mod basic;
mod bench;
mod cases;
mod engine;
mod faults;
mod oracle;
mod queue;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use oracle::Naive;

use crate::{Backend, Region};
use arena::Arena;
use bench::Bench;

/// Trouble that a subject can make on request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Trouble {
    /// The next operation that starts fails, and its destinations may then hold anything, if the limits do
    /// not say otherwise. The failure is one that the backend does not mend by itself.
    Fail,
    /// From now on the device takes operations and does nothing about them, as one that hangs.
    Stall,
    /// The device goes away, as one that is unplugged or whose process is killed: what it was given comes to
    /// nothing, at once or in part, and it takes nothing more.
    Gone,
    /// All is well again: what stalled goes on, nothing fails any more, and a device that was gone is there
    /// to be opened anew.
    Heal,
}

/// Makes the backends that the suite tries.
pub trait Subject {
    /// A fresh backend in working order, with nothing injected. The one before it was dropped.
    fn backend(&mut self) -> Box<dyn Backend>;

    /// All memory that operations of the suite will name. Called once, before the first
    /// [`backend`](Self::backend); the memory is never freed.
    fn memory(&mut self, memory: Region) {
        let _ = memory;
    }

    /// Lets a device that moves only when told move on; others are given the processor.
    fn step(&mut self) {
        std::thread::yield_now();
    }

    /// Makes trouble in the backend made last; false if this subject cannot. One that makes any also makes
    /// [`Trouble::Heal`].
    fn inject(&mut self, trouble: Trouble) -> bool {
        let _ = trouble;
        false
    }

    /// Whether [`Backend::room`] says just how many operations the next call to [`Backend::submit`] takes.
    /// It cannot where others use the same queue.
    fn room_is_exact(&self) -> bool {
        true
    }

    /// How long the suite waits for one thing to happen before it says that it does not.
    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// Something that backends must do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Point {
    /// What it says of itself makes sense, and stays what it is.
    Declares,
    /// Every operation that it takes has the bytes and the verdict of the definition, at all lengths,
    /// alignments and source counts that its limits allow.
    Results,
    /// Nothing but destinations is written.
    Surroundings,
    /// Many at once: each completion is that of its own operation, in whatever order they come.
    OwnResult,
    /// Every operation taken is completed once, none is forgotten, and no others are.
    Once,
    /// Completions are appended to what the caller has; what was there stays.
    ReapAppends,
    /// After its completion nothing writes an operation's memory, while others are still in hand.
    QuietAfterCompletion,
    /// A full queue takes fewer, says so in its room, and takes more when there is room again.
    QueueFull,
    /// An operation with a fence starts when all earlier ones of its call ended.
    Fence,
    /// An operation behind the fence of a failed one is not started, and says so.
    AbandonedBehindFence,
    /// A failure is a value: the operation has one, sources and surroundings are as they were, and so are
    /// destinations where the limits say it.
    FaultIsAValue,
    /// What is given up is completed, each once, and after that nothing writes.
    Abort,
    /// A device that goes on late, after what it had was given up, does not write what was given back.
    LateAfterAbort,
    /// When the device is gone, all that it was given comes back, once, nothing writes it after that, and
    /// the backend works again with the next device.
    DeviceGone,
    /// It can be made to work again after it was aborted.
    Revive,
    /// Dropping it with operations in hand returns, and after that nothing writes.
    Drop,
    /// Dropping it while the device hangs returns, if need be when the device goes on, and after that
    /// nothing writes.
    DropWhileStalled,
    /// A chain with dependencies gives the result of its order, whoever runs which of its operations.
    DependencyRelease,
    /// A callback runs once, not inside `submit`, and on the thread that polls.
    CallbackOnce,
    /// A chain whose handle was dropped still runs to its end, and the engine can be dropped at any time.
    Cancel,
    /// The engine gets its chains done on the CPU while the backend fails, hangs and comes back.
    Retry,
}

impl Point {
    /// All points, in the order in which they are tried.
    pub const ALL: [Point; 21] = [
        Point::Declares,
        Point::Results,
        Point::Surroundings,
        Point::OwnResult,
        Point::Once,
        Point::ReapAppends,
        Point::QuietAfterCompletion,
        Point::QueueFull,
        Point::Fence,
        Point::AbandonedBehindFence,
        Point::FaultIsAValue,
        Point::Abort,
        Point::LateAfterAbort,
        Point::DeviceGone,
        Point::Revive,
        Point::Drop,
        Point::DropWhileStalled,
        Point::DependencyRelease,
        Point::CallbackOnce,
        Point::Cancel,
        Point::Retry,
    ];
}

/// How a point went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// It could not be tried, and why.
    NotTried(&'static str),
    /// It did not hold, and what was seen.
    Failed(String),
}

/// How all points went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Each point and how it went, in the order tried.
    pub outcomes: Vec<(Point, Outcome)>,
}

impl Report {
    /// Whether no point failed.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The points that failed.
    pub fn failures(&self) -> impl Iterator<Item = Point> {
        self.outcomes.iter().filter(|(_, how)| matches!(how, Outcome::Failed(_))).map(|(point, _)| *point)
    }

    /// The points that could not be tried.
    pub fn not_tried(&self) -> impl Iterator<Item = Point> {
        self.outcomes.iter().filter(|(_, how)| matches!(how, Outcome::NotTried(_))).map(|(point, _)| *point)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (point, outcome) in &self.outcomes {
            match outcome {
                Outcome::Passed => writeln!(f, "{point:?}: passed")?,
                Outcome::NotTried(why) => writeln!(f, "{point:?}: not tried: {why}")?,
                Outcome::Failed(what) => writeln!(f, "{point:?}: FAILED: {what}")?,
            }
        }
        Ok(())
    }
}

/// What a point comes to: done, or not tried because of this; an error is what did not hold.
type Tried = Result<Option<&'static str>, String>;

/// Tries every point.
pub fn run(subject: &mut dyn Subject) -> Report {
    run_points(subject, &Point::ALL)
}

/// Tries these points.
pub fn run_points(subject: &mut dyn Subject, points: &[Point]) -> Report {
    let mut arena = Arena::new(0x5eed_c0f0);
    subject.memory(arena.whole());
    let outcomes = points.iter().map(|point| (*point, try_point(subject, &mut arena, *point))).collect();
    Report { outcomes }
}

fn try_point(subject: &mut dyn Subject, arena: &mut Arena, point: Point) -> Outcome {
    // A panic anywhere, in the backend above all, is a failure of the point.
    let tried = catch_unwind(AssertUnwindSafe(|| match point {
        Point::DependencyRelease => engine::dependency_release(subject, arena),
        Point::CallbackOnce => engine::callback_once(subject, arena),
        Point::Cancel => engine::cancel(subject, arena),
        Point::Retry => engine::retry(subject, arena),
        _ => on_a_bench(&mut Bench::new(subject, arena), point),
    }));
    match tried {
        Ok(Ok(None)) => Outcome::Passed,
        Ok(Ok(Some(why))) => Outcome::NotTried(why),
        Ok(Err(what)) => Outcome::Failed(what),
        Err(_) => Outcome::Failed("something panicked".to_owned()),
    }
}

fn on_a_bench(bench: &mut Bench<'_>, point: Point) -> Tried {
    match point {
        Point::Declares => basic::declares(bench),
        Point::Results => basic::results(bench),
        Point::Surroundings => basic::surroundings(bench),
        Point::OwnResult => basic::own_result(bench),
        Point::Once => basic::once(bench),
        Point::ReapAppends => basic::reap_appends(bench),
        Point::QuietAfterCompletion => basic::quiet_after_completion(bench),
        Point::QueueFull => queue::queue_full(bench),
        Point::Fence => queue::fence(bench),
        Point::AbandonedBehindFence => queue::abandoned_behind_fence(bench),
        Point::FaultIsAValue => faults::fault_is_a_value(bench),
        Point::Abort => faults::abort(bench),
        Point::LateAfterAbort => faults::late_after_abort(bench),
        Point::DeviceGone => faults::device_gone(bench),
        Point::Revive => faults::revive(bench),
        Point::Drop => faults::drop_in_hand(bench),
        Point::DropWhileStalled => faults::drop_while_stalled(bench),
        Point::DependencyRelease | Point::CallbackOnce | Point::Cancel | Point::Retry => Ok(None),
    }
}
