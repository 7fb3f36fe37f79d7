"""Malformed sessions and stalled ones, many of each, beside a client that minds its own business.

What it costs the honest one in time is measured by `./dev bench hostile`; here nothing may be lost, leak
or die.
"""

import os
import threading

from harness import rawnbd
from harness.array import open_files
from harness.case import until
from harness.malform import Attacker, Stalled
from harness.rawnbd import Gone, Raw
from harness.shared import on_shared

MIB = 1 << 20
SEED = int(os.environ.get("URAID_SEED", "20261122"))
SAFE = 64 * MIB


def memory(array):
    """Bytes of the daemon that are in memory."""
    with open(f"/proc/{array.process.pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Honest(threading.Thread):
    """Writes and reads back in the first 64 MiB until told to stop."""

    def __init__(self, array):
        super().__init__(daemon=True)
        self.raw, self.rounds, self.trouble, self.stop = Raw(array.socket, 30).go(structured=True), 0, None, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def run(self):
        try:
            while not self.stop.is_set():
                data = os.urandom(512) * 128
                at = self.rounds * 65536 % SAFE
                self.raw.write(at, data, rawnbd.FUA if self.rounds % 50 == 0 else 0)
                rawnbd.insist(self.raw.read(at, 65536) == data, f"at {at} another one's data")
                self.rounds += 1
        except (Gone, OSError, AssertionError) as error:
            self.trouble = error

    def __exit__(self, *_):
        self.stop.set()
        self.join(60)
        self.raw.sock.close()


@on_shared
def test_hundreds_of_malformed_sessions(t, array):
    """The honest client sees nothing of them, and nothing of them stays: no descriptor, no memory."""
    with Raw(array.socket) as raw:
        size = raw.go().size
    attackers = [Attacker(where, SEED + i, SAFE, size) for i, where in enumerate((array.socket, array.tcp))]
    for attacker in attackers:
        for _ in range(50):
            attacker.session()
    files, before = open_files(array), memory(array)
    with Honest(array) as honest:
        for attacker in attackers:
            for _ in range(350):
                attacker.session()
        until("the honest client to get on", lambda: honest.rounds > 50 or honest.trouble)
    t.check(honest.trouble is None, f"the honest client: {honest.trouble}")
    until("the descriptors to be closed", lambda: open_files(array) <= files)
    t.check(memory(array) - before < 96 * MIB, f"{(memory(array) - before) // MIB} MiB more than before")


@on_shared
def test_hundreds_of_stalled_sessions(t, array):
    """An honest client goes on while 300 hold what they can."""
    files, before = open_files(array), memory(array)
    stalled = [Stalled(where, SEED + i, 150) for i, where in enumerate((array.socket, array.tcp))]
    try:
        with Honest(array) as honest:
            for some in stalled:
                some.fill()
            had = honest.rounds
            until("the honest client to get on", lambda: honest.rounds > had + 50 or honest.trouble)
        t.check(honest.trouble is None, f"the honest client: {honest.trouble}")
        t.check(memory(array) - before < 400 * MIB, f"{(memory(array) - before) // MIB} MiB for {sum(len(s.held) for s in stalled)} stalled clients")
    finally:
        for some in stalled:
            some.close()
    until("the descriptors to be closed", lambda: open_files(array) <= files)


@on_shared
def test_a_crowd_that_says_nothing_keeps_nobody_out(t, array):
    """With 400 clients in the handshake at both addresses an honest one is let in at once, each time."""
    files = open_files(array)
    crowds = [Stalled(where, SEED + i, 200, silent=True) for i, where in enumerate((array.socket, array.tcp))]
    try:
        for crowd in crowds:
            crowd.fill()
        for where in (array.socket, array.tcp) * 5:
            with Raw(where, 8) as raw:
                t.check(len(raw.go().read(0, 4096)) == 4096, "the honest client reads nothing")
            for crowd in crowds:
                crowd.fill()
    finally:
        for crowd in crowds:
            crowd.close()
    until("the descriptors to be closed", lambda: open_files(array) <= files)
