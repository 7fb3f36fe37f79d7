"""The end of a daemon as clients see it, and exports that can only be read."""

import signal
import threading

from harness import rawnbd
from harness.array import Array
from harness.shared import tcp_of
from harness.case import until
from harness.rawnbd import EPERM, ESHUTDOWN, Gone, Raw

MIB = 1 << 20


def test_sigterm_answers_what_is_in_flight(t):
    """Of 300 requests that were sent when the signal comes each is answered: done, or ESHUTDOWN. What was done is
    there afterwards."""
    array = Array(t, 5, 3)
    for where in ("unix", "tcp"):
        line = array.serve("--listen", "tcp:127.0.0.1:0")
        with Raw(array.socket if where == "unix" else tcp_of(line)) as raw:
            raw.go(structured=True)
            raw.send(b"".join(raw.prepare(rawnbd.WRITE, c * 65536, 512, bytes([c % 255 + 1]) * 512, cookie=c) for c in range(300)))
            array.process.send_signal(signal.SIGTERM)
            got = raw.answers(300)
            t.check(all(r.errno in (0, ESHUTDOWN) for r in got.values()), "an error other than ESHUTDOWN")
            raw.expect_end()
        array.expect_exit(0, 20)
        done = [c for c in got if got[c].errno == 0]
        t.say(f"{where}: {len(done)} done, {300 - len(done)} refused")
        array.serve()
        with Raw(array.socket) as raw:
            raw.go()
            for c in done:
                t.check(raw.read(c * 65536, 512) == bytes([c % 255 + 1]) * 512, f"the answered write {c} is lost")
            raw.ask(rawnbd.WRITE_ZEROES, 0, 20 * MIB)
        array.stop()


def test_after_sigterm_requests_get_eshutdown(t):
    """While one client still has to take its answers, another one's new requests are refused, all kinds of them."""
    array = Array(t, 5, 3)
    array.serve()
    slow, other = Raw(array.socket).go(), Raw(array.socket).go(structured=True, contexts=[b"base:allocation"])
    batch = bytearray()
    for cookie in range(64):
        batch += slow.prepare(rawnbd.READ, 0, MIB, cookie=cookie)
    slow.send(batch)
    t.check(slow.answer().errno == 0, "the first read failed")
    array.process.send_signal(signal.SIGTERM)
    until("requests to be refused", lambda: other.ask(rawnbd.READ, 0, 512) == ESHUTDOWN, 10)
    for command in (rawnbd.READ, rawnbd.WRITE, rawnbd.TRIM, rawnbd.CACHE, rawnbd.WRITE_ZEROES, rawnbd.BLOCK_STATUS, rawnbd.FLUSH):
        length = 0 if command == rawnbd.FLUSH else 512
        got = other.ask(command, 0, length, bytes(512) if command == rawnbd.WRITE else b"")
        t.check(got == ESHUTDOWN, f"command {command} while stopping: {got}")
    got = slow.answers(63)
    t.check(all(r.errno in (0, ESHUTDOWN) for r in got.values()), "in flight, and not answered well")
    t.check(any(r.errno == 0 for r in got.values()), "nothing that was in flight was done")
    slow.sock.close()
    other.sock.close()
    array.expect_exit(0, 20)


def test_sigterm_accepts_nobody_any_more(t):
    """No new client gets in; one in the handshake is let go."""
    array = Array(t, 5, 3)
    array.serve()
    waiting = Raw(array.socket)
    waiting.greet()
    array.terminate()
    waiting.expect_end()
    try:
        Raw(array.socket)
        t.check(False, "somebody still listens")
    except (FileNotFoundError, ConnectionRefusedError):
        pass


def test_sigterm_takes_a_bounded_time(t):
    """None of these hold it up: one that reads nothing, one in the middle of a payload, one that idles, and one
    that goes on asking."""
    array = Array(t, 5, 3)
    array.serve()
    deaf, half, idle, busy = (Raw(array.socket).go() for _ in range(4))
    deaf.send(b"".join(deaf.header(rawnbd.READ, 0, MIB, 0, cookie) for cookie in range(200)))
    half.send(half.header(rawnbd.WRITE, 0, MIB) + bytes(1000))
    asking = threading.Thread(target=ask_on, args=(busy,), daemon=True)
    asking.start()
    array.process.send_signal(signal.SIGTERM)
    array.expect_exit(0, 30)
    asking.join(10)
    for raw in (deaf, half, idle, busy):
        raw.sock.close()


def ask_on(raw):
    """Reads until the server is gone."""
    try:
        while True:
            raw.ask(rawnbd.READ, 0, 4096)
    except Gone:
        pass


def test_read_only(t):
    """EPERM for what writes, the payload consumed; the rest works; no flag promises otherwise; nothing is written."""
    array = Array(t, 6, 4)
    array.serve()
    with Raw(array.socket) as raw:
        raw.go()
        raw.write(0, b"\x71" * MIB)
        raw.ask(rawnbd.FLUSH, 0, 0)
    array.stop()
    before = [member.read_bytes() for member in array.members]
    array.serve("--read-only")
    for structured in (False, True):
        with Raw(array.socket) as raw:
            raw.go(structured=structured, contexts=[b"base:allocation"] if structured else [])
            t.check(raw.flags & rawnbd.READ_ONLY, "READ_ONLY is not set")
            t.check(not raw.flags & (rawnbd.SEND_TRIM | rawnbd.SEND_ZEROES | rawnbd.SEND_FAST_ZERO), f"flags {raw.flags:x} promise writes")
            for flags in (0, rawnbd.FUA):
                for length in (512, MIB):
                    t.check(raw.ask(rawnbd.WRITE, 0, length, b"\xee" * length, flags) == EPERM, "WRITE is not refused with EPERM")
                t.check(raw.ask(rawnbd.TRIM, 0, MIB, flags=flags) == EPERM, "TRIM is not refused with EPERM")
                t.check(raw.ask(rawnbd.WRITE_ZEROES, 0, MIB, flags=flags) == EPERM, "WRITE_ZEROES is not refused with EPERM")
            t.check(raw.read(0, MIB) == b"\x71" * MIB, "the data is not what was written")
            t.check(raw.ask(rawnbd.FLUSH, 0, 0) == 0 and raw.ask(rawnbd.CACHE, 0, MIB) == 0, "FLUSH or CACHE fails")
            if structured:
                t.check(raw.ask(rawnbd.BLOCK_STATUS, 0, MIB) == 0, "BLOCK_STATUS fails")
    array.stop()
    t.check([member.read_bytes() for member in array.members] == before, "a member of a read-only array was written")
