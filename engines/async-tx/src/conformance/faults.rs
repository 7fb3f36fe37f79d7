//! The points of backends that fail, hang, are given up and come back.

use std::time::Instant;

use super::basic::kinds;
use super::bench::{Bench, CALL_MAX, Ended};
use super::{Tried, Trouble};
use crate::op::OpKind;

const CANNOT_FAIL: &str = "the subject cannot make an operation fail";
const CANNOT_STALL: &str = "the subject cannot make the device hang";
const TAKES_NOTHING: &str = "it takes no kind of operation";

pub(super) fn fault_is_a_value(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    let mut failed = 0;
    for (kind, len) in kinds.iter().flat_map(|kind| [64, 4096].map(|len| (*kind, len))) {
        bench.arena.scramble();
        let crowd = bench.crowd(&[kind], len, 1)?;
        let Some(case) = crowd.first() else { continue };
        if !bench.subject.inject(Trouble::Fail) {
            return Ok(Some(CANNOT_FAIL));
        }
        let keeps = bench.backend()?.limits(kind).keeps_on_fault;
        let before = bench.arena.expected();
        let began = Instant::now();
        while bench.submit(&crowd, false)? == 0 {
            bench.turn()?;
            bench.still_patient(began, "an operation to be taken, with nothing in hand")?;
        }
        for ended in bench.finish()? {
            if ended.result.is_ok() {
                ended.check(bench.arena)?;
                continue;
            }
            failed += 1;
            for dst in &ended.destinations {
                bench.arena.expect_again(&before, *dst);
                if keeps {
                    bench.arena.check(*dst).map_err(|what| {
                        format!(
                            "{} failed and changed its destination, which it said it keeps: {what}",
                            case.name
                        )
                    })?;
                } else {
                    bench.arena.accept(*dst);
                }
            }
        }
        bench
            .arena
            .check_all()
            .map_err(|what| format!("{} failed and changed other memory: {what}", case.name))?;
        bench.give_up_and_revive()?;
        bench.nothing_writes("after a failure")?;
    }
    match failed {
        _ if kinds.is_empty() => Ok(Some(TAKES_NOTHING)),
        0 => Err("the subject injected failures, but none was reported".to_owned()),
        _ => Ok(None),
    }
}

/// Checks what was completed after an abort: what is said to have ended well did, and its memory is used
/// for something else at once.
fn taken_back(bench: &mut Bench<'_>, ended: Vec<Ended>) -> Result<(), String> {
    for ended in ended {
        if ended.result.is_ok() {
            ended.check(bench.arena)?;
        }
        ended.destinations.iter().for_each(|dst| bench.arena.scribble(*dst));
    }
    Ok(())
}

/// Aborts with operations in hand, and looks that all come back, once, and nothing writes after that.
fn abort_in_hand(bench: &mut Bench<'_>, kinds: &[OpKind], turns_before: usize) -> Result<(), String> {
    bench.arena.scramble();
    let crowd = bench.crowd(kinds, 4096, CALL_MAX)?;
    bench.submit(&crowd, false)?;
    for _ in 0..turns_before {
        let ended = bench.turn()?;
        taken_back(bench, ended)?;
    }
    let began = Instant::now();
    bench.backend()?.abort();
    while bench.in_hand() > 0 {
        let ended = bench.turn()?;
        taken_back(bench, ended)?;
        bench.backend()?.abort();
        bench.still_patient(began, "what was given up to come back")?;
    }
    bench.stay_quiet()?;
    bench.arena.check_all().map_err(|what| format!("written after it was given back: {what}"))?;
    bench.nothing_writes("after an abort")
}

pub(super) fn abort(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for turns in [0, 0, 1, 2, 5] {
        abort_in_hand(bench, &kinds, turns)?;
        bench.revive()?;
    }
    // With nothing in hand it is of no effect but that revive comes next.
    bench.backend()?.abort();
    bench.stay_quiet()?;
    bench.revive()?;
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn late_after_abort(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for turns in [0, 3, 40] {
        bench.arena.scramble();
        let crowd = bench.crowd(&kinds, 4096, CALL_MAX)?;
        if !bench.subject.inject(Trouble::Stall) {
            return Ok(Some(CANNOT_STALL));
        }
        bench.submit(&crowd, false)?;
        bench.backend()?.abort();
        for _ in 0..turns {
            let ended = bench.turn()?;
            taken_back(bench, ended)?;
        }
        // Now it goes on with what it had.
        bench.subject.inject(Trouble::Heal);
        let began = Instant::now();
        while bench.in_hand() > 0 {
            let ended = bench.turn()?;
            taken_back(bench, ended)?;
            bench.still_patient(began, "what was given up to come back")?;
        }
        bench.stay_quiet()?;
        bench.arena.check_all().map_err(|what| format!("written late, after it was given back: {what}"))?;
        bench.nothing_writes("late, after an abort")?;
        bench.revive()?;
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn device_gone(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for turns in [0, 1, 2, 5] {
        bench.arena.scramble();
        let crowd = bench.crowd(&kinds, 4096, CALL_MAX)?;
        bench.submit(&crowd, false)?;
        for _ in 0..turns {
            let ended = bench.turn()?;
            taken_back(bench, ended)?;
        }
        if !bench.subject.inject(Trouble::Gone) {
            return Ok(Some("the subject cannot take the device away"));
        }
        for _ in 0..turns {
            let ended = bench.turn()?;
            taken_back(bench, ended)?;
        }
        bench.backend()?.abort();
        let began = Instant::now();
        while bench.in_hand() > 0 {
            let ended = bench.turn()?;
            taken_back(bench, ended)?;
            bench.still_patient(began, "what a device that is gone had in hand to come back")?;
        }
        bench.stay_quiet()?;
        bench.arena.check_all().map_err(|what| format!("written after it was given back: {what}"))?;
        bench.subject.inject(Trouble::Heal);
        bench.nothing_writes("after the device was gone")?;
        bench.revive()?;
        let kinds = super::basic::kinds(bench.backend()?);
        let crowd = bench.crowd(&kinds, 64, CALL_MAX)?;
        bench.run(&crowd).map_err(|what| format!("with the next device: {what}"))?;
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn revive(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for round in 0..4 {
        abort_in_hand(bench, &kinds, round)?;
        bench.revive()?;
        // It says anew what it can do, and does it.
        let kinds = super::basic::kinds(bench.backend()?);
        bench.arena.scramble();
        let crowd = bench.crowd(&kinds, 64, CALL_MAX)?;
        bench.run(&crowd).map_err(|what| format!("after it was revived: {what}"))?;
        bench.arena.check_all()?;
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn drop_in_hand(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    for len in [64, 4096, 65536] {
        bench.arena.scramble();
        let crowd = bench.crowd(&kinds, len, CALL_MAX)?;
        bench.submit(&crowd, false)?;
        bench.drop_backend()?;
        bench.nothing_writes("after the backend was dropped")?;
        bench.renew();
    }
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}

pub(super) fn drop_while_stalled(bench: &mut Bench<'_>) -> Tried {
    let kinds = kinds(bench.backend()?);
    let crowd = bench.crowd(&kinds, 4096, CALL_MAX)?;
    if !bench.subject.inject(Trouble::Stall) {
        return Ok(Some(CANNOT_STALL));
    }
    bench.submit(&crowd, false)?;
    bench.drop_backend()?;
    bench.subject.inject(Trouble::Heal);
    bench.nothing_writes("after the backend was dropped")?;
    Ok(kinds.is_empty().then_some(TAKES_NOTHING))
}
