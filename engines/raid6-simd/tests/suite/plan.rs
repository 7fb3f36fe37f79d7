//! One stripe and every operation on it: arguments and expected results made once, then run on each
//! implementation.

use raid6_simd::{Change, Kernels, Located, LostData, Mismatch, Parity, Product, XorMode};

use crate::common::{Rng, add};
use crate::guarded::{Guarded, random_offset};
use crate::oracle;

/// Data blocks by exponent.
type Data<'a> = Vec<Option<&'a [u8]>>;

pub(crate) struct Plan<'a> {
    data: Data<'a>,
    len: usize,
    p: Vec<u8>,
    q: Vec<u8>,
    /// P and Q where they are read.
    p_in: Guarded,
    q_in: Guarded,
    /// What is written, and the bytes that it has before.
    out: [Guarded; 2],
    garbage: [Vec<u8>; 2],
    /// What is made wrong: a byte of P and one of Q, and the bits of them. `None` if blocks are empty.
    wrong: Option<([usize; 2], u8)>,
    changes: Vec<Change<'a>>,
    updated: [Vec<u8>; 2],
    terms: Vec<Product<'a>>,
    sum: Vec<u8>,
    /// Two members, data by exponent, then P, then Q; may be the same.
    lost: [usize; 2],
    /// A data block that is wrong in several bytes.
    bad: usize,
}

impl<'a> Plan<'a> {
    /// Operations on these blocks of `len` bytes, with all destinations in random places.
    pub(crate) fn new(rng: &mut Rng, data: Data<'a>, len: usize) -> Self {
        let places = [random_offset(rng), random_offset(rng)];
        Plan::at(rng, data, len, places)
    }

    /// With the two destinations in these places; see [`Guarded::new`].
    pub(crate) fn at(rng: &mut Rng, data: Data<'a>, len: usize, places: [Option<usize>; 2]) -> Self {
        let (p, q) = oracle::parities(&data, len);
        let (p_in, q_in) = (Guarded::random(rng, &p), Guarded::random(rng, &q));
        let garbage = [rng.bytes(len), rng.bytes(len)];
        let out = [Guarded::new(&garbage[0], places[0]), Guarded::new(&garbage[1], places[1])];
        let wrong = (len > 0).then(|| ([rng.place(len), rng.place(len)], rng.nonzero()));

        let members = data.len() + 2;
        let changes = random_changes(rng, &data);
        let [mut new_p, mut new_q] = garbage.clone();
        oracle::update(&changes, &mut new_p, &mut new_q);
        let block =
            |block: &Option<&'a [u8]>| block.map(|block| Product { coefficient: rng.next() as u8, block });
        let terms: Vec<_> = data.iter().filter_map(block).collect();
        let mut sum = garbage[0].clone();
        oracle::mul_add(&terms, &mut sum);
        let (lost, bad) = ([rng.below(members), rng.below(members)], rng.below(data.len()));
        let updated = [new_p, new_q];
        Plan { data, len, p, q, p_in, q_in, out, garbage, wrong, changes, updated, terms, sum, lost, bad }
    }

    /// Every operation, with every result compared.
    pub(crate) fn run(&mut self, kernels: &Kernels, what: &str) {
        let what = format!("{what}: {kernels:?}, {} blocks of {} bytes", self.data.len(), self.len);
        self.xor(kernels, &what);
        self.xor_val(kernels, &what);
        self.gen_pq(kernels, &what);
        self.pq_val(kernels, &what);
        self.pq_update(kernels, &what);
        self.mul_add(kernels, &what);
        self.recover(kernels, &what);
        self.locate(kernels, &what);
    }

    /// Fills what is written with garbage, and gives it and P and Q.
    fn reset(&mut self) -> [&mut Guarded; 2] {
        let [a, b] = &mut self.out;
        a.fill(&self.garbage[0]);
        b.fill(&self.garbage[1]);
        [a, b]
    }

    /// Both destinations, `None` for one that has kept its garbage.
    fn written(&mut self, a: Option<&[u8]>, b: Option<&[u8]>, what: &str) {
        self.out[0].assert_is(a.unwrap_or(&self.garbage[0]), what);
        self.out[1].assert_is(b.unwrap_or(&self.garbage[1]), what);
    }

    fn xor(&mut self, kernels: &Kernels, what: &str) {
        let (data, p) = (self.data.clone(), self.p.clone());
        let [dst, _] = self.reset();
        kernels.xor(&data, dst.bytes_mut(), XorMode::Overwrite).unwrap();
        self.written(Some(&p), None, &format!("{what}: xor"));
        let mut sum = p;
        add(&mut sum, &self.garbage[0]);
        let [dst, _] = self.reset();
        kernels.xor(&data, dst.bytes_mut(), XorMode::Accumulate).unwrap();
        self.written(Some(&sum), None, &format!("{what}: xor to what is there"));
    }

    fn xor_val(&mut self, kernels: &Kernels, what: &str) {
        let zero = self.p.iter().all(|byte| *byte == 0);
        assert_eq!(kernels.xor_val(&self.data), Ok(zero), "{what}: xor_val");
        if self.data.len() == 255 {
            return;
        }
        let val = |p: &Guarded| {
            let mut srcs = self.data.clone();
            srcs.push(Some(p.bytes()));
            kernels.xor_val(&srcs).unwrap()
        };
        assert!(val(&self.p_in), "{what}: xor_val with P");
        if let Some(([at, _], bits)) = self.wrong {
            self.p_in.bytes_mut()[at] ^= bits;
            assert!(!val(&self.p_in), "{what}: xor_val with byte {at} wrong by {bits:#x}");
            self.p_in.bytes_mut()[at] ^= bits;
        }
    }

    fn gen_pq(&mut self, kernels: &Kernels, what: &str) {
        let (data, p, q) = (self.data.clone(), self.p.clone(), self.q.clone());
        for (with_p, with_q) in [(true, true), (true, false), (false, true)] {
            let [p_out, q_out] = self.reset();
            let (p_arg, q_arg) = (with_p.then(|| p_out.bytes_mut()), with_q.then(|| q_out.bytes_mut()));
            kernels.gen_pq(&data, p_arg, q_arg).unwrap();
            let what = format!("{what}: gen_pq, P {with_p}, Q {with_q}");
            self.written(with_p.then_some(&p), with_q.then_some(&q), &what);
        }
    }

    fn pq_val(&mut self, kernels: &Kernels, what: &str) {
        let all = |p: &Guarded, q: &Guarded| {
            let both = kernels.pq_val(&self.data, Some(p.bytes()), Some(q.bytes())).unwrap();
            let alone_p = kernels.pq_val(&self.data, Some(p.bytes()), None).unwrap();
            let alone_q = kernels.pq_val(&self.data, None, Some(q.bytes())).unwrap();
            assert_eq!(alone_p, Mismatch { p: both.p, q: false }, "{what}: pq_val of P alone");
            assert_eq!(alone_q, Mismatch { p: false, q: both.q }, "{what}: pq_val of Q alone");
            (both.p, both.q)
        };
        assert_eq!(all(&self.p_in, &self.q_in), (false, false), "{what}: pq_val, nothing wrong");
        let Some(([at_p, at_q], bits)) = self.wrong else { return };
        for (p, q) in [(true, false), (true, true), (false, true)] {
            let (in_p, in_q) = (bits * u8::from(p), bits * u8::from(q));
            self.p_in.bytes_mut()[at_p] ^= in_p;
            self.q_in.bytes_mut()[at_q] ^= in_q;
            let found = all(&self.p_in, &self.q_in);
            assert_eq!(found, (p, q), "{what}: pq_val, wrong at {at_p} and {at_q} by {bits:#x}");
            self.p_in.bytes_mut()[at_p] ^= in_p;
            self.q_in.bytes_mut()[at_q] ^= in_q;
        }
    }

    fn pq_update(&mut self, kernels: &Kernels, what: &str) {
        let (changes, [p, q]) = (self.changes.clone(), self.updated.clone());
        for (with_p, with_q) in [(true, true), (true, false), (false, true)] {
            let [p_out, q_out] = self.reset();
            let (p_arg, q_arg) = (with_p.then(|| p_out.bytes_mut()), with_q.then(|| q_out.bytes_mut()));
            kernels.pq_update(&changes, p_arg, q_arg).unwrap();
            let what = format!("{what}: pq_update of {} blocks, P {with_p}, Q {with_q}", changes.len());
            self.written(with_p.then_some(&p), with_q.then_some(&q), &what);
        }
    }

    fn mul_add(&mut self, kernels: &Kernels, what: &str) {
        if !self.terms.is_empty() {
            let (terms, sum) = (self.terms.clone(), self.sum.clone());
            let [dst, _] = self.reset();
            kernels.gf_mul_add(&terms, dst.bytes_mut()).unwrap();
            self.written(Some(&sum), None, &format!("{what}: gf_mul_add of {} blocks", terms.len()));
        }
    }

    fn recover(&mut self, kernels: &Kernels, what: &str) {
        let (n, [a, b]) = (self.data.len(), self.lost);
        let mut members = vec![a, b];
        members.dedup();
        let left: Data<'_> =
            self.data.iter().enumerate().map(|(i, block)| block.filter(|_| !members.contains(&i))).collect();
        self.reset();
        let (mut lost, mut p, mut q) =
            (Vec::new(), Parity::Good(self.p_in.bytes()), Parity::Good(self.q_in.bytes()));
        for (member, out) in members.iter().zip(&mut self.out) {
            match *member {
                i if i == n => p = Parity::Lost(out.bytes_mut()),
                i if i > n => q = Parity::Lost(out.bytes_mut()),
                i => lost.push(LostData { exponent: i as u8, out: out.bytes_mut() }),
            }
        }
        kernels.recover(&left, &mut lost, p, q).unwrap();
        let zeroes = vec![0; self.len];
        let bytes = |member: &usize| match *member {
            i if i == n => self.p.clone(),
            i if i > n => self.q.clone(),
            i => self.data[i].unwrap_or(&zeroes).to_vec(),
        };
        let expected: Vec<_> = members.iter().map(bytes).collect();
        let second = expected.get(1).map(Vec::as_slice);
        self.written(expected.first().map(Vec::as_slice), second, &format!("{what}: recover {members:?}"));
    }

    fn locate(&mut self, kernels: &Kernels, what: &str) {
        let found = |p: &Guarded, q: &Guarded| kernels.locate(&self.data, p.bytes(), q.bytes()).unwrap();
        assert_eq!(found(&self.p_in, &self.q_in), Located::Nothing, "{what}: locate, nothing wrong");
        let Some((places, bits)) = self.wrong else { return };
        // Data block `bad` is wrong at two bytes (or one): P and Q say so, whatever they are made from.
        let coefficient = oracle::power(self.bad);
        let distinct = if places[0] == places[1] { &places[..1] } else { &places[..] };
        for (at, e) in distinct.iter().zip([bits, 0xff ^ bits]) {
            self.p_in.bytes_mut()[*at] ^= e;
            self.q_in.bytes_mut()[*at] ^= oracle::mul(coefficient, e);
        }
        let is = found(&self.p_in, &self.q_in);
        let there = self.data[self.bad].is_some();
        let expected = if there { Located::Data(self.bad as u8) } else { Located::Several };
        assert_eq!(is, expected, "{what}: locate, wrong at {distinct:?}");
        self.q_in.fill(&self.q);
        assert_eq!(found(&self.p_in, &self.q_in), Located::P, "{what}: locate, P wrong at {distinct:?}");
        self.p_in.fill(&self.p);
        self.q_in.bytes_mut()[places[0]] ^= bits;
        assert_eq!(found(&self.p_in, &self.q_in), Located::Q, "{what}: locate, Q wrong at {places:?}");
        self.q_in.fill(&self.q);
    }
}

/// Changes whose old and new bytes are blocks of the data or absent; exponents may come twice, and one
/// change with both is frequent.
fn random_changes<'a>(rng: &mut Rng, data: &[Option<&'a [u8]>]) -> Vec<Change<'a>> {
    let count = match rng.below(8) {
        0..4 => 1,
        4..7 => 1 + rng.below(4),
        _ => 1 + rng.below(data.len()),
    };
    let block = |rng: &mut Rng| if rng.chance(5) { None } else { data[rng.below(data.len())] };
    let change = |rng: &mut Rng| Change {
        exponent: if rng.chance(2) { rng.below(4) as u8 } else { rng.below(255) as u8 },
        old: block(rng),
        new: block(rng),
    };
    (0..count).map(|_| change(rng)).collect()
}
