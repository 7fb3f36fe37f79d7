//! Several misfortunes at once, each of which the array survives alone: what was flushed reads back, parity matches
//! after the resync, and nobody is believed who may not know everything.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod world;

use md_format::{Layout, Level};
use std::collections::BTreeSet;
use uraid_core::*;
use world::{Disk, Pending, Rng, Shape, World};

const CHUNK: u32 = 8192;

fn shape(level: Level, members: u16, bitmap: Option<u64>) -> Shape {
    let layout = Layout::default_for(level);
    Shape { level, layout, members, chunk: CHUNK, rows: 16, slots: 6, clean: true, bitmap }
}

/// A new array, marked clean and with its bits cleared.
fn at_rest(shape: Shape, seed: u64) -> World {
    let mut world = World::new(shape, seed);
    world.quiesce();
    rest(&mut world);
    world
}

/// Lets time pass until nothing is left to be cleared.
fn rest(world: &mut World) {
    (0..4).for_each(|_| world.pass_time(5000));
}

fn write(world: &mut World, offset: u64, len: usize, value: u8) {
    world.ask(RequestKind::Write { fua: true }, offset, vec![value; len]);
    world.quiesce();
}

fn fail(world: &mut World, member: usize) {
    world.disks[member].dead = true;
    world.tell(Event::FailMember(MemberId(member as u16)));
    world.quiesce();
}

/// Where the block of a lane is: its member and its number on the device.
fn on_lane(world: &World, stripe: u64, lane: u16, offset: u32) -> (usize, u64) {
    let g = world.geometry();
    let role = g.pattern(stripe).roles[usize::from(lane)];
    let status = world.array.status();
    let member = status.members.iter().find(|m| m.role == Some(role)).expect("plays the role").member;
    let disk = usize::from(member.0);
    (disk, (world.disks[disk].data_start() + g.member_offset(stripe) + u64::from(offset)) / 4096)
}

/// What a power cut leaves.
fn cut(world: &World, rng: &mut Rng) -> Vec<Disk> {
    let mut disks = world.disks.clone();
    for (at, disk) in disks.iter_mut().enumerate() {
        let of = |p: &Pending| match p {
            Pending::Write { member, offset, bytes, .. } | Pending::Meta { member, offset, bytes, .. }
                if usize::from(member.0) == at =>
            {
                Some((*offset, bytes.clone()))
            }
            _ => None,
        };
        let inflight: Vec<_> = world.pending.iter().filter_map(of).collect();
        disk.cut(rng, &inflight);
    }
    disks
}

fn start(disks: Vec<Disk>, seed: u64) -> World {
    let assembly = world::assemble(&disks, false).expect("assembles");
    let mut world = World::over(disks, &assembly, 6, Rng(seed), seed);
    let sectors = world.model.len() as u64 / 512;
    world.fuzzy = (0..sectors).collect();
    world
}

/// The bytes of the array from `at` on.
fn read(world: &mut World, at: u64, len: usize) -> Vec<u8> {
    world.reads.clear();
    world.ask(RequestKind::Read, at, vec![0x55; len]);
    world.quiesce();
    world.reads.get(&at).cloned().expect("readable")
}

/// A block was bad, is written anew and flushed, and then the power fails in the middle of a write beside it: the
/// column is as whole as any other, whatever the log said until a moment ago.
#[test]
fn what_made_a_bad_block_good_survives_a_torn_write_beside_it() {
    for seed in 0..60 {
        let mut world = at_rest(shape(Level::Raid5, 4, None), seed);
        let whole = world.model.len();
        write(&mut world, 0, whole, 1);
        let (disk, block) = on_lane(&world, 0, 0, 0);
        world.disks[disk].refuses.insert(block);
        write(&mut world, 0, 4096, 2);
        assert!(world.array.status().members.iter().any(|m| m.bad_bytes > 0));
        world.disks[disk].refuses.clear();
        write(&mut world, 0, 4096, 3);
        assert!(world.array.status().members.iter().all(|m| m.bad_bytes == 0));
        world.ask(RequestKind::Write { fua: false }, u64::from(CHUNK), vec![4; 4096]);
        world.tell(Event::Idle);
        let mut rng = Rng(seed);
        for _ in 0..rng.below(12) {
            world.answer_one();
        }
        let mut next = start(cut(&world, &mut rng), seed);
        next.quiesce();
        assert!(read(&mut next, 0, 4096) == [3; 4096], "seed {seed}: a flushed write is lost");
    }
}

/// Two members come back that had the same role one after the other. The one that waits is no more than a spare: what
/// it missed is not known any more once bits were cleared without it.
#[test]
fn a_member_that_waited_while_another_had_its_role_is_rebuilt_in_full() {
    let mut world = at_rest(shape(Level::Raid5, 4, Some(8192)), 1);
    let whole = world.model.len();
    write(&mut world, 0, whole, 1);
    rest(&mut world);
    fail(&mut world, 2);
    let second = usize::from(world.add_disk().0);
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    fail(&mut world, second);
    world.bring_back(second);
    world.bring_back(2);
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    write(&mut world, 0, whole, 2);
    rest(&mut world);
    let plays = |m: &MemberReport| m.role == Some(Role(2)) && m.standing == MemberStanding::InSync;
    let holder = world.array.status().members.into_iter().find(plays);
    fail(&mut world, usize::from(holder.expect("somebody").member.0));
    assert_eq!(world.array.status().missing, 0, "the one that waited took its place");
    world.check_content();
    world.check_parity();
}

/// A member of which parity was to be repaired dies in the middle, and comes back: that stripe is among what it
/// missed.
#[test]
fn a_repair_that_a_member_missed_is_made_when_it_is_back() {
    let mut world = at_rest(shape(Level::Raid5, 4, Some(8192)), 2);
    let whole = world.model.len();
    write(&mut world, 0, whole, 1);
    rest(&mut world);
    let g = world.geometry();
    let (disk, block) = on_lane(&world, 7, g.p_lane(), 0);
    world.disks[disk].write(block * 4096, &[0xdb; 4096]);
    world.disks[disk].flush();
    world.tell(Event::Scrub { repair: true });
    let is_store = |p: &Pending| matches!(p, Pending::Write { .. });
    while !world.pending.iter().any(is_store) {
        assert!(world.answer_one(), "nothing was repaired");
    }
    world.disks[disk].dead = true;
    world.quiesce();
    assert_eq!(world.array.status().missing, 1);
    world.bring_back(disk);
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    world.check_parity();
    world.check_content();
}

/// Blocks of two members are bad in the same column: their reads fail and tell nothing wrong, a write beside them
/// fails as well, and all of the column written anew is whole.
#[test]
fn a_column_with_more_bad_blocks_than_parity_fails_until_it_is_written_in_full() {
    for level in [Level::Raid5, Level::Raid6] {
        let members = 4 + level.parity();
        let mut world = at_rest(shape(level, members, Some(8192)), 3);
        let data = world.geometry().data();
        let whole = world.model.len();
        write(&mut world, 0, whole, 1);
        // Written by itself each is recorded; together they would be taken for a fault of the cable.
        for lane in 0..=level.parity() {
            let (disk, block) = on_lane(&world, 0, lane, 4096);
            world.disks[disk].refuses.insert(block);
            world.disks[disk].spoils = true;
            world.errors_allowed = true;
            world.ask(
                RequestKind::Write { fua: true },
                u64::from(lane) * u64::from(CHUNK) + 4096,
                vec![2; 4096],
            );
            world.quiesce();
        }
        for stop in [false, true] {
            if stop {
                world.tell(Event::Stop);
                while world.answer_one() {}
                let model = world.model.clone();
                world = start(world.disks, 3);
                world.model = model;
                world.errors_allowed = true;
            }
            let mut lost = BTreeSet::new();
            for lane in 0..data {
                world.reads.clear();
                let at = u64::from(lane) * u64::from(CHUNK) + 4096;
                world.ask(RequestKind::Read, at, vec![0; 4096]);
                world.quiesce();
                match world.reads.get(&at) {
                    Some(bytes) => assert!(bytes[..] == [1; 4096] || bytes[..] == [2; 4096]),
                    None => drop(lost.insert(lane)),
                }
            }
            assert_eq!(lost.len(), usize::from(level.parity()) + 1, "{level}");
        }
        world.disks.iter_mut().for_each(|disk| disk.refuses.clear());
        let row = usize::from(data) * CHUNK as usize;
        write(&mut world, 0, row, 5);
        world.errors_allowed = false;
        assert!(read(&mut world, 0, row) == vec![5; row]);
        assert!(world.array.status().members.iter().all(|m| m.bad_bytes == 0));
        world.check_parity();
    }
}

/// A member that is being filled has a copy of the bitmap, too, and will be asked when it is whole: the kernel reads
/// the first member's alone.
#[test]
fn the_copy_of_a_member_that_is_being_filled_is_brought_up_to_date() {
    let mut world = at_rest(shape(Level::Raid5, 4, Some(8192)), 5);
    let whole = world.model.len();
    write(&mut world, 0, whole, 1);
    rest(&mut world);
    fail(&mut world, 1);
    let new = usize::from(world.add_disk().0);
    while !world.array.status().members.iter().any(|m| m.standing == MemberStanding::Rebuilding) {
        assert!(world.answer_one());
    }
    world.tell(Event::Stop);
    while world.answer_one() {}
    assert_eq!(world.stopped, Some(true));
    let differs = |disks: &[Disk]| {
        let assembly = world::assemble(disks, false).expect("assembles");
        assert_eq!((assembly.degraded, assembly.missing_roles.len()), (1, 0));
        assembly.bitmap.expect("a bitmap").differs
    };
    assert!(!differs(&world.disks));
    // A round did not get there, or only half of it, or it cannot be read back.
    let copy = world.disks[new].read(8192, 4096).to_vec();
    world.disks[new].write(8192 + 256, &[0; 4]);
    assert!(differs(&world.disks));
    world.disks[new].write(8192, &copy);
    assert!(!differs(&world.disks));
    world.disks[new].write(8192, &[0; 512]);
    assert!(differs(&world.disks));
}

/// Both halves of a RAID 6 ran without the other. Whichever is believed when all are there, nobody of the other half
/// comes back by the bitmap: what it wrote meanwhile is under no bit.
#[test]
fn halves_that_ran_apart_are_not_put_together() {
    let mut refused = 0;
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let mut world = at_rest(shape(Level::Raid6, 4, Some(8192)), seed);
        let whole = world.model.len();
        write(&mut world, 0, whole, 1);
        rest(&mut world);
        if rng.chance(50) {
            world.tell(Event::Stop);
            while world.answer_one() {}
        }
        let mut disks = world.disks;
        let mut models = Vec::new();
        for (half, value) in [([0, 1], 2), ([2, 3], 3)] {
            let mine: Vec<Disk> = half.iter().map(|&at: &usize| disks[at].clone()).collect();
            let mut side = start(mine, seed);
            side.model = vec![1; whole];
            side.fuzzy.clear();
            for _ in 0..1 + rng.below(3) {
                let at = rng.below(whole as u64 / 4096) * 4096;
                write(&mut side, at, 4096, value);
                if rng.chance(60) {
                    rest(&mut side);
                }
            }
            side.tell(Event::Stop);
            while side.answer_one() {}
            half.iter().zip(side.disks).for_each(|(&at, disk)| disks[at] = disk);
            models.push(side.model);
        }
        let assembly = match world::assemble(&disks, false) {
            Ok(assembly) => assembly,
            Err(error) => {
                assert!(
                    matches!(error, md_format::AssembleError::SeparateWays { .. }),
                    "seed {seed}: {error}"
                );
                refused += 1;
                continue;
            }
        };
        let taken: Vec<usize> = assembly.members.iter().map(|m| m.found).collect();
        assert!(taken == [0, 1] || taken == [2, 3], "seed {seed}: {taken:?}");
        let mut next = World::over(disks, &assembly, 6, rng, seed);
        next.model = models.swap_remove(taken[0] / 2);
        next.quiesce();
        next.check_content();
        for other in (0..4).filter(|at| !taken.contains(at)) {
            next.disks[other].dead = true;
            next.bring_back(other);
        }
        next.quiesce();
        assert_eq!(next.array.status().missing, 0);
        next.check_parity();
        next.check_content();
    }
    assert!(refused > 0, "no two sides were as new as each other");
}

/// The power fails while a member is away, the array is started by force without it, and then it comes back, with
/// what it has or after it died once more: what is read from then on is what was read before, and parity matches.
#[test]
fn a_member_comes_back_to_an_array_that_was_forced() {
    let mut returned = 0;
    for seed in 0..80 {
        let mut rng = Rng(seed);
        let level = if seed % 2 == 0 { Level::Raid5 } else { Level::Raid6 };
        let members = 4 + level.parity();
        let mut world = at_rest(shape(level, members, Some(8192)), seed);
        let whole = world.model.len();
        write(&mut world, 0, whole, 1);
        rest(&mut world);
        let away = rng.below(u64::from(members)) as usize;
        let noticed = rng.chance(60);
        if noticed {
            fail(&mut world, away);
        }
        for _ in 0..1 + rng.below(4) {
            let at = rng.below(whole as u64 / 4096 - 4) * 4096;
            world.ask(RequestKind::Write { fua: rng.chance(30) }, at, vec![rng.next() as u8; 8192]);
            if rng.chance(40) {
                world.quiesce();
            }
        }
        world.tell(Event::Idle);
        for _ in 0..rng.below(60) {
            world.answer_one();
        }
        let mut disks = cut(&world, &mut rng);
        let kept = disks[away].clone();
        disks[away].view[4096..4608].fill(0);
        let assembly = world::assemble(&disks, true).expect("by force");
        disks[away] = kept;
        disks[away].dead = true;
        let mut next = World::over(disks, &assembly, 6, Rng(seed), seed);
        let sectors = next.model.len() as u64 / 512;
        next.fuzzy = (0..sectors).collect();
        next.quiesce();
        next.model = read(&mut next, 0, whole);
        next.fuzzy.clear();
        for round in 0..2 {
            let at = rng.below(whole as u64 / 4096) * 4096;
            write(&mut next, at, 4096, 200 + round);
            rest(&mut next);
            let back = next.bring_back(if round == 0 { away } else { next.disks.len() - 1 });
            for _ in 0..rng.below(60) {
                next.answer_one();
            }
            returned += u32::from(next.array.status().members.iter().any(|m| m.returning));
            if round == 0 && rng.chance(50) {
                fail(&mut next, usize::from(back.0));
                continue;
            }
            next.quiesce();
            break;
        }
        next.quiesce();
        assert_eq!(next.array.status().missing, 0, "seed {seed}");
        next.check_content();
        next.check_parity();
        rest(&mut next);
        next.check_content();
    }
    assert!(returned > 10, "only {returned} came back by the bitmap");
}
