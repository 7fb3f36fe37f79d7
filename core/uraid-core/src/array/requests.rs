//! Client requests: cut into parts, reads of healthy blocks sent straight to their member, and answered
//! when every part is done and whatever had to become durable first is durable.

use super::cache::Work;
use super::{Array, Io, IoFor};
use crate::blocks::Blocks;
use crate::plan::Part;
use crate::{Action, IoFault, Mem, MemberId, Notice, Piece, Place, ReqId, RequestError, RequestKind};
use std::collections::VecDeque;

/// Parts of zero requests under way at a time for each slot of the cache, over all requests; the rest
/// waits. A request of 28 bytes may ask for 4 GiB of zeroes: many of them must neither fill the memory with
/// parts nor keep others waiting for slots.
const ZERO_PARTS_A_SLOT: u32 = 2;

/// Bytes of zeroes that a stop waits for, of all requests together, in order of arrival. One of 64-bit length
/// may ask for all of the array, which takes hours, and so may a hundred of 32 bits; one of 32 bits is done,
/// because the kernel sends such and its file systems want no error.
const ZEROES_AT_STOP: u64 = u32::MAX as u64;

/// A request that was not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) kind: RequestKind,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Bytes of which the parts were issued.
    pub(super) issued: u64,
    /// Parts under way.
    pub(super) parts: u32,
    pub(super) error: Option<RequestError>,
    /// It is in line for more parts.
    pub(super) throttled: bool,
    /// How many requests came before it.
    pub(super) arrival: u64,
}

/// A request that waits to be issued, with what there is to compare: there may be thousands, and each is
/// looked at for each part that is issued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    id: ReqId,
    arrival: u64,
    offset: u64,
    end: u64,
}

impl Waiting {
    fn comes_after(&self, other: &Waiting) -> bool {
        other.arrival < self.arrival && other.offset < self.end && self.offset < other.end
    }
}

impl Request {
    fn waiting(&self, id: ReqId) -> Waiting {
        Waiting { id, arrival: self.arrival, offset: self.offset, end: self.offset.saturating_add(self.len) }
    }
}

/// Flush requests, served in rounds: one flush of every member answers all who asked before it began.
#[derive(Clone, Debug, Default)]
pub(super) struct Flushes {
    /// Members still flushing in the round under way.
    pub(super) outstanding: u32,
    pub(super) current: Vec<ReqId>,
    pub(super) next: Vec<ReqId>,
    /// Answers that wait until the superblocks say which members failed.
    pub(super) parked: VecDeque<ReqId>,
}

impl RequestKind {
    fn writes(self) -> bool {
        matches!(self, RequestKind::Write { .. } | RequestKind::WriteZeroes { .. })
    }

    fn fua(self) -> bool {
        matches!(self, RequestKind::Write { fua: true } | RequestKind::WriteZeroes { fua: true })
    }
}

/// What is told of two errors: of reads the one that comes first in the request.
fn worse(before: Option<RequestError>, now: RequestError) -> RequestError {
    use RequestError::Unreadable;
    match (before, now) {
        (Some(Unreadable { at: before }), Unreadable { at }) => Unreadable { at: at.min(before) },
        (Some(before), Unreadable { .. }) => before,
        (_, now) => now,
    }
}

impl Array {
    pub(super) fn request(&mut self, id: ReqId, kind: RequestKind, offset: u64, len: u64) {
        if let Err(error) = self.admit(id, kind, offset, len) {
            self.actions.push_back(Action::Complete { req: id, result: Err(error) });
            return;
        }
        self.last_client = self.now;
        self.quiet = false;
        self.cache.arrived();
        let arrival = self.arrivals;
        self.arrivals += 1;
        let request =
            Request { kind, offset, len, issued: 0, parts: 0, error: None, throttled: false, arrival };
        let waiting = request.waiting(id);
        self.requests.insert(id, request);
        if kind == RequestKind::Flush {
            // Held writes were not answered, so the flush does not cover them; but whoever flushes
            // waits for them, too.
            self.cache.release_held();
            self.flushes.next.push(id);
            return;
        }
        if kind.writes() {
            self.writes_open += 1;
            self.last_write = self.now;
        }
        if len == 0 {
            self.finish_request(id);
            return;
        }
        let zeroes = matches!(kind, RequestKind::WriteZeroes { .. });
        if zeroes && !self.throttled.is_empty() || kind.writes() && self.has_older_overlap(&waiting) {
            self.throttle(id);
            return;
        }
        self.issue(id);
    }

    fn admit(&self, id: ReqId, kind: RequestKind, offset: u64, len: u64) -> Result<(), RequestError> {
        if self.stopping {
            return Err(RequestError::Shutdown);
        }
        if self.requests.contains_key(&id) {
            return Err(RequestError::Invalid);
        }
        if kind == RequestKind::Flush {
            return if self.broken { Err(RequestError::Io) } else { Ok(()) };
        }
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.geometry.array_bytes());
        let small = matches!(kind, RequestKind::WriteZeroes { .. }) || len <= 64 << 20;
        if !inside || !small || !offset.is_multiple_of(512) || !len.is_multiple_of(512) {
            return Err(RequestError::Invalid);
        }
        if kind.writes() && (self.broken || self.config.read_only) {
            return Err(RequestError::Io);
        }
        Ok(())
    }

    /// Issues parts of a request: all of them, but for zeroes up to the limit.
    fn issue(&mut self, id: ReqId) {
        let zero_limit = ZERO_PARTS_A_SLOT * self.config.slots;
        loop {
            let Some(request) = self.requests.get_mut(&id) else { return };
            if request.issued == request.len {
                return;
            }
            let zero = matches!(request.kind, RequestKind::WriteZeroes { .. });
            if zero && self.zero_parts >= zero_limit {
                self.throttle(id);
                return;
            }
            self.zero_parts += u32::from(zero);
            let (offset, left) = (request.offset + request.issued, request.len - request.issued);
            let piece = self.geometry.piece(offset, left);
            let part = Part {
                req: id,
                lane: piece.lane,
                offset: piece.offset,
                len: piece.len,
                // A request that has memory is no longer than 64 MiB.
                at: if zero { 0 } else { request.issued as u32 },
                zero,
            };
            request.issued += u64::from(piece.len);
            request.parts += 1;
            let kind = request.kind;
            let (first, end) = (request.offset, request.offset + request.len);
            if kind.writes() {
                self.cache.push(piece.stripe, Work::Write(part), kind.fua());
            } else {
                self.issue_read(piece, part, first, end);
            }
        }
    }

    fn throttle(&mut self, id: ReqId) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.throttled = true;
            self.throttled.push_back(request.waiting(id));
        }
    }

    /// Goes on with requests for zeroes as others of their parts are done. They take turns, but what overlaps
    /// an older one comes after it, as it would if all parts were issued on arrival: the younger may be the
    /// same request once more, and when that is answered the older must not write any more, for what was
    /// written since would be lost.
    pub(super) fn issue_throttled(&mut self) {
        while self.zero_parts < ZERO_PARTS_A_SLOT * self.config.slots {
            let Some(mut next) = self.throttled.pop_front() else { return };
            if self.has_older_overlap(&next)
                && let Some(oldest) = self.take_oldest_throttled()
            {
                self.throttled.push_back(next);
                next = oldest;
            }
            if let Some(request) = self.requests.get_mut(&next.id) {
                request.throttled = false;
                self.issue(next.id);
            }
        }
    }

    /// Begins nothing more of the zeroes that a stop does not wait for. What overlaps them was waiting for all
    /// of them, and goes on when they are answered.
    pub(super) fn cut_zeroes(&mut self) {
        let mut budget = ZEROES_AT_STOP;
        let mut kept = VecDeque::new();
        for waiting in self.throttled_by_arrival() {
            let id = waiting.id;
            let Some(request) = self.requests.get(&id) else { continue };
            let zero = matches!(request.kind, RequestKind::WriteZeroes { .. });
            let left = request.len - request.issued;
            if !zero || left <= budget {
                budget -= if zero { left } else { 0 };
                kept.push_back(waiting);
                continue;
            }
            let under_way = request.parts > 0;
            self.break_off(id, RequestError::Shutdown);
            if !under_way {
                self.finish_request(id);
            }
        }
        self.throttled = kept;
    }

    /// Gives back what was not begun, or not to its end: zeroes, and writes that wait for them. All of these
    /// overlap nothing that was begun and goes on, or come after it, so whoever carries them out later, in
    /// order of arrival, does what would have been done here.
    pub(super) fn recall(&mut self) {
        for Waiting { id, .. } in self.throttled_by_arrival() {
            self.break_off(id, RequestError::Recalled);
            self.recalled.push(id);
        }
        self.throttled.clear();
        self.answer_recalled();
    }

    /// Gives back all that was recalled, in order of arrival, when nothing of it is under way any more.
    fn answer_recalled(&mut self) {
        let under_way = |id| self.requests.get(id).is_some_and(|request| request.parts > 0);
        if !self.recalled.iter().any(under_way) {
            for id in std::mem::take(&mut self.recalled) {
                self.answer(id);
            }
        }
    }

    fn throttled_by_arrival(&self) -> Vec<Waiting> {
        let mut all: Vec<_> = self.throttled.iter().copied().collect();
        all.sort_by_key(|waiting| waiting.arrival);
        all
    }

    /// Begins nothing more of a request that was in line for it.
    fn break_off(&mut self, id: ReqId, error: RequestError) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.throttled = false;
        request.error = Some(error);
        request.issued = request.len;
    }

    fn has_older_overlap(&self, one: &Waiting) -> bool {
        self.throttled.iter().any(|other| one.comes_after(other))
    }

    fn take_oldest_throttled(&mut self) -> Option<Waiting> {
        let (at, _) = self.throttled.iter().enumerate().min_by_key(|(_, waiting)| waiting.arrival)?;
        self.throttled.remove(at)
    }

    fn issue_read(&mut self, piece: Piece, part: Part, first: u64, end: u64) {
        let role = self.geometry.pattern(piece.stripe).roles[usize::from(piece.lane)];
        let member = self.in_sync_at(role, piece.stripe);
        let bad = self
            .cache
            .find(piece.stripe)
            .is_some_and(|s| s.lanes[usize::from(piece.lane)].bad.meets(part.blocks()));
        let joins_lost = self.degraded && self.reads_lost_too(piece.stripe, first, end);
        let offset_on = |member| self.device_offset(member, piece.stripe) + u64::from(part.offset);
        match member {
            Some(member) if !bad && !joins_lost && !self.known_bad(member, offset_on(member), part.len) => {
                let mem = Mem { place: Place::Request(part.req), offset: part.at, len: part.len };
                let offset = offset_on(member);
                let what = IoFor::Direct { part, stripe: piece.stripe };
                let io = self.start_io(Io { member, offset, len: part.len, write: false, what });
                self.actions.push_back(Action::Read { io, member, offset, mem });
            }
            _ => self.cache.push(piece.stripe, Work::Read(part), false),
        }
    }

    /// Whether the same request also reads lost blocks of this stripe: then its healthy blocks are read
    /// by the stripe's pass, which needs them to recover the lost ones, and are read only once.
    fn reads_lost_too(&self, stripe: u64, first: u64, end: u64) -> bool {
        let pattern = self.geometry.pattern(stripe);
        (0..self.geometry.data()).any(|lane| {
            let start = self.geometry.array_offset(stripe, lane, 0);
            let overlaps = first < start + u64::from(self.geometry.strip_bytes()) && start < end;
            overlaps && self.in_sync_at(pattern.roles[usize::from(lane)], stripe).is_none()
        })
    }

    pub(super) fn direct_read_done(&mut self, io: Io, part: Part, stripe: u64, result: Result<(), IoFault>) {
        let Err(fault) = result else {
            self.part_done(part.req, Ok(()));
            return;
        };
        // The stripe's pass asks the member again before it believes that the block is bad: a write may
        // have replaced it in between.
        self.read_failed(io.member, fault, part.blocks());
        self.cache.push(stripe, Work::Read(part), false);
    }

    /// A member failed to read: the blocks to treat as lost on it. A member that is gone altogether is
    /// failed, and then nothing needs to be remembered block by block.
    pub(super) fn read_failed(&mut self, member: MemberId, fault: IoFault, blocks: Blocks) -> Blocks {
        let known = self.members.get_mut(&member);
        if let Some(known) = known {
            known.errors += 1;
        }
        if fault == IoFault::Gone {
            self.fail_member(member, "the device is gone");
        }
        if self.is_live(member) { blocks } else { Blocks::NONE }
    }

    /// A part of a request is done.
    pub(super) fn part_done(&mut self, id: ReqId, result: Result<(), RequestError>) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.parts -= 1;
        if matches!(request.kind, RequestKind::WriteZeroes { .. }) {
            self.zero_parts -= 1;
        }
        if let Err(error) = result {
            request.error = Some(worse(request.error, error));
        }
        if request.parts > 0 || request.issued < request.len {
            return;
        }
        if request.kind.fua() && request.error.is_none() {
            self.flushes.next.push(id);
        } else {
            self.finish_request(id);
        }
    }

    /// All is done but the answer. It waits while a superblock update is due that says which member
    /// missed the write: acknowledged first, a crash could bring that member back with the old data.
    pub(super) fn finish_request(&mut self, id: ReqId) {
        if self.recalled.contains(&id) {
            return self.answer_recalled();
        }
        let Some(request) = self.requests.get(&id) else { return };
        let changes = request.kind != RequestKind::Read;
        if changes && request.error.is_none() && !self.meta.failure_recorded() && !self.broken {
            self.flushes.parked.push_back(id);
            return;
        }
        self.answer(id);
    }

    fn answer(&mut self, id: ReqId) {
        let Some(request) = self.requests.remove(&id) else { return };
        if request.kind.writes() {
            self.writes_open -= 1;
            self.last_write = self.now;
        }
        let refused = self.broken && request.kind != RequestKind::Read;
        let result = match request.error {
            Some(error) => Err(error),
            None if refused => Err(RequestError::Io),
            None => Ok(()),
        };
        self.actions.push_back(Action::Complete { req: id, result });
    }

    /// Answers what waited for the superblocks to say who failed, if they do.
    pub(super) fn answer_parked(&mut self) {
        if self.broken || self.meta.failure_recorded() {
            for id in std::mem::take(&mut self.flushes.parked) {
                self.answer(id);
            }
        }
    }

    /// Starts a round of flushes if one is asked for and none is under way.
    pub(super) fn start_flush(&mut self) {
        if self.flushes.outstanding > 0 || self.flushes.next.is_empty() {
            return;
        }
        self.flushes.current = std::mem::take(&mut self.flushes.next);
        for member in self.live_members() {
            let io = self.start_io(Io { member, offset: 0, len: 0, write: false, what: IoFor::Flush });
            self.flushes.outstanding += 1;
            self.actions.push_back(Action::Flush { io, member });
        }
        if self.flushes.outstanding == 0 {
            self.end_flush();
        }
    }

    pub(super) fn flushed(&mut self, member: MemberId, result: Result<(), IoFault>) {
        if result.is_err() {
            self.fail_member(member, "a flush failed: what it was told to keep may be lost");
        }
        self.flushes.outstanding -= 1;
        if self.flushes.outstanding == 0 {
            self.end_flush();
        }
    }

    fn end_flush(&mut self) {
        for id in std::mem::take(&mut self.flushes.current) {
            self.finish_request(id);
        }
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.actions.push_back(Action::Notice(notice));
    }
}
