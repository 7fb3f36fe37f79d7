//! Volumes with devices that are late, fail, hang, and write to what they were given until the last moment
//! at which they may: the bytes must be right all the same, and the memory must be there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use async_tx::{
    Backend, Caps, Completion, EngineConfig, Fault, Limits, Nanos, Op, OpKind, OpToken, ReadyOp, Region,
    Revival, Verdict,
};
use md_format::Level;
use nbd_rs::Command;
use uraid_blockio::BufPool;
use uraid_core::RequestKind;
use uraid_shard::{EngineChange, NewBackend, NewRequest, ShardExit, cpu_engine};

use crate::runner::{Asked, Bench, Shape, whole_life_on};
use crate::volume::{Rng, Volume, create, tuning};

/// How a device behaves.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// Of 64 operations so many fail, and so many are not heard of until they are given up.
    failing: u64,
    hanging: u64,
    /// It never gives back what it was told to give up, but when it is dropped.
    stubborn: bool,
}

const HANGING: Manner = Manner { failing: 0, hanging: 64, stubborn: false };

/// What became of the devices of a test.
#[derive(Default, Debug)]
struct Seen {
    /// Operations whose destination was spoilt when they were given up.
    late_writes: AtomicU64,
    /// The same when the device was dropped.
    writes_in_drop: AtomicU64,
    /// What else to look at when it is dropped.
    pool: Mutex<Option<BufPool>>,
    /// Bytes of the pool that were in use then.
    pool_in_drop: AtomicU64,
}

/// An operation in its hands.
struct Held {
    token: OpToken,
    src: Option<Region>,
    dst: Region,
    byte: u8,
    /// How many more looks it takes.
    looks: u64,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Works,
    Fails,
    Hangs,
}

/// A device that copies and fills.
struct Device {
    name: String,
    manner: Manner,
    rng: Rng,
    held: Vec<Held>,
    giving_up: bool,
    seen: Arc<Seen>,
}

impl Device {
    fn new(name: &str, manner: Manner, seed: u64, seen: &Arc<Seen>) -> Box<Self> {
        let (name, seen) = (name.to_owned(), Arc::clone(seen));
        Box::new(Device { name, manner, rng: Rng(seed), held: Vec::new(), giving_up: false, seen })
    }
}

/// Writes what nobody asked for.
fn spoil(held: &Held) {
    // SAFETY: the operation is in hand until it is completed, and the destination of a checked operation
    // shares no byte with what else is.
    unsafe { held.dst.bytes_mut() }.fill(0xbd);
}

impl Backend for Device {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        Caps::NONE.with(OpKind::Copy).with(OpKind::Fill)
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        Limits { len_max: 16 << 10, align: 512, keeps_on_fault: false, ..Limits::NONE }
    }

    fn batch(&self) -> usize {
        4
    }

    fn room(&self) -> usize {
        32usize.saturating_sub(self.held.len())
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        assert!(!self.giving_up, "an operation after being told to give up");
        let taken = ops.len().min(self.room());
        for ReadyOp { token, op, fence } in &ops[..taken] {
            assert!(!fence);
            let (src, dst, byte) = match **op {
                Op::Copy { src, dst } => (Some(src), dst, 0),
                Op::Fill { dst, byte } => (None, dst, byte),
                _ => panic!("not its operation: {op:?}"),
            };
            let Manner { failing, hanging, .. } = self.manner;
            let fate = match self.rng.below(64) {
                n if n < hanging => Fate::Hangs,
                n if n < hanging + failing => Fate::Fails,
                _ => Fate::Works,
            };
            self.held.push(Held { token: *token, src, dst, byte, looks: self.rng.below(5), fate });
        }
        taken
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let (giving_up, stubborn) = (self.giving_up, self.manner.stubborn);
        let seen = Arc::clone(&self.seen);
        self.held.retain_mut(|held| {
            if held.looks > 0 {
                held.looks -= 1;
                return true;
            }
            let result = match held.fate {
                _ if giving_up && stubborn => return true,
                _ if giving_up => {
                    spoil(held);
                    seen.late_writes.fetch_add(1, Ordering::Relaxed);
                    Err(Fault::Aborted)
                }
                Fate::Hangs => return true,
                Fate::Fails => {
                    spoil(held);
                    Err(Fault::Device(0x20))
                }
                Fate::Works => {
                    // SAFETY: as in `spoil`; a source is not written by anyone meanwhile.
                    let dst = unsafe { held.dst.bytes_mut() };
                    match held.src {
                        // SAFETY: as above.
                        Some(src) => dst.copy_from_slice(unsafe { src.bytes() }),
                        None => dst.fill(held.byte),
                    }
                    Ok(Verdict::default())
                }
            };
            done.push(Completion { token: held.token, result });
            false
        });
    }

    fn abort(&mut self) {
        if !self.giving_up {
            self.giving_up = true;
            self.held.iter_mut().for_each(|held| held.looks = self.rng.below(5));
        }
    }

    fn revive(&mut self, _now: Nanos) -> Revival {
        assert!(self.held.is_empty(), "revived with operations in hand");
        match self.rng.below(3) {
            0 => Revival::Pending,
            1 => Revival::Failed,
            _ => {
                self.giving_up = false;
                Revival::Ready
            }
        }
    }
}

/// A device may write to what it has in hand until its drop returns.
impl Drop for Device {
    fn drop(&mut self) {
        for held in &self.held {
            spoil(held);
            self.seen.writes_in_drop.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(pool) = &*self.seen.pool.lock().unwrap() {
            self.seen.pool_in_drop.store(pool.in_use() as u64, Ordering::Relaxed);
        }
    }
}

const SHAPE: Shape = Shape { level: Level::Raid6, members: 6, chunk: 16 << 10 };

fn write(bench: &mut Bench, offset: u64, data: Vec<u8>) {
    let payload = bench.runner.pool().try_alloc(data.len()).unwrap();
    payload.copy_in(0, &data).unwrap();
    let (kind, len) = (RequestKind::Write { fua: false }, data.len() as u64);
    let tag = Asked { kind, offset, data };
    bench.runner.submit(NewRequest { kind, offset, len, payload: Some(payload), tag });
}

/// Steps until a device has something in hand that nothing but time will end.
fn until_it_hangs(bench: &mut Bench) {
    for _ in 0..1000 {
        bench.step();
        if bench.runner.computing() && bench.runner.engine_stats().backends.iter().any(|b| b.in_hand > 0) {
            return;
        }
        bench.runner.idle();
    }
    panic!("nothing got to the device: {:?}", bench.runner.engine_stats());
}

#[test]
fn a_volume_lives_with_devices_that_fail_hang_and_come_back() {
    let (probe_after, probe_max) = (Duration::from_micros(100), Duration::from_micros(200));
    let config = EngineConfig { probe_after, probe_max, ..EngineConfig::default() };
    for (seed, level) in [(0xde_0001, Level::Raid6), (0xde_0002, Level::Raid5)] {
        let seen = Arc::new(Seen::default());
        let manner = Manner { failing: 4, hanging: 2, stubborn: false };
        let engine = cpu_engine("cycle")
            .unwrap()
            .with_config(config)
            .with_backend(Device::new("one", manner, seed, &seen))
            .with_backend(Device::new("two", manner, seed + 100, &seen));
        let members = if level == Level::Raid6 { 5 } else { 4 };
        let stats = whole_life_on(Shape { level, members, chunk: 16 << 10 }, seed, true, engine);
        assert_eq!(stats.chains_failed, 0);
        for backend in &stats.backends {
            assert!(backend.completed > 50 && backend.failed > 5 && backend.timeouts > 0, "{backend:?}");
            assert!(backend.quarantines > 3 && backend.revived > 3, "{backend:?}");
            let fills = backend.kinds[OpKind::Fill as usize];
            assert!(fills.completed > 0, "zeroes are not filled: {backend:?}");
        }
        assert!(seen.late_writes.load(Ordering::Relaxed) > 0, "nothing was written late");
    }
}

#[test]
fn what_a_hanging_device_writes_late_is_not_what_is_stored() {
    let seen = Arc::new(Seen::default());
    let engine = cpu_engine("auto").unwrap().with_backend(Device::new("hangs", HANGING, 1, &seen));
    let mut bench = Bench::with_engine(SHAPE, 1, false, engine);
    let data = Rng(7).bytes(4096);
    write(&mut bench, 8192, data.clone());
    until_it_hangs(&mut bench);
    for _ in 0..20 {
        bench.step();
    }
    assert!(bench.runner.pool().in_use() > 0, "the payload is given back while a chain names it");
    assert_eq!(bench.runner.in_flight(), 1, "it is answered before its chain ended");
    bench.settle();
    assert!(seen.late_writes.load(Ordering::Relaxed) > 0);
    let mut alerts = Vec::new();
    bench.runner.take_alerts(&mut alerts);
    assert!(alerts.iter().any(|alert| matches!(alert, async_tx::Alert::Quarantined { .. })), "{alerts:?}");
    assert_eq!(bench.model[8192..][..4096], data);
    // From the members, without the cache's memory of what was written.
    let (tag, kind) =
        (Asked { kind: RequestKind::Read, offset: 8192, data: vec![0; 4096] }, RequestKind::Read);
    let payload = bench.runner.pool().try_alloc(4096);
    bench.runner.submit(NewRequest { kind, offset: 8192, len: 4096, payload, tag });
    bench.settle();
}

#[test]
fn a_quarantined_device_is_probed_while_nothing_happens() {
    let seen = Arc::new(Seen::default());
    let engine = cpu_engine("auto").unwrap().with_backend(Device::new("hangs", HANGING, 2, &seen));
    let mut bench = Bench::with_engine(SHAPE, 2, false, engine);
    write(&mut bench, 0, vec![1; 4096]);
    until_it_hangs(&mut bench);
    bench.settle();
    assert!(!bench.runner.computing());
    for _ in 0..1000 {
        if bench.runner.engine_stats().backends[0].revived > 0 {
            return;
        }
        let wake = bench.runner.wake_at().expect("nobody looks at the device again");
        bench.clock.advance_to(wake);
        bench.step();
    }
    panic!("the device was not revived: {:?}", bench.runner.engine_stats());
}

#[test]
fn devices_come_and_go_while_the_volume_works() {
    let seen = Arc::new(Seen::default());
    let mut bench = Bench::with_engine(SHAPE, 3, false, cpu_engine("auto").unwrap());
    let add = |name: &str, seed| {
        let manner = Manner { failing: 1, hanging: 0, stubborn: false };
        let thresholds = async_tx::Thresholds::all(0);
        NewBackend { backend: Device::new(name, manner, seed, &seen), thresholds, near: seed % 2 == 0 }
    };
    for round in 0..20u64 {
        let here = format!("device {}", round % 3);
        let gone = format!("device {}", (round + 2) % 3);
        bench.runner.change_engine(EngineChange { remove: vec![gone], add: vec![add(&here, round)] });
        for at in 0..6 {
            write(&mut bench, at * (20 << 10), vec![round as u8; 12 << 10]);
            bench.step();
        }
        bench.settle();
    }
    let stats = bench.runner.engine_stats();
    assert_eq!(stats.backends.len(), 3, "one that comes back takes its old place: {stats:?}");
    assert!(stats.backends.iter().all(|backend| backend.completed > 0), "{stats:?}");
}

#[test]
fn the_memory_outlives_a_device_that_is_dropped_with_work_in_hand() {
    for fatal in [false, true] {
        let seen = Arc::new(Seen::default());
        let manner = Manner { stubborn: true, ..HANGING };
        let engine = cpu_engine("auto").unwrap().with_backend(Device::new("hangs", manner, 4, &seen));
        let mut bench = Bench::with_engine(SHAPE, 4, false, engine);
        *seen.pool.lock().unwrap() = Some(bench.runner.pool().clone());
        write(&mut bench, 4096, vec![5; 4096]);
        until_it_hangs(&mut bench);
        if fatal {
            // It is told to give up, and keeps what it has.
            bench.clock.advance(10_000_000_000);
            bench.step();
        }
        // If memory went first, the device's last writes would end this process.
        drop(bench);
        assert!(seen.writes_in_drop.load(Ordering::Relaxed) > 0);
        assert!(seen.pool_in_drop.load(Ordering::Relaxed) > 0, "the payload was given back before");
        let pool = seen.pool.lock().unwrap().take().unwrap();
        assert_eq!(pool.in_use(), 0, "the payload was never given back");
    }
}

/// The same for what a read was to be filled with, by a client that will not hear of it.
#[test]
fn the_memory_of_a_read_outlives_the_device_too() {
    let seen = Arc::new(Seen::default());
    let manner = Manner { stubborn: true, ..HANGING };
    let engine = cpu_engine("auto").unwrap().with_backend(Device::new("hangs", manner, 5, &seen));
    let mut bench = Bench::with_engine(SHAPE, 5, false, engine);
    *seen.pool.lock().unwrap() = Some(bench.runner.pool().clone());
    bench.fail(0);
    bench.settle();
    // Less than a block of each member: what is lost is recovered in the cache, and copied from there.
    for sector in 0..8 {
        let payload = bench.runner.pool().try_alloc(512);
        let tag = Asked { kind: RequestKind::Read, offset: sector * (16 << 10), data: vec![0; 512] };
        bench.runner.submit(NewRequest { kind: tag.kind, offset: tag.offset, len: 512, payload, tag });
    }
    until_it_hangs(&mut bench);
    drop(bench);
    assert!(seen.writes_in_drop.load(Ordering::Relaxed) > 0);
    assert!(seen.pool_in_drop.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_client_that_leaves_while_its_chain_is_in_flight_takes_no_memory_with_it() {
    let seen = Arc::new(Seen::default());
    let manner = Manner { failing: 0, hanging: 20, stubborn: false };
    let config = EngineConfig { op_timeout: Duration::from_millis(20), ..EngineConfig::default() };
    let engine = cpu_engine("auto").unwrap().with_config(config);
    let engine = engine.with_backend(Device::new("hangs", manner, 6, &seen));
    let dir = tempfile::tempdir().unwrap();
    create(&dir, 2 << 20);
    let volume = Volume::open_with(dir, tuning(), engine);
    for round in 0..10u8 {
        let mut client = volume.client(false);
        for at in 0..4u64 {
            let request = client.request(Command::Write, at * (96 << 10) + u64::from(round) * 4096, 4096);
            client.send(&request, &[round; 4096]);
        }
    }
    let mut client = volume.client(false);
    let flush = client.request(Command::Flush, 0, 0);
    client.send(&flush, &[]);
    assert_eq!(client.answer(&[flush]).1, Ok(vec![]));
    drop(client);
    let status = volume.wait_for("given back all memory", |status| status.pool_in_use == 0);
    assert_eq!(status.engine.chains_failed, 0);
    assert_eq!(volume.stop().1, ShardExit::Stopped { clean: true });
}

/// A device that keeps what it has for ever: the stop gives up at its deadline, and memory that the device
/// may still write is not waited for, but never freed.
#[test]
fn a_stop_ends_at_its_deadline_although_a_chain_hangs() {
    let seen = Arc::new(Seen::default());
    let manner = Manner { stubborn: true, ..HANGING };
    let config = EngineConfig { op_timeout: Duration::from_millis(10), ..EngineConfig::default() };
    let engine = cpu_engine("auto").unwrap().with_config(config);
    let engine = engine.with_backend(Device::new("hangs", manner, 8, &seen));
    let dir = tempfile::tempdir().unwrap();
    create(&dir, 2 << 20);
    let volume = Volume::open_with(dir, tuning(), engine);
    let mut client = volume.client(false);
    let request = client.request(Command::Write, 4096, 4096);
    client.send(&request, &[3; 4096]);
    volume.wait_for("at the device", |status| status.engine.backends.iter().any(|b| b.in_hand > 0));
    volume.handle.stop(Duration::from_millis(200)).unwrap();
    let exit = volume.exit.recv_timeout(Duration::from_secs(60));
    assert_eq!(exit, Ok::<_, mpsc::RecvTimeoutError>(ShardExit::TimedOut));
    assert_eq!(seen.writes_in_drop.load(Ordering::Relaxed), 0, "the device was dropped with work in hand");
}
