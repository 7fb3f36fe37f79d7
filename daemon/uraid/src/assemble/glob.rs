//! Patterns of mdadm.conf: `/dev/sd*`, as a shell has them.

use std::path::{Path, PathBuf};

/// No pattern of a configuration is longer; matching takes up to the product of both lengths.
const PATTERN_BYTES_MAX: usize = 4096;

/// Whether the whole of `text` fits `pattern`: `*` and `?` stand for any characters but `/`, `[a-c]` and `[!a]` for
/// one of a set.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    if pattern.len() > PATTERN_BYTES_MAX || text.len() > PATTERN_BYTES_MAX {
        return false;
    }
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where to go on when the guess that the last star made is wrong.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let here = pattern.get(p..).unwrap_or_default();
        let next = text.get(t);
        if here.first() == Some(&'*') {
            star = Some((p + 1, t));
            p += 1;
            continue;
        }
        match (one(here, next), next) {
            (Some(taken), Some(_)) => (p, t) = (p + taken, t + 1),
            (_, None) if here.is_empty() => return true,
            _ => match star {
                Some((after, from)) if text.get(from).is_some_and(|&c| c != '/') => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                _ => return false,
            },
        }
    }
}

/// How many characters of the pattern stand for this one; none if it does not fit.
fn one(pattern: &[char], c: Option<&char>) -> Option<usize> {
    let c = *c?;
    match *pattern.first()? {
        '?' => (c != '/').then_some(1),
        '[' => match set(pattern, c) {
            Some((fits, taken)) => (fits && c != '/').then_some(taken),
            None => (c == '[').then_some(1),
        },
        '\\' if pattern.len() > 1 => (pattern.get(1) == Some(&c)).then_some(2),
        plain => (plain == c).then_some(1),
    }
}

/// Whether `c` is in the set that the pattern begins with, and how long that is; none if it does not end.
fn set(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some('!' | '^'));
    let first = if negated { 2 } else { 1 };
    // A bracket that comes first is one of the set.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|&c| c == ']')?;
    let mut members = pattern.get(first..end)?;
    let mut found = false;
    while let Some((&low, rest)) = members.split_first() {
        match rest {
            ['-', high, rest @ ..] => {
                found |= (low..=*high).contains(&c);
                members = rest;
            }
            rest => {
                found |= low == c;
                members = rest;
            }
        }
    }
    Some((found != negated, end + 1))
}

/// The paths that a pattern stands for, sorted; the pattern itself if nothing in it is special.
pub(super) fn paths(pattern: &str) -> Vec<PathBuf> {
    if !pattern.contains(['*', '?', '[']) {
        return vec![PathBuf::from(pattern)];
    }
    let mut found = vec![PathBuf::from(if pattern.starts_with('/') { "/" } else { "." })];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        found = found.iter().flat_map(|directory| step(directory, part)).collect();
    }
    found.sort();
    found
}

fn step(directory: &Path, part: &str) -> Vec<PathBuf> {
    if !part.contains(['*', '?', '[']) {
        let path = directory.join(part);
        return if path.symlink_metadata().is_ok() { vec![path] } else { Vec::new() };
    }
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let shown = |name: &String| part.starts_with('.') || !name.starts_with('.');
    names.filter(|name| shown(name) && fits(part, name)).map(|name| directory.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("/dev/sda", "/dev/sda", "/dev/sdb"),
            ("/dev/sd*", "/dev/sda1", "/dev/nvme0n1"),
            ("/dev/sd*", "/dev/sd", "/dev/sd/a"),
            ("/dev/*d?1", "/dev/sdb1", "/dev/sdb"),
            ("/dev/sd[a-c]", "/dev/sdb", "/dev/sdd"),
            ("/dev/sd[!a-c]", "/dev/sdd", "/dev/sdb"),
            ("/dev/sd[]x]", "/dev/sd]", "/dev/sda"),
            ("a*b*c", "aXbYbZc", "aXbYbZ"),
            ("[", "[", "x"),
            ("[a", "[a", "a"),
            ("*", "", "/"),
            ("\\*", "*", "x"),
        ] {
            assert!(fits(pattern, yes), "{pattern} {yes}");
            assert!(!fits(pattern, no), "{pattern} {no}");
        }
    }

    #[test]
    fn a_pattern_without_end_is_no_trouble() {
        let text = "a".repeat(4000);
        assert!(!fits(&("a*".repeat(1000) + "b"), &text));
    }

    #[test]
    fn paths_are_found_in_directories() {
        let top = tempfile::tempdir().unwrap();
        for name in ["disk1", "disk2", ".hidden", "other"] {
            std::fs::write(top.path().join(name), "").unwrap();
        }
        let base = top.path().to_str().unwrap();
        let found = |pattern: &str| paths(&format!("{base}/{pattern}")).len();
        assert_eq!((found("disk*"), found("*"), found("none*"), found("none")), (2, 3, 0, 1));
    }
}
