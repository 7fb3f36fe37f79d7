//! The write-intent bitmap: new ones as mdadm makes them, bits against a plain list, and damage.
use md_format::*;

/// The superblock of a member that uses `mib` MiB, with room for a bitmap.
fn with_bitmap(mib: u64, chunk_bytes: Option<u64>) -> Result<Superblock, CreateError> {
    let sectors = mib * 2048 + 300_000;
    let uuids = [1, 2, 3].map(|n| Uuid([n; 16]));
    let params = CreateParams {
        level: Level::Raid5,
        layout: Layout::LeftSymmetric,
        chunk_sectors: 128,
        name: "pool",
        members: &[sectors; 3],
        size_sectors: Some(mib * 2048),
        set_uuid: Uuid([0xa5; 16]),
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: true,
        minor: Minor::V2,
        bitmap: IntentBitmap::Internal { chunk_bytes },
        ppl: false,
    };
    Ok(plan_create(&params)?.swap_remove(0))
}

#[test]
fn regions_of_a_new_bitmap_are_as_large_as_mdadm_has_them() {
    // md-bitmap of 32 MiB members: one bit. A member of 1 GiB takes regions of 64 KiB and not of 4 KiB.
    for (mib, chunk, region, regions, log) in [
        (32, None, 64 << 20, 1, 16),
        (1024, None, 64 << 20, 16, 16),
        (1024, Some(65536), 65536, 16384, 16),
        (20 << 10, None, 64 << 20, 320, 16),
        (20 << 10, Some(1 << 20), 1 << 20, 20480, 16),
    ] {
        let superblock = with_bitmap(mib, chunk).expect("possible");
        let bitmap = Bitmap::create(&superblock, chunk).expect("possible");
        assert_eq!((bitmap.chunk_bytes(), bitmap.regions()), (region, regions), "{mib} MiB");
        assert_eq!(bitmap.set_regions().count() as u64, regions);
        assert_eq!(superblock.bad_block_log().map(|log| log.offset), Some(log), "{mib} MiB");
        assert_eq!((bitmap.daemon_sleep(), bitmap.events(), bitmap.events_cleared()), (5, 1, 0));
    }
    let refused = |mib, chunk| with_bitmap(mib, Some(chunk)).expect_err("impossible").to_string();
    assert!(refused(1024, 4096).contains("the smallest is"), "{}", refused(1024, 4096));
    assert!(refused(1024, 3 << 16).contains("power of two"), "{}", refused(1024, 3 << 16));
    assert!(refused(1024, 1 << 40).contains("power of two"), "{}", refused(1024, 1 << 40));
}

#[test]
fn bits_are_where_a_plain_list_says() {
    let superblock = with_bitmap(900, Some(65536)).expect("possible");
    let mut bitmap = Bitmap::create(&superblock, Some(65536)).expect("possible");
    let mut plain = vec![true; bitmap.regions() as usize];
    let mut random = 7_u64;
    for _ in 0..20_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let region = (random >> 33) % (bitmap.regions() + 9);
        let set = random >> 20 & 15 == 0;
        bitmap.put_bit(region, set);
        if let Some(bit) = plain.get_mut(region as usize) {
            *bit = set;
        }
    }
    let expected: Vec<u64> = (0..).zip(&plain).filter(|(_, set)| **set).map(|(n, _)| n).collect();
    assert_eq!(bitmap.set_regions().collect::<Vec<_>>(), expected);
    assert!(!bitmap.is_set(bitmap.regions()) && bitmap.next_set(bitmap.regions()).is_none());
    // Its pages are its bytes: what they make is read again as it was.
    let mut bytes = Vec::new();
    for page in 0..bitmap.pages() {
        let (at, part) = bitmap.page(page);
        assert_eq!((at, part.len() % 512), (bytes.len() as u64, 0));
        bytes.extend(part);
    }
    assert_eq!(Bitmap::parse(&bytes, &superblock), Ok(bitmap.clone()));
    for region in expected {
        let at = 256 + region as usize / 8;
        assert_eq!(bitmap.page_of(region), at / 4096);
        assert!(bytes[at] >> (region % 8) & 1 == 1);
    }
    // Bits beyond the last region are not bits.
    *bytes.last_mut().expect("not empty") = 0xff;
    let again = Bitmap::parse(&bytes, &superblock).expect("sound");
    assert!(again.set_regions().all(|region| region < again.regions()));
}

#[test]
fn damage_has_its_own_error() {
    let superblock = with_bitmap(100, None).expect("possible");
    let bitmap = Bitmap::create(&superblock, None).expect("possible");
    let sound = bitmap.page(0).1.to_vec();
    let damaged = |at: usize, value: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        Bitmap::parse(&bytes, &superblock).expect_err("damaged")
    };
    assert_eq!(damaged(0, &[0]), BitmapError::NoMagic);
    assert_eq!(damaged(4, &[5]), BitmapError::Version(5));
    assert_eq!(damaged(4, &[6]), BitmapError::Version(6));
    // What another program may need is not to be taken away on our word.
    let removes = |error: BitmapError| error.advice().contains("--update=no-bitmap");
    assert!(
        !removes(BitmapError::Version(5)) && !removes(BitmapError::Version(6)) && removes(damaged(0, &[0]))
    );
    assert!(matches!(damaged(8, &[0]), BitmapError::Foreign(_)));
    assert_eq!(damaged(52, &[1]), BitmapError::Chunk((64 << 20) + 1));
    assert_eq!(damaged(52, &[0, 1, 0, 0]), BitmapError::Chunk(256));
    assert_eq!(damaged(52, &[0; 4]), BitmapError::Chunk(0));
    assert_eq!(damaged(52, &[0, 2, 0, 0]), BitmapError::Truncated { got: 4096, need: 256 + 204_800 / 8 });
    assert_eq!(damaged(56, &[0; 4]), BitmapError::DaemonSleep(0));
    for len in [0, 1, 255, 256] {
        assert!(matches!(Bitmap::parse(&sound[..len], &superblock), Err(BitmapError::Truncated { .. })));
    }
}
