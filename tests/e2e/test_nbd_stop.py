"""The end of a daemon as clients see it, and exports that can only be read."""

import signal
import threading

from harness import rawnbd
from harness.array import Array
from harness.case import until
from harness.rawnbd import EPERM, ESHUTDOWN, Gone, Raw

MIB = 1 << 20


def test_sigterm_answers_what_is_in_flight(t):
    """Each of 300 pipelined requests is answered: done, or ESHUTDOWN. What was done is there afterwards."""
    array = Array(t, 5, 3)
    array.serve()
    with Raw(array.socket) as raw:
        raw.go(structured=True)
        batch = bytearray()
        for cookie in range(300):
            batch += raw.prepare(rawnbd.WRITE, cookie * 65536, 65536, bytes([cookie % 255 + 1]) * 65536, cookie=cookie)
        rest = threading.Thread(target=send_what_goes, args=(raw, batch), daemon=True)
        rest.start()
        first = raw.answer()
        t.check(first.errno == 0, "the first write failed")
        array.process.send_signal(signal.SIGTERM)
        done, refused = {first.cookie}, set()
        try:
            while len(done) + len(refused) < 300:
                reply = raw.answer()
                t.check(reply.errno in (0, ESHUTDOWN), f"errno {reply.errno} while stopping")
                (refused if reply.errno else done).add(reply.cookie)
        except Gone:
            pass
        rest.join(10)
    array.expect_exit(0, 20)
    t.say(f"{len(done)} done, {len(refused)} refused")
    # They are answered in the order in which they came, or nearly so: none in the middle is missing.
    answered = done | refused
    t.check(len(done) > 1 and max(answered) < len(answered) + 5, f"{len(answered)} of the first {max(answered) + 1} are answered")
    array.serve()
    with Raw(array.socket) as raw:
        raw.go()
        for cookie in done:
            t.check(raw.read(cookie * 65536, 65536) == bytes([cookie % 255 + 1]) * 65536, f"the answered write {cookie} is lost")
    array.stop()


def send_what_goes(raw, batch):
    """Sends until the server listens no more."""
    try:
        raw.send(batch)
    except (Gone, OSError):
        pass


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
    """Neither a client that reads nothing nor one in the middle of a payload nor one that idles holds it up."""
    array = Array(t, 5, 3)
    array.serve()
    deaf, half, idle = (Raw(array.socket).go() for _ in range(3))
    deaf.send(b"".join(deaf.header(rawnbd.READ, 0, MIB, 0, cookie) for cookie in range(200)))
    half.send(half.header(rawnbd.WRITE, 0, MIB) + bytes(1000))
    array.process.send_signal(signal.SIGTERM)
    array.expect_exit(0, 30)
    for raw in (deaf, half, idle):
        raw.sock.close()


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
