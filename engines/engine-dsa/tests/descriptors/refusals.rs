//! What the builders refuse, and the flags that they do not set.

use engine_dsa::descriptor::{BuildError, Seed, legal_flags};
use engine_dsa::dif::{self, Source, destination_flag};
use engine_dsa::wire::{Descriptor, Opcode, at, flag};

use super::common::{A, B, C, D, R, protection};

#[test]
fn what_devices_refuse_is_refused() {
    use BuildError as E;
    let big = u64::from(u32::MAX) + 1;
    assert_eq!(Descriptor::memmove(A, B, 0), Err(E::Empty));
    assert_eq!(Descriptor::memmove(A, B, big), Err(E::TooLong { size: big, max: big - 1 }));
    assert_eq!(Descriptor::fill(u64::MAX, 2, 0), Err(E::Wraps { address: u64::MAX, size: 2 }));
    assert!(Descriptor::fill(u64::MAX - 1, 2, 0).is_ok());
    assert_eq!(Descriptor::compare(A, B, 0), Err(E::Empty));
    assert_eq!(Descriptor::compare_value(A, 0, 7), Err(E::Empty));
    assert_eq!(Descriptor::crc(A, 0, Seed::Value(0)), Err(E::Empty));
    assert_eq!(Descriptor::cache_flush(A, 0, false), Err(E::Empty));
    assert_eq!(Descriptor::dualcast(A, B, B, 64).unwrap_err(), overlap(B, B, 64));
    assert_eq!(Descriptor::dualcast(A, A + 4096, C, 4097).unwrap_err(), overlap(A, A + 4096, 4097));
    assert!(Descriptor::dualcast(A, A + 4096, C, 4096).is_ok());
    assert_eq!(Descriptor::dualcast(A, B, C + 1, 8), Err(E::DualcastAddresses(B, C + 1)));
    assert_eq!(Descriptor::copy_crc(A + 9, A, 10, Seed::Value(0)).unwrap_err(), overlap(A + 9, A, 10));
    assert_eq!(Descriptor::create_delta(A, B, 12, C, 80), Err(E::DeltaUnit(12)));
    assert_eq!(Descriptor::create_delta(A + 4, B, 16, C, 80), Err(E::DeltaUnit(A + 4)));
    assert_eq!(Descriptor::create_delta(A, B, 16, C + 1, 80), Err(E::DeltaUnit(C + 1)));
    assert_eq!(Descriptor::create_delta(A, B, 16, C, 70), Err(E::DeltaRecord(70)));
    assert_eq!(Descriptor::create_delta(A, B, 16, C, 88), Err(E::DeltaRecord(88)));
    let most = 0x8_0000;
    assert!(Descriptor::create_delta(A, B, most, C, 80).is_ok());
    assert_eq!(
        Descriptor::create_delta(A, B, most + 8, C, 80),
        Err(E::TooLong { size: most + 8, max: most })
    );
    assert_eq!(Descriptor::apply_delta(C, 0, B, 64), Err(E::DeltaRecord(0)));
    assert_eq!(Descriptor::apply_delta(C, 15, B, 64), Err(E::DeltaRecord(15)));
    assert_eq!(Descriptor::apply_delta(C, 10, B + 2, 64), Err(E::DeltaUnit(B + 2)));
    assert_eq!(Descriptor::batch(D, 1), Err(E::BatchCount(1)));
    assert_eq!(Descriptor::batch(D + 32, 2), Err(E::ListAlignment(D + 32)));
    assert_eq!(Descriptor::noop().with_record(0), Err(E::RecordAddress(0)));
    assert_eq!(Descriptor::noop().with_record(R + 16), Err(E::RecordAddress(R + 16)));
    let fenced = Descriptor::batch(D, 2).unwrap().with_fence();
    assert_eq!(fenced, Err(E::Flag { opcode: Opcode::Batch, flag: flag::FENCE }));
    assert!(Descriptor::drain().with_fence().is_err() && Descriptor::noop().with_fence().is_ok());
    assert!(Descriptor::memmove(A, B, 1).unwrap().with_expected(0).is_err());
}

fn overlap(source_address: u64, destination: u64, size: u64) -> BuildError {
    BuildError::Overlap { source_address, destination, size }
}

#[test]
fn dif_builders_refuse_what_devices_do() {
    use BuildError as E;
    let (format, tags) = protection();
    let (source, made) = (Source { tags, flags: 0 }, dif::Destination { tags, flags: 0 });
    let insert = |from, to, size| Descriptor::dif_insert(from, to, size, format, &made);
    assert_eq!(insert(A, B, 511), Err(E::PartialBlock { size: 511, block: 512 }));
    assert_eq!(insert(A, B, 0), Err(E::Empty));
    // The destination of 1040 bytes reaches into the source; the other way round it does not.
    assert_eq!(insert(A + 1032, A, 1024), Err(overlap(A + 1032, A, 1024)));
    assert!(insert(A + 1040, A, 1024).is_ok() && insert(A, A + 1024, 1024).is_ok());
    let strip = |from, to| Descriptor::dif_strip(from, to, 1040, format, &source);
    assert_eq!(strip(A + 1024, A), Err(E::StripEndsAtSource(A + 1024)));
    assert_eq!(strip(A + 1040, A), Err(E::StripEndsAtSource(A + 1040)));
    assert_eq!(strip(A + 1023, A), Err(overlap(A + 1023, A, 1040)));
    assert!(strip(A + 1041, A).is_ok() && strip(A, A + 1040).is_ok());
    let kept = dif::Destination { tags, flags: destination_flag::KEEP_GUARD };
    assert_eq!(Descriptor::dif_insert(A, B, 512, format, &kept), Err(E::DifFlags(1 << 5)));
    let updated = Descriptor::dif_update(A, B, 520, format, &source, &kept).unwrap();
    assert_eq!(updated.field::<3>(at::DIF_SOURCE_FLAGS), [0, 1 << 5, 0]);
    assert_eq!(updated.field::<8>(at::DIF_SOURCE_TAGS), updated.field::<8>(at::DIF_DESTINATION_TAGS));
    assert_eq!(Descriptor::dif_check(A, 512, format, &source).unwrap_err(), partial(512, 520));
}

fn partial(size: u64, block: u64) -> BuildError {
    BuildError::PartialBlock { size, block }
}

#[test]
fn flags_that_are_reserved_by_opcode() {
    let has = |opcode, flag| legal_flags(opcode) & flag != 0;
    for opcode in [Opcode::Noop, Opcode::Compare, Opcode::CompareValue, Opcode::CrcGen, Opcode::DifCheck] {
        assert!(!has(opcode, flag::CACHE_CONTROL) && !has(opcode, flag::STRICT_ORDER), "{opcode:?}");
    }
    for opcode in [Opcode::Memmove, Opcode::Fill, Opcode::Dualcast, Opcode::CopyCrc, Opcode::DifInsert] {
        assert!(has(opcode, flag::CACHE_CONTROL) && has(opcode, flag::STRICT_ORDER), "{opcode:?}");
    }
    for opcode in Opcode::ALL {
        assert!(has(opcode, flag::RECORD_VALID) && has(opcode, flag::REQUEST_RECORD), "{opcode:?}");
        let compares = matches!(opcode, Opcode::Compare | Opcode::CompareValue | Opcode::CreateDelta);
        assert_eq!(has(opcode, flag::CHECK_RESULT), compares, "{opcode:?}");
        let fenced = !matches!(opcode, Opcode::Batch | Opcode::Drain);
        assert_eq!(has(opcode, flag::FENCE), fenced, "{opcode:?}");
        assert_eq!(legal_flags(opcode) >> 24, 0);
    }
    let flush = Descriptor::cache_flush(A, 64, false).unwrap();
    assert_eq!(flush.with_cache_control(), flush);
}
