//! The queue against a portal that does as it is told: every status code, credits, full queues, batches,
//! page faults, closing.

#![cfg(test)]

mod script;

use std::collections::BTreeMap;

use async_tx::{Caps, Fault, Op, OpKind, ReadyOp, Seed, Verdict};
use engine_dsa::discover::Mode;
use engine_dsa::portal::PortalError;
use engine_dsa::queue::{Queue, Setup, Usage};
use engine_dsa::wire::{Descriptor, Opcode, at, flag};

use script::{GOOD, Handle, Memory, Record, fenced, harvest, member, plain, queue, ready, setup};

const DIFFERS: Result<Verdict, Fault> =
    Ok(Verdict { p_bad: false, q_bad: false, xor_nonzero: false, differs: true });

/// One operation of every kind that the device does, over blocks 0 to 2, with the CRC in block 3.
fn every_kind(memory: &mut Memory) -> [(Op<'static>, Opcode); 6] {
    let [a, b, c] = [0, 1, 2].map(|i| memory.block(i));
    let (seed, crc) = (Seed::Value(7), memory.part(3 * Memory::BLOCK, 4));
    [
        (Op::Copy { src: a, dst: b }, Opcode::Memmove),
        (Op::Fill { dst: a, byte: 0x5a }, Opcode::Fill),
        (Op::Compare { a, b }, Opcode::Compare),
        (Op::Dualcast { src: a, dst: [b, c] }, Opcode::Dualcast),
        (Op::Crc32c { src: a, seed, crc }, Opcode::CrcGen),
        (Op::CopyCrc32c { src: a, dst: b, seed, crc }, Opcode::CopyCrc),
    ]
}

/// What a status means, by the table of the reference and without the driver's own classes.
fn expected(status: u8) -> (Result<(), Fault>, bool) {
    let device = (Err(Fault::Device(status)), true);
    match status & 0x7f {
        0x01 => (Ok(()), true),
        // Page faults, at an address that is none of the operation's.
        0x03 | 0x04 => (Err(Fault::Declined), true),
        // This operation does not work on this queue.
        0x10..=0x15 | 0x18 | 0x19 | 0x1b..=0x1e => (Err(Fault::Declined), false),
        // These buffers do not.
        0x16 | 0x17 => (Err(Fault::Declined), true),
        _ => device,
    }
}

#[test]
fn every_status_of_every_operation_has_its_fault() {
    let mut memory = Memory::new(4);
    for (op, opcode) in every_kind(&mut memory) {
        for status in 1..=u8::MAX {
            let (mut queue, handle, _) = queue(plain());
            assert_eq!(queue.submit(&[ready(9, op)]), 1);
            assert_eq!(harvest(&mut queue), []);
            Record::new(status).write(&handle.last());
            let (result, stays) = expected(status);
            let got = harvest(&mut queue);
            assert_eq!(got.len(), 1, "{opcode:?} {status:#04x}");
            assert_eq!(got[0].0, 9);
            assert_eq!(got[0].1.map(drop), result, "{opcode:?} {status:#04x}");
            assert_eq!(queue.caps().has(op.kind()), stays, "{opcode:?} {status:#04x}");
            assert_eq!((queue.in_hand(), queue.credits()), (0, 8));
        }
        let (mut queue, _, _) = queue(plain());
        queue.submit(&[ready(0, op)]);
        assert_eq!(harvest(&mut queue), [], "no status, no completion");
    }
}

#[test]
fn descriptors_are_those_of_the_builders_with_cache_control_where_it_is_legal() {
    let mut memory = Memory::new(4);
    for (op, opcode) in every_kind(&mut memory) {
        for control in [true, false] {
            let handle = Handle::default();
            handle.let_close();
            let usage = Usage { cache_control: control, ..Usage::default() };
            let mut queue = Queue::new(handle.portal(), plain(), usage, Default::default(), None).unwrap();
            assert_eq!(queue.submit(&[ready(0, op)]), 1);
            let descriptor = handle.last();
            assert_eq!(descriptor.opcode(), opcode as u8);
            assert_eq!(descriptor.size(), Memory::BLOCK as u32);
            assert!(descriptor.record().is_multiple_of(64));
            let takes_control = !matches!(opcode, Opcode::Compare | Opcode::CrcGen);
            let cache = if control && takes_control { flag::CACHE_CONTROL } else { 0 };
            assert_eq!(descriptor.flags(), flag::RECORD_VALID | flag::REQUEST_RECORD | cache, "{opcode:?}");
        }
    }
}

#[test]
fn a_queue_that_refuses_its_last_kind_has_failed() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let operations = engine_dsa::caps::OpSet::parse("9").unwrap();
    let (mut queue, handle, _) = queue(Setup { operations, ..plain() });
    queue.submit(&[ready(0, op)]);
    Record::new(0x10).write(&handle.last());
    assert_eq!(harvest(&mut queue), [(0, Err(Fault::Device(0x10)))]);
    assert_eq!(queue.caps(), Caps::NONE);
}

#[test]
fn a_fill_repeats_the_byte_and_a_seed_in_memory_is_read_at_submission() {
    let mut memory = Memory::new(2);
    memory.set(4096, &0x1122_3344_u32.to_le_bytes());
    let (dst, seed, crc) = (memory.block(0), memory.part(4096, 4), memory.part(4100, 4));
    let (mut queue, handle, _) = queue(plain());
    let ops = [
        ready(0, Op::Fill { dst, byte: 0xa5 }),
        ready(1, Op::Crc32c { src: dst, seed: Seed::From(seed), crc }),
    ];
    assert_eq!(queue.submit(&ops), 2);
    assert_eq!(handle.script().calls, [2], "one call for all");
    assert_eq!(handle.accepted(0).field::<8>(at::SOURCE), [0xa5; 8]);
    assert_eq!(handle.accepted(1).field::<4>(at::CRC_SEED), 0x1122_3344_u32.to_le_bytes());
    assert_eq!(handle.accepted(1).flags() & flag::CRC_READ_SEED, 0);
    Record::new(1).write(&handle.accepted(0));
    Record::new(1).value(0xcafe_f00d).write(&handle.accepted(1));
    assert_eq!(harvest(&mut queue), [(0, GOOD), (1, GOOD)]);
    drop(queue);
    assert_eq!(memory.get(4100, 4), 0xcafe_f00d_u32.to_le_bytes());
}

#[test]
fn a_comparison_is_judged_by_its_result_alone() {
    let mut memory = Memory::new(2);
    let op = Op::Compare { a: memory.block(0), b: memory.block(1) };
    for (record, result) in [
        (Record::new(1).completed(77), GOOD),
        (Record::new(1).result(1), DIFFERS),
        (Record::new(1).result(1).completed(u32::MAX), DIFFERS),
        (Record::new(1).result(2), Err(Fault::Device(1))),
        (Record::new(2).result(1), Err(Fault::Device(2))),
    ] {
        let (mut queue, handle, _) = queue(plain());
        queue.submit(&[ready(0, op)]);
        record.write(&handle.last());
        assert_eq!(harvest(&mut queue), [(0, result)]);
    }
}

#[test]
fn credits_by_mode_size_and_threshold() {
    for (mode, size, threshold, credits) in [
        (Mode::Dedicated, 128, None, 124),
        (Mode::Dedicated, 16, None, 12),
        (Mode::Dedicated, 8, Some(3), 6),
        (Mode::Dedicated, 2, None, 2),
        (Mode::Dedicated, 1, None, 1),
        (Mode::Dedicated, 0, None, 1),
        (Mode::Shared, 64, Some(60), 60),
        (Mode::Shared, 64, Some(80), 64),
        (Mode::Shared, 64, None, 63),
        (Mode::Shared, 64, Some(0), 63),
        (Mode::Shared, 1, None, 1),
    ] {
        assert_eq!(Setup::credits(mode, size, threshold), credits, "{mode} {size} {threshold:?}");
    }
}

#[test]
fn a_dedicated_queue_never_has_more_than_its_credits_outstanding() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, _) = queue(Setup { credits: 3, ..plain() });
    let ops: Vec<ReadyOp<'_>> = (0..10).map(|i| ready(i, op)).collect();
    assert_eq!(queue.credits(), 3);
    assert_eq!(queue.submit(&ops), 3);
    assert_eq!((queue.credits(), queue.in_hand(), queue.submit(&ops[3..])), (0, 3, 0));
    // Out of order, one by one.
    for (turn, index) in [1, 0, 2, 3].into_iter().enumerate() {
        Record::new(1).write(&handle.accepted(index));
        assert_eq!(harvest(&mut queue), [(index as u64, GOOD)]);
        assert_eq!(queue.credits(), 1);
        assert_eq!(queue.submit(&ops[3 + turn..4 + turn]), 1);
        assert_eq!(queue.credits(), 0);
    }
    for index in 4..7 {
        Record::new(1).write(&handle.accepted(index));
    }
    assert_eq!(harvest(&mut queue).len(), 3);
    assert!(queue.is_idle());
    assert_eq!((queue.credits(), queue.room()), (3, 3));
}

#[test]
fn the_room_is_what_the_next_call_takes() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let ops: Vec<ReadyOp<'_>> = (0..200).map(|i| ready(i, op)).collect();
    for (credits, max_batch, used) in [(1, 8, 0), (3, 8, 1), (8, 2, 5), (200, 8, 0), (40, 32, 39), (5, 1, 2)]
    {
        let (mut queue, _, _) = queue(Setup { credits, max_batch, ..setup() });
        for op in &ops[..used] {
            assert_eq!(queue.submit(std::slice::from_ref(op)), 1);
        }
        let room = queue.room();
        assert!(room > 0);
        assert_eq!(queue.submit(&ops), room.min(200), "{credits} {max_batch} {used}");
        queue.begin_close();
        harvest(&mut queue);
        assert!(queue.is_idle());
    }
}

#[test]
fn a_full_shared_queue_takes_what_it_took_and_gives_the_credits_back() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let ops: Vec<ReadyOp<'_>> = (0..4).map(|i| ready(i, op)).collect();
    let (mut queue, handle, counters) = queue(plain());
    handle.script().answers = [Ok(1), Ok(2), Err(PortalError::Retry)].into();
    assert_eq!(queue.submit(&ops), 3);
    assert_eq!((queue.in_hand(), queue.credits(), counters.full.get()), (3, 5, 1));
    handle.script().answers = [Err(PortalError::Retry)].into();
    assert_eq!(queue.submit(&ops[3..]), 0);
    assert_eq!((queue.in_hand(), queue.credits()), (3, 5));
    for index in 0..3 {
        Record::new(1).write(&handle.accepted(index));
    }
    assert_eq!(harvest(&mut queue).len(), 3);
    assert_eq!(queue.credits(), 8);
    // A portal that accepts nothing without saying why is a full one.
    handle.script().answers = [Ok(0)].into();
    assert_eq!(queue.submit(&ops), 0);
    assert!(queue.is_idle());
}

#[test]
fn a_queue_that_is_full_for_ever_with_nothing_in_hand_is_gone() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, _) = queue(setup());
    let mut refused = 0;
    while !queue.is_closing() {
        handle.script().answers = [Err(PortalError::Retry)].into();
        refused += 1;
        assert!(refused < 1000, "bounded");
        let taken = queue.submit(&[ready(0, op)]);
        assert_eq!(taken, usize::from(queue.is_closing()));
    }
    assert!(refused > 100);
    assert_eq!(harvest(&mut queue), [(0, Err(Fault::Gone))]);
    assert!(queue.is_idle());
}

#[test]
fn a_queue_that_is_gone_may_have_taken_all_and_says_so_when_it_is_closed() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    for error in [PortalError::Gone, PortalError::Refused(libc::EPERM)] {
        let (mut queue, handle, counters) = queue(plain());
        handle.script().closed = false;
        handle.script().answers = [Ok(1), Err(error)].into();
        let ops: Vec<ReadyOp<'_>> = (0..3).map(|i| ready(i, op)).collect();
        assert_eq!(queue.submit(&ops), 3);
        assert_eq!(queue.submit(&ops), 0, "closing");
        assert_eq!(handle.script().closes, 1);
        assert_eq!(harvest(&mut queue), []);
        Record::new(1).write(&handle.accepted(0));
        assert_eq!(harvest(&mut queue), [(0, GOOD)], "its record is there, so it is over");
        handle.let_close();
        let mut rest = harvest(&mut queue);
        rest.sort_unstable_by_key(|done| done.0);
        assert_eq!(rest, [(1, Err(Fault::Gone)), (2, Err(Fault::Gone))]);
        assert!(queue.is_idle());
        assert_eq!((counters.late.get(), counters.aborted.get()), (1, 2));
    }
}

#[test]
fn what_the_device_does_not_do_is_declined_at_once() {
    let mut memory = Memory::new(4);
    let (a, b) = (memory.block(0), memory.block(1));
    let sources = [a];
    let ops = [
        ready(0, Op::Copy { src: a, dst: b }),
        ready(1, Op::Dualcast { src: a, dst: [b, memory.part(2 * 4096 + 64, 4096)] }),
        ready(2, Op::XorVal { srcs: &sources }),
        ready(3, Op::Fill { dst: b, byte: 0 }),
    ];
    for setup in [plain(), setup()] {
        let (mut queue, handle, counters) = queue(setup);
        assert_eq!(queue.submit(&ops[..1]), 1);
        assert_eq!(queue.submit(&ops[1..]), 3);
        assert_eq!(harvest(&mut queue), [(1, Err(Fault::Declined)), (2, Err(Fault::Declined))]);
        assert_eq!((queue.in_hand(), counters.declined.get()), (2, 2));
        // A fence behind one that was declined cannot be kept.
        let behind = [ops[1], fenced(4, Op::Fill { dst: a, byte: 1 })];
        assert_eq!(queue.submit(&behind), 1);
        assert_eq!(handle.script().accepted.len(), 2);
        // What is full before them is not skipped for those that need no room.
        handle.script().answers = [Err(PortalError::Retry)].into();
        assert_eq!(harvest(&mut queue).len(), 1);
        assert_eq!(queue.submit(&[ops[0], ops[1]]), 0);
        assert_eq!(harvest(&mut queue), []);
    }
    let (mut queue, handle, _) = queue(Setup { max_transfer: 4095, ..setup() });
    assert_eq!(queue.submit(&ops[..1]), 1);
    assert_eq!(harvest(&mut queue), [(0, Err(Fault::Declined))]);
    assert!(handle.script().accepted.is_empty());
}

#[test]
fn capabilities_are_those_of_the_bitmap() {
    let caps = |ops: &str| {
        let operations = engine_dsa::caps::OpSet::parse(ops).unwrap();
        let (queue, _, _) = queue(Setup { operations, ..setup() });
        (queue.caps(), queue.fences(), queue.is_batching())
    };
    let of = |kinds: &[OpKind]| kinds.iter().fold(Caps::NONE, |caps, kind| caps.with(*kind));
    use OpKind::*;
    let all = of(&[Copy, Fill, Compare, Dualcast, Crc32c, CopyCrc32c]);
    assert_eq!(caps("1003f03ff"), (all, of(&[Copy, Fill, Compare, Dualcast]), true));
    assert_eq!(caps("1003f03fd"), (all, Caps::NONE, false), "a hidden BATCH");
    assert_eq!(caps("9"), (of(&[Copy]), Caps::NONE, false));
    assert_eq!(caps("1000a"), (of(&[Copy, Crc32c]), of(&[Copy]), true));
    assert_eq!(caps("0"), (Caps::NONE, Caps::NONE, false));
}

#[test]
fn cache_control_that_is_minded_is_given_up_alone() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, _) = queue(plain());
    queue.submit(&[ready(0, op)]);
    Record::new(0x11).value(flag::CACHE_CONTROL).write(&handle.last());
    assert_eq!(harvest(&mut queue), [(0, Err(Fault::Declined))]);
    assert!(queue.caps().has(OpKind::Copy));
    queue.submit(&[ready(1, op)]);
    assert_eq!(handle.last().flags() & flag::CACHE_CONTROL, 0);
    Record::new(0x11).value(flag::CACHE_CONTROL).write(&handle.last());
    assert_eq!(harvest(&mut queue), [(1, Err(Fault::Declined))]);
    assert!(!queue.caps().has(OpKind::Copy), "it was not that");
}

/// What a device does with a batch of `count` members of which `failing` fails with `status`, the fences
/// being where `fences` says: writes the records and that of the batch.
fn run_batch(batch: &Descriptor, fences: &[usize], failing: Option<(usize, u8)>) {
    let count = batch.size() as usize;
    let mut run = count;
    for index in 0..count {
        let member = member(batch, index);
        assert_eq!(member.flags() & flag::FENCE != 0, fences.contains(&index));
        if fences.contains(&index) && failing.is_some_and(|(at, _)| at < index) {
            run = index;
            break;
        }
        let status = failing.filter(|(at, _)| *at == index).map_or(1, |(_, status)| status);
        Record::new(status).write(&member);
    }
    let status = if failing.is_some() { 5 } else { 1 };
    Record::new(status).completed(run as u32).write(batch);
}

#[test]
fn a_member_that_fails_at_any_position_with_and_without_fences() {
    let mut memory = Memory::new(6);
    for count in 2..=5_usize {
        for failing in 0..=count {
            for fences in [vec![], vec![1], vec![2], vec![1, 3], vec![4], (1..count).collect()] {
                for status in [0x16, 0x04, 0x20] {
                    let fences: Vec<usize> = fences.iter().copied().filter(|at| *at < count).collect();
                    let failing = Some((failing, status)).filter(|(at, _)| *at < count);
                    let (mut queue, handle, counters) = queue(setup());
                    let ops: Vec<ReadyOp<'_>> = (0..count)
                        .map(|i| {
                            let op = Op::Fill { dst: memory.block(i), byte: i as u8 };
                            ReadyOp { fence: fences.contains(&i), ..ready(i as u64, op) }
                        })
                        .collect();
                    assert_eq!(queue.submit(&ops), count);
                    assert_eq!((handle.script().calls.as_slice(), queue.credits()), (&[1][..], 7));
                    run_batch(&handle.last(), &fences, failing);
                    let mut got = harvest(&mut queue);
                    got.sort_unstable_by_key(|done| done.0);
                    let fault = if status == 0x20 { Fault::Device(0x20) } else { Fault::Declined };
                    let expected: Vec<_> = (0..count)
                        .map(|i| match failing {
                            Some((at, _)) if at == i => (i as u64, Err(fault)),
                            Some((at, _)) if fences.iter().any(|fence| (at + 1..=i).contains(fence)) => {
                                (i as u64, Err(Fault::Abandoned))
                            }
                            _ => (i as u64, GOOD),
                        })
                        .collect();
                    assert_eq!(got, expected, "{count} {failing:?} {fences:?}");
                    assert!(queue.is_idle());
                    assert_eq!(queue.credits(), 8);
                    assert_eq!(counters.fences.get(), fences.len() as u64);
                }
            }
        }
    }
}

fn batch_of(count: usize, memory: &mut Memory) -> (Queue, Handle, Descriptor) {
    let (mut queue, handle, _) = queue(setup());
    let ops: Vec<ReadyOp<'_>> =
        (0..count).map(|i| ready(i as u64, Op::Fill { dst: memory.block(i), byte: 1 })).collect();
    assert_eq!(queue.submit(&ops), count);
    let batch = handle.last();
    assert_eq!((batch.opcode(), batch.size()), (Opcode::Batch as u8, count as u32));
    assert!(u64::from_le_bytes(batch.field(at::SOURCE)).is_multiple_of(64));
    (queue, handle, batch)
}

#[test]
fn members_come_as_they_end_but_the_last_waits_for_the_batch() {
    let mut memory = Memory::new(3);
    let (mut queue, handle, batch) = batch_of(3, &mut memory);
    Record::new(1).write(&member(&batch, 2));
    assert_eq!(harvest(&mut queue), [(2, GOOD)]);
    Record::new(1).write(&member(&batch, 0));
    Record::new(1).write(&member(&batch, 1));
    assert_eq!(harvest(&mut queue), [(0, GOOD)]);
    assert_eq!(harvest(&mut queue), [], "the batch's own record may be lost");
    assert_eq!(queue.credits(), 7);
    // It was lost: the last one has succeeded all the same, and is told so when the queue is closed.
    handle.script().closed = false;
    queue.begin_close();
    assert_eq!(harvest(&mut queue), []);
    handle.let_close();
    assert_eq!(harvest(&mut queue), [(1, GOOD)]);
    assert!(queue.is_idle());
}

#[test]
fn an_untouched_member_of_a_batch_that_is_over_is_waited_for_unless_it_was_not_run() {
    let mut memory = Memory::new(3);
    // (status of the batch, members run, what the untouched members 1 and 2 end with before the close)
    let cases: [(u8, u32, [Option<Fault>; 2]); 7] = [
        (1, 3, [None, None]),
        (1, 0, [None, None]),
        (5, 3, [None, None]),
        (5, 1, [None, None]),
        (6, 2, [None, Some(Fault::Declined)]),
        (6, 1, [Some(Fault::Declined), Some(Fault::Declined)]),
        (0x86, u32::MAX, [None, None]),
    ];
    for (status, run, ends) in cases {
        let (mut queue, handle, batch) = batch_of(3, &mut memory);
        Record::new(1).write(&member(&batch, 0));
        Record::new(status).completed(run).write(&batch);
        let mut expected = vec![(0, GOOD)];
        for (index, end) in ends.iter().enumerate() {
            expected.extend(end.map(|fault| (index as u64 + 1, Err(fault))));
        }
        assert_eq!(harvest(&mut queue), expected, "{status:#04x} {run}");
        assert_eq!(queue.credits(), 8, "its entry is free");
        queue.begin_close();
        assert_eq!(harvest(&mut queue).len(), 3 - expected.len());
        assert!(queue.is_idle());
        assert_eq!(handle.script().accepted.len(), 1);
    }
}

#[test]
fn a_batch_that_is_refused_ends_batches_not_the_queue() {
    let mut memory = Memory::new(3);
    for status in [0x10, 0x11, 0x12, 0x13, 0x14, 0x18, 0x1d] {
        let (mut queue, handle, batch) = batch_of(3, &mut memory);
        Record::new(status).write(&batch);
        assert_eq!(harvest(&mut queue), [0, 1, 2].map(|i| (i, Err(Fault::Declined))));
        assert!(!queue.is_batching() && queue.fences() == Caps::NONE && !queue.is_closing());
        let ops = [0, 1].map(|i| ready(i, Op::Fill { dst: memory.block(i as usize), byte: 1 }));
        assert_eq!(queue.submit(&ops), 2);
        assert_eq!(handle.script().calls, [1, 2], "plain ones, in one call");
        assert_eq!(handle.last().opcode(), Opcode::Fill as u8);
    }
    // The system refuses it before the device sees it.
    let (mut queue, handle, _) = queue(setup());
    handle.script().answers = [Err(PortalError::Refused(libc::EINVAL))].into();
    let ops = [0, 1].map(|i| ready(i, Op::Fill { dst: memory.block(i as usize), byte: 1 }));
    assert_eq!(queue.submit(&ops), 0);
    assert!(queue.is_idle() && !queue.is_closing() && !queue.is_batching());
    assert_eq!(queue.submit(&ops), 2);
}

#[test]
fn a_batch_that_fails_or_makes_no_sense_closes_the_queue() {
    let mut memory = Memory::new(3);
    for status in [0x02, 0x03, 0x04, 0x07, 0x1f, 0x20, 0x51, 0xff] {
        let (mut queue, handle, batch) = batch_of(3, &mut memory);
        handle.script().closed = false;
        Record::new(1).write(&member(&batch, 1));
        Record::new(status).write(&batch);
        assert_eq!(harvest(&mut queue), [(1, GOOD)]);
        assert!(queue.is_closing());
        assert_eq!(harvest(&mut queue), []);
        handle.let_close();
        let fault = Err(Fault::Device(status));
        assert_eq!(harvest(&mut queue), [(0, fault), (2, fault)], "{status:#04x}");
        assert!(queue.is_idle());
    }
}

#[test]
fn a_fence_holds_within_a_batch_only() {
    let mut memory = Memory::new(12);
    let mut op = |i: usize| Op::Fill { dst: memory.block(i), byte: 1 };
    let all: Vec<ReadyOp<'_>> = (0..12).map(|i| ready(i as u64, op(i))).collect();
    // The first of a call has nothing before it.
    let (mut queue1, handle, _) = queue(setup());
    assert_eq!(queue1.submit(&[ReadyOp { fence: true, ..all[0] }, all[1]]), 2);
    assert_eq!(member(&handle.last(), 0).flags() & flag::FENCE, 0);
    // Member 9 would be in the second batch: it and all behind it have to wait.
    let mut fence_late = all.clone();
    fence_late[9].fence = true;
    let (mut queue2, handle, _) = queue(setup());
    assert_eq!(queue2.submit(&fence_late), 9);
    assert_eq!(handle.script().calls, [2], "a batch of 8 and one alone");
    assert_eq!(handle.last().opcode(), Opcode::Fill as u8);
    // Without batches there are no fences.
    let (mut queue3, _, _) = queue(plain());
    assert_eq!(queue3.submit(&[all[0], ReadyOp { fence: true, ..all[1] }]), 1);
}

#[test]
fn a_fenced_member_is_not_told_before_those_it_waited_for() {
    let mut memory = Memory::new(3);
    let mut op = |i: usize| Op::Fill { dst: memory.block(i), byte: 1 };
    let (mut queue, handle, _) = queue(setup());
    assert_eq!(queue.submit(&[ready(0, op(0)), fenced(1, op(1)), ready(2, op(2))]), 3);
    let batch = handle.last();
    // The records become visible in another order than they were written.
    Record::new(1).write(&member(&batch, 1));
    assert_eq!(harvest(&mut queue), []);
    Record::new(1).write(&member(&batch, 0));
    assert_eq!(harvest(&mut queue), [(0, GOOD), (1, GOOD)]);
}

/// What ended, and how.
type Ends = Vec<(u64, Result<Verdict, Fault>)>;

/// Where a page fault of a copy of block 0 to block 1 is told, and the descriptor that follows.
fn fault_and_rest(
    memory: &mut Memory,
    completed: u32,
    status: u8,
    address: u64,
) -> (Option<Descriptor>, Ends) {
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, _) = queue(plain());
    queue.submit(&[ready(0, op)]);
    Record::new(status).completed(completed).address(address).write(&handle.last());
    let done = harvest(&mut queue);
    let rest = handle.script().accepted.get(1).copied();
    (rest, done)
}

#[test]
fn a_page_fault_is_resumed_where_it_was() {
    let mut memory = Memory::new(3);
    let (src, dst) = (memory.block(0).as_ptr() as u64, memory.block(1).as_ptr() as u64);
    for completed in [0, 1, 63, 4095] {
        for (status, address) in [(0x03, src + 4000), (0x83, dst + 7), (0x03, src), (0x83, dst + 4095)] {
            let (rest, done) = fault_and_rest(&mut memory, completed, status, address);
            let rest = rest.unwrap_or_else(|| panic!("{completed} {status:#x}"));
            let field = |offset| u64::from_le_bytes(rest.field(offset));
            let n = u64::from(completed);
            assert_eq!((field(at::SOURCE), field(at::DESTINATION)), (src + n, dst + n));
            assert_eq!(rest.size(), 4096 - completed);
            assert_eq!(done, []);
        }
    }
    // Nothing is left, more than there was, another kind of fault, or an address of somebody else.
    for (completed, status, address) in [
        (4096, 0x03, src),
        (5000, 0x03, src),
        (0, 0x04, src),
        (0, 0x03, dst),
        (0, 0x83, src),
        (0, 0x03, src + 4096 + 4096),
        (0, 0x03, 0),
        (0, 0x83, u64::MAX),
        (0, 0x83, u64::MAX - 4095),
    ] {
        let (rest, done) = fault_and_rest(&mut memory, completed, status, address);
        assert_eq!(rest, None, "{completed} {status:#x} {address:#x}");
        assert_eq!(done, [(0, Err(Fault::Declined))]);
    }
}

#[test]
fn resuming_is_bounded_and_needs_no_second_credit() {
    let mut memory = Memory::new(2);
    let (src, op) = (memory.block(0), Op::Copy { src: memory.block(0), dst: memory.block(1) });
    let (mut queue, handle, counters) = queue(Setup { credits: 1, ..plain() });
    queue.submit(&[ready(0, op)]);
    for turn in 1..=4 {
        Record::new(3).completed(10).address(src.as_ptr() as u64).write(&handle.last());
        assert_eq!(harvest(&mut queue), []);
        assert_eq!(handle.last().size(), 4096 - 10 * turn);
        assert_eq!(queue.credits(), 0);
    }
    Record::new(3).completed(10).address(src.as_ptr() as u64).write(&handle.last());
    assert_eq!(harvest(&mut queue), [(0, Err(Fault::Declined))]);
    assert_eq!((queue.credits(), handle.script().accepted.len()), (1, 5));
    assert_eq!((counters.page_faults.get(), counters.resumed.get()), (5, 4));
    // A full queue is not waited for.
    queue.submit(&[ready(1, op)]);
    Record::new(3).address(src.as_ptr() as u64).write(&handle.last());
    handle.script().answers = [Err(PortalError::Retry)].into();
    assert_eq!(harvest(&mut queue), [(1, Err(Fault::Declined))]);
    assert!(queue.is_idle());
    // One that is gone may have taken it.
    queue.submit(&[ready(2, op)]);
    Record::new(3).address(src.as_ptr() as u64).write(&handle.last());
    handle.script().answers = [Err(PortalError::Gone)].into();
    assert_eq!(harvest(&mut queue), []);
    assert_eq!(harvest(&mut queue), [(2, Err(Fault::Gone))]);
}

#[test]
fn a_faulted_member_goes_on_alone_when_its_batch_is_over() {
    let mut memory = Memory::new(6);
    let src = memory.block(0);
    let ops = [
        ready(0, Op::Copy { src, dst: memory.block(1) }),
        ready(1, Op::Copy { src, dst: memory.block(2) }),
        fenced(2, Op::Fill { dst: memory.block(3), byte: 0 }),
    ];
    let (mut queue, handle, _) = queue(Setup { credits: 1, ..setup() });
    assert_eq!(queue.submit(&ops), 3);
    let batch = handle.last();
    Record::new(3).completed(64).address(src.as_ptr() as u64 + 64).write(&member(&batch, 0));
    Record::new(1).write(&member(&batch, 1));
    assert_eq!(harvest(&mut queue), [(1, GOOD)]);
    Record::new(5).completed(2).write(&batch);
    assert_eq!(harvest(&mut queue), [(2, Err(Fault::Abandoned))]);
    assert_eq!((handle.last().opcode(), handle.last().size()), (Opcode::Memmove as u8, 4096 - 64));
    assert_eq!((queue.in_hand(), queue.credits()), (1, 0));
    Record::new(1).write(&handle.last());
    assert_eq!(harvest(&mut queue), [(0, GOOD)]);
    assert!(queue.is_idle());
    assert_eq!(queue.credits(), 1);
}

#[test]
fn the_page_is_touched_before_an_operation_is_resumed() {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    let len = std::num::NonZeroUsize::new(2 * 4096).unwrap();
    let flags = MapFlags::MAP_PRIVATE;
    // SAFETY: a new mapping.
    let map =
        unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }.unwrap();
    let start: *mut u8 = map.as_ptr().cast();
    // SAFETY: inside the mapping, which is unmapped at the end of the test.
    let (src, dst) =
        unsafe { (async_tx::Region::new(start, 100), async_tx::Region::new(start.add(4096), 100)) };
    let resident = || {
        let mut pages = [0u8; 2];
        // SAFETY: two pages of the mapping and two bytes for them.
        assert_eq!(unsafe { libc::mincore(map.as_ptr(), 8192, pages.as_mut_ptr()) }, 0);
        pages.map(|page| page & 1 == 1)
    };
    assert_eq!(resident(), [false, false]);
    let (mut queue, handle, _) = queue(plain());
    queue.submit(&[ready(0, Op::Copy { src, dst })]);
    Record::new(0x83).address(dst.as_ptr() as u64 & !0xfff).write(&handle.last());
    assert_eq!(harvest(&mut queue), []);
    assert_eq!(resident(), [false, true]);
    Record::new(0x03).address(src.as_ptr() as u64 + 4000).write(&handle.last());
    assert_eq!(harvest(&mut queue), []);
    assert_eq!(handle.script().accepted.len(), 3);
    Record::new(1).write(&handle.last());
    assert_eq!(harvest(&mut queue), [(0, GOOD)]);
    // SAFETY: mapped above; the queue is idle.
    unsafe { munmap(map, 2 * 4096) }.unwrap();
}

#[test]
fn operations_whose_state_is_not_in_the_descriptor_are_declined() {
    let mut memory = Memory::new(4);
    for (op, opcode) in every_kind(&mut memory) {
        let (mut queue, handle, _) = queue(plain());
        queue.submit(&[ready(0, op)]);
        let address = handle.last().field(if opcode == Opcode::Fill { at::DESTINATION } else { at::SOURCE });
        let status = if opcode == Opcode::Fill { 0x83 } else { 0x03 };
        Record::new(status).completed(100).address(u64::from_le_bytes(address)).write(&handle.last());
        let done = harvest(&mut queue);
        if matches!(opcode, Opcode::CrcGen | Opcode::CopyCrc) {
            assert_eq!(done, [(0, Err(Fault::Declined))]);
        } else {
            // Of a fill, whole repetitions of the pattern count as done.
            let left = if opcode == Opcode::Fill { 4096 - 96 } else { 4096 - 100 };
            assert_eq!((done.len(), handle.last().size()), (0, left), "{opcode:?}");
        }
    }
}

#[test]
fn after_a_close_results_count_and_the_rest_is_aborted() {
    let mut memory = Memory::new(4);
    let (src, op) = (memory.block(0), Op::Copy { src: memory.block(0), dst: memory.block(1) });
    let (mut queue, handle, counters) = queue(plain());
    handle.script().closed = false;
    let ops: Vec<ReadyOp<'_>> = (0..4).map(|i| ready(i, op)).collect();
    assert_eq!(queue.submit(&ops), 4);
    queue.begin_close();
    queue.begin_close();
    assert_eq!((queue.room(), queue.submit(&ops)), (0, 0));
    assert_eq!(harvest(&mut queue), [], "the device may still write");
    Record::new(1).write(&handle.accepted(1));
    Record::new(3).completed(1).address(src.as_ptr() as u64).write(&handle.accepted(3));
    assert_eq!(harvest(&mut queue), [(1, GOOD), (3, Err(Fault::Declined))], "nothing is resumed");
    Record::new(1).write(&handle.accepted(0));
    handle.let_close();
    let mut rest = harvest(&mut queue);
    rest.sort_unstable_by_key(|done| done.0);
    assert_eq!(rest, [(0, GOOD), (2, Err(Fault::Aborted))]);
    assert_eq!(harvest(&mut queue), []);
    assert!(queue.is_idle() && queue.is_closed());
    assert_eq!((counters.late.get(), counters.aborted.get()), (2, 1));
}

#[test]
fn dropping_a_queue_waits_until_the_portal_is_closed() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, _) = queue(plain());
    handle.script().closed = false;
    handle.script().closed_after = Some(50);
    queue.submit(&[ready(0, op)]);
    drop(queue);
    assert!(handle.script().asked > 50 && handle.script().closes > 0);
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn whatever_a_device_writes_each_operation_ends_once() {
    let mut memory = Memory::new(8);
    for seed in 0..3000_u64 {
        let mut state = seed;
        let mut setup = if next(&mut state).is_multiple_of(4) { plain() } else { setup() };
        setup.credits = 1 + next(&mut state) as usize % 6;
        let credits = setup.credits;
        let (mut queue, handle, _) = queue(setup);
        let mut token = 0;
        let mut outcomes: BTreeMap<u64, usize> = BTreeMap::new();
        let mut seen = 0;
        for _ in 0..20 {
            let count = 1 + next(&mut state) as usize % 6;
            let mut ops = Vec::new();
            for i in 0..count {
                let (op, _) = every_kind(&mut memory)[next(&mut state) as usize % 6];
                let fence = i > 0 && next(&mut state).is_multiple_of(3) && queue.fences().has(op.kind());
                ops.push(ReadyOp { fence, ..ready(token + i as u64, op) });
            }
            if next(&mut state).is_multiple_of(8) {
                let answer = [Err(PortalError::Retry), Ok(1), Err(PortalError::Refused(libc::EINVAL))];
                handle.script().answers = [answer[next(&mut state) as usize % 3]].into();
            }
            let taken = queue.submit(&ops);
            outcomes.extend((token..token + taken as u64).map(|token| (token, 0)));
            token += count as u64;
            // Any bytes, in any order, for some of what was accepted since the last time.
            let accepted = handle.script().accepted.clone();
            for descriptor in accepted.iter().skip(seen) {
                let batch = descriptor.opcode() == Opcode::Batch as u8;
                let members = if batch { descriptor.size() as usize } else { 0 };
                let members = (0..members).map(|i| member(descriptor, i)).collect::<Vec<_>>();
                for target in members.iter().chain([descriptor]) {
                    let mut bytes = [0; 32];
                    bytes.iter_mut().for_each(|byte| *byte = next(&mut state) as u8);
                    if next(&mut state).is_multiple_of(2) {
                        bytes[0] = [1, 3, 0x83, 5, 6, 0x10, 2, 0][next(&mut state) as usize % 8];
                    }
                    if next(&mut state).is_multiple_of(2) {
                        let own = u64::from_le_bytes(target.field(at::SOURCE));
                        bytes[8..16].copy_from_slice(&own.to_le_bytes());
                    }
                    if next(&mut state).is_multiple_of(2) {
                        bytes[4..8].copy_from_slice(&(next(&mut state) as u32 % 16).to_le_bytes());
                    }
                    if !next(&mut state).is_multiple_of(5) {
                        Record::from_bytes(bytes).write(target);
                    }
                }
            }
            seen = accepted.len();
            for (token, _) in harvest(&mut queue) {
                *outcomes.get_mut(&token).unwrap() += 1;
            }
            assert!(queue.credits() <= credits);
        }
        queue.begin_close();
        for (token, _) in harvest(&mut queue) {
            *outcomes.get_mut(&token).unwrap() += 1;
        }
        assert!(outcomes.values().all(|count| *count == 1), "seed {seed}: {outcomes:?}");
        assert!(queue.is_idle(), "seed {seed}");
    }
}
