"""The Linux kernel and mdadm as judges: they read our arrays, we read theirs. Arrays that go to and fro between them are in
tests/uraid-interop."""

import itertools

from harness import goldens, mdadm, stamps, uml
from harness.array import SHAPES, Array, parity_members
from harness.case import need

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
