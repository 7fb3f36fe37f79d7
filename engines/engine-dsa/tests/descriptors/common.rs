//! The vectors, their memory map, and records made by hand.

use engine_dsa::descriptor::BuildError;
use engine_dsa::dif::{Block, Format, Source, Tags};
use engine_dsa::record::RecordView;
use engine_dsa::wire::{Descriptor, status};
use serde_json::Value;

const VECTORS: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../dsa-model/tests/vectors/dsa-vectors.json"));

// The memory map of the vectors.
pub(super) const A: u64 = 0x1000_0000;

pub(super) const B: u64 = 0x1010_0000;

pub(super) const C: u64 = 0x1020_0000;

pub(super) const D: u64 = 0x1030_0000;

pub(super) const R: u64 = 0x1040_0000;

pub(super) const F: u64 = 0x1050_0000;

pub(super) type Built = Result<Descriptor, BuildError>;

pub(super) fn vectors() -> Vec<Value> {
    let all: Value = serde_json::from_str(VECTORS).unwrap();
    all["vectors"].as_array().unwrap().clone()
}

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

pub(super) fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor(bytes.try_into().unwrap())
}

pub(super) fn address(text: &str) -> u64 {
    u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
}

/// The vectors' protection information: blocks of 512, application tag 0x1234, reference tag 16.
pub(super) fn protection() -> (Format, Tags) {
    (Format::new(Block::B512), Tags { reference: 0x10, mask: 0, application: 0x1234 })
}

pub(super) fn dif_check() -> Built {
    let (format, tags) = protection();
    Descriptor::dif_check(B, 1040, format, &Source { tags, flags: 0 })
}

/// A record with these fields, and garbage in all that the status does not define.
pub(super) fn record(status: u8, result: Option<u8>, completed: u32, fault: u64, value: u32) -> RecordView {
    let mut bytes = [0xa5; 32];
    bytes[0] = status;
    bytes[1] = result.unwrap_or(0xa5);
    bytes[4..8].copy_from_slice(&completed.to_le_bytes());
    bytes[8..16].copy_from_slice(&fault.to_le_bytes());
    bytes[16..20].copy_from_slice(&value.to_le_bytes());
    RecordView::from(bytes)
}

pub(super) fn fault(completed: u32, result: u8) -> RecordView {
    record(status::PAGE_FAULT | status::WRITE_FAULT, Some(result), completed, 0xdead_b000, 0)
}

/// xorshift64*: the same numbers in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
