//! Arguments that make no sense are refused, and nothing is written.

use raid6_simd::{Change, Error, Kernels, LostData, Parity, Product, XorMode};

use crate::common::available;

fn each(test: impl Fn(&Kernels)) {
    available().iter().for_each(test);
}

fn change<'a>(exponent: u8, old: &'a [u8], new: &'a [u8]) -> Change<'a> {
    Change { exponent, old: Some(old), new: Some(new) }
}

#[test]
fn source_counts_outside_1_to_255() {
    each(|kernels| {
        let block = [1u8; 8];
        let many = vec![Some(&block[..]); 256];
        let mut dst = [9; 8];
        for (srcs, count) in [(&many[..0], 0), (&many[..], 256)] {
            let refused = Err(Error::SourceCount { count });
            assert_eq!(kernels.xor(srcs, &mut dst, XorMode::Overwrite), refused);
            assert_eq!(kernels.gen_pq(srcs, Some(&mut dst), None), refused);
            assert_eq!(kernels.xor_val(srcs).map(|_| ()), refused);
            assert_eq!(kernels.pq_val(srcs, Some(&block), None).map(|_| ()), refused);
            assert_eq!(kernels.locate(srcs, &block, &block).map(|_| ()), refused);
            let changes: Vec<_> = srcs.iter().map(|_| change(0, &block, &[7; 8])).collect();
            assert_eq!(kernels.pq_update(&changes, Some(&mut dst), None), refused);
            let terms: Vec<_> = srcs.iter().map(|_| Product { coefficient: 2, block: &block }).collect();
            assert_eq!(kernels.gf_mul_add(&terms, &mut dst), refused);
            let mut lost = [LostData { exponent: 0, out: &mut dst }];
            assert_eq!(kernels.recover(srcs, &mut lost, Parity::Good(&block), Parity::Absent), refused);
        }
        assert_eq!(dst, [9; 8]);
        assert_eq!(kernels.xor(&many[..255], &mut dst, XorMode::Overwrite), Ok(()));
        assert_eq!(dst, [1; 8]);
    });
}

#[test]
fn lengths_that_differ() {
    each(|kernels| {
        let (short, long) = ([1u8; 7], [1u8; 8]);
        let mut dst = [9; 8];
        let refused = Err(Error::Length { expected: 8, found: 7 });
        assert_eq!(kernels.xor(&[Some(&long), Some(&short)], &mut dst, XorMode::Overwrite), refused);
        assert_eq!(kernels.gen_pq(&[Some(&short)], Some(&mut dst), None), refused);
        assert_eq!(kernels.gen_pq(&[Some(&long)], Some(&mut dst), Some(&mut [0; 7])), refused);
        assert_eq!(kernels.pq_update(&[change(0, &short, &long)], Some(&mut dst), None), refused);
        assert_eq!(kernels.pq_update(&[change(0, &long, &short)], Some(&mut dst), None), refused);
        let second = [change(0, &long, &[2; 8]), change(1, &long, &short)];
        assert_eq!(kernels.pq_update(&second, Some(&mut dst), None), refused);
        assert_eq!(kernels.pq_update(&second[..1], Some(&mut dst), Some(&mut [0; 7])), refused);
        let terms = [&long[..], &short].map(|block| Product { coefficient: 3, block });
        assert_eq!(kernels.gf_mul_add(&terms, &mut dst), refused);
        assert_eq!(kernels.locate(&[Some(&long)], &long, &short).map(|_| ()), refused);
        assert_eq!(kernels.locate(&[Some(&long), Some(&short)], &long, &long).map(|_| ()), refused);
        assert_eq!(kernels.xor_val(&[Some(&long), Some(&short)]).map(|_| ()), refused);
        assert_eq!(kernels.pq_val(&[Some(&long)], Some(&long), Some(&short)).map(|_| ()), refused);
        let mut lost = [LostData { exponent: 0, out: &mut dst }];
        let data = [None, Some(&short[..])];
        assert_eq!(kernels.recover(&data, &mut lost, Parity::Good(&long), Parity::Absent), refused);
        assert_eq!(kernels.recover(&[None], &mut lost, Parity::Good(&short), Parity::Absent), refused);
        let q = Parity::Lost(&mut [0; 7]);
        assert_eq!(kernels.recover(&[None], &mut lost, Parity::Good(&long), q), refused);
        let mut short_out = [9; 7];
        let mut two =
            [LostData { exponent: 0, out: &mut dst }, LostData { exponent: 1, out: &mut short_out }];
        let both = kernels.recover(&[None; 2], &mut two, Parity::Good(&long), Parity::Good(&long));
        assert_eq!((both, short_out), (refused, [9; 7]));
        assert_eq!(dst, [9; 8]);
    });
}

#[test]
fn no_parity_at_all() {
    each(|kernels| {
        let block = [1u8; 8];
        assert_eq!(kernels.gen_pq(&[Some(&block)], None, None), Err(Error::NoParity));
        assert_eq!(kernels.pq_update(&[change(0, &block, &block)], None, None), Err(Error::NoParity));
        assert_eq!(kernels.pq_val(&[Some(&block)], None, None).map(|_| ()), Err(Error::NoParity));
    });
}

#[test]
fn an_exponent_of_255_or_outside_the_data() {
    each(|kernels| {
        let block = [1u8; 8];
        let mut out = [9; 8];
        let refused = Err(Error::Exponent { exponent: 255, blocks: 255 });
        assert_eq!(kernels.pq_update(&[change(255, &block, &block)], None, Some(&mut out)), refused);
        let second = [change(254, &block, &[3; 8]), change(255, &block, &[3; 8])];
        assert_eq!(kernels.pq_update(&second, None, Some(&mut out)), refused);
        let mut lost = [LostData { exponent: 2, out: &mut out }];
        let refused = Err(Error::Exponent { exponent: 2, blocks: 2 });
        assert_eq!(kernels.recover(&[None, None], &mut lost, Parity::Good(&block), Parity::Absent), refused);
        assert_eq!(out, [9; 8]);
    });
}

#[test]
fn losses_that_make_no_sense_or_are_too_many() {
    each(|kernels| {
        let b = [1u8; 8];
        let (mut x, mut y, mut z, mut par) = ([9; 8], [9; 8], [9; 8], [9; 8]);
        let none = kernels.recover(&[Some(&b)], &mut [], Parity::Good(&b), Parity::Absent);
        assert_eq!(none, Err(Error::NothingLost));
        let nothing_at_all = kernels.recover(&[Some(&b)], &mut [], Parity::Absent, Parity::Absent);
        assert_eq!(nothing_at_all, Err(Error::NothingLost));
        let mut one = [LostData { exponent: 0, out: &mut x }];
        let given = kernels.recover(&[Some(&b)], &mut one, Parity::Good(&b), Parity::Absent);
        assert_eq!(given, Err(Error::LostTwice { exponent: 0 }));
        let without = kernels.recover(&[None], &mut one, Parity::Absent, Parity::Lost(&mut par));
        assert_eq!(without, Err(Error::Unrecoverable { data: 1, p: false, q: false }));
        let mut twice = [LostData { exponent: 0, out: &mut x }, LostData { exponent: 0, out: &mut y }];
        let same = kernels.recover(&[None, None], &mut twice, Parity::Good(&b), Parity::Good(&b));
        assert_eq!(same, Err(Error::LostTwice { exponent: 0 }));
        let mut two = [LostData { exponent: 0, out: &mut x }, LostData { exponent: 1, out: &mut y }];
        let by_p = kernels.recover(&[None, None], &mut two, Parity::Good(&b), Parity::Absent);
        assert_eq!(by_p, Err(Error::Unrecoverable { data: 2, p: true, q: false }));
        let no_p = kernels.recover(&[None, None], &mut two, Parity::Lost(&mut par), Parity::Good(&b));
        assert_eq!(no_p, Err(Error::Unrecoverable { data: 2, p: false, q: true }));
        let [x_lost, y_lost] = two;
        let mut three = [x_lost, y_lost, LostData { exponent: 2, out: &mut z }];
        let too_many = kernels.recover(&[None; 3], &mut three, Parity::Good(&b), Parity::Good(&b));
        assert_eq!(too_many, Err(Error::Unrecoverable { data: 3, p: true, q: true }));
        assert_eq!([x, y, z, par], [[9; 8]; 4]);
    });
}
