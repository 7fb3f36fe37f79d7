#!/usr/bin/env python3
"""Makes the images of this directory anew: arrays whose metadata uraid only recognises, by mdadm and a real kernel.

    tests/foreign/make.py [NAME ...]

Needs linux.uml, mdadm and zstd (./dev setup). The images differ each time in their identities and times; what the
tests ask of them does not.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "e2e"))

from harness import uml  # noqa: E402
from harness.case import Case  # noqa: E402

# What is written to each array: compressible, and different in every 4 KiB block.
FILL = """
i=0
while [ $i -lt 64 ]; do printf "%4096s" "block $i of {name}"; i=$((i + 1)); done | dd of={device} bs=64k conv=fsync iflag=fullblock
echo "sha $(sha256sum < {device} | cut -d' ' -f1)"
"""

CONTAINER = """
export IMSM_NO_PLATFORM=1 IMSM_DEVNAME_AS_SERIAL=1
mkdir -p /dev/md
mdadm --create --run /dev/md/c -e {metadata} -n 3 /dev/ubda /dev/ubdb /dev/ubdc
timeout 30 mdadm --create --run /dev/md/v -l5 -n3 -c64 {where}
mdadm --wait /dev/md/v || true
""" + FILL + """
mdadm --wait-clean /dev/md/v || true
mdadm --stop /dev/md/v
mdadm --stop /dev/md/c
"""

V090 = """
mdadm --create --run --force /dev/md0 -e 0.90 -l5 -n3 -c64 /dev/ubda /dev/ubdb /dev/ubdc
mdadm --wait /dev/md0 || true
""" + FILL + """
mdadm --stop /dev/md0
"""

# Name: bytes of a member, script.
ARRAYS = {
    "v090": (4 << 20, V090.format(name="v090", device="/dev/md0")),
    "imsm": (8 << 20, CONTAINER.format(metadata="imsm", where="/dev/md/c", name="imsm", device="/dev/md/v")),
    # The format keeps 32 MiB at the end of a disk for itself.
    "ddf": (40 << 20, CONTAINER.format(metadata="ddf", where="/dev/md/c", name="ddf", device="/dev/md/v")),
}


def make(name):
    """One array: its members, compressed, and what the kernel read from it."""
    size, script = ARRAYS[name]
    case = Case(name)
    try:
        members = [case.dir / f"d{i}" for i in range(3)]
        for member in members:
            with open(member, "wb") as f:
                f.truncate(size)
        said = uml.facts(uml.run(case, script, members))
        home = HERE / name
        home.mkdir(exist_ok=True)
        for member in members:
            subprocess.run(["zstd", "-q", "-19", "--long=27", "-f", member, "-o", home / f"{member.name}.zst"], check=True)
        (home / "array.json").write_text(json.dumps({"bytes": size, "members": 3, "content_sha256": said["sha"]}) + "\n")
    finally:
        case.close()


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ARRAYS:
        make(wanted)
