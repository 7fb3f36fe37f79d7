//! The server's handshake, option by option, from the wire's point of view.

use crate::common::*;
use nbd_rs::wire::{self, info, opt, rep, transmission_flag};
use nbd_rs::{
    ClientMisbehaved, Close, Context, Contexts, Headers, Negotiated, Outcome, ServerConfig, ServerHandshake,
};

/// Options 1 to n, then ABORT: the kinds of all replies but the last, which must be the ABORT's ACK. That
/// it is shows that the server stayed in step.
fn kinds(options: &[Vec<u8>]) -> Vec<u32> {
    let mut all = options.to_vec();
    all.push(option(opt::ABORT, b""));
    let ran = serve(&hello(3, &all));
    assert_eq!(closed(&ran), Some(Close::Aborted));
    let mut replies = option_replies(&ran.sent);
    let last = replies.pop().unwrap();
    assert_eq!((last.option, last.kind, last.data.len()), (opt::ABORT, rep::ACK, 0));
    for reply in &replies {
        if reply.kind & rep::ERR_BIT != 0 {
            let text = std::str::from_utf8(&reply.data).expect("error texts are UTF-8");
            assert!(!text.is_empty() && text.len() <= 4096 && !text.contains(char::is_control), "{text:?}");
        }
    }
    replies.into_iter().map(|reply| reply.kind).collect()
}

fn negotiated(options: &[Vec<u8>]) -> Negotiated {
    let ran = serve(&hello(3, options));
    *ran.outcome.as_ref().and_then(Outcome::negotiated).expect("transmission")
}

fn structured() -> Vec<u8> {
    option(opt::STRUCTURED_REPLY, b"")
}

fn go(name: &str) -> Vec<u8> {
    option(opt::GO, &info_data(name.as_bytes(), &[]))
}

fn set_context(name: &str, queries: &[&str]) -> Vec<u8> {
    option(opt::SET_META_CONTEXT, &meta_data(name.as_bytes(), queries))
}

#[test]
fn greeting_is_fixed_newstyle_with_two_flags() {
    let server = ServerHandshake::new(exports(), ServerConfig::default());
    assert_eq!(server.output(), b"NBDMAGICIHAVEOPT\x00\x03");
}

#[test]
fn unknown_client_flags_close() {
    for flags in [4u32, 7, 0x8000_0000, u32::MAX] {
        let why = Close::Misbehaved(ClientMisbehaved::ClientFlags(flags));
        assert_eq!(closed(&serve(&hello(flags, &[structured()]))), Some(why));
    }
}

#[test]
fn export_name_has_padding_unless_declined() {
    for (flags, len) in [(0u32, 134), (1, 134), (2, 10), (3, 10)] {
        for (name, size, bits) in
            [("", 1u64 << 20, 0x56d_u16), ("main", 1 << 20, 0x56d), ("kept", 1 << 16, 0x50f)]
        {
            let ran = serve(&hello(flags, &[option(opt::EXPORT_NAME, name.as_bytes())]));
            assert!(matches!(ran.outcome, Some(Outcome::Transmission(n)) if n.no_zeroes == (flags & 2 != 0)));
            assert_eq!(ran.sent.len(), len);
            assert_eq!(ran.sent[..8], size.to_be_bytes());
            assert_eq!(ran.sent[8..10], bits.to_be_bytes());
            assert!(ran.sent[10..].iter().all(|b| *b == 0));
        }
    }
}

#[test]
fn export_name_that_cannot_be_served_closes_without_a_word() {
    for (name, why) in [
        (&b"nope"[..], Close::UnknownExport),
        (b"a\0", Close::Misbehaved(ClientMisbehaved::ExportName)),
        (b"\xff", Close::Misbehaved(ClientMisbehaved::ExportName)),
        (&[b'a'; 5000], Close::Misbehaved(ClientMisbehaved::ExportName)),
    ] {
        let ran = serve(&hello(3, &[option(opt::EXPORT_NAME, name)]));
        assert_eq!((closed(&ran), ran.sent.len()), (Some(why), 0));
    }
}

#[test]
fn info_and_go_answer_the_same() {
    for kinds in [&[][..], &[info::NAME], &[info::DESCRIPTION, info::BLOCK_SIZE, info::NAME, 77, 0xffff]] {
        let data = info_data(b"", kinds);
        let with_info = serve(&hello(1, &[option(opt::INFO, &data)]));
        let with_go = serve(&hello(1, &[option(opt::GO, &data)]));
        assert_eq!(with_info.outcome, None);
        assert_eq!(with_go.outcome, Some(Outcome::Transmission(Negotiated::default())));
        let strip = |sent: &[u8]| {
            option_replies(sent).into_iter().map(|reply| (reply.kind, reply.data)).collect::<Vec<_>>()
        };
        let replies = strip(&with_info.sent);
        assert_eq!(replies, strip(&with_go.sent), "no padding after GO, though zeroes were not declined");

        assert_eq!(
            replies[0].1,
            [&[0, 0][..], &(1u64 << 20).to_be_bytes(), &0x56du16.to_be_bytes()].concat()
        );
        let has = |kind: u16| replies.iter().any(|(_, data)| data.starts_with(&kind.to_be_bytes()));
        assert!(has(info::BLOCK_SIZE), "the block sizes are told unasked");
        assert_eq!(has(info::NAME), kinds.contains(&info::NAME));
        assert_eq!(has(info::DESCRIPTION), kinds.contains(&info::DESCRIPTION));
        assert_eq!(replies.last(), Some(&(rep::ACK, vec![])));
    }
    let ran = serve(&hello(3, &[option(opt::INFO, &info_data(b"", &[]))]));
    let sizes = [512u32, 65536, 32 << 20].map(u32::to_be_bytes).concat();
    assert!(option_replies(&ran.sent).iter().any(|r| r.data == [&[0, 3][..], &sizes].concat()));
}

#[test]
fn malformed_info_and_go_are_refused_in_step() {
    let good = info_data(b"main", &[3]);
    let longer = [&good[..], b"x"].concat();
    let mut lying_name = good.clone();
    lying_name[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut lying_count = good.clone();
    lying_count[8..10].copy_from_slice(&u16::MAX.to_be_bytes());
    let mut shorter_name = good.clone();
    shorter_name[3] = 2;
    for number in [opt::INFO, opt::GO] {
        for len in 0..good.len() {
            assert_eq!(kinds(&[option(number, &good[..len])]), [rep::ERR_INVALID], "{len} bytes");
        }
        for data in [&longer, &lying_name, &lying_count, &shorter_name] {
            assert_eq!(kinds(&[option(number, data)]), [rep::ERR_INVALID]);
        }
        assert_eq!(kinds(&[option(number, &info_data(b"nope", &[]))]), [rep::ERR_UNKNOWN]);
        assert_eq!(
            kinds(&[option(number, &info_data("no\u{1b}[31m\u{202e}".as_bytes(), &[]))]),
            [rep::ERR_UNKNOWN]
        );
        assert_eq!(kinds(&[option(number, &info_data(b"a\0", &[]))]), [rep::ERR_INVALID]);
        assert_eq!(kinds(&[option(number, &info_data(b"\xc3", &[]))]), [rep::ERR_INVALID]);
        assert_eq!(kinds(&[option(number, &info_data(&[b'a'; 5000], &[]))]), [rep::ERR_TOO_BIG]);
    }
}

#[test]
fn an_unknown_export_keeps_the_session() {
    assert_eq!(negotiated(&[go("nope"), go("kept")]).export, 1);
}

#[test]
fn list_names_every_export() {
    let ran = serve(&hello(3, &[option(opt::LIST, b"")]));
    let replies = option_replies(&ran.sent);
    let expected = [[prefixed(b"main"), b"the volume".to_vec()].concat(), prefixed(b"kept"), vec![]];
    assert_eq!(replies.iter().map(|r| r.data.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(replies.iter().map(|r| r.kind).collect::<Vec<_>>(), [rep::SERVER, rep::SERVER, rep::ACK]);
    assert_eq!(kinds(&[option(opt::LIST, b"x")]), [rep::ERR_INVALID]);
}

#[test]
fn list_can_be_forbidden() {
    let input = hello(3, &[option(opt::LIST, b""), option(opt::LIST, b"x"), go("main")]);
    let ran = run_server(exports(), ServerConfig { list: false, ..ServerConfig::default() }, &input, &[]);
    let replies = option_replies(&ran.sent);
    assert_eq!((replies[0].kind, replies[1].kind), (rep::ERR_POLICY, rep::ERR_INVALID));
    assert!(matches!(ran.outcome, Some(Outcome::Transmission(_))));
}

#[test]
fn abort_is_acknowledged_and_its_data_ignored() {
    let ran = serve(&hello(3, &[option(opt::ABORT, &[7; 300]), go("")]));
    assert_eq!(closed(&ran), Some(Close::Aborted));
    assert_eq!(option_replies(&ran.sent).iter().map(|r| r.kind).collect::<Vec<_>>(), [rep::ACK]);
}

#[test]
fn unknown_options_are_unsupported_in_step() {
    for number in [0, opt::PEEK_EXPORT, opt::STARTTLS, 12, 0x7fff_ffff, u32::MAX] {
        for len in [0, 1, 8192, 65536] {
            assert_eq!(kinds(&[option(number, &vec![0xee; len])]), [rep::ERR_UNSUP]);
        }
    }
}

#[test]
fn structured_replies_bring_df() {
    let flags = |options: &[Vec<u8>]| {
        let ran = serve(&hello(3, options));
        let data = option_replies(&ran.sent).into_iter().find(|r| r.kind == rep::INFO).unwrap().data;
        u16::from_be_bytes(data[10..12].try_into().unwrap())
    };
    assert_eq!(flags(&[go("")]) & transmission_flag::SEND_DF, 0);
    assert_ne!(flags(&[structured(), go("")]) & transmission_flag::SEND_DF, 0);
    assert!(negotiated(&[structured(), go("")]).headers.has_chunks());
    let with_data = option(opt::STRUCTURED_REPLY, b"x");
    assert_eq!(kinds(std::slice::from_ref(&with_data)), [rep::ERR_INVALID]);
    assert!(!negotiated(&[with_data, go("")]).headers.has_chunks());
    let name = option(opt::EXPORT_NAME, b"");
    let ran = serve(&hello(3, &[structured(), name]));
    assert_eq!(ran.sent[ran.sent.len() - 2..], 0x5edu16.to_be_bytes());
}

#[test]
fn listing_contexts_takes_namespaces_and_ignores_what_it_does_not_know() {
    let list = |queries: &[&str]| {
        let number = opt::LIST_META_CONTEXT;
        let ran = serve(&hello(3, &[structured(), option(number, &meta_data(b"main", queries))]));
        let mut replies = option_replies(&ran.sent).split_off(1);
        assert!(replies.iter().all(|r| r.option == number));
        let last = replies.pop().unwrap();
        assert_eq!((last.kind, last.data.len()), (rep::ACK, 0));
        assert!(replies.iter().all(|r| r.kind == rep::META_CONTEXT && r.data.starts_with(&[0; 4])));
        replies.iter().map(|r| String::from_utf8(r.data[4..].to_vec()).unwrap()).collect::<Vec<_>>()
    };
    let (base, second) = ("base:allocation", "x-test:second");
    for queries in [&[][..], &["x-test:", "base:"], &[second, "y:z", base]] {
        assert_eq!(list(queries), [base, second], "{queries:?}");
    }
    for queries in [&["base:"][..], &["base:allocation"], &["x:y", "base:allocation", "base:"]] {
        assert_eq!(list(queries), [base], "{queries:?}");
    }
    assert_eq!(list(&["x-test:"]), [second]);
    for queries in [&["x:y"][..], &["base:alloc"], &["base"], &[""], &["qemu:", "base:allocation2"], &[":"]] {
        assert!(list(queries).is_empty(), "{queries:?}");
    }
}

#[test]
fn setting_contexts_selects_exact_names_only() {
    let select =
        |queries: &[&str]| negotiated(&[structured(), set_context("main", queries), go("")]).contexts;
    let base = Contexts::NONE.with(Context::BASE_ALLOCATION);
    let second = exports()[0].context("x-test:second").unwrap();
    assert_eq!(select(&["base:allocation"]), base);
    assert_eq!(select(&["x:y", "base:allocation", "base:allocation"]), base);
    assert_eq!(select(&["x-test:second"]), Contexts::NONE.with(second));
    assert_eq!(select(&["x-test:second", "base:allocation"]), base.with(second));
    for queries in [&[][..], &["base:"], &["x-test:"], &["x:y"], &["base:allocation "]] {
        assert_eq!(select(queries), Contexts::NONE, "{queries:?}");
    }
    let twice = set_context("", &["base:allocation", "base:allocation"]);
    assert_eq!(kinds(&[structured(), twice]), [rep::ACK, rep::META_CONTEXT, rep::ACK]);
    let ran = serve(&hello(3, &[structured(), set_context("", &["base:allocation", "x-test:second"])]));
    let ids: Vec<_> = option_replies(&ran.sent)[1..3].iter().map(|r| r.data[..4].to_vec()).collect();
    assert_eq!(ids, [[0, 0, 0, 1], [0, 0, 0, 2]], "ids differ");
}

#[test]
fn a_context_belongs_to_its_export() {
    let set = set_context("kept", &["x-test:second", "base:allocation"]);
    let agreed = negotiated(&[structured(), set, go("kept")]);
    assert_eq!(agreed.contexts, Contexts::NONE.with(Context::BASE_ALLOCATION));
}

#[test]
fn a_selection_dies_with_a_failure_or_another_export() {
    let set = set_context("main", &["base:allocation"]);
    let lost = |between: Vec<u8>, last: Vec<u8>| {
        negotiated(&[structured(), set.clone(), between, last]).contexts.is_empty()
    };
    let harmless = option(opt::LIST, b"");
    assert!(!lost(harmless.clone(), go("")));
    assert!(!lost(harmless.clone(), option(opt::EXPORT_NAME, b"main")));
    assert!(lost(harmless, go("kept")));
    assert!(lost(set_context("nope", &["base:allocation"]), go("")));
    assert!(lost(option(opt::SET_META_CONTEXT, b"\0"), go("")));
    assert!(lost(set_context("main", &[]), go("")));
}

#[test]
fn contexts_need_structured_replies_and_well_formed_data() {
    let good = meta_data(b"main", &["base:allocation"]);
    let mut many = good.clone();
    many[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    for number in [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT] {
        assert_eq!(kinds(&[option(number, &good)]), [rep::ERR_INVALID]);
        for len in 0..good.len() {
            assert_eq!(kinds(&[structured(), option(number, &good[..len])])[1..], [rep::ERR_INVALID]);
        }
        let long_query = "base:".to_owned() + &"x".repeat(5000);
        for (data, kind) in [
            ([&good[..], b"x"].concat(), rep::ERR_INVALID),
            (many.clone(), rep::ERR_INVALID),
            (meta_data(b"nope", &[]), rep::ERR_UNKNOWN),
            (meta_data(b"\xff", &[]), rep::ERR_INVALID),
            (meta_data(&[b'n'; 4097], &[]), rep::ERR_TOO_BIG),
            (meta_data(b"", &[&long_query]), rep::ERR_TOO_BIG),
        ] {
            assert_eq!(kinds(&[structured(), option(number, &data)])[1..], [kind]);
        }
    }
}

#[test]
fn limits_close_the_connection() {
    for number in [opt::GO, opt::LIST, opt::ABORT, 99] {
        for len in [65537, 1 << 30, u32::MAX] {
            let ran = serve(&hello(3, &[option_claiming(number, len, b"")]));
            let why = ClientMisbehaved::OptionTooLarge { option: number, len };
            assert_eq!(closed(&ran), Some(Close::Misbehaved(why)));
        }
    }
    let list = option(opt::LIST, b"");
    let ran = serve(&hello(3, &vec![list.clone(); 64]));
    assert_eq!(ran.outcome, None);
    let ran = serve(&hello(3, &vec![list; 65]));
    assert_eq!(closed(&ran), Some(Close::Misbehaved(ClientMisbehaved::TooManyOptions)));
    let ran = serve(&hello(3, &[b"IHAVEOPS\0\0\0\x07\0\0\0\0".to_vec()]));
    assert!(matches!(closed(&ran), Some(Close::Misbehaved(ClientMisbehaved::OptionMagic(_)))));
}

#[test]
fn extended_headers_take_the_place_of_structured_replies() {
    let extended = || option(opt::EXTENDED_HEADERS, b"");
    assert_eq!(kinds(&[option(opt::EXTENDED_HEADERS, b"x")]), [rep::ERR_INVALID]);
    assert_eq!(kinds(&[extended(), structured()]), [rep::ACK, rep::ERR_EXT_HEADER_REQD]);
    assert_eq!(kinds(&[structured(), extended(), extended()]), [rep::ACK; 3]);
    for options in [&[extended()][..], &[structured(), extended()], &[extended(), structured()]] {
        let all = [options, &[set_context("", &["base:allocation"]), go("")]].concat();
        let agreed = negotiated(&all);
        assert_eq!(agreed.headers, Headers::Extended);
        assert!(agreed.contexts.contains(Context::BASE_ALLOCATION), "they need no structured replies");
    }
    assert_eq!(negotiated(&[option(opt::EXTENDED_HEADERS, b"x"), go("")]).headers, Headers::Simple);
    // A selection from before survives: it is of the export, and the ids stay.
    let agreed = negotiated(&[structured(), set_context("", &["base:allocation"]), extended(), go("")]);
    assert!(agreed.contexts.contains(Context::BASE_ALLOCATION));
}

#[test]
fn extended_headers_bring_df_and_with_a_context_filters() {
    let flags = |options: &[Vec<u8>], last: u32| {
        let all = [options, &[option(last, &info_data(b"", &[]))]].concat();
        let replies = option_replies(&serve(&hello(3, &all)).sent);
        let data = &replies.iter().find(|r| r.kind == rep::INFO).unwrap().data;
        u16::from_be_bytes(data[10..12].try_into().unwrap())
    };
    let extended = option(opt::EXTENDED_HEADERS, b"");
    let context = set_context("main", &["base:allocation"]);
    for last in [opt::INFO, opt::GO] {
        assert_eq!(flags(std::slice::from_ref(&extended), last), 0x56d | transmission_flag::SEND_DF);
        let both = flags(&[extended.clone(), context.clone()], last);
        assert_eq!(both, 0x56d | transmission_flag::SEND_DF | transmission_flag::BLOCK_STATUS_PAYLOAD);
        assert_eq!(flags(&[structured(), context.clone()], last), 0x56d | transmission_flag::SEND_DF);
    }
}

#[test]
fn export_name_after_extended_headers_closes() {
    let ran = serve(&hello(3, &[option(opt::EXTENDED_HEADERS, b""), option(opt::EXPORT_NAME, b"main")]));
    assert_eq!(closed(&ran), Some(Close::Misbehaved(ClientMisbehaved::ExportNameExtended)));
    assert_eq!(option_replies(&ran.sent).len(), 1, "only the ACK of the first option");
}

#[test]
fn what_follows_the_handshake_is_left_to_the_caller() {
    let mut input = hello_and_go(&[structured()]);
    let handshake = input.len();
    input.extend_from_slice(&[0xab; wire::REQUEST_LEN]);
    assert_eq!(serve(&input).consumed, handshake);
}

#[test]
fn unread_answers_stop_the_intake() {
    let mut server = ServerHandshake::new(exports(), ServerConfig::default());
    let input = hello(3, &[option(opt::LIST, b""), option(opt::LIST, b"")]);
    assert_eq!(server.feed(&input).consumed, 0, "the greeting waits");
    server.output_sent(wire::GREETING_LEN);
    let fed = server.feed(&input);
    assert_eq!(fed.consumed, 4 + 16, "flags, and the first option");
    assert_eq!(server.feed(&input[fed.consumed..]).consumed, 0);
}

#[test]
fn every_cut_gives_the_same_handshake() {
    let input = hello_and_go(&[
        option(opt::INFO, &info_data(b"nope", &[1, 2, 3])),
        option(99, &[1; 40]),
        structured(),
        set_context("", &["base:allocation"]),
        option(opt::LIST, b""),
    ]);
    let whole = serve(&input);
    assert!(whole.outcome.is_some());
    let run = |cuts: &[usize]| run_server(exports(), ServerConfig::default(), &input, cuts);
    for first in 0..=input.len() {
        assert_eq!(run(&[first]), whole, "cut at {first}");
        assert_eq!(run(&[first / 2, first]), whole, "cut at {} and {first}", first / 2);
    }
    assert_eq!(run(&(0..input.len()).collect::<Vec<_>>()), whole, "byte by byte");
}
