"""Members that something else holds: the kernel's md, device-mapper, a mount, swap, a loop device, another uraid.
They are refused, the holder is named, and the commands that are named with it free them. While uraid serves, mdadm
does not get at a member."""

import subprocess
from pathlib import Path

from harness import uml
from harness.case import REPO, URAID, need

GUEST = REPO / "tests" / "e2e" / "harness" / "guest_handover.py"


def test_held_members_are_refused_by_the_name_of_the_holder(t):
    need("linux.uml", "mdadm", "dmsetup", "mkswap", "losetup", "mkfs.ext4", "python3")
    t.check(URAID.exists(), f"{URAID} is missing; run ./dev build")
    disks = [t.dir / f"disk{i}" for i in range(4)]
    for disk in disks:
        subprocess.run(["truncate", "-s", "64M", disk], check=True)
    modules = 'modprobe -d "$(dirname "$0")" -a loop dm-mod\n'
    script = modules + f"exec python3 -B {GUEST} {Path(URAID).resolve()} {' '.join(uml.device_names(4))}\n"
    facts = uml.facts(uml.run(t, script, disks, 280))
    t.check(facts["done"] == "yes" and facts["ignored"] == "yes", f"{facts}")
    said = facts["serve"]
    t.check("may be running elsewhere" in said and "`mdadm --stop /dev/md0`" in said, f"not what to do: {said}")
