//! Superblocks that md wrote: they are read as md meant them, written back byte for byte, and the arrays
//! are assembled or refused.

use crate::common::{Random, cases, goldens};
use md_format::*;

#[test]
fn every_field_is_read_as_md_meant_it() {
    for golden in goldens() {
        let name = format!("{} {}", golden.case, golden.text("member"));
        if golden.blank() {
            assert_eq!(golden.parse(), Err(SuperblockError::NoMagic), "{name}");
            continue;
        }
        let superblock = golden.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
        let seen = superblock.describe();
        assert_eq!(seen.version.to_string(), golden.text("version"), "{name}");
        assert_eq!(seen.level.number() as u64, golden.number("level"), "{name}");
        assert_eq!(u64::from(seen.layout.number()), golden.number("layout"), "{name}");
        assert_eq!(u64::from(seen.raid_disks), golden.number("raid_disks"), "{name}");
        assert_eq!(u64::from(seen.chunk_sectors) * SECTOR, golden.number("chunk_bytes"), "{name}");
        assert_eq!(seen.size_sectors, golden.number("size_sectors"), "{name}");
        assert_eq!(seen.set_uuid.to_string().replace(':', ""), golden.text("set_uuid"), "{name}");
        assert_eq!(seen.name, golden.text("name"), "{name}");
        assert_eq!(seen.data_offset, golden.number("data_offset"), "{name}");
        assert_eq!(u64::from(seen.dev_number), golden.number("dev_number"), "{name}");
        assert_eq!(seen.events, golden.number("events"), "{name}");
        assert_eq!(seen.device_uuid.to_string().replace(':', ""), golden.text("device_uuid"), "{name}");
        let role = match golden.text("role") {
            "spare" => DevRole::Spare,
            "journal" => DevRole::Journal,
            _ => DevRole::Active(golden.number("role") as u16),
        };
        assert_eq!(seen.role, role, "{name}");
        assert_eq!(features_text(seen.features), golden.text("features"), "{name}");
        if !seen.features.contains(Features::RESHAPE) {
            assert_eq!(seen.array_sectors * SECTOR, golden.number("array_bytes"), "{name}");
        }
    }
}

/// The features in the words of `golden.tsv`.
fn features_text(features: Features) -> String {
    let words = [
        (Features::BITMAP, "BITMAP"),
        (Features::RECOVERY_OFFSET, "RECOVERY"),
        (Features::RESHAPE, "RESHAPE"),
        (Features::BAD_BLOCKS, "BADBLOCKS"),
        (Features::REPLACEMENT, "REPLACEMENT"),
        (Features::NEW_OFFSET, "NEW_OFFSET"),
        (Features::JOURNAL, "JOURNAL"),
        (Features::MULTIPLE_PPLS, "MULTI_PPL"),
    ];
    let set: Vec<&str> =
        words.iter().filter(|(bit, _)| features.contains(*bit)).map(|&(_, word)| word).collect();
    if set.is_empty() { "-".to_owned() } else { set.join(",") }
}

#[test]
fn what_was_read_is_written_back_byte_for_byte() {
    for golden in goldens().iter().filter(|golden| !golden.blank()) {
        let superblock = golden.parse().expect("tested above");
        assert_eq!(superblock.encode(), golden.bytes, "{} {}", golden.case, golden.text("member"));
        assert_eq!(superblock.checksum(), crate::common::oracle_checksum(&golden.bytes));
    }
}

#[test]
fn setters_change_their_bytes_and_no_others() {
    let golden = crate::common::case("r5_n4_ls_c64k_midrebuild").pop().expect("members");
    let before = golden.parse().expect("sound");
    let changed = |edit: &dyn Fn(&mut Superblock)| {
        let mut after = before.clone();
        edit(&mut after);
        let (old, new) = (golden.bytes.clone(), after.encode());
        let read = Superblock::parse(&new, golden.location(), golden.number("device_sectors"));
        let read = read.expect("it can be read again");
        assert_eq!(read, after);
        let at = |n: &usize| old[*n] != new[*n] && !(216..220).contains(n);
        let range: Vec<usize> = (0..old.len()).filter(at).collect();
        (range.first().copied(), range.last().copied())
    };
    let inside = |(first, last): (Option<usize>, Option<usize>), start: usize, end: usize| {
        let (first, last) = (first.expect("something changed"), last.expect("something changed"));
        assert!(start <= first && last < end, "{first}..={last} is not in {start}..{end}");
    };
    inside(changed(&|sb| sb.set_events(u64::MAX)), 200, 208);
    inside(changed(&|sb| sb.set_resync_offset(4711)), 208, 216);
    inside(changed(&|sb| sb.set_utime(1)), 192, 200);
    inside(changed(&|sb| sb.add_corrected_reads(u32::MAX)), 164, 168);
    inside(changed(&|sb| sb.set_role(7, DevRole::Faulty).expect("room")), 256 + 14, 256 + 16);
    inside(changed(&|sb| sb.set_recovery_offset(Some(77))), 8, 160);
    assert_eq!(changed(&|sb| sb.set_events(sb.events())), (None, None));
}

/// The arrays whose members all carry a feature that is refused, by a part of the name.
fn refused_feature(case: &str) -> Option<Features> {
    let table = [("journal", Features::JOURNAL), ("midreshape", Features::RESHAPE | Features::NEW_OFFSET)];
    let named = table.into_iter().find(|(part, _)| case.contains(part)).map(|(_, features)| features);
    let any = crate::common::case(case).iter().any(|one| one.text("features") != "-");
    named.filter(|_| any)
}

#[test]
fn arrays_are_assembled_or_refused_whatever_the_order() {
    let seed = 0x5eed_0001;
    let mut random = Random(seed);
    for case in cases() {
        let goldens = crate::common::case(&case);
        for round in 0..8 {
            let mut order: Vec<usize> = (0..goldens.len()).collect();
            random.shuffle(&mut order);
            if round == 0 {
                order.sort_unstable();
            }
            let found: Vec<Found> = order.iter().map(|&at| goldens[at].found()).collect();
            let got = assemble(&found, AssembleOptions::default());
            let context = format!("{case}, seed {seed:#x}, order {order:?}");
            match (refused_feature(&case), got) {
                (Some(want), Err(AssembleError::Unsupported { features, .. })) => {
                    assert!(features.features().contains(want), "{context}: {features}");
                }
                (None, Ok(assembly)) => check_assembly(&assembly, &found, &goldens, &context),
                (want, got) => panic!("{context}: {want:?}, got {:?}", got.map(|_| "an assembly")),
            }
        }
    }
}

fn check_assembly(assembly: &Assembly, found: &[Found], goldens: &[crate::common::Golden], context: &str) {
    let newest = goldens.iter().filter(|one| !one.blank()).map(|one| one.number("events")).max();
    assert_eq!(Some(assembly.superblock.events()), newest, "{context}");
    assert_eq!(assembly.dirty, goldens[0].number("dirty") == 1, "{context}");
    assert_eq!(assembly.resync_offset, goldens[0].number("resync_offset"), "{context}");
    for member in &assembly.members {
        let golden = goldens.iter().find(|one| one.text("member") == found[member.found].label);
        let golden = golden.expect("the label is the member");
        assert_eq!(u64::from(member.dev_number), golden.number("dev_number"), "{context}");
        let state = match golden.text("role") {
            "spare" => MemberState::Spare,
            _ if golden.text("features").contains("RECOVERY") => {
                // The rebuild was broken off there.
                let recovery_offset = if context.contains("midrebuild_bitmap") { 1024 } else { 2048 };
                MemberState::Rebuilding { recovery_offset }
            }
            _ => MemberState::InSync,
        };
        assert_eq!(member.state, state, "{context}");
        assert_eq!(member.superblock.events(), assembly.superblock.events(), "{context}");
    }
    let stale = |one: &&crate::common::Golden| !one.blank() && Some(one.number("events") + 1) < newest;
    let replacing = |one: &&crate::common::Golden| one.text("features").contains("REPLACEMENT");
    let left_out = goldens.iter().filter(|one| one.blank() || stale(one) || replacing(one)).count();
    assert_eq!(assembly.rejected.len(), left_out, "{context}: {:?}", assembly.rejected);
    let roles = assembly.members.iter().filter(|one| one.role.is_some()).count();
    let raid_disks = usize::from(assembly.superblock.raid_disks());
    assert_eq!(roles + assembly.missing_roles.len(), raid_disks, "{context}");
}

#[test]
fn candidates_name_the_place_where_md_put_the_superblock() {
    for golden in goldens() {
        let candidates = candidates(golden.number("device_sectors"));
        assert!(candidates.contains(&golden.location()), "{}", golden.case);
        let end = golden.number("device_sectors");
        assert!(candidates.iter().all(|at| at.sector + 8 <= end));
    }
    assert!(candidates(23).is_empty());
    assert!(candidates(24).iter().all(|at| at.sector + 8 <= 24));
}

#[test]
fn the_superblock_that_was_created_last_is_chosen() {
    let old = crate::common::case("r5_n3_ls_c64k_default")[0].parse();
    let new = crate::common::case("r5_n4_ls_c64k_midrebuild")[0].parse();
    let ctime = |one: &Result<Superblock, _>| one.as_ref().map(Superblock::ctime).expect("sound");
    assert!(ctime(&old) < ctime(&new));
    assert_eq!(Superblock::choose([old.clone(), new.clone(), Err(SuperblockError::NoMagic)]), new);
    assert_eq!(Superblock::choose([new.clone(), old]), new);
    let damaged = Err(SuperblockError::DataSize(1));
    assert_eq!(Superblock::choose([Err(SuperblockError::NoMagic), damaged.clone()]), damaged);
    assert_eq!(Superblock::choose([]), Err(SuperblockError::NoMagic));
}
