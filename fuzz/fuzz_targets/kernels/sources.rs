//! The blocks that an operation reads: contents, gaps, and how they share memory.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::memory::{Block, Place};

/// How many bytes all sources of a case have together, at most: naive sets the pace.
const WORK: usize = 1 << 18;

/// What a block is filled with.
#[derive(Debug)]
pub enum Fill {
    Zeroes,
    Pattern(Vec<u8>),
    Random(u64),
}

impl Fill {
    pub fn decode(u: &mut Unstructured<'_>) -> Result<Self> {
        Ok(match u.int_in_range(0..=5)? {
            0 => Fill::Zeroes,
            1 => {
                let len = u.int_in_range(1..=8)?;
                Fill::Pattern(u.bytes(len)?.to_vec())
            }
            _ => Fill::Random(u64::from(u.arbitrary::<u16>()?)),
        })
    }

    /// Byte `at` of the block.
    pub fn byte(&self, at: usize) -> u8 {
        match self {
            Fill::Zeroes => 0,
            Fill::Pattern(pattern) => pattern[at % pattern.len()],
            // SplitMix64's mixing of a counter.
            Fill::Random(seed) => {
                let mut z = ((seed << 32) + at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z >> 56) as u8
            }
        }
    }
}

/// How many blocks: mostly few.
pub fn decode_count(u: &mut Unstructured<'_>) -> Result<usize> {
    let most = [6, 6, 24, 24, 255][u.int_in_range(0..=4)?];
    u.int_in_range(1..=most)
}

/// How long they are: often next to a whole number of columns.
pub fn decode_len(u: &mut Unstructured<'_>, count: usize) -> Result<usize> {
    let len: usize = match u.int_in_range(0..=9)? {
        0..=3 => u.int_in_range(0..=200)?,
        4..=6 => {
            let register: usize = *u.choose(&[8, 16, 32, 64])?;
            register * u.int_in_range(1..=33)? + u.int_in_range(0..=2)? - 1
        }
        7 | 8 => u.int_in_range(0..=5000)?,
        _ => u.int_in_range(0..=70_000)?,
    };
    Ok(len.min(WORK / count))
}

#[derive(Debug)]
enum Source {
    Gap,
    Own(Block),
    /// From this byte of the shared block.
    Shared(usize),
}

/// Blocks of one length (but for the odd one out).
#[derive(Debug)]
pub struct Sources {
    len: usize,
    shared: Block,
    sources: Vec<Source>,
    /// A source that is given one byte shorter than the others, which must be refused.
    short: Option<usize>,
}

impl Sources {
    pub fn decode(u: &mut Unstructured<'_>, count: usize, len: usize) -> Result<Self> {
        let (place, fill) = (Place::decode(u)?, Fill::decode(u)?);
        let shared = Block::new(place, len + 96, |at| fill.byte(at));
        // Some implementations handle stripes without gaps apart.
        let gaps = u.arbitrary()?;
        let mut sources = Vec::with_capacity(count);
        for _ in 0..count {
            sources.push(match u.int_in_range(0..=11)? {
                0 | 1 if gaps => Source::Gap,
                2 => Source::Shared(u.int_in_range(0..=96)?),
                3 => Source::Shared(0),
                _ => {
                    let (place, fill) = (Place::decode(u)?, Fill::decode(u)?);
                    Source::Own(Block::new(place, len, |at| fill.byte(at)))
                }
            });
        }
        let short = if len > 0 && u.ratio(1, 32)? { Some(u.int_in_range(0..=count - 1)?) } else { None };
        Ok(Sources { len, shared, sources, short })
    }

    /// The blocks as the operations take them.
    pub fn slices(&self) -> Vec<Option<&[u8]>> {
        self.sources.iter().enumerate().map(|(i, source)| self.slice(i, source)).collect()
    }

    fn slice<'a>(&'a self, i: usize, source: &'a Source) -> Option<&'a [u8]> {
        let len = if self.short == Some(i) { self.len - 1 } else { self.len };
        match source {
            Source::Gap => None,
            Source::Own(block) => Some(&block.bytes()[..len]),
            Source::Shared(start) => Some(&self.shared.bytes()[*start..*start + len]),
        }
    }
}
