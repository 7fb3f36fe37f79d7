"""Metadata contexts and block status: what is listed, what is selected, when a selection is void, and what
a client may believe of the extents. `Raw` itself checks every extent's rules (harness/rawnbd.py).
"""

from harness import rawnbd
from harness.array import Array
from harness.rawnbd import Raw, info_data, meta_data
from harness.shared import on_shared

NAME = b"door"
BASE = b"base:allocation"
OURS = b"x-uraid:redundancy"


def structured(array):
    """A connection in the handshake, with structured replies."""
    raw = Raw(array.socket)
    raw.greet()
    return raw.negotiate(structured=True)


@on_shared
def test_contexts_before_structured_replies_are_invalid(t, array):
    with Raw(array.socket) as raw:
        raw.greet()
        for code in (rawnbd.OPT_LIST_META, rawnbd.OPT_SET_META):
            got = raw.try_option(code, meta_data(NAME, [BASE]))
            t.check(got == rawnbd.REP_INVALID, f"option {code} without structured replies: {got:x}")
        raw.describe(rawnbd.OPT_GO, NAME)
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 4096) == rawnbd.EINVAL, "block status without structured replies")
        t.check(raw.ask(rawnbd.READ, 0, 512) == 0, "out of step")


@on_shared
def test_list_meta_context(t, array):
    with structured(array) as raw:
        everything = raw.list_contexts([], NAME)
        t.check(BASE in everything, f"all contexts: {everything}")
        t.check(raw.list_contexts([BASE], NAME) == {BASE}, "base:allocation is not listed by its name")
        t.check(raw.list_contexts([b"base:"], NAME) == {BASE}, "`base:` does not list base:allocation alone")
        t.check(raw.list_contexts([b"base:", BASE, BASE], b"") == {BASE}, "asked for twice, or of the default export")
        for nothing in (b"base", b"base:alloc", b"base:allocations", b"qemu:", b"nothing:at-all", b"", b":", b"\xff:\xff"):
            t.check(raw.list_contexts([nothing], NAME) == set(), f"{nothing} lists something")


@on_shared
def test_listed_ids_are_zero_and_select_nothing(t, array):
    with structured(array) as raw:
        raw.option(rawnbd.OPT_LIST_META, meta_data(NAME, [BASE]))
        (kind, data), _ = raw.option_replies(rawnbd.OPT_LIST_META)
        t.check(kind == rawnbd.REP_META and data[:4] == bytes(4), f"the id in a list is reserved: {data[:4]}")
        raw.describe(rawnbd.OPT_GO, NAME)
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 4096) == rawnbd.EINVAL, "a list selects")


@on_shared
def test_set_meta_context_selects_what_it_knows(t, array):
    for queries, want in [([BASE], [BASE]), ([BASE, BASE], [BASE]), ([b"qemu:dirty-bitmap:x", BASE], [BASE]), ([b"base:"], []),
                          ([b"base:unknown"], []), ([b"unknown"], []), ([b""], []), ([], []), ([b"x" * 4096, BASE], [BASE])]:
        with structured(array) as raw:
            got = raw.set_contexts(queries, NAME)
            t.check(sorted(got.values()) == want, f"{[q[:20] for q in queries]} selects {got}")
            raw.describe(rawnbd.OPT_GO, NAME)
            errno = raw.ask(rawnbd.BLOCK_STATUS, 0, 65536)
            t.check(errno == (0 if want else rawnbd.EINVAL), f"block status with {want}: {errno}")


@on_shared
def test_a_failed_selection_clears_the_one_before(t, array):
    bad = [(meta_data(b"nothing", [BASE]), rawnbd.REP_UNKNOWN), (meta_data(NAME, [BASE])[:-1], rawnbd.REP_INVALID),
           (meta_data(NAME, [BASE]) + b"x", rawnbd.REP_INVALID), (b"", rawnbd.REP_INVALID), (b"\xff" * 12, rawnbd.REP_INVALID),
           (meta_data(NAME, [b"x" * 4097]), rawnbd.REP_TOO_BIG), (meta_data(b"n" * 4097, [BASE]), rawnbd.REP_TOO_BIG)]
    for data, want in bad:
        with structured(array) as raw:
            raw.set_contexts([BASE], NAME)
            got = raw.try_option(rawnbd.OPT_SET_META, data)
            t.check(got == want, f"{data[:20]}: {got:x}, wanted {want:x}")
            raw.describe(rawnbd.OPT_GO, NAME)
            errno = raw.ask(rawnbd.BLOCK_STATUS, 0, 4096)
            t.check(errno == rawnbd.EINVAL, f"after {data[:20]} the earlier selection lives: {errno}")


@on_shared
def test_a_later_selection_replaces_the_one_before(t, array):
    with structured(array) as raw:
        raw.set_contexts([BASE], NAME)
        t.check(raw.set_contexts([b"unknown:x"], NAME) == {}, "an unknown context is selected")
        raw.describe(rawnbd.OPT_GO, NAME)
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 4096) == rawnbd.EINVAL, "the earlier selection lives")


@on_shared
def test_a_refused_go_keeps_the_selection(t, array):
    """Only another export voids it; the name that was refused is none."""
    with structured(array) as raw:
        raw.set_contexts([BASE], NAME)
        t.check(raw.describe(rawnbd.OPT_GO, b"nothing") == rawnbd.REP_UNKNOWN, "an unknown export")
        raw.describe(rawnbd.OPT_INFO, NAME)
        raw.describe(rawnbd.OPT_GO, NAME)
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 4096) == 0, "the selection is gone")


@on_shared
def test_the_default_export_and_its_name_are_the_same_selection(t, array):
    for at_set, at_go in ((b"", NAME), (NAME, b"")):
        with structured(array) as raw:
            raw.set_contexts([BASE], at_set)
            raw.describe(rawnbd.OPT_GO, at_go)
            t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 4096) == 0, f"selected for {at_set}, gone with {at_go}")


@on_shared
def test_contexts_hold_with_export_name_too(t, array):
    with structured(array) as raw:
        raw.set_contexts([BASE], NAME)
        raw.export_name(NAME)
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 4096) == 0, "the selection is gone")


@on_shared
def test_malformed_context_options_stay_in_step(t, array):
    whole = meta_data(NAME, [BASE, b"x:y"])
    for code in (rawnbd.OPT_LIST_META, rawnbd.OPT_SET_META):
        with structured(array) as raw:
            for cut in range(len(whole)):
                got = raw.try_option(code, whole[:cut])
                t.check(got == rawnbd.REP_INVALID, f"option {code} cut at {cut}: {got:x}")
            t.check(raw.list_contexts([BASE], NAME) == {BASE}, "out of step")
    with structured(array) as raw:
        got = raw.try_option(rawnbd.OPT_SET_META, meta_data(NAME)[:-4] + b"\xff\xff\xff\xff" + b"\0" * 8)
        t.check(got == rawnbd.REP_INVALID, f"four thousand million queries: {got:x}")
        t.check(raw.list_contexts([BASE], NAME) == {BASE}, "out of step")


@on_shared
def test_many_queries_in_one_option(t, array):
    with structured(array) as raw:
        many = [b"n:%d" % i for i in range(4000)]
        t.check(list(raw.set_contexts([*many, BASE], NAME).values()) == [BASE], "one in four thousand is not found")
        t.check(raw.list_contexts([*many, b"base:"], NAME) == {BASE}, "nor listed")


@on_shared
def test_block_status_covers_what_was_asked(t, array):
    with Raw(array.socket) as raw:
        raw.go(NAME, structured=True, contexts=[BASE])
        size = raw.size
        for offset, length in ((0, 512), (0, 1 << 20), (512, 512), (4096, 65536), (size - 512, 512), (0, size), (size // 2, size // 2)):
            at = offset
            while at < offset + length:
                reply = raw.ask_for(rawnbd.BLOCK_STATUS, at, offset + length - at)
                t.check(reply.errno == 0, f"block status of {at}: {reply.errno} {reply.text}")
                for extents in reply.extents.values():
                    t.check(all(status & ~3 == 0 for _, status in extents), f"unknown status bits in {extents}")
                    t.check(all(n % 512 == 0 for n, _ in extents), f"extents off the block size: {extents}")
                at += min(sum(n for n, _ in extents) for extents in reply.extents.values())


@on_shared
def test_block_status_req_one(t, array):
    with Raw(array.socket) as raw:
        raw.go(NAME, structured=True, contexts=[BASE])
        for offset, length in ((0, 512), (0, raw.size), (4096, 1 << 20), (raw.size - 512, 512)):
            reply = raw.ask_for(rawnbd.BLOCK_STATUS, offset, length, flags=rawnbd.REQ_ONE)
            t.check(reply.errno == 0, f"REQ_ONE at {offset}: {reply.errno}")


@on_shared
def test_block_status_never_calls_data_zero(t, array):
    """What is reported to read as zeroes does, right behind a write, too."""
    with Raw(array.socket) as raw:
        raw.go(NAME, structured=True, contexts=[BASE])
        raw.write(4 << 20, b"\xa5" * 4096)
        raw.write((4 << 20) + 65536 - 512, b"\x5a" * 512)
        at = 4 << 20
        while at < 5 << 20:
            reply = raw.ask_for(rawnbd.BLOCK_STATUS, at, (5 << 20) - at)
            (extents,) = reply.extents.values()
            for length, status in extents:
                length = min(length, (5 << 20) - at)
                if length and status & rawnbd.ZERO:
                    t.check(raw.read(at, length) == bytes(length), f"{length} bytes at {at} are called zero")
                at += length


@on_shared
def test_block_status_errors(t, array):
    with Raw(array.socket) as raw:
        raw.go(NAME, structured=True, contexts=[BASE])
        size = raw.size
        for label, offset, length, flags in [
                ("past the end", size - 512, 1024, 0), ("at the end", size, 512, 0), ("far outside", (1 << 64) - 512, 512, 0),
                ("wrapping", (1 << 64) - 512, 1024, 0), ("no length", 0, 0, 0), ("off the block size", 256, 512, 0),
                ("half a block", 0, 100, 0), ("NO_HOLE", 0, 512, rawnbd.NO_HOLE), ("DF", 0, 512, rawnbd.DF),
                ("FAST_ZERO", 0, 512, rawnbd.FAST_ZERO), ("unknown flag", 0, 512, 1 << 9)]:
            reply = raw.ask_for(rawnbd.BLOCK_STATUS, offset, length, flags=flags)
            t.check(reply.errno == rawnbd.EINVAL, f"{label}: {reply.errno}, wanted EINVAL")
            t.check(reply.text, f"{label}: no text says why")
        t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 512, flags=rawnbd.FUA | rawnbd.REQ_ONE) == 0, "FUA belongs to every command")


@on_shared
def test_block_status_without_a_context_is_invalid(t, array):
    for queries in (None, [b"base:"], [b"none:such"]):
        with structured(array) as raw:
            if queries is not None:
                raw.set_contexts(queries, NAME)
            raw.describe(rawnbd.OPT_GO, NAME)
            t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, 512) == rawnbd.EINVAL, f"answered after {queries}")
            t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_set_meta_context_of_an_unknown_export(t, array):
    with structured(array) as raw:
        for code in (rawnbd.OPT_LIST_META, rawnbd.OPT_SET_META):
            got = raw.try_option(code, meta_data(b"nothing", [BASE]))
            t.check(got == rawnbd.REP_UNKNOWN, f"option {code} of an unknown export: {got:x}")
        t.check(raw.try_option(rawnbd.OPT_INFO, info_data(NAME)) == rawnbd.REP_ACK, "out of step")


@on_shared
def test_our_own_context(t, array):
    """Listed with the others and by its namespace, selected by its name alone, and 0 where nothing is missing."""
    for kind in ({"structured": True}, {"extended": True}):
        with Raw(array.socket) as raw:
            raw.greet()
            raw.negotiate(**kind)
            t.check(raw.list_contexts([], NAME) == {BASE, OURS}, "all contexts")
            t.check(raw.list_contexts([b"x-uraid:"], NAME) == {OURS}, "its namespace")
            t.check(raw.set_contexts([b"x-uraid:"], NAME) == {}, "a namespace selects")
            both = raw.set_contexts([OURS, BASE], NAME)
            t.check(sorted(both.values()) == [BASE, OURS], f"both: {both}")
            raw.describe(rawnbd.OPT_GO, NAME)
            reply = raw.ask_for(rawnbd.BLOCK_STATUS, 4096, 8 << 20)
            t.check(reply.errno == 0 and set(reply.extents) == set(both), f"{reply}")
            t.check(all(status == 0 for extents in reply.extents.values() for _, status in extents), f"{reply.extents}")


def test_our_own_context_says_what_is_missing(t):
    """Bit 0 where a member is missing, bit 2 where the next loss loses data; 0 again after the rebuild."""
    array = Array(t, 6, 4, size="16M")
    array.serve()

    def said():
        with Raw(array.socket) as raw:
            raw.go(structured=True, contexts=[OURS])
            found, at = set(), 0
            while at < raw.size:
                reply = raw.ask_for(rawnbd.BLOCK_STATUS, at, raw.size - at)
                t.check(reply.errno == 0, f"{reply}")
                (extents,) = reply.extents.values()
                found |= {status for _, status in extents}
                at += sum(n for n, _ in extents)
            return found
    t.check(said() == {0}, f"healthy: {said()}")
    for index, want in ((0, 1), (1, 5)):
        array.fail(index)
        t.check(said() == {want}, f"{index + 1} missing: {said()}")
    for index in (0, 1):
        array.add(index)
    array.wait_rebuilt()
    t.check(said() == {0}, f"rebuilt: {said()}")
    array.stop()
