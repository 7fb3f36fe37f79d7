//! Replies: the heads that a server puts in front of a payload, and their decoding by a client.
//!
//! Only heads are encoded here; the payload of a read stays where it is and the transport sends both with
//! one vectored write. The free functions write one message each. The methods of [`Session`] choose the
//! form that the session calls for: once structured replies were negotiated, a read is answered in chunks
//! even when it fails, errors carry a text, and a success without data stays a simple reply.

use crate::codec::{Frame, Reader};
use crate::error::{Errno, ServerMisbehaved};
use crate::request::{Answer, Command, Request};
use crate::session::{Context, Session};
use crate::text;
use crate::wire::{
    CHUNK_HEADER_LEN, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, chunk_flag, limit,
};

/// The head of a reply that is no error: at most a chunk header and 12 bytes.
pub type Head = Frame<32>;
/// An error reply with its text; complete.
pub type ErrorReply = Frame<256>;
/// Longest text of an [`ErrorReply`] in bytes; longer ones are cut.
pub const ERROR_TEXT_MAX: usize = 256 - CHUNK_HEADER_LEN - 14;

/// The largest head that [`decode`] may need to see at once: an error chunk with the longest text.
pub const REPLY_HEAD_MAX: usize = CHUNK_HEADER_LEN + 14 + limit::STRING;

fn simple_frame<const N: usize>(cookie: u64, error: u32) -> Frame<N> {
    Frame::new().put(&SIMPLE_REPLY_MAGIC.to_be_bytes()).put(&error.to_be_bytes()).put(&cookie.to_be_bytes())
}

fn chunk_frame<const N: usize>(cookie: u64, kind: u16, done: bool, len: u32) -> Frame<N> {
    let flags = if done { chunk_flag::DONE } else { 0 };
    Frame::new()
        .put(&STRUCTURED_REPLY_MAGIC.to_be_bytes())
        .put(&flags.to_be_bytes())
        .put(&kind.to_be_bytes())
        .put(&cookie.to_be_bytes())
        .put(&len.to_be_bytes())
}

/// Simple reply of success; for a read the data follows.
pub fn simple_ok(cookie: u64) -> Head {
    simple_frame(cookie, 0)
}

/// Simple reply of failure; nothing follows.
pub fn simple_error(cookie: u64, errno: Errno) -> ErrorReply {
    simple_frame(cookie, errno.to_wire())
}

/// Last chunk without content. Success, unless an error chunk went before.
pub fn none(cookie: u64) -> Head {
    chunk_frame(cookie, chunk::NONE, true, 0)
}

/// Head of a content chunk; `len` bytes of data follow, those of the export from `offset` on. `len` is not
/// zero and at most `u32::MAX - 8`, which every validated request keeps to.
pub fn offset_data(cookie: u64, offset: u64, len: u32, done: bool) -> Head {
    chunk_frame(cookie, chunk::OFFSET_DATA, done, len.saturating_add(8)).put(&offset.to_be_bytes())
}

/// Complete chunk that reports `len` bytes (not zero) from `offset` on as reading zero.
pub fn offset_hole(cookie: u64, offset: u64, len: u32, done: bool) -> Head {
    chunk_frame(cookie, chunk::OFFSET_HOLE, done, 12).put(&offset.to_be_bytes()).put(&len.to_be_bytes())
}

/// Complete chunk that reports one extent of `len` bytes (not zero) with the status bits `status`.
pub fn block_status(cookie: u64, context: Context, len: u32, status: u32, done: bool) -> Head {
    chunk_frame(cookie, chunk::BLOCK_STATUS, done, 12)
        .put(&context.id().to_be_bytes())
        .put(&len.to_be_bytes())
        .put(&status.to_be_bytes())
}

/// Complete last chunk that reports a failure, with a text for people (sanitised and cut here).
pub fn error(cookie: u64, errno: Errno, message: &str) -> ErrorReply {
    let message = text::sanitise(message, ERROR_TEXT_MAX);
    error_frame(cookie, chunk::ERROR, errno, &message, 6)
}

/// As [`error()`], naming the first byte that failed, which lies in the request's range.
pub fn error_offset(cookie: u64, errno: Errno, message: &str, offset: u64) -> ErrorReply {
    let message = text::sanitise(message, ERROR_TEXT_MAX);
    error_frame(cookie, chunk::ERROR_OFFSET, errno, &message, 14).put(&offset.to_be_bytes())
}

fn error_frame(cookie: u64, kind: u16, errno: Errno, message: &str, fixed: u32) -> ErrorReply {
    // The text was cut to ERROR_TEXT_MAX, so its length fits the 16 bits that travel.
    let text_len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    chunk_frame(cookie, kind, true, fixed.saturating_add(u32::from(text_len)))
        .put(&errno.to_wire().to_be_bytes())
        .put(&text_len.to_be_bytes())
        .put(message.as_bytes())
}

impl Session {
    /// Head of the whole answer to a successful read; [`Request::len`] bytes of data follow. The data must
    /// be at hand: after this head a failure can no longer be told.
    pub fn read_ok(&self, request: &Request) -> Head {
        if self.structured() {
            offset_data(request.cookie, request.offset, request.len, true)
        } else {
            simple_ok(request.cookie)
        }
    }

    /// Head of the good part of a read that failed at byte `good` of its range (from 0): `good` bytes of
    /// data follow, then [`Session::error_at`]. `None` when there is nothing to send: the session has
    /// simple replies, or `good` is zero or not less than the range.
    pub fn read_good_part(&self, request: &Request, good: u32) -> Option<Head> {
        let worth = self.structured() && good > 0 && good < request.len;
        worth.then(|| offset_data(request.cookie, request.offset, good, false))
    }

    /// The answer to a successful request that returns no data (all but `READ` and `BLOCK_STATUS`).
    pub fn done(&self, request: &Request) -> Head {
        simple_ok(request.cookie)
    }

    /// The answers to a successful `BLOCK_STATUS`: one chunk a selected context, to be sent in order.
    /// Each reports the whole range as allocated data, which is always true enough: a client may read it.
    pub fn block_status_allocated(&self, request: &Request) -> impl Iterator<Item = Head> {
        let (cookie, len) = (request.cookie, request.len);
        let last = self.contexts().iter().last();
        self.contexts()
            .iter()
            .map(move |context| block_status(cookie, context, len, 0, Some(context) == last))
    }

    /// The answer to a request that failed as a whole. `message` reaches the client's user (sanitised,
    /// cut to [`ERROR_TEXT_MAX`]): name the volume and the reason, no paths.
    pub fn error(&self, request: &Request, errno: Errno, message: &str) -> ErrorReply {
        let errno = allowed_for(request, errno);
        if self.structured() {
            error(request.cookie, errno, message)
        } else {
            simple_error(request.cookie, errno)
        }
    }

    /// As [`Session::error`], naming the first byte of the export that failed. An offset out of the
    /// request's range is left out.
    pub fn error_at(&self, request: &Request, errno: Errno, offset: u64, message: &str) -> ErrorReply {
        let in_range =
            offset.checked_sub(request.offset).is_some_and(|distance| distance < u64::from(request.len));
        if self.structured() && in_range && request.command != Command::Flush {
            error_offset(request.cookie, allowed_for(request, errno), message, offset)
        } else {
            self.error(request, errno, message)
        }
    }

    /// The complete answer to a request that [`crate::validate`] settled by itself.
    pub fn answer(&self, answer: &Answer) -> ErrorReply {
        match answer.result {
            Ok(()) if self.structured() && answer.is_read => chunk_frame(answer.cookie, chunk::NONE, true, 0),
            Ok(()) => simple_frame(answer.cookie, 0),
            Err((errno, message)) if self.structured() => error(answer.cookie, errno, message),
            Err((errno, _)) => simple_error(answer.cookie, errno),
        }
    }
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
    /// No further chunk follows for this request.
    pub done: bool,
    /// What it says.
    pub body: ReplyBody,
}

/// What a reply says. Whether it fits the request (kind, range, no overlap) is for the caller to check,
/// who alone knows the requests in flight.
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
        len: u32,
    },
    /// `len` bytes (not zero) from `offset` on read as zeroes.
    Hole {
        /// First byte in the export.
        offset: u64,
        /// Bytes that read as zeroes.
        len: u32,
    },
    /// `descriptors` (not zero) pairs of u32 length and u32 status follow on the stream.
    BlockStatus {
        /// The context's id, as the handshake named it.
        context: u32,
        /// Pairs of eight bytes that follow.
        descriptors: u32,
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

/// Takes the head of the next reply apart. Returns it with the bytes it took; `None` while it is not
/// complete (at most [`REPLY_HEAD_MAX`] bytes are ever needed).
///
/// # Errors
/// [`ServerMisbehaved::ReplyMagic`] and [`ServerMisbehaved::MalformedChunk`]: the stream cannot be
/// trusted any more, close it.
pub fn decode(input: &[u8]) -> Result<Option<(Reply, usize)>, ServerMisbehaved> {
    let mut reader = Reader::new(input);
    match reader.u32() {
        None => Ok(None),
        Some(SIMPLE_REPLY_MAGIC) => Ok(decode_simple(reader)),
        Some(STRUCTURED_REPLY_MAGIC) => decode_chunk(reader),
        Some(magic) => Err(ServerMisbehaved::ReplyMagic(magic)),
    }
}

fn decode_simple(mut reader: Reader<'_>) -> Option<(Reply, usize)> {
    let errno = Errno::from_wire(reader.u32()?);
    let cookie = reader.u64()?;
    Some((Reply { cookie, done: true, body: ReplyBody::Simple(errno) }, SIMPLE_REPLY_LEN))
}

fn decode_chunk(mut reader: Reader<'_>) -> Result<Option<(Reply, usize)>, ServerMisbehaved> {
    let header = (|| Some((reader.u16()?, reader.u16()?, reader.u64()?, reader.u32()?)))();
    let Some((flags, kind, cookie, len)) = header else { return Ok(None) };
    let done = flags & chunk_flag::DONE != 0;
    let Some(head_len) = chunk_head_len(kind, len, done) else {
        return Err(ServerMisbehaved::MalformedChunk { kind, len });
    };
    let Some(head) = reader.take(head_len) else { return Ok(None) };
    let body = chunk_body(kind, len, head).ok_or(ServerMisbehaved::MalformedChunk { kind, len })?;
    Ok(Some((Reply { cookie, done, body }, CHUNK_HEADER_LEN + head_len)))
}

/// How much of a chunk's payload belongs to its head; `None` if the length does not fit the type.
fn chunk_head_len(kind: u16, len: u32, done: bool) -> Option<usize> {
    match kind {
        chunk::NONE if len == 0 && done => Some(0),
        chunk::OFFSET_DATA if len > 8 => Some(8),
        chunk::OFFSET_HOLE if len == 12 => Some(12),
        chunk::BLOCK_STATUS if len >= 12 && len % 8 == 4 => Some(4),
        _ if kind & chunk::ERR_BIT != 0 && len >= 6 => {
            usize::try_from(len).ok().filter(|len| *len <= limit::STRING + 14)
        }
        _ => None,
    }
}

fn chunk_body(kind: u16, len: u32, head: &[u8]) -> Option<ReplyBody> {
    let mut reader = Reader::new(head);
    Some(match kind {
        chunk::NONE => ReplyBody::None,
        chunk::OFFSET_DATA => ReplyBody::Data { offset: reader.u64()?, len: len.checked_sub(8)? },
        chunk::OFFSET_HOLE => {
            let (offset, len) = (reader.u64()?, reader.u32()?);
            (len > 0).then_some(ReplyBody::Hole { offset, len })?
        }
        chunk::BLOCK_STATUS => {
            ReplyBody::BlockStatus { context: reader.u32()?, descriptors: len.checked_sub(4)? / 8 }
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
