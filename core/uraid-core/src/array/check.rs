//! The invariants, checked after every step in tests and on demand in the daemon.

use super::cache::Work;
use super::members::State;
use super::pass::Kind;
use super::{Array, Io, IoFor};
use crate::blocks::Blocks;
use crate::{MemberId, ReqId};
use std::collections::{BTreeMap, BTreeSet};

impl Array {
    /// Checks every invariant of the array's state.
    ///
    /// # Errors
    /// Says which one does not hold. The array must not be used any further then.
    pub fn self_check(&self) -> Result<(), String> {
        self.cache.check()?;
        self.check_roles()?;
        self.check_parts()?;
        self.check_passes()?;
        self.check_overlap()?;
        self.check_redundancy()?;
        self.check_intent()?;
        self.check_logs()?;
        self.check_counters()
    }

    fn check_roles(&self) -> Result<(), String> {
        for (index, id) in self.roles.iter().enumerate() {
            let Some(id) = id else { continue };
            let member = self.members.get(id).ok_or(format!("role {index} is played by nobody known"))?;
            if member.role.map(|r| usize::from(r.0)) != Some(index) || !self.is_live(*id) {
                return Err(format!("role {index} is played by {id:?}, which stands {:?}", member.state));
            }
        }
        for member in self.members.values().filter(|m| self.is_live(m.id)) {
            let plays = member.role.and_then(|r| self.roles.get(usize::from(r.0)).copied().flatten());
            if plays != Some(member.id) {
                return Err(format!("{:?} thinks it plays {:?}", member.id, member.role));
            }
            if member.state == State::InSync && member.rebuilt < self.geometry.stripes() {
                return Err(format!("{:?} is in sync but not rebuilt", member.id));
            }
            if member.rebuilt_durable > member.rebuilt {
                return Err(format!("{:?} promises more than was rebuilt", member.id));
            }
        }
        Ok(())
    }

    /// Every part that a request counts is somewhere, exactly once.
    fn check_parts(&self) -> Result<(), String> {
        let mut parts: BTreeMap<ReqId, u32> = BTreeMap::new();
        let mut count = |req: ReqId| *parts.entry(req).or_default() += 1;
        let mut queued = |work: &Work| match work {
            Work::Write(part) | Work::Read(part) => count(part.req),
            Work::Sync | Work::Replay(_) => {}
        };
        for (_, slot) in self.cache.slots() {
            slot.queue.iter().for_each(&mut queued);
        }
        self.cache.waiting_work().for_each(&mut queued);
        for (_, slot) in self.cache.slots() {
            slot.pass.iter().flat_map(|p| &p.parts).for_each(|p| count(p.req));
        }
        for io in self.ios.values() {
            if let IoFor::Direct { part, .. } = io.what {
                count(part.req);
            }
        }
        for (id, request) in &self.requests {
            let seen = parts.remove(id).unwrap_or(0);
            if seen != request.parts {
                return Err(format!("{id:?} counts {} parts, {seen} exist", request.parts));
            }
        }
        match parts.first_key_value() {
            Some((id, _)) => Err(format!("parts of {id:?} exist, but not the request")),
            None => Ok(()),
        }
    }

    fn check_passes(&self) -> Result<(), String> {
        let all = Blocks::range(0, self.geometry.strip_blocks());
        for (id, slot) in self.cache.slots() {
            if slot.lanes.iter().any(|l| !l.cached.or(l.bad).minus(all).is_empty()) {
                return Err(format!("slot {} knows of blocks beyond its strips", id.0));
            }
            let Some(pass) = &slot.pass else { continue };
            if pass.outstanding == 0 {
                return Err(format!("the pass at slot {} waits for nothing", id.0));
            }
            if pass.kind == Kind::Write && pass.storing && !self.broken && !self.may_write() {
                return Err(format!("slot {} is written although the members do not say dirty", id.0));
            }
        }
        Ok(())
    }

    /// No two transfers on a member touch the same bytes if a pass writes one of them, but for direct
    /// reads, which may see a write in flight as a disk's reader may.
    fn check_overlap(&self) -> Result<(), String> {
        let mut ranges: BTreeMap<MemberId, Vec<&Io>> = BTreeMap::new();
        for io in self.ios.values().filter(|io| io.len > 0 && !matches!(io.what, IoFor::Direct { .. })) {
            ranges.entry(io.member).or_default().push(io);
        }
        for (member, mut ios) in ranges {
            ios.sort_by_key(|io| io.offset);
            for pair in ios.windows(2) {
                if let [a, b] = pair
                    && (a.write || b.write)
                    && a.offset + u64::from(a.len) > b.offset
                {
                    return Err(format!("{member:?}: {a:?} and {b:?} overlap"));
                }
            }
        }
        Ok(())
    }

    fn check_counters(&self) -> Result<(), String> {
        let flushes: BTreeSet<ReqId> =
            self.flushes.current.iter().chain(&self.flushes.next).copied().collect();
        let parked: BTreeSet<ReqId> = self.flushes.parked.iter().copied().collect();
        for (id, request) in &self.requests {
            let waiting = flushes.contains(id)
                || parked.contains(id)
                || request.throttled
                || self.recalled.contains(id);
            if request.parts == 0 && !waiting {
                return Err(format!("{id:?} waits for nothing"));
            }
        }
        let metas =
            self.ios.values().filter(|io| matches!(io.what, IoFor::MetaFlush | IoFor::MetaWrite)).count();
        if metas > self.members.len() {
            return Err("two superblock updates are under way".into());
        }
        if self.meta.resynced > self.geometry.stripes() {
            return Err("more is resynced than there is".into());
        }
        Ok(())
    }
}
