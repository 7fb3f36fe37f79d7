//! Descriptors from the builders on the device model: it refuses none, DIF gives the bytes that the CPU
//! gives, and resumed operations end as undisturbed ones do.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use dsa_model::device::{Device, DeviceConfig, Submit};
use dsa_model::faults::{Fault, FaultPlan, Offset, When};
use dsa_model::memory::Mapped;
use dsa_model::personality::Personality;
use engine_dsa::descriptor::{BuildError, Seed};
use engine_dsa::dif::{self, Block, Destination, DifError, Format, Source, Tags};
use engine_dsa::record::{Class, Outcome, RecordView};
use engine_dsa::wire::Descriptor;

const A: u64 = 0x1000_0000;
const B: u64 = 0x1100_0000;
const C: u64 = 0x1200_0000;
const R: u64 = 0x1300_0000;
const BYTES: usize = 1 << 16;

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Three areas of random bytes, and room for a record.
fn memory(random: &mut Random) -> Mapped {
    let memory = Mapped::new();
    for base in [A, B, C] {
        memory.map(base, random.bytes(BYTES));
    }
    memory.map(R, vec![0; 4096]);
    memory
}

fn copy_of(memory: &Mapped) -> Mapped {
    let copy = Mapped::new();
    for base in [A, B, C] {
        copy.map(base, memory.bytes(base, BYTES).unwrap());
    }
    copy.map(R, vec![0; 4096]);
    copy
}

fn areas(memory: &Mapped) -> Vec<Vec<u8>> {
    [A, B, C].map(|base| memory.bytes(base, BYTES).unwrap()).into()
}

/// A device that fills what a record does not define with garbage.
fn device(memory: &Mapped, plan: FaultPlan) -> Device {
    Device::new(DeviceConfig::dedicated(Personality::v1(), 8).with_faults(plan), memory.clone())
}

/// Runs one descriptor to its record.
fn run(device: &mut Device, memory: &Mapped, descriptor: Descriptor) -> RecordView {
    assert!(memory.set_bytes(R, &[0; 32]));
    let client = device.open().unwrap();
    assert_eq!(device.submit(client, &descriptor), Ok(Submit::Accepted));
    assert!(device.run_to_rest(1000), "the model does not come to rest");
    device.begin_close(client);
    assert!(device.run_to_rest(1000) && device.is_closed(client));
    device.close(client);
    RecordView::from(<[u8; 32]>::try_from(memory.bytes(R, 32).unwrap()).unwrap())
}

/// A random operation, as far as the builders allow it.
fn operation(random: &mut Random, kind: u64) -> Result<Descriptor, BuildError> {
    let size = 1 + random.below(20_000);
    let mut at = |base: u64| base + random.below(30_000);
    let (a, b, c) = (at(A), at(B), at(C));
    let words = (size / 8 + 1) * 8;
    match kind {
        0 => Descriptor::memmove(a, b, size),
        OVERLAPPING => Descriptor::memmove(a, A + c - C, size),
        2 => Descriptor::fill(b, size, a.wrapping_mul(c)),
        3 => Descriptor::compare(a, b, size),
        4 => Descriptor::compare_value(a, size, 0).and_then(|d| d.with_expected(1)),
        5 => Descriptor::dualcast(a, b, C + (b & 0xfff), size),
        6 => Descriptor::crc(a, size, Seed::Value(c as u32)),
        7 => Descriptor::copy_crc(a, b, size, Seed::At(C)),
        8 => Descriptor::create_delta(a & !7, b & !7, words, c & !7, 800),
        9 => Descriptor::cache_flush(a, size, false),
        10 => Ok(Descriptor::noop()),
        _ => Ok(Descriptor::drain()),
    }
    .map(Descriptor::with_cache_control)
}

const KINDS: u64 = 12;
/// The kind that may be a move between overlapping buffers.
const OVERLAPPING: u64 = 1;

#[test]
fn the_model_refuses_nothing_that_a_builder_made() {
    let mut random = Random(0x1234_5678_9abc);
    let memory = memory(&mut random);
    for round in 0..600 {
        let descriptor = operation(&mut random, round % KINDS).unwrap().with_record(R).unwrap();
        let mut device = device(&memory, FaultPlan::none());
        let outcome = run(&mut device, &memory, descriptor).outcome();
        assert!(matches!(outcome, Outcome::Success | Outcome::FalsePredicate), "{round}: {outcome:?}");
    }
}

#[test]
fn resumed_operations_end_as_undisturbed_ones_do() {
    let mut random = Random(0xfeed_beef);
    let (mut resumed, mut left) = (0, 0);
    for round in 0..600 {
        // All but those that end without a page.
        let built = operation(&mut random, round % (KINDS - 2)).unwrap();
        let descriptor = built.with_record(R).unwrap();
        let memory = memory(&mut random);
        let calm = copy_of(&memory);
        let wanted = run(&mut device(&calm, FaultPlan::none()), &calm, descriptor);
        let seed = random.next();
        let mut plan = FaultPlan::seeded(seed);
        for number in 0..4 {
            // The model may stop the write of an overlapping move after bytes that it does not tell of, and
            // that are still to be read: nobody could go on from there. So there, only reads fault.
            let operand = if round % (KINDS - 2) == OVERLAPPING { 0 } else { random.below(3) as u8 };
            let fault = Fault::PageFault { operand, offset: Offset::Random, lower: true };
            plan = plan.with(When::number(number), fault);
            if random.below(3) == 0 {
                plan = plan.with(When::number(number), Fault::Backward);
            }
        }
        let mut device = device(&memory, plan);
        let mut next = descriptor;
        let record = loop {
            let record = run(&mut device, &memory, next);
            match (record.outcome(), next.resume(&record)) {
                (Outcome::PageFault { .. }, Some(rest)) => next = rest,
                _ => break record,
            }
            resumed += 1;
        };
        if matches!(record.outcome(), Outcome::PageFault { .. }) {
            // Left to the CPU, as CRCs are.
            left += 1;
            continue;
        }
        assert_eq!(record.outcome(), wanted.outcome(), "round {round}, plan {seed:#x}: {descriptor:?}");
        assert!(areas(&memory) == areas(&calm), "round {round}, plan {seed:#x}: {descriptor:?}");
    }
    assert!(resumed > 600 && left > 100, "{resumed} resumed, {left} left: the plan does not do its work");
}

/// Random options, with tags near their ends.
fn options(random: &mut Random) -> (Format, Source, Destination) {
    let block = [Block::B512, Block::B520, Block::B4096, Block::B4104][random.below(4) as usize];
    let format = Format { block, invert_seed: random.below(2) == 1, invert_result: random.below(2) == 1 };
    let mut tags = || Tags {
        reference: u32::MAX - random.below(3) as u32,
        mask: if random.below(2) == 1 { random.next() as u16 } else { 0 },
        application: u16::MAX - random.below(3) as u16,
    };
    let (source, made) = (tags(), tags());
    let source = Source { tags: source, flags: random.next() as u8 };
    (format, source, Destination { tags: made, flags: random.next() as u8 & 0xf8 })
}

/// Protected blocks that the source's options find right, but for damage in some rounds.
fn protected(random: &mut Random, format: Format, source: &Source, blocks: usize) -> Vec<u8> {
    let data = random.bytes(blocks * format.block.bytes());
    let mut bytes = vec![0; blocks * format.block.protected()];
    // Growing tags have the same bits on both sides.
    let made = Destination { tags: source.tags, flags: source.flags & 0x90 };
    dif::insert(format, &made, &data, &mut bytes).unwrap();
    let step = format.block.protected();
    let block = random.below(blocks as u64) as usize * step;
    let tags = block + format.block.bytes()..block + step;
    match random.below(6) {
        0 => bytes[block + random.below(step as u64) as usize] ^= 1 << random.below(8),
        1 => bytes[tags].fill(0xff),
        2 => bytes[tags][2..].fill(0xff),
        3 => bytes[tags][2..4].fill(0xff),
        _ => {}
    }
    bytes
}

#[test]
fn dif_on_the_model_gives_the_bytes_of_the_cpu() {
    let mut random = Random(0xd1f_d1f);
    let (mut good, mut bad) = (0, 0);
    for round in 0..800 {
        let (format, source, made) = options(&mut random);
        let blocks = 1 + random.below(3) as usize;
        let input = if round % 4 == 1 {
            random.bytes(blocks * format.block.bytes())
        } else {
            protected(&mut random, format, &source, blocks)
        };
        let (plain, whole) = (blocks * format.block.bytes(), blocks * format.block.protected());
        let size = input.len() as u64;
        let insert = Destination { flags: made.flags & 0x90, ..made };
        let (built, mut out) = match round % 4 {
            0 => (Descriptor::dif_check(A, size, format, &source), vec![]),
            1 => (Descriptor::dif_insert(A, B, size, format, &insert), vec![0; whole]),
            2 => (Descriptor::dif_strip(A, B, size, format, &source), vec![0; plain]),
            _ => (Descriptor::dif_update(A, B, size, format, &source, &made), vec![0; whole]),
        };
        let result = match round % 4 {
            0 => dif::check(format, &source, &input),
            1 => dif::insert(format, &insert, &input, &mut out),
            2 => dif::strip(format, &source, &input, &mut out),
            _ => dif::update(format, &source, &made, &input, &mut out),
        };
        let memory = Mapped::new();
        memory.map(A, input);
        memory.map(B, vec![0; BYTES]);
        memory.map(R, vec![0; 4096]);
        let descriptor = built.unwrap().with_record(R).unwrap();
        let record = run(&mut device(&memory, FaultPlan::none()), &memory, descriptor);
        let what = format!("round {round}: {format:?} {source:?} {made:?} {:?}", record.outcome());
        match result {
            Ok(()) => assert_eq!(record.outcome(), Outcome::Success, "{what}"),
            Err(DifError::Mismatch(found)) => {
                assert!(matches!(record.outcome(), Outcome::Failed { class: Class::Data, .. }), "{what}");
                assert_eq!(record.dif_mismatch(), Some(found), "{what}");
            }
            Err(error) => panic!("{what}: {error}"),
        }
        if result.is_ok() {
            good += 1
        } else {
            bad += 1
        };
        assert!(memory.bytes(B, out.len()).unwrap() == out, "{what}");
    }
    assert!(good > 200 && bad > 100, "{good} good and {bad} bad: the data is too much of a kind");
}
