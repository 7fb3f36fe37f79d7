//! Any record of any descriptor, as the driver reads it.

use engine_dsa::record::RecordView;
use engine_dsa::wire::{Descriptor, Opcode, at};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let descriptor = Descriptor(u.arbitrary()?);
    let mut bytes: [u8; 32] = u.arbitrary()?;
    if u.ratio(3, 4)? {
        bytes[0] = [0x03, 0x83, 0x06, 0x86][u.int_in_range(0..=3)?];
        bytes[4..8].copy_from_slice(&u.int_in_range(0..=descriptor.size())?.to_le_bytes());
    }
    let record = RecordView::from(bytes);
    let _ = (record.outcome(), record.difference(), record.crc(), record.delta(), record.invalid_flags());
    let _ = record.dif_mismatch();
    assert_eq!(record.bytes(), bytes);
    let mut whole = descriptor;
    for _ in 0..8 {
        let Some(rest) = whole.resume(&record) else { break };
        inside(&whole, &rest);
        whole = rest;
    }
    Ok(())
}

/// Operands as (address, bytes) by an own reading of the operation.
fn operands(d: &Descriptor) -> Vec<(u64, u64)> {
    let field = |offset| u64::from_le_bytes(d.field(offset));
    let size = u64::from(d.size());
    let (source, destination) = ((field(at::SOURCE), size), (field(at::DESTINATION), size));
    match Opcode::from_number(d.opcode()) {
        Some(Opcode::Memmove | Opcode::Compare) => vec![source, destination],
        Some(Opcode::Fill | Opcode::CacheFlush) => vec![destination],
        Some(Opcode::CompareValue) => vec![source],
        Some(Opcode::Dualcast) => vec![source, destination, (field(at::DESTINATION2), size)],
        Some(Opcode::ApplyDelta) => {
            vec![(source.0, u64::from(u32::from_le_bytes(d.field(at::DELTA_SIZE)))), destination]
        }
        Some(Opcode::Batch) => vec![(source.0, size * 64)],
        other => panic!("{other:?} is not resumed"),
    }
}

/// The rest touches no byte that the whole did not, and is the same operation.
pub fn inside(whole: &Descriptor, rest: &Descriptor) {
    assert_eq!((whole.opcode(), whole.record()), (rest.opcode(), rest.record()));
    for (whole, rest) in operands(whole).into_iter().zip(operands(rest)) {
        let end = |(address, size): (u64, u64)| u128::from(address) + u128::from(size);
        assert!(rest.0 >= whole.0 && end(rest) <= end(whole), "{rest:x?} is not inside {whole:x?}");
    }
}
