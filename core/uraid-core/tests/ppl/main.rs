//! Partial parity logs under power cuts: at random moments the members are cut as in `crash.rs`, whole and with
//! one of them lost. The kernel's rules, as an oracle, and the array's own start must both find parity that matches
//! everywhere and, in each sector, a value that was written and is not older than the last flush.
//! `URAID_CRASH_ROUNDS` scales it (default 1).

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod life;
mod oracle;
mod replay;
#[path = "../world/mod.rs"]
mod world;

use life::Life;
use md_format::{CreateParams, DevRole, IntentBitmap, Layout, Level, Superblock, Uuid};
use std::collections::BTreeSet;
use uraid_core::*;
use world::{Disk, Pending, Rng, World};

/// Sectors in front of a log area.
const LOG_SECTOR: u64 = 16;
/// Sectors of an area that has room for several logs of 128 KiB.
const SEVERAL: u16 = 528;

#[derive(Clone, Copy, Debug)]
struct Shape {
    layout: Layout,
    members: u16,
    chunk: u32,
    rows: u64,
    /// Sectors of a log area.
    log: u16,
    clean: bool,
    /// Members have a bad-block log.
    bad_blocks: bool,
}

impl Shape {
    fn area(&self) -> std::ops::Range<usize> {
        let from = LOG_SECTOR as usize * 512;
        from..from + usize::from(self.log) / 8 * 4096
    }

    /// Members with a small area, made from the superblocks of a usual array.
    fn disks(&self, rng: &mut Rng) -> Vec<Disk> {
        let data = u64::from(self.chunk) * self.rows;
        let bad_blocks = (LOG_SECTOR + u64::from(self.log)).next_multiple_of(8);
        let data_sector = bad_blocks + if self.bad_blocks { 8 } else { 0 };
        let sectors = data_sector + data / 512 + 64;
        let uuids: Vec<Uuid> = (0..self.members).map(|i| Uuid([i as u8 + 1; 16])).collect();
        let superblocks = md_format::plan_create(&CreateParams {
            level: Level::Raid5,
            layout: self.layout,
            chunk_sectors: self.chunk / 512,
            name: "logged",
            members: &vec![65536; usize::from(self.members)],
            size_sectors: Some(data / 512),
            set_uuid: Uuid([9; 16]),
            device_uuids: &uuids,
            now: 1_700_000_000,
            clean: self.clean,
            minor: md_format::Minor::V2,
            bitmap: IntentBitmap::None,
            ppl: true,
        })
        .expect("a possible array");
        let disk = |sb: &Superblock| {
            let mut bytes = sb.encode();
            bytes[98..100].copy_from_slice(&self.log.to_le_bytes());
            bytes[128..136].copy_from_slice(&data_sector.to_le_bytes());
            bytes[136..144].copy_from_slice(&(sectors - data_sector).to_le_bytes());
            let offset = if self.bad_blocks { bad_blocks as u32 - 8 } else { 0 };
            bytes[188..192].copy_from_slice(&offset.to_le_bytes());
            let fields = md_sum(&bytes);
            bytes[216..220].copy_from_slice(&fields.to_le_bytes());
            let mut image = vec![0; (sectors * 512) as usize];
            // The area holds garbage, and so do the data if parity is still to be made.
            image[self.area()].iter_mut().for_each(|byte| *byte = rng.next() as u8);
            if !self.clean {
                image[data_sector as usize * 512..].iter_mut().for_each(|byte| *byte = rng.next() as u8);
            }
            image[4096..4096 + bytes.len()].copy_from_slice(&bytes);
            Disk::of_image(image, data_sector * 512)
        };
        superblocks.iter().map(disk).collect()
    }

    fn world(&self, seed: u64) -> World {
        let mut rng = Rng(seed);
        let disks = self.disks(&mut rng);
        let assembly = world::assemble(&disks, false).expect("assembles");
        let mut world = World::over(disks, &assembly, 6, rng, seed);
        world.model = world.raw();
        world
    }
}

/// The checksum of a superblock.
fn md_sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(4).enumerate().filter(|(at, _)| *at != 54);
    let sum: u64 =
        words.map(|(_, w)| u64::from(u32::from_le_bytes(w.try_into().expect("whole words")))).sum();
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// What a power cut leaves on the members; those that died come back.
fn cut_disks(world: &World, rng: &mut Rng) -> Vec<Disk> {
    let mut disks = world.disks.clone();
    for (i, disk) in disks.iter_mut().enumerate() {
        let mut inflight = Vec::new();
        for pending in &world.pending {
            if let Pending::Write { member, offset, bytes, .. } | Pending::Meta { member, offset, bytes, .. } =
                pending
                && usize::from(member.0) == i
            {
                inflight.push((*offset, bytes.clone()));
            }
        }
        disk.cut(rng, if disk.dead { &[] } else { &inflight });
        disk.dead = false;
    }
    disks
}

/// The role that each disk holds in full, as the newest superblock has it.
fn holders(disks: &[Disk], members: u16) -> Vec<Option<usize>> {
    let superblocks: Vec<_> = disks.iter().map(|disk| world::superblock(disk).ok()).collect();
    let newest = superblocks.iter().flatten().max_by_key(|sb| sb.events()).expect("a superblock").clone();
    let mut holders = vec![None; usize::from(members)];
    for (at, sb) in superblocks.iter().enumerate() {
        let Some(sb) = sb else { continue };
        let current = sb.events() + 1 >= newest.events() && newest.role_of(sb.dev_number()) == sb.role();
        if let DevRole::Active(role) = sb.role()
            && current
            && sb.recovery_offset().is_none()
        {
            holders[usize::from(role)] = Some(at);
        }
    }
    holders
}

/// How the cuts of a run went.
#[derive(Default, Debug)]
struct Tally {
    images: u32,
    /// Dirty arrays that needed no resync.
    replayed: u32,
    resynced: u32,
    /// Dirty arrays that started without a member.
    degraded: u32,
    refused: u32,
    entries: u32,
}

/// Every sector holds something that it may, but for blocks that were being written on a member that is gone.
fn check_sectors(life: &Life, g: &Geometry, content: &[u8], gone: &[bool], who: &str) {
    let mut open = life.open_blocks();
    open.extend(&life.tainted);
    for sector in 0..content.len() as u64 / 512 {
        let piece = g.piece(sector * 512, 512);
        let role = g.pattern(piece.stripe).roles[usize::from(piece.lane)];
        if gone[usize::from(role.0)] && open.contains(&(sector / 8)) {
            continue;
        }
        let at = (sector * 512) as usize;
        assert!(
            life.may_hold(sector, &content[at..at + 512]),
            "seed {}: {who}: sector {sector} (stripe {}, lane {}, role {}) holds what it never should; gone {gone:?}",
            life.world.seed,
            piece.stripe,
            piece.lane,
            role.0
        );
    }
}

/// The array's bytes and the blocks whose parity is wrong, from members by role of which one may be missing.
fn read_images(g: &Geometry, disks: &[Option<&mut Disk>]) -> (Vec<u8>, Vec<u64>) {
    let mut content = vec![0; g.array_bytes() as usize];
    let mut bad = Vec::new();
    for stripe in 0..g.stripes() {
        let roles = &g.pattern(stripe).roles;
        let len = g.strip_bytes() as usize;
        let strip = |role: &Role| {
            let disk = disks[usize::from(role.0)].as_ref()?;
            Some(disk.read(disk.data_start() + g.member_offset(stripe), len).to_vec())
        };
        let strips: Vec<Option<Vec<u8>>> = roles.iter().map(strip).collect();
        let mut sum = vec![0; len];
        strips.iter().flatten().for_each(|s| sum.iter_mut().zip(s).for_each(|(a, b)| *a ^= b));
        let whole = strips.iter().all(Option::is_some);
        if whole && sum.iter().any(|&byte| byte != 0) {
            bad.push(stripe);
        }
        for lane in 0..g.data() {
            let bytes = strips[usize::from(lane)].as_ref().unwrap_or(&sum);
            let at = g.array_offset(stripe, lane, 0) as usize;
            content[at..at + len].copy_from_slice(bytes);
        }
    }
    (content, bad)
}

/// What the kernel would make of it.
fn judge_as_the_kernel(life: &Life, shape: &Shape, disks: &[Disk], gone: &[bool], tally: &mut Tally) {
    let holders = holders(disks, shape.members);
    let mut copies: Vec<Disk> = disks.to_vec();
    let superblocks: Vec<_> = disks.iter().filter_map(|disk| world::superblock(disk).ok()).collect();
    let newest = superblocks.iter().max_by_key(|sb| sb.events()).expect("a superblock");
    let by_role = |copies| -> Vec<Option<&mut Disk>> {
        let mut slots: Vec<Option<&mut Disk>> = (0..shape.members).map(|_| None).collect();
        let all: &mut Vec<Disk> = copies;
        for (at, disk) in all.iter_mut().enumerate() {
            if let Some(role) = holders.iter().position(|holder| *holder == Some(at)) {
                slots[role] = Some(disk);
            }
        }
        slots
    };
    let g = life.world.geometry();
    let mut roles = by_role(&mut copies);
    let result = if newest.is_clean() {
        oracle::Replayed::default()
    } else {
        oracle::replay(&g, &[9; 16], shape.area(), &mut roles)
    };
    let missing = roles.iter().filter(|disk| disk.is_none()).count();
    if missing > 1 {
        return;
    }
    tally.entries += result.entries;
    let (content, bad) = read_images(&g, &roles);
    let takes_for_clean = newest.is_clean() || (result.entries > 0 && result.mismatches == 0);
    if takes_for_clean {
        assert_eq!(
            bad,
            Vec::<u64>::new(),
            "seed {}: the kernel takes it for clean: {result:?}, {:?}, dead {:?}, holders {holders:?}, events {:?}, {:?}, pending {:?}",
            life.world.seed,
            life.world.array.status(),
            life.world.disks.iter().map(|d| d.dead).collect::<Vec<_>>(),
            superblocks.iter().map(|s| (s.events(), s.is_clean())).collect::<Vec<_>>(),
            disks
                .iter()
                .map(|d| md_format::newest_log(&d.view[shape.area()], Uuid([9; 16])))
                .collect::<Vec<_>>(),
            life.world
                .pending
                .iter()
                .map(|p| match p {
                    Pending::Write { member, offset, bytes, .. }
                    | Pending::Meta { member, offset, bytes, .. } =>
                        format!("w {member:?} {offset} {}", bytes.len()),
                    o => format!("{o:?}"),
                })
                .collect::<Vec<_>>(),
        );
    }
    // What is half-written is not replayed, and nothing of it was begun: parity is right all the same, unless it is
    // not known to be right before.
    if missing == 1 && !life.world.array.status().resync_due {
        check_sectors(life, &g, &content, gone, "the kernel's replay");
    }
}

/// Cuts the power, brings the array up again, perhaps without one more member, and checks it.
fn cut(life: &Life, shape: &Shape, rng: &mut Rng, depth: u32, tally: &mut Tally) -> Option<World> {
    let seed = life.world.seed;
    tally.images += 1;
    let mut disks = cut_disks(&life.world, rng);
    let status = life.world.array.status();
    let plain = status.missing == 0 && disks.len() == usize::from(shape.members) && life.tainted.is_empty();
    let lost = (plain && rng.chance(50)).then(|| rng.below(disks.len() as u64) as usize);
    if let Some(lost) = lost {
        disks.remove(lost);
    }
    let logged = disks.iter().all(|disk| oracle::has_log(&disk.view[shape.area()], &[9; 16]));
    let holders = holders(&disks, shape.members);
    let gone: Vec<bool> = holders.iter().map(Option::is_none).collect();
    judge_as_the_kernel(life, shape, &disks, &gone, tally);
    let assembly = match world::assemble(&disks, false) {
        Ok(assembly) => assembly,
        Err(e) => {
            let replaced = life.world.disks.len() > usize::from(shape.members);
            // While a resync is due there are no logs, and until its end is recorded.
            let may = status.resync_due || !logged || replaced && (lost.is_some() || status.missing > 0);
            assert!(may, "seed {seed}: without {lost:?}: {e}");
            tally.refused += 1;
            return None;
        }
    };
    let degraded = assembly.degraded > 0;
    let replays = assembly.dirty && assembly.ppl.as_ref().is_some_and(|ppl| ppl.cleans());
    tally.degraded += u32::from(assembly.dirty && degraded);
    let mut next = World::over(disks, &assembly, 6, Rng(rng.next()), seed);
    let sectors = next.model.len() as u64 / 512;
    next.fuzzy = (0..sectors).collect();
    if depth > 0 && rng.chance(50) {
        for _ in 0..rng.below(30) {
            next.tell(Event::Idle);
            next.answer_one();
        }
        let mut again = life.clone();
        again.world = next;
        if lost.is_some() {
            again.tainted.extend(life.open_blocks());
        }
        return cut(&again, shape, rng, depth - 1, tally);
    }
    next.quiesce();
    next.fuzzy = (0..sectors).collect();
    next.check_content();
    next.check_parity();
    let resynced = next.notices.iter().any(|n| matches!(n, Notice::SyncStarted { kind: SyncKind::Resync }));
    assert!(!(replays && resynced), "seed {seed}: a resync although all was replayed");
    tally.resynced += u32::from(resynced);
    tally.replayed += u32::from(replays);
    let mut content = vec![0; next.model.len()];
    for (&offset, data) in &next.reads {
        content[offset as usize..offset as usize + data.len()].copy_from_slice(data);
    }
    check_sectors(life, &next.geometry(), &content, &gone, "the array itself");
    next.model = content;
    next.fuzzy.clear();
    Some(next)
}

fn run(shape: Shape, seed: u64, tally: &mut Tally) {
    let mut life = Life::new(shape.world(seed));
    if life.world.rng.chance(80) {
        life.world.quiesce();
        life.world.model = life.world.raw();
        life = Life::new(life.world);
    }
    let mut rng = Rng(seed ^ 0xc0ffee);
    for _ in 0..300 {
        let missing = life.world.array.status().missing > 0 || life.world.disks.iter().any(|d| d.dead);
        match rng.below(100) {
            0..=29 if life.world.asked.len() < 8 => life.request(),
            30 => life.world.tell(Event::Idle),
            31 => life.world.pass_time(250),
            32 if !missing && !life.world.array.status().resync_due && rng.chance(40) => {
                let victim = rng.below(u64::from(shape.members)) as usize;
                if life.world.disks.len() == usize::from(shape.members) {
                    life.world.disks[victim].dead = true;
                }
            }
            33 if life.world.array.status().missing > 0 => {
                let standing = |m: &MemberReport| m.standing == MemberStanding::Rebuilding;
                if !life.world.array.status().members.iter().any(standing) {
                    add_blank(&mut life.world);
                }
            }
            _ => {
                if !life.world.answer_one() {
                    life.world.tell(Event::Idle);
                }
            }
        }
        life.note_answers();
        // A member that dies is noticed by what it is asked next; until then it counts as written.
        let dying = life.world.disks.iter().any(|d| d.dead) && life.world.array.status().missing == 0;
        if dying || !missing && life.world.array.status().missing > 0 {
            life.tainted.extend(life.open_blocks());
        }
        if rng.chance(12) {
            let next = cut(&life, &shape, &mut rng, 2, tally);
            if let Some(next) = next.filter(|n| rng.chance(15) && n.array.status().missing == 0) {
                life = Life::new(next);
            }
        }
    }
}

fn add_blank(world: &mut World) {
    let (bytes, start) = (world.disks[0].view.len(), world.disks[0].data_start());
    world.disks.push(Disk::of_image(vec![0x77; bytes], start));
    let at = world.disks.len() - 1;
    let new = NewMember {
        member: MemberId(at as u16),
        device_sectors: bytes as u64 / 512,
        device_uuid: [100 + at as u8; 16],
        old: None,
    };
    world.array.check_add(&new).expect("can be added");
    world.tell(Event::AddMember(new));
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn power_cuts_leave_parity_that_the_log_makes_right() {
    let rounds = env("URAID_CRASH_ROUNDS").unwrap_or(1);
    let only = env("URAID_CRASH_SEED");
    let layouts = Layout::all(Level::Raid5);
    let mut tally = Tally::default();
    for case in 0..36 * rounds {
        let seed = 0x99_4000 + case;
        if only.is_some_and(|s| s != seed) {
            continue;
        }
        let mut rng = Rng(seed);
        let shape = Shape {
            layout: layouts[(case % layouts.len() as u64) as usize],
            members: 3 + rng.below(3) as u16,
            chunk: rng.pick(&[4096, 8192, 16384, 65536]),
            rows: 2 + rng.below(3),
            log: rng.pick(&[16, 40, 136, SEVERAL, SEVERAL, SEVERAL + 96]),
            clean: rng.chance(80),
            bad_blocks: false,
        };
        eprintln!("seed {seed}: {shape:?}");
        run(shape, seed, &mut tally);
    }
    eprintln!("{tally:?}");
    let enough = tally.images > 1000 && tally.replayed > 200 && tally.degraded > 200 && tally.entries > 1000;
    assert!(only.is_some() || enough, "{tally:?}");
}

/// One stripe, one write, and every set of its stores: whatever arrived, the oracle makes parity that matches, and
/// no block that was not written changes, whoever is lost.
#[test]
fn every_torn_subset_of_a_write_is_made_right() {
    let mut subsets = 0;
    for case in 0..300 {
        let mut rng = Rng(0x7094 + case);
        let shape = Shape {
            layout: Layout::all(Level::Raid5)[(case % 6) as usize],
            members: 3 + (case % 3) as u16,
            chunk: 8192,
            rows: 1,
            log: rng.pick(&[40, SEVERAL]),
            clean: true,
            bad_blocks: false,
        };
        let mut world = shape.world(case);
        world.quiesce();
        let bytes = world.model.len() as u64;
        let fill: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
        world.ask(RequestKind::Write { fua: true }, 0, fill.clone());
        world.quiesce();
        // Up to three pieces, of which the middle may be missing.
        for _ in 0..1 + rng.below(3) {
            let start = rng.below(bytes / 512);
            let len = (1 + rng.below(24)).min(bytes / 512 - start);
            let data: Vec<u8> = (0..len * 512).map(|_| rng.next() as u8).collect();
            world.ask(RequestKind::Write { fua: false }, start * 512, data);
        }
        world.tell(Event::Idle);
        let asked: BTreeSet<u64> =
            world.asked.values().flat_map(|a| blocks(a.offset, a.data.len())).collect();
        let mut before = Vec::new();
        loop {
            let stores: Vec<&Pending> =
                world.pending.iter().filter(|p| matches!(p, Pending::Write { .. })).collect();
            if stores.len() > before.len() {
                before = stores.into_iter().cloned().collect();
                subsets += every_subset(&shape, &world, &before, &asked, &fill);
            }
            let done = before.is_empty() || world.pending.iter().any(|p| matches!(p, Pending::Write { .. }));
            before.retain(|_| done);
            if !world.answer_one() {
                break;
            }
        }
    }
    assert!(subsets > 2000, "only {subsets} subsets");
}

fn blocks(offset: u64, len: usize) -> std::ops::Range<u64> {
    offset / 4096..(offset + len as u64).div_ceil(4096)
}

/// Applies every subset of the stores to the members as they are, and replays.
fn every_subset(shape: &Shape, world: &World, stores: &[Pending], asked: &BTreeSet<u64>, old: &[u8]) -> u32 {
    let stores = &stores[..stores.len().min(8)];
    let g = world.geometry();
    for subset in 0..1_u32 << stores.len() {
        for lost in std::iter::once(None).chain((0..usize::from(shape.members)).map(Some)) {
            let mut disks = world.disks.clone();
            for (at, store) in stores.iter().enumerate() {
                if let Pending::Write { member, offset, bytes, .. } = store
                    && subset >> at & 1 == 1
                {
                    disks[usize::from(member.0)].write(*offset, bytes);
                }
            }
            let mut roles: Vec<Option<&mut Disk>> = disks.iter_mut().map(Some).collect();
            if let Some(lost) = lost {
                roles[lost] = None;
            }
            let replayed = oracle::replay(&g, &[9; 16], shape.area(), &mut roles);
            assert_eq!(replayed.mismatches, 0);
            let (content, bad) = read_images(&g, &roles);
            assert!(bad.is_empty(), "{shape:?}: {bad:?}");
            for (block, (now, then)) in content.chunks(4096).zip(old.chunks(4096)).enumerate() {
                assert!(
                    now == then || asked.contains(&(block as u64)),
                    "{shape:?}: block {block} changed without {lost:?}, which nobody wrote"
                );
            }
        }
    }
    1 << stores.len()
}
