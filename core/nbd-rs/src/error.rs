//! What can go wrong, grouped by who is to blame: the client, the server, or the program that uses this
//! crate. [`Errno`] is something else: what a server answers to one request, while the session goes on.

use crate::wire::{errno, limit};
use thiserror::Error;

/// Why a server gives a client up. The only answer is to close the connection; each one harms nobody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ClientMisbehaved {
    /// The answer to the greeting has bits that were not offered.
    #[error("client set the flags {0:#x}, of which only {known:#x} were offered", known = crate::wire::client_flag::KNOWN)]
    ClientFlags(u32),
    /// An option does not start with the option magic: the client is out of step or speaks something else.
    #[error("option starts with {0:#018x} and not with the option magic; is this an NBD client?")]
    OptionMagic(u64),
    /// An option announces more data than [`limit::OPTION_DATA`].
    #[error("option {option} announces {len} bytes of data, more than {max}", max = limit::OPTION_DATA)]
    OptionTooLarge {
        /// The option's number.
        option: u32,
        /// The announced length in bytes.
        len: u32,
    },
    /// More options than [`limit::OPTIONS`].
    #[error("client sent more than {max} options without choosing an export", max = limit::OPTIONS)]
    TooManyOptions,
    /// The name in an `EXPORT_NAME` is too long or no text.
    #[error("export name is longer than {max} bytes, or is not UTF-8 without NUL", max = limit::STRING)]
    ExportName,
    /// A request does not start with the request magic: the client is out of step.
    #[error("request starts with {0:#010x} and not with the request magic; the stream is out of step")]
    RequestMagic(u32),
    /// `EXPORT_NAME` after extended headers were negotiated, which only `GO` can follow.
    #[error("client chose its export by EXPORT_NAME after it had negotiated extended headers")]
    ExportNameExtended,
    /// A request announces more payload than [`limit::PAYLOAD`].
    #[error("request announces {0} bytes of payload, more than {max}", max = limit::PAYLOAD)]
    PayloadTooLarge(u64),
}

/// Why a client gives a server up.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ServerMisbehaved {
    /// The greeting is not NBD's.
    #[error("the peer does not greet as an NBD server")]
    NotNbd,
    /// The server speaks the handshake of before 2011, or newstyle without the fix.
    #[error("the server speaks only {0} negotiation; fixed newstyle is needed")]
    TooOld(&'static str),
    /// An option reply does not start with its magic.
    #[error("option reply starts with {0:#018x}; the stream is out of step")]
    OptionReplyMagic(u64),
    /// A reply to an option that was not asked.
    #[error("server answered option {got} while option {asked} was asked")]
    WrongOption {
        /// The option that is in flight.
        asked: u32,
        /// The option that the reply names.
        got: u32,
    },
    /// An option reply of a type that does not belong to the option, or too many of them.
    #[error("server sent the reply type {reply:#x} to option {option}, where it has no place")]
    UnexpectedReply {
        /// The option that is in flight.
        option: u32,
        /// The reply's type.
        reply: u32,
    },
    /// An option reply that is too large, too short, or contradicts itself.
    #[error("malformed reply of {len} bytes to option {option}: {what}")]
    MalformedReply {
        /// The option that is in flight.
        option: u32,
        /// The announced length of the reply in bytes.
        len: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A reply in the transmission does not start with a magic that was negotiated.
    #[error("reply starts with {0:#010x}; the stream is out of step")]
    ReplyMagic(u32),
    /// A structured reply chunk of an unknown type, or with a length that does not fit its type.
    #[error("malformed reply chunk of type {kind:#x} with {len} bytes")]
    MalformedChunk {
        /// The chunk's type.
        kind: u16,
        /// The chunk's payload length in bytes.
        len: u64,
    },
    /// A reply to a request that is not in flight.
    #[error("reply to the cookie {0:#x}, which no request in flight has")]
    UnknownCookie(u64),
    /// A reply that does not fit the request it names.
    #[error("reply to the cookie {cookie:#x} does not fit its request: {what}")]
    WrongReply {
        /// The request's cookie.
        cookie: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A mistake of the program that uses this crate, found before a byte is sent.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ApiMisuse {
    /// A name or description that the protocol cannot carry.
    #[error("the export's {what} must be at most {max} bytes without NUL, and has {len} bytes", max = limit::STRING)]
    BadString {
        /// Which string.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// A minimum block size that is no power of two from 1 to 65536.
    #[error("minimum block size {0} is not a power of two from 1 to {max}", max = limit::MINIMUM_BLOCK)]
    MinimumBlock(u32),
    /// A preferred block size that is no power of two, or less than 512 or than the minimum.
    #[error(
        "preferred block size {0} is not a power of two, or less than 512 or than the minimum block size"
    )]
    PreferredBlock(u32),
    /// A maximum payload that is less than the preferred block size, or than the minimum block size.
    #[error("maximum payload {0} is less than the preferred block size")]
    MaximumPayload(u32),
    /// A metadata context that an export cannot have.
    #[error("\"{0}\" is no metadata context of the form namespace:leaf, or one too many")]
    Context(String),
    /// A request that is longer than the session's headers can say.
    #[error("a request of {0} bytes needs extended headers")]
    RequestLength(u64),
    /// A request whose cookie is that of another request in flight.
    #[error("the cookie {0:#x} belongs to a request that is not answered yet")]
    CookieInUse(u64),
    /// A request that the session has no way to ask: `BLOCK_STATUS` without a context, or with one that was
    /// not selected.
    #[error("block status can be asked for contexts that were selected, and at least one")]
    StatusContexts,
    /// An export of more than 2^63 - 1 bytes, which no client can address.
    #[error("an export of {0} bytes is too large: clients address at most 2^63 - 1 bytes")]
    Size(u64),
}

/// What a server answers to a request that fails: the eight values that the protocol knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Error)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    #[error("operation not permitted")]
    Perm = errno::EPERM,
    /// The store failed.
    #[error("input/output error")]
    Io = errno::EIO,
    /// Out of memory. A server should find another way.
    #[error("cannot allocate memory")]
    NoMem = errno::ENOMEM,
    /// The request makes no sense here.
    #[error("invalid argument")]
    Inval = errno::EINVAL,
    /// The write does not fit.
    #[error("no space left on device")]
    NoSpc = errno::ENOSPC,
    /// Too large to be answered as asked. Only for `READ`.
    #[error("value too large")]
    Overflow = errno::EOVERFLOW,
    /// A fast zero that would not be fast. Only for `WRITE_ZEROES` with `FAST_ZERO`.
    #[error("operation not supported")]
    NotSup = errno::ENOTSUP,
    /// The server is stopping.
    #[error("server is shutting down")]
    Shutdown = errno::ESHUTDOWN,
}

impl Errno {
    /// The number that travels.
    pub fn to_wire(self) -> u32 {
        self as u32
    }

    /// What a client makes of an error number; `None` is success. Unexpected numbers count as `EINVAL`, as
    /// the protocol asks.
    pub fn from_wire(number: u32) -> Option<Errno> {
        Some(match number {
            0 => return None,
            errno::EPERM => Errno::Perm,
            errno::EIO => Errno::Io,
            errno::ENOMEM => Errno::NoMem,
            errno::ENOSPC => Errno::NoSpc,
            errno::EOVERFLOW => Errno::Overflow,
            errno::ENOTSUP => Errno::NotSup,
            errno::ESHUTDOWN => Errno::Shutdown,
            _ => Errno::Inval,
        })
    }

    /// The answer for a Linux errno: the eight values as they are, `EROFS` as `EPERM`, `EDQUOT` and `EFBIG`
    /// as `ENOSPC`, and everything else as `EIO`, so that no other number leaks.
    pub fn from_os(os: i32) -> Errno {
        const EFBIG: i32 = 27;
        const EROFS: i32 = 30;
        const EDQUOT: i32 = 122;
        match os {
            EROFS => Errno::Perm,
            EFBIG | EDQUOT => Errno::NoSpc,
            22 => Errno::Inval,
            _ => match u32::try_from(os).ok().and_then(Errno::from_wire) {
                None | Some(Errno::Inval) => Errno::Io,
                Some(known) => known,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_eight_numbers_travel() {
        for os in -5..300 {
            let wire = Errno::from_os(os).to_wire();
            let expected = match os {
                1 | 30 => 1,
                12 => 12,
                22 => 22,
                28 | 27 | 122 => 28,
                75 => 75,
                95 => 95,
                108 => 108,
                _ => 5,
            };
            assert_eq!(wire, expected, "errno {os}");
        }
    }

    #[test]
    fn unexpected_numbers_count_as_invalid() {
        assert_eq!(Errno::from_wire(0), None);
        assert_eq!(Errno::from_wire(2), Some(Errno::Inval));
        assert_eq!(Errno::from_wire(u32::MAX), Some(Errno::Inval));
        for known in [1, 5, 12, 22, 28, 75, 95, 108] {
            assert_eq!(Errno::from_wire(known).map(Errno::to_wire), Some(known));
        }
    }
}
