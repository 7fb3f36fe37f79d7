//! One operation in the queue's hands.

use async_tx::{Op, OpKind, OpToken, ReadyOp, Region, Seed};

use crate::descriptor;
use crate::wire::{Descriptor, Opcode};

/// The operations of the engine that the device has, and their opcodes.
pub(super) const OPERATIONS: [(OpKind, Opcode); 6] = [
    (OpKind::Copy, Opcode::Memmove),
    (OpKind::Fill, Opcode::Fill),
    (OpKind::Compare, Opcode::Compare),
    (OpKind::Dualcast, Opcode::Dualcast),
    (OpKind::Crc32c, Opcode::CrcGen),
    (OpKind::CopyCrc32c, Opcode::CopyCrc),
];

/// What the queue remembers of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    pub(super) token: OpToken,
    pub(super) kind: OpKind,
    /// What the device reads.
    pub(super) reads: [Option<Region>; 2],
    /// What it writes.
    pub(super) writes: [Option<Region>; 2],
    /// Where this process stores the CRC.
    pub(super) crc: Option<Region>,
}

/// A place for an operation; its record has the same number.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Slot {
    pub(super) work: Option<Work>,
    /// What was submitted last for it.
    pub(super) descriptor: Descriptor,
    /// How often that was the rest after a page fault.
    pub(super) resumed: u8,
}

impl Slot {
    /// Names the operation; a free slot names none that was ever given.
    pub(super) fn token(&self) -> OpToken {
        self.work.map_or(OpToken(u64::MAX), |work| work.token)
    }
}

/// The descriptor of an operation, without record and flags; `None` if the device does not do it.
///
/// The operation is in hand, so its regions are alive, and a seed in memory may be read: its predecessors
/// have ended, for it is no kind that goes behind a fence.
pub(super) fn translate(ready: &ReadyOp<'_>) -> Option<(Work, Descriptor)> {
    let op: &Op<'_> = &ready.op;
    let at = |region: Region| region.as_ptr().expose_provenance() as u64;
    let len = op.len() as u64;
    let none = None;
    let (reads, writes, crc, built) = match *op {
        Op::Copy { src, dst } => {
            ([Some(src), none], [Some(dst), none], none, Descriptor::memmove(at(src), at(dst), len))
        }
        Op::Fill { dst, byte } => {
            let pattern = u64::from_le_bytes([byte; 8]);
            ([none, none], [Some(dst), none], none, Descriptor::fill(at(dst), len, pattern))
        }
        Op::Compare { a, b } => {
            ([Some(a), Some(b)], [none, none], none, Descriptor::compare(at(a), at(b), len))
        }
        Op::Dualcast { src, dst: [d, e] } => {
            ([Some(src), none], [Some(d), Some(e)], none, Descriptor::dualcast(at(src), at(d), at(e), len))
        }
        Op::Crc32c { src, seed, crc } => {
            ([Some(src), none], [none, none], Some(crc), Descriptor::crc(at(src), len, value(seed)))
        }
        Op::CopyCrc32c { src, dst, seed, crc } => {
            let built = Descriptor::copy_crc(at(src), at(dst), len, value(seed));
            ([Some(src), none], [Some(dst), none], Some(crc), built)
        }
        _ => return None,
    };
    let work = Work { token: ready.token, kind: op.kind(), reads, writes, crc };
    Some((work, built.ok()?))
}

/// What a CRC goes on from, as the device takes it.
fn value(seed: Seed) -> descriptor::Seed {
    descriptor::Seed::Value(match seed {
        Seed::Value(value) => value,
        Seed::From(region) => {
            let mut bytes = [0; 4];
            // SAFETY: an operand of a checked operation that was just handed over, whose predecessors have
            // ended: nobody writes it. It has 4 bytes; whatever it has is copied up to that.
            let there = unsafe { region.bytes() };
            for (to, from) in bytes.iter_mut().zip(there) {
                *to = *from;
            }
            u32::from_le_bytes(bytes)
        }
    })
}
