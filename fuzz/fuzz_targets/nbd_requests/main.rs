//! Requests, compact and extended: `validate` and the encoders of replies. What may be carried out is inside
//! the export; every answer is what a client of the same session can decode; a header survives its encoding;
//! nothing depends on how the bytes were cut.

#![no_main]

#[path = "../split.rs"]
mod split;

use libfuzzer_sys::fuzz_target;
use nbd_rs::wire::{cmd, limit};
use nbd_rs::{
    BlockSizes, Command, Context, Contexts, Errno, ExportInfo, Extent, Features, Headers, Negotiated,
    Request, RequestHeader, Session, Verdict, reply, validate,
};

fuzz_target!(|data: &[u8]| {
    let Some(([headers, features, block, status], rest)) = split::decide::<4>(data) else { return };
    let Some((cuts, stream)) = split::decide::<8>(rest) else { return };
    let session = session(headers, features, block);
    let whole = run(session, status, stream, &[stream.len()]);
    assert_eq!(whole, run(session, status, stream, &split::ends(cuts, stream.len())), "other pieces");
});

fn session(headers: u8, features: u8, block: u8) -> Session {
    let on = |bit: u8| features >> bit & 1 != 0;
    let features = Features {
        read_only: on(0),
        flush: on(1),
        fua: on(2),
        rotational: on(3),
        trim: on(4),
        write_zeroes: on(5),
        fast_zero: on(6),
        cache: on(7),
        multi_conn: on(3),
        unaligned_reads: on(2),
        resize: on(4),
    };
    let minimum = 1 << (block & 15);
    let block_sizes = BlockSizes::new(minimum, minimum.max(4096), 32 << 20).expect("lawful sizes");
    let size = [0, 1 << 20, (1 << 40) + 512, i64::MAX as u64][usize::from(block >> 4 & 3)];
    let export = ExportInfo::new("f", size, block_sizes, features).expect("a lawful export");
    let export = export.with_context("x-f:z").expect("a lawful context");
    let contexts = (0..2).filter(|place| headers >> (2 + place) & 1 != 0).filter_map(Context::nth);
    let contexts = contexts.fold(Contexts::NONE, Contexts::with);
    let headers = [Headers::Simple, Headers::Structured, Headers::Extended][usize::from(headers & 3) % 3];
    Session::new(&export, &Negotiated { headers, contexts, sizes_untold: on(1), ..Negotiated::default() })
}

/// What a server sends to a stream, without the data of reads.
fn run(mut session: Session, status: u8, stream: &[u8], ends: &[usize]) -> Vec<u8> {
    let (mut at, mut sent) = (0, Vec::new());
    let headers = session.headers();
    for end in ends {
        loop {
            let input = &stream[at..(*end).max(at)];
            let Some(header) = RequestHeader::parse(input, headers) else { break };
            let encoded = header.encode(headers);
            assert_eq!(encoded.as_bytes(), &input[..headers.request_len()], "a header survives");
            let verdict = validate(&header, &session);
            let payload = match verdict {
                Verdict::Execute(request) => request.payload_len(),
                Verdict::ReadFilter(filter) => filter.payload_len() as u64,
                Verdict::Answer(answer) => answer.skip,
                Verdict::Disconnect | Verdict::Close(_) => return sent,
            };
            assert!(payload <= u64::from(limit::PAYLOAD));
            let whole = headers.request_len() + payload as usize;
            if input.len() < whole {
                break;
            }
            let payload = &input[headers.request_len()..whole];
            let verdict = match verdict {
                Verdict::ReadFilter(filter) => filter.resolve(payload, &session),
                verdict => verdict,
            };
            let before = sent.len();
            match verdict {
                Verdict::Execute(request) => execute(&mut session, &request, status, &mut sent),
                Verdict::Answer(answer) => sent.extend_from_slice(session.answer(&answer).as_bytes()),
                other => panic!("after the payload: {other:?}"),
            }
            check(&sent[before..], &header, headers);
            at += whole;
        }
    }
    sent
}

fn execute(session: &mut Session, request: &Request, status: u8, sent: &mut Vec<u8>) {
    let end = request.offset.checked_add(request.len).expect("it was checked");
    let minimum = u64::from(session.block_sizes().minimum());
    assert!(request.command == Command::Resize || end <= session.size());
    if request.command == Command::Read {
        let (start, len) = session.read_span(request.offset, request.len);
        assert!(start <= request.offset && end <= start + len && start + len <= session.size());
        assert!(start % minimum == 0 && len % minimum == 0);
        assert!(session.unaligned_reads() || (start, len) == (request.offset, request.len));
    } else {
        assert!(request.offset % minimum == 0 && request.len % minimum == 0);
    }
    match (request.command, status & 3) {
        (Command::BlockStatus, _) => {
            let extents = (0..6u64).map(|i| Extent {
                len: u64::from(status).wrapping_mul(i * i) << (i * 8),
                status: u64::from(status >> 4) >> i,
            });
            session.block_status(request, |_| extents.clone(), sent);
        }
        (Command::Resize, 0) => {
            session.resized(request.offset);
            sent.extend_from_slice(session.done(request).as_bytes());
        }
        (Command::Read, 0) => sent.extend_from_slice(session.read_ok(request).as_bytes()),
        (Command::Read, 1) => {
            let good = request.len / 2;
            if let Some(head) = session.read_good_part(request, good) {
                sent.extend_from_slice(head.as_bytes());
            }
            let at = request.offset + good;
            sent.extend_from_slice(session.error_at(request, Errno::Io, at, "half\x1b").as_bytes());
        }
        (_, 0 | 1) => sent.extend_from_slice(session.done(request).as_bytes()),
        (_, _) => sent.extend_from_slice(session.error(request, Errno::NotSup, "no\n").as_bytes()),
    }
}

/// A client can take the answer apart: heads one after the other, of which the last one says so.
fn check(mut answer: &[u8], header: &RequestHeader, headers: Headers) {
    loop {
        let (reply, used) = reply::decode(answer, headers).expect("well-formed").expect("complete");
        assert_eq!(reply.cookie, header.cookie);
        assert_eq!(reply.offset, headers.is_extended().then_some(header.offset));
        answer = &answer[used..];
        if let reply::ReplyBody::BlockStatus { count, .. } = reply.body {
            assert_eq!(header.command, cmd::BLOCK_STATUS);
            answer = &answer[count as usize * reply::extent_len(headers)..];
        }
        if reply.done {
            assert!(answer.is_empty(), "nothing behind the last chunk");
            return;
        }
    }
}
