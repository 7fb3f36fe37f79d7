//! Rows 1 to 15: the operations.

use async_tx::*;

use crate::support::{Blocks, Calls, Desk, LEN, chain, cpu, mul, poll, power, q_of, run};

#[test]
fn c01_memcpy_ends_at_once_where_the_cpu_does_it() {
    let blocks = Blocks::new(2);
    let (src, dst) = (blocks.part(0, 3, 100), blocks.part(1, 50, 100));
    let mut engine = cpu();
    engine.submit(chain(&[Op::Copy { src, dst }]), 1);
    assert_eq!((engine.in_flight(), poll(&mut engine)), (0, vec![1]));
    assert_eq!(blocks.bytes(1)[50..150], blocks.bytes(0)[3..103]);
}

#[test]
fn c02_memset_is_fill() {
    let blocks = Blocks::new(1);
    let before = blocks.bytes(0);
    run(Op::Fill { dst: blocks.part(0, 7, 9), byte: 0xa5 });
    let after = blocks.bytes(0);
    assert_eq!((&after[7..16], &after[..7], &after[16..]), (&[0xa5; 9][..], &before[..7], &before[16..]));
}

#[test]
fn c03_xor_takes_sources_at_any_offset() {
    let blocks = Blocks::new(4);
    let srcs = [blocks.part(0, 1, 40), blocks.part(1, 0, 40), blocks.part(2, 77, 40)];
    run(Op::Xor { srcs: &srcs, dst: blocks.part(3, 5, 40), mode: XorMode::Overwrite });
    for i in 0..40 {
        let sum = blocks.bytes(0)[1 + i] ^ blocks.bytes(1)[i] ^ blocks.bytes(2)[77 + i];
        assert_eq!(blocks.bytes(3)[5 + i], sum, "byte {i}");
    }
}

#[test]
fn c04_xor_val_tells_and_writes_nothing() {
    let blocks = Blocks::new(3);
    blocks.set(2, &blocks.sum(&[0, 1]));
    let (before, srcs) = (blocks.all(), [0, 1, 2].map(|i| blocks.at(i)));
    assert!(!run(Op::XorVal { srcs: &srcs }).xor_nonzero);
    assert!(run(Op::XorVal { srcs: &srcs[..2] }).xor_nonzero);
    assert_eq!(blocks.all(), before);
}

#[test]
fn c05_gen_syndrome_takes_zero_blocks_and_leaves_out_p_or_q() {
    let blocks = Blocks::new(6);
    blocks.set(5, &[0; LEN]);
    // A block that is not there counts as one of zeroes.
    let data = [Some(blocks.at(0)), None, Some(blocks.at(1))];
    let (p, q) = (Some(blocks.at(2)), Some(blocks.at(3)));
    run(Op::Pq { data: &data, p, q });
    let (sum, weighted) = (blocks.sum(&[0, 1]), q_of(&blocks, &[0, 5, 1]));
    assert_eq!((blocks.bytes(2), blocks.bytes(3)), (sum.clone(), weighted.clone()));
    for (p, q) in [(Some(blocks.at(4)), None), (None, Some(blocks.at(4)))] {
        run(Op::Pq { data: &data, p, q });
        assert_eq!(blocks.bytes(4), if p.is_some() { sum.clone() } else { weighted.clone() });
    }
    let neither = Op::Pq { data: &data, p: None, q: None };
    assert_eq!(neither.check().map(|_| ()), Err(OpError::NoParity));
    // The generator is 2 and the polynomial 0x11d; there are exponents for 255 blocks.
    assert_eq!((power(1), power(8), SOURCES_MAX), (2, 0x1d, 255));
}

#[test]
fn c06_syndrome_val_tells_p_from_q_without_a_spare_block() {
    let blocks = Blocks::new(4);
    let data = [Some(blocks.at(0)), Some(blocks.at(1))];
    let (p, q) = (Some(blocks.at(2)), Some(blocks.at(3)));
    for (bad_p, bad_q) in [(false, false), (true, false), (false, true), (true, true)] {
        run(Op::Pq { data: &data, p, q });
        for (block, bad) in [(2, bad_p), (3, bad_q)] {
            let mut bytes = blocks.bytes(block);
            bytes[LEN - 1] ^= u8::from(bad);
            blocks.set(block, &bytes);
        }
        let before = blocks.all();
        let found = run(Op::PqVal { data: &data, p, q });
        assert_eq!((found.p_bad, found.q_bad), (bad_p, bad_q));
        assert_eq!(run(Op::PqVal { data: &data, p, q: None }).p_bad, bad_p);
        assert_eq!(run(Op::PqVal { data: &data, p: None, q }).q_bad, bad_q);
        assert_eq!(blocks.all(), before, "a check writes nothing");
    }
}

/// A stripe of `n` data blocks with P and Q behind them.
fn stripe(n: usize) -> (Blocks, Vec<Option<Region>>, Option<Region>, Option<Region>) {
    let blocks = Blocks::new(n + 2);
    let data: Vec<_> = (0..n).map(|i| Some(blocks.at(i))).collect();
    let (p, q) = (Some(blocks.at(n)), Some(blocks.at(n + 1)));
    run(Op::Pq { data: &data, p, q });
    (blocks, data, p, q)
}

#[test]
fn c07_two_data_blocks_are_recovered_also_with_few_others() {
    // With two and three data blocks, the four and five disks of the special cases, and with more.
    for n in 2..=6 {
        let (blocks, data, p, q) = stripe(n);
        let before = blocks.all();
        for (x, y) in (0..n).flat_map(|x| (0..x).map(move |y| (x, y))) {
            blocks.set(x, &[0xee; LEN]);
            blocks.set(y, &[0xdd; LEN]);
            let lost = Lost::new(&[x as u8, y as u8], false, false).unwrap();
            run(Op::Recover { data: &data, p, q, lost });
            assert_eq!(blocks.all(), before, "{x} and {y} of {n}");
        }
    }
}

#[test]
fn c08_a_data_block_and_p_are_recovered() {
    let (blocks, data, p, q) = stripe(4);
    let before = blocks.all();
    blocks.set(1, &[0; LEN]);
    blocks.set(4, &[0; LEN]);
    run(Op::Recover { data: &data, p, q, lost: Lost::new(&[1], true, false).unwrap() });
    assert_eq!(blocks.all(), before);
}

#[test]
fn c09_p_alone_and_q_alone_are_operations_of_their_own() {
    let (blocks, data, p, q) = stripe(3);
    let before = blocks.all();
    for (block, lost_p) in [(3, true), (4, false)] {
        blocks.set(block, &[1; LEN]);
        run(Op::Recover { data: &data, p, q, lost: Lost { data: [None; 2], p: lost_p, q: !lost_p } });
        assert_eq!(blocks.all(), before);
    }
    // A lost data block takes P alone, or Q alone.
    for (p, q) in [(p, None), (None, q)] {
        blocks.set(2, &[9; LEN]);
        run(Op::Recover { data: &data, p, q, lost: Lost::new(&[2], false, false).unwrap() });
        assert_eq!(blocks.all(), before);
    }
}

#[test]
fn c10_products_are_added_to_the_destination() {
    let blocks = Blocks::new(3);
    let (a, b, old) = (blocks.bytes(0), blocks.bytes(1), blocks.bytes(2));
    let product = |coefficient, i| Product { coefficient, src: blocks.at(i) };
    run(Op::GfMulAdd { products: &[product(0x53, 0), product(0xca, 1)], dst: blocks.at(2) });
    let wanted: Vec<u8> = (0..LEN).map(|i| old[i] ^ mul(0x53, a[i]) ^ mul(0xca, b[i])).collect();
    assert_eq!(blocks.bytes(2), wanted);
}

#[test]
fn c11_a_notification_comes_after_what_it_depends_on() {
    let (blocks, (calls, done)) = (Blocks::new(2), Calls::new());
    let mut engine = cpu();
    let mut copy = engine.chain();
    let node = copy.push(Op::Copy { src: blocks.at(0), dst: blocks.at(1) }, &[]).unwrap();
    copy.push(Op::Notify, &[node]).unwrap();
    let tx = engine.submit_tx(copy, Submit::default());
    engine.trigger_callback(tx, done).ack();
    poll(&mut engine);
    assert_eq!((calls.count(), blocks.bytes(0) == blocks.bytes(1)), (1, true));
}

#[test]
fn c12_quiesce_is_waiting_for_a_handle_and_acknowledging_it() {
    let (blocks, desk) = (Blocks::new(2), Desk::of_copies());
    let mut engine = desk.engine();
    let copy = chain(&[Op::Copy { src: blocks.at(0), dst: blocks.at(1) }]);
    let tx = engine.submit_tx(copy, Submit::default());
    let deadline = engine.now();
    assert_eq!(engine.wait(&tx, deadline), Err(WaitError::Deadline), "it never waits without an end");
    desk.complete(0);
    assert_eq!(engine.wait(&tx, deadline), Ok(Verdict::default()));
    tx.ack();
    assert_eq!(engine.descriptors(), (1, 1), "it can be used again");
}

#[test]
fn c13_pieces_of_any_size_are_copied_in() {
    let blocks = Blocks::new(2);
    // As the segments of a request: their bounds are those of nobody's pages.
    let pieces = [(0, 1, 100), (100, 150, 31), (131, 40, 125)];
    let mut gather = Chain::new();
    for (to, from, len) in pieces {
        let (src, dst) = (blocks.part(0, from, len), blocks.part(1, to, len));
        gather.push(Op::Copy { src, dst }, &[]).unwrap();
    }
    cpu().run(gather).unwrap();
    for (to, from, len) in pieces {
        assert_eq!(blocks.bytes(1)[to..to + len], blocks.bytes(0)[from..from + len]);
    }
}

#[test]
fn c14_partial_parity_is_the_sum_of_what_is_not_written() {
    let blocks = Blocks::new(6);
    // Block 1 will be written; 0 and 2 stay.
    run(Op::Xor { srcs: &[blocks.at(0), blocks.at(2)], dst: blocks.at(4), mode: XorMode::Overwrite });
    blocks.set(1, &blocks.bytes(5));
    // With the new data it is the new parity, whatever became of the old one.
    run(Op::Xor { srcs: &[blocks.at(4), blocks.at(1)], dst: blocks.at(3), mode: XorMode::Overwrite });
    assert_eq!(blocks.bytes(3), blocks.sum(&[0, 1, 2]));
}

#[test]
fn c15_crc_compare_and_dualcast_are_added() {
    let blocks = Blocks::new(4);
    let mut text = blocks.bytes(0);
    text[..9].copy_from_slice(b"123456789");
    blocks.set(0, &text);
    let (head, tail, crc) = (blocks.part(0, 0, 4), blocks.part(0, 4, 5), blocks.part(3, 0, 4));
    run(Op::Crc32c { src: head, seed: Seed::Value(0), crc });
    run(Op::CopyCrc32c {
        src: tail,
        dst: blocks.part(1, 4, 5),
        seed: Seed::From(crc),
        crc: blocks.part(3, 8, 4),
    });
    assert_eq!(blocks.bytes(3)[8..12], 0xe306_9283u32.to_le_bytes());
    assert_eq!(blocks.bytes(1)[4..9], *b"56789");
    run(Op::Dualcast { src: blocks.at(0), dst: [blocks.at(1), blocks.at(2)] });
    assert_eq!((blocks.bytes(1), blocks.bytes(2)), (text.clone(), text));
    assert!(!run(Op::Compare { a: blocks.at(1), b: blocks.at(2) }).differs);
    assert!(run(Op::Compare { a: blocks.at(0), b: blocks.at(3) }).differs);
}
