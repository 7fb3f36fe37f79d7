//! Resuming after a page fault: by the table, and against a slow device on bytes.

use engine_dsa::descriptor::Seed;
use engine_dsa::wire::{Descriptor, at, flag, status};

use super::common::{A, B, C, D, F, R, Random, dif_check, fault, record};

fn source(d: &Descriptor) -> u64 {
    u64::from_le_bytes(d.field(at::SOURCE))
}

fn destination(d: &Descriptor) -> u64 {
    u64::from_le_bytes(d.field(at::DESTINATION))
}

#[test]
fn resuming_by_the_table() {
    let copy = Descriptor::memmove(A, B, 12288).unwrap().with_record(R).unwrap();
    let rest = copy.resume(&fault(0x2001, 0)).unwrap();
    let wanted = Descriptor::memmove(A + 0x2001, B + 0x2001, 12288 - 0x2001).unwrap().with_record(R).unwrap();
    assert_eq!(rest, wanted);
    // From the end to the beginning: what is left is where it was.
    let backwards = Descriptor::memmove(A, A + 64, 256).unwrap();
    assert_eq!(backwards.resume(&fault(200, 1)), Some(Descriptor::memmove(A, A + 64, 56).unwrap()));
    assert_eq!(backwards.resume(&fault(200, 7)), None, "no direction is called 7");
    // Nothing done is resumed whole; everything done, or more, is not.
    assert_eq!(copy.resume(&fault(0, 0)), Some(copy));
    assert_eq!(copy.resume(&fault(12288, 0)), None);
    assert_eq!(copy.resume(&fault(u32::MAX, 0)), None);
    let fill = Descriptor::fill(B + 1, 100, 0x0102_0304_0506_0708).unwrap();
    assert_eq!(
        fill.resume(&fault(31, 0)),
        Some(Descriptor::fill(B + 25, 76, 0x0102_0304_0506_0708).unwrap())
    );
    let long = fill.with_flags(flag::FILL_LONG_PATTERN).unwrap();
    assert_eq!(destination(&long.resume(&fault(31, 0)).unwrap()), B + 17);
    let compare = Descriptor::compare(A, B, 4096).unwrap().with_expected(0).unwrap();
    let rest = compare.resume(&fault(100, 0)).unwrap();
    assert_eq!(rest, Descriptor::compare(A + 100, B + 100, 3996).unwrap().with_expected(0).unwrap());
    let value = Descriptor::compare_value(A, 4096, 7).unwrap();
    assert_eq!(value.resume(&fault(100, 0)), Some(Descriptor::compare_value(A + 96, 4000, 7).unwrap()));
    let dual = Descriptor::dualcast(A, B, C, 4096).unwrap();
    assert_eq!(dual.resume(&fault(5, 0)), Some(Descriptor::dualcast(A + 5, B + 5, C + 5, 4091).unwrap()));
    let delta = Descriptor::apply_delta(C, 100, B, 4096).unwrap();
    assert_eq!(delta.resume(&fault(95, 0)), Some(Descriptor::apply_delta(C + 80, 20, B, 4096).unwrap()));
    let flush = Descriptor::cache_flush(B, 4096, true).unwrap();
    assert_eq!(flush.resume(&fault(64, 0)), Some(Descriptor::cache_flush(B + 64, 4032, true).unwrap()));
    // A fence was met when the operation began.
    assert_eq!(
        copy.with_fence().unwrap().resume(&fault(0x2001, 0)).map(|d| d.flags() & flag::FENCE),
        Some(0)
    );
}

#[test]
fn what_is_not_resumed() {
    let copy = Descriptor::memmove(A, B, 4096).unwrap();
    let unresumable = [
        Descriptor::crc(A, 64, Seed::Value(0)),
        Descriptor::copy_crc(A, B, 64, Seed::Value(0)),
        Descriptor::create_delta(A, B, 64, C, 80),
        dif_check(),
        Ok(Descriptor::noop()),
        Ok(Descriptor::drain()),
    ];
    for built in unresumable {
        assert_eq!(built.unwrap().resume(&fault(8, 0)), None);
    }
    for status in [0, 1, 2, 4, 0x84, 5, 6, 9, 0x10, 0x20, 0xff] {
        assert_eq!(copy.resume(&record(status, Some(0), 8, 0, 0)), None, "{status:#x}");
    }
}

#[test]
fn a_list_is_resumed_from_where_its_page_was_missing() {
    let batch = Descriptor::batch(D, 4).unwrap();
    let at = |completed| batch.resume(&record(status::BATCH_PAGE_FAULT, None, completed, F, 0));
    assert_eq!(at(0), Some(batch));
    assert_eq!(at(2), Some(Descriptor::batch(D + 128, 2).unwrap()));
    assert_eq!(at(3), None, "a single one is submitted as it is");
    assert_eq!((at(4), at(u32::MAX)), (None, None));
    assert_eq!(batch.resume(&fault(2, 0)), None);
}

/// Executes on bytes, as slowly as can be, `len` bytes of a fill.
fn fill_bytes(memory: &mut [u8], d: &Descriptor, len: usize) {
    for i in 0..len {
        memory[destination(d) as usize + i] = d.field::<8>(at::SOURCE)[i % 8];
    }
}

/// Executes `len` bytes of a move, from the front or from the end.
fn move_bytes(memory: &mut [u8], d: &Descriptor, len: usize, backwards: bool) {
    for i in 0..len {
        let i = if backwards { d.size() as usize - 1 - i } else { i };
        memory[destination(d) as usize + i] = memory[source(d) as usize + i];
    }
}

#[test]
fn a_resumed_operation_does_the_same_as_an_undisturbed_one() {
    let mut random = Random(0x0bad_cafe);
    for round in 0..2000 {
        let size = 1 + random.below(200);
        let before: Vec<u8> = (0..1024).map(|_| random.next() as u8).collect();
        let fills = random.below(2) == 0;
        let (from, to) = (random.below(500), random.below(500));
        let backwards = from < to;
        let mut d = if fills {
            Descriptor::fill(to, size, random.next() << 32 | random.next()).unwrap()
        } else {
            Descriptor::memmove(from, to, size).unwrap()
        };
        let run = |memory: &mut [u8], d: &Descriptor, len| {
            if fills { fill_bytes(memory, d, len) } else { move_bytes(memory, d, len, backwards) }
        };
        let mut wanted = before.clone();
        run(&mut wanted, &d, size as usize);
        let mut memory = before;
        // Faults anywhere, each reporting any part of what was done, until one run ends without.
        for _ in 0..5 {
            let done = random.below(u64::from(d.size()));
            // What is done twice must not have been overwritten as a source in between.
            let apart = fills || from.abs_diff(to) >= size;
            let told = if apart { random.below(done + 1) } else { done };
            run(&mut memory, &d, done as usize);
            d = d.resume(&fault(told as u32, u8::from(!fills && backwards))).unwrap();
        }
        run(&mut memory, &d, d.size() as usize);
        assert_eq!(memory, wanted, "round {round}: seed 0x0badcafe");
    }
}
