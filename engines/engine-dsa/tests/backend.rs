//! The backend: what it says, the conformance suite on models of every personality, and its ways back.

#![cfg(test)]

mod device;
mod script;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_tx::conformance::{self, Point, Subject, Trouble};
use async_tx::{Backend, Caps, Completion, Fault, Nanos, Op, OpKind, Region, Revival};
use dsa_model::device::DeviceConfig;
use dsa_model::memory::Ranges;
use dsa_model::personality::Personality;
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::open::{OpenError, Opener};
use engine_dsa::portal::PortalError;
use engine_dsa::queue::Usage;
use engine_dsa::wire::{Opcode, at};

use device::{Registered, Stepped};
use script::{GOOD, Handle, Memory, Record, opener, plain, ready, setup};

/// For tests that own time.
fn options() -> Options {
    Options { rest: Duration::ZERO, threaded: false, len_min: 0, ..Options::default() }
}

const fn ms(ms: u64) -> Nanos {
    Nanos(ms * 1_000_000)
}

/// The model as a subject of the suite.
struct Tried {
    config: DeviceConfig,
    options: Options,
    memory: Ranges,
    whole: Option<Registered>,
    device: Stepped,
}

impl Tried {
    fn new(config: DeviceConfig) -> Self {
        let memory = Ranges::new();
        let device = Stepped::new(config.clone(), &memory);
        Tried { config, options: options(), memory, whole: None, device }
    }
}

impl Subject for Tried {
    fn backend(&mut self) -> Box<dyn Backend> {
        self.device = Stepped::new(self.config.clone(), &self.memory);
        Box::new(DsaBackend::open("dsa model", self.device.opener(), self.options).unwrap())
    }

    fn memory(&mut self, memory: Region) {
        self.whole = Some(Registered::of(&self.memory, memory));
    }

    fn step(&mut self) {
        self.device.step();
    }

    fn inject(&mut self, trouble: Trouble) -> bool {
        match trouble {
            Trouble::Fail => self.device.fail_next(),
            Trouble::Stall => self.device.stall(),
            Trouble::Gone => self.device.unplug(),
            Trouble::Heal => self.device.heal(),
        }
        true
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(20)
    }
}

fn conforms(config: DeviceConfig, not_tried: &[Point]) {
    let report = conformance::run(&mut Tried::new(config));
    assert!(report.passed(), "{report}");
    assert_eq!(report.not_tried().collect::<Vec<_>>(), not_tried, "{report}");
}

const NO_FENCES: [Point; 2] = [Point::Fence, Point::AbandonedBehindFence];

#[test]
fn a_dedicated_queue_that_is_written_to_conforms() {
    conforms(DeviceConfig::dedicated(Personality::v1_restricted(), 16), &NO_FENCES);
}

#[test]
fn a_shared_queue_with_batches_conforms() {
    conforms(DeviceConfig::shared(Personality::v2(), 64, 60), &[]);
}

#[test]
fn a_dedicated_queue_with_batches_conforms_with_poison() {
    conforms(DeviceConfig { poison: true, ..DeviceConfig::dedicated(Personality::v1(), 16) }, &[]);
}

#[test]
fn a_queue_with_tiny_transfers_of_one_entry_conforms() {
    let personality = Personality { max_transfer: 300, ..Personality::v1_restricted() };
    conforms(DeviceConfig::dedicated(personality, 1), &NO_FENCES);
}

#[test]
fn a_queue_that_copies_alone_conforms() {
    let personality = Personality { op_cap: [0b1001, 0, 0, 0], ..Personality::v1() };
    conforms(DeviceConfig::dedicated(personality, 8), &NO_FENCES);
}

#[test]
fn it_says_what_the_queue_can_do() {
    let (opener, opened) = opener(|_| setup());
    let mut memory = Memory::new(3);
    let backend = DsaBackend::open("dsa wq0.1", opener, Options::default()).unwrap();
    assert_eq!((backend.name(), backend.batch(), backend.queue().method()), ("dsa wq0.1", 8, "script"));
    assert!(!backend.caps().has(OpKind::Xor) && !backend.caps().has(OpKind::Pq));
    for kind in [OpKind::Copy, OpKind::Crc32c, OpKind::Dualcast] {
        let limits = backend.limits(kind);
        assert!(backend.caps().has(kind));
        assert_eq!((limits.len_max, limits.align, limits.keeps_on_fault), (1 << 20, 1, false));
        assert_eq!(limits.len_min, 8192);
    }
    // A batch an entry, eight members a batch.
    assert_eq!(backend.room(), 64);
    let (src, a, b) = (memory.block(0), memory.block(1), memory.block(2));
    assert!(backend.accepts(&Op::Dualcast { src, dst: [a, b] }));
    let off = b.part(1, 4095).unwrap();
    assert!(
        !backend
            .accepts(&Op::Dualcast { src: src.part(0, 4095).unwrap(), dst: [a.part(0, 4095).unwrap(), off] })
    );
    assert!(backend.accepts(&Op::Copy { src, dst: a }));
    assert!(!backend.accepts(&Op::XorVal { srcs: &[src] }));
    opened.lock().unwrap()[0].let_close();
}

#[test]
fn a_kind_that_is_refused_leaves_the_capabilities_until_it_is_revived() {
    let (opener, opened) = opener(|_| plain());
    let mut memory = Memory::new(2);
    let op = Op::Fill { dst: memory.block(0), byte: 1 };
    let mut backend = DsaBackend::open("dsa", opener, options()).unwrap();
    let first = opened.lock().unwrap()[0].clone();
    first.let_close();
    assert_eq!(backend.submit(&[ready(1, op)]), 1);
    Record::new(0x10).write(&first.last());
    assert_eq!(reap(&mut backend), [(1, Err(Fault::Declined))]);
    assert!(!backend.caps().has(OpKind::Fill) && !backend.accepts(&op) && backend.caps().has(OpKind::Copy));
    assert_eq!(backend.counters().kinds_refused.get(), 1);
    let second = revive(&mut backend, &opened);
    assert!(backend.caps().has(OpKind::Fill) && backend.accepts(&op));
    second.let_close();
}

fn reap(backend: &mut DsaBackend) -> Vec<(u64, Result<async_tx::Verdict, Fault>)> {
    let mut done: Vec<Completion> = Vec::new();
    backend.reap(&mut done);
    done.into_iter().map(|done| (done.token.0, done.result)).collect()
}

/// Plays the device of a probe: completes the NOOP and the copy.
fn answer_probe(handle: &Handle, wrong: bool) {
    let descriptor = handle.last();
    if descriptor.opcode() == Opcode::Memmove as u8 {
        let field = |offset| u64::from_le_bytes(descriptor.field(offset)) as usize;
        let from = std::ptr::with_exposed_provenance::<u8>(field(at::SOURCE));
        let to = std::ptr::with_exposed_provenance_mut::<u8>(field(at::DESTINATION));
        // SAFETY: the buffers of a probe in flight, as long as it says.
        unsafe {
            to.copy_from_nonoverlapping(from, descriptor.size() as usize);
            if wrong {
                to.add(17).write(!to.add(17).read());
            }
        }
    }
    Record::new(1).write(&descriptor);
}

/// Revives a backend over scripts; the last one opened.
fn revive(backend: &mut DsaBackend, opened: &Arc<Mutex<Vec<Handle>>>) -> Handle {
    assert_eq!(backend.revive(ms(0)), Revival::Pending);
    let handle = opened.lock().unwrap().last().unwrap().clone();
    assert_eq!(handle.last().opcode(), Opcode::Noop as u8);
    answer_probe(&handle, false);
    assert_eq!(backend.revive(ms(1)), Revival::Pending);
    assert_eq!(handle.last().opcode(), Opcode::Memmove as u8);
    answer_probe(&handle, false);
    assert_eq!(backend.revive(ms(2)), Revival::Ready);
    handle
}

#[test]
fn it_comes_back_with_the_capabilities_of_then() {
    let (opener, opened) = opener(|turn| if turn == 0 { setup() } else { plain() });
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let mut backend = DsaBackend::open("dsa", opener, options()).unwrap();
    assert!(backend.fences().has(OpKind::Copy));
    let first = opened.lock().unwrap()[0].clone();
    assert_eq!(backend.submit(&[ready(1, op)]), 1);
    backend.abort();
    assert_eq!((backend.room(), backend.submit(&[ready(2, op)])), (0, 0));
    assert_eq!(reap(&mut backend), []);
    first.let_close();
    assert_eq!(reap(&mut backend), [(1, Err(Fault::Aborted))]);
    let second = revive(&mut backend, &opened);
    assert_eq!((backend.fences(), backend.room()), (Caps::NONE, 8));
    assert_eq!(backend.submit(&[ready(3, op)]), 1);
    Record::new(1).write(&second.last());
    assert_eq!(reap(&mut backend), [(3, GOOD)]);
    let counters = backend.counters();
    assert_eq!((counters.aborts.get(), counters.revivals.get(), counters.revivals_failed.get()), (1, 1, 0));
    second.let_close();
}

#[test]
fn it_is_not_opened_again_before_it_is_closed_nor_said_to_work_before_the_probe_passed() {
    let (opener, opened) = opener(|_| plain());
    let mut backend = DsaBackend::open("dsa", opener, options()).unwrap();
    let handles = || opened.lock().unwrap().clone();
    backend.abort();
    for now in 0..100 {
        assert_eq!(backend.revive(ms(now)), Revival::Pending);
        assert_eq!(handles().len(), 1, "the first one is not closed");
    }
    assert_eq!(backend.revive(ms(100)), Revival::Failed);
    handles()[0].let_close();
    // A second one that says nothing.
    for now in 200..300 {
        assert_eq!(backend.revive(ms(now)), Revival::Pending);
    }
    assert_eq!(backend.revive(ms(300)), Revival::Failed);
    assert_eq!((handles().len(), handles()[1].script().closes), (2, 1));
    // Its answer comes too late, but it must be closed before there is a third.
    answer_probe(&handles()[1], false);
    assert_eq!(backend.revive(ms(400)), Revival::Pending);
    assert_eq!(handles().len(), 2);
    handles()[1].let_close();
    assert_eq!(backend.revive(ms(401)), Revival::Pending);
    // A third that fails with a status, and a fourth that copies wrongly.
    Record::new(0x20).write(&handles()[2].last());
    assert_eq!(backend.revive(ms(402)), Revival::Failed);
    handles()[2].let_close();
    assert_eq!(backend.revive(ms(500)), Revival::Pending);
    answer_probe(&handles()[3], false);
    assert_eq!(backend.revive(ms(501)), Revival::Pending);
    answer_probe(&handles()[3], true);
    assert_eq!(backend.revive(ms(502)), Revival::Failed);
    handles()[3].let_close();
    let fifth = revive(&mut backend, &opened);
    assert_eq!(backend.counters().revivals_failed.get(), 4);
    fifth.let_close();
}

#[test]
fn a_queue_that_takes_nothing_fails_its_probe() {
    let opened: Arc<Mutex<Vec<Handle>>> = Arc::default();
    let (inner, all) = opener(|_| plain());
    let refusing: Opener = Arc::new(move || {
        let result = inner();
        let handle = all.lock().unwrap().last().unwrap().clone();
        handle.let_close();
        handle.script().answers = [Err(PortalError::Retry), Err(PortalError::Gone)].into();
        result
    });
    let mut backend = DsaBackend::open("dsa", refusing, options()).unwrap();
    assert_eq!(backend.revive(ms(0)), Revival::Pending, "full now");
    assert_eq!(backend.revive(ms(1)), Revival::Failed, "and gone");
    drop((backend, opened));
}

#[test]
fn an_opener_that_fails_is_asked_again() {
    let calls = Arc::new(AtomicUsize::new(0));
    let (inner, opened) = opener(|_| plain());
    let counted = Arc::clone(&calls);
    let failing: Opener = Arc::new(move || match counted.fetch_add(1, Ordering::Relaxed) {
        1 | 2 => Err(OpenError::Unusable { queue: "wq0.1".into(), reason: "it is disabled".into() }),
        _ => inner(),
    });
    let mut backend = DsaBackend::open("dsa", failing, options()).unwrap();
    opened.lock().unwrap()[0].let_close();
    assert_eq!(backend.revive(ms(0)), Revival::Failed);
    assert_eq!(backend.revive(ms(1)), Revival::Failed);
    let handle = revive(&mut backend, &opened);
    assert_eq!(calls.load(Ordering::Relaxed), 4);
    handle.let_close();
}

#[test]
fn an_opener_that_blocks_does_not_block_the_caller_and_is_not_called_twice() {
    let (inner, opened) = opener(|_| plain());
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let blocking: Opener = Arc::new(move || {
        if counted.fetch_add(1, Ordering::Relaxed) > 0 {
            wait.lock().unwrap().recv().unwrap();
        }
        inner()
    });
    let mut backend = DsaBackend::open("dsa", blocking, Options { threaded: true, ..options() }).unwrap();
    opened.lock().unwrap()[0].let_close();
    for now in 0..100 {
        assert_eq!(backend.revive(ms(now)), Revival::Pending);
    }
    assert_eq!(backend.revive(ms(100)), Revival::Failed);
    assert_eq!(backend.revive(ms(150)), Revival::Pending);
    go.send(()).unwrap();
    let mut now = 150;
    while opened.lock().unwrap().len() < 2 || opened.lock().unwrap()[1].script().accepted.is_empty() {
        // Time stands still until the thread has got the processor.
        assert_eq!(backend.revive(ms(now)), Revival::Pending);
        std::thread::yield_now();
    }
    let handle = opened.lock().unwrap()[1].clone();
    for _ in 0..2 {
        now += 1;
        answer_probe(&handle, false);
        let revival = backend.revive(ms(now));
        assert_eq!(revival, if now == 152 { Revival::Ready } else { Revival::Pending });
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    handle.let_close();
}

#[test]
fn proving_ends_with_success_silence_or_a_status() {
    let memory = Ranges::new();
    let device = Stepped::new(DeviceConfig::dedicated(Personality::v2(), 16), &memory);
    let thread = device.model().run(Duration::from_micros(10)).unwrap();
    let patient = Options { patience: Duration::from_secs(20), ..options() };
    let mut backend = DsaBackend::open("dsa", device.opener(), patient).unwrap();
    assert_eq!(backend.prove(), Ok(()));
    drop(backend);
    drop(thread);
    let (opener, opened) = opener(|_| plain());
    let short = Options { patience: Duration::from_millis(2), ..options() };
    let mut backend = DsaBackend::open("dsa", opener, short).unwrap();
    opened.lock().unwrap()[0].let_close();
    assert_eq!(backend.prove(), Err(OpenError::Silent { patience: short.patience }));
}

#[test]
fn resting_comes_to_an_end() {
    let (opener, opened) = opener(|_| setup());
    let mut memory = Memory::new(2);
    let mut backend = DsaBackend::open("dsa", opener, Options::default()).unwrap();
    opened.lock().unwrap()[0].let_close();
    backend.relax();
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    assert_eq!(backend.submit(&[ready(0, op), ready(1, op)]), 2);
    backend.relax();
}

#[test]
fn without_batches_in_the_options_descriptors_are_plain() {
    let (opener, opened) = opener(|_| setup());
    let mut memory = Memory::new(2);
    let usage = Usage { batches: false, ..Usage::default() };
    let mut backend = DsaBackend::open("dsa", opener, Options { usage, ..options() }).unwrap();
    opened.lock().unwrap()[0].let_close();
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    assert_eq!((backend.fences(), backend.submit(&[ready(0, op), ready(1, op)])), (Caps::NONE, 2));
    assert_eq!(opened.lock().unwrap()[0].script().calls, [2]);
}
