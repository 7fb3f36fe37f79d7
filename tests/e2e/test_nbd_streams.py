"""The stream of requests: cut anywhere, a thousand deep, out of order, half closed, abandoned, never read.
What a client does to itself is its own business; the data and the neighbours are not touched.
"""

import os
import random
import socket
import struct
import threading
import time

from harness import rawnbd
from harness.case import until
from harness.rawnbd import Gone, Raw
from harness.shared import on_shared

MIB = 1 << 20
SEED = int(os.environ.get("URAID_SEED", "20261122"))


def numbered(number, length=512):
    """Sectors that say their number."""
    return struct.pack(">Q", number) * (length // 8)


@on_shared
def test_a_thousand_requests_deep(t, array):
    """Written and read back with a thousand requests on the way; each answer belongs to its cookie."""
    for kind in ({}, {"structured": True}, {"extended": True}):
        with Raw(array.socket) as raw:
            raw.go(**kind)
            rnd = random.Random(SEED)
            cookies = [rnd.getrandbits(64) for _ in range(1000)]
            batch = bytearray()
            for number, cookie in enumerate(cookies):
                batch += raw.prepare(rawnbd.WRITE, number * 512, 512, numbered(cookie), cookie=cookie)
            got = pipelined(raw, batch, 1000)
            t.check(set(got) == set(cookies) and not any(r.errno for r in got.values()), "writes are missing or failed")
            batch = bytearray()
            for number, cookie in enumerate(cookies):
                batch += raw.prepare(rawnbd.READ, number * 512, 512, cookie=cookie)
            got = pipelined(raw, batch, 1000)
            wrong = [c for c in cookies if got[c].data() != numbered(c)]
            t.check(not wrong, f"{len(wrong)} reads have another one's data")


def pipelined(raw, batch, count):
    """Sends a batch from a thread of its own and takes its answers."""
    sender = threading.Thread(target=raw.sock.sendall, args=(batch,), daemon=True)
    sender.start()
    got = raw.answers(count)
    sender.join(10)
    return got


@on_shared
def test_mixed_requests_in_flight_keep_their_cookies(t, array):
    """Reads, writes, flushes and errors of all lengths at once: everything is answered once, as itself."""
    rnd = random.Random(SEED + 1)
    for kind in ({}, {"structured": True}, {"extended": True}):
        with Raw(array.socket) as raw:
            raw.go(contexts=[b"base:allocation"] if kind else [], **kind)
            batch, want = bytearray(), {}
            for cookie in range(400):
                command = rnd.choice([rawnbd.READ, rawnbd.READ, rawnbd.WRITE, rawnbd.WRITE, rawnbd.FLUSH, rawnbd.TRIM, rawnbd.CACHE,
                                      rawnbd.WRITE_ZEROES, 42] + [rawnbd.BLOCK_STATUS] * raw.structured)
                length = 0 if command == rawnbd.FLUSH else 512 * rnd.choice([1, 1, 8, 8, 129, 256])
                offset = 0 if command == rawnbd.FLUSH else rnd.choice([rnd.randrange(0, 200_000), raw.size // 512]) * 512
                batch += raw.prepare(command, offset, length, b"\xab" * length if command == rawnbd.WRITE else b"", cookie=cookie)
                past = offset + length > raw.size
                want[cookie] = (rawnbd.EINVAL if command == 42 else
                                0 if not past else rawnbd.ENOSPC if command in (rawnbd.WRITE, rawnbd.WRITE_ZEROES) else rawnbd.EINVAL)
            got = pipelined(raw, batch, 400)
            wrong = {c: (got[c].errno, want[c]) for c in want if got[c].errno != want[c]}
            t.check(not wrong, f"errors (got, wanted) {wrong}")


@on_shared
def test_answers_may_overtake(t, array):
    """A read behind a flush or a large write is not held up by it for ever; nothing is answered twice."""
    with Raw(array.socket) as raw:
        raw.go()
        batch = bytearray()
        for cookie in range(64):
            kind, length = (rawnbd.WRITE, MIB) if cookie % 2 else (rawnbd.READ, 4096)
            batch += raw.prepare(kind, cookie * MIB, length, bytes(length) if kind else b"", cookie=cookie)
        got = pipelined(raw, batch, 64)
        t.check(len(got) == 64 and not any(r.errno for r in got.values()), "not every request is answered once, and well")
        raw.sock.settimeout(0.1)
        try:
            t.check(not raw.sock.recv(1), "there is a 65th answer")
        except TimeoutError:
            pass


@on_shared
def test_a_request_cut_anywhere(t, array):
    """Headers and payloads arrive in any pieces."""
    with Raw(array.socket) as raw:
        raw.go()
        for cut in range(1, 28 + 512):
            request = raw.prepare(rawnbd.WRITE, 0, 512, numbered(4711))
            raw.send(request[:cut])
            raw.send(request[cut:])
            t.check(raw.answer().errno == 0, f"cut at {cut}")
        t.check(raw.read(0, 512) == numbered(4711), "the data is wrong")


@on_shared
def test_a_slow_client_byte_by_byte(t, array):
    with Raw(array.tcp) as raw:
        raw.go(structured=True)
        for kind, offset, length, data in ((rawnbd.WRITE, MIB, 1024, numbered(1, 1024)), (rawnbd.FLUSH, 0, 0, b""), (rawnbd.READ, MIB, 1024, b"")):
            for byte in raw.prepare(kind, offset, length, data, cookie=kind):
                raw.send(bytes([byte]))
            reply = raw.answer()
            t.check(reply.errno == 0, f"command {kind}: {reply.errno}")
        t.check(reply.data() == numbered(1, 1024), "wrong data, byte by byte")


@on_shared
def test_a_client_that_takes_its_answers_byte_by_byte(t, array):
    with Raw(array.socket) as raw:
        raw.go()
        raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        raw.write(0, numbered(5, 8192))
        raw.request(rawnbd.READ, 0, 8192)
        got = b"".join(raw.take(1) for _ in range(16 + 8192))
        t.check(got[16:] == numbered(5, 8192), "wrong data, byte by byte")


@on_shared
def test_a_write_cut_short_is_not_written(t, array):
    """Whoever disappears in the middle of a payload has written nothing, however much of it had come."""
    with Raw(array.socket) as other:
        other.go()
        for length in (512, 4096, 65536, MIB, 8 * MIB):
            for kept in sorted({0, 1, length // 2, length - 512, length - 1}):
                for ending in ("close", "half", "reset"):
                    cut_short(t, array, other, length, max(kept, 0), ending)


def cut_short(t, array, other, length, kept, ending):
    """One write of `length` bytes of which `kept` are sent."""
    other.write(16 * MIB, b"\x0d" * min(length, 65536))
    with Raw(array.tcp if ending == "reset" else array.socket) as raw:
        raw.go()
        raw.send(raw.header(rawnbd.WRITE, 16 * MIB, length) + b"\xbb" * kept)
        if ending == "half":
            raw.sock.shutdown(socket.SHUT_WR)
            raw.expect_end()
        elif ending == "reset":
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    same = other.read(16 * MIB, min(length, 65536)) == b"\x0d" * min(length, 65536)
    t.check(same, f"{kept} of {length} bytes and then {ending}: something was written")


@on_shared
def test_half_closed_everything_asked_is_answered(t, array):
    """A client that has said all it wants to say still gets its answers, and then the end."""
    for structured in (False, True):
        with Raw(array.socket) as raw:
            raw.go(structured=structured)
            for cookie in range(100):
                raw.request(rawnbd.READ if cookie % 2 else rawnbd.WRITE, cookie * 65536, 65536, b"" if cookie % 2 else bytes(65536), cookie=cookie)
            raw.sock.shutdown(socket.SHUT_WR)
            got = raw.answers(100)
            t.check(not any(r.errno for r in got.values()), "a request failed")
            raw.expect_end()


@on_shared
def test_disc_with_requests_outstanding_answers_all(t, array):
    for structured in (False, True):
        for where in (array.socket, array.tcp):
            with Raw(where) as raw:
                raw.go(structured=structured)
                batch = bytearray()
                for cookie in range(200):
                    kind = (rawnbd.READ, rawnbd.WRITE, rawnbd.FLUSH)[cookie % 3]
                    length = 0 if kind == rawnbd.FLUSH else 65536
                    batch += raw.prepare(kind, cookie * length, length, bytes(length) if kind == rawnbd.WRITE else b"", cookie=cookie)
                got = pipelined(raw, batch + raw.header(rawnbd.DISC, 0, 0), 200)
                t.check(not any(r.errno for r in got.values()), f"{[r.errno for r in got.values() if r.errno]}")
                raw.expect_end()


@on_shared
def test_a_client_that_never_reads_holds_up_nobody(t, array):
    """Its requests are not even read beyond a bound; neighbours go on, and it is let go when it leaves."""
    before = resident(array)
    deaf = [Raw(array.socket) for _ in range(8)]
    sent = 0
    for raw in deaf:
        raw.go()
        raw.sock.setblocking(False)
        try:
            for cookie in range(5000):
                raw.sock.send(raw.header(rawnbd.READ, 0, MIB, 0, cookie))
                sent += 1
        except BlockingIOError:
            pass
    started = time.monotonic()
    with Raw(array.socket) as raw:
        raw.go()
        for number in range(200):
            raw.write(number * 4096, numbered(number, 4096))
            t.check(raw.read(number * 4096, 4096) == numbered(number, 4096), "a neighbour reads something else")
    t.say(f"{sent} requests of 1 MiB unread, 200 writes and reads in {time.monotonic() - started:.2f} s")
    t.check(resident(array) - before < 300 << 20, f"{sent} unread answers take {resident(array) - before >> 20} MiB")
    for raw in deaf:
        raw.sock.close()


def resident(array):
    """Bytes of memory that the daemon has."""
    with open(f"/proc/{array.process.pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@on_shared
def test_a_header_of_4_gib_takes_no_memory(t, array):
    """Neither a write of nearly 4 GiB nor 100 promises of the most that is taken."""
    before = resident(array)
    held = []
    for number in range(100):
        raw = Raw(array.socket)
        held.append(raw)
        raw.go()
        raw.send(raw.header(rawnbd.WRITE, 0, 0xFFFFFE00 if number % 2 else 64 * MIB) + b"x" * 1000)
    with Raw(array.socket) as raw:
        t.check(raw.go().ask(rawnbd.READ, 0, 4096) == 0, "a neighbour cannot read")
    t.check(resident(array) - before < 200 << 20, f"promises take {resident(array) - before >> 20} MiB")
    for raw in held:
        raw.sock.close()


@on_shared
def test_more_connections_than_allowed_are_closed(t, array):
    """128 is the default; those beyond are closed, those within work, and room is made when one leaves."""
    inside, refused = [], 0
    try:
        for _ in range(140):
            raw = Raw(array.socket)
            try:
                raw.go()
                raw.ask(rawnbd.READ, 0, 512)
                inside.append(raw)
            except Gone:
                refused += 1
                raw.sock.close()
        t.check(len(inside) <= 128 and refused >= 12, f"{len(inside)} inside, {refused} refused")
        t.check(all(raw.ask(rawnbd.READ, 0, 512) == 0 for raw in inside), "one that was inside does not work")
        inside.pop().sock.close()

        def again():
            raw = Raw(array.socket)
            try:
                raw.go()
                raw.ask(rawnbd.READ, 0, 512)
            except Gone:
                raw.sock.close()
                return False
            inside.append(raw)
            return True
        until("room for another one", again)
    finally:
        for raw in inside:
            raw.sock.close()


@on_shared
def test_requests_behind_the_handshake_in_one_piece(t, array):
    """GO, and 100 requests with payloads right behind it, before GO is answered."""
    with Raw(array.socket) as raw:
        raw.greet()
        batch = bytearray(rawnbd.option_bytes(rawnbd.OPT_GO, rawnbd.info_data()))
        for cookie in range(100):
            batch += raw.prepare(rawnbd.WRITE, cookie * 4096, 4096, numbered(cookie, 4096), cookie=cookie)
        raw.send(batch)
        while raw.option_reply(rawnbd.OPT_GO)[0] != rawnbd.REP_ACK:
            pass
        got = raw.answers(100)
        t.check(not any(r.errno for r in got.values()), "a write failed")
        t.check(all(raw.read(c * 4096, 4096) == numbered(c, 4096) for c in range(100)), "the data is wrong")
