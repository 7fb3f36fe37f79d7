//! Devices that contradict themselves, and that never do what they are asked for.

#![cfg(test)]

mod script;

use async_tx::{Caps, Fault, Op, OpKind};
use engine_dsa::caps::OpSet;
use engine_dsa::queue::Setup;
use engine_dsa::wire::{Descriptor, flag};

use script::{GOOD, Memory, Record, fenced, harvest, member, plain, queue, ready, setup};

#[test]
fn cache_control_that_is_minded_by_several_in_hand_costs_no_kind() {
    let mut memory = Memory::new(4);
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| memory.block(i));
    let (mut queue, handle, counters) = queue(plain());
    let ops = [ready(1, Op::Copy { src: a, dst: b }), ready(2, Op::Copy { src: c, dst: d })];
    assert_eq!(queue.submit(&ops), 2);
    for index in 0..2 {
        Record::new(0x11).value(flag::CACHE_CONTROL).write(&handle.accepted(index));
    }
    assert_eq!(harvest(&mut queue).len(), 2);
    assert_eq!((queue.caps().has(OpKind::Copy), counters.kinds_refused.get()), (true, 0));
    assert_eq!(queue.submit(&ops[..1]), 1);
    assert_eq!(handle.last().flags() & flag::CACHE_CONTROL, 0);
}

#[test]
fn a_record_that_is_written_twice_ends_nothing_while_other_lines_are_free() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    // One entry as well: there are more lines than entries.
    for credits in [1, 8] {
        let (mut queue, handle, _) = queue(Setup { credits, ..plain() });
        let mut before: Option<Descriptor> = None;
        for token in 0..200 {
            assert_eq!(queue.submit(&[ready(token, op)]), 1);
            if let Some(before) = before {
                Record::new(1).write(&before);
                assert_eq!(harvest(&mut queue), [], "{token} counts as done");
            }
            Record::new(1).write(&handle.last());
            assert_eq!(harvest(&mut queue), [(token, GOOD)]);
            before = Some(handle.last());
        }
    }
}

#[test]
fn a_kind_that_is_always_declined_is_taken_off() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, counters) = queue(plain());
    let mut once = |status: u8| {
        assert_eq!(queue.submit(&[ready(0, op)]), 1);
        Record::new(status).address(memory.block(1).as_ptr() as u64).write(&handle.last());
        let done = harvest(&mut queue);
        (done[0].1, queue.caps().has(OpKind::Copy))
    };
    for _ in 0..63 {
        assert_eq!(once(0x84), (Err(Fault::Declined), true));
    }
    assert_eq!(once(1), (GOOD, true), "one that succeeds counts for all before");
    for _ in 0..63 {
        assert_eq!(once(0x84), (Err(Fault::Declined), true));
    }
    assert_eq!(once(0x84), (Err(Fault::Declined), false));
    assert_eq!(counters.kinds_refused.get(), 1);
}

#[test]
fn a_queue_whose_last_kind_is_always_declined_has_failed() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle, _) = queue(Setup { operations: OpSet::parse("9").unwrap(), ..plain() });
    for turn in 1..=64 {
        assert_eq!(queue.submit(&[ready(0, op)]), 1);
        Record::new(0x16).write(&handle.last());
        let fault = if turn < 64 { Fault::Declined } else { Fault::Device(0x16) };
        assert_eq!(harvest(&mut queue), [(0, Err(fault))], "{turn}");
    }
    assert_eq!(queue.caps(), Caps::NONE);
}

#[test]
fn a_member_that_ran_behind_a_fence_though_one_before_failed_counts_as_not_run() {
    let mut memory = Memory::new(4);
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| memory.block(i));
    let ops = [
        ready(1, Op::Copy { src: a, dst: b }),
        fenced(2, Op::Copy { src: b, dst: c }),
        ready(3, Op::Copy { src: b, dst: d }),
    ];
    // The first is resumed, or fails.
    for (status, resumed) in [(0x83, true), (0x16, false)] {
        // The others succeed, or fault themselves: nothing of them is to be resumed either.
        for other in [1, 0x83] {
            let (mut queue, handle, _) = queue(setup());
            assert_eq!(queue.submit(&ops), 3);
            let batch = handle.last();
            for (index, to) in [c, d].into_iter().enumerate() {
                let record = Record::new(other).completed(64).address(to.as_ptr() as u64);
                record.write(&member(&batch, index + 1));
            }
            assert_eq!(harvest(&mut queue), [], "what is behind a fence waits for what is before");
            Record::new(status).completed(64).address(b.as_ptr() as u64).write(&member(&batch, 0));
            Record::new(5).completed(3).write(&batch);
            let mut done = harvest(&mut queue);
            if resumed {
                assert_eq!(handle.script().accepted.len(), 2);
                Record::new(1).write(&handle.last());
                done.splice(0..0, harvest(&mut queue));
            }
            let first = if resumed { GOOD } else { Err(Fault::Declined) };
            assert_eq!(done, [(1, first), (2, Err(Fault::Abandoned)), (3, Err(Fault::Abandoned))]);
            assert!(queue.is_idle());
            assert_eq!(queue.credits(), 8);
        }
    }
}

#[test]
fn a_member_behind_a_fence_counts_as_not_run_if_one_before_was_aborted() {
    let mut memory = Memory::new(3);
    let [a, b, c] = [0, 1, 2].map(|i| memory.block(i));
    let ops = [ready(1, Op::Copy { src: a, dst: b }), fenced(2, Op::Copy { src: b, dst: c })];
    let (mut queue, handle, _) = queue(setup());
    assert_eq!(queue.submit(&ops), 2);
    Record::new(1).write(&member(&handle.last(), 1));
    queue.begin_close();
    assert_eq!(harvest(&mut queue), [(1, Err(Fault::Aborted)), (2, Err(Fault::Abandoned))]);
}
