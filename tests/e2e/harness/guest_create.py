#!/usr/bin/env python3
"""What runs in the guest kernel to see that `uraid create` puts everything where `mdadm --create` puts it.

    guest_create.py URAID

Members are loop devices over sparse files of many sizes in memory. Prints a line a case and ends with 0 if all
agree. Superblocks are compared byte by byte, but for what is random or counts: see IGNORED.
"""

import os
import struct
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.guestlib import check, run  # noqa: E402

WORK = Path("/run/create")
MIB, GIB = 1 << 20, 1 << 30
# Bytes of the superblock that differ between two arrays made alike: set_uuid, ctime, device_uuid, utime, events (one
# of ours begins at 1, and the kernel has updated its own by now) and the checksum over all of it.
IGNORED = [(16, 32), (64, 72), (168, 184), (192, 208), (216, 220)]
# Version, size, chunk in KiB, bitmap (None: what each takes by itself). What mdadm chose for many more stands in a
# table of md-format's tests; here the whole of both is compared.
CASES = [("1.0", 33 * MIB + 3584, "64", "internal"), ("1.1", 9 * GIB + 12288, "4", "none"),
         ("1.2", 130 * GIB, "512", None)]


def superblock_at(metadata, size):
    """The byte at which the superblock begins."""
    return {"1.1": 0, "1.2": 4096, "1.0": ((size // 512 - 16) & ~7) * 512}[metadata]


def read(path, offset, length):
    """Bytes of a file."""
    with open(path, "rb") as file:
        return os.pread(file.fileno(), length, offset)


class Member:
    """What one member has: its superblock without what differs anyway, its bad-block log, its bitmap."""

    def __init__(self, path, metadata, size):
        at = superblock_at(metadata, size)
        block = bytearray(read(path, at, 512))
        check(block[:4] == b"\xfc\x4e\x2b\xa9", f"{path}: no superblock at {at}")
        features, = struct.unpack_from("<I", block, 8)
        used, = struct.unpack_from("<Q", block, 80)
        offset, = struct.unpack_from("<i", block, 96)
        log, = struct.unpack_from("<i", block, 188)
        self.log = read(path, at + log * 512, 4096)
        self.bitmap = None
        if features & 1:
            head = bytearray(read(path, at + offset * 512, 256))
            chunk, = struct.unpack_from("<I", head, 52)
            # Its uuid and the two counts of events.
            head[8:40] = bytes(32)
            bits = -(-used * 512 // chunk)
            self.bitmap = bytes(head), bits
        for first, last in IGNORED:
            block[first:last] = bytes(last - first)
        self.block = bytes(block)


class Devices:
    """Three loop devices of a size."""

    def __init__(self, size):
        self.size, self.files = size, [WORK / f"m{i}" for i in range(3)]
        for file in self.files:
            file.unlink(missing_ok=True)
            with open(file, "wb") as made:
                made.truncate(size)
        self.loops = [run("losetup", "--show", "-f", file).stdout.strip() for file in self.files]

    def close(self):
        """Lets go of them."""
        for loop in self.loops:
            run("losetup", "-d", loop)


def theirs(size, metadata, chunk, bitmap):
    """What mdadm makes and the kernel leaves when it is stopped at once."""
    devices = Devices(size)
    option = [f"--bitmap={bitmap}"] if bitmap else []
    run("mdadm", "--create", "/dev/md0", "--run", "--assume-clean", "--force", "-e", metadata, "-l5", "-n3",
        "-c", chunk, "--homehost=here", "--name=tank", *option, *devices.loops)
    run("mdadm", "--stop", "/dev/md0")
    members = [Member(file, metadata, size) for file in devices.files]
    devices.close()
    return members


def ours(uraid, size, metadata, chunk, bitmap):
    """What uraid makes; what mdadm says of it."""
    devices = Devices(size)
    option = ["--bitmap", bitmap] if bitmap else []
    run(uraid, "create", "--force", "--assume-clean", "--level", "5", "--chunk", f"{chunk}K", "--metadata", metadata,
        "--homehost", "here", "--name", "tank", *option, *devices.loops)
    members = [Member(file, metadata, size) for file in devices.files]
    said = run("mdadm", "--examine", "--homehost=here", devices.loops[0]).stdout
    check("Name : here:tank  (local to host here)" in said, said)
    if members[0].bitmap:
        said, bits = run("mdadm", "--examine-bitmap", devices.loops[0]).stdout, members[0].bitmap[1]
        check(f"{bits} bits (chunks), {bits} dirty (100.0%)" in said, said)
    # The kernel takes it.
    run("mdadm", "--assemble", "/dev/md0", *devices.loops)
    check(Path("/sys/block/md0/md/degraded").read_text().strip() == "0", "the kernel misses a member")
    run("mdadm", "--stop", "/dev/md0")
    devices.close()
    return members


def compare(what, mine, mdadms):
    """Fails at the first byte that differs."""
    for one, other in zip(mine, mdadms):
        different = [at for at in range(512) if one.block[at] != other.block[at]]
        check(not different, f"{what}: bytes {different} of the superblock: {[one.block[a] for a in different]} "
              f"ours, {[other.block[a] for a in different]} theirs")
        # mdadm leaves there what was there, as no feature bit says that it counts; ours is an empty log.
        check(one.log == b"\xff" * 4096, f"{what}: the bad-block log is not empty")
        check(one.bitmap == other.bitmap, f"{what}: bitmaps: {one.bitmap} ours, {other.bitmap} theirs")


def main():
    """Entry point."""
    uraid = sys.argv[1]
    WORK.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300M", "none", WORK], check=True)
    for metadata, size, chunk, bitmap in CASES:
        what = f"{size} bytes, {metadata}, chunk {chunk}K, bitmap {bitmap or 'by default'}"
        compare(what, ours(uraid, size, metadata, chunk, bitmap), theirs(size, metadata, chunk, bitmap))
        print("case", what, "agrees", flush=True)
    print("agree", len(CASES), flush=True)


if __name__ == "__main__":
    os.environ["MDADM_NO_UDEV"] = "1"
    main()
