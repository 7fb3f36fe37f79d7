"""Clients that lie, shout or vanish. Each may lose its own connection; nobody else may notice."""

import os
import random
import socket
import struct
import threading

from harness import rawnbd, stamps
from harness.array import Array
from harness.case import Failed

SEED = int(os.environ.get("URAID_SEED", "20261122"))


class Bystander(threading.Thread):
    """An honest client that works all the while and must never see an error."""

    def __init__(self, array, sectors):
        super().__init__(daemon=True)
        self.array, self.sectors = array, sectors

    def __enter__(self):
        self.load = stamps.Load(self.array.uri, self.sectors, SEED, workers=2)
        return self

    def __exit__(self, kind, *_):
        self.load.end()
        if kind is None:
            trouble = [w.error for w in self.load.workers if w.error]
            if trouble:
                raise Failed(f"an honest client was hurt: {trouble[0]}")
            complaints = stamps.verify(self.array.uri, self.load.ledger, strict=True)
            if complaints:
                raise Failed(f"an honest client's data changed: {complaints[:3]}")


def served(t):
    """An array with room above the honest client's part."""
    array = Array(t, 5, 3)
    array.serve()
    return array


def test_random_bytes(t):
    array, rnd = served(t), random.Random(SEED)
    with Bystander(array, 8 << 11):
        for _ in range(60):
            with rawnbd.Raw(array.socket) as raw:
                try:
                    if rnd.random() < 0.6:
                        raw.greet()
                    raw.send(rnd.randbytes(rnd.choice([1, 15, 16, 28, 500, 70000])))
                except rawnbd.Gone:
                    pass
        for _ in range(60):
            with rawnbd.Raw(array.socket) as raw:
                raw.go()
                try:
                    raw.send(rnd.randbytes(rnd.choice([1, 27, 28, 29, 4096])))
                except rawnbd.Gone:
                    pass
    array.stop()


def test_lying_lengths_in_options(t):
    array = served(t)
    with Bystander(array, 8 << 11):
        for code in (1, 2, 3, 5, 6, 7, 8, 9, 10, 77, 0xFFFFFFFF):
            for length in (0, 1, 3, 0x7FFFFFFF, 0xFFFFFFFF):
                with rawnbd.Raw(array.socket) as raw:
                    raw.greet()
                    raw.option(code, b"xyz"[:min(length, 3)], length)
                    raw.sock.shutdown(socket.SHUT_WR)
        with rawnbd.Raw(array.socket) as raw:
            raw.greet()
            raw.option(rawnbd.OPT_GO, struct.pack(">I", 0xFFFFFFF0) + b"a" + struct.pack(">H", 0xFFFF))
            kind, _ = raw.option_reply()
            t.check(kind >= 1 << 31, f"GO with a lying name length got reply {kind:x}")
    array.stop()


def test_out_of_range_and_malformed_requests(t):
    """Each gets an error of its own; the connection lives on, as the last request on it shows."""
    array = served(t)
    with Bystander(array, 8 << 11), rawnbd.Raw(array.socket) as raw:
        size = raw.go().size
        top = (1 << 64) - 512
        einval = (rawnbd.EINVAL,)
        past_end = (rawnbd.EINVAL, rawnbd.ENOSPC)
        for label, kind, offset, length, data, flags, want in [
            ("read past the end", rawnbd.READ, size - 512, 1024, b"", 0, einval),
            ("read far outside", rawnbd.READ, top, 512, b"", 0, einval),
            ("write past the end", rawnbd.WRITE, size - 512, 1024, bytes(1024), 0, past_end),
            ("write that wraps", rawnbd.WRITE, top, 1024, bytes(1024), 0, past_end),
            ("zeroes past the end", rawnbd.WRITE_ZEROES, size - 512, 4096, b"", 0, past_end),
            ("trim past the end", rawnbd.TRIM, size, 512, b"", 0, past_end),
            ("unknown command", 99, 0, 512, b"", 0, einval),
            ("unknown flag", rawnbd.READ, 0, 512, b"", 1 << 15, einval),
            ("oversize read", rawnbd.READ, 0, 0xFFFFFE00, b"", 0, einval + (rawnbd.EOVERFLOW,)),
        ]:
            got = raw.ask(kind, offset, length, data, flags)
            t.check(got in want, f"{label}: errno {got}, wanted one of {want}")
        t.check(raw.ask(rawnbd.READ, size - 512, 512) == 0, "the last sector cannot be read")
        t.check(raw.ask(rawnbd.FLUSH, 0, 0) == 0, "flush failed on the same connection")
    array.stop()


def test_oversize_write_loses_only_its_connection(t):
    array = served(t)
    with Bystander(array, 8 << 11):
        with rawnbd.Raw(array.socket) as raw:
            raw.go()
            try:
                raw.request(rawnbd.WRITE, 0, 0xFFFFFE00)
                raw.send(bytes(1 << 20))
                raw.sock.shutdown(socket.SHUT_WR)
                t.check(raw.answer().errno != 0, "a 4 GiB write was taken")
            except (rawnbd.Gone, BrokenPipeError):
                pass
    array.stop()


def test_half_requests_and_sudden_ends(t):
    array, rnd = served(t), random.Random(SEED + 1)
    whole = struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.WRITE, 1, 32 << 20, 65536) + bytes(65536)
    with Bystander(array, 8 << 11):
        for _ in range(80):
            with rawnbd.Raw(array.socket) as raw:
                raw.go()
                raw.send(whole[:rnd.randrange(1, len(whole))])
        for _ in range(20):
            with rawnbd.Raw(array.socket) as raw:
                raw.go()
                for i in range(32):
                    raw.request(rawnbd.READ, i << 20, 1 << 20, cookie=i)
        idle = [rawnbd.Raw(array.socket) for _ in range(50)]
        for raw in idle:
            raw.sock.close()
    array.stop()


def test_a_client_that_never_reads_its_replies(t):
    array = served(t)
    with Bystander(array, 8 << 11):
        with rawnbd.Raw(array.socket) as raw:
            raw.go()
            raw.sock.setblocking(False)
            try:
                for i in range(2000):
                    raw.sock.send(struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.READ, i, 0, 1 << 20))
            except BlockingIOError:
                pass
            with rawnbd.Raw(array.socket) as other:
                other.go()
                t.check(other.ask(rawnbd.READ, 0, 4096) == 0, "a neighbour cannot read")
    array.stop()
