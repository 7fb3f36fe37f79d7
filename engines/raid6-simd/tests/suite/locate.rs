//! Finding the wrong block, against trying every byte of every block.

use raid6_simd::Located;

use crate::common::*;
use crate::guarded::Guarded;
use crate::oracle;

const SEED: u64 = 0x5eed_0005;

/// A stripe that can be damaged.
struct Stripe {
    data: Vec<Option<Guarded>>,
    p: Guarded,
    q: Guarded,
}

impl Stripe {
    fn random(rng: &mut Rng, count: usize, len: usize) -> Self {
        let data = random_data(rng, count, len);
        let (p, q) = oracle::parities(&slices(&data), len);
        Stripe { p: Guarded::random(rng, &p), q: Guarded::random(rng, &q), data }
    }

    /// A block by member: data by exponent, then P, then Q. A gap cannot be damaged, so it is filled in.
    fn member(&mut self, member: usize) -> &mut [u8] {
        let (n, len) = (self.data.len(), self.p.bytes().len());
        if member == n {
            self.p.bytes_mut()
        } else if member > n {
            self.q.bytes_mut()
        } else {
            self.data[member].get_or_insert_with(|| Guarded::new(&vec![0; len], None)).bytes_mut()
        }
    }

    /// The answer if this member is the only one that is wrong.
    fn name(&self, member: usize) -> Located {
        match member.checked_sub(self.data.len()) {
            None => Located::Data(member as u8),
            Some(0) => Located::P,
            Some(_) => Located::Q,
        }
    }

    fn brute_force(&self) -> Located {
        oracle::locate(&slices(&self.data), self.p.bytes(), self.q.bytes())
    }

    /// All implementations must give the answer.
    fn assert_is(&self, expected: Located, what: &str) {
        let data = slices(&self.data);
        for kernels in available() {
            let found = kernels.locate(&data, self.p.bytes(), self.q.bytes());
            assert_eq!(found, Ok(expected), "{what}: {kernels:?}, {} blocks", data.len());
        }
    }
}

#[test]
fn one_wrong_block_is_named_however_many_of_its_bytes_are_wrong() {
    each_case(SEED, 80, |rng, what| {
        let count = if rng.chance(4) { 255 } else { 1 + rng.below(255) };
        let most = if rng.chance(16) { 10_000 } else { 400 };
        let len = 1 + rng.below(most);
        let mut stripe = Stripe::random(rng, count, len);
        let member = rng.below(count + 2);
        let wrong = if rng.chance(4) { len } else { 1 + rng.below(4) };
        for _ in 0..wrong {
            stripe.member(member)[rng.place(len)] = rng.next() as u8;
        }
        let at = rng.place(len);
        // At least one byte is wrong for certain, unless it was made right by chance before.
        stripe.member(member)[at] ^= rng.nonzero();
        let (p, q) = oracle::parities(&slices(&stripe.data), len);
        let expected = if p == stripe.p.bytes() && q == stripe.q.bytes() {
            Located::Nothing
        } else {
            stripe.name(member)
        };
        stripe.assert_is(expected, what);
    });
}

/// Every member of stripes of every width, one byte wrong.
#[test]
fn every_member_of_every_stripe_is_named() {
    let mut rng = Rng(SEED ^ 1);
    for count in (1..=12).chain([100, 254, 255]) {
        let len = 1 + rng.below(130);
        let mut stripe = Stripe::random(&mut rng, count, len);
        for member in 0..count + 2 {
            let (at, bits) = (rng.place(len), rng.nonzero());
            stripe.member(member)[at] ^= bits;
            stripe.assert_is(stripe.name(member), &format!("member {member}, byte {at} of {len}"));
            stripe.member(member)[at] ^= bits;
        }
    }
}

/// The first wrong byte is found at every place, and one that says otherwise wherever it is.
#[test]
fn a_second_block_is_noticed_at_any_distance() {
    let mut rng = Rng(SEED ^ 2);
    let (count, len) = (4, 64 * 9 + 5);
    let mut stripe = Stripe::random(&mut rng, count, len);
    for at in 0..len {
        let (a, b) = (rng.below(count + 2), rng.below(count + 2));
        let (other, bits) = (rng.place(len), rng.nonzero());
        stripe.member(a)[at] ^= bits;
        stripe.assert_is(stripe.name(a), &format!("byte {at}"));
        if other != at {
            stripe.member(b)[other] ^= bits;
            let expected = if a == b { stripe.name(a) } else { Located::Several };
            stripe.assert_is(expected, &format!("members {a} and {b}, bytes {at} and {other}"));
            stripe.member(b)[other] ^= bits;
        }
        stripe.member(a)[at] ^= bits;
    }
}

/// Up to three wrong blocks at the same bytes or at others: whatever brute force says, which may be that
/// it looks like a third block.
#[test]
fn several_wrong_blocks_are_judged_as_by_brute_force() {
    let mut seen = [0; 4];
    each_case(SEED ^ 3, 250, |rng, what| {
        let count = [1, 2, 3, 5, 12, 254, 255][rng.below(7)];
        let len = 1 + rng.below(if count > 12 { 3 } else { 40 });
        let mut stripe = Stripe::random(rng, count, len);
        for _ in 0..1 + rng.below(3) {
            let member = rng.below(count + 2);
            let at = if rng.chance(2) { 0 } else { rng.below(len) };
            stripe.member(member)[at] ^= rng.nonzero();
        }
        let expected = stripe.brute_force();
        seen[match expected {
            Located::Nothing => 0,
            Located::Data(_) => 1,
            Located::P | Located::Q => 2,
            Located::Several => 3,
        }] += 1;
        stripe.assert_is(expected, what);
    });
    assert!(seen[1..].iter().all(|count| *count > 10), "{seen:?}: too few of a kind");
}

/// What the crate's manual warns of: errors that look like others, or like none.
#[test]
fn errors_that_vanish_or_look_like_others() {
    let mut rng = Rng(SEED ^ 4);
    for len in [1, 8, 63, 64, 65, 300, 600] {
        let (count, z, e) = (9, rng.below(9), rng.nonzero());
        let mut stripe = Stripe::random(&mut rng, count, len);
        let at = rng.place(len);
        let what = format!("byte {at} of {len} of D{z}");
        let in_q = oracle::mul(oracle::power(z), e);

        // Wrong data whose P is wrong by as much: Q alone contradicts.
        stripe.member(z)[at] ^= e;
        stripe.member(count)[at] ^= e;
        stripe.assert_is(Located::Q, &what);
        // And Q as well: a stripe without a fault.
        stripe.member(count + 1)[at] ^= in_q;
        stripe.assert_is(Located::Nothing, &what);
        // Only Q: P alone contradicts.
        stripe.member(count)[at] ^= e;
        stripe.assert_is(Located::P, &what);
        stripe.member(z)[at] ^= e;
        stripe.member(count + 1)[at] ^= in_q;
        stripe.assert_is(Located::Nothing, &what);

        // P and Q wrong as an error in another data block would make them.
        for other in 0..255 {
            stripe.member(count)[at] ^= e;
            stripe.member(count + 1)[at] ^= oracle::mul(oracle::power(other), e);
            let there = stripe.data.get(other).is_some_and(Option::is_some);
            let expected = if there { Located::Data(other as u8) } else { Located::Several };
            stripe.assert_is(expected, &format!("{what}, like D{other}"));
            stripe.member(count)[at] ^= e;
            stripe.member(count + 1)[at] ^= oracle::mul(oracle::power(other), e);
        }
    }
}

#[test]
fn empty_blocks_are_right() {
    for kernels in available() {
        assert_eq!(kernels.locate(&[None, Some(&[])], &[], &[]), Ok(Located::Nothing), "{kernels:?}");
    }
}
