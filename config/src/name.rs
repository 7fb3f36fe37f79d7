//! The name of a volume, and its array's UUID.
//!
//! The name becomes a file name under [`crate::RUN_DIR`], an NBD export name and the
//! name field of the superblock, so only characters that are harmless in all three are taken.

use std::fmt;
use std::str::FromStr;

/// A volume name: 1 to 32 bytes of ASCII letters, digits and `. _ - + :`, not starting with `.`, `-`
/// or `:`. mdadm's `host:name` form is a name too.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VolumeName(String);

/// The identity of an array, as its superblocks have it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ArrayUuid(pub [u8; 16]);

/// Why a text is not an [`ArrayUuid`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a UUID is 32 hexadecimal digits, grouped by ':' or '-' or not at all")]
pub struct UuidError;

impl FromStr for ArrayUuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-')).collect();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(UuidError);
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| UuidError)?;
        Ok(ArrayUuid(number.to_be_bytes()))
    }
}

/// As mdadm prints it: four groups of eight digits, joined by colons.
impl fmt::Display for ArrayUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let colon = if at > 0 && at % 4 == 0 { ":" } else { "" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// Why a text is not a [`VolumeName`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("a volume name must not be empty")]
    Empty,
    /// The superblock has 32 bytes for it.
    #[error("a volume name has at most 32 bytes, this one has {0}")]
    TooLong(usize),
    /// A character that is not allowed, or not allowed first.
    #[error(
        "a volume name holds letters, digits and . _ - + : and starts with a letter, digit or _; {0:?} is not allowed there"
    )]
    BadCharacter(char),
}

/// Bytes of the name field of a superblock 1.x.
const NAME_BYTES_MAX: usize = 32;

impl VolumeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name that is nearest to any text, such as what a superblock has for a name: what is not allowed becomes
    /// `_`, what is too long is cut off.
    pub fn nearest(text: &str) -> Self {
        let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-+:".contains(c) { c } else { '_' };
        let mut name: String = text.chars().map(allowed).collect();
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_') {
            name.insert(0, '_');
        }
        name.truncate(NAME_BYTES_MAX);
        VolumeName(name)
    }

    /// Whether an array of this full name (as in its superblock, perhaps `host:name`) is the one meant.
    pub fn matches(&self, array_name: &str) -> bool {
        let short = array_name.split_once(':').map_or(array_name, |(_, short)| short);
        self.0 == array_name || self.0 == short
    }
}

impl FromStr for VolumeName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = text.chars().next().ok_or(NameError::Empty)?;
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if !(first.is_ascii_alphanumeric() || first == '_') {
            return Err(NameError::BadCharacter(first));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+:".contains(c);
        match text.chars().find(|&c| !allowed(c)) {
            Some(bad) => Err(NameError::BadCharacter(bad)),
            None => Ok(VolumeName(text.to_owned())),
        }
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_plain_names_and_refuses_the_rest() {
        for good in ["a", "vol0", "_x", "home-disk.2", "host:name", "0123456789abcdef0123456789abcdef"] {
            assert_eq!(good.parse::<VolumeName>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for (bad, error) in [
            ("", NameError::Empty),
            ("0123456789abcdef0123456789abcdef0", NameError::TooLong(33)),
            ("..", NameError::BadCharacter('.')),
            ("-rf", NameError::BadCharacter('-')),
            ("a/b", NameError::BadCharacter('/')),
            ("a b", NameError::BadCharacter(' ')),
            ("a\0", NameError::BadCharacter('\0')),
            ("größe", NameError::BadCharacter('ö')),
        ] {
            assert_eq!(bad.parse::<VolumeName>(), Err(error), "{bad:?}");
        }
    }

    #[test]
    fn the_nearest_name_is_one() {
        for (text, name) in [
            ("tank", "tank"),
            ("", "_"),
            ("../x", "_../x".replace('/', "_").as_str()),
            ("a b\n", "a_b_"),
            ("größe", "gr__e"),
            ("-", "_-"),
            ("0123456789abcdef0123456789abcdefXY", "0123456789abcdef0123456789abcdef"),
        ] {
            let nearest = VolumeName::nearest(text);
            assert_eq!(nearest.as_str(), name);
            assert_eq!(name.parse(), Ok(nearest));
        }
    }

    #[test]
    fn a_uuid_is_read_in_any_grouping_and_shown_in_one() {
        let shown = "00112233:44556677:8899aabb:ccddeeff";
        for text in [shown, "00112233-4455-6677-8899-aabbccddeeff", "00112233445566778899AABBCCDDEEFF"] {
            assert_eq!(text.parse::<ArrayUuid>().unwrap().to_string(), shown);
        }
        for bad in ["", "0", "+0112233445566778899aabbccddeeff", "g0112233445566778899aabbccddeeff"] {
            assert_eq!(bad.parse::<ArrayUuid>(), Err(UuidError), "{bad}");
        }
    }

    #[test]
    fn a_host_prefix_is_optional_when_matching() {
        let name: VolumeName = "data".parse().unwrap();
        assert!(name.matches("data"));
        assert!(name.matches("host:data"));
        assert!(!name.matches("host:other"));
        assert!(!name.matches("data:other"));
    }
}
