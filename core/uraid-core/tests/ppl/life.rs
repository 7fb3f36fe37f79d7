//! What a client may expect of each sector after a power cut, of an array that logs partial parity.

use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use uraid_core::*;

/// One value that a sector was given.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    req: ReqId,
    data: Vec<u8>,
    acked: Option<u64>,
}

/// A world with its history.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) world: World,
    base: Vec<u8>,
    versions: BTreeMap<u64, Vec<Version>>,
    /// Sectors whose first version is durable, so that `base` is no answer any more.
    settled: BTreeSet<u64>,
    flushes: BTreeMap<ReqId, u64>,
    fua: BTreeSet<ReqId>,
    acks: u64,
    /// Blocks (of 4 KiB) that were being written when a member failed.
    pub(crate) tainted: BTreeSet<u64>,
}

impl Life {
    pub(crate) fn new(world: World) -> Self {
        let base = world.model.clone();
        Life {
            world,
            base,
            versions: BTreeMap::new(),
            settled: BTreeSet::new(),
            flushes: BTreeMap::new(),
            fua: BTreeSet::new(),
            acks: 0,
            tainted: BTreeSet::new(),
        }
    }

    /// Looks at which requests were answered since.
    pub(crate) fn note_answers(&mut self) {
        let open: BTreeSet<ReqId> = self.world.asked.keys().copied().collect();
        let mut durable = Vec::new();
        for (&sector, versions) in &mut self.versions {
            for version in versions.iter_mut().filter(|v| v.acked.is_none() && !open.contains(&v.req)) {
                self.acks += 1;
                version.acked = Some(self.acks);
                if self.fua.contains(&version.req) {
                    durable.push((sector, self.acks));
                }
            }
        }
        let (done, under_way): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.flushes).into_iter().partition(|(id, _)| !open.contains(id));
        self.flushes = under_way;
        for seen in done.into_values() {
            durable.extend(self.versions.keys().map(|&sector| (sector, seen)));
        }
        for (sector, upto) in durable {
            let Some(versions) = self.versions.get_mut(&sector) else { continue };
            if let Some(last) = versions.iter().rposition(|v| v.acked.is_some_and(|a| a <= upto)) {
                versions.drain(..last);
                self.settled.insert(sector);
            }
        }
    }

    /// A flush, or a write that overlaps none under way.
    pub(crate) fn request(&mut self) {
        let rng = &mut self.world.rng;
        let sectors = self.world.model.len() as u64 / 512;
        let len = (if rng.chance(20) { 1 + rng.below(300) } else { 1 + rng.below(40) }).min(sectors);
        let start = rng.below(sectors - len + 1);
        if rng.chance(12) {
            let id = self.world.ask(RequestKind::Flush, 0, vec![]);
            self.flushes.insert(id, self.acks);
            return;
        }
        if (start..start + len).any(|s| self.world.open.contains_key(&s)) {
            return;
        }
        let (fua, tag) = (self.world.rng.chance(15), self.world.rng.next());
        let data: Vec<u8> =
            (0..len * 64).flat_map(|i| (tag ^ i.wrapping_mul(0x1234_5678_9abc)).to_le_bytes()).collect();
        let parts: Vec<Vec<u8>> = data.chunks(512).map(<[u8]>::to_vec).collect();
        let id = self.world.ask(RequestKind::Write { fua }, start * 512, data);
        for (sector, data) in (start..).zip(parts) {
            self.versions.entry(sector).or_default().push(Version { req: id, data, acked: None });
        }
        if fua {
            self.fua.insert(id);
        }
    }

    pub(crate) fn may_hold(&self, sector: u64, value: &[u8]) -> bool {
        let at = (sector * 512) as usize;
        let base = !self.settled.contains(&sector) && self.base[at..at + 512] == *value;
        base || self.versions.get(&sector).is_some_and(|v| v.iter().any(|v| v.data == value))
    }

    /// Blocks with a write that is not known to be durable.
    pub(crate) fn open_blocks(&self) -> BTreeSet<u64> {
        let open = |sector: &u64, v: &[Version]| v.len() > 1 || !self.settled.contains(sector);
        self.versions.iter().filter(|(s, v)| open(s, v)).map(|(s, _)| s / 8).collect()
    }
}
