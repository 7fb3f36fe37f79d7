//! The decision about one column as tables, and against an exhaustive count.
//!
//! A column is written as words, data first, then parity after the bar. A word is made of letters:
//! `.` nothing known, `w` wholly and `p` partly dirty, `c` cached, `b` failed to read (but takes writes),
//! `x` its member is gone. A decision is written as `rcw|rmw|plain`, what is read, and what is recovered.

#![expect(clippy::expect_used, reason = "a test says what went wrong by panicking")]

use uraid_core::blocks::Lanes;
use uraid_core::decide::{Block, Column, Decision, Dirty, Fetch, Method, Unrecoverable, decide_write, fetch};

fn block(word: &str) -> Block {
    let has = |c: char| word.contains(c);
    Block {
        dirty: match (has('w'), has('p')) {
            (true, _) => Dirty::Wholly,
            (_, true) => Dirty::Partly,
            _ => Dirty::No,
        },
        cached: has('c'),
        readable: !has('x') && !has('b'),
        writable: !has('x'),
    }
}

/// The blocks of a column and how many of them are data.
fn column(text: &str) -> (Vec<Block>, u16) {
    let (data, parity) = text.split_once('|').expect("a bar before parity");
    let blocks: Vec<Block> = data.split_whitespace().chain(parity.split_whitespace()).map(block).collect();
    (blocks, data.split_whitespace().count() as u16)
}

fn lanes(set: impl Iterator<Item = u16>, data: u16) -> String {
    let name = |l: u16| match l.checked_sub(data) {
        None => l.to_string(),
        Some(0) => "P".into(),
        Some(_) => "Q".into(),
    };
    let names: String = set.map(name).collect();
    if names.is_empty() { "-".into() } else { names }
}

fn say_fetch(f: &Fetch, data: u16) -> String {
    let mut text = format!("read {}", lanes(f.load.iter(), data));
    if !f.recover.is_empty() {
        let by = match (f.use_p, f.use_q) {
            (true, true) => " by PQ",
            (true, false) => " by P",
            (false, true) => " by Q",
            (false, false) => " by data",
        };
        text += &format!(" recover {}{by}", lanes(f.recover.iter(), data));
    }
    text
}

fn say(decision: Result<Decision, Unrecoverable>, data: u16) -> String {
    let Ok(d) = decision else { return "unrecoverable".into() };
    let method = match d.method {
        Method::Reconstruct => "rcw",
        Method::ReadModify => "rmw",
        Method::Plain => "plain",
    };
    format!("{method} {}", say_fetch(&d.fetch, data))
}

/// Rows of column and decision, parity trusted or not.
fn check_writes(trusted: bool, rows: &[(&str, &str)]) {
    for &(text, want) in rows {
        let (blocks, data) = column(text);
        let have = say(decide_write(&Column { blocks: &blocks, data, trusted }), data);
        assert_eq!(have, want, "for {text:?}, trusted: {trusted}");
    }
}

#[test]
fn the_cheaper_way_is_taken_and_a_tie_reconstructs() {
    check_writes(
        true,
        &[
            // RAID 5 of 4: one block costs two reads either way.
            ("w . . | .", "rcw read 12"),
            ("p . . | .", "rmw read 0P"),
            // RAID 5 of 5: one block.
            ("w . . . | .", "rmw read 0P"),
            (". . w . | .", "rmw read 2P"),
            // Two of three blocks, and all of them.
            ("w w . | .", "rcw read 2"),
            ("w . w | .", "rcw read 1"),
            ("w w w | .", "rcw read -"),
            // RAID 5 of 3 is a tie at one block.
            ("w . | .", "rcw read 1"),
            // RAID 6: of 5 and 6 reconstruct, of 7 modify.
            ("w . . | . .", "rcw read 12"),
            ("w . . . | . .", "rcw read 123"),
            ("w . . . . | . .", "rmw read 0PQ"),
            ("w w w w w | . .", "rcw read -"),
        ],
    );
}

#[test]
fn partly_dirty_blocks_must_be_read_by_either_way() {
    check_writes(
        true,
        &[
            ("p p p | .", "rcw read 012"),
            ("p w w | .", "rcw read 0"),
            ("p w . | .", "rcw read 02"),
            ("p . . . | .", "rmw read 0P"),
            ("p . | . .", "rcw read 01"),
            ("p . . . | . .", "rmw read 0PQ"),
        ],
    );
}

#[test]
fn cached_blocks_cost_nothing() {
    check_writes(
        true,
        &[
            ("wc . . | c", "rmw read -"),
            ("w . . | c", "rmw read 0"),
            ("w c c | .", "rcw read -"),
            ("w c . . | .", "rcw read 23"),
            ("wc . . . . | c .", "rmw read Q"),
            ("pc c c | .", "rcw read -"),
            // All is there: a tie.
            ("wc c c | c", "rcw read -"),
        ],
    );
}

#[test]
fn untrusted_parity_is_never_modified() {
    check_writes(
        false,
        &[
            ("w . . . | .", "rcw read 123"),
            ("p . . . . | . .", "rcw read 01234"),
            ("wc . . | c", "rcw read 12"),
            ("w w w | .", "rcw read -"),
        ],
    );
}

#[test]
fn parity_that_failed_to_read_is_computed_anew() {
    check_writes(
        true,
        &[
            ("w . . . | b", "rcw read 123"),
            ("w . . . . | b .", "rcw read 1234"),
            ("w . . . . | . b", "rcw read 1234"),
            // Its content is known after all: it can be modified and is written.
            ("w . . . | bc", "rmw read 0"),
        ],
    );
}

#[test]
fn a_lost_parity_is_left_alone_and_no_parity_is_plain() {
    check_writes(
        true,
        &[
            ("w . . . | x .", "rmw read 0Q"),
            ("w . . . | . x", "rmw read 0P"),
            ("w . . | x .", "rcw read 12"),
            ("w . . | x", "plain read -"),
            ("p . . | x", "plain read 0"),
            ("pc . . | x", "plain read -"),
            ("w p . | x x", "plain read 1"),
            ("w w w | x x", "plain read -"),
            // Nobody keeps parity up, so there is nothing to recover from.
            ("px . . | x", "unrecoverable"),
            ("wx . . | x", "plain read -"),
        ],
    );
}

#[test]
fn lost_data_on_raid5() {
    check_writes(
        true,
        &[
            // Untouched: modify without it; reconstructing would need it.
            ("w x . | .", "rmw read 0P"),
            ("w x . . | .", "rmw read 0P"),
            ("w w x | .", "rcw read 01P recover 2 by P"),
            // Wholly overwritten: only its parity is written.
            ("wx . . | .", "rcw read 12"),
            ("wx w . | .", "rcw read 2"),
            // Partly overwritten: first recovered.
            ("px . . | .", "rcw read 12P recover 0 by P"),
            // It is still in the cache.
            ("pxc . . | .", "rmw read P"),
            // A block that failed to read is the same, but it is written as well.
            ("wb . . | .", "rcw read 12"),
            ("pb . . | .", "rcw read 12P recover 0 by P"),
        ],
    );
}

#[test]
fn lost_data_on_raid6() {
    check_writes(
        true,
        &[
            ("px . . | . .", "rcw read 12P recover 0 by P"),
            ("px . . | b .", "rcw read 12Q recover 0 by Q"),
            ("px . . | x .", "rcw read 12Q recover 0 by Q"),
            ("w x . . . | . .", "rmw read 0PQ"),
            ("px x . | . .", "rcw read 2PQ recover 01 by PQ"),
            // The first is overwritten, but the second can't be had without it.
            ("wx x . | . .", "rcw read 2PQ recover 01 by PQ"),
            ("wx wx . | . .", "rcw read 2"),
            // A tie again.
            ("w x x | . .", "rcw read 0PQ recover 12 by PQ"),
            ("w w x x | . .", "rcw read 01PQ recover 23 by PQ"),
            ("w x x . | . .", "rmw read 0PQ"),
            ("w x . | x .", "rmw read 0Q"),
        ],
    );
}

#[test]
fn what_parity_does_not_cover_is_refused() {
    for trusted in [true, false] {
        check_writes(
            trusted,
            &[
                ("px x . | .", "unrecoverable"),
                ("px . . | b", "unrecoverable"),
                ("wx x . | .", "unrecoverable"),
                ("px x . | x .", "unrecoverable"),
                ("px x . | b .", "unrecoverable"),
                ("px x x | . .", "unrecoverable"),
            ],
        );
    }
    // Modifying does not need the lost block, as long as parity can be trusted.
    check_writes(true, &[("w b b | .", "rmw read 0P")]);
    check_writes(false, &[("w b b | .", "unrecoverable")]);
}

#[test]
fn fetch_recovers_only_what_is_asked_for() {
    #[rustfmt::skip]
    let rows: &[(&str, &[u16], &str)] = &[
        (". . . | .", &[0, 2], "read 02"),
        ("c . . | .", &[0, 1], "read 1"),
        ("x . . | .", &[1, 2], "read 12"),
        ("x . . | .", &[0], "read 12P recover 0 by P"),
        ("x c c | c", &[0], "read - recover 0 by P"),
        ("x . . | . .", &[0], "read 12P recover 0 by P"),
        ("x . . | x .", &[0], "read 12Q recover 0 by Q"),
        ("x x . | . .", &[1], "read 2PQ recover 01 by PQ"),
        // Parity itself.
        (". . . | b", &[3], "read 012 recover P by data"),
        (". . . | b b", &[3, 4], "read 012 recover PQ by data"),
        (". . . | b .", &[3], "read 012 recover P by data"),
        ("x . . | b .", &[3], "read 12Q recover 0P by Q"),
        ("x . . | . b", &[4], "read 12P recover 0Q by P"),
        ("x . . | b .", &[0, 3], "read 12Q recover 0P by Q"),
        ("x . . | b .", &[4], "read Q"),
        // Too much is lost.
        ("x . . | x", &[0], "unrecoverable"),
        ("x x . | .", &[0], "unrecoverable"),
        ("x x . | . x", &[1], "unrecoverable"),
        ("x . . | x x", &[0], "unrecoverable"),
        ("x x . | . x", &[4], "unrecoverable"),
        // But what is there can still be read.
        ("x x . | x", &[2], "read 2"),
    ];
    for &(text, need, want) in rows {
        let (blocks, data) = column(text);
        let need: Lanes = need.iter().copied().collect();
        let have = fetch(&Column { blocks: &blocks, data, trusted: true }, &need);
        let have = have.map_or("unrecoverable".into(), |f| say_fetch(&f, data));
        assert_eq!(have, want, "for {text:?}");
    }
}

/// The states a block can be in: dirty or not, cached or not, and healthy, failed to read, or gone.
fn states(parity: bool) -> Vec<Block> {
    let dirt: &[Dirty] = if parity { &[Dirty::No] } else { &[Dirty::No, Dirty::Partly, Dirty::Wholly] };
    let mut all = vec![];
    for &dirty in dirt {
        for cached in [false, true] {
            for (readable, writable) in [(true, true), (false, true), (false, false)] {
                all.push(Block { dirty, cached, readable, writable });
            }
        }
    }
    all
}

/// Calls `visit` for every choice of `k` data states, but for their order, and every choice of parity.
fn every_column(k: usize, parity: usize, visit: &mut impl FnMut(&[Block])) {
    let (data, par) = (states(false), states(true));
    let mut pick = vec![0; k];
    let mut turn = 0;
    loop {
        for which in 0..par.len().pow(parity as u32) {
            let mut blocks: Vec<Block> = pick.iter().map(|&i| data[i]).collect();
            // The order of the lanes must not matter: a different one each time.
            turn += 1;
            blocks.rotate_left(turn % k);
            blocks.extend((0..parity).map(|i| par[which / par.len().pow(i as u32) % par.len()]));
            visit(&blocks);
        }
        let Some(i) = (0..k).rev().find(|&i| pick[i] + 1 < data.len()) else { return };
        let next = pick[i] + 1;
        pick[i..].fill(next);
    }
}

/// Counting for a code where any k of the k + m blocks of a column give all others: the reads that bring
/// `need` into the cache, with all data as sources and P before Q. `None` if it can't be done.
fn count_fetch(blocks: &[Block], k: usize, need: &[usize]) -> Option<usize> {
    let known = |i: &usize| blocks[*i].cached || blocks[*i].readable;
    let reads = |set: &[usize]| set.iter().filter(|&&i| !blocks[i].cached).count();
    if need.iter().all(known) {
        return Some(reads(need));
    }
    let mut sources: Vec<usize> = (0..k).filter(known).collect();
    for parity in (k..blocks.len()).filter(known) {
        if sources.len() < k || need.contains(&parity) {
            sources.push(parity);
        }
    }
    (sources.len() >= k).then(|| reads(&sources))
}

/// The reads of the cheapest way to write, and whether that is read-modify-write.
fn count_write(blocks: &[Block], k: usize, trusted: bool) -> Option<(usize, Method)> {
    let pick = |ok: &dyn Fn(&Block) -> bool| (0..k).filter(|&i| ok(&blocks[i])).collect::<Vec<_>>();
    if blocks[k..].iter().all(|b| !b.writable) {
        let partly = pick(&|b| b.dirty == Dirty::Partly);
        return Some((count_fetch(blocks, k, &partly)?, Method::Plain));
    }
    let mut olds = pick(&|b| b.dirty != Dirty::No);
    olds.extend((k..blocks.len()).filter(|&i| blocks[i].writable));
    let can_modify = trusted && olds.iter().all(|&i| blocks[i].cached || blocks[i].readable);
    let modify = can_modify.then(|| olds.iter().filter(|&&i| !blocks[i].cached).count());
    let reconstruct = count_fetch(blocks, k, &pick(&|b| b.dirty != Dirty::Wholly));
    match (reconstruct, modify) {
        (Some(r), Some(m)) if m < r => Some((m, Method::ReadModify)),
        (Some(r), _) => Some((r, Method::Reconstruct)),
        (None, Some(m)) => Some((m, Method::ReadModify)),
        (None, None) => None,
    }
}

/// What is loaded can be read, is not there yet, and gives what is to be recovered.
fn check_feasible(blocks: &[Block], k: usize, need: &[usize], f: &Fetch) {
    let at = |l: u16| &blocks[usize::from(l)];
    assert!(f.load.iter().all(|l| at(l).readable && !at(l).cached), "reads what it can't or need not");
    let there = |l: usize| blocks[l].cached || f.load.has(l as u16);
    let recovered = |l: usize| f.recover.has(l as u16);
    assert!(need.iter().all(|&l| there(l) || recovered(l)), "a needed block is not to be had");
    assert!(f.recover.iter().all(|l| !at(l).cached && !at(l).readable), "recovers what it could read");
    if f.recover.is_empty() {
        assert!(!f.use_p && !f.use_q);
        return;
    }
    // The data equations close: each other data block is there, and each unknown has a parity block.
    let unknown = f.recover.iter().filter(|&l| usize::from(l) < k).count();
    assert!((0..k).all(|l| there(l) || recovered(l)), "a source is missing");
    assert!((!f.use_p || there(k)) && (!f.use_q || there(k + 1)), "a parity source is missing");
    assert!(!f.use_p || !recovered(k), "P is recovered from itself");
    assert!(!f.use_q || !recovered(k + 1), "Q is recovered from itself");
    assert_eq!(usize::from(f.use_p) + usize::from(f.use_q), unknown, "as many equations as unknowns");
}

fn check_exhaustively(n: usize, parity: usize) {
    let k = n - parity;
    let mut seen = 0u64;
    every_column(k, parity, &mut |blocks| {
        for trusted in [true, false] {
            let column = Column { blocks, data: k as u16, trusted };
            let want = count_write(blocks, k, trusted);
            let have = decide_write(&column);
            let reads = have.map(|d| (d.fetch.load.count() as usize, d.method)).ok();
            assert_eq!(reads, want, "{column:?}: {have:?}");
            let Ok(d) = have else { continue };
            let need: Vec<usize> = (0..blocks.len())
                .filter(|&l| match d.method {
                    Method::Reconstruct => l < k && blocks[l].dirty != Dirty::Wholly,
                    Method::Plain => l < k && blocks[l].dirty == Dirty::Partly,
                    Method::ReadModify if l < k => blocks[l].dirty != Dirty::No,
                    Method::ReadModify => blocks[l].writable,
                })
                .collect();
            check_feasible(blocks, k, &need, &d.fetch);
            assert!(d.method != Method::ReadModify || trusted, "modifies parity that is not trusted");
        }
        seen += 1;
    });
    assert!(seen > 100, "{seen} columns");
}

#[test]
fn every_column_of_raid5() {
    (3..=6).for_each(|n| check_exhaustively(n, 1));
}

#[test]
fn every_column_of_raid6() {
    (4..=6).for_each(|n| check_exhaustively(n, 2));
}

#[test]
fn every_fetch_of_small_columns() {
    for (n, parity) in [(3, 1), (4, 1), (5, 1), (4, 2), (5, 2), (6, 2)] {
        let k = n - parity;
        every_column(k, parity, &mut |blocks| {
            if blocks[..k].iter().any(|b| b.dirty != Dirty::No) {
                return;
            }
            for mask in 0..1u32 << n {
                let need: Vec<usize> = (0..n).filter(|l| mask >> l & 1 == 1).collect();
                let lanes: Lanes = need.iter().map(|&l| l as u16).collect();
                let column = Column { blocks, data: k as u16, trusted: true };
                let have = fetch(&column, &lanes);
                let reads = have.map(|f| f.load.count() as usize).ok();
                assert_eq!(reads, count_fetch(blocks, k, &need), "{need:?} of {column:?}: {have:?}");
                if let Ok(f) = have {
                    check_feasible(blocks, k, &need, &f);
                }
            }
        });
    }
}
