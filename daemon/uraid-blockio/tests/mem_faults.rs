//! What the members in memory do when a test wants them to fail.

#[cfg(test)]
mod common;

use common::{finish, run};
use uraid_blockio::*;

const SIZE: u64 = 64 << 10;

#[cfg(test)]
fn pool() -> BufPool {
    BufPool::new(2 << 20, ArenaOptions::default()).unwrap()
}

#[test]
fn the_nth_operation_fails_and_no_other() {
    let mut io = MemMembers::new(&[SIZE; 2]);
    io.control().fail_nth(1, FailOp::Write, 3, IoFault::NoSpace);
    let mut results = Vec::new();
    for n in 0..5 {
        results.push(run(&mut io, 1, n * 512, IoOp::WriteMeta(vec![9; 512])).map_err(|err| err.fault));
        assert_eq!(run(&mut io, 1, 0, IoOp::Flush), Ok(()));
        assert_eq!(run(&mut io, 0, 0, IoOp::WriteMeta(vec![9; 512])), Ok(()));
    }
    assert_eq!(results, [Ok(()), Ok(()), Err(IoFault::NoSpace), Ok(()), Ok(())]);
    assert_eq!(io.control().contents(1)[1024..1536], [0; 512], "a failed write changes nothing");
}

#[test]
fn a_bad_sector_reads_again_once_it_is_rewritten_whole() {
    let (mut io, pool) = (MemMembers::new(&[SIZE]), pool());
    let buf = pool.try_alloc(4096).unwrap();
    io.control().spoil(0, 1000..1100);
    let read = |io: &mut MemMembers| run(io, 0, 0, IoOp::Read(buf.io())).map_err(|err| err.fault);
    assert_eq!(read(&mut io), Err(IoFault::Io));
    assert_eq!(run(&mut io, 0, 4096, IoOp::Read(buf.io())), Ok(()));
    assert_eq!(run(&mut io, 0, 512, IoOp::WriteMeta(vec![5; 512])), Ok(()));
    assert_eq!(run(&mut io, 0, 1024, IoOp::WriteMeta(vec![5; 100])), Ok(()));
    assert_eq!(read(&mut io), Err(IoFault::Io), "sector 2 was rewritten in part only");
    assert_eq!(run(&mut io, 0, 1024, IoOp::WriteMeta(vec![5; 512])), Ok(()));
    assert_eq!(read(&mut io), Ok(()));
}

#[test]
fn a_gone_member_fails_what_is_in_flight_too() {
    let mut io = MemMembers::shuffled(&[SIZE; 2], 1);
    io.submit(Io { token: 1, member: 0, op: IoOp::Flush, offset: 0 });
    io.control().set_gone(0, true);
    let done = finish(&mut io);
    assert_eq!(done[0].result.unwrap_err().fault, IoFault::Gone);
    assert_eq!(run(&mut io, 1, 0, IoOp::Flush), Ok(()));
}

#[test]
fn a_held_member_ends_nothing_until_it_is_let_go() {
    let mut io = MemMembers::shuffled(&[SIZE; 2], 2);
    let control = io.control();
    control.hold(0, true);
    io.submit(Io { token: 1, member: 0, op: IoOp::Flush, offset: 0 });
    io.submit(Io { token: 2, member: 1, op: IoOp::Flush, offset: 0 });
    let mut done = Vec::new();
    assert!(io.wait(None));
    io.reap(&mut done);
    assert_eq!((done.len(), done[0].token), (1, 2));
    assert!(!io.wait(None));
    assert_eq!(control.waiting(), [(1, 0)]);
    control.hold(0, false);
    assert_eq!(finish(&mut io).len(), 1);
}

#[test]
fn nothing_shuffled_ends_without_a_kick() {
    let mut io = MemMembers::shuffled(&[SIZE], 3);
    io.submit(Io { token: 1, member: 0, op: IoOp::Flush, offset: 0 });
    let mut done = Vec::new();
    for _ in 0..100 {
        assert_eq!(io.reap(&mut done), 0);
    }
    assert_eq!(finish(&mut io).len(), 1);
}

#[test]
fn the_log_says_what_a_flush_covers() {
    let mut io = MemMembers::new(&[SIZE; 2]);
    let control = io.control();
    control.record(true);
    assert_eq!(run(&mut io, 0, 512, IoOp::WriteMeta(vec![1; 2])), Ok(()));
    assert_eq!(run(&mut io, 0, 0, IoOp::Flush), Ok(()));
    let write = LogEntry::Write { member: 0, offset: 512, bytes: vec![1; 2], durable: true };
    assert_eq!(control.log(), [write, LogEntry::Flush { member: 0, covers: 1 }]);
}

#[test]
fn shuffled_operations_end_in_many_orders_but_the_same_for_a_seed() {
    let order = |seed| {
        let mut io = MemMembers::shuffled(&[SIZE], seed);
        for token in 0..20 {
            io.submit(Io { token, member: 0, op: IoOp::Flush, offset: 0 });
        }
        finish(&mut io).iter().map(|done| done.token).collect::<Vec<_>>()
    };
    assert_eq!(order(7), order(7));
    assert_ne!(order(7), order(8));
}
