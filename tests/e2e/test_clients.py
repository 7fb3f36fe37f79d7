"""Real NBD clients against every shape of array in every state: fio, nbdcopy, qemu-io, a file system.

One test is one array in one state. It ends with a clean stop, an independent parity check of the
member files, and a second start that must show the same bytes.
"""

import hashlib
import os
import subprocess

from harness import attach, mdlayout
from harness.array import SHAPES, Array, in_state, states
from harness.case import need

EVERY = [(level, n, state) for level, n in SHAPES for state in states(level)]


def fio_verify(t, uri, mode, span):
    """fio writes its own checksums through four connections and reads them back, mixed block sizes."""
    split = "512/10:1k/5:4k/40:16k/15:64k/15:256k/10:1m/5"
    t.run("fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", f"--rw={mode}", f"--bssplit={split}",
          "--bs_unaligned=0", "--blockalign=512", "--iodepth=16", "--numjobs=4", f"--size={span >> 20}m",
          f"--offset_increment={span >> 20}m", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1",
          "--randseed=4711", "--verify_state_save=0", "--fsync=64", f"--filesize={span >> 18}m", "--thread", "--group_reporting", "--minimal")


def nbdcopy_round_trip(t, uri, length):
    """A random image in, the same image out."""
    image, back = t.dir / "image", t.dir / "back"
    image.write_bytes(os.urandom(length))
    t.run("nbdcopy", "--connections=4", image, uri)
    t.run("nbdcopy", "--connections=4", uri, back)
    with open(back, "r+b") as f:
        f.truncate(length)
    t.run("cmp", image, back)
    image.unlink()
    back.unlink()


def qemu_io_round_trip(t, uri):
    """Patterns written, read and compared by qemu-io, aligned and not, with flush, FUA, zeroes and discard."""
    commands = ["write -P 0xa5 0 3M", "write -P 0x5a 65024 1k", "write -f -P 0x11 1049088 4608", "flush",
                "read -P 0xa5 0 65024", "read -P 0x5a 65024 1k", "read -P 0x11 1049088 4608",
                "write -z 2M 512k", "read -P 0 2M 512k", "read -P 0xa5 2560k 512k",
                "discard 1M 4k", "aio_write -P 0x77 3M 1M", "aio_write -P 0x78 4M 1M", "aio_flush",
                "read -P 0x77 3M 1M", "read -P 0x78 4M 1M"]
    argv = ["qemu-io", "-f", "raw", uri]
    for command in commands:
        argv += ["-c", command]
    done = t.run(*argv)
    t.check("Pattern verification failed" not in done.stdout, "qemu-io read back other bytes than it wrote")
    t.check("failed" not in done.stdout + done.stderr, f"qemu-io: {done.stdout} {done.stderr}")


def file_system(t, uri, make):
    """mkfs, a real tree copied in, compared, unmounted, checked."""
    device, detach = attach.as_block_device(t, uri)
    t.run(*make, device)
    point, unmount = attach.mount(t, device)
    t.run("cp", "-a", TREE, point / "tree")
    t.run("sync", "-f", point)
    t.run("diff", "-r", "--no-dereference", TREE, point / "tree")
    unmount()
    t.run(*(("fsck.ext4", "-f", "-n") if "ext4" in make[0] else ("xfs_repair", "-n")), device)
    detach()


def export_sha(t, uri):
    """sha256 of the whole export."""
    digest = hashlib.sha256()
    with subprocess.Popen(["nbdcopy", uri, "-"], stdout=subprocess.PIPE) as copy:
        while block := copy.stdout.read(1 << 20):
            digest.update(block)
    t.check(copy.returncode == 0, "nbdcopy could not read the export")
    return digest.hexdigest()


# A real tree of a few thousand small files that every machine able to run these tests has.
TREE = max((p for p in ("/usr/lib/python3", "/usr/share/perl", "/usr/share/doc/git") if os.path.isdir(p)),
           key=lambda p: len(os.listdir(p)), default="/usr/share")


def end_well(t, array):
    """Clean stop, parity on disk, and the same bytes after a restart."""
    before = export_sha(t, array.uri)
    array.stop()
    report = mdlayout.check_parity(array.present())
    t.check(not report.bad, f"parity on the members after a clean stop: {report}")
    left = [m for m in array.members if m.exists()]
    array.serve(members=left)
    t.check(export_sha(t, array.uri) == before, "after a restart the export holds other bytes")
    array.stop()


def test_fio_verify(t, level, n, state):
    need("fio", "nbdcopy")
    array = Array(t, level, n)
    array.serve()
    with in_state(array, state):
        fio_verify(t, array.uri, "randwrite", 16 << 20)
        fio_verify(t, array.uri, "write", 16 << 20)
    end_well(t, array)


def test_nbdcopy_and_qemu_io(t, level, n, state):
    need("nbdcopy", "qemu-io")
    array = Array(t, level, n)
    array.serve()
    with in_state(array, state):
        nbdcopy_round_trip(t, array.uri, 96 << 20)
        qemu_io_round_trip(t, array.uri)
    end_well(t, array)


def test_file_system(t, level, n, state):
    need("mkfs.ext4", "fsck.ext4", "nbdcopy")
    array = Array(t, level, n, size="128M")
    array.serve()
    with in_state(array, state):
        file_system(t, array.uri, ["mkfs.ext4", "-q", "-F"])
    end_well(t, array)


def test_xfs(t):
    need("mkfs.xfs", "xfs_repair", "nbdcopy")
    array = Array(t, 6, 6, size="128M")
    array.serve()
    with in_state(array, "rebuilding"):
        file_system(t, array.uri, ["mkfs.xfs", "-q", "-f"])
    end_well(t, array)


test_fio_verify.each = EVERY
test_nbdcopy_and_qemu_io.each = EVERY
test_file_system.each = EVERY
