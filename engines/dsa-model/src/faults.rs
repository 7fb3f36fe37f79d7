//! What goes wrong, planned from a seed.
//!
//! A [`FaultPlan`] is a list of [`Rule`]s: when (submission number, opcode, address, probability) and what.
//! Every draw depends on the plan's seed, the rule's own salt and the submission's number alone, so taking a
//! rule out changes nothing about the others, and a property test can shrink a plan. The plan decides; that
//! it happens is up to the device.

use std::ops::Range;

use engine_dsa::wire::{Descriptor, at, status};

use crate::rng::SplitMix64;

/// Probability 1, in the unit of [`When::chance`].
pub const ALWAYS: u32 = 1 << 16;

/// Ticks that never pass by themselves: until [`release`](crate::device::Device::release).
pub const UNTIL_RELEASED: u32 = u32::MAX;

/// To which submissions a rule applies. All conditions must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct When {
    /// Numbers of accepted submissions, counted from 0. The members of a batch have its number.
    pub submissions: Range<u64>,
    /// Only this opcode.
    pub opcode: Option<u8>,
    /// Only if the source or destination field holds an address in this range.
    pub addresses: Option<Range<u64>>,
    /// Probability, in 65536ths.
    pub chance: u32,
    /// Applied this many times at most.
    pub limit: u32,
}

impl Default for When {
    fn default() -> Self {
        Self { submissions: 0..u64::MAX, opcode: None, addresses: None, chance: ALWAYS, limit: u32::MAX }
    }
}

impl When {
    /// Submission `number` alone.
    pub fn number(number: u64) -> Self {
        Self { submissions: number..number.saturating_add(1), ..Self::default() }
    }

    /// Every submission with this probability, in 65536ths.
    pub fn chance(chance: u32) -> Self {
        Self { chance, ..Self::default() }
    }

    /// Every submission of this operation.
    pub fn opcode(opcode: u8) -> Self {
        Self { opcode: Some(opcode), ..Self::default() }
    }

    fn holds(&self, number: u64, d: &Descriptor) -> bool {
        let inside = |range: &Range<u64>| {
            [at::SOURCE, at::DESTINATION]
                .iter()
                .any(|offset| range.contains(&u64::from_le_bytes(d.field(*offset))))
        };
        self.submissions.contains(&number)
            && self.opcode.is_none_or(|opcode| opcode == d.opcode())
            && self.addresses.as_ref().is_none_or(inside)
    }
}

/// Where in an operand a planned page fault is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offset {
    /// At this byte; beyond the operand there is no fault.
    At(u32),
    /// Anywhere in it.
    Random,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A page fault on an operand: 0 the source, 1 the destination (or second source), 2 the third address.
    PageFault {
        /// Which operand; one that the operation has not does not fault.
        operand: u8,
        /// Where.
        offset: Offset,
        /// The device stops some bytes early and tells so: any number of bytes completed up to the fault.
        /// Bytes between may have been written, too, where writing them again is harmless.
        lower: bool,
    },
    /// A move without overlap goes from its end; a fault of it has result 1.
    Backward,
    /// Ends with this status. `partial`: some bytes of the work were done. Without, and with status 1, the
    /// device lies.
    Status {
        /// The status byte.
        code: u8,
        /// Whether part of the work is done.
        partial: bool,
    },
    /// The record is never written. `executed`: the work is done all the same.
    Lost {
        /// Whether the work is done.
        executed: bool,
    },
    /// The work is done now, the record is written this many ticks later. Not for members of a batch.
    DelayRecord(u32),
    /// Nothing happens for this many ticks; the entry holds its place in the queue. Not for members.
    Stall(u32),
    /// The same record is written again, blindly, this many ticks later, unless its client closes before.
    /// If the record's place was given to another descriptor meanwhile, that one is told to be complete: a
    /// driver can only find it out by checking the data. Not for members.
    Duplicate(u32),
    /// Data is written in random pieces and order.
    Scatter,
    /// After the work, one bit of the destination is flipped.
    Corrupt,
    /// The queue says retry this many times ([`u32::MAX`]: until a reset) before it takes this one.
    Retry(u32),
    /// The system refuses the call that begins with this descriptor, once, with this errno.
    Refuse(i32),
    /// The system accepts only this many descriptors of the call that begins with this one, at least one.
    Short(u32),
    /// The device halts when this one is executed: nothing outstanding ever completes, and submissions get
    /// retry (a dedicated queue loses them).
    Halt {
        /// All that is outstanding completes with the status of a hardware error instead of vanishing.
        complete: bool,
        /// Ticks until a reset happens by itself.
        recover: u32,
    },
    /// The queue is disabled when this one is executed: it and all outstanding are dropped.
    Disable {
        /// Ticks until it is enabled again.
        recover: u32,
    },
    /// The device is reset when this one is executed: all outstanding is dropped. `straggler`: this one is
    /// still executed and its record written, this many ticks after.
    Reset {
        /// Ticks until the late execution, if there is one.
        straggler: Option<u32>,
    },
    /// When the client begins to close while this one is outstanding, it is executed, and its record
    /// written, this many ticks later; until then the portal is not closed.
    StraggleOnClose(u32),
}

/// When and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// When.
    pub when: When,
    /// What.
    pub fault: Fault,
    /// Tells the rule's draws from those of others.
    pub salt: u64,
}

/// All that goes wrong with a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FaultPlan {
    /// Behind all draws.
    pub seed: u64,
    /// The rules; the first that applies of a kind wins.
    pub rules: Vec<Rule>,
    /// Probability, in 65536ths, that a random ready entry goes before the oldest; members of a batch
    /// between fences go in random order with the same probability.
    pub reorder: u32,
    /// The operations that are left after a reset or a disable.
    pub op_cap_after_reset: Option<[u64; 4]>,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self::none()
    }
}

/// What an errno of a refusal is drawn from: EAGAIN, EPERM, EINVAL.
const ERRNOS: [i32; 3] = [libc::EAGAIN, libc::EPERM, libc::EINVAL];

/// Statuses of which a driver must make the best: known errors and unknown codes, never a success.
const STATUSES: [u8; 14] = [
    status::PAGE_REQUEST_FAILED,
    status::BAD_OPCODE,
    status::BAD_FLAGS,
    status::RESERVED_FIELD,
    status::BAD_SIZE,
    status::OVERLAP,
    status::BAD_INTERRUPT,
    status::TRAFFIC_CLASS,
    status::READBACK,
    status::HARDWARE,
    status::HARDWARE_TIMEOUT,
    status::TRANSLATION,
    0x51,
    0x7e,
];

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self { seed: 0, rules: Vec::new(), reorder: 0, op_cap_after_reset: None }
    }

    /// Nothing goes wrong yet; rules added draw from this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::none() }
    }

    /// The same with a rule more.
    #[must_use]
    pub fn with(mut self, when: When, fault: Fault) -> Self {
        let salt = self.rules.iter().map(|rule| rule.salt + 1).max().unwrap_or(0);
        self.rules.push(Rule { when, fault, salt });
        self
    }

    /// The same with reordering of this probability, in 65536ths.
    #[must_use]
    pub fn with_reorder(mut self, chance: u32) -> Self {
        self.reorder = chance;
        self
    }

    /// The same without rule `index`.
    #[must_use]
    pub fn without(mut self, index: usize) -> Self {
        if index < self.rules.len() {
            self.rules.remove(index);
        }
        self
    }

    /// A random plan that a correct driver survives with the right bytes in memory: page faults, error
    /// statuses, lost, late and reordered completions, refusals, retries, halts, disables, resets. The device
    /// tells no lies: no corruption, no success without the work, no record rewritten after its place went
    /// to another descriptor. All stalls and delays end by themselves within some hundred ticks; a lost
    /// record, a vanished descriptor and an endless retry do not, and call for a deadline.
    pub fn random(seed: u64) -> Self {
        Self::random_with(seed, ALWAYS / 24)
    }

    /// As [`random`](Self::random), with rules of probabilities up to `intensity` 65536ths.
    pub fn random_with(seed: u64, intensity: u32) -> Self {
        let mut rng = SplitMix64::new(seed ^ 0x5eed_f417);
        let mut plan = Self::seeded(seed);
        for _ in 0..rng.below(7) {
            let (fault, rare) = survivable(&mut rng);
            let chance = rng.below(u64::from(intensity) + 1) as u32;
            let limit = if rare { 1 + rng.below(2) as u32 } else { u32::MAX };
            plan = plan.with(When { chance, limit, ..When::default() }, fault);
        }
        if rng.chance(ALWAYS / 2) {
            plan.reorder = rng.below(u64::from(ALWAYS) + 1) as u32;
        }
        plan
    }

    /// A random plan with lies: corruption, any status, blind duplicates. Memory may end wrong; a driver must
    /// still neither crash nor hang.
    pub fn hostile(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed ^ 0x0ba4_f417);
        let mut plan = Self::random(seed);
        for _ in 0..=rng.below(3) {
            let fault = match rng.below(3) {
                0 => Fault::Corrupt,
                1 => Fault::Status { code: rng.next() as u8, partial: rng.chance(ALWAYS / 2) },
                _ => Fault::Duplicate(rng.below(20) as u32),
            };
            plan = plan.with(When::chance(rng.below(u64::from(ALWAYS) / 8) as u32), fault);
        }
        plan
    }

    /// What this plan holds for submission `number`; `part` tells the members of a batch apart, and `used`
    /// counts how often each rule was applied so far (same order as the rules).
    pub(crate) fn decide(&self, number: u64, part: u64, d: &Descriptor, used: &mut Vec<u32>) -> Decision {
        used.resize(self.rules.len(), 0);
        let mut faults: Vec<Fault> = Vec::new();
        for (rule, used) in self.rules.iter().zip(used.iter_mut()) {
            let mut rng = self.rng(number, part, rule.salt);
            let kind = std::mem::discriminant(&rule.fault);
            let drawn = *used < rule.when.limit && rule.when.holds(number, d) && rng.chance(rule.when.chance);
            if drawn && faults.iter().all(|fault| std::mem::discriminant(fault) != kind) {
                *used += 1;
                faults.push(rule.fault);
            }
        }
        Decision { faults, rng: self.rng(number, part, u64::MAX) }
    }

    fn rng(&self, number: u64, part: u64, salt: u64) -> SplitMix64 {
        let mut mix = SplitMix64::new(self.seed);
        for word in [number, part, salt] {
            mix = SplitMix64::new(mix.next() ^ word);
        }
        mix
    }
}

/// A random fault that a driver can survive, and whether it should be rare.
fn survivable(rng: &mut SplitMix64) -> (Fault, bool) {
    let ticks = rng.below(60) as u32;
    let pick = |rng: &mut SplitMix64, from: &[u8]| from.get(rng.below(from.len() as u64) as usize).copied();
    match rng.below(17) {
        0..=2 => {
            let lower = rng.chance(ALWAYS / 2);
            (Fault::PageFault { operand: rng.below(3) as u8, offset: Offset::Random, lower }, false)
        }
        3 => (Fault::Backward, false),
        4 | 5 => {
            let code = pick(rng, &STATUSES).unwrap_or(status::HARDWARE);
            (Fault::Status { code, partial: rng.chance(ALWAYS / 2) }, false)
        }
        6 => (Fault::Lost { executed: rng.chance(ALWAYS / 2) }, true),
        7 => (Fault::DelayRecord(ticks), false),
        8 => (Fault::Stall(ticks), false),
        9 => (Fault::Scatter, false),
        10 => (Fault::Retry(if rng.chance(ALWAYS / 16) { u32::MAX } else { 1 + ticks / 4 }), false),
        11 => {
            let errno = ERRNOS.get(rng.below(ERRNOS.len() as u64) as usize).copied();
            (Fault::Refuse(errno.unwrap_or(libc::EAGAIN)), false)
        }
        12 => (Fault::Short(1 + ticks % 3), false),
        13 => (Fault::Halt { complete: rng.chance(ALWAYS / 2), recover: ticks }, true),
        14 => (Fault::Disable { recover: ticks }, true),
        15 => (Fault::Reset { straggler: rng.chance(ALWAYS / 2).then_some(ticks) }, true),
        _ => (Fault::StraggleOnClose(ticks), false),
    }
}

/// What a plan holds for one submission.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    faults: Vec<Fault>,
    /// For the details of what happens.
    pub(crate) rng: SplitMix64,
}

impl Decision {
    /// The first fault for which `f` gives something.
    pub(crate) fn find<T>(&self, f: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.faults.iter().find_map(f)
    }

    /// Whether this very fault is planned.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Ticks to stall before anything happens.
    pub(crate) fn stall(&self) -> u32 {
        self.find(|fault| if let Fault::Stall(ticks) = fault { Some(*ticks) } else { None }).unwrap_or(0)
    }
}
