//! Replays in which a medium or a member fails.

use super::{LOG_SECTOR, Pending, SEVERAL, Shape, cut_disks};
use crate::world::{self, Rng, World};
use md_format::Layout;
use uraid_core::*;

/// A block that cannot be read keeps the replay from its own column only. The others of the same entry are all that
/// is known of what a lost member held there.
#[test]
fn an_unreadable_block_spoils_no_other_column() {
    let chunk = 65536;
    let layout = Layout::LeftSymmetric;
    let shape = Shape { layout, members: 3, chunk, rows: 1, log: SEVERAL, clean: true, bad_blocks: true };
    let mut world = shape.world(1);
    world.quiesce();
    let fill: Vec<u8> = (0..2 * chunk).map(|at| (at / 512 + 1) as u8).collect();
    world.ask(RequestKind::Write { fua: true }, 0, fill.clone());
    world.quiesce();
    // Half of the first chunk; its data arrive, its parity does not.
    let written = 32768;
    world.ask(RequestKind::Write { fua: false }, 0, vec![0xee; written]);
    world.tell(Event::Idle);
    while !world.pending.iter().any(|p| matches!(p, Pending::Write { .. })) {
        assert!(world.answer_one());
    }
    let geometry = world.geometry();
    let member_of = |lane: u16| usize::from(geometry.pattern(0).roles[usize::from(lane)].0);
    let mut disks = world.disks.clone();
    for pending in &world.pending {
        if let Pending::Write { member, offset, bytes, .. } = pending
            && usize::from(member.0) == member_of(0)
        {
            disks[member_of(0)].write(*offset, bytes);
        }
    }
    let first = disks[member_of(0)].data_start() / 4096;
    disks[member_of(0)].bad.insert(first);
    // Nothing is found on the member of the other chunk.
    disks[member_of(1)].view[4096..8192].fill(0);
    let assembly = world::assemble(&disks, false).expect("starts without force");
    assert_eq!(assembly.ppl.as_ref().map(|ppl| ppl.replay.len()), Some(1));
    let mut next = World::over(disks, &assembly, 6, Rng(2), 2);
    next.model = fill;
    next.model[..written].fill(0xee);
    next.quiesce();
    next.ask(RequestKind::Read, chunk as u64 + 4096, vec![0; written - 4096]);
    next.quiesce();
    assert!(next.asked.is_empty());
}

/// A dirty array without a member, and on another one block cannot be read of those that were being written: that
/// column cannot be made right, and says so. The columns beside it are, and the array's other blocks lose nothing.
#[test]
fn a_block_that_cannot_be_read_in_a_replay_costs_its_own_column_only() {
    let mut reached = 0;
    for seed in 0..120 {
        let mut rng = Rng(seed);
        let shape = Shape {
            layout: Layout::LeftSymmetric,
            members: 4,
            chunk: 16384,
            rows: 1,
            log: SEVERAL,
            clean: true,
            bad_blocks: true,
        };
        let mut world = shape.world(seed);
        world.quiesce();
        let bytes = world.model.len() as u64;
        let fill: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
        world.ask(RequestKind::Write { fua: true }, 0, fill.clone());
        world.quiesce();
        // All of lane 1 is written anew, and the power fails.
        world.ask(RequestKind::Write { fua: false }, 16384, vec![9; 16384]);
        world.tell(Event::Idle);
        for _ in 0..4 + rng.below(16) {
            world.answer_one();
        }
        let mut disks = cut_disks(&world, &mut rng);
        let g = world.geometry();
        let (lost, sick) = (g.pattern(0).roles[2], g.pattern(0).roles[1]);
        let column = rng.below(4);
        let block = disks[usize::from(sick.0)].data_start() / 4096 + column;
        disks[usize::from(sick.0)].bad.insert(block);
        disks.remove(usize::from(lost.0));
        let Ok(assembly) = world::assemble(&disks, false) else { continue };
        let mut next = World::over(disks, &assembly, 6, Rng(seed), seed);
        next.fuzzy = (0..bytes / 512).collect();
        next.errors_allowed = true;
        next.quiesce();
        reached += u32::from(assembly.dirty && assembly.ppl.is_some_and(|ppl| !ppl.replay.is_empty()));
        for at in (2 * 16384..3 * 16384).step_by(4096) {
            next.reads.clear();
            next.ask(RequestKind::Read, at, vec![0; 4096]);
            next.quiesce();
            let at_bad = at / 4096 % 4 == column;
            match next.reads.get(&at) {
                Some(now) => assert!(now[..] == fill[at as usize..][..4096], "seed {seed}: {at} reads wrong"),
                None => assert!(at_bad, "seed {seed}: {at} cannot be read"),
            }
        }
        // The medium comes to its senses: what was never replayed does not become readable by that.
        next.disks.iter_mut().for_each(|disk| disk.bad.clear());
        for at in (2 * 16384..3 * 16384).step_by(4096) {
            next.reads.clear();
            next.ask(RequestKind::Read, at, vec![0; 4096]);
            next.quiesce();
            if let Some(now) = next.reads.get(&at) {
                assert!(now[..] == fill[at as usize..][..4096], "seed {seed}: {at} reads wrong later");
            }
        }
    }
    assert!(reached > 40, "only {reached} replays");
}

/// Logs that are in doubt ask for a resync. A member that fails before it takes away what would be compared, not the
/// doubt.
#[test]
fn a_doubt_outlives_a_member_that_fails_during_the_replay() {
    let mut reached = 0;
    for seed in 0..40 {
        let shape = Shape {
            layout: Layout::LeftSymmetric,
            members: 4,
            chunk: 8192,
            rows: 4,
            log: SEVERAL,
            clean: true,
            bad_blocks: false,
        };
        let mut world = shape.world(seed);
        world.quiesce();
        world.ask(RequestKind::Write { fua: false }, 0, vec![9; 4096]);
        world.tell(Event::Idle);
        let mut rng = Rng(seed);
        for _ in 0..4 + rng.below(12) {
            world.answer_one();
        }
        let mut disks = cut_disks(&world, &mut rng);
        let g = world.geometry();
        let [unlogged, victim] = [1, 2].map(|lane| usize::from(g.pattern(0).roles[lane].0));
        disks[unlogged].write(LOG_SECTOR * 512, &[0; 4096]);
        disks[unlogged].flush();
        let assembly = world::assemble(&disks, false).expect("all are there");
        let replays = assembly.dirty && assembly.ppl.as_ref().is_some_and(|ppl| !ppl.replay.is_empty());
        if !replays {
            continue;
        }
        reached += 1;
        let mut next = World::over(disks, &assembly, 6, Rng(seed), seed);
        next.fuzzy = (0..next.model.len() as u64 / 512).collect();
        next.disks[victim].dead = true;
        next.quiesce();
        assert_eq!(next.array.status().missing, 1);
        assert!(next.array.status().resync_due);
        next.tell(Event::Stop);
        while next.answer_one() {}
        next.disks.remove(victim);
        let refused = world::assemble(&next.disks, false).expect_err("parity is in doubt");
        assert!(matches!(refused, md_format::AssembleError::DirtyDegraded { .. }), "{refused}");
    }
    assert!(reached > 10, "only {reached} replays");
}

/// Answers of an array that logs wait for bad-block logs, and its logs for what answers wait for: nobody waits for
/// ever, and what is written in between reads back.
#[test]
fn bad_blocks_come_and_go_on_an_array_that_logs() {
    for seed in 0..12 {
        let layout = Layout::LeftSymmetric;
        let shape =
            Shape { layout, members: 4, chunk: 8192, rows: 4, log: SEVERAL, clean: true, bad_blocks: true };
        let mut world = shape.world(seed);
        world.quiesce();
        let mut rng = Rng(seed);
        let sick = rng.below(4) as usize;
        let start = world.disks[sick].data_start() / 4096;
        for _ in 0..60 {
            let block = start + rng.below(8);
            if !world.disks[sick].refuses.remove(&block) {
                world.disks[sick].refuses.insert(block);
            }
            let sectors = world.model.len() as u64 / 512;
            let len = (1 + rng.below(32)).min(sectors);
            let at = rng.below(sectors - len + 1);
            world.ask(
                RequestKind::Write { fua: rng.chance(30) },
                at * 512,
                vec![rng.next() as u8; len as usize * 512],
            );
            if rng.chance(40) {
                world.quiesce();
            }
        }
        world.quiesce();
        world.check_content();
        world.check_parity();
    }
}
