//! The operations: what an input says, and how it is run.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use raid6_simd::{
    Change, Error, Kernel, Kernels, Located, LostData, Mismatch, Parity, Product, Selection, Stores, XorMode,
    gf,
};

use crate::memory::{Block, Place};
use crate::sources::{Fill, Sources, decode_count, decode_len};

/// What went wrong at one byte of a stripe: `p` is added to P, and `2^exponent * data` as an error of that
/// data block would be, to both.
#[derive(Debug)]
struct Damage {
    at: usize,
    exponent: usize,
    data: u8,
    p: u8,
    q: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Absent,
    Good,
    Lost,
}

#[derive(Debug)]
enum Operation {
    Xor(XorMode),
    XorVal {
        close: bool,
    },
    GenPq {
        p: bool,
        q: bool,
    },
    PqVal {
        p: bool,
        q: bool,
    },
    /// By pairs of sources: the exponents.
    Update {
        exponents: Vec<u8>,
        p: bool,
        q: bool,
    },
    MulAdd {
        coefficients: Vec<u8>,
    },
    /// `given`: lost blocks are given as sources all the same, which must be refused.
    Recover {
        lost: Vec<u8>,
        given: bool,
        p: State,
        q: State,
    },
    Locate,
}

/// One input, decoded.
#[derive(Debug)]
pub struct Case {
    operation: Operation,
    /// How the kernels that run it are to store.
    pub stores: Stores,
    len: usize,
    sources: Sources,
    /// Where the blocks that are written lie (and P and Q where they are read), and their old bytes.
    places: [Place; 4],
    garbage: Fill,
    damage: Vec<Damage>,
    parities: [Vec<u8>; 2],
}

/// What a run returned and wrote.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: std::result::Result<Verdict, Error>,
    pub written: Vec<Vec<u8>>,
}

#[derive(PartialEq, Eq, Debug)]
pub enum Verdict {
    Done,
    Zero(bool),
    Mismatch(Mismatch),
    Located(Located),
}

fn decode_operation(u: &mut Unstructured<'_>, count: usize) -> Result<Operation> {
    let state =
        |u: &mut Unstructured<'_>| u.choose(&[State::Good, State::Good, State::Lost, State::Absent]).copied();
    Ok(match u.int_in_range(0..=8)? {
        0 => Operation::Xor(XorMode::Overwrite),
        1 => Operation::Xor(XorMode::Accumulate),
        2 => Operation::XorVal { close: u.arbitrary()? },
        3 => Operation::GenPq { p: u.arbitrary()?, q: u.arbitrary()? },
        4 => Operation::PqVal { p: !u.ratio(1, 4)?, q: !u.ratio(1, 4)? },
        5 => {
            let exponents = (0..count.div_ceil(2)).map(|_| u.arbitrary()).collect::<Result<_>>()?;
            Operation::Update { exponents, p: !u.ratio(1, 4)?, q: !u.ratio(1, 4)? }
        }
        6 => Operation::MulAdd { coefficients: (0..count).map(|_| u.arbitrary()).collect::<Result<_>>()? },
        7 => {
            // One beyond the last block must be refused; so must three.
            let lost = u.choose(&[0, 1, 1, 2, 2, 2, 3])?;
            let lost =
                (0..*lost).map(|_| Ok(u.int_in_range(0..=count)?.min(255) as u8)).collect::<Result<_>>()?;
            Operation::Recover { lost, given: u.ratio(1, 16)?, p: state(u)?, q: state(u)? }
        }
        _ => Operation::Locate,
    })
}

fn decode_damage(u: &mut Unstructured<'_>, len: usize) -> Result<Vec<Damage>> {
    let places = if len == 0 { 0 } else { u.int_in_range(0..=3)? };
    // Often all in one block, and elsewhere a byte is as often right.
    let exponent = u.int_in_range(0..=254)?;
    let byte = |u: &mut Unstructured<'_>| if u.ratio(3, 4)? { Ok(0) } else { u.arbitrary() };
    let one = |u: &mut Unstructured<'_>| {
        let at = u.int_in_range(0..=len - 1)?;
        let exponent = if u.ratio(1, 4)? { u.int_in_range(0..=254)? } else { exponent };
        Ok(Damage { at, exponent, data: u.arbitrary()?, p: byte(u)?, q: byte(u)? })
    };
    (0..places).map(|_| one(u)).collect()
}

impl Case {
    pub fn decode(data: &[u8]) -> Result<Self> {
        let u = &mut Unstructured::new(data);
        let count = decode_count(u)?;
        let len = decode_len(u, count)?;
        let operation = decode_operation(u, count)?;
        let stores = if u.arbitrary()? { Stores::Streaming } else { Stores::Cached };
        let places = [Place::decode(u)?, Place::decode(u)?, Place::decode(u)?, Place::decode(u)?];
        let garbage = Fill::decode(u)?;
        let damage = decode_damage(u, len)?;
        let sources = Sources::decode(u, count, len)?;
        let parities = parities(&sources.slices(), len, &damage);
        Ok(Case { operation, stores, len, sources, places, garbage, damage, parities })
    }

    /// A block to be written, full of garbage.
    fn out(&self, place: usize) -> Block {
        Block::new(self.places[place], self.len, |at| self.garbage.byte(at))
    }

    /// P (0) or Q (1) of the sources, damaged as the input says.
    fn parity(&self, which: usize) -> Block {
        Block::new(self.places[which], self.len, |at| self.parities[which][at])
    }

    /// Runs the operation once.
    pub fn run(&self, kernels: &Kernels) -> Outcome {
        let srcs = self.sources.slices();
        match &self.operation {
            Operation::Xor(mode) => {
                let mut dst = self.out(0);
                let done = kernels.xor(&srcs, dst.bytes_mut(), *mode);
                Outcome { verdict: done.map(|()| Verdict::Done), written: vec![dst.finish()] }
            }
            Operation::XorVal { close } => self.xor_val(kernels, srcs, *close),
            Operation::GenPq { p, q } => {
                self.into_parities(self.out(0), self.out(1), *p, *q, |p, q| kernels.gen_pq(&srcs, p, q))
            }
            Operation::PqVal { p, q } => {
                let (p_block, q_block) = (self.parity(0), self.parity(1));
                let found = kernels.pq_val(&srcs, p.then(|| p_block.bytes()), q.then(|| q_block.bytes()));
                Outcome { verdict: found.map(Verdict::Mismatch), written: vec![] }
            }
            Operation::Update { exponents, p, q } => {
                let changes: Vec<_> = exponents
                    .iter()
                    .zip(srcs.chunks(2))
                    .map(|(exponent, pair)| Change {
                        exponent: *exponent,
                        old: pair[0],
                        new: pair.get(1).copied().flatten(),
                    })
                    .collect();
                self.into_parities(self.parity(0), self.parity(1), *p, *q, |p, q| {
                    kernels.pq_update(&changes, p, q)
                })
            }
            Operation::MulAdd { coefficients } => {
                let terms = coefficients.iter().zip(&srcs);
                let terms: Vec<_> = terms
                    .filter_map(|(c, block)| block.map(|block| Product { coefficient: *c, block }))
                    .collect();
                let mut dst = self.out(0);
                let done = kernels.gf_mul_add(&terms, dst.bytes_mut());
                Outcome { verdict: done.map(|()| Verdict::Done), written: vec![dst.finish()] }
            }
            Operation::Recover { lost, given, p, q } => self.recover(kernels, srcs, lost, *given, *p, *q),
            Operation::Locate => {
                let (p, q) = (self.parity(0), self.parity(1));
                let found = kernels.locate(&srcs, p.bytes(), q.bytes());
                Outcome { verdict: found.map(Verdict::Located), written: vec![] }
            }
        }
    }

    /// With the damaged P as the last source, if it is to `close` the sum.
    fn xor_val<'a>(&'a self, kernels: &Kernels, mut srcs: Vec<Option<&'a [u8]>>, close: bool) -> Outcome {
        let p = self.parity(0);
        let last = srcs.len() - 1;
        if close && last > 0 {
            // P minus the source that it replaces.
            let replaced = srcs[last].filter(|block| block.len() == self.len);
            let sum =
                Block::new(self.places[0], self.len, |at| p.bytes()[at] ^ replaced.map_or(0, |r| r[at]));
            let mut srcs: Vec<Option<&[u8]>> = srcs[..last].to_vec();
            srcs.push(Some(sum.bytes()));
            return Outcome { verdict: kernels.xor_val(&srcs).map(Verdict::Zero), written: vec![] };
        }
        srcs.rotate_left(last / 2);
        Outcome { verdict: kernels.xor_val(&srcs).map(Verdict::Zero), written: vec![] }
    }

    /// Runs what writes the wanted ones of P and Q.
    fn into_parities(
        &self,
        mut p: Block,
        mut q: Block,
        with_p: bool,
        with_q: bool,
        run: impl FnOnce(Option<&mut [u8]>, Option<&mut [u8]>) -> std::result::Result<(), Error>,
    ) -> Outcome {
        let done = run(with_p.then(|| p.bytes_mut()), with_q.then(|| q.bytes_mut()));
        Outcome { verdict: done.map(|()| Verdict::Done), written: vec![p.finish(), q.finish()] }
    }

    fn recover(
        &self,
        kernels: &Kernels,
        mut srcs: Vec<Option<&[u8]>>,
        lost: &[u8],
        given: bool,
        p: State,
        q: State,
    ) -> Outcome {
        let whole = srcs.clone();
        if !given {
            for exponent in lost {
                if let Some(src) = srcs.get_mut(usize::from(*exponent)) {
                    *src = None;
                }
            }
        }
        let (p_good, q_good) = (self.parity(0), self.parity(1));
        let (mut p_out, mut q_out) = (self.out(0), self.out(1));
        let mut outs: Vec<_> = lost.iter().enumerate().map(|(i, _)| self.out(i % 2 + 2)).collect();
        let mut lost_data: Vec<_> = lost
            .iter()
            .zip(&mut outs)
            .map(|(exponent, out)| LostData { exponent: *exponent, out: out.bytes_mut() })
            .collect();
        let p_arg = parity_argument(p, &p_good, &mut p_out);
        let q_arg = parity_argument(q, &q_good, &mut q_out);
        let done = kernels.recover(&srcs, &mut lost_data, p_arg, q_arg);
        let mut written: Vec<_> = outs.into_iter().map(Block::finish).collect();
        if done.is_ok() && self.damage.is_empty() {
            for (exponent, out) in lost.iter().zip(&written) {
                let zeroes = vec![0; self.len];
                // A block that is too short was replaced by none, and counted as zeroes in P and Q.
                let original = whole[usize::from(*exponent)].filter(|block| block.len() == self.len);
                let original = original.unwrap_or(&zeroes);
                assert!(out == original, "{kernels:?}: D{exponent} did not come back");
            }
        }
        written.extend([p_out.finish(), q_out.finish()]);
        Outcome { verdict: done.map(|()| Verdict::Done), written }
    }
}

fn parity_argument<'a>(state: State, good: &'a Block, out: &'a mut Block) -> Parity<'a> {
    match state {
        State::Absent => Parity::Absent,
        State::Good => Parity::Good(good.bytes()),
        State::Lost => Parity::Lost(out.bytes_mut()),
    }
}

/// The naive P and Q, with the damage done to them. A source that is too short counts as zeroes.
fn parities(srcs: &[Option<&[u8]>], len: usize, damage: &[Damage]) -> [Vec<u8>; 2] {
    let srcs: Vec<_> = srcs.iter().map(|src| src.filter(|src| src.len() == len)).collect();
    let (mut p, mut q) = (vec![0; len], vec![0; len]);
    let naive = Kernels::select(Selection::Only(Kernel::Naive)).expect("it needs nothing");
    naive.gen_pq(&srcs, Some(&mut p), Some(&mut q)).expect("the arguments are right");
    for Damage { at, exponent, data, p: dp, q: dq } in damage {
        p[*at] ^= data ^ dp;
        q[*at] ^= gf::mul(gf::exp(*exponent), *data) ^ dq;
    }
    [p, q]
}
