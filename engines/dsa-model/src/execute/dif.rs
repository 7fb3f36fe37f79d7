//! T10 protection information: DIF check, insert, strip and update, and DIX generation.
//!
//! Behind every block of data stand 8 bytes, big-endian: a guard (CRC-16 over the data), an application tag
//! and a reference tag. Where the public software model of the device and the field's practice differ, on a
//! partly masked application tag, this compares only the bits that are not masked.

use engine_dsa::wire::{Opcode, at, record_at, status};

use super::{Fault, Work};
use crate::check::{DIF_TAGS, dif_block, dif_source_step};
use crate::crc::crc16_t10;
use crate::record::Record;

/// The biggest block with its tags.
const BLOCK: usize = 4104 + DIF_TAGS as usize;

/// Bits of the source's flags.
mod source_flag {
    pub(super) const ALL_F_ERROR: u8 = 1 << 0;
    pub(super) const ALL_F: u8 = 1 << 1;
    pub(super) const APP_F: u8 = 1 << 2;
    pub(super) const APP_REF_F: u8 = 1 << 3;
    pub(super) const APP_INCREMENTS: u8 = 1 << 4;
    pub(super) const NO_GUARD: u8 = 1 << 5;
    pub(super) const NO_REF: u8 = 1 << 6;
    pub(super) const REF_FIXED: u8 = 1 << 7;
}

/// Bits of the destination's flags.
mod destination_flag {
    pub(super) const PASS_APP: u8 = 1 << 3;
    pub(super) const APP_INCREMENTS: u8 = 1 << 4;
    pub(super) const PASS_GUARD: u8 = 1 << 5;
    pub(super) const PASS_REF: u8 = 1 << 6;
    pub(super) const REF_FIXED: u8 = 1 << 7;
}

/// Bits of the record's result on an error.
mod dif_error {
    pub(super) const GUARD: u8 = 1;
    pub(super) const APP: u8 = 2;
    pub(super) const REF: u8 = 4;
    pub(super) const ALL_F: u8 = 8;
}

/// The tags of one side, as they go from block to block.
#[derive(Clone, Copy, Debug)]
struct Tags {
    reference: u32,
    mask: u16,
    app: u16,
    app_step: u16,
    ref_step: u32,
}

impl Tags {
    /// From the 8 bytes of the descriptor: reference tag, mask, application tag.
    fn new(bytes: [u8; 8], app_increments: bool, ref_fixed: bool) -> Self {
        let [r0, r1, r2, r3, m0, m1, a0, a1] = bytes;
        Self {
            reference: u32::from_le_bytes([r0, r1, r2, r3]),
            mask: u16::from_le_bytes([m0, m1]),
            app: u16::from_le_bytes([a0, a1]),
            app_step: app_increments.into(),
            ref_step: (!ref_fixed).into(),
        }
    }

    fn advance(&mut self) {
        self.reference = self.reference.wrapping_add(self.ref_step);
        self.app = self.app.wrapping_add(self.app_step);
    }

    /// In the form of the descriptor, which is the form of the record.
    fn bytes(&self) -> [u8; 8] {
        let ([r0, r1, r2, r3], [m0, m1], [a0, a1]) =
            (self.reference.to_le_bytes(), self.mask.to_le_bytes(), self.app.to_le_bytes());
        [r0, r1, r2, r3, m0, m1, a0, a1]
    }
}

/// A DIF operation under way.
struct Dif {
    block: usize,
    source_flags: u8,
    destination_flags: u8,
    crc_seed: u16,
    crc_xor: u16,
    source: Tags,
    destination: Tags,
}

impl Dif {
    fn guard(&self, data: &[u8]) -> u16 {
        crc16_t10(self.crc_seed, data) ^ self.crc_xor
    }

    /// What is wrong with a block's tags, as bits of the result.
    fn verify(&self, data: &[u8], tags: [u8; 8]) -> u8 {
        use source_flag::*;
        let [g0, g1, a0, a1, r0, r1, r2, r3] = tags;
        let guard = u16::from_be_bytes([g0, g1]);
        let app = u16::from_be_bytes([a0, a1]);
        let reference = u32::from_be_bytes([r0, r1, r2, r3]);
        let has = |bit| self.source_flags & bit != 0;
        if has(ALL_F) && tags == [0xff; 8] {
            return if has(ALL_F_ERROR) { dif_error::ALL_F } else { 0 };
        }
        if has(APP_F) && app == u16::MAX || has(APP_REF_F) && app == u16::MAX && reference == u32::MAX {
            return 0;
        }
        let mut wrong = 0;
        if !has(NO_GUARD) && guard != self.guard(data) {
            wrong |= dif_error::GUARD;
        }
        if (app ^ self.source.app) & !self.source.mask != 0 {
            wrong |= dif_error::APP;
        }
        if !has(NO_REF) && reference != self.source.reference {
            wrong |= dif_error::REF;
        }
        wrong
    }

    /// The tags of the destination's block; `old` are those of the source, if it has any.
    fn fresh(&self, data: &[u8], old: [u8; 8]) -> [u8; 8] {
        use destination_flag::*;
        let [g0, g1] = self.guard(data).to_be_bytes();
        let [a0, a1] = (self.destination.app & !self.destination.mask).to_be_bytes();
        let [r0, r1, r2, r3] = self.destination.reference.to_be_bytes();
        let pass = |bit, new: u8, old: u8| if self.destination_flags & bit != 0 { old } else { new };
        let [og0, og1, oa0, oa1, or0, or1, or2, or3] = old;
        [
            pass(PASS_GUARD, g0, og0),
            pass(PASS_GUARD, g1, og1),
            pass(PASS_APP, a0, oa0),
            pass(PASS_APP, a1, oa1),
            pass(PASS_REF, r0, or0),
            pass(PASS_REF, r1, or1),
            pass(PASS_REF, r2, or2),
            pass(PASS_REF, r3, or3),
        ]
    }
}

impl Work<'_, '_> {
    fn dif_parts(&self) -> Dif {
        let d = self.d;
        let ([source_flags], [destination_flags], [flags]) =
            (d.field(at::DIF_SOURCE_FLAGS), d.field(at::DIF_DESTINATION_FLAGS), d.field(at::DIF_FLAGS));
        let has = |flags: u8, bit| flags & bit != 0;
        Dif {
            block: dif_block(d) as usize,
            source_flags,
            // Only an update has old tags that could pass through.
            destination_flags: if self.op == Opcode::DifUpdate {
                destination_flags
            } else {
                destination_flags & (destination_flag::APP_INCREMENTS | destination_flag::REF_FIXED)
            },
            crc_seed: if has(flags, 1 << 2) { u16::MAX } else { 0 },
            crc_xor: if has(flags, 1 << 3) { u16::MAX } else { 0 },
            source: Tags::new(
                d.field(at::DIF_SOURCE_TAGS),
                has(source_flags, source_flag::APP_INCREMENTS),
                has(source_flags, source_flag::REF_FIXED),
            ),
            destination: Tags::new(
                d.field(at::DIF_DESTINATION_TAGS),
                has(destination_flags, destination_flag::APP_INCREMENTS),
                has(destination_flags, destination_flag::REF_FIXED),
            ),
        }
    }

    /// The record with the tags where the operation stopped.
    fn with_tags(&self, record: Record, dif: &Dif) -> Record {
        let has_source = !matches!(self.op, Opcode::DifInsert | Opcode::DixGen);
        let has_destination = !matches!(self.op, Opcode::DifCheck | Opcode::DifStrip);
        let record =
            if has_source { record.with(record_at::DIF_SOURCE_TAGS, dif.source.bytes()) } else { record };
        if has_destination {
            record.with(record_at::DIF_DESTINATION_TAGS, dif.destination.bytes())
        } else {
            record
        }
    }

    /// Goes block by block. On a fault, the bytes completed are whole blocks of the source.
    pub(super) fn dif(&mut self) -> Record {
        let mut dif = self.dif_parts();
        let step = dif_source_step(self.d, self.op) as usize;
        let mut buffer = [0u8; BLOCK];
        let mut to = self.destination();
        for done in (0..self.size()).step_by(step) {
            let read = self.source().wrapping_add(done as u64);
            let source = buffer.get_mut(..step).unwrap_or_default();
            if let Err(fault) = self.view.read(read, source) {
                return self.with_tags(self.faulted(done, Fault { fault, operand: 0 }), &dif);
            }
            let (data, tags) = buffer.split_at_mut(dif.block);
            let mut old = [0; DIF_TAGS as usize];
            if let (true, Some(tags)) = (step > dif.block, tags.first_chunk()) {
                old = *tags;
                let wrong = dif.verify(data, old);
                if wrong != 0 {
                    return Record::new(status::DIF_ERROR).with_result(wrong).with_completed(done as u32);
                }
            }
            if let Some(new) = tags.get_mut(..old.len()) {
                new.copy_from_slice(&dif.fresh(data, old));
            }
            let whole = dif.block + old.len();
            let out = match self.op {
                Opcode::DifCheck => 0..0,
                Opcode::DifStrip => 0..dif.block,
                Opcode::DixGen => dif.block..whole,
                _ => 0..whole,
            };
            let out = buffer.get(out).unwrap_or_default();
            if let Err(fault) = self.view.write(to, out) {
                return self.with_tags(self.faulted(done, Fault { fault, operand: 1 }), &dif);
            }
            to = to.wrapping_add(out.len() as u64);
            dif.source.advance();
            dif.destination.advance();
        }
        Record::new(status::SUCCESS)
    }
}
