//! Features of md that are on the disk but are not honoured: an array that has one is refused by name.

use crate::features::Features;
use crate::superblock::{DevRole, Superblock};

/// The features of a superblock that cannot be honoured; never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Unsupported(Features);

/// What is honoured: members that are being rebuilt.
const SUPPORTED: Features = Features::RECOVERY_OFFSET;

impl Unsupported {
    /// The features.
    pub fn features(self) -> Features {
        self.0
    }
}

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
