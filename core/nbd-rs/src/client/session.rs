//! The client's half of the transmission: requests in flight, and replies that are held against them.
//!
//! ```text
//!         head of a reply                  all of it               chunk was the last one
//!  Head ------------------> Data, Extents ----------> Head, or End ---------------------> Head
//!   ^   no content: Hole, Failed, End                                 Finished             |
//!   +--------------------------------------------------------------------------------------+
//! ```
//!
//! Promises: data is passed on only if it lies in the range of a read in flight and was not sent before; a
//! read that ends in success was sent whole, a block status that ends in success was answered for every
//! context; whatever else a server says ends the session as [`ServerMisbehaved`]. Data is not copied.
//! Memory grows with requests in flight and with what arrived for them: at most [`limit::CHUNKS_TAKEN`]
//! ranges of a read, [`limit::EXTENTS_TAKEN`] extents of a block status.

use super::handshake::Remote;
use crate::codec::Frame;
use crate::error::{ApiMisuse, Errno, ServerMisbehaved};
use crate::reply::{self, Extent, Reply, ReplyBody};
use crate::request::{Command, Request, RequestHeader};
use crate::session::Headers;
use crate::wire::{
    EXTENDED_REQUEST_LEN, STATUS_FILTER_LEN, cmd_flag, limit, transmission_flag as server_flag,
};
use std::collections::BTreeMap;

/// Something that a server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<'i> {
    /// Bytes of a read.
    Data {
        /// The request's cookie.
        cookie: u64,
        /// Where in the export they belong.
        offset: u64,
        /// The bytes, a piece of the input.
        bytes: &'i [u8],
    },
    /// Bytes of a read that are zeroes.
    Hole {
        /// The request's cookie.
        cookie: u64,
        /// Where in the export they belong.
        offset: u64,
        /// How many they are.
        len: u64,
    },
    /// What a context says about a range that begins at the request's offset.
    BlockStatus {
        /// The request's cookie.
        cookie: u64,
        /// The context's id.
        context: u32,
        /// At least one; none is empty. The last one may go beyond the request's range.
        extents: Vec<Extent>,
    },
    /// Why a request fails. Further events may follow before it is [`Event::Finished`].
    Failed {
        /// The request's cookie.
        cookie: u64,
        /// Why.
        errno: Errno,
        /// The first byte of the export that failed, if the server named one.
        offset: Option<u64>,
        /// A text for people, sanitised.
        message: String,
    },
    /// The last word about a request, whose cookie is free again.
    Finished {
        /// The request's cookie.
        cookie: u64,
        /// How it ended; the first error if there were several.
        result: Result<(), Errno>,
    },
}

/// What [`ClientSession::feed`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct SessionFed<'i> {
    /// Bytes of the input that were taken.
    pub consumed: usize,
    /// The next event; `None` when more input is needed.
    pub event: Option<Event<'i>>,
}

/// The client's half of one transmission.
#[derive(Clone, Debug)]
pub struct ClientSession {
    headers: Headers,
    size: u64,
    filters_status: bool,
    contexts: Vec<u32>,
    in_flight: BTreeMap<u64, Flight>,
    /// The start of a head that is not complete.
    head: Vec<u8>,
    reading: Reading,
    failed: Option<ServerMisbehaved>,
}

/// A request in flight and what was said to it.
#[derive(Clone, Debug)]
struct Flight {
    request: Request,
    /// A read: what was sent, as first byte and end; no two touch.
    covered: BTreeMap<u64, u64>,
    /// Content chunks so far.
    chunks: usize,
    /// A block status: the contexts that are to be answered still.
    contexts: Vec<u32>,
    error: Option<Errno>,
}

#[derive(Clone, Debug)]
enum Reading {
    Head,
    Data { cookie: u64, offset: u64, left: u64, done: bool },
    Extents { cookie: u64, context: u32, left: u64, done: bool, extents: Vec<Extent>, partial: Vec<u8> },
    End(u64),
}

impl ClientSession {
    /// The session that a handshake led to.
    pub fn new(remote: &Remote) -> Self {
        ClientSession {
            headers: remote.headers,
            size: remote.size,
            filters_status: remote.flags & server_flag::BLOCK_STATUS_PAYLOAD != 0,
            contexts: remote.contexts.iter().map(|context| context.id).collect(),
            in_flight: BTreeMap::new(),
            head: Vec::new(),
            reading: Reading::Head,
            failed: None,
        }
    }

    /// Takes a request down as in flight and gives its header to be sent, before [`Request::payload_len`]
    /// bytes of payload. A block status is asked for all contexts that were selected.
    ///
    /// # Errors
    /// [`ApiMisuse::CookieInUse`], [`ApiMisuse::RequestLength`] without extended headers, and
    /// [`ApiMisuse::StatusContexts`] for a block status if none was selected. Whether the server offers
    /// what is asked is not looked at: it says so itself.
    pub fn request(&mut self, request: &Request) -> Result<Frame<EXTENDED_REQUEST_LEN>, ApiMisuse> {
        let contexts = match request.command {
            Command::BlockStatus if self.contexts.is_empty() => return Err(ApiMisuse::StatusContexts),
            Command::BlockStatus => self.contexts.clone(),
            _ => Vec::new(),
        };
        self.take_down(request, contexts)?;
        Ok(request.header(self.headers).encode(self.headers))
    }

    /// As [`Self::request`] for a block status that is answered for the contexts of these ids only; header
    /// and payload in one.
    ///
    /// # Errors
    /// As there; and [`ApiMisuse::StatusContexts`] if the server does not take such a list, or for a list
    /// that is empty, names a context twice, or one that was not selected.
    pub fn status_of(&mut self, request: &Request, contexts: &[u32]) -> Result<Vec<u8>, ApiMisuse> {
        let mut sorted = contexts.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let known = sorted.iter().all(|id| self.contexts.contains(id));
        let fits = self.filters_status && self.headers.is_extended() && sorted.len() == contexts.len();
        if !known || !fits || sorted.is_empty() || request.command != Command::BlockStatus {
            return Err(ApiMisuse::StatusContexts);
        }
        self.take_down(request, contexts.to_vec())?;
        let header = request.header(self.headers);
        let header = RequestHeader {
            flags: header.flags | cmd_flag::PAYLOAD_LEN,
            len: (STATUS_FILTER_LEN + 4 * contexts.len()) as u64,
            ..header
        };
        let mut message = header.encode(self.headers).as_bytes().to_vec();
        message.extend_from_slice(&request.len.to_be_bytes());
        message.extend(contexts.iter().flat_map(|id| id.to_be_bytes()));
        Ok(message)
    }

    /// The header that says that the client leaves. The server answers what is in flight and closes.
    pub fn disconnect(&self) -> Frame<EXTENDED_REQUEST_LEN> {
        RequestHeader::disconnect(self.headers).encode(self.headers)
    }

    /// Requests that the server has not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The form of messages.
    pub fn headers(&self) -> Headers {
        self.headers
    }

    /// Size of the export in bytes; changes when a resize is answered.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn take_down(&mut self, request: &Request, contexts: Vec<u32>) -> Result<(), ApiMisuse> {
        if self.in_flight.contains_key(&request.cookie) {
            return Err(ApiMisuse::CookieInUse(request.cookie));
        }
        if !self.headers.is_extended() && u32::try_from(request.len).is_err() {
            return Err(ApiMisuse::RequestLength(request.len));
        }
        let flight = Flight { request: *request, covered: BTreeMap::new(), chunks: 0, contexts, error: None };
        self.in_flight.insert(request.cookie, flight);
        Ok(())
    }

    /// Takes bytes from the server, up to the next event. To be called again with the rest until there is
    /// none.
    ///
    /// # Errors
    /// The server broke the protocol: close. Every later call says so again.
    pub fn feed<'i>(&mut self, input: &'i [u8]) -> Result<SessionFed<'i>, ServerMisbehaved> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let mut rest = input;
        let result = self.next_event(&mut rest);
        match result {
            Ok(event) => Ok(SessionFed { consumed: input.len() - rest.len(), event }),
            Err(failed) => {
                self.failed = Some(failed.clone());
                Err(failed)
            }
        }
    }

    fn next_event<'i>(&mut self, rest: &mut &'i [u8]) -> Result<Option<Event<'i>>, ServerMisbehaved> {
        loop {
            match std::mem::replace(&mut self.reading, Reading::Head) {
                Reading::Head => {
                    let Some(reply) = self.take_head(rest)? else { return Ok(None) };
                    if let Some(event) = self.accept(reply)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Data { cookie, offset, left, done } if rest.is_empty() => {
                    self.reading = Reading::Data { cookie, offset, left, done };
                    return Ok(None);
                }
                Reading::Data { cookie, offset, left, done } => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let (bytes, tail) = rest.split_at(len);
                    *rest = tail;
                    let (offset_after, left) = (offset + len as u64, left - len as u64);
                    self.reading = match left {
                        0 => after(cookie, done),
                        _ => Reading::Data { cookie, offset: offset_after, left, done },
                    };
                    return Ok(Some(Event::Data { cookie, offset, bytes }));
                }
                Reading::Extents { cookie, context, mut left, done, mut extents, mut partial } => {
                    let whole = take_extents(rest, self.headers, &mut left, &mut extents, &mut partial);
                    if !whole {
                        self.reading = Reading::Extents { cookie, context, left, done, extents, partial };
                        return Ok(None);
                    }
                    self.check_extents(cookie, &extents)?;
                    self.reading = after(cookie, done);
                    return Ok(Some(Event::BlockStatus { cookie, context, extents }));
                }
                Reading::End(cookie) => return self.finish(cookie).map(Some),
            }
        }
    }

    /// The head of the next reply, once it is there.
    fn take_head(&mut self, rest: &mut &[u8]) -> Result<Option<Reply>, ServerMisbehaved> {
        let had = self.head.len();
        let room = reply::REPLY_HEAD_MAX.saturating_sub(had).min(rest.len());
        let (piece, _) = rest.split_at(room);
        let found = if had == 0 {
            reply::decode(piece, self.headers)?
        } else {
            self.head.extend_from_slice(piece);
            reply::decode(&self.head, self.headers)?
        };
        match found {
            Some((reply, used)) => {
                self.head.clear();
                *rest = rest.get(used.saturating_sub(had)..).unwrap_or_default();
                Ok(Some(reply))
            }
            None => {
                if had == 0 {
                    self.head.extend_from_slice(piece);
                }
                *rest = rest.get(room..).unwrap_or_default();
                Ok(None)
            }
        }
    }

    /// Holds a reply against its request, and says what follows it.
    fn accept(&mut self, reply: Reply) -> Result<Option<Event<'static>>, ServerMisbehaved> {
        let Reply { cookie, offset, done, body } = reply;
        let chunks = self.headers.has_chunks();
        let flight = self.in_flight.get_mut(&cookie).ok_or(ServerMisbehaved::UnknownCookie(cookie))?;
        let request = flight.request;
        let wrong = |what| Err(ServerMisbehaved::WrongReply { cookie, what });
        if offset.is_some_and(|offset| offset != request.offset) {
            return wrong("it repeats another offset");
        }
        self.reading = after(cookie, done);
        match body {
            ReplyBody::Simple(errno) => {
                let is_read = request.command == Command::Read;
                if chunks && (is_read || flight.chunks > 0 || flight.error.is_some()) {
                    return wrong("a simple reply where chunks are needed");
                }
                flight.error = errno;
                if is_read && errno.is_none() && request.len > 0 {
                    flight.cover(request.offset, request.len)?;
                    let (offset, left) = (request.offset, request.len);
                    self.reading = Reading::Data { cookie, offset, left, done };
                }
            }
            ReplyBody::None => {}
            ReplyBody::Data { offset, len } => {
                flight.cover(offset, len)?;
                self.reading = Reading::Data { cookie, offset, left: len, done };
            }
            ReplyBody::Hole { offset, len } => {
                let len = u64::from(len);
                flight.cover(offset, len)?;
                return Ok(Some(Event::Hole { cookie, offset, len }));
            }
            ReplyBody::BlockStatus { context, count } => {
                let Some(at) = flight.contexts.iter().position(|id| *id == context) else {
                    return wrong("the status of a context that was not asked for, or was told before");
                };
                if count > limit::EXTENTS_TAKEN || (request.req_one && count != 1) {
                    return wrong("more extents than allowed");
                }
                flight.contexts.swap_remove(at);
                flight.chunks += 1;
                let (extents, partial) = (Vec::new(), Vec::new());
                self.reading = Reading::Extents { cookie, context, left: count, done, extents, partial };
            }
            ReplyBody::Error { errno, offset, message } => {
                let inside = |at: u64| at.checked_sub(request.offset).is_some_and(|far| far < request.len);
                if offset.is_some_and(|at| !inside(at)) {
                    return wrong("it failed at an offset outside its range");
                }
                flight.error.get_or_insert(errno);
                return Ok(Some(Event::Failed { cookie, errno, offset, message }));
            }
        }
        Ok(None)
    }

    fn check_extents(&self, cookie: u64, extents: &[Extent]) -> Result<(), ServerMisbehaved> {
        let Some(flight) = self.in_flight.get(&cookie) else { return Ok(()) };
        let request = &flight.request;
        let wrong = |what| Err(ServerMisbehaved::WrongReply { cookie, what });
        let mut sum = 0u64;
        for extent in extents {
            if extent.len == 0 {
                return wrong("an empty extent");
            }
            if sum >= request.len {
                return wrong("an extent that begins behind its range");
            }
            sum = sum.saturating_add(extent.len);
        }
        if request.req_one && sum > request.len {
            return wrong("an extent that is longer than the one asked for");
        }
        if request.offset.checked_add(sum).is_none_or(|end| end > self.size) {
            return wrong("an extent that ends behind the export");
        }
        Ok(())
    }

    fn finish(&mut self, cookie: u64) -> Result<Event<'static>, ServerMisbehaved> {
        let flight = self.in_flight.remove(&cookie).ok_or(ServerMisbehaved::UnknownCookie(cookie))?;
        let result = flight.error.map_or(Ok(()), Err);
        if result.is_ok() {
            if flight.request.command == Command::Read && !flight.is_covered() {
                return Err(ServerMisbehaved::WrongReply { cookie, what: "a part of the data is missing" });
            }
            if !flight.contexts.is_empty() {
                return Err(ServerMisbehaved::WrongReply { cookie, what: "a context was not answered" });
            }
            if flight.request.command == Command::Resize {
                self.size = flight.request.offset;
            }
        }
        Ok(Event::Finished { cookie, result })
    }
}

impl Flight {
    /// Takes a content chunk down.
    fn cover(&mut self, offset: u64, len: u64) -> Result<(), ServerMisbehaved> {
        let wrong = |what| Err(ServerMisbehaved::WrongReply { cookie: self.request.cookie, what });
        if self.request.command != Command::Read {
            return wrong("data where none was asked for");
        }
        let first = self.request.offset;
        // A request of a caller may run past the end of all offsets; no server can answer that.
        let last = first.saturating_add(self.request.len);
        let end = match offset.checked_add(len) {
            Some(end) if offset >= first && end <= last => end,
            _ => return wrong("data outside its range"),
        };
        self.chunks += 1;
        if self.chunks > limit::CHUNKS_TAKEN || (self.request.df && self.chunks > 1) {
            return wrong("more chunks than allowed");
        }
        let before = self.covered.range(..end).next_back().map(|(from, to)| (*from, *to));
        match before {
            Some((_, to)) if to > offset => return wrong("data that was sent before"),
            Some((from, to)) if to == offset => self.covered.insert(from, end),
            _ => self.covered.insert(offset, end),
        };
        Ok(())
    }

    /// Whether all of the range was sent.
    fn is_covered(&self) -> bool {
        let sent: u64 = self.covered.iter().map(|(from, to)| to - from).sum();
        sent == self.request.len
    }
}

/// What follows a chunk.
fn after(cookie: u64, done: bool) -> Reading {
    if done { Reading::End(cookie) } else { Reading::Head }
}

/// Takes extents from the front of `rest`; whether all are there.
fn take_extents(
    rest: &mut &[u8],
    headers: Headers,
    left: &mut u64,
    extents: &mut Vec<Extent>,
    partial: &mut Vec<u8>,
) -> bool {
    let size = reply::extent_len(headers);
    while *left > 0 {
        let missing = size.saturating_sub(partial.len());
        let (piece, tail) = rest.split_at(missing.min(rest.len()));
        partial.extend_from_slice(piece);
        *rest = tail;
        if partial.len() < size {
            return false;
        }
        extents.extend(reply::decode_extent(partial, headers));
        partial.clear();
        *left -= 1;
    }
    true
}
