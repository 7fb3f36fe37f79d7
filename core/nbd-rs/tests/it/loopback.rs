//! Both halves of the crate against each other, over a stream cut at random, with a plain byte array as the
//! oracle of what is stored.

use crate::common::*;
use nbd_rs::wire::{opt, rep};
use nbd_rs::{
    ClientHandshake, ClientOutcome, ClientSession, Command, Context, Errno, Event, Extent, HandshakeError,
    Headers, Negotiated, Outcome, Remote, Request, ServerConfig, ServerHandshake, ServerMisbehaved, Session,
    Wanted,
};
use std::collections::BTreeMap;

/// Moves a random number of bytes from `from` to `to`.
fn trickle(rng: &mut Rng, from: &mut Vec<u8>, to: &mut Vec<u8>) {
    let most = rng.pick(&[1, 7, 64, 100_000]);
    let n = rng.below(most + 1).min(from.len() as u64) as usize;
    to.extend(from.drain(..n));
}

/// Runs both handshakes to their end.
fn shake_hands(rng: &mut Rng, wanted: Wanted) -> (Negotiated, Remote) {
    let mut server = ServerHandshake::new(exports(), ServerConfig::default());
    let mut client = ClientHandshake::new(wanted).unwrap();
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    let (mut negotiated, mut remote) = (None, None);
    for _ in 0..100_000 {
        to_client.extend_from_slice(server.output());
        server.output_sent(server.output().len());
        to_server.extend_from_slice(client.output());
        client.output_sent(client.output().len());
        trickle(rng, &mut to_client, &mut at_client);
        trickle(rng, &mut to_server, &mut at_server);

        let fed = client.feed(&at_client).expect("the server is ours");
        at_client.drain(..fed.consumed);
        remote = fed.outcome.as_ref().and_then(ClientOutcome::remote).cloned();
        let fed = server.feed(&at_server);
        at_server.drain(..fed.consumed);
        match fed.outcome {
            Some(Outcome::Transmission(agreed)) => negotiated = Some(agreed),
            Some(Outcome::Close(why)) => panic!("the server closed: {why:?}"),
            Some(Outcome::StartTls) => panic!("no TLS was offered"),
            None => {}
        }
        if let (Some(negotiated), Some(remote)) = (negotiated, &remote) {
            assert!(at_client.is_empty() && at_server.is_empty() && to_client.is_empty());
            return (negotiated, remote.clone());
        }
    }
    panic!("the handshake does not end: client has {remote:?}, server {negotiated:?}");
}

#[test]
fn handshakes_agree_whatever_the_client_wants() {
    let seed = 0x6e62_6402;
    let mut rng = Rng(seed);
    for round in 0..rounds(300) {
        let headers = rng.pick(&[Headers::Simple, Headers::Structured, Headers::Extended]);
        let contexts: Vec<_> = ["base:allocation", "x-test:second", "x-test:third"]
            .into_iter()
            .filter(|_| rng.below(2) == 0)
            .map(str::to_owned)
            .collect();
        let export = rng.pick(&["", "main", "kept"]);
        let wanted =
            Wanted { export: export.to_owned(), headers, contexts: contexts.clone(), ..Wanted::default() };
        let (negotiated, remote) = shake_hands(&mut rng, wanted);
        let place = format!("seed {seed:#x} round {round}");
        let info = &exports()[negotiated.export];
        assert_eq!(negotiated.export, usize::from(export == "kept"), "{place}");
        assert_eq!((negotiated.headers, remote.headers), (headers, headers), "{place}");
        let of_server: Vec<_> =
            negotiated.contexts.iter().map(|c| (c.id(), &info.contexts()[c.place()])).collect();
        let of_client: Vec<_> = remote.contexts.iter().map(|c| (c.id, &c.name)).collect();
        assert_eq!(of_client, of_server, "{place}");
        let expected = info.contexts().iter().filter(|name| headers.has_chunks() && contexts.contains(name));
        assert_eq!(remote.contexts.len(), expected.count(), "{place}");
        assert_eq!(remote.name, info.name(), "{place}");
        assert_eq!((remote.size, remote.block), (info.size(), Some(info.block_sizes())), "{place}");
        assert_eq!(remote.flags, Session::new(info, &negotiated).transmission_flags(), "{place}");
        assert_eq!(remote.description, info.description(), "{place}");
    }
}

#[test]
fn a_refused_client_learns_why_and_says_goodbye() {
    let mut server = ServerHandshake::new(exports(), ServerConfig::default());
    let mut client = ClientHandshake::new(Wanted { export: "nope".into(), ..Wanted::default() }).unwrap();
    let mut error = None;
    for _ in 0..10 {
        let (greeting, n) = (server.output().to_vec(), server.output().len());
        server.output_sent(n);
        error = error.or(client.feed(&greeting).err());
        let (answer, n) = (client.output().to_vec(), client.output().len());
        client.output_sent(n);
        let mut rest = &answer[..];
        while !rest.is_empty() && server.output().is_empty() {
            let fed = server.feed(rest);
            rest = &rest[fed.consumed..];
            if let Some(outcome) = fed.outcome {
                assert_eq!(outcome, Outcome::Close(nbd_rs::Close::Aborted));
                let message = "no export is named \"nope\"".to_owned();
                assert_eq!(
                    error,
                    Some(HandshakeError::Refused { option: opt::GO, reply: rep::ERR_UNKNOWN, message })
                );
                return;
            }
        }
    }
    panic!("the client never left");
}

fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let magic = 0x0003_e889_0455_65a9_u64.to_be_bytes();
    let len = (data.len() as u32).to_be_bytes();
    [&magic[..], &option.to_be_bytes(), &kind.to_be_bytes(), &len, data].concat()
}

#[test]
fn a_client_falls_back_to_export_name() {
    for (flags, padding) in [(1u8, 124), (3, 0)] {
        let mut client =
            ClientHandshake::new(Wanted { headers: Headers::Extended, ..Wanted::default() }).unwrap();
        let mut server = b"NBDMAGICIHAVEOPT\0".to_vec();
        server.push(flags);
        server.extend(option_reply(opt::EXTENDED_HEADERS, rep::ERR_UNSUP, b"old"));
        server.extend(option_reply(opt::STRUCTURED_REPLY, rep::ERR_UNSUP, b"old"));
        server.extend(option_reply(opt::GO, rep::ERR_UNSUP, b""));
        server.extend(4096u64.to_be_bytes());
        server.extend([0, 1]);
        server.extend(vec![0; padding]);
        server.extend(b"next");
        let fed = client.feed(&server).unwrap();
        assert_eq!(fed.consumed, server.len() - 4);
        let remote = Remote { size: 4096, flags: 1, ..Remote::default() };
        assert_eq!(fed.outcome, Some(ClientOutcome::Transmission(remote)));
    }
}

#[test]
fn a_client_gives_up_servers_that_break_the_protocol() {
    let greeting = b"NBDMAGICIHAVEOPT\0\x03".to_vec();
    let after = |reply: Vec<u8>| [greeting.clone(), reply].concat();
    for server in [
        b"HTTP/1.1 400 Bad Request\r\n".to_vec(),
        b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0".to_vec(),
        b"NBDMAGICIHAVEOPT\0\0".to_vec(),
        after(option_reply(opt::LIST, rep::ACK, b"")),
        after(option_reply(opt::GO, rep::ACK, b"")),
        after(option_reply(opt::GO, rep::SERVER, b"")),
        after(option_reply(opt::GO, rep::INFO, b"\0\0short")),
        after(option_reply(opt::GO, rep::INFO, b"")),
        after(vec![0; 20]),
        after(option_reply(opt::GO, rep::INFO, &[9; 70_000])),
        after(option_reply(opt::GO, rep::INFO, &[9; 9]).repeat(2000)),
    ] {
        let mut client = ClientHandshake::new(Wanted::default()).unwrap();
        let first = client.feed(&server).unwrap_err();
        assert!(matches!(first, HandshakeError::Server(_)), "{first:?}");
        assert_eq!(client.feed(&server), Err(first), "a failed handshake stays failed");
    }
    let mut client = ClientHandshake::new(Wanted::default()).unwrap();
    let old = client.feed(b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0");
    assert_eq!(old, Err(HandshakeError::Server(ServerMisbehaved::TooOld("oldstyle"))));
}

/// What is expected of one request in flight, and what came of it so far.
struct Flight {
    request: Request,
    expected: Result<Vec<u8>, Errno>,
    data: Vec<u8>,
    contexts: usize,
}

/// A random request (some of them bad), its payload, and what the answer must be; `shadow` is the oracle.
fn random_request(rng: &mut Rng, cookie: u64, shadow: &mut [u8]) -> (Flight, Vec<u8>) {
    let size = shadow.len() as u64;
    let offset = rng.below(size / 512 + 3) * 512;
    let len = rng.below(9) * 512;
    let kinds = [Command::Read, Command::Write, Command::WriteZeroes, Command::Flush, Command::BlockStatus];
    let command = rng.pick(&kinds);
    let request = match command {
        Command::Flush => Request::new(command, cookie, 0, 0),
        _ => Request { fua: rng.below(4) == 0, ..Request::new(command, cookie, offset, len) },
    };
    let request =
        Request { req_one: command == Command::BlockStatus && rng.below(3) == 0, df: false, ..request };
    let payload = rng.bytes(request.payload_len() as usize);
    let end = request.offset + request.len;
    let space = matches!(command, Command::Write | Command::WriteZeroes);
    let expected = if end > size {
        Err(if space { Errno::NoSpc } else { Errno::Inval })
    } else if command == Command::BlockStatus && len == 0 {
        Err(Errno::Inval)
    } else {
        let range = &mut shadow[request.offset as usize..end as usize];
        match command {
            Command::Write => range.copy_from_slice(&payload),
            Command::WriteZeroes => range.fill(0),
            _ => {}
        }
        Ok(if command == Command::Read { range.to_vec() } else { Vec::new() })
    };
    let data = vec![0xdb; if command == Command::Read { len as usize } else { 0 }];
    (Flight { request, expected, data, contexts: 0 }, payload)
}

/// Extents as told must be those of the server, byte for byte as far as they go.
fn check_extents(request: &Request, context: u32, extents: &[Extent]) {
    let per_block = |extents: &[Extent]| -> Vec<u64> {
        let blocks = |e: &Extent| e.len.min(request.len).div_ceil(512) as usize;
        extents.iter().flat_map(|e| vec![e.status; blocks(e)]).collect()
    };
    let context = Context::with_id(context).unwrap();
    let (told, known) = (per_block(extents), per_block(&MemoryServer::extents(context, request)));
    assert!(!told.is_empty() && known.starts_with(&told), "{request:?}: {told:?} is not {known:?}");
    assert!(request.req_one || told.len() as u64 * 512 == request.len);
    assert!(extents.windows(2).all(|pair| pair[0].status != pair[1].status), "neighbours are merged");
}

/// Puts an event where it belongs; the cookie of a request that is finished.
fn take(event: Event<'_>, flights: &mut BTreeMap<u64, Flight>) -> Option<(u64, Result<(), Errno>)> {
    match event {
        Event::Data { cookie, offset, bytes } => {
            let flight = flights.get_mut(&cookie).unwrap();
            let at = (offset - flight.request.offset) as usize;
            flight.data[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Event::BlockStatus { cookie, context, extents } => {
            let flight = flights.get_mut(&cookie).unwrap();
            check_extents(&flight.request, context, &extents);
            flight.contexts += 1;
        }
        Event::Hole { .. } => panic!("this server sends no holes"),
        Event::Failed { cookie, errno, .. } => assert_eq!(flights[&cookie].expected, Err(errno)),
        Event::Finished { cookie, result } => return Some((cookie, result)),
    }
    None
}

#[test]
fn what_is_written_is_read_whatever_the_pieces() {
    let seed = 0x6e62_6403;
    let mut rng = Rng(seed);
    for round in 0..rounds(30) {
        let headers = [Headers::Simple, Headers::Structured, Headers::Extended][round as usize % 3];
        let contexts = vec!["base:allocation".to_owned(), "x-test:second".to_owned()];
        let (negotiated, remote) = shake_hands(&mut rng, Wanted { headers, contexts, ..Wanted::default() });
        let mut server = MemoryServer::new(Session::new(&exports()[negotiated.export], &negotiated));
        let mut client = ClientSession::new(&remote);
        let mut shadow = vec![0; remote.size as usize];
        let (mut to_server, mut at_client) = (Vec::new(), Vec::new());
        let mut flights = BTreeMap::new();
        let mut sent = 0u64;
        while sent < 150 || !flights.is_empty() {
            let place = format!("seed {seed:#x} round {round}");
            if sent < 150 && flights.len() < 8 {
                sent += 1;
                let mut after = shadow.clone();
                let (flight, payload) = random_request(&mut rng, sent, &mut after);
                match client.request(&flight.request) {
                    Ok(header) => to_server.extend_from_slice(header.as_bytes()),
                    Err(misuse) => {
                        let status = flight.request.command == Command::BlockStatus && !headers.has_chunks();
                        assert!(status, "{place}: {misuse}");
                        continue;
                    }
                }
                shadow = after;
                to_server.extend(payload);
                flights.insert(sent, flight);
            }
            let mut piece = Vec::new();
            trickle(&mut rng, &mut to_server, &mut piece);
            server.feed(&piece);
            trickle(&mut rng, &mut server.output, &mut at_client);
            loop {
                let fed = client.feed(&at_client).expect("the server is ours");
                let (consumed, got_event) = (fed.consumed, fed.event.is_some());
                if let Some((cookie, result)) = fed.event.and_then(|event| take(event, &mut flights)) {
                    let flight = flights.remove(&cookie).unwrap();
                    assert_eq!(
                        result.map(|()| flight.data),
                        flight.expected,
                        "{place}: {:?}",
                        flight.request
                    );
                    let status = flight.request.command == Command::BlockStatus && result.is_ok();
                    assert_eq!(flight.contexts, if status { 2 } else { 0 }, "{place}");
                }
                at_client.drain(..consumed);
                if !got_event {
                    break;
                }
            }
        }
        assert_eq!(client.in_flight(), 0);
        assert_eq!(server.store, shadow, "seed {seed:#x} round {round}");
    }
}
