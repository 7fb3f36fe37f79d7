//! Everything that is read from members: superblocks, write-intent bitmaps, partial parity logs, logs of bad blocks. The
//! input makes an array, changes any bytes of its metadata (with checksums that fit, or not), and has it assembled and
//! run: requests, failures, a stop. Nothing panics, the core's invariants hold, and nothing is written to a member that
//! assembly did not take, nor outside of what its superblock gives to data and metadata.

#![no_main]

#[path = "../split.rs"]
mod split;

mod world;

use libfuzzer_sys::fuzz_target;
use md_format::{
    AssembleOptions, Bitmap, CreateParams, Features, IntentBitmap, Layout, Level, Location, Minor, SECTOR,
    Superblock, Uuid, plan_create,
};
use world::Device;

/// Bytes that one change takes: which member, which part, where in it, and up to four new bytes.
const CHANGE: usize = 9;

fuzz_target!(|data: &[u8]| {
    let Some((decisions, changes)) = split::decide::<8>(data) else { return };
    let Some(mut devices) = devices(decisions) else { return };
    for change in changes.chunks_exact(CHANGE).take(64) {
        alter(&mut devices, change);
    }
    if decisions[7] & 3 != 0 {
        devices.iter_mut().for_each(|device| device.seal(decisions[7]));
    }
    let options = AssembleOptions { force: decisions[6] & 1 != 0, array: None };
    let found: Vec<_> = devices.iter().enumerate().map(|(n, device)| device.found(n)).collect();
    let Ok(assembly) = md_format::assemble(&found, options) else { return };
    world::run(&devices, &assembly, decisions, changes);
});

/// The members of a sound array, all of them or all but one.
fn devices(decisions: [u8; 8]) -> Option<Vec<Device>> {
    let level = [Level::Raid5, Level::Raid6, Level::Raid4][usize::from(decisions[0] % 3)];
    let layouts = Layout::all(level);
    let layout = layouts[usize::from(decisions[0] / 3) % layouts.len()];
    let members = 4 + usize::from(decisions[1] % 3);
    let minor = [Minor::V2, Minor::V0, Minor::V1][usize::from(decisions[2] % 3)];
    let (bitmap, ppl) = match decisions[3] % 3 {
        1 => (IntentBitmap::Internal { chunk_bytes: Some(4096 << (decisions[3] / 3 % 5)) }, false),
        2 => (IntentBitmap::None, level == Level::Raid5),
        _ => (IntentBitmap::None, false),
    };
    let sectors = 16_384;
    let uuids: Vec<Uuid> = (1..=members).map(|n| Uuid([n as u8; 16])).collect();
    let made = plan_create(&CreateParams {
        level,
        layout,
        chunk_sectors: 8 << (decisions[4] % 5),
        name: "host:fuzz",
        members: &vec![sectors; members],
        size_sectors: Some(256 << (decisions[4] / 5 % 4)),
        set_uuid: Uuid([9; 16]),
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: decisions[5] & 1 != 0,
        minor,
        bitmap,
        ppl,
    });
    let made = made.ok()?;
    let left_out = usize::from(decisions[5] >> 1) % (members * 4);
    let all = made.into_iter().enumerate().filter(|(n, _)| *n != left_out);
    Some(all.map(|(_, superblock)| device(&superblock, sectors, decisions[3])).collect())
}

/// The metadata of a new member, as they are written.
fn device(superblock: &Superblock, sectors: u64, kind: u8) -> Device {
    let mut superblock = superblock.clone();
    superblock.set_events(20);
    let mut device = Device::new(superblock.location(), sectors);
    device.put(superblock.super_offset() * SECTOR, &superblock.encode());
    if superblock.features().contains(Features::BITMAP) {
        let area = superblock.areas().first().map_or(0, |area| area.sector * SECTOR);
        if let Ok(map) = Bitmap::create(&superblock, Some(4096 << (kind / 3 % 5))) {
            (0..map.pages()).for_each(|page| {
                let (at, bytes) = map.page(page);
                device.put(area + at, bytes);
            });
        }
    }
    device
}

/// One change: mostly to the fields of the superblock, else to what is beside it.
fn alter(devices: &mut [Device], change: &[u8]) {
    let count = devices.len();
    let Some(device) = devices.get_mut(usize::from(change[0]) % count.max(1)) else { return };
    let wide = u64::from(u16::from_le_bytes([change[2], change[3]]));
    let Location { sector, .. } = device.at;
    let base = sector * SECTOR;
    let at = match change[1] % 8 {
        0..=2 => base + wide % 512,
        3 => base + wide % 4096,
        4 => device.area(0) + wide % 4608,
        5 => device.area(1) + wide % 4096,
        6 => device.area(2) + 512 + wide % 4096,
        _ => device.area(2) + wide * 64 % (1 << 20),
    };
    let len = 1 + usize::from(change[4] % 4);
    device.put(at, change.get(5..5 + len).unwrap_or_default());
}
