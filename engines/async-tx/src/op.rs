//! The operations, their operands, and what makes one valid.

use std::ops::Deref;

use crate::{OpError, Region};

/// The most sources of an operation: the exponents 0 to 254 of GF(2^8).
pub const SOURCES_MAX: usize = 255;

/// What happens to the old bytes of the destination of [`Op::Xor`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum XorMode {
    /// They are replaced by the sum of the sources.
    Overwrite,
    /// The sum of the sources is added to them.
    Accumulate,
}

/// One operation. All regions of an operation have the same length. `data` is indexed by the exponent of
/// each block's coefficient in Q, and `None` is a block of zeroes.
///
/// A destination shares no byte with any other operand; sources may overlap each other at will. The
/// in-place forms are those that say so: [`XorMode::Accumulate`] and [`Op::PqUpdate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// Does nothing: a node that others can depend on.
    Notify,
    /// `dst := src`.
    Copy {
        /// Source.
        src: Region,
        /// Destination.
        dst: Region,
    },
    /// Every byte of `dst := byte`.
    Fill {
        /// Destination.
        dst: Region,
        /// The byte.
        byte: u8,
    },
    /// `dst := sum(srcs)` or `dst += sum(srcs)`.
    Xor {
        /// 1 to 255 sources.
        srcs: &'a [Region],
        /// Destination.
        dst: Region,
        /// Overwrite or accumulate.
        mode: XorMode,
    },
    /// Is `sum(srcs)` zero? Says [`Verdict::xor_nonzero`] if not.
    XorVal {
        /// 1 to 255 sources.
        srcs: &'a [Region],
    },
    /// P and Q of `data`; the one that is `None` is not wanted.
    Pq {
        /// 1 to 255 data blocks.
        data: &'a [Option<Region>],
        /// Where P goes.
        p: Option<Region>,
        /// Where Q goes.
        q: Option<Region>,
    },
    /// Do P and Q match `data`? Says [`Verdict::p_bad`] and [`Verdict::q_bad`].
    PqVal {
        /// 1 to 255 data blocks.
        data: &'a [Option<Region>],
        /// P to check.
        p: Option<Region>,
        /// Q to check.
        q: Option<Region>,
    },
    /// `p += old + new`, `q += 2^exponent (old + new)`.
    PqUpdate {
        /// What the data block was.
        old: Region,
        /// What it will be.
        new: Region,
        /// Its exponent, 0 to 254.
        exponent: u8,
        /// P, updated in place.
        p: Option<Region>,
        /// Q, updated in place.
        q: Option<Region>,
    },
    /// Recover the lost blocks into their own entries of `data`, `p` and `q`. One lost data block takes P
    /// if that is there and good, else Q; two take both.
    Recover {
        /// 1 to 255 data blocks, the lost ones (destinations) included.
        data: &'a [Option<Region>],
        /// P: a source, or a destination if it is lost; `None` if neither known nor wanted.
        p: Option<Region>,
        /// Q, likewise.
        q: Option<Region>,
        /// What is lost.
        lost: Lost,
    },
}

/// The kinds of [`Op`], for capabilities and limits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum OpKind {
    /// [`Op::Notify`]; the engine sees to it itself.
    Notify,
    /// [`Op::Copy`].
    Copy,
    /// [`Op::Fill`].
    Fill,
    /// [`Op::Xor`].
    Xor,
    /// [`Op::XorVal`].
    XorVal,
    /// [`Op::Pq`].
    Pq,
    /// [`Op::PqVal`].
    PqVal,
    /// [`Op::PqUpdate`].
    PqUpdate,
    /// [`Op::Recover`].
    Recover,
}

/// Which blocks an [`Op::Recover`] recovers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Lost {
    /// Exponents of lost data blocks.
    pub data: [Option<u8>; 2],
    /// P is lost and wanted.
    pub p: bool,
    /// Q is lost and wanted.
    pub q: bool,
}

impl Lost {
    /// Data blocks by exponent, P, Q. Errors: more than two data blocks.
    pub fn new(data: &[u8], p: bool, q: bool) -> Result<Self, OpError> {
        let data = match *data {
            [] => [None, None],
            [x] => [Some(x), None],
            [x, y] => [Some(x), Some(y)],
            _ => return Err(OpError::Unrecoverable),
        };
        Ok(Lost { data, p, q })
    }

    /// The exponents of the lost data blocks.
    pub fn exponents(self) -> impl Iterator<Item = u8> {
        self.data.into_iter().flatten()
    }

    /// Whether the data block of this exponent is lost.
    pub fn has(self, exponent: usize) -> bool {
        self.exponents().any(|lost| usize::from(lost) == exponent)
    }
}

/// What the checks among the operations found. All false where nothing was checked or all was well.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Verdict {
    /// An [`Op::PqVal`] found that P is not that of the data.
    pub p_bad: bool,
    /// An [`Op::PqVal`] found that Q is not that of the data.
    pub q_bad: bool,
    /// An [`Op::XorVal`] found a sum that is not zero.
    pub xor_nonzero: bool,
}

impl Verdict {
    /// What either found.
    pub fn or(self, other: Verdict) -> Verdict {
        Verdict {
            p_bad: self.p_bad | other.p_bad,
            q_bad: self.q_bad | other.q_bad,
            xor_nonzero: self.xor_nonzero | other.xor_nonzero,
        }
    }
}

/// What an operation does to an operand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// It only reads it.
    Read,
    /// It writes it, and may read it first.
    Write,
}

impl<'a> Op<'a> {
    /// Its kind.
    pub fn kind(&self) -> OpKind {
        match self {
            Op::Notify => OpKind::Notify,
            Op::Copy { .. } => OpKind::Copy,
            Op::Fill { .. } => OpKind::Fill,
            Op::Xor { .. } => OpKind::Xor,
            Op::XorVal { .. } => OpKind::XorVal,
            Op::Pq { .. } => OpKind::Pq,
            Op::PqVal { .. } => OpKind::PqVal,
            Op::PqUpdate { .. } => OpKind::PqUpdate,
            Op::Recover { .. } => OpKind::Recover,
        }
    }

    /// Whether a destination's old bytes count: repeating such an operation gives something else.
    pub fn is_in_place(&self) -> bool {
        matches!(self, Op::Xor { mode: XorMode::Accumulate, .. } | Op::PqUpdate { .. })
    }

    /// The number of source blocks, zero blocks and recovered ones included.
    pub fn sources(&self) -> usize {
        match self {
            Op::Notify | Op::Fill { .. } => 0,
            Op::Copy { .. } => 1,
            Op::Xor { srcs, .. } | Op::XorVal { srcs } => srcs.len(),
            Op::Pq { data, .. } | Op::PqVal { data, .. } | Op::Recover { data, .. } => data.len(),
            Op::PqUpdate { .. } => 2,
        }
    }

    /// Bytes of every block: that of the first operand, which in a checked operation is that of all.
    pub fn len(&self) -> usize {
        let mut len = 0;
        self.each_region(|region, _| {
            len = region.len();
            false
        });
        len
    }

    /// Whether it moves no bytes; only [`Op::Notify`] does so in a checked operation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` for each operand until it returns false; returns whether it never did.
    pub fn each_region(&self, mut visit: impl FnMut(Region, Access) -> bool) -> bool {
        use Access::{Read, Write};
        match *self {
            Op::Notify => true,
            Op::Copy { src, dst } => visit(src, Read) && visit(dst, Write),
            Op::Fill { dst, .. } => visit(dst, Write),
            Op::Xor { srcs, dst, .. } => visit(dst, Write) && srcs.iter().all(|src| visit(*src, Read)),
            Op::XorVal { srcs } => srcs.iter().all(|src| visit(*src, Read)),
            Op::Pq { data, p, q } => {
                let mut parities = p.into_iter().chain(q);
                parities.all(|dst| visit(dst, Write)) && data.iter().flatten().all(|src| visit(*src, Read))
            }
            Op::PqVal { data, p, q } => {
                data.iter().copied().chain([p, q]).flatten().all(|src| visit(src, Read))
            }
            Op::PqUpdate { old, new, p, q, .. } => {
                visit(old, Read) && visit(new, Read) && p.into_iter().chain(q).all(|dst| visit(dst, Write))
            }
            Op::Recover { data, p, q, lost } => {
                let access = |is_lost| if is_lost { Write } else { Read };
                let mut blocks = data.iter().enumerate();
                blocks.all(|(i, block)| block.is_none_or(|block| visit(block, access(lost.has(i)))))
                    && p.is_none_or(|p| visit(p, access(lost.p)))
                    && q.is_none_or(|q| visit(q, access(lost.q)))
            }
        }
    }

    /// Whether the order of the two matters: one writes a byte that the other reads or writes.
    pub fn conflicts_with(&self, other: &Op<'_>) -> bool {
        let disjoint = self.each_region(|a, access| {
            other.each_region(|b, other| (access == Access::Read && other == Access::Read) || !a.overlaps(b))
        });
        !disjoint
    }

    /// Checks all that [`Op`] asks of the operands.
    pub fn check(self) -> Result<CheckedOp<'a>, OpError> {
        match self {
            Op::Notify | Op::Copy { .. } | Op::Fill { .. } => {}
            Op::Xor { srcs, .. } | Op::XorVal { srcs } => check_count(srcs.len())?,
            Op::Pq { data, p, q } | Op::PqVal { data, p, q } => {
                check_count(data.len())?;
                check_parity(p, q)?;
            }
            Op::PqUpdate { exponent, p, q, .. } => {
                check_parity(p, q)?;
                if usize::from(exponent) >= SOURCES_MAX {
                    return Err(OpError::Exponent { exponent });
                }
            }
            Op::Recover { data, p, q, lost } => check_recover(data, p, q, lost)?,
        }
        self.check_lengths()?;
        self.check_overlap()?;
        Ok(CheckedOp(self))
    }

    fn check_lengths(&self) -> Result<(), OpError> {
        let expected = self.len();
        let mut wrong = None;
        self.each_region(|region, _| {
            if region.is_empty() {
                wrong = Some(OpError::Empty);
            } else if region.len() != expected {
                wrong = Some(OpError::Length { expected, found: region.len() });
            }
            wrong.is_none()
        });
        wrong.map_or(Ok(()), Err)
    }

    /// A destination overlaps exactly one operand that is an access of the same operation: itself.
    fn check_overlap(&self) -> Result<(), OpError> {
        let sound = self.each_region(|dst, access| {
            if access == Access::Read {
                return true;
            }
            let mut shared = 0;
            self.each_region(|other, _| {
                shared += usize::from(dst.overlaps(other));
                shared <= 1
            })
        });
        if sound { Ok(()) } else { Err(OpError::Overlap) }
    }
}

fn check_count(count: usize) -> Result<(), OpError> {
    if (1..=SOURCES_MAX).contains(&count) { Ok(()) } else { Err(OpError::SourceCount { count }) }
}

fn check_parity(p: Option<Region>, q: Option<Region>) -> Result<(), OpError> {
    if p.is_some() || q.is_some() { Ok(()) } else { Err(OpError::NoParity) }
}

fn check_recover(
    data: &[Option<Region>],
    p: Option<Region>,
    q: Option<Region>,
    lost: Lost,
) -> Result<(), OpError> {
    check_count(data.len())?;
    for exponent in lost.exponents() {
        if !data.get(usize::from(exponent)).is_some_and(Option::is_some) {
            return Err(OpError::Exponent { exponent });
        }
    }
    if (lost.p && p.is_none()) || (lost.q && q.is_none()) {
        return Err(OpError::NoParity);
    }
    let (p_good, q_good) = (p.is_some() && !lost.p, q.is_some() && !lost.q);
    let solvable = match lost.data {
        [None, None] => lost.p || lost.q,
        [Some(x), Some(y)] => x != y && p_good && q_good,
        [Some(_), None] | [None, Some(_)] => p_good || q_good,
    };
    if solvable { Ok(()) } else { Err(OpError::Unrecoverable) }
}

/// An operation that passed [`Op::check`]: lengths agree, nothing is empty, and no destination shares a
/// byte with another operand, so that a backend may make slices of the regions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckedOp<'a>(pub(crate) Op<'a>);

impl<'a> Deref for CheckedOp<'a> {
    type Target = Op<'a>;

    fn deref(&self) -> &Op<'a> {
        &self.0
    }
}
