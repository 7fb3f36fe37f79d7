//! From the core's compute plan to a chain.
//!
//! Steps are pushed in order and no dependency is named: a chain gives the result of its order of pushes
//! and lets operations that touch no common memory overlap, which is just what a plan asks for.

use async_tx::{Chain, ChainError, Change, Lost, Op, OpError, Region};
use thiserror::Error;
use uraid_core::{LostBlocks, Mem, Step, Verdict};

use crate::memory::BadMem;

/// A plan that is no chain. The core broke its word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum LowerError {
    /// It names memory that does not exist.
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

/// Appends the steps of `plan` to `chain`; `region` says what a name stands for.
///
/// # Errors
/// [`LowerError`]; the chain is then of no use.
pub(crate) fn lower(
    plan: &[Step],
    chain: &mut Chain,
    region: impl Fn(Mem) -> Result<Region, BadMem>,
) -> Result<(), LowerError> {
    let mut blocks = Vec::new();
    for step in plan {
        lower_step(step, chain, &mut blocks, &region)?;
    }
    Ok(())
}

fn lower_step(
    step: &Step,
    chain: &mut Chain,
    blocks: &mut Vec<Option<Region>>,
    region: &impl Fn(Mem) -> Result<Region, BadMem>,
) -> Result<(), LowerError> {
    let maybe = |mem: &Option<Mem>| mem.map(region).transpose();
    let mut gather = |data: &[Option<Mem>]| -> Result<(), BadMem> {
        blocks.clear();
        data.iter().try_for_each(|mem| {
            blocks.push(maybe(mem)?);
            Ok(())
        })
    };
    match step {
        Step::Copy { src, dst } => {
            chain.push(Op::Copy { src: region(*src)?, dst: region(*dst)? }, &[])?;
        }
        Step::GenParity { data, p, q } => {
            gather(data)?;
            chain.push(Op::Pq { data: blocks, p: maybe(p)?, q: maybe(q)? }, &[])?;
        }
        Step::UpdateParity { old, new, exponent, p, q } => {
            let (old, new, p, q) = (region(*old)?, region(*new)?, maybe(p)?, maybe(q)?);
            // With both parities lost there is nothing to update, and the new data still go in.
            if p.is_some() || q.is_some() {
                let change = Change { exponent: *exponent, old: Some(old), new: Some(new) };
                chain.push(Op::PqUpdate { changes: &[change], p, q }, &[])?;
            }
            chain.push(Op::Copy { src: new, dst: old }, &[])?;
        }
        Step::CheckParity { data, p, q } => {
            gather(data)?;
            chain.push(Op::PqVal { data: blocks, p: maybe(p)?, q: maybe(q)? }, &[])?;
        }
        Step::Recover { data, p, q, lost } => {
            let LostBlocks { data: exponents, p: lost_p, q: lost_q } = lost;
            let lost = Lost::new(exponents, *lost_p, *lost_q)?;
            gather(data)?;
            chain.push(Op::Recover { data: blocks, p: maybe(p)?, q: maybe(q)?, lost }, &[])?;
        }
    }
    Ok(())
}

/// What the checks of a chain found, in the core's words.
pub(crate) fn verdict(found: async_tx::Verdict) -> Verdict {
    Verdict { p_bad: found.p_bad, q_bad: found.q_bad }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_tx::Engine;
    use engine_cpu::CpuBackend;
    use uraid_blockio::{Arena, ArenaOptions, IoBuf};
    use uraid_core::{Place, Role, SlotId};

    const LEN: u32 = 1024;

    /// Four data blocks, P, Q and one more, all in slot 0 as roles 0 to 6.
    struct Bench {
        memory: IoBuf,
        engine: Engine,
    }

    fn block(role: u16) -> Mem {
        Mem { place: Place::Slot(SlotId(0), Role(role)), offset: 0, len: LEN }
    }

    fn data() -> Vec<Option<Mem>> {
        (0..4).map(|role| Some(block(role))).collect()
    }

    impl Bench {
        fn new() -> Self {
            let arena = Arena::new(1 << 20, ArenaOptions::default()).unwrap();
            let memory = arena.view(0, 7 * LEN as usize).unwrap();
            let bytes: Vec<u8> = (0..memory.len()).map(|i| (i * i + i / 251) as u8).collect();
            memory.copy_in(0, &bytes).unwrap();
            Bench { memory, engine: Engine::new(Box::new(CpuBackend::auto())) }
        }

        fn bytes(&self, role: u16) -> Vec<u8> {
            self.memory.view(usize::from(role) * LEN as usize, LEN as usize).unwrap().to_vec()
        }

        fn region(&self, mem: Mem) -> Result<Region, BadMem> {
            let Place::Slot(_, Role(role)) = mem.place else { return Err(BadMem(mem)) };
            let at = usize::from(role) * LEN as usize + mem.offset as usize;
            let view = self.memory.view(at, mem.len as usize).map_err(|_| BadMem(mem))?;
            // SAFETY: the arena outlives the chain, which runs to its end in `run` on this thread.
            Ok(unsafe { Region::new(view.as_ptr(), view.len()) })
        }

        fn run(&mut self, plan: &[Step]) -> Result<Verdict, LowerError> {
            let mut chain = self.engine.chain();
            lower(plan, &mut chain, |mem| self.region(mem))?;
            Ok(verdict(self.engine.run(chain).unwrap()))
        }
    }

    fn check() -> Step {
        Step::CheckParity { data: data(), p: Some(block(4)), q: Some(block(5)) }
    }

    #[test]
    fn parity_is_made_checked_updated_and_used() {
        let mut bench = Bench::new();
        let make = Step::GenParity { data: data(), p: Some(block(4)), q: Some(block(5)) };
        assert_eq!(bench.run(&[make, check()]), Ok(Verdict::default()));
        let new = bench.bytes(6);
        let update = Step::UpdateParity {
            old: block(2),
            new: block(6),
            exponent: 2,
            p: Some(block(4)),
            q: Some(block(5)),
        };
        assert_eq!(bench.run(&[update, check()]), Ok(Verdict::default()));
        assert_eq!(bench.bytes(2), new);
        let before: Vec<_> = (0..6).map(|role| bench.bytes(role)).collect();
        bench.memory.view(LEN as usize, 2 * LEN as usize).unwrap().fill(0xee);
        assert_eq!(bench.run(&[check()]), Ok(Verdict { p_bad: true, q_bad: true }));
        let recover = Step::Recover {
            data: data(),
            p: Some(block(4)),
            q: Some(block(5)),
            lost: LostBlocks { data: vec![1, 2], p: false, q: false },
        };
        assert_eq!(bench.run(&[recover, check()]), Ok(Verdict::default()));
        assert_eq!((0..6).map(|role| bench.bytes(role)).collect::<Vec<_>>(), before);
    }

    #[test]
    fn an_update_without_parity_still_moves_the_data() {
        let mut bench = Bench::new();
        let update = Step::UpdateParity { old: block(0), new: block(6), exponent: 0, p: None, q: None };
        bench.run(&[update]).unwrap();
        assert_eq!(bench.bytes(0), bench.bytes(6));
    }

    #[test]
    fn impossible_plans_are_refused() {
        let mut bench = Bench::new();
        let nowhere = Step::Copy { src: block(0), dst: block(9) };
        assert_eq!(bench.run(&[nowhere]), Err(LowerError::Mem(BadMem(block(9)))));
        let into_itself = Step::Copy { src: block(0), dst: block(0) };
        assert!(matches!(bench.run(&[into_itself]), Err(LowerError::Chain(_))));
        let three = LostBlocks { data: vec![0, 1, 2], p: false, q: false };
        let too_many = Step::Recover { data: data(), p: Some(block(4)), q: Some(block(5)), lost: three };
        assert!(matches!(bench.run(&[too_many]), Err(LowerError::Chain(_))));
    }
}
