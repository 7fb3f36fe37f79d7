//! Peers that send anything at all. Nothing may panic, loop, or depend on how the bytes were cut; a server
//! must stay in step or close.

use crate::common::*;
use nbd_rs::wire::{self, limit, opt};
use nbd_rs::{
    ClientHandshake, Context, Contexts, Headers, Negotiated, Outcome, ServerConfig, ServerHandshake, Session,
    Wanted, reply,
};

fn random_option(rng: &mut Rng) -> Vec<u8> {
    let number = rng.pick(&[1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 10, 10, 11, 12]);
    let name = rng.pick(&[&b""[..], b"main", b"kept", b"nope", b"\xff\xfe", b"a\0b"]);
    let data = match rng.below(5) {
        0 => Vec::new(),
        1 => name.to_vec(),
        2 => info_data(name, &[3, 1, 2]),
        3 => meta_data(name, &["base:allocation", "base:", "x:y"]),
        _ => {
            let n = rng.below(40) as usize;
            rng.bytes(n)
        }
    };
    option(number, &data)
}

/// Changes, removes or doubles a few bytes.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len() as u64) as usize;
        match rng.below(4) {
            0 => bytes[at] = rng.next() as u8,
            1 => bytes[at] ^= 1 << rng.below(8),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, rng.pick(&[0, 1, 0x7f, 0xff])),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

fn random_cuts(rng: &mut Rng, len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (0..rng.below(12)).map(|_| rng.below(len as u64 + 1) as usize).collect();
    cuts.sort_unstable();
    cuts
}

/// Every byte that a server sends in a handshake must be whole, well-formed messages.
fn check_answers(ran: &Ran, place: &str) {
    let by_name = match ran.outcome {
        Some(Outcome::Transmission(_)) => {
            // GO ends in an ACK; EXPORT_NAME in its own form, which is no option reply.
            let ack = [7u32.to_be_bytes(), 1u32.to_be_bytes(), [0; 4]].concat();
            if ran.sent.ends_with(&ack) {
                0
            } else if ran.sent.ends_with(&[0; 124]) {
                134
            } else {
                10
            }
        }
        _ => 0,
    };
    for reply in option_replies(&ran.sent[..ran.sent.len() - by_name]) {
        let is_error = reply.kind & wire::rep::ERR_BIT != 0;
        assert!(!is_error || std::str::from_utf8(&reply.data).is_ok(), "{place}");
    }
}

#[test]
fn mutated_handshakes_never_depend_on_the_cuts() {
    let seed = 0x6e62_6404;
    let mut rng = Rng(seed);
    let (mut transmissions, mut closes) = (0, 0);
    for round in 0..rounds(30_000) {
        let options: Vec<_> = (0..1 + rng.below(5)).map(|_| random_option(&mut rng)).collect();
        let mut input = hello(rng.pick(&[0, 1, 3, 3, 3]), &options);
        mutate(&mut rng, &mut input);
        let place = format!("seed {seed:#x} round {round}");
        let whole = run_server(exports(), ServerConfig::default(), &input, &[]);
        let cuts = random_cuts(&mut rng, input.len());
        assert_eq!(
            run_server(exports(), ServerConfig::default(), &input, &cuts),
            whole,
            "{place} cuts {cuts:?}"
        );
        check_answers(&whole, &place);
        match whole.outcome {
            Some(Outcome::Transmission(_)) => transmissions += 1,
            Some(Outcome::Close(_)) => closes += 1,
            Some(Outcome::StartTls) => panic!("{place}: no TLS was offered"),
            None => assert_eq!(whole.consumed, input.len(), "{place}"),
        }
    }
    assert!(transmissions > 1000 && closes > 1000, "{transmissions} transmissions, {closes} closes");
}

#[test]
fn noise_never_panics() {
    let seed = 0x6e62_6405;
    let mut rng = Rng(seed);
    for _ in 0..rounds(20_000) {
        let n = rng.below(200) as usize;
        let mut noise = rng.bytes(n);
        // With a good start, so that the noise gets further in.
        let start = rng.below(4);
        if start > 0 {
            noise.splice(0..0, hello(3, &[]));
        }
        if start > 1 {
            noise.splice(
                4..4,
                wire::OPTION_MAGIC.to_be_bytes().into_iter().chain([0, 0, 0, rng.below(13) as u8, 0, 0, 0]),
            );
        }
        let _ = serve(&noise);
        let headers = rng.pick(&[Headers::Simple, Headers::Structured, Headers::Extended]);
        let mut client = ClientHandshake::new(Wanted { headers, ..Wanted::default() }).unwrap();
        let _ = client.feed(&noise);
        let _ = reply::decode(&noise, headers);
    }
}

#[test]
fn mutated_servers_never_make_a_client_panic_or_depend_on_the_cuts() {
    let seed = 0x6e62_6406;
    let mut rng = Rng(seed);
    let wanted = || Wanted {
        headers: Headers::Extended,
        contexts: vec!["base:allocation".into(), "x-test:second".into()],
        ..Wanted::default()
    };
    let asked = hello(
        3,
        &[
            option(opt::EXTENDED_HEADERS, b""),
            option(opt::SET_META_CONTEXT, &meta_data(b"", &["base:allocation", "x-test:second"])),
            option(opt::GO, &info_data(b"", &[1, 3, 2])),
        ],
    );
    let good = [&b"NBDMAGICIHAVEOPT\0\x03"[..], &serve(&asked).sent].concat();
    let mut ready = 0;
    for round in 0..rounds(30_000) {
        let mut input = good.clone();
        mutate(&mut rng, &mut input);
        let mut client = ClientHandshake::new(wanted()).unwrap();
        let whole = client.feed(&input);
        let mut client = ClientHandshake::new(wanted()).unwrap();
        let mut consumed = 0;
        let mut last = None;
        for cut in random_cuts(&mut rng, input.len()).into_iter().chain([input.len()]) {
            let fed = client.feed(&input[consumed..cut.max(consumed)]);
            consumed += fed.as_ref().map_or(0, |fed| fed.consumed);
            last = Some(fed.map(|fed| fed.outcome));
        }
        ready += u64::from(matches!(&whole, Ok(fed) if fed.outcome.is_some()));
        assert_eq!(last, Some(whole.map(|fed| fed.outcome)), "seed {seed:#x} round {round}");
    }
    assert!(ready > 1000, "some mutants must still be good: {ready}");
}

#[test]
fn mutated_requests_never_depend_on_the_cuts() {
    let seed = 0x6e62_6407;
    let mut rng = Rng(seed);
    let contexts = Contexts::NONE.with(Context::BASE_ALLOCATION);
    for round in 0..rounds(3000) {
        let headers = rng.pick(&[Headers::Simple, Headers::Structured, Headers::Extended]);
        let extended = headers.is_extended();
        let negotiated = Negotiated { headers, contexts, ..Negotiated::default() };
        let mut input = Vec::new();
        for cookie in 0..1 + rng.below(6) {
            let command = rng.below(9) as u16;
            let has_payload =
                if extended { rng.below(4) == 0 || command == 1 } else { command == wire::cmd::WRITE };
            let header = nbd_rs::RequestHeader {
                magic: if extended { wire::EXTENDED_REQUEST_MAGIC } else { wire::REQUEST_MAGIC },
                flags: rng.pick(&[0, 0, 1, 4, 8, 2]) | if extended && has_payload { 32 } else { 0 },
                command,
                cookie,
                offset: rng.pick(&[0, 512, 1 << 16, u64::MAX - 511]),
                len: rng.pick(&[0, 512, 1024, 1 << 16, 3, 12, 16]),
            };
            input.extend(header.encode(headers).as_bytes());
            if has_payload {
                input.extend(rng.bytes(header.len as usize));
            }
        }
        mutate(&mut rng, &mut input);
        let run = |cuts: &[usize]| {
            let mut server = MemoryServer::new(Session::new(&exports()[1], &negotiated));
            let mut start = 0;
            for cut in cuts.iter().copied().chain([input.len()]) {
                server.feed(&input[start..cut]);
                start = cut;
            }
            (server.store, server.output, server.closed)
        };
        let cuts = random_cuts(&mut rng, input.len());
        assert_eq!(run(&cuts), run(&[]), "seed {seed:#x} round {round} cuts {cuts:?}");
    }
}

#[test]
fn an_announced_length_costs_nothing_and_a_slow_client_little() {
    let mut server = ServerHandshake::new(exports(), ServerConfig::default());
    server.output_sent(wire::GREETING_LEN);
    let mut fed = 0;
    let input = hello(3, &[option_claiming(opt::GO, limit::OPTION_DATA, &[0; limit::OPTION_DATA as usize])]);
    for byte in &input {
        let step = server.feed(std::slice::from_ref(byte));
        assert!(step.outcome.is_none());
        fed += step.consumed;
    }
    assert_eq!(fed, input.len());
    assert_eq!(option_replies(server.output())[0].kind, wire::rep::ERR_INVALID);
}
