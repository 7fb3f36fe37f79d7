//! Replies: the heads that a server puts in front of a payload, and their decoding by a client.
//!
//! Only heads are encoded here; the payload of a read stays where it is and the transport sends both with
//! one vectored write. [`ChunkTo`] writes one chunk each. The methods of [`Session`] choose the form that the
//! session calls for: once structured replies were negotiated, a read is answered in chunks even when it
//! fails, errors carry a text, and a success without data stays a simple reply; with extended headers
//! everything is a chunk.

use crate::codec::{Frame, Reader};
use crate::error::{Errno, ServerMisbehaved};
use crate::request::{Answer, Command, Request};
use crate::session::{Context, Headers, Session};
use crate::text;
use crate::wire::{
    CHUNK_HEADER_LEN, EXTENDED_CHUNK_HEADER_LEN, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, chunk, chunk_flag, limit,
};

/// The head of a reply that is no error: at most a chunk header and 12 bytes.
pub type Head = Frame<48>;
/// An error reply with its text; complete.
pub type ErrorReply = Frame<256>;
/// Longest text of an [`ErrorReply`] in bytes; longer ones are cut.
pub const ERROR_TEXT_MAX: usize = 256 - EXTENDED_CHUNK_HEADER_LEN - 14;

/// The largest head that [`decode`] may need to see at once: an error chunk with the longest text.
pub const REPLY_HEAD_MAX: usize = EXTENDED_CHUNK_HEADER_LEN + 14 + limit::STRING;

/// A run of bytes with one status in a metadata context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// The context's bits; [`crate::wire::allocation`] for `base:allocation`.
    pub status: u64,
}

fn simple_frame<const N: usize>(cookie: u64, error: u32) -> Frame<N> {
    Frame::new().put(&SIMPLE_REPLY_MAGIC.to_be_bytes()).put(&error.to_be_bytes()).put(&cookie.to_be_bytes())
}

/// Simple reply of success; for a read the data follows.
pub fn simple_ok(cookie: u64) -> Head {
    simple_frame(cookie, 0)
}

/// Simple reply of failure; nothing follows.
pub fn simple_error(cookie: u64, errno: Errno) -> ErrorReply {
    simple_frame(cookie, errno.to_wire())
}

/// The request that a chunk answers, and with it the form of the chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkTo {
    cookie: u64,
    /// The request's offset in an extended session.
    extended: Option<u64>,
}

impl ChunkTo {
    /// Structured reply chunks to the request of this cookie.
    pub fn structured(cookie: u64) -> Self {
        ChunkTo { cookie, extended: None }
    }

    /// Extended reply chunks to the request of this cookie, which named this offset.
    pub fn extended(cookie: u64, offset: u64) -> Self {
        ChunkTo { cookie, extended: Some(offset) }
    }

    fn header<const N: usize>(self, kind: u16, done: bool, len: u64) -> Frame<N> {
        let magic = if self.extended.is_some() { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        let flags = if done { chunk_flag::DONE } else { 0 };
        let start = Frame::new()
            .put(&magic.to_be_bytes())
            .put(&flags.to_be_bytes())
            .put(&kind.to_be_bytes())
            .put(&self.cookie.to_be_bytes());
        match self.extended {
            Some(offset) => start.put(&offset.to_be_bytes()).put(&len.to_be_bytes()),
            // Compact requests are short enough for every chunk that answers them.
            None => start.put(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()),
        }
    }

    /// Last chunk without content. Success, unless an error chunk went before.
    pub fn none(self) -> Head {
        self.header(chunk::NONE, true, 0)
    }

    /// Head of a content chunk; `len` bytes of data follow, those of the export from `offset` on. `len` is
    /// not zero and at most `u32::MAX - 8`, which every validated request keeps to.
    pub fn offset_data(self, offset: u64, len: u64, done: bool) -> Head {
        self.header(chunk::OFFSET_DATA, done, len.saturating_add(8)).put(&offset.to_be_bytes())
    }

    /// Complete chunk that reports `len` bytes (not zero) from `offset` on as reading zero.
    pub fn offset_hole(self, offset: u64, len: u32, done: bool) -> Head {
        self.header(chunk::OFFSET_HOLE, done, 12).put(&offset.to_be_bytes()).put(&len.to_be_bytes())
    }

    /// Appends a complete chunk that reports the extents (at least one, none empty) of a context.
    pub fn block_status(self, context: u32, extents: &[Extent], done: bool, out: &mut Vec<u8>) {
        let count = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        match self.extended {
            Some(_) => {
                let len = 8 + 16 * u64::from(count);
                let head = self.header::<48>(chunk::BLOCK_STATUS_EXT, done, len);
                out.extend_from_slice(head.put(&context.to_be_bytes()).put(&count.to_be_bytes()).as_bytes());
                for extent in extents {
                    out.extend_from_slice(&extent.len.to_be_bytes());
                    out.extend_from_slice(&extent.status.to_be_bytes());
                }
            }
            None => {
                let head = self.header::<48>(chunk::BLOCK_STATUS, done, 4 + 8 * u64::from(count));
                out.extend_from_slice(head.put(&context.to_be_bytes()).as_bytes());
                for extent in extents {
                    // Lengths come from a compact request; a status of a context that needs more than 32
                    // bits cannot be told here, and its low bits are all that there is room for.
                    let len = u32::try_from(extent.len).unwrap_or(u32::MAX);
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(&(extent.status as u32).to_be_bytes());
                }
            }
        }
    }

    /// Complete last chunk that reports a failure, with a text for people (sanitised and cut here).
    pub fn error(self, errno: Errno, message: &str) -> ErrorReply {
        self.error_frame(chunk::ERROR, errno, &text::sanitise(message, ERROR_TEXT_MAX), 6)
    }

    /// As [`ChunkTo::error`], naming the first byte that failed, which lies in the request's range.
    pub fn error_offset(self, errno: Errno, message: &str, offset: u64) -> ErrorReply {
        let message = text::sanitise(message, ERROR_TEXT_MAX);
        self.error_frame(chunk::ERROR_OFFSET, errno, &message, 14).put(&offset.to_be_bytes())
    }

    fn error_frame(self, kind: u16, errno: Errno, message: &str, fixed: u64) -> ErrorReply {
        // The text was cut to ERROR_TEXT_MAX, so its length fits the 16 bits that travel.
        let text_len = u16::try_from(message.len()).unwrap_or(u16::MAX);
        self.header(kind, true, fixed + u64::from(text_len))
            .put(&errno.to_wire().to_be_bytes())
            .put(&text_len.to_be_bytes())
            .put(message.as_bytes())
    }
}

impl Session {
    fn chunk_to(&self, cookie: u64, offset: u64) -> ChunkTo {
        ChunkTo { cookie, extended: self.headers().is_extended().then_some(offset) }
    }

    fn to(&self, request: &Request) -> ChunkTo {
        self.chunk_to(request.cookie, request.offset)
    }

    /// Head of the whole answer to a successful read; [`Request::len`] bytes of data follow. The data must
    /// be at hand: after this head a failure can no longer be told.
    pub fn read_ok(&self, request: &Request) -> Head {
        if self.structured() {
            self.to(request).offset_data(request.offset, request.len, true)
        } else {
            simple_ok(request.cookie)
        }
    }

    /// Head of the good part of a read that failed at byte `good` of its range (from 0): `good` bytes of
    /// data follow, then [`Session::error_at`]. `None` when there is nothing to send: the session has
    /// simple replies, or `good` is zero or not less than the range. It is the only content chunk, so a
    /// client that asked for one at most (`DF`) gets what it asked for.
    pub fn read_good_part(&self, request: &Request, good: u64) -> Option<Head> {
        let worth = self.structured() && good > 0 && good < request.len;
        worth.then(|| self.to(request).offset_data(request.offset, good, false))
    }

    /// The answer to a successful request that returns no data (all but `READ` and `BLOCK_STATUS`).
    pub fn done(&self, request: &Request) -> Head {
        if self.headers().is_extended() { self.to(request).none() } else { simple_ok(request.cookie) }
    }

    /// Appends the whole answer to a successful `BLOCK_STATUS`: one chunk for each of its contexts.
    /// `extents_of` says what is known of a context from [`Request::offset`] on; here it is cut to the
    /// range, equal neighbours become one, and no more than [`limit::EXTENTS`] (or the one that the client
    /// asked for) are told. Where nothing is known the status is 0, which every context allows.
    pub fn block_status<I: IntoIterator<Item = Extent>>(
        &self,
        request: &Request,
        mut extents_of: impl FnMut(Context) -> I,
        out: &mut Vec<u8>,
    ) {
        let last = request.contexts.iter().last();
        for context in request.contexts.iter() {
            let extents = fitted(request, extents_of(context));
            self.to(request).block_status(context.id(), &extents, Some(context) == last, out);
        }
    }

    /// The answer to a request that failed as a whole. `message` reaches the client's user (sanitised,
    /// cut to [`ERROR_TEXT_MAX`]): name the volume and the reason, no paths.
    pub fn error(&self, request: &Request, errno: Errno, message: &str) -> ErrorReply {
        let errno = allowed_for(request, errno);
        if self.structured() {
            self.to(request).error(errno, message)
        } else {
            simple_error(request.cookie, errno)
        }
    }

    /// As [`Session::error`], naming the first byte of the export that failed. An offset out of the
    /// request's range is left out.
    pub fn error_at(&self, request: &Request, errno: Errno, offset: u64, message: &str) -> ErrorReply {
        let in_range = offset.checked_sub(request.offset).is_some_and(|distance| distance < request.len);
        if self.structured() && in_range {
            self.to(request).error_offset(allowed_for(request, errno), message, offset)
        } else {
            self.error(request, errno, message)
        }
    }

    /// The complete answer to a request that [`crate::validate`] settled by itself.
    pub fn answer(&self, answer: &Answer) -> ErrorReply {
        let to = self.chunk_to(answer.cookie, answer.offset);
        match answer.result {
            Ok(()) if self.headers().is_extended() || (self.structured() && answer.is_read) => {
                to.header(chunk::NONE, true, 0)
            }
            Ok(()) => simple_frame(answer.cookie, 0),
            Err((errno, message)) if self.structured() => to.error(errno, message),
            Err((errno, _)) => simple_error(answer.cookie, errno),
        }
    }
}

/// What is told of `extents`, so that the protocol's rules hold: see [`Session::block_status`].
fn fitted(request: &Request, extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let most = if request.req_one { 1 } else { limit::EXTENTS };
    let mut told: Vec<Extent> = Vec::new();
    let mut left = request.len;
    for Extent { len, status } in extents {
        let len = len.min(left);
        let full = told.len() == most;
        match told.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.status == status => last.len += len,
            _ if full => break,
            _ => told.push(Extent { len, status }),
        }
        left -= len;
        if left == 0 {
            break;
        }
    }
    if told.is_empty() {
        told.push(Extent { len: request.len, status: 0 });
    }
    told
}

/// `ENOTSUP` is an answer to a fast zero only, and `EOVERFLOW` to a read; clients would misread them
/// elsewhere, so they become `EIO`.
fn allowed_for(request: &Request, errno: Errno) -> Errno {
    match errno {
        Errno::NotSup if !request.fast_zero => Errno::Io,
        Errno::Overflow if request.command != Command::Read => Errno::Io,
        other => other,
    }
}

/// The head of a reply as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The request that it belongs to.
    pub cookie: u64,
    /// The request's offset as the server repeats it; only extended replies have it.
    pub offset: Option<u64>,
    /// No further chunk follows for this request.
    pub done: bool,
    /// What it says.
    pub body: ReplyBody,
}

/// What a reply says. Whether it fits the request (kind, range, no overlap) is for whoever knows the
/// requests in flight: [`crate::ClientSession`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyBody {
    /// A simple reply. After a success (`None`) of a read, the request's length in data follows.
    Simple(Option<Errno>),
    /// A last chunk without content.
    None,
    /// `len` bytes (not zero) of data follow, those from `offset` on.
    Data {
        /// First byte in the export.
        offset: u64,
        /// Bytes that follow on the stream.
        len: u64,
    },
    /// `len` bytes (not zero) from `offset` on read as zeroes.
    Hole {
        /// First byte in the export.
        offset: u64,
        /// Bytes that read as zeroes.
        len: u32,
    },
    /// `count` (not zero) extents follow on the stream, [`extent_len`] bytes each.
    BlockStatus {
        /// The context's id, as the handshake named it.
        context: u32,
        /// Extents that follow.
        count: u64,
    },
    /// The request failed, wholly or from `offset` on.
    Error {
        /// Why.
        errno: Errno,
        /// The first byte that failed, if the server named one.
        offset: Option<u64>,
        /// A text for people, sanitised.
        message: String,
    },
}

/// Bytes of one extent on the stream.
pub fn extent_len(headers: Headers) -> usize {
    if headers.is_extended() { 16 } else { 8 }
}

/// Takes one extent apart; `None` if it is not all there.
pub fn decode_extent(bytes: &[u8], headers: Headers) -> Option<Extent> {
    let mut reader = Reader::new(bytes);
    Some(if headers.is_extended() {
        Extent { len: reader.u64()?, status: reader.u64()? }
    } else {
        Extent { len: u64::from(reader.u32()?), status: u64::from(reader.u32()?) }
    })
}

/// Takes the head of the next reply apart, of a form that these headers allow. Returns it with the bytes it
/// took; `None` while it is not complete (at most [`REPLY_HEAD_MAX`] bytes are ever needed).
///
/// # Errors
/// [`ServerMisbehaved::ReplyMagic`] and [`ServerMisbehaved::MalformedChunk`]: the stream cannot be
/// trusted any more, close it.
pub fn decode(input: &[u8], headers: Headers) -> Result<Option<(Reply, usize)>, ServerMisbehaved> {
    let mut reader = Reader::new(input);
    match (reader.u32(), headers) {
        (None, _) => Ok(None),
        (Some(SIMPLE_REPLY_MAGIC), Headers::Simple | Headers::Structured) => Ok(decode_simple(reader)),
        (Some(STRUCTURED_REPLY_MAGIC), Headers::Structured) => decode_chunk(reader, headers),
        (Some(EXTENDED_REPLY_MAGIC), Headers::Extended) => decode_chunk(reader, headers),
        (Some(magic), _) => Err(ServerMisbehaved::ReplyMagic(magic)),
    }
}

fn decode_simple(mut reader: Reader<'_>) -> Option<(Reply, usize)> {
    let errno = Errno::from_wire(reader.u32()?);
    let cookie = reader.u64()?;
    let reply = Reply { cookie, offset: None, done: true, body: ReplyBody::Simple(errno) };
    Some((reply, SIMPLE_REPLY_LEN))
}

/// The fields of a chunk's header behind its magic.
struct ChunkHeader {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: Option<u64>,
    len: u64,
}

fn chunk_header(reader: &mut Reader<'_>, headers: Headers) -> Option<ChunkHeader> {
    let (flags, kind, cookie) = (reader.u16()?, reader.u16()?, reader.u64()?);
    let (offset, len) = match headers.is_extended() {
        true => (Some(reader.u64()?), reader.u64()?),
        false => (None, u64::from(reader.u32()?)),
    };
    Some(ChunkHeader { flags, kind, cookie, offset, len })
}

fn decode_chunk(
    mut reader: Reader<'_>,
    headers: Headers,
) -> Result<Option<(Reply, usize)>, ServerMisbehaved> {
    let Some(ChunkHeader { flags, kind, cookie, offset, len }) = chunk_header(&mut reader, headers) else {
        return Ok(None);
    };
    let done = flags & chunk_flag::DONE != 0;
    let Some(head_len) = chunk_head_len(kind, len, done, headers) else {
        return Err(ServerMisbehaved::MalformedChunk { kind, len });
    };
    let Some(head) = reader.take(head_len) else { return Ok(None) };
    let body = chunk_body(kind, len, head).ok_or(ServerMisbehaved::MalformedChunk { kind, len })?;
    let header_len = if headers.is_extended() { EXTENDED_CHUNK_HEADER_LEN } else { CHUNK_HEADER_LEN };
    Ok(Some((Reply { cookie, offset, done, body }, header_len + head_len)))
}

/// How much of a chunk's payload belongs to its head; `None` if the length does not fit the type, or the
/// type not the session.
fn chunk_head_len(kind: u16, len: u64, done: bool, headers: Headers) -> Option<usize> {
    match kind {
        chunk::NONE if len == 0 && done => Some(0),
        chunk::OFFSET_DATA if len > 8 => Some(8),
        chunk::OFFSET_HOLE if len == 12 => Some(12),
        chunk::BLOCK_STATUS if headers == Headers::Structured && len >= 12 && len % 8 == 4 => Some(4),
        chunk::BLOCK_STATUS_EXT if headers.is_extended() && len >= 24 && len % 16 == 8 => Some(8),
        _ if kind & chunk::ERR_BIT != 0 && len >= 6 => {
            usize::try_from(len).ok().filter(|len| *len <= limit::STRING + 14)
        }
        _ => None,
    }
}

fn chunk_body(kind: u16, len: u64, head: &[u8]) -> Option<ReplyBody> {
    let mut reader = Reader::new(head);
    Some(match kind {
        chunk::NONE => ReplyBody::None,
        chunk::OFFSET_DATA => ReplyBody::Data { offset: reader.u64()?, len: len.checked_sub(8)? },
        chunk::OFFSET_HOLE => {
            let (offset, len) = (reader.u64()?, reader.u32()?);
            (len > 0).then_some(ReplyBody::Hole { offset, len })?
        }
        chunk::BLOCK_STATUS => {
            ReplyBody::BlockStatus { context: reader.u32()?, count: len.checked_sub(4)? / 8 }
        }
        chunk::BLOCK_STATUS_EXT => {
            let (context, count) = (reader.u32()?, u64::from(reader.u32()?));
            (len.checked_sub(8)? == count * 16).then_some(ReplyBody::BlockStatus { context, count })?
        }
        _ => error_body(kind, reader)?,
    })
}

fn error_body(kind: u16, mut reader: Reader<'_>) -> Option<ReplyBody> {
    let errno = Errno::from_wire(reader.u32()?).unwrap_or(Errno::Inval);
    let text_len = usize::from(reader.u16()?);
    let message = text::sanitise_bytes(reader.take(text_len)?, limit::STRING);
    let offset = if kind == chunk::ERROR_OFFSET { Some(reader.u64()?) } else { None };
    Some(ReplyBody::Error { errno, offset, message })
}
