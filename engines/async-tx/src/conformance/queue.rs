//! The points of queues: that they fill and empty, and keep the order that fences ask for.

use std::time::Instant;

use super::arena::{ARENA_BYTES, PAGE};
use super::basic::kinds;
use super::bench::{Bench, CALL_MAX};
use super::cases::{Case, lengths};
use super::{Tried, Trouble};
use crate::op::{Op, OpKind};
use crate::{Fault, Region};

/// Operations after which a queue counts as one that is never full.
const MANY: usize = 4096;

/// Copies and fills are what these points are tried with.
fn copy_or_fill(bench: &mut Bench<'_>) -> Result<Option<OpKind>, String> {
    let backend = bench.backend()?;
    let kinds = kinds(backend);
    Ok([OpKind::Copy, OpKind::Fill].into_iter().find(|kind| kinds.contains(kind)))
}

/// Copies of one source, or fills, each with a destination of its own, as many as there is memory for.
fn small(bench: &mut Bench<'_>, kind: OpKind) -> Result<Vec<Case>, String> {
    let limits = bench.backend()?.limits(kind);
    let len = lengths(&limits).into_iter().find(|len| *len >= 64).unwrap_or(limits.len_max);
    let stride = (len + 1).next_multiple_of(limits.align.max(64));
    let src = bench.arena.at(0, len)?;
    let mut cases = Vec::new();
    for i in 1..=MANY.min(ARENA_BYTES / stride - 1) {
        let dst = bench.arena.at(i * stride, len)?;
        let byte = bench.arena.rng.byte();
        let op = if kind == OpKind::Copy { Op::Copy { src, dst } } else { Op::Fill { dst, byte } };
        cases.push(Case::new(op)?);
    }
    Ok(cases)
}

pub(super) fn queue_full(bench: &mut Bench<'_>) -> Tried {
    let Some(kind) = copy_or_fill(bench)? else { return Ok(Some("it takes neither copies nor fills")) };
    let fresh = bench.backend()?.room();
    for round in 0..3 {
        bench.arena.scramble();
        let cases = small(bench, kind)?;
        // A queue is full sooner where nothing leaves it.
        let stalled = bench.subject.inject(Trouble::Stall);
        let mut rest = &cases[..];
        let mut full = false;
        while !rest.is_empty() && !full {
            let call = rest.get(..37).unwrap_or(rest);
            let taken = bench.submit(call, false)?;
            full = taken < call.len();
            rest = rest.get(taken..).unwrap_or(&[]);
        }
        if stalled {
            bench.subject.inject(Trouble::Heal);
        }
        let say = |what: String| format!("in round {round}: {what}");
        bench.finish_well().map_err(say)?;
        // Room comes back, and what was refused is taken.
        let began = Instant::now();
        while bench.subject.room_is_exact() && bench.backend()?.room() < fresh {
            bench.turn()?;
            bench.still_patient(began, "all room to come back, with nothing in hand")?;
        }
        bench.run(rest.get(..CALL_MAX).unwrap_or(rest)).map_err(say)?;
        bench.arena.check_all().map_err(say)?;
    }
    Ok(None)
}

/// A copy from each of these blocks to the next.
fn relay(blocks: &[Region]) -> Result<Vec<Case>, String> {
    blocks
        .windows(2)
        .filter_map(|pair| match pair {
            [src, dst] => Some(Case::new(Op::Copy { src: *src, dst: *dst })),
            _ => None,
        })
        .collect()
}

/// `count` blocks that share no memory, of the shortest length from `len` that a copy can have.
fn blocks(bench: &mut Bench<'_>, len: usize, count: usize) -> Result<Vec<Region>, String> {
    let limits = bench.backend()?.limits(OpKind::Copy);
    let len = lengths(&limits).into_iter().find(|fits| *fits >= len).unwrap_or(limits.len_max);
    let stride = (len + 1).next_multiple_of(PAGE);
    (1..=count).map(|i| bench.arena.at(i * stride, len)).collect()
}

const NO_FENCED_COPIES: &str = "it does not fence copies";

pub(super) fn fence(bench: &mut Bench<'_>) -> Tried {
    if !bench.backend()?.fences().has(OpKind::Copy) {
        return Ok(Some(NO_FENCED_COPIES));
    }
    for (round, len) in [64, 4096, 65536].into_iter().cycle().take(48).enumerate() {
        bench.arena.scramble();
        let blocks = blocks(bench, len, 2 + round % 12)?;
        let mut cases = relay(&blocks)?;
        // Each copies what the one before brought; or, the other way round, what the next one overwrites.
        if round % 2 == 1 {
            cases.reverse();
        }
        let began = Instant::now();
        while bench.submit(&cases, true)? == 0 {
            bench.turn()?;
            bench.still_patient(began, "a batch with fences to be taken, with nothing in hand")?;
        }
        // Destinations are read and written by more than one: what counts is what is there in the end.
        for ended in bench.finish()? {
            ended.result.map_err(|fault| format!("{}: {fault}", ended.name))?;
        }
        bench.arena.check_all().map_err(|what| format!("fenced copies were not in order: {what}"))?;
    }
    Ok(None)
}

pub(super) fn abandoned_behind_fence(bench: &mut Bench<'_>) -> Tried {
    if !bench.backend()?.fences().has(OpKind::Copy) {
        return Ok(Some(NO_FENCED_COPIES));
    }
    let mut failed = 0;
    for round in 0..8 {
        bench.arena.scramble();
        let blocks = blocks(bench, 4096, 4)?;
        let cases = relay(&blocks)?;
        if !bench.subject.inject(Trouble::Fail) {
            return Ok(Some("the subject cannot make an operation fail"));
        }
        // What the last ones would write stays what it is now, if they are not started.
        let before = bench.arena.expected();
        let began = Instant::now();
        let mut taken = bench.submit(&cases, true)?;
        while taken == 0 {
            bench.turn()?;
            bench.still_patient(began, "a batch with fences to be taken, with nothing in hand")?;
            taken = bench.submit(&cases, true)?;
        }
        let mut ended = bench.finish()?;
        ended.sort_by_key(|ended| ended.index);
        if let Some(first) = ended.iter().position(|ended| ended.result.is_err()) {
            failed += 1;
            for behind in ended.iter().skip(first + 1) {
                if !matches!(behind.result, Err(Fault::Abandoned | Fault::Aborted | Fault::Gone)) {
                    return Err(format!(
                        "{} behind the fence of one that failed ended with {:?}",
                        behind.name, behind.result
                    ));
                }
                for dst in &behind.destinations {
                    bench.arena.expect_again(&before, *dst);
                    bench.arena.check(*dst).map_err(|what| format!("an abandoned operation ran: {what}"))?;
                }
            }
        }
        bench.give_up_and_revive().map_err(|what| format!("in round {round}: {what}"))?;
    }
    if failed == 0 {
        Err("the subject injected failures, but none was reported".to_owned())
    } else {
        Ok(None)
    }
}
