//! Requests: the header as it travels, the request as it is carried out, and [`validate`], the one
//! function between them.
//!
//! After `validate` said [`Verdict::Execute`] nothing about a request needs checking again: the range lies
//! in the export and on block boundaries, the length is not zero (but for a flush and a resize), and every
//! flag that is set was offered.

use crate::codec::{Frame, Reader};
use crate::error::{ClientMisbehaved, Errno};
use crate::session::{Context, Contexts, Headers, Session};
use crate::wire::{
    EXTENDED_REQUEST_LEN, EXTENDED_REQUEST_MAGIC, REQUEST_LEN, REQUEST_MAGIC, STATUS_FILTER_LEN, cmd,
    cmd_flag, limit,
};

/// What is in front of every request, taken apart and not judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    /// Should be [`REQUEST_MAGIC`], or [`EXTENDED_REQUEST_MAGIC`] in a session with extended headers.
    pub magic: u32,
    /// [`cmd_flag`] bits.
    pub flags: u16,
    /// A [`cmd`] number, known or not.
    pub command: u16,
    /// The client's name for the request, returned in every reply to it.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Length of the range in bytes; with [`cmd_flag::PAYLOAD_LEN`], of the payload.
    pub len: u64,
}

impl RequestHeader {
    /// What a client sends last: the server answers what is in flight and closes.
    pub fn disconnect(headers: Headers) -> Self {
        RequestHeader { command: cmd::DISC, ..Request::new(Command::Flush, 0, 0, 0).header(headers) }
    }

    /// Takes a compact header apart. Any 28 bytes are a header; [`validate`] judges them.
    pub fn decode(bytes: &[u8; REQUEST_LEN]) -> Self {
        let mut reader = Reader::new(bytes);
        let header = Self::decode_start(&mut reader);
        RequestHeader { len: u64::from(reader.u32().unwrap_or_default()), ..header }
    }

    /// Takes an extended header apart. Any 32 bytes are a header; [`validate`] judges them.
    pub fn decode_extended(bytes: &[u8; EXTENDED_REQUEST_LEN]) -> Self {
        let mut reader = Reader::new(bytes);
        let header = Self::decode_start(&mut reader);
        RequestHeader { len: reader.u64().unwrap_or_default(), ..header }
    }

    /// Takes the header at the front of `bytes` apart, of the kind that the session has; `None` if it is not
    /// all there. It takes [`Headers::request_len`] bytes.
    pub fn parse(bytes: &[u8], headers: Headers) -> Option<Self> {
        match headers {
            Headers::Extended => bytes.first_chunk().map(Self::decode_extended),
            Headers::Simple | Headers::Structured => bytes.first_chunk().map(Self::decode),
        }
    }

    /// All but the length. Every field lies in the bytes, so none of the defaults is ever taken.
    fn decode_start(reader: &mut Reader<'_>) -> Self {
        RequestHeader {
            magic: reader.u32().unwrap_or_default(),
            flags: reader.u16().unwrap_or_default(),
            command: reader.u16().unwrap_or_default(),
            cookie: reader.u64().unwrap_or_default(),
            offset: reader.u64().unwrap_or_default(),
            len: 0,
        }
    }

    /// The header as it travels, with these fields and in this form. A compact one cannot say more than
    /// 2^32 - 1 bytes and says so many at most; [`crate::ClientSession::request`] refuses such a request.
    pub fn encode(&self, headers: Headers) -> Frame<EXTENDED_REQUEST_LEN> {
        let start = Frame::new()
            .put(&self.magic.to_be_bytes())
            .put(&self.flags.to_be_bytes())
            .put(&self.command.to_be_bytes())
            .put(&self.cookie.to_be_bytes())
            .put(&self.offset.to_be_bytes());
        match headers {
            Headers::Extended => start.put(&self.len.to_be_bytes()),
            Headers::Simple | Headers::Structured => {
                start.put(&u32::try_from(self.len).unwrap_or(u32::MAX).to_be_bytes())
            }
        }
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
    /// Change the size of the export to [`Request::offset`] bytes (draft extension).
    Resize,
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
            Command::Resize => cmd::RESIZE,
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
            cmd::RESIZE => Command::Resize,
            _ => return None,
        })
    }

    fn writes(self) -> bool {
        matches!(self, Command::Write | Command::Trim | Command::WriteZeroes | Command::Resize)
    }
}

/// A request that can be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// The client's name for it; the reply carries it.
    pub cookie: u64,
    /// First byte of the range; zero for a flush, the new size for a resize.
    pub offset: u64,
    /// Bytes of the range; zero only for a flush and a resize. At most [`limit::PAYLOAD`] for a read and a
    /// write; in a session with extended headers the others go to the end of the export. Offset and length are
    /// multiples of the minimum block size, but for reads in a session with [`Session::unaligned_reads`].
    pub len: u64,
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
    /// `BlockStatus`: the contexts to report, none for other commands.
    pub contexts: Contexts,
}

impl Request {
    /// A request for a range with no flag set and no context named.
    pub fn new(command: Command, cookie: u64, offset: u64, len: u64) -> Self {
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
            contexts: Contexts::NONE,
        }
    }

    /// The header that asks for it in a session with these headers. A `BlockStatus` that is to be answered
    /// for some of the selected contexts only needs a payload too, see [`crate::ClientSession::status_of`].
    pub fn header(&self, headers: Headers) -> RequestHeader {
        let bits = [
            (self.fua, cmd_flag::FUA),
            (self.no_hole, cmd_flag::NO_HOLE),
            (self.df, cmd_flag::DF),
            (self.req_one, cmd_flag::REQ_ONE),
            (self.fast_zero, cmd_flag::FAST_ZERO),
            (headers.is_extended() && self.command == Command::Write, cmd_flag::PAYLOAD_LEN),
        ];
        RequestHeader {
            magic: if headers.is_extended() { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC },
            flags: bits.into_iter().filter(|(on, _)| *on).fold(0, |flags, (_, bit)| flags | bit),
            command: self.command.to_wire(),
            cookie: self.cookie,
            offset: self.offset,
            len: self.len,
        }
    }

    /// Bytes of data that follow the request's header on the stream.
    pub fn payload_len(&self) -> u64 {
        if self.command == Command::Write { self.len } else { 0 }
    }

    /// Whether there is something to carry out.
    fn needs_work(&self) -> bool {
        self.len > 0 || matches!(self.command, Command::Flush | Command::Resize)
    }

    fn from_header(command: Command, header: &RequestHeader, session: &Session) -> Self {
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
            contexts: if command == Command::BlockStatus { session.contexts() } else { Contexts::NONE },
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
    /// Payload bytes that follow the header and must be read and thrown away; at most [`limit::PAYLOAD`].
    pub skip: u64,
    /// The request's offset, which extended replies repeat.
    pub(crate) offset: u64,
    /// The request is a `READ`, whose answer has its own form in a structured session.
    pub(crate) is_read: bool,
}

/// The header of a `BLOCK_STATUS` that names contexts in a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusFilter {
    header: RequestHeader,
    len: usize,
}

/// What to do with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Read [`Request::payload_len`] bytes and carry it out.
    Execute(Request),
    /// Read [`StatusFilter::payload_len`] bytes and ask [`StatusFilter::resolve`]. Only in sessions that
    /// [filter](Session::filters_status).
    ReadFilter(StatusFilter),
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
/// `EINVAL` for unknown commands, flags that do not belong to the command or were not offered, payloads
/// where there should be none, and ranges off the minimum block size, `EOVERFLOW` for a `READ` above
/// [`limit::PAYLOAD`] that is answered in chunks, `ESHUTDOWN` for everything once the session is draining.
pub fn validate(header: &RequestHeader, session: &Session) -> Verdict {
    let extended = session.headers().is_extended();
    if header.magic != if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC } {
        return Verdict::Close(ClientMisbehaved::RequestMagic(header.magic));
    }
    let payload = if has_payload(header, extended) { header.len } else { 0 };
    if payload > u64::from(limit::PAYLOAD) {
        return Verdict::Close(ClientMisbehaved::PayloadTooLarge(payload));
    }
    if header.command == cmd::DISC {
        return Verdict::Disconnect;
    }
    let result = match check(header, session) {
        Ok(Checked::Filter(filter)) => return Verdict::ReadFilter(filter),
        Ok(Checked::Request(request)) if request.needs_work() => return Verdict::Execute(request),
        Ok(Checked::Request(_)) => Ok(()),
        Err(refusal) => Err(refusal),
    };
    Verdict::Answer(Answer { skip: payload, ..answer(header, result) })
}

/// Whether the length of a request is that of a payload behind it. A `WRITE` has one even if an extended
/// header lacks the flag that the draft wants: qemu (8.2 to 10.0) does not set it and sends the payload, and
/// who believed the flag would take the data of its guest for requests.
fn has_payload(header: &RequestHeader, extended: bool) -> bool {
    header.command == cmd::WRITE || (extended && header.flags & cmd_flag::PAYLOAD_LEN != 0)
}

impl StatusFilter {
    /// Bytes of the payload that follows the header: few enough to be gathered, whoever sends them.
    pub fn payload_len(&self) -> usize {
        self.len
    }

    /// Judges the request now that its payload is there.
    pub fn resolve(&self, payload: &[u8], session: &Session) -> Verdict {
        let result = match payload.len() == self.len {
            true => filtered(&self.header, payload, session),
            false => Err((Errno::Inval, "the list of contexts is incomplete")),
        };
        match result {
            Ok(request) => Verdict::Execute(request),
            Err(refusal) => Verdict::Answer(answer(&self.header, Err(refusal))),
        }
    }
}

fn answer(header: &RequestHeader, result: Result<(), Refusal>) -> Answer {
    Answer {
        cookie: header.cookie,
        result,
        skip: 0,
        offset: header.offset,
        is_read: header.command == cmd::READ,
    }
}

type Refusal = (Errno, &'static str);

enum Checked {
    Request(Request),
    Filter(StatusFilter),
}

fn check(header: &RequestHeader, session: &Session) -> Result<Checked, Refusal> {
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
    if command == Command::BlockStatus && header.flags & cmd_flag::PAYLOAD_LEN != 0 {
        return filter(header).map(Checked::Filter);
    }
    let request = Request::from_header(command, header, session);
    check_range(&request, session)?;
    Ok(Checked::Request(request))
}

/// A list of contexts that can be right: whole ids, at least one, and no more than there can be.
fn filter(header: &RequestHeader) -> Result<StatusFilter, Refusal> {
    const MOST: usize = STATUS_FILTER_LEN + 4 * limit::CONTEXTS;
    match usize::try_from(header.len) {
        Ok(len) if len > STATUS_FILTER_LEN && len <= MOST && len % 4 == 0 => {
            Ok(StatusFilter { header: *header, len })
        }
        _ => Err((Errno::Inval, "the list of contexts is empty, too long, or not made of whole ids")),
    }
}

fn filtered(header: &RequestHeader, payload: &[u8], session: &Session) -> Result<Request, Refusal> {
    let mut reader = Reader::new(payload);
    let len = reader.u64().ok_or((Errno::Inval, "the list of contexts is incomplete"))?;
    let mut contexts = Contexts::NONE;
    while let Some(id) = reader.u32() {
        let context = Context::with_id(id).filter(|context| session.contexts().contains(*context));
        let context = context.ok_or((Errno::Inval, "a context in the list was not selected"))?;
        if contexts.contains(context) {
            return Err((Errno::Inval, "a context is in the list twice"));
        }
        contexts = contexts.with(context);
    }
    let request = Request::from_header(Command::BlockStatus, header, session);
    let request = Request { len, contexts, ..request };
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
        Command::Resize => features.resize,
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
        Command::Write => when(session.headers().is_extended(), cmd_flag::PAYLOAD_LEN),
        Command::WriteZeroes => cmd_flag::NO_HOLE | when(features.offers_fast_zero(), cmd_flag::FAST_ZERO),
        Command::BlockStatus => cmd_flag::REQ_ONE | when(session.filters_status(), cmd_flag::PAYLOAD_LEN),
        Command::Flush | Command::Trim | Command::Cache | Command::Resize => 0,
    };
    own | when(features.fua, cmd_flag::FUA)
}

fn check_range(request: &Request, session: &Session) -> Result<(), Refusal> {
    // The minimum is a power of two, so one test over the joined bits covers offset and length.
    let minimum = u64::from(session.block_sizes().minimum());
    let any = request.command == Command::Read && session.unaligned_reads();
    let aligned = any || (request.offset | request.len) & (minimum - 1) == 0;
    match request.command {
        Command::Flush if request.offset == 0 && request.len == 0 => return Ok(()),
        Command::Flush => return Err((Errno::Inval, "a flush has no range")),
        Command::Resize if request.len == 0 && aligned && request.offset <= i64::MAX as u64 => return Ok(()),
        Command::Resize => return Err((Errno::Inval, "the new size is no size of an export")),
        _ => {}
    }
    let end = request.offset.checked_add(request.len);
    if end.is_none_or(|end| end > session.size()) {
        let errno = match request.command {
            Command::Write | Command::WriteZeroes => Errno::NoSpc,
            _ => Errno::Inval,
        };
        return Err((errno, "the range reaches past the end of the export"));
    }
    if !aligned {
        return Err((Errno::Inval, "the range is not a multiple of the minimum block size"));
    }
    match request.command {
        Command::Read if session.read_span(request.offset, request.len).1 > u64::from(limit::PAYLOAD) => {
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
