//! Metadata that Linux md runs but that is not a superblock of version 1.x: recognised, so that a refusal can
//! name it and say what to do.
//!
//! Version 0.90 has its superblock in the last 64 KiB that begin on a multiple of 64 KiB. The metadata of RAID
//! firmware are at the very end of a device, whatever lies in front of them: Intel's (IMSM) begin in the last
//! sector but one, those of the Disk Data Format (DDF, by SNIA) are found through an anchor in the last one. A
//! sector here is a logical one of the disk, so both are looked for in units of 512 and of 4096 bytes.

use crate::wire::{MAGIC_VALUE, SECTOR};
use std::fmt;

/// Sectors at the end of a device that are looked at for firmware metadata.
const TAIL_SECTORS: u64 = 16;
/// Sectors of the unit in which 0.90 places its superblock.
const V090_UNIT: u64 = 128;
/// What IMSM metadata begin with.
const IMSM_SIGNATURE: &[u8] = b"Intel Raid ISM Cfg Sig.";
/// What the DDF anchor begins with, big-endian.
const DDF_SIGNATURE: u32 = 0xde11_de11;

/// Metadata that are not of version 1.x.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OtherMetadata {
    /// Version 0.90.
    V090 {
        /// The number of the level.
        level: i32,
        /// When the array was made, in seconds since 1970.
        ctime: u32,
        /// It was written by a machine of the other byte order.
        big_endian: bool,
        /// It is being reshaped (version 0.91).
        reshape: bool,
    },
    /// Intel Matrix or Rapid Storage.
    Imsm,
    /// The Disk Data Format of SNIA.
    Ddf,
}

/// Where to look on a device of this size for what [`OtherMetadata::recognise`] knows: first sector and bytes.
pub(crate) fn places(device_sectors: u64) -> Vec<(u64, usize)> {
    let v090 = (device_sectors / V090_UNIT).checked_sub(1).map(|unit| (unit * V090_UNIT, 128));
    let tail = device_sectors.checked_sub(TAIL_SECTORS);
    v090.into_iter().chain(tail.map(|at| (at, (TAIL_SECTORS * SECTOR) as usize))).collect()
}

impl OtherMetadata {
    /// What `bytes`, which begin at sector `at` of a device of `device_sectors`, hold of such metadata.
    pub(crate) fn recognise(bytes: &[u8], at: u64, device_sectors: u64) -> Option<Self> {
        if at.checked_add(TAIL_SECTORS) == Some(device_sectors) {
            return firmware(bytes);
        }
        v090(bytes)
    }
}

/// IMSM or DDF at the end of the last sectors of a device.
fn firmware(tail: &[u8]) -> Option<OtherMetadata> {
    let from_end = |bytes: usize| tail.len().checked_sub(bytes).and_then(|at| tail.get(at..));
    let starts = |bytes: usize, with: &[u8]| from_end(bytes).is_some_and(|at| at.starts_with(with));
    [512, 4096].into_iter().find_map(|block| {
        if starts(2 * block, IMSM_SIGNATURE) {
            Some(OtherMetadata::Imsm)
        } else {
            starts(block, &DDF_SIGNATURE.to_be_bytes()).then_some(OtherMetadata::Ddf)
        }
    })
}

/// A superblock of version 0.90: 32-bit words in the order of the machine that wrote it. The first are magic
/// number, major, minor and patch version, then two of no use here, creation time and level.
fn v090(bytes: &[u8]) -> Option<OtherMetadata> {
    [false, true].into_iter().find_map(|big_endian| {
        let word =
            |word: &[u8; 4]| if big_endian { u32::from_be_bytes(*word) } else { u32::from_le_bytes(*word) };
        let words: Vec<u32> = bytes.get(..32)?.as_chunks::<4>().0.iter().map(word).collect();
        let &[magic, major, minor, _, _, _, ctime, level] = words.as_slice() else { return None };
        let known = magic == MAGIC_VALUE && major == 0 && (90..=91).contains(&minor);
        known.then_some(OtherMetadata::V090 {
            // The level is signed: -4 is multipath.
            level: level.cast_signed(),
            ctime,
            big_endian,
            reshape: minor == 91,
        })
    })
}

/// What it is, and what to do.
impl fmt::Display for OtherMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_firmware =
            "start it with Linux md (`mdadm --assemble --scan`, which runs mdmon) and copy what is on it";
        match self {
            OtherMetadata::V090 { big_endian: true, .. } => f.write_str(
                "a member of an array with metadata version 0.90 of a big-endian machine, which is not supported: \
                 `mdadm --assemble --update=byteorder`, then `--update=metadata`, make it 1.0",
            ),
            OtherMetadata::V090 { reshape: true, .. } => f.write_str(
                "a member of an array with metadata version 0.91, in the middle of a reshape, which is not supported: \
                 let Linux md finish, stop the array, then `mdadm --assemble --update=metadata` makes it 1.0",
            ),
            OtherMetadata::V090 { level, .. } => write!(
                f,
                "a member of a {} array with metadata version 0.90, which is not supported: \
                 `mdadm --assemble --update=metadata /dev/mdN DEVICES` turns it into 1.0 (all devices must be \
                 there), then `mdadm --stop /dev/mdN`",
                crate::error::level_name(*level)
            ),
            OtherMetadata::Imsm => write!(
                f,
                "a disk of a RAID that Intel's firmware manages (IMSM, Rapid Storage), which is not supported: {by_firmware}"
            ),
            OtherMetadata::Ddf => write!(
                f,
                "a disk of a RAID that the firmware manages (DDF), which is not supported: {by_firmware}"
            ),
        }
    }
}
