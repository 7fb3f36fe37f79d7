#!/usr/bin/env python3
"""The file system of `disks.py`: `diskfs.py DIRECTORY MOUNTPOINT LOG` serves the files of DIRECTORY, and writes each write
and each flush to LOG before it is answered. It is killed to have the power fail.
"""

import os
import stat
import struct
import sys
from pathlib import Path

WRITE, FLUSH = 1, 2
# What it is, which file (by its place among the names), from which byte, how many bytes; those of a write follow.
RECORD = struct.Struct("<BBQI")


def serve(directory, mount, log):
    """The file system. One request at a time, so that the log has the order in which they were answered."""
    import fusepy

    names = sorted(os.listdir(directory))
    files = {f"/{n}": (i, os.open(Path(directory) / n, os.O_RDWR)) for i, n in enumerate(names)}
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)

    class Files(fusepy.Operations):
        """Only what is asked of a disk."""

        def init(self, path):
            print("ready", flush=True)

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path not in files:
                raise fusepy.FuseOSError(2)
            number, fd = files[path]
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_ino": number + 2, "st_size": os.fstat(fd).st_size}

        def read(self, path, size, offset, fh):
            return os.pread(files[path][1], size, offset)

        def write(self, path, data, offset, fh):
            number, fd = files[path]
            os.write(out, RECORD.pack(WRITE, number, offset, len(data)) + data)
            return os.pwrite(fd, data, offset)

        def fsync(self, path, datasync, fh):
            os.write(out, RECORD.pack(FLUSH, files[path][0], 0, 0))
            return 0

    fusepy.FUSE(Files(), str(mount), foreground=True, nothreads=True, direct_io=True, big_writes=True, use_ino=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
