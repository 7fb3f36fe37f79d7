//! A device that moves one operation a step, in any order, and its driver; each can be made to break one
//! promise.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_tx::conformance::{Naive, Subject, Trouble};
use async_tx::*;

/// One promise broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flaw {
    None,
    NamesNothing,
    NoRoomWhenFresh,
    WantsBatchesOfNone,
    LosesTheTail,
    ForgetsVerdicts,
    PanicsOnSevenBytes,
    WritesBehindTheEnd,
    WritesASource,
    MixesUpResults,
    CompletesTwice,
    ForgetsOne,
    CompletesWhatWasNot,
    ClearsTheList,
    CompletesBeforeItIsDone,
    WritesAgainLater,
    RoomTooLarge,
    RoomTooSmall,
    LosesRoom,
    DropsWhatDoesNotFit,
    TakesMoreThanOffered,
    IgnoresFences,
    RunsBehindAFailedFence,
    SaysOkOnAFault,
    FaultSpoilsASource,
    FaultSpoilsWhatItKeeps,
    AbortForgets,
    AbortCompletesTwice,
    AbortDoesNotWait,
    NeverComesBack,
    ComesBackDead,
    DropDoesNotWait,
    DropWaitsForever,
}

/// What a device is like.
#[derive(Clone, Copy)]
pub(crate) struct Nature {
    pub(crate) caps: Caps,
    pub(crate) fences: Caps,
    pub(crate) limits: Limits,
    pub(crate) queue: usize,
    pub(crate) batch: usize,
    pub(crate) flaw: Flaw,
}

impl Nature {
    pub(crate) const GOOD: Nature = Nature {
        caps: Caps::ALL,
        fences: Caps::ALL,
        limits: Limits { keeps_on_fault: false, ..Limits::NONE },
        queue: 9,
        batch: 4,
        flaw: Flaw::None,
    };
}

struct Held {
    /// Who is told; nobody is where a flawed device told already.
    token: Option<OpToken>,
    /// A chain of one, which owns the lists of the operation.
    op: Chain,
    /// The call that brought it.
    call: u64,
    fence: bool,
}

/// The device: what it holds, and what it has done.
pub(crate) struct Device {
    nature: Nature,
    held: Vec<Held>,
    done: Vec<Completion>,
    /// Calls with an operation that failed.
    failed_calls: Vec<u64>,
    calls: u64,
    taken: u64,
    credits: usize,
    fails: bool,
    stalled: bool,
    aborting: bool,
    dead: bool,
    gone: bool,
    /// Destinations that a flawed device writes once more, after some steps.
    again: Vec<(u32, Region)>,
    turn: usize,
}

impl Device {
    fn is(&self, flaw: Flaw) -> bool {
        self.nature.flaw == flaw
    }

    /// Moves on by one operation.
    fn step(&mut self) {
        self.write_again();
        if self.aborting {
            self.give_back();
        }
        if self.stalled || self.gone || self.held.is_empty() {
            return;
        }
        // Neither first in first out nor the reverse.
        self.turn += 7;
        let start = self.turn % self.held.len();
        let order = (start..self.held.len()).chain(0..start);
        if let Some(at) = order.into_iter().find(|at| self.may_start(*at)) {
            let held = self.held.remove(at);
            self.execute(held);
        }
    }

    fn may_start(&self, at: usize) -> bool {
        let op = &self.held[at];
        let earlier = || self.held[..at].iter().any(|other| other.call == op.call);
        // What stands behind a fence waits with it.
        let fence_before = self.held[..at].iter().any(|other| other.call == op.call && other.fence);
        self.is(Flaw::IgnoresFences) || !(fence_before || (op.fence && earlier()))
    }

    fn execute(&mut self, held: Held) {
        let op = held.op.op(0).unwrap();
        let behind_failure = held.fence && self.failed_calls.contains(&held.call);
        let result = if behind_failure && !self.is(Flaw::RunsBehindAFailedFence) {
            Err(Fault::Abandoned)
        } else if self.dead || std::mem::take(&mut self.fails) {
            self.failed_calls.push(held.call);
            self.fail(&op)
        } else if self.is(Flaw::CompletesBeforeItIsDone) && held.token.is_some_and(|token| token.0 % 2 == 1) {
            self.complete(held.token, Ok(Verdict::default()));
            self.held.push(Held { token: None, op: held.op.clone(), ..held });
            return;
        } else {
            self.run(&op)
        };
        if self.is(Flaw::WritesAgainLater) {
            self.again.extend(destinations(&op).into_iter().map(|dst| (3, dst)));
        }
        self.complete(held.token, result);
    }

    fn run(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        let mut kept = Vec::new();
        if self.is(Flaw::LosesTheTail) && op.len() > 64 && !op.len().is_multiple_of(64) {
            kept.extend(destinations(op).into_iter().filter_map(|dst| dst.part(dst.len() - 1, 1)));
        }
        let bytes: Vec<u8> = kept.iter().map(|last| peek(*last)).collect();
        let verdict = Naive.execute(op)?;
        kept.iter().zip(bytes).for_each(|(last, byte)| poke(*last, byte ^ 1));
        if self.is(Flaw::WritesBehindTheEnd) {
            destinations(op).first().iter().for_each(|dst| poke(behind(**dst), 0x55));
        }
        if self.is(Flaw::WritesASource) {
            sources(op).first().iter().for_each(|src| poke(**src, !peek(**src)));
        }
        Ok(if self.is(Flaw::ForgetsVerdicts) { Verdict::default() } else { verdict })
    }

    fn fail(&mut self, op: &CheckedOp<'_>) -> Result<Verdict, Fault> {
        let keeps = self.nature.limits.keeps_on_fault && !self.is(Flaw::FaultSpoilsWhatItKeeps);
        if !keeps {
            destinations(op).into_iter().for_each(|dst| poke(dst, peek(dst).wrapping_add(77)));
        }
        if self.is(Flaw::FaultSpoilsASource) {
            sources(op).first().iter().for_each(|src| poke(**src, !peek(**src)));
        }
        if self.is(Flaw::SaysOkOnAFault) { Ok(Verdict::default()) } else { Err(Fault::Device(0x1f)) }
    }

    fn complete(&mut self, token: Option<OpToken>, result: Result<Verdict, Fault>) {
        let Some(token) = token else { return };
        let nth = self.taken;
        if self.is(Flaw::ForgetsOne) && nth > 20 && token.0.is_multiple_of(16) {
            return;
        }
        if !(self.is(Flaw::LosesRoom) && token.0.is_multiple_of(16)) {
            self.credits += 1;
        }
        self.done.push(Completion { token, result });
        if self.is(Flaw::CompletesTwice) && token.0.is_multiple_of(16) {
            self.done.push(Completion { token, result });
        }
        if self.is(Flaw::CompletesWhatWasNot) && token.0.is_multiple_of(16) {
            self.done.push(Completion { token: OpToken(token.0 ^ (1 << 63)), result });
        }
    }

    fn write_again(&mut self) {
        for (left, dst) in &mut self.again {
            *left -= 1;
            if *left == 0 {
                poke(*dst, !peek(*dst));
            }
        }
        self.again.retain(|(left, _)| *left > 0);
    }

    /// Completes all that it holds as aborted.
    fn give_back(&mut self) {
        self.aborting = false;
        let skip = usize::from(self.is(Flaw::AbortForgets));
        let tokens: Vec<Option<OpToken>> = self.held.iter().skip(skip).map(|held| held.token).collect();
        for token in tokens {
            self.complete(token, Err(Fault::Aborted));
            if self.is(Flaw::AbortCompletesTwice) {
                self.complete(token, Err(Fault::Aborted));
            }
        }
        // One that does not wait until the device has let go tells what is not so yet.
        if self.is(Flaw::AbortDoesNotWait) {
            self.held.iter_mut().for_each(|held| held.token = None);
        } else {
            self.held.clear();
        }
    }
}

fn of_access(op: &Op<'_>, wanted: Access) -> Vec<Region> {
    let mut found = Vec::new();
    op.each_region(|region, access| {
        if access == wanted {
            found.push(region);
        }
        true
    });
    found
}

fn destinations(op: &Op<'_>) -> Vec<Region> {
    of_access(op, Access::Write)
}

fn sources(op: &Op<'_>) -> Vec<Region> {
    of_access(op, Access::Read)
}

fn peek(region: Region) -> u8 {
    // SAFETY: a byte of the suite's memory, which is never freed and read through raw pointers only.
    unsafe { region.as_ptr().read() }
}

fn poke(region: Region, byte: u8) {
    // SAFETY: as in `peek`. That some of it is not the device's to write is what the tests are about.
    unsafe { region.as_ptr().write(byte) }
}

/// The byte behind a region, which in the suite's memory is always there.
fn behind(region: Region) -> Region {
    // SAFETY: as in `peek`; cases end before the memory does.
    unsafe { Region::new(region.as_ptr().add(region.len()), 1) }
}

/// The driver.
pub(crate) struct Driver(Arc<Mutex<Device>>);

fn lock(device: &Arc<Mutex<Device>>) -> MutexGuard<'_, Device> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Driver {
    fn name(&self) -> &str {
        if lock(&self.0).is(Flaw::NamesNothing) { "" } else { "mock" }
    }

    fn caps(&self) -> Caps {
        lock(&self.0).nature.caps
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        lock(&self.0).nature.limits
    }

    fn fences(&self) -> Caps {
        lock(&self.0).nature.fences
    }

    fn batch(&self) -> usize {
        let device = lock(&self.0);
        if device.is(Flaw::WantsBatchesOfNone) { 0 } else { device.nature.batch }
    }

    fn room(&self) -> usize {
        let device = lock(&self.0);
        match device.nature.flaw {
            _ if device.gone => 0,
            Flaw::NoRoomWhenFresh => 0,
            Flaw::RoomTooLarge => device.credits + 1,
            Flaw::RoomTooSmall => device.credits.div_ceil(2),
            _ => device.credits,
        }
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let mut device = lock(&self.0);
        let taken = if device.gone { 0 } else { ops.len().min(device.credits) };
        let call = device.calls;
        device.calls += 1;
        for ReadyOp { token, op, fence } in &ops[..taken] {
            assert!(device.nature.limits.len_max >= op.len() && device.nature.caps.has(op.kind()), "{op:?}");
            if device.is(Flaw::PanicsOnSevenBytes) && op.len() == 7 {
                panic!("seven bytes");
            }
            let mut chain = Chain::new();
            chain.push(**op, &[]).unwrap();
            device.held.push(Held { token: Some(*token), op: chain, call, fence: *fence });
        }
        device.credits -= taken;
        device.taken += taken as u64;
        match device.nature.flaw {
            Flaw::TakesMoreThanOffered => ops.len() + 1,
            Flaw::DropsWhatDoesNotFit => ops.len(),
            _ => taken,
        }
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let mut device = lock(&self.0);
        if device.is(Flaw::ClearsTheList) {
            done.clear();
        }
        if device.is(Flaw::MixesUpResults) {
            let mut results: Vec<_> = device.done.iter().map(|done| done.result).collect();
            results.reverse();
            device.done.iter_mut().zip(results).for_each(|(done, result)| done.result = result);
        }
        done.append(&mut device.done);
    }

    fn abort(&mut self) {
        lock(&self.0).aborting = true;
    }

    fn revive(&mut self, _now: Nanos) -> Revival {
        let mut device = lock(&self.0);
        device.aborting = false;
        if device.gone || device.is(Flaw::NeverComesBack) {
            return Revival::Failed;
        }
        device.dead = device.is(Flaw::ComesBackDead);
        Revival::Ready
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut device = lock(&self.0);
        if device.is(Flaw::DropWaitsForever) {
            drop(device);
            loop {
                std::thread::park();
            }
        }
        if !device.is(Flaw::DropDoesNotWait) {
            device.held.clear();
            device.again.clear();
        }
    }
}

/// Makes drivers of devices of one nature.
pub(crate) struct Mock {
    nature: Nature,
    device: Option<Arc<Mutex<Device>>>,
}

impl Mock {
    pub(crate) fn new(nature: Nature) -> Mock {
        Mock { nature, device: None }
    }

    pub(crate) fn flawed(flaw: Flaw) -> Mock {
        let keeps_on_fault = flaw == Flaw::FaultSpoilsWhatItKeeps;
        Mock::new(Nature { flaw, limits: Limits { keeps_on_fault, ..Limits::NONE }, ..Nature::GOOD })
    }
}

impl Subject for Mock {
    fn backend(&mut self) -> Box<dyn Backend> {
        let device = Arc::new(Mutex::new(Device {
            nature: self.nature,
            held: Vec::new(),
            done: Vec::new(),
            failed_calls: Vec::new(),
            calls: 0,
            taken: 0,
            credits: self.nature.queue,
            fails: false,
            stalled: false,
            aborting: false,
            dead: false,
            gone: false,
            again: Vec::new(),
            turn: 0,
        }));
        self.device = Some(Arc::clone(&device));
        Box::new(Driver(device))
    }

    fn step(&mut self) {
        if let Some(device) = &self.device {
            lock(device).step();
        }
    }

    fn inject(&mut self, trouble: Trouble) -> bool {
        if let Some(device) = &self.device {
            let mut device = lock(device);
            match trouble {
                Trouble::Fail => device.fails = true,
                Trouble::Stall => device.stalled = true,
                Trouble::Gone => device.gone = true,
                Trouble::Heal => (device.fails, device.stalled, device.gone) = (false, false, false),
            }
        }
        true
    }

    fn patience(&self) -> Duration {
        if self.nature.flaw == Flaw::None { Duration::from_secs(60) } else { Duration::from_millis(300) }
    }
}
