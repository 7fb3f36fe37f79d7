//! A scrub finds what does not match on every level and layout, repairs it only when asked to, and leaves no
//! trace in the superblocks, whenever it is broken off.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod world;

use uraid_core::*;
use world::{Shape, World, assemble, every_layout};

const ROWS: u64 = 12;

fn world(case: usize, clean: bool) -> World {
    let layouts = every_layout();
    let (level, layout) = layouts[case % layouts.len()];
    let members = if level.parity() == 2 { 5 } else { 4 };
    // With few slots or with one for each stripe: what is cached must not be taken for what the members hold.
    let slots = if case.is_multiple_of(2) { 40 } else { 6 };
    let shape = Shape { level, layout, members, chunk: 8192, rows: ROWS, slots, clean, bitmap: None };
    let mut world = World::new(shape, 71 + case as u64);
    let g = world.geometry();
    let data = (0..g.array_bytes()).map(|i| (i % 251) as u8).collect();
    world.ask(RequestKind::Write { fua: false }, 0, data);
    world.quiesce();
    world.pass_time(1000);
    world.check_parity();
    world.notices.clear();
    world
}

/// Where a lane's strip of a stripe is: the member and its offset.
fn strip(world: &World, stripe: u64, lane: u16) -> (usize, u64) {
    let g = world.geometry();
    let role = g.pattern(stripe).roles[usize::from(lane)];
    let status = world.array.status();
    let member = status.members.iter().find(|m| m.role == Some(role)).expect("plays the role").member;
    let disk = usize::from(member.0);
    (disk, world.disks[disk].data_start() + g.member_offset(stripe))
}

fn flip(world: &mut World, stripe: u64, lane: u16) {
    let (disk, offset) = strip(world, stripe, lane);
    let byte = world.disks[disk].read(offset + 700, 1)[0];
    world.disks[disk].write(offset + 700, &[byte ^ 0x10]);
    world.disks[disk].flush();
}

/// How the scrubs ended: mismatches, whether they were rewritten, whether all was walked over.
fn finished(world: &World) -> Vec<(u64, bool, bool)> {
    let ends = world.notices.iter().filter_map(|notice| match notice {
        Notice::SyncFinished { kind: SyncKind::Scrub, mismatches, repaired, complete, .. } => {
            Some((*mismatches, *repaired, *complete))
        }
        _ => None,
    });
    ends.collect()
}

/// Stripes that the scrubs could not compare.
fn skipped(world: &World) -> u64 {
    let of = |notice: &Notice| match notice {
        Notice::SyncFinished { kind: SyncKind::Scrub, skipped, .. } => *skipped,
        _ => 0,
    };
    world.notices.iter().map(of).sum()
}

/// All that the members hold, superblocks included.
fn everything(world: &World) -> Vec<Vec<u8>> {
    world.disks.iter().map(|disk| disk.view.clone()).collect()
}

fn parity_lanes(g: &Geometry) -> impl Iterator<Item = u16> {
    [Some(g.p_lane()), g.q_lane()].into_iter().flatten()
}

#[test]
fn what_does_not_match_is_counted_and_repaired_only_when_asked() {
    for case in 0..every_layout().len() {
        let mut world = world(case, true);
        let g = world.geometry();
        let before = everything(&world);
        world.tell(Event::Scrub { repair: false });
        assert_eq!(world.array.status().sync.map(|s| s.kind), Some(SyncKind::Scrub));
        assert_eq!(world.array.check_scrub(), Err(ScrubRefused::Busy));
        world.quiesce();
        assert_eq!(finished(&world), [(0, false, true)], "case {case}");
        assert_eq!(everything(&world), before, "case {case}: a scrub of a good array wrote something");
        let mut bad = 0;
        for lane in parity_lanes(&g) {
            flip(&mut world, 1 + bad, lane);
            bad += 1;
        }
        let damaged = everything(&world);
        world.notices.clear();
        world.tell(Event::Scrub { repair: false });
        world.quiesce();
        assert_eq!(finished(&world), [(bad, false, true)], "case {case}");
        assert_eq!(everything(&world), damaged, "case {case}: a scrub without repair wrote something");
        world.notices.clear();
        world.tell(Event::Scrub { repair: true });
        world.quiesce();
        assert_eq!(finished(&world), [(bad, true, true)], "case {case}");
        world.check_parity();
        assert_eq!(everything(&world), before, "case {case}: the repair is not what was there");
    }
}

#[test]
fn what_cannot_be_read_is_recovered_and_the_scrub_goes_on() {
    let mut world = world(0, true);
    let before = everything(&world);
    let (disk, offset) = strip(&world, 3, 0);
    world.disks[disk].bad.insert(offset / 4096);
    world.tell(Event::Scrub { repair: false });
    world.quiesce();
    assert_eq!(finished(&world), [(0, false, true)]);
    assert!(world.disks[disk].bad.is_empty(), "the block was not rewritten");
    assert!(world.notices.iter().any(|n| matches!(n, Notice::ReadErrorCorrected { .. })));
    assert_eq!(skipped(&world), 0);
    assert_eq!(everything(&world), before);
    // Two blocks of a stripe that one parity cannot both recover: told, and the rest is compared all the same.
    world.notices.clear();
    for lane in [0, 1] {
        let (disk, offset) = strip(&world, 3, lane);
        world.disks[disk].bad.insert(offset / 4096);
    }
    let lane = world.geometry().p_lane();
    flip(&mut world, 7, lane);
    world.tell(Event::Scrub { repair: false });
    world.quiesce();
    assert_eq!(finished(&world), [(1, false, true)]);
    assert!(world.notices.iter().any(|n| matches!(n, Notice::ReadErrorUnrecovered { .. })));
    assert_eq!(skipped(&world), 1);
}

/// Of two parities one says what a block was that cannot be read, and the other contradicts: nothing is written
/// over the error unless a repair is asked for.
#[test]
fn what_one_parity_says_against_the_other_is_not_written() {
    let two = every_layout().iter().position(|(level, _)| level.parity() == 2).expect("a RAID 6");
    let mut world = world(two, true);
    let lane = world.geometry().q_lane().expect("a RAID 6");
    let (disk, offset) = strip(&world, 3, 0);
    world.disks[disk].bad.insert(offset / 4096);
    flip(&mut world, 3, lane);
    let before = everything(&world);
    world.tell(Event::Scrub { repair: false });
    world.quiesce();
    assert_eq!((finished(&world), skipped(&world)), (vec![(1, false, true)], 0));
    assert!(world.disks[disk].bad.contains(&(offset / 4096)), "the block was rewritten");
    assert_eq!(everything(&world), before);
    world.tell(Event::Scrub { repair: true });
    world.quiesce();
    assert!(world.disks[disk].bad.is_empty(), "the block was not rewritten");
    world.check_parity();
    world.check_content();
}

/// A member fails at each moment of a scrub while writes go on: it ends, and no content is lost.
#[test]
fn a_member_that_fails_breaks_it_off_and_nothing_is_lost() {
    for case in 0..60 {
        let mut world = world(case, true);
        let parity = world.geometry().parity();
        world.tell(Event::Scrub { repair: case % 3 == 0 });
        world.ask(RequestKind::Write { fua: false }, 512 * case as u64, vec![case as u8; 20_480]);
        for _ in 0..case {
            world.answer_one();
        }
        world.tell(Event::FailMember(MemberId((case % 4) as u16)));
        world.quiesce();
        let ends = finished(&world);
        assert!(ends.len() == 1 && ends[0].0 == 0, "case {case}: {ends:?}");
        // With parity to spare it goes on; without it ends early, unless it was through already.
        assert!(parity == 1 || ends[0].2, "case {case}: {ends:?}");
        world.check_parity();
        world.check_content();
    }
}

/// Power is cut after each number of steps of a repairing scrub: the array is as clean as before, and another
/// scrub repairs the rest.
#[test]
fn a_scrub_that_is_cut_leaves_a_clean_array() {
    for cut_after in (0..120).step_by(7) {
        let mut world = world(cut_after, true);
        let g = world.geometry();
        for stripe in [0, 4, 9] {
            flip(&mut world, stripe, g.p_lane());
        }
        let superblocks: Vec<_> = world.disks.iter().map(|d| world::superblock(d).expect("valid")).collect();
        world.tell(Event::Scrub { repair: true });
        for _ in 0..cut_after {
            world.answer_one();
        }
        let mut rng = world::Rng(cut_after as u64 + 1);
        world.disks.iter_mut().for_each(|disk| disk.cut(&mut rng, &[]));
        let disks = world.disks;
        let after: Vec<_> = disks.iter().map(|d| world::superblock(d).expect("valid")).collect();
        assert_eq!(superblocks, after, "cut after {cut_after}: superblocks were written");
        let assembly = assemble(&disks, false).expect("assembles");
        assert!(!assembly.dirty, "cut after {cut_after}");
        let mut world = World::over(disks, &assembly, 6, rng, 1);
        world.model = world.raw();
        world.tell(Event::Scrub { repair: true });
        world.quiesce();
        world.check_parity();
        world.check_content();
    }
}

#[test]
fn a_stop_breaks_it_off_and_writes_go_on_beside_it() {
    let mut world = world(0, true);
    world.tell(Event::Scrub { repair: true });
    let g = world.geometry();
    world.ask(RequestKind::Write { fua: false }, 0, vec![9; g.chunk_bytes() as usize]);
    world.quiesce();
    world.check_parity();
    world.check_content();
    world.notices.clear();
    world.pass_time(1000);
    world.tell(Event::Scrub { repair: true });
    world.tell(Event::Stop);
    assert_eq!(world.array.check_scrub(), Err(ScrubRefused::NoParity));
    world.quiesce();
    assert_eq!(world.stopped, Some(true));
    assert_eq!(finished(&world).iter().filter(|end| end.2).count(), 0, "it was not broken off");
    assert!(!assemble(&world.disks, false).expect("assembles").dirty);
}

#[test]
fn it_waits_for_a_rebuild_and_needs_parity() {
    let mut world = world(0, true);
    world.tell(Event::FailMember(MemberId(1)));
    assert_eq!(world.array.check_scrub(), Err(ScrubRefused::NoParity));
    // Asked for all the same: it begins when the array is whole.
    world.tell(Event::Scrub { repair: false });
    world.quiesce();
    assert!(finished(&world).is_empty());
    world.add_disk();
    world.quiesce();
    assert_eq!(world.array.status().missing, 0);
    assert!(world.notices.iter().any(|n| matches!(n, Notice::MemberInSync { .. })));
    assert_eq!(finished(&world), [(0, false, true)]);
}
