//! From the server's greeting to transmission on one export.
//!
//! ```text
//! Greeting -> [STRUCTURED_REPLY] -> [SET_META_CONTEXT] -> GO --ACK--> Finished
//!                                                         |  any other error: ABORT, Finished (refused)
//!                                                         +--ERR_UNSUP--> EXPORT_NAME -> Finished
//! ```
//!
//! Options in brackets are sent if the caller wants them; a server that refuses them costs the feature, not
//! the connection. One option is in flight at a time, as the protocol demands. Memory is bounded by
//! [`limit::OPTION_DATA`], and by [`REPLIES_MAX`] replies to one option.

use crate::codec::{Output, Partial, Reader};
use crate::error::{ApiMisuse, ServerMisbehaved};
use crate::export::BlockSizes;
use crate::session::Context;
use crate::text;
use crate::wire::{
    EXPORT_NAME_PADDING, EXPORT_NAME_REPLY_LEN, GREETING_LEN, INIT_PASSWD, OLDSTYLE_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_HEADER_LEN, OPTION_REPLY_MAGIC, client_flag, handshake_flag, info, limit, opt, rep,
};
use thiserror::Error;

/// Most replies that one option may have.
const REPLIES_MAX: u32 = 1024;

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Name of the export; empty for the server's default.
    pub export: String,
    /// Ask for structured replies.
    pub structured: bool,
    /// Ask for `base:allocation`; needs `structured`.
    pub base_allocation: bool,
}

/// What the client learned when the handshake went well.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remote {
    /// Size of the export in bytes.
    pub size: u64,
    /// [`crate::wire::transmission_flag`] bits.
    pub flags: u16,
    /// The block sizes, if the server named lawful ones; else the protocol's defaults hold.
    pub block: Option<BlockSizes>,
    /// The server answers reads in structured replies.
    pub structured: bool,
    /// Id under which the server reports `base:allocation`, if it was selected.
    pub base_allocation: Option<u32>,
    /// The server's text about the export, sanitised; empty if it sent none.
    pub description: String,
}

/// Why a client's handshake failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HandshakeError {
    /// The server does not give the export. An `ABORT` is pending output; send it and close.
    #[error("server refused the export (reply {reply:#x}): {message}")]
    Refused {
        /// The [`rep`] error.
        reply: u32,
        /// The server's text, sanitised.
        message: String,
    },
    /// The server broke the protocol: close.
    #[error(transparent)]
    Server(#[from] ServerMisbehaved),
}

/// What [`ClientHandshake::feed`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct ClientFed {
    /// Bytes of the input that were taken.
    pub consumed: usize,
    /// Set once both sides are in transmission.
    pub remote: Option<Remote>,
}

/// The client's half of one handshake.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    wanted: Wanted,
    remote: Remote,
    saw_export: bool,
    no_zeroes: bool,
    asked: u32,
    replies: u32,
    output: Output,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Greeting(Partial<GREETING_LEN>),
    ReplyHeader(Partial<OPTION_REPLY_HEADER_LEN>),
    ReplyData { kind: u32, missing: usize, data: Vec<u8> },
    ExportName(Partial<EXPORT_NAME_REPLY_LEN>),
    Padding(Partial<EXPORT_NAME_PADDING>),
    Ready,
    Failed(HandshakeError),
}

type Step = Result<State, HandshakeError>;

impl ClientHandshake {
    /// A handshake for one export.
    ///
    /// # Errors
    /// [`ApiMisuse::BadString`] for a name that the protocol cannot carry.
    pub fn new(wanted: Wanted) -> Result<Self, ApiMisuse> {
        if text::parse(wanted.export.as_bytes()).is_err() {
            return Err(ApiMisuse::BadString { what: "name", len: wanted.export.len() });
        }
        Ok(ClientHandshake {
            wanted,
            remote: Remote::default(),
            saw_export: false,
            no_zeroes: false,
            asked: 0,
            replies: 0,
            output: Output::default(),
            state: State::Greeting(Partial::new()),
        })
    }

    /// Bytes to send.
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// The first `n` bytes of [`Self::output`] were sent.
    pub fn output_sent(&mut self, n: usize) {
        self.output.advance(n);
    }

    /// Takes bytes from the server, up to the end of the handshake.
    ///
    /// # Errors
    /// The handshake failed; every later call says so again.
    pub fn feed(&mut self, input: &[u8]) -> Result<ClientFed, HandshakeError> {
        let mut rest = input;
        while let Some(step) = self.step(&mut rest) {
            self.state = step.unwrap_or_else(State::Failed);
        }
        let remote = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::Ready => Some(self.remote.clone()),
            _ => None,
        };
        Ok(ClientFed { consumed: input.len() - rest.len(), remote })
    }

    fn step(&mut self, input: &mut &[u8]) -> Option<Step> {
        match &mut self.state {
            State::Greeting(partial) => {
                let bytes = partial.fill(input)?;
                Some(self.greeting(&bytes))
            }
            State::ReplyHeader(partial) => {
                let bytes = partial.fill(input)?;
                Some(self.reply_header(&bytes))
            }
            State::ReplyData { kind, missing, data } => {
                let (piece, tail) = input.split_at((*missing).min(input.len()));
                data.extend_from_slice(piece);
                *missing -= piece.len();
                *input = tail;
                if *missing > 0 {
                    return None;
                }
                let (kind, data) = (*kind, std::mem::take(data));
                Some(self.reply(kind, &data))
            }
            State::ExportName(partial) => {
                let bytes = partial.fill(input)?;
                Some(Ok(self.export_name(&bytes)))
            }
            State::Padding(partial) => partial.fill(input).map(|_| Ok(State::Ready)),
            State::Ready | State::Failed(_) => None,
        }
    }

    fn greeting(&mut self, bytes: &[u8]) -> Step {
        let mut reader = Reader::new(bytes);
        if reader.u64() != Some(INIT_PASSWD) {
            return Err(ServerMisbehaved::NotNbd.into());
        }
        match reader.u64() {
            Some(OPTION_MAGIC) => {}
            Some(OLDSTYLE_MAGIC) => return Err(ServerMisbehaved::TooOld("oldstyle").into()),
            _ => return Err(ServerMisbehaved::NotNbd.into()),
        }
        let flags = reader.u16().unwrap_or_default();
        if flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(ServerMisbehaved::TooOld("plain newstyle").into());
        }
        self.no_zeroes = flags & handshake_flag::NO_ZEROES != 0;
        let no_zeroes = if self.no_zeroes { client_flag::NO_ZEROES } else { 0 };
        self.output.put_u32(client_flag::FIXED_NEWSTYLE | no_zeroes);
        Ok(if self.wanted.structured { self.ask(opt::STRUCTURED_REPLY, &[]) } else { self.ask_export() })
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> State {
        self.asked = option;
        self.replies = 0;
        self.output.put_u64(OPTION_MAGIC);
        self.output.put_u32(option);
        // Option data is a name of at most 4096 bytes and a few integers.
        self.output.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        self.output.put(data);
        State::ReplyHeader(Partial::new())
    }

    fn ask_export(&mut self) -> State {
        let mut data = prefixed(self.wanted.export.as_bytes());
        let asked = [info::BLOCK_SIZE, info::DESCRIPTION];
        data.extend_from_slice(&2u16.to_be_bytes());
        data.extend(asked.iter().flat_map(|kind| kind.to_be_bytes()));
        self.ask(opt::GO, &data)
    }

    fn ask_contexts(&mut self) -> State {
        let mut data = prefixed(self.wanted.export.as_bytes());
        data.extend_from_slice(&1u32.to_be_bytes());
        data.extend(prefixed(Context::BaseAllocation.name().as_bytes()));
        self.ask(opt::SET_META_CONTEXT, &data)
    }

    fn reply_header(&mut self, bytes: &[u8]) -> Step {
        let mut reader = Reader::new(bytes);
        let magic = reader.u64().unwrap_or_default();
        let option = reader.u32().unwrap_or_default();
        let kind = reader.u32().unwrap_or_default();
        let len = reader.u32().unwrap_or_default();
        if magic != OPTION_REPLY_MAGIC {
            return Err(ServerMisbehaved::OptionReplyMagic(magic).into());
        }
        if option != self.asked {
            return Err(ServerMisbehaved::WrongOption { asked: self.asked, got: option }.into());
        }
        self.replies = self.replies.saturating_add(1);
        if self.replies > REPLIES_MAX {
            return Err(self.unexpected(kind));
        }
        match usize::try_from(len) {
            Ok(missing) if len <= limit::OPTION_DATA => {
                Ok(State::ReplyData { kind, missing, data: Vec::new() })
            }
            _ => Err(ServerMisbehaved::MalformedReply { option, len, what: "too long" }.into()),
        }
    }

    fn reply(&mut self, kind: u32, data: &[u8]) -> Step {
        let failed = kind & rep::ERR_BIT != 0;
        match (self.asked, kind) {
            (opt::STRUCTURED_REPLY, rep::ACK) => {
                self.remote.structured = true;
                let next = self.wanted.base_allocation;
                Ok(if next { self.ask_contexts() } else { self.ask_export() })
            }
            (opt::SET_META_CONTEXT, rep::META_CONTEXT) => self.context(data),
            (opt::SET_META_CONTEXT, rep::ACK) => Ok(self.ask_export()),
            (opt::STRUCTURED_REPLY | opt::SET_META_CONTEXT, _) if failed => {
                self.remote.base_allocation = None;
                Ok(self.ask_export())
            }
            (opt::GO, rep::INFO) => self.information(data),
            (opt::GO, rep::ACK) if self.saw_export => Ok(State::Ready),
            (opt::GO, rep::ACK) => Err(self.malformed(data, "the export was not described")),
            (opt::GO, rep::ERR_UNSUP) => {
                let name = self.wanted.export.clone();
                self.ask(opt::EXPORT_NAME, name.as_bytes());
                Ok(State::ExportName(Partial::new()))
            }
            (opt::GO, reply) if failed => {
                self.ask(opt::ABORT, &[]);
                let message = text::sanitise_bytes(data, limit::STRING);
                Err(HandshakeError::Refused { reply, message })
            }
            _ => Err(self.unexpected(kind)),
        }
    }

    fn context(&mut self, data: &[u8]) -> Step {
        let mut reader = Reader::new(data);
        let Some(id) = reader.u32() else { return Err(self.malformed(data, "a context without id")) };
        if reader.take_rest() == Context::BaseAllocation.name().as_bytes() {
            self.remote.base_allocation = Some(id);
        }
        Ok(State::ReplyHeader(Partial::new()))
    }

    /// Information of unknown types is ignored, as the protocol asks.
    fn information(&mut self, data: &[u8]) -> Step {
        let mut reader = Reader::new(data);
        let known = match reader.u16() {
            Some(info::EXPORT) => match (reader.u64(), reader.u16(), reader.remaining()) {
                (Some(size), Some(flags), 0) => {
                    (self.remote.size, self.remote.flags, self.saw_export) = (size, flags, true);
                    Some(())
                }
                _ => None,
            },
            Some(info::BLOCK_SIZE) => match (reader.u32(), reader.u32(), reader.u32(), reader.remaining()) {
                (Some(minimum), Some(preferred), Some(max), 0) => {
                    self.remote.block = BlockSizes::new(minimum, preferred, max).ok();
                    Some(())
                }
                _ => None,
            },
            Some(info::DESCRIPTION) => {
                self.remote.description = text::sanitise_bytes(reader.take_rest(), limit::STRING);
                Some(())
            }
            other => other.map(|_| ()),
        };
        match known {
            Some(()) => Ok(State::ReplyHeader(Partial::new())),
            None => Err(self.malformed(data, "information of a wrong length")),
        }
    }

    fn export_name(&mut self, bytes: &[u8]) -> State {
        let mut reader = Reader::new(bytes);
        self.remote.size = reader.u64().unwrap_or_default();
        self.remote.flags = reader.u16().unwrap_or_default();
        if self.no_zeroes { State::Ready } else { State::Padding(Partial::new()) }
    }

    fn unexpected(&self, reply: u32) -> HandshakeError {
        ServerMisbehaved::UnexpectedReply { option: self.asked, reply }.into()
    }

    fn malformed(&self, data: &[u8], what: &'static str) -> HandshakeError {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        ServerMisbehaved::MalformedReply { option: self.asked, len, what }.into()
    }
}

/// A string with its length in front.
fn prefixed(string: &[u8]) -> Vec<u8> {
    let len = u32::try_from(string.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend_from_slice(string);
    bytes
}
