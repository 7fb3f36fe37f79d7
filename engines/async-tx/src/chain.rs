//! Chains: operations with dependencies, acyclic by construction.

use crate::backend::Caps;
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
    // Chains go from hand to hand; this keeps them small.
    body: Box<Body>,
}

#[derive(Clone, Default, Debug)]
struct Body {
    nodes: Vec<Node>,
    srcs: Vec<Region>,
    data: Vec<Option<Region>>,
    changes: Vec<Change>,
    products: Vec<Product>,
    deps: Vec<NodeId>,
    kinds: Caps,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    op: Packed,
    deps: Span,
    /// No other node was said to depend on it.
    leaf: bool,
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

    const NONE: Span = Span { start: 0, len: 0 };

    /// What lies from `start` to `end`.
    fn between(start: usize, end: usize) -> Result<Span, ChainError> {
        let len = u32::try_from(end.saturating_sub(start)).map_err(|_| ChainError::Full)?;
        Ok(Span { start: u32::try_from(start).map_err(|_| ChainError::Full)?, len })
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
        self.body.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.body.nodes.is_empty()
    }

    /// The kinds of the operations in it.
    pub fn kinds(&self) -> Caps {
        self.body.kinds
    }

    /// Removes all nodes and keeps the memory for the next ones.
    pub fn clear(&mut self) {
        let Body { nodes, srcs, data, changes, products, deps, kinds } = &mut *self.body;
        nodes.clear();
        srcs.clear();
        data.clear();
        changes.clear();
        products.clear();
        deps.clear();
        *kinds = Caps::NONE;
    }

    /// Adds an operation that starts after the nodes `deps` ended. Errors leave the chain as it was.
    pub fn push(&mut self, op: Op<'_>, deps: &[NodeId]) -> Result<NodeId, ChainError> {
        self.push_checked(op.check()?, deps)
    }

    /// Adds an operation that starts after the last one pushed ended.
    pub fn push_next(&mut self, op: Op<'_>) -> Result<NodeId, ChainError> {
        match self.len().checked_sub(1).and_then(|last| u32::try_from(last).ok()) {
            Some(last) => self.push(op, &[NodeId(last)]),
            None => self.push(op, &[]),
        }
    }

    /// Adds an operation that starts after all others: after every node that none was said to depend on.
    ///
    /// With [`Op::Notify`] it is the end of a chain whose length its maker does not know, as
    /// `async_trigger_callback` is; see also [`crate::Engine::trigger_callback`], which ends a sequence
    /// of chains.
    pub fn push_last(&mut self, op: Op<'_>) -> Result<NodeId, ChainError> {
        let op = op.check()?;
        let body = &mut *self.body;
        let start = body.deps.len();
        for (index, node) in body.nodes.iter_mut().enumerate() {
            if std::mem::take(&mut node.leaf) {
                body.deps.push(NodeId(u32::try_from(index).map_err(|_| ChainError::Full)?));
            }
        }
        let deps = Span::between(start, body.deps.len())?;
        self.push_node(op, deps)
    }

    /// Adds an operation that was checked before.
    pub(crate) fn push_checked(&mut self, op: CheckedOp<'_>, deps: &[NodeId]) -> Result<NodeId, ChainError> {
        if deps.is_empty() {
            return self.push_node(op, Span::NONE);
        }
        let body = &mut *self.body;
        let nodes = body.nodes.len();
        if let Some(unknown) = deps.iter().find(|dep| dep.index() >= nodes) {
            return Err(ChainError::UnknownDependency { index: unknown.index(), nodes });
        }
        let span = Span::push(&mut body.deps, deps)?;
        let id = self.push_node(op, span)?;
        for dep in deps {
            if let Some(node) = self.body.nodes.get_mut(dep.index()) {
                node.leaf = false;
            }
        }
        Ok(id)
    }

    fn push_node(&mut self, op: CheckedOp<'_>, deps: Span) -> Result<NodeId, ChainError> {
        let body = &mut *self.body;
        let id = NodeId(u32::try_from(body.nodes.len()).map_err(|_| ChainError::Full)?);
        let kind = op.kind();
        let op = body.pack(*op)?;
        body.nodes.push(Node { op, deps, leaf: true });
        body.kinds = body.kinds.with(kind);
        Ok(id)
    }

    /// The operation at `index`, if there is one. It was checked when it was pushed.
    pub fn op(&self, index: usize) -> Option<CheckedOp<'_>> {
        self.body.nodes.get(index).map(|node| self.body.unpack(node))
    }

    /// The nodes that the node at `index` was said to depend on.
    pub fn deps(&self, index: usize) -> &[NodeId] {
        self.body.nodes.get(index).map_or(&[], |node| node.deps.of(&self.body.deps))
    }

    /// All operations in the order of the pushes.
    pub fn ops(&self) -> impl Iterator<Item = CheckedOp<'_>> {
        self.body.nodes.iter().map(|node| self.body.unpack(node))
    }
}

impl Body {
    #[inline]
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

    #[inline]
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
