//! Which of the named devices make an array, and whether it may be started.
//!
//! The order in which the devices are named does not matter, except that of two devices which are alike
//! in every respect the first is taken. Where the kernel would take a member whose data may be old, this
//! rejects it: a member that the newest one calls failed is not used even if their events are equal, and
//! a member whose number is outside the role table is not taken for a blank spare. A member that was replacing
//! another one (`mdadm --replace`) when the array stopped is left out, and the one that it was to replace serves.
//! Its entry in the role table becomes that of a spare with the first update, so that neither the kernel nor
//! this takes it back as half of a member once the array was written without it.

use crate::assemble_bitmap::{ArrayBitmap, array_bitmap};
use crate::assemble_ppl::{array_ppl, ppl_warning};
use crate::assemble_types::{
    AssembleError, AssembleOptions, Assembly, Found, Member, MemberState, Reason, Rejected, Unsynced, Warning,
};
use crate::bad_blocks::BadBlocks;
use crate::features::Features;
use crate::superblock::{DevRole, Superblock};
use crate::unsupported::unsupported;
use crate::uuid::Uuid;
use crate::wire::CLEAN;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Decides which devices make an array, in whatever order they are named.
///
/// # Errors
/// There is no array, there are several, it has an unsupported feature, too many members are missing, or
/// it is dirty and degraded.
pub fn assemble(found: &[Found], options: AssembleOptions) -> Result<Assembly, AssembleError> {
    let mut sorter = Sorter { found, rejected: BTreeMap::new() };
    let sound = sorter.sound();
    let Some(array) = sorter.array(&sound, options.array)? else {
        return Err(AssembleError::NoMembers { wanted: options.array, rejected: sorter.rejections() });
    };
    let own = sorter.of_array(sound, array);
    let Some(newest) = newest(&own) else {
        return Err(AssembleError::NoMembers { wanted: options.array, rejected: sorter.rejections() });
    };
    if let Some(error) = sorter.tie(&own, newest) {
        return Err(error);
    }
    let current = sorter.current(own, newest);
    for candidate in std::iter::once(&newest).chain(&current) {
        if let Some(features) = unsupported(candidate.superblock) {
            return Err(AssembleError::Unsupported { label: sorter.label(candidate.index), features });
        }
    }
    let taken = sorter.without_duplicates(current);
    verdict(&sorter, newest.superblock, &taken, options.force)
}

/// A device with a sound superblock.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    /// Index among the devices named.
    index: usize,
    superblock: &'a Superblock,
}

impl Candidate<'_> {
    /// What is to be compared to choose between two devices that claim the same place: the larger wins.
    fn rank(&self) -> (bool, u64, bool, Reverse<usize>) {
        let holds_role = matches!(self.superblock.role(), DevRole::Active(_));
        let in_sync = self.superblock.recovery_offset().is_none();
        (holds_role, self.superblock.events(), in_sync, Reverse(self.index))
    }
}

/// Goes through the devices and remembers why some are not taken.
struct Sorter<'a> {
    found: &'a [Found],
    rejected: BTreeMap<usize, Reason>,
}

impl<'a> Sorter<'a> {
    fn label(&self, index: usize) -> String {
        self.found.get(index).map_or_else(String::new, |found| found.label.clone())
    }

    fn rejections(&self) -> Vec<Rejected> {
        let rejected = self.rejected.iter();
        rejected
            .map(|(&found, reason)| Rejected { found, label: self.label(found), reason: reason.clone() })
            .collect()
    }

    /// The devices that have a sound superblock, each once.
    fn sound(&mut self) -> Vec<Candidate<'a>> {
        let mut seen: BTreeMap<(u64, u64), usize> = BTreeMap::new();
        let mut sound = Vec::new();
        for (index, found) in self.found.iter().enumerate() {
            if let Some(identity) = found.identity {
                let first = *seen.entry(identity).or_insert(index);
                if first != index {
                    let other = self.label(first);
                    self.rejected.insert(index, Reason::SameDevice { other });
                    continue;
                }
            }
            match &found.superblock {
                Ok(superblock) => match bad_blocks(found, superblock) {
                    Ok(_) => sound.push(Candidate { index, superblock }),
                    Err(why) => drop(self.rejected.insert(index, Reason::BadBlocks(why))),
                },
                Err(error) => drop(self.rejected.insert(index, Reason::Superblock(error.clone()))),
            }
        }
        sound
    }

    /// Which array is meant: the one that was asked for, else the one that more than half of the devices
    /// belong to.
    fn array(&self, sound: &[Candidate<'a>], wanted: Option<Uuid>) -> Result<Option<Uuid>, AssembleError> {
        if wanted.is_some() {
            return Ok(wanted);
        }
        let mut arrays: BTreeMap<Uuid, Vec<Candidate<'a>>> = BTreeMap::new();
        for candidate in sound {
            arrays.entry(candidate.superblock.set_uuid()).or_default().push(*candidate);
        }
        let majority = arrays.iter().find(|(_, members)| members.len() * 2 > sound.len());
        match majority {
            Some((uuid, _)) => Ok(Some(*uuid)),
            None if arrays.is_empty() => Ok(None),
            None => Err(AssembleError::SeveralArrays {
                arrays: arrays
                    .iter()
                    .map(|(uuid, members)| {
                        let name = members.first().map_or_else(String::new, |one| one.superblock.name());
                        (*uuid, name, members.iter().map(|one| self.label(one.index)).collect())
                    })
                    .collect(),
            }),
        }
    }

    /// The devices of this array whose numbers are possible.
    fn of_array(&mut self, sound: Vec<Candidate<'a>>, array: Uuid) -> Vec<Candidate<'a>> {
        self.keep(sound, |one| {
            let superblock = one.superblock;
            if superblock.set_uuid() != array {
                return Err(Reason::Foreign { name: superblock.name(), uuid: superblock.set_uuid() });
            }
            if superblock.dev_number() >= superblock.max_dev() {
                return Err(Reason::OutOfRange {
                    what: format!("member number {}", superblock.dev_number()),
                });
            }
            match superblock.role() {
                DevRole::Active(role) if role >= superblock.raid_disks() => {
                    Err(Reason::OutOfRange { what: format!("role {role}") })
                }
                _ => Ok(()),
            }
        })
    }

    /// Whether as many devices as agree with the newest member, and as new, went their own way.
    fn tie(&self, own: &[Candidate<'a>], newest: Candidate<'a>) -> Option<AssembleError> {
        let events = newest.superblock.events();
        let latest = || own.iter().filter(|one| one.superblock.events() == events);
        let like = |wanted: &Superblock| -> Vec<String> {
            let alike = latest().filter(|one| one.superblock.roles == wanted.roles);
            alike.map(|one| self.label(one.index)).collect()
        };
        let one_side = like(newest.superblock);
        latest()
            .filter(|one| {
                excludes(newest.superblock, one.superblock) && excludes(one.superblock, newest.superblock)
            })
            .map(|one| like(one.superblock))
            .find(|other_side| other_side.len() == one_side.len())
            .map(|other_side| AssembleError::SeparateWays { one_side, other_side })
    }

    /// The devices that agree with the newest member and are as new. Spares only have to agree.
    fn current(&mut self, own: Vec<Candidate<'a>>, newest: Candidate<'a>) -> Vec<Candidate<'a>> {
        let label = self.label(newest.index);
        self.keep(own, |one| {
            same_array(one.superblock, newest.superblock)?;
            if one.superblock.role() != DevRole::Journal {
                large_enough(one.superblock)?;
            }
            if let (true, DevRole::Active(role)) = (is_replacement(one.superblock), one.superblock.role()) {
                return Err(Reason::Replacement { role });
            }
            up_to_date(one.superblock, newest.superblock, &label)
        })
    }

    /// Of the devices that claim the same place, the newest.
    fn without_duplicates(&mut self, mut current: Vec<Candidate<'a>>) -> Vec<Candidate<'a>> {
        current.sort_by_key(|one| Reverse(one.rank()));
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        let found = self.found;
        self.keep(current, |one| {
            let claims = claims(one.superblock);
            for what in &claims {
                if let Some(holder) = places.get(what).and_then(|&index| found.get(index)) {
                    return Err(Reason::Duplicate { what: what.clone(), other: holder.label.clone() });
                }
            }
            places.extend(claims.into_iter().map(|what| (what, one.index)));
            Ok(())
        })
    }

    /// Keeps the devices that pass, and remembers the reason for the others.
    fn keep(
        &mut self,
        candidates: Vec<Candidate<'a>>,
        mut pass: impl FnMut(&Candidate<'a>) -> Result<(), Reason>,
    ) -> Vec<Candidate<'a>> {
        let mut kept = Vec::new();
        for one in candidates {
            match pass(&one) {
                Ok(()) => kept.push(one),
                Err(reason) => drop(self.rejected.insert(one.index, reason)),
            }
        }
        kept
    }
}

/// What the bad-block log of a device says and its bytes, if its superblock says that it counts.
fn bad_blocks(found: &Found, superblock: &Superblock) -> Result<(BadBlocks, Vec<u8>), String> {
    let log = superblock.bad_block_log().filter(|_| superblock.features().contains(Features::BAD_BLOCKS));
    match (log, &found.areas.bad_blocks) {
        (None, _) => Ok((BadBlocks::default(), Vec::new())),
        (Some(_), None) => Err("it was not read".to_owned()),
        (Some(_), Some(Err(why))) => Err(format!("it cannot be read: {why}")),
        (Some(log), Some(Ok(bytes))) => {
            let bad = BadBlocks::parse(log, bytes).map_err(|error| error.to_string())?;
            Ok((bad, bytes.iter().take(log.bytes()).copied().collect()))
        }
    }
}

/// The places that only one device may have, in words.
fn claims(superblock: &Superblock) -> Vec<String> {
    let mut claims = vec![
        "device UUID".to_owned() + " " + &superblock.device_uuid().to_string(),
        format!("member number {}", superblock.dev_number()),
    ];
    if let DevRole::Active(role) = superblock.role() {
        claims.push(format!("role {role}"));
    }
    claims
}

/// The device whose superblock tells the state of the array: of those with a role the one with the most
/// events. Where several have as many they were written alike; should they not be, the one that most of
/// them agree with counts, then the one that trusts parity least. A replacement that is not finished counts
/// only where it alone is the newest; then the array is refused, because it will not be used.
fn newest<'a>(own: &[Candidate<'a>]) -> Option<Candidate<'a>> {
    let holds_role =
        |one: &&Candidate<'a>| matches!(one.superblock.role(), DevRole::Active(_) | DevRole::Journal);
    let holders: Vec<Candidate<'a>> = own.iter().filter(holds_role).copied().collect();
    let among = if holders.is_empty() { own } else { &holders };
    let events = among.iter().map(|one| one.superblock.events()).max()?;
    let latest: Vec<Candidate<'a>> =
        among.iter().filter(|one| one.superblock.events() == events).copied().collect();
    latest.iter().copied().max_by_key(|one| {
        let agreeing = latest.iter().filter(|other| other.superblock.roles == one.superblock.roles).count();
        let superblock = one.superblock;
        let own = !is_replacement(superblock);
        let trust = Reverse(superblock.resync_offset());
        (own, agreeing, trust, Reverse(superblock.dev_number()), Reverse(one.index))
    })
}

/// Whether this member was being filled to take over a role that another one still plays.
fn is_replacement(superblock: &Superblock) -> bool {
    superblock.features().contains(Features::REPLACEMENT)
}

/// Both describe the same array.
fn same_array(one: &Superblock, newest: &Superblock) -> Result<(), Reason> {
    let fields = [
        ("creation time", one.ctime().to_string(), newest.ctime().to_string()),
        ("level", one.level().to_string(), newest.level().to_string()),
        ("layout", one.layout().to_string(), newest.layout().to_string()),
        ("chunk", format!("{} sectors", one.chunk_sectors()), format!("{} sectors", newest.chunk_sectors())),
        ("size", format!("{} sectors", one.size_sectors()), format!("{} sectors", newest.size_sectors())),
        ("number of members", one.raid_disks().to_string(), newest.raid_disks().to_string()),
    ];
    match fields.into_iter().find(|(_, says, newest)| says != newest) {
        Some((field, says, newest)) => Err(Reason::Geometry { field, says, newest }),
        None => Ok(()),
    }
}

fn large_enough(one: &Superblock) -> Result<(), Reason> {
    let (data_size, size_sectors) = (one.data_size(), one.size_sectors());
    if data_size < size_sectors { Err(Reason::TooSmall { data_size, size_sectors }) } else { Ok(()) }
}

/// What the member holds is what the array has. Superblocks are written to all members at once but not
/// atomically, so one event less is as good; what the newest superblock says about a member then decides.
fn up_to_date(one: &Superblock, newest: &Superblock, newest_label: &str) -> Result<(), Reason> {
    let role = match one.role() {
        DevRole::Spare => return Ok(()),
        DevRole::Journal => {
            // A journal may lag, as spares do. One that md was told to do without is older, and unknown to the rest.
            let known = newest.features().contains(Features::JOURNAL)
                || newest.role_of(one.dev_number()) == DevRole::Journal;
            let current = known || one.events().saturating_add(1) >= newest.events();
            return if current { Ok(()) } else { Err(Reason::Evicted) };
        }
        DevRole::Faulty => return Err(Reason::Evicted),
        role @ DevRole::Active(_) => role,
    };
    if one.events().saturating_add(1) < newest.events() {
        return Err(Reason::Stale { events: one.events(), newest: newest.events() });
    }
    // A member that began to be rebuilt with the last update is not known to those that missed it.
    if newest.recovery_offset().is_none() && excludes(one, newest) {
        return Err(Reason::SeparateWays { newest: newest_label.to_owned() });
    }
    if newest.role_of(one.dev_number()) == role { Ok(()) } else { Err(Reason::Evicted) }
}

/// Whether the role table of `one` has nobody in the role that `other` plays.
fn excludes(one: &Superblock, other: &Superblock) -> bool {
    let role = other.role();
    matches!(role, DevRole::Active(_)) && one.dev_roles().all(|(_, known)| known != role)
}

/// Whether the array may start with these members, and in which state.
fn verdict(
    sorter: &Sorter<'_>,
    newest: &Superblock,
    taken: &[Candidate<'_>],
    force: bool,
) -> Result<Assembly, AssembleError> {
    let rejected = sorter.rejections();
    let holder = |role| taken.iter().find(|one| one.superblock.role() == DevRole::Active(role));
    let missing_roles: Vec<u16> = (0..newest.raid_disks()).filter(|&role| holder(role).is_none()).collect();
    let not_in_sync: Vec<u16> = (0..newest.raid_disks())
        .filter(|&role| holder(role).is_none_or(|one| one.superblock.recovery_offset().is_some()))
        .collect();
    // At most `raid_disks`, which is a `u16`.
    let degraded = not_in_sync.len() as u16;
    let (level, raid_disks) = (newest.level(), newest.raid_disks());
    if degraded > level.parity() {
        return Err(AssembleError::TooFewMembers { level, raid_disks, roles: not_in_sync, rejected });
    }
    let copies = || taken.iter().map(|one| (one.index, one.superblock));
    let ppl = array_ppl(sorter.found, copies(), newest)?;
    // A log says what every column that was being written holds, but for the blocks that were written. Whether
    // the array is new does not matter: that is a guess from its age, and an array that was made and crashed
    // within one second looks the same.
    let logged = ppl.as_ref().is_some_and(|ppl| ppl.sound) && newest.resync_offset() == 0;
    let forced = !newest.is_clean() && degraded > 0 && !logged;
    if forced && !force {
        return Err(AssembleError::DirtyDegraded { why: Unsynced::of(newest), roles: not_in_sync, rejected });
    }
    // With as many members missing as parity covers, lost data are by definition what parity says and
    // nothing is left to compare. With redundancy left, some of it may be stale: that is resynced.
    let replay = ppl.as_ref().is_some_and(|ppl| !ppl.replay.is_empty());
    let consistent = forced && missing_roles.len() == usize::from(level.parity()) && !replay;
    let superblock = array_superblock(newest, taken, consistent);
    let members = members(sorter.found, taken, &superblock);
    let mut bitmap_warnings = Vec::new();
    let bitmap = array_bitmap(sorter.found, copies(), newest, &mut bitmap_warnings)?;
    let mut assembly = Assembly {
        dirty: !superblock.is_clean(),
        resync_offset: superblock.resync_offset(),
        superblock,
        members,
        missing_roles,
        rejected,
        degraded,
        bitmap,
        ppl,
        warnings: Vec::new(),
    };
    assembly.warnings = warnings(sorter, &assembly, Unsynced::of(newest), forced.then_some(not_in_sync));
    assembly.warnings.extend(bitmap_warnings);
    Ok(assembly)
}

/// The newest superblock with a role table that names the members taken and nobody else: a device that
/// was left out must not be able to come back as if it had been there.
fn array_superblock(newest: &Superblock, taken: &[Candidate<'_>], consistent: bool) -> Superblock {
    let mut superblock = newest.clone();
    let present: Vec<u32> = taken.iter().map(|one| one.superblock.dev_number()).collect();
    let entries: Vec<u32> = superblock.dev_roles().map(|(number, _)| number).collect();
    for number in entries.into_iter().filter(|number| !present.contains(number)) {
        // The entry exists, so setting it cannot fail.
        let _ = superblock.set_role(number, DevRole::Spare);
    }
    for one in taken {
        // A spare needs no entry; a role holder has the same one in the newest table already.
        let _ = superblock.set_role(one.superblock.dev_number(), one.superblock.role());
    }
    if consistent {
        superblock.set_resync_offset(CLEAN);
    }
    superblock
}

/// The members taken, role holders first.
fn members(found: &[Found], taken: &[Candidate<'_>], array: &Superblock) -> Vec<Member> {
    let mut members: Vec<Member> = taken
        .iter()
        .map(|one| {
            let mut superblock = one.superblock.clone();
            superblock.catch_up(array);
            let role = match one.superblock.role() {
                DevRole::Active(role) => Some(role),
                _ => None,
            };
            let state = match (role, one.superblock.recovery_offset()) {
                (None, _) => MemberState::Spare,
                (Some(_), None) => MemberState::InSync,
                (Some(_), Some(sectors)) => {
                    MemberState::Rebuilding { recovery_offset: sectors.min(array.size_sectors()) }
                }
            };
            // A member whose log cannot be used was not taken.
            let log = found.get(one.index).and_then(|found| bad_blocks(found, one.superblock).ok());
            let (bad_blocks, bad_block_log) = log.unwrap_or_default();
            Member {
                found: one.index,
                dev_number: superblock.dev_number(),
                role,
                state,
                bad_blocks,
                bad_block_log,
                superblock,
            }
        })
        .collect();
    members.sort_by_key(|member| (member.role.is_none(), member.role, member.dev_number));
    members
}

fn warnings(
    sorter: &Sorter<'_>,
    assembly: &Assembly,
    why: Unsynced,
    forced: Option<Vec<u16>>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Some(roles) = forced {
        warnings.push(Warning::Forced { why, roles });
    }
    if !assembly.missing_roles.is_empty() {
        warnings.push(Warning::Degraded {
            missing_roles: assembly.missing_roles.clone(),
            spare_parity: assembly.superblock.level().parity().saturating_sub(assembly.degraded),
        });
    }
    for member in &assembly.members {
        if let (MemberState::Rebuilding { .. }, Some(role)) = (member.state, member.role) {
            warnings.push(Warning::Rebuilding { label: sorter.label(member.found), role });
        }
    }
    let replayed =
        assembly.ppl.as_ref().and_then(|ppl| ppl_warning(ppl, assembly.dirty, assembly.degraded > 0));
    let resync = !matches!(replayed, Some(Warning::PplReplay { resync: false, .. }));
    warnings.extend(replayed);
    if assembly.dirty && resync {
        let regions = assembly.bitmap.as_ref().map(|ArrayBitmap { bitmap, .. }| {
            // There are at most 2^32 of them, so a count of them fits.
            (bitmap.set_regions().count() as u64, bitmap.regions())
        });
        warnings.push(Warning::Dirty { why, resync_offset: assembly.resync_offset, regions });
    }
    for member in &assembly.members {
        let (start, size) = (member.superblock.data_offset(), member.superblock.size_sectors());
        let sectors: u64 = member.bad_blocks.within(start, size).map(|(_, sectors)| sectors).sum();
        if sectors > 0 {
            warnings.push(Warning::BadBlocks { label: sorter.label(member.found), sectors });
        }
    }
    warnings.extend(assembly.rejected.iter().cloned().map(Warning::Rejected));
    warnings
}
