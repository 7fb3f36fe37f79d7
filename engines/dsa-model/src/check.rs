//! The checks a device makes before it touches memory, in the model's order: opcode, flags, reserved
//! fields, size, and what the operation demands.
//!
//! The order among errors that coexist is a choice; hardware may tell another one of them. Which flags and
//! fields an operation takes follows the public headers and the test suites built on them.

use engine_dsa::wire::{Descriptor, Opcode, RECORD_BYTES, at, flag, gen_cap, status};

use crate::personality::Personality;
use crate::record::Record;

/// Flags every operation takes.
const COMMON: u32 = flag::RECORD_VALID
    | flag::REQUEST_RECORD
    | flag::REQUEST_INTERRUPT
    | flag::RECORD_STEERING
    | flag::RECORD_TC;
/// Flags of operations that write a destination.
const WRITES: u32 = flag::CACHE_CONTROL | flag::STRICT_ORDER | flag::READBACK | flag::STEERING;
const FENCE_BOF: u32 = flag::FENCE | flag::BLOCK_ON_FAULT;
const TC1: u32 = flag::ADDRESS1_TC;
const TC2: u32 = flag::ADDRESS2_TC;
const TC3: u32 = flag::ADDRESS3_TC;
const CRC: u32 = flag::CRC_READ_SEED | flag::CRC_BYPASS_INVERSION | flag::CRC_BYPASS_REFLECTION;
/// DRAIN: the first readback address is valid.
pub(crate) const DRAIN_READBACK1: u32 = 1 << 16;
/// DRAIN: the second one is.
pub(crate) const DRAIN_READBACK2: u32 = 1 << 17;
/// DRAIN: both readback addresses and the two suppressions of implicit readback.
const DRAIN: u32 = 0xf << 16;
/// DUALCAST: steering tag of the second destination.
const DUALCAST: u32 = 1 << 16;

/// Bytes of a region that a delta record can describe, at most.
const DELTA_REGION: u32 = 0x8_0000;
/// Bytes of an entry of a delta record.
pub(crate) const DELTA_ENTRY: u32 = 10;

fn allowed_flags(op: Opcode, v2: bool) -> u32 {
    COMMON
        | match op {
            Opcode::Noop => flag::FENCE,
            Opcode::Batch => TC1,
            Opcode::Drain => TC1 | TC2 | DRAIN,
            Opcode::Memmove | Opcode::ApplyDelta => FENCE_BOF | WRITES | TC1 | TC2,
            Opcode::Fill => FENCE_BOF | WRITES | TC2 | if v2 { flag::FILL_LONG_PATTERN } else { 0 },
            Opcode::Compare => FENCE_BOF | flag::CHECK_RESULT | TC1 | TC2,
            Opcode::CompareValue => FENCE_BOF | flag::CHECK_RESULT | TC1,
            Opcode::CreateDelta => FENCE_BOF | flag::CHECK_RESULT | WRITES | TC1 | TC2 | TC3,
            Opcode::Dualcast => FENCE_BOF | WRITES | TC1 | TC2 | TC3 | DUALCAST,
            Opcode::TranslationFetch => FENCE_BOF | TC1,
            Opcode::CrcGen => FENCE_BOF | TC1 | TC3 | CRC,
            Opcode::CopyCrc => FENCE_BOF | WRITES | TC1 | TC2 | TC3 | CRC,
            Opcode::DifCheck => FENCE_BOF | TC1,
            Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate | Opcode::DixGen => {
                FENCE_BOF | WRITES | TC1 | TC2
            }
            Opcode::CacheFlush => FENCE_BOF | WRITES | TC2,
        }
}

/// Flags that this operation does not take on this device.
fn invalid_flags(d: &Descriptor, op: Opcode, p: &Personality) -> u32 {
    let mut allowed = allowed_flags(op, p.is_v2());
    if !p.block_on_fault {
        allowed &= !flag::BLOCK_ON_FAULT;
    }
    if p.gen_cap & gen_cap::CACHE_CONTROL == 0 && op != Opcode::CacheFlush {
        allowed &= !flag::CACHE_CONTROL;
    }
    if p.gen_cap & gen_cap::READBACK == 0 {
        allowed &= !flag::READBACK;
    }
    d.flags() & !allowed
}

/// The fields of bytes 16 to 63 that an operation has: offset and length.
fn fields(op: Opcode, flags: u32) -> &'static [(usize, usize)] {
    match op {
        Opcode::Noop => &[],
        Opcode::Batch => &[(16, 8), (32, 4)],
        Opcode::Drain if flags & (DRAIN_READBACK1 | DRAIN_READBACK2) == 0 => &[],
        Opcode::Drain => &[(16, 16)],
        Opcode::Memmove => &[(16, 20)],
        Opcode::Fill if flags & flag::FILL_LONG_PATTERN != 0 => &[(16, 20), (40, 8)],
        Opcode::Fill => &[(16, 20)],
        Opcode::Compare | Opcode::CompareValue => &[(16, 20), (40, 1)],
        Opcode::CreateDelta => &[(16, 20), (40, 8), (48, 4), (56, 1)],
        Opcode::ApplyDelta => &[(16, 20), (40, 4)],
        Opcode::Dualcast => &[(16, 20), (40, 8)],
        Opcode::TranslationFetch => &[(16, 8), (32, 4), (48, 4)],
        Opcode::CrcGen => &[(16, 8), (32, 4), (40, 4), (48, 8)],
        Opcode::CopyCrc => &[(16, 20), (40, 4), (48, 8)],
        Opcode::DifCheck => &[(16, 8), (32, 4), (40, 1), (42, 1), (48, 8)],
        Opcode::DifInsert | Opcode::DixGen => &[(16, 20), (41, 2), (56, 8)],
        Opcode::DifStrip => &[(16, 20), (40, 1), (42, 1), (48, 8)],
        Opcode::DifUpdate => &[(16, 20), (40, 3), (48, 16)],
        Opcode::CacheFlush => &[(24, 8), (32, 4)],
    }
}

/// Whether a byte is set that this operation has no field for. The record's address is not looked at.
fn reserved_set(d: &Descriptor, op: Opcode) -> bool {
    let pasid = u32::from_le_bytes(d.field(at::PASID));
    let known = fields(op, d.flags());
    let interrupt = d.flags() & flag::REQUEST_INTERRUPT != 0;
    pasid & 0x7ff0_0000 != 0
        || (at::SOURCE..d.0.len()).any(|i| {
            let in_field = known.iter().any(|(offset, len)| (*offset..*offset + *len).contains(&i));
            let in_interrupt = interrupt && (at::INTERRUPT..at::RESERVED).contains(&i);
            !in_field && !in_interrupt && d.field::<1>(i) != [0]
        })
}

/// Bytes of data in a block with protection information, from the DIF flags.
pub(crate) fn dif_block(d: &Descriptor) -> u32 {
    let [flags] = d.field(at::DIF_FLAGS);
    match flags & 3 {
        0 => 512,
        1 => 520,
        2 => 4096,
        _ => 4104,
    }
}

/// Bytes of protection information.
pub(crate) const DIF_TAGS: u32 = 8;

/// Bytes of a block in the source of a DIF operation.
pub(crate) fn dif_source_step(d: &Descriptor, op: Opcode) -> u32 {
    let block = dif_block(d);
    match op {
        Opcode::DifInsert | Opcode::DixGen => block,
        _ => block + DIF_TAGS,
    }
}

/// Size and count.
fn check_size(d: &Descriptor, op: Opcode, p: &Personality) -> Result<(), u8> {
    let size = d.size();
    let step = match op {
        Opcode::Noop | Opcode::Drain => return Ok(()),
        Opcode::Batch if size < 2 || size > p.max_batch => return Err(status::BAD_COUNT),
        Opcode::Batch if !address(d, at::SOURCE).is_multiple_of(64) => return Err(status::LIST_ALIGNMENT),
        Opcode::Batch => return Ok(()),
        Opcode::CreateDelta | Opcode::ApplyDelta if size > DELTA_REGION => return Err(status::BAD_SIZE),
        Opcode::CreateDelta | Opcode::ApplyDelta => 8,
        Opcode::DifCheck | Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate | Opcode::DixGen => {
            dif_source_step(d, op)
        }
        _ => 1,
    };
    if size == 0 || size > p.max_transfer || !size.is_multiple_of(step) {
        return Err(status::BAD_SIZE);
    }
    Ok(())
}

/// A u64 field.
pub(crate) fn address(d: &Descriptor, offset: usize) -> u64 {
    u64::from_le_bytes(d.field(offset))
}

/// Whether `[a, a + a_len)` and `[b, b + b_len)` share a byte. Nothing wraps: the sums are wider.
pub(crate) fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    let (a_end, b_end) = (u128::from(a) + u128::from(a_len), u128::from(b) + u128::from(b_len));
    u128::from(a) < b_end && u128::from(b) < a_end
}

/// What the operation demands beyond.
fn check_specific(d: &Descriptor, op: Opcode, p: &Personality) -> Result<(), u8> {
    let size = u64::from(d.size());
    let (source, destination) = (address(d, at::SOURCE), address(d, at::DESTINATION));
    let third = address(d, at::SPECIFIC);
    let aligned = |addresses: &[u64]| {
        if addresses.iter().all(|a| a.is_multiple_of(8)) { Ok(()) } else { Err(status::OPERAND_ALIGNMENT) }
    };
    let apart = |a, a_len, b, b_len| if overlap(a, a_len, b, b_len) { Err(status::OVERLAP) } else { Ok(()) };
    match op {
        Opcode::Memmove if !p.overlap() => apart(source, size, destination, size),
        Opcode::CopyCrc => apart(source, size, destination, size),
        Opcode::Dualcast => {
            apart(source, size, destination, size)?;
            apart(source, size, third, size)?;
            apart(destination, size, third, size)?;
            if destination & 0xfff == third & 0xfff { Ok(()) } else { Err(status::DUALCAST_ADDRESSES) }
        }
        Opcode::CreateDelta => {
            let room = u32::from_le_bytes(d.field(at::DELTA_MAX));
            if room < 80 || !room.is_multiple_of(DELTA_ENTRY) {
                return Err(status::BAD_DELTA_SIZE);
            }
            apart(source, size, third, room.into())?;
            apart(destination, size, third, room.into())?;
            aligned(&[source, destination, third])
        }
        Opcode::ApplyDelta => {
            let bytes = u32::from_le_bytes(d.field(at::DELTA_SIZE));
            let most = size / 8 * u64::from(DELTA_ENTRY);
            if bytes == 0 || !bytes.is_multiple_of(DELTA_ENTRY) || u64::from(bytes) > most {
                return Err(status::BAD_DELTA_SIZE);
            }
            apart(source, bytes.into(), destination, size)?;
            aligned(&[source, destination])
        }
        Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate | Opcode::DixGen => {
            let blocks = size / u64::from(dif_source_step(d, op));
            let block = u64::from(dif_block(d));
            let written = match op {
                Opcode::DifStrip => block,
                Opcode::DixGen => u64::from(DIF_TAGS),
                _ => block + u64::from(DIF_TAGS),
            };
            apart(source, size, destination, blocks * written)
        }
        _ => Ok(()),
    }
}

/// Checks a descriptor; the operation if it may be executed, else the record it ends with.
pub fn check(d: &Descriptor, p: &Personality) -> Result<Opcode, Record> {
    let op = Opcode::from_number(d.opcode())
        .filter(|op| p.supports(*op as u8))
        .ok_or(Record::new(status::BAD_OPCODE))?;
    let invalid = invalid_flags(d, op, p);
    if invalid != 0 {
        return Err(Record::new(status::BAD_FLAGS).with_value(invalid));
    }
    let [handle_low, handle_high] = d.field(at::INTERRUPT);
    if d.flags() & flag::REQUEST_INTERRUPT != 0 && (handle_low, handle_high) != (0, 0) {
        return Err(Record::new(status::BAD_INTERRUPT));
    }
    if reserved_set(d, op) {
        return Err(Record::new(status::RESERVED_FIELD));
    }
    check_size(d, op, p).map_err(Record::new)?;
    check_specific(d, op, p).map_err(Record::new)?;
    Ok(op)
}

const _: () = assert!(RECORD_BYTES == 32);
