//! Bugs that were found by reading: each test fails without its mend.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

#[expect(dead_code, reason = "this file uses a part of the driver")]
mod driver;

use driver::*;
use md_format::{Areas, AssembleOptions, Found, MemberState};
use uraid_core::*;

fn says_dirty(op: &Op) -> bool {
    matches!(op, Op::Meta { superblock, .. } if superblock.resync_offset() == 0)
}

/// a checkpoint's flush is under way when the array becomes idle: the clean mark must not ride on it.
#[test]
fn a_clean_mark_is_not_written_on_the_strength_of_an_older_flush() {
    let mut d = Driver::new(Shape { clean: false, ..Shape::raid5() });
    let first = d.write(31 * d.row(), d.row()); // makes the array active
    let mut n = 0;
    while d.answer_to(first).is_none() {
        let slow = d.count(|op| op.is_meta() || op.is_flush()) == 0;
        d.answer(|op| slow || op.is_meta() || op.is_flush(), None);
    }
    while d.count(Op::is_flush) == 0 {
        d.answer(|op| !op.is_flush(), None);
        n += 1;
        assert!(n < 10_000);
    }
    assert_eq!(d.array.status().state, ArrayState::Active);
    // A checkpoint of the resync: three of four members have flushed for it.
    for m in [0, 1, 2] {
        d.answer(|op| op.is_flush() && op.member() == Some(m), None);
    }
    // Now a write comes to a stripe that the resync has passed, is stored and answered.
    let id = d.write(0, d.row());
    while d.answer_to(id).is_none() {
        d.answer(|op| !op.is_flush(), None);
    }
    d.pass_ms(200);
    // The last member of the old flush answers.
    assert_eq!(d.count(Op::is_flush), 1);
    d.answer(Op::is_flush, None);
    let said: Vec<u64> = d
        .pending
        .iter()
        .filter_map(|op| match op {
            Op::Meta { superblock, .. } => Some(superblock.resync_offset()),
            _ => None,
        })
        .collect();
    assert!(
        said.iter().all(|&s| s == 0),
        "superblocks say parity is good below {said:?}, but the write to stripe 0 was flushed on no member"
    );
}

/// RAID6 resync under way, a data member fails: stripes that were in flight were not checked, yet count.
#[test]
fn stripes_that_a_resync_could_not_check_do_not_count_as_resynced() {
    let mut d = Driver::new(Shape { clean: false, ..Shape::raid6() });
    d.answer_all(|op| op.is_meta() || op.is_flush());
    assert!(d.count(Op::is_read) > 0);
    // Nothing was checked so far: no compute was seen.
    assert_eq!(d.count(Op::is_compute), 0);
    d.tell(Event::FailMember(MemberId(0)));
    let done = d.answer_all(|op| !op.is_flush() && !op.is_meta());
    let checked = done.iter().filter(|op| matches!(op, Op::Compute { plan, .. } if plan.iter().any(|s| matches!(s, Step::CheckParity { .. })))).count();
    d.rest();
    d.tell(Event::Stop);
    d.rest();
    let said = match d.superblocks[1].resync_offset() {
        md_format::CLEAN => 32,
        sectors => sectors / (CHUNK / 512),
    };
    assert!(said <= checked as u64, "{checked} stripes were checked, the superblock says {said}");
}

/// crash in the middle of the update that gives a spare a role.
#[test]
fn a_spare_that_gets_a_role_is_never_taken_for_in_sync_after_a_crash() {
    let mut d = Driver::dirty(Shape::raid5());
    let new = d.blank();
    let sectors = new.device_sectors;
    d.tell(Event::AddMember(new));
    let done = d.rest();
    let mut spare = None;
    for op in done {
        if let Op::Meta { member: 4, superblock, .. } = op {
            spare = Some(*superblock);
        }
    }
    d.pass_ms(500);
    for op in d.rest() {
        if let Op::Meta { member: 4, superblock, .. } = op {
            spare = Some(*superblock);
        }
    }
    let spare = spare.expect("the spare has a superblock");
    d.tell(Event::FailMember(MemberId(1)));
    // 0, 2 and 3 are written, the spare is not: power cut.
    for m in [0, 2, 3] {
        if d.count(|op| op.is_meta() && op.member() == Some(m)) > 0 {
            d.answer(|op| op.is_meta() && op.member() == Some(m), None);
        }
    }
    let sbs = [d.superblocks[0].clone(), d.superblocks[2].clone(), d.superblocks[3].clone(), spare];
    let found: Vec<Found> = sbs
        .iter()
        .enumerate()
        .map(|(i, sb)| Found {
            label: format!("m{i}"),
            device_sectors: sectors,
            superblock: Ok(sb.clone()),
            identity: Some((1, i as u64)),
            areas: Areas::default(),
        })
        .collect();
    let a = md_format::assemble(&found, AssembleOptions::default()).expect("assembles");
    let m = a.members.iter().find(|m| m.found == 3);
    eprintln!(
        "C: events {:?}, member {:?}, rejected {:?}, missing {:?}",
        sbs.iter().map(|s| s.events()).collect::<Vec<_>>(),
        m.map(|m| (m.role, m.state)),
        a.rejected,
        a.missing_roles
    );
    eprintln!("C: roles of 4: {:?}", sbs.iter().map(|s| s.role_of(4)).collect::<Vec<_>>());
    assert!(
        m.is_none_or(|m| m.state != MemberState::InSync),
        "blank spare taken as {:?}",
        m.map(|m| (m.role, m.state))
    );
}

/// two bad blocks in different columns of one stripe are one lost block each, not two lost strips.
#[test]
fn bad_blocks_in_different_columns_do_not_add_up() {
    let mut d = Driver::dirty(Shape::raid5());
    let id = d.read(0, 2 * CHUNK); // lanes 0 and 1 of stripe 0
    let base = |op: &Op| match op {
        Op::Read { offset, .. } => *offset,
        _ => 0,
    };
    let start = base(&d.pending[0]);
    let members: Vec<u16> = d.pending.iter().filter_map(Op::member).collect();
    let bad = [(members[0], start + 3 * 4096), (members[1], start + 9 * 4096)];
    let mut n = 0;
    while !d.pending.is_empty() {
        let fault = match &d.pending[0] {
            Op::Read { member, offset, mem, .. }
                if bad
                    .iter()
                    .any(|b| b.0 == *member && *offset <= b.1 && b.1 < *offset + u64::from(mem.len)) =>
            {
                Some(IoFault::Io)
            }
            _ => None,
        };
        d.answer(|_| true, fault);
        n += 1;
        assert!(n < 1000);
    }
    assert_eq!(d.answer_to(id), Some(Ok(())), "each column has lost one block only");
}

/// read-only leaves the members as they are.
#[test]
fn a_read_only_array_does_not_rewrite_bad_blocks() {
    let config = ArrayConfig { read_only: true, ..Shape::raid5().config };
    let mut d = Driver::new(Shape { config, ..Shape::raid5() });
    let id = d.read(0, 4096);
    d.answer(Op::is_read, Some(IoFault::Io));
    d.answer(Op::is_read, Some(IoFault::Io));
    let done = d.rest();
    assert_eq!(d.answer_to(id), Some(Ok(())));
    assert_eq!(done.iter().filter(|op| op.is_write()).count(), 0);
}

/// a write that waited for the dirty mark is not held for ever when no further request comes.
#[test]
fn one_idle_after_the_last_request_is_enough() {
    let mut d = Driver::new(Shape::raid5());
    let id = d.write(0, 512);
    d.tell(Event::Idle); // inputs are drained; no new request comes
    d.answer_all(|_| true);
    assert_eq!(d.answer_to(id), Some(Ok(())), "seam: Idle is said whenever the inputs are drained");
}

/// nothing after Stopped.
#[test]
fn nothing_is_written_after_the_end() {
    let mut d = Driver::dirty(Shape::raid5());
    d.tell(Event::Stop);
    d.rest();
    assert_eq!(d.stopped, Some(true));
    d.tell(Event::FailMember(MemberId(1)));
    assert!(d.pending.is_empty());
}

/// degraded start: a write right away.
#[test]
fn a_left_out_member_is_two_behind_even_if_a_write_comes_at_once() {
    let mut d = Driver::new(Shape { left_out: 1, ..Shape::raid5() });
    let before = d.superblocks[1].events();
    d.write(0, d.row());
    let mut first = None;
    while first.is_none() {
        first = d.pending.iter().find(|op| says_dirty(op)).cloned();
        if first.is_none() {
            d.answer(|_| true, None);
        }
    }
    let Some(Op::Meta { superblock, .. }) = first else { panic!() };
    assert!(superblock.events() >= before + 2, "{before} -> {}", superblock.events());
}

/// read-only stop of a dirty array.
#[test]
fn a_read_only_stop_does_not_claim_clean() {
    let config = ArrayConfig { read_only: true, ..Shape::raid5().config };
    let mut d = Driver::new(Shape { config, clean: false, ..Shape::raid5() });
    d.tell(Event::Stop);
    assert_eq!(d.stopped, Some(false), "the superblocks say dirty and stay so");
}

/// levelling gives a spare a role without raising events.
#[test]
fn a_spare_that_gets_a_role_at_the_start_is_a_spare_after_a_crash() {
    let mut d = Driver::dirty(Shape::raid5());
    let new = d.blank();
    let sectors = new.device_sectors;
    d.tell(Event::AddMember(new));
    let mut spare = None;
    let mut done = d.rest();
    d.tell(Event::Stop);
    done.extend(d.rest());
    for op in done {
        if let Op::Meta { member: 4, superblock, .. } = op {
            spare = Some(*superblock);
        }
    }
    let spare = spare.expect("spare");
    let sbs = vec![d.superblocks[0].clone(), d.superblocks[2].clone(), d.superblocks[3].clone(), spare];
    let find = |sbs: &[md_format::Superblock]| {
        let found: Vec<Found> = sbs
            .iter()
            .enumerate()
            .map(|(i, sb)| Found {
                label: format!("m{i}"),
                device_sectors: sectors,
                superblock: Ok(sb.clone()),
                identity: Some((1, i as u64)),
                areas: Areas::default(),
            })
            .collect();
        md_format::assemble(&found, AssembleOptions::default()).expect("assembles")
    };
    let a = find(&sbs);
    let ids: Vec<MemberId> = a.members.iter().map(|m| MemberId(m.found as u16)).collect();
    for order in [[0usize, 1, 2, 3], [1, 2, 0, 3], [3, 0, 1, 2]] {
        for stop_after in 1..3 {
            let mut array = Array::start(&a, &ids, ArrayConfig::default()).expect("starts");
            let mut now = sbs.clone();
            let mut rounds = 0;
            // answer `stop_after` whole rounds of superblocks but for the spare, which is cut in the last round
            'out: loop {
                let mut metas = vec![];
                while let Some(x) = array.poll() {
                    if let Action::WriteMeta { io, member, bytes, .. } = x {
                        metas.push((io, member, bytes));
                    } else if let Action::Flush { io, .. } = x {
                        metas.push((io, MemberId(999), vec![]));
                    }
                }
                if metas.is_empty() {
                    break;
                }
                rounds += 1;
                for (io, m, bytes) in metas {
                    if m.0 == 3 && rounds == stop_after {
                        continue;
                    }
                    if m.0 < 4 {
                        let at = md_format::candidates(sectors).into_iter().find(|l| l.sector == 8).unwrap();
                        now[usize::from(m.0)] = md_format::Superblock::parse(&bytes, at, sectors).unwrap();
                    }
                    array.handle(Tick(1), Event::IoDone { io, result: Ok(()) });
                }
                if rounds == stop_after {
                    break 'out;
                }
            }
            let shuffled: Vec<_> = order.iter().map(|&i| now[i].clone()).collect();
            let b = find(&shuffled);
            let m = b.members.iter().find(|m| order[m.found] == 3);
            eprintln!(
                "order {order:?} cut in round {stop_after}: events {:?} spare {:?} rejected {:?}",
                now.iter().map(|s| s.events()).collect::<Vec<_>>(),
                m.map(|m| (m.role, m.state)),
                b.rejected
            );
            assert!(m.is_none_or(|m| m.state != MemberState::InSync));
        }
    }
}

/// An event count at its end comes from a disk and must not overflow: the array is refused.
#[test]
fn the_last_event_count_does_not_overflow() {
    let d = Driver::new(Shape::raid5());
    let mut sbs = d.superblocks.clone();
    sbs.iter_mut().for_each(|s| s.set_events(u64::MAX));
    let a = assemble(&sbs, 8192 + 32 * 128);
    let ids: Vec<MemberId> = (0..4).map(MemberId).collect();
    let started = Array::start(&a, &ids, ArrayConfig::default());
    assert_eq!(started.err(), Some(StartError::Events(u64::MAX)));
}

/// M: a rebuild of RAID 6 meets one bad block on each of two members, in different columns.
#[test]
fn a_rebuild_survives_bad_blocks_in_different_columns() {
    let mut d = Driver::dirty(Shape::raid6());
    d.tell(Event::FailMember(MemberId(5)));
    d.rest();
    let new = d.blank();
    d.tell(Event::AddMember(new));
    d.answer_all(Op::is_meta);
    let start = d
        .pending
        .iter()
        .find_map(|op| match op {
            Op::Read { offset, .. } => Some(*offset),
            _ => None,
        })
        .expect("read");
    let bad = [(1u16, start + 3 * 4096), (2u16, start + 9 * 4096)];
    let mut n = 0;
    while !d.pending.is_empty() {
        let fault = match &d.pending[0] {
            Op::Read { member, offset, mem, .. }
                if bad
                    .iter()
                    .any(|b| b.0 == *member && *offset <= b.1 && b.1 < *offset + u64::from(mem.len)) =>
            {
                Some(IoFault::Io)
            }
            _ => None,
        };
        d.answer(|_| true, fault);
        n += 1;
        assert!(n < 100_000);
    }
    assert_eq!(d.array.status().missing, 0, "{:?}", d.notices);
}

/// A RAID 6 that loses one member while it resyncs goes on comparing Q, and is clean after a clean stop.
#[test]
fn a_raid6_resync_survives_the_loss_of_a_member() {
    let mut d = Driver::new(Shape { clean: false, ..Shape::raid6() });
    for _ in 0..60 {
        if !d.pending.is_empty() {
            d.answer(|_| true, None);
        }
    }
    d.tell(Event::FailMember(MemberId(0)));
    d.rest();
    d.tell(Event::Stop);
    d.rest();
    assert_eq!(d.superblocks[1].resync_offset(), md_format::CLEAN);
}

/// As many hot stripes as there are slots, each with work queued all the time, do not keep a cold one from
/// getting a slot.
#[test]
fn a_cold_stripe_gets_its_turn() {
    let mut shape = Shape::raid5();
    shape.config.slots = 8;
    let mut d = Driver::dirty(shape);
    let row = d.row();
    let mut hot = std::collections::BTreeMap::new();
    for round in 0..2 {
        for stripe in 0..8u64 {
            hot.insert(d.write(stripe * row + round * 4096, 4096), stripe);
        }
        d.tell(Event::Idle);
    }
    let cold = d.write(20 * row, 4096);
    let mut seen = 0;
    for step in 0u64..2_000 {
        if d.answer_to(cold).is_some() {
            return;
        }
        if !d.pending.is_empty() {
            d.answer(|_| true, None);
        }
        let answered: Vec<u64> = d.completed[seen..].iter().map(|c| c.0).collect();
        seen = d.completed.len();
        for id in answered {
            if let Some(stripe) = hot.remove(&id) {
                hot.insert(d.write(stripe * row + step % 16 * 4096, 4096), stripe);
            }
        }
        d.tell(Event::Idle);
    }
    panic!("the cold write was never answered");
}
