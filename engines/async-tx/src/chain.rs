//! Chains: operations with dependencies, acyclic by construction.

use crate::backend::Caps;
use crate::check::CheckedOp;
use crate::op::{Change, Lost, Op, OpKind, Product, Seed, XorMode};
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

/// An operation, flat: what it does not have is nowhere, nothing or zero. It is written and read field by
/// field where it lies, for moving it about costs more than all else that a push does.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// The source.
    a: Region,
    /// The destination, or P.
    b: Region,
    /// The second destination, Q, or where a CRC goes.
    c: Region,
    /// Where the seed of a CRC lies.
    seed: Region,
    list: Span,
    deps: Span,
    /// The seed of a CRC that does not lie anywhere.
    value: u32,
    lost: Lost,
    kind: OpKind,
    /// The byte of a fill; whether an xor accumulates.
    byte: u8,
    /// No other node was said to depend on it.
    leaf: bool,
}

impl Node {
    const EMPTY: Node = Node {
        a: Region::NOWHERE,
        b: Region::NOWHERE,
        c: Region::NOWHERE,
        seed: Region::NOWHERE,
        list: Span::NONE,
        deps: Span::NONE,
        value: 0,
        lost: Lost { data: [None, None], p: false, q: false },
        kind: OpKind::Notify,
        byte: 0,
        leaf: true,
    };

    #[inline]
    fn set_parities(&mut self, p: Option<Region>, q: Option<Region>) {
        (self.b, self.c) = (p.unwrap_or(Region::NOWHERE), q.unwrap_or(Region::NOWHERE));
    }

    #[inline]
    fn set_crc(&mut self, seed: Seed, crc: Region) {
        self.c = crc;
        match seed {
            Seed::Value(value) => self.value = value,
            Seed::From(region) => self.seed = region,
        }
    }

    #[inline]
    fn get_seed(&self) -> Seed {
        self.seed.somewhere().map_or(Seed::Value(self.value), Seed::From)
    }
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
        op.validate()?;
        self.push_valid(&op, deps)
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
        op.validate()?;
        let body = &mut *self.body;
        let start = body.deps.len();
        for (index, node) in body.nodes.iter_mut().enumerate() {
            if std::mem::take(&mut node.leaf) {
                body.deps.push(NodeId(u32::try_from(index).map_err(|_| ChainError::Full)?));
            }
        }
        let deps = Span::between(start, body.deps.len())?;
        self.body.push(&op, deps)
    }

    /// Adds an operation that was checked before.
    pub(crate) fn push_checked(&mut self, op: CheckedOp<'_>, deps: &[NodeId]) -> Result<NodeId, ChainError> {
        self.push_valid(&op, deps)
    }

    /// Adds a valid operation.
    #[inline]
    fn push_valid(&mut self, op: &Op<'_>, deps: &[NodeId]) -> Result<NodeId, ChainError> {
        let body = &mut *self.body;
        if deps.is_empty() {
            return body.push(op, Span::NONE);
        }
        let nodes = body.nodes.len();
        if let Some(unknown) = deps.iter().find(|dep| dep.index() >= nodes) {
            return Err(ChainError::UnknownDependency { index: unknown.index(), nodes });
        }
        let span = Span::push(&mut body.deps, deps)?;
        let id = body.push(op, span)?;
        for dep in deps {
            if let Some(node) = body.nodes.get_mut(dep.index()) {
                node.leaf = false;
            }
        }
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

    /// Calls `visit` for each operation in the order of the pushes, until it gives an error.
    #[inline(always)]
    pub(crate) fn try_each<E>(
        &self,
        mut visit: impl FnMut(usize, OpKind, &CheckedOp<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (index, node) in self.body.nodes.iter().enumerate() {
            visit(index, node.kind, &self.body.unpack(node))?;
        }
        Ok(())
    }

    /// All operations in the order of the pushes.
    pub fn ops(&self) -> impl Iterator<Item = CheckedOp<'_>> {
        self.body.nodes.iter().map(|node| self.body.unpack(node))
    }
}

impl Body {
    /// Adds a valid operation.
    #[inline]
    fn push(&mut self, op: &Op<'_>, deps: Span) -> Result<NodeId, ChainError> {
        let id = NodeId(u32::try_from(self.nodes.len()).map_err(|_| ChainError::Full)?);
        self.nodes.push(Node { kind: op.kind(), deps, ..Node::EMPTY });
        match self.fill_last(op) {
            Ok(()) => {
                self.kinds = self.kinds.with(op.kind());
                Ok(id)
            }
            Err(full) => {
                self.nodes.pop();
                Err(full)
            }
        }
    }

    /// Gives the last node its operands.
    #[inline]
    fn fill_last(&mut self, op: &Op<'_>) -> Result<(), ChainError> {
        let Body {
            nodes,
            srcs: src_arena,
            data: data_arena,
            changes: change_arena,
            products: product_arena,
            ..
        } = self;
        let Some(node) = nodes.last_mut() else { return Ok(()) };
        match *op {
            Op::Notify => {}
            Op::Copy { src, dst } => (node.a, node.b) = (src, dst),
            Op::Fill { dst, byte } => (node.b, node.byte) = (dst, byte),
            Op::Xor { srcs, dst, mode } => {
                (node.b, node.byte) = (dst, u8::from(mode == XorMode::Accumulate));
                node.list = Span::push(src_arena, srcs)?;
            }
            Op::XorVal { srcs } => node.list = Span::push(src_arena, srcs)?,
            Op::Pq { data, p, q } | Op::PqVal { data, p, q } => {
                node.set_parities(p, q);
                node.list = Span::push(data_arena, data)?;
            }
            Op::PqUpdate { changes, p, q } => {
                node.set_parities(p, q);
                node.list = Span::push(change_arena, changes)?;
            }
            Op::Recover { data, p, q, lost } => {
                node.set_parities(p, q);
                node.lost = lost;
                node.list = Span::push(data_arena, data)?;
            }
            Op::GfMulAdd { products, dst } => {
                node.b = dst;
                node.list = Span::push(product_arena, products)?;
            }
            Op::Compare { a, b } => (node.a, node.b) = (a, b),
            Op::Dualcast { src, dst: [d, e] } => (node.a, node.b, node.c) = (src, d, e),
            Op::Crc32c { src, seed, crc } => {
                node.a = src;
                node.set_crc(seed, crc);
            }
            Op::CopyCrc32c { src, dst, seed, crc } => {
                (node.a, node.b) = (src, dst);
                node.set_crc(seed, crc);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn unpack(&self, node: &Node) -> CheckedOp<'_> {
        // Regions of valid operations have bytes, so that those without are those that were not given.
        let (p, q) = (node.b.somewhere(), node.c.somewhere());
        CheckedOp(match node.kind {
            OpKind::Notify => Op::Notify,
            OpKind::Copy => Op::Copy { src: node.a, dst: node.b },
            OpKind::Fill => Op::Fill { dst: node.b, byte: node.byte },
            OpKind::Xor => {
                let mode = if node.byte == 0 { XorMode::Overwrite } else { XorMode::Accumulate };
                Op::Xor { srcs: node.list.of(&self.srcs), dst: node.b, mode }
            }
            OpKind::XorVal => Op::XorVal { srcs: node.list.of(&self.srcs) },
            OpKind::Pq => Op::Pq { data: node.list.of(&self.data), p, q },
            OpKind::PqVal => Op::PqVal { data: node.list.of(&self.data), p, q },
            OpKind::PqUpdate => Op::PqUpdate { changes: node.list.of(&self.changes), p, q },
            OpKind::Recover => Op::Recover { data: node.list.of(&self.data), p, q, lost: node.lost },
            OpKind::GfMulAdd => Op::GfMulAdd { products: node.list.of(&self.products), dst: node.b },
            OpKind::Compare => Op::Compare { a: node.a, b: node.b },
            OpKind::Dualcast => Op::Dualcast { src: node.a, dst: [node.b, node.c] },
            OpKind::Crc32c => Op::Crc32c { src: node.a, seed: node.get_seed(), crc: node.c },
            OpKind::CopyCrc32c => {
                Op::CopyCrc32c { src: node.a, dst: node.b, seed: node.get_seed(), crc: node.c }
            }
        })
    }
}
