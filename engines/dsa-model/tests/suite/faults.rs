//! Every kind of fault happens when it is planned, and only then.

use crate::common::*;
use dsa_model::counters::Counters;
use dsa_model::device::{CallError, ClientId, Device, DeviceConfig, State, Step, Submit};
use dsa_model::faults::{ALWAYS, Fault, FaultPlan, Offset, When};
use dsa_model::memory::Mapped;
use dsa_model::personality::Personality;
use engine_dsa::wire::{Descriptor, at, status};

/// A device whose submission 0 has this fault.
fn with_fault(fault: Fault) -> (Device, ClientId, Mapped) {
    with_plan(FaultPlan::seeded(11).with(When::number(0), fault))
}

fn with_plan(plan: FaultPlan) -> (Device, ClientId, Mapped) {
    let memory = memory();
    let mut device =
        Device::new(DeviceConfig::shared(Personality::v1(), 16, 16).with_faults(plan), memory.clone());
    let client = device.open().expect("shared");
    (device, client, memory)
}

fn copy(slot: u64) -> Descriptor {
    descriptor(0x03, A, B + slot * 0x2000, 0x2000, R + slot * 32)
}

fn submit(device: &mut Device, client: ClientId, d: &Descriptor) {
    assert_eq!(device.submit(client, d), Ok(Submit::Accepted));
}

fn status_of(memory: &Mapped, slot: u64) -> u8 {
    record(memory, R + slot * 32)[0]
}

/// Runs copies 0 and 1 and tells what happened; copy 1 has no fault planned.
fn run_two(fault: Fault) -> (Counters, Mapped) {
    let (mut device, client, memory) = with_fault(fault);
    submit(&mut device, client, &copy(0));
    submit(&mut device, client, &copy(1));
    assert!(device.run_to_rest(1000));
    (device.counters(), memory)
}

fn is_copied(memory: &Mapped, slot: u64) -> bool {
    memory.bytes(B + slot * 0x2000, 0x2000) == memory.bytes(A, 0x2000)
}

#[test]
fn a_page_fault_on_the_source_at_a_byte() {
    let (counters, memory) =
        run_two(Fault::PageFault { operand: 0, offset: Offset::At(0x1234), lower: false });
    let cr = record(&memory, R);
    assert_eq!((cr[0], cr[1], u32_at(&cr, 4)), (status::PAGE_FAULT, 0, 0x1234));
    assert_eq!(u64_at(&cr, 8) & !0xfff, A + 0x1000);
    assert_eq!(memory.bytes(B, 0x1234), memory.bytes(A, 0x1234));
    assert_eq!(memory.bytes(B + 0x1234, 1), Some(vec![0]));
    assert_eq!(counters.page_faults, 1);
    assert_eq!(status_of(&memory, 1), status::SUCCESS);
}

#[test]
fn a_page_fault_on_the_destination_is_a_write_and_may_be_told_early() {
    let mut told = std::collections::BTreeSet::new();
    let mut low_bits = std::collections::BTreeSet::new();
    let mut further = false;
    for seed in 0..40 {
        let fault = Fault::PageFault { operand: 1, offset: Offset::At(0x1800), lower: true };
        let (mut device, client, memory) = with_plan(FaultPlan::seeded(seed).with(When::number(0), fault));
        submit(&mut device, client, &copy(0));
        assert!(device.run_to_rest(10));
        let cr = record(&memory, R);
        assert_eq!(cr[0], status::PAGE_FAULT | status::WRITE_FAULT);
        let n = u32_at(&cr, 4) as usize;
        assert!(n <= 0x1800);
        assert_eq!(memory.bytes(B, n), memory.bytes(A, n));
        further |= n < 0x17f0 && memory.bytes(B + n as u64, 8) == memory.bytes(A + n as u64, 8);
        assert_eq!(memory.bytes(B + 0x1800, 8), Some(vec![0; 8]));
        told.insert(n);
        low_bits.insert(u64_at(&cr, 8) & 0xfff);
        assert_eq!(u64_at(&cr, 8) & !0xfff, B + 0x1000);
    }
    assert!(told.len() > 20 && low_bits.len() > 20 && further);
}

#[test]
fn a_lowered_fault_of_a_checksum_tells_the_sum_of_what_it_tells_completed() {
    for seed in 0..40 {
        let fault = Fault::PageFault { operand: 0, offset: Offset::Random, lower: true };
        let (mut device, client, memory) = with_plan(FaultPlan::seeded(seed).with(When::number(0), fault));
        submit(&mut device, client, &descriptor(0x10, A, 0, 0x2000, R));
        assert!(device.run_to_rest(10));
        let cr = record(&memory, R);
        assert_eq!(cr[0], status::PAGE_FAULT);
        let n = u32_at(&cr, 4) as usize;
        assert_eq!(u32_at(&cr, 16), dsa_model::crc::crc32c(0, &pattern_bytes(n)), "seed {seed}");
    }
}

#[test]
fn a_move_goes_backward_and_says_so_in_a_fault() {
    let plan = FaultPlan::seeded(5)
        .with(When::number(0), Fault::Backward)
        .with(When::number(0), Fault::PageFault { operand: 0, offset: Offset::At(0x10), lower: false });
    let (mut device, client, memory) = with_plan(plan);
    submit(&mut device, client, &copy(0));
    assert!(device.run_to_rest(10));
    let cr = record(&memory, R);
    assert_eq!((cr[0], cr[1], u32_at(&cr, 4)), (status::PAGE_FAULT, 1, 0x1000));
    assert_eq!(memory.bytes(B + 0x1000, 0x1000), memory.bytes(A + 0x1000, 0x1000));
    assert_eq!(memory.bytes(B, 0x1000), Some(vec![0; 0x1000]));
    assert_eq!(device.counters().backward, 1);
}

#[test]
fn an_overlapping_move_that_is_stopped_at_a_byte_tells_all_that_it_wrote() {
    const F: u64 = 0x2000_0000;
    for stop in [0, 1, 0x10, 0x123, 0xfff, 0x1000, 0x1800, 0x2ffe, 0x2fff] {
        let fault = Fault::PageFault { operand: 1, offset: Offset::At(stop), lower: false };
        let (mut device, client, memory) = with_plan(FaultPlan::seeded(5).with(When::number(0), fault));
        memory.map(F, pattern_bytes(0x4000));
        let mut d = descriptor(0x03, F, F + 0x123, 0x3000, R);
        submit(&mut device, client, &d);
        assert!(device.run_to_rest(10));
        let cr = record(&memory, R);
        assert_eq!((cr[0], cr[1]), (status::PAGE_FAULT | status::WRITE_FAULT, 1));
        let n = u32_at(&cr, 4);
        assert_eq!(u64::from(n), 0x3000 - 1 - u64::from(stop), "all behind the byte");
        // What is left, from the same beginning, gives what the whole move would have given.
        d.set_field(engine_dsa::wire::at::SIZE, (0x3000 - n).to_le_bytes());
        assert!(memory.set_bytes(R, &[0]));
        submit(&mut device, client, &d);
        assert!(device.run_to_rest(10));
        assert_eq!(status_of(&memory, 0), status::SUCCESS);
        assert_eq!(memory.bytes(F + 0x123, 0x3000), Some(pattern_bytes(0x3000)), "{stop:#x}");
    }
}

#[test]
fn any_status_with_and_without_part_of_the_work() {
    for code in 0x10..=0x22 {
        let (_, memory) = run_two(Fault::Status { code, partial: false });
        assert_eq!(status_of(&memory, 0), code);
        assert_eq!(memory.bytes(B, 0x2000), Some(vec![0; 0x2000]));
        assert!(is_copied(&memory, 1));
    }
    let (counters, memory) = run_two(Fault::Status { code: status::HARDWARE, partial: true });
    assert!(!is_copied(&memory, 0) && memory.bytes(B, 8) == memory.bytes(A, 8));
    assert_eq!(counters.statuses, 1);
}

#[test]
fn a_record_is_lost_with_and_without_the_work() {
    for executed in [true, false] {
        let (counters, memory) = run_two(Fault::Lost { executed });
        assert_eq!((status_of(&memory, 0), status_of(&memory, 1)), (0, status::SUCCESS));
        assert_eq!(is_copied(&memory, 0), executed);
        assert_eq!(counters.lost_records, 1);
    }
}

#[test]
fn a_record_comes_late_and_a_descriptor_starts_late() {
    for (fault, early) in [(Fault::DelayRecord(9), true), (Fault::Stall(9), false)] {
        let (mut device, client, memory) = with_fault(fault);
        submit(&mut device, client, &copy(0));
        for _ in 0..8 {
            device.step();
            assert_eq!(status_of(&memory, 0), 0);
            assert_eq!(is_copied(&memory, 0), early);
        }
        device.step();
        device.step();
        assert_eq!(status_of(&memory, 0), status::SUCCESS);
        assert!(is_copied(&memory, 0));
        assert_eq!(device.counters().delayed + device.counters().stalled, 1);
    }
}

#[test]
fn a_record_is_written_twice_unless_its_client_closes() {
    for close in [false, true] {
        let (mut device, client, memory) = with_fault(Fault::Duplicate(5));
        submit(&mut device, client, &copy(0));
        assert_eq!(device.step(), Step::Ran);
        assert_eq!(status_of(&memory, 0), status::SUCCESS);
        assert!(memory.set_bytes(R, &[0]));
        if close {
            device.begin_close(client);
            assert!(device.is_closed(client));
        }
        assert!(device.run_to_rest(10));
        assert_eq!(status_of(&memory, 0), if close { 0 } else { status::SUCCESS });
        assert_eq!(device.counters().duplicated, u64::from(!close));
    }
}

#[test]
fn scattered_writes_end_in_the_same_memory_and_the_same_faults() {
    for seed in 0..20 {
        let plan = FaultPlan::seeded(seed)
            .with(When::default(), Fault::Scatter)
            .with(When::number(1), Fault::PageFault { operand: 1, offset: Offset::Random, lower: false });
        let (mut device, client, memory) = with_plan(plan);
        submit(&mut device, client, &copy(0));
        submit(&mut device, client, &copy(1));
        assert!(device.run_to_rest(10));
        assert!(is_copied(&memory, 0), "seed {seed}");
        let n = u32_at(&record(&memory, R + 32), 4) as usize;
        assert_eq!(memory.bytes(B + 0x2000, n), memory.bytes(A, n));
        assert_eq!(memory.bytes(B + 0x2000 + n as u64, 1), Some(vec![0]));
        assert_eq!(device.counters().scattered, 2);
    }
}

#[test]
fn one_bit_is_flipped() {
    let (counters, memory) = run_two(Fault::Corrupt);
    let (got, expected) = (memory.bytes(B, 0x2000).expect("mapped"), pattern_bytes(0x2000));
    let bits: u32 = got.iter().zip(&expected).map(|(a, b)| (a ^ b).count_ones()).sum();
    assert_eq!((bits, counters.corrupted), (1, 1));
    assert_eq!(status_of(&memory, 0), status::SUCCESS);
}

#[test]
fn retry_some_times_and_for_ever() {
    let (mut device, client, _) = with_fault(Fault::Retry(3));
    for _ in 0..3 {
        assert_eq!(device.submit(client, &copy(0)), Ok(Submit::Retry));
    }
    submit(&mut device, client, &copy(0));
    let (mut device, client, _) = with_fault(Fault::Retry(u32::MAX));
    for _ in 0..1000 {
        assert_eq!(device.submit(client, &copy(0)), Ok(Submit::Retry));
    }
    device.reset();
    submit(&mut device, client, &copy(0));
}

#[test]
fn a_call_is_refused_or_cut_short() {
    let (mut device, client, _) = with_fault(Fault::Refuse(libc::EPERM));
    let calls = [copy(0), copy(1), copy(2)];
    assert_eq!(device.call(client, &calls, true), Err(CallError::Refused(libc::EPERM)));
    assert_eq!(device.call(client, &calls, true), Ok(3));
    let (mut device, client, _) = with_fault(Fault::Short(2));
    assert_eq!(device.call(client, &calls, true), Ok(2));
    assert_eq!((device.counters().shortened, device.occupancy()), (1, 2));
}

#[test]
fn a_halt_makes_everything_vanish_or_fail_until_a_reset() {
    for complete in [false, true] {
        let (mut device, client, memory) = with_fault(Fault::Halt { complete, recover: 50 });
        submit(&mut device, client, &copy(0));
        submit(&mut device, client, &copy(1));
        device.step();
        assert_eq!(device.state(), State::Halted);
        let told = if complete { status::HARDWARE } else { 0 };
        assert_eq!((status_of(&memory, 0), status_of(&memory, 1)), (told, told));
        assert_eq!(device.submit(client, &copy(2)), Ok(Submit::Retry));
        assert!(device.run_to_rest(100));
        assert_eq!(device.state(), State::Enabled, "it recovers by itself");
        submit(&mut device, client, &copy(2));
        assert!(device.run_to_rest(10));
        assert_eq!(status_of(&memory, 2), status::SUCCESS);
        assert_eq!(device.counters().vanished, if complete { 0 } else { 2 });
    }
    // By hand, without an end; a dedicated queue gives no sign of it.
    let memory = memory();
    let mut device = Device::new(DeviceConfig::dedicated(Personality::v1(), 8), memory.clone());
    let client = device.open().expect("the first");
    device.halt(false, None);
    submit(&mut device, client, &copy(0));
    assert!(device.run_to_rest(1000));
    assert_eq!((device.counters().lost, status_of(&memory, 0)), (1, 0));
    device.reset();
    submit(&mut device, client, &copy(0));
    assert!(device.run_to_rest(10));
    assert_eq!(status_of(&memory, 0), status::SUCCESS);
}

#[test]
fn a_disabled_queue_says_retry_until_it_is_enabled() {
    let (mut device, client, memory) = with_fault(Fault::Disable { recover: 20 });
    submit(&mut device, client, &copy(0));
    submit(&mut device, client, &copy(1));
    device.step();
    assert_eq!(device.state(), State::Disabled);
    assert_eq!(device.submit(client, &copy(2)), Ok(Submit::Retry));
    assert!(device.run_to_rest(100));
    assert_eq!((device.state(), device.counters().disables), (State::Enabled, 1));
    assert_eq!((status_of(&memory, 0), status_of(&memory, 1)), (0, 0));
}

#[test]
fn a_reset_with_work_under_way_and_a_write_after_it() {
    for straggler in [None, Some(7)] {
        let (mut device, client, memory) = with_fault(Fault::Reset { straggler });
        submit(&mut device, client, &copy(0));
        submit(&mut device, client, &copy(1));
        device.step();
        device.begin_close(client);
        assert_eq!(device.is_closed(client), straggler.is_none());
        assert_eq!(status_of(&memory, 0), 0);
        assert!(device.run_to_rest(100));
        assert!(device.is_closed(client));
        assert_eq!(is_copied(&memory, 0), straggler.is_some());
        assert_eq!(status_of(&memory, 0), u8::from(straggler.is_some()));
        assert_eq!(status_of(&memory, 1), 0);
        assert_eq!(device.counters().resets, 1);
    }
}

#[test]
fn a_reset_may_leave_fewer_operations() {
    let plan = FaultPlan { op_cap_after_reset: Some([1, 0, 0, 0]), ..FaultPlan::none() };
    let (mut device, client, memory) = with_plan(plan);
    assert!(device.personality().supports(0x03));
    device.reset();
    assert!(!device.personality().supports(0x03));
    submit(&mut device, client, &copy(0));
    assert!(device.run_to_rest(10));
    assert_eq!(status_of(&memory, 0), status::BAD_OPCODE);
}

#[test]
fn entries_are_reordered() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let (mut device, client, memory) = with_plan(FaultPlan::seeded(seed).with_reorder(ALWAYS));
        for slot in 0..4 {
            submit(&mut device, client, &copy(slot));
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            assert_eq!(device.step(), Step::Ran);
            order.extend((0..4).find(|slot| status_of(&memory, *slot) != 0 && !order.contains(slot)));
        }
        orders.insert(order);
    }
    assert!(orders.len() > 8, "only {} orders", orders.len());
}

#[test]
fn what_means_nothing_is_poisoned() {
    let mut completed = std::collections::BTreeSet::new();
    for seed in 0..10 {
        let (mut device, client, memory) = with_plan(FaultPlan::seeded(seed));
        submit(&mut device, client, &copy(0));
        assert!(device.run_to_rest(10));
        completed.insert(u32_at(&record(&memory, R), 4));
    }
    assert!(completed.len() > 5, "bytes completed mean nothing on success");
}

#[test]
fn rules_are_matched_by_number_opcode_address_chance_and_limit() {
    let fault = Fault::Status { code: status::HARDWARE, partial: false };
    let failed = |when: When| {
        let (mut device, client, memory) = with_plan(FaultPlan::seeded(9).with(when, fault));
        for slot in 0..8 {
            let mut d = copy(slot % 4);
            d.set_field(at::RECORD, (R + slot * 32).to_le_bytes());
            if slot % 2 == 1 {
                d.set_operation(0x05, d.flags());
            }
            submit(&mut device, client, &d);
        }
        assert!(device.run_to_rest(20));
        (0..8).filter(|slot| status_of(&memory, *slot) == status::HARDWARE).collect::<Vec<_>>()
    };
    assert_eq!(failed(When::number(3)), [3]);
    assert_eq!(failed(When::opcode(0x05)), [1, 3, 5, 7]);
    assert_eq!(failed(When { addresses: Some(B + 0x4000..B + 0x4001), ..When::default() }), [2, 6]);
    assert_eq!(failed(When { limit: 3, ..When::default() }), [0, 1, 2]);
    assert_eq!(failed(When::chance(0)), Vec::<u64>::new());
    let some = failed(When::chance(ALWAYS / 2));
    assert!(!some.is_empty() && some.len() < 8);
    assert_eq!(some, failed(When::chance(ALWAYS / 2)), "the same seed, the same faults");
}

#[test]
fn random_plans_cover_every_survivable_kind_and_shrink() {
    let mut kinds = std::collections::HashSet::new();
    for seed in 0..2000 {
        let plan = FaultPlan::random(seed);
        assert_eq!(plan, FaultPlan::random(seed));
        for rule in &plan.rules {
            kinds.insert(std::mem::discriminant(&rule.fault));
            let lies = match rule.fault {
                Fault::Corrupt | Fault::Duplicate(_) => true,
                Fault::Status { code, .. } => matches!(code & status::CODE, 0..=3),
                _ => false,
            };
            assert!(!lies, "seed {seed}: {rule:?}");
        }
        let less = plan.clone().without(0);
        assert_eq!(less.rules.as_slice(), plan.rules.get(1..).unwrap_or_default());
    }
    assert_eq!(kinds.len(), 14);
    assert!((0..100).any(|seed| FaultPlan::hostile(seed).rules.iter().any(|r| r.fault == Fault::Corrupt)));
}
