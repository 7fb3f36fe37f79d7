//! The client's half against a server that says anything: handshake, and replies to requests in flight. What
//! is passed on lies in its request's range, once; a success is whole; nothing depends on the cuts.

#![no_main]

#[path = "../split.rs"]
mod split;

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use nbd_rs::{
    ClientHandshake, ClientOutcome, ClientSession, Command, Errno, Event, Goal, HandshakeError, Headers,
    Remote, RemoteContext, Request, ServerMisbehaved, WantTls, Wanted,
};

fuzz_target!(|data: &[u8]| {
    let Some(([kind, wish], rest)) = split::decide::<2>(data) else { return };
    let Some((cuts, stream)) = split::decide::<8>(rest) else { return };
    let ends = split::ends(cuts, stream.len());
    if kind & 1 == 0 {
        assert_eq!(shake(wish, stream, &[stream.len()]), shake(wish, stream, &ends), "other pieces");
    } else {
        let remote = remote(kind);
        assert_eq!(talk(&remote, wish, stream, &[stream.len()]), talk(&remote, wish, stream, &ends));
    }
});

/// How a handshake went: what was sent, how much was taken, how it ended.
type Shaken = (Vec<u8>, usize, Result<Option<ClientOutcome>, HandshakeError>);

fn headers_of(n: u8) -> Headers {
    [Headers::Simple, Headers::Structured, Headers::Extended][usize::from(n) % 3]
}

fn shake(wish: u8, stream: &[u8], ends: &[usize]) -> Shaken {
    let wanted = Wanted {
        goal: [Goal::Go, Goal::Describe, Goal::List, Goal::ListContexts][usize::from(wish >> 2 & 3)],
        export: "a".to_owned(),
        tls: [WantTls::Never, WantTls::IfOffered, WantTls::Required][usize::from(wish >> 4) % 3],
        headers: headers_of(wish & 3),
        contexts: vec!["base:allocation".to_owned(), "x-f:z".to_owned()],
    };
    let mut client = ClientHandshake::new(wanted).expect("it is lawful");
    let (mut sent, mut consumed, mut outcome) = (Vec::new(), 0, None);
    for end in ends {
        loop {
            let fed = match client.feed(&stream[consumed..(*end).max(consumed)]) {
                Ok(fed) => fed,
                Err(error) => {
                    sent.extend_from_slice(client.output());
                    return (sent, 0, Err(error));
                }
            };
            consumed += fed.consumed;
            sent.extend_from_slice(client.output());
            client.output_sent(client.output().len());
            outcome = fed.outcome;
            match &outcome {
                Some(ClientOutcome::StartTls) => client.tls_started(),
                _ => break,
            }
        }
        if outcome.is_some() {
            break;
        }
    }
    (sent, consumed, Ok(outcome))
}

fn remote(kind: u8) -> Remote {
    let context = |id| RemoteContext { name: format!("x-f:{id}"), id };
    Remote {
        size: 1 << 16,
        flags: 0x1fff,
        headers: headers_of(kind >> 1 & 3),
        contexts: (1..=u32::from(kind >> 3 & 3)).map(context).collect(),
        ..Remote::default()
    }
}

/// What came of requests, whatever the pieces: their data, and how they ended.
#[derive(PartialEq, Eq, Debug, Default)]
struct Told {
    data: BTreeMap<u64, BTreeMap<u64, u8>>,
    statuses: Vec<(u64, u32, usize)>,
    errors: Vec<(u64, Errno, Option<u64>)>,
    finished: Vec<(u64, Result<(), Errno>)>,
    end: Option<ServerMisbehaved>,
}

fn talk(remote: &Remote, wish: u8, stream: &[u8], ends: &[usize]) -> Told {
    let mut client = ClientSession::new(remote);
    let mut asked = BTreeMap::new();
    let commands =
        [Command::Read, Command::Read, Command::Write, Command::BlockStatus, Command::Flush, Command::Resize];
    for (cookie, command) in (0..).zip(commands) {
        let len = if matches!(command, Command::Flush | Command::Resize) { 0 } else { 512 << cookie };
        let request = Request {
            df: wish & 1 != 0 && cookie == 0,
            req_one: wish & 2 != 0 && command == Command::BlockStatus,
            ..Request::new(command, cookie, cookie * 512, len)
        };
        if client.request(&request).is_ok() {
            asked.insert(cookie, request);
        }
    }
    let (mut told, mut at) = (Told::default(), 0);
    for end in ends {
        loop {
            let fed = match client.feed(&stream[at..(*end).max(at)]) {
                Ok(fed) => fed,
                Err(misbehaved) => {
                    told.end = Some(misbehaved);
                    return told;
                }
            };
            at += fed.consumed;
            let Some(event) = fed.event else { break };
            take(event, &asked, &mut told);
        }
    }
    assert_eq!(client.in_flight(), asked.len() - told.finished.len());
    told
}

fn take(event: Event<'_>, asked: &BTreeMap<u64, Request>, told: &mut Told) {
    match event {
        Event::Data { cookie, offset, bytes } => {
            let pairs = (offset..).zip(bytes.iter().copied());
            put(&asked[&cookie], pairs, told);
        }
        Event::Hole { cookie, offset, len } => {
            let request = &asked[&cookie];
            assert!(len <= request.len);
            put(request, (offset..offset + len).map(|at| (at, 0)), told);
        }
        Event::BlockStatus { cookie, context, extents } => {
            let request = &asked[&cookie];
            let before: u64 = extents[..extents.len() - 1].iter().map(|extent| extent.len).sum();
            assert!(before < request.len && extents.iter().all(|extent| extent.len > 0));
            assert!(!request.req_one || (extents.len() == 1 && extents[0].len <= request.len));
            told.statuses.push((cookie, context, extents.len()));
        }
        Event::Failed { cookie, errno, offset, message } => {
            assert!(!message.contains(char::is_control));
            told.errors.push((cookie, errno, offset));
        }
        Event::Finished { cookie, result } => {
            let request = &asked[&cookie];
            let got = told.data.get(&cookie).map_or(0, BTreeMap::len) as u64;
            assert!(result.is_err() || request.command != Command::Read || got == request.len);
            told.finished.push((cookie, result));
        }
    }
}

fn put(request: &Request, pairs: impl Iterator<Item = (u64, u8)>, told: &mut Told) {
    assert_eq!(request.command, Command::Read);
    let data = told.data.entry(request.cookie).or_default();
    for (at, byte) in pairs {
        assert!(at >= request.offset && at < request.offset + request.len);
        assert_eq!(data.insert(at, byte), None, "byte {at} came twice");
    }
}
