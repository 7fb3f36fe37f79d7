//! The operations and their operands.

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

/// A data block that changes: an operand of [`Op::PqUpdate`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Change {
    /// Its exponent, 0 to 254.
    pub exponent: u8,
    /// What it was; `None` for zeroes.
    pub old: Option<Region>,
    /// What it will be; `None` for zeroes. One of the two is given.
    pub new: Option<Region>,
}

/// A block and the factor that it is multiplied by in GF(2^8): an operand of [`Op::GfMulAdd`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Product {
    /// The factor.
    pub coefficient: u8,
    /// The block.
    pub src: Region,
}

/// What a CRC goes on from: the CRC of the bytes before, zero where there are none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Seed {
    /// This value.
    Value(u32),
    /// What lies there when the operation starts: 4 bytes, little-endian, as [`Op::Crc32c`] leaves them.
    From(Region),
}

/// One operation. All blocks of an operation have the same length; the four bytes of a CRC and its seed
/// are no blocks. `data` is indexed by the exponent of each block's coefficient in Q, and `None` is a
/// block of zeroes.
///
/// A destination shares no byte with any other operand; sources may overlap each other at will. The
/// in-place forms are those that say so: [`XorMode::Accumulate`], [`Op::PqUpdate`] and [`Op::GfMulAdd`].
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
    /// For each change `p += old + new` and `q += 2^exponent (old + new)`.
    PqUpdate {
        /// 1 to 255 data blocks that change.
        changes: &'a [Change],
        /// P, updated in place.
        p: Option<Region>,
        /// Q, updated in place.
        q: Option<Region>,
    },
    /// `dst += sum(coefficient * src)` in GF(2^8) with the polynomial 0x11d.
    GfMulAdd {
        /// 1 to 255 products.
        products: &'a [Product],
        /// Destination, in place.
        dst: Region,
    },
    /// Are the two equal? Says [`Verdict::differs`] if not.
    Compare {
        /// One.
        a: Region,
        /// The other.
        b: Region,
    },
    /// `dst[0] := dst[1] := src`.
    Dualcast {
        /// Source.
        src: Region,
        /// Destinations.
        dst: [Region; 2],
    },
    /// `crc := CRC-32C of src`, which goes on from the seed.
    Crc32c {
        /// Source.
        src: Region,
        /// What it goes on from.
        seed: Seed,
        /// Where it goes: 4 bytes, little-endian.
        crc: Region,
    },
    /// `dst := src`, and `crc := CRC-32C of src`.
    CopyCrc32c {
        /// Source.
        src: Region,
        /// Destination.
        dst: Region,
        /// What it goes on from.
        seed: Seed,
        /// Where the CRC goes: 4 bytes, little-endian.
        crc: Region,
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

/// The kinds of [`Op`], for capabilities, limits and counters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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
    /// [`Op::GfMulAdd`].
    GfMulAdd,
    /// [`Op::Compare`].
    Compare,
    /// [`Op::Dualcast`].
    Dualcast,
    /// [`Op::Crc32c`].
    Crc32c,
    /// [`Op::CopyCrc32c`].
    CopyCrc32c,
}

impl OpKind {
    /// The number of kinds; `kind as usize` is below it.
    pub const COUNT: usize = OpKind::ALL.len();

    /// All kinds, in the order of their numbers.
    pub const ALL: [OpKind; 14] = [
        OpKind::Notify,
        OpKind::Copy,
        OpKind::Fill,
        OpKind::Xor,
        OpKind::XorVal,
        OpKind::Pq,
        OpKind::PqVal,
        OpKind::PqUpdate,
        OpKind::Recover,
        OpKind::GfMulAdd,
        OpKind::Compare,
        OpKind::Dualcast,
        OpKind::Crc32c,
        OpKind::CopyCrc32c,
    ];

    /// Its name in configurations, counters and logs.
    pub const fn word(self) -> &'static str {
        match self {
            OpKind::Notify => "notify",
            OpKind::Copy => "copy",
            OpKind::Fill => "fill",
            OpKind::Xor => "xor",
            OpKind::XorVal => "xor_val",
            OpKind::Pq => "pq",
            OpKind::PqVal => "pq_val",
            OpKind::PqUpdate => "pq_update",
            OpKind::Recover => "recover",
            OpKind::GfMulAdd => "gf_mul_add",
            OpKind::Compare => "compare",
            OpKind::Dualcast => "dualcast",
            OpKind::Crc32c => "crc32c",
            OpKind::CopyCrc32c => "copy_crc32c",
        }
    }

    /// The kind of this name.
    pub fn from_word(word: &str) -> Option<OpKind> {
        OpKind::ALL.into_iter().find(|kind| kind.word() == word)
    }
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
    /// An [`Op::Compare`] found a difference.
    pub differs: bool,
}

impl Verdict {
    /// What either found.
    pub fn or(self, other: Verdict) -> Verdict {
        Verdict {
            p_bad: self.p_bad | other.p_bad,
            q_bad: self.q_bad | other.q_bad,
            xor_nonzero: self.xor_nonzero | other.xor_nonzero,
            differs: self.differs | other.differs,
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
            Op::GfMulAdd { .. } => OpKind::GfMulAdd,
            Op::Compare { .. } => OpKind::Compare,
            Op::Dualcast { .. } => OpKind::Dualcast,
            Op::Crc32c { .. } => OpKind::Crc32c,
            Op::CopyCrc32c { .. } => OpKind::CopyCrc32c,
        }
    }

    /// Whether a destination's old bytes count: repeating such an operation gives something else.
    pub fn is_in_place(&self) -> bool {
        matches!(self, Op::Xor { mode: XorMode::Accumulate, .. } | Op::PqUpdate { .. } | Op::GfMulAdd { .. })
    }

    /// The number of source blocks, zero blocks and recovered ones included. A change counts once.
    pub fn sources(&self) -> usize {
        match self {
            Op::Notify | Op::Fill { .. } => 0,
            Op::Copy { .. } | Op::Dualcast { .. } | Op::Crc32c { .. } | Op::CopyCrc32c { .. } => 1,
            Op::Compare { .. } => 2,
            Op::Xor { srcs, .. } | Op::XorVal { srcs } => srcs.len(),
            Op::Pq { data, .. } | Op::PqVal { data, .. } | Op::Recover { data, .. } => data.len(),
            Op::PqUpdate { changes, .. } => changes.len(),
            Op::GfMulAdd { products, .. } => products.len(),
        }
    }

    /// Bytes of every block: that of the first one, which in a checked operation is that of all.
    pub fn len(&self) -> usize {
        let mut len = 0;
        self.each_block(|region, _| {
            len = region.len();
            false
        });
        len
    }

    /// Whether it moves no bytes; only [`Op::Notify`] does so in a checked operation.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `visit` for each operand, blocks first, until it returns false; returns whether it never did.
    pub fn each_region(&self, mut visit: impl FnMut(Region, Access) -> bool) -> bool {
        self.each_block(&mut visit)
            && match *self {
                Op::Crc32c { seed, crc, .. } | Op::CopyCrc32c { seed, crc, .. } => {
                    let seeded = match seed {
                        Seed::Value(_) => true,
                        Seed::From(seed) => visit(seed, Access::Read),
                    };
                    seeded && visit(crc, Access::Write)
                }
                _ => true,
            }
    }

    /// Calls `visit` for each block until it returns false; returns whether it never did.
    pub fn each_block(&self, mut visit: impl FnMut(Region, Access) -> bool) -> bool {
        use Access::{Read, Write};
        match *self {
            Op::Notify => true,
            Op::Copy { src, dst } | Op::CopyCrc32c { src, dst, .. } => visit(src, Read) && visit(dst, Write),
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
            Op::PqUpdate { changes, p, q } => {
                let mut blocks = changes.iter().flat_map(|change| [change.old, change.new]).flatten();
                p.into_iter().chain(q).all(|dst| visit(dst, Write)) && blocks.all(|src| visit(src, Read))
            }
            Op::Recover { data, p, q, lost } => {
                let access = |is_lost| if is_lost { Write } else { Read };
                let mut blocks = data.iter().enumerate();
                blocks.all(|(i, block)| block.is_none_or(|block| visit(block, access(lost.has(i)))))
                    && p.is_none_or(|p| visit(p, access(lost.p)))
                    && q.is_none_or(|q| visit(q, access(lost.q)))
            }
            Op::GfMulAdd { products, dst } => {
                visit(dst, Write) && products.iter().all(|product| visit(product.src, Read))
            }
            Op::Compare { a, b } => visit(a, Read) && visit(b, Read),
            Op::Dualcast { src, dst: [d, e] } => visit(src, Read) && visit(d, Write) && visit(e, Write),
            Op::Crc32c { src, .. } => visit(src, Read),
        }
    }

    /// Whether it writes a byte that `before` reads, so that `before` could not be repeated after it.
    pub fn spoils(&self, before: &Op<'_>) -> bool {
        let apart = self.each_region(|a, access| {
            access == Access::Read || before.each_region(|b, other| other == Access::Write || !a.overlaps(b))
        });
        !apart
    }

    /// Whether the order of the two matters: one writes a byte that the other reads or writes.
    pub fn conflicts_with(&self, other: &Op<'_>) -> bool {
        let disjoint = self.each_region(|a, access| {
            other.each_region(|b, other| (access == Access::Read && other == Access::Read) || !a.overlaps(b))
        });
        !disjoint
    }
}
