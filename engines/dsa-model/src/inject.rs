//! Executes one descriptor with the faults that were planned for it.

use engine_dsa::wire::{Descriptor, Opcode, at, flag, record_at, status};

use crate::check::{address, check, overlap};
use crate::counters::Counters;
use crate::execute::Executor;
use crate::faults::{Decision, Fault, Offset};
use crate::memory::Memory;
use crate::personality::Personality;
use crate::record::Record;
use crate::view::{Stop, View, somewhere_in_page};

/// An operand in memory: address, bytes, and whether it is written.
type Operand = (u64, u64, bool);

/// Operand `k` of a descriptor whose checks passed: 0 the source, 1 the destination or second source, 2 the
/// third address. `None` if the operation has none.
pub(crate) fn operand(d: &Descriptor, op: Opcode, k: u8) -> Option<Operand> {
    use Opcode::*;
    let size = u64::from(d.size());
    let field = |offset| address(d, offset);
    match (op, k) {
        (Batch, 0) => Some((field(at::SOURCE), size * 64, false)),
        (ApplyDelta, 0) => {
            Some((field(at::SOURCE), u32::from_le_bytes(d.field(at::DELTA_SIZE)).into(), false))
        }
        (
            Memmove | Compare | CompareValue | CreateDelta | Dualcast | CrcGen | CopyCrc | DifCheck
            | DifInsert | DifStrip | DifUpdate | DixGen,
            0,
        ) => Some((field(at::SOURCE), size, false)),
        (Compare | CreateDelta | CacheFlush, 1) => Some((field(at::DESTINATION), size, false)),
        (Memmove | Fill | ApplyDelta | Dualcast | CopyCrc | DifInsert | DifStrip | DifUpdate | DixGen, 1) => {
            Some((field(at::DESTINATION), size, true))
        }
        (Dualcast, 2) => Some((field(at::DESTINATION2), size, true)),
        (CreateDelta, 2) => Some((field(at::DELTA), u32::from_le_bytes(d.field(at::DELTA_MAX)).into(), true)),
        (CrcGen | CopyCrc, 2) if d.flags() & flag::CRC_READ_SEED != 0 => {
            Some((field(at::CRC_SEED_ADDRESS), 4, false))
        }
        _ => None,
    }
}

/// A page fault that was planned: where the device stops, and where it says the fault is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    stop: Stop,
    told: u64,
    fault: Stop,
}

impl Planned {
    /// Where the device stops.
    pub(crate) fn stop(&self) -> Stop {
        self.stop
    }
}

/// The page fault planned for this descriptor, if it has the operand.
pub(crate) fn planned_page_fault(d: &Descriptor, op: Opcode, decision: &mut Decision) -> Option<Planned> {
    let (k, offset, lower) = decision.find(|fault| match fault {
        Fault::PageFault { operand, offset, lower } => Some((*operand, *offset, *lower)),
        _ => None,
    })?;
    let (base, len, write) = operand(d, op, k)?;
    let n = match offset {
        Offset::At(n) => u64::from(n),
        Offset::Random => decision.rng.below(len),
    };
    if n >= len {
        return None;
    }
    let early = if lower { decision.rng.below(n + 1) } else { n };
    let fault = Stop { addr: base.wrapping_add(n), write };
    Some(Planned {
        stop: Stop { addr: base.wrapping_add(early), write },
        told: somewhere_in_page(fault.addr, &mut decision.rng),
        fault,
    })
}

/// One execution.
pub(crate) struct Injection<'a> {
    pub(crate) executor: &'a mut Executor,
    pub(crate) personality: &'a Personality,
    pub(crate) memory: &'a dyn Memory,
    pub(crate) counters: &'a mut Counters,
}

impl Injection<'_> {
    /// Executes `d` as planned; the record it ends with.
    pub(crate) fn run(&mut self, d: &Descriptor, decision: &mut Decision) -> Record {
        let op = match check(d, self.personality) {
            Ok(op) => op,
            Err(record) => return record,
        };
        let status = decision.find(|fault| match fault {
            Fault::Status { code, partial } => Some((*code, *partial)),
            _ => None,
        });
        if let Some((code, partial)) = status {
            self.counters.statuses += 1;
            if let (true, Some((base, len, true))) = (partial, operand(d, op, 1)) {
                let addr = base.wrapping_add(decision.rng.below(len));
                self.once(d, decision, Some(Stop { addr, write: true }));
            }
            return Record::new(code);
        }
        let planned = planned_page_fault(d, op, decision);
        let record = self.once(d, decision, planned.map(|planned| planned.stop));
        match planned {
            Some(planned) if is_page_fault(&record) => {
                self.counters.page_faults += 1;
                if planned.stop != planned.fault && repeatable(d, op) && record_is_forward(&record, op) {
                    self.once(d, decision, Some(planned.fault));
                }
                record.with(record_at::FAULT_ADDRESS, planned.told.to_le_bytes())
            }
            _ => {
                self.corrupt(d, op, decision);
                record
            }
        }
    }

    fn once(&mut self, d: &Descriptor, decision: &mut Decision, stop: Option<Stop>) -> Record {
        let mut view = View::new(self.memory);
        view.stop = stop;
        if decision.has(Fault::Scatter) {
            self.counters.scattered += 1;
            view.scatter = Some(decision.rng.clone());
        }
        let backward = decision.has(Fault::Backward);
        self.counters.backward += u64::from(backward);
        self.executor.run(self.personality, d, &mut view, backward)
    }

    /// Flips a bit of the destination, if that was planned.
    fn corrupt(&mut self, d: &Descriptor, op: Opcode, decision: &mut Decision) {
        let Some((base, len, true)) = operand(d, op, 1).filter(|_| decision.has(Fault::Corrupt)) else {
            return;
        };
        let addr = base.wrapping_add(decision.rng.below(len));
        let mut byte = [0];
        if self.memory.read(addr, &mut byte).is_ok() {
            let flipped = byte.map(|b| b ^ 1 << decision.rng.below(8));
            self.counters.corrupted += u64::from(self.memory.write(addr, &flipped).is_ok());
        }
    }
}

fn is_page_fault(record: &Record) -> bool {
    matches!(record.status() & status::CODE, status::PAGE_FAULT | status::PAGE_REQUEST_FAILED)
}

/// Whether the faulted operation went forward.
fn record_is_forward(record: &Record, op: Opcode) -> bool {
    op != Opcode::Memmove || record.bytes().get(record_at::RESULT) == Some(&0)
}

/// Whether writing the same bytes again does no harm: the destination is no source.
fn repeatable(d: &Descriptor, op: Opcode) -> bool {
    let size = u64::from(d.size());
    match op {
        Opcode::Fill | Opcode::Dualcast | Opcode::CopyCrc => true,
        Opcode::Memmove => !overlap(address(d, at::SOURCE), size, address(d, at::DESTINATION), size),
        _ => false,
    }
}
