//! Compares what a backend computed with what the CPU computes.

use crate::Region;
use crate::backend::Inline;
use crate::check::CheckedOp;
use crate::op::{Lost, Op, SOURCES_MAX, Seed, Verdict, XorMode};

/// The most sources that fit a check together with the destination.
const LIST_MAX: usize = SOURCES_MAX;

/// Whether the result can be told from the operands as they are afterwards: not if it works in place, for
/// then the old bytes are gone, nor if a check of it would have too many sources.
pub(crate) fn is_checkable(op: &Op<'_>) -> bool {
    match op {
        Op::Notify => false,
        Op::Xor { srcs, mode: XorMode::Overwrite, .. } => srcs.len() < LIST_MAX,
        _ => !op.is_in_place(),
    }
}

/// Whether the CPU agrees with the destinations of `op`, which has ended with `verdict` and of which
/// nothing is under way any more.
pub(crate) fn agrees(cpu: &mut dyn Inline, op: &CheckedOp<'_>, verdict: Verdict) -> bool {
    let clean = |cpu: &mut dyn Inline, check: Op<'_>| found(cpu, check) == Some(Verdict::default());
    match **op {
        Op::Copy { src, dst } => clean(cpu, Op::Compare { a: src, b: dst }),
        Op::Dualcast { src, dst: [d, e] } => {
            clean(cpu, Op::Compare { a: src, b: d }) && clean(cpu, Op::Compare { a: src, b: e })
        }
        Op::Fill { dst, byte } => is_filled(dst, byte),
        Op::Xor { srcs, dst, mode: XorMode::Overwrite } => {
            let mut all = [dst; LIST_MAX];
            match all.get_mut(1..=srcs.len()) {
                Some(room) => room.copy_from_slice(srcs),
                None => return true,
            }
            clean(cpu, Op::XorVal { srcs: all.get(..=srcs.len()).unwrap_or(&[]) })
        }
        Op::Pq { data, p, q } => clean(cpu, Op::PqVal { data, p, q }),
        Op::Recover { data, p, q, lost } => {
            let (p_counts, q_counts) = recovered_by(p, lost);
            let (p, q) = (p.filter(|_| p_counts), q.filter(|_| q_counts));
            clean(cpu, Op::PqVal { data, p, q })
        }
        Op::Crc32c { src, seed, crc } => is_crc(cpu, src, seed, crc),
        Op::CopyCrc32c { src, dst, seed, crc } => {
            clean(cpu, Op::Compare { a: src, b: dst }) && is_crc(cpu, src, seed, crc)
        }
        Op::XorVal { .. } | Op::PqVal { .. } | Op::Compare { .. } => found(cpu, **op) == Some(verdict),
        Op::Notify
        | Op::Xor { mode: XorMode::Accumulate, .. }
        | Op::PqUpdate { .. }
        | Op::GfMulAdd { .. } => true,
    }
}

/// What a check finds on the CPU; `None` if it cannot run it.
fn found(cpu: &mut dyn Inline, check: Op<'_>) -> Option<Verdict> {
    cpu.execute(&check.check().ok()?).ok()
}

/// Whether P and Q have to fit the data after a recovery: those that it recovered or used. One data block
/// is recovered from P if that is good, whatever Q says.
fn recovered_by(p: Option<Region>, lost: Lost) -> (bool, bool) {
    let data = lost.exponents().count();
    let p_good = p.is_some() && !lost.p;
    (lost.p || data > 0, lost.q || data == 2 || (data == 1 && !p_good))
}

fn is_filled(dst: Region, byte: u8) -> bool {
    // SAFETY: the operation has ended and its chain has not: its destination is readable, and nothing
    // that writes it has started.
    let bytes = unsafe { dst.bytes() };
    bytes.iter().fold(0, |differs, found| differs | (found ^ byte)) == 0
}

fn is_crc(cpu: &mut dyn Inline, src: Region, seed: Seed, crc: Region) -> bool {
    let mut word = [0u8; 4];
    // SAFETY: the word outlives the operation, which the CPU runs at once, and nobody else knows it.
    let own = unsafe { Region::new(word.as_mut_ptr(), word.len()) };
    found(cpu, Op::Crc32c { src, seed, crc: own }).is_some()
        && found(cpu, Op::Compare { a: own, b: crc }) == Some(Verdict::default())
}
