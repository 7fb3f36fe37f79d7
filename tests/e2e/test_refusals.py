"""Arrays that are not served are named, refused with what to do, and left alone; and what is advised works.

The advice is carried out by mdadm and a real kernel, on the array that was refused, and then uraid serves it.
"""

import json

from harness import goldens, uml
from harness.array import Array
from harness.case import REPO, need

from test_bad_input import refuse, refuse_serve
from test_clients import export_sha

FOREIGN = REPO / "tests" / "foreign"

# Array, and what the refusal says of it.
OTHER = [
    ("v090", ["version 0.90", "--assemble --update=metadata"]),
    ("imsm", ["imsm", "--assemble --scan", "copy what is on it"]),
    ("ddf", ["ddf", "--assemble --scan", "copy what is on it"]),
]
REFUSED = [
    ("r5_n4_ls_c64k_journal_wt_clean", ["journal", "mdadm --readwrite", "--fail journal --remove journal", "consistency_policy"]),
    ("r6_n5_ls_c64k_crash_journal_mixed", ["journal"]),
    ("r5_n4to5_ls_c64k_midreshape", ["reshape", "mdadm --readwrite", "mdadm --wait"]),
]

# A byte of the bitmap of every member, and what the refusal says. No mdadm that is at hand makes bitmaps of a cluster or
# without locks (with level 5 and 6 a cluster has none at all), so the version of a real one is changed.
BITMAPS = [
    ("magic", 0, 0x00, ["bitmap", "magic", "--update=no-bitmap"]),
    ("cluster", 4, 5, ["bitmap", "cluster"]),
    ("lockless", 4, 6, ["bitmap", "lockless", "6.18", "do not take the bitmap away"]),
]

WITHOUT_JOURNAL = """
mdadm --assemble /dev/md0 {devices}
mdadm --readwrite /dev/md0
mdadm /dev/md0 --fail /dev/ubde --remove /dev/ubde
echo resync > /sys/block/md0/md/consistency_policy
mdadm --stop /dev/md0
"""

# What is advised, by array, in a guest whose disks are its members in the order of the manifest.
ADVISED = {
    "v090": """
mdadm --assemble --update=metadata /dev/md0 {devices}
mdadm --stop /dev/md0
""",
    "r5_n4_ls_c64k_journal_wt_clean": WITHOUT_JOURNAL,
    # What it holds is nowhere else.
    "r5_n4_ls_c64k_journal_wb_live": WITHOUT_JOURNAL,
    "r5_n4to5_ls_c64k_midreshape": """
mdadm --assemble /dev/md0 {devices}
mdadm --readwrite /dev/md0
mdadm --wait /dev/md0 || true
mdadm --stop /dev/md0
""",
    "r6_n4_ls_c64k_bitmap": """
mdadm --assemble --update=no-bitmap /dev/md0 {devices}
mdadm --stop /dev/md0
""",
}

READ_BACK = """
mdadm --assemble /dev/md0 {devices}
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
echo "old $(head -c {bytes} /dev/md0 | sha256sum | cut -d' ' -f1)"
mdadm --stop /dev/md0
"""


def unpacked(t, name):
    """The members of an array of tests/foreign or tests/golden, and the sha256 and length of its content."""
    if (FOREIGN / name).is_dir():
        need("zstd")
        said = json.loads((FOREIGN / name / "array.json").read_text())
        members = [t.dir / f"{name}-{i}.img" for i in range(said["members"])]
        for i, member in enumerate(members):
            t.run("zstd", "-q", "-d", "-f", FOREIGN / name / f"d{i}.zst", "-o", member)
        return members, said["content_sha256"], None
    case = next(c for c in goldens.cases() if c["name"] == name)
    return goldens.unpack(t, case), case["content_sha256"], case["array_bytes"]


def test_other_metadata_is_named_and_refused(t, name, words):
    members, _, _ = unpacked(t, name)
    array = Array(t, 5, len(members), create=False)
    refuse_serve(t, array, members, words)
    refuse(t, ["examine", members[0]], words)


def test_what_uraid_cannot_honour_is_refused_with_what_to_do(t, name, words):
    members, _, _ = unpacked(t, name)
    refuse_serve(t, Array(t, 5, len(members), create=False), members, words)


def test_a_bitmap_of_another_kind_is_refused(t, kind, at, value, words):
    """Where taking the bitmap away is safe it is advised, and works. (A kernel without md-cluster starts the array of a
    cluster, whose nodes may be writing to it.)"""
    need("linux.uml", "mdadm", "nbdcopy")
    members, content, _ = unpacked(t, "r6_n4_ls_c64k_bitmap")
    for member in members:
        with open(member, "r+b") as f:
            f.seek(16 * 512 + at)
            f.write(bytes([value]))
    array = Array(t, 6, len(members), create=False)
    refuse_serve(t, array, members, words)
    devices = " ".join(uml.device_names(len(members)))
    said = uml.run(t, f"mdadm --assemble /dev/md0 {devices} || echo refused by the kernel", members)
    t.check("refused by the kernel" in said or kind == "cluster", f"the kernel starts it: {said}")
    if "--update=no-bitmap" in words:
        uml.run(t, ADVISED["r6_n4_ls_c64k_bitmap"].format(devices=devices), members)
        array.members = members
        array.serve()
        t.check(export_sha(t, array.uri) == content, "uraid reads other bytes")
        array.stop()


def test_what_is_advised_works(t, name):
    """The commands of the advice, then uraid reads what the kernel read before."""
    need("linux.uml", "mdadm", "nbdcopy")
    members, content, length = unpacked(t, name)
    devices = " ".join(uml.device_names(len(members)))
    script = ADVISED[name].format(devices=devices) + READ_BACK.format(devices=devices, bytes=length or 1 << 40)
    said = uml.facts(uml.run(t, script, members))
    t.check(said["old"] == content, f"the kernel reads other bytes afterwards: {said}")
    array = Array(t, 5, len(members), create=False)
    array.members = members
    array.serve()
    t.check(export_sha(t, array.uri) == said["sha"], "uraid reads other bytes than the kernel")
    array.stop()


test_other_metadata_is_named_and_refused.each = OTHER
test_what_uraid_cannot_honour_is_refused_with_what_to_do.each = REFUSED
test_a_bitmap_of_another_kind_is_refused.each = BITMAPS
test_what_is_advised_works.each = [(name,) for name in ADVISED]
