"""Disks that lose power: members behind a FUSE file system (`diskfs.py`) that notes every write and every flush.

When it is killed, its log says what a disk with a volatile cache may hold: all that was written before its last flush,
and of what came later any part.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.array import tail

from .diskfs import FLUSH, RECORD

SECTOR = 512
SERVER = Path(__file__).with_name("diskfs.py")


class Disks:
    """The members of one array behind such a file system, until the power fails."""

    def __init__(self, t, members):
        self.t, self.members, self.mount, self.log = t, list(members), t.dir / "disks", t.dir / "disks.writes"
        self.live = t.dir / "live"
        for place in (self.mount, self.live):
            place.mkdir(exist_ok=True)
        for member in self.members:
            shutil.copyfile(member, self.live / member.name)
        self.paths = [self.mount / m.name for m in self.members]
        self.process = None

    def __enter__(self):
        with open(self.t.dir / "disks.log", "ab") as log:
            self.process = subprocess.Popen([sys.executable, "-B", SERVER, self.live, self.mount, self.log],
                                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        mounted = self.process.stdout.readline() == b"ready\n"
        self.t.check(mounted, f"the disks were not mounted (FUSE, fusermount and Python's fusepy are needed): {tail(self.t.dir / 'disks.log')}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        subprocess.run(["fusermount", "-u", "-z", self.mount], check=True)
        shutil.rmtree(self.live)

    def cut(self, draw):
        """Writes to the members what is on the disks after the power has failed; returns how many writes were lost,
        whole or in part."""
        lost = 0
        for member, (flushed, later) in zip(self.members, self.requests()):
            with open(member, "r+b") as file:
                for at, data in flushed:
                    os.pwrite(file.fileno(), data, at)
                kept = list(survivors(draw, later))
                for at, data in kept:
                    os.pwrite(file.fileno(), data, at)
                lost += sum(len(data) for _, data in kept) < sum(len(data) for _, data in later)
        self.log.unlink()
        return lost

    def requests(self):
        """Of each disk: the writes before its last flush, and those behind it."""
        disks = [([], []) for _ in self.members]
        names = sorted(m.name for m in self.members)
        place = {number: [m.name for m in self.members].index(name) for number, name in enumerate(names)}
        raw, at = self.log.read_bytes(), 0
        while at + RECORD.size <= len(raw):
            what, file, offset, length = RECORD.unpack_from(raw, at)
            at += RECORD.size
            flushed, later = disks[place[file]]
            if what == FLUSH:
                flushed += later
                later.clear()
            elif at + length > len(raw):
                break  # killed while it was noted, and so never answered
            else:
                later.append((offset, raw[at:at + length]))
                at += length
        return disks


def survivors(draw, writes):
    """What of some writes is on the disk: in each case all, nothing, the first few, any, or any sectors of any."""
    how = draw.choice(["all", "none", "first", "any", "any", "sectors", "sectors"])
    first = draw.randrange(len(writes) + 1)
    for number, (at, data) in enumerate(writes):
        if how == "sectors":
            yield from ((at + s, data[s:s + SECTOR]) for s in range(0, len(data), SECTOR) if draw.random() < 0.5)
        elif how == "all" or (how == "first" and number < first) or (how == "any" and draw.random() < 0.5):
            yield at, data
