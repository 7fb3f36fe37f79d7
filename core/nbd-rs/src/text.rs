//! Strings that cross the wire: what is accepted as one, and how a text for people is made harmless.

use crate::wire::limit;

/// Why bytes are not a string of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadString {
    TooLong,
    NotText,
}

/// The bytes as a string: at most [`limit::STRING`] bytes of UTF-8 without NUL.
pub(crate) fn parse(bytes: &[u8]) -> Result<&str, BadString> {
    if bytes.len() > limit::STRING {
        return Err(BadString::TooLong);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(BadString::NotText),
    }
}

/// A text that may be shown on any terminal: at most `max` bytes, cut between characters, with control
/// characters and the marks that reorder a line (Unicode bidirectional controls) replaced by `?`.
pub fn sanitise(text: &str, max: usize) -> String {
    let mut clean = String::new();
    for c in text.chars().map(|c| if is_harmful(c) { '?' } else { c }) {
        if clean.len() + c.len_utf8() > max {
            break;
        }
        clean.push(c);
    }
    clean
}

/// As [`sanitise`], for bytes that need not be UTF-8: what is not becomes U+FFFD.
pub(crate) fn sanitise_bytes(bytes: &[u8], max: usize) -> String {
    let head = bytes.get(..max).unwrap_or(bytes);
    sanitise(&String::from_utf8_lossy(head), max)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_short_utf8_without_nul() {
        assert_eq!(parse(b"vol"), Ok("vol"));
        assert_eq!(parse(b""), Ok(""));
        assert_eq!(parse(&[b'a'; 4096]).map(str::len), Ok(4096));
        assert_eq!(parse(&[b'a'; 4097]), Err(BadString::TooLong));
        assert_eq!(parse(b"a\0b"), Err(BadString::NotText));
        assert_eq!(parse(b"\xff"), Err(BadString::NotText));
    }

    #[test]
    fn texts_lose_what_could_harm_and_are_cut_between_characters() {
        assert_eq!(sanitise("a\x1b[31m\n\u{202e}b", 99), "a?[31m??b");
        assert_eq!(sanitise("äöü", 5), "äö");
        assert_eq!(sanitise_bytes(b"x\xffy\0", 99), "x\u{fffd}y?");
        assert!(sanitise_bytes(&[0xff; 100], 10).len() <= 10);
    }
}
