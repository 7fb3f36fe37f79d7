//! uraid.toml(5) from the example configuration: its comments are the documentation of the keys, and a test
//! of uraid-config holds it against the parser, so the page cannot say what is not so.

use super::Imprint;
use super::roff::Page;

/// What the example consists of, from top to bottom.
#[derive(PartialEq, Eq, Debug)]
enum Part {
    /// A comment that belongs to no key: an introduction.
    Text(String),
    /// The head of a section.
    Section(String),
    /// A key: its name, the text of its line after the equals sign, and whether that is the default or a
    /// mere example.
    Key { name: String, value: String, default: bool, comment: String },
}

/// The page, from the text of the example.
pub(super) fn page(example: &str, imprint: Imprint<'_>) -> String {
    let mut page = Page::new("uraid.toml", "5", imprint.date, "uraid Configuration");
    page.section("NAME");
    page.paragraph("uraid.toml - the configuration of one uraid volume");
    page.section("SYNOPSIS");
    page.paragraph("`/etc/uraid/NAME.toml`");
    page.section("DESCRIPTION");
    page.paragraph(
        "The file is TOML. The unit `uraid@NAME.service` serves the volume that `/etc/uraid/NAME.toml` \
         describes; `uraid serve FILE` takes any file that ends in .toml. `uraid check-config FILE` shows all \
         problems of a file at once, each with its line.",
    );
    let mut at_top = true;
    for part in parts(example) {
        match part {
            Part::Text(text) => text.split("\n\n").for_each(|paragraph| page.paragraph(paragraph)),
            Part::Section(name) => page.section(&format!("[{name}]").to_uppercase()),
            Part::Key { name, value, default, comment } => {
                if std::mem::take(&mut at_top) {
                    page.section("KEYS ABOVE THE FIRST SECTION");
                }
                page.term(&format!("{name} ="), &comment);
                page.more(&format!(
                    "{}: `{value}`",
                    if default && name != "members" { "Default" } else { "Example" }
                ));
            }
        }
    }
    page.section("EXAMPLES");
    page.paragraph("The least that a file can hold:");
    page.verbatim("members = [\"/dev/sdb1\", \"/dev/sdc1\", \"/dev/sdd1\"]");
    page.paragraph("A volume that is also the block device /dev/uraid/tank:");
    page.verbatim(
        "name = \"tank\"\nmembers = [\"/dev/sdb1\", \"/dev/sdc1\", \"/dev/sdd1\"]\ndevice = \"auto\"",
    );
    page.section("FILES");
    page.term("/usr/share/doc/uraid/examples/example.toml", "Every key with its default, to start from.");
    page.section("SEE ALSO");
    page.paragraph("`uraid(1)`, `uraid-check-config(1)`, `uraid@.service(8)`");
    page.into_text()
}

/// Takes the example apart. The comment right above a key belongs to it; one that is followed by an empty
/// line stands for itself.
fn parts(example: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in example.lines().chain([""]) {
        if let Some(text) = line.strip_prefix("# ").or_else(|| (line == "#").then_some("")) {
            comment.push(text);
        } else if let Some((name, value)) = key_and_value(line) {
            let comment = paragraphs(&std::mem::take(&mut comment));
            let default = !line.starts_with('#');
            parts.push(Part::Key { name: name.to_owned(), value: value.to_owned(), default, comment });
        } else {
            if !comment.is_empty() {
                parts.push(Part::Text(paragraphs(&std::mem::take(&mut comment))));
            }
            if let Some(name) = section_name(line) {
                parts.push(Part::Section(name.to_owned()));
            }
        }
    }
    parts
}

/// Lines of a comment, with an empty line between its paragraphs.
fn paragraphs(lines: &[&str]) -> String {
    lines.join("\n")
}

fn section_name(line: &str) -> Option<&str> {
    let inner = line.strip_prefix('[')?.strip_suffix(']')?;
    Some(inner.trim_matches(['[', ']']))
}

/// `key = value`, switched off or not.
fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.strip_prefix('#').unwrap_or(line);
    if !line.starts_with(|c: char| c.is_ascii_lowercase()) {
        return None;
    }
    line.split_once(" = ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uraid_config::{EXAMPLE, documented_keys};

    #[test]
    fn every_key_of_the_parser_is_on_the_page_with_its_comment_and_value() {
        let mut section = String::new();
        let mut shown = Vec::new();
        for part in parts(EXAMPLE) {
            match part {
                Part::Text(_) => {}
                Part::Section(name) => section = name,
                Part::Key { name, value, comment, .. } => {
                    assert!(!comment.is_empty() && !value.is_empty(), "{section}.{name}");
                    shown.push((section.clone(), name));
                }
            }
        }
        let mut known: Vec<_> =
            documented_keys().iter().map(|key| (key.section.to_owned(), key.name.to_owned())).collect();
        shown.sort();
        known.sort();
        assert_eq!(shown, known);
    }

    #[test]
    fn every_word_of_the_example_is_on_the_page() {
        let page = page(EXAMPLE, Imprint { date: "2026-11-28" });
        let shown = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\*(Aq", "'");
        for line in EXAMPLE.lines() {
            for word in line.trim_start_matches('#').split_whitespace() {
                let word = word.replace('`', "");
                assert!(shown.contains(&word) || shown.contains(&word.to_uppercase()), "{word:?} of: {line}");
            }
        }
    }

    #[test]
    fn comments_keys_and_sections_are_told_apart() {
        let text = "# Intro.\n#\n# More.\n\n# Of a,\n# long.\na = 1\n\n[s.t]\n# Of b.\n#b = [\"x\"]\n";
        let key = |name: &str, value: &str, default, comment: &str| Part::Key {
            name: name.to_owned(),
            value: value.to_owned(),
            default,
            comment: comment.to_owned(),
        };
        assert_eq!(
            parts(text),
            [
                Part::Text("Intro.\n\nMore.".to_owned()),
                key("a", "1", true, "Of a,\nlong."),
                Part::Section("s.t".to_owned()),
                key("b", "[\"x\"]", false, "Of b."),
            ]
        );
    }
}
