//! Which nodes of a chain have to run one after the other: those that depend on one another, and those
//! that touch common bytes of which one writes.

use crate::Chain;
use crate::op::Access;

/// One access of one node.
#[derive(Clone, Copy, Debug)]
struct Touch {
    start: usize,
    end: usize,
    node: u32,
    write: bool,
}

/// Finds the pairs by going through the accesses in the order of their addresses: each is compared only
/// with those that reach as far as its first byte, and a read only with writes. Its memory is used again.
#[derive(Default, Debug)]
pub(crate) struct Sweep {
    touches: Vec<Touch>,
    reads: Vec<Touch>,
    writes: Vec<Touch>,
    pairs: Vec<(u32, u32)>,
}

impl Sweep {
    /// The (before, after) pairs of nodes, sorted, each once.
    pub(crate) fn edges_of(&mut self, chain: &Chain) -> &[(u32, u32)] {
        let Sweep { touches, reads, writes, pairs } = self;
        touches.clear();
        reads.clear();
        writes.clear();
        pairs.clear();
        for (node, op) in chain.ops().enumerate() {
            // A chain has at most 2^32 nodes.
            let node = node as u32;
            op.each_region(|region, access| {
                let start = region.as_ptr() as usize;
                let end = start.saturating_add(region.len());
                touches.push(Touch { start, end, node, write: access == Access::Write });
                true
            });
            pairs.extend(chain.deps(node as usize).iter().map(|dep| (dep.index() as u32, node)));
        }
        touches.sort_unstable_by_key(|touch| touch.start);
        for touch in touches.iter() {
            meet(writes, touch, pairs);
            if touch.write {
                meet(reads, touch, pairs);
                writes.push(*touch);
            } else {
                reads.push(*touch);
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

/// Pairs `touch` with all of `active` that it shares a byte with, and forgets those that end before it.
fn meet(active: &mut Vec<Touch>, touch: &Touch, pairs: &mut Vec<(u32, u32)>) {
    let mut at = 0;
    while let Some(other) = active.get(at) {
        if other.end <= touch.start {
            active.swap_remove(at);
            continue;
        }
        if other.node != touch.node {
            pairs.push((other.node.min(touch.node), other.node.max(touch.node)));
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Region, XorMode};

    fn pairwise(chain: &Chain) -> Vec<(u32, u32)> {
        let mut pairs = Vec::new();
        for (before, earlier) in chain.ops().enumerate() {
            for (after, later) in chain.ops().enumerate().skip(before + 1) {
                let depends = chain.deps(after).iter().any(|dep| dep.index() == before);
                if depends || earlier.conflicts_with(&later) {
                    pairs.push((before as u32, after as u32));
                }
            }
        }
        pairs
    }

    fn below(seed: &mut u64, end: usize) -> usize {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % end
    }

    #[test]
    fn the_sweep_finds_the_pairs_of_the_definition() {
        let mut memory = vec![0u8; 400];
        let base = memory.as_mut_ptr();
        let mut sweep = Sweep::default();
        let mut seed = 0xed6e;
        let mut edges = 0;
        for case in 0..3000 {
            let mut chain = Chain::new();
            let mut nodes = Vec::new();
            for _ in 0..1 + below(&mut seed, 12) {
                let len = 1 + below(&mut seed, 30);
                let mut region = || {
                    let offset = below(&mut seed, 370);
                    // SAFETY: inside `memory`, which no operation of this test touches.
                    unsafe { Region::new(base.add(offset), len) }
                };
                let (dst, srcs) = (region(), [region(), region(), region()]);
                let deps: Vec<_> = nodes.iter().copied().filter(|_| below(&mut seed, 5) == 0).collect();
                let op = match below(&mut seed, 4) {
                    0 => Op::XorVal { srcs: &srcs },
                    1 => Op::Fill { dst, byte: 0 },
                    2 => Op::Notify,
                    _ => Op::Xor { srcs: &srcs, dst, mode: XorMode::Overwrite },
                };
                // Random operands may overlap a destination, which a chain refuses.
                nodes.extend(chain.push(op, &deps));
            }
            let expected = pairwise(&chain);
            assert_eq!(sweep.edges_of(&chain), expected, "case {case}, seed 0xed6e: {chain:?}");
            edges += expected.len();
        }
        assert!(edges > 10_000, "only {edges} edges");
    }
}
