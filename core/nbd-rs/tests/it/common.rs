//! What the tests share: a fixed-seed generator, exports, messages as a client writes them, and a server
//! over a byte array.

use nbd_rs::wire::{self, OPTION_MAGIC, opt};
use nbd_rs::{
    BlockSizes, Close, Command, Context, ExportInfo, Extent, Features, Negotiated, Outcome, Request,
    RequestHeader, ServerConfig, ServerHandshake, Session, Verdict, validate,
};
use std::sync::Arc;

/// SplitMix64: small, and the same on every machine.
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Rounds of a random test; `NBD_RS_TEST_SCALE` multiplies them.
pub(crate) fn rounds(base: u64) -> u64 {
    let scale =
        std::env::var("NBD_RS_TEST_SCALE").map_or(1, |s| s.parse().expect("NBD_RS_TEST_SCALE is a number"));
    base * scale
}

pub(crate) fn everything() -> Features {
    Features {
        read_only: false,
        flush: true,
        fua: true,
        rotational: false,
        trim: true,
        write_zeroes: true,
        fast_zero: false,
        cache: true,
        multi_conn: true,
        unaligned_reads: false,
        resize: false,
    }
}

pub(crate) fn exports() -> Arc<[ExportInfo]> {
    let block = BlockSizes::new(512, 65536, 32 << 20).unwrap();
    let read_only = Features { read_only: true, ..everything() };
    [
        ExportInfo::new("main", 1 << 20, block, everything())
            .unwrap()
            .with_description("the volume")
            .and_then(|export| export.with_context("x-test:second"))
            .unwrap(),
        ExportInfo::new("kept", 1 << 16, BlockSizes::default(), read_only).unwrap(),
    ]
    .into()
}

pub(crate) fn session(features: Features, block: BlockSizes, size: u64, negotiated: Negotiated) -> Session {
    Session::new(&ExportInfo::new("v", size, block, features).unwrap(), &negotiated)
}

pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    option_claiming(number, data.len() as u32, data)
}

pub(crate) fn option_claiming(number: u32, len: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &number.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

pub(crate) fn prefixed(string: &[u8]) -> Vec<u8> {
    [&(string.len() as u32).to_be_bytes()[..], string].concat()
}

/// Data of INFO and GO.
pub(crate) fn info_data(name: &[u8], kinds: &[u16]) -> Vec<u8> {
    let mut data = prefixed(name);
    data.extend((kinds.len() as u16).to_be_bytes());
    data.extend(kinds.iter().flat_map(|kind| kind.to_be_bytes()));
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn meta_data(name: &[u8], queries: &[&str]) -> Vec<u8> {
    let mut data = prefixed(name);
    data.extend((queries.len() as u32).to_be_bytes());
    data.extend(queries.iter().flat_map(|query| prefixed(query.as_bytes())));
    data
}

/// Client flags, then the options.
pub(crate) fn hello(flags: u32, options: &[Vec<u8>]) -> Vec<u8> {
    [&flags.to_be_bytes()[..], &options.concat()].concat()
}

/// One reply to an option, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OptionReply {
    pub(crate) option: u32,
    pub(crate) kind: u32,
    pub(crate) data: Vec<u8>,
}

/// All replies in `bytes`, which must be nothing but whole replies.
pub(crate) fn option_replies(mut bytes: &[u8]) -> Vec<OptionReply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let field = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(bytes[..8], wire::OPTION_REPLY_MAGIC.to_be_bytes());
        let len = field(16) as usize;
        replies.push(OptionReply { option: field(8), kind: field(12), data: bytes[20..20 + len].to_vec() });
        bytes = &bytes[20 + len..];
    }
    replies
}

/// What a server said to the whole of `input`, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ran {
    /// Everything it sent after the greeting.
    pub(crate) sent: Vec<u8>,
    pub(crate) consumed: usize,
    pub(crate) outcome: Option<Outcome>,
}

/// Feeds `input` in the pieces that end at `cuts` (and at its end).
pub(crate) fn run_server(
    exports: Arc<[ExportInfo]>,
    config: ServerConfig,
    input: &[u8],
    cuts: &[usize],
) -> Ran {
    let mut server = ServerHandshake::new(exports, config);
    let mut ran = Ran { sent: Vec::new(), consumed: 0, outcome: None };
    assert_eq!(server.output().len(), wire::GREETING_LEN);
    server.output_sent(wire::GREETING_LEN);
    for end in cuts.iter().copied().chain([input.len()]) {
        loop {
            let fed = server.feed(&input[ran.consumed..end.max(ran.consumed)]);
            ran.consumed += fed.consumed;
            ran.outcome = fed.outcome;
            let progress = fed.consumed > 0 || !server.output().is_empty();
            // Half of the output at a time, to see that the rest is kept.
            while !server.output().is_empty() {
                let n = server.output().len().div_ceil(2);
                ran.sent.extend_from_slice(&server.output()[..n]);
                server.output_sent(n);
            }
            if fed.outcome.is_some() {
                return ran;
            }
            if !progress {
                break;
            }
        }
    }
    ran
}

pub(crate) fn serve(input: &[u8]) -> Ran {
    run_server(exports(), ServerConfig::default(), input, &[])
}

pub(crate) fn closed(ran: &Ran) -> Option<Close> {
    match ran.outcome {
        Some(Outcome::Close(why)) => Some(why),
        _ => None,
    }
}

/// GO for the default export after the given options.
pub(crate) fn hello_and_go(options: &[Vec<u8>]) -> Vec<u8> {
    let mut all = options.to_vec();
    all.push(option(opt::GO, &info_data(b"", &[])));
    hello(3, &all)
}

/// A server in transmission over a byte array: the shortest loop that a transport could have.
pub(crate) struct MemoryServer {
    pub(crate) session: Session,
    pub(crate) store: Vec<u8>,
    input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    pub(crate) closed: bool,
}

impl MemoryServer {
    pub(crate) fn new(session: Session) -> Self {
        let store = vec![0; session.size() as usize];
        MemoryServer { session, store, input: Vec::new(), output: Vec::new(), closed: false }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while !self.closed {
            let headers = self.session.headers();
            let Some(header) = RequestHeader::parse(&self.input, headers) else { return };
            let verdict = validate(&header, &self.session);
            let payload = match verdict {
                Verdict::Execute(request) => request.payload_len() as usize,
                Verdict::ReadFilter(filter) => filter.payload_len(),
                Verdict::Answer(answer) => answer.skip as usize,
                Verdict::Disconnect | Verdict::Close(_) => 0,
            };
            let whole = headers.request_len() + payload;
            if self.input.len() < whole {
                return;
            }
            let message: Vec<u8> = self.input.drain(..whole).collect();
            let payload = &message[headers.request_len()..];
            match verdict {
                Verdict::ReadFilter(filter) => self.follow(filter.resolve(payload, &self.session), &[]),
                verdict => self.follow(verdict, payload),
            }
        }
    }

    fn follow(&mut self, verdict: Verdict, payload: &[u8]) {
        match verdict {
            Verdict::Execute(request) => self.execute(&request, payload),
            Verdict::Answer(answer) => self.output.extend_from_slice(self.session.answer(&answer).as_bytes()),
            Verdict::ReadFilter(_) => panic!("a list of contexts is read once"),
            Verdict::Disconnect | Verdict::Close(_) => self.closed = true,
        }
    }

    /// What this server says about a context: the first is data all over, the second changes every 512 bytes
    /// between two states that are two blocks each.
    pub(crate) fn extents(context: Context, request: &Request) -> Vec<Extent> {
        if context == Context::BASE_ALLOCATION {
            return vec![Extent { len: u64::MAX, status: 0 }];
        }
        let end = request.offset + request.len;
        let blocks = request.offset / 512..end.div_ceil(512);
        blocks.map(|block| Extent { len: 512, status: block / 2 % 2 }).collect()
    }

    fn execute(&mut self, request: &Request, payload: &[u8]) {
        let range = request.offset as usize..request.offset as usize + request.len as usize;
        match request.command {
            Command::Read => {
                self.output.extend_from_slice(self.session.read_ok(request).as_bytes());
                self.output.extend_from_slice(&self.store[range]);
                return;
            }
            Command::BlockStatus => {
                let extents = |context| MemoryServer::extents(context, request);
                self.session.block_status(request, extents, &mut self.output);
                return;
            }
            Command::Write => self.store[range].copy_from_slice(payload),
            Command::WriteZeroes => self.store[range].fill(0),
            Command::Flush | Command::Trim | Command::Cache | Command::Resize => {}
        }
        self.output.extend_from_slice(self.session.done(request).as_bytes());
    }
}
