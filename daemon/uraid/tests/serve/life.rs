//! From start to end: serving, stopping, signals, crashes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nbd_rs::Errno;
use nix::sys::signal::Signal;

use crate::client::{Client, Trouble};
use crate::world::{Rng, World};

#[test]
fn what_is_written_is_there_in_the_next_life_and_members_are_clean() {
    let world = World::new(6, 6);
    let daemon = world.serve();
    let expected = format!("serving vol (raid6, 6 members, 60.0 MiB) on unix:{}\n", world.socket().display());
    assert_eq!(daemon.line, expected);
    let mut client = world.client();
    assert_eq!(client.remote.size, 60 << 20);
    let block = client.remote.block.unwrap();
    assert_eq!((block.preferred(), block.max_payload()), (16384, 32 << 20));
    let mut model = vec![0; 60 << 20];
    let mut rng = Rng(0x6c69_6665);
    for _ in 0..200 {
        let len = (1 + rng.below(300)) * 512;
        let offset = rng.below(((60 << 20) - len) / 512) * 512;
        let data = rng.bytes(len as usize);
        client.write(offset, &data).unwrap();
        model[offset as usize..][..data.len()].copy_from_slice(&data);
        if rng.below(10) == 0 {
            client.flush().unwrap();
        }
    }
    assert!(client.read_all() == model);
    let stopped = world.ctl("stop", &[]);
    assert_eq!((stopped.code, stopped.stdout.as_str()), (0, "vol is stopped and marked clean\n"));
    // When `stop` has returned members and sockets are free, even if the process is not quite gone.
    let next = world.serve();
    assert_eq!(daemon.wait().0, Some(0));
    assert!(!next.log().contains("WARN"), "{}", next.log());
    assert!(world.client().read_all() == model);
    next.terminate();
    world.assert_all_clean();
    assert!(!world.socket().exists() && !world.control().exists());
}

#[test]
fn the_default_export_is_the_array_and_others_do_not_exist() {
    let world = World::new(5, 3);
    let _daemon = world.serve();
    assert_eq!(Client::connect(&world.socket(), "").remote.size, 30 << 20);
    let other = Client::over(Box::new(UnixStream::connect(world.socket()).unwrap()), "other");
    assert!(other.err().unwrap().to_string().contains("other"));
    let mut client = world.client();
    client.write(0, &[1; 512]).unwrap();
    assert!(matches!(client.read(30 << 20, 512), Err(Trouble::Refused(Errno::Inval))));
}

#[test]
fn a_flush_on_one_connection_covers_all() {
    let world = World::new(5, 3);
    let daemon = world.serve();
    let (mut one, mut two) = (world.client(), world.client());
    one.write(4096, &[7; 8192]).unwrap();
    assert_eq!(two.read(4096, 8192).unwrap(), [7; 8192]);
    two.flush().unwrap();
    let status = world.status();
    assert_eq!(status["counters"]["connections"], 2);
    assert_eq!(status["counters"]["written_bytes"], 8192);
    // A crash of the daemon takes nothing that the flush covered.
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    let _daemon = world.serve();
    assert_eq!(world.client().read(4096, 8192).unwrap(), [7; 8192]);
}

#[test]
fn tcp_works_like_the_unix_socket() {
    let world = World::new(5, 3);
    let daemon = world.serve_with(&["--listen", "tcp:127.0.0.1:0"], &world.members);
    let (_, address) = daemon.line.trim().split_once(" tcp:").unwrap();
    let mut client = Client::over(Box::new(TcpStream::connect(address).unwrap()), "vol").unwrap();
    client.write(512, &[9; 512]).unwrap();
    assert_eq!(world.client().read(512, 512).unwrap(), [9; 512]);
    let exports = world.status()["exports"].clone();
    assert_eq!(exports[1], format!("nbd://{address}/vol"));
    daemon.terminate();
}

#[test]
fn a_member_that_is_missing_is_a_warning() {
    let world = World::new(5, 4);
    let daemon = world.serve();
    world.client().write(0, &[3; 1 << 20]).unwrap();
    daemon.terminate();
    let daemon = world.serve_with(&[], &world.members[1..]);
    assert!(daemon.line.starts_with("serving vol (raid5, 3 of 4 members, 45.0 MiB)"), "{}", daemon.line);
    assert!(daemon.log().contains("the array is degraded: no member for role 0"), "{}", daemon.log());
    assert_eq!(world.client().read(0, 1 << 20).unwrap(), vec![3; 1 << 20]);
    let status = world.status();
    assert_eq!((&status["state"], &status["degraded"]), (&"degraded".into(), &1.into()));
    assert_eq!(status["members"][0]["state"], "missing");
    daemon.terminate();
}

#[test]
fn a_read_only_volume_is_never_written_to() {
    let world = World::new(5, 3);
    let before: Vec<_> = world.members.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let daemon = world.serve_with(&["--read-only"], &world.members);
    let mut client = world.client();
    assert!(matches!(client.write(0, &[1; 512]), Err(Trouble::Refused(Errno::Perm))));
    assert_eq!(client.read(0, 512).unwrap(), [0; 512]);
    let spare = world.blank("spare", 16 << 20);
    let run = world.ctl("add", &[spare.to_str().unwrap()]);
    assert!(run.code == 1 && run.stderr.contains("read-only"), "{run:?}");
    daemon.terminate();
    let after: Vec<_> = world.members.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(before == after);
}

#[test]
fn a_service_manager_hears_of_start_and_end() {
    let world = World::new(5, 3);
    let manager = UnixDatagram::bind(world.path("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let args = world.serve_args(&[], &world.members);
    let notify = world.path("notify");
    let environment = [("NOTIFY_SOCKET", notify.to_str().unwrap())];
    let daemon = world.start(&args.iter().map(String::as_str).collect::<Vec<_>>(), &environment);
    wait_for_state(&manager, "READY=1");
    daemon.signal(Signal::SIGINT);
    wait_for_state(&manager, "STOPPING=1");
    assert_eq!(daemon.wait().0, Some(0));
}

fn wait_for_state(manager: &UnixDatagram, wanted: &str) {
    let mut message = [0; 4096];
    loop {
        let len = manager.recv(&mut message).unwrap();
        if String::from_utf8_lossy(&message[..len]).lines().any(|line| line == wanted) {
            return;
        }
    }
}

#[test]
fn a_client_that_says_nothing_is_dropped_in_time_and_others_are_served() {
    let world = World::new(5, 3);
    let members: Vec<String> = world.members.iter().map(|path| format!("{:?}", path.display())).collect();
    let config = format!(
        "members = [{}]\nlisten = [\"unix:{}\"]\ncontrol = {:?}\n[limits]\nhandshake_s = 1\n",
        members.join(", "),
        world.socket().display(),
        world.control().display(),
    );
    std::fs::write(world.path("vol.toml"), config).unwrap();
    let daemon = world.start(&["serve", "vol.toml"], &[]);
    // More than may be in the handshake at once; the others wait for their turn.
    let mut silent: Vec<_> = (0..40).map(|_| UnixStream::connect(world.socket()).unwrap()).collect();
    let mut garbage = UnixStream::connect(world.socket()).unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    world.client().write(0, &[1; 512]).unwrap();
    for stream in silent.iter_mut().chain([&mut garbage]) {
        let mut greeting = Vec::new();
        // Ends when the daemon hangs up; unread garbage makes that a reset.
        let _ = stream.read_to_end(&mut greeting);
        assert!(greeting.starts_with(b"NBDMAGIC"));
    }
    daemon.terminate();
}

#[test]
fn a_new_array_whose_parity_is_to_be_made_is_not_called_badly_stopped() {
    let world = World::new(5, 3);
    for member in &world.members {
        std::fs::write(member, Rng(0x6e65_7761).bytes(16 << 20)).unwrap();
    }
    let members: Vec<&str> = world.members.iter().map(|path| path.to_str().unwrap()).collect();
    let args = [&["create", "--level", "5", "--name", "vol", "--force"], &members[..]].concat();
    let run = world.uraid(&args);
    assert!(run.code == 0 && run.stdout.contains("a resync runs"), "{run:?}");
    let daemon = world.serve();
    let log = daemon.log();
    assert!(log.contains("the array is new and its parity was not made yet"), "{log}");
    assert!(!log.contains("not stopped cleanly"), "{log}");
    world.wait_for("resynced", |status| status["state"] == "clean" && status["sync"].is_null());
    daemon.terminate();
}

#[test]
fn a_stop_before_the_resync_is_done_says_so() {
    let world = World::new(5, 3);
    // So much that reading it takes longer than a stop, and no zeroes, which would need no resync.
    let members = [0, 1, 2].map(|i| world.blank(&format!("big{i}"), 3 << 30));
    std::fs::OpenOptions::new().write(true).open(&members[0]).unwrap().write_all(&[1; 512]).unwrap();
    let paths: Vec<&str> = members.iter().map(|path| path.to_str().unwrap()).collect();
    let run = world.uraid(&[&["create", "--level", "5", "--name", "vol", "--force"], &paths[..]].concat());
    assert!(run.code == 0 && run.stdout.contains("a resync runs"), "{run:?}");
    for _ in 0..2 {
        let daemon = world.serve_with(&[], &members);
        let stopped = world.ctl("stop", &[]);
        assert_eq!(stopped.code, 0, "{stopped:?}");
        assert!(stopped.stdout.starts_with("vol is stopped; parity is "), "{stopped:?}");
        assert!(stopped.stdout.ends_with(" at the next start\n"), "{stopped:?}");
        assert_eq!(daemon.wait().0, Some(0));
    }
}

#[test]
fn silent_strangers_on_the_network_keep_nobody_out_of_the_unix_socket() {
    let world = World::new(5, 3);
    let daemon = world.serve_with(&["--listen", "tcp:127.0.0.1:0"], &world.members);
    let (_, address) = daemon.line.trim().split_once(" tcp:").unwrap();
    // As many as may be in the handshake at once, all in it: each has its greeting.
    let mut silent: Vec<_> = (0..32).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut greeting = [0; 18];
    for stream in &mut silent {
        stream.read_exact(&mut greeting).unwrap();
    }
    world.client().write(0, &[1; 512]).unwrap();
    // They were still in it when the other one came through.
    for stream in &mut silent {
        stream.set_nonblocking(true).unwrap();
        let waits = stream.read(&mut greeting).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }
    daemon.terminate();
}

/// Writes numbered blocks in turn, each to a place of its own, with a flush now and then, until the
/// daemon goes. Gives the number of writes that were acknowledged and of those that a flush covered.
fn load(world: &World, places: u64, written: &AtomicU64) -> (u64, u64) {
    let mut client = world.client();
    let (mut acknowledged, mut flushed) = (0, 0);
    for number in 0.. {
        let block = block(number);
        if client.write(number % places * 4096, &block).is_err() {
            break;
        }
        acknowledged = number + 1;
        written.store(acknowledged, Ordering::Relaxed);
        if number % 16 == 15 {
            if client.flush().is_err() {
                break;
            }
            flushed = acknowledged;
        }
    }
    (acknowledged, flushed)
}

fn block(number: u64) -> Vec<u8> {
    Rng(number).bytes(4096)
}

/// Every place holds the last sure write to it, or a later one that was sent.
fn check_load(world: &World, places: u64, sure: u64, sent: u64) {
    let mut client = world.client();
    for place in 0..places.min(sent) {
        let got = client.read(place * 4096, 4096).unwrap();
        let numbers = (place..sent).step_by(places as usize);
        let last_sure = numbers.clone().take_while(|number| *number < sure).last();
        let good = numbers.filter(|number| last_sure.is_none_or(|last| *number >= last));
        let zero = last_sure.is_none() && got.iter().all(|byte| *byte == 0);
        assert!(
            zero || good.map(block).any(|block| block == got),
            "place {place}: {sure} of {sent} are sure"
        );
    }
}

/// Runs the load until `signal` ends the daemon, after enough writes.
fn interrupt_load(world: &World, places: u64, signal: Signal) -> (Option<i32>, u64, u64, String) {
    let daemon = world.serve();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| load(world, places, &written));
        while written.load(Ordering::Relaxed) < 300 && !worker.is_finished() {
            std::thread::yield_now();
        }
        daemon.signal(signal);
        let (acknowledged, flushed) = worker.join().unwrap();
        assert!(acknowledged >= 300, "{}", daemon.log());
        let (code, log) = daemon.wait();
        (code, acknowledged, flushed, log)
    })
}

#[test]
fn sigterm_during_load_loses_nothing_that_was_acknowledged() {
    let world = World::new(6, 5);
    let (code, acknowledged, _, log) = interrupt_load(&world, 128, Signal::SIGTERM);
    assert_eq!(code, Some(0), "{log}");
    world.assert_all_clean();
    let daemon = world.serve();
    assert_eq!(world.status()["sync"], serde_json::Value::Null);
    check_load(&world, 128, acknowledged, acknowledged + 1);
    daemon.terminate();
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one_signal() {
    let world = World::new(6, 5);
    for _ in 0..4 {
        let daemon = world.serve();
        world.client().write(0, &[1; 1 << 20]).unwrap();
        // Two kinds, because two of one kind may become one on their way.
        daemon.signal(Signal::SIGTERM);
        daemon.signal(Signal::SIGINT);
        let (code, log) = daemon.wait();
        assert_eq!(code, Some(0), "{log}");
        world.assert_all_clean();
    }
}

#[test]
fn kill_9_during_load_loses_nothing_that_was_flushed_and_parity_is_made_good() {
    let world = World::new(6, 5);
    let (code, acknowledged, flushed, _) = interrupt_load(&world, 128, Signal::SIGKILL);
    assert_eq!(code, None);
    assert!(flushed > 0 && world.socket().exists() && world.control().exists());
    let daemon = world.serve();
    assert!(daemon.log().contains("the array was not stopped cleanly"), "{}", daemon.log());
    check_load(&world, 128, flushed, acknowledged + 1);
    world.wait_for("resynced", |status| status["state"] == "clean" && status["sync"].is_null());
    let data = world.client().read_all();
    // Parity is right if it gives the data of any two members.
    for member in &world.members[1..3] {
        assert_eq!(world.ctl("fail", &[member.to_str().unwrap()]).code, 0);
    }
    assert!(world.client().read_all() == data);
    daemon.terminate();
}

/// The daemon may wait long before it serves, and is asked to read its configuration again meanwhile.
#[test]
fn a_hangup_during_the_start_ends_nothing() {
    let world = World::new(5, 3);
    let in_use = std::fs::File::open(&world.members[0]).unwrap();
    in_use.lock_shared().unwrap();
    let args = world.serve_args(&[], &world.members);
    let daemon = world.begin(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    daemon.wait_for_log("waiting for the last writes");
    daemon.signal(Signal::SIGHUP);
    drop(in_use);
    let daemon = daemon.serving();
    daemon.wait_for_log("SIGHUP: nothing has changed");
    world.client().write(0, &[1; 512]).unwrap();
    daemon.terminate();
}
