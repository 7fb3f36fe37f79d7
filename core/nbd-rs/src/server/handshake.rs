//! From the greeting to the chosen export.
//!
//! ```text
//!              4 bytes                16 bytes
//! ClientFlags ---------> OptionHeader ---------> OptionData --+--> Finished(Transmission)
//!      |                   |   ^                     |        |      EXPORT_NAME, GO
//!      | unknown flag      |   +---------------------+        +--> Finished(Close)
//!      v                   v      any other option                   ABORT, unknown EXPORT_NAME
//!   Finished(Close)     Finished(Close): bad magic, too long, too many
//! ```
//!
//! `STARTTLS`, where it is offered, leads out of `OptionData` to `StartTls`, which takes no input, and
//! [`ServerHandshake::tls_started`] back to `OptionHeader`.
//!
//! Promises: the outcome depends on the bytes and not on how they were cut; an option is parsed only when
//! all its data is there, from a slice of exactly that data, so a malformed one cannot lose the place in
//! the stream; memory grows with bytes that arrived, never with a length that was announced, and stays
//! below 64 KiB plus the answer to one option. Left to the transport: deadlines, and closing.

use super::option::{self, Agreement, Next};
use crate::codec::{Output, Partial, Reader};
use crate::error::ClientMisbehaved;
use crate::export::ExportInfo;
use crate::session::Negotiated;
use crate::wire::{
    CLIENT_FLAGS_LEN, INIT_PASSWD, OPTION_HEADER_LEN, OPTION_MAGIC, client_flag, handshake_flag, limit, opt,
};
use std::sync::Arc;

/// What becomes of a client that asks for TLS, and of one that does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsPolicy {
    /// The transport has no TLS: `STARTTLS` is unsupported.
    #[default]
    Unsupported,
    /// The transport has TLS and the operator did not set it up: `STARTTLS` is refused by policy.
    Refused,
    /// Clients choose.
    Offered,
    /// Nothing but `STARTTLS` and `ABORT` is served before TLS.
    Required,
}

/// What the operator decides about the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// Clients may ask for the names of all exports; otherwise they must know one.
    pub list: bool,
    /// Whether the connection can, or must, be secured.
    pub tls: TlsPolicy,
}

impl Default for ServerConfig {
    /// Exports are listed and there is no TLS.
    fn default() -> Self {
        ServerConfig { list: true, tls: TlsPolicy::Unsupported }
    }
}

/// How a handshake ended, or what it needs to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Both sides are in transmission. Input that was not consumed is the first requests.
    Transmission(Negotiated),
    /// The client starts TLS. Send the pending output, which is the last in the clear; throw away all input
    /// that was not consumed, and whatever else is received before the TLS handshake, because anybody may
    /// have put it there; carry out the TLS handshake; then call [`ServerHandshake::tls_started`] and go on
    /// with the bytes that come out of TLS. Never comes unless [`TlsPolicy`] offers or requires it.
    StartTls,
    /// The connection is to be closed, once the pending output was sent.
    Close(Close),
}

/// Why a handshake ended without a transmission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// The client said that it leaves.
    Aborted,
    /// `EXPORT_NAME` named an export that does not exist; the protocol has no way to say so.
    UnknownExport,
    /// `EXPORT_NAME` in the clear where TLS is required; the protocol has no way to say so.
    TlsRequired,
    /// The client broke the protocol or a limit.
    Misbehaved(ClientMisbehaved),
}

/// What [`ServerHandshake::feed`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Fed {
    /// Bytes of the input that were taken. The others are to be offered again, or belong to the
    /// transmission.
    pub consumed: usize,
    /// Set once the handshake is over or waits for TLS. The pending output still has to be sent.
    pub outcome: Option<Outcome>,
}

/// The server's half of one handshake.
#[derive(Clone, Debug)]
pub struct ServerHandshake {
    exports: Arc<[ExportInfo]>,
    config: ServerConfig,
    agreed: Agreement,
    /// TLS was started.
    secure: bool,
    options: u32,
    output: Output,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    ClientFlags(Partial<CLIENT_FLAGS_LEN>),
    OptionHeader(Partial<OPTION_HEADER_LEN>),
    OptionData(OptionData),
    StartTls,
    Finished(Outcome),
}

/// The data of one option on its way in. Data that no answer depends on is counted and not kept.
#[derive(Clone, Debug)]
struct OptionData {
    option: u32,
    len: u32,
    missing: usize,
    kept: Option<Vec<u8>>,
}

impl ServerHandshake {
    /// A handshake that offers `exports`; the first one is also the default export, which clients choose
    /// with an empty name. Names should differ: the first match wins. The greeting is pending output.
    pub fn new(exports: Arc<[ExportInfo]>, config: ServerConfig) -> Self {
        let mut output = Output::default();
        output.put_u64(INIT_PASSWD);
        output.put_u64(OPTION_MAGIC);
        output.put_u16(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        ServerHandshake {
            exports,
            config,
            agreed: Agreement::default(),
            secure: false,
            options: 0,
            output,
            state: State::ClientFlags(Partial::new()),
        }
    }

    /// Bytes to send. While there are any, [`Self::feed`] takes no input: a client that does not read
    /// its answers cannot pile them up here.
    pub fn output(&self) -> &[u8] {
        self.output.pending()
    }

    /// The first `n` bytes of [`Self::output`] were sent.
    pub fn output_sent(&mut self, n: usize) {
        self.output.advance(n);
    }

    /// Takes bytes from the client, up to and with the first message that is answered.
    pub fn feed(&mut self, input: &[u8]) -> Fed {
        let mut rest = input;
        while self.output.pending().is_empty() && self.step(&mut rest) {}
        let outcome = match self.state {
            State::Finished(outcome) => Some(outcome),
            State::StartTls => Some(Outcome::StartTls),
            _ => None,
        };
        Fed { consumed: input.len() - rest.len(), outcome }
    }

    /// The connection is secured from here on. All that was agreed in the clear is forgotten, but for the
    /// flags that the client sent and the number of its options. Does nothing unless
    /// [`Outcome::StartTls`] came last.
    pub fn tls_started(&mut self) {
        if matches!(self.state, State::StartTls) {
            self.agreed = self.agreed.without_options();
            self.secure = true;
            self.state = State::OptionHeader(Partial::new());
        }
    }

    /// Whether the handshake goes on inside TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// One message, if it is complete; whether there was one.
    fn step(&mut self, input: &mut &[u8]) -> bool {
        let next = match &mut self.state {
            State::ClientFlags(partial) => partial.fill(input).map(|bytes| self.client_flags(&bytes)),
            State::OptionHeader(partial) => partial.fill(input).map(|bytes| self.option_header(&bytes)),
            State::OptionData(data) => match data.fill(input) {
                true => {
                    let (option, len, kept) = (data.option, data.len, data.kept.take());
                    Some(self.option_data(option, len, &kept.unwrap_or_default()))
                }
                false => None,
            },
            State::StartTls | State::Finished(_) => None,
        };
        match next {
            Some(state) => {
                self.state = state;
                true
            }
            None => false,
        }
    }

    fn client_flags(&mut self, bytes: &[u8]) -> State {
        let flags = Reader::new(bytes).u32().unwrap_or_default();
        if flags & !client_flag::KNOWN != 0 {
            return misbehaved(ClientMisbehaved::ClientFlags(flags));
        }
        // A client without FIXED_NEWSTYLE may send EXPORT_NAME only. The protocol lets a server answer its
        // other options all the same, which is kinder than hanging up.
        self.agreed.no_zeroes = flags & client_flag::NO_ZEROES != 0;
        State::OptionHeader(Partial::new())
    }

    fn option_header(&mut self, bytes: &[u8]) -> State {
        let mut reader = Reader::new(bytes);
        let magic = reader.u64().unwrap_or_default();
        let option = reader.u32().unwrap_or_default();
        let len = reader.u32().unwrap_or_default();
        if magic != OPTION_MAGIC {
            return misbehaved(ClientMisbehaved::OptionMagic(magic));
        }
        self.options = self.options.saturating_add(1);
        if self.options > limit::OPTIONS {
            return misbehaved(ClientMisbehaved::TooManyOptions);
        }
        match usize::try_from(len) {
            Ok(missing) if len <= limit::OPTION_DATA => {
                let kept = option::needs_data(option).then(Vec::new);
                State::OptionData(OptionData { option, len, missing, kept })
            }
            _ => misbehaved(ClientMisbehaved::OptionTooLarge { option, len }),
        }
    }

    fn option_data(&mut self, option: u32, len: u32, data: &[u8]) -> State {
        if self.config.tls == TlsPolicy::Required && !self.secure {
            match option {
                opt::STARTTLS | opt::ABORT => {}
                opt::EXPORT_NAME => return State::Finished(Outcome::Close(Close::TlsRequired)),
                _ => {
                    option::refuse_in_the_clear(option, &mut self.output);
                    return State::OptionHeader(Partial::new());
                }
            }
        }
        if option == opt::STARTTLS {
            let starts = option::start_tls(len, self.config.tls, self.secure, &mut self.output);
            return if starts { State::StartTls } else { State::OptionHeader(Partial::new()) };
        }
        if option == opt::LIST && !self.config.list {
            option::refuse_list(len, &mut self.output);
            return State::OptionHeader(Partial::new());
        }
        match option::handle(option, len, data, &self.exports, &mut self.agreed, &mut self.output) {
            Next::Option => State::OptionHeader(Partial::new()),
            Next::Transmission(export) => State::Finished(Outcome::Transmission(
                self.agreed.negotiated(export, option == opt::EXPORT_NAME),
            )),
            Next::Close(why) => State::Finished(Outcome::Close(why)),
        }
    }
}

impl OptionData {
    /// Takes what is missing from the front of `input`; whether all is there.
    fn fill(&mut self, input: &mut &[u8]) -> bool {
        let (piece, rest) = input.split_at(self.missing.min(input.len()));
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(piece);
        }
        self.missing -= piece.len();
        *input = rest;
        self.missing == 0
    }
}

fn misbehaved(what: ClientMisbehaved) -> State {
    State::Finished(Outcome::Close(Close::Misbehaved(what)))
}

impl Outcome {
    /// The agreement, if the handshake led to a transmission.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        match self {
            Outcome::Transmission(negotiated) => Some(negotiated),
            Outcome::StartTls | Outcome::Close(_) => None,
        }
    }
}
