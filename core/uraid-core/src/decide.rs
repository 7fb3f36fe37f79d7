//! Analyse and decide: from what is known of one column of a stripe to what must be read and how parity
//! is brought up to date. Pure functions over small values, tested as tables.
//!
//! A **column** is one block on every lane at the same place in the strips. Columns that look alike are
//! decided once; see `plan`.

use crate::blocks::Lanes;

/// How much of a block the pending writes replace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dirty {
    /// Nothing.
    #[default]
    No,
    /// Some sectors.
    Partly,
    /// All of it.
    Wholly,
}

/// What is known of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Block {
    /// Pending writes; never set for parity.
    pub dirty: Dirty,
    /// The cache holds what the member holds, or should hold if it is gone.
    pub cached: bool,
    /// The member can be asked: it is in sync at this stripe and did not fail to read this block.
    pub readable: bool,
    /// The member takes writes at this stripe. A block that failed to read is still writable.
    pub writable: bool,
}

impl Block {
    fn known(&self) -> bool {
        self.cached || self.readable
    }
}

/// One column: the blocks by lane, data first, then P, then Q if there is one.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a> {
    /// Blocks by lane.
    pub blocks: &'a [Block],
    /// Data lanes.
    pub data: u16,
    /// Parity matches the data (false between an unclean stop and the end of the resync).
    pub trusted: bool,
}

/// How parity is brought up to date.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Compute it from all data; with nothing to read this is a full-stripe write.
    Reconstruct,
    /// Apply the difference of old and new data to old parity.
    ReadModify,
    /// There is no parity member left to keep up.
    Plain,
}

/// The blocks to get and, if some can't be read, how to recover them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fetch {
    /// Lanes to read from members.
    pub load: Lanes,
    /// Lanes to recover once the others are there. Empty if all needed lanes could be had directly.
    pub recover: Lanes,
    /// P is a source of the recovery.
    pub use_p: bool,
    /// Q is a source of the recovery.
    pub use_q: bool,
}

/// What to do about the pending writes of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// How parity follows.
    pub method: Method,
    /// What must be in the cache first.
    pub fetch: Fetch,
}

/// More blocks are unreadable than parity can recover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unrecoverable;

impl Column<'_> {
    fn p(&self) -> Option<&Block> {
        self.blocks.get(usize::from(self.data))
    }

    fn q(&self) -> Option<&Block> {
        self.blocks.get(usize::from(self.data) + 1)
    }

    fn lanes(&self) -> impl Iterator<Item = (u16, &Block)> {
        (0u16..).zip(self.blocks)
    }

    fn data_lanes(&self) -> impl Iterator<Item = (u16, &Block)> {
        self.lanes().take(usize::from(self.data))
    }
}

/// How to get the contents of `need` into the cache with the fewest reads.
///
/// One unknown data block is recovered by P, or by Q if P can't be had; two by both. Unknown data that
/// nobody asked for are recovered along the way, since the equations contain them.
pub fn fetch(column: &Column<'_>, need: &Lanes) -> Result<Fetch, Unrecoverable> {
    let missing: Lanes = need.iter().filter(|&l| !known(column, l)).collect();
    if missing.is_empty() {
        return Ok(Fetch { load: uncached(column, need.iter()), ..Fetch::default() });
    }
    let unknown: Lanes = column.data_lanes().filter(|(_, b)| !b.known()).map(|(l, _)| l).collect();
    let p_known = column.p().is_some_and(Block::known);
    let q_known = column.q().is_some_and(Block::known);
    let (use_p, use_q) = match unknown.count() {
        0 => (false, false),
        1 if p_known => (true, false),
        1 if q_known => (false, true),
        2 if p_known && q_known => (true, true),
        _ => return Err(Unrecoverable),
    };
    let p_lane = column.data;
    let known_data = column.data_lanes().filter(|(_, b)| b.known()).map(|(l, _)| l);
    let sources = known_data
        .chain(use_p.then_some(p_lane))
        .chain(use_q.then_some(p_lane + 1))
        .chain(need.iter().filter(|&l| known(column, l)));
    let load = uncached(column, sources);
    let parity = missing.iter().filter(|&l| l >= p_lane);
    let recover = unknown.iter().chain(parity).collect();
    Ok(Fetch { load, recover, use_p, use_q })
}

fn known(column: &Column<'_>, lane: u16) -> bool {
    column.blocks.get(usize::from(lane)).is_some_and(Block::known)
}

fn uncached(column: &Column<'_>, lanes: impl Iterator<Item = u16>) -> Lanes {
    lanes.filter(|&l| column.blocks.get(usize::from(l)).is_some_and(|b| !b.cached)).collect()
}

/// How to bring the column up to date with its pending writes: the way with fewer member reads. The
/// writes are the same either way. On a tie parity is reconstructed, which also repairs it.
pub fn decide_write(column: &Column<'_>) -> Result<Decision, Unrecoverable> {
    let has_parity = [column.p(), column.q()].into_iter().flatten().any(|b| b.writable);
    if !has_parity {
        let need = column.data_lanes().filter(|(_, b)| b.dirty == Dirty::Partly).map(|(l, _)| l).collect();
        return Ok(Decision { method: Method::Plain, fetch: fetch(column, &need)? });
    }
    let modify = read_modify(column);
    let need = column.data_lanes().filter(|(_, b)| b.dirty != Dirty::Wholly).map(|(l, _)| l).collect();
    match (fetch(column, &need), modify) {
        (Ok(rcw), Some(rmw)) if rmw.count() < rcw.load.count() => Ok(modify_decision(rmw)),
        (Ok(rcw), _) => Ok(Decision { method: Method::Reconstruct, fetch: rcw }),
        (Err(_), Some(rmw)) => Ok(modify_decision(rmw)),
        (Err(e), None) => Err(e),
    }
}

fn modify_decision(load: Lanes) -> Decision {
    Decision { method: Method::ReadModify, fetch: Fetch { load, ..Fetch::default() } }
}

/// The reads of a read-modify-write, or `None` where it can't be done: parity not trusted, old data not
/// to be had, or a parity block that must be rewritten since it could not be read.
fn read_modify(column: &Column<'_>) -> Option<Lanes> {
    if !column.trusted {
        return None;
    }
    let involved: Lanes = column
        .lanes()
        .filter(|&(l, b)| if l < column.data { b.dirty != Dirty::No } else { b.writable })
        .map(|(l, _)| l)
        .collect();
    involved.iter().all(|l| known(column, l)).then(|| uncached(column, involved.iter()))
}
