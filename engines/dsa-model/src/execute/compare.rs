//! COMPARE and COMPVAL.

use engine_dsa::wire::{at, flag, status};

use super::{Fault, PIECE, Work};
use crate::record::Record;

impl Work<'_, '_> {
    /// The record of a comparison: `differ` is the offset of the first difference. The status says whether
    /// the result was expected, if that was asked.
    fn compared(&self, differ: Option<usize>) -> Record {
        let result = u8::from(differ.is_some());
        let checked = self.d.flags() & flag::CHECK_RESULT != 0;
        let expected = [result] == self.d.field(at::EXPECTED);
        let code = if checked && !expected { status::FALSE_PREDICATE } else { status::SUCCESS };
        let record = Record::new(code).with_result(result);
        differ.map_or(record, |offset| record.with_completed(offset as u32))
    }

    pub(super) fn compare(&mut self) -> Record {
        let (first, second, size) = (self.source(), self.destination(), self.size());
        let mut done = 0;
        while done < size {
            let n = PIECE.min(size - done);
            let (Some(a), Some(b)) = (self.a.get_mut(..n), self.b.get_mut(..n)) else { break };
            let at = done as u64;
            let mut stop = self.view.read(first.wrapping_add(at), a).err().map(|f| (f, 0));
            let mut got = stop.map_or(n, |(fault, _)| fault.completed);
            let b = b.get_mut(..got).unwrap_or_default();
            if let Err(fault) = self.view.read(second.wrapping_add(at), b) {
                got = fault.completed;
                stop = Some((fault, 1));
            }
            if let Some(offset) = a.iter().zip(b.iter()).take(got).position(|(a, b)| a != b) {
                return self.compared(Some(done + offset));
            }
            done += got;
            if let Some((fault, operand)) = stop {
                return self.faulted(done, Fault { fault, operand }).with_result(0);
            }
        }
        self.compared(None)
    }

    /// COMPVAL: the pattern begins at the first byte of the source. A difference is told in steps of the
    /// pattern: the offset where the pattern that differs begins.
    pub(super) fn compare_value(&mut self) -> Record {
        let (source, size) = (self.source(), self.size());
        let pattern: [u8; 8] = self.d.field(at::DESTINATION);
        let mut done = 0;
        while done < size {
            let Some(piece) = self.a.get_mut(..PIECE.min(size - done)) else { break };
            let stop = self.view.read(source.wrapping_add(done as u64), piece).err();
            let got = stop.map_or(piece.len(), |fault| fault.completed);
            // PIECE is a multiple of the pattern, so its phase is that of the piece.
            let differ = piece.iter().zip(pattern.iter().cycle()).take(got).position(|(a, b)| a != b);
            if let Some(offset) = differ {
                return self.compared(Some(done + offset / pattern.len() * pattern.len()));
            }
            done += got;
            if let Some(fault) = stop {
                return self.faulted(done, Fault { fault, operand: 0 }).with_result(0);
            }
        }
        self.compared(None)
    }
}
