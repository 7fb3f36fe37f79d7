//! Chains of memory operations over pluggable backends.
//!
//! A [`Chain`] is a DAG of [`Op`]s: copy, fill, xor, P+Q, update, check, recovery, CRC. An [`Engine`] runs
//! each operation on the [`Backend`] that [`route()`] names, cutting what is too large, and on the CPU (an
//! [`Inline`] backend) whatever no other takes, fails or has no room for. Who computed shows in the
//! counters only: the bytes and the verdict are those of running the operations one by one in the order
//! in which they were pushed.
//!
//! ```text
//!   Chain::push(op, deps)       Engine::submit(chain, tag) ─────> Engine::poll(&mut done)
//!                               Engine::submit_tx(chain, ..) ───> Tx: wait, await, dependency, callback
//!                               Engine::run(chain) ─────────────> the same result, at once
//!                                      │ route: capability, limits, thresholds, health
//!                        ┌─────────────┼──────────────┐
//!                    Backend        Backend         Inline (CPU)
//! ```
//!
//! What it promises:
//! - Every chain ends once, and a backend's fault never fails one: the operation runs on the CPU when
//!   nothing can write its memory any more, the backend is quarantined until it has proved that it works,
//!   and there is an [`Alert`]. Only a backend that never gives back what it has keeps a chain from
//!   ending; [`Engine::wait`] and [`Engine::run`] do not wait for that forever.
//! - No two operations in flight of one chain, or of chains ordered by a [`Tx`], touch a common byte that
//!   one of them writes.
//! - A chain whose operations all run on the CPU is run in order at submission, without queues, without a
//!   look at the clock, and without allocation. Other chains do not allocate either, once the engine's
//!   tables have grown.
//!
//! What it leaves to others: what the memory means, and keeping it alive ([`Region::new`]); computing
//! (the `engine-*` crates); and being called: [`Engine::poll`] moves chains on, and
//! [`Engine::issue_pending_all`] says that a batch will not get any fuller.

mod alert;
mod backend;
pub mod calibrate;
mod chain;
mod channels;
mod check;
mod clock;
mod complete;
mod config;
pub mod conformance;
mod crosscheck;
mod dispatch;
mod edges;
mod engine;
mod error;
mod flight;
mod launch;
mod op;
mod pending;
mod quarantine;
mod region;
mod route;
mod slab;
mod slot;
mod split;
mod stats;
mod thresholds;
mod tx;

pub use alert::Alert;
pub use backend::{Backend, Caps, Completion, Inline, Limits, OpToken, ReadyOp, Revival};
pub use calibrate::{Calibration, calibrate};
pub use chain::{Chain, NodeId};
pub use channels::{
    ChannelId, ChannelInfo, ChannelPlan, ChannelSpec, Channels, DeviceId, DeviceSpec, Distances, Lease,
    OpenError, Opener, RegisterError, Usage, plan_channels,
};
pub use check::CheckedOp;
pub use clock::{Clock, Monotonic, Nanos};
pub use config::EngineConfig;
pub use engine::{ChainDone, Engine};
pub use error::{ChainError, EngineError, Fault, OpError, WaitError};
pub use op::{Access, Change, Lost, Op, OpKind, Product, SOURCES_MAX, Seed, Verdict, XorMode};
pub use region::Region;
pub use route::{
    Candidate, Choice, FAR_FACTOR, Health, Place, Profile, Question, Reason, SWITCH_FACTOR, route,
};
pub use split::Cut;
pub use stats::{BackendStats, CpuKind, EngineStats, KindStats};
pub use thresholds::{Policies, Policy, PolicyError, Thresholds};
pub use tx::{Done, OnDone, Submit, Tx};
