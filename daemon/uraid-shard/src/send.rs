//! The replies of one connection that wait to be sent.
//!
//! Heads of replies are gathered in one byte run, so that thirty answers to writes are one span; the
//! payload of a read stays in its buffer. One `sendmsg` takes everything that is there, and the socket may
//! take any part of it. A payload buffer goes back to its pool when its last byte was taken.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use uraid_blockio::PoolBuf;

use crate::share::footprint;
use crate::sys::Gather;

/// Sent heads are moved out of the way when they have grown to this many bytes.
const COMPACT_AT: usize = 64 << 10;

/// Replies to be sent, in order.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The bytes of all [`Piece::Heads`], of which those before `sent` are gone.
    heads: Vec<u8>,
    sent: usize,
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// The next `n` bytes of the heads.
    Heads(usize),
    /// A payload, from the first of these bytes to the second.
    Payload(PoolBuf, usize, usize),
}

/// What one attempt to send did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sent {
    /// Bytes that the socket took.
    pub(crate) bytes: usize,
    /// Bytes of payload buffers that were given back, as [`footprint`] counts them.
    pub(crate) released: u64,
    /// The socket takes no more now.
    pub(crate) full: bool,
}

impl Outbox {
    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes of heads not sent yet.
    pub(crate) fn head_bytes(&self) -> usize {
        self.heads.len() - self.sent
    }

    /// Appends a head, or a whole reply without a payload.
    pub(crate) fn head(&mut self, head: &[u8]) {
        self.heads.extend_from_slice(head);
        match self.pieces.back_mut() {
            Some(Piece::Heads(n)) => *n += head.len(),
            _ => self.pieces.push_back(Piece::Heads(head.len())),
        }
    }

    /// Appends the bytes of a payload from `start` to `end`.
    pub(crate) fn payload_part(&mut self, buf: PoolBuf, start: usize, end: usize) {
        let end = end.min(buf.len());
        if start < end {
            self.pieces.push_back(Piece::Payload(buf, start, end));
        }
    }

    /// Sends until nothing is left or the socket takes no more.
    ///
    /// # Errors
    /// What the socket said; the connection is of no use any more.
    pub(crate) fn send(&mut self, fd: BorrowedFd<'_>) -> io::Result<Sent> {
        let mut sent = Sent::default();
        while !self.is_empty() {
            let mut gather = self.gather()?;
            let wanted = gather.bytes();
            match gather.send(fd) {
                Ok(n) => {
                    sent.bytes += n;
                    sent.released += self.forget(n);
                    // A short count says that the socket is full; asking again would only say so too.
                    sent.full = n < wanted;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => sent.full = true,
                Err(err) => return Err(err),
            }
            if sent.full {
                break;
            }
        }
        Ok(sent)
    }

    /// What was not sent, in order.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut heads = self.heads.get(self.sent..).unwrap_or_default();
        for piece in &self.pieces {
            match piece {
                Piece::Heads(n) => {
                    let (now, later) = heads.split_at(heads.len().min(*n));
                    heads = later;
                    bytes.extend_from_slice(now);
                }
                Piece::Payload(buf, at, end) => {
                    bytes.extend(buf.to_vec().get(*at..*end).unwrap_or_default());
                }
            }
        }
        bytes
    }

    fn gather(&self) -> io::Result<Gather<'_>> {
        let mut gather = Gather::new();
        let mut heads = self.heads.get(self.sent..).unwrap_or_default();
        for piece in &self.pieces {
            let taken = match piece {
                Piece::Heads(n) => {
                    let (now, later) = heads.split_at(heads.len().min(*n));
                    heads = later;
                    gather.push(now)
                }
                Piece::Payload(buf, at, end) => gather.push_buf(buf, *at, *end).map_err(io::Error::other)?,
            };
            if !taken {
                break;
            }
        }
        Ok(gather)
    }

    /// Drops the first `n` bytes; says how many bytes of payload buffers were given back by that.
    fn forget(&mut self, mut n: usize) -> u64 {
        let mut released = 0;
        while n > 0 {
            match self.pieces.front_mut() {
                Some(Piece::Heads(len)) => {
                    let now = n.min(*len);
                    *len -= now;
                    self.sent += now;
                    n -= now;
                    if *len > 0 {
                        break;
                    }
                }
                Some(Piece::Payload(buf, at, end)) => {
                    let now = n.min(*end - *at);
                    *at += now;
                    n -= now;
                    if *at < *end {
                        break;
                    }
                    released += footprint(buf.len());
                }
                None => break,
            }
            self.pieces.pop_front();
        }
        self.compact();
        released
    }

    fn compact(&mut self) {
        if self.sent == self.heads.len() {
            self.heads.clear();
            self.sent = 0;
        } else if self.sent >= COMPACT_AT {
            self.heads.drain(..self.sent);
            self.sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{self, AddressFamily, SockFlag, SockType};
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use uraid_blockio::{ArenaOptions, BufPool};

    fn pair() -> (std::os::fd::OwnedFd, UnixStream) {
        let (a, b) =
            socket::socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (a, b.into())
    }

    /// Everything that was put in comes out in order, however little the socket takes at a time, and the
    /// buffers are back in the pool at the end.
    #[test]
    fn whatever_the_socket_takes_the_stream_is_the_same() {
        let pool = BufPool::new(8 << 20, ArenaOptions::default()).unwrap();
        let (server, mut client) = pair();
        let mut out = Outbox::default();
        let mut expected = Vec::new();
        let mut taken = 0;
        for i in 0..700u32 {
            let head = [i as u8; 16];
            out.head(&head);
            expected.extend_from_slice(&head);
            if i % 3 == 0 {
                let len = (i as usize * 37) % 9000;
                let buf = pool.try_alloc(len).unwrap();
                buf.fill(i as u8 ^ 0x5a);
                expected.resize(expected.len() + len, i as u8 ^ 0x5a);
                taken += if len > 0 { footprint(len) } else { 0 };
                // Of every other one, the half only.
                let end = if i % 2 == 0 { len } else { len / 2 };
                expected.truncate(expected.len() - (len - end));
                taken -= if end == 0 && len > 0 { footprint(len) } else { 0 };
                out.payload_part(buf, 0, end);
            }
        }
        let mut got = Vec::new();
        let mut piece = vec![0; 50_000];
        let mut released = 0;
        while got.len() < expected.len() {
            let sent = out.send(server.as_fd()).unwrap();
            released += sent.released;
            assert_eq!(sent.full, !out.is_empty());
            let n = client.read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..n]);
        }
        assert!(got == expected);
        assert_eq!((out.head_bytes(), pool.in_use()), (0, 0));
        assert_eq!(released, taken);
    }

    #[test]
    fn a_closed_peer_is_an_error_and_no_signal() {
        let (server, client) = pair();
        drop(client);
        let mut out = Outbox::default();
        out.head(&[0; 16]);
        assert!(out.send(server.as_fd()).is_err());
    }
}
