//! Descriptors, one builder an operation.
//!
//! A builder takes plain addresses and sizes, sets no flag that its opcode reserves, and refuses with a
//! [`BuildError`] what the device is known to refuse whatever the queue. What depends on the queue (its
//! largest transfer and batch, whether moves may overlap) is left to the caller, who reads it from
//! [`crate::caps`]; so are the lifetimes of what the addresses point to.
//!
//! Sources: the Linux driver's public header (`include/uapi/linux/idxd.h`) for the layout; the flags and
//! restrictions by opcode are what intel/DML, intel/dsa-perf-micros and the idxd-config tests agree on.

use thiserror::Error;

use crate::record::{Outcome, RecordView};
use crate::wire::{Descriptor, LIST_ALIGN, Opcode, RECORD_ALIGN, at, flag};

/// The largest source of a delta, in bytes.
pub const DELTA_MAX_BYTES: u64 = 0x8_0000;
/// Bytes of one entry of a delta record: a u16 offset in units of 8 bytes, and 8 bytes of data.
pub const DELTA_ENTRY: u32 = 10;
/// The least room for a delta record that a device takes, in bytes.
pub const DELTA_ROOM_MIN: u32 = 80;
/// The fewest descriptors of a batch; a single one is submitted as it is.
pub const BATCH_MIN: u32 = 2;
/// The bits of an address in which the two destinations of a DUALCAST must agree.
const DUALCAST_BITS: u64 = 0xfff;

/// Why a descriptor cannot be built: the device would refuse it, or worse.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No bytes.
    #[error("an operation over no bytes")]
    Empty,
    /// More bytes than the operation can express or takes.
    #[error("{size} bytes are more than the {max} of this operation")]
    TooLong {
        /// Bytes asked for.
        size: u64,
        /// The most there can be.
        max: u64,
    },
    /// An operand wraps around the end of the address space.
    #[error("{size} bytes at {address:#x} do not fit into the address space")]
    Wraps {
        /// Where the operand begins.
        address: u64,
        /// Its bytes.
        size: u64,
    },
    /// The completion record is at address zero or not aligned to 32 bytes.
    #[error("a completion record at {0:#x}: it must be aligned to 32 bytes and not be at zero")]
    RecordAddress(u64),
    /// The list of a batch is not aligned to 64 bytes.
    #[error("a batch's list at {0:#x}: it must be aligned to 64 bytes")]
    ListAlignment(u64),
    /// A batch of fewer than [`BATCH_MIN`].
    #[error("a batch of {0}: the least is {BATCH_MIN}")]
    BatchCount(u32),
    /// Source and destination overlap, and the operation does not allow it.
    #[error("source {source_address:#x} and destination {destination:#x} of {size} bytes overlap")]
    Overlap {
        /// One buffer.
        source_address: u64,
        /// The other.
        destination: u64,
        /// Bytes of the operation.
        size: u64,
    },
    /// Bits 11:0 of the two destinations of a DUALCAST differ.
    #[error("the destinations {0:#x} and {1:#x} differ in their low 12 bits")]
    DualcastAddresses(u64, u64),
    /// An address or size of a delta that is not a multiple of 8.
    #[error("{0:#x}: deltas take addresses and sizes in units of 8 bytes")]
    DeltaUnit(u64),
    /// Room for a delta record, or such a record, that is no multiple of 10 bytes, or too small.
    #[error("a delta record of {0} bytes: they come in units of 10 bytes, and take room for at least 80")]
    DeltaRecord(u32),
    /// The bytes are not a whole number of protected blocks, or of plain ones.
    #[error("{size} bytes are not a whole number of blocks of {block}")]
    PartialBlock {
        /// Bytes asked for.
        size: u64,
        /// Bytes of one block of the source.
        block: u64,
    },
    /// A DIF strip whose destination ends at its source or shortly before.
    #[error("the destination of a DIF strip ends too near to its source {0:#x}")]
    StripEndsAtSource(u64),
    /// Options for a DIF destination that the operation does not have.
    #[error("a DIF operation does not take the options {0:#x} for its destination")]
    DifFlags(u8),
    /// The opcode reserves this flag.
    #[error("{opcode:?} does not take the flag {flag:#x}")]
    Flag {
        /// The operation.
        opcode: Opcode,
        /// The flag, of [`crate::wire::flag`].
        flag: u32,
    },
    /// The descriptor's opcode is none of [`Opcode`].
    #[error("no operation has the number {0:#04x}")]
    Opcode(u8),
}

/// Where a CRC starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seed {
    /// This value; 0 for an ordinary CRC-32C, or the result of the preceding part.
    Value(u32),
    /// The u32 at this address, read when the operation runs: in a batch, with a fence, the CRC in the
    /// completion record of an earlier member.
    At(u64),
}

/// The flags that an opcode takes.
pub const fn legal_flags(opcode: Opcode) -> u32 {
    use flag::*;
    const ALWAYS: u32 = RECORD_VALID | REQUEST_RECORD | REQUEST_INTERRUPT | RECORD_STEERING | RECORD_TC;
    const READS: u32 = FENCE | BLOCK_ON_FAULT;
    const WRITES: u32 = READS | CACHE_CONTROL | STRICT_ORDER | READBACK | STEERING;
    const CRC: u32 = CRC_READ_SEED | CRC_BYPASS_INVERSION | CRC_BYPASS_REFLECTION;
    const DRAIN_SPECIFIC: u32 = 0xf << 16;
    ALWAYS
        | match opcode {
            Opcode::Noop => FENCE,
            Opcode::Batch => ADDRESS1_TC,
            Opcode::Drain => ADDRESS1_TC | ADDRESS2_TC | DRAIN_SPECIFIC,
            Opcode::Memmove | Opcode::ApplyDelta => WRITES | ADDRESS1_TC | ADDRESS2_TC,
            Opcode::Fill => WRITES | ADDRESS2_TC | FILL_LONG_PATTERN,
            Opcode::Compare => READS | CHECK_RESULT | ADDRESS1_TC | ADDRESS2_TC,
            Opcode::CompareValue => READS | CHECK_RESULT | ADDRESS1_TC,
            Opcode::CreateDelta => WRITES | CHECK_RESULT | ADDRESS1_TC | ADDRESS2_TC | ADDRESS3_TC,
            // Bit 16 of a DUALCAST is the steering tag of its second destination.
            Opcode::Dualcast => WRITES | ADDRESS1_TC | ADDRESS2_TC | ADDRESS3_TC | 1 << 16,
            Opcode::CopyCrc => WRITES | ADDRESS1_TC | ADDRESS2_TC | ADDRESS3_TC | CRC,
            Opcode::CrcGen => READS | ADDRESS1_TC | ADDRESS3_TC | CRC,
            Opcode::DifCheck | Opcode::TranslationFetch => READS | ADDRESS1_TC,
            Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate | Opcode::DixGen => {
                WRITES | ADDRESS1_TC | ADDRESS2_TC
            }
            Opcode::CacheFlush => WRITES | ADDRESS2_TC,
        }
}

/// Refuses nothing, too much for the descriptor's u32, and what wraps around the address space.
pub(crate) fn span(addresses: &[u64], size: u64) -> Result<u32, BuildError> {
    if size == 0 {
        return Err(BuildError::Empty);
    }
    let max = u64::from(u32::MAX);
    let short = u32::try_from(size).map_err(|_| BuildError::TooLong { size, max })?;
    for &address in addresses {
        // The last byte may be the last one there is.
        if address.checked_add(size - 1).is_none() {
            return Err(BuildError::Wraps { address, size });
        }
    }
    Ok(short)
}

/// Refuses buffers that share a byte. Both spans were checked not to wrap.
fn apart(source: u64, destination: u64, size: u64) -> Result<(), BuildError> {
    if source.abs_diff(destination) < size {
        return Err(BuildError::Overlap { source_address: source, destination, size });
    }
    Ok(())
}

/// Refuses what a delta does not take.
fn delta_span(addresses: &[u64], size: u64) -> Result<u32, BuildError> {
    let short = span(addresses, size)?;
    if size > DELTA_MAX_BYTES {
        return Err(BuildError::TooLong { size, max: DELTA_MAX_BYTES });
    }
    match addresses.iter().copied().chain([size]).find(|value| value % 8 != 0) {
        Some(value) => Err(BuildError::DeltaUnit(value)),
        None => Ok(short),
    }
}

impl Descriptor {
    /// The common part of an operation.
    pub(crate) fn operation(opcode: Opcode, source: u64, destination: u64, size: u32) -> Descriptor {
        let mut descriptor = Descriptor::default();
        descriptor.set_operation(opcode as u8, 0);
        descriptor.set_field(at::SOURCE, source.to_le_bytes());
        descriptor.set_field(at::DESTINATION, destination.to_le_bytes());
        descriptor.set_field(at::SIZE, size.to_le_bytes());
        descriptor
    }

    /// NOOP: nothing but a record.
    pub fn noop() -> Descriptor {
        Descriptor::operation(Opcode::Noop, 0, 0, 0)
    }

    /// DRAIN: ends after everything the queue accepted before it.
    pub fn drain() -> Descriptor {
        Descriptor::operation(Opcode::Drain, 0, 0, 0)
    }

    /// BATCH: runs the `count` descriptors at `list`, aligned to 64 bytes; neither batches nor drains.
    /// The queue's largest batch is the caller's to keep.
    pub fn batch(list: u64, count: u32) -> Result<Descriptor, BuildError> {
        if count < BATCH_MIN {
            return Err(BuildError::BatchCount(count));
        }
        if !list.is_multiple_of(LIST_ALIGN as u64) {
            return Err(BuildError::ListAlignment(list));
        }
        span(&[list], u64::from(count).saturating_mul(LIST_ALIGN as u64))?;
        Ok(Descriptor::operation(Opcode::Batch, list, 0, count))
    }

    /// MEMMOVE: copies `size` bytes. The buffers may overlap if the device says so
    /// ([`crate::wire::gen_cap::OVERLAP`]).
    pub fn memmove(source: u64, destination: u64, size: u64) -> Result<Descriptor, BuildError> {
        let short = span(&[source, destination], size)?;
        Ok(Descriptor::operation(Opcode::Memmove, source, destination, short))
    }

    /// FILL: repeats the 8 bytes of `pattern`, little-endian, from the first byte on; the last
    /// repetition may be cut.
    pub fn fill(destination: u64, size: u64, pattern: u64) -> Result<Descriptor, BuildError> {
        let short = span(&[destination], size)?;
        Ok(Descriptor::operation(Opcode::Fill, pattern, destination, short))
    }

    /// COMPARE: whether two buffers are equal.
    pub fn compare(one: u64, other: u64, size: u64) -> Result<Descriptor, BuildError> {
        let short = span(&[one, other], size)?;
        Ok(Descriptor::operation(Opcode::Compare, one, other, short))
    }

    /// COMPVAL: whether a buffer is `pattern` repeated, as [`fill`](Self::fill) lays it down.
    pub fn compare_value(source: u64, size: u64, pattern: u64) -> Result<Descriptor, BuildError> {
        let short = span(&[source], size)?;
        Ok(Descriptor::operation(Opcode::CompareValue, source, pattern, short))
    }

    /// CR_DELTA: lists at `delta` the 8-byte words in which `other` differs from `one`, in entries of
    /// [`DELTA_ENTRY`] bytes, `room` bytes at most. All addresses and `size` in units of 8 bytes, `size`
    /// at most [`DELTA_MAX_BYTES`], `room` a multiple of 10 and at least [`DELTA_ROOM_MIN`].
    pub fn create_delta(
        one: u64,
        other: u64,
        size: u64,
        delta: u64,
        room: u32,
    ) -> Result<Descriptor, BuildError> {
        let short = delta_span(&[one, other], size)?;
        if !room.is_multiple_of(DELTA_ENTRY) || room < DELTA_ROOM_MIN {
            return Err(BuildError::DeltaRecord(room));
        }
        span(&[delta], u64::from(room))?;
        if !delta.is_multiple_of(8) {
            return Err(BuildError::DeltaUnit(delta));
        }
        let mut descriptor = Descriptor::operation(Opcode::CreateDelta, one, other, short);
        descriptor.set_field(at::DELTA, delta.to_le_bytes());
        descriptor.set_field(at::DELTA_MAX, room.to_le_bytes());
        Ok(descriptor)
    }

    /// AP_DELTA: applies the `delta_size` bytes of record at `delta` to `size` bytes at `destination`.
    pub fn apply_delta(
        delta: u64,
        delta_size: u32,
        destination: u64,
        size: u64,
    ) -> Result<Descriptor, BuildError> {
        let short = delta_span(&[destination], size)?;
        if delta_size == 0 || !delta_size.is_multiple_of(DELTA_ENTRY) {
            return Err(BuildError::DeltaRecord(delta_size));
        }
        span(&[delta], u64::from(delta_size))?;
        if !delta.is_multiple_of(8) {
            return Err(BuildError::DeltaUnit(delta));
        }
        let mut descriptor = Descriptor::operation(Opcode::ApplyDelta, delta, destination, short);
        descriptor.set_field(at::DELTA_SIZE, delta_size.to_le_bytes());
        Ok(descriptor)
    }

    /// DUALCAST: copies to two destinations that agree in bits 11:0. No two buffers may overlap.
    pub fn dualcast(source: u64, first: u64, second: u64, size: u64) -> Result<Descriptor, BuildError> {
        let short = span(&[source, first, second], size)?;
        if (first ^ second) & DUALCAST_BITS != 0 {
            return Err(BuildError::DualcastAddresses(first, second));
        }
        apart(source, first, size)?;
        apart(source, second, size)?;
        apart(first, second, size)?;
        let mut descriptor = Descriptor::operation(Opcode::Dualcast, source, first, short);
        descriptor.set_field(at::DESTINATION2, second.to_le_bytes());
        Ok(descriptor)
    }

    /// CRCGEN: the CRC-32C of a buffer, continued from `seed`.
    pub fn crc(source: u64, size: u64, seed: Seed) -> Result<Descriptor, BuildError> {
        let short = span(&[source], size)?;
        Ok(Descriptor::operation(Opcode::CrcGen, source, 0, short).seeded(seed))
    }

    /// COPY_CRC: copies and computes the CRC-32C. The buffers may not overlap.
    pub fn copy_crc(source: u64, destination: u64, size: u64, seed: Seed) -> Result<Descriptor, BuildError> {
        let short = span(&[source, destination], size)?;
        apart(source, destination, size)?;
        Ok(Descriptor::operation(Opcode::CopyCrc, source, destination, short).seeded(seed))
    }

    /// CFLUSH: writes a range back from the processors' caches, and with `invalidate` drops it from
    /// them, too (needs [`crate::wire::gen_cap::CACHE_FLUSH`]).
    pub fn cache_flush(destination: u64, size: u64, invalidate: bool) -> Result<Descriptor, BuildError> {
        let short = span(&[destination], size)?;
        let mut descriptor = Descriptor::operation(Opcode::CacheFlush, 0, destination, short);
        if invalidate {
            descriptor.set_operation(Opcode::CacheFlush as u8, flag::CACHE_CONTROL);
        }
        Ok(descriptor)
    }

    fn seeded(mut self, seed: Seed) -> Descriptor {
        match seed {
            Seed::Value(value) => self.set_field(at::CRC_SEED, value.to_le_bytes()),
            Seed::At(address) => {
                self.set_field(at::CRC_SEED_ADDRESS, address.to_le_bytes());
                self.set_operation(self.opcode(), self.flags() | flag::CRC_READ_SEED);
            }
        }
        self
    }

    /// Adds flags if the opcode takes them all.
    pub fn with_flags(mut self, flags: u32) -> Result<Descriptor, BuildError> {
        let number = self.opcode();
        let opcode = Opcode::from_number(number).ok_or(BuildError::Opcode(number))?;
        let reserved = flags & !legal_flags(opcode);
        if reserved != 0 {
            return Err(BuildError::Flag { opcode, flag: reserved });
        }
        self.set_operation(number, self.flags() | flags);
        Ok(self)
    }

    /// As a member of a batch: starts after all earlier members ended, and only if all succeeded.
    /// Batches and drains take no fence.
    pub fn with_fence(self) -> Result<Descriptor, BuildError> {
        self.with_flags(flag::FENCE)
    }

    /// Writes its completion record at `address`, aligned to 32 bytes, on success and on failure.
    pub fn with_record(self, address: u64) -> Result<Descriptor, BuildError> {
        self.with_error_record(address)?.with_flags(flag::REQUEST_RECORD)
    }

    /// Writes its completion record only if it fails; the end of the batch around it tells the rest.
    pub fn with_error_record(mut self, address: u64) -> Result<Descriptor, BuildError> {
        if address == 0 || !address.is_multiple_of(RECORD_ALIGN as u64) {
            return Err(BuildError::RecordAddress(address));
        }
        self.set_field(at::RECORD, address.to_le_bytes());
        self.with_flags(flag::RECORD_VALID)
    }

    /// Lets the destination's bytes be allocated in the cache, where the opcode writes to memory;
    /// elsewhere the flag is reserved and the descriptor stays as it is. A cache flush stays as it is,
    /// too: there the flag means something else. Only for devices with
    /// [`crate::wire::gen_cap::CACHE_CONTROL`].
    #[must_use]
    pub fn with_cache_control(self) -> Descriptor {
        if self.opcode() == Opcode::CacheFlush as u8 {
            return self;
        }
        self.with_flags(flag::CACHE_CONTROL).unwrap_or(self)
    }

    /// Lets the status of a comparison (COMPARE, COMPVAL: 0 equal, 1 different) say whether the result
    /// was `expected`. Of a CR_DELTA, `expected` is a mask: bit i accepts result i.
    pub fn with_expected(mut self, expected: u8) -> Result<Descriptor, BuildError> {
        let offset = match Opcode::from_number(self.opcode()) {
            Some(Opcode::CreateDelta) => at::DELTA_EXPECTED,
            _ => at::EXPECTED,
        };
        self = self.with_flags(flag::CHECK_RESULT)?;
        self.set_field(offset, [expected]);
        Ok(self)
    }

    /// Whether a batch may hold it: everything but batches and drains.
    pub fn may_be_member(&self) -> bool {
        !matches!(Opcode::from_number(self.opcode()), None | Some(Opcode::Batch | Opcode::Drain))
    }

    /// The descriptor that does the rest after a page fault that `record` tells of, to be submitted
    /// alone once the page is there (its fence, met already, is gone). `None` if it should be done on the
    /// CPU: the fault is not of the kind to go on from; the record contradicts the descriptor; nothing or
    /// a batch of one is left; or the state of the operation is not in the descriptor alone (CRC, DIF,
    /// creating a delta).
    ///
    /// Bytes near the fault may be done twice, with the same result.
    pub fn resume(&self, record: &RecordView) -> Option<Descriptor> {
        let opcode = Opcode::from_number(self.opcode())?;
        match record.outcome() {
            Outcome::PageFault { resumable: true, completed, result, .. } => {
                self.resume_bytes(opcode, completed, result)
            }
            Outcome::BatchPageFault { completed, .. } if opcode == Opcode::Batch => {
                let left = self.size().checked_sub(completed).filter(|left| *left >= BATCH_MIN)?;
                let mut rest =
                    self.advanced(at::SOURCE, u64::from(completed).checked_mul(LIST_ALIGN as u64)?)?;
                rest.set_field(at::SIZE, left.to_le_bytes());
                Some(rest)
            }
            _ => None,
        }
    }

    fn resume_bytes(&self, opcode: Opcode, completed: u32, result: u8) -> Option<Descriptor> {
        // A repeated pattern starts anew at the new address, so only whole repetitions count as done.
        let done = match opcode {
            Opcode::Fill if self.flags() & flag::FILL_LONG_PATTERN != 0 => completed & !15,
            Opcode::Fill | Opcode::CompareValue => completed & !7,
            // The record must stay aligned to 8 bytes: four entries are 40. Applying one again is harmless.
            Opcode::ApplyDelta => completed - completed % 40,
            _ => completed,
        };
        let size_at = if opcode == Opcode::ApplyDelta { at::DELTA_SIZE } else { at::SIZE };
        let size = u32::from_le_bytes(self.field(size_at));
        if completed > size {
            return None;
        }
        let left = size.checked_sub(done).filter(|left| *left > 0)?;
        let step = u64::from(done);
        let mut rest = match (opcode, result) {
            (Opcode::Memmove, 0) | (Opcode::Compare, _) => {
                self.advanced(at::SOURCE, step)?.advanced(at::DESTINATION, step)?
            }
            // Copied from the end: what is left is at the beginning.
            (Opcode::Memmove, 1) => *self,
            (Opcode::Fill | Opcode::CacheFlush, _) => self.advanced(at::DESTINATION, step)?,
            (Opcode::CompareValue | Opcode::ApplyDelta, _) => self.advanced(at::SOURCE, step)?,
            (Opcode::Dualcast, _) => self
                .advanced(at::SOURCE, step)?
                .advanced(at::DESTINATION, step)?
                .advanced(at::DESTINATION2, step)?,
            _ => return None,
        };
        rest.set_field(size_at, left.to_le_bytes());
        rest.set_operation(opcode as u8, rest.flags() & !flag::FENCE);
        Some(rest)
    }

    /// With the address at `offset` moved up.
    fn advanced(&self, offset: usize, step: u64) -> Option<Descriptor> {
        let mut moved = *self;
        moved.set_field(offset, u64::from_le_bytes(self.field(offset)).checked_add(step)?.to_le_bytes());
        Some(moved)
    }
}
