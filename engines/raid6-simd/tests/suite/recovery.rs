//! Recovery: every loss of small arrays, with everything that can be said of P and Q, and sampled losses
//! of large ones. What is recoverable must come back; the rest must be refused with nothing written.

use raid6_simd::{Error, Kernels, LostData, Parity};

use crate::common::*;
use crate::guarded::{Guarded, random_offset};
use crate::oracle;

const SEED: u64 = 0x5eed_0002;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Absent,
    Good,
    Lost,
}

use State::{Absent, Good, Lost};

const STATES: [State; 3] = [Absent, Good, Lost];

struct Stripe {
    data: Vec<Option<Guarded>>,
    len: usize,
    /// P and Q.
    parities: [Guarded; 2],
    /// For lost data, P and Q, and what is there before.
    out: [Guarded; 4],
    garbage: Vec<u8>,
}

impl Stripe {
    fn random(rng: &mut Rng, count: usize, len: usize) -> Self {
        let data = random_data(rng, count, len);
        let (p, q) = oracle::parities(&slices(&data), len);
        let garbage = rng.bytes(len);
        let parities = [Guarded::random(rng, &p), Guarded::random(rng, &q)];
        // Streaming asks that all that is written is aligned, which would be rare by chance.
        let alike = rng.chance(2).then(|| random_offset(rng));
        let out =
            std::array::from_fn(|_| Guarded::new(&garbage, alike.unwrap_or_else(|| random_offset(rng))));
        Stripe { data, len, parities, out, garbage }
    }

    /// Loses these data blocks, with P and Q as said, and recovers.
    fn lose(&mut self, kernels: &[Kernels], lost: &[usize], p: State, q: State, what: &str) {
        for kernels in kernels {
            let n = self.data.len();
            let what = format!(
                "{what}: {kernels:?}, {n} blocks of {} bytes, lost {lost:?}, P {p:?}, Q {q:?}",
                self.len
            );
            let result = self.recover(kernels, lost, p, q);
            assert_eq!(result, verdict(lost.len(), p, q), "{what}");
            self.assert_written(result.is_ok(), lost, p, q, &what);
        }
    }

    fn recover(&mut self, kernels: &Kernels, lost: &[usize], p: State, q: State) -> Result<(), Error> {
        let blocks = slices(&self.data).into_iter().enumerate();
        let data: Vec<_> = blocks.map(|(i, block)| block.filter(|_| !lost.contains(&i))).collect();
        self.out.iter_mut().for_each(|out| out.fill(&self.garbage));
        let [out_x, out_y, out_p, out_q] = &mut self.out;
        let mut lost: Vec<_> = lost
            .iter()
            .zip([out_x, out_y])
            .map(|(exponent, out)| LostData { exponent: *exponent as u8, out: out.bytes_mut() })
            .collect();
        let [good_p, good_q] = &self.parities;
        kernels.recover(&data, &mut lost, argument(p, good_p, out_p), argument(q, good_q, out_q))
    }

    fn assert_written(&mut self, done: bool, lost: &[usize], p: State, q: State, what: &str) {
        let zeroes = vec![0; self.len];
        for (i, out) in self.out[..2].iter_mut().enumerate() {
            let expected = match lost.get(i) {
                Some(exponent) if done => self.data[*exponent].as_ref().map_or(&zeroes[..], Guarded::bytes),
                _ => &self.garbage,
            };
            out.assert_is(expected, &format!("{what}: data"));
        }
        for ((state, good), out) in [p, q].into_iter().zip(&self.parities).zip(&mut self.out[2..]) {
            let expected = if done && state == Lost { good.bytes() } else { &self.garbage };
            out.assert_is(expected, &format!("{what}: parity"));
        }
    }
}

fn argument<'a>(state: State, good: &'a Guarded, out: &'a mut Guarded) -> Parity<'a> {
    match state {
        Absent => Parity::Absent,
        Good => Parity::Good(good.bytes()),
        Lost => Parity::Lost(out.bytes_mut()),
    }
}

/// What a loss of so many data blocks must lead to: each takes one good parity.
fn verdict(data: usize, p: State, q: State) -> Result<(), Error> {
    let good = [p, q].into_iter().filter(|state| *state == Good).count();
    if data == 0 && p != Lost && q != Lost {
        Err(Error::NothingLost)
    } else if data <= good {
        Ok(())
    } else {
        Err(Error::Unrecoverable { data, p: p == Good, q: q == Good })
    }
}

/// No data block, each alone, and every pair in both orders.
fn losses(n: usize) -> Vec<Vec<usize>> {
    let alone = (0..n).map(|x| vec![x]);
    let pairs = (0..n).flat_map(|x| (0..n).filter(move |y| *y != x).map(move |y| vec![x, y]));
    [vec![]].into_iter().chain(alone).chain(pairs).collect()
}

#[test]
fn every_loss_of_3_to_12_members() {
    let variants = variants();
    let mut rng = Rng(SEED);
    for n in 1..=10 {
        for lost in losses(n) {
            let len = if rng.chance(4) { 64 * rng.below(11) + rng.below(3) } else { rng.below(500) };
            let mut stripe = Stripe::random(&mut rng, n, len);
            for (p, q) in STATES.into_iter().flat_map(|p| STATES.map(|q| (p, q))) {
                stripe.lose(&variants, &lost, p, q, "3 to 12 members");
            }
        }
    }
}

#[test]
fn sampled_losses_of_up_to_257_members() {
    let variants = variants();
    each_case(SEED ^ 1, 100, |rng, what| {
        let n = if rng.chance(4) { 255 } else { 1 + rng.below(255) };
        let len = rng.below(200);
        let mut stripe = Stripe::random(rng, n, len);
        let mut lost: Vec<_> = (0..rng.below(4).min(2)).map(|_| rng.place(n)).collect();
        lost.dedup();
        stripe.lose(&variants, &lost, Good, Good, what);
        stripe.lose(&variants, &lost, STATES[rng.below(3)], STATES[rng.below(3)], what);
    });
}

/// The difference of the exponents decides the coefficients: all of them, and both ends.
#[test]
fn every_distance_of_two_lost_blocks() {
    let kernels = available();
    let mut rng = Rng(SEED ^ 2);
    let mut stripe = Stripe::random(&mut rng, 255, 70);
    for distance in 1..255 {
        let x = rng.below(255 - distance);
        stripe.lose(&kernels, &[x, x + distance], Good, Good, "every distance");
    }
}

#[test]
fn long_blocks() {
    let variants = variants();
    each_case(SEED ^ 3, 6, |rng, what| {
        let (n, len) = (2 + rng.below(8), rng.below(70_001));
        let mut stripe = Stripe::random(rng, n, len);
        let x = rng.below(n);
        let lost = [x, (x + 1 + rng.below(n - 1)) % n];
        stripe.lose(&variants, &lost, Good, Good, what);
        stripe.lose(&variants, &lost[..1], Good, Lost, what);
        stripe.lose(&variants, &lost[..1], Lost, Good, what);
        stripe.lose(&variants, &lost[..1], Good, Absent, what);
        stripe.lose(&variants, &lost[..0], Lost, Lost, what);
    });
}
