//! T10 protection information (DIF) as library calls: on the CPU here, and as descriptors for a device.
//!
//! Behind each block of data stand 8 bytes, big-endian: a guard (a CRC-16 with polynomial 0x8BB7 over the
//! block), an application tag and a reference tag. [`insert`] adds them, [`check`] compares them, [`strip`]
//! compares and removes them, [`update`] compares and replaces them. Each gives the bytes that the device
//! gives for the descriptor of the same name ([`Descriptor::dif_insert`] and so on), including the blocks
//! before the one where an error ends it.
//!
//! Sources: fields and flags as in the Linux driver's public header and intel/DML. They differ on an
//! application tag that is partly masked (DML's software compares the unmasked stored tag); here, and in
//! storage practice, masked bits are simply not compared.
//!
//! [`Descriptor::dif_insert`]: crate::wire::Descriptor::dif_insert

use thiserror::Error;

use crate::record::DifMismatch;

mod crc;
mod descriptor;

pub use crc::crc16;

/// Bytes of the protection information of a block.
pub const TAG_BYTES: usize = 8;

/// Options for the source, whose protection information is compared.
pub mod source_flag {
    /// With [`ALL_ONES`]: such a block is an error.
    pub const ALL_ONES_ERROR: u8 = 1 << 0;
    /// A block whose 8 bytes are all ones is not compared.
    pub const ALL_ONES: u8 = 1 << 1;
    /// A block whose application tag is all ones is not compared.
    pub const APPLICATION_ONES: u8 = 1 << 2;
    /// A block whose application and reference tags are all ones is not compared.
    pub const TAGS_ONES: u8 = 1 << 3;
    /// The application tag grows by one a block.
    pub const INCREMENT_APPLICATION: u8 = 1 << 4;
    /// The guard is not compared.
    pub const SKIP_GUARD: u8 = 1 << 5;
    /// The reference tag is not compared.
    pub const SKIP_REFERENCE: u8 = 1 << 6;
    /// The reference tag stays the same; otherwise it grows by one a block.
    pub const FIXED_REFERENCE: u8 = 1 << 7;
}

/// Options for the destination, whose protection information is made.
pub mod destination_flag {
    /// The source's application tag is kept ([`super::update`] only).
    pub const KEEP_APPLICATION: u8 = 1 << 3;
    /// The application tag grows by one a block.
    pub const INCREMENT_APPLICATION: u8 = 1 << 4;
    /// The source's guard is kept ([`super::update`] only).
    pub const KEEP_GUARD: u8 = 1 << 5;
    /// The source's reference tag is kept ([`super::update`] only).
    pub const KEEP_REFERENCE: u8 = 1 << 6;
    /// The reference tag stays the same; otherwise it grows by one a block.
    pub const FIXED_REFERENCE: u8 = 1 << 7;
}

/// Bytes of data in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Block {
    /// 512.
    B512 = 0,
    /// 520.
    B520 = 1,
    /// 4096.
    B4096 = 2,
    /// 4104.
    B4104 = 3,
}

impl Block {
    /// Bytes of data.
    pub const fn bytes(self) -> usize {
        match self {
            Block::B512 => 512,
            Block::B520 => 520,
            Block::B4096 => 4096,
            Block::B4104 => 4104,
        }
    }

    /// Bytes of data and protection information.
    pub const fn protected(self) -> usize {
        self.bytes() + TAG_BYTES
    }
}

/// How the guard is computed, and over how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    /// Bytes of a block.
    pub block: Block,
    /// The CRC starts from all ones instead of zero.
    pub invert_seed: bool,
    /// The CRC is stored inverted.
    pub invert_result: bool,
}

impl Format {
    /// The usual guard: neither start nor result are inverted.
    pub const fn new(block: Block) -> Format {
        Format { block, invert_seed: false, invert_result: false }
    }

    /// The byte of a descriptor.
    fn bits(self) -> u8 {
        self.block as u8 | u8::from(self.invert_seed) << 2 | u8::from(self.invert_result) << 3
    }

    /// The guard of a block's data.
    pub fn guard(self, data: &[u8]) -> u16 {
        let crc = crc16(if self.invert_seed { u16::MAX } else { 0 }, data);
        if self.invert_result { !crc } else { crc }
    }
}

/// The tags of the first block.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tags {
    /// Reference tag.
    pub reference: u32,
    /// Bits of the application tag that are neither compared nor, in a destination, set. All ones: it is
    /// not compared at all.
    pub mask: u16,
    /// Application tag.
    pub application: u16,
}

impl Tags {
    /// Those of the next block. Both wrap around.
    fn next(self, increment_application: bool, fixed_reference: bool) -> Tags {
        Tags {
            reference: self.reference.wrapping_add(u32::from(!fixed_reference)),
            application: self.application.wrapping_add(u16::from(increment_application)),
            ..self
        }
    }
}

/// What the source's protection information is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Source {
    /// Tags of the first block.
    pub tags: Tags,
    /// Of [`source_flag`].
    pub flags: u8,
}

/// What the destination's protection information is made of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Destination {
    /// Tags of the first block.
    pub tags: Tags,
    /// Of [`destination_flag`].
    pub flags: u8,
}

/// Why a DIF operation did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DifError {
    /// The source is empty or not a whole number of blocks.
    #[error("{bytes} bytes are not a whole number of blocks of {block}")]
    PartialBlock {
        /// Bytes of the source.
        bytes: usize,
        /// Bytes of one of its blocks.
        block: usize,
    },
    /// The destination has not the length that the source needs.
    #[error("the destination has {have} bytes and needs {need}")]
    Destination {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// Protection information and data do not match. Blocks before it were processed.
    #[error("the protection information does not match at byte {} of the source", .0.completed)]
    Mismatch(DifMismatch),
}

/// Compares the protection information of `source`, blocks each with its 8 bytes.
pub fn check(format: Format, expected: &Source, source: &[u8]) -> Result<(), DifError> {
    whole(source, format.block.protected())?;
    each(format, expected, source, |_, _, _| {})
}

/// Copies the blocks of `source` to `destination` with protection information behind each. Options to
/// keep something of the source mean nothing here. `destination` has 8 bytes more for each block.
pub fn insert(
    format: Format,
    made: &Destination,
    source: &[u8],
    destination: &mut [u8],
) -> Result<(), DifError> {
    let block = format.block.bytes();
    let blocks = whole(source, block)?;
    room(destination, blocks.saturating_mul(format.block.protected()))?;
    let mut tags = made.tags;
    for (data, out) in source.chunks_exact(block).zip(destination.chunks_exact_mut(format.block.protected()))
    {
        let fresh = fresh(format, tags, data);
        fill(out, data, fresh);
        tags = next_made(tags, made);
    }
    Ok(())
}

/// Compares as [`check`] does, and copies the data alone. `destination` has 8 bytes fewer for each block.
pub fn strip(
    format: Format,
    expected: &Source,
    source: &[u8],
    destination: &mut [u8],
) -> Result<(), DifError> {
    let blocks = whole(source, format.block.protected())?;
    room(destination, blocks.saturating_mul(format.block.bytes()))?;
    let mut out = destination.chunks_exact_mut(format.block.bytes());
    each(format, expected, source, |data, _, _| {
        if let Some(out) = out.next() {
            out.copy_from_slice(data);
        }
    })
}

/// Compares as [`check`] does, and copies the data with other protection information. `destination` is as
/// long as `source`.
pub fn update(
    format: Format,
    expected: &Source,
    made: &Destination,
    source: &[u8],
    destination: &mut [u8],
) -> Result<(), DifError> {
    whole(source, format.block.protected())?;
    room(destination, source.len())?;
    let mut out = destination.chunks_exact_mut(format.block.protected());
    let mut tags = made.tags;
    each(format, expected, source, |data, old, _| {
        let keep = |flag: u8| made.flags & flag != 0;
        let mut new = fresh(format, tags, data);
        for (flag, bytes) in [
            (destination_flag::KEEP_GUARD, 0..2),
            (destination_flag::KEEP_APPLICATION, 2..4),
            (destination_flag::KEEP_REFERENCE, 4..8),
        ] {
            if keep(flag) {
                new[bytes.clone()].copy_from_slice(&old[bytes]);
            }
        }
        if let Some(out) = out.next() {
            fill(out, data, new);
        }
        tags = next_made(tags, made);
    })
}

/// The number of whole blocks, of which there must be one at least.
fn whole(source: &[u8], block: usize) -> Result<usize, DifError> {
    if source.is_empty() || !source.len().is_multiple_of(block) {
        return Err(DifError::PartialBlock { bytes: source.len(), block });
    }
    Ok(source.len() / block)
}

fn room(destination: &[u8], need: usize) -> Result<(), DifError> {
    let have = destination.len();
    if have == need { Ok(()) } else { Err(DifError::Destination { need, have }) }
}

fn next_made(tags: Tags, made: &Destination) -> Tags {
    let has = |flag: u8| made.flags & flag != 0;
    tags.next(has(destination_flag::INCREMENT_APPLICATION), has(destination_flag::FIXED_REFERENCE))
}

/// New protection information.
fn fresh(format: Format, tags: Tags, data: &[u8]) -> [u8; TAG_BYTES] {
    let mut bytes = [0; TAG_BYTES];
    bytes[0..2].copy_from_slice(&format.guard(data).to_be_bytes());
    bytes[2..4].copy_from_slice(&(tags.application & !tags.mask).to_be_bytes());
    bytes[4..8].copy_from_slice(&tags.reference.to_be_bytes());
    bytes
}

/// Data, then protection information.
fn fill(out: &mut [u8], data: &[u8], tags: [u8; TAG_BYTES]) {
    if let Some((front, back)) = out.split_at_mut_checked(data.len()) {
        front.copy_from_slice(data);
        back.copy_from_slice(&tags);
    }
}

/// Compares block after block, and hands each good one on: its data, its protection information, and where
/// it began.
fn each(
    format: Format,
    expected: &Source,
    source: &[u8],
    mut good: impl FnMut(&[u8], [u8; TAG_BYTES], usize),
) -> Result<(), DifError> {
    let has = |flag: u8| expected.flags & flag != 0;
    let mut tags = expected.tags;
    let step = format.block.protected();
    for (number, block) in source.chunks_exact(step).enumerate() {
        let start = number.saturating_mul(step);
        let Some((data, stored)) = block.split_last_chunk::<TAG_BYTES>() else { break };
        if let Some(mut mismatch) = compare(format, expected.flags, tags, data, *stored) {
            mismatch.completed = u32::try_from(start).unwrap_or(u32::MAX);
            return Err(DifError::Mismatch(mismatch));
        }
        good(data, *stored, start);
        tags = tags.next(has(source_flag::INCREMENT_APPLICATION), has(source_flag::FIXED_REFERENCE));
    }
    Ok(())
}

/// What does not match in one block.
fn compare(
    format: Format,
    flags: u8,
    tags: Tags,
    data: &[u8],
    stored: [u8; TAG_BYTES],
) -> Option<DifMismatch> {
    let has = |flag: u8| flags & flag != 0;
    let [g0, g1, a0, a1, r0, r1, r2, r3] = stored;
    let application = u16::from_be_bytes([a0, a1]);
    let reference = u32::from_be_bytes([r0, r1, r2, r3]);
    let mut mismatch = DifMismatch::default();
    if has(source_flag::ALL_ONES) && stored == [0xff; TAG_BYTES] {
        mismatch.all_ones = has(source_flag::ALL_ONES_ERROR);
        return mismatch.all_ones.then_some(mismatch);
    }
    let application_ones = application == u16::MAX;
    if application_ones
        && (has(source_flag::APPLICATION_ONES) || has(source_flag::TAGS_ONES) && reference == u32::MAX)
    {
        return None;
    }
    mismatch.guard = !has(source_flag::SKIP_GUARD) && u16::from_be_bytes([g0, g1]) != format.guard(data);
    mismatch.application = (application ^ tags.application) & !tags.mask != 0;
    mismatch.reference = !has(source_flag::SKIP_REFERENCE) && reference != tags.reference;
    (mismatch.guard || mismatch.application || mismatch.reference).then_some(mismatch)
}
