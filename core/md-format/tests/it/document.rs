//! The tables of offsets in docs/on-disk-format.md are those of the code: each field is in both, at the same
//! place and as long.

use std::collections::BTreeMap;

const DOCUMENT: &str = include_str!("../../../../docs/on-disk-format.md");
const WIRE: &str = include_str!("../../src/wire.rs");
const BITMAP: &str = include_str!("../../src/bitmap.rs");
const PPL: &str = include_str!("../../src/ppl.rs");

/// Field to offset and, where it is known, bytes.
type Fields = BTreeMap<String, (usize, Option<usize>)>;

/// The rows of one chapter that begin with an offset and name a field.
fn documented(chapter: &str) -> Fields {
    let start = DOCUMENT.find(&format!("\n## {chapter}\n")).unwrap_or_else(|| panic!("no chapter {chapter}"));
    let text = &DOCUMENT[start + 1..];
    let text = &text[..text.find("\n## ").unwrap_or(text.len())];
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        let name = cells.get(2)?.trim().strip_prefix('`')?.strip_suffix('`')?;
        let bytes = cells[1].split(' ').next()?.parse().ok()?;
        Some((name.to_owned(), (cells[0].parse().ok()?, Some(bytes))))
    };
    text.lines().filter_map(row).collect()
}

/// Constants `NAME: usize = 12;` between two marks of a source.
fn constants(source: &str, from: &str, to: &str) -> Fields {
    let start = source.find(from).unwrap_or_else(|| panic!("no {from:?}"));
    let text = &source[start..];
    let text = &text[..text.find(to).unwrap_or_else(|| panic!("no {to:?}"))];
    let constant = |line: &str| {
        let (name, value) = line.split_once("const ")?.1.split_once(": usize = ")?;
        Some((name.to_lowercase(), (value.strip_suffix(';')?.parse().ok()?, None)))
    };
    text.lines().filter_map(constant).collect()
}

/// The same offsets, and the same lengths where both say one.
fn assert_same(documented: &Fields, code: &Fields) {
    let names = |fields: &Fields| fields.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(documented), names(code));
    for (name, (offset, bytes)) in code {
        let (said, said_bytes) = documented[name];
        assert_eq!(said, *offset, "{name}");
        assert!(
            bytes.is_none() || *bytes == said_bytes,
            "{name}: {said_bytes:?} bytes, {bytes:?} in the code"
        );
    }
}

#[test]
fn the_superblock() {
    let field = |line: &str| {
        let (name, rest) = line.strip_prefix("pub(crate) const ")?.split_once(": Field<")?;
        let (bytes, at) = rest.split_once("> = Field::at(")?;
        Some((name.to_lowercase(), (at.strip_suffix(");")?.parse().ok()?, bytes.parse().ok())))
    };
    let code: Fields = WIRE.lines().filter_map(field).collect();
    let documented = documented("The superblock");
    assert_same(&documented, &code);
    // No byte of the head is left out, and none is two fields, but where a log takes the bitmap's place.
    let mut bytes = [0; 256];
    for (name, (offset, len)) in documented.iter().filter(|(name, _)| !name.starts_with("ppl_")) {
        let len = len.expect("a length");
        bytes[*offset..offset + len].iter_mut().for_each(|count| *count += 1);
        assert!(bytes[*offset] == 1, "{name}");
    }
    assert!(bytes.iter().all(|&count| count == 1), "{bytes:?}");
}

#[test]
fn the_bitmap() {
    let code = constants(BITMAP, "mod at {", "\n}\n");
    assert_same(&documented("Write-intent bitmap"), &code);
}

#[test]
fn the_partial_parity_log() {
    let mut code = constants(PPL, "const SIGNATURE", "/// Why there is no log");
    assert_eq!(code.remove("entry_bytes"), Some((24, None)));
    assert_same(&documented("Partial parity log"), &code);
}
