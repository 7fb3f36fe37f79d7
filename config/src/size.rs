//! Sizes as people write them: `4096`, `64K`, `64KiB`, `1G`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes, read from and shown as text with a binary suffix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Size(u64);

/// Why a text is not a [`Size`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SizeError {
    /// There is no number at the start.
    #[error("a size starts with a whole number, as in 64K, 64MiB or 4096")]
    NoNumber,
    /// What follows the number is no suffix.
    #[error("unknown size suffix; use K, M, G or T (or KiB, MiB, GiB, TiB), all powers of 1024")]
    UnknownSuffix,
    /// `KB`, `MB` and so on mean 1000 to some and 1024 to others.
    #[error("KB, MB, GB and TB are ambiguous; write KiB, MiB, GiB or TiB for powers of 1024")]
    Ambiguous,
    /// It does not fit in 64 bits.
    #[error("the size does not fit in 64 bits")]
    TooLarge,
}

const UNITS: [(&str, u32); 4] = [("T", 40), ("G", 30), ("M", 20), ("K", 10)];

impl Size {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Size(bytes)
    }

    /// This many times 1024 × 1024 bytes; saturates.
    pub const fn from_mib(mib: u64) -> Self {
        Size(mib.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let text = text.trim();
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, suffix) = text.split_at(digits);
        if number.is_empty() {
            return Err(SizeError::NoNumber);
        }
        let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
        let shift = shift_of(suffix.trim_start())?;
        number.checked_mul(1 << shift).map(Size).ok_or(SizeError::TooLarge)
    }
}

fn shift_of(suffix: &str) -> Result<u32, SizeError> {
    let upper = suffix.to_ascii_uppercase();
    if upper.is_empty() || upper == "B" {
        return Ok(0);
    }
    for (unit, shift) in UNITS {
        match upper.strip_prefix(unit) {
            Some("" | "IB") => return Ok(shift),
            Some("B") => return Err(SizeError::Ambiguous),
            _ => {}
        }
    }
    Err(SizeError::UnknownSuffix)
}

impl fmt::Display for Size {
    /// The largest unit that divides the size without a rest, so that reading it back is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}iB", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512B", 512),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("1 GiB", 1 << 30),
            ("2T", 2 << 40),
            (" 7M ", 7 << 20),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        for (text, error) in [
            ("", SizeError::NoNumber),
            ("K", SizeError::NoNumber),
            ("-1", SizeError::NoNumber),
            ("1.5G", SizeError::UnknownSuffix),
            ("64MB", SizeError::Ambiguous),
            ("5 parsecs", SizeError::UnknownSuffix),
            ("18446744073709551616", SizeError::TooLarge),
            ("99999999T", SizeError::TooLarge),
        ] {
            assert_eq!(text.parse::<Size>(), Err(error), "{text}");
        }
    }

    #[test]
    fn shows_what_reads_back() {
        for bytes in [0, 1, 512, 1024, 1536, 65536, 1 << 20, (1 << 20) + 512, 3 << 30, u64::MAX] {
            let shown = Size(bytes).to_string();
            assert_eq!(shown.parse(), Ok(Size(bytes)), "{shown}");
        }
        assert_eq!(Size::from_mib(64).to_string(), "64MiB");
    }
}
