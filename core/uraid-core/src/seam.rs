//! The seam: what the array is told ([`Event`]) and what it asks for ([`Action`]).
//!
//! The core never sees a pointer. Memory is named: a client request's payload by its [`ReqId`], a
//! stripe cache slot by ([`SlotId`], role). Whoever runs the core owns the bytes behind the names and
//! keeps them alive and in place from the action that names them until the event that answers it.

use std::fmt;

/// A client request, named by the runner; unique among the requests in flight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReqId(pub u64);

/// One member I/O, named by the core; never reused within an array's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct IoId(pub u64);

/// One compute plan, named by the core; never reused within an array's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ComputeId(pub u64);

/// A slot of the stripe cache. The runner provides [`crate::Array::slot_strips`] strips of
/// [`crate::Geometry::strip_bytes`] bytes for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u32);

/// A member device, by the index at which the runner attached it. Not a role: a spare has no role, and
/// a replaced member keeps its index while another one takes its role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberId(pub u16);

/// A role: the column of the array (md's `raid_disk`) that a member plays, 0 to n-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Role(pub u16);

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Time in nanoseconds of a clock that the runner chooses; it never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Tick(pub u64);

impl Tick {
    /// This time plus `ms` milliseconds.
    pub fn plus_ms(self, ms: u64) -> Self {
        Tick(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }
}

/// Which memory a [`Mem`] lies in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// The payload of a request (filled by the client for a write, by the array for a read).
    Request(ReqId),
    /// The strip of one role in one slot of the stripe cache. The role after the last stands for the partial parity
    /// of an array that logs it.
    Slot(SlotId, Role),
    /// Zeroes, read only, at least one strip of them. The offset says nothing here.
    Zero,
}

/// A run of bytes: `len` bytes at `offset` of a [`Place`]. Offsets and lengths are multiples of 512.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mem {
    /// Which memory.
    pub place: Place,
    /// Bytes from its start.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// What a client asks for. Ranges were validated by the protocol side and are checked again here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestKind {
    /// Fill the request's memory from the array.
    Read,
    /// Write the request's memory to the array; with `fua` the answer also promises that it is durable.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Write zeroes; the request has no memory.
    WriteZeroes {
        /// Force unit access.
        fua: bool,
    },
    /// Make every write answered before this request durable. Offset and length are ignored.
    Flush,
}

/// What happened. See [`crate::Array::handle`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A client asks; answered by exactly one [`Action::Complete`].
    Request {
        /// The runner's name for it.
        id: ReqId,
        /// What is asked.
        kind: RequestKind,
        /// First byte of the array; a multiple of 512.
        offset: u64,
        /// Bytes; a multiple of 512. At most 64 MiB, but for zeroes.
        len: u64,
    },
    /// No further request is at hand right now: writes held back in the hope that neighbours make
    /// them full stripes are started. The runner says so whenever its inputs are drained.
    Idle,
    /// A member I/O ended.
    IoDone {
        /// Which one.
        io: IoId,
        /// How.
        result: Result<(), IoFault>,
    },
    /// A compute plan ended.
    ComputeDone {
        /// Which one.
        id: ComputeId,
        /// What a check plan found (nothing wrong for other plans), or that the engine could not run it.
        result: Result<Verdict, ComputeFault>,
    },
    /// Time passed; sent at [`crate::Array::wake_at`] or later.
    Timer,
    /// The operator declares a member failed.
    FailMember(MemberId),
    /// The operator adds a blank device as a spare; a rebuild starts if a role is free. The runner has
    /// checked its size and that nothing of value is on it.
    AddMember(crate::NewMember),
    /// The operator wants parity compared with the data on all stripes. It begins when nothing more urgent is
    /// under way and parity is left to compare; see [`crate::Array::check_scrub`].
    Scrub {
        /// Whether parity that does not match is rewritten, beside being counted.
        repair: bool,
    },
    /// Someone else will go on with the array soon, and with what it was asked; or a stop has no more time.
    /// Requests that would take long are given back with [`RequestError::Recalled`] when what was begun of
    /// them is done. These are zeroes not all of which was begun, and writes that wait for them; everything
    /// else is finished.
    Recall,
    /// Finish what is in flight, but no more than 4 GiB of zeroes, mark the array clean, then say
    /// [`Action::Stopped`].
    Stop,
}

/// Why a member I/O failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IoFault {
    /// The medium or the transport said no (EIO and all that is not told apart).
    Io,
    /// The member has no room to store the data (a sparse file on a full file system).
    NoSpace,
    /// The device is gone.
    Gone,
}

/// What a check plan found. All false for a plan without a check.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Verdict {
    /// P differs from what the data say.
    pub p_bad: bool,
    /// Q differs from what the data say.
    pub q_bad: bool,
}

/// The engine could not run a plan; its destinations hold anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ComputeFault;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RequestError {
    /// Not writable with the members that are left, or not readable at all.
    Io,
    /// A read that could not be done with the members that are left: byte `at` of the request, counted from
    /// its start, is the first one that is lost, as far as blocks tell. All bytes before it were read.
    Unreadable {
        /// Bytes in front of the first one that is lost.
        at: u32,
    },
    /// The range is outside the array or not a multiple of 512.
    Invalid,
    /// The array is stopping.
    Shutdown,
    /// Given back at [`Event::Recall`], to be carried out from its beginning by someone else: no answer is
    /// due. Any part of it may have been written.
    Recalled,
}

/// One step of a compute plan, lowered by the runner to a chain operation. Steps run in order as far
/// as their memory overlaps; steps without common memory may run at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// `dst := src`, equal lengths.
    Copy {
        /// Source.
        src: Mem,
        /// Destination.
        dst: Mem,
    },
    /// P and Q of `data`, which is indexed by the exponent of each block's coefficient in Q; `None`
    /// stands for zeroes (a gap of the DDF layouts). For RAID 4/5 `q` is `None`.
    GenParity {
        /// Data blocks by exponent.
        data: Vec<Option<Mem>>,
        /// Where P goes, unless it is not wanted.
        p: Option<Mem>,
        /// Where Q goes, unless it is not wanted.
        q: Option<Mem>,
    },
    /// `p ^= old ^ new`, `q ^= {02}^exponent (old ^ new)`, then `old := new`.
    UpdateParity {
        /// The old data, replaced by the new.
        old: Mem,
        /// The new data.
        new: Mem,
        /// The exponent of this data block.
        exponent: u8,
        /// P to update, unless it is lost.
        p: Option<Mem>,
        /// Q to update, unless it is lost.
        q: Option<Mem>,
    },
    /// Compare P and Q with `data`; the result comes back as the [`Verdict`].
    CheckParity {
        /// Data blocks by exponent.
        data: Vec<Option<Mem>>,
        /// P on the members.
        p: Option<Mem>,
        /// Q on the members.
        q: Option<Mem>,
    },
    /// Recover the blocks listed in `lost` into their own entries of `data`, `p`, `q`. At most two are
    /// lost (one if there is no Q). P or Q that is `None` is neither source nor wanted.
    Recover {
        /// Data blocks by exponent, the lost ones included (as destinations).
        data: Vec<Option<Mem>>,
        /// P: a source, or a destination when `lost.p`.
        p: Option<Mem>,
        /// Q: a source, or a destination when `lost.q`.
        q: Option<Mem>,
        /// What is lost.
        lost: LostBlocks,
    },
}

/// Which blocks of a column are lost; see [`Step::Recover`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LostBlocks {
    /// Exponents of the lost data blocks, ascending; at most two.
    pub data: Vec<u8>,
    /// P is lost and wanted.
    pub p: bool,
    /// Q is lost and wanted.
    pub q: bool,
}

/// What the array asks for. See [`crate::Array::poll`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Read `mem.len` bytes at `offset` (bytes from the start of the device) into `mem`.
    Read {
        /// Answered by [`Event::IoDone`].
        io: IoId,
        /// From which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Destination.
        mem: Mem,
    },
    /// Write `mem` at `offset` (bytes from the start of the device).
    Write {
        /// Answered by [`Event::IoDone`].
        io: IoId,
        /// To which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Source.
        mem: Mem,
    },
    /// Make all completed writes of this member durable (fdatasync).
    Flush {
        /// Answered by [`Event::IoDone`].
        io: IoId,
        /// Which member.
        member: MemberId,
    },
    /// Write metadata; done only when the bytes are durable (write, then flush, or FUA).
    WriteMeta {
        /// Answered by [`Event::IoDone`].
        io: IoId,
        /// To which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// The bytes, a multiple of 512.
        bytes: Vec<u8>,
    },
    /// Write a partial parity log: its header and, behind it, its partial parities; done only when all of it is
    /// durable. The checksums of the entries are open: [`md_format::seal_log`] puts them in.
    WriteLog {
        /// Answered by [`Event::IoDone`].
        io: IoId,
        /// To which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Identity of the array.
        array: md_format::Uuid,
        /// The header.
        header: md_format::PplHeader,
        /// The partial parities in the order of the entries that have some.
        parities: Vec<Mem>,
    },
    /// Run a plan on the chain engine.
    Compute {
        /// Answered by [`Event::ComputeDone`].
        id: ComputeId,
        /// The steps.
        plan: Vec<Step>,
    },
    /// Answer a request; its memory is the runner's again.
    Complete {
        /// Which one.
        req: ReqId,
        /// How it ended.
        result: Result<(), RequestError>,
    },
    /// Something an operator wants to know; also shown in the log.
    Notice(Notice),
    /// The answer to [`Event::Stop`]: nothing is in flight and the metadata say so. `clean` is false if
    /// that could not be written.
    Stopped {
        /// Whether all members say that writing had ended: the array is marked clean or, if a resync was
        /// under way, its checkpoint is written, from which the next start goes on.
        clean: bool,
    },
}

/// Something that an operator wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A member was failed.
    MemberFailed {
        /// Which one.
        member: MemberId,
        /// The role it had.
        role: Role,
        /// Why, in words.
        why: String,
    },
    /// More members are gone than parity covers: writes are refused from here on.
    ArrayBroken,
    /// A block that could not be read was recovered and rewritten.
    ReadErrorCorrected {
        /// Which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Data could not be read or recovered.
    ReadErrorUnrecovered {
        /// Which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Blocks that could not be written, or not be recovered for a member that is rebuilt, stand in the member's
    /// bad-block log: they count as lost until they are written.
    BadBlocksRecorded {
        /// Which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Blocks of the bad-block log were written, and are good again.
    BadBlocksCleared {
        /// Which member.
        member: MemberId,
        /// Bytes from the start of the device.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A resync (parity is made to match the data), a rebuild (a member is filled) or a scrub (parity is
    /// compared) began.
    SyncStarted {
        /// Which of them.
        kind: SyncKind,
    },
    /// It ended.
    SyncFinished {
        /// Which of them.
        kind: SyncKind,
        /// Stripes whose parity did not match.
        mismatches: u64,
        /// Whether it was rewritten there: by a resync always, by a scrub if it was asked to.
        repaired: bool,
        /// Stripes that could not be compared, or not repaired, and that a scrub passed over.
        skipped: u64,
        /// False if it was broken off, for example because another member failed.
        complete: bool,
    },
    /// A rebuilt member is now in sync.
    MemberInSync {
        /// Which one.
        member: MemberId,
        /// Its role.
        role: Role,
    },
    /// A compute plan failed; the work it was for was retried or refused.
    ComputeFailed,
}

/// What a background pass does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SyncKind {
    /// Make parity match the data after an unclean stop or at creation.
    Resync,
    /// Fill a replacement member.
    Rebuild,
    /// Compare parity with the data, because the operator wants to know.
    Scrub,
}
