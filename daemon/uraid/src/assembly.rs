//! From the paths of a configuration to an array that can be started: claims the members, reads their
//! superblocks, and has `md-format` judge them.
//!
//! A member that cannot be opened or read counts as missing. One that is **in use** stops everything: the
//! array may be running elsewhere, and going on without that member would tear it in two. A device that is **not
//! there yet** is waited for, if the superblocks say that the array had it: at boot disks appear one after the
//! other, and one that comes a second late would have to be rebuilt otherwise.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use md_format::{
    AssembleError, AssembleOptions, Assembly, DevRole, Found, SECTOR, Superblock, Uuid, assemble,
};
use uraid_config::Config;
use uraid_core::{Geometry, GeometryError};

use crate::claims;
use crate::device::{Access, Device, DeviceError, identity_of};
use crate::failure::Failure;
use crate::scan;

/// How long the last writes of a process that was killed may take to end: longer than a disk that retries.
pub(crate) const WRITERS_GONE: Duration = Duration::from_secs(60);

/// How long a service waits for a member that is not there yet: as mdadm's timer of last resort does.
pub(crate) const LATE_MEMBERS: Duration = Duration::from_secs(30);
/// How often it looks whether one is there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

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
    open_within(config, Duration::ZERO)
}

/// [`open`], which waits so long for members below `/dev` that are not there yet and that the array had when it
/// was used last.
///
/// # Errors
/// As [`open`].
pub fn open_within(config: &Config, patience: Duration) -> Result<Volume, Failure> {
    open_or_go_on(config, patience, |_| false)
}

/// [`open_within`], perhaps to go on with what was handed over.
///
/// An array whose parity is not known to match, and that lacks a member, takes force. It takes none if a process
/// before this one has served it just so and was handed over from: `is_handed_over` says that of a superblock.
/// No write was cut off then, and nobody's data are less sure than they were.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_or_go_on(
    config: &Config,
    patience: Duration,
    is_handed_over: impl Fn(&Superblock) -> bool,
) -> Result<Volume, Failure> {
    let access = if config.read_only { Access::Read } else { Access::Write };
    let mut claims = claim_all(config, access)?;
    let array = config.uuid.map(|uuid| Uuid(uuid.0));
    let judge = |found: &[Found]| {
        let assemble = |force| assemble(found, AssembleOptions { force, array });
        match assemble(config.assemble.force) {
            Err(refused @ AssembleError::DirtyDegraded { .. }) => match assemble(true) {
                Ok(assembly) if is_handed_over(&assembly.superblock) => Ok(assembly),
                _ => Err(refused),
            },
            judged => judged,
        }
    };
    let mut judged = judge(&claims.1);
    let until = Instant::now() + patience;
    while Instant::now() < until && lacks_what_it_had(&judged, &claims.1) {
        let late = late(config, &claims.0);
        if !wait_for_any(&late, until) {
            break;
        }
        for (at, path) in late.iter().filter(|(_, path)| path.exists()) {
            claim_late(&mut claims, *at, path, access)?;
        }
        judged = judge(&claims.1);
    }
    let (mut devices, _) = claims;
    let assembly = judged.map_err(Failure::operating)?;
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

/// Why an array is not served although its members make one: md takes shapes that are not supported here.
pub(crate) fn unsupported_shape(superblock: &Superblock) -> Option<GeometryError> {
    let bytes = |sectors: u64| sectors.saturating_mul(SECTOR);
    let (level, layout, roles) = (superblock.level(), superblock.layout(), superblock.raid_disks());
    let (chunk, size) = (bytes(superblock.chunk_sectors().into()), bytes(superblock.size_sectors()));
    Geometry::new(level, layout, roles, chunk, size).err()
}

type Claims = (Vec<Option<Device>>, Vec<Found>);

fn claim_all(config: &Config, access: Access) -> Result<Claims, Failure> {
    let (mut devices, mut found): Claims = (Vec::new(), Vec::new());
    for path in &config.members {
        let (device, one) = claim(path, access, &found)?;
        devices.push(device);
        found.push(one);
    }
    Ok((devices, found))
}

/// Claims a member and reads its superblock; `found` are those of the members before.
fn claim(path: &Path, access: Access, found: &[Found]) -> Result<(Option<Device>, Found), Failure> {
    let identity = identity_of(path);
    let again = identity.is_some() && found.iter().any(|other| other.identity == identity);
    // A device named twice is told by its identity; claiming it again would fail for its first claim.
    let opened = if again { Device::open_to_read(path) } else { Device::claim(path, access) };
    let settled = opened.and_then(|device| device.wait_for_writers(WRITERS_GONE).map(|()| device));
    match settled {
        Ok(device) => {
            let found = scan::found(&device);
            Ok((Some(device).filter(|_| !again), found))
        }
        Err(error @ DeviceError::Open(_)) => Ok((None, scan::not_found(path, &error))),
        Err(error) => Err(cannot_go_on(path, &error)),
    }
}

/// Claims a member that was not there before.
fn claim_late(claims: &mut Claims, at: usize, path: &Path, access: Access) -> Result<(), Failure> {
    let (device, one) = claim(path, access, &claims.1)?;
    if let (Some(place), Some(found)) = (claims.0.get_mut(at), claims.1.get_mut(at)) {
        (*place, *found) = (device, one);
    }
    Ok(())
}

/// Whether a role has no member that had one when the superblocks were written last, so that it is worth waiting.
/// What failed or was taken out is in no role any more.
fn lacks_what_it_had(judged: &Result<Assembly, AssembleError>, found: &[Found]) -> bool {
    let assembly = match judged {
        Ok(assembly) => assembly,
        Err(error) => {
            return matches!(
                error,
                AssembleError::NoMembers { .. }
                    | AssembleError::TooFewMembers { .. }
                    | AssembleError::DirtyDegraded { .. }
            );
        }
    };
    let uuid = assembly.superblock.set_uuid();
    let own = found.iter().filter_map(|one| one.superblock.as_ref().ok()).filter(|sb| sb.set_uuid() == uuid);
    let Some(newest) = own.max_by_key(|superblock| superblock.events()) else { return false };
    let had = |role: &u16| newest.dev_roles().any(|(_, known)| known == DevRole::Active(*role));
    assembly.missing_roles.iter().any(had)
}

/// The members below `/dev` that are not there, with their places. A file that is not there does not come by itself.
fn late<'a>(config: &'a Config, devices: &[Option<Device>]) -> Vec<(usize, &'a PathBuf)> {
    let claimed = |at: usize| devices.get(at).is_some_and(Option::is_some);
    let members = config.members.iter().enumerate();
    members.filter(|(at, path)| !claimed(*at) && path.starts_with("/dev") && !path.exists()).collect()
}

/// Waits until one of these is there; false if none came in time.
fn wait_for_any(late: &[(usize, &PathBuf)], until: Instant) -> bool {
    if late.is_empty() {
        return false;
    }
    let names: Vec<String> = late.iter().map(|(_, path)| path.display().to_string()).collect();
    let seconds = until.saturating_duration_since(Instant::now()).as_secs_f64().ceil();
    tracing::warn!(
        "not there yet: {}; the array lacks a member that it had, so it is waited for up to {seconds} s",
        names.join(", ")
    );
    while Instant::now() < until {
        if late.iter().any(|(_, path)| path.exists()) {
            return true;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    false
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
