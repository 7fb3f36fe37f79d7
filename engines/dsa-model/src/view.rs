//! Memory as one descriptor sees it: with the paging it asked for and the faults that were planned for it.

use crate::memory::{MemFault, Memory, PAGE};
use crate::rng::SplitMix64;

/// A byte that this descriptor cannot access in one direction, whatever the memory says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stop {
    /// The byte.
    pub(crate) addr: u64,
    /// The direction.
    pub(crate) write: bool,
}

/// The memory of one descriptor while it is executed.
pub(crate) struct View<'a> {
    memory: &'a dyn Memory,
    /// The system is asked for pages that are not there.
    pub(crate) block_on_fault: bool,
    /// A planned fault.
    pub(crate) stop: Option<Stop>,
    /// Writes go out in random pieces and in random order.
    pub(crate) scatter: Option<SplitMix64>,
}

impl<'a> View<'a> {
    /// The memory as it is.
    pub(crate) fn new(memory: &'a dyn Memory) -> Self {
        Self { memory, block_on_fault: false, stop: None, scatter: None }
    }

    /// Where an access of `len` bytes ends early because of the planned fault.
    fn stop_in(&self, addr: u64, len: usize, write: bool) -> Option<usize> {
        let stop = self.stop.filter(|stop| stop.write == write)?;
        let offset = usize::try_from(stop.addr.checked_sub(addr)?).ok()?;
        (offset < len).then_some(offset)
    }

    /// Reads `into.len()` bytes at `addr`.
    pub(crate) fn read(&mut self, addr: u64, into: &mut [u8]) -> Result<(), MemFault> {
        let stop = self.stop_in(addr, into.len(), false);
        let (part, _) = into.split_at_mut(stop.unwrap_or(into.len()));
        let (mut done, mut asked) = (0, None);
        while let Some(rest) = part.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.memory.read(addr.wrapping_add(done as u64), rest) {
                Ok(()) => break,
                Err(fault) => self.resolve(fault, &mut done, &mut asked)?,
            }
        }
        stopped(addr, stop, false)
    }

    /// Writes `from` at `addr`.
    pub(crate) fn write(&mut self, addr: u64, from: &[u8]) -> Result<(), MemFault> {
        let stop = self.stop_in(addr, from.len(), true);
        let (part, _) = from.split_at(stop.unwrap_or(from.len()));
        if let Some(mut rng) = self.scatter.take() {
            self.scattered(addr, part, &mut rng);
            self.scatter = Some(rng);
        }
        let (mut done, mut asked) = (0, None);
        while let Some(rest) = part.get(done..).filter(|rest| !rest.is_empty()) {
            match self.memory.write(addr.wrapping_add(done as u64), rest) {
                Ok(()) => break,
                Err(fault) => self.resolve(fault, &mut done, &mut asked)?,
            }
        }
        stopped(addr, stop, true)
    }

    /// Writes `from` at `addr` as one who comes from the end does: what was written when a planned fault ends
    /// it lies behind the fault, and `completed` counts that.
    pub(crate) fn write_backward(&mut self, addr: u64, from: &[u8]) -> Result<(), MemFault> {
        let stop = self.stop_in(addr, from.len(), true);
        let begin = stop.map_or(0, |stop| stop + 1);
        let behind = from.get(begin..).unwrap_or_default();
        if !behind.is_empty() {
            // A fault of the memory's own counts nothing: it is at the grain of a page, as the piece is.
            self.write(addr.wrapping_add(begin as u64), behind)
                .map_err(|fault| MemFault { completed: 0, ..fault })?;
        }
        let Some(stop) = stop else { return Ok(()) };
        let at = addr.wrapping_add(stop as u64);
        Err(MemFault { completed: behind.len(), addr: at, write: true })
    }

    /// Writes random pieces in random order, up to the first that faults. The plain write that follows
    /// settles what was done and where the fault is; the same bytes are written twice then.
    fn scattered(&mut self, addr: u64, from: &[u8], rng: &mut SplitMix64) {
        let mut cuts: Vec<usize> = (0..rng.below(7)).map(|_| rng.below(from.len() as u64) as usize).collect();
        cuts.extend([0, from.len()]);
        cuts.sort_unstable();
        let mut pieces: Vec<(usize, usize)> =
            cuts.iter().copied().zip(cuts.iter().copied().skip(1)).collect();
        rng.shuffle(&mut pieces);
        for (start, end) in pieces {
            let piece = from.get(start..end).unwrap_or_default();
            if self.memory.write(addr.wrapping_add(start as u64), piece).is_err() {
                return;
            }
        }
    }

    /// After a fault: `done` moves up to it, and the system may bring the page in if that was asked for. It
    /// is asked once an address: an access that gets no further after that is given up, so this ends.
    fn resolve(
        &mut self,
        fault: MemFault,
        done: &mut usize,
        asked: &mut Option<u64>,
    ) -> Result<(), MemFault> {
        *done += fault.completed;
        let first_time = asked.replace(fault.addr) != Some(fault.addr);
        if self.block_on_fault && first_time && self.memory.page_in(fault.addr, fault.write) {
            return Ok(());
        }
        Err(MemFault { completed: *done, ..fault })
    }
}

/// The planned fault, if the access reached it.
fn stopped(addr: u64, stop: Option<usize>, write: bool) -> Result<(), MemFault> {
    match stop {
        None => Ok(()),
        Some(completed) => Err(MemFault { completed, addr: addr.wrapping_add(completed as u64), write }),
    }
}

/// The address with random low bits inside its page, as a device may tell a fault.
pub(crate) fn somewhere_in_page(addr: u64, rng: &mut SplitMix64) -> u64 {
    addr & !(PAGE - 1) | rng.below(PAGE)
}
