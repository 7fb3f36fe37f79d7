//! Requests and replies: each rule as a table, and `validate` against a slow oracle under random headers.

use crate::common::*;
use nbd_rs::reply::{self, ChunkTo, Reply, ReplyBody};
use nbd_rs::wire::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, cmd, cmd_flag, limit};
use nbd_rs::{
    BlockSizes, ClientMisbehaved, Command, Context, Contexts, Errno, Features, Headers, Negotiated, Request,
    RequestHeader, Session, Verdict, validate,
};

const SIZE: u64 = 1 << 20;

fn block() -> BlockSizes {
    BlockSizes::new(512, 4096, 32 << 20).unwrap()
}

fn negotiated(structured: bool, contexts: bool) -> Negotiated {
    negotiated_as(if structured { Headers::Structured } else { Headers::Simple }, contexts)
}

fn negotiated_as(headers: Headers, contexts: bool) -> Negotiated {
    let contexts = if contexts { Contexts::NONE.with(Context::BASE_ALLOCATION) } else { Contexts::NONE };
    Negotiated { headers, contexts, ..Negotiated::default() }
}

fn plain() -> Session {
    session(everything(), block(), SIZE, negotiated(false, false))
}

fn full() -> Session {
    session(everything(), block(), SIZE, negotiated(true, true))
}

fn header(command: u16, flags: u16, offset: u64, len: u64) -> RequestHeader {
    RequestHeader { magic: REQUEST_MAGIC, flags, command, cookie: 0x0123_4567_89ab_cdef, offset, len }
}

/// The errno of the answer; `None` when the request is carried out or answered with success.
fn errno(session: &Session, header: &RequestHeader) -> Option<Errno> {
    match validate(header, session) {
        Verdict::Execute(request) => {
            assert_eq!(request.header(session.headers()), *header);
            None
        }
        Verdict::Answer(answer) => {
            assert_eq!(answer.cookie, header.cookie);
            assert_eq!(answer.skip, if header.command == cmd::WRITE { header.len } else { 0 });
            answer.result.err().map(|(errno, _)| errno)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_travel_as_the_protocol_draws_them() {
    let request = Request { fua: true, ..Request::new(Command::Write, 7, 4096, 512) };
    let frame = request.header(Headers::Simple).encode(Headers::Simple);
    let wire = frame.as_bytes();
    assert_eq!(wire[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
    assert_eq!(wire[8..16], 7u64.to_be_bytes());
    assert_eq!(wire[16..24], 4096u64.to_be_bytes());
    assert_eq!(wire[24..], 512u32.to_be_bytes());
    let header = request.header(Headers::Simple);
    assert_eq!(RequestHeader::parse(wire, Headers::Simple), Some(header));
    assert_eq!(validate(&header, &plain()), Verdict::Execute(request));
}

#[test]
fn past_the_end_has_an_errno_a_command() {
    let table = [
        (cmd::READ, Errno::Inval),
        (cmd::WRITE, Errno::NoSpc),
        (cmd::TRIM, Errno::Inval),
        (cmd::CACHE, Errno::Inval),
        (cmd::WRITE_ZEROES, Errno::NoSpc),
        (cmd::BLOCK_STATUS, Errno::Inval),
    ];
    for (command, expected) in table {
        for (offset, len) in
            [(SIZE, 512), (SIZE - 512, 1024), (u64::MAX - 511, 512), (u64::MAX - 4095, 8192), (1 << 63, 512)]
        {
            let refused = errno(&full(), &header(command, 0, offset, len));
            assert_eq!(refused, Some(expected), "command {command} at {offset}+{len}");
        }
        assert_eq!(errno(&full(), &header(command, 0, SIZE - 512, 512)), None);
    }
}

/// Only reads, only of clients that cannot know better, only if the export serves them, and never past the
/// end or longer than a payload.
#[test]
fn unaligned_reads_are_for_those_who_know_no_block_sizes() {
    let of = |unaligned_reads: bool, sizes_untold: bool| {
        let negotiated = Negotiated { sizes_untold, ..negotiated(false, false) };
        session(Features { unaligned_reads, ..everything() }, block(), SIZE, negotiated)
    };
    let odd = of(true, true);
    for (offset, len) in [(1, 1), (511, 2), (513, 512), (0, 100), (SIZE - 1, 1)] {
        assert_eq!(errno(&odd, &header(cmd::READ, 0, offset, len)), None, "{offset}+{len}");
        for other in [of(true, false), of(false, true)] {
            assert_eq!(errno(&other, &header(cmd::READ, 0, offset, len)), Some(Errno::Inval));
        }
        for command in [cmd::WRITE, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES] {
            assert_eq!(errno(&odd, &header(command, 0, offset, len)), Some(Errno::Inval));
        }
        let (start, span) = odd.read_span(offset, len);
        let end = start + span;
        assert!(start % 512 == 0 && end % 512 == 0 && end <= SIZE);
        assert!(start <= offset && offset - start < 512 && offset + len <= end && end - (offset + len) < 512);
    }
    assert_eq!(errno(&odd, &header(cmd::READ, 0, SIZE - 1, 2)), Some(Errno::Inval));
    assert_eq!(errno(&odd, &header(cmd::READ, 0, u64::MAX, 2)), Some(Errno::Inval));
    let negotiated = Negotiated { sizes_untold: true, ..negotiated(false, false) };
    let large = session(Features { unaligned_reads: true, ..everything() }, block(), 1 << 40, negotiated);
    let most = u64::from(limit::PAYLOAD);
    assert_eq!(errno(&large, &header(cmd::READ, 0, 512, most)), None);
    assert_eq!(errno(&large, &header(cmd::READ, 0, 1, most)), Some(Errno::Inval));
    assert_eq!(large.read_span(u64::MAX - 511, u64::MAX), (u64::MAX - 511, u64::MAX));
}

#[test]
fn read_only_refuses_every_write() {
    let features = Features { read_only: true, ..everything() };
    let session = session(features, block(), SIZE, negotiated(true, false));
    for command in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
        for len in [0, 512, 4096] {
            assert_eq!(errno(&session, &header(command, 0, 0, len)), Some(Errno::Perm));
        }
    }
    assert_eq!(errno(&session, &header(cmd::READ, 0, 0, 512)), None);
    assert_eq!(errno(&session, &header(cmd::FLUSH, 0, 0, 0)), None);
}

#[test]
fn each_command_has_its_flags() {
    use cmd_flag::{DF, FAST_ZERO, FUA, NO_HOLE, REQ_ONE};
    let fast = session(Features { fast_zero: true, ..everything() }, block(), SIZE, negotiated(true, true));
    let no_fua = session(Features { fua: false, ..everything() }, block(), SIZE, negotiated(true, true));
    let table = [
        (cmd::READ, FUA | DF),
        (cmd::WRITE, FUA),
        (cmd::FLUSH, FUA),
        (cmd::TRIM, FUA),
        (cmd::CACHE, FUA),
        (cmd::WRITE_ZEROES, FUA | NO_HOLE | FAST_ZERO),
        (cmd::BLOCK_STATUS, FUA | REQ_ONE),
    ];
    for (command, allowed) in table {
        for bit in (0..16).map(|n| 1u16 << n) {
            let len = if command == cmd::FLUSH { 0 } else { 4096 };
            let header = header(command, bit, 0, len);
            let want = |allowed: u16| if allowed & bit == 0 { Some(Errno::Inval) } else { None };
            assert_eq!(errno(&fast, &header), want(allowed), "command {command} flag {bit:#x}");
            assert_eq!(errno(&full(), &header), want(allowed & !FAST_ZERO));
            assert_eq!(errno(&no_fua, &header), want(allowed & !FUA & !FAST_ZERO));
            if command != cmd::BLOCK_STATUS {
                assert_eq!(errno(&plain(), &header), want(allowed & !FAST_ZERO & !DF));
            }
        }
    }
}

#[test]
fn commands_that_are_not_offered_are_invalid() {
    let bare = session(Features::default(), block(), SIZE, negotiated(true, false));
    for command in [cmd::FLUSH, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS, 8, 9, 0xffff] {
        let len = if command == cmd::FLUSH { 0 } else { 512 };
        assert_eq!(errno(&bare, &header(command, 0, 0, len)), Some(Errno::Inval), "command {command}");
    }
    assert_eq!(errno(&bare, &header(cmd::WRITE, 0, 0, 512)), None);
    let only_simple = session(everything(), block(), SIZE, negotiated(false, true));
    assert_eq!(errno(&only_simple, &header(cmd::BLOCK_STATUS, 0, 0, 512)), Some(Errno::Inval));
}

#[test]
fn misaligned_ranges_and_flushes_with_a_range_are_invalid() {
    for (offset, len) in [(1, 512), (0, 1), (511, 1), (512, 513), (SIZE - 513, 512)] {
        for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES, cmd::BLOCK_STATUS] {
            assert_eq!(errno(&full(), &header(command, 0, offset, len)), Some(Errno::Inval));
        }
    }
    for (offset, len) in [(512, 0), (0, 512)] {
        assert_eq!(errno(&full(), &header(cmd::FLUSH, 0, offset, len)), Some(Errno::Inval));
    }
    assert!(matches!(validate(&header(cmd::FLUSH, 0, 0, 0), &plain()), Verdict::Execute(_)));
}

#[test]
fn zero_length_succeeds_at_once() {
    for session in [plain(), full()] {
        for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES] {
            let Verdict::Answer(answer) = validate(&header(command, 0, 512, 0), &session) else {
                panic!("command {command} of zero length is to be answered");
            };
            assert_eq!((answer.result, answer.skip), (Ok(()), 0));
            let sent = session.answer(&answer);
            let body = match session.structured() && command == cmd::READ {
                true => ReplyBody::None,
                false => ReplyBody::Simple(None),
            };
            let expected = Reply { cookie: answer.cookie, offset: None, done: true, body };
            assert_eq!(
                reply::decode(sent.as_bytes(), Headers::Structured),
                Ok(Some((expected, sent.as_bytes().len())))
            );
        }
    }
    assert_eq!(errno(&full(), &header(cmd::BLOCK_STATUS, 0, 0, 0)), Some(Errno::Inval));
}

#[test]
fn sizes_up_to_64_mib_are_served_and_4_gib_of_zeroes() {
    let of = |structured| session(everything(), block(), 1 << 40, negotiated(structured, false));
    for len in [33 << 20, 64 << 20] {
        assert_eq!(errno(&of(true), &header(cmd::READ, 0, 0, len)), None);
        assert_eq!(errno(&of(true), &header(cmd::WRITE, 0, 0, len)), None);
    }
    let over = (64 << 20) + 512;
    assert_eq!(errno(&of(true), &header(cmd::READ, 0, 0, over)), Some(Errno::Overflow));
    assert_eq!(errno(&of(false), &header(cmd::READ, 0, 0, over)), Some(Errno::Inval));
    for (command, len) in [(cmd::WRITE_ZEROES, (1 << 32) - 512), (cmd::TRIM, (1 << 32) - 512)] {
        assert_eq!(errno(&of(false), &header(command, 0, 512, len)), None);
    }
    for len in [over, 1 << 31, u64::from(u32::MAX)] {
        let why = ClientMisbehaved::PayloadTooLarge(len);
        assert_eq!(validate(&header(cmd::WRITE, 0, 0, len), &full()), Verdict::Close(why));
    }
}

#[test]
fn disconnect_and_bad_magic_end_the_connection() {
    let mut session = full();
    for (flags, offset, len) in [(0, 0, 0), (0xffff, 7, u64::from(u32::MAX))] {
        assert_eq!(validate(&header(cmd::DISC, flags, offset, len), &session), Verdict::Disconnect);
    }
    let bad = RequestHeader { magic: REQUEST_MAGIC + 1, ..header(cmd::READ, 0, 0, 512) };
    let why = ClientMisbehaved::RequestMagic(REQUEST_MAGIC + 1);
    assert_eq!(validate(&bad, &session), Verdict::Close(why));
    session.drain();
    for command in [cmd::READ, cmd::WRITE, cmd::FLUSH, 77] {
        assert_eq!(errno(&session, &header(command, 0, 0, 512)), Some(Errno::Shutdown));
    }
    assert_eq!(validate(&header(cmd::DISC, 0, 0, 0), &session), Verdict::Disconnect);
}

fn decoded(bytes: &[u8]) -> Reply {
    decoded_as(bytes, Headers::Structured)
}

fn decoded_as(bytes: &[u8], headers: Headers) -> Reply {
    for cut in 0..bytes.len() {
        assert_eq!(reply::decode(&bytes[..cut], headers), Ok(None), "{cut} of {} bytes", bytes.len());
    }
    let (reply, used) = reply::decode(bytes, headers).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    reply
}

#[test]
fn a_structured_session_never_answers_a_read_simply() {
    let request = Request::new(Command::Read, 9, 4096, 8192);
    assert_eq!(decoded(plain().read_ok(&request).as_bytes()).body, ReplyBody::Simple(None));
    let data = ReplyBody::Data { offset: 4096, len: 8192 };
    assert_eq!(
        decoded(full().read_ok(&request).as_bytes()),
        Reply { cookie: 9, offset: None, done: true, body: data }
    );

    let failed = plain().error(&request, Errno::Io, "text");
    assert_eq!(decoded(failed.as_bytes()).body, ReplyBody::Simple(Some(Errno::Io)));
    let failed = decoded(full().error(&request, Errno::Io, "vol: two members\nmissing").as_bytes());
    let message = "vol: two members?missing".to_owned();
    assert_eq!(failed.body, ReplyBody::Error { errno: Errno::Io, offset: None, message });
    assert!(failed.done);

    for raw in
        [header(cmd::READ, 0x8000, 0, 512), header(cmd::READ, 0, 3, 512), header(cmd::READ, 0, SIZE, 512)]
    {
        let Verdict::Answer(answer) = validate(&raw, &full()) else { panic!("must be refused") };
        let sent = decoded(full().answer(&answer).as_bytes());
        assert!(matches!(sent.body, ReplyBody::Error { errno: Errno::Inval, offset: None, .. }));
    }
}

#[test]
fn a_read_that_fails_half_way_names_the_byte() {
    let request = Request::new(Command::Read, 9, 4096, 8192);
    let good = decoded(full().read_good_part(&request, 512).unwrap().as_bytes());
    assert_eq!((good.done, good.body), (false, ReplyBody::Data { offset: 4096, len: 512 }));
    assert_eq!(full().read_good_part(&request, 0), None);
    assert_eq!(full().read_good_part(&request, 8192), None);
    assert_eq!(plain().read_good_part(&request, 512), None);
    let offset_of = |at| match decoded(full().error_at(&request, Errno::Io, at, "lost").as_bytes()).body {
        ReplyBody::Error { offset, .. } => offset,
        other => panic!("{other:?}"),
    };
    assert_eq!(offset_of(4608), Some(4608));
    assert_eq!(offset_of(4095), None, "the offset must lie in the request");
    assert_eq!(offset_of(4096 + 8192), None);
    let simple = decoded(plain().error_at(&request, Errno::Io, 4608, "lost").as_bytes());
    assert_eq!(simple.body, ReplyBody::Simple(Some(Errno::Io)));
}

#[test]
fn errors_that_clients_would_misread_become_eio() {
    let zero = Request::new(Command::WriteZeroes, 1, 0, 512);
    let fast = Request { fast_zero: true, ..zero };
    let read = Request::new(Command::Read, 1, 0, 512);
    for (request, errno, expected) in [
        (zero, Errno::NotSup, Errno::Io),
        (fast, Errno::NotSup, Errno::NotSup),
        (zero, Errno::Overflow, Errno::Io),
        (read, Errno::Overflow, Errno::Overflow),
        (read, Errno::NotSup, Errno::Io),
    ] {
        let sent = decoded(plain().error(&request, errno, "").as_bytes());
        assert_eq!(sent.body, ReplyBody::Simple(Some(expected)));
    }
}

#[test]
fn long_error_texts_are_cut_between_characters() {
    let request = Request::new(Command::Write, 1, 0, 512);
    for text in ["ü".repeat(4000), "x\u{1b}\0".repeat(4000)] {
        for sent in [full().error(&request, Errno::Io, &text), full().error_at(&request, Errno::Io, 0, &text)]
        {
            let ReplyBody::Error { message, .. } = decoded(sent.as_bytes()).body else { panic!("no error") };
            assert!(message.len() <= reply::ERROR_TEXT_MAX && message.len() + 4 > reply::ERROR_TEXT_MAX);
            assert!(!message.contains(|c: char| c.is_control() || c == '\u{fffd}'));
        }
    }
}

#[test]
fn holes_and_ends_decode_as_encoded() {
    for (to, headers) in
        [(ChunkTo::structured(3), Headers::Structured), (ChunkTo::extended(3, 77), Headers::Extended)]
    {
        let hole = decoded_as(to.offset_hole(512, 1024, false).as_bytes(), headers);
        assert_eq!((hole.done, hole.body), (false, ReplyBody::Hole { offset: 512, len: 1024 }));
        let end = decoded_as(to.none().as_bytes(), headers);
        assert_eq!((end.done, end.body), (true, ReplyBody::None));
        assert_eq!(end.offset, headers.is_extended().then_some(77));
    }
}

#[test]
fn a_client_refuses_chunks_that_contradict_themselves() {
    let chunk = |flags: u16, kind: u16, len: u32, payload: &[u8]| {
        let magic = 0x668e_33ef_u32.to_be_bytes();
        [&magic[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &[0; 8], &len.to_be_bytes(), payload].concat()
    };
    for bad in [
        chunk(0, 0, 0, b""),
        chunk(1, 0, 1, b"x"),
        chunk(1, 1, 8, &[0; 8]),
        chunk(1, 2, 11, &[0; 11]),
        chunk(1, 2, 12, &[0; 12]),
        chunk(1, 5, 4, &[0; 4]),
        chunk(1, 5, 13, &[0; 13]),
        chunk(1, 3, 0, b""),
        chunk(1, 0x8001, 5, &[0; 5]),
        chunk(1, 0x8001, 6, &[0, 0, 0, 5, 0, 1]),
        chunk(1, 0x8002, 6, &[0, 0, 0, 5, 0, 0]),
        chunk(1, 0x8001, u32::MAX, &[0; 64]),
        b"xxxx".to_vec(),
    ] {
        assert!(reply::decode(&bad, Headers::Structured).is_err(), "{bad:?}");
    }
    let unknown_error = chunk(1, 0x8077, 9, &[0, 0, 0, 5, 0, 2, b'h', b'i', 0]);
    let ReplyBody::Error { errno, message, .. } = decoded(&unknown_error).body else { panic!("an error") };
    assert_eq!((errno, message.as_str()), (Errno::Io, "hi"));
}

/// The rules again, slowly, in arithmetic that cannot overflow. `Ok(true)` is to be carried out.
fn oracle(h: &RequestHeader, s: &Session) -> Result<bool, Errno> {
    let f = s.features();
    let bit = |b: u16| h.flags & b != 0;
    let (offset, len) = (u128::from(h.offset), u128::from(h.len));
    let writes = [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES, cmd::RESIZE].contains(&h.command);
    let extended = s.headers().is_extended();
    if h.command > cmd::RESIZE {
        return Err(Errno::Inval);
    }
    if writes && f.read_only {
        return Err(Errno::Perm);
    }
    let offered = [
        (cmd::FLUSH, f.flush),
        (cmd::TRIM, f.trim),
        (cmd::CACHE, f.cache),
        (cmd::WRITE_ZEROES, f.write_zeroes),
        (cmd::RESIZE, f.resize),
        (cmd::BLOCK_STATUS, s.structured() && !s.contexts().is_empty()),
    ];
    if offered.iter().any(|(command, on)| *command == h.command && !on) {
        return Err(Errno::Inval);
    }
    let takes_payload = extended && [cmd::WRITE, cmd::BLOCK_STATUS].contains(&h.command);
    let flag_is_wrong = h.flags >= 64
        || (bit(32) && !takes_payload)
        || (bit(1) && !f.fua)
        || (bit(2) && h.command != cmd::WRITE_ZEROES)
        || (bit(4) && !(h.command == cmd::READ && s.structured()))
        || (bit(8) && h.command != cmd::BLOCK_STATUS)
        || (bit(16) && !(h.command == cmd::WRITE_ZEROES && f.fast_zero));
    if flag_is_wrong {
        return Err(Errno::Inval);
    }
    if h.command == cmd::FLUSH {
        return if offset + len == 0 { Ok(true) } else { Err(Errno::Inval) };
    }
    let minimum = u128::from(s.block_sizes().minimum());
    if h.command == cmd::RESIZE {
        let good = len == 0 && offset % minimum == 0 && offset < 1 << 63;
        return if good { Ok(true) } else { Err(Errno::Inval) };
    }
    if h.command == cmd::BLOCK_STATUS && bit(32) {
        let good = len > 8 && len % 4 == 0 && len <= 8 + 4 * 32;
        return if good { Ok(true) } else { Err(Errno::Inval) };
    }
    if offset + len > u128::from(s.size()) {
        let space = h.command == cmd::WRITE || h.command == cmd::WRITE_ZEROES;
        return Err(if space { Errno::NoSpc } else { Errno::Inval });
    }
    let odd = h.command == cmd::READ && s.unaligned_reads();
    if !odd && (offset % minimum != 0 || len % minimum != 0) {
        return Err(Errno::Inval);
    }
    let blocks = (offset + len).div_ceil(minimum) - offset / minimum;
    if h.command == cmd::READ && blocks * minimum > 64 << 20 {
        return Err(if s.structured() { Errno::Overflow } else { Errno::Inval });
    }
    if h.command == cmd::BLOCK_STATUS && len == 0 {
        return Err(Errno::Inval);
    }
    Ok(len > 0)
}

fn random_session(rng: &mut Rng) -> Session {
    let bits = rng.next();
    let on = |n: u32| bits >> n & 3 != 0;
    let features = Features {
        read_only: !on(0),
        flush: on(2),
        fua: on(4),
        rotational: on(6),
        trim: on(8),
        write_zeroes: on(10),
        fast_zero: on(12),
        cache: on(14),
        multi_conn: on(16),
        unaligned_reads: on(24),
        resize: on(22),
    };
    let minimum = rng.pick(&[1, 512, 4096]);
    let size = rng.pick(&[0, 4096, SIZE, SIZE + 511, 1 << 40, i64::MAX as u64]);
    let headers = rng.pick(&[Headers::Simple, Headers::Structured, Headers::Extended]);
    let block = BlockSizes::new(minimum, 4096, 32 << 20).unwrap();
    let sizes_untold = headers != Headers::Extended && !on(26);
    session(features, block, size, Negotiated { sizes_untold, ..negotiated_as(headers, on(20)) })
}

fn random_header(rng: &mut Rng, session: &Session) -> RequestHeader {
    let (size, extended) = (session.size(), session.headers().is_extended());
    let near = |rng: &mut Rng, at: u64| {
        let step = rng.pick(&[1u64, 512, 4096, 4096, 4096]) * rng.below(4);
        if rng.below(2) == 0 { at.wrapping_add(step) } else { at.wrapping_sub(step) }
    };
    let anchor = rng.pick(&[0, size / 2, size / 2, size, u64::MAX, 1 << 63]);
    let offset = if rng.below(8) == 0 { rng.next() } else { near(rng, anchor) };
    let anchor = rng.pick(&[0u64, 0, 4096, 64 << 20, u64::from(u32::MAX), size, 16]);
    let len = near(rng, anchor);
    // Half of the ranges are good ones, so that the rules about everything else are reached too.
    let (offset, len) = match rng.below(2) {
        0 => (offset, len),
        _ => (rng.below(size / 4096) * 4096, rng.pick(&[0, 4096, 4096, 4096])),
    };
    let flags = if rng.below(2) == 0 { 0 } else { rng.pick(&[1, 2, 4, 8, 16, 32, 3, 5, 9, 0x8000]) };
    let command = rng.below(10) as u16;
    if !extended {
        return header(command, flags, offset, len & u64::from(u32::MAX));
    }
    if command == cmd::BLOCK_STATUS && rng.below(3) == 0 {
        let len = rng.pick(&[8, 12, 16, 18, 136, 140, 0]);
        let magic = EXTENDED_REQUEST_MAGIC;
        return RequestHeader { magic, ..header(command, 32 | rng.pick(&[0, 8, 1, 4]), offset, len) };
    }
    let payload = if command == cmd::WRITE && rng.below(8) > 0 { 32 } else { 0 };
    RequestHeader { magic: EXTENDED_REQUEST_MAGIC, ..header(command, flags | payload, offset, len) }
}

/// Bytes of payload behind a header.
fn payload_of(header: &RequestHeader, session: &Session) -> u64 {
    let extended = session.headers().is_extended();
    let has = header.command == cmd::WRITE || (extended && header.flags & 32 != 0);
    if has { header.len } else { 0 }
}

#[test]
fn an_extended_write_has_a_payload_whatever_its_flag_says() {
    let session =
        session(Features::default(), BlockSizes::default(), SIZE, negotiated_as(Headers::Extended, false));
    for flags in [0, 32] {
        let header = RequestHeader { magic: EXTENDED_REQUEST_MAGIC, ..header(cmd::WRITE, flags, 0, 4096) };
        let Verdict::Execute(request) = validate(&header, &session) else { panic!("{header:?}") };
        assert_eq!(request.payload_len(), 4096);
        let header = RequestHeader { offset: SIZE, ..header };
        let Verdict::Answer(answer) = validate(&header, &session) else { panic!("{header:?}") };
        assert_eq!((answer.skip, answer.result.unwrap_err().0), (4096, Errno::NoSpc));
    }
}

#[test]
fn validate_agrees_with_the_oracle() {
    let seed = 0x6e62_6401;
    let mut rng = Rng(seed);
    let (mut carried_out, mut filters) = (0, 0);
    for round in 0..rounds(300_000) {
        let session = random_session(&mut rng);
        let header = random_header(&mut rng, &session);
        let place = || format!("seed {seed:#x} round {round}: {header:?} in {session:?}");
        match validate(&header, &session) {
            Verdict::Execute(request) => {
                assert_eq!(oracle(&header, &session), Ok(true), "{}", place());
                // What the server does without, our own client sends.
                let flag =
                    if session.headers().is_extended() && header.command == cmd::WRITE { 32 } else { 0 };
                let as_asked = RequestHeader { flags: header.flags | flag, ..header };
                assert_eq!(request.header(session.headers()), as_asked, "{}", place());
                assert_eq!(request.payload_len(), payload_of(&header, &session), "{}", place());
                carried_out += 1;
            }
            Verdict::ReadFilter(filter) => {
                assert_eq!(oracle(&header, &session), Ok(true), "{}", place());
                assert_eq!(filter.payload_len() as u64, payload_of(&header, &session), "{}", place());
                filters += 1;
            }
            Verdict::Answer(answer) => {
                let expected =
                    oracle(&header, &session).map(|carried_out| assert!(!carried_out, "{}", place()));
                assert_eq!(answer.result.map_err(|(errno, _)| errno), expected, "{}", place());
                assert_eq!(answer.skip, payload_of(&header, &session), "{}", place());
            }
            Verdict::Disconnect => assert_eq!(header.command, cmd::DISC, "{}", place()),
            Verdict::Close(_) => assert!(payload_of(&header, &session) > 64 << 20, "{}", place()),
        }
    }
    assert!(carried_out > 10_000, "the generator must reach good requests too, not only {carried_out}");
    assert!(filters > 100, "the generator must reach lists of contexts too, not only {filters}");
}
