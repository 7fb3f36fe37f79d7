//! A shard over files, and a small blocking client.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use async_tx::Engine;
use md_format::{Areas, AssembleOptions, Assembly, CreateParams, Found, Layout, Level, Superblock, Uuid};
use nbd_rs::reply::{self, ReplyBody};
use nbd_rs::{
    BlockSizes, Command, Context, Contexts, Errno, ExportInfo, Features, Headers, Negotiated, Request,
    Session,
};
use uraid_blockio::{Member, OpenOptions};
use uraid_shard::{
    NewConnection, News, Shard, ShardConfig, ShardExit, ShardHandle, ShardStatus, Terms, Tuning, cpu_engine,
    with_redundancy_context,
};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// splitmix64.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

/// A running RAID6 of six files.
pub(crate) struct Volume {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) handle: ShardHandle,
    pub(crate) exit: Receiver<ShardExit>,
    /// What it told.
    pub(crate) news: Receiver<News>,
    pub(crate) export: ExportInfo,
}

pub(crate) const MEMBERS: usize = 6;
const CHUNK: u32 = 64 << 10;

fn path(dir: &tempfile::TempDir, member: usize) -> PathBuf {
    dir.path().join(format!("member{member}"))
}

fn member_bytes(data: u64) -> u64 {
    (4096 + 64) * 512 + data
}

pub(crate) fn tuning() -> Tuning {
    Tuning { cache_bytes: 8 << 20, pool_bytes: 64 << 20, self_check: true, ..Tuning::default() }
}

/// Creates the members of an array that offers four times `data` bytes.
pub(crate) fn create(dir: &tempfile::TempDir, data: u64) {
    let sizes = [member_bytes(data) / 512; MEMBERS];
    let uuids: Vec<_> = (0..MEMBERS).map(|i| Uuid([i as u8 + 1; 16])).collect();
    let superblocks = md_format::plan_create(&CreateParams {
        level: Level::Raid6,
        layout: Layout::default_for(Level::Raid6),
        chunk_sectors: CHUNK / 512,
        name: "test",
        members: &sizes,
        size_sectors: Some(data / 512),
        set_uuid: Uuid([9; 16]),
        device_uuids: &uuids,
        now: 1_700_000_000,
        clean: true,
        minor: md_format::Minor::V2,
        bitmap: md_format::IntentBitmap::None,
        ppl: false,
    })
    .unwrap();
    for (member, superblock) in superblocks.iter().enumerate() {
        let file = std::fs::File::create_new(path(dir, member)).unwrap();
        file.set_len(member_bytes(data)).unwrap();
        let at = superblock.super_offset() * 512;
        std::os::unix::fs::FileExt::write_all_at(&file, &superblock.encode(), at).unwrap();
    }
}

fn assemble(dir: &tempfile::TempDir) -> Assembly {
    let found = |member: usize| {
        let bytes = std::fs::read(path(dir, member)).unwrap();
        let sectors = bytes.len() as u64 / 512;
        let read = md_format::candidates(sectors).into_iter().map(|at| {
            let from = (at.sector * 512) as usize;
            Superblock::parse(&bytes[from..bytes.len().min(from + md_format::READ_BYTES)], at, sectors)
        });
        let superblock = Superblock::choose(read);
        Found {
            label: format!("member{member}"),
            device_sectors: sectors,
            superblock,
            identity: None,
            areas: Areas::default(),
        }
    };
    let found: Vec<_> = (0..MEMBERS).map(found).collect();
    md_format::assemble(&found, AssembleOptions::default()).unwrap()
}

impl Volume {
    pub(crate) fn new(data: u64, tuning: Tuning) -> Self {
        let dir = tempfile::tempdir().unwrap();
        create(&dir, data);
        Self::open(dir, tuning)
    }

    pub(crate) fn open(dir: tempfile::TempDir, tuning: Tuning) -> Self {
        Self::open_with(dir, tuning, cpu_engine("auto").unwrap())
    }

    pub(crate) fn open_with(dir: tempfile::TempDir, tuning: Tuning, engine: Engine) -> Self {
        let assembly = assemble(&dir);
        let members = assembly.members.iter();
        let members = members.map(|m| Member::open(path(&dir, m.found), OpenOptions::default()).unwrap());
        let (herald, news) = channel();
        let listener = move |told| {
            // A test that failed has gone away.
            let _ = herald.send(told);
        };
        let config = ShardConfig {
            name: "test".to_owned(),
            members: members.collect(),
            assembly,
            read_only: false,
            engine,
            tuning,
            listener: Some(Box::new(listener)),
        };
        let (tell, exit) = channel();
        let handle = Shard::spawn(config, move |exit| {
            // A test that failed has gone away.
            let _ = tell.send(exit);
        })
        .unwrap();
        let features = Features {
            flush: true,
            fua: true,
            trim: true,
            write_zeroes: true,
            fast_zero: true,
            cache: true,
            multi_conn: true,
            unaligned_reads: true,
            ..Features::default()
        };
        let block = BlockSizes::new(512, CHUNK, 32 << 20).unwrap();
        let export = ExportInfo::new("test", handle.geometry().array_bytes(), block, features).unwrap();
        let export = with_redundancy_context(export).unwrap();
        Self { dir, handle, exit, news, export }
    }

    pub(crate) fn member_path(&self, member: usize) -> PathBuf {
        path(&self.dir, member)
    }

    /// Opens a member that failed, once the shard has let it go.
    pub(crate) fn reopen_member(&self, member: usize) -> Member {
        let start = std::time::Instant::now();
        loop {
            match Member::open(self.member_path(member), OpenOptions::default()) {
                Ok(member) => return member,
                Err(error) => assert!(start.elapsed() < PATIENCE, "never let go: {error}"),
            }
            std::thread::yield_now();
        }
    }

    /// Connects a client that negotiated structured replies, or did not.
    pub(crate) fn client(&self, structured: bool) -> Client {
        self.client_with(structured, &[])
    }

    /// Connects a client that negotiated these headers.
    pub(crate) fn client_of(&self, headers: Headers, leftover: &[u8]) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.client_over(ours.into(), theirs.into(), headers, leftover)
    }

    pub(crate) fn client_with(&self, structured: bool, leftover: &[u8]) -> Client {
        self.client_of(if structured { Headers::Structured } else { Headers::Simple }, leftover)
    }

    /// Connects over any pair of stream sockets.
    pub(crate) fn client_over(
        &self,
        ours: OwnedFd,
        socket: OwnedFd,
        headers: Headers,
        leftover: &[u8],
    ) -> Client {
        self.client_on(ours, socket, headers, leftover, Terms::default())
    }

    /// Connects on these terms.
    pub(crate) fn client_on(
        &self,
        ours: OwnedFd,
        socket: OwnedFd,
        headers: Headers,
        leftover: &[u8],
        terms: Terms,
    ) -> Client {
        let contexts = (0..self.export.contexts().len()).filter_map(Context::nth);
        let contexts = contexts.fold(Contexts::NONE, Contexts::with);
        let negotiated = Negotiated { headers, contexts, ..Negotiated::default() };
        // Reading and writing is all that is done with it, so its family does not matter.
        let ours = UnixStream::from(ours);
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        let session = Session::new(&self.export, &negotiated);
        let leftover = leftover.to_vec();
        let connection = NewConnection::client(socket, session, leftover, "test".to_owned());
        self.handle.connect(NewConnection { terms, ..connection }).unwrap();
        Client { stream: ours, headers, input: Vec::new(), cookie: 0, failed: None }
    }

    /// One that came by `EXPORT_NAME`.
    pub(crate) fn client_who_knows_no_sizes(&self, headers: Headers) -> Client {
        let negotiated = Negotiated { headers, sizes_untold: true, ..Negotiated::default() };
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let session = Session::new(&self.export, &negotiated);
        self.handle
            .connect(NewConnection::client(theirs.into(), session, vec![], "test".to_owned()))
            .unwrap();
        Client { headers, ..Client::over(ours) }
    }

    pub(crate) fn status(&self) -> ShardStatus {
        let (tell, answer) = channel();
        self.handle.status(move |status| tell.send(status).unwrap()).unwrap();
        answer.recv_timeout(PATIENCE).unwrap()
    }

    /// Asks for the status until it is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&ShardStatus) -> bool) -> ShardStatus {
        let start = std::time::Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "never {what}: {status:?}");
        }
    }

    pub(crate) fn stop(self) -> (tempfile::TempDir, ShardExit) {
        self.handle.stop(PATIENCE).unwrap();
        let exit = self.exit.recv_timeout(PATIENCE).unwrap();
        (self.dir, exit)
    }
}

/// A client that sends what it is told and takes replies in whatever order they come.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    headers: Headers,
    input: Vec<u8>,
    cookie: u64,
    /// Of the last request that failed: the good data that came, and where and why it failed.
    pub(crate) failed: Option<(Vec<u8>, Option<u64>, String)>,
}

/// The answer to a request: its data (empty but for reads) or its error.
pub(crate) type Answered = (u64, Result<Vec<u8>, Errno>);

impl Client {
    /// Over a socket of which the other end was connected already.
    pub(crate) fn over(stream: UnixStream) -> Self {
        Self { stream, headers: Headers::Simple, input: Vec::new(), cookie: 0, failed: None }
    }

    pub(crate) fn request(&mut self, command: Command, offset: u64, len: u32) -> Request {
        self.cookie += 1;
        Request::new(command, self.cookie, offset, u64::from(len))
    }

    /// A header as this client sends it.
    pub(crate) fn header(&self, request: &Request) -> Vec<u8> {
        request.header(self.headers).encode(self.headers).as_bytes().to_vec()
    }

    /// Sends a header and a payload.
    pub(crate) fn send(&mut self, request: &Request, payload: &[u8]) {
        let mut message = self.header(request);
        message.extend_from_slice(payload);
        self.stream.write_all(&message).unwrap();
    }

    fn need(&mut self, n: usize) {
        while self.input.len() < n {
            assert!(self.receive() > 0, "the server closed in the middle of a reply");
        }
    }

    /// A read with a time limit is not restarted by the kernel when it is interrupted, for example to take
    /// down an io_uring that this thread made.
    fn read_some(&mut self, piece: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match self.stream.read(piece) {
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn receive(&mut self) -> usize {
        let mut piece = vec![0; 256 << 10];
        let got = self.read_some(&mut piece).unwrap();
        self.input.extend_from_slice(&piece[..got]);
        got
    }

    /// Whether something was received, without waiting.
    pub(crate) fn has_input(&mut self) -> bool {
        use nix::sys::socket::{MsgFlags, recv};
        use std::os::fd::AsRawFd;
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        !self.input.is_empty() || recv(self.stream.as_raw_fd(), &mut [0], flags).is_ok()
    }

    /// The next complete answer, or `None` if the server has closed.
    pub(crate) fn answer_or_end(&mut self, asked: &[Request]) -> Option<Answered> {
        if self.input.is_empty() && self.receive() == 0 {
            return None;
        }
        Some(self.answer(asked))
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        self.need(n);
        self.input.drain(..n).collect()
    }

    /// The next complete answer to one of these requests.
    pub(crate) fn answer(&mut self, asked: &[Request]) -> Answered {
        let mut data = Vec::new();
        let mut error = None;
        loop {
            let (head, len) = loop {
                if let Some(found) = reply::decode(&self.input, self.headers).unwrap() {
                    break found;
                }
                let have = self.input.len();
                self.need(have + 1);
            };
            self.input.drain(..len);
            let request = asked.iter().find(|r| r.cookie == head.cookie).expect("a cookie that was sent");
            let repeated = self.headers.is_extended().then_some(request.offset);
            assert_eq!(head.offset, repeated, "an extended reply repeats the offset of its request");
            match head.body {
                ReplyBody::Simple(None) if request.command == Command::Read => {
                    data = self.take(request.len as usize);
                }
                ReplyBody::Simple(errno) => error = errno,
                ReplyBody::None => {}
                ReplyBody::Data { offset, len } => {
                    assert_eq!(offset, request.offset + data.len() as u64);
                    data.extend(self.take(len as usize));
                }
                ReplyBody::BlockStatus { count, .. } => {
                    data.extend(self.take(reply::extent_len(self.headers) * count as usize));
                }
                ReplyBody::Error { errno, offset, message } => {
                    error = Some(errno);
                    self.failed = Some((data.clone(), offset, message));
                }
                ReplyBody::Hole { .. } => panic!("no holes are served"),
            }
            if head.done {
                return (head.cookie, error.map_or(Ok(data), Err));
            }
        }
    }

    /// Sends one request and waits for its answer.
    pub(crate) fn ask(&mut self, request: Request, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        self.send(&request, payload);
        let (cookie, result) = self.answer(&[request]);
        assert_eq!(cookie, request.cookie);
        result
    }

    pub(crate) fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, Errno> {
        let request = self.request(Command::Read, offset, len);
        self.ask(request, &[])
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<Vec<u8>, Errno> {
        let request = self.request(Command::Write, offset, data.len() as u32);
        self.ask(request, data)
    }

    /// Sends raw bytes.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn disconnect(&mut self) {
        let mut header = Request::new(Command::Flush, 0, 0, 0).header(self.headers);
        header.command = nbd_rs::wire::cmd::DISC;
        self.send_raw(header.encode(self.headers).as_bytes());
    }

    /// Whether the server has closed, and said nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut rest = [0; 1];
        match self.read_some(&mut rest) {
            Ok(n) => n == 0 && self.input.is_empty(),
            Err(err) => err.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
