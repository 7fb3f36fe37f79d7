//! A world for the array to live in: members with a volatile cache, memory, a naive engine, and an oracle
//! that knows what every sector may hold. Completions come in random order from a seeded generator.

#![allow(dead_code, reason = "each test binary uses its own part of the world")]

use md_format::{
    Areas, AssembleOptions, Assembly, Bitmap, CreateParams, Found, IntentBitmap, Layout, Level, Superblock,
    Uuid,
};
use std::collections::{BTreeMap, BTreeSet};
use uraid_core::*;

/// splitmix64: small, seeded and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

pub(crate) const SECTOR: usize = 512;
/// Bytes at the start of a member that are kept; the gap up to the data is not.
const HEAD: u64 = 16384;

/// A member device: what is durable, and what was written since the last flush.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) view: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    pub(crate) unflushed: Vec<(u64, Vec<u8>)>,
    pub(crate) bad: BTreeSet<u64>,
    /// Blocks (of the device) that refuse to be written.
    pub(crate) refuses: BTreeSet<u64>,
    /// A refused write leaves the block unreadable.
    pub(crate) spoils: bool,
    /// Blocks that the array knows to be bad, as it told; it must not read them.
    pub(crate) recorded: BTreeSet<u64>,
    pub(crate) dead: bool,
    gap: u64,
    /// Where the data begin, in bytes.
    data_start: u64,
    pub(crate) sectors: u64,
}

impl Disk {
    fn new(sectors: u64, data_offset: u64, data_bytes: u64) -> Self {
        let bytes = vec![0; (HEAD + data_bytes) as usize];
        let gap = data_offset - HEAD;
        Disk {
            view: bytes.clone(),
            durable: bytes,
            unflushed: vec![],
            bad: BTreeSet::new(),
            refuses: BTreeSet::new(),
            spoils: false,
            recorded: BTreeSet::new(),
            dead: false,
            gap,
            data_start: data_offset,
            sectors,
        }
    }
    /// A member all of whose bytes are kept, as they are in `image`.
    pub(crate) fn of_image(image: Vec<u8>, data_start: u64) -> Self {
        let sectors = (image.len() / SECTOR) as u64;
        let disk = Disk::new(sectors, HEAD, 0);
        Disk { view: image.clone(), durable: image, data_start, ..disk }
    }
    fn at(&self, offset: u64) -> usize {
        if offset < HEAD { offset as usize } else { (offset - self.gap) as usize }
    }
    /// Where the data begin, in bytes.
    pub(crate) fn data_start(&self) -> u64 {
        self.data_start
    }
    pub(crate) fn read(&self, offset: u64, len: usize) -> &[u8] {
        let at = self.at(offset);
        &self.view[at..at + len]
    }
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let at = self.at(offset);
        self.view[at..at + bytes.len()].copy_from_slice(bytes);
        self.unflushed.push((offset, bytes.to_vec()));
        let blocks = offset / 4096..(offset + bytes.len() as u64).div_ceil(4096);
        blocks.for_each(|b| {
            self.bad.remove(&b);
        });
    }
    /// Whether a write is refused by the medium: then all of it is left as it was, or cannot be read any more.
    fn refuse(&mut self, offset: u64, len: usize) -> bool {
        let hit: Vec<u64> = blocks(offset, len as u64).filter(|b| self.refuses.contains(b)).collect();
        if self.spoils {
            self.bad.extend(&hit);
        }
        !hit.is_empty()
    }
    pub(crate) fn flush(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.unflushed) {
            let at = self.at(offset);
            self.durable[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
    /// What a power cut leaves: each sector written since the last flush holds any one of its versions.
    pub(crate) fn cut(&mut self, rng: &mut Rng, inflight: &[(u64, Vec<u8>)]) {
        let mode = rng.below(4);
        let all: Vec<_> = self.unflushed.drain(..).chain(inflight.iter().cloned()).collect();
        let mut image = self.durable.clone();
        for (offset, bytes) in all {
            for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                let keep = match mode {
                    0 => false,
                    1 => true,
                    _ => rng.chance(50),
                };
                if keep {
                    let at = self.at(offset) + i * SECTOR;
                    image[at..at + sector.len()].copy_from_slice(sector);
                }
            }
        }
        self.view = image.clone();
        self.durable = image;
    }
}

/// The blocks of a device that these bytes touch.
pub(crate) fn blocks(offset: u64, len: u64) -> std::ops::Range<u64> {
    offset / 4096..(offset + len).div_ceil(4096)
}

/// What the array asked for and did not get an answer to yet.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    Read { io: IoId, member: MemberId, offset: u64, mem: Mem },
    Write { io: IoId, member: MemberId, offset: u64, bytes: Vec<u8> },
    Flush { io: IoId, member: MemberId },
    Meta { io: IoId, member: MemberId, offset: u64, bytes: Vec<u8> },
    Compute { id: ComputeId, plan: Vec<Step> },
}

/// A client request in flight.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) kind: RequestKind,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
    /// Sectors whose value was open when a read began.
    pub(crate) open: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) array: Array,
    pub(crate) disks: Vec<Disk>,
    pub(crate) pending: Vec<Pending>,
    pub(crate) asked: BTreeMap<ReqId, Asked>,
    slots: Vec<Vec<Vec<u8>>>,
    pub(crate) now: Tick,
    pub(crate) rng: Rng,
    next_req: u64,
    /// What every sector holds as far as acknowledged writes say.
    pub(crate) model: Vec<u8>,
    /// Sectors written by a request in flight or by overlapping ones: their value is open.
    pub(crate) open: BTreeMap<u64, u32>,
    pub(crate) fuzzy: BTreeSet<u64>,
    /// What reads returned, by offset.
    pub(crate) reads: BTreeMap<u64, Vec<u8>>,
    pub(crate) stopped: Option<bool>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) errors_allowed: bool,
    pub(crate) fail_writes_of: Option<MemberId>,
    pub(crate) compute_faults: u64,
    pub(crate) sectors_each: u64,
    pub(crate) seed: u64,
}

pub(crate) fn mul(mut a: u8, mut b: u8) -> u8 {
    let mut r = 0;
    while b != 0 {
        if b & 1 != 0 {
            r ^= a;
        }
        a = (a << 1) ^ if a & 0x80 != 0 { 0x1d } else { 0 };
        b >>= 1;
    }
    r
}

pub(crate) fn pow2(e: u8) -> u8 {
    (0..e).fold(1, |x, _| mul(x, 2))
}

/// `x * factor` for every byte x.
pub(crate) fn times(factor: u8) -> [u8; 256] {
    std::array::from_fn(|x| mul(x as u8, factor))
}

fn inv(a: u8) -> u8 {
    (0..254).fold(1, |x, _| mul(x, a))
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) level: Level,
    pub(crate) layout: Layout,
    pub(crate) members: u16,
    pub(crate) chunk: u32,
    pub(crate) rows: u64,
    pub(crate) slots: u32,
    pub(crate) clean: bool,
    /// Bytes of a region of its write-intent bitmap, if it has one.
    pub(crate) bitmap: Option<u64>,
}

pub(crate) fn config(slots: u32) -> ArrayConfig {
    ArrayConfig { slots, sync_window: 3, ..ArrayConfig::default() }
}

impl World {
    pub(crate) fn new(shape: Shape, seed: u64) -> Self {
        let mut rng = Rng(seed);
        // A bitmap takes members of at least 64 KiB.
        let rows =
            if shape.bitmap.is_some() { shape.rows.max(65536 / u64::from(shape.chunk)) } else { shape.rows };
        let data = u64::from(shape.chunk) * rows;
        let sectors = 4096 + data / 512 + 64;
        let n = usize::from(shape.members);
        let uuids: Vec<Uuid> = (0..n).map(|i| Uuid([i as u8 + 1; 16])).collect();
        let sizes = vec![sectors; n];
        let bitmap = match shape.bitmap {
            None => IntentBitmap::None,
            chunk_bytes => IntentBitmap::Internal { chunk_bytes },
        };
        let superblocks = md_format::plan_create(&CreateParams {
            level: shape.level,
            layout: shape.layout,
            chunk_sectors: shape.chunk / 512,
            name: "world",
            members: &sizes,
            size_sectors: Some(data / 512),
            set_uuid: Uuid([9; 16]),
            device_uuids: &uuids,
            now: 1_700_000_000,
            clean: shape.clean,
            minor: md_format::Minor::V2,
            bitmap,
            ppl: false,
        })
        .expect("a possible array");
        let mut disks: Vec<Disk> =
            superblocks.iter().map(|sb| Disk::new(sectors, sb.data_offset() * 512, data)).collect();
        if !shape.clean {
            // Parity of garbage: only a resync makes it match.
            for disk in &mut disks {
                disk.view[HEAD as usize..].iter_mut().for_each(|b| *b = rng.next() as u8);
            }
        }
        for (disk, sb) in disks.iter_mut().zip(&superblocks) {
            let bytes = sb.encode();
            let at = (sb.super_offset() * 512) as usize;
            disk.view[at..at + bytes.len()].copy_from_slice(&bytes);
            if shape.bitmap.is_some() {
                let at = at + 4096;
                let bitmap = Bitmap::create(sb, shape.bitmap).expect("there is room");
                let (_, page) = bitmap.page(0);
                disk.view[at..at + page.len()].copy_from_slice(page);
            }
            disk.durable = disk.view.clone();
        }
        let assembly = assemble(&disks, false).expect("assembles");
        let mut world = World::over(disks, &assembly, shape.slots, rng, seed);
        world.sectors_each = sectors;
        let raw = world.raw();
        world.model = raw;
        world
    }

    pub(crate) fn over(disks: Vec<Disk>, assembly: &Assembly, slots: u32, rng: Rng, seed: u64) -> Self {
        let ids: Vec<MemberId> = assembly.members.iter().map(|m| MemberId(m.found as u16)).collect();
        let mut disks = disks;
        for member in &assembly.members {
            let ranges = member.bad_blocks.ranges();
            disks[member.found].recorded = ranges.flat_map(|(s, n)| blocks(s * 512, n * 512)).collect();
        }
        let array = Array::start(assembly, &ids, config(slots)).expect("starts");
        let strip = array.geometry().strip_bytes() as usize;
        let n = usize::from(array.slot_strips());
        let bytes = array.geometry().array_bytes() as usize;
        // Slots begin with garbage: nothing may rely on them.
        let slots = (0..slots.max(4)).map(|s| vec![vec![0xa0 ^ s as u8; strip]; n]).collect();
        World {
            array,
            disks,
            pending: vec![],
            asked: BTreeMap::new(),
            slots,
            now: Tick(0),
            rng,
            next_req: 0,
            model: vec![0; bytes],
            open: BTreeMap::new(),
            fuzzy: BTreeSet::new(),
            reads: BTreeMap::new(),
            stopped: None,
            notices: vec![],
            errors_allowed: false,
            fail_writes_of: None,
            compute_faults: 0,
            sectors_each: 0,
            seed,
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        self.array.geometry().clone()
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.now = Tick(self.now.0 + 1000);
        self.array.handle(self.now, event);
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            self.array.self_check().unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
            let Some(action) = self.array.poll() else { break };
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Read { io, member, offset, mem } => {
                let recorded = &self.disks[usize::from(member.0)].recorded;
                let known = blocks(offset, u64::from(mem.len)).any(|b| recorded.contains(&b));
                assert!(!known, "seed {}: reads what it knows to be bad: {action:?}", self.seed);
                self.pending.push(Pending::Read { io, member, offset, mem })
            }
            Action::Write { io, member, offset, mem } => {
                let bytes = self.fetch(&mem);
                self.pending.push(Pending::Write { io, member, offset, bytes });
            }
            Action::Flush { io, member } => self.pending.push(Pending::Flush { io, member }),
            Action::WriteMeta { io, member, offset, bytes } => {
                assert_eq!(bytes.len() % SECTOR, 0);
                self.pending.push(Pending::Meta { io, member, offset, bytes });
            }
            Action::WriteLog { io, member, offset, array, mut header, parities } => {
                let mut bytes = vec![0; md_format::PPL_HEADER_BYTES];
                for parity in &parities {
                    bytes.extend(self.fetch(parity));
                }
                assert_eq!(bytes.len() as u64, header.log_bytes());
                md_format::seal_log(&mut header, array, &mut bytes);
                self.pending.push(Pending::Meta { io, member, offset, bytes });
            }
            Action::Compute { id, plan } => self.pending.push(Pending::Compute { id, plan }),
            Action::Complete { req, result } => self.complete(req, result),
            Action::Notice(notice) => {
                self.take_down(&notice);
                self.notices.push(notice);
            }
            Action::Stopped { clean } => self.stopped = Some(clean),
        }
    }

    /// What a notice says of bad blocks.
    fn take_down(&mut self, notice: &Notice) {
        match notice {
            Notice::BadBlocksRecorded { member, offset, len } => {
                self.disks[usize::from(member.0)].recorded.extend(blocks(*offset, *len));
            }
            Notice::BadBlocksCleared { member, offset, len } => {
                let recorded = &mut self.disks[usize::from(member.0)].recorded;
                recorded.retain(|block| !blocks(*offset, *len).contains(block));
            }
            _ => {}
        }
    }

    fn place(&mut self, place: Place) -> &mut [u8] {
        match place {
            Place::Request(req) => &mut self.asked.get_mut(&req).expect("request memory is alive").data,
            Place::Slot(slot, role) => &mut self.slots[slot.0 as usize][usize::from(role.0)],
            Place::Zero => panic!("the zero strip is read only"),
        }
    }

    fn fetch(&mut self, mem: &Mem) -> Vec<u8> {
        assert_eq!((mem.offset % 512, mem.len % 512), (0, 0));
        if mem.place == Place::Zero {
            return vec![0; mem.len as usize];
        }
        let range = mem.offset as usize..(mem.offset + mem.len) as usize;
        self.place(mem.place)[range].to_vec()
    }

    fn put(&mut self, mem: &Mem, bytes: &[u8]) {
        let range = mem.offset as usize..(mem.offset + mem.len) as usize;
        self.place(mem.place)[range].copy_from_slice(bytes);
    }

    /// Answers one thing that is pending.
    pub(crate) fn answer_one(&mut self) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let at = self.rng.below(self.pending.len() as u64) as usize;
        self.answer_at(at);
        true
    }

    /// Answers what is pending at this place.
    pub(crate) fn answer_at(&mut self, at: usize) {
        let op = self.pending.swap_remove(at);
        let event = match op {
            Pending::Read { io, member, offset, mem } => {
                let disk = &self.disks[usize::from(member.0)];
                let bad = (offset / 4096..(offset + u64::from(mem.len)).div_ceil(4096))
                    .any(|b| disk.bad.contains(&b));
                if disk.dead || bad {
                    let fault = if disk.dead { IoFault::Gone } else { IoFault::Io };
                    Event::IoDone { io, result: Err(fault) }
                } else {
                    let bytes = disk.read(offset, mem.len as usize).to_vec();
                    self.put(&mem, &bytes);
                    Event::IoDone { io, result: Ok(()) }
                }
            }
            Pending::Write { io, member, offset, bytes } => self.write(io, member, offset, &bytes, false),
            Pending::Meta { io, member, offset, bytes } => self.write(io, member, offset, &bytes, true),
            Pending::Flush { io, member } => {
                let dead = self.disks[usize::from(member.0)].dead;
                if !dead {
                    self.disks[usize::from(member.0)].flush();
                }
                Event::IoDone { io, result: if dead { Err(IoFault::Gone) } else { Ok(()) } }
            }
            Pending::Compute { id, plan } => {
                if self.compute_faults > 0 && self.rng.chance(30) {
                    self.compute_faults -= 1;
                    for step in &plan {
                        self.spoil(step);
                    }
                    Event::ComputeDone { id, result: Err(ComputeFault) }
                } else {
                    let mut verdict = Verdict::default();
                    for step in &plan {
                        self.run(step, &mut verdict);
                    }
                    Event::ComputeDone { id, result: Ok(verdict) }
                }
            }
        };
        self.tell(event);
    }

    fn write(&mut self, io: IoId, member: MemberId, offset: u64, bytes: &[u8], durable: bool) -> Event {
        let disk = &mut self.disks[usize::from(member.0)];
        if disk.dead || self.fail_writes_of == Some(member) {
            let fault = if disk.dead { IoFault::Gone } else { IoFault::NoSpace };
            return Event::IoDone { io, result: Err(fault) };
        }
        if disk.refuse(offset, bytes.len()) {
            return Event::IoDone { io, result: Err(IoFault::Io) };
        }
        disk.write(offset, bytes);
        if durable {
            disk.flush();
        }
        Event::IoDone { io, result: Ok(()) }
    }

    fn spoil(&mut self, step: &Step) {
        let targets: Vec<Mem> = match step {
            Step::Copy { dst, .. } => vec![*dst],
            Step::GenParity { p, q, .. } => p.iter().chain(q).copied().collect(),
            Step::UpdateParity { old, p, q, .. } => p.iter().chain(q).chain([old]).copied().collect(),
            Step::CheckParity { .. } => vec![],
            Step::Recover { data, p, q, lost } => {
                let d = lost.data.iter().filter_map(|&e| data[usize::from(e)]);
                d.chain(p.filter(|_| lost.p)).chain(q.filter(|_| lost.q)).collect()
            }
        };
        for mem in targets {
            self.put(&mem, &vec![0xee; mem.len as usize]);
        }
    }

    fn syndromes(&mut self, data: &[Option<Mem>], len: usize) -> (Vec<u8>, Vec<u8>) {
        let (mut p, mut q) = (vec![0; len], vec![0; len]);
        for (e, mem) in data.iter().enumerate() {
            let Some(mem) = mem else { continue };
            let table = times(pow2(e as u8));
            for ((p, q), b) in p.iter_mut().zip(&mut q).zip(self.fetch(mem)) {
                *p ^= b;
                *q ^= table[usize::from(b)];
            }
        }
        (p, q)
    }

    fn run(&mut self, step: &Step, verdict: &mut Verdict) {
        match step {
            Step::Copy { src, dst } => {
                assert_eq!(src.len, dst.len);
                let bytes = self.fetch(src);
                self.put(dst, &bytes);
            }
            Step::GenParity { data, p, q } => {
                let len = p.or(*q).expect("something to generate").len as usize;
                let (np, nq) = self.syndromes(data, len);
                p.iter().for_each(|m| self.put(m, &np));
                q.iter().for_each(|m| self.put(m, &nq));
            }
            Step::UpdateParity { old, new, exponent, p, q } => {
                let (o, n) = (self.fetch(old), self.fetch(new));
                let delta: Vec<u8> = o.iter().zip(&n).map(|(a, b)| a ^ b).collect();
                for (mem, g) in [(p, 1), (q, pow2(*exponent))] {
                    if let Some(mem) = mem {
                        let table = times(g);
                        let parity = self.fetch(mem).into_iter().zip(&delta);
                        let parity: Vec<u8> = parity.map(|(x, &d)| x ^ table[usize::from(d)]).collect();
                        self.put(mem, &parity);
                    }
                }
                self.put(old, &n);
            }
            Step::CheckParity { data, p, q } => {
                let len = p.or(*q).expect("something to check").len as usize;
                let (np, nq) = self.syndromes(data, len);
                verdict.p_bad |= p.is_some_and(|m| self.fetch(&m) != np);
                verdict.q_bad |= q.is_some_and(|m| self.fetch(&m) != nq);
            }
            Step::Recover { data, p, q, lost } => self.recover(data, *p, *q, lost),
        }
    }

    fn recover(&mut self, data: &[Option<Mem>], p: Option<Mem>, q: Option<Mem>, lost: &LostBlocks) {
        let len = data.iter().flatten().next().expect("data").len as usize;
        let present: Vec<Option<Mem>> =
            data.iter().enumerate().map(|(e, m)| m.filter(|_| !lost.data.contains(&(e as u8)))).collect();
        let (pp, qq) = self.syndromes(&present, len);
        let dest = |e: u8| data[usize::from(e)].expect("a lost block has a place");
        let p_src = p.filter(|_| !lost.p);
        let q_src = q.filter(|_| !lost.q);
        match lost.data[..] {
            [] => {}
            [x] if p_src.is_some() => {
                let pd = self.fetch(&p_src.expect("P"));
                let d: Vec<u8> = pd.iter().zip(&pp).map(|(a, b)| a ^ b).collect();
                self.put(&dest(x), &d);
            }
            [x] => {
                let qd = self.fetch(&q_src.expect("P or Q"));
                let table = times(inv(pow2(x)));
                let d: Vec<u8> = qd.iter().zip(&qq).map(|(a, b)| table[usize::from(a ^ b)]).collect();
                self.put(&dest(x), &d);
            }
            [x, y] => {
                let (pd, qd) = (self.fetch(&p_src.expect("P")), self.fetch(&q_src.expect("Q")));
                let (gx, gy) = (pow2(x), pow2(y));
                let (by_gy, by_c) = (times(gy), times(inv(gx ^ gy)));
                let (mut dx, mut dy) = (vec![0; len], vec![0; len]);
                for i in 0..len {
                    let (a, b) = (pd[i] ^ pp[i], qd[i] ^ qq[i]);
                    dx[i] = by_c[usize::from(by_gy[usize::from(a)] ^ b)];
                    dy[i] = dx[i] ^ a;
                }
                self.put(&dest(x), &dx);
                self.put(&dest(y), &dy);
            }
            _ => panic!("three lost blocks"),
        }
        if lost.p || lost.q {
            let (np, nq) = self.syndromes(data, len);
            p.filter(|_| lost.p).iter().for_each(|m| self.put(m, &np));
            q.filter(|_| lost.q).iter().for_each(|m| self.put(m, &nq));
        }
    }

    /// Asks for something; `overlap` allows a range that another request in flight writes.
    pub(crate) fn ask(&mut self, kind: RequestKind, offset: u64, data: Vec<u8>) -> ReqId {
        let id = ReqId(self.next_req);
        self.next_req += 1;
        let len = data.len() as u64;
        let sectors = offset / 512..(offset + len) / 512;
        let writes = matches!(kind, RequestKind::Write { .. } | RequestKind::WriteZeroes { .. });
        let mut open = BTreeSet::new();
        for s in sectors {
            if self.open.contains_key(&s) || self.fuzzy.contains(&s) {
                open.insert(s);
                if writes {
                    self.fuzzy.insert(s);
                }
            }
            if writes {
                // A read in flight over the same sector sees either.
                self.asked.values_mut().filter(|a| a.kind == RequestKind::Read).for_each(|a| {
                    a.open.insert(s);
                });
                *self.open.entry(s).or_default() += 1;
            }
        }
        self.asked.insert(id, Asked { kind, offset, data, open });
        self.tell(Event::Request { id, kind, offset, len });
        id
    }

    fn complete(&mut self, req: ReqId, result: Result<(), RequestError>) {
        let asked = self.asked.remove(&req).expect("answers a request in flight, once");
        let sectors: Vec<u64> =
            (asked.offset / 512..(asked.offset + asked.data.len() as u64) / 512).collect();
        if let Err(e) = result {
            assert!(
                self.errors_allowed,
                "seed {}: {:?} at {} failed: {e:?}; {:?}; {:?}",
                self.seed,
                asked.kind,
                asked.offset,
                self.array.status(),
                self.notices
            );
        }
        match asked.kind {
            RequestKind::Read => {
                let good = match result {
                    Ok(()) => asked.data.len(),
                    Err(RequestError::Unreadable { at }) => at as usize,
                    Err(_) => 0,
                };
                assert!(result.is_ok() || good < asked.data.len());
                let whole = asked.offset / 512..(asked.offset + good as u64) / 512;
                if result.is_ok() {
                    self.reads.insert(asked.offset, asked.data.clone());
                }
                for &s in sectors.iter().filter(|s| whole.contains(s) && !asked.open.contains(s)) {
                    let (at, from) = ((s * 512) as usize, (s * 512 - asked.offset) as usize);
                    assert!(
                        self.model[at..at + 512] == asked.data[from..from + 512],
                        "seed {}: sector {s} (stripe {:?}) reads wrong",
                        self.seed,
                        self.array.geometry().piece(s * 512, 512)
                    );
                }
            }
            RequestKind::Write { .. } | RequestKind::WriteZeroes { .. } => {
                for &s in &sectors {
                    let (at, from) = ((s * 512) as usize, (s * 512 - asked.offset) as usize);
                    if result.is_ok() {
                        self.model[at..at + 512].copy_from_slice(&asked.data[from..from + 512]);
                    } else {
                        self.fuzzy.insert(s);
                    }
                    let count = self.open.get_mut(&s).expect("open");
                    *count -= 1;
                    if *count == 0 {
                        self.open.remove(&s);
                    }
                }
            }
            RequestKind::Flush => {}
        }
    }

    /// Lets everything come to an end. Values that overlapping writes left open are pinned.
    pub(crate) fn quiesce(&mut self) {
        let mut steps = 0u64;
        loop {
            self.tell(Event::Idle);
            while self.answer_one() {
                steps += 1;
                assert!(
                    steps < 3_000_000,
                    "seed {}: never comes to rest: {:?}",
                    self.seed,
                    self.array.status()
                );
            }
            if self.asked.is_empty() && self.pending.is_empty() {
                break;
            }
        }
        let raw_ok = self.array.status().missing == 0;
        if raw_ok {
            let raw = self.raw();
            for s in std::mem::take(&mut self.fuzzy) {
                if self.is_recorded(s) {
                    self.fuzzy.insert(s);
                    continue;
                }
                let at = (s * 512) as usize;
                self.model[at..at + 512].copy_from_slice(&raw[at..at + 512]);
            }
        }
    }

    /// Lets time pass so that the array is marked clean.
    pub(crate) fn pass_time(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.tell(Event::Timer);
        while self.answer_one() {}
    }

    /// The array's bytes as the data strips on the members say.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let g = self.array.geometry();
        let by_role = self.by_role();
        let mut out = vec![0; g.array_bytes() as usize];
        let mut at = 0u64;
        while at < g.array_bytes() {
            let piece = g.piece(at, g.array_bytes() - at);
            let role = g.pattern(piece.stripe).roles[usize::from(piece.lane)];
            if let Some(&member) = by_role.get(&role) {
                let disk = &self.disks[usize::from(member.0)];
                let offset =
                    self.data_offset(member) + g.member_offset(piece.stripe) + u64::from(piece.offset);
                let bytes = disk.read(offset, piece.len as usize);
                out[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
            }
            at += u64::from(piece.len);
        }
        out
    }

    /// Whether the block of a sector of the array is known to be bad: what its member holds says nothing.
    fn is_recorded(&self, sector: u64) -> bool {
        let g = self.array.geometry();
        let piece = g.piece(sector * 512, 512);
        let role = g.pattern(piece.stripe).roles[usize::from(piece.lane)];
        let Some(&member) = self.by_role().get(&role) else { return false };
        let offset = self.data_offset(member) + g.member_offset(piece.stripe) + u64::from(piece.offset);
        self.disks[usize::from(member.0)].recorded.contains(&(offset / 4096))
    }

    /// The stripes that have a block that is known to be bad, or cannot be read.
    pub(crate) fn holed_stripes(&self) -> BTreeSet<u64> {
        let strip = u64::from(self.array.geometry().strip_bytes());
        let of = |disk: &Disk| {
            let start = disk.data_start();
            disk.recorded.union(&disk.bad).map(|block| (block * 4096 - start) / strip).collect::<Vec<_>>()
        };
        self.disks.iter().flat_map(of).collect()
    }

    fn data_offset(&self, member: MemberId) -> u64 {
        self.disks[usize::from(member.0)].data_start()
    }

    fn by_role(&self) -> BTreeMap<Role, MemberId> {
        let status = self.array.status();
        let active = status.members.iter().filter(|m| m.standing == MemberStanding::InSync);
        active.filter_map(|m| Some((m.role?, m.member))).collect()
    }

    /// Parity of every stripe matches the data, as far as the members are in sync.
    pub(crate) fn check_parity(&self) {
        if self.array.status().resync_due {
            return;
        }
        let g = self.array.geometry();
        let by_role = self.by_role();
        for stripe in 0..g.stripes() {
            let pattern = g.pattern(stripe);
            let strip = |lane: u16| {
                let member = *by_role.get(&pattern.roles[usize::from(lane)])?;
                let offset = self.data_offset(member) + g.member_offset(stripe);
                Some(self.disks[usize::from(member.0)].read(offset, g.strip_bytes() as usize))
            };
            if (0..g.data()).any(|l| strip(l).is_none()) {
                continue;
            }
            let len = g.strip_bytes() as usize;
            let (mut p, mut q) = (vec![0; len], vec![0; len]);
            for lane in 0..g.data() {
                let table = times(pow2(pattern.exponents[usize::from(lane)]));
                for (i, &b) in strip(lane).expect("present").iter().enumerate() {
                    p[i] ^= b;
                    q[i] ^= table[usize::from(b)];
                }
            }
            for (lane, want) in [(Some(g.p_lane()), &p), (g.q_lane(), &q)] {
                let Some(have) = lane.and_then(strip) else { continue };
                // What is known to be bad says nothing about its column.
                let known = |at: usize| {
                    by_role.values().any(|&member| {
                        let offset = self.data_offset(member) + g.member_offset(stripe) + at as u64;
                        self.disks[usize::from(member.0)].recorded.contains(&(offset / 4096))
                    })
                };
                for at in (0..len).step_by(4096).filter(|&at| !known(at)) {
                    assert!(
                        have[at..at + 4096] == want[at..at + 4096],
                        "seed {}: parity of stripe {stripe} lane {lane:?} is wrong",
                        self.seed
                    );
                }
            }
        }
    }

    /// The stripes of an array with all members in which parity does not match the data.
    pub(crate) fn mismatched_stripes(&self) -> Vec<u64> {
        let g = self.array.geometry();
        let by_role = self.by_role();
        let len = g.strip_bytes() as usize;
        let matches = |stripe: &u64| {
            let pattern = g.pattern(*stripe);
            let strip = |lane: u16| {
                let member = by_role[&pattern.roles[usize::from(lane)]];
                let offset = self.data_offset(member) + g.member_offset(*stripe);
                self.disks[usize::from(member.0)].read(offset, len)
            };
            let (mut p, mut q) = (vec![0; len], vec![0; len]);
            for lane in 0..g.data() {
                let table = times(pow2(pattern.exponents[usize::from(lane)]));
                for (i, &b) in strip(lane).iter().enumerate() {
                    p[i] ^= b;
                    q[i] ^= table[usize::from(b)];
                }
            }
            strip(g.p_lane()) == p && g.q_lane().is_none_or(|lane| strip(lane) == q)
        };
        (0..g.stripes()).filter(|stripe| !matches(stripe)).collect()
    }

    /// Reads the whole array through the front door and compares.
    pub(crate) fn check_content(&mut self) {
        let bytes = self.model.len() as u64;
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(256 * 1024);
            self.ask(RequestKind::Read, at, vec![0x55; len as usize]);
            at += len;
        }
        self.quiesce();
    }

    /// A new blank member.
    pub(crate) fn add_disk(&mut self) -> MemberId {
        let old = &self.disks[0];
        let data = old.view.len() as u64 - HEAD;
        let mut disk = Disk::new(old.sectors, old.data_start, data);
        // Blank does not mean zero.
        disk.view[HEAD as usize..].fill(0x77);
        disk.durable = disk.view.clone();
        self.join(disk, None)
    }

    /// A member that died comes back as it is, perhaps without what it had only in its cache. It is another
    /// member to the array, and the old one stays dead.
    pub(crate) fn bring_back(&mut self, dead: usize) -> MemberId {
        let old = &self.disks[dead];
        let mut blank = Disk::new(old.sectors, old.data_start, old.view.len() as u64 - HEAD);
        blank.dead = true;
        let mut disk = std::mem::replace(&mut self.disks[dead], blank);
        disk.dead = false;
        disk.cut(&mut self.rng, &[]);
        let superblock = superblock(&disk).expect("sound");
        self.join(disk, Some(Box::new(superblock)))
    }

    fn join(&mut self, disk: Disk, old: Option<Box<Superblock>>) -> MemberId {
        self.disks.push(disk);
        let member = MemberId((self.disks.len() - 1) as u16);
        let new = NewMember {
            member,
            device_sectors: self.disks[0].sectors,
            device_uuid: [100 + member.0 as u8; 16],
            old,
        };
        self.array.check_add(&new).expect("can be added");
        self.tell(Event::AddMember(new));
        member
    }
}

/// Assembles from what is on the disks.
pub(crate) fn assemble(disks: &[Disk], force: bool) -> Result<Assembly, md_format::AssembleError> {
    let found: Vec<Found> = disks
        .iter()
        .enumerate()
        .map(|(i, disk)| {
            let superblock = superblock(disk);
            let read = |at: u64, len| Ok::<_, String>(disk.read(at, len).to_vec());
            let areas = superblock.as_ref().map(|sb| Areas::read(sb, read)).unwrap_or_default();
            let label = format!("disk{i}");
            Found { label, device_sectors: disk.sectors, superblock, identity: Some((1, i as u64)), areas }
        })
        .collect();
    md_format::assemble(&found, AssembleOptions { force, ..AssembleOptions::default() })
}

pub(crate) fn superblock(disk: &Disk) -> Result<Superblock, md_format::SuperblockError> {
    let at = md_format::candidates(disk.sectors).into_iter().find(|l| l.sector == 8).expect("1.2 fits");
    Superblock::parse(disk.read(4096, 4096), at, disk.sectors)
}

/// Every level with every layout that md has for it.
pub(crate) fn every_layout() -> Vec<(Level, Layout)> {
    [Level::Raid4, Level::Raid5, Level::Raid6]
        .into_iter()
        .flat_map(|level| Layout::all(level).into_iter().map(move |layout| (level, layout)))
        .collect()
}
