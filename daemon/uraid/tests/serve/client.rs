//! A blocking NBD client, one request at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nbd_rs::reply::{Reply, ReplyBody, decode};
use nbd_rs::{ClientHandshake, ClientOutcome, Command, Errno, Headers, Remote, Request, Wanted};

/// A stream of either kind.
pub(crate) trait Stream: Read + Write + Send {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

/// A client in transmission.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    input: Vec<u8>,
    cookie: u64,
    pub(crate) remote: Remote,
}

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server says so.
    Refused(Errno),
    /// The connection ended. Its reason is for whoever reads a failed test.
    Broken(#[expect(dead_code, reason = "read through Debug only")] io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Broken(error)
    }
}

impl Client {
    /// Connects to a unix socket and asks for an export.
    pub(crate) fn connect(socket: &Path, export: &str) -> Client {
        Client::over(Box::new(UnixStream::connect(socket).unwrap()), export).unwrap()
    }

    /// Shakes hands over a stream.
    pub(crate) fn over(mut stream: Box<dyn Stream>, export: &str) -> io::Result<Client> {
        let wanted = Wanted { export: export.to_owned(), headers: Headers::Structured, ..Wanted::default() };
        let mut handshake = ClientHandshake::new(wanted).unwrap();
        let mut input = Vec::new();
        loop {
            let fed = handshake.feed(&input).map_err(io::Error::other)?;
            input.drain(..fed.consumed);
            stream.write_all(handshake.output())?;
            handshake.output_sent(handshake.output().len());
            if let Some(ClientOutcome::Transmission(remote)) = fed.outcome {
                return Ok(Client { stream, input, cookie: 0, remote });
            }
            receive(&mut *stream, &mut input)?;
        }
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Trouble> {
        self.ask(Command::Write, offset, data.len() as u32, data).map(|_| ())
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        self.ask(Command::Read, offset, len as u32, &[])
    }

    pub(crate) fn flush(&mut self) -> Result<(), Trouble> {
        self.ask(Command::Flush, 0, 0, &[]).map(|_| ())
    }

    /// The whole export.
    pub(crate) fn read_all(&mut self) -> Vec<u8> {
        const STEP: u64 = 1 << 20;
        let size = self.remote.size;
        let steps = (0..size.div_ceil(STEP)).map(|i| (i * STEP, STEP.min(size - i * STEP)));
        steps.flat_map(|(at, len)| self.read(at, len as usize).unwrap()).collect()
    }

    fn ask(&mut self, command: Command, offset: u64, len: u32, data: &[u8]) -> Result<Vec<u8>, Trouble> {
        self.cookie += 1;
        let request = Request::new(command, self.cookie, offset, u64::from(len));
        let headers = self.remote.headers;
        self.stream.write_all(request.header(headers).encode(headers).as_bytes())?;
        self.stream.write_all(data)?;
        let mut got = Vec::new();
        loop {
            let reply = self.reply()?;
            assert_eq!(reply.cookie, self.cookie);
            match reply.body {
                ReplyBody::Simple(Some(errno)) | ReplyBody::Error { errno, .. } => {
                    return Err(Trouble::Refused(errno));
                }
                ReplyBody::Data { len, .. } => got.extend(self.take(len as usize)?),
                _ => {}
            }
            if reply.done {
                return Ok(got);
            }
        }
    }

    fn reply(&mut self) -> io::Result<Reply> {
        loop {
            if let Some((reply, taken)) = decode(&self.input, self.remote.headers).unwrap() {
                self.input.drain(..taken);
                return Ok(reply);
            }
            receive(&mut *self.stream, &mut self.input)?;
        }
    }

    fn take(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < len {
            receive(&mut *self.stream, &mut self.input)?;
        }
        Ok(self.input.drain(..len).collect())
    }
}

fn receive(stream: &mut dyn Stream, input: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = vec![0; 1 << 16];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            input.extend_from_slice(&piece[..n]);
            Ok(())
        }
    }
}
