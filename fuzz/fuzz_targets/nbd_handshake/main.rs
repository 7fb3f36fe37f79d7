//! The server's half of the handshake. What it answers, how much it takes and how it ends must not depend on
//! how the bytes were cut; what it sends must be whole option replies with texts that harm nobody.

#![no_main]

#[path = "../split.rs"]
mod split;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use nbd_rs::wire::{self, rep};
use nbd_rs::{BlockSizes, ExportInfo, Features, Outcome, ServerConfig, ServerHandshake, TlsPolicy};

fuzz_target!(|data: &[u8]| {
    let Some(([options], rest)) = split::decide::<1>(data) else { return };
    let Some((cuts, stream)) = split::decide::<8>(rest) else { return };
    let tls = match options >> 1 & 3 {
        0 => TlsPolicy::Unsupported,
        1 => TlsPolicy::Refused,
        2 => TlsPolicy::Offered,
        _ => TlsPolicy::Required,
    };
    let config = ServerConfig { list: options & 1 == 0, tls };
    let whole = run(config, stream, &[stream.len()]);
    let cut = run(config, stream, &split::ends(cuts, stream.len()));
    assert_eq!(whole, cut, "the same bytes in other pieces");
    check_answers(&whole);
    if matches!(whole.outcome, Some(Outcome::StartTls)) {
        assert!(matches!(tls, TlsPolicy::Offered | TlsPolicy::Required));
    }
    if matches!(whole.outcome, Some(Outcome::Transmission(_))) {
        assert!(tls != TlsPolicy::Required || whole.secured, "transmission in the clear");
    }
});

/// What a server did with a stream.
#[derive(PartialEq, Eq, Debug)]
struct Ran {
    sent: Vec<u8>,
    consumed: usize,
    secured: bool,
    outcome: Option<Outcome>,
}

fn exports() -> Arc<[ExportInfo]> {
    let features = Features { flush: true, trim: true, write_zeroes: true, ..Features::default() };
    let export = |name: &str| ExportInfo::new(name, 1 << 20, BlockSizes::default(), features);
    let first = export("a").and_then(|e| e.with_description("text")).and_then(|e| e.with_context("x-f:z"));
    vec![first.expect("it is lawful"), export("bb").expect("it is lawful")].into()
}

fn run(config: ServerConfig, stream: &[u8], ends: &[usize]) -> Ran {
    let mut server = ServerHandshake::new(exports(), config);
    let mut ran = Ran { sent: Vec::new(), consumed: 0, secured: false, outcome: None };
    server.output_sent(wire::GREETING_LEN);
    for end in ends {
        loop {
            let fed = server.feed(&stream[ran.consumed..(*end).max(ran.consumed)]);
            ran.consumed += fed.consumed;
            ran.outcome = fed.outcome;
            let progress = fed.consumed > 0 || !server.output().is_empty();
            ran.sent.extend_from_slice(server.output());
            assert!(ran.sent.len() <= (ran.consumed + 1) * 64 + 4096, "answers grow with what was asked");
            server.output_sent(server.output().len());
            match fed.outcome {
                // Here the bytes behind STARTTLS count as those that come out of TLS.
                Some(Outcome::StartTls) => {
                    server.tls_started();
                    ran.secured = true;
                    ran.outcome = None;
                }
                Some(_) => return ran,
                None if !progress => break,
                None => {}
            }
        }
    }
    ran
}

/// All that was sent is option replies, but for the answer to EXPORT_NAME, which is 10 or 134 bytes.
fn check_answers(ran: &Ran) {
    let mut rest = &ran.sent[..];
    while rest.starts_with(&wire::OPTION_REPLY_MAGIC.to_be_bytes()) {
        let field = |at: usize| u32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes"));
        let (kind, len) = (field(12), field(16) as usize);
        let data = &rest[wire::OPTION_REPLY_HEADER_LEN..][..len];
        if kind & rep::ERR_BIT != 0 {
            let text = std::str::from_utf8(data).expect("an error text is UTF-8");
            assert!(!text.contains(char::is_control) && text.len() <= 4096, "{text:?}");
        }
        rest = &rest[wire::OPTION_REPLY_HEADER_LEN + len..];
    }
    let by_name = matches!(ran.outcome, Some(Outcome::Transmission(_))) && [10, 134].contains(&rest.len());
    assert!(rest.is_empty() || by_name, "{rest:?}");
}
