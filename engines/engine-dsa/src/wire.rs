//! The bytes of a descriptor and of a completion record: offsets, opcodes, flags and status codes.
//!
//! Source: the public headers of the Linux driver (`include/uapi/linux/idxd.h`) and of the test suites
//! built on it. All fields are little-endian. Nothing here has behaviour beyond reading and writing a
//! field; both the driver and the device model build on it.

/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: usize = 64;
/// Bytes of a completion record.
pub const RECORD_BYTES: usize = 32;
/// Alignment of a completion record. The kernel checks it on the write(2) path only; a user who gets it
/// wrong on a mapped portal can wedge the device.
pub const RECORD_ALIGN: usize = 32;
/// Alignment of a batch's descriptor list.
pub const LIST_ALIGN: usize = 64;

/// Offsets of the descriptor's fields, in bytes.
pub mod at {
    /// u32: PASID in bits 19:0, privilege in bit 31. Zero from user space.
    pub const PASID: usize = 0;
    /// 24 bits of flags.
    pub const FLAGS: usize = 4;
    /// u8.
    pub const OPCODE: usize = 7;
    /// u64: address of the completion record.
    pub const RECORD: usize = 8;
    /// u64: source, fill pattern, descriptor list, or delta record to apply.
    pub const SOURCE: usize = 16;
    /// u64: destination, second source of a comparison, or its pattern.
    pub const DESTINATION: usize = 24;
    /// u32: bytes, or descriptors of a batch.
    pub const SIZE: usize = 32;
    /// u16: interrupt handle, zero from user space.
    pub const INTERRUPT: usize = 36;
    /// u16, zero.
    pub const RESERVED: usize = 38;
    /// Where the fields of the operation begin.
    pub const SPECIFIC: usize = 40;
    /// u8: expected result (COMPARE, COMPVAL).
    pub const EXPECTED: usize = 40;
    /// u64: second destination (DUALCAST).
    pub const DESTINATION2: usize = 40;
    /// u32: CRC seed (CRCGEN, COPY_CRC).
    pub const CRC_SEED: usize = 40;
    /// u64: address of the CRC seed, with [`super::flag::CRC_READ_SEED`].
    pub const CRC_SEED_ADDRESS: usize = 48;
    /// u64: delta record's address (CR_DELTA).
    pub const DELTA: usize = 40;
    /// u32: size of the delta record to apply (AP_DELTA).
    pub const DELTA_SIZE: usize = 40;
    /// u32: room for the delta record (CR_DELTA).
    pub const DELTA_MAX: usize = 48;
    /// u8: accepted results (CR_DELTA).
    pub const DELTA_EXPECTED: usize = 56;
    /// u8: DIF flags of the source (check, strip, update).
    pub const DIF_SOURCE_FLAGS: usize = 40;
    /// u8: DIF flags of the destination (insert, update).
    pub const DIF_DESTINATION_FLAGS: usize = 41;
    /// u8: DIF flags: block size and CRC inversions.
    pub const DIF_FLAGS: usize = 42;
    /// u32 reference tag, u16 application tag mask, u16 application tag of the source.
    pub const DIF_SOURCE_TAGS: usize = 48;
    /// The same of the destination.
    pub const DIF_DESTINATION_TAGS: usize = 56;
}

/// Offsets of the completion record's fields, in bytes.
pub mod record_at {
    /// u8: code in bits 6:0, bit 7 set for a fault on a write.
    pub const STATUS: usize = 0;
    /// u8: result of a comparison or delta; direction of a faulted move; DIF error bits.
    pub const RESULT: usize = 1;
    /// u8: fault information (2.0).
    pub const FAULT_INFO: usize = 2;
    /// u32: bytes completed; descriptors completed of a batch.
    pub const COMPLETED: usize = 4;
    /// u64: where the page fault was.
    pub const FAULT_ADDRESS: usize = 8;
    /// u32: CRC, or mask of invalid flags, or bytes of a delta record.
    pub const VALUE: usize = 16;
    /// u32 reference tag, u16 mask, u16 application tag of the source where a DIF operation stopped.
    pub const DIF_SOURCE_TAGS: usize = 16;
    /// The same of the destination.
    pub const DIF_DESTINATION_TAGS: usize = 24;
}

/// Flags of a descriptor.
pub mod flag {
    /// In a batch: start after all earlier ones ended, and only if they succeeded.
    pub const FENCE: u32 = 1 << 0;
    /// The device waits for the system to page in.
    pub const BLOCK_ON_FAULT: u32 = 1 << 1;
    /// The completion record's address is valid.
    pub const RECORD_VALID: u32 = 1 << 2;
    /// Write the record on success, too.
    pub const REQUEST_RECORD: u32 = 1 << 3;
    /// Completion interrupt; kernel clients only.
    pub const REQUEST_INTERRUPT: u32 = 1 << 4;
    /// Steering tag of the record.
    pub const RECORD_STEERING: u32 = 1 << 5;
    /// The status says whether the result was the expected one.
    pub const CHECK_RESULT: u32 = 1 << 7;
    /// Writes allocate in the cache. Needs [`super::gen_cap::CACHE_CONTROL`].
    pub const CACHE_CONTROL: u32 = 1 << 8;
    /// Traffic class of the first address.
    pub const ADDRESS1_TC: u32 = 1 << 9;
    /// Traffic class of the second address.
    pub const ADDRESS2_TC: u32 = 1 << 10;
    /// Traffic class of the third address.
    pub const ADDRESS3_TC: u32 = 1 << 11;
    /// Traffic class of the record.
    pub const RECORD_TC: u32 = 1 << 12;
    /// Strict ordering of writes.
    pub const STRICT_ORDER: u32 = 1 << 13;
    /// Read the destination back before completing.
    pub const READBACK: u32 = 1 << 14;
    /// Steering tag of the destination.
    pub const STEERING: u32 = 1 << 15;
    /// CRC: the seed is read from memory.
    pub const CRC_READ_SEED: u32 = 1 << 16;
    /// CRC: seed and result are neither inverted nor reflected.
    pub const CRC_BYPASS_INVERSION: u32 = 1 << 17;
    /// CRC: the data bytes are not reflected.
    pub const CRC_BYPASS_REFLECTION: u32 = 1 << 18;
    /// FILL (2.0): the pattern has 16 bytes.
    pub const FILL_LONG_PATTERN: u32 = 1 << 18;
}

/// Bits of the capability register that is read from `gen_cap`.
pub mod gen_cap {
    /// Block on fault.
    pub const BLOCK_ON_FAULT: u64 = 1 << 0;
    /// Moves whose buffers overlap.
    pub const OVERLAP: u64 = 1 << 1;
    /// Cache control of memory writes.
    pub const CACHE_CONTROL: u64 = 1 << 2;
    /// Cache control of flushes.
    pub const CACHE_FLUSH: u64 = 1 << 3;
    /// Destination readback.
    pub const READBACK: u64 = 1 << 8;
}

/// Operations, by their number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// Nothing but a record.
    Noop = 0x00,
    /// Runs a list of descriptors.
    Batch = 0x01,
    /// Ends after what was accepted before.
    Drain = 0x02,
    /// Copies.
    Memmove = 0x03,
    /// Repeats an 8-byte pattern (16 bytes in 2.0).
    Fill = 0x04,
    /// Compares two buffers.
    Compare = 0x05,
    /// Compares a buffer with a repeated 8-byte pattern.
    CompareValue = 0x06,
    /// Lists the 8-byte words that differ.
    CreateDelta = 0x07,
    /// Applies such a list.
    ApplyDelta = 0x08,
    /// Copies to two destinations.
    Dualcast = 0x09,
    /// Warms up the translation of a range (2.0).
    TranslationFetch = 0x0a,
    /// CRC-32C.
    CrcGen = 0x10,
    /// Copies and computes CRC-32C.
    CopyCrc = 0x11,
    /// Checks T10 protection information.
    DifCheck = 0x12,
    /// Inserts it.
    DifInsert = 0x13,
    /// Strips it.
    DifStrip = 0x14,
    /// Replaces it.
    DifUpdate = 0x15,
    /// Writes it apart from the data (2.0).
    DixGen = 0x17,
    /// Flushes a range from the caches.
    CacheFlush = 0x20,
}

impl Opcode {
    /// All that are known here, by number.
    pub const ALL: [Opcode; 19] = [
        Opcode::Noop,
        Opcode::Batch,
        Opcode::Drain,
        Opcode::Memmove,
        Opcode::Fill,
        Opcode::Compare,
        Opcode::CompareValue,
        Opcode::CreateDelta,
        Opcode::ApplyDelta,
        Opcode::Dualcast,
        Opcode::TranslationFetch,
        Opcode::CrcGen,
        Opcode::CopyCrc,
        Opcode::DifCheck,
        Opcode::DifInsert,
        Opcode::DifStrip,
        Opcode::DifUpdate,
        Opcode::DixGen,
        Opcode::CacheFlush,
    ];

    /// The operation of this number.
    pub fn from_number(number: u8) -> Option<Opcode> {
        Opcode::ALL.into_iter().find(|op| *op as u8 == number)
    }
}

/// Status codes, bits 6:0 of a record's first byte.
pub mod status {
    /// The record was not written yet.
    pub const NONE: u8 = 0x00;
    /// Done.
    pub const SUCCESS: u8 = 0x01;
    /// Done, and the result was not the expected one ([`super::flag::CHECK_RESULT`]).
    pub const FALSE_PREDICATE: u8 = 0x02;
    /// A page was not there: done up to [`super::record_at::COMPLETED`].
    pub const PAGE_FAULT: u8 = 0x03;
    /// The system has no such page (with block on fault).
    pub const PAGE_REQUEST_FAILED: u8 = 0x04;
    /// A descriptor of the batch failed.
    pub const BATCH_FAILED: u8 = 0x05;
    /// A page of the batch's list was not there.
    pub const BATCH_PAGE_FAULT: u8 = 0x06;
    /// Offsets of a delta record do not increase.
    pub const DELTA_ORDER: u8 = 0x07;
    /// An offset of a delta record is out of range.
    pub const DELTA_RANGE: u8 = 0x08;
    /// Protection information does not match.
    pub const DIF_ERROR: u8 = 0x09;
    /// The opcode is not supported, or disabled in the queue.
    pub const BAD_OPCODE: u8 = 0x10;
    /// Flags that this opcode does not take; which, says [`super::record_at::VALUE`].
    pub const BAD_FLAGS: u8 = 0x11;
    /// A reserved field is not zero.
    pub const RESERVED_FIELD: u8 = 0x12;
    /// No bytes, or more than queue or device allow.
    pub const BAD_SIZE: u8 = 0x13;
    /// Too few or too many descriptors in a batch.
    pub const BAD_COUNT: u8 = 0x14;
    /// The room for a delta record is out of range.
    pub const BAD_DELTA_SIZE: u8 = 0x15;
    /// Buffers overlap.
    pub const OVERLAP: u8 = 0x16;
    /// Bits 11:0 of the two destinations differ (DUALCAST).
    pub const DUALCAST_ADDRESSES: u8 = 0x17;
    /// The batch's list is not aligned to 64 bytes.
    pub const LIST_ALIGNMENT: u8 = 0x18;
    /// The interrupt handle is not valid any more.
    pub const BAD_INTERRUPT: u8 = 0x19;
    /// The record's address does not translate; never seen in a record.
    pub const RECORD_FAULT: u8 = 0x1a;
    /// The record is not aligned to 32 bytes; never seen in a record.
    pub const RECORD_ALIGNMENT: u8 = 0x1b;
    /// An operand is not aligned.
    pub const OPERAND_ALIGNMENT: u8 = 0x1c;
    /// Privilege.
    pub const PRIVILEGE: u8 = 0x1d;
    /// Traffic class.
    pub const TRAFFIC_CLASS: u8 = 0x1e;
    /// The readback faulted.
    pub const READBACK: u8 = 0x1f;
    /// Hardware error.
    pub const HARDWARE: u8 = 0x20;
    /// Hardware error: time-out.
    pub const HARDWARE_TIMEOUT: u8 = 0x21;
    /// Address translation failed.
    pub const TRANSLATION: u8 = 0x22;
    /// The mask of the code; bit 7 tells a fault on a write from one on a read.
    pub const CODE: u8 = 0x7f;
    /// The fault was on a write.
    pub const WRITE_FAULT: u8 = 0x80;
}

/// A descriptor, as the device reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct Descriptor(pub [u8; DESCRIPTOR_BYTES]);

impl Default for Descriptor {
    fn default() -> Self {
        Descriptor([0; DESCRIPTOR_BYTES])
    }
}

impl Descriptor {
    /// `N` bytes at `offset`; offsets are the constants of [`at`], so they are inside.
    pub fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0.get(offset + i).copied().unwrap_or(0))
    }

    /// Sets the bytes at `offset`.
    pub fn set_field<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) {
        if let Some(field) = self.0.get_mut(offset..offset + N) {
            field.copy_from_slice(&bytes);
        }
    }

    /// The number of the operation.
    pub fn opcode(&self) -> u8 {
        u8::from_le_bytes(self.field(at::OPCODE))
    }

    /// The flags, 24 bits.
    pub fn flags(&self) -> u32 {
        u32::from_le_bytes(self.field(at::FLAGS)) & 0x00ff_ffff
    }

    /// Sets the 24 bits of flags and the opcode.
    pub fn set_operation(&mut self, opcode: u8, flags: u32) {
        self.set_field(at::FLAGS, (flags & 0x00ff_ffff | u32::from(opcode) << 24).to_le_bytes());
    }

    /// Address of the completion record.
    pub fn record(&self) -> u64 {
        u64::from_le_bytes(self.field(at::RECORD))
    }

    /// Bytes, or descriptors of a batch.
    pub fn size(&self) -> u32 {
        u32::from_le_bytes(self.field(at::SIZE))
    }
}

const _: () = assert!(size_of::<Descriptor>() == DESCRIPTOR_BYTES && align_of::<Descriptor>() == 64);
