//! Where things beside the superblock are, and superblocks that put them where they cannot be.
use crate::common::*;
use md_format::*;

/// The areas of the first member of a kernel-made array.
fn areas_of(name: &str) -> Vec<(AreaKind, u64, usize)> {
    let superblock = case(name)[0].parse().expect("sound");
    superblock.areas().iter().map(|a| (a.kind, a.sector, a.bytes)).collect()
}

#[test]
fn areas_of_kernel_made_arrays_are_where_mdadm_puts_them() {
    // Behind the superblock at 8: the bitmap up to the bad-block log, 8 sectors; or 1 MiB of partial parity log.
    assert_eq!(areas_of("r6_n4_ls_c64k_bitmap"), [(AreaKind::Bitmap, 16, 4096)]);
    assert_eq!(areas_of("r5_n4_ls_c64k_ppl_clean"), [(AreaKind::Ppl, 16, 1 << 20)]);
    assert_eq!(areas_of("r5_n3_left_symmetric_c4k"), []);
    let with_log = case("r5_n4_ls_c64k_badblocks");
    let areas: Vec<Vec<Area>> = with_log.iter().map(|one| one.parse().expect("sound").areas()).collect();
    assert!(areas.iter().flatten().all(|a| a.kind == AreaKind::BadBlocks && a.bytes == 4096), "{areas:?}");
    assert!(areas.iter().any(|areas| areas.len() == 1), "{areas:?}");
}

#[test]
fn areas_that_meet_something_else_are_damage() {
    let sound = array(Level::Raid5, 3)[0].encode();
    let with = |bits: u32, offset: i32, log: i32| {
        let mut bytes = sound.clone();
        bytes[8..12].copy_from_slice(&bits.to_le_bytes());
        bytes[96..100].copy_from_slice(&offset.to_le_bytes());
        bytes[188..192].copy_from_slice(&log.to_le_bytes());
        let checksum = oracle_checksum(&bytes);
        bytes[216..220].copy_from_slice(&checksum.to_le_bytes());
        Superblock::parse(&bytes, V2, DEVICE)
    };
    let data = i32::try_from(array(Level::Raid5, 3)[0].data_offset()).expect("small");
    assert!(with(1, 8, 16).is_ok());
    for (bits, offset, log, kind) in [
        (1, 0, 16, AreaKind::Bitmap),
        (1, -8, 16, AreaKind::Bitmap),
        (1, i32::MIN, 16, AreaKind::Bitmap),
        (1, data - 8, 16, AreaKind::Bitmap),
        (1 | 8, 16, 16, AreaKind::BadBlocks),
        (8, 0, data - 15, AreaKind::BadBlocks),
        (8, 0, -8, AreaKind::BadBlocks),
        (1024, 8, 16, AreaKind::Ppl),
        (2048, 8 | 30_000 << 16, 16, AreaKind::Ppl),
    ] {
        let found = with(bits, offset, log);
        let named = matches!(&found, Err(SuperblockError::Area { kind: k, .. }) if *k == kind);
        assert!(named, "bits {bits} at {offset}, log at {log}: {found:?}");
    }
}
