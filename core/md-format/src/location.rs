//! Where a superblock may be: the three minor versions of metadata 1.x.

use std::fmt;

/// A minor version, which says where the superblock is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Minor {
    /// 1.0: 8 to 12 KiB before the end of the device; data in front of it.
    V0,
    /// 1.1: at the start of the device.
    V1,
    /// 1.2: 4 KiB from the start; what mdadm makes unless told otherwise.
    V2,
}

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Minor::V0 => "1.0",
            Minor::V1 => "1.1",
            Minor::V2 => "1.2",
        })
    }
}

/// A place at which to look for a superblock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The version that has its superblock here.
    pub minor: Minor,
    /// The first sector of the superblock, from the start of the device.
    pub sector: u64,
}

/// The smallest device that can hold a superblock, in sectors.
pub const MIN_DEVICE_SECTORS: u64 = 24;

/// Where to look on a device of this size: [`crate::READ_BYTES`] bytes are to be read at each location.
/// All of them lie on the device. A device that is too small has none.
pub fn candidates(device_sectors: u64) -> Vec<Location> {
    if device_sectors < MIN_DEVICE_SECTORS {
        return Vec::new();
    }
    vec![
        Location { minor: Minor::V2, sector: 8 },
        Location { minor: Minor::V1, sector: 0 },
        Location { minor: Minor::V0, sector: (device_sectors - 16) & !7 },
    ]
}
