"""Restarts that clients do not notice: the connections go from one process to the next."""

import json
import os
import socket
import subprocess
import time

from harness.array import Array, tail
from harness.case import URAID, listening, need, until
from harness.manager import Manager, control
from harness.rawnbd import Gone, Raw

HAND_OVERS = 20


class Service:
    """An array under the stand-in for a service manager."""

    def __init__(self, t, level=5, members=4, name="e2e", **more):
        self.t = t
        self.array = Array(t, level, members, **{"size": "48M", "name": name, **more})
        self.control, self.log = self.array.control, t.dir / "uraid.log"
        self.argv = [URAID, "serve", "--listen", f"unix:{self.array.socket}", "--control", self.control,
                     *self.array.members]
        self.manager = Manager(t.dir, self.argv, self.log)
        t.defer(self.end)
        self.start()

    def start(self):
        self.manager.start()
        self.manager.wait_ready()

    def end(self):
        if self.manager.process.poll() is None:
            self.manager.kill()

    def leave(self):
        """The old process's part of a restart."""
        reply = control(self.control, "hand_over")
        self.t.check("ok" in reply, f"no hand-over: {reply}; {tail(self.log)}")
        code = self.manager.wait_end()
        self.t.check(code == 0, f"after a hand-over the daemon ended with {code}: {tail(self.log)}")

    def restart(self):
        self.leave()
        self.start()

    def stop(self):
        # A process that was killed left parity to be resynced.
        until("parity to match", lambda: control(self.control, "status")["ok"]["status"]["sync"] is None)
        reply = control(self.control, "stop")
        self.t.check("clean" in reply.get("ok", {}).get("message", ""), f"no clean stop: {reply}")
        self.t.check(self.manager.wait_end() == 0, "the daemon did not end well")
        self.t.check(self.manager.names() == [], f"the store still keeps {self.manager.names()}")


class Client(Raw):
    """A client that asks one thing at a time, and is in transmission from the start."""

    def __init__(self, path):
        super().__init__(path, timeout=60)
        self.go()

    def is_closed(self):
        """Whether the server hangs up."""
        try:
            self.take(1)
        except Gone:
            return True
        return False


def fio(t, uri, seconds):
    """fio over NBD, writing and verifying for so long, in the background."""
    return subprocess.Popen(
        ["fio", "--name=restart", "--ioengine=nbd", f"--uri={uri}", "--rw=randrw", "--bsrange=4k-256k",
         "--bs_unaligned=0", "--blockalign=4k", "--size=64m", "--iodepth=32", "--verify=crc32c",
         "--verify_backlog=64", "--verify_fatal=1", "--time_based", f"--runtime={seconds}", "--output-format=json",
         f"--output={t.dir}/fio.json"],
        cwd=t.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_clients_survive_hand_overs_under_load(t):
    need("fio")
    service = Service(t)
    load = fio(t, service.array.uri, 60)
    t.defer(lambda: load.poll() is None and load.kill())
    until("fio to have written", lambda: written(service) > 16 << 20)
    longest = 0.0
    for round_ in range(HAND_OVERS):
        began = time.monotonic()
        service.restart()
        longest = max(longest, time.monotonic() - began)
        t.check(load.poll() is None, f"fio ended in round {round_}; see {t.dir}/fio.json")
        until("fio to go on", lambda: written(service) > 1 << 20)
        names = service.manager.names()
        t.check(names == [], f"the store keeps {names} while the service runs")
    output, _ = load.communicate(timeout=120)
    t.check(load.returncode == 0, f"fio failed: {output[-800:]}")
    job = json.loads((t.dir / "fio.json").read_text())["jobs"][0]
    t.check(job["error"] == 0 and job["write"]["total_ios"] > 0, f"fio reports errors: {job['error']}")
    t.say(f"{HAND_OVERS} hand-overs; the longest took {longest:.2f} s")
    print(f"       {HAND_OVERS} hand-overs, longest {longest:.2f} s", flush=True)
    service.stop()


def written(service):
    """Bytes written since this process began."""
    return control(service.control, "status")["ok"]["status"]["counters"]["written_bytes"]


def test_copies_go_on_over_hand_overs(t):
    need("nbdcopy", "nbdinfo")
    service = Service(t, 6, 5)
    image = t.dir / "image"
    image.write_bytes(pattern(96 << 20))
    for source, target in ((image, service.array.uri), (service.array.uri, t.dir / "back")):
        copy = subprocess.Popen(["nbdcopy", "--requests=16", str(source), str(target)], stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        for _ in range(4):
            service.restart()
        output, _ = copy.communicate(timeout=120)
        t.check(copy.returncode == 0, f"nbdcopy failed: {output[-500:]}")
    t.run("cmp", "-n", str(96 << 20), image, t.dir / "back")
    service.stop()


def pattern(count):
    """Bytes that repeat nowhere near a block's length."""
    piece = bytes((i * 7 + i // 251) % 256 for i in range(65521))
    return (piece * (count // len(piece) + 1))[:count]


def test_a_client_that_comes_while_nobody_serves_waits(t):
    service = Service(t)
    service.leave()
    t.check(service.array.socket.exists(), "the socket's file is gone")
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(60)
        early.connect(str(service.array.socket))
        service.start()
        t.check(early.recv(8) == b"NBDMAGIC", "the client that came early was not greeted")
    service.stop()


def test_a_start_that_fails_loses_no_client(t):
    service = Service(t)
    client = Client(service.array.socket)
    client.write(4096, b"a" * 4096)
    service.leave()
    for broken in ([URAID, "serve", "/nonexistent.toml"], [*service.argv[:-3]]):
        service.manager.start(*broken)
        t.check(service.manager.wait_end() != 0, "a start that cannot work worked")
    service.start()
    t.check(client.read(4096, 4096) == b"a" * 4096, "the client reads something else")
    service.stop()


def test_a_restart_takes_no_force(t):
    """A member is lost before the resync has come to its end. Nobody starts that without force, but for whoever goes
    on with it."""
    service = Service(t, size="1G")
    Client(service.array.socket).write(0, b"a" * 4096)
    service.manager.kill()
    service.start()
    client = Client(service.array.socket)
    client.write(4096, b"a" * 4096)
    reply = control(service.control, "fail", member=str(service.array.members[1]))
    t.check("ok" in reply, f"{reply}")
    client.write(8192, b"b" * 4096)
    service.leave()
    other = ["--listen", f"unix:{t.dir}/other.sock", "--control", t.dir / "other.control"]
    refused = t.run(URAID, "serve", *other, *service.array.members, ok=(1,))
    t.check("start with force" in refused.stderr, f"it is refused for another reason: {refused.stderr[-300:]}")
    service.start()
    t.check(client.read(4096, 8192) == b"a" * 4096 + b"b" * 4096, "the client reads something else")
    t.check(control(service.control, "status")["ok"]["status"]["degraded"] == 1, "it is not degraded")
    service.stop()


def test_what_another_array_left_is_not_used(t):
    service = Service(t)
    client = Client(service.array.socket)
    client.write(0, b"a" * 512)
    service.leave()
    other = Array(t.part("other"), 5, 3, size="48M", name="other")
    argv = [URAID, "serve", "--listen", f"unix:{other.socket}", "--control", other.control, *other.members]
    service.manager.start(*argv)
    service.manager.wait_ready()
    t.check(client.is_closed(), "a connection of another array is still open")
    t.check(service.manager.names() == [], f"the store still keeps {service.manager.names()}")
    reply = control(other.control, "stop")
    t.check("ok" in reply and service.manager.wait_end() == 0, f"no good end: {reply}")


def test_a_state_that_is_not_used_keeps_no_start_from_working(t):
    """Cut off, used by a process that crashed then, of another version: as after a crash, at the same addresses."""
    service = Service(t)
    spoilers = (lambda fd: os.ftruncate(fd, 100), lambda fd: os.pwrite(fd, b"USED", 16), lambda fd: os.pwrite(fd, b"\x77", 20))
    for number, spoil in enumerate(spoilers):
        client = Client(service.array.socket)
        client.write(512 * number, bytes([65 + number]) * 512)
        service.leave()
        spoil(dict(service.manager.store)["state"])
        service.start()
        t.check(client.is_closed(), f"a connection is gone on with after {number}")
        t.check(service.manager.names() == [], f"the store still keeps {service.manager.names()}")
    with Client(service.array.socket) as last:
        t.check(last.read(0, 1536) == b"A" * 512 + b"B" * 512 + b"C" * 512, "what was answered is lost")
    service.stop()


def test_a_process_that_is_killed_leaves_nothing_that_is_believed(t):
    service = Service(t)
    first = Client(service.array.socket)
    service.restart()
    first.write(0, b"b" * 512)
    service.manager.kill()
    t.check(service.manager.names() == [], f"the store keeps {service.manager.names()}")
    t.check(first.is_closed(), "the connection of a process that was killed is still open")
    service.start()
    second = Client(service.array.socket)
    t.check(second.read(0, 512) == b"b" * 512, "what was answered is lost")
    second.sock.close()
    service.stop()


def test_without_a_service_manager_there_is_no_hand_over(t):
    array = Array(t, 5, 3)
    array.serve()
    reply = control(array.control, "hand_over")
    t.check(reply.get("error", {}).get("code") == "refused", f"not refused: {reply}")
    t.check(listening(array.socket), "the daemon does not serve any more")
    array.stop()
