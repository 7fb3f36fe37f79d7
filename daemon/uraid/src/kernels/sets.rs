//! Over how much memory to measure. A rate means something only together with where the blocks were, so
//! each set is chosen by the sizes of the caches, and one that cannot be had is left out with the reason.

use super::report::{Cache, CacheKind, Set};
use crate::human;

const MIB: u64 = 1 << 20;
/// A set in L3 is not made larger than this, which is enough to be out of every L2.
const L3_SET_MAX: u64 = 64 * MIB;
/// A set in memory is not made smaller than this, nor larger unless L3 asks for it.
const MEMORY_SET: [u64; 2] = [64 * MIB, 256 * MIB];
/// The most that it may take, and with `--quick`: touching it takes time.
const MEMORY_SET_LIMITS: [u64; 2] = [1024 * MIB, 256 * MIB];

/// A working set, or why there is none.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct SetPlan {
    pub(super) set: Set,
    pub(super) bytes: Result<u64, String>,
}

/// The working sets for a machine with these caches and so many bytes of free memory.
pub(super) fn plan(stripe_bytes: u64, caches: &[Cache], free: Option<u64>, quick: bool) -> [SetPlan; 3] {
    let size = |level| {
        let holds_data = |cache: &&Cache| cache.level == level && cache.kind != CacheKind::Instruction;
        caches.iter().find(holds_data).map(|cache| cache.bytes)
    };
    let (l2, l3) = (size(2), size(3));
    [
        SetPlan { set: Set::Hot, bytes: Ok(stripe_bytes) },
        SetPlan { set: Set::L3, bytes: in_l3(l2.or(size(1)), l3).and_then(|bytes| check_free(bytes, free)) },
        SetPlan {
            set: Set::Memory,
            bytes: beyond(l3.or(l2), quick).and_then(|bytes| check_free(bytes, free)),
        },
    ]
}

/// A quarter of L3, for others use it too, or half of it; and twice the cache below it at least.
fn in_l3(below: Option<u64>, l3: Option<u64>) -> Result<u64, String> {
    let l3 = l3.ok_or("the system tells of no L3")?;
    let enough = below.unwrap_or(0).saturating_mul(2);
    let sizes = [(l3 / 4).min(L3_SET_MAX), l3 / 2];
    sizes.into_iter().find(|bytes| *bytes >= enough).ok_or_else(|| {
        format!("the L3 of {} is hardly larger than the L2 of {}", human::bytes(l3), human::bytes(enough / 2))
    })
}

/// Four times the last cache, or at least twice it.
fn beyond(last: Option<u64>, quick: bool) -> Result<u64, String> {
    let [least, most] = MEMORY_SET;
    let last = last.unwrap_or(most / 4);
    let bytes = last.saturating_mul(4).clamp(least, most).max(last.saturating_mul(2));
    let [limit, limit_quick] = MEMORY_SET_LIMITS;
    let (limit, when) = if quick { (limit_quick, " with --quick") } else { (limit, "") };
    if bytes > limit {
        let (bytes, limit) = (human::bytes(bytes), human::bytes(limit));
        return Err(format!("a set beyond the caches takes {bytes}; at most {limit} are used{when}"));
    }
    Ok(bytes)
}

/// At most half of what is free. If that is not known, the allocation itself tells.
fn check_free(bytes: u64, free: Option<u64>) -> Result<u64, String> {
    match free {
        Some(free) if bytes > free / 2 => Err(format!(
            "memory is short: the set takes {}, and {} are free",
            human::bytes(bytes),
            human::bytes(free)
        )),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;
    const GIB: u64 = 1 << 30;

    fn caches(sizes: &[(u32, u64)]) -> Vec<Cache> {
        let data = sizes.iter().map(|&(level, bytes)| {
            let kind = if level == 1 { CacheKind::Data } else { CacheKind::Unified };
            Cache { level, kind, bytes, shared_by: 1 }
        });
        let code = Cache { level: 1, kind: CacheKind::Instruction, bytes: 64 * KIB, shared_by: 1 };
        [code].into_iter().chain(data).collect()
    }

    /// The sets in L3 and in memory.
    fn sizes(sizes: &[(u32, u64)], free: Option<u64>, quick: bool) -> [Result<u64, String>; 2] {
        let [hot, l3, memory] = plan(160 * KIB, &caches(sizes), free, quick);
        assert_eq!((hot.set, hot.bytes), (Set::Hot, Ok(160 * KIB)));
        assert_eq!((l3.set, memory.set), (Set::L3, Set::Memory));
        [l3.bytes, memory.bytes]
    }

    #[test]
    fn sets_follow_the_caches() {
        for (l2, l3, in_l3, beyond) in [
            (MIB, 32 * MIB, 8 * MIB, 128 * MIB),
            (512 * KIB, 6 * MIB, 1536 * KIB, 64 * MIB),
            (2 * MIB, 105 * MIB, 105 * MIB / 4, 256 * MIB),
            (MIB, 3 * MIB, 0, 64 * MIB),
            (MIB, 5 * MIB, 5 * MIB / 2, 64 * MIB),
            (2 * MIB, 504 * MIB, 64 * MIB, 1008 * MIB),
        ] {
            let [got, memory] = sizes(&[(1, 32 * KIB), (2, l2), (3, l3)], Some(64 * GIB), false);
            assert_eq!(got.unwrap_or(0), in_l3, "{l3}");
            assert_eq!(memory, Ok(beyond), "{l3}");
        }
    }

    #[test]
    fn what_cannot_be_had_has_a_reason() {
        let zen = [(1, 32 * KIB), (2, MIB), (3, 32 * MIB)];
        let [l3, memory] = sizes(&zen, Some(100 * MIB), false);
        assert_eq!(l3, Ok(8 * MIB));
        assert!(memory.unwrap_err().contains("memory is short"));
        let [l3, memory] = sizes(&[(1, 32 * KIB), (2, MIB)], None, false);
        assert!(l3.unwrap_err().contains("no L3"));
        assert_eq!(memory, Ok(64 * MIB));
        assert_eq!(sizes(&[], None, true)[1], Ok(256 * MIB));
        let huge = [(2, 2 * MIB), (3, 504 * MIB)];
        assert!(sizes(&huge, None, true)[1].as_ref().is_err_and(|reason| reason.contains("--quick")));
        assert!(sizes(&[(3, u64::MAX)], None, false)[1].is_err());
    }
}
