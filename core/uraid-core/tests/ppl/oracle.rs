//! The kernel's replay of partial parity logs, byte by byte from its rules, over images: an oracle that shares
//! nothing with the code that is tested, but for the geometry.

use crate::world::Disk;
use uraid_core::Geometry;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Replayed {
    /// Entries that were replayed.
    pub(crate) entries: u32,
    /// What did not check out.
    pub(crate) mismatches: u32,
}

fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// A header at this byte of the area, if its signature and checksum are right.
fn header(area: &[u8], at: usize, uuid: &[u8]) -> Option<Vec<u8>> {
    let mut header = area.get(at..at + 4096)?.to_vec();
    let (signature, checksum) = (u32_at(&header, 512), u32_at(&header, 532));
    header[532..536].fill(0);
    let good = signature == !crc32c(!0, uuid) && checksum == !crc32c(!0, &header);
    good.then_some(header)
}

/// Whether an area belongs to this array's log, if with half of a header.
pub(crate) fn has_log(area: &[u8], uuid: &[u8]) -> bool {
    u32_at(area, 512) == !crc32c(!0, uuid)
}

fn parities(header: &[u8]) -> usize {
    (0..u32_at(header, 528) as usize).map(|n| u32_at(header, 536 + 24 * n + 8) as usize).sum()
}

/// Replays the logs of these members, by role, on themselves. `None` stands for a missing member, or one that is
/// not rebuilt.
pub(crate) fn replay(
    geometry: &Geometry,
    uuid: &[u8],
    area: std::ops::Range<usize>,
    disks: &mut [Option<&mut Disk>],
) -> Replayed {
    let mut result = Replayed::default();
    for role in 0..disks.len() {
        let Some(disk) = &disks[role] else { continue };
        let log = disk.view[area.clone()].to_vec();
        let Some(mut newest) = header(&log, 0, uuid) else {
            result.mismatches += 1;
            continue;
        };
        let mut at = 0;
        loop {
            let next = at + 4096 + parities(&newest);
            match header(&log, next, uuid) {
                Some(header) if u64_at(&header, 520) >= u64_at(&newest, 520) => (at, newest) = (next, header),
                _ => break,
            }
        }
        let mut from = at + 4096;
        for n in 0..u32_at(&newest, 528) as usize {
            let entry = &newest[536 + 24 * n..536 + 24 * n + 24];
            let pp_bytes = u32_at(entry, 8) as usize;
            let pp = log.get(from..from + pp_bytes);
            from += pp_bytes;
            match pp.filter(|pp| pp_bytes == 0 || !crc32c(!0, pp) == u32_at(entry, 20)) {
                Some(pp) => {
                    result.entries += 1;
                    replay_entry(geometry, entry, pp, role, disks);
                }
                None => result.mismatches += 1,
            }
        }
    }
    result
}

fn replay_entry(g: &Geometry, entry: &[u8], pp: &[u8], role: usize, disks: &mut [Option<&mut Disk>]) {
    let (first, data_bytes) = (u64_at(entry, 0) * 512, u64::from(u32_at(entry, 12)));
    let (chunk, k) = (g.chunk_bytes(), u64::from(g.data()));
    let pp_bytes = pp.len() as u64;
    assert_eq!(u32_at(entry, 16) as usize, role, "an entry lies on the member that holds the parity");
    let (count, strip, last) = if pp_bytes < chunk {
        let count = data_bytes.checked_div(pp_bytes).unwrap_or(k);
        let strip = if pp_bytes == 0 { data_bytes / k } else { pp_bytes };
        (count, strip, first + (count - 1) * chunk + strip)
    } else {
        (k, chunk, first + data_bytes)
    };
    for block in (0..strip).step_by(4096) {
        let mut parity =
            if pp.is_empty() { vec![0; 4096] } else { pp[block as usize..block as usize + 4096].to_vec() };
        let mut place = None;
        let mut left_alone = false;
        for disk in 0..count {
            let at = first + block + disk * chunk;
            if at >= last {
                continue;
            }
            let piece = g.piece(at, 4096);
            let roles = &g.pattern(piece.stripe).roles;
            let offset = g.member_offset(piece.stripe) + u64::from(piece.offset);
            place = Some((roles[usize::from(g.p_lane())], offset));
            match &disks[usize::from(roles[usize::from(piece.lane)].0)] {
                Some(disk) => {
                    let bytes = disk.read(disk.data_start() + offset, 4096);
                    parity.iter_mut().zip(bytes).for_each(|(p, d)| *p ^= d);
                }
                None => left_alone = true,
            }
        }
        let (parity_role, offset) = place.expect("an entry speaks of something");
        assert_eq!(usize::from(parity_role.0), role, "the parity of these blocks is elsewhere");
        if let Some(disk) = disks[role].as_mut().filter(|_| !left_alone) {
            disk.write(disk.data_start() + offset, &parity);
        }
    }
}
