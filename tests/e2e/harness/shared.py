"""One daemon for many checks: an array that lives as long as the run, for tests that leave nothing behind.

A test that kills, fills, degrades or stops an array has one of its own. All others write where they like,
assume nothing about what they did not write, and are looked after: behind each of them the daemon must
still answer, and have let go of every connection.
"""

import atexit
import functools

from . import rawnbd
from .array import Array, open_files
from .case import Case, until

_running = {}


def on_shared(function):
    """A test of (t, array) on the array that it shares with others."""
    @functools.wraps(function)
    def wrapper(t, *arguments):
        array = shared(t)
        t.defer(array.t.log.flush)
        before = open_files(array)
        try:
            function(t, array, *arguments)
        finally:
            if array.process.poll() is not None:
                forget()
        with rawnbd.Raw(array.socket) as raw:
            t.check(raw.go().ask(rawnbd.READ, 0, 512) == 0, "the daemon does not read any more")
            raw.request(rawnbd.DISC, 0, 0)
            raw.expect_end()
        until("the daemon to close what the test left", lambda: open_files(array) <= before)
    return wrapper


def shared(t):
    """The array, made and served when it is first asked for. It listens on a unix socket and on TCP."""
    if "array" not in _running:
        case = Case("shared")
        atexit.register(forget)
        _running.update(case=case, array=serve(case))
    array = _running["array"]
    t.also_logs.append(array.t.dir)
    return array


def serve(case):
    """A RAID 6 of 4 members of 128 MiB."""
    array = Array(case, 6, 4, size="128M", name="door")
    line = array.serve("--listen", "tcp:127.0.0.1:0")
    array.tcp = tcp_of(line)
    return array


def tcp_of(line):
    """(host, port) of the loopback address that the daemon says it listens on."""
    return "127.0.0.1", int(line.rsplit("tcp:127.0.0.1:", 1)[1].split()[0])


def forget():
    """Ends the daemon; the next test gets a new one."""
    if _running:
        _running.pop("array")
        _running.pop("case").close()
        atexit.unregister(forget)
