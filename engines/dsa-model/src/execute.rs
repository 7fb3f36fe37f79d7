//! Executes one descriptor that is not a batch.
//!
//! [`Executor::execute`] checks a descriptor and does its work on a memory, ending in the record the
//! device would write; writing it is the caller's part. Big transfers go through bounded buffers, so no
//! descriptor makes it allocate, and every loop is bounded by a size that was checked.

mod compare;
mod delta;
mod dif;
mod transfer;

use engine_dsa::wire::{Descriptor, Opcode, at, flag, status};

use crate::check::{self, DRAIN_READBACK1, DRAIN_READBACK2, address};
use crate::crc::Crc32c;
use crate::memory::MemFault;
use crate::personality::Personality;
use crate::record::{FaultContext, Record, page_fault};
use crate::view::View;

/// Bytes moved at a time. A multiple of every pattern's length and of a page.
const PIECE: usize = 64 << 10;

/// Executes descriptors; holds the buffers they go through.
#[derive(Debug)]
pub struct Executor {
    a: Vec<u8>,
    b: Vec<u8>,
}

impl Default for Executor {
    fn default() -> Self {
        Self { a: vec![0; PIECE], b: vec![0; PIECE] }
    }
}

/// One operand's fault, on the way into a record.
#[derive(Clone, Copy, Debug)]
struct Fault {
    fault: MemFault,
    operand: u8,
}

/// A descriptor that passed its checks, while it is executed.
struct Work<'w, 'm> {
    d: &'w Descriptor,
    op: Opcode,
    view: &'w mut View<'m>,
    a: &'w mut [u8],
    b: &'w mut [u8],
    context: FaultContext,
    /// A move goes from its end to its beginning if its buffers allow.
    backward: bool,
}

impl Executor {
    /// An executor.
    pub fn new() -> Self {
        Self::default()
    }

    /// Executes `d` against plain memory, with no fault but the memory's own.
    pub fn execute(&mut self, p: &Personality, d: &Descriptor, memory: &dyn crate::memory::Memory) -> Record {
        self.run(p, d, &mut View::new(memory), false)
    }

    /// Executes `d`. BATCH is not executed here: it ends as an unsupported opcode, as one inside a batch
    /// does.
    pub(crate) fn run(
        &mut self,
        p: &Personality,
        d: &Descriptor,
        view: &mut View<'_>,
        backward: bool,
    ) -> Record {
        let op = match check::check(d, p) {
            Ok(op) => op,
            Err(record) => return record,
        };
        view.block_on_fault = d.flags() & flag::BLOCK_ON_FAULT != 0;
        let context = FaultContext { block_on_fault: view.block_on_fault, is_v2: p.is_v2() };
        Work { d, op, view, a: &mut self.a, b: &mut self.b, context, backward }.run()
    }
}

impl Work<'_, '_> {
    fn run(&mut self) -> Record {
        match self.op {
            Opcode::Noop | Opcode::TranslationFetch => Record::new(status::SUCCESS),
            Opcode::Batch => Record::new(status::BAD_OPCODE),
            Opcode::Drain => self.drain(),
            Opcode::Memmove => self.memmove(),
            Opcode::Fill => self.fill(),
            Opcode::Compare => self.compare(),
            Opcode::CompareValue => self.compare_value(),
            Opcode::CreateDelta => self.create_delta(),
            Opcode::ApplyDelta => self.apply_delta(),
            Opcode::Dualcast => {
                let destinations = [self.destination(), address(self.d, at::DESTINATION2)];
                self.copy(&destinations, None)
            }
            Opcode::CrcGen => self.with_crc(&[]),
            Opcode::CopyCrc => {
                let destinations = [self.destination()];
                self.with_crc(&destinations)
            }
            Opcode::DifCheck | Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate | Opcode::DixGen => {
                self.dif()
            }
            Opcode::CacheFlush => self.flush(),
        }
    }

    fn source(&self) -> u64 {
        address(self.d, at::SOURCE)
    }

    fn destination(&self) -> u64 {
        address(self.d, at::DESTINATION)
    }

    fn size(&self) -> usize {
        self.d.size() as usize
    }

    /// The record of a page fault after `completed` bytes.
    fn faulted(&self, completed: usize, f: Fault) -> Record {
        page_fault(f.fault, completed as u32, f.operand, self.context)
    }

    /// The running CRC at its start: the seed of the descriptor, or of memory.
    fn crc_start(&mut self) -> Result<Crc32c, MemFault> {
        let flags = self.d.flags();
        let mut seed = self.d.field(at::CRC_SEED);
        if flags & flag::CRC_READ_SEED != 0 {
            self.view.read(address(self.d, at::CRC_SEED_ADDRESS), &mut seed)?;
        }
        let bypass = |bit| flags & bit != 0;
        Ok(Crc32c::new(
            u32::from_le_bytes(seed),
            bypass(flag::CRC_BYPASS_INVERSION),
            bypass(flag::CRC_BYPASS_REFLECTION),
        ))
    }

    /// CRCGEN and COPY_CRC. The value of a fault on the seed itself is left undefined.
    fn with_crc(&mut self, destinations: &[u64]) -> Record {
        match self.crc_start() {
            Ok(crc) => self.copy(destinations, Some(crc)),
            Err(fault) => self.faulted(0, Fault { fault: MemFault { completed: 0, ..fault }, operand: 2 }),
        }
    }

    fn drain(&mut self) -> Record {
        let mut byte = [0];
        for (bit, offset) in [(DRAIN_READBACK1, at::SOURCE), (DRAIN_READBACK2, at::DESTINATION)] {
            let wanted = self.d.flags() & bit != 0;
            if wanted && self.view.read(address(self.d, offset), &mut byte).is_err() {
                return Record::new(status::READBACK);
            }
        }
        Record::new(status::SUCCESS)
    }

    /// CFLUSH changes nothing that software could see but faults where there is no page.
    fn flush(&mut self) -> Record {
        let mut done = 0;
        while done < self.size() {
            let n = PIECE.min(self.size() - done);
            let Some(piece) = self.a.get_mut(..n) else { break };
            if let Err(fault) =
                self.view.read(address(self.d, at::DESTINATION).wrapping_add(done as u64), piece)
            {
                return self.faulted(done + fault.completed, Fault { fault, operand: 1 });
            }
            done += n;
        }
        Record::new(status::SUCCESS)
    }
}
