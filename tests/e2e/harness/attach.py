"""An NBD export as a block device of this host, without a kernel nbd module: nbdfuse, then a loop device.

nbdfuse shows the export as a file; the loop driver makes that file a block device. Undone in reverse
order at the end of the test, also when it failed half way.
"""

import os
import subprocess

from .case import Failed, need, reap, until


def as_block_device(t, uri):
    """Attaches `uri`; returns (block device, function that detaches it)."""
    need("nbdfuse", "losetup", "fusermount3")
    if not os.path.exists("/dev/fuse"):
        raise Failed("/dev/fuse is missing: load the fuse module, or run where FUSE is allowed")
    mountpoint = t.dir / "nbdfuse"
    mountpoint.mkdir(exist_ok=True)
    image = mountpoint / "nbd"
    fuse = t.daemon("nbdfuse", "nbdfuse", image, uri)

    def unmount():
        if os.path.ismount(mountpoint):
            subprocess.run(["fusermount3", "-u", "-z", str(mountpoint)], check=False, capture_output=True)
        reap(fuse)

    t.defer(unmount)
    until("nbdfuse to show the export", lambda: fuse.poll() is not None or is_file(image))
    t.check(fuse.poll() is None, "nbdfuse ended at once; see nbdfuse.log")
    device = t.run("losetup", "--find", "--show", "--direct-io=on", image).stdout.strip()
    attached = [True]

    def detach():
        if attached:
            attached.clear()
            subprocess.run(["losetup", "-d", device], check=False, capture_output=True)
            unmount()

    t.defer(detach)
    return device, detach


def is_file(path):
    """Whether the path can be looked at and is a regular file."""
    try:
        return path.is_file()
    except OSError:
        return False


def mount(t, device, options="defaults"):
    """Mounts `device` in the test's directory; returns (mount point, function that unmounts it)."""
    point = t.dir / "mnt"
    point.mkdir(exist_ok=True)
    t.run("mount", "-o", options, device, point)

    def unmount():
        if os.path.ismount(point):
            t.run("umount", point, timeout=300)

    def unmount_whatever():
        if os.path.ismount(point):
            subprocess.run(["umount", "-l", str(point)], check=False, capture_output=True)

    t.defer(unmount_whatever)
    return point, unmount
