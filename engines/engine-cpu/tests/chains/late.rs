//! A backend that holds what it takes, completes it late and out of order, and can fail in many ways.

use async_tx::*;
use engine_cpu::CpuBackend;

use crate::world::Rng;

/// What a [`Late`] backend does.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    pub(crate) caps: Caps,
    pub(crate) limits: Limits,
    /// How many operations it holds at once.
    pub(crate) queue: usize,
    /// How many it says are worth a call.
    pub(crate) batch: usize,
    /// Between which kinds it fences.
    pub(crate) fences: Caps,
    /// One in how many operations fails; 0 for none. Unless the limits say that destinations are kept,
    /// a failed operation leaves garbage in them.
    pub(crate) fails_one_in: usize,
    /// One in how many operations is declined; 0 for none.
    pub(crate) declines_one_in: usize,
    /// One in how many operations does not end before it is given up; 0 for none.
    pub(crate) stalls_one_in: usize,
    /// One in how many operations, of those that do not work in place, is executed without ever saying so: it
    /// comes back as given up; 0 for none. What is behind its fence goes on.
    pub(crate) loses_one_in: usize,
    /// One in how many operations has a wrong result and says that all is well; 0 for none.
    pub(crate) lies_one_in: usize,
    /// Reports completions of nothing, and every one twice, the second time at once or much later.
    pub(crate) babbles: bool,
    /// Works again, every other time that it is asked.
    pub(crate) revives: bool,
}

impl Habits {
    pub(crate) const GOOD: Habits = Habits {
        caps: Caps::ALL,
        limits: Limits::NONE,
        queue: 5,
        batch: 1,
        fences: Caps::NONE,
        fails_one_in: 0,
        declines_one_in: 0,
        stalls_one_in: 0,
        loses_one_in: 0,
        lies_one_in: 0,
        babbles: false,
        revives: false,
    };
}

/// An operation in hand.
struct Held {
    token: OpToken,
    /// A chain of its own, for a chain owns its lists.
    op: Chain,
    /// The operations before its fence.
    after: Vec<OpToken>,
    /// It does not end before it is given up.
    stalled: bool,
    /// It was executed, and its completion is lost.
    lost: bool,
}

pub(crate) struct Late {
    habits: Habits,
    rng: Rng,
    cpu: CpuBackend,
    /// Tokens of the past, for one that babbles.
    past: Vec<OpToken>,
    held: Vec<Held>,
    /// Those that did not end well.
    failed: Vec<OpToken>,
    giving_up: bool,
}

impl Late {
    pub(crate) fn new(habits: Habits, rng: Rng) -> Self {
        let cpu = CpuBackend::auto();
        let (past, held, failed) = (Vec::new(), Vec::new(), Vec::new());
        Late { habits, rng, cpu, past, held, failed, giving_up: false }
    }

    fn one_in(&mut self, count: usize) -> bool {
        count != 0 && self.rng.chance(count)
    }

    fn finish(&mut self, held: &Held) -> Result<Verdict, Fault> {
        if held.lost {
            return Err(Fault::Aborted);
        }
        let op = held.op.op(0).unwrap();
        let fault = if held.after.iter().any(|before| self.failed.contains(before)) {
            Some(Fault::Abandoned)
        } else if held.stalled || (self.giving_up && self.rng.chance(2)) {
            Some(Fault::Aborted)
        } else if self.one_in(self.habits.fails_one_in) {
            Some(Fault::Device(0x1f))
        } else if self.one_in(self.habits.declines_one_in) {
            Some(Fault::Declined)
        } else {
            None
        };
        let Some(fault) = fault else {
            let result = self.cpu.execute(&op);
            if self.one_in(self.habits.lies_one_in) {
                return Ok(lie(&op, result.unwrap()));
            }
            return result;
        };
        // What is behind a fence that did not open was never started.
        if !self.habits.limits.keeps_on_fault && fault != Fault::Abandoned {
            spoil(&op, |bytes| bytes.fill(0xee));
        }
        Err(fault)
    }
}

/// Changes the destinations of an operation in hand.
fn spoil(op: &Op<'_>, mut change: impl FnMut(&mut [u8])) {
    op.each_region(|region, access| {
        if access == Access::Write {
            // SAFETY: a destination of an operation in hand; no other slice of it exists.
            change(unsafe { region.bytes_mut() });
        }
        true
    });
}

/// Makes the result of an operation wrong.
fn lie(op: &Op<'_>, verdict: Verdict) -> Verdict {
    spoil(op, |bytes| bytes[bytes.len() / 2] ^= 0x40);
    match op {
        Op::XorVal { .. } => Verdict { xor_nonzero: !verdict.xor_nonzero, ..verdict },
        Op::PqVal { p: Some(_), .. } => Verdict { p_bad: !verdict.p_bad, ..verdict },
        Op::PqVal { .. } => Verdict { q_bad: !verdict.q_bad, ..verdict },
        Op::Compare { .. } => Verdict { differs: !verdict.differs, ..verdict },
        _ => verdict,
    }
}

impl Backend for Late {
    fn name(&self) -> &str {
        "late"
    }

    fn caps(&self) -> Caps {
        self.habits.caps
    }

    fn limits(&self, _kind: OpKind) -> Limits {
        self.habits.limits
    }

    fn fences(&self) -> Caps {
        self.habits.fences
    }

    fn batch(&self) -> usize {
        self.habits.batch
    }

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        assert!(!self.giving_up, "an operation for one that was told to give up");
        let limits = self.habits.limits;
        let taken = ops.len().min(self.habits.queue - self.held.len());
        for (i, ReadyOp { token, op, fence }) in ops[..taken].iter().enumerate() {
            assert!(self.habits.caps.has(op.kind()) && op.sources() <= limits.sources_max, "{op:?}");
            assert!(op.len() <= limits.len_max && op.len().is_multiple_of(limits.align), "{op:?}");
            let after: Vec<_> =
                if *fence { ops[..i].iter().map(|before| before.token).collect() } else { Vec::new() };
            if *fence {
                assert!(ops[..=i].iter().all(|op| self.habits.fences.has(op.op.kind())), "{op:?}");
            }
            let clash =
                |held: &&Held| !after.contains(&held.token) && held.op.op(0).unwrap().conflicts_with(op);
            assert!(self.held.iter().find(clash).is_none(), "one in flight touches the bytes of {op:?}");
            // A later step of a cut CRC goes on from its own word, which a chain does not accept.
            let mut chain = Chain::new();
            chain.push(seeded_by_value(**op), &[]).unwrap();
            let stalled = self.one_in(self.habits.stalls_one_in);
            self.held.push(Held { token: *token, op: chain, after, stalled, lost: false });
        }
        taken
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        for _ in 0..self.rng.below(self.held.len() + 1) {
            let at = self.rng.below(self.held.len());
            let is_before = |held: &Held| !held.lost && self.held[at].after.contains(&held.token);
            let waits = self.held.iter().any(is_before);
            if waits || ((self.held[at].stalled || self.held[at].lost) && !self.giving_up) {
                continue;
            }
            if !self.giving_up && self.one_in(self.habits.loses_one_in) {
                let held = &mut self.held[at];
                let op = held.op.op(0).unwrap();
                if !op.is_in_place() && !held.after.iter().any(|before| self.failed.contains(before)) {
                    held.lost = self.cpu.execute(&op).is_ok();
                    continue;
                }
            }
            let held = self.held.swap_remove(at);
            let completion = Completion { token: held.token, result: self.finish(&held) };
            if completion.result.is_err() {
                self.failed.push(held.token);
            }
            done.push(completion);
            if self.habits.babbles {
                self.past.push(held.token);
                let token = self.past[self.rng.below(self.past.len())];
                done.push(Completion { token, ..completion });
                let nobody = OpToken(token.0 ^ (1 << self.rng.below(64)));
                if !self.held.iter().any(|held| held.token == nobody) {
                    done.push(Completion { token: nobody, result: Err(Fault::Gone) });
                }
            }
        }
    }

    fn abort(&mut self) {
        self.giving_up = true;
    }

    fn revive(&mut self, _now: Nanos) -> Revival {
        assert!(self.held.is_empty(), "asked to revive with operations in hand");
        match self.rng.below(3) {
            _ if !self.habits.revives => Revival::Failed,
            0 => Revival::Pending,
            1 => Revival::Failed,
            _ => {
                self.giving_up = false;
                Revival::Ready
            }
        }
    }
}

/// The operation with the seed as it is now. Nothing writes it before the operation ran.
fn seeded_by_value(op: Op<'_>) -> Op<'_> {
    let value = |seed: Seed| match seed {
        Seed::Value(_) => seed,
        Seed::From(region) => {
            let mut bytes = [0; 4];
            // SAFETY: an operand of an operation in hand.
            bytes.copy_from_slice(unsafe { region.bytes() });
            Seed::Value(u32::from_le_bytes(bytes))
        }
    };
    match op {
        Op::Crc32c { src, seed, crc } => Op::Crc32c { src, seed: value(seed), crc },
        Op::CopyCrc32c { src, dst, seed, crc } => Op::CopyCrc32c { src, dst, seed: value(seed), crc },
        other => other,
    }
}

/// A clock that goes on by so many nanoseconds each time that it is read.
pub(crate) struct Ticking(std::sync::atomic::AtomicU64, u64);

impl Ticking {
    pub(crate) fn boxed(step: u64) -> Box<dyn Clock> {
        Box::new(Ticking(std::sync::atomic::AtomicU64::new(0), step))
    }
}

impl Clock for Ticking {
    fn now(&self) -> Nanos {
        Nanos(self.0.fetch_add(self.1, std::sync::atomic::Ordering::Relaxed))
    }
}
