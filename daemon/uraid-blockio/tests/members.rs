//! Opening members, and what a set does with them.

#[cfg(test)]
mod common;

use std::os::fd::AsFd;

use common::{Dir, Loop, finish, run, tool};
use uraid_blockio::*;

const SIZE: u64 = 1 << 20;

fn buffered() -> OpenOptions {
    OpenOptions { direct: Direct::Off, ..Default::default() }
}

#[cfg(test)]
fn pool() -> BufPool {
    BufPool::new(4 << 20, ArenaOptions { prefault: true, lock: false }).unwrap()
}

#[test]
fn a_file_is_described() {
    let dir = Dir::new("describe");
    let path = dir.sparse("a", SIZE + 100);
    let member = Member::open(&path, OpenOptions::default()).unwrap();
    assert_eq!((member.size(), member.kind(), member.path()), (SIZE + 100, Kind::File, path.as_path()));
    assert!(member.logical_block() >= 512);
    assert!(!member.is_direct(), "its size is no multiple of any block");
    assert!(!member.is_read_only());
}

#[test]
fn one_file_is_not_served_twice() {
    let dir = Dir::new("twice");
    let path = dir.sparse("a", SIZE);
    let first = Member::open(&path, buffered()).unwrap();
    let second = Member::open(&path, OpenOptions { read_only: true, ..buffered() });
    let message = second.unwrap_err().to_string();
    assert!(message.contains(path.to_str().unwrap()) && message.contains("in use"), "{message}");
    let looked_at = Member::open(&path, OpenOptions { read_only: true, exclusive: false, ..buffered() });
    assert_eq!(looked_at.unwrap().identity(), first.identity());
    drop(first);
    let (a, b) =
        (OpenOptions { read_only: true, ..buffered() }, OpenOptions { read_only: true, ..buffered() });
    let _readers_share = (Member::open(&path, a).unwrap(), Member::open(&path, b).unwrap());
}

#[test]
fn a_hard_link_has_the_same_identity_and_another_file_has_not() {
    let dir = Dir::new("identity");
    let (a, b, link) = (dir.sparse("a", SIZE), dir.sparse("b", SIZE), dir.file("link"));
    std::fs::hard_link(&a, &link).unwrap();
    let look = |path| Member::open(path, OpenOptions { exclusive: false, ..buffered() }).unwrap().identity();
    assert_eq!(look(&a), look(&link));
    assert_ne!(look(&a), look(&b));
}

#[test]
fn what_stores_no_blocks_is_refused() {
    let dir = Dir::new("refused");
    for path in ["/dev/null", "/"] {
        let err = Member::open(path, OpenOptions::default()).unwrap_err();
        assert!(matches!(err, OpenError::NotStorage { .. }), "{err}");
    }
    let err = Member::open(dir.file("absent"), OpenOptions::default()).unwrap_err();
    assert!(err.to_string().contains("absent"), "{err}");
}

#[test]
fn a_sparse_file_is_made_once() {
    let dir = Dir::new("sparse");
    let path = dir.sparse("a", 1 << 40);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 40);
    let err = create_sparse(&path, 5).unwrap_err().to_string();
    assert!(err.contains(path.to_str().unwrap()), "{err}");
    assert!(create_sparse(dir.file("b"), u64::MAX).is_err());
    assert!(!dir.file("b").exists(), "a file that could not be made long enough is removed");
}

#[test]
fn a_read_only_member_refuses_writes_and_serves_reads() {
    let dir = Dir::new("readonly");
    let path = dir.sparse("a", SIZE);
    for engine in [EnginePreference::Sync, EnginePreference::Uring] {
        let mut set = MemberSet::new();
        let options = OpenOptions { read_only: true, engine, ..Default::default() };
        let at = set.attach(Member::open(&path, options).unwrap()).unwrap();
        let pool = pool();
        let buf = pool.try_alloc(4096).unwrap();
        let refused = Err(IoError { fault: IoFault::Io, errno: libc::EROFS });
        assert_eq!(run(&mut set, at, 0, IoOp::Write(buf.io())), refused);
        assert_eq!(run(&mut set, at, 0, IoOp::WriteMeta(vec![0; 512])), refused);
        assert_eq!(run(&mut set, at, 0, IoOp::Read(buf.io())), Ok(()));
        assert_eq!(run(&mut set, at, 0, IoOp::Flush), Ok(()));
    }
}

#[test]
fn a_file_cut_short_behind_our_back_is_gone_and_does_not_grow_back() {
    let dir = Dir::new("cut");
    let gone = Err(IoError { fault: IoFault::Gone, errno: libc::ENODATA });
    for engine in [EnginePreference::Auto, EnginePreference::Sync, EnginePreference::Uring] {
        for direct in [Direct::Off, Direct::Require] {
            // The second length is within a block: a direct read cannot be continued from there.
            for length in [6144, 6244] {
                let path = dir.sparse(&format!("{engine:?}-{direct:?}-{length}"), SIZE);
                let mut set = MemberSet::new();
                let options = OpenOptions { engine, direct, ..Default::default() };
                let at = set.attach(Member::open(&path, options).unwrap()).unwrap();
                let pool = pool();
                let buf = pool.try_alloc(4096).unwrap();
                assert_eq!(run(&mut set, at, 4096, IoOp::Write(buf.io())), Ok(()));
                assert_eq!(run(&mut set, at, 0, IoOp::Flush), Ok(()));
                std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
                for offset in [4096, 8192, SIZE - 4096] {
                    assert_eq!(
                        run(&mut set, at, offset, IoOp::Read(buf.io())),
                        gone,
                        "{engine:?} {direct:?}"
                    );
                    assert_eq!(run(&mut set, at, offset, IoOp::Write(buf.io())), gone);
                    assert_eq!(run(&mut set, at, offset, IoOp::WriteMeta(vec![1; 4096])), gone);
                    assert_eq!(run(&mut set, at, offset + 1, IoOp::WriteMeta(vec![1; 700])), gone);
                }
                assert_eq!(run(&mut set, at, 0, IoOp::Flush), gone);
                assert_eq!(run(&mut set, at, 0, IoOp::Read(buf.io())), Ok(()), "what is left is there");
                assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
            }
        }
    }
}

#[test]
fn members_come_and_go_while_others_work() {
    let dir = Dir::new("hotplug");
    let pool = pool();
    let mut set = MemberSet::new();
    let open = |name| {
        let engine = EnginePreference::Uring;
        Member::open(dir.sparse(name, SIZE), OpenOptions { engine, ..Default::default() }).unwrap()
    };
    let first = set.attach(open("first")).unwrap();
    let buf = pool.try_alloc(65536).unwrap();
    for token in 0..16 {
        set.submit(Io { token, member: first, op: IoOp::Read(buf.io()), offset: token * 65536 });
    }
    set.kick();
    let second = set.attach(open("second")).unwrap();
    assert_ne!(first, second);
    set.detach(first);
    assert!(set.member(first).is_none());
    set.submit(Io { token: 99, member: first, op: IoOp::Read(buf.io()), offset: 0 });
    set.submit(Io { token: 100, member: second, op: IoOp::Write(buf.io()), offset: 0 });
    let done = finish(&mut set);
    assert_eq!(done.len(), 18);
    for done in done {
        let gone = done.result.is_err_and(|err| err.fault == IoFault::Gone);
        assert_eq!(gone, done.token == 99, "{done:?}");
    }
    // Its file is closed, so its claim is gone too.
    assert!(Member::open(dir.file("first"), OpenOptions::default()).is_ok());
    assert_eq!(set.attach(open("third")).unwrap(), 2);
}

#[test]
fn without_a_ring_everything_is_served_inline() {
    let dir = Dir::new("noring");
    let pool = pool();
    let mut set = MemberSet::without_ring();
    assert!(set.register(pool.arena()).is_err());
    let path = dir.sparse("a", SIZE);
    let at = set.attach(Member::open(&path, OpenOptions::default()).unwrap()).unwrap();
    assert_eq!(set.backend(at).unwrap().engine, Engine::Sync);
    assert_eq!(run(&mut set, at, 0, IoOp::WriteMeta(vec![7; 1024])), Ok(()));
    assert!(set.wait_fd().is_none());
    drop(set);
    assert_eq!(std::fs::read(&path).unwrap()[..1024], [7; 1024]);

    let mut set = MemberSet::without_ring();
    let options = OpenOptions { engine: EnginePreference::Uring, ..Default::default() };
    let err = set.attach(Member::open(&path, options).unwrap()).unwrap_err().to_string();
    assert!(err.contains(path.to_str().unwrap()), "{err}");
}

#[test]
fn a_ring_used_from_a_second_thread_falls_back_to_inline() {
    let dir = Dir::new("second");
    let pool = pool();
    let mut set = MemberSet::new();
    let options = OpenOptions { engine: EnginePreference::Uring, ..Default::default() };
    let at = set.attach(Member::open(dir.sparse("a", SIZE), options).unwrap()).unwrap();
    assert_eq!(run(&mut set, at, 0, IoOp::WriteMeta(vec![1; 4096])), Ok(()));
    let buf = pool.try_alloc(4096).unwrap();
    std::thread::spawn(move || {
        assert_eq!(run(&mut set, at, 0, IoOp::Read(buf.io())), Ok(()));
        assert_eq!(buf.to_vec(), [1; 4096]);
        assert_eq!(set.backend(at).unwrap().engine, Engine::Sync);
        assert!(set.ring_refused().is_some());
    })
    .join()
    .unwrap();
}

#[test]
fn a_block_device_is_described_claimed_and_served() {
    let dir = Dir::new("block");
    let device = Loop::new(&dir.sparse("a", SIZE), 4096);
    let member = Member::open(&device.0, OpenOptions::default()).unwrap();
    assert_eq!((member.size(), member.kind(), member.logical_block()), (SIZE, Kind::Block, 4096));
    assert!(member.is_direct());
    assert!(matches!(member.identity(), Identity::Block { .. }));
    let second = Member::open(&device.0, OpenOptions::default());
    assert!(matches!(second.unwrap_err(), OpenError::Busy { .. }));
    let mut set = MemberSet::new();
    let at = set.attach(member).unwrap();
    // A superblock: 1024 bytes at a place that is no multiple of the device's block.
    assert_eq!(run(&mut set, at, 8192, IoOp::WriteMeta(vec![0xee; 4096])), Ok(()));
    assert_eq!(run(&mut set, at, 9216, IoOp::WriteMeta(vec![0xab; 1024])), Ok(()));
    let pool = pool();
    let buf = pool.try_alloc(4096).unwrap();
    assert_eq!(run(&mut set, at, 8192, IoOp::Read(buf.io())), Ok(()));
    let expected: Vec<u8> = [0xee; 1024].into_iter().chain([0xab; 1024]).chain([0xee; 2048]).collect();
    assert!(buf.to_vec() == expected);
    drop(set);
    assert!(Member::open(&device.0, OpenOptions::default()).is_ok());
}

#[test]
fn what_lies_behind_a_loop_device_is_told() {
    let dir = Dir::new("behind");
    let path = dir.sparse("a", SIZE);
    let device = Loop::new(&path, 512);
    let look = |path: &str| Member::open(path, OpenOptions { exclusive: false, ..buffered() }).unwrap();
    let file = look(path.to_str().unwrap()).identity();
    let of = |path: &str| loop_file(std::fs::File::open(path).unwrap().as_fd());
    assert_eq!(of(&device.0).unwrap(), file);
    let second = Loop::new(device.0.as_ref(), 512);
    assert_eq!(of(&second.0).unwrap(), look(&device.0).identity());
    assert_eq!(of("/dev/null").unwrap_err().raw_os_error(), Some(libc::ENOTTY));
}

/// Mounts a tmpfs that only this thread (and what it starts) sees, and that goes with it.
#[cfg(test)]
fn private_tmpfs(dir: &Dir, bytes: u64) -> std::path::PathBuf {
    // SAFETY: the call changes what this thread, made for this test, sees of the file system.
    let rc = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
    assert_eq!(
        rc,
        0,
        "this test needs to be root, for a mount namespace: {}",
        std::io::Error::last_os_error()
    );
    tool("mount", &["--make-rprivate", "/"]);
    let path = dir.file("tmpfs");
    std::fs::create_dir(&path).unwrap();
    tool("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", path.to_str().unwrap()]);
    path
}

#[test]
fn a_full_file_system_is_no_space_and_memory_is_served_inline() {
    let dir = Dir::new("full");
    std::thread::spawn(move || {
        let mount = private_tmpfs(&dir, SIZE);
        for (name, engine) in [("auto", EnginePreference::Auto), ("uring", EnginePreference::Uring)] {
            let path = mount.join(name);
            create_sparse(&path, 4 * SIZE).unwrap();
            let member = Member::open(&path, OpenOptions { engine, ..Default::default() }).unwrap();
            let mut set = MemberSet::new();
            let at = set.attach(member).unwrap();
            if engine == EnginePreference::Auto {
                assert_eq!(set.backend(at).unwrap().engine, Engine::Sync);
                assert!(!set.backend(at).unwrap().direct);
            }
            let pool = pool();
            let buf = pool.try_alloc(2 << 20).unwrap();
            let error = run(&mut set, at, 0, IoOp::Write(buf.io())).unwrap_err();
            assert_eq!(error, IoError { fault: IoFault::NoSpace, errno: libc::ENOSPC });
            std::fs::remove_file(&path).unwrap();
        }
    })
    .join()
    .unwrap();
}
