//! Whatever 64 bytes say, whatever the memory is and whatever the plan does: no panic, no hang.

use crate::common::*;
use dsa_model::device::{Device, DeviceConfig, Submit};
use dsa_model::execute::Executor;
use dsa_model::faults::FaultPlan;
use dsa_model::memory::{Mapped, PageState};
use dsa_model::personality::Personality;
use dsa_model::rng::SplitMix64;
use engine_dsa::wire::{Descriptor, Opcode, at, flag};

/// Scales the number of rounds.
fn rounds(default: u64) -> u64 {
    let scale = std::env::var("URAID_TEST_SCALE").ok().and_then(|text| text.parse::<u64>().ok());
    default * scale.unwrap_or(1)
}

fn any_personality(rng: &mut SplitMix64) -> Personality {
    let mut p = if rng.chance(1 << 15) { Personality::v1() } else { Personality::v2() };
    p.block_on_fault = rng.chance(1 << 15);
    p.max_transfer = if rng.chance(1 << 14) { u32::MAX } else { p.max_transfer };
    if rng.chance(1 << 13) {
        p.op_cap = [u64::MAX; 4];
        p.gen_cap = rng.next();
    }
    p
}

fn any_memory(rng: &mut SplitMix64) -> Mapped {
    let memory = memory();
    memory.map(0, pattern_bytes(300));
    memory.map(u64::MAX - 0xfff, pattern_bytes(4096));
    for _ in 0..rng.below(6) {
        let states = [PageState::Absent, PageState::ReadOnly, PageState::Missing, PageState::AbsentTimes(2)];
        let base = [A, B, C, D, R, F][rng.below(6) as usize];
        memory.set_page(base + rng.below(16) * 4096, states[rng.below(4) as usize]);
    }
    memory
}

fn any_address(rng: &mut SplitMix64) -> u64 {
    let base = [A, B, C, D, R, F, 0, u64::MAX - 0xfff][rng.below(8) as usize];
    let offset = rng.below(0x2400);
    base.wrapping_add(if rng.chance(1 << 15) { offset & !63 } else { offset })
}

/// A descriptor that often gets past the checks: a known opcode, addresses near memory, sane sizes, and then
/// some random bytes.
fn any_descriptor(rng: &mut SplitMix64) -> Descriptor {
    let mut d = Descriptor::default();
    if rng.chance(1 << 13) {
        d.0.fill_with(|| rng.next() as u8);
        return d;
    }
    let op = Opcode::ALL[rng.below(Opcode::ALL.len() as u64) as usize];
    let mut flags = flag::RECORD_VALID | flag::REQUEST_RECORD;
    if rng.chance(1 << 14) {
        flags |= 1 << rng.below(24);
    }
    d.set_operation(op as u8, flags);
    d.set_field(at::RECORD, (any_address(rng) & !31).to_le_bytes());
    let reads_source = !matches!(op, Opcode::Noop | Opcode::Drain | Opcode::CacheFlush);
    if reads_source {
        d.set_field(at::SOURCE, any_address(rng).to_le_bytes());
    }
    if !matches!(op, Opcode::Noop | Opcode::Drain | Opcode::CrcGen | Opcode::DifCheck | Opcode::Batch) {
        d.set_field(at::DESTINATION, any_address(rng).to_le_bytes());
    }
    let size = match rng.below(5) {
        0 => rng.below(40),
        1 => rng.below(0x2000) & !7,
        2 => 520 * rng.below(9),
        3 => 512 * rng.below(40),
        _ => rng.next() >> rng.below(64),
    };
    if !matches!(op, Opcode::Noop | Opcode::Drain) {
        d.set_field(at::SIZE, (size as u32).to_le_bytes());
    }
    match op {
        Opcode::Dualcast | Opcode::CreateDelta => {
            d.set_field(at::SPECIFIC, any_address(rng).to_le_bytes());
        }
        Opcode::ApplyDelta => {
            d.set_field(at::DELTA_SIZE, (rng.below(20) as u32 * 10).to_le_bytes());
        }
        Opcode::DifCheck | Opcode::DifInsert | Opcode::DifStrip | Opcode::DifUpdate => {
            d.set_field(at::DIF_FLAGS, [rng.below(16) as u8]);
            // No check of guard or reference tag, and an application tag that is masked.
            let source = if op == Opcode::DifInsert { 0 } else { 0x60 };
            d.set_field(at::DIF_SOURCE_FLAGS, [source]);
        }
        _ => {}
    }
    if op == Opcode::CreateDelta {
        d.set_field(at::DELTA_MAX, (80 + rng.below(20) as u32 * 10).to_le_bytes());
    }
    if rng.chance(1 << 14) {
        let byte = [rng.next() as u8];
        d.set_field(rng.below(64) as usize, byte);
    }
    d
}

#[test]
fn no_descriptor_does_any_harm() {
    let seed = 0x0004_d5a0;
    println!("seed {seed:#x}");
    let mut rng = SplitMix64::new(seed);
    let mut executor = Executor::new();
    let mut seen = std::collections::BTreeSet::new();
    let mut memory = memory();
    let mut personality = Personality::v1();
    for round in 0..rounds(200_000) {
        if round % 2000 == 0 {
            memory = any_memory(&mut rng);
            personality = any_personality(&mut rng);
        }
        let record = executor.execute(&personality, &any_descriptor(&mut rng), &memory);
        assert_ne!(record.status(), 0);
        seen.insert(record.status());
    }
    for expected in [0x01, 0x03, 0x83, 0x09, 0x10, 0x11, 0x12, 0x13, 0x15, 0x16, 0x17, 0x1c, 0x07] {
        assert!(seen.contains(&expected), "status {expected:#x} never came up: {seen:x?}");
    }
}

#[test]
fn no_plan_makes_the_queue_hang() {
    let mut rng = SplitMix64::new(0x0004_d5a1);
    for seed in 0..rounds(1500) {
        let plan = if seed % 2 == 0 { FaultPlan::random(seed) } else { FaultPlan::hostile(seed) };
        let memory = any_memory(&mut rng);
        let config = if rng.chance(1 << 15) {
            DeviceConfig::shared(any_personality(&mut rng), 16, 12)
        } else {
            DeviceConfig::dedicated(any_personality(&mut rng), 16)
        };
        let mut device = Device::new(config.with_faults(plan), memory.clone());
        for _ in 0..3 {
            let client = device.open().expect("the one before is closed");
            for _ in 0..40 {
                let d = any_descriptor(&mut rng);
                if rng.chance(1 << 15) {
                    let list: Vec<u8> = (0..4).flat_map(|_| any_descriptor(&mut rng).0).collect();
                    memory.set_bytes(D, &list);
                }
                match device.call(client, &[d, any_descriptor(&mut rng)], rng.chance(1 << 15)) {
                    Ok(_) | Err(_) => device.step(),
                };
            }
            assert!(device.run_to_rest(20_000), "seed {seed}");
            device.begin_close(client);
            assert!(device.run_to_rest(20_000), "seed {seed}");
            assert!(device.is_closed(client), "seed {seed}");
        }
    }
}

/// With the survivable faults, a driver that does the simplest right thing ends with the right bytes: it
/// clears the record, submits, waits, and copies by hand whatever did not succeed after a close.
#[test]
fn survivable_plans_can_be_survived() {
    let mut by_device = 0;
    for seed in 0..rounds(2000) {
        let memory = memory();
        let config = DeviceConfig::shared(Personality::v1(), 16, 12).with_faults(FaultPlan::random(seed));
        let mut device = Device::new(config, memory.clone());
        for round in 0..8u64 {
            let client = device.open().expect("shared");
            let (from, to) = (A + round * 0x1000, B + round * 0x1000);
            assert!(memory.set_bytes(R, &[0]));
            let accepted = device.submit(client, &descriptor(0x03, from, to, 0x1000, R));
            for _ in 0..200 {
                device.step();
            }
            let status = memory.bytes(R, 1).expect("mapped")[0];
            device.begin_close(client);
            for _ in 0..200 {
                device.step();
            }
            assert!(device.is_closed(client), "seed {seed}");
            if status == 1 {
                assert_eq!(accepted, Ok(Submit::Accepted));
                by_device += 1;
            } else {
                assert!(memory.set_bytes(to, &memory.bytes(from, 0x1000).expect("mapped")));
            }
        }
        assert_eq!(memory.bytes(B, 0x8000), memory.bytes(A, 0x8000), "seed {seed}");
    }
    assert!(by_device > 1000);
}
