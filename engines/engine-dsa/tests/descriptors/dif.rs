//! DIF on the CPU: the bytes of the vectors, and every option.

use std::collections::BTreeMap;

use engine_dsa::dif::{self, Block, DifError, Format, Source, Tags, destination_flag, source_flag};
use engine_dsa::record::RecordView;
use serde_json::Value;

use super::common::{B, address, bytes, protection, vectors};

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (7 * i + 13 * (i >> 8) + 3) as u8).collect()
}

#[test]
fn dif_on_the_cpu_gives_the_bytes_of_the_vectors() {
    let (format, tags) = protection();
    let (source, made) = (Source { tags, flags: 0 }, dif::Destination { tags, flags: 0 });
    let data = pattern(1024);
    let mut protected = vec![0; 1040];
    dif::insert(format, &made, &data, &mut protected).unwrap();
    let vectors: BTreeMap<String, Value> =
        vectors().into_iter().map(|v| (v["id"].as_str().unwrap().to_owned(), v)).collect();
    for out in vectors["V61"]["outs"].as_array().unwrap() {
        if let Some(full) = out["full"].as_str() {
            let start = (address(out["addr"].as_str().unwrap()) - B) as usize;
            let full = bytes(full);
            assert_eq!(protected[start..start + full.len()], full);
        }
    }
    let setup = |id: &str| {
        let setups = vectors[id]["setup"].as_array().unwrap();
        let mut memory = vec![0; 1040];
        for setup in setups {
            let start = (address(setup["addr"].as_str().unwrap()) - B) as usize;
            let data = bytes(setup["data"].as_str().unwrap());
            memory[start..start + data.len()].copy_from_slice(&data);
        }
        memory
    };
    let good = setup("V62");
    assert_eq!(protected, good);
    assert_eq!(dif::check(format, &source, &good), Ok(()));
    let bad = setup("V63");
    let Err(DifError::Mismatch(found)) = dif::check(format, &source, &bad) else {
        panic!("a guard is wrong")
    };
    let record = bytes(vectors["V63"]["crs"][0][1].as_str().unwrap());
    let told = RecordView::from(<[u8; 32]>::try_from(record).unwrap()).dif_mismatch().unwrap();
    assert_eq!(found, told);
    // The good block before it has been processed.
    let mut stripped = vec![0; 1024];
    assert_eq!(dif::strip(format, &source, &bad, &mut stripped), Err(DifError::Mismatch(found)));
    assert_eq!(stripped[..512], data[..512]);
    assert_eq!(stripped[512..], [0; 512]);
}

#[test]
fn dif_goes_round_for_every_block_and_option() {
    for block in [Block::B512, Block::B520, Block::B4096, Block::B4104] {
        for bits in 0..16_u8 {
            let has = |bit: u8| bits >> bit & 1 == 1;
            let format = Format { block, invert_seed: has(0), invert_result: has(1) };
            // Both tags wrap around in the second block.
            let tags = Tags { reference: u32::MAX, mask: 0x00f0, application: 0xffff };
            let inc = if has(2) { source_flag::INCREMENT_APPLICATION } else { 0 };
            let fixed = if has(3) { source_flag::FIXED_REFERENCE } else { 0 };
            let flags = inc | fixed;
            let made = dif::Destination { tags, flags };
            let expected = Source { tags, flags };
            let data = pattern(3 * block.bytes());
            let mut protected = vec![0; 3 * block.protected()];
            dif::insert(format, &made, &data, &mut protected).unwrap();
            for (n, out) in protected.chunks(block.protected()).enumerate() {
                let n = n as u32;
                let (out, stored) = out.split_last_chunk::<8>().unwrap();
                assert_eq!(out, &data[n as usize * block.bytes()..][..block.bytes()]);
                let application = 0xffff_u16.wrapping_add(if has(2) { n as u16 } else { 0 }) & !0x00f0;
                let reference = u32::MAX.wrapping_add(if has(3) { 0 } else { n });
                assert_eq!(stored[..2], format.guard(out).to_be_bytes());
                assert_eq!(stored[2..4], application.to_be_bytes());
                assert_eq!(stored[4..], reference.to_be_bytes());
            }
            assert_eq!(dif::check(format, &expected, &protected), Ok(()));
            let mut stripped = vec![0; data.len()];
            dif::strip(format, &expected, &protected, &mut stripped).unwrap();
            assert_eq!(stripped, data);
            let other = dif::Destination { tags: Tags { reference: 7, ..tags }, flags };
            let mut updated = vec![0; protected.len()];
            dif::update(format, &expected, &other, &protected, &mut updated).unwrap();
            let mut afresh = vec![0; protected.len()];
            dif::insert(format, &other, &data, &mut afresh).unwrap();
            assert_eq!(updated, afresh);
            use destination_flag::{KEEP_APPLICATION, KEEP_GUARD, KEEP_REFERENCE};
            let kept = dif::Destination { flags: KEEP_APPLICATION | KEEP_GUARD | KEEP_REFERENCE, ..other };
            dif::update(format, &expected, &kept, &protected, &mut updated).unwrap();
            assert_eq!(updated, protected);
        }
    }
}

#[test]
fn dif_compares_what_it_is_told_to() {
    let format = Format::new(Block::B512);
    let tags = Tags { reference: 5, mask: 0, application: 0xabcd };
    let mut block = vec![0; 520];
    dif::insert(format, &dif::Destination { tags, flags: 0 }, &pattern(512), &mut block).unwrap();
    let check = |block: &[u8], tags, flags| dif::check(format, &Source { tags, flags }, block);
    let found = |result| match result {
        Err(DifError::Mismatch(m)) => (m.guard, m.application, m.reference, m.all_ones),
        other => panic!("{other:?} is no mismatch"),
    };
    let all_wrong = Tags { reference: 6, mask: 0, application: 0xabcc };
    let mut damaged = block.clone();
    damaged[0] ^= 1;
    assert_eq!(found(check(&damaged, all_wrong, 0)), (true, true, true, false));
    assert_eq!(found(check(&damaged, all_wrong, source_flag::SKIP_GUARD)), (false, true, true, false));
    assert_eq!(found(check(&damaged, all_wrong, source_flag::SKIP_REFERENCE)), (true, true, false, false));
    let masked = Tags { mask: 1, ..all_wrong };
    assert_eq!(found(check(&damaged, masked, 0)), (true, false, true, false));
    let mut ones = block.clone();
    ones[512..].fill(0xff);
    assert_eq!(found(check(&ones, tags, 0)), (true, true, true, false));
    for flags in [source_flag::ALL_ONES, source_flag::APPLICATION_ONES, source_flag::TAGS_ONES] {
        assert_eq!(check(&ones, tags, flags), Ok(()));
    }
    let error = source_flag::ALL_ONES | source_flag::ALL_ONES_ERROR;
    assert_eq!(found(check(&ones, tags, error)), (false, false, false, true));
    ones[519] = 0;
    assert_eq!(check(&ones, tags, source_flag::APPLICATION_ONES), Ok(()));
    assert!(check(&ones, tags, source_flag::TAGS_ONES).is_err());
    let partial = |bytes| Err(DifError::PartialBlock { bytes, block: 520 });
    assert_eq!(check(&block[..519], tags, 0), partial(519));
    assert_eq!(check(&[], tags, 0), partial(0));
    let short = dif::strip(format, &Source { tags, flags: 0 }, &block, &mut [0; 511]);
    assert_eq!(short, Err(DifError::Destination { need: 512, have: 511 }));
}
