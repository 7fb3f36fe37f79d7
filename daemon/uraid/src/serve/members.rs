//! The members of the array that is being served: opening them as the configuration says, and the claims
//! that keep everybody else away from them.
//!
//! A member is opened twice: as a [`Device`], which is the claim and was there before anything was known
//! about it, and as a [`Member`], through which the shard moves bytes. A claim is given up when its member
//! failed, so that an operator can look at the device, wipe it or add it again.

use std::path::Path;

use md_format::Assembly;
use uraid_blockio::{Direct, EnginePreference, Identity, Kind, Member, OpenOptions};
use uraid_config::{Config, Direct as DirectWord, IoEngine};
use uraid_core::MemberId;

use crate::device::Device;
use crate::failure::Failure;

/// The claims on the members of a running array.
#[derive(Debug, Default)]
pub(super) struct Claims(Vec<(MemberId, Device)>);

impl Claims {
    /// Keeps a claim for as long as its member works.
    pub(super) fn keep(&mut self, member: MemberId, device: Device) {
        self.0.push((member, device));
    }

    /// Gives up the claims on members that failed.
    pub(super) fn release(&mut self, failed: impl Fn(MemberId) -> bool) {
        self.0.retain(|(member, _)| !failed(*member));
    }

    /// Gives up all claims.
    pub(super) fn release_all(&mut self) {
        self.0.clear();
    }

    /// The member that this device is, under whatever path.
    pub(super) fn find(&self, identity: (u64, u64)) -> Option<MemberId> {
        self.0.iter().find(|(_, device)| device.identity() == identity).map(|(member, _)| *member)
    }
}

/// How the members of this configuration are opened.
pub(super) fn options(config: &Config) -> OpenOptions {
    OpenOptions {
        read_only: config.read_only,
        // The claim is exclusive, and there can be only one.
        exclusive: false,
        direct: match config.io.direct {
            DirectWord::Auto => Direct::Auto,
            DirectWord::Off => Direct::Off,
            DirectWord::Require => Direct::Require,
        },
        engine: match config.io.engine {
            IoEngine::Auto => EnginePreference::Auto,
            IoEngine::Uring => EnginePreference::Uring,
            IoEngine::Sync => EnginePreference::Sync,
        },
    }
}

/// Opens the members that the assembly took, in its order. The shard numbers them in this order too.
///
/// # Errors
/// All members that cannot be opened, each with the reason.
pub(super) fn open_all(
    assembly: &Assembly,
    mut devices: Vec<Option<Device>>,
    options: OpenOptions,
) -> Result<(Vec<Member>, Claims), Failure> {
    let (mut members, mut claims, mut problems) = (Vec::new(), Claims::default(), Vec::new());
    for (number, taken) in (0_u16..).zip(&assembly.members) {
        let Some(device) = devices.get_mut(taken.found).and_then(Option::take) else {
            problems.push(format!("\n  member number {} has no device", taken.dev_number));
            continue;
        };
        match open_one(&device, options) {
            Ok(member) => members.push(member),
            Err(why) => problems.push(format!("\n  {why}")),
        }
        claims.keep(MemberId(number), device);
    }
    if problems.is_empty() {
        return Ok((members, claims));
    }
    Err(Failure::operating(format!("the array is not started, because of:{}", problems.concat())))
}

/// Opens a claimed device for the shard.
///
/// # Errors
/// A text that names the path.
pub(super) fn open_one(device: &Device, options: OpenOptions) -> Result<Member, String> {
    let member = Member::open(device.path(), options).map_err(|error| error.to_string())?;
    if node(&member) != device.node() || member.size() != device.bytes() {
        return Err(format!("{} became another device while it was being opened", device.path().display()));
    }
    Ok(member)
}

/// The same pair as [`Device::node`].
fn node(member: &Member) -> (u64, u64) {
    match member.identity() {
        Identity::File { device, inode } => (device, inode),
        Identity::Block { device } => (device, u64::MAX),
    }
}

/// How a member is read and written, for the log: `/dev/sda: block device, direct, blocks of 512`.
pub(super) fn describe(path: &Path, member: &Member) -> String {
    let kind = match member.kind() {
        Kind::File => "file",
        Kind::Block => "block device",
    };
    let way = if member.is_direct() { "direct" } else { "through the page cache" };
    format!("{}: {kind}, {way}, blocks of {} bytes", path.display(), member.logical_block())
}
