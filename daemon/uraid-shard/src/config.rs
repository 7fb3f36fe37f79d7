//! What a shard is made of, and why it may not be made.

use std::time::Duration;

use async_tx::Engine;
use engine_cpu::CpuBackend;
use md_format::Assembly;
use raid6_simd::{Kernel, Kernels, SelectError, Selection};
use thiserror::Error;
use uraid_blockio::{ArenaError, AttachError, Member};
use uraid_core::StartError;

use crate::conn::ConnectionLimits;
use crate::news::Listener;
use crate::offload::{DsaUse, NewBackend, Offload};

/// The least bytes for payloads: the longest payload of the protocol must fit.
pub const POOL_BYTES_MIN: usize = nbd_rs::wire::limit::PAYLOAD as usize;

/// How a shard is run. [`Tuning::default`] is good for most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// Bytes for the stripe cache; at least 16 stripes are made.
    pub cache_bytes: usize,
    /// Bytes for the payloads of requests, at least [`POOL_BYTES_MIN`]. A reserve of 64 KiB a connection,
    /// at most a quarter of this, is added to it.
    pub pool_bytes: usize,
    /// Lock all of it into memory.
    pub lock_memory: bool,
    /// How long to look for further input before sleeping. A sleeping thread takes 20 to 50 µs to wake on
    /// virtual machines, several times what a small request takes; zero saves the power.
    pub spin: Duration,
    /// What one connection may have in flight.
    pub connection: ConnectionLimits,
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// A client that holds memory while others wait for some is disconnected if it does not move for so
    /// long, or does not get done with one request. If another one cannot go on at all, two seconds without
    /// a byte are enough.
    pub stall: Duration,
    /// Use io_uring for the members that profit from it.
    pub io_uring: bool,
    /// Milliseconds without a write after which the array is marked clean.
    pub safe_mode_ms: u64,
    /// Stripes of a resync or rebuild in flight while no client is served.
    pub sync_window: u32,
    /// Check all invariants of the core all the time; very slow, for tests.
    pub self_check: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            pool_bytes: 128 << 20,
            lock_memory: false,
            spin: Duration::from_micros(60),
            connection: ConnectionLimits::default(),
            connections: 128,
            stall: Duration::from_secs(30),
            io_uring: true,
            safe_mode_ms: 200,
            sync_window: 8,
            self_check: false,
        }
    }
}

/// What a shard is made of.
pub struct ShardConfig {
    /// The volume's name, for the log and the thread.
    pub name: String,
    /// The assembled array.
    pub assembly: Assembly,
    /// The opened members, `members[i]` for `assembly.members[i]`.
    pub members: Vec<Member>,
    /// Refuse writes and leave the members as they are.
    pub read_only: bool,
    /// Who computes; see [`engine`] and [`cpu_engine`].
    pub engine: Engine,
    /// Sizes and times.
    pub tuning: Tuning,
    /// Who is told what happens; without one it is logged.
    pub listener: Option<Listener>,
}

/// Why a shard was not started.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// The list of opened members does not fit the assembly.
    #[error("{assembled} members were assembled, but {opened} were opened")]
    Members {
        /// Members of the assembly.
        assembled: usize,
        /// Members opened.
        opened: usize,
    },
    /// A member could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The array cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The memory cannot be had.
    #[error(transparent)]
    Memory(#[from] ArenaError),
    /// The system has no thread or no event descriptor left.
    #[error("cannot start the volume's thread: {0}")]
    Thread(std::io::Error),
}

/// An engine that computes on the CPU, with the kernels of this name: `auto`, `measured`, `cycle` or the
/// name of one. The log says which they are and why.
///
/// # Errors
/// There are no such kernels, or this CPU cannot run them.
pub fn cpu_engine(kernels: &str) -> Result<Engine, SelectError> {
    let kernels = Kernels::select(kernels.parse::<Selection>()?)?;
    let name = kernels.kernel().map_or("all in turn", Kernel::name);
    tracing::info!("parity kernels: {name} ({})", kernels.why());
    Ok(Engine::new(Box::new(CpuBackend::new(kernels))))
}

/// Why an engine cannot be made.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The kernels cannot be had.
    #[error(transparent)]
    Kernels(#[from] SelectError),
    /// A work queue was required, and none can be used.
    #[error("a DSA work queue is required, and none can be used: {why}; `uraid engines` shows what there is")]
    NoQueue {
        /// Why not.
        why: String,
    },
}

/// An engine that computes on the CPU, as [`cpu_engine`], and on the work queues that are found: they are
/// opened, proved and measured here, which takes a fraction of a second each. The [`Offload`] is to be
/// asked now and then what has changed, on another thread than the shard's.
///
/// # Errors
/// [`EngineError`]. That no queue can be used is an error only if one is required.
pub fn engine(kernels: &str, mut offload: Offload) -> Result<(Engine, Offload), EngineError> {
    let mut engine = cpu_engine(kernels)?.with_config(offload.config().engine_config());
    for NewBackend { backend, thresholds, near } in offload.look().add {
        let name = backend.name().to_owned();
        engine.add_backend(backend, thresholds);
        engine.set_near(&name, near);
    }
    match offload.why_none() {
        Some(why) if offload.config().dsa == DsaUse::Require => return Err(EngineError::NoQueue { why }),
        Some(why) if offload.is_on() => tracing::info!("no DSA work queue is used: {why}"),
        _ => {}
    }
    Ok((engine, offload))
}
