//! A case: chains, devices with their faults, and how the caller behaves; all of it from a seed.

use dsa_model::device::DeviceConfig;
use dsa_model::faults::{ALWAYS, Fault, FaultPlan, When};
use dsa_model::personality::Personality;
use dsa_model::rng::SplitMix64;

use crate::node::{Node, push_random};

/// Chains over one zone, each after the one before; then the zone is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) zone: usize,
    pub(crate) chains: Vec<Vec<Node>>,
}

/// A device and when it is taken away.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    pub(crate) config: DeviceConfig,
    /// After so many turns of the caller; it is there again 300 turns later.
    pub(crate) unplugged: Option<u64>,
}

/// All that a run is made of.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    /// In the order in which those of a zone are submitted; there are two zones.
    pub(crate) groups: Vec<Group>,
    pub(crate) devices: Vec<Device>,
    pub(crate) cross_check: u32,
    /// What the backends gather.
    pub(crate) batch: usize,
    /// After so many turns of the caller the engine is dropped, whatever is in flight.
    pub(crate) dropped: Option<u64>,
}

impl Case {
    pub(crate) fn random(seed: u64) -> Case {
        let mut rng = SplitMix64::new(seed ^ 0xda65);
        let cross_check = [0, 0, 1, 3][rng.below(4) as usize];
        let groups = (0..2 + rng.below(3)).map(|i| group(&mut rng, i as usize % 2)).collect();
        let devices = (0..1 + rng.below(3)).map(|_| device(&mut rng, cross_check == 1)).collect();
        let batch = [1, 2, 4, 8][rng.below(4) as usize];
        let dropped = (rng.below(16) == 0).then(|| rng.below(40));
        Case { seed, groups, devices, cross_check, batch, dropped }
    }

    /// Chains in it.
    pub(crate) fn dags(&self) -> usize {
        self.groups.iter().map(|group| group.chains.len()).sum()
    }
}

fn group(rng: &mut SplitMix64, zone: usize) -> Group {
    let chains = (0..1 + rng.below(2)).map(|_| {
        let mut nodes = Vec::new();
        let most = if rng.below(4) == 0 { 16 } else { 8 };
        let count = 1 + rng.below(most) as usize;
        while nodes.len() < count {
            push_random(rng, &mut nodes);
        }
        nodes
    });
    Group { zone, chains: chains.collect() }
}

/// The largest transfers of small devices; no operand of a case has one of these lengths by itself.
pub(crate) const TINY: [u32; 3] = [56, 111, 203];

fn device(rng: &mut SplitMix64, may_lie: bool) -> Device {
    let tiny = TINY[rng.below(3) as usize];
    let config = match rng.below(4) {
        0 => DeviceConfig::dedicated(Personality::v1_restricted(), 4 + rng.below(13) as usize),
        1 => DeviceConfig::shared(Personality { max_batch: 8, ..Personality::v2() }, 32, 24),
        2 => {
            let personality = Personality { max_transfer: tiny, max_batch: 4, ..Personality::v1() };
            DeviceConfig::dedicated(personality, 1 + rng.below(8) as usize)
        }
        _ => DeviceConfig::shared(Personality { max_transfer: tiny, ..Personality::v1_restricted() }, 4, 3),
    };
    let faults = if rng.below(10) == 0 { FaultPlan::none() } else { plan(rng, may_lie) };
    let unplugged = (rng.below(12) == 0).then(|| rng.below(60));
    Device { config: config.with_faults(faults), unplugged }
}

/// A random plan that is over after some submissions, so that in the end the device is well.
fn plan(rng: &mut SplitMix64, may_lie: bool) -> FaultPlan {
    let intensity = ALWAYS >> rng.below(7);
    let mut plan = FaultPlan::random_with(rng.next(), intensity);
    if rng.below(3) == 0 {
        // What batches and fences are most sensitive to, more often than by chance.
        let fault = match rng.below(4) {
            0 => Fault::Status { code: 0x16, partial: rng.below(2) == 0 },
            1 => Fault::Lost { executed: rng.below(2) == 0 },
            2 => Fault::PageFault {
                operand: rng.below(2) as u8,
                offset: dsa_model::faults::Offset::Random,
                lower: true,
            },
            _ => Fault::StraggleOnClose(1 + rng.below(60) as u32),
        };
        plan = plan.with(When { chance: ALWAYS / 3, limit: 12, ..When::default() }, fault);
    }
    if may_lie && rng.below(2) == 0 {
        let lie = if rng.below(2) == 0 { Fault::Corrupt } else { Fault::Status { code: 1, partial: true } };
        plan = plan.with(When::chance(rng.below(u64::from(ALWAYS) / 4) as u32), lie);
    }
    if rng.below(3) == 0 {
        // Without BATCH, or without FILL.
        let left = if rng.below(2) == 0 { 0x1_003f_03fd } else { 0x1_003f_03ef };
        plan.op_cap_after_reset = Some([left, 0, 0, 0]);
    }
    let end = 1 + rng.below(60);
    for rule in &mut plan.rules {
        rule.when.submissions = 0..end;
    }
    plan
}
