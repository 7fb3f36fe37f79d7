//! Linux md superblocks (metadata 1.0, 1.1 and 1.2) as values, and the verdict over a set of members.
//!
//! Bytes in, values out, and back: nothing here opens a device. A caller reads [`READ_BYTES`] bytes at
//! each of the [`candidates`] of a device, hands them to [`Superblock::parse`], takes the best with
//! [`Superblock::choose`], and hands what it found on all devices to [`assemble`]. A new array starts
//! with [`plan_create`]. Superblocks change only through the setters of [`Superblock`], and what
//! [`Superblock::encode`] gives is written at [`Superblock::super_offset`].
//!
//! Promised: whatever the bytes are, nothing panics; a superblock that the kernel would refuse is refused;
//! bytes that are not understood are kept. Left to others: where data and parity lie, when which
//! superblock is written, and all I/O. Features that are only recognised are named by [`unsupported`].
//!
//! ```
//! use md_format::*;
//!
//! let device_sectors = 131_072;
//! let array = plan_create(&CreateParams {
//!     level: Level::Raid5,
//!     layout: Layout::default_for(Level::Raid5),
//!     chunk_sectors: 128,
//!     name: "pool",
//!     members: &[device_sectors; 3],
//!     size_sectors: None,
//!     set_uuid: Uuid([1; 16]),
//!     device_uuids: &[Uuid([2; 16]), Uuid([3; 16]), Uuid([4; 16])],
//!     now: 1_800_000_000,
//!     clean: true,
//!     minor: Minor::V2,
//!     bitmap: IntentBitmap::None,
//!     ppl: false,
//! })?;
//! // Written to the devices, and read again from two of them in another order:
//! let at = array[0].location();
//! let found: Vec<Found> = [2, 0]
//!     .map(|n| Found {
//!         label: format!("device {n}"),
//!         device_sectors,
//!         superblock: Superblock::parse(&array[n].encode(), at, device_sectors),
//!         identity: None,
//!         areas: Areas::default(),
//!     })
//!     .into();
//! let assembly = assemble(&found, AssembleOptions::default())?;
//! assert_eq!((assembly.degraded, assembly.missing_roles), (1, vec![1]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod areas;
mod assemble;
mod assemble_bitmap;
mod assemble_ppl;
mod assemble_types;
mod bad_block_slots;
mod bad_blocks;
mod bitmap;
mod check;
mod crc32c;
mod create;
mod describe;
mod error;
mod features;
mod level;
mod location;
mod other;
mod ppl;
mod superblock;
mod unsupported;
mod uuid;
mod wire;

pub use areas::{Area, AreaKind, Areas};
pub use assemble::assemble;
pub use assemble_bitmap::ArrayBitmap;
pub use assemble_ppl::{ArrayPpl, PplReplay};
pub use assemble_types::{
    AssembleError, AssembleOptions, Assembly, Found, Member, MemberState, Reason, Rejected, Unsynced, Warning,
};
pub use bad_blocks::{BadBlocks, BadBlocksError, BadBlocksFull};
pub use bitmap::{Bitmap, BitmapError, NewBitmapError};
pub use check::RawSuperblock;
pub use create::{
    CreateError, CreateParams, IntentBitmap, SpareError, UnusedRoom, free_dev_number, plan_create,
    spare_superblock, unused_room,
};
pub use describe::{Description, Reshape};
pub use error::{Fault, SuperblockError};
pub use features::Features;
pub use level::{Layout, Level};
pub use location::{Location, MIN_DEVICE_SECTORS, Minor, candidates};
pub use other::OtherMetadata;
pub use ppl::{
    PPL_BLOCK, PPL_HEADER_BYTES, PPL_MAX_ENTRIES, PplArea, PplEntry, PplError, PplHeader, PplRows,
    newest_log, seal_log,
};
pub use superblock::{BadBlockLog, DevRole, RoleTableFull, Superblock};
pub use unsupported::{Unsupported, unsupported};
pub use uuid::{Uuid, UuidError};
pub use wire::{CLEAN, MAX_DEVICES, READ_BYTES, SECTOR};
