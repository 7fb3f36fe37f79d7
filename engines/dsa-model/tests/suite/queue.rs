//! The queue by itself: acceptance, loss, drains, faults that are resumed, batches under a plan.

use crate::common::*;
use dsa_model::device::{Busy, ClientId, Device, DeviceConfig, Gone, Step, Submit};
use dsa_model::faults::{Fault, FaultPlan, Offset, UNTIL_RELEASED, When};
use dsa_model::memory::{Mapped, PageState};
use dsa_model::personality::Personality;
use engine_dsa::wire::{Descriptor, at, flag, gen_cap, status};

fn device(config: DeviceConfig, memory: &Mapped) -> (Device, ClientId) {
    let mut device = Device::new(config, memory.clone());
    let client = device.open().expect("the first client");
    (device, client)
}

fn noop(slot: u64) -> Descriptor {
    descriptor(0x00, 0, 0, 0, R + slot * 32)
}

#[test]
fn a_shared_queue_says_retry_above_its_threshold() {
    let memory = memory();
    let (mut device, client) = device(DeviceConfig::shared(Personality::v1(), 4, 3), &memory);
    for slot in 0..3 {
        assert_eq!(device.submit(client, &noop(slot)), Ok(Submit::Accepted));
    }
    assert_eq!(device.submit(client, &noop(3)), Ok(Submit::Retry));
    assert_eq!(device.step(), Step::Ran);
    assert_eq!(device.submit(client, &noop(3)), Ok(Submit::Accepted));
    assert_eq!(device.submit(client, &noop(4)), Ok(Submit::Retry));
    assert!(device.run_to_rest(10));
    assert_eq!((0..5).map(|slot| record(&memory, R + slot * 32)[0]).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
    assert_eq!((device.counters().retried, device.counters().lost), (2, 0));
}

#[test]
fn a_dedicated_queue_loses_silently_what_it_has_no_room_for() {
    let memory = memory();
    let (mut device, client) = device(DeviceConfig::dedicated(Personality::v1(), 4), &memory);
    for slot in 0..5 {
        assert_eq!(device.submit(client, &noop(slot)), Ok(Submit::Accepted));
    }
    assert!(device.run_to_rest(10));
    assert_eq!(device.counters().lost, 1);
    assert_eq!((0..5).map(|slot| record(&memory, R + slot * 32)[0]).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
}

#[test]
fn a_dedicated_queue_has_one_client_and_a_shared_one_many() {
    let memory = memory();
    let (mut one, client) = device(DeviceConfig::dedicated(Personality::v1(), 4), &memory);
    assert_eq!(one.open(), Err(Busy));
    one.close(client);
    assert_eq!(one.submit(client, &noop(0)), Err(Gone));
    assert!(one.open().is_ok());
    let (mut many, _) = device(DeviceConfig::shared(Personality::v1(), 4, 4), &memory);
    assert!(many.open().is_ok());
}

#[test]
fn the_resume_chain_ends_in_the_same_memory_from_wherever_it_is_resumed() {
    for lowered in [None, Some(0u32), Some(1), Some(63), Some(4095), Some(8191)] {
        let memory = memory();
        memory.map(F + 0x2000, (0x2000..0x3000).map(pattern).collect());
        memory.set_page(F + 0x2000, PageState::Absent);
        let plan = match lowered {
            None => FaultPlan::none(),
            Some(n) => FaultPlan::seeded(7)
                .with(When::number(0), Fault::PageFault { operand: 0, offset: Offset::At(n), lower: false }),
        };
        let (mut device, client) =
            device(DeviceConfig::dedicated(Personality::v1(), 8).with_faults(plan), &memory);
        let mut d = descriptor(0x03, F, B, 0x3000, R);
        let mut resumed = 0;
        loop {
            assert!(memory.set_bytes(R, &[0]));
            assert_eq!(device.submit(client, &d), Ok(Submit::Accepted));
            assert!(device.run_to_rest(10));
            let cr = record(&memory, R);
            if cr[0] == status::SUCCESS {
                break;
            }
            assert_eq!((cr[0], cr[1]), (status::PAGE_FAULT, 0));
            let (n, page) = (u32_at(&cr, 4), u64_at(&cr, 8) & !0xfff);
            if resumed == 0 {
                assert_eq!(n, lowered.unwrap_or(0x2000));
                assert_eq!(page, (F + u64::from(n)) & !0xfff);
            }
            memory.touch(page, false);
            for field in [at::SOURCE, at::DESTINATION] {
                d.set_field(field, (u64::from_le_bytes(d.field(field)) + u64::from(n)).to_le_bytes());
            }
            d.set_field(at::SIZE, (d.size() - n).to_le_bytes());
            resumed += 1;
            assert!(resumed < 4);
        }
        assert!(resumed > 0);
        assert_eq!(memory.bytes(B, 0x3000), memory.bytes(F, 0x3000), "lowered to {lowered:?}");
    }
}

#[test]
fn an_overlapping_move_that_faults_backward_is_resumed_with_a_smaller_size_alone() {
    let memory = memory();
    memory.map(0x2000_0000, pattern_bytes(0x4000));
    memory.set_page(0x2000_1000, PageState::Absent);
    let (mut device, client) = device(DeviceConfig::dedicated(Personality::v1(), 8), &memory);
    let mut d = descriptor(0x03, 0x2000_0000, 0x2000_0123, 0x3000, R);
    assert_eq!(device.submit(client, &d), Ok(Submit::Accepted));
    assert!(device.run_to_rest(10));
    let cr = record(&memory, R);
    assert_eq!((cr[0] & status::CODE, cr[1]), (status::PAGE_FAULT, 1));
    assert_eq!(u64_at(&cr, 8) & !0xfff, 0x2000_1000);
    let n = u32_at(&cr, 4);
    assert!(n > 0, "the pages behind the fault were moved");
    assert!(memory.touch(0x2000_1000, true));
    d.set_field(at::SIZE, (0x3000 - n).to_le_bytes());
    assert!(memory.set_bytes(R, &[0]));
    assert_eq!(device.submit(client, &d), Ok(Submit::Accepted));
    assert!(device.run_to_rest(10));
    assert_eq!(record(&memory, R)[0], status::SUCCESS);
    assert_eq!(memory.bytes(0x2000_0123, 0x3000), Some(pattern_bytes(0x3000)));
}

#[test]
fn block_on_fault_pages_in_or_fails() {
    let memory = memory();
    memory.set_page(A + 0x1000, PageState::Absent);
    memory.set_page(A + 0x5000, PageState::Missing);
    let personality = Personality { block_on_fault: true, ..Personality::v1() };
    let (mut device, client) = device(DeviceConfig::dedicated(personality, 8), &memory);
    let mut run = |source: u64, size: u32, flags: u32| {
        let mut d = descriptor(0x03, source, B, size, R);
        d.set_operation(0x03, d.flags() | flags);
        assert_eq!(device.submit(client, &d), Ok(Submit::Accepted));
        assert!(device.run_to_rest(10));
        record(&memory, R)
    };
    assert_eq!(run(A, 0x2000, 0)[0], status::PAGE_FAULT);
    assert_eq!(run(A, 0x2000, flag::BLOCK_ON_FAULT)[0], status::SUCCESS);
    let cr = run(A + 0x4000, 0x3000, flag::BLOCK_ON_FAULT);
    assert_eq!((cr[0], u32_at(&cr, 4)), (status::PAGE_REQUEST_FAILED, 0x1000));
    let cr = run(0x6000_0000, 64, flag::BLOCK_ON_FAULT);
    assert_eq!((cr[0], u32_at(&cr, 4)), (status::PAGE_REQUEST_FAILED, 0));
}

#[test]
fn capabilities_decide_what_is_taken() {
    let run = |personality: Personality, opcode: u8, flags: u32, destination: u64| {
        let memory = memory();
        let (mut device, client) = device(DeviceConfig::dedicated(personality, 8), &memory);
        let mut d = descriptor(opcode, A, destination, 0x100, R);
        d.set_operation(opcode, d.flags() | flags);
        assert_eq!(device.submit(client, &d), Ok(Submit::Accepted));
        assert!(device.run_to_rest(10));
        let cr = record(&memory, R);
        (cr[0], u32_at(&cr, 16))
    };
    let without = |bits: u64| Personality { gen_cap: Personality::v1().gen_cap & !bits, ..Personality::v1() };
    assert_eq!(
        run(Personality::v1(), 0x03, flag::BLOCK_ON_FAULT, B),
        (status::BAD_FLAGS, flag::BLOCK_ON_FAULT)
    );
    assert_eq!(run(without(gen_cap::OVERLAP), 0x03, 0, A + 1), (status::OVERLAP, 0));
    assert_eq!(run(without(gen_cap::OVERLAP), 0x03, 0, A + 0x100).0, status::SUCCESS);
    let cc = flag::CACHE_CONTROL;
    assert_eq!(run(without(gen_cap::CACHE_CONTROL), 0x03, cc, B), (status::BAD_FLAGS, cc));
    assert_eq!(run(Personality::v1_restricted(), 0x01, 0, 0), (status::BAD_OPCODE, 0));
    assert_eq!(run(Personality::v1(), 0x0a, 0, 0), (status::BAD_OPCODE, 0));
    assert_eq!(run(Personality::v2(), 0x0a, 0, 0), (status::SUCCESS, 0));
    assert_eq!(run(Personality::v1(), 0x04, 1 << 18, B), (status::BAD_FLAGS, 1 << 18));
    assert_eq!(run(Personality::v2(), 0x04, 1 << 18, B), (status::SUCCESS, 0));
}

#[test]
fn a_drain_ends_after_what_was_accepted_before() {
    let memory = memory();
    let plan = FaultPlan::seeded(3)
        .with(When::number(0), Fault::DelayRecord(20))
        .with(When::number(1), Fault::Stall(30))
        .with_reorder(dsa_model::faults::ALWAYS);
    let (mut device, client) =
        device(DeviceConfig::shared(Personality::v1(), 8, 8).with_faults(plan), &memory);
    for slot in 0..2 {
        assert_eq!(device.submit(client, &noop(slot)), Ok(Submit::Accepted));
    }
    assert_eq!(device.submit(client, &descriptor(0x02, 0, 0, 0, R + 64)), Ok(Submit::Accepted));
    assert_eq!(device.submit(client, &noop(3)), Ok(Submit::Accepted));
    let mut order = Vec::new();
    for _ in 0..100 {
        device.step();
        for slot in 0..4u64 {
            if record(&memory, R + slot * 32)[0] != 0 && !order.contains(&slot) {
                order.push(slot);
            }
        }
    }
    assert_eq!(order, [3, 0, 1, 2]);
}

#[test]
fn held_entries_go_when_they_are_released() {
    let memory = memory();
    let plan = FaultPlan::seeded(3).with(When::default(), Fault::Stall(UNTIL_RELEASED));
    let (mut device, client) =
        device(DeviceConfig::dedicated(Personality::v1(), 8).with_faults(plan), &memory);
    assert_eq!(device.submit(client, &noop(0)), Ok(Submit::Accepted));
    assert_eq!(device.submit(client, &noop(1)), Ok(Submit::Accepted));
    assert!(device.run_to_rest(100));
    assert_eq!(device.occupancy(), 2);
    assert!(device.release());
    assert_eq!(device.step(), Step::Ran);
    assert_eq!((record(&memory, R)[0], record(&memory, R + 32)[0]), (1, 0));
    assert!(device.release());
    assert!(!device.release());
    assert_eq!(device.step(), Step::Ran);
    assert_eq!(device.step(), Step::Idle);
}

/// A batch of moves without fences, each to a place of its own, and one behind a fence that copies the sum
/// of them: whatever the order, the fenced one sees all.
#[test]
fn members_go_in_random_order_but_a_fence_holds() {
    let mut orders = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let memory = memory();
        let plan = FaultPlan::seeded(seed).with_reorder(dsa_model::faults::ALWAYS);
        let (mut device, client) =
            device(DeviceConfig::dedicated(Personality::v1(), 8).with_faults(plan), &memory);
        let mut list = Vec::new();
        for i in 0..4u64 {
            list.extend(descriptor(0x03, A + i, B + i * 8, 8, R + 32 + i * 32).0);
        }
        let mut fenced = descriptor(0x03, B, C, 32, R + 32 * 5);
        fenced.set_operation(0x03, fenced.flags() | flag::FENCE);
        list.extend(fenced.0);
        assert!(memory.set_bytes(D, &list));
        assert_eq!(device.submit(client, &descriptor(0x01, D, 0, 5, R)), Ok(Submit::Accepted));
        let mut order = Vec::new();
        while record(&memory, R)[0] == 0 {
            assert_eq!(device.step(), Step::Ran);
            for i in 0..5u64 {
                if record(&memory, R + 32 + i * 32)[0] != 0 && !order.contains(&i) {
                    order.push(i);
                }
            }
        }
        assert_eq!(order.last(), Some(&4), "seed {seed}");
        assert_eq!(memory.bytes(C, 32), memory.bytes(B, 32), "seed {seed}");
        assert_eq!(u32_at(&record(&memory, R), 4), 5);
        orders.insert(order);
    }
    assert!(orders.len() > 5, "only {} orders", orders.len());
}
