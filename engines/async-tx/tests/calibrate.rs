//! Calibration under a clock and with costs that are known: what it finds, when it gives up, and what it
//! does with its memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_tx::calibrate::{Outcome, PATIENCE, SIZES, Sample};
use async_tx::{
    Backend, Calibration, Caps, CheckedOp, Clock, Completion, Fault, Inline, Limits, Nanos, Op, OpKind,
    OpToken, ReadyOp, Revival, Thresholds, Verdict, calibrate,
};

/// Counts the large blocks of memory that a thread has.
struct Counting;

thread_local! {
    static LARGE: Cell<i64> = const { Cell::new(0) };
}

const LARGE_BYTES: usize = 1 << 20;

fn count(layout: Layout, change: i64) {
    if layout.size() >= LARGE_BYTES {
        LARGE.set(LARGE.get() + change);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout, -1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A clock that only costs move.
#[derive(Clone, Default)]
struct Fake(Arc<AtomicU64>);

impl Fake {
    fn spend(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }

    fn reach(&self, at: u64) {
        self.0.fetch_max(at, Ordering::Relaxed);
    }
}

impl Clock for Fake {
    fn now(&self) -> Nanos {
        Nanos(self.0.load(Ordering::Relaxed))
    }
}

/// `fixed` nanoseconds and a thousandth of `per_1000` for each byte.
#[derive(Clone, Copy, Debug)]
struct Cost {
    fixed: u64,
    per_1000: u64,
}

impl Cost {
    const fn new(fixed: u64, per_1000: u64) -> Self {
        Cost { fixed, per_1000 }
    }

    fn of(self, len: usize) -> u64 {
        self.fixed + len as u64 * self.per_1000 / 1000
    }
}

/// A CPU that only takes time, and is interrupted for a second now and then.
struct FakeCpu {
    clock: Fake,
    cost: Cost,
    /// So many operations after the last interruption comes the next.
    interrupted: u64,
    count: u64,
}

impl FakeCpu {
    fn new(clock: &Fake, cost: Cost) -> Self {
        FakeCpu { clock: clock.clone(), cost, interrupted: u64::MAX, count: 0 }
    }
}

impl Inline for FakeCpu {
    fn name(&self) -> &str {
        "fake"
    }

    fn execute(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        self.count += 1;
        if self.count.is_multiple_of(self.interrupted) {
            self.clock.spend(1_000_000_000);
        }
        self.clock.spend(self.cost.of(op.len()));
        Ok(Verdict::default())
    }
}

/// What a device does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    /// The operation of this number ends so.
    Ends(u64, Result<Verdict, Fault>),
    /// The operation of this number ends only when the device is told to give up.
    Hangs(u64),
    /// The operation of this number ends so, too, and what nobody submitted ends all the time.
    Babbles(u64),
    /// The operation of this number never ends.
    HangsForever(u64),
    /// Everything ends twice, and what nobody submitted ends, too.
    Repeats,
    /// All operations of this kind are declined.
    Declines(OpKind),
}

/// A device that works on one operation after the other.
struct Device {
    clock: Fake,
    caps: Caps,
    limits: Limits,
    room: usize,
    /// What the thread spends on an operation.
    submit: u64,
    /// What the device spends on one.
    work: fn(usize) -> u64,
    /// What passes besides until the completion is there.
    latency: u64,
    refuses: Option<OpKind>,
    wrong: Wrong,
    queue: VecDeque<(u64, Completion)>,
    busy_until: u64,
    count: u64,
    aborts: usize,
    lens: Vec<usize>,
}

impl Device {
    fn new(clock: &Fake, work: fn(usize) -> u64) -> Self {
        Device {
            clock: clock.clone(),
            caps: Caps::NONE.with(OpKind::Copy),
            limits: Limits { len_min: 8 << 10, ..Limits::NONE },
            room: 64,
            submit: 50,
            work,
            latency: 1000,
            refuses: None,
            wrong: Wrong::Nothing,
            queue: VecDeque::new(),
            busy_until: 0,
            count: 0,
            aborts: 0,
            lens: Vec::new(),
        }
    }
}

impl Backend for Device {
    fn name(&self) -> &str {
        "device"
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn limits(&self, _: OpKind) -> Limits {
        self.limits
    }

    fn accepts(&self, op: &Op<'_>) -> bool {
        self.refuses != Some(op.kind())
    }

    fn room(&self) -> usize {
        self.room - self.queue.len()
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let taken = ops.len().min(self.room());
        for ReadyOp { token, op, .. } in &ops[..taken] {
            self.clock.spend(self.submit);
            self.lens.push(op.len());
            let mut written: Vec<_> = Vec::new();
            op.each_region(|region, access| {
                if access == async_tx::Access::Write {
                    written.push(region);
                }
                true
            });
            for region in written {
                // SAFETY: the operation is in the backend's hands; it works on it at once.
                unsafe { region.bytes_mut() }.fill(0);
            }
            self.busy_until = self.busy_until.max(self.clock.now().0) + (self.work)(op.len());
            let mut at = self.busy_until + self.latency;
            let mut result = Ok(Verdict::default());
            match self.wrong {
                Wrong::Ends(number, end) if number == self.count => result = end,
                Wrong::Hangs(number) | Wrong::Babbles(number) if number == self.count => at = u64::MAX,
                Wrong::HangsForever(number) if number == self.count => at = u64::MAX,
                Wrong::Declines(kind) if kind == op.kind() => result = Err(Fault::Declined),
                _ => {}
            }
            self.count += 1;
            self.queue.push_back((at, Completion { token: *token, result }));
        }
        taken
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let now = self.clock.now().0;
        let repeats = self.wrong == Wrong::Repeats;
        if matches!(self.wrong, Wrong::Babbles(_)) {
            done.push(Completion { token: OpToken(7), result: Ok(Verdict::default()) });
        }
        self.queue.retain(|(at, completion)| {
            if *at > now {
                return true;
            }
            done.push(*completion);
            if repeats {
                done.push(*completion);
                done.push(Completion { token: OpToken(7), result: Err(Fault::Device(7)) });
            }
            false
        });
    }

    fn abort(&mut self) {
        self.aborts += 1;
        if !matches!(self.wrong, Wrong::HangsForever(_)) {
            for (at, completion) in &mut self.queue {
                *at = 0;
                completion.result = Err(Fault::Aborted);
            }
        }
    }

    fn revive(&mut self, _: Nanos) -> Revival {
        Revival::Failed
    }

    fn relax(&mut self) {
        let next = self.queue.iter().map(|(at, _)| *at).filter(|at| *at < u64::MAX).min();
        self.clock.spend(1);
        match next {
            Some(at) => self.clock.reach(at),
            None => self.clock.spend(1_000_000),
        }
    }
}

const BUDGET: Duration = Duration::from_secs(60);
/// A tenth of a nanosecond a byte, and 100 ns.
const CPU: Cost = Cost::new(100, 100);

/// Calibrates; everything has come back unless the device is stuck.
fn measure(device: &mut Device, cpu: Cost, budget: Duration) -> Calibration {
    let clock = device.clock.clone();
    let large = LARGE.get();
    let found = calibrate(device, &mut FakeCpu::new(&clock, cpu), &clock, budget);
    let stuck = matches!(found.outcome, Outcome::Stuck { .. });
    assert_eq!(LARGE.get() - large, i64::from(stuck), "the memory is kept if, and only if, it is not back");
    assert_eq!(device.queue.is_empty(), !stuck, "nothing is left in the device");
    assert!(found.took <= budget + 2 * PATIENCE + Duration::from_millis(100), "{:?}", found.took);
    assert_eq!(device.aborts > 0, !found.outcome.is_good(), "a device in trouble is told to give up");
    if !found.outcome.is_good() {
        assert_eq!(found.thresholds, Thresholds::NEVER, "and gets nothing more");
    }
    found
}

fn copy_threshold(work: fn(usize) -> u64) -> Option<usize> {
    let found = measure(&mut Device::new(&Fake::default(), work), CPU, BUDGET);
    assert_eq!(found.outcome, Outcome::Complete);
    found.thresholds.get(OpKind::Copy)
}

#[test]
fn the_crossover_of_known_costs_is_found() {
    // The CPU: 509, 1738, 6653 and 26314 ns.
    assert_eq!(copy_threshold(|len| 10 + len as u64 / 20), Some(4 << 10));
    assert_eq!(copy_threshold(|len| 800 + len as u64 / 30), Some(16 << 10));
    assert_eq!(copy_threshold(|len| 2000 + len as u64 / 30), Some(64 << 10));
    assert_eq!(copy_threshold(|len| 7000 + len as u64 / 30), Some(256 << 10));
    assert_eq!(copy_threshold(|len| 30_000 + len as u64 / 30), Some(Thresholds::OFF), "never pays");
    assert_eq!(copy_threshold(|len| len as u64 / 5), Some(Thresholds::OFF), "a slow device");
}

#[test]
fn a_threshold_holds_for_all_longer_operations() {
    let bump = |len: usize| if len == 64 << 10 { 100_000 } else { 10 };
    assert_eq!(copy_threshold(bump), Some(256 << 10), "16 KiB would pay, but 64 KiB does not");
    let falls_off = |len: usize| if len == 256 << 10 { 100_000 } else { 10 };
    assert_eq!(copy_threshold(falls_off), Some(Thresholds::OFF), "there is no length from which on it pays");
}

#[test]
fn random_costs_give_the_crossover_of_the_formula() {
    let seed = 0x5eed_ca1b;
    println!("seed {seed:#x}");
    let mut state: u64 = seed;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut compared, mut found_lens) = (0, std::collections::BTreeSet::new());
    for _ in 0..60 {
        let cpu = Cost::new(random(300), 20 + random(200));
        // A function has no room for the costs, so the submission, which the thread pays, has them.
        let submit = 20 + random(9000);
        let clock = Fake::default();
        let mut device =
            Device { submit, latency: random(5000), ..Device::new(&clock, |len| len as u64 / 200) };
        let wins = |len: usize| submit.max(len as u64 / 200) * 4 < cpu.of(len) * 3;
        let loses = |len: usize| submit.max(len as u64 / 200) > cpu.of(len);
        if !SIZES.into_iter().all(|len| wins(len) || loses(len)) {
            // Too close to call without counting the device's every nanosecond.
            continue;
        }
        let expected = SIZES.into_iter().rev().take_while(|len| wins(*len)).last().unwrap_or(Thresholds::OFF);
        let found = measure(&mut device, cpu, BUDGET);
        assert_eq!(found.thresholds.get(OpKind::Copy), Some(expected), "{cpu:?} {submit} {found:?}");
        compared += 1;
        found_lens.insert(expected);
    }
    assert!(compared >= 20 && found_lens.len() >= 4, "{compared} cases, {found_lens:?}");
}

#[test]
fn the_times_are_those_of_the_clock_and_the_same_each_time() {
    let run = || measure(&mut Device::new(&Fake::default(), |len| 2000 + len as u64 / 30), CPU, BUDGET);
    let found = run();
    assert_eq!(found, run(), "deterministic");
    let [row] = &found.rows[..] else { panic!("{found:?}") };
    assert_eq!((row.kind, row.complete), (OpKind::Copy, true));
    assert_eq!(row.samples.iter().map(|sample| sample.len).collect::<Vec<_>>(), SIZES);
    for sample in &row.samples {
        let work = 2000 + sample.len as u64 / 30;
        assert_eq!(sample.cpu, CPU.of(sample.len));
        let alone = 50 + work + 1000;
        assert!((alone..alone + 10).contains(&sample.round_trip), "{sample:?}");
        assert!(
            (work..work + work / 10 + 100).contains(&sample.pipelined),
            "the queue is kept filled: {sample:?}"
        );
    }
}

#[test]
fn an_interruption_in_a_round_or_two_is_not_measured() {
    let clock = Fake::default();
    let mut device = Device::new(&clock, |len| 2000 + len as u64 / 30);
    // 32 operations a round up to 64 KiB, and 16 of 256 KiB: at most one round in two is interrupted.
    let mut cpu = FakeCpu { interrupted: 90, ..FakeCpu::new(&clock, CPU) };
    let found = calibrate(&mut device, &mut cpu, &clock, BUDGET);
    let [row] = &found.rows[..] else { panic!("{found:?}") };
    assert!(found.took > Duration::from_secs(5), "it was interrupted: {:?}", found.took);
    assert!(row.samples.iter().all(|sample| sample.cpu == CPU.of(sample.len)), "{row:?}");
    assert_eq!(found.thresholds.get(OpKind::Copy), Some(64 << 10));
}

#[test]
fn what_costs_the_same_does_not_pay() {
    let sample = |pipelined| Sample { len: 4096, cpu: 10, round_trip: 5, pipelined };
    assert_eq!([9, 10, 11].map(|pipelined| sample(pipelined).pays()), [true, false, false]);
}

#[test]
fn every_kind_that_the_backend_takes_has_a_row() {
    let mut device = Device { caps: Caps::ALL, ..Device::new(&Fake::default(), |len| len as u64 / 40) };
    let found = measure(&mut device, CPU, BUDGET);
    let kinds: Vec<OpKind> = found.rows.iter().map(|row| row.kind).collect();
    assert_eq!(kinds, OpKind::ALL[1..], "all but the notification");
    assert!(found.rows.iter().all(|row| row.complete));
    assert_eq!(found.thresholds.get(OpKind::Notify), None);
    assert!(OpKind::ALL[1..].iter().all(|kind| found.thresholds.get(*kind) == Some(4 << 10)));
}

#[test]
fn limits_bound_what_is_measured() {
    let device =
        |limits| Device { caps: Caps::ALL, limits, ..Device::new(&Fake::default(), |len| len as u64 / 40) };
    let mut short = device(Limits { len_max: 20_000, ..Limits::NONE });
    let found = measure(&mut short, CPU, BUDGET);
    assert!(found.rows.iter().all(|row| row.samples.len() == 2 && row.complete), "{found:?}");
    assert!(short.lens.iter().all(|len| *len <= 16 << 10));
    let kinds = |limits| {
        let found = measure(&mut device(limits), CPU, BUDGET);
        assert_eq!(found.outcome, Outcome::Complete);
        found.rows.iter().fold(Caps::NONE, |caps, row| caps.with(row.kind))
    };
    let all = OpKind::ALL[1..].iter().fold(Caps::NONE, |caps, kind| caps.with(*kind));
    assert_eq!(kinds(Limits { sources_max: 2, ..Limits::NONE }), all);
    assert!(!kinds(Limits { sources_max: 1, ..Limits::NONE }).has(OpKind::Compare), "it has two sources");
    assert_eq!(kinds(Limits { sources_max: 0, ..Limits::NONE }), Caps::NONE.with(OpKind::Fill));
    let forgets = kinds(Limits { keeps_on_fault: false, ..Limits::NONE });
    assert_eq!(forgets, all.without(OpKind::PqUpdate).without(OpKind::GfMulAdd), "those work in place");
    assert_eq!(kinds(Limits { len_max: 4095, ..Limits::NONE }), Caps::NONE);
    assert_eq!(kinds(Limits { align: 4096, ..Limits::NONE }), all);
    let found = measure(&mut device(Limits { align: 64 << 10, ..Limits::NONE }), CPU, BUDGET);
    assert!(found.rows.iter().all(|row| row.samples.len() == 2), "64 and 256 KiB are so aligned: {found:?}");
    let mut picky = Device { refuses: Some(OpKind::Fill), ..device(Limits::NONE) };
    let found = measure(&mut picky, CPU, BUDGET);
    assert!(found.rows.iter().all(|row| row.kind != OpKind::Fill));
    assert_eq!(found.thresholds.get(OpKind::Fill), None, "nothing is said about it");
}

#[test]
fn a_queue_of_one_is_measured_too() {
    let mut device = Device { room: 1, ..Device::new(&Fake::default(), |_| 10) };
    let found = measure(&mut device, CPU, BUDGET);
    assert_eq!(found.outcome, Outcome::Complete);
    assert_eq!(found.thresholds.get(OpKind::Copy), Some(16 << 10), "1060 ns each, for nothing overlaps");
}

#[test]
fn it_stops_at_its_budget() {
    let mut device = Device { caps: Caps::ALL, ..Device::new(&Fake::default(), |len| len as u64 / 40) };
    let whole = measure(&mut device, CPU, BUDGET);
    let mut device = Device { caps: Caps::ALL, ..Device::new(&Fake::default(), |len| len as u64 / 40) };
    let half = measure(&mut device, CPU, whole.took / 2);
    assert_eq!(half.outcome, Outcome::OutOfTime);
    assert!(half.took < whole.took * 6 / 10, "{:?} of {:?}", half.took, whole.took);
    assert!((2..whole.rows.len()).contains(&half.rows.len()));
    for (row, of_whole) in half.rows.iter().zip(&whole.rows) {
        let threshold = half.thresholds.get(row.kind);
        if row.complete {
            assert_eq!((row, threshold), (of_whole, whole.thresholds.get(row.kind)));
        } else {
            assert!(of_whole.samples.starts_with(&row.samples));
            assert_eq!(threshold, None, "the backend's default holds");
        }
    }
    let mut device = Device::new(&Fake::default(), |_| 1);
    let nothing = measure(&mut device, CPU, Duration::ZERO);
    assert_eq!((nothing.outcome, nothing.rows.len(), device.count), (Outcome::OutOfTime, 0, 0));
    assert_eq!(nothing.thresholds, Thresholds::default());
}

#[test]
fn a_backend_that_fails_gets_nothing() {
    for number in [0, 1, 5, 40, 300] {
        for (end, fault) in [
            (Err(Fault::Device(3)), Fault::Device(3)),
            (Err(Fault::Gone), Fault::Gone),
            (Ok(Verdict { differs: true, ..Verdict::default() }), Fault::Mismatch),
        ] {
            let wrong = Wrong::Ends(number, end);
            let mut device = Device { wrong, ..Device::new(&Fake::default(), |_| 10) };
            let found = measure(&mut device, CPU, BUDGET);
            assert_eq!(found.outcome, Outcome::Failed { kind: OpKind::Copy, fault }, "{number}");
        }
    }
}

#[test]
fn a_backend_that_does_not_answer_is_given_up() {
    for number in [0, 1, 5, 40, 300] {
        let mut device = Device { wrong: Wrong::Hangs(number), ..Device::new(&Fake::default(), |_| 10) };
        let found = measure(&mut device, CPU, BUDGET);
        assert_eq!(found.outcome, Outcome::TimedOut { kind: OpKind::Copy });
        assert!(found.took < 2 * PATIENCE, "it waits no longer than it says: {:?}", found.took);
    }
    let mut babbler = Device { wrong: Wrong::Babbles(5), ..Device::new(&Fake::default(), |_| 10) };
    let found = measure(&mut babbler, CPU, BUDGET);
    assert_eq!(found.outcome, Outcome::TimedOut { kind: OpKind::Copy }, "talk is not progress");
    let mut slow = Device::new(&Fake::default(), |_| 900_000_000);
    let found = measure(&mut slow, CPU, Duration::from_secs(1));
    assert_eq!(found.outcome, Outcome::TimedOut { kind: OpKind::Copy }, "nor is progress without end");
    let mut full = Device { room: 0, ..Device::new(&Fake::default(), |_| 10) };
    assert_eq!(measure(&mut full, CPU, BUDGET).outcome, Outcome::TimedOut { kind: OpKind::Copy });
}

/// `measure` looks at the allocator: nothing is freed, for the device could write it yet.
#[test]
fn memory_that_a_backend_does_not_give_back_is_never_freed() {
    for number in [0, 5, 300] {
        let wrong = Wrong::HangsForever(number);
        let mut device = Device { wrong, ..Device::new(&Fake::default(), |_| 10) };
        let found = measure(&mut device, CPU, BUDGET);
        assert_eq!(found.outcome, Outcome::Stuck { kind: OpKind::Copy });
        assert_eq!(device.queue.iter().filter(|(at, _)| *at == u64::MAX).count(), 1);
        assert!(
            device.queue.iter().all(|(_, end)| end.token.0 >= 1 << 63),
            "no engine gives out such tokens"
        );
    }
}

#[test]
fn completions_of_nothing_are_ignored() {
    let plain = measure(&mut Device::new(&Fake::default(), |_| 10), CPU, BUDGET);
    let mut device = Device { wrong: Wrong::Repeats, ..Device::new(&Fake::default(), |_| 10) };
    assert_eq!(measure(&mut device, CPU, BUDGET), plain);
}

#[test]
fn a_kind_that_is_declined_is_left_out_and_the_others_are_not() {
    let (caps, wrong) = (Caps::ALL, Wrong::Declines(OpKind::Fill));
    let mut device = Device { caps, wrong, ..Device::new(&Fake::default(), |len| len as u64 / 40) };
    let found = measure(&mut device, CPU, BUDGET);
    assert_eq!(found.outcome, Outcome::Complete);
    assert_eq!(found.rows.len(), OpKind::COUNT - 2);
    assert_eq!(found.thresholds.get(OpKind::Fill), None);
    assert_eq!(found.thresholds.get(OpKind::Compare), Some(4 << 10));
}

#[test]
fn outcomes_say_what_happened() {
    let failed = Outcome::Failed { kind: OpKind::Crc32c, fault: Fault::Gone };
    assert_eq!(failed.to_string(), "a crc32c failed: the device is gone");
    assert_eq!(Outcome::TimedOut { kind: OpKind::Copy }.to_string(), "a copy did not end in time");
    assert!(Outcome::Stuck { kind: OpKind::Copy }.to_string().contains("lost until a restart"));
}
