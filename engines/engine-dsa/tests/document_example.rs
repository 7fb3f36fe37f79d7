//! The example of the async_tx document, section 3.7: xor -> copy -> xor, where each operation depends on
//! the one before. On the CPU alone; on the device where it can, which is the copy; and mixed, with the
//! switches of channel that the kernel's API was made for.
//!
//! The device has no opcode for XOR. On it alone the example cannot run, in versions 1.0 and 2.0.

#![cfg(test)]

mod model;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use async_tx::*;
use dsa_model::device::DeviceConfig;
use dsa_model::memory::Ranges;
use dsa_model::model::Model;
use dsa_model::personality::Personality;
use engine_cpu::CpuBackend;

const LEN: usize = 4096;

/// Blocks, known to a device, and what was in them at first.
struct Memory {
    ranges: Ranges,
    start: *mut u8,
    before: Vec<u8>,
}

impl Memory {
    const BLOCKS: usize = 5;

    fn new() -> Memory {
        let bytes: Vec<u8> = (0..Self::BLOCKS * LEN).map(|i| (i * i / 11) as u8).collect();
        let (before, ranges) = (bytes.clone(), Ranges::new());
        // Never freed: a device that the test stops looking at may have it in hand.
        let start = Box::leak(bytes.into_boxed_slice()).as_mut_ptr();
        let memory = Memory { ranges, start, before };
        model::register(&memory.ranges, memory.blocks(0, Self::BLOCKS));
        memory
    }

    fn blocks(&self, first: usize, count: usize) -> Region {
        // SAFETY: inside the leaked bytes; tests look at them only when no chain is in flight.
        unsafe { Region::new(self.start.add(first * LEN), count * LEN) }
    }

    fn block(&self, i: usize) -> Region {
        self.blocks(i, 1)
    }

    fn now(&self, i: usize) -> &[u8] {
        // SAFETY: as in `blocks`; nothing is in flight when this is called.
        unsafe { self.block(i).bytes() }
    }

    /// Whether the example has done what it should: block 3 has what the first xor left in block 2, which
    /// the second one took away again.
    fn check(&self) {
        let byte = |block: usize, i: usize| self.before[block * LEN + i];
        assert!((0..LEN).all(|i| self.now(3)[i] == byte(0, i) ^ byte(1, i) ^ byte(2, i)), "the copied sum");
        assert!((0..LEN).all(|i| self.now(2)[i] == byte(2, i)), "the sum taken away");
    }
}

/// The document's function, in the document's order. `turn` lets a device move.
fn run_xor_copy_xor(engine: &mut Engine, memory: &Memory, mut turn: impl FnMut()) -> Verdict {
    let srcs = [memory.block(0), memory.block(1)];
    let xor = Op::Xor { srcs: &srcs, dst: memory.block(2), mode: XorMode::Accumulate };
    let submit = |engine: &mut Engine, op: Op<'_>, after: Vec<Tx>, done: Done| {
        let mut chain = engine.chain();
        chain.push(op, &[]).unwrap();
        engine.submit_tx(chain, Submit { after, done })
    };
    let tx = submit(engine, xor, vec![], Done::None);
    let copy = Op::Copy { src: memory.block(2), dst: memory.block(3) };
    let tx = submit(engine, copy, vec![tx], Done::None);
    let (complete, completion) = channel();
    let callback = Arc::new(move |done: ChainDone| complete.send(done.result).unwrap());
    submit(engine, xor, vec![tx], Done::Callback(callback)).ack();
    engine.issue_pending_all();
    for _ in 0..1000 {
        turn();
        engine.poll(&mut Vec::new());
        if let Ok(ended) = completion.try_recv() {
            return ended.unwrap();
        }
    }
    panic!("the example did not end; {:?}", engine.stats());
}

/// An engine with a model behind it, and the model.
fn engine(memory: &Memory) -> (Engine, Model) {
    let model = Model::new(DeviceConfig::dedicated(Personality::v2(), 8), memory.ranges.clone());
    let backend = model::backend(&Arc::new(Mutex::new(model.clone())), &memory.ranges, model::options());
    let engine = Engine::new(Box::new(CpuBackend::auto())).with_backend(Box::new(backend));
    (engine, model)
}

#[test]
fn on_the_cpu_alone() {
    let memory = Memory::new();
    let mut engine = Engine::new(Box::new(CpuBackend::auto()));
    run_xor_copy_xor(&mut engine, &memory, || {});
    memory.check();
    let stats = engine.stats();
    assert_eq!((stats.cpu_ops, stats.on_cpu_for(Reason::NoBackend)), (3, 3));
}

#[test]
fn on_the_device_only_the_copy_can_run() {
    let memory = Memory::new();
    let (mut engine, model) = engine(&memory);
    let srcs = [memory.block(0)];
    let mut chain = engine.chain();
    chain.push(Op::Xor { srcs: &srcs, dst: memory.block(2), mode: XorMode::Overwrite }, &[]).unwrap();
    engine.run(chain).unwrap();
    assert_eq!(engine.stats().on_cpu_for(Reason::NoCapability), 1, "there is no opcode for an xor");
    let mut chain = engine.chain();
    chain.push(Op::Copy { src: memory.block(0), dst: memory.block(3) }, &[]).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    assert_eq!(engine.stats().backends[0].in_hand, 1);
    model.with(|device| assert!(device.run_to_rest(100)));
    let mut done = Vec::new();
    engine.poll(&mut done);
    assert_eq!(done, [ChainDone { tag: 1, result: Ok(Verdict::default()) }]);
    assert_eq!(memory.now(3), memory.now(0));
    assert_eq!(engine.stats().backends[0].completed, 1);
}

#[test]
fn mixed_with_both_switches_of_channel() {
    let memory = Memory::new();
    let (mut engine, model) = engine(&memory);
    run_xor_copy_xor(&mut engine, &memory, || {
        model.step();
    });
    memory.check();
    let stats = engine.stats();
    // xor on the CPU -> copy on the device -> xor on the CPU.
    assert_eq!((stats.cpu_ops, stats.on_cpu_for(Reason::NoCapability), stats.cpu_retries), (2, 2, 0));
    assert_eq!((stats.backends[0].submitted, stats.backends[0].completed), (1, 1));
    assert_eq!(stats.backends[0].kinds[OpKind::Copy as usize].bytes, LEN as u64);
}

#[test]
fn mixed_as_one_chain() {
    let memory = Memory::new();
    let (mut engine, model) = engine(&memory);
    let srcs = [memory.block(0), memory.block(1)];
    let xor = Op::Xor { srcs: &srcs, dst: memory.block(2), mode: XorMode::Accumulate };
    let mut chain = engine.chain();
    let first = chain.push(xor, &[]).unwrap();
    let copy = chain.push(Op::Copy { src: memory.block(2), dst: memory.block(3) }, &[first]).unwrap();
    chain.push(xor, &[copy]).unwrap();
    engine.submit(chain, 1);
    engine.issue_pending_all();
    let mut done = Vec::new();
    while done.is_empty() {
        model.step();
        engine.poll(&mut done);
    }
    memory.check();
    assert_eq!((engine.stats().cpu_ops, engine.stats().backends[0].completed), (2, 1));
}
