//! The runner over members in memory, with the real core, engine and kernels, beside a plain byte array.
//!
//! Requests that do not overlap are in flight together; members end their operations late and out of
//! order, fail to read here and there, are failed and replaced. Whatever happens, a read gives what the
//! byte array says, and at the end every set of survivors gives the same.

use async_tx::{Engine, EngineStats};
use md_format::{Areas, AssembleOptions, Assembly, CreateParams, Found, Layout, Level, Superblock, Uuid};
use uraid_blockio::{MemControl, MemMembers, MemberIo};
use uraid_core::{Array, ArrayConfig, MemberId, MemberStanding, NewMember, RequestError, RequestKind};
use uraid_shard::{
    Fatal, Finished, ManualClock, Memory, MemoryConfig, NewRequest, Progress, Runner, cpu_engine,
};

use crate::volume::Rng;

const SLOTS: u32 = 8;
const ROWS: u64 = 12;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) level: Level,
    pub(crate) members: usize,
    pub(crate) chunk: u64,
}

fn member_bytes(shape: Shape) -> u64 {
    // 2 MiB of superblock and gap in front of the data, as plan_create lays it out.
    (4096 + 64) * 512 + ROWS * shape.chunk
}

fn format(shape: Shape, control: &MemControl) {
    let sizes = vec![member_bytes(shape) / 512; shape.members];
    let uuids: Vec<_> = (0..shape.members).map(|i| Uuid([i as u8 + 1; 16])).collect();
    let superblocks = md_format::plan_create(&CreateParams {
        level: shape.level,
        layout: Layout::default_for(shape.level),
        chunk_sectors: (shape.chunk / 512) as u32,
        name: "test",
        members: &sizes,
        size_sectors: Some(ROWS * shape.chunk / 512),
        set_uuid: Uuid([9; 16]),
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: true,
        minor: md_format::Minor::V2,
        bitmap: md_format::IntentBitmap::None,
        ppl: false,
    })
    .unwrap();
    for (member, superblock) in superblocks.iter().enumerate() {
        let mut bytes = vec![0; member_bytes(shape) as usize];
        let (at, image) = ((superblock.super_offset() * 512) as usize, superblock.encode());
        bytes[at..at + image.len()].copy_from_slice(&image);
        control.set_contents(member, bytes);
    }
}

/// Assembles what is on the members; an empty one is not there.
fn assemble(contents: &[Vec<u8>]) -> Result<Assembly, md_format::AssembleError> {
    let found: Vec<_> = contents
        .iter()
        .enumerate()
        .map(|(i, bytes)| {
            let sectors = bytes.len() as u64 / 512;
            let read = md_format::candidates(sectors).into_iter().map(|at| {
                let from = (at.sector * 512) as usize;
                let end = bytes.len().min(from + md_format::READ_BYTES);
                Superblock::parse(&bytes[from..end], at, sectors)
            });
            let superblock = Superblock::choose(read);
            Found {
                label: format!("m{i}"),
                device_sectors: sectors,
                superblock,
                identity: None,
                areas: Areas::default(),
            }
        })
        .filter(|found| found.device_sectors > 0)
        .collect();
    md_format::assemble(&found, AssembleOptions::default())
}

#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: RequestKind,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

type TestRunner = Runner<MemMembers, ManualClock, Asked>;

pub(crate) struct Bench {
    pub(crate) runner: TestRunner,
    control: MemControl,
    pub(crate) clock: ManualClock,
    pub(crate) model: Vec<u8>,
    busy: Vec<(u64, u64)>,
    rng: Rng,
    failed_requests: u64,
}

fn runner_over(
    members: MemMembers,
    assembly: &Assembly,
    ids: &[MemberId],
    engine: Engine,
) -> (TestRunner, ManualClock) {
    let clock = ManualClock::default();
    let config = ArrayConfig { slots: SLOTS, sync_window: 3, ..ArrayConfig::default() };
    let array = Array::start(assembly, ids, config).unwrap();
    let memory_config = MemoryConfig { slots: SLOTS, pool_bytes: 8 << 20, lock: false, prefault: false };
    let memory = Memory::new(array.geometry(), array.slot_strips(), memory_config).unwrap();
    let runner = Runner::new(array, members, engine, memory, clock.clone()).with_self_check(true);
    (runner, clock)
}

/// How often in a row nothing may come of a look at an engine that computes before time passes.
const LOOKS: u32 = 50;

impl Bench {
    fn new(shape: Shape, seed: u64, shuffled: bool) -> Self {
        Self::with_engine(shape, seed, shuffled, cpu_engine("cycle").unwrap())
    }

    pub(crate) fn with_engine(shape: Shape, seed: u64, shuffled: bool, engine: Engine) -> Self {
        let sizes = vec![member_bytes(shape); shape.members];
        let members = if shuffled { MemMembers::shuffled(&sizes, seed) } else { MemMembers::new(&sizes) };
        let control = members.control();
        format(shape, &control);
        let contents: Vec<_> = (0..shape.members).map(|m| control.contents(m)).collect();
        let assembly = assemble(&contents).unwrap();
        let ids: Vec<_> = assembly.members.iter().map(|m| MemberId(m.found as u16)).collect();
        let (runner, clock) = runner_over(members, &assembly, &ids, engine);
        let bytes = runner.array().geometry().array_bytes() as usize;
        Bench {
            runner,
            control,
            clock,
            model: vec![0; bytes],
            busy: vec![],
            rng: Rng(seed),
            failed_requests: 0,
        }
    }

    /// A request that overlaps none in flight, if one is found soon.
    fn ask(&mut self) {
        let sectors = self.model.len() as u64 / 512;
        let len = match self.rng.below(4) {
            0 => 1 + self.rng.below(4),
            1 => 8 * (1 + self.rng.below(8)),
            _ => 1 + self.rng.below(600),
        };
        let mut first = self.rng.below(sectors);
        if self.rng.below(2) == 0 {
            first &= !127;
        }
        let (offset, end) = (first * 512, (first + len).min(sectors) * 512);
        if self.busy.iter().any(|(from, to)| *from < end && offset < *to) {
            return;
        }
        let fua = self.rng.below(5) == 0;
        let kind = match self.rng.below(10) {
            0..4 => RequestKind::Read,
            4..8 => RequestKind::Write { fua },
            8 => RequestKind::WriteZeroes { fua },
            _ => RequestKind::Flush,
        };
        if kind == RequestKind::Flush {
            let tag = Asked { kind, offset: 0, data: vec![] };
            return self.runner.submit(NewRequest { kind, offset: 0, len: 0, payload: None, tag });
        }
        let len = (end - offset) as usize;
        let data = match kind {
            RequestKind::Write { .. } => (0..len / 8).flat_map(|_| self.rng.next().to_le_bytes()).collect(),
            _ => vec![0; len],
        };
        let payload = match kind {
            RequestKind::WriteZeroes { .. } => None,
            _ => {
                let Some(buf) = self.runner.pool().try_alloc(len) else { return };
                buf.copy_in(0, &data).unwrap();
                Some(buf)
            }
        };
        self.busy.push((offset, end));
        let tag = Asked { kind, offset, data };
        self.runner.submit(NewRequest { kind, offset, len: len as u64, payload, tag });
    }

    /// One step, and what it finished.
    pub(crate) fn step(&mut self) -> Progress {
        let budget = 1 + self.rng.below(40) as u32;
        let progress = self.runner.step(budget).unwrap();
        while let Some(Finished { payload, tag, result, .. }) = self.runner.next_finished() {
            let Asked { kind, offset, data } = tag;
            if kind == RequestKind::Flush {
                assert_eq!(result, Ok(()));
                continue;
            }
            let end = offset + data.len() as u64;
            self.busy.retain(|busy| *busy != (offset, end));
            let model = &mut self.model[offset as usize..end as usize];
            if result.is_err() {
                self.failed_requests += 1;
            } else if kind == RequestKind::Read {
                let got = payload.unwrap().to_vec();
                assert!(got == model, "read of {} bytes at {offset} is wrong", data.len());
            } else {
                model.copy_from_slice(&data);
            }
        }
        progress
    }

    /// Goes on until nothing is in flight and no timer is due before long.
    pub(crate) fn settle(&mut self) {
        let mut looks = 0;
        for _ in 0..2_000_000 {
            if self.step() != Progress::Idle {
                looks = 0;
                continue;
            }
            if self.runner.computing() {
                // Devices take some looks to end what they have; what hangs takes time.
                looks += 1;
                let wake = self.runner.wake_at();
                assert!(wake.is_some(), "an operation without a deadline is in flight");
                if let Some(wake) = wake.filter(|_| looks > LOOKS) {
                    looks = 0;
                    self.clock.advance_to(wake);
                }
            } else if self.runner.owes_idle() {
                self.runner.idle();
            } else if self.runner.members().in_flight() > 0 {
                self.runner.members_mut().wait(None);
            } else if self.runner.in_flight() == 0 && self.runner.array().status().sync.is_none() {
                return;
            } else {
                let status = self.runner.array().status();
                let wake = self.runner.wake_at();
                let wake =
                    wake.unwrap_or_else(|| panic!("work is left, and nothing to wait for: {status:?}"));
                self.clock.advance_to(wake);
            }
        }
        panic!("it does not come to an end: {:?}", self.runner.array().status());
    }

    fn churn(&mut self, requests: u64) {
        for _ in 0..requests {
            self.ask();
            self.clock.advance(self.rng.below(50_000));
            if self.rng.below(3) == 0 {
                self.step();
            }
            if self.rng.below(8) == 0 {
                self.runner.idle();
            }
        }
    }

    fn read_all(&mut self) {
        for offset in (0..self.model.len()).step_by(300 << 10) {
            let len = (300 << 10).min(self.model.len() - offset);
            let payload = self.runner.pool().try_alloc(len);
            let tag = Asked { kind: RequestKind::Read, offset: offset as u64, data: vec![0; len] };
            self.busy.push((offset as u64, (offset + len) as u64));
            let (kind, len) = (RequestKind::Read, len as u64);
            self.runner.submit(NewRequest { kind, offset: offset as u64, len, payload, tag });
            self.settle();
        }
        assert_eq!(self.failed_requests, 0);
    }

    /// Writes the whole array with what it holds: that replaces unreadable parity, too, which no read finds.
    fn rewrite_all(&mut self) {
        for offset in (0..self.model.len()).step_by(1 << 20) {
            let len = (1 << 20).min(self.model.len() - offset);
            let data = self.model[offset..offset + len].to_vec();
            let payload = self.runner.pool().try_alloc(len).unwrap();
            payload.copy_in(0, &data).unwrap();
            let kind = RequestKind::Write { fua: false };
            let tag = Asked { kind, offset: offset as u64, data };
            self.busy.push((offset as u64, (offset + len) as u64));
            let (offset, len) = (offset as u64, len as u64);
            self.runner.submit(NewRequest { kind, offset, len, payload: Some(payload), tag });
            self.settle();
        }
    }

    pub(crate) fn fail(&mut self, member: u16) {
        self.runner.array().check_fail(MemberId(member)).unwrap();
        self.runner.fail_member(MemberId(member));
    }

    fn add(&mut self, bytes: u64) -> MemberId {
        let member = MemberId(self.control.attach(bytes) as u16);
        let new = NewMember {
            member,
            device_sectors: bytes / 512,
            device_uuid: [100 + member.0 as u8; 16],
            old: None,
        };
        self.runner.array().check_add(&new).unwrap();
        self.runner.add_member(new);
        member
    }

    fn standing(&self, member: MemberId) -> MemberStanding {
        let status = self.runner.array().status();
        status.members.iter().find(|report| report.member == member).unwrap().standing
    }
}

/// Every set of survivors of a stopped array gives what the model says.
fn check_survivors(control: &MemControl, shape: Shape, model: &[u8], members: &[usize]) {
    let contents: Vec<_> = members.iter().map(|m| control.contents(*m)).collect();
    let parity = usize::from(shape.level.parity());
    for a in 0..members.len() {
        for b in (a..members.len()).filter(|b| parity == 2 || *b == a) {
            let mut left = contents.clone();
            left[a].clear();
            left[b].clear();
            let assembly = assemble(&left).unwrap();
            assert_eq!(assembly.degraded, if a == b { 1 } else { 2 });
            left.retain(|bytes| !bytes.is_empty());
            let mem = MemMembers::new(&vec![0; left.len()]);
            let control = mem.control();
            left.into_iter().enumerate().for_each(|(i, bytes)| control.set_contents(i, bytes));
            let ids: Vec<_> = assembly.members.iter().map(|m| MemberId(m.found as u16)).collect();
            let (runner, clock) = runner_over(mem, &assembly, &ids, cpu_engine("cycle").unwrap());
            let (model, rng) = (model.to_vec(), Rng(1));
            let mut bench = Bench { runner, control, clock, model, busy: vec![], rng, failed_requests: 0 };
            bench.read_all();
        }
    }
}

/// Random work on a healthy array, a degraded one, one that rebuilds, and a healthy one again.
fn whole_life(shape: Shape, seed: u64, shuffled: bool) {
    whole_life_on(shape, seed, shuffled, cpu_engine("cycle").unwrap());
}

/// The same with another engine, which is what it comes to in the end.
pub(crate) fn whole_life_on(shape: Shape, seed: u64, shuffled: bool, engine: Engine) -> EngineStats {
    println!("{shape:?} seed {seed:#x} shuffled {shuffled}");
    let rounds: u64 = std::env::var("URAID_TEST_SCALE").map_or(1, |n| n.parse().expect("a number"));
    let mut bench = Bench::with_engine(shape, seed, shuffled, engine);
    bench.churn(150 * rounds);
    bench.settle();
    bench.read_all();

    let data = (4096 + 64) * 512..member_bytes(shape);
    for member in 0..shape.members {
        let at = data.start + 4096 * bench.rng.below((data.end - data.start) / 4096 / 8) * 8;
        if member % 2 == 0 {
            bench.control.spoil(member, at..at + 4096);
        }
    }
    bench.read_all();
    bench.churn(60 * rounds);
    bench.settle();
    bench.rewrite_all();

    let lost: Vec<u16> = if shape.level.parity() == 2 { vec![1, 3] } else { vec![1] };
    for member in &lost {
        bench.fail(*member);
        bench.churn(60 * rounds);
        bench.settle();
        bench.read_all();
    }
    let added: Vec<_> = lost.iter().map(|_| bench.add(member_bytes(shape))).collect();
    bench.churn(80 * rounds);
    bench.settle();
    added.iter().for_each(|m| assert_eq!(bench.standing(*m), MemberStanding::InSync));
    bench.churn(60 * rounds);
    bench.settle();
    bench.read_all();

    bench.runner.stop();
    bench.settle();
    assert_eq!(bench.runner.stopped(), Some(true));
    assert_eq!(bench.runner.pool().in_use(), 0);
    let gone = |m: &usize| !lost.contains(&(*m as u16));
    let members: Vec<_> = (0..shape.members + lost.len()).filter(gone).collect();
    check_survivors(&bench.control, shape, &bench.model, &members);
    bench.runner.engine_stats()
}

#[test]
fn raid5_of_three_lives_through_loss_and_rebuild() {
    let shape = Shape { level: Level::Raid5, members: 3, chunk: 64 << 10 };
    whole_life(shape, 0x0005_0003, false);
    whole_life(shape, 0x0105_0003, true);
}

#[test]
fn raid5_of_five_with_small_chunks_lives_through_loss_and_rebuild() {
    let shape = Shape { level: Level::Raid5, members: 5, chunk: 4 << 10 };
    whole_life(shape, 0x0005_0005, true);
}

#[test]
fn raid4_lives_through_loss_and_rebuild() {
    whole_life(Shape { level: Level::Raid4, members: 4, chunk: 16 << 10 }, 0x0004_0004, true);
}

#[test]
fn raid6_of_six_lives_through_two_losses_and_rebuild() {
    let shape = Shape { level: Level::Raid6, members: 6, chunk: 64 << 10 };
    whole_life(shape, 0x0006_0006, false);
    whole_life(shape, 0x0106_0006, true);
}

#[test]
fn raid6_of_four_with_tall_chunks_lives_through_two_losses_and_rebuild() {
    whole_life(Shape { level: Level::Raid6, members: 4, chunk: 512 << 10 }, 0x0006_0004, true);
}

#[test]
fn a_request_without_its_payload_is_refused() {
    let mut bench = Bench::new(Shape { level: Level::Raid5, members: 3, chunk: 4096 }, 1, false);
    for kind in [RequestKind::Read, RequestKind::Write { fua: false }] {
        let payload = bench.runner.pool().try_alloc(512);
        let tag = Asked { kind, offset: 0, data: vec![] };
        bench.runner.submit(NewRequest { kind, offset: 0, len: 1024, payload, tag });
        let finished = bench.runner.next_finished().unwrap();
        assert_eq!(finished.result, Err(RequestError::Invalid));
    }
    assert_eq!(bench.runner.pool().in_use(), 0);
}

#[test]
fn requests_after_a_stop_are_told_so() {
    let mut bench = Bench::new(Shape { level: Level::Raid5, members: 3, chunk: 4096 }, 2, false);
    bench.runner.stop();
    bench.settle();
    assert_eq!(bench.runner.stopped(), Some(true));
    let tag = Asked { kind: RequestKind::Flush, offset: 0, data: vec![] };
    bench.runner.submit(NewRequest { kind: RequestKind::Flush, offset: 0, len: 0, payload: None, tag });
    assert_ne!(bench.runner.step(10), Err(Fatal::SelfCheck(String::new())));
    assert_eq!(bench.runner.next_finished().map(|f| f.result), Some(Err(RequestError::Shutdown)));
}

/// Writes and zeroes that overlap and are all in flight at once end as if each had come alone, in the order
/// in which they came. NBD would allow any order; but a write that the kernel has given up on, and sent once
/// more on another connection, is such a pair, and the older one must not come last.
#[test]
fn requests_that_overlap_are_carried_out_in_order_of_arrival() {
    let shapes = [(Level::Raid5, 4, 64 << 10), (Level::Raid6, 6, 16 << 10)];
    for (seed, (level, members, chunk)) in (0..12).flat_map(|seed| shapes.map(|shape| (seed, shape))) {
        let mut bench = Bench::new(Shape { level, members, chunk }, 0x0de2 + seed, true);
        if seed % 3 == 2 {
            bench.fail(1);
        }
        let room = (bench.model.len() as u64 / 512).min(3 * chunk / 512 * u64::from(members as u16));
        let mut expected = bench.model.clone();
        for _ in 0..300 {
            let first = bench.rng.below(room);
            let most = if bench.rng.below(4) == 0 { 400 } else { 20 };
            let len = ((1 + bench.rng.below(most)).min(room - first) * 512) as usize;
            let (offset, fill) = (first * 512, bench.rng.below(255) as u8 + 1);
            let zeroes = bench.rng.below(5) == 0;
            let (kind, data) = match zeroes {
                true => (RequestKind::WriteZeroes { fua: false }, vec![0; len]),
                false => (RequestKind::Write { fua: bench.rng.below(9) == 0 }, vec![fill; len]),
            };
            let payload = (!zeroes).then(|| bench.runner.pool().try_alloc(len));
            if payload.as_ref().is_some_and(Option::is_none) {
                bench.step();
                continue;
            }
            let payload = payload.flatten().inspect(|buf| buf.copy_in(0, &data).unwrap());
            expected[offset as usize..][..len].copy_from_slice(&data);
            let tag = Asked { kind, offset, data };
            bench.runner.submit(NewRequest { kind, offset, len: len as u64, payload, tag });
            if bench.rng.below(4) == 0 {
                bench.step();
            }
        }
        bench.settle();
        // The model followed the order of the answers, which is not the order meant here.
        bench.model = expected;
        bench.read_all();
    }
}
