"""Structured replies: every read in chunks, whatever comes of it; errors with a text, and with the first bad
byte where a read failed half way.
"""

import os

from harness import mdlayout, rawnbd
from harness.array import Array
from harness.badmember import BadMember
from harness.case import until
from harness.rawnbd import EIO, EINVAL, Raw
from harness.shared import on_shared

MIB = 1 << 20


@on_shared
def test_a_read_is_never_answered_simply(t, array):
    """Not when it succeeds, is empty, past the end, unaligned or has a bad flag; `Raw` refuses a simple one."""
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        for offset, length, flags, want in ((0, 512, 0, 0), (0, MIB, 0, 0), (0, 0, 0, 0), (raw.size, 512, 0, EINVAL), (1, 512, 0, EINVAL),
                                            (0, 512, rawnbd.NO_HOLE, EINVAL), (0, 512, 1 << 15, EINVAL), ((1 << 64) - 512, 1024, 0, EINVAL)):
            reply = raw.ask_for(rawnbd.READ, offset, length, flags=flags)
            t.check(reply.errno == want and not reply.simple, f"{length} at {offset:#x}, flags {flags:x}: {reply}")


@on_shared
def test_without_agreement_everything_is_simple(t, array):
    with Raw(array.socket) as raw:
        raw.go()
        for command in (rawnbd.READ, rawnbd.WRITE, rawnbd.FLUSH, rawnbd.TRIM, rawnbd.CACHE, rawnbd.WRITE_ZEROES, 55):
            length = 0 if command == rawnbd.FLUSH else 512
            reply = raw.ask_for(command, 0, length, bytes(512) if command == rawnbd.WRITE else b"")
            t.check(reply.simple, f"command {command} is answered in chunks")


@on_shared
def test_df_is_one_chunk(t, array):
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        for length in (512, 65536, MIB, 32 * MIB):
            reply = raw.ask_for(rawnbd.READ, 0, length, flags=rawnbd.DF)
            if length <= 65536 or reply.errno == 0:
                t.check(reply.errno == 0 and len(reply.pieces) == 1, f"DF of {length}: {reply.errno}, {len(reply.pieces)} pieces")
            else:
                t.check(reply.errno == rawnbd.EOVERFLOW, f"DF of {length}: {reply.errno}")


@on_shared
def test_df_without_structured_replies_is_invalid(t, array):
    with Raw(array.socket) as raw:
        raw.go()
        t.check(raw.ask(rawnbd.READ, 0, 512, flags=rawnbd.DF) == EINVAL, "DF was not offered, and taken")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_errors_say_why(t, array):
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        for command, offset, length, flags in ((rawnbd.READ, raw.size, 512, 0), (rawnbd.WRITE, raw.size, 512, 0), (99, 0, 0, 0),
                                               (rawnbd.TRIM, 1, 512, 0), (rawnbd.CACHE, 0, 512, 1 << 7), (rawnbd.WRITE_ZEROES, raw.size, 512, 0),
                                               (rawnbd.BLOCK_STATUS, 0, 512, 0)):
            reply = raw.ask_for(command, offset, length, bytes(length) if command == rawnbd.WRITE else b"", flags)
            t.check(reply.errno and len(reply.text) > 5, f"command {command}: {reply}")
            t.check("/" not in reply.text, f"a path in an error text: {reply.text}")


ROW = 2 * 65536


def bad_from(t, good_rows):
    """A served RAID 5 of three that has lost one member, and of another one cannot read a stretch.

    Chunk rows from `good_rows` on, eight of them, are the bad ones. Returns the array and what it holds.
    """
    array = Array(t, 5, 3, size="32M")
    start = mdlayout.read_superblock(array.members[1]).data_offset * 512 + good_rows * 65536
    bad = BadMember(t, array.members[1], start, start + 8 * 65536)
    array.members[1] = bad.path
    array.serve()
    pattern = (bytes(range(1, 251)) * (4 * MIB // 250 + 1))[:4 * MIB]
    with Raw(array.socket) as raw:
        raw.go()
        raw.write(0, pattern)
        raw.ask(rawnbd.FLUSH, 0, 0)
    array.fail(0)
    bad.break_it()
    return array, pattern


def test_a_read_that_fails_half_way_says_where(t):
    """The good part comes first, then the first bad byte and the reason."""
    array, pattern = bad_from(t, 8)
    border = 8 * ROW
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        start = border - MIB // 2
        reply = raw.ask_for(rawnbd.READ, start, MIB)
        t.check(reply.errno == EIO and reply.bad_at is not None, f"no place of the error: {reply.errno} {reply.bad_at} {reply.text}")
        t.check(border <= reply.bad_at < border + ROW, f"the first bad byte is {reply.bad_at}, the border at {border}")
        t.check(reply.data() == pattern[start:reply.bad_at], f"{len(reply.data())} good bytes before {reply.bad_at}, or they are wrong")
        t.check(array.name in reply.text and "/" not in reply.text, f"the text names no volume, or a path: {reply.text}")
        t.check(raw.read(start, MIB // 2) == pattern[start:border], "what is good cannot be read alone")
    array.kill()


def test_a_simple_read_that_fails_half_way_is_one_error(t):
    """The header is sent when all of it was read: the connection goes on."""
    array, pattern = bad_from(t, 8)
    border = 8 * ROW
    with Raw(array.socket) as raw:
        raw.go()
        for _ in range(3):
            t.check(raw.ask(rawnbd.READ, border - MIB // 2, MIB) == EIO, "no EIO")
            t.check(raw.read(border - MIB // 2, MIB // 2) == pattern[border - MIB // 2:border], "out of step, or wrong")
            t.check(raw.read(border + 8 * ROW, 65536) == pattern[border + 8 * ROW:][:65536], "behind the bad stretch nothing is read")
    array.kill()


def test_a_write_that_fails_is_an_error_and_stays_in_step(t):
    """With two of three members gone nothing can be kept: every write says so."""
    array = Array(t, 5, 3, size="32M")
    array.serve()
    array.fail(0)
    os.truncate(array.members[1], 8192)
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        raw.ask(rawnbd.READ, 0, 4096)
        until("writes to be refused", lambda: raw.ask(rawnbd.WRITE, 0, 4096, bytes(4096)) == EIO)
        reply = raw.ask_for(rawnbd.WRITE, MIB, 65536, bytes(65536))
        t.check(reply.errno == EIO and reply.text, f"{reply}")
        t.check(raw.ask(rawnbd.WRITE_ZEROES, 0, 4096) == EIO, "zeroes are acknowledged")
    array.kill()
