"""A uraid array driven by its command line: create, serve, fail, add, stop, kill."""

import json
import os
import signal
import subprocess
import threading

from .case import URAID, Failed, until

# Levels, member counts and lost members that every client has to be right on.
SHAPES = [(5, 3), (5, 5), (6, 4), (6, 6)]


def parity_members(level):
    """How many members an array of this level can lose."""
    return 2 if level == 6 else 1


class Array:
    """One array of member files in the test's directory, and the daemon that serves it."""

    def __init__(self, t, level, members, chunk="64K", size="64M", name="e2e", create=True, options=()):
        t.check(URAID.exists(), f"{URAID} is missing; run ./dev build")
        self.t, self.level, self.n, self.name = t, level, members, name
        self.size, self.process, self.spares = size, None, 0
        self.members = [t.dir / f"m{i}.img" for i in range(members)]
        self.socket, self.control = t.dir / "nbd.sock", t.dir / "control.sock"
        if create:
            t.run(URAID, "create", "--level", level, "--chunk", chunk, "--name", name, "--size", size,
                  *(options or ["--assume-clean"]), *self.members)

    @property
    def uri(self):
        """Where clients find the default export."""
        return f"nbd+unix:///?socket={self.socket}"

    def serve(self, *options, members=None, plain=False):
        """Starts the daemon and returns when it said that it serves; `plain` passes `members` alone."""
        where = [] if plain else ["--listen", f"unix:{self.socket}", "--control", self.control]
        argv = ["serve", *where, *options, *(members or self.members)]
        self.process = self.t.daemon("uraid", URAID, *argv, stdout=subprocess.PIPE)
        line = first_line(self.process, 30)
        if not line:
            raise Failed(f"uraid serve did not come up: {tail(self.t.dir / 'uraid.log')}")
        self.t.say(f"served: {line}")
        return line

    def ctl(self, verb, *args, ok=(0,)):
        """A command to the running daemon."""
        return self.t.run(URAID, verb, "--control", self.control, *args, ok=ok)

    def status(self):
        """What `uraid status --json` says, as a `Status`."""
        return Status(json.loads(self.ctl("status", "--json").stdout))

    def fail(self, index):
        """Declares the member at `index` failed and waits until the array says so."""
        before = self.status().degraded
        self.ctl("fail", self.members[index])
        until("the array to be degraded", lambda: self.status().degraded > before)

    def add(self, index):
        """Gives the array a blank member in place of the one at `index`, which failed."""
        self.spares += 1
        fresh = self.t.dir / f"spare{self.spares}.img"
        self.t.run("truncate", "-s", self.size, fresh)
        self.ctl("add", fresh)
        self.members[index].unlink(missing_ok=True)
        self.members[index] = fresh

    def wait_rebuilt(self, seconds=120):
        """Waits until no member is missing and nothing is being rebuilt or resynced."""
        until("the rebuild to end", lambda: self.status().settled, seconds)

    def stop(self):
        """Stops the daemon the way an operator does and expects a good end."""
        self.ctl("stop")
        self.expect_exit(0)

    def terminate(self):
        """SIGTERM, and a good end."""
        self.process.send_signal(signal.SIGTERM)
        self.expect_exit(0)

    def expect_exit(self, code, seconds=60):
        """Waits for the daemon's end and checks its exit code."""
        try:
            got = self.process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"uraid did not stop within {seconds} s") from late
        self.t.check(got == code, f"uraid ended with {got}, not {code}: {tail(self.t.dir / 'uraid.log')}")

    def kill(self):
        """kill -9: what a crash of the daemon leaves."""
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def present(self):
        """The member files that are part of the array now, by their place; None where one is gone."""
        return [m if m.exists() else None for m in self.members]


class Status:
    """`uraid status --json`; the only place in the tests that knows its field names (docs/json.md)."""

    def __init__(self, value):
        self.value = value

    @property
    def degraded(self):
        """How many roles have no in-sync member."""
        return self.value["degraded"]

    @property
    def sync(self):
        """What runs in the background, or None."""
        return self.value["sync"]

    @property
    def settled(self):
        """Whole, and nothing to do."""
        return self.degraded == 0 and self.sync is None


class RebuildChurn:
    """Fails a member, adds a blank one and waits for its rebuild, again and again while a client works."""

    def __init__(self, array):
        self.array, self.rebuilds, self.trouble = array, 0, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def _run(self):
        index = 0
        try:
            while not self._stop.is_set():
                self.array.fail(index)
                self.array.add(index)
                self.array.wait_rebuilt()
                self.rebuilds += 1
                index = (index + 1) % self.array.n
        except Exception as error:  # handed to the test's own thread in __exit__
            self.trouble = error

    def __exit__(self, kind, *_):
        self._stop.set()
        self._thread.join(180)
        if kind is None and self.trouble is not None:
            raise Failed(f"while rebuilding: {self.trouble}")
        if kind is None and self.rebuilds == 0:
            raise Failed("no rebuild ended while the clients worked")


def in_state(array, state):
    """Brings a freshly served array into a state; returns a context in which clients are to run."""
    if state in ("degraded-1", "degraded-2"):
        for index in range(int(state[-1])):
            array.fail(index * 2)
            array.members[index * 2].unlink()
    return RebuildChurn(array) if state == "rebuilding" else Nothing()


class Nothing:
    """A context without effect."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


def states(level):
    """The states in which an array of this level must serve."""
    return ["healthy", "degraded-1"] + (["degraded-2"] if level == 6 else []) + ["rebuilding"]


def first_line(process, seconds):
    """The first line that a process prints, or "" when it ended or `seconds` passed without one."""
    got = []
    reader = threading.Thread(target=lambda: got.append(process.stdout.readline()), daemon=True)
    reader.start()
    reader.join(seconds)
    return got[0].decode(errors="replace").strip() if got else ""


def open_files(array):
    """How many file descriptors the daemon has."""
    return len(os.listdir(f"/proc/{array.process.pid}/fd"))


def settled_files(array):
    """The same when it has not changed for a moment: connections end a little after their clients."""
    last = [None, 0]

    def same():
        now = open_files(array)
        last[1] = last[1] + 1 if now == last[0] else 0
        last[0] = now
        return last[1] > 10
    until("the number of open files to settle", same)
    return last[0]


def tail(path, count=5):
    """The last lines of a log, for an error message."""
    try:
        return " | ".join(path.read_text(errors="replace").strip().splitlines()[-count:])
    except OSError:
        return "(no log)"
