"""Extended headers (the draft that qemu and libnbd speak): negotiation, 64-bit lengths that are never
narrowed, payload flags, and block status in its wide form. The commands themselves are gone through in
sessions of all three kinds by test_nbd_commands.py; `Raw` checks that every reply repeats the offset.
"""

import struct

from harness import rawnbd
from harness.array import Array
from harness.rawnbd import EINVAL, ENOSPC, PAYLOAD_LEN, Export, Raw, info_data
from harness.shared import on_shared

NAME = b"door"
BASE = b"base:allocation"
MIB = 1 << 20
NARROW = 1 << 32


def extended(array, contexts=(), name=b""):
    """A connection in transmission with extended headers."""
    return Raw(array.socket).go(name, extended=True, contexts=contexts)


@on_shared
def test_extended_headers_are_granted(t, array):
    for first in (False, True):
        with Raw(array.socket) as raw:
            raw.greet()
            raw.negotiate(structured=first, extended=True)
            export = raw.describe(rawnbd.OPT_GO, NAME)
            t.check(export.flags & rawnbd.SEND_DF, "DF is not offered with extended headers")
            t.check(raw.read(0, 4096) is not None, "no read")


@on_shared
def test_extended_headers_with_data_are_invalid(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        got = raw.try_option(rawnbd.OPT_EXTENDED, b"x")
        t.check(got == rawnbd.REP_INVALID, f"EXTENDED_HEADERS with data: {got:x}")
        raw.describe(rawnbd.OPT_GO, NAME)
        t.check(raw.ask_for(rawnbd.READ, 0, 512).simple, "refused, and extended all the same")


@on_shared
def test_structured_replies_cannot_follow_extended_headers(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        raw.negotiate(extended=True)
        got = raw.try_option(rawnbd.OPT_STRUCTURED)
        t.check(got == rawnbd.REP_EXT_REQD, f"STRUCTURED_REPLY behind EXTENDED_HEADERS: {got:x}")
        t.check(isinstance(raw.describe(rawnbd.OPT_GO, NAME), Export), "GO")
        t.check(raw.read(0, 512) is not None, "the session is no longer extended")


@on_shared
def test_export_name_after_extended_headers_closes(t, array):
    """It has no way to say no, and a client that asked for extended headers may not use it."""
    with Raw(array.socket) as raw:
        raw.greet()
        raw.negotiate(extended=True)
        raw.option(rawnbd.OPT_EXPORT_NAME, NAME)
        raw.expect_end()


@on_shared
def test_contexts_with_extended_headers_alone(t, array):
    """They are enough; structured replies need not have been asked for."""
    with extended(array, [BASE]) as raw:
        t.check(raw.flags & rawnbd.STATUS_PAYLOAD, "the payload form of block status is not offered")
        reply = raw.ask_for(rawnbd.BLOCK_STATUS, 0, raw.size)
        t.check(reply.errno == 0 and reply.extents, f"{reply}")
    with extended(array) as raw:
        t.check(not raw.flags & rawnbd.STATUS_PAYLOAD, "the payload form is offered without a context")
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 512) == EINVAL, "block status without a context")
    with Raw(array.socket) as raw:
        raw.go(structured=True, contexts=[BASE])
        t.check(not raw.flags & rawnbd.STATUS_PAYLOAD, "the payload form is offered without extended headers")


@on_shared
def test_info_and_go_agree_with_extended_headers(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        raw.negotiate(extended=True)
        raw.set_contexts([BASE], NAME)
        info = raw.describe(rawnbd.OPT_INFO, NAME, (1, 2, 3))
        go = raw.describe(rawnbd.OPT_GO, NAME, (1, 2, 3))
        t.check(info == go, f"INFO {info}, GO {go}")


@on_shared
def test_lengths_are_never_narrowed(t, array):
    """4 GiB and a bit is not the bit: what reaches past the end is refused, and nothing is touched."""
    with extended(array, [BASE]) as raw:
        raw.write(0, b"\x5c" * 4096)
        for length in (NARROW, NARROW + 512, NARROW + 4096, 1 << 40, (1 << 63) + 512, (1 << 64) - 512):
            for command, want in ((rawnbd.WRITE_ZEROES, ENOSPC), (rawnbd.TRIM, EINVAL), (rawnbd.CACHE, EINVAL), (rawnbd.BLOCK_STATUS, EINVAL)):
                got = raw.ask(command, 0, length)
                t.check(got == want, f"command {command} of {length:#x}: {got}, wanted {want}")
            got = raw.ask(rawnbd.READ, 0, length)
            t.check(got in (EINVAL, rawnbd.EOVERFLOW), f"a read of {length:#x}: {got}")
        for command in (rawnbd.WRITE_ZEROES, rawnbd.TRIM, rawnbd.CACHE):
            t.check(raw.ask(command, (1 << 64) - 512, NARROW + 1024) in (EINVAL, ENOSPC), "offset and length wrap")
        t.check(raw.read(0, 4096) == b"\x5c" * 4096, "something was zeroed")


def test_lengths_beyond_4_gib_are_carried_out(t):
    """On a volume of nearly 6 GiB: hints and block status of all of it, in one request each."""
    array = Array(t, 5, 3, size="3G", chunk="512K")
    array.serve()
    with Raw(array.socket, 60).go(extended=True, contexts=[BASE]) as raw:
        t.check(raw.size > NARROW + MIB, f"the volume has {raw.size} bytes")
        raw.write(raw.size - 512, b"\x01" * 512)
        for command in (rawnbd.TRIM, rawnbd.CACHE):
            t.check(raw.ask(command, 0, raw.size) == 0, f"command {command} of everything")
        reply = raw.ask_for(rawnbd.BLOCK_STATUS, 0, raw.size)
        t.check(reply.errno == 0, f"block status of everything: {reply}")
        t.check(sum(n for n, _ in raw_extents(reply)) > 0, "no extents")
        reply = raw.ask_for(rawnbd.BLOCK_STATUS, NARROW, raw.size - NARROW, flags=rawnbd.REQ_ONE)
        t.check(reply.errno == 0, f"block status beyond 4 GiB: {reply}")
        t.check(raw.read(NARROW + 4096, 4096) == bytes(4096), "a read beyond 4 GiB")
    array.stop()


def raw_extents(reply):
    """The extents of the one context."""
    (extents,) = reply.extents.values()
    return extents


@on_shared
def test_a_write_without_the_payload_flag_is_one(t, array):
    """The draft wants the flag; qemu (8.2 to 10.0) sends the payload without it. Taking that payload for
    requests would let a guest's data act."""
    looks_like = struct.pack(">IHHQQQ", rawnbd.EXT_REQUEST, 0, rawnbd.DISC, 1, 0, 0) * 128
    with extended(array) as raw:
        # `prepare` sets the flag of a write; given, it takes it away.
        for flags in (0, PAYLOAD_LEN):
            raw.write(MIB, bytes(4096))
            raw.write(MIB, looks_like, flags)
            t.check(raw.read(MIB, 4096) == looks_like, "not written")
            raw.request(rawnbd.WRITE, raw.size, 4096, looks_like, flags)
            t.check(raw.answer().errno == ENOSPC, "past the end")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_payloads_of_other_commands_are_consumed_and_refused(t, array):
    looks_like = struct.pack(">IHHQQQ", rawnbd.EXT_REQUEST, 0, rawnbd.DISC, 1, 0, 0)
    with extended(array) as raw:
        for command in (rawnbd.READ, rawnbd.FLUSH, rawnbd.TRIM, rawnbd.CACHE, rawnbd.WRITE_ZEROES, rawnbd.BLOCK_STATUS, 99):
            for length in (32, 4096, MIB):
                raw.request(command, 0, length, (looks_like * (length // 32 + 1))[:length], PAYLOAD_LEN)
                reply = raw.answer()
                t.check(reply.errno == EINVAL, f"command {command} with a payload of {length}: {reply.errno}")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_a_payload_that_is_too_long_closes(t, array):
    for command in (rawnbd.WRITE, rawnbd.READ, 99):
        for length in (64 * MIB + 512, NARROW, NARROW + 512, (1 << 64) - 512):
            with extended(array) as raw:
                raw.send(raw.header(command, 0, length, PAYLOAD_LEN))
                raw.expect_end()


@on_shared
def test_block_status_of_some_contexts(t, array):
    """The payload form: an effect length, and the ids; unknown, doubled or cut ones are refused, in step."""
    with extended(array, [BASE]) as raw:
        (known,) = raw.contexts

        def ask(length, *ids, cut=0):
            payload = struct.pack(f">Q{len(ids)}I", length, *ids)
            payload = payload[:len(payload) - cut]
            raw.asked[7] = (rawnbd.BLOCK_STATUS, 0, length, 0)
            raw.send(raw.header(rawnbd.BLOCK_STATUS, 0, len(payload), PAYLOAD_LEN) + payload)
            return raw.answer()

        reply = ask(65536, known)
        t.check(reply.errno == 0 and set(reply.extents) == {known}, f"the one context: {reply}")
        for label, reply in (("an unknown id", ask(65536, known + 1000)), ("an id twice", ask(65536, known, known)),
                             ("a cut id", ask(65536, known, cut=2)), ("past the end", ask(raw.size + 512, known)),
                             ("far past the end", ask(1 << 63, known)), ("off the block size", ask(100, known))):
            t.check(reply.errno == EINVAL, f"{label}: {reply.errno}")
        for length in (0, 4, 7):
            raw.asked[7] = (rawnbd.BLOCK_STATUS, 0, length, 0)
            raw.send(raw.header(rawnbd.BLOCK_STATUS, 0, length, PAYLOAD_LEN) + bytes(length))
            t.check(raw.answer().errno == EINVAL, f"a payload of {length} bytes")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_headers_of_the_other_form_close(t, array):
    with extended(array) as raw:
        raw.send(struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.READ, 1, 0, 512) + bytes(4))
        raw.expect_end()
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        raw.send(struct.pack(">IHHQQQ", rawnbd.EXT_REQUEST, 0, rawnbd.READ, 1, 0, 512))
        raw.expect_end()


@on_shared
def test_extended_requests_cut_anywhere(t, array):
    with extended(array) as raw:
        for cut in range(1, 32 + 512):
            request = raw.prepare(rawnbd.WRITE, 0, 512, bytes([cut & 0xFF]) * 512)
            raw.send(request[:cut])
            raw.send(request[cut:])
            t.check(raw.answer().errno == 0, f"cut at {cut}")


@on_shared
def test_a_compact_session_knows_no_payload_flag(t, array):
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        for command in (rawnbd.READ, rawnbd.WRITE, rawnbd.WRITE_ZEROES):
            got = raw.ask(command, 0, 512, bytes(512) if command == rawnbd.WRITE else b"", PAYLOAD_LEN)
            t.check(got == EINVAL, f"command {command} with PAYLOAD_LEN: {got}")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_extended_headers_and_unknown_exports(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        raw.negotiate(extended=True)
        t.check(raw.try_option(rawnbd.OPT_GO, info_data(b"nothing")) == rawnbd.REP_UNKNOWN, "an unknown export")
        t.check(isinstance(raw.describe(rawnbd.OPT_GO, NAME), Export), "GO")
        t.check(raw.read(0, 512) is not None, "the session is no longer extended")
