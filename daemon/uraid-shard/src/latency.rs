//! How long things take: histograms of what clients asked for, and of what members did.
//!
//! Plain counters of the shard's own thread: to record is a division by a constant, a count of zeroes and
//! two additions, and nothing is allocated but the first time that so many operations are in flight, or
//! that a member is heard of. The bounds are fixed, powers of two from 4 µs to 16.8 s, so that histograms
//! of different arrays, members and versions can be added and compared.

use uraid_core::{IoId, RequestKind, Tick};

/// The number of bounds: 4 µs, 8 µs, … 16,777,216 µs.
pub const LATENCY_BOUNDS: usize = 23;
/// The first bound.
const FIRST_NS: u64 = 4_000;

/// The upper bound, inclusive, of bucket `index` in microseconds; the last bucket has none.
pub fn latency_bound_us(index: usize) -> Option<u64> {
    (index < LATENCY_BOUNDS).then(|| (FIRST_NS / 1000) << index)
}

/// How many operations took how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Histogram {
    /// One count a bucket: `counts[i]` took longer than bound `i - 1` and not longer than bound `i`; the
    /// last one took longer than all bounds.
    pub counts: [u64; LATENCY_BOUNDS + 1],
    /// Nanoseconds of all together.
    pub sum_ns: u64,
}

impl Histogram {
    /// One more, that took so many nanoseconds.
    pub fn record(&mut self, ns: u64) {
        // 0 for what is within the first bound, else the number of doublings that it takes to get there.
        let doublings = u64::BITS - (ns.saturating_sub(1) / FIRST_NS).leading_zeros();
        if let Some(count) = self.counts.get_mut(LATENCY_BOUNDS.min(doublings as usize)) {
            *count += 1;
        }
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many operations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The operations of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpStats {
    /// How long they took; those that failed are counted too.
    pub latency: Histogram,
    /// Bytes that they were about.
    pub bytes: u64,
}

impl OpStats {
    /// One more.
    pub(crate) fn record(&mut self, ns: u64, bytes: u64) {
        self.latency.record(ns);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What clients ask of the array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientOp {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Writes of zeroes.
    WriteZeroes,
    /// Flushes.
    Flush,
}

impl ClientOp {
    /// All, in the order of [`ClientOps`].
    pub const ALL: [ClientOp; 4] = [Self::Read, Self::Write, Self::WriteZeroes, Self::Flush];

    /// Its name for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::WriteZeroes => "write_zeroes",
            Self::Flush => "flush",
        }
    }

    pub(crate) fn of(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Read => Self::Read,
            RequestKind::Write { .. } => Self::Write,
            RequestKind::WriteZeroes { .. } => Self::WriteZeroes,
            RequestKind::Flush => Self::Flush,
        }
    }
}

/// What is asked of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberOp {
    /// Reads.
    Read,
    /// Writes of data and parity.
    Write,
    /// Flushes.
    Flush,
    /// Writes of metadata, each with a flush.
    WriteMeta,
}

impl MemberOp {
    /// All, in the order of [`MemberOps`].
    pub const ALL: [MemberOp; 4] = [Self::Read, Self::Write, Self::Flush, Self::WriteMeta];

    /// Its name for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::WriteMeta => "write_meta",
        }
    }
}

/// Of clients, one entry a [`ClientOp`]: from when a request was complete, its payload included, until its
/// reply was made. What a connection answers by itself is not in it.
pub type ClientOps = [OpStats; ClientOp::ALL.len()];

/// Of one member, one entry a [`MemberOp`]: from when the operation was handed over until its end was seen.
pub type MemberOps = [OpStats; MemberOp::ALL.len()];

/// An operation of a member that has begun.
#[derive(Clone, Copy, Debug)]
struct Running {
    /// Tells the operations apart that have had this place.
    generation: u32,
    io: IoId,
    since: Tick,
    /// When it ended, if that was known before it was told.
    until: Option<Tick>,
    member: usize,
    op: MemberOp,
    bytes: u32,
}

/// Times the operations of members. Operations are known by a token of this watch from start to end.
#[derive(Debug, Default)]
pub(crate) struct Stopwatch {
    running: Vec<Option<Running>>,
    free: Vec<u32>,
    generation: u32,
    members: Vec<MemberOps>,
}

impl Stopwatch {
    /// An operation begins; says by which token it is known.
    pub(crate) fn start(&mut self, io: IoId, member: usize, op: MemberOp, bytes: u32, since: Tick) -> u64 {
        self.generation = self.generation.wrapping_add(1);
        let running =
            Some(Running { generation: self.generation, io, since, until: None, member, op, bytes });
        let token = |place: u32| u64::from(self.generation) << 32 | u64::from(place);
        if let Some(place) = self.free.pop()
            && let Some(entry) = self.running.get_mut(place as usize)
        {
            *entry = running;
            return token(place);
        }
        self.running.push(running);
        // Every operation holds memory, so the table stays far below 2^32.
        token((self.running.len() - 1) as u32)
    }

    /// An operation has ended, although that is told only later.
    pub(crate) fn ended(&mut self, token: u64, at: Tick) {
        let entry = self.running.get_mut(token as u32 as usize).and_then(Option::as_mut);
        if let Some(running) = entry.filter(|running| u64::from(running.generation) == token >> 32) {
            running.until = Some(at);
        }
    }

    /// The end of an operation is told; says which one it was, unless its end was told before. `now` is
    /// called if it is not known when it ended.
    pub(crate) fn end(&mut self, token: u64, now: impl FnOnce() -> Tick) -> Option<IoId> {
        let place = token as u32;
        let entry = self.running.get_mut(place as usize)?;
        let ended = entry.take_if(|running| u64::from(running.generation) == token >> 32)?;
        let until = ended.until.unwrap_or_else(now);
        self.free.push(place);
        if self.members.len() <= ended.member {
            self.members.resize(ended.member + 1, MemberOps::default());
        }
        if let Some(stats) = self.members.get_mut(ended.member).and_then(|ops| ops.get_mut(ended.op as usize))
        {
            stats.record(until.0.saturating_sub(ended.since.0), ended.bytes.into());
        }
        Some(ended.io)
    }

    /// What this member did.
    pub(crate) fn of(&self, member: usize) -> MemberOps {
        self.members.get(member).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow way: the first bound that is not exceeded.
    fn bucket_of(ns: u64) -> usize {
        let within = |index: &usize| latency_bound_us(*index).is_none_or(|bound| ns <= bound * 1000);
        (0..=LATENCY_BOUNDS).find(within).unwrap()
    }

    #[test]
    fn every_time_is_in_the_bucket_of_its_bound() {
        let edges = (0..LATENCY_BOUNDS).filter_map(latency_bound_us).map(|us| us * 1000);
        let around = edges.flat_map(|ns| [ns - 1, ns, ns + 1, ns + ns / 3]);
        for ns in around.chain([0, 1, 3999, u64::MAX - 1, u64::MAX]) {
            let mut histogram = Histogram::default();
            histogram.record(ns);
            assert_eq!(histogram.counts.iter().position(|count| *count == 1), Some(bucket_of(ns)), "{ns}");
            assert_eq!((histogram.count(), histogram.sum_ns), (1, ns));
        }
        assert_eq!(latency_bound_us(0), Some(4));
        assert_eq!(latency_bound_us(LATENCY_BOUNDS - 1), Some(16_777_216));
        assert_eq!(latency_bound_us(LATENCY_BOUNDS), None);
    }

    #[test]
    fn operations_end_once_and_in_any_order() {
        let mut watch = Stopwatch::default();
        let first = watch.start(IoId(70), 1, MemberOp::Read, 4096, Tick(1000));
        let second = watch.start(IoId(71), 1, MemberOp::Write, 512, Tick(2000));
        assert_eq!(watch.end(second, || Tick(11_000)), Some(IoId(71)));
        assert_eq!(watch.end(second, || Tick(11_000)), None);
        let third = watch.start(IoId(72), 0, MemberOp::Flush, 0, Tick(3000));
        assert_ne!(third, second, "a token of the past names nothing");
        assert_eq!(watch.end(third, || Tick(2000)), Some(IoId(72)));
        watch.ended(first, Tick(5000));
        watch.ended(second, Tick(5000));
        assert_eq!(watch.end(first, || panic!("it is known when it ended")), Some(IoId(70)));
        let [read, write, flush, meta] = watch.of(1);
        assert_eq!((read.bytes, read.latency.sum_ns, read.latency.counts[0]), (4096, 4000, 1));
        assert_eq!((write.bytes, write.latency.sum_ns, write.latency.counts[2]), (512, 9000, 1));
        assert_eq!((flush, meta), (OpStats::default(), OpStats::default()));
        assert_eq!(watch.of(0)[MemberOp::Flush as usize].latency.count(), 1);
        assert_eq!(watch.of(9), MemberOps::default());
        assert_eq!(watch.end(99, || Tick(0)), None);
    }
}
