//! Messages that a kernel sent, taken apart; and what no kernel would send, which must do no harm.

use super::*;

/// The bytes of a kernel of a little-endian machine, written as hexadecimal.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
#[cfg(target_endian = "little")]
fn a_request_has_the_bytes_of_the_header_files() {
    let mut sockets = Vec::new();
    let mut item = Vec::new();
    push_attribute(&mut item, 1, &5u32.to_ne_bytes());
    push_attribute(&mut sockets, 1, &item);
    let request = Builder::new(0x1d, 1, 1, 7).u64(2, 1 << 20).text(10, "uraid:t").nest(7, &sockets).finish();
    let expected = bytes(
        "40000000 1d00 0500 07000000 00000000  01 01 0000
         0c00 0200 0000100000000000
         0c00 0a00 7572616964 3a 74 00
         1000 0780 0c00 0100 0800 0100 05000000",
    );
    let len = u32::try_from(expected.len()).unwrap();
    assert_eq!(request[..4], len.to_le_bytes());
    assert_eq!(request[4..], expected[4..]);
}

// What Linux 6.1.176 answered to GETFAMILY "nbd", and to STATUS with an attribute that is too short, once with
// the option NETLINK_CAP_ACK and once without; x86-64.
const FAMILY: &str = "b4000000 1000 0000 01000000 ea020000 01020000
    0800 0200 6e626400 0600 0100 1a000000 0800 0300 01000000 0800 0400 00000000 0800 0500 0a000000
    5400 0600 1400 0100 0800010001000000 080002000a000000 1400 0200 0800010002000000 080002000a000000
    1400 0300 0800010003000000 080002000a000000 1400 0400 0800010005000000 080002000a000000
    2400 0700 2000 0100 0800 0200 03000000 1100 0100 6e62645f6d635f67726f757000 000000
    24000000 0200 0001 01000000 ea020000 00000000 1c000000 1000 0500 01000000 00000000";
const REFUSED: &str = "88000000 0200 0002 01000000 ea020000 deffffff
    1c0000001a000500010000000000000005010000050001000100000027000100417474726962757465206661696c6564
    20706f6c6963792076616c69646174696f6e00000800020014000000280004800c000400000000000000000004000b00
    0c000500ffffffff000000000800010004000000";
const REFUSED_CAPPED: &str = "80000000 0200 0003 01000000 ea020000 deffffff
    1c0000001a000500010000000000000027000100417474726962757465206661696c656420706f6c6963792076616c69
    646174696f6e000008000200140000002c00048004000b000c000400000000000000000004000b000c000500ffffffff
    000000000800010004000000";

#[test]
#[cfg(target_endian = "little")]
fn the_family_is_found_in_the_answer_of_a_kernel() {
    let answer = bytes(FAMILY);
    let messages: Vec<_> = Messages(&answer).collect();
    assert_eq!(messages.len(), 2);
    let (command, attributes) = messages[0].generic().unwrap();
    assert_eq!((command, attributes.u16(1), attributes.text(2)), (1, Some(26), Some(&b"nbd"[..])));
    let group = attributes.nest(7).nest(1);
    assert_eq!((group.u32(2), group.text(1)), (Some(3), Some(&b"nbd_mc_group"[..])));
    assert_eq!(messages[0].acknowledgement(), None);
    assert_eq!(messages[1].acknowledgement(), Some(Acknowledgement { errno: 0, text: None }));
}

#[test]
#[cfg(target_endian = "little")]
fn the_words_of_a_kernel_are_found_in_its_refusal() {
    for refused in [REFUSED, REFUSED_CAPPED] {
        let refused = bytes(refused);
        let messages: Vec<_> = Messages(&refused).collect();
        assert_eq!(messages.len(), 1);
        let text = Some("Attribute failed policy validation".to_owned());
        assert_eq!(messages[0].acknowledgement(), Some(Acknowledgement { errno: 34, text }));
    }
}

/// An error message as the kernel builds it, with the request echoed or not.
fn error(errno: i32, echoed: usize, flags: u16, text: &[u8]) -> Vec<u8> {
    let mut body = (-errno).to_ne_bytes().to_vec();
    body.extend(u32::try_from(MESSAGE_HEADER + echoed).unwrap().to_ne_bytes());
    body.extend([0; 12]);
    if flags & flag::CAPPED == 0 {
        body.resize(body.len() + echoed, 0xee);
    }
    push_attribute(&mut body, ERROR_TEXT, text);
    let mut message = u32::try_from(MESSAGE_HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
    message.extend(kind::ERROR.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

#[test]
fn the_text_of_an_error_is_found_behind_the_request_and_without_it() {
    for flags in [flag::ACK_TLVS, flag::ACK_TLVS | flag::CAPPED] {
        let message = error(22, 40, flags, b"no such thing\0");
        let got = Messages(&message).next().unwrap().acknowledgement().unwrap();
        assert_eq!(got, Acknowledgement { errno: 22, text: Some("no such thing".to_owned()) });
    }
    // Without the mark there are no attributes, whatever lies there.
    let message = error(16, 0, flag::CAPPED, b"not announced\0");
    let got = Messages(&message).next().unwrap().acknowledgement().unwrap();
    assert_eq!(got, Acknowledgement { errno: 16, text: None });
}

#[test]
fn the_last_of_equal_attributes_counts_and_marks_are_not_part_of_the_type() {
    let mut inner = Vec::new();
    push_attribute(&mut inner, 3, &1u32.to_ne_bytes());
    push_attribute(&mut inner, 3 | NESTED, &2u32.to_ne_bytes());
    assert_eq!(Attributes(&inner).u32(3), Some(2));
    assert_eq!(Attributes(&inner).u32(4), None);
    assert_eq!(Attributes(&inner).u8(3), Some(2u32.to_ne_bytes()[0]));
}

#[test]
fn a_value_too_short_for_its_number_is_no_number() {
    let mut inner = Vec::new();
    push_attribute(&mut inner, 1, &[1, 2]);
    assert_eq!((Attributes(&inner).u32(1), Attributes(&inner).u16(1).is_some()), (None, true));
}

/// Everything that a reader of this module could ask of a datagram.
fn ask_everything(datagram: &[u8]) -> usize {
    let mut seen = 0;
    for message in Messages(datagram) {
        seen += 1;
        let _ = message.acknowledgement();
        if let Some((_, attributes)) = message.generic() {
            for (number, value) in attributes.clone() {
                let _ = (attributes.u32(number), attributes.text(number), value.len());
                for (inner, _) in attributes.nest(number) {
                    let _ = (attributes.nest(number).u8(inner), attributes.nest(number).nest(inner).u32(1));
                }
            }
        }
    }
    seen
}

#[test]
fn no_bytes_do_harm_and_every_walk_ends() {
    let seed = 0x5eed_a77a_u64;
    println!("seed {seed:#x}");
    let mut state = seed;
    let mut next = move || {
        // A linear congruential generator with Knuth's constants.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let whole = [FAMILY, REFUSED, REFUSED_CAPPED].map(bytes);
    for round in 0..50_000 {
        let mut datagram: Vec<u8> = if round % 2 == 0 {
            (0..next() % 96).map(|_| next() as u8).collect()
        } else {
            whole[next() % 3].repeat(1 + next() % 2)
        };
        for _ in 0..next() % 6 {
            let at = next() % datagram.len().max(1);
            if let Some(byte) = datagram.get_mut(at) {
                *byte = [0, 1, 3, 4, 16, 0x7f, 0x80, 0xff][next() % 8];
            }
        }
        datagram.truncate(next() % (datagram.len() + 1));
        assert!(ask_everything(&datagram) <= datagram.len() / MESSAGE_HEADER);
    }
}
