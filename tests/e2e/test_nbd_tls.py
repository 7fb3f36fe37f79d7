"""The same rules over TLS: the tests of commands, contexts, replies and extended headers once more, each byte of
them encrypted. What TLS itself must do is in test_tls.py.
"""

import ssl

import test_nbd_commands
import test_nbd_contexts
import test_nbd_extended
import test_nbd_structured
from harness import pki, rawnbd
from harness.array import Array, open_files, settled_files
from harness.case import until
from harness.rawnbd import OverTls, Raw
from harness.shared import tcp_of

# Requests of tens of MiB say nothing more over TLS, and encrypting them in Python takes long.
LONG = ("test_large_requests_up_to_64_mib", "test_cache_is_a_hint")


def secured(t):
    """An array named as the shared one whose `socket` and `tcp` are both TLS with client certificates."""
    authority = pki.Authority(t)
    cert, key = authority.server()
    array = Array(t, 6, 4, size="128M", name="door")
    line = array.serve("--listen", "tcp:127.0.0.1:0", "--tls-certificate", cert, "--tls-key", key, "--tls-client-ca", authority.cert)
    array.tcp = OverTls(tcp_of(line), pki.context(authority.client_dir("tester")))
    array.socket = array.tcp
    return array


def over_tls(t, module):
    """Runs the tests of a module that use the shared array on this one."""
    array, done = secured(t), 0
    # The threads of TLS are there from the first connection on, and have descriptors of their own.
    with Raw(array.tcp) as raw:
        raw.go().read(0, 512)
    files = settled_files(array)
    for name, function in vars(module).items():
        if name.startswith("test_") and hasattr(function, "__wrapped__") and name not in LONG:
            t.say(name)
            function.__wrapped__(t, array)
            done += 1
    t.check(done >= 3, f"only {done} tests were found")
    until("the daemon to close what the tests left", lambda: open_files(array) <= files)
    array.terminate()


def test_commands(t):
    over_tls(t, test_nbd_commands)


def test_contexts(t):
    over_tls(t, test_nbd_contexts)


def test_structured_replies(t):
    over_tls(t, test_nbd_structured)


def test_extended_headers(t):
    over_tls(t, test_nbd_extended)


def test_records_of_one_byte(t):
    """A client that encrypts each byte of its requests by itself, in both versions."""
    array = secured(t)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        array.tcp.context.minimum_version = ssl.TLSVersion.TLSv1_2
        array.tcp.context.maximum_version = version
        with Raw(array.tcp) as raw:
            raw.go(structured=True)
            t.check(raw.sock.version() == version.name.replace("_", "."), f"TLS version {raw.sock.version()}")
            for byte in raw.prepare(rawnbd.WRITE, 0, 1024, b"\x3c" * 1024):
                raw.send(bytes([byte]))
            t.check(raw.answer().errno == 0 and raw.read(0, 1024) == b"\x3c" * 1024, "byte by byte over TLS")
    array.terminate()
