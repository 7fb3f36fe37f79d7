//! One array shard: where the array core, the chain engine and member I/O meet, on one thread, together
//! with the clients that they work for.
//!
//! ```text
//!            tokio: handshakes, control                 one thread a shard
//!   ┌──────────────────────────────────┐   ┌───────────────────────────────────────────────┐
//!   │ ShardHandle ── connect, status,  │──>│ service ── connections (NBD transmission)     │
//!   │                fail, add, stop   │   │    │                                          │
//!   └──────────────────────────────────┘   │ runner ── Array (core) ── Engine ── MemberSet │
//!                                          │    └───── memory: slots, payloads             │
//!                                          └───────────────────────────────────────────────┘
//! ```
//!
//! [`Shard::spawn`] starts one. [`Runner`] is the part without threads and sockets: a simulator drives it
//! with other members and another clock, and everything that decides about data is the same.
//!
//! [`Offload`] finds the work queues of devices that the engine may use beside the CPU. It may block, so it
//! stands beside the shard and sends it what has changed.
//!
//! What this crate promises: memory stays in place until everyone has done with it; a write reaches the
//! array only when its payload is complete; a client can harm nothing but its own connection; nothing is
//! allocated on a client's word. What it leaves to others: handshakes, opening and assembling members,
//! and every decision about data, which is the core's.

mod clients;
mod clock;
mod config;
mod conn;
mod handover;
mod latency;
mod lower;
mod memory;
mod news;
mod offload;
mod redundancy;
mod requests;
mod runner;
mod send;
mod service;
mod shard;
mod share;
mod socket;
mod status;
mod sys;
mod terms;

pub use clock::{Clock, ManualClock, MonotonicClock};
pub use config::{EngineError, POOL_BYTES_MIN, ShardConfig, SpawnError, Tuning, cpu_engine, engine};
pub use conn::{ConnectionError, ConnectionLimits};
pub use handover::{ConnectionKind, HandedOver};
pub use latency::{
    ClientOp, ClientOps, Histogram, LATENCY_BOUNDS, MemberOp, MemberOps, OpStats, latency_bound_us,
};
pub use lower::LowerError;
pub use memory::{BadMem, Memory, MemoryConfig};
pub use news::{Listener, News};
pub use offload::{
    DsaUse, EngineChange, NewBackend, Offload, OffloadConfig, OpenQueue, QueueInfo, Standing, decided,
    measure, paths,
};
pub use redundancy::{REDUNDANCY_CONTEXT, redundancy_flag, with_redundancy_context};
pub use runner::{Fatal, Finished, IoCounters, MemberError, NewRequest, Progress, Runner};
pub use shard::{AddError, FailError, MemberName, NewConnection, Shard, ShardExit, ShardGone, ShardHandle};
pub use status::{
    AlertRecord, ClientCounters, MemberInfo, NoticeRecord, NoticeTotals, ShardStatus, SyncInfo,
};
pub use sys::peer_groups;
pub use terms::Terms;
