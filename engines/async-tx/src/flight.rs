//! A chain under way on more than one backend: which of its nodes wait for what.

use crate::op::Verdict;
use crate::route::Cut;
use crate::{Chain, EngineError};

/// Where a node stands.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    /// Nodes that must end before this one starts.
    waits_for: u32,
    /// The backend that it began on, and how it is cut.
    pub(crate) route: Option<(usize, Cut)>,
    /// The step that comes next.
    pub(crate) step: usize,
}

/// A submitted chain that did not run inline.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) serial: u64,
    pub(crate) tag: u64,
    pub(crate) chain: Chain,
    pub(crate) runs: Vec<Run>,
    /// (before, after) pairs of nodes, sorted.
    edges: Vec<(u32, u32)>,
    /// Nodes that have not ended.
    unfinished: usize,
    /// Nodes in the hands of a backend.
    pub(crate) outstanding: usize,
    pub(crate) verdict: Verdict,
    pub(crate) error: Option<EngineError>,
}

impl Flight {
    /// Works out the edges: the dependencies, and every pair of nodes whose order matters to the bytes.
    pub(crate) fn new(serial: u64, tag: u64, chain: Chain) -> Self {
        let mut runs = vec![Run::default(); chain.len()];
        let mut edges = Vec::new();
        for (before, earlier) in chain.ops().enumerate() {
            for (after, later) in chain.ops().enumerate().skip(before + 1) {
                let depends = chain.deps(after).iter().any(|dep| dep.index() == before);
                if depends || earlier.conflicts_with(&later) {
                    // A chain has at most 2^32 nodes.
                    edges.push((before as u32, after as u32));
                    runs[after].waits_for += 1;
                }
            }
        }
        let unfinished = chain.len();
        let (verdict, error) = (Verdict::default(), None);
        Flight { serial, tag, chain, runs, edges, unfinished, outstanding: 0, verdict, error }
    }

    /// The nodes that wait for nothing.
    pub(crate) fn roots(&self) -> impl Iterator<Item = usize> {
        self.runs.iter().enumerate().filter(|(_, run)| run.waits_for == 0).map(|(node, _)| node)
    }

    /// Marks a node as ended, and calls `release` for every node that waited for it last.
    pub(crate) fn end(&mut self, node: usize, verdict: Verdict, mut release: impl FnMut(usize)) {
        self.verdict = self.verdict.or(verdict);
        self.unfinished = self.unfinished.saturating_sub(1);
        let first = self.edges.partition_point(|(before, _)| (*before as usize) < node);
        for (before, after) in self.edges.iter().skip(first) {
            if *before as usize != node {
                break;
            }
            let after = *after as usize;
            if let Some(run) = self.runs.get_mut(after) {
                run.waits_for -= 1;
                if run.waits_for == 0 {
                    release(after);
                }
            }
        }
    }

    /// Whether nothing of the chain is left to run or to wait for.
    pub(crate) fn is_over(&self) -> bool {
        self.outstanding == 0 && (self.unfinished == 0 || self.error.is_some())
    }
}
