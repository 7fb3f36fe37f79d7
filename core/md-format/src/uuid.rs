//! The 16 bytes that name an array or a member, printed as mdadm prints them.

use std::fmt;
use std::str::FromStr;

/// The identity of an array or of a member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// Four groups of eight hexadecimal digits, joined by colons.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if at > 0 && at % 4 == 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uuid({self})")
    }
}

/// The text was not a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a UUID is 32 hexadecimal digits, grouped by ':' or '-' or not at all")]
pub struct UuidError;

impl FromStr for Uuid {
    type Err = UuidError;

    /// Reads 32 hexadecimal digits; `:` and `-` between them are skipped.
    fn from_str(text: &str) -> Result<Self, UuidError> {
        let digits: Option<Vec<u8>> = text
            .chars()
            .filter(|c| !matches!(c, ':' | '-'))
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect();
        let digits = digits.ok_or(UuidError)?;
        let pairs: Vec<u8> = digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect();
        match <[u8; 16]>::try_from(pairs) {
            Ok(bytes) if digits.len() == 32 => Ok(Uuid(bytes)),
            _ => Err(UuidError),
        }
    }
}
