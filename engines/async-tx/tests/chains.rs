//! What a chain accepts, what it refuses, and what it remembers.

use async_tx::*;

/// Memory whose regions are named but never touched.
struct Blocks {
    memory: Vec<u8>,
}

impl Blocks {
    fn new() -> Self {
        Blocks { memory: vec![0; 4096] }
    }

    /// `len` bytes at `offset`.
    fn at(&mut self, offset: usize, len: usize) -> Region {
        let bytes = &mut self.memory[offset..offset + len];
        // SAFETY: nothing in these tests reads or writes through a region.
        unsafe { Region::new(bytes.as_mut_ptr(), len) }
    }

    /// Block `i` of 64 bytes.
    fn block(&mut self, i: usize) -> Region {
        self.at(i * 64, 64)
    }
}

fn check(op: Op<'_>) -> Result<(), OpError> {
    let checked = op.check().map(|_| ());
    let mut chain = Chain::new();
    let pushed = chain.push(op, &[]).map(|_| ());
    assert_eq!(pushed, checked.map_err(ChainError::Op), "a chain accepts what the check accepts");
    assert_eq!(chain.len(), usize::from(checked.is_ok()), "what is refused leaves no trace");
    checked
}

#[test]
fn a_destination_that_shares_a_byte_with_another_operand_is_refused() {
    let mut blocks = Blocks::new();
    let (a, b, c) = (blocks.block(0), blocks.block(1), blocks.block(2));
    let touching = blocks.at(64 + 63, 64);
    let beside = blocks.at(128, 64);
    assert_eq!(check(Op::Copy { src: a, dst: a }), Err(OpError::Overlap));
    assert_eq!(check(Op::Copy { src: b, dst: touching }), Err(OpError::Overlap));
    assert_eq!(check(Op::Copy { src: touching, dst: b }), Err(OpError::Overlap));
    assert_eq!(check(Op::Copy { src: b, dst: beside }), Ok(()));
    for mode in [XorMode::Overwrite, XorMode::Accumulate] {
        assert_eq!(check(Op::Xor { srcs: &[a, b], dst: b, mode }), Err(OpError::Overlap));
        assert_eq!(check(Op::Xor { srcs: &[a, a], dst: b, mode }), Ok(()), "sources may be the same");
    }
    let data = [Some(a), None, Some(b)];
    assert_eq!(check(Op::Pq { data: &data, p: Some(c), q: Some(c) }), Err(OpError::Overlap));
    assert_eq!(check(Op::Pq { data: &data, p: Some(a), q: None }), Err(OpError::Overlap));
    assert_eq!(check(Op::PqVal { data: &data, p: Some(a), q: Some(a) }), Ok(()), "it only reads");
    let change = |exponent| Change { exponent, old: Some(a), new: Some(a) };
    let changes = [change(0)];
    let update = |p, q| Op::PqUpdate { changes: &changes, p, q };
    assert_eq!(check(update(Some(a), None)), Err(OpError::Overlap));
    assert_eq!(check(update(Some(b), Some(b))), Err(OpError::Overlap));
    assert_eq!(check(update(Some(b), Some(c))), Ok(()));
    let lost = Lost::new(&[0], false, false).unwrap();
    let recover = |data: &[_]| check(Op::Recover { data, p: Some(c), q: None, lost });
    assert_eq!(recover(&[Some(a), Some(a)]), Err(OpError::Overlap));
    assert_eq!(recover(&[Some(c), Some(a)]), Err(OpError::Overlap));
    assert_eq!(recover(&[Some(a), Some(b), Some(b)]), Ok(()));
}

#[test]
fn lengths_that_differ_and_empty_operands_are_refused() {
    let mut blocks = Blocks::new();
    let (a, short, empty) = (blocks.block(0), blocks.at(64, 63), blocks.at(128, 0));
    let differ = Err(OpError::Length { expected: 64, found: 63 });
    assert_eq!(check(Op::Copy { src: a, dst: short }), differ);
    assert_eq!(check(Op::Pq { data: &[Some(short)], p: Some(a), q: None }), differ);
    assert_eq!(check(Op::Fill { dst: empty, byte: 1 }), Err(OpError::Empty));
    assert_eq!(check(Op::XorVal { srcs: &[empty] }), Err(OpError::Empty));
}

#[test]
fn counts_exponents_and_missing_parities_are_refused() {
    let mut blocks = Blocks::new();
    let (a, b) = (blocks.block(0), blocks.block(1));
    assert_eq!(check(Op::XorVal { srcs: &[] }), Err(OpError::SourceCount { count: 0 }));
    assert_eq!(check(Op::XorVal { srcs: &[a; 256] }), Err(OpError::SourceCount { count: 256 }));
    assert_eq!(check(Op::XorVal { srcs: &[a; 255] }), Ok(()));
    assert_eq!(check(Op::Pq { data: &[Some(a)], p: None, q: None }), Err(OpError::NoParity));
    assert_eq!(check(Op::PqVal { data: &[None], p: None, q: None }), Err(OpError::NoParity));
    let update = |exponent, old, new| {
        check(Op::PqUpdate { changes: &[Change { exponent, old, new }], p: None, q: Some(b) })
    };
    assert_eq!(update(254, Some(a), Some(a)), Ok(()));
    assert_eq!(update(254, None, Some(a)), Ok(()));
    assert_eq!(update(254, None, None), Err(OpError::Unchanged { exponent: 254 }));
    assert_eq!(update(255, Some(a), Some(a)), Err(OpError::Exponent { exponent: 255 }));
}

#[test]
fn only_losses_that_the_parities_can_tell_are_accepted() {
    let mut blocks = Blocks::new();
    let data = [Some(blocks.block(0)), None, Some(blocks.block(1)), Some(blocks.block(2))];
    let (p, q) = (Some(blocks.block(3)), Some(blocks.block(4)));
    let recover = |lost: &[u8], (p, lost_p), (q, lost_q)| {
        let lost = Lost::new(lost, lost_p, lost_q)?;
        check(Op::Recover { data: &data, p, q, lost })
    };
    let (good_p, good_q, bad_p, bad_q, none) = ((p, false), (q, false), (p, true), (q, true), (None, false));
    for (lost, p, q) in [
        (&[0][..], good_p, none),
        (&[0], none, good_q),
        (&[2], good_p, bad_q),
        (&[2], bad_p, good_q),
        (&[2], good_p, good_q),
        (&[0, 3], good_p, good_q),
        (&[3, 0], good_p, good_q),
        (&[], bad_p, bad_q),
        (&[], good_p, bad_q),
        (&[], bad_p, none),
    ] {
        assert_eq!(recover(lost, p, q), Ok(()), "{lost:?} {p:?} {q:?}");
    }
    for (lost, p, q) in [
        (&[0][..], none, none),
        (&[0], bad_p, none),
        (&[0], bad_p, bad_q),
        (&[0, 2], good_p, none),
        (&[0, 2], bad_p, good_q),
        (&[0, 0], good_p, good_q),
        (&[0, 2, 3], good_p, good_q),
        (&[], good_p, good_q),
    ] {
        assert_eq!(recover(lost, p, q), Err(OpError::Unrecoverable), "{lost:?} {p:?} {q:?}");
    }
    assert_eq!(recover(&[1], good_p, good_q), Err(OpError::Exponent { exponent: 1 }), "a zero block");
    assert_eq!(recover(&[4], good_p, good_q), Err(OpError::Exponent { exponent: 4 }), "no such block");
    assert_eq!(recover(&[0], good_p, (None, true)), Err(OpError::NoParity));
}

#[test]
fn dependencies_must_be_earlier_nodes() {
    let mut long = Chain::new();
    let first = long.push(Op::Notify, &[]).unwrap();
    let second = long.push(Op::Notify, &[first]).unwrap();
    let third = long.push_next(Op::Notify).unwrap();
    assert_eq!(long.deps(third.index()), [second]);
    let mut short = Chain::new();
    short.push(Op::Notify, &[]).unwrap();
    let unknown = ChainError::UnknownDependency { index: 1, nodes: 1 };
    assert_eq!(short.push(Op::Notify, &[first, second]), Err(unknown));
    assert_eq!((short.len(), short.deps(0).len()), (1, 0));
}

#[test]
fn a_chain_gives_back_what_was_pushed_and_nothing_after_clear() {
    let mut blocks = Blocks::new();
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|i| blocks.block(i));
    let data = [Some(a), None, Some(b)];
    let (p, q) = (Some(c), Some(d));
    let ops = [
        Op::Notify,
        Op::Copy { src: a, dst: b },
        Op::Fill { dst: a, byte: 7 },
        Op::Xor { srcs: &[a, b], dst: c, mode: XorMode::Accumulate },
        Op::XorVal { srcs: &[d, c, b] },
        Op::Pq { data: &data, p, q },
        Op::PqVal { data: &[Some(e)], p, q: None },
        Op::PqUpdate { changes: &[Change { exponent: 3, old: Some(a), new: Some(b) }], p, q },
        Op::Recover { data: &data, p, q, lost: Lost::new(&[0, 2], false, false).unwrap() },
    ];
    let mut chain = Chain::new();
    for round in 0..2 {
        for op in ops {
            chain.push_next(op).unwrap();
        }
        assert!(chain.ops().map(|op| *op).eq(ops), "round {round}");
        assert_eq!(chain.op(5).map(|op| op.kind()), Some(OpKind::Pq));
        assert_eq!(chain.op(ops.len()), None);
        chain.clear();
        assert!(chain.is_empty() && chain.ops().next().is_none());
    }
}

#[test]
fn operations_conflict_when_one_writes_what_the_other_touches() {
    let mut blocks = Blocks::new();
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| blocks.block(i));
    let half = blocks.at(32, 64);
    let copy = |src, dst| Op::Copy { src, dst };
    for (first, second, conflict) in [
        (copy(a, b), copy(a, c), false),
        (copy(a, b), copy(c, d), false),
        (copy(a, b), copy(b, c), true),
        (copy(b, c), copy(a, b), true),
        (copy(a, b), copy(c, b), true),
        (copy(half, c), Op::Fill { dst: a, byte: 0 }, true),
        (Op::XorVal { srcs: &[a, b] }, copy(c, d), false),
        (Op::XorVal { srcs: &[a, b] }, copy(c, b), true),
        (Op::Notify, copy(a, b), false),
    ] {
        assert_eq!(first.conflicts_with(&second), conflict, "{first:?} {second:?}");
        assert_eq!(second.conflicts_with(&first), conflict, "{second:?} {first:?}");
    }
}

#[test]
fn a_part_lies_inside_its_region() {
    let mut blocks = Blocks::new();
    let region = blocks.at(10, 100);
    let part = region.part(20, 30).unwrap();
    assert_eq!((part.as_ptr() as usize - region.as_ptr() as usize, part.len()), (20, 30));
    assert_eq!(region.part(0, 100), Some(region));
    assert!(region.part(100, 0).unwrap().is_empty());
    for (offset, len) in [(0, 101), (100, 1), (101, 0), (1, usize::MAX), (usize::MAX, 1)] {
        assert_eq!(region.part(offset, len), None, "{offset} {len}");
    }
}
