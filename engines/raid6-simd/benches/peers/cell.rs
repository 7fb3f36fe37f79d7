//! What is timed: operations, sets, and where the blocks of a cell's stripes lie.

use std::fmt;
use std::ops::Range;

use crate::Result;
use crate::memory::{PAGE, Pool};

/// The operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// P and Q of `n` data blocks.
    Pq,
    /// The xor of `n` blocks.
    Xor,
    /// Whether P and Q are right.
    Check,
    /// Whether P is right.
    XorCheck,
    /// Two lost data blocks from the others, P and Q.
    Rec2,
    /// P and Q after a change of one data block.
    Update,
}

impl Op {
    pub(crate) const ALL: [Op; 6] = [Op::Pq, Op::Xor, Op::Check, Op::XorCheck, Op::Rec2, Op::Update];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Op::Pq => "pq",
            Op::Xor => "xor",
            Op::Check => "check",
            Op::XorCheck => "xor-check",
            Op::Rec2 => "rec2",
            Op::Update => "update",
        }
    }
}

/// What a call finds in the caches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Set {
    /// The same stripe as the call before.
    Hot,
    /// Stripes of a pool that the first two levels cannot hold.
    L3,
    /// Stripes of a pool that no cache can hold.
    Dram,
}

impl Set {
    pub(crate) const ALL: [Set; 3] = [Set::Hot, Set::L3, Set::Dram];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Set::Hot => "hot",
            Set::L3 => "l3",
            Set::Dram => "dram",
        }
    }

    /// The number of stripes, given the bytes of one.
    ///
    /// The hot set has several, of which each round takes one: where a stripe lies relative to the stack
    /// and the lists of pointers makes a difference of up to a third to calls of a hundred nanoseconds, and
    /// which contender it hits is a matter of luck.
    pub(crate) fn stripes(self, stripe: usize) -> usize {
        let bytes: usize = match self {
            Set::Hot => return 16,
            Set::L3 => 8 << 20,
            Set::Dram => 1 << 30,
        };
        (bytes / stripe).max(1)
    }
}

/// The data blocks that are lost in [`Op::Rec2`].
pub(crate) const LOST: [usize; 2] = [1, 2];

/// One line of a table: an operation on stripes of a pool.
///
/// The blocks of a stripe are the data and then P and Q where the operation has them; those of
/// [`Op::Update`] are the old data, the new data, P and Q.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'p> {
    pub(crate) op: Op,
    pub(crate) n: usize,
    /// Bytes of a block.
    pub(crate) len: usize,
    pub(crate) set: Set,
    /// The number of stripes.
    pub(crate) count: usize,
    pool: &'p Pool,
}

impl<'p> Cell<'p> {
    /// Divides the pool into stripes.
    ///
    /// `n` is 3 to 253 and `len` a multiple of the page, which the options promise.
    pub(crate) fn new(op: Op, n: usize, len: usize, set: Set, pool: &'p Pool) -> Result<Self> {
        Cell { op, n, len, set, count: set.stripes(blocks(op, n) * len), pool }.checked()
    }

    /// A single stripe at the start of the pool.
    pub(crate) fn single(op: Op, n: usize, len: usize, set: Set, pool: &'p Pool) -> Result<Self> {
        Cell { op, n, len, set, count: 1, pool }.checked()
    }

    fn checked(self) -> Result<Self> {
        let Cell { op, n, len, count, pool, .. } = self;
        let stripe = blocks(op, n) * len;
        if !len.is_multiple_of(PAGE) || stripe * count > pool.len() {
            return Err(format!("{count} stripes of {n} blocks of {len} bytes do not fit the pool"));
        }
        Ok(self)
    }

    /// The same stripes under another operation with blocks at the same places.
    pub(crate) fn with_op(self, op: Op) -> Self {
        Cell { op, ..self }
    }

    /// How many blocks a stripe has.
    pub(crate) fn blocks(&self) -> usize {
        blocks(self.op, self.n)
    }

    /// The bytes of data that a call is about.
    pub(crate) fn counted(&self) -> usize {
        if self.op == Op::Update { self.len } else { self.n * self.len }
    }

    /// The index of the changed block of [`Op::Update`].
    pub(crate) fn changed(&self) -> usize {
        self.n / 2
    }

    /// The blocks that a call reads, by index in the stripe.
    pub(crate) fn inputs(&self) -> Vec<usize> {
        match self.op {
            Op::Pq | Op::Xor => (0..self.n).collect(),
            Op::Check | Op::XorCheck | Op::Update => (0..self.blocks()).collect(),
            Op::Rec2 => (0..self.n + 2).filter(|block| !LOST.contains(block)).collect(),
        }
    }

    /// The blocks that a call writes; those of [`Op::Update`] it also reads.
    pub(crate) fn outputs(&self) -> Vec<usize> {
        match self.op {
            Op::Pq => vec![self.n, self.n + 1],
            Op::Xor => vec![self.n],
            Op::Check | Op::XorCheck => Vec::new(),
            Op::Rec2 => LOST.to_vec(),
            Op::Update => vec![2, 3],
        }
    }

    /// All stripes.
    pub(crate) fn stripes(&self) -> Range<usize> {
        0..self.count
    }

    /// Where a block begins; its `len` bytes are inside the pool.
    pub(crate) fn block(&self, stripe: usize, block: usize) -> *mut u8 {
        assert!(stripe < self.count && block < self.blocks(), "block {block} of stripe {stripe}");
        // SAFETY: `checked` found room in the pool for `count` stripes of `blocks()` blocks.
        unsafe { self.pool.base().add((stripe * self.blocks() + block) * self.len) }
    }

    /// All blocks of all stripes in their order.
    pub(crate) fn all_pointers(&self) -> Vec<*mut u8> {
        let all: Vec<usize> = (0..self.blocks()).collect();
        self.stripes().flat_map(|stripe| self.pointers(stripe, &all)).collect()
    }

    /// The blocks of a stripe with these indices.
    pub(crate) fn pointers(&self, stripe: usize, blocks: &[usize]) -> Vec<*mut u8> {
        blocks.iter().map(|&block| self.block(stripe, block)).collect()
    }
}

impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { op, n, len, set, .. } = self;
        write!(f, "{} of {n} blocks of {len} bytes ({})", op.name(), set.name())
    }
}

/// The bytes that a cell's stripes take.
pub(crate) fn room(op: Op, n: usize, len: usize, set: Set) -> usize {
    let stripe = blocks(op, n) * len;
    set.stripes(stripe) * stripe
}

fn blocks(op: Op, n: usize) -> usize {
    match op {
        Op::Pq | Op::Check | Op::Rec2 => n + 2,
        Op::Xor | Op::XorCheck => n + 1,
        Op::Update => 4,
    }
}
