//! Requests: the header as it travels, the request as it is carried out, and [`validate`], the one
//! function between them.
//!
//! After `validate` said [`Verdict::Execute`] nothing about a request needs checking again: the range lies
//! in the export and on block boundaries, the length is not zero (but for a flush), and every flag that
//! is set was offered.

use crate::codec::{Frame, Reader};
use crate::error::{ClientMisbehaved, Errno};
use crate::session::Session;
use crate::wire::{REQUEST_LEN, REQUEST_MAGIC, cmd, cmd_flag, limit};

/// The 28 bytes in front of every request, taken apart and not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Should be [`REQUEST_MAGIC`].
    pub magic: u32,
    /// [`cmd_flag`] bits.
    pub flags: u16,
    /// A [`cmd`] number, known or not.
    pub command: u16,
    /// The client's name for the request, returned in every reply to it.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range in bytes.
    pub len: u32,
}

impl RequestHeader {
    /// Takes the header apart. Any 28 bytes are a header; [`validate`] judges them.
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Self {
        // Every field lies in the 28 bytes, so none of the defaults is ever taken.
        let mut reader = Reader::new(bytes);
        RequestHeader {
            magic: reader.u32().unwrap_or_default(),
            flags: reader.u16().unwrap_or_default(),
            command: reader.u16().unwrap_or_default(),
            cookie: reader.u64().unwrap_or_default(),
            offset: reader.u64().unwrap_or_default(),
            len: reader.u32().unwrap_or_default(),
        }
    }

    /// The header as it travels.
    pub fn encode(&self) -> [u8; REQUEST_LEN] {
        Frame::<REQUEST_LEN>::new()
            .put(&self.magic.to_be_bytes())
            .put(&self.flags.to_be_bytes())
            .put(&self.command.to_be_bytes())
            .put(&self.cookie.to_be_bytes())
            .put(&self.offset.to_be_bytes())
            .put(&self.len.to_be_bytes())
            .into_array()
    }
}

/// What a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// Read the range.
    Read,
    /// Write the payload that follows the header to the range.
    Write,
    /// Make every answered write durable.
    Flush,
    /// The range is no longer needed.
    Trim,
    /// The range will be read soon.
    Cache,
    /// Zero the range.
    WriteZeroes,
    /// Report the status of the range.
    BlockStatus,
}

impl Command {
    /// Its [`cmd`] number.
    pub fn to_wire(self) -> u16 {
        match self {
            Command::Read => cmd::READ,
            Command::Write => cmd::WRITE,
            Command::Flush => cmd::FLUSH,
            Command::Trim => cmd::TRIM,
            Command::Cache => cmd::CACHE,
            Command::WriteZeroes => cmd::WRITE_ZEROES,
            Command::BlockStatus => cmd::BLOCK_STATUS,
        }
    }

    fn from_wire(number: u16) -> Option<Self> {
        Some(match number {
            cmd::READ => Command::Read,
            cmd::WRITE => Command::Write,
            cmd::FLUSH => Command::Flush,
            cmd::TRIM => Command::Trim,
            cmd::CACHE => Command::Cache,
            cmd::WRITE_ZEROES => Command::WriteZeroes,
            cmd::BLOCK_STATUS => Command::BlockStatus,
            _ => return None,
        })
    }

    fn writes(self) -> bool {
        matches!(self, Command::Write | Command::Trim | Command::WriteZeroes)
    }
}

/// A request that can be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The client's name for it; the reply carries it.
    pub cookie: u64,
    /// First byte of the range; zero for a flush.
    pub offset: u64,
    /// Bytes of the range; zero only for a flush.
    pub len: u32,
    /// Answer only when the request's own writes are durable. May be set on any command.
    pub fua: bool,
    /// `Read`: at most one content chunk.
    pub df: bool,
    /// `WriteZeroes`: keep the range allocated.
    pub no_hole: bool,
    /// `WriteZeroes`: answer [`Errno::NotSup`] at once unless it is faster than a write.
    pub fast_zero: bool,
    /// `BlockStatus`: one extent a context, no longer than `len`.
    pub req_one: bool,
}

impl Request {
    /// A request for a range with no flag set.
    pub fn new(command: Command, cookie: u64, offset: u64, len: u32) -> Self {
        Request {
            command,
            cookie,
            offset,
            len,
            fua: false,
            df: false,
            no_hole: false,
            fast_zero: false,
            req_one: false,
        }
    }

    /// The header that asks for it.
    pub fn header(&self) -> RequestHeader {
        let bits = [
            (self.fua, cmd_flag::FUA),
            (self.no_hole, cmd_flag::NO_HOLE),
            (self.df, cmd_flag::DF),
            (self.req_one, cmd_flag::REQ_ONE),
            (self.fast_zero, cmd_flag::FAST_ZERO),
        ];
        RequestHeader {
            magic: REQUEST_MAGIC,
            flags: bits.into_iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit),
            command: self.command.to_wire(),
            cookie: self.cookie,
            offset: self.offset,
            len: self.len,
        }
    }

    /// Bytes that follow the request's header on the stream.
    pub fn payload_len(&self) -> u32 {
        if self.command == Command::Write { self.len } else { 0 }
    }

    fn from_header(command: Command, header: &RequestHeader) -> Self {
        let has = |bit: u16| header.flags & bit != 0;
        Request {
            command,
            cookie: header.cookie,
            offset: header.offset,
            len: header.len,
            fua: has(cmd_flag::FUA),
            df: has(cmd_flag::DF),
            no_hole: has(cmd_flag::NO_HOLE),
            fast_zero: has(cmd_flag::FAST_ZERO),
            req_one: has(cmd_flag::REQ_ONE),
        }
    }
}

/// A request that is answered without being carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The request's cookie.
    pub cookie: u64,
    /// `Ok` for a request of zero length, which there is nothing to do for; else the error and a text.
    pub result: Result<(), (Errno, &'static str)>,
    /// Payload bytes that follow the header and must be read and thrown away.
    pub skip: u32,
    /// The request is a `READ`, whose answer has its own form in a structured session.
    pub(crate) is_read: bool,
}

/// What to do with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Read [`Request::payload_len`] bytes and carry it out.
    Execute(Request),
    /// Read and drop [`Answer::skip`] bytes, then send [`Session::answer`].
    Answer(Answer),
    /// The client is done: read nothing more, finish and answer what is in flight, close. No reply.
    Disconnect,
    /// The client is out of step or hostile: close. What is in flight may be finished, not answered.
    Close(ClientMisbehaved),
}

/// Judges a request before anything acts on it.
///
/// A request that fails is answered with the errno that the protocol names: `EPERM` for writes to a
/// read-only export, `ENOSPC` for `WRITE` and `WRITE_ZEROES` past the end and `EINVAL` for the others,
/// `EINVAL` for unknown commands, flags that do not belong to the command or were not offered, and ranges
/// off the minimum block size, `EOVERFLOW` for a structured `READ` above [`limit::PAYLOAD`], `ESHUTDOWN`
/// for everything once the session is draining.
pub fn validate(header: &RequestHeader, session: &Session) -> Verdict {
    if header.magic != REQUEST_MAGIC {
        return Verdict::Close(ClientMisbehaved::RequestMagic(header.magic));
    }
    let payload = if header.command == cmd::WRITE { header.len } else { 0 };
    if payload > limit::PAYLOAD {
        return Verdict::Close(ClientMisbehaved::PayloadTooLarge(payload));
    }
    if header.command == cmd::DISC {
        return Verdict::Disconnect;
    }
    let result = match check(header, session) {
        Ok(request) if request.len > 0 || request.command == Command::Flush => {
            return Verdict::Execute(request);
        }
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal),
    };
    Verdict::Answer(Answer {
        cookie: header.cookie,
        result,
        skip: payload,
        is_read: header.command == cmd::READ,
    })
}

type Refusal = (Errno, &'static str);

fn check(header: &RequestHeader, session: &Session) -> Result<Request, Refusal> {
    if session.is_draining() {
        return Err((Errno::Shutdown, "the server is shutting down"));
    }
    let command = Command::from_wire(header.command).ok_or((Errno::Inval, "unknown command"))?;
    if command.writes() && session.features().read_only {
        return Err((Errno::Perm, "the export is read-only"));
    }
    check_offered(command, session)?;
    if header.flags & !flag_mask(command, session) != 0 {
        return Err((Errno::Inval, "a command flag is unknown, not offered, or not for this command"));
    }
    let request = Request::from_header(command, header);
    check_range(&request, session)?;
    Ok(request)
}

fn check_offered(command: Command, session: &Session) -> Result<(), Refusal> {
    let features = session.features();
    let offered = match command {
        Command::Read | Command::Write => true,
        Command::Flush => features.flush,
        Command::Trim => features.trim,
        Command::Cache => features.cache,
        Command::WriteZeroes => features.write_zeroes,
        Command::BlockStatus if session.contexts().is_empty() => {
            return Err((Errno::Inval, "no metadata context was selected in the handshake"));
        }
        Command::BlockStatus => true,
    };
    if offered { Ok(()) } else { Err((Errno::Inval, "the export does not offer this command")) }
}

/// The flags that a command may carry in this session.
fn flag_mask(command: Command, session: &Session) -> u16 {
    let features = session.features();
    let when = |on: bool, bit: u16| if on { bit } else { 0 };
    let own = match command {
        Command::Read => when(session.structured(), cmd_flag::DF),
        Command::WriteZeroes => cmd_flag::NO_HOLE | when(features.offers_fast_zero(), cmd_flag::FAST_ZERO),
        Command::BlockStatus => cmd_flag::REQ_ONE,
        Command::Write | Command::Flush | Command::Trim | Command::Cache => 0,
    };
    own | when(features.fua, cmd_flag::FUA)
}

fn check_range(request: &Request, session: &Session) -> Result<(), Refusal> {
    if request.command == Command::Flush {
        let reserved_are_zero = request.offset == 0 && request.len == 0;
        return if reserved_are_zero { Ok(()) } else { Err((Errno::Inval, "a flush has no range")) };
    }
    let end = request.offset.checked_add(u64::from(request.len));
    if end.is_none_or(|end| end > session.size()) {
        let errno = match request.command {
            Command::Write | Command::WriteZeroes => Errno::NoSpc,
            _ => Errno::Inval,
        };
        return Err((errno, "the range reaches past the end of the export"));
    }
    // The minimum is a power of two, so one test over the joined bits covers offset and length.
    let minimum = u64::from(session.block_sizes().minimum());
    if (request.offset | u64::from(request.len)) & (minimum - 1) != 0 {
        return Err((Errno::Inval, "the range is not a multiple of the minimum block size"));
    }
    match request.command {
        Command::Read if request.len > limit::PAYLOAD => {
            let errno = if session.structured() { Errno::Overflow } else { Errno::Inval };
            Err((errno, "the read is longer than the server answers in one piece"))
        }
        // A successful answer would have to hold an extent, and no extent is empty.
        Command::BlockStatus if request.len == 0 => {
            Err((Errno::Inval, "a block status request needs a length"))
        }
        _ => Ok(()),
    }
}
