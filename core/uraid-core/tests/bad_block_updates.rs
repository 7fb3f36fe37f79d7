//! In which order a member's bad-block log, its superblock and the data go: at every moment what a power cut would
//! leave is the truth.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod world;

use md_format::{BadBlocks, DevRole, Features, Layout, Level};
use uraid_core::*;
use world::{Pending, Shape, World, superblock};

const CHUNK: u32 = 16384;

/// A RAID 6 at rest, with the member and the block of its first data block.
fn at_rest(seed: u64) -> (World, usize, u64) {
    let layout = Layout::default_for(Level::Raid6);
    let level = Level::Raid6;
    let shape =
        Shape { level, layout, members: 5, chunk: CHUNK, rows: 8, slots: 8, clean: true, bitmap: None };
    let mut world = World::new(shape, seed);
    let bytes = world.model.len();
    world.ask(RequestKind::Write { fua: false }, 0, vec![1; bytes]);
    world.quiesce();
    let g = world.geometry();
    let role = g.pattern(0).roles[0];
    let status = world.array.status();
    let member = status.members.iter().find(|m| m.role == Some(role)).expect("plays the role").member;
    let disk = usize::from(member.0);
    let block = world.disks[disk].data_start() / 4096;
    (world, disk, block)
}

/// What the log on the device says, whether or not the superblock announces it.
fn log(world: &World, disk: usize) -> BadBlocks {
    let (area, log) = superblock(&world.disks[disk]).expect("sound").bad_block_area().expect("has a log");
    BadBlocks::parse(log, world.disks[disk].read(area.sector * 512, log.bytes())).expect("sound")
}

fn says(world: &World, disk: usize, block: u64) -> bool {
    log(world, disk).overlaps(block * 8, 8)
}

fn write(world: &mut World, value: u8) -> ReqId {
    let id = world.ask(RequestKind::Write { fua: false }, 0, vec![value; 4096]);
    world.tell(Event::Idle);
    id
}

fn is_store(p: &Pending, disk: usize, block: u64) -> bool {
    matches!(p, Pending::Write { member, offset, .. } if usize::from(member.0) == disk && *offset == block * 4096)
}

/// Answers other things until the block is about to be stored.
fn until_stored(world: &mut World, disk: usize, block: u64) {
    while !world.pending.iter().any(|p| is_store(p, disk, block)) {
        assert!(world.answer_one());
    }
}

fn answer(world: &mut World, fits: impl Fn(&Pending) -> bool) {
    let at = world.pending.iter().position(fits).expect("it is pending");
    world.answer_at(at);
}

fn is_flush(p: &Pending) -> bool {
    matches!(p, Pending::Flush { .. })
}

/// A recorded block, by a refused write.
fn with_bad_block(seed: u64) -> (World, usize, u64) {
    let (mut world, disk, block) = at_rest(seed);
    world.disks[disk].refuses.insert(block);
    write(&mut world, 2);
    world.quiesce();
    assert!(says(&world, disk, block));
    world.disks[disk].refuses.clear();
    (world, disk, block)
}

#[test]
fn no_superblock_announces_a_log_that_is_not_there() {
    for seed in 0..20 {
        let (mut world, disk, block) = at_rest(seed);
        world.disks[disk].refuses.insert(block);
        write(&mut world, 2);
        let place = superblock(&world.disks[disk]).expect("sound").super_offset() * 512;
        let mut announced = 0;
        loop {
            for pending in &world.pending {
                if let Pending::Meta { member, offset, bytes, .. } = pending
                    && (usize::from(member.0), *offset) == (disk, place)
                {
                    let mut next = world.disks[disk].clone();
                    next.write(*offset, bytes);
                    let features = superblock(&next).expect("sound").features();
                    announced += u32::from(features.contains(Features::BAD_BLOCKS));
                    assert!(
                        !features.contains(Features::BAD_BLOCKS) || says(&world, disk, block),
                        "seed {seed}"
                    );
                }
            }
            if !world.answer_one() {
                break;
            }
        }
        assert!(announced > 0, "seed {seed}");
    }
}

/// While an update flushes the members another bad block is written anew. The flush may have passed its member before.
#[test]
fn a_flush_that_began_before_the_store_forgets_nothing() {
    let (mut world, disk, first) = with_bad_block(1);
    // The first block of the next strip of the same member that holds data.
    let g = world.geometry();
    let role = g.pattern(0).roles[0];
    let (stripe, lane) = (1..g.stripes())
        .find_map(|stripe| {
            let lane = g.pattern(stripe).roles.iter().position(|r| *r == role)? as u16;
            (lane < g.data()).then_some((stripe, lane))
        })
        .expect("there are others");
    let (at, second) = (g.array_offset(stripe, lane, 0), first + g.member_offset(stripe) / 4096);
    world.disks[disk].refuses.insert(second);
    world.ask(RequestKind::Write { fua: false }, at, vec![2; 4096]);
    world.quiesce();
    assert!(says(&world, disk, first) && says(&world, disk, second));
    world.disks[disk].refuses.clear();
    write(&mut world, 3);
    until_stored(&mut world, disk, first);
    answer(&mut world, |p| is_store(p, disk, first));
    let member = MemberId(disk as u16);
    answer(&mut world, |p| matches!(p, Pending::Flush { member: m, .. } if *m == member));
    world.ask(RequestKind::Write { fua: false }, at, vec![4; 4096]);
    world.tell(Event::Idle);
    while let Some(at) = world.pending.iter().position(|p| !is_flush(p)) {
        world.answer_at(at);
    }
    assert!(says(&world, disk, first) && says(&world, disk, second), "nothing was flushed by all");
    // All of the first update, and nothing of the next.
    (0..4).for_each(|_| answer(&mut world, is_flush));
    while let Some(at) = world.pending.iter().position(|p| !is_flush(p)) {
        world.answer_at(at);
    }
    assert!(!says(&world, disk, first), "it was flushed");
    assert!(says(&world, disk, second), "it was stored after its member had been flushed");
    world.quiesce();
    assert!(!says(&world, disk, second));
    world.check_content();
}

/// A block that was good for a moment and is refused again, while the flush is under way that would let it be
/// forgotten.
#[test]
fn what_goes_bad_again_meanwhile_is_not_forgotten() {
    let (mut world, disk, block) = with_bad_block(2);
    write(&mut world, 3);
    until_stored(&mut world, disk, block);
    answer(&mut world, |p| is_store(p, disk, block));
    assert!(world.pending.iter().any(is_flush));
    world.disks[disk].refuses.insert(block);
    let again = write(&mut world, 4);
    while let Some(at) = world.pending.iter().position(|p| !is_flush(p)) {
        world.answer_at(at);
    }
    assert!(!world.pending.iter().any(|p| is_store(p, disk, block)), "the second store was refused");
    while world.asked.contains_key(&again) {
        assert!(world.answer_one());
    }
    assert!(says(&world, disk, block), "answered, and the log does not say what is lost");
    world.quiesce();
    assert!(says(&world, disk, block));
    world.check_content();
}

/// Without parity for it a refused block is gone, and whoever wrote it is told so.
#[test]
fn a_refused_write_without_parity_for_it_is_no_success() {
    let (mut world, disk, block) = at_rest(3);
    for other in (0..5).filter(|other| *other != disk).take(2) {
        world.tell(Event::FailMember(MemberId(other as u16)));
        world.quiesce();
    }
    world.disks[disk].refuses.insert(block);
    world.errors_allowed = true;
    write(&mut world, 2);
    world.quiesce();
    assert!(says(&world, disk, block));
    assert!(world.fuzzy.contains(&0), "it was answered as if it were written");
}

/// A block that cannot be read is recovered, and its member does not take it back: that is no repair.
#[test]
fn what_could_not_be_rewritten_is_not_told_as_corrected() {
    let (mut world, disk, block) = at_rest(4);
    world.disks[disk].bad.insert(block);
    world.disks[disk].refuses.insert(block);
    world.notices.clear();
    world.check_content();
    let corrected = |n: &Notice| matches!(n, Notice::ReadErrorCorrected { .. });
    assert!(!world.notices.iter().any(corrected), "{:?}", world.notices);
    assert!(says(&world, disk, block));
}

/// Two blocks of a column cannot be read while parity is not known to match: that column was not compared, and the
/// array does not come to count as resynced.
#[test]
fn a_resync_does_not_pass_what_it_could_not_compare() {
    let layout = Layout::default_for(Level::Raid5);
    let level = Level::Raid5;
    let shape =
        Shape { level, layout, members: 4, chunk: CHUNK, rows: 8, slots: 8, clean: false, bitmap: None };
    let mut world = World::new(shape, 5);
    for disk in &mut world.disks[..2] {
        let block = disk.data_start() / 4096 + 9;
        disk.bad.insert(block);
    }
    world.quiesce();
    assert!(world.array.status().resync_due);
    world.tell(Event::Stop);
    while world.answer_one() {}
    assert!(world.disks.iter().all(|disk| !superblock(disk).expect("sound").is_clean()));
}

/// What the log of a member says that was away is not known here: it is filled from the start.
#[test]
fn a_member_with_bad_blocks_does_not_come_back_by_the_bitmap() {
    let layout = Layout::default_for(Level::Raid5);
    let level = Level::Raid5;
    let bitmap = Some(8192);
    let mut world = World::new(
        Shape { level, layout, members: 4, chunk: CHUNK, rows: 8, slots: 8, clean: true, bitmap },
        6,
    );
    world.quiesce();
    world.tell(Event::FailMember(MemberId(2)));
    world.quiesce();
    let mut old = superblock(&world.disks[2]).expect("sound");
    let new = |old: &md_format::Superblock| NewMember {
        member: MemberId(99),
        device_sectors: world.disks[0].sectors,
        device_uuid: [1; 16],
        old: Some(Box::new(old.clone())),
    };
    assert!(world.array.would_return(&new(&old)));
    old.set_bad_blocks(true);
    assert!(!world.array.would_return(&new(&old)));
}

/// A RAID 5 of which the blocks of one member that `lost` names cannot be read, and a new disk for another that failed.
fn being_filled(rows: u64, lost: impl Iterator<Item = u64>) -> (World, usize) {
    let level = Level::Raid5;
    let layout = Layout::default_for(level);
    let shape = Shape { level, layout, members: 4, chunk: CHUNK, rows, slots: 8, clean: true, bitmap: None };
    let mut world = World::new(shape, 8);
    world.quiesce();
    world.tell(Event::FailMember(MemberId(3)));
    world.quiesce();
    let first = world.disks[0].data_start() / 4096;
    world.disks[0].bad = lost.map(|block| first + block).collect();
    let new = usize::from(world.add_disk().0);
    (world, new)
}

/// What the log lists if of each of its sectors the old or the new one is there.
fn torn(world: &mut World, disk: usize, new: &[u8]) -> BadBlocks {
    let (area, log) = superblock(&world.disks[disk]).expect("sound").bad_block_area().expect("has a log");
    let mut bytes = world.disks[disk].read(area.sector * 512, log.bytes()).to_vec();
    for (to, from) in bytes.chunks_mut(512).zip(new.chunks(512)) {
        if world.rng.chance(50) {
            to.copy_from_slice(from);
        }
    }
    BadBlocks::parse(log, &bytes).expect("sound")
}

/// Answers all that is asked for. Whenever the log is written, all that it says and that was not written since has to
/// survive a power cut in the middle of it. How many writes of the log changed more than one sector of it.
fn log_survives_cuts(world: &mut World, disk: usize) -> u32 {
    // A disk that was just added has no superblock yet; its log is where those of the others are.
    let (area, _) = superblock(&world.disks[1]).expect("sound").bad_block_area().expect("has a log");
    let place = area.sector * 512;
    let mut written = std::collections::BTreeSet::new();
    let mut wide = 0;
    world.tell(Event::Idle);
    loop {
        let mut logs = Vec::new();
        for pending in &world.pending {
            match pending {
                Pending::Write { member, offset, bytes, .. } if usize::from(member.0) == disk => {
                    written.extend(world::blocks(*offset, bytes.len() as u64));
                }
                Pending::Meta { member, offset, bytes, .. }
                    if (usize::from(member.0), *offset) == (disk, place) =>
                {
                    logs.push(bytes.clone());
                }
                _ => {}
            }
        }
        for new in logs {
            let mut needed = log(world, disk);
            written.iter().for_each(|block| needed.remove(block * 8, 8));
            let old = world.disks[disk].read(place, new.len());
            wide +=
                u32::from(old.chunks(512).zip(new.chunks(512)).filter(|(old, new)| old != new).count() > 1);
            for _ in 0..4 {
                let mut lost = needed.clone();
                lost.remove_all(&torn(world, disk, &new));
                assert!(lost.is_empty(), "a cut takes {lost:?}");
            }
        }
        if !world.answer_one() {
            return wide;
        }
    }
}

/// A rebuild fills several sectors of a log, and writes take entries out of the middle of it, before and after a restart.
#[test]
fn a_cut_takes_nothing_out_of_a_log_of_several_sectors() {
    let (mut world, new) = being_filled(100, (0..400).step_by(2));
    let whole = world.model.len();
    log_survives_cuts(&mut world, new);
    assert_eq!(log(&world, new).sectors(), 200 * 8);
    world.disks[0].bad.clear();
    let mut wide = 0;
    for round in 0..3 {
        let assembly = world::assemble(&world.disks, true).expect("assembles");
        let mut next = World::over(world.disks.clone(), &assembly, 8, world::Rng(round.into()), 7);
        next.model.clone_from(&world.model);
        world = next;
        for _ in 0..20 {
            let at = world.rng.below(whole as u64 / 4096 - 8) * 4096;
            let blocks = 1 + world.rng.below(8) as usize;
            world.ask(RequestKind::Write { fua: false }, at, vec![2 + round; blocks * 4096]);
            wide += log_survives_cuts(&mut world, new);
        }
    }
    assert!(log(&world, new).sectors() < 160 * 8 && wide > 5, "{wide} of several sectors");
    world.check_content();
}

/// The last block of all is one that a rebuild cannot recover. No superblock says that the member is filled to there
/// before the log says so.
#[test]
fn what_a_rebuild_leaves_out_is_in_the_log_before_the_superblock_passes_it() {
    for seed in 0..20 {
        let (mut world, new) = being_filled(8, [3, 12, 31].into_iter());
        world.rng = world::Rng(seed);
        let at = superblock(&world.disks[1]).expect("sound").super_offset() * 512;
        let mut passed = 0;
        world.tell(Event::Idle);
        loop {
            for pending in &world.pending {
                let Pending::Meta { member, offset, bytes, .. } = pending else { continue };
                if (usize::from(member.0), *offset) != (new, at) {
                    continue;
                }
                let mut next = world.disks[new].clone();
                next.write(at, bytes);
                let says = superblock(&next).expect("sound");
                let filled = says.recovery_offset().unwrap_or(u64::MAX);
                for notice in &world.notices {
                    let Notice::BadBlocksRecorded { offset, .. } = notice else { continue };
                    if (offset - world.disks[new].data_start()) / 512 < filled
                        && says.role() != DevRole::Spare
                    {
                        assert!(
                            log(&world, new).overlaps(offset / 512, 8),
                            "seed {seed}: {offset} of {filled}"
                        );
                        passed += 1;
                    }
                }
            }
            if !world.answer_one() {
                break;
            }
        }
        assert!(passed >= 3, "seed {seed}");
        assert_eq!((world.array.status().missing, log(&world, new).sectors()), (0, 3 * 8));
    }
}

/// More cannot be recovered than the log has room for: what is left out without a word is never called whole.
#[test]
fn a_rebuild_does_not_pass_what_the_log_has_no_room_for() {
    let (mut world, new) = being_filled(280, (0..280 * 4).step_by(2));
    world.quiesce();
    let status = world.array.status();
    assert_eq!((status.missing, log(&world, new).entries(0)), (1, 512));
    let said = superblock(&world.disks[new]).expect("sound");
    let filled = said.recovery_offset().expect("filled in part");
    let listed: u64 = log(&world, new).within(said.data_offset(), filled).map(|(_, sectors)| sectors).sum();
    assert!(filled < said.size_sectors() && listed == filled / 2, "{listed} bad of {filled} filled");
    // It goes on once the other one can be read again.
    world.disks[0].bad.clear();
    let assembly = world::assemble(&world.disks, true).expect("assembles");
    let mut next = World::over(world.disks.clone(), &assembly, 8, world::Rng(9), 8);
    next.model.clone_from(&world.model);
    next.quiesce();
    assert_eq!(next.array.status().missing, 0);
    next.check_content();
}
