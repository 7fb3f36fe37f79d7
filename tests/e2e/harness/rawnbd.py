"""NBD by hand over a socket, to say what no honest client says and to believe nothing that the server says.

Written from the protocol document alone (doc/proto.md of the NetworkBlockDevice project and its draft of
extended headers), independently of the Rust code. `Raw` sends any bytes; what it receives is held to
every rule of the protocol that the message itself shows, and a breach is `Broken`.
"""

import socket
import ssl
import struct
from dataclasses import dataclass, field

NBDMAGIC, IHAVEOPT, OPT_REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x3E889045565A9
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_PEEK, OPT_STARTTLS, OPT_INFO, OPT_GO = 1, 2, 3, 4, 5, 6, 7
OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META, OPT_EXTENDED = 8, 9, 10, 11
REP_ACK, REP_SERVER, REP_INFO, REP_META = 1, 2, 3, 4
ERR = 1 << 31
REP_UNSUP, REP_POLICY, REP_INVALID, REP_TLS_REQD, REP_UNKNOWN = ERR | 1, ERR | 2, ERR | 3, ERR | 5, ERR | 6
REP_TOO_BIG, REP_EXT_REQD = ERR | 9, ERR | 10
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = 0, 1, 2, 3

HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_ZEROES, SEND_DF, MULTI_CONN, RESIZE, \
    SEND_CACHE, SEND_FAST_ZERO, STATUS_PAYLOAD = (1 << bit for bit in range(13))

REQUEST, SIMPLE_REPLY, CHUNK = 0x25609513, 0x67446698, 0x668E33EF
EXT_REQUEST, EXT_REPLY = 0x21E41C71, 0x6E8A278C
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))
DONE = 1
T_NONE, T_DATA, T_HOLE, T_STATUS, T_STATUS_EXT, T_ERROR, T_ERROR_OFFSET = 0, 1, 2, 5, 6, 0x8001, 0x8002
EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 12, 22, 28, 75, 95, 108
ERRNOS = (EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN)
HOLE, ZERO = 1, 2
STRING_MAX = 4096
# No honest server answers with more in one message.
REPLY_MAX = 65 << 20


class Gone(Exception):
    """The server closed the connection."""


class Broken(AssertionError):
    """The server broke the protocol."""


def insist(truth, text):
    """`Broken` with `text` unless `truth`."""
    if not truth:
        raise Broken(text)


def harmless_text(raw):
    """A text for people: UTF-8, not long, and without what moves a terminal's cursor."""
    insist(len(raw) <= STRING_MAX, f"a text of {len(raw)} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise Broken(f"a text is not UTF-8: {raw[:60]}") from error
    insist(all(c.isprintable() or c == " " for c in text), f"a text has control characters: {text[:60]!r}")
    return text


def info_data(name=b"", kinds=()):
    """The data of INFO and GO."""
    return struct.pack(">I", len(name)) + name + struct.pack(f">H{len(kinds)}H", len(kinds), *kinds)


def meta_data(name=b"", queries=()):
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries)) + b"".join(
        struct.pack(">I", len(q)) + q for q in queries)


def option_bytes(code, data=b"", length=None):
    """One option as it travels; `length` may lie."""
    return struct.pack(">QII", IHAVEOPT, code, len(data) if length is None else length) + data


@dataclass
class Export:
    """What INFO or GO told: each piece at most once."""

    size: int = None
    flags: int = None
    name: bytes = None
    description: bytes = None
    blocks: tuple = None
    order: list = field(default_factory=list)

    def take(self, data):
        """One NBD_REP_INFO."""
        insist(len(data) >= 2, "an information without a type")
        kind, rest = struct.unpack(">H", data[:2])[0], data[2:]
        insist(kind not in self.order, f"information {kind} twice")
        self.order.append(kind)
        if kind == INFO_EXPORT:
            insist(len(rest) == 10, "NBD_INFO_EXPORT has a wrong length")
            self.size, self.flags = struct.unpack(">QH", rest)
            insist(self.flags & HAS_FLAGS, "HAS_FLAGS is not set")
        elif kind == INFO_NAME:
            self.name = harmless_text(rest).encode()
        elif kind == INFO_DESCRIPTION:
            self.description = harmless_text(rest).encode()
        elif kind == INFO_BLOCK_SIZE:
            insist(len(rest) == 12, "NBD_INFO_BLOCK_SIZE has a wrong length")
            self.blocks = struct.unpack(">III", rest)


@dataclass
class Reply:
    """The whole answer to one request."""

    cookie: int
    errno: int = 0
    text: str = ""
    # The first byte that failed, if the server said so.
    bad_at: int = None
    # (offset, bytes) in the order of arrival, and how many of the pieces were chunks with data.
    pieces: list = field(default_factory=list)
    extents: dict = field(default_factory=dict)
    simple: bool = False
    chunks: int = 0

    def data(self):
        """What was read, in order."""
        return b"".join(piece for _, piece in sorted(self.pieces))


@dataclass
class OverTls:
    """Where a connection is to be secured before anything else is said."""

    address: tuple
    context: ssl.SSLContext


class Raw:
    """A connection on which every byte is ours to choose. `where` is a unix socket's path, (host, port), or an
    `OverTls`: then the greeting and STARTTLS are over already."""

    def __init__(self, where, timeout=10):
        self.secured = isinstance(where, OverTls)
        if self.secured:
            self._secure(where, timeout)
        elif isinstance(where, tuple):
            self.sock = socket.create_connection(where, timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(str(where))
        self.size = self.flags = self.export = None
        self.structured = self.extended = False
        self.contexts = {}
        self.asked, self.partial = {}, {}

    def _secure(self, where, timeout):
        """Connects, greets, asks for TLS and starts it."""
        with Raw(where.address, timeout) as plain:
            plain.greet()
            insist(plain.try_option(OPT_STARTTLS) == REP_ACK, "STARTTLS is refused")
            plain.starttls(where.context, where.address[0])
            # The socket outlives the connection object that prepared it.
            self.sock, plain.sock = plain.sock, socket.socket()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    # Bytes.

    def send(self, data):
        """Sends, and says `Gone` if the server no longer listens."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError) as error:
            raise Gone from error

    def take(self, count):
        """Exactly `count` bytes, or `Gone`."""
        got = bytearray(count)
        view, have = memoryview(got), 0
        while have < count:
            try:
                more = self.sock.recv_into(view[have:])
            except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError) as error:
                raise Gone from error
            if not more:
                raise Gone
            have += more
        return bytes(got)

    def expect_end(self, seconds=10):
        """The server closes without another byte."""
        self.sock.settimeout(seconds)
        try:
            got = self.take(1)
        except Gone:
            return
        except TimeoutError as late:
            raise Broken("the server neither answers nor closes") from late
        raise Broken(f"the server sends {got} and does not close")

    def starttls(self, context, name=None):
        """Wraps the connection in TLS, as after an acknowledged STARTTLS; what was agreed is forgotten."""
        self.sock = context.wrap_socket(self.sock, server_hostname=name)
        self.structured = self.extended = False
        self.contexts = {}

    # The handshake.

    def greet(self, flags=3):
        """Greeting and client flags (fixed newstyle, no zeroes). Returns the server's flags."""
        if self.secured:
            insist(flags == 3, "the client's flags were sent before TLS")
            return 3
        magic, opt, theirs = struct.unpack(">QQH", self.take(18))
        insist(magic == NBDMAGIC and opt == IHAVEOPT, "not an NBD server")
        self.send(struct.pack(">I", flags))
        return theirs

    def option(self, code, data=b"", length=None):
        """Sends one option; `length` may lie."""
        self.send(option_bytes(code, data, length))

    def option_reply(self, code=None):
        """(reply type, data) of one option reply, to the option `code` if one is given."""
        magic, option, kind, length = struct.unpack(">QIII", self.take(20))
        insist(magic == OPT_REPLY, f"bad option reply magic {magic:x}")
        insist(code in (None, option), f"a reply to option {option}, and {code} was asked")
        insist(length <= 2 * STRING_MAX + 8, f"an option reply of {length} bytes")
        data = self.take(length)
        if kind & ERR:
            harmless_text(data)
        if kind == REP_ACK:
            insist(not data, "NBD_REP_ACK with data")
        return kind, data

    def option_replies(self, code):
        """All replies to one option, up to the last one: [(type, data)]."""
        replies = []
        while True:
            replies.append(self.option_reply(code))
            if replies[-1][0] == REP_ACK or replies[-1][0] & ERR:
                return replies

    def try_option(self, code, data=b"", length=None):
        """Sends an option and returns the type of its last reply."""
        self.option(code, data, length)
        return self.option_replies(code)[-1][0]

    def negotiate(self, structured=False, extended=False, contexts=(), name=b""):
        """Asks for these; each must be granted."""
        if structured:
            insist(self.try_option(OPT_STRUCTURED) == REP_ACK, "structured replies are refused")
            self.structured = True
        if extended:
            insist(self.try_option(OPT_EXTENDED) == REP_ACK, "extended headers are refused")
            self.structured = self.extended = True
        if contexts:
            got = self.set_contexts(contexts, name)
            insist(len(got) == len(contexts), f"of the contexts {contexts} only {got} were selected")
        return self

    def set_contexts(self, queries, name=b""):
        """SET_META_CONTEXT; {id: name} of what was selected. An error is `Broken`."""
        self.option(OPT_SET_META, meta_data(name, queries))
        replies = self.option_replies(OPT_SET_META)
        insist(replies[-1][0] == REP_ACK, f"SET_META_CONTEXT ended with {replies[-1][0]:x}")
        self.contexts = contexts_of(replies)
        return self.contexts

    def list_contexts(self, queries, name=b""):
        """LIST_META_CONTEXT; the set of names."""
        self.option(OPT_LIST_META, meta_data(name, queries))
        replies = self.option_replies(OPT_LIST_META)
        insist(replies[-1][0] == REP_ACK, f"LIST_META_CONTEXT ended with {replies[-1][0]:x}")
        names = [data[4:] for kind, data in replies if kind == REP_META]
        insist(len(names) == len(set(names)), f"a context is listed twice: {names}")
        return set(names)

    def describe(self, code, name=b"", kinds=()):
        """INFO or GO: an `Export`, or the type of the error."""
        self.option(code, info_data(name, kinds))
        export = Export()
        for kind, data in self.option_replies(code):
            if kind == REP_ACK:
                insist(export.size is not None, "acknowledged without NBD_INFO_EXPORT")
            elif kind == REP_INFO:
                export.take(data)
            else:
                insist(kind & ERR, f"reply {kind:x} to option {code}")
                return kind
        if code == OPT_GO:
            self.export, self.size, self.flags = export, export.size, export.flags
        return export

    def go(self, name=b"", structured=False, extended=False, contexts=(), kinds=()):
        """Greeting, what is asked for, and NBD_OPT_GO; ends in transmission with size and flags known."""
        self.greet()
        self.negotiate(structured, extended, contexts, name)
        export = self.describe(OPT_GO, name, kinds)
        insist(isinstance(export, Export), f"GO was refused with {export}")
        return self

    def export_name(self, name=b"", zeroes=False):
        """NBD_OPT_EXPORT_NAME, with 124 zeroes behind the answer or without; ends in transmission."""
        self.option(OPT_EXPORT_NAME, name)
        self.size, self.flags = struct.unpack(">QH", self.take(10))
        insist(self.flags & HAS_FLAGS, "HAS_FLAGS is not set")
        if zeroes:
            insist(self.take(124) == bytes(124), "the 124 zeroes are none")
        return self

    # Transmission.

    def header(self, kind, offset, length, flags=0, cookie=7, magic=None):
        """One request header, 28 or 32 bytes as agreed."""
        if self.extended:
            return struct.pack(">IHHQQQ", magic or EXT_REQUEST, flags, kind, cookie, offset, length)
        return struct.pack(">IHHQQI", magic or REQUEST, flags, kind, cookie, offset, length)

    def prepare(self, kind, offset, length, data=b"", flags=0, cookie=7, magic=None):
        """One request as it travels, whose answer is expected from now on. WRITE gets the payload flag that an
        extended session wants; setting the flag takes it away."""
        if self.extended and kind == WRITE:
            flags ^= PAYLOAD_LEN
        self.asked[cookie] = (kind, offset, length, flags)
        return self.header(kind, offset, length, flags, cookie, magic) + data

    def request(self, *args, **kwargs):
        """Sends one request header and its payload; see `prepare`."""
        self.send(self.prepare(*args, **kwargs))

    def ask_for(self, kind, offset, length, data=b"", flags=0, cookie=7):
        """One request and its whole `Reply`; nothing else may be in flight."""
        self.request(kind, offset, length, data, flags, cookie)
        reply = self.answer()
        insist(reply.cookie == cookie, f"the answer to {reply.cookie}, and only {cookie} was asked")
        return reply

    def ask(self, kind, offset, length, data=b"", flags=0):
        """One request and its errno."""
        return self.ask_for(kind, offset, length, data, flags).errno

    def read(self, offset, length, flags=0):
        """Reads well, or `Broken`."""
        reply = self.ask_for(READ, offset, length, b"", flags)
        insist(reply.errno == 0, f"a read of {length} at {offset} failed with {reply.errno}: {reply.text}")
        return reply.data()

    def write(self, offset, data, flags=0):
        """Writes well, or `Broken`."""
        reply = self.ask_for(WRITE, offset, len(data), data, flags)
        insist(reply.errno == 0, f"a write of {len(data)} at {offset} failed with {reply.errno}: {reply.text}")

    def answer(self):
        """Receives until the answer to some request is whole; it is checked by all that was agreed."""
        while True:
            magic = struct.unpack(">I", self.take(4))[0]
            if magic == SIMPLE_REPLY:
                return self._simple()
            insist(magic == (EXT_REPLY if self.extended else CHUNK), f"bad reply magic {magic:x}")
            insist(self.structured, "a structured reply that was not agreed on")
            reply = self._chunk()
            if reply:
                return reply

    def answers(self, count):
        """{cookie: Reply} of so many answers."""
        found = {}
        for _ in range(count):
            reply = self.answer()
            found[reply.cookie] = reply
        return found

    def _simple(self):
        insist(not self.extended, "a simple reply in an extended session")
        errno, cookie = struct.unpack(">IQ", self.take(12))
        insist(cookie in self.asked, f"a reply to {cookie:x}, which was not asked")
        insist(cookie not in self.partial, "a simple reply behind a chunk")
        kind, offset, length, _ = self.asked.pop(cookie)
        insist(errno == 0 or errno in ERRNOS, f"errno {errno} has no place on the wire")
        insist(not (self.structured and kind in (READ, BLOCK_STATUS)), "a simple reply to a command that needs chunks")
        reply = Reply(cookie, errno, simple=True)
        if kind == READ and errno == 0:
            reply.pieces.append((offset, self.take(length)))
        return reply

    def _chunk(self):
        flags, kind, cookie = struct.unpack(">HHQ", self.take(12))
        echoed, length = struct.unpack(">QQ", self.take(16)) if self.extended else (None, *struct.unpack(">I", self.take(4)))
        insist(cookie in self.asked, f"a chunk for {cookie:x}, which was not asked or is done")
        asked = self.asked[cookie]
        insist(echoed in (None, asked[1]), f"the reply's offset is {echoed}, the request's {asked[1]}")
        insist(not flags & ~DONE, f"unknown reply flags {flags:x}")
        insist(length <= REPLY_MAX, f"a chunk of {length} bytes")
        reply = self.partial.setdefault(cookie, Reply(cookie))
        reply.chunks += 1
        self._body(reply, kind, flags, self.take(length), asked)
        if not flags & DONE:
            return None
        del self.partial[cookie], self.asked[cookie]
        whole(reply, asked, self.contexts)
        return reply

    def _body(self, reply, kind, flags, body, asked):
        command, offset, length, _ = asked
        if kind == T_NONE:
            insist(not body and flags & DONE, "NONE with a body, or not the last")
        elif kind in (T_DATA, T_HOLE):
            insist(command == READ, "content in answer to another command")
            insist(len(body) > 8 if kind == T_DATA else len(body) == 12, "a content chunk of a wrong length")
            at = struct.unpack(">Q", body[:8])[0]
            piece = body[8:] if kind == T_DATA else bytes(struct.unpack(">I", body[8:])[0])
            insist(piece and offset <= at and at + len(piece) <= offset + length, "content outside of what was asked")
            insist(all(at + len(piece) <= o or o + len(p) <= at for o, p in reply.pieces), "content overlaps")
            reply.pieces.append((at, piece))
        elif kind in (T_STATUS, T_STATUS_EXT):
            insist(command == BLOCK_STATUS, "extents in answer to another command")
            insist((kind == T_STATUS_EXT) == self.extended, "block status in the form of the other headers")
            self._extents(reply, body, asked)
        else:
            insist(kind in (T_ERROR, T_ERROR_OFFSET), f"a chunk of the unknown type {kind:x}")
            take_error(reply, kind, body, asked)

    def _extents(self, reply, body, asked):
        if self.extended:
            context, count = struct.unpack(">II", body[:8])
            insist(count > 0 and len(body) == 8 + 16 * count, "the count of extents is not the length's")
            extents = list(struct.iter_unpack(">QQ", body[8:]))
        else:
            insist(len(body) >= 12 and len(body) % 8 == 4, "block status of a wrong length")
            context, extents = struct.unpack(">I", body[:4])[0], list(struct.iter_unpack(">II", body[4:]))
        insist(context in self.contexts, f"context {context} was not selected")
        insist(context not in reply.extents, f"context {context} twice")
        reply.extents[context] = extents
        _, offset, length, flags = asked
        total = sum(n for n, _ in extents)
        insist(all(n > 0 for n, _ in extents), "an empty extent")
        insist(total - extents[-1][0] < length, "extents beyond the one that ends the range")
        insist(offset + total <= self.size, "extents past the end of the export")
        insist(len(extents) <= 1 << 20, "too many extents")
        insist(all(a[1] != b[1] for a, b in zip(extents, extents[1:])), "neighbours of one status are not merged")
        if flags & REQ_ONE:
            insist(len(extents) == 1 and total <= length, "REQ_ONE, and not one extent within the range")


def contexts_of(replies):
    """{id: name} of the replies to SET_META_CONTEXT."""
    found = {}
    for kind, data in replies:
        if kind == REP_META:
            context = struct.unpack(">I", data[:4])[0]
            insist(context not in found, f"context id {context} twice")
            found[context] = harmless_text(data[4:]).encode()
    return found


def take_error(reply, kind, body, asked):
    """An error chunk."""
    fixed = 6 if kind == T_ERROR else 14
    insist(len(body) >= fixed, "a short error chunk")
    errno, text_length = struct.unpack(">IH", body[:6])
    insist(errno in ERRNOS, f"errno {errno} has no place on the wire")
    insist(len(body) == fixed + text_length, "an error chunk of a wrong length")
    insist(reply.errno == 0, "two errors in one reply")
    reply.errno, reply.text = errno, harmless_text(body[6:6 + text_length])
    if kind == T_ERROR_OFFSET:
        reply.bad_at = struct.unpack(">Q", body[-8:])[0]
        insist(asked[1] <= reply.bad_at < asked[1] + asked[2], "the error's offset is outside of the request")


def whole(reply, asked, contexts):
    """What must hold of a reply once its last chunk is there."""
    command, _, length, flags = asked
    if reply.errno:
        return
    if command == READ:
        insist(sum(len(piece) for _, piece in reply.pieces) == length, "a successful read that is not whole")
        insist(not flags & DF or len(reply.pieces) <= 1, "DF, and more than one piece of content")
    if command == BLOCK_STATUS:
        insist(set(reply.extents) == set(contexts), "a successful block status lacks a context")
