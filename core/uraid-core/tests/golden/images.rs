//! The images of an array's members: unpacked, found out what they are, and put into a world.

use crate::manifest::{Case, home};
use crate::world::{Disk, Rng, World};
use md_format::{
    Areas, AssembleError, AssembleOptions, Assembly, DevRole, Features, Found, Superblock, assemble,
};
use std::io::Read;

/// One member as bytes.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) label: String,
    /// The role that the manifest names.
    pub(crate) role: Option<u16>,
    pub(crate) bytes: Vec<u8>,
}

/// sha256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks every member of an array; a damaged file fails the test.
pub(crate) fn unpack(case: &Case) -> Vec<Image> {
    let of = |member: &crate::manifest::Member| {
        let path = home().join(&case.name).join(format!("{}.zst", member.file));
        let packed = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut bytes = Vec::with_capacity(member.bytes);
        decoder.read_to_end(&mut bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(sha256(&bytes), member.sha256, "{} is damaged", path.display());
        Image { label: member.file.clone(), role: member.number(), bytes }
    };
    case.members.iter().map(of).collect()
}

impl Image {
    fn sectors(&self) -> u64 {
        (self.bytes.len() / 512) as u64
    }

    /// What the bytes say, read as the daemon reads them.
    pub(crate) fn found(&self, index: usize) -> Found {
        let part = |offset: u64, len: usize| -> Vec<u8> {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
            self.bytes[from..from.saturating_add(len).min(self.bytes.len())].to_vec()
        };
        let superblock = Superblock::find(self.sectors(), |offset, len| Ok::<_, String>(part(offset, len)));
        let areas = superblock.as_ref().map_or_else(
            |_| Areas::default(),
            |sb| Areas::read(sb, |offset, len| Ok::<_, String>(part(offset, len))),
        );
        Found {
            label: self.label.clone(),
            device_sectors: self.sectors(),
            superblock,
            identity: Some((1, index as u64)),
            areas,
        }
    }

    /// Where this member's data begin, if it holds all of them for a role of the array.
    fn data(&self, newest: u64) -> Option<(u16, usize)> {
        let sb = self.found(0).superblock.ok()?;
        let partly = Features::RECOVERY_OFFSET | Features::REPLACEMENT;
        let whole = sb.features().intersection(partly).is_empty() && sb.events() + 1 >= newest;
        match sb.role() {
            DevRole::Active(role) if whole => Some((role, usize::try_from(sb.data_offset()).ok()? * 512)),
            _ => None,
        }
    }
}

/// What each role of an array holds, from the start of its data; nothing if no image holds all of it.
pub(crate) fn roles(images: &[Image], raid_disks: u16) -> Vec<Option<&[u8]>> {
    let newest = images.iter().filter_map(|image| image.found(0).superblock.ok()).map(|sb| sb.events()).max();
    let mut roles = vec![None; usize::from(raid_disks)];
    for image in images {
        if let Some((role, at)) = image.data(newest.unwrap_or(0)) {
            roles[usize::from(role)] = Some(&image.bytes[at..]);
        }
    }
    roles
}

/// The verdict over these images.
pub(crate) fn judge(images: &[Image], force: bool) -> Result<Assembly, AssembleError> {
    let found: Vec<Found> = images.iter().enumerate().map(|(at, image)| image.found(at)).collect();
    assemble(&found, AssembleOptions { force, array: None })
}

/// The array of these images, started.
pub(crate) fn start(images: &[Image], assembly: &Assembly) -> World {
    let disk = |(at, image): (usize, &Image)| {
        let data = image.found(at).superblock.map_or(0, |sb| sb.data_offset() * 512);
        Disk::of_image(image.bytes.clone(), data)
    };
    let disks = images.iter().enumerate().map(disk).collect();
    let seed = 0x5eed;
    World::over(disks, assembly, 16, Rng(seed), seed)
}

/// What the members of a world hold now.
pub(crate) fn taken(world: &World) -> Vec<Image> {
    let image = |(at, disk): (usize, &Disk)| Image {
        label: format!("disk {at}"),
        role: None,
        bytes: disk.view.clone(),
    };
    world.disks.iter().enumerate().map(image).collect()
}
