//! Bad blocks: known ones are never read, refused writes are recorded before they are answered, a good write
//! clears them, and a rebuild goes on where a column cannot be recovered. The world fails whenever the array
//! reads a block that it knows to be bad.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod world;

use md_format::{Features, Level};
use uraid_core::*;
use world::{Pending, Rng, Shape, World, assemble, every_layout, superblock};

const CHUNK: u32 = 16384;

fn world(level: Level, members: u16, seed: u64) -> World {
    let layout = md_format::Layout::default_for(level);
    let shape = Shape { level, layout, members, chunk: CHUNK, rows: 8, slots: 8, clean: true, bitmap: None };
    let mut world = World::new(shape, seed);
    let bytes = world.geometry().array_bytes();
    let data = (0..bytes).map(|i| (i % 253) as u8).collect();
    world.ask(RequestKind::Write { fua: false }, 0, data);
    world.quiesce();
    world.pass_time(1000);
    world.notices.clear();
    world
}

/// Where the block at a byte of the array is: its member and its number on the device.
fn block_of(world: &World, at: u64) -> (usize, u64) {
    let g = world.geometry();
    let piece = g.piece(at, 512);
    on_lane(world, piece.stripe, piece.lane, piece.offset)
}

fn on_lane(world: &World, stripe: u64, lane: u16, offset: u32) -> (usize, u64) {
    let g = world.geometry();
    let role = g.pattern(stripe).roles[usize::from(lane)];
    let status = world.array.status();
    let member = status.members.iter().find(|m| m.role == Some(role)).expect("plays the role").member;
    let disk = usize::from(member.0);
    (disk, (world.disks[disk].data_start() + g.member_offset(stripe) + u64::from(offset)) / 4096)
}

fn recorded(world: &World) -> Vec<(u16, u64, u64)> {
    let of = |notice: &Notice| match notice {
        Notice::BadBlocksRecorded { member, offset, len } => Some((member.0, *offset, *len)),
        _ => None,
    };
    world.notices.iter().filter_map(of).collect()
}

/// What the log of a member says on disk: first sector and how many.
fn logged(world: &World, disk: usize) -> Vec<(u64, u64)> {
    let assembly = assemble(&world.disks, true).expect("assembles");
    let member = assembly.members.iter().find(|m| m.found == disk).expect("is a member");
    let ranges: Vec<_> = member.bad_blocks.ranges().collect();
    let says = superblock(&world.disks[disk]).expect("sound").features().contains(Features::BAD_BLOCKS);
    assert_eq!(says, !ranges.is_empty(), "the feature bit follows");
    ranges
}

/// The same members again, as after a stop.
fn again(world: &World) -> World {
    let assembly = assemble(&world.disks, false).expect("assembles");
    let mut next = World::over(world.disks.clone(), &assembly, 8, Rng(5), world.seed);
    next.model.clone_from(&world.model);
    next
}

fn stop(world: &mut World) {
    world.tell(Event::Stop);
    while world.answer_one() {}
    assert_eq!(world.stopped, Some(true));
}

fn bad_bytes(world: &World) -> u64 {
    world.array.status().members.iter().map(|m| m.bad_bytes).sum()
}

#[test]
fn a_refused_write_is_recorded_before_it_is_answered() {
    let mut world = world(Level::Raid5, 4, 1);
    let (disk, block) = block_of(&world, 0);
    world.disks[disk].refuses.insert(block);
    let id = world.ask(RequestKind::Write { fua: false }, 0, vec![7; 3 * 4096]);
    world.tell(Event::Idle);
    // Superblocks and logs are answered last: until they are, nobody is told.
    loop {
        let at = world
            .pending
            .iter()
            .position(|p| !matches!(p, Pending::Meta { .. }) || recorded(&world).is_empty());
        let Some(at) = at else { break };
        assert!(world.asked.contains_key(&id), "answered too early");
        world.answer_at(at);
    }
    assert_eq!(recorded(&world), [(disk as u16, block * 4096, 4096)]);
    assert!(world.asked.contains_key(&id), "answered before the log was there");
    assert!(!world.pending.is_empty(), "the log is being written");
    world.quiesce();
    assert!(!world.asked.contains_key(&id));
    assert_eq!(logged(&world, disk), [(block * 8, 8)]);
    assert_eq!((world.array.status().missing, bad_bytes(&world)), (0, 4096));
    world.check_content();
    world.check_parity();
    // It is found again after a stop, and a good write makes an end of it.
    stop(&mut world);
    let mut world = again(&world);
    assert_eq!(bad_bytes(&world), 4096);
    world.check_content();
    world.disks[disk].refuses.clear();
    let id = world.ask(RequestKind::Write { fua: false }, 512, vec![9; 512]);
    world.tell(Event::Idle);
    while world.asked.contains_key(&id) {
        assert!(world.answer_one());
    }
    assert_eq!(bad_bytes(&world), 0);
    assert_eq!(logged(&world, disk), [], "answered while a crash would have taken the block for bad");
    world.quiesce();
    world.check_content();
    world.check_parity();
}

/// What was written is in the log until it was flushed, whatever updates end meanwhile.
#[test]
fn an_update_without_a_flush_forgets_nothing() {
    let mut world = world(Level::Raid6, 5, 2);
    let (disk, block) = block_of(&world, 0);
    world.disks[disk].refuses.insert(block);
    world.ask(RequestKind::Write { fua: false }, 0, vec![1; 4096]);
    world.quiesce();
    world.disks[disk].refuses.clear();
    world.ask(RequestKind::Write { fua: false }, 0, vec![2; 4096]);
    world.tell(Event::Idle);
    let store = |p: &Pending| matches!(p, Pending::Write { offset, .. } if *offset == block * 4096);
    while !world.pending.iter().any(store) {
        assert!(world.answer_one());
    }
    // An update that flushes nothing is under way as the block is stored.
    let other = (disk + 1) % 5;
    world.tell(Event::FailMember(MemberId(other as u16)));
    let at = world.pending.iter().position(store).expect("it waits");
    world.answer_at(at);
    let mut flushed = 0;
    while let Some(at) = world.pending.iter().position(|p| !matches!(p, Pending::Flush { .. })) {
        assert_eq!(logged(&world, disk), [(block * 8, 8)], "forgotten before it was flushed");
        world.answer_at(at);
    }
    while let Some(at) = world.pending.iter().position(|p| matches!(p, Pending::Flush { .. })) {
        assert_eq!(logged(&world, disk), [(block * 8, 8)], "forgotten before all were flushed");
        world.answer_at(at);
        flushed += 1;
    }
    assert_eq!(flushed, 4);
    world.quiesce();
    assert_eq!(logged(&world, disk), []);
}

#[test]
fn a_member_that_refuses_everything_is_failed_soon() {
    for level in [Level::Raid5, Level::Raid6] {
        let mut world = world(level, 5, 3);
        let start = world.disks[1].data_start() / 4096;
        world.disks[1].refuses = (start..start + 64).collect();
        let bytes = world.geometry().array_bytes() / 2;
        world.ask(RequestKind::Write { fua: false }, 0, vec![5; bytes as usize]);
        world.quiesce();
        assert_eq!(world.array.status().missing, 1, "{:?}", world.notices);
        let status = world.array.status();
        let sick = status.members.iter().find(|m| m.member == MemberId(1)).expect("known");
        assert_eq!(sick.standing, MemberStanding::Failed);
        assert!(sick.errors < 200, "{} tries", sick.errors);
        world.check_content();
    }
}

/// All members refuse the same column: that is the way to them, not the medium, and nothing is recorded.
#[test]
fn what_no_medium_does_fails_members_and_freezes_the_array() {
    let mut world = world(Level::Raid5, 4, 4);
    let g = world.geometry();
    for lane in 0..g.members() {
        let (disk, block) = on_lane(&world, 0, lane, 0);
        world.disks[disk].refuses.insert(block);
    }
    world.errors_allowed = true;
    world.ask(RequestKind::Write { fua: false }, 0, vec![5; 4096]);
    world.quiesce();
    assert!(recorded(&world).is_empty(), "{:?}", world.notices);
    assert_eq!(world.array.status().state, ArrayState::Broken);
}

/// Without a member left to recover it from, a refused write is answered with an error and nothing else is lost.
#[test]
fn a_refused_write_of_a_degraded_array_costs_its_own_blocks_only() {
    let mut world = world(Level::Raid5, 4, 5);
    let (disk, block) = block_of(&world, 0);
    let gone = (disk + 1) % 4;
    world.tell(Event::FailMember(MemberId(gone as u16)));
    world.quiesce();
    world.disks[disk].refuses.insert(block);
    world.errors_allowed = true;
    world.ask(RequestKind::Write { fua: false }, 0, vec![5; 4096]);
    world.quiesce();
    let status = world.array.status();
    assert_eq!((status.missing, status.state), (1, ArrayState::Active), "{:?}", world.notices);
    assert_eq!(recorded(&world).len(), 1);
    assert_eq!(logged(&world, disk), [(block * 8, 8)]);
    // The column is gone, the rest of the array is not.
    let g = world.geometry();
    let mut lost = 0;
    for at in (0..g.array_bytes()).step_by(4096) {
        world.reads.clear();
        world.ask(RequestKind::Read, at, vec![0; 4096]);
        world.quiesce();
        lost += u32::from(world.reads.is_empty());
    }
    assert!((1..=2).contains(&lost), "{lost} blocks cannot be read");
    // Written anew in full it is whole again.
    world.disks[disk].refuses.clear();
    world.ask(RequestKind::Write { fua: false }, 0, vec![6; 3 * CHUNK as usize]);
    world.quiesce();
    world.errors_allowed = false;
    world.check_content();
    assert_eq!(bad_bytes(&world), 0);
}

/// A rebuild meets a block that cannot be read and not be recovered: the hole is recorded on the new member.
#[test]
fn a_rebuild_goes_on_past_what_cannot_be_recovered() {
    let mut world = world(Level::Raid5, 4, 6);
    let (disk, block) = block_of(&world, 4096);
    let gone = (disk + 2) % 4;
    world.tell(Event::FailMember(MemberId(gone as u16)));
    world.quiesce();
    world.disks[disk].bad.insert(block);
    let new = world.add_disk();
    world.quiesce();
    assert_eq!(world.array.status().missing, 0, "{:?}", world.notices);
    let holes = recorded(&world);
    assert_eq!(holes.iter().map(|h| (h.0, h.2)).collect::<Vec<_>>(), [(new.0, 4096)]);
    world.pass_time(1000);
    assert_eq!(logged(&world, usize::from(new.0)), [(holes[0].1 / 512, 8)]);
    // Readable again, the other block brings back both.
    stop(&mut world);
    let mut world = again(&world);
    world.disks[disk].bad.clear();
    world.check_content();
    world.tell(Event::Scrub { repair: false });
    world.quiesce();
    assert_eq!(bad_bytes(&world), 0, "the scrub rewrote what was recovered");
    world.check_parity();
}

/// As many entries as one sector of the log holds are made of refused writes, and then the member is failed.
#[test]
fn a_worn_out_member_is_failed() {
    let layout = md_format::Layout::default_for(Level::Raid5);
    let shape = Shape {
        level: Level::Raid5,
        layout,
        members: 4,
        chunk: CHUNK,
        rows: 80,
        slots: 8,
        clean: true,
        bitmap: None,
    };
    let mut world = World::new(shape, 7);
    let start = world.disks[0].data_start() / 4096;
    world.disks[0].refuses = (0..80).map(|row| start + row * 4).collect();
    let row = u64::from(CHUNK) * 3;
    for at in 0..80 {
        world.ask(RequestKind::Write { fua: false }, at * row, vec![at as u8; row as usize]);
        world.quiesce();
        let failed = world.array.status().missing == 1;
        assert_eq!(failed, at >= 64, "after {at} rows: {:?}", world.notices.last());
    }
    world.check_content();
}

/// A log in the middle of nowhere is kept as it is; a blank spare starts with an empty one.
#[test]
fn what_lies_outside_of_the_data_is_kept() {
    let mut world = world(Level::Raid5, 4, 8);
    plant(&mut world, 2, &[(8, 1), (1 << 40, 8)]);
    let mut world = again(&world);
    assert_eq!(bad_bytes(&world), 0);
    let (disk, block) = on_lane(&world, 3, 0, 4096);
    world.disks[disk].refuses.insert(block);
    world.ask(RequestKind::Write { fua: false }, 0, vec![5; world.model.len()]);
    world.quiesce();
    stop(&mut world);
    let mut wanted = vec![(8, 1), (1 << 40, 8)];
    if disk == 2 {
        wanted.insert(1, (block * 8, 8));
    }
    assert_eq!(logged(&world, 2), wanted);
}

/// Writes a log as the kernel would have.
fn plant(world: &mut World, disk: usize, ranges: &[(u64, u64)]) {
    let mut sb = superblock(&world.disks[disk]).expect("sound");
    let (area, log) = sb.bad_block_area().expect("has a log");
    let mut bad = md_format::BadBlocks::default();
    ranges.iter().for_each(|&(start, sectors)| bad.insert(start, sectors));
    sb.set_bad_blocks(!bad.is_empty());
    world.disks[disk].write(area.sector * 512, &bad.encode(log).expect("room"));
    world.disks[disk].write(sb.super_offset() * 512, &sb.encode());
    world.disks[disk].flush();
}

/// Random logs on all members of every level and layout, no more of a column than parity covers: what they hold is
/// garbage, and the array reads, writes, scrubs and rebuilds as if it were whole. Redundancy is told right, which
/// the world's own check compares with a walk over every stripe.
#[test]
fn known_bad_blocks_of_every_layout_are_never_read() {
    for (case, (level, layout)) in every_layout().into_iter().enumerate() {
        let seed = 0xbad + case as u64;
        let members = if level.parity() == 2 { 6 } else { 4 };
        let shape =
            Shape { level, layout, members, chunk: CHUNK, rows: 6, slots: 6, clean: true, bitmap: None };
        let mut world = World::new(shape, seed);
        let bytes = world.model.len();
        world.ask(RequestKind::Write { fua: false }, 0, (0..bytes).map(|i| (i % 241) as u8).collect());
        world.quiesce();
        stop(&mut world);
        let mut rng = Rng(seed);
        let mut ranges = vec![vec![]; usize::from(members)];
        for block in 0..6 * u64::from(CHUNK) / 4096 {
            for _ in 0..rng.below(u64::from(level.parity()) + 1) {
                let disk = rng.below(u64::from(members)) as usize;
                let at = world.disks[disk].data_start() + block * 4096;
                // A sector makes all of its block bad.
                ranges[disk].push((at / 512 + rng.below(8), 1));
                world.disks[disk].write(at, &[0xdb; 4096]);
                world.disks[disk].flush();
            }
        }
        for (disk, ranges) in ranges.iter().enumerate() {
            plant(&mut world, disk, ranges);
        }
        let mut world = again(&world);
        let before = bad_bytes(&world);
        assert!(before > 0, "{level} {layout}");
        world.check_content();
        for _ in 0..60 {
            let sectors = bytes as u64 / 512;
            let len = 1 + world.rng.below(60).min(sectors - 1);
            let at = world.rng.below(sectors - len);
            let tag = world.rng.next() as u8;
            world.ask(RequestKind::Write { fua: false }, at * 512, vec![tag; (len * 512) as usize]);
            if world.rng.chance(30) {
                world.quiesce();
            }
        }
        world.quiesce();
        world.check_content();
        world.check_parity();
        assert!(bad_bytes(&world) < before, "{level} {layout}: nothing was cleared");
        world.pass_time(1000);
        world.tell(Event::Scrub { repair: true });
        world.quiesce();
        assert_eq!(bad_bytes(&world), 0, "{level} {layout}");
        world.check_content();
        world.check_parity();
        stop(&mut world);
        (0..usize::from(members)).for_each(|disk| assert_eq!(logged(&world, disk), []));
    }
}
