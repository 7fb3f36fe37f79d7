//! Damaged superblocks: nothing panics, and nothing that matters is believed.

use crate::common::{DEVICE, Random, V2, altered, array, devices, goldens, oracle_checksum, patched};
use md_format::*;

#[test]
fn every_changed_byte_is_caught() {
    let mut random = Random(0xbad_b17e);
    for golden in goldens().iter().filter(|one| !one.blank() && one.text("member") == "d0") {
        for at in 0..golden.bytes.len() {
            let mut bytes = golden.bytes.clone();
            bytes[at] ^= 1 + random.below(255) as u8;
            let got = Superblock::parse(&bytes, golden.location(), golden.number("device_sectors"));
            assert!(got.is_err(), "{}: byte {at} of d0 was changed and not noticed", golden.case);
        }
    }
}

#[test]
fn damage_under_a_right_checksum_never_panics() {
    let seed = 0x0d15_ea5e;
    let mut random = Random(seed);
    let originals: Vec<Vec<u8>> = array(Level::Raid6, 5).iter().map(Superblock::encode).collect();
    let mut sound = 0;
    for round in 0..20_000 {
        let mut found = devices(&array(Level::Raid6, 5));
        for (one, original) in found.iter_mut().zip(&originals) {
            let at = random.below(264);
            let bits = random.next().to_le_bytes();
            one.superblock = Superblock::parse(&patched(original, &[(at, &bits[..1])]), V2, DEVICE);
            if let Ok(superblock) = &mut one.superblock {
                sound += 1;
                exercise(superblock, &mut random);
            }
        }
        let force = random.below(2) == 0;
        if let Ok(assembly) = assemble(&found, AssembleOptions { force, array: None }) {
            assert!(assembly.degraded <= 2, "seed {seed:#x}, round {round}");
            assert!(unsupported(&assembly.superblock).is_none(), "seed {seed:#x}, round {round}");
        }
    }
    assert!(sound > 10_000, "most changes are harmless or only make another superblock: {sound}");
}

/// Whatever was accepted can be described, changed and read again.
fn exercise(superblock: &mut Superblock, random: &mut Random) {
    let before = superblock.describe();
    assert!(before.array_sectors <= u64::MAX / SECTOR);
    assert_eq!(before.array_state.len(), usize::from(before.raid_disks));
    superblock.add_corrected_reads(random.next() as u32);
    superblock.set_events(random.next());
    let _ = superblock.set_role(random.next() as u32 % 2000, DevRole::Spare);
    let bytes = superblock.encode();
    assert_eq!(bytes.len() % 512, 0);
    assert_eq!(oracle_checksum(&bytes), superblock.checksum());
    assert_eq!(Superblock::parse(&bytes, V2, DEVICE).as_ref(), Ok(&*superblock));
    let _ = spare_superblock(superblock, random.next() % (2 * DEVICE), Uuid([3; 16]), 9, 1);
    let _ = unused_room(std::slice::from_ref(superblock));
}

#[test]
fn noise_and_short_reads_are_errors() {
    let mut random = Random(7);
    let good = array(Level::Raid5, 3)[0].encode();
    for len in 0..good.len() {
        let fault = Superblock::parse(&good[..len], V2, DEVICE).expect_err("cut short").fault();
        assert_eq!(fault, if len < 4 { Fault::Absent } else { Fault::Damaged }, "{len} bytes");
    }
    for _ in 0..2_000 {
        let mut noise: Vec<u8> = (0..512).flat_map(|_| random.next().to_le_bytes()).collect();
        assert_eq!(Superblock::parse(&noise, V2, DEVICE), Err(SuperblockError::NoMagic));
        noise[..8].copy_from_slice(&good[..8]);
        noise[222..224].fill(0);
        assert!(Superblock::parse(&noise, V2, DEVICE).is_err());
        let sectors = random.next() >> random.below(64);
        assert!(candidates(sectors).iter().all(|at| at.sector + 8 <= sectors));
    }
}

#[test]
fn a_name_tells_no_terminal_what_to_do() {
    let named = |name: &[u8; 8]| {
        let superblock = altered(&array(Level::Raid5, 3)[0], &[(32, name)]);
        superblock.expect("any name is a name").name()
    };
    assert_eq!(named(b"tank\0\0\0\0"), "tank");
    assert_eq!(named(b"\x1b[2Jt\n\xff\x7f"), "\u{fffd}[2Jt\u{fffd}\u{fffd}\u{fffd}");
}

#[test]
fn each_check_has_its_own_error() {
    let good = array(Level::Raid5, 4)[1].encode();
    let parse = |patches: &[(usize, &[u8])]| Superblock::parse(&patched(&good, patches), V2, DEVICE);
    let error = |patches: &[(usize, &[u8])]| parse(patches).expect_err("a damaged superblock");
    assert_eq!(error(&[(0, &[0])]), SuperblockError::NoMagic);
    assert_eq!(error(&[(4, &[0])]), SuperblockError::Version(0));
    assert_eq!(error(&[(220, &[0x81, 7])]), SuperblockError::TableTooLong(1921));
    assert_eq!(error(&[(144, &[16])]), SuperblockError::Misplaced { found: 8, says: 16 });
    assert_eq!(error(&[(9, &[0x80])]), SuperblockError::UnknownFeatures(0x8000));
    assert_eq!(error(&[(136, &9_u64.to_le_bytes())]), SuperblockError::DataSize(9));
    assert_eq!(error(&[(12, &[1])]), SuperblockError::Padding);
    assert_eq!(error(&[(228, &[1])]), SuperblockError::Padding);
    assert_eq!(error(&[(224, &[1])]), SuperblockError::Padding);
    assert!(matches!(error(&[(128, &8_u64.to_le_bytes())]), SuperblockError::Overlap { data_offset: 8, .. }));
    assert!(matches!(error(&[(8, &[64]), (124, &[0; 3]), (127, &[0x80])]), SuperblockError::Overlap { .. }));
    let log = error(&[(8, &[8]), (186, &[9])]);
    assert!(matches!(log, SuperblockError::BadBlockLog { sectors: 9, .. }));
    assert!(matches!(error(&[(8, &[8]), (188, &[0; 4])]), SuperblockError::BadBlockLog { offset: 0, .. }));
    assert!(matches!(error(&[(8, &[8]), (185, &[64])]), SuperblockError::BadBlockLog { .. }));
    assert_eq!(error(&[(9, &[16])]), SuperblockError::Raid0Feature);
    assert!(matches!(error(&[(142, &[1])]), SuperblockError::DeviceTooSmall { .. }));
    assert!(matches!(error(&[(128, &[0xff; 8])]), SuperblockError::DeviceTooSmall { .. }));
    assert_eq!(error(&[(72, &[1])]), SuperblockError::Level(1));
    assert_eq!(error(&[(76, &[6])]), SuperblockError::Layout { level: 5, layout: 6 });
    assert_eq!(error(&[(88, &[4])]), SuperblockError::Chunk(4));
    assert_eq!(error(&[(88, &[129])]), SuperblockError::Chunk(129));
    assert_eq!(error(&[(92, &[1])]), SuperblockError::RaidDisks { level: 5, raid_disks: 1 });
    assert_eq!(error(&[(80, &[0; 8])]), SuperblockError::Size { size: 0, chunk_sectors: 128 });
    assert!(matches!(error(&[(87, &[0xff])]), SuperblockError::Size { .. }));
    let tiny = Superblock::parse(&good, V2, 23).expect_err("no room");
    assert_eq!(tiny, SuperblockError::NoRoom { device_sectors: 23 });
    // The logical block size that newer kernels record is kept.
    let newer = parse(&[(224, &512_u32.to_le_bytes())]).expect("Linux 6.19 writes this");
    assert_eq!(newer.logical_block_size(), Some(512));
    assert_eq!(newer.encode()[224..228], [0, 2, 0, 0]);
}

#[test]
fn areas_that_overlap_are_caught_in_every_version() {
    let mut long = array(Level::Raid5, 3).remove(0);
    long.set_role(1919, DevRole::Spare).expect("room before the data");
    let with_data_at = |sector: u64| {
        Superblock::parse(&patched(&long.encode(), &[(128, &sector.to_le_bytes())]), V2, DEVICE)
    };
    assert!(matches!(with_data_at(15), Err(SuperblockError::Overlap { .. })));
    assert_eq!(with_data_at(16).expect("just behind it").data_offset(), 16);

    let golden = &crate::common::case("r5_n3_ls_c64k_meta10")[0];
    let (at, sectors) = (golden.location(), golden.number("device_sectors"));
    let parse = |field: usize, value: u64| {
        Superblock::parse(&patched(&golden.bytes, &[(field, &value.to_le_bytes())]), at, sectors)
    };
    let size = golden.number("size_sectors");
    assert!(parse(128, at.sector - size).is_ok());
    assert!(matches!(parse(128, at.sector - size + 1), Err(SuperblockError::Overlap { .. })));
    assert!(parse(136, at.sector).is_ok());
    let needed = at.sector + 1;
    assert!(
        matches!(parse(136, needed), Err(SuperblockError::DeviceTooSmall { needed: n, .. }) if n == needed)
    );
}
