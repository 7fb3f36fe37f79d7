//! Reads the superblock of a device, for whoever wants to look at it or to assemble.

use std::path::Path;

use md_format::{Areas, Found, Superblock, SuperblockError};

use crate::device::{Device, DeviceError};

/// The superblock of an open device: the best of what its candidate locations hold.
///
/// # Errors
/// There is none that can be used; the most telling reason.
pub fn superblock(device: &Device) -> Result<Superblock, SuperblockError> {
    Superblock::find(device.sectors(), |at, len| device.read_at(at, len))
}

/// What assembly has to know about an open device.
pub fn found(device: &Device) -> Found {
    let superblock = superblock(device);
    let areas = superblock.as_ref().map(|sb| Areas::read(sb, |at, len| device.read_at(at, len)));
    Found {
        label: device.path().display().to_string(),
        device_sectors: device.sectors(),
        areas: areas.unwrap_or_default(),
        superblock,
        identity: Some(device.identity()),
    }
}

/// What assembly has to know about a path that could not be opened.
pub fn not_found(path: &Path, error: &DeviceError) -> Found {
    let why = match error {
        DeviceError::Open(error) => error.to_string(),
        other => other.to_string(),
    };
    Found {
        label: path.display().to_string(),
        device_sectors: 0,
        superblock: Err(SuperblockError::Unreadable(why)),
        identity: None,
        areas: Areas::default(),
    }
}
