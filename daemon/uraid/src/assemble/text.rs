//! What was found, for people.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use md_format::{MemberState, SECTOR};
use uraid_config::Size;

use super::Findings;
use super::arrays::{Array, Verdict};
use crate::cli::AssembleArgs;
use crate::human::{self, shell_word};
use crate::udev::CONFIGS;

/// All arrays, one block each.
pub(super) fn all(findings: &Findings, args: &AssembleArgs) -> String {
    let blocks: Vec<String> = findings.arrays.iter().map(|array| block(array, args)).collect();
    blocks.join("\n")
}

fn block(array: &Array, args: &AssembleArgs) -> String {
    let mut text = format!("{}\n", heading(array));
    for row in rows(array) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {:<8} {:<12} {}", row.role, row.state, row.path);
    }
    let sentence = array.sentence();
    let mut letters = sentence.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let _ = writeln!(text, "  {first}{}.", letters.as_str());
    for note in notes(array) {
        let _ = writeln!(text, "  Note: {note}.");
    }
    if let Some(next) = next(array, args) {
        let _ = writeln!(text, "  Next: {next}");
    }
    text
}

fn heading(array: &Array) -> String {
    let superblock = &array.superblock;
    let of = match (array.local, array.host()) {
        (Some(false), Some(host)) => format!(", of the host {host}"),
        _ => String::new(),
    };
    format!(
        "{}: {} of {}, {} chunk, {}, metadata {}, uuid {}{of}",
        array.name,
        superblock.level(),
        superblock.raid_disks(),
        Size::from_bytes(u64::from(superblock.chunk_sectors()) * SECTOR).to_string().trim_end_matches("iB"),
        human::bytes(superblock.array_sectors().saturating_mul(SECTOR)),
        superblock.minor(),
        superblock.set_uuid(),
    )
}

/// A device, or the lack of one.
pub(super) struct Row {
    pub(super) role: String,
    pub(super) state: &'static str,
    pub(super) path: String,
    /// Index among the candidates.
    pub(super) candidate: Option<usize>,
}

/// The members in the order of their roles, gaps included, then spares, then devices that are not used. Without a
/// verdict that took members: the devices as their superblocks have them.
pub(super) fn rows(array: &Array) -> Vec<Row> {
    let path =
        |at: usize| array.candidates.get(at).map(|one| one.stable.display().to_string()).unwrap_or_default();
    let role = |role: Option<u16>| role.map_or_else(|| "-".to_owned(), |role| format!("role {role}"));
    let Verdict::Startable(assembly) = &array.verdict else {
        let all = array.candidates.iter().enumerate();
        return all.map(|(at, one)| as_it_says(array, at, one.held.is_some())).collect();
    };
    let taken = assembly.members.iter().map(|member| Row {
        role: role(member.role),
        state: match member.state {
            MemberState::InSync => "in sync",
            MemberState::Rebuilding { .. } => "rebuilding",
            MemberState::Spare => "spare",
        },
        path: path(member.found),
        candidate: Some(member.found),
    });
    let missing = assembly.missing_roles.iter().map(|&gone| Row {
        role: role(Some(gone)),
        state: "missing",
        path: String::new(),
        candidate: None,
    });
    let rejected = assembly.rejected.iter().map(|one| Row {
        role: "-".to_owned(),
        state: "not used",
        path: path(one.found),
        candidate: Some(one.found),
    });
    let mut rows: Vec<Row> = taken.chain(missing).collect();
    let place = |row: &Row| row.role.strip_prefix("role ").and_then(|role| role.parse::<u16>().ok());
    rows.sort_by_key(|row| place(row).unwrap_or(u16::MAX));
    rows.extend(rejected);
    rows
}

fn as_it_says(array: &Array, at: usize, held: bool) -> Row {
    let one = array.candidates.get(at);
    let superblock = one.and_then(|one| one.found.superblock.as_ref().ok());
    let role = superblock.and_then(|superblock| match superblock.role() {
        md_format::DevRole::Active(role) => Some(format!("role {role}")),
        _ => None,
    });
    Row {
        role: role.unwrap_or_else(|| "-".to_owned()),
        state: match (held, superblock) {
            (true, _) => "in use",
            (false, Some(_)) => "found",
            (false, None) => "not used",
        },
        path: one.map(|one| one.stable.display().to_string()).unwrap_or_default(),
        candidate: Some(at),
    }
}

/// What else to know of an array.
pub(super) fn notes(array: &Array) -> Vec<String> {
    let mut notes = Vec::new();
    if let (Some(place), true) = (&array.line, array.configuration.is_some()) {
        notes.push(format!(
            "{place} names it for mdadm; `ARRAY <ignore> UUID={}` in that line's place, and an initramfs made anew, \
             keep the kernel from having it first at boot",
            array.superblock.set_uuid()
        ));
    }
    if let (Verdict::Startable(assembly), true, Some(file)) =
        (&array.verdict, array.written, &array.configuration)
        && !assembly.missing_roles.is_empty()
    {
        notes.push(format!(
            "{} lists the members that are here; write a missing one into it when it is found, because the service \
             takes nothing else",
            file.display()
        ));
    }
    if let (Verdict::Startable(assembly), Some(expected)) = (&array.verdict, array.spares_expected) {
        let there = assembly.members.iter().filter(|member| member.role.is_none()).count();
        if there < expected as usize {
            notes.push(format!("{there} of {expected} spares that mdadm.conf expects are there"));
        }
    }
    notes
}

/// What comes next, if anything does: a command, or what has to be done before one.
pub(super) fn next(array: &Array, args: &AssembleArgs) -> Option<String> {
    let name = &array.name;
    if !array.can_be_served() {
        return None;
    }
    let options = options(args);
    Some(match (&array.configuration, args.scan) {
        (Some(file), _) => {
            let start = match (args.directory == Path::new(CONFIGS), array.written) {
                (true, true) => format!("systemctl enable --now uraid@{name}"),
                (true, false) => format!("systemctl start uraid@{name}"),
                // The service looks nowhere else.
                (false, _) => format!("uraid serve {}", shell_word(&file.display().to_string())),
            };
            match array.unlisted.as_slice() {
                [] => start,
                some => format!("write {} into `members` of {}, then {start}", paths(some), file.display()),
            }
        }
        (None, true) => format!("uraid assemble --scan --write{options} {}", shell_word(name.as_str())),
        (None, false) => {
            let words: Vec<String> =
                args.operands.iter().map(|one| shell_word(&one.display().to_string())).collect();
            format!("uraid assemble --write{options} {}", words.join(" "))
        }
    })
}

/// The options that the next command takes over.
fn options(args: &AssembleArgs) -> String {
    let mut words = String::new();
    let mut add = |option: &str, value: &str| words += &format!(" {option} {}", shell_word(value));
    if let Some(file) = &args.config {
        add("--config", &file.display().to_string());
    }
    if let Some(uuid) = args.uuid {
        add("--uuid", &uuid.to_string());
    }
    match args.device.0.map(|device| device.to_string()) {
        None => add("--device", "none"),
        Some(device) if device != "auto" => add("--device", &device),
        Some(_) => {}
    }
    if args.directory != Path::new(CONFIGS) {
        add("--directory", &args.directory.display().to_string());
    }
    words
}

/// Paths in a sentence.
pub(super) fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
