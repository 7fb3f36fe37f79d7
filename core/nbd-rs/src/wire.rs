//! Every number of the NBD protocol that this crate speaks, and the layout of every message.
//!
//! All integers travel in network byte order. Names are those of the protocol document (`doc/proto.md` of
//! the NetworkBlockDevice project) without the `NBD_` prefix; the module stands for the middle part, so
//! `NBD_OPT_GO` is [`opt::GO`]. Nothing here decides anything: the numbers are used by the codecs and
//! state machines of the other modules.

/// First eight bytes of a server's greeting, ASCII `NBDMAGIC`.
pub const INIT_PASSWD: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes of a newstyle greeting and first eight of every option, ASCII `IHAVEOPT`.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second eight bytes of an oldstyle greeting; this crate never sends it and its client refuses it.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First eight bytes of every option reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First four bytes of every compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First four bytes of every request once extended headers were negotiated.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First four bytes of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First four bytes of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First four bytes of every reply chunk once extended headers were negotiated.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Server greeting: u64 [`INIT_PASSWD`], u64 [`OPTION_MAGIC`], u16 [`handshake_flag`] bits.
pub const GREETING_LEN: usize = 18;
/// Client's answer to the greeting: u32 [`client_flag`] bits.
pub const CLIENT_FLAGS_LEN: usize = 4;
/// Option header: u64 [`OPTION_MAGIC`], u32 [`opt`] number, u32 length of the data that follows.
pub const OPTION_HEADER_LEN: usize = 16;
/// Option reply header: u64 [`OPTION_REPLY_MAGIC`], u32 [`opt`] number that is answered, u32 [`rep`] type,
/// u32 length of the data that follows.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;
/// Answer to [`opt::EXPORT_NAME`]: u64 export size in bytes, u16 [`transmission_flag`] bits, and
/// [`EXPORT_NAME_PADDING`] zeroes unless the client asked for none.
pub const EXPORT_NAME_REPLY_LEN: usize = 10;
/// Zeroes behind the answer to [`opt::EXPORT_NAME`]; never sent after [`opt::GO`].
pub const EXPORT_NAME_PADDING: usize = 124;
/// Request: u32 [`REQUEST_MAGIC`], u16 [`cmd_flag`] bits, u16 [`cmd`] type, u64 cookie (returned as it
/// is), u64 offset in bytes, u32 length in bytes. A [`cmd::WRITE`] is followed by that many bytes.
pub const REQUEST_LEN: usize = 28;
/// Extended request: u32 [`EXTENDED_REQUEST_MAGIC`], u16 [`cmd_flag`] bits, u16 [`cmd`] type, u64 cookie,
/// u64 offset in bytes, u64 length in bytes. With [`cmd_flag::PAYLOAD_LEN`] that many bytes follow.
pub const EXTENDED_REQUEST_LEN: usize = 32;
/// Simple reply: u32 [`SIMPLE_REPLY_MAGIC`], u32 [`errno`] or zero, u64 cookie. A successful read is
/// followed by the length of its request in bytes.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Chunk header: u32 [`STRUCTURED_REPLY_MAGIC`], u16 [`chunk_flag`] bits, u16 [`chunk`] type, u64 cookie,
/// u32 length of the chunk's payload.
pub const CHUNK_HEADER_LEN: usize = 20;
/// Extended chunk header: u32 [`EXTENDED_REPLY_MAGIC`], u16 [`chunk_flag`] bits, u16 [`chunk`] type, u64
/// cookie, u64 offset of the request (not of the chunk), u64 length of the chunk's payload.
pub const EXTENDED_CHUNK_HEADER_LEN: usize = 32;
/// Payload of a [`cmd::BLOCK_STATUS`] with [`cmd_flag::PAYLOAD_LEN`], in front of the ids: u64 length of the
/// range in bytes. One u32 context id after the other follows.
pub const STATUS_FILTER_LEN: usize = 8;

/// Bits of the server's greeting (u16).
pub mod handshake_flag {
    /// The server speaks fixed newstyle: it answers options it does not know.
    pub const FIXED_NEWSTYLE: u16 = 1 << 0;
    /// The server can leave out the padding after `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Bits of the client's answer to the greeting (u32).
pub mod client_flag {
    /// The client speaks fixed newstyle.
    pub const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// The client wants no padding after `EXPORT_NAME`.
    pub const NO_ZEROES: u32 = 1 << 1;
    /// Every bit that a client may set; any other one ends the connection.
    pub const KNOWN: u32 = FIXED_NEWSTYLE | NO_ZEROES;
}

/// Bits that say what an export offers (u16).
pub mod transmission_flag {
    /// Always set: the other bits mean something.
    pub const HAS_FLAGS: u16 = 1 << 0;
    /// Commands that write are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is offered.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The `FUA` command flag is offered.
    pub const SEND_FUA: u16 = 1 << 3;
    /// The export seeks like a spinning disk.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// `TRIM` is offered.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` and its `NO_HOLE` flag are offered.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The `DF` command flag is offered; only ever set after structured replies were negotiated.
    pub const SEND_DF: u16 = 1 << 7;
    /// A flush on one connection covers the writes answered on all of them.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `RESIZE` (draft extension) is offered.
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// `CACHE` is offered.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The `FAST_ZERO` command flag is offered.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `BLOCK_STATUS` takes a list of contexts; only ever set after extended headers and a context were
    /// negotiated (draft extension).
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Options of the handshake (u32).
pub mod opt {
    /// Choose an export and start; the data is its name. Failure can only be told by hanging up.
    pub const EXPORT_NAME: u32 = 1;
    /// Leave. The answer is an `ACK`.
    pub const ABORT: u32 = 2;
    /// Ask for the names of all exports; no data.
    pub const LIST: u32 = 3;
    /// Withdrawn from the protocol; unknown to this crate.
    pub const PEEK_EXPORT: u32 = 4;
    /// Start TLS; no data.
    pub const STARTTLS: u32 = 5;
    /// Describe an export. Data: u32 length of the name, the name, u16 count, that many u16 [`super::info`].
    pub const INFO: u32 = 6;
    /// As [`INFO`], and start the transmission when it succeeds.
    pub const GO: u32 = 7;
    /// Ask for structured replies; no data.
    pub const STRUCTURED_REPLY: u32 = 8;
    /// Ask which metadata contexts exist. Data: u32 length of the export's name, the name, u32 count of
    /// queries, each a u32 length and a string.
    pub const LIST_META_CONTEXT: u32 = 9;
    /// Select metadata contexts; data as in [`LIST_META_CONTEXT`].
    pub const SET_META_CONTEXT: u32 = 10;
    /// Ask for extended, 64-bit headers in both directions (draft extension); no data.
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Types of option replies (u32). With [`rep::ERR_BIT`] set the data is a text for people.
pub mod rep {
    /// The option succeeded and this is its last reply; no data.
    pub const ACK: u32 = 1;
    /// One export. Data: u32 length of its name, the name, and a description to the end.
    pub const SERVER: u32 = 2;
    /// One piece of information. Data: u16 [`super::info`] type and what that type says.
    pub const INFO: u32 = 3;
    /// One metadata context. Data: u32 id, and its name to the end.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error type.
    pub const ERR_BIT: u32 = 1 << 31;
    /// The server does not know the option.
    pub const ERR_UNSUP: u32 = ERR_BIT | 1;
    /// The server knows the option and is configured to refuse it.
    pub const ERR_POLICY: u32 = ERR_BIT | 2;
    /// The option's data makes no sense.
    pub const ERR_INVALID: u32 = ERR_BIT | 3;
    /// The server's platform cannot do it.
    pub const ERR_PLATFORM: u32 = ERR_BIT | 4;
    /// Only after TLS was started.
    pub const ERR_TLS_REQD: u32 = ERR_BIT | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERR_BIT | 6;
    /// The server is about to stop.
    pub const ERR_SHUTDOWN: u32 = ERR_BIT | 7;
    /// The client must ask for the block sizes first.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERR_BIT | 8;
    /// The request or its answer is too large.
    pub const ERR_TOO_BIG: u32 = ERR_BIT | 9;
    /// Only after 64-bit headers were negotiated (draft extension).
    pub const ERR_EXT_HEADER_REQD: u32 = ERR_BIT | 10;
}

/// Types of information in `INFO` and `GO` (u16).
pub mod info {
    /// u64 size in bytes, u16 [`super::transmission_flag`] bits. Always sent.
    pub const EXPORT: u16 = 0;
    /// The export's own name.
    pub const NAME: u16 = 1;
    /// A text about the export for people.
    pub const DESCRIPTION: u16 = 2;
    /// u32 minimum block, u32 preferred block, u32 maximum payload, all in bytes. Always sent.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Commands (u16).
pub mod cmd {
    /// Read `length` bytes at `offset`.
    pub const READ: u16 = 0;
    /// Write the `length` bytes that follow the header at `offset`.
    pub const WRITE: u16 = 1;
    /// Finish what is in flight and close; no reply.
    pub const DISC: u16 = 2;
    /// Make every answered write durable; offset and length are zero.
    pub const FLUSH: u16 = 3;
    /// The range is no longer needed.
    pub const TRIM: u16 = 4;
    /// The range will be read soon.
    pub const CACHE: u16 = 5;
    /// Write zeroes without sending them.
    pub const WRITE_ZEROES: u16 = 6;
    /// Report the status of the range in the selected metadata contexts.
    pub const BLOCK_STATUS: u16 = 7;
    /// Change the size of the export to `offset` bytes; the length is zero (draft extension).
    pub const RESIZE: u16 = 8;
}

/// Bits of a command (u16).
pub mod cmd_flag {
    /// Durable before it is answered; allowed on every command.
    pub const FUA: u16 = 1 << 0;
    /// `WRITE_ZEROES`: keep the range allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// `READ`: answer in at most one content chunk.
    pub const DF: u16 = 1 << 2;
    /// `BLOCK_STATUS`: one extent a context, no longer than asked for.
    pub const REQ_ONE: u16 = 1 << 3;
    /// `WRITE_ZEROES`: fail with `ENOTSUP` unless faster than a write.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// Extended headers only: the length is that of a payload that follows. The draft needs it on
    /// `WRITE`, where this crate's server does without it; allowed on `BLOCK_STATUS`.
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Bits of a structured reply chunk (u16).
pub mod chunk_flag {
    /// The last chunk of the reply.
    pub const DONE: u16 = 1 << 0;
}

/// Types of structured reply chunks (u16). With [`chunk::ERR_BIT`] set it is an error.
pub mod chunk {
    /// Nothing more to say; no payload, always the last one.
    pub const NONE: u16 = 0;
    /// u64 offset, then the data.
    pub const OFFSET_DATA: u16 = 1;
    /// u64 offset, u32 length of a range that reads as zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// u32 context id, then one or more of u32 length in bytes and u32 status.
    pub const BLOCK_STATUS: u16 = 5;
    /// Extended headers only: u32 context id, u32 count, then that many (not zero) of u64 length in bytes
    /// and u64 status.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in every error type.
    pub const ERR_BIT: u16 = 1 << 15;
    /// u32 [`super::errno`], u16 length of a text, the text.
    pub const ERROR: u16 = ERR_BIT | 1;
    /// As [`ERROR`], then the u64 offset at which it happened.
    pub const ERROR_OFFSET: u16 = ERR_BIT | 2;
}

/// Status bits of the context `base:allocation`. A range without any is ordinary data.
pub mod allocation {
    /// Nothing is allocated there.
    pub const HOLE: u32 = 1 << 0;
    /// It reads as zeroes.
    pub const ZERO: u32 = 1 << 1;
}

/// The only error numbers that travel (u32).
pub mod errno {
    /// Not permitted: the export is read-only.
    pub const EPERM: u32 = 1;
    /// The store failed.
    pub const EIO: u32 = 5;
    /// Out of memory.
    pub const ENOMEM: u32 = 12;
    /// The request makes no sense here.
    pub const EINVAL: u32 = 22;
    /// The write does not fit.
    pub const ENOSPC: u32 = 28;
    /// The request is too large to be answered as asked.
    pub const EOVERFLOW: u32 = 75;
    /// A fast zero that would not be fast.
    pub const ENOTSUP: u32 = 95;
    /// The server is stopping.
    pub const ESHUTDOWN: u32 = 108;
}

/// What this crate accepts from a peer; the protocol leaves most of these to the implementation.
pub mod limit {
    /// Longest string of the protocol (names, descriptions, texts, queries), in bytes.
    pub const STRING: usize = 4096;
    /// Most bytes of data in one option. A longer one ends the connection.
    pub const OPTION_DATA: u32 = 64 * 1024;
    /// Most options on one connection.
    pub const OPTIONS: u32 = 64;
    /// Largest payload of one request that is carried out. A longer `WRITE` ends the connection, a longer
    /// `READ` is refused.
    pub const PAYLOAD: u32 = 64 * 1024 * 1024;
    /// The maximum payload that should be advertised: the one that every client may count on.
    pub const PAYLOAD_ADVERTISED: u32 = 32 * 1024 * 1024;
    /// Most metadata contexts of one export.
    pub const CONTEXTS: usize = 32;
    /// Most extents that a server of this crate sends in one chunk. The protocol allows 2^20; a client asks
    /// on where the answer ends.
    pub const EXTENTS: usize = 4096;
    /// Most extents in one chunk that a client of this crate takes: as many as the protocol allows.
    pub const EXTENTS_TAKEN: u64 = 1 << 20;
    /// Most content chunks of one answer that a client of this crate takes.
    pub const CHUNKS_TAKEN: usize = 1 << 16;
    /// Largest minimum block size that the protocol allows, in bytes.
    pub const MINIMUM_BLOCK: u32 = 64 * 1024;
    /// Smallest preferred block size that the protocol allows, in bytes.
    pub const PREFERRED_BLOCK: u32 = 512;
}
