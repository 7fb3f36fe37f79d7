"""What an answer promises: after a kill -9 everything flushed or written with FUA is there, whoever flushed
it; a flush reaches every member; random requests do what a model of the volume says.
"""

import os
import random
import struct
import threading

from harness import mdlayout, rawnbd
from harness.array import Array
from harness.loggedmember import LoggedMember
from harness.rawnbd import Gone, Raw

MIB = 1 << 20
SEED = int(os.environ.get("URAID_SEED", "20261122"))


def stamp(number, round_number, length):
    """Sectors that say their number and round."""
    return struct.pack(">QQ", number, round_number) * (length // 16)


def test_flush_on_one_connection_covers_all(t):
    """CAN_MULTI_CONN: writes answered on three connections, one FLUSH on a fourth, kill -9, all is there."""
    array = Array(t, 5, 3, size="32M")
    for round_number in range(2):
        array.serve()
        writers = [Raw(array.socket).go(structured=bool(i % 2)) for i in range(3)]
        flusher = Raw(array.socket).go()
        t.check(flusher.flags & rawnbd.MULTI_CONN, "CAN_MULTI_CONN is not set")
        for number in range(300):
            length = (512, 4096, 65536)[number % 3]
            writers[number % 3].write(number * 65536, stamp(number, round_number, length))
        t.check(flusher.ask(rawnbd.FLUSH, 0, 0) == 0, "FLUSH failed")
        array.kill()
        array.serve()
        with Raw(array.socket) as raw:
            raw.go()
            for number in range(300):
                length = (512, 4096, 65536)[number % 3]
                t.check(raw.read(number * 65536, length) == stamp(number, round_number, length), f"round {round_number}: write {number} is lost")
        array.wait_rebuilt()
        array.stop()
        report = mdlayout.check_parity(array.members)
        t.check(not report.bad, f"round {round_number}: {report}")


def test_fua_alone_is_durable(t):
    """No flush at all: writes, zeroes and trims with FUA survive a kill -9, data and parity."""
    array = Array(t, 6, 4)
    array.serve()
    with Raw(array.socket) as raw:
        raw.go()
        raw.write(0, b"\xff" * (4 * MIB))
        raw.ask(rawnbd.FLUSH, 0, 0)
        for number in range(100):
            raw.write(number * 8192, stamp(number, 7, 1024), rawnbd.FUA)
            t.check(raw.ask(rawnbd.WRITE_ZEROES, number * 8192 + 4096, 512, flags=rawnbd.FUA) == 0, "WRITE_ZEROES with FUA")
        t.check(raw.ask(rawnbd.TRIM, 2 * MIB, MIB, flags=rawnbd.FUA) == 0, "TRIM with FUA")
        trimmed = raw.read(2 * MIB, MIB)
    array.kill()
    array.serve()
    with Raw(array.socket) as raw:
        raw.go()
        for number in range(100):
            want = stamp(number, 7, 1024) + b"\xff" * 3072 + bytes(512) + b"\xff" * 3584
            t.check(raw.read(number * 8192, 8192) == want, f"block {number} is not what was acknowledged")
        t.check(raw.read(2 * MIB, MIB) == trimmed, "what was trimmed reads otherwise after the crash")
    array.wait_rebuilt()
    # Parity was made durable with the data: both lost members are computed from it.
    for index in (0, 1):
        array.fail(index)
    with Raw(array.socket) as raw:
        raw.go()
        for number in range(100):
            want = stamp(number, 7, 1024) + b"\xff" * 3072 + bytes(512) + b"\xff" * 3584
            t.check(raw.read(number * 8192, 8192) == want, f"block {number} computed from parity is wrong")
    array.stop()


def test_kill_in_mid_stream_keeps_each_answered_fua_write(t):
    """Killed while a client pipelines FUA writes: each that was answered is there, each that was not is whole or not there."""
    array = Array(t, 5, 5, size="16M")
    rnd = random.Random(SEED)
    for round_number in range(1, 4):
        array.serve()
        raw, answered = Raw(array.socket).go(), set()

        def feed(raw=raw, round_number=round_number):
            try:
                for number in range(1000):
                    raw.request(rawnbd.WRITE, number * 16384, 4096, stamp(number, round_number, 4096), rawnbd.FUA, number)
            except Gone:
                pass

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        for _ in range(rnd.randrange(50, 600)):
            reply = raw.answer()
            t.check(reply.errno == 0, f"a write failed with {reply.errno}")
            answered.add(reply.cookie)
        array.kill()
        feeder.join(10)
        array.serve()
        with Raw(array.socket) as raw:
            raw.go()
            for number in range(1000):
                got = raw.read(number * 16384, 4096)
                if number in answered:
                    t.check(got == stamp(number, round_number, 4096), f"round {round_number}: the answered write {number} is lost")
                else:
                    sectors = {got[i:i + 512] for i in range(0, 4096, 512)}
                    old = {bytes(512), *(stamp(number, earlier, 512) for earlier in range(1, round_number + 1))}
                    t.check(sectors <= old, f"round {round_number}: write {number} left something else")
        array.wait_rebuilt()
        array.stop()
        report = mdlayout.check_parity(array.members)
        t.check(not report.bad, f"round {round_number}: {report}")


def test_flush_and_fua_reach_every_member(t):
    """Each member's diary has a flush behind its last write before the answer came, for FLUSH and for FUA."""
    array = Array(t, 5, 3, size="16M")
    logged = [LoggedMember(t, member, i) for i, member in enumerate(array.members)]
    array.members = [member.path for member in logged]
    array.serve()
    with Raw(array.socket) as raw:
        raw.go()
        # A flush on another connection; a write with FUA in one stripe touches data and parity of it.
        for label, request in (("FLUSH", lambda: raw.write(0, b"\x01" * 262144) or raw.ask(rawnbd.FLUSH, 0, 0)),
                               ("WRITE with FUA", lambda: raw.write(MIB, b"\x02" * 131072, rawnbd.FUA)),
                               ("WRITE_ZEROES with FUA", lambda: raw.ask(rawnbd.WRITE_ZEROES, 2 * MIB, 131072, flags=rawnbd.FUA))):
            before = [len(member.diary()) for member in logged]
            t.check(not request(), f"{label} failed")
            for index, (member, start) in enumerate(zip(logged, before)):
                news = [entry[0] for entry in member.diary()[start:]]
                written = [i for i, name in enumerate(news) if name in ("Write", "Zero", "Trim")]
                t.check(written, f"{label}: member {index} was not written: {news}")
                t.check("Flush" in news[written[-1]:], f"{label} was answered, and member {index} not flushed behind its last write: {news}")
    array.stop()


def test_random_requests_do_what_a_model_says(t):
    """Every kind of request over three shapes of session, one after the other and compared with a bytearray.

    A trimmed sector may read as before or as zeroes; whatever it reads is then what the model holds.
    """
    array = Array(t, 6, 5, size="16M")
    array.serve()
    rnd, size = random.Random(SEED), 12 * MIB
    model = bytearray(size)
    connections = [Raw(array.socket).go(), Raw(array.socket).go(structured=True), Raw(array.socket).go()]
    for step in range(2500):
        raw = rnd.choice(connections)
        length = 512 * rnd.choice([1, 1, 2, 7, 8, 8, 16, 127, 128, 129, 500, 1024])
        offset = 512 * rnd.randrange((size - length) // 512 + 1)
        flags = rawnbd.FUA if rnd.random() < 0.1 else 0
        kind = rnd.choice(("read", "read", "write", "write", "write", "zeroes", "trim", "flush"))
        what = f"step {step} (seed {SEED}): {kind} of {length} at {offset}"
        if kind == "read":
            t.check(raw.read(offset, length) == model[offset:offset + length], f"{what} differs")
        elif kind == "write":
            data = rnd.randbytes(16) * (length // 16)
            raw.write(offset, data, flags)
            model[offset:offset + length] = data
        elif kind == "zeroes":
            t.check(raw.ask(rawnbd.WRITE_ZEROES, offset, length, flags=flags | rnd.choice((0, rawnbd.NO_HOLE))) == 0, f"{what} failed")
            model[offset:offset + length] = bytes(length)
        elif kind == "trim":
            t.check(raw.ask(rawnbd.TRIM, offset, length, flags=flags) == 0, f"{what} failed")
            adopt(t, model, offset, raw.read(offset, length), what)
        else:
            t.check(raw.ask(rawnbd.FLUSH, 0, 0) == 0, f"{what} failed")
    with Raw(array.socket) as raw:
        raw.go()
        t.check(raw.read(0, size) == model, "in the end the volume and the model differ")
    for raw in connections:
        raw.sock.close()
    array.stop()
    report = mdlayout.check_parity(array.members)
    t.check(not report.bad, f"parity: {report}")


def adopt(t, model, offset, got, what):
    """Takes over what trimmed sectors read, each as before or zero."""
    for at in range(0, len(got), 512):
        sector = got[at:at + 512]
        t.check(sector in (bytes(512), bytes(model[offset + at:offset + at + 512])), f"{what}: a trimmed sector is something else")
    model[offset:offset + len(got)] = got


def test_trim_of_everything_keeps_parity(t):
    """The whole volume in pieces off the stripes, then as a whole: parity matches, and it reads the same degraded."""
    for level, members in ((5, 3), (6, 5)):
        part = t.part(f"raid{level}")
        array = Array(part, level, members, size="16M")
        array.serve()
        with Raw(array.socket) as raw:
            raw.go()
            size = raw.size
            for at in range(0, size, 4 * MIB):
                length = min(4 * MIB, size - at)
                raw.write(at, stamp(at, level, length))
            for at in range(512, size - 3 * MIB, 3 * MIB + 4096 + 512):
                t.check(raw.ask(rawnbd.TRIM, at, 2 * MIB + 512) == 0, f"TRIM at {at} failed")
            t.check(raw.ask(rawnbd.TRIM, 0, size) == 0, "TRIM of everything failed")
            t.check(raw.ask(rawnbd.FLUSH, 0, 0) == 0, "FLUSH failed")
            before = raw.read(0, 8 * MIB)
        array.stop()
        report = mdlayout.check_parity(array.members)
        t.check(not report.bad, f"RAID {level}: {report}")
        array.serve()
        array.fail(0)
        with Raw(array.socket) as raw:
            t.check(raw.go().read(0, 8 * MIB) == before, f"RAID {level}: degraded it reads otherwise")
        array.stop()


def test_write_zeroes_without_payload(t):
    """Half a GiB and a sector in one request without a payload, exact at both ends, from a place beyond 4 GiB on."""
    array = Array(t, 5, 3, size="3G", chunk="512K", options=["--assume-clean"])
    array.serve()
    start, length = (4 << 30) + 512, (512 << 20) + 512
    with Raw(array.socket, timeout=100) as raw:
        raw.go()
        t.check(raw.size > start + length + MIB, f"the volume has {raw.size} bytes")
        marks = (0, 512, (4 << 30) - 512, start - 512, start, start + length // 2 // 512 * 512, start + length - 512, start + length)
        for at in marks:
            raw.write(at, b"\xfe" * 512)
        t.check(raw.ask(rawnbd.WRITE_ZEROES, start, length, flags=rawnbd.NO_HOLE) == 0, "WRITE_ZEROES failed")
        for at in marks:
            inside = start <= at < start + length
            t.check(raw.read(at, 512) == (bytes(512) if inside else b"\xfe" * 512), f"at {at}: {'not zero' if inside else 'overwritten'}")
        for command in (rawnbd.TRIM, rawnbd.CACHE):
            t.check(raw.ask(command, 0, 0xFFFFFE00) == 0, f"command {command} over 4 GiB failed")
    array.stop()
