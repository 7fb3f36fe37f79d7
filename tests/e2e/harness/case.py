"""One running test: its directory, what must be undone after it, and how it says that it failed."""

import contextlib
import copy
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
URAID = Path(os.environ.get("URAID", REPO / "target" / "release" / "uraid"))


class Failed(AssertionError):
    """A test's verdict, with words for the person who reads it."""


def scratch_root(need_bytes):
    """A directory for test data: memory when there is room for `need_bytes`, else a temporary directory."""
    for place in (os.environ.get("URAID_TEST_DIR"), "/dev/shm", os.environ.get("TMPDIR"), "/var/tmp", "/tmp"):
        if place and os.path.isdir(place) and shutil.disk_usage(place).free >= need_bytes:
            return place
    raise Failed(f"no directory has {need_bytes >> 20} MiB free; set URAID_TEST_DIR to one that has")


def need(*tools):
    """Fails the test, naming the tool, when one is missing; `./dev setup` installs all of them."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise Failed(f"`{tool}` is not installed; run ./dev setup")


def until(what, condition, seconds=30.0, every=0.02):
    """Polls `condition` until it returns something true and returns that; fails after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"waited {seconds:g} s for: {what}")
        time.sleep(every)


def listening(path):
    """Whether something accepts connections on this unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Case:
    """The context that a test function gets as its one argument."""

    def __init__(self, name, need_bytes=2 << 30):
        self.name = name
        safe = "".join(c if c.isalnum() else "-" for c in name)[:40]
        self.dir = Path(tempfile.mkdtemp(prefix=f"uraid-{safe}.", dir=scratch_root(need_bytes)))
        self.unmounts = []
        # Directories of daemons that outlive this test, whose logs are kept with its own.
        self.also_logs = []
        self._undo = contextlib.ExitStack()
        self._undo.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self.log = open(self.dir / "test.log", "a", encoding="utf-8", buffering=1)

    def defer(self, action, *args):
        """Runs `action` when the test ends, last in first out, whatever happened."""
        self._undo.callback(action, *args)

    def close(self, keep_logs_in=None):
        """Keeps the logs if asked, then undoes everything."""
        self.log.close()
        if keep_logs_in is not None:
            keep_logs_in.mkdir(parents=True, exist_ok=True)
            for place in (self.dir, *self.also_logs):
                for log in place.rglob("*.log"):
                    shutil.copy(log, keep_logs_in / "-".join(log.relative_to(place.parent).parts[place == self.dir:]))
        self._undo.close()

    def part(self, name):
        """The same test, at work in a directory of its own within this one's."""
        part = copy.copy(self)
        part.dir = self.dir / name
        part.dir.mkdir()
        return part

    def say(self, text):
        """A line for the log of this test."""
        self.log.write(text + "\n")

    def check(self, truth, text):
        """Fails the test with `text` unless `truth`."""
        if not truth:
            raise Failed(text)

    def run(self, *argv, ok=(0,), timeout=120, **options):
        """Runs a command to its end, logs what it printed, and fails unless its code is among `ok`.

        `ok=None` takes any code. Returns the `CompletedProcess` with text in stdout and stderr.
        """
        argv = [str(a) for a in argv]
        self.say("$ " + " ".join(argv))
        try:
            done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=timeout, **options)
        except subprocess.TimeoutExpired as late:
            raise Failed(f"`{' '.join(argv)}` did not end within {timeout} s") from late
        self.say(done.stdout[-8000:] + done.stderr[-8000:] + f"-> {done.returncode}")
        if ok is not None and done.returncode not in ok:
            tail = (done.stderr.strip() or done.stdout.strip())[-600:]
            raise Failed(f"`{' '.join(argv)}` ended with {done.returncode}: {tail}")
        return done

    def daemon(self, label, *argv, stdout=subprocess.DEVNULL):
        """Starts a process whose stderr goes to LABEL.log; it is killed at the end if it still runs."""
        argv = [str(a) for a in argv]
        self.say("$ " + " ".join(argv) + " &")
        with open(self.dir / f"{label}.log", "ab") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stdout, stderr=log)
        self.defer(reap, process)
        return process


def reap(process, seconds=10):
    """Ends a process for certain: asks first, then kills."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
