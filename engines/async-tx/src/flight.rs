//! A chain under way: which of its nodes wait for what, and where each stands.

use crate::edges::Sweep;
use crate::op::Verdict;
use crate::route::Place;
use crate::slab::Key;
use crate::split::Cut;
use crate::tx::Report;
use crate::{Chain, EngineError};

/// Where a node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum State {
    /// For others, which have not ended.
    #[default]
    Waiting,
    /// In the queue of the ready ones.
    Ready,
    /// In the pending list of a backend.
    Pending,
    /// In the hands of a backend.
    InHand,
    /// It was behind a fence and completed well, but what was before the fence was not seen to end yet.
    Early,
    /// Over.
    Ended,
}

/// A backend at one time of its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Berth {
    pub(crate) slot: usize,
    /// How often the slot was filled before.
    pub(crate) epoch: u32,
    /// How often what the backend said of itself had to be asked anew.
    pub(crate) terms: u32,
}

/// A node, as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) state: State,
    /// Nodes that must end before this one starts.
    pub(crate) waits_for: u32,
    /// Where the list of the nodes that wait for this one begins.
    first_edge: u32,
    /// The backend that it began on, and how it is cut.
    pub(crate) began: Option<(Berth, Cut)>,
    /// The step that comes next.
    pub(crate) step: usize,
    /// What its steps have found.
    pub(crate) verdict: Verdict,
    /// Where the last one that it waited for ran.
    pub(crate) parent: Option<Place>,
    /// The pending batch that holds `in_batch` of those that it waits for.
    pub(crate) batch: u64,
    pub(crate) in_batch: u32,
    /// A backend failed it, gave it back or did not take it: it is for the CPU.
    pub(crate) retry: bool,
    /// It is behind a fence, and one before the fence failed, or it is in the hands of a backend that computed
    /// wrongly: whatever it computed is void.
    pub(crate) tainted: bool,
    /// It was early, and has just been found void; those behind it have not been looked at yet.
    voided: bool,
    /// Its result is to be compared with that of the CPU.
    pub(crate) checked: bool,
}

impl Run {
    /// Forgets what was done, to begin again on the CPU.
    pub(crate) fn restart(&mut self) {
        self.step = 0;
        self.verdict = Verdict::default();
    }
}

/// A submitted chain that has not ended.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) chain: Option<Chain>,
    pub(crate) runs: Vec<Run>,
    /// For each node those that wait for it, one list after the other.
    edges: Vec<u32>,
    pub(crate) report: Report,
    /// Chains that wait for this one.
    pub(crate) followers: Vec<Key>,
    /// Chains that this one waits for.
    pub(crate) waits_for: u32,
    /// Nodes that have not ended.
    unfinished: usize,
    /// Nodes that are pending or in the hands of a backend.
    pub(crate) outstanding: usize,
    pub(crate) verdict: Verdict,
    pub(crate) error: Option<EngineError>,
    /// Where the last node of the last chain that it waited for ran, and later its own.
    pub(crate) place: Option<Place>,
}

impl Flight {
    /// Begins with `chain`, whose nodes have not been looked at.
    pub(crate) fn board(&mut self, chain: Chain, report: Report) {
        self.runs.clear();
        self.edges.clear();
        self.followers.clear();
        (self.waits_for, self.unfinished, self.outstanding) = (0, chain.len(), 0);
        (self.verdict, self.error, self.place) = (Verdict::default(), None, None);
        (self.chain, self.report) = (Some(chain), report);
    }

    /// Works out who waits for whom, and calls `release` for every node that waits for nothing.
    pub(crate) fn take_off(&mut self, sweep: &mut Sweep, mut release: impl FnMut(usize)) {
        let Some(chain) = &self.chain else { return };
        let pairs = sweep.edges_of(chain);
        self.runs.resize(chain.len(), Run::default());
        for (_, after) in pairs {
            self.runs[*after as usize].waits_for += 1;
        }
        self.edges.extend(pairs.iter().map(|(_, after)| *after));
        let mut first = 0;
        for (node, run) in self.runs.iter_mut().enumerate() {
            run.first_edge = first as u32;
            while pairs.get(first).is_some_and(|(before, _)| *before as usize == node) {
                first += 1;
            }
            if run.waits_for == 0 {
                (run.state, run.parent) = (State::Ready, self.place);
                release(node);
            }
        }
    }

    /// Calls `visit` for each node that waits for `node`.
    pub(crate) fn each_successor(&mut self, node: usize, mut visit: impl FnMut(usize, &mut Run)) {
        let Some(run) = self.runs.get(node) else { return };
        let end = self.runs.get(node + 1).map_or(self.edges.len(), |next| next.first_edge as usize);
        for after in self.edges.get(run.first_edge as usize..end).unwrap_or(&[]) {
            if let Some(run) = self.runs.get_mut(*after as usize) {
                visit(*after as usize, run);
            }
        }
    }

    /// Marks a node as ended at `place`, if it ran anywhere, and calls `release` for every node that waited for
    /// it last.
    pub(crate) fn end(
        &mut self,
        node: usize,
        place: Option<Place>,
        verdict: Verdict,
        mut release: impl FnMut(usize),
    ) {
        self.verdict = self.verdict.or(verdict);
        self.unfinished = self.unfinished.saturating_sub(1);
        self.place = place.or(self.place);
        if let Some(run) = self.runs.get_mut(node) {
            run.state = State::Ended;
        }
        self.each_successor(node, |after, run| {
            run.waits_for = run.waits_for.saturating_sub(1);
            run.parent = place.or(run.parent);
            match run.state {
                State::Waiting if run.waits_for == 0 => {
                    run.state = State::Ready;
                    release(after);
                }
                State::Early if run.waits_for == 0 => release(after),
                _ => {}
            }
        });
    }

    /// Marks what is behind a node whose result is void: nothing behind its fence has a result that counts,
    /// and so on. What is still in hand passes this on itself, when it comes back.
    pub(crate) fn taint_successors(&mut self, node: usize) {
        let mut last = node;
        self.taint(node, &mut last);
        // Nodes wait only for those that were pushed before them, so that one pass sees all.
        let mut next = node + 1;
        while next <= last {
            if self.runs.get_mut(next).is_some_and(|run| std::mem::take(&mut run.voided)) {
                self.taint(next, &mut last);
            }
            next += 1;
        }
    }

    /// Marks what waits for `node`; `last` becomes the last one that was voided.
    fn taint(&mut self, node: usize, last: &mut usize) {
        self.each_successor(node, |after, run| match run.state {
            State::InHand => run.tainted = true,
            State::Early => {
                run.restart();
                (run.state, run.retry, run.checked) = (State::Waiting, true, false);
                run.voided = true;
                *last = after.max(*last);
            }
            _ => {}
        });
    }

    /// Whether nothing of the chain is left to run or to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.outstanding == 0 && self.waits_for == 0 && (self.unfinished == 0 || self.error.is_some())
    }
}
