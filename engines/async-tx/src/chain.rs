//! Chains: operations with dependencies, acyclic by construction.

use crate::check::CheckedOp;
use crate::op::{Change, Lost, Op, Product, Seed, XorMode};
use crate::{ChainError, Region};

/// A node of the chain that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(u32);

impl NodeId {
    /// The position in the chain, from zero in the order of the pushes.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A DAG of operations. A node can depend only on nodes pushed before it, so the order of the pushes is
/// an order in which everything can run, and the result of a chain is **always that of this order**:
/// nodes that touch common bytes are ordered by the engine even without a dependency. Dependencies are
/// for what memory does not show, such as a [notification](Op::Notify) after others.
///
/// Operands lie in arenas that keep their memory over [`Chain::clear`]: a chain that is reused allocates
/// nothing.
#[derive(Clone, Default, Debug)]
pub struct Chain {
    nodes: Vec<Node>,
    srcs: Vec<Region>,
    data: Vec<Option<Region>>,
    changes: Vec<Change>,
    products: Vec<Product>,
    deps: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    op: Packed,
    deps: Span,
}

/// A range of an arena.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Appends `items` to the arena.
    fn push<T: Copy>(arena: &mut Vec<T>, items: &[T]) -> Result<Span, ChainError> {
        let start = u32::try_from(arena.len()).map_err(|_| ChainError::Full)?;
        let len = u32::try_from(items.len()).map_err(|_| ChainError::Full)?;
        arena.extend_from_slice(items);
        Ok(Span { start, len })
    }

    fn of<T>(self, arena: &[T]) -> &[T] {
        let start = self.start as usize;
        arena.get(start..start + self.len as usize).unwrap_or(&[])
    }
}

/// [`Op`] with its lists in the chain's arenas.
#[derive(Clone, Copy, Debug)]
enum Packed {
    Notify,
    Copy { src: Region, dst: Region },
    Fill { dst: Region, byte: u8 },
    Xor { srcs: Span, dst: Region, mode: XorMode },
    XorVal { srcs: Span },
    Pq { data: Span, p: Option<Region>, q: Option<Region> },
    PqVal { data: Span, p: Option<Region>, q: Option<Region> },
    PqUpdate { changes: Span, p: Option<Region>, q: Option<Region> },
    Recover { data: Span, p: Option<Region>, q: Option<Region>, lost: Lost },
    GfMulAdd { products: Span, dst: Region },
    Compare { a: Region, b: Region },
    Dualcast { src: Region, dst: [Region; 2] },
    Crc32c { src: Region, seed: Seed, crc: Region },
    CopyCrc32c { src: Region, dst: Region, seed: Seed, crc: Region },
}

impl Chain {
    /// An empty chain. Where there is an engine, [`crate::Engine::chain`] gives one with room in it.
    pub fn new() -> Self {
        Chain::default()
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Removes all nodes and keeps the memory.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.srcs.clear();
        self.data.clear();
        self.changes.clear();
        self.products.clear();
        self.deps.clear();
    }

    /// Adds an operation that starts after all of `deps` ended. Its lists are copied.
    ///
    /// Errors: an invalid operation, or a dependency that is not a node of this chain; the chain is then
    /// as it was.
    pub fn push(&mut self, op: Op<'_>, deps: &[NodeId]) -> Result<NodeId, ChainError> {
        let op = op.check()?;
        if let Some(unknown) = deps.iter().find(|dep| dep.index() >= self.nodes.len()) {
            return Err(ChainError::UnknownDependency { index: unknown.index(), nodes: self.nodes.len() });
        }
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| ChainError::Full)?);
        let deps = Span::push(&mut self.deps, deps)?;
        let op = self.pack(*op)?;
        self.nodes.push(Node { op, deps });
        Ok(id)
    }

    /// Adds an operation that starts after the last one pushed ended.
    pub fn push_next(&mut self, op: Op<'_>) -> Result<NodeId, ChainError> {
        match self.nodes.len().checked_sub(1).and_then(|last| u32::try_from(last).ok()) {
            Some(last) => self.push(op, &[NodeId(last)]),
            None => self.push(op, &[]),
        }
    }

    fn pack(&mut self, op: Op<'_>) -> Result<Packed, ChainError> {
        Ok(match op {
            Op::Notify => Packed::Notify,
            Op::Copy { src, dst } => Packed::Copy { src, dst },
            Op::Fill { dst, byte } => Packed::Fill { dst, byte },
            Op::Xor { srcs, dst, mode } => Packed::Xor { srcs: Span::push(&mut self.srcs, srcs)?, dst, mode },
            Op::XorVal { srcs } => Packed::XorVal { srcs: Span::push(&mut self.srcs, srcs)? },
            Op::Pq { data, p, q } => Packed::Pq { data: Span::push(&mut self.data, data)?, p, q },
            Op::PqVal { data, p, q } => Packed::PqVal { data: Span::push(&mut self.data, data)?, p, q },
            Op::PqUpdate { changes, p, q } => {
                Packed::PqUpdate { changes: Span::push(&mut self.changes, changes)?, p, q }
            }
            Op::Recover { data, p, q, lost } => {
                Packed::Recover { data: Span::push(&mut self.data, data)?, p, q, lost }
            }
            Op::GfMulAdd { products, dst } => {
                Packed::GfMulAdd { products: Span::push(&mut self.products, products)?, dst }
            }
            Op::Compare { a, b } => Packed::Compare { a, b },
            Op::Dualcast { src, dst } => Packed::Dualcast { src, dst },
            Op::Crc32c { src, seed, crc } => Packed::Crc32c { src, seed, crc },
            Op::CopyCrc32c { src, dst, seed, crc } => Packed::CopyCrc32c { src, dst, seed, crc },
        })
    }

    /// The operation at `index`, if there is one. It was checked when it was pushed.
    pub fn op(&self, index: usize) -> Option<CheckedOp<'_>> {
        self.nodes.get(index).map(|node| self.unpack(node))
    }

    /// The nodes that the node at `index` was said to depend on.
    pub fn deps(&self, index: usize) -> &[NodeId] {
        self.nodes.get(index).map_or(&[], |node| node.deps.of(&self.deps))
    }

    /// All operations in the order of the pushes.
    pub fn ops(&self) -> impl Iterator<Item = CheckedOp<'_>> {
        self.nodes.iter().map(|node| self.unpack(node))
    }

    fn unpack(&self, node: &Node) -> CheckedOp<'_> {
        CheckedOp(match node.op {
            Packed::Notify => Op::Notify,
            Packed::Copy { src, dst } => Op::Copy { src, dst },
            Packed::Fill { dst, byte } => Op::Fill { dst, byte },
            Packed::Xor { srcs, dst, mode } => Op::Xor { srcs: srcs.of(&self.srcs), dst, mode },
            Packed::XorVal { srcs } => Op::XorVal { srcs: srcs.of(&self.srcs) },
            Packed::Pq { data, p, q } => Op::Pq { data: data.of(&self.data), p, q },
            Packed::PqVal { data, p, q } => Op::PqVal { data: data.of(&self.data), p, q },
            Packed::PqUpdate { changes, p, q } => Op::PqUpdate { changes: changes.of(&self.changes), p, q },
            Packed::Recover { data, p, q, lost } => Op::Recover { data: data.of(&self.data), p, q, lost },
            Packed::GfMulAdd { products, dst } => Op::GfMulAdd { products: products.of(&self.products), dst },
            Packed::Compare { a, b } => Op::Compare { a, b },
            Packed::Dualcast { src, dst } => Op::Dualcast { src, dst },
            Packed::Crc32c { src, seed, crc } => Op::Crc32c { src, seed, crc },
            Packed::CopyCrc32c { src, dst, seed, crc } => Op::CopyCrc32c { src, dst, seed, crc },
        })
    }
}
