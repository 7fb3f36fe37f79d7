//! What the results ought to be: the definitions, with a multiplication table that shares nothing with
//! the crate's.

use std::sync::LazyLock;

use raid6_simd::{Change, Located, Product, gf};

use crate::common::add;

/// `TABLE[a][b] = a * b`: the product of two polynomials over GF(2), then the remainder by 0x11d.
static TABLE: LazyLock<Vec<[u8; 256]>> = LazyLock::new(|| {
    let product = |a: u32, b: u32| {
        let mut product = (0..8).filter(|bit| b >> bit & 1 == 1).fold(0, |sum, bit| sum ^ (a << bit));
        for bit in (8..15).rev() {
            if product >> bit & 1 == 1 {
                product ^= 0x11d << (bit - 8);
            }
        }
        product as u8
    };
    (0..256).map(|a| std::array::from_fn(|b| product(a, b as u32))).collect()
});

pub(crate) fn mul(a: u8, b: u8) -> u8 {
    TABLE[usize::from(a)][usize::from(b)]
}

/// `2^n`.
pub(crate) fn power(n: usize) -> u8 {
    (0..n).fold(1, |x, _| mul(2, x))
}

/// `sum += coefficient * block`.
pub(crate) fn add_product(sum: &mut [u8], coefficient: u8, block: &[u8]) {
    let row = &TABLE[usize::from(coefficient)];
    sum.iter_mut().zip(block).for_each(|(sum, byte)| *sum ^= row[usize::from(*byte)]);
}

/// P and Q of the data.
pub(crate) fn parities(data: &[Option<&[u8]>], len: usize) -> (Vec<u8>, Vec<u8>) {
    let (mut p, mut q) = (vec![0; len], vec![0; len]);
    for (exponent, block) in data.iter().enumerate() {
        if let Some(block) = block {
            add(&mut p, block);
            add_product(&mut q, power(exponent), block);
        }
    }
    (p, q)
}

/// What `pq_update` makes of these P and Q.
pub(crate) fn update(changes: &[Change<'_>], p: &mut [u8], q: &mut [u8]) {
    for change in changes {
        for block in [change.old, change.new].into_iter().flatten() {
            add(p, block);
            add_product(q, power(usize::from(change.exponent)), block);
        }
    }
}

/// What `gf_mul_add` makes of `sum`.
pub(crate) fn mul_add(terms: &[Product<'_>], sum: &mut [u8]) {
    terms.iter().for_each(|term| add_product(sum, term.coefficient, term.block));
}

/// Tries every value of every byte of every block: the one block with which all can be made right.
pub(crate) fn locate(data: &[Option<&[u8]>], p: &[u8], q: &[u8]) -> Located {
    let (mut sp, mut sq) = parities(data, p.len());
    add(&mut sp, p);
    add(&mut sq, q);
    let bytes: Vec<_> = sp.into_iter().zip(sq).collect();
    if bytes.iter().all(|byte| *byte == (0, 0)) {
        return Located::Nothing;
    }
    // What adding `e` to a byte of the block adds to the two syndromes.
    let explains =
        |effect: &dyn Fn(u8) -> (u8, u8)| bytes.iter().all(|wrong| (0..=255).any(|e| effect(e) == *wrong));
    let mut found = Vec::new();
    // A block that is not there cannot be the wrong one.
    for z in (0..data.len()).filter(|z| data[*z].is_some()) {
        let coefficient = power(z);
        if explains(&|e| (e, mul(coefficient, e))) {
            found.push(Located::Data(z as u8));
        }
    }
    if explains(&|e| (e, 0)) {
        found.push(Located::P);
    }
    if explains(&|e| (0, e)) {
        found.push(Located::Q);
    }
    assert!(found.len() <= 1, "an error that two blocks explain: {found:?}");
    found.pop().unwrap_or(Located::Several)
}

#[test]
fn the_field_of_the_crate_is_that_of_the_oracle() {
    for a in 0..=255 {
        for b in 0..=255 {
            assert_eq!(gf::mul(a, b), mul(a, b), "{a} * {b}");
        }
    }
    (0..600).for_each(|n| assert_eq!(gf::exp(n), power(n), "2^{n}"));
}
