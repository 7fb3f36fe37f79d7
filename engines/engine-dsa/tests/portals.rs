//! The ways in that can be had without a device: write(2), on devices that take everything or nothing, and
//! the socket, with the other side played by the test.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread::{self, JoinHandle, yield_now};
use std::time::{Duration, Instant};

use engine_dsa::descriptor::Seed;
use engine_dsa::discover::{Mode, Paths, scan};
use engine_dsa::portal::{OpenError, Portal, PortalError, SocketPortal, WritePortal, open, open_node};
use engine_dsa::wire::Descriptor;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv, send, socket,
};
use nix::sys::stat;
use nix::unistd::mkfifo;

/// Longer than any answer may take, for what must happen but may be slow.
const LONG: Duration = Duration::from_secs(20);

fn closes(portal: &mut dyn Portal) {
    let deadline = Instant::now() + LONG;
    while !portal.is_closed() {
        assert!(Instant::now() < deadline, "it does not close");
        yield_now();
    }
}

#[test]
fn write_takes_a_page_of_descriptors_a_call() {
    let mut portal = WritePortal::open(Path::new("/dev/null")).unwrap();
    assert_eq!(portal.method(), "write");
    assert_eq!(portal.submit(&[Descriptor::noop(); 5]), Ok(5));
    assert_eq!(portal.submit(&[Descriptor::noop(); 70]), Ok(64));
    assert_eq!(portal.submit(&[]), Ok(0));
    assert!(!portal.is_closed());
    portal.begin_close();
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    portal.begin_close();
    closes(&mut portal);
}

#[test]
fn write_tells_why_it_was_refused() {
    let mut portal = WritePortal::open(Path::new("/dev/full")).unwrap();
    let refused = portal.submit(&[Descriptor::noop()]);
    assert_eq!(refused, Err(PortalError::Refused(libc::ENOSPC)));
    assert!(refused.unwrap_err().to_string().contains("No space"));
}

#[test]
fn what_is_no_queue_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let refused = |path: &Path| open_node(path, Mode::Shared, true).err().unwrap();
    assert_eq!(refused(&at("nothing")), OpenError::Missing(at("nothing")));
    fs::write(at("file"), "").unwrap();
    assert_eq!(refused(&at("file")), OpenError::NotADevice(at("file")));
    mkfifo(&at("pipe"), stat::Mode::S_IRWXU).unwrap();
    assert_eq!(refused(&at("pipe")), OpenError::NotADevice(at("pipe")));
    assert!(matches!(refused(directory.path()), OpenError::System { errno: libc::EISDIR, .. }));
    // A socket that nobody listens to any more.
    drop(Peer::bind(&at("socket")));
    assert!(matches!(refused(&at("socket")), OpenError::System { errno: libc::ECONNREFUSED, .. }));
    assert!(OpenError::Permission(at("x")).to_string().contains("docs/dsa.md"));
}

#[test]
fn a_device_that_cannot_be_mapped_is_written_to() {
    for mode in [Mode::Shared, Mode::Dedicated] {
        for mapped in [true, false] {
            let mut portal = open_node(Path::new("/dev/null"), mode, mapped).unwrap();
            assert_eq!(portal.method(), "write");
            assert_eq!(portal.submit(&[Descriptor::noop(); 3]), Ok(3));
        }
    }
}

/// The other side of a socket: a listener, and what it accepted.
struct Peer(OwnedFd);

impl Peer {
    fn bind(path: &Path) -> Peer {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&fd, Backlog::new(4).unwrap()).unwrap();
        Peer(fd)
    }

    fn accept(&self) -> Connection {
        let fd = accept4(self.0.as_raw_fd(), SockFlag::SOCK_CLOEXEC).unwrap();
        // SAFETY: accept4 has just made this descriptor, and nothing else knows of it.
        Connection(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

struct Connection(OwnedFd);

impl Connection {
    /// The next packet; empty at the end.
    fn packet(&self) -> Vec<u8> {
        let mut packet = vec![0; 8192];
        let n = recv(self.0.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        packet.truncate(n);
        packet
    }

    fn send(&self, bytes: &[u8]) {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    fn answer(&self, value: i32) {
        self.send(&value.to_le_bytes());
    }
}

/// A portal, and the other side of its socket.
fn connected() -> (SocketPortal, Connection) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("wq0.0");
    let peer = Peer::bind(&path);
    let portal = SocketPortal::connect(&path).unwrap();
    (portal, peer.accept())
}

/// Has a thread take one packet and answer with these bytes, then hand the connection back.
fn answering(connection: Connection, answer: Vec<u8>) -> JoinHandle<(Connection, Vec<u8>)> {
    thread::spawn(move || {
        let packet = connection.packet();
        connection.send(&answer);
        (connection, packet)
    })
}

#[test]
fn a_packet_carries_the_descriptors_and_its_answer_counts_them() {
    let (mut portal, mut connection) = connected();
    assert_eq!(portal.method(), "socket");
    let copy = Descriptor::memmove(0x1000, 0x2000, 64).unwrap();
    let list = [copy, Descriptor::crc(0x1000, 9, Seed::Value(1)).unwrap(), Descriptor::noop()];
    for (answer, result) in [
        (192, Ok(3)),
        (64, Ok(1)),
        (-libc::EAGAIN, Err(PortalError::Retry)),
        (0, Err(PortalError::Retry)),
        (-libc::EINVAL, Err(PortalError::Refused(libc::EINVAL))),
        (-libc::EBUSY, Err(PortalError::Refused(libc::EBUSY))),
    ] {
        let peer = answering(connection, answer.to_le_bytes().into());
        assert_eq!(portal.submit(&list), result);
        let (back, packet) = peer.join().unwrap();
        assert_eq!(packet, list.map(|d| d.0).concat());
        connection = back;
    }
    let peer = answering(connection, 4096_i32.to_le_bytes().into());
    assert_eq!(portal.submit(&[Descriptor::noop(); 65]), Ok(64));
    assert_eq!(peer.join().unwrap().1.len(), 4096);
}

#[test]
fn an_answer_that_is_none_ends_the_use_but_not_the_doubt() {
    for answer in [vec![], vec![64, 0, 0], vec![64, 0, 0, 0, 0], 128_i32.to_le_bytes().into()] {
        let (mut portal, connection) = connected();
        let peer = answering(connection, answer.clone());
        assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone), "{answer:?}");
        assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
        let (connection, _) = peer.join().unwrap();
        portal.begin_close();
        assert!(!portal.is_closed(), "the other side may still write our memory");
        drop(connection);
        assert!(portal.is_closed());
    }
}

#[test]
fn no_answer_in_time_is_gone_and_a_late_one_changes_nothing() {
    let (mut portal, connection) = connected();
    let begun = Instant::now();
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
    connection.answer(64);
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    portal.begin_close();
    // Late answers, empty packets and more than one look takes: none of it is the end.
    for _ in 0..20 {
        connection.answer(64);
        connection.send(&[]);
    }
    for _ in 0..10 {
        assert!(!portal.is_closed());
    }
    drop(connection);
    closes(&mut portal);
}

#[test]
fn a_peer_that_dies_is_gone_without_a_signal() {
    // The test harness ignores the signal, a daemon might not.
    // SAFETY: the default action is set, which is no handler; every test here writes to sockets only with
    // MSG_NOSIGNAL, so nothing else depends on it.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
    let (mut portal, connection) = connected();
    drop(connection);
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    assert!(!portal.is_closed(), "closing was not asked for");
    portal.begin_close();
    assert!(portal.is_closed() && portal.is_closed());

    // It dies with a packet unread, and with one read and not answered.
    let (mut portal, connection) = connected();
    let peer = thread::spawn(move || drop(connection.packet()));
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    peer.join().unwrap();
    portal.begin_close();
    closes(&mut portal);
    let (mut portal, connection) = connected();
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    drop(connection);
    portal.begin_close();
    closes(&mut portal);
}

#[test]
fn the_peer_sees_the_close_and_is_waited_for() {
    let (mut portal, connection) = connected();
    portal.begin_close();
    portal.begin_close();
    assert_eq!(portal.submit(&[Descriptor::noop()]), Err(PortalError::Gone));
    assert!(connection.packet().is_empty(), "it reads the end");
    for _ in 0..100 {
        assert!(!portal.is_closed(), "it still has operations under way");
    }
    drop(connection);
    closes(&mut portal);
}

#[test]
fn the_peer_may_trace_this_process() {
    // Whether the system asks for it or not, the call must have been harmless: memory can be read.
    let (_portal, _connection) = connected();
    let mut secret = *b"readable";
    let mut copy = [0; 8];
    let (local, remote) = (iovec(&mut copy), iovec(&mut secret));
    // SAFETY: both vectors describe arrays of eight bytes of this process, alive during the call.
    let n = unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) };
    assert!(n == 8 || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM));
}

fn iovec(bytes: &mut [u8; 8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
}

#[test]
fn a_queue_of_a_fake_tree_is_opened_through_its_socket() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let paths = Paths { sysfs: at("sysfs"), dev: at("dev"), nodes: at("nodes") };
    let queue = paths.sysfs.join("dsa0/wq0.0");
    fs::create_dir_all(&queue).unwrap();
    fs::create_dir_all(&paths.dev).unwrap();
    for (name, value) in [
        ("../state", "enabled"),
        ("../op_cap", "1003f03ff"),
        ("../max_transfer_size", "2097152"),
        ("state", "enabled"),
        ("mode", "shared"),
        ("type", "user"),
        ("name", "uraid-s0"),
        ("size", "16"),
    ] {
        fs::write(queue.join(name), value).unwrap();
    }
    let peer = Peer::bind(&paths.dev.join("wq0.0"));
    let snapshot = scan(&paths);
    let queue = snapshot.queues().next().unwrap();
    assert!(queue.usable(), "{:?}", queue.obstacles);
    let mut portal = open(queue).unwrap();
    let peer = answering(peer.accept(), 64_i32.to_le_bytes().into());
    assert_eq!((portal.method(), portal.submit(&[Descriptor::noop()])), ("socket", Ok(1)));
    peer.join().unwrap();
}
