//! The feature bits of a superblock.

use std::fmt;
use std::ops::BitOr;

/// A set of feature bits (the `feature_map` field). Unknown bits are kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Features(u32);

/// Every known bit with the name that messages give it.
const NAMES: [(Features, &str); 13] = [
    (Features::BITMAP, "bitmap"),
    (Features::RECOVERY_OFFSET, "recovery offset"),
    (Features::RESHAPE, "reshape"),
    (Features::BAD_BLOCKS, "non-empty bad-block log"),
    (Features::REPLACEMENT, "replacement"),
    (Features::RESHAPE_BACKWARDS, "reshape backwards"),
    (Features::NEW_OFFSET, "new data offset"),
    (Features::RECOVERY_BITMAP, "recovery by bitmap"),
    (Features::CLUSTERED, "clustered"),
    (Features::JOURNAL, "journal"),
    (Features::PPL, "partial parity log"),
    (Features::MULTIPLE_PPLS, "multiple partial parity logs"),
    (Features::RAID0_LAYOUT, "raid0 layout"),
];

impl Features {
    /// No feature.
    pub const NONE: Features = Features(0);
    /// There is an internal write-intent bitmap.
    pub const BITMAP: Features = Features(1);
    /// The member is being rebuilt; its `recovery_offset` counts.
    pub const RECOVERY_OFFSET: Features = Features(2);
    /// A reshape is under way.
    pub const RESHAPE: Features = Features(4);
    /// The member's bad-block log is not empty.
    pub const BAD_BLOCKS: Features = Features(8);
    /// The member is replacing another one that still plays the same role.
    pub const REPLACEMENT: Features = Features(16);
    /// The reshape runs from the end.
    pub const RESHAPE_BACKWARDS: Features = Features(32);
    /// The reshape moves the data offset.
    pub const NEW_OFFSET: Features = Features(64);
    /// The rebuild follows the bitmap (a member was re-added).
    pub const RECOVERY_BITMAP: Features = Features(128);
    /// The array belongs to a cluster.
    pub const CLUSTERED: Features = Features(256);
    /// The array has a journal device.
    pub const JOURNAL: Features = Features(512);
    /// The array has a partial parity log.
    pub const PPL: Features = Features(1024);
    /// The partial parity log area holds several logs.
    pub const MULTIPLE_PPLS: Features = Features(2048);
    /// RAID 0 only.
    pub const RAID0_LAYOUT: Features = Features(4096);
    /// Every bit with a meaning.
    pub const KNOWN: Features = Features(8191);

    /// The set with these bits.
    pub const fn from_bits(bits: u32) -> Self {
        Features(bits)
    }

    /// The bits, as in the `feature_map` field.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether no bit is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all bits of `other` are set.
    pub const fn contains(self, other: Features) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits set in both.
    #[must_use]
    pub const fn intersection(self, other: Features) -> Self {
        Features(self.0 & other.0)
    }

    /// This set without the bits of `other`.
    #[must_use]
    pub const fn without(self, other: Features) -> Self {
        Features(self.0 & !other.0)
    }

    /// The bits that no md known to this crate gives a meaning.
    #[must_use]
    pub const fn unknown(self) -> Self {
        self.without(Features::KNOWN)
    }

    /// The names of the known bits, lowest bit first.
    pub fn names(self) -> Vec<&'static str> {
        NAMES.iter().filter(|(bit, _)| self.contains(*bit)).map(|&(_, name)| name).collect()
    }
}

impl BitOr for Features {
    type Output = Features;

    fn bitor(self, other: Features) -> Features {
        Features(self.0 | other.0)
    }
}

/// The names, joined by commas; unknown bits as one hexadecimal number.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.names().into_iter().map(str::to_owned).collect();
        if !self.unknown().is_empty() {
            parts.push(format!("unknown bits {:#x}", self.unknown().bits()));
        }
        if parts.is_empty() {
            parts.push("none".to_owned());
        }
        f.write_str(&parts.join(", "))
    }
}
