//! One thread a socket: requests in, simple replies out, one after the other.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use nbd_rs::RequestHeader;
use nbd_rs::wire::{REQUEST_LEN, REQUEST_MAGIC, SIMPLE_REPLY_MAGIC, cmd, errno};
use nix::sys::socket::{Shutdown, shutdown};

use crate::memory::Memory;

pub(crate) struct Connection {
    pub socket: OwnedFd,
    thread: JoinHandle<()>,
}

impl Connection {
    pub(crate) fn serve(socket: OwnedFd, memory: &Arc<Memory>) -> Result<Self> {
        let (stream, memory) = (File::from(socket.try_clone()?), Arc::clone(memory));
        let thread = std::thread::Builder::new().name("serve".to_owned()).spawn(move || {
            match run(&stream, &memory) {
                Ok(()) => {}
                // That is how a socket that was shut down in mid-request looks.
                Err(error) => eprintln!("a connection ended: {error:#}"),
            }
            // The kernel waits for the end of what it told to disconnect.
            let _ = shutdown(stream.as_raw_fd(), Shutdown::Both);
        })?;
        Ok(Connection { socket, thread })
    }

    /// Returns when what it had begun has ended.
    pub(crate) fn join(self) {
        let _ = self.thread.join();
    }
}

fn run(mut stream: &File, memory: &Memory) -> Result<()> {
    loop {
        let mut header = [0; REQUEST_LEN];
        match stream.read_exact(&mut header) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            other => other.context("reading a request")?,
        }
        let header = RequestHeader::decode(&header);
        if header.magic != REQUEST_MAGIC {
            bail!("no request: {header:?}");
        }
        let len = usize::try_from(header.len)?;
        let mut payload = Vec::new();
        if header.command == cmd::WRITE {
            payload.resize(len, 0);
            stream.read_exact(&mut payload).context("reading what is to be written")?;
        }
        if header.command == cmd::DISC {
            memory.count("disconnects");
            return Ok(());
        }
        memory.wait_while_held();
        let errno = execute(memory, &header, len, &mut payload);
        let mut reply = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        reply.extend(errno.to_be_bytes());
        reply.extend(header.cookie.to_be_bytes());
        if header.command == cmd::READ && errno == 0 {
            reply.append(&mut payload);
        }
        stream.write_all(&reply).context("sending a reply")?;
    }
}

/// Leaves what was read in `payload`.
fn execute(memory: &Memory, header: &RequestHeader, len: usize, payload: &mut Vec<u8>) -> u32 {
    let done = match header.command {
        cmd::READ => {
            memory.count("reads");
            payload.resize(len, 0);
            memory.read(header.offset, payload)
        }
        cmd::WRITE => {
            memory.count("writes");
            memory.count_longest("longest_write_kib", header.len >> 10);
            memory.write(header.offset, payload)
        }
        cmd::FLUSH => {
            memory.count("flushes");
            true
        }
        cmd::TRIM => {
            memory.count("trims");
            memory.fill(header.offset, len, 0xdd)
        }
        cmd::WRITE_ZEROES => {
            memory.count("zeroes");
            memory.fill(header.offset, len, 0)
        }
        _ => false,
    };
    if done { 0 } else { errno::EINVAL }
}
