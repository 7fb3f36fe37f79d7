//! One suite over every implementation of `MemberIo`.

#[cfg(test)]
mod common;

use std::collections::HashMap;
use std::ops::Range;

use common::{Case, Dir, MEMBERS, Rng, every_implementation, finish, run};
use uraid_blockio::*;

const SIZE: u64 = 1 << 20;
const DEPTH: usize = 32;

/// Operations for each implementation; URAID_TEST_STEPS makes the test longer.
fn steps() -> usize {
    std::env::var("URAID_TEST_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(1500)
}

/// What is in flight: where, and what a read shall find.
struct Flying {
    member: usize,
    range: Range<usize>,
    writes: bool,
    expected: Option<(IoBuf, Vec<u8>)>,
}

/// A byte array for each member beside the members.
struct Oracle {
    bytes: Vec<Vec<u8>>,
    flying: HashMap<u64, Flying>,
}

#[cfg(test)]
impl Oracle {
    fn new() -> Self {
        Self { bytes: vec![vec![0; SIZE as usize]; MEMBERS], flying: HashMap::new() }
    }

    fn clashes(&self, member: usize, range: &Range<usize>, writes: bool) -> bool {
        self.flying.values().any(|f| {
            f.member == member
                && (f.writes || writes)
                && f.range.start < range.end
                && range.start < f.range.end
        })
    }

    fn land(&mut self, name: &str, done: IoDone) {
        let flying = self.flying.remove(&done.token).expect("an answer to something in flight");
        assert_eq!(done.result, Ok(()), "{name}: token {} {:?}", done.token, flying.range);
        if let Some((buf, expected)) = flying.expected {
            assert!(buf.to_vec() == expected, "{name}: wrong bytes from {:?}", flying.range);
        }
    }
}

/// A range of a member: block-aligned, sector-aligned, or anything.
fn any_range(rng: &mut Rng) -> Range<usize> {
    let unit = [4096, 512, 1][rng.below(3)];
    let len = (1 + rng.below(65536 / unit.max(64))) * unit;
    let start = rng.below((SIZE as usize - len) / unit + 1) * unit;
    start..start + len
}

#[cfg(test)]
fn submit_one(case: &mut Case, oracle: &mut Oracle, rng: &mut Rng, token: u64) {
    let member = rng.below(MEMBERS);
    let range = any_range(rng);
    let kind = rng.below(20);
    let writes = kind < 10;
    if kind == 19 {
        let flying = Flying { member, range: 0..0, writes: false, expected: None };
        oracle.flying.insert(token, flying);
        return case.io.submit(Io { token, member, op: IoOp::Flush, offset: 0 });
    }
    if oracle.clashes(member, &range, writes) {
        return;
    }
    // Memory that is aligned to nothing, one time in three.
    let at = if rng.below(3) == 0 { 1 + rng.below(600) } else { 0 };
    let buf = case.pool.try_alloc(at + range.len()).expect("room in the pool");
    let view = buf.view(at, range.len()).unwrap();
    let mut expected = None;
    let op = if writes {
        let bytes = rng.bytes(range.len());
        oracle.bytes[member][range.clone()].copy_from_slice(&bytes);
        view.copy_in(0, &bytes).unwrap();
        if kind == 0 { IoOp::WriteMeta(bytes) } else { IoOp::Write(view) }
    } else {
        expected = Some((view.clone(), oracle.bytes[member][range.clone()].to_vec()));
        IoOp::Read(view)
    };
    let offset = range.start as u64;
    oracle.flying.insert(token, Flying { member, range, writes, expected });
    case.io.submit(Io { token, member, op, offset });
}

#[test]
fn random_requests_agree_with_a_byte_array() {
    let dir = Dir::new("oracle");
    for mut case in every_implementation(&dir, SIZE) {
        let seed = 0x5eed_0003;
        println!("{}: seed {seed:#x}", case.name);
        let mut rng = Rng(seed);
        let mut oracle = Oracle::new();
        let mut done = Vec::new();
        for step in 0..steps() {
            submit_one(&mut case, &mut oracle, &mut rng, step as u64);
            assert_eq!(case.io.in_flight(), oracle.flying.len(), "{}", case.name);
            if rng.below(4) == 0 || oracle.flying.len() >= DEPTH {
                case.io.kick();
                case.io.reap(&mut done);
                if oracle.flying.len() - done.len() >= DEPTH {
                    case.io.wait(None);
                }
                done.drain(..).for_each(|done| oracle.land(case.name, done));
            }
        }
        finish(case.io.as_mut()).into_iter().for_each(|done| oracle.land(case.name, done));
        assert!(oracle.flying.is_empty());
        for member in 0..MEMBERS {
            let buf = case.pool.try_alloc(SIZE as usize).unwrap();
            assert_eq!(run(case.io.as_mut(), member, 0, IoOp::Read(buf.io())), Ok(()));
            assert!(buf.to_vec() == oracle.bytes[member], "{}: member {member} at the end", case.name);
        }
        assert_eq!(case.pool.in_use(), 0, "{}: memory given back", case.name);
    }
}

#[test]
fn neighbours_in_one_block_do_not_overwrite_each_other() {
    let dir = Dir::new("neighbours");
    for mut case in every_implementation(&dir, SIZE) {
        let bufs: Vec<_> = (0..64).map(|_| case.pool.try_alloc(64).unwrap()).collect();
        for (n, buf) in bufs.iter().enumerate() {
            buf.fill(n as u8 + 1);
            let offset = n as u64 * 64;
            case.io.submit(Io { token: n as u64, member: 0, op: IoOp::Write(buf.io()), offset });
        }
        assert!(finish(case.io.as_mut()).iter().all(|done| done.result == Ok(())));
        let all = case.pool.try_alloc(4096).unwrap();
        assert_eq!(run(case.io.as_mut(), 0, 0, IoOp::Read(all.io())), Ok(()));
        let expected: Vec<u8> = (0..64).flat_map(|n| [n as u8 + 1; 64]).collect();
        assert!(all.to_vec() == expected, "{}", case.name);
    }
}

#[test]
fn two_writes_that_overlap_lose_nothing_outside_the_overlap() {
    let dir = Dir::new("overlap");
    for mut case in every_implementation(&dir, SIZE) {
        let (a, b) = (case.pool.try_alloc(128 << 10).unwrap(), case.pool.try_alloc(1000).unwrap());
        b.fill(0xbb);
        for round in 1..=100 {
            a.fill(round);
            let end = a.len();
            case.io.submit(Io { token: 1, member: 0, op: IoOp::Write(a.io()), offset: 0 });
            // Once already with the kernel, once still queued.
            if round % 2 == 0 {
                case.io.kick();
            }
            let offset = end as u64 - 300;
            case.io.submit(Io { token: 2, member: 0, op: IoOp::Write(b.io()), offset });
            assert!(finish(case.io.as_mut()).iter().all(|done| done.result == Ok(())));
            let all = case.pool.try_alloc(end + 4096).unwrap();
            assert_eq!(run(case.io.as_mut(), 0, 0, IoOp::Read(all.io())), Ok(()));
            let all = all.to_vec();
            assert!(all[..end - 300].iter().all(|&byte| byte == round), "{} before", case.name);
            assert!(all[end..end + 700].iter().all(|&byte| byte == 0xbb), "{} behind", case.name);
            assert!(all[end + 700..].iter().all(|&byte| byte == 0), "{} beyond", case.name);
        }
    }
}

#[test]
fn nothing_beyond_the_end_is_touched() {
    let dir = Dir::new("end");
    for mut case in every_implementation(&dir, SIZE) {
        let buf = case.pool.try_alloc(4096).unwrap();
        let error = Err(IoError { fault: IoFault::Io, errno: libc::EINVAL });
        for offset in [SIZE, SIZE - 4095, SIZE + 4096, u64::MAX - 100, u64::MAX] {
            for op in [IoOp::Read(buf.io()), IoOp::Write(buf.io()), IoOp::WriteMeta(vec![1; 4096])] {
                assert_eq!(run(case.io.as_mut(), 0, offset, op), error, "{} at {offset}", case.name);
            }
        }
        assert_eq!(run(case.io.as_mut(), 0, SIZE - 4096, IoOp::Write(buf.io())), Ok(()));
    }
}

#[test]
fn an_empty_request_succeeds() {
    let dir = Dir::new("empty");
    for mut case in every_implementation(&dir, SIZE) {
        let none = case.pool.try_alloc(1).unwrap().view(0, 0).unwrap();
        for op in [IoOp::Read(none.clone()), IoOp::Write(none.clone()), IoOp::WriteMeta(Vec::new())] {
            assert_eq!(run(case.io.as_mut(), 0, SIZE, op), Ok(()), "{}", case.name);
        }
    }
}

#[test]
fn a_member_that_is_not_there_is_gone() {
    let dir = Dir::new("absent");
    for mut case in every_implementation(&dir, SIZE) {
        let result = run(case.io.as_mut(), MEMBERS, 0, IoOp::Flush);
        assert_eq!(result.unwrap_err().fault, IoFault::Gone, "{}", case.name);
    }
}

#[test]
fn memory_comes_back_only_when_the_operation_has_ended() {
    let dir = Dir::new("memory");
    for mut case in every_implementation(&dir, SIZE) {
        let buf = case.pool.try_alloc(1 << 20).unwrap();
        case.io.submit(Io { token: 1, member: 0, op: IoOp::Read(buf.io()), offset: 0 });
        buf.release();
        finish(case.io.as_mut());
        assert_eq!(case.pool.in_use(), 0, "{}", case.name);
    }
}

#[test]
fn dropping_it_with_work_in_flight_gives_the_memory_back() {
    let dir = Dir::new("drop");
    for mut case in every_implementation(&dir, SIZE) {
        for token in 0..300 {
            let buf = case.pool.try_alloc(4096).unwrap();
            let offset = token % 200 * 4096;
            case.io.submit(Io { token, member: 0, op: IoOp::Read(buf.io()), offset });
        }
        case.io.kick();
        drop(case.io);
        assert_eq!(case.pool.in_use(), 0, "{}", case.name);
    }
}

#[test]
fn more_than_the_queue_holds_can_be_submitted_at_once() {
    let dir = Dir::new("deep");
    for mut case in every_implementation(&dir, SIZE) {
        let buf = case.pool.try_alloc(4096).unwrap();
        for token in 0..6000 {
            let offset = token % 256 * 4096;
            case.io.submit(Io { token, member: 1, op: IoOp::Read(buf.io()), offset });
        }
        let done = finish(case.io.as_mut());
        assert_eq!(done.len(), 6000, "{}", case.name);
        assert!(done.iter().all(|done| done.result == Ok(())), "{}", case.name);
    }
}

#[test]
fn what_was_made_on_one_thread_works_on_another() {
    let dir = Dir::new("thread");
    for mut case in every_implementation(&dir, SIZE) {
        std::thread::spawn(move || {
            let buf = case.pool.try_alloc(8192).unwrap();
            buf.fill(0x5a);
            assert_eq!(run(case.io.as_mut(), 0, 4096, IoOp::Write(buf.io())), Ok(()));
            buf.fill(0);
            assert_eq!(run(case.io.as_mut(), 0, 4096, IoOp::Read(buf.io())), Ok(()));
            assert!(buf.to_vec() == [0x5a; 8192]);
        })
        .join()
        .unwrap();
    }
}

#[test]
fn the_descriptor_becomes_readable_when_something_ends() {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let dir = Dir::new("poll");
    let mut polled = 0;
    for mut case in every_implementation(&dir, SIZE) {
        // A busy machine may end every read before it is asked for; then more rounds are played.
        for round in 0..5000 {
            if round >= 50 && polled > 0 {
                break;
            }
            let buf = case.pool.try_alloc(65536).unwrap();
            let offset = round % 16 * 65536;
            case.io.submit(Io { token: round, member: 0, op: IoOp::Read(buf.io()), offset });
            case.io.kick();
            let mut done = Vec::new();
            // The shuffled members end nothing by themselves and have no descriptor.
            while case.io.reap(&mut done) == 0 {
                let Some(fd) = case.io.wait_fd() else { continue };
                let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
                let began = std::time::Instant::now();
                poll(&mut fds, PollTimeout::from(60_000_u16)).unwrap();
                // A poll that times out looks once more, so a missed wake-up shows only in the time.
                assert!(began.elapsed().as_secs() < 30, "{}: not woken", case.name);
                polled += 1;
            }
            assert_eq!(done.len(), 1);
            // Late signals are allowed, signals for ever are not.
            let quiet = (0..1000).any(|_| {
                assert_eq!(case.io.reap(&mut done), 0);
                case.io.wait_fd().is_none_or(|fd| {
                    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
                })
            });
            assert!(quiet, "{}: quiet again", case.name);
        }
    }
    assert!(polled > 0, "no implementation was ever waited for");
}

#[test]
fn waiting_ends_in_time_and_at_once_with_nothing_in_flight() {
    let dir = Dir::new("wait");
    for mut case in every_implementation(&dir, SIZE) {
        assert!(!case.io.wait(None), "{}", case.name);
        case.io.submit(Io { token: 1, member: 0, op: IoOp::Flush, offset: 0 });
        while !case.io.wait(Some(std::time::Duration::from_secs(10))) {}
        assert_eq!(case.io.reap(&mut Vec::new()), 1);
    }
}
