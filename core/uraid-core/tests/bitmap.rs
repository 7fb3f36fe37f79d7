//! The write-intent bitmap at work: what is on the members at every step, what a stop leaves, and members that
//! were away and come back. `crash.rs` cuts the power of arrays with a bitmap.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod world;

use md_format::{Bitmap, Layout, Level, Superblock, Warning};
use uraid_core::*;
use world::{Disk, Rng, Shape, World};

const REGION: u64 = 8192;

/// A clean RAID 5 of four members of 128 KiB, 16 regions.
fn shape() -> Shape {
    Shape {
        level: Level::Raid5,
        layout: Layout::LeftSymmetric,
        members: 4,
        chunk: 8192,
        rows: 16,
        slots: 6,
        clean: true,
        bitmap: Some(REGION),
    }
}

/// A new array, marked clean and with its bits cleared.
fn at_rest(seed: u64) -> World {
    let mut world = World::new(shape(), seed);
    world.quiesce();
    rest(&mut world);
    assert_eq!(bits(&world.disks[0]), []);
    world
}

/// Lets time pass until nothing is left to be cleared.
fn rest(world: &mut World) {
    for _ in 0..4 {
        world.pass_time(5000);
    }
}

fn superblock(disk: &Disk) -> Superblock {
    world::superblock(disk).expect("sound")
}

fn bitmap(disk: &Disk) -> Bitmap {
    Bitmap::parse(disk.read(8192, 4096), &superblock(disk)).expect("sound")
}

fn bits(disk: &Disk) -> Vec<u64> {
    bitmap(disk).set_regions().collect()
}

/// Writes `len` bytes of one value and lets it come to an end.
fn write(world: &mut World, offset: u64, len: usize, value: u8) {
    world.ask(RequestKind::Write { fua: false }, offset, vec![value; len]);
    world.quiesce();
}

fn fail(world: &mut World, member: usize) {
    world.disks[member].dead = true;
    world.tell(Event::FailMember(MemberId(member as u16)));
    world.quiesce();
}

#[test]
fn a_bit_is_on_all_members_before_its_region_is_written_and_goes_when_it_is_idle() {
    let mut world = at_rest(1);
    world.ask(RequestKind::Write { fua: false }, 3 * REGION * 3, vec![7; 4096]);
    world.tell(Event::Idle);
    let mut written = 0;
    loop {
        let data: Vec<(usize, u64)> = world
            .pending
            .iter()
            .filter_map(|p| match p {
                world::Pending::Write { member, offset, .. } => Some((usize::from(member.0), *offset)),
                _ => None,
            })
            .collect();
        for (member, offset) in data {
            let region = (offset - world.disks[member].data_start()) / REGION;
            assert!(world.disks.iter().all(|disk| bits(disk).contains(&region)), "region {region}");
            written += 1;
        }
        if !world.answer_one() {
            break;
        }
    }
    assert!(written > 0);
    assert_eq!(bits(&world.disks[2]), [3]);
    world.pass_time(1000);
    assert_eq!(bits(&world.disks[2]), [3], "a bit stays for a while");
    rest(&mut world);
    assert!(world.disks.iter().all(|disk| bits(disk).is_empty()));
    let cleared = bitmap(&world.disks[1]).events_cleared();
    assert!(world.disks.iter().all(|disk| superblock(disk).events() <= bitmap(disk).events()));
    assert!(cleared > 1 && cleared <= superblock(&world.disks[0]).events());
}

#[test]
fn an_array_that_nobody_wrote_stops_without_waiting() {
    let mut world = World::new(shape(), 3);
    world.tell(Event::Stop);
    while world.answer_one() {}
    assert_eq!(world.stopped, Some(true));
    let now = &world.disks[0];
    assert_eq!(superblock(now).events(), bitmap(now).events());
}

#[test]
fn the_bitmap_never_says_fewer_events_than_the_superblock() {
    let mut world = World::new(shape(), 2);
    let mut rng = Rng(77);
    let mut steps = 0;
    while steps < 3000 {
        match rng.below(20) {
            0 if world.asked.len() < 4 => {
                let sectors = world.model.len() as u64 / 512 - 8;
                let data = vec![rng.next() as u8; 4096];
                world.ask(RequestKind::Write { fua: rng.chance(30) }, rng.below(sectors) * 512, data);
            }
            1 => world.tell(Event::Idle),
            2 if rng.chance(20) => world.pass_time(300),
            3 if rng.chance(20) => world.pass_time(6000),
            4 if steps == 1500 => fail(&mut world, 1),
            _ => drop(world.answer_one()),
        }
        for disk in world.disks.iter().filter(|disk| !disk.dead) {
            let (sb, map) = (superblock(disk).events(), bitmap(disk).events());
            assert!(map >= sb, "a bitmap at event {map} beside a superblock at {sb}");
        }
        steps += 1;
    }
}

#[test]
fn a_stop_leaves_no_bit_and_a_clean_array() {
    let mut world = at_rest(3);
    (0..8).for_each(|n| write(&mut world, n * 30_720, 3072, n as u8));
    world.tell(Event::Stop);
    world.quiesce();
    assert_eq!(world.stopped, Some(true));
    for disk in &world.disks {
        assert_eq!(bits(disk), []);
        assert!(superblock(disk).is_clean());
        assert_eq!(superblock(disk).events(), bitmap(disk).events());
    }
}

#[test]
fn no_bit_is_cleared_while_a_member_is_missing() {
    let mut world = at_rest(4);
    let before = bitmap(&world.disks[0]).events_cleared();
    fail(&mut world, 1);
    write(&mut world, 0, 4096, 1);
    rest(&mut world);
    assert_eq!(bits(&world.disks[0]), [0]);
    world.tell(Event::Stop);
    world.quiesce();
    assert_eq!(bits(&world.disks[0]), [0]);
    assert_eq!(bitmap(&world.disks[0]).events_cleared(), before);
}

#[test]
fn a_member_that_was_away_gets_what_it_missed_and_no_more() {
    let mut world = at_rest(5);
    let whole = 3 * 16 * 8192;
    write(&mut world, 0, whole, 1);
    rest(&mut world);
    fail(&mut world, 2);
    write(&mut world, 3 * 5 * REGION, 8192, 2);
    write(&mut world, 3 * 11 * REGION + 4096, 512, 3);
    let back = world.bring_back(2);
    let mut rebuilt = std::collections::BTreeSet::new();
    world.tell(Event::Idle);
    loop {
        // Whoever asks is told so at any time, also before the role is given to it.
        let report = world.array.status().members.into_iter().find(|m| m.member == back).expect("it is here");
        assert!(report.returning || report.standing == MemberStanding::InSync, "{report:?}");
        for pending in &world.pending {
            if let world::Pending::Write { member, offset, .. } = pending
                && *member == back
            {
                rebuilt.insert((offset - world.disks[usize::from(back.0)].data_start()) / REGION);
            }
        }
        if !world.answer_one() {
            break;
        }
    }
    assert_eq!(Vec::from_iter(rebuilt), [5, 11]);
    assert_eq!(world.array.status().missing, 0);
    world.check_parity();
    world.check_content();
    rest(&mut world);
    assert!(world.disks.iter().filter(|disk| !disk.dead).all(|disk| bits(disk).is_empty()));
    // It is a member as the others are: nothing in its superblock speaks of its time away.
    let features = superblock(&world.disks[usize::from(back.0)]).features();
    assert_eq!(features, superblock(&world.disks[0]).features());
}

#[test]
fn a_member_that_was_away_too_long_is_rebuilt_in_full() {
    let mut world = at_rest(6);
    fail(&mut world, 2);
    write(&mut world, 0, 3 * 16 * 8192, 4);
    let other = usize::from(world.add_disk().0);
    world.quiesce();
    // Nobody is missing: bits go, and with them what would tell the first what it missed.
    rest(&mut world);
    assert_eq!(bits(&world.disks[0]), []);
    fail(&mut world, other);
    let gone = world.disks.iter().position(|d| d.dead && d.view.iter().any(|b| *b != 0)).expect("one died");
    assert_eq!(gone, 2, "the first to fail is found first");
    world.bring_back(2);
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    world.check_parity();
    world.check_content();
}

/// Two devices had the role, one after the other. The bits tell what either missed while nobody has it, and no
/// longer: whoever is left over is a blank spare from then on.
#[test]
fn of_two_that_come_back_to_the_same_role_the_second_is_not_believed_later() {
    let mut world = at_rest(12);
    fail(&mut world, 2);
    write(&mut world, 0, 4096, 4);
    let other = usize::from(world.add_disk().0);
    world.quiesce();
    fail(&mut world, other);
    let (first, second) = (world.bring_back(other), world.bring_back(2));
    loop {
        let returning = world.array.status().members.into_iter().filter(|m| m.returning).count();
        assert!(returning <= 1, "one role for {returning}");
        if !world.answer_one() {
            break;
        }
    }
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    write(&mut world, 0, 3 * 16 * 8192, 5);
    rest(&mut world);
    assert_eq!(bits(&world.disks[0]), []);
    fail(&mut world, usize::from(first.0));
    assert_eq!(world.array.status().missing, 0, "{second:?} takes its place");
    world.check_parity();
    world.check_content();
}

#[test]
fn a_member_that_was_written_elsewhere_is_not_believed() {
    let mut world = World::new(Shape { level: Level::Raid6, members: 6, ..shape() }, 7);
    world.quiesce();
    rest(&mut world);
    fail(&mut world, 3);
    // It ran without one of those who are here.
    let mut bytes = superblock(&world.disks[3]);
    bytes.set_role(1, md_format::DevRole::Faulty).expect("in the table");
    let at = bytes.encode();
    world.disks[3].view[4096..4096 + at.len()].copy_from_slice(&at);
    world.disks[3].durable = world.disks[3].view.clone();
    let new = |old: &Superblock, world: &World| NewMember {
        member: MemberId(99),
        device_sectors: world.disks[0].sectors,
        device_uuid: [1; 16],
        old: Some(Box::new(old.clone())),
    };
    assert!(!world.array.would_return(&new(&bytes, &world)));
    bytes.set_role(1, md_format::DevRole::Active(1)).expect("in the table");
    assert!(world.array.would_return(&new(&bytes, &world)));
    bytes.set_recovery_offset(Some(0));
    assert!(!world.array.would_return(&new(&bytes, &world)));
}

#[test]
fn copies_that_differ_are_united_and_one_that_is_outdated_asks_for_everything() {
    let mut world = at_rest(8);
    world.ask(RequestKind::Write { fua: false }, 0, vec![1; 4096]);
    world.tell(Event::Idle);
    while world.asked.len() == 1 && world.answer_one() {}
    let mut disks = world.disks.clone();
    let put = |disk: &mut Disk, map: &Bitmap| {
        let (_, page) = map.page(0);
        disk.view[8192..8192 + page.len()].copy_from_slice(page);
        disk.durable = disk.view.clone();
    };
    // Each member but the first has another bit.
    for (n, disk) in (1..).zip(&mut disks[1..]) {
        let mut map = bitmap(disk);
        map.put_bit(n * 4, true);
        put(disk, &map);
    }
    let assembly = world::assemble(&disks, false).expect("assembles");
    let united = assembly.bitmap.expect("a bitmap");
    assert_eq!(united.bitmap.set_regions().collect::<Vec<_>>(), [0, 4, 8, 12]);
    assert!(united.differs && assembly.dirty);
    // What is written first brings all of them to it.
    let mut again =
        World::over(disks.clone(), &world::assemble(&disks, false).expect("assembles"), 6, Rng(1), 1);
    again.quiesce();
    again.tell(Event::FailMember(MemberId(1)));
    again.quiesce();
    assert_eq!(bits(&again.disks[0]), [0, 4, 8, 12]);
    // One that says fewer events than the superblocks is not asked; if none is left everything is in doubt.
    for disk in &mut disks {
        let mut map = bitmap(disk);
        map.set_events(1);
        put(disk, &map);
    }
    let assembly = world::assemble(&disks, false).expect("assembles");
    assert!(assembly.warnings.contains(&Warning::BitmapOutdated { dirty: true }), "{:?}", assembly.warnings);
    assert_eq!(assembly.bitmap.expect("a bitmap").bitmap.set_regions().count(), 16);
}

#[test]
fn damaged_copies_are_written_anew_and_without_a_sound_one_nothing_starts() {
    let world = at_rest(9);
    let mut disks = world.disks.clone();
    disks[2].view[8192] ^= 1;
    let assembly = world::assemble(&disks, false).expect("assembles");
    assert!(assembly.bitmap.as_ref().expect("a bitmap").differs);
    let text: Vec<String> = assembly.warnings.iter().map(ToString::to_string).collect();
    assert!(text.iter().any(|t| t.contains("disk2: its copy") && t.contains("written anew")), "{text:?}");
    let mut again = World::over(disks.clone(), &assembly, 6, Rng(1), 1);
    write(&mut again, 0, 512, 9);
    assert_eq!(bits(&again.disks[2]), [0]);
    disks.iter_mut().enumerate().filter(|(n, _)| *n != 2).for_each(|(_, disk)| disk.view[8192] ^= 1);
    let error = world::assemble(&disks, false).expect_err("no copy is sound").to_string();
    assert!(error.contains("magic") && error.contains("no-bitmap"), "{error}");
    disks.iter_mut().for_each(|disk| disk.view[8192] ^= 1);
    disks[0].view[8192 + 4] = 6;
    let error = world::assemble(&disks, false).expect_err("lockless").to_string();
    assert!(error.contains("lockless version (6)"), "{error}");
}

#[test]
fn no_bit_is_cleared_before_every_member_has_made_its_region_durable() {
    let mut world = at_rest(10);
    write(&mut world, 0, 4096, 1);
    // Another write stays open, so that the array is not marked clean, which would flush as well.
    world.ask(RequestKind::Write { fua: false }, 3 * 8 * REGION, vec![2; 4096]);
    world.tell(Event::Idle);
    let clearing = |world: &World| world.pending.iter().any(|p| matches!(p, world::Pending::Flush { .. }));
    let is_store = |p: &world::Pending| matches!(p, world::Pending::Write { .. });
    while !world.pending.iter().any(is_store) {
        assert!(world.answer_one());
    }
    for _ in 0..4 {
        world.now = world.now.plus_ms(5000);
        world.tell(Event::Timer);
    }
    assert!(clearing(&world), "{:?}", world.pending);
    // All is answered but the flush of one member.
    let held = |p: &world::Pending| matches!(p, world::Pending::Flush { member: MemberId(3), .. });
    let at = world.pending.iter().position(held).expect("every member is flushed");
    let flush = world.pending.remove(at);
    world.pending.retain(|p| !is_store(p));
    while world.answer_one() {}
    assert!(world.disks.iter().all(|disk| bits(disk).contains(&0)));
    world.pending.push(flush);
    while world.answer_one() {}
    assert!(world.disks.iter().all(|disk| !bits(disk).contains(&0)));
}

#[test]
fn a_new_member_has_the_bitmap_of_the_others() {
    let mut world = at_rest(11);
    fail(&mut world, 1);
    write(&mut world, 3 * 2 * REGION, 4096, 1);
    let new = usize::from(world.add_disk().0);
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    assert_eq!(bitmap(&world.disks[new]), bitmap(&world.disks[0]));
    assert_eq!(bits(&world.disks[new]), [2]);
}
