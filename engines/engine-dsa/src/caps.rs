//! What a device and a queue can do, from the text of their attributes.
//!
//! The driver has printed the bitmap of opcodes in several ways over the years: one hexadecimal word; four
//! words of 64 bits with blanks between, the lowest first; groups of 32 bits with commas between, the lowest
//! last; and words of 64 bits with commas between, the lowest last. [`OpSet::parse`] takes them all. The
//! capability registers are single hexadecimal numbers.
//!
//! Sources: the driver's `sysfs.c` and `registers.h` for the formats and bits.
//!
//! A version says nothing about opcodes: devices of version 2.0 without the delta operations exist, and the
//! driver hides BATCH on version 1.0. Only the bitmap counts.

use std::fmt;

use thiserror::Error;

use crate::wire::{Opcode, gen_cap};

/// Longest text that is looked at, in bytes.
const TEXT_MAX: usize = 1024;
/// Bits of the bitmap.
const OP_BITS: usize = 256;

/// Why a text is no capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CapsError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Not hexadecimal digits, or more in a group than 64 bits.
    #[error("it is not a number in hexadecimal digits")]
    NotHex,
    /// More than the bitmap can have.
    #[error("it is longer than any such attribute")]
    TooLong,
}

/// A set of operations, by number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct OpSet([u64; OP_BITS / 64]);

impl OpSet {
    /// No operation.
    pub const EMPTY: OpSet = OpSet([0; OP_BITS / 64]);

    /// Of these operations.
    pub fn of(operations: &[Opcode]) -> OpSet {
        let mut set = OpSet::EMPTY;
        for operation in operations {
            set.insert(*operation as u8);
        }
        set
    }

    /// From `op_cap` or `op_config`. Bits beyond 256 must be zero.
    pub fn parse(text: &str) -> Result<OpSet, CapsError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(CapsError::TooLong);
        }
        if text.is_empty() {
            return Err(CapsError::Empty);
        }
        if text.contains(',') {
            let groups: Vec<&str> = text.split(',').map(digits).collect();
            // Groups of 32 bits have eight digits at most; one with more says that all are of 64.
            let width = if groups.iter().any(|group| group.len() > 8) { 64 } else { 32 };
            OpSet::from_groups(groups.into_iter().rev(), width)
        } else {
            OpSet::from_groups(text.split_whitespace().map(digits), 64)
        }
    }

    /// From groups of `width` bits, the lowest first.
    fn from_groups<'a>(groups: impl Iterator<Item = &'a str>, width: usize) -> Result<OpSet, CapsError> {
        let mut set = OpSet::EMPTY;
        for (index, group) in groups.enumerate() {
            let value = hex(group)?;
            let bit = index.saturating_mul(width);
            match set.0.get_mut(bit / 64) {
                Some(word) => *word |= value << (bit % 64),
                None if value == 0 => {}
                None => return Err(CapsError::TooLong),
            }
        }
        Ok(set)
    }

    /// Adds an operation by its number.
    pub fn insert(&mut self, number: u8) {
        if let Some(word) = self.0.get_mut(usize::from(number / 64)) {
            *word |= 1 << (number % 64);
        }
    }

    /// Whether the operation of this number is in it.
    pub fn contains_number(&self, number: u8) -> bool {
        self.0.get(usize::from(number / 64)).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Whether the operation is in it.
    pub fn contains(&self, operation: Opcode) -> bool {
        self.contains_number(operation as u8)
    }

    /// What is in both.
    #[must_use]
    pub fn and(&self, other: &OpSet) -> OpSet {
        OpSet(std::array::from_fn(|i| {
            self.0.get(i).copied().unwrap_or(0) & other.0.get(i).copied().unwrap_or(0)
        }))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        *self == OpSet::EMPTY
    }

    /// The numbers in it, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=u8::MAX).filter(|number| self.contains_number(*number))
    }
}

impl fmt::Debug for OpSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.numbers()).finish()
    }
}

/// The register of general capabilities, from `gen_cap`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenCap(pub u64);

impl GenCap {
    /// From the attribute's text.
    pub fn parse(text: &str) -> Result<GenCap, CapsError> {
        number(text).map(GenCap)
    }

    fn bits(self, low: u32, count: u32) -> u64 {
        self.0 >> low & ((1 << count) - 1)
    }

    /// Whether a flag of [`gen_cap`] is set.
    pub fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// Whether descriptors may wait for the system to page in.
    pub fn block_on_fault(self) -> bool {
        self.has(gen_cap::BLOCK_ON_FAULT)
    }

    /// Whether the buffers of a move may overlap.
    pub fn overlap(self) -> bool {
        self.has(gen_cap::OVERLAP)
    }

    /// Whether writes can be directed into the cache.
    pub fn cache_control(self) -> bool {
        self.has(gen_cap::CACHE_CONTROL)
    }

    /// Whether a cache flush can invalidate, too.
    pub fn cache_flush(self) -> bool {
        self.has(gen_cap::CACHE_FLUSH)
    }

    /// Whether the commands of the device have a register that says which there are.
    pub fn command_capability(self) -> bool {
        self.bits(4, 1) == 1
    }

    /// Whether a destination can be read back before completion.
    pub fn readback(self) -> bool {
        self.has(gen_cap::READBACK)
    }

    /// Whether a drain can read back.
    pub fn drain_readback(self) -> bool {
        self.bits(9, 1) == 1
    }

    /// Support for an event log, 0 for none.
    pub fn event_log(self) -> u8 {
        self.bits(13, 2) as u8
    }

    /// The largest transfer of the device, in bytes.
    pub fn max_transfer(self) -> u64 {
        1 << self.bits(16, 5)
    }

    /// The largest batch of the device, in descriptors.
    pub fn max_batch(self) -> u32 {
        1 << self.bits(21, 4)
    }

    /// Entries for interrupts in memory.
    pub fn interrupt_entries(self) -> u32 {
        self.bits(25, 6) as u32 * 256
    }

    /// Whether the device's configuration can be changed.
    pub fn configurable(self) -> bool {
        self.bits(31, 1) == 1
    }
}

/// The three capability words of version 3.0, from `dsacaps`, which prints the highest first.
///
/// These devices are announced to gather and reduce. No number of such an opcode is public, nor whether any
/// reduction is an exclusive or, so nothing here offers one: see [`xor`](Self::xor).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DsaCaps {
    /// The words, the lowest first.
    pub words: [u64; 3],
}

impl DsaCaps {
    /// From the attribute's text.
    pub fn parse(text: &str) -> Result<DsaCaps, CapsError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(CapsError::TooLong);
        }
        let mut groups =
            text.split(|c: char| c == ',' || c.is_whitespace()).filter(|group| !group.is_empty()).rev();
        let mut words = [0; 3];
        for word in &mut words {
            *word = number(groups.next().ok_or(CapsError::Empty)?)?;
        }
        if groups.next().is_some() {
            return Err(CapsError::TooLong);
        }
        Ok(DsaCaps { words })
    }

    /// Logarithm of the longest list that a gather takes.
    pub fn max_list_shift(&self) -> u8 {
        (self.words[0] & 0xf) as u8
    }

    /// Logarithm of the largest block that a gather-reduce takes.
    pub fn max_reduce_shift(&self) -> u8 {
        (self.words[0] >> 4 & 0xf) as u8
    }

    /// Whether the device can compute parity. Nothing sets this yet: it waits for public documentation of
    /// the opcodes.
    pub fn xor(&self) -> bool {
        false
    }
}

/// A hexadecimal number, with or without `0x`.
pub(crate) fn number(text: &str) -> Result<u64, CapsError> {
    match digits(text) {
        "" => Err(CapsError::Empty),
        text => hex(text),
    }
}

fn digits(group: &str) -> &str {
    let group = group.trim();
    group.strip_prefix("0x").or_else(|| group.strip_prefix("0X")).unwrap_or(group)
}

fn hex(digits: &str) -> Result<u64, CapsError> {
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(CapsError::NotHex);
    }
    u64::from_str_radix(digits, 16).map_err(|_| CapsError::NotHex)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<u8> {
        OpSet::parse(text).unwrap().numbers().collect()
    }

    #[test]
    fn bitmaps_of_every_kernel() {
        let first: Vec<u8> = (0..=9).chain(16..=21).chain([32]).collect();
        for text in [
            "1003f03ff",
            "0x1003f03ff\n",
            "00000001,003f03ff",
            "00000000,00000000,00000000,00000000,00000000,00000000,00000001,003f03ff\n",
            "0x1003f03ff 0 0 0",
            "0000000000000000,0000000000000000,0000000000000000,00000001003f03ff",
            "0x0,0x00000001003f03ff",
        ] {
            assert_eq!(numbers(text), first, "{text}");
        }
        let hidden = OpSet::parse("00000001,003f03fd").unwrap();
        assert!(!hidden.contains(Opcode::Batch) && hidden.contains(Opcode::Memmove));
        let second: Vec<u8> = (0..=10).chain(16..=21).chain([23, 32, 33, 35, 36, 37, 38]).collect();
        assert_eq!(numbers("0000007b,00bf07ff"), second);
        let without: Vec<u8> = second.into_iter().filter(|n| *n != 7 && *n != 8).collect();
        assert_eq!(numbers("0000007b,00bf067f"), without);
        assert_eq!(numbers("80000000,00000000,00000000,00000000,00000000,00000000,00000000,00000000"), [255]);
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", " \n", "none", "12,xyz", "-1", "+1", "1,,2", "0x", "1003f03ff00000000"] {
            assert!(OpSet::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(OpSet::parse(&"0,".repeat(600)), Err(CapsError::TooLong));
        assert_eq!(OpSet::parse("1,0,0,0,0,0,0,0,0"), Err(CapsError::TooLong));
        assert!(OpSet::parse("0,0,0,0,0,0,0,0,8").is_ok_and(|set| set.contains(Opcode::Memmove)));
    }

    #[test]
    fn general_capabilities_of_a_first_device() {
        let caps = GenCap::parse("0x40915f0107").unwrap();
        assert!(caps.block_on_fault() && caps.overlap() && caps.cache_control() && caps.readback());
        assert!(!caps.cache_flush() && !caps.command_capability() && !caps.drain_readback());
        assert_eq!(caps.event_log(), 0);
        assert_eq!((caps.max_transfer(), caps.max_batch()), (1 << 31, 1 << 10));
        assert_eq!((caps.interrupt_entries(), caps.configurable()), (2048, true));
        assert_eq!(GenCap::parse("zero"), Err(CapsError::NotHex));
        assert_eq!(GenCap::parse(""), Err(CapsError::Empty));
    }

    #[test]
    fn third_version_words_and_no_parity() {
        let text = "0000000000000003,0000000000000002,00000000000000a5\n";
        let caps = DsaCaps::parse(text).unwrap();
        assert_eq!(caps.words, [0xa5, 2, 3]);
        assert_eq!((caps.max_list_shift(), caps.max_reduce_shift()), (5, 10));
        assert!(!caps.xor() && !DsaCaps { words: [u64::MAX; 3] }.xor());
        assert_eq!(DsaCaps::parse("1,2"), Err(CapsError::Empty));
        assert_eq!(DsaCaps::parse("1,2,3,4"), Err(CapsError::TooLong));
    }
}
