//! One NBD connection in the transmission phase, without blocking.
//!
//! Headers are read through a small buffer; the payload of a write goes from the socket straight into the
//! aligned buffer that the array will work on, and only what is already in the small buffer is copied.
//! After a large write no more than a header is read into the small buffer, so that the next payload is
//! not there either.
//!
//! What is read is bounded by what may be in flight: a connection stops reading when it has too many
//! requests, too many bytes, too many answers that its client does not take, or when the pool has no room;
//! it never allocates on the client's word. A write becomes work only when its payload is complete. What a
//! client does wrong costs it its connection and nobody else anything.
//!
//! A connection may be dropped at any time: requests in flight and their memory belong to the runner.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nbd_rs::{
    Answer, ClientMisbehaved, Command, Context, Errno, Extent, Request, RequestHeader, Session, StatusFilter,
    Verdict, validate,
};
use thiserror::Error;
use uraid_blockio::PoolBuf;
use uraid_core::{RequestError, Tick};

use crate::send::Outbox;
use crate::share::{Grants, footprint};
use crate::sys;

/// The small buffer: 64 KiB was measured best; 4 KiB costs two thirds of the rate, 256 KiB leaves L2.
const INPUT_BYTES: usize = 64 << 10;
/// A write of this many bytes is large: what follows it is probably another one.
const LARGE_WRITE: usize = 32 << 10;
/// Bytes of answers that may wait before no further request is read.
const HEADS_MAX: usize = 64 << 10;

/// What one connection may have in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionLimits {
    /// Requests that the array has.
    pub requests: u32,
    /// Bytes of memory for payloads: writes being received or carried out, reads until they are sent. One
    /// request is always let in, whatever its length. However much this is, a connection gets its share of
    /// the pool and no more: a quarter if it is alone.
    pub bytes: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { requests: 256, bytes: 128 << 20 }
    }
}

/// Why a connection ended before its time.
#[derive(Debug, Error)]
pub enum ConnectionError {
    /// The socket failed, most likely because the client is gone.
    #[error("the connection broke: {0}")]
    Socket(#[from] io::Error),
    /// The client kept others waiting.
    #[error("the client held memory that others waited for, and did not move")]
    Stalled,
    /// The kernel shut it down, and sends what was not answered again, elsewhere.
    #[error("the kernel shut it down; its requests that were not begun are dropped")]
    Replaced,
    /// The client said nothing for longer than its [`Terms`](crate::Terms) allow.
    #[error("the client was silent for too long")]
    Idle,
    /// The client does not speak the protocol.
    #[error("the client misbehaved: {0}")]
    Client(#[from] ClientMisbehaved),
}

/// A request for the array. A read has a buffer to be filled, a write a full one.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) request: Request,
    /// What the array is asked for: first byte and length. For a read as long as the buffer.
    pub(crate) range: (u64, u64),
    pub(crate) payload: Option<PoolBuf>,
}

/// What came of an attempt to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// Something, and there may be more.
    More,
    /// Something or nothing, and there is no more for now.
    Drained,
    /// The connection does not read at present: see [`Connection::lacks_memory`] and
    /// [`Connection::has_ended`].
    Blocked,
}

/// Where in the stream of requests a connection is.
#[derive(Debug)]
enum Reading {
    /// Before a header.
    Header,
    /// Behind the header of a request that names contexts, before their list.
    Filter(StatusFilter),
    /// Behind the header of a request that waits to be let in.
    Admission(Request),
    /// In the payload of a write: so many bytes of it are there.
    Payload(Request, PoolBuf, usize),
    /// In a payload that nobody wants; so many bytes of it are left.
    Skip(Answer, usize),
    /// Behind the last request.
    End,
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pending<'a> {
    /// What was received beyond the handshake, or of requests that a predecessor did not begin.
    pub(crate) leftover: &'a [u8],
    /// Answers of a predecessor that were not sent.
    pub(crate) unsent: &'a [u8],
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    session: Session,
    limits: ConnectionLimits,
    input: Input,
    reading: Reading,
    /// The header of the last request as it was received, with its list of contexts if it has one, for whoever may have to read it once more.
    header: Vec<u8>,
    /// It begins no further request: what comes is left to a successor.
    paused: bool,
    /// Requests that the array gave back, as they came: a successor begins with them.
    recalled: Vec<u8>,
    /// The last write was large.
    large: bool,
    /// The last attempt to be let in failed for want of memory.
    hungry: bool,
    in_flight: u32,
    /// Memory that it holds, as [`footprint`] counts it.
    bytes: u64,
    out: Outbox,
    /// The socket took less than there was.
    full: bool,
    /// How the client gets on with sending payloads.
    inward: Pace,
    /// How the client gets on with taking answers.
    outward: Pace,
}

/// How fast a client does what only it can do. It is looked at only while there is something to do.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When a byte last moved, or could move again.
    moved: Tick,
    /// When a whole buffer last got done, or could be worked on again.
    advanced: Tick,
}

impl Pace {
    fn from(now: Tick) -> Self {
        Self { moved: now, advanced: now }
    }

    fn is_stalled(&self, now: Tick, silence: u64, slowness: u64) -> bool {
        let since = |then: Tick| now.0.saturating_sub(then.0);
        since(self.moved) > silence || since(self.advanced) > slowness
    }
}

/// Bytes that were received and not looked at.
#[derive(Debug)]
struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    /// Takes over a socket after the handshake, or from a process before this one.
    pub(crate) fn new(
        socket: OwnedFd,
        session: Session,
        pending: Pending<'_>,
        limits: ConnectionLimits,
        now: Tick,
    ) -> Self {
        let mut out = Outbox::default();
        if !pending.unsent.is_empty() {
            out.head(pending.unsent);
        }
        Self {
            socket,
            session,
            limits,
            input: Input::new(pending.leftover),
            reading: Reading::Header,
            header: Vec::new(),
            paused: false,
            recalled: Vec::new(),
            large: false,
            hungry: false,
            in_flight: 0,
            bytes: 0,
            out,
            full: false,
            inward: Pace::from(now),
            outward: Pace::from(now),
        }
    }

    /// The socket, to be polled.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the socket is of interest for reading.
    pub(crate) fn wants_read(&self) -> bool {
        match self.reading {
            Reading::Header | Reading::Filter(_) | Reading::Payload(..) if self.paused => false,
            Reading::Header | Reading::Filter(_) | Reading::Skip(..) => self.out.head_bytes() < HEADS_MAX,
            Reading::Payload(..) => true,
            Reading::Admission(_) | Reading::End => false,
        }
    }

    /// Whether the socket is of interest for writing.
    pub(crate) fn wants_write(&self) -> bool {
        self.full && !self.out.is_empty()
    }

    /// Whether there are answers to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether it does not read because it waits for room: in flight, in the pool, or for its answers.
    pub(crate) fn is_blocked(&self) -> bool {
        !matches!(self.reading, Reading::End) && !self.wants_read()
    }

    /// Whether it was refused memory for its next request.
    pub(crate) fn lacks_memory(&self) -> bool {
        self.hungry
    }

    /// Whether it was refused memory and holds none, so that it cannot go on by itself.
    pub(crate) fn starves(&self) -> bool {
        self.hungry && self.bytes == 0
    }

    /// Whether it holds memory that only its client can free, and the client let more than `silence`
    /// nanoseconds pass without a byte, or more than `slowness` without one whole buffer.
    pub(crate) fn is_stalled(&self, now: Tick, silence: u64, slowness: u64) -> bool {
        let receiving = matches!(self.reading, Reading::Payload(..));
        let sending = self.wants_write() && self.bytes > 0;
        (receiving && self.inward.is_stalled(now, silence, slowness))
            || (sending && self.outward.is_stalled(now, silence, slowness))
    }

    /// Whether nothing is left but answers that the client has not taken for so many nanoseconds.
    pub(crate) fn is_deaf(&self, now: Tick, silence: u64) -> bool {
        self.in_flight == 0 && self.wants_write() && self.outward.is_stalled(now, silence, u64::MAX)
    }

    /// Whether it reads nothing more.
    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.reading, Reading::End)
    }

    /// Whether everything was read, done and answered: it can be closed.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.reading, Reading::End) && self.is_quiet() && self.recalled.is_empty()
    }

    /// From now on every new request is answered with `ESHUTDOWN`.
    pub(crate) fn drain(&mut self) {
        self.session.drain();
    }

    /// From now on it begins no request: what was received of one, and what comes, is left to whoever gets
    /// [`hand_over`](Self::hand_over). A payload that nobody wants is received to its end.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
        self.hungry = false;
    }

    /// Whether the array has none of its requests.
    pub(crate) fn has_nothing_in_flight(&self) -> bool {
        self.in_flight == 0
    }

    /// Whether it was paused, has come to a place where a successor can go on, and has no request under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.paused && self.in_flight == 0 && !matches!(self.reading, Reading::Skip(..))
    }

    /// The socket, and what a successor has to know: the rules, every byte that was read and belongs to no
    /// request that was answered, and every byte of answers that was not sent. None if it is not settled, or at
    /// its end with nothing of all that.
    pub(crate) fn hand_over(self) -> Option<(OwnedFd, Session, Vec<u8>, Vec<u8>)> {
        if !self.is_settled() || self.has_ended() {
            return None;
        }
        let mut leftover = self.recalled;
        match &self.reading {
            Reading::Header => {}
            Reading::Filter(_) | Reading::Admission(_) => leftover.extend_from_slice(&self.header),
            Reading::Payload(_, buf, have) => {
                leftover.extend_from_slice(&self.header);
                leftover.extend(buf.to_vec().get(..*have).unwrap_or_default());
            }
            // What was received behind the end means nothing, to a successor either.
            Reading::End => {
                let headers = self.session.headers();
                leftover.extend_from_slice(RequestHeader::disconnect(headers).encode(headers).as_bytes());
            }
            Reading::Skip(..) => return None,
        }
        leftover.extend_from_slice(self.input.rest());
        Some((self.socket, self.session, leftover, self.out.into_bytes()))
    }

    /// When a byte last came or went.
    pub(crate) fn last_moved(&self) -> Tick {
        self.inward.moved.max(self.outward.moved)
    }

    /// Whether no request is under way and nothing is left to be sent.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight == 0 && self.out.is_empty()
    }

    /// Receives once and appends the requests that are complete to `work`; their memory is of `grants`.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(crate) fn receive(
        &mut self,
        now: Tick,
        grants: Grants<'_>,
        work: &mut Vec<Work>,
    ) -> Result<Received, ConnectionError> {
        // What was read before comes first: it may have waited for memory.
        self.parse(now, grants, work)?;
        if !self.wants_read() {
            return Ok(Received::Blocked);
        }
        let wanted = self.wanted();
        if wanted == 0 {
            return Ok(Received::Blocked);
        }
        match self.fill() {
            Ok(0) => {
                // The client closed, or will send nothing more. Half a write never happened; what is
                // complete is done and answered, should there still be somebody to read it.
                self.reading = Reading::End;
                Ok(Received::Blocked)
            }
            Ok(n) => {
                self.inward.moved = now;
                self.parse(now, grants, work)?;
                Ok(if n < wanted { Received::Drained } else { Received::More })
            }
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(Received::Drained),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => Ok(Received::More),
            Err(err) => Err(err.into()),
        }
    }

    fn header_len(&self) -> usize {
        self.session.headers().request_len()
    }

    /// Bytes that the next `recvmsg` asks for behind a payload, or alone.
    fn small_part(&self) -> usize {
        // In front of a header, the buffer holds less than one.
        let part =
            if self.large { self.header_len().saturating_sub(self.input.len()) } else { self.input.room() };
        part.min(self.input.room())
    }

    fn wanted(&self) -> usize {
        match &self.reading {
            Reading::Payload(_, buf, have) => (buf.len() - have) + self.small_part(),
            Reading::Skip(_, left) => self.input.room().min(*left + self.header_len()),
            _ => self.small_part(),
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        self.input.compact();
        let small = match &self.reading {
            Reading::Skip(_, left) => self.input.room().min(*left + self.header_len()),
            _ => self.small_part(),
        };
        let room = self.input.room_mut(small);
        match &mut self.reading {
            Reading::Payload(_, buf, have) => {
                let n = sys::receive(self.socket.as_fd(), Some((buf, *have)), room)?;
                let direct = n.min(buf.len() - *have);
                *have += direct;
                self.input.end += n - direct;
                Ok(n)
            }
            _ => {
                let n = sys::receive(self.socket.as_fd(), None, room)?;
                self.input.end += n;
                Ok(n)
            }
        }
    }

    /// Goes through what was received as far as it goes.
    fn parse(&mut self, now: Tick, grants: Grants<'_>, work: &mut Vec<Work>) -> Result<(), ConnectionError> {
        loop {
            if self.paused && !matches!(self.reading, Reading::Skip(..)) {
                return Ok(());
            }
            let reading = std::mem::replace(&mut self.reading, Reading::Header);
            let (next, go_on) = match reading {
                Reading::Header => self.parse_header()?,
                Reading::Filter(filter) => self.parse_filter(filter)?,
                Reading::Admission(request) => self.admit(request, now, grants, work),
                Reading::Payload(request, buf, have) => self.parse_payload(request, buf, have, work),
                Reading::Skip(answer, left) => self.parse_skip(answer, left),
                Reading::End => (Reading::End, false),
            };
            self.reading = next;
            if !go_on {
                return Ok(());
            }
        }
    }

    fn parse_header(&mut self) -> Result<(Reading, bool), ClientMisbehaved> {
        if self.out.head_bytes() >= HEADS_MAX {
            return Ok((Reading::Header, false));
        }
        let Some(header) = RequestHeader::parse(self.input.rest(), self.session.headers()) else {
            return Ok((Reading::Header, false));
        };
        let len = self.header_len();
        self.header.clear();
        self.header.extend_from_slice(self.input.take(len));
        self.follow(validate(&header, &self.session))
    }

    /// The list of contexts is short, and the small buffer holds it whole.
    fn parse_filter(&mut self, filter: StatusFilter) -> Result<(Reading, bool), ClientMisbehaved> {
        let len = filter.payload_len();
        if self.input.len() < len {
            return Ok((Reading::Filter(filter), false));
        }
        let list = self.input.take(len);
        self.header.extend_from_slice(list);
        let verdict = filter.resolve(list, &self.session);
        self.follow(verdict)
    }

    fn follow(&mut self, verdict: Verdict) -> Result<(Reading, bool), ClientMisbehaved> {
        Ok(match verdict {
            Verdict::Execute(request) => (Reading::Admission(request), true),
            Verdict::ReadFilter(filter) => {
                self.large = false;
                (Reading::Filter(filter), true)
            }
            // `validate` lets no payload pass that would not fit any address space.
            Verdict::Answer(answer) => (Reading::Skip(answer, bytes(answer.skip)), true),
            Verdict::Disconnect => (Reading::End, false),
            Verdict::Close(why) => return Err(why),
        })
    }

    fn parse_skip(&mut self, answer: Answer, left: usize) -> (Reading, bool) {
        let left = left - self.input.skip(left);
        if left > 0 {
            return (Reading::Skip(answer, left), false);
        }
        self.out.head(self.session.answer(&answer).as_bytes());
        (Reading::Header, true)
    }

    /// Lets a request in if there is room for it, and starts it.
    fn admit(
        &mut self,
        request: Request,
        now: Tick,
        grants: Grants<'_>,
        work: &mut Vec<Work>,
    ) -> (Reading, bool) {
        if self.answer_at_once(&request) {
            return (Reading::Header, true);
        }
        if self.in_flight >= self.limits.requests {
            return (Reading::Admission(request), false);
        }
        if !matches!(request.command, Command::Read | Command::Write) {
            self.start(request, None, work);
            return (Reading::Header, true);
        }
        let len = bytes(self.range_of(&request).1);
        let held = self.bytes.saturating_add(footprint(len));
        if self.bytes > 0 && held > self.limits.bytes {
            return (Reading::Admission(request), false);
        }
        let Some(buf) = grants.take(self.bytes, len) else {
            self.hungry = true;
            return (Reading::Admission(request), false);
        };
        self.hungry = false;
        self.bytes = held;
        if request.command == Command::Write {
            self.large = len >= LARGE_WRITE;
            self.inward = Pace::from(now);
            return (Reading::Payload(request, buf, 0), true);
        }
        self.large = false;
        self.start(request, Some(buf), work);
        (Reading::Header, true)
    }

    fn parse_payload(
        &mut self,
        request: Request,
        buf: PoolBuf,
        have: usize,
        work: &mut Vec<Work>,
    ) -> (Reading, bool) {
        let tail = self.input.take(buf.len() - have);
        // The tail was cut to what the buffer has room for.
        let _ = buf.copy_in(have, tail);
        let have = have + tail.len();
        if have < buf.len() {
            return (Reading::Payload(request, buf, have), false);
        }
        self.start(request, Some(buf), work);
        (Reading::Header, true)
    }

    fn start(&mut self, request: Request, payload: Option<PoolBuf>, work: &mut Vec<Work>) {
        self.in_flight += 1;
        work.push(Work { request, range: self.range_of(&request), payload });
    }

    /// What has to be read or written: a read may start and end within blocks, if its client cannot know
    /// them.
    fn range_of(&self, request: &Request) -> (u64, u64) {
        match request.command {
            Command::Read => self.session.read_span(request.offset, request.len),
            _ => (request.offset, request.len),
        }
    }

    /// Of what was read, where that which was asked for begins and ends.
    fn asked_for(&self, request: &Request) -> (u64, u64) {
        let start = request.offset.saturating_sub(self.range_of(request).0);
        (start, start.saturating_add(request.len))
    }

    /// Answers what needs nothing of the array. A trim is a hint, and forgetting nothing is a way to follow
    /// it; a range is read ahead nowhere, so a cache hint is done.
    fn answer_at_once(&mut self, request: &Request) -> bool {
        match request.command {
            Command::Trim | Command::Cache => self.out.head(self.session.done(request).as_bytes()),
            Command::WriteZeroes if request.fast_zero => {
                let reply = self.session.error(request, Errno::NotSup, "zeroes are written like other data");
                self.out.head(reply.as_bytes());
            }
            _ => return false,
        }
        true
    }

    /// Answers a block status with what is known of each context.
    pub(crate) fn complete_status(
        &mut self,
        request: &Request,
        extents_of: impl FnMut(Context) -> Vec<Extent>,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let mut answer = Vec::new();
        self.session.block_status(request, extents_of, &mut answer);
        self.out.head(&answer);
    }

    /// A request that answered: its memory is given back or goes out.
    pub(crate) fn complete(
        &mut self,
        request: &Request,
        payload: Option<PoolBuf>,
        result: Result<(), RequestError>,
        volume: &str,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let result = match result {
            // What is lost behind the end of an unaligned read was not asked for.
            Err(RequestError::Unreadable { at }) if u64::from(at) >= self.asked_for(request).1 => Ok(()),
            result => result,
        };
        match (result, payload) {
            (Ok(()), Some(buf)) if request.command == Command::Read => {
                self.out.head(self.session.read_ok(request).as_bytes());
                self.bytes = self.bytes.saturating_sub(if buf.is_empty() { footprint(0) } else { 0 });
                let (start, end) = self.asked_for(request);
                self.out.payload_part(buf, bytes(start), bytes(end));
                return;
            }
            (Ok(()), _) => self.out.head(self.session.done(request).as_bytes()),
            (Err(RequestError::Unreadable { at }), Some(buf)) => {
                let sends_good_part = self.send_unreadable(request, buf, at, volume);
                if sends_good_part {
                    return;
                }
            }
            (Err(RequestError::Recalled), payload) => self.put_back(request, payload),
            (Err(err), _) => {
                let (errno, text) = explain(err);
                let text = format!("{volume}: {text}");
                self.out.head(self.session.error(request, errno, &text).as_bytes());
            }
        }
        if matches!(request.command, Command::Read | Command::Write) {
            self.bytes = self.bytes.saturating_sub(footprint(bytes(self.range_of(request).1)));
        }
    }

    /// Keeps a request that the array gave back, as the client would send it. The array gives back in order
    /// of arrival, so that the order of the stream stays.
    fn put_back(&mut self, request: &Request, payload: Option<PoolBuf>) {
        let headers = self.session.headers();
        self.recalled.extend_from_slice(request.header(headers).encode(headers).as_bytes());
        if let Some(buf) = payload {
            self.recalled.extend_from_slice(&buf.to_vec());
        }
    }

    /// Answers a read of which the bytes from `at` on are lost: with those before it, where the session has
    /// a way to say so. Says whether they were queued, and the buffer with them.
    fn send_unreadable(&mut self, request: &Request, buf: PoolBuf, at: u32, volume: &str) -> bool {
        let text = format!("{volume}: the members that are left do not have the data from here on");
        let (start, end) = self.asked_for(request);
        let good = u64::from(at).clamp(start, end) - start;
        let offset = request.offset.saturating_add(good);
        let head = self.session.read_good_part(request, good);
        if let Some(head) = &head {
            self.out.head(head.as_bytes());
            self.out.payload_part(buf, bytes(start), bytes(start.saturating_add(good)));
        }
        self.out.head(self.session.error_at(request, Errno::Io, offset, &text).as_bytes());
        head.is_some()
    }

    /// Sends what there is to send, as far as the socket takes it. Says how many bytes went.
    ///
    /// # Errors
    /// The connection is of no use any more.
    pub(crate) fn send(&mut self, now: Tick) -> Result<usize, ConnectionError> {
        let sent = self.out.send(self.socket.as_fd())?;
        let begins = !self.full;
        self.full = sent.full;
        self.bytes = self.bytes.saturating_sub(sent.released);
        if sent.bytes > 0 || begins {
            self.outward.moved = now;
        }
        if sent.released > 0 || begins {
            self.outward.advanced = now;
        }
        Ok(sent.bytes)
    }
}

/// A length of a payload that passed `validate`, which takes no more than 64 MiB.
fn bytes(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// The errno of a failed request, and a text for the client's user.
fn explain(err: RequestError) -> (Errno, &'static str) {
    match err {
        RequestError::Io | RequestError::Unreadable { .. } => {
            (Errno::Io, "too few working members are left for this request")
        }
        RequestError::Invalid => (Errno::Inval, "offset and length must be multiples of 512 in the volume"),
        RequestError::Shutdown | RequestError::Recalled => (Errno::Shutdown, "the volume is being stopped"),
    }
}

impl Input {
    fn new(leftover: &[u8]) -> Self {
        let mut bytes = leftover.to_vec();
        bytes.resize(INPUT_BYTES.max(leftover.len()), 0);
        Self { bytes, start: 0, end: leftover.len() }
    }

    fn len(&self) -> usize {
        self.end - self.start
    }

    fn room(&self) -> usize {
        self.bytes.len() - self.len()
    }

    /// The first `n` bytes of the room; the buffer must be compact.
    fn room_mut(&mut self, n: usize) -> &mut [u8] {
        let end = self.bytes.len().min(self.end + n);
        self.bytes.get_mut(self.end..end).unwrap_or_default()
    }

    /// Moves what is there to the front.
    fn compact(&mut self) {
        if self.len() == 0 && self.bytes.len() > INPUT_BYTES {
            // It was made for the leftover of a predecessor, which may be half a payload.
            *self = Self::new(&[]);
        }
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// All that is there.
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Up to `n` bytes.
    fn take(&mut self, n: usize) -> &[u8] {
        let from = self.start;
        self.start += self.len().min(n);
        self.bytes.get(from..self.start).unwrap_or_default()
    }

    /// Drops up to `n` bytes and says how many.
    fn skip(&mut self, n: usize) -> usize {
        self.take(n).len()
    }
}
