//! Metadata of other kinds: what mdadm made is recognised and refused by its name, with what to do.

use crate::common::*;
use md_format::*;
use std::io::Read;
use std::path::PathBuf;

/// The first member of an array of `tests/foreign`.
fn image(array: &str) -> Vec<u8> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/foreign").join(array).join("d0.zst");
    let packed = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).expect("zstd");
    decoder.read_to_end(&mut bytes).expect("whole");
    bytes
}

fn find(device: &[u8]) -> Result<Superblock, SuperblockError> {
    Superblock::find((device.len() / BYTES) as u64, |offset, len| {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(device.len());
        Ok::<_, String>(device[from..(from + len).min(device.len())].to_vec())
    })
}

/// Array, what it is, and words of the refusal.
const ARRAYS: [(&str, &str, &[&str]); 3] = [
    ("v090", "V090", &["raid5 array with metadata version 0.90", "mdadm --assemble --update=metadata"]),
    ("imsm", "Imsm", &["Intel's firmware manages (IMSM", "mdadm --assemble --scan", "copy what is on it"]),
    ("ddf", "Ddf", &["the firmware manages (DDF)", "mdadm --assemble --scan", "copy what is on it"]),
];

#[test]
fn each_is_named_and_refused_with_what_to_do() {
    for (array, kind, words) in ARRAYS {
        let error = find(&image(array)).expect_err(array);
        assert_eq!(error.fault(), Fault::Unsupported, "{array}");
        let SuperblockError::Other(other) = &error else { panic!("{array}: {error}") };
        assert!(format!("{other:?}").starts_with(kind), "{array}: {other:?}");
        let found = Found {
            label: "disk".to_owned(),
            device_sectors: 1,
            superblock: Err(error),
            identity: None,
            areas: Areas::default(),
        };
        for force in [false, true] {
            let refused = assemble(std::slice::from_ref(&found), AssembleOptions { force, array: None });
            let text = refused.expect_err(array).to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{array}: {text}");
        }
    }
}

#[test]
fn firmware_metadata_are_found_on_disks_with_sectors_of_4096_bytes() {
    // There the same metadata begin in the last but one, or in the last, unit of 4096 bytes.
    for (array, at, to) in [("imsm", 2 * 512, 2 * 4096), ("ddf", 512, 4096)] {
        let mut device = image(array);
        let len = device.len();
        let metadata = device[len - at..len - at + 512].to_vec();
        device[len - 2 * 4096..].fill(0);
        assert_eq!(find(&device), Err(SuperblockError::NoMagic), "{array}");
        device[len - to..len - to + 512].copy_from_slice(&metadata);
        assert!(matches!(find(&device), Err(SuperblockError::Other(_))), "{array}");
    }
}

#[test]
fn of_two_versions_the_newer_array_counts() {
    let mut device = vec![0; DEVICE as usize * BYTES];
    let superblock = array(Level::Raid5, 3).remove(0);
    device[4096..4096 + superblock.encode().len()].copy_from_slice(&superblock.encode());
    assert_eq!(find(&device), Ok(superblock.clone()));
    // The superblock of 0.90 that `--update=metadata` leaves behind is as old as the array.
    let old = image("v090");
    let at = old.len() - (64 << 10);
    let mut leftover = old[at..at + 4096].to_vec();
    let place = device.len() - (64 << 10);
    for (ctime, newer) in [(superblock.ctime() as u32, false), (superblock.ctime() as u32 + 1, true)] {
        leftover[24..28].copy_from_slice(&ctime.to_le_bytes());
        device[place..place + 4096].copy_from_slice(&leftover);
        let found = find(&device);
        assert_eq!(found.is_err(), newer, "{found:?}");
    }
    // Whoever keeps an array of that version in this one writes its superblock into our data, and this array's
    // superblocks are updated with that.
    let mut updated = superblock.clone();
    updated.set_utime(superblock.ctime() + 2);
    device[4096..4096 + updated.encode().len()].copy_from_slice(&updated.encode());
    assert_eq!(find(&device), Ok(updated));
    device[4096..4096 + superblock.encode().len()].copy_from_slice(&superblock.encode());
    // What a RAID of the firmware left at the end of a disk says nothing about an array made since.
    device[place..].fill(0);
    let firmware = image("imsm");
    let end = device.len();
    device[end - 8192..].copy_from_slice(&firmware[firmware.len() - 8192..]);
    assert_eq!(find(&device), Ok(superblock));
}

#[test]
fn other_versions_of_0_90_are_told_apart() {
    let sound = image("v090");
    let at = sound.len() - (64 << 10);
    let with = |minor: u32, big_endian: bool| {
        let mut device = sound.clone();
        device[at + 8..at + 12].copy_from_slice(&minor.to_le_bytes());
        if big_endian {
            device[at..at + 32].as_chunks_mut::<4>().0.iter_mut().for_each(|word| word.reverse());
        }
        find(&device).expect_err("never usable").to_string()
    };
    assert!(with(90, true).contains("big-endian"), "{}", with(90, true));
    assert!(with(91, false).contains("0.91"), "{}", with(91, false));
    assert_eq!(with(89, false), SuperblockError::NoMagic.to_string());
    for len in 0..200 {
        // Devices of any length are looked at without looking past them.
        let _ = find(&sound[..len * BYTES]);
    }
}

#[test]
fn advice_names_a_command_for_each_feature_that_another_program_can_end() {
    let of = |bits: u32| {
        let superblock =
            altered(&array(Level::Raid5, 3)[0], &[(8, &bits.to_le_bytes()), (96, &[8, 0, 64, 0])]);
        unsupported(&superblock.expect("sound")).map(|features| features.advice())
    };
    for (bits, words) in [
        (4, "finish the reshape"),
        (512, "--fail JOURNAL --remove JOURNAL"),
        (256, "nodes of its cluster"),
        (512 | 4, "finish the reshape"),
        (512 | 4, "--remove JOURNAL"),
    ] {
        let advice = of(bits).expect("not honoured");
        assert!(advice.contains(words), "{bits}: {advice}");
    }
}
