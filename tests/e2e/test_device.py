"""A volume as a block device of the machine, in a kernel with nbd: file systems on it live through restarts
and crashes of the daemon, and nobody loses the device that he uses."""

import os
import subprocess
from pathlib import Path

from harness import uml
from harness.case import REPO, URAID, need

GUEST = REPO / "tests" / "e2e" / "harness" / "guest.py"
# How often the daemon is restarted or killed; more for a longer look.
TIMES = int(os.environ.get("URAID_TEST_RESTARTS", "3"))


def guest(t, scenario, members=4, seconds=280):
    """Runs a scenario over blank disks in the guest; returns its `word value` lines."""
    need("linux.uml", "fio", "mkfs.ext4", "mkfs.xfs", "xfs_repair", "python3")
    t.check(URAID.exists(), f"{URAID} is missing; run ./dev build")
    disks = [t.dir / f"disk{i}" for i in range(members)]
    for disk in disks:
        subprocess.run(["truncate", "-s", "160M", disk], check=True)
    names = " ".join(uml.device_names(members))
    script = f'modprobe -d "$(dirname "$0")" nbd\nexec python3 -B {GUEST} {scenario} {Path(URAID).resolve()} {names}\n'
    facts = uml.facts(uml.run(t, script, disks, seconds))
    for disk in disks:
        done = t.run(URAID, "examine", disk)
        t.check("clean" in done.stdout, f"{disk} is not marked clean: {done.stdout[-300:]}")
    return facts


def test_restarts_under_load(t, filesystem):
    facts = guest(t, f"restart,{filesystem},{TIMES}")
    t.check(facts["clean"] == "yes" and facts["times"] == str(TIMES), f"{facts}")
    print(f"       {facts['times']} restarts, longest {facts['longest']} s", flush=True)


def test_crashes_under_load(t, filesystem):
    facts = guest(t, f"crash,{filesystem},{TIMES // 2}")
    t.check(facts["clean"] == "yes" and facts["times"] == str(TIMES // 2), f"{facts}")
    print(f"       {facts['times']} times killed, longest {facts['longest']} s", flush=True)


test_restarts_under_load.each = test_crashes_under_load.each = [("ext4",), ("xfs",)]


def test_a_used_device_is_not_taken_away(t):
    facts = guest(t, "hold")
    t.check(facts["refused"].startswith("1 ") and "/run/mnt" in facts["refused"], f"not refused: {facts}")
    t.check(facts["detached"] == "yes" and facts["kept"] == "yes" and facts["forced"] == "0", f"{facts}")
    t.check(facts["another"] == facts["kept_another"] == "/dev/nbd1", f"{facts}")


def test_odd_restarts(t):
    facts = guest(t, "odd")
    t.check(facts["own"].startswith("1 "), f"a member on the own device is taken: {facts}")
    t.check(facts["wanted"] == "/dev/nbd0" and facts["bad"] == "2", f"{facts}")
