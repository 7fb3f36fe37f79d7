//! CR_DELTA and AP_DELTA: entries of a u16 offset in 8-byte words and the 8 bytes of the second source.

use engine_dsa::wire::{at, flag, status};

use super::{Fault, PIECE, Work};
use crate::check::{DELTA_ENTRY, address};
use crate::record::Record;

/// Results of CR_DELTA.
const EQUAL: u8 = 0;
const DIFFER: u8 = 1;
const OVERFLOW: u8 = 2;

impl Work<'_, '_> {
    /// The record of CR_DELTA that came to its end.
    fn delta_created(&self, result: u8, bytes: u32) -> Record {
        let [accepted] = self.d.field::<1>(at::DELTA_EXPECTED);
        let checked = self.d.flags() & flag::CHECK_RESULT != 0;
        let expected = accepted >> result & 1 == 1;
        let code = if checked && !expected { status::FALSE_PREDICATE } else { status::SUCCESS };
        Record::new(code).with_result(result).with_value(bytes)
    }

    /// On a fault the bytes completed are whole words of the sources, the value the record so far.
    pub(super) fn create_delta(&mut self) -> Record {
        let (first, second, size) = (self.source(), self.destination(), self.size());
        let delta = address(self.d, at::DELTA);
        let room = u32::from_le_bytes(self.d.field(at::DELTA_MAX));
        let (mut done, mut bytes, mut result) = (0usize, 0u32, EQUAL);
        while done < size {
            let n = PIECE.min(size - done);
            let (Some(a), Some(b)) = (self.a.get_mut(..n), self.b.get_mut(..n)) else { break };
            let at = done as u64;
            let mut stop = self.view.read(first.wrapping_add(at), a).err().map(|f| (f, 0));
            let mut got = stop.map_or(n, |(fault, _)| fault.completed);
            if let Err(fault) = self.view.read(second.wrapping_add(at), b.get_mut(..got).unwrap_or_default())
            {
                got = fault.completed;
                stop = Some((fault, 1));
            }
            for (i, (x, y)) in a.chunks_exact(8).zip(b.chunks_exact(8)).take(got / 8).enumerate() {
                if x == y {
                    continue;
                }
                if room - bytes < DELTA_ENTRY {
                    return self.delta_created(OVERFLOW, bytes);
                }
                let word = (done / 8 + i) as u16;
                let mut entry = [0; DELTA_ENTRY as usize];
                let (offset, data) = entry.split_at_mut(2);
                offset.copy_from_slice(&word.to_le_bytes());
                data.copy_from_slice(y);
                if let Err(fault) = self.view.write(delta.wrapping_add(bytes.into()), &entry) {
                    let record = self.faulted(done + i * 8, Fault { fault, operand: 2 });
                    return record.with_result(result).with_value(bytes);
                }
                bytes += DELTA_ENTRY;
                result = DIFFER;
            }
            done += got / 8 * 8;
            if let Some((fault, operand)) = stop {
                return self.faulted(done, Fault { fault, operand }).with_result(result).with_value(bytes);
            }
        }
        self.delta_created(result, bytes)
    }

    /// On a fault the bytes completed are whole entries of the delta record, and so many that the rest of it
    /// is aligned as a record has to be, or it could not be resumed. Applying an entry twice does no harm.
    pub(super) fn apply_delta(&mut self) -> Record {
        let (delta, target, size) = (self.source(), self.destination(), self.size());
        let bytes = u32::from_le_bytes(self.d.field(at::DELTA_SIZE));
        let mut last = None;
        for done in (0..bytes).step_by(DELTA_ENTRY as usize) {
            let mut entry = [0; DELTA_ENTRY as usize];
            if let Err(fault) = self.view.read(delta.wrapping_add(done.into()), &mut entry) {
                return self.faulted(resumable(done), Fault { fault, operand: 0 });
            }
            let [low, high, data @ ..] = entry;
            let word = usize::from(u16::from_le_bytes([low, high]));
            if last.is_some_and(|last| word <= last) {
                return Record::new(status::DELTA_ORDER);
            }
            last = Some(word);
            if word * 8 + 8 > size {
                return Record::new(status::DELTA_RANGE);
            }
            if let Err(fault) = self.view.write(target.wrapping_add(word as u64 * 8), &data) {
                return self.faulted(resumable(done), Fault { fault, operand: 1 });
            }
        }
        Record::new(status::SUCCESS)
    }
}

/// The most bytes of whole entries up to `done` that keep an address aligned to 8 bytes.
fn resumable(done: u32) -> usize {
    const ALIGNED: u32 = 4 * DELTA_ENTRY;
    (done / ALIGNED * ALIGNED) as usize
}
