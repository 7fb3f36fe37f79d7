//! Completion records: what the device wrote, read with distrust.
//!
//! A device defines few bytes of a record for each outcome and leaves the others as they come, so a
//! [`RecordView`] hands out a field only together with the status that defines it. Everything here is
//! pure and total: any 32 bytes have an outcome.
//!
//! Sources: status codes and fields by the Linux driver's public header (`include/uapi/linux/idxd.h`);
//! what to do about a code is this crate's decision.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::wire::{RECORD_BYTES, record_at, status};

/// What to do about an operation that failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Nobody's fault: these buffers are not for the device. The CPU does it.
    Cpu,
    /// More bytes or descriptors than device and queue take, or none: to be split.
    Split,
    /// A descriptor that should never have been built. The CPU does it, and a test should fail.
    Programming,
    /// The queue or device is set up so that this cannot work: not this operation on this queue again.
    Config,
    /// The device is not to be trusted: quarantine. Unknown codes are here, too.
    Device,
    /// The data (a delta record, protection information) is wrong, whoever looks at it.
    Data,
}

/// What a completion record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// Not written yet.
    Pending,
    /// Done; of a comparison with an expected result: as expected.
    Success,
    /// Done; the result was not the expected one.
    FalsePredicate,
    /// A page was not there. `completed` is as the device wrote it and may exceed the operation.
    PageFault {
        /// On a write to the destination, or on a read.
        write: bool,
        /// Whether going on after the page is there makes sense. It does not if the system has said
        /// already that there is no such page.
        resumable: bool,
        /// Bytes done, by the operation's own count.
        completed: u32,
        /// An address inside the page.
        addr: u64,
        /// Of a move: 1 if it ran from the end to the beginning.
        result: u8,
    },
    /// A member of the batch failed. Members from `completed` on were not run, the others have their
    /// own records.
    BatchFailed {
        /// Members run.
        completed: u32,
    },
    /// A page of the batch's list was not there. Members from `completed` on were not run.
    BatchPageFault {
        /// Members run.
        completed: u32,
        /// An address inside the page.
        addr: u64,
    },
    /// It failed.
    Failed {
        /// Status code, bits 6:0.
        code: u8,
        /// What to do.
        class: Class,
    },
}

/// What a CR_DELTA found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delta {
    /// The sources are equal.
    Equal,
    /// They differ; the record has this many bytes.
    Differs(u32),
    /// There was not room enough; the record holds the first differences in this many bytes.
    Overflow(u32),
}

/// Where a DIF operation found a mismatch.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DifMismatch {
    /// The guard (CRC) differs.
    pub guard: bool,
    /// The application tag differs.
    pub application: bool,
    /// The reference tag differs.
    pub reference: bool,
    /// All 8 bytes are ones, which was to be an error.
    pub all_ones: bool,
    /// Bytes of the source before the block in question.
    pub completed: u32,
}

/// The 32 bytes of a completion record, copied out of the device's reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordView([u8; RECORD_BYTES]);

impl From<[u8; RECORD_BYTES]> for RecordView {
    fn from(bytes: [u8; RECORD_BYTES]) -> Self {
        RecordView(bytes)
    }
}

impl RecordView {
    /// Copies a record out of the memory that the device writes to. The status is read first, with
    /// acquire ordering; if it is zero, the other bytes are not looked at and read as zero.
    ///
    /// # Safety
    /// `record` points to 32 bytes, aligned to 32, valid for reads during the call; no thread of this
    /// process writes to them meanwhile, and a device writes them at most once, the status last.
    pub unsafe fn load(record: *const u8) -> RecordView {
        let mut bytes = [0; RECORD_BYTES];
        // SAFETY: the caller promises 32 readable bytes; a byte is aligned, and it is only ever accessed
        // atomically while the device may still write it.
        let status = unsafe { AtomicU8::from_ptr(record.cast_mut()) }.load(Ordering::Acquire);
        if status == status::NONE {
            return RecordView(bytes);
        }
        // SAFETY: in bounds and readable as promised; the device wrote all before the status, which has
        // been acquired. Volatile, because the compiler does not know of the device.
        bytes = unsafe { record.cast::<[u8; RECORD_BYTES]>().read_volatile() };
        bytes[0] = status;
        RecordView(bytes)
    }

    fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0.get(offset + i).copied().unwrap_or(0))
    }

    fn byte(&self, offset: usize) -> u8 {
        u8::from_le_bytes(self.field(offset))
    }

    fn word(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.field(offset))
    }

    /// The first byte: code in bits 6:0, and bit 7 for a fault on a write.
    pub fn status(&self) -> u8 {
        self.byte(record_at::STATUS)
    }

    /// The bytes as they are.
    pub fn bytes(&self) -> [u8; RECORD_BYTES] {
        self.0
    }

    /// What became of the operation.
    pub fn outcome(&self) -> Outcome {
        let status = self.status();
        let completed = self.word(record_at::COMPLETED);
        let addr = u64::from_le_bytes(self.field(record_at::FAULT_ADDRESS));
        match status & status::CODE {
            _ if status == status::NONE => Outcome::Pending,
            status::SUCCESS => Outcome::Success,
            status::FALSE_PREDICATE => Outcome::FalsePredicate,
            code @ (status::PAGE_FAULT | status::PAGE_REQUEST_FAILED) => Outcome::PageFault {
                write: status & status::WRITE_FAULT != 0,
                resumable: code == status::PAGE_FAULT,
                completed,
                addr,
                result: self.byte(record_at::RESULT),
            },
            status::BATCH_FAILED => Outcome::BatchFailed { completed },
            status::BATCH_PAGE_FAULT => Outcome::BatchPageFault { completed, addr },
            code => Outcome::Failed { code, class: class(code) },
        }
    }

    /// Whether the code is success, with or without the expected result.
    fn is_done(&self) -> bool {
        matches!(self.outcome(), Outcome::Success | Outcome::FalsePredicate)
    }

    /// Of a COMPARE or COMPVAL that was done: whether the buffers differ, and before that, at which
    /// offset or somewhat before it the first difference is. `None` for any other outcome, or for a
    /// result that no comparison has.
    pub fn difference(&self) -> Option<Option<u32>> {
        match self.byte(record_at::RESULT) {
            _ if !self.is_done() => None,
            0 => Some(None),
            1 => Some(Some(self.word(record_at::COMPLETED))),
            _ => None,
        }
    }

    /// Of a CRCGEN or COPY_CRC that succeeded: the CRC.
    pub fn crc(&self) -> Option<u32> {
        (self.outcome() == Outcome::Success).then(|| self.word(record_at::VALUE))
    }

    /// Of a CR_DELTA that was done: what it found. The size is as the device wrote it.
    pub fn delta(&self) -> Option<Delta> {
        match self.byte(record_at::RESULT) {
            _ if !self.is_done() => None,
            0 => Some(Delta::Equal),
            1 => Some(Delta::Differs(self.word(record_at::VALUE))),
            2 => Some(Delta::Overflow(self.word(record_at::VALUE))),
            _ => None,
        }
    }

    /// Of an operation that failed for its flags: which the device does not take.
    pub fn invalid_flags(&self) -> Option<u32> {
        (self.status() & status::CODE == status::BAD_FLAGS).then(|| self.word(record_at::VALUE) & 0x00ff_ffff)
    }

    /// Of a DIF operation that found a mismatch: which, and where.
    pub fn dif_mismatch(&self) -> Option<DifMismatch> {
        if self.status() & status::CODE != status::DIF_ERROR {
            return None;
        }
        let bits = self.byte(record_at::RESULT);
        Some(DifMismatch {
            guard: bits & 1 != 0,
            application: bits & 2 != 0,
            reference: bits & 4 != 0,
            all_ones: bits & 8 != 0,
            completed: self.word(record_at::COMPLETED),
        })
    }
}

/// What to do about a code that is neither success nor a fault to go on from.
fn class(code: u8) -> Class {
    match code {
        status::DELTA_ORDER | status::DELTA_RANGE | status::DIF_ERROR => Class::Data,
        status::BAD_OPCODE | status::BAD_INTERRUPT | status::PRIVILEGE | status::TRAFFIC_CLASS => {
            Class::Config
        }
        status::BAD_FLAGS
        | status::RESERVED_FIELD
        | status::BAD_DELTA_SIZE
        | status::LIST_ALIGNMENT
        | status::RECORD_ALIGNMENT
        | status::OPERAND_ALIGNMENT => Class::Programming,
        status::BAD_SIZE | status::BAD_COUNT => Class::Split,
        status::OVERLAP | status::DUALCAST_ADDRESSES => Class::Cpu,
        // Readback, hardware errors, failed translation, a record that could not be written, errors of
        // the PCI configuration, the driver's mark of an abort, and whatever is not known.
        _ => Class::Device,
    }
}
