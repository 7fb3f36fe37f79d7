//! RAID levels and md's layout numbers, as types that only hold what md accepts.
//!
//! Where a layout puts data, P and Q is not said here; that is the array's geometry. Numbers are those
//! of the `level` and `layout` fields of the superblock; names are those that mdadm prints.

use std::fmt;

/// A level that has parity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    /// P on a member of its own.
    Raid4,
    /// P on every member in turn.
    Raid5,
    /// P and Q on every member in turn.
    Raid6,
}

impl Level {
    /// The level with this number in the superblock (4, 5 or 6).
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            4 => Some(Level::Raid4),
            5 => Some(Level::Raid5),
            6 => Some(Level::Raid6),
            _ => None,
        }
    }

    /// The number in the superblock.
    pub fn number(self) -> i32 {
        match self {
            Level::Raid4 => 4,
            Level::Raid5 => 5,
            Level::Raid6 => 6,
        }
    }

    /// Parity members of a stripe, which is also how many members may be lost.
    pub fn parity(self) -> u16 {
        match self {
            Level::Raid4 | Level::Raid5 => 1,
            Level::Raid6 => 2,
        }
    }

    /// The fewest members that md starts an array of this level with: two, or four for RAID 6.
    pub fn min_members(self) -> u16 {
        match self {
            Level::Raid4 | Level::Raid5 => 2,
            Level::Raid6 => 4,
        }
    }

    /// The most members an array of this level can have. The role table ends at 1920; the coefficients
    /// of Q repeat after 255 exponents, and the DDF layouts use as many exponents as there are members.
    pub fn max_members(self) -> u16 {
        match self {
            Level::Raid4 | Level::Raid5 => crate::MAX_DEVICES,
            Level::Raid6 => 255,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raid{}", self.number())
    }
}

/// The order of data and parity over the members. The same number means different placements on
/// RAID 5 and RAID 6, so a layout is always used beside its [`Level`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Layout {
    /// RAID 4, which has one placement only: P on the last member. Number 0.
    Raid4,
    /// Number 0 of RAID 5 and 6.
    LeftAsymmetric,
    /// Number 1 of RAID 5 and 6.
    RightAsymmetric,
    /// Number 2 of RAID 5 and 6; the default.
    LeftSymmetric,
    /// Number 3 of RAID 5 and 6.
    RightSymmetric,
    /// Number 4 of RAID 5 and 6.
    ParityFirst,
    /// Number 5 of RAID 5 and 6.
    ParityLast,
    /// Number 8, RAID 6 only.
    DdfZeroRestart,
    /// Number 9, RAID 6 only.
    DdfNRestart,
    /// Number 10, RAID 6 only.
    DdfNContinue,
    /// Number 16, RAID 6 only: a RAID 5 placement with Q on the last member.
    LeftAsymmetric6,
    /// Number 17, RAID 6 only: a RAID 5 placement with Q on the last member.
    RightAsymmetric6,
    /// Number 18, RAID 6 only: a RAID 5 placement with Q on the last member.
    LeftSymmetric6,
    /// Number 19, RAID 6 only: a RAID 5 placement with Q on the last member.
    RightSymmetric6,
    /// Number 20, RAID 6 only: a RAID 5 placement with Q on the last member.
    ParityFirst6,
}

/// Number and name of every layout but RAID 4's. The first six are valid for RAID 5 too.
const LAYOUTS: [(Layout, u32, &str); 14] = [
    (Layout::LeftAsymmetric, 0, "left-asymmetric"),
    (Layout::RightAsymmetric, 1, "right-asymmetric"),
    (Layout::LeftSymmetric, 2, "left-symmetric"),
    (Layout::RightSymmetric, 3, "right-symmetric"),
    (Layout::ParityFirst, 4, "parity-first"),
    (Layout::ParityLast, 5, "parity-last"),
    (Layout::DdfZeroRestart, 8, "ddf-zero-restart"),
    (Layout::DdfNRestart, 9, "ddf-N-restart"),
    (Layout::DdfNContinue, 10, "ddf-N-continue"),
    (Layout::LeftAsymmetric6, 16, "left-asymmetric-6"),
    (Layout::RightAsymmetric6, 17, "right-asymmetric-6"),
    (Layout::LeftSymmetric6, 18, "left-symmetric-6"),
    (Layout::RightSymmetric6, 19, "right-symmetric-6"),
    (Layout::ParityFirst6, 20, "parity-first-6"),
];

impl Layout {
    /// The layout that a new array of `level` gets: left-symmetric, or RAID 4's only one.
    pub fn default_for(level: Level) -> Self {
        match level {
            Level::Raid4 => Layout::Raid4,
            Level::Raid5 | Level::Raid6 => Layout::LeftSymmetric,
        }
    }

    /// Every layout that `level` may have, in the order of their numbers.
    pub fn all(level: Level) -> Vec<Self> {
        match level {
            Level::Raid4 => vec![Layout::Raid4],
            _ => LAYOUTS.iter().map(|&(layout, _, _)| layout).filter(|l| l.valid_for(level)).collect(),
        }
    }

    /// The layout with this number in a superblock of `level`. RAID 4 ignores its number, as md does.
    pub fn from_number(level: Level, number: u32) -> Option<Self> {
        if level == Level::Raid4 {
            return Some(Layout::Raid4);
        }
        let found = LAYOUTS.iter().find(|&&(_, n, _)| n == number)?.0;
        found.valid_for(level).then_some(found)
    }

    /// The layout of `level` with this name.
    pub fn from_name(level: Level, name: &str) -> Option<Self> {
        Layout::all(level).into_iter().find(|layout| layout.name() == name)
    }

    /// The number that a new superblock gets.
    pub fn number(self) -> u32 {
        LAYOUTS.iter().find(|&&(layout, _, _)| layout == self).map_or(0, |&(_, number, _)| number)
    }

    /// The name that mdadm prints; "parity-last" for RAID 4, for which it prints none.
    pub fn name(self) -> &'static str {
        LAYOUTS.iter().find(|&&(layout, _, _)| layout == self).map_or("parity-last", |&(_, _, name)| name)
    }

    /// Whether an array of `level` may have this layout.
    pub fn valid_for(self, level: Level) -> bool {
        match level {
            Level::Raid4 => self == Layout::Raid4,
            Level::Raid5 => self != Layout::Raid4 && self.number() <= 5,
            Level::Raid6 => self != Layout::Raid4,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
