//! Every operation against the obvious way to do it, on random operands, with pages missing, and resumed by
//! the rules of the reference until it is done.

use dsa_model::crc::crc32c;
use dsa_model::device::{ClientId, Device, DeviceConfig, Submit};
use dsa_model::faults::{ALWAYS, Fault, FaultPlan, Offset, When};
use dsa_model::memory::{Mapped, PageState};
use dsa_model::personality::Personality;
use dsa_model::rng::SplitMix64;
use engine_dsa::wire::{Descriptor, at, flag, status};

use crate::common::*;

/// One range, so that operands may be anywhere in it and longer than the model's buffers.
const BASE: u64 = 0x4000_0000;
const LEN: u64 = 0x8_0000;
const RECORD: u64 = 0x5000_0000;

struct Rig {
    rng: SplitMix64,
    memory: Mapped,
    device: Device,
    client: ClientId,
    resumed: u64,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let memory = Mapped::new();
        memory.map(BASE, vec![0; LEN as usize]);
        memory.map(RECORD, vec![0; 4096]);
        let faulty = |operand| Fault::PageFault { operand, offset: Offset::Random, lower: true };
        let plan = FaultPlan::seeded(seed)
            .with(When::chance(ALWAYS / 4), faulty((seed % 3) as u8))
            .with(When::chance(ALWAYS / 4), Fault::Backward)
            .with(When::chance(ALWAYS / 4), Fault::Scatter);
        let config = DeviceConfig::dedicated(Personality::v2(), 8).with_faults(plan);
        let mut device = Device::new(config, memory.clone());
        let client = device.open().expect("the only client");
        let mut rig = Self { rng: SplitMix64::new(seed), memory, device, client, resumed: 0 };
        let random: Vec<u8> = (0..LEN).map(|_| rig.rng.next() as u8).collect();
        assert!(rig.memory.set_bytes(BASE, &random));
        for _ in 0..rig.rng.below(8) {
            let page = BASE + rig.rng.below(LEN) / 4096 * 4096;
            rig.memory.set_page(page, PageState::Absent);
        }
        rig
    }

    fn bytes(&self, address: u64, len: u64) -> Vec<u8> {
        self.memory.bytes(address, len as usize).expect("mapped")
    }

    /// A size, often bigger than the model's buffers, and an address with room for it.
    fn operand(&mut self, size: u64) -> u64 {
        BASE + self.rng.below(LEN - size + 1)
    }

    fn size(&mut self) -> u64 {
        1 + if self.rng.chance(ALWAYS / 2) { self.rng.below(200) } else { self.rng.below(0x2_8000) }
    }

    /// Submits, and resumes by `resume(descriptor, completed, result, value)` after every fault, to the last
    /// record.
    fn run(&mut self, mut d: Descriptor, resume: impl Fn(&mut Descriptor, u32, u8, u32)) -> [u8; 32] {
        loop {
            assert!(self.memory.set_bytes(RECORD, &[0]));
            assert_eq!(self.device.submit(self.client, &d), Ok(Submit::Accepted));
            assert!(self.device.run_to_rest(10));
            let cr = record(&self.memory, RECORD);
            if cr[0] & status::CODE != status::PAGE_FAULT {
                return cr;
            }
            self.resumed += 1;
            assert!(self.resumed < 10_000);
            assert!(self.memory.touch(u64_at(&cr, 8), true));
            resume(&mut d, u32_at(&cr, 4), cr[1], u32_at(&cr, 16));
        }
    }
}

fn advance(d: &mut Descriptor, fields: &[usize], n: u32) {
    for field in fields {
        d.set_field(*field, (u64::from_le_bytes(d.field(*field)) + u64::from(n)).to_le_bytes());
    }
    assert!(n <= d.size());
    d.set_field(at::SIZE, (d.size() - n).to_le_bytes());
}

fn disjoint(a: u64, b: u64, size: u64) -> bool {
    a + size <= b || b + size <= a
}

/// Runs `case` on many rigs, and sees to it that faults were among them.
fn with_rigs(name: &str, mut case: impl FnMut(&mut Rig)) {
    let scale = std::env::var("URAID_TEST_SCALE").ok().and_then(|text| text.parse::<u64>().ok());
    let mut resumed = 0;
    for seed in 0..60 * scale.unwrap_or(1) {
        println!("{name}: seed {seed}");
        let mut rig = Rig::new(seed);
        for _ in 0..4 {
            case(&mut rig);
        }
        resumed += rig.resumed;
    }
    assert!(resumed > 20, "only {resumed} faults");
}

#[test]
fn memmove() {
    with_rigs("memmove", |rig| {
        let size = rig.size();
        let (from, to) = (rig.operand(size), rig.operand(size));
        let (whole, data) = (rig.bytes(BASE, LEN), rig.bytes(from, size));
        let d = descriptor(0x03, from, to, size as u32, RECORD);
        let cr = rig.run(d, |d, n, result, _| match result {
            0 => advance(d, &[at::SOURCE, at::DESTINATION], n),
            _ => advance(d, &[], n),
        });
        assert_eq!(cr[0], status::SUCCESS);
        let mut expected = whole;
        let start = (to - BASE) as usize;
        expected[start..start + size as usize].copy_from_slice(&data);
        assert!(rig.bytes(BASE, LEN) == expected, "{from:#x} -> {to:#x}, {size:#x} bytes");
    });
}

#[test]
fn fill() {
    with_rigs("fill", |rig| {
        let size = rig.size();
        let to = rig.operand(size);
        let long = rig.rng.chance(ALWAYS / 2);
        let pattern: [u8; 16] = std::array::from_fn(|_| rig.rng.next() as u8);
        let period = if long { 16 } else { 8 };
        let mut d = descriptor(0x04, 0, to, size as u32, RECORD);
        d.set_field(at::SOURCE, [0, 1, 2, 3, 4, 5, 6, 7].map(|i| pattern[i]));
        if long {
            d.set_operation(0x04, d.flags() | flag::FILL_LONG_PATTERN);
            d.set_field(at::SPECIFIC, [8, 9, 10, 11, 12, 13, 14, 15].map(|i| pattern[i]));
        }
        // A pattern goes on where it stopped only in whole periods.
        let cr = rig.run(d, |d, n, _, _| advance(d, &[at::DESTINATION], n / period * period));
        assert_eq!(cr[0], status::SUCCESS);
        let expected: Vec<u8> = (0..size as usize).map(|i| pattern[i % period as usize]).collect();
        assert!(rig.bytes(to, size) == expected);
    });
}

#[test]
fn compare_and_compare_value() {
    with_rigs("compare", |rig| {
        let size = rig.size();
        let a = rig.operand(size);
        let b = rig.operand(size);
        if disjoint(a, b, size) {
            let same = rig.bytes(a, size);
            rig.memory.set_bytes(b, &same);
        }
        if rig.rng.chance(ALWAYS / 2) {
            let at = b + rig.rng.below(size);
            rig.memory.set_bytes(at, &[rig.rng.next() as u8]);
        }
        let (x, y) = (rig.bytes(a, size), rig.bytes(b, size));
        let cr = rig.run(descriptor(0x05, a, b, size as u32, RECORD), |d, n, _, _| {
            advance(d, &[at::SOURCE, at::DESTINATION], n);
        });
        assert_eq!((cr[0], cr[1]), (status::SUCCESS, u8::from(x != y)));
        let value = [rig.rng.next() as u8; 8];
        let mut expected = vec![value[0]; size as usize];
        if rig.rng.chance(ALWAYS / 2) {
            expected[rig.rng.below(size) as usize] ^= 1;
        }
        rig.memory.set_bytes(a, &expected);
        let mut d = descriptor(0x06, a, 0, size as u32, RECORD);
        d.set_field(at::DESTINATION, value);
        d.set_operation(0x06, d.flags() | flag::CHECK_RESULT);
        let cr = rig.run(d, |d, n, _, _| advance(d, &[at::SOURCE], n));
        let differs = expected.iter().any(|byte| *byte != value[0]);
        let expected = if differs { status::FALSE_PREDICATE } else { status::SUCCESS };
        assert_eq!((cr[0], cr[1]), (expected, u8::from(differs)));
    });
}

#[test]
fn checksums_with_and_without_a_copy() {
    with_rigs("crc", |rig| {
        let size = rig.size();
        let (from, to) = (rig.operand(size), rig.operand(size));
        let data = rig.bytes(from, size);
        let seed = rig.rng.next() as u32;
        let resume = |fields: &'static [usize]| {
            move |d: &mut Descriptor, n: u32, _: u8, value: u32| {
                advance(d, fields, n);
                d.set_field(at::CRC_SEED, value.to_le_bytes());
            }
        };
        let mut d = descriptor(0x10, from, 0, size as u32, RECORD);
        d.set_field(at::CRC_SEED, seed.to_le_bytes());
        let cr = rig.run(d, resume(&[at::SOURCE]));
        assert_eq!((cr[0], u32_at(&cr, 16)), (status::SUCCESS, crc32c(seed, &data)));
        d = descriptor(0x11, from, to, size as u32, RECORD);
        d.set_field(at::CRC_SEED, seed.to_le_bytes());
        let cr = rig.run(d, resume(&[at::SOURCE, at::DESTINATION]));
        if disjoint(from, to, size) {
            assert_eq!((cr[0], u32_at(&cr, 16)), (status::SUCCESS, crc32c(seed, &data)));
            assert!(rig.bytes(to, size) == data);
        } else {
            assert_eq!(cr[0], status::OVERLAP);
        }
    });
}

#[test]
fn dualcast() {
    with_rigs("dualcast", |rig| {
        let size = rig.size().min(0x1_8000);
        let (from, low) = (BASE, rig.rng.below(4096));
        let (one, two) = (BASE + 0x2_0000 + low, BASE + 0x4_0000 + low);
        let data = rig.bytes(from, size);
        let mut d = descriptor(0x09, from, one, size as u32, RECORD);
        d.set_field(at::DESTINATION2, two.to_le_bytes());
        let cr = rig.run(d, |d, n, _, _| {
            advance(d, &[at::SOURCE, at::DESTINATION], n);
            let two = u64::from_le_bytes(d.field(at::DESTINATION2)) + u64::from(n);
            d.set_field(at::DESTINATION2, two.to_le_bytes());
        });
        assert_eq!(cr[0], status::SUCCESS);
        assert!(rig.bytes(one, size) == data && rig.bytes(two, size) == data);
    });
}

#[test]
fn a_delta_applied_to_the_first_source_gives_the_second() {
    with_rigs("delta", |rig| {
        let size = (rig.size() + 7) & !7;
        let (one, two, delta) = (BASE, BASE + 0x3_0000, BASE + 0x6_0000);
        let mut second = rig.bytes(one, size);
        for _ in 0..rig.rng.below(40) {
            second[rig.rng.below(size) as usize] = rig.rng.next() as u8;
        }
        rig.memory.set_bytes(two, &second);
        let mut d = descriptor(0x07, one, two, size as u32, RECORD);
        d.set_field(at::DELTA, delta.to_le_bytes());
        d.set_field(at::DELTA_MAX, 400u32.to_le_bytes());
        // Offsets start again at 0 after a resume, so it is begun again: the page is there now.
        let cr = rig.run(d, |_, _, _, _| {});
        let differ = rig.bytes(one, size) != second;
        assert_eq!((cr[0], cr[1]), (status::SUCCESS, u8::from(differ)));
        if differ {
            let mut d = descriptor(0x08, delta, one, size as u32, RECORD);
            d.set_field(at::DELTA_SIZE, u32_at(&cr, 16).to_le_bytes());
            let cr = rig.run(d, |d, n, _, _| {
                let (record, bytes) = (u64::from_le_bytes(d.field(at::SOURCE)), u32_of(d, at::DELTA_SIZE));
                d.set_field(at::SOURCE, (record + u64::from(n)).to_le_bytes());
                d.set_field(at::DELTA_SIZE, (bytes - n).to_le_bytes());
            });
            assert_eq!(cr[0], status::SUCCESS);
            assert!(rig.bytes(one, size) == second);
        }
    });
}

fn u32_of(d: &Descriptor, offset: usize) -> u32 {
    u32::from_le_bytes(d.field(offset))
}

#[test]
fn protection_that_was_inserted_checks_updates_and_strips() {
    with_rigs("dif", |rig| {
        let (code, block) = [(0u8, 512u64), (1, 520), (2, 4096), (3, 4104)][rig.rng.below(4) as usize];
        let blocks = 1 + rig.rng.below(0x1_0000 / block);
        let flags = [code | (rig.rng.below(4) as u8) << 2];
        let (plain, tagged, updated) = (BASE, BASE + 0x2_0000, BASE + 0x4_0000);
        let data = rig.bytes(plain, blocks * block);
        let (old, new) = (rig.rng.next(), rig.rng.next());
        let tags = |word: u64| {
            let (reference, app) =
                ((word as u32).to_le_bytes(), (word.to_be_bytes()[0], word.to_be_bytes()[1]));
            [reference[0], reference[1], reference[2], reference[3], 0, 0, app.0, app.1]
        };
        let build = |op: u8, from: u64, to: u64, step: u64, source: Option<u64>, destination: Option<u64>| {
            let mut d = descriptor(op, from, to, (blocks * step) as u32, RECORD);
            d.set_field(at::DIF_FLAGS, flags);
            if let Some(word) = source {
                d.set_field(at::DIF_SOURCE_TAGS, tags(word));
            }
            if let Some(word) = destination {
                d.set_field(at::DIF_DESTINATION_TAGS, tags(word));
            }
            d
        };
        // All of it is done again after a fault: buffers are apart, and the page is there now.
        let insert = build(0x13, plain, tagged, block, None, Some(old));
        assert_eq!(rig.run(insert, |_, _, _, _| {})[0], status::SUCCESS);
        let check = build(0x12, tagged, 0, block + 8, Some(old), None);
        assert_eq!(rig.run(check, |_, _, _, _| {})[0], status::SUCCESS);
        let update = build(0x15, tagged, updated, block + 8, Some(old), Some(new));
        assert_eq!(rig.run(update, |_, _, _, _| {})[0], status::SUCCESS);
        rig.memory.set_bytes(plain, &vec![0; data.len()]);
        let strip = build(0x14, updated, plain, block + 8, Some(new), None);
        assert_eq!(rig.run(strip, |_, _, _, _| {})[0], status::SUCCESS);
        assert!(rig.bytes(plain, blocks * block) == data);
        // Any damaged byte is found, in its block.
        let damaged = rig.rng.below(blocks * (block + 8));
        let byte = rig.bytes(updated + damaged, 1)[0];
        rig.memory.set_bytes(updated + damaged, &[byte ^ 0x10]);
        let cr = rig.run(build(0x12, updated, 0, block + 8, Some(new), None), |_, _, _, _| {});
        assert_eq!(cr[0], status::DIF_ERROR);
        assert_eq!(u64::from(u32_at(&cr, 4)), damaged / (block + 8) * (block + 8));
        let tag = damaged % (block + 8);
        let expected = if tag < block + 2 {
            1
        } else if tag < block + 4 {
            2
        } else {
            4
        };
        assert_eq!(cr[1], expected);
    });
}
