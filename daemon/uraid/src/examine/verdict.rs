//! Whether the arrays of the members named can be started: one sentence each, what is wrong, and the next
//! command. The verdict is that of `uraid serve`, which asks the same function and refuses what is in use.

use md_format::{AssembleError, AssembleOptions, Assembly, Found, Superblock, Uuid, Warning, assemble};
use serde::Serialize;

use super::Examined;
use crate::assembly::unsupported_shape;
use crate::human::shell_word;

/// The verdict over one array.
#[derive(Serialize, Debug)]
#[expect(missing_docs, reason = "docs/json.md describes each field once, for all readers")]
pub struct ArrayVerdict {
    pub array_uuid: String,
    pub array_name: String,
    /// The paths named that say that they belong to it.
    pub members: Vec<String>,
    pub startable: bool,
    pub degraded: Option<u16>,
    pub in_use: Option<String>,
    pub verdict: String,
    pub problems: Vec<String>,
    pub next: String,
}

/// One verdict for each array of which a member was named, in the order in which they were named.
pub(super) fn verdicts(examined: &[Examined<'_>]) -> Vec<ArrayVerdict> {
    let mut order: Vec<Uuid> = Vec::new();
    for uuid in examined.iter().filter_map(array_of) {
        if !order.contains(&uuid) {
            order.push(uuid);
        }
    }
    // What is no member was meant to be one of the array, where there is only one; `uraid serve` says so, too.
    let only = order.len() == 1;
    let concerns = |uuid: Uuid| {
        let one_of = move |one: &&Examined<'_>| array_of(one).map_or(only, |of| of == uuid);
        examined.iter().filter(one_of).collect::<Vec<_>>()
    };
    order.iter().filter_map(|uuid| verdict(*uuid, &concerns(*uuid))).collect()
}

/// The array to which a device says that it belongs.
fn array_of(one: &Examined<'_>) -> Option<Uuid> {
    one.found.superblock.as_ref().ok().map(Superblock::set_uuid)
}

/// The verdict over the members of one array, and what was named beside them.
fn verdict(uuid: Uuid, examined: &[&Examined<'_>]) -> Option<ArrayVerdict> {
    let found: Vec<Found> = examined.iter().map(|one| one.found.clone()).collect();
    let own = || examined.iter().filter(|one| array_of(one) == Some(uuid));
    let first: &Superblock = own().find_map(|one| one.found.superblock.as_ref().ok())?;
    let members: Vec<String> = own().map(|one| one.found.label.clone()).collect();
    let what = format!("{:?} ({} of {} members)", first.short_name(), first.level(), first.raid_disks());
    let in_use = own().find_map(|one| Some(format!("{} is {}", one.found.label, one.held.as_ref()?)));
    let judged = assemble(&found, AssembleOptions { force: false, array: Some(uuid) });
    let shape = judged.as_ref().ok().and_then(|assembly| unsupported_shape(&assembly.superblock));
    let startable = judged.is_ok() && shape.is_none() && in_use.is_none();
    let degraded = judged.as_ref().ok().filter(|_| startable).map(|assembly| assembly.degraded);
    let (verdict, problems, next) = match (&judged, &in_use, shape) {
        // What its superblocks say changes while it runs, so nothing is made of it.
        (_, Some(by), _) => (
            format!("The array {what} is in use and cannot be started a second time."),
            vec![by.clone()],
            "leave it to whoever has it, or let go of it first, as is said above".to_owned(),
        ),
        (Ok(_), None, Some(shape)) => (
            format!("The array {what} cannot be started: {shape}."),
            vec![shape.to_string()],
            "use Linux md for this array".to_owned(),
        ),
        (Ok(assembly), None, None) => started(&what, assembly, &members),
        (Err(error), None, _) => refused(&what, first, error, &members),
    };
    let (array_uuid, array_name) = (uuid.to_string(), first.name());
    Some(ArrayVerdict {
        array_uuid,
        array_name,
        members,
        startable,
        degraded,
        in_use,
        verdict,
        problems,
        next,
    })
}

/// A sentence, what is wrong, and what to do.
type Words = (String, Vec<String>, String);

fn started(what: &str, assembly: &Assembly, members: &[String]) -> Words {
    let problems: Vec<String> = assembly.warnings.iter().map(ToString::to_string).collect();
    let how = match assembly.degraded {
        0 => format!(": every role has its member{}", parity(assembly)),
        _ => ", degraded".to_owned(),
    };
    let verdict = format!("The array {what} can be started{how}.");
    (verdict, problems, format!("uraid serve {}", shell_words(members)))
}

/// What becomes of parity, as the end of a sentence.
fn parity(assembly: &Assembly) -> &'static str {
    let says = |is: fn(&Warning) -> bool| assembly.warnings.iter().any(is);
    let logged = |warning: &Warning| matches!(warning, Warning::PplReplay { resync: false, .. });
    let by_bitmap = |warning: &Warning| matches!(warning, Warning::Dirty { regions: Some(_), .. });
    let bad_blocks = |warning: &Warning| matches!(warning, Warning::BadBlocks { .. });
    if assembly.dirty && says(logged) {
        "; its partial parity log makes parity match again"
    } else if assembly.dirty && says(by_bitmap) {
        "; parity will be resynced where its bitmap says so"
    } else if assembly.dirty {
        "; parity will be resynced"
    } else if says(bad_blocks) {
        ", and it is marked clean, but there are bad blocks"
    } else {
        ", and it is marked clean"
    }
}

fn refused(what: &str, first: &Superblock, error: &AssembleError, members: &[String]) -> Words {
    let named = shell_words(members);
    let (why, next) = match error {
        AssembleError::TooFewMembers { roles, .. } => (
            format!(
                "{} of its {} roles have no member that can be used among the devices named",
                roles.len(),
                first.raid_disks()
            ),
            format!("find the others (uraid assemble --scan), then uraid serve {named} OTHERS ..."),
        ),
        AssembleError::DirtyDegraded { why, .. } => (
            format!("{why}, and a member is missing or not rebuilt"),
            format!(
                "name the missing member, too; if it is lost: uraid serve --force {named}, then check the file system"
            ),
        ),
        AssembleError::Unsupported { label, features } => {
            (format!("{label} has a feature that uraid does not honour: {features}"), features.advice())
        }
        AssembleError::SeparateWays { .. } => (
            "its members were written separately, in two parts".to_owned(),
            "name the devices of the part to keep only".to_owned(),
        ),
        other => (other.to_string(), format!("look at each device: uraid examine {named}")),
    };
    let text = error.to_string();
    let problems = text.lines().map(|line| line.trim().to_owned()).collect();
    (format!("The array {what} cannot be started: {why}."), problems, next)
}

/// Paths as a shell takes them.
fn shell_words(paths: &[String]) -> String {
    paths.iter().map(|path| shell_word(path)).collect::<Vec<_>>().join(" ")
}

/// A verdict as lines of text.
pub(super) fn text(verdict: &ArrayVerdict) -> String {
    let mut text = format!("{}\n", verdict.verdict);
    verdict.problems.iter().for_each(|problem| text.push_str(&format!("  - {problem}\n")));
    text.push_str(&format!("  Next: {}\n", verdict.next));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    use md_format::{Areas, CreateParams, IntentBitmap, Layout, Level, Minor, plan_create};

    fn three() -> Vec<Superblock> {
        let params = CreateParams {
            level: Level::Raid5,
            layout: Layout::default_for(Level::Raid5),
            chunk_sectors: 128,
            name: "vol",
            set_uuid: Uuid([1; 16]),
            device_uuids: &[Uuid([2; 16]), Uuid([3; 16]), Uuid([4; 16])],
            members: &[65_536; 3],
            size_sectors: None,
            clean: false,
            now: 1_700_000_000,
            minor: Minor::V2,
            bitmap: IntentBitmap::None,
            ppl: false,
        };
        plan_create(&params).unwrap()
    }

    fn verdict_over(members: Vec<Superblock>) -> ArrayVerdict {
        let examined = |superblock: Superblock| {
            let (device_sectors, superblock) = (65_536, Ok(superblock));
            let (identity, areas) = (None, Areas::default());
            let found = Found { label: "m".to_owned(), device_sectors, superblock, identity, areas };
            Examined { path: Path::new("m"), device_bytes: None, found, held: None }
        };
        let examined: Vec<Examined<'_>> = members.into_iter().map(examined).collect();
        verdicts(&examined).remove(0)
    }

    #[test]
    fn an_array_of_two_is_not_said_to_start() {
        let two = three().into_iter().take(2).map(|member| {
            let mut bytes = member.encode();
            bytes[92] = 2;
            bytes[208..216].fill(0xff);
            // The role of the third is that of a spare.
            bytes[256 + 4..256 + 6].fill(0xff);
            let words = bytes.chunks(4).enumerate().filter(|(at, _)| *at != 54);
            let sum: u64 = words.map(|(_, w)| u64::from(u32::from_le_bytes(w.try_into().unwrap()))).sum();
            bytes[216..220].copy_from_slice(&((sum & 0xffff_ffff) + (sum >> 32)).to_le_bytes()[..4]);
            Superblock::parse(&bytes, member.location(), 65_536).unwrap()
        });
        let verdict = verdict_over(two.collect());
        assert!(!verdict.startable && verdict.degraded.is_none(), "{verdict:?}");
        assert!(
            verdict.verdict.contains("cannot be started: raid5 of 2 members is not supported"),
            "{verdict:?}"
        );
        assert_eq!(verdict.next, "use Linux md for this array");
    }

    #[test]
    fn what_parity_lacks_is_said_as_it_is() {
        let mut members = three();
        members.pop();
        let said = verdict_over(members).verdict;
        assert!(said.contains("its parity was not made yet, and a member is missing"), "{said}");
        assert!(!said.contains("stopped"), "{said}");
    }

    #[test]
    fn paths_can_be_pasted_into_a_shell() {
        let paths = ["/dev/sda1", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(shell_words(&paths), r"/dev/sda1 'a b' 'it'\''s' ''");
    }
}
