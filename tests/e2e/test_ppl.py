"""Partial parity logs: what a kernel left after a crash is replayed by us, and what we leave is replayed by the kernel."""

import shutil

from harness import goldens, stamps, uml
from harness.array import Array
from harness.case import need, until

from test_clients import export_sha

MADE = ["r5_n4_ls_c64k_ppl_clean", "r5_n4_ls_c64k_dirty_ppl", "r5_n4_ls_c64k_crash_ppl"]

# The kernel replays the logs when it assembles; then it compares all parity, unless a member is missing.
REPLAY = """
mdadm --assemble --run /dev/md0 {devices}
mdadm --readwrite /dev/md0 || true
if [ "$(cat /sys/block/md0/md/degraded)" = 0 ]; then
  echo check > /sys/block/md0/md/sync_action
  while [ "$(cat /sys/block/md0/md/sync_action)" != idle ]; do :; done
fi
echo "mismatch_cnt $(cat /sys/block/md0/md/mismatch_cnt)"
echo "degraded $(cat /sys/block/md0/md/degraded)"
echo "sha $(sha256sum < /dev/md0 | cut -d' ' -f1)"
dmesg | grep -i -e ppl -e resync -e reconstruction || true
mdadm --stop /dev/md0
"""


def case_of(name):
    return next(c for c in goldens.cases() if c["name"] == name)


def without(members, lost):
    return [member for role, member in enumerate(members) if role not in lost]


def test_what_the_kernel_logged_is_replayed(t, name):
    """Whole and without each member that the manifest names; a dirty and degraded array needs no force."""
    case = case_of(name)
    for check in (c for c in case["checks"] if c["kind"] == "content"):
        lost = check.get("missing", [])
        array = Array(t, 5, 4, create=False)
        array.members = goldens.unpack(t, case)
        array.serve(members=without(array.members, lost))
        t.check(export_sha(t, array.uri) == check["sha256"], f"{name} without {lost}: other bytes")
        until("the start to be over", lambda: array.status().sync is None)
        array.stop()
        if not lost:
            need("linux.uml", "mdadm")
            script = uml.ASSEMBLE_AND_CHECK.format(devices=" ".join(uml.device_names(4)))
            said = uml.facts(uml.run(t, script, array.members))
            t.check(said["sha"] == check["sha256"] and said["mismatch_cnt"] == "0", f"{name}: the kernel says {said}")


CREATE = """
mdadm --create --run /dev/md0 --level=5 -n4 -c 64 --assume-clean --bitmap=none --consistency-policy=ppl {devices}
mdadm --stop /dev/md0
"""


def verify(t, array, ledger, lost):
    """No flushed write is lost. Of a lost member, blocks that were being written may be neither old nor new."""
    def open_block(sector):
        return any(ledger.issued.get(s, 0) > ledger.safe.get(s, 0) for s in range(sector & ~7, (sector | 7) + 1))

    complaints = stamps.verify(array.uri, ledger)
    if lost:
        complaints = [c for c in complaints if not open_block(int(c.split()[1]))]
    t.check(not complaints, f"{len(complaints)} complaints, the first: {complaints[:1]}")


def test_the_kernel_replays_what_we_logged(t, lost):
    """Killed under random writes, assembled by the kernel, which checks all parity; no flushed write is lost."""
    need("linux.uml", "mdadm")
    array = Array(t, 5, 4, create=False)
    for member in array.members:
        t.run("truncate", "-s", "16M", member)
    uml.run(t, CREATE.format(devices=" ".join(uml.device_names(4))), array.members)
    array.serve()
    running = stamps.Load(array.uri, 16 << 11, 11)
    until("some writes", lambda: running.ledger.writes >= 150)
    array.kill()
    running.join()
    killed = [shutil.copy(member, member.with_suffix(".killed")) for member in array.members]
    left = without(array.members, lost)
    said = uml.run(t, REPLAY.format(devices=" ".join(uml.device_names(len(left)))), left)
    facts = uml.facts(said)
    t.check(facts["degraded"] == str(len(lost)) and facts["mismatch_cnt"] == "0", f"the kernel says {facts}")
    if lost:
        t.check("starting dirty degraded array with PPL" in said, "the kernel does not speak of the log")
    array.serve(members=left)
    t.check(export_sha(t, array.uri) == facts["sha"], "we read other bytes than the kernel")
    verify(t, array, running.ledger, lost)
    array.stop()
    # The same by ourselves.
    for copy, member in zip(killed, array.members):
        shutil.copy(copy, member)
    array.serve(members=left)
    t.check(export_sha(t, array.uri) == facts["sha"], "our own replay gives other bytes than the kernel's")
    verify(t, array, running.ledger, lost)
    array.stop()


test_what_the_kernel_logged_is_replayed.each = [(name,) for name in MADE]
test_the_kernel_replays_what_we_logged.each = [([],), ([0],), ([2],)]
