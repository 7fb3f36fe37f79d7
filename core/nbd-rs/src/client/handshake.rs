//! From the server's greeting to transmission on one export, or to what was asked about exports.
//!
//! ```text
//! Greeting -> [STARTTLS] -> [EXTENDED_HEADERS] -> [STRUCTURED_REPLY] -> [SET_META_CONTEXT] -> goal
//!
//! goal: GO ----ACK--> Ready            INFO, LIST, LIST_META_CONTEXT --ACK--> Answered, ABORT
//!        |--ERR_UNSUP--> EXPORT_NAME --> Ready        any other error: Failed (refused), ABORT
//! ```
//!
//! Options in brackets are sent if the caller wants them; a server that refuses them costs the feature, not
//! the connection, but for TLS that is required. Structured replies are asked for where extended headers
//! were refused. One option is in flight at a time, as the protocol demands. Memory is bounded by
//! [`limit::OPTION_DATA`], and by [`REPLIES_MAX`] replies to one option.

use crate::codec::{Output, Partial, Reader};
use crate::error::{ApiMisuse, ServerMisbehaved};
use crate::export::BlockSizes;
use crate::session::Headers;
use crate::text;
use crate::wire::{
    EXPORT_NAME_PADDING, EXPORT_NAME_REPLY_LEN, GREETING_LEN, INIT_PASSWD, OLDSTYLE_MAGIC, OPTION_MAGIC,
    OPTION_REPLY_HEADER_LEN, OPTION_REPLY_MAGIC, client_flag, handshake_flag, info, limit, opt, rep,
};
use thiserror::Error;

/// Most replies that one option may have.
const REPLIES_MAX: u32 = 1024;

/// Whether the client secures the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WantTls {
    /// It stays in the clear.
    #[default]
    Never,
    /// It starts TLS if the server has it. Whoever sits between the two can keep them from it.
    IfOffered,
    /// It starts TLS or leaves.
    Required,
}

/// What the client comes for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Goal {
    /// Transmission on the export: [`ClientOutcome::Transmission`].
    #[default]
    Go,
    /// What `GO` would say, without going: [`ClientOutcome::Described`].
    Describe,
    /// The names of all exports: [`ClientOutcome::Exports`].
    List,
    /// The metadata contexts of the export, those that [`Wanted::contexts`] match (`namespace:` matches all
    /// in it), or all: [`ClientOutcome::Contexts`]. Needs chunks.
    ListContexts,
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// What it comes for.
    pub goal: Goal,
    /// Name of the export; empty for the server's default.
    pub export: String,
    /// Whether to start TLS.
    pub tls: WantTls,
    /// The form of messages to ask for; the server may leave it at less.
    pub headers: Headers,
    /// Metadata contexts to select; needs chunks.
    pub contexts: Vec<String>,
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
    /// The form of messages that was agreed on.
    pub headers: Headers,
    /// The metadata contexts that were selected.
    pub contexts: Vec<RemoteContext>,
    /// The export's own name, sanitised; empty if the server did not say.
    pub name: String,
    /// The server's text about the export, sanitised; empty if it sent none.
    pub description: String,
}

/// A metadata context that the server selected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemoteContext {
    /// Its name, sanitised.
    pub name: String,
    /// The id under which the server reports it.
    pub id: u32,
}

/// An export in a server's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name, sanitised.
    pub name: String,
    /// The server's text about it, sanitised; empty if it sent none.
    pub description: String,
}

/// Why a client's handshake failed.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum HandshakeError {
    /// The server does not give what was asked for. An `ABORT` is pending output; send it and close.
    #[error("server refused option {option} (reply {reply:#x}): {message}")]
    Refused {
        /// The [`opt`] number that was refused: one of the goal, or `STARTTLS` where it was required.
        option: u32,
        /// The [`rep`] error.
        reply: u32,
        /// The server's text, sanitised.
        message: String,
    },
    /// The contexts of an export can be listed by a server that answers in chunks only, and this one does
    /// not, or was not asked to. An `ABORT` is pending output; send it and close.
    #[error("server has neither structured replies nor extended headers, and so no metadata contexts")]
    NoChunks,
    /// The server broke the protocol: close.
    #[error(transparent)]
    Server(#[from] ServerMisbehaved),
}

/// How a client's handshake ended, or what it needs to go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientOutcome {
    /// Both sides start TLS. Throw away all input that was not consumed, because anybody may have put it
    /// there; carry out the TLS handshake; then call [`ClientHandshake::tls_started`] and go on with what
    /// comes out of TLS.
    StartTls,
    /// Both sides are in transmission: [`crate::ClientSession`].
    Transmission(Remote),
    /// The answer to [`Goal::Describe`]. An `ABORT` is pending output; send it and close.
    Described(Remote),
    /// The answer to [`Goal::List`]. An `ABORT` is pending output; send it and close.
    Exports(Vec<Listed>),
    /// The answer to [`Goal::ListContexts`], names sanitised. An `ABORT` is pending output; send it and close.
    Contexts(Vec<String>),
}

impl ClientOutcome {
    /// What was learned of the export, if it is transmission that the handshake led to.
    pub fn remote(&self) -> Option<&Remote> {
        match self {
            ClientOutcome::Transmission(remote) => Some(remote),
            _ => None,
        }
    }
}

/// What [`ClientHandshake::feed`] did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct ClientFed {
    /// Bytes of the input that were taken.
    pub consumed: usize,
    /// Set once the handshake is over or waits for TLS.
    pub outcome: Option<ClientOutcome>,
}

/// The client's half of one handshake.
#[derive(Clone, Debug)]
pub struct ClientHandshake {
    wanted: Wanted,
    remote: Remote,
    exports: Vec<Listed>,
    contexts: Vec<String>,
    saw_export: bool,
    secure: bool,
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
    StartTls,
    Ready,
    Answered,
    Failed(HandshakeError),
}

/// The options in the order in which they are asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Tls,
    Extended,
    Structured,
    Contexts,
    Goal,
}

type Step = Result<State, HandshakeError>;

impl ClientHandshake {
    /// A handshake for one export, or for what is known of exports.
    ///
    /// # Errors
    /// [`ApiMisuse::BadString`] for a name that the protocol cannot carry, [`ApiMisuse::Context`] for a
    /// context that it cannot, or for so many that they do not fit into one option.
    pub fn new(wanted: Wanted) -> Result<Self, ApiMisuse> {
        if text::parse(wanted.export.as_bytes()).is_err() {
            return Err(ApiMisuse::BadString { what: "name", len: wanted.export.len() });
        }
        let mut room = limit::OPTION_DATA as usize - limit::STRING - 8;
        for name in &wanted.contexts {
            let bad = || ApiMisuse::Context(text::sanitise(name, 80));
            text::parse(name.as_bytes()).map_err(|_| bad())?;
            room = room.checked_sub(name.len() + 4).ok_or_else(bad)?;
        }
        Ok(ClientHandshake {
            wanted,
            remote: Remote::default(),
            exports: Vec::new(),
            contexts: Vec::new(),
            saw_export: false,
            secure: false,
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
        let outcome = match &self.state {
            State::Failed(error) => return Err(error.clone()),
            State::StartTls => Some(ClientOutcome::StartTls),
            State::Ready => Some(ClientOutcome::Transmission(self.remote.clone())),
            State::Answered => Some(match self.wanted.goal {
                Goal::Go | Goal::Describe => ClientOutcome::Described(self.remote.clone()),
                Goal::List => ClientOutcome::Exports(self.exports.clone()),
                Goal::ListContexts => ClientOutcome::Contexts(self.contexts.clone()),
            }),
            _ => None,
        };
        Ok(ClientFed { consumed: input.len() - rest.len(), outcome })
    }

    /// The connection is secured from here on; the next option is pending output. Does nothing unless
    /// [`ClientOutcome::StartTls`] came last.
    pub fn tls_started(&mut self) {
        if matches!(self.state, State::StartTls) {
            self.secure = true;
            self.state = self.ask_from(Stage::Extended).unwrap_or_else(State::Failed);
        }
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
            State::StartTls | State::Ready | State::Answered | State::Failed(_) => None,
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
        self.ask_from(Stage::Tls)
    }

    /// Asks the first option from this stage on that is wanted and makes sense.
    fn ask_from(&mut self, stage: Stage) -> Step {
        let (goal, wanted) = (self.wanted.goal, self.wanted.headers);
        let of_export = matches!(goal, Goal::Go | Goal::Describe);
        if stage <= Stage::Tls && self.wanted.tls != WantTls::Never {
            return Ok(self.ask(opt::STARTTLS, &[]));
        }
        if stage <= Stage::Extended && wanted.is_extended() {
            return Ok(self.ask(opt::EXTENDED_HEADERS, &[]));
        }
        if stage <= Stage::Structured && wanted.has_chunks() && !self.remote.headers.has_chunks() {
            return Ok(self.ask(opt::STRUCTURED_REPLY, &[]));
        }
        let selects = of_export && self.remote.headers.has_chunks() && !self.wanted.contexts.is_empty();
        if stage <= Stage::Contexts && selects {
            let data = self.context_data();
            return Ok(self.ask(opt::SET_META_CONTEXT, &data));
        }
        match goal {
            Goal::Go => {
                let data = self.info_data();
                Ok(self.ask(opt::GO, &data))
            }
            Goal::Describe => {
                let data = self.info_data();
                Ok(self.ask(opt::INFO, &data))
            }
            Goal::List => Ok(self.ask(opt::LIST, &[])),
            Goal::ListContexts if self.remote.headers.has_chunks() => {
                let data = self.context_data();
                Ok(self.ask(opt::LIST_META_CONTEXT, &data))
            }
            Goal::ListContexts => {
                self.ask(opt::ABORT, &[]);
                Err(HandshakeError::NoChunks)
            }
        }
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> State {
        self.asked = option;
        self.replies = 0;
        self.output.put_u64(OPTION_MAGIC);
        self.output.put_u32(option);
        // `new` has made sure that names and contexts fit into one option.
        self.output.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        self.output.put(data);
        State::ReplyHeader(Partial::new())
    }

    fn info_data(&self) -> Vec<u8> {
        let mut data = prefixed(self.wanted.export.as_bytes());
        let asked = [info::NAME, info::BLOCK_SIZE, info::DESCRIPTION];
        data.extend_from_slice(&3u16.to_be_bytes());
        data.extend(asked.iter().flat_map(|kind| kind.to_be_bytes()));
        data
    }

    fn context_data(&self) -> Vec<u8> {
        let mut data = prefixed(self.wanted.export.as_bytes());
        let count = u32::try_from(self.wanted.contexts.len()).unwrap_or(u32::MAX);
        data.extend_from_slice(&count.to_be_bytes());
        data.extend(self.wanted.contexts.iter().flat_map(|name| prefixed(name.as_bytes())));
        data
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
            (opt::STARTTLS, rep::ACK) => Ok(State::StartTls),
            (opt::STARTTLS, _) if failed && self.wanted.tls == WantTls::IfOffered => {
                self.ask_from(Stage::Extended)
            }
            (opt::EXTENDED_HEADERS, rep::ACK) => {
                self.remote.headers = Headers::Extended;
                self.ask_from(Stage::Contexts)
            }
            (opt::EXTENDED_HEADERS, _) if failed => self.ask_from(Stage::Structured),
            (opt::STRUCTURED_REPLY, rep::ACK) => {
                self.remote.headers = Headers::Structured;
                self.ask_from(Stage::Contexts)
            }
            (opt::STRUCTURED_REPLY, _) if failed => self.ask_from(Stage::Contexts),
            (opt::SET_META_CONTEXT | opt::LIST_META_CONTEXT, rep::META_CONTEXT) => self.context(data),
            (opt::SET_META_CONTEXT, rep::ACK) => self.ask_from(Stage::Goal),
            (opt::SET_META_CONTEXT, _) if failed => {
                self.remote.contexts.clear();
                self.ask_from(Stage::Goal)
            }
            (opt::LIST, rep::SERVER) => self.listed(data),
            (opt::LIST | opt::LIST_META_CONTEXT, rep::ACK) => Ok(self.leave()),
            (opt::GO | opt::INFO, rep::INFO) => self.information(data),
            (opt::GO | opt::INFO, rep::ACK) if !self.saw_export => {
                Err(self.malformed(data, "the export was not described"))
            }
            (opt::GO, rep::ACK) => Ok(State::Ready),
            (opt::INFO, rep::ACK) => Ok(self.leave()),
            // With extended headers there must be GO, and EXPORT_NAME must not be used.
            (opt::GO, rep::ERR_UNSUP) if !self.remote.headers.is_extended() => {
                let name = self.wanted.export.clone();
                self.ask(opt::EXPORT_NAME, name.as_bytes());
                Ok(State::ExportName(Partial::new()))
            }
            (option, reply) if failed => {
                self.ask(opt::ABORT, &[]);
                let message = text::sanitise_bytes(data, limit::STRING);
                Err(HandshakeError::Refused { option, reply, message })
            }
            _ => Err(self.unexpected(kind)),
        }
    }

    /// The answer is there: nothing more is wanted.
    fn leave(&mut self) -> State {
        self.ask(opt::ABORT, &[]);
        State::Answered
    }

    fn context(&mut self, data: &[u8]) -> Step {
        let mut reader = Reader::new(data);
        let Some(id) = reader.u32() else { return Err(self.malformed(data, "a context without id")) };
        let name = text::sanitise_bytes(reader.take_rest(), limit::STRING);
        if self.asked == opt::LIST_META_CONTEXT {
            self.contexts.push(name);
        } else if self.remote.contexts.iter().any(|known| known.id == id) {
            return Err(self.malformed(data, "two contexts with one id"));
        } else {
            self.remote.contexts.push(RemoteContext { name, id });
        }
        Ok(State::ReplyHeader(Partial::new()))
    }

    fn listed(&mut self, data: &[u8]) -> Step {
        let mut reader = Reader::new(data);
        let len = reader.u32().and_then(|len| usize::try_from(len).ok());
        let Some(name) = len.and_then(|len| reader.take(len)) else {
            return Err(self.malformed(data, "a name that is longer than its reply"));
        };
        self.exports.push(Listed {
            name: text::sanitise_bytes(name, limit::STRING),
            description: text::sanitise_bytes(reader.take_rest(), limit::STRING),
        });
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
            Some(info::NAME) => {
                self.remote.name = text::sanitise_bytes(reader.take_rest(), limit::STRING);
                Some(())
            }
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
