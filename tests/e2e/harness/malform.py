"""Clients that mean harm, by the thousand, from a seed: malformed sessions, and ones that stall.

None of them can spoil data below `safe` bytes of the export: what is mutated at random is the handshake,
while requests are made field by field, and those that could be carried out write behind that border only.
"""

import contextlib
import random
import socket
import struct

from . import rawnbd
from .rawnbd import info_data, meta_data, option_bytes

OPTIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 77, 0xFFFFFFFF)
WRITING = (rawnbd.WRITE, rawnbd.TRIM, rawnbd.WRITE_ZEROES)


def connected(where, timeout=0.5):
    """A socket to a unix path or (host, port)."""
    sock = socket.socket(socket.AF_INET if isinstance(where, tuple) else socket.AF_UNIX)
    sock.settimeout(timeout)
    sock.connect(where if isinstance(where, tuple) else str(where))
    return sock


class Attacker:
    """Malformed sessions against `where`; the export has `size` bytes."""

    def __init__(self, where, seed, safe, size):
        self.where, self.rnd, self.safe, self.size = where, random.Random(seed), safe, size

    def session(self):
        """One session from connect to whatever end. What the server does with it is its business."""
        rnd = self.rnd
        data = rnd.choice((self.garbage, self.lies, self.mutated, self.requests, self.requests, self.cut_write, self.web, self.tls))()
        cut = rnd.randrange(len(data) + 1) if rnd.random() < 0.3 else len(data)
        with contextlib.suppress(OSError), connected(self.where) as sock:
            for piece in self.pieces(data[:cut]):
                sock.sendall(piece)
            self.leave(sock)

    def pieces(self, data):
        """The bytes as one or a few pieces."""
        if self.rnd.random() < 0.7 or len(data) < 2:
            return [data]
        at = sorted(self.rnd.randrange(len(data)) for _ in range(3))
        return [data[a:b] for a, b in zip([0, *at], [*at, len(data)])]

    def leave(self, sock):
        """Close, reset, half close and look, or look and close."""
        how = self.rnd.randrange(4)
        if how == 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == 2:
            sock.shutdown(socket.SHUT_WR)
            sock.settimeout(0.05)
            sock.recv(4096)
        elif how == 3:
            sock.settimeout(0.01)
            sock.recv(64)

    def garbage(self):
        """Anything, behind good client flags or not."""
        flags = struct.pack(">I", self.rnd.choice((0, 1, 3, 3, 3, 0xFFFFFFFF)))
        return flags * self.rnd.randrange(2) + self.rnd.randbytes(self.rnd.choice((1, 15, 16, 28, 500, 70000)))

    def lies(self):
        """Options whose lengths, counts and names are not what they say."""
        rnd, out = self.rnd, struct.pack(">I", 3)
        for _ in range(rnd.randrange(1, 70)):
            code = rnd.choice(OPTIONS)
            data = rnd.choice((b"", b"xyz", info_data(rnd.randbytes(20), (1, 2)), struct.pack(">I", rnd.getrandbits(32)) + b"a",
                               meta_data(b"", [rnd.randbytes(8)] * 5)))
            length = rnd.choice((None, None, None, rnd.randrange(100), 0x7FFFFFFF, 0xFFFFFFFF, 65536, 65537))
            out += option_bytes(code, data, length)
        return out

    def handshake(self):
        """A good one, up to the requests."""
        options = [option_bytes(rawnbd.OPT_STRUCTURED), option_bytes(rawnbd.OPT_LIST), option_bytes(rawnbd.OPT_EXTENDED),
                   option_bytes(rawnbd.OPT_SET_META, meta_data(b"", [b"base:allocation"])), option_bytes(rawnbd.OPT_INFO, info_data(b"", (1, 2, 3)))]
        chosen = [o for o in options if self.rnd.random() < 0.4]
        return struct.pack(">I", 3) + b"".join(chosen) + option_bytes(rawnbd.OPT_GO, info_data())

    def mutated(self):
        """A good handshake with a few bytes changed, lost or doubled."""
        data = bytearray(self.handshake())
        for _ in range(self.rnd.randrange(1, 5)):
            at = self.rnd.randrange(len(data))
            what = self.rnd.randrange(3)
            if what == 0:
                data[at] = self.rnd.randrange(256)
            elif what == 1:
                del data[at]
            else:
                data[at:at] = data[at:at + 4]
        return bytes(data)

    def request(self):
        """One request of which some field is wrong, or that is harmless."""
        rnd = self.rnd
        kind = rnd.choice((0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 99, 0xFFFF))
        length = rnd.choice((0, 1, 512, 4096, 65536, 1 << 20, 0xFFFFFE00, rnd.getrandbits(32)))
        offset = rnd.choice((0, self.size - 512, self.size, (1 << 64) - 512, rnd.getrandbits(64)))
        if kind in WRITING:
            length = min(length, 65536)
            offset = rnd.choice((self.size, (1 << 64) - 512, self.safe + rnd.randrange(self.size - self.safe)))
        magic = rawnbd.REQUEST if rnd.random() < 0.95 else rnd.getrandbits(32)
        flags = rnd.choice((0, 0, 1, 1 << rnd.randrange(16)))
        header = struct.pack(">IHHQQI", magic, flags, kind, rnd.getrandbits(64), offset, length)
        return header + rnd.randbytes(length if kind == rawnbd.WRITE else 0)

    def requests(self):
        """A good handshake, and requests that mostly are not. With extended headers they are out of step."""
        return self.handshake() + b"".join(self.request() for _ in range(self.rnd.randrange(1, 12)))

    def cut_write(self):
        """A write that ends in the middle of its payload, at the front of the export."""
        go = struct.pack(">I", 3) + option_bytes(rawnbd.OPT_GO, info_data())
        length = self.rnd.choice((4096, 1 << 20, 64 << 20, 0xFFFFFE00))
        sent = self.rnd.randrange(min(length, 100_000))
        return go + struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.WRITE, 1, 0, length) + bytes(sent)

    def web(self):
        """Somebody who takes the port for something else."""
        return b"GET / HTTP/1.1\r\nHost: " + self.rnd.randbytes(20) + b"\r\n\r\n"

    def tls(self):
        """STARTTLS, and then something that is no TLS, or half of it."""
        hello = b"\x16\x03\x01" + struct.pack(">H", self.rnd.choice((0, 5, 200, 0x4000, 0xFFFF))) + self.rnd.randbytes(self.rnd.randrange(300))
        return struct.pack(">I", 3) + option_bytes(rawnbd.OPT_STARTTLS) + self.rnd.choice((b"", hello, self.rnd.randbytes(300)))


class Stalled:
    """So many connections that have stopped somewhere, from before the first byte to unread answers; with
    `silent`, all of them before they chose an export."""

    def __init__(self, where, seed, count, silent=False):
        self.where, self.rnd, self.count, self.silent, self.held = where, random.Random(seed), count, silent, []

    def fill(self, most=None):
        """Opens what is missing, at most so many; those that the server closed are replaced."""
        alive, lost = [], 0
        for sock in self.held:
            if ended(sock):
                sock.close()
                lost += 1
            else:
                alive.append(sock)
        self.held = alive
        for _ in range(min(self.count - len(alive), most if most is not None else self.count)):
            try:
                self.held.append(self.open())
            except OSError:
                # The server has no room: nobody gains by trying the others now.
                break
        return lost

    def open(self):
        """One of them."""
        sock = connected(self.where)
        go = struct.pack(">I", 3) + option_bytes(rawnbd.OPT_GO, info_data())
        early = (b"", struct.pack(">I", 3), struct.pack(">I", 3) + option_bytes(rawnbd.OPT_GO, b"", 60000), go[:-3])
        sock.sendall(self.rnd.choice(early if self.silent else (
            *early, go, go + struct.pack(">IHH", rawnbd.REQUEST, 0, rawnbd.READ),
            go + struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.WRITE, 1, 0, 1 << 20) + bytes(1000),
            go + struct.pack(">IHHQQI", rawnbd.REQUEST, 0, rawnbd.READ, 1, 0, 1 << 20) * 8)))
        return sock

    def close(self):
        """Lets go of all."""
        for sock in self.held:
            sock.close()
        self.held = []


def ended(sock):
    """Whether the server has closed it; what it sent before stays unread."""
    try:
        sock.settimeout(0)
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
