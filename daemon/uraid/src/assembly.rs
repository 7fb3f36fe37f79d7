//! From the paths of a configuration to an array that can be started: claims the members, reads their
//! superblocks, and has `md-format` judge them.
//!
//! A member that cannot be opened or read counts as missing. One that is **in use** stops everything: the
//! array may be running elsewhere, and going on without that member would tear it in two.

use std::path::Path;
use std::time::Duration;

use md_format::{AssembleError, AssembleOptions, Assembly, Found, Superblock, Uuid, assemble};
use uraid_config::Config;

use crate::claims;
use crate::device::{Access, Device, DeviceError, identity_of};
use crate::failure::Failure;
use crate::scan;

/// How long the last writes of a process that was killed may take to end: longer than a disk that retries.
pub(crate) const WRITERS_GONE: Duration = Duration::from_secs(60);

/// An array that can be started, and the claims on its members.
#[derive(Debug)]
pub struct Volume {
    /// The verdict. `found` of a member is an index into the members of the configuration.
    pub assembly: Assembly,
    devices: Vec<Option<Device>>,
}

impl Volume {
    /// The claimed device of a member by its `found` index; none for devices that were not taken. To be
    /// kept as long as the array is served.
    pub fn device(&self, found: usize) -> Option<&Device> {
        self.devices.get(found)?.as_ref()
    }

    /// Takes the claims out, by `found` index.
    pub fn into_parts(self) -> (Assembly, Vec<Option<Device>>) {
        (self.assembly, self.devices)
    }
}

/// Puts the array of `config` together and logs what an operator should know about it. Nothing is
/// written.
///
/// # Errors
/// A member is in use or no device at all, the array cannot be started, or it has another name.
pub fn open(config: &Config) -> Result<Volume, Failure> {
    open_or_go_on(config, |_| false)
}

/// [`open`], perhaps to go on with what was handed over.
///
/// An array whose parity is not known to match, and that lacks a member, takes force. It takes none if a process
/// before this one has served it just so and was handed over from: `is_handed_over` says that of a superblock.
/// No write was cut off then, and nobody's data are less sure than they were.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_or_go_on(
    config: &Config,
    is_handed_over: impl Fn(&Superblock) -> bool,
) -> Result<Volume, Failure> {
    let access = if config.read_only { Access::Read } else { Access::Write };
    let (mut devices, found) = claim_all(config, access)?;
    let array = config.uuid.map(|uuid| Uuid(uuid.0));
    let assemble = |force| assemble(&found, AssembleOptions { force, array });
    let assembly = match assemble(config.assemble.force) {
        Err(refused @ AssembleError::DirtyDegraded { .. }) => match assemble(true) {
            Ok(assembly) if is_handed_over(&assembly.superblock) => assembly,
            _ => return Err(Failure::operating(refused)),
        },
        judged => judged.map_err(Failure::operating)?,
    };
    let name = assembly.superblock.name();
    if let Some(wanted) = config.name.as_ref().filter(|wanted| !wanted.matches(&name)) {
        return Err(Failure::operating(format!(
            "these are members of the array {name:?}, not of {wanted:?}",
            wanted = wanted.as_str()
        )));
    }
    for warning in &assembly.warnings {
        tracing::warn!("{warning}");
    }
    claims::note(assembly.superblock.set_uuid(), &assembly.superblock.short_name());
    for (index, device) in devices.iter_mut().enumerate() {
        if !assembly.members.iter().any(|member| member.found == index) {
            *device = None;
        }
    }
    Ok(Volume { assembly, devices })
}

type Claims = (Vec<Option<Device>>, Vec<Found>);

fn claim_all(config: &Config, access: Access) -> Result<Claims, Failure> {
    let (mut devices, mut found): Claims = (Vec::new(), Vec::new());
    for path in &config.members {
        let identity = identity_of(path);
        let again = identity.is_some() && found.iter().any(|other| other.identity == identity);
        // A device named twice is told by its identity; claiming it again would fail for its first claim.
        let opened = if again { Device::open_to_read(path) } else { Device::claim(path, access) };
        let settled = opened.and_then(|device| device.wait_for_writers(WRITERS_GONE).map(|()| device));
        match settled {
            Ok(device) => {
                found.push(scan::found(&device));
                devices.push(Some(device).filter(|_| !again));
            }
            Err(error @ DeviceError::Open(_)) => {
                found.push(scan::not_found(path, &error));
                devices.push(None);
            }
            Err(error) => return Err(cannot_go_on(path, &error)),
        }
    }
    Ok((devices, found))
}

fn cannot_go_on(path: &Path, error: &DeviceError) -> Failure {
    let advice = match error {
        DeviceError::InUse(_) => {
            "; the array may be running elsewhere, so it is not started without this member"
        }
        _ => "",
    };
    Failure::operating(format!("{}: {error}{advice}", path.display()))
}
