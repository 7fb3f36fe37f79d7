//! Features of md that are on the disk but are not honoured: an array that has one is refused by name.

use crate::features::Features;
use crate::superblock::{DevRole, Superblock};

/// The features of a superblock that cannot be honoured; never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Unsupported(Features);

/// What is honoured: members that are being rebuilt, the write-intent bitmap, members that it helps back, the
/// partial parity log, and bad-block logs.
const SUPPORTED: Features = Features::from_bits(
    Features::RECOVERY_OFFSET.bits()
        | Features::BITMAP.bits()
        | Features::RECOVERY_BITMAP.bits()
        | Features::PPL.bits()
        | Features::MULTIPLE_PPLS.bits()
        | Features::BAD_BLOCKS.bits(),
);

impl Unsupported {
    /// The features.
    pub fn features(self) -> Features {
        self.0
    }

    /// What to do about each of them, in whole sentences. Each command was tried with mdadm 4.2 and Linux 6.1 on
    /// an array that has the feature.
    pub fn advice(self) -> String {
        let concerns = |(features, _): &(Features, &str)| !self.0.intersection(*features).is_empty();
        let advice: Vec<&str> =
            ADVICE.iter().filter(|entry| concerns(entry)).map(|&(_, text)| text).collect();
        if advice.is_empty() { "Use Linux md for this array".to_owned() } else { advice.join(". ") }
    }
}

/// What to do about features that are not honoured.
const ADVICE: [(Features, &str); 4] = [
    (
        Features::from_bits(
            Features::RESHAPE.bits() | Features::RESHAPE_BACKWARDS.bits() | Features::NEW_OFFSET.bits(),
        ),
        "Let Linux md finish the reshape: `mdadm --assemble`, `mdadm --readwrite`, `mdadm --wait` and `mdadm --stop`",
    ),
    (
        Features::JOURNAL,
        "Let Linux md write the journal out and take it away: assemble the array with mdadm, then \
         `mdadm --readwrite /dev/mdN`, `mdadm /dev/mdN --fail JOURNAL --remove JOURNAL`, \
         `echo resync > /sys/block/mdN/md/consistency_policy` and `mdadm --stop /dev/mdN`",
    ),
    (
        Features::REPLACEMENT,
        "Let Linux md finish the replacement: `mdadm --assemble`, `mdadm --readwrite` and `mdadm --wait`",
    ),
    (Features::CLUSTERED, "Only the nodes of its cluster may use this array"),
];

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The features of this superblock that cannot be honoured. A member that is the journal counts as the
/// journal feature even if the bit is missing.
pub fn unsupported(superblock: &Superblock) -> Option<Unsupported> {
    let journal = if superblock.role() == DevRole::Journal { Features::JOURNAL } else { Features::NONE };
    let features = superblock.features().without(SUPPORTED) | journal;
    (!features.is_empty()).then_some(Unsupported(features))
}
