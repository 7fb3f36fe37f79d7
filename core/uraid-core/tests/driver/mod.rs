//! A runner without bytes: it starts an array over made-up members, keeps every action in the order in
//! which it came, and answers exactly what a test tells it to answer.

use md_format::{Areas, AssembleOptions, Assembly, CreateParams, Found, Layout, Level, Superblock, Uuid};
use std::collections::BTreeSet;
use uraid_core::*;

/// 64 KiB: one strip.
pub(crate) const CHUNK: u64 = 65536;

/// What members to make.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) level: Level,
    pub(crate) members: u16,
    pub(crate) chunk: u64,
    pub(crate) rows: u64,
    /// Parity is good.
    pub(crate) clean: bool,
    /// Members left out of the assembly, from role 0 on.
    pub(crate) left_out: usize,
    pub(crate) config: ArrayConfig,
}

impl Shape {
    pub(crate) fn raid5() -> Self {
        let config = ArrayConfig { slots: 8, ..ArrayConfig::default() };
        Shape { level: Level::Raid5, members: 4, chunk: CHUNK, rows: 32, clean: true, left_out: 0, config }
    }

    pub(crate) fn raid6() -> Self {
        Shape { level: Level::Raid6, members: 6, ..Shape::raid5() }
    }
}

/// What the array did, without its answers to requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Read { io: IoId, member: u16, offset: u64, mem: Mem },
    Write { io: IoId, member: u16, offset: u64, mem: Mem },
    Flush { io: IoId, member: u16 },
    Meta { io: IoId, member: u16, superblock: Box<Superblock> },
    Compute { id: ComputeId, plan: Vec<Step> },
}

impl Op {
    pub(crate) fn member(&self) -> Option<u16> {
        match self {
            Op::Read { member, .. } | Op::Write { member, .. } => Some(*member),
            Op::Flush { member, .. } | Op::Meta { member, .. } => Some(*member),
            Op::Compute { .. } => None,
        }
    }

    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Op::Read { .. })
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Op::Write { .. })
    }

    pub(crate) fn is_flush(&self) -> bool {
        matches!(self, Op::Flush { .. })
    }

    pub(crate) fn is_meta(&self) -> bool {
        matches!(self, Op::Meta { .. })
    }

    pub(crate) fn is_compute(&self) -> bool {
        matches!(self, Op::Compute { .. })
    }
}

/// The array and what it waits for.
#[derive(Clone)]
pub(crate) struct Driver {
    pub(crate) array: Array,
    pub(crate) now: Tick,
    pub(crate) pending: Vec<Op>,
    pub(crate) completed: Vec<(u64, Result<(), RequestError>)>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) stopped: Option<bool>,
    /// Members that answer everything with this fault, when a helper answers.
    pub(crate) faulty: Vec<(u16, IoFault)>,
    /// The superblocks that each member was told to keep and that were answered well.
    pub(crate) superblocks: Vec<Superblock>,
    members: usize,
    sectors: u64,
    next: u64,
}

impl Driver {
    pub(crate) fn new(shape: Shape) -> Self {
        let mut driver = Self::unpolled(shape);
        driver.drain();
        driver
    }

    /// The array just started: nothing was asked of it yet.
    pub(crate) fn unpolled(shape: Shape) -> Self {
        // The data of large members begin later.
        let data = shape.rows * shape.chunk / 512;
        let sectors = data + (data / 512).max(8192);
        let superblocks = create(&shape, sectors);
        let assembly = assemble(&superblocks[shape.left_out..], sectors);
        // The runner's index of a member is its role at creation.
        let ids: Vec<MemberId> =
            assembly.members.iter().map(|m| MemberId((m.found + shape.left_out) as u16)).collect();
        let array = Array::start(&assembly, &ids, shape.config).expect("starts");
        Driver {
            array,
            now: Tick(1_000_000_000),
            pending: vec![],
            completed: vec![],
            notices: vec![],
            stopped: None,
            faulty: vec![],
            superblocks,
            members: usize::from(shape.members),
            sectors,
            next: 1,
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.array.handle(self.now, event);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        loop {
            self.array.self_check().expect("the invariants hold");
            match self.array.poll() {
                Some(action) => self.take(action),
                None => return,
            }
        }
    }

    fn take(&mut self, action: Action) {
        assert!(
            self.stopped.is_none() || matches!(action, Action::Complete { .. }),
            "after the end: {action:?}"
        );
        match action {
            Action::Read { io, member, offset, mem } => {
                self.pending.push(Op::Read { io, member: member.0, offset, mem })
            }
            Action::Write { io, member, offset, mem } => {
                self.pending.push(Op::Write { io, member: member.0, offset, mem })
            }
            Action::Flush { io, member } => self.pending.push(Op::Flush { io, member: member.0 }),
            Action::WriteMeta { io, member, offset, bytes } => {
                let at = location(self.sectors);
                assert_eq!(offset, at.sector * 512);
                let superblock = Box::new(Superblock::parse(&bytes, at, self.sectors).expect("valid"));
                self.pending.push(Op::Meta { io, member: member.0, superblock });
            }
            Action::WriteLog { .. } => panic!("no array here has a log"),
            Action::Compute { id, plan } => self.pending.push(Op::Compute { id, plan }),
            Action::Complete { req, result } => self.completed.push((req.0, result)),
            Action::Notice(notice) => self.notices.push(notice),
            Action::Stopped { clean } => self.stopped = Some(clean),
        }
    }

    /// Asks for something and returns the request's number.
    pub(crate) fn ask(&mut self, kind: RequestKind, offset: u64, len: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        self.tell(Event::Request { id: ReqId(id), kind, offset, len });
        id
    }

    pub(crate) fn write(&mut self, offset: u64, len: u64) -> u64 {
        self.ask(RequestKind::Write { fua: false }, offset, len)
    }

    pub(crate) fn read(&mut self, offset: u64, len: u64) -> u64 {
        self.ask(RequestKind::Read, offset, len)
    }

    pub(crate) fn flush(&mut self) -> u64 {
        self.ask(RequestKind::Flush, 0, 0)
    }

    /// How a request was answered; `None` if it was not yet.
    pub(crate) fn answer_to(&self, id: u64) -> Option<Result<(), RequestError>> {
        let mut answers = self.completed.iter().filter(|c| c.0 == id);
        let answer = answers.next().map(|c| c.1);
        assert!(answers.next().is_none(), "request {id} is answered once");
        answer
    }

    /// Answers the first pending operation that fits. Panics if none does.
    pub(crate) fn answer(&mut self, fits: impl Fn(&Op) -> bool, fault: Option<IoFault>) -> Op {
        let at = self.pending.iter().position(fits);
        let op = self.pending.remove(at.unwrap_or_else(|| panic!("none of {:?}", self.pending)));
        let result = fault.map_or(Ok(()), Err);
        let event = match &op {
            Op::Read { io, .. } | Op::Write { io, .. } | Op::Flush { io, .. } => {
                Event::IoDone { io: *io, result }
            }
            Op::Meta { io, member, superblock } => {
                if result.is_ok()
                    && let Some(kept) = self.superblocks.get_mut(usize::from(*member))
                {
                    kept.clone_from(superblock);
                }
                Event::IoDone { io: *io, result }
            }
            Op::Compute { id, .. } => Event::ComputeDone { id: *id, result: Ok(Verdict::default()) },
        };
        self.tell(event);
        op
    }

    /// Answers all that fits, also what comes up meanwhile, and returns it in order.
    pub(crate) fn answer_all(&mut self, fits: impl Fn(&Op) -> bool) -> Vec<Op> {
        let mut done = vec![];
        while self.pending.iter().any(&fits) {
            let at = self.pending.iter().position(&fits).and_then(|i| self.pending[i].member());
            let fault = self.faulty.iter().find(|f| Some(f.0) == at).map(|f| f.1);
            done.push(self.answer(&fits, fault));
            assert!(done.len() < 100_000, "never comes to rest");
        }
        done
    }

    /// Answers everything until nothing is left to answer, releasing held writes.
    pub(crate) fn rest(&mut self) -> Vec<Op> {
        let mut done = self.answer_all(|_| true);
        self.tell(Event::Idle);
        while !self.pending.is_empty() {
            done.extend(self.answer_all(|_| true));
            self.tell(Event::Idle);
        }
        done
    }

    /// Lets time pass and answers nothing.
    pub(crate) fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.tell(Event::Timer);
    }

    /// The members that have an operation of this sort pending.
    pub(crate) fn with(&self, fits: impl Fn(&Op) -> bool) -> BTreeSet<u16> {
        self.pending.iter().filter(|op| fits(op)).filter_map(Op::member).collect()
    }

    pub(crate) fn count(&self, fits: impl Fn(&Op) -> bool) -> usize {
        self.pending.iter().filter(|op| fits(op)).count()
    }

    /// Bytes of a row of data.
    pub(crate) fn row(&self) -> u64 {
        self.array.geometry().chunk_bytes() * u64::from(self.array.geometry().data())
    }

    /// A blank device; its index follows those known.
    pub(crate) fn blank(&mut self) -> NewMember {
        let member = MemberId(self.members as u16);
        self.members += 1;
        NewMember { member, device_sectors: self.sectors, device_uuid: [100 + member.0 as u8; 16], old: None }
    }

    /// The array is marked dirty and nothing is in flight.
    pub(crate) fn dirty(shape: Shape) -> Self {
        let mut driver = Self::new(shape);
        driver.rest();
        let row = driver.row();
        let id = driver.write(0, row);
        driver.rest();
        assert_eq!(driver.answer_to(id), Some(Ok(())));
        assert!(driver.pending.is_empty());
        driver
    }
}

fn location(sectors: u64) -> md_format::Location {
    md_format::candidates(sectors).into_iter().find(|l| l.sector == 8).expect("version 1.2")
}

fn create(shape: &Shape, sectors: u64) -> Vec<Superblock> {
    let sizes = vec![sectors; usize::from(shape.members)];
    let uuids: Vec<Uuid> = (1..=shape.members).map(|i| Uuid([i as u8; 16])).collect();
    md_format::plan_create(&CreateParams {
        level: shape.level,
        layout: Layout::default_for(shape.level),
        chunk_sectors: (shape.chunk / 512) as u32,
        name: "driver",
        members: &sizes,
        size_sectors: Some(shape.rows * shape.chunk / 512),
        set_uuid: Uuid([9; 16]),
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: shape.clean,
        minor: md_format::Minor::V2,
        bitmap: md_format::IntentBitmap::None,
        ppl: false,
    })
    .expect("a possible array")
}

/// Assembles superblocks as they stand on devices of `sectors`.
pub(crate) fn assemble(superblocks: &[Superblock], sectors: u64) -> Assembly {
    let found: Vec<Found> = (0u64..)
        .zip(superblocks)
        .map(|(i, sb)| Found {
            label: format!("member{i}"),
            device_sectors: sectors,
            superblock: Ok(sb.clone()),
            identity: Some((1, i)),
            areas: Areas::default(),
        })
        .collect();
    md_format::assemble(&found, AssembleOptions::default()).expect("assembles")
}
