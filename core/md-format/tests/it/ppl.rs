//! The partial parity log: what is written is read again, the newest of several logs is found, nothing that
//! does not check out is believed, and a dirty array without a member starts only with a sound log.
use crate::common::*;
use md_format::*;

const ARRAY: Uuid = Uuid([0xa5; 16]);

fn with_ppl(members: usize) -> Vec<Superblock> {
    let uuids: Vec<Uuid> = (1..=members).map(|n| Uuid([n as u8; 16])).collect();
    let params = CreateParams {
        level: Level::Raid5,
        layout: Layout::LeftSymmetric,
        chunk_sectors: 128,
        name: "pool",
        members: &vec![DEVICE; members],
        size_sectors: None,
        set_uuid: ARRAY,
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: true,
        minor: Minor::V2,
        bitmap: IntentBitmap::None,
        ppl: true,
    };
    plan_create(&params).expect("a plain array")
}

fn entry(data_sector: u64, pp_bytes: u32, data_bytes: u32) -> PplEntry {
    PplEntry { data_sector, pp_bytes, data_bytes, parity_role: 2, checksum: 0 }
}

/// A log with partial parity that a seed makes.
fn log(generation: u64, entries: &[PplEntry], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut header = PplHeader { generation, entries: entries.to_vec() };
    let mut bytes: Vec<u8> = (0..header.log_bytes()).map(|_| random.next() as u8).collect();
    seal_log(&mut header, ARRAY, &mut bytes);
    bytes
}

fn area(logs: &[Vec<u8>]) -> Vec<u8> {
    let mut area = logs.concat();
    area.resize(1 << 20, 0);
    area
}

#[test]
fn a_new_array_has_its_log_where_mdadm_has_it() {
    let superblock = &with_ppl(3)[0];
    assert_eq!(superblock.features(), Features::MULTIPLE_PPLS);
    let want = PplArea { offset: 16 * 512, bytes: 1 << 20, log_space: 128 << 10, several: true };
    assert_eq!(superblock.ppl_area(), Some(want));
    assert_eq!(superblock.bad_block_log().map(|log| log.offset), Some(2056));
    // 24 + 2048 + headroom of 1024 sectors for 64 MiB, as a whole MiB.
    assert_eq!(superblock.data_offset(), 4096);
    assert!(array(Level::Raid5, 3)[0].ppl_area().is_none());
}

#[test]
fn what_is_written_is_read_again() {
    let entries = [entry(64, 8192, 16384), entry(1 << 40, 0, 65536), entry(0, 4096, 4096)];
    let bytes = log(7, &entries, 1);
    let (at, header) = newest_log(&area(std::slice::from_ref(&bytes)), ARRAY).expect("a log");
    assert_eq!((at, header.generation, header.entries.len()), (0, 7, 3));
    let mut from = PPL_HEADER_BYTES;
    for (read, wrote) in header.entries.iter().zip(&entries) {
        assert_eq!(PplEntry { checksum: 0, ..*read }, *wrote);
        let end = from + read.pp_bytes as usize;
        assert!(read.matches(&bytes[from..end]));
        assert!(read.pp_bytes == 0 || !read.matches(&bytes[from + 1..end]));
        let mut other = bytes[from..end].to_vec();
        if let Some(byte) = other.last_mut() {
            *byte ^= 1;
            assert!(!read.matches(&other));
        }
        from = end;
    }
    let empty = PplHeader::empty().encode(ARRAY);
    assert_eq!(empty.len(), PPL_HEADER_BYTES);
    assert_eq!(PplHeader::parse(&empty, ARRAY), Ok(PplHeader::empty()));
    assert!(empty[..512].iter().all(|&byte| byte == 0xff));
}

#[test]
fn the_newest_log_is_the_last_whose_count_does_not_go_down() {
    let one = |generation| log(generation, &[entry(0, 4096, 4096)], generation);
    let full = |generation| log(generation, &[entry(0, 0, 3 * 4096)], generation);
    let newest = |logs: &[Vec<u8>]| newest_log(&area(logs), ARRAY).expect("a log").1.generation;
    assert_eq!(newest(&[one(3), one(5), full(9), one(10)]), 10);
    assert_eq!(newest(&[one(11), one(5), full(9), one(10)]), 11, "the area was begun anew");
    assert_eq!(newest(&[full(3), full(3), one(2)]), 3);
    let mut torn = one(6);
    torn[600] ^= 1;
    assert_eq!(newest(&[one(3), torn.clone(), one(9)]), 3, "nothing behind half a log is believed");
    let found = newest_log(&area(&[torn, one(9)]), ARRAY);
    assert_eq!(found, Err(PplError::Checksum));
    assert!(matches!(newest_log(&[0; 8192], ARRAY), Err(PplError::Signature { found: 0, .. })));
    assert!(matches!(newest_log(&area(&[one(1)]), Uuid([1; 16])), Err(PplError::Signature { .. })));
    assert_eq!(newest_log(&one(1)[..4095], ARRAY), Err(PplError::Truncated));
    let mut many = PplHeader::empty().encode(ARRAY);
    many[528] = 149;
    many[532..536].fill(0);
    // Its checksum is made right by reading what is expected: damage of the count alone is noticed.
    assert_eq!(PplHeader::parse(&many, ARRAY), Err(PplError::Checksum));
}

#[test]
fn entries_that_are_no_part_of_a_row_are_none() {
    let chunk = 65536;
    let rows = |sector, pp, data| entry(sector, pp, data).rows(chunk, 3, 10);
    let all = |offset, strip_bytes, first_lane, lanes| {
        Some(PplRows { row: 1, offset, strip_bytes, first_lane, lanes })
    };
    assert_eq!(rows(384, 4096, 4096), all(0, 4096, 0, 1));
    assert_eq!(rows(384 + 128 + 8, 8192, 16384), all(4096, 8192, 1, 2));
    assert_eq!(rows(384, 0, 3 * 65536), all(0, 65536, 0, 3));
    assert_eq!(rows(384, 65536, 65536), all(0, 65536, 0, 1), "a whole chunk");
    for (sector, pp, data, why) in [
        (384, 4096, 0, "no data"),
        (384, 4096, 6000, "not whole blocks"),
        (384, 4096, 4 * 4096, "more lanes than there are"),
        (384 + 256, 4096, 2 * 4096, "lanes beyond the last"),
        (384 + 120, 8192, 8192, "beyond the end of the chunk"),
        (384 + 1, 4096, 4096, "not at a block"),
        (384 + 128, 0, 3 * 4096, "all lanes, but not from the first"),
        (3840, 4096, 4096, "beyond the last row"),
        (u64::MAX, 4096, 4096, "beyond everything"),
        (384, u32::MAX, u32::MAX, "far too much"),
    ] {
        assert_eq!(rows(sector, pp, data), None, "{why}");
    }
    let mut random = Random(5);
    for _ in 0..20_000 {
        let (sector, pp, data) =
            (random.next() >> random.below(64), random.next() as u32, random.next() as u32);
        let entry = entry(sector, pp >> random.below(32), data >> random.below(32));
        let lanes = random.below(63) as u16 + 2;
        if let Some(rows) = entry.rows(4096 << random.below(9), lanes, 1 << 20) {
            assert!(rows.first_lane + rows.lanes <= lanes && rows.row < 1 << 20);
        }
    }
}

#[test]
fn damaged_areas_never_panic() {
    let mut random = Random(9);
    let sound =
        area(&[log(3, &[entry(0, 4096, 8192), entry(128, 0, 3 * 4096)], 1), log(4, &[entry(0, 0, 4096)], 2)]);
    for round in 0..400 {
        let mut bytes = sound.clone();
        for _ in 0..1 + random.below(6) {
            let at = random.below(16384);
            bytes[at] = random.next() as u8;
        }
        bytes.truncate(random.below(32768));
        if let Ok((at, header)) = newest_log(&bytes, ARRAY) {
            assert!(at < bytes.len() && header.entries.len() <= PPL_MAX_ENTRIES, "round {round}");
        }
    }
}
/// The devices of a dirty array whose logs are these.
fn dirty(logs: &[Vec<u8>]) -> Vec<Found> {
    let mut superblocks = with_ppl(logs.len());
    for superblock in &mut superblocks {
        superblock.set_events(20);
        superblock.set_utime(1_800_000_000);
        superblock.set_resync_offset(0);
    }
    let mut found = devices(&superblocks);
    for (one, log) in found.iter_mut().zip(logs) {
        one.areas.ppl = Some(Ok(area(std::slice::from_ref(log))));
    }
    found
}

fn start(found: &[Found], force: bool) -> Result<Assembly, AssembleError> {
    assemble(found, AssembleOptions { force, array: None })
}

#[test]
fn a_dirty_array_is_judged_by_its_logs() {
    let empty = || PplHeader::empty().encode(ARRAY);
    let good = || log(4, &[entry(0, 4096, 4096), entry(384, 0, 3 * 4096)], 4);
    let mut bad_parity = good();
    bad_parity[PPL_HEADER_BYTES + 9] ^= 1;
    let mut torn = good();
    torn[540] ^= 1;
    let outcome = |logs: &[Vec<u8>]| {
        let ppl = start(&dirty(logs), false).expect("starts").ppl.expect("has logs");
        (ppl.replay.len(), ppl.doubtful, ppl.sound, ppl.cleans())
    };
    assert_eq!(outcome(&[empty(), good(), empty(), empty()]), (2, 0, true, true));
    assert_eq!(outcome(&[empty(), empty(), empty(), empty()]), (0, 0, true, false));
    assert_eq!(outcome(&[empty(), bad_parity.clone(), good(), empty()]), (3, 1, true, false));
    assert_eq!(outcome(&[empty(), torn.clone(), good(), empty()]), (2, 1, true, false));
    assert_eq!(outcome(&[vec![0; 4096], good(), empty(), empty()]), (2, 1, false, false));
    // Without a member, and without force, as long as every log is one.
    let without_first = |logs: &[Vec<u8>]| start(&dirty(logs)[1..], false);
    for logs in [[empty(), good(), empty(), empty()], [empty(), torn, bad_parity, empty()]] {
        let assembly = without_first(&logs).expect("starts");
        assert!(assembly.dirty && assembly.degraded == 1);
        assert!(assembly.warnings.iter().any(|w| matches!(w, Warning::PplReplay { degraded: true, .. })));
    }
    // It may have crashed in the very second in which it was made, with its first event.
    let mut young = dirty(&[empty(), good(), empty(), empty()]);
    for one in &mut young {
        let superblock = one.superblock.as_mut().expect("sound");
        superblock.set_events(1);
        superblock.set_utime(superblock.ctime());
    }
    let assembly = start(&young[1..], false).expect("starts");
    assert!(assembly.ppl.is_some_and(|ppl| ppl.replay.len() == 2));
    // A resync that was broken off says that parity was in doubt before.
    for one in &mut young {
        one.superblock.as_mut().expect("sound").set_resync_offset(128);
    }
    assert!(matches!(start(&young[1..], false), Err(AssembleError::DirtyDegraded { .. })));
    let foreign = without_first(&[empty(), good(), vec![0; 4096], empty()]);
    assert!(matches!(foreign, Err(AssembleError::DirtyDegraded { .. })), "{foreign:?}");
    let mut unread = dirty(&[empty(), good(), empty(), empty()]);
    unread[2].areas.ppl = Some(Err("an I/O error".to_owned()));
    assert!(matches!(start(&unread[1..], false), Err(AssembleError::DirtyDegraded { .. })));
    // By force the entries that there are count all the same.
    let forced = start(&unread[1..], true).expect("by force");
    assert!(forced.dirty && forced.ppl.is_some_and(|ppl| ppl.replay.len() == 2));
}
