"""Bad-block logs between uraid and the kernel: what one of them records the other one leaves out and clears."""

import os
import random
import struct

from harness import mdlayout, uml
from harness.array import Array
from harness.badmember import BadMember
from harness.case import need

from test_clients import export_sha

MEMBERS = 4
CHUNK = 64 << 10
# The blocks that are bad: the second and third of the fourth chunk row of member 1.
AT, LENGTH = 3 * CHUNK + 4096, 8192
ROW = (MEMBERS - 1) * CHUNK
# A read would have the kernel rewrite what it is told here, since no write has failed; the log is written with the next
# update of the superblock.
RECORD = """
mdadm --create /dev/md0 --run --level=5 -n 4 -c 64 --bitmap=none --assume-clean {devices}
dd if=/usr/bin/qemu-io of=/dev/md0 bs=64k count=16 conv=notrunc,fsync
dd if=/usr/bin/qemu-io of=/dev/md0 bs=64k seek=60 count=1 conv=notrunc,fsync
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
offset=$(cat /sys/block/md0/md/dev-ubdb/offset)
echo "$((offset + {sector})) {sectors}" > /sys/block/md0/md/dev-ubdb/bad_blocks
dd if=/usr/bin/qemu-io of=/dev/md0 bs=64k seek=60 count=1 conv=notrunc,fsync
mdadm --stop /dev/md0
mdadm --examine-badblocks /dev/ubdb
"""
LOOK = """
mdadm --examine-badblocks /dev/ubdb || true
mdadm --assemble --run /dev/md0 {devices}
echo "kernel $(cat /sys/block/md0/md/dev-ubdb/bad_blocks | tr '\\n' ';')"
echo "offset $(cat /sys/block/md0/md/dev-ubdb/offset)"
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
echo check > /sys/block/md0/md/sync_action
while [ "$(cat /sys/block/md0/md/sync_action)" != idle ]; do :; done
echo "mismatch_cnt $(cat /sys/block/md0/md/mismatch_cnt)"
dd if=/usr/bin/qemu-io of=/dev/md0 bs={row} seek=3 count=1 conv=notrunc,fsync
echo "after $(cat /sys/block/md0/md/dev-ubdb/bad_blocks | tr '\\n' ';')"
echo "new $(sha256sum < /dev/md0 | cut -d' ' -f1)"
mdadm --stop /dev/md0
"""
# A hundred bad blocks are two sectors of the log.
MANY = 100
RECORD_MANY = """
mdadm --create /dev/md0 --run --level=5 -n 4 -c 64 --bitmap=none --assume-clean {devices}
dd if=/usr/bin/qemu-io of=/dev/md0 bs=64k count=60 conv=notrunc,fsync
offset=$(cat /sys/block/md0/md/dev-ubdb/offset)
i=0
while [ $i -lt {many} ]; do
    echo "$((offset + i * 16)) 8" > /sys/block/md0/md/dev-ubdb/bad_blocks
    i=$((i + 1))
done
dd if=/usr/bin/qemu-io of=/dev/md0 bs=64k seek=120 count=1 conv=notrunc,fsync
mdadm --stop /dev/md0
"""


def devices():
    """All members in the guest."""
    return " ".join(uml.device_names(MEMBERS))


def blank_members(t):
    """An array that is not made yet."""
    array = Array(t, 5, MEMBERS, create=False)
    for member in array.members:
        t.run("truncate", "-s", "24M", member)
    return array


def bad_bytes(array, role):
    """What status says of a member's log."""
    return next(m for m in array.status().value["members"] if m["role"] == role)["bad_bytes"]


def bad_block_log(file):
    """Where a member's bad-block log is, in bytes from the start of the device, and its entries."""
    with open(file, "rb") as f:
        place, raw = mdlayout.find_superblock(file, f)
        start = place + struct.unpack_from("<i", raw, 188)[0] * 512
        f.seek(start)
        entries = struct.unpack("<512Q", f.read(4096))
    return start, list(entries[: entries.index((1 << 64) - 1)])


def write_row(array, row, byte):
    """Writes a whole chunk row."""
    import nbd
    handle = nbd.NBD()
    handle.connect_uri(array.uri)
    handle.pwrite(bytes([byte]) * ROW, row * ROW)
    handle.flush()
    handle.shutdown()


def test_what_the_kernel_records_is_left_out_and_cleared(t):
    need("linux.uml", "mdadm", "nbdcopy")
    array = blank_members(t)
    output = uml.run(t, RECORD.format(devices=devices(), sector=AT // 512, sectors=LENGTH // 512), array.members)
    sha = uml.facts(output)["sha"]
    offset = mdlayout.read_superblock(array.members[1]).data_offset * 512
    t.check(f"{(offset + AT) // 512} for {LENGTH // 512} sectors" in output, f"the kernel recorded nothing: {output}")
    # What is there is not what was written.
    with open(array.members[1], "r+b") as f:
        os.pwrite(f.fileno(), b"\xee" * LENGTH, offset + AT)
    array.serve()
    t.check(bad_bytes(array, 1) == LENGTH, f"status says {bad_bytes(array, 1)} bad bytes")
    t.check(export_sha(t, array.uri) == sha, "bad blocks are read")
    array.stop()
    array.serve()
    t.check(bad_bytes(array, 1) == LENGTH, "reading alone has cleared the log")
    write_row(array, 3, 0x5a)
    sha = export_sha(t, array.uri)
    array.stop()
    said = uml.facts(uml.run(t, LOOK.format(devices=devices(), row=ROW), array.members))
    t.check(said["kernel"] == "" and said["sha"] == sha and said["mismatch_cnt"] == "0", f"the kernel says {said}")


def test_what_we_record_is_left_out_and_cleared_by_the_kernel(t):
    need("linux.uml", "mdadm", "nbdcopy")
    array = Array(t, 5, MEMBERS, size="24M", options=("--bitmap", "none", "--assume-clean"))
    file = array.members[1]
    offset = mdlayout.read_superblock(file).data_offset * 512
    bad = BadMember(t, file, offset + AT, offset + AT + LENGTH, writes=True)
    array.members[1] = bad.path
    array.serve()
    for row in range(8):
        write_row(array, row, row + 1)
    bad.break_it()
    write_row(array, 3, 0x77)
    t.check(array.status().degraded == 0, "the member was failed")
    t.check(bad_bytes(array, 1) == LENGTH, f"{bad_bytes(array, 1)} bad bytes are recorded")
    sha = export_sha(t, array.uri)
    array.stop()
    array.members[1] = file
    output = uml.run(t, LOOK.format(devices=devices(), row=ROW), array.members)
    said = uml.facts(output)
    t.check(f"{(offset + AT) // 512} for {LENGTH // 512} sectors" in output, f"mdadm does not see our log: {output}")
    t.check(said["kernel"].strip(";") == f"{(offset + AT) // 512} {LENGTH // 512}", f"the kernel reads {said['kernel']}")
    t.check(said["sha"] == sha and said["mismatch_cnt"] == "0" and said["after"] == "", f"the kernel says {said}")
    array.serve()
    t.check(bad_bytes(array, 1) == 0, "the kernel has cleared what is still shown")
    t.check(export_sha(t, array.uri) == said["new"], "other bytes than the kernel wrote")
    array.stop()


def test_the_kernel_reads_our_log_of_several_sectors(t):
    need("linux.uml", "mdadm", "nbdcopy")
    array = blank_members(t)
    uml.run(t, RECORD_MANY.format(devices=devices(), many=MANY), array.members)
    file = array.members[1]
    start = mdlayout.read_superblock(file).data_offset
    array.serve()
    t.check(bad_bytes(array, 1) == MANY * 4096, f"status says {bad_bytes(array, 1)} bad bytes")
    # A chunk row holds eight of them. What follows in the log stays where it is.
    for row in (1, 4, 5):
        write_row(array, row, row)
    t.check(bad_bytes(array, 1) == (MANY - 24) * 4096, f"{bad_bytes(array, 1)} bytes are left")
    sha = export_sha(t, array.uri)
    array.stop()
    left = [start + i * 16 for i in range(MANY) if i // 8 not in (1, 4, 5)]
    place, used = bad_block_log(file)
    t.check({entry >> 10 for entry in used} == set(left), f"the log lists {used}")
    t.check(len(used) > len(left), "nothing is listed twice, and so this shows nothing")
    # Out of order as well, as after a rebuild that found some of them late.
    random.Random(6).shuffle(used)
    with open(file, "r+b") as f:
        os.pwrite(f.fileno(), struct.pack(f"<{len(used)}Q", *used), place)
    said = uml.facts(uml.run(t, LOOK.format(devices=devices(), row=ROW), array.members))
    theirs = [int(line.split()[0]) for line in said["kernel"].strip(";").split(";")]
    t.check(theirs == left, f"the kernel reads {said['kernel']}")
    t.check(said["sha"] == sha and said["mismatch_cnt"] == "0", f"the kernel says {said}")
