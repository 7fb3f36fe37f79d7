//! From the core's compute plan to a chain.
//!
//! Steps are pushed in order and no dependency is named: a chain gives the result of its order of pushes
//! and lets operations that touch no common memory overlap, which is just what a plan asks for.
//!
//! Two things are said in another way than the plan says them, with the same result:
//! - **Zeroes.** Where the source is the strip of zeroes the bytes are filled, not copied: it spares
//!   reading, and a device that fills needs no source. To parity a block of zeroes is no block at all, and
//!   the parity of nothing but zeroes is zeroes.
//! - **Updates of the same parity.** Steps that follow each other and change the same bytes of P and Q
//!   through different data become one operation, which passes over P and Q once. The steps' data moves
//!   come after it; see [`Lowering::joins`] for when that is the same.

use async_tx::{Chain, ChainError, Change, Lost, Op, OpError, Region, SOURCES_MAX};
use thiserror::Error;
use uraid_core::{LostBlocks, Mem, Place, Step, Verdict};

use crate::memory::BadMem;

/// A plan that is no chain. The core broke its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LowerError {
    /// It names memory that does not exist, or the zeroes as a destination.
    #[error(transparent)]
    Mem(#[from] BadMem),
    /// It asks for an operation that makes no sense.
    #[error("the array core planned an impossible operation: {0}")]
    Chain(#[from] ChainError),
}

impl From<OpError> for LowerError {
    fn from(err: OpError) -> Self {
        LowerError::Chain(err.into())
    }
}

/// What a name stands for.
trait Regions: Fn(Mem) -> Result<Region, BadMem> {}

impl<F: Fn(Mem) -> Result<Region, BadMem>> Regions for F {}

/// A step's data move: `dst := src`, or zeroes without a source.
#[derive(Clone, Copy, Debug)]
struct Move {
    src: Option<Region>,
    dst: Region,
}

/// Turns plans into chains. It is kept from plan to plan for its lists, so that a plan costs no allocation
/// once they are long enough.
#[derive(Default, Debug)]
pub(crate) struct Lowering {
    blocks: Vec<Option<Region>>,
    /// The update that is being gathered: of these parities, through these changes; and its data moves.
    parity: (Option<Region>, Option<Region>),
    changes: Vec<Change>,
    moves: Vec<Move>,
}

impl Lowering {
    /// Appends the steps of `plan` to `chain`; `region` says what a name stands for.
    ///
    /// # Errors
    /// [`LowerError`]; the chain is then of no use.
    pub(crate) fn lower(
        &mut self,
        plan: &[Step],
        chain: &mut Chain,
        region: impl Fn(Mem) -> Result<Region, BadMem>,
    ) -> Result<(), LowerError> {
        self.changes.clear();
        self.moves.clear();
        for step in plan {
            self.step(step, chain, &region)?;
        }
        self.flush(chain)
    }

    fn step(&mut self, step: &Step, chain: &mut Chain, region: &impl Regions) -> Result<(), LowerError> {
        if let Step::UpdateParity { old, new, exponent, p, q } = step {
            return self.update(*old, *new, *exponent, (*p, *q), chain, region);
        }
        self.flush(chain)?;
        let maybe = |mem: &Option<Mem>| mem.map(region).transpose();
        let maybe_target = |mem: &Option<Mem>| mem.map(|mem| target(mem, region)).transpose();
        match step {
            Step::Copy { src, dst } => {
                let (src, dst) = (source(*src, region)?, target(*dst, region)?);
                push_move(Move { src: src.bytes, dst }, src.len, chain)?;
            }
            Step::GenParity { data, p, q } => {
                let (p, q) = (maybe_target(p)?, maybe_target(q)?);
                self.gather(data, |_| false, region)?;
                if self.blocks.iter().any(Option::is_some) || (p.is_none() && q.is_none()) {
                    chain.push(Op::Pq { data: &self.blocks, p, q }, &[])?;
                } else {
                    for dst in p.into_iter().chain(q) {
                        chain.push(Op::Fill { dst, byte: 0 }, &[])?;
                    }
                }
            }
            Step::CheckParity { data, p, q } => {
                let (p, q) = (maybe(p)?, maybe(q)?);
                self.gather(data, |_| false, region)?;
                chain.push(Op::PqVal { data: &self.blocks, p, q }, &[])?;
            }
            Step::Recover { data, p, q, lost } => {
                let LostBlocks { data: exponents, p: lost_p, q: lost_q } = lost;
                let lost = Lost::new(exponents, *lost_p, *lost_q)?;
                let p = if *lost_p { maybe_target(p)? } else { maybe(p)? };
                let q = if *lost_q { maybe_target(q)? } else { maybe(q)? };
                self.gather(data, |exponent| lost.has(exponent), region)?;
                chain.push(Op::Recover { data: &self.blocks, p, q, lost }, &[])?;
            }
            Step::UpdateParity { .. } => {}
        }
        Ok(())
    }

    /// The blocks of a parity operation; those that are written are told by `is_target`.
    fn gather(
        &mut self,
        data: &[Option<Mem>],
        is_target: impl Fn(usize) -> bool,
        region: &impl Regions,
    ) -> Result<(), BadMem> {
        self.blocks.clear();
        data.iter().enumerate().try_for_each(|(exponent, mem)| {
            let block = match mem {
                Some(mem) if is_target(exponent) => Some(target(*mem, region)?),
                Some(mem) => source(*mem, region)?.bytes,
                None => None,
            };
            self.blocks.push(block);
            Ok(())
        })
    }

    fn update(
        &mut self,
        old: Mem,
        new: Mem,
        exponent: u8,
        (p, q): (Option<Mem>, Option<Mem>),
        chain: &mut Chain,
        region: &impl Regions,
    ) -> Result<(), LowerError> {
        let parity = |mem: Option<Mem>| mem.map(|mem| target(mem, region)).transpose();
        let parity = (parity(p)?, parity(q)?);
        let (old, new) = (target(old, region)?, source(new, region)?);
        if old.len() != new.len {
            return Err(OpError::Length { expected: old.len(), found: new.len }.into());
        }
        let step = Move { src: new.bytes, dst: old };
        if !self.joins(parity, step) {
            self.flush(chain)?;
            self.parity = parity;
        }
        self.changes.push(Change { exponent, old: Some(old), new: step.src });
        self.moves.push(step);
        Ok(())
    }

    /// Whether the next update may become part of the one that is being gathered. It is of the same
    /// parities, and reads nothing that the moves of the steps before it write, for those now come after
    /// it. (The other direction needs no look: moves stay in order among themselves, and no operation may
    /// write what it reads, so the parities are apart from everything else.)
    fn joins(&self, parity: (Option<Region>, Option<Region>), step: Move) -> bool {
        let reads_moved = |earlier: &Move| {
            earlier.dst.overlaps(step.dst) || step.src.is_some_and(|src| earlier.dst.overlaps(src))
        };
        self.parity == parity && self.changes.len() < SOURCES_MAX && !self.moves.iter().any(reads_moved)
    }

    /// Pushes the update that was gathered, if there is one, and its data moves.
    fn flush(&mut self, chain: &mut Chain) -> Result<(), LowerError> {
        let (p, q) = self.parity;
        // With both parities lost there is nothing to update, and the new data still go in.
        if !self.changes.is_empty() && (p.is_some() || q.is_some()) {
            chain.push(Op::PqUpdate { changes: &self.changes, p, q }, &[])?;
        }
        self.changes.clear();
        for step in self.moves.drain(..) {
            push_move(step, step.dst.len(), chain)?;
        }
        Ok(())
    }
}

/// Bytes to read: `None` stands for zeroes.
struct Source {
    bytes: Option<Region>,
    len: usize,
}

fn source(mem: Mem, region: &impl Regions) -> Result<Source, BadMem> {
    let bytes = region(mem)?;
    Ok(Source { bytes: (mem.place != Place::Zero).then_some(bytes), len: bytes.len() })
}

/// Bytes to write. The zeroes are nobody's to write, whatever a plan says: everyone reads them.
fn target(mem: Mem, region: &impl Regions) -> Result<Region, BadMem> {
    if mem.place == Place::Zero { Err(BadMem(mem)) } else { region(mem) }
}

fn push_move(Move { src, dst }: Move, len: usize, chain: &mut Chain) -> Result<(), LowerError> {
    if len != dst.len() {
        return Err(OpError::Length { expected: dst.len(), found: len }.into());
    }
    let op = match src {
        Some(src) => Op::Copy { src, dst },
        None => Op::Fill { dst, byte: 0 },
    };
    chain.push(op, &[])?;
    Ok(())
}

/// What the checks of a chain found, in the core's words.
pub(crate) fn verdict(found: async_tx::Verdict) -> Verdict {
    Verdict { p_bad: found.p_bad, q_bad: found.q_bad }
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
