//! What the tests share: the vectors' memory, and descriptors built by hand.

use dsa_model::memory::Mapped;
use engine_dsa::wire::{Descriptor, at, flag};
use serde_json::Value;

pub(crate) const A: u64 = 0x1000_0000;
pub(crate) const B: u64 = 0x1010_0000;
pub(crate) const C: u64 = 0x1020_0000;
pub(crate) const D: u64 = 0x1030_0000;
pub(crate) const R: u64 = 0x1040_0000;
pub(crate) const F: u64 = 0x1050_0000;

/// Vectors in the file. A file with fewer is not the one that was agreed on.
pub(crate) const VECTORS: usize = 65;

/// The vectors, as JSON.
pub(crate) fn vectors() -> Vec<Value> {
    let text = include_str!("../vectors/dsa-vectors.json");
    let whole: Value = serde_json::from_str(text).expect("the vectors are JSON");
    whole["vectors"].as_array().expect("an array").clone()
}

/// Byte `i` of the pattern P.
pub(crate) fn pattern(i: usize) -> u8 {
    (7 * i + 13 * (i >> 8) + 3) as u8
}

/// `len` bytes of P.
pub(crate) fn pattern_bytes(len: usize) -> Vec<u8> {
    (0..len).map(pattern).collect()
}

/// The vectors' memory map.
pub(crate) fn memory() -> Mapped {
    let memory = Mapped::new();
    memory.map(A, pattern_bytes(65536));
    memory.map(B, vec![0; 65536]);
    memory.map(C, vec![0; 65536]);
    memory.map(D, vec![0; 4096]);
    memory.map(R, vec![0; 4096]);
    memory.map(F, pattern_bytes(8192));
    memory
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd hex {text}");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex")).collect()
}

/// `0x…` of a vector.
pub(crate) fn number(value: &Value) -> u64 {
    let text = value.as_str().expect("a string");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hex")
}

/// A descriptor from its fields, built byte by byte; record requested at `record` (0: none).
pub(crate) fn descriptor(opcode: u8, source: u64, destination: u64, size: u32, record: u64) -> Descriptor {
    let mut d = Descriptor::default();
    let flags = if record == 0 { 0 } else { flag::RECORD_VALID | flag::REQUEST_RECORD };
    d.set_operation(opcode, flags);
    d.set_field(at::RECORD, record.to_le_bytes());
    d.set_field(at::SOURCE, source.to_le_bytes());
    d.set_field(at::DESTINATION, destination.to_le_bytes());
    d.set_field(at::SIZE, size.to_le_bytes());
    d
}

/// The record at `address`.
pub(crate) fn record(memory: &Mapped, address: u64) -> [u8; 32] {
    memory.bytes(address, 32).expect("mapped").try_into().expect("32 bytes")
}

/// Its u32 at `offset`.
pub(crate) fn u32_at(record: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(record[offset..offset + 4].try_into().expect("4 bytes"))
}

/// Its u64 at `offset`.
pub(crate) fn u64_at(record: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(record[offset..offset + 8].try_into().expect("8 bytes"))
}
