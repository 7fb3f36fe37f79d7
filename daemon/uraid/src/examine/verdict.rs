//! Whether the arrays of the members named can be started: one sentence each, what is wrong, and the next
//! command. The verdict is that of `uraid serve`, which asks the same function.

use std::collections::BTreeMap;

use md_format::{AssembleError, AssembleOptions, Assembly, Found, Superblock, Uuid, assemble};
use serde::Serialize;

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
    pub verdict: String,
    pub problems: Vec<String>,
    pub next: String,
}

/// One verdict for each array of which a member was named, in the order in which they were named.
pub(super) fn verdicts(found: &[Found]) -> Vec<ArrayVerdict> {
    let mut order: Vec<Uuid> = Vec::new();
    let mut arrays: BTreeMap<Uuid, Vec<Found>> = BTreeMap::new();
    for one in found {
        let Ok(superblock) = &one.superblock else { continue };
        let uuid = superblock.set_uuid();
        let members = arrays.entry(uuid).or_default();
        if members.is_empty() {
            order.push(uuid);
        }
        members.push(one.clone());
    }
    let members = |uuid: &Uuid| arrays.get(uuid).cloned().unwrap_or_default();
    order.iter().filter_map(|uuid| verdict(*uuid, &members(uuid))).collect()
}

/// The verdict over the members of one array.
fn verdict(uuid: Uuid, found: &[Found]) -> Option<ArrayVerdict> {
    let first: &Superblock = found.iter().find_map(|one| one.superblock.as_ref().ok())?;
    let members: Vec<String> = found.iter().map(|one| one.label.clone()).collect();
    let what = format!("{:?} ({} of {} members)", first.short_name(), first.level(), first.raid_disks());
    let judged = assemble(found, AssembleOptions { force: false, array: Some(uuid) });
    let (startable, degraded) = (judged.is_ok(), judged.as_ref().ok().map(|assembly| assembly.degraded));
    let (verdict, problems, next) = match &judged {
        Ok(assembly) => started(&what, assembly, &members),
        Err(error) => refused(&what, first, error, &members),
    };
    let (array_uuid, array_name) = (uuid.to_string(), first.name());
    Some(ArrayVerdict { array_uuid, array_name, members, startable, degraded, verdict, problems, next })
}

/// A sentence, what is wrong, and what to do.
type Words = (String, Vec<String>, String);

fn started(what: &str, assembly: &Assembly, members: &[String]) -> Words {
    let problems: Vec<String> = assembly.warnings.iter().map(ToString::to_string).collect();
    let verdict = match (assembly.degraded, assembly.dirty) {
        (0, false) => {
            format!("The array {what} can be started: every role has its member, and parity is good.")
        }
        (0, true) => {
            format!("The array {what} can be started: every role has its member; parity will be resynced.")
        }
        _ => format!("The array {what} can be started, degraded."),
    };
    (verdict, problems, format!("uraid serve {}", shell_words(members)))
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
        AssembleError::DirtyDegraded { .. } => (
            "it was not stopped cleanly, and a member is missing or not rebuilt".to_owned(),
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
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    let word = |path: &String| {
        if !path.is_empty() && path.chars().all(plain) {
            path.clone()
        } else {
            format!("'{}'", path.replace('\'', r"'\''"))
        }
    };
    paths.iter().map(word).collect::<Vec<_>>().join(" ")
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

    #[test]
    fn paths_can_be_pasted_into_a_shell() {
        let paths = ["/dev/sda1", "a b", "it's", ""].map(str::to_owned);
        assert_eq!(shell_words(&paths), r"/dev/sda1 'a b' 'it'\''s' ''");
    }
}
