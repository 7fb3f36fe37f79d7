//! Extended headers as the server sees and sends them, and what else needs 64 bits.

use crate::common::*;
use nbd_rs::reply::{self, Extent, ReplyBody};
use nbd_rs::wire::{EXTENDED_REQUEST_MAGIC, cmd, cmd_flag, limit};
use nbd_rs::{
    BlockSizes, ClientMisbehaved, Command, Context, Contexts, Errno, Features, Headers, Negotiated, Request,
    RequestHeader, Session, Verdict, validate,
};

const SIZE: u64 = 1 << 50;

fn extended() -> Session {
    let contexts = Contexts::NONE.with(Context::BASE_ALLOCATION).with(Context::nth(1).unwrap());
    let negotiated = Negotiated { headers: Headers::Extended, contexts, ..Negotiated::default() };
    session(everything(), BlockSizes::new(512, 4096, 32 << 20).unwrap(), SIZE, negotiated)
}

fn header(command: u16, flags: u16, offset: u64, len: u64) -> RequestHeader {
    RequestHeader { magic: EXTENDED_REQUEST_MAGIC, flags, command, cookie: 0x55, offset, len }
}

/// What is answered at once, and the payload that is dropped.
fn refused(session: &Session, header: &RequestHeader) -> (Option<Errno>, u64) {
    match validate(header, session) {
        Verdict::Answer(answer) => (answer.result.err().map(|(errno, _)| errno), answer.skip),
        other => panic!("{header:?}: {other:?}"),
    }
}

#[test]
fn headers_of_32_bytes_travel_as_the_draft_draws_them() {
    let request = Request { fua: true, ..Request::new(Command::Write, 7, 4096, 512) };
    let frame = request.header(Headers::Extended).encode(Headers::Extended);
    let wire = frame.as_bytes();
    assert_eq!((wire.len(), &wire[..8]), (32, &[0x21, 0xe4, 0x1c, 0x71, 0, 0x21, 0, 1][..]));
    assert_eq!(wire[8..16], 7u64.to_be_bytes());
    assert_eq!(wire[16..24], 4096u64.to_be_bytes());
    assert_eq!(wire[24..], 512u64.to_be_bytes());
    assert_eq!(RequestHeader::parse(&wire[..31], Headers::Extended), None);
    let header = RequestHeader::parse(wire, Headers::Extended).unwrap();
    assert_eq!(validate(&header, &extended()), Verdict::Execute(request));
}

#[test]
fn a_session_takes_no_magic_but_its_own() {
    let compact = Request::new(Command::Read, 1, 0, 512).header(Headers::Simple);
    assert!(matches!(validate(&compact, &extended()), Verdict::Close(ClientMisbehaved::RequestMagic(_))));
    let plain = Session::new(&exports()[0], &Negotiated::default());
    let long = header(cmd::READ, 0, 0, 512);
    assert!(matches!(validate(&long, &plain), Verdict::Close(ClientMisbehaved::RequestMagic(_))));
}

#[test]
fn commands_without_a_payload_are_refused_with_the_flag_and_consume_it() {
    for command in [cmd::READ, cmd::FLUSH, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::RESIZE, 77] {
        let asked = header(command, cmd_flag::PAYLOAD_LEN, 0, 5000);
        assert_eq!(refused(&extended(), &asked), (Some(Errno::Inval), 5000), "command {command}");
    }
    let beyond = header(cmd::WRITE, cmd_flag::PAYLOAD_LEN, SIZE, 4096);
    assert_eq!(refused(&extended(), &beyond), (Some(Errno::NoSpc), 4096));
    for command in [cmd::READ, cmd::WRITE, cmd::BLOCK_STATUS, cmd::DISC] {
        for len in [u64::from(limit::PAYLOAD) + 1, 1 << 32, u64::MAX] {
            let verdict = validate(&header(command, cmd_flag::PAYLOAD_LEN, 0, len), &extended());
            assert_eq!(verdict, Verdict::Close(ClientMisbehaved::PayloadTooLarge(len)));
        }
    }
}

#[test]
fn lengths_of_64_bits_are_never_narrowed() {
    for command in [cmd::WRITE_ZEROES, cmd::TRIM, cmd::CACHE, cmd::BLOCK_STATUS] {
        for len in [1 << 32, (1 << 32) + 512, SIZE - 512] {
            let Verdict::Execute(request) = validate(&header(command, 0, 512, len), &extended()) else {
                panic!("{len} bytes are lawful for {command}")
            };
            assert_eq!(request.len, len);
        }
        let errno = if command == cmd::WRITE_ZEROES { Errno::NoSpc } else { Errno::Inval };
        for len in [SIZE, 1 << 63, u64::MAX - 511] {
            assert_eq!(refused(&extended(), &header(command, 0, 512, len)), (Some(errno), 0));
        }
    }
    for len in [u64::from(limit::PAYLOAD) + 512, 1 << 32, SIZE - 512] {
        assert_eq!(refused(&extended(), &header(cmd::READ, 0, 512, len)), (Some(Errno::Overflow), 0));
    }
}

#[test]
fn every_answer_is_a_chunk_that_repeats_the_offset() {
    let session = extended();
    let decoded = |bytes: &[u8]| {
        assert!((0..bytes.len()).all(|cut| reply::decode(&bytes[..cut], Headers::Extended) == Ok(None)));
        let (reply, used) = reply::decode(bytes, Headers::Extended).unwrap().unwrap();
        assert_eq!((used, reply.offset, reply.cookie), (bytes.len(), Some(4096), 9));
        reply
    };
    let read = Request::new(Command::Read, 9, 4096, 8192);
    let data = decoded(session.read_ok(&read).as_bytes());
    assert_eq!((data.done, data.body), (true, ReplyBody::Data { offset: 4096, len: 8192 }));
    let good = decoded(session.read_good_part(&read, 512).unwrap().as_bytes());
    assert_eq!((good.done, good.body), (false, ReplyBody::Data { offset: 4096, len: 512 }));
    let bad = decoded(session.error_at(&read, Errno::Io, 4608, "lost").as_bytes());
    assert!(matches!(bad.body, ReplyBody::Error { errno: Errno::Io, offset: Some(4608), .. }));
    let write = Request::new(Command::Write, 9, 4096, 8192);
    assert_eq!(decoded(session.done(&write).as_bytes()).body, ReplyBody::None);
    let no = decoded(session.error(&write, Errno::NoSpc, "full").as_bytes());
    assert!(matches!(no.body, ReplyBody::Error { errno: Errno::NoSpc, offset: None, .. }));
    for (command, len) in [(cmd::WRITE_ZEROES, 0), (cmd::READ, 0), (cmd::READ, 7), (cmd::TRIM, SIZE)] {
        let asked = RequestHeader { cookie: 9, ..header(command, 0, 4096, len) };
        let Verdict::Answer(answer) = validate(&asked, &session) else { panic!("answered at once") };
        let reply = decoded(session.answer(&answer).as_bytes());
        assert_eq!(matches!(reply.body, ReplyBody::None), len == 0);
    }
}

/// The extents that a session tells, by context.
fn told(session: &Session, request: &Request, extents: &[Extent]) -> Vec<(u32, Vec<Extent>)> {
    let (headers, mut out) = (session.headers(), Vec::new());
    session.block_status(request, |_| extents.iter().copied(), &mut out);
    let (mut rest, mut chunks) = (&out[..], Vec::new());
    while let Some((reply, used)) = reply::decode(rest, headers).unwrap() {
        let ReplyBody::BlockStatus { context, count } = reply.body else { panic!("{reply:?}") };
        let size = reply::extent_len(headers);
        let (list, tail) = rest[used..].split_at(size * count as usize);
        let list = list.chunks(size).map(|bytes| reply::decode_extent(bytes, headers).unwrap()).collect();
        chunks.push((context, list));
        rest = tail;
        assert_eq!(reply.done, rest.is_empty(), "the last chunk says so");
    }
    chunks
}

fn runs(lens: &[(u64, u64)]) -> Vec<Extent> {
    lens.iter().map(|(len, status)| Extent { len: *len, status: *status }).collect()
}

#[test]
fn extents_are_cut_merged_and_bounded() {
    let contexts = Contexts::NONE.with(Context::BASE_ALLOCATION);
    for headers in [Headers::Structured, Headers::Extended] {
        let negotiated = Negotiated { headers, contexts, ..Negotiated::default() };
        let session = session(everything(), BlockSizes::default(), SIZE, negotiated);
        let ask = Request { contexts, ..Request::new(Command::BlockStatus, 5, 512, 8192) };
        let one = Request { req_one: true, ..ask };
        for (known, expected) in [
            (vec![], vec![(8192, 0)]),
            (vec![(u64::MAX, 3)], vec![(8192, 3)]),
            (vec![(512, 1), (0, 9), (512, 1), (512, 2)], vec![(1024, 1), (512, 2)]),
            (vec![(4096, 1), (4096, 0), (4096, 1)], vec![(4096, 1), (4096, 0)]),
            (vec![(4096, 1), (8192, 0)], vec![(4096, 1), (4096, 0)]),
        ] {
            assert_eq!(told(&session, &ask, &runs(&known)), [(1, runs(&expected))], "{known:?}");
            assert_eq!(told(&session, &one, &runs(&known)), [(1, runs(&expected[..1]))], "one of {known:?}");
        }
        let many: Vec<_> = (0..10_000).map(|i| (512, i % 2)).collect();
        let long = Request { contexts, ..Request::new(Command::BlockStatus, 5, 0, 512 * 10_000) };
        let chunks = told(&session, &long, &runs(&many));
        assert_eq!(chunks[0].1, runs(&many[..limit::EXTENTS]));
    }
    // Longer than 32 bits can say.
    let session = extended();
    let ask = Request { contexts: session.contexts(), ..Request::new(Command::BlockStatus, 5, 512, 1 << 40) };
    let expected = runs(&[(1 << 33, 1), ((1 << 40) - (1 << 33), 1 << 40)]);
    let chunks = told(&session, &ask, &runs(&[(1 << 33, 1), (1 << 50, 1 << 40)]));
    assert_eq!(chunks, [(1, expected.clone()), (2, expected)]);
}

#[test]
fn block_status_of_some_contexts_takes_a_list() {
    let session = extended();
    let list = |len: u64, ids: &[u32]| {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        [&len.to_be_bytes()[..], &ids].concat()
    };
    let resolve = |payload: &[u8]| {
        let asked = header(cmd::BLOCK_STATUS, cmd_flag::PAYLOAD_LEN, 512, payload.len() as u64);
        match validate(&asked, &session) {
            Verdict::ReadFilter(filter) => {
                assert_eq!(filter.payload_len(), payload.len());
                filter.resolve(payload, &session)
            }
            verdict => verdict,
        }
    };
    for ids in [&[1][..], &[2], &[2, 1]] {
        let Verdict::Execute(request) = resolve(&list(1 << 40, ids)) else { panic!("{ids:?} is lawful") };
        assert_eq!((request.offset, request.len, request.contexts.len()), (512, 1 << 40, ids.len()));
        let chunks = told(&session, &request, &[]);
        assert!(chunks.iter().all(|(context, _)| ids.contains(context)));
        assert_eq!(chunks.len(), ids.len());
    }
    for payload in [
        list(512, &[]),
        list(512, &[1, 1]),
        list(512, &[3]),
        list(512, &[0]),
        list(0, &[1]),
        list(SIZE, &[1]),
    ] {
        let Verdict::Answer(answer) = resolve(&payload) else { panic!("{payload:?} is no list") };
        assert_eq!(answer.result.map_err(|(errno, _)| errno), Err(Errno::Inval));
        assert!(answer.skip == 0 || answer.skip == payload.len() as u64);
    }
    for len in [0, 4, 8, 11, 13, 8 + 4 * 33, 1 << 20] {
        let asked = header(cmd::BLOCK_STATUS, cmd_flag::PAYLOAD_LEN, 512, len);
        assert_eq!(refused(&session, &asked), (Some(Errno::Inval), len), "a list of {len} bytes");
    }
    // Not offered without a context, so refused like any other payload.
    let negotiated = Negotiated { headers: Headers::Extended, ..Negotiated::default() };
    let bare = Session::new(&exports()[0], &negotiated);
    let asked = header(cmd::BLOCK_STATUS, cmd_flag::PAYLOAD_LEN, 0, 12);
    assert_eq!(refused(&bare, &asked), (Some(Errno::Inval), 12));
}

#[test]
fn resize_is_refused_unless_it_is_offered() {
    for headers in [Headers::Simple, Headers::Structured, Headers::Extended] {
        let make = |features: Features| {
            let negotiated = Negotiated { headers, ..Negotiated::default() };
            session(features, BlockSizes::new(512, 4096, 32 << 20).unwrap(), 1 << 20, negotiated)
        };
        let ask = |len| RequestHeader { len, ..Request::new(Command::Resize, 1, 1 << 21, 0).header(headers) };
        assert_eq!(refused(&make(everything()), &ask(0)), (Some(Errno::Inval), 0));
        assert_eq!(make(everything()).transmission_flags() & 1 << 9, 0);
        let on = Features { resize: true, ..everything() };
        assert_ne!(make(on).transmission_flags() & 1 << 9, 0);
        let mut session = make(on);
        let Verdict::Execute(request) = validate(&ask(0), &session) else { panic!("it is offered") };
        assert_eq!((request.command, request.offset), (Command::Resize, 1 << 21));
        assert_eq!(refused(&session, &ask(512)), (Some(Errno::Inval), 0));
        let read_only = make(Features { read_only: true, ..on });
        assert_eq!(refused(&read_only, &ask(0)), (Some(Errno::Perm), 0));
        let beyond = Request::new(Command::Read, 1, 1 << 20, 512).header(headers);
        assert_eq!(refused(&session, &beyond), (Some(Errno::Inval), 0));
        session.resized(request.offset);
        assert!(matches!(validate(&beyond, &session), Verdict::Execute(_)), "the new size holds at once");
    }
}
