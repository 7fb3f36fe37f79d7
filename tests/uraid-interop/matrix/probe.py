"""Whether uraid takes arrays with a write-intent bitmap: found out by giving it one."""

from harness.case import URAID, Case, Failed
from harness.array import tail
from harness.uml import Guest

from .daemon import Daemon, Refused

CREATE = """
modprobe -d {out} loop
mkdir -p /run/host
mount -t hostfs none /run/host -o {dir}
losetup /dev/loop0 /run/host/p0
losetup /dev/loop1 /run/host/p1
losetup /dev/loop2 /run/host/p2
mdadm --create /dev/md0 --run --level=5 --raid-devices=3 --assume-clean --bitmap=internal --data-offset=1024 \\
    /dev/loop0 /dev/loop1 /dev/loop2
mdadm --stop /dev/md0
losetup -D
"""


def bitmaps():
    """Why uraid does not take arrays with a bitmap, by starter; nothing where it does."""
    t, reasons = Case("interop-probe", 64 << 20), {}
    try:
        members = [t.dir / f"p{i}" for i in range(3)]
        for member in members:
            with open(member, "wb") as file:
                file.truncate(4 << 20)
        guest = Guest(t, CREATE.format(dir=t.dir, out="$(dirname \"$0\")"))
        guest.wait(60)
        try:
            with Daemon(t, members) as daemon:
                daemon.stop()
        except Refused as refused:
            reasons["kernel"] = str(refused)
        made = t.run(URAID, "create", "--level", 5, "--name", "probe", "--size", "4M", "--bitmap", "internal",
                     *[t.dir / f"q{i}" for i in range(3)], ok=None)
        if made.returncode != 0:
            reasons["uraid"] = made.stderr.strip().splitlines()[0] if made.stderr.strip() else f"exit code {made.returncode}"
        if any("bitmap" not in reason for reason in reasons.values()):
            raise Failed(f"uraid refuses an array with a bitmap, but not for its bitmap: {reasons}; {tail(t.dir / 'uraid.log')}")
        return reasons
    finally:
        t.close()
