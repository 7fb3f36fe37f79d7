//! Orders that a client or a crash could notice: what must have been answered before what.

#![expect(clippy::expect_used, clippy::panic, reason = "a test says what went wrong by panicking")]

mod driver;

use driver::{CHUNK, Driver, Op, Shape};
use md_format::{CLEAN, DevRole};
use std::collections::BTreeSet;
use uraid_core::*;

const ALL4: [u16; 4] = [0, 1, 2, 3];

fn set(members: impl IntoIterator<Item = u16>) -> BTreeSet<u16> {
    members.into_iter().collect()
}

fn says_dirty(op: &Op) -> bool {
    matches!(op, Op::Meta { superblock, .. } if superblock.resync_offset() == 0)
}

fn says_clean(op: &Op) -> bool {
    matches!(op, Op::Meta { superblock, .. } if superblock.resync_offset() == CLEAN)
}

fn superblock(op: &Op) -> &md_format::Superblock {
    let Op::Meta { superblock, .. } = op else { panic!("{op:?} is no superblock") };
    superblock
}

#[test]
fn the_first_write_waits_until_every_superblock_says_dirty() {
    let mut d = Driver::new(Shape::raid5());
    assert!(d.pending.is_empty(), "a clean whole array has nothing to say");
    let id = d.write(0, d.row());
    // The first update of all levels the event counts of the members; it says nothing new.
    for op in d.answer_all(says_clean) {
        assert_eq!(superblock(&op).events(), 1);
    }
    for left in (1..=4).rev() {
        assert_eq!(d.count(says_dirty), left, "{:?}", d.pending);
        assert_eq!(d.pending.len(), left, "nothing else yet");
        d.answer(Op::is_meta, None);
    }
    d.answer(Op::is_compute, None);
    assert_eq!(d.with(Op::is_write), set(ALL4));
    assert_eq!(d.answer_to(id), None);
    d.answer_all(Op::is_write);
    assert_eq!(d.answer_to(id), Some(Ok(())));

    // The next one does not wait.
    d.write(0, d.row());
    assert_eq!(d.count(Op::is_meta), 0);
    assert_eq!(d.count(Op::is_compute), 1);
}

#[test]
fn a_write_is_answered_when_data_and_parity_are_written() {
    let mut d = Driver::dirty(Shape::raid6());
    let id = d.write(0, d.row());
    d.answer(Op::is_compute, None);
    for left in (1..=6).rev() {
        assert_eq!(d.count(Op::is_write), left);
        assert_eq!(d.answer_to(id), None, "{left} writes are open");
        d.answer(Op::is_write, None);
    }
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn a_small_write_is_held_for_its_neighbours_until_the_runner_is_idle() {
    let mut d = Driver::dirty(Shape::raid5());
    let row = d.row();
    let first = d.write(row, 4096);
    assert!(d.pending.is_empty(), "held: {:?}", d.pending);
    d.tell(Event::Idle);
    assert!(d.count(Op::is_read) > 0);
    d.rest();
    assert_eq!(d.answer_to(first), Some(Ok(())));

    // Neighbours that make a full stripe of it need no reads and no leave.
    let parts: Vec<u64> = (0..3).map(|i| d.write(2 * row + i * CHUNK, CHUNK)).collect();
    assert_eq!(d.count(Op::is_read), 0);
    assert_eq!(d.rest().iter().filter(|op| op.is_read()).count(), 0);
    assert!(parts.iter().all(|&id| d.answer_to(id) == Some(Ok(()))));
}

#[test]
fn a_flush_is_answered_after_every_member_flushed() {
    let mut d = Driver::dirty(Shape::raid5());
    let id = d.flush();
    for left in (1..=4).rev() {
        assert_eq!(d.with(Op::is_flush).len(), left);
        assert_eq!(d.answer_to(id), None);
        d.answer(Op::is_flush, None);
    }
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn a_flush_asked_during_a_round_gets_a_round_of_its_own() {
    let mut d = Driver::dirty(Shape::raid5());
    let first = d.flush();
    d.answer(Op::is_flush, None);
    let write = d.write(0, d.row());
    d.answer_all(|op| op.is_compute() || op.is_write());
    assert_eq!(d.answer_to(write), Some(Ok(())));
    let (second, third) = (d.flush(), d.flush());
    for _ in 0..3 {
        d.answer(Op::is_flush, None);
    }
    assert_eq!((d.answer_to(first), d.answer_to(second)), (Some(Ok(())), None));
    assert_eq!(d.with(Op::is_flush), set(ALL4), "one more round for both");
    d.answer_all(Op::is_flush);
    assert_eq!((d.answer_to(second), d.answer_to(third)), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn fua_flushes_after_data_and_parity_are_written() {
    for kind in [RequestKind::Write { fua: true }, RequestKind::WriteZeroes { fua: true }] {
        let mut d = Driver::dirty(Shape::raid5());
        let id = d.ask(kind, 0, d.row());
        d.answer(Op::is_compute, None);
        for left in (1..=4).rev() {
            assert_eq!((d.count(Op::is_write), d.count(Op::is_flush)), (left, 0));
            d.answer(Op::is_write, None);
        }
        for left in (1..=4).rev() {
            assert_eq!((d.answer_to(id), d.count(Op::is_flush)), (None, left));
            d.answer(Op::is_flush, None);
        }
        assert_eq!(d.answer_to(id), Some(Ok(())));
    }
}

#[test]
fn a_small_fua_write_is_not_held() {
    let mut d = Driver::dirty(Shape::raid5());
    d.ask(RequestKind::Write { fua: true }, d.row(), 512);
    assert!(d.count(Op::is_read) > 0);
}

#[test]
fn an_answer_waits_until_the_failed_member_is_recorded_on_all_others() {
    let mut d = Driver::dirty(Shape::raid5());
    let before = d.array.status().events;
    let id = d.write(0, d.row());
    d.answer(Op::is_compute, None);
    d.answer(|op| op.is_write() && op.member() == Some(2), Some(IoFault::NoSpace));
    assert!(d.notices.iter().any(|n| matches!(n, Notice::MemberFailed { member: MemberId(2), .. })));
    d.answer_all(Op::is_write);
    assert_eq!(d.answer_to(id), None, "written, but the failure is not recorded");
    assert_eq!(d.with(Op::is_meta), set([0, 1, 3]), "never the failed one");
    for op in d.pending.iter().filter(|op| op.is_meta()) {
        assert_eq!(superblock(op).role_of(2), DevRole::Faulty);
        assert!(superblock(op).events() > before);
    }
    d.answer(Op::is_meta, None);
    d.answer(Op::is_meta, None);
    assert_eq!(d.answer_to(id), None);
    d.answer(Op::is_meta, None);
    // One event behind is what mdadm takes for current: the failed member has to be two behind.
    assert_eq!(d.answer_to(id), None);
    assert_eq!(d.answer_all(Op::is_meta).len(), 3);
    assert_eq!(d.array.status().events, before + 2);
    assert_eq!(d.answer_to(id), Some(Ok(())));
    // Later writes miss the member too, but that is known.
    let id = d.write(0, d.row());
    d.answer_all(|op| op.is_compute() || op.is_write());
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn a_flush_that_fails_on_a_member_is_answered_after_its_failure_is_recorded() {
    let mut d = Driver::dirty(Shape::raid5());
    let id = d.flush();
    d.answer(|op| op.is_flush() && op.member() == Some(1), Some(IoFault::Io));
    d.answer_all(Op::is_flush);
    assert_eq!((d.answer_to(id), d.with(Op::is_meta)), (None, set([0, 2, 3])));
    d.answer_all(Op::is_meta);
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn an_update_that_itself_loses_a_member_is_followed_by_another() {
    let mut d = Driver::dirty(Shape::raid6());
    let id = d.write(0, d.row());
    d.answer(Op::is_compute, None);
    d.answer(|op| op.is_write() && op.member() == Some(0), Some(IoFault::Gone));
    d.answer_all(Op::is_write);
    d.answer(|op| op.is_meta() && op.member() == Some(1), Some(IoFault::Gone));
    while d.count(Op::is_meta) > 1 {
        d.answer(Op::is_meta, None);
    }
    d.answer(Op::is_meta, None);
    // The answer may come now: the failure that the write missed is on the survivors. Their next
    // superblock names the second one.
    assert_eq!(d.with(Op::is_meta), set([2, 3, 4, 5]));
    assert!(
        d.pending.iter().filter(|op| op.is_meta()).all(|op| superblock(op).role_of(1) == DevRole::Faulty)
    );
    d.rest();
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn clean_is_marked_after_the_delay_and_a_flush() {
    let mut d = Driver::dirty(Shape::raid5());
    let due = d.array.wake_at().expect("a clean mark is due some time");
    assert_eq!(due, d.now.plus_ms(200));
    d.pass_ms(199);
    assert!(d.pending.is_empty());
    d.pass_ms(1);
    assert_eq!((d.with(Op::is_flush), d.pending.len()), (set(ALL4), 4), "flushes, nothing else");
    for _ in 0..4 {
        assert_eq!(d.count(Op::is_meta), 0);
        d.answer(Op::is_flush, None);
    }
    assert_eq!(d.count(says_clean), 4);
    d.answer_all(Op::is_meta);
    assert_eq!(d.array.status().state, ArrayState::Clean);
    assert_eq!(d.array.wake_at(), None);
}

#[test]
fn an_open_write_keeps_the_array_dirty() {
    let mut d = Driver::dirty(Shape::raid5());
    d.write(0, d.row());
    assert_eq!(d.array.wake_at(), None);
    d.pass_ms(10_000);
    assert_eq!(d.pending.len(), 1, "the compute of the write: {:?}", d.pending);
}

#[test]
fn a_write_that_meets_the_clean_mark_waits_for_dirty_superblocks() {
    // While the members flush, the mark can still be turned into a dirty one.
    let mut d = Driver::dirty(Shape::raid5());
    d.pass_ms(200);
    let id = d.write(0, d.row());
    d.answer_all(Op::is_flush);
    assert_eq!((d.count(says_dirty), d.count(Op::is_compute)), (4, 0));
    d.rest();
    assert_eq!(d.answer_to(id), Some(Ok(())));

    // Once clean superblocks are on their way, dirty ones must follow.
    let mut d = Driver::dirty(Shape::raid5());
    d.pass_ms(200);
    d.answer_all(Op::is_flush);
    assert_eq!(d.count(says_clean), 4);
    let id = d.write(0, d.row());
    d.answer(Op::is_meta, None);
    assert_eq!((d.count(Op::is_meta), d.count(Op::is_compute)), (3, 0), "updates do not overlap");
    for _ in 0..3 {
        d.answer(Op::is_meta, None);
    }
    assert_eq!((d.count(says_dirty), d.count(Op::is_compute)), (4, 0));
    d.answer_all(Op::is_meta);
    assert_eq!(d.count(Op::is_compute), 1);
    d.rest();
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn a_degraded_start_updates_the_superblocks_before_the_first_dirty_mark() {
    let mut d = Driver::new(Shape { left_out: 1, ..Shape::raid5() });
    let before = d.superblocks[1].events();
    assert_eq!(d.with(says_clean), set([1, 2, 3]));
    d.rest();
    assert_eq!(d.superblocks[1].events(), before + 1);
    let id = d.write(0, d.row());
    assert_eq!(d.with(says_dirty), set([1, 2, 3]));
    let events = superblock(&d.pending[0]).events();
    assert_eq!(events, before + 2, "a member left out is two behind");
    d.rest();
    assert_eq!(d.answer_to(id), Some(Ok(())));
}

#[test]
fn a_broken_array_refuses_writes_and_reads_what_it_can() {
    let mut d = Driver::dirty(Shape::raid5());
    let open = d.write(0, d.row());
    d.tell(Event::FailMember(MemberId(0)));
    d.tell(Event::FailMember(MemberId(1)));
    assert_eq!(d.array.status().state, ArrayState::Broken);
    assert_eq!(d.notices.iter().filter(|n| **n == Notice::ArrayBroken).count(), 1);
    d.rest();
    assert_eq!(d.answer_to(open), Some(Err(RequestError::Io)), "it can't be promised any more");

    let (write, flush) = (d.write(0, 4096), d.flush());
    assert_eq!(d.answer_to(write), Some(Err(RequestError::Io)));
    assert_eq!(d.answer_to(flush), Some(Err(RequestError::Io)));
    let results: Vec<_> = (0..3)
        .map(|lane| {
            let role = d.array.geometry().pattern(0).roles[lane];
            let id = d.read(lane as u64 * CHUNK, 4096);
            d.rest();
            (role.0 < 2, d.answer_to(id))
        })
        .collect();
    for (lost, answer) in results {
        assert_eq!(answer, Some(if lost { Err(RequestError::Unreadable { at: 0 }) } else { Ok(()) }));
    }
    // The first lost byte is named, wherever a read begins; what is before it is there.
    let lost = |lane: u64| d.array.geometry().pattern(0).roles[lane as usize].0 < 2;
    let first = (0..3).find(|lane| lost(*lane)).unwrap();
    let end = first * CHUNK;
    for start in [0, 512, end.saturating_sub(4096), end.saturating_sub(512), end, end + 512] {
        let id = d.read(start, d.row() - start);
        d.rest();
        let at = end.saturating_sub(start) as u32;
        assert_eq!(d.answer_to(id), Some(Err(RequestError::Unreadable { at })), "from {start}");
    }
    d.pass_ms(10_000);
    assert!(d.pending.is_empty(), "its metadata are frozen: {:?}", d.pending);
    d.tell(Event::Stop);
    assert_eq!(d.stopped, Some(false));
}

#[test]
fn held_and_blocked_writes_of_an_array_that_breaks_are_refused() {
    let mut d = Driver::dirty(Shape::raid5());
    let held = d.write(d.row(), 512);
    d.tell(Event::FailMember(MemberId(0)));
    d.tell(Event::FailMember(MemberId(1)));
    d.rest();
    assert_eq!(d.answer_to(held), Some(Err(RequestError::Io)));

    let mut d = Driver::new(Shape::raid5());
    let blocked = d.write(0, d.row());
    d.faulty = vec![(0, IoFault::Gone), (2, IoFault::Gone)];
    d.rest();
    assert_eq!(d.answer_to(blocked), Some(Err(RequestError::Io)));
}

#[test]
fn impossible_ranges_are_refused_at_once() {
    let mut d = Driver::new(Shape::raid5());
    let end = d.array.geometry().array_bytes();
    let (w, z) = (RequestKind::Write { fua: false }, RequestKind::WriteZeroes { fua: false });
    let bad = [
        (end, 512),
        (end - 512, 1024),
        (u64::MAX - 511, 512),
        (u64::MAX - 511, u64::MAX - 511),
        (0, end + 512),
        (1, 512),
        (0, 511),
        (256, 256),
    ];
    for (offset, len) in bad {
        for kind in [RequestKind::Read, w, z] {
            let id = d.ask(kind, offset, len);
            assert_eq!(d.answer_to(id), Some(Err(RequestError::Invalid)), "{kind:?} {offset} {len}");
        }
    }
    assert!(d.pending.is_empty(), "nothing was done: {:?}", d.pending);
    let flush = d.ask(RequestKind::Flush, 12345, 678);
    d.rest();
    assert_eq!(d.answer_to(flush), Some(Ok(())), "a flush has no range");
    for (kind, offset) in [(RequestKind::Read, 0), (w, end), (z, 512)] {
        let id = d.ask(kind, offset, 0);
        assert_eq!(d.answer_to(id), Some(Ok(())), "nothing is easily done");
    }
}

#[test]
fn only_zeroes_may_be_longer_than_64_mib() {
    let mut d = Driver::new(Shape { rows: 400, ..Shape::raid5() });
    let len = (64 << 20) + 512;
    assert!(len < d.array.geometry().array_bytes());
    for kind in [RequestKind::Read, RequestKind::Write { fua: false }] {
        let id = d.ask(kind, 0, len);
        assert_eq!(d.answer_to(id), Some(Err(RequestError::Invalid)));
    }
    let id = d.ask(RequestKind::WriteZeroes { fua: false }, 0, len);
    let done = d.rest();
    assert_eq!(d.answer_to(id), Some(Ok(())));
    let writes = done.iter().filter(|op| op.is_write()).count() as u64;
    assert!(writes >= len / CHUNK, "every strip is written, the parity too: {writes}");
    assert!(done.iter().all(|op| match op {
        Op::Write { mem, .. } => !matches!(mem.place, Place::Request(_)),
        _ => true,
    }));
}

/// Many requests of 32 bits are as long as one of 64: what a stop waits for is one sum.
#[test]
fn a_stop_waits_for_no_more_than_4_gib_of_zeroes_in_all() {
    let mut d = Driver::new(Shape { rows: 1 << 18, ..Shape::raid5() });
    let zeroes = RequestKind::WriteZeroes { fua: false };
    let len = u64::from(u32::MAX) / 3 / CHUNK * CHUNK;
    let asked: Vec<_> = (0..8).map(|i| d.ask(zeroes, i * len, len)).collect();
    let over = d.write(4 * len, CHUNK);
    d.tell(Event::Stop);
    let told: Vec<_> = asked.iter().map(|id| d.answer_to(*id)).collect();
    assert_eq!(told[..3], [None; 3], "under way, or in line");
    assert_eq!(told[3..], [Some(Err(RequestError::Shutdown)); 5]);
    for _ in 0..500 {
        if d.pending.is_empty() {
            d.tell(Event::Idle);
        }
        d.answer(|_| true, None);
    }
    assert_eq!(d.answer_to(over), Some(Ok(())), "it waited for zeroes that are not written now");
}

/// Before a hand-over, what would take long is given back: in order, with nothing of it under way, and nothing
/// else is.
#[test]
fn a_recall_gives_back_zeroes_and_what_waits_for_them() {
    let zeroes = RequestKind::WriteZeroes { fua: true };
    let mut d = Driver::dirty(Shape { rows: 1 << 16, ..Shape::raid5() });
    let row = d.row();
    let short = d.ask(zeroes, 0, row);
    let long = d.ask(zeroes, row, 60_000 * row);
    let longer = d.ask(zeroes, 100 * row, 50_000 * row);
    let over = d.write(2 * row, CHUNK);
    let beside = d.write(65_000 * row, CHUNK);
    d.answer_all(Op::is_read);
    d.tell(Event::Recall);
    assert_eq!(d.answer_to(long), None, "parts of it are under way");
    assert_eq!(d.answer_to(longer), None, "not before what came first");
    let done = d.rest();
    assert!(done.len() < 5_000, "{} operations", done.len());
    let given_back: Vec<_> =
        d.completed.iter().filter(|(_, result)| *result == Err(RequestError::Recalled)).collect();
    assert_eq!(given_back.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [long, longer, over]);
    assert_eq!((d.answer_to(short), d.answer_to(beside)), (Some(Ok(())), Some(Ok(()))));
    d.tell(Event::Stop);
    d.rest();
    assert_eq!(d.stopped, Some(true));
}

/// The second may be the first once more, sent again by a kernel that gave up on the connection: when it is
/// answered, nothing of the first may be left to be written.
#[test]
fn zeroes_that_overlap_are_written_in_order_of_arrival() {
    let zeroes = RequestKind::WriteZeroes { fua: false };
    let mut d = Driver::dirty(Shape { rows: 400, ..Shape::raid5() });
    let (row, rows) = (d.row(), 100);
    let other = d.ask(zeroes, 200 * row, rows * row);
    let first = d.ask(zeroes, 0, rows * row);
    let again = d.ask(zeroes, 0, rows * row);
    let part = d.ask(zeroes, (rows - 1) * row, row);
    let small = d.ask(zeroes, 350 * row, CHUNK);
    d.rest();
    let place = |id| d.completed.iter().position(|done| *done == (id, Ok(()))).expect("answered");
    assert!(place(first) < place(again) && place(first) < place(part) && place(again) < place(part));
    assert!(place(small) < place(first) && place(small) < place(other), "others do not wait for all of it");
}

#[test]
fn a_stop_drains_requests_then_flushes_then_marks_clean() {
    let mut d = Driver::dirty(Shape::raid5());
    let id = d.write(0, d.row());
    let held = d.write(d.row(), 512);
    d.tell(Event::Stop);
    let late = d.read(0, 512);
    assert_eq!(d.answer_to(late), Some(Err(RequestError::Shutdown)));
    let done = d.answer_all(|op| !op.is_flush());
    assert!(done.iter().any(Op::is_write));
    assert_eq!((d.answer_to(id), d.answer_to(held)), (Some(Ok(())), Some(Ok(()))), "a held write, too");
    assert_eq!((d.with(Op::is_flush), d.pending.len(), d.stopped), (set(ALL4), 4, None));
    d.answer_all(Op::is_flush);
    assert_eq!((d.count(says_clean), d.stopped), (4, None));
    d.answer_all(Op::is_meta);
    assert_eq!(d.stopped, Some(true));
    assert!(d.superblocks.iter().all(|sb| sb.resync_offset() == CLEAN));
    let events = d.superblocks[0].events();
    assert!(d.superblocks.iter().all(|sb| sb.events() == events));
}

#[test]
fn a_member_lost_by_the_last_update_is_recorded_before_the_end() {
    let mut d = Driver::dirty(Shape::raid5());
    d.tell(Event::Stop);
    d.answer_all(Op::is_flush);
    d.answer(|op| op.is_meta() && op.member() == Some(3), Some(IoFault::Gone));
    d.answer_all(Op::is_meta);
    assert_eq!(d.stopped, Some(true));
    for sb in &d.superblocks[..3] {
        assert_eq!((sb.role_of(3), sb.resync_offset()), (DevRole::Faulty, CLEAN));
    }
}

#[test]
fn a_stop_during_a_resync_keeps_how_far_it_came() {
    let mut d = Driver::new(Shape { clean: false, ..Shape::raid5() });
    assert_eq!(d.array.status().sync.map(|s| s.kind), Some(SyncKind::Resync));
    for _ in 0..60 {
        d.answer(|op| !op.is_meta() && !op.is_flush(), None);
    }
    let done = d.array.status().sync.map_or(0, |s| s.done_stripes);
    assert!(done > 0 && done < 32, "{done}");
    d.tell(Event::Stop);
    d.rest();
    assert_eq!(d.stopped, Some(true));
    let said = d.superblocks[0].resync_offset() / (CHUNK / 512);
    assert!(said >= done && said < 32, "{said} of at least {done}");
}

#[test]
fn failing_by_hand_is_refused_where_the_array_would_break() {
    let d = Driver::dirty(Shape::raid5());
    assert_eq!(d.array.check_fail(MemberId(9)), Err(FailRefused::Unknown));
    assert_eq!(d.array.check_fail(MemberId(0)), Ok(()));
    for (shape, parity) in [(Shape::raid5(), 1), (Shape::raid6(), 2)] {
        let mut d = Driver::dirty(shape);
        for member in 0..parity {
            assert_eq!(d.array.check_fail(MemberId(member)), Ok(()));
            d.tell(Event::FailMember(MemberId(member)));
            d.rest();
            assert_eq!(d.array.check_fail(MemberId(member)), Err(FailRefused::Unknown), "it failed before");
        }
        assert_eq!(d.array.check_fail(MemberId(parity)), Err(FailRefused::Needed));
        let new = d.blank();
        let member = new.member;
        d.tell(Event::AddMember(new));
        assert_eq!(d.array.check_fail(member), Ok(()), "one that is being filled is not needed");
        assert_eq!(d.array.check_fail(MemberId(parity)), Err(FailRefused::Needed));
    }
}

#[test]
fn devices_that_cannot_join_are_refused_with_the_reason() {
    let mut d = Driver::dirty(Shape::raid5());
    let good = d.blank();
    assert_eq!(d.array.check_add(&good), Ok(()));
    let known = NewMember { member: MemberId(1), ..good.clone() };
    assert_eq!(d.array.check_add(&known), Err(AddRefused::Known));
    let small = NewMember { device_sectors: 4096, ..good.clone() };
    assert!(matches!(d.array.check_add(&small), Err(AddRefused::Spare(_))));
    // What is refused is not taken by force.
    d.tell(Event::AddMember(small));
    assert_eq!(d.array.status().members.len(), 4);
    d.tell(Event::FailMember(MemberId(1)));
    assert_eq!(d.array.check_add(&known), Err(AddRefused::Known), "its index is still in use");
    d.tell(Event::FailMember(MemberId(2)));
    assert_eq!(d.array.check_add(&good), Err(AddRefused::ReadOnly), "broken");

    let config = ArrayConfig { read_only: true, ..Shape::raid5().config };
    let d = Driver::new(Shape { config, ..Shape::raid5() });
    assert_eq!(d.array.check_add(&good), Err(AddRefused::ReadOnly));
    let mut d = Driver::new(Shape::raid5());
    d.tell(Event::Stop);
    assert_eq!(d.array.check_add(&good), Err(AddRefused::ReadOnly), "stopping");
}

#[test]
fn a_rebuild_starts_after_the_superblocks_name_its_member() {
    let mut d = Driver::dirty(Shape::raid5());
    d.tell(Event::FailMember(MemberId(1)));
    d.rest();
    let new = d.blank();
    d.tell(Event::AddMember(new));
    assert_eq!(d.with(Op::is_meta), set([0, 2, 3, 4]));
    for _ in 0..4 {
        let op = d.answer(Op::is_meta, None);
        assert_eq!(superblock(&op).role_of(4), DevRole::Spare);
    }
    // Its own superblock comes first: it must not be taken for whole while the others name it.
    assert_eq!(d.with(Op::is_meta), set([4]));
    assert_eq!(superblock(&d.pending[0]).recovery_offset(), Some(0));
    d.answer(Op::is_meta, None);
    assert_eq!(d.with(Op::is_meta), set([0, 2, 3]));
    for op in &d.pending {
        assert_eq!(superblock(op).role_of(4), DevRole::Active(1));
        assert_eq!(superblock(op).recovery_offset(), None);
    }
    while d.count(Op::is_meta) > 1 {
        d.answer(Op::is_meta, None);
        assert_eq!(d.count(|op| !op.is_meta()), 0);
    }
    d.answer(Op::is_meta, None);
    assert!(d.count(Op::is_read) > 0);

    // Progress is said only after a flush, and the member is whole only at the end.
    let mut flushes = 0;
    while let Some(op) = d.pending.first().cloned() {
        d.answer(|_| true, None);
        if op.is_flush() {
            flushes += 1;
        }
        if let Op::Meta { member: 4, superblock, .. } = &op {
            assert!(superblock.recovery_offset() == Some(0) || flushes >= 4);
        }
    }
    assert!(d.notices.contains(&Notice::MemberInSync { member: MemberId(4), role: Role(1) }));
    assert_eq!(d.superblocks.len(), 4);
    assert_eq!(d.array.status().missing, 0);
}

#[test]
fn a_read_only_array_changes_no_superblock() {
    let config = ArrayConfig { read_only: true, ..Shape::raid5().config };
    for left_out in [0, 1] {
        let mut d = Driver::new(Shape { config, left_out, ..Shape::raid5() });
        let (write, read) = (d.write(0, 512), d.read(0, 2 * CHUNK));
        let done = d.rest();
        assert_eq!(d.answer_to(write), Some(Err(RequestError::Io)));
        assert_eq!(d.answer_to(read), Some(Ok(())));
        d.tell(Event::Stop);
        assert!(done.iter().all(|op| op.is_read() || op.is_compute()), "{done:?}");
        assert!(d.pending.is_empty() && d.stopped.is_some());
    }
}

#[test]
fn late_and_unknown_answers_are_ignored() {
    let mut d = Driver::dirty(Shape::raid5());
    d.read(0, 4096);
    let Op::Read { io, .. } = d.answer(Op::is_read, None) else { panic!("a read") };
    d.tell(Event::IoDone { io, result: Err(IoFault::Gone) });
    d.tell(Event::IoDone { io: IoId(u64::MAX), result: Ok(()) });
    d.tell(Event::ComputeDone { id: ComputeId(u64::MAX), result: Err(ComputeFault) });
    d.tell(Event::FailMember(MemberId(77)));
    assert_eq!((d.pending.len(), d.array.status().missing), (0, 0));
}

/// A request of 64-bit length would keep a stop waiting for hours.
#[test]
fn a_stop_cuts_short_zeroes_that_would_never_end() {
    let mut d = Driver::new(Shape { rows: 1 << 18, ..Shape::raid5() });
    let (long, short) = (1 << 35, 1 << 20);
    let endless = d.ask(RequestKind::WriteZeroes { fua: false }, 0, long);
    let soon = d.ask(RequestKind::WriteZeroes { fua: true }, long, short);
    d.tell(Event::Stop);
    let done = d.rest();
    assert_eq!(d.answer_to(endless), Some(Err(RequestError::Shutdown)));
    assert_eq!(d.answer_to(soon), Some(Ok(())), "what 32 bits can ask for is done");
    assert_eq!(d.stopped, Some(true));
    assert!(done.len() < 500, "{} operations", done.len());
}
