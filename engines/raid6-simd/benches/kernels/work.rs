//! The work that is measured: what the operations do with the blocks of one stripe.

use std::fmt;

use raid6_simd::{Change, Kernels, Located, LostData, Mismatch, Parity, Product, XorMode};

/// The data block that is lost or wrong in the operations where one is, and the first of two.
const LOST: usize = 1;

/// An operation of the crate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// P of the data.
    Xor,
    /// Whether P is right; it is, so that all is read.
    XorVal,
    /// P and Q of the data.
    Pq,
    /// Whether P and Q are right; they are, so that all is read.
    PqVal,
    /// P and Q after a change of one data block.
    PqUpdate,
    /// Two data blocks from the others, P and Q.
    RecoverTwo,
    /// A data block and P from the other data and Q.
    RecoverDataP,
    /// The sum of the data, each block times a constant of its own, added to a block.
    MulAdd,
    /// Which block is wrong: a data block, at every byte.
    Locate,
    /// The CRC-32C of one block.
    Crc32c,
    /// The same while the block is copied.
    CopyCrc32c,
}

impl Operation {
    pub(crate) const ALL: [Operation; 11] = [
        Operation::Xor,
        Operation::XorVal,
        Operation::Pq,
        Operation::PqVal,
        Operation::PqUpdate,
        Operation::RecoverTwo,
        Operation::RecoverDataP,
        Operation::MulAdd,
        Operation::Locate,
        Operation::Crc32c,
        Operation::CopyCrc32c,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Xor => "xor",
            Operation::XorVal => "xor_val",
            Operation::Pq => "pq",
            Operation::PqVal => "pq_val",
            Operation::PqUpdate => "pq_update",
            Operation::RecoverTwo => "recover_two",
            Operation::RecoverDataP => "recover_data_p",
            Operation::MulAdd => "mul_add",
            Operation::Locate => "locate",
            Operation::Crc32c => "crc32c",
            Operation::CopyCrc32c => "copy_crc32c",
        }
    }

    /// The numbers of data blocks that make a difference, of those given: a CRC is of one block.
    pub(crate) fn numbers_of_data_blocks(self, several: &[usize]) -> &[usize] {
        if self.is_crc() { &[1] } else { several }
    }

    fn is_crc(self) -> bool {
        matches!(self, Operation::Crc32c | Operation::CopyCrc32c)
    }

    /// The data blocks that its stripes have: all, or the old and the new form of the one that changes.
    fn data_blocks(self, shape: Shape) -> usize {
        if self == Operation::PqUpdate { 2 } else { shape.data_blocks }
    }

    /// Whether its stripes have P, or a block that it writes in that place.
    fn has_p(self) -> bool {
        self != Operation::Crc32c
    }

    /// Whether its stripes have a Q after P.
    fn has_q(self) -> bool {
        !(self.is_crc() || matches!(self, Operation::Xor | Operation::XorVal | Operation::MulAdd))
    }

    /// Whether it computes the data block with this exponent.
    fn computes(self, exponent: usize) -> bool {
        match self {
            Operation::RecoverTwo => exponent == LOST || exponent == LOST + 1,
            Operation::RecoverDataP => exponent == LOST,
            _ => false,
        }
    }

    /// The bytes of a stripe.
    pub(crate) fn stripe_bytes(self, shape: Shape) -> usize {
        (self.data_blocks(shape) + usize::from(self.has_p()) + usize::from(self.has_q())) * shape.block_len
    }

    /// The bytes of data that a call is about: of all data blocks, lost ones included, or of the one that
    /// changes.
    pub(crate) fn data_bytes(self, shape: Shape) -> usize {
        if self == Operation::PqUpdate { shape.block_len } else { shape.data_blocks * shape.block_len }
    }
}

/// What a stripe is: so many data blocks (4 at least, but 1 for a CRC) of so many bytes (whole pages).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    pub(crate) data_blocks: usize,
    pub(crate) block_len: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}KiB", self.data_blocks, self.block_len >> 10)
    }
}

/// The blocks of one stripe, cut out beforehand so that what is measured is the call alone.
pub(crate) struct Stripe<'a> {
    operation: Operation,
    data: Vec<Option<&'a [u8]>>,
    /// The data as terms of a sum.
    terms: Vec<Product<'a>>,
    p: &'a mut [u8],
    q: &'a mut [u8],
    /// Where the data blocks go that the operation computes.
    computed: [&'a mut [u8]; 2],
    /// The exponent of the block that changes.
    changed: u8,
}

impl<'a> Stripe<'a> {
    /// The stripes of `memory`, one after the other, with parity that is right where the operation looks
    /// at it. What does not fill a stripe is left over.
    pub(crate) fn cut_all(operation: Operation, shape: Shape, memory: &'a mut [u8]) -> Vec<Self> {
        let bytes = operation.stripe_bytes(shape);
        for stripe in memory.chunks_exact_mut(bytes) {
            prepare(operation, shape, stripe);
        }
        memory.chunks_exact_mut(bytes).filter_map(|stripe| Stripe::cut(operation, shape, stripe)).collect()
    }

    /// Data, P and Q lie in this order. `None` if the memory is too short.
    fn cut(operation: Operation, shape: Shape, memory: &'a mut [u8]) -> Option<Self> {
        let mut blocks = memory.chunks_exact_mut(shape.block_len);
        let (mut data, mut computed) = (Vec::new(), Vec::new());
        for exponent in 0..operation.data_blocks(shape) {
            let block = blocks.next()?;
            if operation.computes(exponent) {
                computed.push(block);
                data.push(None);
            } else {
                data.push(Some(&*block));
            }
        }
        let mut p = if operation.has_p() { blocks.next()? } else { Default::default() };
        let q = if operation.has_q() { blocks.next()? } else { Default::default() };
        if operation == Operation::XorVal {
            // P is a source like any other.
            let source: &mut [u8] = std::mem::take(&mut p);
            data.push(Some(source));
        }
        let terms = if operation == Operation::MulAdd { terms(&data) } else { Vec::new() };
        let mut computed = computed.into_iter();
        let computed = [computed.next().unwrap_or_default(), computed.next().unwrap_or_default()];
        let changed = u8::try_from(shape.data_blocks / 2).ok()?;
        Some(Stripe { operation, data, terms, p, q, computed, changed })
    }

    /// One call. Says whether the result, where the call has one, is what it should be.
    #[inline]
    pub(crate) fn call(&mut self, kernels: &Kernels) -> bool {
        let (data, p, q) = (&self.data[..], &mut *self.p, &mut *self.q);
        match self.operation {
            Operation::Xor => kernels.xor(data, p, XorMode::Overwrite).is_ok(),
            Operation::XorVal => kernels.xor_val(data) == Ok(true),
            Operation::Pq => kernels.gen_pq(data, Some(p), Some(q)).is_ok(),
            Operation::PqVal => kernels.pq_val(data, Some(p), Some(q)) == Ok(Mismatch::default()),
            Operation::PqUpdate => {
                let change = Change { exponent: self.changed, old: data[0], new: data[1] };
                kernels.pq_update(&[change], Some(p), Some(q)).is_ok()
            }
            Operation::RecoverTwo => {
                let [x, y] = &mut self.computed;
                let lost = &mut [
                    LostData { exponent: LOST as u8, out: x },
                    LostData { exponent: LOST as u8 + 1, out: y },
                ];
                kernels.recover(data, lost, Parity::Good(p), Parity::Good(q)).is_ok()
            }
            Operation::RecoverDataP => {
                let lost = &mut [LostData { exponent: LOST as u8, out: &mut *self.computed[0] }];
                kernels.recover(data, lost, Parity::Lost(p), Parity::Good(q)).is_ok()
            }
            Operation::MulAdd => kernels.gf_mul_add(&self.terms, p).is_ok(),
            Operation::Locate => kernels.locate(data, p, q) == Ok(Located::Data(LOST as u8)),
            Operation::Crc32c => data[0].is_some_and(|block| kernels.crc32c(0, block) != 0),
            Operation::CopyCrc32c => data[0].is_some_and(|block| kernels.copy_crc32c(0, block, p).is_ok()),
        }
    }
}

/// The blocks, with coefficients that no multiplication is a shortcut for.
fn terms<'a>(data: &[Option<&'a [u8]>]) -> Vec<Product<'a>> {
    let coefficient = |exponent: usize| 0x8e ^ (exponent as u8).wrapping_mul(7);
    let term = |(exponent, block)| Product { coefficient: coefficient(exponent), block };
    data.iter().flatten().copied().enumerate().map(term).collect()
}

/// Gives a stripe right parity if the operation looks at it, and then a wrong data block if it is to be found.
fn prepare(operation: Operation, shape: Shape, stripe: &mut [u8]) {
    let fill = match operation {
        Operation::XorVal => Operation::Xor,
        Operation::PqVal | Operation::Locate => Operation::Pq,
        _ => return,
    };
    let filled = Stripe::cut(fill, shape, stripe).is_some_and(|mut stripe| stripe.call(&Kernels::auto()));
    assert!(filled, "no parity could be computed for {}", operation.name());
    if operation == Operation::Locate
        && let Some(block) = stripe.chunks_exact_mut(shape.block_len).nth(LOST)
    {
        block.iter_mut().for_each(|byte| *byte ^= 0x5a);
    }
}
