//! The completion record a descriptor ends with, and its way into memory.

use engine_dsa::wire::{Descriptor, RECORD_ALIGN, RECORD_BYTES, flag, record_at, status};

use crate::memory::{MemFault, Memory};
use crate::rng::SplitMix64;

/// A completion record, and which of its bytes mean something for this outcome. The others are zero until
/// [`poison`](Self::poison) makes them random.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    bytes: [u8; RECORD_BYTES],
    /// Bit n: byte n means something.
    defined: u32,
}

impl Record {
    /// A record with this status byte and nothing else.
    pub fn new(status: u8) -> Self {
        let mut bytes = [0; RECORD_BYTES];
        bytes[record_at::STATUS] = status;
        Self { bytes, defined: 1 }
    }

    /// The same with `N` bytes set at `offset`.
    #[must_use]
    pub fn with<const N: usize>(mut self, offset: usize, bytes: [u8; N]) -> Self {
        if let Some(field) = self.bytes.get_mut(offset..offset + N) {
            field.copy_from_slice(&bytes);
            self.defined |= ((1u64 << N) - 1).checked_shl(offset as u32).unwrap_or(0) as u32;
        }
        self
    }

    /// The same with a result byte.
    #[must_use]
    pub fn with_result(self, result: u8) -> Self {
        self.with(record_at::RESULT, [result])
    }

    /// The same with bytes (or descriptors) completed.
    #[must_use]
    pub fn with_completed(self, completed: u32) -> Self {
        self.with(record_at::COMPLETED, completed.to_le_bytes())
    }

    /// The same with the 32-bit value of the operation.
    #[must_use]
    pub fn with_value(self, value: u32) -> Self {
        self.with(record_at::VALUE, value.to_le_bytes())
    }

    /// The status byte, with its write bit.
    pub fn status(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }

    /// Whether the status is success, which a false predicate is not: a fence after it abandons.
    pub fn succeeded(&self) -> bool {
        self.status() == status::SUCCESS
    }

    /// The bytes as the device writes them.
    pub fn bytes(&self) -> [u8; RECORD_BYTES] {
        self.bytes
    }

    /// Bit n: byte n of [`bytes`](Self::bytes) means something.
    pub fn defined(&self) -> u32 {
        self.defined
    }

    /// Makes every byte random that means nothing.
    pub fn poison(&mut self, rng: &mut SplitMix64) {
        for (i, byte) in self.bytes.iter_mut().enumerate() {
            if self.defined >> i & 1 == 0 {
                *byte = rng.next() as u8;
            }
        }
    }
}

/// A page fault of a transfer: the record that says so.
pub(crate) fn page_fault(fault: MemFault, completed: u32, operand: u8, at: FaultContext) -> Record {
    let code = if at.block_on_fault { status::PAGE_REQUEST_FAILED } else { status::PAGE_FAULT };
    let write = if fault.write { status::WRITE_FAULT } else { 0 };
    let record = Record::new(code | write)
        .with_completed(completed)
        .with(record_at::FAULT_ADDRESS, fault.addr.to_le_bytes());
    if at.is_v2 { record.with(record_at::FAULT_INFO, [(operand & 7) << 1]) } else { record }
}

/// What decides how a fault is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultContext {
    /// The descriptor asked to block on faults: the system was asked, and had no such page.
    pub(crate) block_on_fault: bool,
    /// The record has fault information.
    pub(crate) is_v2: bool,
}

/// An error that no record can tell: what the device's error register holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SoftwareError {
    /// The code, as a status.
    pub code: u8,
    /// The operation's number.
    pub opcode: u8,
    /// The record's address.
    pub address: u64,
}

/// Whether a record is due for this descriptor: always on request, else only if it did not succeed.
pub fn is_due(descriptor: &Descriptor, record: &Record) -> bool {
    let flags = descriptor.flags();
    flags & flag::RECORD_VALID != 0 && (flags & flag::REQUEST_RECORD != 0 || !record.succeeded())
}

/// Whether the record's address, if it is to be used, is aligned.
pub fn check_address(descriptor: &Descriptor) -> Result<(), SoftwareError> {
    let misaligned = !descriptor.record().is_multiple_of(RECORD_ALIGN as u64);
    if descriptor.flags() & flag::RECORD_VALID != 0 && misaligned {
        return Err(error(descriptor, status::RECORD_ALIGNMENT));
    }
    Ok(())
}

/// Writes the record.
pub fn write(descriptor: &Descriptor, record: &Record, memory: &dyn Memory) -> Result<(), SoftwareError> {
    memory.publish(descriptor.record(), &record.bytes()).map_err(|_| error(descriptor, status::RECORD_FAULT))
}

fn error(descriptor: &Descriptor, code: u8) -> SoftwareError {
    SoftwareError { code, opcode: descriptor.opcode(), address: descriptor.record() }
}
