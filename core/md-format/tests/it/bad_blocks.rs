//! The bad-block log: as the kernel wrote it, against a slow set of sectors, and damaged.
use crate::common::*;
use md_format::*;
use std::collections::BTreeSet;

const LOG: BadBlockLog = BadBlockLog { offset: 16, sectors: 8, shift: 0 };

/// The logs of the members of the kernel-made array.
fn kernel_logs() -> Vec<Vec<u8>> {
    (0..4).map(kernel_log).collect()
}

fn ranges(bad: &BadBlocks) -> Vec<(u64, u64)> {
    bad.ranges().collect()
}

#[test]
fn logs_of_the_kernel_are_read_and_written_byte_for_byte() {
    let logs = kernel_logs();
    for (member, wanted) in [(1, vec![(2048, 8), (2200, 64)]), (2, vec![(4000, 16)])] {
        let bad = BadBlocks::parse(LOG, &logs[member]).expect("sound");
        assert_eq!(ranges(&bad), wanted);
        assert_eq!(bad.encode(LOG).expect("room"), logs[member]);
    }
}

#[test]
fn a_member_is_taken_with_its_log_or_not_at_all() {
    let goldens = case("r5_n4_ls_c64k_badblocks");
    let take = |areas: &dyn Fn(usize) -> Areas| {
        let found: Vec<Found> = goldens
            .iter()
            .enumerate()
            .map(|(i, one)| Found { areas: areas(i), identity: Some((1, i as u64)), ..one.found() })
            .collect();
        let assembly = assemble(&found, AssembleOptions::default());
        assembly.map(|a| {
            let bad: Vec<_> = a.members.iter().map(|m| ranges(&m.bad_blocks)).collect();
            let told: Vec<_> = a.warnings.iter().map(ToString::to_string).collect();
            assert!(told.iter().any(|t| t.starts_with("d1: its bad-block log names 72 sectors")), "{told:?}");
            (bad, a.rejected.iter().map(ToString::to_string).collect::<Vec<_>>())
        })
    };
    let logs = kernel_logs();
    let whole = |i: usize| Areas { bad_blocks: Some(Ok(logs[i].clone())), ..Areas::default() };
    let (bad, rejected) = take(&whole).expect("it starts");
    // The logs of the other two hold nothing that counts: their superblocks do not speak of them.
    assert_eq!(bad, [vec![], vec![(2048, 8), (2200, 64)], vec![(4000, 16)], vec![]]);
    assert_eq!(rejected, [""; 0]);
    type Read = Option<Result<Vec<u8>, String>>;
    let damage: [(Read, &str); 3] = [
        (None, "d2: its bad-block log cannot be used: it was not read"),
        (Some(Err("EIO".into())), "d2: its bad-block log cannot be used: it cannot be read: EIO"),
        (Some(Ok(vec![0xff; 512])), "d2: its bad-block log cannot be used: 512 bytes of 4096 could be read"),
    ];
    for (log, why) in damage {
        let areas = |i| if i == 2 { Areas { bad_blocks: log.clone(), ..Areas::default() } } else { whole(i) };
        let (bad, rejected) = take(&areas).expect("degraded");
        assert_eq!((bad.len(), rejected), (3, vec![why.to_owned()]));
    }
}

#[test]
fn the_feature_bit_follows_and_the_place_is_known_before_it_is_set() {
    let mut superblock = array(Level::Raid5, 3)[0].clone();
    let before = superblock.encode();
    let (area, log) = superblock.bad_block_area().expect("mdadm makes one, and so do we");
    assert_eq!((area.kind, area.bytes, log), (AreaKind::BadBlocks, 4096, LOG));
    assert_eq!(superblock.areas(), []);
    superblock.set_bad_blocks(true);
    assert_eq!(superblock.areas(), [area]);
    assert_eq!(altered(&superblock, &[]).expect("sound"), superblock);
    superblock.set_bad_blocks(false);
    assert_eq!(superblock.encode(), before);
    let none = altered(&superblock, &[(188, &[0; 4])]).expect("sound");
    assert_eq!(none.bad_block_area(), None);
    // Where a bitmap is already no log is begun.
    let bitmap: [(usize, &[u8]); 2] = [(8, &[1]), (96, &[16])];
    assert_eq!(altered(&superblock, &bitmap).expect("sound").bad_block_area(), None);
}

/// The sets are those of a plain set of sectors under random changes, whatever the order.
#[test]
fn sets_are_those_of_a_plain_set_of_sectors() {
    for seed in 0..200 {
        let mut random = Random(0x0bad_b10c + seed);
        let (mut bad, mut slow) = (BadBlocks::default(), BTreeSet::new());
        for _ in 0..60 {
            let (start, len) = (random.below(4000) as u64, random.below(700) as u64);
            let sectors = start..start + len;
            if random.below(2) == 0 {
                bad.insert(start, len);
                slow.extend(sectors);
            } else {
                bad.remove(start, len);
                slow.retain(|sector| !sectors.contains(sector));
            }
            let fast: BTreeSet<u64> = bad.ranges().flat_map(|(s, n)| s..s + n).collect();
            assert_eq!(fast, slow, "seed {seed}");
            assert_eq!((bad.is_empty(), bad.sectors()), (slow.is_empty(), slow.len() as u64));
            let (start, len) = (random.below(5000) as u64, random.below(40) as u64);
            let inside: Vec<u64> = bad.within(start, len).flat_map(|(s, n)| s..s + n).collect();
            assert_eq!(inside, slow.range(start..start + len).copied().collect::<Vec<_>>());
            assert_eq!(bad.overlaps(start, len), !inside.is_empty());
            let ends: Vec<(u64, u64)> = bad.ranges().map(|(s, n)| (s, s + n)).collect();
            assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "merged: {ends:?}");
            let bytes = bad.encode(LOG).expect("room");
            assert_eq!(BadBlocks::parse(LOG, &bytes).expect("sound"), bad, "seed {seed}");
        }
    }
}

/// Whatever units the log counts in, what is read again covers the set, and no more than its units.
#[test]
fn a_log_in_larger_units_never_loses_a_sector() {
    for seed in 0..200 {
        let mut random = Random(0x5111_f700 + seed);
        let log = BadBlockLog { shift: random.below(8) as u8, ..LOG };
        let mut bad = BadBlocks::default();
        for _ in 0..40 {
            bad.insert(random.below(1 << 20) as u64, random.below(3000) as u64);
        }
        let read = BadBlocks::parse(log, &bad.encode(log).expect("room")).expect("sound");
        let mut slow = BadBlocks::default();
        let unit = 1_u64 << log.shift;
        for (start, len) in bad.ranges() {
            let first = start / unit * unit;
            slow.insert(first, (start + len).next_multiple_of(unit) - first);
        }
        assert_eq!(read, slow, "seed {seed}");
        // Ranges that touch once they are rounded are one when they are read again.
        assert!(read.entries(log.shift) <= bad.entries(log.shift), "seed {seed}");
    }
}

#[test]
fn long_ranges_take_an_entry_for_each_512_units_and_a_full_log_says_so() {
    let mut bad = BadBlocks::default();
    bad.insert(5000, 1000);
    let bytes = bad.encode(LOG).expect("room");
    let entries: Vec<u64> =
        bytes.chunks(8).map(|e| u64::from_le_bytes(e.try_into().expect("8 bytes"))).collect();
    assert_eq!(entries[..3], [5000 << 10 | 512, 5512 << 10 | 488, u64::MAX]);
    let mut many = BadBlocks::default();
    (0..512).for_each(|n| many.insert(n * 16, 8));
    assert_eq!(BadBlocks::parse(LOG, &many.encode(LOG).expect("just")).expect("sound"), many);
    many.insert(1 << 20, 1);
    assert_eq!(many.encode(LOG), Err(BadBlocksFull { entries: 513, room: 512 }));
    let small = BadBlockLog { sectors: 1, ..LOG };
    assert_eq!(many.encode(small), Err(BadBlocksFull { entries: 513, room: 64 }));
}

#[test]
fn damaged_logs_are_refused_and_nothing_panics() {
    let with = |log: BadBlockLog, values: &[u64]| {
        let mut bytes = vec![0xff; log.bytes()];
        for (at, value) in values.iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
        }
        BadBlocks::parse(log, &bytes)
    };
    assert_eq!(with(LOG, &[]), Ok(BadBlocks::default()));
    // Behind the end nothing counts, entries of no length say nothing, and what overlaps is one.
    let mixed = with(LOG, &[100 << 10 | 8, 50 << 10, 104 << 10 | 8, u64::MAX, 7 << 10 | 1]);
    assert_eq!(ranges(&mixed.expect("sound")), [(100, 12)]);
    let high = BadBlockLog { shift: 40, ..LOG };
    let far = (1 << 30) << 10 | 1;
    assert_eq!(with(high, &[8, far]), Err(BadBlocksError::Entry { index: 1, value: far }));
    let edge = (u64::MAX >> 10 & !0xff) << 10 | 0x3ff;
    assert!(with(LOG, &[edge]).is_ok(), "54 bits of sectors fit");
    // 1023 sectors take two entries in md's memory.
    let long: Vec<u64> = (0..300).map(|n| (n * 4096) << 10 | 1023).collect();
    assert_eq!(with(LOG, &long), Err(BadBlocksError::TooMany(600)));
    let mut random = Random(0x0da3_a6ed);
    for _ in 0..3000 {
        let log = BadBlockLog { offset: 8, sectors: random.below(10) as u16, shift: random.below(256) as u8 };
        let bytes: Vec<u8> = (0..random.below(6000)).map(|_| random.next() as u8).collect();
        if let Ok(bad) = BadBlocks::parse(log, &bytes) {
            // Entries longer than md makes them may need more room than they had.
            let again = bad.encode(log).map(|bytes| BadBlocks::parse(log, &bytes));
            let full = matches!(again, Err(BadBlocksFull { entries, room }) if entries > room);
            assert!(full || again == Ok(Ok(bad)), "{again:?}");
        }
    }
}

/// All that is in both.
fn in_both(a: &BadBlocks, b: &BadBlocks) -> BadBlocks {
    let mut both = BadBlocks::default();
    a.ranges().flat_map(|(start, len)| b.within(start, len)).for_each(|(start, len)| both.insert(start, len));
    both
}

fn lists_all_of(all: &BadBlocks, some: &BadBlocks) -> bool {
    let mut left = some.clone();
    left.remove_all(all);
    left.is_empty()
}

/// A small number more often than a large one, below `2^bits`.
fn up_to(random: &mut Random, bits: usize) -> u64 {
    let bits = random.below(bits);
    random.below(1 << bits) as u64
}

/// Writes a log over another and cuts it off in any way: what it lists then. Nothing that both list may be missing,
/// and nothing listed that neither does.
struct CutOff {
    log: BadBlockLog,
    random: Random,
    bytes: Vec<u8>,
    /// The most steps that one took.
    most: usize,
    /// How many took more than one.
    wide: usize,
}

impl CutOff {
    fn new(log: BadBlockLog, seed: u64, first: &BadBlocks) -> Self {
        CutOff { log, random: Random(seed), bytes: first.encode(log).expect("room"), most: 0, wide: 0 }
    }

    fn says(&self) -> BadBlocks {
        BadBlocks::parse(self.log, &self.bytes).expect("sound")
    }

    fn tear(&mut self, step: &[u8]) -> Vec<u8> {
        let mut torn = self.bytes.clone();
        for (to, from) in torn.chunks_mut(512).zip(step.chunks(512)) {
            if self.random.below(2) == 0 {
                to.copy_from_slice(from);
            }
        }
        torn
    }

    /// `whole`: it is not cut off at the end.
    fn write(&mut self, next: &BadBlocks, whole: bool) {
        let (log, before) = (self.log, self.says());
        let sorted = next.encode(log).expect("room");
        let after = BadBlocks::parse(log, &sorted).expect("sound");
        let (both, mut either) = (in_both(&before, &after), before);
        either.insert_all(&after);
        let steps = next.encode_over(log, &self.bytes).expect("room");
        let ends = steps.last().unwrap_or(&self.bytes);
        assert_eq!(BadBlocks::parse(log, ends).expect("sound"), after);
        assert!(next.entries(log.shift) > 64 || *ends == sorted, "not as md writes it");
        self.most = self.most.max(steps.len());
        self.wide += usize::from(steps.len() > 1);
        let cut_off = if whole { steps.len() } else { self.random.below(steps.len() + 3) };
        for (at, step) in steps.into_iter().enumerate() {
            let mut torn = Vec::new();
            for _ in 0..4 {
                torn = self.tear(&step);
                let says = BadBlocks::parse(log, &torn).expect("sound");
                assert!(lists_all_of(&says, &both), "step {at} loses something");
                assert!(lists_all_of(&either, &says), "step {at} lists what is not bad");
            }
            if at == cut_off {
                self.bytes = torn;
                return;
            }
            self.bytes = step;
        }
    }
}

/// The power fails in the middle of a step, and any of its sectors is old or new. The next log is written over that.
#[test]
fn a_log_written_over_another_says_all_that_both_say_wherever_it_is_cut_off() {
    let (mut most, mut wide) = (0, 0);
    for seed in 0..150 {
        let mut random = Random(0x7ea4_0106 + seed);
        let (sectors, shift) = (if random.below(2) == 0 { 8 } else { 2 }, random.below(3) as u8);
        let log = BadBlockLog { sectors, shift, ..LOG };
        let some = |random: &mut Random, bad: &mut BadBlocks, count: usize| {
            for _ in 0..count {
                let mut more = bad.clone();
                more.insert(random.below(1 << 18) as u64, 1 + up_to(random, 10));
                if more.entries(shift) <= log.room() {
                    *bad = more;
                }
            }
        };
        let (mut bad, first) = (BadBlocks::default(), random.below(log.room() * 2));
        some(&mut random, &mut bad, first);
        let mut cut_off = CutOff::new(log, seed, &bad);
        for _ in 0..8 {
            let mut next = cut_off.says();
            for _ in 0..random.below(20) {
                let mut less = next.clone();
                less.remove(random.below(1 << 18) as u64, up_to(&mut random, 17));
                if less.entries(shift) <= log.room() {
                    next = less;
                }
            }
            let more = random.below(log.room() / 4);
            some(&mut random, &mut next, more);
            cut_off.write(&next, false);
        }
        (most, wide) = (most.max(cut_off.most), wide + cut_off.wide);
    }
    assert!((2..=8).contains(&most) && wide > 200, "at most {most} steps, {wide} times more than one");
    // Nothing is known of what is there: then nothing of it is needed.
    let mut bad = BadBlocks::default();
    bad.insert(8, 8);
    assert_eq!(bad.encode_over(LOG, &[]), Ok(vec![bad.encode(LOG).expect("room")]));
    assert_eq!(bad.encode_over(LOG, &bad.encode(LOG).expect("room")), Ok(Vec::new()));
}

/// A full log, most of it made good but for its first range and its last one: what fills it then is that first range
/// again and again. Then that range is split.
#[test]
fn what_fills_a_log_makes_room_when_it_is_split() {
    for seed in 0..40 {
        let mut bad = BadBlocks::default();
        bad.insert(1000, 24);
        (0..511).for_each(|n| bad.insert(2000 + 16 * n, 8));
        let mut cut_off = CutOff::new(LOG, seed, &bad);
        assert_eq!(bad.entries(0), 512);
        (0..511).filter(|n| !(199..299).contains(n) && *n != 510).for_each(|n| bad.remove(2000 + 16 * n, 8));
        cut_off.write(&bad, true);
        bad.remove(1008, 8);
        cut_off.write(&bad, true);
        assert!(cut_off.most <= 3, "{} steps", cut_off.most);
    }
}
