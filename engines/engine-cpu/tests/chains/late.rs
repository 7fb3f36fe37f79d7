//! A backend that holds what it takes, completes it late and out of order, and can fail.

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
    /// One in how many operations fails; 0 for none. Unless the limits say that destinations are kept,
    /// a failed operation leaves garbage in them.
    pub(crate) fails_one_in: usize,
    /// Reports completions of nothing, and every one twice, the second time at once or much later.
    pub(crate) babbles: bool,
}

impl Habits {
    pub(crate) const GOOD: Habits =
        Habits { caps: Caps::ALL, limits: Limits::NONE, queue: 5, fails_one_in: 0, babbles: false };
}

pub(crate) struct Late {
    habits: Habits,
    rng: Rng,
    cpu: CpuBackend,
    /// Tokens of the past, for one that babbles.
    past: Vec<OpToken>,
    /// Each operation in a chain of its own, for a chain owns its lists.
    held: Vec<(OpToken, Chain)>,
}

impl Late {
    pub(crate) fn new(habits: Habits, rng: Rng) -> Self {
        Late { habits, rng, cpu: CpuBackend::auto(), past: Vec::new(), held: Vec::new() }
    }

    fn finish(&mut self, chain: &Chain) -> Result<Verdict, Fault> {
        let op = chain.op(0).unwrap();
        if self.habits.fails_one_in == 0 || !self.rng.chance(self.habits.fails_one_in) {
            return self.cpu.execute(&op);
        }
        if !self.habits.limits.keeps_on_fault {
            op.each_region(|region, access| {
                if access == Access::Write {
                    // SAFETY: a destination of an operation in hand; no other slice of it exists.
                    unsafe { region.bytes_mut() }.fill(0xee);
                }
                true
            });
        }
        Err(Fault::Device(0x1f))
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

    fn submit(&mut self, ops: &[ReadyOp<'_>]) -> usize {
        let limits = self.habits.limits;
        let taken = ops.len().min(self.habits.queue - self.held.len());
        for ReadyOp { token, op, .. } in &ops[..taken] {
            assert!(self.habits.caps.has(op.kind()) && op.sources() <= limits.sources_max, "{op:?}");
            assert!(op.len() <= limits.len_max && op.len().is_multiple_of(limits.align), "{op:?}");
            let clash = self.held.iter().any(|(_, held)| held.op(0).unwrap().conflicts_with(op));
            assert!(!clash, "an operation in flight touches the bytes of {op:?}");
            let mut chain = Chain::new();
            chain.push(**op, &[]).unwrap();
            self.held.push((*token, chain));
        }
        taken
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        for _ in 0..self.rng.below(self.held.len() + 1) {
            let (token, chain) = self.held.swap_remove(self.rng.below(self.held.len()));
            let completion = Completion { token, result: self.finish(&chain) };
            done.push(completion);
            if self.habits.babbles {
                self.past.push(token);
                let token = self.past[self.rng.below(self.past.len())];
                done.push(Completion { token, ..completion });
                let nobody = OpToken(token.0 ^ (1 << self.rng.below(64)));
                if !self.held.iter().any(|(held, _)| *held == nobody) {
                    done.push(Completion { token: nobody, result: Err(Fault::Gone) });
                }
            }
        }
    }

    fn abort(&mut self) {}

    fn revive(&mut self, _now: Nanos) -> Revival {
        Revival::Failed
    }
}
