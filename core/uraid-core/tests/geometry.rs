//! Geometry against tables of md's layouts, and against its own inverse.
//!
//! A table line is one row of chunks: what each role holds, from role 0 on. `7:1` is array chunk 7 with
//! the coefficient {02}^1 in Q; RAID 5 has no coefficients and its chunks stand alone.

#![expect(clippy::expect_used, reason = "a test says what went wrong by panicking")]

use md_format::{Layout, Level};
use std::collections::BTreeSet;
use uraid_core::{BLOCK, Geometry, GeometryError, MAX_MEMBERS, MAX_STRIP, Role};

const KIB: u64 = 1024;

/// RAID 5: layout number, then its rows.
const RAID5_OF_4: &[(u32, &[&str])] = &[
    (0, &["0 1 2 P", "3 4 P 5", "6 P 7 8", "P 9 10 11"]),
    (1, &["P 0 1 2", "3 P 4 5", "6 7 P 8", "9 10 11 P"]),
    (2, &["0 1 2 P", "4 5 P 3", "8 P 6 7", "P 9 10 11"]),
    (3, &["P 0 1 2", "5 P 3 4", "7 8 P 6", "9 10 11 P"]),
    (4, &["P 0 1 2"]),
    (5, &["0 1 2 P"]),
];

const RAID5_OF_5: &[(u32, &[&str])] = &[
    (0, &["0 1 2 3 P", "4 5 6 P 7", "8 9 P 10 11", "12 P 13 14 15", "P 16 17 18 19"]),
    (2, &["0 1 2 3 P", "5 6 7 P 4", "10 11 P 8 9", "15 P 12 13 14", "P 16 17 18 19"]),
];

const RAID6_OF_4: &[(u32, &[&str])] = &[
    (0, &["Q 0:0 1:1 P", "2:0 3:1 P Q", "4:1 P Q 5:0", "P Q 6:0 7:1"]),
    (2, &["Q 0:0 1:1 P", "2:0 3:1 P Q", "5:1 P Q 4:0", "P Q 6:0 7:1"]),
];

#[rustfmt::skip]
const RAID6_OF_5: &[(u32, &[&str])] = &[
    (0, &["Q 0:0 1:1 2:2 P", "3:0 4:1 5:2 P Q", "6:1 7:2 P Q 8:0", "9:2 P Q 10:0 11:1", "P Q 12:0 13:1 14:2"]),
    (1, &["P Q 0:0 1:1 2:2", "3:2 P Q 4:0 5:1", "6:1 7:2 P Q 8:0", "9:0 10:1 11:2 P Q", "Q 12:0 13:1 14:2 P"]),
    (2, &["Q 0:0 1:1 2:2 P", "3:0 4:1 5:2 P Q", "7:1 8:2 P Q 6:0", "11:2 P Q 9:0 10:1", "P Q 12:0 13:1 14:2"]),
    (3, &["P Q 0:0 1:1 2:2", "5:2 P Q 3:0 4:1", "7:1 8:2 P Q 6:0", "9:0 10:1 11:2 P Q", "Q 12:0 13:1 14:2 P"]),
    (4, &["P Q 0:0 1:1 2:2"]),
    (5, &["0:0 1:1 2:2 P Q"]),
    (8, &["P Q 0:2 1:3 2:4", "3:0 P Q 4:3 5:4", "6:0 7:1 P Q 8:4", "9:0 10:1 11:2 P Q", "Q 12:1 13:2 14:3 P"]),
    (9, &["0:0 1:1 2:2 P Q", "3:0 4:1 P Q 5:4", "6:0 P Q 7:3 8:4", "P Q 9:2 10:3 11:4", "Q 12:1 13:2 14:3 P"]),
    (10, &["0:0 1:1 2:2 Q P", "4:0 5:1 Q P 3:4", "8:0 Q P 6:3 7:4", "Q P 9:2 10:3 11:4", "P 12:1 13:2 14:3 Q"]),
    (16, &["0:0 1:1 2:2 P Q", "3:0 4:1 P 5:2 Q", "6:0 P 7:1 8:2 Q", "P 9:0 10:1 11:2 Q"]),
    (17, &["P 0:0 1:1 2:2 Q", "3:0 P 4:1 5:2 Q", "6:0 7:1 P 8:2 Q", "9:0 10:1 11:2 P Q"]),
    (18, &["0:0 1:1 2:2 P Q", "4:0 5:1 P 3:2 Q", "8:0 P 6:1 7:2 Q", "P 9:0 10:1 11:2 Q"]),
    (19, &["P 0:0 1:1 2:2 Q", "5:0 P 3:1 4:2 Q", "7:0 8:1 P 6:2 Q", "9:0 10:1 11:2 P Q"]),
    (20, &["P 0:0 1:1 2:2 Q"]),
];

#[rustfmt::skip]
const RAID6_OF_6: &[(u32, &[&str])] = &[
    (0, &["Q 0:0 1:1 2:2 3:3 P", "4:0 5:1 6:2 7:3 P Q", "8:1 9:2 10:3 P Q 11:0",
          "12:2 13:3 P Q 14:0 15:1", "16:3 P Q 17:0 18:1 19:2", "P Q 20:0 21:1 22:2 23:3"]),
    (2, &["Q 0:0 1:1 2:2 3:3 P", "4:0 5:1 6:2 7:3 P Q", "9:1 10:2 11:3 P Q 8:0",
          "14:2 15:3 P Q 12:0 13:1", "19:3 P Q 16:0 17:1 18:2", "P Q 20:0 21:1 22:2 23:3"]),
    (8, &["P Q 0:2 1:3 2:4 3:5", "4:0 P Q 5:3 6:4 7:5", "8:0 9:1 P Q 10:4 11:5",
          "12:0 13:1 14:2 P Q 15:5", "16:0 17:1 18:2 19:3 P Q", "Q 20:1 21:2 22:3 23:4 P"]),
    (16, &["0:0 1:1 2:2 3:3 P Q", "4:0 5:1 6:2 P 7:3 Q", "8:0 9:1 P 10:2 11:3 Q",
           "12:0 P 13:1 14:2 15:3 Q", "P 16:0 17:1 18:2 19:3 Q"]),
];

fn geometry(level: Level, layout: u32, members: u16, chunk: u64, rows: u64) -> Geometry {
    let layout = Layout::from_number(level, layout).expect("a layout of this level");
    Geometry::new(level, layout, members, chunk, chunk * rows).expect("a possible geometry")
}

/// What a role holds in a row, in the words of the tables, by way of the public map.
fn cell(g: &Geometry, row: u64, role: u16) -> String {
    let stripe = row * g.bands();
    let pattern = g.pattern(stripe);
    let lane = pattern.lanes[usize::from(role)];
    if lane == g.p_lane() {
        return "P".into();
    }
    if Some(lane) == g.q_lane() {
        return "Q".into();
    }
    let chunk = g.array_offset(stripe, lane, 0) / g.chunk_bytes();
    match g.level() {
        Level::Raid6 => format!("{chunk}:{}", pattern.exponents[usize::from(lane)]),
        _ => chunk.to_string(),
    }
}

fn check_table(level: Level, members: u16, table: &[(u32, &[&str])]) {
    for &(layout, rows) in table {
        // Twice as many rows as the table has: the layouts repeat.
        let g = geometry(level, layout, members, 64 * KIB, 4 * rows.len() as u64);
        for (row, want) in (0u64..).zip(rows) {
            let have: Vec<String> = (0..members).map(|role| cell(&g, row, role)).collect();
            assert_eq!(have.join(" "), *want, "{level:?} layout {layout}, {members} members, row {row}");
            let again = row + rows.len() as u64;
            assert_eq!(g.pattern(row), g.pattern(again), "layout {layout} repeats after its table");
        }
    }
}

#[test]
fn raid5_rows_are_those_of_md() {
    check_table(Level::Raid5, 4, RAID5_OF_4);
    check_table(Level::Raid5, 5, RAID5_OF_5);
}

#[test]
fn raid6_rows_and_coefficients_are_those_of_md() {
    check_table(Level::Raid6, 4, RAID6_OF_4);
    check_table(Level::Raid6, 5, RAID6_OF_5);
    check_table(Level::Raid6, 6, RAID6_OF_6);
}

#[test]
fn the_table_of_five_members_has_every_layout_of_raid6() {
    let tabled: Vec<u32> = RAID6_OF_5.iter().map(|t| t.0).collect();
    let known: Vec<u32> = Layout::all(Level::Raid6).iter().map(|l| l.number()).collect();
    assert_eq!(tabled, known);
}

#[test]
fn raid4_keeps_parity_on_the_last_member() {
    check_table(Level::Raid4, 4, &[(0, &["0 1 2 P"])]);
    check_table(Level::Raid4, 3, &[(0, &["0 1 P"])]);
}

/// Role and member sector of an array sector, with the data at `data_offset` sectors.
fn locate(g: &Geometry, sector: u64, data_offset: u64) -> (Role, u64, Option<u8>) {
    let piece = g.piece(sector * 512, 512);
    let pattern = g.pattern(piece.stripe);
    let lane = usize::from(piece.lane);
    let at = (g.member_offset(piece.stripe) + u64::from(piece.offset)) / 512;
    (pattern.roles[lane], data_offset + at, pattern.exponents.get(lane).copied())
}

#[test]
fn worked_example_raid5() {
    let g = geometry(Level::Raid5, 2, 4, 64 * KIB, 10);
    let (role, sector, _) = locate(&g, 1000, 2048);
    assert_eq!((role, sector), (Role(3), 2408));
    let piece = g.piece(1000 * 512, 512);
    assert_eq!((piece.stripe, piece.lane, piece.offset), (2, 1, 104 * 512));
    assert_eq!(g.pattern(2).roles[usize::from(g.p_lane())], Role(1));
}

#[test]
fn worked_example_raid6() {
    let g = geometry(Level::Raid6, 2, 5, 64 * KIB, 10);
    assert_eq!(locate(&g, 1000, 0), (Role(0), 360, Some(1)));
    let roles = &g.pattern(2).roles;
    assert_eq!((roles[3], roles[4]), (Role(2), Role(3)), "P, then Q");
}

/// Every level, layout and number of members from the least to `most`.
fn every_shape(most: u16) -> impl Iterator<Item = (Level, Layout, u16)> {
    [Level::Raid4, Level::Raid5, Level::Raid6].into_iter().flat_map(move |level| {
        let least = if level.parity() == 2 { 4 } else { 3 };
        let layouts = Layout::all(level);
        layouts.into_iter().flat_map(move |layout| (least..=most).map(move |n| (level, layout, n)))
    })
}

/// Chunks with one band, with exactly one full band, and with several.
const CHUNKS: [u64; 6] = [4 * KIB, 64 * KIB, 256 * KIB, 512 * KIB, 2048 * KIB, 1 << 30];

#[test]
fn patterns_are_permutations_with_coefficients_of_their_own() {
    for (level, layout, n) in every_shape(12).chain(every_shape(255).filter(|s| s.2 > 250)) {
        let g = geometry_of(level, layout, n, 4 * KIB, 3 * u64::from(n));
        for row in 0..2 * u64::from(n) {
            let p = g.pattern(row);
            let roles: BTreeSet<u16> = p.roles.iter().map(|r| r.0).collect();
            assert_eq!(roles, (0..n).collect(), "{level:?} {layout:?} {n}: every role once");
            for (lane, role) in (0u16..).zip(&p.roles) {
                assert_eq!(p.lanes[usize::from(role.0)], lane, "{level:?} {layout:?} {n}");
            }
            let exponents: BTreeSet<u8> = p.exponents.iter().copied().collect();
            assert_eq!(exponents.len(), usize::from(g.data()), "{level:?} {layout:?} {n}: exponents differ");
            assert!(exponents.iter().all(|&e| e < 255), "powers of {{02}} repeat after 255");
            let listed: Vec<(usize, u16)> =
                p.by_exponent.iter().enumerate().filter_map(|(e, l)| l.map(|l| (e, l))).collect();
            assert_eq!(listed.len(), usize::from(g.data()));
            for (e, lane) in listed {
                assert_eq!(usize::from(p.exponents[usize::from(lane)]), e);
            }
        }
    }
}

fn geometry_of(level: Level, layout: Layout, n: u16, chunk: u64, rows: u64) -> Geometry {
    Geometry::new(level, layout, n, chunk, chunk * rows).expect("a possible geometry")
}

#[test]
fn map_and_inverse_agree_everywhere() {
    for (level, layout, n) in every_shape(12) {
        for chunk in CHUNKS {
            let rows = if chunk > 1 << 20 { 2 } else { u64::from(n) + 1 };
            let g = geometry_of(level, layout, n, chunk, rows);
            let what = format!("{level:?} {layout:?} {n} members, chunk {chunk}");
            assert_eq!(g.bands() * u64::from(g.strip_bytes()), chunk, "{what}");
            assert_eq!(g.stripes(), g.rows() * g.bands());
            // Both edges of every strip of a sample of stripes, and a sector in the middle.
            let step = (g.stripes() / 64).max(1);
            for stripe in (0..g.stripes()).step_by(step as usize) {
                for lane in 0..g.data() {
                    for offset in [0, g.strip_bytes() / 1024 * 512, g.strip_bytes() - 512] {
                        let at = g.array_offset(stripe, lane, offset);
                        assert!(at < g.array_bytes(), "{what}");
                        let piece = g.piece(at, 512);
                        assert_eq!(
                            (piece.stripe, piece.lane, piece.offset, piece.len),
                            (stripe, lane, offset, 512),
                            "{what}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn pieces_tile_a_request_and_no_member_byte_is_used_twice() {
    for (level, layout, n) in every_shape(6) {
        for chunk in [4 * KIB, 16 * KIB, 512 * KIB] {
            let g = geometry_of(level, layout, n, chunk, 3);
            let mut used = BTreeSet::new();
            let mut at = 0;
            while at < g.array_bytes() {
                let piece = g.piece(at, g.array_bytes() - at);
                assert!(piece.len > 0 && piece.offset + piece.len <= g.strip_bytes());
                let role = g.pattern(piece.stripe).roles[usize::from(piece.lane)];
                let member_byte = g.member_offset(piece.stripe) + u64::from(piece.offset);
                assert!(member_byte + u64::from(piece.len) <= g.rows() * chunk);
                assert!(used.insert((role, member_byte)), "{level:?} {layout:?} {n}: {at} lies on another");
                at += u64::from(piece.len);
            }
            assert_eq!(at, g.array_bytes());
            assert_eq!(used.len() as u64, g.stripes() * u64::from(g.data()));
        }
    }
}

#[test]
fn a_piece_ends_at_its_strip_or_with_the_request() {
    let g = geometry(Level::Raid5, 2, 4, 512 * KIB, 4);
    let strip = u64::from(g.strip_bytes());
    assert_eq!((strip, g.bands()), (u64::from(MAX_STRIP), 2));
    assert_eq!(g.piece(strip - 512, 4096).len, 512, "the strip ends before the chunk does");
    assert_eq!(g.piece(0, 512).len, 512);
    let next = g.piece(strip, 4096);
    assert_eq!((next.stripe, next.lane, next.offset), (1, 0, 0), "the next band, same chunk");
    assert_eq!((g.piece(2 * strip, 4096).stripe, g.piece(2 * strip, 4096).lane), (0, 1), "the next chunk");
}

#[test]
fn bands_of_a_row_follow_each_other_on_a_member() {
    let g = geometry(Level::Raid6, 2, 5, 1024 * KIB, 3);
    assert_eq!((g.bands(), g.strip_blocks()), (4, 64));
    for stripe in 0..g.stripes() {
        assert_eq!(g.member_offset(stripe), stripe * u64::from(MAX_STRIP));
        assert_eq!(g.pattern(stripe), g.pattern(stripe / 4 * 4), "all bands of a row look alike");
    }
}

#[test]
fn progress_in_sectors_counts_whole_rows_only() {
    for chunk in CHUNKS {
        let rows = 5;
        let g = geometry(Level::Raid5, 2, 4, chunk, rows);
        let sectors = chunk / 512;
        for stripes in 0..=g.stripes() {
            let covered = g.sectors_covered(stripes);
            assert_eq!(covered, stripes / g.bands() * sectors);
            let back = g.stripes_below(covered);
            assert!(back <= stripes && stripes - back < g.bands(), "never more than was done");
            if stripes.is_multiple_of(g.bands()) {
                assert_eq!(back, stripes);
            }
        }
        assert_eq!(g.stripes_below(0), 0);
        assert_eq!(g.stripes_below(sectors - 1), 0, "a row that is not whole does not count");
        assert_eq!(g.stripes_below(sectors), g.bands());
        assert_eq!(g.stripes_below(rows * sectors), g.stripes());
        assert_eq!(g.stripes_below(u64::MAX), g.stripes(), "beyond the end is the end");
    }
}

#[test]
fn a_part_of_a_chunk_at_the_end_is_not_used() {
    let layout = Layout::LeftSymmetric;
    let g = Geometry::new(Level::Raid5, layout, 3, 64 * KIB, 3 * 64 * KIB + 32 * KIB).expect("possible");
    assert_eq!((g.rows(), g.array_bytes()), (3, 2 * 3 * 64 * KIB));
}

#[test]
fn impossible_geometries_are_refused_with_the_reason() {
    let new = |level, layout, members, chunk, bytes| Geometry::new(level, layout, members, chunk, bytes);
    let ls = Layout::LeftSymmetric;
    let members = |r: Result<Geometry, GeometryError>| matches!(r, Err(GeometryError::Members { .. }));
    for (level, least) in [(Level::Raid4, 3), (Level::Raid5, 3), (Level::Raid6, 4)] {
        let layout = Layout::default_for(level);
        for n in [0, 1, least - 1, MAX_MEMBERS + 1, u16::MAX] {
            assert!(members(new(level, layout, n, 64 * KIB, 1 << 30)), "{level:?} with {n}");
        }
        for n in [least, MAX_MEMBERS] {
            assert!(new(level, layout, n, 64 * KIB, 1 << 30).is_ok(), "{level:?} with {n}");
        }
    }
    for chunk in [0, 512, 2048, 4096 + 512, 3 * 4096, (1 << 30) + 1, 1 << 31, u64::MAX] {
        let refused = new(Level::Raid5, ls, 4, chunk, 1 << 40);
        assert_eq!(refused, Err(GeometryError::Chunk(chunk)));
    }
    for bytes in [0, 4096, 64 * KIB - 1] {
        assert_eq!(new(Level::Raid5, ls, 4, 64 * KIB, bytes), Err(GeometryError::TooSmall(bytes)));
    }
    for layout in Layout::all(Level::Raid6).into_iter().filter(|l| !l.valid_for(Level::Raid5)) {
        let refused = new(Level::Raid5, layout, 4, 64 * KIB, 1 << 30);
        assert_eq!(refused, Err(GeometryError::Layout { level: Level::Raid5, layout: layout.number() }));
    }
}

#[test]
fn huge_members_do_not_overflow() {
    // As much as fits: the last byte of the array is still below 2^64.
    for (level, n) in [(Level::Raid5, 3), (Level::Raid6, 4), (Level::Raid6, 255)] {
        let parity = level.parity();
        for chunk in CHUNKS {
            let bytes = u64::MAX / u64::from(n - parity);
            let g = Geometry::new(level, Layout::LeftSymmetric, n, chunk, bytes).expect("fits");
            assert_eq!(g.rows(), bytes / chunk);
            let last = g.array_bytes() - 512;
            let piece = g.piece(last, u64::MAX);
            assert_eq!(piece.stripe, g.stripes() - 1);
            assert_eq!((piece.lane, piece.len), (g.data() - 1, 512));
            assert_eq!(g.array_offset(piece.stripe, piece.lane, piece.offset), last);
            assert!(g.member_offset(piece.stripe) < bytes);
            assert_eq!(g.sectors_covered(g.stripes()), g.rows() * (chunk / 512));
            assert_eq!(g.stripes_below(u64::MAX), g.stripes());
        }
    }
    for bytes in [u64::MAX, u64::MAX / 2 + (1 << 30)] {
        let refused = Geometry::new(Level::Raid5, Layout::LeftSymmetric, 4, 4096, bytes);
        assert_eq!(refused, Err(GeometryError::TooSmall(bytes)), "an array beyond 2^64 bytes");
    }
}

#[test]
fn a_strip_has_one_to_sixty_four_blocks() {
    for chunk in CHUNKS {
        let g = geometry(Level::Raid5, 2, 3, chunk, 1);
        assert_eq!(g.strip_blocks() * BLOCK, g.strip_bytes());
        assert!((1..=64).contains(&g.strip_blocks()));
    }
}
