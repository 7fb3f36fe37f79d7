"""A member that cannot read a part of itself, nor write it if so wished: a file behind FUSE, in which a range fails
with EIO on demand.

nbdkit's eval plugin serves the file and refuses what touches the range while a flag file exists;
nbdfuse shows that as a file again, which is what the array gets as its member.
"""

import os
import subprocess

from .attach import is_file
from .case import Failed, need, reap, until

REFUSE = """
if [ -e "{flag}" ] && [ $4 -lt {end} ] && [ $(($4 + $3)) -gt {start} ]; then echo "EIO a bad sector" >&2; exit 1; fi
"""
PREAD = """
dd if="{file}" iflag=skip_bytes,count_bytes,fullblock skip=$4 count=$3 bs=64k status=none
"""
PWRITE = 'dd of="{file}" oflag=seek_bytes conv=notrunc seek=$4 bs=64k iflag=fullblock status=none'


class BadMember:
    """`file` as `path`, of which the bytes `start` to `end` cannot be read after `break_it()`, and with `writes` not
    written either."""

    def __init__(self, t, file, start, end, writes=False):
        need("nbdfuse", "nbdkit", "fusermount3")
        if not os.path.exists("/dev/fuse"):
            raise Failed("/dev/fuse is missing: load the fuse module, or run where FUSE is allowed")
        mountpoint = t.dir / "bad"
        mountpoint.mkdir()
        self.path, self.flag = mountpoint / "nbd", t.dir / "bad.flag"
        words = {"file": file, "flag": self.flag, "start": start, "end": end}
        pread, pwrite = REFUSE + PREAD, REFUSE + PWRITE if writes else PWRITE
        fuse = t.daemon("badmember", "nbdfuse", self.path, "[", "nbdkit", "--exit-with-parent", "eval",
                        f"get_size=stat -c %s {file}", "pread=" + pread.format(**words), "pwrite=" + pwrite.format(**words), "]")

        def unmount():
            if os.path.ismount(mountpoint):
                subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False, capture_output=True)
            reap(fuse)

        t.defer(unmount)
        until("nbdfuse to show the member", lambda: fuse.poll() is not None or is_file(self.path))
        t.check(fuse.poll() is None, "nbdfuse ended at once; see badmember.log")

    def break_it(self):
        """From now on the range cannot be read; what the kernel has of it in its cache is dropped."""
        self.flag.touch()
        with open(self.path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
