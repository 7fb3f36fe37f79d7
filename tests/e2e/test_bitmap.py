"""Write-intent bitmaps between uraid and the kernel: who was away gets what it missed, whoever wrote the bits.

What a crash of either side leaves is tried by `./dev interop kills`, and cut by cut in core/uraid-core/tests.
"""

import re

from harness import mdlayout, stamps, uml
from harness.array import Array
from harness.case import URAID, need, until

from test_clients import export_sha

MEMBERS = 4
# Regions of 64 KiB, so that a few writes do not dirty all of the array. The kernel fails a member by hand.
CREATE = """
mdadm --create /dev/md0 --run --level=5 -n 4 -c 64 --bitmap=internal --bitmap-chunk=64K --assume-clean {devices}
dd if=/usr/bin/qemu-io of=/dev/md0 bs=64k count=16 conv=notrunc,fsync
mdadm --stop /dev/md0
"""
AWAY = """
mdadm --assemble --run /dev/md0 {left}
dd if=/usr/sbin/mdadm of=/dev/md0 bs=64k seek=9 count=4 conv=notrunc,fsync
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
mdadm --stop /dev/md0
"""
BACK = """
mdadm --assemble --run /dev/md0 {left}
mdadm --examine-bitmap {first} | grep dirty
mdadm /dev/md0 --re-add {one}
mdadm --wait /dev/md0 || true
echo "degraded $(cat /sys/block/md0/md/degraded)"
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
echo check > /sys/block/md0/md/sync_action
while [ "$(cat /sys/block/md0/md/sync_action)" != idle ]; do :; done
echo "mismatch_cnt $(cat /sys/block/md0/md/mismatch_cnt)"
mdadm --stop /dev/md0
"""


def kernel_made(t):
    """An array of the kernel's with a bitmap and some data."""
    need("linux.uml", "mdadm")
    array = Array(t, 5, MEMBERS, create=False)
    for member in array.members:
        t.run("truncate", "-s", "24M", member)
    uml.run(t, CREATE.format(devices=" ".join(uml.device_names(MEMBERS))), array.members)
    return array


def examine_bitmap(t, member):
    """What mdadm says of a member's bitmap; of a file it would read the start, so it gets a device."""
    need("losetup", "mdadm")
    device = t.run("losetup", "--find", "--show", "--read-only", member).stdout.strip()
    try:
        return t.run("mdadm", "--examine-bitmap", device).stdout
    finally:
        t.run("losetup", "--detach", device)


def whole(t, array):
    """The members agree with each other and nothing is left to be said about them."""
    report = mdlayout.check_parity(array.present())
    t.check(not report.bad, f"parity: {report}")
    for member in array.members:
        dirty = examine_bitmap(t, member)
        t.check(re.search(r", 0 dirty", dirty), f"{member.name}: bits are left: {dirty}")


def test_a_member_that_was_away_from_the_kernel_gets_what_it_missed(t):
    need("nbdcopy")
    array = kernel_made(t)
    left = [m for i, m in enumerate(array.members) if i != 1]
    said = uml.facts(uml.run(t, AWAY.format(left=" ".join(uml.device_names(3))), left))
    array.serve(members=left)
    told = array.ctl("add", array.members[1]).stdout
    t.check("was away" in told, f"nothing is said of its return: {told}")
    array.wait_rebuilt()
    status = array.status().value
    t.check(status["bitmap"]["region_bytes"] == 65536, f"status says {status['bitmap']}")
    written = next(m for m in status["members"] if m["role"] == 1)["operations"]
    copied = next(o for o in written if o["operation"] == "write")["bytes"]
    # Four writes of 64 KiB touch two or three rows, and a member has a strip of each.
    t.check(0 < copied <= 4 << 16, f"{copied} bytes were copied")
    t.check(export_sha(t, array.uri) == said["sha"], "other bytes than the kernel wrote")
    array.stop()
    whole(t, array)


def test_a_member_that_was_away_from_us_gets_what_it_missed_from_the_kernel(t):
    need("nbdcopy")
    array = kernel_made(t)
    array.serve()
    array.fail(1)
    running = stamps.Load(array.uri, 512, 3)
    until("some writes", lambda: running.ledger.writes >= 50)
    running.end()
    sha = export_sha(t, array.uri)
    array.stop()
    names = uml.device_names(MEMBERS)
    left = " ".join(n for i, n in enumerate(names) if i != 1)
    output = uml.run(t, BACK.format(left=left, first=names[0], one=names[1]), array.members)
    said = uml.facts(output)
    t.check("re-added" in output, f"the kernel does not take it back by the bitmap: {output}")
    dirty = int(re.search(r", (\d+) dirty", output).group(1))
    t.check(0 < dirty < 20, f"{dirty} bits are set")
    t.check(said["degraded"] == "0" and said["mismatch_cnt"] == "0" and said["sha"] == sha, f"the kernel says {said}")


def test_what_is_forced_is_filled_from_the_start(t):
    array = kernel_made(t)
    array.serve()
    array.fail(2)
    told = array.ctl("add", "--force", array.members[2]).stdout
    t.check("was away" not in told and "rebuild" in told, f"forced, and yet: {told}")
    array.wait_rebuilt()
    array.stop()
    whole(t, array)


def test_both_say_the_same_of_the_bitmap(t):
    array = kernel_made(t)
    array.serve()
    status = array.status().value["bitmap"]
    text = array.ctl("status").stdout
    array.kill()
    theirs = examine_bitmap(t, array.members[0])
    regions, dirty = map(int, re.search(r"Bitmap : (\d+) bits .*, (\d+) dirty", theirs).groups())
    t.check((status["regions"], status["dirty_regions"]) == (regions, dirty), f"{status}, and mdadm: {theirs}")
    t.check(f"{dirty} of {regions} regions dirty, 64K each" in text, f"status says {text}")
    t.run(URAID, "examine", array.members[0])


def test_signatures_in_the_data_of_a_member_that_comes_back_stay(t):
    need("nbdcopy", "mkswap", "wipefs")
    # With its superblock at the end a member begins with data: here with swap space, as its users have it.
    array = Array(t, 5, 3, options=["--assume-clean", "--metadata", "1.0", "--bitmap", "internal",
                                    "--bitmap-chunk", "64K"])
    content = t.dir / "content"
    t.run("truncate", "-s", "16M", content)
    t.run("mkswap", content)
    array.serve()
    t.run("nbdcopy", content, array.uri)
    until("all regions to be at rest", lambda: array.status().value["bitmap"]["dirty_regions"] == 0, 60)
    sha = export_sha(t, array.uri)
    array.fail(0)
    told = array.ctl("add", array.members[0]).stdout
    t.check("was away" in told, f"nothing is said of its return: {told}")
    array.wait_rebuilt()
    t.check(export_sha(t, array.uri) == sha, "what the members held is changed by their return")
    array.stop()
    array.serve(members=[array.members[0], array.members[2]])
    t.check(export_sha(t, array.uri) == sha, "parity is changed by the return of a member")
    array.stop()
