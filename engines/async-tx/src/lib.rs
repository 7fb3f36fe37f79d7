//! Chains of memory operations over pluggable backends.
//!
//! A [`Chain`] is a DAG of [`Op`]s: copy, fill, xor, P+Q, update, check, recovery. An [`Engine`] runs each
//! operation on the first [`Backend`] that can take it, cutting what is too large, and on the CPU (an
//! [`Inline`] backend) whatever no other takes, fails or has no room for. Who computed shows in the
//! counters only: the bytes and the verdict are those of running the operations one by one in the order
//! in which they were pushed.
//!
//! ```text
//!   Chain::push(op, deps)       Engine::submit(chain, tag) ──> Engine::poll(&mut done)
//!                               Engine::run(chain) ──────────> the same result, at once
//!                                      │ route: capability, limits, health
//!                        ┌─────────────┼──────────────┐
//!                    Backend        Backend         Inline (CPU)
//! ```
//!
//! What it promises: a backend's fault never fails a chain (the operation is retried on the CPU, and the
//! backend is quarantined and counted); no two operations in flight of one chain touch a common byte that
//! one of them writes; a chain whose operations all run on the CPU is run in order at submission, without
//! queues or allocation.
//!
//! What it leaves to others: what the memory means, and keeping it alive ([`Region::new`]); computing
//! (the `engine-*` crates); and time: an operation that a backend never completes is never given up.

mod backend;
pub mod calibrate;
mod chain;
mod channels;
mod check;
mod clock;
pub mod conformance;
mod engine;
mod error;
mod flight;
mod op;
mod region;
mod route;
mod stats;
mod thresholds;

pub use backend::{Backend, Caps, Completion, Inline, Limits, OpToken, ReadyOp, Revival};
pub use calibrate::{Calibration, calibrate};
pub use chain::{Chain, NodeId};
pub use channels::{
    ChannelId, ChannelInfo, ChannelPlan, ChannelSpec, Channels, DeviceId, DeviceSpec, Distances, Lease,
    OpenError, Opener, RegisterError, Usage, plan_channels,
};
pub use check::CheckedOp;
pub use clock::{Clock, Monotonic, Nanos};
pub use engine::{ChainDone, Engine};
pub use error::{ChainError, EngineError, Fault, OpError};
pub use op::{Access, Change, Lost, Op, OpKind, Product, SOURCES_MAX, Seed, Verdict, XorMode};
pub use region::Region;
pub use route::{
    Candidate, Choice, Cut, FAR_FACTOR, Health, Place, Profile, Question, Reason, SWITCH_FACTOR, route,
};
pub use stats::{BackendStats, EngineStats};
pub use thresholds::{Policies, Policy, PolicyError, Thresholds};
