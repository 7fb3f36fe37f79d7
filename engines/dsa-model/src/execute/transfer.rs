//! MEMMOVE, DUALCAST, CRCGEN, COPY_CRC and FILL: operations that move bytes forward, and a move backward.

use engine_dsa::wire::{at, flag, status};

use super::{Fault, PIECE, Work};
use crate::check::overlap;
use crate::crc::Crc32c;
use crate::memory::PAGE;
use crate::record::Record;

impl Work<'_, '_> {
    /// Copies the source to every destination, and sums it.
    ///
    /// On a fault, the bytes completed are those that reached every destination and the sum.
    pub(super) fn copy(&mut self, destinations: &[u64], mut crc: Option<Crc32c>) -> Record {
        let (source, size) = (self.source(), self.size());
        let mut done = 0;
        while done < size {
            let n = PIECE.min(size - done);
            let Some(piece) = self.a.get_mut(..n) else { break };
            let at = done as u64;
            let mut stop = self.view.read(source.wrapping_add(at), piece).err().map(|f| (f, 0));
            let mut moved = stop.map_or(n, |(fault, _)| fault.completed);
            for (i, to) in destinations.iter().enumerate() {
                let piece = piece.get(..moved).unwrap_or_default();
                if let Err(fault) = self.view.write(to.wrapping_add(at), piece) {
                    moved = fault.completed;
                    stop = Some((fault, i as u8 + 1));
                }
            }
            if let Some(crc) = &mut crc {
                crc.update(piece.get(..moved).unwrap_or_default());
            }
            done += moved;
            if let Some((fault, operand)) = stop {
                let record = self.faulted(done, Fault { fault, operand });
                return with_crc(record, crc);
            }
        }
        with_crc(Record::new(status::SUCCESS), crc)
    }

    /// MEMMOVE, in the direction its buffers demand; without overlap, in the direction that was planned.
    /// A fault of a move forward has result 0, of one backward 1.
    pub(super) fn memmove(&mut self) -> Record {
        let (source, destination, size) = (self.source(), self.destination(), self.size());
        let overlapping = overlap(source, size as u64, destination, size as u64);
        if overlapping && destination > source || !overlapping && self.backward {
            return self.memmove_backward();
        }
        let record = self.copy(&[destination], None);
        if record.status() & status::CODE == status::SUCCESS { record } else { record.with_result(0) }
    }

    /// Copies from the end. Pieces end where a page of either buffer does. The bytes completed are those
    /// that were written, which is all behind the fault, or all in the pages behind it if it is one of the
    /// source or of the memory's own.
    fn memmove_backward(&mut self) -> Record {
        let (source, destination) = (self.source(), self.destination());
        let mut left = self.size();
        while left > 0 {
            let before = |base: u64| ((base.wrapping_add(left as u64 - 1) % PAGE) + 1) as usize;
            let n = before(source).min(before(destination)).min(left);
            let at = (left - n) as u64;
            let Some(piece) = self.a.get_mut(..n) else { break };
            let moved = self
                .view
                .read(source.wrapping_add(at), piece)
                .map_err(|fault| (0, Fault { fault, operand: 0 }))
                .and_then(|()| {
                    self.view
                        .write_backward(destination.wrapping_add(at), piece)
                        .map_err(|fault| (fault.completed, Fault { fault, operand: 1 }))
                });
            if let Err((written, fault)) = moved {
                return self.faulted(self.size() - left + written, fault).with_result(1);
            }
            left -= n;
        }
        Record::new(status::SUCCESS)
    }

    /// FILL, with a pattern of 8 or 16 bytes that begins at the first byte.
    pub(super) fn fill(&mut self) -> Record {
        let mut pattern = [0u8; 16];
        let (low, high) = pattern.split_at_mut(8);
        low.copy_from_slice(&self.d.field::<8>(at::SOURCE));
        if self.d.flags() & flag::FILL_LONG_PATTERN != 0 {
            high.copy_from_slice(&self.d.field::<8>(at::SPECIFIC));
        } else {
            high.copy_from_slice(low);
        }
        for chunk in self.a.chunks_mut(pattern.len()) {
            chunk.copy_from_slice(pattern.get(..chunk.len()).unwrap_or_default());
        }
        let (destination, size) = (self.destination(), self.size());
        let mut done = 0;
        while done < size {
            let piece = self.a.get(..PIECE.min(size - done)).unwrap_or_default();
            if let Err(fault) = self.view.write(destination.wrapping_add(done as u64), piece) {
                return self.faulted(done + fault.completed, Fault { fault, operand: 1 });
            }
            done += piece.len();
        }
        Record::new(status::SUCCESS)
    }
}

/// The record with the sum so far.
fn with_crc(record: Record, crc: Option<Crc32c>) -> Record {
    match crc {
        Some(crc) => record.with_value(crc.value()),
        None => record,
    }
}
