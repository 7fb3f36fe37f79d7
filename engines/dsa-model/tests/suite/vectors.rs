//! Every test vector on the model.

use crate::common::*;
use dsa_model::crc::crc32c;
use dsa_model::device::{Device, DeviceConfig, Submit};
use dsa_model::faults::{ALWAYS, FaultPlan};
use dsa_model::memory::Mapped;
use dsa_model::personality::Personality;
use engine_dsa::wire::Descriptor;
use serde_json::Value;

fn prepared(vector: &Value) -> Mapped {
    let memory = memory();
    for set in vector["setup"].as_array().expect("setup") {
        let len = set["len"].as_u64().expect("len") as usize;
        let data = match set["data"].as_str().expect("data") {
            "P" => pattern_bytes(len),
            hex => unhex(hex),
        };
        assert_eq!(data.len(), len, "setup of {}", vector["id"]);
        assert!(memory.set_bytes(number(&set["addr"]), &data), "setup of {}", vector["id"]);
    }
    memory
}

fn run(vector: &Value, config: DeviceConfig, memory: &Mapped) -> Device {
    let bytes = unhex(vector["desc"].as_str().expect("desc"));
    let descriptor = Descriptor(bytes.try_into().expect("64 bytes"));
    let mut device = Device::new(config, memory.clone());
    let client = device.open().expect("the only client");
    assert_eq!(device.submit(client, &descriptor), Ok(Submit::Accepted));
    assert!(device.run_to_rest(1000));
    device
}

fn check_outs(vector: &Value, memory: &Mapped) {
    let id = &vector["id"];
    for out in vector["outs"].as_array().expect("outs") {
        let len = out["len"].as_u64().expect("len") as usize;
        let bytes = memory.bytes(number(&out["addr"]), len).expect("mapped");
        if let Some(full) = out["full"].as_str() {
            assert_eq!(bytes, unhex(full), "{id}: {out}");
        }
        assert_eq!(format!("{:08x}", crc32c(0, &bytes)), out["crc32c"].as_str().expect("crc"), "{id}: {out}");
    }
}

/// Compares records where the mask of the vector says so. A differing comparison may tell any offset up to
/// the first difference; the model tells the first.
fn check_records(vector: &Value, memory: &Mapped) {
    let mask = unhex(vector["mask"].as_str().expect("mask"));
    for (n, cr) in vector["crs"].as_array().expect("crs").iter().enumerate() {
        let expected = unhex(cr[1].as_str().expect("record"));
        let got = record(memory, number(&cr[0]));
        // The mask is that of the first record; those of a batch's members are compared by their status and
        // whatever the vector gives them that is not zero.
        for i in 0..32 {
            let relevant = if n == 0 {
                mask[i]
            } else if i == 0 || expected[i] != 0 {
                0xff
            } else {
                0
            };
            assert_eq!(got[i] & relevant, expected[i] & relevant, "{} record {n} byte {i}", vector["id"]);
        }
    }
}

#[test]
fn the_file_is_complete() {
    assert_eq!(vectors().len(), VECTORS);
}

#[test]
fn every_vector_passes() {
    for vector in vectors() {
        let memory = prepared(&vector);
        let device = run(&vector, DeviceConfig::dedicated(Personality::v1(), 64), &memory);
        check_records(&vector, &memory);
        check_outs(&vector, &memory);
        if vector["id"] == "V64" {
            assert_eq!(device.software_error().map(|error| error.code), Some(0x1b));
        } else {
            assert_eq!(device.software_error(), None, "{}", vector["id"]);
        }
    }
}

/// In clean mode what means nothing is zero, so whole records can be compared.
#[test]
fn clean_records_match_in_every_byte() {
    for vector in vectors() {
        let memory = prepared(&vector);
        run(&vector, DeviceConfig::dedicated(Personality::v1(), 64), &memory);
        for cr in vector["crs"].as_array().expect("crs") {
            let (got, expected) = (record(&memory, number(&cr[0])), unhex(cr[1].as_str().expect("record")));
            // The invalid flags of V39 and V40 are masked out in the file and told by the model as it says.
            assert_eq!(got.as_slice(), expected, "{}", vector["id"]);
        }
    }
}

/// Reordering and poison change nothing that the vectors are about: a batch's members between fences are
/// independent, and what means something is never poisoned.
#[test]
fn every_vector_passes_reordered_and_poisoned() {
    for seed in 0..20 {
        for vector in vectors() {
            let memory = prepared(&vector);
            let plan = FaultPlan::seeded(seed).with_reorder(ALWAYS);
            let config = DeviceConfig::shared(Personality::v1(), 64, 60).with_faults(plan);
            run(&vector, config, &memory);
            check_records_poisoned(&vector, &memory, seed);
            check_outs(&vector, &memory);
        }
    }
}

fn check_records_poisoned(vector: &Value, memory: &Mapped, seed: u64) {
    let mask = unhex(vector["mask"].as_str().expect("mask"));
    let cr = &vector["crs"][0];
    let (got, expected) = (record(memory, number(&cr[0])), unhex(cr[1].as_str().expect("record")));
    let address_low = |i: usize| i == 8 || i == 9;
    for i in 0..32 {
        if mask[i] == 0xff || address_low(i) && mask[i] != 0 {
            assert_eq!(got[i] & mask[i], expected[i] & mask[i], "{} byte {i} seed {seed}", vector["id"]);
        }
    }
}

#[test]
fn the_version_2_device_passes_them_too() {
    for vector in vectors() {
        // The fault information of version 2 stands where version 1 has nothing.
        let memory = prepared(&vector);
        run(&vector, DeviceConfig::shared(Personality::v2(), 64, 60), &memory);
        check_records(&vector, &memory);
        check_outs(&vector, &memory);
    }
}

#[test]
fn the_checksum_table() {
    let p4096 = pattern_bytes(4096);
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    let rows: [(&[u8], u32, u32); 8] = [
        (b"123456789", 0, 0xe306_9283),
        (&[0; 32], 0, 0x8a91_36aa),
        (&[0xff; 32], 0, 0x62a8_ab43),
        (&ascending, 0, 0x46dd_794e),
        (&descending, 0, 0x113f_db5c),
        (b"12345", 0, 0x18d1_2335),
        (b"6789", 0x18d1_2335, 0xe306_9283),
        (&p4096, 0, 0xb465_bf49),
    ];
    for (data, seed, expected) in rows {
        assert_eq!(crc32c(seed, data), expected);
    }
    assert_eq!(crc32c(0, &pattern_bytes(65536)), 0xbbb0_fb5c);
    assert_eq!(crc32c(0, &pattern_bytes(8192)), 0x080e_ba1a);
}
