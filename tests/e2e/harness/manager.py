"""A stand-in for the service manager: it is told how a service is, and keeps its descriptors over restarts.

It does what systemd does for a unit with an fd store (sd_notify(3), sd_listen_fds(3)), and nothing else, so
that restarts can be tested where there is no systemd. Depends on no other part of the harness: it also runs
in the guest kernel.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

# Moves the descriptors that it was given to 3, 4, ... and becomes the program.
LAUNCHER = """
import fcntl, json, os, sys
fds, names, argv = json.loads(sys.argv[1])
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 500) for fd in fds]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number)
os.closerange(3 + len(high), 2000)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(names), LISTEN_PID=str(os.getpid()))
os.execv(argv[0], argv)
"""


class Manager:
    """One service, its fd store, and what it said."""

    def __init__(self, directory, argv, log):
        self.argv, self.log = [str(a) for a in argv], str(log)
        self.store, self.status, self.ready, self.process = [], "", False, None
        self.address = os.path.join(str(directory), "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.address)
        self.lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            text, control, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(4 * 253))
            fds = array.array("i")
            for level, kind, data in control:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(data[: len(data) - len(data) % 4])
            with self.lock:
                self._hear(dict(line.split("=", 1) for line in text.decode().splitlines() if "=" in line), list(fds))

    def _hear(self, said, fds):
        name = said.get("FDNAME", "stored")
        self.status = said.get("STATUS", self.status)
        self.ready |= said.get("READY") == "1"
        if said.get("FDSTORE") == "1":
            self.store += [(name, fd) for fd in fds]
            return
        if said.get("FDSTOREREMOVE") == "1":
            for kept in [kept for kept in self.store if kept[0] == name]:
                self.store.remove(kept)
                os.close(kept[1])
        for fd in fds:
            os.close(fd)

    def names(self):
        """The names of what is kept."""
        with self.lock:
            return sorted(name for name, _ in self.store)

    def start(self, *argv):
        """Starts the service with everything that is kept; other arguments than usual are for this start."""
        self.ready = False
        with self.lock:
            names, fds = [name for name, _ in self.store], [fd for _, fd in self.store]
        call = json.dumps([fds, names, [str(a) for a in argv] or self.argv])
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, call], pass_fds=fds, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=log, env={**os.environ, "NOTIFY_SOCKET": self.address})
        return self.process

    def wait_ready(self, seconds=60):
        """Waits until the service said that it is ready."""
        end = time.monotonic() + seconds
        while not self.ready:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended with {self.process.returncode}: {self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"the service was not ready within {seconds} s: {self.tail()}")
            time.sleep(0.01)

    def tail(self, count=6):
        """The last lines of its log."""
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return " | ".join(log.read().strip().splitlines()[-count:])

    def wait_end(self, seconds=90):
        """The exit code."""
        return self.process.wait(seconds)

    def kill(self):
        """kill -9, and its end."""
        self.process.kill()
        self.process.wait()

    def terminate(self):
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


def control(path, command, seconds=90, **more):
    """Asks a daemon on its control socket; returns the reply."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(seconds)
        line.connect(str(path))
        line.sendall((json.dumps({"version": 1, "command": command, **more}) + "\n").encode())
        with line.makefile("rb") as answers:
            return json.loads(answers.readline())
