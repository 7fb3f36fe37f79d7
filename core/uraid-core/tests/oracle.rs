//! A plain byte array beside the array, under random requests, failures, read errors, engine faults and
//! rebuilds: every level and layout, 3 to 10 members. `URAID_ORACLE_ROUNDS` scales it (default 1).

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod world;

use uraid_core::*;
use world::{Rng, Shape, World, every_layout};

fn rounds() -> u64 {
    std::env::var("URAID_ORACLE_ROUNDS").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

fn shape(rng: &mut Rng, case: u64) -> Shape {
    let layouts = every_layout();
    let (level, layout) = layouts[(case % layouts.len() as u64) as usize];
    let least = if level.parity() == 2 { 4 } else { 3 };
    let members = least + rng.below(11 - u64::from(least)) as u16;
    let chunk = rng.pick(&[4096u32, 8192, 16384, 65536, 524_288]);
    let rows = if chunk > 65536 { 1 + rng.below(2) } else { 2 + rng.below(9) };
    Shape {
        level,
        layout,
        members,
        chunk,
        rows,
        slots: 4 + rng.below(8) as u32,
        clean: rng.chance(70),
        bitmap: rng.pick(&[None, Some(4096), Some(32768)]),
    }
}

/// One random request: sizes from a sector to several rows, biased to a few hot places.
fn request(world: &mut World) {
    let g = world.geometry();
    let sectors = g.array_bytes() / 512;
    let row = (g.chunk_bytes() * u64::from(g.data()) / 512).max(1);
    let len = match world.rng.below(10) {
        0..=3 => 1 + world.rng.below(16),
        4..=5 => 8,
        6..=7 => 1 + world.rng.below(row),
        8 => row,
        _ => 1 + world.rng.below(3 * row),
    };
    let len = len.min(sectors).min(2048);
    let start = match world.rng.below(3) {
        0 => world.rng.below(sectors - len + 1),
        1 => world.rng.below((sectors - len + 1).min(64)),
        _ => (world.rng.below(sectors / row + 1) * row).min(sectors - len),
    };
    let mut data = vec![0; (len * 512) as usize];
    let fua = world.rng.chance(10);
    let kind = match world.rng.below(20) {
        0..=8 => RequestKind::Write { fua },
        9 => RequestKind::WriteZeroes { fua },
        10 => {
            world.ask(RequestKind::Flush, 0, vec![]);
            return;
        }
        _ => RequestKind::Read,
    };
    let tag = world.rng.next();
    if matches!(kind, RequestKind::Write { .. }) {
        for (i, word) in data.chunks_mut(8).enumerate() {
            word.copy_from_slice(&tag.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9)).to_le_bytes());
        }
    }
    world.ask(kind, start * 512, data);
}

/// Something goes wrong, within what the level survives.
fn trouble(world: &mut World) {
    let status = world.array.status();
    let parity = world.geometry().parity();
    let in_sync: Vec<MemberId> =
        status.members.iter().filter(|m| m.standing == MemberStanding::InSync).map(|m| m.member).collect();
    let victim = world.rng.pick(&in_sync);
    // An unsynced array gives no promise about lost members.
    let may_fail = status.missing < parity && !status.resync_due;
    match world.rng.below(9) {
        0 if may_fail && world.array.check_fail(victim).is_ok() => world.tell(Event::FailMember(victim)),
        1 if may_fail => world.disks[usize::from(victim.0)].dead = true,
        2 if may_fail && world.fail_writes_of.is_none() => world.fail_writes_of = Some(victim),
        3..=4 if status.missing == 0 && !status.resync_due && quiet(world) => {
            // One unreadable block, while nothing else is lost.
            let g = world.geometry();
            let disk = &mut world.disks[usize::from(victim.0)];
            let block = world.rng.below(g.rows() * g.chunk_bytes() / 4096);
            let first = disk.data_start() / 4096;
            disk.bad.insert(first + block);
        }
        // At most two in a life: a third on the same pass would fail it, and rightly so.
        5 if world.compute_faults == 0 && !world.notices.contains(&Notice::ComputeFailed) => {
            world.compute_faults = 1 + world.rng.below(2)
        }
        // At any time: it waits until it can begin.
        6 => {
            let repair = world.rng.chance(50);
            world.tell(Event::Scrub { repair });
        }
        _ if status.missing > 0
            && status.members.iter().all(|m| m.standing != MemberStanding::Rebuilding) =>
        {
            world.fail_writes_of = None;
            world.add_disk();
        }
        _ => {}
    }
}

/// No member has a fault that the array has not met yet.
fn quiet(world: &World) -> bool {
    world.fail_writes_of.is_none() && world.disks.iter().all(|d| d.bad.is_empty() && !d.dead)
}

fn pending_faults(world: &World) -> u16 {
    // Members with a planted fault that the array still counts as in sync.
    let status = world.array.status();
    status
        .members
        .iter()
        .filter(|m| m.standing == MemberStanding::InSync)
        .filter(|m| {
            let disk = &world.disks[usize::from(m.member.0)];
            disk.dead || !disk.bad.is_empty() || world.fail_writes_of == Some(m.member)
        })
        .count() as u16
}

fn run(shape: Shape, seed: u64, steps: u32) {
    let mut world = World::new(shape, seed);
    for step in 0..steps {
        match world.rng.below(100) {
            0..=34 if world.asked.len() < 12 => request(&mut world),
            35..=37 => {
                let status = world.array.status();
                let spare_parity = status.missing < world.geometry().parity();
                if (spare_parity || status.missing > 0) && pending_faults(&world) == 0 {
                    trouble(&mut world);
                }
            }
            38 => world.tell(Event::Idle),
            39 => world.pass_time(250),
            _ => {
                if !world.answer_one() {
                    world.tell(Event::Idle);
                }
            }
        }
        if step % 400 == 399 {
            world.quiesce();
            world.check_content();
            world.check_parity();
        }
    }
    heal(&mut world);
    world.tell(Event::Stop);
    while world.answer_one() {}
    assert_eq!(world.stopped, Some(true), "seed {seed}: a clean stop");
    world.check_parity();
    let disks: Vec<_> = world.disks.iter().filter(|d| !d.dead).cloned().collect();
    let again = world::assemble(&disks, false).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    assert!(!again.dirty && again.degraded == 0, "seed {seed}: clean and whole after a stop: {again:?}");
}

/// Replaces what is lost and lets the rebuild finish; then all must be as the model says.
fn heal(world: &mut World) {
    world.quiesce();
    world.compute_faults = 0;
    world.fail_writes_of = None;
    for _ in 0..4 {
        let status = world.array.status();
        let filled = status.members.iter().filter(|m| m.standing == MemberStanding::Rebuilding).count();
        for _ in filled..usize::from(status.missing) {
            world.add_disk();
        }
        world.quiesce();
    }
    assert_eq!(world.array.status().missing, 0, "seed {}: {:?}", world.seed, world.array.status());
    world.quiesce();
    world.check_content();
    world.check_parity();
}

#[test]
fn random_life_of_every_layout() {
    let layouts = every_layout().len() as u64;
    let only = std::env::var("URAID_ORACLE_SEED").ok().and_then(|v| v.parse::<u64>().ok());
    for case in 0..layouts * 6 * rounds() {
        if only.is_some_and(|seed| seed != 0x5eed_0000 + case) {
            continue;
        }
        let seed = 0x5eed_0000 + case;
        let mut rng = Rng(seed);
        let shape = shape(&mut rng, case);
        eprintln!("seed {seed}: {shape:?}");
        run(shape, seed, 1200);
    }
}
