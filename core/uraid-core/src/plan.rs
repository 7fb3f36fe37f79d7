//! Plan: from the pending work of one stripe and the state of its blocks to the reads, the compute steps
//! and the writes that do it.
//!
//! A plan is made anew whenever something about the stripe changed: first it lists what to read; when that
//! is in the cache, planning again lists nothing to read and the steps are run. A block that failed to
//! read, or a member that went away in between, is simply part of the next plan's input. Planning changes
//! nothing and costs no I/O, so it is also how the array finds out that a write would need reads.

use crate::blocks::{Blocks, Lanes, Run};
use crate::decide::{self, Block, Column, Dirty, Fetch, Method};
use crate::geometry::{Geometry, RowPattern};
use crate::{BLOCK, LostBlocks, Mem, Place, ReqId, Role, SlotId, Step, Verdict};

/// One piece of a client request in one strip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// The request.
    pub(crate) req: ReqId,
    /// The data lane.
    pub(crate) lane: u16,
    /// First byte inside the strip.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) len: u32,
    /// First byte inside the request's memory.
    pub(crate) at: u32,
    /// A write of zeroes: there is no request memory.
    pub(crate) zero: bool,
}

impl Part {
    /// The blocks it touches.
    pub(crate) fn blocks(&self) -> Blocks {
        Blocks::touched(self.offset, self.len)
    }

    /// The first byte of the request, counted from its start, that lies in this part and these blocks.
    pub(crate) fn first_in(&self, blocks: Blocks) -> Option<u32> {
        let run = blocks.and(self.blocks()).runs().next()?;
        Some(self.at + (run.offset().max(self.offset) - self.offset))
    }

    fn aligned(&self) -> bool {
        self.offset.is_multiple_of(BLOCK) && self.len.is_multiple_of(BLOCK)
    }

    /// The request's memory for the bytes from `from` to `to` of the strip.
    fn mem(&self, from: u32, to: u32) -> Mem {
        let len = to - from;
        if self.zero {
            return Mem { place: Place::Zero, offset: 0, len };
        }
        Mem { place: Place::Request(self.req), offset: self.at + (from - self.offset), len }
    }

    /// The part of this part that lies in a run of blocks, as bytes of the strip.
    fn within(&self, run: Run) -> Option<(u32, u32)> {
        let from = self.offset.max(run.offset());
        let to = (self.offset + self.len).min(run.offset() + run.bytes());
        (from < to).then_some((from, to))
    }
}

/// What the cache knows of one lane.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct LaneState {
    /// Blocks whose content is in the slot.
    pub(crate) cached: Blocks,
    /// Blocks that the member failed to read or is known not to hold, and that were not rewritten since.
    pub(crate) bad: Blocks,
    /// Those of them that its bad-block log tells of.
    pub(crate) logged: Blocks,
    /// The role is not in sync at this stripe: no reads, and no writes but a rebuild's.
    pub(crate) gone: bool,
}

/// The stripe as planning sees it.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) geometry: &'a Geometry,
    pub(crate) pattern: &'a RowPattern,
    pub(crate) slot: SlotId,
    pub(crate) lanes: &'a [LaneState],
    pub(crate) trusted: bool,
    /// Writes are logged: what of each column is not written is computed as well.
    pub(crate) log: bool,
}

/// What a log says of a write: these blocks of neighbouring data lanes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogEntry {
    pub(crate) first_lane: u16,
    pub(crate) lanes: u16,
    pub(crate) run: Run,
    /// All data lanes are written: there is no partial parity.
    pub(crate) whole: bool,
}

/// A member access: blocks of one lane to or from memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Transfer {
    pub(crate) lane: u16,
    pub(crate) run: Run,
    pub(crate) mem: Mem,
}

/// What to do next about a stripe.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Plan {
    /// Reads to make first; while there are any, the rest is empty.
    pub(crate) loads: Vec<Transfer>,
    /// What to compute.
    pub(crate) steps: Vec<Step>,
    /// Writes to make afterwards.
    pub(crate) stores: Vec<Transfer>,
    /// Blocks whose content is in the slot once the steps have run.
    pub(crate) cached: Vec<(u16, Blocks)>,
    /// Blocks whose content in the slot is stale once the steps have run: data written straight from a
    /// request, and parity of a lost member, which nobody brings up to date.
    pub(crate) stale: Vec<(u16, Blocks)>,
    /// Columns that can't be served: too much is unreadable.
    pub(crate) failed: Blocks,
    /// Blocks that can't be read or recovered, where others of their column can.
    pub(crate) lost: Vec<(u16, Blocks)>,
    /// Blocks that had failed to read and were recovered.
    pub(crate) repaired: Vec<(u16, Blocks)>,
    /// What has to be logged before anything is stored.
    pub(crate) log: Vec<LogEntry>,
}

impl Plan {
    /// Whether any of the blocks of a lane can't be had.
    pub(crate) fn has_lost(&self, lane: u16, blocks: Blocks) -> bool {
        self.lost_of(lane).meets(blocks)
    }

    /// The blocks of a lane that can't be read.
    pub(crate) fn lost_of(&self, lane: u16) -> Blocks {
        self.lost.iter().filter(|(l, _)| *l == lane).fold(Blocks::NONE, |all, (_, blocks)| all.or(*blocks))
    }
}

impl Transfer {
    /// The same, block by block.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Transfer> {
        (0..self.run.count).map(move |i| Transfer {
            lane: self.lane,
            run: Run { first: self.run.first + i, count: 1 },
            mem: Mem { offset: self.mem.offset + i * BLOCK, len: BLOCK, ..self.mem },
        })
    }
}

/// Which sectors of a strip the pending writes replace: a byte a block, a bit a sector.
#[derive(Clone, Copy, Default)]
struct Coverage([u64; 8]);

impl Coverage {
    fn insert(&mut self, offset: u32, len: u32) {
        let (mut sector, end) = (offset / 512, (offset + len) / 512);
        while sector < end {
            let (word, bit) = ((sector / 64) as usize, sector % 64);
            let count = (end - sector).min(64 - bit);
            if let Some(w) = self.0.get_mut(word) {
                *w |= Blocks::range(bit, count).0;
            }
            sector += count;
        }
    }

    fn blocks(&self, wanted: impl Fn(u8) -> bool) -> Blocks {
        let bytes = self.0.iter().flat_map(|w| w.to_le_bytes());
        Blocks(bytes.enumerate().filter(|&(_, b)| wanted(b)).fold(0, |set, (i, _)| set | 1 << i))
    }
}

/// The dirty blocks of each data lane, and those of them that are replaced wholly.
struct DirtyMap {
    touched: Vec<Blocks>,
    whole: Vec<Blocks>,
}

impl DirtyMap {
    fn new(parts: &[Part], data: u16) -> Self {
        let mut cover = vec![Coverage::default(); usize::from(data)];
        for part in parts {
            if let Some(c) = cover.get_mut(usize::from(part.lane)) {
                c.insert(part.offset, part.len);
            }
        }
        DirtyMap {
            touched: cover.iter().map(|c| c.blocks(|b| b != 0)).collect(),
            whole: cover.iter().map(|c| c.blocks(|b| b == 0xff)).collect(),
        }
    }

    fn state(&self, lane: u16, block: u32) -> Dirty {
        let has = |v: &[Blocks]| v.get(usize::from(lane)).is_some_and(|b| b.has(block));
        match (has(&self.whole), has(&self.touched)) {
            (true, _) => Dirty::Wholly,
            (false, true) => Dirty::Partly,
            _ => Dirty::No,
        }
    }

    fn union(&self) -> Blocks {
        self.touched.iter().fold(Blocks::NONE, |a, &b| a.or(b))
    }

    fn edges(&self) -> u64 {
        self.touched.iter().chain(&self.whole).fold(0, |e, b| e | b.edges())
    }
}

impl<'a> View<'a> {
    fn all(&self) -> Blocks {
        Blocks::range(0, self.geometry.strip_blocks())
    }

    fn role(&self, lane: u16) -> Role {
        self.pattern.roles[usize::from(lane)]
    }

    fn lane(&self, lane: u16) -> LaneState {
        self.lanes[usize::from(lane)]
    }

    /// Where blocks differ from their neighbours, over all lanes.
    fn edges(&self) -> u64 {
        self.lanes.iter().fold(0, |e, l| e | l.cached.edges() | l.bad.edges())
    }

    fn slot_mem(&self, lane: u16, from: u32, to: u32) -> Mem {
        Mem { place: Place::Slot(self.slot, self.role(lane)), offset: from, len: to - from }
    }

    fn slot_run(&self, lane: u16, run: Run) -> Mem {
        self.slot_mem(lane, run.offset(), run.offset() + run.bytes())
    }

    fn column(&self, block: u32, dirty: Option<&DirtyMap>, out: &mut Vec<Block>) {
        out.clear();
        out.extend(self.lanes.iter().zip(0u16..).map(|(state, lane)| Block {
            dirty: dirty.map_or(Dirty::No, |d| d.state(lane, block)),
            cached: state.cached.has(block),
            readable: !state.gone && !state.bad.has(block),
            writable: !state.gone,
        }));
    }

    fn as_column<'b>(&self, blocks: &'b [Block]) -> Column<'b> {
        Column { blocks, data: self.geometry.data(), trusted: self.trusted }
    }

    /// The data blocks of a run in the order of their coefficients.
    fn by_exponent(&self, at: impl Fn(u16) -> Mem) -> Vec<Option<Mem>> {
        self.pattern.by_exponent.iter().map(|lane| lane.map(&at)).collect()
    }

    fn recover(&self, fetch: &Fetch, at: impl Fn(u16) -> Mem) -> Step {
        let p = self.geometry.p_lane();
        let lost_p = fetch.recover.has(p);
        let q = self.geometry.q_lane();
        let lost_q = q.is_some_and(|q| fetch.recover.has(q));
        let mut data: Vec<u8> = fetch
            .recover
            .iter()
            .filter_map(|l| self.pattern.exponents.get(usize::from(l)).copied())
            .collect();
        data.sort_unstable();
        Step::Recover {
            data: self.by_exponent(&at),
            p: (fetch.use_p || lost_p).then(|| at(p)),
            q: q.filter(|_| fetch.use_q || lost_q).map(&at),
            lost: LostBlocks { data, p: lost_p, q: lost_q },
        }
    }

    fn loads(&self, masks: &[Blocks]) -> Vec<Transfer> {
        let mut loads = Vec::new();
        for (&mask, lane) in masks.iter().zip(0u16..) {
            loads.extend(mask.runs().map(|run| Transfer { lane, run, mem: self.slot_run(lane, run) }));
        }
        loads
    }

    /// Marks the blocks recovered along the way that had failed to read and can be written: they are
    /// rewritten, which makes the medium forget or remap the bad spot. What a log tells of was refused or
    /// never there: whoever comes by does not try it each time, but only `all` of a background pass.
    fn mark_rewrites(&self, recovered: &Lanes, run: Run, all: bool, marks: &mut [Blocks]) {
        for lane in recovered.iter().filter(|&l| !self.lane(l).gone) {
            if let Some(mark) = marks.get_mut(usize::from(lane)) {
                let LaneState { bad, logged, .. } = self.lane(lane);
                let bad = if all { bad } else { bad.minus(logged) };
                *mark = mark.or(bad.and(run.blocks()));
            }
        }
    }
}

fn add(masks: &mut [Blocks], lanes: &Lanes, blocks: Blocks) {
    for lane in lanes.iter() {
        if let Some(m) = masks.get_mut(usize::from(lane)) {
            *m = m.or(blocks);
        }
    }
}

fn listed(masks: Vec<Blocks>) -> Vec<(u16, Blocks)> {
    (0u16..).zip(masks).filter(|(_, m)| !m.is_empty()).collect()
}

/// The decision for one run of columns that look alike.
struct RunDecision {
    run: Run,
    method: Method,
    fetch: Fetch,
}

/// Plans the pending writes of a stripe.
pub(crate) fn plan_writes(view: &View<'_>, parts: &[Part]) -> Plan {
    let lanes = view.lanes.len();
    let dirty = DirtyMap::new(parts, view.geometry.data());
    let mut plan = Plan::default();
    let mut decided = Vec::new();
    let mut load = vec![Blocks::NONE; lanes];
    let mut column = Vec::with_capacity(lanes);
    for run in dirty.union().runs_cut(view.edges() | dirty.edges()) {
        view.column(run.first, Some(&dirty), &mut column);
        match decide::decide_write(&view.as_column(&column)) {
            Ok(d) => {
                add(&mut load, &d.fetch.load, run.blocks());
                decided.push(RunDecision { run, method: d.method, fetch: d.fetch });
            }
            Err(decide::Unrecoverable) => plan.failed = plan.failed.or(run.blocks()),
        }
    }
    plan.loads = view.loads(&load);
    if plan.loads.is_empty() {
        write_steps(view, parts, &dirty, &decided, &mut plan);
    }
    plan
}

fn write_steps(view: &View<'_>, parts: &[Part], dirty: &DirtyMap, runs: &[RunDecision], plan: &mut Plan) {
    let lanes = view.lanes.len();
    let direct = direct_lanes(view, parts, runs);
    let mut store = vec![Blocks::NONE; lanes];
    let mut cached = vec![Blocks::NONE; lanes];
    let mut repaired = vec![Blocks::NONE; lanes];
    let p_lane = view.geometry.p_lane();
    for d in runs {
        let blocks = d.run.blocks();
        let mut now: Lanes = d.fetch.recover;
        if !d.fetch.recover.is_empty() {
            plan.steps.push(view.recover(&d.fetch, |l| view.slot_run(l, d.run)));
            view.mark_rewrites(&d.fetch.recover, d.run, false, &mut repaired);
        }
        if view.log && d.method != Method::Plain {
            log_run(view, dirty, d, plan);
        }
        apply_parts(view, parts, d, &direct, &mut plan.steps);
        for lane in (p_lane..lanes as u16).filter(|&l| view.lane(l).gone) {
            plan.stale.push((lane, blocks));
        }
        let written = (0..p_lane).filter(|&l| dirty.state(l, d.run.first) != Dirty::No);
        let parity = (p_lane..lanes as u16).filter(|&l| d.method != Method::Plain && !view.lane(l).gone);
        for lane in written.chain(parity) {
            now.insert(lane);
            if !view.lane(lane).gone {
                store[usize::from(lane)] = store[usize::from(lane)].or(blocks);
            }
        }
        if d.method == Method::Reconstruct {
            plan.steps.push(gen_parity(view, d.run, &direct));
        }
        add(&mut cached, &now, blocks);
    }
    for (store, repaired) in store.iter_mut().zip(&repaired) {
        *store = store.or(*repaired);
    }
    for (lane, part) in (0u16..).zip(&direct) {
        if part.is_some() {
            plan.stale.push((lane, view.all()));
            cached[usize::from(lane)] = Blocks::NONE;
        }
    }
    for (&mask, lane) in store.iter().zip(0u16..) {
        plan.stores.extend(mask.runs().map(|run| Transfer {
            lane,
            run,
            mem: data_mem(view, &direct, lane, run),
        }));
    }
    plan.cached = listed(cached);
    plan.repaired = listed(repaired);
}

/// Takes down that a run is written, and computes what is not, before the slot's data and parity change: the XOR of
/// the other data, or of old parity and the old data that are replaced.
fn log_run(view: &View<'_>, dirty: &DirtyMap, d: &RunDecision, plan: &mut Plan) {
    let data = view.geometry.data();
    let written: Lanes = (0..data).filter(|&l| dirty.state(l, d.run.first) != Dirty::No).collect();
    let Some(first_lane) = written.iter().next() else { return };
    // Only neighbours come into one pass of an array that logs.
    let lanes = written.count() as u16;
    let entry = LogEntry { first_lane, lanes, run: d.run, whole: lanes == data };
    if !entry.whole {
        let mut parity =
            (d.method == Method::ReadModify).then(|| view.slot_run(view.geometry.p_lane(), d.run));
        let source = |lane: u16| match (d.method, written.has(lane)) {
            (Method::ReadModify, true) | (Method::Reconstruct, false) => Some(view.slot_run(lane, d.run)),
            // To an XOR it is all the same which of the blocks it is.
            _ => parity.take(),
        };
        let data = (0..data).map(source).collect();
        let place = Place::Slot(view.slot, Role(view.geometry.members()));
        let p = Some(Mem { place, offset: d.run.offset(), len: d.run.bytes() });
        plan.steps.push(Step::GenParity { data, p, q: None });
    }
    match plan.log.last_mut() {
        Some(last)
            if (last.first_lane, last.lanes) == (first_lane, lanes)
                && last.run.first + last.run.count == d.run.first =>
        {
            last.run.count += d.run.count;
        }
        _ => plan.log.push(entry),
    }
}

/// Lanes whose whole strip one single write replaces, with nothing but reconstruct-writes in the stripe:
/// parity is computed and the member written straight from the request's memory, without a copy.
fn direct_lanes(view: &View<'_>, parts: &[Part], runs: &[RunDecision]) -> Vec<Option<Part>> {
    let mut direct: Vec<Option<Part>> = vec![None; usize::from(view.geometry.data())];
    if runs.iter().any(|d| d.method == Method::ReadModify) {
        return direct;
    }
    let strip = view.geometry.strip_bytes();
    for part in parts {
        let alone = parts.iter().filter(|p| p.lane == part.lane).count() == 1;
        if let Some(slot) = direct.get_mut(usize::from(part.lane))
            && alone
            && part.offset == 0
            && part.len == strip
        {
            *slot = Some(*part);
        }
    }
    direct
}

fn data_mem(view: &View<'_>, direct: &[Option<Part>], lane: u16, run: Run) -> Mem {
    match direct.get(usize::from(lane)) {
        Some(Some(part)) => part.mem(run.offset(), run.offset() + run.bytes()),
        _ => view.slot_run(lane, run),
    }
}

fn gen_parity(view: &View<'_>, run: Run, direct: &[Option<Part>]) -> Step {
    let keep = |lane: u16| (!view.lane(lane).gone).then(|| view.slot_run(lane, run));
    Step::GenParity {
        data: view.by_exponent(|l| data_mem(view, direct, l, run)),
        p: keep(view.geometry.p_lane()),
        q: view.geometry.q_lane().and_then(keep),
    }
}

/// Brings the new data of a run into the slot, in order of arrival, so that the last of two overlapping
/// writes wins on data and on parity alike.
fn apply_parts(
    view: &View<'_>,
    parts: &[Part],
    d: &RunDecision,
    direct: &[Option<Part>],
    steps: &mut Vec<Step>,
) {
    for part in parts {
        let Some((from, to)) = part.within(d.run) else { continue };
        let (new, old) = (part.mem(from, to), view.slot_mem(part.lane, from, to));
        if d.method == Method::ReadModify {
            let keep = |lane: u16| (!view.lane(lane).gone).then(|| view.slot_mem(lane, from, to));
            steps.push(Step::UpdateParity {
                old,
                new,
                exponent: view.pattern.exponents[usize::from(part.lane)],
                p: keep(view.geometry.p_lane()),
                q: view.geometry.q_lane().and_then(keep),
            });
        } else if !matches!(direct.get(usize::from(part.lane)), Some(Some(_))) {
            steps.push(Step::Copy { src: new, dst: old });
        }
    }
}

/// Plans reads that need the stripe: lost blocks, and blocks that failed to read.
///
/// `got` says which blocks of a lane were already loaded into the memory of the first aligned part of that
/// lane: where the request reads a healthy lane too, its memory is the source of the recovery and the
/// bytes are read once.
pub(crate) fn plan_reads(view: &View<'_>, parts: &[Part], got: &[Blocks]) -> Plan {
    let lanes = view.lanes.len();
    let hosts = host_parts(view, parts);
    let host = |lane: u16, run: Run| {
        let part = hosts.get(usize::from(lane)).copied().flatten()?;
        (part.blocks().and(run.blocks()) == run.blocks()).then_some(part)
    };
    let mut plan = Plan::default();
    let mut load = vec![Blocks::NONE; lanes];
    let mut cached = vec![Blocks::NONE; lanes];
    let mut repaired = vec![Blocks::NONE; lanes];
    let mut column: Vec<Block> = Vec::with_capacity(lanes);
    let mut runs = Vec::new();
    let wanted = parts.iter().fold(Blocks::NONE, |a, p| a.or(p.blocks()));
    let edges = parts.iter().fold(view.edges(), |e, p| e | p.blocks().edges());
    let edges = got.iter().fold(edges, |e, g| e | g.edges());
    for run in wanted.runs_cut(edges) {
        view.column(run.first, None, &mut column);
        for (block, lane) in column.iter_mut().zip(0u16..) {
            block.cached |= got.get(usize::from(lane)).is_some_and(|g| g.has(run.first));
        }
        let need: Lanes = parts.iter().filter(|p| p.blocks().has(run.first)).map(|p| p.lane).collect();
        let fetch = decide::fetch(&view.as_column(&column), &need).or_else(|decide::Unrecoverable| {
            // What can be had without recovery still is.
            let known = |lane: &u16| column.get(usize::from(*lane)).is_some_and(|b| b.cached || b.readable);
            plan.lost.extend(need.iter().filter(|l| !known(l)).map(|l| (l, run.blocks())));
            decide::fetch(&view.as_column(&column), &need.iter().filter(known).collect())
        });
        if let Ok(fetch) = fetch {
            add(&mut load, &fetch.load, run.blocks());
            runs.push((run, fetch));
        }
    }
    for (&mask, lane) in load.iter().zip(0u16..) {
        for run in mask.runs_cut(edges) {
            let mem = host(lane, run).map(|p| p.mem(run.offset(), run.offset() + run.bytes()));
            let mem = mem.unwrap_or_else(|| view.slot_run(lane, run));
            plan.loads.push(Transfer { lane, run, mem });
        }
    }
    if !plan.loads.is_empty() {
        return plan;
    }
    for (run, fetch) in &runs {
        let at = |lane: u16| {
            let in_host = got.get(usize::from(lane)).is_some_and(|g| g.has(run.first));
            let lost = fetch.recover.has(lane) && !view.lane(lane).bad.meets(run.blocks());
            match host(lane, *run) {
                Some(part) if in_host || lost => part.mem(run.offset(), run.offset() + run.bytes()),
                _ => view.slot_run(lane, *run),
            }
        };
        if !fetch.recover.is_empty() {
            plan.steps.push(view.recover(fetch, at));
            let in_slot = fetch.recover.iter().filter(|&l| at(l) == view.slot_run(l, *run)).collect();
            add(&mut cached, &in_slot, run.blocks());
            view.mark_rewrites(&fetch.recover, *run, false, &mut repaired);
        }
        for part in parts {
            let Some((from, to)) = part.within(*run) else { continue };
            if plan.has_lost(part.lane, run.blocks()) {
                continue;
            }
            let base = at(part.lane);
            let src = Mem { offset: base.offset + (from - run.offset()), len: to - from, ..base };
            let dst = part.mem(from, to);
            if src != dst {
                plan.steps.push(Step::Copy { src, dst });
            }
        }
    }
    plan.stores = view.loads(&repaired);
    plan.cached = listed(cached);
    plan.repaired = listed(repaired);
    plan
}

/// The part of each lane whose memory can hold whole blocks of it: the first aligned one.
pub(crate) fn host_parts(view: &View<'_>, parts: &[Part]) -> Vec<Option<Part>> {
    let mut hosts = vec![None; view.lanes.len()];
    for part in parts.iter().filter(|p| p.aligned()) {
        if let Some(host @ None) = hosts.get_mut(usize::from(part.lane)) {
            *host = Some(*part);
        }
    }
    hosts
}

/// Decides how to get the lanes in `need` into the slot over the whole stripe, and lists the reads.
fn gather(view: &View<'_>, need: &Lanes, plan: &mut Plan) -> Vec<(Run, Fetch)> {
    let lanes = view.lanes.len();
    let mut load = vec![Blocks::NONE; lanes];
    let mut column = Vec::with_capacity(lanes);
    let mut runs = Vec::new();
    for run in view.all().runs_cut(view.edges()) {
        view.column(run.first, None, &mut column);
        match decide::fetch(&view.as_column(&column), need) {
            Ok(fetch) => {
                add(&mut load, &fetch.load, run.blocks());
                runs.push((run, fetch));
            }
            Err(decide::Unrecoverable) => plan.failed = plan.failed.or(run.blocks()),
        }
    }
    plan.loads = view.loads(&load);
    runs
}

/// Recovers what [`gather`] could not read. What is to be rewritten because it had failed to read, by lane.
fn recover_all(view: &View<'_>, runs: &[(Run, Fetch)], plan: &mut Plan) -> Vec<Blocks> {
    let lanes = view.lanes.len();
    let mut cached = vec![Blocks::NONE; lanes];
    let mut repaired = vec![Blocks::NONE; lanes];
    for (run, fetch) in runs.iter().filter(|(_, f)| !f.recover.is_empty()) {
        plan.steps.push(view.recover(fetch, |l| view.slot_run(l, *run)));
        add(&mut cached, &fetch.recover, run.blocks());
        view.mark_rewrites(&fetch.recover, *run, true, &mut repaired);
    }
    plan.cached = listed(cached);
    plan.repaired = listed(repaired.clone());
    repaired
}

/// Plans the rebuild of the lanes in `targets` over the whole stripe: they are recovered from the others
/// and written. Columns that can't be recovered are named as failed and left out.
pub(crate) fn plan_rebuild(view: &View<'_>, targets: &Lanes) -> Plan {
    let mut plan = Plan::default();
    let runs = gather(view, targets, &mut plan);
    if !plan.loads.is_empty() {
        return plan;
    }
    let mut stores = recover_all(view, &runs, &mut plan);
    add(&mut stores, targets, view.all().minus(plan.failed));
    plan.stores = view.loads(&stores);
    plan
}

/// Plans the resync of a stripe. First everything is read and compared; told by `bad` which parity
/// differs, it is computed anew from the data and written. A lost data block is what P says it is, and then
/// Q is compared alone. Columns that can't be recovered are named as failed and left out; with nothing left to
/// compare at all the plan fails.
pub(crate) fn plan_resync(view: &View<'_>, bad: Option<Verdict>) -> Plan {
    let (p, q) = (view.geometry.p_lane(), view.geometry.q_lane());
    let present = |lane: u16| !view.lane(lane).gone;
    let mut plan = Plan::default();
    let lost_data = (0..p).filter(|&l| !present(l)).count();
    let checkable = match lost_data {
        0 => present(p) || q.is_some_and(present),
        1 => present(p) && q.is_some_and(present),
        _ => false,
    };
    if !checkable {
        plan.failed = view.all();
        return plan;
    }
    let need: Lanes = (0..view.lanes.len() as u16).filter(|&l| l < p || present(l)).collect();
    let runs = gather(view, &need, &mut plan);
    if !plan.loads.is_empty() {
        return plan;
    }
    // Parity that could not be read and does not match either is written once.
    let mut stores = recover_all(view, &runs, &mut plan);
    let compared = |lane: u16| present(lane) && (lost_data == 0 || lane != p);
    for run in view.all().minus(plan.failed).runs() {
        let here = |lane: u16| compared(lane).then(|| view.slot_run(lane, run));
        let data = view.by_exponent(|l| view.slot_run(l, run));
        let Some(verdict) = bad else {
            plan.steps.push(Step::CheckParity { data, p: here(p), q: q.and_then(here) });
            continue;
        };
        let p_mem = here(p).filter(|_| verdict.p_bad);
        let q_mem = q.and_then(here).filter(|_| verdict.q_bad);
        for (lane, mem) in [(Some(p), p_mem), (q, q_mem)] {
            if let (Some(lane), Some(_)) = (lane, mem) {
                add(&mut stores, &[lane].into_iter().collect(), run.blocks());
                plan.cached.push((lane, run.blocks()));
            }
        }
        if p_mem.is_some() || q_mem.is_some() {
            plan.steps.push(Step::GenParity { data, p: p_mem, q: q_mem });
        }
    }
    plan.stores = view.loads(&stores);
    plan
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
