"""One array of the kernel's md in the guest: mdadm for what mdadm is for, sysfs and ioctls for the rest.

Whatever has to wait is a generator that yields until it may go on, so that the waits of many arrays overlap.
"""

import fcntl
import mmap
import os
import subprocess
import time
from pathlib import Path

LOOP_SET_FD, LOOP_CLR_FD, LOOP_CTL_GET_FREE, BLKFLSBUF, STOP_ARRAY = 0x4C00, 0x4C01, 0x4C82, 0x1261, 0x932
SECTOR, STEP = 512, 1 << 20
PATIENCE = 90


class Trouble(Exception):
    """Something in the guest is not as it has to be."""


def run(*argv):
    """Runs a command to its end and returns what it printed; fails with what it said."""
    done = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Trouble(f"{' '.join(map(str, argv))}: {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def until(what, condition):
    """Yields until the condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Trouble(f"waited {PATIENCE} s for: {what}")
        yield


def loop(path):
    """A loop device over a file."""
    with open("/dev/loop-control", "rb", buffering=0) as control:
        node = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
    device, file = os.open(node, os.O_RDWR), os.open(path, os.O_RDWR)
    try:
        fcntl.ioctl(device, LOOP_SET_FD, file)
    finally:
        os.close(device)
        os.close(file)
    return node


def release(node):
    """Takes a loop device off its file, after what was written to it is there."""
    device = os.open(node, os.O_RDWR)
    try:
        os.fsync(device)
        fcntl.ioctl(device, LOOP_CLR_FD, 0)
    finally:
        os.close(device)


class Md:
    """/dev/mdN over loop devices over member files."""

    def __init__(self, number):
        self.node, self.sys = f"/dev/md{number}", Path(f"/sys/block/md{number}/md")
        self.loops = {}
        self.buffer = mmap.mmap(-1, STEP)

    def device(self, path):
        """The loop device of a member file."""
        if path not in self.loops:
            self.loops[path] = loop(path)
        return self.loops[path]

    def get(self, name):
        """An attribute of the array. In as few system calls as can be: each costs many microseconds in this kernel."""
        node = os.open(f"{self.sys}/{name}", os.O_RDONLY)
        try:
            return os.read(node, 4096).decode().strip()
        finally:
            os.close(node)

    def set(self, name, value):
        """Sets an attribute of the array."""
        (self.sys / name).write_text(str(value))

    def asked(self, name, value):
        """Sets an attribute unless the kernel is busy: it still is for a moment after a sync has ended."""
        try:
            self.set(name, value)
        except OSError:
            return False
        return True

    def size(self):
        """Bytes of the array."""
        return int((self.sys.parent / "size").read_text()) * SECTOR

    def create(self, cell, paths):
        """mdadm --create, with all that it does by itself."""
        level, layout = cell["level"], [] if cell["layout"] == "-" else [f"--layout={cell['layout']}"]
        bitmap = {"internal": ["--bitmap=internal", f"--bitmap-chunk={cell['bitmap_chunk'] >> 10}K"],
                  "none": ["--bitmap=none"], "ppl": ["--consistency-policy=ppl"]}[cell["bitmap"]]
        # 1.0 has its data at the start, and the room behind them.
        offset = [] if cell["metadata"] == "1.0" else [f"--data-offset={cell['beside'] >> 10}"]
        run("mdadm", "--create", self.node, "--run", f"--level={level}", *layout, f"--chunk={cell['chunk'] >> 10}",
            f"--raid-devices={len(paths)}", f"--metadata={cell['metadata']}", f"--size={cell['used'] >> 10}",
            *offset, *bitmap, *map(self.device, paths))
        self.set("safe_mode_delay", "0.01")

    def assemble(self, paths):
        """mdadm --assemble --run of these member files, in any order."""
        run("mdadm", "--assemble", "--run", self.node, *map(self.device, paths))
        self.set("safe_mode_delay", "0.01")

    def settled(self, degraded=0):
        """Waits until so many members are missing and nothing is synced any more."""
        yield from until(f"{degraded} missing and no sync", lambda: (
            int(self.get("degraded")) == degraded and self.get("resync_start") == "none"
            and self.get("sync_action") == "idle"))

    def clean(self):
        """Waits until the superblocks say clean."""
        yield from until("a clean array", lambda: self.get("array_state") in ("clean", "readonly"))

    def check(self):
        """Has the kernel compare all parity; returns how many sectors do not match."""
        yield from until("a check to be let in", lambda: self.asked("sync_action", "check"))
        yield from until("the end of the check", lambda: self.get("sync_action") == "idle")
        if self.get("last_sync_action") != "check":
            raise Trouble(f"the check did not run: the last action is {self.get('last_sync_action')}")
        return int(self.get("mismatch_cnt"))

    def write(self, writes, pool):
        """Does writes past the page cache, and a flush."""
        node = os.open(self.node, os.O_WRONLY | os.O_DIRECT)
        try:
            for at, length, source in writes:
                self.buffer[:length] = pool[source:source + length]
                if os.pwrite(node, memoryview(self.buffer)[:length], at) != length:
                    raise Trouble(f"a short write at {at}")
            os.fsync(node)
        finally:
            os.close(node)

    def read(self, take):
        """Hands the whole array to `take`, a piece at a time, past the page cache."""
        node, at, size = os.open(self.node, os.O_RDONLY | os.O_DIRECT), 0, self.size()
        try:
            while at < size:
                got = os.preadv(node, [self.buffer], at)
                if got <= 0:
                    raise Trouble(f"a short read at {at}")
                take(memoryview(self.buffer)[:got])
                at += got
        finally:
            os.close(node)

    def fail(self, path):
        """Declares a member failed and takes it out."""
        name = os.path.basename(self.device(path))
        self.set(f"dev-{name}/state", "faulty")
        yield from until("the failed member to be let go", lambda: self.removed(name))

    def removed(self, name):
        """Whether a failed member is out; the kernel says busy while it is still used."""
        try:
            if (self.sys / f"dev-{name}").exists():
                self.set(f"dev-{name}/state", "remove")
        except OSError:
            return False
        return not (self.sys / f"dev-{name}").exists()

    def add(self, path, how="--add"):
        """mdadm --add or --re-add of a member file."""
        run("mdadm", self.node, how, self.device(path))

    def detail(self):
        """What mdadm --detail says."""
        return run("mdadm", "--detail", self.node)

    def stop(self):
        """mdadm --stop's ioctl, and the loop devices back."""
        node = os.open(self.node, os.O_RDWR)
        try:
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.ioctl(node, STOP_ARRAY, 0)
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise
                    yield
        finally:
            os.close(node)
        for device in self.loops.values():
            release(device)
        self.loops = {}
