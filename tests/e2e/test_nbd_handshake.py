"""From the greeting to the chosen export, as the protocol's document has it: what is offered and what is
answered to every option, well formed or not. The table in docs/nbd.md says which test stands for what.
"""

import struct

from harness import rawnbd
from harness.rawnbd import Export, Raw, info_data, meta_data, option_bytes
from harness.shared import on_shared

NAME = b"door"
FLAGS = (rawnbd.HAS_FLAGS | rawnbd.SEND_FLUSH | rawnbd.SEND_FUA | rawnbd.SEND_TRIM | rawnbd.SEND_ZEROES
         | rawnbd.MULTI_CONN | rawnbd.SEND_CACHE | rawnbd.SEND_FAST_ZERO)
# Members are files on whatever disk the machine has.
OF_THE_MACHINE = rawnbd.ROTATIONAL


def still_in_step(t, raw):
    """The next option is answered as if nothing had been."""
    replies = listed(raw)
    t.check([name for name, _ in replies] == [NAME], f"after that, LIST answers {replies}")


def listed(raw):
    """LIST: [(name, description)]."""
    raw.option(rawnbd.OPT_LIST)
    replies = raw.option_replies(rawnbd.OPT_LIST)
    rawnbd.insist(replies[-1][0] == rawnbd.REP_ACK, f"LIST ended with {replies[-1][0]:x}")
    found = []
    for kind, data in replies[:-1]:
        rawnbd.insist(kind == rawnbd.REP_SERVER, f"LIST is answered by {kind:x}")
        length = struct.unpack(">I", data[:4])[0]
        rawnbd.insist(length <= len(data) - 4, "the name's length in LIST is wrong")
        found.append((data[4:4 + length], rawnbd.harmless_text(data[4 + length:])))
    return found


def chosen_well(t, raw, what):
    """Transmission works: a read is answered in step."""
    t.check(raw.ask(rawnbd.READ, 0, 4096) == 0, f"{what}: the first read fails")
    raw.request(rawnbd.DISC, 0, 0)
    raw.expect_end()


@on_shared
def test_greeting_is_fixed_newstyle_with_no_zeroes_alone(t, array):
    for where in (array.socket, array.tcp):
        with Raw(where) as raw:
            t.check(raw.greet() == 3, "the greeting's flags are not exactly bits 0 and 1")
            still_in_step(t, raw)


@on_shared
def test_the_greeting_waits_for_nothing(t, array):
    with Raw(array.socket) as raw:
        t.check(len(raw.take(18)) == 18, "no greeting")


@on_shared
def test_unknown_client_flags_are_dropped(t, array):
    for flags in (4, 7, 1 << 16, 1 << 31, 0xFFFFFFFF):
        with Raw(array.socket) as raw:
            raw.greet(flags)
            raw.expect_end()


@on_shared
def test_every_known_client_flag_is_taken(t, array):
    """Without the fixed-newstyle bit the server may still answer; what counts is that EXPORT_NAME works."""
    for flags in range(4):
        with Raw(array.socket) as raw:
            raw.greet(flags)
            raw.export_name(NAME, zeroes=not flags & 2)
            chosen_well(t, raw, f"client flags {flags}")


@on_shared
def test_export_name_with_and_without_zeroes(t, array):
    for flags, zeroes in ((1, True), (3, False)):
        for name in (b"", NAME):
            with Raw(array.socket) as raw:
                raw.greet(flags)
                raw.export_name(name, zeroes)
                t.check(raw.size > 0 and raw.flags & ~OF_THE_MACHINE == FLAGS, f"flags {raw.flags:x}")
                chosen_well(t, raw, f"EXPORT_NAME {name}")


@on_shared
def test_export_name_of_nothing_closes(t, array):
    for name in (b"nothing", NAME + b"\0", NAME + b" ", NAME.upper(), b"\xff", b"x" * 4096, b"x" * 4097, b"x" * 65536):
        with Raw(array.socket) as raw:
            raw.greet()
            raw.option(rawnbd.OPT_EXPORT_NAME, name)
            raw.expect_end()


@on_shared
def test_export_name_after_structured_replies_has_df(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        raw.negotiate(structured=True)
        raw.export_name(NAME)
        t.check(raw.flags & rawnbd.SEND_DF, "DF is not offered")
        t.check(raw.read(0, 65536, rawnbd.DF) is not None, "no read")


@on_shared
def test_go_never_sends_zeroes(t, array):
    for flags in (1, 3):
        with Raw(array.socket) as raw:
            raw.greet(flags)
            t.check(isinstance(raw.describe(rawnbd.OPT_GO), Export), "GO was refused")
            chosen_well(t, raw, f"GO with client flags {flags}")


@on_shared
def test_info_and_go_say_the_same(t, array):
    asked = [(), (1,), (2,), (3,), (0,), (3, 2, 1, 0), (1, 2, 3, 4, 77, 0xFFFF)]
    for structured in (False, True):
        for kinds in asked:
            with Raw(array.socket) as raw:
                raw.greet()
                raw.negotiate(structured)
                info = raw.describe(rawnbd.OPT_INFO, NAME, kinds)
                go = raw.describe(rawnbd.OPT_GO, NAME, kinds)
                t.check(isinstance(info, Export) and info == go, f"INFO {info}, GO {go}")
                chosen_well(t, raw, f"GO with {kinds}")


@on_shared
def test_info_answers_what_it_is_asked(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for name in (b"", NAME):
            export = raw.describe(rawnbd.OPT_INFO, name, (1, 2, 3))
            t.check(export.name == NAME and export.description, f"name and description: {export}")
            t.check(export.size % export.blocks[0] == 0 and export.size > 0, f"size {export.size}")
        quiet = raw.describe(rawnbd.OPT_INFO, NAME)
        t.check(quiet.name is None and quiet.description is None, f"not asked for, and told: {quiet}")


@on_shared
def test_unknown_information_is_ignored(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        export = raw.describe(rawnbd.OPT_INFO, NAME, tuple(range(4, 2000)))
        t.check(isinstance(export, Export), f"INFO with unknown requests: {export}")
        t.check(set(export.order) <= {0, 1, 2, 3}, f"information of unknown kinds: {export.order}")
        still_in_step(t, raw)


@on_shared
def test_info_and_go_of_an_unknown_export_keep_the_session(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for code in (rawnbd.OPT_INFO, rawnbd.OPT_GO):
            for name in (b"nothing", NAME + b"/", NAME[:-1], NAME.upper(), "türe".encode(), b"x" * 4096):
                got = raw.describe(code, name)
                t.check(got == rawnbd.REP_UNKNOWN, f"{name[:20]}: {got}")
        still_in_step(t, raw)
        t.check(isinstance(raw.describe(rawnbd.OPT_GO, NAME), Export), "GO after failures is refused")
        chosen_well(t, raw, "after failures")


MALFORMED = [b"", b"\0", b"\0\0\0", b"\0\0\0\0", b"\0\0\0\0\0", struct.pack(">I", 5) + NAME + b"\0\0",
             struct.pack(">I", 0xFFFFFFFF) + NAME + b"\0\0", struct.pack(">I", 0x7FFFFFFF) + NAME + b"\0\0",
             info_data(NAME, (1, 2))[:-1], info_data(NAME, (1, 2))[:-2], info_data(NAME) + b"x", info_data(NAME) + b"\0\1",
             struct.pack(">I", 4) + NAME + b"\xff\xff", info_data(NAME, (1,)) * 2, b"\xff" * 64]


@on_shared
def test_malformed_info_and_go_are_invalid_and_in_step(t, array):
    for code in (rawnbd.OPT_INFO, rawnbd.OPT_GO):
        with Raw(array.socket) as raw:
            raw.greet()
            for data in MALFORMED:
                got = raw.try_option(code, data)
                t.check(got == rawnbd.REP_INVALID, f"option {code} with {data[:20]}: {got:x}")
                still_in_step(t, raw)


@on_shared
def test_names_at_the_limits(t, array):
    """4096 bytes is a name; more is too big; NUL and what is not UTF-8 are no names. No text repeats them raw."""
    cases = [(b"a" * 4096, rawnbd.REP_UNKNOWN), (b"a" * 4097, rawnbd.REP_TOO_BIG), (b"a" * 60000, rawnbd.REP_TOO_BIG),
             (b"a\0b", rawnbd.REP_INVALID), (NAME + b"\0", rawnbd.REP_INVALID), (b"\0", rawnbd.REP_INVALID),
             (b"\xff\xfe", rawnbd.REP_INVALID), (b"\xc3", rawnbd.REP_INVALID), (b"\xed\xa0\x80", rawnbd.REP_INVALID),
             ("\x1b[2Jx\r\n\u202e".encode(), rawnbd.REP_UNKNOWN), (("\u00e4" * 2048).encode(), rawnbd.REP_UNKNOWN)]
    with Raw(array.socket) as raw:
        raw.greet()
        for code in (rawnbd.OPT_INFO, rawnbd.OPT_GO):
            for name, want in cases:
                got = raw.try_option(code, info_data(name))
                t.check(got == want, f"{name[:12]} of {len(name)} bytes: {got:x}, wanted {want:x}")
        still_in_step(t, raw)


@on_shared
def test_error_texts_are_harmless(t, array):
    """Every error has a text, and `Raw` refuses one that is not UTF-8, is too long or moves a cursor."""
    with Raw(array.socket) as raw:
        raw.greet()
        for name in ("\x1b]0;title\x07".encode(), "\u202egnp.exe".encode(), b"\x7f\x08\x08", "\u2028".encode(), b"x" * 4096):
            raw.option(rawnbd.OPT_INFO, info_data(name))
            kind, text = raw.option_reply(rawnbd.OPT_INFO)
            t.check(kind == rawnbd.REP_UNKNOWN and text, f"{kind:x} {text}")
            rawnbd.harmless_text(text)
        still_in_step(t, raw)


@on_shared
def test_list_names_and_describes(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        (name, description), = listed(raw)
        t.check(name == NAME and description, f"LIST: {name} {description}")


@on_shared
def test_list_with_data_is_invalid(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for data in (b"x", bytes(4096)):
            got = raw.try_option(rawnbd.OPT_LIST, data)
            t.check(got == rawnbd.REP_INVALID, f"LIST with data: {got:x}")
        still_in_step(t, raw)


@on_shared
def test_abort_is_acknowledged_and_closes(t, array):
    for data in (b"", b"why", bytes(60000)):
        with Raw(array.socket) as raw:
            raw.greet()
            t.check(raw.try_option(rawnbd.OPT_ABORT, data) == rawnbd.REP_ACK, "ABORT is not acknowledged")
            raw.expect_end()


@on_shared
def test_abort_without_waiting_harms_nobody(t, array):
    for _ in range(20):
        with Raw(array.socket) as raw:
            raw.send(struct.pack(">I", 3) + option_bytes(rawnbd.OPT_ABORT))


@on_shared
def test_structured_reply_with_data_is_invalid(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        got = raw.try_option(rawnbd.OPT_STRUCTURED, b"x")
        t.check(got == rawnbd.REP_INVALID, f"STRUCTURED_REPLY with data: {got:x}")
        export = raw.describe(rawnbd.OPT_GO, NAME)
        t.check(not export.flags & rawnbd.SEND_DF, "DF although structured replies were refused")
        t.check(raw.ask_for(rawnbd.READ, 0, 512).simple, "a structured answer that was not agreed on")


@on_shared
def test_structured_reply_twice_is_fine(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        raw.negotiate(structured=True)
        raw.negotiate(structured=True)
        t.check(raw.describe(rawnbd.OPT_GO, NAME).flags & rawnbd.SEND_DF, "no DF")
        chosen_well(t, raw, "structured replies, twice")


@on_shared
def test_df_is_offered_with_structured_replies_alone(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for code in (rawnbd.OPT_INFO,):
            t.check(not raw.describe(code, NAME).flags & rawnbd.SEND_DF, "DF before structured replies")
        raw.negotiate(structured=True)
        t.check(raw.describe(rawnbd.OPT_INFO, NAME).flags & rawnbd.SEND_DF, "no DF after structured replies")


@on_shared
def test_transmission_flags_are_exactly_these(t, array):
    for structured in (False, True):
        with Raw(array.socket) as raw:
            raw.go(NAME, structured)
            got = raw.flags & ~OF_THE_MACHINE
            want = FLAGS | (rawnbd.SEND_DF if structured else 0)
            t.check(got == want, f"transmission flags {got:#x}, wanted {want:#x}")
            t.check(not raw.flags & rawnbd.RESIZE, "RESIZE, a draft, is offered")


@on_shared
def test_unknown_options_are_unsupported_and_in_step(t, array):
    for code in (rawnbd.OPT_PEEK, 12, 99, 1 << 16, 0xFFFFFFFF, 0):
        with Raw(array.socket) as raw:
            raw.greet()
            for data in (b"", b"x", b"y" * 8192, b"z" * 65536):
                got = raw.try_option(code, data)
                t.check(got == rawnbd.REP_UNSUP, f"option {code} with {len(data)} bytes: {got:x}")
            still_in_step(t, raw)


@on_shared
def test_options_up_to_64_kib_are_consumed(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for code in (rawnbd.OPT_INFO, rawnbd.OPT_GO, rawnbd.OPT_LIST_META, rawnbd.OPT_SET_META, rawnbd.OPT_LIST, rawnbd.OPT_STRUCTURED):
            got = raw.try_option(code, b"\xee" * 65536)
            t.check(got in (rawnbd.REP_INVALID, rawnbd.REP_TOO_BIG), f"64 KiB of option {code}: {got:x}")
            still_in_step(t, raw)


@on_shared
def test_a_larger_option_closes(t, array):
    for code in (rawnbd.OPT_GO, rawnbd.OPT_LIST, rawnbd.OPT_ABORT, 99):
        for length in (65537, 1 << 30, 0xFFFFFFFF):
            with Raw(array.socket) as raw:
                raw.greet()
                raw.option(code, b"", length)
                ends_without_ack(t, raw, f"option {code} of {length} bytes")


def ends_without_ack(t, raw, what):
    """The server says that it is too big, or nothing, and closes."""
    try:
        kind, _ = raw.option_reply()
        t.check(kind & rawnbd.ERR, f"{what}: reply {kind:x}")
    except rawnbd.Gone:
        return
    raw.expect_end()


@on_shared
def test_the_65th_option_closes(t, array):
    for code, want in ((rawnbd.OPT_LIST, rawnbd.REP_ACK), (99, rawnbd.REP_UNSUP), (rawnbd.OPT_STRUCTURED, rawnbd.REP_ACK)):
        with Raw(array.socket) as raw:
            raw.greet()
            for number in range(64):
                t.check(raw.try_option(code) == want, f"option number {number + 1} is not answered well")
            try:
                raw.option(code)
            except rawnbd.Gone:
                continue
            ends_without_ack(t, raw, "the 65th option")


@on_shared
def test_a_wrong_option_magic_closes(t, array):
    for magic in (0, rawnbd.NBDMAGIC, rawnbd.IHAVEOPT ^ 1, rawnbd.OPT_REPLY):
        with Raw(array.socket) as raw:
            raw.greet()
            raw.send(struct.pack(">QII", magic, rawnbd.OPT_LIST, 0))
            raw.expect_end()


@on_shared
def test_block_sizes_are_told_asked_or_not(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for kinds in ((), (3,), (1, 2)):
            export = raw.describe(rawnbd.OPT_INFO, NAME, kinds)
            t.check(export.blocks is not None, f"no block sizes for {kinds}")
        minimum, preferred, most = export.blocks
        t.check(minimum in (512, 4096) and preferred == 65536 and most == 32 << 20, f"block sizes {export.blocks}")
        t.check(preferred & (preferred - 1) == 0 and preferred >= max(512, minimum), f"preferred {preferred}")
        t.check(export.size % minimum == 0, f"size {export.size} is no multiple of {minimum}")


@on_shared
def test_go_without_asking_for_block_sizes_is_accepted(t, array):
    with Raw(array.socket) as raw:
        raw.go(NAME, kinds=())
        chosen_well(t, raw, "GO without NBD_INFO_BLOCK_SIZE")


def script():
    """A whole handshake with every option, and the first request."""
    return (struct.pack(">I", 3) + option_bytes(rawnbd.OPT_STRUCTURED) + option_bytes(99, b"xyz") + option_bytes(rawnbd.OPT_LIST)
            + option_bytes(rawnbd.OPT_SET_META, meta_data(NAME, [b"base:allocation"])) + option_bytes(rawnbd.OPT_INFO, info_data(NAME, (3,)))
            + option_bytes(rawnbd.OPT_GO, info_data(NAME, (1, 3)))
            + struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.READ, 1, 0, 512)
            + struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.DISC, 2, 0, 0))


def all_of(raw):
    """Everything until the server closes."""
    got = b""
    try:
        while more := raw.sock.recv(65536):
            got += more
    except ConnectionResetError:
        pass
    return got


@on_shared
def test_a_handshake_in_one_piece_or_byte_by_byte_is_the_same(t, array):
    whole = script()
    with Raw(array.socket) as raw:
        raw.send(whole)
        want = all_of(raw)
    t.check(len(want) > 600, f"a handshake and a request in one piece end after {len(want)} bytes")
    for where in (array.socket, array.tcp):
        with Raw(where) as raw:
            for at in range(len(whole)):
                raw.send(whole[at:at + 1])
            t.check(all_of(raw) == want, "byte by byte the answers differ")


@on_shared
def test_a_handshake_cut_anywhere_is_the_same(t, array):
    whole = script()
    with Raw(array.socket) as raw:
        raw.send(whole)
        want = all_of(raw)
    for cut in range(1, len(whole)):
        with Raw(array.socket) as raw:
            raw.send(whole[:cut])
            raw.send(whole[cut:])
            t.check(all_of(raw) == want, f"cut at {cut} the answers differ")


@on_shared
def test_a_client_that_leaves_anywhere_in_the_handshake_harms_nobody(t, array):
    whole = script()
    for cut in range(0, len(whole), 3):
        with Raw(array.socket) as raw:
            raw.send(whole[:cut])
