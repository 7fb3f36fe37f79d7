//! Rows 58 to 67: the chains that md's raid5 makes, as the volume makes them.

use async_tx::*;

use crate::support::{Blocks, Calls, Desk, LEN, chain, cpu, poll, q_of, run};

fn copy(blocks: &Blocks, from: usize, to: usize) -> Op<'static> {
    Op::Copy { src: blocks.at(from), dst: blocks.at(to) }
}

#[test]
fn c58_reads_are_copied_out_and_one_callback_ends_them() {
    let (blocks, desk) = (Blocks::new(6), Desk::of_copies());
    let mut engine = desk.engine();
    let mut fill = engine.chain();
    for i in 0..3 {
        fill.push(copy(&blocks, i, i + 3), &[]).unwrap();
    }
    fill.push_last(Op::Notify).unwrap();
    let (calls, done) = Calls::new();
    engine.submit_tx(fill, Submit { after: [] as [Tx; 0], done }).ack();
    desk.complete(1);
    poll(&mut engine);
    desk.complete(0);
    poll(&mut engine);
    assert_eq!(calls.count(), 0, "one copy is left");
    desk.complete(0);
    poll(&mut engine);
    assert_eq!((calls.count(), blocks.bytes(5) == blocks.bytes(2)), (1, true));
}

#[test]
fn c59_a_lost_block_of_raid5_is_the_sum_of_the_others() {
    let blocks = Blocks::new(5);
    let others = [blocks.at(0), blocks.at(1), blocks.at(2)];
    run(Op::Xor { srcs: &others, dst: blocks.at(3), mode: XorMode::Overwrite });
    // Block 1 is lost: P is one of the others then. With one source it is a copy.
    let rest = [blocks.at(0), blocks.at(2), blocks.at(3)];
    run(Op::Xor { srcs: &rest, dst: blocks.at(4), mode: XorMode::Overwrite });
    assert_eq!(blocks.bytes(4), blocks.bytes(1));
    run(Op::Xor { srcs: &rest[..1], dst: blocks.at(4), mode: XorMode::Overwrite });
    assert_eq!(blocks.bytes(4), blocks.bytes(0));
}

#[test]
fn c60_every_pair_of_lost_blocks_of_raid6_is_computed() {
    const DATA: usize = 4;
    let blocks = Blocks::new(DATA + 2);
    let data: Vec<_> = (0..DATA).map(|i| Some(blocks.at(i))).collect();
    let (p, q) = (Some(blocks.at(DATA)), Some(blocks.at(DATA + 1)));
    run(Op::Pq { data: &data, p, q });
    let whole = blocks.all();
    for (x, y) in (0..DATA + 2).flat_map(|x| (0..=x).map(move |y| (x, y))) {
        // One block is a pair of it with itself: (D), (P) and (Q); and all pairs of two.
        let lost: Vec<usize> = if x == y { vec![x] } else { vec![x, y] };
        lost.iter().for_each(|i| blocks.set(*i, &[0x99; LEN]));
        let exponents: Vec<u8> = lost.iter().filter(|i| **i < DATA).map(|i| *i as u8).collect();
        let lost = Lost::new(&exponents, lost.contains(&DATA), lost.contains(&(DATA + 1))).unwrap();
        run(Op::Recover { data: &data, p, q, lost });
        assert_eq!(blocks.all(), whole, "{lost:?}");
    }
}

#[test]
fn c61_prexor_takes_old_data_out_of_the_parity() {
    let blocks = Blocks::new(5);
    let data = [Some(blocks.at(0)), Some(blocks.at(1)), Some(blocks.at(2))];
    let (p, q) = (Some(blocks.at(3)), Some(blocks.at(4)));
    run(Op::Pq { data: &data, p, q });
    // RAID5: the old data is accumulated into P. RAID6: P and Q at once.
    run(Op::Xor { srcs: &[blocks.at(1)], dst: blocks.at(3), mode: XorMode::Accumulate });
    assert_eq!(blocks.bytes(3), blocks.sum(&[0, 2]));
    let without = Change { exponent: 1, old: Some(blocks.at(1)), new: None };
    run(Op::PqUpdate { changes: &[without], p: None, q });
    blocks.set(1, &[0; LEN]);
    assert_eq!(blocks.bytes(4), q_of(&blocks, &[0, 1, 2]));
}

#[test]
fn c62_new_data_is_drained_in_before_it_is_summed() {
    let (blocks, desk) = (Blocks::new(6), Desk::of_copies());
    let mut engine = desk.engine();
    // No dependency is named: the xor reads what the copies write, so it comes after them.
    let stripe = [blocks.at(2), blocks.at(3)];
    let parity = Op::Xor { srcs: &stripe, dst: blocks.at(4), mode: XorMode::Overwrite };
    engine.submit(chain(&[copy(&blocks, 0, 2), copy(&blocks, 1, 3), parity]), 1);
    assert_eq!(desk.held(), 2, "the copies go together");
    desk.complete(1);
    assert_eq!(poll(&mut engine), [] as [u64; 0]);
    desk.complete(0);
    assert_eq!((poll(&mut engine), blocks.bytes(4)), (vec![1], blocks.sum(&[0, 1])));
}

#[test]
fn c63_parity_from_scratch_and_parity_by_difference_agree() {
    let blocks = Blocks::new(8);
    let data = |changed: usize| [Some(blocks.at(0)), Some(blocks.at(changed)), Some(blocks.at(2))];
    let (p, q) = (Some(blocks.at(4)), Some(blocks.at(5)));
    // Read-modify-write: out with the old data, in with the new, in one pass.
    run(Op::Pq { data: &data(1), p, q });
    run(Op::PqUpdate {
        changes: &[Change { exponent: 1, old: Some(blocks.at(1)), new: Some(blocks.at(3)) }],
        p,
        q,
    });
    // Reconstruct-write: from all data.
    run(Op::Pq { data: &data(3), p: Some(blocks.at(6)), q: Some(blocks.at(7)) });
    assert_eq!((blocks.bytes(4), blocks.bytes(5)), (blocks.bytes(6), blocks.bytes(7)));
}

#[test]
fn c64_a_check_ends_in_a_verdict_that_comes_with_the_end_of_the_chain() {
    let blocks = Blocks::new(5);
    let data = [Some(blocks.at(0)), Some(blocks.at(1))];
    let (p, q) = (Some(blocks.at(2)), Some(blocks.at(3)));
    run(Op::Pq { data: &data, p, q });
    let mut engine = cpu();
    for (bad, tag) in [(false, 1), (true, 2)] {
        if bad {
            blocks.set(3, &blocks.bytes(4));
        }
        let mut check = chain(&[Op::PqVal { data: &data, p, q }]);
        check.push_last(Op::Notify).unwrap();
        engine.submit(check, tag);
        let mut done = Vec::new();
        engine.poll(&mut done);
        let verdict = Verdict { q_bad: bad, ..Verdict::default() };
        assert_eq!(done, [ChainDone { tag, result: Ok(verdict) }]);
    }
}

#[test]
fn c65_an_end_is_a_value_for_whoever_polls() {
    let (blocks, desk) = (Blocks::new(4), Desk::of_copies());
    let mut engine = desk.engine();
    // Tags name stripes; what is done about them is the business of the loop that polls.
    for stripe in 1..4 {
        engine.submit(chain(&[copy(&blocks, 0, stripe)]), stripe as u64);
    }
    let (mut done, mut next) = (Vec::new(), 100);
    while engine.wants_poll() {
        desk.complete_all();
        engine.poll(&mut done);
        for ended in done.drain(..) {
            if ended.tag < 100 {
                // The state machine goes on with a new chain, after the end of the old one.
                engine.submit(chain(&[copy(&blocks, ended.tag as usize, 0)]), next);
                next += 1;
            }
        }
    }
    assert_eq!((next, engine.in_flight()), (103, 0));
}

#[test]
fn c66_the_last_chain_of_a_stripe_is_acknowledged_and_the_others_are_consumed() {
    let (blocks, desk) = (Blocks::new(4), Desk::of_copies());
    let mut engine = desk.engine();
    let compute = engine.submit_tx(chain(&[copy(&blocks, 0, 1)]), Submit::default());
    // When a reconstruct follows, the compute is its dependency; else it would be acknowledged.
    let (calls, done) = Calls::new();
    let drain =
        engine.submit_tx(chain(&[copy(&blocks, 1, 2)]), Submit { after: [compute], done: Done::None });
    engine.submit_tx(chain(&[copy(&blocks, 2, 3)]), Submit { after: [drain], done }).ack();
    for _ in 0..3 {
        assert_eq!((desk.held(), calls.count()), (1, 0));
        desk.complete(0);
        poll(&mut engine);
    }
    assert_eq!((calls.count(), engine.descriptors()), (1, (3, 3)));
    assert_eq!(blocks.bytes(3), blocks.bytes(0));
}

#[test]
fn c67_stripes_share_batches_and_their_pages_are_moved_by_copies() {
    let blocks = Blocks::new(16);
    let desk = Desk::of_copies().with(|state| state.batch = 8);
    let mut engine = desk.engine();
    // Two full stripes in one chain, and a third by itself: their copies go to the device in one call.
    let moves: Vec<Op<'_>> = (0..6).map(|i| copy(&blocks, i, i + 8)).collect();
    engine.submit(chain(&moves), 1);
    engine.submit(chain(&[copy(&blocks, 6, 14), copy(&blocks, 7, 15)]), 2);
    assert_eq!(desk.calls(), [8]);
    desk.complete_all();
    assert_eq!(poll(&mut engine), [1, 2]);
    assert!((0..8).all(|i| blocks.bytes(i) == blocks.bytes(i + 8)));
}
