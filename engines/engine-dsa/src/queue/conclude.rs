//! From the completion record of an operation to its end.

use std::sync::atomic::{AtomicU8, Ordering};

use async_tx::{Caps, Fault, OpKind, Region, Verdict};

use super::Queue;
use super::slot::{OPERATIONS, Work};
use crate::record::{Class, Outcome, RecordView};
use crate::wire::{Descriptor, flag, status};

/// Bytes of a page, as the device counts faults.
const PAGE: usize = 4096;
/// After so many operations of a kind that ended declined, with none between that succeeded, the queue gets no
/// more of them: to try is a waste then.
const DECLINED_MOST: u8 = 64;

/// What follows from a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conclusion {
    /// Not written yet.
    Pending,
    /// The operation is over.
    Over(Result<Verdict, Fault>),
    /// This is left to do.
    Resume(Descriptor),
}

impl Queue {
    /// What follows from `record` for the operation in `slot`. Stores a CRC, touches a missing page, and
    /// takes a kind of operation off the queue; reports nothing.
    pub(super) fn conclude(&mut self, slot: u16, record: &RecordView) -> Conclusion {
        let Some(work) = self.slots.get(usize::from(slot)).and_then(|slot| slot.work) else {
            return Conclusion::Over(Err(Fault::Aborted));
        };
        match self.judge(slot, &work, record) {
            // A queue that closes resumes nothing, which says nothing about it.
            Conclusion::Over(result) if !self.closing => {
                Conclusion::Over(self.tally(work.kind, result, record))
            }
            conclusion => conclusion,
        }
    }

    /// Counts operations that were declined in a row, and takes a kind off the queue if there are too many.
    /// Only what the device itself said is counted, not what had no room to be resumed.
    fn tally(
        &mut self,
        kind: OpKind,
        result: Result<Verdict, Fault>,
        record: &RecordView,
    ) -> Result<Verdict, Fault> {
        let place = OPERATIONS.iter().position(|(of, _)| *of == kind);
        let Some(declined) = place.and_then(|place| self.declined.get_mut(place)) else { return result };
        match result {
            Ok(_) => *declined = 0,
            Err(Fault::Declined) => *declined = declined.saturating_add(1),
            Err(_) => {}
        }
        if result.is_ok() || *declined < DECLINED_MOST || self.refused.has(kind) {
            return result;
        }
        self.refuse_kind(kind, record.status());
        if self.caps() == Caps::NONE { Err(Fault::Device(record.status())) } else { result }
    }

    /// What a record says about an operation.
    fn judge(&mut self, slot: u16, work: &Work, record: &RecordView) -> Conclusion {
        let contradiction = Err(Fault::Device(record.status()));
        Conclusion::Over(match record.outcome() {
            Outcome::Pending => return Conclusion::Pending,
            Outcome::Success => success(work, record).ok_or(Fault::Device(record.status())),
            Outcome::PageFault { write, addr, .. } => {
                self.counters.page_faults.add(1);
                return match self.rest(slot, work, record, write, addr) {
                    Some(rest) => Conclusion::Resume(rest),
                    None => Conclusion::Over(Err(Fault::Declined)),
                };
            }
            // Nothing was submitted that could end like this.
            Outcome::FalsePredicate | Outcome::BatchFailed { .. } | Outcome::BatchPageFault { .. } => {
                contradiction
            }
            Outcome::Failed { code, class } => match class {
                Class::Cpu => Err(Fault::Declined),
                Class::Config | Class::Programming | Class::Split => {
                    self.refuse(slot, work.kind, code, record);
                    // A queue that does nothing any more is to be looked after.
                    if self.caps() == Caps::NONE { contradiction } else { Err(Fault::Declined) }
                }
                Class::Device | Class::Data => contradiction,
            },
        })
    }

    /// The rest of an operation after a page fault, its page touched; `None` if the CPU shall do it.
    fn rest(
        &self,
        slot: u16,
        work: &Work,
        record: &RecordView,
        write: bool,
        addr: u64,
    ) -> Option<Descriptor> {
        let slot = self.slots.get(usize::from(slot))?;
        if self.closing || slot.resumed >= self.usage.resumes {
            return None;
        }
        let rest = slot.descriptor.resume(record)?;
        touch(if write { &work.writes } else { &work.reads }, addr, write).then_some(rest)
    }

    /// Takes what the device says it does not do off the queue: its use of the cache if that was all it
    /// minded, else this kind of operation.
    fn refuse(&mut self, slot: u16, kind: OpKind, code: u8, record: &RecordView) {
        let minded = record.invalid_flags().unwrap_or(0);
        // Several may be in hand when the first is refused, so what counts is what this one had.
        let had = self.slots.get(usize::from(slot)).map_or(0, |slot| slot.descriptor.flags());
        if code == status::BAD_FLAGS && had & minded & flag::CACHE_CONTROL != 0 {
            if std::mem::take(&mut self.cache_control) {
                tracing::warn!("a DSA queue does not take cache control; going on without");
            }
            return;
        }
        self.refuse_kind(kind, code);
    }

    /// The queue gets no more of this kind.
    fn refuse_kind(&mut self, kind: OpKind, code: u8) {
        if !self.refused.has(kind) {
            let kind = kind.word();
            tracing::warn!("a DSA queue refused {kind} with status {code:#04x}; it gets no more of these");
            self.counters.kinds_refused.add(1);
        }
        self.refused = self.refused.with(kind);
    }
}

/// What a successful operation found, its CRC stored; `None` if the record lacks it.
fn success(work: &Work, record: &RecordView) -> Option<Verdict> {
    let mut verdict = Verdict::default();
    if work.kind == OpKind::Compare {
        verdict.differs = record.difference()?.is_some();
    }
    if let Some(region) = work.crc {
        let value = record.crc()?.to_le_bytes();
        // SAFETY: a destination of a checked operation that is in hand and whose descriptor is over; only
        // this process writes it. It has 4 bytes; whatever it has is written up to that.
        let there = unsafe { region.bytes_mut() };
        for (to, from) in there.iter_mut().zip(value) {
            *to = from;
        }
    }
    Some(verdict)
}

/// Brings in the page at `addr`, if it is one of the operation's: reads one of the operation's bytes in it,
/// or writes one with its own value. False if the address is none of the operation's business.
fn touch(regions: &[Option<Region>; 2], addr: u64, write: bool) -> bool {
    let Ok(addr) = usize::try_from(addr) else { return false };
    let page = addr - addr % PAGE;
    let byte = regions.iter().flatten().find_map(|region| {
        let start = region.as_ptr() as usize;
        let at = page.max(start);
        let inside = at - start < region.len() && at - page < PAGE;
        inside.then(|| region.as_ptr().wrapping_add(at - start))
    });
    let Some(byte) = byte else { return false };
    // SAFETY: a byte of an operand of an operation in hand, so it is allocated, and writable if it is a
    // destination; the device is over with it, and nobody else accesses a destination. Atomic, because a
    // neighbour of this address may be accessed at the same time by the device for another operation.
    unsafe {
        if write {
            // An exchange with itself: an addition of nothing the compiler would turn into a load.
            let byte = AtomicU8::from_ptr(byte);
            let value = byte.load(Ordering::Relaxed);
            let _same = byte.compare_exchange(value, value, Ordering::AcqRel, Ordering::Relaxed);
        } else {
            byte.read_volatile();
        }
    }
    true
}
