"""A member that keeps a diary: every read, write and flush that reaches it, in order.

nbdkit's log filter writes it, and nbdfuse shows the export as the file that the array gets as a member.
A flush in the diary is an fsync that the daemon made.
"""

import os
import re
import subprocess

from .attach import is_file
from .case import Failed, need, reap, until


class LoggedMember:
    """`file` as `path`, with `diary()`."""

    def __init__(self, t, file, label):
        need("nbdfuse", "nbdkit", "fusermount3")
        if not os.path.exists("/dev/fuse"):
            raise Failed("/dev/fuse is missing: load the fuse module, or run where FUSE is allowed")
        mountpoint = t.dir / f"diary-{label}"
        mountpoint.mkdir()
        self.path, self._log = mountpoint / "nbd", t.dir / f"diary-{label}.log"
        fuse = t.daemon(f"fuse-{label}", "nbdfuse", self.path, "[", "nbdkit", "--exit-with-parent", "--filter=log", "file", file,
                        f"logfile={self._log}", "]")

        def unmount():
            if os.path.ismount(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False, capture_output=True)
            reap(fuse)

        t.defer(unmount)
        until("nbdfuse to show the member", lambda: fuse.poll() is not None or is_file(self.path))
        t.check(fuse.poll() is None, f"nbdfuse ended at once; see fuse-{label}.log")

    def diary(self):
        """The operations that have ended well, in order: ("Write", offset, length) or ("Flush", 0, 0)."""
        begun, done = {}, []
        for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines():
            start = re.search(r"connection=(\d+) (Write|Flush|Zero|Trim) id=(\d+)(?: offset=(\S+) count=(\S+))?", line)
            end = re.search(r"connection=(\d+) \.\.\.(Write|Flush|Zero|Trim) id=(\d+) return=0", line)
            if start:
                connection, name, number, offset, count = start.groups()
                begun[connection, number] = (name, int(offset or "0", 0), int(count or "0", 0))
            elif end:
                done.append(begun.pop((end[1], end[3])))
        return done
