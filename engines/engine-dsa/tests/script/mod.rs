//! A portal that does as it is told, and the memory and operations to use it with.
#![allow(dead_code, reason = "every test binary has its own part of it")]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use async_tx::{Completion, Fault, Op, OpToken, ReadyOp, Region, Verdict};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::open::{Opened, Opener};
use engine_dsa::portal::{Portal, PortalError};
use engine_dsa::queue::{Counters, Queue, Setup, Usage};
use engine_dsa::wire::{Descriptor, Opcode, RECORD_BYTES, at, gen_cap};

/// What a portal was told and saw.
#[derive(Default)]
pub(crate) struct Script {
    /// What it accepted.
    pub(crate) accepted: Vec<Descriptor>,
    /// How many descriptors each call brought.
    pub(crate) calls: Vec<usize>,
    /// What it answers; then it accepts all.
    pub(crate) answers: VecDeque<Result<usize, PortalError>>,
    /// How often it was told to close.
    pub(crate) closes: usize,
    /// Whether it says that it is closed, once it was told to.
    pub(crate) closed: bool,
    /// How often it was asked.
    pub(crate) asked: usize,
    /// Closed after so many questions.
    pub(crate) closed_after: Option<usize>,
    /// Whether its queue has let go of it.
    pub(crate) dropped: bool,
}

/// The test's end of the portal.
#[derive(Clone, Default)]
pub(crate) struct Handle(Arc<Mutex<Script>>);

impl Handle {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn portal(&self) -> Box<dyn Portal> {
        Box::new(ScriptPortal(self.clone()))
    }

    /// Lets it close, so that the queue can be dropped.
    pub(crate) fn let_close(&self) {
        self.script().closed = true;
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.script().dropped
    }

    /// Descriptor `index` of all that were accepted.
    pub(crate) fn accepted(&self, index: usize) -> Descriptor {
        self.script().accepted[index]
    }

    pub(crate) fn last(&self) -> Descriptor {
        *self.script().accepted.last().unwrap()
    }
}

struct ScriptPortal(Handle);

impl Drop for ScriptPortal {
    fn drop(&mut self) {
        self.0.script().dropped = true;
    }
}

impl Portal for ScriptPortal {
    fn method(&self) -> &'static str {
        "script"
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> Result<usize, PortalError> {
        let mut script = self.0.script();
        script.calls.push(descriptors.len());
        let count = script.answers.pop_front().unwrap_or(Ok(descriptors.len()))?.min(descriptors.len());
        script.accepted.extend(&descriptors[..count]);
        Ok(count)
    }

    fn begin_close(&mut self) {
        self.0.script().closes += 1;
    }

    fn is_closed(&mut self) -> bool {
        let mut script = self.0.script();
        script.asked += 1;
        let asked = script.asked;
        script.closes > 0 && (script.closed || script.closed_after.is_some_and(|after| asked > after))
    }
}

/// All operations of version 1.0 in a queue of eight.
pub(crate) fn setup() -> Setup {
    Setup {
        operations: OpSet::parse("1003f03ff").unwrap(),
        gen_cap: GenCap(gen_cap::CACHE_CONTROL | gen_cap::OVERLAP),
        max_transfer: 1 << 20,
        max_batch: 8,
        credits: 8,
    }
}

/// The same without BATCH.
pub(crate) fn plain() -> Setup {
    Setup { operations: OpSet::parse("1003f03fd").unwrap(), ..setup() }
}

/// A queue over a script.
pub(crate) fn queue(setup: Setup) -> (Queue, Handle, Arc<Counters>) {
    let handle = Handle::default();
    let counters = Arc::new(Counters::default());
    let queue = Queue::new(handle.portal(), setup, Usage::default(), Arc::clone(&counters), None);
    handle.let_close();
    (queue.unwrap(), handle, counters)
}

/// An opener that opens scripts, and a list of those opened.
pub(crate) fn opener(
    setup: impl Fn(usize) -> Setup + Send + Sync + 'static,
) -> (Opener, Arc<Mutex<Vec<Handle>>>) {
    let opened: Arc<Mutex<Vec<Handle>>> = Arc::default();
    let all = Arc::clone(&opened);
    let opener: Opener = Arc::new(move || {
        let handle = Handle::default();
        let mut all = all.lock().unwrap();
        let setup = setup(all.len());
        all.push(handle.clone());
        Ok(Opened { portal: handle.portal(), setup, watch: None })
    });
    (opener, opened)
}

/// The record of a descriptor.
pub(crate) struct Record([u8; RECORD_BYTES]);

impl Record {
    pub(crate) fn new(status: u8) -> Self {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = status;
        Record(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; RECORD_BYTES]) -> Self {
        Record(bytes)
    }

    pub(crate) fn result(mut self, result: u8) -> Self {
        self.0[1] = result;
        self
    }

    pub(crate) fn completed(mut self, completed: u32) -> Self {
        self.0[4..8].copy_from_slice(&completed.to_le_bytes());
        self
    }

    pub(crate) fn address(mut self, address: u64) -> Self {
        self.0[8..16].copy_from_slice(&address.to_le_bytes());
        self
    }

    pub(crate) fn value(mut self, value: u32) -> Self {
        self.0[16..20].copy_from_slice(&value.to_le_bytes());
        self
    }

    /// Writes it where the descriptor says.
    pub(crate) fn write(self, descriptor: &Descriptor) {
        assert!(descriptor.record().is_multiple_of(32));
        let to = std::ptr::with_exposed_provenance_mut::<[u8; RECORD_BYTES]>(descriptor.record() as usize);
        // SAFETY: the record of a descriptor that its queue submitted and did not see completed: the pool
        // is mapped, and the queue reads no byte before the status, on this very thread.
        unsafe { to.write_volatile(self.0) };
    }
}

/// Member `index` of a batch that was accepted.
pub(crate) fn member(batch: &Descriptor, index: usize) -> Descriptor {
    assert_eq!(batch.opcode(), Opcode::Batch as u8);
    assert!(index < batch.size() as usize);
    let list = u64::from_le_bytes(batch.field(at::SOURCE)) as usize + index * 64;
    // SAFETY: the list of a batch in the queue's hands, aligned and as long as the batch says.
    unsafe { std::ptr::with_exposed_provenance::<Descriptor>(list).read_volatile() }
}

/// Memory in blocks of 4096 bytes, aligned to that.
pub(crate) struct Memory {
    bytes: Vec<u8>,
    offset: usize,
}

impl Memory {
    pub(crate) const BLOCK: usize = 4096;

    pub(crate) fn new(blocks: usize) -> Self {
        let bytes = vec![0u8; (blocks + 1) * Self::BLOCK];
        let offset = bytes.as_ptr().align_offset(Self::BLOCK);
        Memory { bytes, offset }
    }

    pub(crate) fn part(&mut self, offset: usize, len: usize) -> Region {
        assert!(self.offset + offset + len <= self.bytes.len());
        // SAFETY: inside the vector, which the tests keep until their queue is gone, and which they touch
        // only while nothing is in hand.
        unsafe { Region::new(self.bytes.as_mut_ptr().add(self.offset + offset), len) }
    }

    pub(crate) fn block(&mut self, index: usize) -> Region {
        self.part(index * Self::BLOCK, Self::BLOCK)
    }

    pub(crate) fn set(&mut self, offset: usize, bytes: &[u8]) {
        let at = self.offset + offset;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn get(&self, offset: usize, len: usize) -> &[u8] {
        &self.bytes[self.offset + offset..][..len]
    }
}

pub(crate) fn ready(token: u64, op: Op<'_>) -> ReadyOp<'_> {
    ReadyOp { token: OpToken(token), op: op.check().unwrap(), fence: false }
}

pub(crate) fn fenced(token: u64, op: Op<'_>) -> ReadyOp<'_> {
    ReadyOp { fence: true, ..ready(token, op) }
}

pub(crate) fn harvest(queue: &mut Queue) -> Vec<(u64, Result<Verdict, Fault>)> {
    let mut done: Vec<Completion> = Vec::new();
    queue.harvest(&mut done);
    done.into_iter().map(|done| (done.token.0, done.result)).collect()
}

pub(crate) const GOOD: Result<Verdict, Fault> =
    Ok(Verdict { p_bad: false, q_bad: false, xor_nonzero: false, differs: false });
