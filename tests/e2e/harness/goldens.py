"""The arrays under tests/golden, which the Linux kernel made, unpacked for a test."""

import hashlib
import json

from .case import REPO, need

HOME = REPO / "tests" / "golden"


def cases():
    """Every golden array's description."""
    return json.loads((HOME / "manifest.json").read_text())["cases"]


# What is tried with the whole daemon; all of them are tried with the core (core/uraid-core/tests/golden).
SAMPLE = ["r5_n3_left_symmetric_c4k", "r4_n4_c4k", "r6_n4_left_symmetric_c4k", "r6_n6_left_symmetric_c4k",
          "r6_n5_ddf_N_continue_c4k"]

# The same for other versions of the metadata, and with a bitmap.
OTHER_SAMPLE = ["r5_n3_ls_c64k_meta10", "r5_n3_ls_c64k_meta11_bitmap", "r6_n4_ls_c64k_bitmap"]


def unpack(t, case):
    """Writes the members into the test's directory and returns their paths in role order, then those without a role."""
    need("zstd")
    paths = []
    for member in sorted(case["members"], key=lambda m: (isinstance(m["role"], str), m["role"])):
        path = t.dir / f"{case['name']}-{member['file']}.img"
        packed = HOME / case["name"] / f"{member['file']}.zst"
        t.run("zstd", "-q", "-d", "-f", "--long=27", packed, "-o", path)
        t.check(sha(path) == member["sha256"], f"{packed} is damaged")
        paths.append(path)
    return paths


def sha(path):
    """sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
