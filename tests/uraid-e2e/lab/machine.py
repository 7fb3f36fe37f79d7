"""A machine that boots, runs an administrator's commands, and loses its power when told to.

The kernel is user-mode Linux: a process on this host, one core, no KVM. Its disks are files. Commands go
in and come out on a serial line (guest/agent.py); a second line is for looking at a machine whose first
one is stuck. A power cut is a kill -9 of the kernel: what it had handed to its disks is there afterwards,
what was in its memory is gone.
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from harness.case import Failed, need
from harness.uml import on_one_core

MEMORY_MIB = 1024
SHARE = "/host"


class Result:
    """What a command in the guest printed, and its exit code."""

    def __init__(self, script, code, out, seconds, waited=0.0):
        self.script, self.code, self.out, self.seconds, self.waited = script, code, out, seconds, waited

    @property
    def slowness(self):
        """How many times longer it took than on a host with a core to spare, at least 1."""
        return self.seconds / max(self.seconds - self.waited, self.seconds / 20)

    @property
    def text(self):
        """The output without the last newline."""
        return self.out.strip()


class Line:
    """One serial line, with the agent at its far end."""

    def __init__(self):
        self.near, self.far = socket.socketpair()
        self.buffer = b""
        self.live = None  # where output goes as it appears

    def _fill(self, end):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.near.settimeout(left)
        data = self.near.recv(65536)
        if not data:
            raise EOFError
        self.buffer += data

    def line(self, end):
        """The next line, without its end."""
        while b"\n" not in self.buffer:
            self._fill(end)
        head, self.buffer = self.buffer.split(b"\n", 1)
        return head.decode(errors="replace").strip()

    def take(self, count, end):
        """Exactly `count` bytes."""
        while len(self.buffer) < count:
            self._fill(end)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def wait_ready(self, seconds):
        """Waits for the agent; returns the boot's id and its uptime in seconds."""
        end = time.monotonic() + seconds
        while True:
            words = self.line(end).split()
            if len(words) == 3 and words[0] == "ready":
                return words[1], float(words[2])

    def job(self, script, seconds):
        """Runs a script; returns (code, output). Raises TimeoutError with what came so far in `self.partial`."""
        data = script.encode()
        self.near.settimeout(seconds)
        self.near.sendall(f"{len(data)}\n".encode() + data)
        end = time.monotonic() + seconds
        self.partial = b""
        while True:
            words = self.line(end).split()
            if len(words) == 2 and words[0] == "out":
                self.partial += self.take(int(words[1]), end)
            elif len(words) == 2 and words[0] == "exit":
                return int(words[1]), self.partial.decode(errors="replace")


class Machine:
    """One machine with its disks. `say` gets a line for the log for everything that is done to it."""

    def __init__(self, image, directory, say):
        need("linux.uml", "setpriv", "taskset")
        self.image, self.dir, self.say = image, Path(directory), say
        self.share = self.dir / "share"
        self.share.mkdir(parents=True)
        self.disks = []
        self.process = None
        self.boots = 0
        self.console = self.dir / "console.log"
        self.commands, self.looks = None, None

    def add_disk(self, name, mib):
        """A disk for the next boot; returns its device in the guest."""
        path = self.dir / f"{name}.disk"
        with open(path, "wb") as out:
            out.truncate(mib << 20)
        self.disks.append(path)
        return f"/dev/ubd{chr(ord('a') + len(self.disks))}"

    def disk(self, device):
        """The file behind a device of the guest."""
        return self.disks[ord(device[-1]) - ord("b")]

    def running(self):
        """Whether the kernel runs."""
        return self.process is not None and self.process.poll() is None

    def boot(self, seconds=120):
        """Starts the machine; returns when its system is up. Returns the seconds it took."""
        started = time.monotonic()
        self.boots += 1
        self.commands, self.looks = Line(), Line()
        run = self.dir / "uml"
        run.mkdir(exist_ok=True)
        argv = ["setpriv", "--pdeathsig", "KILL", "linux.uml", f"mem={MEMORY_MIB}M", "root=/dev/ubda", "rw", "quiet", "security=none",
                "noreboot", "con=null", "con0=null,fd:1", "ssl=null",
                f"ssl1=fd:{self.commands.far.fileno()}", f"ssl2=fd:{self.looks.far.fileno()}",
                f"uml_dir={run}", "umid=e2e", f"ubd0={self.dir / 'root.cow'},{self.image}"]
        # d: no search for a header of copy-on-write in what the guest wrote; t: no discard.
        argv += [f"ubd{i}dt={disk}" for i, disk in enumerate(self.disks, 1)]
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) and free("/dev/shm") > (MEMORY_MIB + 256) << 20 else str(self.dir)
        with open(self.console, "ab") as console:
            console.write(f"--- boot {self.boots}\n".encode())
            console.flush()
            self.process = subprocess.Popen(on_one_core(argv), stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                            pass_fds=(self.commands.far.fileno(), self.looks.far.fileno()),
                                            env={**os.environ, "TMPDIR": memory}, start_new_session=True)
        self.commands.far.close()
        self.looks.far.close()
        for line in (self.commands, self.looks):
            self._talk("the boot", lambda line=line: line.wait_ready(seconds))
        self.sh(f"mount -t hostfs -o {self.share} none {SHARE}", log=False)
        self.sh("systemctl is-system-running --wait", ok=None, seconds=seconds)
        took = time.monotonic() - started
        self.say(f"boot {self.boots}: {took:.1f} s")
        return took

    def _talk(self, what, action):
        try:
            return action()
        except TimeoutError as late:
            raise Failed(f"{what}: no answer in time{self.look_round()}") from late
        except (EOFError, OSError) as gone:
            raise Failed(f"{what}: the machine went away; the console says: {self.console_tail(6)}") from gone

    def waited(self):
        """Seconds that the machine's processes were ready to run and the host had no core for them, so far."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # Behind the name come state, parent, process group.
                if int(stat.read_text().rpartition(")")[2].split()[2]) == self.process.pid:
                    total += sum(int(s.read_text().split()[1]) for s in stat.parent.glob("task/*/schedstat"))
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile
        return total / 1e9

    def sh(self, script, ok=(0,), seconds=60, log=True, timed=False):
        """Runs bash in the guest and returns its `Result`; fails unless its code is among `ok` (None: any).

        `timed` finds out how much of the time the host had no core for the machine.
        """
        if not self.running():
            raise Failed(f"the machine does not run; the console says: {self.console_tail(6)}")
        started, waited = time.monotonic(), self.waited() if timed else 0.0
        if log:
            self.say("# " + script.strip().replace("\n", "\n# "))
        try:
            code, out = self.commands.job(script, seconds)
        except TimeoutError as late:
            so_far = self.commands.partial.decode(errors="replace").strip()[-600:]
            self.say(so_far + "\n-> no end")
            raise Failed(f"`{short(script)}` did not end within {seconds} s; it said: {so_far or 'nothing'}") from late
        except (EOFError, OSError) as gone:
            raise Failed(f"`{short(script)}`: the machine went away; the console says: {self.console_tail(6)}") from gone
        took = time.monotonic() - started
        if log:
            self.say(out[-6000:].rstrip("\n") + f"\n-> {code} ({took:.1f} s)")
        if ok is not None and code not in ok:
            raise Failed(f"`{short(script)}` ended with {code}: {out.strip()[-600:] or 'and said nothing'}")
        return Result(script, code, out, took, self.waited() - waited if timed else 0.0)

    def look(self, script, seconds=30):
        """As `sh` on the second line, for a machine that may be stuck; never fails."""
        if not self.running():
            return "(the machine does not run)"
        try:
            return self.looks.job(script, seconds)[1]
        except (TimeoutError, EOFError, OSError):
            return "(no answer)"

    def look_round(self):
        """What a stuck machine is doing, for the log."""
        self.say("--- a look round\n" + self.look("systemctl list-jobs; systemctl --failed --no-legend; ps -eo pid,stat,wchan:24,args | tail -40; dmesg | tail -20"))
        return "; see the log"

    def power_cut(self):
        """The power fails, now."""
        self.say("power cut")
        self.kill()

    def kill(self):
        """Ends the kernel's processes."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.commands.near.close()
            self.looks.near.close()

    def shut_down(self, verb="poweroff", seconds=120):
        """A clean end of the system; returns the seconds it took."""
        started = time.monotonic()
        self.say(f"# systemctl {verb}")
        try:
            # It may be gone before it can answer.
            self.commands.job(f"systemctl --no-block {verb}", seconds)
        except (TimeoutError, EOFError, OSError):
            pass
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired as late:
            self.look_round()
            raise Failed(f"the machine was not off {seconds} s after systemctl {verb}; the console says: {self.console_tail(6)}") from late
        finally:
            self.kill()
        took = time.monotonic() - started
        self.say(f"{verb}: {took:.1f} s")
        return took

    def reboot(self):
        """systemctl reboot, and up again on the same disks; returns the seconds of both halves."""
        return self.shut_down("reboot"), self.boot()

    def console_tail(self, lines=40):
        """The end of what the kernel and systemd wrote on the console."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def short(script):
    """A script as one readable line."""
    line = " ; ".join(x.strip() for x in script.strip().splitlines())
    return line if len(line) < 120 else line[:117] + "..."


def free(place):
    """Free bytes of a file system."""
    at = os.statvfs(place)
    return at.f_bavail * at.f_frsize
