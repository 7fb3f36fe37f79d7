"""The Linux kernel and mdadm as judges: they read our arrays, we read theirs. Arrays that go to and fro between them are in
tests/uraid-interop."""

import itertools

from harness import goldens, mdadm, stamps, uml
from harness.array import SHAPES, Array, parity_members
from harness.case import REPO, URAID, need

from test_clients import export_sha


def test_mdadm_examine_agrees(t, level, n):
    need("mdadm")
    array = Array(t, level, n)
    mdadm.agree(t, array.members, clean=True)
    array.serve()
    running = stamps.Load(array.uri, 8 << 11, 1)
    array.kill()
    running.join()
    mdadm.agree(t, array.members, clean=None)
    array.serve()
    array.wait_rebuilt()
    array.fail(0)
    array.stop()
    mdadm.agree(t, array.members[1:], clean=True)
    for theirs in mdadm.examine_theirs(t, *array.members[1:]):
        t.check(theirs["Array State"].startswith("."), "mdadm does not see role 0 as missing")


def test_the_kernel_takes_a_fresh_array(t, level, n):
    """Straight from `uraid create`, never served: the kernel finds nothing to complain about."""
    need("linux.uml", "mdadm")
    array = Array(t, level, n, size="16M")
    mdadm.agree(t, array.members, clean=True)
    said = uml.facts(uml.run(t, uml.ASSEMBLE_AND_CHECK.format(devices=" ".join(uml.device_names(n))), array.members))
    t.check(said["mismatch_cnt"] == "0" and said["degraded"] == "0" and said["state"] in ("clean", "active"), f"the kernel says {said}")


def test_kernel_arrays_are_served_as_they_are(t, name):
    """Each golden, whole and with every set of members left out that its parity covers."""
    case = next(c for c in goldens.cases() if c["name"] == name)
    n, lost_max = case["raid_disks"], parity_members(case["level"])
    sets = [s for k in range(lost_max + 1) for s in itertools.combinations(range(n), k)]
    for lost in sets:
        paths = goldens.unpack(t, case)
        array = Array(t, case["level"], n, create=False)
        array.members = paths
        left = [p for i, p in enumerate(paths) if i not in lost]
        array.serve(members=left)
        t.check(export_sha(t, array.uri) == case["content_sha256"], f"without roles {lost}: other bytes")
        array.stop()


test_mdadm_examine_agrees.each = SHAPES
test_the_kernel_takes_a_fresh_array.each = [(4, 4), *SHAPES]
test_kernel_arrays_are_served_as_they_are.each = [(name,) for name in goldens.SAMPLE + goldens.OTHER_SAMPLE]


def test_a_new_array_is_the_one_that_mdadm_makes(t):
    """Versions 1.0, 1.1 and 1.2, several sizes and chunks, with and without a bitmap: byte for byte."""
    need("linux.uml", "mdadm", "losetup", "python3")
    script = 'modprobe -d "$(dirname "$0")" loop\n'
    script += f"exec python3 -B {REPO}/tests/e2e/harness/guest_create.py {URAID.resolve()}\n"
    facts = uml.facts(uml.run(t, script, [], 280))
    t.check(facts["agree"] == "3", f"only {facts['agree']} arrays are alike")


# What may differ between a superblock that the kernel left at its stop and ours, by the first byte and the length of
# the field (md_p.h).
MAY_DIFFER = {
    "utime": (192, 8),      # the time of the stop
    "events": (200, 8),     # the kernel takes its count back when the array becomes clean; uraid counts every update
    "checksum": (216, 4),   # is over these two
}
# The same of a bitmap's superblock (md-bitmap.h).
BITMAP_MAY_DIFFER = {
    "events": (24, 8),          # those of the array when the bitmap was written last
    "events_cleared": (32, 8),  # those of the array when a bit was cleared last
}


def fields_that_differ(one, other, fields):
    """The names of `fields` that differ, and the offsets of other bytes that do."""
    named = {name for name, (at, length) in fields.items() if one[at:at + length] != other[at:at + length]}
    covered = {at + i for at, length in fields.values() for i in range(length)}
    return named, [at for at in range(len(one)) if one[at] != other[at] and at not in covered]


def test_a_clean_stop_leaves_what_the_kernel_leaves(t, level, n, bitmap):
    """Two copies of an array get the same writes, one from the kernel and one from uraid; then every byte of every
    member is the same, but for the fields that are listed."""
    need("linux.uml", "mdadm", "qemu-io")
    devices = " ".join(uml.device_names(n))
    kernels = [t.dir / f"k{i}" for i in range(n)]
    for member in kernels:
        t.run("truncate", "-s", "24M", member)
    uml.run(t, f"""
mdadm --create /dev/md0 --run --assume-clean --force -l{level} -n{n} -c 64 --bitmap={bitmap} --name=tank {devices}
head -c 4000000 /usr/bin/qemu-io | dd of=/dev/md0 bs=64k conv=fsync
mdadm --stop /dev/md0
""", kernels)
    array = Array(t, level, n, create=False)
    array.members = [t.dir / f"u{i}" for i in range(n)]
    for kernel, member in zip(kernels, array.members):
        t.run("cp", "--sparse=always", kernel, member)
    uml.run(t, f"""
mdadm --assemble /dev/md0 {devices}
head -c 307200 /dev/zero | tr '\\0' Z | dd of=/dev/md0 bs=4k seek=16 conv=notrunc,fsync
mdadm --stop /dev/md0
""", kernels)
    array.serve()
    t.run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 64k 300k", "-c", "flush", array.uri)
    array.stop()
    for role, (kernel, member) in enumerate(zip(kernels, array.members)):
        theirs, ours = bytearray(kernel.read_bytes()), bytearray(member.read_bytes())
        named, others = fields_that_differ(ours[4096:4608], theirs[4096:4608], MAY_DIFFER)
        t.check(not others, f"role {role}: bytes {others} of the superblock differ from the kernel's")
        t.say(f"role {role}: the superblock differs in {sorted(named)}")
        t.check(ours[4096 + 208:4096 + 216] == b"\xff" * 8, f"role {role}: not clean")
        if bitmap == "internal":
            named, others = fields_that_differ(ours[8192:12288], theirs[8192:12288], BITMAP_MAY_DIFFER)
            t.check(not others, f"role {role}: bytes {others} of the bitmap differ from the kernel's")
            t.say(f"role {role}: the bitmap differs in {sorted(named)}")
        for image in (theirs, ours):
            image[4096:4608] = bytes(512)
            if bitmap == "internal":
                image[8192:12288] = bytes(4096)
        t.check(ours == theirs, f"role {role}: data or parity differ from the kernel's")


test_a_clean_stop_leaves_what_the_kernel_leaves.each = [
    (5, 3, "none"), (6, 5, "none"), (5, 3, "internal"), (6, 5, "internal")]
