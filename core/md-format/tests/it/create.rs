//! New superblocks: where things lie, what is refused, and how a device joins.

use crate::common::{DEVICE, altered, array, case, devices};
use md_format::*;

const MIB: u64 = 2048;
const GIB: u64 = 1024 * MIB;

fn uuids(count: usize) -> Vec<Uuid> {
    (0..count).map(|n| Uuid([n as u8 + 1; 16])).collect()
}

fn params<'a>(members: &'a [u64], uuids: &'a [Uuid]) -> CreateParams<'a> {
    CreateParams {
        level: Level::Raid5,
        layout: Layout::LeftSymmetric,
        chunk_sectors: 1024,
        name: "pool",
        members,
        size_sectors: None,
        set_uuid: Uuid([9; 16]),
        device_uuids: uuids,
        now: 1_800_000_000,
        clean: false,
        minor: Minor::V2,
        bitmap: IntentBitmap::None,
        ppl: false,
    }
}

#[test]
fn the_data_offset_is_the_one_that_mdadm_takes() {
    // Device, chunk in KiB, data offset: all as mdadm 4.2 chose them.
    let table = [
        (12 * MIB, 512, 4096),
        (GIB, 512, 4096),
        (32 * MIB, 64, 2048),
        (GIB, 64, 4096),
        (4 * GIB, 512, 10_240),
        (9 * GIB, 512, 18_432),
        (50 * GIB, 512, 67_584),
        (100 * GIB, 512, 133_120),
        (150 * GIB, 512, 264_192),
        (150 * GIB, 64, 264_192),
    ];
    for (device, chunk_kib, data_offset) in table {
        let members = [device; 3];
        let uuids = uuids(3);
        let params = CreateParams { chunk_sectors: chunk_kib * 2, ..params(&members, &uuids) };
        let made = plan_create(&params).expect("possible");
        let what = format!("{} MiB, {chunk_kib} KiB", device / MIB);
        assert_eq!(made[0].data_offset(), data_offset, "{what}");
        assert_eq!(made[0].data_size(), device - data_offset, "{what}");
        let log = made[0].bad_block_log().expect("a log");
        let expected = if made[0].size_sectors() > 8 * GIB { 136 } else { 16 };
        assert_eq!((log.offset, log.sectors, log.shift), (expected, 8, 0), "{what}");
    }
}

/// A bitmap, and whether there is a partial parity log.
type Beside = (IntentBitmap, bool);

/// Without anything beside the superblock, with a bitmap, with a partial parity log.
const NONE: Beside = (IntentBitmap::None, false);
const BITS: Beside = (IntentBitmap::Internal { chunk_bytes: None }, false);
const PPL: Beside = (IntentBitmap::None, true);

/// A row of the table of what mdadm chooses; the columns are named where the table is.
type Row = (u64, Minor, u32, Beside, u64, u64, u64, i32, i32);

#[test]
#[rustfmt::skip]
fn everything_lies_where_mdadm_puts_it() {
    // Sectors of the device, version, chunk in KiB, what is beside the superblock; then as mdadm 4.2 chose it: size,
    // data offset, data size, offset of the bitmap or the log of parity (0 for none), offset of the bad-block log.
    let table: [Row; 45] = [
        (12 * MIB, Minor::V0, 64, NONE, 24_448, 0, 24_544, 0, -8),
        (12 * MIB, Minor::V0, 512, BITS, 23_552, 0, 24_544, -16, -8),
        (12 * MIB, Minor::V0, 512, PPL, 21_504, 0, 22_504, -2056, -8),
        (12 * MIB, Minor::V1, 64, NONE, 22_528, 2048, 22_528, 0, 16),
        (12 * MIB, Minor::V1, 512, BITS, 20_480, 4096, 20_480, 8, 16),
        (12 * MIB, Minor::V1, 512, PPL, 18_432, 6144, 18_432, 8, 2056),
        (12 * MIB, Minor::V2, 64, NONE, 22_528, 2048, 22_528, 0, 16),
        (12 * MIB, Minor::V2, 512, BITS, 20_480, 4096, 20_480, 8, 16),
        (12 * MIB, Minor::V2, 512, PPL, 18_432, 6144, 18_432, 8, 2056),
        (33 * MIB + 7, Minor::V0, 64, NONE, 67_456, 0, 67_552, 0, -8),
        (33 * MIB + 7, Minor::V0, 512, BITS, 66_560, 0, 67_552, -16, -8),
        (33 * MIB + 7, Minor::V0, 512, PPL, 64_512, 0, 65_512, -2056, -8),
        (33 * MIB + 7, Minor::V1, 64, NONE, 65_536, 2048, 65_543, 0, 16),
        (33 * MIB + 7, Minor::V1, 512, BITS, 63_488, 4096, 63_495, 8, 16),
        (33 * MIB + 7, Minor::V1, 512, PPL, 61_440, 6144, 61_447, 8, 2056),
        (33 * MIB + 7, Minor::V2, 64, NONE, 65_536, 2048, 65_543, 0, 16),
        (33 * MIB + 7, Minor::V2, 512, BITS, 63_488, 4096, 63_495, 8, 16),
        (33 * MIB + 7, Minor::V2, 512, PPL, 61_440, 6144, 61_447, 8, 2056),
        (GIB, Minor::V0, 64, NONE, 2_097_024, 0, 2_097_120, 0, -8),
        (GIB, Minor::V0, 512, BITS, 2_096_128, 0, 2_097_120, -16, -8),
        (GIB, Minor::V0, 512, PPL, 2_094_080, 0, 2_095_080, -2056, -8),
        (GIB, Minor::V1, 64, NONE, 2_093_056, 4096, 2_093_056, 0, 16),
        (GIB, Minor::V1, 512, BITS, 2_093_056, 4096, 2_093_056, 8, 16),
        (GIB, Minor::V1, 512, PPL, 2_091_008, 6144, 2_091_008, 8, 2056),
        (GIB, Minor::V2, 64, NONE, 2_093_056, 4096, 2_093_056, 0, 16),
        (GIB, Minor::V2, 512, BITS, 2_093_056, 4096, 2_093_056, 8, 16),
        (GIB, Minor::V2, 512, PPL, 2_091_008, 6144, 2_091_008, 8, 2056),
        (9 * GIB + 24, Minor::V0, 64, NONE, 18_874_240, 0, 18_874_240, 0, -8),
        (9 * GIB + 24, Minor::V0, 512, BITS, 18_873_344, 0, 18_874_360, -16, -8),
        (9 * GIB + 24, Minor::V0, 512, PPL, 18_872_320, 0, 18_872_320, -2056, -8),
        (9 * GIB + 24, Minor::V1, 64, NONE, 18_855_936, 18_432, 18_855_960, 0, 136),
        (9 * GIB + 24, Minor::V1, 512, BITS, 18_855_936, 18_432, 18_855_960, 8, 16),
        (9 * GIB + 24, Minor::V1, 512, PPL, 18_853_888, 20_480, 18_853_912, 8, 2056),
        (9 * GIB + 24, Minor::V2, 64, NONE, 18_855_936, 18_432, 18_855_960, 0, 136),
        (9 * GIB + 24, Minor::V2, 512, BITS, 18_855_936, 18_432, 18_855_960, 8, 16),
        (9 * GIB + 24, Minor::V2, 512, PPL, 18_853_888, 20_480, 18_853_912, 8, 2056),
        (250 * GIB, Minor::V0, 64, NONE, 524_287_616, 0, 524_287_720, 0, -8),
        (250 * GIB, Minor::V0, 512, BITS, 524_286_976, 0, 524_287_968, -16, -8),
        (250 * GIB, Minor::V0, 512, PPL, 524_284_928, 0, 524_285_928, -2056, -8),
        (250 * GIB, Minor::V1, 64, NONE, 524_023_808, 264_192, 524_023_808, 0, 264),
        (250 * GIB, Minor::V1, 512, BITS, 524_023_808, 264_192, 524_023_808, 8, 16),
        (250 * GIB, Minor::V1, 512, PPL, 524_021_760, 266_240, 524_021_760, 8, 2056),
        (250 * GIB, Minor::V2, 64, NONE, 524_023_808, 264_192, 524_023_808, 0, 264),
        (250 * GIB, Minor::V2, 512, BITS, 524_023_808, 264_192, 524_023_808, 8, 16),
        (250 * GIB, Minor::V2, 512, PPL, 524_021_760, 266_240, 524_021_760, 8, 2056),
    ];
    for (device, minor, chunk_kib, (bitmap, ppl), size, data_offset, data_size, first, log) in table {
        let what = format!("{device} sectors, {minor}, {chunk_kib} KiB, {bitmap:?}, {ppl}");
        let (members, uuids) = ([device; 3], uuids(3));
        let params = CreateParams { chunk_sectors: chunk_kib * 2, minor, bitmap, ppl, ..params(&members, &uuids) };
        let made = plan_create(&params).unwrap_or_else(|error| panic!("{what}: {error}"));
        let [one, ..] = &made[..] else { panic!("{what}: no member") };
        let places = (one.size_sectors(), one.data_offset(), one.data_size());
        assert_eq!(places, (size, data_offset, data_size), "{what}");
        assert_eq!(one.bad_block_log().map(|log| (log.offset, log.sectors)), Some((log, 8)), "{what}");
        let at = |area: &Area| area.sector as i64 - one.super_offset() as i64;
        assert_eq!(one.areas().iter().map(at).collect::<Vec<_>>(), Vec::from_iter((first != 0).then_some(i64::from(first))), "{what}");
        assert_eq!(one.minor(), minor, "{what}");
    }
}

#[test]
fn what_md_made_is_made_again() {
    let goldens = case("r6_n5_left_symmetric_c4k");
    let old: Vec<Superblock> = goldens.iter().map(|one| one.parse().expect("sound")).collect();
    let sizes: Vec<u64> = goldens.iter().map(|one| one.number("device_sectors")).collect();
    let device_uuids: Vec<Uuid> = old.iter().map(Superblock::device_uuid).collect();
    let params = CreateParams {
        level: Level::Raid6,
        layout: Layout::LeftSymmetric,
        chunk_sectors: 8,
        name: &old[0].name(),
        members: &sizes,
        size_sectors: Some(old[0].size_sectors()),
        set_uuid: old[0].set_uuid(),
        device_uuids: &device_uuids,
        now: old[0].ctime(),
        clean: true,
        minor: Minor::V2,
        bitmap: IntentBitmap::None,
        ppl: false,
    };
    let mut made = plan_create(&params).expect("possible");
    for ((new, old), golden) in made.iter_mut().zip(&old).zip(&goldens) {
        // What the array wrote since then.
        new.set_events(old.events());
        new.set_utime(old.utime());
        assert_eq!(new.encode(), golden.bytes, "{}", golden.text("member"));
    }
}

#[test]
fn a_new_array_starts_with_a_resync_unless_it_is_clean() {
    let members = [DEVICE; 4];
    let uuids = uuids(4);
    for clean in [false, true] {
        let made = plan_create(&CreateParams { clean, ..params(&members, &uuids) }).expect("possible");
        let assembly = assemble(&devices(&made), AssembleOptions::default()).expect("complete");
        assert_eq!(assembly.dirty, !clean);
        assert_eq!(assembly.resync_offset, if clean { CLEAN } else { 0 });
        assert_eq!(assembly.superblock.short_name(), "pool");
    }
}

#[test]
fn the_smallest_member_sets_the_size_of_all() {
    let members = [DEVICE, DEVICE - 5000, 2 * DEVICE];
    let uuids = uuids(3);
    let made = plan_create(&params(&members, &uuids)).expect("possible");
    let size = (DEVICE - 5000 - made[0].data_offset()) / 1024 * 1024;
    assert!(made.iter().all(|one| one.size_sectors() == size));
    assert_eq!(made[0].array_sectors(), 2 * size);
    let rooms: Vec<usize> = unused_room(&made).iter().map(|room| room.index).collect();
    assert_eq!(rooms, [0, 2]);
}

#[test]
fn impossible_arrays_are_refused_with_the_reason() {
    let sizes = [DEVICE; 4];
    let ids = uuids(4);
    let refused = |change: &dyn Fn(&mut CreateParams<'_>)| {
        let mut params = params(&sizes, &ids);
        change(&mut params);
        plan_create(&params).expect_err("impossible").to_string()
    };
    let count = refused(&|p| p.members = &[DEVICE; 2]);
    assert_eq!(count, "raid5 needs 3 to 1920 members, 2 were named");
    let count = refused(&|p| {
        p.level = Level::Raid6;
        p.members = &[DEVICE; 3];
    });
    assert_eq!(count, "raid6 needs 4 to 255 members, 3 were named");
    assert!(refused(&|p| p.layout = Layout::DdfNContinue).contains("ddf-N-continue does not exist on raid5"));
    for chunk in [0, 4, 9, 65_536] {
        assert!(
            refused(&|p| p.chunk_sectors = chunk).contains("power of two from 4 KiB to 16 MiB"),
            "{chunk}"
        );
    }
    for name in ["", "a/b", "a\nb", "123456789012345678901234567890123"] {
        assert!(refused(&|p| p.name = name).contains("the name"), "{name}");
    }
    assert!(refused(&|p| p.device_uuids = &[Uuid([1; 16]); 4]).contains("no two alike"));
    assert!(refused(&|p| p.device_uuids = &[]).contains("one device UUID a member"));
    assert!(refused(&|p| p.size_sectors = Some(1000)).contains("less than the chunk"));
    assert!(refused(&|p| p.size_sectors = Some(u64::MAX)).contains("too large"));
    let small = plan_create(&params(&[DEVICE, DEVICE, 4096, DEVICE], &ids)).expect_err("one is too small");
    assert_eq!(small, CreateError::MemberTooSmall { index: 2, device_sectors: 4096, needed: 4096 + 1024 });
    let huge = plan_create(&params(&[u64::MAX; 4], &ids)).expect_err("no such device");
    assert!(huge.to_string().contains("not possible"), "{huge}");
}

#[test]
fn a_device_joins_as_a_spare_with_the_arrays_fields() {
    let mut all = array(Level::Raid5, 3);
    all[0].set_recovery_offset(Some(5));
    all[0].add_corrected_reads(3);
    let number = free_dev_number(&all[0], &[3]).expect("the table has room");
    assert_eq!(number, 4);
    let spare = spare_superblock(&all[0], DEVICE + 1000, Uuid([42; 16]), number, 99).expect("large enough");
    assert_eq!((spare.role(), spare.dev_number(), spare.device_uuid()), (DevRole::Spare, 4, Uuid([42; 16])));
    assert_eq!((spare.events(), spare.set_uuid()), (all[0].events(), all[0].set_uuid()));
    assert_eq!(spare.data_offset(), all[0].data_offset());
    assert_eq!(spare.data_size(), DEVICE + 1000 - all[0].data_offset());
    assert_eq!((spare.recovery_offset(), spare.corrected_reads(), spare.utime()), (None, 0, 99));
    let needed = all[0].data_offset() + all[0].size_sectors();
    let small = spare_superblock(&all[0], needed - 1, Uuid([42; 16]), 4, 99);
    assert_eq!(small, Err(SpareError::TooSmall { device_sectors: needed - 1, needed }));
    let marked = altered(&all[0], &[(8, &[8 | 16 | 2]), (184, &[1])]).expect("sound");
    let spare = spare_superblock(&marked, DEVICE, Uuid([42; 16]), 4, 99).expect("large enough");
    assert_eq!((spare.features(), spare.encode()[184]), (Features::NONE, 0));
    let taken = spare_superblock(&all[0], DEVICE, Uuid([42; 16]), 2, 99);
    assert_eq!(taken, Err(SpareError::DevNumber(2)));
    let beyond = spare_superblock(&all[0], DEVICE, Uuid([42; 16]), 1920, 99);
    assert_eq!(beyond, Err(SpareError::DevNumber(1920)));
}

#[test]
fn a_spare_of_every_metadata_version_passes_the_checks() {
    for name in ["r5_n3_ls_c64k_meta10", "r5_n3_ls_c64k_meta11_bitmap", "r5_n3_ls_c64k_default"] {
        let golden = &case(name)[0];
        let array = golden.parse().expect("sound");
        for extra in 0..40 {
            let sectors = golden.number("device_sectors") + 64 + extra;
            let spare = spare_superblock(&array, sectors, Uuid([5; 16]), 7, 1).expect("large enough");
            let location = spare.location();
            assert!(candidates(sectors).contains(&location), "{name} + {extra}");
            assert_eq!(Superblock::parse(&spare.encode(), location, sectors).as_ref(), Ok(&spare));
            assert!(spare.data_size() >= array.size_sectors(), "{name} + {extra}");
        }
    }
}

#[test]
fn the_role_table_grows_by_sectors() {
    let mut superblock = array(Level::Raid5, 3).remove(0);
    assert_eq!((superblock.max_dev(), superblock.encode().len()), (128, 512));
    superblock.set_role(128, DevRole::Active(2)).expect("there is room before the data");
    assert_eq!((superblock.max_dev(), superblock.encode().len()), (384, 1024));
    superblock.set_role(1919, DevRole::Faulty).expect("the last entry");
    assert_eq!((superblock.max_dev(), superblock.encode().len()), (1920, READ_BYTES));
    assert_eq!(superblock.role_of(128), DevRole::Active(2));
    assert_eq!(superblock.set_role(1920, DevRole::Spare), Err(RoleTableFull { dev_number: 1920 }));
    let mut tight = altered(&array(Level::Raid5, 3)[0], &[(128, &[9, 0])]).expect("data right behind it");
    assert_eq!(tight.set_role(128, DevRole::Spare), Err(RoleTableFull { dev_number: 128 }));
}

#[test]
fn only_whole_chunks_count() {
    let whole = array(Level::Raid6, 5).remove(0);
    let size = whole.size_sectors() - 1;
    let less = altered(&whole, &[(80, &size.to_le_bytes())]).expect("md allows this");
    assert_eq!(less.array_sectors(), 3 * (whole.size_sectors() - 128));
    assert_eq!(whole.array_sectors(), 3 * whole.size_sectors());
}

#[test]
fn layouts_have_md_numbers_and_names() {
    let numbers = |level| Layout::all(level).into_iter().map(Layout::number).collect::<Vec<_>>();
    assert_eq!(numbers(Level::Raid4), [0]);
    assert_eq!(numbers(Level::Raid5), [0, 1, 2, 3, 4, 5]);
    assert_eq!(numbers(Level::Raid6), [0, 1, 2, 3, 4, 5, 8, 9, 10, 16, 17, 18, 19, 20]);
    for level in [Level::Raid4, Level::Raid5, Level::Raid6] {
        for layout in Layout::all(level) {
            assert_eq!(Layout::from_number(level, layout.number()), Some(layout));
            assert_eq!(Layout::from_name(level, layout.name()), Some(layout));
        }
    }
    assert_eq!(Layout::from_name(Level::Raid5, "parity-first-6"), None);
    assert_eq!("a5a5a5a5:a5a5a5a5:a5a5a5a5:a5a5a5a5".parse(), Ok(Uuid([0xa5; 16])));
    assert_eq!("a5".parse::<Uuid>(), Err(UuidError));
}
