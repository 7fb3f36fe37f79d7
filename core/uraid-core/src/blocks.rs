//! Sets of blocks in a strip and sets of lanes in a stripe, as words.

/// A set of the blocks of one strip: bit `i` is block `i`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Blocks(pub u64);

impl Blocks {
    /// No block.
    pub const NONE: Blocks = Blocks(0);

    /// The `count` blocks from `first` on.
    pub fn range(first: u32, count: u32) -> Self {
        match count {
            0 => Blocks(0),
            64.. => Blocks(u64::MAX << first),
            _ => Blocks(((1u64 << count) - 1) << first),
        }
    }

    /// The blocks that `len` bytes at `offset` touch.
    pub fn touched(offset: u32, len: u32) -> Self {
        if len == 0 {
            return Blocks::NONE;
        }
        let (first, last) = (offset / crate::BLOCK, (offset + len - 1) / crate::BLOCK);
        Blocks::range(first, last - first + 1)
    }

    /// Whether block `i` is in the set.
    pub fn has(self, i: u32) -> bool {
        self.0 >> i & 1 == 1
    }

    /// Whether no block is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the sets share a block.
    pub fn meets(self, other: Blocks) -> bool {
        self.0 & other.0 != 0
    }

    /// The blocks in either.
    pub fn or(self, other: Blocks) -> Blocks {
        Blocks(self.0 | other.0)
    }

    /// The blocks in both.
    pub fn and(self, other: Blocks) -> Blocks {
        Blocks(self.0 & other.0)
    }

    /// The blocks of this set that are not in the other.
    pub fn minus(self, other: Blocks) -> Blocks {
        Blocks(self.0 & !other.0)
    }

    /// A set bit `i` wherever block `i` and block `i+1` differ.
    pub fn edges(self) -> u64 {
        self.0 ^ (self.0 >> 1)
    }

    /// The runs of neighbouring blocks, in order.
    pub fn runs(self) -> Runs {
        Runs { rest: self.0, cuts: 0 }
    }

    /// The runs of neighbouring blocks, cut also after every block whose bit is set in `cuts`.
    pub fn runs_cut(self, cuts: u64) -> Runs {
        Runs { rest: self.0, cuts }
    }
}

/// Neighbouring blocks: `count` from `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First block.
    pub first: u32,
    /// Blocks, at least one.
    pub count: u32,
}

impl Run {
    /// As a set.
    pub fn blocks(self) -> Blocks {
        Blocks::range(self.first, self.count)
    }

    /// First byte inside the strip.
    pub fn offset(self) -> u32 {
        self.first * crate::BLOCK
    }

    /// Bytes.
    pub fn bytes(self) -> u32 {
        self.count * crate::BLOCK
    }
}

/// Iterator over the runs of a set; see [`Blocks::runs`].
#[derive(Clone, Debug)]
pub struct Runs {
    rest: u64,
    cuts: u64,
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.rest == 0 {
            return None;
        }
        let first = self.rest.trailing_zeros();
        let mut count = (self.rest >> first).trailing_ones();
        let cut = (self.cuts >> first).trailing_zeros();
        if cut < count {
            count = cut + 1;
        }
        self.rest &= !Blocks::range(first, count).0;
        Some(Run { first, count })
    }
}

/// A set of lanes, up to 256.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Lanes([u64; 4]);

impl Lanes {
    /// Adds a lane.
    pub fn insert(&mut self, lane: u16) {
        if let Some(word) = self.0.get_mut(usize::from(lane / 64)) {
            *word |= 1 << (lane % 64);
        }
    }

    /// Whether a lane is in the set.
    pub fn has(&self, lane: u16) -> bool {
        self.0.get(usize::from(lane / 64)).is_some_and(|w| w >> (lane % 64) & 1 == 1)
    }

    /// How many.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|w| w.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// The lanes, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().zip(0u16..).flat_map(|(&word, w)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros() as u16;
                    rest &= rest - 1;
                    w * 64 + bit
                })
            })
        })
    }
}

impl FromIterator<u16> for Lanes {
    fn from_iter<I: IntoIterator<Item = u16>>(iter: I) -> Self {
        let mut set = Lanes::default();
        iter.into_iter().for_each(|l| set.insert(l));
        set
    }
}
