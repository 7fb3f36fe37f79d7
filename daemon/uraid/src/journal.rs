//! Writes that can be taken back: the old bytes are kept until all writes succeeded, so that a command
//! that fails half-way leaves its devices as they were.
//!
//! It guards against errors, not against a loss of power: nothing is recorded on disk.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::device::Device;
use crate::probe::{self, Signature};

/// The devices that are written, and what they held before.
#[derive(Debug)]
pub struct Journal {
    devices: Vec<Device>,
    old: Vec<Old>,
    created: Vec<PathBuf>,
    kept: bool,
}

#[derive(Debug)]
struct Old {
    device: usize,
    offset: u64,
    bytes: Vec<u8>,
}

impl Journal {
    /// For writes to no device yet.
    pub fn new() -> Self {
        Journal { devices: Vec::new(), old: Vec::new(), created: Vec::new(), kept: false }
    }

    /// Adds a device, which must be open for writing; its index is the number of devices before it.
    pub fn push(&mut self, device: Device) {
        self.devices.push(device);
    }

    /// Adds a file that was made for this purpose and is removed again if things go wrong.
    pub fn push_created(&mut self, device: Device) {
        self.created.push(device.path().into());
        self.devices.push(device);
    }

    /// The devices by index.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Writes `bytes` to device `index` at `offset`.
    ///
    /// # Errors
    /// The old bytes could not be read or the new ones not be written.
    pub fn write(&mut self, index: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let device = self.devices.get(index).ok_or(io::ErrorKind::NotFound)?;
        let old = device.read_at(offset, bytes.len())?;
        if old.len() != bytes.len() {
            return Err(io::Error::other("the device ends before the bytes to be written do"));
        }
        self.old.push(Old { device: index, offset, bytes: old });
        device.file().write_all_at(bytes, offset)
    }

    /// Makes everything durable, file names included.
    ///
    /// # Errors
    /// A device or directory could not be synced.
    pub fn sync(&self) -> io::Result<()> {
        for device in &self.devices {
            device.file().sync_all()?;
        }
        for path in &self.created {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            std::fs::File::open(parent.unwrap_or(".".as_ref()))?.sync_all()?;
        }
        Ok(())
    }

    /// Makes all signatures on device `index` unrecognisable, and with them copies that show only when the
    /// first is gone (a backup partition table, say).
    ///
    /// # Errors
    /// The device could not be read or written, or signatures keep appearing.
    pub fn wipe(&mut self, index: usize) -> io::Result<()> {
        self.wipe_outside(index, &(0..0))
    }

    /// The same, but for signatures that touch these bytes: they are a part of what is to stay.
    ///
    /// # Errors
    /// As [`Journal::wipe`].
    pub fn wipe_outside(&mut self, index: usize, kept: &Range<u64>) -> io::Result<()> {
        const ROUNDS_MAX: usize = 32;
        const SIGNATURE_BYTES_MAX: u64 = 1 << 20;
        let stays = |one: &Signature| {
            one.offset < kept.end && kept.start < one.offset.saturating_add(one.bytes.max(1))
        };
        for _ in 0..ROUNDS_MAX {
            let device = self.devices.get(index).ok_or(io::ErrorKind::NotFound)?;
            let mut signatures = probe::signatures(device).map_err(io::Error::other)?;
            signatures.retain(|one| !stays(one));
            if signatures.is_empty() {
                return Ok(());
            }
            for signature in signatures {
                let length = usize::try_from(signature.bytes.clamp(1, SIGNATURE_BYTES_MAX)).unwrap_or(1);
                self.write(index, signature.offset, &vec![0; length])?;
            }
        }
        Err(io::Error::other("old signatures keep appearing; clear the device with `wipefs --all` first"))
    }

    /// Puts the old bytes back, newest write first, and removes the files that were made. What cannot be
    /// undone is logged and does not stop the rest; says whether all was.
    pub fn take_back(mut self) -> bool {
        self.restore()
    }

    fn restore(&mut self) -> bool {
        if std::mem::replace(&mut self.kept, true) {
            return true;
        }
        let mut whole = true;
        for old in self.old.iter().rev() {
            let Some(device) = self.devices.get(old.device) else { continue };
            let Err(error) = device.file().write_all_at(&old.bytes, old.offset) else { continue };
            // A device that takes no writes did not take the one that is to be undone either.
            if device.read_at(old.offset, old.bytes.len()).is_ok_and(|now| now == old.bytes) {
                continue;
            }
            whole = false;
            tracing::error!("{}: cannot restore byte {}: {error}", device.path().display(), old.offset);
        }
        for device in &self.devices {
            if let Err(error) = device.file().sync_all() {
                whole = false;
                tracing::error!("{}: cannot sync: {error}", device.path().display());
            }
        }
        for path in &self.created {
            if let Err(error) = std::fs::remove_file(path) {
                whole = false;
                tracing::error!("{}: cannot remove: {error}", path.display());
            }
        }
        whole
    }

    /// Everything went well: what was written stays. The devices are handed back, still claimed, for whoever
    /// goes on with them.
    pub fn keep(mut self) -> Vec<Device> {
        self.kept = true;
        std::mem::take(&mut self.devices)
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Journal {
    /// What [`Journal::take_back`] does, unless [`Journal::keep`] was called.
    fn drop(&mut self) {
        self.restore();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::unistd::ftruncate;

    use crate::device::Access;

    #[test]
    fn what_is_not_kept_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        let before: Vec<u8> = (0..8192_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&old, &before).unwrap();
        let mut journal = Journal::new();
        journal.push(Device::claim(&old, Access::Write).unwrap());
        journal.push_created(Device::create_sparse(&new, 4096).unwrap());
        // Overlapping writes must be undone in reverse.
        journal.write(0, 0, &[1; 1000]).unwrap();
        journal.write(0, 500, &[2; 1000]).unwrap();
        journal.write(1, 0, &[3; 512]).unwrap();
        assert!(journal.write(1, 4000, &[3; 512]).is_err());
        assert!(journal.write(2, 0, &[3; 512]).is_err());
        drop(journal);
        assert_eq!(std::fs::read(&old).unwrap(), before);
        assert!(!new.exists());
    }

    #[test]
    fn what_cannot_be_taken_back_is_not_said_to_be() {
        // Memory that can be sealed against writing at any time.
        let file = memfd_create(c"journal", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&file, 4096).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let mut journal = Journal::new();
        journal.push(Device::claim(&path, Access::Write).unwrap());
        journal.write(0, 512, &[1; 512]).unwrap();
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(journal.write(0, 1024, &[1; 512]).is_err());
        assert!(!journal.take_back());
        let mut journal = Journal::new();
        journal.push(Device::claim(&path, Access::Write).unwrap());
        assert!(journal.write(0, 512, &[2; 512]).is_err());
        assert!(journal.take_back(), "nothing was written, so nothing is left to be undone");
    }

    #[test]
    fn what_is_kept_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m");
        let mut journal = Journal::new();
        journal.push_created(Device::create_sparse(&path, 4096).unwrap());
        journal.write(0, 512, &[9; 512]).unwrap();
        journal.sync().unwrap();
        journal.keep();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes[511], bytes[512]), (4096, 0, 9));
    }
}
