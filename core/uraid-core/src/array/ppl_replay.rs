//! The replay of partial parity logs at the start: parity of the blocks that an entry names becomes the XOR of
//! the data that were being written, as they are now, and of the partial parity.
//!
//! It is the first work of each stripe that it concerns, and what cannot be read is left out block by block. Blocks
//! of which a written member is missing are left alone (raid5-ppl.c, `ppl_recover_entry`): parity is then all that is
//! known of that member's block, old or new. Parity that cannot be made right without a member is recorded as bad.

use super::cache::Work;
use super::pass::{Kind, Pass};
use super::ppl::LogIo;
use super::{Array, Io, IoFor};
use crate::blocks::{Blocks, Run};
use crate::geometry::Geometry;
use crate::{Action, ComputeFault, IoFault, Mem, MemberId, Place, Role, SlotId, Step};
use md_format::{ArrayPpl, Assembly, PplReplay};

/// The most pieces that are replayed. A log of md's speaks of some hundred; beyond this one was made up, and
/// parity is compared everywhere instead.
const MOST_PIECES: usize = 1 << 20;
/// How often the engine may fail before a piece is in doubt.
const COMPUTE_TRIES: u8 = 3;

/// What is left of the replay.
#[derive(Clone, Debug)]
pub(super) struct Replay {
    /// What was not queued yet.
    pieces: Vec<Piece>,
    under_way: usize,
    /// Something did not check out or could not be replayed.
    doubtful: bool,
    /// Without doubts, the array is clean afterwards.
    cleans: bool,
}

/// A part of an entry in one stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    stripe: u64,
    run: Run,
    first_lane: u16,
    lanes: u16,
    /// Whose log it is.
    member: MemberId,
    /// Where its partial parity is on that member; `None` if all data lanes were written.
    pp_offset: Option<u64>,
}

impl Replay {
    pub(super) fn new(logs: &ArrayPpl, assembly: &Assembly, ids: &[MemberId], geometry: &Geometry) -> Self {
        let mut replay =
            Replay { pieces: Vec::new(), under_way: 0, doubtful: logs.doubtful > 0, cleans: logs.cleans() };
        for entry in &logs.replay {
            let owner = assembly.members.iter().zip(ids).find(|(member, _)| member.found == entry.found);
            let role = owner.and_then(|(member, _)| member.role);
            match owner.filter(|_| role.map(u32::from) == Some(entry.parity_role)) {
                Some((_, &id)) => replay.add(entry, id, geometry),
                None => replay.doubtful = true,
            }
        }
        replay
    }

    /// Cuts an entry into pieces of one stripe.
    fn add(&mut self, entry: &PplReplay, member: MemberId, geometry: &Geometry) {
        let rows = entry.rows;
        let strip = u64::from(geometry.strip_bytes());
        let (mut at, end) = (rows.offset, rows.offset + rows.strip_bytes);
        while at < end {
            let stripe = rows.row * geometry.bands() + at / strip;
            let len = (strip - at % strip).min(end - at);
            let pattern = geometry.pattern(stripe);
            let parity = pattern.roles.get(usize::from(geometry.p_lane()));
            if self.pieces.len() >= MOST_PIECES || parity.map(|r| u32::from(r.0)) != Some(entry.parity_role) {
                self.doubtful = true;
                return;
            }
            self.pieces.push(Piece {
                stripe,
                // Both are below the blocks of a strip.
                run: Run { first: (at % strip / 4096) as u32, count: (len / 4096) as u32 },
                first_lane: rows.first_lane,
                lanes: rows.lanes,
                member,
                pp_offset: entry.pp_offset.map(|pp| pp + (at - rows.offset)),
            });
            at += len;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.pieces.is_empty() && self.under_way == 0
    }

    /// Whether the array is clean afterwards, if it is whole.
    pub(super) fn cleans(&self) -> bool {
        self.cleans && !self.doubtful
    }
}

impl Piece {
    fn written(&self) -> std::ops::Range<u16> {
        self.first_lane..self.first_lane + self.lanes
    }
}

impl Array {
    /// Queues all of the replay, in the order of the entries.
    pub(super) fn queue_replay(&mut self) {
        let Some(ppl) = &mut self.ppl else { return };
        let pieces = std::mem::take(&mut ppl.replay.pieces);
        let pieces: Vec<Piece> = pieces.into_iter().flat_map(|piece| self.readable_parts(piece)).collect();
        let Some(ppl) = &mut self.ppl else { return };
        ppl.replay.under_way = pieces.len();
        for piece in pieces {
            self.cache.push(piece.stripe, Work::Replay(piece), true);
        }
    }

    /// A piece without the blocks of which a written one is known to be bad: to parity it is as if its member were
    /// missing.
    fn readable_parts(&self, piece: Piece) -> Vec<Piece> {
        let roles = &self.geometry.pattern(piece.stripe).roles;
        let written = piece.written().filter_map(|lane| roles.get(usize::from(lane)));
        let members = written.filter_map(|role| self.in_sync_at(*role, piece.stripe));
        let bad = members.fold(Blocks::NONE, |all, member| all.or(self.bad_in_strip(member, piece.stripe)));
        let part = |run: Run| {
            let skipped = u64::from(run.offset() - piece.run.offset());
            Piece { run, pp_offset: piece.pp_offset.map(|at| at + skipped), ..piece }
        };
        piece.run.blocks().minus(bad).runs().map(part).collect()
    }

    /// Reads what a piece needs.
    pub(super) fn start_replay(&mut self, id: SlotId, piece: Piece) {
        let lanes = self.cache.slot(id).lanes.len();
        self.cache.slot_mut(id).pass = Some(Pass::new(Kind::Replay(piece), Vec::new(), lanes));
        let roles = self.geometry.pattern(piece.stripe).roles.clone();
        let holder = |lane: u16| {
            let role = *roles.get(usize::from(lane))?;
            Some((self.in_sync_at(role, piece.stripe)?, role))
        };
        let sources: Option<Vec<(MemberId, Role)>> = piece.written().map(holder).collect();
        let here = holder(self.geometry.p_lane()).is_some_and(|(member, _)| member == piece.member);
        let Some(sources) = sources.filter(|_| here) else { return self.replay_done(id) };
        let mem =
            |role| Mem { place: Place::Slot(id, role), offset: piece.run.offset(), len: piece.run.bytes() };
        let mut reads: Vec<(MemberId, u64, Mem)> = sources
            .into_iter()
            .map(|(member, role)| {
                let offset = self.device_offset(member, piece.stripe) + u64::from(piece.run.offset());
                (member, offset, mem(role))
            })
            .collect();
        reads.extend(piece.pp_offset.map(|pp| (piece.member, pp, mem(self.log_role()))));
        if let Some(pass) = &mut self.cache.slot_mut(id).pass {
            pass.outstanding = reads.len() as u32;
        }
        for (member, offset, mem) in reads {
            let what = IoFor::Ppl(LogIo::Replay(id));
            let io = self.start_io(Io { member, offset, len: mem.len, write: false, what });
            self.actions.push_back(Action::Read { io, member, offset, mem });
        }
    }

    /// The strip of a slot that holds partial parity.
    pub(super) fn log_role(&self) -> Role {
        Role(self.geometry.members())
    }

    pub(super) fn replay_io_done(&mut self, id: SlotId, io: Io, result: Result<(), IoFault>) {
        match result {
            Err(IoFault::Io) if io.write => {}
            Err(_) if io.write => self.fail_member(io.member, "a write failed"),
            Err(fault) => drop(self.read_failed(io.member, fault, Blocks::NONE)),
            Ok(()) => {}
        }
        let Some(pass) = &mut self.cache.slot_mut(id).pass else { return };
        let Kind::Replay(piece) = pass.kind else { return };
        pass.failed |= result.is_err();
        // Without a member that is gone the piece is none of the replay; a medium that fails is another matter.
        if result.is_err() && piece.run.count == 1 && self.is_live(io.member) {
            self.replay_failed(id, piece, io.write);
        }
        let Some(pass) = &mut self.cache.slot_mut(id).pass else { return };
        pass.outstanding -= 1;
        match (pass.outstanding, pass.storing, pass.failed) {
            (0, false, false) => self.compute_replay(id),
            (0, _, true) if self.replay_singly(id) => {}
            (0, ..) => self.replay_done(id),
            _ => {}
        }
    }

    /// Goes on block by block where a piece of several could not be read or written: a medium that fails there says
    /// nothing about the other columns. False if it is one block.
    fn replay_singly(&mut self, id: SlotId) -> bool {
        let slot = self.cache.slot_mut(id);
        let Some(Pass { kind: Kind::Replay(piece), .. }) = slot.pass else { return false };
        if piece.run.count < 2 {
            return false;
        }
        for at in (0..piece.run.count).rev() {
            let run = Run { first: piece.run.first + at, count: 1 };
            let skipped = u64::from(run.offset() - piece.run.offset());
            let pp_offset = piece.pp_offset.map(|at| at + skipped);
            slot.queue.push_front(Work::Replay(Piece { run, pp_offset, ..piece }));
        }
        if let Some(ppl) = &mut self.ppl {
            ppl.replay.under_way += piece.run.count as usize;
        }
        self.replay_done(id);
        true
    }

    /// Parity of some blocks could not be made to fit, or could not be written. With all members there it is compared
    /// later. Without one it would be taken for the word on what that one held: it is recorded as bad, or nothing is
    /// believed at all.
    fn replay_failed(&mut self, id: SlotId, piece: Piece, written: bool) {
        self.doubt_replay(!written);
        if !written && !self.degraded {
            return;
        }
        let lane = self.geometry.p_lane();
        if !self.record_bad(id, lane, piece.member, piece.run.blocks(), usize::MAX) {
            let why = "its parity cannot be made to fit the partial parity log, and it has no bad-block log to say so";
            self.fail_member(piece.member, why);
        }
    }

    fn doubt_replay(&mut self, doubtful: bool) {
        if let Some(ppl) = &mut self.ppl {
            ppl.replay.doubtful |= doubtful;
        }
    }

    fn compute_replay(&mut self, id: SlotId) {
        let log_role = self.log_role();
        let Some(pass) = &mut self.cache.slot_mut(id).pass else { return };
        let Kind::Replay(piece) = pass.kind else { return };
        pass.outstanding = 1;
        let pattern = self.geometry.pattern(piece.stripe);
        let mem =
            |role| Mem { place: Place::Slot(id, role), offset: piece.run.offset(), len: piece.run.bytes() };
        let role = |lane: u16| pattern.roles.get(usize::from(lane)).copied();
        let mut partial = piece.pp_offset.map(|_| mem(log_role));
        let data = (0..self.geometry.data())
            .map(|lane| match role(lane) {
                Some(role) if piece.written().contains(&lane) => Some(mem(role)),
                // To parity it is all the same which of the blocks it is.
                _ => partial.take(),
            })
            .collect();
        let p = role(self.geometry.p_lane()).map(mem);
        self.start_compute(id, vec![Step::GenParity { data, p, q: None }]);
    }

    pub(super) fn replay_computed(&mut self, id: SlotId, piece: Piece, result: Result<(), ComputeFault>) {
        let Some(pass) = &mut self.cache.slot_mut(id).pass else { return };
        pass.outstanding = 0;
        if result.is_err() {
            pass.compute_faults += 1;
            if pass.compute_faults < COMPUTE_TRIES {
                return self.compute_replay(id);
            }
            self.replay_failed(id, piece, false);
            return self.replay_done(id);
        }
        pass.storing = true;
        pass.outstanding = 1;
        let role = self.geometry.pattern(piece.stripe).roles[usize::from(self.geometry.p_lane())];
        let Some(member) = self.in_sync_at(role, piece.stripe) else { return self.replay_done(id) };
        let offset = self.device_offset(member, piece.stripe) + u64::from(piece.run.offset());
        let mem = Mem { place: Place::Slot(id, role), offset: piece.run.offset(), len: piece.run.bytes() };
        let what = IoFor::Ppl(LogIo::Replay(id));
        let io = self.start_io(Io { member, offset, len: mem.len, write: true, what });
        self.actions.push_back(Action::Write { io, member, offset, mem });
    }

    fn replay_done(&mut self, id: SlotId) {
        self.cache.slot_mut(id).pass = None;
        self.cache.finish(id, self.geometry.data());
        if let Some(ppl) = &mut self.ppl {
            ppl.replay.under_way -= 1;
        }
    }
}
