//! Member I/O: where a byte of an array reaches a disk.
//!
//! A [`Member`] is an opened file or block device with what is known about it. A [`MemberSet`] holds the
//! members of one array and moves bytes between them and memory, through io_uring where that pays and by
//! `pread`/`pwrite` in the caller where it does not; [`MemMembers`] does the same with members that are
//! memory, and fails where a test wants it to. Both speak [`MemberIo`].
//!
//! The memory is a [`BufPool`] (or any [`Arena`]); a view of it is an [`IoBuf`].
//!
//! What this crate promises:
//!
//! * An operation in flight owns its memory: nothing is unmapped or given back to a pool while a device
//!   may still read or write it, whatever the caller drops.
//! * A short transfer is continued and an interrupted one repeated; an operation ends well only when every
//!   byte was moved.
//! * Nothing outside the range that a member had when it was opened is read or written. A file that was cut
//!   short since is [`IoFault::Gone`] to whoever reads what is missing, writes anything or flushes: it does
//!   not grow back with zeroes where there were data.
//! * A request of any alignment is served, through a bounce buffer where the member wants aligned ones.
//!
//! What it leaves to others: which operations may overlap (a device gives no order to two writes of one
//! block that are in flight together, nor does this crate), what a fault means for the array, and
//! superblocks.
//!
//! ```
//! use uraid_blockio::*;
//!
//! let path = std::env::temp_dir().join(format!("uraid-blockio-example-{}", std::process::id()));
//! create_sparse(&path, 1 << 20)?;
//! let pool = BufPool::new(4 << 20, ArenaOptions::default())?;
//! let mut set = MemberSet::new();
//! // Registering only saves time; a set without io_uring refuses it and works all the same.
//! let _ = set.register(pool.arena());
//! let member = set.attach(Member::open(&path, OpenOptions::default())?)?;
//!
//! let buf = pool.try_alloc(65536).ok_or("the pool is empty")?;
//! buf.fill(0x5a);
//! set.submit(Io { token: 1, member, op: IoOp::Write(buf.io()), offset: 4096 });
//! let mut done = Vec::new();
//! while set.in_flight() > 0 {
//!     set.wait(None);
//!     set.reap(&mut done);
//! }
//! assert_eq!(done, [IoDone { token: 1, member, result: Ok(()) }]);
//! # std::fs::remove_file(&path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arena;
mod entry;
mod fence;
mod inherited;
mod io;
mod mem;
mod member;
mod pool;
mod probe;
mod racy;
mod ring;
mod set;
mod slab;
mod sys;
mod transfer;

pub use arena::{Arena, ArenaError, ArenaOptions, IoBuf, OutOfBounds};
pub use fence::wait_for_writers;
pub use inherited::inherited;
pub use io::{Io, IoDone, IoError, IoFault, IoOp, MemberIo};
pub use mem::{FailOp, LogEntry, MemControl, MemMembers};
pub use member::{
    Direct, Engine, EnginePreference, Identity, Kind, Member, OpenError, OpenOptions, create_sparse,
};
pub use pool::{BufPool, PoolBuf};
pub use set::{AttachError, BackendChoice, MemberSet};
pub use sys::{loop_file, set_io_flusher};
