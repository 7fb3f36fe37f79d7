//! The driver's queue over a portal of which the fuzzer is the device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_tx::{Completion, Op, OpToken, ReadyOp, Region, Seed};
use engine_dsa::caps::{GenCap, OpSet};
use engine_dsa::portal::{Portal, PortalError};
use engine_dsa::queue::{Queue, Setup, Usage};
use engine_dsa::wire::{DESCRIPTOR_BYTES, Descriptor, Opcode, RECORD_BYTES, at};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Bytes of a block.
const BLOCK: usize = 512;
/// Blocks of the memory.
const BLOCKS: usize = 8;

/// What the portal shares with the test.
#[derive(Default)]
struct Shared {
    accepted: Vec<Descriptor>,
    answer: Option<std::result::Result<usize, PortalError>>,
}

struct Fuzzed(Arc<Mutex<Shared>>);

impl Portal for Fuzzed {
    fn method(&self) -> &'static str {
        "fuzzed"
    }

    fn submit(&mut self, descriptors: &[Descriptor]) -> std::result::Result<usize, PortalError> {
        let mut shared = self.0.lock().expect("one thread");
        let count = shared.answer.take().unwrap_or(Ok(descriptors.len()))?.min(descriptors.len());
        shared.accepted.extend(&descriptors[..count]);
        Ok(count)
    }

    fn begin_close(&mut self) {}

    fn is_closed(&mut self) -> bool {
        true
    }
}

pub fn run(u: &mut Unstructured<'_>) -> Result<()> {
    // Blocks apart by their own multiple of 4096 would be large; dualcasts are declined here, too.
    let mut memory = vec![0u8; BLOCK * BLOCKS];
    let span = memory.as_mut_ptr() as u64..memory.as_mut_ptr() as u64 + memory.len() as u64;
    let shared: Arc<Mutex<Shared>> = Arc::default();
    let setup = Setup {
        operations: OpSet::parse(if u.arbitrary()? { "1003f03ff" } else { "1003f03fd" }).expect("a bitmap"),
        gen_cap: GenCap(0x40_915f_0107),
        max_transfer: 1 << 16,
        max_batch: u.int_in_range(0..=8)?,
        credits: u.int_in_range(0..=6)?,
    };
    let portal = Box::new(Fuzzed(Arc::clone(&shared)));
    let Ok(mut queue) = Queue::new(portal, setup, Usage::default(), Arc::default(), None) else {
        return Ok(());
    };
    let fresh = queue.credits();
    let (mut ends, mut next): (BTreeMap<u64, usize>, u64) = (BTreeMap::new(), 0);
    let mut outcome = Ok(());
    // What is in hand has to be given back whether the input ends early or not.
    while outcome.is_ok() && !u.is_empty() {
        outcome = turn(u, &mut memory, &mut queue, &shared, &mut ends, &mut next, &span);
    }
    queue.begin_close();
    count(&mut queue, &mut ends);
    assert!(ends.values().all(|ends| *ends == 1), "{ends:?}");
    assert!(queue.is_idle());
    assert_eq!(queue.credits(), fresh);
    drop(queue);
    drop(memory);
    outcome
}

fn count(queue: &mut Queue, ends: &mut BTreeMap<u64, usize>) {
    let mut done: Vec<Completion> = Vec::new();
    queue.harvest(&mut done);
    for done in done {
        *ends.get_mut(&done.token.0).expect("it was taken") += 1;
    }
}

fn turn(
    u: &mut Unstructured<'_>,
    memory: &mut [u8],
    queue: &mut Queue,
    shared: &Arc<Mutex<Shared>>,
    ends: &mut BTreeMap<u64, usize>,
    next: &mut u64,
    span: &std::ops::Range<u64>,
) -> Result<()> {
    let base = memory.as_mut_ptr();
    // SAFETY: blocks of the memory, which outlives the queue and is not touched otherwise.
    let block = |i: usize| unsafe { Region::new(base.add(i % BLOCKS * BLOCK), BLOCK) };
    // SAFETY: as above: the last four bytes of a block that no other operand of the operation is.
    let crc = unsafe { Region::new(base.add(BLOCKS * BLOCK - 4), 4) };
    let mut ops = Vec::new();
    for i in 0..u.int_in_range(1..=6_u64)? {
        let a = u.int_in_range(0..=BLOCKS - 3)?;
        let (a, b) = (block(a), block(a + 1));
        let op = match u.int_in_range(0..=5)? {
            0 => Op::Fill { dst: a, byte: u.arbitrary()? },
            1 => Op::Compare { a, b },
            2 => Op::Crc32c { src: a, seed: Seed::Value(u.arbitrary()?), crc },
            3 => Op::CopyCrc32c { src: a, dst: b, seed: Seed::Value(0), crc },
            4 => Op::XorVal { srcs: &[] },
            _ => Op::Copy { src: a, dst: b },
        };
        let Ok(op) = op.check() else { continue };
        let fence = u.ratio(1, 3)? && queue.fences().has(op.kind());
        ops.push(ReadyOp { token: OpToken(*next + i), op, fence });
    }
    if u.ratio(1, 8)? {
        let errno = [libc::EINVAL, libc::EPERM][u.int_in_range(0..=1)?];
        let error = [PortalError::Retry, PortalError::Gone, PortalError::Refused(errno)];
        let answer = if u.arbitrary()? { Ok(1) } else { Err(error[u.int_in_range(0..=2)?]) };
        shared.lock().expect("one thread").answer = Some(answer);
    }
    let taken = queue.submit(&ops);
    ends.extend(ops[..taken].iter().map(|op| (op.token.0, 0)));
    *next += 6;
    // The device, as it pleases.
    for _ in 0..2 {
        let accepted = std::mem::take(&mut shared.lock().expect("one thread").accepted);
        for descriptor in &accepted {
            answer(u, descriptor, span)?;
        }
        count(queue, ends);
    }
    Ok(())
}

/// Writes any records for a descriptor and its members, after a look at what they name.
fn answer(u: &mut Unstructured<'_>, descriptor: &Descriptor, span: &std::ops::Range<u64>) -> Result<()> {
    let field = |d: &Descriptor, offset| u64::from_le_bytes(d.field(offset));
    let mut targets = Vec::new();
    if descriptor.opcode() == Opcode::Batch as u8 {
        let list = field(descriptor, at::SOURCE) as usize;
        for member in 0..descriptor.size() as usize {
            let member = std::ptr::with_exposed_provenance::<Descriptor>(list + member * DESCRIPTOR_BYTES);
            // SAFETY: the list of a batch in hand; the queue reads no list that it gave away.
            targets.push(unsafe { member.read_volatile() });
        }
    }
    for member in targets.iter().chain([descriptor]).filter(|d| d.opcode() != Opcode::Batch as u8) {
        let fill = member.opcode() == Opcode::Fill as u8;
        let address = field(member, if fill { at::DESTINATION } else { at::SOURCE });
        assert!(span.contains(&address) && address + u64::from(member.size()) <= span.end, "{member:x?}");
    }
    for target in targets.iter().chain([descriptor]) {
        let mut bytes: [u8; RECORD_BYTES] = u.arbitrary()?;
        if u.ratio(3, 4)? {
            bytes[0] = [0, 1, 1, 3, 0x83, 5, 6, 0x10][u.int_in_range(0..=7)?];
            bytes[4..8].copy_from_slice(&u.int_in_range(0..=600_u32)?.to_le_bytes());
            let operand = if u.arbitrary()? { at::SOURCE } else { at::DESTINATION };
            bytes[8..16].copy_from_slice(&target.field::<8>(operand));
        }
        let record = std::ptr::with_exposed_provenance_mut::<[u8; RECORD_BYTES]>(target.record() as usize);
        // SAFETY: the record of a descriptor in hand, inside the queue's pool; the queue looks at it on
        // this very thread.
        unsafe { record.write_volatile(bytes) };
    }
    Ok(())
}
