"""uraid's turn of one array: the daemon on this host, its control socket and one NBD connection."""

import json
import os
import signal
import subprocess
import time

from harness.array import first_line, tail
from harness.case import URAID, Failed, until
from harness.manager import control

STEP = 1 << 20
# Room for the longest request, and little else: a daemon is started thousands of times.
CONFIG = """members = {members}
listen = ["unix:{socket}"]
control = "{control}"
[cache]
stripes_bytes = "8MiB"
request_bytes = "64MiB"
[sync]
stripes_in_flight = {in_flight}
"""


class Refused(Exception):
    """uraid does not take this array, and says why."""


class Daemon:
    """`uraid serve` of these members; ends with the turn."""

    def __init__(self, t, members, in_flight=8):
        self.t, self.nbd = t, None
        self.socket, self.control = t.dir / "nbd.sock", t.dir / "control.sock"
        config = t.dir / "served.toml"
        config.write_text(CONFIG.format(members=json.dumps([str(m) for m in members]), socket=self.socket,
                                        control=self.control, in_flight=in_flight))
        self.socket.unlink(missing_ok=True)
        with open(t.dir / "uraid.log", "ab") as log:
            log.write(f"--- serve {' '.join(m.name for m in members)}\n".encode())
            self.process = subprocess.Popen([URAID, "serve", config], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE, stderr=log)
        if not first_line(self.process, 60):
            self.kill()
            raise Refused(tail(t.dir / "uraid.log", 3))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def ask(self, command, **more):
        """A command on the control socket; fails when it is refused."""
        reply = control(self.control, command, 60, **more)
        if "ok" not in reply:
            raise Failed(f"`{command}` was refused: {reply}")
        return reply["ok"]

    def status(self):
        """What `uraid status --json` shows."""
        return self.ask("status")["status"]

    def settled(self, degraded=0):
        """Waits until so many members are missing and nothing is synced any more."""
        def reached():
            status = self.status()
            return status["degraded"] == degraded and status["sync"] is None
        until(f"{degraded} missing and no sync", reached, 60, 0.002)

    def fail(self, member):
        """Declares a member failed, and waits until the array says so."""
        before = self.status()["degraded"]
        self.ask("fail", member=str(member))
        until("the array to be degraded", lambda: self.status()["degraded"] > before, 30, 0.002)

    def add(self, member):
        """Gives the array a member."""
        self.ask("add", member=str(member))

    @property
    def client(self):
        """The NBD connection, made when it is needed."""
        if self.nbd is None:
            import nbd
            self.nbd = nbd.NBD()
            self.nbd.connect_unix(str(self.socket))
        return self.nbd

    def size(self):
        """Bytes of the volume."""
        return self.client.get_size()

    def read(self):
        """Every byte of the volume."""
        size, whole = self.size(), bytearray()
        for at in range(0, size, STEP):
            whole += self.client.pread(min(STEP, size - at), at)
        return whole

    def write(self, writes, pool):
        """Does writes, and a flush."""
        for at, length, source in writes:
            self.client.pwrite(pool[source:source + length], at)
        self.client.flush()

    def stop(self):
        """A clean stop."""
        if self.nbd is not None:
            self.nbd.shutdown()
            self.nbd = None
        self.ask("stop")
        code = self.process.wait(60)
        self.process.stdout.close()
        self.t.check(code == 0, f"uraid ended with {code}: {tail(self.t.dir / 'uraid.log')}")

    def kill(self):
        """kill -9."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if not self.process.stdout.closed:
            self.process.stdout.close()
        self.nbd = None


def crash(daemon, groups, stamped, draw, flushed, others=()):
    """Writes `flushed` groups with a flush behind each, then kills the daemon somewhere in the next one: at any moment
    of the time that a group takes. The requests of a group are in flight together. `others` are killed with it."""
    import nbd
    spans = []
    for _ in range(flushed):
        group = ready(next(groups), stamped)
        began = time.monotonic()
        send(daemon.client, group)
        daemon.client.flush()
        spans.append(time.monotonic() - began)
    delay = draw.random() * 1.1 * min(spans, default=0.002)
    client, group = daemon.client, ready(next(groups), stamped)
    killer = killer_of([daemon.process.pid, *others], delay)
    try:
        send(client, group)
        client.flush()
    except nbd.Error:
        pass  # the server is gone, as it should be
    os.waitpid(killer, 0)
    daemon.kill()


def killer_of(victims, delay):
    """A process that kills others after so many seconds, beginning now. A thread would have to wait for its turn."""
    ready, said = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(said, b".")
            time.sleep(delay)
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
        finally:
            os._exit(0)
    os.read(ready, 1)
    os.close(ready)
    os.close(said)
    return child


def ready(group, stamped):
    """The writes of a group as buffers: making them takes longer than the daemon needs to write them."""
    import nbd
    return [(nbd.Buffer.from_bytearray(bytearray(stamped(*write))), write[1] * 512) for write in group]


def send(client, group):
    """Has all writes of a group in flight, and waits for their answers."""
    for buffer, at in group:
        client.aio_pwrite(buffer, at)
    while client.aio_in_flight():
        client.poll(-1)
