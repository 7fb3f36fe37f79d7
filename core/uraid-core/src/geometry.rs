//! Where a byte of the array lies on the members: pure arithmetic over md's layouts.
//!
//! The array is cut into chunks; a **row** is one chunk on every member. A row is cut into **bands** of at
//! most [`MAX_STRIP`] bytes; one band over all members is a **stripe**, the unit that the stripe cache
//! works on, and one member's part of it is a **strip**. Chunks up to 256 KiB have one band, so there a
//! stripe is a chunk row. Inside a stripe blocks are named by **lane**: lanes 0 to k-1 hold the data in
//! array order, lane k holds P and lane k+1 holds Q, whatever the role that plays them in this row.
//!
//! Formulas: Linux `drivers/md/raid5.c` (`raid5_compute_sector`, `raid6_d0`, `raid6_next_disk`).

use crate::Role;
use md_format::{Layout, Level};
use thiserror::Error;

/// Bytes of a block, the unit of cache state; md's page.
pub const BLOCK: u32 = 4096;
/// The tallest strip: 64 blocks, so that one word holds a state bit a block.
pub const MAX_STRIP: u32 = 64 * BLOCK;
/// The most members an array may have: Q needs a coefficient of its own for each data block.
pub const MAX_MEMBERS: u16 = 255;

/// Why a geometry is impossible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum GeometryError {
    /// Fewer members than the level needs here, or more than [`MAX_MEMBERS`]. md starts RAID 4 and 5 with two.
    #[error("{level} of {members} members is not supported, of {least} to 255 it is")]
    Members {
        /// The level.
        level: Level,
        /// Members asked for.
        members: u16,
        /// The least that the level takes.
        least: u16,
    },
    /// Chunk not a power of two of at least one block, or above 1 GiB.
    #[error("chunk of {0} bytes: it must be a power of two from 4 KiB to 1 GiB")]
    Chunk(u64),
    /// The member holds not even one chunk.
    #[error("{0} bytes a member: not one chunk fits")]
    TooSmall(u64),
    /// The layout number does not exist for this level.
    #[error("layout {layout} does not exist for {level:?}")]
    Layout {
        /// The level.
        level: Level,
        /// md's number.
        layout: u32,
    },
}

/// One piece of a request: a run of bytes inside one strip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The stripe.
    pub stripe: u64,
    /// The data lane, 0 to k-1.
    pub lane: u16,
    /// First byte inside the strip.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// Which role plays which lane in one row, and with which coefficient its data enter Q.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowPattern {
    /// Role of each lane.
    pub roles: Vec<Role>,
    /// Lane of each role.
    pub lanes: Vec<u16>,
    /// Exponent of {02} of each data lane.
    pub exponents: Vec<u8>,
    /// Data lane of each exponent; `None` is a gap (DDF layouts count P and Q as zero blocks).
    pub by_exponent: Vec<Option<u16>>,
}

/// The shape of an array.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Geometry {
    level: Level,
    layout: Layout,
    members: u16,
    chunk: u64,
    strip: u32,
    rows: u64,
    patterns: Vec<RowPattern>,
}

impl Geometry {
    /// The geometry of `members` members of `member_bytes` usable bytes each, of which whole chunks count.
    pub fn new(
        level: Level,
        layout: Layout,
        members: u16,
        chunk: u64,
        member_bytes: u64,
    ) -> Result<Self, GeometryError> {
        let parity = level.parity();
        let least = if parity == 2 { 4 } else { 3 };
        if !(least..=MAX_MEMBERS).contains(&members) {
            return Err(GeometryError::Members { level, members, least });
        }
        if !chunk.is_power_of_two() || !(u64::from(BLOCK)..=1 << 30).contains(&chunk) {
            return Err(GeometryError::Chunk(chunk));
        }
        let rows = member_bytes / chunk;
        let data = u64::from(members - parity);
        if rows == 0 || rows.checked_mul(chunk).and_then(|b| b.checked_mul(data)).is_none() {
            return Err(GeometryError::TooSmall(member_bytes));
        }
        // Every layout repeats after n rows, the `*-6` ones after n-1.
        let period = u64::from(if layout.number() >= 16 { members - 1 } else { members });
        let patterns = (0..period)
            .map(|row| row_pattern(level, layout, members, row))
            .collect::<Option<Vec<_>>>()
            .ok_or(GeometryError::Layout { level, layout: layout.number() })?;
        let strip = chunk.min(u64::from(MAX_STRIP)) as u32;
        Ok(Geometry { level, layout, members, chunk, strip, rows, patterns })
    }

    /// The same array in stripes whose strips have at most `bytes` bytes (but at least one block): each then has
    /// room in a log.
    #[must_use]
    pub fn with_strip_limit(self, bytes: u32) -> Self {
        let limit = 1 << bytes.max(BLOCK).ilog2();
        Geometry { strip: self.strip.min(limit), ..self }
    }

    /// RAID level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Layout of parity over the members.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Members, data and parity together (md's `raid_disks`).
    pub fn members(&self) -> u16 {
        self.members
    }

    /// Parity blocks in a row: 1 or 2.
    pub fn parity(&self) -> u16 {
        self.level.parity()
    }

    /// Data chunks in a row.
    pub fn data(&self) -> u16 {
        self.members - self.parity()
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk
    }

    /// Bytes of a strip: the chunk, or [`MAX_STRIP`] if the chunk is bigger.
    pub fn strip_bytes(&self) -> u32 {
        self.strip
    }

    /// Blocks of a strip, 1 to 64.
    pub fn strip_blocks(&self) -> u32 {
        self.strip / BLOCK
    }

    /// Stripes in a row.
    pub fn bands(&self) -> u64 {
        self.chunk / u64::from(self.strip)
    }

    /// Stripes in the array.
    pub fn stripes(&self) -> u64 {
        self.rows * self.bands()
    }

    /// Rows of the array.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes that the array offers.
    pub fn array_bytes(&self) -> u64 {
        self.rows * self.chunk * u64::from(self.data())
    }

    /// The lane that holds P.
    pub fn p_lane(&self) -> u16 {
        self.data()
    }

    /// The lane that holds Q, if the level has one.
    pub fn q_lane(&self) -> Option<u16> {
        (self.parity() == 2).then(|| self.data() + 1)
    }

    /// Roles, lanes and coefficients in the row of a stripe.
    pub fn pattern(&self, stripe: u64) -> &RowPattern {
        let row = stripe / self.bands();
        &self.patterns[(row % self.patterns.len() as u64) as usize]
    }

    /// First byte of a stripe's strips, from the start of a member's data.
    pub fn member_offset(&self, stripe: u64) -> u64 {
        let (row, band) = (stripe / self.bands(), stripe % self.bands());
        row * self.chunk + band * u64::from(self.strip)
    }

    /// The piece that starts at byte `offset` of the array and takes as much of `len` bytes as lie in the
    /// same strip. `offset` must be inside the array.
    pub fn piece(&self, offset: u64, len: u64) -> Piece {
        let (chunk, within) = (offset / self.chunk, offset % self.chunk);
        let (row, lane) = (chunk / u64::from(self.data()), chunk % u64::from(self.data()));
        let (band, at) = (within / u64::from(self.strip), within % u64::from(self.strip));
        Piece {
            stripe: row * self.bands() + band,
            lane: lane as u16,
            offset: at as u32,
            len: len.min(u64::from(self.strip) - at) as u32,
        }
    }

    /// The inverse of [`Geometry::piece`]: the array byte at `offset` of a data lane's strip.
    pub fn array_offset(&self, stripe: u64, lane: u16, offset: u32) -> u64 {
        let (row, band) = (stripe / self.bands(), stripe % self.bands());
        (row * u64::from(self.data()) + u64::from(lane)) * self.chunk
            + band * u64::from(self.strip)
            + u64::from(offset)
    }

    /// Member sectors (of 512 bytes, from the start of the data) that the first `stripes` stripes cover in
    /// whole rows.
    pub fn sectors_covered(&self, stripes: u64) -> u64 {
        (stripes / self.bands()) * (self.chunk / 512)
    }

    /// The stripes that lie wholly below a member sector; the inverse of [`Geometry::sectors_covered`].
    pub fn stripes_below(&self, sectors: u64) -> u64 {
        (sectors / (self.chunk / 512)).saturating_mul(self.bands()).min(self.stripes())
    }
}

/// The roles of P and Q and the way data fill the rest of a row.
struct Placement {
    p: u16,
    q: Option<u16>,
    /// The role of data index 0; the others follow upward, modulo `wrap`, when `symmetric`, else data
    /// take the roles that are free in ascending order.
    first: u16,
    symmetric: bool,
    wrap: u16,
    ddf: bool,
}

fn placement(level: Level, layout: Layout, n: u16, row: u64) -> Option<Placement> {
    let at = |m: u16| (row % u64::from(m)) as u16;
    let left = |m: u16| m - 1 - at(m);
    let asym = |p, q, ddf| Some(Placement { p, q, first: 0, symmetric: false, wrap: n, ddf });
    let sym = |p: u16, q, first: u16, wrap: u16, ddf| {
        Some(Placement { p, q, first: first % wrap, symmetric: true, wrap, ddf })
    };
    match (level, layout.number()) {
        (Level::Raid4, _) => asym(n - 1, None, false),
        (Level::Raid5, 0) => asym(left(n), None, false),
        (Level::Raid5, 1) => asym(at(n), None, false),
        (Level::Raid5, 2) => sym(left(n), None, left(n) + 1, n, false),
        (Level::Raid5, 3) => sym(at(n), None, at(n) + 1, n, false),
        (Level::Raid5, 4) => asym(0, None, false),
        (Level::Raid5, 5) => asym(n - 1, None, false),
        (Level::Raid6, l) => {
            let after = |p: u16| Some((p + 1) % n);
            let m = n - 1;
            match l {
                0 => asym(left(n), after(left(n)), false),
                1 => asym(at(n), after(at(n)), false),
                2 => sym(left(n), after(left(n)), left(n) + 2, n, false),
                3 => sym(at(n), after(at(n)), at(n) + 2, n, false),
                4 => asym(0, Some(1), false),
                5 => asym(n - 2, Some(n - 1), false),
                8 => asym(at(n), after(at(n)), true),
                9 => {
                    let p = n - 1 - ((row + 1) % u64::from(n)) as u16;
                    asym(p, after(p), true)
                }
                10 => {
                    let p = left(n);
                    sym(p, Some((p + n - 1) % n), p + 1, n, true)
                }
                16 => asym(left(m), Some(n - 1), false),
                17 => asym(at(m), Some(n - 1), false),
                18 => sym(left(m), Some(n - 1), left(m) + 1, m, false),
                19 => sym(at(m), Some(n - 1), at(m) + 1, m, false),
                20 => asym(0, Some(n - 1), false),
                _ => None,
            }
        }
        _ => None,
    }
}

fn row_pattern(level: Level, layout: Layout, n: u16, row: u64) -> Option<RowPattern> {
    let place = placement(level, layout, n, row)?;
    let parity = level.parity();
    let k = n - parity;
    let is_parity = |r: u16| r == place.p || Some(r) == place.q;
    let mut roles: Vec<Role> = if place.symmetric {
        (0..k).map(|i| Role((place.first + i) % place.wrap)).collect()
    } else {
        (0..n).filter(|&r| !is_parity(r)).map(Role).collect()
    };
    roles.push(Role(place.p));
    roles.extend(place.q.map(Role));
    let mut lanes = vec![0u16; usize::from(n)];
    for (lane, role) in roles.iter().enumerate() {
        lanes[usize::from(role.0)] = lane as u16;
    }
    let by_exponent: Vec<Option<u16>> = if place.ddf {
        // A disk's own number is its exponent; P and Q count as zero blocks.
        (0..n).map(|r| (!is_parity(r)).then(|| lanes[usize::from(r)])).collect()
    } else {
        let start = place.q.map_or(0, |q| (q + 1) % n);
        let walk = (0..n).map(|i| (start + i) % n).filter(|&r| !is_parity(r));
        if place.q.is_some() {
            walk.map(|r| Some(lanes[usize::from(r)])).collect()
        } else {
            (0..k).map(Some).collect()
        }
    };
    let mut exponents = vec![0u8; usize::from(k)];
    for (e, lane) in by_exponent.iter().enumerate() {
        if let Some(lane) = lane {
            exponents[usize::from(*lane)] = e as u8;
        }
    }
    Some(RowPattern { roles, lanes, exponents, by_exponent })
}
