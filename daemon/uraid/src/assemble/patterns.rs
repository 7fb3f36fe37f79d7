//! Patterns of mdadm.conf: `/dev/sd*`, as a shell has them.

use std::path::PathBuf;

use glob::{MatchOptions, Pattern};

/// As in a shell: no wildcard stands for a `/`, and what is hidden has to be asked for.
const AS_A_SHELL: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Whether the whole of `text` fits `pattern`: `*` and `?` stand for any characters but `/`, `[a-c]` and `[!a]` for
/// one of a set. A pattern that is none (a bracket without end) stands for itself.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).map_or(pattern == text, |pattern| pattern.matches_with(text, AS_A_SHELL))
}

/// The paths that a pattern stands for, sorted; the pattern itself if nothing in it is special. What cannot be
/// looked into holds nothing.
pub(super) fn paths(pattern: &str) -> Vec<PathBuf> {
    if !pattern.contains(['*', '?', '[']) {
        return vec![PathBuf::from(pattern)];
    }
    glob::glob_with(pattern, AS_A_SHELL)
        .map_or_else(|_| vec![PathBuf::from(pattern)], |found| found.flatten().collect())
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
