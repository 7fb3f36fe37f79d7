"""Every command of the transmission: what it does, what it refuses and with which error, and that the
stream stays in step whatever was asked. Each in a session with simple replies, one with structured replies
and one with extended headers.
"""

from harness import rawnbd
from harness.rawnbd import Raw
from harness.shared import on_shared

EINVAL, ENOSPC, ENOTSUP = rawnbd.EINVAL, rawnbd.ENOSPC, rawnbd.ENOTSUP
RANGED = (rawnbd.READ, rawnbd.WRITE, rawnbd.TRIM, rawnbd.CACHE, rawnbd.WRITE_ZEROES, rawnbd.BLOCK_STATUS)
NAMES = dict(enumerate(("READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS")))
# Where the tests write; each has its own MiB.
MIB = 1 << 20


def sessions(array):
    """A connection of each kind, one after the other, with block status where there can be."""
    for kind in ({}, {"structured": True}, {"extended": True}):
        with Raw(array.socket) as raw:
            yield raw.go(contexts=[b"base:allocation"] if kind else [], **kind)


def payload_of(command, length):
    """What follows the header of a request."""
    return b"\xcc" * length if command == rawnbd.WRITE else b""


def past_end(command):
    """The error for a range that ends outside of the export."""
    return ENOSPC if command in (rawnbd.WRITE, rawnbd.WRITE_ZEROES) else EINVAL


def commands(raw):
    """The commands with a range that this session has."""
    return [c for c in RANGED if c != rawnbd.BLOCK_STATUS or raw.contexts]


@on_shared
def test_written_is_read(t, array):
    for raw in sessions(array):
        for offset, length in ((MIB, 512), (MIB + 512, 4096), (MIB + 65536 - 512, 1024), (MIB, MIB), (raw.size - 512, 512)):
            data = bytes((i * 7 + length) & 0xFF for i in range(length))
            raw.write(offset, data)
            t.check(raw.read(offset, length) == data, f"{length} bytes at {offset} are not what was written")


@on_shared
def test_a_write_on_one_connection_is_read_on_another(t, array):
    with Raw(array.socket) as one, Raw(array.tcp) as other:
        one.go()
        other.go(structured=True)
        for turn in range(20):
            writer, reader = (one, other) if turn % 2 else (other, one)
            writer.write(2 * MIB, bytes([turn]) * 4096)
            t.check(reader.read(2 * MIB, 4096) == bytes([turn]) * 4096, f"turn {turn}: the other one reads old data")


@on_shared
def test_past_the_end(t, array):
    """The range may touch the end and not cross it; nothing is written, and a payload is consumed."""
    for raw in sessions(array):
        size = raw.size
        raw.write(size - 512, b"\x11" * 512)
        for command in commands(raw):
            for offset, length in ((size - 512, 1024), (size, 512), (size + 512, 512), (size - 512, MIB), (1 << 62, 512)):
                got = raw.ask(command, offset, length, payload_of(command, length))
                want = past_end(command)
                t.check(got == want, f"{NAMES[command]} of {length} at {offset}: {got}, wanted {want}")
        t.check(raw.read(size - 512, 512) == b"\x11" * 512, "something was written")


@on_shared
def test_offset_and_length_never_wrap(t, array):
    for raw in sessions(array):
        raw.write(0, b"\x22" * 4096)
        for command in commands(raw):
            for offset, length in (((1 << 64) - 512, 512), ((1 << 64) - 512, 1024), ((1 << 64) - 4096, 8192),
                                   (1 << 63, 512), ((1 << 63) - 512, 1024), ((1 << 64) - 65536, 65536 + 4096)):
                got = raw.ask(command, offset, length, payload_of(command, length))
                t.check(got == past_end(command), f"{NAMES[command]} of {length} at {offset:#x}: {got}")
        for command in (rawnbd.TRIM, rawnbd.CACHE, rawnbd.WRITE_ZEROES):
            got = raw.ask(command, (1 << 64) - 0xFFFFFE00, 0xFFFFFE00)
            t.check(got == past_end(command), f"{NAMES[command]} of 4 GiB that wraps to 0: {got}")
        t.check(raw.read(0, 4096) == b"\x22" * 4096, "something was written at the front")


@on_shared
def test_unaligned_requests_touch_nothing(t, array):
    """Off the minimum block size, by offset or length or both: EINVAL, and the data is as it was."""
    for raw in sessions(array):
        raw.write(3 * MIB, b"\x33" * 8192)
        for command in commands(raw):
            for offset, length in ((1, 512), (511, 512), (0, 1), (0, 511), (0, 513), (256, 256), (100, 4096), (512, 700)):
                got = raw.ask(command, 3 * MIB + offset, length, payload_of(command, length))
                t.check(got == EINVAL, f"{NAMES[command]} of {length} at +{offset}: {got}")
        t.check(raw.read(3 * MIB, 8192) == b"\x33" * 8192, "data was touched")


@on_shared
def test_unaligned_reads_of_those_who_were_told_no_block_sizes(t, array):
    """EXPORT_NAME has no place for them: reads at any byte are served then, everything else is refused as ever."""
    for structured in (False, True):
        with Raw(array.socket) as raw:
            raw.greet()
            raw.negotiate(structured, False, (), b"")
            raw.export_name()
            data = bytes(i * 31 & 0xFF for i in range(16384))
            raw.write(4 * MIB, data)
            for offset, length in ((1, 1), (1, 1024), (511, 2), (0, 100), (700, 9000), (16383, 1)):
                t.check(raw.read(4 * MIB + offset, length) == data[offset:offset + length], f"{length} bytes at +{offset} differ")
            t.check(len(raw.read(raw.size - 1, 1)) == 1, "the last byte can be read")
            t.check(raw.ask(rawnbd.READ, raw.size - 1, 2) == EINVAL, "a read past the end")
            for command in (rawnbd.WRITE, rawnbd.TRIM, rawnbd.CACHE, rawnbd.WRITE_ZEROES):
                got = raw.ask(command, 4 * MIB + 1, 512, payload_of(command, 512))
                t.check(got == EINVAL, f"{NAMES[command]} at an unaligned byte: {got}")
            t.check(raw.read(4 * MIB, 16384) == data, "data was touched")


@on_shared
def test_zero_length(t, array):
    """Nothing to do is done; a read of nothing is an empty answer. Only block status has nothing to say."""
    for raw in sessions(array):
        for offset in (0, 4096, raw.size):
            for command in commands(raw):
                reply = raw.ask_for(command, offset, 0)
                want = EINVAL if command == rawnbd.BLOCK_STATUS else 0
                t.check(reply.errno == want, f"{NAMES[command]} of nothing at {offset}: {reply.errno}")
        if raw.structured:
            t.check(raw.ask_for(rawnbd.READ, 0, 0).chunks == 1, "a read of nothing has more than one chunk")
        for command in commands(raw):
            got = raw.ask(command, raw.size + 512, 0)
            t.check(got == past_end(command), f"{NAMES[command]} of nothing past the end: {got}")


@on_shared
def test_unknown_commands(t, array):
    """RESIZE, a draft, among them. None of them has a payload."""
    for raw in sessions(array):
        for command in (8, 9, 99, 0x7FFF, 0xFFFF):
            for length in (0, 512, 0xFFFFFFFF):
                got = raw.ask(command, 0, length)
                t.check(got == EINVAL, f"command {command}: {got}")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_flags_of_other_commands_and_unknown_flags(t, array):
    own = {rawnbd.READ: rawnbd.DF, rawnbd.WRITE_ZEROES: rawnbd.NO_HOLE | rawnbd.FAST_ZERO, rawnbd.BLOCK_STATUS: rawnbd.REQ_ONE}
    for raw in sessions(array):
        raw.write(4 * MIB, b"\x44" * 4096)
        for command in (*commands(raw), rawnbd.FLUSH):
            allowed = own.get(command, 0) & ~(0 if raw.structured else rawnbd.DF)
            for bit in range(1, 16):
                # The payload flag of extended headers says something else: test_nbd_extended.py.
                if allowed & 1 << bit or (raw.extended and 1 << bit == rawnbd.PAYLOAD_LEN):
                    continue
                length = 0 if command == rawnbd.FLUSH else 4096
                got = raw.ask(command, 4 * MIB if length else 0, length, payload_of(command, length), 1 << bit)
                t.check(got == EINVAL, f"{NAMES[command]} with flag bit {bit}: {got}")
        t.check(raw.read(4 * MIB, 4096) == b"\x44" * 4096, "a request with a bad flag was carried out")


@on_shared
def test_fua_on_every_command(t, array):
    for raw in sessions(array):
        for command in commands(raw):
            got = raw.ask(command, 5 * MIB, 4096, payload_of(command, 4096), rawnbd.FUA)
            t.check(got == 0, f"{NAMES[command]} with FUA: {got}")
        t.check(raw.ask(rawnbd.FLUSH, 0, 0, flags=rawnbd.FUA) == 0, "FLUSH with FUA")
        t.check(raw.ask(rawnbd.WRITE_ZEROES, 5 * MIB, 4096, flags=rawnbd.FUA | rawnbd.NO_HOLE) == 0, "WRITE_ZEROES with FUA, NO_HOLE")
        raw.write(5 * MIB, b"\x55" * 512, rawnbd.FUA)
        t.check(raw.read(5 * MIB, 512, rawnbd.FUA) == b"\x55" * 512, "a write with FUA is not read")


@on_shared
def test_flush(t, array):
    for raw in sessions(array):
        raw.write(0, b"\x01" * 512)
        t.check(raw.ask(rawnbd.FLUSH, 0, 0) == 0, "FLUSH failed")
        t.check(raw.ask(rawnbd.FLUSH, 0, 0) == 0, "FLUSH of nothing failed")


@on_shared
def test_refused_writes_consume_their_payload(t, array):
    """Payloads that look like requests, so that a server which reads on in them is found out."""
    for raw in sessions(array):
        looks_like = raw.header(rawnbd.DISC, 0, 0) + raw.header(rawnbd.WRITE, 0, 512)
        for length in (512, 4096, 65536, 3 * MIB):
            payload = (looks_like * (length // len(looks_like) + 1))[:length]
            for label, offset, flags, want in (("past the end", raw.size, 0, ENOSPC), ("a bad flag", 0, 1 << 8, EINVAL),
                                               ("unaligned", 7, 0, EINVAL), ("wrapping", (1 << 64) - 512, 0, ENOSPC)):
                got = raw.ask(rawnbd.WRITE, offset, length, payload, flags)
                t.check(got == want, f"a write of {length}, {label}: {got}")
                t.check(raw.ask(rawnbd.READ, 0, 512) == 0, f"out of step after a write of {length}, {label}")


@on_shared
def test_large_requests_up_to_64_mib(t, array):
    """32 MiB is advertised, 64 MiB is taken, for reads as for writes; a longer write closes."""
    for raw in sessions(array):
        for length in (32 * MIB,) if raw.extended else (49_865_728,) if raw.structured else (64 * MIB,):
            data = bytes(range(256)) * (length // 256)
            raw.write(8 * MIB, data)
            t.check(raw.read(8 * MIB, length) == data, f"{length} bytes are not what was written")


@on_shared
def test_a_longer_write_closes_at_once(t, array):
    for length in (64 * MIB + 512, 1 << 30, 0xFFFFFE00):
        for raw in sessions(array):
            raw.request(rawnbd.WRITE, 0, length)
            raw.expect_end()


@on_shared
def test_a_longer_read_is_refused(t, array):
    """The range lies in the export, but the answer is more than the server gives in one piece."""
    for raw in sessions(array):
        for length in (64 * MIB + 512, 100 * MIB):
            got = raw.ask(rawnbd.READ, 0, length)
            t.check(got in (rawnbd.EOVERFLOW, EINVAL), f"a read of {length}: {got}")
        t.check(raw.read(0, 512) is not None, "out of step")


@on_shared
def test_write_zeroes_is_exact(t, array):
    """To the sector, across chunks and stripes, with holes allowed and not."""
    for raw in sessions(array):
        for flags in (0, rawnbd.NO_HOLE, rawnbd.FUA, rawnbd.NO_HOLE | rawnbd.FUA):
            raw.write(80 * MIB, b"\x66" * (2 * MIB))
            for offset, length in ((512, 512), (65536 - 512, 1024), (3 * 512, 4096 + 512), (131072 - 4096, MIB + 512)):
                raw.write(80 * MIB, b"\x66" * (2 * MIB))
                t.check(raw.ask(rawnbd.WRITE_ZEROES, 80 * MIB + offset, length, flags=flags) == 0, f"zeroes with flags {flags}")
                want = b"\x66" * offset + bytes(length) + b"\x66" * (2 * MIB - offset - length)
                t.check(raw.read(80 * MIB, 2 * MIB) == want, f"{length} zeroes at +{offset} are not exact")


@on_shared
def test_fast_zero(t, array):
    """Offered; done, and then it reads as zeroes, or ENOTSUP at once, and then nothing has changed."""
    for raw in sessions(array):
        t.check(raw.flags & rawnbd.SEND_FAST_ZERO, "FAST_ZERO is not offered")
        for flags in (0, rawnbd.NO_HOLE, rawnbd.FUA):
            raw.write(6 * MIB, b"\x77" * 65536)
            got = raw.ask(rawnbd.WRITE_ZEROES, 6 * MIB, 65536, flags=rawnbd.FAST_ZERO | flags)
            t.check(got in (0, ENOTSUP), f"FAST_ZERO: {got}")
            t.check(raw.read(6 * MIB, 65536) == (b"\x77" if got else b"\0") * 65536, f"FAST_ZERO said {got}, and the data says otherwise")
        got = raw.ask(rawnbd.WRITE_ZEROES, raw.size, 512, flags=rawnbd.FAST_ZERO)
        t.check(got == ENOSPC, f"FAST_ZERO past the end: {got}")
        t.check(raw.ask(rawnbd.WRITE_ZEROES, 6 * MIB, 512) == 0, "zeroes without FAST_ZERO must always work")


@on_shared
def test_trim_is_a_hint(t, array):
    """It succeeds, and what is read then is what was there or zeroes, whole sectors of either."""
    for raw in sessions(array):
        raw.write(7 * MIB, b"\x88" * 131072)
        for flags in (0, rawnbd.FUA):
            t.check(raw.ask(rawnbd.TRIM, 7 * MIB + 512, 65536, flags=flags) == 0, "TRIM failed")
        got = raw.read(7 * MIB, 131072)
        sectors = {got[i:i + 512] for i in range(0, len(got), 512)}
        t.check(sectors <= {b"\x88" * 512, bytes(512)}, "TRIM left something else than old data or zeroes")
        t.check(got[:512] == b"\x88" * 512 and got[512 + 65536:] == b"\x88" * (65536 - 512), "TRIM reached beyond its range")


@on_shared
def test_cache_is_a_hint(t, array):
    for raw in sessions(array):
        for offset, length in ((0, 512), (0, 64 * MIB), (0, raw.size), (raw.size - 512, 512)):
            t.check(raw.ask(rawnbd.CACHE, offset, length) == 0, f"CACHE of {length} failed")
        t.check(raw.ask(rawnbd.CACHE, 0, 512, flags=rawnbd.NO_HOLE) == EINVAL, "CACHE with a flag that it does not have")


@on_shared
def test_any_cookie_comes_back(t, array):
    for raw in sessions(array):
        for cookie in (0, 1, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0x2560951325609513, 0x6744669867446698):
            t.check(raw.ask_for(rawnbd.READ, 0, 512, cookie=cookie).errno == 0, f"cookie {cookie:x}")
            t.check(raw.ask_for(rawnbd.FLUSH, 0, 0, cookie=cookie).errno == 0, f"cookie {cookie:x}")
            t.check(raw.ask_for(77, 0, 0, cookie=cookie).errno == EINVAL, f"cookie {cookie:x}")


@on_shared
def test_a_wrong_request_magic_closes(t, array):
    for magic in (1, rawnbd.SIMPLE_REPLY, rawnbd.CHUNK, rawnbd.EXT_REPLY, 0xFFFFFFFF):
        for raw in sessions(array):
            raw.request(rawnbd.READ, 0, 512, magic=magic)
            raw.expect_end()


@on_shared
def test_only_the_eight_errors_travel(t, array):
    """`Raw` refuses all others; here is something of everything that fails."""
    for raw in sessions(array):
        found = set()
        for command in range(12):
            if command == rawnbd.DISC:
                continue
            for offset, length in ((0, 1), (raw.size, 512), (0, 100 * MIB), (1 << 63, 512)):
                if command == rawnbd.WRITE and length > MIB:
                    continue
                for flags in (0, 1 << 6, 1 << 12):
                    found.add(raw.ask(command, offset, length, payload_of(command, length), flags))
        t.check(found <= {0, *rawnbd.ERRNOS}, f"errors {found}")


@on_shared
def test_disc_has_no_answer_and_closes(t, array):
    for raw in sessions(array):
        raw.request(rawnbd.DISC, 0, 0)
        raw.expect_end()


@on_shared
def test_what_follows_disc_is_not_done(t, array):
    for raw in sessions(array):
        raw.write(3 * MIB, b"\x99" * 512)
        raw.send(raw.header(rawnbd.DISC, 0, 0) + raw.header(rawnbd.WRITE, 3 * MIB, 512) + b"\xee" * 512)
        raw.expect_end()
    with Raw(array.socket) as raw:
        t.check(raw.go().read(3 * MIB, 512) == b"\x99" * 512, "a write behind DISC was carried out")
