//! Queues that are dropped while their portal does not close.

#![cfg(test)]

mod script;

use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_tx::{Engine, Op, Thresholds};
use engine_cpu::CpuBackend;
use engine_dsa::backend::{DsaBackend, Options};
use engine_dsa::discover::Mode;
use engine_dsa::open::{OpenError, Opened, Opener};
use engine_dsa::portal::open_node;
use engine_dsa::queue::{Queue, Usage};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

use script::{Handle, Memory, Record, opener, plain, queue, ready, setup};

/// Does something that must not wait for a device, on a thread of its own.
fn at_once(what: &str, act: impl FnOnce() + Send + 'static) {
    let (sender, ended) = channel();
    let thread = std::thread::spawn(move || {
        act();
        sender.send(()).unwrap();
    });
    assert!(
        ended.recv_timeout(Duration::from_secs(20)).is_ok(),
        "{what} waits for a queue that does not close"
    );
    thread.join().unwrap();
}

/// A queue whose portal does not close before it is let.
fn stuck() -> (Queue, Handle) {
    let (queue, handle, _) = queue(plain());
    handle.script().closed = false;
    (queue, handle)
}

#[test]
fn an_idle_queue_is_dropped_at_once_and_closed_by_a_thread() {
    let (queue, handle) = stuck();
    at_once("dropping an idle queue", move || drop(queue));
    // Told again and again, for the first time may have lacked a thread.
    while handle.script().closes < 4 {
        std::thread::yield_now();
    }
    handle.let_close();
    while !handle.is_dropped() {
        std::thread::yield_now();
    }
}

#[test]
fn a_queue_is_dropped_when_the_last_record_is_written_though_it_does_not_close() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle) = stuck();
    assert_eq!(queue.submit(&[ready(0, op), ready(1, op)]), 2);
    for index in 0..2 {
        Record::new(1).write(&handle.accepted(index));
    }
    at_once("dropping a queue with written records", move || drop(queue));
    handle.let_close();
}

#[test]
fn a_queue_with_work_waits_and_tells_the_portal_again() {
    let mut memory = Memory::new(2);
    let op = Op::Copy { src: memory.block(0), dst: memory.block(1) };
    let (mut queue, handle) = stuck();
    assert_eq!(queue.submit(&[ready(0, op)]), 1);
    handle.script().closed_after = Some(50);
    drop(queue);
    let script = handle.script();
    let (closes, asked) = (script.closes, script.asked);
    assert!(asked > 50 && closes > 10, "told {closes} times, asked {asked} times");
}

#[test]
fn the_device_forgets_the_pool_before_it_is_unmapped() {
    /// Notes at its end whether the pool is mapped.
    struct Watching(usize, usize, Arc<Mutex<Option<bool>>>);
    impl Drop for Watching {
        fn drop(&mut self) {
            let mut pages = vec![0u8; self.1 / 4096];
            let start = std::ptr::with_exposed_provenance_mut(self.0);
            // SAFETY: a byte a page; the call fails for addresses that are not mapped.
            let mapped = unsafe { libc::mincore(start, self.1, pages.as_mut_ptr()) } == 0;
            *self.2.lock().unwrap() = Some(mapped);
        }
    }
    for closed in [true, false] {
        let mapped = Arc::new(Mutex::new(None));
        let (handle, noted) = (Handle::default(), Arc::clone(&mapped));
        let queue = Queue::new(
            handle.portal(),
            setup(),
            Usage::default(),
            Arc::default(),
            Some(Box::new(move |start, len| {
                Box::new(Watching(start.expose_provenance(), len, Arc::clone(&noted))) as Box<dyn Send>
            })),
        );
        handle.script().closed = closed;
        drop(queue.unwrap());
        handle.let_close();
        while !closed && mapped.lock().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(*mapped.lock().unwrap(), Some(true), "closed at once: {closed}");
    }
}

#[test]
fn an_engine_is_not_held_up_by_an_idle_queue_that_does_not_close() {
    for removed in [true, false] {
        let (opener, opened) = opener(|_| setup());
        let backend = DsaBackend::open("dsa", opener, Options::default()).unwrap();
        at_once("the engine", move || {
            let mut engine = Engine::new(Box::new(CpuBackend::auto()));
            engine.add_backend(Box::new(backend), Thresholds::default());
            if removed {
                assert!(engine.remove_backend("dsa"));
            }
        });
        opened.lock().unwrap()[0].let_close();
    }
}

#[test]
fn a_model_that_says_nothing_at_the_start_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let node = directory.path().join("wq0.0");
    let server = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(server.as_raw_fd(), &UnixAddr::new(&node).unwrap()).unwrap();
    listen(&server, Backlog::new(8).unwrap()).unwrap();
    at_once("the start", move || {
        let opener: Opener = Arc::new(move || {
            Ok(Opened { portal: open_node(&node, Mode::Shared, true)?, setup: setup(), watch: None })
        });
        let mut backend = DsaBackend::open("dsa", opener, Options::default()).unwrap();
        assert!(matches!(backend.prove(), Err(OpenError::Broken { .. } | OpenError::Silent { .. })));
        drop(backend);
    });
}
