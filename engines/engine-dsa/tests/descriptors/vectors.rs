//! The builders against the test vectors, byte for byte.

use std::collections::BTreeMap;

use engine_dsa::descriptor::{BuildError, Seed};
use engine_dsa::dif;
use engine_dsa::wire::{Descriptor, Opcode, at, flag};

use super::common::{A, B, Built, C, D, F, R, address, bytes, descriptor, dif_check, protection, vectors};

/// What the builders make of a legal vector, without its record; `None` for one that is not legal.
fn legal(id: &str) -> Option<Built> {
    let crc = |size, seed| Descriptor::crc(B, size, Seed::Value(seed));
    let bypass = |seed, flags| crc(9, seed)?.with_flags(flags);
    let compared = |expected| Descriptor::compare(A, B, 4096)?.with_expected(expected);
    Some(match id {
        "V01" => Ok(Descriptor::noop()),
        "V02" => Descriptor::memmove(A, B, 4096),
        "V03" => Descriptor::memmove(A + 3, B + 5, 1000),
        "V04" => Descriptor::memmove(A, A + 64, 256),
        "V05" => Descriptor::memmove(A, B, 64).map(Descriptor::with_cache_control),
        "V06" => Descriptor::fill(B + 1, 27, 0x1122_3344_5566_7788),
        "V07" => Descriptor::fill(A, 4096, 0),
        "V08" | "V09" => Descriptor::compare(A, B, 4096),
        "V10" | "V12" => compared(0),
        "V11" => compared(1),
        "V13" | "V14" => Descriptor::compare_value(B, 4096, 0).and_then(|d| d.with_expected(0)),
        "V15" => crc(9, 0),
        "V16" | "V17" | "V18" | "V19" => crc(32, 0),
        "V20" => crc(5, 0),
        "V21" => Descriptor::crc(B + 5, 4, Seed::Value(0x18d1_2335)),
        "V23" => bypass(u32::MAX, flag::CRC_BYPASS_INVERSION),
        "V24" => bypass(0, flag::CRC_BYPASS_REFLECTION),
        "V25" => bypass(0, flag::CRC_BYPASS_INVERSION | flag::CRC_BYPASS_REFLECTION),
        "V26" => bypass(u32::MAX, flag::CRC_BYPASS_INVERSION | flag::CRC_BYPASS_REFLECTION),
        "V27" => Descriptor::crc(A, 4096, Seed::Value(0)),
        "V28" => Descriptor::crc(A, 65536, Seed::Value(0)),
        "V29" => Descriptor::copy_crc(A, B, 4096, Seed::Value(0)),
        "V30" => Descriptor::dualcast(A, B, C, 4096),
        "V33" => Descriptor::memmove(F, B, 12288),
        "V34" => Descriptor::memmove(A, F, 12288),
        "V35" => Descriptor::fill(F + 100, 10000, 0xabab_abab_abab_abab),
        "V36" => Descriptor::crc(F, 12288, Seed::Value(0)),
        "V37" => Descriptor::crc(F + 8192, 4096, Seed::Value(0x1111_1111)),
        // More than the vector's queue takes, which is not the builder's to know.
        "V43" => Descriptor::memmove(A, B, (2 << 20) + 1),
        "V44" => Descriptor::memmove(A, B, 64).and_then(|d| d.with_error_record(R)),
        "V46" => Ok(Descriptor::drain()),
        "V47" => Descriptor::cache_flush(B, 4096, true),
        "V48" => Descriptor::batch(D, 4),
        "V49" | "V52" | "V57" => Descriptor::batch(D, 2),
        "V50" | "V51" => Descriptor::batch(D, 3),
        "V55" => Descriptor::batch(D, 33),
        "V56" => Descriptor::batch(F + 0x1f80, 4),
        "V58" | "V59" => Descriptor::create_delta(A, B, 4096, C, 80),
        "V60" => Descriptor::apply_delta(C, 20, B, 4096),
        "V61" => {
            let (format, tags) = protection();
            Descriptor::dif_insert(A, B, 1024, format, &dif::Destination { tags, flags: 0 })
        }
        "V62" | "V63" => dif_check(),
        _ => return None,
    })
}

/// A vector that no builder makes: why, what refuses it (if a builder can be asked at all), the nearest
/// legal descriptor, and where that is patched with what.
struct Illegal {
    why: &'static str,
    refused: Option<Built>,
    nearest: Built,
    patch: (usize, Vec<u8>),
}

fn illegal(id: &str) -> Illegal {
    let plain = |why, nearest, patch| Illegal { why, refused: None, nearest, patch };
    let asked = |why, refused, nearest, patch| Illegal { why, refused: Some(refused), nearest, patch };
    let copy = |size| Descriptor::memmove(A, B, size);
    let with = |built: Built, flags| built.and_then(|d| d.with_flags(flags));
    match id {
        "V22" => plain(
            "a seed stands in the field that is not looked at when the seed is read from memory",
            Descriptor::crc(B + 5, 4, Seed::At(R + 0x50)).inspect(|d| assert_eq!(d.flags(), 1 << 16)),
            (at::CRC_SEED, vec![0xef, 0xbe, 0xad, 0xde]),
        ),
        "V31" => asked(
            "the destinations of a dualcast differ in their low bits",
            Descriptor::dualcast(A, B, C + 0x40, 4096),
            Descriptor::dualcast(A, B, C, 4096),
            (at::DESTINATION2, vec![0x40]),
        ),
        "V32" => asked(
            "source and destination of a copy with CRC overlap",
            Descriptor::copy_crc(A, A + 64, 256, Seed::Value(0)),
            Descriptor::copy_crc(A, B, 256, Seed::Value(0)),
            (at::DESTINATION, (A + 64).to_le_bytes().into()),
        ),
        "V38" => plain("no opcode has this number", Ok(Descriptor::noop()), (at::OPCODE, vec![0x0b])),
        "V39" => asked(
            "a copy has no result to check",
            with(copy(64), flag::CHECK_RESULT),
            copy(64),
            (at::FLAGS, vec![0x8c]),
        ),
        "V40" => asked(
            "a CRC writes nothing that could be cached",
            with(Descriptor::crc(A, 64, Seed::Value(0)), flag::CACHE_CONTROL),
            // Asked to cache where it can be, it leaves the flag away.
            Descriptor::crc(A, 64, Seed::Value(0)).map(Descriptor::with_cache_control),
            (at::FLAGS + 1, vec![1]),
        ),
        "V41" => plain("a reserved field is not zero", copy(64), (at::RESERVED, vec![1])),
        "V42" => asked("no bytes", copy(0), copy(1), (at::SIZE, vec![0])),
        "V45" => {
            asked("no bytes", copy(0), copy(1).and_then(|d| d.with_error_record(R)), (at::SIZE, vec![0]))
        }
        "V53" => asked(
            "the list of a batch is not aligned",
            Descriptor::batch(D + 0x20, 4),
            Descriptor::batch(D, 4),
            (at::SOURCE, vec![0x20]),
        ),
        "V54" => {
            asked("a batch of one", Descriptor::batch(D, 1), Descriptor::batch(D, 2), (at::SIZE, vec![1]))
        }
        "V64" => asked(
            "the record is not aligned",
            Descriptor::noop().with_record(R + 8),
            Ok(Descriptor::noop()),
            (at::RECORD, vec![8]),
        ),
        "V65" => {
            plain("the address space is the kernel's to fill in", copy(4096), (at::PASID, vec![0x34, 0x12]))
        }
        other => panic!("vector {other} has no builder: say how it is built, or why it cannot be"),
    }
}

/// With the record that all vectors but those of errors ask for.
fn recorded(built: Built, record: u64) -> Descriptor {
    let built = built.unwrap();
    if built.record() != 0 { built } else { built.with_record(record).unwrap() }
}

/// Why a vector is illegal, with all descriptors that it consists of.
fn build(id: &str) -> (Option<&'static str>, Descriptor) {
    if let Some(built) = legal(id) {
        return (None, recorded(built, R));
    }
    let Illegal { why, refused, nearest, patch: (offset, patch) } = illegal(id);
    if let Some(refused) = refused {
        assert!(refused.is_err(), "{id} ({why}) should be refused");
    }
    let mut built = recorded(nearest, R);
    built.0[offset..offset + patch.len()].copy_from_slice(&patch);
    (Some(why), built)
}

#[test]
fn every_vector_is_built_byte_for_byte() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 65);
    let mut illegal = BTreeMap::new();
    for vector in &vectors {
        let id = vector["id"].as_str().unwrap();
        let (why, built) = build(id);
        let wanted = descriptor(&bytes(vector["desc"].as_str().unwrap()));
        assert_eq!(built, wanted, "{id} {}", vector["name"]);
        if let Some(why) = why {
            illegal.insert(id.to_owned(), why);
        }
    }
    let ids: Vec<&str> = illegal.keys().map(String::as_str).collect();
    let known = ["V22", "V31", "V32", "V38", "V39", "V40", "V41", "V42", "V45", "V53", "V54", "V64", "V65"];
    assert_eq!(ids, known, "these are illegal: {illegal:#?}");
}

/// The members of the vectors' batches, each with its own record.
fn members(id: &str) -> Option<Vec<Descriptor>> {
    let copy = || Descriptor::memmove(A, B, 64);
    let fill = |pattern: u8| Descriptor::fill(B + 64, 64, u64::from_ne_bytes([pattern; 8]));
    let bad = || {
        let mut bad = Descriptor::noop();
        bad.set_operation(0x0b, 0);
        Ok(bad)
    };
    let seed = Seed::At(R + 0x30);
    let list: Vec<Built> = match id {
        "V48" | "V54" => {
            vec![copy(), fill(1), Descriptor::crc(A, 64, Seed::Value(0)), Ok(Descriptor::noop())]
        }
        "V49" => vec![
            Descriptor::crc(B, 5, Seed::Value(0)),
            Descriptor::crc(B + 5, 4, seed).and_then(Descriptor::with_fence),
        ],
        "V50" => vec![copy(), bad(), fill(2)],
        "V51" => vec![copy(), bad(), fill(2).and_then(Descriptor::with_fence)],
        "V52" => vec![
            Descriptor::compare(A, B, 64).and_then(|d| d.with_expected(0)),
            Descriptor::memmove(A, C, 64).and_then(Descriptor::with_fence),
        ],
        "V56" => vec![copy(), fill(1)],
        "V57" => vec![copy(), Descriptor::batch(D + 0x400, 2)],
        _ => return None,
    };
    let records = (1..).map(|n| R + n * 0x20);
    Some(list.into_iter().zip(records).map(|(built, record)| member(built.unwrap(), record)).collect())
}

/// With a record; of an opcode that does not exist, by hand.
fn member(mut built: Descriptor, record: u64) -> Descriptor {
    if Opcode::from_number(built.opcode()).is_some() {
        return built.with_record(record).unwrap();
    }
    assert!(!built.may_be_member());
    assert_eq!(built.with_fence(), Err(BuildError::Opcode(0x0b)));
    built.set_field(at::RECORD, record.to_le_bytes());
    built.set_operation(built.opcode(), flag::RECORD_VALID | flag::REQUEST_RECORD);
    built
}

#[test]
fn every_batch_list_is_built_byte_for_byte() {
    let mut lists = 0;
    for vector in vectors() {
        let id = vector["id"].as_str().unwrap();
        let setups = vector["setup"].as_array().unwrap();
        let list = setups.iter().find(|setup| {
            let at = address(setup["addr"].as_str().unwrap());
            (D..R).contains(&at) || at == F + 0x1f80
        });
        assert_eq!(list.is_some(), members(id).is_some(), "{id}");
        let (Some(list), Some(members)) = (list, members(id)) else { continue };
        let wanted: Vec<Descriptor> =
            bytes(list["data"].as_str().unwrap()).chunks(64).map(descriptor).collect();
        assert_eq!(members, wanted, "{id} {}", vector["name"]);
        lists += 1;
    }
    assert_eq!(lists, 8);
}
