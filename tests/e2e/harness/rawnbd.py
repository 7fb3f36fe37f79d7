"""NBD by hand over a socket, to say what no honest client says."""

import socket
import struct

IHAVEOPT, OPT_REPLY = 0x49484156454F5054, 0x3E889045565A9
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED = 1, 2, 3, 6, 7, 8
REP_ACK, REP_INFO = 1, 3
REQUEST, SIMPLE_REPLY = 0x25609513, 0x67446698
READ, WRITE, DISC, FLUSH, TRIM, WRITE_ZEROES = 0, 1, 2, 3, 4, 6
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP = 1, 5, 22, 28, 75, 95


class Gone(Exception):
    """The server closed the connection."""


class Raw:
    """A connection on which every byte is ours to choose. Replies are simple replies."""

    def __init__(self, path, timeout=10):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(str(path))
        self.size = self.flags = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        """Sends, and says `Gone` if the server no longer listens."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Gone from error

    def take(self, count):
        """Exactly `count` bytes, or `Gone`."""
        got = b""
        while len(got) < count:
            try:
                more = self.sock.recv(count - len(got))
            except ConnectionResetError as error:
                raise Gone from error
            if not more:
                raise Gone
            got += more
        return got

    def greet(self):
        """Greeting and client flags (fixed newstyle, no zeroes)."""
        magic, opt, _flags = struct.unpack(">QQH", self.take(18))
        assert magic == 0x4E42444D41474943 and opt == IHAVEOPT, "not an NBD server"
        self.send(struct.pack(">I", 3))

    def option(self, code, data=b"", length=None):
        """Sends one option; `length` may lie."""
        self.send(struct.pack(">QII", IHAVEOPT, code, len(data) if length is None else length) + data)

    def option_reply(self):
        """(reply type, data) of one option reply."""
        magic, _option, kind, length = struct.unpack(">QIII", self.take(20))
        assert magic == OPT_REPLY, f"bad option reply magic {magic:x}"
        return kind, self.take(length)

    def go(self, name=b""):
        """Greeting and NBD_OPT_GO; ends in transmission with size and flags known."""
        self.greet()
        self.option(OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        while True:
            kind, data = self.option_reply()
            if kind == REP_ACK:
                return self
            if kind == REP_INFO and data[:2] == b"\0\0":
                self.size, self.flags = struct.unpack(">QH", data[2:12])
            assert kind < 1 << 31, f"GO was refused with {kind:x}"

    def request(self, kind, offset, length, data=b"", flags=0, cookie=7, magic=REQUEST):
        """Sends one request header and its payload."""
        self.send(struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length) + data)

    def reply(self, payload=0):
        """(errno, payload) of one simple reply."""
        magic, errno, _cookie = struct.unpack(">IIQ", self.take(16))
        assert magic == SIMPLE_REPLY, f"bad reply magic {magic:x}"
        return errno, self.take(payload) if errno == 0 else b""

    def ask(self, kind, offset, length, data=b"", flags=0):
        """One request and its errno."""
        self.request(kind, offset, length, data, flags)
        return self.reply(length if kind == READ else 0)[0]
