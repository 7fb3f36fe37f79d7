//! `STARTTLS` as the handshake sees it: what is answered before, at and after it. TLS itself is the
//! transport's, so "after" begins with `tls_started`.

use crate::common::*;
use nbd_rs::wire::{self, opt, rep};
use nbd_rs::{Close, Headers, Outcome, ServerConfig, ServerHandshake, TlsPolicy};

fn config(tls: TlsPolicy) -> ServerConfig {
    ServerConfig { tls, ..ServerConfig::default() }
}

fn run(tls: TlsPolicy, flags: u32, options: &[Vec<u8>]) -> Ran {
    run_server(exports(), config(tls), &hello(flags, options), &[])
}

fn kinds(ran: &Ran) -> Vec<(u32, u32)> {
    option_replies(&ran.sent).into_iter().map(|reply| (reply.option, reply.kind)).collect()
}

fn start_tls() -> Vec<u8> {
    option(opt::STARTTLS, b"")
}

/// A server that has agreed to structured replies and a context in the clear, and then starts TLS; what
/// comes behind STARTTLS in the same segment is `injected`.
fn secured(flags: u32, tls: TlsPolicy, injected: &[u8]) -> ServerHandshake {
    let mut server = ServerHandshake::new(exports(), config(tls));
    server.output_sent(wire::GREETING_LEN);
    let mut options = vec![start_tls()];
    if tls == TlsPolicy::Offered {
        options.insert(0, option(opt::SET_META_CONTEXT, &meta_data(b"", &["base:allocation"])));
        options.insert(0, option(opt::STRUCTURED_REPLY, b""));
    }
    let input = [hello(flags, &options), injected.to_vec()].concat();
    let mut consumed = 0;
    loop {
        let fed = server.feed(&input[consumed..]);
        consumed += fed.consumed;
        if fed.outcome == Some(Outcome::StartTls) {
            break;
        }
        assert_eq!(fed.outcome, None);
        server.output_sent(usize::MAX);
    }
    assert_eq!(consumed, input.len() - injected.len(), "nothing behind STARTTLS is looked at");
    let last = option_replies(server.output()).pop().unwrap();
    assert_eq!((last.option, last.kind, last.data.len()), (opt::STARTTLS, rep::ACK, 0));
    server.output_sent(usize::MAX);
    // Until TLS is there, nothing is taken, however often it is offered.
    let fed = server.feed(&input[consumed..]);
    assert_eq!((fed.consumed, fed.outcome), (0, Some(Outcome::StartTls)));
    assert!(server.output().is_empty() && !server.is_secure());
    server.tls_started();
    assert!(server.is_secure());
    server
}

/// Feeds one option and returns the replies.
fn ask(server: &mut ServerHandshake, message: &[u8]) -> (Vec<OptionReply>, Option<Outcome>) {
    let fed = server.feed(message);
    assert_eq!(fed.consumed, message.len());
    let replies = option_replies(server.output());
    server.output_sent(usize::MAX);
    (replies, fed.outcome)
}

#[test]
fn starttls_without_tls_is_unsupported_or_against_the_policy() {
    for (tls, kind) in [(TlsPolicy::Unsupported, rep::ERR_UNSUP), (TlsPolicy::Refused, rep::ERR_POLICY)] {
        let ran = run(tls, 3, &[start_tls(), option(opt::GO, &info_data(b"", &[]))]);
        assert_eq!(kinds(&ran)[0], (opt::STARTTLS, kind));
        assert!(matches!(ran.outcome, Some(Outcome::Transmission(_))), "the session goes on in the clear");
    }
}

#[test]
fn starttls_with_data_is_invalid_in_step() {
    for tls in [TlsPolicy::Refused, TlsPolicy::Offered, TlsPolicy::Required] {
        for len in [1, 8192] {
            let ran = run(tls, 3, &[option(opt::STARTTLS, &vec![0; len]), option(opt::ABORT, b"")]);
            assert_eq!(kinds(&ran), [(opt::STARTTLS, rep::ERR_INVALID), (opt::ABORT, rep::ACK)]);
            assert_eq!(closed(&ran), Some(Close::Aborted));
        }
    }
}

#[test]
fn offered_tls_leaves_the_clear_usable() {
    let ran = run(TlsPolicy::Offered, 3, &[option(opt::LIST, b""), option(opt::EXPORT_NAME, b"main")]);
    assert!(matches!(ran.outcome, Some(Outcome::Transmission(_))));
}

#[test]
fn required_tls_refuses_every_other_option_in_step() {
    let refused = [
        option(opt::INFO, &info_data(b"main", &[])),
        option(opt::GO, &info_data(b"main", &[])),
        option(opt::GO, b"malformed"),
        option(opt::LIST, b""),
        option(opt::STRUCTURED_REPLY, b""),
        option(opt::LIST_META_CONTEXT, &meta_data(b"", &[])),
        option(opt::SET_META_CONTEXT, &meta_data(b"", &["base:allocation"])),
        option(opt::EXTENDED_HEADERS, b""),
        option(opt::PEEK_EXPORT, &[1; 8192]),
        option(4242, &[2; 65536]),
    ];
    let mut options = refused.to_vec();
    options.push(option(opt::ABORT, &[3; 100]));
    let ran = run(TlsPolicy::Required, 3, &options);
    let replies = kinds(&ran);
    let (abort, others) = replies.split_last().unwrap();
    assert_eq!(*abort, (opt::ABORT, rep::ACK));
    assert_eq!(closed(&ran), Some(Close::Aborted));
    assert_eq!(others.len(), refused.len());
    assert!(others.iter().all(|(_, kind)| *kind == rep::ERR_TLS_REQD), "{others:?}");
}

#[test]
fn required_tls_closes_on_export_name_without_a_word() {
    let ran = run(TlsPolicy::Required, 3, &[option(opt::EXPORT_NAME, b"main")]);
    assert_eq!((closed(&ran), ran.sent.len()), (Some(Close::TlsRequired), 0));
}

#[test]
fn tls_forgets_what_was_agreed_in_the_clear_but_the_client_flags() {
    for (flags, no_zeroes) in [(1, false), (3, true)] {
        let mut server = secured(flags, TlsPolicy::Offered, b"");
        let context = option(opt::SET_META_CONTEXT, &meta_data(b"", &["base:allocation"]));
        assert_eq!(
            ask(&mut server, &context).0[0].kind,
            rep::ERR_INVALID,
            "structured replies are forgotten"
        );
        let (_, outcome) = ask(&mut server, &option(opt::GO, &info_data(b"", &[])));
        let negotiated = *outcome.as_ref().and_then(Outcome::negotiated).unwrap();
        assert_eq!(negotiated.headers, Headers::Simple);
        assert!(negotiated.contexts.is_empty());
        assert_eq!(negotiated.no_zeroes, no_zeroes);
    }
}

#[test]
fn bytes_sent_before_tls_never_reach_the_session_inside() {
    // A whole GO behind STARTTLS: were it kept, the session would start with it.
    let injected = option(opt::GO, &info_data(b"kept", &[]));
    let mut server = secured(3, TlsPolicy::Required, &injected);
    let fed = server.feed(b"");
    assert_eq!((fed.consumed, fed.outcome, server.output().len()), (0, None, 0));
    let (_, outcome) = ask(&mut server, &option(opt::GO, &info_data(b"main", &[])));
    assert_eq!(outcome.as_ref().and_then(Outcome::negotiated).unwrap().export, 0);
}

#[test]
fn a_second_starttls_is_invalid() {
    for tls in [TlsPolicy::Offered, TlsPolicy::Required] {
        let mut server = secured(3, tls, b"");
        let (replies, outcome) = ask(&mut server, &start_tls());
        assert_eq!((replies[0].kind, outcome), (rep::ERR_INVALID, None));
        let (replies, _) = ask(&mut server, &option(opt::LIST, b""));
        assert_eq!(replies.last().unwrap().kind, rep::ACK);
    }
}

#[test]
fn tls_started_means_nothing_where_tls_was_not_asked_for() {
    let mut server = ServerHandshake::new(exports(), config(TlsPolicy::Required));
    server.tls_started();
    assert!(!server.is_secure());
    server.output_sent(wire::GREETING_LEN);
    let fed = server.feed(&hello(3, &[option(opt::LIST, b"")]));
    assert_eq!(fed.outcome, None);
    assert_eq!(option_replies(server.output())[0].kind, rep::ERR_TLS_REQD);
}
