//! The stripe cache: which stripe has which slot, what queues at it, and who waits for a slot.

use crate::SlotId;
use crate::blocks::Blocks;
use crate::plan::{LaneState, Part};
use std::collections::{BTreeMap, VecDeque};

use super::pass::Pass;
use super::ppl_replay::Piece;

/// Requests that may arrive while a stripe is held back for its neighbours.
const PATIENCE: u64 = 64;

/// Something to do at a stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// A piece of a write.
    Write(Part),
    /// A piece of a read that needs other members, or that its own member failed to serve.
    Read(Part),
    /// The background pass comes by.
    Sync,
    /// Parity is made to fit what a partial parity log says.
    Replay(Piece),
}

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It has no stripe.
    Free,
    /// Its stripe has nothing to do; the number orders idle slots by age.
    Idle(u64),
    /// It is in the ready queue.
    Ready,
    /// A write that would need reads waits for neighbours; the number is the request count at which it
    /// began to wait.
    Held(u64),
    /// A write waits until the members are marked dirty.
    Blocked,
    /// A pass is under way.
    Running,
}

/// One slot.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Its stripe; meaningless while free.
    pub(super) stripe: u64,
    pub(super) lanes: Vec<LaneState>,
    pub(super) queue: VecDeque<Work>,
    pub(super) pass: Option<Pass>,
    pub(super) standing: Standing,
    /// Do not hold writes back: somebody waits, or nothing more will come.
    pub(super) urgent: bool,
}

/// The cache.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    slots: Vec<Slot>,
    by_stripe: BTreeMap<u64, SlotId>,
    free: Vec<SlotId>,
    idle: BTreeMap<u64, SlotId>,
    age: u64,
    ready: VecDeque<SlotId>,
    held: VecDeque<SlotId>,
    blocked: Vec<SlotId>,
    /// Stripes that wait for a slot, in order of arrival, with what waits for them.
    waiting: VecDeque<u64>,
    waiting_work: BTreeMap<u64, VecDeque<Work>>,
    arrivals: u64,
    running: u32,
}

impl Cache {
    pub(super) fn new(slots: u32, members: u16) -> Self {
        let slot = Slot {
            stripe: 0,
            lanes: vec![LaneState::default(); usize::from(members)],
            queue: VecDeque::new(),
            pass: None,
            standing: Standing::Free,
            urgent: false,
        };
        Cache {
            slots: vec![slot; slots as usize],
            by_stripe: BTreeMap::new(),
            free: (0..slots).rev().map(SlotId).collect(),
            idle: BTreeMap::new(),
            age: 0,
            ready: VecDeque::new(),
            held: VecDeque::new(),
            blocked: Vec::new(),
            waiting: VecDeque::new(),
            waiting_work: BTreeMap::new(),
            arrivals: 0,
            running: 0,
        }
    }

    pub(super) fn slot(&self, id: SlotId) -> &Slot {
        &self.slots[id.0 as usize]
    }

    pub(super) fn slot_mut(&mut self, id: SlotId) -> &mut Slot {
        &mut self.slots[id.0 as usize]
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        (0u32..).map(SlotId).zip(&self.slots)
    }

    /// The slot of a stripe, if it is cached.
    pub(super) fn find(&self, stripe: u64) -> Option<&Slot> {
        self.by_stripe.get(&stripe).map(|&id| self.slot(id))
    }

    /// Whether there is work at any stripe.
    pub(super) fn busy(&self) -> bool {
        self.running > 0
            || !(self.ready.is_empty()
                && self.held.is_empty()
                && self.blocked.is_empty()
                && self.waiting.is_empty())
    }

    /// Stripes that wait for a slot.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The work that waits for a slot.
    pub(super) fn waiting_work(&self) -> impl Iterator<Item = &Work> {
        self.waiting_work.values().flatten()
    }

    /// Counts a request, for the patience of held writes.
    pub(super) fn arrived(&mut self) {
        self.arrivals += 1;
    }

    /// Queues work at a stripe. Once a stripe waits for a slot all its work does, in order.
    pub(super) fn push(&mut self, stripe: u64, work: Work, urgent: bool) {
        if let Some(&id) = self.by_stripe.get(&stripe) {
            self.attach(id, work, urgent);
            return;
        }
        if self.waiting.is_empty()
            && let Some(id) = self.take_slot(stripe)
        {
            self.attach(id, work, urgent);
            return;
        }
        let queue = self.waiting_work.entry(stripe).or_default();
        if queue.is_empty() {
            self.waiting.push_back(stripe);
        }
        queue.push_back(work);
        self.release_held();
    }

    fn attach(&mut self, id: SlotId, work: Work, urgent: bool) {
        let slot = &mut self.slots[id.0 as usize];
        slot.queue.push_back(work);
        slot.urgent |= urgent;
        let urgent = slot.urgent;
        match slot.standing {
            Standing::Idle(_) => self.make_ready(id),
            Standing::Held(_) if urgent => self.unhold(id),
            _ => {}
        }
    }

    /// A slot for a stripe that has none: a free one, else the one that was idle the longest.
    fn take_slot(&mut self, stripe: u64) -> Option<SlotId> {
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                let (_, id) = self.idle.pop_first()?;
                let old = self.slots[id.0 as usize].stripe;
                self.by_stripe.remove(&old);
                id
            }
        };
        self.age += 1;
        let age = self.age;
        let slot = &mut self.slots[id.0 as usize];
        slot.stripe = stripe;
        slot.lanes.fill(LaneState::default());
        slot.urgent = false;
        slot.standing = Standing::Idle(age);
        self.idle.insert(age, id);
        self.by_stripe.insert(stripe, id);
        Some(id)
    }

    fn make_ready(&mut self, id: SlotId) {
        if let Standing::Idle(age) = self.slot(id).standing {
            self.idle.remove(&age);
        }
        self.slot_mut(id).standing = Standing::Ready;
        self.ready.push_back(id);
    }

    fn unhold(&mut self, id: SlotId) {
        self.held.retain(|&h| h != id);
        self.make_ready(id);
    }

    /// The next stripe to start a pass on; it counts as running until [`Cache::finish`], [`Cache::hold`]
    /// or [`Cache::block`].
    pub(super) fn next_ready(&mut self) -> Option<SlotId> {
        while let Some(&first) = self.held.front() {
            let Standing::Held(since) = self.slot(first).standing else { break };
            if self.arrivals.wrapping_sub(since) <= PATIENCE {
                break;
            }
            self.held.pop_front();
            self.slot_mut(first).urgent = true;
            self.make_ready(first);
        }
        let id = self.ready.pop_front()?;
        self.slot_mut(id).standing = Standing::Running;
        self.running += 1;
        Some(id)
    }

    /// Puts a running stripe aside until neighbours came or nothing more will.
    pub(super) fn hold(&mut self, id: SlotId) {
        self.running -= 1;
        self.slot_mut(id).standing = Standing::Held(self.arrivals);
        self.held.push_back(id);
    }

    /// Puts a running stripe aside until [`Cache::unblock`].
    pub(super) fn block(&mut self, id: SlotId) {
        self.running -= 1;
        self.slot_mut(id).standing = Standing::Blocked;
        self.blocked.push(id);
    }

    /// Starts all blocked stripes.
    pub(super) fn unblock(&mut self) {
        for id in std::mem::take(&mut self.blocked) {
            self.make_ready(id);
        }
    }

    /// Starts all held writes.
    pub(super) fn release_held(&mut self) {
        for id in std::mem::take(&mut self.held) {
            self.slot_mut(id).urgent = true;
            self.make_ready(id);
        }
    }

    /// The pass of a running stripe is over. A slot that holds no data worth keeping is freed, last in
    /// first out, so that full-stripe writes keep using memory that is in the CPU's cache.
    pub(super) fn finish(&mut self, id: SlotId, data_lanes: u16) {
        self.running -= 1;
        self.age += 1;
        let age = self.age;
        let slot = &mut self.slots[id.0 as usize];
        slot.pass = None;
        slot.urgent = false;
        slot.standing = Standing::Idle(age);
        let keep = slot.lanes.iter().take(usize::from(data_lanes)).any(|l| !l.cached.is_empty())
            || slot.lanes.iter().any(|l| !l.bad.is_empty());
        let (queued, stripe) = (!slot.queue.is_empty(), slot.stripe);
        self.idle.insert(age, id);
        let others_wait = !self.waiting.is_empty();
        if queued && !others_wait {
            self.make_ready(id);
        } else if queued || !keep {
            self.idle.remove(&age);
            self.by_stripe.remove(&stripe);
            let slot = self.slot_mut(id);
            slot.standing = Standing::Free;
            let rest = std::mem::take(&mut slot.queue);
            self.free.push(id);
            if queued {
                // A stripe that is asked for all the time must not keep its slot while others have none:
                // it lines up behind them with the work that it has left.
                self.waiting.push_back(stripe);
                self.waiting_work.insert(stripe, rest);
            }
        }
        self.feed_waiting();
    }

    fn feed_waiting(&mut self) {
        while let Some(&stripe) = self.waiting.front() {
            let Some(id) = self.take_slot(stripe) else { return };
            self.waiting.pop_front();
            // Others wait for slots: this one is not held back.
            for work in self.waiting_work.remove(&stripe).unwrap_or_default() {
                self.attach(id, work, true);
            }
        }
    }

    /// Forgets which blocks failed to read on a lane's member: another member will play the role.
    pub(super) fn forget_bad(&mut self, lane_of: impl Fn(u64) -> u16) {
        for slot in &mut self.slots {
            let lane = usize::from(lane_of(slot.stripe));
            if slot.standing != Standing::Free
                && let Some(state) = slot.lanes.get_mut(lane)
            {
                (state.bad, state.logged) = (Blocks::NONE, Blocks::NONE);
            }
        }
    }

    /// The queues name each slot at most once and in the right standing.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut named = vec![0u32; self.slots.len()];
        let mut count = |ids: &mut dyn Iterator<Item = SlotId>, ok: &dyn Fn(Standing) -> bool, name: &str| {
            for id in ids {
                named[id.0 as usize] += 1;
                if !ok(self.slot(id).standing) {
                    return Err(format!(
                        "slot {} is in the {name} queue but stands {:?}",
                        id.0,
                        self.slot(id).standing
                    ));
                }
            }
            Ok(())
        };
        count(&mut self.free.iter().copied(), &|s| s == Standing::Free, "free")?;
        count(&mut self.idle.values().copied(), &|s| matches!(s, Standing::Idle(_)), "idle")?;
        count(&mut self.ready.iter().copied(), &|s| s == Standing::Ready, "ready")?;
        count(&mut self.held.iter().copied(), &|s| matches!(s, Standing::Held(_)), "held")?;
        count(&mut self.blocked.iter().copied(), &|s| s == Standing::Blocked, "blocked")?;
        let mut running = 0;
        for (id, slot) in self.slots() {
            let on = u32::from(slot.standing == Standing::Running);
            running += on;
            if named[id.0 as usize] + on != 1 {
                return Err(format!("slot {} is in {} queues", id.0, named[id.0 as usize]));
            }
            if slot.standing != Standing::Free && self.by_stripe.get(&slot.stripe) != Some(&id) {
                return Err(format!("slot {} is not found by its stripe {}", id.0, slot.stripe));
            }
            if matches!(slot.standing, Standing::Idle(_) | Standing::Free) && !slot.queue.is_empty() {
                return Err(format!("slot {} has work and nobody does it", id.0));
            }
            if slot.pass.is_some() && slot.standing != Standing::Running {
                return Err(format!("slot {} has a pass but stands {:?}", id.0, slot.standing));
            }
        }
        if running != self.running {
            return Err(format!("{running} slots run, {} are counted", self.running));
        }
        let slots_left = !self.free.is_empty() || !self.idle.is_empty();
        if slots_left && !self.waiting.is_empty() {
            return Err("stripes wait for a slot although one is there".into());
        }
        Ok(())
    }
}
