//! The points of a backend that works: what it says, what it computes, what it leaves alone.

use std::time::Instant;

use super::Tried;
use super::bench::{Bench, CALL_MAX};
use super::cases::{START, Shape, lengths, shapes};
use crate::backend::{Backend, Caps, Completion, OpToken};
use crate::op::{OpKind, Verdict};

/// The kinds that a backend names, but for the one that the engine sees to.
pub(super) fn kinds(backend: &dyn Backend) -> Vec<OpKind> {
    let caps = backend.caps();
    OpKind::ALL.into_iter().filter(|kind| *kind != OpKind::Notify && caps.has(*kind)).collect()
}

const TAKES_NOTHING: &str = "it takes no kind of operation";

pub(super) fn declares(bench: &mut Bench<'_>) -> Tried {
    let backend = bench.backend()?;
    if backend.name().is_empty() {
        return Err("its name is empty".to_owned());
    }
    if backend.batch() == 0 {
        return Err("it wants batches of no operations".to_owned());
    }
    if backend.room() == 0 {
        return Err("fresh, it has no room".to_owned());
    }
    let kinds = kinds(backend);
    let fences =
        OpKind::ALL.into_iter().find(|kind| backend.fences().has(*kind) && !backend.caps().has(*kind));
    if let Some(kind) = fences.filter(|_| backend.fences() != Caps::ALL) {
        return Err(format!("it fences {}, which it does not take", kind.word()));
    }
    for kind in &kinds {
        let limits = backend.limits(*kind);
        let word = kind.word();
        if limits.align == 0 || !limits.align.is_power_of_two() {
            return Err(format!("{word}: an alignment of {}", limits.align));
        }
        if limits.sources_max == 0 && !matches!(kind, OpKind::Fill) {
            return Err(format!("{word}: it takes no sources"));
        }
        if limits.len_min > limits.len_max || limits.len_max < limits.align {
            return Err(format!("{word}: {limits:?} leaves no length"));
        }
        if limits != backend.limits(*kind) {
            return Err(format!("{word}: limits that change from call to call"));
        }
    }
    bench.stay_quiet()?;
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

/// Every shape of a kind that the limits allow.
fn all_shapes(bench: &mut Bench<'_>, kind: OpKind) -> Result<Vec<Shape>, String> {
    let limits = bench.backend()?.limits(kind);
    Ok(lengths(&limits).into_iter().flat_map(|len| shapes(bench.arena, kind, &limits, len)).collect())
}

pub(super) fn results(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for kind in &kinds {
        let mut accepted = false;
        for shape in all_shapes(bench, *kind)? {
            let (case, _) = shape.build(bench.arena, START)?;
            if bench.backend()?.accepts(&case.op()) {
                accepted = true;
                bench.run(&[case])?;
            }
        }
        if !accepted {
            return Err(format!("{}: it accepts none that its limits allow", kind.word()));
        }
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn surroundings(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for kind in &kinds {
        // One of each length and phase suffices here; all the arena is looked at each time.
        let mut shapes = all_shapes(bench, *kind)?;
        shapes.dedup_by_key(|shape| (shape.len, shape.phase));
        for shape in shapes {
            let (case, _) = shape.build(bench.arena, START)?;
            if bench.backend()?.accepts(&case.op()) {
                bench.run(&[case])?;
                bench
                    .arena
                    .check_all()
                    .map_err(|what| format!("{shape:?}: outside of what it writes, {what}"))?;
            }
        }
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn own_result(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    let checks: Vec<OpKind> = kinds
        .iter()
        .copied()
        .filter(|kind| matches!(kind, OpKind::XorVal | OpKind::PqVal | OpKind::Compare))
        .collect();
    let mut rounds = vec![&kinds];
    if !checks.is_empty() {
        rounds.push(&checks);
    }
    for (kinds, len) in rounds.iter().flat_map(|kinds| [64, 4096].map(|len| (kinds, len))) {
        for _ in 0..4 {
            bench.arena.scramble();
            let crowd = bench.crowd(kinds, len, CALL_MAX)?;
            let taken = bench.submit(&crowd, false)?;
            bench.finish_well()?;
            bench.run(crowd.get(taken..).unwrap_or(&[]))?;
        }
    }
    bench.arena.check_all()?;
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn once(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for round in 0..8 {
        bench.arena.scramble();
        let crowd = bench.crowd(&kinds, 64, CALL_MAX)?;
        let mut rest = &crowd[..];
        let began = Instant::now();
        while !rest.is_empty() {
            let some = 1 + bench.arena.rng.below(rest.len());
            let taken = bench.submit(rest.get(..some).unwrap_or(rest), false)?;
            rest = rest.get(taken..).unwrap_or(&[]);
            for _ in 0..bench.arena.rng.below(4) {
                for ended in bench.turn()? {
                    ended.check(bench.arena)?;
                }
            }
            bench.still_patient(began, "all operations to be taken")?;
        }
        bench.finish_well().map_err(|what| format!("round {round}: {what}"))?;
        bench.stay_quiet()?;
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn reap_appends(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    let crowd = bench.crowd(&kinds, 64, CALL_MAX)?;
    let taken = bench.submit(&crowd, false)?;
    let there = Completion { token: OpToken(0), result: Ok(Verdict::default()) };
    let mut done = vec![there];
    let began = Instant::now();
    while done.len() < 1 + taken {
        bench.subject.step();
        let before = done.clone();
        bench.backend()?.reap(&mut done);
        if done.get(..before.len()) != Some(&before[..]) {
            return Err("reap changed what was in the list".to_owned());
        }
        bench.still_patient(began, "the operations in hand to complete")?;
    }
    bench.forget_hand();
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn quiet_after_completion(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for _ in 0..8 {
        bench.arena.scramble();
        let crowd = bench.crowd(&kinds, 4096, CALL_MAX)?;
        bench.submit(&crowd, false)?;
        let began = Instant::now();
        while bench.in_hand() > 0 {
            // What was completed is used for something else at once, while the rest goes on.
            for ended in bench.turn()? {
                ended.check(bench.arena)?;
                ended.destinations.iter().for_each(|dst| bench.arena.scribble(*dst));
            }
            bench.still_patient(began, "the operations in hand to complete")?;
        }
        bench.arena.check_all().map_err(|what| format!("written after its completion: {what}"))?;
        bench.nothing_writes("after all was completed")?;
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}
