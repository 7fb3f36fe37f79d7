//! Operations to try: every kind, at lengths, alignments and source counts that its limits allow.

use super::arena::{Arena, PAGE};
use crate::backend::{Backend, Limits};
use crate::op::{Change, Lost, Op, OpKind, Product, Seed, XorMode};
use crate::{Chain, Region};

/// Lengths in bytes at which every kind is tried.
pub(super) const LENGTHS: [usize; 5] = [1, 7, 64, 4096, 65536 + 3];
/// The most sources in a case of the longest blocks.
const SOURCES_LONG: usize = 5;

/// An operation over the arena, alone in a chain that owns its lists.
pub(super) struct Case {
    chain: Chain,
    /// What it is, for messages.
    pub(super) name: String,
}

impl Case {
    /// A case of this operation.
    pub(super) fn new(op: Op<'_>) -> Result<Case, String> {
        let name = format!("{} of {} bytes, {} sources", op.kind().word(), op.len(), op.sources());
        let mut chain = Chain::new();
        chain.push(op, &[]).map_err(|error| format!("the suite built a bad operation ({name}): {error}"))?;
        Ok(Case { chain, name })
    }

    /// The operation.
    pub(super) fn op(&self) -> crate::CheckedOp<'_> {
        self.chain.op(0).unwrap_or(crate::CheckedOp(Op::Notify))
    }
}

/// Hands out regions of the arena that share no bytes, all at one distance from a page boundary.
pub(super) struct Places<'a> {
    arena: &'a Arena,
    len: usize,
    /// Bytes from a page boundary at which regions start.
    phase: usize,
    next: usize,
}

impl<'a> Places<'a> {
    /// Regions of `len` bytes that start `phase` bytes after page boundaries, from `start` on.
    pub(super) fn new(arena: &'a Arena, start: usize, len: usize, phase: usize) -> Self {
        Places { arena, len, phase, next: start }
    }

    /// Where the next one would lie, but for the phase.
    pub(super) fn end(&self) -> usize {
        self.next
    }

    fn stride(&self) -> usize {
        (self.phase + self.len + 1).next_multiple_of(PAGE)
    }

    /// The next one.
    pub(super) fn take(&mut self) -> Result<Region, String> {
        self.take_len(self.len)
    }

    /// The next one, of at most that many bytes.
    pub(super) fn take_len(&mut self, len: usize) -> Result<Region, String> {
        let region = self.arena.at(self.next + self.phase, len)?;
        self.next += self.stride();
        Ok(region)
    }
}

/// The lengths that a backend takes of a kind: the usual ones, and those at its limits.
pub(super) fn lengths(limits: &Limits) -> Vec<usize> {
    let align = limits.align.max(1);
    let longest = limits.len_max.min(65536 + 3) / align * align;
    let shortest = limits.len_min.max(1).next_multiple_of(align);
    let mut lengths: Vec<usize> = LENGTHS.iter().map(|len| len.next_multiple_of(align)).collect();
    lengths.extend([shortest, longest]);
    lengths.retain(|len| (shortest..=longest).contains(len));
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Everything about a case but its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) kind: OpKind,
    pub(super) len: usize,
    /// Bytes from a page boundary at which its blocks start.
    pub(super) phase: usize,
    sources: usize,
    /// Which of the forms of its kind.
    variant: usize,
    /// How many different source blocks it has, at most.
    blocks: usize,
}

/// Where the first case lies: what is written before it shows in the page that stays free.
pub(super) const START: usize = PAGE;

/// Every case of a kind at one length.
pub(super) fn shapes(arena: &mut Arena, kind: OpKind, limits: &Limits, len: usize) -> Vec<Shape> {
    let mut phases = vec![0];
    if limits.align > 1 {
        phases.extend((limits.align < PAGE).then_some(limits.align));
    } else if len > PAGE {
        phases.push(1 + arena.rng.below(62));
    } else {
        phases.extend([1, 1 + arena.rng.below(62), PAGE - 1]);
    }
    let mut shapes = Vec::new();
    for phase in phases {
        for sources in source_counts(kind, limits, len) {
            let shape = |variant| Shape { kind, len, phase, sources, variant, blocks: SOURCES_LONG + 2 };
            shapes.extend((0..variants(kind)).map(shape));
        }
    }
    shapes
}

/// Up to `count` cases that share no memory, of all forms of these kinds that the backend takes, none
/// shorter than `len` bytes.
pub(super) fn many(
    arena: &mut Arena,
    backend: &dyn Backend,
    kinds: &[OpKind],
    len: usize,
    count: usize,
) -> Result<Vec<Case>, String> {
    let mut all = Vec::new();
    for kind in kinds {
        let limits = backend.limits(*kind);
        let len = lengths(&limits).into_iter().find(|fits| *fits >= len);
        all.extend(len.map(|len| shapes(arena, *kind, &limits, len)).unwrap_or_default());
    }
    let mut found = Vec::new();
    let mut start = START;
    for i in 0..count {
        // Steps of a prime length go through the forms of all kinds.
        let Some(shape) = all.get(i * 131 % all.len().max(1)) else { break };
        let shape = Shape { sources: shape.sources.min(SOURCES_LONG), blocks: 2, ..*shape };
        let Ok((case, end)) = shape.build(arena, start) else { break };
        if backend.accepts(&case.op()) {
            start = end;
            found.push(case);
        }
    }
    Ok(found)
}

fn source_counts(kind: OpKind, limits: &Limits, len: usize) -> Vec<usize> {
    let takes_lists = matches!(
        kind,
        OpKind::Xor
            | OpKind::XorVal
            | OpKind::Pq
            | OpKind::PqVal
            | OpKind::PqUpdate
            | OpKind::Recover
            | OpKind::GfMulAdd
    );
    if !takes_lists {
        return vec![1];
    }
    // The definitions are slow: long blocks come with few sources, many sources with short blocks.
    let mut counts = if len > PAGE { vec![SOURCES_LONG] } else { vec![1, 2, SOURCES_LONG] };
    counts.extend((len == 64).then_some(crate::SOURCES_MAX));
    counts.iter_mut().for_each(|count| *count = (*count).min(limits.sources_max));
    counts.retain(|count| *count > 0);
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// How many forms of a kind there are: P or Q left out, what is lost, good and bad checks.
fn variants(kind: OpKind) -> usize {
    match kind {
        OpKind::Notify | OpKind::Copy | OpKind::Fill | OpKind::Dualcast | OpKind::GfMulAdd => 1,
        OpKind::Xor | OpKind::XorVal | OpKind::Compare => 2,
        OpKind::Crc32c | OpKind::CopyCrc32c => 2,
        OpKind::Pq | OpKind::PqUpdate => 3,
        OpKind::PqVal | OpKind::Recover => 6,
    }
}

impl Shape {
    /// Builds the operation with its memory, which begins at `start` of the arena: what checks look at is
    /// prepared to be good or bad. Also says where the memory ends.
    pub(super) fn build(self, arena: &mut Arena, start: usize) -> Result<(Case, usize), String> {
        let mut places = Places::new(arena, start, self.len, self.phase);
        let outputs = [places.take()?, places.take()?];
        let words = [places.take_len(4)?, places.take_len(4)?];
        let blocks = (0..self.blocks).map(|_| places.take()).collect::<Result<Vec<_>, _>>()?;
        let end = places.end();
        Ok((build(arena, self, outputs, words, &blocks)?, end))
    }
}

fn build(
    arena: &mut Arena,
    shape: Shape,
    [d, e]: [Region; 2],
    [crc, seed]: [Region; 2],
    blocks: &[Region],
) -> Result<Case, String> {
    let Shape { kind, sources, variant, .. } = shape;
    // Sources may be the same block.
    let source = |i: usize| blocks.get(i % blocks.len().max(1)).copied().unwrap_or(d);
    let byte = arena.rng.byte();
    let mut srcs: Vec<Region> = (0..sources).map(source).collect();
    let mut data: Vec<Option<Region>> = (0..sources).map(|i| (i % 4 != 3).then(|| source(i))).collect();
    let (p, q) = [(Some(d), Some(e)), (Some(d), None), (None, Some(e))][variant % 3];
    let seed = if variant == 0 { Seed::Value(arena.rng.next() as u32) } else { Seed::From(seed) };
    match kind {
        OpKind::Notify => Case::new(Op::Notify),
        OpKind::Copy => Case::new(Op::Copy { src: source(0), dst: d }),
        OpKind::Fill => Case::new(Op::Fill { dst: d, byte }),
        OpKind::Xor => {
            let mode = [XorMode::Overwrite, XorMode::Accumulate][variant % 2];
            Case::new(Op::Xor { srcs: &srcs, dst: d, mode })
        }
        OpKind::XorVal => {
            // The last source is the sum of the others, so that the sum of all is zero.
            let (last, others) = srcs.split_last_mut().ok_or("the suite has an xor of nothing")?;
            *last = d;
            if others.is_empty() {
                prepare(arena, Op::Fill { dst: d, byte: 0 })?;
            } else {
                prepare(arena, Op::Xor { srcs: others, dst: d, mode: XorMode::Overwrite })?;
            }
            if variant == 1 {
                arena.spoil(d);
            }
            Case::new(Op::XorVal { srcs: &srcs })
        }
        OpKind::Pq => Case::new(Op::Pq { data: &data, p, q }),
        OpKind::PqVal => {
            prepare(arena, Op::Pq { data: &data, p, q })?;
            if variant >= 3 {
                arena.spoil(q.or(p).unwrap_or(d));
            }
            Case::new(Op::PqVal { data: &data, p, q })
        }
        OpKind::PqUpdate => {
            let change = |i: usize| Change {
                exponent: (i * 7 % crate::SOURCES_MAX) as u8,
                old: (i % 3 != 1).then(|| source(i)),
                new: (i % 3 != 2).then(|| source(i + 1)),
            };
            let changes: Vec<Change> = (0..sources).map(change).collect();
            Case::new(Op::PqUpdate { changes: &changes, p, q })
        }
        OpKind::GfMulAdd => {
            let product = |i: usize| Product { coefficient: byte.wrapping_add(i as u8), src: source(i) };
            let products: Vec<Product> = (0..sources).map(product).collect();
            Case::new(Op::GfMulAdd { products: &products, dst: d })
        }
        OpKind::Compare => {
            arena.copy(source(0), d);
            if variant == 1 {
                arena.spoil(d);
            }
            Case::new(Op::Compare { a: source(0), b: d })
        }
        OpKind::Dualcast => Case::new(Op::Dualcast { src: source(0), dst: [d, e] }),
        OpKind::Crc32c => Case::new(Op::Crc32c { src: source(0), seed, crc }),
        OpKind::CopyCrc32c => Case::new(Op::CopyCrc32c { src: source(0), dst: d, seed, crc }),
        OpKind::Recover => recovery(&mut data, (d, e), (source(5), source(6)), variant),
    }
}

/// A recovery. Its parities are any bytes: there is always a block that makes them right.
fn recovery(
    data: &mut [Option<Region>],
    (d, e): (Region, Region),
    (p, q): (Region, Region),
    variant: usize,
) -> Result<Case, String> {
    let last = data.len() - 1;
    let mut lose = |exponents: &[usize]| {
        for (exponent, place) in exponents.iter().zip([d, e]) {
            data[*exponent] = Some(place);
        }
    };
    let (p, q, exponents, lost_p, lost_q) = match variant {
        0 => (Some(p), None, vec![0], false, false),
        1 => (None, Some(q), vec![last], false, false),
        2 => (Some(e), Some(q), vec![last], true, false),
        3 if last > 0 => (Some(p), Some(q), vec![0, last], false, false),
        4 => (Some(d), Some(e), vec![], true, true),
        _ => (Some(p), Some(e), vec![0], false, true),
    };
    lose(&exponents);
    let named: Vec<u8> = exponents.iter().map(|exponent| *exponent as u8).collect();
    let lost = Lost::new(&named, lost_p, lost_q).map_err(|error| error.to_string())?;
    Case::new(Op::Recover { data, p, q, lost })
}

fn prepare(arena: &mut Arena, op: Op<'_>) -> Result<(), String> {
    let case = Case::new(op)?;
    arena.prepare(&case.chain);
    Ok(())
}
