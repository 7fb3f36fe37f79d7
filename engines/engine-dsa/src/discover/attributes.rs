//! One attribute at a time: bounded, and with a note about whatever is wrong.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::caps::number;

/// The most that is read of an attribute: sysfs has no longer ones.
const ATTRIBUTE_MAX: u64 = 4096;
/// The most characters of an attribute that a note repeats.
const QUOTED: usize = 40;

/// The attributes in a directory, and the notes about them.
#[derive(Debug)]
pub(super) struct Attributes {
    directory: PathBuf,
    pub(super) notes: Vec<String>,
}

impl Attributes {
    pub(super) fn of(directory: PathBuf) -> Attributes {
        Attributes { directory, notes: Vec::new() }
    }

    /// The text, without blanks around it; `None` with a note if it cannot be read. An attribute that is
    /// `expected` is missed if it is not there; others came with later kernels.
    pub(super) fn text(&mut self, name: &str, expected: bool) -> Option<String> {
        match read(&self.directory.join(name)) {
            Ok(text) => Some(text),
            Err(ErrorKind::NotFound) if !expected => None,
            Err(ErrorKind::NotFound) => self.note(name, "is missing"),
            Err(kind) => self.note(name, &format!("cannot be read: {kind}")),
        }
    }

    /// What `parse` makes of the text.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        expected: bool,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name, expected)?;
        match parse(&text) {
            Some(value) => Some(value),
            None => {
                let quoted: String = text.chars().take(QUOTED).collect();
                self.note(name, &format!("makes no sense: {quoted:?}"))
            }
        }
    }

    /// A decimal number.
    pub(super) fn decimal<T: TryFrom<u64>>(&mut self, name: &str, expected: bool) -> Option<T> {
        self.parsed(name, expected, |text| T::try_from(plain_decimal(text)?).ok())
    }

    /// A hexadecimal number.
    pub(super) fn hex<T: TryFrom<u64>>(&mut self, name: &str, expected: bool) -> Option<T> {
        self.parsed(name, expected, |text| T::try_from(number(text).ok()?).ok())
    }

    /// 0 or 1.
    pub(super) fn flag(&mut self, name: &str, expected: bool) -> Option<bool> {
        self.parsed(name, expected, |text| match text {
            "0" => Some(false),
            "1" => Some(true),
            _ => None,
        })
    }

    fn note<T>(&mut self, name: &str, what: &str) -> Option<T> {
        self.notes.push(format!("attribute {name} {what}"));
        None
    }
}

/// A number of decimal digits alone.
pub(super) fn plain_decimal(text: &str) -> Option<u64> {
    // parse would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The beginning of a file as text, without blanks around it and without control characters.
pub(super) fn read(path: &Path) -> Result<String, ErrorKind> {
    // Not blocking, should there be a pipe in the attribute's place.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut bytes = Vec::new();
    file.and_then(|file| file.take(ATTRIBUTE_MAX).read_to_end(&mut bytes)).map_err(|error| error.kind())?;
    let text: String = String::from_utf8_lossy(&bytes).trim().chars().map(printable).collect();
    Ok(text)
}

fn printable(c: char) -> char {
    if c.is_control() && c != '\n' && c != '\t' { '?' } else { c }
}
