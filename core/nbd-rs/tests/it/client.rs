//! The client against our own server, and against servers that answer what was not asked.

use crate::common::*;
use nbd_rs::reply::{self, ChunkTo, Extent};
use nbd_rs::wire::{opt, rep};
use nbd_rs::{
    ApiMisuse, ClientHandshake, ClientOutcome, ClientSession, Command, Errno, Event, Goal, HandshakeError,
    Headers, Listed, Outcome, Remote, RemoteContext, Request, ServerConfig, ServerHandshake,
    ServerMisbehaved, TlsPolicy, WantTls, Wanted,
};

/// What a client learned from our server, and whether both agreed that TLS was started.
fn meet(wanted: Wanted, tls: TlsPolicy) -> (Result<ClientOutcome, HandshakeError>, bool) {
    let mut server = ServerHandshake::new(exports(), ServerConfig { tls, list: true });
    let mut client = ClientHandshake::new(wanted).unwrap();
    let (mut secure, mut to_client) = ((false, false), Vec::new());
    for _ in 0..100 {
        to_client.extend_from_slice(server.output());
        server.output_sent(usize::MAX);
        let fed = match client.feed(&to_client) {
            Ok(fed) => fed,
            Err(error) => return (Err(error), secure == (true, true)),
        };
        to_client.drain(..fed.consumed);
        match fed.outcome {
            Some(ClientOutcome::StartTls) => {
                assert!(client.output().is_empty(), "nothing more in the clear");
                client.tls_started();
                secure.1 = true;
            }
            Some(outcome) => return (Ok(outcome), secure == (true, true)),
            None => {}
        }
        let output = client.output().to_vec();
        client.output_sent(output.len());
        let mut rest = &output[..];
        while !rest.is_empty() && server.output().is_empty() {
            let fed = server.feed(rest);
            rest = &rest[fed.consumed..];
            if fed.outcome == Some(Outcome::StartTls) {
                // The answer is the last that is sent in the clear.
                to_client.extend_from_slice(server.output());
                server.output_sent(usize::MAX);
                server.tls_started();
                secure.0 = true;
            }
        }
        assert!(rest.is_empty(), "a client asks one thing at a time");
    }
    panic!("the client never ends");
}

fn extended(goal: Goal) -> Wanted {
    let contexts = vec!["x-test:second".to_owned(), "base:allocation".to_owned()];
    Wanted { goal, headers: Headers::Extended, contexts, ..Wanted::default() }
}

#[test]
fn a_client_starts_tls_where_it_can_and_must() {
    for (want, policy, secured) in [
        (WantTls::Required, TlsPolicy::Required, true),
        (WantTls::Required, TlsPolicy::Offered, true),
        (WantTls::IfOffered, TlsPolicy::Required, true),
        (WantTls::IfOffered, TlsPolicy::Unsupported, false),
        (WantTls::IfOffered, TlsPolicy::Refused, false),
        (WantTls::Never, TlsPolicy::Offered, false),
    ] {
        let (outcome, both) = meet(Wanted { tls: want, ..extended(Goal::Go) }, policy);
        let outcome = outcome.unwrap();
        let remote = outcome.remote().expect("transmission");
        assert_eq!((remote.headers, remote.contexts.len(), both), (Headers::Extended, 2, secured));
    }
    for (want, policy, option, reply) in [
        (WantTls::Required, TlsPolicy::Unsupported, opt::STARTTLS, rep::ERR_UNSUP),
        (WantTls::Required, TlsPolicy::Refused, opt::STARTTLS, rep::ERR_POLICY),
        (WantTls::Never, TlsPolicy::Required, opt::GO, rep::ERR_TLS_REQD),
    ] {
        let refused = meet(Wanted { tls: want, ..extended(Goal::Go) }, policy).0.unwrap_err();
        assert!(
            matches!(&refused, HandshakeError::Refused { option: o, reply: r, .. } if (*o, *r) == (option, reply)),
            "{refused}"
        );
    }
}

#[test]
fn a_client_looks_around_without_going_in() {
    let listed =
        |name: &str, description: &str| Listed { name: name.into(), description: description.into() };
    let exports = vec![listed("main", "the volume"), listed("kept", "")];
    assert_eq!(meet(extended(Goal::List), TlsPolicy::Unsupported).0, Ok(ClientOutcome::Exports(exports)));

    let Ok(ClientOutcome::Transmission(gone)) = meet(extended(Goal::Go), TlsPolicy::Unsupported).0 else {
        panic!("GO leads to transmission")
    };
    let described = meet(extended(Goal::Describe), TlsPolicy::Unsupported).0;
    assert_eq!(described, Ok(ClientOutcome::Described(gone)), "INFO says what GO says");

    let contexts = |queries: &[&str]| {
        let contexts = queries.iter().map(|q| (*q).to_owned()).collect();
        let wanted = Wanted { contexts, ..extended(Goal::ListContexts) };
        match meet(wanted, TlsPolicy::Unsupported).0 {
            Ok(ClientOutcome::Contexts(names)) => names,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(contexts(&[]), ["base:allocation", "x-test:second"]);
    assert_eq!(contexts(&["x-test:"]), ["x-test:second"]);
    let simple = Wanted { goal: Goal::ListContexts, ..Wanted::default() };
    assert_eq!(meet(simple, TlsPolicy::Unsupported).0, Err(HandshakeError::NoChunks));
}

#[test]
fn what_a_client_cannot_ask_is_said_before_a_byte_is_sent() {
    let long = Wanted { contexts: vec!["x:".to_owned() + &"y".repeat(5000)], ..Wanted::default() };
    assert!(matches!(ClientHandshake::new(long), Err(ApiMisuse::Context(_))));
    let many = Wanted { contexts: vec!["x:".to_owned() + &"y".repeat(4000); 16], ..Wanted::default() };
    assert!(matches!(ClientHandshake::new(many), Err(ApiMisuse::Context(_))));
    let mut client = session(Headers::Structured, &[]);
    let read = Request::new(Command::Read, 1, 0, 512);
    client.request(&read).unwrap();
    assert_eq!(client.request(&read), Err(ApiMisuse::CookieInUse(1)));
    let long = Request::new(Command::WriteZeroes, 2, 0, 1 << 32);
    assert_eq!(client.request(&long), Err(ApiMisuse::RequestLength(1 << 32)));
    assert!(session(Headers::Extended, &[]).request(&long).is_ok());
    let status = Request::new(Command::BlockStatus, 2, 0, 512);
    assert_eq!(client.request(&status), Err(ApiMisuse::StatusContexts));
    let mut client = session(Headers::Extended, &[1, 2]);
    for list in [&[][..], &[3], &[1, 1], &[1, 2, 3]] {
        assert_eq!(client.status_of(&status, list), Err(ApiMisuse::StatusContexts), "{list:?}");
    }
    let message = client.status_of(&status, &[2]).unwrap();
    assert_eq!(message.len(), 32 + 12);
    assert_eq!(message[32..], [&512u64.to_be_bytes()[..], &2u32.to_be_bytes()].concat());
}

const SIZE: u64 = 1 << 20;

fn session(headers: Headers, contexts: &[u32]) -> ClientSession {
    let contexts = contexts.iter().map(|id| RemoteContext { name: format!("x-t:{id}"), id: *id }).collect();
    ClientSession::new(&Remote { size: SIZE, flags: 0x1fff, headers, contexts, ..Remote::default() })
}

/// Asks, feeds the answer, and returns how the request ended or how the server misbehaved.
fn answered(
    client: &mut ClientSession,
    request: &Request,
    answer: &[u8],
) -> Result<Option<Result<(), Errno>>, ServerMisbehaved> {
    client.request(request).unwrap();
    let (mut at, mut end) = (0, None);
    loop {
        let fed = client.feed(&answer[at..])?;
        at += fed.consumed;
        match fed.event {
            Some(Event::Finished { cookie, result }) => {
                assert_eq!(cookie, request.cookie);
                end = Some(result);
            }
            Some(_) => {}
            None => {
                assert_eq!(at, answer.len());
                return Ok(end);
            }
        }
    }
}

/// Chunks one after the other.
fn parts(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn to(headers: Headers) -> ChunkTo {
    if headers.is_extended() { ChunkTo::extended(7, 4096) } else { ChunkTo::structured(7) }
}

fn status(to: ChunkTo, context: u32, lens: &[u64], done: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let extents: Vec<_> = lens.iter().map(|len| Extent { len: *len, status: 0 }).collect();
    to.block_status(context, &extents, done, &mut out);
    out
}

#[test]
fn a_read_may_come_in_any_chunks_that_make_it_whole() {
    let read = Request::new(Command::Read, 7, 4096, 2048);
    for headers in [Headers::Structured, Headers::Extended] {
        let to = to(headers);
        let data = |offset, len: usize, done| {
            [to.offset_data(offset, len as u64, done).as_bytes(), &vec![5; len]].concat()
        };
        let hole = |offset, len, done| to.offset_hole(offset, len, done).as_bytes().to_vec();
        for answer in [
            parts(&[&data(4096, 2048, true)]),
            parts(&[&data(5120, 1024, false), &data(4096, 512, false), &hole(4608, 512, true)]),
            parts(&[&hole(4096, 2048, false), to.none().as_bytes()]),
        ] {
            assert_eq!(answered(&mut session(headers, &[]), &read, &answer), Ok(Some(Ok(()))));
        }
        let failed = to.error_offset(Errno::Io, "bad", 4608);
        let answer = parts(&[&data(4096, 512, false), failed.as_bytes()]);
        assert_eq!(answered(&mut session(headers, &[]), &read, &answer), Ok(Some(Err(Errno::Io))));
    }
}

#[test]
fn a_read_that_is_answered_wrong_ends_the_session() {
    let read = Request::new(Command::Read, 7, 4096, 2048);
    let df = Request { df: true, ..read };
    let write = Request { command: Command::Write, ..read };
    for headers in [Headers::Structured, Headers::Extended] {
        let to = to(headers);
        let other = if headers.is_extended() { ChunkTo::extended(8, 4096) } else { ChunkTo::structured(8) };
        let data = |offset, len: usize, done| {
            [to.offset_data(offset, len as u64, done).as_bytes(), &vec![5; len]].concat()
        };
        let mut wrong = vec![
            ("a part is missing", read, data(4096, 1024, true)),
            ("nothing came", read, to.none().as_bytes().to_vec()),
            ("before its range", read, data(3584, 1024, false)),
            ("behind its range", read, data(5632, 1024, false)),
            ("wrapped around", read, data(u64::MAX - 511, 1024, false)),
            ("twice", read, parts(&[&data(4096, 1024, false), &data(4608, 512, false)])),
            ("twice, around", read, parts(&[&data(4608, 512, false), &data(4096, 2048, false)])),
            ("two chunks for DF", df, parts(&[&data(4096, 1024, false), &data(5120, 1024, true)])),
            ("data for a write", write, data(4096, 2048, true)),
            ("another cookie", read, other.none().as_bytes().to_vec()),
            ("an error elsewhere", read, to.error_offset(Errno::Io, "", 6144).as_bytes().to_vec()),
            ("a status for a read", read, status(to, 1, &[2048], true)),
            ("simple", read, reply::simple_error(7, Errno::Io).as_bytes().to_vec()),
            ("noise", read, b"what is this".to_vec()),
        ];
        if headers.is_extended() {
            let elsewhere = ChunkTo::extended(7, 4608).offset_data(4096, 2048, true);
            wrong.push(("another offset repeated", read, elsewhere.as_bytes().to_vec()));
            wrong.push(("simple success", write, reply::simple_ok(7).as_bytes().to_vec()));
        }
        for (what, request, answer) in wrong {
            let mut client = session(headers, &[1]);
            let first = answered(&mut client, &request, &answer);
            assert!(first.is_err(), "{headers:?}: {what}: {first:?}");
            assert_eq!(client.feed(b"").map(|_| ()).unwrap_err(), first.unwrap_err(), "it stays failed");
        }
    }
    let chunk = ChunkTo::structured(7).none();
    assert!(answered(&mut session(Headers::Simple, &[]), &write, chunk.as_bytes()).is_err());
    let simple = [reply::simple_ok(7).as_bytes(), &[0; 2048]].concat();
    assert_eq!(answered(&mut session(Headers::Simple, &[]), &read, &simple), Ok(Some(Ok(()))));
    assert_eq!(answered(&mut session(Headers::Simple, &[]), &read, &simple[..100]), Ok(None));
}

#[test]
fn block_status_is_held_against_its_rules() {
    let ask = Request::new(Command::BlockStatus, 7, 4096, 2048);
    let one = Request { req_one: true, ..ask };
    for headers in [Headers::Structured, Headers::Extended] {
        let to = to(headers);
        let both = |first: &[u64], second: &[u64]| {
            parts(&[&status(to, 1, first, false), &status(to, 2, second, true)])
        };
        let run =
            |request: &Request, answer: &[u8]| answered(&mut session(headers, &[1, 2]), request, answer);
        // The last extent may go beyond the range; an answer may end before it.
        for answer in [both(&[2048], &[512, 512]), both(&[1024, 4096], &[1])] {
            assert_eq!(run(&ask, &answer), Ok(Some(Ok(()))));
        }
        assert_eq!(run(&one, &both(&[2048], &[512])), Ok(Some(Ok(()))));
        let failed = to.error(Errno::Inval, "no").as_bytes().to_vec();
        assert_eq!(run(&ask, &failed), Ok(Some(Err(Errno::Inval))));
        for (what, request, answer) in [
            ("a context is missing", ask, status(to, 1, &[2048], true)),
            ("none at all", ask, to.none().as_bytes().to_vec()),
            ("a context twice", ask, parts(&[&status(to, 1, &[512], false), &status(to, 1, &[512], true)])),
            ("an unknown context", ask, status(to, 3, &[512], true)),
            ("an extent behind the range", ask, both(&[2048, 512], &[2048])),
            ("an empty extent", ask, both(&[0, 2048], &[2048])),
            ("past the end of the export", ask, both(&[SIZE], &[2048])),
            ("two where one was asked", one, both(&[512, 512], &[2048])),
            ("longer than the one asked", one, both(&[2560], &[2048])),
        ] {
            assert!(matches!(run(&request, &answer), Err(ServerMisbehaved::WrongReply { .. })), "{what}");
        }
    }
    let mut client = session(Headers::Extended, &[1, 2]);
    client.status_of(&ask, &[2]).unwrap();
    let answer = status(to(Headers::Extended), 2, &[2048], true);
    let fed = client.feed(&answer).unwrap();
    assert!(matches!(fed.event, Some(Event::BlockStatus { context: 2, .. })));
    assert!(matches!(client.feed(b"").unwrap().event, Some(Event::Finished { result: Ok(()), .. })));
    client.status_of(&ask, &[2]).unwrap();
    let answer = status(to(Headers::Extended), 1, &[2048], true);
    assert!(matches!(client.feed(&answer), Err(ServerMisbehaved::WrongReply { .. })), "it was not asked for");
}

#[test]
fn a_resize_that_succeeds_changes_the_size() {
    let mut client = session(Headers::Structured, &[]);
    let resize = Request::new(Command::Resize, 7, 8192, 0);
    let failed = ChunkTo::structured(7).error(Errno::Perm, "no");
    assert_eq!(answered(&mut client, &resize, failed.as_bytes()), Ok(Some(Err(Errno::Perm))));
    assert_eq!(client.size(), SIZE);
    assert_eq!(answered(&mut client, &resize, reply::simple_ok(7).as_bytes()), Ok(Some(Ok(()))));
    assert_eq!(client.size(), 8192);
}
