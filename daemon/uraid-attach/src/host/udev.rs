//! How far udev has come with a device: its links and its file system's name are there after that.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Host, block_number};
use crate::AttachError;
use crate::wait::poll_until;

/// File times come from a clock that ticks more slowly than the one that is asked for the time.
const CLOCK_COARSENESS: Duration = Duration::from_millis(20);

/// What [`Host::settle`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// udev has looked at the device and has nothing left to do.
    Looked,
    /// There is no udev on this host, so there is nothing to wait for.
    NoUdev,
}

impl Host {
    /// Waits until udev has dealt with a device that was attached after `since`, and with everything else
    /// that it knew of. Attaching makes the kernel tell udev of a change; udev's rules then read the device,
    /// so it has to be served.
    ///
    /// # Errors
    /// [`AttachError::TooLate`].
    pub fn settle(&self, index: u32, since: SystemTime, within: Duration) -> Result<Settled, AttachError> {
        let run = self.root.join("run/udev");
        if !run.join("control").exists() {
            return Ok(Settled::NoUdev);
        }
        let since = since.checked_sub(CLOCK_COARSENESS).unwrap_or(since);
        let what = || format!("udev to deal with nbd{index}; does `udevadm settle` end?");
        poll_until(what, within, || {
            let (major, minor) = self.device_number(&format!("nbd{index}"))?;
            // udev writes its record of a device anew with every event, and removes `queue` when idle.
            let record = run.join(format!("data/b{major}:{minor}")).metadata().ok()?;
            let looked = record.modified().ok()? >= since;
            (looked && !run.join("queue").exists()).then_some(Settled::Looked)
        })
    }

    /// Waits until a path, such as a link that a rule of udev makes, leads to a device.
    ///
    /// # Errors
    /// [`AttachError::TooLate`].
    pub fn wait_for_link(&self, index: u32, path: &Path, within: Duration) -> Result<(), AttachError> {
        let what = || format!("{} to lead to nbd{index}", path.display());
        poll_until(what, within, || {
            let number = self.device_number(&format!("nbd{index}"))?;
            (block_number(path)? == number).then_some(())
        })
    }
}
