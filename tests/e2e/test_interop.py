"""The Linux kernel and mdadm as judges: they read our arrays, we read theirs."""

import itertools

from harness import goldens, mdadm, stamps, uml
from harness.array import SHAPES, Array, parity_members
from harness.case import need

from test_clients import export_sha

LAYOUTS = [(5, 4, "left-symmetric"), (5, 4, "right-asymmetric"), (6, 5, "left-asymmetric"), (6, 5, "right-symmetric")]


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


def test_the_kernel_takes_our_array(t, level, n, layout):
    """Written over NBD, stopped, assembled by kernel md: same bytes, no mismatch, clean, then back again."""
    need("linux.uml", "mdadm", "nbdcopy")
    array = Array(t, level, n, chunk="16K", size="24M", options=("--layout", layout, "--assume-clean"))
    array.serve()
    running = stamps.Load(array.uri, 16 << 11, 5)
    running_until_enough(running)
    sha = export_sha(t, array.uri)
    array.stop()
    devices = " ".join(uml.device_names(n))
    said = uml.facts(uml.run(t, uml.ASSEMBLE_AND_CHECK.format(devices=devices), array.members))
    t.check(said["sha"] == sha, "the kernel reads other bytes")
    t.check(said["mismatch_cnt"] == "0" and said["degraded"] == "0", f"the kernel says {said}")
    wrote = uml.run(t, f"""
mdadm --assemble --run /dev/md0 {devices}
dd if=/usr/bin/qemu-io of=/dev/md0 bs=4k seek=100 conv=notrunc,fsync
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
mdadm --stop /dev/md0
""", array.members)
    array.serve()
    t.check(export_sha(t, array.uri) == uml.facts(wrote)["sha"], "we read other bytes than the kernel wrote")
    array.stop()


def test_the_kernel_takes_a_fresh_array(t, level, n):
    """Straight from `uraid create`, never served: the kernel finds nothing to complain about."""
    need("linux.uml", "mdadm")
    array = Array(t, level, n, size="16M")
    mdadm.agree(t, array.members, clean=True)
    said = uml.facts(uml.run(t, uml.ASSEMBLE_AND_CHECK.format(devices=" ".join(uml.device_names(n))), array.members))
    t.check(said["mismatch_cnt"] == "0" and said["degraded"] == "0" and said["state"] in ("clean", "active"), f"the kernel says {said}")


def running_until_enough(running, writes=200):
    """Lets a load run until it has written something worth comparing, then ends it."""
    from harness.case import until
    until("a few writes", lambda: running.ledger.writes >= writes)
    running.end()


def test_the_kernel_takes_our_degraded_array(t):
    need("linux.uml", "mdadm", "nbdcopy")
    array = Array(t, 6, 6, chunk="16K", size="24M")
    array.serve()
    running_until_enough(stamps.Load(array.uri, 16 << 11, 6))
    array.fail(2)
    running_until_enough(stamps.Load(array.uri, 16 << 11, 7))
    sha = export_sha(t, array.uri)
    array.stop()
    left = [m for i, m in enumerate(array.members) if i != 2]
    script = uml.ASSEMBLE_AND_CHECK.format(devices=" ".join(uml.device_names(5)))
    said = uml.facts(uml.run(t, script, left))
    t.check(said["sha"] == sha and said["degraded"] == "1", f"the kernel says {said}, we served {sha}")


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
test_the_kernel_takes_our_array.each = LAYOUTS
test_kernel_arrays_are_served_as_they_are.each = [(name,) for name in goldens.SAMPLE]
